//! The gateway as its users have it: the real binary, a configuration file, a state directory, signals and exit codes.
//!
//! Each instance lives in a scratch directory of its own. When it is dropped it is stopped as a supervisor would, and
//! the drop asserts what every stop must leave behind: nothing.

use super::control_socket;
use super::model::{Model, Protocol};
use super::poll::{self, SOON};
use super::process::{self, Footprint, Output};
use super::telegram::{ANA, Telegram};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_hermes-gateway");
/// The stop budget of the configurations that the tests write: drain 2, ask 1, cut 1, close 1.
pub const STOP_BUDGET: Duration = Duration::from_secs(5);

/// What a gateway is started with.
pub struct Setup {
    scratch: tempfile::TempDir,
    /// Header and lines, in order.
    sections: Vec<(String, Vec<String>)>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    block_stderr: bool,
    /// The state directory is a file system of this size that only the gateway sees.
    small_disk: Option<String>,
}

/// A text as TOML has it.
pub fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

impl Setup {
    fn new() -> Self {
        let scratch = tempfile::Builder::new().prefix("hg-").tempdir().expect("a scratch directory");
        for directory in ["home", "state", "run"] {
            std::fs::create_dir(scratch.path().join(directory)).expect("a directory in the scratch directory");
        }
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(scratch.path().join("run"), private).expect("permissions of the runtime directory");
        let mut setup =
            Self { scratch, sections: Vec::new(), environment: Vec::new(), arguments: Vec::new(), block_stderr: false, small_disk: None };
        setup = setup.set("provider", "kind", "\"offline\"");
        for (phase, bound) in [("drain", "2s"), ("ask", "1s"), ("cut", "1s"), ("close", "1s")] {
            setup = setup.set("shutdown", phase, &quoted(bound));
        }
        setup.set("restart", "drain", "\"2s\"").set("approvals", "mode", "\"off\"").set("log", "level", "\"debug\"")
    }

    /// Sets a key of a section; `value` as TOML.
    #[must_use]
    pub fn set(mut self, section: &str, key: &str, value: &str) -> Self {
        let line = format!("{key} = {value}");
        let header = format!("[{section}]");
        match self.sections.iter_mut().find(|(known, _)| *known == header) {
            Some((_, lines)) => {
                lines.retain(|known| !known.starts_with(&format!("{key} = ")));
                lines.push(line);
            }
            None => self.sections.push((header, vec![line])),
        }
        self
    }

    /// Takes a key out again.
    #[must_use]
    pub fn unset(mut self, section: &str, key: &str) -> Self {
        let header = format!("[{section}]");
        for (_, lines) in self.sections.iter_mut().filter(|(known, _)| *known == header) {
            lines.retain(|known| !known.starts_with(&format!("{key} = ")));
        }
        self
    }

    /// An adapter named `telegram` that talks to the fake and admits [`ANA`], who is an admin.
    #[must_use]
    pub fn telegram(self, telegram: &Telegram) -> Self {
        self.telegram_at(telegram, &telegram.url())
    }
    #[must_use]
    pub fn telegram_at(self, telegram: &Telegram, url: &str) -> Self {
        let section = "adapters.telegram";
        let ana = format!("[\"{ANA}\"]");
        self.set(section, "token", &quoted(&telegram.token()))
            .set(section, "base_url", &quoted(url))
            .set(section, "poll_timeout", "2")
            .set(section, "rate_limit", "\"off\"")
            .set(section, "allowed_users", &ana)
            .set(section, "admins", &ana)
    }

    /// The fake as the provider.
    #[must_use]
    pub fn model(self, model: &Model, protocol: Protocol) -> Self {
        provider_lines(model.url(protocol), protocol).into_iter().fold(self, |setup, (key, value)| setup.set("provider", key, &value))
    }

    /// A further provider, tried when those before it fail.
    #[must_use]
    pub fn fallback(mut self, model: &Model, protocol: Protocol) -> Self {
        let lines = provider_lines(model.url(protocol), protocol).into_iter().map(|(key, value)| format!("{key} = {value}"));
        self.sections.push(("[[fallback]]".to_owned(), lines.collect()));
        self
    }
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
    /// A further argument of `run`.
    #[must_use]
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }
    /// Standard error is a full pipe that nobody reads.
    #[must_use]
    pub fn block_stderr(mut self) -> Self {
        self.block_stderr = true;
        self
    }

    #[must_use]
    pub fn small_disk(mut self, size: &str) -> Self {
        self.small_disk = Some(size.to_owned());
        self
    }
    /// Starts and does not wait; `None` where a file system cannot be mounted.
    pub fn try_launch_on_small_disk(self) -> Option<Gateway> {
        let tried = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs"]).arg(self.state_dir()).output();
        tried.is_ok_and(|tried| tried.status.success()).then(|| self.launch())
    }

    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
    pub fn home(&self) -> PathBuf {
        self.scratch.path().join("home")
    }
    pub fn state_dir(&self) -> PathBuf {
        self.scratch.path().join("state")
    }
    pub fn config_file(&self) -> PathBuf {
        self.scratch.path().join("config.toml")
    }
    pub fn config(&self) -> String {
        self.sections.iter().map(|(header, lines)| format!("{header}\n{}\n\n", lines.join("\n"))).collect()
    }
    pub fn write_config(&self, text: &str) {
        let _ = std::fs::remove_file(self.config_file());
        let options = &mut std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(self.config_file()).expect("the configuration file");
        file.write_all(text.as_bytes()).expect("writing the configuration");
    }

    /// The binary with a clean environment and our places.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LANG", "C.UTF-8").env("NO_COLOR", "1");
        command.env("HOME", self.home()).env("XDG_RUNTIME_DIR", self.scratch().join("run")).env("RUST_BACKTRACE", "1");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.home());
        command.arg("--config").arg(self.config_file()).arg("--state-dir").arg(self.state_dir()).args(arguments);
        command
    }

    /// A command beside the gateway, to its end.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        process::run(&mut self.command(arguments), b"", Duration::from_secs(40))
    }
    pub fn cli_with_input(&self, arguments: &[&str], input: &str) -> Output {
        process::run(&mut self.command(arguments), input.as_bytes(), Duration::from_secs(40))
    }

    /// Starts and waits until it runs.
    pub fn start(self) -> Gateway {
        let mut gateway = self.launch();
        gateway.wait_ready();
        gateway
    }

    /// Starts and does not wait.
    pub fn launch(self) -> Gateway {
        self.write_config(&self.config());
        let mut gateway = Gateway { setup: self, child: None, log: Arc::default(), blocked: None, orderly: true };
        gateway.spawn();
        gateway
    }
}

fn provider_lines(url: String, protocol: Protocol) -> Vec<(&'static str, String)> {
    let kind = match protocol {
        Protocol::Anthropic => "anthropic",
        Protocol::OpenAi => "openai",
    };
    vec![("kind", quoted(kind)), ("model", "\"fake\"".to_owned()), ("api_key", "\"sk-fake-secret\"".to_owned()), ("base_url", quoted(&url))]
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

/// How the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Since the wait began.
    pub elapsed: Duration,
}

pub struct Gateway {
    pub setup: Setup,
    child: Option<Child>,
    log: Arc<Log>,
    /// The end of the pipe that nobody reads.
    blocked: Option<std::io::PipeReader>,
    /// It ended by itself, so that nothing of it may be left.
    orderly: bool,
}

impl Gateway {
    pub fn setup() -> Setup {
        Setup::new()
    }

    fn spawn(&mut self) {
        let arguments: Vec<&str> = std::iter::once("run").chain(self.setup.arguments.iter().map(String::as_str)).collect();
        let mut command = self.setup.command(&arguments);
        if let Some(size) = &self.setup.small_disk {
            command = on_small_disk(&command, size, &self.setup.state_dir());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if self.setup.block_stderr {
            let (reader, writer) = full_pipe();
            command.stderr(writer);
            self.blocked = Some(reader);
        } else {
            command.stderr(Stdio::piped());
        }
        let mut child = command.spawn().expect("the gateway's binary");
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&self.log);
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    log.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                    log.changed.notify_all();
                }
            });
        }
        self.child = Some(child);
        self.orderly = true;
    }

    /// Starts again on the same state directory, after an end.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "the gateway still runs");
        self.spawn();
        self.wait_ready();
    }
    pub fn launch_again(&mut self) {
        assert!(self.child.is_none(), "the gateway still runs");
        self.spawn();
    }

    /// Whether the process that the test started is there, or at least its end has not been looked at.
    pub fn has_child(&self) -> bool {
        self.child.is_some()
    }
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("the gateway runs").id()).expect("a pid")
    }
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("waiting for the gateway").is_none())
    }

    /// The state directory as the gateway sees it.
    pub fn small_disk(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid()));
        root.join(self.setup.state_dir().strip_prefix("/").expect("an absolute path"))
    }
    /// What it leaves behind cannot be looked at: its state directory is gone with it.
    pub fn not_orderly(&mut self) {
        self.orderly = false;
    }

    // --- asking it ---

    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.setup.cli(arguments)
    }
    /// One message through the terminal's chat, and the answer to it.
    pub fn chat(&self, text: &str) -> Output {
        self.cli(&["chat", text])
    }
    /// One question at the control socket.
    pub fn ask(&self, request: &Value) -> Result<Value, String> {
        control_socket::ask(&self.setup.state_dir().join("gateway.sock"), request, Duration::from_secs(5))
    }
    /// What `status --json` says, without a process for it; `None` while nobody answers.
    pub fn try_status(&self) -> Option<Value> {
        self.ask(&json!({"do": "status"})).ok()
    }
    /// Brings it into a state that only a defect or a dying disk would: see the command `fault` of debug builds.
    pub fn fault(&self, what: &str, time: Duration) -> Result<Value, String> {
        let time_ms = u64::try_from(time.as_millis()).expect("a short time");
        self.ask(&json!({"do": "command", "name": "fault", "args": {"what": what, "ms": time_ms}}))
    }
    pub fn status(&self) -> Value {
        let output = self.cli(&["status", "--json"]);
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("status --json: {error}: {output:?}\n{}", self.log_tail()))
    }
    pub fn adapter(&self, name: &str) -> Value {
        let status = self.status();
        let found = status["adapters"].as_array().into_iter().flatten().find(|adapter| adapter["name"] == name);
        found.cloned().unwrap_or_else(|| panic!("no adapter {name} in {status}"))
    }
    /// Waits until the status shows what is asked for.
    pub fn wait_status<T>(&self, what: &str, ask: impl Fn(&Value) -> Option<T>) -> T {
        let seen = poll::try_for(SOON, Duration::from_millis(60), || ask(&self.try_status()?));
        seen.unwrap_or_else(|| panic!("{what}: not seen within {SOON:?}; status: {:#?}\n{}", self.try_status(), self.log_tail()))
    }
    pub fn wait_adapter(&self, name: &str, state: &str) -> Value {
        self.wait_status(&format!("adapter {name} is {state}"), |status| {
            let found = status["adapters"].as_array()?.iter().find(|adapter| adapter["name"] == name)?;
            (found["state"] == state).then(|| found.clone())
        })
    }
    pub fn wait_ready(&mut self) {
        let ready = poll::try_for(SOON, Duration::from_millis(30), || {
            if !self.is_running() {
                let exit = self.wait_exit(Duration::ZERO);
                panic!("the gateway ended instead of starting: {exit:?}\n{}", self.log_tail());
            }
            self.try_status().filter(|status| status["state"] == "running")
        });
        assert!(ready.is_some(), "not ready within {SOON:?}: {:?}\n{}", self.try_status(), self.log_tail());
    }
    /// Waits until no turn runs and nothing waits in either queue.
    pub fn wait_idle(&self) {
        self.wait_status("the gateway is idle", |status| {
            let turns = status["turns"].as_array()?.len();
            (turns == 0 && status["inbox"]["pending"] == 0 && status["outbox"]["pending"] == 0).then_some(())
        });
    }
    pub fn footprint(&self) -> Footprint {
        process::footprint(self.pid())
    }

    // --- ending it ---

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("signalling the gateway");
    }
    /// SIGKILL, and its end.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait_exit(SOON);
        self.orderly = false;
    }
    /// Waits for the end; panics if it does not come, and says what the threads do.
    pub fn wait_exit(&mut self, within: Duration) -> Exit {
        let begun = Instant::now();
        let child = self.child.as_mut().expect("the gateway runs");
        let Some(status) = process::wait(child, within) else {
            panic!("the gateway is still there after {within:?}: {:?}\n{}", self.try_status(), self.log_tail());
        };
        self.child = None;
        Exit { code: status.code(), signal: status.signal(), elapsed: begun.elapsed() }
    }
    /// SIGTERM, the end within the budget, exit code 0, and nothing left.
    pub fn stop(&mut self) -> Exit {
        self.signal(Signal::SIGTERM);
        let exit = self.wait_exit(STOP_BUDGET + Duration::from_secs(3));
        assert_eq!(exit.code, Some(0), "a plain stop ends with 0: {exit:?}\n{}", self.log_tail());
        self.assert_nothing_left();
        exit
    }
    /// No process of ours lives, and every lock can be had.
    pub fn assert_nothing_left(&self) {
        let left = process::of_scratch(self.setup.scratch());
        assert!(left.is_empty(), "processes are left: {left:#?}\n{}", self.log_tail());
        let locks = files_named(self.setup.scratch(), ".lock");
        assert!(!locks.is_empty(), "there is no lock file to look at");
        for lock in locks {
            assert!(lock_is_free(&lock), "{} is held although the gateway has gone", lock.display());
        }
    }

    // --- its log ---

    pub fn log_lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub fn logged(&self, part: &str) -> bool {
        self.log_lines().iter().any(|line| line.contains(part))
    }
    pub fn wait_for_log(&self, part: &str, within: Duration) -> String {
        let end = Instant::now() + within;
        let mut lines = self.log.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(part)) {
                return line.clone();
            }
            let now = Instant::now();
            if now >= end {
                drop(lines);
                panic!("{part:?} was not logged within {within:?}\n{}", self.log_tail());
            }
            lines = self.log.changed.wait_timeout(lines, end - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
    pub fn log_tail(&self) -> String {
        let lines = self.log_lines();
        let tail = &lines[lines.len().saturating_sub(60)..];
        format!("--- the gateway's log, last {} of {} lines\n{}\n---", tail.len(), lines.len(), tail.join("\n"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
            if let Some(mut child) = self.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        } else if self.child.is_some() {
            // A stopped or hung gateway is a test's own business to end; here it must still be able to stop.
            if self.is_running() {
                self.stop();
            }
        } else if self.orderly {
            self.assert_nothing_left();
        }
        for process in process::of_scratch(self.setup.scratch()) {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
    }
}

/// The command in a mount namespace of its own. It keeps its process id.
fn on_small_disk(command: &Command, size: &str, directory: &Path) -> Command {
    let script = "mount -t tmpfs -o size=\"$1\",mode=700 tmpfs \"$2\" && shift 2 && exec \"$@\"";
    let mut wrapped = Command::new("unshare");
    wrapped.args(["-rm", "sh", "-c", script, "sh", size]).arg(directory).arg(command.get_program()).args(command.get_args());
    wrapped.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped.current_dir(command.get_current_dir().expect("the command has one"));
    wrapped
}

/// A pipe without room for one more byte. → its reader, and the writer as a process gets it.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).expect("the size of a pipe");
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("flags of a pipe");
    while writer.write(&[b'.'; 512]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).expect("flags of a pipe");
    (reader, writer)
}

pub fn files_named(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_named(&path, ending)),
            Ok(_) if path.to_string_lossy().ends_with(ending) => found.push(path),
            _ => {}
        }
    }
    found
}

/// Whether both kinds of lock on a file can be had: flock(2) and open file description locks do not see each other.
pub fn lock_is_free(path: &Path) -> bool {
    let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(path) else { return true };
    let range = nix::libc::flock {
        l_type: i16::try_from(nix::libc::F_WRLCK).expect("a small constant"),
        l_whence: i16::try_from(nix::libc::SEEK_SET).expect("a small constant"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let described = fcntl(&file, FcntlArg::F_OFD_SETLK(&range)).is_ok();
    described && nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok()
}
