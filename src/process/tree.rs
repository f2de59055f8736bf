//! One process tree: its leader, and the order to end it.
//!
//! Shared by the thread that waits for the leader, whoever cancels, and the children thread, which alone reaps.

use super::system::{self, ProcessId, Status};
use crate::clock;
use crate::thread::Cut;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A descriptor that wakes a poll(2). Writing to it never blocks.
pub(super) struct Wake(EventFd);

impl Wake {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    pub fn wake(&self) {
        // The only failure is a full counter, and then the other side is awake already.
        let _ = self.0.write(1);
    }

    /// Takes the wake-up, so that the next poll sleeps.
    pub fn clear(&self) {
        let _ = self.0.read();
    }

    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }
}

/// A started process and everything that descends from it.
pub(super) struct Tree {
    pub number: u64,
    pub mark: String,
    pub what: String,
    pub leader: ProcessId,
    pub start_ticks: u64,
    pub pidfd: Option<OwnedFd>,
    /// Wakes the thread that waits for this tree.
    pub wake: Wake,
    /// Wakes the children thread.
    pub worker: Arc<Wake>,
    /// When it must be over, in [`clock::mono_ms`].
    pub due_ms: u64,
    /// When the end was ordered, in [`clock::mono_ms`] plus one; zero before.
    ordered_ms: AtomicU64,
    /// Others were found alive after the leader had ended.
    pub leftover: AtomicBool,
    /// Nothing of it is left, and the leader is reaped.
    gone: AtomicBool,
    /// Guards the leader's number: while it is not reaped, its number and its group's cannot be reused.
    reaped: Mutex<Option<Option<Status>>>,
}

/// What a tree is made of; all of it exists before the fork, so that nothing can fail after it.
pub(super) struct Seed {
    pub number: u64,
    pub mark: String,
    pub what: String,
    pub due_ms: u64,
    pub wake: Wake,
    pub worker: Arc<Wake>,
}

impl Tree {
    pub fn new(seed: Seed, leader: ProcessId) -> Self {
        Self {
            number: seed.number,
            mark: seed.mark,
            what: seed.what,
            leader,
            // The leader is our unreaped child: its entry exists.
            start_ticks: super::table::read_process(leader).map_or(0, |process| process.start_ticks),
            pidfd: system::pidfd_open(leader),
            wake: seed.wake,
            worker: seed.worker,
            due_ms: seed.due_ms,
            ordered_ms: AtomicU64::new(0),
            leftover: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            reaped: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Option<Status>>> {
        // One value, written in one piece: valid after any panic.
        self.reaped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the leader ended; `None` while it runs. Does not reap it.
    pub fn status(&self) -> Option<Status> {
        let reaped = self.lock();
        match *reaped {
            // Reaped by somebody else, which nobody may do: it has ended, and how is not known.
            Some(status) => Some(status.unwrap_or(Status::Signal(libc::SIGKILL))),
            None => match system::peek(self.leader) {
                Ok(status) => status,
                Err(_) => Some(Status::Signal(libc::SIGKILL)),
            },
        }
    }

    /// Reaps the leader if it has ended. True once it is reaped.
    pub fn reap(&self) -> bool {
        let mut reaped = self.lock();
        if reaped.is_none() {
            match system::reap(self.leader) {
                Ok(None) => {}
                Ok(status) => *reaped = Some(status),
                Err(_) => *reaped = Some(None),
            }
        }
        reaped.is_some()
    }

    /// Signals the leader and its group, as long as their numbers are certainly theirs.
    pub fn signal(&self, signal: Signal) {
        let reaped = self.lock();
        if reaped.is_none() {
            // The group does not exist until the child has called setsid; the leader itself does.
            if !system::signal_group(self.leader, signal) {
                self.pidfd.as_ref().map_or_else(|| system::signal_process(self.leader, signal), |fd| system::pidfd_signal(fd, signal));
            }
        }
    }

    /// Like [`Tree::signal`], but gives up instead of waiting for the lock: for the guardian.
    pub fn try_kill(&self) {
        if let Ok(reaped) = self.reaped.try_lock()
            && reaped.is_none()
        {
            system::signal_group(self.leader, Signal::SIGKILL);
        }
    }

    /// Orders the end of the whole tree: TERM now, the rest is the children thread's. Returns within microseconds.
    pub fn order_end(&self) {
        if self.note_order() {
            self.signal(Signal::SIGTERM);
            // A stopped process takes TERM only once it goes on.
            self.signal(Signal::SIGCONT);
            self.worker.wake();
        }
    }

    /// Orders the end of what the leader, which has ended, left behind: the children thread looks first, then signals.
    pub fn order_end_of_rest(&self) {
        if self.note_order() {
            self.worker.wake();
        }
    }

    fn note_order(&self) -> bool {
        self.ordered_ms.compare_exchange(0, clock::mono_ms() + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// When the end was ordered, in [`clock::mono_ms`].
    pub fn ordered(&self) -> Option<u64> {
        self.ordered_ms.load(Ordering::SeqCst).checked_sub(1)
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.wake.wake();
    }
}

/// What a token holds while a thread waits for a tree.
pub(super) struct TreeCut(pub Arc<Tree>);

impl Cut for TreeCut {
    fn cut(&self) {
        self.0.order_end();
        self.0.wake.wake();
    }
}
