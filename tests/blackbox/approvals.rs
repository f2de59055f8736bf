//! Commands that need a person's consent.

use crate::support::gateway::{Gateway, Setup};
use crate::support::model::{self, Model, Protocol, Reply};
use crate::support::poll::SOON;
use crate::support::telegram::{ANA, Message, Telegram};

/// Dangerous by any policy, harmless in the scratch directory.
const DANGEROUS: &str = "rm -rf ./victim && echo removed-$((7 * 7))";

fn setup(telegram: &Telegram, model: &Model) -> Setup {
    model.rule("clean up", [Reply::Stream(vec![model::shell(DANGEROUS)]), model::text("cleaning is over")]);
    model.rule("hello", [model::text("hello yourself")]);
    Gateway::setup().telegram(telegram).model(model, Protocol::Anthropic).set("approvals", "mode", "\"ask\"")
}

fn asked(telegram: &Telegram, gateway: &Gateway) -> Message {
    std::fs::create_dir_all(gateway.setup.home().join("victim")).expect("something to remove");
    telegram.user_says(ANA, "clean up");
    let question = telegram.wait_text(ANA, "rm -rf ./victim");
    assert!(gateway.setup.home().join("victim").exists(), "nothing runs before the answer");
    question
}

fn result(model: &Model) -> String {
    model.wait_request(2, "clean up").all()
}

#[test]
fn approve_runs_the_command() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gateway = setup(&telegram, &model).start();
    let question = asked(&telegram, &gateway);
    assert!(question.text.contains("/approve") || !question.buttons.is_empty(), "it says how to answer: {}", question.text);
    telegram.user_says(ANA, "/approve");
    telegram.wait_text(ANA, "cleaning is over");
    assert!(result(&model).contains("removed-49"));
    assert!(!gateway.setup.home().join("victim").exists());
}

#[test]
fn deny_does_not_run_it() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gateway = setup(&telegram, &model).start();
    asked(&telegram, &gateway);
    telegram.user_says(ANA, "/deny");
    telegram.wait_text(ANA, "cleaning is over");
    assert!(!result(&model).contains("removed-49"), "the model is told that it was not run");
    assert!(gateway.setup.home().join("victim").exists());
}

#[test]
fn silence_means_no() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gateway = setup(&telegram, &model).set("approvals", "timeout", "\"2s\"").start();
    asked(&telegram, &gateway);
    telegram.wait_text(ANA, "cleaning is over");
    assert!(!result(&model).contains("removed-49"));
    assert!(gateway.setup.home().join("victim").exists());
}

#[test]
fn a_button_answers_too_and_only_once() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gateway = setup(&telegram, &model).start();
    let question = asked(&telegram, &gateway);
    let (_, data) = question.buttons.first().expect("a button").clone();
    let press = telegram.user_presses(ANA, ANA, question.id, &data);
    telegram.wait_text(ANA, "cleaning is over");
    telegram.wait(SOON, "the press is answered, so that its spinner ends", |state| state.callbacks[&press].clone());
    assert!(!gateway.setup.home().join("victim").exists());
    // A second press on the same question must neither run anything nor break anything.
    let again = telegram.user_presses(ANA, ANA, question.id, &data);
    telegram.wait(SOON, "the second press is answered", |state| state.callbacks[&again].clone());
    gateway.wait_idle();
    assert_eq!(model.asked("clean up"), 2);
}

#[test]
fn a_stranger_cannot_approve() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let group = -1_001_777;
    telegram.add_chat(group, "supergroup", &[]);
    let gateway = setup(&telegram, &model).set("adapters.telegram", "group_mention", "false").start();
    std::fs::create_dir_all(gateway.setup.home().join("victim")).expect("something to remove");
    telegram.says(group, ANA, "clean up", serde_json::json!({}));
    let question = telegram.wait_text(group, "rm -rf ./victim");
    telegram.says(group, 66_006, "/approve", serde_json::json!({}));
    if let Some((_, data)) = question.buttons.first() {
        telegram.user_presses(group, 66_006, question.id, data);
    }
    telegram.wait_confirmed();
    telegram.says(group, ANA, "/deny", serde_json::json!({}));
    telegram.wait_text(group, "cleaning is over");
    assert!(gateway.setup.home().join("victim").exists());
}

#[test]
fn harmless_commands_are_not_asked_for() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("look", [Reply::Stream(vec![model::shell("ls; uname; echo looked-$((1 + 1))")]), model::text("looked around")]);
    let _gateway = setup(&telegram, &model).start();
    telegram.user_says(ANA, "look");
    telegram.wait_text(ANA, "looked around");
    assert!(model.wait_request(2, "look").all().contains("looked-2"));
}

#[test]
fn a70_stop_cancels_the_question() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gateway = setup(&telegram, &model).start();
    asked(&telegram, &gateway);
    telegram.user_says(ANA, "/stop");
    gateway.wait_status("no turn", |status| (status["turns"].as_array()?.is_empty()).then_some(()));
    let before = telegram.shown(ANA).len();
    telegram.user_says(ANA, "/approve");
    telegram.wait(SOON, "a clear answer", |state| {
        (state.chats[&ANA].messages.iter().filter(|message| message.from_bot && !message.deleted).count() > before).then_some(())
    });
    gateway.wait_idle();
    assert!(gateway.setup.home().join("victim").exists(), "an approval after /stop runs nothing");
    telegram.user_says(ANA, "hello");
    telegram.wait_text(ANA, "hello yourself");
}

#[test]
fn a70_a_late_answer_after_a_restart_is_answered_clearly() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let mut gateway = setup(&telegram, &model).start();
    asked(&telegram, &gateway);
    gateway.kill9();
    gateway.start_again();
    // The turn is resumed and asks again, or the question is void: either way /approve is answered, and nothing runs twice.
    let before = telegram.shown(ANA).len();
    telegram.user_says(ANA, "/approve");
    telegram.wait(SOON, "a clear answer", |state| {
        (state.chats[&ANA].messages.iter().filter(|message| message.from_bot && !message.deleted).count() > before).then_some(())
    });
    telegram.user_says(ANA, "/stop");
    telegram.user_says(ANA, "hello");
    telegram.wait_text(ANA, "hello yourself");
    gateway.wait_idle();
}

#[test]
fn a70_two_questions_of_one_turn_are_both_asked() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let calls = vec![model::shell("rm -rf ./one && echo gone-$((1 + 10))"), model::shell("rm -rf ./two && echo gone-$((2 + 20))")];
    model.rule("remove both", [Reply::Stream(calls), model::text("both handled")]);
    let gateway = setup(&telegram, &model).start();
    for name in ["one", "two"] {
        std::fs::create_dir_all(gateway.setup.home().join(name)).expect("something to remove");
    }
    telegram.user_says(ANA, "remove both");
    telegram.wait_text(ANA, "rm -rf ./one");
    telegram.user_says(ANA, "/approve");
    telegram.wait_text(ANA, "rm -rf ./two");
    telegram.user_says(ANA, "/deny");
    telegram.wait_text(ANA, "both handled");
    let request = model.wait_request(2, "remove both").all();
    assert!(request.contains("gone-11") && !request.contains("gone-22"), "{request}");
}
