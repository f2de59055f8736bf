//! Decoder of the Messages API's event stream.
//!
//! Pure: events in, deltas and one reply out. A tool call is part of the reply only if its block was closed and its
//! input is complete JSON; nothing is part of it before `message_stop`.

use super::super::error::{ProviderError, one_line};
use super::super::exchange::{Decoder, protocol_error};
use super::super::failure::Failure;
use super::super::{Delta, ModelReply, Stop};
use crate::core::types::{Block, Usage};
use crate::limits;
use serde::Deserialize;
use serde_json::{Map, Value};

/// The events, by `type`. The `event:` line repeats it and is not looked at. Unknown types must be ignored.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Head,
    },
    ContentBlockStart {
        index: u64,
        content_block: Start,
    },
    ContentBlockDelta {
        index: u64,
        delta: Change,
    },
    ContentBlockStop {
        index: u64,
    },
    MessageDelta {
        delta: Ending,
        #[serde(default)]
        usage: Value,
    },
    MessageStop,
    Error,
    /// `ping`, and what is yet to be invented.
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct Ending {
    stop_reason: Option<String>,
}

/// `content_block`: how a block begins. In an answer that is not streamed it is all there is of the block.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Start {
    Text {
        #[serde(default)]
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        #[serde(default)]
        input: Value,
    },
    Thinking {
        #[serde(default)]
        thinking: String,
        #[serde(default)]
        signature: String,
    },
    RedactedThinking {
        data: String,
    },
    /// Blocks of server-side tools, which are never asked for.
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Change {
    TextDelta {
        text: String,
    },
    InputJsonDelta {
        partial_json: String,
    },
    ThinkingDelta {
        thinking: String,
    },
    SignatureDelta {
        signature: String,
    },
    /// Citations, and what is yet to be invented.
    #[serde(other)]
    Unknown,
}

/// An answer that is not streamed.
#[derive(Deserialize)]
struct Whole {
    content: Vec<Start>,
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Value,
}

struct Part {
    index: u64,
    closed: bool,
    content: Content,
}

enum Content {
    Text(String),
    /// `given`: the input that came with the start of the block; replaced by what is streamed, if anything is.
    Tool {
        id: String,
        name: String,
        given: Value,
        json: String,
    },
    Thinking {
        thinking: String,
        signature: String,
    },
    Redacted(String),
    Ignored,
}

#[derive(Default)]
pub(super) struct MessagesDecoder {
    parts: Vec<Part>,
    stop: Option<String>,
    usage: Usage,
    bytes: usize,
    complete: bool,
}

impl MessagesDecoder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn grow(&mut self, bytes: usize) -> Result<(), ProviderError> {
        self.bytes += bytes;
        if self.bytes > limits::REPLY_BYTES_MAX || self.parts.len() > limits::REPLY_BLOCKS_MAX {
            return Err(protocol_error("the reply is longer than this gateway takes"));
        }
        Ok(())
    }

    fn start(&mut self, index: u64, start: Start, on: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
        if self.parts.iter().any(|part| part.index == index) {
            return Err(protocol_error(&format!("block {index} begins twice")));
        }
        let (content, bytes) = match start {
            Start::Text { text } => {
                if !text.is_empty() {
                    on(Delta::Text(&text));
                }
                let bytes = text.len();
                (Content::Text(text), bytes)
            }
            Start::ToolUse { id, name, input } => {
                on(Delta::Tool(&name));
                let bytes = id.len() + name.len();
                (Content::Tool { id, name, given: input, json: String::new() }, bytes)
            }
            Start::Thinking { thinking, signature } => {
                on(Delta::Alive);
                let bytes = thinking.len() + signature.len();
                (Content::Thinking { thinking, signature }, bytes)
            }
            Start::RedactedThinking { data } => {
                on(Delta::Alive);
                let bytes = data.len();
                (Content::Redacted(data), bytes)
            }
            Start::Unknown => {
                on(Delta::Alive);
                (Content::Ignored, 0)
            }
        };
        self.parts.push(Part { index, closed: false, content });
        self.grow(bytes)
    }

    fn change(&mut self, index: u64, change: Change, on: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
        let Some(part) = self.parts.iter_mut().find(|part| part.index == index && !part.closed) else {
            return Err(protocol_error(&format!("a piece of block {index}, which is not open")));
        };
        let bytes = match (&mut part.content, change) {
            (Content::Text(all), Change::TextDelta { text }) => {
                if !text.is_empty() {
                    on(Delta::Text(&text));
                }
                all.push_str(&text);
                text.len()
            }
            (Content::Tool { json, .. }, Change::InputJsonDelta { partial_json }) => {
                on(Delta::Alive);
                json.push_str(&partial_json);
                partial_json.len()
            }
            (Content::Thinking { thinking: all, .. }, Change::ThinkingDelta { thinking }) => {
                on(Delta::Alive);
                all.push_str(&thinking);
                thinking.len()
            }
            (Content::Thinking { signature: all, .. }, Change::SignatureDelta { signature }) => {
                on(Delta::Alive);
                all.push_str(&signature);
                signature.len()
            }
            (Content::Ignored, _) | (_, Change::Unknown) => {
                on(Delta::Alive);
                0
            }
            _ => return Err(protocol_error(&format!("a piece of another kind in block {index}"))),
        };
        self.grow(bytes)
    }

    fn close(&mut self, index: u64) -> Result<(), ProviderError> {
        match self.parts.iter_mut().find(|part| part.index == index) {
            Some(part) => {
                part.closed = true;
                Ok(())
            }
            None => Err(protocol_error(&format!("the end of block {index}, which never began"))),
        }
    }

    /// Takes the counts that are given. They are cumulative: a later one replaces an earlier one.
    fn count(&mut self, usage: &Value) {
        let take = |name: &str, field: &mut u64| {
            if let Some(tokens) = usage.get(name).and_then(Value::as_u64) {
                *field = tokens;
            }
        };
        take("input_tokens", &mut self.usage.input_tokens);
        take("output_tokens", &mut self.usage.output_tokens);
        take("cache_read_input_tokens", &mut self.usage.cache_read_tokens);
        take("cache_creation_input_tokens", &mut self.usage.cache_write_tokens);
    }

    fn blocks(&mut self) -> Result<Vec<Block>, ProviderError> {
        // A reply that was cut by its length may end within a tool call; that call is left out. A refused one must not act at all.
        let cut = matches!(self.stop.as_deref(), Some("max_tokens" | "model_context_window_exceeded"));
        let refused = self.stop.as_deref() == Some("refusal");
        let mut blocks = Vec::with_capacity(self.parts.len());
        for part in self.parts.drain(..) {
            match part.content {
                Content::Text(text) if !text.is_empty() => blocks.push(Block::Text { text }),
                Content::Tool { id, name, given, json } if !refused => match tool_input(given, &json) {
                    Some(input) if part.closed => blocks.push(Block::ToolUse { id, name, input: Value::Object(input) }),
                    _ if cut => {}
                    _ => {
                        return Err(protocol_error(&format!(
                            "the input of the tool call {} is not a complete JSON object",
                            one_line(&name)
                        )));
                    }
                },
                Content::Thinking { thinking, signature } => blocks.push(Block::Thinking { thinking, signature }),
                Content::Redacted(data) => blocks.push(Block::RedactedThinking { data }),
                Content::Text(_) | Content::Tool { .. } | Content::Ignored => {}
            }
        }
        Ok(blocks)
    }
}

/// The input of a tool call. Nothing streamed: what the block began with, and `{}` if that is nothing too.
fn tool_input(given: Value, json: &str) -> Option<Map<String, Value>> {
    let value = if json.trim().is_empty() { given } else { serde_json::from_str(json).ok()? };
    match value {
        Value::Object(map) => Some(map),
        Value::Null => Some(Map::new()),
        _ => None,
    }
}

impl Decoder for MessagesDecoder {
    fn event(&mut self, data: &str, on: &mut dyn FnMut(Delta<'_>)) -> Result<bool, ProviderError> {
        // Some proxies end every stream in Chat Completions' way.
        if self.complete || data.is_empty() || data == "[DONE]" {
            return Ok(self.complete);
        }
        let event = serde_json::from_str(data).map_err(|error| protocol_error(&error.to_string()))?;
        match event {
            Event::MessageStart { message } => {
                self.count(&message.usage);
                on(Delta::Alive);
            }
            Event::ContentBlockStart { index, content_block } => self.start(index, content_block, on)?,
            Event::ContentBlockDelta { index, delta } => self.change(index, delta, on)?,
            Event::ContentBlockStop { index } => self.close(index)?,
            Event::MessageDelta { delta, usage } => {
                self.stop = delta.stop_reason.or(self.stop.take());
                self.count(&usage);
                on(Delta::Alive);
            }
            Event::MessageStop => self.complete = true,
            Event::Error => {
                let value = serde_json::from_str(data).unwrap_or_default();
                return Err(Failure::from_value(&value).unwrap_or_default().classify());
            }
            Event::Unknown => on(Delta::Alive),
        }
        Ok(self.complete)
    }

    fn whole(&mut self, answer: &Value, on: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
        let whole = Whole::deserialize(answer).map_err(|error| protocol_error(&error.to_string()))?;
        for (index, start) in (0..).zip(whole.content) {
            self.start(index, start, on)?;
            self.close(index)?;
        }
        self.stop = whole.stop_reason;
        self.count(&whole.usage);
        self.complete = true;
        Ok(())
    }

    fn may_end(&self) -> bool {
        self.complete
    }

    fn finish(mut self) -> Result<ModelReply, ProviderError> {
        if !self.complete {
            return Err(ProviderError::Truncated);
        }
        let blocks = self.blocks()?;
        let calls = blocks.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        let stop = match self.stop.as_deref() {
            // Calls that are complete are to be run, whatever ended the reply after them.
            _ if calls => Stop::ToolUse,
            None | Some("end_turn" | "stop_sequence" | "tool_use") => Stop::End,
            Some("max_tokens") => Stop::MaxTokens,
            Some("refusal") => Stop::Refusal,
            Some("model_context_window_exceeded") => Stop::ContextFull,
            Some("pause_turn") => Stop::Pause,
            Some(other) => Stop::Other(one_line(other)),
        };
        Ok(ModelReply { blocks, stop, usage: self.usage })
    }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
