//! Tests of the pure parts: messages, keys of files, the configuration.

use super::outlet::{PART_UTF16, rendered, split_rendered};
use super::protocol::{FileRef, Key, Place, Taken, key, outgoing, understand};
use super::wire::{Message, Updates};
use super::{BASE_URL, CDN_URL, Settings, Shared};
use crate::config::{AdapterConfig, Secret};
use crate::core::types::{Memo, Quote};
use crate::limits;
use crate::text::plain::plain;
use crate::text::split::Unit;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

/// An answer to `getupdates` as the server gives it.
const SAMPLE: &str = r#"{"ret":0,"msgs":[{"seq":17,"message_id":7450012345678901234,"from_user_id":"o9cq8abc@im.wechat","to_user_id":"abc123@im.bot","client_id":"","create_time_ms":1792540800123,"update_time_ms":1792540800123,"session_id":"s-1","group_id":"","message_type":1,"message_state":2,
 "item_list":[{"type":1,"create_time_ms":1792540800123,"is_completed":true,"msg_id":"m1","text_item":{"text":"hello"}}],"context_token":"AARzJWAF"}],
 "get_updates_buf":"CgkIARDxbase64","longpolling_timeout_ms":35000}"#;

fn read(message: Value) -> Result<Taken, &'static str> {
    understand(serde_json::from_value(message).unwrap_or_default(), "weixin", Some("abc123@im.bot"), 5)
}

/// A user's message with these items.
fn with(items: Value) -> Taken {
    read(json!({"message_id": 9, "from_user_id": "ana@im.wechat", "message_type": 1, "item_list": items})).expect("a message")
}

#[test]
fn the_sample_is_understood() {
    let updates: Updates = serde_json::from_str(SAMPLE).expect("reads");
    assert_eq!(updates.get_updates_buf.as_deref(), Some("CgkIARDxbase64"));
    assert_eq!(updates.longpolling_timeout_ms, Some(35_000));
    let [message] = <[Message; 1]>::try_from(updates.msgs).expect("one message");
    let taken = understand(message, "weixin", Some("abc123@im.bot"), 5).expect("a message");
    assert_eq!(taken.inbound.chat.session(), "weixin:o9cq8abc@im.wechat");
    assert_eq!((taken.inbound.message_id.as_str(), taken.inbound.text.as_str()), ("7450012345678901234", "hello"));
    assert_eq!((taken.inbound.sender.as_str(), taken.inbound.sender_name.as_str()), ("o9cq8abc@im.wechat", "o9cq8abc"));
    assert!(taken.inbound.private && taken.inbound.addressed);
    assert_eq!(taken.inbound.sent_ms, 1_792_540_800_123);
    assert_eq!(taken.memos, [Memo::new("context/o9cq8abc@im.wechat", "AARzJWAF")]);
    assert!(taken.files.is_empty() && taken.inbound.quote.is_none());
}

#[test]
fn ids_up_to_two_to_the_64_are_exact() {
    let id = |id: Value| {
        let message = json!({"message_id": id, "seq": 3, "from_user_id": "ana@im.wechat", "create_time_ms": 7, "item_list": [{"type": 1, "text_item": {"text": "x"}}]});
        read(message).expect("a message").inbound.message_id
    };
    assert_eq!(id(json!(u64::MAX)), "18446744073709551615");
    assert_eq!(id(json!((1_u64 << 63) + 1)), "9223372036854775809");
    assert_eq!(id(json!("9223372036854775809")), "9223372036854775809");
    for odd in [json!(null), json!(1.5e19), json!([]), json!(0), json!("")] {
        assert_eq!(id(odd), "ana@im.wechat/7/3", "what is not exact is no id");
    }
}

#[test]
fn what_is_not_for_us() {
    let check = |change: Value, expect: &str| {
        let mut message = json!({"message_id": 1, "from_user_id": "ana@im.wechat", "message_type": 1, "item_list": [{"type": 1, "text_item": {"text": "x"}}]});
        change.as_object().expect("fields").iter().for_each(|(key, value)| message[key.as_str()] = value.clone());
        assert_eq!(read(message).err(), Some(expect), "{change}");
    };
    check(json!({"message_type": 2}), "our own");
    check(json!({"from_user_id": "abc123@im.bot"}), "our own");
    check(json!({"from_user_id": ""}), "without a sender");
    check(json!({"from_user_id": 7}), "without a sender");
    check(json!({"from_user_id": "x".repeat(201)}), "an id that is too long");
    check(json!({"message_id": "9".repeat(201)}), "an id that is too long");
    check(json!({"group_id": "g@chatroom"}), "from a group, where a bot cannot answer");
    check(json!({"item_list": []}), "nothing in it");
    check(json!({"item_list": [{"type": 1, "text_item": {"text": "  "}}]}), "nothing in it");
    check(json!({"item_list": "x"}), "nothing in it");
}

#[test]
fn items_of_all_kinds() {
    let hex = "00112233445566778899aabbccddeeff";
    let aes = Key::Aes(*b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff");
    let media = json!({"encrypt_query_param": "p=1&x", "aes_key": STANDARD.encode(hex), "encrypt_type": 1});
    let taken = with(json!([
        {"type": 1, "text_item": {"text": "look"}},
        {"type": 2, "image_item": {"media": media, "aeskey": hex, "mid_size": 2000, "hd_size": 0}},
        {"type": 3, "voice_item": {"media": media, "encode_type": 6, "sample_rate": 16000, "playtime": 1500, "text": "spoken"}},
        {"type": 4, "file_item": {"media": media, "file_name": "report.pdf", "md5": "x", "len": "123"}},
        {"type": 5, "video_item": {"media": {"full_url": "https://x/y"}, "video_size": 99, "play_length": 3}},
        {"type": 77, "new_item": {}},
    ]));
    assert_eq!(taken.inbound.text, "look\nspoken\n(something that is not known here, of kind 77)");
    let place = || Some(Place::Parameter("p=1&x".to_owned()));
    let file = |kind, name: &str, media_type, bytes| FileRef { place: place(), key: aes, kind, name: name.to_owned(), media_type, bytes };
    let video = FileRef {
        place: Some(Place::Address("https://x/y".to_owned())),
        key: Key::None,
        ..file("video", "video-9-3.mp4", Some("video/mp4"), Some(99))
    };
    let expect = [
        file("photo", "photo-9.jpg", Some("image/jpeg"), Some(2000)),
        file("voice", "voice-9-1.silk", Some("audio/silk"), None),
        file("document", "report.pdf", None, Some(123)),
        video,
    ];
    assert_eq!(taken.files, expect);
}

#[test]
fn an_item_without_a_kind_is_known_by_what_it_holds() {
    assert_eq!(with(json!([{"text_item": {"text": "a"}}])).inbound.text, "a");
    assert_eq!(with(json!([{"file_item": {"file_name": "a.txt"}}])).files[0].name, "a.txt");
    assert_eq!(with(json!([{"video_item": {}}])).files[0].kind, "video");
}

#[test]
fn what_is_answered_is_quoted() {
    let quote = |reference: Value| {
        let taken = with(json!([{"type": 1, "text_item": {"text": "why?"}, "ref_msg": reference}]));
        (taken.inbound.quote, taken.files.len())
    };
    let expect = |id: &str, text: &str| Some(Quote { message_id: id.to_owned(), sender: None, text: text.to_owned() });
    let item = json!({"type": 1, "msg_id": 41, "text_item": {"text": "the whole text"}});
    assert_eq!(quote(json!({"message_item": item})), (expect("41", "the whole text"), 0));
    assert_eq!(
        quote(json!({"title": "Ana", "message_item": item, "svr_id": u64::MAX, "partial_text": "whole"})),
        (expect("18446744073709551615", "Ana\nwhole"), 0)
    );
    let picture = json!({"type": 2, "image_item": {"media": {"encrypt_query_param": "p"}}});
    assert_eq!(quote(json!({"message_item": picture})), (expect("", "(photo)"), 1));
    let long = quote(json!({"partial_text": "ü".repeat(limits::INBOUND_TEXT_BYTES_MAX)})).0.expect("a quote");
    assert!(long.text.len() < limits::INBOUND_TEXT_BYTES_MAX + 20 && long.text.ends_with("[cut: too long]"));
    assert_eq!(quote(json!({})), (None, 0));
    assert_eq!(quote(json!("x")), (None, 0));
}

#[test]
fn keys_of_files_in_their_three_forms() {
    let bytes = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
    let hex = "00112233445566778899aabbccddeeff";
    let check = |hex: Option<&str>, base64: Option<&str>, expect: Key| assert_eq!(key(hex, base64), expect, "{hex:?} {base64:?}");
    check(Some(hex), None, Key::Aes(bytes));
    check(Some(&hex.to_uppercase()), Some("!"), Key::Aes(bytes));
    check(None, Some(&STANDARD.encode(bytes)), Key::Aes(bytes));
    check(None, Some(STANDARD.encode(bytes).trim_end_matches('=')), Key::Aes(bytes));
    check(None, Some(&STANDARD.encode(hex)), Key::Aes(bytes));
    check(Some("short"), Some(&STANDARD.encode(hex)), Key::Aes(bytes));
    check(None, None, Key::None);
    check(Some(" "), Some(""), Key::None);
    check(Some("short"), None, Key::Unknown);
    check(None, Some("AAAA"), Key::Unknown);
    check(None, Some("ö"), Key::Unknown);
    check(Some("é0112233445566778899aabbccddeef"), None, Key::Unknown);
    assert_eq!(format!("{:?}", Key::Aes(bytes)), "***");
}

#[test]
fn no_more_files_than_allowed() {
    let items: Vec<Value> = (0..50).map(|number| json!({"type": 4, "file_item": {"file_name": format!("{number}")}})).collect();
    assert_eq!(with(json!(items)).files.len(), limits::ATTACHMENTS_PER_MESSAGE_MAX);
}

#[test]
fn a_message_that_is_sent() {
    assert_eq!(
        outgoing("ana@im.wechat", "answer", "id-1", Some("ctx")),
        json!({"msg": {"from_user_id": "", "to_user_id": "ana@im.wechat", "client_id": "id-1", "message_type": 2, "message_state": 2,
            "item_list": [{"type": 1, "text_item": {"text": "answer"}}], "context_token": "ctx"}})
    );
    assert_eq!(outgoing("a", "b", "c", None)["msg"].get("context_token"), None);
}

#[test]
fn texts_are_shown_without_markup_and_fit() {
    let shown = rendered("# Title\n\n**bold** and `code`\n\n| a | b |\n|---|---|\n| 1 | 2 |");
    assert!(shown.contains("bold and code") && !shown.contains(['*', '#', '`']), "{shown}");
    assert_eq!(rendered("[x]: http://y"), plain("[x]: http://y"), "what would not be seen stays as it is");
    let row = format!("| {} | x |\n", "w".repeat(60));
    let table = format!("| a | b |\n|---|---|\n{}{}", "| x | y |\n".repeat(150), row);
    for text in [table, "word ".repeat(5000), "🦀".repeat(6000), "一二三四五六七八九十。".repeat(900)] {
        let parts = split_rendered(&text, PART_UTF16);
        assert!(parts.len() > 1);
        let lengths: Vec<usize> =
            parts.iter().map(|part| Unit::Utf16.measure(&rendered(&format!("(may be a duplicate)\n{part}")))).collect();
        assert!(lengths.iter().all(|length| *length <= limits::WEIXIN_TEXT_UTF16_MAX), "{lengths:?}");
    }
}

#[test]
fn refusals_are_waited_out_longer_after_three_of_them() {
    let shared = Shared::default();
    assert!(!shared.is_troubled());
    let waits: Vec<u64> = (0..6).map(|_| shared.failed().as_secs()).collect();
    assert_eq!(waits, [2, 2, 30, 2, 2, 30]);
    shared.login_is_good();
    assert!(shared.is_troubled(), "a login that is good does not make polls work");
    shared.works();
    assert_eq!((shared.failed().as_secs(), shared.pause()), (2, None));
    shared.login_has_gone();
    assert!(shared.pause().is_some_and(|pause| pause <= limits::WEIXIN_GONE));
    shared.login_is_good();
    assert_eq!(shared.pause(), None);
}

fn config(token: &str, keys: &[(&str, &str)]) -> AdapterConfig {
    AdapterConfig {
        name: "weixin".to_owned(),
        platform: "weixin".to_owned(),
        enabled: true,
        allowed_users: vec!["*".to_owned(), "ana@im.wechat".to_owned()],
        allowed_chats: vec![],
        admins: vec![],
        group_mention: true,
        streaming: true,
        keys: keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        secrets: [("token".to_owned(), Secret::new(token.to_owned()))].into_iter().collect(),
    }
}

#[test]
fn the_configuration_is_read_and_checked() {
    let read = |token: &str, keys: &[(&str, &str)]| Settings::read(&config(token, keys));
    let bare = read("tok", &[]).expect("fine");
    assert_eq!((bare.base_url.as_str(), bare.cdn_url.as_str(), bare.poll_timeout.as_secs()), (BASE_URL, CDN_URL, 35));
    assert_eq!((bare.identity(), bare.someone()), ("a bot of WeChat", "ana@im.wechat"));
    let document = r#"{"bot_token":"tok","ilink_bot_id":"b@im.bot","baseurl":"https://sz.weixin.qq.com","ilink_user_id":"me@im.wechat"}"#;
    let full = read(document, &[]).expect("fine");
    assert_eq!((full.base_url.as_str(), full.identity(), full.someone()), ("https://sz.weixin.qq.com", "b@im.bot", "me@im.wechat"));
    let own =
        read(document, &[("base_url", "http://127.0.0.1:1/"), ("cdn_url", "http://127.0.0.1:2/c"), ("poll_timeout", "2s")]).expect("fine");
    assert_eq!(
        (own.base_url.as_str(), own.cdn_url.as_str(), own.poll_timeout.as_secs()),
        ("http://127.0.0.1:1", "http://127.0.0.1:2/c", 2)
    );
    for keys in [
        &[("base_url", "ilinkai")][..],
        &[("base_url", "wss://x")],
        &[("cdn_url", "https://x?a")],
        &[("poll_timeout", "0")],
        &[("poll_timeout", "61")],
    ] {
        assert!(read("tok", keys).is_err(), "{keys:?}");
    }
    let error = read("{\"token\":\"SECRET\"}", &[]).expect_err("no token");
    assert!(error.contains("hermes-gateway login weixin") && !error.contains("SECRET"), "{error}");
    assert!(!format!("{full:?}").contains("tok\""), "{full:?}");
}

proptest! {
    /// Whatever comes, it is understood or passed over.
    #[test]
    fn garbage_is_passed_over(text in "\\PC{0,40}", number in any::<f64>(), kind in -2_i64..90, key in "[a-zA-Z0-9+/=]{0,64}") {
        for odd in [json!(text), json!(number), json!([text]), json!({"text": text}), json!(kind), Value::Null] {
            let item = json!({"type": kind, "msg_id": odd, "text_item": odd, "image_item": {"media": odd, "aeskey": key},
                "voice_item": odd, "file_item": {"len": odd, "media": {"aes_key": key}}, "ref_msg": {"title": odd, "message_item": odd}});
            let message = json!({"message_id": odd, "seq": odd, "from_user_id": odd, "item_list": [item, odd], "context_token": odd});
            let _ = read(message.clone());
            let mut known = message;
            known["from_user_id"] = json!("ana@im.wechat");
            let _ = read(known);
            let _: Updates = serde_json::from_value(json!({"msgs": [odd, {}], "get_updates_buf": odd})).unwrap_or_default();
        }
    }
}
