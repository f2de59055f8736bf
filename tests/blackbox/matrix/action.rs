//! The columns: the ways to end, restart and replace a gateway, and what each of them promises.

use super::world::{Fault, World};
use super::{BUDGET, SLACK};
use crate::support::gateway::Exit;
use crate::support::poll::{self, SOON};
use crate::support::process;
use crate::support::telegram::ANA;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};

pub type Action = fn(&mut World);

/// All of them end with a running gateway.
pub const ACTIONS: [(&str, Action); 8] = [
    ("SIGTERM", term),
    ("second SIGTERM", second_term),
    ("SIGUSR1", restart_by_signal),
    ("/restart", restart_by_chat),
    ("restart", restart_by_command),
    ("restart --force", restart_by_force),
    ("kill -9", kill),
    ("--replace", replace),
];

/// Whether the gateway believes that a supervisor will start it again.
pub fn supervised(action: &str) -> bool {
    action == "SIGUSR1"
}

/// A process that has ended: on time, with this code, and with nothing left of it.
fn gone(world: &World, exit: Exit, code: i32, within: Duration) {
    assert!(exit.code == Some(code) && exit.elapsed <= within, "{exit:?}, expected {code} within {within:?}\n{}", world.gateway.log_tail());
    world.gateway.assert_nothing_left();
}

fn term(world: &mut World) {
    world.gateway.signal(Signal::SIGTERM);
    let exit = world.gateway.wait_exit(SOON);
    gone(world, exit, 0, BUDGET + SLACK);
    world.gateway.start_again();
}

fn second_term(world: &mut World) {
    world.gateway.signal(Signal::SIGTERM);
    world.gateway.wait_status("it drains", |status| (status["state"] == "draining").then_some(()));
    world.gateway.signal(Signal::SIGTERM);
    let exit = world.gateway.wait_exit(SOON);
    // Neither drain nor ask: cut and close are left.
    gone(world, exit, 0, Duration::from_secs(1) + SLACK);
    world.gateway.start_again();
}

fn restart_by_signal(world: &mut World) {
    world.gateway.signal(Signal::SIGUSR1);
    let exit = world.gateway.wait_exit(SOON);
    gone(world, exit, 75, BUDGET + SLACK);
    world.gateway.start_again();
}

/// In place: the same process, a new life.
fn restart_by_chat(world: &mut World) {
    let pid = world.gateway.pid();
    let birth = birth(&world.gateway.status());
    if matches!(world.fault, Fault::BlackHole | Fault::HalfOpen | Fault::NeverAnswers | Fault::SlowLoris | Fault::StoppedPeer) {
        // Nothing comes in there: the terminal's chat is another way.
        world.gateway.cli(&["chat", "/restart"]);
    } else {
        world.telegram.user_says(ANA, "/restart");
    }
    if world.fault == Fault::FullDisk {
        // What cannot be written down is not done, lest it be done again: it is, when there is room.
        world.gateway.wait_for_log("not accepted", SOON);
        world.heal();
    }
    born_after(world, pid, birth);
}

fn restart_by_command(world: &mut World) {
    restart(world, &["restart"]);
}

fn restart_by_force(world: &mut World) {
    restart(world, &["restart", "--force"]);
}

fn restart(world: &mut World, command: &[&str]) {
    let old = birth(&world.gateway.status());
    let output = world.gateway.cli(command);
    assert_eq!(output.code, Some(0), "{output:?}\n{}", world.gateway.log_tail());
    // A graceful restart may drain, and a slow disk makes it wait; then one new start.
    assert!(output.elapsed < BUDGET + SLACK + Duration::from_secs(6), "{output:?}");
    let status = world.gateway.status();
    assert!(status["state"] == "running", "the command ends with a gateway that is ready: {status}");
    assert!(birth(&status) > old + MOMENT, "it is another life: {status}");
    if status["pid"] != world.gateway.pid() {
        // The old process is gone, and in the test's hands only as a zombie.
        let exit = world.gateway.wait_exit(Duration::from_secs(2));
        assert!(matches!(exit.code, Some(0 | 75)), "{exit:?}\n{}", world.gateway.log_tail());
    }
}

fn kill(world: &mut World) {
    world.gateway.kill9();
    let begun = Instant::now();
    world.gateway.start_again();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let mark = &world.mark;
    assert!(process::with_command(mark).is_empty(), "the next start ends what the killed one left: {:?}", process::with_command(mark));
}

fn replace(world: &mut World) {
    let mut command = world.gateway.setup.command(&["run", "--replace"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut next = command.spawn().expect("a start that replaces");
    let pid = next.id();
    let exit = world.gateway.wait_exit(SOON);
    assert!(exit.code == Some(0) && exit.elapsed <= BUDGET + SLACK, "{exit:?}\n{}", world.gateway.log_tail());
    std::thread::spawn(move || process::wait(&mut next, Duration::from_secs(120)));
    world.gateway.wait_status("the next one runs", |status| (status["state"] == "running" && status["pid"] == pid).then_some(()));
}

/// What two readings of the same start may differ by; a restart takes longer, for it drains.
const MOMENT: Duration = Duration::from_millis(500);

/// When the gateway that answered so was started.
fn birth(status: &Value) -> Instant {
    Instant::now() - Duration::from_millis(status["uptime_ms"].as_u64().expect("an uptime"))
}

/// Waits for a later life of the same process.
fn born_after(world: &World, pid: i32, old: Instant) {
    // A disk that is slow or was full delays the commit of the request.
    let within = BUDGET + SLACK + Duration::from_secs(25);
    let seen = poll::try_for(within, Duration::from_millis(50), || {
        let status = world.gateway.try_status()?;
        (status["state"] == "running" && status["pid"] == pid && birth(&status) > old + MOMENT).then_some(())
    });
    assert!(seen.is_some(), "not restarted within {within:?}: {:?}\n{}", world.gateway.try_status(), world.gateway.log_tail());
}
