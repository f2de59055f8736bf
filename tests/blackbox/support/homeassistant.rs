//! A Home Assistant on loopback: what its people do, and what they see. Built field by field from what version 2024.3.3
//! sends; `homeassistant_server` speaks.

#![allow(dead_code)] // The general suite and the platform's own tests use different parts.

use super::http::Server;
use super::poll::{self, SOON};
use super::{homeassistant_server, websocket};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whom the tests allow.
pub const ANA: &str = "6c3f5fc8aa894a37ad46fc52d5ff95da";
/// Whose token the gateway has.
pub const GATEWAY: &str = "c4b056ea08284d009c15f3c3923cc4a8";
pub const CHAT: &str = "input_text.gate";
pub const EVENT: &str = "gate_message";
/// Microseconds since 1970 of the first change.
const BEGUN: i64 = 1_795_224_900_000_000;
/// Home Assistant, core: the longest state.
const STATE_CHARACTERS_MAX: usize = 255;

#[derive(Debug, Clone)]
pub struct Notification {
    pub id: String,
    pub title: Option<String>,
    pub message: String,
    /// How often it was made: more than once, it was edited.
    pub made: usize,
}

/// A subscription of one connection.
#[derive(Debug, Clone)]
pub enum Subscription {
    /// Of an event type; `None`: of all.
    Events(Option<String>),
    Trigger(BTreeSet<String>),
}

pub struct Client {
    pub number: usize,
    pub sender: websocket::Sender,
    pub subscriptions: Vec<(i64, Subscription)>,
}

/// A call of the REST interface.
#[derive(Debug, Clone)]
pub struct Call {
    /// `light.turn_on`, or the path.
    pub what: String,
    pub data: Value,
    pub status: u16,
}

pub struct State {
    pub token: String,
    pub refuse: bool,
    /// The gateway's address failed too often: nothing else is said to it.
    pub banned: bool,
    /// Statuses that services (`*`: whatever) answer with instead of doing anything.
    pub refusals: Vec<(String, u16, usize)>,
    pub states: BTreeMap<String, Value>,
    pub notifications: Vec<Notification>,
    pub clients: Vec<Client>,
    pub connects: usize,
    /// Commands of all connections, with the number of the connection.
    pub commands: Vec<(usize, Value)>,
    pub calls: Vec<Call>,
    /// Events that were sent, by what they were about; to be sent again.
    pub sent: BTreeMap<String, (Option<Value>, Value)>,
    /// Several messages in one frame.
    pub in_arrays: bool,
    pub without_pongs: bool,
    /// Commands that the user of the token may not give.
    pub forbidden: BTreeSet<String>,
    /// Entities into which the home writes when a service is called for another one.
    pub linked: BTreeMap<String, (String, String)>,
    clock: i64,
}

impl State {
    pub fn time(&mut self) -> String {
        self.clock += 1_337;
        let time = jiff::Timestamp::from_microsecond(BEGUN + self.clock).expect("a time");
        time.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
    }

    /// One that nothing else has.
    pub fn context(&mut self, user: Option<&str>, parent: Option<&str>) -> Value {
        self.clock += 1;
        json!({"id": format!("01M7XV{:020}", self.clock), "parent_id": parent, "user_id": user})
    }

    /// Changes a state and tells whoever has subscribed. → the new one
    pub fn set(&mut self, entity: &str, value: &str, context: &Value) -> Value {
        assert!(value.chars().count() <= STATE_CHARACTERS_MAX, "Home Assistant does not take such a state: {value}");
        let now = self.time();
        let old = self.states.get(entity).cloned();
        let same = old.as_ref().is_some_and(|old| old["state"] == value);
        let changed = if same { old.as_ref().expect("a state")["last_changed"].clone() } else { json!(now) };
        let attributes = old.as_ref().map_or_else(|| json!({}), |old| old["attributes"].clone());
        let new = json!({
            "entity_id": entity, "state": value, "attributes": attributes,
            "last_changed": changed, "last_updated": now, "context": context,
        });
        self.states.insert(entity.to_owned(), new.clone());
        self.tell_change(old, new.clone());
        new
    }

    /// Sends a change to those who want it.
    pub fn tell_change(&mut self, old: Option<Value>, new: Value) {
        let entity = new["entity_id"].as_str().expect("an entity").to_owned();
        let attributes_only = old.as_ref().is_some_and(|old| old["state"] == new["state"]);
        let mut messages = Vec::new();
        for (place, client) in self.clients.iter().enumerate() {
            for (id, subscription) in &client.subscriptions {
                let message = match subscription {
                    Subscription::Events(kind) if kind.as_ref().is_none_or(|kind| kind == "state_changed") => {
                        let data = json!({"entity_id": entity, "old_state": old, "new_state": new});
                        let event = json!({
                            "event_type": "state_changed", "data": data, "origin": "LOCAL",
                            "time_fired": new["last_updated"], "context": new["context"],
                        });
                        json!({"id": id, "type": "event", "event": event})
                    }
                    Subscription::Trigger(entities) if entities.contains(&entity) && !attributes_only => {
                        let trigger = json!({
                            "id": "0", "idx": "0", "alias": null, "platform": "state", "entity_id": entity,
                            "from_state": old, "to_state": new, "for": null, "attribute": null,
                            "description": format!("state of {entity}"),
                        });
                        let event = json!({"variables": {"trigger": trigger}, "context": new["context"]});
                        json!({"id": id, "type": "event", "event": event})
                    }
                    _ => continue,
                };
                messages.push((place, message));
            }
        }
        self.sent.insert(new["last_updated"].as_str().expect("a time").to_owned(), (old, new));
        for (place, message) in messages {
            self.deliver(place, &message);
        }
    }

    pub fn fire(&mut self, kind: &str, data: &Value, context: &Value) {
        let time = self.time();
        let event = json!({"event_type": kind, "data": data, "origin": "REMOTE", "time_fired": time, "context": context});
        let wants = |subscription: &Subscription| matches!(subscription, Subscription::Events(wanted) if wanted.as_ref().is_none_or(|wanted| wanted == kind));
        let mut messages = Vec::new();
        for (place, client) in self.clients.iter().enumerate() {
            for (id, _) in client.subscriptions.iter().filter(|(_, subscription)| wants(subscription)) {
                messages.push((place, json!({"type": "event", "event": event, "id": id})));
            }
        }
        for (place, message) in messages {
            self.deliver(place, &message);
        }
    }

    pub fn deliver(&self, place: usize, message: &Value) {
        let text = match self.in_arrays {
            true => json!([{"id": 999_999, "type": "pong"}, 7, message, {"type": "something_new"}]).to_string(),
            false => message.to_string(),
        };
        self.clients[place].sender.text(&text);
    }
}

/// The fake server.
pub struct HomeAssistant {
    pub shared: Arc<Mutex<State>>,
    pub server: Server,
}

impl HomeAssistant {
    pub fn start() -> Self {
        // Each has a token of its own: gateways of tests that run at the same time must not compete for a credential.
        let token: String = std::iter::repeat_with(fastrand::alphanumeric).take(140).collect();
        let state = State {
            token: format!("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.{token}"),
            refuse: false,
            banned: false,
            refusals: Vec::new(),
            states: BTreeMap::new(),
            notifications: Vec::new(),
            clients: Vec::new(),
            connects: 0,
            commands: Vec::new(),
            calls: Vec::new(),
            sent: BTreeMap::new(),
            in_arrays: false,
            without_pongs: false,
            forbidden: BTreeSet::new(),
            linked: BTreeMap::new(),
            clock: 0,
        };
        let shared = Arc::new(Mutex::new(state));
        let copy = Arc::clone(&shared);
        let server = Server::start(move |request, connection| homeassistant_server::serve(&copy, request, connection));
        let home = Self { shared, server };
        for (entity, name, value, more) in [
            (CHAT, "Gate", "unknown", json!({"editable": false, "min": 0, "max": 255, "pattern": null, "mode": "text"})),
            ("binary_sensor.kitchen", "Kitchen", "off", json!({"device_class": "motion"})),
            ("binary_sensor.front", "Front door", "off", json!({"device_class": "door"})),
            ("sensor.cellar", "Cellar", "19.5", json!({"unit_of_measurement": "°C", "device_class": "temperature"})),
            ("light.kitchen", "Kitchen lamp", "off", json!({"supported_color_modes": ["onoff"]})),
            ("lock.front", "Front lock", "locked", json!({})),
            ("input_boolean.guests", "Guests", "off", json!({"editable": true})),
            ("person.ana", "Ana Li", "home", json!({"user_id": ANA, "id": "ana"})),
        ] {
            home.add(entity, name, value, more);
        }
        home
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn token(&self) -> String {
        self.lock().token.clone()
    }

    // --- what happens in the home ---

    pub fn add(&self, entity: &str, name: &str, value: &str, mut attributes: Value) {
        let mut state = self.lock();
        attributes["friendly_name"] = json!(name);
        let (time, context) = (state.time(), state.context(None, None));
        let new = json!({
            "entity_id": entity, "state": value, "attributes": attributes,
            "last_changed": time, "last_updated": time, "context": context,
        });
        state.states.insert(entity.to_owned(), new.clone());
        state.tell_change(None, new);
    }

    /// Somebody, or nobody in particular, changes a state. → what tells this change from others
    pub fn set_as(&self, user: Option<&str>, entity: &str, value: &str) -> String {
        let mut state = self.lock();
        let context = state.context(user, None);
        let new = state.set(entity, value, &context);
        new["last_updated"].as_str().expect("a time").to_owned()
    }
    pub fn set(&self, entity: &str, value: &str) -> String {
        self.set_as(None, entity, value)
    }
    pub fn types(&self, text: &str) -> String {
        self.set_as(Some(ANA), CHAT, text)
    }
    pub fn fires_as(&self, user: Option<&str>, data: &Value) {
        let mut state = self.lock();
        let context = state.context(user, None);
        state.fire(EVENT, data, &context);
    }

    /// Sends a change once more.
    pub fn send_again(&self, change: &str) {
        let mut state = self.lock();
        let (old, new) = state.sent.get(change).cloned().expect("a change that was sent");
        state.tell_change(old, new);
    }

    /// As after a restart: each state is there as it was, restored by nobody at a later time.
    pub fn restores_everything(&self) {
        let mut state = self.lock();
        let time = state.time();
        let context = state.context(None, None);
        for known in state.states.values_mut() {
            known["last_changed"] = json!(time);
            known["last_updated"] = json!(time);
            known["context"] = context.clone();
        }
    }

    /// The next `count` calls of a service answer with this status.
    pub fn fail(&self, service: &str, status: u16, count: usize) {
        self.lock().refusals.push((service.to_owned(), status, count));
    }

    /// The token is revoked: whoever is connected with it is thrown out.
    pub fn revoke(&self) {
        let mut state = self.lock();
        state.refuse = true;
        for client in state.clients.drain(..) {
            client.sender.close(1000, "");
            client.sender.cut();
        }
    }

    // --- what there is to see ---

    pub fn notifications(&self) -> Vec<Notification> {
        self.lock().notifications.clone()
    }
    pub fn texts(&self) -> Vec<String> {
        self.notifications().into_iter().map(|notification| notification.message).collect()
    }
    pub fn value(&self, entity: &str) -> String {
        self.lock().states[entity]["state"].as_str().expect("a state").to_owned()
    }
    pub fn calls(&self, service: &str) -> Vec<Call> {
        self.lock().calls.iter().filter(|call| call.what == service).cloned().collect()
    }
    /// Commands of one connection.
    pub fn commands(&self, connection: usize) -> Vec<Value> {
        self.lock().commands.iter().filter(|(number, _)| *number == connection).map(|(_, command)| command.clone()).collect()
    }

    pub fn wait<T>(&self, what: &str, mut ask: impl FnMut(&State) -> Option<T>) -> T {
        self.wait_within(SOON, what, &mut ask)
    }
    pub fn wait_within<T>(&self, within: Duration, what: &str, mut ask: impl FnMut(&State) -> Option<T>) -> T {
        let seen = poll::try_for(within, Duration::from_millis(10), || ask(&self.lock()));
        seen.unwrap_or_else(|| {
            let state = self.lock();
            panic!(
                "{what}: not seen within {within:?}\nnotifications: {:#?}\ncalls: {:#?}\ncommands: {:#?}",
                state.notifications, state.calls, state.commands
            )
        })
    }
    pub fn wait_text(&self, part: &str) -> Notification {
        let found = |state: &State| state.notifications.iter().find(|notification| notification.message.contains(part)).cloned();
        self.wait(&format!("a notification with {part:?}"), found)
    }
}
