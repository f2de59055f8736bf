//! `service`: the gateway as a service of systemd, of this user or of the machine.

use super::args::{InstallArguments, ScopeArguments, ServiceCommand};
use super::output::{complain, print};
use super::{Context, code};
use crate::config::{Config, Environment};
use crate::process::become_program;
use crate::service::manage::{Service, Site, Trouble, check_files, read_unit, unit_path};
use crate::service::systemd::{self, Commands, Manager, Programs};
use crate::service::takeover::Instance;
use crate::service::unit::{self, Account, Scope, UnitSpec, unit_name};
use crate::thread::Threads;
use std::ffi::OsString;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

/// As `systemctl status`: "program is not running" (LSB).
const NOT_RUNNING: u8 = 3;

/// What is printed for systems without systemd.
const OPENRC: &str = include_str!("../../contrib/openrc/hermes-gateway");
const RUNIT: &str = include_str!("../../contrib/runit/hermes-gateway/run");
const S6: &str = include_str!("../../contrib/s6/hermes-gateway/run");
const LAUNCHD: &str = include_str!("../../contrib/launchd/hermes-gateway.plist");

pub(super) fn service(context: &Context<'_>, command: ServiceCommand) -> u8 {
    if let ServiceCommand::Print { scope, run_as, kind } = &command {
        return print_unit(context, *scope, run_as.clone(), kind);
    }
    let threads = Threads::new();
    let programs = Programs::new(&threads);
    let site = Site::look(&context.environment);
    let desk = Desk { context, programs: &programs, site: &site };
    let done = match command {
        ServiceCommand::Install(install) => match context.load() {
            Ok(loaded) => desk.install(install, &loaded.config),
            Err(exit) => return exit,
        },
        ServiceCommand::Uninstall { scope } => desk.with(scope, |service| {
            service.uninstall(&mut tell)?;
            let places = &context.places;
            let (config, state) = (context.environment.shorten(&places.config), context.environment.shorten(&places.state_dir));
            tell("kept", &format!("{config} and {state}"));
            Ok(code::OK)
        }),
        ServiceCommand::Start { scope } => desk.with(scope, |service| service.start(&mut tell).map(|()| code::OK)),
        ServiceCommand::Stop { scope } => desk.with(scope, |service| service.stop(&mut tell).map(|()| code::OK)),
        ServiceCommand::Restart { scope } => desk.with(scope, |service| service.restart(&mut tell).map(|()| code::OK)),
        ServiceCommand::Status { scope } => desk.with(scope, |service| desk.status(service)),
        ServiceCommand::Logs { scope, follow, lines } => desk.with(scope, |service| Err(logs(service, follow, lines))),
        ServiceCommand::Print { .. } => Ok(code::OK), // Handled above: it asks nobody.
    };
    done.unwrap_or_else(|trouble| {
        complain(&format!("error: {trouble}"));
        code::FAILED
    })
}

/// One line, or several under the same heading.
fn tell(what: &str, text: &str) {
    let mut lines = text.trim_end().lines();
    print(&format!("  {what:<9} {}\n", lines.next().unwrap_or_default()));
    lines.for_each(|line| print(&format!("  {:<9}   {line}\n", "")));
}

/// What `--user`, `--system` and who asks make of it, given where it is installed.
fn choose_scope(arguments: ScopeArguments, root: bool, installed: impl Fn(Scope) -> bool) -> Scope {
    match arguments {
        ScopeArguments { user: true, .. } => Scope::User,
        ScopeArguments { system: true, .. } => Scope::System,
        // Without root's rights, a system service can still be looked at.
        _ if !root && !installed(Scope::User) && installed(Scope::System) => Scope::System,
        _ if root => Scope::System,
        _ => Scope::User,
    }
}

struct Desk<'a> {
    context: &'a Context<'a>,
    programs: &'a dyn Commands,
    site: &'a Site,
}

impl Desk<'_> {
    fn service(&self, scope: Scope) -> Result<Service<'_>, Trouble> {
        let unit = unit_name(&self.context.places.profile);
        let path = unit_path(scope, &unit, &self.context.environment)
            .ok_or_else(|| Trouble { what: "HOME is not set".to_owned(), fix: "set it, or use --system".to_owned() })?;
        Ok(Service { manager: Manager::new(self.programs, scope), site: self.site, unit, path })
    }

    fn scope(&self, arguments: ScopeArguments) -> Scope {
        let unit = unit_name(&self.context.places.profile);
        choose_scope(arguments, self.site.root, |scope| {
            let path = unit_path(scope, &unit, &self.context.environment);
            path.is_some_and(|path| path.exists()) || scope == Scope::System && Path::new("/usr/lib/systemd/system").join(&unit).exists()
        })
    }

    fn with(&self, arguments: ScopeArguments, act: impl FnOnce(&Service<'_>) -> Result<u8, Trouble>) -> Result<u8, Trouble> {
        let scope = self.scope(arguments);
        self.site.check(scope, false)?;
        act(&self.service(scope)?)
    }

    fn install(&self, arguments: InstallArguments, config: &Config) -> Result<u8, Trouble> {
        let scope = match (&arguments.run_as, arguments.scope) {
            (Some(_), _) => Scope::System,
            (None, given) => choose_scope(given, self.site.root, |_| false),
        };
        self.site.check(scope, true)?;
        let service = self.service(scope)?;
        let version = service.manager.version();
        let spec = unit_spec(self.context, config, scope, arguments.run_as, version)?;
        let start = self.stranger(&service)?;
        service.install(&spec, start.is_none(), &mut |difference| approve(difference, arguments.yes), &mut tell)?;
        if let Some(other) = start {
            tell(
                "service",
                &format!("not started: {other} runs outside of it\nwhat to do: hermes-gateway stop && hermes-gateway service start"),
            );
        }
        Ok(code::OK)
    }

    /// The gateway that runs on this state directory and is not the unit's.
    fn stranger(&self, service: &Service<'_>) -> Result<Option<String>, Trouble> {
        let Ok(Some(instance)) = Instance::find(&self.context.places.state_dir) else { return Ok(None) };
        let main_pid = service.show()?.main_pid;
        Ok((instance.holder.pid.is_none() || instance.holder.pid != main_pid).then(|| instance.holder.describe()))
    }

    fn status(&self, service: &Service<'_>) -> Result<u8, Trouble> {
        let state = service.show()?;
        if !state.is_loaded() {
            tell("service", &format!("{} is {}", service.unit, if state.load == "not-found" { "not installed" } else { &state.load }));
            tell("", &format!("what to do: hermes-gateway service install {}", service.manager.scope.option()));
            return Ok(NOT_RUNNING);
        }
        let pid = state.main_pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
        let restarts = if state.restarts > 0 { format!(", started again {} times by systemd", state.restarts) } else { String::new() };
        tell("service", &format!("{} is {}{pid}{restarts}", service.unit, state.describe()));
        let fragment = state.fragment.as_ref().map_or_else(|| "no file".to_owned(), |path| path.display().to_string());
        tell("unit", &format!("{fragment}, {}", if state.file_state.is_empty() { "transient" } else { &state.file_state }));
        for path in &state.drop_ins {
            tell("", &path.display().to_string());
        }
        if service.manager.scope == Scope::User && !self.site.linger {
            tell("linger", &format!("OFF: it stops when {0} logs out\nwhat to do: sudo loginctl enable-linger {0}", self.site.user));
        }
        if state.result == "start-limit-hit" || state.active == "failed" {
            tell("", "what to do: hermes-gateway service logs, then hermes-gateway restart");
        }
        Ok(if state.is_active() { code::OK } else { NOT_RUNNING })
    }
}

/// What the unit is made of.
pub(super) fn unit_spec(
    context: &Context<'_>,
    config: &Config,
    scope: Scope,
    run_as: Option<String>,
    systemd_version: Option<u32>,
) -> Result<UnitSpec, Trouble> {
    let program = std::env::current_exe().map_err(|cause| Trouble {
        what: format!("cannot tell where this program is: {cause}"),
        fix: "call it by its full path".to_owned(),
    })?;
    let profile = context.places.profile.clone();
    let default_state = match scope {
        Scope::System if profile == "default" => PathBuf::from("/var/lib/hermes-gateway"),
        Scope::System => Path::new("/var/lib/hermes-gateway/profiles").join(&profile),
        Scope::User => PathBuf::new(),
    };
    // systemd knows the system's place by itself; a user's is written down, whatever the session's variables say.
    let state_dir =
        Some(config.state_dir.clone()).filter(|directory| *directory != default_state && !is_users(scope, directory, &context.environment));
    Ok(UnitSpec {
        scope,
        account: run_as.map_or(Account::Own, Account::Named),
        program,
        config: context.places.config.clone(),
        profile,
        state_dir,
        home: context.environment.home(),
        stop_budget: config.shutdown.stop_budget(),
        systemd_version,
    })
}

/// For a system service: the place that was only found because a user asks.
fn is_users(scope: Scope, directory: &Path, environment: &Environment) -> bool {
    scope == Scope::System && environment.home().is_some_and(|home| directory.starts_with(home))
}

fn print_unit(context: &Context<'_>, scope: ScopeArguments, run_as: Option<String>, kind: &str) -> u8 {
    let template = match kind {
        "openrc" => OPENRC,
        "runit" => RUNIT,
        "s6" => S6,
        "launchd" => LAUNCHD,
        _ => "",
    };
    if !template.is_empty() {
        print(template);
        return code::OK;
    }
    let config = match context.load() {
        Ok(loaded) => loaded.config,
        Err(exit) => return exit,
    };
    let scope = if run_as.is_some() { Scope::System } else { choose_scope(scope, context.environment.root, |_| false) };
    let threads = Threads::new();
    let version = Manager::new(&Programs::new(&threads), scope).version();
    let spec = match unit_spec(context, &config, scope, run_as, version) {
        Ok(spec) => spec,
        Err(trouble) => {
            complain(&format!("error: {trouble}"));
            return code::FAILED;
        }
    };
    print(&unit::render(&spec));
    if let Err(trouble) = check_files(&spec) {
        complain(&format!("warning: {trouble}"));
    }
    code::OK
}

/// Shows the difference and asks, if there is somebody to ask.
fn approve(difference: &str, yes: bool) -> bool {
    tell("unit", &format!("was edited by hand; this would change:\n{difference}"));
    if yes {
        return true;
    }
    if !std::io::stdin().is_terminal() {
        return false;
    }
    print("  Rewrite it? The old one is kept. [y/N] ");
    let mut answer = String::new();
    // A person at a terminal may take their time.
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Becomes journalctl. Returns only if that fails.
fn logs(service: &Service<'_>, follow: bool, lines: u32) -> Trouble {
    let mut words: Vec<OsString> = vec!["journalctl".into()];
    if service.manager.scope == Scope::User {
        words.push("--user".into());
    }
    words.extend(["-u".into(), OsString::from(&service.unit), "-n".into(), OsString::from(lines.to_string())]);
    if follow {
        words.push("-f".into());
    }
    let cause = become_program(&words);
    Trouble { what: format!("cannot run journalctl: {cause}"), fix: "install it, or read the log where your system keeps it".to_owned() }
}

/// How an installed unit differs from what would be written now. `None`: it does not, or there is none.
pub(super) fn unit_difference(
    context: &Context<'_>,
    config: &Config,
    scope: Scope,
    path: &Path,
    commands: &dyn Commands,
) -> Option<String> {
    let old = read_unit(path).ok().flatten()?;
    let account = old.lines().find_map(|line| line.strip_prefix("User=")).filter(|_| !old.contains("\nDynamicUser=yes\n"));
    let version = Manager::new(commands, scope).version();
    let new = unit::render(&unit_spec(context, config, scope, account.map(str::to_owned), version).ok()?);
    let difference = unit::difference(&old, &new);
    (!difference.is_empty() && systemd::is_booted()).then_some(difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_service_is_meant() {
        let user = ScopeArguments { user: true, system: false };
        let system = ScopeArguments { user: false, system: true };
        let none = ScopeArguments::default();
        let check = |arguments, root: bool, installed: &[Scope], expect: Scope| {
            assert_eq!(choose_scope(arguments, root, |scope| installed.contains(&scope)), expect, "{arguments:?} {root} {installed:?}");
        };
        check(user, true, &[], Scope::User);
        check(system, false, &[Scope::User], Scope::System);
        check(none, true, &[Scope::User], Scope::System);
        check(none, false, &[], Scope::User);
        check(none, false, &[Scope::System], Scope::System);
        check(none, false, &[Scope::User, Scope::System], Scope::User);
    }

    #[test]
    fn files_for_other_supervisors_are_there() {
        for text in [OPENRC, RUNIT, S6, LAUNCHD] {
            assert!(text.contains("hermes-gateway") && text.contains("run") && !text.contains("--replace"), "{text}");
        }
    }
}
