//! The objects of the Bot API as they come over the wire, as far as they are used.
//!
//! Tolerant: what is unknown is skipped, and what is missing or of the wrong type is `None` (an empty list), so that one
//! odd field never costs a message, and one odd update never costs a batch. Pure.

use crate::adapter::lenient::{integer, lenient, list};
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Update {
    #[serde(deserialize_with = "lenient")]
    pub message: Option<Message>,
    #[serde(deserialize_with = "lenient")]
    pub edited_message: Option<Message>,
    #[serde(deserialize_with = "lenient")]
    pub callback_query: Option<CallbackQuery>,
    #[serde(deserialize_with = "lenient")]
    pub my_chat_member: Option<ChatMemberUpdated>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct User {
    #[serde(deserialize_with = "integer")]
    pub id: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    pub is_bot: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub first_name: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub last_name: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub username: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub can_read_all_group_messages: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chat {
    #[serde(deserialize_with = "integer")]
    pub id: Option<i64>,
    #[serde(rename = "type", deserialize_with = "lenient")]
    pub kind: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub title: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message {
    #[serde(deserialize_with = "integer")]
    pub message_id: Option<i64>,
    #[serde(deserialize_with = "integer")]
    pub message_thread_id: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    pub is_topic_message: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub from: Option<User>,
    #[serde(deserialize_with = "lenient")]
    pub sender_chat: Option<Chat>,
    #[serde(deserialize_with = "lenient")]
    pub via_bot: Option<User>,
    #[serde(deserialize_with = "lenient")]
    pub is_automatic_forward: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub chat: Option<Chat>,
    #[serde(deserialize_with = "integer")]
    pub date: Option<i64>,
    #[serde(deserialize_with = "integer")]
    pub edit_date: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    pub text: Option<String>,
    #[serde(deserialize_with = "list")]
    pub entities: Vec<Entity>,
    #[serde(deserialize_with = "lenient")]
    pub caption: Option<String>,
    #[serde(deserialize_with = "list")]
    pub caption_entities: Vec<Entity>,
    #[serde(deserialize_with = "lenient")]
    pub reply_to_message: Option<Box<Message>>,
    #[serde(deserialize_with = "lenient")]
    pub quote: Option<TextQuote>,
    /// Present in the service message that opens a topic, to which all its messages are replies.
    #[serde(deserialize_with = "lenient")]
    pub forum_topic_created: Option<Value>,
    #[serde(deserialize_with = "list")]
    pub photo: Vec<FileInfo>,
    #[serde(deserialize_with = "lenient")]
    pub document: Option<FileInfo>,
    #[serde(deserialize_with = "lenient")]
    pub voice: Option<FileInfo>,
    #[serde(deserialize_with = "lenient")]
    pub audio: Option<FileInfo>,
    #[serde(deserialize_with = "lenient")]
    pub video: Option<FileInfo>,
    #[serde(deserialize_with = "lenient")]
    pub animation: Option<FileInfo>,
    #[serde(deserialize_with = "lenient")]
    pub video_note: Option<FileInfo>,
    #[serde(deserialize_with = "lenient")]
    pub sticker: Option<FileInfo>,
    #[serde(deserialize_with = "lenient")]
    pub location: Option<Location>,
    #[serde(deserialize_with = "lenient")]
    pub venue: Option<Venue>,
    #[serde(deserialize_with = "lenient")]
    pub contact: Option<Contact>,
    #[serde(deserialize_with = "integer")]
    pub migrate_to_chat_id: Option<i64>,
    #[serde(deserialize_with = "integer")]
    pub migrate_from_chat_id: Option<i64>,
}

/// A piece of a text with a meaning; offset and length are in UTF-16 units.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Entity {
    #[serde(rename = "type", deserialize_with = "lenient")]
    pub kind: Option<String>,
    #[serde(deserialize_with = "integer")]
    pub offset: Option<i64>,
    #[serde(deserialize_with = "integer")]
    pub length: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    pub user: Option<User>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TextQuote {
    #[serde(deserialize_with = "lenient")]
    pub text: Option<String>,
}

/// `PhotoSize`, `Document`, `Voice`, `Sticker` … have these in common.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FileInfo {
    #[serde(deserialize_with = "lenient")]
    pub file_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub file_name: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub mime_type: Option<String>,
    #[serde(deserialize_with = "integer")]
    pub file_size: Option<i64>,
    #[serde(deserialize_with = "integer")]
    pub width: Option<i64>,
    #[serde(deserialize_with = "integer")]
    pub height: Option<i64>,
    /// Of a sticker.
    #[serde(deserialize_with = "lenient")]
    pub emoji: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub is_animated: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub is_video: Option<bool>,
    /// In the answer to `getFile`.
    #[serde(deserialize_with = "lenient")]
    pub file_path: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Location {
    #[serde(deserialize_with = "lenient")]
    pub latitude: Option<f64>,
    #[serde(deserialize_with = "lenient")]
    pub longitude: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Venue {
    #[serde(deserialize_with = "lenient")]
    pub title: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Contact {
    #[serde(deserialize_with = "lenient")]
    pub phone_number: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub first_name: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub last_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CallbackQuery {
    #[serde(deserialize_with = "lenient")]
    pub id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub from: Option<User>,
    #[serde(deserialize_with = "lenient")]
    pub message: Option<Message>,
    #[serde(deserialize_with = "lenient")]
    pub data: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ChatMemberUpdated {
    #[serde(deserialize_with = "lenient")]
    pub chat: Option<Chat>,
    #[serde(deserialize_with = "lenient")]
    pub from: Option<User>,
    #[serde(deserialize_with = "lenient")]
    pub old_chat_member: Option<ChatMember>,
    #[serde(deserialize_with = "lenient")]
    pub new_chat_member: Option<ChatMember>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ChatMember {
    #[serde(deserialize_with = "lenient")]
    pub status: Option<String>,
}

impl User {
    /// The name a person reads.
    pub fn name(&self) -> String {
        let names = [self.first_name.as_deref(), self.last_name.as_deref()];
        let full = names.into_iter().flatten().map(str::trim).filter(|name| !name.is_empty()).collect::<Vec<_>>().join(" ");
        match (full.is_empty(), &self.username, self.id) {
            (false, _, _) => full,
            (true, Some(username), _) => format!("@{username}"),
            (true, None, Some(id)) => id.to_string(),
            (true, None, None) => "somebody".to_owned(),
        }
    }
}
