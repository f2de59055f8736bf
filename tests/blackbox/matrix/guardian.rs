//! A control thread that is stuck: others see it, say it, and end the process.

use super::world::short_phases;
use super::{BUDGET, SLACK};
use crate::support::gateway::{Exit, Gateway};
use crate::support::model::{self, Model, Protocol, Reply};
use crate::support::poll::{self, SOON};
use crate::support::process::{mark, with_command};
use crate::support::telegram::{ANA, Telegram};
use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

/// How long an event of control may take (`limits::CONTROL_EVENT`), and the promise on top.
const EVENT: Duration = Duration::from_secs(10);
const PROMISE: Duration = Duration::from_secs(1);
const FOR_EVER: Duration = Duration::from_secs(120);

/// A gateway with a running tool that does not mind SIGTERM.
struct Stuck {
    gateway: Gateway,
    telegram: Telegram,
    _model: Model,
    mark: String,
}

impl Stuck {
    fn start() -> Self {
        let (telegram, model, mark) = (Telegram::start(), Model::start(), mark());
        model.rule("work", [Reply::Stream(vec![model::shell(&format!("trap '' TERM; sleep {mark}; sleep {mark}"))]), model::text("done")]);
        let gateway = short_phases(Gateway::setup()).telegram(&telegram).model(&model, Protocol::Anthropic).start();
        telegram.user_says(ANA, "work");
        poll::eventually(SOON, "the tool runs", || (!with_command(&mark).is_empty()).then_some(()));
        // When the turn is taken up again, it comes to its end.
        model.rule("work", [model::text("done")]);
        Self { gateway, telegram, _model: model, mark }
    }

    /// Control gets stuck in an event, from now on.
    fn stick(&self) -> Instant {
        self.gateway.fault("stick_control", FOR_EVER).expect("accepted");
        self.wait_stuck();
        Instant::now()
    }

    fn wait_stuck(&self) {
        self.gateway.wait_status("control is stuck", |status| {
            let threads = status["threads"].as_array()?;
            threads.iter().any(|thread| thread["name"] == "control" && thread["activity"] == "handle Suffer").then_some(())
        });
    }

    /// It is gone with its children, and the next one works.
    fn over(mut self, exit: Exit, code: i32) {
        assert_eq!(exit.code, Some(code), "{exit:?}\n{}", self.gateway.log_tail());
        // SIGKILL is sent, and the process that sent it does not wait.
        poll::eventually(Duration::from_secs(5), "the tool is gone with it", || with_command(&self.mark).is_empty().then_some(()));
        self.gateway.assert_nothing_left();
        self.gateway.start_again();
        self.telegram.wait_text(ANA, "done");
    }
}

#[test]
fn a4_a_stuck_control_is_seen_said_and_ended() {
    for how in ["stick_control", "hold_lock"] {
        let mut stuck = Stuck::start();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            // Whoever holds a lock answers when it is free again, which it never is.
            scope.spawn(|| stuck.gateway.fault(how, FOR_EVER));
            stuck.wait_stuck();
            let output = poll::eventually(Duration::from_secs(5), "status tells", || {
                Some(stuck.gateway.cli(&["status"])).filter(|output| output.code == Some(2))
            });
            assert!(output.elapsed < Duration::from_secs(2), "it answers at once: {output:?}");
            assert!(
                output.stdout.contains("handle Suffer") && output.stdout.contains("restart"),
                "it says where, and the remedy: {output:?}"
            );
        });
        let exit = stuck.gateway.wait_exit(EVENT + SLACK);
        assert!(begun.elapsed() >= EVENT && begun.elapsed() < EVENT + PROMISE + SLACK, "{:?}", begun.elapsed());
        stuck.gateway.wait_for_log("control stuck for", SOON);
        stuck.gateway.wait_for_log("thread control: \"handle Suffer\"", SOON);
        stuck.over(exit, 70);
    }
}

#[test]
fn a4_a_control_that_is_stuck_between_events_is_found_by_the_ping() {
    let setup = short_phases(Gateway::setup());
    let path = setup.scratch().join("notify");
    let socket = UnixDatagram::bind(&path).expect("the notification socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let mut gateway = setup.env("NOTIFY_SOCKET", path.to_str().expect("a path")).env("WATCHDOG_USEC", "2000000").start();
    let begun = Instant::now();
    let (exit, last_word) = std::thread::scope(|scope| {
        let socket = &socket;
        let listener = scope.spawn(move || {
            let (mut buffer, mut last_word) = ([0; 4096], Duration::ZERO);
            while begun.elapsed() < EVENT {
                if let Ok(length) = socket.recv(&mut buffer)
                    && String::from_utf8_lossy(&buffer[..length]).contains("WATCHDOG=1")
                {
                    last_word = begun.elapsed();
                }
            }
            last_word
        });
        let address = gateway.setup.state_dir().join("gateway.sock");
        scope.spawn(move || {
            let request = serde_json::json!({"do": "command", "name": "fault", "args": {"what": "hold_board", "ms": 120_000}});
            crate::support::control_socket::ask(&address, &request, Duration::from_secs(30))
        });
        let exit = gateway.wait_exit(EVENT + Duration::from_secs(4) + SLACK);
        (exit, listener.join().expect("the listener"))
    });
    assert_eq!(exit.code, Some(70), "{exit:?}\n{}", gateway.log_tail());
    gateway.wait_for_log("control has not answered", SOON);
    // The supervisor would have acted, too: it was not told that all is well.
    assert!(last_word < Duration::from_secs(4), "the last WATCHDOG=1 came after {last_word:?}");
    gateway.assert_nothing_left();
}

#[test]
fn a4_a_stuck_control_does_not_prolong_a_stop() {
    let mut stuck = Stuck::start();
    stuck.stick();
    stuck.gateway.signal(Signal::SIGTERM);
    let exit = stuck.gateway.wait_exit(BUDGET + SLACK);
    stuck.gateway.wait_for_log("the stop budget is spent", SOON);
    stuck.over(exit, 70);
}

#[test]
fn a6_a_second_signal_shortens_the_stop_of_a_stuck_gateway() {
    let mut stuck = Stuck::start();
    stuck.stick();
    signals(&stuck.gateway, 2);
    let exit = stuck.gateway.wait_exit(Duration::from_secs(1) + SLACK);
    assert!(exit.elapsed < BUDGET, "{exit:?}");
    stuck.over(exit, 70);
}

#[test]
fn a6_a_third_signal_leaves_at_once() {
    let mut stuck = Stuck::start();
    stuck.stick();
    signals(&stuck.gateway, 3);
    let exit = stuck.gateway.wait_exit(SLACK);
    assert!(exit.elapsed < Duration::from_millis(800), "{exit:?}");
    stuck.over(exit, 70);
}

#[test]
fn stop_ends_a_gateway_whose_control_is_stuck() {
    let mut stuck = Stuck::start();
    stuck.stick();
    stuck.gateway.cli(&["stop"]).expect(0);
    let exit = stuck.gateway.wait_exit(SLACK);
    assert!(matches!(exit.code, Some(70)) || exit.signal == Some(9), "{exit:?}");
    let code = exit.code.unwrap_or(70);
    stuck.over(Exit { code: Some(code), ..exit }, code);
}

#[test]
fn a7_restart_gets_past_a_stuck_control() {
    let mut stuck = Stuck::start();
    stuck.stick();
    let pid = stuck.gateway.pid();
    let output = stuck.gateway.cli(&["restart"]).expect(0);
    stuck.gateway.wait_exit(SLACK);
    let status = stuck.gateway.status();
    assert!(status["state"] == "running" && status["pid"] != pid, "{status}\n{output:?}");
    assert!(with_command(&stuck.mark).is_empty(), "{:?}", with_command(&stuck.mark));
    stuck.telegram.wait_text(ANA, "done");
    stuck.gateway.cli(&["stop"]).expect(0);
    poll::eventually(SOON, "it has gone", || crate::support::process::of_scratch(stuck.gateway.setup.scratch()).is_empty().then_some(()));
}

#[test]
fn a_stuck_moment_is_forgiven() {
    let mut stuck = Stuck::start();
    stuck.gateway.fault("stick_control", Duration::from_secs(3)).expect("accepted");
    stuck.wait_stuck();
    stuck.gateway.wait_for_log("handling Suffer took", SOON);
    stuck.gateway.cli(&["status"]).expect(0);
    stuck.gateway.signal(Signal::SIGTERM);
    let exit = stuck.gateway.wait_exit(BUDGET + SLACK);
    stuck.over(exit, 0);
}

/// Several SIGTERMs, far enough from each other not to become one.
fn signals(gateway: &Gateway, count: usize) {
    for number in 0..count {
        if number > 0 {
            poll::never(Duration::from_millis(100), "time passes", || false);
        }
        gateway.signal(Signal::SIGTERM);
    }
}
