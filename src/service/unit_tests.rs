//! Tests of the units' texts: golden files, the contract of exit codes and times, and systemd's own opinion.

use super::*;
use crate::config::ShutdownConfig;

fn system() -> UnitSpec {
    UnitSpec {
        scope: Scope::System,
        account: Account::Own,
        program: "/usr/bin/hermes-gateway".into(),
        config: "/etc/hermes-gateway/config.toml".into(),
        profile: "default".to_owned(),
        state_dir: None,
        home: None,
        stop_budget: ShutdownConfig::default().stop_budget(),
        systemd_version: None,
    }
}

fn user() -> UnitSpec {
    UnitSpec {
        scope: Scope::User,
        config: "/home/ana/.config/hermes-gateway/config.toml".into(),
        state_dir: Some("/home/ana/.local/state/hermes-gateway".into()),
        home: Some("/home/ana".into()),
        ..system()
    }
}

/// Golden: what is in `contrib/` is what is written. `HERMES_BLESS=1` writes them.
#[test]
fn the_units_in_contrib_are_the_ones_that_are_written() {
    for (path, spec) in [("systemd/hermes-gateway.service", system()), ("systemd/user/hermes-gateway.service", user())] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(path);
        let text = render(&spec);
        if std::env::var_os("HERMES_BLESS").is_some() {
            std::fs::write(&path, &text).expect("the file");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "{}", path.display());
        assert!(is_untouched(&text));
    }
}

fn value_of<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn a15_all_times_come_from_the_stop_budget() {
    for (budget_ms, stop, start) in [(25_000, "30s", "100s"), (25_001, "31s", "101s"), (0, "5s", "75s"), (3_600_000, "3605s", "3675s")] {
        let text = render(&UnitSpec { stop_budget: Duration::from_millis(budget_ms), ..system() });
        assert_eq!((value_of(&text, "TimeoutStopSec"), value_of(&text, "TimeoutStartSec")), (vec![stop], vec![start]));
    }
    const { assert!(limits::GUARDIAN_INTERVAL.as_secs() * 2 < 60) };
    assert!(STOP_SLACK > limits::GUARDIAN_SLACK + limits::LOG_FLUSH);
}

#[test]
fn a9_exit_codes_are_a_contract() {
    for spec in [system(), user(), UnitSpec { account: Account::Named("pi".to_owned()), ..system() }] {
        let text = render(&spec);
        let expect = [
            ("Type", "notify"),
            ("NotifyAccess", "main"),
            ("Restart", "always"),
            ("RestartForceExitStatus", "75"),
            ("SuccessExitStatus", "75"),
            ("RestartPreventExitStatus", "2 78"),
            ("KillMode", "mixed"),
            ("OOMPolicy", "continue"),
            ("WatchdogSec", "60s"),
        ];
        for (key, value) in expect {
            assert_eq!(value_of(&text, key), [value], "{key}");
        }
        assert!(!text.contains("--replace"), "a33: the supervisor replaces");
        assert!(value_of(&text, "ExecStart")[0].ends_with(" run"));
    }
}

#[test]
fn what_an_old_systemd_does_not_know_is_left_out() {
    let at = |version: Option<u32>| render(&UnitSpec { systemd_version: version, ..system() }).contains("RestartSteps=");
    assert_eq!([at(None), at(Some(252)), at(Some(253)), at(Some(254)), at(Some(257))], [false, false, false, true, true]);
}

#[test]
fn command_lines() {
    let check = |spec: UnitSpec, expect: &str| assert_eq!(value_of(&render(&spec), "ExecStart"), [expect]);
    check(system(), "/usr/bin/hermes-gateway --config /etc/hermes-gateway/config.toml run");
    check(user(), "/usr/bin/hermes-gateway --config %h/.config/hermes-gateway/config.toml --state-dir %h/.local/state/hermes-gateway run");
    let work = UnitSpec { config: "/etc/hermes-gateway/profiles/work.toml".into(), profile: "work".to_owned(), ..system() };
    assert_eq!(value_of(&render(&work), "RuntimeDirectory"), ["hermes-gateway-work"]);
    assert_eq!(value_of(&render(&work), "EnvironmentFile"), ["-/etc/hermes-gateway/env"]);
    check(work, "/usr/bin/hermes-gateway --config /etc/hermes-gateway/config.toml --profile work run");
    let odd = UnitSpec { program: "/opt/my \"gw\"/100%/$x\\".into(), config: "/x/\u{1}é.toml".into(), ..system() };
    check(odd, r#""/opt/my \"gw\"/100%%/$$x\\" --config "/x/\x01é.toml" run"#);
    let home = UnitSpec { program: "/home/ana/my bin/gw".into(), state_dir: None, ..user() };
    check(home, r#""%h/my bin/gw" --config %h/.config/hermes-gateway/config.toml run"#);
    assert_eq!((unit_name("default"), unit_name("work")), ("hermes-gateway.service".to_owned(), "hermes-gateway-work.service".to_owned()));
}

#[test]
fn an_edited_unit_is_told_from_an_older_one() {
    let old = render(&UnitSpec { stop_budget: Duration::from_secs(40), ..system() });
    assert!(is_untouched(&old));
    for edited in [old.replace("TimeoutStopSec=45s", "TimeoutStopSec=15s"), format!("{old}# mine\n"), String::new(), "[Unit]\n".to_owned()]
    {
        assert!(!is_untouched(&edited), "{edited}");
    }
}

#[test]
fn differences() {
    let check = |old: &str, new: &str, expect: &str| assert_eq!(difference(old, new), expect, "{old:?} {new:?}");
    check("a\nb\nc\n", "a\nb\nc\n", "");
    check("a\nb\nc\n", "a\nx\nc\n", "- b\n+ x\n");
    check("a\nb\n", "a\nb\nc\n", "+ c\n");
    check("", "a\n", "+ a\n");
    check("a\nb\n", "", "- a\n- b\n");
    check("k=1\nq\n", "z\nk=1\n", "+ z\n- q\n");
}

/// systemd's own opinion, where it is there.
#[test]
fn systemd_understands_every_line() {
    // A bounded wait for a program of the system; nothing of ours is being tested by it.
    #![allow(clippy::disallowed_methods)]
    let named = UnitSpec { account: Account::Named("root".to_owned()), systemd_version: Some(254), ..system() };
    for (name, spec) in [("own", system()), ("named", named), ("user", user())] {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let path = scratch.path().join("hermes-gateway.service");
        std::fs::write(&path, render(&UnitSpec { program: "/bin/true".into(), ..spec })).expect("written");
        let mut command = std::process::Command::new("timeout");
        command.args(["60", "systemd-analyze", "verify", "--man=no"]).arg(&path).env("SYSTEMD_LOG_LEVEL", "warning");
        let Ok(output) = command.output() else {
            eprintln!("skipped: systemd-analyze cannot be run here");
            return;
        };
        if output.status.code() == Some(127) {
            eprintln!("skipped: there is no systemd-analyze here");
            return;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Other units of the machine may have their own faults, and an old systemd does not know the steps.
        let ours: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("hermes-gateway") && !line.contains("RestartSteps") && !line.contains("RestartMaxDelaySec"))
            .collect();
        assert!(ours.is_empty(), "{name}: {ours:#?}");
    }
}

/// The files for other supervisors keep to the same contract.
#[test]
fn a15_a9_the_other_supervisors_wait_as_long_and_know_the_exit_codes() {
    let read = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(path);
        std::fs::read_to_string(&path).unwrap_or_else(|cause| panic!("{}: {cause}", path.display()))
    };
    let seconds = stop_timeout(ShutdownConfig::default().stop_budget()).as_secs();
    let expect = [
        ("openrc/hermes-gateway", format!("retry=\"TERM/{seconds}/KILL/5\"")),
        ("runit/hermes-gateway/finish", format!("sv -w {seconds} ")),
        ("runit/hermes-gateway/finish", "2 | 78)".to_owned()),
        ("s6/hermes-gateway/timeout-kill", format!("{}\n", seconds * 1000)),
        ("s6/hermes-gateway/finish", "2 | 78) exit 125".to_owned()),
        ("launchd/hermes-gateway.plist", format!("<key>ExitTimeOut</key>\n\t<integer>{seconds}</integer>")),
    ];
    for (path, text) in expect {
        assert!(read(path).contains(&text), "{path}: {text}");
    }
    for path in ["openrc/hermes-gateway", "runit/hermes-gateway/run", "s6/hermes-gateway/run", "launchd/hermes-gateway.plist"] {
        let text = read(path);
        assert!(text.contains("HERMES_GATEWAY_SUPERVISED") && !text.contains("--replace"), "{path}");
    }
}
