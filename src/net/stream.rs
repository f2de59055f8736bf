//! One connection, in the clear or with TLS, on which no call can wait for ever.
//!
//! The socket never blocks: before each wait the time that is left is computed anew, so a peer that trickles bytes
//! cannot prolong a deadline. TLS is driven record by record for the same reason: a write never turns into a read
//! (that is how both sides of a full connection come to wait for each other). Belongs to one thread at a time; other
//! threads reach the socket through the cancel token only.

use super::error::{self, NetError, phase};
use super::tls;
use crate::clock::{self, Deadline};
use crate::thread::{Attached, CancelToken, Cut};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustls::ClientConnection;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A non-blocking socket that a cancel token can shut down. That wakes a poll in every state, SYN-SENT included.
pub(super) struct Socket {
    pub(super) tcp: TcpStream,
}

impl Cut for Socket {
    fn cut(&self) {
        // An error means that there is no connection any more.
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}

/// Waits until one of the descriptors is ready, at most until `until`. `false`: the time is up.
pub(super) fn poll(descriptors: &mut [PollFd<'_>], until: Deadline) -> io::Result<bool> {
    loop {
        // Rounded up, so that the last fraction of a millisecond is not spent spinning.
        let ms = until.remaining().as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(descriptors, timeout) {
            Ok(0) if until.passed() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// How long the calls on a stream may take together, and what to call it when they take longer.
#[derive(Clone, Copy)]
struct Patience {
    phase: &'static str,
    since: Instant,
    until: Deadline,
    silence: Option<Duration>,
}

/// The socket with its bounds: what lies below TLS.
pub(super) struct Wire {
    socket: Arc<Socket>,
    attached: Option<Attached>,
    token: CancelToken,
    peer: String,
    patience: Patience,
    waits_to_read: bool,
    waits_to_write: bool,
}

/// A connection. Reads and writes end at the deadline last set with [`Stream::set_deadline`], with an error that
/// holds a [`NetError`]; as soon as the token is cancelled they end with [`NetError::Cancelled`].
pub struct Stream {
    wire: Wire,
    tls: Option<Box<ClientConnection>>,
}

impl Stream {
    /// A stream on a connected socket, which is attached to `token` already.
    pub(super) fn new(socket: Arc<Socket>, attached: Attached, token: &CancelToken, peer: String, until: Deadline) -> Self {
        let patience = Patience { phase: phase::CONNECT, since: clock::now(), until, silence: None };
        let token = token.clone();
        Self {
            wire: Wire { socket, attached: Some(attached), token, peer, patience, waits_to_read: true, waits_to_write: true },
            tls: None,
        }
    }

    /// `host:port` of the server that was asked for, for messages.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.wire.peer
    }

    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// From now on calls must be done by `until`; errors name the phase (one of [`phase`]). Ends an earlier silence bound.
    pub fn set_deadline(&mut self, phase: &'static str, until: Deadline) {
        self.wire.patience = Patience { phase, since: clock::now(), until, silence: None };
    }

    /// Besides the deadline, each read ends after this much silence.
    pub fn set_silence(&mut self, silence: Option<Duration>) {
        self.wire.patience.silence = silence;
    }

    /// With `false`, a read that would have to wait fails with [`ErrorKind::WouldBlock`], for loops that poll several
    /// descriptors. Read until then before polling: what TLS has taken in is invisible to poll(2).
    pub fn set_read_waits(&mut self, waits: bool) {
        self.wire.waits_to_read = waits;
    }

    /// With `false`, a write or flush that would have to wait fails with [`ErrorKind::WouldBlock`]. A write that was
    /// taken may still be held back by TLS then: flush until that succeeds, whenever the socket takes more.
    pub fn set_write_waits(&mut self, waits: bool) {
        self.wire.waits_to_write = waits;
    }

    /// Whether TLS holds back something that a [`Write::flush`] would send.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Takes the socket out of the token's reach while the connection is idle.
    pub(super) fn detach(&mut self) {
        self.wire.attached = None;
    }

    /// From now on a cancel asks `target` instead of shutting the socket down; `target` shuts it down when it is cut.
    pub(super) fn attach_through(&mut self, target: impl FnOnce(Arc<Socket>) -> Arc<dyn Cut>) {
        let target = target(Arc::clone(&self.wire.socket));
        self.wire.attached = None;
        self.wire.attached = Some(self.wire.token.attach(target));
    }

    /// Puts the socket within the reach of `token`, which is asked from now on.
    pub(super) fn attach(&mut self, token: &CancelToken) {
        self.wire.attached = None;
        self.wire.attached = Some(token.attach(Arc::clone(&self.wire.socket) as Arc<dyn Cut>));
        self.wire.token = token.clone();
    }

    /// Whether an idle connection is still there: open, and nothing but TLS housekeeping has arrived.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.set_read_waits(false);
        let quiet = matches!(self.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        self.set_read_waits(true);
        quiet
    }

    /// Makes this a TLS connection with a client that has not begun its handshake.
    pub(super) fn start_tls(&mut self, mut client: ClientConnection) -> Result<(), NetError> {
        let result = tls::handshake(&mut client, &mut self.wire);
        self.tls = Some(Box::new(client));
        result.map_err(|error| match error.downcast::<NetError>() {
            Ok(NetError::Broken { peer, cause, .. }) => NetError::Tls { peer, cause },
            Ok(error) => error,
            Err(error) => NetError::Tls { peer: self.wire.peer.clone(), cause: error.to_string() },
        })
    }

    /// Sends what TLS holds back.
    fn flush_tls(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.wire)?;
            }
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wire.socket.tcp.as_fd()
    }
}

impl Wire {
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    fn broken(&self, cause: String) -> io::Error {
        if self.token.is_cancelled() {
            return NetError::Cancelled.into();
        }
        NetError::Broken { peer: self.peer.clone(), cause, sent: error::is_sent(self.patience.phase) }.into()
    }

    fn timed_out(&self, silence: bool) -> io::Error {
        if self.token.is_cancelled() {
            return NetError::Cancelled.into();
        }
        let (phase, after) = match self.patience.silence {
            Some(bound) if silence => (phase::BODY, bound),
            _ => (self.patience.phase, clock::now().duration_since(self.patience.since)),
        };
        NetError::Timeout { phase, peer: self.peer.clone(), after }.into()
    }

    fn check_deadline(&self) -> io::Result<()> {
        if self.patience.until.passed() { Err(self.timed_out(false)) } else { Ok(()) }
    }

    fn wait(&self, flags: PollFlags, silence: Option<Duration>) -> io::Result<()> {
        let quiet = silence.map(Deadline::after).filter(|quiet| *quiet < self.patience.until);
        let until = quiet.unwrap_or(self.patience.until);
        match poll(&mut [PollFd::new(self.socket.tcp.as_fd(), flags)], until) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.timed_out(quiet.is_some())),
            Err(error) => Err(self.broken(error.to_string())),
        }
    }

    fn write_with(&self, mut write: impl FnMut(&mut &TcpStream) -> io::Result<usize>) -> io::Result<usize> {
        self.check_deadline()?;
        loop {
            match write(&mut &self.socket.tcp) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.waits_to_write => return Err(error),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::POLLOUT, None)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(plain_words(&error))),
            }
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Asked even if bytes are there: a flood must not outlive the deadline either.
        self.check_deadline()?;
        loop {
            match (&self.socket.tcp).read(buffer) {
                Ok(0) if self.token.is_cancelled() => return Err(NetError::Cancelled.into()),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock && !self.waits_to_read => return Err(error),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::POLLIN, self.patience.silence)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(plain_words(&error))),
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_with(|tcp| tcp.write(bytes))
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.write_with(|tcp| tcp.write_vectored(pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    /// `Ok(0)` is the peer's orderly end. With TLS, a connection that ends without saying so is an error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.wire.read(buffer) };
        self.wire.check_deadline()?;
        loop {
            match tls.reader().read(buffer) {
                Ok(0) if self.wire.token.is_cancelled() => return Err(NetError::Cancelled.into()),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(self.wire.broken("the server cut the TLS connection without closing it".to_owned()));
                }
                Err(error) => return Err(self.wire.broken(plain_words(&error))),
            }
            while tls.wants_write() {
                match tls.write_tls(&mut self.wire) {
                    // There is no room; whoever polls sends it later.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    written => _ = written?,
                }
            }
            tls.read_tls(&mut self.wire)?;
            if let Err(error) = tls.process_new_packets() {
                // Tells the peer why, if there is room.
                let _ = tls.write_tls(&mut &self.wire.socket.tcp);
                return Err(self.wire.broken(format!("TLS: {}", tls::explain(&error))));
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What was held back goes first, so that TLS has room, and nothing is taken and then reported as an error.
        self.flush_tls()?;
        let Some(tls) = &mut self.tls else { return self.wire.write(bytes) };
        let count = tls.writer().write(bytes)?;
        match self.flush_tls() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_tls()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Says goodbye if there is room for it; nobody waits.
        if let Some(tls) = &mut self.tls
            && !tls.is_handshaking()
            && !self.wire.token.is_cancelled()
        {
            tls.send_close_notify();
            let _ = tls.write_tls(&mut &self.wire.socket.tcp);
        }
    }
}

/// A system error without the number that `Display` appends.
pub(super) fn plain_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}
