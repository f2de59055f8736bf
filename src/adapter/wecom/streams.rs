//! Streams: the bot's message in answer to one of a person's, written anew with each frame until it is finished.
//!
//! What is known of them outlives the process in two memos a chat: the inlet notes which message can be answered last
//! ([`Callback`]), the outlet which stream answers it ([`Known`]). Each callback gets one stream; what is said after its end
//! is a message of its own. Pure.

use crate::core::types::Memo;
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A message of a person that can be answered in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Callback {
    /// The id of its frame, which the frames of the answer have too.
    pub req: String,
    pub at_ms: i64,
}

impl Callback {
    pub fn memo(&self, chat: &str) -> Memo {
        Memo::new(Self::key(chat), serde_json::to_string(self).unwrap_or_default())
    }

    pub fn key(chat: &str) -> String {
        format!("last/{chat}")
    }

    /// Whether an answer in its place may still be begun.
    pub fn is_fresh(&self, now_ms: i64) -> bool {
        age(self.at_ms, now_ms).is_some_and(|age| age < limits::WECOM_CALLBACK_AGE)
    }
}

/// A stream; its text is also what previews are known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stream {
    pub req: String,
    pub id: String,
    /// When its first frame was about to be sent.
    pub begun_ms: i64,
}

impl Stream {
    pub fn platform_id(&self) -> String {
        serde_json::to_string(&(&self.req, &self.id, self.begun_ms)).unwrap_or_default()
    }

    pub fn parse(platform_id: &str) -> Option<Self> {
        let (req, id, begun_ms) = serde_json::from_str(platform_id).ok()?;
        Some(Self { req, id, begun_ms })
    }

    /// Whether WeCom still takes frames of it, as far as the clock tells.
    pub fn is_alive(&self, now_ms: i64) -> bool {
        age(self.begun_ms, now_ms).is_some_and(|age| age < limits::WECOM_STREAM_LIFE)
    }

    /// Whether it is time to finish it, whatever there is to say.
    pub fn is_ending(&self, now_ms: i64) -> bool {
        age(self.begun_ms, now_ms).is_none_or(|age| age >= limits::WECOM_STREAM_CLOSE)
    }
}

/// `None`: the clock has been set back, and nothing is known.
fn age(then_ms: i64, now_ms: i64) -> Option<Duration> {
    const SLACK_MS: i64 = 60_000;
    let age_ms = now_ms.saturating_sub(then_ms);
    (age_ms > -SLACK_MS).then(|| Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)))
}

/// The latest stream of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub stream: Stream,
    /// The key of the message that is, or was, finishing it. [`NOBODY`]: it ended without one.
    #[serde(default)]
    pub ending: Option<String>,
}

/// Ends a stream that is not the place of a reply any more.
pub(super) const NOBODY: &str = "";

impl Known {
    pub fn new(stream: Stream) -> Self {
        Self { stream, ending: None }
    }

    pub fn memo(&self, chat: &str) -> Memo {
        Memo::new(Self::key(chat), serde_json::to_string(self).unwrap_or_default())
    }

    pub fn key(chat: &str) -> String {
        format!("stream/{chat}")
    }

    /// Whether a message may be put into it.
    pub fn is_open(&self, now_ms: i64) -> bool {
        self.ending.is_none() && self.stream.is_alive(now_ms)
    }

    pub fn is_ended_by(&self, key: &str) -> bool {
        self.ending.as_deref() == Some(key)
    }
}

/// What a chat's stream shows, as far as this process knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Chat {
    pub known: Option<Known>,
    /// The text of its last frame. Empty: a placeholder.
    pub text: String,
    pub last_frame: Option<Instant>,
}

impl Chat {
    pub fn open(&self, now_ms: i64) -> Option<Stream> {
        self.known.as_ref().filter(|known| known.is_open(now_ms)).map(|known| known.stream.clone())
    }

    /// Whether the stream is this one.
    pub fn shows(&self, stream: &Stream) -> bool {
        self.known.as_ref().is_some_and(|known| known.stream == *stream)
    }
}

/// The chats in which something was shown lately.
#[derive(Debug, Default)]
pub(super) struct Chats {
    chats: HashMap<String, Chat>,
}

impl Chats {
    pub fn get(&self, chat: &str) -> Option<&Chat> {
        self.chats.get(chat)
    }

    /// Takes what the store knows.
    pub fn insert(&mut self, chat: &str, known: Option<Known>, now_ms: i64) {
        if self.chats.len() >= limits::WECOM_CHATS_MAX {
            // The store knows the rest, too; only how their placeholders look is forgotten.
            self.chats.retain(|_, known| known.open(now_ms).is_some());
            if self.chats.len() >= limits::WECOM_CHATS_MAX {
                self.chats.clear();
            }
        }
        self.chats.insert(chat.to_owned(), Chat { known, ..Chat::default() });
    }

    pub fn change(&mut self, chat: &str, change: impl FnOnce(&mut Chat)) {
        if let Some(known) = self.chats.get_mut(chat) {
            change(known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(begun_ms: i64) -> Stream {
        Stream { req: "REQ_cb_01".to_owned(), id: "stream_1792540802_x1".to_owned(), begun_ms }
    }

    #[test]
    fn a_stream_lives_five_and_a_half_minutes() {
        let (one, second) = (stream(1_000_000), 1000);
        let check = |at_ms: i64, alive: bool, ending: bool| {
            assert_eq!((one.is_alive(at_ms), one.is_ending(at_ms)), (alive, ending), "{at_ms}");
        };
        check(1_000_000, true, false);
        check(1_000_000 + 314 * second, true, false);
        check(1_000_000 + 315 * second, true, true);
        check(1_000_000 + 330 * second, false, true);
        check(1_000_000 - 10 * second, true, false);
        // The clock was set back by a day: nothing is known of its age.
        check(1_000_000 - 86_400 * second, false, true);
    }

    #[test]
    fn an_ended_stream_takes_nothing_more() {
        let mut known = Known::new(stream(1000));
        assert!(known.is_open(2000) && !known.is_ended_by("out-7"));
        known.ending = Some("out-7".to_owned());
        assert!(!known.is_open(2000) && known.is_ended_by("out-7") && !known.is_ended_by(NOBODY));
    }

    #[test]
    fn callbacks_get_old() {
        let callback = Callback { req: "r".to_owned(), at_ms: 0 };
        assert!(callback.is_fresh(3_599_999) && !callback.is_fresh(3_600_000));
    }

    #[test]
    fn chats_are_bounded() {
        let mut chats = Chats::default();
        for number in 0..3 * limits::WECOM_CHATS_MAX {
            chats.insert(&number.to_string(), Some(Known::new(stream(0))), 1);
            assert!(chats.chats.len() <= limits::WECOM_CHATS_MAX);
        }
    }

    proptest! {
        #[test]
        fn ids_and_memos_come_back(req in ".*", id in ".*", begun_ms in any::<i64>(), ending in proptest::option::of(".*")) {
            let stream = Stream { req, id, begun_ms };
            prop_assert_eq!(Stream::parse(&stream.platform_id()), Some(stream.clone()));
            let known = Known { stream, ending };
            let value = known.memo("c").value.expect("a value");
            prop_assert_eq!(serde_json::from_str::<Known>(&value).expect("reads"), known);
        }

        #[test]
        fn any_platform_id_is_looked_at(text in ".*") {
            let _ = Stream::parse(&text);
        }
    }
}
