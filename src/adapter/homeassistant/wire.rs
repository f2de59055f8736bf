//! The objects of Home Assistant's WebSocket as they come over the wire, as far as they are used.
//!
//! Tolerant: what is unknown is skipped, and what is missing or of the wrong type is `None`. What can be long (results,
//! events) stays text until somebody needs it, so that the states of a whole home are never in memory as trees. Pure.

use crate::adapter::lenient::{integer, lenient, word};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// One message of the server (Home Assistant, WebSocket API).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Envelope<'a> {
    #[serde(rename = "type", deserialize_with = "lenient")]
    pub kind: Option<String>,
    #[serde(deserialize_with = "integer")]
    pub id: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    pub success: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub error: Option<Failure>,
    /// Why a token is not accepted.
    #[serde(deserialize_with = "lenient")]
    pub message: Option<String>,
    #[serde(deserialize_with = "word")]
    pub ha_version: Option<String>,
    #[serde(borrow)]
    pub result: Option<&'a RawValue>,
    #[serde(borrow)]
    pub event: Option<&'a RawValue>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Failure {
    #[serde(deserialize_with = "word")]
    pub code: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub message: Option<String>,
}

/// The answer to `auth/current_user`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct User {
    #[serde(deserialize_with = "lenient")]
    pub id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub name: Option<String>,
}

/// Who caused something. A person has a `user_id`; an automation has none, and may have a parent.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Context {
    #[serde(deserialize_with = "lenient")]
    pub id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub parent_id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub user_id: Option<String>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct State {
    #[serde(deserialize_with = "lenient")]
    pub entity_id: Option<String>,
    #[serde(deserialize_with = "word")]
    pub state: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub attributes: Option<Attributes>,
    #[serde(deserialize_with = "lenient")]
    pub last_changed: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub last_updated: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub context: Option<Context>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Attributes {
    #[serde(deserialize_with = "word")]
    pub friendly_name: Option<String>,
    #[serde(deserialize_with = "word")]
    pub unit_of_measurement: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub device_class: Option<String>,
    /// Of a `person`: the account.
    #[serde(deserialize_with = "lenient")]
    pub user_id: Option<String>,
}

/// What `subscribe_events` and `subscribe_trigger` deliver: the one has `data`, the other `variables`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    #[serde(deserialize_with = "lenient")]
    pub event_type: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub data: Option<EventData>,
    #[serde(deserialize_with = "lenient")]
    pub variables: Option<Variables>,
    #[serde(deserialize_with = "lenient")]
    pub time_fired: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub context: Option<Context>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EventData {
    #[serde(deserialize_with = "lenient")]
    pub old_state: Option<State>,
    #[serde(deserialize_with = "lenient")]
    pub new_state: Option<State>,
    /// Of an event of one's own.
    #[serde(deserialize_with = "word")]
    pub text: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Variables {
    #[serde(deserialize_with = "lenient")]
    pub trigger: Option<Trigger>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Trigger {
    #[serde(deserialize_with = "lenient")]
    pub from_state: Option<State>,
    #[serde(deserialize_with = "lenient")]
    pub to_state: Option<State>,
}

/// Takes a frame apart: one message, or a list of them (`coalesce_messages`). What is not an object is left out.
///
/// # Errors
/// The frame is not JSON: the connection cannot be trusted any more.
pub(super) fn messages(frame: &str) -> Result<Vec<Envelope<'_>>, String> {
    if let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(frame) {
        return Ok(list.into_iter().filter_map(|message| serde_json::from_str(message.get()).ok()).collect());
    }
    match serde_json::from_str(frame) {
        Ok(message) => Ok(vec![message]),
        Err(_) if serde_json::from_str::<IgnoredAny>(frame).is_ok() => Ok(Vec::new()),
        Err(error) => Err(format!("a message that is not JSON ({error})")),
    }
}

/// The list that `get_states` answers with, one state at a time.
pub(super) fn states(result: &RawValue) -> impl Iterator<Item = State> {
    let list: Vec<&RawValue> = serde_json::from_str(result.get()).unwrap_or_default();
    list.into_iter().filter_map(|state| serde_json::from_str(state.get()).ok())
}

/// Microseconds since 1970, from a time as Home Assistant writes it (`2026-11-21T01:35:48.567674+00:00`).
pub(super) fn time_us(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}
