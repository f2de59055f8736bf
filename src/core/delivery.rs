//! What is to be delivered, when, in which order: one message at a time a chat.

use super::event::{Delivered, Effect, Level, StoreFault};
use super::record::{Op, Outcome};
use super::types::{AdapterName, AdapterState, ChatRef, InboxId, Outbound, OutboundKind, OutboxId, TurnId};
use super::{Core, Pending, RequestId};
use crate::limits;
use std::collections::{BTreeMap, HashSet};

/// An outbox row that is not delivered yet.
#[derive(Debug)]
pub(super) struct Delivery {
    pub chat: ChatRef,
    /// Whose reply it is: the sender knows the preview it replaces.
    turn: Option<TurnId>,
    due_ms: u64,
    attempts: u32,
    in_flight: bool,
}

/// 2 s, 4 s, 8 s … at most five minutes.
fn backoff_ms(attempts: u32) -> u64 {
    (1000 << attempts.clamp(1, 9)).min(300_000)
}

impl Core {
    pub(super) fn expect_delivery(&mut self, outbox: OutboxId, chat: ChatRef, turn: Option<TurnId>, not_before_ms: i64, attempts: u32) {
        // A wall clock that jumped must not hold a message for years.
        let wait_ms = u64::try_from(not_before_ms.saturating_sub(self.now.wall_ms)).unwrap_or(0).min(limits::SEND_RETRY_MS_MAX);
        let due_ms = self.now.mono_ms + wait_ms;
        self.deliveries.insert(outbox, Delivery { chat, turn, due_ms, attempts, in_flight: false });
    }

    /// Hands due messages to the senders: in order within a chat, a few at a time for each adapter.
    pub(super) fn deliver_due(&mut self) {
        if matches!(self.phase, super::Phase::Leaving { .. }) {
            return;
        }
        let now_ms = self.now.mono_ms;
        let mut busy_chats: HashSet<&ChatRef> = HashSet::new();
        let mut in_flight: BTreeMap<&str, usize> = BTreeMap::new();
        for delivery in self.deliveries.values().filter(|delivery| delivery.in_flight) {
            *in_flight.entry(&delivery.chat.adapter).or_default() += 1;
        }
        let mut chosen = Vec::new();
        for (outbox, delivery) in &self.deliveries {
            let first_of_chat = busy_chats.insert(&delivery.chat);
            let connected = self.adapters.get(&delivery.chat.adapter).is_some_and(|adapter| adapter.state == AdapterState::Connected);
            let under_way = in_flight.entry(&delivery.chat.adapter).or_default();
            if first_of_chat && connected && !delivery.in_flight && delivery.due_ms <= now_ms && *under_way < limits::SENDER_QUEUE_MAX {
                *under_way += 1;
                chosen.push(*outbox);
            }
        }
        for outbox in chosen {
            if let Some(delivery) = self.deliveries.get_mut(&outbox) {
                delivery.in_flight = true;
                self.effects.push(Effect::Deliver { adapter: delivery.chat.adapter.clone(), outbox, turn: delivery.turn });
            }
        }
    }

    pub(super) fn deliveries_due_ms(&self) -> impl Iterator<Item = u64> {
        let waits_for_time = |delivery: &&super::delivery::Delivery| {
            let connected = self.adapters.get(&delivery.chat.adapter).is_some_and(|adapter| adapter.state == AdapterState::Connected);
            connected && !delivery.in_flight && delivery.due_ms > self.now.mono_ms
        };
        self.deliveries.values().filter(waits_for_time).map(|delivery| delivery.due_ms)
    }

    /// Whether a drain has something to wait for.
    pub(super) fn delivering(&self) -> bool {
        self.deliveries.values().any(|delivery| delivery.in_flight)
    }

    pub(super) fn delivered(&mut self, adapter: &AdapterName, outbox: OutboxId, result: Delivered) {
        let Some(delivery) = self.deliveries.get_mut(&outbox) else { return };
        delivery.in_flight = false;
        let chat = delivery.chat.session();
        match result {
            Delivered::Sent => {
                self.deliveries.remove(&outbox);
                if let Some(adapter) = self.adapters.get_mut(adapter) {
                    adapter.sent += 1;
                }
            }
            Delivered::Retry { cause, after_ms } => {
                delivery.attempts += 1;
                let wait_ms = after_ms.unwrap_or_else(|| backoff_ms(delivery.attempts)).min(limits::SEND_RETRY_MS_MAX);
                delivery.due_ms = self.now.mono_ms + wait_ms;
                let attempts = delivery.attempts;
                if attempts >= limits::SEND_ATTEMPTS_MAX {
                    self.give_up(outbox, &format!("{cause} ({attempts} attempts)"));
                } else {
                    let not_before_ms = self.now.wall_ms.saturating_add(i64::try_from(wait_ms).unwrap_or(i64::MAX));
                    self.store(Op::MarkRetry { outbox, not_before_ms, error: cause.clone() }, Pending::Attempt);
                    self.log(
                        Level::Warn,
                        adapter,
                        format!("message {outbox} to {chat} not sent: {cause}; next try in {} s", wait_ms.div_ceil(1000)),
                    );
                }
            }
            Delivered::Ambiguous { cause, repeated: false } => {
                delivery.due_ms = self.now.mono_ms + backoff_ms(1);
                self.log(Level::Warn, adapter, format!("message {outbox} to {chat} may or may not have been delivered: {cause}"));
            }
            Delivered::Ambiguous { cause, repeated: true } => self.give_up(outbox, &format!("{cause}; twice not confirmed")),
            Delivered::Reject { cause } => self.give_up(outbox, &cause),
            Delivered::Fatal { cause, remedy } => {
                delivery.due_ms = self.now.mono_ms + backoff_ms(3);
                self.adapter_failed(adapter, &cause, &remedy);
            }
            Delivered::Moved { chat: new } => {
                let old = delivery.chat.chat.clone();
                self.store(
                    Op::MarkRetry { outbox, not_before_ms: self.now.wall_ms, error: "the chat has another id".to_owned() },
                    Pending::Attempt,
                );
                delivery_to(&mut self.deliveries, outbox, &new);
                // Again even if the move is known: this row was written to the old id after it.
                self.store(Op::MoveChat { adapter: adapter.clone(), old: old.clone(), new: new.clone() }, Pending::Note);
                self.chat_moved(adapter, &old, &new);
            }
            Delivered::Untried => delivery.due_ms = self.now.mono_ms + 1000,
        }
    }

    /// The message becomes a dead letter.
    fn give_up(&mut self, outbox: OutboxId, cause: &str) {
        if let Some(delivery) = self.deliveries.remove(&outbox) {
            let text = format!("message {outbox} to {} cannot be delivered: {cause}; kept as a dead letter", delivery.chat.session());
            self.log(Level::Error, &delivery.chat.adapter, text);
            self.store(Op::MarkFailed { outbox, error: cause.to_owned() }, Pending::Note);
        }
    }

    /// The platform can be reached again: what waited for that is tried at once.
    pub(super) fn wake_deliveries(&mut self, adapter: &AdapterName) {
        let now_ms = self.now.mono_ms;
        for delivery in self.deliveries.values_mut().filter(|delivery| delivery.chat.adapter == *adapter) {
            delivery.due_ms = delivery.due_ms.min(now_ms);
        }
    }

    pub(super) fn attached(&mut self, chat: &ChatRef) {
        let now_ms = self.now.mono_ms;
        for delivery in self.deliveries.values_mut().filter(|delivery| delivery.chat == *chat) {
            delivery.due_ms = delivery.due_ms.min(now_ms);
        }
    }

    pub(super) fn send_requested(&mut self, request: RequestId, chat: ChatRef, text: String) {
        let refusal = if !self.adapters.contains_key(&chat.adapter) {
            let names: Vec<&str> = self.adapters.keys().map(String::as_str).collect();
            Some(format!("no adapter is called `{}`; there are: {}", chat.adapter, names.join(", ")))
        } else if self.deliveries.len() >= limits::OUTBOX_PENDING_MAX {
            Some(format!("the outbox is full ({} messages)", limits::OUTBOX_PENDING_MAX))
        } else if text.trim().is_empty() {
            Some("the text is empty".to_owned())
        } else {
            None
        };
        if let Some(text) = refusal {
            self.effects.push(Effect::Respond { request, result: Err(text) });
            return;
        }
        let message =
            Outbound { chat: chat.clone(), kind: OutboundKind::Direct, text, reply_to: None, replaces: None, buttons: Vec::new() };
        let op = Op::Enqueue { messages: vec![message], dedupe: None, now_ms: self.now.wall_ms };
        self.store(op, Pending::Enqueue { request: Some(request), chats: vec![chat], close: None });
    }

    pub(super) fn enqueued(
        &mut self,
        request: Option<RequestId>,
        chats: &[ChatRef],
        close: Option<InboxId>,
        result: Result<Outcome, StoreFault>,
    ) {
        let result = match result {
            Ok(Outcome::Queued(queued)) => {
                let first = queued.first().copied();
                for (outbox, chat) in queued.into_iter().zip(chats) {
                    self.expect_delivery(outbox, chat.clone(), None, 0, 0);
                }
                if let Some(inbox) = close {
                    self.store(Op::CloseInbox { inbox }, Pending::Note);
                }
                first.map(|outbox| outbox.to_string()).ok_or_else(|| "it had been queued before".to_owned())
            }
            Ok(_) | Err(_) => Err("the store takes nothing at the moment (disk full or failing?)".to_owned()),
        };
        if let Some(request) = request {
            self.effects.push(Effect::Respond { request, result });
        }
    }
}

fn delivery_to(deliveries: &mut BTreeMap<OutboxId, Delivery>, outbox: OutboxId, chat: &str) {
    if let Some(delivery) = deliveries.get_mut(&outbox) {
        chat.clone_into(&mut delivery.chat.chat);
    }
}
