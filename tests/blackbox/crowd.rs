//! Children that make it hard to end them, and what restarts in place leave of them.

use crate::support::gateway::{Gateway, STOP_BUDGET};
use crate::support::model::{self, Model, Protocol, Reply};
use crate::support::poll::{self, SOON};
use crate::support::process::{self, descriptors, mark, with_command};
use crate::support::telegram::{ANA, Telegram};
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

struct Crowd {
    gateway: Gateway,
    telegram: Telegram,
    model: Model,
    mark: String,
}

impl Crowd {
    fn start() -> Self {
        let (telegram, model, mark) = (Telegram::start(), Model::start(), mark());
        let gateway = Gateway::setup().telegram(&telegram).model(&model, Protocol::Anthropic).set("shutdown", "drain", "\"0s\"").start();
        Self { gateway, telegram, model, mark }
    }

    /// A tool call, until at least so many of its processes are seen.
    fn run(&self, text: &str, command: &str, processes: usize) {
        self.model.rule(text, [Reply::Stream(vec![model::shell(command)]), Reply::Silent]);
        self.telegram.user_says(ANA, text);
        poll::eventually(SOON, "the processes run", || (with_command(&self.mark).len() >= processes).then_some(()));
        // When the turn is taken up again, it comes to its end.
        self.model.rule(text, [model::text("done")]);
    }

    fn stop(&mut self) {
        self.gateway.signal(Signal::SIGTERM);
        let exit = self.gateway.wait_exit(STOP_BUDGET + Duration::from_secs(1));
        assert_eq!(exit.code, Some(0), "{exit:?}\n{}", self.gateway.log_tail());
        let left = with_command(&self.mark);
        assert!(left.is_empty(), "{} processes are left: {left:#?}\n{}", left.len(), self.gateway.log_tail());
    }
}

/// Processes that have ended and whose parent has not looked, by the parent.
fn zombies_of(parent: i32) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let is_zombie = |stat: &String| {
        let mut fields = stat[stat.rfind(')').unwrap_or(0)..].split_whitespace().skip(1);
        fields.next() == Some("Z") && fields.next() == Some(&parent.to_string())
    };
    stats.filter(is_zombie).collect()
}

#[test]
fn a25_a_crowd_that_ignores_term_and_has_left_its_session() {
    let mut crowd = Crowd::start();
    let mark = &crowd.mark;
    let command = format!("for i in $(seq 200); do setsid sh -c \"trap '' TERM HUP; sleep {mark}; sleep {mark}\" & done; wait");
    crowd.run("crowd", &command, 300);
    crowd.stop();
}

#[test]
fn a25_a_chain_in_which_each_starts_the_next_and_ends() {
    let mut crowd = Crowd::start();
    let script = crowd.gateway.setup.home().join("chain");
    let text = format!("#!/bin/sh\n: {}\nsleep 0.02\nsetsid \"$0\" \"$1\" </dev/null >/dev/null 2>&1 &\n", crowd.mark);
    std::fs::write(&script, text).expect("a script");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("a program");
    let command = format!("for i in 1 2 3 4 5; do {} {} & done; sleep {}", script.display(), crowd.mark, crowd.mark);
    crowd.run("chain", &command, 4);
    crowd.stop();
    poll::never(Duration::from_millis(300), "the chain goes on", || !with_command(&crowd.mark).is_empty());
}

#[test]
fn a22_a_child_that_stopped_itself() {
    let mut crowd = Crowd::start();
    let mark = crowd.mark.clone();
    crowd.run("stopped", &format!("sh -c 'kill -STOP $$; sleep {mark}' & kill -STOP $$; sleep {mark}"), 1);
    poll::eventually(SOON, "it is stopped", || with_command(&mark).iter().any(|process| process.state == 'T').then_some(()));
    crowd.stop();
}

#[test]
fn a25_ended_orphans_do_not_stay_as_zombies() {
    let crowd = Crowd::start();
    let mark = crowd.mark.clone();
    crowd.run("orphans", &format!("for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.2' &) ; done; sleep {mark}"), 1);
    let pid = crowd.gateway.pid();
    poll::eventually(SOON, "all that ended are reaped", || {
        (zombies_of(pid).is_empty() && with_command("sleep 0.2").is_empty()).then_some(())
    });
}

#[test]
fn a54_restarts_in_place_leave_nothing_of_the_life_before() {
    let mut crowd = Crowd::start();
    let mark = crowd.mark.clone();
    let pid = crowd.gateway.pid();
    let restarted = |crowd: &mut Crowd, round: usize| {
        crowd.run(&format!("round {round}."), &format!("(setsid sleep {mark} &); trap '' TERM; sleep {mark}; sleep {mark}"), 2);
        crowd.gateway.signal(Signal::SIGUSR1);
        let starts = || crowd.gateway.log_lines().iter().filter(|line| line.contains("stop budget")).count();
        poll::eventually(SOON, "it was restarted", || (starts() == round + 1).then_some(()));
        crowd.gateway.wait_ready();
        assert_eq!(crowd.gateway.pid(), pid);
        crowd.telegram.wait(SOON, "the turn comes to its end", |state| (state.count(ANA, "done") >= round).then_some(()));
        crowd.gateway.wait_idle();
        assert!(with_command(&mark).is_empty(), "{:?}", with_command(&mark));
    };
    restarted(&mut crowd, 1);
    let before = crowd.gateway.footprint();
    for round in 2..6 {
        restarted(&mut crowd, round);
    }
    let after = crowd.gateway.footprint();
    assert!(after.descriptors <= before.descriptors + 2, "{before:?} {after:?}: {:#?}", descriptors(pid));
    assert!(after.threads <= before.threads + 1, "{before:?} {after:?}");
    poll::eventually(SOON, "no zombie of an earlier life is left", || zombies_of(pid).is_empty().then_some(()));
    let left = process::of_scratch(crowd.gateway.setup.scratch());
    assert_eq!(left.len(), 1, "{left:#?}");
}
