//! Frames as WeCom documents them (AI bot, long connection), and what is made of them.

use crate::adapter::wecom::protocol::{Ack, FileRef, Incoming, Taken, push, read, stream, subscribe, understand, welcome};
use crate::adapter::wecom::{PLATFORM, Settings};
use crate::config::{AdapterConfig, Secret};
use crate::core::types::Quote;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

const GROUP: &str = r#"{"cmd":"aibot_msg_callback","headers":{"req_id":"REQ_cb_01"},"body":{"msgid":"CAIQz7/MjQYY/NGagIOAgAMgl8jK/gI=","aibotid":"BOTID","chatid":"wrkSFfCgAA…","chattype":"group","from":{"userid":"zhangsan"},"create_time":1792540800,"response_url":"https://qyapi.weixin.qq.com/cgi-bin/aibot/response?response_code=…","msgtype":"text","text":{"content":"@Gate hello"},
 "quote":{"msgtype":"text","text":{"content":"earlier"}}}}"#;
const ENTER: &str = r#"{"cmd":"aibot_event_callback","headers":{"req_id":"REQ_ev_01"},"body":{"msgid":"m","create_time":1792540801,"aibotid":"BOTID","from":{"userid":"zhangsan"},"chattype":"single","msgtype":"event","event":{"eventtype":"enter_chat"}}}"#;

fn taken(text: &str) -> Taken {
    match read(text) {
        Some(Incoming::Message { req_id, body }) => understand(&req_id, &body, "wecom", 7).expect("for us"),
        other => panic!("{other:?}"),
    }
}

/// A private message with this content.
fn private(content: Value) -> String {
    let mut body = json!({"msgid": "m1", "aibotid": "BOTID", "chattype": "single", "from": {"userid": "zhangsan"}});
    body.as_object_mut().expect("an object").extend(content.as_object().expect("an object").clone());
    json!({"cmd": "aibot_msg_callback", "headers": {"req_id": "REQ_cb_02"}, "body": body}).to_string()
}

#[test]
fn a_message_of_a_group() {
    let Taken { inbound, files } = taken(GROUP);
    assert_eq!((inbound.chat.chat.as_str(), inbound.message_id.as_str()), ("wrkSFfCgAA…", "CAIQz7/MjQYY/NGagIOAgAMgl8jK/gI="));
    assert_eq!((inbound.sender.as_str(), inbound.text.as_str(), inbound.sent_ms), ("zhangsan", "hello", 1_792_540_800_000));
    assert!(!inbound.private && inbound.addressed && files.is_empty());
    assert_eq!(inbound.quote, Some(Quote { message_id: String::new(), sender: None, text: "earlier".to_owned() }));
    // Older servers name the command so.
    assert_eq!(taken(&GROUP.replace("aibot_msg_callback", "aibot_callback")).inbound.text, "hello");
}

#[test]
fn the_mention_in_front_goes() {
    let check = |text: &str, expect: &str| {
        let frame = GROUP.replace("@Gate hello", text);
        assert_eq!(taken(&frame).inbound.text, expect, "{text}");
    };
    check("@Gate /status", "/status");
    check("@Gate\u{2005}hello", "hello");
    check("hello @Gate", "hello @Gate");
    check("@Gate", "@Gate");
    check("@Gate  ", "@Gate  ");
    check("a@b.example", "a@b.example");
    let alone = private(json!({"msgtype": "text", "text": {"content": "@Gate hello"}}));
    assert_eq!(taken(&alone).inbound.text, "@Gate hello", "only groups mention");
}

#[test]
fn a_private_chat_is_known_by_its_user() {
    let Taken { inbound, .. } = taken(&private(json!({"msgtype": "text", "text": {"content": "hi"}})));
    assert!(inbound.private);
    assert_eq!((inbound.chat.chat.as_str(), inbound.sent_ms), ("zhangsan", 7));
    // Ids as numbers, and a chat type that is missing.
    let odd = r#"{"cmd":"aibot_msg_callback","headers":{"req_id":5},"body":{"from":{"userid":12},"text":{"content":"hi"},"chattype":3}}"#;
    let Taken { inbound, .. } = taken(odd);
    assert_eq!((inbound.sender.as_str(), inbound.message_id.as_str(), inbound.private), ("12", "5", true));
}

#[test]
fn all_kinds_of_messages() {
    let file = |kind: &'static str, name: &str, media_type| FileRef {
        kind,
        url: "https://x.myqcloud.com/a".to_owned(),
        aeskey: Some("k".to_owned()),
        name: name.to_owned(),
        media_type,
    };
    let media = json!({"url": "https://x.myqcloud.com/a", "aeskey": "k"});
    let check = |content: Value, text: &str, files: Vec<FileRef>| {
        let found = taken(&private(content.clone()));
        assert_eq!((found.inbound.text.as_str(), found.files), (text, files), "{content}");
    };
    check(json!({"msgtype": "voice", "voice": {"content": "said aloud"}}), "said aloud", vec![]);
    check(json!({"msgtype": "image", "image": media}), "", vec![file("photo", "photo-1.jpg", Some("image/jpeg"))]);
    check(json!({"msgtype": "file", "file": media}), "", vec![file("document", "file-1", None)]);
    check(json!({"msgtype": "video", "video": media}), "", vec![file("video", "video-1.mp4", Some("video/mp4"))]);
    let mixed = json!({"msgtype": "mixed", "mixed": {"msg_item": [
        {"msgtype": "text", "text": {"content": "look:"}}, {"msgtype": "image", "image": media}, 7, {"msgtype": "image", "image": media},
        {"msgtype": "text", "text": {"content": "well?"}}]}});
    let two = vec![file("photo", "photo-1.jpg", Some("image/jpeg")), file("photo", "photo-2.jpg", Some("image/jpeg"))];
    check(mixed.clone(), "look:\nwell?", two);
    check(json!({"msgtype": "location", "location": {}}), "(a message of the kind \"location\", which cannot be read here)", vec![]);
    let quoted = taken(&private(json!({"msgtype": "text", "text": {"content": "this"}, "quote": mixed})));
    assert_eq!(quoted.inbound.quote.expect("a quote").text, "look:\nwell?\n(photo)\n(photo)");
}

#[test]
fn what_cannot_be_answered_is_passed_over() {
    let check = |text: &str, expect: &str| match read(text) {
        Some(Incoming::Message { req_id, body }) => assert_eq!(understand(&req_id, &body, "wecom", 7).expect_err("not for us"), expect),
        other => panic!("{other:?}"),
    };
    check(r#"{"cmd":"aibot_msg_callback"}"#, "without a sender");
    check(r#"{"cmd":"aibot_msg_callback","body":{"from":{"userid":"a"},"chattype":"group"}}"#, "in a group without an id");
    check(r#"{"cmd":"aibot_msg_callback","body":{"from":{"userid":"a"}}}"#, "without an id");
    check(&private(json!({"msgtype": "text", "text": {"content": "  "}})), "without anything in it");
    check(&private(json!({"msgtype": "image", "image": {"url": 5}})), "without anything in it");
}

#[test]
fn answers_and_events() {
    let check = |text: &str, expect: &str| {
        let read = read(text);
        let found = match &read {
            Some(Incoming::Ack { req_id, ack }) => format!("ack {req_id} {ack}"),
            Some(Incoming::Event { req_id, kind, .. }) => format!("event {req_id} {kind}"),
            other => format!("{other:?}"),
        };
        assert_eq!(found, expect, "{text}");
    };
    check(r#"{"headers":{"req_id":"REQ_cb_01"},"errcode":0,"errmsg":"ok"}"#, "ack REQ_cb_01 ok (errcode 0)");
    check(r#"{"headers":{"req_id":"a"},"errcode":"846605","errmsg":"invalid\nreq_id"}"#, "ack a invalid req_id (errcode 846605)");
    check(r#"{"headers":{"req_id":"ping_1"}}"#, "ack ping_1 without a reason (errcode 0)");
    check(ENTER, "event REQ_ev_01 enter_chat");
    check(r#"{"cmd":"aibot_event_callback","body":{"event":{"eventtype":{}}}}"#, "event  ");
    check(r#"{"cmd":"aibot_something"}"#, "Some(Unknown(\"aibot_something\"))");
    check("{}", "Some(Unknown(\"neither command nor answer\"))");
    check("[]", "None");
    check("garbage", "None");
    check("", "None");
}

#[test]
fn control_characters_do_not_cost_a_message() {
    let text = private(json!({"msgtype": "text", "text": {"content": "hello there"}}));
    assert_eq!(taken(&text.replace("hello", "hel\u{1}\u{0}\u{1f}lo")).inbound.text, "hello there");
    assert_eq!(taken(&text.replace(' ', "\n")).inbound.text, "hellothere");
    assert_eq!(taken(&text.replace(' ', "\\n")).inbound.text, "hello\nthere");
}

#[test]
fn frames_that_are_sent() {
    let check = |text: String, expect: Value| assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), expect);
    check(
        subscribe("aibot_subscribe_1792540800123_a1b2c3d4", "BOTID", "SECRET"),
        json!({"cmd":"aibot_subscribe","headers":{"req_id":"aibot_subscribe_1792540800123_a1b2c3d4"},"body":{"bot_id":"BOTID","secret":"SECRET"}}),
    );
    check(
        stream("REQ_cb_01", "stream_1792540802_x1", "thinking…", false),
        json!({"cmd":"aibot_respond_msg","headers":{"req_id":"REQ_cb_01"},"body":{"msgtype":"stream","stream":{"id":"stream_1792540802_x1","finish":false,"content":"thinking…"}}}),
    );
    check(
        push("aibot_send_msg_1", "zhangsan", "**hi**"),
        json!({"cmd":"aibot_send_msg","headers":{"req_id":"aibot_send_msg_1"},"body":{"chatid":"zhangsan","msgtype":"markdown","markdown":{"content":"**hi**"}}}),
    );
    check(
        welcome("REQ_ev_01", "hi"),
        json!({"cmd":"aibot_respond_welcome_msg","headers":{"req_id":"REQ_ev_01"},"body":{"msgtype":"text","text":{"content":"hi"}}}),
    );
}

#[test]
fn addresses_of_files_are_not_for_logs() {
    let found = taken(&private(json!({"msgtype": "image", "image": {"url": "https://x.myqcloud.com/a?sign=SIGNATURE", "aeskey": "KEY"}})));
    let shown = format!("{:?}", found.files);
    assert!(!shown.contains("SIGNATURE") && !shown.contains("KEY"), "{shown}");
    assert_eq!(Ack { code: 6000, message: "data version conflict".to_owned() }.to_string(), "data version conflict (errcode 6000)");
}

fn config(keys: &[(&str, &str)]) -> AdapterConfig {
    AdapterConfig {
        name: "wecom".to_owned(),
        platform: "wecom".to_owned(),
        enabled: true,
        allowed_users: vec!["zhangsan".to_owned()],
        allowed_chats: vec![],
        admins: vec![],
        group_mention: true,
        streaming: true,
        keys: keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        secrets: [("secret".to_owned(), Secret::new("SECRET".to_owned()))].into_iter().collect(),
    }
}

#[test]
fn settings_are_read_or_refused_with_a_reason() {
    let read = |keys: &[(&str, &str)]| Settings::read(&config(keys));
    let plain = read(&[("bot_id", " BOTID ")]).expect("fine");
    assert_eq!((plain.bot_id.as_str(), plain.host.as_str()), ("BOTID", "openws.work.weixin.qq.com"));
    assert_eq!((plain.heartbeat, plain.welcome.is_none()), (Duration::from_secs(30), true));
    assert!(plain.knows("zhangsan") && !plain.knows("lisi"));
    let check = |keys: &[(&str, &str)], expect: &str| {
        let error = read(keys).expect_err("refused");
        assert!(error.contains(expect), "{error}");
    };
    check(&[], "no `bot_id`");
    check(&[("bot_id", "B"), ("heartbeat", "0s")], "1s to 60s");
    check(&[("bot_id", "B"), ("heartbeat", "61s")], "1s to 60s");
    check(&[("bot_id", "B"), ("url", "nonsense")], "`url`");
    let mut without = config(&[("bot_id", "B")]);
    without.secrets.clear();
    assert!(Settings::read(&without).expect_err("refused").contains("no `secret`"));
    let shown = format!("{:?}", read(&[("bot_id", "B")]).expect("fine"));
    assert!(!shown.contains("SECRET"), "{shown}");
    assert!((PLATFORM.build)(&config(&[("bot_id", "B")])).is_ok());
}

proptest! {
    #[test]
    fn any_text_is_looked_at(text in ".*") {
        let _ = read(&text);
    }

    #[test]
    fn a_frame_that_is_cut_or_changed_never_panics(end in 0_usize..700, at in 0_usize..700, with in ".{0,3}") {
        let mut text: String = GROUP.chars().take(end).collect();
        let _ = read(&text);
        text = GROUP.chars().take(at).chain(with.chars()).chain(GROUP.chars().skip(at + 1)).collect();
        if let Some(Incoming::Message { req_id, body }) = read(&text) {
            let _ = understand(&req_id, &body, "wecom", 7);
        }
    }

    #[test]
    fn whatever_is_said_arrives_as_it_is(text in "[^@\\s].{0,200}") {
        let frame = GROUP.replace("@Gate hello", "HERE");
        let frame = frame.replace("\"HERE\"", &Value::from(text.clone()).to_string());
        prop_assert_eq!(taken(&frame).inbound.text, text);
    }
}
