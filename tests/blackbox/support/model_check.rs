//! What the real model servers refuse: the rules of the two protocols for a request.

use super::http::Request;
use super::model::Protocol;
use serde_json::Value;
use std::collections::BTreeSet;

type Refusal = (u16, String);
type Check = Result<(), Refusal>;
/// Role and blocks.
type Merged = (String, Vec<Value>);

fn refuse<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err((400, message.into()))
}

fn require(condition: bool, message: &str) -> Check {
    if condition { Ok(()) } else { refuse(message) }
}

pub fn check(protocol: Protocol, request: &Request, body: &Value) -> Check {
    if request.method != "POST" {
        return Err((405, "Method not allowed".to_owned()));
    }
    require(
        request.header("content-type").is_some_and(|kind| kind.starts_with("application/json")),
        "content-type must be application/json",
    )?;
    require(body.is_object(), "the body is not a JSON object")?;
    require(body["model"].as_str().is_some_and(|model| !model.is_empty()), "model: field required")?;
    require(body["messages"].as_array().is_some_and(|messages| !messages.is_empty()), "messages: at least one message is required")?;
    match protocol {
        Protocol::Anthropic => anthropic(request, body),
        Protocol::OpenAi => openai(request, body),
    }
}

fn tool_name(name: &Value, length: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    name.as_str().is_some_and(|name| (1..=length).contains(&name.len()) && name.bytes().all(allowed))
}

fn anthropic(request: &Request, body: &Value) -> Check {
    let key = request.header("x-api-key").or(request.header("authorization"));
    if key.is_none_or(str::is_empty) {
        return Err((401, "x-api-key header is required".to_owned()));
    }
    require(request.header("anthropic-version") == Some("2023-06-01"), "anthropic-version: header is required")?;
    require(body["max_tokens"].as_i64().is_some_and(|tokens| tokens >= 1), "max_tokens: field required")?;
    require(body.to_string().matches("\"cache_control\"").count() <= 4, "A maximum of 4 blocks with cache_control may be provided.")?;
    match &body["system"] {
        Value::Null => {}
        Value::String(_) => {}
        Value::Array(blocks) => {
            for block in blocks {
                text_block(block, "system")?;
            }
        }
        _ => return refuse("system: must be a string or an array"),
    }
    let mut names = BTreeSet::new();
    for tool in body["tools"].as_array().into_iter().flatten() {
        require(tool_name(&tool["name"], 64), "tools: name must match '^[a-zA-Z0-9_-]{1,128}$'")?;
        require(names.insert(tool["name"].to_string()), "tools: Tool names must be unique.")?;
        require(tool["input_schema"]["type"] == "object", "tools: input_schema.type must be 'object'")?;
    }
    let messages = body["messages"].as_array().expect("checked");
    require(messages[0]["role"] == "user", "messages: first message must use the \"user\" role")?;
    let mut asked: Vec<String> = Vec::new();
    let mut all_ids = BTreeSet::new();
    for (at, message) in merged(messages)?.iter().enumerate() {
        asked = anthropic_message(at, message, asked, &mut all_ids, !names.is_empty())?;
    }
    require(asked.is_empty(), "tool_use ids were found without tool_result blocks immediately after")?;
    let last = messages.last().expect("not empty");
    let trailing = |text: &str| text.ends_with(char::is_whitespace);
    let text = last["content"].as_str().or_else(|| last["content"].as_array()?.last()?["text"].as_str());
    require(
        last["role"] != "assistant" || !text.is_some_and(trailing),
        "messages: final assistant content cannot end with trailing whitespace",
    )
}

/// Role and blocks of each message; neighbours with the same role are one message to the server.
fn merged(messages: &[Value]) -> Result<Vec<Merged>, Refusal> {
    let mut merged: Vec<Merged> = Vec::new();
    for message in messages {
        let role = message["role"].as_str().unwrap_or_default();
        require(matches!(role, "user" | "assistant"), "messages: role must be 'user' or 'assistant'")?;
        let blocks = match &message["content"] {
            Value::String(text) => vec![serde_json::json!({"type": "text", "text": text})],
            Value::Array(blocks) => blocks.clone(),
            _ => return refuse("messages: content: field required"),
        };
        require(!blocks.is_empty(), "messages: content must not be empty")?;
        match merged.last_mut() {
            Some((last, all)) if last == role => all.extend(blocks),
            _ => merged.push((role.to_owned(), blocks)),
        }
    }
    Ok(merged)
}

fn text_block(block: &Value, place: &str) -> Check {
    require(block["type"] == "text", &format!("{place}: block type"))?;
    let text = block["text"].as_str();
    require(text.is_some_and(|text| !text.is_empty()), &format!("{place}: text content blocks must be non-empty"))?;
    require(text.is_some_and(|text| !text.trim().is_empty()), &format!("{place}: text content blocks must contain non-whitespace text"))
}

/// → the tool calls that the next message must answer.
fn anthropic_message(
    at: usize,
    (role, blocks): &Merged,
    asked: Vec<String>,
    all_ids: &mut BTreeSet<String>,
    tools: bool,
) -> Result<Vec<String>, Refusal> {
    let place = format!("messages.{at}");
    let mut answered = BTreeSet::new();
    let mut asks = Vec::new();
    let mut other_seen = false;
    for block in blocks {
        match (block["type"].as_str().unwrap_or_default(), role.as_str()) {
            ("text", _) => text_block(block, &place)?,
            ("tool_use", "assistant") => {
                let id = block["id"].as_str().unwrap_or_default().to_owned();
                require(tools, &format!("{place}: Requests which include `tool_use` or `tool_result` blocks must define tools"))?;
                require(tool_name(&block["name"], 64) && block["input"].is_object(), &format!("{place}: tool_use needs name and input"))?;
                require(!id.is_empty() && all_ids.insert(id.clone()), &format!("{place}: `tool_use` ids must be unique"))?;
                asks.push(id);
            }
            ("tool_result", "user") => {
                let id = block["tool_use_id"].as_str().unwrap_or_default();
                require(
                    asked.iter().any(|known| known == id),
                    &format!("{place}: unexpected `tool_use_id` found in `tool_result` blocks: {id}"),
                )?;
                require(answered.insert(id.to_owned()), &format!("{place}: each tool_use must have a single result"))?;
                require(!other_seen, &format!("{place}: tool_result blocks must come before other content"))?;
                for part in block["content"].as_array().into_iter().flatten().filter(|part| part["type"] == "text") {
                    text_block(part, &place)?;
                }
            }
            ("image", "user") => {
                let source = &block["source"];
                require(matches!(source["type"].as_str(), Some("base64" | "url")), &format!("{place}: image source"))?;
            }
            ("thinking", "assistant") => require(block["signature"].is_string(), &format!("{place}: thinking needs its signature"))?,
            ("redacted_thinking", "assistant") => {}
            (kind, role) => return refuse(format!("{place}: block {kind:?} is not allowed for role {role}")),
        }
        other_seen |= block["type"] != "tool_result";
    }
    let missing: Vec<&String> = asked.iter().filter(|id| !answered.contains(*id)).collect();
    require(
        missing.is_empty(),
        &format!("{place}: `tool_use` ids were found without `tool_result` blocks immediately after: {missing:?}"),
    )?;
    Ok(asks)
}

fn openai(request: &Request, body: &Value) -> Check {
    let key = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    if key.is_none_or(|key| key.trim().is_empty()) {
        return Err((401, "You didn't provide an API key.".to_owned()));
    }
    require(
        body["max_tokens"].is_null() || body["max_completion_tokens"].is_null(),
        "max_tokens and max_completion_tokens are mutually exclusive",
    )?;
    require(body["stream_options"].is_null() || body["stream"] == true, "stream_options is only allowed when stream is true")?;
    for tool in body["tools"].as_array().into_iter().flatten() {
        require(
            tool["type"] == "function" && tool_name(&tool["function"]["name"], 64),
            "tools: function.name does not match '^[a-zA-Z0-9_-]+$'",
        )?;
    }
    let no_tools = body["tools"].as_array().is_some_and(Vec::is_empty);
    require(!no_tools, "tools: [] is too short")?;
    let mut open: BTreeSet<String> = BTreeSet::new();
    for (at, message) in body["messages"].as_array().expect("checked").iter().enumerate() {
        openai_message(&format!("messages[{at}]"), message, &mut open)?;
    }
    require(open.is_empty(), "an assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'")
}

fn openai_message(place: &str, message: &Value, open: &mut BTreeSet<String>) -> Check {
    let role = message["role"].as_str().unwrap_or_default();
    if role == "tool" {
        let id = message["tool_call_id"].as_str().unwrap_or_default();
        require(
            open.remove(id),
            &format!("{place}: messages with role 'tool' must be a response to a preceding message with 'tool_calls'"),
        )?;
        return require(message["content"].is_string() || message["content"].is_array(), &format!("{place}: tool message without content"));
    }
    let unanswered = "an assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'";
    require(open.is_empty(), &format!("{place}: {unanswered}"))?;
    match role {
        "system" | "developer" | "user" => {
            let content = &message["content"];
            let parts = content.as_array().is_some_and(|parts| !parts.is_empty() && parts.iter().all(|part| part["type"].is_string()));
            require(content.is_string() || parts, &format!("{place}.content: expected a string or an array of parts"))
        }
        "assistant" => {
            let calls = message["tool_calls"].as_array();
            require(!calls.is_some_and(Vec::is_empty), &format!("{place}.tool_calls: [] is too short"))?;
            require(
                message["content"].is_string() || calls.is_some(),
                &format!("{place}: assistant message without content and tool_calls"),
            )?;
            for call in calls.into_iter().flatten() {
                require(call["type"] == "function" && tool_name(&call["function"]["name"], 64), &format!("{place}: tool call"))?;
                let arguments = call["function"]["arguments"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
                require(arguments.is_some_and(|value| value.is_object()), &format!("{place}: arguments must be JSON in a string"))?;
                require(
                    open.insert(call["id"].as_str().unwrap_or_default().to_owned()),
                    &format!("{place}: tool call ids must be unique"),
                )?;
            }
            Ok(())
        }
        other => refuse(format!("{place}.role: {other:?} is not one of system, developer, user, assistant, tool")),
    }
}
