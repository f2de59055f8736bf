//! The client against servers that behave well, oddly and badly.

// The clients' threads are joined after the bounds under test have passed.
#![allow(clippy::disallowed_methods)]

mod ends;
mod reuse;
pub(in crate::net) mod server;

use super::*;
use crate::clock::{self, Deadline};
use server::{CA_FILE, Server, read_request, stay_silent, tls_accept, tls_config, write};
use std::io::{Read as _, Write as _};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(15);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn bounds(headers: Duration, silence: Duration, total: Duration) -> Bounds {
    Bounds { headers: Deadline::after(headers), silence, total: Deadline::after(total), body_bytes_max: 1 << 20 }
}

fn relaxed() -> Bounds {
    bounds(LONG, LONG, LONG)
}

fn options() -> NetOptions {
    NetOptions { tls_ca_file: Some(CA_FILE.into()), user_agent: "test/1".to_owned() }
}

fn client() -> Client {
    Client::new(&options(), &CancelToken::new())
}

fn request(method: &'static str, url: String, body: Body) -> Request {
    Request { method, url, headers: Vec::new(), body }
}

fn get(url: String) -> Request {
    request("GET", url, Body::Empty)
}

/// Sends and reads everything.
fn fetch(client: &Client, request: &Request, bounds: Bounds) -> Result<(u16, String), NetError> {
    let mut response = client.send(request, bounds)?;
    let body = response.read_to_end(1 << 20)?;
    Ok((response.status, String::from_utf8_lossy(&body).into_owned()))
}

/// An answer, then silence until the client closes.
fn answering(answer: &'static str) -> impl Fn(usize, &mut dyn server::Wire) + Send + Sync + 'static {
    move |_, stream| {
        if read_request(stream).is_some() && write(stream, answer) {
            stay_silent(stream);
        }
    }
}

/// The same, but the connection ends after the answer.
fn answering_and_closing(answer: &'static str) -> impl Fn(usize, &mut dyn server::Wire) + Send + Sync + 'static {
    move |_, stream| {
        let _ = read_request(stream).is_some() && write(stream, answer);
    }
}

#[test]
fn bodies_of_every_kind_are_read_whole_or_not_at_all() {
    let check = |answer: &'static str, expect: Result<(u16, &str), &str>| {
        let server = Server::plain(answering_and_closing(answer));
        let peer = format!("{}: ", server.address);
        let result = fetch(&client(), &get(server.url("http")), relaxed());
        let text = result.map_err(|error| {
            assert!(error.request_sent() && !error.to_string().contains("SECRET"), "{error}");
            error.to_string().replace(&peer, "")
        });
        assert_eq!(text.as_ref().map(|(status, body)| (*status, body.as_str())).map_err(String::as_str), expect, "{answer:?}");
    };
    check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Ok((200, "hello")));
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", Ok((200, "hello")));
    check("HTTP/1.0 200 OK\r\n\r\nhello", Ok((200, "hello")));
    check("HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", Ok((500, "no")));
    check("HTTP/1.1 204 No Content\r\n\r\n", Ok((204, "")));
    check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", Ok((200, "x")));
    check("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", Err("the body ended after 5 of 9 bytes"));
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Err("the body ended within its chunks"));
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", Err("the body ended within its chunks"));
    check("HTTP/1.1 200 OK\r\nContent-Le", Err("closed the connection within the headers"));
    check("", Err("closed the connection without an answer"));
    check("SSH-2.0-OpenSSH_9.9\r\n", Err("the answer is not HTTP/1.1"));
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Err("a chunk has no size"));
    check("HTTP/1.1 101 Switching Protocols\r\n\r\n", Err("sent interim answers only"));
}

#[test]
fn what_the_server_fills_is_limited() {
    let server = Server::plain(|_, stream| {
        read_request(stream);
        write(stream, "HTTP/1.1 200 OK\r\n");
        while write(stream, "X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n") {}
    });
    let error = fetch(&client(), &get(server.url("http")), relaxed()).expect_err("endless headers");
    assert!(matches!(&error, NetError::Protocol { cause, .. } if cause.contains("65536")), "{error}");

    let server = Server::plain(answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n123456"));
    let small = Bounds { body_bytes_max: 5, ..relaxed() };
    let error = fetch(&client(), &get(server.url("http")), small).expect_err("too long");
    assert!(matches!(&error, NetError::Protocol { cause, .. } if cause == "a body of more than 5 bytes"), "{error}");
    let mut response = client().send(&get(server.url("http")), relaxed()).expect("answers");
    assert!(response.read_to_end(5).is_err());
    let mut response = client().send(&get(server.url("http")), relaxed()).expect("answers");
    assert_eq!(response.read_to_end(6).expect("fits"), b"123456");
}

#[test]
fn a_reset_is_never_the_end_of_a_body() {
    let server = Server::raw(|_, mut stream| {
        read_request(&mut stream);
        write(&mut stream, "HTTP/1.1 200 OK\r\n\r\nhello");
        // Waits for the client to have it, then resets instead of closing.
        stay_a_moment(&mut stream);
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })
            .expect("open");
    });
    let mut response = client().send(&get(server.url("http")), relaxed()).expect("answers");
    let error = response.read_to_end(100).expect_err("reset");
    assert!(matches!(&error, NetError::Broken { sent: true, .. }), "{error:?}");
    assert!(NetError::from_io(&response.body.read(&mut [0]).expect_err("stays an error")).is_some());

    // TLS says when it ends, so a connection that is merely closed is cut off.
    let config = tls_config();
    let server = Server::raw(move |_, stream| {
        let mut stream = tls_accept(&config, stream);
        read_request(&mut stream);
        write(&mut stream, "HTTP/1.1 200 OK\r\n\r\nhello");
    });
    let error = fetch(&client(), &get(server.url("https")), relaxed()).expect_err("cut");
    assert!(matches!(&error, NetError::Broken { cause, .. } if cause.contains("without closing")), "{error:?}");
}

fn stay_a_moment(stream: &mut std::net::TcpStream) {
    stream.set_read_timeout(Some(ms(100))).expect("open");
    let _ = stream.read(&mut [0]);
}

#[test]
fn an_answer_before_the_end_of_the_request_is_heard() {
    let server = Server::raw(|_, mut stream| {
        stream.read_exact(&mut [0; 100]).expect("begins");
        write(&mut stream, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
        stream.shutdown(std::net::Shutdown::Write).expect("open");
        let mut scrap = [0; 65536];
        for _ in 0..4 {
            let _ = stream.read(&mut scrap);
        }
    });
    let big = request("POST", server.url("http"), Body::Json(vec![b' '; 32 << 20]));
    match fetch(&client(), &big, relaxed()) {
        Ok(answer) => assert_eq!(answer, (413, "no".to_owned())),
        // The reset may overtake the answer in the kernel; then it must be an error that permits to try again.
        Err(error) => assert!(matches!(error, NetError::Broken { sent: false, .. }), "{error:?}"),
    }
}

#[test]
fn status_and_headers_are_readable_and_redirects_are_followed_on_request_only() {
    let server = Server::plain(answering("HTTP/1.1 429 Slow down\r\nretry-AFTER: 7\r\nContent-Length: 2\r\n\r\n{}"));
    let mut response = client().send(&get(server.url("http")), relaxed()).expect("answers");
    assert_eq!((response.status, response.header("Retry-After"), response.retry_after()), (429, Some("7"), Some(ms(7000))));
    assert_eq!(response.read_to_end(10).expect("body"), b"{}");

    let other = Server::plain(|_, stream| {
        let request = read_request(stream).unwrap_or_default();
        write(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{request}", request.len()));
    });
    let away = other.url("http");
    let server = Server::plain(move |_, stream| {
        while let Some(request) = read_request(stream) {
            let to = if request.starts_with("POST /bot123:SECRET/x ") { "/next" } else { &away };
            write(stream, &format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 4\r\n\r\naway"));
        }
    });
    let mut post = request("POST", server.url("http"), Body::Json(b"{}".to_vec()));
    post.headers = vec![("Authorization".to_owned(), "Bearer t".to_owned()), ("Accept".to_owned(), "text/html".to_owned())];
    let client = client();
    assert_eq!(client.send(&post, relaxed()).expect("answers").status, 302);
    let (mut response, from) = client.send_following(&post, relaxed(), 2).expect("follows");
    let seen = String::from_utf8(response.read_to_end(1000).expect("body")).expect("text");
    assert_eq!(from, other.url("http"));
    assert!(seen.starts_with("GET /bot123:SECRET/x HTTP/1.1\r\n") && seen.contains("text/html") && !seen.contains("Bearer"), "{seen}");
    assert_eq!(server.connections(), 1, "unread redirects do not cost the connection");
    let error = client.send_following(&post, relaxed(), 1).err().expect("too many");
    assert!(error.to_string().ends_with("more than 1 redirects"), "{error}");
}

#[test]
fn bodies_go_to_files_and_come_from_files() {
    let directory = tempfile::tempdir().expect("scratch");
    let source = directory.path().join("source");
    std::fs::write(&source, vec![b'z'; 300_000]).expect("scratch");
    let server = Server::plain(|_, stream| {
        let request = read_request(stream).unwrap_or_default();
        let body = request.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        write(stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    });
    let upload = || {
        let file = std::fs::File::open(&source).expect("there");
        let form = Multipart::new().text("chat_id", "5").file("document", "z.txt", "text/plain", file).expect("regular");
        request("POST", server.url("http"), Body::Multipart(form))
    };
    let target = directory.path().join("target");
    let length = client().send(&upload(), relaxed()).expect("answers").save(&target, 1 << 20).expect("fits");
    let saved = std::fs::read_to_string(&target).expect("saved");
    assert_eq!(saved.len() as u64, length);
    assert_eq!(saved.matches('z').count(), 300_001);
    assert!(saved.contains("name=\"chat_id\"\r\n\r\n5\r\n") && saved.contains("filename=\"z.txt\""));
    let mut response = client().send(&upload(), relaxed()).expect("answers");
    assert!(matches!(response.save(&target, 1 << 20), Err(SaveError::File { .. })), "does not overwrite");
    let target = directory.path().join("other");
    assert!(matches!(response.save(&target, 1000), Err(SaveError::TooLarge { bytes_max: 1000 })));
    assert!(!target.exists());
}

#[test]
fn certificates_are_checked() {
    let server = Server::tls(answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    assert_eq!(fetch(&client(), &get(server.url("https")), relaxed()).expect("trusted"), (200, "ok".to_owned()));
    let by_name = format!("https://localhost:{}/", server.address.port());
    assert_eq!(fetch(&client(), &get(by_name), relaxed()).expect("trusted"), (200, "ok".to_owned()));
    let check = |options: &NetOptions, url: String, expect: &str| {
        let error = fetch(&Client::new(options, &CancelToken::new()), &get(url), relaxed()).expect_err(expect);
        assert!(matches!(&error, NetError::Tls { cause, .. } if cause.contains(expect)), "{error}");
        assert!(!error.request_sent());
    };
    check(&NetOptions::default(), server.url("https"), "unknown authority");
    check(&options(), format!("https://other.localhost:{}/", server.address.port()), "not valid for name");
    let missing = NetOptions { tls_ca_file: Some("/nonexistent/ca.pem".into()), ..options() };
    check(&missing, server.url("https"), "[net] ca_file");
    let empty = NetOptions { tls_ca_file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into()), ..options() };
    check(&empty, server.url("https"), "no certificate");
}

/// Speaks CONNECT, and passes on what is sent to whichever port is named. Plain requests are answered by itself.
fn proxy_server(status: &'static str) -> Server {
    let config = tls_config();
    Server::raw(move |_, mut stream| {
        let Some(request) = read_request(&mut stream) else { return };
        let line = request.lines().next().unwrap_or_default().to_owned();
        if !request.contains("Proxy-Authorization: Basic dTpw\r\n") {
            write(&mut stream, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
        } else if line.starts_with("CONNECT gateway.test:443 ") {
            write(&mut stream, &format!("HTTP/1.1 {status}\r\n\r\n"));
            let mut inner = tls_accept(&config, stream);
            let seen = read_request(&mut inner).unwrap_or_default();
            write(&mut inner, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{seen}", seen.len()));
            stay_silent(&mut inner);
        } else {
            write(&mut stream, &format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len()));
            stay_silent(&mut stream);
        }
    })
}

#[test]
fn proxies_are_used() {
    let through = |server: &Server, user: &str| {
        let address = format!("http://{user}@{}", server.address);
        let proxies = Proxies::from_lookup(|name| (name == "ALL_PROXY").then(|| address.clone()));
        Client { proxies, ..client() }
    };
    let server = proxy_server("200 Connection established");
    let body = fetch(&through(&server, "u:p"), &get("https://gateway.test/a".into()), relaxed()).expect("tunnel").1;
    assert!(body.starts_with("GET /a HTTP/1.1\r\n") && body.contains("Host: gateway.test\r\n") && !body.contains("Proxy"), "{body}");
    let body = fetch(&through(&server, "u:p"), &get("http://gateway.test:81/a?b".into()), relaxed()).expect("absolute form").1;
    assert_eq!(body, "GET http://gateway.test:81/a?b HTTP/1.1");
    let error = fetch(&through(&server, "u:wrong"), &get("https://gateway.test/".into()), relaxed()).expect_err("refused");
    assert!(matches!(&error, NetError::Connect { cause, .. } if cause.to_string().contains("HTTP 407")), "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
    let error = fetch(&through(&proxy_server("403 No"), "u:p"), &get("https://gateway.test/".into()), relaxed()).expect_err("refused");
    assert!(matches!(&error, NetError::Connect { cause, .. } if cause.to_string().contains("HTTP 403")), "{error}");
    let silent = Server::plain(|_, stream| stay_silent(stream));
    let error = fetch(&through(&silent, "u:p"), &get("https://gateway.test/".into()), bounds(ms(150), LONG, LONG)).expect_err("silent");
    assert!(matches!(&error, NetError::Timeout { phase: phase::PROXY, .. }), "{error:?}");
}
