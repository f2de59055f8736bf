//! Running a process in the foreground: start, feed, read, wait, and order the end of its tree.
//!
//! Runs on the caller's thread, usually a turn. It sleeps in one poll(2) on everything that can happen: output, room in
//! standard input, the leader's end, a cancel, the deadline.

use super::output::Capture;
use super::reaper::{Request, Shared};
use super::spawn::{self, Ends, FAILURE_BYTES, Failure};
use super::system::Status;
use super::tree::{Seed, Tree, TreeCut, Wake};
use super::{Children, Exit, Finished, SpawnError, Spec};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::thread::{self, CancelToken};
use crossbeam_channel::{bounded, select};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Read in one go.
const CHUNK_BYTES: usize = 32 * 1024;

/// A started tree and our ends of its pipes. However it is left, the tree is ended, unless it is kept as a job.
pub(super) struct Begun {
    tree: Option<Arc<Tree>>,
    ends: Option<Ends>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(tree) = &self.tree {
            tree.order_end();
        }
    }
}

/// Asks the children thread to fork, and waits for that alone.
pub(super) fn begin(shared: &Arc<Shared>, spec: &Spec, token: &CancelToken) -> Result<Begun, SpawnError> {
    if shared.is_closing() || token.is_cancelled() {
        return Err(SpawnError::Closing);
    }
    let worker = shared.worker()?;
    let number = shared.next_tree.fetch_add(1, Ordering::SeqCst);
    let mark = format!("{}:{number}", shared.mark);
    let common = shared.environment.get().map_or(&[][..], Vec::as_slice);
    let (prepared, ends) = spawn::prepare(spec, common, &mark)?;
    let wake = Wake::new().map_err(|cause| SpawnError::System { doing: "make an event descriptor", cause })?;
    let left_ms = u64::try_from(spec.deadline.remaining().as_millis()).unwrap_or(u64::MAX / 2);
    let due_ms = clock::mono_ms().saturating_add(left_ms);
    let seed = Seed { number, mark, what: spec.what.clone(), due_ms, wake, worker: Arc::clone(&worker.wake) };
    let (reply, answer) = bounded(1);
    let abandoned = Arc::new(AtomicBool::new(false));
    let request = Request { prepared, seed, token: token.clone(), abandoned: Arc::clone(&abandoned), reply };
    worker.requests.try_send(request).map_err(|_| SpawnError::Stuck)?;
    worker.wake.wake();
    let wait = Deadline::after(limits::CHILD_START).remaining();
    let result = select! {
        recv(answer) -> result => result.unwrap_or(Err(SpawnError::Stuck)),
        recv(token.cancelled()) -> _ => Err(SpawnError::Closing),
        default(wait) => Err(SpawnError::Stuck),
    };
    if result.is_err() {
        // It may still be forked: whoever does it sees this flag, or we see the tree.
        abandoned.store(true, Ordering::SeqCst);
        if let Ok(Ok(tree)) = answer.try_recv() {
            tree.order_end();
        }
    }
    Ok(Begun { tree: Some(result?), ends: Some(ends) })
}

impl Begun {
    /// Waits until the exec has succeeded or failed. A job that hangs before its exec is left to its deadline.
    pub fn wait_for_exec(&mut self, spec: &Spec, token: &CancelToken, deadline: Deadline) -> Result<(), SpawnError> {
        let Some(ends) = &self.ends else { return Ok(()) };
        let _busy = thread::enter(format_args!("starting {}", spec.what), Deadline::at(deadline.instant() + Duration::from_secs(1)));
        let attached = self.tree.as_ref().map(|tree| token.attach(Arc::new(TreeCut(Arc::clone(tree)))));
        let result = loop {
            match read_failure(&ends.report) {
                Report::Open if !deadline.passed() && !token.is_cancelled() => {}
                Report::Failed(failure) => break Err(failure.into_error(spec)),
                _ if token.is_cancelled() => break Err(SpawnError::Closing),
                _ => break Ok(()),
            }
            let mut fds = vec![PollFd::new(ends.report.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.tree.as_ref().map(|tree| PollFd::new(tree.wake.fd(), PollFlags::POLLIN)));
            let _ = nix::poll::poll(&mut fds, timeout(deadline));
        };
        drop(attached);
        result
    }

    /// Takes tree and output out: from here on, the children thread has it.
    pub fn keep(mut self) -> (Arc<Tree>, OwnedFd) {
        let tree = self.tree.take().expect("a begun tree is taken once, here");
        let ends = self.ends.take().expect("its pipes are taken with it");
        (tree, ends.output)
    }
}

enum Report {
    /// The exec has not happened yet.
    Open,
    /// The exec succeeded.
    Closed,
    Failed(Failure),
}

fn read_failure(report: &OwnedFd) -> Report {
    let mut bytes = [0; FAILURE_BYTES];
    match nix::unistd::read(report, &mut bytes) {
        Ok(FAILURE_BYTES) => Report::Failed(Failure::decode(bytes)),
        Err(Errno::EAGAIN | Errno::EINTR) => Report::Open,
        // A write of that size is atomic, so anything else is the end.
        Ok(_) | Err(_) => Report::Closed,
    }
}

fn timeout(deadline: Deadline) -> PollTimeout {
    // Rounded up, so that the last millisecond is slept through and not spun through.
    let wait = deadline.remaining() + Duration::from_micros(999);
    PollTimeout::try_from(wait.min(Duration::from_secs(3600))).unwrap_or(PollTimeout::MAX)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The leader has ended; what is in the pipe is read on.
    Draining,
    /// The end of the tree is ordered.
    Settling,
}

/// The state of one foreground run.
struct Run<'a> {
    spec: &'a Spec,
    token: &'a CancelToken,
    tree: Arc<Tree>,
    stdin: Option<OwnedFd>,
    written: usize,
    output: Option<OwnedFd>,
    report: Option<OwnedFd>,
    capture: Capture,
    phase: Phase,
    phase_end: Deadline,
    exit: Option<Exit>,
}

impl Children {
    /// Runs a process to its end, or to the end of its deadline, or until the token is cancelled; then nothing of its
    /// tree is left, or the rest is about to be ended. `on_output` gets what it writes, as it comes.
    ///
    /// Returns when the leader has ended: a grandchild that holds the pipe delays it by [`limits::PIPE_GRACE`], and by the
    /// time it takes to end it. After a cancel it returns at once and the rest goes on behind.
    ///
    /// # Errors
    /// [`SpawnError`] if it did not start. A token that is cancelled before the start gives [`Exit::Cancelled`].
    pub fn run(&self, spec: &Spec, token: &CancelToken, on_output: &mut dyn FnMut(&[u8])) -> Result<Finished, SpawnError> {
        let started = clock::now();
        let end = Deadline::at(spec.deadline.instant() + limits::TERM_GRACE + limits::TREE_SETTLE + Duration::from_secs(1));
        let _busy = thread::enter(format_args!("{}", spec.what), end);
        let mut begun = match begin(self.shared(), spec, token) {
            Ok(begun) => begun,
            Err(_) if token.is_cancelled() => {
                return Ok(Finished {
                    exit: Exit::Cancelled,
                    output: String::new(),
                    left_out: 0,
                    elapsed: started.elapsed(),
                    leftover: false,
                });
            }
            Err(error) => return Err(error),
        };
        let tree = Arc::clone(begun.tree.as_ref().expect("a tree that has just begun"));
        let ends = begun.ends.take().expect("its pipes come with it");
        let attached = token.attach(Arc::new(TreeCut(Arc::clone(&tree))));
        let mut run = Run {
            spec,
            token,
            tree,
            stdin: ends.stdin,
            written: 0,
            output: Some(ends.output),
            report: Some(ends.report),
            capture: Capture::new(spec.output_bytes_max),
            phase: Phase::Running,
            phase_end: spec.deadline,
            exit: None,
        };
        let result = run.go(on_output);
        drop(attached);
        if matches!(run.exit, Some(Exit::Code(_) | Exit::Signal(_))) && self.shared().worker().is_err() {
            log::warn!(target: "process", "the children thread cannot be started: the rest of \"{}\" is ended at the stop", spec.what);
        }
        result?;
        let exit = run.exit.unwrap_or(Exit::Cancelled);
        let leftover = matches!(exit, Exit::Code(_) | Exit::Signal(_)) && run.tree.leftover.load(Ordering::SeqCst);
        let left_out = run.capture.left_out();
        Ok(Finished { exit, output: run.capture.text(), left_out, elapsed: started.elapsed(), leftover })
    }
}

impl Run<'_> {
    fn go(&mut self, on_output: &mut dyn FnMut(&[u8])) -> Result<(), SpawnError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            if self.token.is_cancelled() {
                if self.phase == Phase::Running {
                    self.exit = Some(Exit::Cancelled);
                }
                self.tree.order_end();
                self.read(&mut buffer, on_output);
                return Ok(());
            }
            // The leader's end is looked at before its output is read, so that nothing it wrote is missed.
            let ended = if self.phase == Phase::Running { self.tree.status() } else { None };
            self.read(&mut buffer, on_output);
            self.write();
            self.look_at_report()?;
            if self.advance(ended) {
                // What was written in the last moment: a pipe holds two chunks.
                (0..3).for_each(|_| self.read(&mut buffer, on_output));
                return Ok(());
            }
            self.sleep();
        }
    }

    /// Goes to the next phase if it is time to. True when all is done.
    fn advance(&mut self, ended: Option<Status>) -> bool {
        if let Some(status) = ended {
            self.exit = Some(match status {
                Status::Code(code) => Exit::Code(code),
                Status::Signal(number) => Exit::Signal(number),
            });
            self.stdin = None;
            (self.phase, self.phase_end) = (Phase::Draining, Deadline::after(limits::PIPE_GRACE));
        }
        let settle = || Deadline::after(limits::TERM_GRACE + limits::TREE_SETTLE);
        match self.phase {
            Phase::Running if self.phase_end.passed() => {
                self.exit = Some(Exit::TimedOut);
                self.tree.order_end();
                (self.phase, self.phase_end) = (Phase::Settling, settle());
            }
            Phase::Draining if self.output.is_none() || self.phase_end.passed() => {
                self.tree.order_end_of_rest();
                (self.phase, self.phase_end) = (Phase::Settling, settle());
            }
            _ => {}
        }
        self.phase == Phase::Settling && (self.tree.is_gone() || self.phase_end.passed())
    }

    /// Reads what is there: one chunk, so that deadline and token are looked at between two.
    fn read(&mut self, buffer: &mut [u8], on_output: &mut dyn FnMut(&[u8])) {
        let Some(output) = &self.output else { return };
        match nix::unistd::read(output, buffer) {
            Ok(0) => self.output = None,
            Ok(length) => {
                self.capture.push(&buffer[..length]);
                on_output(&buffer[..length]);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.output = None,
        }
    }

    fn write(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        let rest = &self.spec.stdin[self.written..];
        match nix::unistd::write(stdin, &rest[..rest.len().min(CHUNK_BYTES)]) {
            Ok(length) => self.written += length,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // It does not read: that is its right.
            Err(_) => self.written = self.spec.stdin.len(),
        }
        if self.written == self.spec.stdin.len() {
            self.stdin = None;
        }
    }

    fn look_at_report(&mut self) -> Result<(), SpawnError> {
        let Some(report) = &self.report else { return Ok(()) };
        match read_failure(report) {
            Report::Open => Ok(()),
            Report::Closed => {
                self.report = None;
                Ok(())
            }
            Report::Failed(failure) => Err(failure.into_error(self.spec)),
        }
    }

    fn sleep(&self) {
        self.tree.wake.clear();
        // Whatever set a flag before the line above is seen here; whoever sets one after it wakes the poll.
        if self.token.is_cancelled() || (self.phase == Phase::Settling && self.tree.is_gone()) {
            return;
        }
        let mut fds = vec![PollFd::new(self.tree.wake.fd(), PollFlags::POLLIN)];
        fds.extend(self.output.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.report.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.stdin.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
        let mut end = self.phase_end;
        if self.phase == Phase::Running {
            match &self.tree.pidfd {
                Some(fd) => fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
                // Before Linux 5.3 nothing wakes us when the leader ends.
                None => end = end.within(Duration::from_millis(50)),
            }
        }
        let _ = nix::poll::poll(&mut fds, timeout(end));
    }
}
