//! Bodies of requests, compared as JSON.

use super::*;
use crate::core::types::{Block, Message, Role};

fn spec(name: &'static str) -> ToolSpec {
    ToolSpec { name, description: format!("does {name}"), schema: json!({"type": "object", "properties": {}}) }
}

fn check(system: &str, messages: &[Message], tools: &[ToolSpec], expect: &Value) {
    assert_eq!(&body("claude-x", 4096, &ModelRequest { system, messages, tools }), expect);
}

#[test]
fn a_first_message() {
    check(
        "You are a gateway.",
        &[Message::text(Role::User, "What time is it?")],
        &[spec("shell"), spec("get_time")],
        &json!({
            "model": "claude-x", "max_tokens": 4096, "stream": true,
            "system": [{"type": "text", "text": "You are a gateway.", "cache_control": {"type": "ephemeral"}}],
            "tools": [
                {"name": "shell", "description": "does shell", "input_schema": {"type": "object", "properties": {}}},
                {"name": "get_time", "description": "does get_time", "input_schema": {"type": "object", "properties": {}}, "cache_control": {"type": "ephemeral"}}
            ],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "What time is it?", "cache_control": {"type": "ephemeral"}}]}]
        }),
    );
}

#[test]
fn nothing_that_is_empty_is_sent() {
    check(
        " ",
        &[Message::text(Role::User, "hi"), Message::text(Role::Assistant, ""), Message::text(Role::User, "\n")],
        &[],
        &json!({
            "model": "claude-x", "max_tokens": 4096, "stream": true,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]}]
        }),
    );
}

#[test]
fn a_tool_loop_with_thinking() {
    let folder = tempfile::tempdir().expect("scratch directory");
    let path = folder.path().join("x.gif");
    std::fs::write(&path, b"GIF89a").expect("scratch file");
    let image = Block::Image { path: path.to_str().expect("UTF-8").to_owned(), media_type: "image/png".into() };
    let messages = [
        Message { role: Role::User, blocks: vec![image, Block::Text { text: "look".into() }] },
        Message {
            role: Role::Assistant,
            blocks: vec![
                Block::Thinking { thinking: "hm".into(), signature: "sig".into() },
                Block::RedactedThinking { data: "xyz".into() },
                Block::ToolUse { id: "a".into(), name: "shell".into(), input: json!({"command": "ls"}) },
                Block::ToolUse { id: "b".into(), name: "shell".into(), input: json!({}) },
            ],
        },
        Message {
            role: Role::User,
            blocks: vec![
                Block::Text { text: "hurry".into() },
                Block::ToolResult { tool_use_id: "a".into(), content: "x.gif".into(), is_error: false },
            ],
        },
    ];
    check(
        "",
        &messages,
        &[],
        &json!({
            "model": "claude-x", "max_tokens": 4096, "stream": true,
            "messages": [
                {"role": "user", "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "R0lGODlh"}},
                    {"type": "text", "text": "look"}
                ]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "sig"},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "tool_use", "id": "a", "name": "shell", "input": {"command": "ls"}},
                    {"type": "tool_use", "id": "b", "name": "shell", "input": {}}
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": "x.gif", "is_error": false},
                    {"type": "tool_result", "tool_use_id": "b",
                     "content": "(no result: the call was interrupted; it may or may not have had an effect)", "is_error": true},
                    {"type": "text", "text": "hurry", "cache_control": {"type": "ephemeral"}}
                ]}
            ]
        }),
    );
}

#[test]
fn a_reply_to_be_continued_does_not_end_in_white_space() {
    let messages = [Message::text(Role::User, "go on"), Message::text(Role::Assistant, "so far \n")];
    check(
        "",
        &messages,
        &[],
        &json!({
            "model": "claude-x", "max_tokens": 4096, "stream": true,
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "go on", "cache_control": {"type": "ephemeral"}}]},
                {"role": "assistant", "content": [{"type": "text", "text": "so far"}]}
            ]
        }),
    );
}

#[test]
fn never_more_than_four_breakpoints() {
    let messages: Vec<Message> =
        (0..20).map(|n| Message::text(if n % 2 == 0 { Role::User } else { Role::Assistant }, format!("m{n}"))).collect();
    let tools = [spec("a"), spec("b"), spec("c")];
    let body = body("m", 1, &ModelRequest { system: "s", messages: &messages, tools: &tools }).to_string();
    assert_eq!(body.matches("cache_control").count(), 3);
}
