//! Long runs: what a gateway uses up must not grow with what it has done.
//!
//! Shortened here; `scripts/soak` runs them in full length (`SOAK_TURNS`, `SOAK_RECONNECTS`).

use crate::support::gateway::{Gateway, quoted};
use crate::support::growth::{flat, length};
use crate::support::http::Fault;
use crate::support::model::{self, Model, Protocol, Reply};
use crate::support::poll::{self, SOON};
use crate::support::process::descriptors;
use crate::support::telegram::{ANA, Telegram};
use std::time::Instant;

#[test]
fn a54_a55_descriptors_threads_and_memory_stay_flat_over_turns() {
    let turns = length("SOAK_TURNS", 160);
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("think", [model::text("answered")]);
    model.rule("work", [Reply::Stream(vec![model::shell("echo worked")]), model::text("answered")]);
    // Every message needs connections of its own.
    for method in ["sendChatAction", "sendMessage"] {
        telegram.fail(method, Fault::CloseAfter, usize::MAX);
    }
    let setup = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).set("log", "level", "\"warn\"");
    let gateway = setup.set("adapters.telegram", "streaming", "false").start();
    let begun = Instant::now();
    let mut answered = 0;
    let mut turn = |number: usize| {
        if number % 50 == 49 {
            telegram.user_says(ANA, "/new");
        }
        let text = if number.is_multiple_of(4) { "work" } else { "think" };
        telegram.user_says(ANA, &format!("{text} about {number}"));
        answered += 1;
        telegram.wait(SOON, "the answer", |state| (state.count(ANA, "answered") >= answered).then_some(()));
    };
    // A pool, a cache and a working set have their size after a while.
    let warm = (turns / 4).clamp(40, 500);
    (0..warm).for_each(&mut turn);
    gateway.wait_idle();
    let (before, connections) = (gateway.footprint(), telegram.server.connections());
    (warm..turns).for_each(&mut turn);
    gateway.wait_idle();
    flat(&gateway, before, &format!("{turns} turns"), begun);
    let reconnects = telegram.server.connections() - connections;
    assert!(reconnects >= (turns - warm) as u64, "each turn needed new connections: {reconnects}");
    let sockets = descriptors(gateway.pid()).iter().filter(|path| path.to_string_lossy().starts_with("socket:")).count();
    assert!(sockets <= 12, "{sockets} sockets while idle");
}

#[test]
fn a54_a55_descriptors_threads_and_memory_stay_flat_over_reconnects() {
    const BOTS: usize = 16;
    let reconnects = length("SOAK_RECONNECTS", 96);
    let telegrams: Vec<Telegram> = (0..BOTS).map(|_| Telegram::start()).collect();
    let mut setup = Gateway::setup().set("log", "level", "\"error\"");
    for (number, telegram) in telegrams.iter().enumerate() {
        let section = format!("adapters.bot-{number}");
        setup = setup.set(&section, "platform", "\"telegram\"").set(&section, "token", &quoted(&telegram.token()));
        setup = setup.set(&section, "base_url", &quoted(&telegram.url())).set(&section, "allowed_users", "[\"*\"]");
    }
    let gateway = setup.start();
    let begun = Instant::now();
    // Each connection says who it is first, and polls until the server cuts it; then there is a pause of a second.
    let mut cuts = vec![0; BOTS];
    let mut until = |target: usize| {
        while cuts.iter().sum::<usize>() < target {
            poll::eventually(SOON, "a connection that polls", || {
                let before: usize = cuts.iter().sum();
                for (telegram, cuts) in telegrams.iter().zip(&mut cuts) {
                    let polls = {
                        let state = telegram.lock();
                        let last = state.journal.last().filter(|call| call.method == "getUpdates" && call.params["timeout"] != 0);
                        last.is_some() && state.journal.iter().filter(|call| call.method == "getMe").count() > *cuts
                    };
                    if polls {
                        telegram.server.cut_all();
                        *cuts += 1;
                    }
                }
                (cuts.iter().sum::<usize>() > before).then_some(())
            });
        }
    };
    let warm = (reconnects / 3).clamp(2 * BOTS, 400);
    until(warm);
    let before = gateway.footprint();
    until(reconnects);
    flat(&gateway, before, &format!("{reconnects} reconnects"), begun);
}
