//! Events as the platform sends them, and as it might.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn me() -> Me {
    Me { open_id: "ou_botopenid".to_owned(), name: "Gate".to_owned() }
}

/// The sample of the platform's documentation.
const SAMPLE: &str = r#"{"schema":"2.0",
 "header":{"event_id":"5e3702a84e847582be8db7fb73283c02","token":"","create_time":"1792540800123","event_type":"im.message.receive_v1","tenant_key":"736588c9260f175e","app_id":"cli_a1b2c3"},
 "event":{
  "sender":{"sender_id":{"union_id":"on_8ed6aa67826108097d9ee143816345","user_id":"e33ggbyz","open_id":"ou_84aad35d084aa403a838cf73ee18467"},"sender_type":"user","tenant_key":"736588c9260f175e"},
  "message":{"message_id":"om_5ce6d572455d361153b7cb51da133945","root_id":"om_5ce6d572455d361153b7cb5xxfsdfsdfdsf","parent_id":"om_5ce6d572455d361153b7cb5xxfsdfsdfdsf",
   "create_time":"1792540800000","update_time":"1792540800000","chat_id":"oc_5ce6d572455d361153b7xx51da133945","thread_id":"omt_d4be107c616","chat_type":"group","message_type":"text",
   "content":"{\"text\":\"@_user_1 summarise this\"}",
   "mentions":[{"key":"@_user_1","id":{"union_id":"on_bot","user_id":"","open_id":"ou_botopenid"},"mentioned_type":"bot","name":"Gate","tenant_key":"736588c9260f175e"}],
   "user_agent":"Mozilla/5.0 …"}}}"#;

fn read(value: &Value) -> Meaning {
    understand(value.to_string().as_bytes(), "feishu", &me(), 99)
}

fn sample() -> Value {
    serde_json::from_str(SAMPLE).expect("the sample is JSON")
}

/// The sample with a field changed; `null` takes it out.
fn with(pointer: &str, value: Value) -> Value {
    let mut sample = sample();
    *sample.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is in the sample")) = value;
    sample
}

fn message(value: &Value) -> Taken {
    match read(value) {
        Meaning::Message(taken) => *taken,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_documented_message_is_understood() {
    let Taken { inbound, files, memos } = message(&sample());
    let chat = ChatRef {
        adapter: "feishu".to_owned(),
        chat: "oc_5ce6d572455d361153b7xx51da133945".to_owned(),
        thread: Some("omt_d4be107c616".to_owned()),
    };
    assert_eq!(inbound.chat, chat);
    assert_eq!(inbound.message_id, "om_5ce6d572455d361153b7cb51da133945");
    assert_eq!(inbound.sender, "ou_84aad35d084aa403a838cf73ee18467");
    assert_eq!((inbound.text.as_str(), inbound.sent_ms), ("summarise this", 1_792_540_800_000));
    assert_eq!((inbound.private, inbound.addressed, files.len()), (false, true, 0));
    assert_eq!(memos.len(), 1);
    assert_eq!(memos[0].key, Last::key(&chat));
    let last = Last::read(memos[0].value.as_deref().expect("a value")).expect("readable");
    assert_eq!(last, Last { message: inbound.message_id, private: false });
}

#[test]
fn in_groups_only_our_own_mention_counts() {
    let mentions = |value| message(&with("/event/message/mentions", value)).inbound.addressed;
    assert!(!mentions(json!([])));
    assert!(!mentions(json!([{"key": "@_user_1", "id": {"open_id": "ou_other"}, "name": "Gate"}])));
    assert!(!mentions(json!([{"key": "@_all", "id": {"open_id": "", "user_id": "", "union_id": ""}, "name": "All"}])));
    assert!(mentions(json!([7, {"key": "@_user_1", "id": "odd", "name": "Gate"}])));
    let mut private = with("/event/message/mentions", json!([]));
    private["event"]["message"]["chat_type"] = json!("p2p");
    assert!(message(&private).inbound.private && message(&private).inbound.addressed);
}

#[test]
fn what_is_not_for_us_is_ignored() {
    for (pointer, value) in [
        ("/event/sender/sender_type", json!("app")),
        ("/event/sender/sender_type", json!("bot")),
        ("/event/sender/sender_id/open_id", json!("ou_botopenid")),
        ("/event/sender/sender_id", json!({})),
        ("/event/message/message_id", json!("../../etc")),
        ("/event/message/message_id", json!(null)),
        ("/event/message/chat_id", json!("")),
        ("/event/message", json!([])),
        ("/event", json!(7)),
        ("/header/event_type", json!("im.message.recalled_v1")),
        ("/header/event_type", json!("im.message.reaction.created_v1")),
        ("/header/event_type", json!(7)),
        ("/header", json!(null)),
    ] {
        let meaning = read(&with(pointer, value.clone()));
        assert!(matches!(meaning, Meaning::Ignored(_)), "{pointer} {value}: {meaning:?}");
    }
    // An event of the first schema.
    let old = json!({"uuid": "41b5f371157e3d5341b38b20396e77e3", "token": "", "ts": "1550038209.428520", "type": "event_callback", "event": {"type": "message"}});
    assert!(matches!(read(&old), Meaning::Ignored(_)));
    assert!(matches!(read(&json!([])), Meaning::Ignored(_)));
    assert_eq!(understand(b"{\"schema\":", "feishu", &me(), 0), Meaning::Unreadable);
    let added =
        json!({"schema": "2.0", "header": {"event_type": "im.chat.member.bot.added_v1"}, "event": {"chat_id": "oc_1", "name": "Ops\n"}});
    assert_eq!(read(&added), Meaning::News("the bot was added to the chat oc_1 \"Ops\"".to_owned()));
}

#[test]
fn odd_fields_cost_nothing_but_themselves() {
    let mut odd = sample();
    odd["event"]["message"]["create_time"] = json!({});
    odd["event"]["message"]["thread_id"] = json!(7);
    odd["event"]["sender"]["tenant_key"] = json!([]);
    odd["event"]["sender"]["sender_id"]["user_id"] = json!(0);
    let taken = message(&odd);
    assert_eq!((taken.inbound.sent_ms, taken.inbound.chat.thread.as_deref()), (1_792_540_800_123, None));
    // A bare mention is a message all the same.
    assert_eq!(message(&with("/event/message/content", json!("{\"text\":\"@_user_1\"}"))).inbound.text, "@Gate");
}

#[test]
fn a_press_is_a_command_of_the_one_who_pressed() {
    let press = json!({"schema": "2.0", "header": {"event_id": "f7984f25108f8137722bb63c", "create_time": "1603977298000000", "event_type": "card.action.trigger"},
        "event": {"operator": {"tenant_key": "7", "open_id": "ou_ana"}, "token": "c-1", "host": "im_message",
            "action": {"value": {"command": "/approve 3", "thread": "omt_1", "private": false}, "tag": "button"},
            "context": {"url": "", "preview_token": "", "open_message_id": "om_card", "open_chat_id": "oc_1"}}});
    let inbound = message(&press).inbound;
    assert_eq!((inbound.text.as_str(), inbound.sender.as_str()), ("/approve 3", "ou_ana"));
    assert_eq!(inbound.message_id, "om_card/press/f7984f25108f8137722bb63c");
    assert_eq!((inbound.chat.thread.as_deref(), inbound.sent_ms, inbound.addressed), (Some("omt_1"), 1_603_977_298_000, true));
    assert_eq!(message_of(&inbound.message_id), Some("om_card"));
    assert_eq!(message_of("a b/c"), None);
}

proptest! {
    #[test]
    fn no_event_is_a_panic(text in ".{0,200}", pointer in 0_usize..8) {
        let pointers = ["/event/message/content", "/event/message/mentions", "/event/message/message_type", "/event/sender", "/header", "/event", "/event/message/chat_id", "/event/message/message_id"];
        let _ = read(&with(pointers[pointer], json!(text)));
        let _ = understand(text.as_bytes(), "feishu", &me(), 0);
        let _ = Last::read(&text);
    }
}
