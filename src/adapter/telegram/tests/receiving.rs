//! Tests of the inlet: what is asked, what is handed over, and what is confirmed when.

use super::fake::{Odd, TOKEN};
use super::harness::Bench;
use crate::adapter::AdapterError;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn offsets(bench: &Bench) -> Vec<Option<u64>> {
    bench.fake.calls("getUpdates").iter().map(|call| call["offset"].as_u64()).collect()
}

/// Waits until the inlet polls with this offset.
fn until_polled(bench: &Bench, offset: u64) {
    bench.fake.until(&format!("a poll from {offset}"), |state| state.confirmed >= offset);
}

fn retry(error: AdapterError) -> (String, Option<Duration>) {
    match error {
        AdapterError::Retry { cause, after } => (cause, after),
        other => panic!("{other:?}"),
    }
}

fn fatal(error: AdapterError) -> String {
    match error {
        AdapterError::Fatal { cause, remedy } => format!("{cause} / {remedy}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_introduces_itself_and_polls() {
    let bench = Bench::new();
    let error = bench.run(|| {
        bench.recorder.until("connected", |told| !told.connected.is_empty());
        bench.fake.until("a long poll", |state| state.calls.iter().filter(|(method, _)| method == "getUpdates").count() == 2);
    });
    assert_eq!(error, AdapterError::Cancelled);
    let methods: Vec<String> = bench.fake.state().calls.iter().map(|(method, _)| method.clone()).collect();
    assert_eq!(methods, ["getMe", "deleteWebhook", "setMyCommands", "getUpdates", "getUpdates"]);
    let allowed = json!(["message", "edited_message", "callback_query", "my_chat_member"]);
    assert_eq!(
        bench.fake.calls("getUpdates"),
        [json!({"limit": 100, "timeout": 0, "allowed_updates": allowed}), json!({"limit": 100, "timeout": 20, "allowed_updates": allowed})]
    );
    assert_eq!(bench.fake.calls("deleteWebhook"), [json!({"drop_pending_updates": false})]);
    for command in bench.fake.calls("setMyCommands")[0]["commands"].as_array().expect("commands") {
        let (name, help) = (command["command"].as_str().expect("name"), command["description"].as_str().expect("help"));
        assert!(
            (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase()) && !help.is_empty() && help.len() <= 256
        );
    }
    assert_eq!(bench.recorder.told().connected, ["@gate_bot"]);
    assert!(bench.recorder.told().heard >= 4);
}

#[test]
fn messages_arrive_in_order_and_are_confirmed() {
    let bench = Bench::new();
    for (id, text) in [(10, "one"), (11, "two"), (15, "three")] {
        bench.fake.push_text(id, text);
    }
    bench.run(|| {
        until_polled(&bench, 16);
        bench.fake.push_text(16, "four");
        until_polled(&bench, 17);
    });
    assert_eq!(bench.recorder.texts(), ["one", "two", "three", "four"]);
    assert_eq!(offsets(&bench), [None, Some(16), Some(17)]);
    assert_eq!(bench.cursor().as_deref(), Some("17"));
    let receipts: Vec<(u64, String)> =
        bench.recorder.told().messages.iter().map(|(_, receipt)| (receipt.id, receipt.cursor.clone().expect("cursor"))).collect();
    assert_eq!(receipts[..2], [(10, "11".to_owned()), (11, "12".to_owned())]);
}

#[test]
fn a_poll_confirms_nothing_that_is_not_committed() {
    let bench = Bench::new();
    bench.recorder.told().hold = true;
    for id in 1..=5 {
        bench.fake.push_text(id, "x");
    }
    bench.run(|| {
        bench.recorder.until("all handed over", |told| told.messages.len() == 5);
        std::thread::sleep(Duration::from_millis(300)); // Long enough for a poll that must not be.
        assert_eq!((offsets(&bench), bench.fake.state().updates.len()), (vec![None], 5));
        bench.recorder.release();
        until_polled(&bench, 6);
    });
    assert!(bench.fake.state().updates.is_empty());
}

#[test]
fn it_goes_on_from_the_stored_cursor() {
    let bench = Bench::new();
    bench.fake.push_text(100, "one");
    bench.run(|| until_polled(&bench, 101));
    bench.fake.push_text(101, "two");
    bench.run(|| until_polled(&bench, 102));
    assert_eq!(bench.recorder.texts(), ["one", "two"]);
    assert_eq!(offsets(&bench)[2], Some(101), "the first poll of the second run");
    assert_eq!(bench.fake.calls("setMyCommands").len(), 1);
}

#[test]
fn a_message_that_was_lost_is_asked_for_again() {
    let bench = Bench::new();
    bench.recorder.told().lost = vec!["two".to_owned()];
    for (id, text) in [(1, "one"), (2, "two"), (3, "three")] {
        bench.fake.push_text(id, text);
    }
    bench.run(|| bench.recorder.until("all handed over", |told| told.messages.len() == 3));
    assert_eq!((bench.cursor().as_deref(), bench.fake.state().updates.len()), (Some("4"), 3));
    bench.recorder.told().lost.clear();
    bench.run(|| until_polled(&bench, 4));
    assert_eq!(bench.recorder.texts(), ["one", "two", "three", "two", "three"]);
}

#[test]
fn what_is_not_for_us_moves_the_cursor_too() {
    let bench = Bench::new();
    bench.fake.push(json!({"update_id": 1, "channel_post": {"message_id": 1}}));
    bench.fake.push_text(2, "hello");
    bench.fake.push(json!({"update_id": 3, "message": {"message_id": "?", "chat": 7, "from": [], "text": {"a": 1}}}));
    bench.fake.push(json!({"update_id": 4, "my_chat_member": {"chat": {"id": -5}}}));
    bench
        .fake
        .push(json!({"update_id": 5, "message": {"message_id": 1, "chat": {"id": -5, "type": "group"}, "migrate_to_chat_id": -1005}}));
    bench.run(|| until_polled(&bench, 6));
    assert_eq!((bench.recorder.texts(), bench.cursor().as_deref()), (vec!["hello".to_owned()], Some("6")));
    assert_eq!(bench.recorder.told().moved, [("-5".to_owned(), "-1005".to_owned())]);
}

#[test]
fn a_batch_of_nonsense_is_survived() {
    let bench = Bench::new();
    let updates =
        json!([null, 7, [], "x", {"update_id": -5}, {"update_id": "x"}, {}, {"update_id": 9}, {"update_id": "10", "message": null}]);
    bench.fake.odd("getUpdates", Odd::Json(200, json!({"ok": true, "result": updates})));
    bench.fake.push_text(11, "after");
    bench.run(|| until_polled(&bench, 12));
    assert_eq!(bench.recorder.texts(), ["after"]);
    assert_eq!(offsets(&bench)[..2], [None, Some(11)]);
}

#[test]
fn numbers_that_began_anew_are_taken() {
    let bench = Bench::new();
    bench.fake.push_text(800_000_000, "old");
    bench.run(|| until_polled(&bench, 800_000_001));
    // What a server does that has begun anew: the stored offset means nothing to it.
    let update = json!({"update_id": 5, "message": {"message_id": 1, "from": {"id": 77001}, "chat": {"id": 77001, "type": "private"}, "text": "new"}});
    bench.fake.odd("getUpdates", Odd::Json(200, json!({"ok": true, "result": [update]})));
    bench.run(|| bench.fake.until("the next poll", |state| state.calls.last().is_some_and(|(_, call)| call["offset"] == 6)));
    assert_eq!((bench.recorder.texts(), bench.cursor().as_deref()), (vec!["old".to_owned(), "new".to_owned()], Some("6")));
}

#[test]
fn a_press_on_a_button_is_a_command_and_is_answered() {
    let bench = Bench::new();
    let press = |id: u64, data: Value| {
        json!({"update_id": id, "callback_query": {"id": format!("q{id}"), "from": {"id": 77001, "first_name": "Ana"}, "data": data,
            "message": {"message_id": 909, "chat": {"id": 77001, "type": "private"}}}})
    };
    bench.fake.push(press(1, json!("/approve 17")));
    bench.fake.push(press(2, json!(null)));
    bench.fake.odd("answerCallbackQuery", Odd::refuse(400, "Bad Request: query is too old and response timeout expired"));
    bench.run(|| until_polled(&bench, 3));
    assert_eq!(bench.recorder.texts(), ["/approve 17"]);
    assert_eq!(bench.fake.calls("answerCallbackQuery"), [json!({"callback_query_id": "q1"}), json!({"callback_query_id": "q2"})]);
}

#[test]
fn files_are_saved_and_trouble_with_them_is_a_note() {
    let bench = Bench::new();
    bench.fake.state().files.insert("photos/here".to_owned(), b"picture".to_vec());
    let mut id = 0;
    let mut send = |sender: i64, document: Value| {
        id += 1;
        bench
            .fake
            .push(json!({"update_id": id, "message": {"message_id": id, "from": {"id": sender}, "chat": {"id": sender, "type": "private"},
            "caption": "look", "document": document}}));
    };
    send(77001, json!({"file_id": "here", "file_name": "../a b.png", "mime_type": "image/png", "file_size": 7}));
    send(77001, json!({"file_id": "gone"}));
    send(77001, json!({"file_id": "here", "file_size": 20 * 1024 * 1024 + 1}));
    send(5, json!({"file_id": "here"}));
    send(77001, json!({"file_id": "secret"}));
    bench.fake.odd("getFile", Odd::Json(200, json!({"ok": true, "result": {"file_path": "photos/here"}})));
    bench.fake.odd("getFile", Odd::Json(200, json!({"ok": true, "result": {"file_path": "photos/gone"}})));
    bench.fake.odd("getFile", Odd::refuse(400, "Bad Request: wrong file_id or the file is temporarily unavailable"));
    bench.run(|| until_polled(&bench, id + 1));
    let attachments: Vec<_> = bench.recorder.told().messages.iter().map(|(inbound, _)| inbound.attachments[0].clone()).collect();
    let saved = attachments[0].path.clone().expect("saved");
    assert!(saved.starts_with(&*bench.directory.path().to_string_lossy()) && saved.ends_with("-a_b.png"), "{saved}");
    assert_eq!(std::fs::read(saved).expect("there"), b"picture");
    assert_eq!((attachments[0].bytes, attachments[0].media_type.as_deref()), (7, Some("image/png")));
    let notes: Vec<&str> = attachments[1..].iter().map(|attachment| attachment.note.as_deref().expect("note")).collect();
    for (note, words) in notes.iter().zip(["HTTP 404", "larger than 20 MB", "not on the list", "wrong file_id"]) {
        assert!(note.contains(words) && !note.contains("AAH"), "{note}");
    }
    assert_eq!(bench.recorder.texts(), ["look"; 5]);
    assert_eq!(bench.fake.calls("getFile").len(), 3, "neither what is too large nor what a stranger sends is asked for");
}

#[test]
fn other_instances_are_waited_for_and_then_given_up_on() {
    let bench = Bench::new();
    let conflict = "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running";
    let mut waits = Vec::new();
    let last = loop {
        bench.fake.odd("getUpdates", Odd::refuse(409, conflict));
        match bench.run_to_end() {
            AdapterError::Retry { after, .. } => waits.push(after.expect("a time").as_secs()),
            other => break fatal(other),
        }
    };
    assert_eq!(waits, [20, 30, 40, 50, 60]);
    assert!(last.contains("another instance"), "{last}");
    assert!(bench.recorder.told().connected.is_empty());
}

#[test]
fn a_second_poll_ends_the_first() {
    let bench = Bench::new();
    let error = std::thread::scope(|scope| {
        let first = scope.spawn(|| bench.run_to_end());
        bench.recorder.until("connected", |told| !told.connected.is_empty());
        bench.fake.until("a long poll", |state| state.calls.last().is_some_and(|(_, call)| call["timeout"] == 20));
        let url = format!("{}/bot{TOKEN}/getUpdates", bench.fake.url);
        let client = crate::net::Client::new(&crate::net::NetOptions::default(), &crate::thread::CancelToken::new());
        let request =
            crate::net::Request { method: "POST", url, headers: vec![], body: crate::net::Body::Json(b"{\"timeout\":0}".to_vec()) };
        let deadline = super::harness::soon();
        let bounds = crate::net::Bounds { headers: deadline, silence: Duration::from_secs(5), total: deadline, body_bytes_max: 1000 };
        assert_eq!(client.send(&request, bounds).expect("an answer").status, 200);
        first.join().expect("no panic")
    });
    assert_eq!(retry(error).1, Some(Duration::from_secs(20)));
}

#[test]
fn failures_are_classified() {
    let check = |method: &'static str, odd: Odd| {
        let bench = Bench::new();
        bench.fake.odd(method, odd);
        let error = bench.run_to_end();
        assert!(!format!("{error:?}").contains("AAH"), "{error:?}");
        error
    };
    assert!(fatal(check("getMe", Odd::refuse(401, "Unauthorized"))).contains("@BotFather"));
    assert!(fatal(check("getMe", Odd::refuse(404, "Not Found"))).contains("base_url"));
    assert!(fatal(check("getUpdates", Odd::refuse(401, "Unauthorized"))).contains("token"));
    assert!(fatal(check("deleteWebhook", Odd::refuse(401, "Unauthorized"))).contains("token"));
    let flood = Odd::refuse_with(429, "Too Many Requests: retry after 14", json!({"retry_after": 14}));
    assert_eq!(retry(check("getUpdates", flood.clone())).1, Some(Duration::from_secs(14)));
    assert_eq!(retry(check("getMe", flood)).1, Some(Duration::from_secs(14)));
    for odd in [
        Odd::refuse(500, "Internal Server Error"),
        Odd::Raw(502, "<html>Bad Gateway</html>"),
        Odd::Raw(200, "not JSON"),
        Odd::Raw(200, "{\"ok\":true,\"result\":7}"),
        Odd::Raw(200, ""),
        Odd::Close,
    ] {
        for method in ["getMe", "getUpdates"] {
            assert_eq!(retry(check(method, odd.clone())).1, None, "{method} {odd:?}");
        }
    }
}

#[test]
fn odd_servers_are_put_up_with() {
    let bench = Bench::new();
    bench.fake.odd("deleteWebhook", Odd::refuse(404, "Not Found"));
    bench.fake.odd("setMyCommands", Odd::refuse(400, "Bad Request"));
    bench.run(|| bench.recorder.until("connected", |told| !told.connected.is_empty()));
}

#[test]
fn nobody_is_there() {
    let bench = Bench::with(|config| {
        config.keys.insert("base_url".to_owned(), "http://127.0.0.1:1".to_owned());
    });
    assert_eq!(retry(bench.run_to_end()).1, None);
}

#[test]
fn a_cancel_frees_a_silent_poll() {
    let bench = Bench::new();
    for method in ["getMe", "getUpdates"] {
        bench.fake.odd(method, Odd::Silence);
        let mut started = Instant::now();
        let error = bench.run(|| {
            bench.fake.until("the silent call", |state| state.calls.last().is_some_and(|(name, _)| name == method));
            started = Instant::now();
        });
        assert_eq!(error, AdapterError::Cancelled);
        assert!(started.elapsed() < Duration::from_secs(1), "{method}: {:?}", started.elapsed());
    }
}

#[test]
fn a_server_that_does_not_hold_polls_open_is_not_flooded() {
    let bench = Bench::new();
    bench.fake.state().impatient = true;
    bench.run(|| {
        bench.recorder.until("connected", |told| !told.connected.is_empty());
        std::thread::sleep(Duration::from_millis(1500)); // What is measured: calls in this time.
    });
    let polls = bench.fake.calls("getUpdates").len();
    assert!((2..=4).contains(&polls), "{polls} polls");
}
