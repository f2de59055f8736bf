//! How fast may be sent: five messages a second to a chat, from all bots together, and silence where it was asked for.
//! Pure: the time comes in as an argument, and waiting is the caller's.

use crate::limits;
use std::collections::HashMap;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Per chat, when the next message may go.
    free_at: HashMap<String, Instant>,
}

impl Pace {
    /// How long to wait before something may be sent to `chat`.
    pub fn wait(&self, chat: &str, now: Instant) -> Duration {
        self.free_at.get(chat).map_or(Duration::ZERO, |free| free.saturating_duration_since(now))
    }

    /// Something is sent to `chat` now.
    pub fn take(&mut self, chat: &str, now: Instant) {
        self.quiet(chat, limits::FEISHU_GAP, now);
    }

    /// Nothing may be sent to `chat` for this long.
    pub fn quiet(&mut self, chat: &str, wait: Duration, now: Instant) {
        if self.free_at.len() >= limits::FEISHU_CHATS_MAX && !self.free_at.contains_key(chat) {
            self.free_at.retain(|_, free| *free > now);
            let soonest = self.free_at.iter().min_by_key(|(_, free)| **free).map(|(name, _)| name.clone());
            if let Some(name) = soonest.filter(|_| self.free_at.len() >= limits::FEISHU_CHATS_MAX) {
                self.free_at.remove(&name);
            }
        }
        let free = self.free_at.entry(chat.to_owned()).or_insert(now);
        *free = (*free).max(now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_chat_gets_less_than_five_a_second() {
        let (mut pace, start) = (Pace::default(), clock::now());
        let mut now = start;
        for _ in 0..50 {
            now += pace.wait("a", now);
            assert_eq!(pace.wait("b", now), Duration::ZERO, "chats do not wait for each other");
            pace.take("a", now);
        }
        assert!(now - start > Duration::from_secs(10) && now - start < Duration::from_secs(12));
    }

    #[test]
    fn silence_is_kept_and_chats_are_forgotten() {
        let (mut pace, now) = (Pace::default(), clock::now());
        pace.quiet("a", Duration::from_secs(7), now);
        pace.take("a", now);
        assert_eq!(pace.wait("a", now), Duration::from_secs(7));
        for number in 0..3 * limits::FEISHU_CHATS_MAX {
            pace.take(&number.to_string(), now);
        }
        assert!(pace.free_at.len() <= limits::FEISHU_CHATS_MAX);
        assert_eq!(pace.wait("a", now), Duration::from_secs(7), "those that have to wait are kept the longest");
    }
}
