//! What becomes of scheduled jobs: made, listed, paused and removed on request, begun when they are due.
//!
//! Jobs are kept in memory as they are on disk; a change counts once it is committed. A time of a job is decided upon
//! with one operation of the store that writes the run and what it begins, so that it is neither lost nor run twice.

mod due;

use super::event::{Effect, Level, Now, StoreFault};
use super::record::{JobRow, Op, Outcome, RunRow, RunStart, RunState, WaitingRow};
use super::schedule::{self, CatchUp, Job, Timing, Wish};
use super::types::{ChatRef, Inbound, JobId};
use super::{Core, Pending, RequestId};
use crate::limits;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// All jobs that are not over.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    jobs: BTreeMap<JobId, Scheduled>,
    /// Wall clock less monotonic clock when the times were worked out.
    offset_ms: Option<i64>,
}

/// A job and when it is due.
#[derive(Debug)]
struct Scheduled {
    job: Job,
    paused: bool,
    last_slot_ms: i64,
    /// Its next time, by the wall clock.
    next_ms: Option<i64>,
    /// The same by the monotonic clock, for an interval: it passes even if the wall clock is set back.
    elapsed_ms: Option<u64>,
    /// The decision upon a time is on its way to the disk.
    deciding: bool,
    /// By the monotonic clock: not before.
    retry_ms: u64,
    /// Its last time was passed over; logged once for all that follow.
    skipping: bool,
}

impl Scheduled {
    fn new(job: Job, paused: bool, last_slot_ms: i64) -> Self {
        Self { job, paused, last_slot_ms, next_ms: None, elapsed_ms: None, deciding: false, retry_ms: 0, skipping: false }
    }

    /// Works its next time out.
    fn plan(&mut self, now: Now, zone: &TimeZone) {
        self.next_ms = self.job.timing.next(self.job.created_ms, self.last_slot_ms, now.wall_ms, zone);
        self.elapsed_ms = match (&self.job.timing, self.next_ms) {
            (Timing::Every { interval_ms }, Some(next_ms)) => {
                let wait_ms = next_ms.saturating_sub(now.wall_ms).clamp(0, *interval_ms);
                Some(now.mono_ms.saturating_add_signed(wait_ms))
            }
            _ => None,
        };
    }

    /// By the monotonic clock.
    fn due_ms(&self, now: Now) -> Option<u64> {
        let next_ms = self.next_ms.filter(|_| !self.paused && !self.deciding)?;
        let by_wall = now.mono_ms.saturating_add_signed(next_ms.saturating_sub(now.wall_ms).max(0));
        Some(self.elapsed_ms.map_or(by_wall, |elapsed_ms| elapsed_ms.min(by_wall)).max(self.retry_ms))
    }
}

/// Who gets the answer.
#[derive(Debug)]
pub(super) enum Asker {
    Chat(Box<WaitingRow>),
    Client(RequestId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Remove,
    Pause,
    Resume { now_ms: i64 },
}

/// What an operation of the store about a job was for.
#[derive(Debug)]
pub(super) enum JobPending {
    Added { job: Box<Job>, asker: Asker },
    Changed { job: JobId, change: Change, asker: Asker },
    Listed { asker: Asker },
    Begun(Begun),
}

#[derive(Debug)]
pub(super) struct Begun {
    job: JobId,
    /// The number of the time, and the time. `None`: asked for by a person.
    slot: Option<(i64, i64)>,
    chat: ChatRef,
    message: Option<Box<Inbound>>,
    last: bool,
    asker: Option<Asker>,
}

/// A job as clients of the control socket see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    pub job: JobId,
    pub session: String,
    pub when: String,
    pub text: String,
    pub fixed: bool,
    pub catch_up: CatchUp,
    pub maker: String,
    pub paused: bool,
    pub next_ms: Option<i64>,
    /// In the gateway's zone.
    pub next: Option<String>,
    pub last: Option<String>,
}

/// For `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScheduleView {
    pub jobs: usize,
    /// The job that is next, its session, and when, by the monotonic clock.
    pub next: Option<(JobId, String, u64)>,
}

impl Core {
    pub(super) fn recover_jobs(&mut self, rows: Vec<JobRow>) {
        for JobRow { id, job, paused, last_slot_ms } in rows {
            let mut scheduled = Scheduled::new(job, paused, last_slot_ms);
            scheduled.plan(self.now, &self.rules.zone);
            self.schedule.jobs.insert(id, scheduled);
        }
    }

    // --- what people ask for ---

    pub(super) fn schedule_requested(&mut self, request: RequestId, wish: Wish) {
        if self.phase.stopping() {
            return self.answer(Asker::Client(request), Err("the gateway is stopping; try again when it is back".to_owned()));
        }
        let asker = Asker::Client(request);
        match wish {
            Wish::Add { chat, when, text, fixed, catch_up } => {
                let timing = schedule::read_whole(&when, self.now.wall_ms, &self.rules.zone);
                let read = timing.and_then(|timing| {
                    let text = schedule::checked_text(&text, fixed)?;
                    Ok(schedule::Written { timing, text, fixed, catch_up })
                });
                let maker_name = "the owner".to_owned();
                self.add_job(asker, read, |now_ms, written| new_job(chat, None, maker_name, true, now_ms, written));
            }
            wish => self.wish(asker, &wish),
        }
    }

    /// `/cron add` and `/remind`, which sends the text as it is.
    pub(super) fn add_written(&mut self, row: WaitingRow, argument: &str, remind: bool) {
        let read = schedule::read_written(argument, self.now.wall_ms, &self.rules.zone);
        let read = read.map(|written| schedule::Written { fixed: written.fixed || remind, ..written });
        let Inbound { chat, sender, sender_name, private, .. } = row.inbound.clone();
        self.add_job(Asker::Chat(Box::new(row)), read, |now_ms, written| {
            new_job(chat, Some(sender), sender_name, private, now_ms, written)
        });
    }

    fn add_job(&mut self, asker: Asker, read: Result<schedule::Written, String>, job: impl FnOnce(i64, schedule::Written) -> Job) {
        let job = read.map(|written| job(self.now.wall_ms, written)).and_then(|job| self.admit_job(job));
        match job {
            Ok(job) => {
                // A command that is executed again after a crash must not make the job again.
                let request = match &asker {
                    Asker::Chat(row) => Some(format!("inbox:{}", row.inbox)),
                    Asker::Client(_) => None,
                };
                let job = Box::new(job);
                self.store(Op::AddJob { job: job.clone(), request }, Pending::Job(Box::new(JobPending::Added { job, asker })));
            }
            Err(why) => self.answer(asker, Err(why)),
        }
    }

    fn admit_job(&self, job: Job) -> Result<Job, String> {
        let adding =
            self.pending.values().filter(|known| matches!(&known.pending, Pending::Job(job) if matches!(**job, JobPending::Added { .. })));
        let adding = adding.count();
        let here = self.schedule.jobs.values().filter(|known| known.job.chat == job.chat).count();
        if !self.adapters.contains_key(&job.chat.adapter) {
            let names: Vec<&str> = self.adapters.keys().map(String::as_str).collect();
            return Err(format!("no adapter is called `{}`; there are: {}", job.chat.adapter, names.join(", ")));
        }
        if here + adding >= limits::JOBS_PER_CHAT_MAX {
            return Err(format!("there are {here} jobs in this chat, which is the limit; /cron remove N first"));
        }
        if self.schedule.jobs.len() + adding >= limits::JOBS_MAX {
            return Err(format!("there are {} jobs, which is the limit; remove some first", self.schedule.jobs.len()));
        }
        Ok(job)
    }

    /// Everything that is about the jobs that are there.
    pub(super) fn wish(&mut self, asker: Asker, wish: &Wish) {
        let (job, change) = match wish {
            Wish::List => return self.store(Op::LoadLastRuns, Pending::Job(Box::new(JobPending::Listed { asker }))),
            Wish::Remove { job } => (*job, Some(Change::Remove)),
            Wish::Pause { job } => (*job, Some(Change::Pause)),
            Wish::Resume { job } => (*job, Some(Change::Resume { now_ms: self.now.wall_ms })),
            Wish::Run { job } => (*job, None),
            // Read before it gets here.
            Wish::Add { .. } => return,
        };
        if let Err(why) = self.may_change(&asker, job) {
            return self.answer(asker, Err(why));
        }
        let now_ms = self.now.wall_ms;
        let op = match change {
            None => return self.run_now(asker, job),
            Some(Change::Remove) => Op::RemoveJob { job },
            Some(Change::Pause) => Op::PauseJob { job, paused: true, now_ms },
            Some(Change::Resume { .. }) => Op::PauseJob { job, paused: false, now_ms },
        };
        let change = change.unwrap_or(Change::Remove);
        self.store(op, Pending::Job(Box::new(JobPending::Changed { job, change, asker })));
    }

    /// A job belongs to its chat and its maker; admins and the owner may change all.
    fn may_change(&self, asker: &Asker, job: JobId) -> Result<(), String> {
        let known = self.schedule.jobs.get(&job);
        let Asker::Chat(row) = asker else {
            return known.map(drop).ok_or_else(|| format!("there is no job {job}; see: hermes-gateway cron list"));
        };
        // What is in other chats is not told.
        let here = known.filter(|known| known.job.chat == row.inbound.chat);
        match here {
            None => Err(format!("There is no job {job} in this chat. /cron list shows those that are there.")),
            Some(known) if known.job.maker.as_deref() == Some(row.inbound.sender.as_str()) || self.is_admin(row) => Ok(()),
            Some(known) => Err(format!("Job {job} is {}'s; only they or an admin may change it.", known.job.maker_name)),
        }
    }

    fn run_now(&mut self, asker: Asker, job: JobId) {
        let Some(known) = self.schedule.jobs.get(&job) else { return };
        let request = match &asker {
            Asker::Chat(row) => Some(format!("inbox:{}", row.inbox)),
            Asker::Client(_) => None,
        };
        let name = format!("now-{}", self.now.wall_ms);
        let what = self.what_runs(job, &known.job, &name);
        self.begin_run(RunStart { job, slot_ms: None, what, last: false, request, now_ms: self.now.wall_ms }, None, Some(asker));
    }

    /// Answers in the chat, or at the control socket as JSON.
    fn answer(&mut self, asker: Asker, result: Result<String, String>) {
        match asker {
            Asker::Chat(row) => {
                let (Ok(text) | Err(text)) = result;
                let mut letters = text.chars();
                let text = letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect());
                self.reply(&row, &text);
            }
            Asker::Client(request) => {
                let result = result.map(|text| serde_json::Value::String(text).to_string());
                self.effects.push(Effect::Respond { request, result });
            }
        }
    }

    pub(super) fn job_stored(&mut self, pending: JobPending, result: Result<Outcome, StoreFault>) {
        let unavailable =
            || "that did not work: the store takes nothing at the moment (disk full or failing?). Please try again".to_owned();
        match (pending, result) {
            (JobPending::Begun(begun), result) => self.begun_run(begun, result),
            (JobPending::Added { job, asker }, Ok(Outcome::JobAdded { job: id })) => self.job_added(id, *job, asker),
            (JobPending::Changed { job, change, asker }, Ok(_)) => self.job_changed(job, change, asker),
            (JobPending::Listed { asker }, Ok(Outcome::LastRuns(runs))) => self.list_jobs(asker, runs),
            (JobPending::Changed { job, asker, .. }, Err(StoreFault::Fenced)) => {
                self.schedule.jobs.remove(&job);
                self.answer(asker, Err(format!("job {job} is over")));
            }
            (JobPending::Added { asker, .. } | JobPending::Changed { asker, .. } | JobPending::Listed { asker }, _) => {
                self.answer(asker, Err(unavailable()));
            }
        }
    }

    fn job_added(&mut self, id: JobId, job: Job, asker: Asker) {
        let mut scheduled = Scheduled::new(job, false, 0);
        scheduled.last_slot_ms = scheduled.job.created_ms;
        scheduled.plan(self.now, &self.rules.zone);
        let next = scheduled.next_ms.map_or_else(|| "never".to_owned(), |ms| schedule::local_time(ms, &self.rules.zone));
        let when = scheduled.job.timing.shown(&self.rules.zone);
        let text = match scheduled.job.timing {
            Timing::At { .. } => format!("job {id} runs {when}."),
            _ => format!("job {id} runs `{when}`, next {next}."),
        };
        self.log(Level::Info, "schedule", format!("job {id} made in {}: {when}", scheduled.job.chat.session()));
        // Executed again after a crash: it is there already, as it is on disk.
        self.schedule.jobs.entry(id).or_insert(scheduled);
        self.answer(asker, Ok(text));
    }

    fn job_changed(&mut self, job: JobId, change: Change, asker: Asker) {
        let text = match change {
            Change::Remove => {
                self.schedule.jobs.remove(&job);
                format!("job {job} is removed.")
            }
            Change::Pause => {
                if let Some(known) = self.schedule.jobs.get_mut(&job) {
                    known.paused = true;
                }
                format!("job {job} is paused.")
            }
            Change::Resume { now_ms } => {
                let mut next = None;
                if let Some(known) = self.schedule.jobs.get_mut(&job) {
                    if std::mem::take(&mut known.paused) {
                        known.last_slot_ms = known.last_slot_ms.max(now_ms);
                    }
                    known.plan(self.now, &self.rules.zone);
                    next = known.next_ms.map(|ms| schedule::local_time(ms, &self.rules.zone));
                }
                next.map_or_else(
                    || format!("job {job} goes on, but its time has passed; /cron run {job} runs it, /cron remove {job} removes it."),
                    |next| format!("job {job} goes on, next {next}."),
                )
            }
        };
        self.answer(asker, Ok(text));
    }

    fn list_jobs(&mut self, asker: Asker, runs: Vec<RunRow>) {
        let runs: HashMap<JobId, RunRow> = runs.into_iter().map(|run| (run.job, run)).collect();
        let zone = &self.rules.zone;
        let last = |id: &JobId| runs.get(id).map(|run| format!("{} {}", run_state(run), schedule::local_time(run.started_ms, zone)));
        let view = |(id, known): (&JobId, &Scheduled)| JobView {
            job: *id,
            session: known.job.chat.session(),
            when: known.job.timing.shown(zone),
            text: known.job.text.clone(),
            fixed: known.job.fixed,
            catch_up: known.job.catch_up,
            maker: known.job.maker_name.clone(),
            paused: known.paused,
            next_ms: known.next_ms.filter(|_| !known.paused),
            next: known.next_ms.filter(|_| !known.paused).map(|ms| schedule::local_time(ms, zone)),
            last: last(id),
        };
        match asker {
            Asker::Client(request) => {
                let views: Vec<JobView> = self.schedule.jobs.iter().map(view).collect();
                let result = serde_json::to_string(&views).map_err(|error| error.to_string());
                self.effects.push(Effect::Respond { request, result });
            }
            Asker::Chat(row) => {
                let here = self.schedule.jobs.iter().filter(|(_, known)| known.job.chat == row.inbound.chat);
                let lines: Vec<String> = here.map(|(id, known)| chat_line(&view((id, known)), &known.job.first_line())).collect();
                let text = if lines.is_empty() {
                    format!("There are no jobs in this chat. To make one: /cron add \"every 2h\" TEXT; {}.", schedule::EXPECTED)
                } else {
                    lines.join("\n")
                };
                self.reply(&row, &text);
            }
        }
    }

    /// The platform gave a chat another id.
    pub(super) fn move_jobs(&mut self, adapter: &str, old: &str, new: &str) {
        for known in self.schedule.jobs.values_mut().filter(|known| known.job.chat.adapter == adapter && known.job.chat.chat == old) {
            new.clone_into(&mut known.job.chat.chat);
        }
    }

    /// A line of /status, if the chat has jobs.
    pub(super) fn schedule_line(&self, chat: &ChatRef) -> Option<String> {
        let here = || self.schedule.jobs.iter().filter(|(_, known)| known.job.chat == *chat);
        let count = here().count();
        let next = here().filter(|(_, known)| !known.paused).filter_map(|(id, known)| Some((known.next_ms?, *id))).min();
        let next = next
            .map_or_else(|| "all paused".to_owned(), |(ms, id)| format!("next {} (job {id})", schedule::local_time(ms, &self.rules.zone)));
        (count > 0).then(|| format!("schedule: {count} jobs, {next}"))
    }

    #[must_use]
    pub fn schedule_view(&self) -> ScheduleView {
        let next = self.schedule.jobs.iter().filter_map(|(id, known)| Some((known.due_ms(self.now)?, *id, known)));
        let next = next.min_by_key(|(due_ms, id, _)| (*due_ms, *id)).map(|(due_ms, id, known)| (id, known.job.chat.session(), due_ms));
        ScheduleView { jobs: self.schedule.jobs.len(), next }
    }
}

fn new_job(chat: ChatRef, maker: Option<String>, maker_name: String, private: bool, created_ms: i64, written: schedule::Written) -> Job {
    let schedule::Written { timing, text, fixed, catch_up } = written;
    Job { chat, maker, maker_name, private, timing, text, fixed, catch_up, created_ms }
}

fn run_state(run: &RunRow) -> String {
    match (run.state, &run.detail) {
        (RunState::Started, _) => "at work since".to_owned(),
        (RunState::Done, _) => "done".to_owned(),
        (RunState::Failed, _) => "failed".to_owned(),
        (RunState::Interrupted, _) => "interrupted".to_owned(),
        (RunState::Skipped, Some(why)) => format!("skipped ({why})"),
        (RunState::Skipped, None) => "skipped".to_owned(),
    }
}

fn chat_line(view: &JobView, first_line: &str) -> String {
    let mut line = format!("{}: `{}`", view.job, view.when);
    match &view.next {
        _ if view.paused => line.push_str(", paused"),
        Some(next) => line.push_str(&format!(", next {next}")),
        None => {}
    }
    if view.catch_up == CatchUp::Skip {
        line.push_str(", missed times are skipped");
    }
    if let Some(last) = &view.last {
        line.push_str(&format!(", last {last}"));
    }
    format!("{line}\n    {first_line}")
}

#[cfg(test)]
#[path = "jobs_tests.rs"]
mod tests;
