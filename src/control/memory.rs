//! Watches the resident memory of this process. Runs on the guardian's thread while control is well, every ten seconds
//! or so, and wakes nobody for it: `/proc/self/status` is no file on a disk, and reading it does not wait.

use super::lanes::Lanes;
use crate::clock;
use crate::config::MemoryConfig;
use crate::core::event::Event;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    pub bytes: u64,
    /// The most it ever was.
    pub peak_bytes: u64,
}

/// What the kernel says; `None` where it says nothing.
pub(super) fn resident() -> Option<Resident> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<Resident> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    let resident = bytes("VmRSS:")?;
    Some(Resident { bytes: resident, peak_bytes: bytes("VmHWM:").unwrap_or(resident) })
}

/// Logs the figure now and then, and tells core when it is above the limit.
pub(super) struct Monitor {
    config: MemoryConfig,
    lanes: Lanes,
    /// By the monotonic clock.
    log_due_ms: AtomicU64,
}

impl Monitor {
    pub(super) fn new(config: MemoryConfig, lanes: &Lanes) -> Self {
        let monitor = Self { config, lanes: lanes.clone(), log_due_ms: AtomicU64::new(0) };
        monitor.log_due_ms.store(clock::mono_ms().saturating_add(monitor.interval_ms()), Ordering::Relaxed);
        monitor
    }

    fn interval_ms(&self) -> u64 {
        u64::try_from(self.config.log_interval.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn look(&self) {
        let now_ms = clock::mono_ms();
        let log_due = self.interval_ms() > 0 && now_ms >= self.log_due_ms.load(Ordering::Relaxed);
        if !log_due && self.config.soft_limit.is_none() {
            return;
        }
        let Some(Resident { bytes, peak_bytes }) = resident() else { return };
        if log_due {
            self.log_due_ms.store(now_ms.saturating_add(self.interval_ms()), Ordering::Relaxed);
            let mib = |bytes: u64| format!("{}.{}", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20);
            log::info!(target: "memory", "resident {} MiB, at most so far {} MiB", mib(bytes), mib(peak_bytes));
        }
        if let Some(limit_bytes) = self.config.soft_limit.filter(|limit_bytes| bytes > *limit_bytes) {
            self.lanes.event(Event::MemoryHigh { rss_bytes: bytes, limit_bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let text = "Name:\tx\nVmHWM:\t    5120 kB\nVmRSS:\t    4096 kB\nThreads:\t7\n";
        assert_eq!(parse(text), Some(Resident { bytes: 4 << 20, peak_bytes: 5 << 20 }));
        assert_eq!(parse("Name:\tx\nState:\tZ (zombie)\n"), None);
        assert!(resident().is_some_and(|resident| resident.bytes > 1 << 16));
    }
}
