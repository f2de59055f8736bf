//! Network. Stub of the interface; see the doc comments of the items.

use crate::clock::Deadline;
use crate::thread::CancelToken;
use std::io::Read;
use std::time::Duration;

/// Where a request went wrong, classified once.
#[derive(Debug)]
pub enum NetError {
    Cancelled,
    /// Which phase ran out of time: "resolve", "connect", "TLS handshake", "send", "headers", "body".
    Timeout {
        phase: &'static str,
        peer: String,
        after: Duration,
    },
    Resolve {
        host: String,
        cause: String,
    },
    Connect {
        peer: String,
        cause: std::io::Error,
    },
    Tls {
        peer: String,
        cause: String,
    },
    /// The connection broke in the middle; `sent`: the request had gone out completely, so it may have been acted upon.
    Broken {
        peer: String,
        cause: String,
        sent: bool,
    },
    /// What came back is not HTTP, or more than the limit.
    Protocol {
        peer: String,
        cause: String,
    },
    /// The address in the configuration cannot be used.
    BadUrl(String),
}

/// Settings shared by all connections of the process.
#[derive(Clone)]
pub struct NetOptions {
    /// Proxies from the environment, TLS roots. Built once.
    pub tls_ca_file: Option<std::path::PathBuf>,
    pub user_agent: String,
}

/// Bounds of one request.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Resolving, connecting, sending and receiving the headers.
    pub headers: Deadline,
    /// The longest silence while the body is read.
    pub silence: Duration,
    /// Everything.
    pub total: Deadline,
    pub body_bytes_max: usize,
}

pub enum Body {
    Empty,
    Json(Vec<u8>),
    Bytes { content_type: String, bytes: Vec<u8> },
}

pub struct Request {
    pub method: &'static str,
    /// May contain a secret (Telegram): it is never put into an error or a log line. Errors name `host:port` only.
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Box<dyn Read + Send>,
}

/// A client whose connections are attached to one cancel token. One a thread and purpose; keeps connections alive.
pub struct Client {}

impl Client {
    #[must_use]
    pub fn new(_options: &NetOptions, _token: &CancelToken) -> Self {
        unimplemented!()
    }

    /// Sends a request and reads the headers. Any status is `Ok`. Redirects are not followed.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn send(&self, _request: &Request, _bounds: Bounds) -> Result<Response, NetError> {
        unimplemented!()
    }
}
