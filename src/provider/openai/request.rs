//! Requests of Chat Completions.
//!
//! Pure but for the images, which are read from disk.

use super::super::transcript::{Entry, Piece, prepare};
use super::super::{ModelRequest, ToolSpec};
use crate::core::types::Role;
use serde_json::{Value, json};

/// What a server takes; found out when it refuses, and remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    /// `max_completion_tokens` in place of `max_tokens`, which the vendor's newer models refuse and others need.
    pub(super) completion_tokens: bool,
    /// `stream_options` is understood: the usage comes with the stream.
    pub(super) stream_options: bool,
}

/// The body of `POST /chat/completions`.
pub(super) fn body(model: &str, max_tokens: u32, dialect: Dialect, request: &ModelRequest<'_>) -> Value {
    let mut messages = Vec::new();
    if !request.system.trim().is_empty() {
        messages.push(json!({ "role": "system", "content": request.system }));
    }
    for entry in prepare(request.messages) {
        match entry.role {
            Role::User => user(entry, &mut messages),
            Role::Assistant => messages.push(assistant(entry)),
        }
    }
    let mut body = json!({ "model": model, "stream": true, "messages": messages });
    body[if dialect.completion_tokens { "max_completion_tokens" } else { "max_tokens" }] = max_tokens.into();
    if dialect.stream_options {
        body["stream_options"] = json!({ "include_usage": true });
    }
    if !request.tools.is_empty() {
        body["tools"] = request.tools.iter().map(tool).collect();
    }
    body
}

fn tool(spec: &ToolSpec) -> Value {
    json!({ "type": "function", "function": { "name": spec.name, "description": spec.description, "parameters": spec.schema } })
}

/// Results are messages of their own here; the rest of the entry follows them.
fn user(entry: Entry<'_>, messages: &mut Vec<Value>) {
    let mut parts = Vec::new();
    let mut images = false;
    for piece in entry.pieces {
        match piece {
            Piece::ToolResult { id, content, is_error } => {
                // There is no field for it, and the model must be able to tell.
                let content = if is_error { format!("Error: {content}") } else { content.to_owned() };
                messages.push(json!({ "role": "tool", "tool_call_id": id, "content": content }));
            }
            Piece::Text(text) => parts.push(json!({ "type": "text", "text": text })),
            Piece::Image(image) => {
                images = true;
                let url = format!("data:{};base64,{}", image.media_type, image.base64);
                parts.push(json!({ "type": "image_url", "image_url": { "url": url } }));
            }
            Piece::ToolUse { .. } | Piece::Thinking { .. } | Piece::RedactedThinking { .. } => {}
        }
    }
    if images {
        messages.push(json!({ "role": "user", "content": parts }));
    } else if !parts.is_empty() {
        // Not every compatible server takes parts.
        let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
        messages.push(json!({ "role": "user", "content": texts.join("\n\n") }));
    }
}

fn assistant(entry: Entry<'_>) -> Value {
    let mut texts = Vec::new();
    let mut calls = Vec::new();
    for piece in entry.pieces {
        match piece {
            Piece::Text(text) => texts.push(text),
            Piece::ToolUse { id, name, input } => {
                calls.push(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": input.to_string() } }));
            }
            // Another vendor's thinking means nothing here.
            Piece::Thinking { .. } | Piece::RedactedThinking { .. } | Piece::Image(_) | Piece::ToolResult { .. } => {}
        }
    }
    let content = if texts.is_empty() { Value::Null } else { texts.join("\n\n").into() };
    let mut message = json!({ "role": "assistant", "content": content });
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    message
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
