//! The objects of the iLink interface as they come over the wire, as far as they are used.
//!
//! Tolerant: what is unknown is skipped, and what is missing or of the wrong type is `None` (an empty list), so that one
//! odd field never costs a message, and one odd message never costs a batch. Pure.

use crate::adapter::lenient::{integer, lenient, list, word};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An id that is a number up to 2^64: one that had to be rounded is none.
fn exact<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) if !text.is_empty() => Some(text),
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string()).filter(|id| id != "0"),
        _ => None,
    })
}

/// The answer to `getupdates`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Updates {
    #[serde(deserialize_with = "list")]
    pub msgs: Vec<Message>,
    #[serde(deserialize_with = "lenient")]
    pub get_updates_buf: Option<String>,
    #[serde(deserialize_with = "integer")]
    pub longpolling_timeout_ms: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message {
    #[serde(deserialize_with = "exact")]
    pub message_id: Option<String>,
    #[serde(deserialize_with = "word")]
    pub seq: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub from_user_id: Option<String>,
    #[serde(deserialize_with = "integer")]
    pub create_time_ms: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    pub group_id: Option<String>,
    /// 1 from a user, 2 from the bot.
    #[serde(deserialize_with = "integer")]
    pub message_type: Option<i64>,
    #[serde(deserialize_with = "list")]
    pub item_list: Vec<Item>,
    #[serde(deserialize_with = "lenient")]
    pub context_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Item {
    /// 1 text, 2 picture, 3 voice, 4 file, 5 video.
    #[serde(rename = "type", deserialize_with = "integer")]
    pub kind: Option<i64>,
    #[serde(deserialize_with = "exact")]
    pub msg_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub text_item: Option<TextItem>,
    #[serde(deserialize_with = "lenient")]
    pub image_item: Option<ImageItem>,
    #[serde(deserialize_with = "lenient")]
    pub voice_item: Option<VoiceItem>,
    #[serde(deserialize_with = "lenient")]
    pub file_item: Option<FileItem>,
    #[serde(deserialize_with = "lenient")]
    pub video_item: Option<VideoItem>,
    #[serde(deserialize_with = "lenient")]
    pub ref_msg: Option<RefMsg>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TextItem {
    #[serde(deserialize_with = "lenient")]
    pub text: Option<String>,
}

/// Where a file is, and what it is encrypted with.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Media {
    #[serde(deserialize_with = "lenient")]
    pub encrypt_query_param: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub aes_key: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub full_url: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ImageItem {
    #[serde(deserialize_with = "lenient")]
    pub media: Option<Media>,
    /// The key once more, in hexadecimal.
    #[serde(deserialize_with = "lenient")]
    pub aeskey: Option<String>,
    #[serde(deserialize_with = "integer")]
    pub mid_size: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct VoiceItem {
    #[serde(deserialize_with = "lenient")]
    pub media: Option<Media>,
    /// 6: SILK.
    #[serde(deserialize_with = "integer")]
    pub encode_type: Option<i64>,
    /// In milliseconds.
    #[serde(deserialize_with = "integer")]
    pub playtime: Option<i64>,
    /// What the platform has understood.
    #[serde(deserialize_with = "lenient")]
    pub text: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FileItem {
    #[serde(deserialize_with = "lenient")]
    pub media: Option<Media>,
    #[serde(deserialize_with = "lenient")]
    pub file_name: Option<String>,
    #[serde(deserialize_with = "integer")]
    pub len: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct VideoItem {
    #[serde(deserialize_with = "lenient")]
    pub media: Option<Media>,
    #[serde(deserialize_with = "integer")]
    pub video_size: Option<i64>,
}

/// The message that is answered.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RefMsg {
    #[serde(deserialize_with = "lenient")]
    pub title: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub message_item: Option<Box<Item>>,
    #[serde(deserialize_with = "exact")]
    pub svr_id: Option<String>,
    /// The part that was chosen.
    #[serde(deserialize_with = "lenient")]
    pub partial_text: Option<String>,
}
