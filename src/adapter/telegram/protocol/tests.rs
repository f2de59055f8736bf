//! Tests of what updates mean: the examples of the Bot API, the gate of groups, and input that makes no sense.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn me() -> Me {
    Me { id: 123_456, username: "gate_bot".to_owned() }
}

fn meaning(update: Value) -> Meaning {
    understand(update, "telegram", &me(), 1_000).meaning
}

fn taken(update: Value) -> Taken {
    match meaning(update.clone()) {
        Meaning::Message(taken) => *taken,
        other => panic!("{other:?} from {update}"),
    }
}

fn ignored(update: Value) -> &'static str {
    match meaning(update.clone()) {
        Meaning::Ignored(reason) => reason,
        other => panic!("{other:?} from {update}"),
    }
}

/// A message with the given fields changed or added.
fn message(fields: Value) -> Value {
    let mut message = json!({
        "message_id": 41, "from": {"id": 77001, "is_bot": false, "first_name": "Ana"},
        "chat": {"id": 77001, "type": "private"}, "date": 1_792_540_800, "text": "hello",
    });
    merge(&mut message, fields);
    json!({"update_id": 7, "message": message})
}

fn group(fields: Value) -> Value {
    let mut update = message(json!({"chat": {"id": -1_001_234_567_890_i64, "title": "Ops", "type": "supergroup"}}));
    merge(&mut update["message"], fields);
    update
}

fn merge(target: &mut Value, fields: Value) {
    for (name, value) in fields.as_object().expect("fields") {
        target[name] = value.clone();
    }
}

#[test]
fn a_private_text() {
    let update = json!({"update_id":872001345,"message":{"message_id":41,"from":{"id":77001,"is_bot":false,"first_name":"Ana","last_name":"Li",
        "username":"ana","language_code":"en"},"chat":{"id":77001,"first_name":"Ana","last_name":"Li","username":"ana","type":"private"},
        "date":1792540800,"text":"/start hello @gate_bot",
        "entities":[{"type":"bot_command","offset":0,"length":6},{"type":"mention","offset":13,"length":9}]}});
    assert_eq!(update_id(&update), Some(872_001_345));
    let expect = Inbound {
        chat: ChatRef { adapter: "telegram".to_owned(), chat: "77001".to_owned(), thread: None },
        message_id: "41".to_owned(),
        sender: "77001".to_owned(),
        sender_name: "Ana Li".to_owned(),
        text: "/start hello".to_owned(),
        attachments: vec![],
        quote: None,
        private: true,
        addressed: true,
        sent_ms: 1_792_540_800_000,
    };
    assert_eq!(taken(update), Taken { inbound: expect, files: vec![] });
}

#[test]
fn a_topic_with_a_reply_and_a_photo() {
    let update = json!({"update_id":872001346,"message":{"message_id":908,"message_thread_id":12,"is_topic_message":true,
        "from":{"id":77001,"is_bot":false,"first_name":"Ana","username":"ana"},
        "chat":{"id":-1001234567890_i64,"title":"Ops","is_forum":true,"type":"supergroup"},"date":1792540811,
        "reply_to_message":{"message_id":900,"from":{"id":123456,"is_bot":true,"first_name":"Gate","username":"gate_bot"},
            "chat":{"id":-1001234567890_i64,"title":"Ops","type":"supergroup"},"date":1792540700,"text":"earlier answer"},
        "photo":[{"file_id":"AgACAgIAAxkB…","file_unique_id":"AQADx","width":90,"height":67,"file_size":1253},
            {"file_id":"AgACAgIAAxkC…","file_unique_id":"AQADy","width":1280,"height":960,"file_size":181233}],
        "caption":"@gate_bot what is this?","caption_entities":[{"type":"mention","offset":0,"length":9}]}});
    let Taken { inbound, files } = taken(update);
    assert_eq!(inbound.chat, ChatRef { adapter: "telegram".into(), chat: "-1001234567890".into(), thread: Some("12".into()) });
    assert_eq!((inbound.text.as_str(), inbound.private, inbound.addressed), ("what is this?", false, true));
    let quote = Quote { message_id: "900".into(), sender: Some("Gate".into()), text: "earlier answer".into() };
    assert_eq!(inbound.quote, Some(quote));
    let photo = FileRef {
        id: "AgACAgIAAxkC…".into(),
        kind: "photo",
        name: "photo-908.jpg".into(),
        media_type: Some("image/jpeg".into()),
        bytes: Some(181_233),
    };
    assert_eq!(files, [photo]);
}

#[test]
fn a_button() {
    let update = json!({"update_id": 1, "callback_query": {"id": "4382", "from": {"id": 77001, "is_bot": false, "first_name": "Ana"},
        "message": {"message_id": 909, "from": {"id": 123_456, "is_bot": true}, "chat": {"id": -5, "type": "group"}, "date": 5, "text": "?"},
        "chat_instance": "1", "data": "/approve 17"}});
    let understood = understand(update.clone(), "telegram", &me(), 1_000);
    assert_eq!(understood.callback.as_deref(), Some("4382"));
    let Taken { inbound, .. } = taken(update.clone());
    assert_eq!((inbound.text.as_str(), inbound.sender.as_str(), inbound.addressed), ("/approve 17", "77001", true));
    assert_eq!((inbound.message_id.as_str(), message_number(&inbound.message_id)), ("909/callback/4382", Some(909)));
    assert_eq!((inbound.sent_ms, inbound.quote), (1_000, None));
    // One that cannot be used must still be answered.
    for field in ["message", "data", "from"] {
        let mut odd = update.clone();
        odd["callback_query"][field] = json!(5);
        let understood = understand(odd, "telegram", &me(), 0);
        assert!(matches!(understood.meaning, Meaning::Ignored(_)) && understood.callback.is_some(), "{field}");
    }
}

#[test]
fn an_edit_is_another_message() {
    let mut update = message(json!({"edit_date": 1_792_540_900, "text": "better"}));
    update["edited_message"] = update["message"].take();
    let Taken { inbound, .. } = taken(update);
    assert_eq!((inbound.message_id.as_str(), inbound.text.as_str()), ("41/edit/1792540900", "(edited) better"));
    assert_eq!((inbound.sent_ms, message_number(&inbound.message_id)), (1_792_540_900_000, Some(41)));
}

#[test]
fn news_of_chats() {
    let moved = |old: &str, new: &str| Meaning::Moved { old: old.to_owned(), new: new.to_owned() };
    let update = json!({"update_id": 1, "message": {"message_id": 1, "chat": {"id": -42, "type": "group"}, "date": 1,
        "from": {"id": 5, "is_bot": false}, "migrate_to_chat_id": -1_001_234_567_890_i64}});
    assert_eq!(meaning(update), moved("-42", "-1001234567890"));
    assert_eq!(meaning(group(json!({"migrate_from_chat_id": -42}))), moved("-42", "-1001234567890"));
    let update = json!({"update_id": 1, "my_chat_member": {"chat": {"id": -42, "title": "Ops", "type": "group"}, "from": {"id": 5}, "date": 1,
        "old_chat_member": {"status": "member"}, "new_chat_member": {"status": "kicked"}}});
    assert_eq!(meaning(update), Meaning::Member { chat: "-42 \"Ops\"".into(), change: "member → kicked by 5".into() });
}

#[test]
fn the_gate_of_a_group() {
    let mention = json!([{"type": "mention", "offset": 0, "length": 9}]);
    let command = |length: u64| json!([{"type": "bot_command", "offset": 0, "length": length}]);
    let check = |fields: Value, addressed: bool| assert_eq!(taken(group(fields.clone())).inbound.addressed, addressed, "{fields}");
    check(json!({"text": "hello all"}), false);
    check(json!({"text": "@gate_bot hello", "entities": mention}), true);
    check(json!({"text": "@Gate_Bot hello", "entities": mention}), true);
    check(json!({"text": "@gate_bot hello"}), false);
    check(json!({"text": "@else_bot hello", "entities": mention}), false);
    check(json!({"text": "/new", "entities": command(4)}), true);
    check(json!({"text": "/new@gate_bot", "entities": command(13)}), true);
    check(json!({"text": "/new@else_bot", "entities": command(13)}), false);
    check(json!({"text": "Gate hi", "entities": [{"type": "text_mention", "offset": 0, "length": 4, "user": {"id": 123_456}}]}), true);
    check(json!({"text": "Gate hi", "entities": [{"type": "text_mention", "offset": 0, "length": 4, "user": {"id": 9}}]}), false);
    check(json!({"reply_to_message": {"message_id": 5, "from": {"id": 123_456}}}), true);
    check(json!({"reply_to_message": {"message_id": 5, "from": {"id": 9}}}), false);
    check(json!({"text": null, "caption": "@gate_bot", "caption_entities": mention, "document": {"file_id": "x"}}), true);
    check(json!({"text": "hello", "caption_entities": mention}), false);
}

#[test]
fn the_opening_of_a_topic_is_not_answered_by_all_its_messages() {
    let root = json!({"message_id": 12, "from": {"id": 123_456, "is_bot": true}, "forum_topic_created": {"name": "x"}});
    let inbound = taken(group(json!({"message_thread_id": 12, "is_topic_message": true, "reply_to_message": root}))).inbound;
    assert_eq!((inbound.addressed, inbound.quote), (false, None));
    let bare = json!({"message_id": 12, "from": {"id": 123_456, "is_bot": true}});
    assert!(!taken(group(json!({"message_thread_id": 12, "is_topic_message": true, "reply_to_message": bare}))).inbound.addressed);
    // Without topics the field says where a chain of replies began.
    let inbound = taken(group(json!({"message_thread_id": 12, "reply_to_message": bare}))).inbound;
    assert_eq!((inbound.addressed, inbound.chat.thread), (true, None));
}

#[test]
fn who_is_not_listened_to() {
    ignored(message(json!({"from": {"id": 9, "is_bot": true}})));
    ignored(message(json!({"from": {"id": 123_456, "is_bot": false}})));
    ignored(message(json!({"via_bot": {"id": 123_456, "is_bot": true}})));
    ignored(message(json!({"from": null})));
    ignored(message(json!({"from": {"id": "me"}})));
    ignored(message(json!({"chat": {"id": -5, "type": "channel"}})));
    ignored(message(json!({"chat": {"type": "private"}})));
    ignored(message(json!({"message_id": null})));
    ignored(group(json!({"sender_chat": {"id": -5}, "from": {"id": 1_087_968_824, "is_bot": true}})));
    ignored(group(json!({"is_automatic_forward": true})));
    ignored(group(json!({"text": null, "new_chat_members": [{"id": 5}]})));
    ignored(json!({"update_id": 1, "channel_post": {"message_id": 1}}));
    ignored(json!({"update_id": 1, "message": "x"}));
    ignored(json!({"update_id": 1}));
    ignored(json!([1]));
    // Another bot's inline result is the words of the one who chose it.
    taken(message(json!({"via_bot": {"id": 9, "is_bot": true}})));
}

#[test]
fn ids_have_more_than_32_bits() {
    let big = (1_i64 << 52) - 1;
    let inbound = taken(message(json!({"from": {"id": big, "first_name": "A"}, "chat": {"id": big, "type": "private"}}))).inbound;
    assert_eq!((inbound.sender, inbound.chat.chat), (big.to_string(), big.to_string()));
    let inbound = taken(group(json!({"chat": {"id": -1_009_999_999_999_i64, "type": "supergroup"}}))).inbound;
    assert_eq!(inbound.chat.chat, "-1009999999999");
    let inbound = taken(message(json!({"from": {"id": "77001"}, "chat": {"id": 77001.0, "type": "private"}}))).inbound;
    assert_eq!((inbound.sender.as_str(), inbound.chat.chat.as_str()), ("77001", "77001"));
}

#[test]
fn files_of_all_kinds() {
    let check = |fields: Value, expect: &[(&str, &str, Option<&str>)]| {
        let files = taken(message(fields.clone())).files;
        let found: Vec<_> = files.iter().map(|file| (file.kind, file.name.as_str(), file.media_type.as_deref())).collect();
        assert_eq!(found, expect, "{fields}");
    };
    check(
        json!({"document": {"file_id": "x", "file_name": "a.pdf", "mime_type": "application/pdf"}}),
        &[("document", "a.pdf", Some("application/pdf"))],
    );
    check(json!({"document": {"file_id": "x"}}), &[("document", "document-41", None)]);
    check(json!({"document": {"file_name": "a.pdf"}}), &[]);
    check(json!({"voice": {"file_id": "x", "duration": 3}}), &[("voice", "voice-41.ogg", Some("audio/ogg"))]);
    check(json!({"audio": {"file_id": "x", "file_name": "s.mp3", "mime_type": "audio/mpeg"}}), &[("audio", "s.mp3", Some("audio/mpeg"))]);
    check(json!({"video": {"file_id": "x", "file_size": "wrong"}}), &[("video", "video-41.mp4", Some("video/mp4"))]);
    check(json!({"video_note": {"file_id": "x"}}), &[("video_note", "video_note-41.mp4", Some("video/mp4"))]);
    check(json!({"animation": {"file_id": "x"}, "document": {"file_id": "x"}}), &[("animation", "animation-41.mp4", Some("video/mp4"))]);
    check(json!({"sticker": {"file_id": "x", "emoji": "😀"}}), &[("sticker", "sticker-41.webp", Some("image/webp"))]);
    check(json!({"photo": [{"file_id": "a"}, 7, {"file_id": "b"}]}), &[("photo", "photo-41.jpg", Some("image/jpeg"))]);
    check(json!({"photo": []}), &[]);
}

#[test]
fn what_is_no_file_is_told_in_words() {
    let check = |fields: Value, expect: &str| {
        let mut update = message(json!({"text": null}));
        merge(&mut update["message"], fields);
        assert_eq!(taken(update).inbound.text, expect);
    };
    check(json!({"location": {"latitude": 52.52, "longitude": 13.405}}), "(location: 52.520000, 13.405000)");
    check(
        json!({"venue": {"title": "Café", "address": "Main St 1"}, "location": {"latitude": 1, "longitude": 2}}),
        "(place: Café, Main St 1)\n(location: 1.000000, 2.000000)",
    );
    check(json!({"contact": {"first_name": "Bo", "phone_number": "+49123"}}), "(contact: Bo, +49123)");
    check(json!({"sticker": {"file_id": "x", "emoji": "🎉", "is_animated": true}}), "(sticker 🎉)");
    let quote = taken(message(json!({"reply_to_message": {"message_id": 5, "photo": [{"file_id": "x"}]}}))).inbound.quote.expect("quote");
    assert_eq!((quote.text.as_str(), quote.sender), ("(photo)", None));
    let fields = json!({"reply_to_message": {"message_id": 5, "text": "long text"}, "quote": {"text": "long"}});
    assert_eq!(taken(message(fields)).inbound.quote.expect("quote").text, "long");
    let mut moving = message(json!({"text": null, "location": {"latitude": 1, "longitude": 2}}));
    moving["edited_message"] = moving["message"].take();
    ignored(moving);
}

#[test]
fn a_bare_mention_is_kept() {
    let update = group(json!({"text": "@gate_bot", "entities": [{"type": "mention", "offset": 0, "length": 9}]}));
    assert_eq!(taken(update).inbound.text, "@gate_bot");
}

#[test]
fn long_texts_are_cut_and_say_so() {
    let text = taken(message(json!({"text": "ä".repeat(limits::INBOUND_TEXT_BYTES_MAX)}))).inbound.text;
    assert!(text.len() < limits::INBOUND_TEXT_BYTES_MAX + 30 && text.ends_with("ä\n[cut: too long]"));
}

/// Any JSON value, and objects that have the names of the protocol.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-10_i64..30).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        prop_oneof![Just("private"), Just("group"), Just("mention"), Just("bot_command"), Just("@gate_bot 😀")].prop_map(Value::from),
    ];
    let names = "update_id|message|edited_message|callback_query|my_chat_member|message_id|message_thread_id|is_topic_message|from|chat|id\
        |type|date|edit_date|text|caption|entities|caption_entities|offset|length|user|reply_to_message|quote|photo|document|voice|sticker|file_id\
        |file_size|location|latitude|contact|migrate_to_chat_id|data|is_bot|username|first_name|old_chat_member|status|emoji";
    leaf.prop_recursive(6, 120, 12, move |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            4 => proptest::collection::hash_map(names, inner, 0..12).prop_map(|fields| fields.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_makes_it_panic(update in any_json()) {
        update_id(&update);
        understand(update, "telegram", &me(), 0);
    }

    /// One field of the wrong type never costs more than itself, or at the most the message.
    #[test]
    fn wrong_types_are_harmless(field in "from|chat|date|text|entities|photo|reply_to_message|quote|document|sticker|location|caption|edit_date", odd in any_json()) {
        let update = group(json!({"text": "@gate_bot 😀", "entities": [{"type": "mention", "offset": 0, "length": 9}]}));
        for name in ["message", "edited_message"] {
            let mut update = json!({"update_id": 1, name: update["message"].clone()});
            update[name][&field] = odd.clone();
            if let Meaning::Message(taken) = meaning(update) {
                prop_assert_eq!(taken.inbound.chat.adapter, "telegram");
            }
        }
    }
}
