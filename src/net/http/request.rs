//! What is sent: the request as callers build it, and how it goes onto the wire.

use crate::limits;
use crate::net::error::NetError;
use crate::net::proxy::Proxy;
use crate::net::stream::Stream;
use crate::net::url::Url;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

/// A request to be sent with [`Client::send`](super::Client::send).
pub struct Request {
    pub method: &'static str,
    /// May contain a secret (Telegram): it is never put into an error or a log line. Errors name `host:port` only.
    pub url: String,
    /// Besides those that the client sets: `Host`, `Content-Length`, `Connection`, and, unless they are given here,
    /// `Content-Type`, `User-Agent`, `Accept`, `Accept-Encoding: identity`.
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

/// The body of a request. Its length is always known.
pub enum Body {
    Empty,
    Json(Vec<u8>),
    Bytes { content_type: String, bytes: Vec<u8> },
    Multipart(Multipart),
}

/// A `multipart/form-data` body, RFC 7578. Files are read from disk while they are sent.
pub struct Multipart {
    boundary: String,
    parts: Vec<Part>,
}

struct Part {
    head: String,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    File { file: File, bytes: u64 },
}

impl Default for Multipart {
    fn default() -> Self {
        Self::new()
    }
}

impl Multipart {
    #[must_use]
    pub fn new() -> Self {
        // 124 random bits: no content contains it by chance.
        Self { boundary: format!("----hermes-gateway-{:016x}{:015x}", fastrand::u64(..), fastrand::u64(..) >> 4), parts: Vec::new() }
    }

    /// Adds a form field.
    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        let head = format!("Content-Disposition: form-data; name=\"{}\"\r\n\r\n", quoted(name));
        self.with(head, Content::Bytes(value.as_bytes().to_vec()))
    }

    /// Adds a file that is in memory.
    #[must_use]
    pub fn bytes(self, name: &str, file_name: &str, content_type: &str, bytes: Vec<u8>) -> Self {
        self.with(file_head(name, file_name, content_type), Content::Bytes(bytes))
    }

    /// Adds a file on disk. It is sent as long as it is now.
    ///
    /// # Errors
    /// If it is not a regular file: reading anything else could block.
    pub fn file(self, name: &str, file_name: &str, content_type: &str, file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only regular files can be sent"));
        }
        Ok(self.with(file_head(name, file_name, content_type), Content::File { file, bytes: metadata.len() }))
    }

    fn with(mut self, head: String, content: Content) -> Self {
        self.parts.push(Part { head: format!("--{}\r\n{head}", self.boundary), content });
        self
    }

    fn end(&self) -> String {
        format!("--{}--\r\n", self.boundary)
    }

    fn length(&self) -> u64 {
        let content = |part: &Part| match &part.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File { bytes, .. } => *bytes,
        };
        let parts: u64 = self.parts.iter().map(|part| part.head.len() as u64 + content(part) + 2).sum();
        parts + self.end().len() as u64
    }

    fn send(&self, outlet: &mut Outlet<'_>) -> Result<(), NetError> {
        for part in &self.parts {
            outlet.write(part.head.as_bytes())?;
            match &part.content {
                Content::Bytes(bytes) => outlet.write(bytes)?,
                Content::File { file, bytes } => outlet.write_file(file, *bytes)?,
            }
            outlet.write(b"\r\n")?;
        }
        outlet.write(self.end().as_bytes())
    }
}

fn file_head(name: &str, file_name: &str, content_type: &str) -> String {
    let (name, file_name) = (quoted(name), quoted(file_name));
    let content_type: String = content_type.chars().filter(|c| !c.is_control()).collect();
    format!("Content-Disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\nContent-Type: {content_type}\r\n\r\n")
}

/// Escapes as browsers do (HTML standard, "multipart/form-data encoding algorithm").
fn quoted(text: &str) -> String {
    text.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

/// Small writes are gathered, so that a short request is one packet and one TLS record.
struct Outlet<'a> {
    stream: &'a mut Stream,
    gathered: Vec<u8>,
}

impl Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), NetError> {
        let large = bytes.len() > limits::READ_BYTES;
        if large || self.gathered.len() + bytes.len() > 2 * limits::READ_BYTES {
            self.flush()?;
        }
        if large {
            return self.stream.write_all(bytes).map_err(|error| NetError::take_from_io(error, self.stream.peer()));
        }
        self.gathered.extend_from_slice(bytes);
        Ok(())
    }

    fn write_file(&mut self, file: &File, bytes: u64) -> Result<(), NetError> {
        let mut buffer = vec![0; 4 * limits::READ_BYTES];
        let mut at = 0;
        while at < bytes {
            let wanted = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = file.read_at(&mut buffer[..wanted], at);
            let count = match read {
                Ok(0) => Err("the file to be sent has become shorter".to_owned()),
                Ok(count) => Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(format!("the file to be sent cannot be read: {error}")),
            };
            // Half a body cannot be completed: the connection is given up.
            let peer = self.stream.peer();
            let count = count.map_err(|cause| NetError::Broken { peer: peer.to_owned(), cause, sent: false })?;
            self.write(&buffer[..count])?;
            at += count as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), NetError> {
        let sent = self.stream.write_all(&self.gathered);
        self.gathered.clear();
        sent.map_err(|error| NetError::take_from_io(error, self.stream.peer()))
    }
}

/// A request on its way, at whichever address redirects have led it to.
pub(super) struct Outgoing<'a> {
    pub(super) method: &'a str,
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(String, String)],
    pub(super) body: &'a Body,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(request: &'a Request, url: &'a Url) -> Self {
        Self { method: request.method, url, headers: &request.headers, body: &request.body }
    }

    /// RFC 9110 section 9.2.2.
    pub(super) fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    /// Request line and headers. `proxy`: the one that is to be asked in absolute form.
    pub(super) fn head(&self, user_agent: &str, proxy: Option<&Proxy>) -> Result<Vec<u8>, NetError> {
        let given = |wanted: &str| self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let mut lines = String::with_capacity(512);
        match proxy {
            Some(_) => lines.push_str(&format!("{} http://{}{} HTTP/1.1\r\n", self.method, self.url.target.authority(), self.url.path)),
            None => lines.push_str(&format!("{} {} HTTP/1.1\r\n", self.method, self.url.path)),
        }
        let mut add = |name: &str, value: &str| {
            // Names the header and not its value, which may be a secret with a line break at its end.
            let bad = value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') || name.is_empty() || !name.bytes().all(is_token);
            if bad {
                return Err(NetError::BadUrl(format!("the header {name:?} holds a character that cannot be sent (a line break?)")));
            }
            lines.push_str(&format!("{name}: {value}\r\n"));
            Ok(())
        };
        if !given("host") {
            add("Host", &self.url.target.authority())?;
        }
        for (name, value) in self.headers {
            let ours = ["content-length", "transfer-encoding", "connection"].iter().any(|own| name.eq_ignore_ascii_case(own));
            if !ours {
                add(name, value.trim())?;
            }
        }
        for (name, value) in [("User-Agent", user_agent), ("Accept", "*/*"), ("Accept-Encoding", "identity")] {
            if !given(name) && !value.is_empty() {
                add(name, value)?;
            }
        }
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.as_deref()) {
            add("Proxy-Authorization", authorization)?;
        }
        let (content_type, length) = match self.body {
            Body::Empty => (None, 0),
            Body::Json(bytes) => (Some("application/json".to_owned()), bytes.len() as u64),
            Body::Bytes { content_type, bytes } => (Some(content_type.clone()), bytes.len() as u64),
            Body::Multipart(form) => (Some(format!("multipart/form-data; boundary={}", form.boundary)), form.length()),
        };
        if let Some(content_type) = content_type.filter(|_| !given("content-type")) {
            add("Content-Type", &content_type)?;
        }
        if !matches!(self.body, Body::Empty) || matches!(self.method, "POST" | "PUT" | "PATCH") {
            add("Content-Length", &length.to_string())?;
        }
        lines.push_str("\r\n");
        Ok(lines.into_bytes())
    }

    /// Sends everything. On `Ok` it is out completely.
    pub(super) fn send(&self, head: &[u8], stream: &mut Stream) -> Result<(), NetError> {
        let mut outlet = Outlet { stream, gathered: Vec::with_capacity(head.len()) };
        outlet.write(head)?;
        match self.body {
            Body::Empty => {}
            Body::Json(bytes) | Body::Bytes { bytes, .. } => outlet.write(bytes)?,
            Body::Multipart(form) => form.send(&mut outlet)?,
        }
        outlet.flush()
    }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Headers that say nothing about who asks. Only these go along when a redirect leads to another host.
pub(super) fn is_harmless(name: &str) -> bool {
    ["accept", "accept-language", "content-type", "range", "user-agent"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &'static str, headers: &[(&str, &str)], body: Body) -> Result<String, NetError> {
        let url = Url::parse("http://x.org:81/a?b").expect("good");
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let outgoing = Outgoing { method, url: &url, headers: &headers, body: &body };
        outgoing.head("test/1", None).map(|head| String::from_utf8(head).expect("text"))
    }

    #[test]
    fn heads_are_complete_and_cannot_be_split() {
        let always = "Accept-Encoding: identity\r\n";
        let check = |method, headers: &[(&str, &str)], body, expect: &str| {
            assert_eq!(head(method, headers, body).expect("good"), expect.replace('\n', "\r\n"));
        };
        check("GET", &[], Body::Empty, "GET /a?b HTTP/1.1\nHost: x.org:81\nUser-Agent: test/1\nAccept: */*\nAccept-Encoding: identity\n\n");
        check(
            "POST",
            &[("x-api-key", "k"), ("accept", "text/event-stream"), ("Connection", "close"), ("content-length", "9")],
            Body::Json(b"{}".to_vec()),
            "POST /a?b HTTP/1.1\nHost: x.org:81\nx-api-key: k\naccept: text/event-stream\nUser-Agent: test/1\nAccept-Encoding: identity\nContent-Type: application/json\nContent-Length: 2\n\n",
        );
        assert!(head("POST", &[], Body::Empty).expect("good").ends_with(&format!("{always}Content-Length: 0\r\n\r\n")));
        // A secret read from a file often ends in a line break: that is mended. One within is refused, and not repeated.
        assert!(head("GET", &[("authorization", "Bearer t\n")], Body::Empty).expect("good").contains("\r\nauthorization: Bearer t\r\n"));
        for (name, value) in [("authorization", "secret\r\nX: y"), ("a b", "secret"), ("", "secret"), ("a", "secret\0")] {
            let error = head("GET", &[(name, value)], Body::Empty).expect_err("cannot be sent");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn forms_are_as_long_as_they_say() {
        let form = Multipart::new().text("chat", "7\"7").bytes("document", "a\"b\r\n.txt", "text/plain\r\nX: y", b"hello".to_vec());
        let (boundary, length) = (form.boundary.clone(), form.length());
        let expect = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"chat\"\r\n\r\n7\"7\r\n--{boundary}\r\nContent-Disposition: \
             form-data; name=\"document\"; filename=\"a%22b%0D%0A.txt\"\r\nContent-Type: text/plainX: y\r\n\r\nhello\r\n--{boundary}--\r\n"
        );
        assert_eq!(length, expect.len() as u64);
        let written: String = form.parts.iter().fold(String::new(), |text, part| match &part.content {
            Content::Bytes(bytes) => format!("{text}{}{}\r\n", part.head, String::from_utf8_lossy(bytes)),
            Content::File { .. } => text,
        });
        assert_eq!(format!("{written}{}", form.end()), expect);
        assert!(boundary.len() <= 70, "RFC 2046 section 5.1.1");
    }
}
