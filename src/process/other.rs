//! Processes that are not our children: signalling exactly the one that is meant, and starting one that outlives us.
//!
//! For the commands that end or start a gateway. Nothing here decides whom to signal.

use super::reaper::owned;
use super::system::{self, ProcessId};
use super::table::{self, MARK_VARIABLE};
use crate::clock::Deadline;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Why a process was not signalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalError {
    /// It is not there any more, or its number belongs to another process now.
    Gone,
    /// It belongs to somebody else.
    Denied,
}

/// One process and no other: held by a descriptor where the kernel has them (Linux 5.3), else by its start time.
#[derive(Debug)]
pub struct Pinned {
    pid: ProcessId,
    start_ticks: u64,
    fd: Option<OwnedFd>,
}

impl Pinned {
    /// The process that has this number and was started then (clock ticks since boot).
    ///
    /// # Errors
    /// [`SignalError::Gone`]; also for this very process, init and numbers that cannot be.
    pub fn open(pid: u32, start_ticks: u64) -> Result<Self, SignalError> {
        let pid = ProcessId::try_from(pid).ok().filter(|pid| *pid > 1 && *pid != system::own_pid()).ok_or(SignalError::Gone)?;
        let fd = system::pidfd_open(pid);
        // After the descriptor was opened: from here on it cannot be another one.
        let same = table::read_process(pid).is_some_and(|process| process.start_ticks == start_ticks);
        if same { Ok(Self { pid, start_ticks, fd }) } else { Err(SignalError::Gone) }
    }

    fn is_same(&self) -> bool {
        table::read_process(self.pid).is_some_and(|process| process.start_ticks == self.start_ticks && process.alive())
    }

    /// # Errors
    /// [`SignalError`].
    pub fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        if !self.is_same() {
            return Err(SignalError::Gone);
        }
        let result = match &self.fd {
            Some(fd) => system::pidfd_send(fd, signal),
            None => nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid), signal).map_err(io::Error::from),
        };
        match result {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(SignalError::Denied),
            // A kernel that has pidfd_open has pidfd_send_signal; whatever else happens, the process is past being signalled.
            Err(_) => Err(SignalError::Gone),
        }
    }

    /// Waits for its end. → it is dead, reaped or not.
    #[must_use]
    pub fn wait_dead(&self, deadline: Deadline) -> bool {
        loop {
            if !self.is_same() {
                return true;
            }
            if deadline.passed() {
                return false;
            }
            // Without a descriptor there is nothing to wait for but time.
            let wait = if self.fd.is_some() { Duration::from_secs(3600) } else { Duration::from_millis(50) };
            let timeout = PollTimeout::try_from(deadline.remaining().min(wait) + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
            let mut fds: Vec<PollFd<'_>> = self.fd.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
            let _ = nix::poll::poll(&mut fds, timeout);
        }
    }
}

/// Whether this process was started by `pid`, at any depth.
#[must_use]
pub fn descends_from(pid: u32) -> bool {
    ProcessId::try_from(pid).is_ok_and(|pid| table::ancestors(system::own_pid()).contains(&pid))
}

/// Whether this process carries the mark of a gateway on that state directory: one of its tools started it.
#[must_use]
pub fn carries_mark_of(state_dir: &Path) -> bool {
    let own = super::instance_mark(state_dir);
    let state = own.split_once('-').map_or("", |(state, _)| state);
    std::env::var(MARK_VARIABLE).is_ok_and(|mark| !state.is_empty() && mark.strip_prefix(state).is_some_and(|rest| rest.starts_with('-')))
}

/// The words of the command line with which a process was started. Empty: it is dead, or not to be seen.
#[must_use]
pub fn command_line(pid: u32) -> Vec<OsString> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.strip_suffix(&[0]).unwrap_or(&bytes).split(|byte| *byte == 0);
    words.map(|word| OsString::from_vec(word.to_vec())).filter(|word| !word.is_empty()).collect()
}

/// Variables that say something about this process or its supervisor, and would be wrong for another one.
const OWN_VARIABLES: &[&str] = &[
    MARK_VARIABLE,
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "INVOCATION_ID",
    "SYSTEMD_EXEC_PID",
    "JOURNAL_STREAM",
    "LISTEN_PID",
    "LISTEN_FDS",
    "HERMES_GATEWAY_SUPERVISED",
];

/// A process that outlives this one: in a session of its own, with nothing on standard input and output.
pub struct Detached {
    child: Child,
    /// What it writes to standard error, until this value is dropped. Reading does not block.
    pub stderr: File,
}

impl Detached {
    /// # Errors
    /// The program cannot be executed, or the system refuses.
    pub fn start(program: &Path, arguments: &[OsString], directory: &Path) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        // SAFETY: setsid is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
        }
        // Held across the fork, so that nobody takes it for a tool's orphan, ends it, or reaps it.
        let mut owned = owned();
        #[allow(clippy::disallowed_methods)] // It is meant to outlive us, which is what the children thread prevents.
        let child = command.spawn()?;
        owned.leaders.extend(ProcessId::try_from(child.id()));
        drop(owned);
        Ok(Self { child, stderr: File::from(OwnedFd::from(reader)) })
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        let mut owned = owned();
        let ended = self.child.try_wait().ok().flatten();
        if ended.is_some() {
            // Its number may be given to another process now.
            owned.leaders.retain(|leader| u32::try_from(*leader) != Ok(self.child.id()));
        }
        ended
    }

    /// What it has written to standard error so far and was not read yet; at most 64 KiB.
    pub fn complaints(&mut self) -> String {
        let mut bytes = vec![0; 64 * 1024];
        let mut length = 0;
        while let Ok(count @ 1..) = nix::unistd::read(self.stderr.as_fd(), &mut bytes[length..]) {
            length += count;
        }
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }
}

/// Becomes another program. Returns only if that fails; then SIGPIPE ends this process from here on, and it should leave.
#[must_use]
pub fn become_program(words: &[OsString]) -> io::Error {
    match words.split_first() {
        Some((program, arguments)) => Command::new(program).args(arguments).exec(),
        None => io::Error::from(io::ErrorKind::InvalidInput),
    }
}

#[cfg(test)]
mod tests {
    // The tests start real processes; each wait has a deadline of its own.
    #![allow(clippy::disallowed_methods)]

    use super::*;

    fn start(script: &str) -> Detached {
        Detached::start(Path::new("/bin/sh"), &["-c".into(), script.into()], Path::new("/")).expect("starts")
    }

    fn ticks(pid: u32) -> u64 {
        table::read_process(ProcessId::try_from(pid).expect("a pid")).expect("lives").start_ticks
    }

    /// Runs a test in a process of its own: in this one, the trees of other tests take what detaches for a stray of theirs.
    /// → whether this is that process.
    fn alone(name: &str) -> bool {
        const ALONE: &str = "PROCESS_OTHER_ALONE";
        if std::env::var_os(ALONE).is_some() {
            return true;
        }
        let program = std::env::current_exe().expect("this program");
        let name = format!("process::other::tests::{name}");
        let output = std::process::Command::new(program).args(["--exact", &name]).env(ALONE, "1").output().expect("starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        false
    }

    #[test]
    fn exactly_the_process_that_is_meant_is_signalled() {
        if !alone("exactly_the_process_that_is_meant_is_signalled") {
            return;
        }
        let mut child = start("sleep 60");
        let pid = child.pid();
        assert_eq!(Pinned::open(pid, ticks(pid) + 1).expect_err("another one"), SignalError::Gone);
        assert_eq!(Pinned::open(std::process::id(), ticks(std::process::id())).expect_err("itself"), SignalError::Gone);
        let pinned = Pinned::open(pid, ticks(pid)).expect("lives");
        assert!(!pinned.wait_dead(Deadline::after(Duration::from_millis(20))));
        pinned.signal(Signal::SIGKILL).expect("ours");
        assert!(pinned.wait_dead(Deadline::after(Duration::from_secs(10))), "a zombie is dead");
        assert_eq!(pinned.signal(Signal::SIGCONT), Err(SignalError::Gone));
        while child.ended().is_none() {}
        assert!(pinned.wait_dead(Deadline::after(Duration::ZERO)));
    }

    #[test]
    fn a_detached_process_has_a_session_of_its_own_and_complains_to_us() {
        if !alone("a_detached_process_has_a_session_of_its_own_and_complains_to_us") {
            return;
        }
        let mut child = start("echo trouble >&2; exit 7");
        let deadline = Deadline::after(Duration::from_secs(10));
        let status = loop {
            match child.ended() {
                Some(status) => break status,
                None => assert!(!deadline.passed()),
            }
        };
        assert_eq!((status.code(), child.complaints().as_str(), child.complaints().as_str()), (Some(7), "trouble\n", ""));
        let child = start("sleep 60");
        let process = table::read_process(ProcessId::try_from(child.pid()).expect("a pid")).expect("lives");
        assert_eq!(process.session, process.pid);
        // Shells may become their last command.
        assert!(command_line(child.pid()).last().is_some_and(|word| word.to_string_lossy().ends_with("60")));
        Pinned::open(child.pid(), process.start_ticks).expect("lives").signal(Signal::SIGKILL).expect("ours");
    }

    #[test]
    fn ancestry() {
        assert!(descends_from(std::os::unix::process::parent_id()));
        assert!(!descends_from(std::process::id()) && !descends_from(u32::MAX));
        assert!(!carries_mark_of(Path::new("/nowhere")));
    }
}
