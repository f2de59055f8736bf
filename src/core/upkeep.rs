//! What has to be done now and then: old rows are deleted, and a process that has grown too large is restarted.

use super::event::{Level, Lifecycle, StoreFault};
use super::record::Op;
use super::{Core, Pending};
use crate::limits;

const MEMORY_RESTART: &str = "memory_restart";
const HOUR_MS: i64 = 3_600_000;

/// When what was done last.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// By the monotonic clock.
    prune_due_ms: u64,
    /// By the wall clock: the last restart for the sake of memory, of this process or one before.
    memory_restart_ms: Option<i64>,
    restarting: bool,
    /// By the monotonic clock: the last warning.
    warned_ms: Option<u64>,
}

impl Upkeep {
    pub(super) fn new() -> Self {
        Self { prune_due_ms: limits::PRUNE_FIRST_MS, ..Self::default() }
    }
}

impl Core {
    pub(super) fn prune_due_ms(&self) -> Option<u64> {
        (!self.phase.stopping() && self.rules.keep_ms > 0).then_some(self.upkeep.prune_due_ms)
    }

    pub(super) fn prune_when_due(&mut self) {
        if self.prune_due_ms().is_some_and(|due_ms| due_ms <= self.now.mono_ms) {
            self.upkeep.prune_due_ms = self.now.mono_ms + limits::PRUNE_INTERVAL_MS;
            let keep_ms = i64::try_from(self.rules.keep_ms).unwrap_or(i64::MAX);
            self.store(Op::Prune { before_ms: self.now.wall_ms.saturating_sub(keep_ms) }, Pending::Attempt);
        }
    }

    /// → whether it is a note of this module.
    pub(super) fn take_memory_note(&mut self, key: &str, value: &str) -> bool {
        if key == MEMORY_RESTART {
            self.upkeep.memory_restart_ms = value.parse().ok();
        }
        key == MEMORY_RESTART
    }

    /// The process holds more memory than it should. A restart helps, at most once an hour: noted on disk before it
    /// begins, and not in the first hour of a process that comes from one, whatever the clock says.
    pub(super) fn memory_high(&mut self, rss_bytes: u64, limit_bytes: u64) {
        if self.phase.stopping() || self.upkeep.restarting {
            return;
        }
        let lately = self.upkeep.memory_restart_ms.is_some_and(|last_ms| {
            (0..HOUR_MS).contains(&self.now.wall_ms.saturating_sub(last_ms)) || self.now.mono_ms < HOUR_MS.unsigned_abs()
        });
        let mib = |bytes: u64| bytes / (1024 * 1024);
        let above = format!("memory {} MiB is above soft_limit {} MiB", mib(rss_bytes), mib(limit_bytes));
        if lately {
            let warned = self.upkeep.warned_ms.is_some_and(|warned_ms| self.now.mono_ms - warned_ms < HOUR_MS.unsigned_abs());
            if !warned {
                self.upkeep.warned_ms = Some(self.now.mono_ms);
                self.log(Level::Warn, "memory", format!("{above}; not restarting again within the hour. Is soft_limit too low?"));
            }
            return;
        }
        self.log(Level::Warn, "memory", format!("{above}; restarting"));
        self.upkeep.restarting = true;
        self.store(Op::Note { key: MEMORY_RESTART.to_owned(), value: Some(self.now.wall_ms.to_string()) }, Pending::MemoryRestart);
    }

    pub(super) fn memory_restart_noted(&mut self, result: Result<(), StoreFault>) {
        self.upkeep.restarting = result.is_ok();
        match result {
            Ok(()) => self.lifecycle(Lifecycle::Restart, Some("the memory limit")),
            Err(_) => self.log(Level::Error, "memory", "not restarting: that cannot be noted, the store takes nothing".to_owned()),
        }
    }
}
