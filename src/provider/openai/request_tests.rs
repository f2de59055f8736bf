//! Bodies of requests, compared as JSON.

use super::*;
use crate::core::types::{Block, Message, Role};

const USUAL: Dialect = Dialect { completion_tokens: false, stream_options: true };

fn check(dialect: Dialect, system: &str, messages: &[Message], tools: &[ToolSpec], expect: &Value) {
    assert_eq!(&body("gpt-x", 1024, dialect, &ModelRequest { system, messages, tools }), expect);
}

#[test]
fn a_tool_loop() {
    let tools = [ToolSpec { name: "get_time", description: "the time".into(), schema: json!({"type": "object"}) }];
    let messages = [
        Message::text(Role::User, "time?"),
        Message {
            role: Role::Assistant,
            blocks: vec![
                Block::Thinking { thinking: "hm".into(), signature: "sig".into() },
                Block::ToolUse { id: "call_a".into(), name: "get_time".into(), input: json!({"tz": "UTC"}) },
                Block::ToolUse { id: "call_b".into(), name: "get_time".into(), input: json!({}) },
            ],
        },
        Message {
            role: Role::User,
            blocks: vec![
                Block::ToolResult { tool_use_id: "call_b".into(), content: "no zone".into(), is_error: true },
                Block::ToolResult { tool_use_id: "call_a".into(), content: "12:00".into(), is_error: false },
                Block::Text { text: "and".into() },
                Block::Text { text: "the date?".into() },
            ],
        },
        Message::text(Role::Assistant, "noon"),
    ];
    check(
        USUAL,
        "Be brief.",
        &messages,
        &tools,
        &json!({
            "model": "gpt-x", "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 1024,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "time?"},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "call_a", "type": "function", "function": {"name": "get_time", "arguments": "{\"tz\":\"UTC\"}"}},
                    {"id": "call_b", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
                ]},
                {"role": "tool", "tool_call_id": "call_a", "content": "12:00"},
                {"role": "tool", "tool_call_id": "call_b", "content": "Error: no zone"},
                {"role": "user", "content": "and\n\nthe date?"},
                {"role": "assistant", "content": "noon"}
            ],
            "tools": [{"type": "function", "function": {"name": "get_time", "description": "the time", "parameters": {"type": "object"}}}]
        }),
    );
}

#[test]
fn images_and_another_dialect() {
    let folder = tempfile::tempdir().expect("scratch directory");
    let path = folder.path().join("x.gif");
    std::fs::write(&path, b"GIF89a").expect("scratch file");
    let image = Block::Image { path: path.to_str().expect("UTF-8").to_owned(), media_type: "image/gif".into() };
    check(
        Dialect { completion_tokens: true, stream_options: false },
        "",
        &[Message { role: Role::User, blocks: vec![Block::Text { text: "look".into() }, image] }],
        &[],
        &json!({
            "model": "gpt-x", "stream": true, "max_completion_tokens": 1024,
            "messages": [{"role": "user", "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlh"}}
            ]}]
        }),
    );
}

#[test]
fn every_call_is_answered() {
    let messages = [
        Message::text(Role::User, "go"),
        Message { role: Role::Assistant, blocks: vec![Block::ToolUse { id: "c".into(), name: "x".into(), input: json!({}) }] },
        Message::text(Role::User, "never mind"),
    ];
    let body = body("m", 1, USUAL, &ModelRequest { system: "", messages: &messages, tools: &[] });
    let roles: Vec<_> = body["messages"].as_array().expect("a list").iter().map(|message| message["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "user"]);
    assert_eq!(body["messages"][2]["tool_call_id"], "c");
}
