//! `restart`: shows the ladder, each step with its time, and what came of it.

use super::output::{Style, complain, print};
use super::stop::{render_step, seconds};
use super::{Context, code};
use crate::clock::{self, Deadline};
use crate::config::ShutdownConfig;
use crate::process::{MARK_VARIABLE, carries_mark_of, descends_from};
use crate::service::admin::Request;
use crate::service::restart::{Failure, Plan, Progress, restart as climb};
use crate::service::systemd::Programs;
use crate::service::takeover::{ANSWER, Instance, Step};
use crate::service::unit;
use crate::thread::Threads;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub(super) fn restart(context: &Context<'_>, force: bool, timeout: Option<Duration>) -> u8 {
    let state_dir = &context.places.state_dir;
    if let Ok(Some(instance)) = Instance::find(state_dir)
        && (carries_mark_of(state_dir) || instance.holder.pid.is_some_and(descends_from))
    {
        return from_inside(&instance);
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(cause) => {
            complain(&format!("error: cannot tell where this program is: {cause}"));
            return code::FAILED;
        }
    };
    let threads = Threads::new();
    let plan = Plan {
        state_dir,
        config: &context.places.config,
        profile: &context.places.profile,
        force,
        timeout,
        restart_drain: restart_drain(context),
        program: &program,
        arguments: run_arguments(context),
        directory: context.environment.home().filter(|home| home.is_dir()).unwrap_or_else(|| PathBuf::from("/")),
        inside: context.environment.get(MARK_VARIABLE).is_some(),
        commands: &Programs::new(&threads),
        threads: &threads,
    };
    let started = clock::now();
    let mut shown = Shown { style: Style::of_stdout(&context.environment), frame: 0, open: false };
    match climb(&plan, &mut shown) {
        Ok(restarted) => {
            let why = restarted.why_silent.map(|why| format!(" The old process did not answer because: {}.", why.trim_end_matches('.')));
            print(&format!("restarted in {}.{}\n", seconds(started.elapsed()), why.unwrap_or_default()));
            if restarted.detached {
                print("It runs without a supervisor, and its log is not kept. For both: hermes-gateway service install\n");
            }
            code::OK
        }
        Err(failure) => {
            shown.close();
            complain(&render_failure(&failure, started.elapsed()));
            code::FAILED
        }
    }
}

/// A tool of the gateway must not wait for the end of the gateway, which waits for its tools.
fn from_inside(instance: &Instance) -> u8 {
    match instance.ask(&Request::Restart, Deadline::after(ANSWER)) {
        Ok(_) => {
            print(
                "This command runs inside the gateway, so it only asks it to restart. The gateway does so now; it ends this command with it.\n",
            );
            code::OK
        }
        Err(error) => {
            complain(&format!(
                "error: {error}.\n  This command runs inside the gateway and would be ended with it, so it does nothing more.\n  what to do: hermes-gateway restart from a shell outside"
            ));
            code::FAILED
        }
    }
}

/// From the configuration if it can be read; a broken one is the new gateway's to complain about.
fn restart_drain(context: &Context<'_>) -> Duration {
    let loaded = crate::config::load(&context.places, &context.environment, context.program.platforms);
    loaded.map_or_else(|_| ShutdownConfig::default().restart_drain, |loaded| loaded.config.shutdown.restart_drain)
}

/// Those that lead another process to the same gateway, wherever it is started.
fn run_arguments(context: &Context<'_>) -> Vec<OsString> {
    let places = &context.places;
    let mut words: Vec<OsString> = vec!["--config".into(), unit::base_config(&places.config, &places.profile).into()];
    if places.profile != "default" {
        words.extend(["--profile".into(), OsString::from(&places.profile)]);
    }
    words.extend(["--state-dir".into(), places.state_dir.clone().into(), "run".into()]);
    words
}

fn render_failure(failure: &Failure, took: Duration) -> String {
    format!("not restarted after {}: {}\n  what to do: {}", seconds(took), failure.why, failure.what_to_do)
}

/// The steps as they end; on a terminal also the one that is under way, with what is left of its time.
struct Shown {
    style: Style,
    frame: usize,
    open: bool,
}

impl Shown {
    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            print("\r\x1b[K");
        }
    }
}

impl Progress for Shown {
    fn waiting(&mut self, what: &str, deadline: Deadline) {
        if !self.style.terminal {
            return;
        }
        let marks: &[&str] = if self.style.symbols { &["⠋", "⠙", "⠸", "⠴", "⠦", "⠇"] } else { &["|", "/", "-", "\\"] };
        self.frame = (self.frame + 1) % marks.len();
        let text = format!("  {what:<32} {} {:>3} s left", marks[self.frame], deadline.remaining().as_secs() + 1);
        print(&format!("\r\x1b[K{}", self.style.dim(&super::output::fit(&text, self.style.width - 1))));
        self.open = true;
    }

    fn step(&mut self, step: Step) {
        self.close();
        print(&render_step(&step));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_to_do() {
        let failure = Failure { why: "gw.service is failed".to_owned(), what_to_do: "see why: journalctl".to_owned() };
        let expect = "not restarted after 2.5 s: gw.service is failed\n  what to do: see why: journalctl";
        assert_eq!(render_failure(&failure, Duration::from_millis(2500)), expect);
    }
}
