//! The whole way of many messages, measured.

use super::*;

struct Measured {
    took: Duration,
    commits: u64,
    bytes: u64,
}

/// Takes `messages` through accept, a tool round, the reply and its delivery, `sessions` of them side by side.
fn run(store: &Fixture, messages: i64, sessions: i64) -> Measured {
    let begun = crate::clock::now();
    let commits = store.handle.health().commits;
    std::thread::scope(|scope| {
        for session in 0..sessions {
            scope.spawn(move || {
                for number in 0..messages / sessions {
                    one(&store.handle, 1 + session + number * sessions, &format!("test:{session}"));
                }
            });
        }
    });
    let health = store.handle.health();
    Measured { took: begun.elapsed(), commits: health.commits - commits, bytes: store.figures().store_bytes }
}

fn one(handle: &StoreHandle, turn: TurnId, session: &str) {
    let call = |op: Op| handle.call(op, soon()).unwrap_or_else(|error| panic!("turn {turn}: {error}"));
    let start = TurnStart { session: session.to_owned(), ..start(turn) };
    let receipt = Some(Receipt { id: 1, cursor: Some(turn.to_string()), memos: Vec::new() });
    call(Op::Accept { inbound: Box::new(inbound(&turn.to_string())), receipt, received_ms: turn, begin: Some(start), done: false });
    let input = serde_json::json!({"command": "uname -m"});
    let tool = Block::ToolUse { id: "a".to_owned(), name: "shell".to_owned(), input };
    let result = Block::ToolResult { tool_use_id: "a".to_owned(), content: "aarch64".to_owned(), is_error: false };
    let messages = vec![Message { role: Role::Assistant, blocks: vec![tool] }, Message { role: Role::User, blocks: vec![result] }];
    call(Op::CommitRound { turn, messages, adopted: vec![], usage: Usage { input_tokens: 9, ..Usage::default() } });
    let Outcome::Finished { queued } = call(finish(turn, &["It is an ARM with 64 bits."])) else { panic!("not finished") };
    for outbox in queued {
        call(Op::MarkSending { outbox, part: 0 });
        call(Op::MarkPartSent { outbox, part: 0, platform_id: turn.to_string(), last: true });
    }
}

#[test]
fn a_thousand_messages_leave_nothing_behind() {
    let store = Fixture::new();
    let measured = run(&store, 1000, 8);
    println!("1000 messages: {:?}, {} commits, {} bytes on disk", measured.took, measured.commits, measured.bytes);
    let recovered = store.recovered();
    assert_eq!(recovered, Recovered { last_turn: 1000, ..Recovered::default() });
    assert!(measured.commits < 5000, "operations that waited together shared a commit");
    assert!(measured.bytes < 16 << 20, "{}", measured.bytes);
    for session in 0..8 {
        match store.expect(Op::LoadUsage { session: format!("test:{session}") }) {
            Outcome::Usage { turns, messages, usage, .. } => assert_eq!((turns, messages, usage.input_tokens), (125, 500, 125 * 19)),
            other => panic!("{other:?}"),
        }
    }
}
