//! Servers that refuse, lie or fall silent, and what the operator is told.

use super::{assert_no_secret, offline, setup};
use crate::platforms::Platform;
use crate::support::feishu::{ANA_CHAT, Feishu, Wrong, refuse};
use crate::support::feishu_frame::{Packet, field};
use crate::support::gateway::{Gateway, quoted};
use crate::support::http::Fault;
use crate::support::poll::SOON;
use std::time::{Duration, Instant};

const LATER: Duration = Duration::from_secs(45);

fn slice(sum: &str, seq: &str, payload: &[u8]) -> Vec<u8> {
    let header = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let headers = vec![header("type", "event"), header("message_id", "lie"), header("sum", sum), header("seq", seq)];
    Packet { service: 1, method: 1, headers, payload: Some(payload.to_vec()), ..Packet::default() }.bytes()
}

/// After each bad frame there is a line in the log and a new connection, and what was said meanwhile is answered.
fn survive(bad: &[(&str, Vec<u8>)]) {
    let feishu = Feishu::start();
    let mut gateway = offline(&feishu);
    for (number, (what, bytes)) in bad.iter().enumerate() {
        let lines = gateway.log_lines().len();
        feishu.hold();
        feishu.frame(bytes);
        let answer = format!("after bad frame {number}");
        feishu.says(&format!("echo: {answer}"));
        feishu.wait(LATER, &format!("a new connection after: {what}"), |state| (state.connects >= number + 2).then_some(()));
        feishu.release();
        feishu.wait(LATER, &answer, |state| (state.count(ANA_CHAT, &answer) > 0).then_some(()));
        let told = gateway.log_lines().into_iter().skip(lines).any(|line| line.contains("feishu") && line.to_lowercase().contains("warn"));
        assert!(told, "{what}: {:#?}", gateway.log_lines());
        gateway.wait_adapter("feishu", "connected");
    }
    assert!(gateway.is_running());
    gateway.wait_idle();
    assert_eq!(feishu.texts().len(), bad.len(), "each once");
}

#[test]
fn frames_that_cannot_be_end_the_connection_and_lose_nothing() {
    let good = Packet { method: 1, payload: Some(b"{}".to_vec()), ..Packet::default() }.bytes();
    let mut long_field = vec![0x08, 0, 0x10, 0, 0x18, 0, 0x20, 0];
    field(0x42, &[0; 300], &mut long_field);
    survive(&[
        ("cut off", good[..good.len() - 1].to_vec()),
        ("a length beyond the end", long_field[..100].to_vec()),
        ("not protobuf", b"GET / HTTP/1.1\r\n\r\n\xff\xff".to_vec()),
        ("without required fields", vec![0x20, 0x01]),
        ("empty", Vec::new()),
    ]);
}

#[test]
fn slices_that_lie_end_the_connection_and_lose_nothing() {
    survive(&[
        ("no such slice", slice("2", "2", b"x")),
        ("too many slices", slice("1000000000", "0", b"x")),
        ("no number", slice("two", "0", b"x")),
        ("oversized", slice("1", "0", &vec![b' '; 5 << 20])),
    ]);
}

#[test]
fn a_silent_connection_is_found_dead() {
    let feishu = Feishu::start();
    let gateway = offline(&feishu);
    feishu.change(|state| state.answers_pings = false);
    let begun = Instant::now();
    feishu.wait(SOON, "the connection is given up", |state| state.clients.is_empty().then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(5), "within two intervals and a little: {:?}", begun.elapsed());
    feishu.change(|state| state.answers_pings = true);
    feishu.says("echo: heard again");
    feishu.wait(LATER, "the answer", |state| (state.count(ANA_CHAT, "heard again") == 1).then_some(()));
    gateway.wait_for_log("nothing was heard", SOON);
}

#[test]
fn a_gateway_that_stops_says_goodbye() {
    let feishu = Feishu::start();
    let mut gateway = offline(&feishu);
    gateway.stop();
    // An event would be given to the dead connection otherwise.
    feishu.wait(SOON, "a goodbye", |state| (state.goodbyes == [1000]).then_some(()));
}

#[test]
fn a_server_that_sends_everybody_away_is_asked_less_and_less() {
    let feishu = Feishu::start();
    feishu.change(|state| state.slams = true);
    let gateway = setup(&feishu).start();
    gateway.wait_status("the third attempt", |status| (status["adapters"][0]["attempt"].as_u64()? >= 3).then_some(()));
    assert!(feishu.connects() <= 4, "{} connections", feishu.connects());
    feishu.change(|state| state.slams = false);
    gateway.wait_adapter("feishu", "connected");
}

#[test]
fn discovery_comes_before_each_connect() {
    let feishu = Feishu::start();
    let _gateway = offline(&feishu);
    for round in 1..4 {
        feishu.server().cut_all();
        feishu.wait(LATER, "connected again", |state| {
            (state.connects > round && state.clients.iter().any(|client| client.ready)).then_some(())
        });
    }
    assert!(feishu.calls("discovery").len() >= 4, "each ticket is good for one connection");
    assert_eq!(feishu.calls("bot").len(), 1, "who the bot is does not change");
    feishu.says("echo: the fourth connection");
    feishu.wait_text(ANA_CHAT, "the fourth connection");
}

#[test]
fn a_discovery_that_fails_for_now_is_tried_again() {
    for wrong in [
        refuse(200, 1, "system busy"),
        refuse(200, 1_000_040_343, "internal error"),
        Wrong::Http(Fault::Status { code: 502, retry_after: None }),
        Wrong::Http(Fault::NotJson),
        Wrong::Http(Fault::Reset),
    ] {
        let feishu = Feishu::start();
        feishu.fail("discovery", wrong.clone(), 2);
        let gateway = setup(&feishu).start();
        gateway.wait_status(&format!("{wrong:?} is overcome"), |status| (status["adapters"][0]["state"] == "connected").then_some(()));
        assert!(feishu.calls("discovery").len() >= 3);
    }
}

#[test]
fn what_only_the_operator_can_help_fails_the_adapter_with_a_remedy() {
    for (method, code, remedy) in [
        ("discovery", 514, "persistent connection"),
        ("discovery", 403, "published"),
        ("discovery", 1_000_040_344, "app_secret"),
        ("token", 10_014, "app_secret"),
    ] {
        let feishu = Feishu::start();
        feishu.fail(method, refuse(200, code, "no"), 1000);
        let gateway = setup(&feishu).start();
        let adapter = gateway.wait_adapter("feishu", "failed");
        assert!(adapter.to_string().contains(&code.to_string()), "{method} {code}: {adapter}");
        gateway.wait_for_log(remedy, SOON);
        gateway.chat("echo: the rest works").expect(0).says("the rest works");
    }
}

#[test]
fn a_wrong_secret_fails_and_is_not_told() {
    let feishu = Feishu::start();
    let gateway = setup(&feishu).set("adapters.feishu", "app_secret", &quoted("WRONG-secret-part")).start();
    gateway.wait_adapter("feishu", "failed");
    let everything = gateway.log_lines().concat() + &gateway.status().to_string();
    assert!(!everything.contains("WRONG-secret-part"));
}

#[test]
fn a_full_app_is_tried_again_slowly() {
    let feishu = Feishu::start();
    feishu.fail("discovery", refuse(200, 1_000_040_350, "exceed connection limit"), 1);
    let gateway = setup(&feishu).start();
    let adapter = gateway.wait_adapter("feishu", "retrying");
    assert!(adapter["error"].as_str().is_some_and(|error| error.contains("too many connections")), "{adapter}");
    assert!(adapter["next_try_ms"].as_u64().is_some_and(|next| next > 20_000), "{adapter}");
}

#[test]
fn doctor_names_the_bot_or_what_is_missing() {
    let feishu = Feishu::start();
    let gateway = setup(&feishu).start();
    gateway.cli(&["doctor"]).says("Gate");
    feishu.fail(
        "bot",
        refuse(400, 99_991_672, "Access denied. One of the following scopes is required: [im:message, im:message:send_as_bot]."),
        1,
    );
    gateway.cli(&["doctor"]).says("im:message or im:message:send_as_bot");
    feishu.change(|state| state.missing_scope = Some("im:message:send_as_bot"));
    gateway.cli(&["doctor"]).says("grant im:message:send_as_bot");
    feishu.change(|state| state.missing_scope = None);
    feishu.fail("token", refuse(200, 10_014, "app secret invalid"), 1);
    gateway.cli(&["doctor"]).says("app_secret");
    feishu.fail("discovery", refuse(200, 514, "auth failed"), 1);
    gateway.cli(&["doctor"]).says("persistent connection");
    assert_no_secret(&feishu, &gateway);
}

#[test]
fn a_missing_permission_to_send_is_named_in_the_status() {
    let feishu = Feishu::start();
    let gateway: Gateway = offline(&feishu);
    feishu.change(|state| state.missing_scope = Some("im:message:send_as_bot"));
    feishu.says("echo: cannot be sent");
    let adapter = gateway.wait_adapter("feishu", "failed");
    assert!(adapter["error"].as_str().is_some_and(|error| error.contains("im:message:send_as_bot")), "{adapter}");
    gateway.wait_for_log("grant im:message:send_as_bot", SOON);
}
