//! What a Home Assistant answers: the REST interface and the WebSocket API, as version 2024.3.3 does.
//!
//! Strict: what the real one refuses is refused, and what no client of it would send is a panic.

use super::homeassistant::{Call, Client, GATEWAY, Notification, State, Subscription};
use super::http::{Connection, Next, Request};
use super::websocket::{self, Frame};
use serde_json::{Map, Value, json};
use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn serve(shared: &Mutex<State>, request: &Request, connection: &mut Connection) -> Next {
    if lock(shared).banned {
        let _ = connection.respond(403, &[("Content-Type", TEXT)], b"403: Forbidden");
        return Next::Close;
    }
    if request.path() == "/api/websocket" {
        talk(shared, request, connection);
        return Next::Close;
    }
    let (status, kind, body) = rest(&mut lock(shared), request);
    match connection.respond(status, &[("Content-Type", kind)], body.as_bytes()) {
        Ok(()) => Next::KeepAlive,
        Err(_) => Next::Close,
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
type Answer = (u16, &'static str, String);

fn plain(status: u16) -> Answer {
    (status, TEXT, format!("{status}: {}", super::http::reason(status)))
}
fn done(body: &Value) -> Answer {
    (200, JSON, body.to_string())
}

fn rest(state: &mut State, request: &Request) -> Answer {
    let path = request.path();
    if state.refuse || request.header("authorization") != Some(&format!("Bearer {}", state.token)) {
        state.calls.push(Call { what: path.to_owned(), data: Value::Null, status: 401 });
        return plain(401);
    }
    let data: Value = if request.body.is_empty() { json!({}) } else { serde_json::from_slice(&request.body).expect("JSON") };
    let (what, answer) = match (request.method.as_str(), path) {
        ("GET", "/api/") => (path.to_owned(), done(&json!({"message": "API running."}))),
        ("GET", "/api/config") => (path.to_owned(), done(&json!({"location_name": "Home", "version": "2024.3.3", "state": "RUNNING"}))),
        ("GET", "/api/states") => (path.to_owned(), done(&state.states.values().cloned().collect())),
        ("GET", path) if path.starts_with("/api/states/") => {
            let found = state.states.get(path.trim_start_matches("/api/states/"));
            let missing = || (404, JSON, json!({"message": "Entity not found."}).to_string());
            (path.to_owned(), found.map_or_else(missing, done))
        }
        ("POST", path) if path.starts_with("/api/services/") => {
            assert_eq!(request.header("content-type"), Some(JSON), "{path}");
            let service = path.trim_start_matches("/api/services/").replacen('/', ".", 1);
            let answer = refusal(state, &service).unwrap_or_else(|| call(state, &service, &data));
            (service, answer)
        }
        _ => (path.to_owned(), plain(404)),
    };
    state.calls.push(Call { what, data, status: answer.0 });
    answer
}

fn refusal(state: &mut State, service: &str) -> Option<Answer> {
    let at = state.refusals.iter().position(|(name, _, count)| *count > 0 && (name == service || name == "*"))?;
    state.refusals[at].2 -= 1;
    Some(plain(state.refusals[at].1))
}

/// Fields that a service takes, as its schema has them; the first ones are required.
fn takes(data: &Map<String, Value>, required: &[&str], optional: &[&str]) -> bool {
    required.iter().all(|field| data.contains_key(*field))
        && data.iter().all(|(field, value)| {
            let text = field == "data" || field == "entity_id" || field.ends_with("_pct") || value.is_string();
            text && (required.contains(&field.as_str()) || optional.contains(&field.as_str()))
        })
}

/// The changed states are those under the call's own context (Home Assistant, REST interface).
fn call(state: &mut State, service: &str, data: &Value) -> Answer {
    let Value::Object(fields) = data else { return plain(400) };
    let text = |field: &str| fields.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    match service {
        "persistent_notification.create" if takes(fields, &["message"], &["title", "notification_id"]) => {
            let id = text("notification_id");
            let title = fields.get("title").and_then(Value::as_str).map(str::to_owned);
            match state.notifications.iter_mut().find(|known| known.id == id) {
                Some(known) => (known.message, known.title, known.made) = (text("message"), title, known.made + 1),
                None => state.notifications.push(Notification { id, title, message: text("message"), made: 1 }),
            }
            done(&json!([]))
        }
        "persistent_notification.dismiss" if takes(fields, &["notification_id"], &[]) => {
            state.notifications.retain(|known| known.id != text("notification_id"));
            done(&json!([]))
        }
        "notify.mobile_app_x" | "notify.family" if takes(fields, &["message"], &["title", "target", "data"]) => {
            let context = state.context(Some(GATEWAY), None);
            let linked = state.linked.get(service).cloned();
            let changed: Vec<Value> = linked.into_iter().map(|(entity, value)| state.set(&entity, &value, &context)).collect();
            done(&json!(changed))
        }
        "light.turn_on" if takes(fields, &["entity_id"], &["brightness_pct"]) => change(state, "light", &fields["entity_id"], "on"),
        "light.turn_off" if takes(fields, &["entity_id"], &[]) => change(state, "light", &fields["entity_id"], "off"),
        "input_boolean.turn_on" if takes(fields, &["entity_id"], &[]) => change(state, "input_boolean", &fields["entity_id"], "on"),
        "lock.unlock" if takes(fields, &["entity_id"], &[]) => change(state, "lock", &fields["entity_id"], "unlocked"),
        "scene.turn_on" if takes(fields, &["entity_id"], &[]) => {
            let context = state.context(Some(GATEWAY), None);
            let linked: Vec<(String, String)> = state.linked.values().cloned().collect();
            let changed: Vec<Value> = linked.into_iter().map(|(entity, value)| state.set(&entity, &value, &context)).collect();
            done(&json!(changed))
        }
        _ => plain(400),
    }
}

fn change(state: &mut State, domain: &str, entities: &Value, value: &str) -> Answer {
    let context = state.context(Some(GATEWAY), None);
    let entities: Vec<&str> = match entities {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        single => single.as_str().into_iter().collect(),
    };
    let mut changed = Vec::new();
    for entity in entities {
        let same = state.states.get(entity).is_none_or(|known| known["state"] == value);
        if !same && entity.split('.').next() == Some(domain) {
            changed.push(state.set(entity, value, &context));
        }
    }
    done(&json!(changed))
}

/// One connection, to its end.
fn talk(shared: &Mutex<State>, request: &Request, connection: &mut Connection) {
    if !websocket::is_upgrade(request) {
        let _ = connection.respond(400, &[], b"400: Bad Request");
        return;
    }
    let Ok(mut socket) = websocket::accept(request, connection) else { return };
    let sender = socket.sender();
    sender.text(r#"{"type":"auth_required","ha_version":"2024.3.3"}"#);
    let Some(Frame::Text(auth)) = socket.read() else { return };
    let auth: Value = serde_json::from_str(&auth).expect("JSON");
    assert_eq!(auth["type"], "auth", "the first message is the login");
    assert_eq!(auth.as_object().map(Map::len), Some(2), "a login is a type and a token: {auth}");
    let number = {
        let mut state = lock(shared);
        if state.refuse || auth["access_token"] != state.token.as_str() {
            sender.text(r#"{"type":"auth_invalid","message":"Invalid access token or password"}"#);
            sender.close(1000, "");
            return;
        }
        sender.text(r#"{"type":"auth_ok","ha_version":"2024.3.3"}"#);
        state.connects += 1;
        let number = state.connects;
        state.clients.push(Client { number, sender: sender.clone(), subscriptions: Vec::new() });
        number
    };
    let mut last_id = 0;
    while let Some(frame) = socket.read() {
        match frame {
            Frame::Text(text) => {
                let command: Value = serde_json::from_str(&text).expect("JSON");
                let mut state = lock(shared);
                state.commands.push((number, command.clone()));
                command_of(&mut state, number, &mut last_id, &command);
            }
            Frame::Ping(payload) => {
                sender.pong(&payload);
            }
            Frame::Pong(_) => {}
            Frame::Close(code, reason) => {
                sender.close(if code == 1005 { 1000 } else { code }, &reason);
                break;
            }
            Frame::Binary(_) => panic!("Home Assistant takes no binary messages"),
        }
    }
    lock(shared).clients.retain(|client| client.number != number);
}

fn command_of(state: &mut State, number: usize, last_id: &mut i64, command: &Value) {
    let Some(place) = state.clients.iter().position(|client| client.number == number) else { return };
    let id = command["id"].as_i64().expect("a command has a number");
    let refuse =
        |code: &str, message: &str| json!({"id": id, "type": "result", "success": false, "error": {"code": code, "message": message}});
    let fine = |result: Value| json!({"id": id, "type": "result", "success": true, "result": result});
    if id <= *last_id {
        state.deliver(place, &refuse("id_reuse", "Identifier values have to increase."));
        return;
    }
    *last_id = id;
    let kind = command["type"].as_str().expect("a command has a type");
    if state.forbidden.contains(kind) {
        state.deliver(place, &refuse("unauthorized", "Unauthorized"));
        return;
    }
    let answer = match kind {
        "ping" if state.without_pongs => return,
        "ping" => json!({"id": id, "type": "pong"}),
        "auth/current_user" => fine(json!({
            "id": GATEWAY, "name": "Gateway", "is_owner": false, "is_admin": true,
            "credentials": [{"auth_provider_type": "homeassistant", "auth_provider_id": null}], "mfa_modules": [],
        })),
        "get_states" => fine(state.states.values().cloned().collect()),
        "subscribe_events" => {
            let event = command.get("event_type").map(|event| event.as_str().expect("a type of events").to_owned());
            state.clients[place].subscriptions.push((id, Subscription::Events(event)));
            fine(Value::Null)
        }
        "subscribe_trigger" => match trigger(&command["trigger"]) {
            Some(subscription) => {
                state.clients[place].subscriptions.push((id, subscription));
                fine(Value::Null)
            }
            None => refuse("invalid_format", "Invalid trigger"),
        },
        _ => refuse("unknown_command", "Unknown command."),
    };
    state.deliver(place, &answer);
}

fn trigger(trigger: &Value) -> Option<Subscription> {
    let fields = trigger.as_object()?;
    let known = fields.keys().all(|field| ["platform", "entity_id", "to", "from"].contains(&field.as_str()));
    if trigger["platform"] != "state" || !known || !fields.contains_key("to") {
        return None;
    }
    let entities = trigger["entity_id"].as_array()?.iter().map(|entity| entity.as_str().map(str::to_owned)).collect::<Option<_>>()?;
    Some(Subscription::Trigger(entities))
}
