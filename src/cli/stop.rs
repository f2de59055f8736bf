//! `stop`: asks, then signals, and says what happened, each step with its time.

use super::output::print;
use super::{Context, code};
use crate::clock;
use crate::service::takeover::{Plan, Step, end, why_still_there};
use std::time::Duration;

pub(super) fn stop(context: &Context<'_>, timeout: Option<Duration>) -> u8 {
    let Some(instance) = context.running() else { return code::OK };
    let started = clock::now();
    let supervised = instance.holder.supervised;
    if end(&instance, Plan { kill: false, limit: timeout }, &mut print_step) {
        let again = if supervised { "\nIts supervisor may start it again; to keep it stopped: hermes-gateway service stop" } else { "" };
        print(&format!("stopped in {}{again}\n", seconds(started.elapsed())));
        return code::OK;
    }
    let who = instance.holder.describe();
    let pid = instance.holder.pid.map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
    print(&format!(
        "not stopped after {}: {who} is still there, {}\n  what to do: kill -KILL {pid}        (what it has accepted is on disk)\n",
        seconds(started.elapsed()),
        why_still_there(&instance)
    ));
    code::FAILED
}

pub(super) fn print_step(step: Step) {
    print(&render_step(&step));
}

pub(super) fn render_step(step: &Step) -> String {
    format!("  {:<32} {:<24} {:>8}\n", step.what, step.outcome, seconds(step.took))
}

pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_in_columns() {
        let step = Step { what: "SIGTERM pid 4242".to_owned(), outcome: "sent".to_owned(), took: Duration::from_millis(40) };
        assert_eq!(render_step(&step), "  SIGTERM pid 4242                 sent                        0.0 s\n");
    }
}
