//! What an update means: a message for the gateway, news of a chat, or nothing. Pure.

use super::entities;
use super::wire::{CallbackQuery, ChatMemberUpdated, FileInfo, Message, Update, User};
use crate::adapter::lenient::to_integer;
use crate::core::types::{ChatRef, Inbound, Quote};
use crate::limits;
use serde_json::Value;

/// The bot itself, from `getMe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Me {
    pub id: i64,
    pub username: String,
}

impl Me {
    pub fn is_called(&self, name: &str) -> bool {
        !self.username.is_empty() && name.eq_ignore_ascii_case(&self.username)
    }
}

/// A file that a message announces; it is had with `getFile`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileRef {
    pub id: String,
    pub kind: &'static str,
    pub name: String,
    pub media_type: Option<String>,
    pub bytes: Option<u64>,
}

/// A message, all but its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub inbound: Inbound,
    pub files: Vec<FileRef>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    Message(Box<Taken>),
    /// A group became a supergroup.
    Moved {
        old: String,
        new: String,
    },
    /// The bot was added, removed, promoted …: for the log.
    Member {
        chat: String,
        change: String,
    },
    /// Not for us, and why.
    Ignored(&'static str),
}

/// An update, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Understood {
    pub meaning: Meaning,
    /// A press on a button, which must be answered by its id.
    pub callback: Option<String>,
}

impl From<Meaning> for Understood {
    fn from(meaning: Meaning) -> Self {
        Self { meaning, callback: None }
    }
}

/// The number of an update, from which the next offset follows.
pub(super) fn update_id(update: &Value) -> Option<u64> {
    u64::try_from(to_integer(update.get("update_id")?)?).ok()
}

/// Understands one update. `now_ms` stands in where the update has no time of its own.
pub(super) fn understand(update: Value, adapter: &str, me: &Me, now_ms: i64) -> Understood {
    let Ok(update) = serde_json::from_value::<Update>(update) else { return Meaning::Ignored("not an object").into() };
    if let Some(message) = update.message {
        return read_message(&message, adapter, me, now_ms, false).into();
    }
    if let Some(message) = update.edited_message {
        return read_message(&message, adapter, me, now_ms, true).into();
    }
    if let Some(query) = update.callback_query {
        let meaning = read_callback(&query, adapter, now_ms);
        return Understood { meaning, callback: query.id };
    }
    match update.my_chat_member {
        Some(member) => read_member(&member).into(),
        None => Meaning::Ignored("a kind that was not asked for").into(),
    }
}

fn read_message(message: &Message, adapter: &str, me: &Me, now_ms: i64, edited: bool) -> Meaning {
    let Some((chat, private)) = place(message, adapter) else { return Meaning::Ignored("not in a private chat or group") };
    if let Some(new) = message.migrate_to_chat_id {
        return Meaning::Moved { old: chat.chat, new: new.to_string() };
    }
    if let Some(old) = message.migrate_from_chat_id {
        return Meaning::Moved { old: old.to_string(), new: chat.chat };
    }
    let Some(number) = message.message_id else { return Meaning::Ignored("without message_id") };
    let (sender, sender_id) = match person(message, me) {
        Ok(person) => person,
        Err(reason) => return Meaning::Ignored(reason),
    };
    if edited && message.location.is_some() {
        return Meaning::Ignored("a live location that moved");
    }
    let reading = match (&message.text, &message.caption) {
        (Some(text), _) => entities::read(text, &message.entities, me),
        (None, Some(caption)) => entities::read(caption, &message.caption_entities, me),
        (None, None) => entities::read("", &[], me),
    };
    let files = files_of(message, number);
    let mut lines: Vec<String> = Some(reading.text).filter(|text| !text.is_empty()).into_iter().collect();
    lines.extend(described(message));
    if lines.is_empty() && files.is_empty() {
        // Nothing but the bot's name: the one who wrote it wants something.
        let Some(text) = message.text.clone().filter(|text| !text.trim().is_empty()) else { return Meaning::Ignored("a service message") };
        lines.push(text);
    }
    let text = format!("{}{}", if edited { "(edited) " } else { "" }, lines.join("\n"));
    let time = if edited { message.edit_date.or(message.date) } else { message.date };
    let reply = message.reply_to_message.as_deref().filter(|reply| is_reply(message, reply));
    let answers_us = reply.and_then(|reply| reply.from.as_ref()).is_some_and(|from| from.id == Some(me.id));
    Meaning::Message(Box::new(Taken {
        inbound: Inbound {
            chat,
            message_id: if edited { format!("{number}/edit/{}", time.unwrap_or(0)) } else { number.to_string() },
            sender: sender_id.to_string(),
            sender_name: sender.name(),
            text: bounded(text),
            attachments: Vec::new(),
            quote: reply.and_then(|reply| quote(message, reply)),
            private,
            addressed: private || reading.addressed || answers_us,
            sent_ms: time.map_or(now_ms, |seconds| seconds.saturating_mul(1000)),
        },
        files,
    }))
}

/// The chat of a message, and whether it is a private one. `None` for channels and what has no chat.
fn place(message: &Message, adapter: &str) -> Option<(ChatRef, bool)> {
    let chat = message.chat.as_ref()?;
    let id = chat.id?;
    let private = match chat.kind.as_deref() {
        Some("private") => true,
        Some("group" | "supergroup") => false,
        // Ids of people are positive, all others negative.
        None => id > 0,
        Some(_) => return None,
    };
    // Outside of topics, the field only says which message began a chain of replies.
    let thread = message.message_thread_id.filter(|_| message.is_topic_message == Some(true)).map(|thread| thread.to_string());
    Some((ChatRef { adapter: adapter.to_owned(), chat: id.to_string(), thread }, private))
}

/// The person who sent a message; other senders are not listened to.
fn person<'a>(message: &'a Message, me: &Me) -> Result<(&'a User, i64), &'static str> {
    if message.is_automatic_forward == Some(true) {
        return Err("forwarded from the channel of the group");
    }
    if message.sender_chat.is_some() {
        return Err("sent in the name of a chat");
    }
    let Some((from, id)) = message.from.as_ref().and_then(|from| Some((from, from.id?))) else { return Err("without a sender") };
    if id == me.id || message.via_bot.as_ref().is_some_and(|bot| bot.id == Some(me.id)) {
        return Err("our own");
    }
    if from.is_bot == Some(true) {
        return Err("from a bot");
    }
    Ok((from, id))
}

/// In a topic, every message that answers none "answers" the one that opened the topic.
fn is_reply(message: &Message, reply: &Message) -> bool {
    let opens_topic = message.is_topic_message == Some(true) && reply.message_id.is_some() && reply.message_id == message.message_thread_id;
    reply.forum_topic_created.is_none() && !opens_topic
}

fn quote(message: &Message, reply: &Message) -> Option<Quote> {
    let chosen = message.quote.as_ref().and_then(|quote| quote.text.clone());
    let text = chosen.or_else(|| reply.text.clone()).or_else(|| reply.caption.clone()).filter(|text| !text.is_empty());
    let text = text.unwrap_or_else(|| {
        let mut parts: Vec<String> = files_of(reply, reply.message_id.unwrap_or(0)).iter().map(|file| format!("({})", file.kind)).collect();
        parts.extend(described(reply));
        parts.join("\n")
    });
    Some(Quote { message_id: reply.message_id?.to_string(), sender: reply.from.as_ref().map(User::name), text: bounded(text) })
}

/// What is neither text nor file, in words.
fn described(message: &Message) -> Vec<String> {
    let mut lines = Vec::new();
    let words = |parts: &[Option<&String>]| {
        let parts = parts.iter().flatten().map(|part| part.trim()).filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(", ")
    };
    if let Some(venue) = &message.venue {
        lines.push(format!("(place: {})", words(&[venue.title.as_ref(), venue.address.as_ref()])));
    }
    if let Some((latitude, longitude)) = message.location.as_ref().and_then(|place| Some((place.latitude?, place.longitude?))) {
        lines.push(format!("(location: {latitude:.6}, {longitude:.6})"));
    }
    if let Some(contact) = &message.contact {
        lines.push(format!(
            "(contact: {})",
            words(&[contact.first_name.as_ref(), contact.last_name.as_ref(), contact.phone_number.as_ref()])
        ));
    }
    if let Some(sticker) = message.sticker.as_ref().filter(|sticker| moves(sticker)) {
        lines.push(format!("(sticker {})", sticker.emoji.as_deref().unwrap_or("without emoji")));
    }
    lines
}

/// An animated sticker, which models cannot look at.
fn moves(sticker: &FileInfo) -> bool {
    sticker.is_animated == Some(true) || sticker.is_video == Some(true) || sticker.file_id.is_none()
}

fn files_of(message: &Message, number: i64) -> Vec<FileRef> {
    let largest = message.photo.iter().max_by_key(|photo| photo.width.unwrap_or(0).saturating_mul(photo.height.unwrap_or(0)));
    // An animation is announced as a document too.
    let document = message.document.as_ref().filter(|_| message.animation.is_none());
    let still = message.sticker.as_ref().filter(|sticker| !moves(sticker));
    let found = [
        (largest, "photo", "jpg", "image/jpeg"),
        (document, "document", "", ""),
        (message.voice.as_ref(), "voice", "ogg", "audio/ogg"),
        (message.audio.as_ref(), "audio", "mp3", "audio/mpeg"),
        (message.video.as_ref(), "video", "mp4", "video/mp4"),
        (message.animation.as_ref(), "animation", "mp4", "video/mp4"),
        (message.video_note.as_ref(), "video_note", "mp4", "video/mp4"),
        (still, "sticker", "webp", "image/webp"),
    ];
    let refs = found.into_iter().filter_map(|(file, kind, ending, media_type)| {
        let file = file?;
        let usual = || if ending.is_empty() { format!("{kind}-{number}") } else { format!("{kind}-{number}.{ending}") };
        let media_type = file.mime_type.clone().or_else(|| Some(media_type.to_owned()).filter(|media_type| !media_type.is_empty()));
        Some(FileRef {
            id: file.file_id.clone()?,
            kind,
            name: file.file_name.clone().filter(|name| !name.trim().is_empty()).unwrap_or_else(usual),
            media_type,
            bytes: file.file_size.and_then(|bytes| u64::try_from(bytes).ok()),
        })
    });
    refs.take(limits::ATTACHMENTS_PER_MESSAGE_MAX).collect()
}

fn read_callback(query: &CallbackQuery, adapter: &str, now_ms: i64) -> Meaning {
    let (Some(id), Some(message)) = (&query.id, &query.message) else { return Meaning::Ignored("a button without a message") };
    let Some((chat, private)) = place(message, adapter) else { return Meaning::Ignored("not in a private chat or group") };
    let Some((from, sender)) = query.from.as_ref().and_then(|from| Some((from, from.id?))) else {
        return Meaning::Ignored("without a sender");
    };
    if from.is_bot == Some(true) {
        return Meaning::Ignored("from a bot");
    }
    let Some(data) = query.data.as_ref().filter(|data| !data.trim().is_empty()) else { return Meaning::Ignored("a button without data") };
    Meaning::Message(Box::new(Taken {
        inbound: Inbound {
            chat,
            // The number in front lets an answer refer to the message with the buttons.
            message_id: format!("{}/callback/{id}", message.message_id.unwrap_or(0)),
            sender: sender.to_string(),
            sender_name: from.name(),
            text: bounded(data.clone()),
            attachments: Vec::new(),
            quote: None,
            private,
            addressed: true,
            sent_ms: now_ms,
        },
        files: Vec::new(),
    }))
}

fn read_member(member: &ChatMemberUpdated) -> Meaning {
    let chat = member.chat.as_ref();
    let id = chat.and_then(|chat| chat.id).map_or_else(|| "unknown".to_owned(), |id| id.to_string());
    let title = chat.and_then(|chat| chat.title.as_deref()).map(|title| format!(" \"{title}\"")).unwrap_or_default();
    let status = |member: &Option<super::wire::ChatMember>| {
        member.as_ref().and_then(|member| member.status.clone()).unwrap_or_else(|| "?".to_owned())
    };
    let by = member.from.as_ref().and_then(|from| from.id).map(|id| format!(" by {id}")).unwrap_or_default();
    let change = format!("{} → {}{by}", status(&member.old_chat_member), status(&member.new_chat_member));
    Meaning::Member { chat: format!("{id}{title}"), change }
}

/// Texts of people have at most 4096 units; a server of another make may send what it likes.
fn bounded(mut text: String) -> String {
    if text.len() > limits::INBOUND_TEXT_BYTES_MAX {
        let end = (0..=limits::INBOUND_TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n[cut: too long]");
    }
    text
}

/// The `message_id` within one of our message ids: `908`, `908/edit/1792540900`, `908/callback/4382`.
pub(super) fn message_number(id: &str) -> Option<i64> {
    id.split('/').next()?.parse().ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests;
