//! How soon it stops, frees a session, and is back.

use crate::idle::plain;
use crate::measure::{Figure, Times};
use crate::support::gateway::{BINARY, Gateway, STOP_BUDGET, Setup};
use crate::support::model::{self, Model, Protocol, Reply};
use crate::support::poll::{self, SOON};
use crate::support::process::{mark, with_command};
use crate::support::telegram::{ANA, Telegram};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const TIMES: usize = 20;

pub fn stop() -> Vec<Figure> {
    let mut figures = vec![idle(), with_a_tool(), session_is_free("silent provider", None), session_is_free("running tool", Some(()))];
    figures.push(wedged());
    figures.extend(restart());
    figures
}

fn stopped(gateway: &mut Gateway) -> Duration {
    let begun = Instant::now();
    gateway.signal(Signal::SIGTERM);
    gateway.wait_exit(STOP_BUDGET + SOON);
    begun.elapsed()
}

fn idle() -> Figure {
    let telegram = Telegram::start();
    let mut gateway = plain(&telegram, &telegram.url()).start();
    let mut times = Vec::new();
    for number in 0..TIMES {
        if number > 0 {
            gateway.start_again();
        }
        telegram.wait_call("getUpdates", number + 1, |_| true);
        times.push(stopped(&mut gateway));
    }
    Figure::time("SIGTERM → gone, idle", Duration::from_millis(100), &Times::new(times))
}

/// With a turn that does not end by itself there is nothing to drain for.
fn with_a_tool() -> Figure {
    let mut times = Vec::new();
    for _ in 0..TIMES / 2 {
        let telegram = Telegram::start();
        let mut gateway = plain(&telegram, &telegram.url()).set("shutdown", "drain", "\"0s\"").start();
        let mark = mark();
        telegram.user_says(ANA, &format!("run: sleep {mark} | cat"));
        poll::eventually(SOON, "the tool runs", || (!with_command(&format!("sleep {mark}")).is_empty()).then_some(()));
        times.push(stopped(&mut gateway));
        assert!(with_command(&mark).is_empty(), "nothing is left of the tool");
    }
    Figure::time("SIGTERM → gone, a tool runs, no drain", Duration::from_millis(300), &Times::new(times))
}

fn hanging(telegram: &Telegram, model: &Model) -> Setup {
    model.rule("hang", [Reply::Silent]);
    model.rule("probe", [model::text("free")]);
    plain(telegram, &telegram.url()).model(model, Protocol::Anthropic).set("session", "busy", "\"queue\"")
}

/// From /stop to the moment when the same session's next turn asks the model.
fn session_is_free(what: &str, tool: Option<()>) -> Figure {
    let (telegram, model) = (Telegram::start(), Model::start());
    let mark = mark();
    if tool.is_some() {
        model.rule("tool", [Reply::Stream(vec![model::shell(&format!("sleep {mark}"))])]);
    }
    let gateway = hanging(&telegram, &model).start();
    let mut times = Vec::new();
    for number in 1..=TIMES {
        telegram.user_says(ANA, if tool.is_some() { "tool" } else { "hang" });
        if tool.is_some() {
            poll::eventually(SOON, "the tool runs", || (!with_command(&mark).is_empty()).then_some(()));
        } else {
            poll::eventually(SOON, "the model is asked", || (model.asked("hang") >= number).then_some(()));
        }
        let text = format!("probe {number}.");
        let begun = Instant::now();
        telegram.user_says(ANA, "/stop");
        telegram.user_says(ANA, &text);
        times.push(model.wait_request(1, &text).at.duration_since(begun));
        gateway.wait_idle();
    }
    Figure::time(&format!("/stop → the session's next turn asks the model, {what}"), Duration::from_millis(100), &Times::new(times))
}

/// Every connection hangs, a provider call too.
fn wedged() -> Figure {
    use crate::support::gateway::quoted;
    use crate::support::http::Fault;
    let mut times = Vec::new();
    for adapters in [1, 20] {
        let model = Model::start();
        let telegrams: Vec<Telegram> = (0..adapters).map(|_| Telegram::start()).collect();
        let mut setup = hanging(&telegrams[0], &model);
        for (number, telegram) in telegrams.iter().enumerate().skip(1) {
            let section = format!("adapters.telegram-{number}");
            setup = setup.set(&section, "platform", "\"telegram\"").set(&section, "token", &quoted(&telegram.token()));
            setup = setup.set(&section, "base_url", &quoted(&telegram.url()));
        }
        let mut gateway = setup.start();
        telegrams[0].user_says(ANA, "hang");
        model.wait_request(1, "hang");
        for telegram in &telegrams {
            telegram.wait_call("getUpdates", 1, |_| true);
            telegram.fail("*", Fault::BlackHole, 1000);
        }
        times.push(stopped(&mut gateway));
    }
    let spread = times[1].abs_diff(times[0]);
    let text = format!("{:.2} s and {:.2} s (stop budget {} s)", times[0].as_secs_f64(), times[1].as_secs_f64(), STOP_BUDGET.as_secs());
    let met = times.iter().all(|time| *time <= STOP_BUDGET) && spread <= Duration::from_millis(300);
    Figure::new("SIGTERM → gone, 1 and 20 wedged adapters, provider silent", "≤ budget, spread ≤ 0.3 s", text, met)
}

/// `restart` until it says that the new instance is ready.
fn restart() -> Option<Figure> {
    let help = std::process::Command::new(BINARY).arg("--help").output().ok()?;
    if !String::from_utf8_lossy(&help.stdout).lines().any(|line| line.trim_start().starts_with("restart ")) {
        return None;
    }
    let telegram = Telegram::start();
    let gateway = plain(&telegram, &telegram.url()).start();
    let times = (0..TIMES / 2).map(|_| gateway.cli(&["restart"]).expect(0).elapsed).collect();
    Some(Figure::time("restart → ready, idle", Duration::from_millis(500), &Times::new(times)))
}
