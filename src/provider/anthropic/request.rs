//! Requests of the Messages API.
//!
//! Pure but for the images, which are read from disk.

use super::super::transcript::{Entry, Piece, prepare};
use super::super::{ModelRequest, ToolSpec};
use crate::core::types::Role;
use serde_json::{Value, json};

/// The body of `POST /v1/messages`.
///
/// Three of the four cache breakpoints that the Messages API allows are used: after the tools, after the system text
/// and after the last message of the user, so that each round of a turn finds the rounds before it in the cache.
pub(super) fn body(model: &str, max_tokens: u32, request: &ModelRequest<'_>) -> Value {
    let mut body = json!({ "model": model, "max_tokens": max_tokens, "stream": true });
    if !request.system.trim().is_empty() {
        body["system"] = json!([cached(json!({ "type": "text", "text": request.system }))]);
    }
    let mut tools: Vec<Value> = request.tools.iter().map(tool).collect();
    if let Some(last) = tools.pop() {
        tools.push(cached(last));
        body["tools"] = tools.into();
    }
    let mut entries = prepare(request.messages);
    trim_prefill(&mut entries);
    let mut messages: Vec<Value> = entries.into_iter().map(message).collect();
    let last_user = messages.iter_mut().rfind(|message| message["role"] == "user");
    if let Some(block) = last_user.and_then(|message| message["content"].as_array_mut()?.last_mut()) {
        *block = cached(block.take());
    }
    body["messages"] = messages.into();
    body
}

fn cached(mut block: Value) -> Value {
    block["cache_control"] = json!({ "type": "ephemeral" });
    block
}

fn tool(spec: &ToolSpec) -> Value {
    json!({ "name": spec.name, "description": spec.description, "input_schema": spec.schema })
}

/// A reply that is sent back to be continued must not end in white space.
fn trim_prefill(entries: &mut [Entry<'_>]) {
    if let Some(Entry { role: Role::Assistant, pieces }) = entries.last_mut()
        && let Some(Piece::Text(text)) = pieces.last_mut()
    {
        *text = text.trim_end().to_owned().into();
    }
}

fn message(entry: Entry<'_>) -> Value {
    let role = match entry.role {
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    json!({ "role": role, "content": entry.pieces.into_iter().map(block).collect::<Vec<_>>() })
}

fn block(piece: Piece<'_>) -> Value {
    match piece {
        Piece::Text(text) => json!({ "type": "text", "text": text }),
        Piece::Image(image) => {
            json!({ "type": "image", "source": { "type": "base64", "media_type": image.media_type, "data": image.base64 } })
        }
        Piece::ToolUse { id, name, input } => json!({ "type": "tool_use", "id": id, "name": name, "input": input }),
        Piece::ToolResult { id, content, is_error } => {
            json!({ "type": "tool_result", "tool_use_id": id, "content": content, "is_error": is_error })
        }
        Piece::Thinking { thinking, signature } => json!({ "type": "thinking", "thinking": thinking, "signature": signature }),
        Piece::RedactedThinking { data } => json!({ "type": "redacted_thinking", "data": data }),
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
