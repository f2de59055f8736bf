//! Background jobs: trees that survive the call and the turn that started them, but not the gateway.
//!
//! A job belongs to a session. The children thread reads its output into a ring and notes its end; everybody else
//! asks. A job is its leader: when that has ended, what it left running is ended too.

use super::output::{LogPiece, Ring};
use super::system::Status;
use super::tree::Tree;
use super::{Children, Exit, SpawnError, Spec, run};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::thread::CancelToken;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The number of a background job, counted from the start of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    Running,
    /// Its end is ordered; it has not come yet.
    Ending,
    Ended(Exit),
}

/// What is known of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobInfo {
    pub id: JobId,
    pub session: String,
    /// The spec's `what`.
    pub what: String,
    pub pid: super::ProcessId,
    pub state: JobState,
    /// How long it has run, or ran.
    pub elapsed: Duration,
    pub output_bytes: u64,
    /// Since it last wrote something or used the processor (noted every few seconds): the measure of life.
    pub idle: Duration,
    pub cpu: Duration,
}

pub(super) struct Job {
    pub id: JobId,
    pub session: String,
    pub tree: Arc<Tree>,
    started_ms: u64,
    due_ms: u64,
    inner: Mutex<Inner>,
}

struct Inner {
    pipe: Option<Arc<OwnedFd>>,
    ring: Ring,
    exit: Option<Exit>,
    /// Why its end was ordered, if it was before it ended by itself.
    cause: Option<Exit>,
    ended_ms: u64,
    active_ms: u64,
    cpu_ticks: u64,
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each field is valid by itself after any panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False once it has ended and its output is read.
    pub fn needs_attention(&self) -> bool {
        let inner = self.lock();
        inner.exit.is_none() || inner.pipe.is_some()
    }

    pub fn runs(&self) -> bool {
        self.lock().exit.is_none()
    }

    pub fn pipe(&self) -> Option<Arc<OwnedFd>> {
        self.lock().pipe.clone()
    }

    /// Reads what it wrote, notes its end, enforces its deadline. Gives when to look again. Called by the children thread.
    pub fn attend(&self, now_ms: u64) -> Option<u64> {
        let mut inner = self.lock();
        if inner.exit.is_none()
            && let Some(status) = self.tree.status()
        {
            let natural = match status {
                Status::Code(code) => Exit::Code(code),
                Status::Signal(number) => Exit::Signal(number),
            };
            inner.exit = Some(inner.cause.unwrap_or(natural));
            inner.ended_ms = now_ms;
        }
        // Read after the status, so that nothing written before the end is missed.
        inner.read(now_ms);
        if inner.exit.is_some() {
            let drained_ms = inner.ended_ms + limits::PIPE_GRACE.as_millis() as u64;
            if inner.pipe.is_some() && now_ms < drained_ms {
                return Some(drained_ms);
            }
            inner.pipe = None;
            drop(inner);
            self.tree.order_end_of_rest();
            return None;
        }
        if now_ms >= self.due_ms {
            inner.cause.get_or_insert(Exit::TimedOut);
            drop(inner);
            self.tree.order_end();
            return Some(now_ms + 100);
        }
        // Without a pidfd nothing tells us of its end.
        Some(if self.tree.pidfd.is_some() { self.due_ms } else { now_ms + 250 })
    }

    pub fn note_cpu(&self, ticks: u64, now_ms: u64) {
        let mut inner = self.lock();
        if ticks != inner.cpu_ticks {
            inner.cpu_ticks = inner.cpu_ticks.max(ticks);
            inner.active_ms = now_ms;
        }
    }

    fn kill(&self) {
        self.lock().cause.get_or_insert(Exit::Cancelled);
        self.tree.order_end();
    }

    fn info(&self) -> JobInfo {
        let inner = self.lock();
        let now_ms = clock::mono_ms();
        let until = if inner.exit.is_some() { inner.ended_ms } else { now_ms };
        let state = match inner.exit {
            Some(exit) => JobState::Ended(exit),
            None if inner.cause.is_some() => JobState::Ending,
            None => JobState::Running,
        };
        let ticks_a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
        let ticks_a_second = ticks_a_second.and_then(|ticks| u64::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100);
        JobInfo {
            id: self.id,
            session: self.session.clone(),
            what: self.tree.what.clone(),
            pid: self.tree.leader,
            state,
            elapsed: Duration::from_millis(until.saturating_sub(self.started_ms)),
            output_bytes: inner.ring.total(),
            idle: Duration::from_millis(until.saturating_sub(inner.active_ms)),
            cpu: Duration::from_millis(inner.cpu_ticks.saturating_mul(1000) / ticks_a_second),
        }
    }
}

impl Inner {
    /// Reads what is there, within a bound, so that one flood does not starve the other jobs.
    fn read(&mut self, now_ms: u64) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..16 {
            let Some(pipe) = &self.pipe else { return };
            match nix::unistd::read(pipe.as_ref(), &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    self.ring.push(&buffer[..length]);
                    self.active_ms = now_ms;
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

impl Children {
    /// Starts a background job for a session. Its standard input is `/dev/null`; `spec.stdin` is not used.
    ///
    /// # Errors
    /// [`SpawnError`]; also when the token is cancelled, as [`SpawnError::Closing`].
    pub fn start(&self, spec: &Spec, session: &str, token: &CancelToken) -> Result<JobId, SpawnError> {
        let shared = self.shared();
        let running = shared.lock_jobs().iter().filter(|job| job.runs()).count();
        if running >= limits::BACKGROUND_JOBS_MAX {
            return Err(SpawnError::TooMany { what: "background jobs", limit: limits::BACKGROUND_JOBS_MAX });
        }
        let spec = Spec { stdin: Vec::new(), ..spec.clone() };
        let mut begun = run::begin(shared, &spec, token)?;
        begun.wait_for_exec(&spec, token, Deadline::after(limits::CHILD_START))?;
        let now_ms = clock::mono_ms();
        let left = u64::try_from(spec.deadline.remaining().as_millis()).unwrap_or(u64::MAX / 2);
        let (tree, output) = begun.keep();
        let job = Arc::new(Job {
            id: JobId(shared.next_job.fetch_add(1, Ordering::SeqCst)),
            session: session.to_owned(),
            tree,
            started_ms: now_ms,
            due_ms: now_ms + left,
            inner: Mutex::new(Inner {
                pipe: Some(Arc::new(output)),
                ring: Ring::new(limits::JOB_OUTPUT_BYTES_MAX),
                exit: None,
                cause: None,
                ended_ms: 0,
                active_ms: now_ms,
                cpu_ticks: 0,
            }),
        });
        let mut jobs = shared.lock_jobs();
        jobs.push(Arc::clone(&job));
        let ended = jobs.iter().filter(|job| !job.needs_attention()).count();
        for _ in limits::BACKGROUND_JOBS_KEPT_MAX..ended {
            if let Some(oldest) = jobs.iter().position(|job| !job.needs_attention()) {
                jobs.remove(oldest);
            }
        }
        drop(jobs);
        shared.worker()?.wake.wake();
        log::info!(target: "process", "background job {} of session {session} started (pid {})", job.id, job.tree.leader);
        Ok(job.id)
    }

    fn job(&self, session: &str, id: JobId) -> Option<Arc<Job>> {
        self.shared().lock_jobs().iter().find(|job| job.id == id && job.session == session).cloned()
    }

    /// The state of a job; `None` if this session has no such job, or it was forgotten.
    #[must_use]
    pub fn poll(&self, session: &str, id: JobId) -> Option<JobInfo> {
        self.job(session, id).map(|job| job.info())
    }

    /// Output of a job: at most `bytes_max` bytes from `offset` on, or its last ones.
    #[must_use]
    pub fn log(&self, session: &str, id: JobId, offset: Option<u64>, bytes_max: usize) -> Option<LogPiece> {
        self.job(session, id).map(|job| job.lock().ring.read(offset, bytes_max))
    }

    /// Orders the end of a job. `None` if this session has no such job.
    #[must_use]
    pub fn kill(&self, session: &str, id: JobId) -> Option<JobInfo> {
        let job = self.job(session, id)?;
        if job.runs() {
            job.kill();
        }
        Some(job.info())
    }

    /// The jobs of one session, or of all, in the order in which they were started.
    #[must_use]
    pub fn list(&self, session: Option<&str>) -> Vec<JobInfo> {
        let jobs = self.shared().lock_jobs().clone();
        jobs.iter().filter(|job| session.is_none_or(|session| job.session == session)).map(|job| job.info()).collect()
    }

    /// Orders the end of all jobs of a session. Gives how many there were.
    pub fn kill_session(&self, session: &str) -> usize {
        let mut jobs = self.shared().lock_jobs().clone();
        jobs.retain(|job| job.session == session && job.runs());
        jobs.iter().for_each(|job| job.kill());
        jobs.len()
    }
}
