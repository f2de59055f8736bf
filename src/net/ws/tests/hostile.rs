//! Servers that break the rules: each is told how, and none costs more than its bound.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

/// Sends `bytes`, and expects the client to fail with `code`, to say `cause`, and to tell the server.
fn check_broken_rule(bytes: &[u8], expect: u16, says: &str) {
    for tls in [false, true] {
        let limits = WsLimits { message_bytes_max: 1 << 20, ..WsLimits::default() };
        let (mut client, mut peer) = pair_with(tls, &CancelToken::new(), limits);
        send(&mut *peer, bytes);
        let error = client.next(later()).expect_err("breaks a rule");
        assert!(matches!(&error, WsError::Protocol { code, cause, .. } if *code == expect && cause.contains(says)), "{says}: {error:?}");
        assert!(error.is_retryable());
        let (first, payload) = receive(&mut *peer);
        assert_eq!((first, &payload[..2]), (CLOSE, &expect.to_be_bytes()[..]), "{says}");
        assert!(matches!(client.next(later()), Err(WsError::Ended { .. })));
    }
}

#[test]
fn each_broken_rule_has_its_code() {
    check_broken_rule(&frame(TEXT, b"caf\xe9"), 1007, "UTF-8");
    check_broken_rule(&[frame(0x01, b"caf\xc3"), frame(0x80, b"x")].concat(), 1007, "UTF-8");
    check_broken_rule(&frame(0x83, b""), 1002, "unknown kind 3");
    check_broken_rule(&frame(0x8B, b""), 1002, "unknown kind 11");
    check_broken_rule(&frame(0xC1, b"deflated"), 1002, "reserved bits");
    check_broken_rule(&[TEXT, 0x81, 1, 2, 3, 4, 5], 1002, "masked");
    check_broken_rule(&frame(0x09, b""), 1002, "fragmented control");
    check_broken_rule(&frame(PING, &[0; 126]), 1002, "more than 125");
    check_broken_rule(&frame(0x80, b"x"), 1002, "continuation");
    check_broken_rule(&[frame(0x01, b"a"), frame(TEXT, b"b")].concat(), 1002, "within another");
    check_broken_rule(&frame(CLOSE, &[3]), 1002, "CLOSE");
}

#[test]
fn claims_and_sums_beyond_the_limit_are_refused_before_they_cost_anything() {
    let claim = |length: u64| [&[BINARY, 127][..], &length.to_be_bytes()].concat();
    check_broken_rule(&claim(1 << 40), 1009, "1099511627776 bytes");
    check_broken_rule(&claim(u64::MAX), 1009, "limit of 1048576");
    check_broken_rule(&claim((1 << 20) + 1), 1009, "1048577 bytes");
    let fragments: Vec<u8> = [frame(0x02, &[0; 0x8000]), frame(0x00, &[0; 0x8000]).repeat(40)].concat();
    check_broken_rule(&fragments, 1009, "limit of 1048576");
}

#[test]
fn a_flood_ends_at_the_deadline_and_at_a_cancel() {
    let floods: [Vec<u8>; 3] =
        [frame(PING, b"x"), [frame(0x00, b"").repeat(1000), frame(PONG, b"")].concat(), frame(0x00, b"")].map(|part| part.repeat(100));
    for flood in floods {
        let token = CancelToken::new();
        let (mut client, mut peer) = pair_with(false, &token, WsLimits::default());
        send(&mut *peer, &frame(0x02, b""));
        // Ends when its write fails or times out.
        std::thread::spawn(move || while peer.write_all(&flood).is_ok() {});
        let started = clock::now();
        assert_eq!(client.next(Deadline::after(ms(300))).expect("open"), WsEvent::Idle);
        assert!(started.elapsed() < ms(1500), "{:?}", started.elapsed());
        // A deadline that has passed does not mean that nothing is read at all.
        let before = client.frames.get_ref().received;
        assert_eq!(client.next(Deadline::after(Duration::ZERO)).expect("open"), WsEvent::Idle);
        assert!(client.frames.get_ref().received > before);
        let waiting = std::thread::spawn(move || client.next(later()));
        std::thread::sleep(ms(50));
        let cancelled = clock::now();
        token.cancel();
        assert!(waiting.join().expect("no panic").expect_err("cancelled").is_cancelled());
        assert!(cancelled.elapsed() < ms(200), "{:?}", cancelled.elapsed());
    }
}

#[test]
fn a_message_that_trickles_for_ever_is_given_up() {
    let (mut client, mut peer) = pair(false);
    send(&mut *peer, &frame(TEXT, b"hello")[..3]);
    assert!(drain(&mut client).is_empty());
    let began = client.partial_since.expect("a message has begun");
    client.partial_since = began.checked_sub(limits::WEBSOCKET_MESSAGE);
    std::thread::sleep(ms(5));
    send(&mut *peer, b"l");
    let error = client.next(later()).expect_err("too slow");
    assert!(matches!(&error, WsError::Net(NetError::Broken { cause, .. }) if cause.contains("did not end")), "{error:?}");
    // One that ends in time leaves no trace.
    let (mut client, mut peer) = pair(false);
    send(&mut *peer, &frame(TEXT, b"hello")[..3]);
    assert!(drain(&mut client).is_empty());
    send(&mut *peer, &frame(TEXT, b"hello")[3..]);
    assert_eq!(client.next(later()).expect("open"), text("hello"));
    assert_eq!(client.partial_since, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_bytes_are_harmless(
        frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect();
        bytes.extend(tail);
        let cut = cut.index(bytes.len() + 1);
        let (mut client, mut peer) = pair(false);
        let server = std::thread::spawn(move || {
            let _ = peer.write_all(&bytes[..cut]).and_then(|()| peer.write_all(&bytes[cut..]));
        });
        let patience = later();
        loop {
            prop_assert!(!patience.passed());
            match client.next(patience) {
                Ok(WsEvent::Idle) => return Err(TestCaseError::fail("the end was not seen")),
                Ok(WsEvent::Closed { .. }) | Err(_) => break,
                Ok(_) => {}
            }
        }
        server.join().expect("no panic");
    }
}
