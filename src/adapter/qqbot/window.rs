//! Which messages of a chat can be replied to, and how often (QQ docs, "send", passive messages). Pure.
//!
//! A reply names the message it answers (`msg_id`) and its own number among the replies to it (`msg_seq`). QQ refuses the
//! second reply with the same pair, so that the pair that was chosen for a part of a message is what makes sending it
//! idempotent: it is remembered before the part is sent, and used in each further attempt.
//!
//! The inlet notes what was heard, the outlet what was used; each writes its own memo alone. QQ has the last word on
//! what can be replied to: times and counts here only decide what is tried first.

use crate::core::types::Memo;
use crate::limits;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bytes of one of these memos: below [`limits::MEMO_BYTES_MAX`], with room for the key.
const MEMO_BYTES: usize = limits::MEMO_BYTES_MAX - 1024;
/// A number that is used up, but not by a part of ours.
const SPENT: &str = "-";
/// The typing sign, which is a reply like any other.
const TYPING: &str = "~";
/// Replies that must be left for a typing sign to be worth one.
const TYPING_ROOM: usize = 4;

/// A message of somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Heard {
    id: String,
    /// When it arrived here. Their clock and ours may differ.
    at_ms: i64,
}

/// The replies to one message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    id: String,
    /// Their keys; the place in the list is the `msg_seq`, from 1.
    keys: Vec<String>,
    /// QQ takes no more.
    #[serde(default)]
    full: bool,
}

/// What makes a reply unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub id: String,
    pub seq: usize,
}

/// The memo of the inlet.
pub(super) fn heard_key(chat: &str) -> String {
    format!("in/{chat}")
}

/// The memo of the outlet.
pub(super) fn used_key(chat: &str) -> String {
    format!("out/{chat}")
}

fn list<T: for<'de> Deserialize<'de>>(memo: Option<&str>) -> Vec<T> {
    memo.and_then(|memo| serde_json::from_str(memo).ok()).unwrap_or_default()
}

/// The newest `most` that fit into a memo.
fn written<T: Serialize>(mut entries: &[T], most: usize) -> String {
    entries = &entries[entries.len().saturating_sub(most)..];
    loop {
        let text = serde_json::to_string(entries).unwrap_or_default();
        if text.len() <= MEMO_BYTES || entries.len() <= 1 {
            return text;
        }
        entries = &entries[1..];
    }
}

/// The inlet's memo with one more message.
pub(super) fn heard(chat: &str, before: Option<&str>, id: &str, now_ms: i64) -> Memo {
    let mut all: Vec<Heard> = list(before);
    // One that is delivered again is not younger for that.
    if !all.iter().any(|known| known.id == id) {
        all.push(Heard { id: id.to_owned(), at_ms: now_ms });
    }
    Memo::new(heard_key(chat), written(&all, limits::QQBOT_REPLIABLE_MAX))
}

/// The replies that one chat takes.
#[derive(Debug, Clone)]
pub(super) struct Window {
    chat: String,
    valid: Duration,
    heard: Vec<Heard>,
    used: Vec<Used>,
}

impl Window {
    /// From both memos. `valid`: how long a message there can be replied to.
    pub fn read(chat: &str, valid: Duration, heard: Option<&str>, used: Option<&str>) -> Self {
        Self { chat: chat.to_owned(), valid, heard: list(heard), used: list(used) }
    }

    /// The outlet's memo as it is to be now.
    pub fn memo(&self) -> Memo {
        // Some more than can be replied to, so that a late attempt finds the number it had.
        Memo::new(used_key(&self.chat), written(&self.used, 2 * limits::QQBOT_REPLIABLE_MAX))
    }

    /// The pair that was chosen for a part before.
    pub fn pair(&self, key: &str) -> Option<Pair> {
        self.used.iter().find_map(|used| {
            let place = used.keys.iter().position(|known| known == key)?;
            Some(Pair { id: used.id.clone(), seq: place + 1 })
        })
    }

    fn left(&self, id: &str) -> usize {
        let used = self.used.iter().find(|used| used.id == id);
        used.map_or(limits::QQBOT_REPLIES_MAX, |used| if used.full { 0 } else { limits::QQBOT_REPLIES_MAX.saturating_sub(used.keys.len()) })
    }

    fn is_fresh(&self, heard: &Heard, now_ms: i64) -> bool {
        let valid = self.valid.saturating_sub(limits::QQBOT_REPLY_MARGIN);
        now_ms.saturating_sub(heard.at_ms) < i64::try_from(valid.as_millis()).unwrap_or(i64::MAX)
    }

    /// Messages that can be replied to, the oldest first: it is the first to become too old. If all seem to be, the newest
    /// is tried: the clock may have jumped.
    fn open(&self, now_ms: i64) -> Vec<&str> {
        let open = |heard: &&Heard| self.left(&heard.id) > 0;
        let fresh = self.heard.iter().filter(open).filter(|heard| self.is_fresh(heard, now_ms));
        let mut ids: Vec<&str> = fresh.map(|heard| heard.id.as_str()).collect();
        if ids.is_empty() {
            ids.extend(self.heard.last().filter(open).map(|heard| heard.id.as_str()));
        }
        ids
    }

    /// How many more replies there can be.
    pub fn room(&self, now_ms: i64) -> usize {
        self.open(now_ms).into_iter().map(|id| self.left(id)).sum()
    }

    /// Chooses the next pair for a part: a reply to `preferred` if that can be.
    pub fn take(&mut self, key: &str, preferred: Option<&str>, now_ms: i64) -> Option<Pair> {
        let open = self.open(now_ms);
        let id = open.iter().find(|id| Some(**id) == preferred).or(open.first())?.to_string();
        Some(self.add(id, key))
    }

    /// A pair for the typing sign, for a message that nothing was replied to yet, if enough is left for the reply.
    pub fn take_typing(&mut self, now_ms: i64) -> Option<Pair> {
        let newest = self.heard.last().filter(|heard| self.is_fresh(heard, now_ms))?.id.clone();
        let untouched = !self.used.iter().any(|used| used.id == newest);
        (untouched && self.room(now_ms) > TYPING_ROOM).then(|| self.add(newest, TYPING))
    }

    fn add(&mut self, id: String, key: &str) -> Pair {
        let at = self.used.iter().position(|used| used.id == id).unwrap_or_else(|| {
            self.used.push(Used { id: id.clone(), ..Used::default() });
            self.used.len() - 1
        });
        let keys = &mut self.used[at].keys;
        keys.push(key.to_owned());
        Pair { id, seq: keys.len() }
    }

    /// The part was not sent with its pair, and will be with another one.
    pub fn give_up(&mut self, key: &str) {
        for known in self.used.iter_mut().flat_map(|used| &mut used.keys).filter(|known| *known == key) {
            SPENT.clone_into(known);
        }
    }

    /// As [`Window::give_up`], where replies are not numbered: the reply is not used up either.
    pub fn give_back(&mut self, key: &str) {
        self.used.iter_mut().for_each(|used| used.keys.retain(|known| known != key));
    }

    /// QQ takes no more replies to this message.
    pub fn close(&mut self, id: &str) {
        if let Some(used) = self.used.iter_mut().find(|used| used.id == id) {
            used.full = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: i64 = 1_792_540_800_000;

    fn value(memo: Memo) -> String {
        memo.value.expect("it is remembered")
    }

    fn window(messages: &[(&str, i64)]) -> Window {
        let heard = messages.iter().fold(None, |before: Option<String>, (id, at)| Some(value(heard("c", before.as_deref(), id, *at))));
        Window::read("c", HOUR, heard.as_deref(), None)
    }

    fn reread(window: &Window) -> Window {
        let heard = serde_json::to_string(&window.heard).expect("JSON");
        Window::read("c", window.valid, Some(&heard), Some(&value(window.memo())))
    }

    fn pair(id: &str, seq: usize) -> Option<Pair> {
        Some(Pair { id: id.to_owned(), seq })
    }

    #[test]
    fn five_replies_to_a_message_then_to_the_next() {
        let mut window = window(&[("a", NOW), ("b", NOW + 1)]);
        assert_eq!(window.room(NOW), 10);
        assert_eq!(window.take("k0", Some("b"), NOW), pair("b", 1));
        let taken: Vec<Option<Pair>> = (1..=10).map(|number| window.take(&format!("k{number}"), None, NOW)).collect();
        assert_eq!(taken[..5], (1..=5).map(|seq| pair("a", seq)).collect::<Vec<_>>());
        assert_eq!(taken[5..9], (2..=5).map(|seq| pair("b", seq)).collect::<Vec<_>>());
        assert_eq!((taken[9].clone(), window.room(NOW)), (None, 0));
    }

    #[test]
    fn a_part_keeps_its_pair_over_a_restart() {
        let mut window = window(&[("a", NOW)]);
        window.take("k", None, NOW);
        let chosen = window.take("k-1", None, NOW);
        let again = reread(&window);
        assert_eq!((again.pair("k-1"), again.pair("other")), (chosen, None));
        assert_eq!(again.room(NOW), 3);
    }

    #[test]
    fn old_messages_are_left_alone_and_the_newest_is_tried_at_last() {
        let late = NOW + 3_600_000;
        let mut window = window(&[("a", NOW), ("b", NOW + 10_000)]);
        assert_eq!((window.room(late), window.clone().take("k", None, late)), (5, pair("b", 1)));
        let much_later = late * 2;
        assert_eq!(window.take("k", None, much_later), pair("b", 1));
        window.close("b");
        window.give_up("k");
        assert_eq!((window.pair("k"), window.room(much_later), window.take("k", None, much_later)), (None, 0, None));
    }

    #[test]
    fn what_did_not_work_out_is_not_used_again() {
        let mut window = window(&[("a", NOW)]);
        window.take("k", None, NOW);
        window.give_up("k");
        assert_eq!(window.take("k", None, NOW), pair("a", 2));
        window.give_back("k");
        assert_eq!(window.take("k", None, NOW), pair("a", 2));
    }

    #[test]
    fn typing_takes_one_reply_of_a_message_that_has_all() {
        let mut window = window(&[("a", NOW)]);
        assert_eq!(window.take_typing(NOW), pair("a", 1));
        assert_eq!((window.take_typing(NOW), window.room(NOW)), (None, 4));
        assert_eq!(reread(&window).take_typing(NOW), None);
        assert_eq!(window.clone().take_typing(NOW * 2), None);
    }

    #[test]
    fn a_message_that_comes_again_is_not_younger() {
        assert_eq!(window(&[("a", NOW), ("a", NOW + 7)]).heard, [Heard { id: "a".to_owned(), at_ms: NOW }]);
    }

    proptest! {
        /// Whatever happens, no pair is given to two parts, and the memos stay within their bound.
        #[test]
        fn no_pair_is_given_twice(steps in prop::collection::vec((0..8_u8, 0..40_u32), 1..200), long in 1..190_usize) {
            let (mut heard_memo, mut used_memo) = (None, None);
            let mut given = HashSet::new();
            for (number, (step, arg)) in steps.into_iter().enumerate() {
                let mut window = Window::read("c", HOUR, heard_memo.as_deref(), used_memo.as_deref());
                match step {
                    0 | 1 => heard_memo = Some(value(heard("c", heard_memo.as_deref(), &format!("{number:0>long$}"), NOW))),
                    2 => { window.take_typing(NOW).map(|pair| given.insert((pair.id, pair.seq))); }
                    3 => window.give_up(&arg.to_string()),
                    _ => {
                        let key = arg.to_string();
                        if window.pair(&key).is_none() && let Some(pair) = window.take(&key, None, NOW) {
                            prop_assert!(pair.seq <= limits::QQBOT_REPLIES_MAX);
                            prop_assert!(given.insert((pair.id, pair.seq)), "given twice");
                        }
                    }
                }
                used_memo = Some(value(window.memo()));
                for memo in [&heard_memo, &used_memo] {
                    prop_assert!(memo.as_ref().is_none_or(|memo| memo.len() <= MEMO_BYTES));
                }
            }
        }
    }
}
