//! How connections end: agreed, broken, half-open, cancelled; and that nothing of them stays.

use super::*;
use crate::net::http::tests::server::{full_listener, stay_silent, write};
use crate::thread::Threads;
use nix::sys::socket::{setsockopt, sockopt};
use std::net::Shutdown;

#[test]
fn a_connection_that_breaks_is_not_mistaken_for_a_close() {
    type Breaking = fn(&std::net::TcpStream);
    let breaks: [Breaking; 2] = [
        |stream| stream.shutdown(Shutdown::Write).expect("open"),
        |stream| setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).expect("open"),
    ];
    for tls in [false, true] {
        for cut in breaks {
            let config = tls_config();
            let server = Server::raw(move |_, mut stream| {
                if tls {
                    let mut stream = tls_accept(&config, stream);
                    let _ = accept(&mut stream);
                    cut(&stream.sock);
                } else {
                    let _ = accept(&mut stream);
                    cut(&stream);
                }
            });
            let mut client = match open(&server.url(scheme(tls)), &CancelToken::new(), WsLimits::default()) {
                Ok(client) => client,
                // A reset may overtake the answer.
                Err(WsError::Net(NetError::Broken { .. })) => continue,
                Err(other) => panic!("{other:?}"),
            };
            let error = client.next(later()).expect_err("broke");
            assert!(matches!(&error, WsError::Net(NetError::Broken { .. })) && error.is_retryable(), "{error:?}");
            assert!(matches!(client.next(later()), Err(WsError::Ended { .. })));
        }
    }
}

#[test]
fn a_peer_that_vanished_is_seen_by_its_silence() {
    let (mut client, _peer) = pair(false);
    let opened = client.heard();
    for _ in 0..3 {
        client.ping(b"?", later()).expect("taken by the system");
        assert_eq!(client.next(Deadline::after(ms(30))).expect("open"), WsEvent::Idle);
    }
    assert_eq!(client.heard(), opened);
}

#[test]
fn a_close_that_is_not_answered_ends_all_the_same() {
    let check = |flood: bool| {
        let (mut client, mut peer) = pair(false);
        let server = std::thread::spawn(move || {
            while flood && peer.write_all(&frame(TEXT, b"and another thing").repeat(100)).is_ok() {}
            peer
        });
        let started = clock::now();
        let error = client.close(1000, "", Deadline::after(ms(300))).expect_err("not answered");
        assert!(matches!(error, WsError::Net(NetError::Timeout { phase: phase::CLOSE, .. })), "{error:?}");
        assert!(started.elapsed() < ms(1500), "{:?}", started.elapsed());
        assert!(matches!(client.next(later()), Err(WsError::Ended { .. })));
        drop(client);
        drop(server.join().expect("no panic"));
    };
    check(false);
    check(true);
    // One who hangs up instead of answering has understood, too. Messages that crossed are dropped.
    let (mut client, mut peer) = pair(false);
    send(&mut *peer, &frame(TEXT, b"crossed"));
    let server = std::thread::spawn(move || receive(&mut *peer));
    client.close(1005, "not a code for the wire", later()).expect("over");
    let (first, payload) = server.join().expect("no panic");
    assert_eq!((first, &payload[..2]), (CLOSE, &1000_u16.to_be_bytes()[..]));
}

#[test]
fn dropping_says_nothing_and_closes() {
    for tls in [false, true] {
        let (client, mut peer) = pair(tls);
        drop(client);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).expect("an orderly end");
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// Starts something that will hang, waits until its thread says that it does `doing`, cancels, and expects it back.
fn check_cancel(doing: &str, action: impl FnOnce(&CancelToken) -> Option<WsError> + Send + 'static) {
    let threads = Threads::new();
    let token = CancelToken::new();
    let (sender, results) = bounded(1);
    let handle = threads.spawn(
        "client",
        0,
        token.clone(),
        |_| (),
        move |token| {
            let result = action(token);
            let _ = sender.try_send((clock::now(), result));
        },
    );
    let handle = handle.expect("starts");
    let patience = later();
    while !handle.activity().text.ends_with(doing) {
        assert!(!patience.passed() && results.is_empty(), "{doing}: {:?} {:?}", handle.activity(), results.try_recv());
        std::thread::sleep(ms(1));
    }
    // So that it really waits, and does not just begin to.
    std::thread::sleep(ms(30));
    let cancelled = clock::now();
    token.cancel();
    let (ended, error) = results.recv_timeout(ms(5000)).expect("comes back");
    assert!(error.as_ref().is_some_and(WsError::is_cancelled), "{doing}: {error:?}");
    assert!(ended - cancelled < ms(100), "{doing}: {:?}", ended - cancelled);
}

#[test]
fn a_cancel_ends_every_phase_at_once() {
    let opening = |url: String| move |token: &CancelToken| open(&url, token, WsLimits::default()).err();
    let (address, _waiting, _listener) = full_listener();
    check_cancel("connecting", opening(format!("ws://{address}/")));
    let silent = Server::plain(|_, stream| stay_silent(stream));
    check_cancel("TLS handshake", opening(silent.url("wss")));
    check_cancel("asking for the upgrade", opening(silent.url("ws")));
    let refusing = Server::plain(|_, stream| {
        let _ = read_request(stream).is_some() && write(stream, "HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nx");
        stay_silent(stream);
    });
    check_cancel("reading why it refuses", opening(refusing.url("ws")));
    for tls in [false, true] {
        let (server, peers) = handing_over(tls);
        let url = server.url(scheme(tls));
        let connect = |token: &CancelToken, url: &str| open(url, token, WsLimits::default()).expect("opens");
        let own = url.clone();
        check_cancel("waiting for messages", move |token| connect(token, &own).next(later()).err());
        let own = url.clone();
        check_cancel("sending a message", move |token| {
            let mut client = connect(token, &own);
            (0..100).find_map(|_| client.send(WsMessage::Binary(vec![0; 1 << 20]), later()).err())
        });
        check_cancel("closing", move |token| connect(token, &url).close(1000, "", later()).err());
        assert_eq!(peers.len(), 3);
    }
}

#[test]
fn nothing_works_after_a_cancel() {
    let token = CancelToken::new();
    let (mut client, mut peer) = pair_with(false, &token, WsLimits::default());
    send(&mut *peer, &frame(TEXT, b"x"));
    token.cancel();
    client.waker().wake();
    assert!(client.next(later()).expect_err("cancelled").is_cancelled());
    assert!(client.send(WsMessage::Text(String::new()), later()).expect_err("cancelled").is_cancelled());
    assert!(client.ping(b"", later()).expect_err("cancelled").is_cancelled());
    assert!(client.close(1000, "", later()).expect_err("cancelled").is_cancelled());
    assert!(open("ws://127.0.0.1:1/", &token, WsLimits::default()).err().expect("cancelled").is_cancelled());
}

fn entries(directory: &str) -> usize {
    std::fs::read_dir(directory).expect("Linux").count()
}

/// Counts descriptors, so it runs alone, in a process of its own.
#[test]
fn a_thousand_reconnects_leave_nothing_behind() {
    const ALONE: &str = "HERMES_GATEWAY_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = concat!(module_path!(), "::a_thousand_reconnects_leave_nothing_behind");
        let (_crate, name) = name.split_once("::").expect("a path");
        let mut child = std::process::Command::new(std::env::current_exe().expect("this one"));
        let mut child = child.args(["--exact", name, "--nocapture"]).env(ALONE, "1").spawn().expect("starts");
        let patience = Deadline::after(Duration::from_secs(120));
        loop {
            if let Some(status) = child.try_wait().expect("ours") {
                assert!(status.success(), "{status}");
                return;
            }
            if patience.passed() {
                let _ = child.kill();
                panic!("did not end");
            }
            std::thread::sleep(ms(20));
        }
    }
    let (server, peers) = handing_over(false);
    let (tls_server, tls_peers) = handing_over(true);
    let token = CancelToken::new();
    let round = |number: usize| {
        let tls = number.is_multiple_of(10);
        let (server, peers) = if tls { (&tls_server, &tls_peers) } else { (&server, &peers) };
        let mut client = open(&server.url(scheme(tls)), &token, WsLimits::default()).expect("opens");
        let mut peer = peers.recv_timeout(LONG).expect("is there");
        match number % 4 {
            0 => send(&mut *peer, &frame(CLOSE, b"")),
            1 => send(&mut *peer, &frame(0x80, b"?")),
            2 => drop(peer),
            _ => client.send(WsMessage::Text("x".to_owned()), later()).expect("open"),
        }
        let _ = client.next(if number % 4 == 3 { Deadline::after(Duration::ZERO) } else { later() });
    };
    for number in 0..20 {
        round(number);
    }
    // The servers' threads end by themselves, a moment later.
    let count = || {
        let patience = later();
        let (mut descriptors, mut tasks) = (entries("/proc/self/fd"), entries("/proc/self/task"));
        while tasks > 4 && !patience.passed() {
            std::thread::sleep(ms(5));
            (descriptors, tasks) = (entries("/proc/self/fd"), entries("/proc/self/task"));
        }
        (descriptors, tasks)
    };
    let before = count();
    for number in 0..1000 {
        round(number);
    }
    assert_eq!(count(), before);
}
