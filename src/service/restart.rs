//! `restart`: from whatever is there to a new gateway that is ready, each step bounded and reported.
//!
//! The ladder: ask over the control socket → SIGUSR1 → SIGTERM → SIGKILL → end what it left → start → see that it is
//! ready. Nothing depends on the old process doing anything: who it is, its lock says, and whether it is gone, the
//! kernel's release of that lock. Where a supervisor has it, the supervisor starts the new one.

use super::admin::Request;
use super::client::ClientError;
use super::lock::{HolderInfo, Lock, LockError};
use super::report::GatewayState;
use super::systemd::{self, Commands, Manager, Owner, Refused};
use super::takeover::{ANSWER, Instance, SLACK, Step, WHILE_STOPPED, why_still_there};
use super::unit::{self, Scope};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::process::{Children, Detached, Pinned, SignalError, command_line, instance_mark};
use crate::thread::{CancelToken, Threads};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What SIGUSR1 may take when the control socket did not answer: enough for an idle gateway.
const AFTER_USR1: Duration = Duration::from_secs(5);
/// After SIGKILL the kernel needs no time of its own, but a process in an uninterruptible wait goes when that ends.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// From the release of the lock until the process has become the next one, or is dead.
const BECOMING: Duration = Duration::from_millis(500);
/// How long another supervisor than systemd may take to start the next one.
const OTHER_SUPERVISOR: Duration = Duration::from_secs(60);

/// What is to be restarted, and how.
pub struct Plan<'a> {
    pub state_dir: &'a Path,
    pub config: &'a Path,
    pub profile: &'a str,
    /// Begin at SIGTERM: no drain.
    pub force: bool,
    /// Of everything until SIGKILL. `None`: what the budgets say.
    pub timeout: Option<Duration>,
    /// The gateway's own words on the longest drain before a restart.
    pub restart_drain: Duration,
    /// This program and its arguments, for a gateway of which no command line is known.
    pub program: &'a Path,
    pub arguments: Vec<OsString>,
    pub directory: PathBuf,
    /// A tool of some gateway runs this: what it starts ends with it.
    pub inside: bool,
    pub commands: &'a dyn Commands,
    pub threads: &'a Threads,
}

/// Who follows the steps.
pub trait Progress {
    /// A step is under way; it ends by `deadline`. Called several times a second.
    fn waiting(&mut self, what: &str, deadline: Deadline);
    fn step(&mut self, step: Step);
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restarted {
    pub pid: u32,
    /// Why the old one did not answer; `None` if it did, or there was none.
    pub why_silent: Option<String>,
    /// It runs without a supervisor, started by us: its log goes nowhere.
    pub detached: bool,
}

/// Why there is no new gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    pub what_to_do: String,
}

fn failure(why: impl Into<String>, what_to_do: impl Into<String>) -> Failure {
    Failure { why: why.into(), what_to_do: what_to_do.into() }
}

/// Restarts the gateway of a state directory, or starts it.
///
/// # Errors
/// [`Failure`].
pub fn restart(plan: &Plan<'_>, progress: &mut dyn Progress) -> Result<Restarted, Failure> {
    let old = Instance::find(plan.state_dir).map_err(|error| failure(error.to_string(), "make the state directory readable"))?;
    let keeper = keeper(plan, old.as_ref());
    if plan.inside && keeper == Keeper::Nobody {
        let why = "this command runs inside a tool of another gateway, and a gateway started from here would end with that tool";
        return Err(failure(why, "hermes-gateway restart from a shell outside"));
    }
    // While it lives: a dead process has no command line.
    let same = old.as_ref().and_then(|old| old.holder.pid).and_then(|pid| reusable_arguments(command_line(pid)));
    let arguments = same.unwrap_or_else(|| plan.arguments.clone());
    let mut ladder = Ladder { plan, progress, keeper, old, arguments, why_silent: None };
    ladder.end_old()?;
    let started = ladder.start()?;
    let detached = matches!(started, Started::Detached(_));
    let pid = ladder.wait_ready(started)?;
    Ok(Restarted { pid, why_silent: ladder.why_silent, detached })
}

/// Who starts it again.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Keeper {
    Unit(Owner),
    /// Another supervisor, of which nothing is known.
    Other,
    Nobody,
}

/// By its cgroup if it runs; else the unit that would read the same configuration.
fn keeper(plan: &Plan<'_>, old: Option<&Instance>) -> Keeper {
    if let Some(old) = old {
        let owner = old.holder.pid.and_then(systemd::owner_of).filter(|owner| owns(plan.commands, owner, &old.holder));
        return match owner {
            Some(owner) => Keeper::Unit(owner),
            None if old.holder.supervised => Keeper::Other,
            None => Keeper::Nobody,
        };
    }
    let unit = unit::unit_name(plan.profile);
    let candidates = [Scope::User, Scope::System].map(|scope| Owner { scope, unit: unit.clone(), uid: None });
    let reads = |owner: &Owner| {
        let state = owner.manager(plan.commands).show(&owner.unit);
        state.is_ok_and(|state| state.is_loaded() && state.reads(plan.config))
    };
    let found = if systemd::is_booted() { candidates.into_iter().find(reads) } else { None };
    found.map_or(Keeper::Nobody, Keeper::Unit)
}

/// The unit is that gateway's own, and not that of a terminal or a test runner that it was started from.
fn owns(commands: &dyn Commands, owner: &Owner, holder: &HolderInfo) -> bool {
    match owner.manager(commands).show(&owner.unit) {
        // A wrapper script may be the main process.
        Ok(state) => state.main_pid == holder.pid || (holder.supervised && owner.unit.starts_with(unit::NAME)),
        // The manager cannot be reached from here; the name must do.
        Err(_) => owner.unit.starts_with(unit::NAME),
    }
}

/// The command line of a gateway, if it means the same when it is started from elsewhere: no relative paths in it.
fn reusable_arguments(words: Vec<OsString>) -> Option<Vec<OsString>> {
    let mut arguments = words.into_iter().skip(1).peekable();
    let mut kept = Vec::new();
    while let Some(word) = arguments.next() {
        let text = word.to_str()?;
        let (option, value) = text.split_once('=').map_or((text, None), |(option, value)| (option, Some(value)));
        match option {
            // It has been obeyed; the next one is not to end anybody.
            "--replace" => continue,
            "--config" | "--state-dir" | "--pid-file" => {
                let path = value.map(OsString::from).or_else(|| arguments.peek().cloned())?;
                if Path::new(&path).is_relative() {
                    return None;
                }
            }
            _ => {}
        }
        kept.push(word);
    }
    kept.iter().any(|word| word == "run").then_some(kept)
}

/// What the start was.
enum Started {
    /// It is there or about to be, by whatever means.
    Elsewhere {
        limit: Duration,
    },
    Detached(Box<Detached>),
}

struct Ladder<'a, 'b> {
    plan: &'a Plan<'a>,
    progress: &'b mut dyn Progress,
    keeper: Keeper,
    old: Option<Instance>,
    /// What to start in its place if nobody else does.
    arguments: Vec<OsString>,
    why_silent: Option<String>,
}

impl Ladder<'_, '_> {
    fn step(&mut self, what: &str, outcome: impl Into<String>, started: Instant) {
        self.progress.step(Step { what: what.to_owned(), outcome: outcome.into(), took: started.elapsed() });
    }

    // --- the old one ---

    /// Until the old one has let go of the lock.
    fn end_old(&mut self) -> Result<(), Failure> {
        let Some(old) = self.old.clone() else {
            self.step("look for a running gateway", "there is none", clock::now());
            return Ok(());
        };
        let overall = Deadline::after(self.plan.timeout.unwrap_or(limits::LONG_WAIT));
        if !self.plan.force && self.ask(&old, overall) {
            return Ok(());
        }
        let Some(pinned) = self.pin(&old)? else { return self.await_lock(&old) };
        if !self.plan.force && !self.is_stopped(&old) && self.signal(&old, &pinned, Signal::SIGUSR1, AFTER_USR1, overall)? {
            return Ok(());
        }
        let grace = if self.is_stopped(&old) { WHILE_STOPPED } else { old.stop_budget() + SLACK };
        if self.signal(&old, &pinned, Signal::SIGTERM, grace, overall)? {
            return Ok(());
        }
        if self.signal(&old, &pinned, Signal::SIGKILL, AFTER_KILL, Deadline::after(AFTER_KILL))? {
            return Ok(());
        }
        let why = format!("{} survived SIGKILL: {}", old.holder.describe(), why_still_there(&old));
        Err(failure(why, "repair the disk or network file system that it waits for, or reboot"))
    }

    fn is_stopped(&self, old: &Instance) -> bool {
        old.holder.process().is_some_and(super::peer::Snapshot::is_stopped)
    }

    /// Asks it to restart itself. → it has gone, or is another one now.
    fn ask(&mut self, old: &Instance, overall: Deadline) -> bool {
        let started = clock::now();
        let result = old.ask(&Request::Restart, Deadline::after(ANSWER));
        let outcome = match &result {
            // If it hung up in the middle it is on its way out.
            Ok(_) | Err(ClientError::Closed) => "accepted".to_owned(),
            Err(ClientError::NoAnswer) => "no answer".to_owned(),
            Err(ClientError::Unreachable(_)) => "nobody listens".to_owned(),
            Err(error) => error.to_string(),
        };
        self.step("ask over the control socket", outcome, started);
        if !matches!(result, Ok(_) | Err(ClientError::Closed)) {
            self.why_silent = Some(match result {
                Err(ClientError::Refused(why)) => why,
                _ => why_still_there(old),
            });
            return false;
        }
        let limit = overall.within(old.stop_budget() + self.plan.restart_drain + SLACK);
        let started = clock::now();
        let mut stuck = None;
        let mut look = clock::now();
        let over = self.wait(limit, "waiting for it to end", || {
            if is_over(old) {
                return Some(true);
            }
            if look.elapsed() >= ANSWER {
                look = clock::now();
                stuck = old.status(Deadline::after(ANSWER)).ok().and_then(|status| status.unresponsive);
            }
            stuck.is_some().then_some(false)
        });
        let outcome = match (&over, &stuck) {
            (Some(true), _) => "gone".to_owned(),
            (_, Some(stuck)) => format!("stuck: {stuck}"),
            _ => "still there".to_owned(),
        };
        self.step("waiting for it to end", outcome, started);
        if over != Some(true) {
            self.why_silent = Some(stuck.unwrap_or_else(|| why_still_there(old)));
        }
        over == Some(true)
    }

    /// `None`: it has just gone.
    fn pin(&mut self, old: &Instance) -> Result<Option<Pinned>, Failure> {
        if is_over(old) {
            return Ok(None);
        }
        let Some(pid) = old.holder.pid else {
            let why = "the lock is held by a process that cannot be seen from here (another container, or another machine on the same file system)";
            return Err(failure(why, "restart it where it runs, or use another state directory"));
        };
        match Pinned::open(pid, old.holder.start_ticks) {
            Ok(pinned) => Ok(Some(pinned)),
            Err(_) => Ok(None),
        }
    }

    /// Its process is dead; the lock follows at once, unless somebody else has inherited it.
    fn await_lock(&mut self, old: &Instance) -> Result<(), Failure> {
        let over = self.wait(Deadline::after(AFTER_KILL), "waiting for its lock", || is_over(old).then_some(()));
        over.ok_or_else(|| {
            failure("the process is dead, but its lock is still held", "find who holds it: fuser gateway.lock, in the state directory")
        })
    }

    /// Sends one signal and waits. → it has gone, or is another one now.
    fn signal(&mut self, old: &Instance, pinned: &Pinned, signal: Signal, grace: Duration, overall: Deadline) -> Result<bool, Failure> {
        let started = clock::now();
        let what = match (signal, old.holder.pid) {
            (Signal::SIGUSR1, _) => "SIGUSR1 (graceful)".to_owned(),
            (_, Some(pid)) => format!("{} pid {pid}", signal.as_str()),
            (_, None) => signal.as_str().to_owned(),
        };
        match pinned.signal(signal) {
            Ok(()) | Err(SignalError::Gone) => {}
            Err(SignalError::Denied) => return self.signal_denied(&what, started),
        }
        let deadline = overall.within(grace);
        let gone = self.wait(deadline, &what, || is_over(old).then_some(())).is_some();
        let stopped = !gone && self.is_stopped(old);
        self.step(
            &what,
            if gone {
                "gone"
            } else if stopped {
                "still there: it is stopped"
            } else {
                "still there"
            },
            started,
        );
        Ok(gone)
    }

    /// Somebody else's process: its manager may still be allowed to us.
    fn signal_denied(&mut self, what: &str, started: Instant) -> Result<bool, Failure> {
        self.step(what, "not allowed: it belongs to another user", started);
        match &self.keeper {
            Keeper::Unit(owner) if owner.scope == Scope::System => {
                Err(failure("the gateway belongs to another user", format!("sudo systemctl restart {}", owner.unit)))
            }
            _ => Err(failure("the gateway belongs to another user", "run this command as that user, or with sudo")),
        }
    }

    // --- the new one ---

    fn start(&mut self) -> Result<Started, Failure> {
        match self.keeper.clone() {
            Keeper::Unit(owner) => self.start_unit(&owner),
            Keeper::Other => Ok(Started::Elsewhere { limit: OTHER_SUPERVISOR }),
            Keeper::Nobody if self.becomes_itself() => Ok(Started::Elsewhere { limit: limits::STORE_OPEN + limits::SWEEP }),
            Keeper::Nobody => self.start_detached(),
        }
    }

    /// A gateway without a supervisor becomes the next one in place: the same process, a new lock.
    fn becomes_itself(&mut self) -> bool {
        let Some(old) = self.old.clone() else { return false };
        let Some(pid) = old.holder.pid else { return true };
        let Ok(pinned) = Pinned::open(pid, old.holder.start_ticks) else { return false };
        let dead_or_back = self.wait(Deadline::after(BECOMING), "start", || {
            if pinned.wait_dead(Deadline::after(Duration::ZERO)) {
                return Some(false);
            }
            matches!(Instance::find(&old.directory), Ok(Some(_))).then_some(true)
        });
        dead_or_back.unwrap_or(true)
    }

    fn start_unit(&mut self, owner: &Owner) -> Result<Started, Failure> {
        let started = clock::now();
        let (manager, unit) = (owner.manager(self.plan.commands), owner.unit.as_str());
        let state = manager.show(unit).map_err(|error| failure(error.to_string(), format!("{} status {unit}", owner.scope.systemctl())))?;
        let bounded = |timeout: Option<Duration>| timeout.unwrap_or(limits::STORE_OPEN).min(limits::LONG_WAIT);
        let limit = bounded(state.start_timeout) + SLACK;
        let old_pid = self.old.as_ref().and_then(|old| old.holder.pid);
        if state.main_pid.is_some_and(|pid| Some(pid) != old_pid) && !state.is_down() {
            self.step("start", format!("systemd has started {unit}"), started);
            return Ok(Started::Elsewhere { limit });
        }
        let what = format!("systemctl {}restart {unit}", if owner.scope == Scope::User { "--user " } else { "" });
        self.progress.waiting(&what, Deadline::after(limit));
        // A unit that was given up as crash-looping starts again only after this; for others it does nothing.
        let _ = manager.systemctl(&["reset-failed", "--", unit], systemd::ASK);
        let result = manager.systemctl(&["restart", "--", unit], limit + bounded(state.stop_timeout));
        match result {
            Ok(_) => {}
            // Not ours to order, but systemd does it by itself: its own exit code is all that a gateway needs for that.
            Err(_) if manager.show(unit).is_ok_and(|state| state.awaits_restart() || state.active == "activating") => {
                self.step("start", format!("systemd starts {unit} again by itself"), started);
                return Ok(Started::Elsewhere { limit });
            }
            Err(error) => {
                self.step("start", what, started);
                return Err(Self::unit_failed(&manager, unit, &error));
            }
        }
        self.step("start", what, started);
        Ok(Started::Elsewhere { limit })
    }

    fn unit_failed(manager: &Manager<'_>, unit: &str, error: &Refused) -> Failure {
        let state = manager.show(unit).unwrap_or_default();
        let journal = match manager.scope {
            Scope::User => format!("journalctl --user -u {unit} -n 30"),
            Scope::System => format!("sudo journalctl -u {unit} -n 30"),
        };
        if state.is_active() || state.active.is_empty() || (state.is_down() && state.result == "success") {
            let rights = match manager.scope {
                Scope::System => {
                    format!("with the rights for it: sudo hermes-gateway restart, or {} restart {unit}", manager.scope.systemctl())
                }
                Scope::User => journal,
            };
            return failure(error.to_string(), rights);
        }
        let why = match state.exit_status {
            Some(78) => format!("{unit} is {}: its configuration is wrong", state.describe()),
            _ => format!("{unit} is {}", state.describe()),
        };
        failure(why, format!("see why: {journal}"))
    }

    /// Ends what the old one has left, then starts a process that outlives us.
    fn start_detached(&mut self) -> Result<Started, Failure> {
        self.sweep();
        let started = clock::now();
        let program = self.plan.program;
        match Detached::start(program, &self.arguments, &self.plan.directory) {
            Ok(child) => {
                self.step("start", format!("{} run, pid {}", unit::NAME, child.pid()), started);
                Ok(Started::Detached(Box::new(child)))
            }
            Err(cause) => Err(failure(format!("cannot start {}: {cause}", program.display()), "install it again")),
        }
    }

    /// Under the lock, so that what a new gateway has started meanwhile is never taken for a leftover.
    fn sweep(&mut self) {
        let started = clock::now();
        let lock = match Lock::acquire(self.plan.state_dir, Duration::ZERO, &CancelToken::new()) {
            Ok(lock) => lock,
            // Somebody is faster than we: the new one sweeps for itself.
            Err(LockError::Held(_) | LockError::Cancelled | LockError::Io { .. }) => return,
        };
        let children = Children::new(instance_mark(self.plan.state_dir), self.plan.threads);
        let ended = children.sweep_leftovers(Deadline::after(limits::SWEEP));
        drop(lock);
        let count = ended.term.max(ended.kill);
        if count > 0 {
            let plural = if count == 1 { "process" } else { "processes" };
            self.step("clean up", format!("{count} leftover {plural} ended"), started);
        }
    }

    /// → the pid of the new one.
    fn wait_ready(&mut self, mut started: Started) -> Result<u32, Failure> {
        let limit = match &started {
            Started::Elsewhere { limit } => *limit,
            Started::Detached(_) => limits::STORE_OPEN + limits::SWEEP + SLACK,
        };
        let (begun, old, directory) = (clock::now(), self.old.clone(), self.plan.state_dir.to_owned());
        let mut seen = String::from("nothing answers");
        let outcome = self.wait(Deadline::after(limit), "waiting until it is ready", || {
            if let Started::Detached(child) = &mut started
                && let Some(status) = child.ended()
            {
                return Some(Err((status, child.complaints())));
            }
            let Ok(Some(now)) = Instance::find(&directory) else { return None };
            if old.as_ref().is_some_and(|old| same(&old.holder, &now.holder)) {
                return None;
            }
            match now.status(Deadline::after(ANSWER)) {
                Ok(status) if status.state == GatewayState::Starting => "it is still starting".clone_into(&mut seen),
                Ok(status) => return Some(Ok(status.pid)),
                Err(error) => seen = error.to_string(),
            }
            None
        });
        match outcome {
            Some(Ok(pid)) => {
                self.step("ready", format!("pid {pid}"), begun);
                Ok(pid)
            }
            Some(Err((status, complaints))) => {
                self.step("ready", "it ended at once", begun);
                let tail: Vec<&str> = complaints.lines().rev().take(12).collect();
                let tail: String = tail.iter().rev().map(|line| format!("\n    {line}")).collect();
                let code = status.code().map_or_else(|| "killed by a signal".to_owned(), |code| format!("exit {code}"));
                let check = "hermes-gateway config check, or run it in the foreground: hermes-gateway run";
                Err(failure(format!("the new gateway ended at once ({code}){tail}"), check))
            }
            None => {
                self.step("ready", "not in time", begun);
                let look = match &self.keeper {
                    Keeper::Unit(_) => "hermes-gateway service logs",
                    Keeper::Other => "look at its supervisor's log",
                    Keeper::Nobody => "hermes-gateway status",
                };
                Err(failure(format!("the new gateway is not ready: {seen}"), look))
            }
        }
    }

    /// Asks again and again, at first often, until there is an answer or the deadline has passed.
    fn wait<T>(&mut self, deadline: Deadline, what: &str, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
        let (token, mut pause) = (CancelToken::new(), Duration::from_millis(2));
        loop {
            if let Some(answer) = ask() {
                return Some(answer);
            }
            if deadline.passed() {
                return None;
            }
            self.progress.waiting(what, deadline);
            let _ = token.sleep(pause.min(deadline.remaining()));
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

/// The same process with the same lock. One that restarts in place has a new lock, though the process stays.
fn same(old: &HolderInfo, now: &HolderInfo) -> bool {
    (old.pid, old.start_ticks, old.started_ms) == (now.pid, now.start_ticks, now.started_ms)
}

/// The old one holds the lock no more; another one may.
fn is_over(old: &Instance) -> bool {
    match Instance::find(&old.directory) {
        Ok(None) => true,
        Ok(Some(now)) => !same(&old.holder, &now.holder) && now.holder.pid.is_some(),
        Err(_) => false,
    }
}

#[cfg(test)]
#[path = "restart_tests.rs"]
mod tests;
