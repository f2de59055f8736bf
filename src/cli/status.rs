//! `status`: asks the running gateway and shows its answer, or what `/proc` says if there is none.

use super::human::{bytes, count, duration_ms};
use super::output::{Style, complain, fit, harmless, print};
use super::{Context, code};
use crate::clock::Deadline;
use crate::config::duration;
use crate::core::types::AdapterState;
use crate::service::client::ClientError;
use crate::service::report::{AdapterReport, GatewayState, StatusReport, ThreadReport};
use crate::service::takeover::{ANSWER, Instance, why_still_there};
use serde_json::json;
use std::time::Duration;

const DEGRADED: u8 = 1;
const UNRESPONSIVE: u8 = 2;
const NOT_RUNNING: u8 = 3;

pub(super) fn status(context: &Context<'_>, json: bool) -> u8 {
    let instance = match Instance::find(&context.places.state_dir) {
        Ok(Some(instance)) => instance,
        Ok(None) => {
            print(&if json { format!("{}\n", json!({ "state": "not_running" })) } else { context.not_running() + "\n" });
            return NOT_RUNNING;
        }
        Err(error) => {
            complain(&format!("error: cannot tell whether a gateway is running: {error}"));
            return code::FAILED;
        }
    };
    let style = Style::of_stdout(&context.environment);
    match instance.status(Deadline::after(ANSWER)) {
        Ok(report) => {
            let text = if json { serde_json::to_string(&report).unwrap_or_default() + "\n" } else { render(&report, style) };
            print(&text);
            verdict(&report).0
        }
        Err(error) => {
            let process = instance.holder.process();
            let text = if json {
                let state = process.map(|process| process.state.to_string());
                let value =
                    json!({ "state": "unresponsive", "pid": instance.holder.pid, "process_state": state, "error": error.to_string() });
                format!("{value}\n")
            } else {
                render_mute(&instance, &error, style)
            };
            print(&text);
            UNRESPONSIVE
        }
    }
}

/// The exit code, and what is wrong.
fn verdict(report: &StatusReport) -> (u8, Vec<String>) {
    if let Some(why) = &report.unresponsive {
        return (UNRESPONSIVE, vec![why.clone()]);
    }
    let mut wrong = Vec::new();
    match report.state {
        GatewayState::Running => {}
        GatewayState::Starting => wrong.push("it is starting".to_owned()),
        GatewayState::Draining => wrong.push("it is ending: running turns may finish".to_owned()),
        GatewayState::Stopping => wrong.push("it is stopping".to_owned()),
    }
    for adapter in shown_adapters(report).filter(|adapter| adapter.state != AdapterState::Connected) {
        let what = match adapter.state {
            AdapterState::Failed => "has failed",
            AdapterState::Paused => "is paused",
            _ => "is not connected",
        };
        wrong.push(format!("{} {what}", adapter.name));
    }
    if let Some(error) = &report.store.error {
        wrong.push(format!("the store takes nothing: {error}"));
    }
    let abandoned = report.threads.iter().filter(|thread| thread.abandoned).count();
    if abandoned > 0 {
        wrong.push(format!("{abandoned} threads were abandoned"));
    }
    for thread in report.threads.iter().filter(|thread| is_overdue(thread) && !thread.abandoned) {
        wrong.push(format!("thread {} is overdue", thread.name));
    }
    (if wrong.is_empty() { code::OK } else { DEGRADED }, wrong)
}

/// The terminal's own adapter is always there and says nothing.
fn shown_adapters(report: &StatusReport) -> impl Iterator<Item = &AdapterReport> {
    report.adapters.iter().filter(|adapter| adapter.platform != crate::adapter::local::NAME)
}

fn is_overdue(thread: &ThreadReport) -> bool {
    thread.due_ms.is_some_and(|due| due < 0)
}

fn render(report: &StatusReport, style: Style) -> String {
    let (exit, wrong) = verdict(report);
    let mut lines = vec![headline(report, exit, style)];
    if exit == UNRESPONSIVE {
        lines.push(stuck_control(report));
    }
    let adapters: Vec<[String; 4]> = shown_adapters(report).map(adapter_row).collect();
    block(&mut lines, "adapters", &align(adapters));
    let turn =
        |turn: &crate::service::report::TurnReport| [turn.session.clone(), duration_ms(turn.for_ms), turn.activity.clone(), String::new()];
    block(&mut lines, "turns", &align(report.turns.iter().map(turn).collect()));
    let overdue = report.threads.iter().filter(|thread| is_overdue(thread) || thread.abandoned);
    block(&mut lines, "threads", &align(overdue.map(thread_row).collect()));
    let queue = format!(
        "inbox {} waiting   outbox {}   dead letters {}",
        count(report.inbox.pending),
        count(report.outbox.pending),
        count(report.dead_letters)
    );
    block(&mut lines, "queue", &[queue]);
    let commit = report.store.last_commit_ms.map(|ms| format!("   last commit {ms} ms")).unwrap_or_default();
    let error = report.store.error.as_ref().map(|error| format!("   {error}")).unwrap_or_default();
    block(&mut lines, "store", &[format!("{}{commit}{error}", bytes(report.store.bytes))]);
    if let Some(schedule) = report.schedule.as_ref().filter(|schedule| schedule.jobs > 0) {
        let next =
            schedule.next.as_ref().map(|next| format!("   next in {} (job {}, {})", duration_ms(next.in_ms), next.job, next.session));
        block(&mut lines, "schedule", &[format!("{} jobs{}", count(schedule.jobs), next.unwrap_or_default())]);
    }
    let mut out: String = lines.iter().map(|line| fit(&harmless(line), style.width) + "\n").collect();
    out = paint_headline(&out, exit, style);
    match exit {
        UNRESPONSIVE => out.push_str("  what to do: hermes-gateway restart        (does not need the control thread)\n"),
        DEGRADED => out.push_str(&format!("{}: {}\n", style.yellow("degraded"), harmless(&wrong.join("; ")))),
        _ => {}
    }
    out
}

fn headline(report: &StatusReport, exit: u8, style: Style) -> String {
    let symbol = match exit {
        _ if !style.symbols => "",
        UNRESPONSIVE => "✗ ",
        _ => "● ",
    };
    let state = match report.state {
        _ if exit == UNRESPONSIVE => "UNRESPONSIVE".to_owned(),
        GatewayState::Starting => "starting".to_owned(),
        GatewayState::Running => format!("running {}", duration_ms(report.uptime_ms)),
        GatewayState::Draining => "draining".to_owned(),
        GatewayState::Stopping => "stopping".to_owned(),
    };
    format!(
        "{symbol}hermes-gateway {}   {state}   pid {}   RSS {}   threads {}   stop budget {}",
        report.version,
        report.pid,
        bytes(report.rss_bytes),
        report.threads.len(),
        duration::format(Duration::from_millis(report.stop_budget_ms)),
    )
}

/// Colours the symbol alone, after the width was measured.
fn paint_headline(out: &str, exit: u8, style: Style) -> String {
    match exit {
        UNRESPONSIVE => out.replacen('✗', &style.red("✗"), 1).replacen("UNRESPONSIVE", &style.red("UNRESPONSIVE"), 1),
        DEGRADED => out.replacen('●', &style.yellow("●"), 1),
        _ => out.replacen('●', &style.green("●"), 1),
    }
}

fn stuck_control(report: &StatusReport) -> String {
    let why = report.unresponsive.clone().unwrap_or_default();
    let Some(control) = report.threads.iter().find(|thread| thread.name == "control") else { return format!("  control    {why}") };
    let limit_ms = control.due_ms.map(|due| u64::try_from(due.saturating_add_unsigned(control.for_ms)).unwrap_or(0));
    let limit = limit_ms.map(|ms| format!("  (limit {})", duration_ms(ms))).unwrap_or_default();
    format!("  control    stuck {} in \"{}\"{limit}", duration_ms(control.for_ms), control.activity)
}

fn adapter_row(adapter: &AdapterReport) -> [String; 4] {
    let state = match adapter.state {
        AdapterState::Connecting => "connecting",
        AdapterState::Connected => "connected",
        AdapterState::Retrying => "retrying",
        AdapterState::Failed => "failed",
        AdapterState::Paused => "paused",
    };
    let mut details = Vec::new();
    if adapter.state == AdapterState::Connected {
        details.extend(adapter.heard_ms.map(|ms| format!("last heard {} ago", duration_ms(ms))));
        details.push(format!("in {}  out {}", count(adapter.received), count(adapter.sent)));
    } else {
        details.extend(adapter.error.clone());
        if let Some(next_ms) = adapter.next_try_ms {
            details.push(format!("next try in {} (attempt {})", duration_ms(next_ms), adapter.attempt));
        }
    }
    [adapter.name.clone(), state.to_owned(), duration_ms(adapter.since_ms), details.join("   ")]
}

fn thread_row(thread: &ThreadReport) -> [String; 4] {
    let overdue = thread.due_ms.filter(|due| *due < 0).map(|due| format!("overdue {}", duration_ms(due.unsigned_abs())));
    let state = if thread.abandoned { Some("abandoned".to_owned()) } else { overdue };
    [thread.name.clone(), state.unwrap_or_default(), duration_ms(thread.for_ms), thread.activity.clone()]
}

/// Columns as wide as their widest cell.
fn align(rows: Vec<[String; 4]>) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let line = |row: &[String; 4]| {
        let cells =
            row.iter().enumerate().map(|(column, cell)| format!("{cell:<width$}", width = widths.get(column).copied().unwrap_or(0)));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn block(lines: &mut Vec<String>, name: &str, rows: &[String]) {
    for (index, row) in rows.iter().enumerate() {
        lines.push(format!("  {:<10} {row}", if index == 0 { name } else { "" }));
    }
}

/// For a gateway that holds its lock and does not answer.
fn render_mute(instance: &Instance, error: &ClientError, style: Style) -> String {
    let symbol = if style.symbols { style.red("✗") + " " } else { String::new() };
    let version = if instance.holder.version.is_empty() { String::new() } else { format!(" {}", instance.holder.version) };
    let pid = instance.holder.pid.map(|pid| format!("   pid {pid}")).unwrap_or_default();
    let mut out = format!("{symbol}hermes-gateway{version}   {}{pid}\n", style.red("UNRESPONSIVE"));
    out.push_str(&format!("  lock       held; {error}\n"));
    out.push_str(&format!("  process    {}\n", why_still_there(instance)));
    if let (Some(pid), true) = (instance.holder.pid, instance.holder.process().is_some_and(crate::service::peer::Snapshot::is_stopped)) {
        out.push_str(&format!("  what to do: kill -CONT {pid}, or hermes-gateway restart\n"));
    } else {
        out.push_str("  what to do: hermes-gateway restart        (does not need its help)\n");
    }
    out
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
