//! Status line and headers of an answer: reading them within limits, and what they say about the body.

use crate::limits;
use crate::net::error::NetError;
use crate::net::stream::Stream;
use std::io::Read as _;
use std::time::Duration;

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::net) struct Head {
    pub(in crate::net) status: u16,
    pub(super) headers: Vec<(String, String)>,
    /// The connection may be used again once the body has been read.
    pub(super) keep_alive: bool,
    /// How long the server keeps an idle connection, as far as it says.
    pub(super) idle: Duration,
}

/// Where the body ends, RFC 9112 section 6.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

/// Reads a head from `stream`. Bytes that came after it stay in `buffer`.
pub(in crate::net) fn read_head(stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<Head, NetError> {
    let protocol = |stream: &Stream, cause: String| NetError::Protocol { peer: stream.peer().to_owned(), cause };
    let mut searched = 0;
    loop {
        if searched == 0 {
            // Empty lines before the status line are to be ignored, RFC 9112 section 2.2.
            let blank = buffer.iter().take_while(|byte| **byte == b'\r' || **byte == b'\n').count();
            buffer.drain(..blank);
        }
        let end = head_end(buffer, searched);
        if end.unwrap_or(buffer.len()) > limits::HEAD_BYTES_MAX {
            return Err(protocol(stream, format!("headers of more than {} bytes", limits::HEAD_BYTES_MAX)));
        }
        if !begins_like_http(buffer) {
            return Err(protocol(stream, "the answer is not HTTP/1.1".to_owned()));
        }
        if let Some(end) = end {
            let head = Head::parse(&buffer[..end]).map_err(|cause| protocol(stream, cause))?;
            buffer.drain(..end);
            return Ok(head);
        }
        searched = buffer.len().saturating_sub(2);
        let before = buffer.len();
        buffer.resize(before + limits::READ_BYTES, 0);
        let read = stream.read(&mut buffer[before..]);
        buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        if read.map_err(|error| NetError::take_from_io(error, stream.peer()))? == 0 {
            let cause = if before == 0 { "closed the connection without an answer" } else { "closed the connection within the headers" };
            return Err(NetError::Broken { peer: stream.peer().to_owned(), cause: cause.to_owned(), sent: true });
        }
    }
}

/// The index after the empty line that ends the head. Only what lies after `searched` is new, so that a trickle costs
/// linear time.
fn head_end(buffer: &[u8], searched: usize) -> Option<usize> {
    let mut at = searched;
    while let Some(newline) = buffer[at..].iter().position(|byte| *byte == b'\n') {
        at += newline + 1;
        match buffer[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

fn begins_like_http(buffer: &[u8]) -> bool {
    const START: &[u8] = b"HTTP/1.";
    let length = buffer.len().min(START.len());
    buffer[..length] == START[..length]
}

impl Head {
    /// `bytes` end with the empty line.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut space = [httparse::EMPTY_HEADER; limits::HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut space);
        match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err("the headers are cut off".to_owned()),
            Err(httparse::Error::TooManyHeaders) => return Err(format!("more than {} headers", limits::HEADERS_MAX)),
            Err(error) => return Err(format!("the headers are not HTTP: {error}")),
        }
        let status = parsed.code.filter(|code| (100..600).contains(code)).ok_or("the status is not one of HTTP's")?;
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
        let headers: Vec<_> = parsed.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect();
        let says = |wanted: &str| tokens(&headers, "connection").any(|token| token.eq_ignore_ascii_case(wanted));
        let keep_alive = !says("close") && (parsed.version == Some(1) || says("keep-alive"));
        let announced = tokens(&headers, "keep-alive").find_map(|token| token.strip_prefix("timeout=")?.trim().parse().ok());
        // A second less than announced, so that the server does not close it while a request is on its way.
        let idle = announced.map_or(limits::IDLE_CONNECTION, |seconds: u64| Duration::from_secs(seconds.saturating_sub(1)));
        Ok(Self { status, keep_alive, idle, headers })
    }

    pub(super) fn framing(&self, method: &str) -> Result<Framing, String> {
        if method == "HEAD" || matches!(self.status, 100..200 | 204 | 304) {
            return Ok(Framing::Length(0));
        }
        let codings: Vec<_> = tokens(&self.headers, "transfer-encoding").collect();
        let mut lengths = tokens(&self.headers, "content-length");
        match codings.as_slice() {
            [] => {}
            // A length beside it must not be believed (request smuggling), RFC 9112 section 6.3.
            [only] if only.eq_ignore_ascii_case("chunked") => return Ok(Framing::Chunked),
            _ => return Err("the body has a transfer coding that was not asked for".to_owned()),
        }
        let Some(length) = lengths.next() else { return Ok(Framing::Close) };
        if lengths.any(|other| other != length) {
            return Err("two different content lengths".to_owned());
        }
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length = length.parse().ok().filter(|_| digits).ok_or("the content length is not a number")?;
        Ok(Framing::Length(length))
    }
}

/// The comma-separated words of all headers of that name.
fn tokens<'a>(headers: &'a [(String, String)], wanted: &'a str) -> impl Iterator<Item = &'a str> {
    let values = headers.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
    values.flat_map(|(_, value)| value.split(',').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn heads_say_how_the_body_ends_and_whether_the_connection_stays() {
        let check = |text: &str, expect: &str| {
            let result = Head::parse(format!("{text}\r\n\r\n").as_bytes()).and_then(|head| {
                let framing = head.framing("GET")?;
                Ok(format!("{} {framing:?} {} {}", head.status, head.keep_alive, head.idle.as_secs()))
            });
            assert_eq!(result.unwrap_or_else(|error| error), expect, "{text}");
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 5", "200 Length(5) true 30");
        check("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nCONTENT-LENGTH: 5, 5", "200 Length(5) true 30");
        check("HTTP/1.1 200\r\nContent-Length: 5\r\nContent-Length: 6", "two different content lengths");
        check("HTTP/1.1 200\r\nContent-Length: +5", "the content length is not a number");
        check("HTTP/1.1 200\r\nContent-Length: 99999999999999999999", "the content length is not a number");
        check("HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\nContent-Length: 5", "200 Chunked true 30");
        check("HTTP/1.1 200\r\nTransfer-Encoding: gzip, chunked", "the body has a transfer coding that was not asked for");
        check("HTTP/1.1 200 OK", "200 Close true 30");
        check("HTTP/1.1 204 No Content\r\nConnection: foo, Close", "204 Length(0) false 30");
        check("HTTP/1.0 200 OK\r\nContent-Length: 1", "200 Length(1) false 30");
        check("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5, max=9", "200 Length(1) true 4");
        check("HTTP/1.1 999 Odd", "the status is not one of HTTP's");
        check("HTTP/1.1 200 OK\r\nbroken header", "the headers are not HTTP: invalid header name");
    }

    #[test]
    fn the_end_of_the_head_is_found_at_any_cut() {
        let text = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\n\n";
        for cut in 0..text.len() {
            let searched = cut.saturating_sub(2);
            let early = head_end(&text[..cut], 0);
            assert_eq!(early, (cut >= 25).then_some(25), "{cut}");
            if early.is_none() {
                assert_eq!(head_end(text, searched), Some(25), "{cut}");
            }
        }
        assert_eq!(head_end(b"HTTP/1.1 200 OK\nA: b\n\nx", 0), Some(22));
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for head in [&bytes[..], &[b"HTTP/1.1 200 OK\r\n", &bytes[..]].concat()] {
                if let Ok(head) = Head::parse(head) {
                    let _ = head.framing("GET");
                }
                let _ = head_end(head, 0);
            }
        }
    }
}
