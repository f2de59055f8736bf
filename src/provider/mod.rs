//! Providers: where the model is asked.

use crate::clock::Deadline;
use crate::core::types::{Block, Message, Usage};
use crate::net::{NetError, NetOptions};
use crate::thread::CancelToken;
use std::time::Duration;

/// A tool as the model is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    pub name: &'static str,
    pub description: String,
    /// JSON schema of the input.
    pub schema: serde_json::Value,
}

/// One question to the model.
pub struct ModelRequest<'a> {
    pub system: &'a str,
    pub messages: &'a [Message],
    pub tools: &'a [ToolSpec],
}

/// How a call is bounded and ended.
pub struct Call<'a> {
    pub token: &'a CancelToken,
    pub net: &'a NetOptions,
    /// No byte for that long: the stream is stale.
    pub silence: Duration,
    /// The whole call.
    pub deadline: Deadline,
}

/// What is heard while the model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta<'a> {
    Text(&'a str),
    /// The model has begun to call this tool.
    Tool(&'a str),
    /// Thinking, pings, anything that shows life.
    Alive,
}

/// Why the model stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    End,
    ToolUse,
    MaxTokens,
    Refusal,
    ContextFull,
    /// Server-side tools: send the reply back as it is to go on.
    Pause,
    Other(String),
}

/// A complete reply. Only blocks that were received completely are in it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelReply {
    pub blocks: Vec<Block>,
    pub stop: Stop,
    pub usage: Usage,
}

/// Why there is no reply. [`ProviderError::class`] says what to do.
#[derive(Debug)]
pub enum ProviderError {
    Cancelled,
    /// Nothing was heard for that long.
    Silent {
        after: Duration,
    },
    /// The call's deadline passed although bytes came.
    Deadline,
    Net(NetError),
    /// The stream ended before its terminator.
    Truncated,
    /// 429, with the time the provider asked for.
    RateLimited {
        after: Option<Duration>,
        message: String,
    },
    /// 529, 503, `overloaded_error`.
    Overloaded {
        after: Option<Duration>,
        message: String,
    },
    /// Other 5xx, 408, 409, or an error event in the stream.
    Server {
        status: u16,
        after: Option<Duration>,
        message: String,
    },
    /// 401, 403: the key.
    Auth {
        status: u16,
        message: String,
    },
    /// Billing: credit or quota is used up.
    Billing {
        message: String,
    },
    /// The transcript is longer than the model takes.
    ContextFull {
        message: String,
    },
    /// 400, 404, 413, 422: the same request would fail again.
    Rejected {
        status: u16,
        message: String,
    },
    /// What came is not what the protocol says.
    Protocol {
        message: String,
    },
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Cancelled,
    /// Try again, after this long if the provider said so.
    Retry {
        after: Option<Duration>,
    },
    /// The key or the account must be mended; another provider may do.
    Reauth,
    /// Compact the transcript and try again.
    Compact,
    /// The same request fails again; another provider may do.
    Reject,
}

/// A provider and model.
pub trait Provider: Send + Sync {
    /// `anthropic`, `openai`, `offline`.
    fn kind(&self) -> &'static str;
    fn model(&self) -> &str;

    /// Asks and listens until the reply is complete. `on` is called for each delta, in order, on this thread.
    ///
    /// # Errors
    /// [`ProviderError`]; half-received blocks are dropped.
    fn ask(&self, request: &ModelRequest<'_>, call: &Call<'_>, on: &mut dyn FnMut(Delta<'_>)) -> Result<ModelReply, ProviderError>;
}
