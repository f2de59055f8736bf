//! Wakes a thread that waits for a WebSocket, so that another thread can hand it something to do.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Wakes [`WebSocket::next`](super::WebSocket::next) from any thread. Clones wake the same one. Many wakes before the
/// next look count as one, and none is lost: put the work where it is found first, then wake.
#[derive(Clone)]
pub struct Waker {
    event: Arc<EventFd>,
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

impl Waker {
    /// A waker to begin with; [`WebSocket::set_waker`](super::WebSocket::set_waker) makes a connection heed it. For
    /// senders that outlive a connection.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { event: Arc::new(event) })
    }

    /// Never blocks. Does nothing if nobody waits any more.
    pub fn wake(&self) {
        // The only possible error is a full counter: then the wake is noted already.
        let _ = self.event.write(1);
    }

    /// Whether there was a wake since the last call.
    pub(super) fn take(&self) -> bool {
        self.event.read().is_ok()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
