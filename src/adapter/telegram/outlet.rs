//! Sending: Markdown as HTML, one call a part. Owns the thread `adapter/NAME/send`.
//!
//! Telegram has no idempotency keys: what may have arrived is `Ambiguous` and never sent again from here.

use super::Settings;
use super::api::{Api, ApiError, Failure, Refusal};
use super::pace::{Pace, Use};
use super::protocol::message_number;
use crate::adapter::lenient::to_integer;
use crate::adapter::{Outlet, Part, Preview, SendError};
use crate::clock::{self, Deadline};
use crate::core::types::ChatRef;
use crate::limits;
use crate::net::{NetError, NetOptions};
use crate::text::split::{Unit, split};
use crate::text::{html, plain};
use crate::thread::{CancelToken, enter};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Parts are split a little below the limit: bullets, rules and padded tables can be longer than their Markdown.
pub(super) const PART_UTF16: usize = limits::TELEGRAM_TEXT_UTF16_MAX - 196;
/// A part that grows even so is split again, down to this; the last resort is its Markdown, which fits.
const PART_UTF16_MIN: usize = 256;
/// Bot API, InlineKeyboardButton.
const CALLBACK_BYTES_MAX: usize = 64;
const BUTTONS_PER_ROW: usize = 3;
/// The topic "General" of a forum: an id for `sendChatAction`, but unknown to `sendMessage`.
const GENERAL_TOPIC: i64 = 1;

pub(super) struct TelegramOutlet {
    api: Api,
    token: CancelToken,
    pace: Pace,
}

/// What is put into a request; things that the server refuses are left out the next time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    html: bool,
    reply: bool,
    thread: bool,
    buttons: bool,
}

impl Form {
    pub(super) const FULL: Self = Self { html: true, reply: true, thread: true, buttons: true };

    /// Leaves out what the server did not like. → whether that is worth another try
    fn amend(&mut self, refusal: &Refusal) -> bool {
        let html = ["can't parse entities", "message is too long", "message text is empty"];
        let part = if html.iter().any(|words| refusal.says(words)) {
            &mut self.html
        } else if refusal.says("thread not found") {
            &mut self.thread
        } else if refusal.says("repl") && refusal.says("not found") {
            &mut self.reply
        } else if refusal.says("button_") || refusal.says("reply markup") {
            &mut self.buttons
        } else {
            return false;
        };
        refusal.code == 400 && std::mem::replace(part, false)
    }
}

impl TelegramOutlet {
    pub fn new(settings: &Arc<Settings>, net: &NetOptions, token: &CancelToken) -> Self {
        Self { api: Api::new(settings, net, token), token: token.clone(), pace: Pace::new(settings.rate_limit) }
    }

    /// Waits for this chat's turn, within reason.
    fn wait_turn(&self, chat: &str, deadline: Deadline) -> Result<(), SendError> {
        let wait = self.pace.wait(chat, Use::Message, clock::now());
        if wait.is_zero() {
            return Ok(());
        }
        if wait > limits::TELEGRAM_PACE_WAIT || wait > deadline.remaining() {
            return Err(SendError::Retry { cause: "Telegram's limit on messages is reached".to_owned(), after: Some(wait) });
        }
        let _busy = enter(format_args!("telegram: keeping to the rate limit"), deadline);
        self.token.sleep(wait).map_err(|_| SendError::Cancelled)
    }

    /// Sends or edits, leaving out what the server refuses.
    fn deliver(&mut self, method: &'static str, message: Option<i64>, part: &Part<'_>, deadline: Deadline) -> Result<Value, SendError> {
        let deadline = deadline.within(limits::TELEGRAM_CALL);
        let mut form = Form::FULL;
        // One go for each thing that can be left out.
        for _ in 0..5 {
            let payload = payload(part, message, form)?;
            self.pace.take(&part.chat.chat, clock::now());
            let _busy = enter(format_args!("telegram {method}"), deadline);
            match self.api.call(method, &payload, deadline) {
                Ok(result) => return Ok(result),
                // The text is what it should be.
                Err(ApiError { failure: Failure::Refused(ref refusal), .. }) if refusal.says("message is not modified") => {
                    return Ok(Value::Null);
                }
                Err(ApiError { failure: Failure::Refused(ref refusal), .. }) if form.amend(refusal) => {
                    log::info!(target: "telegram", "{method}: {}; trying in a simpler form", refusal.description);
                }
                Err(error) => return Err(self.failed(&error, &part.chat.chat, message.is_some())),
            }
        }
        Err(SendError::Reject { cause: format!("{method}: refused in every form") })
    }

    fn send_now(&mut self, part: &Part<'_>, deadline: Deadline) -> Result<String, SendError> {
        let result = self.deliver("sendMessage", None, part, deadline)?;
        let number = result.get("message_id").and_then(to_integer);
        let no_id = || SendError::Ambiguous { cause: "sendMessage: an answer without a message_id".to_owned() };
        number.map(|number| number.to_string()).ok_or_else(no_id)
    }

    /// Classifies a failed call, once. `idempotent`: doing it twice does no harm.
    fn failed(&mut self, error: &ApiError, chat: &str, idempotent: bool) -> SendError {
        if error.code() == Some(429) {
            // Everything else for this chat waits too.
            self.pace.block(chat, error.retry_after().unwrap_or(Duration::from_secs(5)), clock::now());
        }
        classify(error, idempotent)
    }
}

fn no_such_message(platform_id: &str) -> SendError {
    SendError::Reject { cause: format!("{platform_id:?} is not the id of a Telegram message") }
}

/// What a failed call means for the message. Pure.
fn classify(error: &ApiError, idempotent: bool) -> SendError {
    let cause = error.to_string();
    let unknown = |cause| if idempotent { SendError::Retry { cause, after: None } } else { SendError::Ambiguous { cause } };
    let after = error.retry_after();
    let fatal = |remedy: &str| SendError::Fatal { cause: cause.clone(), remedy: remedy.to_owned() };
    match &error.failure {
        Failure::Net(NetError::Cancelled) => SendError::Cancelled,
        Failure::Net(NetError::BadUrl(_)) => fatal("correct `base_url`"),
        Failure::Net(error) if error.request_sent() => unknown(cause),
        Failure::Net(_) => SendError::Retry { cause, after: None },
        Failure::Refused(Refusal { migrate_to: Some(chat), .. }) => SendError::Moved { chat: chat.clone() },
        Failure::Refused(refusal) => match refusal.code {
            401 => fatal("Telegram does not know this token any more: get a new one from @BotFather and put it into `token`"),
            404 => fatal("check `token` and `base_url`: Telegram does not know the address"),
            409 | 420 | 429 | 500.. => SendError::Retry { cause, after },
            _ => SendError::Reject { cause },
        },
        // From something in between, which did not pass the request on, or from a server in trouble.
        Failure::Garbage { status: 413, .. } => SendError::Reject { cause },
        Failure::Garbage { status: 300.., .. } => SendError::Retry { cause, after },
        Failure::Garbage { .. } => unknown(cause),
    }
}

/// The request for a part. `message`: the one to be edited.
pub(super) fn payload(part: &Part<'_>, message: Option<i64>, form: Form) -> Result<Value, SendError> {
    let rendered = Some(html::telegram(part.text)).filter(|html| form.html && fits(html));
    let mut payload = json!({"chat_id": chat_id(&part.chat.chat), "link_preview_options": {"is_disabled": true}});
    let text = match rendered {
        Some(html) => {
            payload["parse_mode"] = json!("HTML");
            html.text
        }
        None => plain::plain(part.text),
    };
    if text.trim().is_empty() {
        return Err(SendError::Reject { cause: "there is nothing to be seen in the message".to_owned() });
    }
    payload["text"] = json!(text);
    if let Some(number) = message {
        payload["message_id"] = json!(number);
    } else {
        if let Some(thread) = thread(part.chat).filter(|thread| form.thread && *thread != GENERAL_TOPIC) {
            payload["message_thread_id"] = json!(thread);
        }
        if let Some(number) = part.reply_to.filter(|_| form.reply).and_then(message_number) {
            payload["reply_parameters"] = json!({"message_id": number, "allow_sending_without_reply": true});
        }
    }
    let buttons = part.buttons.iter().filter(|(label, command)| {
        let fine = !label.trim().is_empty() && (1..=CALLBACK_BYTES_MAX).contains(&command.len());
        if !fine {
            log::warn!(target: "telegram", "left out the button {label:?}: its command has {} bytes", command.len());
        }
        fine && form.buttons
    });
    let buttons: Vec<Value> = buttons.map(|(label, command)| json!({"text": label, "callback_data": command})).collect();
    if !buttons.is_empty() {
        payload["reply_markup"] = json!({"inline_keyboard": buttons.chunks(BUTTONS_PER_ROW).collect::<Vec<_>>()});
    }
    Ok(payload)
}

/// Ids are numbers; a channel may be named.
fn chat_id(chat: &str) -> Value {
    chat.parse::<i64>().map_or_else(|_| json!(chat), |id| json!(id))
}

fn thread(chat: &ChatRef) -> Option<i64> {
    chat.thread.as_deref().and_then(|thread| thread.parse().ok())
}

fn fits(html: &html::Html) -> bool {
    html.visible_utf16 <= limits::TELEGRAM_TEXT_UTF16_MAX && !html.blank
}

/// Parts whose HTML fits too, as far as that can be had.
pub(super) fn split_rendered(text: &str, limit: usize) -> Vec<String> {
    let mut parts = Vec::new();
    for part in split(text, Unit::Utf16, limit) {
        if html::telegram(&part).visible_utf16 <= limits::TELEGRAM_TEXT_UTF16_MAX || limit / 2 < PART_UTF16_MIN {
            parts.push(part);
        } else {
            parts.extend(split_rendered(&part, limit / 2));
        }
    }
    parts
}

impl Outlet for TelegramOutlet {
    fn split(&self, text: &str) -> Vec<String> {
        split_rendered(text, PART_UTF16)
    }

    fn send(&mut self, part: &Part<'_>, deadline: Deadline) -> Result<String, SendError> {
        self.wait_turn(&part.chat.chat, deadline)?;
        self.send_now(part, deadline)
    }

    fn edit(&mut self, platform_id: &str, part: &Part<'_>, deadline: Deadline) -> Result<(), SendError> {
        self.wait_turn(&part.chat.chat, deadline)?;
        let number = message_number(platform_id).ok_or_else(|| no_such_message(platform_id))?;
        self.deliver("editMessageText", Some(number), part, deadline).map(drop)
    }

    /// Like the default, but a preview that would have to wait is left out: the next one says more.
    fn preview(&mut self, chat: &ChatRef, previous: Option<&str>, preview: &Preview, deadline: Deadline) -> Result<String, SendError> {
        let wait = self.pace.wait(&chat.chat, Use::Preview, clock::now());
        if !wait.is_zero() {
            return Err(SendError::Retry { cause: "too soon for another preview".to_owned(), after: Some(wait) });
        }
        let text = self.split(&preview.render()).pop().unwrap_or_default();
        let part = Part { chat, text: &text, reply_to: None, buttons: &[], key: "" };
        match previous {
            Some(id) => self.edit(id, &part, deadline).map(|()| id.to_owned()),
            None => self.send_now(&part, deadline),
        }
    }

    fn typing(&mut self, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError> {
        let blocked = self.pace.blocked(&chat.chat, clock::now());
        if !blocked.is_zero() {
            return Err(SendError::Retry { cause: "Telegram asked for silence in this chat".to_owned(), after: Some(blocked) });
        }
        let mut payload = json!({"chat_id": chat_id(&chat.chat), "action": "typing"});
        if let Some(thread) = thread(chat) {
            payload["message_thread_id"] = json!(thread);
        }
        let deadline = deadline.within(limits::TELEGRAM_CALL);
        let _busy = enter(format_args!("telegram sendChatAction"), deadline);
        self.api.call("sendChatAction", &payload, deadline).map(drop).map_err(|error| self.failed(&error, &chat.chat, true))
    }

    fn delete(&mut self, chat: &ChatRef, platform_id: &str, deadline: Deadline) -> Result<(), SendError> {
        let number = message_number(platform_id).ok_or_else(|| no_such_message(platform_id))?;
        let deadline = deadline.within(limits::TELEGRAM_CALL);
        let _busy = enter(format_args!("telegram deleteMessage"), deadline);
        let payload = json!({"chat_id": chat_id(&chat.chat), "message_id": number});
        match self.api.call("deleteMessage", &payload, deadline) {
            Err(ApiError { failure: Failure::Refused(refusal), .. }) if refusal.says("message to delete not found") => Ok(()),
            Err(error) => Err(self.failed(&error, &chat.chat, true)),
            Ok(_) => Ok(()),
        }
    }
}
