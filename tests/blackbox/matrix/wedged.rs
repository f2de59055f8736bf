//! Adapter threads with a defect: cut, replaced and left behind, whatever they do, and as many as there are.

use super::world::short_phases;
use super::{BUDGET, SLACK};
use crate::support::gateway::{Gateway, STOP_BUDGET, Setup, quoted};
use crate::support::poll::{self, SOON};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// An adapter of the platform that misbehaves.
fn faulty(setup: Setup, name: &str, keys: &[(&str, &str)]) -> Setup {
    let section = format!("adapters.{name}");
    let setup = setup.set(&section, "platform", "\"fault\"").set(&section, "allowed_users", "[\"*\"]");
    keys.iter().fold(setup, |setup, (key, value)| setup.set(&section, key, &quoted(value)))
}

fn send(gateway: &Gateway, text: &str) {
    let chat = json!({"adapter": "fault", "chat": "1"});
    gateway.ask(&json!({"do": "send", "chat": chat, "text": text})).expect("queued");
}

fn threads<'a>(status: &'a Value, name: &'a str) -> impl Iterator<Item = &'a Value> {
    status["threads"].as_array().into_iter().flatten().filter(move |thread| thread["name"] == name)
}

#[test]
fn a11_the_time_of_a_stop_does_not_grow_with_the_number_of_wedged_adapters() {
    let mut times = Vec::new();
    for count in [1, 20] {
        let names: Vec<String> = (0..count).map(|number| format!("fault-{number}")).collect();
        let setup = names.iter().fold(short_phases(Gateway::setup()), |setup, name| faulty(setup, name, &[("receive", "ignore_token")]));
        let mut gateway = setup.start();
        for name in &names {
            gateway.wait_adapter(name, "connected");
        }
        gateway.signal(Signal::SIGTERM);
        let exit = gateway.wait_exit(BUDGET + SLACK);
        // Threads that were left behind are no reason for another code.
        assert_eq!(exit.code, Some(0), "{exit:?}\n{}", gateway.log_tail());
        gateway.assert_nothing_left();
        let report = gateway.log_lines();
        let named = names.iter().filter(|name| report.iter().any(|line| line.contains(*name) && line.contains("abandoned")));
        assert_eq!(named.count(), count, "each of them is named: {report:#?}");
        assert!(report.iter().any(|line| line.contains("abandoned") && line.contains("ignoring its token")), "{report:#?}");
        times.push(exit.elapsed);
    }
    assert!(times[1].abs_diff(times[0]) <= Duration::from_millis(300), "{times:?}");
}

#[test]
fn a5_a_wedged_receiver_is_replaced_and_what_it_still_says_is_ignored() {
    let keys = [("receive", "ignore_then_emit"), ("due", "500ms"), ("times", "1")];
    let gateway = faulty(short_phases(Gateway::setup()), "fault", &keys).start();
    let begun = Instant::now();
    let replaced = gateway.wait_status("a new generation is connected", |status| {
        let adapter = status["adapters"].as_array()?.iter().find(|adapter| adapter["name"] == "fault")?;
        (adapter["state"] == "connected" && adapter["identity"] == "generation 2").then(|| status.clone())
    });
    // The deadline, a second to see it, a second until the next attempt.
    assert!(begun.elapsed() < Duration::from_millis(2500) + SLACK, "{:?}", begun.elapsed());
    assert!(gateway.logged("does not come back from \"ignoring its token\""));
    let all: Vec<&Value> = threads(&replaced, "adapter/fault").collect();
    assert_eq!(all.len(), 2, "the old thread is still there: {replaced:#}");
    assert!(all.iter().any(|thread| thread["abandoned"] == true && thread["activity"] == "ignoring its token"), "{replaced:#}");
    // The old one has talked all the time.
    poll::never(Duration::from_secs(1), "a word of the old generation is heard", || {
        let adapter = gateway.adapter("fault");
        adapter["identity"] != "generation 2" || adapter["state"] != "connected" || adapter["received"] != 0
    });
    assert_eq!(gateway.status()["inbox"]["pending"], 0);
}

#[test]
fn a5_a_wedged_sender_is_replaced_and_its_message_is_delivered() {
    for (fault, due) in [("ignore_token", "500ms"), ("panic", "1h")] {
        let keys = [("send", fault), ("due", due), ("times", "1")];
        let gateway = faulty(short_phases(Gateway::setup()), "fault", &keys).start();
        gateway.wait_adapter("fault", "connected");
        send(&gateway, "to be delivered all the same");
        gateway.wait_status("it is delivered", |status| {
            let adapter = status["adapters"].as_array()?.iter().find(|adapter| adapter["name"] == "fault")?;
            (adapter["sent"] == 1 && status["outbox"]["pending"] == 0).then_some(())
        });
        poll::never(Duration::from_millis(300), "it is sent again", || gateway.adapter("fault")["sent"] != 1);
    }
}

#[test]
fn a45_a_receiver_that_panics_is_started_again_and_the_others_go_on() {
    let gateway = faulty(short_phases(Gateway::setup()), "fault", &[("receive", "panic"), ("times", "2")]).start();
    gateway.wait_status("the third generation is well", |status| {
        let adapter = status["adapters"].as_array()?.iter().find(|adapter| adapter["name"] == "fault")?;
        (adapter["state"] == "connected" && adapter["identity"] == "generation 3").then_some(())
    });
    assert!(gateway.logged("configured to panic"));
    gateway.chat("echo: undisturbed").expect(0).says("undisturbed");
}

#[test]
fn a_long_ladder_is_not_taken_for_a_stuck_control() {
    // Longer than control may be silent in normal times.
    let setup = faulty(short_phases(Gateway::setup()), "fault", &[("receive", "ignore_token")]);
    let mut gateway = setup.set("shutdown", "ask", "\"22s\"").start();
    gateway.wait_adapter("fault", "connected");
    gateway.signal(Signal::SIGTERM);
    let exit = gateway.wait_exit(Duration::from_secs(26));
    assert!(exit.code == Some(0) && exit.elapsed > Duration::from_secs(21), "{exit:?}\n{}", gateway.log_tail());
    gateway.assert_nothing_left();
}

#[test]
fn a6_a10_a_stop_in_the_middle_of_a_restart_is_a_stop() {
    // Without a supervisor the restart would be in place, and the process would live on.
    for environment in [None, Some(("INVOCATION_ID", "0123456789abcdef0123456789abcdef"))] {
        let setup = faulty(Gateway::setup(), "fault", &[("receive", "ignore_token")]).set("shutdown", "ask", "\"3s\"");
        let setup = environment.into_iter().fold(setup, |setup, (name, value)| setup.env(name, value));
        let mut gateway = setup.start();
        gateway.wait_adapter("fault", "connected");
        gateway.signal(Signal::SIGUSR1);
        gateway.wait_status("it walks down the ladder", |status| (status["state"] == "stopping").then_some(()));
        gateway.signal(Signal::SIGTERM);
        let exit = gateway.wait_exit(STOP_BUDGET + Duration::from_secs(2));
        assert_eq!(exit.code, Some(0), "{exit:?}\n{}", gateway.log_tail());
        gateway.assert_nothing_left();
    }
}

#[test]
fn a80_a_stop_while_the_store_cannot_be_opened() {
    let mut gateway = short_phases(Gateway::setup()).start();
    gateway.chat("echo: a database").expect(0);
    gateway.stop();
    let database = rusqlite::Connection::open(gateway.setup.state_dir().join("state.db")).expect("the database");
    database.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;").expect("the lock of the database");
    gateway.launch_again();
    // Long enough for the signal handlers, which come first.
    poll::eventually(SOON, "it begins to open the store", || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).ok()?;
        let names = threads.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.into_iter().any(|name| name.trim() == "store").then_some(())
    });
    gateway.signal(Signal::SIGTERM);
    let exit = gateway.wait_exit(BUDGET + SLACK);
    assert!(matches!(exit.code, Some(0 | 1 | 70)), "{exit:?}\n{}", gateway.log_tail());
    gateway.assert_nothing_left();
    drop(database);
    gateway.start_again();
}
