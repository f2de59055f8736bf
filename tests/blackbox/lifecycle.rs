//! Stopping, restarting, reloading: always on time, whatever hangs.

use crate::support::gateway::{Gateway, STOP_BUDGET, Setup, quoted};
use crate::support::http::Fault;
use crate::support::model::{self, Gate, Model, Protocol, Reply, Step};
use crate::support::poll::{self, SOON};
use crate::support::process::{mark, with_command};
use crate::support::telegram::{ANA, Telegram};
use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

fn hanging(telegram: &Telegram, model: &Model) -> Setup {
    model.rule("hang", [Reply::Silent]);
    Gateway::setup().telegram(telegram).model(model, Protocol::Anthropic)
}

#[test]
fn an_idle_gateway_stops_within_100_ms() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).set("adapters.telegram", "poll_timeout", "30").start();
    let mut times = Vec::new();
    for _ in 0..5 {
        gateway.wait_adapter("telegram", "connected");
        gateway.signal(Signal::SIGTERM);
        let exit = gateway.wait_exit(STOP_BUDGET);
        assert_eq!(exit.code, Some(0));
        times.push(exit.elapsed);
        if exit.elapsed < Duration::from_millis(100) {
            break;
        }
        gateway.start_again();
    }
    // Other tests share the machine: one undisturbed stop shows what the gateway itself needs.
    assert!(times.iter().min() < Some(&Duration::from_millis(100)), "{times:?}");
}

#[test]
fn a1_the_process_is_gone_right_after_it_said_so() {
    let mut gateway = Gateway::setup().start();
    gateway.signal(Signal::SIGINT);
    let exit = gateway.wait_exit(STOP_BUDGET);
    assert_eq!(exit.code, Some(0), "SIGINT stops too");
    gateway.wait_for_log("stopped in", Duration::from_secs(5));
}

#[test]
fn a11_everything_hangs_and_the_stop_is_on_time() {
    let mut times = Vec::new();
    for adapters in [1, 8] {
        let model = Model::start();
        let telegrams: Vec<Telegram> = (0..adapters).map(|_| Telegram::start()).collect();
        let mut setup = hanging(&telegrams[0], &model);
        for (number, telegram) in telegrams.iter().enumerate().skip(1) {
            let section = format!("adapters.telegram-{number}");
            setup = setup.set(&section, "platform", "\"telegram\"").set(&section, "token", &quoted(&telegram.token()));
            setup = setup.set(&section, "base_url", &quoted(&telegram.url())).set(&section, "allowed_users", "[\"*\"]");
        }
        let mut gateway = setup.start();
        telegrams[0].user_says(ANA, "hang");
        model.wait_request(1, "hang");
        for telegram in &telegrams {
            telegram.wait_call("getUpdates", 1, |_| true);
            telegram.fail("*", Fault::BlackHole, 1_000);
        }
        let exit = gateway.stop();
        assert!(exit.elapsed < STOP_BUDGET + Duration::from_secs(1), "{adapters} adapters: {exit:?}");
        times.push(exit.elapsed);
    }
    let more = times[1].saturating_sub(times[0]);
    assert!(more < Duration::from_millis(1500), "the time does not grow with the number of adapters: {times:?}");
}

#[test]
fn a6_a_second_signal_cuts_the_drain_and_a_third_leaves() {
    for signals in [2, 3] {
        let (telegram, model) = (Telegram::start(), Model::start());
        let mut gateway = hanging(&telegram, &model).set("shutdown", "drain", "\"60s\"").start();
        telegram.user_says(ANA, "hang");
        model.wait_request(1, "hang");
        gateway.signal(Signal::SIGTERM);
        gateway.wait_status("it drains", |status| (status["state"] == "draining").then_some(()));
        for _ in 1..signals {
            gateway.signal(Signal::SIGTERM);
        }
        let exit = gateway.wait_exit(Duration::from_secs(8));
        assert!(exit.signal.is_none() && exit.code != Some(75), "{exit:?}");
        gateway.assert_nothing_left();
    }
}

#[test]
fn a18_a_turn_that_can_finish_is_finished_and_delivered() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gate = Gate::default();
    model.rule("work", [Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text("finished in time".to_owned())])]);
    let setup = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).set("shutdown", "drain", "\"20s\"");
    let mut gateway = setup.set("adapters.telegram", "streaming", "false").start();
    telegram.user_says(ANA, "work");
    model.wait_request(1, "work");
    // The delivery takes a while: the work is not over before it is.
    telegram.fail("sendMessage", Fault::Delay(Duration::from_secs(2)), 1);
    gateway.signal(Signal::SIGTERM);
    gateway.wait_status("it drains", |status| (status["state"] == "draining").then_some(()));
    gate.open();
    let exit = gateway.wait_exit(Duration::from_secs(20));
    assert_eq!(exit.code, Some(0));
    assert_eq!(telegram.lock().count(ANA, "finished in time"), 1);
    gateway.start_again();
    gateway.wait_idle();
    assert_eq!(telegram.lock().count(ANA, "finished in time"), 1, "and not delivered again");
}

#[test]
fn a79_nothing_is_begun_once_the_stop_has() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("hang", [Reply::Silent]);
    model.rule("waiting", [model::text("answered after the restart")]);
    let setup = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).set("session", "busy", "\"queue\"");
    let mut gateway = setup.start();
    telegram.user_says(ANA, "hang");
    model.wait_request(1, "hang");
    telegram.user_says(ANA, "waiting");
    telegram.wait_confirmed();
    let exit = gateway.stop();
    assert!(exit.elapsed < STOP_BUDGET);
    assert_eq!(model.journal().len(), 1, "no call for the waiting message");
    model.rule("hang", [model::text("no longer hanging")]);
    gateway.start_again();
    telegram.wait_text(ANA, "answered after the restart");
    gateway.wait_idle();
    assert_eq!(telegram.lock().count(ANA, "answered after the restart"), 1);
}

#[test]
fn a79_a_tool_call_that_comes_with_the_stop_is_not_run() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let gate = Gate::default();
    model.rule("touch", [Reply::Stream(vec![Step::Gate(gate.clone()), model::shell("touch begun-after-the-stop")])]);
    let mut gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).set("shutdown", "drain", "\"0s\"").start();
    telegram.user_says(ANA, "touch");
    model.wait_request(1, "touch");
    gateway.signal(Signal::SIGTERM);
    model.wait_end(1, "touch");
    gate.open();
    assert_eq!(gateway.wait_exit(STOP_BUDGET).code, Some(0));
    assert!(!gateway.setup.home().join("begun-after-the-stop").exists());
    gateway.assert_nothing_left();
}

#[test]
fn a20_a_log_that_nobody_reads_holds_up_nothing() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).set("log", "level", "\"trace\"").block_stderr().start();
    for number in 0..5 {
        telegram.user_says(ANA, &format!("echo: with a full pipe {number}"));
        telegram.wait_text(ANA, &format!("with a full pipe {number}"));
    }
    gateway.signal(Signal::SIGTERM);
    let exit = gateway.wait_exit(STOP_BUDGET + Duration::from_secs(1));
    assert_eq!(exit.code, Some(0));
    gateway.assert_nothing_left();
}

#[test]
fn a21_reloads_and_questions_at_once_do_not_lock_each_other_out() {
    let telegram = Telegram::start();
    let gateway = Gateway::setup().telegram(&telegram).start();
    for number in 0..10 {
        for _ in 0..5 {
            gateway.signal(Signal::SIGHUP);
            gateway.signal(Signal::SIGUSR2);
        }
        telegram.user_says(ANA, &format!("echo: in the storm {number}"));
        assert_eq!(gateway.status()["state"], "running");
    }
    telegram.wait_text(ANA, "in the storm 9");
    gateway.wait_idle();
}

#[test]
fn reload_takes_what_it_can_and_keeps_what_is_right() {
    let telegram = Telegram::start();
    let other = 88_003;
    let gateway = Gateway::setup().telegram(&telegram).start();
    gateway.wait_adapter("telegram", "connected");
    let both =
        gateway.setup.config().replace(&format!("allowed_users = [\"{ANA}\"]"), &format!("allowed_users = [\"{ANA}\", \"{other}\"]"));
    gateway.setup.write_config(&both);
    gateway.signal(Signal::SIGHUP);
    let answered = poll::try_for(SOON, Duration::from_millis(300), || {
        telegram.user_says(other, "echo: admitted now");
        (telegram.lock().count(other, "admitted now") > 0).then_some(())
    });
    assert!(answered.is_some(), "the new user is admitted without a restart");
    gateway.setup.write_config("this is = not [ a configuration");
    gateway.signal(Signal::SIGHUP);
    gateway.wait_for_log("config.toml", SOON);
    telegram.user_says(ANA, "echo: the old one stands");
    telegram.wait_text(ANA, "the old one stands");
}

#[test]
fn a10_sigusr1_restarts_and_sigterm_never_does() {
    // Under a supervisor the exit code asks for the restart.
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).env("INVOCATION_ID", "0123456789abcdef0123456789abcdef").start();
    gateway.signal(Signal::SIGUSR1);
    assert_eq!(gateway.wait_exit(STOP_BUDGET + SOON).code, Some(75));
    gateway.assert_nothing_left();
    gateway.start_again();
    gateway.stop();
}

#[test]
fn sigusr1_without_a_supervisor_restarts_in_place() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    let pid = gateway.pid();
    let asked = Instant::now();
    gateway.signal(Signal::SIGUSR1);
    gateway.wait_status("a younger process", |status| {
        let younger = u128::from(status["uptime_ms"].as_u64()?) < asked.elapsed().as_millis();
        (status["state"] == "running" && younger && status["pid"] == pid).then_some(())
    });
    assert!(gateway.is_running());
    telegram.user_says(ANA, "echo: after the restart");
    telegram.wait_text(ANA, "after the restart");
}

#[test]
fn a16_a43_restart_from_a_chat_happens_once_and_reports_back() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).env("INVOCATION_ID", "0123456789abcdef0123456789abcdef").start();
    telegram.user_says(ANA, "echo: hello");
    telegram.wait_text(ANA, "hello");
    let begun = Instant::now();
    let id = telegram.user_says(ANA, "/restart");
    assert_eq!(gateway.wait_exit(SOON).code, Some(75));
    assert!(begun.elapsed() < Duration::from_secs(6), "nothing else was running: {:?}", begun.elapsed());
    gateway.start_again();
    telegram.wait_text(ANA, "online");
    // The platform delivers it again: it must not restart again.
    telegram.repeat(ANA, id);
    telegram.user_says(ANA, "echo: barrier");
    telegram.wait_text(ANA, "barrier");
    assert!(gateway.is_running());
    assert_eq!(telegram.lock().count(ANA, "online"), 1, "{:?}", telegram.texts(ANA));
}

#[test]
fn a28_a_tool_that_restarts_the_gateway_is_not_replayed() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let setup = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic);
    let mut gateway = setup.env("INVOCATION_ID", "0123456789abcdef0123456789abcdef").start();
    let command = format!("echo once >> restarts; kill -USR1 {}; sleep 600", gateway.pid());
    model.rule("restart yourself", [Reply::Stream(vec![model::shell(&command)]), model::text("I am back")]);
    telegram.user_says(ANA, "restart yourself");
    let exit = gateway.wait_exit(STOP_BUDGET + SOON);
    assert_eq!(exit.code, Some(75));
    gateway.start_again();
    telegram.wait_text(ANA, "I am back");
    gateway.wait_idle();
    let restarts = std::fs::read_to_string(gateway.setup.home().join("restarts")).expect("the tool ran");
    assert_eq!(restarts.lines().count(), 1, "the command was run once");
}

#[test]
fn a46_restarts_without_work_tell_nobody() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    telegram.user_says(ANA, "echo: hello");
    telegram.wait_text(ANA, "hello");
    gateway.wait_idle();
    for _ in 0..4 {
        gateway.stop();
        gateway.start_again();
        gateway.wait_adapter("telegram", "connected");
    }
    assert_eq!(telegram.texts(ANA), ["hello"], "no notice of a stop or a start");
}

#[test]
fn a62_one_notice_a_session_while_draining() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let mut gateway = hanging(&telegram, &model).set("shutdown", "drain", "\"3s\"").start();
    telegram.user_says(ANA, "hang");
    model.wait_request(1, "hang");
    gateway.signal(Signal::SIGTERM);
    gateway.wait_status("it drains", |status| (status["state"] == "draining").then_some(()));
    model.rule("during", [model::text("kept and answered")]);
    for number in 0..5 {
        telegram.user_says(ANA, &format!("during {number}"));
    }
    gateway.wait_exit(STOP_BUDGET + SOON);
    let notices = telegram.texts(ANA);
    assert!(notices.len() <= 2, "one notice (and perhaps a preview), not one a message: {notices:?}");
    model.rule("hang", [model::text("not hanging any more")]);
    gateway.start_again();
    telegram.wait_text(ANA, "kept and answered");
    gateway.wait_idle();
    let all: String = model.journal().iter().map(model::Exchange::all).collect();
    assert!((0..5).all(|number| all.contains(&format!("during {number}"))), "none of them is lost");
}

#[test]
fn systemd_is_told_ready_alive_and_stopping() {
    let setup = Gateway::setup();
    let path = setup.scratch().join("notify");
    let socket = UnixDatagram::bind(&path).expect("the notification socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
    let mut gateway = setup.env("NOTIFY_SOCKET", path.to_str().expect("a path")).env("WATCHDOG_USEC", "2000000").start();
    let mut told = String::new();
    let mut hear = |what: &str, count: usize| {
        poll::eventually(SOON, what, || {
            let mut buffer = [0; 4096];
            if let Ok(length) = socket.recv(&mut buffer) {
                told.push_str(&String::from_utf8_lossy(&buffer[..length]));
                told.push('\n');
            }
            (told.lines().filter(|line| *line == what).count() >= count).then_some(())
        });
    };
    hear("READY=1", 1);
    hear("WATCHDOG=1", 3);
    gateway.signal(Signal::SIGHUP);
    hear("READY=1", 2);
    gateway.signal(Signal::SIGTERM);
    hear("STOPPING=1", 1);
    assert_eq!(gateway.wait_exit(STOP_BUDGET).code, Some(0));
}

#[test]
fn the_disconnect_timeout_of_the_environment_is_obeyed() {
    for (value, bound) in [("1", STOP_BUDGET), ("0", STOP_BUDGET + Duration::from_secs(1))] {
        let (telegram, model) = (Telegram::start(), Model::start());
        let mut gateway = hanging(&telegram, &model).env("HERMES_GATEWAY_ADAPTER_DISCONNECT_TIMEOUT", value).start();
        telegram.wait_call("getUpdates", 1, |_| true);
        telegram.fail("*", Fault::BlackHole, 100);
        let exit = gateway.stop();
        assert!(exit.elapsed < bound, "{value}: {exit:?}");
    }
}

#[test]
fn a80_a_stop_in_the_middle_of_a_start_works() {
    let telegram = Telegram::start();
    telegram.fail("getMe", Fault::BlackHole, 100);
    let mut gateway = Gateway::setup().telegram(&telegram).launch();
    telegram.wait_call("getMe", 1, |_| true);
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait_exit(STOP_BUDGET).code, Some(0));
    gateway.assert_nothing_left();
}

#[test]
fn a22_a_stop_with_a_tool_and_a_silent_provider_leaves_nothing() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let mark = mark();
    let other = 88_004;
    let users = format!("[\"{ANA}\", \"{other}\"]");
    model.rule("tool", [Reply::Stream(vec![model::shell(&format!("sleep {mark} & sleep {mark}"))])]);
    let mut gateway = hanging(&telegram, &model).set("adapters.telegram", "allowed_users", &users).start();
    telegram.user_says(ANA, "tool");
    telegram.user_says(other, "hang");
    model.wait_request(1, "hang");
    poll::eventually(SOON, "the tool runs", || (with_command(&mark).len() >= 2).then_some(()));
    let exit = gateway.stop();
    assert!(exit.elapsed < STOP_BUDGET, "{exit:?}");
    assert!(with_command(&mark).is_empty());
}
