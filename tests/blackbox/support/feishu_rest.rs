//! The REST interface of the fake: checks what the real one checks, and does what was asked.

use super::feishu::{BOT, BOT_NAME, Call, Message, Shared, State, Wrong};
use super::http::{self, Connection, Next, Request, response};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is answered: status, headers, body.
type Reply = (u16, Vec<(&'static str, String)>, Vec<u8>);

pub fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value.to_owned())
}

fn told(status: u16, body: &Value) -> Reply {
    (status, vec![("Content-Type", "application/json; charset=utf-8".to_owned())], body.to_string().into_bytes())
}

fn refused(status: u16, code: i64, msg: &str) -> Reply {
    told(status, &json!({"code": code, "msg": msg, "data": {}, "error": {"log_id": "202611210000"}}))
}

fn fine(data: &Value) -> Reply {
    told(200, &json!({"code": 0, "msg": "success", "data": data}))
}

/// The name of a call, and the ids in its path.
fn route(method: &str, path: &str) -> Option<(&'static str, Vec<String>)> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let own = |text: &str| text.to_owned();
    Some(match (method, parts.as_slice()) {
        ("POST", ["callback", "ws", "endpoint"]) => ("discovery", vec![]),
        ("POST", ["open-apis", "auth", "v3", "tenant_access_token", "internal"]) => ("token", vec![]),
        ("GET", ["open-apis", "bot", "v3", "info"]) => ("bot", vec![]),
        ("POST", ["open-apis", "im", "v1", "messages"]) => ("create", vec![]),
        ("POST", ["open-apis", "im", "v1", "messages", id, "reply"]) => ("reply", vec![own(id)]),
        ("PUT", ["open-apis", "im", "v1", "messages", id]) => ("put", vec![own(id)]),
        ("PATCH", ["open-apis", "im", "v1", "messages", id]) => ("patch", vec![own(id)]),
        ("DELETE", ["open-apis", "im", "v1", "messages", id]) => ("delete", vec![own(id)]),
        ("POST", ["open-apis", "im", "v1", "messages", id, "reactions"]) => ("react", vec![own(id)]),
        ("DELETE", ["open-apis", "im", "v1", "messages", id, "reactions", reaction]) => ("unreact", vec![own(id), own(reaction)]),
        ("GET", ["open-apis", "im", "v1", "messages", id, "resources", key]) => ("resource", vec![own(id), own(key)]),
        _ => return None,
    })
}

/// Answers one call.
pub fn answer(shared: &Shared, request: &Request, connection: &mut Connection) -> Next {
    let Some((method, ids)) = route(&request.method, request.path()) else {
        shared.change(|state| state.complain(format!("{} {}: no such address", request.method, request.target)));
        let _ = connection.respond(404, &[], b"404 page not found");
        return Next::Close;
    };
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let (number, wrong) = shared.change(|state| {
        let place = state.faults.iter().position(|(at, _, count)| (*at == method || *at == "*") && *count > 0);
        let wrong = place.map(|place| {
            let (_, wrong, count) = &mut state.faults[place];
            *count -= 1;
            wrong.clone()
        });
        let path = request.target.clone();
        state.journal.push(Call { at: Instant::now(), method, path, body: body.clone(), status: 0, code: 0, wrong: wrong.clone() });
        (state.journal.len() - 1, wrong)
    });
    let act = || {
        let reply = shared.change(|state| handle(state, method, &ids, request, &body));
        let code = serde_json::from_slice::<Value>(&reply.2).ok().and_then(|body| body["code"].as_i64()).unwrap_or(0);
        shared.change(|state| (state.journal[number].status, state.journal[number].code) = (reply.0, code));
        bytes(&reply)
    };
    let reply = match wrong {
        None => act(),
        Some(Wrong::Refuse(status, code, msg)) => bytes(&refused(status, code, &msg)),
        Some(Wrong::Limit(seconds)) => {
            let (status, mut headers, body) = refused(400, 99_991_400, "request trigger frequency limit");
            headers.push(("x-ogw-ratelimit-limit", "50".to_owned()));
            headers.push(("x-ogw-ratelimit-reset", seconds.to_string()));
            bytes(&(status, headers, body))
        }
        Some(Wrong::Lost) => {
            act();
            return Next::Reset;
        }
        Some(Wrong::Http(fault)) => return http::misbehave(&fault, connection, act),
    };
    if connection.raw(&reply).is_ok() { Next::KeepAlive } else { Next::Close }
}

fn bytes((status, headers, body): &Reply) -> Vec<u8> {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    response(*status, &headers, body)
}

fn handle(state: &mut State, method: &'static str, ids: &[String], request: &Request, body: &Value) -> Reply {
    if matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") {
        let json = request.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
        if !json || !body.is_object() {
            state.complain(format!("{method}: not JSON: {:?}", request.header("content-type")));
        }
    }
    let (app_id, app_secret, refuse) = (state.app_id.clone(), state.app_secret.clone(), state.refuse);
    let credential = |id: &str, secret: &str| body[id] == app_id.as_str() && body[secret] == app_secret.as_str() && !refuse;
    match method {
        "discovery" => {
            if request.header("locale") != Some("zh") || request.header("authorization").is_some() {
                state.complain("discovery: locale, and no authorization".to_owned());
            }
            if credential("AppID", "AppSecret") {
                discovery(state, request)
            } else {
                told(200, &json!({"code": 10014, "msg": "app secret invalid"}))
            }
        }
        "token" if !credential("app_id", "app_secret") => told(200, &json!({"code": 10014, "msg": "app secret invalid"})),
        "token" => {
            state.tokens_given += 1;
            let token = format!("t-g1044gh{}", state.tokens_given);
            state.tokens.insert(token.clone());
            told(200, &json!({"code": 0, "msg": "ok", "tenant_access_token": token, "expire": 7140}))
        }
        _ => match request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")) {
            None => refused(400, 99_991_661, "Missing access token for authorization"),
            Some(token) if !state.tokens.contains(token) => refused(400, 99_991_663, "Invalid access token for authorization"),
            Some(_) => authorized(state, method, ids, request, body),
        },
    }
}

fn discovery(state: &mut State, request: &Request) -> Reply {
    let number = state.next();
    // A large number and small ones: each is another varint.
    let (ticket, service) = (format!("T{number}"), 33_554_678 + number * 16_384);
    state.tickets.insert(ticket.clone());
    let host = request.header("host").expect("HTTP/1.1 has a host");
    let url = format!(
        "ws://{host}/ws/v2?fpid=493&aid=552564&device_id=7412345678901234567&access_key=KEYsecret&service_id={service}&ticket={ticket}"
    );
    let config = json!({"ReconnectCount": -1, "ReconnectInterval": 120, "ReconnectNonce": 30, "PingInterval": state.ping_interval});
    told(200, &json!({"code": 0, "msg": "success", "data": {"URL": url, "ClientConfig": config}}))
}

fn authorized(state: &mut State, method: &'static str, ids: &[String], request: &Request, body: &Value) -> Reply {
    if let Some(scope) = state.missing_scope.filter(|_| !matches!(method, "bot")) {
        let msg = format!("Access denied. One of the following scopes is required: [{scope}].应用尚未开通所需的应用身份权限");
        let violations = json!([{"type": "action_scope_required", "subject": scope}]);
        return told(400, &json!({"code": 99_991_672, "msg": msg, "error": {"log_id": "1", "permission_violations": violations}}));
    }
    match method {
        "bot" => {
            let bot = json!({"activate_status": 2, "app_name": BOT_NAME, "avatar_url": "https://x", "ip_white_list": [], "open_id": BOT});
            told(200, &json!({"code": 0, "msg": "ok", "bot": bot}))
        }
        "create" | "reply" => send(state, ids.first().map(String::as_str), request, body),
        "put" | "patch" => edit(state, method, &ids[0], body),
        "delete" => match state.message_mut(&ids[0]).filter(|message| message.from_bot && !message.deleted) {
            None => refused(400, 231_003, "The message is not found"),
            Some(message) => {
                message.deleted = true;
                fine(&json!({}))
            }
        },
        "react" => {
            let emoji = body["reaction_type"]["emoji_type"].as_str().unwrap_or_default().to_owned();
            let number = state.next();
            if !matches!(emoji.as_str(), "Typing" | "OnIt" | "THUMBSUP" | "DONE" | "OK" | "CrossMark") {
                return refused(400, 231_001, "reaction type is invalid");
            }
            let Some(message) = state.message_mut(&ids[0]).filter(|message| !message.deleted) else {
                return refused(400, 231_003, "The message is not found");
            };
            let id = format!("ZCaCIjUBVVWSrm5L{number}");
            message.reactions.insert(id.clone(), emoji.clone());
            message.reacted.push(emoji.clone());
            fine(
                &json!({"reaction_id": id, "operator": {"operator_id": "cli", "operator_type": "app"}, "reaction_type": {"emoji_type": emoji}}),
            )
        }
        "unreact" => match state.message_mut(&ids[0]).and_then(|message| message.reactions.remove(&ids[1])) {
            None => refused(400, 231_011, "The reaction_id is invalid"),
            Some(emoji) => fine(&json!({"reaction_id": ids[1], "reaction_type": {"emoji_type": emoji}})),
        },
        _ => resource(state, ids, request),
    }
}

fn resource(state: &mut State, ids: &[String], request: &Request) -> Reply {
    let asked = parameter(request.query(), "type");
    match (asked, state.files.get(&(ids[0].clone(), ids[1].clone()))) {
        (None, _) => refused(400, 234_001, "Invalid request param"),
        (Some(asked), Some((kind, media_type, content))) if asked == *kind => {
            (200, vec![("Content-Type", (*media_type).to_owned())], content.clone())
        }
        _ => refused(400, 234_003, "File not in msg"),
    }
}

/// Checks what is said; the content as a value, or the refusal.
fn content(state: &mut State, kind: &str, body: &Value) -> Result<Value, Reply> {
    let text = body["content"].as_str().unwrap_or_default();
    let Ok(value) = serde_json::from_str::<Value>(text) else { return Err(refused(400, 230_001, "invalid request parameters, content")) };
    let (bytes_max, fine) = match kind {
        "text" => (150_000, value["text"].as_str().is_some_and(|text| !text.trim().is_empty())),
        "post" => (30_000, value["zh_cn"]["content"][0][0]["tag"] == "md" && value["zh_cn"]["content"][0][0]["text"].is_string()),
        "interactive" => {
            (30_000, value["config"]["update_multi"] == true && value["elements"].as_array().is_some_and(|all| !all.is_empty()))
        }
        _ => (0, false),
    };
    if !fine {
        state.complain(format!("{kind}: {text:.300}"));
        return Err(refused(400, 230_001, "content format is incorrect"));
    }
    if text.len() > bytes_max {
        return Err(refused(400, 230_025, "The length of the message content reaches its limit"));
    }
    // Everybody in the chat would be called.
    if kind != "file" && ["<at user_id=\\\"all", "<at id=all", "<at user_id=\\\"ou_"].iter().any(|call| text.contains(call)) {
        state.complain(format!("somebody is called: {text:.300}"));
    }
    if kind == "interactive" && text.contains("![") {
        return Err(refused(400, 230_099, "Failed to create card content, ext=ErrCode: 11310; ErrMsg: image key is invalid"));
    }
    if kind == "post" && text.contains("refuse-this-post")
        || kind == "interactive" && text.contains("refuse-this-card") && text.contains("markdown")
    {
        let code = if kind == "post" { 230_001 } else { 230_099 };
        return Err(refused(400, code, "content format of the post type is incorrect"));
    }
    Ok(value)
}

fn known_fields(state: &mut State, what: &str, body: &Value, fields: &[&str]) {
    let unknown: Vec<&String> =
        body.as_object().map_or_else(Vec::new, |body: &Map<_, _>| body.keys().filter(|key| !fields.contains(&key.as_str())).collect());
    if !unknown.is_empty() {
        let what = format!("{what}: unknown fields {unknown:?}");
        state.complain(what);
    }
}

fn send(state: &mut State, answered: Option<&str>, request: &Request, body: &Value) -> Reply {
    let uuid = body["uuid"].as_str().unwrap_or_default().to_owned();
    if uuid.is_empty() || uuid.len() > 50 {
        state.complain(format!("a message without a key that can be: {uuid:?}"));
    }
    if let Some(made) = state.uuids.get(&uuid).cloned() {
        return match state.message(&made) {
            Some(message) => fine(&shown(message, &state.app_id)),
            None => refused(500, 1, "gone"),
        };
    }
    let (chat, thread) = match answered {
        None => {
            known_fields(state, "create", body, &["receive_id", "msg_type", "content", "uuid"]);
            let kind = parameter(request.query(), "receive_id_type").unwrap_or_default();
            let id = body["receive_id"].as_str().unwrap_or_default().to_owned();
            match kind.as_str() {
                "chat_id" if state.chats.contains_key(&id) => (id, None),
                "chat_id" => return refused(400, 230_002, "Bot/User can NOT be out of the chat."),
                "open_id" if id.starts_with("ou_") => (format!("oc_{}", &id[3..]), None),
                _ => return refused(400, 99_992_402, "field validation failed"),
            }
        }
        Some(id) => {
            known_fields(state, "reply", body, &["msg_type", "content", "reply_in_thread", "uuid"]);
            let Some(message) = state.message(id) else { return refused(400, 231_003, "The message is not found") };
            if message.deleted {
                return refused(400, 230_011, "The message was withdrawn.");
            }
            let in_thread = body["reply_in_thread"].as_bool().unwrap_or(false);
            let thread = message.thread.clone().or_else(|| in_thread.then(|| format!("omt_{}", message.id)));
            (message.chat.clone(), thread.filter(|_| in_thread || message.thread.is_some()))
        }
    };
    let recent = state.messages.iter().filter(|message| message.chat == chat && message.from_bot);
    let recent = recent.filter_map(|message| message.edits.first()).filter(|at| at.elapsed() < Duration::from_millis(900)).count();
    if recent >= 5 {
        state.complain(format!("{recent} messages to {chat} within a second"));
    }
    let kind = body["msg_type"].as_str().unwrap_or_default().to_owned();
    let content = match content(state, &kind, body) {
        Ok(content) => content,
        Err(reply) => return reply,
    };
    let message = Message {
        id: format!("om_{:032x}", state.next()),
        chat,
        from_bot: true,
        kind,
        content,
        reply_to: answered.map(str::to_owned),
        thread,
        edits: vec![Instant::now()],
        deleted: false,
        reactions: BTreeMap::new(),
        reacted: Vec::new(),
    };
    state.uuids.insert(uuid, message.id.clone());
    let reply = fine(&shown(&message, &state.app_id));
    state.messages.push(message);
    reply
}

fn shown(message: &Message, app_id: &str) -> Value {
    json!({"message_id": message.id, "root_id": "", "parent_id": message.reply_to.clone().unwrap_or_default(), "msg_type": message.kind,
        "create_time": "1792540812035", "update_time": "1792540812035", "deleted": false, "updated": false, "chat_id": message.chat,
        "sender": {"id": app_id, "id_type": "app_id", "sender_type": "app", "tenant_key": "736588c9260f175e"},
        "body": {"content": message.content.to_string()}})
}

fn edit(state: &mut State, method: &str, id: &str, body: &Value) -> Reply {
    let Some(message) = state.message(id).filter(|message| message.from_bot) else {
        return refused(400, 231_003, "The message is not found");
    };
    if message.deleted {
        return refused(400, 230_011, "The message was withdrawn.");
    }
    let (is_card, edits, kind) = (message.kind == "interactive", message.edits.len() - 1, message.kind.clone());
    let in_a_second = message.edits.iter().filter(|at| at.elapsed() < Duration::from_millis(900)).count();
    match method {
        "patch" if !is_card => return refused(400, 230_001, "not a card"),
        "put" if is_card || body["msg_type"] != kind.as_str() => return refused(400, 230_001, "msg_type is invalid"),
        "put" if edits >= 20 => return refused(400, 230_072, "The message has reached the number of times it can be edited."),
        _ => {}
    }
    known_fields(state, method, body, if is_card { &["content"] } else { &["msg_type", "content"] });
    if in_a_second > 5 {
        state.complain(format!("{in_a_second} edits of one message within a second"));
        return refused(400, 230_020, "This operation triggers the frequency limit.");
    }
    match content(state, &kind, body) {
        Err(reply) => reply,
        Ok(content) => {
            let message = state.message_mut(id).expect("it was there");
            message.content = content;
            message.edits.push(Instant::now());
            fine(&json!({}))
        }
    }
}
