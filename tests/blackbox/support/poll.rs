//! Waiting for a state of the world outside: the one place where tests pause.

use std::time::{Duration, Instant};

/// Long enough for anything that is bound to happen, on a slow machine with many tests at once.
pub const SOON: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer. Panics with `what` at the deadline.
pub fn eventually<T>(within: Duration, what: &str, ask: impl FnMut() -> Option<T>) -> T {
    try_for(within, PAUSE, ask).unwrap_or_else(|| panic!("{what}: not seen within {within:?}"))
}

/// As [`eventually`], but the end of the time is an answer too.
pub fn try_for<T>(within: Duration, pause: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        let now = Instant::now();
        if now >= end {
            return None;
        }
        std::thread::park_timeout(pause.min(end - now));
    }
}

/// Watches that something does not happen for a while. Only for what nothing else can mark the end of.
pub fn never(during: Duration, what: &str, mut happened: impl FnMut() -> bool) {
    assert!(try_for(during, PAUSE, || happened().then_some(())).is_none(), "{what}: happened");
}
