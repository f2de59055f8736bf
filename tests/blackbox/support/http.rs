//! A small HTTP/1.1 server for the fakes: a thread a connection, keep-alive, and every way of misbehaving.
//!
//! It knows nothing of the code under test, so that both can be wrong only independently of each other.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests larger than this are refused; the gateway uploads at most 50 MB.
const BODY_BYTES_MAX: usize = 64 << 20;

/// How a server misbehaves, instead of or after its answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Takes the request and never answers.
    BlackHole,
    /// RST instead of an answer.
    Reset,
    /// The right answer, a byte at a time, so slowly that it never ends.
    SlowLoris,
    /// Bytes that are not HTTP.
    Garbage,
    /// HTTP 200 with a page instead of JSON, as a captive portal sends it.
    NotJson,
    /// An error status as the real server words it.
    Status { code: u16, retry_after: Option<u64> },
    /// FIN instead of an answer; the other direction stays open.
    HalfClose,
    /// Does what was asked, announces the whole answer, sends half of it and closes.
    AnswerThenCut,
    /// Does what was asked and closes without an answer.
    ApplyThenDrop,
    /// Does what was asked and never answers.
    ApplyThenHold,
    /// Does what was asked, and answers after this long.
    Delay(Duration),
    /// A body of this many bytes without an end of line.
    Oversized(usize),
    /// HTTP 200 with JSON whose text is not UTF-8.
    InvalidUtf8,
    /// The right answer, then closes the connection.
    CloseAfter,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
}

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    KeepAlive,
    Close,
    Reset,
}

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    stop: Arc<AtomicBool>,
    /// Counts up from 0, in the order in which a server accepted them.
    pub number: u64,
}

impl Connection {
    /// The server is going away: whoever waits must come back.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let count = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// A second handle on the connection, for senders on other threads. It does not hold the connection open: whoever
    /// serves it shuts it down at the end.
    pub fn other_end(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        if count > BODY_BYTES_MAX {
            return Err(io::Error::other("body too large"));
        }
        while self.buffer.len() < count {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// The next request, or `None` at the end of the connection.
    pub fn read_request(&mut self) -> io::Result<Option<Request>> {
        let Some(first) = self.line()? else { return Ok(None) };
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(io::Error::other(format!("not a request line: {first:?}")));
        };
        if !version.starts_with("HTTP/1.") {
            return Err(io::Error::other(format!("not HTTP/1: {first:?}")));
        }
        let mut request = Request { method: method.to_owned(), target: target.to_owned(), headers: Vec::new(), body: Vec::new() };
        loop {
            let Some(line) = self.line()? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other("header without a colon"))?;
            request.headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        if request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            self.raw(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        request.body = self.read_body(&request)?;
        Ok(Some(request))
    }

    fn read_body(&mut self, request: &Request) -> io::Result<Vec<u8>> {
        if request.header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked")) {
            let mut body = Vec::new();
            loop {
                let line = self.line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
                if size == 0 {
                    while self.line()?.is_some_and(|line| !line.is_empty()) {}
                    return Ok(body);
                }
                body.extend(self.exactly(size)?);
                self.line()?;
            }
        }
        let length = request.header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
        self.exactly(length)
    }

    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    pub fn respond(&mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) -> io::Result<()> {
        self.raw(&response(status, headers, body))
    }

    /// One byte every 50 ms until the peer or the server gives up. The last byte never comes.
    pub fn trickle(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().take(bytes.len().saturating_sub(1)) {
            if self.raw(&[*byte]).is_err() || self.wait(Duration::from_millis(50)) {
                return;
            }
        }
        self.hold();
    }

    /// Waits this long, or until the peer or the server goes away; then `true`.
    pub fn wait(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            if self.stopping() || self.peer_gone() {
                return true;
            }
            let now = Instant::now();
            if now >= end {
                return false;
            }
            std::thread::park_timeout((end - now).min(Duration::from_millis(5)));
        }
    }

    /// Whether the peer has closed or reset the connection.
    pub fn peer_gone(&self) -> bool {
        let mut byte = [0];
        if self.stream.set_nonblocking(true).is_err() {
            return true;
        }
        let seen = self.stream.peek(&mut byte);
        let _ = self.stream.set_nonblocking(false);
        match seen {
            Ok(count) => count == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// Keeps the connection open and silent until the peer or the server closes it.
    pub fn hold(&mut self) {
        let mut sink = [0; 4096];
        while !matches!(self.stream.read(&mut sink), Ok(0) | Err(_)) {}
    }

    pub fn half_close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        self.hold();
    }
}

/// The bytes of an answer with a known length.
pub fn response(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} {}\r\nContent-Length: {}\r\n", reason(status), body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        409 => "Conflict",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        529 => "Overloaded",
        _ => "Status",
    }
}

/// The answer to one request.
pub type Handler = dyn Fn(&Request, &mut Connection) -> Next + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    open: Mutex<Vec<(u64, TcpStream)>>,
    /// Of the present listener; a new one after `go_down` and `come_back`.
    stop: Mutex<Arc<AtomicBool>>,
    accepted: AtomicU64,
}

/// A server on loopback. Ends with its connections when dropped.
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request, &mut Connection) -> Next + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let address = listener.local_addr().expect("the port of a listener");
        let stop = Arc::new(AtomicBool::new(false));
        let shared =
            Shared { handler: Box::new(handler), open: Mutex::default(), stop: Mutex::new(Arc::clone(&stop)), accepted: AtomicU64::new(0) };
        let shared = Arc::new(shared);
        accept(listener, Arc::clone(&shared), stop);
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections ever accepted.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Nobody listens any more, and all connections are cut: a host that is down.
    pub fn go_down(&self) {
        let stop = Arc::clone(&self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner));
        if stop.swap(true, Ordering::SeqCst) {
            return;
        }
        // Wakes the accepting thread, which then drops the listener.
        let _ = TcpStream::connect(self.address);
        self.cut_all();
        // Until the listener is gone, a client could still get in, and be reset.
        super::poll::eventually(Duration::from_secs(5), "nobody listens", || TcpStream::connect(self.address).is_err().then_some(()));
        self.cut_all();
    }

    /// Listens again on the same port.
    pub fn come_back(&self) {
        let listener = super::poll::eventually(Duration::from_secs(5), "the port is free again", || TcpListener::bind(self.address).ok());
        let stop = Arc::new(AtomicBool::new(false));
        *self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&stop);
        accept(listener, Arc::clone(&self.shared), stop);
    }

    /// Cuts all connections; new ones are accepted.
    pub fn cut_all(&self) {
        for (_, stream) in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.go_down();
    }
}

fn accept(listener: TcpListener, shared: Arc<Shared>, stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.set_nodelay(true);
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            std::thread::spawn(move || serve(number, stream, &shared, stop));
        }
    });
}

fn serve(number: u64, stream: TcpStream, shared: &Shared, stop: Arc<AtomicBool>) {
    let Ok(copy) = stream.try_clone() else { return };
    shared.open.lock().unwrap_or_else(PoisonError::into_inner).push((number, copy));
    let mut connection = Connection { stream, buffer: Vec::new(), stop, number };
    let mut next = Next::KeepAlive;
    while next == Next::KeepAlive && !connection.stopping() {
        match connection.read_request() {
            Ok(Some(request)) => next = (shared.handler)(&request, &mut connection),
            Ok(None) | Err(_) => break,
        }
    }
    // The copy must be gone before the last descriptor is closed, else neither FIN nor RST is sent.
    shared.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != number);
    match next {
        Next::Reset => reset(connection.stream),
        _ => {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Closes with RST.
pub fn reset(stream: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).expect("SO_LINGER");
    drop(stream);
}

/// Answers with a fault. `apply` does what was asked and gives the right answer's bytes.
pub fn misbehave(fault: &Fault, connection: &mut Connection, apply: impl FnOnce() -> Vec<u8>) -> Next {
    match fault {
        Fault::BlackHole => connection.hold(),
        Fault::Reset => return Next::Reset,
        Fault::SlowLoris => {
            let answer = apply();
            connection.trickle(&answer);
        }
        Fault::Garbage => {
            let _ = connection.raw(b"\x16\x03\x01\x02\x00\x01\x00 SSH-2.0-nonsense\r\n\r\n\0\xff\xfe{{{");
        }
        Fault::NotJson => {
            let page = b"<html><body>Please log in to the hotel network</body></html>";
            return sent(connection.respond(200, &[("Content-Type", "text/html")], page));
        }
        Fault::Status { code, retry_after } => return sent(connection.raw(&status_answer(*code, *retry_after))),
        Fault::HalfClose => connection.half_close(),
        Fault::AnswerThenCut => {
            let answer = apply();
            let head = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
            let _ = connection.raw(&answer[..head + (answer.len() - head) / 2]);
        }
        Fault::ApplyThenDrop => drop(apply()),
        Fault::ApplyThenHold => {
            apply();
            connection.hold();
        }
        Fault::Delay(time) => {
            let answer = apply();
            return if connection.wait(*time) { Next::Close } else { sent(connection.raw(&answer)) };
        }
        Fault::Oversized(bytes) => oversized(connection, *bytes),
        Fault::InvalidUtf8 => {
            let body = b"{\"ok\":true,\"result\":[{\"update_id\":1,\"message\":{\"text\":\"\xff\xfe\xc3\x28\"}}]}";
            return sent(connection.respond(200, &[("Content-Type", "application/json")], body));
        }
        Fault::CloseAfter => {
            let answer = apply();
            let head = answer.windows(2).position(|window| window == b"\r\n").map_or(0, |at| at + 2);
            let _ = connection.raw(&[&answer[..head], b"Connection: close\r\n", &answer[head..]].concat());
        }
    }
    Next::Close
}

fn sent(result: io::Result<()>) -> Next {
    if result.is_ok() { Next::KeepAlive } else { Next::Close }
}

fn oversized(connection: &mut Connection, bytes: usize) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n{{\"ok\":true,\"result\":\"");
    if connection.raw(head.as_bytes()).is_err() {
        return;
    }
    let block = vec![b'x'; 1 << 16];
    for _ in 0..bytes >> 16 {
        if connection.raw(&block).is_err() {
            return;
        }
    }
}

fn status_answer(code: u16, retry_after: Option<u64>) -> Vec<u8> {
    let description = match (code, retry_after) {
        (429, Some(seconds)) => format!("Too Many Requests: retry after {seconds}"),
        (401, _) => "Unauthorized".to_owned(),
        (403, _) => "Forbidden: bot was blocked by the user".to_owned(),
        (404, _) => "Not Found".to_owned(),
        (409, _) => "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running".to_owned(),
        (502, _) => {
            // A proxy in between answers in HTML.
            let page = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>";
            return response(502, &[("Content-Type", "text/html")], page);
        }
        _ => reason(code).to_owned(),
    };
    let mut body = serde_json::json!({"ok": false, "error_code": code, "description": description});
    if let Some(seconds) = retry_after {
        body["parameters"] = serde_json::json!({"retry_after": seconds});
    }
    response(code, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}
