//! What WeCom's server does with the frames that it is sent, and what it refuses.

use super::wecom::{Shown, State};
use aes::Aes256;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use base64::Engine as _;
use serde_json::Value;
use std::time::Instant;

/// "stream.content", "markdown.content": bytes of UTF-8.
const CONTENT_BYTES_MAX: usize = 20_480;
const MESSAGES_A_MINUTE: usize = 30;

/// Takes a frame apart. What has not the right shape is a violation.
pub fn read(state: &mut State, text: &str) -> Option<(String, String, Value)> {
    let frame: Value = match serde_json::from_str(text) {
        Ok(frame) => frame,
        Err(error) => {
            state.violation(format!("not JSON: {error}"));
            return None;
        }
    };
    let keys: Vec<&str> = frame.as_object().map(|frame| frame.keys().map(String::as_str).collect()).unwrap_or_default();
    let (cmd, req_id) = (frame["cmd"].as_str().unwrap_or_default(), frame["headers"]["req_id"].as_str().unwrap_or_default());
    if cmd.is_empty() || req_id.is_empty() || keys.iter().any(|key| !["cmd", "headers", "body"].contains(key)) {
        state.violation(format!("a frame of another shape: {frame}"));
        return None;
    }
    let own = ["aibot_subscribe", "ping", "aibot_send_msg"].contains(&cmd);
    if own {
        // prefix, milliseconds, eight digits
        let parts: Vec<&str> = req_id.rsplitn(3, '_').collect();
        let fine = parts.len() == 3 && parts[2] == cmd && parts[1].parse::<u64>().is_ok() && parts[0].len() == 8;
        let used = state.journal.iter().any(|sent| sent.req_id == req_id);
        if !fine || used {
            state.violation(format!("{cmd} with the id {req_id}, used before: {used}"));
        }
    }
    if cmd == "ping" && !frame["body"].is_null() {
        state.violation(format!("a ping with a body: {frame}"));
    }
    Some((cmd.to_owned(), req_id.to_owned(), frame["body"].clone()))
}

/// Does what a frame asks for. → `errcode` and `errmsg`
pub fn apply(state: &mut State, cmd: &str, req_id: &str, body: &Value) -> (i64, &'static str) {
    match cmd {
        "aibot_respond_msg" => respond(state, req_id, body),
        "aibot_send_msg" => push(state, body),
        "aibot_respond_welcome_msg" => welcome(state, req_id, body),
        _ => {
            state.violation(format!("the unknown command {cmd}"));
            (40058, "unknown cmd")
        }
    }
}

fn keys_are(value: &Value, keys: &[&str]) -> bool {
    value.as_object().is_some_and(|value| value.len() == keys.len() && keys.iter().all(|key| value.contains_key(*key)))
}

fn content<'a>(state: &mut State, value: &'a Value) -> Option<&'a str> {
    let text = value["content"].as_str().filter(|text| !text.is_empty());
    let control = text.is_some_and(|text| text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
    if text.is_none() || control || text.is_some_and(|text| text.len() > CONTENT_BYTES_MAX) {
        state.violation(format!("empty, too long, or with control characters: {value:.200}"));
        return None;
    }
    text
}

fn respond(state: &mut State, req_id: &str, body: &Value) -> (i64, &'static str) {
    let stream = &body["stream"];
    let fine = keys_are(body, &["msgtype", "stream"]) && body["msgtype"] == "stream" && keys_are(stream, &["id", "finish", "content"]);
    let (Some(id), Some(finish)) = (stream["id"].as_str().filter(|id| fine && !id.is_empty()), stream["finish"].as_bool()) else {
        state.violation(format!("a reply of another shape: {body}"));
        return (40058, "invalid body");
    };
    let Some(text) = content(state, stream) else { return (40058, "invalid content") };
    let Some(callback) = state.callbacks.get(req_id).filter(|callback| callback.known).cloned() else { return (846_605, "invalid req_id") };
    let place = (req_id.to_owned(), id.to_owned());
    let moment = (Instant::now(), text.to_owned());
    if let Some(shown) = state.shown.iter_mut().find(|shown| shown.stream.as_ref() == Some(&place)) {
        if shown.finished || callback.expired {
            return (846_608, "stream message update expired");
        }
        text.clone_into(&mut shown.text);
        shown.history.push(moment);
        shown.finished = finish;
        return (0, "ok");
    }
    if state.shown.iter().any(|shown| shown.stream.as_ref().is_some_and(|(known, _)| known == req_id)) {
        state.violation(format!("a second stream in answer to {req_id}: {body}"));
        return (846_605, "invalid req_id");
    }
    add(state, Shown { chat: callback.chat, text: text.to_owned(), stream: Some(place), finished: finish, history: vec![moment] })
}

fn push(state: &mut State, body: &Value) -> (i64, &'static str) {
    let fine =
        keys_are(body, &["chatid", "msgtype", "markdown"]) && body["msgtype"] == "markdown" && keys_are(&body["markdown"], &["content"]);
    let Some(chat) = body["chatid"].as_str().filter(|_| fine) else {
        state.violation(format!("a message of another shape: {body}"));
        return (40058, "invalid body");
    };
    let Some(text) = content(state, &body["markdown"]) else { return (40058, "invalid content") };
    if !state.callbacks.values().any(|callback| callback.chat == chat) {
        return (93_001, "the chat has not spoken to the bot");
    }
    let history = vec![(Instant::now(), text.to_owned())];
    add(state, Shown { chat: chat.to_owned(), text: text.to_owned(), stream: None, finished: true, history })
}

fn welcome(state: &mut State, req_id: &str, body: &Value) -> (i64, &'static str) {
    let Some(callback) =
        state.callbacks.get(req_id).filter(|callback| callback.frame["body"]["event"]["eventtype"] == "enter_chat").cloned()
    else {
        return (846_605, "invalid req_id");
    };
    if !keys_are(body, &["msgtype", "text"]) || body["msgtype"] != "text" {
        state.violation(format!("a welcome of another shape: {body}"));
    }
    let Some(text) = content(state, &body["text"]) else { return (40058, "invalid content") };
    let history = vec![(Instant::now(), text.to_owned())];
    add(state, Shown { chat: callback.chat, text: text.to_owned(), stream: None, finished: true, history })
}

fn add(state: &mut State, shown: Shown) -> (i64, &'static str) {
    if state.sent_in_a_minute(&shown.chat) >= MESSAGES_A_MINUTE {
        state.violation(format!("more than {MESSAGES_A_MINUTE} messages a minute in {}", shown.chat));
        return (45_009, "api freq out of limit");
    }
    state.shown.push(shown);
    (0, "ok")
}

/// AES-256-CBC, padded to 32 bytes; the vector is the first half of the key.
pub fn encrypt(plain: &[u8], key: &[u8; 32]) -> Vec<u8> {
    let padding = 32 - plain.len() % 32;
    let mut padded = plain.to_vec();
    padded.resize(plain.len() + padding, u8::try_from(padding).expect("at most 32"));
    let cipher = Aes256::new(&(*key).into());
    let mut before: [u8; 16] = key[..16].try_into().expect("half a key");
    let mut out = Vec::with_capacity(padded.len());
    for chunk in padded.chunks(16) {
        let mut block: [u8; 16] = chunk.try_into().expect("a whole block");
        block.iter_mut().zip(before).for_each(|(byte, other)| *byte ^= other);
        let mut block = block.into();
        cipher.encrypt_block(&mut block);
        before = block.into();
        out.extend_from_slice(&before);
    }
    out
}

pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// As in `filename*=UTF-8''…`.
pub fn escaped(name: &str) -> String {
    name.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() || byte == b'.' { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
