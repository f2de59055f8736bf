//! The words that all parts share: who, where, what was said.

use serde::{Deserialize, Serialize};

/// An adapter's configured name, for example `telegram`. Unique in one gateway.
pub type AdapterName = String;

/// Row id of an accepted message.
pub type InboxId = i64;
/// Row id of an outbound message.
pub type OutboxId = i64;
/// Given out by core, increasing over the life of the store.
pub type TurnId = i64;
/// Row id of a scheduled job.
pub type JobId = i64;
/// Row id of a question put to a person.
pub type ApprovalId = i64;

/// A place where people talk to the agent. One session belongs to each.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChatRef {
    pub adapter: AdapterName,
    /// The platform's id of the chat, as text: Telegram's are 64-bit and negative, Feishu's are words.
    pub chat: String,
    /// Topic or thread within the chat, where the platform has them.
    pub thread: Option<String>,
}

impl ChatRef {
    /// The session's key: `telegram:77001`, with a topic `telegram:-100123/12`.
    #[must_use]
    pub fn session(&self) -> String {
        match &self.thread {
            Some(thread) => format!("{}:{}/{thread}", self.adapter, self.chat),
            None => format!("{}:{}", self.adapter, self.chat),
        }
    }
}

/// A file that came with a message, saved by the adapter before the message is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// `photo`, `document`, `voice`, `audio`, `video` …
    pub kind: String,
    /// The name the sender gave it, made safe.
    pub name: String,
    pub media_type: Option<String>,
    pub bytes: u64,
    /// Where it was saved; `None` if it could not be had, then `note` says why.
    pub path: Option<String>,
    pub note: Option<String>,
}

/// The message that a message answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    pub message_id: String,
    pub sender: Option<String>,
    pub text: String,
}

/// One message from a platform, as its adapter understood it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    pub chat: ChatRef,
    /// The platform's id of the message, unique within the chat. With `chat` it is the key against duplicates.
    pub message_id: String,
    /// The platform's id of the sender, which the allow-list is about.
    pub sender: String,
    pub sender_name: String,
    pub text: String,
    pub attachments: Vec<Attachment>,
    pub quote: Option<Quote>,
    /// A private chat, or a group.
    pub private: bool,
    /// In a group: mentioned, answered, or called with a command.
    pub addressed: bool,
    /// When the platform says it was sent, Unix milliseconds.
    pub sent_ms: i64,
}

/// What the adapter must know to tell the platform that a message was accepted: the adapter's own words
/// (Telegram: the update id). Goes with the message and comes back unchanged once its row is committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub id: u64,
    /// If given, the adapter's durable cursor after this message, stored in the same transaction.
    pub cursor: Option<String>,
    /// What the adapter must know to answer, stored in the same transaction, also with a duplicate. Not stored for messages
    /// that are not for us: strangers leave nothing.
    pub memos: Vec<Memo>,
}

/// Something that an adapter remembers over the end of the process, under a key of its own choice: the token that a
/// reply has to carry, the sequence numbers that were used. Kept per adapter; the oldest go when there are
/// [`crate::limits::MEMOS_MAX`] of all adapters, and one beyond [`crate::limits::MEMO_BYTES_MAX`] is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memo {
    pub key: String,
    /// `None` forgets it.
    pub value: Option<String>,
}

impl Memo {
    #[must_use]
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }

    #[must_use]
    pub fn forget(key: impl Into<String>) -> Self {
        Self { key: key.into(), value: None }
    }
}

/// How an outbound message came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboundKind {
    /// The answer of a turn.
    Reply,
    /// The answer to a command, an error, a question, news of the gateway's life.
    Notice,
    /// Put in by `send` or a schedule.
    Direct,
}

/// A message to be delivered. Becomes an outbox row before the first attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbound {
    pub chat: ChatRef,
    pub kind: OutboundKind,
    /// Markdown, as models write it; the adapter makes it its platform's dialect.
    pub text: String,
    /// The platform's id of the message that is answered.
    pub reply_to: Option<String>,
    /// The platform's id of a message that the first part replaces: the streamed preview of this reply.
    pub replaces: Option<String>,
    /// Buttons under the message, where the platform has them: label and the command that a press sends.
    pub buttons: Vec<(String, String)>,
}

/// Tokens as the provider counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cache_read_tokens: u64,
    pub cache_write_tokens: u64,
}

impl Usage {
    pub fn add(&mut self, other: Self) {
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
        self.cache_read_tokens += other.cache_read_tokens;
        self.cache_write_tokens += other.cache_write_tokens;
    }
}

/// Who said a message of the transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    User,
    Assistant,
}

/// One piece of a transcript message. The shape follows Anthropic's content blocks; other providers convert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    Text {
        text: String,
    },
    /// An image that is on disk, read when the request is made.
    Image {
        path: String,
        media_type: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: serde_json::Value,
    },
    ToolResult {
        tool_use_id: String,
        content: String,
        is_error: bool,
    },
    /// Must go back to the provider unchanged within the tool loop.
    Thinking {
        thinking: String,
        signature: String,
    },
    RedactedThinking {
        data: String,
    },
}

/// One message of the transcript, as it is stored and as it is sent to the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub blocks: Vec<Block>,
}

impl Message {
    #[must_use]
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self { role, blocks: vec![Block::Text { text: text.into() }] }
    }
}

/// The state of an adapter, as `status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterState {
    Connecting,
    Connected,
    Retrying,
    /// Nothing but a change of the configuration helps: bad credential, banned, another instance.
    Failed,
    Paused,
}
