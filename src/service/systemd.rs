//! systemd, through its own programs: asking for the state of a unit, and changing it.
//!
//! Every call has a limit. What is true is told by what `systemctl show` reports afterwards, never by an exit code alone.
//! Runs on the threads of commands; control never calls anything here.

use super::unit::Scope;
use crate::clock::Deadline;
use crate::process::{Children, Exit, Program, Spec};
use crate::thread::{CancelToken, Threads};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One question to systemd; it answers within milliseconds unless the machine swaps.
pub const ASK: Duration = Duration::from_secs(10);
/// Reading all units anew, on a slow card.
pub const RELOAD: Duration = Duration::from_secs(60);
/// Output of a program that is kept.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// What came of running a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub exit: Exit,
    /// Both of its outputs.
    pub output: String,
}

impl Ran {
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.exit == Exit::Code(0)
    }

    /// For an error: what it said last (two lines), or how it ended.
    #[must_use]
    pub fn complaint(&self) -> String {
        let lines: Vec<&str> = self.output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(2)..];
        if last.is_empty() || self.exit == Exit::TimedOut { self.exit.to_string() } else { last.join("; ") }
    }
}

/// Runs programs of the system. A trait, so that tests can answer in systemd's place.
pub trait Commands {
    /// # Errors
    /// Why it did not start.
    fn run(&self, words: &[&str], limit: Duration) -> Result<Ran, String>;
}

/// The real programs.
pub struct Programs {
    children: Children,
}

impl Programs {
    #[must_use]
    pub fn new(threads: &Threads) -> Self {
        // Not the mark of a state directory: a gateway that starts meanwhile ends everything that carries its own.
        Self { children: Children::new(format!("command-{}", std::process::id()), threads) }
    }
}

impl Commands for Programs {
    fn run(&self, words: &[&str], limit: Duration) -> Result<Ran, String> {
        let spec = Spec {
            program: Program::Arguments(words.iter().map(OsString::from).collect()),
            directory: PathBuf::from("/"),
            environment_names: vec!["DBUS_SESSION_BUS_ADDRESS".to_owned(), "DBUS_SYSTEM_BUS_ADDRESS".to_owned()],
            environment: [("LC_ALL", "C.UTF-8"), ("SYSTEMD_PAGER", ""), ("SYSTEMD_COLORS", "0"), ("SYSTEMD_LOG_LEVEL", "warning")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            stdin: Vec::new(),
            deadline: Deadline::after(limit),
            output_bytes_max: OUTPUT_BYTES_MAX,
            what: words.join(" "),
        };
        let finished = self.children.run(&spec, &CancelToken::new(), &mut |_| ()).map_err(|error| error.to_string())?;
        Ok(Ran { exit: finished.exit, output: finished.output })
    }
}

/// What `systemctl show` says of a unit. Empty texts: it did not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// `loaded`, `not-found`, `masked`, `bad-setting` …
    pub load: String,
    /// `active`, `activating`, `deactivating`, `inactive`, `failed`.
    pub active: String,
    /// `running`, `auto-restart`, `start` …
    pub sub: String,
    /// Of the last run: `success`, `exit-code`, `signal`, `watchdog`, `timeout`, `start-limit-hit` …
    pub result: String,
    pub main_pid: Option<u32>,
    pub exit_status: Option<i32>,
    pub restarts: u32,
    pub fragment: Option<PathBuf>,
    pub drop_ins: Vec<PathBuf>,
    /// `enabled`, `disabled` …
    pub file_state: String,
    /// `None`: without an end, or not said.
    pub stop_timeout: Option<Duration>,
    pub start_timeout: Option<Duration>,
    pub needs_reload: bool,
    pub command: String,
}

const PROPERTIES: &str = "LoadState,ActiveState,SubState,Result,MainPID,ExecMainStatus,NRestarts,FragmentPath,DropInPaths,UnitFileState,\
                          TimeoutStopUSec,TimeoutStartUSec,NeedDaemonReload,ExecStart";

impl UnitState {
    fn parse(text: &str) -> Self {
        let mut state = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "LoadState" => value.clone_into(&mut state.load),
                "ActiveState" => value.clone_into(&mut state.active),
                "SubState" => value.clone_into(&mut state.sub),
                "Result" => value.clone_into(&mut state.result),
                "MainPID" => state.main_pid = value.parse().ok().filter(|pid| *pid != 0),
                "ExecMainStatus" => state.exit_status = value.parse().ok(),
                "NRestarts" => state.restarts = value.parse().unwrap_or(0),
                "FragmentPath" => state.fragment = Some(PathBuf::from(value)).filter(|path| path.is_absolute()),
                "DropInPaths" => state.drop_ins = value.split(' ').filter(|path| !path.is_empty()).map(PathBuf::from).collect(),
                "UnitFileState" => value.clone_into(&mut state.file_state),
                "TimeoutStopUSec" => state.stop_timeout = parse_time_span(value),
                "TimeoutStartUSec" => state.start_timeout = parse_time_span(value),
                "NeedDaemonReload" => state.needs_reload = value == "yes",
                "ExecStart" => value.clone_into(&mut state.command),
                _ => {}
            }
        }
        state
    }

    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.load == "loaded"
    }

    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading")
    }

    /// Neither runs nor is about to.
    #[must_use]
    pub fn is_down(&self) -> bool {
        matches!(self.active.as_str(), "inactive" | "failed")
    }

    /// Dead, and waiting for its time to be started again.
    #[must_use]
    pub fn awaits_restart(&self) -> bool {
        self.sub.starts_with("auto-restart")
    }

    /// `active (running)`, `failed (exit-code, status 1)`.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!("{} ({}", self.active, self.sub);
        if !matches!(self.result.as_str(), "" | "success") {
            let _ = write!(text, ", {}", self.result);
        }
        if let Some(status) = self.exit_status.filter(|status| *status != 0 && !self.is_active()) {
            let _ = write!(text, ", status {status}");
        }
        text.push(')');
        text
    }

    /// The unit starts the gateway that reads this configuration, as far as its command line tells.
    #[must_use]
    pub fn reads(&self, config: &Path) -> bool {
        let Some((_, rest)) = self.command.split_once("--config") else { return false };
        let rest = rest.trim_start_matches(['=', ' ', '"']);
        rest.strip_prefix(&*config.to_string_lossy()).is_some_and(|after| after.starts_with([' ', '"', ';']))
    }
}

/// `1min 30s`, `500ms`, `2h 5min` (systemd.time(7), "Displaying time spans"). `None`: `infinity`, or not a time.
#[must_use]
pub fn parse_time_span(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    for word in text.split_ascii_whitespace() {
        let digits = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        let (number, unit) = word.split_at(digits);
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            "month" => 2_629_800.0,
            "y" => 31_557_600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
    }
    (!text.trim().is_empty()).then_some(total)
}

/// Why systemd did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// `systemctl --user start hermes-gateway.service`
    pub command: String,
    pub why: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.command, self.why)
    }
}

impl std::error::Error for Refused {}

/// One of systemd's managers: the system's, or that of a user.
pub struct Manager<'a> {
    pub commands: &'a dyn Commands,
    pub scope: Scope,
    /// Whose, if not ours.
    user: Option<String>,
}

impl<'a> Manager<'a> {
    #[must_use]
    pub fn new(commands: &'a dyn Commands, scope: Scope) -> Self {
        Self { commands, scope, user: None }
    }

    /// Runs systemctl.
    ///
    /// # Errors
    /// [`Refused`] unless it ends with 0.
    pub fn systemctl(&self, words: &[&str], limit: Duration) -> Result<String, Refused> {
        let mut all = vec!["systemctl"];
        if self.scope == Scope::User {
            all.push("--user");
        }
        let machine = self.user.as_ref().map(|user| format!("--machine={user}@.host"));
        all.extend(machine.as_deref());
        all.push("--no-ask-password");
        all.extend(words);
        let shown = || all.iter().filter(|word| !word.starts_with("--no-ask")).copied().collect::<Vec<_>>().join(" ");
        match self.commands.run(&all, limit) {
            Ok(ran) if ran.succeeded() => Ok(ran.output),
            Ok(ran) => Err(Refused { command: shown(), why: ran.complaint() }),
            Err(why) => Err(Refused { command: shown(), why }),
        }
    }

    /// # Errors
    /// [`Refused`], for example when the manager cannot be reached. A unit that does not exist is no error.
    pub fn show(&self, unit: &str) -> Result<UnitState, Refused> {
        let property = format!("--property={PROPERTIES}");
        let text = self.systemctl(&["show", &property, "--", unit], ASK)?;
        Ok(UnitState::parse(&text))
    }

    /// `252` of `systemd 252 (252.38-1~deb12u1)`.
    #[must_use]
    pub fn version(&self) -> Option<u32> {
        let ran = self.commands.run(&["systemctl", "--version"], ASK).ok()?;
        ran.output.lines().next()?.split_ascii_whitespace().nth(1)?.split(['.', '~', '-']).next()?.parse().ok()
    }
}

/// A unit that a process belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub scope: Scope,
    pub unit: String,
    /// Whose manager, for [`Scope::User`].
    pub uid: Option<u32>,
}

impl Owner {
    /// The manager that has it.
    #[must_use]
    pub fn manager<'a>(&self, commands: &'a dyn Commands) -> Manager<'a> {
        let others = self.uid.filter(|uid| *uid != nix::unistd::Uid::effective().as_raw());
        let user = others.and_then(|uid| nix::unistd::User::from_uid(uid.into()).ok().flatten());
        Manager { commands, scope: self.scope, user: user.map(|user| user.name) }
    }
}

/// The service that the cgroup of a process belongs to. `None`: a login session, a container's root, no systemd.
#[must_use]
pub fn owner_of(pid: u32) -> Option<Owner> {
    parse_cgroup(&std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The lines of `/proc/PID/cgroup` (cgroups(7)): `ID:CONTROLLERS:PATH`.
fn parse_cgroup(text: &str) -> Option<Owner> {
    let path = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        // The unified hierarchy, or systemd's own where both are mounted.
        (path != "/" && matches!(controllers, "" | "name=systemd")).then_some(path)
    })?;
    let mut owner = None;
    for part in path.split('/') {
        if let Some(uid) = part.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service")) {
            owner = Some((Scope::User, None, uid.parse().ok()));
        } else if part.ends_with(".service") {
            let (scope, uid) = owner.as_ref().map_or((Scope::System, None), |(scope, _, uid)| (*scope, *uid));
            owner = Some((scope, Some(part.to_owned()), uid));
        } else if part.ends_with(".scope") {
            // Started by hand in a session or from an application, whatever service that hangs on.
            return None;
        }
    }
    let (scope, unit, uid) = owner?;
    Some(Owner { scope, unit: unit?, uid })
}

/// Says in the log how long systemd lets this process stop, and warns if that is less than it may need. Without
/// systemd there is nothing to say.
///
/// Told at once where a file of the unit tells it; else systemd is asked, on a thread of its own.
pub fn compare_stop_timeout(threads: &Threads, stop_budget: Duration) {
    if !crate::config::Environment::of_process().supervised() {
        return;
    }
    if let Some(granted) = super::notify::stop_timeout() {
        let owner = owner_of(std::process::id()).map_or_else(|| "this unit".to_owned(), |owner| owner.unit);
        let state = UnitState { stop_timeout: Some(granted), ..UnitState::default() };
        match stop_timeout_warning(&state, &owner, stop_budget) {
            Some(text) => log::warn!(target: "systemd", "{text}; what to do: hermes-gateway service install"),
            None => log::debug!(target: "systemd", "a stop may take {} s", granted.as_secs()),
        }
        return;
    }
    let own = threads.clone();
    let ask = move |_: &CancelToken| {
        let _busy = crate::thread::enter(format_args!("asking systemd about this unit"), Deadline::after(ASK * 2));
        if let Some(text) = check_stop_timeout(&Programs::new(&own), stop_budget) {
            log::warn!(target: "systemd", "{text}; what to do: hermes-gateway service install");
        }
    };
    if let Err(error) = threads.spawn("systemd", 0, CancelToken::new(), |_| (), ask) {
        log::debug!(target: "systemd", "{error}");
    }
}

/// What to say if the unit that this process runs in grants less time for a stop than the gateway may need.
///
/// `None`: it does not run in one, grants enough, or systemd does not answer within `limit`. Blocks until then: not for
/// control's thread.
#[must_use]
pub fn check_stop_timeout(commands: &dyn Commands, stop_budget: Duration) -> Option<String> {
    let owner = owner_of(std::process::id())?;
    let state = owner.manager(commands).show(&owner.unit).ok()?;
    // Somebody else's unit: a terminal, a test runner.
    if state.main_pid != Some(std::process::id()) {
        return None;
    }
    stop_timeout_warning(&state, &owner.unit, stop_budget)
}

/// The same for a state that is known.
#[must_use]
pub fn stop_timeout_warning(state: &UnitState, unit: &str, stop_budget: Duration) -> Option<String> {
    let granted = state.stop_timeout.filter(|granted| *granted < stop_budget)?;
    Some(format!(
        "TimeoutStopSec={} of {unit} is shorter than the stop budget of {}: systemd would kill a slow stop",
        crate::config::duration::format(granted),
        crate::config::duration::format(stop_budget)
    ))
}

/// The machine was booted with systemd (sd_booted(3)).
#[must_use]
pub fn is_booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

#[cfg(test)]
#[path = "systemd_tests.rs"]
pub(crate) mod tests;
