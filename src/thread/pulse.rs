//! The pulse: what a thread is doing, since when, and until when at the latest.
//!
//! Written by its own thread only, read by any thread without a lock, so that `status` and the guardian can tell
//! what a stuck thread is stuck in. The text lives in a small block of atomics under a sequence counter.

use crate::clock::{self, Deadline};
use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const WORDS: usize = 12;
const TEXT_BYTES_MAX: usize = WORDS * 8;
/// "No deadline of its own": the thread waits for work, or the deadline is somebody else's.
const NEVER: u64 = u64::MAX;

/// One thread's current activity.
pub struct Pulse {
    /// Odd while the owner writes.
    sequence: AtomicU32,
    since_ms: AtomicU64,
    due_ms: AtomicU64,
    length: AtomicU32,
    text: [AtomicU64; WORDS],
}

/// What [`Pulse::read`] saw. Times are [`clock::mono_ms`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activity {
    pub text: String,
    pub since_ms: u64,
    /// When it must be over at the latest; `None` while the thread waits for work.
    pub due_ms: Option<u64>,
}

impl Activity {
    #[must_use]
    pub fn overdue_ms(&self, now_ms: u64) -> Option<u64> {
        self.due_ms.and_then(|due| now_ms.checked_sub(due)).filter(|late| *late > 0)
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

impl Pulse {
    #[must_use]
    pub fn new() -> Self {
        Self {
            sequence: AtomicU32::new(0),
            since_ms: AtomicU64::new(clock::mono_ms()),
            due_ms: AtomicU64::new(NEVER),
            length: AtomicU32::new(0),
            text: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    /// Called by the owning thread only.
    fn write(&self, text: &str, since_ms: u64, due_ms: u64) {
        let mut cut = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let start = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(start.wrapping_add(1), Ordering::SeqCst);
        for (word, chunk) in self.text.iter().zip(text.as_bytes()[..cut].chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(bytes), Ordering::SeqCst);
        }
        self.length.store(u32::try_from(cut).unwrap_or(0), Ordering::SeqCst);
        self.since_ms.store(since_ms, Ordering::SeqCst);
        self.due_ms.store(due_ms, Ordering::SeqCst);
        self.sequence.store(start.wrapping_add(2), Ordering::SeqCst);
    }

    /// Reads the activity from any thread. Gives the last attempt if the owner keeps writing: then it is alive.
    #[must_use]
    pub fn read(&self) -> Activity {
        for attempt in 0.. {
            let before = self.sequence.load(Ordering::SeqCst);
            let length = (self.length.load(Ordering::SeqCst) as usize).min(TEXT_BYTES_MAX);
            let mut bytes = Vec::with_capacity(TEXT_BYTES_MAX);
            for word in &self.text {
                bytes.extend_from_slice(&word.load(Ordering::SeqCst).to_le_bytes());
            }
            let since_ms = self.since_ms.load(Ordering::SeqCst);
            let due_ms = self.due_ms.load(Ordering::SeqCst);
            let stable = before.is_multiple_of(2) && before == self.sequence.load(Ordering::SeqCst);
            if stable || attempt >= 8 {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                return Activity { text, since_ms, due_ms: (due_ms != NEVER).then_some(due_ms) };
            }
            std::hint::spin_loop();
        }
        unreachable!("the loop above returns")
    }

    /// The deadline alone, for the guardian's schedule.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        Some(self.due_ms.load(Ordering::SeqCst)).filter(|due| *due != NEVER)
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

struct Current {
    pulse: Arc<Pulse>,
    /// Told when an activity is due before the guardian's next look.
    on_due: Arc<dyn Fn(u64) + Send + Sync>,
    /// The activity under the innermost guard, to be restored.
    text: String,
    since_ms: u64,
    due_ms: u64,
}

/// Makes `pulse` the one that [`enter`] and [`wait_for_work`] of this thread write to.
pub(super) fn install(pulse: Arc<Pulse>, on_due: Arc<dyn Fn(u64) + Send + Sync>) {
    CURRENT.with(|current| {
        *current.borrow_mut() = Some(Current { pulse, on_due, text: String::new(), since_ms: clock::mono_ms(), due_ms: NEVER });
    });
}

/// Restores the activity that was current before, when dropped.
#[must_use = "the activity ends when this is dropped"]
pub struct Busy {
    previous: Option<(String, u64, u64)>,
}

/// Notes that this thread does `what` until `deadline` at the latest. Costs well under a microsecond.
///
/// On a thread that has no pulse (a command-line client) it does nothing.
pub fn enter(what: std::fmt::Arguments<'_>, deadline: Deadline) -> Busy {
    let due = clock::mono_ms() + u64::try_from(deadline.remaining().as_millis()).unwrap_or(NEVER / 2);
    Busy { previous: change(what, due) }
}

/// Notes that this thread waits for work: `what` says for which. No deadline applies.
pub fn wait_for_work(what: std::fmt::Arguments<'_>) -> Busy {
    Busy { previous: change(what, NEVER) }
}

fn change(what: std::fmt::Arguments<'_>, due_ms: u64) -> Option<(String, u64, u64)> {
    CURRENT.with(|current| {
        let mut current = current.try_borrow_mut().ok()?;
        let current = current.as_mut()?;
        let mut text = String::with_capacity(TEXT_BYTES_MAX);
        let _ = text.write_fmt(what);
        let since_ms = clock::mono_ms();
        current.pulse.write(&text, since_ms, due_ms);
        if due_ms != NEVER {
            (current.on_due)(due_ms);
        }
        let previous = (std::mem::replace(&mut current.text, text), current.since_ms, current.due_ms);
        (current.since_ms, current.due_ms) = (since_ms, due_ms);
        Some(previous)
    })
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Some((text, since_ms, due_ms)) = self.previous.take() else { return };
        CURRENT.with(|current| {
            if let Ok(mut current) = current.try_borrow_mut()
                && let Some(current) = current.as_mut()
            {
                current.pulse.write(&text, since_ms, due_ms);
                (current.text, current.since_ms, current.due_ms) = (text, since_ms, due_ms);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn nested_activities_restore_the_outer_one() {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let pulse = Arc::new(Pulse::new());
                install(Arc::clone(&pulse), Arc::new(|_| ()));
                let outer = enter(format_args!("turn {}", 7), Deadline::after(Duration::from_secs(60)));
                {
                    let _inner = wait_for_work(format_args!("inner"));
                    assert_eq!((pulse.read().text.as_str(), pulse.read().due_ms), ("inner", None));
                }
                assert_eq!(pulse.read().text, "turn 7");
                assert!(pulse.read().due_ms.is_some());
                drop(outer);
                assert_eq!(pulse.read().text, "");
            });
        });
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let pulse = Pulse::new();
        pulse.write(&"ä".repeat(100), 1, 2);
        assert_eq!(pulse.read().text, "ä".repeat(TEXT_BYTES_MAX / 2));
        assert_eq!(pulse.read().overdue_ms(5), Some(3));
    }
}
