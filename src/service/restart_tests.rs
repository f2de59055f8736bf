//! Tests of the ladder against copies of this program that play a gateway.

// The tests start and kill copies of this very program, which `std::process` does best; waits are bounded by the test's own deadline.
#![allow(clippy::disallowed_methods)]

use super::super::admin::serve;
use super::super::fake::FakeAdmin;
use super::super::peer;
use super::super::systemd::tests::FakeCommands;
use super::*;
use std::process::{Child, Command, Stdio};

const ROLE: &str = "HERMES_TEST_RESTART";
const NAME: &str = "service::restart::tests::plays_a_gateway";

/// Not a test of its own: a gateway that answers at its socket, and dies of each signal as by default.
#[test]
fn plays_a_gateway() {
    let Some(directory) = std::env::var_os(ROLE) else { return };
    let lock = Lock::acquire(Path::new(&directory), Duration::from_secs(5), &CancelToken::new()).expect("free");
    let token = CancelToken::new();
    lock.announce(|info| info.stop_budget_ms = Some(200));
    let handle = serve(FakeAdmin::new(|_, _| ()), &lock, &Threads::new(), &token).expect("serves");
    lock.announce(|info| info.profile = Some("ready".to_owned()));
    let _ = handle.join(Deadline::after(Duration::from_secs(60)));
}

/// Keeps the steps, without times.
#[derive(Default)]
struct Steps(Vec<(String, String)>);

impl Progress for Steps {
    fn waiting(&mut self, _: &str, _: Deadline) {}
    fn step(&mut self, step: Step) {
        self.0.push((step.what, step.outcome));
    }
}

struct Scene {
    scratch: tempfile::TempDir,
    first: Option<Child>,
    second: Option<u32>,
    steps: Steps,
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(mut child) = self.first.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Ok(Some(left)) = Instance::find(self.scratch.path()) {
            let _ = peer::signal(left.holder.pid.unwrap_or(0), left.holder.start_ticks, Signal::SIGKILL);
        }
    }
}

impl Scene {
    fn empty() -> Self {
        Self { scratch: tempfile::tempdir().expect("scratch directory"), first: None, second: None, steps: Steps::default() }
    }

    fn with_gateway() -> Self {
        let mut scene = Self::empty();
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", NAME]).env(ROLE, scene.scratch.path());
        scene.first = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts"));
        let deadline = Deadline::after(Duration::from_secs(20));
        while scene.find().is_none_or(|instance| instance.holder.profile.is_none()) {
            assert!(!deadline.passed(), "does not start");
            let _ = CancelToken::new().sleep(Duration::from_millis(5));
        }
        scene
    }

    fn find(&self) -> Option<Instance> {
        Instance::find(self.scratch.path()).expect("readable")
    }

    fn signal(&self, signal: Signal, reached: fn(&peer::Snapshot) -> bool) {
        let holder = self.find().expect("running").holder;
        peer::signal(holder.pid.expect("known"), holder.start_ticks, signal).expect("ours");
        let deadline = Deadline::after(Duration::from_secs(20));
        while !holder.process().is_some_and(|process| reached(&process)) {
            assert!(!deadline.passed(), "no effect");
            let _ = CancelToken::new().sleep(Duration::from_millis(5));
        }
    }

    fn restart(&mut self, force: bool) -> Result<Restarted, Failure> {
        self.restart_by(&format!("{ROLE}=\"$1\" exec \"$2\" --exact {NAME} 2>/dev/null"), force)
    }

    fn restart_by(&mut self, script: &str, force: bool) -> Result<Restarted, Failure> {
        let exe = std::env::current_exe().expect("this program");
        let commands = FakeCommands::default();
        let plan = Plan {
            state_dir: self.scratch.path(),
            config: Path::new("/nowhere/config.toml"),
            profile: "test",
            force,
            timeout: None,
            restart_drain: Duration::from_millis(100),
            program: Path::new("/bin/sh"),
            arguments: vec!["-c".into(), script.into(), "sh".into(), self.scratch.path().into(), exe.into()],
            directory: "/".into(),
            inside: false,
            commands: &commands,
            threads: &Threads::new(),
        };
        let mut steps = Steps::default();
        // As the shell of the one who started it would.
        let reaped = self.first.take().map(|mut child| std::thread::spawn(move || child.wait()));
        let result = restart(&plan, &mut steps);
        drop(reaped);
        self.second = result.as_ref().ok().map(|restarted| restarted.pid);
        self.steps = steps;
        result
    }

    fn outcomes(&self) -> Vec<&str> {
        self.steps.0.iter().map(|(_, outcome)| outcome.as_str()).collect()
    }
}

fn has(steps: &Steps, what: &str, outcome: &str) -> bool {
    steps.0.iter().any(|(step, end)| step.starts_with(what) && end.starts_with(outcome))
}

#[test]
fn a_gateway_that_is_not_there_is_started() {
    let mut scene = Scene::empty();
    let restarted = scene.restart(false).expect("starts");
    assert!(restarted.detached && restarted.why_silent.is_none());
    assert_eq!(scene.outcomes()[0], "there is none");
    // The fake answers with a number that is not its own.
    assert_eq!(scene.steps.0.last().map(|(what, _)| what.as_str()), Some("ready"));
}

#[test]
fn a7_one_that_refuses_is_ended() {
    let mut scene = Scene::with_gateway();
    let old = scene.find().expect("running").holder;
    let restarted = scene.restart(false).expect("restarts");
    assert!(has(&scene.steps, "ask over", "restarts are switched off"), "{:?}", scene.steps.0);
    assert!(has(&scene.steps, "SIGUSR1", "gone"), "{:?}", scene.steps.0);
    assert_eq!(restarted.why_silent.as_deref(), Some("restarts are switched off"));
    assert!(!same(&old, &scene.find().expect("running").holder));
}

#[test]
fn a7_a8_one_that_is_stopped_is_killed() {
    let mut scene = Scene::with_gateway();
    scene.signal(Signal::SIGSTOP, |process| process.is_stopped());
    let started = clock::now();
    let restarted = scene.restart(false).expect("restarts");
    assert!(started.elapsed() < Duration::from_secs(15));
    let steps = &scene.steps;
    assert!(
        has(steps, "ask over", "no answer") && has(steps, "SIGTERM", "still there: it is stopped") && has(steps, "SIGKILL", "gone"),
        "{:?}",
        steps.0
    );
    assert!(!has(steps, "SIGUSR1", ""), "a stopped process takes no request");
    assert_eq!(restarted.why_silent.as_deref(), Some("state T (stopped)"));
}

#[test]
fn force_begins_at_sigterm() {
    let mut scene = Scene::with_gateway();
    scene.restart(true).expect("restarts");
    assert!(
        !has(&scene.steps, "ask", "") && !has(&scene.steps, "SIGUSR1", "") && has(&scene.steps, "SIGTERM", "gone"),
        "{:?}",
        scene.steps.0
    );
}

#[test]
fn a_new_one_that_does_not_start_is_reported_with_its_own_words() {
    let mut scene = Scene::empty();
    let failure = scene.restart_by("echo 'error: no such key' >&2; exit 78", false).expect_err("fails");
    assert!(failure.why.contains("exit 78") && failure.why.contains("error: no such key"), "{failure:?}");
    assert!(failure.what_to_do.contains("config check"));
}

#[test]
fn command_lines_that_mean_the_same_elsewhere() {
    let check = |line: &str, expect: Option<&str>| {
        let words = line.split(' ').map(OsString::from).collect();
        let kept = reusable_arguments(words)
            .map(|words| words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "));
        assert_eq!(kept.as_deref(), expect, "{line}");
    };
    check("hermes-gateway run", Some("run"));
    check("./gw --config /etc/c.toml gateway run --replace --pid-file=/run/x", Some("--config /etc/c.toml gateway run --pid-file=/run/x"));
    check("gw --config c.toml run", None);
    check("gw --state-dir=here run", None);
    check("gw --config", None);
    check("gw demo", None);
    check("", None);
}

#[test]
fn a33_a34_who_starts_it_again() {
    let holder = |pid: u32, supervised: bool| HolderInfo { pid: Some(pid), supervised, ..HolderInfo::default() };
    let check = |unit: &str, main_pid: u32, holder: &HolderInfo, expect: bool| {
        let commands = FakeCommands::default().on("systemctl show", 0, &format!("LoadState=loaded\nMainPID={main_pid}\n"));
        let owner = Owner { scope: Scope::System, unit: unit.to_owned(), uid: None };
        assert_eq!(owns(&commands, &owner, holder), expect, "{unit} {main_pid}");
    };
    check("gw.service", 42, &holder(42, true), true);
    check("runner.service", 7, &holder(42, true), false);
    check("hermes-gateway.service", 7, &holder(42, true), true);
    check("hermes-gateway.service", 7, &holder(42, false), false);
}

#[test]
fn a78_a_unit_is_restarted_or_left_to_systemd() {
    let scratch = tempfile::tempdir().expect("scratch directory");
    let threads = Threads::new();
    let check = |commands: FakeCommands, expect: Result<&str, &str>, did: &str| {
        let plan = Plan {
            state_dir: scratch.path(),
            config: Path::new("/etc/x.toml"),
            profile: "default",
            force: false,
            timeout: None,
            restart_drain: Duration::ZERO,
            program: Path::new("/bin/false"),
            arguments: Vec::new(),
            directory: "/".into(),
            inside: false,
            commands: &commands,
            threads: &threads,
        };
        let mut steps = Steps::default();
        let owner = Owner { scope: Scope::System, unit: "gw.service".to_owned(), uid: None };
        let mut ladder =
            Ladder { plan: &plan, progress: &mut steps, keeper: Keeper::Nobody, old: None, arguments: Vec::new(), why_silent: None };
        let result = ladder.start_unit(&owner).map(drop).map_err(|failure| failure.why);
        match expect {
            Ok(outcome) => assert!(result.is_ok() && has(&steps, "start", outcome), "{result:?} {:?}", steps.0),
            Err(why) => assert!(result.as_ref().is_err_and(|found| found.contains(why)), "{result:?}"),
        }
        assert!(did.is_empty() || commands.did(did), "{:?}", commands.ran.borrow());
    };
    let show = "systemctl show";
    let failed = "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=start-limit-hit\n";
    let fake = || FakeCommands::default().on("systemctl reset-failed", 0, "");
    // Crash-looping and given up.
    check(
        fake().on(show, 0, failed).on("systemctl restart", 0, ""),
        Ok("systemctl restart gw.service"),
        "systemctl reset-failed -- gw.service",
    );
    // It has been started meanwhile: no second restart.
    check(fake().on(show, 0, "LoadState=loaded\nActiveState=activating\nSubState=start\nMainPID=99\n"), Ok("systemd has started"), "");
    // Not allowed to us, but it comes back by itself.
    let waiting = "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nMainPID=0\n";
    check(fake().on(show, 0, waiting).on("systemctl restart", 1, "Access denied"), Ok("systemd starts gw.service again by itself"), "");
    // Started, and dead of a wrong configuration.
    let wrong = "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=78\n";
    check(fake().on(show, 0, failed).on(show, 0, wrong).on("systemctl restart", 1, "Job failed"), Err("its configuration is wrong"), "");
}
