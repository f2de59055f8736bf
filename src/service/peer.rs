//! Another process as `/proc` shows it: what state it is in, and whether it still is the one that was meant.

pub use crate::process::SignalError;

use crate::process::Pinned;
use nix::sys::signal::Signal;

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// `R`, `S`, `D`, `T`, `Z` … (proc(5)).
    pub state: char,
    /// Clock ticks between boot and its start. With the pid it names one process for as long as the machine is up.
    pub start_ticks: u64,
}

impl Snapshot {
    /// Reads it. `None`: there is no such process, or it cannot be seen from here (another pid namespace, hidepid).
    #[must_use]
    pub fn read(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name stands in brackets and may hold anything, brackets and spaces included.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        // The state is field 3, the start is field 22.
        let start_ticks = fields.nth(18)?.trim().parse().ok()?;
        Some(Self { state, start_ticks })
    }

    /// The state in words.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self.state {
            'R' => "running",
            'S' | 'I' => "sleeping",
            'D' => "waiting for a disk or the network file system (cannot be interrupted)",
            'T' | 't' => "stopped",
            'Z' | 'X' => "dead, not yet collected by its parent",
            _ => "unknown",
        }
    }

    /// It is halted by SIGSTOP, SIGTSTP or a debugger.
    #[must_use]
    pub fn is_stopped(self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// Sends a signal to the process that had `pid` and `start_ticks`, and to no other.
///
/// # Errors
/// [`SignalError`].
pub fn signal(pid: u32, start_ticks: u64, signal: Signal) -> Result<(), SignalError> {
    Pinned::open(pid, start_ticks)?.signal(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = |name: &str| format!("42 ({name}) T 1 42 42 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 7 0 987654 1000 200");
        for name in ["gateway", "a) R (b", "x y", ""] {
            assert_eq!(Snapshot::parse(&line(name)), Some(Snapshot { state: 'T', start_ticks: 987_654 }), "{name}");
        }
        assert_eq!(Snapshot::parse("42 (x) S 1"), None);
        assert_eq!(Snapshot::parse(""), None);
    }

    #[test]
    fn only_the_process_that_is_meant_is_signalled() {
        let own = Snapshot::read(std::process::id()).expect("this process");
        assert_eq!(own.describe(), if own.state == 'R' { "running" } else { "sleeping" });
        assert_eq!(signal(1, own.start_ticks + 1, Signal::SIGCONT), Err(SignalError::Gone));
        assert_eq!(signal(std::process::id(), own.start_ticks, Signal::SIGTERM), Err(SignalError::Gone), "never itself");
        assert_eq!(signal(u32::MAX, 1, Signal::SIGCONT), Err(SignalError::Gone));
    }
}
