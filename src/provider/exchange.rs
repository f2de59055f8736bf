//! One exchange with a provider over HTTP: the thin shell around the pure decoders.
//!
//! Runs on a turn thread and does all its waiting: every read ends by the silence bound, the call's deadline or its
//! token. It knows nothing of either protocol.

use super::error::ProviderError;
use super::failure::Failure;
use super::{Call, Delta, ModelReply};
use crate::clock;
use crate::config::Secret;
use crate::limits;
use crate::net::sse::Splitter;
use crate::net::{Body, Bounds, Client, NetError, Request, Response, phase};
use crate::thread;
use serde_json::Value;
use std::io::{self, Read as _};

/// A decoder of one answer. Pure: it sees the data of the stream's events and nothing else.
pub(super) trait Decoder {
    /// Takes the data of the next event. → whether the answer is complete.
    fn event(&mut self, data: &str, on: &mut dyn FnMut(Delta<'_>)) -> Result<bool, ProviderError>;

    /// Takes a whole answer, as servers send it that do not stream.
    fn whole(&mut self, answer: &Value, on: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError>;

    /// Nothing is missing but the terminator.
    fn may_end(&self) -> bool;

    /// The reply, if the stream may end here. Never a part of one.
    fn finish(self) -> Result<ModelReply, ProviderError>;
}

/// What is asked, of whom.
pub(super) struct Ask<'a> {
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Masked wherever the provider quotes it.
    pub(super) key: Option<&'a Secret>,
    /// For the pulse.
    pub(super) model: &'a str,
}

/// No reply. `refusal` is there if the server answered the request with an error, for those who want to look closer.
pub(super) struct Failed {
    pub(super) error: ProviderError,
    pub(super) refusal: Option<Box<Failure>>,
}

impl From<ProviderError> for Failed {
    fn from(error: ProviderError) -> Self {
        Self { error, refusal: None }
    }
}

pub(super) fn protocol_error(message: &str) -> ProviderError {
    ProviderError::Protocol { message: super::error::one_line(message) }
}

/// The bytes of a request.
pub(super) fn encode(body: &Value) -> Result<Vec<u8>, ProviderError> {
    serde_json::to_vec(body).map_err(|error| protocol_error(&format!("the request cannot be written: {error}")))
}

/// Asks and listens until the reply is complete. `client` keeps its connections; the call's token ends this use of one.
pub(super) fn exchange<D: Decoder>(
    client: &Client,
    ask: Ask<'_>,
    call: &Call<'_>,
    decoder: D,
    on: &mut dyn FnMut(Delta<'_>),
) -> Result<ModelReply, Failed> {
    let _busy = thread::enter(format_args!("ask {}", ask.model), call.deadline);
    let bounds = Bounds {
        headers: call.deadline.within(call.silence),
        silence: call.silence,
        total: call.deadline,
        body_bytes_max: limits::STREAM_BYTES_MAX,
    };
    let Ask { url, headers, body, key, .. } = ask;
    let request = Request { method: "POST", url, headers, body: Body::Json(body) };
    let sent = client.send_under(&request, bounds, call.token);
    // The body can be megabytes of images; it is not needed while the answer comes.
    drop(request);
    let mut response = sent.map_err(|error| net_error(error, call))?;
    let secret = key.map_or("", Secret::expose);
    if response.status != 200 {
        // Part of an explanation is better than none, and the status says the most.
        let body = response.read_to_end(limits::ERROR_BODY_BYTES_MAX).unwrap_or_default();
        check(call)?;
        let refusal = Failure::from_answer(response.status, &response.headers, &body, secret, clock::wall_ms());
        return Err(Failed { error: refusal.clone().classify(), refusal: Some(Box::new(refusal)) });
    }
    listen(response, call, decoder, on).map_err(|error| Failed::from(error.without(secret)))
}

/// Reads the answer to its end.
fn listen<D: Decoder>(
    mut response: Response,
    call: &Call<'_>,
    mut decoder: D,
    on: &mut dyn FnMut(Delta<'_>),
) -> Result<ModelReply, ProviderError> {
    let content_type = response.header("content-type").unwrap_or_default().to_ascii_lowercase();
    if content_type.starts_with("text/html") {
        return Err(protocol_error("the answer is a web page, not the interface's; check base_url and proxies"));
    }
    if content_type.starts_with("application/json") {
        return read_whole(response, call, decoder, on);
    }
    let mut splitter = Splitter::new();
    let mut buffer = vec![0; limits::READ_BYTES];
    loop {
        let count = match response.body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The reply is there; only the terminator did not come.
            Err(_) if decoder.may_end() => break,
            Err(error) => return Err(net_error(NetError::take_from_io(error, &response.peer), call)),
        };
        // Any byte is life: a comment, or half an event.
        on(Delta::Alive);
        for event in splitter.push(&buffer[..count]).map_err(|error| protocol_error(&error.to_string()))? {
            check(call)?;
            if decoder.event(&event.data, on)? {
                return decoder.finish();
            }
        }
    }
    // Nothing may follow from a reply whose turn was cancelled while it came.
    check(call)?;
    decoder.finish()
}

/// An answer in one piece, from a server that does not stream.
fn read_whole<D: Decoder>(
    mut response: Response,
    call: &Call<'_>,
    mut decoder: D,
    on: &mut dyn FnMut(Delta<'_>),
) -> Result<ModelReply, ProviderError> {
    let body = response.read_to_end(limits::BODY_BYTES_MAX).map_err(|error| net_error(error, call))?;
    check(call)?;
    let answer: Value = serde_json::from_slice(&body).map_err(|error| protocol_error(&error.to_string()))?;
    if let Some(failure) = Failure::from_value(&answer) {
        return Err(failure.classify());
    }
    decoder.whole(&answer, on)?;
    decoder.finish()
}

fn check(call: &Call<'_>) -> Result<(), ProviderError> {
    call.token.check().map_err(|_| ProviderError::Cancelled)
}

/// What a network error means for a call: whose patience was it that ended?
fn net_error(error: NetError, call: &Call<'_>) -> ProviderError {
    match error {
        _ if call.token.is_cancelled() => ProviderError::Cancelled,
        NetError::Cancelled => ProviderError::Cancelled,
        NetError::Timeout { .. } if call.deadline.passed() => ProviderError::Deadline,
        NetError::Timeout { phase: phase::SEND | phase::HEADERS | phase::BODY, .. } => ProviderError::Silent { after: call.silence },
        NetError::Timeout { phase: phase::TOTAL, .. } => ProviderError::Deadline,
        other => ProviderError::Net(other),
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
