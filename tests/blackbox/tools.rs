//! Tools and their processes: what they get, what they may do, and that none of them is left.

use crate::support::gateway::{Gateway, STOP_BUDGET, files_named, lock_is_free};
use crate::support::model::{self, Model, Protocol, Reply};
use crate::support::poll::{self, SOON};
use crate::support::process::{mark, with_command};
use crate::support::telegram::{ANA, Telegram};
use std::time::{Duration, Instant};

fn running(mark: &str, count: usize) {
    poll::eventually(SOON, &format!("{count} processes with {mark}"), || (with_command(mark).len() >= count).then_some(()));
}

#[test]
fn a22_a_running_tool_ends_with_the_gateway() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    let mark = mark();
    telegram.user_says(ANA, &format!("run: sleep {mark}"));
    running(&mark, 1);
    let exit = gateway.stop();
    assert!(exit.elapsed < STOP_BUDGET, "{exit:?}");
    assert!(with_command(&mark).is_empty(), "{:?}", with_command(&mark));
}

#[test]
fn a22_a_tool_that_ignores_term_is_killed() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    let mark = mark();
    telegram.user_says(ANA, &format!("run: trap '' TERM HUP INT; while :; do sleep {mark}; done"));
    running(&mark, 1);
    let exit = gateway.stop();
    assert!(exit.elapsed < STOP_BUDGET, "{exit:?}");
    assert!(with_command(&mark).is_empty(), "{:?}", with_command(&mark));
}

#[test]
fn a25_nothing_that_a_tool_started_outlives_the_gateway() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    let mark = mark();
    // A session of its own, a double fork, an emptied environment, and a closed set of descriptors.
    let escape = format!(
        "setsid sleep {mark} >/dev/null 2>&1 & (setsid nohup sleep {mark} >/dev/null 2>&1 &) ; (setsid sh -c '(sleep {mark} &) ; exit' &) ; \
         (env -i setsid sleep {mark} </dev/null >/dev/null 2>&1 &) ; sleep {mark}"
    );
    telegram.user_says(ANA, &format!("run: {escape}"));
    running(&mark, 5);
    gateway.stop();
    assert!(with_command(&mark).is_empty(), "{:?}", with_command(&mark));
}

#[test]
fn a25_what_a_finished_tool_left_behind_ends_with_the_gateway() {
    let gateway = Gateway::setup().start();
    let mark = mark();
    gateway.chat(&format!("run: (setsid nohup sleep {mark} >/dev/null 2>&1 &); echo started-$((1 + 1))")).expect(0).says("started-2");
    let mut gateway = gateway;
    gateway.stop();
    assert!(with_command(&mark).is_empty(), "{:?}", with_command(&mark));
}

#[test]
fn a25_leftovers_of_a_killed_gateway_are_ended_by_the_next_start() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    let mark = mark();
    telegram.user_says(ANA, &format!("run: (setsid nohup sleep {mark} >/dev/null 2>&1 &); sleep {mark}"));
    running(&mark, 2);
    gateway.kill9();
    for lock in files_named(gateway.setup.scratch(), ".lock") {
        poll::eventually(SOON, "the lock is free although a grandchild lives", || lock_is_free(&lock).then_some(()));
    }
    gateway.start_again();
    // The interrupted turn may run its command again; it is stopped, so that only the old processes count.
    telegram.user_says(ANA, "/stop");
    poll::eventually(SOON, "the leftovers are gone", || with_command(&mark).is_empty().then_some(()));
}

#[test]
fn a24_a_background_process_does_not_hold_up_the_result() {
    let gateway = Gateway::setup().start();
    let mark = mark();
    let begun = Instant::now();
    gateway.chat(&format!("run: sleep {mark} & echo done-$((6 + 6))")).expect(0).says("done-12");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[test]
fn a26_a_tool_that_kills_its_group_kills_only_itself() {
    let mut gateway = Gateway::setup().start();
    gateway.chat("run: kill -KILL 0; echo not reached").expect(0);
    gateway.chat("run: kill -TERM 0").expect(0);
    gateway.chat("run: (sleep 0.1; kill -CONT $$) & kill -STOP $$; echo went-$((8 + 8))").expect(0);
    assert!(gateway.is_running());
    gateway.chat("echo: unharmed").expect(0).says("unharmed");
}

#[test]
fn a30_a_tool_sees_no_secrets() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule(
        "show",
        [Reply::Stream(vec![model::shell("env; tr '\\0' '\\n' < /proc/self/environ; echo end-of-env")]), model::text("shown")],
    );
    let setup = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic);
    let setup = setup.set("adapters.telegram", "token_env", "\"TELEGRAM_BOT_TOKEN\"").unset("adapters.telegram", "token");
    let setup = setup.set("provider", "api_key_env", "\"ANTHROPIC_API_KEY\"").unset("provider", "api_key");
    let setup = setup.env("TELEGRAM_BOT_TOKEN", &telegram.token()).env("ANTHROPIC_API_KEY", "sk-in-the-environment");
    let gateway = setup.env("AWS_SECRET_ACCESS_KEY", "aws-secret-value").env("INVOCATION_ID", "0123456789abcdef0123456789abcdef").start();
    telegram.user_says(ANA, "show me");
    telegram.wait_text(ANA, "shown");
    let request = model.wait_request(2, "show me").all();
    assert!(request.contains("end-of-env") && request.contains("PATH="), "{request}");
    for secret in [
        telegram.token().as_str(),
        "sk-in-the-environment",
        "aws-secret-value",
        "TELEGRAM_BOT_TOKEN",
        "ANTHROPIC_API_KEY",
        "INVOCATION_ID",
        "NOTIFY_SOCKET",
    ] {
        assert!(!request.contains(secret), "{secret} reached a child");
    }
    assert!(!gateway.log_lines().concat().contains("sk-in-the-environment"));
}

#[test]
fn a30_a_tool_inherits_no_descriptor() {
    let gateway = Gateway::setup().start();
    let output = gateway.chat("run: for f in /proc/self/fd/*; do readlink $f; done").expect(0);
    for part in ["socket:", "state.db", "gateway.lock", "eventfd", "eventpoll"] {
        assert!(!output.all().contains(part), "{part} is open in a child: {output:?}");
    }
}

#[test]
fn a71_a_silent_tool_is_not_taken_for_a_silent_provider() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("compile", [Reply::Stream(vec![model::shell("sleep 5; echo built-$((3 * 3))")]), model::text("it is built")]);
    let setup = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).set("provider", "silence_timeout", "\"2s\"");
    let gateway = setup.start();
    telegram.user_says(ANA, "compile");
    telegram.wait_text(ANA, "it is built");
    assert!(model.wait_request(2, "compile").all().contains("built-9"));
    gateway.wait_idle();
    assert_eq!(model.journal().len(), 2, "nothing was tried again");
}

#[test]
fn a71_a_tool_has_a_hard_bound_of_its_own() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let mark = mark();
    model.rule(
        "hang",
        [Reply::Stream(vec![model::shell(&format!("echo begun-$((2 * 5)); sleep {mark}"))]), model::text("it took too long")],
    );
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).set("tools.shell", "timeout", "\"2s\"").start();
    telegram.user_says(ANA, "hang");
    telegram.wait_text(ANA, "it took too long");
    let request = model.wait_request(2, "hang").all();
    assert!(request.contains("begun-10"), "what it had said is kept: {request}");
    assert!(with_command(&mark).is_empty(), "and it is gone");
    gateway.wait_idle();
}

#[test]
fn a_long_running_tool_is_shown() {
    let telegram = Telegram::start();
    let _gateway = Gateway::setup().telegram(&telegram).start();
    telegram.user_says(ANA, "run: sleep 9; echo over-$((5 + 5))");
    telegram.wait_text(ANA, "sleep 9");
    telegram.wait_text(ANA, "over-10");
}

#[test]
fn output_without_end_is_cut() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let flood = "echo first-$((1 + 2)); yes 0123456789 | head -c 30000000; echo last-$((2 + 4))";
    model.rule("flood", [Reply::Stream(vec![model::shell(flood)]), model::text("that was much")]);
    let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "flood");
    telegram.wait_text(ANA, "that was much");
    let request = model.wait_request(2, "flood").all();
    assert!(request.len() < 400_000, "{} bytes", request.len());
    assert!(request.contains("first-3") && request.contains("last-6"), "the head and the tail are there");
    gateway.wait_idle();
}

#[test]
fn odd_commands_come_back() {
    let gateway = Gateway::setup().start();
    // Reads its standard input, prints bytes that are no text, fails, prints nothing.
    let begun = Instant::now();
    gateway.chat("run: cat").expect(0);
    gateway.chat("run: head -c 300 /dev/urandom").expect(0);
    gateway.chat("run: echo to-stderr-$((1 + 3)) >&2; exit 7").expect(0).says("to-stderr-4");
    gateway.chat("run: true").expect(0);
    gateway.chat("run: no-such-program-anywhere").expect(0);
    gateway.chat("run: kill -SEGV $$").expect(0);
    assert!(begun.elapsed() < Duration::from_secs(30));
}
