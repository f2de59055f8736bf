//! Threads: all of them start here.
//!
//! One function gives each thread a name, a small stack, a pulse, a cancel token and a done-signal that also fires
//! on panic. A thread that does not come back is abandoned: nobody joins it without a deadline, ever.

mod guardian;
pub mod logging;
pub mod memory;
mod pulse;
mod token;

pub use guardian::{Guardian, GuardianPlan};
pub use pulse::{Activity, Busy, Pulse, enter, wait_for_work};
pub use token::{Attached, CancelToken, Cancelled, Cut};

use crate::clock::Deadline;
use crate::limits;
use crossbeam_channel::{Receiver, bounded};
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// How a thread ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThreadEnd {
    Returned,
    /// With the panic's message.
    Panicked(String),
}

/// What [`Handle::join`] saw by the deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join {
    Ended(ThreadEnd),
    /// Still running. It is left alone from here on; its generation is fenced off.
    Stuck(Activity),
}

/// Could not start a thread: too many, or the system refused.
#[derive(Debug)]
pub struct SpawnError {
    pub thread: String,
    pub cause: std::io::Error,
}

impl std::fmt::Display for SpawnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot start thread {}: {}", self.thread, self.cause)
    }
}

impl std::error::Error for SpawnError {}

/// One row of the registry, as `status` shows it.
#[derive(Debug, Clone)]
pub struct ThreadInfo {
    pub name: String,
    pub generation: u64,
    pub activity: Activity,
    pub abandoned: bool,
}

struct Entry {
    id: u64,
    name: String,
    generation: u64,
    pulse: Arc<Pulse>,
    abandoned: AtomicBool,
    /// Set when the body was left.
    end: Mutex<Option<ThreadEnd>>,
}

/// The registry of the process's threads. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Threads {
    shared: Arc<Registry>,
}

#[derive(Default)]
struct Registry {
    entries: Mutex<Vec<Arc<Entry>>>,
    next_id: AtomicU64,
    count: AtomicUsize,
    /// When the guardian looks next, in [`clock::mono_ms`]; an activity that is due earlier wakes it.
    next_look_ms: AtomicU64,
    guardian: OnceLock<std::thread::Thread>,
}

impl Registry {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Entry>>> {
        // A list of handles is valid after any panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self, due_ms: u64) {
        if due_ms < self.next_look_ms.load(Ordering::SeqCst)
            && let Some(guardian) = self.guardian.get()
        {
            guardian.unpark();
        }
    }
}

/// A started thread. Dropping it detaches.
pub struct Handle {
    pub name: String,
    pub generation: u64,
    pub token: CancelToken,
    entry: Arc<Entry>,
    /// Closed when the thread has ended.
    done: Receiver<()>,
}

impl Entry {
    fn end(&self) -> Option<ThreadEnd> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Handle {
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.entry.pulse.read()
    }

    /// Waits for the end of the thread, until `deadline` at the latest.
    #[must_use]
    pub fn join(&self, deadline: Deadline) -> Join {
        // Nothing is ever sent: the thread's end is dropped.
        let _ = self.done.recv_deadline(deadline.instant());
        self.entry.end().map_or_else(|| Join::Stuck(self.activity()), Join::Ended)
    }

    /// Whether the thread has ended, without waiting.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.entry.end().is_some()
    }

    /// Notes in the registry that nobody waits for this thread any more, and cuts what it holds open.
    pub fn abandon(&self) {
        self.token.sever();
        self.entry.abandoned.store(true, Ordering::SeqCst);
    }
}

/// Fires the done-signal when the thread's body is left by return or panic.
struct DoneGuard<F: FnOnce(ThreadEnd)> {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
    end: ThreadEnd,
    done: Option<crossbeam_channel::Sender<()>>,
    on_end: Option<F>,
}

impl<F: FnOnce(ThreadEnd)> Drop for DoneGuard<F> {
    fn drop(&mut self) {
        self.registry.lock().retain(|entry| entry.id != self.entry.id);

        self.registry.count.fetch_sub(1, Ordering::SeqCst);
        let end = std::mem::replace(&mut self.end, ThreadEnd::Returned);
        *self.entry.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end.clone());
        drop(self.done.take());
        if let Some(on_end) = self.on_end.take() {
            on_end(end);
        }
    }
}

impl Threads {
    #[must_use]
    pub fn new() -> Self {
        let threads = Self::default();
        threads.shared.next_look_ms.store(u64::MAX, Ordering::SeqCst);
        threads
    }

    /// Enters the calling thread (main, which becomes control) into the registry, so that it has a pulse too.
    pub fn adopt_current(&self, name: &str) {
        let entry = self.enter_registry(name, 0);
        self.install_pulse(&entry);
    }

    fn enter_registry(&self, name: &str, generation: u64) -> Arc<Entry> {
        let id = self.shared.next_id.fetch_add(1, Ordering::SeqCst);
        let entry = Arc::new(Entry {
            id,
            name: name.to_owned(),
            generation,
            pulse: Arc::new(Pulse::new()),
            abandoned: AtomicBool::new(false),
            end: Mutex::new(None),
        });
        self.shared.lock().push(Arc::clone(&entry));
        self.shared.count.fetch_add(1, Ordering::SeqCst);
        entry
    }

    fn install_pulse(&self, entry: &Arc<Entry>) {
        let registry = Arc::downgrade(&self.shared);
        pulse::install(
            Arc::clone(&entry.pulse),
            Arc::new(move |due_ms| {
                if let Some(registry) = registry.upgrade() {
                    registry.due(due_ms);
                }
            }),
        );
    }

    /// Starts a thread. `on_end` runs on it when `body` is left, also by panic; it must not block.
    ///
    /// # Errors
    /// [`SpawnError`] when the limit is reached or the system refuses.
    pub fn spawn(
        &self,
        name: &str,
        generation: u64,
        token: CancelToken,
        on_end: impl FnOnce(ThreadEnd) + Send + 'static,
        body: impl FnOnce(&CancelToken) + Send + 'static,
    ) -> Result<Handle, SpawnError> {
        if self.shared.count.load(Ordering::SeqCst) >= limits::THREADS_MAX {
            let cause = std::io::Error::other(format!("the limit of {} threads is reached", limits::THREADS_MAX));
            return Err(SpawnError { thread: name.to_owned(), cause });
        }
        let entry = self.enter_registry(name, generation);
        let (done_sender, done) = bounded(0);
        let guard = DoneGuard {
            registry: Arc::clone(&self.shared),
            entry: Arc::clone(&entry),
            end: ThreadEnd::Returned,
            done: Some(done_sender),
            on_end: Some(on_end),
        };
        let (threads, own_entry, own_token) = (self.clone(), Arc::clone(&entry), token.clone());
        // The kernel shows the first 15 bytes of a thread's name; the registry keeps all of it.
        let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(limits::STACK_BYTES);
        #[allow(clippy::disallowed_methods)] // This is the home of thread creation.
        let started = builder.spawn(move || {
            let mut guard = guard;
            threads.install_pulse(&own_entry);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(&own_token)));
            if let Err(panic) = result {
                guard.end = ThreadEnd::Panicked(panic_message(panic.as_ref()));
            }
        });
        match started {
            Ok(_detached) => Ok(Handle { name: name.to_owned(), generation, token, entry, done }),
            // The guard went down with the closure: the registry is clean again.
            Err(cause) => Err(SpawnError { thread: name.to_owned(), cause }),
        }
    }

    /// All threads, in the order in which they were started.
    #[must_use]
    pub fn list(&self) -> Vec<ThreadInfo> {
        let entries: Vec<Arc<Entry>> = self.shared.lock().clone();
        let info = |entry: &Arc<Entry>| ThreadInfo {
            name: entry.name.clone(),
            generation: entry.generation,
            activity: entry.pulse.read(),
            abandoned: entry.abandoned.load(Ordering::SeqCst),
        };
        entries.iter().map(info).collect()
    }

    /// How many abandoned threads still exist.
    #[must_use]
    pub fn abandoned(&self) -> usize {
        self.shared.lock().iter().filter(|entry| entry.abandoned.load(Ordering::SeqCst)).count()
    }
}

/// The text of a panic, for logs and for the one whose turn it was.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "panic without a message".to_owned()
    }
}

/// One line to the log in place of the default hook's backtrace, which takes hundreds of milliseconds on a small
/// machine and would make a panicking thread look stuck.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let place = info.location().map_or_else(|| "unknown place".to_owned(), ToString::to_string);
        log::error!(target: "panic", "thread {} panicked at {place}: {}", thread.name().unwrap_or("?"), panic_message(info.payload()));
    }));
}

/// Ends the process at once: no destructors, no `atexit` handlers, whatever state other threads are in.
pub fn leave(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions; it does not return and runs no code of this process.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_panic_ends_that_thread_only_and_is_reported() {
        let threads = Threads::new();
        let (sender, ends) = bounded(1);
        let handle = threads
            .spawn("victim", 3, CancelToken::new(), move |end| sender.try_send(end).expect("room"), |_| panic!("out of luck"))
            .expect("starts");
        let end = ends.recv_timeout(Duration::from_secs(5)).expect("done-signal");
        assert_eq!(end, ThreadEnd::Panicked("out of luck".to_owned()));
        assert_eq!(handle.join(Deadline::after(Duration::from_secs(5))), Join::Ended(end));
        assert!(threads.list().is_empty());
    }

    #[test]
    fn a_stuck_thread_is_named_and_left() {
        let threads = Threads::new();
        let token = CancelToken::new();
        let (started_sender, started) = bounded(1);
        let handle = threads
            .spawn(
                "stuck",
                1,
                token.clone(),
                |_| (),
                move |token| {
                    let _busy = enter(format_args!("wait for nothing"), Deadline::after(Duration::from_secs(60)));
                    started_sender.send_timeout((), Duration::from_secs(5)).expect("test listens");
                    let _ = token.sleep(Duration::from_secs(60));
                },
            )
            .expect("starts");
        started.recv_timeout(Duration::from_secs(5)).expect("started");
        match handle.join(Deadline::after(Duration::from_millis(20))) {
            Join::Stuck(activity) => assert_eq!(activity.text, "wait for nothing"),
            Join::Ended(end) => panic!("ended: {end:?}"),
        }
        handle.abandon();
        assert_eq!(threads.abandoned(), 1);
        token.cancel();
        assert_eq!(handle.join(Deadline::after(Duration::from_secs(5))), Join::Ended(ThreadEnd::Returned));
        assert_eq!(threads.abandoned(), 0);
    }
}
