//! Chat Completions' stream: every chunk, every cut, and the oddities of compatible servers.

use super::*;
use crate::net::sse::Splitter;
use proptest::prelude::*;
use serde_json::json;

/// As observed from the protocol's reference servers: text, two tool calls in pieces, usage, terminator.
const STREAM: &str = r#": ping

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"Let me löök. 😀"},"finish_reason":null}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"get_time","arguments":""}}]},"finish_reason":null}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"tz\":"}}]},"finish_reason":null}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"UTC\"}"}}]}}]}

: OPENROUTER PROCESSING

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"ls","arguments":""}}]},"finish_reason":null}]}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":30,"completion_tokens":8,"total_tokens":38,"prompt_tokens_details":{"cached_tokens":10}}}

data: [DONE]

"#;

fn whole_reply() -> ModelReply {
    ModelReply {
        blocks: vec![
            Block::Text { text: "Let me löök. 😀".into() },
            Block::ToolUse { id: "call_1".into(), name: "get_time".into(), input: json!({"tz": "UTC"}) },
            Block::ToolUse { id: "call_2".into(), name: "ls".into(), input: json!({}) },
        ],
        stop: Stop::ToolUse,
        usage: Usage { input_tokens: 20, output_tokens: 8, cache_read_tokens: 10, cache_write_tokens: 0 },
    }
}

fn decode<'a>(events: impl IntoIterator<Item = &'a str>) -> (Result<ModelReply, ProviderError>, String) {
    let mut heard = String::new();
    let mut on = |delta: Delta<'_>| match delta {
        Delta::Text(text) => heard.push_str(text),
        Delta::Tool(name) => heard.push_str(&format!("<{name}>")),
        Delta::Alive => {}
    };
    let mut decoder = ChatDecoder::new();
    for event in events {
        match decoder.event(event, &mut on) {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => return (Err(error), heard),
        }
    }
    (decoder.finish(), heard)
}

fn events_of(stream: &[u8], cuts: &[usize]) -> Vec<String> {
    let mut splitter = Splitter::new();
    let mut events = Vec::new();
    let mut rest = stream;
    for cut in cuts.iter().cycle() {
        let (piece, after) = rest.split_at((*cut).min(rest.len()));
        events.extend(splitter.push(piece).expect("short lines").into_iter().map(|event| event.data));
        rest = after;
        if rest.is_empty() {
            return events;
        }
    }
    events
}

/// A reply of these deltas and this reason, ended in order.
fn reply_of(deltas: &[Value], reason: Value) -> Result<ModelReply, ProviderError> {
    let mut events: Vec<String> = deltas.iter().map(|delta| json!({"choices": [{"index": 0, "delta": delta}]}).to_string()).collect();
    events.push(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}).to_string());
    events.push("[DONE]".into());
    decode(events.iter().map(String::as_str)).0
}

/// `id name input`, one a call.
fn calls_of(pieces: &[Value]) -> Vec<String> {
    let deltas: Vec<Value> = pieces.iter().map(|piece| json!({"tool_calls": [piece]})).collect();
    let reply = reply_of(&deltas, json!("tool_calls")).expect("a reply");
    let call = |block: &Block| match block {
        Block::ToolUse { id, name, input } => format!("{id} {name} {input}"),
        other => format!("{other:?}"),
    };
    reply.blocks.iter().map(call).collect()
}

#[test]
fn a_whole_stream() {
    let events = events_of(STREAM.as_bytes(), &[STREAM.len()]);
    let (reply, heard) = decode(events.iter().map(String::as_str));
    assert_eq!(reply.expect("a reply"), whole_reply());
    assert_eq!(heard, "Let me löök. 😀<get_time><ls>");
}

#[test]
fn a_stream_that_ends_early_is_no_reply() {
    let events = events_of(STREAM.as_bytes(), &[STREAM.len()]);
    let reason = events.iter().position(|event| event.contains(r#""finish_reason":"tool_calls""#)).expect("in the stream");
    for count in 0..=events.len() {
        let (reply, _) = decode(events[..count].iter().map(String::as_str));
        if count <= reason {
            assert!(matches!(reply, Err(ProviderError::Truncated)), "after {count} events");
        } else {
            assert_eq!(reply.expect("a reply").blocks, whole_reply().blocks, "after {count} events");
        }
    }
}

#[test]
fn an_error_after_any_event_is_that_error() {
    let events = events_of(STREAM.as_bytes(), &[STREAM.len()]);
    let error = r#"{"error":{"message":"upstream died","type":"server_error","code":null}}"#;
    for count in 0..events.len() {
        let (reply, _) = decode(events[..count].iter().map(String::as_str).filter(|event| *event != "[DONE]").chain([error]));
        assert!(matches!(reply, Err(ProviderError::Server { status: 500, .. })), "after {count} events");
    }
}

#[test]
fn every_byte_boundary() {
    for at in 1..STREAM.len() {
        let events = events_of(STREAM.as_bytes(), &[at, STREAM.len()]);
        assert_eq!(decode(events.iter().map(String::as_str)).0.expect("a reply"), whole_reply(), "cut at {at}");
    }
}

#[test]
fn every_reason_to_stop() {
    let check = |reason: &str, expect: Stop| {
        assert_eq!(reply_of(&[json!({"content": "x"})], json!(reason)).expect("a reply").stop, expect, "{reason}");
    };
    check("stop", Stop::End);
    check("tool_calls", Stop::End);
    check("function_call", Stop::End);
    check("length", Stop::MaxTokens);
    check("content_filter", Stop::Refusal);
    check("eos", Stop::Other("eos".into()));
    // The presence of calls decides, not the word.
    let call = json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "ls", "arguments": "{}"}}]});
    for reason in ["stop", "tool_calls", "eos", "length"] {
        assert_eq!(reply_of(std::slice::from_ref(&call), json!(reason)).expect("a reply").stop, Stop::ToolUse, "{reason}");
    }
    let filtered = reply_of(&[call], json!("content_filter")).expect("a reply");
    assert_eq!((filtered.blocks, filtered.stop), (vec![], Stop::Refusal));
    let refused = reply_of(&[json!({"refusal": "I can't"})], json!("stop")).expect("a reply");
    assert_eq!((refused.blocks, refused.stop), (vec![Block::Text { text: "I can't".into() }], Stop::Refusal));
}

#[test]
fn tool_calls_in_all_their_shapes() {
    let check = |pieces: &[Value], expect: &[&str]| assert_eq!(calls_of(pieces), expect, "{pieces:?}");
    // Whole, in one piece; with an object for its arguments; without any.
    check(&[json!({"index": 0, "id": "a", "function": {"name": "ls", "arguments": "{\"x\":1}"}})], &[r#"a ls {"x":1}"#]);
    check(&[json!({"index": 0, "id": "a", "function": {"name": "ls", "arguments": {"x": 1}}})], &[r#"a ls {"x":1}"#]);
    check(&[json!({"index": 0, "id": "a", "function": {"name": "ls"}})], &["a ls {}"]);
    check(&[json!({"index": 0, "id": "a", "function": {"name": "ls", "arguments": "null"}})], &["a ls {}"]);
    // Id and name repeated in each piece.
    check(
        &[
            json!({"index": 0, "id": "a", "function": {"name": "ls", "arguments": "{\"x\""}}),
            json!({"index": 0, "id": "a", "function": {"name": "ls", "arguments": ":1}"}}),
        ],
        &[r#"a ls {"x":1}"#],
    );
    // Index left out.
    check(
        &[
            json!({"id": "a", "function": {"name": "ls", "arguments": "{\"x\""}}),
            json!({"function": {"arguments": ":1}"}}),
            json!({"id": "b", "function": {"name": "cat", "arguments": "{}"}}),
        ],
        &[r#"a ls {"x":1}"#, "b cat {}"],
    );
    // The same index for every call.
    check(
        &[
            json!({"index": 0, "id": "a", "function": {"name": "ls", "arguments": "{}"}}),
            json!({"index": 0, "id": "b", "function": {"name": "ls", "arguments": "{\"y\":"}}),
            json!({"index": 0, "function": {"arguments": "2}"}}),
        ],
        &["a ls {}", r#"b ls {"y":2}"#],
    );
    // Pieces of two calls in turns.
    check(
        &[
            json!({"index": 0, "id": "a", "function": {"name": "ls", "arguments": ""}}),
            json!({"index": 1, "id": "b", "function": {"name": "cat", "arguments": ""}}),
            json!({"index": 0, "function": {"arguments": "{\"x\":1}"}}),
            json!({"index": 1, "function": {"arguments": "{\"y\":2}"}}),
        ],
        &[r#"a ls {"x":1}"#, r#"b cat {"y":2}"#],
    );
    // Id and name null, or empty, after the first piece.
    check(
        &[
            json!({"index": 0, "id": "a", "function": {"name": "ls", "arguments": "{"}}),
            json!({"index": 0, "id": "", "function": {"name": "", "arguments": ""}}),
            json!({"index": 0, "id": null, "function": {"name": null, "arguments": "}"}}),
            json!({"index": 0, "function": null}),
        ],
        &["a ls {}"],
    );
}

#[test]
fn calls_without_an_id_get_one() {
    let calls = calls_of(&[
        json!({"function": {"name": "ls", "arguments": "{\"a\":1}"}}),
        json!({"function": {"name": "ls", "arguments": "{\"b\":2}"}}),
    ]);
    let ids: Vec<&str> = calls.iter().filter_map(|call| call.split(' ').next()).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1] && ids.iter().all(|id| id.starts_with("call_")), "{calls:?}");
    assert!(calls[0].ends_with(r#"ls {"a":1}"#) && calls[1].ends_with(r#"ls {"b":2}"#), "{calls:?}");
}

#[test]
fn incomplete_calls_are_never_run() {
    let call = |arguments: &str| json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "rm", "arguments": arguments}}]});
    for arguments in ["{\"x\":", "[1]", "\"x\"", "{} {}"] {
        assert!(matches!(reply_of(&[call(arguments)], json!("tool_calls")), Err(ProviderError::Protocol { .. })), "{arguments}");
        assert_eq!(reply_of(&[call(arguments)], json!("length")).expect("a reply").blocks, [], "{arguments}");
    }
    // Cut before the arguments began: an empty text is not `{}` here.
    let cut = reply_of(&[call("")], json!("length")).expect("a reply");
    assert_eq!((cut.blocks, cut.stop), (vec![], Stop::MaxTokens));
    let nameless = json!({"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": "{}"}}]});
    assert!(matches!(reply_of(&[nameless], json!("tool_calls")), Err(ProviderError::Protocol { .. })));
}

#[test]
fn what_makes_no_sense_is_a_protocol_error() {
    let check = |data: &str| {
        let (reply, _) = decode([data]);
        assert!(matches!(reply, Err(ProviderError::Protocol { .. })), "{data}: {reply:?}");
    };
    check("not json");
    check("[]");
    check("7");
    check(r#"{"choices":{}}"#);
    check(r#"{"choices":[7]}"#);
    check(r#"{"choices":[{"delta":{"content":7}}]}"#);
    check(r#"{"choices":[{"delta":{"tool_calls":{}}}]}"#);
    check(r#"{"choices":[{"delta":{"tool_calls":[{"id":7}]}}]}"#);
    check(r#"{"choices":[{"delta":{"tool_calls":[{"function":{"name":"x","arguments":7}}]}}]}"#);
    check(r#"{"choices":[{"finish_reason":7}]}"#);
    check(&"[".repeat(100_000));
}

#[test]
fn odd_but_harmless() {
    let (reply, _) = decode([
        "",
        "{}",
        r#"{"id":7,"choices":null,"usage":null}"#,
        r#"{"choices":[{"delta":null,"finish_reason":""}]}"#,
        r#"{"choices":[{"index":1,"delta":{"content":"another answer"}}]}"#,
        r#"{"choices":[{"delta":{"content":[{"type":"text","text":"a"},{"type":"thinking","thinking":[]},{"type":"text","text":"b"}]}}]}"#,
        r#"{"choices":[{"delta":{"reasoning":"hm"},"finish_reason":"stop"}],"usage":{"prompt_tokens":"x"}}"#,
        r#"{"choices":[{"delta":{},"finish_reason":null}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
        " [DONE] ",
    ]);
    let reply = reply.expect("a reply");
    assert_eq!((reply.blocks, reply.stop), (vec![Block::Text { text: "ab".into() }], Stop::End));
    assert_eq!((reply.usage.input_tokens, reply.usage.output_tokens), (3, 1));
}

#[test]
fn a_terminator_after_nothing_is_no_reply() {
    assert!(matches!(decode(["[DONE]"]).0, Err(ProviderError::Truncated)));
    let text = r#"{"choices":[{"delta":{"content":"hi"}}]}"#;
    assert_eq!(decode([text, "[DONE]"]).0.expect("a reply").stop, Stop::End);
    assert!(matches!(decode([text]).0, Err(ProviderError::Truncated)));
}

#[test]
fn replies_are_bounded() {
    let many: Vec<Value> = (0..=limits::REPLY_BLOCKS_MAX)
        .map(|index| json!({"tool_calls": [{"index": index, "id": format!("c{index}"), "function": {"name": "x", "arguments": "{}"}}]}))
        .collect();
    assert!(matches!(reply_of(&many, json!("stop")), Err(ProviderError::Protocol { .. })));
    let long = vec![json!({"content": "x".repeat(1 << 20)}); 9];
    assert!(matches!(reply_of(&long, json!("stop")), Err(ProviderError::Protocol { .. })));
}

#[test]
fn an_answer_in_one_piece() {
    let answer = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi", "refusal": null, "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "ls", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
        ]}, "logprobs": null, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
    });
    let mut decoder = ChatDecoder::new();
    decoder.whole(&answer, &mut |_| ()).expect("understood");
    let reply = decoder.finish().expect("a reply");
    assert_eq!((reply.blocks.len(), reply.stop, reply.usage.output_tokens), (3, Stop::ToolUse, 2));
    for odd in [json!({}), json!({"choices": []}), json!({"choices": "x"})] {
        assert!(ChatDecoder::new().whole(&odd, &mut |_| ()).is_err(), "{odd}");
    }
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same_reply(cuts in prop::collection::vec(1_usize..60, 1..20)) {
        let events = events_of(STREAM.as_bytes(), &cuts);
        prop_assert_eq!(decode(events.iter().map(String::as_str)).0.expect("a reply"), whole_reply());
    }

    /// Arguments cut anywhere give the same call.
    #[test]
    fn arguments_may_be_cut_anywhere(text in "\\PC{0,12}", cuts in prop::collection::vec(1_usize..5, 1..8)) {
        let arguments = json!({"text": text}).to_string();
        let mut chars = arguments.chars();
        let mut pieces = vec![json!({"index": 0, "id": "a", "function": {"name": "x", "arguments": ""}})];
        for cut in cuts.iter().cycle() {
            let piece: String = chars.by_ref().take(*cut).collect();
            if piece.is_empty() {
                break;
            }
            pieces.push(json!({"index": 0, "function": {"arguments": piece}}));
        }
        prop_assert_eq!(calls_of(&pieces), [format!("a x {arguments}")]);
    }

    #[test]
    fn any_order_is_harmless(order in prop::collection::vec(0_usize..12, 0..30), junk in ".{0,20}") {
        let events = events_of(STREAM.as_bytes(), &[STREAM.len()]);
        let shuffled = order.iter().map(|place| events.get(*place).map_or(junk.as_str(), String::as_str));
        if let (Ok(reply), _) = decode(shuffled) {
            for block in &reply.blocks {
                let sound = if let Block::ToolUse { input, name, .. } = block { input.is_object() && !name.is_empty() } else { true };
                prop_assert!(sound);
            }
        }
    }
}
