//! The chain against providers that follow a script.

// Joining a thread of the test itself is bounded by the test.
#![allow(clippy::disallowed_methods)]

use super::super::{Stop, ToolSpec};
use super::*;
use crate::core::types::{Block, Message, Role, Usage};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

type Step = Box<dyn FnOnce(&Call<'_>, &mut dyn FnMut(Delta<'_>)) -> Result<ModelReply, ProviderError> + Send>;

/// Does one step a call, and counts the calls.
struct Scripted {
    model: &'static str,
    steps: Mutex<VecDeque<Step>>,
    calls: Arc<AtomicU64>,
}

impl Provider for Scripted {
    fn kind(&self) -> &'static str {
        "scripted"
    }

    fn model(&self) -> &str {
        self.model
    }

    fn ask(&self, _request: &ModelRequest<'_>, call: &Call<'_>, on: &mut dyn FnMut(Delta<'_>)) -> Result<ModelReply, ProviderError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let step = self.steps.lock().expect("no panic").pop_front().expect("the script has a step for this call");
        step(call, on)
    }
}

fn reply(text: &str) -> ModelReply {
    ModelReply { blocks: vec![Block::Text { text: text.into() }], stop: Stop::End, usage: Usage::default() }
}

fn says(text: &'static str) -> Step {
    Box::new(move |_, on| {
        on(Delta::Text(text));
        Ok(reply(text))
    })
}

fn fails(error: ProviderError) -> Step {
    Box::new(move |_, on| {
        on(Delta::Alive);
        Err(error)
    })
}

fn breaks_off_after(text: &'static str) -> Step {
    Box::new(move |_, on| {
        on(Delta::Text(text));
        Err(ProviderError::Truncated)
    })
}

fn silent() -> Step {
    fails(ProviderError::Silent { after: Duration::from_secs(180) })
}

fn overloaded(after: Option<Duration>) -> Step {
    fails(ProviderError::Overloaded { after, message: "busy".into() })
}

fn auth() -> Step {
    fails(ProviderError::Auth { status: 401, message: "bad key".into() })
}

struct Bench {
    chain: Chain,
    calls: Vec<Arc<AtomicU64>>,
    token: CancelToken,
    deadline: Deadline,
}

impl Bench {
    /// Providers `m0`, `m1` … with their scripts; two retries each and no pauses to speak of.
    fn new(scripts: Vec<Vec<Step>>) -> Self {
        let mut calls = Vec::new();
        let mut providers: Vec<(Box<dyn Provider>, ProviderSettings)> = Vec::new();
        for (script, model) in scripts.into_iter().zip(["m0", "m1", "m2"]) {
            let count = Arc::new(AtomicU64::new(0));
            calls.push(Arc::clone(&count));
            let provider = Scripted { model, steps: Mutex::new(script.into()), calls: count };
            providers.push((Box::new(provider), ProviderSettings { silence: Duration::from_secs(180), retries: 2 }));
        }
        let mut chain = Chain::new(providers);
        chain.backoff = Duration::from_millis(1);
        Self { chain, calls, token: CancelToken::new(), deadline: Deadline::after(Duration::from_secs(60)) }
    }

    /// One call of a turn. → the reply's text or the error's, and what was heard, one word an event.
    fn ask_in(&self, turn: &mut ChainTurn<'_>) -> (Result<String, ChainError>, Vec<String>) {
        let messages = [Message::text(Role::User, "x".repeat(400))];
        let request = ModelRequest { system: "", messages: &messages, tools: &[] };
        let mut heard = Vec::new();
        let result = turn.ask(&request, &self.token, &NetOptions::default(), self.deadline, &mut |event| match event {
            ChainEvent::Delta(Delta::Text(text)) => heard.push(format!("'{text}'")),
            ChainEvent::Delta(Delta::Tool(name)) => heard.push(format!("<{name}>")),
            ChainEvent::Delta(Delta::Alive) => {}
            ChainEvent::Notice { text } => heard.push(format!("notice: {text}")),
            ChainEvent::NoticeChanged { text } => heard.push(format!("changed: {text}")),
            ChainEvent::Restarted => heard.push("restarted".to_owned()),
        });
        let text = result.map(|reply| match &reply.blocks[..] {
            [Block::Text { text }] => text.clone(),
            other => format!("{other:?}"),
        });
        (text, heard)
    }

    fn ask(&self) -> (Result<String, ChainError>, Vec<String>) {
        self.ask_in(&mut self.chain.turn())
    }

    fn calls(&self) -> Vec<u64> {
        self.calls.iter().map(|calls| calls.load(Ordering::SeqCst)).collect()
    }
}

#[test]
fn a_reply_at_once() {
    let bench = Bench::new(vec![vec![says("hi")]]);
    let (result, heard) = bench.ask();
    assert_eq!((result.expect("a reply").as_str(), heard), ("hi", vec!["'hi'".to_owned()]));
    assert_eq!(bench.chain.name(), "scripted m0");
}

#[test]
fn a_passing_failure_is_tried_again_and_shown_text_is_taken_back() {
    let bench = Bench::new(vec![vec![breaks_off_after("hal"), overloaded(None), says("whole")]]);
    let (result, heard) = bench.ask();
    assert_eq!(result.expect("a reply"), "whole");
    assert_eq!(heard, ["'hal'", "restarted", "'whole'"]);
    assert_eq!(bench.calls(), [3]);
}

#[test]
fn silence_is_announced_once_a_turn() {
    let bench = Bench::new(vec![vec![silent(), silent(), says("at last"), silent(), says("again")]]);
    let mut turn = bench.chain.turn();
    let (result, heard) = bench.ask_in(&mut turn);
    assert_eq!(result.expect("a reply"), "at last");
    let text = "No response from provider for 180s (model: m0, context: ~100 tokens). Reconnecting… trying again";
    assert_eq!(heard, [format!("notice: {text} (2 of 3)."), format!("changed: {text} (3 of 3)."), "'at last'".to_owned()]);
    let (_, heard) = bench.ask_in(&mut turn);
    assert_eq!(heard, [format!("changed: {text} (2 of 3)."), "'again'".to_owned()]);
}

#[test]
fn after_the_retries_comes_the_next_provider() {
    let bench = Bench::new(vec![vec![silent(), silent(), silent()], vec![says("I am m1")]]);
    let (result, heard) = bench.ask();
    assert_eq!(result.expect("a reply"), "I am m1");
    assert_eq!(heard.len(), 4);
    assert_eq!(heard[2], "changed: No response from provider for 180s (model: m0, context: ~100 tokens). Asking m1 instead.");
    assert_eq!(bench.calls(), [3, 1]);
}

#[test]
fn what_a_retry_cannot_mend_goes_to_the_next_provider_at_once() {
    let cases: [fn() -> ProviderError; 3] = [
        || ProviderError::Auth { status: 401, message: String::new() },
        || ProviderError::Billing { message: String::new() },
        || ProviderError::Rejected { status: 404, message: String::new() },
    ];
    for case in cases {
        let bench = Bench::new(vec![vec![fails(case())], vec![says("m1")]]);
        assert_eq!(bench.ask().0.expect("a reply"), "m1");
        assert_eq!(bench.calls(), [1, 1]);
    }
}

#[test]
fn a_long_wait_goes_to_the_next_provider_and_a_short_one_is_kept() {
    let bench = Bench::new(vec![vec![overloaded(Some(Duration::from_secs(61)))], vec![says("m1")]]);
    assert_eq!(bench.ask().0.expect("a reply"), "m1");
    let bench = Bench::new(vec![vec![overloaded(Some(Duration::from_millis(80))), says("m0")]]);
    let started = clock::now();
    assert_eq!(bench.ask().0.expect("a reply"), "m0");
    assert!(started.elapsed() >= Duration::from_millis(80));
    // Alone: no waiting for minutes, but word of it.
    let bench = Bench::new(vec![vec![fails(ProviderError::RateLimited { after: Some(Duration::from_secs(300)), message: String::new() })]]);
    let text = bench.ask().0.expect_err("an error").to_string();
    assert!(text.starts_with("The model provider limits requests and asks to wait 5 min. Try again then (logged as "), "{text}");
}

#[test]
fn a_provider_that_failed_rests_for_all_turns() {
    let bench = Bench::new(vec![vec![auth()], vec![says("one"), says("two"), says("three")]]);
    for expect in ["one", "two", "three"] {
        assert_eq!(bench.ask().0.expect("a reply"), expect);
    }
    assert_eq!(bench.calls(), [1, 3]);
    let link = &bench.chain.links[0];
    let rest_ms = link.resting_until_ms.load(Ordering::SeqCst).saturating_sub(clock::mono_ms());
    assert!((50_000..=60_000).contains(&rest_ms), "{rest_ms}");
}

#[test]
fn when_all_rest_all_are_asked() {
    let bench = Bench::new(vec![vec![auth(), says("mended")], vec![auth()]]);
    let text = bench.ask().0.expect_err("an error").to_string();
    assert!(text.contains("rejected the key (401). The operator has to set a valid api key (logged as "), "{text}");
    assert!(text.ends_with("The fallback provider failed too."), "{text}");
    assert_eq!(bench.ask().0.expect("a reply"), "mended");
    assert_eq!(bench.chain.links[0].resting_until_ms.load(Ordering::SeqCst), 0);
}

#[test]
fn after_its_rest_a_provider_gets_one_attempt_until_it_answers() {
    let bench =
        Bench::new(vec![vec![silent(), silent(), silent(), silent(), says("back"), silent(), says("still")], vec![says("a"), says("b")]]);
    let wake = || bench.chain.links[0].resting_until_ms.store(0, Ordering::SeqCst);
    assert_eq!(bench.ask().0.expect("a reply"), "a");
    assert_eq!(bench.calls(), [3, 1]);
    wake();
    assert_eq!(bench.ask().0.expect("a reply"), "b");
    assert_eq!(bench.calls(), [4, 2]);
    wake();
    assert_eq!(bench.ask().0.expect("a reply"), "back");
    assert_eq!(bench.ask().0.expect("a reply"), "still");
    assert_eq!(bench.calls(), [7, 2]);
}

#[test]
fn a_turn_stays_with_the_provider_that_answered() {
    let bench = Bench::new(vec![vec![auth()], vec![says("one"), says("two")]]);
    let mut turn = bench.chain.turn();
    assert_eq!(bench.ask_in(&mut turn).0.expect("a reply"), "one");
    bench.chain.links[0].resting_until_ms.store(0, Ordering::SeqCst);
    assert_eq!(bench.ask_in(&mut turn).0.expect("a reply"), "two");
    assert_eq!(bench.calls(), [1, 2]);
}

#[test]
fn a_full_context_and_a_cancel_end_it_at_once() {
    let full = ProviderError::ContextFull { message: "prompt is too long".into() };
    let bench = Bench::new(vec![vec![fails(full)], vec![]]);
    let error = bench.ask().0.expect_err("an error");
    assert!(matches!(&error, ChainError::ContextFull { message } if message.contains("prompt is too long")), "{error:?}");
    let bench = Bench::new(vec![vec![fails(ProviderError::Cancelled)], vec![]]);
    assert!(matches!(bench.ask().0, Err(ChainError::Cancelled)));
    let bench = Bench::new(vec![vec![], vec![]]);
    bench.token.cancel();
    assert!(matches!(bench.ask().0, Err(ChainError::Cancelled)));
    assert_eq!(bench.calls(), [0, 0]);
}

#[test]
fn a_cancel_ends_a_wait() {
    let bench = Bench::new(vec![vec![overloaded(Some(Duration::from_secs(50)))]]);
    let token = bench.token.clone();
    let started = clock::now();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| bench.ask());
        while bench.calls() != [1] {
            token.sleep(Duration::from_millis(1)).expect("not cancelled yet");
        }
        token.cancel();
        let (result, heard) = asking.join().expect("no panic");
        assert!(matches!(result, Err(ChainError::Cancelled)));
        // The wait may have been announced before the cancel.
        assert!(
            heard.iter().all(|event| event.starts_with("notice: The model provider asks to wait 50 s; then trying again (2 of 3).")),
            "{heard:?}"
        );
    });
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_turns_time_bounds_everything() {
    let mut bench = Bench::new(vec![vec![fails(ProviderError::Deadline)]]);
    bench.deadline = Deadline::after(Duration::ZERO);
    assert!(matches!(bench.ask().0, Err(ChainError::TurnTimeout)));
    // No time left for the wait that is asked for: no wait.
    let mut bench = Bench::new(vec![vec![overloaded(Some(Duration::from_secs(30)))]]);
    bench.deadline = Deadline::after(Duration::from_secs(20));
    let started = clock::now();
    assert!(matches!(bench.ask().0, Err(ChainError::Failed(_))));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn pauses_double_up_to_their_limit() {
    let mut bench = Bench::new(vec![vec![]]);
    bench.chain.backoff = FIRST_BACKOFF;
    for (failed, full_ms) in [(1, 500), (2, 1000), (3, 2000), (4, 4000), (5, 8000), (6, 8000), (4_000_000_000, 8000)] {
        let pause_ms = bench.chain.pause(failed).as_millis();
        assert!((full_ms * 3 / 4..=full_ms).contains(&pause_ms), "{failed}: {pause_ms}");
    }
}

#[test]
fn the_estimate_counts_everything() {
    let tools = [ToolSpec { name: "abcd", description: "x".repeat(4), schema: serde_json::json!({}) }];
    let messages = [
        Message::text(Role::User, "ä".repeat(8)),
        Message { role: Role::User, blocks: vec![Block::Image { path: String::new(), media_type: String::new() }] },
    ];
    assert_eq!(estimate_tokens(&ModelRequest { system: "12345678", messages: &messages, tools: &tools }), 2 + 3 + 2 + 1500);
}
