//! What a gateway uses up: descriptors, memory, threads, wake-ups. It must not grow with what happened.

use crate::support::gateway::Gateway;
use crate::support::poll::{self, SOON};
use crate::support::process::{self, descriptors};
use crate::support::telegram::{ANA, Telegram};
use std::time::Duration;

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
