//! What a gateway uses up: descriptors, memory, threads, wake-ups. It must not grow with what happened.

use crate::support::gateway::Gateway;
use crate::support::http::Fault;
use crate::support::model::{self, Model, Protocol, Reply, Step};
use crate::support::poll::{self, SOON};
use crate::support::process::{self, descriptors};
use crate::support::telegram::{ANA, Telegram};
use std::time::Duration;

/// Measured turns; `SOAK_TURNS` makes it ten thousand.
const TURNS: usize = 120;
/// A new conversation after so many, so that transcripts do not grow with the length of the test.
const TURNS_PER_CONVERSATION: usize = 20;

/// Messages one after the other, each with a connection of its own on both sides.
fn exchange(telegram: &Telegram, model: &Model, count: usize) {
    // Each is answered by one message, commands too.
    let said = |text: &str| {
        let before = telegram.lock().chats.get(&ANA).map_or(0, |chat| chat.messages.len());
        telegram.user_says(ANA, text);
        telegram.wait(SOON, &format!("an answer to {text:?}"), |state| (state.chats[&ANA].messages.len() >= before + 2).then_some(()));
    };
    for number in 0..count {
        said(if number % 4 == 0 { "use a tool" } else { "just answer" });
        if number % TURNS_PER_CONVERSATION == 0 {
            said("/new");
            model.forget_bodies();
        }
    }
}

#[test]
fn a54_a55_descriptors_threads_and_memory_stay_flat_over_turns_and_reconnects() {
    let turns = std::env::var("SOAK_TURNS").ok().and_then(|turns| turns.parse().ok()).unwrap_or(TURNS);
    let (telegram, model) = (Telegram::start(), Model::start());
    let tool = Reply::Stream(vec![model::shell("true"), Step::Pause(Duration::ZERO)]);
    model.rule("use a tool", [tool, model::text("a tool was used")]);
    model.rule("just answer", [model::text("an answer")]);
    telegram.fail("getUpdates", Fault::CloseAfter, usize::MAX);
    telegram.fail("sendMessage", Fault::CloseAfter, usize::MAX);
    let gateway = Gateway::setup()
        .telegram(&telegram)
        .model(&model, Protocol::Anthropic)
        .set("adapters.telegram", "streaming", "false")
        .set("log", "level", "\"info\"")
        .start();
    exchange(&telegram, &model, turns / 3);
    gateway.wait_idle();
    let (before, connections) = (gateway.footprint(), telegram.server.connections());
    exchange(&telegram, &model, turns);
    gateway.wait_idle();
    let (after, connections) = (gateway.footprint(), telegram.server.connections() - connections);
    println!("{turns} turns, {connections} connections: {before:?} {after:?}");
    assert!(connections >= 2 * turns as u64 - turns as u64 / 3, "there were many reconnects: {connections}");
    assert!(after.descriptors <= before.descriptors + 3, "{before:?} {after:?}: {:#?}", descriptors(gateway.pid()));
    assert!(after.threads <= before.threads + 2, "{before:?} {after:?}");
    assert!(after.rss_kib <= before.rss_kib + 6 * 1024, "{before:?} {after:?}");
    let sockets = descriptors(gateway.pid()).iter().filter(|path| path.to_string_lossy().starts_with("socket:")).count();
    assert!(sockets <= 12, "{sockets} sockets while idle");
}

#[test]
fn a54_failed_connects_leave_nothing_open() {
    let telegram = Telegram::start();
    let gateway = Gateway::setup().telegram(&telegram).start();
    telegram.user_says(ANA, "echo: warm");
    telegram.wait_text(ANA, "warm");
    gateway.wait_idle();
    let before = gateway.footprint();
    for round in 0..4 {
        telegram.server.go_down();
        gateway.wait_adapter("telegram", "retrying");
        telegram.server.come_back();
        telegram.user_says(ANA, &format!("echo: round {round}"));
        telegram.wait_text_within(Duration::from_secs(45), ANA, &format!("round {round}"));
    }
    gateway.wait_idle();
    let after = gateway.footprint();
    assert!(after.descriptors <= before.descriptors + 3, "{before:?} {after:?}: {:#?}", descriptors(gateway.pid()));
    assert!(after.threads <= before.threads + 1, "{before:?} {after:?}");
}

#[test]
fn a54_status_questions_leave_nothing_open() {
    let gateway = Gateway::setup().start();
    gateway.status();
    let before = gateway.footprint();
    for _ in 0..30 {
        gateway.status();
    }
    let after = gateway.footprint();
    assert!(after.descriptors <= before.descriptors + 1 && after.threads <= before.threads + 1, "{before:?} {after:?}");
}

#[test]
fn an_idle_gateway_sleeps() {
    let telegram = Telegram::start();
    let mut gateway =
        Gateway::setup().telegram(&telegram).set("adapters.telegram", "poll_timeout", "50").set("log", "level", "\"info\"").start();
    telegram.user_says(ANA, "echo: warm");
    telegram.wait_text(ANA, "warm");
    gateway.wait_idle();
    // What comes after an answer (renewals, closing connections) is over after a moment.
    poll::never(Duration::from_secs(3), "the gateway ends", || !gateway.is_running());
    let before = process::switches(gateway.pid());
    poll::never(Duration::from_secs(10), "the gateway ends", || !gateway.is_running());
    let woken = process::switches(gateway.pid()).saturating_sub(before);
    assert!(woken <= 10, "{woken} wake-ups in 10 s");
}

#[test]
fn a_flood_of_messages_is_taken_and_answered() {
    let telegram = Telegram::start();
    let users: Vec<i64> = (0..12).map(|number| 90_000 + number).collect();
    let gateway = Gateway::setup()
        .telegram(&telegram)
        .set("adapters.telegram", "allowed_users", "[\"*\"]")
        .set("session", "busy", "\"queue\"")
        .start();
    for number in 0..10 {
        for user in &users {
            telegram.user_says(*user, &format!("echo: <{user} {number}>"));
        }
    }
    for user in &users {
        let count = |number: usize| format!("<{user} {number}>");
        telegram.wait(Duration::from_secs(60), "all answers", |state| {
            (0..10).all(|number| state.count(*user, &count(number)) == 1).then_some(())
        });
        let texts = telegram.texts(*user);
        assert_eq!(texts, (0..10).map(count).collect::<Vec<_>>(), "in order, each once");
    }
    gateway.wait_idle();
    assert!(gateway.footprint().threads < 30, "{:?}", gateway.footprint());
}

#[test]
fn a54_slow_and_broken_clients_of_the_control_socket_harm_nobody() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let gateway = Gateway::setup().start();
    let sockets: Vec<_> = crate::support::gateway::files_named(gateway.setup.scratch(), "")
        .into_iter()
        .filter(|path| {
            use std::os::unix::fs::FileTypeExt;
            std::fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket())
        })
        .collect();
    let socket = sockets.first().expect("the control socket");
    let mut clients: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(socket).expect("a connection")).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let bytes: &[u8] = match number % 4 {
            0 => b"{\"half\": ",
            1 => b"not json at all\n",
            2 => b"\xff\xfe\n",
            _ => b"",
        };
        let _ = client.write_all(bytes);
    }
    gateway.status();
    gateway.chat("echo: still served").expect(0).says("still served");
    drop(clients);
    poll::eventually(SOON, "their descriptors are closed", || (gateway.footprint().descriptors < 40).then_some(()));
}
