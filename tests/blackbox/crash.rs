//! SIGKILL at every point of a message's way: nothing accepted is lost, nothing is said twice without a mark.
//!
//! The points are found from outside, by what the fakes have seen so far.

use crate::instance::integrity;
use crate::support::gateway::{Gateway, Setup, files_named};
use crate::support::http::Fault;
use crate::support::model::{self, Gate, Model, Protocol, Reply, Step};
use crate::support::poll::{self, SOON};
use crate::support::telegram::{ANA, State, Telegram};
use std::time::Duration;

const LATER: Duration = Duration::from_secs(45);

fn setup(telegram: &Telegram, model: &Model) -> Setup {
    Gateway::setup().telegram(telegram).model(model, Protocol::Anthropic).set("adapters.telegram", "streaming", "false").set(
        "session",
        "busy",
        "\"queue\"",
    )
}

/// The answer is there, once; a second copy carries the mark.
fn assert_answered(state: &State, answer: &str, copies_max: usize) {
    let messages = state.chats[&ANA].messages.iter().filter(|message| message.from_bot && !message.deleted);
    let copies: Vec<&str> = messages.filter(|message| message.text.contains(answer)).map(|message| message.text.as_str()).collect();
    assert!((1..=copies_max).contains(&copies.len()), "{answer:?}: {copies:?}");
    let unmarked = copies.iter().filter(|copy| !copy.contains("duplicate")).count();
    assert!(unmarked <= 1, "a second copy says that it may be one: {copies:?}");
}

fn settled(telegram: &Telegram, gateway: &Gateway, answer: &str) {
    telegram.wait_text_within(LATER, ANA, answer);
    gateway.wait_idle();
}

#[test]
fn a58_killed_when_the_update_has_just_been_fetched() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("hello", [model::text("hello to you")]);
    let mut gateway = setup(&telegram, &model).start();
    gateway.wait_adapter("telegram", "connected");
    let polls = telegram.calls("getUpdates").iter().filter(|call| call.status == 200).count();
    telegram.user_says(ANA, "hello");
    telegram.wait_call("getUpdates", polls + 1, |call| call.status == 200);
    gateway.kill9();
    gateway.start_again();
    settled(&telegram, &gateway, "hello to you");
    assert_answered(&telegram.lock(), "hello to you", 2);
}

#[test]
fn a57_what_came_while_the_gateway_was_down_is_answered_in_order() {
    let (telegram, model) = (Telegram::start(), Model::start());
    for number in 0..4 {
        model.rule(&format!("question {number}"), [model::text(&format!("reply {number}"))]);
    }
    telegram.user_says(ANA, "question 0");
    let mut gateway = setup(&telegram, &model).start();
    settled(&telegram, &gateway, "reply 0");
    gateway.stop();
    for number in 1..4 {
        telegram.user_says(ANA, &format!("question {number}"));
    }
    gateway.start_again();
    settled(&telegram, &gateway, "reply 3");
    assert_eq!(telegram.texts(ANA), ["reply 0", "reply 1", "reply 2", "reply 3"]);
    assert!(telegram.calls("deleteWebhook").iter().all(|call| call.params.get("drop_pending_updates").is_none_or(|drop| drop == false)));
}

#[test]
fn a58_killed_when_the_model_is_asked() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gate = Gate::default();
    model.once("hello", Reply::Stream(vec![Step::Gate(gate), Step::Text("never".to_owned())]));
    model.rule("hello", [model::text("hello at last")]);
    model.rule("second", [model::text("second answered")]);
    model.rule("third", [model::text("third answered")]);
    let mut gateway = setup(&telegram, &model).start();
    telegram.user_says(ANA, "hello");
    model.wait_request(1, "hello");
    // Two more are accepted and wait.
    telegram.user_says(ANA, "second");
    telegram.user_says(ANA, "third");
    telegram.wait_confirmed();
    gateway.kill9();
    gateway.start_again();
    settled(&telegram, &gateway, "third answered");
    assert_eq!(
        telegram.texts(ANA).iter().filter(|text| text.contains("answered") || text.contains("at last")).count(),
        3,
        "{:?}",
        telegram.texts(ANA)
    );
    for answer in ["hello at last", "second answered", "third answered"] {
        assert_answered(&telegram.lock(), answer, 1);
    }
}

#[test]
fn a61_killed_in_the_middle_of_a_streamed_answer() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gate = Gate::default();
    model.once("story", Reply::Stream(vec![Step::Text("Once upon a time ".to_owned()), Step::Gate(gate), Step::Text("never".to_owned())]));
    model.rule("story", [model::text("Once upon a time there was an end.")]);
    let mut gateway = setup(&telegram, &model).set("adapters.telegram", "streaming", "true").start();
    telegram.user_says(ANA, "story");
    telegram.wait_text(ANA, "Once upon a time");
    // Its answer is committed behind the note of where the half answer is shown.
    telegram.user_says(ANA, "/status");
    telegram.wait_text(ANA, "this chat:");
    gateway.kill9();
    gateway.start_again();
    settled(&telegram, &gateway, "there was an end.");
    assert_answered(&telegram.lock(), "there was an end.", 1);
    let dangling = telegram.texts(ANA).into_iter().filter(|text| text.trim() == "Once upon a time").count();
    assert_eq!(dangling, 0, "the half answer became the whole one: {:?}", telegram.texts(ANA));
}

#[test]
fn a64_killed_while_a_tool_runs() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let first = Reply::Stream(vec![Step::Text("Step one.".to_owned()), model::shell("echo ran >> first; echo first-$((10 + 1))")]);
    let second = Reply::Stream(vec![model::shell("echo ran >> second; sleep 600")]);
    model.rule("two steps", [first, second, model::text("both steps are known")]);
    let mut gateway = setup(&telegram, &model).start();
    telegram.user_says(ANA, "two steps");
    let ran = |name: &str| std::fs::read_to_string(gateway.setup.home().join(name)).map_or(0, |text| text.lines().count());
    poll::eventually(SOON, "the second tool runs", || (ran("second") == 1).then_some(()));
    gateway.kill9();
    gateway.start_again();
    settled(&telegram, &gateway, "both steps are known");
    let ran = |name: &str| std::fs::read_to_string(gateway.setup.home().join(name)).map_or(0, |text| text.lines().count());
    assert_eq!((ran("first"), ran("second")), (1, 1), "no tool was run again");
    let last = model.journal().last().expect("a request").all();
    assert!(last.contains("first-11"), "the committed round is in the transcript: {last}");
    assert!(last.to_lowercase().contains("interrupt"), "the model is told of the interruption: {last}");
    assert_answered(&telegram.lock(), "both steps are known", 1);
}

#[test]
fn a61_killed_when_the_answer_is_complete() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("hello", [model::text("hello indeed")]);
    let mut gateway = setup(&telegram, &model).start();
    telegram.user_says(ANA, "hello");
    model.wait_end(1, "hello");
    gateway.kill9();
    gateway.start_again();
    settled(&telegram, &gateway, "hello indeed");
    assert_answered(&telegram.lock(), "hello indeed", 2);
}

#[test]
fn a61_killed_between_a_send_and_its_answer() {
    // Delivered and not: from inside they look the same, so that both are sent again with the mark.
    for (fault, delivered) in [(Fault::ApplyThenHold, true), (Fault::BlackHole, false)] {
        let (telegram, model) = (Telegram::start(), Model::start());
        model.rule("hello", [model::text("hello indeed")]);
        let mut gateway = setup(&telegram, &model).start();
        telegram.fail("sendMessage", fault.clone(), 1);
        telegram.user_says(ANA, "hello");
        telegram.wait_call("sendMessage", 1, |call| call.fault.is_some());
        if delivered {
            telegram.wait_text(ANA, "hello indeed");
        }
        gateway.kill9();
        gateway.start_again();
        telegram.wait_call("sendMessage", 2, |call| call.text().contains("hello indeed"));
        settled(&telegram, &gateway, "hello indeed");
        let copies: Vec<String> = telegram.texts(ANA).into_iter().filter(|text| text.contains("hello indeed")).collect();
        assert_eq!(copies.len(), if delivered { 2 } else { 1 }, "{fault:?}: {copies:?}");
        assert!(copies.last().is_some_and(|copy| copy.contains("duplicate")), "{fault:?}: the second attempt is marked: {copies:?}");
    }
}

#[test]
fn a61_killed_right_after_a_delivery() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("hello", [model::text("hello indeed")]);
    let mut gateway = setup(&telegram, &model).start();
    telegram.user_says(ANA, "hello");
    telegram.wait_call("sendMessage", 1, |call| call.status == 200);
    gateway.kill9();
    gateway.start_again();
    telegram.user_says(ANA, "hello indeed again");
    gateway.wait_idle();
    // A marked copy of the first one may be there before the second message has even been fetched.
    let unmarked = |texts: Vec<String>| texts.iter().filter(|text| !text.contains("duplicate")).count();
    poll::eventually(SOON, "both", || (unmarked(telegram.texts(ANA)) >= 2).then_some(()));
    gateway.wait_idle();
    assert_eq!(unmarked(telegram.texts(ANA)), 2, "{:?}", telegram.texts(ANA));
}

#[test]
fn a61_killed_between_the_parts_of_a_long_answer() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let lines: Vec<String> = (0..900).map(|number| format!("line {number:04}")).collect();
    model.rule("long", [model::text(&lines.join("\n\n"))]);
    let mut gateway = setup(&telegram, &model).start();
    telegram.user_says(ANA, "long");
    telegram.fail("sendMessage", Fault::Delay(Duration::ZERO), 1);
    telegram.wait_call("sendMessage", 1, |call| call.fault.is_some());
    telegram.fail("sendMessage", Fault::BlackHole, 1);
    telegram.wait_call("sendMessage", 1, |call| call.fault == Some(Fault::BlackHole));
    gateway.kill9();
    gateway.start_again();
    settled(&telegram, &gateway, "line 0899");
    let all = telegram.texts(ANA).join("\n");
    let found: Vec<&str> = all.lines().filter(|line| line.starts_with("line ")).collect();
    assert_eq!(found, lines, "the delivered parts are not repeated, the others follow in order");
}

#[test]
fn a42_a_turn_that_is_killed_twice_is_not_resumed_again() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("poison", [Reply::Silent]);
    model.rule("hello", [model::text("hello there")]);
    let mut gateway = setup(&telegram, &model).start();
    telegram.user_says(ANA, "poison");
    for attempt in 1..=2 {
        model.wait_request(attempt, "poison");
        gateway.kill9();
        gateway.launch_again();
        gateway.wait_ready();
    }
    let question = telegram.wait_text(ANA, "/retry");
    assert!(!question.text.is_empty());
    gateway.wait_idle();
    assert_eq!(model.journal().len(), 2, "one automatic resumption, not two");
    telegram.user_says(ANA, "hello");
    telegram.wait_text(ANA, "hello there");
    model.rule("poison", [model::text("the antidote")]);
    gateway.wait_idle();
    telegram.user_says(ANA, "/new");
    telegram.user_says(ANA, "poison");
    telegram.wait_text(ANA, "the antidote");
}

#[test]
fn a42_retry_takes_the_interrupted_turn_up_again() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("poison", [Reply::Silent]);
    let mut gateway = setup(&telegram, &model).start();
    telegram.user_says(ANA, "poison");
    for attempt in 1..=2 {
        model.wait_request(attempt, "poison");
        gateway.kill9();
        gateway.launch_again();
        gateway.wait_ready();
    }
    telegram.wait_text(ANA, "/retry");
    model.rule("poison", [model::text("it worked this time")]);
    telegram.user_says(ANA, "/retry");
    telegram.wait_text(ANA, "it worked this time");
    gateway.wait_idle();
}

#[test]
fn a63_a_resumed_turn_that_ended_leaves_nothing_behind() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.once("work", Reply::Silent);
    model.rule("work", [model::text("work done")]);
    let mut gateway = setup(&telegram, &model).start();
    telegram.user_says(ANA, "work");
    model.wait_request(1, "work");
    gateway.kill9();
    gateway.start_again();
    settled(&telegram, &gateway, "work done");
    // Further restarts, in order and not, have nothing to resume.
    gateway.stop();
    gateway.start_again();
    gateway.wait_idle();
    gateway.kill9();
    gateway.start_again();
    gateway.wait_idle();
    assert_eq!(model.journal().len(), 2);
    assert_answered(&telegram.lock(), "work done", 1);
}

#[test]
fn a58_a_interrupted_queue_keeps_its_commands_out() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("hang", [Reply::Silent]);
    model.rule("after", [model::text("after all")]);
    let mut gateway = setup(&telegram, &model).start();
    telegram.user_says(ANA, "hang");
    model.wait_request(1, "hang");
    telegram.user_says(ANA, "/stop");
    gateway.wait_status("no turn", |status| (status["turns"].as_array()?.is_empty()).then_some(()));
    gateway.kill9();
    gateway.start_again();
    telegram.user_says(ANA, "after");
    settled(&telegram, &gateway, "after all");
    assert_eq!(model.asked("hang"), 1, "what was stopped is not resumed");
}

/// Kills at random moments while messages flow. The seed is in the name of the failure.
fn randomised(seed: u64, rounds: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (telegram, model) = (Telegram::start(), Model::start());
    let mut gateway = setup(&telegram, &model).start();
    let mut sent = 0;
    for _ in 0..rounds {
        for _ in 0..random.usize(1..4) {
            let tool = Reply::Stream(vec![model::shell(&format!("echo tool-{sent}"))]);
            let answer = model::text(&format!("[answer {sent}]"));
            let replies = if random.bool() { vec![tool, answer] } else { vec![answer] };
            model.rule(&format!("[question {sent}]"), replies);
            telegram.user_says(ANA, &format!("[question {sent}]"));
            sent += 1;
        }
        let pause = Duration::from_millis(random.u64(0..250));
        poll::try_for(pause, Duration::from_millis(5), || None::<()>);
        gateway.kill9();
        gateway.launch_again();
        gateway.wait_ready();
    }
    // A turn that was hit twice asks instead of going on; it is told to.
    let asks = |state: &State| state.count(ANA, "/retry");
    let mut retried = 0;
    poll::eventually(Duration::from_secs(60), &format!("seed {seed}: all {sent} answers"), || {
        let (asked, answered) = {
            let state = telegram.lock();
            (asks(&state), (0..sent).filter(|number| state.count(ANA, &format!("[answer {number}]")) > 0).count())
        };
        if answered == sent {
            return Some(());
        }
        if asked > retried {
            gateway.wait_idle();
            retried = asks(&telegram.lock());
            telegram.user_says(ANA, "/retry");
        }
        None
    });
    gateway.wait_idle();
    for number in 0..sent {
        assert_answered(&telegram.lock(), &format!("[answer {number}]"), rounds + 1);
    }
    gateway.stop();
    for database in files_named(&gateway.setup.state_dir(), ".db") {
        assert_eq!(integrity(&database), "ok", "a65: seed {seed}");
    }
}

#[test]
fn a58_a61_a65_killed_at_random_moments() {
    let seed = std::env::var("BLACKBOX_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in seed.map_or_else(|| vec![1, fastrand::u64(..)], |seed| vec![seed]) {
        eprintln!("BLACKBOX_SEED={seed}");
        randomised(seed, 6);
    }
}
