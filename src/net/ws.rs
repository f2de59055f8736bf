//! A WebSocket client, RFC 6455: one connection, one thread, and no call that can wait for ever.
//!
//! The thread that owns a [`WebSocket`] receives with [`WebSocket::next`], sends with [`WebSocket::send`] and keeps time
//! with the deadlines it gives. Other threads only wake it ([`Waker`]) and cancel it (the token). The socket never
//! blocks; all waiting is poll(2) in [`WebSocket::wait`], so that an idle connection costs no wakeup. Frames are the
//! codec's business (tungstenite), bytes and TLS the [`Stream`](super::Stream)'s; nothing here may read or write behind their backs.
//!
//! While a message waits to be taken by the server, what the server sends is taken in: two full connections would
//! otherwise wait for each other.

mod codec;
mod error;
mod goodbye;
mod handshake;
#[cfg(test)]
mod tests;
mod waker;

pub use error::{Refusal, WsError, close_code};
pub use waker::Waker;

use super::NetOptions;
use super::connect::enter;
use super::error::{NetError, phase};
use super::stream::poll;
use super::url::Url;
use crate::clock::{self, Deadline};
use crate::limits;
use crate::thread::{self, CancelToken};
use codec::{CONTROL_BYTES_MAX, Frames, close_frame, is_about_waiting};
use error::classify;
use goodbye::Goodbye;
use nix::poll::{PollFd, PollFlags};
use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::time::Instant;
use tungstenite::Bytes;
use tungstenite::error::Error as FrameError;
use tungstenite::protocol::Message;

/// What one connection may hold in memory.
#[derive(Debug, Clone, Copy)]
pub struct WsLimits {
    /// The longest message that is received, all its fragments together. A longer one ends the connection.
    pub message_bytes_max: usize,
    /// What may wait for a server that does not read. Longer messages cannot be sent.
    pub unsent_bytes_max: usize,
}

impl Default for WsLimits {
    fn default() -> Self {
        Self { message_bytes_max: limits::WEBSOCKET_MESSAGE_BYTES_MAX, unsent_bytes_max: limits::WEBSOCKET_UNSENT_BYTES_MAX }
    }
}

/// What [`WebSocket::next`] came back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WsEvent {
    Text(String),
    Binary(Vec<u8>),
    /// The server closed the connection in order, and was answered. `code` is [`close_code::NONE`] if it gave none.
    /// The connection is over.
    Closed {
        code: u16,
        reason: String,
    },
    /// Somebody called [`Waker::wake`].
    Woken,
    /// The deadline is there and nothing else has happened.
    Idle,
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WsMessage {
    Text(String),
    Binary(Vec<u8>),
}

impl WsMessage {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
}

/// An open connection. Dropping it closes the socket without a CLOSE frame, so that a platform which keeps sessions
/// lets this one be resumed; [`WebSocket::close`] and [`WebSocket::goodbye_on_cancel`] say goodbye.
pub struct WebSocket {
    frames: Frames,
    peer: String,
    token: CancelToken,
    waker: Waker,
    /// The last call of `next` returned `Woken`: now it is the server's turn, whatever the waker says.
    was_woken: bool,
    limits: WsLimits,
    /// What came while something was being sent.
    arrived: VecDeque<WsEvent>,
    arrived_bytes: usize,
    /// The last large payload, as long as the codec's buffer is the rest of the same memory. Because it is shared, the
    /// codec cannot take all of it again when that rest (a few KiB) is used up, but begins a small buffer.
    large: Option<Bytes>,
    /// The codec or TLS hold something that the socket did not take yet.
    unsent: bool,
    heard: Instant,
    /// When the message began of which only a part has arrived.
    partial_since: Option<Instant>,
    goodbye: Option<Goodbye>,
    ended: bool,
}

/// What one look at the connection found.
enum Look {
    Event(WsEvent),
    /// A ping (which was answered) or a pong.
    Control,
    /// There is nothing more without waiting.
    Nothing,
}

/// Why a wait is over.
enum Ready {
    Socket,
    Woken,
    Time,
}

impl WebSocket {
    /// Opens a WebSocket: look-up, connect, TLS and handshake, all by `deadline`, through the proxy that the environment
    /// names. `http` and `https` addresses are taken for `ws` and `wss`. `headers` go along with the request
    /// (`Authorization`, `Sec-WebSocket-Protocol`). The connection is attached to `token` as long as it lives: a cancel ends every call at once.
    ///
    /// # Errors
    /// [`WsError::Net`], [`WsError::Refused`], [`WsError::Protocol`].
    pub fn connect(
        url: &str,
        headers: &[(String, String)],
        options: &NetOptions,
        token: &CancelToken,
        deadline: Deadline,
        limits: WsLimits,
    ) -> Result<Self, WsError> {
        let url = Url::parse(url)?;
        let waker = Waker::new().map_err(|cause| NetError::Connect { peer: url.target.to_string(), cause })?;
        let (mut stream, rest) = handshake::open(&url, headers, options, token, deadline)?;
        stream.set_read_waits(false);
        stream.set_write_waits(false);
        let peer = stream.peer().to_owned();
        let frames = codec::start(stream, rest, limits);
        Ok(Self {
            frames,
            peer,
            token: token.clone(),
            waker,
            was_woken: false,
            limits,
            arrived: VecDeque::new(),
            arrived_bytes: 0,
            large: None,
            unsent: false,
            heard: clock::now(),
            partial_since: None,
            goodbye: None,
            ended: false,
        })
    }

    /// `host:port` of the server, for messages.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// When something was last received: a message, a part of one, a ping or a pong.
    #[must_use]
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Wakes [`WebSocket::next`] from any thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// From now on it is this waker that wakes [`WebSocket::next`]: for senders that outlive a connection. A wake from
    /// before counts.
    pub fn set_waker(&mut self, waker: &Waker) {
        self.waker = waker.clone();
    }

    /// Waits for the next event, until `until`. What has arrived already is given even if `until` has passed. Pings are
    /// answered on the way. Under constant traffic, messages and wakes take turns.
    ///
    /// # Errors
    /// [`WsError`]. The connection is over then.
    pub fn next(&mut self, until: Deadline) -> Result<WsEvent, WsError> {
        self.token.check()?;
        if !std::mem::take(&mut self.was_woken) && self.waker.take() {
            return Ok(self.woken());
        }
        if let Some(event) = self.take_arrived() {
            return Ok(event);
        }
        self.check_open()?;
        let look_until = until.max(Deadline::after(limits::WEBSOCKET_LOOK));
        self.set_deadline(phase::MESSAGE, look_until);
        loop {
            if self.unsent {
                self.flush()?;
            }
            match self.look()? {
                Look::Event(event) => return Ok(event),
                Look::Control if look_until.passed() => return Ok(WsEvent::Idle),
                Look::Control => continue,
                Look::Nothing => {}
            }
            let _waiting = thread::wait_for_work(format_args!("WebSocket {}: waiting for messages", self.peer));
            match self.wait(true, true, until)? {
                Ready::Socket => {}
                Ready::Woken if self.waker.take() => return Ok(self.woken()),
                Ready::Woken => {}
                Ready::Time => return Ok(WsEvent::Idle),
            }
        }
    }

    fn woken(&mut self) -> WsEvent {
        self.was_woken = true;
        WsEvent::Woken
    }

    /// Sends a message; on `Ok` the system has taken all of it. Never to be repeated on the same connection after a
    /// time-out: what was taken over is sent as soon as the server reads again.
    ///
    /// # Errors
    /// [`WsError::TooLarge`]; [`NetError::Timeout`] if the server does not read: give the connection up then. Any other
    /// means that it is over. [`WsError::maybe_sent`] tells whether the message may have arrived.
    pub fn send(&mut self, message: WsMessage, deadline: Deadline) -> Result<(), WsError> {
        let (bytes, bytes_max) = (message.len(), self.limits.unsent_bytes_max);
        if bytes > bytes_max {
            return Err(WsError::TooLarge { bytes, bytes_max });
        }
        let message = match message {
            WsMessage::Text(text) => Message::Text(text.into()),
            WsMessage::Binary(bytes) => Message::Binary(bytes.into()),
        };
        self.send_frame(message, "sending a message", deadline)
    }

    /// Sends a ping. The pong is not waited for: it counts as heard, see [`WebSocket::heard`].
    ///
    /// # Errors
    /// As [`WebSocket::send`]; a payload can have 125 bytes.
    pub fn ping(&mut self, payload: &[u8], deadline: Deadline) -> Result<(), WsError> {
        if payload.len() > CONTROL_BYTES_MAX {
            return Err(WsError::TooLarge { bytes: payload.len(), bytes_max: CONTROL_BYTES_MAX });
        }
        self.send_frame(Message::Ping(payload.to_vec().into()), "sending a ping", deadline)
    }

    fn send_frame(&mut self, message: Message, doing: &str, deadline: Deadline) -> Result<(), WsError> {
        self.token.check()?;
        self.check_open()?;
        let _busy = enter(format_args!("WebSocket {}: {doing}", self.peer), deadline);
        let started = clock::now();
        if deadline.passed() {
            return Err(self.timed_out(phase::SEND, started));
        }
        self.set_deadline(phase::SEND, deadline);
        let mut message = Some(message);
        loop {
            if let Some(waiting) = message.take() {
                match self.frames.write(waiting) {
                    // Handed back: there is no room for it behind what is unsent.
                    Err(FrameError::WriteBufferFull(back)) => message = Some(*back),
                    Err(error) if !is_about_waiting(&error) => return Err(self.fail(error)),
                    _ => {}
                }
                self.unsent = true;
            }
            self.flush()?;
            if !self.unsent && message.is_none() {
                return Ok(());
            }
            if !self.unsent {
                continue;
            }
            let phase = if message.is_some() { phase::SEND } else { phase::MESSAGE };
            self.wait_for_room(phase, started, deadline)?;
        }
    }

    /// Waits until the socket takes more, and takes in what comes meanwhile.
    fn wait_for_room(&mut self, phase: &'static str, started: Instant, deadline: Deadline) -> Result<(), WsError> {
        let hungry = self.arrived.len() < limits::WEBSOCKET_ARRIVED_MAX && self.arrived_bytes < self.limits.message_bytes_max;
        if hungry {
            match self.look()? {
                Look::Event(event) => return self.keep(event),
                Look::Control => return Ok(()),
                Look::Nothing => {}
            }
        }
        match self.wait(hungry, false, deadline)? {
            Ready::Socket | Ready::Woken => Ok(()),
            Ready::Time => Err(self.timed_out(phase, started)),
        }
    }

    fn keep(&mut self, event: WsEvent) -> Result<(), WsError> {
        self.arrived_bytes += event_bytes(&event);
        self.arrived.push_back(event);
        self.check_open()
    }

    fn take_arrived(&mut self) -> Option<WsEvent> {
        let event = self.arrived.pop_front()?;
        self.arrived_bytes -= event_bytes(&event);
        Some(event)
    }

    /// Says goodbye and waits for the answer, [`limits::WEBSOCKET_CLOSE`] at the most; messages that come before it are
    /// dropped. `reason` is cut at 123 bytes. The connection is over in any case; if it was before, nothing is done.
    ///
    /// # Errors
    /// [`NetError::Timeout`] if the server did not answer, [`NetError::Cancelled`].
    pub fn close(&mut self, code: u16, reason: &str, deadline: Deadline) -> Result<(), WsError> {
        self.token.check()?;
        if self.ended {
            return Ok(());
        }
        let deadline = deadline.within(limits::WEBSOCKET_CLOSE);
        let _busy = enter(format_args!("WebSocket {}: closing", self.peer), deadline);
        let started = clock::now();
        self.set_deadline(phase::CLOSE, deadline);
        let mut said = false;
        let result = loop {
            let flushed = self.flush();
            if flushed.is_ok() && !self.unsent && !said {
                // Only now is there room for certain.
                let _ = self.frames.close(close_frame(code, reason));
                (said, self.unsent) = (true, true);
                continue;
            }
            match flushed.and_then(|()| self.look()) {
                Ok(Look::Event(WsEvent::Closed { .. })) => break Ok(()),
                Ok(Look::Event(_) | Look::Control) if !deadline.passed() => continue,
                Ok(_) => {}
                Err(error) if error.is_cancelled() => break Err(error),
                // It ended without an answer, or in a way that no longer matters.
                Err(_) => break Ok(()),
            }
            match self.wait(true, false, deadline) {
                Ok(Ready::Time) => break Err(self.timed_out(phase::CLOSE, started)),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        self.ended = true;
        self.arrived.clear();
        self.arrived_bytes = 0;
        result
    }

    fn check_open(&self) -> Result<(), WsError> {
        if self.ended { Err(WsError::Ended { peer: self.peer.clone() }) } else { Ok(()) }
    }

    fn set_deadline(&mut self, phase: &'static str, until: Deadline) {
        self.frames.get_mut().stream.set_deadline(phase, until);
    }

    /// Looks for the next frame without waiting.
    fn look(&mut self) -> Result<Look, WsError> {
        let before = self.frames.get_ref().received;
        let read = self.frames.read();
        self.large.take_if(|large| large.is_unique());
        let received = self.frames.get_ref().received != before;
        if received {
            self.heard = clock::now();
        }
        if self.token.is_cancelled() {
            return Err(NetError::Cancelled.into());
        }
        let message = match read {
            Ok(message) => message,
            Err(error) if is_about_waiting(&error) => {
                if received {
                    self.check_partial()?;
                }
                return Ok(Look::Nothing);
            }
            Err(error) => return Err(self.fail(error)),
        };
        self.partial_since = None;
        Ok(match message {
            Message::Text(text) => {
                let event = WsEvent::Text(text.as_str().to_owned());
                self.let_go(text.into());
                Look::Event(event)
            }
            Message::Binary(bytes) => {
                let event = WsEvent::Binary(bytes.to_vec());
                self.let_go(bytes);
                Look::Event(event)
            }
            Message::Ping(_) => {
                // The codec has the pong ready; it is out before anything else happens.
                self.flush()?;
                Look::Control
            }
            Message::Pong(_) | Message::Frame(_) => Look::Control,
            Message::Close(frame) => {
                // So is the answer to a CLOSE. Whether it arrives does not matter any more.
                let _ = self.flush();
                self.ended = true;
                let (code, reason) = frame.map_or((close_code::NONE, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                Look::Event(WsEvent::Closed { code, reason })
            }
        })
    }

    fn let_go(&mut self, payload: Bytes) {
        if payload.len() > limits::WEBSOCKET_KEPT_BYTES_MAX {
            self.large = Some(payload);
        }
    }

    /// A message that trickles is alive, but not for ever.
    fn check_partial(&mut self) -> Result<(), WsError> {
        let since = *self.partial_since.get_or_insert(self.heard);
        if self.heard.duration_since(since) <= limits::WEBSOCKET_MESSAGE {
            return Ok(());
        }
        self.ended = true;
        let cause = format!("a message did not end within {} s", limits::WEBSOCKET_MESSAGE.as_secs());
        Err(NetError::Broken { peer: self.peer.clone(), cause, sent: true }.into())
    }

    /// Sends as much as the socket takes of what is held back.
    fn flush(&mut self) -> Result<(), WsError> {
        match self.frames.flush() {
            Ok(()) => self.unsent = false,
            Err(error) if is_about_waiting(&error) => self.unsent = true,
            Err(error) => return Err(self.fail(error)),
        }
        Ok(())
    }

    /// Waits until the socket has something (`read`), or takes something if there is something, or the waker calls.
    fn wait(&self, read: bool, heed_waker: bool, until: Deadline) -> Result<Ready, WsError> {
        let stream = &self.frames.get_ref().stream;
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, read);
        flags.set(PollFlags::POLLOUT, self.unsent || stream.has_unsent());
        let cancel = self.goodbye.as_ref().map_or_else(|| stream.as_fd(), Goodbye::as_fd);
        let cancel_flags = if self.goodbye.is_some() { PollFlags::POLLIN } else { flags };
        let mut descriptors =
            [PollFd::new(stream.as_fd(), flags), PollFd::new(cancel, cancel_flags), PollFd::new(self.waker.as_fd(), PollFlags::POLLIN)];
        let descriptors = if heed_waker { &mut descriptors[..] } else { &mut descriptors[..2] };
        let ready = poll(descriptors, until).map_err(|error| self.broken(error.to_string()));
        self.token.check()?;
        let ready = ready?;
        if descriptors.get(2).is_some_and(|waker| waker.any().unwrap_or(false)) {
            return Ok(Ready::Woken);
        }
        // A socket that always has something must not prolong a deadline.
        Ok(if ready && !until.passed() { Ready::Socket } else { Ready::Time })
    }

    fn timed_out(&self, phase: &'static str, started: Instant) -> WsError {
        NetError::Timeout { phase, peer: self.peer.clone(), after: started.elapsed() }.into()
    }

    fn broken(&self, cause: String) -> WsError {
        NetError::Broken { peer: self.peer.clone(), cause, sent: true }.into()
    }

    /// The end of the connection by an error. The server is told if it is at fault.
    fn fail(&mut self, error: FrameError) -> WsError {
        if self.token.is_cancelled() {
            return NetError::Cancelled.into();
        }
        self.ended = true;
        let error = classify(error, &self.peer);
        if let WsError::Protocol { cause, code, .. } = &error {
            let _ = self.frames.close(close_frame(*code, cause));
        }
        error
    }
}

fn event_bytes(event: &WsEvent) -> usize {
    match event {
        WsEvent::Text(text) => text.len(),
        WsEvent::Binary(bytes) => bytes.len(),
        WsEvent::Closed { .. } | WsEvent::Woken | WsEvent::Idle => 0,
    }
}
