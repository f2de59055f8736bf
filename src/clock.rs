//! Time: the only place that asks the system for it, and the deadline that every blocking call takes.
//!
//! A [`Deadline`] is a value that is passed down, so that a chain of calls shares one end instead of
//! adding up time-outs. All waiting in this program is expressed with it.

pub mod zone;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock. All other modules come here instead of calling `Instant::now`.
#[allow(clippy::disallowed_methods)] // This is its home.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the Unix epoch by the wall clock, which may jump in either direction.
#[allow(clippy::disallowed_methods)] // This is its home.
#[must_use]
pub fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    }
}

/// Milliseconds of the monotonic clock since this process first asked for them. Small enough for an atomic.
#[must_use]
pub fn mono_ms() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(now);
    u64::try_from(now().duration_since(start).as_millis()).unwrap_or(u64::MAX)
}

/// The moment at which a wait ends, whatever happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline that lies `wait` ahead. Waits of more than a year are cut to a year, so that the sum never overflows.
    #[must_use]
    pub fn after(wait: Duration) -> Self {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        Self(now() + wait.min(YEAR))
    }

    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(now())
    }

    #[must_use]
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of the two.
    #[must_use]
    pub fn earliest(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// This deadline, or the one `wait` ahead if that is earlier.
    #[must_use]
    pub fn within(self, wait: Duration) -> Self {
        self.earliest(Self::after(wait))
    }
}
