//! How fast may be sent: about one message a second to a chat, 20 a minute to a group, 30 a second in all (Bot API FAQ).
//!
//! Token buckets that keep one moment each. Pure: the time comes in as an argument, and waiting is the caller's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Message,
    /// Can be left out, so it leaves some room for messages.
    Preview,
}

/// `burst` at once, then one every `interval`. In a window `w` that makes at most `burst + w / interval`.
#[derive(Debug, Clone, Copy)]
struct Rate {
    interval: Duration,
    burst: u32,
    /// Of the burst, what previews leave.
    kept: u32,
}

const OVERALL: Rate = Rate { interval: Duration::from_millis(50), burst: 10, kept: 3 };
const CHAT: Rate = Rate { interval: Duration::from_secs(1), burst: 3, kept: 1 };
const GROUP: Rate = Rate { interval: Duration::from_secs(4), burst: 5, kept: 2 };

/// Chats that are kept in mind; those that have been quiet the longest are forgotten first.
const CHATS_MAX: usize = 1024;

/// When the bucket will be full again. In the past, or `None`: it is full.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    fn wait(self, rate: Rate, usage: Use, now: Instant) -> Duration {
        let burst = if usage == Use::Preview { rate.burst - rate.kept } else { rate.burst };
        self.full_at.map_or(Duration::ZERO, |full| full.saturating_duration_since(now).saturating_sub(rate.interval * (burst - 1)))
    }

    fn take(&mut self, rate: Rate, now: Instant) {
        self.full_at = Some(self.full_at.map_or(now, |full| full.max(now)) + rate.interval);
    }
}

#[derive(Debug, Default)]
struct ChatPace {
    chat: Bucket,
    group: Bucket,
    /// Until when Telegram asked us to be quiet.
    blocked: Option<Instant>,
}

impl ChatPace {
    fn quiet_at(&self) -> Option<Instant> {
        self.chat.full_at.max(self.group.full_at).max(self.blocked)
    }
}

#[derive(Debug)]
pub(super) struct Pace {
    /// `false`: only what the server itself asks for is obeyed.
    limited: bool,
    overall: Bucket,
    chats: HashMap<String, ChatPace>,
}

impl Pace {
    pub fn new(limited: bool) -> Self {
        Self { limited, overall: Bucket::default(), chats: HashMap::new() }
    }

    /// How long to wait before something may be sent to `chat`.
    pub fn wait(&self, chat: &str, usage: Use, now: Instant) -> Duration {
        let Some(known) = self.chats.get(chat) else {
            return if self.limited { self.overall.wait(OVERALL, usage, now) } else { Duration::ZERO };
        };
        let blocked = self.blocked(chat, now);
        if !self.limited {
            return blocked;
        }
        let group = if is_group(chat) { known.group.wait(GROUP, usage, now) } else { Duration::ZERO };
        blocked.max(group).max(known.chat.wait(CHAT, usage, now)).max(self.overall.wait(OVERALL, usage, now))
    }

    /// How long Telegram still wants silence in `chat`: nothing at all is sent then.
    pub fn blocked(&self, chat: &str, now: Instant) -> Duration {
        let until = self.chats.get(chat).and_then(|known| known.blocked);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Something is sent to `chat` now.
    pub fn take(&mut self, chat: &str, now: Instant) {
        if self.limited {
            self.overall.take(OVERALL, now);
            let known = self.chat(chat, now);
            known.chat.take(CHAT, now);
            known.group.take(GROUP, now);
        }
    }

    /// Telegram asked for silence in this chat.
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

/// Ids of groups are negative; channels may be named.
fn is_group(chat: &str) -> bool {
    chat.starts_with(['-', '@'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Sends as fast as allowed. → the moments in milliseconds from the start
    fn run(pace: &mut Pace, start: Instant, chats: &[&str], count: usize) -> Vec<u128> {
        let mut now = start;
        let mut moments = Vec::new();
        for number in 0..count {
            let chat = chats[number % chats.len()];
            now += pace.wait(chat, Use::Message, now);
            assert_eq!(pace.wait(chat, Use::Message, now), Duration::ZERO);
            pace.take(chat, now);
            moments.push((now - start).as_millis());
        }
        moments
    }

    fn most_within(moments: &[u128], window: u128) -> usize {
        moments.iter().map(|from| moments.iter().filter(|at| (*from..from + window).contains(at)).count()).max().unwrap_or(0)
    }

    #[test]
    fn a_chat_gets_one_a_second_after_a_small_burst() {
        let moments = run(&mut Pace::new(true), clock::now(), &["77001"], 8);
        assert_eq!(moments, [0, 0, 0, 1000, 2000, 3000, 4000, 5000]);
    }

    #[test]
    fn a_group_never_gets_more_than_twenty_a_minute() {
        let moments = run(&mut Pace::new(true), clock::now(), &["-100123"], 100);
        assert!(most_within(&moments, 60_000) <= 20, "{moments:?}");
        assert!(moments[99] < 100 * 4000);
    }

    #[test]
    fn all_chats_together_get_thirty_a_second() {
        let names: Vec<String> = (0..500).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let moments = run(&mut Pace::new(true), clock::now(), &names, 500);
        assert!(most_within(&moments, 1000) <= 30);
        assert!(moments[499] <= 25_000);
    }

    #[test]
    fn previews_leave_room_for_messages() {
        let (mut pace, now) = (Pace::new(true), clock::now());
        let mut previews = 0;
        while pace.wait("-5", Use::Preview, now).is_zero() {
            pace.take("-5", now);
            previews += 1;
        }
        assert_eq!((previews, pace.wait("-5", Use::Message, now)), (2, Duration::ZERO));
    }

    #[test]
    fn silence_is_kept_even_without_limits() {
        let (mut pace, now) = (Pace::new(false), clock::now());
        for _ in 0..100 {
            assert_eq!(pace.wait("1", Use::Message, now), Duration::ZERO);
            pace.take("1", now);
        }
        pace.block("1", Duration::from_secs(14), now);
        pace.block("1", Duration::from_secs(3), now);
        assert_eq!(pace.wait("1", Use::Message, now), Duration::from_secs(14));
        assert_eq!(pace.wait("2", Use::Message, now), Duration::ZERO);
        assert_eq!(pace.wait("1", Use::Message, now + Duration::from_secs(14)), Duration::ZERO);
    }

    #[test]
    fn it_does_not_remember_everybody() {
        let (mut pace, now) = (Pace::new(true), clock::now());
        for number in 0..5000 {
            pace.take(&number.to_string(), now);
        }
        assert!(pace.chats.len() <= CHATS_MAX);
        pace.take("new", now + Duration::from_secs(60));
        assert_eq!(pace.chats.len(), 1);
    }
}
