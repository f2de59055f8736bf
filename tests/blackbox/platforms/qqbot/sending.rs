//! Sending to QQ: replies only, five to a message, each shown once.

use super::{QqBot, connected, setup, talk};
use crate::platforms::{Platform, configured};
use crate::support::gateway::Gateway;
use crate::support::http::Fault;
use crate::support::model::{self, Gate, Model, Protocol, Reply, Step};
use crate::support::qqbot::{ANA, CHANNEL, GROUP, GUILD, State, private};
use serde_json::{Value, json};
use std::time::Duration;

fn group() -> String {
    format!("/v2/groups/{GROUP}/messages")
}

/// Requests that were to send a text.
fn sends(state: &State) -> Vec<Value> {
    let texts = state.calls.iter().filter(|call| call.path.ends_with("/messages") && call.body["msg_type"] != 6);
    texts.map(|call| call.body.clone()).collect()
}

#[test]
fn each_kind_of_chat_is_answered_at_its_own_address() {
    let qq = QqBot::start();
    let gateway = connected(&qq);
    qq.channel_says("echo: from a bot", true);
    qq.group_says("echo: in the group");
    qq.channel_says("echo: in the channel", false);
    qq.direct_says("echo: in direct messages");
    qq.user_says(ANA, "echo: in private");
    let paths = [
        ("in the group", group()),
        ("in the channel", format!("/channels/{CHANNEL}/messages")),
        ("in direct messages", format!("/dms/{GUILD}/messages")),
        ("in private", private(ANA)),
    ];
    for (text, path) in &paths {
        let shown = qq.wait_text(text);
        assert_eq!((&shown.chat, shown.text.as_str()), (path, *text));
    }
    gateway.wait_idle();
    assert_eq!(qq.see(|state| state.shown.len()), 4, "and nothing to the bot");
    gateway.cli(&["send", "--to", &format!("qqbot:group:{GROUP}"), "sent by hand"]).expect(0);
    assert_eq!(qq.wait_text("sent by hand").chat, group());
}

#[test]
fn a61_an_answer_whose_confirmation_is_lost_is_shown_once() {
    for fault in [Fault::ApplyThenDrop, Fault::AnswerThenCut, Fault::ApplyThenHold] {
        let qq = QqBot::start();
        let gateway = setup(&qq).set("adapters.qqbot", "markdown", "\"off\"").start();
        gateway.wait_adapter("qqbot", "connected");
        qq.fail("/v2/groups", fault.clone(), 1);
        qq.group_says("echo: only once");
        qq.wait_text("only once");
        gateway
            .wait_status("the delivery is settled", |status| (status["outbox"]["pending"] == 0 && qq.see(sends).len() == 2).then_some(()));
        gateway.wait_idle();
        let (sent, shown) = (qq.see(sends), qq.shown(&group()));
        assert_eq!((&sent[0]["msg_seq"], &sent[0]["msg_id"]), (&sent[1]["msg_seq"], &sent[1]["msg_id"]), "{fault:?}");
        assert_eq!(shown.iter().map(|shown| shown.text.as_str()).collect::<Vec<_>>(), ["only once"], "without a mark");
    }
}

#[test]
fn a61_a_gateway_that_is_killed_while_it_sends_shows_the_answer_once() {
    let qq = QqBot::start();
    let mut gateway = setup(&qq).set("adapters.qqbot", "markdown", "\"off\"").start();
    gateway.wait_adapter("qqbot", "connected");
    qq.fail("/v2/groups", Fault::ApplyThenHold, 1);
    qq.group_says("echo: survives the kill");
    qq.wait_text("survives the kill");
    gateway.kill9();
    gateway.start_again();
    qq.wait("a second attempt", |state| (sends(state).len() == 2).then_some(()));
    gateway.wait_idle();
    let sent = qq.see(sends);
    assert_eq!((&sent[0], qq.shown(&group()).len()), (&sent[1], 1), "the same request, and one message");
}

#[test]
fn a_long_answer_takes_what_is_left_and_the_rest_follows() {
    let qq = QqBot::start();
    let mut gateway = connected(&qq);
    qq.group_says("long: 30000");
    let note = "the rest follows";
    qq.wait_text(note);
    gateway.wait_idle();
    let first: Vec<String> = qq.shown(&group()).into_iter().map(|shown| shown.text).collect();
    assert_eq!(first.len(), 5, "five replies to one message");
    assert!(first[4].contains(note) && first[..4].iter().all(|text| !text.contains(note) && text.chars().count() > 2500));
    // It waits on disk.
    gateway.kill9();
    gateway.start_again();
    gateway.wait_adapter("qqbot", "connected");
    // Whose confirmation is lost.
    qq.fail("/v2/groups", Fault::ApplyThenDrop, 1);
    qq.group_says("echo: go on");
    qq.wait("the new answer", |state| state.shown.iter().find(|shown| shown.text == "go on").map(|_| ()));
    gateway.wait_idle();
    let all: Vec<String> = qq.shown(&group()).into_iter().map(|shown| shown.text).collect();
    assert_eq!(all.last().map(String::as_str), Some("go on"), "the rest comes first: {all:#?}");
    assert!((7..=10).contains(&all.len()), "{}", all.len());
    let together = all.concat();
    let paragraphs = together.matches("Paragraph ").count();
    let last = (1..).step_by(4).take(paragraphs).last().expect("paragraphs");
    assert!(paragraphs > 100 && together.contains(&format!("Paragraph {last}:")), "each once and none is missing: {paragraphs}");
}

#[test]
fn several_messages_of_a_person_make_room_for_one_long_answer() {
    let (qq, model) = (QqBot::start(), Model::start());
    let gate = Gate::default();
    let words = "word ".repeat(5000);
    model.rule("first", [Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text(words.clone())])]);
    model.rule("second", [model::text("the second answer")]);
    let gateway = configured(&qq, Gateway::setup()).model(&model, Protocol::Anthropic).start();
    gateway.wait_adapter("qqbot", "connected");
    qq.group_says("first");
    model.wait_request(1, "first");
    let second = qq.group_says("/queue second");
    qq.wait("both are heard", |state| state.heard[&second].s.map(|_| ()));
    gateway.wait_status("the second message waits", |status| (status["inbox"]["pending"].as_u64() >= Some(1)).then_some(()));
    gate.open();
    qq.wait_text("the second answer");
    gateway.wait_idle();
    let shown = qq.shown(&group());
    let count: usize = shown.iter().map(|shown| shown.text.matches("word").count()).sum();
    assert_eq!(count, 5000, "nothing is missing: {:?}", shown.iter().map(|shown| (shown.msg_seq, shown.text.len())).collect::<Vec<_>>());
    assert!(shown.iter().all(|shown| !shown.text.contains("the rest follows")));
}

#[test]
fn an_answer_that_comes_too_late_waits_for_the_next_message() {
    let (qq, model) = (QqBot::start(), Model::start());
    let gate = Gate::default();
    model.rule("a long task", [Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text("done at last".to_owned())])]);
    model.rule("are you there", [model::text("here I am")]);
    let mut gateway = configured(&qq, Gateway::setup()).model(&model, Protocol::Anthropic).start();
    gateway.wait_adapter("qqbot", "connected");
    qq.group_says("a long task");
    model.wait_request(1, "a long task");
    qq.change(|state| state.window = Duration::ZERO);
    gate.open();
    gateway.wait_for_log("waits until somebody writes", Duration::from_secs(20));
    gateway.wait_idle();
    assert!(qq.see(|state| state.shown.is_empty()));
    qq.change(|state| state.window = Duration::from_secs(300));
    gateway.kill9();
    gateway.start_again();
    gateway.wait_adapter("qqbot", "connected");
    qq.group_says("are you there?");
    qq.wait_text("here I am");
    gateway.wait_idle();
    let shown = qq.shown(&group());
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown[0].text.contains("done at last") && shown[0].text.contains("ready earlier"), "{shown:?}");
}

#[test]
fn what_answers_nobody_is_refused_and_says_why() {
    let qq = QqBot::start();
    let gateway = connected(&qq);
    gateway.cli(&["send", "--to", &format!("qqbot:c2c:{ANA}"), "out of the blue"]).expect(0);
    gateway.wait_for_log("QQ lets a bot only reply", Duration::from_secs(20));
    gateway.cli(&["send", "--to", "qqbot:nowhere", "lost"]).expect(0);
    gateway.wait_for_log("is no chat of QQ", Duration::from_secs(20));
    gateway.wait_idle();
    assert!(qq.see(|state| state.shown.is_empty()) && qq.see(sends).is_empty());
    talk(&qq, "spoken to");
    gateway.cli(&["send", "--to", &format!("qqbot:c2c:{ANA}"), "and now it works"]).expect(0);
    qq.wait_text("and now it works");
}

#[test]
fn a_token_that_expires_in_the_middle_is_replaced_once() {
    let qq = QqBot::start();
    let gateway = connected(&qq);
    talk(&qq, "with the first token");
    qq.expire_tokens();
    talk(&qq, "with the second token");
    gateway.wait_idle();
    assert_eq!((qq.see(|state| state.token_requests), qq.connects()), (2, 1));
    assert_eq!(qq.texts(), ["with the first token", "with the second token"]);
    // One that is about to end is replaced before it is refused.
    let brief = QqBot::start();
    brief.change(|state| state.expires_in = json!(1));
    let _gateway = connected(&brief);
    brief.wait_frame(1, 2);
    talk(&brief, "renewed");
    assert!(brief.see(|state| state.token_requests > 1 && state.calls.iter().all(|call| call.status != 401)));
}

#[test]
fn markdown_is_sent_until_it_is_refused() {
    let allowed = QqBot::start();
    allowed.change(|state| state.markdown = true);
    let _gateway = connected(&allowed);
    talk(&allowed, "**bold**");
    assert!(allowed.see(|state| state.shown[0].markdown));
    let refused = QqBot::start();
    let gateway = connected(&refused);
    talk(&refused, "**first**");
    talk(&refused, "**second**");
    gateway.wait_idle();
    let kinds: Vec<i64> = refused.see(sends).iter().filter_map(|body| body["msg_type"].as_i64()).collect();
    assert_eq!((kinds, refused.texts().len()), (vec![2, 0, 0], 2), "tried once");
}

#[test]
fn addresses_that_are_refused_are_written_differently() {
    let qq = QqBot::start();
    qq.change(|state| state.refuse_links = true);
    let gateway = connected(&qq);
    qq.user_says(ANA, "echo: see https://docs.rs/x and a.example");
    qq.wait_text("see docs[.]rs/x and a[.]example");
    gateway.wait_idle();
    assert_eq!(qq.texts().len(), 1);
}

#[test]
fn what_waits_for_an_audit_is_not_sent_again() {
    let qq = QqBot::start();
    qq.change(|state| state.audit = true);
    let gateway = connected(&qq);
    talk(&qq, "looked at first");
    gateway.wait_idle();
    assert_eq!(qq.texts(), ["looked at first"]);
}

#[test]
fn typing_takes_one_reply_and_no_more() {
    let (qq, model) = (QqBot::start(), Model::start());
    let gate = Gate::default();
    model.rule("think", [Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text("thought".to_owned())])]);
    let gateway = configured(&qq, Gateway::setup()).model(&model, Protocol::Anthropic).start();
    gateway.wait_adapter("qqbot", "connected");
    let id = qq.user_says(ANA, "think");
    qq.wait("the typing sign", |state| (state.typing == 1).then_some(()));
    gate.open();
    let shown = qq.wait_text("thought");
    gateway.wait_idle();
    assert_eq!((shown.msg_id, shown.msg_seq, qq.see(|state| state.typing)), (id, 2, 1));
    assert_eq!(qq.connected(), 1);
}

#[test]
fn trouble_while_sending_is_got_over() {
    let qq = QqBot::start();
    let gateway = setup(&qq).set("adapters.qqbot", "markdown", "\"off\"").start();
    gateway.wait_adapter("qqbot", "connected");
    let status = |code, retry_after| Fault::Status { code, retry_after };
    for (number, fault) in
        [status(500, None), status(504, None), status(429, Some(1)), Fault::Garbage, Fault::NotJson].into_iter().enumerate()
    {
        qq.fail("/v2/groups", fault, 1);
        qq.group_says(&format!("echo: number {number}"));
        qq.wait_text(&format!("number {number}"));
    }
    gateway.wait_idle();
    assert_eq!(qq.see(|state| state.shown.len()), 5, "each once: {:?}", qq.shown(&group()));
}
