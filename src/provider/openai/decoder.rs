//! Decoder of Chat Completions' stream, with the oddities of compatible servers.
//!
//! Pure: events in, deltas and one reply out. Tool calls are part of the reply only if their arguments are complete
//! JSON, and nothing is part of it before a `finish_reason` or the terminator was seen.

use super::super::error::{ProviderError, one_line};
use super::super::exchange::{Decoder, protocol_error};
use super::super::failure::Failure;
use super::super::{Delta, ModelReply, Stop};
use crate::core::types::{Block, Usage};
use crate::limits;
use serde::Deserialize;
use serde_json::{Map, Value};

/// One chunk, or a whole answer that is not streamed.
#[derive(Deserialize)]
struct Chunk {
    /// Empty in the chunk that carries the usage; absent in some servers' keep-alive chunks.
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct Choice {
    /// Some proxies leave it out.
    #[serde(default)]
    index: Option<u64>,
    #[serde(default, alias = "message")]
    delta: Option<Piece>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Piece {
    /// Text; from some servers a list of `{type:"text",text}`.
    #[serde(default)]
    content: Value,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<CallPiece>>,
}

#[derive(Deserialize)]
struct CallPiece {
    #[serde(default)]
    index: Option<u64>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Option<FunctionPiece>,
}

#[derive(Deserialize)]
struct FunctionPiece {
    #[serde(default)]
    name: Option<String>,
    /// A text in pieces; from some servers an object, whole.
    #[serde(default)]
    arguments: Value,
}

/// A tool call being put together.
struct ToolCall {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

#[derive(Default)]
pub(super) struct ChatDecoder {
    text: String,
    refused: bool,
    calls: Vec<ToolCall>,
    finish_reason: Option<String>,
    usage: Usage,
    bytes: usize,
    /// The terminator was seen.
    complete: bool,
}

impl ChatDecoder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn grow(&mut self, bytes: usize) -> Result<(), ProviderError> {
        self.bytes += bytes;
        if self.bytes > limits::REPLY_BYTES_MAX || self.calls.len() > limits::REPLY_BLOCKS_MAX {
            return Err(protocol_error("the reply is longer than this gateway takes"));
        }
        Ok(())
    }

    fn chunk(&mut self, chunk: Chunk, on: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
        self.count(&chunk.usage);
        let mut heard = false;
        // Only one answer is asked for; a second one would be mixed into it.
        for choice in chunk.choices.into_iter().flatten().filter(|choice| choice.index.unwrap_or(0) == 0) {
            if let Some(piece) = choice.delta {
                heard |= self.piece(piece, on)?;
            }
            // Some servers send "" while streaming.
            self.finish_reason = choice.finish_reason.filter(|reason| !reason.is_empty()).or(self.finish_reason.take());
        }
        if !heard {
            on(Delta::Alive);
        }
        Ok(())
    }

    fn piece(&mut self, piece: Piece, on: &mut dyn FnMut(Delta<'_>)) -> Result<bool, ProviderError> {
        let mut heard = false;
        let content = content_text(piece.content)?;
        let refusal = piece.refusal.unwrap_or_default();
        self.refused |= !refusal.is_empty();
        for text in [content, refusal] {
            if !text.is_empty() {
                heard = true;
                on(Delta::Text(&text));
                self.text.push_str(&text);
                self.grow(text.len())?;
            }
        }
        for call in piece.tool_calls.into_iter().flatten() {
            heard = true;
            self.call(call, on)?;
        }
        Ok(heard)
    }

    fn call(&mut self, piece: CallPiece, on: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
        let id = piece.id.unwrap_or_default();
        let (name, arguments) = match piece.function {
            Some(function) => (function.name.unwrap_or_default(), arguments_text(function.arguments)?),
            None => (String::new(), String::new()),
        };
        let place = match self.place(piece.index, &id, &name, &arguments) {
            Some(place) => place,
            None => {
                self.calls.push(ToolCall { index: piece.index, id: String::new(), name: String::new(), arguments: String::new() });
                self.calls.len() - 1
            }
        };
        let bytes = id.len() + name.len() + arguments.len();
        let call = &mut self.calls[place];
        // Both come in the first piece; what some servers repeat afterwards adds nothing.
        if call.id.is_empty() {
            call.id = id;
        }
        if call.name.is_empty() && !name.is_empty() {
            on(Delta::Tool(&name));
            call.name = name;
        } else {
            on(Delta::Alive);
        }
        call.arguments.push_str(&arguments);
        self.grow(bytes)
    }

    /// The call that a piece belongs to; `None` if it begins one.
    fn place(&self, index: Option<u64>, id: &str, name: &str, arguments: &str) -> Option<usize> {
        // Another id is another call, even where a server gives each call the index 0, or none.
        let same_id = |call: &ToolCall| id.is_empty() || call.id.is_empty() || call.id == id;
        if index.is_some() {
            return self.calls.iter().rposition(|call| call.index == index && same_id(call));
        }
        let last = self.calls.last()?;
        // Without index and id, a name and arguments together after complete arguments are the next call in one piece.
        let next = id.is_empty()
            && !name.is_empty()
            && !arguments.is_empty()
            && parse_arguments(&last.arguments).is_some()
            && !last.arguments.is_empty();
        (same_id(last) && !next).then(|| self.calls.len() - 1)
    }

    fn count(&mut self, usage: &Value) {
        let tokens = |value: &Value| value.as_u64();
        if let Some(prompt) = tokens(&usage["prompt_tokens"]) {
            let cached = tokens(&usage["prompt_tokens_details"]["cached_tokens"]).unwrap_or(0).min(prompt);
            self.usage.input_tokens = prompt - cached;
            self.usage.cache_read_tokens = cached;
        }
        if let Some(completion) = tokens(&usage["completion_tokens"]) {
            self.usage.output_tokens = completion;
        }
    }

    fn blocks(&mut self) -> Result<Vec<Block>, ProviderError> {
        let mut blocks = Vec::new();
        if !self.text.is_empty() {
            blocks.push(Block::Text { text: std::mem::take(&mut self.text) });
        }
        let filtered = self.refused || self.finish_reason.as_deref() == Some("content_filter");
        let cut = self.finish_reason.as_deref() == Some("length");
        for call in self.calls.drain(..).filter(|_| !filtered) {
            match parse_arguments(&call.arguments) {
                // Cut before its arguments began, it may look complete: an empty text stands for `{}`.
                _ if call.name.is_empty() && cut => {}
                Some(_) if call.arguments.trim().is_empty() && cut => {}
                Some(_) if call.name.is_empty() => return Err(protocol_error("a tool call without a name")),
                Some(input) => {
                    let id = if call.id.is_empty() { invented_id() } else { call.id };
                    blocks.push(Block::ToolUse { id, name: call.name, input: Value::Object(input) });
                }
                None if cut => {}
                None => {
                    return Err(protocol_error(&format!(
                        "the arguments of the tool call {} are not a complete JSON object",
                        one_line(&call.name)
                    )));
                }
            }
        }
        Ok(blocks)
    }
}

/// The text in `content`.
fn content_text(content: Value) -> Result<String, ProviderError> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        // Parts of other types (reasoning) are not for the reader.
        Value::Array(parts) => Ok(parts.iter().filter_map(|part| part["text"].as_str()).collect()),
        _ => Err(protocol_error("content that is neither text nor parts")),
    }
}

fn arguments_text(arguments: Value) -> Result<String, ProviderError> {
    match arguments {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        Value::Object(_) => Ok(arguments.to_string()),
        _ => Err(protocol_error("arguments that are neither text nor an object")),
    }
}

/// The arguments, if they are complete. Nothing at all means `{}`.
fn parse_arguments(arguments: &str) -> Option<Map<String, Value>> {
    if arguments.trim().is_empty() {
        return Some(Map::new());
    }
    match serde_json::from_str(arguments).ok()? {
        Value::Object(map) => Some(map),
        Value::Null => Some(Map::new()),
        _ => None,
    }
}

/// An id for a call that came without one. It goes back to the same server only as our own word.
fn invented_id() -> String {
    let tail: String = std::iter::repeat_with(fastrand::alphanumeric).take(16).collect();
    format!("call_{tail}")
}

impl Decoder for ChatDecoder {
    fn event(&mut self, data: &str, on: &mut dyn FnMut(Delta<'_>)) -> Result<bool, ProviderError> {
        if self.complete || data.trim().is_empty() {
            return Ok(self.complete);
        }
        if data.trim() == "[DONE]" {
            self.complete = true;
            return Ok(true);
        }
        let value: Value = serde_json::from_str(data).map_err(|error| protocol_error(&error.to_string()))?;
        if let Some(failure) = Failure::from_value(&value) {
            return Err(failure.classify());
        }
        if !value.is_object() {
            return Err(protocol_error("an event that is no object"));
        }
        let chunk = Chunk::deserialize(value).map_err(|error| protocol_error(&error.to_string()))?;
        self.chunk(chunk, on)?;
        Ok(false)
    }

    fn whole(&mut self, answer: &Value, on: &mut dyn FnMut(Delta<'_>)) -> Result<(), ProviderError> {
        let chunk = Chunk::deserialize(answer).map_err(|error| protocol_error(&error.to_string()))?;
        if chunk.choices.as_ref().is_none_or(Vec::is_empty) {
            return Err(protocol_error("an answer without choices"));
        }
        self.chunk(chunk, on)?;
        self.complete = true;
        Ok(())
    }

    fn may_end(&self) -> bool {
        self.complete || self.finish_reason.is_some()
    }

    fn finish(mut self) -> Result<ModelReply, ProviderError> {
        let nothing = self.text.is_empty() && self.calls.is_empty();
        // A proxy that lost its upstream says [DONE] after nothing.
        if !self.may_end() || (nothing && self.finish_reason.is_none()) {
            return Err(ProviderError::Truncated);
        }
        let blocks = self.blocks()?;
        let calls = blocks.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        let stop = match self.finish_reason.as_deref() {
            // Some servers say "stop" after tool calls: their presence decides.
            _ if calls => Stop::ToolUse,
            Some("content_filter") => Stop::Refusal,
            _ if self.refused => Stop::Refusal,
            Some("length") => Stop::MaxTokens,
            None | Some("stop" | "tool_calls" | "function_call") => Stop::End,
            Some(other) => Stop::Other(one_line(other)),
        };
        Ok(ModelReply { blocks, stop, usage: self.usage })
    }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;
