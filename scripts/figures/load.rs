//! What the gateway does with messages: how soon, how many, and at which cost.

use crate::idle::pause;
use crate::measure::{Figure, Times, cpu, fsync, memory_text, ms, proc_field};
use crate::support::gateway::{Gateway, Setup};
use crate::support::model::{self, Model, Protocol};
use crate::support::poll;
use crate::support::telegram::Telegram;
use hermes_gateway::clock::Deadline;
use hermes_gateway::core::record::{Op, Outcome, TurnFinish, TurnStart, TurnState};
use hermes_gateway::core::types::{Block, ChatRef, Inbound, Message, Outbound, OutboundKind, Receipt, Role, TurnId, Usage};
use hermes_gateway::store::{self, StoreHandle};
use hermes_gateway::thread::{CancelToken, Threads};
use serde_json::json;
use std::time::{Duration, Instant};

/// Message in → provider request out, without the disk.
const LATENCY: Duration = Duration::from_millis(5);
const EXCHANGES: usize = 300;
const USERS: usize = 10;
/// A session takes 64 waiting messages.
const CHATS: i64 = 60;
const MESSAGES_PER_CHAT: usize = 50;
const RATE_MIN: f64 = 1000.0;
const PATIENCE: Duration = Duration::from_secs(120);

fn everybody(setup: Setup) -> Setup {
    setup.set("adapters.telegram", "allowed_users", "[\"*\"]").set("log", "level", "\"info\"")
}

/// One message after the other, each in a conversation of some length.
pub fn latency() -> Vec<Figure> {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("question", [model::text("An answer of a sentence.")]);
    let setup = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).set("adapters.telegram", "poll_timeout", "30");
    let gateway = everybody(setup).start();
    let disk = fsync(gateway.setup.scratch());
    let pid = gateway.pid();
    let mut asked = Vec::new();
    let mut answered = Vec::new();
    let written = |pid: i32| proc_field(pid, "io", "write_bytes");
    let mut before = None;
    for number in 0..EXCHANGES + USERS {
        if number == USERS {
            // The first round warms up, and makes the sessions.
            before = written(pid);
        }
        let user = 90_000 + i64::try_from(number % USERS).expect("small");
        let text = format!("question {number}.");
        let begun = Instant::now();
        telegram.user_says(user, &text);
        let at = model.wait_count(number + 1).duration_since(begun);
        telegram.wait(Duration::from_secs(20), "the answer", |state| {
            let shown = state.chats.get(&user).map_or(0, |chat| chat.messages.iter().filter(|message| message.from_bot).count());
            (shown > number / USERS).then_some(())
        });
        if number >= USERS {
            asked.push(at);
            answered.push(begun.elapsed());
        }
    }
    gateway.wait_idle();
    pause(Duration::from_secs(3));
    let (asked, answered) = (Times::new(asked), Times::new(answered));
    let limit = LATENCY + disk.median();
    let mut figures = vec![
        Figure::told("one fdatasync of 4 KiB on this disk", disk.to_string()),
        Figure::new(
            "message in → provider request out",
            &format!("median ≤ 5 ms + one fsync = {}", ms(limit)),
            asked.to_string(),
            asked.median() <= limit,
        ),
        Figure::told("message in → answer out", answered.to_string()),
    ];
    let bytes = before.zip(written(pid)).map_or("not readable: needs root".to_owned(), |(before, after)| {
        format!("{} KiB", after.saturating_sub(before) / 1024 / u64::try_from(EXCHANGES).expect("small"))
    });
    figures.push(Figure::told("written to disk, a message and its answer", bytes));
    figures
}

/// As many messages as it takes.
pub fn throughput() -> Vec<Figure> {
    vec![end_to_end(), store_alone(), memory_after_work()]
}

/// Runs of which the middle one counts: the fakes need as much of the machine as the gateway.
const RUNS: usize = 3;

fn rate(count: usize, took: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss)] // Some thousands.
    let count = count as f64;
    count / took.as_secs_f64()
}

/// The middle and the extremes.
fn spread(mut rates: Vec<f64>) -> (f64, String) {
    rates.sort_by(f64::total_cmp);
    let middle = rates[rates.len() / 2];
    (middle, format!("{middle:.0} ({:.0} to {:.0} in {} runs", rates[0], rates[rates.len() - 1], rates.len()))
}

fn end_to_end() -> Figure {
    let (rates, busy): (Vec<f64>, Vec<Duration>) = (0..RUNS).map(|_| flood()).unzip();
    let (rate, text) = spread(rates);
    let each =
        busy.iter().sum::<Duration>() / u32::try_from(RUNS * MESSAGES_PER_CHAT).expect("small") / u32::try_from(CHATS).expect("small");
    let text = format!("{text}; {} µs of processor time each)", each.as_micros());
    Figure::new("durable messages/s, inbox and outbox, end to end", "≥ 1000", text, rate >= RATE_MIN)
}

/// Batches of a hundred from the platform, each message committed, answered by the offline model, committed, delivered.
fn flood() -> (f64, Duration) {
    let telegram = Telegram::start();
    let setup = Gateway::setup().telegram(&telegram).set("adapters.telegram", "streaming", "false");
    let setup = everybody(setup).set("session", "busy", "\"queue\"").set("provider", "max_turns", "64");
    let gateway = setup.start();
    telegram.wait_call("getUpdates", 1, |_| true);
    let count = usize::try_from(CHATS).expect("small") * MESSAGES_PER_CHAT;
    let busy = cpu(gateway.pid());
    let begun = Instant::now();
    telegram.users_say(90_000..90_000 + CHATS, MESSAGES_PER_CHAT, "echo: x");
    poll::eventually(PATIENCE, "all answers", || (telegram.sent() >= count).then_some(()));
    (rate(count, begun.elapsed()), cpu(gateway.pid()).saturating_sub(busy))
}

/// What stays in memory when it is quiet again.
fn memory_after_work() -> Figure {
    let (telegram, model) = (Telegram::start(), Model::start());
    let text = "A paragraph of an answer, with some words in it. ".repeat(40);
    model.rule("question", [model::text(&text)]);
    let setup = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).set("adapters.telegram", "poll_timeout", "30");
    let gateway = everybody(setup).set("adapters.telegram", "streaming", "false").set("session", "busy", "\"queue\"").start();
    telegram.wait_call("getUpdates", 1, |_| true);
    telegram.users_say(90_000..90_010, 50, "question");
    poll::eventually(PATIENCE, "all answers", || (telegram.sent() >= 500).then_some(()));
    gateway.wait_idle();
    pause(Duration::from_secs(10));
    Figure::told("RSS when quiet again after 500 turns", memory_text(gateway.pid()).1)
}

/// The store alone: accept, a tool round, the reply and its delivery, eight sessions side by side.
fn store_alone() -> Figure {
    const TURNS: i64 = 4000;
    const SESSIONS: i64 = 8;
    let soon = || Deadline::after(Duration::from_secs(60));
    let mut shared = 0;
    let rates = (0..RUNS).map(|_| {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let (handle, thread) = store::open(&scratch.path().join("state.db"), &Threads::new(), CancelToken::new(), soon()).expect("a store");
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for session in 0..SESSIONS {
                let handle = &handle;
                scope.spawn(move || {
                    for number in 0..TURNS / SESSIONS {
                        turn(handle, 1 + session + number * SESSIONS, &format!("bench:{session}"));
                    }
                });
            }
        });
        let took = begun.elapsed();
        shared = 5 * TURNS.unsigned_abs() / handle.health().commits.max(1);
        drop(handle);
        assert!(thread.close(soon()), "the store closes");
        rate(usize::try_from(TURNS).expect("small"), took)
    });
    let (rate, text) = spread(rates.collect());
    let text = format!("{text}; {SESSIONS} sessions, five operations each, about {shared} a commit)");
    Figure::new("durable messages/s, store alone", "≥ 1000", text, rate >= RATE_MIN)
}

fn turn(handle: &StoreHandle, turn: TurnId, session: &str) {
    let call = |op: Op| handle.call(op, Deadline::after(Duration::from_secs(60))).expect("the store works");
    let chat = ChatRef { adapter: "bench".to_owned(), chat: session.to_owned(), thread: None };
    let said = |role: Role, text: &str| Message { role, blocks: vec![Block::Text { text: text.to_owned() }] };
    let inbound = Inbound {
        chat: chat.clone(),
        message_id: turn.to_string(),
        sender: "ana".to_owned(),
        sender_name: "Ana".to_owned(),
        text: "What kind of machine is this?".to_owned(),
        attachments: Vec::new(),
        quote: None,
        private: true,
        addressed: true,
        sent_ms: turn,
    };
    let begin =
        TurnStart { turn, session: session.to_owned(), message: said(Role::User, "What kind of machine is this?"), started_ms: turn };
    let receipt = Some(Receipt { id: 1, cursor: Some(turn.to_string()), memos: Vec::new() });
    call(Op::Accept { inbound: Box::new(inbound), receipt, received_ms: turn, begin: Some(begin), done: false });
    let input = json!({"command": "uname -m"});
    let tool = Block::ToolUse { id: "a".to_owned(), name: "shell".to_owned(), input };
    let result = Block::ToolResult { tool_use_id: "a".to_owned(), content: "aarch64".to_owned(), is_error: false };
    let messages = vec![Message { role: Role::Assistant, blocks: vec![tool] }, Message { role: Role::User, blocks: vec![result] }];
    call(Op::CommitRound { turn, messages, adopted: Vec::new(), usage: Usage::default() });
    let reply = Outbound {
        chat,
        text: "It is an ARM with 64 bits.".to_owned(),
        kind: OutboundKind::Reply,
        reply_to: None,
        replaces: None,
        buttons: Vec::new(),
    };
    let finish = TurnFinish {
        turn,
        state: TurnState::Done,
        messages: vec![said(Role::Assistant, "It is an ARM with 64 bits.")],
        replies: vec![reply],
        usage: Usage::default(),
        ended_ms: turn,
    };
    let Outcome::Finished { queued } = call(Op::FinishTurn(Box::new(finish))) else { panic!("a turn that does not finish") };
    for outbox in queued {
        call(Op::MarkSending { outbox, part: 0 });
        call(Op::MarkPartSent { outbox, part: 0, platform_id: turn.to_string(), last: true });
    }
}
