//! What is to be delivered, when, in which order: one message at a time a chat.

use super::event::{Delivered, Effect, Level, StoreFault};
use super::record::{Op, Outcome};
use super::types::{AdapterName, ChatRef, InboxId, Outbound, OutboundKind, OutboxId, TurnId};
use super::{Core, Pending, RequestId};
use crate::limits;

/// 2 s, 4 s, 8 s … at most five minutes.
fn backoff_ms(attempts: u32) -> u64 {
    (1000 << attempts.clamp(1, 9)).min(300_000)
}

impl Core {
    pub(super) fn expect_delivery(&mut self, outbox: OutboxId, chat: ChatRef, turn: Option<TurnId>, not_before_ms: i64, attempts: u32) {
        // A wall clock that jumped must not hold a message for years.
        let wait_ms = u64::try_from(not_before_ms.saturating_sub(self.now.wall_ms)).unwrap_or(0).min(limits::SEND_RETRY_MS_MAX);
        let due_ms = self.now.mono_ms + wait_ms;
        self.deliveries.insert(outbox, chat, turn, due_ms, attempts);
    }

    /// Hands due messages to the senders: in order within a chat, a few at a time for each adapter.
    pub(super) fn deliver_due(&mut self) {
        if matches!(self.phase, super::Phase::Leaving { .. }) {
            return;
        }
        for (name, _) in self.adapters.iter().filter(|(_, adapter)| adapter.is_connected()) {
            while let Some((outbox, turn)) = self.deliveries.begin(name, self.now.mono_ms, limits::SENDER_QUEUE_MAX) {
                self.effects.push(Effect::Deliver { adapter: name.clone(), outbox, turn });
            }
        }
    }

    pub(super) fn deliveries_due_ms(&self) -> impl Iterator<Item = u64> {
        let connected = self.adapters.iter().filter(|(_, adapter)| adapter.is_connected());
        connected.filter_map(|(name, _)| self.deliveries.due_ms(name, self.now.mono_ms))
    }

    /// Whether a drain has something to wait for.
    pub(super) fn delivering(&self) -> bool {
        self.deliveries.any_under_way()
    }

    pub(super) fn delivered(&mut self, adapter: &AdapterName, outbox: OutboxId, result: Delivered) {
        let Some(chat) = self.deliveries.chat(outbox).cloned() else { return };
        self.deliveries.ended(outbox);
        let session = chat.session();
        let now_ms = self.now.mono_ms;
        match result {
            Delivered::Sent => {
                self.deliveries.remove(outbox);
                if let Some(adapter) = self.adapters.get_mut(adapter) {
                    adapter.sent += 1;
                }
            }
            Delivered::Retry { cause, after_ms } => {
                let attempts = self.deliveries.failed(outbox);
                let wait_ms = after_ms.unwrap_or_else(|| backoff_ms(attempts)).min(limits::SEND_RETRY_MS_MAX);
                self.deliveries.set_due(outbox, now_ms + wait_ms);
                if attempts >= limits::SEND_ATTEMPTS_MAX {
                    self.give_up(outbox, &format!("{cause} ({attempts} attempts)"));
                } else {
                    let not_before_ms = self.now.wall_ms.saturating_add(i64::try_from(wait_ms).unwrap_or(i64::MAX));
                    self.store(Op::MarkRetry { outbox, not_before_ms, error: cause.clone() }, Pending::Attempt);
                    self.log(
                        Level::Warn,
                        adapter,
                        format!("message {outbox} to {session} not sent: {cause}; next try in {} s", wait_ms.div_ceil(1000)),
                    );
                }
            }
            Delivered::Ambiguous { cause, repeated: false } => {
                self.deliveries.set_due(outbox, now_ms + backoff_ms(1));
                self.log(Level::Warn, adapter, format!("message {outbox} to {session} may or may not have been delivered: {cause}"));
            }
            Delivered::Ambiguous { cause, repeated: true } => self.give_up(outbox, &format!("{cause}; twice not confirmed")),
            Delivered::Reject { cause } => self.give_up(outbox, &cause),
            Delivered::Fatal { cause, remedy } => {
                self.deliveries.set_due(outbox, now_ms + backoff_ms(3));
                self.sender_failed(adapter, &cause, &remedy);
            }
            Delivered::Moved { chat: new } => {
                let old = chat.chat;
                self.store(
                    Op::MarkRetry { outbox, not_before_ms: self.now.wall_ms, error: "the chat has another id".to_owned() },
                    Pending::Attempt,
                );
                self.deliveries.readdress(outbox, &new);
                // Again even if the move is known: this row was written to the old id after it.
                self.store(Op::MoveChat { adapter: adapter.clone(), old: old.clone(), new: new.clone() }, Pending::Note);
                self.chat_moved(adapter, &old, &new);
            }
            Delivered::Untried => self.deliveries.set_due(outbox, now_ms + 1000),
        }
    }

    /// The message becomes a dead letter.
    fn give_up(&mut self, outbox: OutboxId, cause: &str) {
        if let Some(chat) = self.deliveries.remove(outbox) {
            let text = format!("message {outbox} to {} cannot be delivered: {cause}; kept as a dead letter", chat.session());
            self.log(Level::Error, &chat.adapter, text);
            self.store(Op::MarkFailed { outbox, error: cause.to_owned() }, Pending::Note);
        }
    }

    /// The platform can be reached again: what waited for that is tried at once.
    pub(super) fn wake_deliveries(&mut self, adapter: &AdapterName) {
        self.deliveries.wake(self.now.mono_ms, |chat| chat.adapter == *adapter);
    }

    pub(super) fn attached(&mut self, chat: &ChatRef) {
        self.deliveries.wake(self.now.mono_ms, |known| known == chat);
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
