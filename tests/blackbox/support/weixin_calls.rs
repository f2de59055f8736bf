//! The methods of the fake iLink server: what each requires, what it does, what it answers.

#![allow(dead_code)] // Each test uses what it needs.

use super::http::{Connection, Fault, Next, Request, misbehave, response};
use super::weixin::{Call, Sent, Shared, State, Step};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Whether every copy of a message lies before a cursor that was named.
pub fn is_confirmed(state: &State, id: u64) -> bool {
    let last = state.said.iter().rposition(|message| message["message_id"].as_u64() == Some(id));
    last.is_some_and(|position| position < state.confirmed)
}

pub fn serve(shared: &Shared, request: &Request, connection: &mut Connection) -> Next {
    if request.path().starts_with("/c2c/") {
        return download(shared, request, connection);
    }
    let Some(method) = request.path().strip_prefix("/ilink/bot/") else {
        return sent(connection.respond(404, &[], b"404 page not found"));
    };
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let fault = take(&mut shared.lock().faults, method);
    let entry = record(shared, method, request, &body, fault.clone());
    if let Err(cause) = check(shared, method, request, &body) {
        shared.lock().violations.push(format!("{method}: {cause}: {request:?}"));
        return sent(connection.respond(400, &[], cause.as_bytes()));
    }
    let out_of_turn = if fault.is_none() { take(&mut shared.lock().answers, method) } else { None };
    if let Some(answer) = out_of_turn {
        return reply(shared, entry, connection, &answer);
    }
    if let Some(fault) = fault {
        let waits = fault == Fault::CloseAfter && method == "getupdates";
        return misbehave(&fault, connection, || {
            let answer =
                if waits || method == "getupdates" { updates_now(&mut shared.lock(), &body) } else { call(shared, method, request, &body) };
            response(200, &[("Content-Type", "application/json")], answer.to_string().as_bytes())
        });
    }
    let answer = match method {
        "getupdates" => get_updates(shared, &body, connection),
        "get_qrcode_status" => match code_status(shared, request, connection) {
            Some(answer) => Some(answer),
            None => return Next::Close,
        },
        _ => Some(call(shared, method, request, &body)),
    };
    match answer {
        Some(answer) if answer["http"].is_u64() => {
            let status = u16::try_from(answer["http"].as_u64().expect("a number")).expect("a status");
            sent(connection.respond(status, &[], b"no such thing"))
        }
        Some(answer) => reply(shared, entry, connection, &answer),
        None => Next::Close,
    }
}

fn sent(result: std::io::Result<()>) -> Next {
    if result.is_ok() { Next::KeepAlive } else { Next::Close }
}

fn reply(shared: &Shared, entry: usize, connection: &mut Connection, answer: &Value) -> Next {
    shared.lock().journal[entry].answer = answer.clone();
    shared.changed.notify_all();
    sent(connection.respond(200, &[("Content-Type", "application/json")], answer.to_string().as_bytes()))
}

/// The first of these for a method, if any is left.
fn take<T: Clone>(list: &mut [(String, T, usize)], method: &str) -> Option<T> {
    let (_, what, count) = list.iter_mut().find(|(of, _, count)| (of == "*" || of == method) && *count > 0)?;
    *count -= 1;
    Some(what.clone())
}

fn record(shared: &Shared, method: &str, request: &Request, body: &Value, fault: Option<Fault>) -> usize {
    let mut state = shared.lock();
    state.journal.push(Call {
        at: Instant::now(),
        method: method.to_owned(),
        body: body.clone(),
        query: request.query().to_owned(),
        host: request.header("host").unwrap_or_default().to_owned(),
        answer: Value::Null,
        fault,
    });
    shared.changed.notify_all();
    state.journal.len() - 1
}

fn require(condition: bool, what: &str) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what.to_owned()) }
}

/// What all requests have in common.
fn check(shared: &Shared, method: &str, request: &Request, body: &Value) -> Result<(), String> {
    let header = |name: &str| request.header(name).unwrap_or_default();
    require(header("ilink-app-id") == "bot", "iLink-App-Id")?;
    require(header("ilink-app-clientversion") == "132105", "iLink-App-ClientVersion")?;
    if request.method == "GET" {
        for name in ["authorization", "authorizationtype", "x-wechat-uin"] {
            require(request.header(name).is_none(), &format!("{name} in a GET"))?;
        }
        return require(method.starts_with("get_"), "not a GET");
    }
    require(request.method == "POST", "the verb")?;
    require(header("content-type").starts_with("application/json"), "Content-Type")?;
    require(header("authorizationtype") == "ilink_bot_token", "AuthorizationType")?;
    let number = STANDARD.decode(header("x-wechat-uin")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let number = number.filter(|number| number.parse::<u32>().is_ok_and(|parsed| parsed.to_string() == *number)).ok_or("X-WECHAT-UIN")?;
    let last = std::mem::replace(&mut shared.lock().last_number, number.clone());
    require(last != number, "X-WECHAT-UIN twice")?;
    require(body.is_object(), "the body is an object")?;
    require(body["base_info"]["channel_version"] == "2.4.9", "base_info.channel_version")?;
    let agent = body["base_info"]["bot_agent"].as_str().unwrap_or("x");
    require(agent.is_ascii() && agent.len() <= 256, "base_info.bot_agent")?;
    if method == "get_bot_qrcode" {
        return require(request.header("authorization").is_none(), "a token before there is one");
    }
    require(header("authorization").starts_with("Bearer "), "Authorization")
}

fn call(shared: &Shared, method: &str, request: &Request, body: &Value) -> Value {
    let mut state = shared.lock();
    let authorized = request.header("authorization") == Some(&format!("Bearer {}", state.token)) && !state.refused;
    let answer = match method {
        "get_bot_qrcode" => new_code(&mut state, request, body),
        _ if !authorized => gone(),
        "sendmessage" => send_message(&mut state, body),
        "getconfig" => get_config(&mut state, body),
        "sendtyping" => send_typing(&mut state, body),
        _ => json!({"http": 404}),
    };
    drop(state);
    shared.changed.notify_all();
    answer
}

/// The session is not valid any more.
fn gone() -> Value {
    json!({"ret": -14, "errcode": -14, "errmsg": "session timeout"})
}

// --- receiving ---

/// The position that a cursor means.
fn position(state: &mut State, body: &Value) -> Option<usize> {
    let buf = body["get_updates_buf"].as_str()?;
    let position = if buf.is_empty() {
        // From now on, if nothing else is wanted: and "now" is the first time.
        state.fresh.unwrap_or_else(|| {
            state.fresh = Some(state.said.len());
            state.said.len()
        })
    } else {
        let text = String::from_utf8(STANDARD.decode(buf).ok()?).ok()?;
        text.strip_prefix("position ")?.parse().ok()?
    };
    Some(position).filter(|position| *position <= state.said.len())
}

fn updates_from(state: &State, position: usize) -> Value {
    let buf = if state.no_cursor { String::new() } else { STANDARD.encode(format!("position {}", state.said.len())) };
    let mut answer = json!({"ret": 0, "msgs": state.said[position..], "get_updates_buf": buf});
    if let Some(announced) = state.announced {
        answer["longpolling_timeout_ms"] = json!(u64::try_from(announced.as_millis()).expect("short"));
    }
    answer
}

fn updates_now(state: &mut State, body: &Value) -> Value {
    match position(state, body) {
        Some(position) => {
            state.confirmed = state.confirmed.max(position);
            updates_from(state, position)
        }
        None => json!({"ret": -3, "errmsg": "bad cursor"}),
    }
}

/// `None`: the client has gone.
fn get_updates(shared: &Shared, body: &Value, connection: &Connection) -> Option<Value> {
    let mut state = shared.lock();
    let Some(position) = position(&mut state, body) else { return Some(json!({"ret": -3, "errmsg": "bad cursor"})) };
    let token = state.token.clone();
    state.confirmed = state.confirmed.max(position);
    state.pollers += 1;
    let me = state.pollers;
    if !state.refused {
        state.polling += 1;
        if let Some(peer) = connection.other_end().ok().and_then(|stream| stream.peer_addr().ok()) {
            state.peers.insert(peer);
        }
    }
    let counted = !state.refused;
    shared.changed.notify_all();
    let end = Instant::now() + state.hold;
    let answer = loop {
        let now = Instant::now();
        if state.refused || state.token != token {
            break Some(gone());
        }
        if state.said.len() > position || now >= end || state.pollers != me {
            break Some(updates_from(&state, position));
        }
        if connection.stopping() || connection.peer_gone() {
            break None;
        }
        let pause = (end - now).min(Duration::from_millis(50));
        state = shared.changed.wait_timeout(state, pause).unwrap_or_else(std::sync::PoisonError::into_inner).0;
    };
    if counted {
        state.polling -= 1;
    }
    answer
}

fn download(shared: &Shared, request: &Request, connection: &mut Connection) -> Next {
    let fault = take(&mut shared.lock().faults, "download");
    record(shared, "download", request, &Value::Null, fault.clone());
    let parameter = request.query().strip_prefix("encrypted_query_param=").map(unescaped);
    let found = parameter.and_then(|parameter| shared.lock().files.get(&parameter).cloned());
    if request.path() != "/c2c/download" || request.method != "GET" || request.header("authorization").is_some() {
        shared.lock().violations.push(format!("a download of another kind: {request:?}"));
    }
    let answer = || match &found {
        Some(bytes) => response(200, &[("Content-Type", "application/octet-stream")], bytes),
        None => response(404, &[], b""),
    };
    match fault {
        Some(fault) => misbehave(&fault, connection, answer),
        None => sent(connection.raw(&answer())),
    }
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits: Vec<u8> = rest.by_ref().take(2).collect();
            let digits = String::from_utf8(digits).expect("hexadecimal");
            bytes.push(u8::from_str_radix(&digits, 16).expect("hexadecimal"));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).expect("text")
}

// --- sending ---

fn send_message(state: &mut State, body: &Value) -> Value {
    match read_message(body) {
        Err(cause) => {
            state.violations.push(format!("sendmessage: {cause}: {body}"));
            json!({"ret": -3, "errmsg": cause})
        }
        Ok(message) if message.context.as_ref().is_some_and(|context| state.stale.contains(context)) => gone(),
        Ok(message) => {
            state.sent.push(message);
            json!({"message_id": state.next_id + 1_000_000, "ret": 0})
        }
    }
}

fn read_message(body: &Value) -> Result<Sent, String> {
    let message = &body["msg"];
    let text = |key: &str| message[key].as_str().ok_or_else(|| format!("{key} is no text"));
    require(text("from_user_id")?.is_empty(), "from_user_id is to be empty")?;
    require(text("to_user_id")?.ends_with("@im.wechat"), "to_user_id")?;
    require(!text("client_id")?.is_empty(), "client_id")?;
    require(message["message_type"] == 2 && message["message_state"] == 2, "message_type and message_state")?;
    let items = message["item_list"].as_array().ok_or("item_list")?;
    require(items.len() == 1 && items[0]["type"] == 1, "one item of text")?;
    let shown = items[0]["text_item"]["text"].as_str().ok_or("text")?;
    require(!shown.trim().is_empty(), "text is empty")?;
    require(shown.chars().map(char::len_utf16).sum::<usize>() <= 4000, "text is too long")?;
    let context = message.get("context_token").map(|context| context.as_str().map(str::to_owned).ok_or("context_token is no text"));
    Ok(Sent {
        user: text("to_user_id")?.to_owned(),
        text: shown.to_owned(),
        client_id: text("client_id")?.to_owned(),
        context: context.transpose()?,
    })
}

fn get_config(state: &mut State, body: &Value) -> Value {
    let Some(user) = body["ilink_user_id"].as_str().map(str::to_owned) else {
        state.violations.push(format!("getconfig without ilink_user_id: {body}"));
        return json!({"ret": -3});
    };
    if !user.ends_with("@im.wechat") {
        return json!({"ret": -3, "errmsg": "no such user"});
    }
    let ticket = STANDARD.encode(format!("ticket of {user}"));
    state.tickets.insert(user, ticket.clone());
    json!({"ret": 0, "typing_ticket": ticket})
}

fn send_typing(state: &mut State, body: &Value) -> Value {
    let (user, ticket) = (body["ilink_user_id"].as_str().unwrap_or_default(), body["typing_ticket"].as_str());
    if ticket.is_none() || state.tickets.get(user).map(String::as_str) != ticket {
        return json!({"ret": -3, "errmsg": "bad ticket"});
    }
    match body["status"].as_u64() {
        Some(1) => state.typing.insert(user.to_owned()),
        Some(2) => state.typing.remove(user),
        _ => {
            state.violations.push(format!("sendtyping: {body}"));
            return json!({"ret": -3});
        }
    };
    json!({"ret": 0})
}

// --- logging in ---

fn new_code(state: &mut State, request: &Request, body: &Value) -> Value {
    if request.query() != "bot_type=3" {
        state.violations.push(format!("get_bot_qrcode?{}", request.query()));
    }
    if request.method == "POST" && (state.old_codes || !body["local_token_list"].is_array()) {
        return json!({"http": 405});
    }
    let Some(steps) = state.scripts.pop_front() else { return json!({"ret": -1, "errmsg": "no more codes"}) };
    let code = format!("code/{}", state.codes.len() + 1);
    state.codes.insert(code.clone(), steps.into());
    json!({"qrcode": code, "qrcode_img_content": format!("https://liteapp.weixin.qq.com/q/{}", state.codes.len())})
}

/// `None`: no answer.
fn code_status(shared: &Shared, request: &Request, connection: &mut Connection) -> Option<Value> {
    let query: Vec<(&str, String)> =
        request.query().split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key, unescaped(value))).collect();
    let value = |key: &str| query.iter().find(|(known, _)| *known == key).map(|(_, value)| value.clone());
    let mut state = shared.lock();
    let code = value("qrcode").unwrap_or_default();
    let Some(steps) = state.codes.get_mut(&code) else { return Some(json!({"ret": -1, "errmsg": "no such code"})) };
    if let Some(Step::Number(number)) = steps.front() {
        if value("verify_code").as_ref() != Some(number) {
            return Some(json!({"status": "need_verifycode"}));
        }
        steps.pop_front();
    }
    let step = if steps.len() > 1 { steps.pop_front() } else { steps.front().cloned() };
    Some(match step.unwrap_or(Step::Wait) {
        Step::Wait => json!({"status": "wait"}),
        Step::Scanned => json!({"status": "scaned"}),
        Step::Expired => json!({"status": "expired"}),
        Step::Redirect(host) => json!({"status": "scaned_but_redirect", "redirect_host": host}),
        Step::Number(_) => json!({"status": "need_verifycode"}),
        Step::Blocked => json!({"status": "verify_code_blocked"}),
        Step::Bound => json!({"status": "binded_redirect"}),
        Step::Confirm => confirm(&mut state, request),
        Step::Silence => return None,
        Step::Hold => {
            drop(state);
            connection.hold();
            return None;
        }
    })
}

/// A new token; the login is good again.
fn confirm(state: &mut State, request: &Request) -> Value {
    state.token = format!("tok-secret-{}", std::iter::repeat_with(fastrand::alphanumeric).take(24).collect::<String>());
    state.refused = false;
    json!({
        "status": "confirmed", "bot_token": state.token, "ilink_bot_id": state.bot_id,
        "baseurl": format!("http://{}", request.header("host").unwrap_or_default()), "ilink_user_id": super::weixin::ANA,
    })
}
