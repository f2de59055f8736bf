//! What the built-in model understands.

// Joining a thread of the test itself is bounded by the test.
#![allow(clippy::disallowed_methods)]

use super::super::ToolSpec;
use super::*;
use crate::clock::{self, Deadline};
use crate::net::NetOptions;
use crate::thread::CancelToken;

fn tools() -> Vec<ToolSpec> {
    let tool = |name, key: &str| ToolSpec {
        name,
        description: String::new(),
        schema: json!({"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}),
    };
    vec![tool("shell", "command"), tool("read_file", "file"), tool("fetch", "url")]
}

fn ask_with(
    messages: &[Message],
    tools: &[ToolSpec],
    token: &CancelToken,
    deadline: Deadline,
) -> (Result<ModelReply, ProviderError>, String) {
    let call = Call { token, net: &NetOptions::default(), silence: Duration::from_secs(60), deadline };
    let request = ModelRequest { system: "s", messages, tools };
    let mut heard = String::new();
    let reply = Offline::new("offline").ask(&request, &call, &mut |delta| match delta {
        Delta::Text(text) => heard.push_str(text),
        Delta::Tool(name) => heard.push_str(&format!("<{name}>")),
        Delta::Alive => {}
    });
    (reply, heard)
}

fn ask(messages: &[Message]) -> ModelReply {
    let (reply, heard) = ask_with(messages, &tools(), &CancelToken::new(), Deadline::after(Duration::from_secs(60)));
    let reply = reply.expect("a reply");
    let calls = |block: &Block| if let Block::ToolUse { name, .. } = block { format!("<{name}>") } else { String::new() };
    let told: String = text_of(&reply) + &reply.blocks.iter().map(calls).collect::<String>();
    assert_eq!(heard, told, "what is heard is what is in the reply");
    reply
}

fn text_of(reply: &ModelReply) -> String {
    reply.blocks.iter().filter_map(|block| if let Block::Text { text } = block { Some(text.as_str()) } else { None }).collect()
}

fn says(text: &str) -> ModelReply {
    ask(&[Message::text(Role::User, text)])
}

#[test]
fn it_calls_tools_and_tells_their_results() {
    let reply = says("run: uname -m");
    let call = Block::ToolUse { id: "offline_1_0".into(), name: "shell".into(), input: json!({"command": "uname -m"}) };
    assert_eq!((reply.blocks, reply.stop), (vec![call.clone()], Stop::ToolUse));
    let result = |content: &str, is_error| Block::ToolResult { tool_use_id: "offline_1_0".into(), content: content.into(), is_error };
    let told = |content: &str, is_error| {
        let messages = [
            Message::text(Role::User, "run: uname -m"),
            Message { role: Role::Assistant, blocks: vec![call.clone()] },
            Message { role: Role::User, blocks: vec![result(content, is_error)] },
        ];
        let reply = ask(&messages);
        assert_eq!(reply.stop, Stop::End);
        text_of(&reply)
    };
    assert_eq!(told("aarch64\n", false), "aarch64");
    assert_eq!(told("", false), "(no output)");
    assert_eq!(told("a\nb", false), "```\na\nb\n```");
    assert_eq!(told("x ``` y", false), "````\nx ``` y\n````");
    assert_eq!(told("exit 1", true), "The tool failed:\nexit 1");
}

#[test]
fn several_calls_in_one_reply() {
    let reply = says("please\nrun: a: b\n  RUN:  c \nread: /etc/hostname\nfetch: http://x/\nrun:\nthanks");
    let calls: Vec<String> = reply
        .blocks
        .iter()
        .map(|block| if let Block::ToolUse { id, name, input } = block { format!("{id} {name} {input}") } else { format!("{block:?}") })
        .collect();
    assert_eq!(
        calls,
        [
            r#"offline_1_0 shell {"command":"a: b"}"#,
            r#"offline_1_1 shell {"command":"c"}"#,
            r#"offline_1_2 read_file {"file":"/etc/hostname"}"#,
            r#"offline_1_3 fetch {"url":"http://x/"}"#,
        ]
    );
}

#[test]
fn without_the_tool_it_says_so() {
    let messages = [Message::text(Role::User, "run: ls")];
    let (reply, _) = ask_with(&messages, &[], &CancelToken::new(), Deadline::after(Duration::from_secs(60)));
    let reply = reply.expect("a reply");
    assert_eq!((text_of(&reply).as_str(), reply.stop), ("There is no tool for `run:` here.", Stop::End));
}

#[test]
fn a_message_that_steers_is_answered_with_the_results() {
    let messages = [
        Message::text(Role::User, "run: ls"),
        Message { role: Role::Assistant, blocks: vec![Block::ToolUse { id: "a".into(), name: "shell".into(), input: json!({}) }] },
        Message {
            role: Role::User,
            blocks: vec![
                Block::ToolResult { tool_use_id: "a".into(), content: "file".into(), is_error: false },
                Block::Text { text: "echo: and more".into() },
            ],
        },
    ];
    assert_eq!(text_of(&ask(&messages)), "file\n\nand more");
}

#[test]
fn echo_and_chat() {
    assert_eq!(text_of(&says("echo: one two")), "one two");
    assert_eq!(text_of(&says("ECHO:\nrun: not this\n\nend")), "run: not this\n\nend");
    assert_eq!(says("echo: x").stop, Stop::End);
    let hello = text_of(&says("hello"));
    assert!(hello.starts_with("You said: hello\n\nI am the built-in offline model") && hello.contains("`run: COMMAND`"), "{hello}");
    assert!(text_of(&says(&"ä".repeat(1000))).starts_with(&format!("You said: {}…\n", "ä".repeat(400))));
    assert!(text_of(&ask(&[])).starts_with("Hello! I am"));
    assert!(text_of(&says("slow: never")).starts_with("You said: slow: never"));
    assert_eq!(text_of(&says("echo: same")), text_of(&says("echo: same")));
}

#[test]
fn long_replies_are_exact_and_have_structure() {
    for chars in [0, 1, 99] {
        assert_eq!(text_of(&says(&format!("long: {chars}"))).chars().count(), chars);
    }
    let text = text_of(&says("long: 5000"));
    assert_eq!(text.chars().count(), 5000);
    assert!(text.contains("\n\n") && text.contains("```rust\n") && text.contains("\n- two"));
    assert_eq!(long_text(usize::MAX).chars().count(), LONG_CHARS_MAX);
}

#[test]
fn slow_replies_take_their_time_and_can_be_cancelled() {
    let started = clock::now();
    assert_eq!(text_of(&says("slow: 1")), "1 done.");
    assert!(started.elapsed() >= Duration::from_millis(900));

    let token = CancelToken::new();
    let canceller = token.clone();
    let messages = [Message::text(Role::User, "slow: 1000")];
    let started = clock::now();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask_with(&messages, &[], &token, Deadline::after(Duration::from_secs(60))).0);
        canceller.sleep(Duration::from_millis(50)).expect("not cancelled yet");
        canceller.cancel();
        assert!(matches!(asking.join().expect("no panic"), Err(ProviderError::Cancelled)));
    });
    assert!(started.elapsed() < Duration::from_secs(5));

    let (reply, _) = ask_with(&messages, &[], &CancelToken::new(), Deadline::after(Duration::from_millis(50)));
    assert!(matches!(reply, Err(ProviderError::Deadline)));
}

#[test]
fn a_cancelled_call_says_nothing() {
    let token = CancelToken::new();
    token.cancel();
    let (reply, heard) = ask_with(&[Message::text(Role::User, "hi")], &[], &token, Deadline::after(Duration::from_secs(60)));
    assert!(matches!(reply, Err(ProviderError::Cancelled)) && heard.is_empty());
}
