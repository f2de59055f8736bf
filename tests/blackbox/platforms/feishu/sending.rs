//! Messages, cards and reactions over REST.

use super::{GROUP, assert_no_secret, offline, setup, with_model};
use crate::platforms::Platform;
use crate::support::feishu::{ANA, ANA_CHAT, BOT, Feishu, Wrong, refuse};
use crate::support::http::Fault;
use crate::support::model::{self, Gate, Model, Protocol, Reply, Step};
use crate::support::poll::SOON;
use serde_json::json;
use std::time::{Duration, Instant};

fn say(text: &str) -> Step {
    Step::Text(text.to_owned())
}

#[test]
fn a_lost_answer_is_asked_for_again_with_the_same_key() {
    let feishu = Feishu::start();
    let gateway = setup(&feishu).set("adapters.feishu", "streaming", "false").start();
    for (number, wrong) in [Wrong::Lost, Wrong::Http(Fault::AnswerThenCut), Wrong::Http(Fault::ApplyThenDrop)].into_iter().enumerate() {
        let before = feishu.calls("create").len();
        feishu.fail("create", wrong, 1);
        feishu.says(&format!("echo: only once {number}"));
        feishu.wait_call("create", before + 2);
        gateway.wait_idle();
        let calls = feishu.calls("create");
        assert_eq!(calls[before].body["uuid"], calls[before + 1].body["uuid"], "the key is that of the message");
        assert_eq!(feishu.lock().count(ANA_CHAT, &format!("only once {number}")), 1);
    }
    let all = feishu.texts().concat();
    assert!(!all.contains("duplicate"), "with a key there is no doubt: {all}");
    let keys: std::collections::BTreeSet<String> = feishu.calls("create").iter().map(|call| call.body["uuid"].to_string()).collect();
    assert_eq!(keys.len(), 3, "each message has its own");
}

#[test]
fn a_token_that_is_refused_is_fetched_anew() {
    let feishu = Feishu::start();
    let gateway = offline(&feishu);
    feishu.says("echo: before");
    feishu.wait_text(ANA_CHAT, "before");
    gateway.wait_idle();
    assert_eq!(feishu.lock().tokens_given, 1, "one token for all calls");
    feishu.change(|state| state.tokens.clear());
    feishu.says("echo: after");
    feishu.wait_text(ANA_CHAT, "after");
    gateway.wait_idle();
    assert_eq!(feishu.lock().tokens_given, 2);
    assert_eq!(feishu.texts(), ["before", "after"]);
    assert_no_secret(&feishu, &gateway);
}

#[test]
fn a_slow_answer_is_streamed_into_one_card() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let pause = || Step::Pause(Duration::from_millis(1500));
    let steps = vec![say("First part. "), pause(), say("# Second\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"), pause(), say("The end.")];
    model.rule("slowly", [Reply::Stream(steps)]);
    let gateway = with_model(&feishu, &model);
    feishu.says("slowly");
    feishu.wait_text(ANA_CHAT, "First part.");
    assert_eq!(feishu.lock().count(ANA_CHAT, "The end."), 0, "the first part is shown before the last is there");
    feishu.wait_text(ANA_CHAT, "The end.");
    gateway.wait_idle();
    let state = feishu.lock();
    let shown: Vec<_> = state.shown(ANA_CHAT).collect();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(shown[0].kind, "interactive");
    assert!(shown[0].text().contains("```\na │ b\n──┼──\n1 │ 2\n```"), "the reply stands in the preview's place: {}", shown[0].text());
    let fastest = shown[0].edits.windows(2).map(|pair| pair[1] - pair[0]).min().expect("it was edited");
    assert!(fastest > Duration::from_millis(200), "edits keep to the platform's pace: {fastest:?}");
    assert!(state.journal.iter().all(|call| call.method != "put"));
}

#[test]
fn in_a_group_the_streamed_card_is_the_reply() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let steps = vec![say("Working on it. "), Step::Pause(Duration::from_millis(1500)), say("Ready.")];
    model.rule("group work", [Reply::Stream(steps)]);
    feishu.add_group(GROUP);
    let gateway = with_model(&feishu, &model);
    let mentions = json!({"mentions": [{"key": "@_user_1", "id": {"open_id": BOT}, "name": "Gate"}]});
    let id = feishu.says_in(GROUP, ANA, "@_user_1 group work", &mentions);
    feishu.wait_text(GROUP, "Ready.");
    gateway.wait_idle();
    let state = feishu.lock();
    let shown: Vec<_> = state.shown(GROUP).collect();
    assert_eq!((shown.len(), shown[0].reply_to.as_deref()), (1, Some(id.as_str())), "{shown:?}");
}

#[test]
fn a_preview_whose_answer_was_lost_is_not_shown_twice() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let (gate, first) = (Gate::default(), say("Begun. "));
    model.rule("preview", [Reply::Stream(vec![first, Step::Gate(gate.clone()), say("Ended.")])]);
    let gateway = with_model(&feishu, &model);
    feishu.fail("create", Wrong::Lost, 1);
    feishu.says("preview");
    feishu.wait_call("create", 1);
    gate.open();
    feishu.wait_text(ANA_CHAT, "Ended.");
    gateway.wait_idle();
    assert_eq!(feishu.texts(), ["Begun. Ended."]);
}

#[test]
fn a_card_that_cannot_be_edited_any_more_is_replaced() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let gate = Gate::default();
    model.rule("replace", [Reply::Stream(vec![say("Half. "), Step::Gate(gate.clone()), say("Whole.")])]);
    let gateway = with_model(&feishu, &model);
    feishu.says("replace");
    feishu.wait_text(ANA_CHAT, "Half.");
    feishu.fail("patch", refuse(400, 230_075, "The message has exceeded the time limit for editing"), 1000);
    gate.open();
    feishu.wait_text(ANA_CHAT, "Whole.");
    gateway.wait_idle();
    assert_eq!(feishu.texts(), ["Half. Whole."], "the old one is gone");
}

#[test]
fn with_plain_texts_the_preview_keeps_to_the_number_of_edits() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let steps: Vec<Step> = (0..40).flat_map(|number| [say(&format!("word{number} ")), Step::Pause(Duration::from_millis(600))]).collect();
    model.rule("chatty", [Reply::Stream([steps, vec![say("**The end.**")]].concat())]);
    let gateway = setup(&feishu).model(&model, Protocol::Anthropic).set("adapters.feishu", "style", "\"text\"").start();
    feishu.says("chatty");
    feishu.wait(Duration::from_secs(60), "the end", |state| {
        state.shown(ANA_CHAT).find(|message| message.text().contains("The end.")).map(|_| ())
    });
    gateway.wait_idle();
    let state = feishu.lock();
    let shown: Vec<_> = state.shown(ANA_CHAT).collect();
    assert_eq!((shown.len(), shown[0].kind.as_str()), (1, "text"), "{shown:?}");
    assert!(shown[0].edits.len() <= 21 && shown[0].text().contains("word39"), "{} edits", shown[0].edits.len());
    assert!(state.journal.iter().all(|call| call.code != 230_072));
}

#[test]
fn the_working_mark_is_there_while_the_model_works() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let gate = Gate::default();
    model.rule("think", [Reply::Stream(vec![Step::Gate(gate.clone()), say("thought")])]);
    let gateway = with_model(&feishu, &model);
    let id = feishu.says("think");
    feishu.wait(SOON, "the mark", |state| (state.message(&id)?.reactions.values().next()? == "Typing").then_some(()));
    gate.open();
    feishu.wait_text(ANA_CHAT, "thought");
    feishu.wait(SOON, "the mark is gone", |state| state.message(&id)?.reactions.is_empty().then_some(()));
    assert_eq!(feishu.lock().message(&id).expect("the message").reacted, ["Typing"]);
    gateway.wait_idle();
    // A quick one leaves nothing behind either.
    model.rule("quick", [model::text("quickly")]);
    let quick = feishu.says("quick");
    feishu.wait_text(ANA_CHAT, "quickly");
    gateway.wait_idle();
    feishu.wait(SOON, "no mark", |state| state.message(&quick)?.reactions.is_empty().then_some(()));
}

#[test]
fn the_working_mark_of_a_killed_process_is_removed() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let gate = Gate::default();
    model.rule("killed", [Reply::Stream(vec![Step::Gate(gate.clone()), say("answered after all")])]);
    let mut gateway = with_model(&feishu, &model);
    let id = feishu.says("killed");
    feishu.wait(SOON, "the mark", |state| (!state.message(&id)?.reactions.is_empty()).then_some(()));
    // What is remembered of it is on disk once the same thread has done something else.
    gateway.cli(&["send", "--to", &format!("feishu:{ANA_CHAT}"), "sent meanwhile"]).expect(0);
    feishu.wait_text(ANA_CHAT, "sent meanwhile");
    gateway.kill9();
    gateway.start_again();
    gate.open();
    feishu.wait_text(ANA_CHAT, "answered after all");
    feishu.wait(SOON, "the mark is gone", |state| state.message(&id)?.reactions.is_empty().then_some(()));
    assert_eq!(feishu.lock().count(ANA_CHAT, "answered after all"), 1);
}

#[test]
fn a_mark_that_could_not_be_removed_goes_with_the_next() {
    let feishu = Feishu::start();
    let mut gateway = offline(&feishu);
    feishu.fail("unreact", Wrong::Http(Fault::BlackHole), 1);
    let id = feishu.says("echo: answered, and killed");
    feishu.wait_text(ANA_CHAT, "answered, and killed");
    feishu.wait_call("unreact", 1);
    gateway.kill9();
    gateway.start_again();
    let next = feishu.says("echo: the next");
    feishu.wait_text(ANA_CHAT, "the next");
    for id in [id, next] {
        feishu.wait(SOON, "no mark", |state| state.message(&id)?.reactions.is_empty().then_some(()));
    }
    gateway.wait_idle();
    assert_eq!(feishu.texts(), ["answered, and killed", "the next"]);
}

#[test]
fn a_kill_between_sending_and_the_answer_sends_once() {
    let feishu = Feishu::start();
    let mut gateway = setup(&feishu).set("adapters.feishu", "streaming", "false").start();
    feishu.fail("create", Wrong::Http(Fault::ApplyThenHold), 1);
    feishu.says("echo: sent and not known");
    feishu.wait_text(ANA_CHAT, "sent and not known");
    gateway.kill9();
    gateway.start_again();
    feishu.wait_call("create", 2);
    feishu.says("echo: barrier");
    feishu.wait_text(ANA_CHAT, "barrier");
    gateway.wait_idle();
    assert_eq!(feishu.texts(), ["sent and not known", "barrier"]);
    let keys: Vec<_> = feishu.calls("create").iter().take(2).map(|call| call.body["uuid"].clone()).collect();
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn a_stopped_turn_leaves_no_mark() {
    let (feishu, model) = (Feishu::start(), Model::start());
    model.rule("for ever", [Reply::Silent]);
    let gateway = with_model(&feishu, &model);
    let id = feishu.says("for ever");
    feishu.wait(SOON, "the mark", |state| (!state.message(&id)?.reactions.is_empty()).then_some(()));
    feishu.says("/stop");
    feishu.wait(SOON, "the mark is gone", |state| state.message(&id)?.reactions.is_empty().then_some(()));
    gateway.wait_idle();
}

#[test]
fn without_the_permission_for_reactions_messages_are_answered_all_the_same() {
    let feishu = Feishu::start();
    let gateway = offline(&feishu);
    let msg = "Access denied. One of the following scopes is required: [im:message.reactions:write_only].";
    feishu.fail("react", refuse(400, 99_991_672, msg), 1000);
    for text in ["one", "two"] {
        feishu.says(&format!("echo: {text}"));
        feishu.wait_text(ANA_CHAT, text);
    }
    gateway.wait_for_log("im:message.reactions:write_only", SOON);
    gateway.wait_idle();
    assert_eq!(gateway.adapter("feishu")["state"], "connected");
    assert!(feishu.calls("react").len() <= 1, "it is not asked for again");
}

#[test]
fn too_many_requests_are_sent_later() {
    let feishu = Feishu::start();
    let gateway = setup(&feishu).set("adapters.feishu", "streaming", "false").start();
    let limits = [Wrong::Limit(2), refuse(400, 230_020, "This operation triggers the frequency limit."), refuse(429, 11_020, "rate")];
    for (number, wrong) in limits.into_iter().enumerate() {
        feishu.fail("create", wrong.clone(), 1);
        let begun = Instant::now();
        feishu.says(&format!("echo: limited {number}"));
        feishu.wait_text(ANA_CHAT, &format!("limited {number}"));
        assert!(wrong != Wrong::Limit(2) || begun.elapsed() >= Duration::from_secs(2), "the platform's wish is kept");
    }
    gateway.wait_idle();
    assert_eq!(feishu.texts(), ["limited 0", "limited 1", "limited 2"]);
}

#[test]
fn what_the_platform_does_not_render_is_sent_as_text() {
    let feishu = Feishu::start();
    let gateway = setup(&feishu).set("adapters.feishu", "streaming", "false").start();
    feishu.says("echo: refuse-this-post **as it is**");
    let shown = feishu.wait_text(ANA_CHAT, "refuse-this-post as it is");
    assert_eq!(shown.kind, "text", "and without the marks, which would be shown");
    feishu.says("echo: ![x](http://x.example/y.png) <at user_id=\"all\"></at>");
    let shown = feishu.wait_text(ANA_CHAT, "[x](http://x.example/y.png)");
    assert_eq!(shown.kind, "post", "images become links, and nobody is called");
    gateway.wait_idle();
    assert_eq!(feishu.texts().len(), 2);
}

#[test]
fn a_card_that_is_refused_becomes_a_plain_one() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let gate = Gate::default();
    model.rule("odd card", [Reply::Stream(vec![say("Fine. "), Step::Gate(gate.clone()), say("refuse-this-card **now**")])]);
    let gateway = with_model(&feishu, &model);
    feishu.says("odd card");
    feishu.wait_text(ANA_CHAT, "Fine.");
    gate.open();
    feishu.wait_text(ANA_CHAT, "refuse-this-card now");
    gateway.wait_idle();
    assert_eq!(feishu.texts(), ["Fine. refuse-this-card now"]);
}

#[test]
fn long_answers_come_in_parts_that_the_platform_takes() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let text = format!("{} the end", "很长的回答。\"quoted\"\n".repeat(4000));
    model.rule("long answer", [model::text(&text)]);
    let gateway = with_model(&feishu, &model);
    feishu.says("long answer");
    feishu.wait_text(ANA_CHAT, "the end");
    gateway.wait_idle();
    let parts = feishu.texts();
    let total: usize = parts.iter().map(|part| part.matches('。').count()).sum();
    assert_eq!(total, 4000, "{} parts", parts.len());
    assert!(feishu.lock().journal.iter().all(|call| call.code != 230_025), "nothing was refused as too long");
}

#[test]
fn an_answer_to_a_message_that_was_recalled_goes_to_the_group() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let gate = Gate::default();
    model.rule("recalled", [Reply::Stream(vec![Step::Gate(gate.clone()), say("an answer anyway")])]);
    feishu.add_group(GROUP);
    let gateway = setup(&feishu).model(&model, Protocol::Anthropic).set("adapters.feishu", "streaming", "false").start();
    let mentions = json!({"mentions": [{"key": "@_user_1", "id": {"open_id": BOT}, "name": "Gate"}]});
    let id = feishu.says_in(GROUP, ANA, "@_user_1 recalled", &mentions);
    model.wait_request(1, "recalled");
    feishu.change(|state| state.message_mut(&id).expect("the message").deleted = true);
    gate.open();
    assert_eq!(feishu.wait_text(GROUP, "an answer anyway").reply_to, None);
    gateway.wait_idle();
    assert_eq!(feishu.texts_in(GROUP).len(), 1);
}

#[test]
fn a_chat_that_cannot_be_reached_is_given_up_alone() {
    let feishu = Feishu::start();
    let gateway = offline(&feishu);
    gateway.cli(&["send", "--to", "feishu:oc_elsewhere", "nobody hears this"]);
    feishu.wait(SOON, "the refusal", |state| state.journal.iter().find(|call| call.code == 230_002).map(|_| ()));
    gateway.cli(&["send", "--to", &format!("feishu:{ANA}"), "by the person's id"]).expect(0);
    feishu.wait_text(ANA_CHAT, "by the person's id");
    feishu.says("echo: alive");
    feishu.wait_text(ANA_CHAT, "alive");
    assert_eq!(gateway.adapter("feishu")["state"], "connected");
}

#[test]
fn a_button_is_pressed_and_the_command_runs() {
    let (feishu, model) = (Feishu::start(), Model::start());
    let dangerous = "rm -rf ./victim && echo removed-$((7 * 7))";
    model.rule("clean up", [Reply::Stream(vec![model::shell(dangerous)]), model::text("cleaning is over")]);
    let gateway = setup(&feishu).model(&model, Protocol::Anthropic).set("approvals", "mode", "\"ask\"").start();
    std::fs::create_dir_all(gateway.setup.home().join("victim")).expect("something to remove");
    feishu.says("clean up");
    let question = feishu.wait_text(ANA_CHAT, "rm -rf ./victim");
    let button = question.content["elements"][1]["actions"][0].clone();
    if button.is_null() {
        assert!(question.text().contains("/approve"), "without buttons the text says how to answer: {}", question.text());
        return;
    }
    let context = json!({"url": "", "preview_token": "", "open_message_id": question.id, "open_chat_id": ANA_CHAT});
    let press = json!({"operator": {"tenant_key": "7", "open_id": ANA}, "token": "c-1", "host": "im_message",
        "action": {"value": button["value"], "tag": "button"}, "context": context});
    let id = feishu.emit("card.action.trigger", &press);
    feishu.wait_text(ANA_CHAT, "cleaning is over");
    assert_eq!(feishu.wait_confirmed(&id).acks.len(), 1);
    assert!(!gateway.setup.home().join("victim").exists());
    gateway.wait_idle();
}
