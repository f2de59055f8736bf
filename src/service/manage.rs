//! `service install|uninstall|start|stop|restart`: each can be repeated, and each is believed only when systemd shows
//! that it is so.
//!
//! Runs on the thread of a command. What a person can do about a refusal is part of every error.

use super::systemd::{ASK, Manager, RELOAD, Refused, UnitState};
use super::unit::{self, Account, NAME, Scope, UnitSpec};
use crate::clock::Deadline;
use crate::config::Environment;
use crate::limits;
use crate::thread::CancelToken;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a unit may take to show what a finished systemctl has promised.
const SETTLE: Duration = Duration::from_secs(5);
/// Unit files have a few KiB.
const UNIT_BYTES_MAX: u64 = 256 * 1024;

/// Something is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub what: String,
    /// Commands or sentences, one a line.
    pub fix: String,
}

fn trouble(what: impl Into<String>, fix: impl Into<String>) -> Trouble {
    Trouble { what: what.into(), fix: fix.into() }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.what)?;
        for (index, line) in self.fix.lines().enumerate() {
            write!(f, "\n  {} {line}", if index == 0 { "what to do:" } else { "           " })?;
        }
        Ok(())
    }
}

/// What there is to know about this machine and its user before anything is tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// The machine was booted with systemd.
    pub booted: bool,
    /// The name of the first process.
    pub init: String,
    pub root: bool,
    pub user: String,
    pub uid: u32,
    /// Who called `sudo`.
    pub sudo_user: Option<String>,
    /// `XDG_RUNTIME_DIR`, or where it would be if that is there.
    pub runtime_directory: Option<PathBuf>,
    /// The user's manager can be reached.
    pub user_bus: bool,
    pub linger: bool,
}

impl Site {
    #[must_use]
    pub fn look(environment: &Environment) -> Self {
        let uid = nix::unistd::Uid::effective();
        let user = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        let usual = PathBuf::from(format!("/run/user/{uid}"));
        let runtime_directory = environment.directory("XDG_RUNTIME_DIR").or_else(|| usual.is_dir().then_some(usual));
        let there = |name: &str| runtime_directory.as_ref().is_some_and(|directory| directory.join(name).exists());
        Self {
            booted: super::systemd::is_booted(),
            init: std::fs::read_to_string("/proc/1/comm").unwrap_or_default().trim().to_owned(),
            root: uid.is_root(),
            uid: uid.as_raw(),
            sudo_user: environment.get("SUDO_USER").map(str::to_owned),
            // systemctl talks to the manager's own socket; the bus is for those that have no such right.
            user_bus: there("systemd/private") || there("bus"),
            linger: Path::new("/var/lib/systemd/linger").join(&user).exists(),
            user,
            runtime_directory,
        }
    }

    /// Whether systemd can be talked to in this scope; `change`: and be given units.
    ///
    /// # Errors
    /// [`Trouble`] with the exact remedy.
    pub fn check(&self, scope: Scope, change: bool) -> Result<(), Trouble> {
        if !self.booted {
            return Err(self.without_systemd());
        }
        match scope {
            Scope::System if change && !self.root => Err(trouble(
                "a system service can only be changed by root",
                "sudo hermes-gateway service … --system\nor, without root: hermes-gateway service … --user",
            )),
            Scope::System => Ok(()),
            Scope::User => self.check_user(),
        }
    }

    fn check_user(&self) -> Result<(), Trouble> {
        if let Some(name) = self.sudo_user.as_ref().filter(|_| self.root) {
            return Err(trouble(
                format!("with sudo this would be a service of root, not of {name}"),
                "the same without sudo\nor, for the whole machine: sudo hermes-gateway service … --system",
            ));
        }
        if self.user_bus {
            return Ok(());
        }
        let (user, uid) = (&self.user, self.uid);
        if self.runtime_directory.is_none() {
            let what = format!(
                "{user} has no manager of its own running: this is not a login session (XDG_RUNTIME_DIR is not set, /run/user/{uid} is not there)"
            );
            return Err(trouble(
                what,
                format!(
                    "sudo loginctl enable-linger {user}      (starts it, now and at every boot), then this again\n\
                     or log in as {user}: ssh {user}@localhost, or sudo machinectl shell {user}@"
                ),
            ));
        }
        Err(trouble(
            format!("the service manager of {user} does not run, or is not of this session"),
            format!("sudo systemctl start user@{uid}.service\nor, after `su`: leave, and log in with ssh or sudo machinectl shell {user}@"),
        ))
    }

    fn without_systemd(&self) -> Trouble {
        let kind = match self.init.as_str() {
            "launchd" => "launchd",
            "runit" | "runit-init" | "runsvdir" => "runit",
            "s6-svscan" => "s6",
            "init" | "openrc-init" if Path::new("/sbin/openrc").exists() || Path::new("/run/openrc").exists() => "openrc",
            _ if cfg!(target_os = "macos") => "launchd",
            _ => "KIND",
        };
        let kinds = if kind == "KIND" { "     (openrc, runit, s6, launchd)\nin a container: let it run `hermes-gateway run`" } else { "" };
        trouble(
            format!(
                "this system was not booted with systemd (its first process is {})",
                if self.init.is_empty() { "unknown" } else { &self.init }
            ),
            format!("hermes-gateway service print --for {kind}{kinds}"),
        )
    }
}

/// Tells a person what was done.
pub type Tell<'a> = dyn FnMut(&str, &str) + 'a;

/// A service and its manager.
pub struct Service<'a> {
    pub manager: Manager<'a>,
    pub site: &'a Site,
    pub unit: String,
    /// Where its unit file is or would be.
    pub path: PathBuf,
}

/// Where a unit of that scope is written. `None`: the user has no home.
#[must_use]
pub fn unit_path(scope: Scope, unit: &str, environment: &Environment) -> Option<PathBuf> {
    let directory = match scope {
        Scope::System => PathBuf::from("/etc/systemd/system"),
        Scope::User => {
            let config = environment.directory("XDG_CONFIG_HOME").or_else(|| environment.home().map(|home| home.join(".config")));
            config?.join("systemd/user")
        }
    };
    Some(directory.join(unit))
}

/// A unit file. `None`: there is none.
///
/// # Errors
/// [`Trouble`].
pub fn read_unit(path: &Path) -> Result<Option<String>, Trouble> {
    let failed = |cause: std::io::Error| trouble(format!("cannot read {}: {cause}", path.display()), "make it readable, or remove it");
    match std::fs::metadata(path) {
        Ok(file) if file.is_file() && file.len() <= UNIT_BYTES_MAX => {}
        Ok(_) => return Err(trouble(format!("{} is not a unit file", path.display()), "remove it (`systemctl unmask` if it is masked)")),
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed(cause)),
    }
    std::fs::read_to_string(path).map(Some).map_err(failed)
}

/// Whether what is to be installed could run at all.
///
/// # Errors
/// [`Trouble`].
pub fn check_files(spec: &UnitSpec) -> Result<(), Trouble> {
    let program = spec.program.display();
    let place = "/usr/local/bin/hermes-gateway";
    if spec.program.to_string_lossy().ends_with(" (deleted)") {
        return Err(trouble(format!("the program that runs this command is not there any more: {program}"), "run the new one"));
    }
    if spec.scope == Scope::System && spec.account == Account::Own {
        if ["/home", "/root", "/tmp", "/run/user"].iter().any(|hidden| spec.program.starts_with(hidden)) {
            return Err(trouble(
                format!("{program} cannot be seen by a service with an account of its own"),
                format!("sudo install -m 755 {program} {place} && sudo {place} service install --system\nor: --run-as NAME"),
            ));
        }
        readable_by_all(&spec.config)?;
    }
    if let Account::Named(name) = &spec.account
        && spec.scope == Scope::System
        && !matches!(nix::unistd::User::from_name(name), Ok(Some(_)))
    {
        return Err(trouble(format!("there is no user {name}"), format!("sudo useradd --system --create-home {name}")));
    }
    Ok(())
}

/// The configuration, for an account that owns nothing.
fn readable_by_all(config: &Path) -> Result<(), Trouble> {
    let hidden =
        |path: &&Path| std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & if file.is_dir() { 0o001 } else { 0o004 } == 0);
    let Some(first) = config.ancestors().filter(hidden).last() else { return Ok(()) };
    if ["/home", "/root"].iter().any(|home| config.starts_with(home)) {
        return Err(trouble(
            format!("{} belongs to a user, and a service with an account of its own cannot read it", config.display()),
            format!(
                "sudo install -D -m 644 {} /etc/hermes-gateway/config.toml      (and the file `env` beside it, with -m 600)\nor: --run-as NAME",
                config.display()
            ),
        ));
    }
    let mode = if first == config { "644" } else { "755" };
    Err(trouble(
        format!("{} cannot be read by a service with an account of its own", config.display()),
        format!(
            "sudo chmod {mode} {}      (secrets belong into {}, mode 600, which systemd reads for it)\nor: --run-as NAME",
            first.display(),
            config.with_file_name("env").display()
        ),
    ))
}

impl Service<'_> {
    fn scope(&self) -> Scope {
        self.manager.scope
    }

    /// # Errors
    /// [`Trouble`] when the manager does not answer.
    pub fn show(&self) -> Result<UnitState, Trouble> {
        self.manager.show(&self.unit).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &Refused) -> Trouble {
        let fix = match self.scope() {
            Scope::System if !self.site.root => "sudo hermes-gateway service … --system",
            Scope::System => "journalctl -b -n 30",
            Scope::User => "journalctl --user -n 30",
        };
        trouble(error.to_string(), fix)
    }

    fn command(&self, words: &[&str], limit: Duration) -> Result<(), Trouble> {
        self.manager.systemctl(words, limit).map(drop).map_err(|error| self.refused(&error))
    }

    fn journal(&self) -> String {
        match self.scope() {
            Scope::System => format!("sudo journalctl -u {} -n 30", self.unit),
            Scope::User => format!("journalctl --user -u {} -n 30", self.unit),
        }
    }

    /// Writes the unit, has it started at boot, and starts it, or starts it anew if the unit has changed.
    ///
    /// `approve` is asked with the difference before a unit is rewritten that somebody has edited. `start` is false
    /// while a gateway runs that is not this unit's.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn install(&self, spec: &UnitSpec, start: bool, approve: &mut dyn FnMut(&str) -> bool, tell: &mut Tell<'_>) -> Result<(), Trouble> {
        self.site.check(self.scope(), true)?;
        check_files(spec)?;
        let changed = self.write(&unit::render(spec), approve, tell)?;
        if changed || self.show()?.needs_reload {
            self.command(&["daemon-reload"], RELOAD)?;
        }
        let state = self.show()?;
        if !state.is_loaded() {
            return Err(trouble(
                format!("systemd does not take the unit: {} is {}", self.unit, state.load),
                format!("systemd-analyze verify {}", self.path.display()),
            ));
        }
        if state.file_state != "enabled" {
            self.command(&["enable", "--", &self.unit], RELOAD)?;
        }
        let file_state = self.show()?.file_state;
        if file_state != "enabled" {
            return Err(trouble(
                format!("{} is {file_state} after it was enabled", self.unit),
                format!("{} unmask {}", self.scope().systemctl(), self.unit),
            ));
        }
        if self.scope() == Scope::User {
            tell("at boot", "enabled");
            self.enable_linger(tell);
        } else {
            tell("at boot", "enabled");
        }
        if !start {
            return Ok(());
        }
        if changed && !self.show()?.is_down() { self.restart(tell) } else { self.start(tell) }
    }

    /// → whether the file has changed.
    fn write(&self, text: &str, approve: &mut dyn FnMut(&str) -> bool, tell: &mut Tell<'_>) -> Result<bool, Trouble> {
        let shown = self.path.display().to_string();
        let old = read_unit(&self.path)?;
        if old.as_deref() == Some(text) {
            tell("unit", &format!("{shown} is up to date"));
            return Ok(false);
        }
        if let Some(old) = &old {
            let difference = unit::difference(old, text);
            if unit::is_untouched(old) {
                tell("unit", &format!("{shown} changes:\n{difference}"));
            } else if !approve(&difference) {
                return Err(trouble(
                    format!("{shown} was edited by hand; it is left as it is"),
                    format!(
                        "hermes-gateway service install --yes      (rewrites it; the old one is kept as {shown}.old)\nto keep changes through installs: {} edit {}",
                        self.scope().systemctl(),
                        self.unit
                    ),
                ));
            } else {
                let kept = self.path.with_extension("service.old");
                write_atomically(&kept, old)
                    .map_err(|cause| trouble(format!("cannot write {}: {cause}", kept.display()), "make it writable"))?;
                tell("unit", &format!("the old one is kept as {}", kept.display()));
            }
        }
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let written = std::fs::create_dir_all(directory).and_then(|()| write_atomically(&self.path, text));
        written.map_err(|cause| trouble(format!("cannot write {shown}: {cause}"), format!("make {} writable", directory.display())))?;
        tell("unit", &format!("{shown} written"));
        Ok(true)
    }

    /// Without linger, a user's services stop when the user logs out. A refusal is told and no reason to give up.
    fn enable_linger(&self, tell: &mut Tell<'_>) {
        let user = &self.site.user;
        if self.site.linger {
            return tell("linger", &format!("on: runs without {user} being logged in"));
        }
        let ran = self.manager.commands.run(&["loginctl", "--no-ask-password", "enable-linger"], ASK);
        let on = self.wait(SETTLE.min(Duration::from_secs(1)), || Path::new("/var/lib/systemd/linger").join(user).exists().then_some(()));
        match (on, ran) {
            (Some(()), _) | (None, Ok(super::systemd::Ran { exit: crate::process::Exit::Code(0), .. })) => {
                tell("linger", &format!("switched on: runs without {user} being logged in"));
            }
            (None, ran) => {
                let why = ran.map_or_else(|why| why, |ran| ran.complaint());
                tell("linger", &format!("OFF: it stops when {user} logs out ({why})\nwhat to do: sudo loginctl enable-linger {user}"));
            }
        }
    }

    /// # Errors
    /// [`Trouble`]: it does not run.
    pub fn start(&self, tell: &mut Tell<'_>) -> Result<(), Trouble> {
        self.site.check(self.scope(), false)?;
        let state = self.installed()?;
        if state.is_active() && state.main_pid.is_some() {
            return self.running(&state, "already running", tell);
        }
        // One that was given up as crash-looping starts again only after this.
        let _ = self.manager.systemctl(&["reset-failed", "--", &self.unit], ASK);
        let ordered = self.manager.systemctl(&["start", "--", &self.unit], bounded(state.start_timeout));
        self.verify_running(None, ordered.err(), tell)
    }

    /// # Errors
    /// [`Trouble`]: it does not run, or is the old one still.
    pub fn restart(&self, tell: &mut Tell<'_>) -> Result<(), Trouble> {
        self.site.check(self.scope(), false)?;
        let state = self.installed()?;
        let _ = self.manager.systemctl(&["reset-failed", "--", &self.unit], ASK);
        let limit = bounded(state.start_timeout) + bounded(state.stop_timeout);
        let ordered = self.manager.systemctl(&["restart", "--", &self.unit], limit);
        self.verify_running(state.main_pid, ordered.err(), tell)
    }

    /// # Errors
    /// [`Trouble`]: it still runs.
    pub fn stop(&self, tell: &mut Tell<'_>) -> Result<(), Trouble> {
        self.site.check(self.scope(), false)?;
        let state = self.installed()?;
        if state.is_down() {
            tell("service", "is not running");
            return Ok(());
        }
        let ordered = self.manager.systemctl(&["stop", "--", &self.unit], bounded(state.stop_timeout) * 2);
        let down = self.wait(SETTLE, || self.show().ok().filter(UnitState::is_down));
        match (down, ordered) {
            (Some(down), _) => {
                let how = match down.result.as_str() {
                    "" | "success" => "stopped".to_owned(),
                    "timeout" => "stopped, but systemd had to kill it: TimeoutStopSec is too short, or it hung".to_owned(),
                    other => format!("stopped ({other})"),
                };
                tell("service", &how);
                Ok(())
            }
            (None, Err(error)) => Err(self.refused(&error)),
            (None, Ok(_)) => Err(trouble(format!("{} is still {}", self.unit, self.show()?.describe()), self.journal())),
        }
    }

    /// Stops it, keeps it from starting at boot, and removes its unit. What it has stored stays.
    ///
    /// # Errors
    /// [`Trouble`].
    pub fn uninstall(&self, tell: &mut Tell<'_>) -> Result<(), Trouble> {
        self.site.check(self.scope(), true)?;
        let state = self.show()?;
        let file = read_unit(&self.path)?;
        if !state.is_loaded() && file.is_none() {
            tell("service", "is not installed");
            return Ok(());
        }
        if state.is_loaded() && !state.is_down() {
            self.stop(tell)?;
        }
        if state.is_loaded() && state.file_state == "enabled" {
            self.command(&["disable", "--", &self.unit], RELOAD)?;
        }
        if file.is_some() {
            std::fs::remove_file(&self.path).map_err(|cause| {
                trouble(format!("cannot remove {}: {cause}", self.path.display()), "remove it by hand, then: systemctl daemon-reload")
            })?;
            tell("unit", &format!("{} removed", self.path.display()));
        }
        self.command(&["daemon-reload"], RELOAD)?;
        let _ = self.manager.systemctl(&["reset-failed", "--", &self.unit], ASK);
        let state = self.show()?;
        match state.fragment {
            Some(left) if state.load == "loaded" => Err(trouble(
                format!("{} is still there, from {}", self.unit, left.display()),
                "it belongs to a package: remove that, or `systemctl mask` it",
            )),
            _ => Ok(()),
        }
    }

    fn installed(&self) -> Result<UnitState, Trouble> {
        let state = self.show()?;
        match state.load.as_str() {
            "loaded" => Ok(state),
            "not-found" => {
                Err(trouble(format!("{} is not installed", self.unit), format!("hermes-gateway service install {}", self.scope().option())))
            }
            "masked" => Err(trouble(format!("{} is masked", self.unit), format!("{} unmask {}", self.scope().systemctl(), self.unit))),
            other => Err(trouble(format!("{} is {other}", self.unit), format!("systemd-analyze verify {}", self.path.display()))),
        }
    }

    fn verify_running(&self, old: Option<u32>, refused: Option<Refused>, tell: &mut Tell<'_>) -> Result<(), Trouble> {
        // A start that was refused may have been overtaken by systemd's own.
        let patience = if refused.is_some() { SETTLE / 5 } else { SETTLE };
        let up =
            self.wait(patience, || self.show().ok().filter(|state| state.is_active() && state.main_pid.is_some() && state.main_pid != old));
        if let Some(state) = up {
            return self.running(&state, "running", tell);
        }
        let state = self.show()?;
        let crashed = !matches!(state.result.as_str(), "" | "success") || state.exit_status.is_some_and(|status| status != 0);
        match refused {
            Some(error) if !crashed => Err(self.refused(&error)),
            _ if state.exit_status == Some(78) => Err(trouble(
                format!("{} is {}: its configuration is wrong", self.unit, state.describe()),
                format!("hermes-gateway config check\nor: {}", self.journal()),
            )),
            _ => Err(trouble(format!("{} is {}", self.unit, state.describe()), self.journal())),
        }
    }

    fn running(&self, state: &UnitState, how: &str, tell: &mut Tell<'_>) -> Result<(), Trouble> {
        let pid = state.main_pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
        tell("service", &format!("{how}, pid {pid}"));
        Ok(())
    }

    fn wait<T>(&self, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
        let (deadline, token) = (Deadline::after(limit), CancelToken::new());
        loop {
            let answer = ask();
            if answer.is_some() || deadline.passed() {
                return answer;
            }
            let _ = token.sleep(Duration::from_millis(50));
        }
    }
}

fn bounded(timeout: Option<Duration>) -> Duration {
    timeout.unwrap_or(limits::STORE_OPEN).min(limits::LONG_WAIT) + SETTLE
}

/// Through a draft beside it, so that nobody ever reads half a unit.
fn write_atomically(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{NAME}", std::process::id()));
    let draft = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&draft);
    })
}

#[cfg(test)]
#[path = "manage_tests.rs"]
mod tests;
