//! The model server gone wrong: silence, errors, cuts; retries, fallback, and what the person is told.

use crate::support::faults::FullBacklog;
use crate::support::gateway::{Gateway, Setup, quoted};
use crate::support::model::{self, End, Model, Protocol, Reply, Step, status};
use crate::support::poll::SOON;
use crate::support::telegram::{ANA, Telegram};
use serde_json::json;
use std::time::{Duration, Instant};

const BOTH: [Protocol; 2] = [Protocol::Anthropic, Protocol::OpenAi];

fn setup(telegram: &Telegram, model: &Model, protocol: Protocol) -> Setup {
    Gateway::setup().telegram(telegram).model(model, protocol).set("provider", "silence_timeout", "\"2s\"")
}

/// Each of these happens to one call; the next one is answered, and the person sees that answer.
fn survive(replies: Vec<Reply>) {
    for protocol in BOTH {
        let (telegram, model) = (Telegram::start(), Model::start());
        let mut gateway = setup(&telegram, &model, protocol).start();
        for (number, reply) in replies.iter().enumerate() {
            let question = format!("question-{number}");
            model.rule(&question, [model::text(&format!("answer-{number} at last"))]);
            model.once(&question, reply.clone());
            telegram.user_says(ANA, &question);
            telegram.wait_text_within(Duration::from_secs(40), ANA, &format!("answer-{number} at last"));
        }
        gateway.wait_idle();
        assert!(gateway.is_running());
        for (number, reply) in replies.iter().enumerate() {
            let shown = telegram.lock().count(ANA, &format!("answer-{number} at last"));
            assert_eq!(shown, 1, "{protocol:?} {reply:?}: {:?}", telegram.texts(ANA));
        }
    }
}

#[test]
fn a68_errors_are_tried_again() {
    survive(vec![status(500, None), status(529, None), status(429, Some(1)), status(503, None)]);
}

#[test]
fn a68_broken_connections_are_tried_again() {
    survive(vec![Reply::Reset, Reply::Garbage, Reply::Stream(vec![Step::Text("part one, ".to_owned()), Step::Reset])]);
}

#[test]
fn a68_broken_streams_are_tried_again() {
    let begun = || Step::Text("a beginning ".to_owned());
    let error = Step::Error { kind: "overloaded_error".to_owned(), message: "Overloaded".to_owned() };
    survive(vec![
        Reply::Stream(vec![begun(), Step::Cut]),
        Reply::Stream(vec![begun(), Step::CutInCharacter("price: 5 €".to_owned())]),
        Reply::Stream(vec![begun(), error]),
        Reply::Stream(vec![begun(), Step::Garbage]),
    ]);
}

#[test]
fn a68_silence_is_found_before_and_in_the_middle_of_an_answer() {
    survive(vec![Reply::Silent, Reply::Stream(vec![Step::Text("and then ".to_owned()), Step::Silent])]);
}

#[test]
fn a68_the_person_is_told_of_a_silent_provider_once() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("anybody", [Reply::Stream(vec![Step::Pause(Duration::from_millis(1500)), Step::Text("yes, here".to_owned())])]);
    model.once("anybody", Reply::Silent);
    model.once("anybody", Reply::Silent);
    let gateway = setup(&telegram, &model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "anybody there?");
    telegram.wait_text(ANA, "No response from provider for 2s");
    telegram.wait_text_within(Duration::from_secs(40), ANA, "yes, here");
    gateway.wait_idle();
    let texts = telegram.texts(ANA);
    assert!(texts.len() <= 2, "one notice that is edited, not one a try: {texts:?}");
    assert!(texts.iter().any(|text| text.ends_with("yes, here")));
}

#[test]
fn a68_a_fallback_answers_when_the_first_provider_is_silent() {
    let (telegram, silent, second) = (Telegram::start(), Model::start(), Model::start());
    silent.rule("", [Reply::Silent]);
    second.rule("help me", [model::text("the second one helps")]);
    let setup = setup(&telegram, &silent, Protocol::Anthropic).set("provider", "retries", "1").fallback(&second, Protocol::OpenAi);
    let _gateway = setup.start();
    let begun = Instant::now();
    telegram.user_says(ANA, "help me");
    telegram.wait_text_within(Duration::from_secs(40), ANA, "the second one helps");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

#[test]
fn a68_a_refused_key_goes_to_the_fallback_at_once() {
    for code in [401, 403, 404] {
        let (telegram, first, second) = (Telegram::start(), Model::start(), Model::start());
        first.rule("", [status(code, None)]);
        second.rule("help me", [model::text("helped by the second")]);
        let _gateway = setup(&telegram, &first, Protocol::OpenAi).fallback(&second, Protocol::Anthropic).start();
        telegram.user_says(ANA, "help me");
        telegram.wait_text(ANA, "helped by the second");
        assert_eq!(first.journal().len(), 1, "{code}: the same key is not tried again and again");
    }
}

#[test]
fn an_error_that_nobody_can_mend_is_told() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("", [status(401, None)]);
    let gateway = setup(&telegram, &model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "hello?");
    telegram.wait(SOON, "an explanation", |state| state.chats[&ANA].messages.iter().find(|message| message.from_bot).map(|_| ()));
    gateway.wait_idle();
    let texts = telegram.texts(ANA);
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(!texts[0].contains("sk-fake-secret"));
    assert!(!gateway.log_lines().concat().contains("sk-fake-secret"), "the key is in the log");
    model.rule("", [model::text("mended")]);
    telegram.user_says(ANA, "and now?");
    telegram.wait_text(ANA, "mended");
}

#[test]
fn a79_a_tool_call_that_was_cut_is_never_run() {
    for protocol in BOTH {
        let (telegram, model) = (Telegram::start(), Model::start());
        // Complete JSON, but the stream ends before the block does.
        let cut = |partial: &str| Reply::Stream(vec![Step::CutInTool { name: "shell".to_owned(), partial: partial.to_owned() }]);
        model.once("build", cut("{\"command\": \"touch must-not-exist\"}"));
        model.once("build", cut("{\"command\": \"touch must-not-ex"));
        model.rule("build", [model::text("built without it")]);
        let gateway = setup(&telegram, &model, protocol).start();
        telegram.user_says(ANA, "build");
        telegram.wait_text_within(Duration::from_secs(40), ANA, "built without it");
        gateway.wait_idle();
        assert!(!gateway.setup.home().join("must-not-exist").exists(), "{protocol:?}");
        assert!(!gateway.setup.home().join("must-not-ex").exists(), "{protocol:?}");
    }
}

#[test]
fn streams_are_read_however_they_are_cut() {
    for (protocol, size) in BOTH.into_iter().zip([1, 3]) {
        let (telegram, model) = (Telegram::start(), Model::start());
        let call = Reply::Stream(vec![Step::Text("Grüße 🦀 ".to_owned()), model::shell("echo ünï-$((4 + 4))")]);
        model.rule("pieces", [call, model::text("всё готово ✓")]);
        model.fragment(size);
        let gateway = setup(&telegram, &model, protocol).start();
        telegram.user_says(ANA, "pieces");
        telegram.wait_text(ANA, "всё готово ✓");
        assert!(model.wait_request(2, "pieces").all().contains("ünï-8"));
        gateway.wait_idle();
    }
}

#[test]
fn a_reply_that_trickles_is_ended_by_the_turn_s_own_bound() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("drip", [Reply::SlowLoris("word ".repeat(2000))]);
    model.rule("next", [model::text("the next is fine")]);
    let gateway = setup(&telegram, &model, Protocol::Anthropic).set("provider", "turn_timeout", "\"5s\"").start();
    telegram.user_says(ANA, "drip");
    let asked = model.wait_request(1, "drip").at;
    let (ended, end) = model.wait_end(1, "drip");
    assert_eq!(end, End::ClientGone);
    assert!(ended - asked < Duration::from_secs(12), "{:?}", ended - asked);
    telegram.wait(SOON, "a word about it", |state| state.chats[&ANA].messages.iter().find(|message| message.from_bot).map(|_| ()));
    telegram.user_says(ANA, "next");
    telegram.wait_text(ANA, "the next is fine");
    gateway.wait_idle();
}

#[test]
fn a68_stop_frees_the_session_whatever_the_provider_does() {
    let full = FullBacklog::start();
    for fault in [Some(Reply::Silent), Some(Reply::SlowLoris("x".repeat(500))), None] {
        let (telegram, model) = (Telegram::start(), Model::start());
        let mut setup = Gateway::setup().telegram(&telegram).model(&model, Protocol::OpenAi).set("provider", "silence_timeout", "\"60s\"");
        match &fault {
            Some(reply) => model.rule("hang", [reply.clone()]),
            None => setup = setup.set("provider", "base_url", &quoted(&format!("{}/v1", full.url()))),
        }
        let gateway = setup.start();
        telegram.user_says(ANA, "hang");
        gateway.wait_status("a turn runs", |status| (status["turns"].as_array()?.len() == 1).then_some(()));
        let begun = Instant::now();
        telegram.user_says(ANA, "/stop");
        if fault.is_some() {
            let (ended, end) = model.wait_end(1, "hang");
            assert_eq!(end, End::ClientGone);
            assert!(ended - begun < Duration::from_secs(2), "{fault:?}: the socket is closed at once: {:?}", ended - begun);
        }
        gateway.wait_status("no turn", |status| (status["turns"].as_array()?.is_empty()).then_some(()));
        assert!(begun.elapsed() < Duration::from_secs(6), "{fault:?}: {:?}", begun.elapsed());
    }
}

#[test]
fn an_unknown_tool_and_bad_input_are_told_to_the_model() {
    for protocol in BOTH {
        let (telegram, model) = (Telegram::start(), Model::start());
        let calls = vec![
            Step::Tool { name: "no_such_tool".to_owned(), input: json!({"x": 1}) },
            Step::Tool { name: "shell".to_owned(), input: json!({"wrong": true}) },
            model::shell("exit 3"),
        ];
        model.rule("try these", [Reply::Stream(calls), model::text("none of them worked")]);
        let gateway = setup(&telegram, &model, protocol).start();
        telegram.user_says(ANA, "try these");
        telegram.wait_text(ANA, "none of them worked");
        let request = model.wait_request(2, "try these").all();
        assert!(request.contains("no_such_tool") && request.contains('3'), "{request}");
        gateway.wait_idle();
    }
}

#[test]
fn a_model_that_never_stops_calling_tools_is_stopped() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("for ever", [Reply::Stream(vec![model::shell("true")])]);
    model.rule("enough", [model::text("thank you")]);
    let setup = setup(&telegram, &model, Protocol::Anthropic).set("provider", "turn_timeout", "\"6s\"");
    let gateway = setup.start();
    telegram.user_says(ANA, "for ever");
    gateway.wait_status("a turn runs", |status| (status["turns"].as_array()?.len() == 1).then_some(()));
    gateway.wait_status("it is ended", |status| (status["turns"].as_array()?.is_empty()).then_some(()));
    let texts = telegram.texts(ANA);
    assert!(!texts.is_empty(), "the person is told");
    telegram.user_says(ANA, "enough");
    telegram.wait_text(ANA, "thank you");
}

#[test]
fn a_provider_that_is_away_is_told_and_found_again() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("are you there", [model::text("I am back")]);
    model.server.go_down();
    let gateway = setup(&telegram, &model, Protocol::Anthropic).set("provider", "retries", "1").start();
    telegram.user_says(ANA, "are you there?");
    telegram.wait(Duration::from_secs(40), "a word about it", |state| {
        state.chats[&ANA].messages.iter().find(|message| message.from_bot).map(|_| ())
    });
    model.server.come_back();
    telegram.user_says(ANA, "are you there now?");
    telegram.wait_text(ANA, "I am back");
    gateway.wait_idle();
}
