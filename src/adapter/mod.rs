//! Adapters: one a platform.
//!
//! An adapter has an [`Inlet`], which runs on the thread `adapter/NAME` and receives, and an [`Outlet`], which runs on
//! `adapter/NAME/send` and delivers. Both are straight-line code that blocks with deadlines and returns errors;
//! reconnecting, backoff, replacing a stuck thread, queues and durability are done once, by the code around them.

pub mod attachments;
pub mod bearer;
pub mod cipher;
#[cfg(debug_assertions)]
pub mod fault;
pub mod feishu;
pub mod files;
pub mod homeassistant;
pub mod lenient;
pub mod local;
pub mod memos;
pub mod qqbot;
pub mod relay;
pub mod rest;
pub mod runner;
pub mod sender;
pub mod table;
pub mod telegram;
pub mod wecom;
pub mod weixin;

use crate::clock::Deadline;
use crate::core::types::{ChatRef, Inbound, OutboundKind, Receipt};
use crate::net::NetOptions;
use crate::store::StoreHandle;
use crate::thread::{CancelToken, Cancelled};
use crossbeam_channel::Receiver;
use std::path::PathBuf;
use std::time::Duration;

/// Why receiving ended, classified once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdapterError {
    Cancelled,
    /// Try again; after this long if the platform said so, else with the supervisor's backoff.
    Retry {
        cause: String,
        after: Option<Duration>,
    },
    /// Only the operator can help: told once, with the remedy.
    Fatal {
        cause: String,
        remedy: String,
    },
}

/// Why a message was not delivered, classified once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendError {
    Cancelled,
    /// Nothing was delivered; try again, after this long if the platform said so.
    Retry {
        cause: String,
        after: Option<Duration>,
    },
    /// It may or may not have been delivered (the answer did not arrive).
    Ambiguous {
        cause: String,
    },
    /// This message or this chat can never be delivered to.
    Reject {
        cause: String,
    },
    /// The credential is not accepted: the adapter fails.
    Fatal {
        cause: String,
        remedy: String,
    },
    /// The chat has another id now (Telegram: a group became a supergroup).
    Moved {
        chat: String,
    },
}

/// What a platform can do.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    /// A message that was sent can be edited: replies are streamed into it.
    pub edits: bool,
    pub typing: bool,
    /// How long the typing sign lasts; it is renewed a little earlier.
    pub typing_interval: Duration,
    /// Shortest time between two edits of a streamed reply.
    pub edit_interval: Duration,
    /// Sending the same outbox key twice delivers once.
    pub idempotent: bool,
    /// Something must be heard within this time while connected, or the connection is dead.
    pub liveness: Duration,
    /// Has an inlet at all.
    pub receives: bool,
}

/// One part of an outbound message: a piece that fits the platform's limit.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    pub chat: &'a ChatRef,
    /// In Markdown. Split by [`Outlet::split`].
    pub text: &'a str,
    pub reply_to: Option<&'a str>,
    pub buttons: &'a [(String, String)],
    /// The same in every attempt at this part.
    pub key: &'a str,
}

/// The key of a message's part, from the key of the message and the part's number from 0.
#[must_use]
pub fn part_key(message_key: &str, number: usize) -> String {
    if number == 0 { message_key.to_owned() } else { format!("{message_key}-{number}") }
}

/// A tool call as it is shown while the reply is made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ToolLine {
    /// Counts up within the turn.
    pub number: u32,
    pub name: String,
    /// The command or path, one line, shortened.
    pub summary: String,
    pub for_ms: u64,
    /// Set once it has ended: `exit 0`, `timed out after 180 s`.
    pub end: Option<String>,
}

/// A reply in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Preview {
    /// The model's text so far.
    pub text: String,
    /// The tool that runs now, or ran last.
    pub tool: Option<ToolLine>,
    /// News for the one who waits: "No response from provider for 180 s, trying again (2 of 3)".
    pub notice: Option<String>,
}

impl Preview {
    /// As one Markdown text, for platforms that show it by editing a message. Empty while there is nothing to show.
    #[must_use]
    pub fn render(&self) -> String {
        let mut lines = Vec::new();
        if !self.text.is_empty() {
            lines.push(self.text.clone());
        }
        if let Some(tool) = self.tool.as_ref().filter(|tool| tool.end.is_none()) {
            lines.push(format!("⚙ `{}` · {} s", tool.summary.replace('`', "'"), tool.for_ms / 1000));
        }
        lines.extend(self.notice.clone());
        lines.join("\n\n")
    }
}

/// What an adapter is built from and talks to. Each generation gets its own.
pub struct Link {
    pub name: String,
    pub generation: u64,
    pub token: CancelToken,
    /// Fenced by `token`.
    pub store: StoreHandle,
    pub net: NetOptions,
    /// Where attachments are saved (see [`crate::adapter::files`]).
    pub files: PathBuf,
    /// Receipts of messages that are committed (or were refused and need no answer), in order.
    pub receipts: Receiver<Receipt>,
    pub events: Box<dyn Events>,
}

/// What an outlet is built from. Each generation gets its own.
#[derive(Clone)]
pub struct SendLink {
    pub name: String,
    pub token: CancelToken,
    /// Fenced by `token`.
    pub store: StoreHandle,
    pub net: NetOptions,
}

/// What an inlet tells control. Implemented by control's channel, and by a recorder in tests.
pub trait Events: Send + Sync {
    /// Hands over a message; waits while control's queue is full, until the token is cancelled.
    ///
    /// # Errors
    /// [`Cancelled`].
    fn message(&self, inbound: Inbound, receipt: Receipt) -> Result<(), Cancelled>;
    /// Connected, as whom (`@gate_bot`).
    fn connected(&self, identity: &str);
    /// Something was heard from the platform: an answer, a ping. Cheap, lock-free.
    fn heard(&self);
    /// The connection is gone and will be tried again; `next` says when.
    fn retrying(&self, cause: &str, attempt: u32, next: Duration);
    /// The chat `old` has the id `new` now.
    fn moved(&self, old: &str, new: &str);
}

/// The receiving half. One call of `run` is one connection.
pub trait Inlet: Send {
    /// Connects, says so, and receives until the connection or the token ends.
    ///
    /// # Errors
    /// Always: [`AdapterError`] says why it ended.
    fn run(&mut self, link: &Link) -> Result<std::convert::Infallible, AdapterError>;
}

/// The sending half. Calls are bounded by their deadline and return at once when the token is cancelled.
pub trait Outlet: Send {
    /// Splits a reply into parts that the platform takes, without cutting code fences, links or graphemes.
    fn split(&self, text: &str) -> Vec<String>;

    /// Tells what the message is that the next `send` or `edit` is about, for platforms that show the difference.
    fn announce(&mut self, _kind: OutboundKind) {}

    /// Tells which message the next `send` is a part of: the message's key, all its parts, and which of them it is. For
    /// platforms that must know what else there is to say. The parts' own keys are those of [`part_key`].
    fn within(&mut self, _key: &str, _parts: &[String], _number: usize) {}

    /// Delivers one part. → the platform's id of the message.
    ///
    /// # Errors
    /// [`SendError`].
    fn send(&mut self, part: &Part<'_>, deadline: Deadline) -> Result<String, SendError>;

    /// Replaces the text of a message that was sent. Idempotent. "Not modified" is success.
    ///
    /// # Errors
    /// [`SendError`].
    fn edit(&mut self, platform_id: &str, part: &Part<'_>, deadline: Deadline) -> Result<(), SendError>;

    /// Shows a reply in the making: a new message, or an edit of `previous`. → its platform id.
    ///
    /// # Errors
    /// [`SendError`]; the next preview, or the reply itself, makes up for it.
    fn preview(&mut self, chat: &ChatRef, previous: Option<&str>, preview: &Preview, deadline: Deadline) -> Result<String, SendError> {
        let text = preview.render();
        let text = self.split(&text).into_iter().next_back().unwrap_or_default();
        let part = Part { chat, text: &text, reply_to: None, buttons: &[], key: "" };
        match previous {
            Some(id) => self.edit(id, &part, deadline).map(|()| id.to_owned()),
            None => self.send(&part, deadline),
        }
    }

    /// Shows "typing" or its substitute once.
    ///
    /// # Errors
    /// [`SendError`]; ignored but for the log.
    fn typing(&mut self, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError>;

    /// Takes back what [`Outlet::typing`] has shown, where it does not go away by itself: the work in this chat is done, and
    /// its reply is out.
    ///
    /// # Errors
    /// [`SendError`]; ignored but for the log.
    fn quiet(&mut self, _chat: &ChatRef, _deadline: Deadline) -> Result<(), SendError> {
        Ok(())
    }

    /// Removes a message that was sent (a preview that has no reply). Best effort.
    ///
    /// # Errors
    /// [`SendError`]; ignored but for the log.
    fn delete(&mut self, chat: &ChatRef, platform_id: &str, deadline: Deadline) -> Result<(), SendError>;
}

/// One configured adapter. `inlet` and `outlet` are called anew for each generation of the threads.
pub trait Adapter: Send + Sync {
    fn traits(&self) -> Traits;
    fn inlet(&self) -> Box<dyn Inlet>;
    fn outlet(&self, link: &SendLink) -> Box<dyn Outlet>;

    /// Whether the outlet sends over the inlet's connection. The inlet then stays while a stop or restart drains, or the
    /// last replies could not be delivered.
    fn sends_through_inlet(&self) -> bool {
        false
    }

    /// Asks the platform whether the credential is good, without receiving or sending anything. → as whom, or `None`
    /// where that cannot be asked. For `doctor` and `setup`; it may run beside a gateway that is connected.
    ///
    /// # Errors
    /// [`AdapterError`]: `Fatal` if the credential is not accepted.
    fn check(&self, _net: &NetOptions, _token: &CancelToken, _deadline: Deadline) -> Result<Option<String>, AdapterError> {
        Ok(None)
    }
}
