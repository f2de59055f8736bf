//! Promises that only a look from outside can hold: system calls, files that must not change, copies of the program.

use crate::support::gateway::{BINARY, Gateway, STOP_BUDGET};
use crate::support::model::{self, Model, Protocol, Reply};
use crate::support::poll::{self, SOON};
use crate::support::process;
use crate::support::telegram::{ANA, Telegram};
use nix::sys::signal::Signal;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The id of a thread by its name, as the kernel knows it.
fn thread(pid: i32, name: &str) -> Option<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let named = |id: &i32| std::fs::read_to_string(format!("/proc/{pid}/task/{id}/comm")).is_ok_and(|comm| comm.trim() == name);
    tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).find(named)
}

#[test]
fn a19_no_disk_and_no_child_in_the_signal_path() {
    let mut gateway = Gateway::setup().start();
    let signal = thread(gateway.pid(), "signal").expect("there is a thread for signals");
    let trace = gateway.setup.scratch().join("trace");
    let mut command = Command::new("strace");
    command.args(["-o", trace.to_str().expect("a path"), "-p", &signal.to_string()]);
    let Ok(mut tracer) = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        eprintln!("skipped: there is no strace");
        return;
    };
    let traced = poll::try_for(Duration::from_secs(5), Duration::from_millis(10), || {
        let status = std::fs::read_to_string(format!("/proc/{}/task/{signal}/status", gateway.pid())).ok()?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().to_owned();
        (tracer != "0").then_some(())
    });
    if traced.is_none() {
        eprintln!("skipped: the gateway cannot be traced here");
        let _ = tracer.kill();
        let _ = tracer.wait();
        return;
    }
    for name in [Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGTERM] {
        gateway.signal(name);
    }
    gateway.wait_exit(STOP_BUDGET + SOON);
    process::wait(&mut tracer, SOON).expect("strace ends with what it traces");
    let calls = std::fs::read_to_string(&trace).expect("the trace");
    let names: Vec<&str> = calls.lines().filter_map(|line| line.split('(').next()).filter(|name| !name.contains(' ')).collect();
    assert!(names.len() > 3, "it was traced: {calls}");
    // Reads from its pipe, wakes others, waits; memory for messages.
    let fine = ["read", "recvfrom", "poll", "ppoll", "futex", "write", "rt_sigreturn", "restart_syscall", "brk", "mmap", "munmap"];
    let fine = |name: &&str| [&fine[..], &["mprotect", "madvise", "clock_gettime", "sched_yield", "exit"]].concat().contains(name);
    let odd: Vec<&&str> = names.iter().filter(|name| !fine(name)).collect();
    assert!(odd.is_empty(), "{odd:?} in\n{calls}");
}

#[test]
fn a29_a_copy_that_a_tool_started_ends_with_the_gateway() {
    let (telegram, model) = (Telegram::start(), Model::start());
    let mut gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    let copy = gateway.setup.scratch().join("copy");
    let config = copy.with_extension("toml");
    std::fs::write(&config, "[provider]\nkind = \"offline\"\n").expect("a configuration");
    let command = format!(
        "setsid {BINARY} --config {} --state-dir {} run >/dev/null 2>&1 & until [ -S {}/gateway.sock ]; do sleep 0.05; done; sleep 600",
        config.display(),
        copy.display(),
        copy.display()
    );
    model.rule("copy yourself", [Reply::Stream(vec![model::shell(&command)]), model::text("done")]);
    telegram.user_says(ANA, "copy yourself");
    let place = copy.to_str().expect("a path");
    let copies = || process::with_command(place).into_iter().filter(|process| process.command.starts_with(BINARY)).count();
    poll::eventually(SOON, "the copy runs", || (copies() == 1 && copy.join("gateway.sock").exists()).then_some(()));
    // Not as long as it lives, and not by the one that comes after it was killed.
    gateway.kill9();
    gateway.start_again();
    assert_eq!(copies(), 0, "the copy was a descendant, not another gateway");
    gateway.stop();
}

#[test]
fn a39_the_gateway_does_not_touch_its_unit() {
    let setup = Gateway::setup();
    let units = setup.home().join(".config/systemd/user");
    std::fs::create_dir_all(&units).expect("a directory for units");
    let unit = units.join("hermes-gateway.service");
    std::fs::write(&unit, "[Service]\nExecStart=/usr/bin/something-else\n").expect("a unit");
    let written = std::fs::metadata(&unit).and_then(|file| file.modified()).expect("the unit");
    let mut gateway = setup.start();
    gateway.signal(Signal::SIGHUP);
    gateway.wait_for_log("reloaded", SOON);
    gateway.signal(Signal::SIGUSR1);
    let starts = || gateway.log_lines().iter().filter(|line| line.contains("stop budget")).count();
    poll::eventually(SOON, "it was restarted", || (starts() == 2).then_some(()));
    gateway.wait_ready();
    gateway.stop();
    let now = std::fs::metadata(&unit).and_then(|file| file.modified()).expect("the unit is still there");
    assert_eq!(now, written, "the unit was written to");
    assert_eq!(std::fs::read_dir(&units).expect("the directory").count(), 1, "nothing was put beside it");
}
