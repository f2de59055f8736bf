//! What a person in a private Telegram chat sees when everything works.

use crate::support::gateway::{Gateway, files_named};
use crate::support::model::{self, Model, Protocol, Reply, Step};
use crate::support::poll::SOON;
use crate::support::telegram::{ANA, Call, Telegram};
use serde_json::json;
use std::time::Duration;

fn offline(telegram: &Telegram) -> Gateway {
    Gateway::setup().telegram(telegram).start()
}

#[test]
fn a_message_is_answered_once_and_confirmed() {
    let telegram = Telegram::start();
    let gateway = offline(&telegram);
    telegram.user_says(ANA, "echo: hello there");
    telegram.wait_text(ANA, "hello there");
    telegram.wait_confirmed();
    gateway.wait_idle();
    assert_eq!(telegram.texts(ANA), ["hello there"]);
    let adapter = gateway.adapter("telegram");
    assert_eq!((&adapter["state"], &adapter["platform"]), (&json!("connected"), &json!("telegram")));
    assert_eq!(adapter["identity"], "@gate_bot");
    assert!(adapter["received"].as_u64() >= Some(1) && adapter["sent"].as_u64() >= Some(1), "{adapter}");
}

#[test]
fn a_tool_runs_and_its_output_is_answered() {
    let telegram = Telegram::start();
    let _gateway = offline(&telegram);
    telegram.user_says(ANA, "run: uname");
    telegram.wait_text(ANA, "Linux");
}

#[test]
fn a_tool_call_of_a_model_runs_and_its_result_goes_back() {
    for protocol in [Protocol::Anthropic, Protocol::OpenAi] {
        let (telegram, model) = (Telegram::start(), Model::start());
        let call = Reply::Stream(vec![Step::Text("Let me look.".to_owned()), model::shell("uname -s; echo mark-$((40 + 2))")]);
        model.rule("which system", [call, model::text("It is Linux, as I see.")]);
        let gateway = Gateway::setup().telegram(&telegram).model(&model, protocol).start();
        telegram.user_says(ANA, "which system is this?");
        telegram.wait_text(ANA, "It is Linux, as I see.");
        let second = model.wait_request(2, "which system");
        assert!(second.all().contains("mark-42"), "{protocol:?}: the tool's output is in the second request: {}", second.body);
        gateway.wait_idle();
    }
}

#[test]
fn several_tool_calls_in_one_reply_are_all_answered() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let calls = vec![model::shell("echo one-$((1))"), model::shell("echo two-$((2))"), model::shell("echo three-$((3))")];
    model.rule("three things", [Reply::Stream(calls), model::text("all three done")]);
    let _gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "three things please");
    telegram.wait_text(ANA, "all three done");
    let request = model.wait_request(2, "three things").all();
    assert!(["one-1", "two-2", "three-3"].iter().all(|mark| request.contains(mark)), "{request}");
}

#[test]
fn a_slow_answer_is_streamed_into_one_message() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let pause = || Step::Pause(Duration::from_millis(1500));
    let text = |text: &str| Step::Text(text.to_owned());
    model.rule("slowly", [Reply::Stream(vec![text("First part. "), pause(), text("Second part. "), pause(), text("The end.")])]);
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "slowly");
    telegram.wait_text(ANA, "First part.");
    assert_eq!(telegram.lock().count(ANA, "The end."), 0, "the first part is shown before the last is there");
    telegram.wait_text(ANA, "The end.");
    gateway.wait_idle();
    let shown = telegram.shown(ANA);
    assert_eq!(shown.len(), 1, "{:?}", telegram.texts(ANA));
    assert_eq!(shown[0].text, "First part. Second part. The end.");
    let edits: Vec<_> = shown[0].edits.iter().map(|(at, _)| *at).collect();
    assert!(!edits.is_empty(), "it was edited");
    let fastest = edits.windows(2).map(|pair| pair[1] - pair[0]).min();
    assert!(fastest.is_none_or(|pause| pause > Duration::from_millis(300)), "edits keep to the platform's pace: {fastest:?}");
}

#[test]
fn without_streaming_an_answer_appears_as_a_whole() {
    let telegram = Telegram::start();
    let gateway = Gateway::setup().telegram(&telegram).set("adapters.telegram", "streaming", "false").start();
    telegram.user_says(ANA, "slow: 2");
    telegram.wait(SOON, "an answer", |state| state.chats[&ANA].messages.iter().find(|message| message.from_bot).map(|_| ()));
    gateway.wait_idle();
    assert_eq!(telegram.shown(ANA).len(), 1, "{:?}", telegram.texts(ANA));
    assert!(telegram.shown(ANA)[0].edits.is_empty() && telegram.calls("editMessageText").is_empty());
}

#[test]
fn typing_is_shown_while_the_model_thinks() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("think", [Reply::Stream(vec![Step::Pause(Duration::from_secs(6)), Step::Text("thought".to_owned())])]);
    let _gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::OpenAi).start();
    telegram.user_says(ANA, "think");
    let asked = model.wait_request(1, "think").at;
    let typing = |call: &Call| call.params["action"] == "typing";
    let first = telegram.wait_call("sendChatAction", 1, typing);
    assert!(first.at < asked + Duration::from_secs(2), "typing appears at once");
    // The sign lasts five seconds, so that a longer wait needs a second one.
    let second = telegram.wait_call("sendChatAction", 2, typing);
    let pause = second.at - first.at;
    assert!(pause < Duration::from_millis(5500) && pause > Duration::from_secs(2), "renewed in time and not in a flood: {pause:?}");
    telegram.wait_text(ANA, "thought");
}

#[test]
fn a_long_answer_comes_in_parts_and_in_order() {
    for streaming in ["true", "false"] {
        let telegram = Telegram::start();
        let gateway = Gateway::setup().telegram(&telegram).set("adapters.telegram", "streaming", streaming).start();
        telegram.user_says(ANA, "long: 10000");
        telegram.wait(SOON, "three parts", |state| {
            (state.chats[&ANA].messages.iter().filter(|message| message.from_bot).count() >= 3).then_some(())
        });
        gateway.wait_idle();
        let parts = telegram.texts(ANA);
        let total: usize = parts.iter().map(|part| part.chars().count()).sum();
        // The cuts may swallow the white space at which they were made, and the marks of code blocks are not shown.
        assert!((9_300..=10_100).contains(&total), "streaming {streaming}: {} parts with {total} characters", parts.len());
        assert!(parts.len() <= 5, "{} parts", parts.len());
    }
}

#[test]
fn parts_keep_their_order_and_their_code_blocks() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let lines: Vec<String> = (0..600).map(|number| format!("let line_{number:03} = {number}; // <&>")).collect();
    let answer = format!("Before.\n\n```rust\n{}\n```\n\nAfter.", lines.join("\n"));
    model.rule("code", [model::text(&answer)]);
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "code please");
    telegram.wait_text(ANA, "After.");
    gateway.wait_idle();
    let shown = telegram.shown(ANA);
    let all: String = shown.iter().map(|message| message.text.as_str()).collect::<Vec<_>>().join("\n");
    let found: Vec<&str> = all.lines().filter(|line| line.starts_with("let line_")).collect();
    assert_eq!(found, lines, "every line once, whole and in order");
    for message in shown.iter().filter(|message| message.text.contains("let line_")) {
        let pre = message.entities.iter().any(|entity| entity["type"] == "pre");
        assert!(pre, "each part of the code block is a code block: {:?}", message.entities);
    }
}

#[test]
fn markup_is_converted_and_special_characters_survive() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("markup", [model::text("**bold** and `a < b && c` and <script>alert(1)</script> & [link](http://x.example/?a=1&b=2) 🦀")]);
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "markup");
    telegram.wait_text(ANA, "🦀");
    gateway.wait_idle();
    let shown = telegram.shown(ANA);
    assert_eq!(shown[0].text, "bold and a < b && c and <script>alert(1)</script> & link 🦀");
    let kinds: Vec<&str> = shown[0].entities.iter().filter_map(|entity| entity["type"].as_str()).collect();
    assert_eq!(kinds, ["bold", "code", "text_link"]);
}

#[test]
fn strange_updates_are_passed_over() {
    let telegram = Telegram::start();
    let mut gateway = offline(&telegram);
    telegram.push("poll", json!({"id": "5", "question": "?", "options": [], "total_voter_count": 0}));
    telegram.push("something_new", json!({"a": [1, 2, {"b": null}]}));
    telegram.push("message", json!({}));
    telegram.push("message", json!({"message_id": "seven", "chat": 5, "from": []}));
    telegram.push("message", json!({"message_id": 9, "date": 1, "chat": {"id": ANA, "type": "private"}, "from": {"id": ANA, "is_bot": false, "first_name": "A"}, "dice": {"emoji": "🎲", "value": 3}}));
    telegram.push(
        "callback_query",
        json!({"id": "1", "from": {"id": ANA, "is_bot": false, "first_name": "A"}, "chat_instance": "1", "data": "no:such:thing"}),
    );
    telegram.push(
        "my_chat_member",
        json!({"chat": {"id": ANA, "type": "private"}, "from": {"id": ANA}, "date": 1, "old_chat_member": {}, "new_chat_member": {}}),
    );
    // Past them all: a lost update would hold up those after it.
    telegram.user_says(ANA, "echo: still here");
    telegram.wait_text(ANA, "still here");
    telegram.wait_confirmed();
    assert!(gateway.is_running());
    assert_eq!(gateway.adapter("telegram")["state"], "connected");
}

#[test]
fn ids_beyond_32_bits_are_kept() {
    let telegram = Telegram::start();
    let user = (1_i64 << 52) - 1;
    let group = -1_003_999_999_999_999;
    telegram.add_chat(group, "supergroup", &[]);
    telegram.lock().next_update = 9_007_199_254_740_000;
    let _gateway = Gateway::setup().telegram(&telegram).set("adapters.telegram", "allowed_users", &format!("[\"{user}\"]")).start();
    telegram.user_says(user, "echo: big user");
    telegram.wait_text(user, "big user");
    telegram.says(group, user, "@gate_bot echo: big group", json!({}));
    telegram.wait_text(group, "big group");
    telegram.wait_confirmed();
}

#[test]
fn an_edit_of_an_answered_message_does_not_repeat_its_answer() {
    let telegram = Telegram::start();
    let gateway = offline(&telegram);
    let id = telegram.user_says(ANA, "echo: original");
    telegram.wait_text(ANA, "original");
    telegram.user_edits(ANA, ANA, id, "echo: edited");
    telegram.user_says(ANA, "echo: later");
    telegram.wait_text(ANA, "later");
    gateway.wait_idle();
    assert_eq!(telegram.lock().count(ANA, "original"), 1);
}

#[test]
fn a60_an_update_that_is_delivered_twice_is_answered_once() {
    let telegram = Telegram::start();
    let mut gateway = offline(&telegram);
    let id = telegram.user_says(ANA, "echo: only once");
    telegram.wait_text(ANA, "only once");
    telegram.repeat(ANA, id);
    telegram.user_says(ANA, "echo: barrier one");
    telegram.wait_text(ANA, "barrier one");
    // The key is on disk, so that it works across a restart too.
    gateway.stop();
    telegram.repeat(ANA, id);
    gateway.start_again();
    telegram.user_says(ANA, "echo: barrier two");
    telegram.wait_text(ANA, "barrier two");
    gateway.wait_idle();
    assert_eq!(telegram.lock().count(ANA, "only once"), 1);
}

#[test]
fn a_photo_with_a_caption_is_saved_and_named_to_the_model() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let bytes: Vec<u8> = [b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 2000]].concat();
    telegram.add_file("small", "photos/file_2.png", b"\x89PNG\r\n\x1a\nsmall");
    telegram.add_file("big", "photos/file_3.png", &bytes);
    model.rule("what is this", [model::text("a picture")]);
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.add_chat(ANA, "private", &[]);
    let photo = json!([{"file_id": "small", "file_unique_id": "a", "width": 90, "height": 67, "file_size": 13}, {"file_id": "big", "file_unique_id": "b", "width": 1280, "height": 960, "file_size": bytes.len()}]);
    telegram.says(ANA, ANA, "", json!({"photo": photo, "caption": "what is this?"}));
    telegram.wait_text(ANA, "a picture");
    let request = model.wait_request(1, "what is this?");
    let saved = saved_with(&gateway, &bytes);
    assert_eq!(saved.len(), 1, "the biggest size was saved");
    let name = saved[0].file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let image = request.body["messages"].to_string().contains("\"type\":\"image\"");
    assert!(image || request.all().contains(&name), "the model sees the picture or is told where it is: {}", request.body["messages"]);
}

fn saved_with(gateway: &Gateway, bytes: &[u8]) -> Vec<std::path::PathBuf> {
    let files = files_named(gateway.setup.scratch(), "").into_iter();
    files.filter(|file| std::fs::read(file).is_ok_and(|content| content == bytes)).collect()
}

#[test]
fn a_document_keeps_its_name_but_not_its_path() {
    let (telegram, model) = (Telegram::start(), Model::start());
    telegram.add_file("doc", "documents/file_9", b"harmless content");
    model.rule("read it", [model::text("read")]);
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.add_chat(ANA, "private", &[]);
    let document =
        json!({"file_id": "doc", "file_unique_id": "d", "file_name": "../../../home/.bashrc", "mime_type": "text/plain", "file_size": 16});
    telegram.says(ANA, ANA, "", json!({"document": document, "caption": "read it"}));
    telegram.wait_text(ANA, "read");
    let saved = saved_with(&gateway, b"harmless content");
    assert_eq!(saved.len(), 1, "saved once: {saved:?}");
    assert!(saved[0].starts_with(gateway.setup.state_dir()), "it stays where attachments belong: {saved:?}");
    assert!(!gateway.setup.home().join(".bashrc").exists());
}

#[test]
fn a_file_that_cannot_be_had_does_not_lose_the_message() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("the report", [model::text("I cannot see it")]);
    let _gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.add_chat(ANA, "private", &[]);
    let document =
        json!({"file_id": "gone", "file_unique_id": "d", "file_name": "report.pdf", "mime_type": "application/pdf", "file_size": 99});
    telegram.says(ANA, ANA, "", json!({"document": document, "caption": "the report"}));
    telegram.wait_text(ANA, "I cannot see it");
    assert!(model.wait_request(1, "the report").all().contains("report.pdf"), "the model is told of the file it does not get");
}

#[test]
fn an_oversized_message_is_cut_and_answered() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("start-of-it", [model::text("got it")]);
    let _gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, &format!("start-of-it {}", "ü".repeat(400_000)));
    telegram.wait_text(ANA, "got it");
    let length = model.wait_request(1, "start-of-it").user_texts().concat().len();
    assert!(length < 600_000, "the model gets what is allowed, not {length} bytes");
}
