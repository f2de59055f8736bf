//! Opening a connection: what is sent, what is taken for an answer, and that it always ends.

use super::*;
use crate::net::http::tests::server::{full_listener, stay_silent, write};

fn refused(url: &str) -> Refusal {
    match open(url, &CancelToken::new(), WsLimits::default()) {
        Err(WsError::Refused(refusal)) => *refusal,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("opened"),
    }
}

fn failed(url: &str, deadline: Duration) -> WsError {
    let started = clock::now();
    let result = WebSocket::connect(url, &[], &options(), &CancelToken::new(), Deadline::after(deadline), WsLimits::default());
    assert!(started.elapsed() < deadline + ms(1000), "{:?}", started.elapsed());
    let error = result.err().expect("does not open");
    assert!(!error.to_string().contains("SECRET"), "{error}");
    error
}

#[test]
fn the_request_carries_the_callers_headers() {
    let (sender, requests) = bounded(1);
    let server = Server::plain(move |_, stream| sender.try_send(accept(stream)).expect("once"));
    let headers = [("Authorization".to_owned(), "Bearer t\n".to_owned()), ("Connection".to_owned(), "close".to_owned())];
    let url = server.url("ws");
    WebSocket::connect(&url, &headers, &options(), &CancelToken::new(), later(), WsLimits::default()).expect("opens");
    let request = requests.recv_timeout(LONG).expect("came").expect("complete");
    let (first, rest) = request.split_once("\r\n").expect("lines");
    assert_eq!(first, "GET /bot123:SECRET/x HTTP/1.1");
    for line in [
        &format!("Host: 127.0.0.1:{}", server.address.port()),
        "Authorization: Bearer t",
        "Sec-WebSocket-Version: 13",
        "User-Agent: test/1",
        "Upgrade: websocket",
        "Connection: Upgrade",
    ] {
        assert_eq!(rest.lines().filter(|known| known == &line).count(), 1, "{line}: {rest}");
    }
    assert!(!rest.contains("close"), "{rest}");
    let bad = [("Authorization".to_owned(), "a\nb".to_owned())];
    let error = WebSocket::connect(&url, &bad, &options(), &CancelToken::new(), later(), WsLimits::default()).err().expect("refused");
    assert!(matches!(error, WsError::Net(NetError::BadUrl(_))) && !error.is_retryable());
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_refusal_is_told_in_full() {
    let check = |status: u16, retryable: bool| {
        let answer = format!("HTTP/1.1 {status} No\r\nRetry-After: 7\r\nContent-Length: 15\r\n\r\n{{\"code\": 40129}}");
        for tls in [false, true] {
            let answer = answer.clone();
            let script = move |_: usize, stream: &mut dyn Wire| {
                let _ = read_request(stream).is_some() && write(stream, &answer);
                stay_silent(stream);
            };
            let server = if tls { Server::tls(script) } else { Server::plain(script) };
            let refusal = refused(&server.url(scheme(tls)));
            assert_eq!((refusal.status, refusal.body.as_str()), (status, "{\"code\": 40129}"));
            assert_eq!((refusal.retry_after, refusal.peer.as_str()), (Some(Duration::from_secs(7)), server.address.to_string().as_str()));
            assert_eq!(crate::net::find_header(&refusal.headers, "content-length"), Some("15"));
            let error = WsError::Refused(Box::new(refusal));
            assert_eq!((error.is_retryable(), error.retry_after()), (retryable, Some(Duration::from_secs(7))), "{status}");
            assert!(!error.maybe_sent() && error.to_string().contains(&status.to_string()), "{error}");
        }
    };
    for (status, retryable) in [(429, true), (503, true), (401, false), (404, false), (301, false), (200, false)] {
        check(status, retryable);
    }
}

#[test]
fn a_refusal_with_an_odd_body_is_still_told() {
    let check = |head: &'static str, part: &'static str, pause: Duration| {
        let server = Server::plain(move |_, stream| {
            if read_request(stream).is_some() && write(stream, head) {
                while !part.is_empty() && write(stream, part) {
                    std::thread::sleep(pause);
                }
                stay_silent(stream);
            }
        });
        let started = clock::now();
        let refusal = refused(&server.url("ws"));
        assert!(started.elapsed() < limits::WEBSOCKET_REFUSAL + ms(1000), "{:?}", started.elapsed());
        assert!(refusal.status == 503 && refusal.body.len() <= limits::WEBSOCKET_REFUSAL_BYTES_MAX);
        refusal.body
    };
    assert_eq!(check("HTTP/1.1 503 No\r\nContent-Length: 99\r\n\r\nbusy", "", Duration::ZERO), "busy");
    assert!(check("HTTP/1.1 503 No\r\n\r\n", "endless ", Duration::ZERO).starts_with("endless endless"));
    assert!(check("HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", ms(50)).starts_with("xx"));
}

#[test]
fn every_phase_ends_at_the_deadline() {
    let check = |url: &str, deadline: u64, expect: &str| {
        let error = failed(url, ms(deadline));
        assert!(matches!(&error, WsError::Net(NetError::Timeout { phase, .. }) if *phase == expect), "{error:?}");
        assert!(error.is_retryable());
    };
    let (address, _waiting, _listener) = full_listener();
    check(&format!("ws://{address}/SECRET"), 200, phase::CONNECT);
    let silent = Server::plain(|_, stream| stay_silent(stream));
    check(&silent.url("ws"), 200, phase::HEADERS);
    check(&silent.url("wss"), 200, phase::TLS);
    let silent = Server::tls(|_, stream| stay_silent(stream));
    check(&silent.url("wss"), 300, phase::HEADERS);
    // A good answer, a byte at a time.
    for tls in [false, true] {
        let script = |_: usize, stream: &mut dyn Wire| {
            let _ = read_request(stream);
            for byte in "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n".chars().chain(std::iter::repeat('x')) {
                if !write(stream, byte.encode_utf8(&mut [0; 4])) {
                    return;
                }
                std::thread::sleep(ms(20));
            }
        };
        let server = if tls { Server::tls(script) } else { Server::plain(script) };
        check(&server.url(scheme(tls)), 400, phase::HEADERS);
    }
    // TLS itself, a byte at a time.
    let server = Server::plain(|_, stream| {
        while write(stream, "\u{16}") {
            std::thread::sleep(ms(20));
        }
    });
    let error = failed(&server.url("wss"), ms(400));
    assert!(matches!(error, WsError::Net(NetError::Timeout { .. } | NetError::Tls { .. })), "{error:?}");
}

#[test]
fn nonsense_is_not_taken_for_an_answer() {
    let check = |answer: &'static str, expect: &str| {
        let server = Server::plain(move |_, stream| {
            let _ = read_request(stream).is_some() && write(stream, answer);
        });
        let error = failed(&server.url("ws"), LONG);
        assert!(error.to_string().contains(expect) && error.is_retryable(), "{answer}: {error:?}");
    };
    check("", "closed the connection without an answer");
    check("HTTP/1.1 101 Switching", "within the headers");
    check("SSH-2.0-OpenSSH_9\r\n", "not HTTP/1.1");
    check("HTTP/1.1 101 Switching Protocols\r\n\r\n", "something else than a WebSocket");
    check(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
        "another request",
    );
    let server = Server::plain(|_, stream| {
        let _ = read_request(stream).is_some() && write(stream, "HTTP/1.1 101 Switching Protocols\r\n");
        while write(stream, "X-Header: and so on\r\n") {}
    });
    let error = failed(&server.url("ws"), LONG);
    assert!(matches!(&error, WsError::Net(NetError::Protocol { .. })), "{error:?}");
    let server = Server::plain(|_, stream| {
        let _ = read_request(stream);
        while write(stream, "HTTP/1.1 100 Continue\r\n\r\n") {}
    });
    let error = failed(&server.url("ws"), LONG);
    assert!(error.to_string().contains("interim"), "{error:?}");
    for url in ["", "ftp://x/", "ws://user:SECRET@x/"] {
        assert!(matches!(failed(url, LONG), WsError::Net(NetError::BadUrl(_))));
    }
}
