//! Both providers and the chain against loopback servers that misbehave.

// Joining a thread of the test itself is bounded by the test.
#![allow(clippy::disallowed_methods)]

use super::super::loopback::{Act, Server, answer, chunked_stream, stream_head};
use super::super::{Anthropic, Chain, ChainError, ChainEvent, ModelRequest, OpenAi, Provider, ProviderSettings, Stop};
use crate::clock::{self, Deadline};
use crate::config::Secret;
use crate::core::types::{Block, Message, Role};
use crate::net::NetOptions;
use crate::provider::{Call, Delta, ModelReply, ProviderError};
use crate::thread::CancelToken;
use std::time::Duration;

const KEY: &str = "sk-ant-api03-0123456789";

/// The Messages API saying `text`, without its end.
fn messages_start(text: &str) -> String {
    let data = [
        r#"{"type":"message_start","message":{"usage":{"input_tokens":3}}}"#.to_owned(),
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#.to_owned(),
        format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{text}"}}}}"#),
        r#"{"type":"content_block_stop","index":0}"#.to_owned(),
    ];
    data.iter().map(|data| format!("event: x\ndata: {data}\n\n")).collect()
}

/// A complete tool call, which must not be run unless the whole message came.
const TOOL_CALL: &str = "data: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"rm\",\"input\":{}}}\n\n\
data: {\"type\":\"content_block_stop\",\"index\":1}\n\n";
const MESSAGES_END: &str = "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":5}}\n\ndata: {\"type\":\"message_stop\"}\n\n";

fn messages(text: &str) -> String {
    messages_start(text) + MESSAGES_END
}

fn chat(text: &str) -> String {
    format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n\
         data: {{\"choices\":[{{\"index\":0,\"delta\":{{}},\"finish_reason\":\"stop\"}}]}}\n\n\
         data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":4,\"completion_tokens\":2}}}}\n\ndata: [DONE]\n\n"
    )
}

fn anthropic(server: &Server) -> Anthropic {
    Anthropic::new("claude-x", 100, &server.address, Some(Secret::new(KEY.to_owned())))
}

fn openai(server: &Server) -> OpenAi {
    OpenAi::new("gpt-x", 100, &format!("{}/v1", server.address), None)
}

struct Patience {
    silence_ms: u64,
    total_ms: u64,
}

const AMPLE: Patience = Patience { silence_ms: 15_000, total_ms: 20_000 };

fn ask_with(provider: &dyn Provider, token: &CancelToken, patience: &Patience) -> (Result<ModelReply, ProviderError>, String) {
    let net = NetOptions::default();
    let call = Call {
        token,
        net: &net,
        silence: Duration::from_millis(patience.silence_ms),
        deadline: Deadline::after(Duration::from_millis(patience.total_ms)),
    };
    let messages = [Message::text(Role::User, "hällo")];
    let request = ModelRequest { system: "be brief", messages: &messages, tools: &[] };
    let mut heard = String::new();
    let reply = provider.ask(&request, &call, &mut |delta| {
        if let Delta::Text(text) = delta {
            heard.push_str(text);
        }
    });
    (reply, heard)
}

fn ask(provider: &dyn Provider) -> Result<ModelReply, ProviderError> {
    ask_with(provider, &CancelToken::new(), &AMPLE).0
}

fn text_of(reply: &ModelReply) -> &str {
    match &reply.blocks[..] {
        [Block::Text { text }] => text,
        other => panic!("not one text: {other:?}"),
    }
}

#[test]
fn a_reply_that_comes_byte_by_byte() {
    let text = "cut in the middle of ä€😀";
    let server = Server::start(vec![vec![Act::Request, stream_head(), Act::Trickle(messages(text).into_bytes())]]);
    let (reply, heard) = ask_with(&anthropic(&server), &CancelToken::new(), &AMPLE);
    let reply = reply.expect("a reply");
    assert_eq!((text_of(&reply), heard.as_str(), &reply.stop), (text, text, &Stop::End));
    assert_eq!((reply.usage.input_tokens, reply.usage.output_tokens), (3, 5));
    let request = server.requests().remove(0).to_ascii_lowercase();
    assert!(request.starts_with("post /v1/messages http/1.1\r\n"), "{request}");
    for header in [&format!("x-api-key: {KEY}\r\n"), "anthropic-version: 2023-06-01\r\n", "content-type: application/json\r\n"] {
        assert!(request.contains(header), "{header} in {request}");
    }
    assert_eq!(server.bodies()[0]["messages"][0]["content"][0]["text"], "hällo");
}

#[test]
fn connections_are_kept_between_rounds() {
    let round = |text: &str| [Act::Request, Act::Send(chunked_stream(&messages(text)))];
    let server = Server::start(vec![[round("one"), round("two")].concat()]);
    let provider = anthropic(&server);
    assert_eq!(text_of(&ask(&provider).expect("a reply")), "one");
    assert_eq!(text_of(&ask(&provider).expect("a reply")), "two");
}

#[test]
fn silence_ends_the_call_after_the_given_time() {
    let stalls: [Vec<Act>; 3] = [
        vec![Act::Request, Act::Stall],
        vec![Act::Request, stream_head(), Act::Stall],
        vec![Act::Request, stream_head(), Act::Send((messages_start("half") + TOOL_CALL).into_bytes()), Act::Stall],
    ];
    for script in stalls {
        let server = Server::start(vec![script.clone()]);
        let started = clock::now();
        let (reply, _) = ask_with(&anthropic(&server), &CancelToken::new(), &Patience { silence_ms: 200, total_ms: 20_000 });
        let after_ms = started.elapsed().as_millis();
        assert!(matches!(reply, Err(ProviderError::Silent { after }) if after == Duration::from_millis(200)), "{script:?}: {reply:?}");
        assert!((200..5000).contains(&after_ms), "{script:?}: {after_ms} ms");
    }
}

#[test]
fn any_byte_is_life_but_the_deadline_holds() {
    let ping = || Act::Send(b": ping\n\n".to_vec());
    let pause = || Act::Pause(Duration::from_millis(250));
    let slow = vec![Act::Request, stream_head(), ping(), pause(), ping(), pause(), ping(), pause(), Act::Send(chat("late").into_bytes())];
    let server = Server::start(vec![slow]);
    let (reply, _) = ask_with(&openai(&server), &CancelToken::new(), &Patience { silence_ms: 600, total_ms: 20_000 });
    assert_eq!(text_of(&reply.expect("a reply")), "late");

    let server = Server::start(vec![vec![Act::Request, stream_head(), Act::Repeat(b": ping\n\n".to_vec(), Duration::from_millis(20))]]);
    let started = clock::now();
    let (reply, _) = ask_with(&openai(&server), &CancelToken::new(), &Patience { silence_ms: 15_000, total_ms: 400 });
    assert!(matches!(reply, Err(ProviderError::Deadline)), "{reply:?}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_cancel_frees_the_call_whatever_the_server_does() {
    let stalls: [Vec<Act>; 2] =
        [vec![Act::Request, Act::Stall], vec![Act::Request, stream_head(), Act::Send(messages_start("half").into_bytes()), Act::Stall]];
    for script in stalls {
        let server = Server::start(vec![script]);
        let provider = anthropic(&server);
        let token = CancelToken::new();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask_with(&provider, &token, &AMPLE).0);
            let until = Deadline::after(Duration::from_secs(10));
            while server.requests().is_empty() && !until.passed() {
                token.sleep(Duration::from_millis(1)).expect("not cancelled yet");
            }
            let cancelled = clock::now();
            token.cancel();
            let reply = asking.join().expect("no panic");
            assert!(matches!(reply, Err(ProviderError::Cancelled)), "{reply:?}");
            // Promise P6 is 100 ms; the rest is for a machine that is busy with other tests.
            assert!(cancelled.elapsed() < Duration::from_secs(2));
        });
    }
}

#[test]
fn a_stream_that_ends_early_runs_no_tool() {
    let half = messages_start("half") + TOOL_CALL;
    let ends: [Vec<Act>; 2] =
        [vec![Act::Request, stream_head(), Act::Send(half.clone().into_bytes())], vec![Act::Request, Act::Send(chunked_stream(&half))]];
    for script in ends {
        let server = Server::start(vec![script]);
        let (reply, heard) = ask_with(&anthropic(&server), &CancelToken::new(), &AMPLE);
        assert!(matches!(reply, Err(ProviderError::Truncated)), "{reply:?}");
        assert_eq!(heard, "half");
    }
    let mut chunked = chunked_stream(&half);
    chunked.truncate(chunked.len() - 5);
    let breaks: [Vec<Act>; 3] = [
        vec![Act::Request, Act::Send(chunked)],
        vec![Act::Request, stream_head(), Act::Send(half.into_bytes()), Act::Pause(Duration::from_millis(100)), Act::Reset],
        vec![Act::Request, Act::Reset],
    ];
    for script in breaks {
        let server = Server::start(vec![script.clone()]);
        let reply = ask(&anthropic(&server));
        assert!(matches!(reply, Err(ProviderError::Net(_))), "{script:?}: {reply:?}");
    }
}

#[test]
fn a_finished_reply_needs_no_terminator() {
    let body = chat("whole").replace("data: [DONE]\n\n", "");
    let ends: [Vec<Act>; 3] = [
        vec![Act::Request, stream_head(), Act::Send(body.clone().into_bytes())],
        vec![Act::Request, stream_head(), Act::Send(body.clone().into_bytes()), Act::Pause(Duration::from_millis(100)), Act::Reset],
        vec![Act::Request, stream_head(), Act::Send(body.into_bytes()), Act::Stall],
    ];
    for script in ends {
        let server = Server::start(vec![script.clone()]);
        let (reply, _) = ask_with(&openai(&server), &CancelToken::new(), &Patience { silence_ms: 500, total_ms: 20_000 });
        assert_eq!(text_of(&reply.unwrap_or_else(|error| panic!("{script:?}: {error}"))), "whole");
    }
}

#[test]
fn refusals_are_classed_with_their_headers() {
    let error = |kind: &str, message: &str| format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}}}}"#);
    let refused = |status: &str, headers: &str, body: &str| {
        let server = Server::start(vec![vec![Act::Request, answer(status, headers, body)]]);
        ask(&anthropic(&server)).expect_err("a refusal")
    };
    let busy = refused("429 Too Many Requests", "retry-after: 7\r\n", &error("rate_limit_error", "slow down"));
    assert!(matches!(busy, ProviderError::RateLimited { after: Some(after), .. } if after.as_secs() == 7), "{busy:?}");
    let overloaded = refused("529 Overloaded", "", &error("overloaded_error", "Overloaded"));
    assert!(matches!(overloaded, ProviderError::Overloaded { after: None, .. }), "{overloaded:?}");
    let final_word = refused("500 Oops", "x-should-retry: false\r\n", &error("api_error", "no"));
    assert!(matches!(final_word, ProviderError::Rejected { status: 500, .. }), "{final_word:?}");
    let full = refused("400 Bad Request", "", &error("invalid_request_error", "prompt is too long: 3 > 2"));
    assert!(matches!(full, ProviderError::ContextFull { .. }), "{full:?}");
    let key = refused("401 Unauthorized", "", &error("authentication_error", &format!("{KEY} is not a key")));
    assert_eq!(key.to_string(), "key not accepted (401): *** is not a key");
    let long = refused("500 Oops", "", &"x".repeat(200_000));
    assert!(matches!(&long, ProviderError::Server { status: 500, .. }) && long.to_string().len() < 400, "{long}");
}

#[test]
fn an_error_event_quotes_no_key() {
    let event = format!(r#"data: {{"type":"error","error":{{"type":"api_error","message":"lost {KEY}"}}}}"#);
    let server = Server::start(vec![vec![Act::Request, stream_head(), Act::Send((messages_start("half") + &event + "\n\n").into_bytes())]]);
    let error = ask(&anthropic(&server)).expect_err("an error");
    assert_eq!(error.to_string(), "server error 500: lost sk-***");
}

#[test]
fn answers_that_are_no_stream() {
    let whole = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"at once"},"finish_reason":"stop"}]}"#;
    let answered = |headers: &str, body: &str| {
        let server = Server::start(vec![vec![Act::Request, answer("200 OK", headers, body)]]);
        ask(&openai(&server))
    };
    let json = "content-type: application/json; charset=utf-8\r\n";
    assert_eq!(text_of(&answered(json, whole).expect("a reply")), "at once");
    assert!(matches!(answered(json, r#"{"error":{"message":"m","code":502}}"#), Err(ProviderError::Server { status: 502, .. })));
    assert!(matches!(answered(json, "nonsense"), Err(ProviderError::Protocol { .. })));
    assert!(matches!(answered("content-type: text/html\r\n", "<html>"), Err(ProviderError::Protocol { .. })));
    assert!(matches!(answered("", ""), Err(ProviderError::Truncated)));
}

#[test]
fn the_dialect_is_switched_once_and_remembered() {
    let refusal = r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}"#;
    let good = || vec![Act::Request, stream_head(), Act::Send(chat("fine").into_bytes())];
    let server = Server::start(vec![vec![Act::Request, answer("400 Bad Request", "connection: close\r\n", refusal)], good(), good()]);
    let provider = openai(&server);
    assert_eq!(text_of(&ask(&provider).expect("a reply")), "fine");
    assert_eq!(text_of(&ask(&provider).expect("a reply")), "fine");
    let names: Vec<(bool, bool)> =
        server.bodies().iter().map(|body| (body.get("max_tokens").is_some(), body.get("max_completion_tokens").is_some())).collect();
    assert_eq!(names, [(true, false), (false, true), (false, true)]);
}

/// The chain over a real provider: → the reply's text or the error, and the events.
fn chain_ask(server: &Server, silence: Duration) -> (Result<ModelReply, ChainError>, Vec<String>) {
    let settings = ProviderSettings { silence, retries: 1 };
    let chain = Chain::new(vec![(Box::new(anthropic(server)), settings)]);
    let messages = [Message::text(Role::User, "hällo")];
    let request = ModelRequest { system: "", messages: &messages, tools: &[] };
    let mut heard = Vec::new();
    let deadline = Deadline::after(Duration::from_secs(20));
    let reply = chain.ask(&request, &CancelToken::new(), &NetOptions::default(), deadline, &mut |event| match event {
        ChainEvent::Delta(Delta::Text(text)) => heard.push(text.to_owned()),
        ChainEvent::Delta(_) => {}
        ChainEvent::Notice { text } | ChainEvent::NoticeChanged { text } => heard.push(text),
        ChainEvent::Restarted => heard.push("restarted".to_owned()),
    });
    (reply, heard)
}

#[test]
fn a_stalled_stream_is_announced_and_tried_again() {
    let server = Server::start(vec![
        vec![Act::Request, stream_head(), Act::Send(messages_start("half").into_bytes()), Act::Stall],
        vec![Act::Request, stream_head(), Act::Send(messages("whole").into_bytes())],
    ]);
    let (reply, heard) = chain_ask(&server, Duration::from_millis(300));
    assert_eq!(text_of(&reply.expect("a reply")), "whole");
    let notice = "No response from provider for 0.3s (model: claude-x, context: ~2 tokens). Reconnecting… trying again (2 of 2).";
    assert_eq!(heard, ["half", "restarted", notice, "whole"]);
}

#[test]
fn retry_after_is_honoured() {
    let server = Server::start(vec![
        vec![Act::Request, answer("429 Too Many Requests", "retry-after-ms: 700\r\nconnection: close\r\n", "{}")],
        vec![Act::Request, stream_head(), Act::Send(messages("now").into_bytes())],
    ]);
    let started = clock::now();
    let (reply, _) = chain_ask(&server, Duration::from_secs(10));
    assert_eq!(text_of(&reply.expect("a reply")), "now");
    assert!(started.elapsed() >= Duration::from_millis(700));
}

#[test]
fn a_server_that_is_not_there_is_told_in_plain_words() {
    let mut server = Server::start(Vec::new());
    server.address = unused_address();
    let (reply, _) = chain_ask(&server, Duration::from_secs(10));
    let text = reply.expect_err("nobody there").to_string();
    assert!(text.starts_with("The model provider cannot be reached. Try again in a few minutes; if it stays so"), "{text}");
}

/// An address at which nobody listens: the port was free a moment ago.
fn unused_address() -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    format!("http://{}", listener.local_addr().expect("bound"))
}
