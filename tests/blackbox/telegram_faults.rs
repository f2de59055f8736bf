//! The Bot API server gone wrong, in every way: the gateway goes on, and people get their answers.

use crate::support::faults::{FullBacklog, Proxy, Way};
use crate::support::gateway::{Gateway, STOP_BUDGET};
use crate::support::http::Fault;
use crate::support::poll::SOON;
use crate::support::telegram::{ANA, Telegram};
use std::time::{Duration, Instant};

/// With backoff and a client time-out in between.
const LATER: Duration = Duration::from_secs(45);

/// Puts the faults one after the other on `method`; after each a message must be answered, by the same process.
fn survive(method: &str, faults: &[Fault]) {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).set("adapters.telegram", "streaming", "false").start();
    for (number, fault) in faults.iter().enumerate() {
        telegram.fail(method, fault.clone(), 1);
        let answer = format!("answer {number} after {method}");
        telegram.user_says(ANA, &format!("echo: {answer}"));
        telegram.wait_text_within(LATER, ANA, &answer);
        let left: usize = telegram.lock().faults.iter().map(|(_, _, count)| count).sum();
        assert_eq!(left, 0, "{fault:?} was met");
    }
    assert!(gateway.is_running());
    gateway.wait_idle();
    for number in 0..faults.len() {
        assert_once(&telegram, &format!("answer {number} after {method}"));
    }
}

/// Shown once; a second time only with the mark that says so.
fn assert_once(telegram: &Telegram, answer: &str) {
    let copies: Vec<String> = telegram.texts(ANA).into_iter().filter(|text| text.contains(answer)).collect();
    assert!(!copies.is_empty(), "{answer:?} is missing");
    let unmarked = copies.iter().filter(|copy| !copy.contains("duplicate")).count();
    assert!(unmarked <= 1 && copies.len() <= 2, "{answer:?}: {copies:?}");
}

#[test]
fn a45_polling_survives_broken_answers() {
    survive("getUpdates", &[Fault::Reset, Fault::Garbage, Fault::NotJson, Fault::InvalidUtf8, Fault::CloseAfter]);
}

#[test]
fn a45_polling_survives_errors_and_cuts() {
    let status = |code, retry_after| Fault::Status { code, retry_after };
    survive("getUpdates", &[status(500, None), status(502, None), status(429, Some(1)), Fault::AnswerThenCut, Fault::ApplyThenDrop]);
}

#[test]
fn a45_polling_survives_too_much() {
    survive("getUpdates", &[Fault::Oversized(100 << 20), Fault::HalfClose]);
}

#[test]
fn a49_polling_survives_silence_and_a_second_poller() {
    survive("getUpdates", &[Fault::BlackHole, Fault::Status { code: 409, retry_after: None }]);
}

#[test]
fn a61_sending_survives_what_was_surely_not_delivered() {
    let telegram = Telegram::start();
    let gateway = Gateway::setup().telegram(&telegram).set("adapters.telegram", "streaming", "false").start();
    for (number, (code, retry_after)) in [(500, None), (502, None), (429, Some(1)), (429, Some(2))].into_iter().enumerate() {
        telegram.fail("sendMessage", Fault::Status { code, retry_after }, 1);
        let begun = Instant::now();
        telegram.user_says(ANA, &format!("echo: sure {number}"));
        telegram.wait_text_within(LATER, ANA, &format!("sure {number}"));
        assert!(begun.elapsed() >= Duration::from_secs(retry_after.unwrap_or(0)), "the server's wish is kept");
    }
    gateway.wait_idle();
    assert_eq!(telegram.texts(ANA), ["sure 0", "sure 1", "sure 2", "sure 3"], "each once, without a mark");
}

#[test]
fn a61_sending_marks_what_may_be_a_duplicate() {
    survive("sendMessage", &[Fault::ApplyThenDrop, Fault::AnswerThenCut, Fault::Reset, Fault::Garbage]);
}

#[test]
fn a61_a_send_that_is_never_answered_is_given_up_and_sent_again() {
    survive("sendMessage", &[Fault::ApplyThenHold]);
}

#[test]
fn a_wrong_token_fails_the_adapter_and_nothing_else() {
    let telegram = Telegram::start();
    let setup = Gateway::setup().telegram(&telegram).set("adapters.telegram", "token", "\"123456:WRONG-secret-part\"");
    let gateway = setup.start();
    let adapter = gateway.wait_adapter("telegram", "failed");
    assert!(adapter["error"].as_str().is_some_and(|error| error.contains("401") || error.to_lowercase().contains("token")), "{adapter}");
    gateway.chat("echo: the rest works").expect(0).says("the rest works");
    gateway.cli(&["status"]).expect(1).says("telegram");
    let told = gateway.log_lines().iter().filter(|line| line.contains("telegram") && line.contains("error")).count();
    assert!((1..=2).contains(&told), "told once, not again and again: {:#?}", gateway.log_lines());
    let everything = gateway.log_lines().concat();
    assert!(!everything.contains("WRONG-secret-part"), "the token is in the log");
}

#[test]
fn a44_a_token_that_is_revoked_later_fails_the_adapter_alone() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    telegram.user_says(ANA, "echo: before");
    telegram.wait_text(ANA, "before");
    telegram.fail("*", Fault::Status { code: 401, retry_after: None }, 1_000);
    gateway.wait_adapter("telegram", "failed");
    assert!(gateway.is_running());
    gateway.chat("echo: alive").expect(0).says("alive");
}

#[test]
fn a49_a_server_that_goes_down_and_comes_back_is_found_again() {
    let telegram = Telegram::start();
    let gateway = Gateway::setup().telegram(&telegram).start();
    gateway.wait_adapter("telegram", "connected");
    for round in 0..2 {
        telegram.server.go_down();
        let retrying = gateway.wait_adapter("telegram", "retrying");
        assert!(retrying["error"].is_string() && retrying["next_try_ms"].is_u64(), "status says why and when: {retrying}");
        telegram.user_says(ANA, &format!("echo: while you were away {round}"));
        telegram.server.come_back();
        telegram.wait_text_within(LATER, ANA, &format!("while you were away {round}"));
        gateway.wait_adapter("telegram", "connected");
    }
}

#[test]
fn a48_a_connection_that_only_looks_open_is_found_dead() {
    let telegram = Telegram::start();
    let proxy = Proxy::start(telegram.server.address);
    let gateway = Gateway::setup().telegram_at(&telegram, &proxy.url()).start();
    telegram.user_says(ANA, "echo: through the proxy");
    telegram.wait_text(ANA, "through the proxy");
    proxy.set(Way::BlackHole);
    let begun = Instant::now();
    gateway.wait_adapter("telegram", "retrying");
    assert!(begun.elapsed() < SOON, "found within the poll's time-out and a margin");
    proxy.set(Way::Open);
    telegram.user_says(ANA, "echo: back again");
    telegram.wait_text_within(LATER, ANA, "back again");
}

#[test]
fn a56_a80_a_connect_that_hangs_holds_up_neither_the_start_nor_the_stop() {
    let (telegram, full) = (Telegram::start(), FullBacklog::start());
    let begun = Instant::now();
    let mut gateway = Gateway::setup().telegram_at(&telegram, &full.url()).start();
    assert!(begun.elapsed() < Duration::from_secs(8), "ready although Telegram is not: {:?}", begun.elapsed());
    gateway.chat("echo: others work").expect(0).says("others work");
    let state = gateway.adapter("telegram")["state"].clone();
    assert!(state == "connecting" || state == "retrying", "{state}");
    let exit = gateway.stop();
    assert!(exit.elapsed < STOP_BUDGET, "{exit:?}");
}

#[test]
fn a12_servers_that_trickle_or_never_answer_hold_up_no_stop() {
    for fault in [Fault::SlowLoris, Fault::BlackHole, Fault::HalfClose] {
        let telegram = Telegram::start();
        telegram.fail("*", fault.clone(), 1_000);
        let mut gateway = Gateway::setup().telegram(&telegram).start();
        telegram.wait_call("getMe", 1, |_| true);
        let exit = gateway.stop();
        assert!(exit.elapsed < STOP_BUDGET, "{fault:?}: {exit:?}");
    }
}

#[test]
fn a50_a_poll_that_trickles_does_not_stop_other_work() {
    let telegram = Telegram::start();
    let gateway = Gateway::setup().telegram(&telegram).start();
    gateway.wait_adapter("telegram", "connected");
    telegram.fail("getUpdates", Fault::SlowLoris, 1);
    telegram.user_says(ANA, "echo: trickled");
    telegram.wait(SOON, "the slow poll", |state| state.journal.iter().find(|call| call.fault == Some(Fault::SlowLoris)).map(|_| ()));
    gateway.cli(&["send", "--to", &format!("telegram:{ANA}"), "sent meanwhile"]).expect(0);
    telegram.wait_text(ANA, "sent meanwhile");
    telegram.wait_text_within(Duration::from_secs(60), ANA, "trickled");
}

#[test]
fn markup_that_the_server_refuses_is_sent_without() {
    let telegram = Telegram::start();
    let _gateway = Gateway::setup().telegram(&telegram).start();
    // Bare and broken tags, as a model may write them.
    telegram.user_says(ANA, "echo: <b>unclosed <i> & </b> <unknown attr='x'> ``` never closed **bold");
    telegram.wait_text(ANA, "never closed");
}
