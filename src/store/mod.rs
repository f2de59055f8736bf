//! The store: SQLite on the thread `store`, and the handle by which every other thread talks to it.
//!
//! One connection, one thread, one writer. An operation is handed in through a bounded queue; its answer is given
//! after the commit that holds it, and operations that wait together share one commit. The handle never touches a
//! file: whoever calls it waits for the thread, for its own cancel token or for its deadline, whichever comes first.

mod approvals;
mod health;
mod inbox;
pub mod inspect;
mod memos;
mod open;
mod ops;
mod outbox;
mod recover;
pub mod repair;
mod request;
mod schedule;
mod schema;
mod sessions;
mod thread;
mod turns;
mod upkeep;

#[cfg(test)]
mod tests;

pub use health::StoreHealth;
pub use open::OpenError;

use crate::clock::{self, Deadline};
use crate::core::record::{Op, Outcome};
use crate::limits;
use crate::thread::{CancelToken, Handle, Join, Threads, enter};
use crossbeam_channel::{Receiver, RecvTimeoutError, Select, Sender, TrySendError, bounded};
use health::Health;
use open::Step;
use request::{Reply, Request};
use rusqlite::InterruptHandle;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Why an operation was not done. Nothing of it is on disk then, except where a variant says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// The one who asked was replaced or cancelled, or the row is not in the state that the operation needs.
    /// If the token was cancelled while [`StoreHandle::call`] waited, the operation may have been done just before.
    Fenced,
    /// The disk is full, read-only or failing: worth trying again later. With the cause.
    Unavailable(String),
    /// The queue is full.
    Busy,
    /// No answer by the deadline; it may still be done.
    Timeout,
    /// The store is closed. An operation that was waiting when the store was given up may have been done.
    Closed,
    /// A defect in this program or a damaged database.
    Bug(String),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fenced => f.write_str("no longer allowed to write: cancelled or replaced"),
            Self::Unavailable(cause) => write!(f, "store unavailable: {cause}"),
            Self::Busy => f.write_str("store busy: its queue is full"),
            Self::Timeout => f.write_str("store did not answer in time"),
            Self::Closed => f.write_str("store closed"),
            Self::Bug(cause) => write!(f, "store: {cause}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// What handles and the thread share.
struct Shared {
    /// Boxed: the queue's memory is touched when it is made, and a request is some hundred bytes.
    queue: Sender<Box<Request>>,
    /// Set when the store begins to close: nothing more is taken.
    closed: Arc<AtomicBool>,
    health: Arc<Health>,
}

/// Talks to the store thread. Cheap to clone. A handle made by [`StoreHandle::fenced`] can do nothing once its token
/// is cancelled: the store thread itself checks, so there is no race.
#[derive(Clone)]
pub struct StoreHandle {
    shared: Arc<Shared>,
    /// All of them must hold.
    fences: Vec<CancelToken>,
}

impl StoreHandle {
    /// A handle whose operations are refused with [`StoreError::Fenced`] from the moment `fence` is cancelled.
    /// Fences add up: a handle made from a fenced one needs both tokens.
    #[must_use]
    pub fn fenced(&self, fence: &CancelToken) -> Self {
        let mut fences = self.fences.clone();
        fences.push(fence.clone());
        Self { shared: Arc::clone(&self.shared), fences }
    }

    /// Hands in an operation and waits for its commit. For turn, adapter and client threads; never for control.
    ///
    /// # Errors
    /// [`StoreError`]; `Fenced` also when the handle's own token is cancelled while waiting, `Busy` if there was no
    /// room in the queue until the deadline.
    pub fn call(&self, op: Op, deadline: Deadline) -> Result<Outcome, StoreError> {
        let _busy = enter(format_args!("store: {}", ops::name(&op)), deadline);
        self.admit()?;
        let (sender, answer) = bounded(1);
        self.hand_in(Box::new(Request { op, fences: self.fences.clone(), reply: Reply::Waiting(sender) }), deadline)?;
        let mut select = Select::new();
        let answered = select.recv(&answer);
        for fence in &self.fences {
            select.recv(fence.cancelled());
        }
        match select.select_deadline(deadline.instant()) {
            Ok(event) if event.index() == answered => event.recv(&answer).unwrap_or(Err(StoreError::Closed)),
            Ok(event) => {
                let fence = event.index() - answered - 1;
                let _ = event.recv(self.fences[fence].cancelled());
                // An answer that is there already is worth more than the news that nobody wants it.
                answer.try_recv().unwrap_or(Err(StoreError::Fenced))
            }
            Err(_) => answer.try_recv().unwrap_or(Err(StoreError::Timeout)),
        }
    }

    /// Waits for room in the queue.
    fn hand_in(&self, request: Box<Request>, deadline: Deadline) -> Result<(), StoreError> {
        let request = match self.shared.queue.try_send(request) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Disconnected(_)) => return Err(StoreError::Closed),
            Err(TrySendError::Full(request)) => request,
        };
        let mut select = Select::new();
        let room = select.send(&self.shared.queue);
        for fence in &self.fences {
            select.recv(fence.cancelled());
        }
        match select.select_deadline(deadline.instant()) {
            Ok(event) if event.index() == room => event.send(&self.shared.queue, request).map_err(|_| StoreError::Closed),
            Ok(event) => {
                let fence = event.index() - room - 1;
                let _ = event.recv(self.fences[fence].cancelled());
                Err(StoreError::Fenced)
            }
            Err(_) => Err(StoreError::Busy),
        }
    }

    /// Hands in an operation and returns at once; `reply` runs on the store thread after the commit and must not block.
    /// If the queue is full, `reply` runs at once with [`StoreError::Busy`]. It runs exactly once in any case: with
    /// [`StoreError::Closed`] if the store is closed before the operation's turn comes.
    pub fn submit(&self, op: Op, reply: impl FnOnce(Result<Outcome, StoreError>) + Send + 'static) {
        let mut request = Request { op, fences: self.fences.clone(), reply: Reply::Callback(Some(Box::new(reply))) };
        if let Err(error) = self.admit() {
            request.reply.give(Err(error));
            return;
        }
        match self.shared.queue.try_send(Box::new(request)) {
            Ok(()) => (),
            Err(TrySendError::Full(mut request)) => request.reply.give(Err(StoreError::Busy)),
            Err(TrySendError::Disconnected(mut request)) => request.reply.give(Err(StoreError::Closed)),
        }
    }

    fn admit(&self) -> Result<(), StoreError> {
        if self.fences.iter().any(CancelToken::is_cancelled) {
            Err(StoreError::Fenced)
        } else if self.shared.closed.load(Ordering::SeqCst) {
            Err(StoreError::Closed)
        } else {
            Ok(())
        }
    }

    /// How the store is doing. Does not wait for its thread.
    #[must_use]
    pub fn health(&self) -> StoreHealth {
        self.shared.health.read(self.shared.queue.len())
    }
}

/// The running thread. Dropping it closes the store without waiting.
pub struct StoreThread {
    handle: Handle,
    path: PathBuf,
    closed: Arc<AtomicBool>,
    /// Dropped to tell the thread to finish what is queued and leave.
    closing: Option<Sender<Deadline>>,
    interrupt: InterruptHandle,
    /// Set while the thread holds the lock that [`InterruptHandle::interrupt`] takes.
    leaving: Arc<AtomicBool>,
}

impl StoreThread {
    /// Finishes what is queued, moves the log into the database and closes it, all by `deadline`.
    ///
    /// Returns `false` if that was not possible: the disk does not answer, and the thread was left behind. What was
    /// answered is durable in either case.
    #[must_use]
    pub fn close(mut self, deadline: Deadline) -> bool {
        let _busy = enter(format_args!("close {}", self.path.display()), deadline);
        self.closed.store(true, Ordering::SeqCst);
        // The last part of the time is for coming back from an interrupt.
        let margin = (deadline.remaining() / 4).min(Duration::from_millis(300));
        let orderly = Deadline::at(deadline.instant().checked_sub(margin).unwrap_or_else(clock::now));
        if let Some(closing) = self.closing.take() {
            let _ = closing.try_send(orderly);
        }
        if matches!(self.handle.join(orderly), Join::Ended(_)) {
            return true;
        }
        if !self.leaving.load(Ordering::SeqCst) {
            self.interrupt.interrupt();
        }
        if matches!(self.handle.join(deadline), Join::Ended(_)) {
            return true;
        }
        let activity = self.handle.activity();
        let doing = &activity.text;
        log::error!(target: "store", "the store thread does not come back from \"{doing}\"; leaving it behind. What was acknowledged is on disk");
        self.handle.abandon();
        false
    }

    /// Whether the thread is still there; it ends only by [`StoreThread::close`], its token or a defect.
    #[must_use]
    pub fn running(&self) -> bool {
        matches!(self.handle.join(Deadline::at(clock::now())), Join::Stuck(_))
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

/// Opens the database at `path`, creating or migrating it as needed, and starts the thread that owns it.
///
/// The directory is created with mode 0700 if it is missing (its parent must be there), the file with mode 0600.
/// `token` ends the thread without finishing its queue; the orderly way is [`StoreThread::close`].
///
/// # Errors
/// [`OpenError`] says what is wrong and what to do; nothing was changed then, except that an older schema may have
/// been migrated by some steps. At `deadline` the attempt is given up, whatever the disk does.
pub fn open(path: &Path, threads: &Threads, token: CancelToken, deadline: Deadline) -> Result<(StoreHandle, StoreThread), OpenError> {
    let (queue, requests) = bounded(limits::STORE_QUEUE_MAX);
    let (step_sender, steps) = bounded(4);
    let (closing, closing_receiver) = bounded(1);
    let closed = Arc::new(AtomicBool::new(false));
    let leaving = Arc::new(AtomicBool::new(false));
    let health = Arc::new(Health::default());
    let body = thread::Body {
        path: path.to_owned(),
        deadline,
        steps: step_sender,
        requests,
        closing: closing_receiver,
        closed: Arc::clone(&closed),
        leaving: Arc::clone(&leaving),
        health: Arc::clone(&health),
    };
    let ended = Arc::clone(&closed);
    let on_end = move |end| {
        ended.store(true, Ordering::SeqCst);
        if let crate::thread::ThreadEnd::Panicked(text) = end {
            log::error!(target: "store", "the store thread panicked: {text}");
        }
    };
    let handle = threads.spawn("store", 0, token.clone(), on_end, move |token| body.run(token)).map_err(OpenError::Thread)?;
    let interrupt = match wait_until_open(path, &steps, &token, deadline) {
        Ok(interrupt) => interrupt,
        Err(error) => {
            closed.store(true, Ordering::SeqCst);
            if matches!(error, OpenError::Timeout { .. } | OpenError::Cancelled) {
                handle.abandon();
            }
            return Err(error);
        }
    };
    let shared = Arc::new(Shared { queue, closed: Arc::clone(&closed), health });
    let thread = StoreThread { handle, path: path.to_owned(), closed, closing: Some(closing), interrupt, leaving };
    Ok((StoreHandle { shared, fences: Vec::new() }, thread))
}

/// Follows the thread through the opening; ends the integrity check when its time is up.
fn wait_until_open(path: &Path, steps: &Receiver<Step>, token: &CancelToken, deadline: Deadline) -> Result<InterruptHandle, OpenError> {
    let _busy = enter(format_args!("open {}", path.display()), deadline);
    let (mut interrupt, mut check_until) = (None, None);
    loop {
        let until = check_until.map_or(deadline, |check: Deadline| check.earliest(deadline));
        let step = crossbeam_channel::select! {
            recv(steps) -> step => step.map_err(|_| RecvTimeoutError::Disconnected),
            recv(token.cancelled()) -> _ => Err(RecvTimeoutError::Timeout),
            default(until.remaining()) => Err(RecvTimeoutError::Timeout),
        };
        match step {
            Ok(Step::Connected(handle)) => interrupt = Some(handle),
            Ok(Step::Checking(until)) => check_until = Some(until),
            Ok(Step::Checked) => check_until = None,
            Ok(Step::Open) => return interrupt.ok_or(OpenError::Ended),
            Ok(Step::Failed(error)) => return Err(*error),
            Err(RecvTimeoutError::Disconnected) => return Err(OpenError::Ended),
            Err(RecvTimeoutError::Timeout) => {
                // Comes back from whatever statement it is in; a statement begun later is not affected.
                if let Some(interrupt) = &interrupt {
                    interrupt.interrupt();
                }
                if token.is_cancelled() {
                    return Err(OpenError::Cancelled);
                }
                if deadline.passed() {
                    return Err(OpenError::Timeout { path: path.to_owned() });
                }
                check_until = None;
            }
        }
    }
}
