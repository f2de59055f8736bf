//! Tests of talking to systemd, and the fake that answers in its place.

use super::*;
use std::cell::RefCell;
use std::collections::VecDeque;

/// Answers in systemd's place: a table of beginnings of command lines. An entry with several answers gives them in turn
/// and stays at the last.
#[derive(Default)]
pub(crate) struct FakeCommands {
    answers: RefCell<Vec<(String, VecDeque<Ran>)>>,
    pub ran: RefCell<Vec<String>>,
}

impl FakeCommands {
    pub fn on(self, beginning: &str, code: i32, output: &str) -> Self {
        let ran = Ran { exit: Exit::Code(code), output: output.to_owned() };
        let mut answers = self.answers.borrow_mut();
        match answers.iter_mut().find(|(known, _)| known == beginning) {
            Some((_, list)) => list.push_back(ran),
            None => answers.push((beginning.to_owned(), VecDeque::from([ran]))),
        }
        drop(answers);
        self
    }

    pub fn did(&self, beginning: &str) -> bool {
        self.ran.borrow().iter().any(|line| line.starts_with(beginning))
    }
}

impl Commands for FakeCommands {
    fn run(&self, words: &[&str], _: Duration) -> Result<Ran, String> {
        let line = words.iter().filter(|word| **word != "--no-ask-password").copied().collect::<Vec<_>>().join(" ");
        self.ran.borrow_mut().push(line.clone());
        let mut answers = self.answers.borrow_mut();
        let found = answers.iter_mut().find(|(beginning, _)| line.starts_with(beginning.as_str()));
        let Some((_, list)) = found else { return Err(format!("nothing is known about: {line}")) };
        if list.len() > 1 { Ok(list.pop_front().expect("several")) } else { Ok(list[0].clone()) }
    }
}

#[test]
fn time_spans() {
    let check = |text: &str, expect_ms: Option<u64>| assert_eq!(parse_time_span(text), expect_ms.map(Duration::from_millis), "{text}");
    check("30s", Some(30_000));
    check("1min 30s", Some(90_000));
    check("2h 5min 100ms", Some(7_500_100));
    check("1d", Some(86_400_000));
    check("0", None);
    check("infinity", None);
    check("", None);
    check("1.5s", Some(1500));
    assert_eq!(parse_time_span("500us"), Some(Duration::from_micros(500)));
}

#[test]
fn what_show_says() {
    let text = "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\nMainPID=0\nExecMainStatus=69\nNRestarts=4\n\
                FragmentPath=/etc/systemd/system/hermes-gateway.service\nDropInPaths=/a/b.conf /c/d.conf\nUnitFileState=enabled\n\
                TimeoutStopUSec=30s\nTimeoutStartUSec=infinity\nNeedDaemonReload=no\n\
                ExecStart={ path=/usr/bin/hermes-gateway ; argv[]=/usr/bin/hermes-gateway --config /etc/hermes-gateway/config.toml run ; ignore_errors=no }\n";
    let state = UnitState::parse(text);
    assert!(state.is_loaded() && state.awaits_restart() && !state.is_active() && !state.is_down());
    assert_eq!((state.main_pid, state.restarts, state.stop_timeout), (None, 4, Some(Duration::from_secs(30))));
    assert_eq!((state.start_timeout, state.drop_ins.len(), state.needs_reload), (None, 2, false));
    assert_eq!(state.describe(), "activating (auto-restart, exit-code, status 69)");
    assert!(state.reads(Path::new("/etc/hermes-gateway/config.toml")));
    assert!(!state.reads(Path::new("/etc/hermes-gateway/config")));
    assert!(!state.reads(Path::new("/home/ana/.config/hermes-gateway/config.toml")));
    assert!(!UnitState::default().reads(Path::new("")));
}

#[test]
fn a34_who_owns_a_process_is_told_by_its_cgroup() {
    let check = |text: &str, expect: Option<(Scope, &str, Option<u32>)>| {
        let owner = parse_cgroup(text);
        let found = owner.as_ref().map(|owner| (owner.scope, owner.unit.as_str(), owner.uid));
        assert_eq!(found, expect, "{text}");
    };
    let system = Some((Scope::System, "hermes-gateway.service", None));
    check("0::/system.slice/hermes-gateway.service\n", system);
    check("0::/system.slice/hermes-gateway.service/tools\n", system);
    check("12:pids:/x\n1:name=systemd:/system.slice/hermes-gateway.service\n0::/\n", system);
    check("9:name=systemd:/\n8:pids:/\n0::/system.slice/hermes-gateway.service\n", system);
    let user = Some((Scope::User, "hermes-gateway.service", Some(1000)));
    check("0::/user.slice/user-1000.slice/user@1000.service/app.slice/hermes-gateway.service\n", user);
    check("0::/user.slice/user-1000.slice/session-3.scope\n", None);
    check("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-foot-77.scope\n", None);
    check("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", None);
    check("0::/\n", None);
    check("0::/docker/abc\n", None);
    check("", None);
}

#[test]
fn a15_a_unit_that_grants_too_little_is_named() {
    let state = |granted: Option<u64>| UnitState { stop_timeout: granted.map(Duration::from_secs), ..UnitState::default() };
    let check = |granted: Option<u64>| stop_timeout_warning(&state(granted), "x.service", Duration::from_secs(25));
    assert_eq!((check(None), check(Some(25)), check(Some(30))), (None, None, None));
    let text = "TimeoutStopSec=15s of x.service is shorter than the stop budget of 25s: systemd would kill a slow stop";
    assert_eq!(check(Some(15)).as_deref(), Some(text));
}

#[test]
fn programs_run_bounded() {
    let programs = Programs::new(&Threads::new());
    let ran = programs.run(&["sh", "-c", "echo out; echo err >&2; exit 3"], ASK).expect("starts");
    assert_eq!((ran.exit, ran.complaint().as_str()), (Exit::Code(3), "out; err"));
    let started = crate::clock::now();
    let ran = programs.run(&["sleep", "60"], Duration::from_millis(100)).expect("starts");
    assert_eq!(ran.exit, Exit::TimedOut);
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(programs.run(&["no-such-program-here"], ASK).is_err());
}

#[test]
fn managers_are_asked_in_their_scope() {
    let commands = FakeCommands::default()
        .on("systemctl --version", 0, "systemd 252 (252.38-1~deb12u1)\n+PAM\n")
        .on("systemctl --user show", 0, "LoadState=not-found\nActiveState=inactive\n")
        .on("systemctl start", 1, "Failed to start x.service: Access denied\nSee system logs.\n");
    let user = Manager::new(&commands, Scope::User);
    assert_eq!(user.version(), Some(252));
    assert!(!user.show("x.service").expect("answers").is_loaded());
    let system = Manager::new(&commands, Scope::System);
    let error = system.systemctl(&["start", "x.service"], ASK).expect_err("refused");
    assert_eq!(error.to_string(), "systemctl start x.service: Failed to start x.service: Access denied; See system logs.");
}
