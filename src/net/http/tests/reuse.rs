//! Connections are kept, and nothing is sent twice that could be done twice.

use super::server::{Server, read_request, write};
use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn connections_are_kept_and_replaced_when_the_server_closes_them() {
    let many = |answers: usize| {
        move |_: usize, stream: &mut dyn server::Wire| {
            for _ in 0..answers {
                let Some(request) = read_request(stream) else { return };
                let body = request.lines().next().unwrap_or_default().split(' ').next().unwrap_or_default().to_owned();
                write(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            }
        }
    };
    for scheme in ["http", "https"] {
        let server = if scheme == "http" { Server::plain(many(usize::MAX)) } else { Server::tls(many(usize::MAX)) };
        let client = client();
        for _ in 0..3 {
            let body = fetch(&client, &request("POST", server.url(scheme), Body::Json(b"{}".to_vec())), relaxed()).expect("works");
            assert_eq!(body, (200, "POST".to_owned()));
        }
        assert_eq!(server.connections(), 1, "{scheme}");
        // The server closes after one answer: noticed before the next request, whatever its method.
        let server = if scheme == "http" { Server::plain(many(1)) } else { Server::tls(many(1)) };
        for round in 1..=3 {
            fetch(&client, &request("POST", server.url(scheme), Body::Empty), relaxed()).expect("works");
            assert_eq!(server.connections(), round, "{scheme}");
            // The close has to have arrived, or it is the other case.
            server.wait_for_ends(round);
        }
    }
}

#[test]
fn only_what_is_safe_is_sent_again() {
    // Answers once, then takes a request on the same connection and closes without a word.
    let handled = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&handled);
    let server = Server::plain(move |_, stream| {
        for answer in [true, false] {
            if read_request(stream).is_none() {
                return;
            }
            counter.fetch_add(1, Ordering::SeqCst);
            if answer {
                write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    let client = client();
    fetch(&client, &get(server.url("http")), relaxed()).expect("first");
    fetch(&client, &get(server.url("http")), relaxed()).expect("is repeated on a new connection");
    assert_eq!((server.connections(), handled.load(Ordering::SeqCst)), (2, 3));
    let post = request("POST", server.url("http"), Body::Json(b"{}".to_vec()));
    let error = fetch(&client, &post, relaxed()).expect_err("may have been acted upon");
    assert!(matches!(error, NetError::Broken { sent: true, .. }), "{error:?}");
    assert_eq!((server.connections(), handled.load(Ordering::SeqCst)), (2, 4));
}

#[test]
fn a_client_outlives_the_work_of_one_token() {
    let server = Server::plain(|_, stream| {
        while read_request(stream).is_some() {
            write(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let client = client();
    let turn = CancelToken::new();
    let mut response = client.send_under(&get(server.url("http")), relaxed(), &turn).expect("answers");
    assert_eq!(response.read_to_end(9).expect("body"), b"ok");
    turn.cancel();
    assert!(matches!(client.send_under(&get(server.url("http")), relaxed(), &turn).err(), Some(NetError::Cancelled)));
    assert_eq!(fetch(&client, &get(server.url("http")), relaxed()).expect("still works").1, "ok");
    assert_eq!(server.connections(), 1);
}

#[test]
fn events_are_read_and_the_connection_is_kept() {
    let server = Server::plain(|_, stream| {
        while read_request(stream).is_some() {
            write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n");
            write(stream, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
        }
    });
    let client = client();
    for _ in 0..2 {
        let mut events = crate::net::sse::Events::new(client.send(&get(server.url("http")), relaxed()).expect("answers"));
        assert_eq!(events.next_event().expect("stream").map(|event| event.data).as_deref(), Some("a"));
        assert_eq!(events.next_event().expect("stream").map(|event| event.data).as_deref(), Some("[DONE]"));
    }
    assert_eq!(server.connections(), 1);
}

/// Regression: a body of eight to sixteen KiB overtook the head of its own request.
#[test]
fn a_body_of_any_length_follows_its_head() {
    let server = Server::plain(|_, stream| {
        while let Some(request) = read_request(stream) {
            let (head, body) = request.split_once("\r\n\r\n").unwrap_or_default();
            let sound = head.starts_with("POST /") && body.bytes().all(|byte| byte == b'x');
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{:05}", if sound { body.len() } else { 99_999 });
            if !write(stream, &answer) {
                return;
            }
        }
    });
    let client = client();
    for length in [0, 1, 4000, 7900, 8191, 8192, 8193, 12_000, 16_000, 16_384, 16_385, 40_000] {
        let body = Body::Bytes { content_type: "text/plain".to_owned(), bytes: vec![b'x'; length] };
        let answer = fetch(&client, &request("POST", server.url("http"), body), relaxed());
        assert_eq!(answer.map(|(_, text)| text).ok(), Some(format!("{length:05}")));
    }
}
