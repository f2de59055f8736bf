//! The receiving thread of an adapter, `adapter/NAME`: one connection after the other, for ever, with backoff.
//!
//! It is straight-line code: the timer of the next attempt cannot be lost, because it is this thread's own wait.

use super::{Adapter, AdapterError, Link};
use crate::limits;
use crate::thread::wait_for_work;
use std::time::Duration;

/// Why receiving ended for good, if only the operator can help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal {
    pub cause: String,
    pub remedy: String,
}

/// Receives until the link's token is cancelled (`None`) or only the operator can help.
/// `was_connected` tells, and forgets, whether the last connection had come up: then the backoff begins anew.
pub fn receive(adapter: &dyn Adapter, link: &Link, was_connected: &dyn Fn() -> bool) -> Option<Fatal> {
    let mut inlet = adapter.inlet();
    let mut attempt: u32 = 0;
    loop {
        let Err(error) = inlet.run(link);
        let (cause, after) = match error {
            _ if link.token.is_cancelled() => return None,
            AdapterError::Cancelled => return None,
            AdapterError::Fatal { cause, remedy } => return Some(Fatal { cause, remedy }),
            AdapterError::Retry { cause, after } => (cause, after),
        };
        attempt = if was_connected() { 1 } else { attempt.saturating_add(1) };
        let wait = after.unwrap_or_else(|| backoff(attempt)).min(limits::RECONNECT_MAX);
        link.events.retrying(&cause, attempt, wait);
        let _waiting = wait_for_work(format_args!("waiting to connect again (attempt {attempt})"));
        if link.token.sleep(wait).is_err() {
            return None;
        }
    }
}

/// 1 s, 2 s, 4 s … at most a minute, each shortened by up to a quarter, so that many gateways do not return at once.
fn backoff(attempt: u32) -> Duration {
    #[cfg(debug_assertions)]
    if let Some(wait) = prescribed() {
        return wait;
    }
    let full_ms = (1000_u64 << attempt.saturating_sub(1).min(6)).min(60_000);
    Duration::from_millis(full_ms - fastrand::u64(0..=full_ms / 4))
}

/// For tests that need many connections in a short time: in debug builds `HERMES_GATEWAY_FAULT_BACKOFF` (`5ms`) stands in
/// place of every wait that the platform did not prescribe. Release builds do not look at it.
#[cfg(debug_assertions)]
fn prescribed() -> Option<Duration> {
    let text = std::env::var("HERMES_GATEWAY_FAULT_BACKOFF").ok()?;
    crate::config::duration::parse(&text).inspect_err(|error| log::warn!("HERMES_GATEWAY_FAULT_BACKOFF: {error}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_a_minute_and_never_vanishes() {
        for attempt in 1..100 {
            let wait = backoff(attempt);
            assert!(wait >= Duration::from_millis(750) && wait <= Duration::from_secs(60), "{attempt}: {wait:?}");
        }
        assert!(backoff(50) >= Duration::from_secs(45));
    }
}
