//! The network: bounded look-up, connect, TLS, HTTP/1.1, server-sent events. No call without a deadline.
//!
//! A [`Client`] belongs to one thread and purpose. Whatever it waits for (a name server, a connect, a handshake, a
//! peer that does not read, headers, a body), it comes back at the deadline, and within milliseconds of a cancel:
//! sockets are attached to the [`CancelToken`](crate::thread::CancelToken) before they can block. [`connect`] gives
//! the bare [`Stream`] for other protocols. Errors and pulses name `host:port`, never a path or a header.

mod connect;
mod error;
mod http;
mod proxy;
mod resolve;
pub mod sse;
mod stream;
mod tls;
mod url;

pub use connect::connect;
pub use error::{NetError, phase};
pub use http::{Body, Client, Multipart, Request, Response, SaveError, find_header, retry_after};
pub use resolve::register_threads;
pub use stream::Stream;
pub use url::{Target, Url};

use crate::clock::Deadline;
use std::path::PathBuf;
use std::time::Duration;

/// Settings shared by all connections of the process.
#[derive(Debug, Clone, Default)]
pub struct NetOptions {
    /// Authorities trusted besides the built-in ones: a PEM file. Read when the first TLS connection is made.
    pub tls_ca_file: Option<PathBuf>,
    pub user_agent: String,
}

/// Bounds of one request.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Resolving, connecting, sending and receiving the headers.
    pub headers: Deadline,
    /// The longest silence while the body is read.
    pub silence: Duration,
    /// Everything.
    pub total: Deadline,
    pub body_bytes_max: usize,
}
