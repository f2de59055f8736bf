//! How fast may be sent: 30 messages a minute and 1000 an hour to a conversation (WeCom, AI bot, long connection).
//!
//! Token buckets that keep one moment each. Pure: the time comes in as an argument, and waiting is the caller's. An update
//! of a stream is no message of its own, but in case the server counts it as one, updates keep to the same limit; they can
//! be left out, messages cannot.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A message, or the first frame of a stream.
    Message,
    /// The first frame of a stream that can be left out: a preview or a placeholder. It is a message, too.
    Opening,
    /// A further frame of a stream that can be left out.
    Update,
}

/// `burst` at once, then one every `interval`. In a window `w` that makes at most `burst + w / interval`.
#[derive(Debug, Clone, Copy)]
struct Rate {
    interval: Duration,
    burst: u32,
}

/// 20 + 10 in a minute, 20 + 600 in an hour.
const MESSAGES: Rate = Rate { interval: Duration::from_secs(6), burst: 20 };
/// 12 + 16 in a minute, 12 + 973 in an hour.
const FRAMES: Rate = Rate { interval: Duration::from_millis(3700), burst: 12 };

/// Chats that are kept in mind; those that have been quiet the longest are forgotten first.
const CHATS_MAX: usize = 1024;

/// When the bucket will be full again. In the past, or `None`: it is full.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    fn wait(self, rate: Rate, now: Instant) -> Duration {
        self.full_at.map_or(Duration::ZERO, |full| full.saturating_duration_since(now).saturating_sub(rate.interval * (rate.burst - 1)))
    }

    fn take(&mut self, rate: Rate, now: Instant) {
        let full = self.full_at.map_or(now, |full| full.max(now)) + rate.interval;
        // What went out beyond the limit, because it could not wait, is not held against the next ones for ever.
        self.full_at = Some(full.min(now + rate.interval * rate.burst));
    }
}

#[derive(Debug, Default)]
struct ChatPace {
    messages: Bucket,
    frames: Bucket,
    /// Until when WeCom asked us to be quiet.
    blocked: Option<Instant>,
}

impl ChatPace {
    fn quiet_at(&self) -> Option<Instant> {
        self.messages.full_at.max(self.frames.full_at).max(self.blocked)
    }
}

#[derive(Debug, Default)]
pub(super) struct Pace {
    chats: HashMap<String, ChatPace>,
}

impl Pace {
    /// How long to wait before something may be sent to `chat`.
    pub fn wait(&self, chat: &str, usage: Use, now: Instant) -> Duration {
        let Some(known) = self.chats.get(chat) else { return Duration::ZERO };
        let bucket = match usage {
            Use::Message => known.messages.wait(MESSAGES, now),
            Use::Opening => known.messages.wait(MESSAGES, now).max(known.frames.wait(FRAMES, now)),
            Use::Update => known.frames.wait(FRAMES, now),
        };
        bucket.max(self.blocked(chat, now))
    }

    /// How long WeCom still wants silence in `chat`: nothing at all is sent then.
    pub fn blocked(&self, chat: &str, now: Instant) -> Duration {
        let until = self.chats.get(chat).and_then(|known| known.blocked);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Something is sent to `chat` now.
    pub fn take(&mut self, chat: &str, usage: Use, now: Instant) {
        let known = self.chat(chat, now);
        known.frames.take(FRAMES, now);
        if usage != Use::Update {
            known.messages.take(MESSAGES, now);
        }
    }

    /// WeCom asked for silence in this chat.
    pub fn block(&mut self, chat: &str, wait: Duration, now: Instant) {
        let known = self.chat(chat, now);
        known.blocked = known.blocked.max(now.checked_add(wait));
    }

    fn chat(&mut self, chat: &str, now: Instant) -> &mut ChatPace {
        if self.chats.len() >= CHATS_MAX && !self.chats.contains_key(chat) {
            self.chats.retain(|_, known| known.quiet_at().is_some_and(|quiet| quiet > now));
            let quietest = self.chats.iter().min_by_key(|(_, known)| known.quiet_at()).map(|(name, _)| name.clone());
            if let Some(name) = quietest.filter(|_| self.chats.len() >= CHATS_MAX) {
                self.chats.remove(&name);
            }
        }
        self.chats.entry(chat.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Sends as fast as allowed. → the moments in milliseconds from the start
    fn run(usage: Use, count: usize) -> Vec<u128> {
        let (mut pace, start) = (Pace::default(), clock::now());
        let (mut now, mut moments) = (start, Vec::new());
        for _ in 0..count {
            now += pace.wait("zhangsan", usage, now);
            assert_eq!(pace.wait("zhangsan", usage, now), Duration::ZERO);
            pace.take("zhangsan", usage, now);
            moments.push((now - start).as_millis());
        }
        moments
    }

    fn most_within(moments: &[u128], window: u128) -> usize {
        moments.iter().map(|from| moments.iter().filter(|at| (*from..from + window).contains(at)).count()).max().unwrap_or(0)
    }

    #[test]
    fn a_conversation_gets_thirty_a_minute_and_a_thousand_an_hour() {
        for usage in [Use::Message, Use::Opening, Use::Update] {
            assert!(most_within(&run(usage, 200), 60_000) <= 30, "{usage:?}");
        }
        assert!(most_within(&run(Use::Message, 1500), 3_600_000) <= 1000);
    }

    #[test]
    fn updates_give_way_to_messages() {
        let (mut pace, now) = (Pace::default(), clock::now());
        while pace.wait("a", Use::Update, now).is_zero() {
            pace.take("a", Use::Update, now);
        }
        assert_eq!(pace.wait("a", Use::Message, now), Duration::ZERO);
        assert_eq!(pace.wait("b", Use::Update, now), Duration::ZERO, "each conversation by itself");
    }

    /// Replies of which each is preceded by a preview wherever there is room for one.
    #[test]
    fn a_preview_that_opens_a_stream_is_a_message() {
        let (mut pace, start) = (Pace::default(), clock::now());
        let (mut now, mut moments) = (start, Vec::new());
        for _ in 0..200 {
            now += Duration::from_millis(50);
            if pace.wait("a", Use::Opening, now).is_zero() {
                pace.take("a", Use::Opening, now);
                // The reply ends that stream.
                pace.take("a", Use::Update, now);
            } else {
                now += pace.wait("a", Use::Message, now);
                pace.take("a", Use::Message, now);
            }
            moments.push((now - start).as_millis());
        }
        assert!(most_within(&moments, 60_000) <= 30, "{moments:?}");
    }

    #[test]
    fn silence_is_kept() {
        let (mut pace, now) = (Pace::default(), clock::now());
        pace.block("a", Duration::from_secs(60), now);
        pace.block("a", Duration::from_secs(3), now);
        assert_eq!(pace.wait("a", Use::Message, now), Duration::from_secs(60));
        assert_eq!(pace.wait("a", Use::Update, now + Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn it_does_not_remember_everybody() {
        let (mut pace, now) = (Pace::default(), clock::now());
        for number in 0..5000 {
            pace.take(&number.to_string(), Use::Message, now);
        }
        assert!(pace.chats.len() <= CHATS_MAX);
    }
}
