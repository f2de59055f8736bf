//! JSON over HTTP, as the platforms' interfaces have it: one request, one answer, both bounded.

use super::{AdapterError, SendError};
use crate::clock::Deadline;
use crate::limits;
use crate::net::{Body, Bounds, Client, NetError, NetOptions, Request, Response, find_header};
use crate::thread::{CancelToken, Cancelled};
use serde_json::Value;
use std::time::Duration;

/// What a server answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// From the header `Retry-After`, at most [`limits::RETRY_AFTER_MAX`].
    pub retry_after: Option<Duration>,
    /// `Null` if the answer is not JSON.
    pub json: Value,
    /// The beginning of an answer that is not JSON, for messages.
    pub text: String,
}

impl Answer {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }
}

/// A client for one thread and purpose, over connections that end with one token.
pub struct Rest {
    client: Client,
}

impl Rest {
    #[must_use]
    pub fn new(net: &NetOptions, token: &CancelToken) -> Self {
        Self { client: Client::new(net, token) }
    }

    /// Sends `body` (nothing if `None`) and reads the answer, whatever its status, at most [`limits::BODY_BYTES_MAX`].
    ///
    /// # Errors
    /// [`NetError`]: there is no answer. None of its texts holds the address's path or a header.
    pub fn call(
        &self,
        method: &'static str,
        url: String,
        headers: Vec<(String, String)>,
        body: Option<&Value>,
        deadline: Deadline,
    ) -> Result<Answer, NetError> {
        let body = body.map_or(Body::Empty, |body| Body::Json(body.to_string().into_bytes()));
        self.send(&Request { method, url, headers, body }, deadline)
    }

    /// As [`Rest::call`], with any request.
    ///
    /// # Errors
    /// As [`Rest::call`].
    pub fn send(&self, request: &Request, deadline: Deadline) -> Result<Answer, NetError> {
        let bounds = Bounds { headers: deadline, silence: limits::REST_SILENCE, total: deadline, body_bytes_max: limits::BODY_BYTES_MAX };
        let mut response = self.client.send(request, bounds)?;
        let bytes = response.read_to_end(limits::BODY_BYTES_MAX)?;
        let (json, text) = match serde_json::from_slice(&bytes) {
            Ok(json) => (json, String::new()),
            Err(_) => (Value::Null, readable(&String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]), 200)),
        };
        let retry_after = response.retry_after().map(|wait| wait.min(limits::RETRY_AFTER_MAX));
        Ok(Answer { status: response.status, headers: std::mem::take(&mut response.headers), retry_after, json, text })
    }

    /// Begins to download an attachment; the body is to be streamed to disk. It is as long as [`limits::ATTACHMENT_BYTES_MAX`] at the most.
    ///
    /// # Errors
    /// As [`Rest::call`].
    pub fn download(&self, url: String, headers: Vec<(String, String)>, deadline: Deadline) -> Result<Response, NetError> {
        let body_bytes_max = usize::try_from(limits::ATTACHMENT_BYTES_MAX).unwrap_or(usize::MAX).saturating_add(1);
        let bounds = Bounds { headers: deadline, silence: limits::REST_SILENCE, total: deadline, body_bytes_max };
        self.client.send(&Request { method: "GET", url, headers, body: Body::Empty }, bounds)
    }
}

/// What a request without an answer means for a message. `idempotent`: doing it twice does no harm.
#[must_use]
pub fn send_error(error: &NetError, what: &str, idempotent: bool) -> SendError {
    let cause = format!("{what}: {error}");
    match error {
        NetError::Cancelled => SendError::Cancelled,
        NetError::BadUrl(_) => SendError::Fatal { cause, remedy: "correct the address in the configuration".to_owned() },
        error if error.request_sent() && !idempotent => SendError::Ambiguous { cause },
        _ => SendError::Retry { cause, after: None },
    }
}

/// What a request without an answer means for the connection.
#[must_use]
pub fn adapter_error(error: &NetError, what: &str) -> AdapterError {
    let cause = format!("{what}: {error}");
    match error {
        NetError::Cancelled => AdapterError::Cancelled,
        NetError::BadUrl(_) => AdapterError::Fatal { cause, remedy: "correct the address in the configuration".to_owned() },
        _ => AdapterError::Retry { cause, after: None },
    }
}

impl From<Cancelled> for AdapterError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// What a peer said, fit for a log line: without control characters, shortened.
#[must_use]
pub fn readable(text: &str, characters_max: usize) -> String {
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .take(characters_max)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// A piece of an address: everything but letters, digits and `-._~` is escaped (RFC 3986, 2.3).
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_addresses_and_of_log_lines() {
        assert_eq!(escaped("a b/../ü?x=1#~"), "a%20b%2F..%2F%C3%BC%3Fx%3D1%23~");
        assert_eq!(readable("a\r\nb\u{7}c  ", 100), "a  b c");
        assert_eq!(readable("abcdef", 3), "abc");
    }

    #[test]
    fn a_request_that_may_have_arrived_is_not_simply_repeated() {
        let sent = NetError::Broken { peer: "p:1".to_owned(), cause: "reset".to_owned(), sent: true };
        let unsent = NetError::Broken { peer: "p:1".to_owned(), cause: "reset".to_owned(), sent: false };
        assert!(matches!(send_error(&sent, "send", false), SendError::Ambiguous { .. }));
        assert!(matches!(send_error(&sent, "send", true), SendError::Retry { .. }));
        assert!(matches!(send_error(&unsent, "send", false), SendError::Retry { .. }));
        assert_eq!(send_error(&NetError::Cancelled, "send", false), SendError::Cancelled);
        assert!(matches!(adapter_error(&NetError::BadUrl("x".to_owned()), "connect"), AdapterError::Fatal { .. }));
        assert!(matches!(adapter_error(&sent, "connect"), AdapterError::Retry { .. }));
    }
}
