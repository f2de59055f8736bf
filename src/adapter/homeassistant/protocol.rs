//! What is said on the WebSocket and what an answer means. Pure.
//!
//! Commands have numbers that must grow within a connection (Home Assistant, WebSocket API: `id_reuse`). Whatever is
//! answered or delivered names the number of its command, and [`Session`] knows what each was for.

use super::ledger::{News, Observation};
use super::watch::{Watch, domain};
use super::wire::{Envelope, Event, Failure, State};
use crate::adapter::rest::readable;
use crate::core::types::{ChatRef, Inbound};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The chat of what is told about the home, and the user who tells it.
pub(super) const NEWS_CHAT: &str = "ha_events";
pub(super) const NEWS_SENDER: &str = "homeassistant";
/// Who speaks when no user stands behind a message: an automation, a script.
pub(super) const AUTOMATION: &str = "automation";

/// What a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    Me,
    /// Changes of the entities that are named.
    Trigger,
    /// Changes of all entities.
    Changes,
    /// Events of one type.
    Events(String),
    States,
    Ping,
}

/// What a message of the server means.
#[derive(Debug)]
pub(super) enum Heard<'a> {
    Authenticate,
    Welcome(String),
    Unwelcome(String),
    /// A command was carried out.
    Done(Purpose, Option<&'a RawValue>),
    Failed(Purpose, Failure),
    /// From which state, unless the entity is new.
    Changed {
        from: Option<String>,
        to: Box<State>,
    },
    Said(String, Box<Event>),
    Pong,
    Nothing(&'static str),
}

#[derive(Default)]
pub(super) struct Session {
    last_id: i64,
    purposes: BTreeMap<i64, Purpose>,
    /// Commands that are not answered yet, but for pings.
    open: usize,
    /// The ping that waits for its pong.
    ping: Option<i64>,
}

impl Session {
    fn command(&mut self, purpose: Purpose, mut body: Value) -> String {
        self.last_id += 1;
        body["id"] = json!(self.last_id);
        self.open += 1;
        self.purposes.insert(self.last_id, purpose);
        body.to_string()
    }

    pub fn who_am_i(&mut self) -> String {
        self.command(Purpose::Me, json!({"type": "auth/current_user"}))
    }

    /// Everything that is to be listened to, and last the states as they are: nothing can happen unseen in between.
    pub fn subscriptions(&mut self, watch: &Watch) -> Vec<String> {
        let mut commands = Vec::new();
        match watch.named() {
            Some(entities) if entities.is_empty() => {}
            Some(entities) => {
                // `"to": null`: any change of the state, but not of an attribute (Home Assistant, state trigger).
                let trigger = json!({"platform": "state", "entity_id": entities, "to": null});
                commands.push(self.command(Purpose::Trigger, json!({"type": "subscribe_trigger", "trigger": trigger})));
            }
            None => commands.push(self.all_changes()),
        }
        for event in &watch.events {
            let body = json!({"type": "subscribe_events", "event_type": event});
            commands.push(self.command(Purpose::Events(event.clone()), body));
        }
        if watch.named().is_none_or(|entities| !entities.is_empty()) {
            commands.push(self.command(Purpose::States, json!({"type": "get_states"})));
        }
        commands
    }

    /// For users who may not subscribe to triggers, which takes an administrator.
    pub fn all_changes(&mut self) -> String {
        self.command(Purpose::Changes, json!({"type": "subscribe_events", "event_type": "state_changed"}))
    }

    pub fn ping(&mut self) -> String {
        let body = self.command(Purpose::Ping, json!({"type": "ping"}));
        self.open -= 1;
        self.purposes.remove(&self.last_id);
        self.ping = Some(self.last_id);
        body
    }

    /// Everything but a ping has been answered.
    pub fn settled(&self) -> bool {
        self.open == 0
    }

    pub fn take<'a>(&mut self, message: &Envelope<'a>) -> Heard<'a> {
        match message.kind.as_deref().unwrap_or_default() {
            "auth_required" => Heard::Authenticate,
            "auth_ok" => Heard::Welcome(message.ha_version.clone().unwrap_or_default()),
            "auth_invalid" => Heard::Unwelcome(message.message.clone().unwrap_or_default()),
            "result" => self.result(message),
            "event" => self.event(message),
            "pong" if message.id.is_some() && message.id == self.ping => {
                self.ping = None;
                Heard::Pong
            }
            "pong" => Heard::Nothing("a pong that nobody waits for"),
            _ => Heard::Nothing("a message of an unknown type"),
        }
    }

    fn result<'a>(&mut self, message: &Envelope<'a>) -> Heard<'a> {
        let Some(purpose) = message.id.and_then(|id| self.purposes.get(&id)).cloned() else {
            return Heard::Nothing("a result of a command that was not given");
        };
        self.open = self.open.saturating_sub(1);
        match message.success {
            Some(true) => Heard::Done(purpose, message.result),
            _ => Heard::Failed(purpose, message.error.clone().unwrap_or_default()),
        }
    }

    fn event<'a>(&self, message: &Envelope<'a>) -> Heard<'a> {
        let event = message.event.and_then(|event| serde_json::from_str::<Event>(event.get()).ok());
        let (Some(purpose), Some(mut event)) = (message.id.and_then(|id| self.purposes.get(&id)), event) else {
            return Heard::Nothing("an event without a subscription or a body");
        };
        let (from, to) = match purpose {
            Purpose::Trigger => event.variables.and_then(|variables| variables.trigger).map(|it| (it.from_state, it.to_state)),
            Purpose::Changes => event.data.map(|data| (data.old_state, data.new_state)),
            Purpose::Events(kind) => {
                let kind = event.event_type.take().unwrap_or_else(|| kind.clone());
                return Heard::Said(kind, Box::new(event));
            }
            _ => None,
        }
        .unwrap_or_default();
        match to {
            None => Heard::Nothing("an entity was removed"),
            // Only an attribute has changed.
            Some(to) if from.as_ref().is_some_and(|from| from.state.is_some() && from.state == to.state) => {
                Heard::Nothing("a change of an attribute")
            }
            Some(to) => Heard::Changed { from: from.and_then(|from| from.state), to: Box::new(to) },
        }
    }
}

/// Where and by whom something is said.
pub(super) struct Speaker<'a> {
    pub adapter: &'a str,
    /// Names of users by their ids.
    pub names: &'a BTreeMap<String, String>,
}

impl Speaker<'_> {
    fn inbound(&self, chat: &str, message_id: String, user: Option<&str>, text: String, sent_ms: i64) -> Inbound {
        let sender = user.unwrap_or(AUTOMATION);
        let sender_name = self.names.get(sender).cloned().unwrap_or_else(|| sender.to_owned());
        let chat = ChatRef { adapter: self.adapter.to_owned(), chat: chat.to_owned(), thread: None };
        Inbound {
            chat,
            message_id,
            sender: sender.to_owned(),
            sender_name,
            text,
            attachments: Vec::new(),
            quote: None,
            private: true,
            addressed: true,
            sent_ms,
        }
    }

    /// What was typed into an entity.
    pub fn typed(&self, now: &Observation, wall_ms: i64) -> Inbound {
        let sent_ms = if now.changed_us > 0 { now.changed_us / 1000 } else { wall_ms };
        let user = now.context.user_id.as_deref().filter(|user| !user.is_empty());
        self.inbound(&now.entity, now.message_id(), user, now.value.clone(), sent_ms)
    }

    /// What an event of one's own says. `None` without a text.
    pub fn fired(&self, kind: &str, event: &Event, wall_ms: i64) -> Option<Inbound> {
        let text = event.data.as_ref()?.text.clone().filter(|text| !text.trim().is_empty())?;
        let context = event.context.clone().unwrap_or_default();
        let fired = event.time_fired.clone().unwrap_or_default();
        let sent_ms = super::wire::time_us(&fired).map_or(wall_ms, |us| us / 1000);
        let id = match (&context.id, fired.is_empty()) {
            // Nothing tells two of them apart but the time they come.
            (None, true) => format!("-/{kind}/{wall_ms}"),
            (id, _) => format!("{}/{kind}/{fired}", id.as_deref().unwrap_or("-")),
        };
        Some(self.inbound(kind, id, context.user_id.as_deref().filter(|user| !user.is_empty()), text, sent_ms))
    }

    /// What is told of the home.
    pub fn told(&self, news: &News, wall_ms: i64) -> Inbound {
        let now = &news.now;
        let sent_ms = if now.changed_us > 0 { now.changed_us / 1000 } else { wall_ms };
        let inbound = self.inbound(NEWS_CHAT, now.message_id(), Some(NEWS_SENDER), told(news), sent_ms);
        Inbound { sender_name: "Home Assistant".to_owned(), ..inbound }
    }
}

/// `[Home Assistant] Kitchen: triggered (was cleared) · binary_sensor.kitchen`
pub(super) fn told(news: &News) -> String {
    let now = &news.now;
    let value = |value: &str| phrase(domain(&now.entity), now.class.as_deref(), now.unit.as_deref(), &readable(value, 255));
    let name = now.name.as_deref().map_or_else(|| now.entity.clone(), |name| readable(name, 100));
    format!("[Home Assistant] {name}: {} (was {}) · {}", value(&now.value), value(&news.was), now.entity)
}

/// A state as a person says it (Home Assistant, binary sensor: what `on` means by device class).
fn phrase(domain: &str, class: Option<&str>, unit: Option<&str>, value: &str) -> String {
    let opens = matches!(class, Some("door" | "window" | "garage_door" | "opening"));
    match (domain, value, unit) {
        ("binary_sensor", "on", _) if opens => "open".to_owned(),
        ("binary_sensor", "off", _) if opens => "closed".to_owned(),
        ("binary_sensor", "on", _) => "triggered".to_owned(),
        ("binary_sensor", "off", _) => "cleared".to_owned(),
        (_, _, Some(unit)) if !unit.is_empty() => format!("{value} {}", readable(unit, 20)),
        _ => value.to_owned(),
    }
}
