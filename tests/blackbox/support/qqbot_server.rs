//! The endpoints of the fake QQ: tokens, the API, the gateway.

use super::http::{self, Connection, Next, Request, misbehave};
use super::qqbot::{self, BOT_ID, Call, Login, Session, Shared, Shown, State};
use super::websocket::{self, Frame, Sender};
use serde_json::{Value, json};
use std::time::Instant;

type Answer = (u16, Value);

pub fn serve(shared: &Shared, request: &Request, connection: &mut Connection) -> Next {
    let body: Value = if request.body.is_empty() {
        Value::Null
    } else {
        assert_eq!(request.header("content-type"), Some("application/json"), "without a charset: {request:?}");
        serde_json::from_slice(&request.body).expect("a body is JSON")
    };
    let path = request.path().to_owned();
    let (entry, fault) = shared.change(|state| {
        let fault = take_fault(state, &path);
        let call = Call { at: Instant::now(), method: request.method.clone(), path: path.clone(), body: body.clone(), status: 0, fault };
        state.calls.push(call.clone());
        (state.calls.len() - 1, call.fault)
    });
    if fault.is_none() && websocket::is_upgrade(request) {
        assert_eq!(path, "/websocket/", "the address that /gateway names");
        gateway(shared, request, connection);
        return Next::Close;
    }
    let file = shared.lock().files.get(&path).cloned();
    let respond = || {
        if let Some(file) = &file {
            assert_eq!(request.header("authorization"), None, "the token is not for file servers");
            return http::response(200, &[("Content-Type", "application/octet-stream")], file);
        }
        let (status, answer) = shared.change(|state| {
            let answer = answer(state, request, &path, &body);
            state.calls[entry].status = answer.0;
            answer
        });
        http::response(status, &[("Content-Type", "application/json"), ("X-Tps-trace-ID", "trace-7")], answer.to_string().as_bytes())
    };
    match fault {
        Some(fault) => misbehave(&fault, connection, respond),
        None => match connection.raw(&respond()) {
            Ok(()) => Next::KeepAlive,
            Err(_) => Next::Close,
        },
    }
}

fn take_fault(state: &mut State, path: &str) -> Option<http::Fault> {
    let at = state.faults.iter().position(|(part, _, _)| path.contains(part.as_str()))?;
    let fault = state.faults[at].1.clone();
    state.faults[at].2 -= 1;
    if state.faults[at].2 == 0 {
        state.faults.remove(at);
    }
    Some(fault)
}

fn error(status: u16, code: i64, message: &str) -> Answer {
    (status, json!({"message": message, "code": code, "err_code": code, "trace_id": "trace-7"}))
}

fn answer(state: &mut State, request: &Request, path: &str, body: &Value) -> Answer {
    if path == "/app/getAppAccessToken" {
        assert_eq!(request.method, "POST");
        return token(state, body);
    }
    let authorization = request.header("authorization").unwrap_or_default();
    let known = authorization.strip_prefix("QQBot ").is_some_and(|token| state.tokens.iter().any(|known| known == token));
    if !known {
        return error(401, 11_243, "token not exist or expire");
    }
    let host = request.header("host").expect("HTTP/1.1 has a host");
    match (request.method.as_str(), path.split('/').skip(1).collect::<Vec<_>>().as_slice()) {
        ("GET", ["users", "@me"]) => (200, json!({"id": BOT_ID, "username": "testbot", "avatar": "", "bot": true})),
        ("GET", ["gateway"]) => (200, json!({"url": format!("ws://{host}/websocket/")})),
        ("GET", ["gateway", "bot"]) => {
            let limit = json!({"total": 1000, "remaining": state.starts_left, "reset_after": 86_400_000, "max_concurrency": 1});
            (200, json!({"url": format!("ws://{host}/websocket/"), "shards": 1, "session_start_limit": limit}))
        }
        ("POST", ["v2", "users" | "groups", _, "messages"]) => numbered(state, path, body),
        ("POST", ["channels" | "dms", _, "messages"]) => in_guild(state, path, body),
        _ => error(404, 11_281, "not found"),
    }
}

fn token(state: &mut State, body: &Value) -> Answer {
    state.token_requests += 1;
    if state.refused || body["appId"] != json!(state.app_id) || body["clientSecret"] != json!(state.secret) {
        return (200, json!({"code": 100_016, "message": "invalid appid or secret"}));
    }
    if state.tokens.is_empty() {
        let token = format!("ACCESS{}", fastrand::u64(..));
        state.tokens.push(token);
    }
    (200, json!({"access_token": state.tokens[0], "expires_in": state.expires_in}))
}

fn only(body: &Value, known: &[&str]) {
    for (key, _) in body.as_object().expect("an object").iter().filter(|(_, value)| !value.is_null()) {
        assert!(known.contains(&key.as_str()), "the documentation knows no {key}: {body}");
    }
}

/// Private chats and groups.
fn numbered(state: &mut State, path: &str, body: &Value) -> Answer {
    only(body, &["content", "markdown", "msg_type", "msg_id", "msg_seq", "input_notify"]);
    let seq = body["msg_seq"].as_i64().expect("msg_seq is a number");
    assert!(seq >= 1, "numbers begin with 1: {body}");
    let (text, markdown) = match body["msg_type"].as_i64() {
        Some(0) => (body["content"].as_str(), false),
        Some(2) => (body["markdown"]["content"].as_str(), true),
        Some(6) => {
            assert_eq!(body["input_notify"], json!({"input_type": 1, "input_second": 60}));
            assert!(path.starts_with("/v2/users/"), "typing is for private chats: {path}");
            (Some("typing"), false)
        }
        other => panic!("msg_type {other:?} is not used"),
    };
    let typing = body["msg_type"] == 6;
    if let Some(refusal) = refuse(state, path, body, text, markdown && !typing) {
        return refusal;
    }
    let heard = state.heard.get_mut(body["msg_id"].as_str().expect("checked")).expect("checked");
    if heard.replies.contains(&seq) {
        return error(400, 40_054_005, "消息被去重，请检查请求msgseq");
    }
    if heard.replies.len() >= 5 {
        return error(429, 22_009, "msg limit exceed");
    }
    heard.replies.push(seq);
    if typing {
        state.typing += 1;
        return (200, json!({}));
    }
    show(state, path, body, text, markdown, seq)
}

fn in_guild(state: &mut State, path: &str, body: &Value) -> Answer {
    only(body, &["content", "markdown", "msg_id"]);
    let (text, markdown) = match body["content"].as_str() {
        Some(text) => (Some(text), false),
        None => (body["markdown"]["content"].as_str(), true),
    };
    if let Some(refusal) = refuse(state, path, body, text, markdown) {
        return refusal;
    }
    let heard = state.heard.get_mut(body["msg_id"].as_str().expect("checked")).expect("checked");
    if heard.replies.len() >= 5 {
        return error(429, 22_009, "msg limit exceed");
    }
    let number = i64::try_from(heard.replies.len()).expect("a few") + 1;
    heard.replies.push(number);
    show(state, path, body, text, markdown, number)
}

/// What is the same everywhere.
fn refuse(state: &State, path: &str, body: &Value, text: Option<&str>, markdown: bool) -> Option<Answer> {
    let text = text.unwrap_or_else(|| panic!("no text in {body}"));
    assert!(text.chars().count() <= 4000, "a text of {} characters", text.chars().count());
    let id = body["msg_id"].as_str().unwrap_or_else(|| panic!("a message that replies to none: {body}"));
    if text.trim().is_empty() {
        return Some(error(400, 50_006, "message is empty"));
    }
    let Some(heard) = state.heard.get(id).filter(|heard| heard.chat == path) else { return Some(error(400, 304_026, "MSG_ID invalid")) };
    if heard.at.elapsed() > state.window {
        return Some(error(400, 304_027, "MSG_ID expire"));
    }
    if markdown && !state.markdown {
        return Some(error(400, 304_036, "no permission for native markdown"));
    }
    if state.refuse_links && (text.contains("://") || text.contains(".example")) {
        return Some(error(400, 304_003, "url not allowed"));
    }
    None
}

fn show(state: &mut State, path: &str, body: &Value, text: Option<&str>, markdown: bool, msg_seq: i64) -> Answer {
    let msg_id = body["msg_id"].as_str().expect("checked").to_owned();
    let text = text.expect("checked").to_owned();
    state.shown.push(Shown { chat: path.to_owned(), text, markdown, msg_id, msg_seq });
    if state.audit {
        return (
            202,
            json!({"message": "push message is waiting for audit now", "code": 304_023, "data": {"message_audit": {"audit_id": "1"}}}),
        );
    }
    let id = state.id("ROBOT1.0_reply");
    // A text or a number, as it likes.
    let timestamp = if state.next_id.is_multiple_of(2) { json!("2026-10-20T13:37:20+08:00") } else { json!(1_792_474_640) };
    (200, json!({"id": id, "timestamp": timestamp}))
}

// --- the gateway ---

fn gateway(shared: &Shared, request: &Request, connection: &mut Connection) {
    let Ok(mut socket) = websocket::accept(request, connection) else { return };
    let sender = socket.sender();
    let number = shared.change(|state| {
        state.opened += 1;
        if state.rude > 0 {
            state.rude -= 1;
            sender.text(&json!({"op": 0, "s": 1, "t": "FRIEND_ADD", "d": {"openid": "A"}}).to_string());
        }
        sender.text(&json!({"op": 10, "d": {"heartbeat_interval": state.heartbeat_ms}}).to_string());
        state.connections.push(qqbot::Connection { number: state.opened, sender: sender.clone(), session: None });
        state.opened
    });
    while let Some(frame) = socket.read() {
        match frame {
            Frame::Text(text) => {
                let frame: Value = serde_json::from_str(&text).expect("frames are JSON");
                shared.change(|state| take_frame(state, number, &sender, &frame));
            }
            Frame::Ping(payload) => {
                sender.pong(&payload);
            }
            Frame::Pong(_) => {}
            Frame::Close(..) => break,
            Frame::Binary(_) => panic!("QQ speaks in texts"),
        }
    }
    sender.cut();
    shared.change(|state| state.connections.retain(|connection| connection.number != number));
}

fn take_frame(state: &mut State, number: u64, sender: &Sender, frame: &Value) {
    state.frames.push((Instant::now(), number, frame.clone()));
    let data = &frame["d"];
    match frame["op"].as_i64() {
        Some(1) => {
            assert!(data.is_null() || data.is_i64(), "d is the last s: {frame}");
            if let Some(seq) = data.as_i64() {
                confirm(state, number, seq);
            }
            if !state.deaf {
                sender.text(&json!({"op": 11}).to_string());
            }
        }
        Some(2 | 6) => {
            let session = state.connections.iter().find(|known| known.number == number).and_then(|known| known.session.clone());
            assert_eq!(session, None, "it is logged in already");
            log_in(state, number, sender, frame);
        }
        _ => {
            sender.close(4001, "bad opcode");
        }
    }
}

fn confirm(state: &mut State, number: u64, seq: i64) {
    let session = state.connections.iter().find(|known| known.number == number).and_then(|known| known.session.clone());
    if let Some(session) = session.and_then(|id| state.sessions.get_mut(&id)) {
        assert!(seq < session.next, "event {seq} was never sent");
        session.confirmed = session.confirmed.max(seq);
    }
}

fn log_in(state: &mut State, number: u64, sender: &Sender, frame: &Value) {
    let data = &frame["d"];
    let token = data["token"].as_str().and_then(|token| token.strip_prefix("QQBot ")).expect("the token has its prefix");
    if state.refused || !state.tokens.iter().any(|known| known == token) {
        sender.close(4004, "Authentication fail");
        return;
    }
    let script = state.logins.pop_front();
    match script {
        Some(Login::Invalid(resumable)) => {
            sender.text(&json!({"op": 9, "d": resumable}).to_string());
            return;
        }
        Some(Login::Close(code)) => {
            sender.close(code, "scripted");
            return;
        }
        Some(Login::Silence) => return,
        Some(Login::CloseAfter(_)) | None => {}
    }
    let logged_in = if frame["op"] == 2 { identify(state, sender, data) } else { resume(state, sender, data) };
    let Some(session) = logged_in else { return };
    state.current = Some(session.clone());
    state.connects += 1;
    for connection in &mut state.connections {
        if connection.number == number {
            connection.session = Some(session.clone());
        } else if connection.session.as_ref() == Some(&session) {
            // A session has one connection.
            connection.sender.cut();
        }
    }
    state.deliver_early();
    if let Some(Login::CloseAfter(code)) = script {
        sender.close(code, "scripted");
    }
}

fn identify(state: &mut State, sender: &Sender, data: &Value) -> Option<String> {
    only(data, &["token", "intents", "shard", "properties"]);
    assert_eq!(data["shard"], json!([0, 1]));
    let intents = data["intents"].as_i64().expect("intents is a number");
    if intents & !state.allowed_intents != 0 {
        sender.close(4014, "disallowed intents");
        return None;
    }
    assert!(state.starts_left > 0, "no more sessions may be begun");
    state.starts_left -= 1;
    let session = format!("{:032x}", fastrand::u128(..));
    let ready = json!({"version": 1, "session_id": session, "user": {"id": BOT_ID, "username": "testbot", "bot": true}, "shard": [0, 0]});
    sender.text(&json!({"op": 0, "s": 1, "t": "READY", "d": ready}).to_string());
    state.sessions.insert(session.clone(), Session { next: 2, ..Session::default() });
    Some(session)
}

fn resume(state: &mut State, sender: &Sender, data: &Value) -> Option<String> {
    only(data, &["token", "session_id", "seq"]);
    let (id, seq) = (data["session_id"].as_str().expect("a session"), data["seq"].as_i64().expect("seq is a number"));
    let Some(session) = state.sessions.get_mut(id) else {
        sender.text(&json!({"op": 9, "d": false}).to_string());
        return None;
    };
    assert!(seq < session.next, "event {seq} was never sent");
    session.confirmed = session.confirmed.max(seq);
    for (_, event) in session.events.iter().filter(|(s, _)| *s > seq) {
        sender.text(&event.to_string());
    }
    let s = session.next;
    session.next += 1;
    sender.text(&json!({"op": 0, "s": s, "t": "RESUMED", "d": ""}).to_string());
    Some(id.to_owned())
}
