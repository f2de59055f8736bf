//! The frames of the AI bot's long connection, as far as they are looked at. Odd fields count as absent.

use crate::adapter::lenient::{integer, lenient, list, word};
use serde::Deserialize;
use serde_json::Value;

/// Any frame. Answers have no `cmd`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Frame {
    #[serde(deserialize_with = "lenient")]
    pub cmd: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub headers: Option<Headers>,
    #[serde(deserialize_with = "integer")]
    pub errcode: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    pub errmsg: Option<String>,
    pub body: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Headers {
    #[serde(deserialize_with = "word")]
    pub req_id: Option<String>,
}

/// The body of `aibot_msg_callback` and `aibot_event_callback`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Body {
    #[serde(deserialize_with = "word")]
    pub msgid: Option<String>,
    /// In groups only.
    #[serde(deserialize_with = "word")]
    pub chatid: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub chattype: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub from: Option<From>,
    /// Seconds since 1970.
    #[serde(deserialize_with = "integer")]
    pub create_time: Option<i64>,
    #[serde(flatten)]
    pub content: Content,
    #[serde(deserialize_with = "lenient")]
    pub quote: Option<Content>,
    #[serde(deserialize_with = "lenient")]
    pub event: Option<Event>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct From {
    #[serde(deserialize_with = "word")]
    pub userid: Option<String>,
}

/// What was said: a message, a part of a mixed one, or a quoted one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Content {
    #[serde(deserialize_with = "lenient")]
    pub msgtype: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub text: Option<Words>,
    /// Transcribed by WeCom.
    #[serde(deserialize_with = "lenient")]
    pub voice: Option<Words>,
    #[serde(deserialize_with = "lenient")]
    pub image: Option<Media>,
    #[serde(deserialize_with = "lenient")]
    pub file: Option<Media>,
    #[serde(deserialize_with = "lenient")]
    pub video: Option<Media>,
    #[serde(deserialize_with = "lenient")]
    pub mixed: Option<Mixed>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Words {
    #[serde(deserialize_with = "lenient")]
    pub content: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Media {
    /// Valid for five minutes.
    #[serde(deserialize_with = "lenient")]
    pub url: Option<String>,
    /// Base64, without padding at times.
    #[serde(deserialize_with = "lenient")]
    pub aeskey: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Mixed {
    #[serde(deserialize_with = "list")]
    pub msg_item: Vec<Content>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    #[serde(deserialize_with = "lenient")]
    pub eventtype: Option<String>,
}
