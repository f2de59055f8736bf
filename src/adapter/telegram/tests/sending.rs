//! Tests of the outlet: what is sent, and what becomes of refusals and failures.

use super::fake::{Fake, Odd};
use super::harness::{settings, soon};
use crate::adapter::telegram::outlet::{Form, PART_UTF16, TelegramOutlet, payload, split_rendered};
use crate::adapter::{Outlet, Part, Preview, SendError};
use crate::clock::Deadline;
use crate::core::types::ChatRef;
use crate::limits;
use crate::net::NetOptions;
use crate::thread::CancelToken;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn outlet(fake: &Fake) -> TelegramOutlet {
    TelegramOutlet::new(&settings(&fake.url), &NetOptions::default(), &CancelToken::new())
}

fn paced(fake: &Fake, token: &CancelToken) -> TelegramOutlet {
    let mut settings = Arc::into_inner(settings(&fake.url)).expect("the only one");
    settings.rate_limit = true;
    TelegramOutlet::new(&Arc::new(settings), &NetOptions::default(), token)
}

fn chat(id: &str, thread: Option<&str>) -> ChatRef {
    ChatRef { adapter: "telegram".to_owned(), chat: id.to_owned(), thread: thread.map(str::to_owned) }
}

fn part<'a>(chat: &'a ChatRef, text: &'a str) -> Part<'a> {
    Part { chat, text, reply_to: None, buttons: &[], key: "k" }
}

/// Sends "hello" after the server was told to fail once.
fn send_after(odd: Odd) -> (Result<String, SendError>, Vec<Value>) {
    let fake = Fake::start();
    fake.odd("sendMessage", odd);
    let chat = chat("77001", None);
    let result = outlet(&fake).send(&part(&chat, "**hello**"), soon());
    if let Err(error) = &result {
        assert!(!format!("{error:?}").contains("AAH"), "{error:?}");
    }
    (result, fake.calls("sendMessage"))
}

#[test]
fn a_message_goes_out_as_html() {
    let fake = Fake::start();
    let mut outlet = outlet(&fake);
    let topic = chat("-1001234567890", Some("12"));
    let buttons = [("Approve".to_owned(), "/approve 17".to_owned()), ("Long".to_owned(), "x".repeat(65))];
    let message = Part { reply_to: Some("908/edit/1792540900"), buttons: &buttons, ..part(&topic, "hello **x** <y>") };
    assert_eq!(outlet.send(&message, soon()), Ok("901".to_owned()));
    let expect = json!({
        "chat_id": -1_001_234_567_890_i64, "message_thread_id": 12, "text": "hello <b>x</b> &lt;y&gt;", "parse_mode": "HTML",
        "reply_parameters": {"message_id": 908, "allow_sending_without_reply": true}, "link_preview_options": {"is_disabled": true},
        "reply_markup": {"inline_keyboard": [[{"text": "Approve", "callback_data": "/approve 17"}]]},
    });
    assert_eq!(fake.calls("sendMessage"), [expect]);
}

#[test]
fn the_general_topic_has_no_number_when_sending() {
    let fake = Fake::start();
    let mut outlet = outlet(&fake);
    let general = chat("-1001234567890", Some("1"));
    outlet.send(&part(&general, "hello"), soon()).expect("sent");
    outlet.typing(&general, soon()).expect("shown");
    assert_eq!(fake.calls("sendMessage")[0].get("message_thread_id"), None);
    assert_eq!(fake.calls("sendChatAction"), [json!({"chat_id": -1_001_234_567_890_i64, "action": "typing", "message_thread_id": 1})]);
}

#[test]
fn what_is_refused_is_left_out() {
    let fake = Fake::start();
    let mut outlet = outlet(&fake);
    let topic = chat("-5", Some("12"));
    fake.odd("sendMessage", Odd::refuse(400, "Bad Request: can't parse entities: Unsupported start tag \"x\" at byte offset 0"));
    fake.odd("sendMessage", Odd::refuse(400, "Bad Request: message thread not found"));
    fake.odd("sendMessage", Odd::refuse(400, "Bad Request: message to be replied not found"));
    let message = Part { reply_to: Some("7"), ..part(&topic, "**hello**") };
    assert_eq!(outlet.send(&message, soon()), Ok("901".to_owned()));
    let calls = fake.calls("sendMessage");
    assert_eq!(calls.len(), 4);
    let last = json!({"chat_id": -5, "text": "**hello**", "link_preview_options": {"is_disabled": true}});
    assert_eq!(calls[3], last);
}

#[test]
fn the_same_refusal_twice_is_final() {
    let fake = Fake::start();
    for _ in 0..2 {
        fake.odd("sendMessage", Odd::refuse(400, "Bad Request: can't parse entities: x"));
    }
    let chat = chat("77001", None);
    assert!(matches!(outlet(&fake).send(&part(&chat, "hello"), soon()), Err(SendError::Reject { .. })));
    assert_eq!(fake.calls("sendMessage").len(), 2);
}

#[test]
fn failures_are_classified() {
    let retry = |odd| match send_after(odd).0 {
        Err(SendError::Retry { after, .. }) => after,
        other => panic!("{other:?}"),
    };
    let flood = Odd::refuse_with(429, "Too Many Requests: retry after 14", json!({"retry_after": 14}));
    assert_eq!(retry(flood), Some(Duration::from_secs(14)));
    assert_eq!(retry(Odd::refuse(500, "Internal Server Error")), None);
    assert_eq!(retry(Odd::Raw(502, "<html>")), None);
    assert_eq!(retry(Odd::Raw(404, "<html>")), None);
    for (code, description) in [
        (403, "Forbidden: bot was blocked by the user"),
        (403, "Forbidden: bot was kicked from the supergroup chat"),
        (400, "Bad Request: chat not found"),
        (400, "Bad Request: not enough rights to send text messages to the chat"),
    ] {
        match send_after(Odd::refuse(code, description)).0 {
            Err(SendError::Reject { cause }) => assert!(cause.contains(description), "{cause}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(send_after(Odd::refuse(401, "Unauthorized")).0, Err(SendError::Fatal { .. })));
    let moved = Odd::refuse_with(400, "Bad Request: group chat was upgraded", json!({"migrate_to_chat_id": -1_001_234_567_890_i64}));
    assert_eq!(send_after(moved).0, Err(SendError::Moved { chat: "-1001234567890".to_owned() }));
    // The request was out: it may have arrived.
    for odd in [Odd::Close, Odd::Raw(200, "garbage"), Odd::Raw(200, "{\"ok\":true,\"result\":{}}")] {
        let (result, calls) = send_after(odd);
        assert!(matches!(result, Err(SendError::Ambiguous { .. })), "{result:?}");
        assert_eq!(calls.len(), 1, "never sent again from here");
    }
}

#[test]
fn a_server_that_says_nothing_is_ambiguous_at_the_deadline() {
    let fake = Fake::start();
    fake.odd("sendMessage", Odd::Silence);
    let (chat, started) = (chat("77001", None), Instant::now());
    let result = outlet(&fake).send(&part(&chat, "hello"), Deadline::after(Duration::from_millis(300)));
    assert!(matches!(result, Err(SendError::Ambiguous { .. })), "{result:?}");
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn nobody_is_there() {
    let mut outlet = TelegramOutlet::new(&settings("http://127.0.0.1:1"), &NetOptions::default(), &CancelToken::new());
    let chat = chat("77001", None);
    assert!(matches!(outlet.send(&part(&chat, "hello"), soon()), Err(SendError::Retry { .. })));
}

#[test]
fn a_cancel_frees_a_silent_send() {
    let fake = Fake::start();
    fake.odd("sendMessage", Odd::Silence);
    let token = CancelToken::new();
    let mut outlet = TelegramOutlet::new(&settings(&fake.url), &NetOptions::default(), &token);
    let chat = chat("77001", None);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| outlet.send(&part(&chat, "hello"), soon()));
        fake.until("the call", |state| !state.calls.is_empty());
        let started = Instant::now();
        token.cancel();
        assert_eq!(sender.join().expect("no panic"), Err(SendError::Cancelled));
        assert!(started.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn edits_are_idempotent() {
    let fake = Fake::start();
    let (mut outlet, chat) = (outlet(&fake), chat("77001", None));
    outlet.edit("909", &part(&chat, "*new*"), soon()).expect("edited");
    let expect = json!({"chat_id": 77001, "message_id": 909, "text": "<i>new</i>", "parse_mode": "HTML", "link_preview_options": {"is_disabled": true}});
    assert_eq!(fake.calls("editMessageText"), [expect]);
    let same =
        "Bad Request: message is not modified: specified new message content and reply markup are exactly the same as a current content";
    fake.odd("editMessageText", Odd::refuse(400, same));
    assert_eq!(outlet.edit("909", &part(&chat, "*new*"), soon()), Ok(()));
    fake.odd("editMessageText", Odd::refuse(400, "Bad Request: message to edit not found"));
    assert!(matches!(outlet.edit("909", &part(&chat, "x"), soon()), Err(SendError::Reject { .. })));
    fake.odd("editMessageText", Odd::Close);
    assert!(matches!(outlet.edit("909", &part(&chat, "x"), soon()), Err(SendError::Retry { .. })));
    assert!(matches!(outlet.edit("nonsense", &part(&chat, "x"), soon()), Err(SendError::Reject { .. })));
}

#[test]
fn a_message_can_be_deleted_twice() {
    let fake = Fake::start();
    let (mut outlet, chat) = (outlet(&fake), chat("77001", None));
    outlet.delete(&chat, "909", soon()).expect("deleted");
    fake.odd("deleteMessage", Odd::refuse(400, "Bad Request: message to delete not found"));
    outlet.delete(&chat, "909", soon()).expect("gone already");
    assert_eq!(fake.calls("deleteMessage")[0], json!({"chat_id": 77001, "message_id": 909}));
}

#[test]
fn nothing_to_be_seen_is_not_sent() {
    let fake = Fake::start();
    let (mut outlet, chat) = (outlet(&fake), chat("77001", None));
    assert!(matches!(outlet.send(&part(&chat, " \n"), soon()), Err(SendError::Reject { .. })));
    assert!(fake.state().calls.is_empty());
    // A reference alone shows nothing as HTML, but it is a text.
    outlet.send(&part(&chat, "[a]: http://x"), soon()).expect("sent");
    assert_eq!(fake.calls("sendMessage")[0]["text"], "[a]: http://x");
}

#[test]
fn previews_are_left_out_when_there_are_too_many() {
    let fake = Fake::start();
    let (mut outlet, group) = (paced(&fake, &CancelToken::new()), chat("-5", None));
    let mut shown = None;
    let mut refused = 0;
    for count in 0..6 {
        let preview = Preview { text: format!("so far {count}"), ..Preview::default() };
        match outlet.preview(&group, shown.as_deref(), &preview, soon()) {
            Ok(id) => shown = Some(id),
            Err(SendError::Retry { after, .. }) => refused += usize::from(after.is_some()),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((fake.calls("sendMessage").len() + fake.calls("editMessageText").len(), refused), (2, 4));
    // A message still goes out at once.
    let started = Instant::now();
    outlet.send(&part(&group, "the reply"), soon()).expect("sent");
    assert!(started.elapsed() < Duration::from_millis(900));
}

#[test]
fn a_flood_is_waited_out_by_all_calls_for_the_chat() {
    let fake = Fake::start();
    let (mut outlet, chat) = (outlet(&fake), chat("77001", None));
    fake.odd("sendMessage", Odd::refuse_with(429, "Too Many Requests: retry after 60", json!({"retry_after": 60})));
    for _ in 0..3 {
        let result = outlet.send(&part(&chat, "hello"), soon());
        assert!(matches!(result, Err(SendError::Retry { after: Some(after), .. }) if after > Duration::from_secs(50)), "{result:?}");
    }
    assert!(matches!(outlet.typing(&chat, soon()), Err(SendError::Retry { .. })));
    assert_eq!(fake.state().calls.len(), 1);
}

#[test]
fn waiting_for_a_turn_ends_with_the_token() {
    let fake = Fake::start();
    let token = CancelToken::new();
    let (mut outlet, chat) = (paced(&fake, &token), chat("77001", None));
    for _ in 0..3 {
        outlet.send(&part(&chat, "hello"), soon()).expect("sent");
    }
    token.cancel();
    assert_eq!(outlet.send(&part(&chat, "hello"), soon()), Err(SendError::Cancelled));
}

/// Checks that what is sent for a text is never longer than Telegram takes. → the requests
fn check_split(text: &str) -> Vec<Value> {
    let chat = chat("77001", None);
    let parts = split_rendered(text, PART_UTF16);
    assert!(parts.iter().all(|text| text.encode_utf16().count() <= limits::TELEGRAM_TEXT_UTF16_MAX));
    let sent: Vec<Value> = parts.iter().map(|text| payload(&part(&chat, text), None, Form::FULL).expect("can be sent")).collect();
    for call in &sent {
        let text = call["text"].as_str().expect("text");
        let mut visible = String::new();
        let mut tag = false;
        for character in text.chars() {
            match character {
                '<' if call.get("parse_mode").is_some() => tag = true,
                '>' if tag => tag = false,
                _ if !tag => visible.push(character),
                _ => {}
            }
        }
        let visible = visible.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
        assert!((1..=4096).contains(&visible.encode_utf16().count()), "{} units", visible.encode_utf16().count());
    }
    sent
}

#[test]
fn long_replies_go_out_over_one_connection() {
    let fake = Fake::start();
    let (mut outlet, chat) = (outlet(&fake), chat("77001", None));
    // Three bytes a unit: the requests are longer than what a socket or a client takes at once.
    let parts = outlet.split(&"word ".repeat(10_000).chars().chain("字".repeat(20_000).chars()).collect::<String>());
    for text in &parts {
        outlet.send(&part(&chat, text), soon()).expect("sent");
    }
    assert_eq!(fake.calls("sendMessage").len(), parts.len());
}

#[test]
fn parts_fit_after_their_markup_is_resolved() {
    assert_eq!(check_split("short").len(), 1);
    assert_eq!(check_split("").len(), 0);
    assert_eq!(check_split(&"word ".repeat(2000)).len(), 3);
    // A table is padded, so it grows.
    let table = format!("| a | b |\n|---|---|\n| {} | x |\n{}", "w".repeat(40), "| 1 | 2 |\n".repeat(300));
    assert!(check_split(&table).len() > 1);
    assert!(check_split(&"---\n\n".repeat(800)).len() > 1);
    assert!(check_split(&"- x\n".repeat(2000)).len() > 1);
    // Marks of quotes alone show nothing: they go out as they are.
    check_split(&"> \n".repeat(2000));
    check_split(&format!("```rust\n{}```", "let a = \"<&>\";\n".repeat(1000)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_long_text_fits(pieces in proptest::collection::vec("word |😀|\n\n|\n- |\n---\n|`|\\*\\*|\n```\n|\n> |\n\\| a \\| b \\|\n\\|--\\|--\\||<b>|&", 1..60), times in 1_usize..200) {
        check_split(&pieces.concat().repeat(times));
    }
}
