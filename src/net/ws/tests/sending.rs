//! Sending to servers that read slowly, late or never.

use super::*;
use nix::sys::socket::{setsockopt, sockopt};

/// Small, but not smaller than a packet of the loopback interface: that would make it crawl.
const BUFFER: usize = 128 << 10;

/// The server's end, with small buffers, so that the client soon has to wait.
fn slow_pair(tls: bool, token: &CancelToken, limits: WsLimits) -> (WebSocket, Box<dyn Peer>) {
    let (sender, peers) = bounded::<Box<dyn Peer>>(1);
    let config = tls_config();
    let server = Server::raw(move |_, mut stream| {
        setsockopt(&stream, sockopt::RcvBuf, &BUFFER).expect("a socket");
        setsockopt(&stream, sockopt::SndBuf, &BUFFER).expect("a socket");
        if tls {
            let mut stream = tls_accept(&config, stream);
            let _ = accept(&mut stream).is_some() && sender.try_send(Box::new(stream)).is_ok();
        } else {
            let _ = accept(&mut stream).is_some() && sender.try_send(Box::new(stream)).is_ok();
        }
    });
    let client = open(&server.url(scheme(tls)), token, limits).expect("opens");
    (client, peers.recv_timeout(LONG).expect("is there"))
}

fn numbered(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(16 << 10)
}

#[test]
fn a_server_that_does_not_read_gives_an_error_and_later_everything_once() {
    for tls in [false, true] {
        let limits = WsLimits { unsent_bytes_max: 256 << 10, ..WsLimits::default() };
        let (mut client, mut peer) = slow_pair(tls, &CancelToken::new(), limits);
        // 10 MiB, of which the system takes some.
        let (mut number, started) = (0, clock::now());
        let error = loop {
            match client.send(WsMessage::Binary(numbered(number)), Deadline::after(ms(300))) {
                Ok(()) => number += 1,
                Err(error) => break error,
            }
            assert!(number < 160, "10 MiB were taken");
        };
        assert!(matches!(error, WsError::Net(NetError::Timeout { phase: phase::MESSAGE, .. })) && error.maybe_sent(), "{error:?}");
        assert!(started.elapsed() < ms(5000), "{:?}", started.elapsed());
        // More is taken over as long as there is room, and then not.
        number += 1;
        let refused = loop {
            match client.send(WsMessage::Binary(numbered(number)), Deadline::after(ms(100))) {
                Err(error) if !error.maybe_sent() => break error,
                Err(WsError::Net(NetError::Timeout { .. })) | Ok(()) => number += 1,
                Err(other) => panic!("{other:?}"),
            }
            assert!(number < 160, "10 MiB were taken");
        };
        assert!(matches!(refused, WsError::Net(NetError::Timeout { phase: phase::SEND, .. })), "{refused:?}");
        // Waiting for room does not spin, nor does waiting for messages.
        let (slept, used) = (sleeps(), ticks());
        assert_eq!(client.next(Deadline::after(ms(300))).expect("open"), WsEvent::Idle);
        assert!(client.ping(b"", Deadline::after(ms(300))).is_err() || !client.unsent);
        assert!(sleeps() - slept <= 6 && ticks() - used <= 3, "{} {}", sleeps() - slept, ticks() - used);
        // As soon as the server reads, it gets each message once and whole.
        let last = number;
        let server = std::thread::spawn(move || {
            for expect in 0..last {
                let (first, payload) = receive(&mut *peer);
                assert_eq!((first, payload.len()), (BINARY, 64 << 10), "{expect}");
                assert!(payload.chunks(4).all(|four| four == expect.to_be_bytes()), "{expect}");
            }
            send(&mut *peer, &frame(TEXT, b"all"));
            while receive(&mut *peer).0 != CLOSE {}
            send(&mut *peer, &frame(CLOSE, b""));
        });
        assert_eq!(client.next(later()).expect("open"), text("all"));
        client.close(1000, "", later()).expect("answered");
        server.join().expect("no panic");
    }
}

#[test]
fn two_full_connections_do_not_wait_for_each_other() {
    for tls in [false, true] {
        let (mut client, mut peer) = slow_pair(tls, &CancelToken::new(), WsLimits::default());
        let server = std::thread::spawn(move || {
            for number in 0..48 {
                send(&mut *peer, &frame(BINARY, &numbered(number)));
            }
            for _ in 0..8 {
                assert_eq!(receive(&mut *peer).1.len(), 1 << 20);
            }
            peer
        });
        for _ in 0..8 {
            client.send(WsMessage::Binary(vec![1; 1 << 20]), later()).expect("the server reads in the end");
        }
        for number in 0..48 {
            assert_eq!(client.next(later()).expect("open"), WsEvent::Binary(numbered(number)), "{number}");
        }
        assert_eq!((client.arrived_bytes, client.arrived.len()), (0, 0));
        drop(server.join().expect("no panic"));
    }
}

#[test]
fn what_arrives_meanwhile_is_bounded() {
    let (mut client, mut peer) = slow_pair(false, &CancelToken::new(), WsLimits::default());
    let server = std::thread::spawn(move || while peer.write_all(&frame(TEXT, b"x").repeat(100)).is_ok() {});
    let error = client.send(WsMessage::Binary(vec![1; 1 << 20]), Deadline::after(ms(10))).err();
    let error = error.or_else(|| (0..20).find_map(|_| client.send(WsMessage::Binary(vec![1; 1 << 20]), Deadline::after(ms(300))).err()));
    assert!(matches!(error, Some(WsError::Net(NetError::Timeout { .. }))), "{error:?}");
    assert!((1..=limits::WEBSOCKET_ARRIVED_MAX).contains(&client.arrived.len()), "{}", client.arrived.len());
    drop(client);
    server.join().expect("no panic");
}

#[test]
fn the_end_is_not_lost_while_sending() {
    for (bytes, expect) in [(frame(CLOSE, &4000_u16.to_be_bytes()), Some(closed(4000, ""))), (frame(0x80, b"?"), None)] {
        let (mut client, mut peer) = slow_pair(false, &CancelToken::new(), WsLimits::default());
        send(&mut *peer, &[frame(TEXT, b"before"), bytes].concat());
        let error = (0..20).find_map(|_| client.send(WsMessage::Binary(vec![1; 1 << 20]), later()).err()).expect("has ended");
        assert_eq!(client.next(later()).expect("came before"), text("before"));
        match expect {
            Some(event) => {
                assert!(matches!(error, WsError::Ended { .. }), "{error:?}");
                assert_eq!(client.next(later()).expect("told"), event);
            }
            None => assert!(matches!(error, WsError::Protocol { .. }), "{error:?}"),
        }
        assert!(matches!(client.next(later()), Err(WsError::Ended { .. })));
    }
}

#[test]
fn pongs_to_a_server_that_never_reads_cost_nothing() {
    let limits = WsLimits { unsent_bytes_max: 4096, ..WsLimits::default() };
    let (mut client, mut peer) = slow_pair(false, &CancelToken::new(), limits);
    let pings = frame(PING, &[7; 125]).repeat(500);
    let server = std::thread::spawn(move || {
        for _ in 0..100 {
            send(&mut *peer, &pings);
        }
        send(&mut *peer, &frame(TEXT, b"done"));
        peer
    });
    assert_eq!(client.next(later()).expect("open"), text("done"));
    drop(server.join().expect("no panic"));
}

#[test]
fn what_cannot_be_sent_is_refused_and_harms_nothing() {
    let limits = WsLimits { unsent_bytes_max: 10, ..WsLimits::default() };
    let (mut client, mut peer) = pair_with(false, &CancelToken::new(), limits);
    let error = client.send(WsMessage::Text("12345678901".to_owned()), later()).expect_err("too long");
    assert!(matches!(error, WsError::TooLarge { bytes: 11, bytes_max: 10 }) && !error.is_retryable() && !error.maybe_sent());
    assert!(matches!(client.ping(&[0; 126], later()), Err(WsError::TooLarge { .. })));
    let error = client.send(WsMessage::Text("late".to_owned()), Deadline::after(Duration::ZERO)).expect_err("too late");
    assert!(matches!(&error, WsError::Net(NetError::Timeout { .. })) && !error.maybe_sent());
    client.send(WsMessage::Text("1234567890".to_owned()), later()).expect("fits");
    client.ping(&[1; 125], later()).expect("fits");
    assert_eq!(receive(&mut *peer), (TEXT, b"1234567890".to_vec()));
    assert_eq!(receive(&mut *peer), (PING, vec![1; 125]));
}
