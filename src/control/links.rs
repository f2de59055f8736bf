//! How the threads of adapters and turns talk to control: implementations of their interfaces over the lanes.

use super::lanes::{Lanes, Message};
use crate::adapter::{Events, Preview, sender};
use crate::agent::turn::TurnEvents;
use crate::clock;
use crate::core::event::{AdapterEvent, Delivered, Event, TurnEvent};
use crate::core::types::{AdapterName, ChatRef, Inbound, InboxId, OutboxId, Receipt, TurnId};
use crate::thread::{CancelToken, Cancelled};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One generation of an adapter's threads.
pub struct AdapterLink {
    pub lanes: Lanes,
    pub name: AdapterName,
    pub generation: u64,
    /// What a message waits for at the longest.
    pub token: CancelToken,
    /// [`clock::mono_ms`] of what was heard last.
    pub heard: Arc<AtomicU64>,
    pub connected: AtomicBool,
}

impl AdapterLink {
    fn event(&self, what: AdapterEvent) -> Event {
        Event::Adapter { name: self.name.clone(), generation: self.generation, what }
    }

    pub fn tell(&self, what: AdapterEvent) {
        self.lanes.event(self.event(what));
    }

    /// Whether the last connection had come up; asked once per connection.
    pub fn was_connected(&self) -> bool {
        self.connected.swap(false, Ordering::SeqCst)
    }
}

/// The trait is implemented for the shared pointer because the runner keeps one, too.
pub struct SharedLink(pub Arc<AdapterLink>);

impl Events for SharedLink {
    fn message(&self, inbound: Inbound, receipt: Receipt) -> Result<(), Cancelled> {
        self.heard();
        let event = self.0.event(AdapterEvent::Message { inbound: Box::new(inbound), receipt });
        self.0.lanes.normal(Message::Core(event), &self.0.token)
    }

    fn connected(&self, identity: &str) {
        self.heard();
        if !self.0.connected.swap(true, Ordering::SeqCst) {
            self.0.tell(AdapterEvent::Connected { identity: identity.to_owned() });
        }
    }

    fn heard(&self) {
        self.0.heard.store(clock::mono_ms(), Ordering::Relaxed);
    }

    fn retrying(&self, cause: &str, attempt: u32, next: Duration) {
        let next_ms = u64::try_from(next.as_millis()).unwrap_or(u64::MAX);
        self.0.tell(AdapterEvent::Retrying { cause: cause.to_owned(), attempt, next_ms });
    }

    fn moved(&self, old: &str, new: &str) {
        self.0.tell(AdapterEvent::Moved { old: old.to_owned(), new: new.to_owned() });
    }
}

/// What a sending thread reports.
pub struct SenderReport(pub Arc<AdapterLink>);

impl sender::Report for SenderReport {
    fn delivered(&self, outbox: OutboxId, result: Delivered) {
        if result == Delivered::Sent {
            self.0.heard.store(clock::mono_ms(), Ordering::Relaxed);
        }
        let event = Event::Delivered { adapter: self.0.name.clone(), outbox, result };
        self.0.lanes.urgent(Message::Delivered { generation: self.0.generation, event });
    }

    fn preview_shown(&self, turn: TurnId, platform_id: &str) {
        self.0.tell(AdapterEvent::PreviewShown { turn, platform_id: platform_id.to_owned() });
    }
}

/// How often control hears of a turn's text, which it keeps for the case that the turn is cancelled.
const TEXT_INTERVAL: Duration = Duration::from_millis(250);

/// One running turn.
pub struct TurnLink {
    pub lanes: Lanes,
    pub turn: TurnId,
    pub token: CancelToken,
    pub chat: ChatRef,
    /// Where previews go; `None`: the adapter shows none.
    pub mailbox: Option<Arc<sender::Mailbox>>,
    pub told: Mutex<Option<Instant>>,
}

impl TurnEvents for TurnLink {
    fn preview(&self, preview: &Preview) {
        let Some(mailbox) = &self.mailbox else { return };
        if self.token.is_cancelled() {
            return;
        }
        mailbox.preview(self.turn, &self.chat, preview.clone());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TEXT_INTERVAL) {
            *told = Some(clock::now());
            let what = TurnEvent::Progress { text: preview.text.clone() };
            self.lanes.lossy(Message::Core(Event::Turn { turn: self.turn, what }));
        }
    }

    fn adopted(&self, inbox: Vec<InboxId>) {
        self.lanes.event(Event::Turn { turn: self.turn, what: TurnEvent::Adopted { inbox } });
    }

    fn ask(&self, what: &str, why: &str) {
        let what = TurnEvent::Ask { what: what.to_owned(), why: why.to_owned() };
        self.lanes.event(Event::Turn { turn: self.turn, what });
    }
}
