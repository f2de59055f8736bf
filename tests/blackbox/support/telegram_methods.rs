//! The methods of the fake Bot API: what each requires, what it does, what it answers.

use super::html;
use super::http::{Connection, Fault, Next, Request, misbehave, response};
use super::params::{Params, decode};
use super::telegram::{BOT_ID, BOT_NAME, Chat, Message, Shared, State};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

const METHODS: [&str; 14] = [
    "getMe",
    "deleteWebhook",
    "setMyCommands",
    "getUpdates",
    "sendMessage",
    "editMessageText",
    "editMessageReplyMarkup",
    "deleteMessage",
    "sendChatAction",
    "answerCallbackQuery",
    "getFile",
    "setMessageReaction",
    "sendDocument",
    "getWebhookInfo",
];

/// An error as the server words it: code, description, parameters.
type Failure = (u16, String, Option<Value>);
type Answer = Result<Value, Failure>;

fn bad(description: &str) -> Failure {
    (400, format!("Bad Request: {description}"), None)
}

pub fn serve(shared: &Shared, request: &Request, connection: &mut Connection) -> Next {
    let token = shared.lock().token.clone();
    if let Some(path) = request.path().strip_prefix(&format!("/file/bot{token}/")) {
        return download(shared, path, connection);
    }
    let Some(name) = request.path().strip_prefix(&format!("/bot{token}/")) else {
        let status = if request.path().starts_with("/bot") { 401 } else { 404 };
        record(shared, request.path().rsplit('/').next().unwrap_or_default(), Map::new(), None, status);
        let answer = envelope(&Err((status, super::http::reason(status).to_owned(), None)));
        return if connection.raw(&answer).is_ok() { Next::KeepAlive } else { Next::Close };
    };
    let method = METHODS.iter().find(|known| known.eq_ignore_ascii_case(name)).copied().unwrap_or(name).to_owned();
    let params = match decode(request) {
        Ok(params) => params,
        Err(cause) => {
            record(shared, &method, Map::new(), None, 400);
            let _ = connection.raw(&envelope(&Err(bad(&cause))));
            return Next::Close;
        }
    };
    let fault = take_fault(shared, &method);
    let entry = record(shared, &method, params.fields.clone(), fault.clone(), 0);
    if let Some(fault) = fault {
        if let Fault::Status { code, .. } = fault {
            settle(shared, entry, code);
        }
        if fault == Fault::CloseAfter && method == "getUpdates" {
            // Nothing is wrong with the answer: it is waited for.
            let Some(answer) = get_updates(shared, &params, connection) else { return Next::Close };
            return misbehave(&fault, connection, || envelope(&answer));
        }
        return misbehave(&fault, connection, || {
            let answer = if method == "getUpdates" { Some(updates_now(shared, &params)) } else { None };
            envelope(&answer.unwrap_or_else(|| call(shared, &method, &params)))
        });
    }
    let answer = if method == "getUpdates" { get_updates(shared, &params, connection) } else { Some(call(shared, &method, &params)) };
    let Some(answer) = answer else { return Next::Close };
    settle(shared, entry, answer.as_ref().map_or_else(|failure| failure.0, |_| 200));
    if connection.raw(&envelope(&answer)).is_ok() { Next::KeepAlive } else { Next::Close }
}

fn record(shared: &Shared, method: &str, params: Map<String, Value>, fault: Option<Fault>, status: u16) -> usize {
    let mut state = shared.lock();
    state.journal.push(super::telegram::Call { at: Instant::now(), method: method.to_owned(), params, status, fault });
    shared.changed.notify_all();
    state.journal.len() - 1
}

fn settle(shared: &Shared, entry: usize, status: u16) {
    shared.lock().journal[entry].status = status;
    shared.changed.notify_all();
}

fn take_fault(shared: &Shared, method: &str) -> Option<Fault> {
    let mut state = shared.lock();
    let at = state.faults.iter().position(|(of, _, count)| (of == "*" || of == method) && *count > 0)?;
    state.faults[at].2 -= 1;
    Some(state.faults[at].1.clone())
}

fn envelope(answer: &Answer) -> Vec<u8> {
    let (status, body) = match answer {
        Ok(result) => (200, json!({"ok": true, "result": result})),
        Err((code, description, parameters)) => {
            let mut body = json!({"ok": false, "error_code": code, "description": description});
            if let Some(parameters) = parameters {
                body["parameters"] = parameters.clone();
            }
            (*code, body)
        }
    };
    response(status, &[("Content-Type", "application/json"), ("Server", "nginx/1.18.0")], body.to_string().as_bytes())
}

fn call(shared: &Shared, method: &str, params: &Params) -> Answer {
    let mut state = shared.lock();
    let answer = match method {
        "getMe" => Ok(json!({"id": BOT_ID, "is_bot": true, "first_name": "Gate", "username": BOT_NAME, "can_join_groups": true,
            "can_read_all_group_messages": state.reads_all, "supports_inline_queries": false})),
        "deleteWebhook" => {
            state.webhook = false;
            if params.flag("drop_pending_updates") {
                state.updates.clear();
            }
            Ok(json!(true))
        }
        "getWebhookInfo" => Ok(json!({"url": "", "has_custom_certificate": false, "pending_update_count": state.updates.len()})),
        "setMyCommands" => set_commands(&mut state, params),
        "sendMessage" => send_message(&mut state, params),
        "editMessageText" => edit_message(&mut state, params),
        "editMessageReplyMarkup" => edit_markup(&mut state, params),
        "deleteMessage" => delete_message(&mut state, params),
        "sendChatAction" => chat_action(&mut state, params),
        "answerCallbackQuery" => answer_callback(&mut state, params),
        "getFile" => get_file(&state, params),
        "setMessageReaction" => set_reaction(&mut state, params),
        "sendDocument" => send_document(&mut state, params),
        _ => Err((404, "Not Found".to_owned(), None)),
    };
    drop(state);
    shared.changed.notify_all();
    answer
}

// --- receiving ---

fn confirm(state: &mut State, params: &Params) -> i64 {
    let offset = params.int("offset").unwrap_or(0);
    if let Some(Value::Array(kinds)) = params.json("allowed_updates") {
        state.allowed_updates = Some(kinds.iter().filter_map(|kind| kind.as_str().map(str::to_owned)).collect());
    }
    if offset < 0 {
        let keep = usize::try_from(-offset).unwrap_or(usize::MAX);
        let surplus = state.updates.len().saturating_sub(keep);
        state.updates.drain(..surplus);
    } else if offset > 0 {
        state.updates.retain(|(id, _)| *id >= offset);
        state.confirmed = state.confirmed.max(offset);
    }
    offset
}

fn pick(state: &mut State, params: &Params) -> Vec<Value> {
    // Kinds that were not asked for are never queued by the real server.
    if let Some(kinds) = state.allowed_updates.clone().filter(|kinds| !kinds.is_empty()) {
        state.updates.retain(|(_, update)| kinds.iter().any(|kind| update.get(kind).is_some()));
    }
    let limit = params.int("limit").filter(|limit| (1..=100).contains(limit)).unwrap_or(100);
    state.updates.iter().take(usize::try_from(limit).expect("1 to 100")).map(|(_, update)| update.clone()).collect()
}

fn updates_now(shared: &Shared, params: &Params) -> Answer {
    let mut state = shared.lock();
    confirm(&mut state, params);
    let picked = pick(&mut state, params);
    drop(state);
    shared.changed.notify_all();
    Ok(json!(picked))
}

/// Waits for updates. `None`: the client has gone, there is nobody to answer.
fn get_updates(shared: &Shared, params: &Params, connection: &Connection) -> Option<Answer> {
    shared.lock().polling += 1;
    let answer = wait_for_updates(shared, params, connection);
    shared.lock().polling -= 1;
    answer
}

fn wait_for_updates(shared: &Shared, params: &Params, connection: &Connection) -> Option<Answer> {
    let mut state = shared.lock();
    if state.webhook {
        let description = "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the webhook first";
        return Some(Err((409, description.to_owned(), None)));
    }
    state.pollers += 1;
    let me = state.pollers;
    confirm(&mut state, params);
    shared.changed.notify_all();
    let seconds = params.int("timeout").unwrap_or(0).clamp(0, 50);
    let end = Instant::now() + Duration::from_secs(u64::try_from(seconds).expect("not negative"));
    loop {
        if state.pollers != me {
            let description = "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running";
            return Some(Err((409, description.to_owned(), None)));
        }
        let picked = pick(&mut state, params);
        let now = Instant::now();
        if !picked.is_empty() || now >= end {
            return Some(Ok(json!(picked)));
        }
        if connection.stopping() || connection.peer_gone() {
            return None;
        }
        let pause = (end - now).min(Duration::from_millis(100));
        state = shared.changed.wait_timeout(state, pause).unwrap_or_else(std::sync::PoisonError::into_inner).0;
    }
}

fn get_file(state: &State, params: &Params) -> Answer {
    let id = params.text("file_id").ok_or_else(|| bad("file_id is empty"))?;
    let (path, bytes) = state.files.get(id).ok_or_else(|| bad("wrong file_id or the file is temporarily unavailable"))?;
    if bytes.len() > 20 << 20 {
        return Err(bad("file is too big"));
    }
    Ok(json!({"file_id": id, "file_unique_id": format!("AQAD{}", bytes.len()), "file_size": bytes.len(), "file_path": path}))
}

fn download(shared: &Shared, path: &str, connection: &mut Connection) -> Next {
    let fault = take_fault(shared, "download");
    record(shared, "download", Map::new(), fault.clone(), 200);
    let found = shared.lock().files.values().find(|(known, _)| known == path).map(|(_, bytes)| bytes.clone());
    let answer = || match found {
        Some(bytes) => response(200, &[("Content-Type", "application/octet-stream")], &bytes),
        None => envelope(&Err((404, "Not Found".to_owned(), None))),
    };
    if let Some(fault) = fault {
        return misbehave(&fault, connection, answer);
    }
    if connection.raw(&answer()).is_ok() { Next::KeepAlive } else { Next::Close }
}

// --- sending ---

fn chat_id(state: &State, params: &Params) -> Result<i64, Failure> {
    let id = params.int("chat_id").ok_or_else(|| bad("chat_id is empty"))?;
    let chat = state.chats.get(&id).ok_or_else(|| bad("chat not found"))?;
    if let Some(new) = chat.migrated_to {
        let description = "Bad Request: group chat was upgraded to a supergroup chat".to_owned();
        return Err((400, description, Some(json!({"migrate_to_chat_id": new}))));
    }
    if chat.blocked {
        return Err((403, "Forbidden: bot was blocked by the user".to_owned(), None));
    }
    Ok(id)
}

fn thread(chat: &Chat, params: &Params) -> Result<Option<i64>, Failure> {
    match params.int("message_thread_id") {
        None => Ok(None),
        Some(id) if id != 1 && chat.topics.contains(&id) => Ok(Some(id)),
        Some(_) => Err(bad("message thread not found")),
    }
}

/// The text as it is shown, and its entities.
fn formatted(text: Option<&str>, mode: Option<&str>, limit: usize) -> Result<(String, Vec<Value>), Failure> {
    let text = text.unwrap_or_default();
    let (plain, entities) = match mode {
        None | Some("") => (text.to_owned(), Vec::new()),
        Some(mode) if mode.eq_ignore_ascii_case("html") => {
            html::parse(text).map_err(|cause| bad(&format!("can't parse entities: {cause}")))?
        }
        Some(mode) if mode.eq_ignore_ascii_case("markdownv2") || mode.eq_ignore_ascii_case("markdown") => (text.to_owned(), Vec::new()),
        Some(_) => return Err(bad("unsupported parse_mode")),
    };
    if plain.trim().is_empty() {
        return Err(bad("message text is empty"));
    }
    if html::utf16(&plain) > limit {
        return Err(bad("message is too long"));
    }
    Ok((plain, entities))
}

fn buttons(params: &Params) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    let Some(markup) = params.json("reply_markup") else { return Ok(found) };
    for button in markup["inline_keyboard"].as_array().into_iter().flatten().flat_map(|row| row.as_array().into_iter().flatten()) {
        let label = button["text"].as_str().unwrap_or_default();
        let data = button["callback_data"].as_str().unwrap_or_default();
        if label.is_empty() {
            return Err(bad("can't parse inline keyboard button: text is empty"));
        }
        if !(1..=64).contains(&data.len()) {
            return Err(bad("BUTTON_DATA_INVALID"));
        }
        found.push((label.to_owned(), data.to_owned()));
    }
    Ok(found)
}

fn reply_to(chat: &Chat, params: &Params) -> Result<Option<i64>, Failure> {
    let parameters = params.json("reply_parameters");
    let (id, lenient) = match &parameters {
        Some(parameters) => (parameters["message_id"].as_i64(), parameters["allow_sending_without_reply"].as_bool().unwrap_or(false)),
        None => (params.int("reply_to_message_id"), params.flag("allow_sending_without_reply")),
    };
    let known = |id: &i64| chat.messages.iter().any(|message| message.id == *id && !message.deleted);
    match id {
        Some(id) if known(&id) => Ok(Some(id)),
        Some(_) if !lenient => Err(bad("message to be replied not found")),
        _ => Ok(None),
    }
}

fn message_json(state: &mut State, chat: i64, message: &Message) -> Value {
    let date = state.date();
    let mut value =
        json!({"message_id": message.id, "from": State::bot(), "chat": state.chat_json(chat), "date": date, "text": message.text});
    if !message.entities.is_empty() {
        value["entities"] = json!(message.entities);
    }
    if let Some(thread) = message.thread {
        value["message_thread_id"] = json!(thread);
        value["is_topic_message"] = json!(true);
    }
    value
}

fn send_message(state: &mut State, params: &Params) -> Answer {
    let id = chat_id(state, params)?;
    let (plain, entities) = formatted(params.text("text"), params.text("parse_mode"), 4096)?;
    let (thread, reply_to, buttons) = (thread(&state.chats[&id], params)?, reply_to(&state.chats[&id], params)?, buttons(params)?);
    let source = params.text("text").unwrap_or_default().to_owned();
    let message = state.chats.get_mut(&id).expect("checked").add(true, plain, source);
    (message.entities, message.thread, message.reply_to, message.buttons) = (entities, thread, reply_to, buttons);
    let message = message.clone();
    Ok(message_json(state, id, &message))
}

fn send_document(state: &mut State, params: &Params) -> Answer {
    let id = chat_id(state, params)?;
    let thread = thread(&state.chats[&id], params)?;
    let reply_to = reply_to(&state.chats[&id], params)?;
    let (name, bytes) = params.files.get("document").cloned().ok_or_else(|| bad("there is no document in the request"))?;
    if bytes.is_empty() {
        return Err(bad("file must be non-empty"));
    }
    let caption = match params.text("caption") {
        Some(caption) if !caption.is_empty() => formatted(Some(caption), params.text("parse_mode"), 1024)?.0,
        _ => String::new(),
    };
    let size = bytes.len();
    let message = state.chats.get_mut(&id).expect("checked").add(true, caption.clone(), caption);
    (message.thread, message.reply_to, message.document) = (thread, reply_to, Some((name.clone(), bytes)));
    let message = message.clone();
    let mut value = message_json(state, id, &message);
    let fields = value.as_object_mut().expect("a message is an object");
    fields.remove("text");
    fields.insert("document".to_owned(), json!({"file_id": "BQAC1", "file_unique_id": "AgAD1", "file_name": name, "file_size": size}));
    Ok(value)
}

fn own_message<'a>(state: &'a mut State, params: &Params, missing: &str, foreign: &str) -> Result<(i64, &'a mut Message), Failure> {
    let id = chat_id(state, params)?;
    let number = params.int("message_id").ok_or_else(|| bad("message_id is empty"))?;
    let chat = state.chats.get_mut(&id).expect("checked");
    let message = chat.messages.iter_mut().find(|message| message.id == number && !message.deleted).ok_or_else(|| bad(missing))?;
    if !message.from_bot && !foreign.is_empty() {
        return Err(bad(foreign));
    }
    Ok((id, message))
}

fn edit_message(state: &mut State, params: &Params) -> Answer {
    let (plain, entities) = formatted(params.text("text"), params.text("parse_mode"), 4096)?;
    let buttons = buttons(params)?;
    let (id, message) = own_message(state, params, "message to edit not found", "message can't be edited")?;
    if message.text == plain && message.entities == entities && message.buttons == buttons {
        return Err(bad(
            "message is not modified: specified new message content and reply markup are exactly the same as a current content and reply markup of the message",
        ));
    }
    message.edits.push((Instant::now(), plain.clone()));
    message.source = params.text("text").unwrap_or_default().to_owned();
    (message.text, message.entities, message.buttons) = (plain, entities, buttons);
    let message = message.clone();
    let mut value = message_json(state, id, &message);
    value["edit_date"] = value["date"].clone();
    Ok(value)
}

fn edit_markup(state: &mut State, params: &Params) -> Answer {
    let buttons = buttons(params)?;
    let (id, message) = own_message(state, params, "message to edit not found", "message can't be edited")?;
    if message.buttons == buttons {
        return Err(bad(
            "message is not modified: specified new message content and reply markup are exactly the same as a current content and reply markup of the message",
        ));
    }
    message.buttons = buttons;
    let message = message.clone();
    Ok(message_json(state, id, &message))
}

fn delete_message(state: &mut State, params: &Params) -> Answer {
    let (_, message) = own_message(state, params, "message to delete not found", "message can't be deleted")?;
    message.deleted = true;
    Ok(json!(true))
}

fn chat_action(state: &mut State, params: &Params) -> Answer {
    chat_id(state, params)?;
    match params.text("action") {
        Some("typing" | "upload_photo" | "upload_document" | "upload_voice" | "record_voice" | "find_location") => Ok(json!(true)),
        _ => Err(bad("wrong parameter action in request")),
    }
}

fn answer_callback(state: &mut State, params: &Params) -> Answer {
    let id = params.text("callback_query_id").ok_or_else(|| bad("callback_query_id is empty"))?;
    let text = params.text("text").unwrap_or_default().to_owned();
    match state.callbacks.get_mut(id) {
        Some(answer @ None) if text.chars().count() <= 200 => {
            *answer = Some(text);
            Ok(json!(true))
        }
        _ => Err(bad("query is too old and response timeout expired or query ID is invalid")),
    }
}

fn set_reaction(state: &mut State, params: &Params) -> Answer {
    let reaction = params.json("reaction").unwrap_or_else(|| json!([]));
    let emoji = |one: &Value| one["emoji"].as_str().map(str::to_owned);
    let emoji: Vec<String> = reaction.as_array().ok_or_else(|| bad("can't parse reaction"))?.iter().filter_map(emoji).collect();
    if emoji.len() > 1 {
        return Err(bad("REACTIONS_TOO_MANY"));
    }
    let (_, message) = own_message(state, params, "message to react not found", "")?;
    message.reactions = emoji;
    Ok(json!(true))
}

fn set_commands(state: &mut State, params: &Params) -> Answer {
    let Some(Value::Array(commands)) = params.json("commands") else { return Err(bad("can't parse BotCommand: expected an Array")) };
    let name = |command: &Value| {
        let name = command["command"].as_str().unwrap_or_default();
        (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let described = |command: &Value| (1..=256).contains(&command["description"].as_str().unwrap_or_default().chars().count());
    if commands.len() > 100 || !commands.iter().all(name) {
        return Err(bad("BOT_COMMAND_INVALID"));
    }
    if !commands.iter().all(described) {
        return Err(bad("BOT_COMMAND_DESCRIPTION_INVALID"));
    }
    state.commands = commands;
    Ok(json!(true))
}
