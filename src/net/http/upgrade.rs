//! Asking a server to go on with another protocol on the same connection, RFC 9110 section 7.8.

use super::body::BodyReader;
use super::head::{Head, read_head};
use super::request::{Body, Outgoing};
use super::response::Response;
use crate::clock::Deadline;
use crate::limits;
use crate::net::Bounds;
use crate::net::connect::enter;
use crate::net::error::{NetError, phase};
use crate::net::stream::Stream;
use crate::net::url::Url;
use std::io::Write as _;
use std::time::Duration;

/// A request that is complete, so that nothing in it can fail once there is a connection.
pub(in crate::net) struct UpgradeRequest {
    bytes: Vec<u8>,
    what: String,
}

/// What came of it.
pub(in crate::net) enum Upgrade {
    /// `rest`: what has been read of the other protocol already.
    Switched {
        stream: Stream,
        headers: Vec<(String, String)>,
        rest: Vec<u8>,
    },
    Refused(Response),
}

impl UpgradeRequest {
    /// # Errors
    /// [`NetError::BadUrl`] if a header cannot be sent.
    pub(in crate::net) fn new(url: &Url, protocol: &str, headers: &[(String, String)], user_agent: &str) -> Result<Self, NetError> {
        let mut headers = headers.to_vec();
        headers.push(("Upgrade".to_owned(), protocol.to_owned()));
        let mut bytes = Outgoing { method: "GET", url, headers: &headers, body: &Body::Empty }.head(user_agent, None)?;
        // Before the empty line at the end. `Outgoing` leaves this header to whoever looks after the connection.
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(b"Connection: Upgrade\r\n\r\n");
        Ok(Self { bytes, what: format!("{} {}", url.scheme(), url.target) })
    }

    /// Sends it and reads the headers of the answer, until `deadline`. The body of a refusal has `body_wait` and
    /// `body_bytes_max`.
    pub(in crate::net) fn send(
        &self,
        mut stream: Stream,
        deadline: Deadline,
        body_wait: Duration,
        body_bytes_max: usize,
    ) -> Result<Upgrade, NetError> {
        let _busy = enter(format_args!("{}: asking for the upgrade", self.what), deadline);
        stream.set_deadline(phase::SEND, deadline);
        stream.write_all(&self.bytes).map_err(|error| NetError::take_from_io(error, stream.peer()))?;
        stream.set_deadline(phase::HEADERS, deadline);
        let mut buffer = Vec::new();
        for _ in 0..=limits::INTERIM_RESPONSES_MAX {
            let head = read_head(&mut stream, &mut buffer)?;
            match head.status {
                101 => return Ok(Upgrade::Switched { stream, headers: head.headers, rest: buffer }),
                100..200 => {}
                _ => {
                    let total = deadline.within(body_wait);
                    let bounds = Bounds { headers: total, silence: body_wait, total, body_bytes_max };
                    return self.refused(stream, head, buffer, bounds);
                }
            }
        }
        Err(NetError::Protocol { peer: stream.peer().to_owned(), cause: "sent interim answers only".to_owned() })
    }

    fn refused(&self, stream: Stream, head: Head, buffer: Vec<u8>, bounds: Bounds) -> Result<Upgrade, NetError> {
        let peer = stream.peer().to_owned();
        let framing = head.framing("GET").map_err(|cause| NetError::Protocol { peer: peer.clone(), cause })?;
        let what = format!("{}: reading why it refuses", self.what);
        let reader = BodyReader::new(stream, buffer, framing, bounds, what, None);
        Ok(Upgrade::Refused(Response { status: head.status, headers: head.headers, body: Box::new(reader), peer }))
    }
}
