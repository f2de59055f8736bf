//! `shell`: a command line, in the foreground or as a background job of the session.

use super::{Input, Tool, ToolContext, ToolOutcome, cut, one_line, settle, shown};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::process::{Exit, Finished, JobId, JobInfo, JobState, Spec};
use crate::provider::ToolSpec;
use serde_json::{Value, json};
use std::time::Duration;

pub(super) struct Shell;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

impl Tool for Shell {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "shell",
            description: "Runs a command line with bash in the working directory and returns its output (stdout and stderr together) and how it \
                          ended. There is no terminal and nobody to answer questions: use options like --yes. Each call is a new shell. Whatever the \
                          command leaves running is ended when it returns; to keep a server or a long job, set background: it gives a job number, \
                          and {\"job\": 3, \"action\": \"poll\" | \"log\" | \"kill\"} or {\"action\": \"list\"} asks for it later."
                .to_owned(),
            schema: json!({
                "type": "object",
                "properties": {
                    "command": {"type": "string", "description": "The command line."},
                    "timeout_s": {"type": "integer", "minimum": 1, "description": "Seconds after which it is ended. Leave out for the configured default."},
                    "background": {"type": "boolean", "description": "Run it as a background job and return at once."},
                    "job": {"type": "integer", "description": "The number of a background job, with action."},
                    "action": {"type": "string", "enum": ["poll", "log", "kill", "list"], "description": "What to do with background jobs, in place of command."},
                    "offset": {"type": "integer", "minimum": 0, "description": "With log: byte from which to read on. Leave out for the last output."}
                }
            }),
        }
    }

    fn summary(&self, input: &Value) -> String {
        match (input.get("command").and_then(Value::as_str), input.get("action").and_then(Value::as_str)) {
            (Some(command), _) => one_line(command, 80),
            (None, Some(action)) => {
                format!("job {} {action}", input.get("job").map(ToString::to_string).unwrap_or_default()).replace("  ", " ")
            }
            (None, None) => shown(input, "command"),
        }
    }

    fn run(&self, input: &Value, context: &ToolContext<'_>) -> ToolOutcome {
        settle(run(&Input(input), context))
    }
}

fn run(input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
    let job = input.optional_number("job", 1)?;
    let action = input.optional_text("action")?;
    let command = input.optional_text("command")?;
    match (command, action, job) {
        (None, Some("list"), _) => Ok(list(context)),
        (None, action, Some(job)) => job_action(JobId(job), action.unwrap_or("poll"), input, context),
        (None, Some(_), None) => Err(ToolOutcome::error("bad input: the field \"job\" is missing; action list shows the jobs")),
        (Some(_), _, Some(_)) => Err(ToolOutcome::error("bad input: give either \"command\" or \"job\", not both")),
        (command, _, None) => {
            let command = match command {
                Some(command) => command,
                None => input.text("command")?,
            };
            if command.trim().is_empty() {
                return Err(ToolOutcome::error("bad input: the field \"command\" is empty"));
            }
            if input.flag("background")? { background(command, input, context) } else { foreground(command, input, context) }
        }
    }
}

fn spec(command: &str, context: &ToolContext<'_>, deadline: Deadline) -> Spec {
    Spec { environment_names: context.config.shell_env.clone(), ..Spec::shell(command, context.workdir, deadline) }
}

fn foreground(command: &str, input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
    let timeout = input.optional_number("timeout_s", 1)?.map_or(context.config.shell_timeout, Duration::from_secs);
    let spec = spec(command, context, context.deadline.within(timeout));
    let mut last_told = clock::now();
    let mut on_output = |bytes: &[u8]| {
        if last_told.elapsed() >= PROGRESS_EVERY {
            let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(1024)..]);
            if let Some(line) = text.lines().rev().find(|line| !line.trim().is_empty()) {
                last_told = clock::now();
                (context.on_progress)(&one_line(line, 120));
            }
        }
    };
    match context.children.run(&spec, context.token, &mut on_output) {
        Ok(finished) => Ok(told(&finished)),
        Err(error) => Err(ToolOutcome::error(format!("the command was not run: {error}"))),
    }
}

/// What the model and the chat are told of a command that has ended.
fn told(finished: &Finished) -> ToolOutcome {
    let seconds = finished.elapsed.as_secs_f64();
    let end = match finished.exit {
        Exit::TimedOut => format!("timed out after {seconds:.0} s"),
        exit => exit.to_string(),
    };
    let mut content = finished.output.trim_end().to_owned();
    if !content.is_empty() {
        content.push('\n');
    }
    content.push_str(&format!("[{end}"));
    if !matches!(finished.exit, Exit::TimedOut) && seconds >= 1.0 {
        content.push_str(&format!(" after {seconds:.1} s"));
    }
    if matches!(finished.exit, Exit::TimedOut) {
        content.push_str("; it was ended. Give a longer timeout_s, or run it with background: true");
    }
    content.push(']');
    if finished.leftover {
        content.push_str("\n[processes that it had left running were ended; use background: true to keep one]");
    }
    ToolOutcome { content, is_error: finished.exit != Exit::Code(0), end }
}

fn background(command: &str, input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
    let lifetime = input.optional_number("timeout_s", 1)?.map_or(limits::JOB_LIFETIME, Duration::from_secs).min(limits::JOB_LIFETIME);
    let spec = spec(command, context, Deadline::after(lifetime));
    match context.children.start(&spec, context.session, context.token) {
        Ok(id) => {
            let content = format!(
                "[job {id} runs in the background, for {} min at most; ask for it with {{\"job\": {id}, \"action\": \"poll\" | \"log\" | \"kill\"}}]",
                lifetime.as_secs().div_ceil(60)
            );
            Ok(ToolOutcome::done(content, format!("job {id} started")))
        }
        Err(_) if context.token.is_cancelled() => Err(ToolOutcome::cancelled()),
        Err(error) => Err(ToolOutcome::error(format!("the command was not run: {error}"))),
    }
}

fn job_action(id: JobId, action: &str, input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
    let unknown = || ToolOutcome::error(format!("there is no job {id} in this session; action list shows the jobs"));
    let children = context.children;
    match action {
        "poll" | "log" => {
            let info = children.poll(context.session, id).ok_or_else(unknown)?;
            let offset = input.optional_number("offset", 0)?;
            // A look shows the end of the output; the log all that is wanted.
            let bytes_max = if action == "poll" { 4096 } else { limits::TOOL_OUTPUT_BYTES_MAX };
            let piece = children.log(context.session, id, offset, bytes_max).ok_or_else(unknown)?;
            let mut content = piece.text;
            if !content.is_empty() && !content.ends_with('\n') {
                content.push('\n');
            }
            content.push_str(&format!("[{}; bytes {} to {} of {}]", describe(&info), piece.from, piece.next, piece.total));
            Ok(ToolOutcome::done(content, state(&info)))
        }
        "kill" => {
            let info = children.kill(context.session, id).ok_or_else(unknown)?;
            Ok(ToolOutcome::done(format!("[{}]", describe(&info)), state(&info)))
        }
        "list" => Ok(list(context)),
        other => Err(ToolOutcome::error(format!(
            "bad input: the field \"action\" is \"{}\"; it must be poll, log, kill or list",
            cut(other, 40)
        ))),
    }
}

fn state(info: &JobInfo) -> String {
    match info.state {
        JobState::Running => format!("job {} runs", info.id),
        JobState::Ending => format!("job {} is being ended", info.id),
        JobState::Ended(exit) => format!("job {} has ended: {exit}", info.id),
    }
}

fn describe(info: &JobInfo) -> String {
    let mut text = format!("{}, {} s", state(info), info.elapsed.as_secs());
    if info.state == JobState::Running {
        text.push_str(&format!(", pid {}, quiet for {} s, {:.1} s of CPU", info.pid, info.idle.as_secs(), info.cpu.as_secs_f64()));
    }
    text
}

fn list(context: &ToolContext<'_>) -> ToolOutcome {
    let jobs = context.children.list(Some(context.session));
    let running = jobs.iter().filter(|job| !matches!(job.state, JobState::Ended(_))).count();
    let lines: Vec<String> = jobs.iter().map(|job| format!("{}: {}", describe(job), job.what)).collect();
    let content = if lines.is_empty() { "[no background jobs]".to_owned() } else { lines.join("\n") };
    ToolOutcome::done(content, format!("{running} of {} jobs run", jobs.len()))
}
