//! Connections that are closed in order although their token is cancelled.

use super::*;

/// The next message of a client whose token is cancelled meanwhile. → how long that took from the cancel
fn cancelled_while_waiting(client: &mut WebSocket, token: &CancelToken) -> Duration {
    let cancelled = std::thread::scope(|scope| {
        let canceller = scope.spawn(|| {
            std::thread::sleep(ms(50));
            let now = clock::now();
            token.cancel();
            now
        });
        let error = client.next(later()).expect_err("cancelled");
        assert!(error.is_cancelled(), "{error:?}");
        canceller.join().expect("no panic")
    });
    cancelled.elapsed()
}

#[test]
fn a_cancel_says_goodbye_if_it_was_asked_to() {
    for tls in [false, true] {
        let token = CancelToken::new();
        let (mut client, mut peer) = pair_with(tls, &token, WsLimits::default());
        client.goodbye_on_cancel(1001);
        let took = cancelled_while_waiting(&mut client, &token);
        assert!(took < ms(1000), "{took:?}");
        drop(client);
        assert_eq!(receive(&mut *peer), (CLOSE, 1001_u16.to_be_bytes().to_vec()), "tls: {tls}");
    }
}

#[test]
fn a_thread_that_was_elsewhere_says_goodbye_when_it_lets_go() {
    let token = CancelToken::new();
    let (mut client, mut peer) = pair_with(false, &token, WsLimits::default());
    client.goodbye_on_cancel(1000);
    token.cancel();
    drop(client);
    assert_eq!(receive(&mut *peer), (CLOSE, 1000_u16.to_be_bytes().to_vec()));
}

#[test]
fn without_a_cancel_nothing_is_said() {
    let token = CancelToken::new();
    let (mut client, mut peer) = pair_with(false, &token, WsLimits::default());
    client.goodbye_on_cancel(1000);
    drop(client);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("the end");
    assert_eq!(rest, b"");
}

#[test]
fn a_thread_that_never_lets_go_is_severed() {
    let token = CancelToken::new();
    let (mut client, mut peer) = pair_with(false, &token, WsLimits::default());
    client.goodbye_on_cancel(1000);
    token.cancel();
    token.sever();
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("the end");
    assert_eq!(rest, b"");
    drop(client);
}

#[test]
fn a_server_that_does_not_read_delays_no_goodbye() {
    let token = CancelToken::new();
    let (mut client, peer) = pair_with(false, &token, WsLimits::default());
    client.goodbye_on_cancel(1000);
    let large = WsMessage::Binary(vec![0; 512 * 1024]);
    while client.send(large.clone(), Deadline::after(ms(100))).is_ok() {}
    let started = clock::now();
    token.cancel();
    assert!(client.next(later()).expect_err("cancelled").is_cancelled());
    drop(client);
    assert!(started.elapsed() < ms(1000), "{:?}", started.elapsed());
    drop(peer);
}
