//! A descriptor that makes poll(2) return, and the poll itself with everything that belongs around it.

use crate::clock::Deadline;
use crate::thread::Cut;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Wakes a thread that polls [`Wake::fd`]. Stays awake until [`Wake::clear`].
pub struct Wake(EventFd);

impl Wake {
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Never blocks: if the counter is full, it is awake already.
    pub fn wake(&self) {
        let _ = self.0.write(1);
    }

    pub fn clear(&self) {
        let _ = self.0.read();
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Cut for Wake {
    fn cut(&self) {
        self.wake();
    }
}

/// Waits until one of the descriptors is ready in its sense or the deadline passes. → which are ready, hang-ups and
/// errors included. Without a deadline it waits until then; one of the descriptors must be a [`Wake`] that ends it.
///
/// # Errors
/// When the system refuses to poll.
pub fn poll_ready<const N: usize>(fds: [(BorrowedFd<'_>, PollFlags); N], deadline: Option<Deadline>) -> std::io::Result<[bool; N]> {
    loop {
        let mut list = fds.map(|(fd, flags)| PollFd::new(fd, flags));
        // Rounded up, or the last millisecond would be spent turning.
        let left = deadline.map(|deadline| deadline.remaining() + Duration::from_micros(999));
        let timeout = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        match poll(&mut list, timeout) {
            Ok(0) if deadline.is_some_and(|deadline| !deadline.passed()) => {}
            Ok(_) => return Ok(list.map(|fd| fd.any().unwrap_or(true))),
            // A signal was handled.
            Err(Errno::EINTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
}
