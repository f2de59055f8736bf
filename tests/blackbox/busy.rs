//! A message that arrives while its session's turn runs.

use crate::support::gateway::{Gateway, Setup};
use crate::support::model::{self, End, Gate, Model, Protocol, Reply, Step};
use crate::support::poll::{self, SOON};
use crate::support::telegram::{ANA, Telegram};
use std::time::Duration;

fn setup(telegram: &Telegram, model: &Model, busy: &str) -> Setup {
    Gateway::setup().telegram(telegram).model(model, Protocol::Anthropic).set("session", "busy", &format!("\"{busy}\""))
}

fn gated(gate: &Gate, text: &str) -> Reply {
    Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text(text.to_owned())])
}

#[test]
fn interrupt_ends_the_running_turn_and_answers_the_new_message() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gate = Gate::default();
    model.rule("first", [gated(&gate, "first answer")]);
    model.rule("second", [model::text("second answer")]);
    let gateway = setup(&telegram, &model, "interrupt").start();
    telegram.user_says(ANA, "first");
    model.wait_request(1, "first");
    telegram.user_says(ANA, "second");
    assert_eq!(model.wait_end(1, "first").1, End::ClientGone);
    telegram.wait_text(ANA, "second answer");
    gateway.wait_idle();
    assert_eq!(telegram.lock().count(ANA, "first answer"), 0);
    assert!(model.wait_request(1, "second").all().contains("first"), "what was said is not forgotten");
    assert_eq!(model.peak(), 1, "a59: never two calls for one session");
}

#[test]
fn queue_answers_one_after_the_other() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gate = Gate::default();
    model.rule("first", [gated(&gate, "first answer")]);
    for word in ["second", "third"] {
        model.rule(word, [model::text(&format!("{word} answer"))]);
    }
    let gateway = setup(&telegram, &model, "queue").start();
    telegram.user_says(ANA, "first");
    model.wait_request(1, "first");
    telegram.user_says(ANA, "second");
    telegram.user_says(ANA, "third");
    telegram.wait_confirmed();
    assert_eq!(model.journal().len(), 1, "the others wait");
    gateway.wait_status("two are waiting", |status| (status["inbox"]["pending"].as_u64()? >= 2).then_some(()));
    gate.open();
    telegram.wait_text(ANA, "third answer");
    gateway.wait_idle();
    let order: Vec<String> = telegram.texts(ANA).into_iter().filter(|text| text.ends_with("answer")).collect();
    assert_eq!(order, ["first answer", "second answer", "third answer"]);
    assert_eq!(model.peak(), 1);
}

#[test]
fn steer_puts_the_message_into_the_running_turn() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let wait = model::shell("while [ ! -e go ]; do sleep 0.05; done; echo the-tool-is-done");
    model.rule("begin", [Reply::Stream(vec![wait]), model::text("finished as steered")]);
    model.rule("turn left", [Reply::Stream(vec![Step::Text("unused".to_owned())]), model::text("finished as steered")]);
    let gateway = setup(&telegram, &model, "steer").start();
    telegram.user_says(ANA, "begin");
    gateway.wait_status("the tool runs", |status| (status["children"].as_u64()? >= 1).then_some(()));
    telegram.user_says(ANA, "turn left instead");
    telegram.wait_confirmed();
    assert_eq!(model.journal().len(), 1);
    std::fs::write(gateway.setup.home().join("go"), "").expect("the file that the tool waits for");
    let second = model.wait_request(1, "turn left instead");
    assert!(second.all().contains("the-tool-is-done"), "in the same turn, after the tool's result: {}", second.body);
    gateway.wait_idle();
    assert_eq!(model.journal().len(), 2, "and no turn of its own");
}

#[test]
fn a59_many_messages_at_once_never_make_two_agents() {
    for busy in ["interrupt", "queue", "steer"] {
        let (telegram, model) = (Telegram::start(), Model::start());
        let pause = || Step::Pause(Duration::from_millis(30));
        model.rule("message", [Reply::Stream(vec![pause(), Step::Text("answered".to_owned())])]);
        let gateway = setup(&telegram, &model, busy).start();
        for number in 0..20 {
            telegram.user_says(ANA, &format!("message {number}"));
        }
        model.wait_request(1, "message 19");
        gateway.wait_idle();
        // A call that is being cut may still be open at the server for a moment when the next begins.
        assert!(model.peak() <= if busy == "interrupt" { 2 } else { 1 }, "{busy}: {}", model.peak());
        let last = model.journal().last().expect("a request").all();
        let missing: Vec<usize> = (0..20).filter(|number| !last.contains(&format!("message {number}"))).collect();
        assert!(missing.is_empty(), "{busy}: the transcript lacks {missing:?}");
    }
}

#[test]
fn sessions_do_not_wait_for_each_other() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gate = Gate::default();
    model.rule("slow one", [gated(&gate, "slow answer")]);
    model.rule("quick one", [model::text("quick answer")]);
    let other = 88_001;
    let users = format!("[\"{ANA}\", \"{other}\"]");
    let _gateway = setup(&telegram, &model, "queue").set("adapters.telegram", "allowed_users", &users).start();
    telegram.user_says(ANA, "slow one");
    model.wait_request(1, "slow one");
    telegram.user_says(other, "quick one");
    telegram.wait_text(other, "quick answer");
    gate.open();
    telegram.wait_text(ANA, "slow answer");
}

#[test]
fn a69_stop_acts_at_once_in_every_mode() {
    for busy in ["interrupt", "queue", "steer"] {
        let (telegram, model) = (Telegram::start(), Model::start());
        model.rule("work", [Reply::Silent]);
        model.rule("after", [model::text("after it")]);
        let gateway = setup(&telegram, &model, busy).start();
        telegram.user_says(ANA, "work");
        model.wait_request(1, "work");
        telegram.user_says(ANA, "/stop");
        model.wait_end(1, "work");
        gateway.wait_status("no turn", |status| (status["turns"].as_array()?.is_empty()).then_some(()));
        telegram.user_says(ANA, "after");
        telegram.wait_text(ANA, "after it");
        let asked = model.journal().iter().filter(|one| one.all().contains("/stop")).count();
        assert_eq!(asked, 0, "{busy}: /stop is neither queued nor steered");
    }
}

#[test]
fn a69_stop_ends_a_running_tool_with_its_children() {
    let telegram = Telegram::start();
    let gateway = Gateway::setup().telegram(&telegram).start();
    let mark = "86399.125";
    telegram.user_says(ANA, &format!("run: sleep {mark} & sh -c 'sleep {mark}; true'"));
    poll::eventually(SOON, "the tool runs", || (crate::support::process::with_command(mark).len() >= 2).then_some(()));
    telegram.user_says(ANA, "/stop");
    poll::eventually(SOON, "its processes are gone", || crate::support::process::with_command(mark).is_empty().then_some(()));
    gateway.wait_idle();
    telegram.user_says(ANA, "echo: free again");
    telegram.wait_text(ANA, "free again");
}

#[test]
fn too_many_waiting_messages_are_told_so() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gate = Gate::default();
    model.rule("first", [gated(&gate, "first answer")]);
    model.rule("more", [model::text("ok")]);
    let gateway = setup(&telegram, &model, "queue").start();
    telegram.user_says(ANA, "first");
    model.wait_request(1, "first");
    for number in 0..80 {
        telegram.user_says(ANA, &format!("more {number}"));
    }
    telegram.wait_confirmed();
    let refused = telegram.wait_text(ANA, "many");
    assert!(!refused.text.is_empty());
    telegram.user_says(ANA, "/stop");
    gate.open();
    gateway.wait_idle();
}
