//! The other end of the control socket: what `status`, `stop`, `send` and `chat` use.

use super::address::connect_to;
use super::lines::{Filled, LineBuffer, to_line, write_all};
use super::protocol::{Request, Response};
use super::wake::poll_ready;
use crate::adapter::local::HubEvent;
use crate::clock::Deadline;
use crate::limits;
use nix::poll::PollFlags;
use serde_json::Value;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Why the gateway did not do it.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens there.
    Unreachable(std::io::Error),
    /// It is there and does not answer in time.
    NoAnswer,
    /// It hung up.
    Closed,
    /// It answered with something that is not an answer: another version, or another program.
    Nonsense(String),
    /// It refuses, and says why.
    Refused(String),
    Io(std::io::Error),
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(cause) => write!(f, "cannot connect to the control socket: {cause}"),
            Self::NoAnswer => f.write_str("the gateway does not answer"),
            Self::Closed => f.write_str("the gateway closed the connection"),
            Self::Nonsense(what) => write!(f, "the gateway's answer cannot be read: {what}"),
            Self::Refused(why) => f.write_str(why),
            Self::Io(cause) => write!(f, "control socket: {cause}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// A connection to a gateway.
pub struct Client {
    stream: UnixStream,
    buffer: LineBuffer,
    /// Events that came while an answer was awaited.
    events: VecDeque<HubEvent>,
}

impl Client {
    /// # Errors
    /// [`ClientError::Unreachable`], or [`ClientError::NoAnswer`] if its backlog stays full.
    pub fn connect(path: &Path, deadline: Deadline) -> Result<Self, ClientError> {
        let stream = connect_to(path, deadline).map_err(|cause| match cause.kind() {
            std::io::ErrorKind::TimedOut => ClientError::NoAnswer,
            _ => ClientError::Unreachable(cause),
        })?;
        Ok(Self { stream, buffer: LineBuffer::new(limits::ADMIN_ANSWER_BYTES_MAX), events: VecDeque::new() })
    }

    /// Asks and waits for the answer. Events that come in between are kept for [`Client::try_event`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(&mut self, request: &Request, deadline: Deadline) -> Result<Value, ClientError> {
        write_all(&self.stream, &to_line(request), deadline).map_err(failed)?;
        loop {
            match self.next_response(deadline)? {
                Some(Response::Ok(value)) => return Ok(value),
                Some(Response::Error(why)) => return Err(ClientError::Refused(why)),
                Some(Response::Event(event)) => self.events.push_back(event),
                None => return Err(ClientError::NoAnswer),
            }
        }
    }

    /// The next event of the chat that the connection is attached to, if it is there already. When there is none,
    /// [`Client::fd`] becomes readable with the next.
    ///
    /// # Errors
    /// [`ClientError`] when the connection is over.
    pub fn try_event(&mut self) -> Result<Option<HubEvent>, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        loop {
            match self.next_response(Deadline::after(Duration::ZERO))? {
                Some(Response::Event(event)) => return Ok(Some(event)),
                // The answer to a question that was given up.
                Some(Response::Ok(_) | Response::Error(_)) => {}
                None => return Ok(None),
            }
        }
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// `None`: the deadline passed.
    fn next_response(&mut self, deadline: Deadline) -> Result<Option<Response>, ClientError> {
        loop {
            if let Some(line) = self.buffer.next_line() {
                let response = serde_json::from_slice(&line);
                return response.map(Some).map_err(|cause| ClientError::Nonsense(cause.to_string()));
            }
            match self.buffer.fill(&self.stream).map_err(failed)? {
                Filled::Bytes => continue,
                Filled::Nothing => {}
                Filled::End => return Err(ClientError::Closed),
                Filled::TooLong => return Err(ClientError::Nonsense("a line without end".to_owned())),
            }
            let [readable] = poll_ready([(self.stream.as_fd(), PollFlags::POLLIN)], Some(deadline)).map_err(ClientError::Io)?;
            if !readable {
                return Ok(None);
            }
        }
    }
}

fn failed(cause: std::io::Error) -> ClientError {
    match cause.kind() {
        std::io::ErrorKind::TimedOut => ClientError::NoAnswer,
        std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => ClientError::Closed,
        _ => ClientError::Io(cause),
    }
}
