//! One gateway a state directory: locks, take-over, restart from outside, and the files on disk.

use crate::support::gateway::{Gateway, STOP_BUDGET, files_named, lock_is_free};
use crate::support::model::{Model, Protocol, Reply};
use crate::support::poll::{self, SOON};
use crate::support::process;
use crate::support::telegram::{ANA, Telegram};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

#[test]
fn a31_a_killed_gateway_never_blocks_the_next() {
    let mut gateway = Gateway::setup().start();
    for _ in 0..4 {
        gateway.kill9();
        gateway.cli(&["status"]).expect(3);
        let begun = Instant::now();
        gateway.start_again();
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
    gateway.chat("echo: still fine").expect(0).says("still fine");
}

#[test]
fn a31_leftover_files_are_only_comments() {
    let mut gateway = Gateway::setup().start();
    gateway.stop();
    // A lock file of a process that never was, a socket that nobody listens on.
    for lock in files_named(gateway.setup.scratch(), ".lock") {
        std::fs::write(&lock, format!("{{\"pid\": {}, \"start_time\": 1, \"boot_id\": \"x\"}}", std::process::id()))
            .expect("the lock file");
    }
    for socket in files_named(gateway.setup.scratch(), ".sock") {
        let _ = std::fs::remove_file(&socket);
        drop(std::os::unix::net::UnixListener::bind(&socket).expect("a dead socket"));
    }
    gateway.cli(&["status"]).expect(3);
    gateway.start_again();
    assert_eq!(gateway.status()["pid"], gateway.pid());
}

#[test]
fn a35_two_starts_at_once_make_one_gateway() {
    let mut gateway = Gateway::setup().start();
    gateway.stop();
    gateway.launch_again();
    let codes: Vec<Option<i32>> = std::thread::scope(|scope| {
        let setup = &gateway.setup;
        let others: Vec<_> = (0..3).map(|_| scope.spawn(|| spawn_and_watch(setup))).collect();
        others.into_iter().map(|other| other.join().expect("a start")).collect()
    });
    let own = if gateway.is_running() { None } else { gateway.wait_exit(Duration::ZERO).code };
    let losers = codes.iter().chain([&own]).filter(|code| **code == Some(69)).count();
    assert_eq!(losers, 3, "exactly one is left: {codes:?} and {own:?}");
    if own.is_none() {
        gateway.wait_ready();
    }
    // Whoever won is stopped.
    gateway.cli(&["stop"]);
    if own.is_none() {
        gateway.wait_exit(STOP_BUDGET + SOON);
    }
    poll::eventually(SOON, "the winner has gone", || process::of_scratch(gateway.setup.scratch()).is_empty().then_some(()));
}

/// Starts a gateway; → its exit code, or `None` if it keeps running (then it is left to `stop`).
fn spawn_and_watch(setup: &crate::support::gateway::Setup) -> Option<i32> {
    let mut command = setup.command(&["run"]);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().expect("a start");
    let code = process::wait(&mut child, Duration::from_secs(6)).and_then(|status| status.code());
    if code.is_none() {
        std::thread::spawn(move || process::wait(&mut child, Duration::from_secs(60)));
    }
    code
}

#[test]
fn a32_a_start_can_wait_for_the_old_one_to_leave() {
    let (telegram, model) = (Telegram::start(), Model::start());
    model.rule("hang", [Reply::Silent]);
    let mut gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).start();
    telegram.user_says(ANA, "hang");
    model.wait_request(1, "hang");
    gateway.signal(Signal::SIGTERM);
    gateway.wait_status("it drains", |status| (status["state"] == "draining").then_some(()));
    // a81: as long as it lives, it has the lock.
    gateway.cli(&["run"]).expect(69);
    let mut next = gateway.setup.command(&["run", "--wait", "20s"]);
    next.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut next = next.spawn().expect("a start that waits");
    assert_eq!(gateway.wait_exit(STOP_BUDGET + SOON).code, Some(0));
    let pid = next.id();
    gateway.wait_status("the next one runs", |status| (status["state"] == "running" && status["pid"] == pid).then_some(()));
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGTERM).expect("a signal");
    assert!(process::wait(&mut next, STOP_BUDGET + SOON).is_some_and(|status| status.code() == Some(0)));
}

#[test]
fn replace_takes_over() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    gateway.wait_adapter("telegram", "connected");
    let mut next = gateway.setup.command(&["run", "--replace"]);
    next.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut next = next.spawn().expect("a start that replaces");
    assert_eq!(gateway.wait_exit(STOP_BUDGET + SOON).code, Some(0), "the old one is stopped in order");
    let pid = next.id();
    gateway.wait_status("the next one runs", |status| (status["state"] == "running" && status["pid"] == pid).then_some(()));
    telegram.user_says(ANA, "echo: taken over");
    telegram.wait_text_within(Duration::from_secs(60), ANA, "taken over");
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGTERM).expect("a signal");
    assert!(process::wait(&mut next, STOP_BUDGET + SOON).is_some());
}

#[test]
fn replace_takes_over_from_a_stopped_process() {
    let mut gateway = Gateway::setup().start();
    gateway.signal(Signal::SIGSTOP);
    let mut next = gateway.setup.command(&["run", "--replace"]);
    next.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut next = next.spawn().expect("a start that replaces");
    let exit = gateway.wait_exit(Duration::from_secs(40));
    assert!(exit.signal == Some(9) || exit.code == Some(0), "continued and stopped in order, or killed: {exit:?}");
    let pid = next.id();
    gateway.wait_status("the next one runs", |status| (status["state"] == "running" && status["pid"] == pid).then_some(()));
    kill(Pid::from_raw(i32::try_from(pid).expect("a pid")), Signal::SIGTERM).expect("a signal");
    assert!(process::wait(&mut next, STOP_BUDGET + SOON).is_some());
}

#[test]
fn a33_replace_is_refused_under_a_supervisor() {
    let mut gateway = Gateway::setup().env("INVOCATION_ID", "0123456789abcdef0123456789abcdef").start();
    let output = gateway.cli(&["run", "--replace", "--wait", "0s"]);
    assert!(matches!(output.code, Some(code) if code != 0 && code != 75), "{output:?}");
    assert!(gateway.is_running(), "the first one is left alone");
    assert!(output.all().to_lowercase().contains("supervis") || output.all().contains("systemd"), "it says why: {output:?}");
}

#[test]
fn a7_a8_restart_works_on_a_stopped_process() {
    let mut gateway = Gateway::setup().start();
    let old = gateway.pid();
    gateway.signal(Signal::SIGSTOP);
    // Nobody waits for the old process until the command has ended: for its watcher it becomes a zombie, which is gone enough.
    let output = gateway.cli(&["restart"]).expect(0);
    assert!(output.all().contains("SIGKILL"), "each step is shown: {output:?}");
    assert_eq!(gateway.wait_exit(Duration::from_secs(5)).signal, Some(9));
    let status = gateway.status();
    assert!(status["state"] == "running" && status["pid"] != old, "{status}");
    gateway.cli(&["stop"]).expect(0);
    poll::eventually(SOON, "the new one has gone", || process::of_scratch(gateway.setup.scratch()).is_empty().then_some(()));
}

#[test]
fn a7_restart_works_on_a_healthy_and_on_an_absent_gateway() {
    let mut gateway = Gateway::setup().start();
    let before = gateway.status()["uptime_ms"].as_u64().expect("an uptime");
    gateway.cli(&["restart"]).expect(0);
    let status = gateway.status();
    assert!(status["state"] == "running" && status["uptime_ms"].as_u64() < Some(before + 20_000), "{status}");
    gateway.cli(&["stop"]);
    gateway.wait_exit(STOP_BUDGET + SOON);
    poll::eventually(SOON, "it has gone", || process::of_scratch(gateway.setup.scratch()).is_empty().then_some(()));
    gateway.cli(&["restart"]).expect(0);
    assert_eq!(gateway.status()["state"], "running");
    gateway.cli(&["stop"]).expect(0);
    poll::eventually(SOON, "the new one has gone", || process::of_scratch(gateway.setup.scratch()).is_empty().then_some(()));
}

#[test]
fn a38_status_of_a_stopped_process_says_unresponsive() {
    let mut gateway = Gateway::setup().start();
    gateway.signal(Signal::SIGSTOP);
    let output = gateway.cli(&["status"]).expect(2);
    assert!(output.elapsed < Duration::from_secs(15), "{:?}", output.elapsed);
    assert!(output.all().contains("restart"), "it says what to do: {output:?}");
    gateway.signal(Signal::SIGCONT);
    gateway.wait_ready();
    gateway.kill9();
    gateway.cli(&["status"]).expect(3);
}

#[test]
fn a36_one_credential_is_used_by_one_gateway() {
    let telegram = Telegram::start();
    let first = Gateway::setup().telegram(&telegram).start();
    first.wait_adapter("telegram", "connected");
    // Another profile on the same machine: the same runtime directory, another state directory.
    let run = first.setup.scratch().join("run");
    let second = Gateway::setup().telegram(&telegram).env("XDG_RUNTIME_DIR", run.to_str().expect("a path")).start();
    let adapter = second.wait_status("the second one does not get it", |status| {
        let found = status["adapters"].as_array()?.iter().find(|adapter| adapter["name"] == "telegram")?.clone();
        (found["state"] == "retrying" || found["state"] == "failed").then_some(found)
    });
    assert!(adapter["error"].as_str().is_some_and(|error| error.contains(&first.pid().to_string())), "it names the holder: {adapter}");
    telegram.user_says(ANA, "echo: undisturbed");
    telegram.wait_text(ANA, "undisturbed");
    assert!(telegram.calls("getUpdates").iter().all(|call| call.status != 409), "they never polled against each other");
    second.chat("echo: and the second lives").expect(0).says("and the second lives");
}

#[test]
fn a65_a_database_that_is_no_database_is_reported() {
    for content in [&b"this is not a database at all, and long enough to be looked at: "[..], b""] {
        let mut gateway = Gateway::setup().start();
        gateway.chat("echo: first").expect(0);
        gateway.stop();
        let databases = files_named(&gateway.setup.state_dir(), ".db");
        assert!(!databases.is_empty(), "there is a database");
        for database in &databases {
            std::fs::write(database, content.repeat(200)).expect("the database");
            for ending in ["-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{ending}", database.display()));
            }
        }
        // Either it says what is wrong and ends, or it puts the file aside, says so and works; it never panics and never hangs.
        gateway.launch_again();
        let ended = poll::try_for(SOON, Duration::from_millis(50), || {
            if gateway.is_running() {
                gateway.try_status().filter(|status| status["state"] == "running").map(|_| false)
            } else {
                Some(true)
            }
        });
        match ended.expect("it ends or runs") {
            true => {
                let exit = gateway.wait_exit(Duration::ZERO);
                assert!(exit.signal.is_none() && !matches!(exit.code, Some(0 | 101 | 75)), "{exit:?}");
                gateway.wait_for_log(".db", SOON);
            }
            false => assert!(gateway.chat("echo: works again").expect(0).stdout.contains("works again")),
        }
        assert!(!gateway.logged("panicked"));
    }
}

#[test]
fn a66_one_process_writes_whoever_asks() {
    let telegram = Telegram::start();
    let mut gateway = Gateway::setup().telegram(&telegram).start();
    telegram.user_says(ANA, "echo: hello");
    telegram.wait_text(ANA, "hello");
    std::thread::scope(|scope| {
        let gateway = &gateway;
        for worker in 0..3 {
            scope.spawn(move || {
                for number in 0..5 {
                    gateway.cli(&["send", "--to", &format!("telegram:{ANA}"), &format!("note {worker}.{number}")]).expect(0);
                    gateway.cli(&["sessions"]);
                    gateway.cli(&["outbox"]);
                }
            });
        }
    });
    telegram.wait(SOON, "all notes", |state| (state.count(ANA, "note ") == 15).then_some(()));
    gateway.wait_idle();
    gateway.stop();
    for database in files_named(&gateway.setup.state_dir(), ".db") {
        assert_eq!(integrity(&database), "ok");
    }
}

/// What SQLite says about a database.
pub fn integrity(database: &std::path::Path) -> String {
    let connection = rusqlite::Connection::open(database).expect("the database opens");
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a verdict")
}

#[test]
fn the_lock_is_held_for_life() {
    let gateway = Gateway::setup().start();
    let locks = files_named(&gateway.setup.state_dir(), "gateway.lock");
    assert_eq!(locks.len(), 1, "{locks:?}");
    assert!(!lock_is_free(&locks[0]), "the lock is held while it runs");
    let comment = std::fs::read_to_string(&locks[0]).expect("the lock file");
    let comment: serde_json::Value = serde_json::from_str(&comment).unwrap_or_else(|error| panic!("{error} in {comment}"));
    assert_eq!(comment["pid"], gateway.pid());
}

#[test]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let gateway = Gateway::setup().start();
    gateway.chat("echo: write something").expect(0);
    for file in files_named(&gateway.setup.state_dir(), "") {
        let mode = std::fs::symlink_metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", file.display());
    }
}

#[test]
fn a_pid_file_is_written_for_those_who_want_one() {
    let setup = Gateway::setup();
    let path = setup.scratch().join("gateway.pid");
    let gateway = setup.arg("--pid-file").arg(path.to_str().expect("a path")).start();
    assert_eq!(std::fs::read_to_string(&path).expect("the pid file").trim(), gateway.pid().to_string());
}
