//! `cron`: lists and changes the scheduled jobs of the running gateway.

use super::args::CronCommand;
use super::output::{complain, harmless, print};
use super::{Context, code};
use crate::clock::Deadline;
use crate::core::JobView;
use crate::core::schedule::{CatchUp, Wish};
use crate::core::types::ChatRef;
use crate::limits;
use crate::service::admin::Request;
use serde_json::Value;

pub(super) fn cron(context: &Context<'_>, command: CronCommand) -> u8 {
    let json = command == CronCommand::List { json: true };
    let wish = match command {
        CronCommand::List { .. } => Wish::List,
        CronCommand::Add { to, thread, say, catch_up, when, text } => {
            let chat = match thread {
                Some(thread) => ChatRef { thread: Some(thread), ..to },
                None => to,
            };
            let catch_up = if catch_up == "skip" { CatchUp::Skip } else { CatchUp::Run };
            Wish::Add { chat, when, text: text.join(" "), fixed: say, catch_up }
        }
        CronCommand::Remove { job } => Wish::Remove { job },
        CronCommand::Pause { job } => Wish::Pause { job },
        CronCommand::Resume { job } => Wish::Resume { job },
        CronCommand::Run { job } => Wish::Run { job },
    };
    let Some(instance) = context.running() else { return code::FAILED };
    let args = serde_json::to_value(&wish).unwrap_or_default();
    let answer = instance.ask(&Request::Command { name: "cron".to_owned(), args }, Deadline::after(limits::ADMIN_REQUEST));
    match answer {
        Ok(answer) if json => print(&format!("{answer}\n")),
        Ok(Value::String(text)) => print(&format!("{}\n", harmless(&text))),
        Ok(answer) => match serde_json::from_value::<Vec<JobView>>(answer) {
            Ok(jobs) => print(&render(&jobs)),
            Err(error) => {
                complain(&format!("error: the gateway's answer cannot be read: {error}"));
                return code::FAILED;
            }
        },
        Err(error) => {
            complain(&format!("error: {error}"));
            return code::FAILED;
        }
    }
    code::OK
}

fn render(jobs: &[JobView]) -> String {
    if jobs.is_empty() {
        return "There are no jobs.\n".to_owned();
    }
    jobs.iter().map(job_lines).collect()
}

fn job_lines(job: &JobView) -> String {
    let next = if job.paused { "paused".to_owned() } else { format!("next {}", job.next.as_deref().unwrap_or("never")) };
    let last = job.last.as_ref().map(|last| format!("   last {last}")).unwrap_or_default();
    let skip = if job.catch_up == CatchUp::Skip { "   missed times are skipped" } else { "" };
    let say = if job.fixed { "say: " } else { "" };
    let text: String = job.text.lines().next().unwrap_or_default().chars().take(100).collect();
    let text = format!("{}   {}   {}   {next}{last}{skip}\n    {say}{text}   ({})", job.job, job.session, job.when, job.maker);
    text.lines().map(|line| harmless(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_as_they_are_listed() {
        let job = JobView {
            job: 3,
            session: "telegram:77001".to_owned(),
            when: "every 2h".to_owned(),
            text: "water\nthe plants".to_owned(),
            fixed: true,
            catch_up: CatchUp::Skip,
            maker: "Ana\u{1b}[2J".to_owned(),
            paused: false,
            next_ms: Some(1),
            next: Some("2026-12-01 09:00".to_owned()),
            last: Some("done 2026-12-01 07:00".to_owned()),
        };
        let shown = render(&[job]);
        assert!(shown.starts_with(
            "3   telegram:77001   every 2h   next 2026-12-01 09:00   last done 2026-12-01 07:00   missed times are skipped\n    say: water   (Ana"
        ));
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
}
