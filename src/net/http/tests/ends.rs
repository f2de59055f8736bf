//! Every phase ends at its bound, and a cancel ends each at once.

use super::server::{Server, full_listener, read_request, stay_silent, tls_accept, tls_config, write};
use super::*;
use crate::thread::Threads;

fn assert_timeout(error: &NetError, expect: &str, server: &Server) {
    let peer = server.address.to_string();
    assert!(matches!(error, NetError::Timeout { phase, peer: named, .. } if *phase == expect && *named == peer), "{error:?}");
}

#[test]
fn silence_and_trickles_end_at_their_bounds() {
    // Nothing at all.
    let server = Server::plain(|_, stream| stay_silent(stream));
    let started = clock::now();
    let error = fetch(&client(), &get(server.url("http")), bounds(ms(150), LONG, LONG)).expect_err("silent");
    assert_timeout(&error, phase::HEADERS, &server);
    assert!(started.elapsed() < ms(1000));

    // Headers, a byte at a time.
    let server = Server::plain(|_, stream| {
        read_request(stream);
        for byte in "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8; and so on\r\n".chars().cycle() {
            std::thread::sleep(ms(20));
            if !write(stream, byte.encode_utf8(&mut [0; 4])) {
                return;
            }
        }
    });
    let error = fetch(&client(), &get(server.url("http")), bounds(ms(300), LONG, LONG)).expect_err("trickles");
    assert_timeout(&error, phase::HEADERS, &server);

    // A body that stops, and a body that trickles.
    let server = Server::plain(answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"));
    let error = fetch(&client(), &get(server.url("http")), bounds(LONG, ms(150), LONG)).expect_err("stalls");
    assert_timeout(&error, phase::BODY, &server);
    let server = Server::plain(|_, stream| {
        read_request(stream);
        write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        while write(stream, "1\r\nx\r\n") {
            std::thread::sleep(ms(20));
        }
    });
    let error = fetch(&client(), &get(server.url("http")), bounds(LONG, ms(2000), ms(400))).expect_err("trickles");
    assert_timeout(&error, phase::TOTAL, &server);

    // A request that is not taken.
    let server = Server::raw(|_, stream| {
        std::thread::sleep(ms(3000));
        drop(stream);
    });
    let big = request("POST", server.url("http"), Body::Json(vec![b' '; 32 << 20]));
    let error = fetch(&client(), &big, bounds(ms(300), LONG, LONG)).expect_err("is not read");
    assert_timeout(&error, phase::SEND, &server);
    assert!(!error.request_sent());

    // A server that accepts and never speaks TLS, and one that speaks something else.
    let server = Server::plain(|_, stream| stay_silent(stream));
    let error = fetch(&client(), &get(server.url("https")), bounds(ms(200), LONG, LONG)).expect_err("no handshake");
    assert_timeout(&error, phase::TLS, &server);
    let server = Server::plain(|_, stream| {
        write(stream, "HTTP/1.1 400 Bad Request\r\n\r\n");
        stay_silent(stream);
    });
    let error = fetch(&client(), &get(server.url("https")), relaxed()).expect_err("no TLS");
    assert!(matches!(&error, NetError::Tls { cause, .. } if cause.contains("does not speak TLS")), "{error}");
}

#[test]
fn connecting_ends_at_its_bound() {
    let (address, _waiting, _listener) = full_listener();
    let started = clock::now();
    let error = fetch(&client(), &get(format!("http://{address}/SECRET")), bounds(ms(200), LONG, LONG)).expect_err("hangs");
    assert!(matches!(&error, NetError::Timeout { phase: phase::CONNECT, peer, .. } if *peer == address.to_string()), "{error:?}");
    assert!(started.elapsed() < ms(1000) && !error.request_sent());

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let error = fetch(&client(), &get(format!("http://{address}/SECRET")), relaxed()).expect_err("refuses");
    assert_eq!(error.to_string(), format!("cannot connect to {address}: connection refused (127.0.0.1)"));
}

/// Starts a request that will hang, waits until its thread says that it does `doing`, cancels, and expects it back.
fn check_cancel(doing: &str, url: String, body: Body) {
    let threads = Threads::new();
    let token = CancelToken::new();
    let (sender, results) = crossbeam_channel::bounded(1);
    let client = Client::new(&options(), &token);
    let request = request("POST", url, body);
    let handle = threads.spawn(
        "client",
        0,
        token.clone(),
        |_| (),
        move |_| {
            let result = fetch(&client, &request, relaxed());
            let _ = sender.try_send((clock::now(), result));
        },
    );
    let handle = handle.expect("starts");
    let patience = Deadline::after(LONG);
    while !handle.activity().text.ends_with(doing) {
        assert!(!patience.passed() && results.is_empty(), "{doing}: {:?} {:?}", handle.activity(), results.try_recv());
        std::thread::sleep(ms(1));
    }
    // So that it really waits, and does not just begin to.
    std::thread::sleep(ms(20));
    let cancelled = clock::now();
    token.cancel();
    let (ended, result) = results.recv_timeout(ms(5000)).expect("comes back");
    assert!(matches!(result, Err(NetError::Cancelled)), "{doing}: {result:?}");
    assert!(ended - cancelled < ms(100), "{doing}: {:?}", ended - cancelled);
}

#[test]
fn a_cancel_ends_every_phase_at_once() {
    let (address, _waiting, _listener) = full_listener();
    check_cancel("connecting", format!("http://{address}/"), Body::Empty);
    let silent = Server::plain(|_, stream| stay_silent(stream));
    check_cancel("TLS handshake", silent.url("https"), Body::Empty);
    check_cancel("waiting for headers", silent.url("http"), Body::Empty);
    // Nothing holds on to the sockets.
    silent.wait_for_ends(2);
    let deaf = Server::raw(|_, stream| {
        std::thread::sleep(ms(5000));
        drop(stream);
    });
    check_cancel("sending", deaf.url("http"), Body::Json(vec![b' '; 32 << 20]));
    let config = tls_config();
    let deaf = Server::raw(move |_, stream| {
        let mut stream = tls_accept(&config, stream);
        let _ = stream.flush();
        std::thread::sleep(ms(5000));
    });
    check_cancel("sending", deaf.url("https"), Body::Json(vec![b' '; 32 << 20]));
    const ANSWERS: [&str; 3] = [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        // The cut connection must not pass for the end of this one.
        "HTTP/1.1 200 OK\r\n\r\nhello",
    ];
    for answer in ANSWERS {
        check_cancel("reading the body", Server::plain(answering(answer)).url("http"), Body::Empty);
        check_cancel("reading the body", Server::tls(answering(answer)).url("https"), Body::Empty);
    }
}
