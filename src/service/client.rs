//! The other end of the control socket: what `status`, `stop`, `send` and `chat` use.

use super::address::connect_to;
use super::lines::{Filled, LineBuffer, to_line, write_all};
use super::protocol::{Request, Response};
use super::wake::{Wake, poll_ready};
use crate::adapter::local::HubEvent;
use crate::clock::Deadline;
use nix::poll::PollFlags;
use serde_json::Value;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

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

/// What [`Client::next_event`] came back with.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Event(HubEvent),
    /// The wake-up descriptor was used.
    Woken,
    /// The deadline passed.
    Timeout,
}

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
        Ok(Self { stream, buffer: LineBuffer::default(), events: VecDeque::new() })
    }

    /// Asks and waits for the answer. Events that come in between are kept for [`Client::next_event`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(&mut self, request: &Request, deadline: Deadline) -> Result<Value, ClientError> {
        write_all(&self.stream, &to_line(request), deadline).map_err(failed)?;
        loop {
            match self.next_response(deadline, None)? {
                Some(Response::Ok(value)) => return Ok(value),
                Some(Response::Error(why)) => return Err(ClientError::Refused(why)),
                Some(Response::Event(event)) => self.events.push_back(event),
                None => return Err(ClientError::NoAnswer),
            }
        }
    }

    /// Waits for an event of the chat that the connection is attached to, or for `wake`.
    ///
    /// # Errors
    /// [`ClientError`] when the connection is over.
    pub fn next_event(&mut self, deadline: Deadline, wake: &Wake) -> Result<Next, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Next::Event(event));
        }
        loop {
            match self.next_response(deadline, Some(wake))? {
                Some(Response::Event(event)) => return Ok(Next::Event(event)),
                // The answer to a question that was given up.
                Some(Response::Ok(_) | Response::Error(_)) => {}
                None if deadline.passed() => return Ok(Next::Timeout),
                None => return Ok(Next::Woken),
            }
        }
    }

    /// `None`: the deadline passed or `wake` was used.
    fn next_response(&mut self, deadline: Deadline, wake: Option<&Wake>) -> Result<Option<Response>, ClientError> {
        loop {
            if let Some(line) = self.buffer.next_line() {
                let response = serde_json::from_slice(&line);
                return response.map(Some).map_err(|cause| ClientError::Nonsense(cause.to_string()));
            }
            let stream = (self.stream.as_fd(), PollFlags::POLLIN);
            let woken = match wake {
                Some(wake) => {
                    let [readable, woken] =
                        poll_ready([stream, (wake.fd(), PollFlags::POLLIN)], Some(deadline)).map_err(ClientError::Io)?;
                    woken || !readable
                }
                None => !poll_ready([stream], Some(deadline)).map_err(ClientError::Io)?[0],
            };
            if woken {
                return Ok(None);
            }
            match self.buffer.fill(&self.stream).map_err(failed)? {
                Filled::Bytes | Filled::Nothing => {}
                Filled::End => return Err(ClientError::Closed),
                Filled::TooLong => return Err(ClientError::Nonsense("a line without end".to_owned())),
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
