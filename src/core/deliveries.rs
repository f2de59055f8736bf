//! What is not delivered yet, kept so that the next message to be sent is found at once: a backlog of thousands must not
//! slow down every event.
//!
//! One message at a time a chat, in the order of the outbox. Pure, like all of core.

use super::types::{AdapterName, ChatRef, OutboxId, TurnId};
use std::collections::{BTreeMap, BTreeSet};

/// An outbox row that is not delivered yet.
#[derive(Debug, Clone)]
struct Delivery {
    chat: ChatRef,
    /// Whose reply it is: the sender knows the preview it replaces.
    turn: Option<TurnId>,
    due_ms: u64,
    attempts: u32,
    under_way: bool,
}

/// The messages for one chat.
#[derive(Debug, Default)]
struct Line {
    rows: BTreeSet<OutboxId>,
    under_way: usize,
    /// Its entry in [`Deliveries::heads`].
    head: Option<(u64, OutboxId)>,
}

#[derive(Debug, Default)]
pub(super) struct Deliveries {
    rows: BTreeMap<OutboxId, Delivery>,
    lines: BTreeMap<ChatRef, Line>,
    /// For each adapter the first message of each chat in which none is under way, and when it is due.
    heads: BTreeMap<AdapterName, BTreeSet<(u64, OutboxId)>>,
    under_way: BTreeMap<AdapterName, usize>,
}

impl Deliveries {
    pub(super) fn insert(&mut self, outbox: OutboxId, chat: ChatRef, turn: Option<TurnId>, due_ms: u64, attempts: u32) {
        // A row that is known already begins anew.
        self.remove(outbox);
        self.lines.entry(chat.clone()).or_default().rows.insert(outbox);
        self.rows.insert(outbox, Delivery { chat: chat.clone(), turn, due_ms, attempts, under_way: false });
        self.refresh(&chat);
    }

    pub(super) fn remove(&mut self, outbox: OutboxId) -> Option<ChatRef> {
        self.ended(outbox);
        let Delivery { chat, .. } = self.rows.remove(&outbox)?;
        if let Some(line) = self.lines.get_mut(&chat) {
            line.rows.remove(&outbox);
        }
        self.refresh(&chat);
        Some(chat)
    }

    pub(super) fn chat(&self, outbox: OutboxId) -> Option<&ChatRef> {
        self.rows.get(&outbox).map(|delivery| &delivery.chat)
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether any is on its way to a platform.
    pub(super) fn any_under_way(&self) -> bool {
        self.under_way.values().any(|count| *count > 0)
    }

    /// The next message that `adapter` may send now, if fewer than `most` are under way there. It is under way then.
    pub(super) fn begin(&mut self, adapter: &AdapterName, now_ms: u64, most: usize) -> Option<(OutboxId, Option<TurnId>)> {
        let (due_ms, outbox) = *self.heads.get(adapter)?.first()?;
        if due_ms > now_ms || self.under_way.get(adapter).is_some_and(|count| *count >= most) {
            return None;
        }
        let delivery = self.rows.get_mut(&outbox)?;
        delivery.under_way = true;
        let (chat, turn) = (delivery.chat.clone(), delivery.turn);
        *self.under_way.entry(adapter.clone()).or_default() += 1;
        if let Some(line) = self.lines.get_mut(&chat) {
            line.under_way += 1;
        }
        self.refresh(&chat);
        Some((outbox, turn))
    }

    /// The attempt is over, whatever came of it.
    pub(super) fn ended(&mut self, outbox: OutboxId) {
        let Some(delivery) = self.rows.get_mut(&outbox).filter(|delivery| delivery.under_way) else { return };
        delivery.under_way = false;
        let chat = delivery.chat.clone();
        if let Some(count) = self.under_way.get_mut(&chat.adapter) {
            *count -= 1;
        }
        if let Some(line) = self.lines.get_mut(&chat) {
            line.under_way -= 1;
        }
        self.refresh(&chat);
    }

    /// Counts an attempt that failed for now. → how many there were
    pub(super) fn failed(&mut self, outbox: OutboxId) -> u32 {
        self.rows.get_mut(&outbox).map_or(0, |delivery| {
            delivery.attempts += 1;
            delivery.attempts
        })
    }

    pub(super) fn set_due(&mut self, outbox: OutboxId, due_ms: u64) {
        let Some(delivery) = self.rows.get_mut(&outbox) else { return };
        delivery.due_ms = due_ms;
        let chat = delivery.chat.clone();
        self.refresh(&chat);
    }

    /// The message goes to another chat of the same platform.
    pub(super) fn readdress(&mut self, outbox: OutboxId, chat: &str) {
        self.ended(outbox);
        let Some(Delivery { turn, due_ms, attempts, .. }) = self.rows.get(&outbox).cloned() else { return };
        if let Some(old) = self.remove(outbox) {
            self.insert(outbox, ChatRef { chat: chat.to_owned(), ..old }, turn, due_ms, attempts);
        }
    }

    /// What waits for its time in these chats need not wait any longer.
    pub(super) fn wake(&mut self, now_ms: u64, chosen: impl Fn(&ChatRef) -> bool) {
        for delivery in self.rows.values_mut().filter(|delivery| chosen(&delivery.chat)) {
            delivery.due_ms = delivery.due_ms.min(now_ms);
        }
        let chats: Vec<ChatRef> = self.lines.keys().filter(|chat| chosen(chat)).cloned().collect();
        for chat in &chats {
            self.refresh(chat);
        }
    }

    /// A chat has another id now.
    pub(super) fn move_chat(&mut self, adapter: &AdapterName, old: &str, new: &str) {
        let moved = |chat: &&ChatRef| chat.adapter == *adapter && chat.chat == old;
        for chat in self.lines.keys().filter(moved).cloned().collect::<Vec<_>>() {
            let Some(line) = self.lines.remove(&chat) else { continue };
            if let (Some(head), Some(heads)) = (line.head, self.heads.get_mut(adapter)) {
                heads.remove(&head);
            }
            let there = ChatRef { chat: new.to_owned(), ..chat };
            for outbox in &line.rows {
                if let Some(delivery) = self.rows.get_mut(outbox) {
                    delivery.chat = there.clone();
                }
            }
            let joined = self.lines.entry(there.clone()).or_default();
            joined.rows.extend(line.rows);
            joined.under_way += line.under_way;
            self.refresh(&there);
        }
    }

    /// When the next message of `adapter` may be sent that may not be sent yet.
    pub(super) fn due_ms(&self, adapter: &AdapterName, now_ms: u64) -> Option<u64> {
        // What is due already waits for one that is under way, whose end is an event.
        self.heads.get(adapter)?.first().map(|(due_ms, _)| *due_ms).filter(|due_ms| *due_ms > now_ms)
    }

    /// Puts the chat's head where it belongs, and forgets a chat without messages.
    fn refresh(&mut self, chat: &ChatRef) {
        let Some(line) = self.lines.get_mut(chat) else { return };
        let first = line.rows.first().filter(|_| line.under_way == 0).and_then(|first| Some((self.rows.get(first)?.due_ms, *first)));
        if line.head != first {
            if !self.heads.contains_key(&chat.adapter) {
                self.heads.insert(chat.adapter.clone(), BTreeSet::new());
            }
            if let Some(heads) = self.heads.get_mut(&chat.adapter) {
                if let Some(old) = line.head.take() {
                    heads.remove(&old);
                }
                heads.extend(first);
            }
            line.head = first;
        }
        if line.rows.is_empty() {
            self.lines.remove(chat);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOST: usize = 3;

    fn chat(number: u8) -> ChatRef {
        ChatRef { adapter: format!("adapter{}", number % 2), chat: number.to_string(), thread: None }
    }

    fn begin_all(deliveries: &mut Deliveries, adapter: &str, now_ms: u64) -> Vec<OutboxId> {
        std::iter::from_fn(|| deliveries.begin(&adapter.to_owned(), now_ms, MOST)).map(|(outbox, _)| outbox).collect()
    }

    #[test]
    fn one_at_a_time_a_chat_and_a_few_an_adapter() {
        let mut deliveries = Deliveries::default();
        for (outbox, place) in [(1, 0), (2, 0), (3, 2), (4, 4), (5, 6), (6, 1)] {
            deliveries.insert(outbox, chat(place), None, 10, 0);
        }
        assert_eq!(begin_all(&mut deliveries, "adapter0", 9), [0; 0]);
        assert_eq!(deliveries.due_ms(&"adapter0".to_owned(), 9), Some(10));
        assert_eq!(begin_all(&mut deliveries, "adapter0", 10), [1, 3, 4]);
        assert_eq!(begin_all(&mut deliveries, "adapter1", 10), [6]);
        assert_eq!(deliveries.remove(3), Some(chat(2)));
        assert_eq!(begin_all(&mut deliveries, "adapter0", 10), [5]);
        deliveries.ended(1);
        deliveries.set_due(1, 50);
        assert_eq!(begin_all(&mut deliveries, "adapter0", 20), [0; 0], "2 waits for 1");
        assert_eq!(deliveries.due_ms(&"adapter0".to_owned(), 20), Some(50));
        deliveries.wake(20, |chat| chat.chat == "0");
        assert_eq!(begin_all(&mut deliveries, "adapter0", 20), [1]);
    }

    #[test]
    fn what_moves_waits_behind_what_is_under_way_there() {
        let mut deliveries = Deliveries::default();
        for (outbox, place) in [(1, 0), (2, 2), (3, 0)] {
            deliveries.insert(outbox, chat(place), None, 0, 0);
        }
        assert_eq!(begin_all(&mut deliveries, "adapter0", 0), [1, 2]);
        deliveries.move_chat(&"adapter0".to_owned(), "0", "2");
        deliveries.remove(1);
        assert_eq!(begin_all(&mut deliveries, "adapter0", 0), [0; 0]);
        deliveries.remove(2);
        assert_eq!(begin_all(&mut deliveries, "adapter0", 0), [3]);
        assert_eq!(deliveries.chat(3), Some(&chat(2)));
        deliveries.remove(3);
        assert!(deliveries.lines.is_empty() && !deliveries.any_under_way());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8, u64),
        Begin(u8, u64),
        Ended(OutboxId),
        Due(OutboxId, u64),
        Remove(OutboxId),
        Wake(u8, u64),
        Move(u8, u8),
        Readdress(OutboxId, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (outbox, place, time) = (0..30_i64, 0..8_u8, 0..20_u64);
        prop_oneof![
            3 => (place.clone(), time.clone()).prop_map(|(place, due)| Step::Insert(place, due)),
            3 => (0..2_u8, time.clone()).prop_map(|(adapter, now)| Step::Begin(adapter, now)),
            2 => outbox.clone().prop_map(Step::Ended),
            1 => (outbox.clone(), time.clone()).prop_map(|(outbox, due)| Step::Due(outbox, due)),
            2 => outbox.prop_map(Step::Remove),
            1 => (place.clone(), time).prop_map(|(place, now)| Step::Wake(place, now)),
            1 => (place.clone(), place.clone()).prop_map(|(old, new)| Step::Move(old, new)),
            1 => (0..30_i64, place).prop_map(|(outbox, new)| Step::Readdress(outbox, new)),
        ]
    }

    /// Which messages may be sent, by looking at all of them.
    fn sendable(deliveries: &Deliveries, adapter: &str, now_ms: u64) -> Vec<(u64, OutboxId)> {
        let of = |delivery: &&Delivery| delivery.chat.adapter == adapter;
        if deliveries.rows.values().filter(of).filter(|delivery| delivery.under_way).count() >= MOST {
            return Vec::new();
        }
        let mut found = Vec::new();
        for (outbox, delivery) in &deliveries.rows {
            let mut same = deliveries.rows.iter().filter(|(_, other)| other.chat == delivery.chat);
            let first = same.clone().next().map(|(first, _)| first);
            let alone = !same.any(|(_, other)| other.under_way);
            if delivery.chat.adapter == adapter && first == Some(outbox) && alone && delivery.due_ms <= now_ms {
                found.push((delivery.due_ms, *outbox));
            }
        }
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn finds_what_a_search_finds(steps in prop::collection::vec(step(), 1..80)) {
            let mut deliveries = Deliveries::default();
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Insert(place, due) => {
                        deliveries.insert(next, chat(place), None, due, 0);
                        next += 1;
                    }
                    Step::Begin(adapter, now) => {
                        let name = format!("adapter{adapter}");
                        let expect = sendable(&deliveries, &name, now).first().map(|(_, outbox)| *outbox);
                        prop_assert_eq!(deliveries.begin(&name, now, MOST).map(|(outbox, _)| outbox), expect);
                    }
                    Step::Ended(outbox) => deliveries.ended(outbox),
                    Step::Due(outbox, due) => deliveries.set_due(outbox, due),
                    Step::Remove(outbox) => { deliveries.remove(outbox); }
                    Step::Wake(place, now) => deliveries.wake(now, |known| *known == chat(place)),
                    Step::Readdress(outbox, new) => deliveries.readdress(outbox, &new.to_string()),
                    Step::Move(old, new) => deliveries.move_chat(&format!("adapter{}", old % 2), &old.to_string(), &new.to_string()),
                }
                let counted: usize = deliveries.under_way.values().sum();
                prop_assert_eq!(counted, deliveries.rows.values().filter(|delivery| delivery.under_way).count());
                prop_assert_eq!(deliveries.lines.values().map(|line| line.rows.len()).sum::<usize>(), deliveries.rows.len());
            }
        }
    }
}
