//! Providers: where the model is asked.
//!
//! Runs on the turn threads. Each provider is a pure part (request building, stream decoder, classing of errors) and a
//! thin shell that does the waiting; [`Chain`] puts retries and fallbacks around them. Nothing in here runs a tool,
//! writes to the store or knows a chat platform.

mod anthropic;
mod chain;
mod check;
mod error;
mod exchange;
mod failure;
mod images;
#[cfg(test)]
mod loopback;
mod offline;
mod openai;
mod transcript;

pub use anthropic::Anthropic;
pub use chain::{Chain, ChainError, ChainEvent, ChainTurn, ProviderSettings};
pub use check::{Verdict, check_key};
pub use error::{Class, ProviderError};
pub use offline::Offline;
pub use openai::OpenAi;

use crate::clock::Deadline;
use crate::config::{ProviderConfig, ProviderKind, Secret};
use crate::core::types::{Block, Message, Usage};
use crate::net::NetOptions;
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

/// Tokens that an image counts for: a photo of a million pixels, by the vendors' own rule of thumb.
const IMAGE_TOKENS: u64 = 1500;

/// About how many tokens a request has: a quarter of its characters. For messages and for the decision to compact.
#[must_use]
pub fn estimate_tokens(request: &ModelRequest<'_>) -> u64 {
    let tools = request.tools.iter().map(|tool| {
        let chars = tool.name.len() + tool.description.chars().count() + tool.schema.to_string().chars().count();
        (chars as u64).div_ceil(4)
    });
    let system = (request.system.chars().count() as u64).div_ceil(4);
    system + tools.sum::<u64>() + request.messages.iter().map(estimate_message_tokens).sum::<u64>()
}

/// About how many tokens one message of the transcript has.
#[must_use]
pub fn estimate_message_tokens(message: &Message) -> u64 {
    let quarter = |text: &str| (text.chars().count() as u64).div_ceil(4);
    let block = |block: &Block| match block {
        Block::Text { text } => quarter(text),
        Block::Image { .. } => IMAGE_TOKENS,
        Block::ToolUse { name, input, .. } => quarter(name) + quarter(&input.to_string()),
        Block::ToolResult { content, .. } => quarter(content),
        Block::Thinking { thinking, signature } => quarter(thinking) + quarter(signature),
        Block::RedactedThinking { data } => quarter(data),
    };
    message.blocks.iter().map(block).sum()
}

/// Builds the chain from `[provider]` and its `[[fallback]]`s.
///
/// # Errors
/// With what is missing, and where to put it.
pub fn build(config: &[ProviderConfig]) -> Result<Chain, String> {
    if config.is_empty() {
        return Err("no model provider is configured; add a [provider] table (hermes-gateway setup does it)".to_owned());
    }
    let providers: Result<Vec<_>, String> = config.iter().enumerate().map(|(place, config)| build_one(place, config)).collect();
    Ok(Chain::new(providers?))
}

fn build_one(place: usize, config: &ProviderConfig) -> Result<(Box<dyn Provider>, ProviderSettings), String> {
    let table = if place == 0 { "[provider]".to_owned() } else { format!("[[fallback]] number {place}") };
    if config.model.trim().is_empty() && config.kind != ProviderKind::Offline {
        return Err(format!("{table}: `model` is missing"));
    }
    // Files and environments often bring a line break along.
    let key = config.api_key.as_ref().map(|key| Secret::new(key.expose().trim().to_owned())).filter(|key| !key.expose().is_empty());
    if key.as_ref().is_some_and(|key| !key.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(format!("{table}: the api key contains a space, a line break or a letter outside ASCII; copy it again"));
    }
    // Servers of one's own do without a key, the vendors do not.
    let needs_key = |vendor: &str| config.base_url.trim().is_empty() || config.base_url.trim().starts_with(vendor);
    let keyless = |vendor: &str| {
        if key.is_none() && needs_key(vendor) {
            return Err(format!("{table}: no api key; set `api_key_env`, `api_key_file` or `api_key`"));
        }
        Ok(())
    };
    let provider: Box<dyn Provider> = match config.kind {
        ProviderKind::Anthropic => {
            keyless(anthropic::BASE_URL)?;
            Box::new(Anthropic::new(&config.model, config.max_tokens, &config.base_url, key))
        }
        ProviderKind::OpenAi => {
            keyless(openai::BASE_URL.trim_end_matches("/v1"))?;
            Box::new(OpenAi::new(&config.model, config.max_tokens, &config.base_url, key))
        }
        ProviderKind::Offline => Box::new(Offline::new(if config.model.trim().is_empty() { "offline" } else { &config.model })),
    };
    Ok((provider, ProviderSettings { silence: config.silence, retries: config.retries }))
}

#[cfg(test)]
#[path = "provider_tests.rs"]
mod tests;
