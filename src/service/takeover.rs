//! Finding the gateway that runs in a state directory, and ending it: ask, then TERM, then KILL, each bounded and
//! each reported with its time.
//!
//! Nothing here depends on the other process doing anything: whether it is gone is told by its lock, which the kernel
//! releases.

use super::admin::{Request, socket_path};
use super::client::{Client, ClientError};
use super::lock::{self, HolderInfo, LockError};
use super::peer::{self, SignalError};
use super::report::StatusReport;
use crate::clock::{self, Deadline};
use crate::thread::CancelToken;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the control socket has for an answer before the gateway counts as unresponsive.
pub const ANSWER: Duration = Duration::from_secs(2);
/// After SIGKILL the kernel needs no time of its own, but a process in an uninterruptible wait goes when that ends.
const KILLED: Duration = Duration::from_secs(5);
/// A stopped process does not act on signals; one that is just being continued does.
pub(super) const WHILE_STOPPED: Duration = Duration::from_secs(1);
/// On top of the stop budget: the guardian enforces it, and then the process still has to go.
pub(super) const SLACK: Duration = Duration::from_secs(2);
/// The stop budget of a gateway that did not say.
const BUDGET: Duration = Duration::from_secs(25);

/// The gateway of a state directory.
#[derive(Debug, Clone)]
pub struct Instance {
    pub directory: PathBuf,
    pub holder: HolderInfo,
    pub socket: PathBuf,
}

impl Instance {
    /// `None`: no gateway runs there.
    ///
    /// # Errors
    /// [`LockError::Io`] when that cannot be told.
    pub fn find(directory: &Path) -> Result<Option<Self>, LockError> {
        let default_socket = socket_path(directory, None);
        let holder = match lock::holder(directory)? {
            Some(holder) => holder,
            // Somebody deleted the lock file of a gateway that runs: it still answers.
            None if Client::connect(&default_socket, Deadline::after(Duration::from_millis(200))).is_ok() => HolderInfo::default(),
            None => return Ok(None),
        };
        let socket = holder.socket.clone().unwrap_or(default_socket);
        Ok(Some(Self { directory: directory.to_owned(), holder, socket }))
    }

    /// # Errors
    /// [`ClientError`].
    pub fn connect(&self, deadline: Deadline) -> Result<Client, ClientError> {
        Client::connect(&self.socket, deadline)
    }

    /// # Errors
    /// [`ClientError`].
    pub fn ask(&self, request: &Request, deadline: Deadline) -> Result<serde_json::Value, ClientError> {
        self.connect(deadline)?.ask(request, deadline)
    }

    /// # Errors
    /// [`ClientError`].
    pub fn status(&self, deadline: Deadline) -> Result<StatusReport, ClientError> {
        let value = self.ask(&Request::Status, deadline)?;
        serde_json::from_value(value).map_err(|cause| ClientError::Nonsense(cause.to_string()))
    }

    /// The longest that it says it needs to stop.
    #[must_use]
    pub fn stop_budget(&self) -> Duration {
        self.holder.stop_budget_ms.map_or(BUDGET, Duration::from_millis)
    }

    /// This very process holds the lock no more; another one may.
    fn is_gone(&self) -> bool {
        match Self::find(&self.directory) {
            Ok(None) => true,
            Ok(Some(now)) => {
                let same = (now.holder.pid, now.holder.start_ticks) == (self.holder.pid, self.holder.start_ticks);
                !same && now.holder.pid.is_some() && self.holder.pid.is_some()
            }
            Err(_) => false,
        }
    }

    /// `true`: it is gone.
    fn wait_gone(&self, deadline: Deadline) -> bool {
        let (token, mut pause) = (CancelToken::new(), Duration::from_millis(5));
        loop {
            if self.is_gone() {
                return true;
            }
            if deadline.passed() {
                return false;
            }
            let _ = token.sleep(pause.min(deadline.remaining()));
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

/// One step of ending a gateway, when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub what: String,
    pub outcome: String,
    pub took: Duration,
}

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// SIGKILL if nothing else helps.
    pub kill: bool,
    /// Everything together; `None`: what the stop budget of the other says.
    pub limit: Option<Duration>,
}

/// Ends a gateway. → whether it is gone.
pub fn end(instance: &Instance, plan: Plan, on_step: &mut dyn FnMut(Step)) -> bool {
    let grace = plan.limit.unwrap_or(instance.stop_budget() + SLACK);
    let accepted = ask(instance, on_step);
    if accepted && wait(instance, "waiting for it to end", grace, on_step) {
        return true;
    }
    // One that is stopped is continued to its end if nothing harder is meant; else it does nothing until it is killed.
    let was_stopped = instance.holder.process().is_some_and(peer::Snapshot::is_stopped);
    let signalled = send_signal(instance, Signal::SIGTERM, was_stopped && !plan.kill, on_step);
    // It had its time already if it had accepted: a second request cuts the drain short.
    let after_term = match accepted {
        _ if was_stopped && plan.kill => WHILE_STOPPED,
        true => grace.min(instance.stop_budget() / 2 + SLACK),
        false => grace,
    };
    if signalled && wait(instance, "waiting for it to end", after_term, on_step) {
        return true;
    }
    if instance.is_gone() {
        return true;
    }
    plan.kill && send_signal(instance, Signal::SIGKILL, false, on_step) && wait(instance, "waiting for the kernel", KILLED, on_step)
}

/// Why it is still there, as far as `/proc` tells.
#[must_use]
pub fn why_still_there(instance: &Instance) -> String {
    match instance.holder.process() {
        Some(process) => format!("state {} ({})", process.state, process.describe()),
        None => "its process cannot be seen from here".to_owned(),
    }
}

fn ask(instance: &Instance, on_step: &mut dyn FnMut(Step)) -> bool {
    let started = clock::now();
    let result = instance.ask(&Request::Stop, Deadline::after(ANSWER));
    let outcome = match &result {
        Ok(_) => "accepted".to_owned(),
        Err(ClientError::NoAnswer) => "no answer".to_owned(),
        Err(ClientError::Unreachable(_)) => "nobody listens".to_owned(),
        Err(error) => error.to_string(),
    };
    // If it hung up in the middle it was on its way out.
    let accepted = matches!(result, Ok(_) | Err(ClientError::Closed));
    on_step(step("ask over the control socket", outcome, started));
    accepted
}

fn send_signal(instance: &Instance, signal: Signal, wake: bool, on_step: &mut dyn FnMut(Step)) -> bool {
    let started = clock::now();
    let Some(pid) = instance.holder.pid else {
        on_step(step(signal.as_str(), "its process cannot be seen from here".to_owned(), started));
        return false;
    };
    let result = peer::signal(pid, instance.holder.start_ticks, signal);
    if wake && result.is_ok() {
        // A stopped process takes no other signal until it goes on.
        let _ = peer::signal(pid, instance.holder.start_ticks, Signal::SIGCONT);
    }
    let outcome = match result {
        Ok(()) if wake => "sent, with SIGCONT: it was stopped",
        Ok(()) => "sent",
        Err(SignalError::Gone) => "it is gone",
        Err(SignalError::Denied) => "not allowed: it belongs to another user",
    };
    on_step(step(&format!("{} pid {pid}", signal.as_str()), outcome.to_owned(), started));
    result != Err(SignalError::Denied)
}

fn wait(instance: &Instance, what: &str, limit: Duration, on_step: &mut dyn FnMut(Step)) -> bool {
    let started = clock::now();
    let gone = instance.wait_gone(Deadline::after(limit));
    let outcome = if gone { "gone".to_owned() } else { format!("still there: {}", why_still_there(instance)) };
    on_step(step(what, outcome, started));
    gone
}

fn step(what: &str, outcome: String, started: Instant) -> Step {
    Step { what: what.to_owned(), outcome, took: started.elapsed() }
}

#[cfg(test)]
mod tests {
    // The tests start and kill copies of this very program, which `std::process` does best; waits are bounded by the test's own deadline.
    #![allow(clippy::disallowed_methods)]

    use super::super::admin::serve;
    use super::super::fake::FakeAdmin;
    use super::super::lock::Lock;
    use super::*;
    use crate::thread::Threads;
    use std::process::{Child, Command, Stdio};

    const ROLE: &str = "HERMES_TEST_INSTANCE";

    /// Not a test of its own: a gateway that answers at its socket, and dies of SIGTERM as by default.
    #[test]
    fn runs_until_signalled() {
        let Some(directory) = std::env::var_os(ROLE) else { return };
        let lock = Lock::acquire(Path::new(&directory), Duration::ZERO, &CancelToken::new()).expect("free");
        let admin = FakeAdmin::new(|_, _| ());
        let handle = serve(admin, &lock, &Threads::new(), &CancelToken::new()).expect("serves");
        lock.announce(|info| (info.stop_budget_ms, info.profile) = (Some(200), Some("ready".to_owned())));
        let _ = handle.join(Deadline::after(Duration::from_secs(60)));
    }

    struct Other {
        scratch: tempfile::TempDir,
        child: Child,
    }

    impl Drop for Other {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    impl Other {
        fn start() -> Self {
            let scratch = tempfile::tempdir().expect("scratch directory");
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.args(["--exact", "service::takeover::tests::runs_until_signalled"]).env(ROLE, scratch.path());
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
            let other = Self { scratch, child };
            let deadline = Deadline::after(Duration::from_secs(20));
            let ready = |instance: &Instance| instance.holder.profile.is_some();
            while !other.find().as_ref().is_some_and(ready) {
                assert!(!deadline.passed(), "does not start");
                let _ = CancelToken::new().sleep(Duration::from_millis(5));
            }
            other
        }

        fn find(&self) -> Option<Instance> {
            Instance::find(self.scratch.path()).expect("readable")
        }

        fn stop_it(&self) {
            let instance = self.find().expect("running");
            let (pid, ticks) = (instance.holder.pid.expect("known"), instance.holder.start_ticks);
            peer::signal(pid, ticks, Signal::SIGSTOP).expect("ours");
            let deadline = Deadline::after(Duration::from_secs(20));
            while !instance.holder.process().is_some_and(peer::Snapshot::is_stopped) {
                assert!(!deadline.passed(), "does not stop");
                let _ = CancelToken::new().sleep(Duration::from_millis(5));
            }
        }

        fn end(&self, plan: Plan) -> (bool, Vec<(String, String)>) {
            let (instance, mut steps) = (self.find().expect("running"), Vec::new());
            let gone = end(&instance, plan, &mut |step| steps.push((step.what, step.outcome)));
            (gone, steps)
        }
    }

    fn own(steps: &[(&str, &str)]) -> Vec<(String, String)> {
        steps.iter().map(|(what, outcome)| ((*what).to_owned(), (*outcome).to_owned())).collect()
    }

    #[test]
    fn nobody_is_there() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        assert!(Instance::find(scratch.path()).expect("readable").is_none());
        assert!(Instance::find(&scratch.path().join("nothing")).expect("readable").is_none());
    }

    #[test]
    fn one_that_accepts_and_does_not_go_is_signalled() {
        let other = Other::start();
        assert_eq!(other.find().expect("running").status(Deadline::after(ANSWER)).expect("answers").pid, 4242);
        let (gone, steps) = other.end(Plan { kill: false, limit: Some(Duration::from_millis(300)) });
        let term = format!("SIGTERM pid {}", other.child.id());
        assert!(gone, "{steps:?}");
        assert_eq!(steps[0], ("ask over the control socket".to_owned(), "accepted".to_owned()));
        assert!(steps[1].1.starts_with("still there: state "), "{steps:?}");
        assert_eq!(steps[2..], own(&[(&term, "sent"), ("waiting for it to end", "gone")]));
        assert!(other.find().is_none());
    }

    #[test]
    fn a5_one_that_is_stopped_is_continued_to_its_end() {
        let other = Other::start();
        other.stop_it();
        let (gone, steps) = other.end(Plan { kill: false, limit: Some(Duration::from_secs(20)) });
        let term = format!("SIGTERM pid {}", other.child.id());
        assert!(gone, "{steps:?}");
        assert_eq!(
            steps,
            own(&[
                ("ask over the control socket", "no answer"),
                (&term, "sent, with SIGCONT: it was stopped"),
                ("waiting for it to end", "gone")
            ])
        );
    }
}
