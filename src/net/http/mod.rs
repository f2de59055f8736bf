//! The HTTP/1.1 client: sends a request on a pooled or new connection and reads the headers of the answer.
//!
//! Any status is an answer. Nothing is repeated that could be done twice: a request goes out a second time only if the
//! pooled connection turns out to be dead, and either the method is idempotent or the request did not get out.

mod body;
mod head;
mod pool;
mod request;
mod response;
#[cfg(test)]
pub(super) mod tests;

pub(super) use head::read_head;
pub use request::{Body, Multipart, Request};
pub use response::{Response, SaveError, find_header, retry_after};

use super::connect::{Dial, enter};
use super::error::{NetError, phase};
use super::proxy::{Proxies, Proxy};
use super::stream::Stream;
use super::url::Url;
use super::{Bounds, NetOptions};
use crate::limits;
use crate::thread::CancelToken;
use body::{BodyReader, Reuse};
use head::Head;
use pool::Pool;
use request::Outgoing;
use std::sync::Arc;

/// A client whose connections are attached to one cancel token. One a thread and purpose; keeps connections alive.
pub struct Client {
    options: NetOptions,
    proxies: Proxies,
    token: CancelToken,
    pool: Arc<Pool>,
}

/// An exchange that did not come to an answer.
struct Failed {
    error: NetError,
    /// Not a byte of an answer was received: the server may have closed an idle connection.
    unanswered: bool,
}

impl From<NetError> for Failed {
    fn from(error: NetError) -> Self {
        Self { error, unanswered: false }
    }
}

impl Client {
    #[must_use]
    pub fn new(options: &NetOptions, token: &CancelToken) -> Self {
        Self { options: options.clone(), proxies: Proxies::from_environment(), token: token.clone(), pool: Arc::new(Pool::default()) }
    }

    /// Sends a request and reads the headers. Any status is `Ok`. Redirects are not followed.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn send(&self, request: &Request, bounds: Bounds) -> Result<Response, NetError> {
        self.send_under(request, bounds, &self.token)
    }

    /// Like [`Client::send`], but it is `token` that ends this request and the reading of its body. For a client that
    /// lives longer than the work it is used for, so that its connections are kept.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn send_under(&self, request: &Request, bounds: Bounds, token: &CancelToken) -> Result<Response, NetError> {
        let url = Url::parse(&request.url)?;
        self.send_outgoing(&Outgoing::new(request, &url), bounds, token)
    }

    /// Like [`Client::send`], following up to `redirects_max` redirects within the same bounds. Headers that may hold
    /// credentials are not passed on to another host. → the answer, and the address it came from.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn send_following(&self, request: &Request, bounds: Bounds, redirects_max: usize) -> Result<(Response, String), NetError> {
        let mut url = Url::parse(&request.url)?;
        let mut method = request.method;
        let mut headers = request.headers.clone();
        let mut body = &request.body;
        for redirects in 0.. {
            let outgoing = Outgoing { method, url: &url, headers: &headers, body };
            let response = self.send_outgoing(&outgoing, bounds, &self.token)?;
            let location = response.header("location").filter(|_| matches!(response.status, 301 | 302 | 303 | 307 | 308));
            let Some(location) = location else { return Ok((response, url.address())) };
            let failed = |cause: String| NetError::Protocol { peer: url.target.to_string(), cause };
            if redirects == redirects_max {
                return Err(failed(format!("more than {redirects_max} redirects")));
            }
            let next = url.join(location).map_err(|error| failed(format!("bad redirect: {error}")))?;
            // RFC 9110 section 15.4: 303 turns everything into GET; for 301 and 302 all browsers do so with POST.
            if response.status == 303 && method != "HEAD" || matches!(response.status, 301 | 302) && method == "POST" {
                (method, body) = ("GET", &Body::Empty);
                headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
            }
            if next.target != url.target {
                headers.retain(|(name, _)| request::is_harmless(name));
            }
            url = next;
        }
        unreachable!("the loop returns after the last redirect")
    }

    fn send_outgoing(&self, outgoing: &Outgoing<'_>, bounds: Bounds, token: &CancelToken) -> Result<Response, NetError> {
        token.check()?;
        let target = &outgoing.url.target;
        let proxy = self.proxies.route(target)?;
        let tunnel = target.tls;
        let head = outgoing.head(&self.options.user_agent, proxy.filter(|_| !tunnel))?;
        let what = format!("HTTP {}", outgoing.method);
        let key = pool_key(outgoing.url, proxy);
        let deadline = bounds.headers.earliest(bounds.total);
        if let Some(stream) = self.pool.take(&key, token, deadline) {
            match self.exchange(outgoing, &head, &key, bounds, stream) {
                Ok(response) => return Ok(response),
                Err(failed) => {
                    let safe = outgoing.is_idempotent() || !failed.error.request_sent();
                    if !(safe && failed.unanswered && matches!(failed.error, NetError::Broken { .. })) {
                        return Err(failed.error);
                    }
                    log::debug!(target: "net", "{target}: the idle connection was closed; connecting anew");
                }
            }
        }
        let dial = Dial { what: &what, target, proxy, tunnel, options: &self.options, token, deadline };
        let stream = dial.open()?;
        self.exchange(outgoing, &head, &key, bounds, stream).map_err(|failed| failed.error)
    }

    /// One request and the headers of its answer on a connection.
    fn exchange(&self, outgoing: &Outgoing<'_>, head: &[u8], key: &str, bounds: Bounds, mut stream: Stream) -> Result<Response, Failed> {
        let target = &outgoing.url.target;
        let deadline = bounds.headers.earliest(bounds.total);
        stream.set_deadline(phase::SEND, deadline);
        let sent = {
            let _busy = enter(format_args!("HTTP {} {target}: sending", outgoing.method), deadline);
            outgoing.send(head, &mut stream)
        };
        let mut deadline = deadline;
        match &sent {
            Ok(()) => {}
            // The server may have answered before it had read everything, and closed then.
            Err(NetError::Broken { .. }) => deadline = deadline.within(limits::EARLY_ANSWER),
            Err(_) => return sent.map(|()| unreachable!("is an error")).map_err(Failed::from),
        }
        stream.set_deadline(phase::HEADERS, deadline);
        let _busy = enter(format_args!("HTTP {} {target}: waiting for headers", outgoing.method), deadline);
        let mut buffer = Vec::new();
        let answer = read_final_head(&mut stream, &mut buffer);
        let answer = match (answer, sent) {
            (Ok(head), Ok(())) => head,
            (Ok(head), Err(_)) => Head { keep_alive: false, ..head },
            (Err(failed), Ok(())) => return Err(failed),
            (Err(failed), Err(error)) => return Err(Failed { error, unanswered: failed.unanswered }),
        };
        let protocol = |cause: String| NetError::Protocol { peer: target.to_string(), cause };
        let framing = answer.framing(outgoing.method).map_err(protocol)?;
        let reuse = answer.keep_alive.then(|| Reuse { pool: Arc::clone(&self.pool), key: key.to_owned(), idle: answer.idle });
        let what = format!("HTTP {} {target}: reading the body", outgoing.method);
        let reader = BodyReader::new(stream, buffer, framing, bounds, what, reuse);
        Ok(Response { status: answer.status, headers: answer.headers, body: Box::new(reader), peer: target.to_string() })
    }
}

/// Reads the headers of the answer, past interim ones.
fn read_final_head(stream: &mut Stream, buffer: &mut Vec<u8>) -> Result<Head, Failed> {
    for interim in 0..=limits::INTERIM_RESPONSES_MAX {
        let head = read_head(stream, buffer);
        let head = head.map_err(|error| Failed { error, unanswered: interim == 0 && buffer.is_empty() })?;
        match head.status {
            101 => break,
            100..200 => {}
            _ => return Ok(head),
        }
    }
    Err(NetError::Protocol { peer: stream.peer().to_owned(), cause: "sent interim answers only".to_owned() }.into())
}

/// Requests with the same key can share a connection.
fn pool_key(url: &Url, proxy: Option<&Proxy>) -> String {
    match proxy {
        Some(proxy) if !url.target.tls => format!("proxy {}", proxy.target),
        Some(proxy) => format!("tls {} proxy {}", url.target, proxy.target),
        None if url.target.tls => format!("tls {}", url.target),
        None => url.target.to_string(),
    }
}
