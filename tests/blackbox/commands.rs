//! Slash commands in a chat.

use crate::support::gateway::Gateway;
use crate::support::model::{self, Gate, Model, Protocol, Reply, Step};
use crate::support::poll::SOON;
use crate::support::telegram::{ANA, Message, Telegram};

/// Says something and waits for the bot's next message.
fn answer(telegram: &Telegram, user: i64, text: &str) -> Message {
    let before = telegram.shown(user).len();
    telegram.user_says(user, text);
    telegram.wait(SOON, &format!("an answer to {text}"), |state| {
        let mut messages = state.chats[&user].messages.iter().filter(|message| message.from_bot && !message.deleted);
        messages.nth(before).cloned()
    })
}

#[test]
fn the_commands_answer_without_the_model() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    let check = |command: &str, expect: &[&str]| {
        let text = answer(&telegram, ANA, command).text;
        for part in expect {
            assert!(text.to_lowercase().contains(&part.to_lowercase()), "{command}: {part:?} is missing in {text:?}");
        }
    };
    check("/help", &["/new", "/stop", "/status", "/retry", "/undo", "/usage"]);
    check("/start", &["/help"]);
    check("/version", &["0.1"]);
    check("/whoami", &["77001"]);
    check("/queue", &[]);
    check("/usage", &["token"]);
    check("/stop", &[]);
    check("/retry", &[]);
    check("/undo", &[]);
    check("/STATUS", &[]);
    check("/help@gate_bot", &["/new"]);
    check("/nosuchcommand", &["/help"]);
    let lines = answer(&telegram, ANA, "/status").text.lines().count();
    assert!((1..=6).contains(&lines), "/status is short: {lines} lines");
    assert!(model.journal().is_empty(), "no command asks the model");
    gateway.wait_idle();
    let commands: Vec<String> =
        telegram.lock().commands.iter().filter_map(|command| command["command"].as_str().map(str::to_owned)).collect();
    assert!(commands.is_empty() || commands.contains(&"help".to_owned()), "{commands:?}");
}

#[test]
fn new_begins_a_fresh_transcript() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("remember", [model::text("noted")]);
    model.rule("what was it", [model::text("no idea")]);
    let _gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "remember the word plum");
    telegram.wait_text(ANA, "noted");
    telegram.user_says(ANA, "what was it?");
    telegram.wait_text(ANA, "no idea");
    assert!(model.wait_request(1, "what was it").all().contains("plum"), "the model sees what was said before");
    answer(&telegram, ANA, "/new");
    telegram.user_says(ANA, "what was it, again?");
    let request = model.wait_request(1, "what was it, again");
    assert!(!request.all().contains("plum"), "{}", request.body);
}

#[test]
fn undo_takes_the_last_exchange_back() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("first", [model::text("one done")]);
    model.rule("secret word", [model::text("two done")]);
    model.rule("third", [model::text("three done")]);
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "first");
    telegram.wait_text(ANA, "one done");
    telegram.user_says(ANA, "secret word");
    telegram.wait_text(ANA, "two done");
    gateway.wait_idle();
    answer(&telegram, ANA, "/undo");
    telegram.user_says(ANA, "third");
    telegram.wait_text(ANA, "three done");
    let request = model.wait_request(1, "third").all();
    assert!(request.contains("first") && request.contains("one done"), "what came before stays");
    assert!(!request.contains("secret word") && !request.contains("two done"), "{request}");
}

#[test]
fn retry_asks_again() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.once("roll", model::text("a four"));
    model.once("roll", model::text("a six"));
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "roll the dice");
    telegram.wait_text(ANA, "a four");
    gateway.wait_idle();
    telegram.user_says(ANA, "/retry");
    telegram.wait_text(ANA, "a six");
    let request = model.wait_request(2, "roll").all();
    assert!(!request.contains("a four"), "the answer that was not liked is taken back: {request}");
}

#[test]
fn usage_counts_what_the_provider_counted() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("count", [model::text("counted")]);
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::OpenAi).start();
    for number in 0..2 {
        telegram.user_says(ANA, &format!("count {number}"));
        telegram.wait(SOON, "the answers", |state| (state.count(ANA, "counted") > number).then_some(()));
    }
    gateway.wait_idle();
    let text = answer(&telegram, ANA, "/usage").text;
    assert!(text.contains("22") && text.contains("14"), "2 × 11 in, 2 × 7 out: {text}");
}

#[test]
fn a69_stop_and_status_are_answered_while_a_turn_runs() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gate = Gate::default();
    model.rule("work", [Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text("never shown".to_owned())])]);
    model.rule("next", [model::text("next is done")]);
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "work");
    model.wait_request(1, "work");
    answer(&telegram, ANA, "/status");
    answer(&telegram, ANA, "/queue");
    telegram.user_says(ANA, "/stop");
    assert_eq!(model.wait_end(1, "work").1, model::End::ClientGone, "the model call is cut");
    telegram.user_says(ANA, "next");
    telegram.wait_text(ANA, "next is done");
    gateway.wait_idle();
    assert_eq!(telegram.lock().count(ANA, "never shown"), 0);
    let everything: String = model.journal().iter().map(model::Exchange::all).collect();
    assert!(!everything.contains("/stop") && !everything.contains("/status"), "commands never reach the model");
}

#[test]
fn lifecycle_commands_are_for_admins() {
    let telegram = Telegram::start();
    let other = 88_002;
    let users = format!("[\"{ANA}\", \"{other}\"]");
    let mut gateway = Gateway::setup().telegram(&telegram).set("adapters.telegram", "allowed_users", &users).start();
    let pid = gateway.pid();
    answer(&telegram, other, "/restart");
    telegram.user_says(other, "echo: still the same process");
    telegram.wait_text(other, "still the same process");
    assert!(gateway.is_running());
    assert_eq!(gateway.status()["pid"], pid);
    assert!(gateway.status()["state"] == "running" && !telegram.texts(other).concat().contains("online"));
}

#[test]
fn commands_are_read_whatever_stands_around_them() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("path", [model::text("a path")]);
    let _gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    assert!(answer(&telegram, ANA, "/version   ").text.contains("0.1"));
    assert!(answer(&telegram, ANA, "/version please").text.contains("0.1"));
    // A path is not a command: it is for the model, or answered with a hint, but never dropped.
    answer(&telegram, ANA, "/etc/passwd is a path");
}
