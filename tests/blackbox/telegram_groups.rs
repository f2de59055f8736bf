//! Groups, topics, and who is allowed to talk.

use crate::support::gateway::{Gateway, Setup};
use crate::support::model::{self, Model, Protocol};
use crate::support::telegram::{ANA, State, Telegram};
use serde_json::json;

const GROUP: i64 = -1_001_234_567_890;
const STRANGER: i64 = 66_006;

fn setup(telegram: &Telegram) -> Setup {
    telegram.add_chat(GROUP, "supergroup", &[]);
    Gateway::setup().telegram(telegram)
}

#[test]
fn in_a_group_only_what_is_addressed_to_the_bot_is_answered() {
    let telegram = Telegram::start();
    let gateway = setup(&telegram).start();
    telegram.says(GROUP, ANA, "echo: talking among ourselves", json!({}));
    telegram.says(GROUP, ANA, "/status@other_bot", json!({}));
    telegram.says(GROUP, ANA, "echo: @gate_bots is somebody else", json!({}));
    telegram.says(GROUP, ANA, "@gate_bot echo: mentioned", json!({}));
    let answer = telegram.wait_text(GROUP, "mentioned");
    assert!(!answer.text.contains("@gate_bot"), "the mention is not part of the text: {}", answer.text);
    telegram.says(GROUP, ANA, "@GATE_BOT echo: in capitals", json!({}));
    telegram.wait_text(GROUP, "in capitals");
    let quoted = json!({"message_id": answer.id, "from": State::bot(), "chat": {"id": GROUP, "type": "supergroup", "title": "Ops"}, "date": 1, "text": answer.text});
    telegram.says(GROUP, ANA, "echo: by reply", json!({"reply_to_message": quoted}));
    telegram.wait_text(GROUP, "by reply");
    telegram.says(GROUP, ANA, "/version@gate_bot", json!({}));
    telegram.wait_text(GROUP, "0.1");
    gateway.wait_idle();
    let texts = telegram.texts(GROUP);
    assert!(!texts.iter().any(|text| text.contains("among ourselves") || text.contains("somebody else")), "{texts:?}");
    assert_eq!(texts.len(), 4, "{texts:?}");
}

#[test]
fn without_the_mention_gate_a_group_is_answered() {
    let telegram = Telegram::start();
    let _gateway = setup(&telegram).set("adapters.telegram", "group_mention", "false").start();
    telegram.says(GROUP, ANA, "echo: no mention needed", json!({}));
    telegram.wait_text(GROUP, "no mention needed");
}

#[test]
fn a_caption_can_address_the_bot() {
    let telegram = Telegram::start();
    telegram.add_file("p", "photos/p.jpg", b"\xff\xd8\xff\xe0 picture");
    let _gateway = setup(&telegram).start();
    let photo = json!([{"file_id": "p", "file_unique_id": "p", "width": 9, "height": 9, "file_size": 12}]);
    let entities = json!([{"type": "mention", "offset": 0, "length": 9}]);
    telegram.says(GROUP, ANA, "", json!({"photo": photo, "caption": "@gate_bot echo: captioned", "caption_entities": entities}));
    telegram.wait_text(GROUP, "captioned");
}

#[test]
fn topics_are_answered_in_their_place_and_do_not_mix() {
    let (telegram, model) = (Telegram::start(), Model::start());
    telegram.add_chat(GROUP, "supergroup", &[12, 13]);
    model.rule("twelve", [model::text("answer to twelve")]);
    model.rule("thirteen", [model::text("answer to thirteen")]);
    model.rule("general", [model::text("answer to general")]);
    let _gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.says(GROUP, ANA, "@gate_bot twelve", json!({"message_thread_id": 12, "is_topic_message": true}));
    assert_eq!(telegram.wait_text(GROUP, "answer to twelve").thread, Some(12));
    telegram.says(GROUP, ANA, "@gate_bot thirteen", json!({"message_thread_id": 13, "is_topic_message": true}));
    assert_eq!(telegram.wait_text(GROUP, "answer to thirteen").thread, Some(13));
    assert!(!model.wait_request(1, "thirteen").all().contains("twelve"), "each topic is a session of its own");
    // The General topic must not be named when sending.
    telegram.says(GROUP, ANA, "@gate_bot general", json!({"message_thread_id": 1, "is_topic_message": true}));
    assert_eq!(telegram.wait_text(GROUP, "answer to general").thread, None);
    telegram.says(GROUP, ANA, "@gate_bot general again", json!({}));
}

#[test]
fn a_thread_of_replies_outside_a_forum_is_not_a_topic() {
    let telegram = Telegram::start();
    let _gateway = setup(&telegram).start();
    // Replies in ordinary supergroups carry a thread id too, which must not be sent back.
    telegram.says(GROUP, ANA, "@gate_bot echo: in a thread", json!({"message_thread_id": 900}));
    telegram.wait_text(GROUP, "in a thread");
}

#[test]
fn a_migrated_group_goes_on_under_its_new_id() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let (old, new) = (-4_001, -1_009_999_000_111);
    telegram.add_chat(old, "group", &[]);
    model.rule("remember apples", [model::text("apples it is")]);
    model.rule("and now", [model::text("still with you")]);
    let setup = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic);
    let gateway = setup.set("adapters.telegram", "allowed_chats", &format!("[\"{old}\"]")).start();
    telegram.says(old, ANA, "@gate_bot remember apples", json!({}));
    telegram.wait_text(old, "apples it is");
    telegram.migrate(old, new);
    telegram.says(new, ANA, "@gate_bot and now?", json!({}));
    telegram.wait_text(new, "still with you");
    gateway.wait_idle();
    assert!(model.wait_request(1, "and now").all().contains("remember apples"), "the conversation goes on");
}

#[test]
fn an_answer_to_a_group_that_just_migrated_arrives() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let (old, new) = (-4_002, -1_009_999_000_222);
    telegram.add_chat(old, "group", &[]);
    let gate = model::Gate::default();
    model.rule("long work", [model::Reply::Stream(vec![model::Step::Gate(gate.clone()), model::Step::Text("work is done".to_owned())])]);
    let _gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.says(old, ANA, "@gate_bot long work", json!({}));
    model.wait_request(1, "long work");
    telegram.migrate(old, new);
    gate.open();
    telegram.wait_text(new, "work is done");
}

#[test]
fn strangers_get_no_agent() {
    let telegram = Telegram::start();
    let gateway = setup(&telegram).start();
    for _ in 0..3 {
        telegram.user_says(STRANGER, "run: echo secret-$((6 * 7))");
    }
    telegram.says(GROUP, STRANGER, "@gate_bot echo: from a stranger", json!({}));
    telegram.says(GROUP, STRANGER, "/status@gate_bot", json!({}));
    telegram.user_says(ANA, "echo: barrier");
    telegram.wait_text(ANA, "barrier");
    telegram.wait_confirmed();
    gateway.wait_idle();
    assert!(telegram.texts(GROUP).is_empty(), "silence in a group: {:?}", telegram.texts(GROUP));
    let private = telegram.texts(STRANGER);
    assert!(private.len() <= 1, "at most one word about pairing, not one a message: {private:?}");
    assert!(!private.concat().contains("secret-42"));
}

#[test]
fn bots_and_channels_do_not_start_a_conversation() {
    let telegram = Telegram::start();
    let gateway = setup(&telegram).set("adapters.telegram", "allowed_users", "[\"*\"]").start();
    let bot = json!({"id": 99, "is_bot": true, "first_name": "Other", "username": "other_bot"});
    telegram.says(GROUP, ANA, "@gate_bot echo: bot to bot", json!({"from": bot}));
    let forwarded = json!({"is_automatic_forward": true, "sender_chat": {"id": -1_007, "type": "channel", "title": "News"}, "from": {"id": 777_000, "is_bot": false, "first_name": "Telegram"}});
    telegram.says(GROUP, ANA, "@gate_bot echo: channel post", forwarded);
    telegram.says(GROUP, ANA, "@gate_bot echo: a person", json!({}));
    telegram.wait_text(GROUP, "a person");
    gateway.wait_idle();
    assert_eq!(telegram.texts(GROUP), ["a person"]);
}

#[test]
fn everybody_may_talk_if_the_configuration_says_so() {
    let telegram = Telegram::start();
    let _gateway = setup(&telegram).set("adapters.telegram", "allowed_users", "[\"*\"]").start();
    telegram.user_says(STRANGER, "echo: welcome");
    telegram.wait_text(STRANGER, "welcome");
}

#[test]
fn a_chat_that_blocked_the_bot_harms_no_other() {
    let telegram = Telegram::start();
    let users = format!("[\"{ANA}\", \"{STRANGER}\"]");
    let gateway = setup(&telegram).set("adapters.telegram", "allowed_users", &users).start();
    telegram.user_says(STRANGER, "echo: you cannot see this");
    telegram.lock().chats.get_mut(&STRANGER).expect("the chat").blocked = true;
    telegram.user_says(ANA, "echo: unharmed");
    telegram.wait_text(ANA, "unharmed");
    gateway.wait_idle();
    assert_eq!(gateway.adapter("telegram")["state"], "connected");
    let tries =
        telegram.calls("sendMessage").iter().filter(|call| call.params["chat_id"].to_string().contains(&STRANGER.to_string())).count();
    assert!(tries <= 3, "a dead chat is not tried for ever: {tries}");
}
