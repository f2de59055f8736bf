//! The children thread: forks, ends trees, reaps, and reads background jobs.
//!
//! It starts with the first child and sleeps in poll(2) between events. What it is told is level-triggered: flags on
//! trees and one wake-up descriptor. It must not wait for any process, file system or other thread.

use super::SpawnError;
use super::job::Job;
use super::spawn::{self, Prepared};
use super::system;
use super::table;
use super::tree::{Seed, Tree, Wake};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::thread::{self, CancelToken, ThreadEnd, Threads};
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::ending::Ending;

/// Leaders that have not been reaped, and marks, of this whole process: nobody may reap or claim what is another's.
pub(super) struct Owned {
    pub leaders: Vec<system::ProcessId>,
    pub marks: Vec<String>,
}

static OWNED: Mutex<Owned> = Mutex::new(Owned { leaders: Vec::new(), marks: Vec::new() });

pub(super) fn owned() -> MutexGuard<'static, Owned> {
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process to be forked by the children thread.
pub(super) struct Request {
    pub prepared: Prepared,
    pub seed: Seed,
    pub token: CancelToken,
    /// Set by a caller that has stopped waiting.
    pub abandoned: Arc<AtomicBool>,
    pub reply: Sender<Result<Arc<Tree>, SpawnError>>,
}

#[derive(Clone)]
pub(super) struct Worker {
    pub requests: Sender<Request>,
    pub wake: Arc<Wake>,
}

/// What all handles and the children thread share.
pub(super) struct Shared {
    pub mark: String,
    /// Set in the environment of every child.
    pub environment: OnceLock<Vec<(String, String)>>,
    threads: Threads,
    worker: Mutex<Option<Worker>>,
    generation: AtomicU64,
    trees: Mutex<Vec<Arc<Tree>>>,
    pub jobs: Mutex<Vec<Arc<Job>>>,
    pub next_tree: AtomicU64,
    pub next_job: AtomicU64,
    closing: AtomicBool,
    /// KILL is due at this time at the latest, whatever the grace; `u64::MAX` in ordinary times.
    pub kill_ms: AtomicU64,
    pub term: AtomicUsize,
    pub kill: AtomicUsize,
    changed: Condvar,
}

impl Shared {
    pub fn new(mark: String, threads: &Threads) -> Self {
        owned().marks.push(mark.clone());
        Self {
            mark,
            environment: OnceLock::new(),
            threads: threads.clone(),
            worker: Mutex::new(None),
            generation: AtomicU64::new(0),
            trees: Mutex::new(Vec::new()),
            jobs: Mutex::new(Vec::new()),
            next_tree: AtomicU64::new(1),
            next_job: AtomicU64::new(1),
            closing: AtomicBool::new(false),
            kill_ms: AtomicU64::new(u64::MAX),
            term: AtomicUsize::new(0),
            kill: AtomicUsize::new(0),
            changed: Condvar::new(),
        }
    }

    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    fn lock_trees(&self) -> MutexGuard<'_, Vec<Arc<Tree>>> {
        // A list of handles is valid after any panic.
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lock_jobs(&self) -> MutexGuard<'_, Vec<Arc<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn trees(&self) -> Vec<Arc<Tree>> {
        self.lock_trees().clone()
    }

    /// For the guardian: `None` if somebody holds the list.
    pub fn try_trees(&self) -> Option<Vec<Arc<Tree>>> {
        self.trees.try_lock().ok().map(|trees| trees.clone())
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Nothing is started any more, and everything there is gets the order to end.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.trees().iter().for_each(|tree| tree.order_end());
        if let Some(worker) = self.worker.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            worker.wake.wake();
        }
    }

    /// The children thread, started if it does not run.
    pub fn worker(self: &Arc<Self>) -> Result<Worker, SpawnError> {
        let mut slot = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = slot.as_ref() {
            return Ok(worker.clone());
        }
        let trees = self.trees();
        // After a panic the trees that are left keep their wake-up descriptor.
        let wake = match trees.first() {
            Some(tree) => Arc::clone(&tree.worker),
            None => Arc::new(Wake::new().map_err(|cause| SpawnError::System { doing: "make an event descriptor", cause })?),
        };
        let (requests, receiver) = bounded(limits::CHILD_STARTS_MAX);
        let worker = Worker { requests, wake: Arc::clone(&wake) };
        let shared = Arc::clone(self);
        let generation = self.generation.fetch_add(1, Ordering::SeqCst);
        let weak: Weak<Self> = Arc::downgrade(self);
        let on_end = move |end: ThreadEnd| {
            let Some(shared) = weak.upgrade() else { return };
            *shared.worker.lock().unwrap_or_else(PoisonError::into_inner) = None;
            if let ThreadEnd::Panicked(message) = end {
                log::error!(target: "process", "the children thread panicked and will be started again with the next child: {message}");
            }
        };
        self.threads
            .spawn("children", generation, CancelToken::new(), on_end, move |_| {
                Loop { shared, requests: receiver, wake, ending: Ending::default() }.run();
            })
            .map_err(|error| SpawnError::System { doing: "start the children thread", cause: error.cause })?;
        *slot = Some(worker.clone());
        Ok(worker)
    }

    /// Waits until no tree is left.
    pub fn wait_empty(&self, deadline: Deadline) -> usize {
        let mut trees = self.lock_trees();
        while !trees.is_empty() && !deadline.passed() {
            let (guard, _) = self.changed.wait_timeout(trees, deadline.remaining()).unwrap_or_else(PoisonError::into_inner);
            trees = guard;
        }
        trees.len()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut owned = owned();
        if let Some(at) = owned.marks.iter().position(|mark| *mark == self.mark) {
            owned.marks.swap_remove(at);
        }
    }
}

/// The state of the children thread.
struct Loop {
    shared: Arc<Shared>,
    requests: Receiver<Request>,
    wake: Arc<Wake>,
    ending: Ending,
}

impl Loop {
    fn run(&mut self) {
        loop {
            let busy = thread::enter(format_args!("looking after children"), Deadline::after(Duration::from_secs(10)));
            self.wake.clear();
            self.start_requested();
            let jobs: Vec<Arc<Job>> = self.shared.lock_jobs().iter().filter(|job| job.needs_attention()).cloned().collect();
            let now_ms = clock::mono_ms();
            let job_ms = jobs.iter().filter_map(|job| job.attend(now_ms)).min();
            let trees = self.shared.trees();
            let pass = self.ending.pass(&self.shared, &trees, &jobs);
            if !pass.gone.is_empty() {
                self.remove(&pass.gone);
                continue;
            }
            if self.shared.is_closing() && trees.is_empty() && self.requests.is_empty() {
                return;
            }
            drop(busy);
            let _idle = thread::wait_for_work(format_args!("{} process trees", trees.len()));
            self.sleep(&jobs, job_ms.into_iter().chain(pass.next_ms).min());
        }
    }

    fn remove(&self, gone: &[u64]) {
        let mut trees = self.shared.lock_trees();
        let ended: Vec<Arc<Tree>> = trees.extract_if(.., |tree| gone.contains(&tree.number)).collect();
        drop(trees);
        self.shared.changed.notify_all();
        // After it was taken off the list, so that whoever waits for it finds it gone in every respect.
        ended.iter().for_each(|tree| tree.set_gone());
    }

    /// Sleeps until a job has output or ends, somebody wakes us, or something is due.
    fn sleep(&self, jobs: &[Arc<Job>], due_ms: Option<u64>) {
        let pipes: Vec<_> = jobs.iter().filter_map(|job| job.pipe()).collect();
        let mut fds = vec![PollFd::new(self.wake.fd(), PollFlags::POLLIN)];
        fds.extend(pipes.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        let leaders = jobs.iter().filter(|job| job.runs()).filter_map(|job| job.tree.pidfd.as_ref());
        fds.extend(leaders.map(|leader| PollFd::new(leader.as_fd(), PollFlags::POLLIN)));
        let timeout = due_ms.map_or(PollTimeout::NONE, |due| {
            let wait = due.saturating_sub(clock::mono_ms());
            PollTimeout::try_from(wait.min(3_600_000)).unwrap_or(PollTimeout::MAX)
        });
        // An interruption or a failure is a look too many, never one too few; without memory it is not repeated at once.
        if let Err(error) = nix::poll::poll(&mut fds, timeout)
            && error != nix::errno::Errno::EINTR
        {
            let _ = CancelToken::new().sleep(Duration::from_millis(50));
        }
    }

    fn start_requested(&self) {
        while let Ok(request) = self.requests.try_recv() {
            let (reply, abandoned) = (request.reply.clone(), Arc::clone(&request.abandoned));
            let result = self.start(request);
            let tree = result.as_ref().ok().cloned();
            let unheard = reply.try_send(result).is_err();
            if let Some(tree) = tree
                && (unheard || abandoned.load(Ordering::SeqCst))
            {
                tree.order_end();
            }
        }
    }

    fn start(&self, request: Request) -> Result<Arc<Tree>, SpawnError> {
        // The last moment to ask: nothing starts once the token is cancelled or the gateway stops.
        if self.shared.is_closing() || request.token.is_cancelled() || request.abandoned.load(Ordering::SeqCst) {
            return Err(SpawnError::Closing);
        }
        if self.shared.lock_trees().len() >= limits::TREES_MAX {
            return Err(SpawnError::TooMany { what: "process trees", limit: limits::TREES_MAX });
        }
        let tree = {
            // Held across the fork, so that nobody takes the new leader for a stranger.
            let mut owned = owned();
            let leader = spawn::fork_exec(&request.prepared).map_err(|cause| SpawnError::System { doing: "fork", cause })?;
            owned.leaders.push(leader);
            Arc::new(Tree::new(request.seed, leader))
        };
        self.shared.lock_trees().push(Arc::clone(&tree));
        // An `end_all` that ran between the question above and the line before has not seen this tree.
        if self.shared.is_closing() {
            tree.order_end();
        }
        log::debug!(target: "process", "started {} (pid {}): {}", tree.number, tree.leader, tree.what);
        Ok(tree)
    }
}

/// Reaps whoever was re-parented to us, has ended, and is nobody else's to wait for.
///
/// A stranger is told from a child that some library started by its session: our tools' processes are never in ours.
pub(super) fn reap_strangers(table: &[table::Process]) {
    let (own_pid, own_session) = (system::own_pid(), system::own_session());
    let owned = owned();
    for process in table.iter().filter(|process| process.parent == own_pid && !process.alive()) {
        if process.session != own_session && !owned.leaders.contains(&process.pid) {
            let _ = system::reap(process.pid);
        }
    }
}
