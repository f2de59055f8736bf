//! What an event means: a message for the gateway, news of a chat, or nothing. Pure.

use super::content::{self, FileRef, Me};
use super::wire::{ChatNews, Envelope, Head, Pressed, Received};
use crate::core::types::{ChatRef, Inbound, Memo};
use crate::limits;
use serde_json::Value;

/// A message, all but its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub inbound: Inbound,
    pub files: Vec<FileRef>,
    /// What a reply has to know: see [`Last`].
    pub memos: Vec<Memo>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    Message(Box<Taken>),
    /// For the log.
    News(String),
    /// Not for us, and why. It is acknowledged.
    Ignored(&'static str),
    /// It is not JSON: perhaps it is, the next time.
    Unreadable,
}

/// The message that was last taken in a chat or thread. Replies within a thread must name one of its messages, and the
/// working mark stands on one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Last {
    pub message: String,
    pub private: bool,
}

impl Last {
    pub fn key(chat: &ChatRef) -> String {
        format!("last:{}", place(chat))
    }

    fn memo(&self, chat: &ChatRef) -> Memo {
        Memo::new(Self::key(chat), format!("{} {}", if self.private { "p2p" } else { "group" }, self.message))
    }

    pub fn read(value: &str) -> Option<Self> {
        let (kind, message) = value.split_once(' ')?;
        is_message_id(message).then(|| Self { message: message.to_owned(), private: kind == "p2p" })
    }
}

/// A chat or one of its threads, as part of a memo's key.
pub(super) fn place(chat: &ChatRef) -> String {
    chat.thread.as_ref().map_or_else(|| chat.chat.clone(), |thread| format!("{}/{thread}", chat.chat))
}

/// Ids of messages become parts of addresses.
pub(super) fn is_message_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | '-'))
}

/// The platform's id within one of our message ids: `om_1`, `om_1/press/5e37`.
pub(super) fn message_of(id: &str) -> Option<&str> {
    id.split('/').next().filter(|id| is_message_id(id))
}

/// Understands one event. `now_ms` stands in where it has no time of its own.
pub(super) fn understand(payload: &[u8], adapter: &str, me: &Me, now_ms: i64) -> Meaning {
    let Ok(value) = serde_json::from_slice::<Value>(payload) else { return Meaning::Unreadable };
    let Ok(envelope) = serde_json::from_value::<Envelope>(value) else { return Meaning::Ignored("not an object") };
    let Some(head) = envelope.header else { return Meaning::Ignored("an event of the first schema") };
    let event = envelope.event.unwrap_or_default();
    let news = |what: &str| {
        let news: ChatNews = serde_json::from_value(event.clone()).unwrap_or_default();
        let name = news.name.map(|name| format!(" \"{}\"", crate::adapter::rest::readable(&name, 60))).unwrap_or_default();
        Meaning::News(format!("{what} {}{name}", crate::adapter::rest::readable(&news.chat_id.unwrap_or_default(), 60)))
    };
    match head.event_type.as_deref() {
        Some("im.message.receive_v1") => read_message(serde_json::from_value(event).unwrap_or_default(), &head, adapter, me, now_ms),
        Some("card.action.trigger") => read_press(serde_json::from_value(event).unwrap_or_default(), &head, adapter, now_ms),
        Some("im.chat.member.bot.added_v1") => news("the bot was added to the chat"),
        Some("im.chat.member.bot.deleted_v1") => news("the bot was removed from the chat"),
        _ => Meaning::Ignored("another kind of event"),
    }
}

fn read_message(received: Received, head: &Head, adapter: &str, me: &Me, now_ms: i64) -> Meaning {
    let Some(message) = received.message else { return Meaning::Ignored("without a message") };
    let Some(message_id) = message.message_id.filter(|id| is_message_id(id)) else { return Meaning::Ignored("without message_id") };
    let Some(chat_id) = message.chat_id.filter(|id| !id.is_empty()) else { return Meaning::Ignored("without chat_id") };
    let sender = received.sender.unwrap_or_default();
    if matches!(sender.sender_type.as_deref(), Some("bot" | "app")) {
        return Meaning::Ignored("from a bot");
    }
    let Some(sender_id) = sender.sender_id.as_ref().and_then(|ids| ids.any()).map(str::to_owned) else {
        return Meaning::Ignored("without a sender");
    };
    if sender_id == me.open_id {
        return Meaning::Ignored("our own");
    }
    let private = message.chat_type.as_deref() == Some("p2p");
    let addressed = private || message.mentions.iter().any(|mention| me.is(mention));
    let kind = message.message_type.unwrap_or_default();
    let content = content::read(&kind, message.content.as_deref().unwrap_or_default(), &message.mentions, me);
    let mut text = content.text;
    if text.is_empty() && content.files.is_empty() {
        // Nothing but the bot's name: the one who wrote it wants something.
        if !message.mentions.iter().any(|mention| me.is(mention)) {
            return Meaning::Ignored("without content");
        }
        text = format!("@{}", me.name);
    }
    let chat = ChatRef { adapter: adapter.to_owned(), chat: chat_id, thread: message.thread_id.filter(|thread| !thread.is_empty()) };
    let memos = vec![Last { message: message_id.clone(), private }.memo(&chat)];
    let inbound = Inbound {
        chat,
        message_id,
        sender_name: sender_id.clone(),
        sender: sender_id,
        text: bounded(text),
        attachments: Vec::new(),
        quote: None,
        private,
        addressed,
        sent_ms: message.create_time.or(head.create_time).unwrap_or(now_ms),
    };
    Meaning::Message(Box::new(Taken { inbound, files: content.files, memos }))
}

/// A press on a button that [`super::render::card`] has made.
fn read_press(pressed: Pressed, head: &Head, adapter: &str, now_ms: i64) -> Meaning {
    let value = pressed.action.and_then(|action| action.value).unwrap_or_default();
    let Some(command) = value.command.filter(|command| !command.trim().is_empty()) else {
        return Meaning::Ignored("a button without a command");
    };
    let Some(sender) = pressed.operator.as_ref().and_then(|ids| ids.any()).map(str::to_owned) else {
        return Meaning::Ignored("without an operator");
    };
    let context = pressed.context.unwrap_or_default();
    let place = context.open_chat_id.filter(|id| !id.is_empty()).zip(context.open_message_id.filter(|id| is_message_id(id)));
    let Some((chat, message)) = place else { return Meaning::Ignored("a button in no chat") };
    let event_id = head.event_id.as_deref().unwrap_or_default();
    let inbound = Inbound {
        chat: ChatRef { adapter: adapter.to_owned(), chat, thread: value.thread },
        // The message in front lets an answer refer to the one with the buttons.
        message_id: format!("{message}/press/{event_id}"),
        sender_name: sender.clone(),
        sender,
        text: bounded(command),
        attachments: Vec::new(),
        quote: None,
        private: value.private.unwrap_or(false),
        addressed: true,
        sent_ms: head.create_time.map_or(now_ms, |time| if time > 100_000_000_000_000 { time / 1000 } else { time }),
    };
    Meaning::Message(Box::new(Taken { inbound, files: Vec::new(), memos: Vec::new() }))
}

/// Feishu lets people write 150 KB; another server may send what it likes.
fn bounded(mut text: String) -> String {
    if text.len() > limits::INBOUND_TEXT_BYTES_MAX {
        let end = (0..=limits::INBOUND_TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n[cut: too long]");
    }
    text
}

#[cfg(test)]
mod tests;
