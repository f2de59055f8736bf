//! The text of a systemd unit, from the configuration and the places. Pure: reads nothing, writes nothing.
//!
//! All times in it are derived from the one stop budget, so that systemd is never less patient than the gateway needs.
//! There is no `--replace` in it: under a supervisor, the supervisor replaces.

use crate::limits;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of everything that is installed.
pub const NAME: &str = "hermes-gateway";
/// systemd.service(5): `RestartSteps=` and `RestartMaxDelaySec=` came with this version.
const RESTART_STEPS_SINCE: u32 = 254;
/// What systemd grants on top of the stop budget: the guardian's slack and the log's last lines.
const STOP_SLACK: Duration = Duration::from_secs(5);
/// On top of what a start may wait for: reading the configuration, starting threads, a machine that is just booting.
const START_SLACK: Duration = Duration::from_secs(7);
/// How long a start waits for a predecessor, beyond the stop budget.
pub const LOCK_WAIT_SLACK: Duration = Duration::from_secs(5);

/// Whose manager runs the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    System,
    User,
}

impl Scope {
    /// As an option of this program and, for the user's manager, of systemctl.
    #[must_use]
    pub fn option(self) -> &'static str {
        match self {
            Self::System => "--system",
            Self::User => "--user",
        }
    }

    /// `systemctl`, as people type it.
    #[must_use]
    pub fn systemctl(self) -> &'static str {
        match self {
            Self::System => "sudo systemctl",
            Self::User => "systemctl --user",
        }
    }
}

/// Who the processes of a system service run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// One that systemd makes for the service and that owns nothing but its state directory.
    Own,
    /// An existing one, with all that it may do.
    Named(String),
}

/// What the text is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSpec {
    pub scope: Scope,
    pub account: Account,
    pub program: PathBuf,
    /// The file that is read; that of the profile if there is one.
    pub config: PathBuf,
    pub profile: String,
    /// `None`: where the scope has it by itself.
    pub state_dir: Option<PathBuf>,
    /// Paths below it are written with `%h` in a user's unit.
    pub home: Option<PathBuf>,
    pub stop_budget: Duration,
    /// `None`: not known; then nothing is written that an old one does not understand.
    pub systemd_version: Option<u32>,
}

/// `hermes-gateway.service`, or `hermes-gateway-NAME.service` for another profile.
#[must_use]
pub fn unit_name(profile: &str) -> String {
    format!("{}.service", service_name(profile))
}

fn service_name(profile: &str) -> String {
    if profile == "default" { NAME.to_owned() } else { format!("{NAME}-{profile}") }
}

/// `TimeoutStopSec=` for a stop budget.
#[must_use]
pub fn stop_timeout(stop_budget: Duration) -> Duration {
    whole_seconds(stop_budget) + STOP_SLACK
}

/// `TimeoutStartSec=`: waiting for a predecessor, ending what it left, opening and checking the store.
#[must_use]
pub fn start_timeout(stop_budget: Duration) -> Duration {
    whole_seconds(stop_budget) + LOCK_WAIT_SLACK + limits::SWEEP + limits::STORE_OPEN + START_SLACK
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

/// The whole file.
#[must_use]
pub fn render(spec: &UnitSpec) -> String {
    let body = body(spec);
    let edit = match spec.scope {
        Scope::System => "systemctl edit",
        Scope::User => "systemctl --user edit",
    };
    format!(
        "# {}\n\
         # Written by: hermes-gateway service install. It writes this file anew each time (after showing the difference), so\n\
         # changes belong into a drop-in: {edit} {}\n\
         {CHECKSUM}{:016x}\n\n{body}",
        unit_name(&spec.profile),
        service_name(&spec.profile),
        checksum(&body)
    )
}

const CHECKSUM: &str = "# checksum ";

/// Whether the text is as it was written by this program, in whatever version: nobody has edited it since.
#[must_use]
pub fn is_untouched(text: &str) -> bool {
    let Some((_, rest)) = text.split_once(CHECKSUM) else { return false };
    let Some((written, body)) = rest.split_once("\n\n") else { return false };
    u64::from_str_radix(written, 16) == Ok(checksum(body))
}

/// FNV-1a, 64 bits: against accidents, not against anybody.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn body(spec: &UnitSpec) -> String {
    let mut out = String::new();
    unit_section(spec, &mut out);
    out.push_str("\n[Service]\n# The gateway says when it is ready, what it is doing, and every ten seconds that it is alive.\nType=notify\nNotifyAccess=main\n");
    let _ = writeln!(out, "ExecStart={}", command_line(spec));
    out.push_str("ExecReload=/bin/kill -HUP $MAINPID\n");
    restarts(spec, &mut out);
    times(spec, &mut out);
    out.push_str(
        "\n# SIGTERM goes to the gateway alone, which ends its tools by itself. One that runs out of memory does not end the rest.\n\
         KillMode=mixed\nOOMPolicy=continue\n",
    );
    environment(spec, &mut out);
    places(spec, &mut out);
    hardening(spec, &mut out);
    let target = match spec.scope {
        Scope::System => "multi-user.target",
        Scope::User => "default.target",
    };
    let _ = write!(out, "\n[Install]\nWantedBy={target}\n");
    out
}

fn unit_section(spec: &UnitSpec, out: &mut String) {
    let profile = if spec.profile == "default" { String::new() } else { format!(" (profile {})", spec.profile) };
    let _ = write!(out, "[Unit]\nDescription=Gateway between chat platforms and a language-model agent{profile}\n");
    if spec.scope == Scope::System {
        // It starts without a network and connects when there is one: no waiting for network-online.target.
        out.push_str("After=network.target nss-lookup.target\n");
    }
    out.push_str(
        "# Gives up after a few minutes of dying at every start; `hermes-gateway restart` begins anew.\n\
         StartLimitIntervalSec=10min\nStartLimitBurst=100\n",
    );
}

fn restarts(spec: &UnitSpec, out: &mut String) {
    out.push_str(
        "\n# 0 stopped as asked, 75 wants to be started again, 2 and 78 cannot be healed by starting again (arguments, configuration).\n\
         Restart=always\nRestartForceExitStatus=75\nSuccessExitStatus=75\nRestartPreventExitStatus=2 78\n",
    );
    out.push_str(match spec.systemd_version {
        // The count of restarts is only taken back by a start by hand, so the longest pause must be one to live with.
        Some(version) if version >= RESTART_STEPS_SINCE => "RestartSec=200ms\nRestartSteps=6\nRestartMaxDelaySec=10s\n",
        _ => "RestartSec=2s\n",
    });
}

fn times(spec: &UnitSpec, out: &mut String) {
    let budget = crate::config::duration::format(spec.stop_budget);
    let _ = write!(
        out,
        "\n# The longest stop takes {budget} ([shutdown] in the configuration); systemd waits longer than that. Install again after changing it.\n\
         TimeoutStopSec={}s\nTimeoutStartSec={}s\nWatchdogSec=60s\n",
        stop_timeout(spec.stop_budget).as_secs(),
        start_timeout(spec.stop_budget).as_secs()
    );
}

fn environment(spec: &UnitSpec, out: &mut String) {
    out.push_str("\n# Names like TELEGRAM_BOT_TOKEN=… that the configuration refers to. Mode 0600.\n");
    let base = base_config(&spec.config, &spec.profile);
    let file = base.with_file_name("env");
    let _ = writeln!(out, "EnvironmentFile=-{}", plain(spec, &file));
    out.push_str("# Two allocation arenas instead of eight a core: half the memory.\nEnvironment=MALLOC_ARENA_MAX=2\n");
    if spec.scope == Scope::User {
        out.push_str("Environment=PATH=%h/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
    }
    out.push_str("# Sockets of adapters, pipes of tools; the default of 1024 is too few on a busy day.\nLimitNOFILE=8192\n# Core dumps would hold the tokens.\nLimitCORE=0\n");
}

fn places(spec: &UnitSpec, out: &mut String) {
    if spec.scope == Scope::User {
        return;
    }
    let account = match &spec.account {
        Account::Own => format!(
            "# An account of its own: what the tools may do, they do as nobody else.\nDynamicUser=yes\nUser={NAME}\n\
             Environment=HOME=%S/{NAME}\nWorkingDirectory=%S/{NAME}\n"
        ),
        Account::Named(name) => format!("User={name}\n"),
    };
    let run = service_name(&spec.profile);
    let _ = write!(out, "\n{account}StateDirectory={NAME}\nStateDirectoryMode=0700\nRuntimeDirectory={run}\nRuntimeDirectoryMode=0700\n");
    if let (Some(directory), Account::Own) = (&spec.state_dir, &spec.account) {
        let _ = writeln!(out, "ReadWritePaths={}", word(spec, directory));
    }
}

fn hardening(spec: &UnitSpec, out: &mut String) {
    match (spec.scope, &spec.account) {
        // What needs seccomp would take `sudo` away from the tools, and a user's manager can do little else.
        (Scope::User, _) => {}
        (Scope::System, Account::Named(_)) => out.push_str(
            "\n# Little, because the tools are meant to do what this account may do, `sudo` included.\n\
             ProtectControlGroups=yes\nProtectKernelTunables=yes\n",
        ),
        (Scope::System, Account::Own) => out.push_str(HARDENING),
    }
}

const HARDENING: &str = "
# The tools can read the system, write into the state directory and /tmp, and use the network. To give them more, use
# a drop-in (ReadWritePaths=, ProtectHome=no), or install with --run-as NAME.
ProtectSystem=strict
# Here it is noted which credential is in use by which gateway of this machine.
ReadWritePaths=-/run/lock
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
CapabilityBoundingSet=
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0027
";

/// The file that `--config` must name so that `--profile` leads to the one that is meant.
#[must_use]
pub fn base_config(config: &Path, profile: &str) -> PathBuf {
    let below = config.parent().filter(|parent| parent.ends_with("profiles"));
    match below.and_then(Path::parent) {
        Some(directory) if profile != "default" => directory.join("config.toml"),
        _ => config.to_owned(),
    }
}

fn command_line(spec: &UnitSpec) -> String {
    let mut line = format!("{} --config {}", word(spec, &spec.program), word(spec, &base_config(&spec.config, &spec.profile)));
    if spec.profile != "default" {
        let _ = write!(line, " --profile {}", spec.profile);
    }
    if let Some(directory) = &spec.state_dir {
        let _ = write!(line, " --state-dir {}", word(spec, directory));
    }
    line.push_str(" run");
    line
}

/// `%h` for the home directory, and the rest of the path.
fn split_home<'a>(spec: &UnitSpec, path: &'a Path) -> (&'static str, std::borrow::Cow<'a, str>) {
    let below = spec.home.as_ref().filter(|_| spec.scope == Scope::User).and_then(|home| path.strip_prefix(home).ok());
    match below {
        Some(rest) => ("%h/", rest.to_string_lossy()),
        None => ("", path.to_string_lossy()),
    }
}

/// A path where the rest of the line is the path: only specifiers matter.
fn plain(spec: &UnitSpec, path: &Path) -> String {
    let (home, rest) = split_home(spec, path);
    format!("{home}{}", rest.replace('%', "%%"))
}

/// A path as one word of a line with several (systemd.syntax(7), "Quoting").
fn word(spec: &UnitSpec, path: &Path) -> String {
    let (home, rest) = split_home(spec, path);
    let harmless = |c: char| c.is_alphanumeric() || "/._-+,:@=".contains(c);
    if rest.chars().all(harmless) {
        return format!("{home}{rest}");
    }
    let mut quoted = format!("\"{home}");
    for c in rest.chars() {
        match c {
            '%' => quoted.push_str("%%"),
            '$' => quoted.push_str("$$"),
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(quoted, "\\x{byte:02x}");
                }
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The lines by which two texts differ, `-` in front of those of the old one, `+` of the new one.
#[must_use]
pub fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    // The longest common subsequence; units have some hundred lines.
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for (row, old_line) in old.iter().enumerate().rev() {
        for (column, new_line) in new.iter().enumerate().rev() {
            common[row][column] =
                if old_line == new_line { common[row + 1][column + 1] + 1 } else { common[row + 1][column].max(common[row][column + 1]) };
        }
    }
    let (mut row, mut column, mut out) = (0, 0, String::new());
    while row < old.len() || column < new.len() {
        if row < old.len() && column < new.len() && old[row] == new[column] {
            (row, column) = (row + 1, column + 1);
        } else if row < old.len() && (column == new.len() || common[row + 1][column] >= common[row][column + 1]) {
            let _ = writeln!(out, "- {}", old[row]);
            row += 1;
        } else {
            let _ = writeln!(out, "+ {}", new[column]);
            column += 1;
        }
    }
    out
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
