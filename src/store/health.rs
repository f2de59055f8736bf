//! How the store is doing: written by its thread, read by any thread without waiting for the disk.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Commits remembered for the percentile.
const COMMITS_REMEMBERED: usize = 128;
/// "Not yet."
const NONE: u32 = u32::MAX;

/// What `status` says about the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreHealth {
    /// Why it takes nothing at the moment: disk full, read-only; goes away by itself with the first commit that works.
    /// Or that the database is damaged, which does not.
    pub error: Option<String>,
    /// How long the last commit took.
    pub last_commit_ms: Option<u64>,
    /// The slowest of the last hundred or so, the worst one in a hundred left out.
    pub commit_p99_ms: Option<u64>,
    /// Transactions that reached the disk since the start.
    pub commits: u64,
    /// Size on disk, the write-ahead log included; a little behind.
    pub bytes: u64,
    /// Operations waiting.
    pub queued: usize,
}

pub(super) struct Health {
    error: Mutex<Option<String>>,
    /// The first damage that was met.
    damage: OnceLock<String>,
    durations_ms: [AtomicU32; COMMITS_REMEMBERED],
    commits: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            error: Mutex::new(None),
            damage: OnceLock::new(),
            durations_ms: [const { AtomicU32::new(NONE) }; COMMITS_REMEMBERED],
            commits: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

impl Health {
    fn error(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // Held for a copy only; a text is valid after any panic.
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn committed(&self, took: Duration) {
        let number = self.commits.fetch_add(1, Ordering::SeqCst);
        let slot = usize::try_from(number % COMMITS_REMEMBERED as u64).unwrap_or(0);
        self.durations_ms[slot].store(u32::try_from(took.as_millis()).unwrap_or(NONE - 1), Ordering::SeqCst);
        if let Some(error) = self.error().take() {
            log::info!(target: "store", "works again (it did not: {error})");
        }
    }

    /// Said once for each new cause.
    pub fn failed(&self, cause: &str) {
        let mut error = self.error();
        if error.as_deref() != Some(cause) {
            log::error!(target: "store", "cannot write: {cause}; going on, and trying again");
            *error = Some(cause.to_owned());
        }
    }

    /// Stays until the process ends: only the operator can help.
    pub fn damaged(&self, cause: &str) {
        let _ = self.damage.set(cause.to_owned());
    }

    pub fn is_failing(&self) -> bool {
        self.error().is_some()
    }

    pub fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::SeqCst);
    }

    pub fn read(&self, queued: usize) -> StoreHealth {
        let commits = self.commits.load(Ordering::SeqCst);
        let load = |slot: &AtomicU32| Some(slot.load(Ordering::SeqCst)).filter(|ms| *ms != NONE).map(u64::from);
        let mut known: Vec<u64> = self.durations_ms.iter().filter_map(load).collect();
        known.sort_unstable();
        let last = commits.checked_sub(1).and_then(|number| usize::try_from(number % COMMITS_REMEMBERED as u64).ok());
        StoreHealth {
            error: self.damage.get().cloned().or_else(|| self.error().clone()),
            last_commit_ms: last.and_then(|slot| load(&self.durations_ms[slot])),
            commit_p99_ms: (known.len() * 99).div_ceil(100).checked_sub(1).map(|rank| known[rank]),
            commits,
            bytes: self.bytes.load(Ordering::SeqCst),
            queued,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_leaves_the_worst_out() {
        let health = Health::default();
        assert_eq!(health.read(0), StoreHealth::default());
        health.committed(Duration::from_millis(900));
        for _ in 0..110 {
            health.committed(Duration::from_millis(3));
        }
        health.committed(Duration::from_millis(7));
        let seen = health.read(2);
        assert_eq!((seen.last_commit_ms, seen.commit_p99_ms, seen.commits, seen.queued), (Some(7), Some(7), 112, 2));
    }

    #[test]
    fn an_error_stays_until_a_commit_works() {
        let health = Health::default();
        health.failed("disk full");
        health.failed("disk full");
        assert_eq!(health.read(0).error.as_deref(), Some("disk full"));
        health.committed(Duration::ZERO);
        assert!(!health.is_failing());
    }
}
