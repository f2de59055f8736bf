//! Scheduled jobs: they come, they survive, they obey; and what else is done without being asked (memory, full disks).

use crate::support::gateway::{Gateway, STOP_BUDGET};
use crate::support::model::{self, Model, Protocol, Reply};
use crate::support::poll::{self, SOON};
use crate::support::telegram::{ANA, Message, Telegram};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;

/// Says something and waits for an answer with these words.
fn answer(telegram: &Telegram, text: &str, part: &str) -> Message {
    let before = telegram.lock().count(ANA, part);
    telegram.user_says(ANA, text);
    telegram.wait(SOON, &format!("{part:?} in answer to {text}"), |state| {
        (state.count(ANA, part) > before).then(|| state.find(ANA, part).cloned())?
    })
}

fn jobs(gateway: &Gateway) -> Vec<Value> {
    let listed = gateway.cli(&["cron", "list", "--json"]).expect(0);
    serde_json::from_str(&listed.stdout).expect("a list")
}

#[test]
fn a72_a_job_is_in_status_and_comes() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("water the plants", [model::text("the plants are wet")]);
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    answer(&telegram, "/cron add \"every 2h\" look around", "Job 1");
    answer(&telegram, "/cron add in 2s water the plants", "Job 2");
    answer(&telegram, "/remind in 2s the tea is ready", "Job 3");
    let next = gateway.wait_status("the next run", |status| Some(status["schedule"]["next"].clone()).filter(Value::is_object));
    assert!(next["in_ms"].as_u64().is_some_and(|ms| ms <= 2000) && next["session"] == format!("telegram:{ANA}"), "{next}");
    answer(&telegram, "/status", "schedule: 3 jobs");
    telegram.wait_text(ANA, "the plants are wet");
    telegram.wait_text(ANA, "the tea is ready");
    gateway.wait_idle();
    let request = model.wait_request(1, "water the plants");
    assert!(request.all().contains("scheduled, job 2"), "the model is told: {}", request.all());
    assert_eq!(model.journal().len(), 1, "a reminder asks no model");
    let status = gateway.status();
    assert_eq!((status["schedule"]["jobs"].as_u64(), status["schedule"]["next"]["job"].as_u64()), (Some(1), Some(1)));
    answer(&telegram, "/cron list", "every 2h");
    answer(&telegram, "/help", "/cron");
}

#[test]
fn the_command_line_lists_and_changes_jobs() {
    let telegram = Telegram::start();
    let gateway = Gateway::setup().telegram(&telegram).start();
    answer(&telegram, "/version", "0.1");
    let to = format!("telegram:{ANA}");
    gateway.cli(&["cron", "list"]).expect(0).says("no jobs");
    gateway.cli(&["cron", "add", "--to", &to, "--say", "30 8 * * 1-5", "good", "morning"]).expect(0).says("job 1");
    gateway.cli(&["cron", "add", "--to", &to, "--catch-up", "skip", "every 2h", "echo: from the agent"]).expect(0).says("job 2");
    gateway.cli(&["cron", "list"]).expect(0).says("good morning").says("missed times are skipped");
    gateway.cli(&["cron", "add", "--to", &to, "every 5s", "x"]).expect(1).says("shortest interval");
    gateway.cli(&["cron", "add", "--to", "nobody:1", "every 5m", "x"]).expect(1).says("no adapter");
    gateway.cli(&["cron", "add", "--to", &to, "every 5m"]).expect(2);
    gateway.cli(&["cron", "run", "1"]).expect(0).says("runs now");
    telegram.wait_text(ANA, "good morning");
    gateway.cli(&["cron", "run", "2"]).expect(0);
    telegram.wait_text(ANA, "from the agent");
    gateway.wait_idle();
    gateway.cli(&["cron", "pause", "2"]).expect(0).says("paused");
    assert_eq!(jobs(&gateway)[1]["paused"], true);
    assert!(jobs(&gateway)[1]["last"].as_str().is_some_and(|last| last.starts_with("done")), "{:?}", jobs(&gateway));
    gateway.cli(&["cron", "resume", "2"]).expect(0).says("goes on");
    gateway.cli(&["cron", "remove", "1"]).expect(0).says("removed");
    gateway.cli(&["cron", "remove", "1"]).expect(1).says("no job 1");
    assert_eq!(jobs(&gateway).len(), 1);
}

#[test]
fn jobs_are_for_those_who_may_speak() {
    let telegram = Telegram::start();
    let other = 88_002;
    let users = format!("[\"{ANA}\", \"{other}\"]");
    let gateway = Gateway::setup().telegram(&telegram).set("adapters.telegram", "allowed_users", &users).start();
    answer(&telegram, "/cron add every 2h echo: x", "Job 1");
    telegram.user_says(other, "/cron remove 1");
    telegram.wait_text(other, "no job 1 in this chat");
    telegram.user_says(other, "/cron list");
    telegram.wait_text(other, "no jobs in this chat");
    telegram.user_says(99_003, "/cron add every 2h echo: y");
    telegram.user_says(other, "echo: still here");
    telegram.wait_text(other, "still here");
    assert_eq!(jobs(&gateway).len(), 1, "a stranger makes none");
}

#[test]
fn a17_a_scheduled_turn_is_shown_stopped_and_drained_like_any_other() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("hang", [Reply::Silent]);
    let mut gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    answer(&telegram, "/cron add in 1s hang one", "Job 1");
    model.wait_request(1, "hang one");
    let session = format!("telegram:{ANA}");
    gateway.wait_status("its turn", |status| (status["turns"][0]["session"] == session.as_str()).then_some(()));
    answer(&telegram, "/stop", "Stopped.");
    assert_eq!(model.wait_end(1, "hang one").1, model::End::ClientGone);
    gateway.wait_idle();
    answer(&telegram, "/cron add in 1s hang two", "Job 2");
    model.wait_request(1, "hang two");
    gateway.signal(Signal::SIGTERM);
    let exit = gateway.wait_exit(STOP_BUDGET + Duration::from_secs(1));
    assert_eq!(exit.code, Some(0));
    gateway.assert_nothing_left();
    let drained = gateway.log_lines().iter().any(|line| line.contains("draining 1 turns") && line.contains(&session));
    assert!(drained, "it is waited for by name");
}

#[test]
fn a73_a_run_that_a_kill_interrupts_is_finished_once() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.once("the report", Reply::Silent);
    model.rule("the report", [model::text("here it is")]);
    let mut gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    answer(&telegram, "/cron add in 1s the report", "Job 1");
    model.wait_request(1, "the report");
    gateway.kill9();
    gateway.start_again();
    telegram.wait_text(ANA, "here it is");
    gateway.wait_idle();
    assert_eq!(telegram.lock().count(ANA, "here it is"), 1);
    assert!(jobs(&gateway).is_empty());
    // Nothing is left that another start would take up.
    gateway.stop();
    gateway.start_again();
    gateway.wait_idle();
    assert_eq!((model.journal().len(), telegram.lock().count(ANA, "here it is")), (2, 1));
}

#[test]
fn a73_what_came_due_while_nobody_ran_runs_once() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    answer(&telegram, "/remind in 1s the tea is ready", "Job 1");
    answer(&telegram, "/cron add in 1s echo: and the cake", "Job 2");
    gateway.kill9();
    let down = Duration::from_millis(1500);
    poll::never(down, "a reminder without a gateway", || telegram.lock().count(ANA, "and the cake") > 0);
    gateway.start_again();
    telegram.wait_text(ANA, "and the cake");
    telegram.wait_text(ANA, "the tea is ready");
    gateway.wait_idle();
    let state = telegram.lock();
    let unmarked = |part: &str| {
        state.chats[&ANA].messages.iter().filter(|it| it.from_bot && it.text.contains(part) && !it.text.contains("duplicate")).count()
    };
    assert_eq!((unmarked("the tea is ready"), unmarked("and the cake")), (1, 1));
}

#[test]
fn a73_killed_at_random_moments_no_job_is_lost_or_doubled() {
    let seed = std::env::var("BLACKBOX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("BLACKBOX_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    answer(&telegram, "/version", "0.1");
    let to = format!("telegram:{ANA}");
    let mut made = Vec::new();
    for round in 0..5 {
        for number in 0..3 {
            let text = format!("[job {round}.{number}]");
            let echo = format!("echo: {text}");
            let when = format!("in {}ms", random.u32(1..1500));
            let say = random.bool();
            let mut arguments = vec!["cron", "add", "--to", &to, &when, if say { &text } else { &echo }];
            if say {
                arguments.push("--say");
            }
            gateway.cli(&arguments).expect(0);
            made.push(text);
        }
        let pause = Duration::from_millis(random.u64(0..400));
        poll::try_for(pause, Duration::from_millis(5), || None::<()>);
        gateway.kill9();
        gateway.launch_again();
        gateway.wait_ready();
    }
    // A turn that was hit twice says so instead of going on; that is its end, too.
    let given_up = || telegram.lock().count(ANA, "/retry");
    poll::eventually(Duration::from_secs(60), &format!("seed {seed}: all jobs"), || {
        let state = telegram.lock();
        let came = made.iter().filter(|text| state.count(ANA, text) > 0).count();
        drop(state);
        (came + given_up() >= made.len()).then_some(())
    });
    gateway.wait_idle();
    assert!(jobs(&gateway).is_empty(), "seed {seed}: each has had its one time");
    for text in &made {
        let texts = telegram.texts(ANA);
        let unmarked = texts.iter().filter(|shown| shown.contains(text.as_str()) && !shown.contains("duplicate")).count();
        assert!(unmarked <= 1, "seed {seed}: {text} came {unmarked} times: {texts:#?}");
    }
}

#[test]
fn a_reload_changes_the_zone_of_the_calendar() {
    let gateway = Gateway::setup().set("schedule", "time_zone", "\"UTC\"").start();
    gateway.cli(&["cron", "add", "--to", "local:x", "30 8 * * *", "x"]).expect(0);
    let at = |gateway: &Gateway| jobs(gateway)[0]["next_ms"].as_i64().expect("a time").rem_euclid(86_400_000);
    assert_eq!(at(&gateway), (8 * 60 + 30) * 60_000);
    let config = gateway.setup.config().replace("\"UTC\"", "\"Asia/Tokyo\"");
    if !std::path::Path::new("/usr/share/zoneinfo/Asia/Tokyo").exists() {
        eprintln!("skipped: this system has no time zones");
        return;
    }
    gateway.setup.write_config(&config);
    gateway.signal(Signal::SIGHUP);
    poll::eventually(SOON, "the time of another zone", || (at(&gateway) == (23 * 60 + 30) * 60_000).then_some(()));
}

#[test]
fn a55_memory_above_its_soft_limit_restarts_the_gateway_once() {
    let telegram = Telegram::start();
    let mut gateway =
        Gateway::setup().telegram(&telegram).set("memory", "soft_limit", "\"1MB\"").set("memory", "log_interval", "\"1s\"").start();
    let within = Duration::from_secs(40);
    gateway.wait_for_log("resident", within);
    gateway.wait_for_log("is above soft_limit 1 MiB; restarting", within);
    gateway.wait_for_log("not restarting again within the hour", within);
    gateway.wait_ready();
    telegram.user_says(ANA, "echo: still here");
    telegram.wait_text(ANA, "still here");
    let restarts = gateway.log_lines().iter().filter(|line| line.contains("MiB; restarting")).count();
    assert_eq!(restarts, 1);
}

#[test]
fn a74_a_full_disk_degrades_and_does_not_kill() {
    let telegram = Telegram::start();
    let setup = Gateway::setup().telegram(&telegram).small_disk("1500k");
    let Some(mut gateway) = setup.try_launch_on_small_disk() else {
        eprintln!("skipped: this system does not let a test mount a file system of its own");
        return;
    };
    telegram.user_says(ANA, "echo: before");
    telegram.wait_text(ANA, "before");
    let ballast = gateway.small_disk().join("ballast");
    let mut block = vec![1_u8; 1 << 20];
    while !block.is_empty() {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&ballast);
        if file.and_then(|mut file| file.write_all(&block)).is_err() {
            block.truncate(block.len() / 2);
        }
    }
    telegram.user_says(ANA, &format!("echo: kept {}", "x".repeat(3500)));
    gateway.wait_for_log("not accepted", SOON);
    assert!(gateway.is_running());
    std::fs::remove_file(&ballast).expect("removed");
    // The adapter asks for what was not accepted again after a minute.
    telegram.wait_text_within(Duration::from_secs(90), ANA, "kept xxx");
    assert_eq!(telegram.lock().count(ANA, "kept xxx"), 1);
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.wait_exit(STOP_BUDGET + Duration::from_secs(3)).code, Some(0));
    gateway.not_orderly();
}
