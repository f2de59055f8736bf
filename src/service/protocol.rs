//! What goes over the control socket: one JSON value a line, both ways. A contract between the versions of the
//! program: fields are added, never renamed.

use super::report::StatusReport;
use crate::adapter::local::{Hub, HubEvent};
use crate::core::types::{ChatRef, OutboxId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// What a client asks. Each is answered by one [`Response`], in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    Status,
    Stop,
    Restart,
    /// Puts a message into the outbox.
    Send {
        chat: ChatRef,
        text: String,
    },
    /// A message from a terminal.
    Say {
        chat: ChatRef,
        sender_name: String,
        text: String,
        message_id: String,
    },
    /// From here on the connection also carries the events of this chat. Replaces what it was attached to.
    Attach {
        chat: String,
    },
    Command {
        name: String,
        #[serde(default)]
        args: Value,
    },
}

/// A line from the gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    Ok(Value),
    /// A sentence for people.
    Error(String),
    /// Not an answer: something happened in the chat that the connection is attached to.
    Event(HubEvent),
}

/// What the gateway does for those at the control socket. All methods are called on the connections' threads and are
/// bounded by [`crate::limits::ADMIN_REQUEST`]; errors are sentences for people.
pub trait Admin: Send + Sync {
    /// Answers without any help of control, which may be stuck.
    fn status(&self) -> StatusReport;

    /// Begins a stop. Returns once that is under way.
    ///
    /// # Errors
    /// Why it is not.
    fn stop(&self) -> Result<(), String>;

    /// Begins a graceful restart. Returns once that is under way.
    ///
    /// # Errors
    /// Why it is not.
    fn restart(&self) -> Result<(), String>;

    /// Puts a message into the outbox; returns once it is committed.
    ///
    /// # Errors
    /// Why it is not queued: no such adapter, the outbox is full, the store is not available.
    fn send(&self, chat: ChatRef, text: String) -> Result<OutboxId, String>;

    /// A message from a terminal; returns once it is accepted. The same `message_id` again is accepted once.
    ///
    /// # Errors
    /// Why it is not accepted.
    fn say(&self, chat: ChatRef, sender_name: String, text: String, message_id: String) -> Result<(), String>;

    /// Where terminals attach to their chats.
    fn hub(&self) -> &Arc<Hub>;

    /// Everything else, by name.
    ///
    /// # Errors
    /// What went wrong, or that there is no such command.
    fn command(&self, name: &str, args: Value) -> Result<Value, String>;
}
