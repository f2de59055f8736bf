//! The Messages API's stream: every event, every cut, every kind of nonsense.

use super::*;
use crate::net::sse::Splitter;
use proptest::prelude::*;
use serde_json::json;

/// A reply with thinking, text and two tool calls, as the protocol's pages show it.
const STREAM: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":472,"cache_creation_input_tokens":10,"cache_read_input_tokens":300,"output_tokens":2}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"The user wants the time."}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"eHh4"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"text","text":""}}

event: ping
data: {"type":"ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"Let me "}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":"löök. 😀"}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"citations_delta","citation":{"type":"x"}}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

event: content_block_start
data: {"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"toolu_01T1","name":"get_time","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"tz\": \"U"}}

event: content_block_delta
data: {"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"TC\"}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":3}

event: brand_new
data: {"type":"brand_new","anything":[1,2]}

event: content_block_start
data: {"type":"content_block_start","index":4,"content_block":{"type":"tool_use","id":"toolu_01T2","name":"ls","input":{}}}

event: content_block_stop
data: {"type":"content_block_stop","index":4}

event: content_block_start
data: {"type":"content_block_start","index":5,"content_block":{"type":"server_tool_use","id":"x"}}

event: content_block_stop
data: {"type":"content_block_stop","index":5}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":40}}

event: message_delta
data: {"type":"message_delta","delta":{},"usage":{"output_tokens":89}}

event: message_stop
data: {"type":"message_stop"}

"#;

fn whole_reply() -> ModelReply {
    ModelReply {
        blocks: vec![
            Block::Thinking { thinking: "The user wants the time.".into(), signature: "c2ln".into() },
            Block::RedactedThinking { data: "eHh4".into() },
            Block::Text { text: "Let me löök. 😀".into() },
            Block::ToolUse { id: "toolu_01T1".into(), name: "get_time".into(), input: json!({"tz": "UTC"}) },
            Block::ToolUse { id: "toolu_01T2".into(), name: "ls".into(), input: json!({}) },
        ],
        stop: Stop::ToolUse,
        usage: Usage { input_tokens: 472, output_tokens: 89, cache_read_tokens: 300, cache_write_tokens: 10 },
    }
}

/// Decodes a list of event data; the deltas as one line.
fn decode<'a>(events: impl IntoIterator<Item = &'a str>) -> (Result<ModelReply, ProviderError>, String) {
    let mut heard = String::new();
    let mut on = |delta: Delta<'_>| match delta {
        Delta::Text(text) => heard.push_str(text),
        Delta::Tool(name) => heard.push_str(&format!("<{name}>")),
        Delta::Alive => {}
    };
    let mut decoder = MessagesDecoder::new();
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

#[test]
fn a_whole_stream() {
    let events = events_of(STREAM.as_bytes(), &[STREAM.len()]);
    let (reply, heard) = decode(events.iter().map(String::as_str));
    assert_eq!(reply.expect("a reply"), whole_reply());
    assert_eq!(heard, "Let me löök. 😀<get_time><ls>");
}

#[test]
fn a_stream_that_ends_after_any_event_is_no_reply() {
    let events = events_of(STREAM.as_bytes(), &[STREAM.len()]);
    for count in 0..events.len() {
        let (reply, _) = decode(events[..count].iter().map(String::as_str));
        assert!(matches!(reply, Err(ProviderError::Truncated)), "after {count} events");
    }
}

#[test]
fn an_error_after_any_event_is_that_error() {
    let events = events_of(STREAM.as_bytes(), &[STREAM.len()]);
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_1"}"#;
    for count in 0..events.len() - 1 {
        let (reply, _) = decode(events[..count].iter().map(String::as_str).chain([error]));
        assert!(
            matches!(reply, Err(ProviderError::Overloaded { after: None, ref message }) if message == "Overloaded"),
            "after {count} events"
        );
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
        let ending = format!(r#"{{"type":"message_delta","delta":{{"stop_reason":{reason}}}}}"#);
        let (reply, _) = decode([ending.as_str(), r#"{"type":"message_stop"}"#]);
        assert_eq!(reply.expect("a reply").stop, expect, "{reason}");
    };
    check(r#""end_turn""#, Stop::End);
    check(r#""stop_sequence""#, Stop::End);
    check("null", Stop::End);
    check(r#""tool_use""#, Stop::End);
    check(r#""max_tokens""#, Stop::MaxTokens);
    check(r#""pause_turn""#, Stop::Pause);
    check(r#""refusal""#, Stop::Refusal);
    check(r#""model_context_window_exceeded""#, Stop::ContextFull);
    check(r#""something_new""#, Stop::Other("something_new".into()));
}

/// A tool call with this input in pieces, closed or not, and a reason to stop.
fn tool_reply(given: &str, pieces: &[&str], closed: bool, reason: &str) -> Result<Vec<Block>, ProviderError> {
    let mut events = vec![format!(
        r#"{{"type":"content_block_start","index":0,"content_block":{{"type":"tool_use","id":"t","name":"shell","input":{given}}}}}"#
    )];
    for piece in pieces {
        events.push(
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": piece}}).to_string(),
        );
    }
    if closed {
        events.push(r#"{"type":"content_block_stop","index":0}"#.into());
    }
    events.push(format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}"}}}}"#));
    events.push(r#"{"type":"message_stop"}"#.into());
    decode(events.iter().map(String::as_str)).0.map(|reply| reply.blocks)
}

#[test]
fn inputs_of_tools() {
    let good = |given: &str, pieces: &[&str], expect: Value| {
        let blocks = tool_reply(given, pieces, true, "tool_use").expect("a reply");
        assert_eq!(blocks, [Block::ToolUse { id: "t".into(), name: "shell".into(), input: expect }], "{given} {pieces:?}");
    };
    good("{}", &[], json!({}));
    good("{}", &[""], json!({}));
    good("null", &["", " "], json!({}));
    good(r#"{"a":1}"#, &[], json!({"a": 1}));
    good(r#"{"a":1}"#, &["{\"b\"", ":2}"], json!({"b": 2}));
    good("{}", &["null"], json!({}));
    for (pieces, closed) in [(["{\"a\":"], true), (["[1]"], true), (["7"], true), (["{\"a\":1}"], false)] {
        assert!(matches!(tool_reply("{}", &pieces, closed, "tool_use"), Err(ProviderError::Protocol { .. })), "{pieces:?} {closed}");
    }
    // Cut by the length of the reply: not run, and not an error either.
    assert_eq!(tool_reply("{}", &["{\"a\":"], true, "max_tokens").expect("a reply"), []);
    assert_eq!(tool_reply("{}", &["{\"a\":"], false, "max_tokens").expect("a reply"), []);
    assert_eq!(tool_reply("{}", &["{\"a\":1}"], false, "max_tokens").expect("a reply"), []);
    // A refused reply does nothing.
    assert_eq!(tool_reply("{}", &["{\"a\":1}"], true, "refusal").expect("a reply"), []);
}

#[test]
fn what_makes_no_sense_is_a_protocol_error() {
    let check = |events: &[&str]| {
        let (reply, _) = decode(events.iter().copied());
        assert!(matches!(reply, Err(ProviderError::Protocol { .. })), "{events:?}: {reply:?}");
    };
    let text = r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
    check(&["not json"]);
    check(&["{}"]);
    check(&["[]"]);
    check(&["\"message_stop\""]);
    check(&[r#"{"type":7}"#]);
    check(&[r#"{"type":"message_start","message":7}"#]);
    check(&[r#"{"type":"message_start"}"#]);
    check(&[r#"{"type":"content_block_start","index":"0","content_block":{"type":"text"}}"#]);
    check(&[r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":1,"name":"x"}}"#]);
    check(&[r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"early"}}"#]);
    check(&[text, text]);
    check(&[text, r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":{}}}"#]);
    check(&[text, r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#]);
    check(&[text, r#"{"type":"content_block_stop","index":1}"#]);
    check(&[
        text,
        r#"{"type":"content_block_stop","index":0}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"late"}}"#,
    ]);
    check(&[r#"{"type":"message_delta","delta":{"stop_reason":1}}"#]);
    let deep = "[".repeat(100_000);
    check(&[&deep]);
}

#[test]
fn odd_but_harmless() {
    let (reply, heard) = decode([
        "",
        r#"{"type":"message_start","message":{"usage":{"input_tokens":"many","output_tokens":-1}}}"#,
        r#"{"type":"content_block_start","index":7,"content_block":{"type":"text","text":"begun"}}"#,
        r#"{"type":"content_block_delta","index":7,"delta":{"type":"text_delta","text":""}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":null}"#,
        "[DONE]",
        r#"{"type":"message_stop"}"#,
        "nobody listens any more",
    ]);
    let reply = reply.expect("a reply");
    assert_eq!((reply.blocks, reply.stop, reply.usage), (vec![Block::Text { text: "begun".into() }], Stop::End, Usage::default()));
    assert_eq!(heard, "begun");
}

#[test]
fn replies_are_bounded() {
    let start = |index: usize| format!(r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"text","text":""}}}}"#);
    let many: Vec<String> = (0..=limits::REPLY_BLOCKS_MAX).map(start).collect();
    assert!(matches!(decode(many.iter().map(String::as_str)).0, Err(ProviderError::Protocol { .. })));
    let piece =
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x".repeat(1 << 20)}}).to_string();
    let begin = start(0);
    let long = std::iter::once(begin.as_str()).chain(std::iter::repeat_n(piece.as_str(), 9));
    assert!(matches!(decode(long).0, Err(ProviderError::Protocol { .. })));
}

#[test]
fn an_answer_in_one_piece() {
    let answer = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
        "content": [{"type": "text", "text": "Hi"}, {"type": "tool_use", "id": "t", "name": "ls", "input": {"a": 1}}],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 12, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3, "output_tokens": 6, "service_tier": "standard"}
    });
    let mut heard = String::new();
    let mut decoder = MessagesDecoder::new();
    let told = decoder.whole(&answer, &mut |delta| heard.push_str(&format!("{delta:?} ")));
    told.expect("understood");
    assert_eq!(heard, r#"Text("Hi") Tool("ls") "#);
    let reply = decoder.finish().expect("a reply");
    assert_eq!(reply.blocks.len(), 2);
    assert_eq!((reply.stop, reply.usage.input_tokens, reply.usage.cache_read_tokens), (Stop::ToolUse, 12, 3));
    assert!(MessagesDecoder::new().whole(&json!({"content": "Hi"}), &mut |_| ()).is_err());
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same_reply(cuts in prop::collection::vec(1_usize..60, 1..20)) {
        let events = events_of(STREAM.as_bytes(), &cuts);
        prop_assert_eq!(decode(events.iter().map(String::as_str)).0.expect("a reply"), whole_reply());
    }

    /// Events lost, repeated and out of order, and pieces of JSON: never a panic, and no call that was not complete.
    #[test]
    fn any_order_is_harmless(order in prop::collection::vec(0_usize..24, 0..40), junk in ".{0,20}") {
        let events = events_of(STREAM.as_bytes(), &[STREAM.len()]);
        let shuffled = order.iter().map(|place| events.get(*place).map_or(junk.as_str(), String::as_str));
        if let (Ok(reply), _) = decode(shuffled) {
            for block in &reply.blocks {
                let sound = if let Block::ToolUse { input, .. } = block { input.is_object() } else { true };
                prop_assert!(sound);
            }
        }
    }
}
