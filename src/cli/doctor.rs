//! `doctor`: finds out what is wrong, and says how to put it right. Changes nothing.
//!
//! Each question has a deadline of its own; a provider that hangs does not keep the rest from being told.

mod online;

use super::output::{Style, print};
use super::service::unit_difference;
use super::{Context, code, human};
use crate::clock::Deadline;
use crate::config::{Config, LoadError};
use crate::limits;
use crate::process::count_leftovers;
use crate::service::manage::{Site, unit_path};
use crate::service::report::StatusReport;
use crate::service::systemd::{Commands, Manager, Programs, stop_timeout_warning};
use crate::service::takeover::{ANSWER, Instance, why_still_there};
use crate::service::unit::{Scope, unit_name};
use crate::store::inspect::{Condition, inspect};
use crate::thread::{CancelToken, Threads};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Less free space than this is worth a word: a few days of a busy gateway.
const SPACE_LOW_BYTES: u64 = 256 * 1024 * 1024;
/// Less than this, and the store will soon refuse messages.
const SPACE_NONE_BYTES: u64 = 16 * 1024 * 1024;
/// A database of some hundred megabytes on a slow card.
const DATABASE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Fine,
    Warning,
    Error,
}

/// What one question has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    level: Level,
    about: String,
    text: String,
    fix: Option<String>,
}

impl Finding {
    fn fine(about: &str, text: impl Into<String>) -> Self {
        Self { level: Level::Fine, about: about.to_owned(), text: text.into(), fix: None }
    }
    fn warning(about: &str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warning, about: about.to_owned(), text: text.into(), fix: Some(fix.into()) }
    }
    fn error(about: &str, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Error, about: about.to_owned(), text: text.into(), fix: Some(fix.into()) }
    }
}

pub(super) fn doctor(context: &Context<'_>) -> u8 {
    let style = Style::of_stdout(&context.environment);
    let (mut errors, mut warnings) = (0, 0);
    let mut tell = |finding: Finding| {
        match finding.level {
            Level::Fine => {}
            Level::Warning => warnings += 1,
            Level::Error => errors += 1,
        }
        print(&render(&finding, style));
    };
    let threads = Threads::new();
    let programs = Programs::new(&threads);
    let config = config(context, &mut tell);
    let instance = Instance::find(&context.places.state_dir).ok().flatten();
    let report = instance.as_ref().and_then(|instance| instance.status(Deadline::after(ANSWER)).ok());
    running(context, instance.as_ref(), report.as_ref(), &mut tell);
    state(context, &threads, instance.is_some(), report.as_ref(), &mut tell);
    if let Some(config) = &config {
        online::providers(config, &mut tell);
        online::adapters(config, &mut tell);
        services(context, config, &programs, &mut tell);
    }
    if instance.is_none() {
        leftovers(context, &threads, &mut tell);
    }
    print(&format!("{}\n", verdict(errors, warnings)));
    if errors > 0 { code::FAILED } else { code::OK }
}

fn render(finding: &Finding, style: Style) -> String {
    let mark = match (finding.level, style.symbols) {
        (Level::Fine, true) => style.green("✓"),
        (Level::Fine, false) => "ok  ".to_owned(),
        (Level::Warning, true) => style.yellow("!"),
        (Level::Warning, false) => "warn".to_owned(),
        (Level::Error, true) => style.red("✗"),
        (Level::Error, false) => "FAIL".to_owned(),
    };
    let indent = " ".repeat(if style.symbols { 17 } else { 20 });
    let mut lines = finding.text.trim_end().lines();
    let mut out = format!("  {mark} {:<12} {}\n", finding.about, lines.next().unwrap_or_default());
    lines.for_each(|line| out.push_str(&format!("{indent}{line}\n")));
    for (index, line) in finding.fix.iter().flat_map(|fix| fix.lines()).enumerate() {
        out.push_str(&format!("{indent}{} {line}\n", if index == 0 { "fix:" } else { "    " }));
    }
    out
}

fn verdict(errors: u32, warnings: u32) -> String {
    let count = |number: u32, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    match (errors, warnings) {
        (0, 0) => "all is well".to_owned(),
        _ => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    }
}

type Tell<'a> = dyn FnMut(Finding) + 'a;

fn config(context: &Context<'_>, tell: &mut Tell<'_>) -> Option<Config> {
    let path = &context.places.config;
    let shown = context.environment.shorten(path);
    match crate::config::load(&context.places, &context.environment, context.program.platforms) {
        Ok(loaded) => {
            let mode = std::fs::metadata(path).map_or(0, |file| file.permissions().mode() & 0o7777);
            tell(Finding::fine("config", format!("{shown}, mode {mode:04o}")));
            for warning in &loaded.warnings {
                let warning = warning.trim_start_matches("warning: ").trim_end();
                match warning.rsplit_once("; ").filter(|(_, fix)| fix.starts_with("chmod")) {
                    Some((text, fix)) => tell(Finding::warning("config", text, fix)),
                    None => tell(Finding::warning("config", warning, format!("correct it in {shown}"))),
                }
            }
            Some(loaded.config)
        }
        Err(LoadError::Missing) => {
            tell(Finding::error("config", format!("there is none at {shown}"), "hermes-gateway setup"));
            None
        }
        Err(LoadError::Unreadable { cause, .. }) => {
            tell(Finding::error(
                "config",
                format!("{shown} cannot be read: {cause}"),
                format!("make it readable, or run this as the user of the gateway: ls -l {shown}"),
            ));
            None
        }
        Err(LoadError::Invalid { rendered, errors }) => {
            let first: String = rendered.trim_end().lines().take(7).map(|line| format!("{line}\n")).collect();
            tell(Finding::error("config", first, format!("correct it ({errors} in all): hermes-gateway config check")));
            None
        }
    }
}

fn running(context: &Context<'_>, instance: Option<&Instance>, report: Option<&StatusReport>, tell: &mut Tell<'_>) {
    match (instance, report) {
        (None, _) => tell(Finding::fine("gateway", "is not running")),
        (Some(_), Some(report)) => match &report.unresponsive {
            Some(why) => tell(Finding::error("gateway", format!("pid {}: {why}", report.pid), "hermes-gateway restart")),
            None => {
                let odd = if report.version == env!("CARGO_PKG_VERSION") {
                    String::new()
                } else {
                    format!(", version {}; this is {}", report.version, env!("CARGO_PKG_VERSION"))
                };
                tell(Finding::fine("gateway", format!("running for {}, pid {}{odd}", human::duration_ms(report.uptime_ms), report.pid)));
            }
        },
        (Some(instance), None) => {
            let text = format!("{} does not answer: {}", instance.holder.describe(), why_still_there(instance));
            let others = instance.holder.pid.is_none() && !context.environment.root;
            let fix = if others { "run this as the user of the gateway, or with sudo" } else { "hermes-gateway restart" };
            tell(Finding::error("gateway", text, fix));
        }
    }
}

/// The state directory: can be written, has room, and its database is whole.
fn state(context: &Context<'_>, threads: &Threads, running: bool, report: Option<&StatusReport>, tell: &mut Tell<'_>) {
    let directory = &context.places.state_dir;
    let shown = context.environment.shorten(directory);
    if !directory.exists() {
        return match first_existing(directory) {
            Some(parent) if nix::unistd::access(parent, nix::unistd::AccessFlags::W_OK).is_ok() => {
                tell(Finding::fine("state", format!("{shown} is not there yet; the first start makes it")));
            }
            _ => tell(Finding::error(
                "state",
                format!("{shown} is not there and cannot be made"),
                format!("make it, for the user of the gateway, or choose another with --state-dir: {shown}"),
            )),
        };
    }
    if let Err(cause) = try_writing(directory) {
        let fix = match cause.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "make room on that file system",
            std::io::ErrorKind::ReadOnlyFilesystem => "mount it writable, or choose another with --state-dir",
            _ => "give it to the user of the gateway, or run this as that user",
        };
        return tell(Finding::error("state", format!("{shown} cannot be written: {cause}"), fix));
    }
    let (kind, free) = file_system(directory);
    let room = free.map_or_else(String::new, |free| format!(", {} free", human::bytes(free)));
    if let Some(error) = report.and_then(|report| report.store.error.as_ref()) {
        return tell(Finding::error(
            "state",
            format!("{shown}: the store takes nothing: {error}"),
            "make room, or look at the disk: journalctl -k -n 50",
        ));
    }
    let condition = if running { Ok(Condition::Intact) } else { inspect(&directory.join("state.db"), threads, Deadline::after(DATABASE)) };
    let database = match condition {
        Ok(Condition::Damaged(detail)) => {
            let fix = "start the gateway: it puts the damaged file aside and saves what can be read";
            return tell(Finding::error("state", format!("{shown}: the database is damaged: {detail}"), fix));
        }
        Err(cause) => {
            return tell(Finding::warning(
                "state",
                format!("{shown}: the database cannot be looked at: {cause}"),
                "try again, as the user of the gateway",
            ));
        }
        Ok(Condition::Absent) => "no database yet",
        Ok(Condition::Intact) if running => "database in use",
        Ok(Condition::Intact) => "database intact",
        Ok(Condition::IntactSoFar) => "no damage found in the part of the database that was looked at",
    };
    let text = format!("{shown}: writable, {kind}{room}, {database}");
    match free {
        Some(free) if free < SPACE_NONE_BYTES => tell(Finding::error("state", text, "make room on that file system")),
        Some(free) if free < SPACE_LOW_BYTES => tell(Finding::warning("state", text, "make room on that file system")),
        _ => tell(Finding::fine("state", text)),
    }
}

fn first_existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|path| path.exists())
}

fn try_writing(directory: &Path) -> std::io::Result<()> {
    let path = directory.join(format!(".doctor-{}", std::process::id()));
    let result = std::fs::write(&path, [0; 4096]);
    let _ = std::fs::remove_file(&path);
    result
}

/// Its kind and what is free for us.
fn file_system(directory: &Path) -> (String, Option<u64>) {
    use nix::sys::statfs::{
        BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, NFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
    };
    let Ok(found) = statfs(directory) else { return ("unknown file system".to_owned(), None) };
    let names = [
        (EXT4_SUPER_MAGIC, "ext4"),
        (XFS_SUPER_MAGIC, "xfs"),
        (BTRFS_SUPER_MAGIC, "btrfs"),
        (TMPFS_MAGIC, "tmpfs (gone after a reboot)"),
        (OVERLAYFS_SUPER_MAGIC, "overlay"),
        (NFS_SUPER_MAGIC, "NFS (locks and databases are fragile there)"),
    ];
    let kind = names.iter().find(|(magic, _)| *magic == found.filesystem_type()).map_or("local file system", |(_, name)| name);
    (kind.to_owned(), Some(found.blocks_available().saturating_mul(u64::try_from(found.block_size()).unwrap_or(0))))
}

/// Installed units: whether they grant enough time, differ, or have failed; and whether a user's service may linger.
fn services(context: &Context<'_>, config: &Config, commands: &dyn Commands, tell: &mut Tell<'_>) {
    let site = Site::look(&context.environment);
    if !site.booted {
        return;
    }
    let unit = unit_name(&context.places.profile);
    for scope in [Scope::User, Scope::System] {
        if site.check(scope, false).is_err() {
            continue;
        }
        let Ok(state) = Manager::new(commands, scope).show(&unit) else { continue };
        // A unit of the same name may belong to another configuration.
        if !state.is_loaded() || !state.reads(&context.places.config) {
            continue;
        }
        let install = format!("hermes-gateway service install {}        (rewrites the unit; shows the difference first)", scope.option());
        if let Some(text) = stop_timeout_warning(&state, &unit, config.shutdown.stop_budget()) {
            tell(Finding::warning("systemd", text, install));
        } else if unit_path(scope, &unit, &context.environment)
            .is_some_and(|path| unit_difference(context, config, scope, &path, commands).is_some())
        {
            tell(Finding::warning("systemd", format!("{unit} is not what would be installed now"), install));
        } else if state.is_down() && !matches!(state.result.as_str(), "" | "success") {
            tell(Finding::error(
                "systemd",
                format!("{unit} is {}", state.describe()),
                "hermes-gateway service logs, then hermes-gateway restart",
            ));
        } else {
            tell(Finding::fine("systemd", format!("{unit} ({}) is {}", scope.option().trim_start_matches('-'), state.describe())));
        }
        if scope == Scope::User && !site.linger {
            let text = format!("user {} has no lingering session: the service stops when you log out", site.user);
            tell(Finding::warning("linger", text, format!("sudo loginctl enable-linger {}", site.user)));
        }
    }
}

/// On a thread of its own, because looking at a process that hangs in a disk hangs too.
fn leftovers(context: &Context<'_>, threads: &Threads, tell: &mut Tell<'_>) {
    let (sender, found) = crossbeam_channel::bounded(1);
    let directory = context.places.state_dir.clone();
    let body = move |_: &CancelToken| {
        let _ = sender.try_send(count_leftovers(&directory));
    };
    let started = threads.spawn("leftovers", 0, CancelToken::new(), |_| (), body);
    match started.ok().and_then(|_| found.recv_timeout(limits::SWEEP).ok()) {
        Some(0) => {}
        Some(count) => {
            let text = format!("{count} processes of a gateway that was killed are still there");
            tell(Finding::warning("leftovers", text, "they are ended by the next start: hermes-gateway restart"));
        }
        None => tell(Finding::warning(
            "leftovers",
            "the search for processes of earlier runs did not end in time",
            "look for processes in state D: ps -eo state,pid,args",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_as_they_are_shown() {
        let finding = Finding::error("telegram", "token rejected: 401 Unauthorized", "get a new token\nand put it there");
        assert_eq!(
            render(&finding, Style::PLAIN),
            "  FAIL telegram     token rejected: 401 Unauthorized\n                    fix: get a new token\n                         and put it there\n"
        );
        let style = Style { symbols: true, ..Style::PLAIN };
        assert_eq!(render(&Finding::fine("state", "writable"), style), "  ✓ state        writable\n");
        assert_eq!((verdict(0, 0).as_str(), verdict(1, 2).as_str()), ("all is well", "1 error, 2 warnings"));
    }

    #[test]
    fn directories() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        assert!(try_writing(scratch.path()).is_ok());
        assert_eq!(std::fs::read_dir(scratch.path()).expect("readable").count(), 0, "nothing is left");
        assert!(try_writing(&scratch.path().join("absent")).is_err());
        assert_eq!(first_existing(&scratch.path().join("a/b")), Some(scratch.path()));
        assert!(file_system(scratch.path()).1.is_some());
    }
}
