//! Events and answers as they come over the wire, as far as they are used. Tolerant: see [`crate::adapter::lenient`]. Pure.

use crate::adapter::lenient::{integer, lenient, list, word};
use serde::Deserialize;
use serde_json::Value;

/// An event, schema 2.0. Those of the first schema have neither `schema` nor `header`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Envelope {
    #[serde(deserialize_with = "lenient")]
    pub header: Option<Head>,
    #[serde(deserialize_with = "lenient")]
    pub event: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Head {
    #[serde(deserialize_with = "lenient")]
    pub event_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub event_type: Option<String>,
    /// Unix milliseconds, as text.
    #[serde(deserialize_with = "integer")]
    pub create_time: Option<i64>,
}

/// `im.message.receive_v1`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Received {
    #[serde(deserialize_with = "lenient")]
    pub sender: Option<Sender>,
    #[serde(deserialize_with = "lenient")]
    pub message: Option<Message>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Sender {
    #[serde(deserialize_with = "lenient")]
    pub sender_id: Option<Ids>,
    /// `user`, `bot`, `app`
    #[serde(deserialize_with = "lenient")]
    pub sender_type: Option<String>,
}

/// A person or a bot. `user_id` needs a permission of its own.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Ids {
    #[serde(deserialize_with = "lenient")]
    pub open_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub user_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub union_id: Option<String>,
}

impl Ids {
    /// The first one that is there; the open_id, but for odd events.
    pub fn any(&self) -> Option<&str> {
        [&self.open_id, &self.user_id, &self.union_id].into_iter().flatten().map(String::as_str).find(|id| !id.is_empty())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message {
    #[serde(deserialize_with = "lenient")]
    pub message_id: Option<String>,
    #[serde(deserialize_with = "integer")]
    pub create_time: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    pub chat_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub thread_id: Option<String>,
    /// `p2p`, `group`, `topic_group`
    #[serde(deserialize_with = "lenient")]
    pub chat_type: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub message_type: Option<String>,
    /// JSON within JSON.
    #[serde(deserialize_with = "lenient")]
    pub content: Option<String>,
    #[serde(deserialize_with = "list")]
    pub mentions: Vec<Mention>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Mention {
    /// How the text refers to it: `@_user_1`.
    #[serde(deserialize_with = "lenient")]
    pub key: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub id: Option<Ids>,
    #[serde(deserialize_with = "lenient")]
    pub name: Option<String>,
}

/// `card.action.trigger`: a press on a button.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pressed {
    #[serde(deserialize_with = "lenient")]
    pub operator: Option<Ids>,
    #[serde(deserialize_with = "lenient")]
    pub action: Option<Action>,
    #[serde(deserialize_with = "lenient")]
    pub context: Option<Context>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Action {
    #[serde(deserialize_with = "lenient")]
    pub value: Option<ButtonValue>,
}

/// What a button of ours carries: all that a press must know. Cards of others do not reach this app.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ButtonValue {
    #[serde(deserialize_with = "lenient")]
    pub command: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub thread: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub private: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Context {
    #[serde(deserialize_with = "lenient")]
    pub open_message_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub open_chat_id: Option<String>,
}

/// `im.chat.member.bot.added_v1` and its like.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ChatNews {
    #[serde(deserialize_with = "lenient")]
    pub chat_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub name: Option<String>,
}

/// The answer of the discovery.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Endpoint {
    #[serde(rename = "URL", deserialize_with = "lenient")]
    pub url: Option<String>,
    #[serde(rename = "ClientConfig", deserialize_with = "lenient")]
    pub config: Option<ClientConfig>,
}

/// Also the payload of pongs. The times for reconnecting are the runner's business here, which is friendlier.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClientConfig {
    /// Seconds.
    #[serde(rename = "PingInterval", deserialize_with = "integer")]
    pub ping_interval: Option<i64>,
}

/// `bot/v3/info`, whose fields are not under `data`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct BotInfo {
    #[serde(deserialize_with = "lenient")]
    pub bot: Option<Bot>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Bot {
    #[serde(deserialize_with = "lenient")]
    pub open_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub app_name: Option<String>,
}

/// `tenant_access_token/internal`, whose fields are not under `data`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TenantToken {
    #[serde(deserialize_with = "lenient")]
    pub tenant_access_token: Option<String>,
    /// Seconds.
    #[serde(deserialize_with = "integer")]
    pub expire: Option<i64>,
}

/// What sending and reacting give back.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Made {
    #[serde(deserialize_with = "word")]
    pub message_id: Option<String>,
    #[serde(deserialize_with = "word")]
    pub reaction_id: Option<String>,
}
