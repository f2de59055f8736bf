//! Jobs that are due: which of the times that have come counts, whether it is run, and what follows once that is on disk.

use super::super::event::{Level, Now, StoreFault};
use super::super::record::{Op, Outcome, RunStart, RunWhat, WaitingRow};
use super::super::schedule::{self, CatchUp, Job, Timing};
use super::super::types::{JobId, Outbound, OutboundKind};
use super::super::{Core, Pending};
use super::{Asker, Begun, JobPending, Scheduled};
use crate::limits;

impl Core {
    /// Begins what is due, and notices when the wall clock was set.
    pub(in crate::core) fn begin_due_jobs(&mut self) {
        self.watch_clock();
        if self.phase.stopping() {
            return;
        }
        let now = self.now;
        let due = |known: &Scheduled| known.due_ms(now).is_some_and(|due_ms| due_ms <= now.mono_ms);
        let due: Vec<JobId> = self.schedule.jobs.iter().filter(|(_, known)| due(known)).map(|(id, _)| *id).collect();
        for job in due {
            self.decide_time(job);
        }
    }

    pub(in crate::core) fn jobs_due_ms(&self) -> Option<u64> {
        let jobs = self.schedule.jobs.values().filter(|_| !self.phase.stopping());
        jobs.filter_map(|known| known.due_ms(self.now)).min()
    }

    /// After a step of the clock, the times of the calendar are looked up again. Intervals go by what has passed.
    fn watch_clock(&mut self) {
        let offset_ms = self.now.wall_ms.saturating_sub_unsigned(self.now.mono_ms);
        let stepped = self.schedule.offset_ms.is_some_and(|known| known.abs_diff(offset_ms) > limits::CLOCK_STEP_MS);
        if stepped {
            self.plan_by_calendar();
        }
        if stepped || self.schedule.offset_ms.is_none() {
            self.schedule.offset_ms = Some(offset_ms);
        }
    }

    /// The clock or the zone is another one.
    pub(in crate::core) fn plan_by_calendar(&mut self) {
        for known in self.schedule.jobs.values_mut().filter(|known| matches!(known.job.timing, Timing::Cron(_))) {
            known.plan(self.now, &self.rules.zone);
        }
    }

    /// Of several times that have come, the latest counts.
    fn decide_time(&mut self, id: JobId) {
        let Some(known) = self.schedule.jobs.get(&id) else { return };
        let Some(first_ms) = known.next_ms else { return };
        let now_ms = self.now.wall_ms;
        let time_ms = known.job.timing.latest(first_ms, now_ms, &self.rules.zone);
        let slot_ms = schedule::slot(time_ms, known.last_slot_ms);
        let missed = now_ms.saturating_sub(time_ms) > limits::JOB_LATE_MS;
        let last = matches!(known.job.timing, Timing::At { .. });
        let what = match self.why_not(id, &known.job, missed) {
            Some(why) => RunWhat::Skip(why),
            None => self.what_runs(id, &known.job, &slot_ms.to_string()),
        };
        let skips = matches!(what, RunWhat::Skip(_));
        let skipped_before = std::mem::replace(&mut self.job_mut(id).skipping, skips);
        if let RunWhat::Skip(why) = &what
            && !skipped_before
        {
            self.log(Level::Warn, "schedule", format!("job {id} is skipped: {why}"));
        }
        self.job_mut(id).deciding = true;
        self.begin_run(RunStart { job: id, slot_ms: Some(slot_ms), what, last, request: None, now_ms }, Some((slot_ms, time_ms)), None);
    }

    fn job_mut(&mut self, id: JobId) -> &mut Scheduled {
        self.schedule.jobs.get_mut(&id).expect("the caller has looked it up")
    }

    /// Why a time of a job passes without a run.
    fn why_not(&self, id: JobId, job: &Job, missed: bool) -> Option<String> {
        if missed && job.catch_up == CatchUp::Skip {
            return Some("its time was missed".to_owned());
        }
        let Some(rules) = self.rules.adapters.get(&job.chat.adapter) else {
            return Some(format!("there is no adapter {}", job.chat.adapter));
        };
        let mut said = job.inbound(id, "", self.now.wall_ms, &self.rules.zone);
        said.private = job.private;
        if job.maker.is_some() && !rules.allows(&said) {
            return Some(format!("{} is not allowed here any more", job.maker_name));
        }
        let full =
            if job.fixed { self.deliveries.len() >= limits::OUTBOX_PENDING_MAX } else { self.waiting() >= limits::INBOX_WAITING_MAX };
        full.then(|| "too much is waiting already".to_owned())
    }

    pub(super) fn what_runs(&self, id: JobId, job: &Job, slot: &str) -> RunWhat {
        if job.fixed {
            let (chat, text, kind) = (job.chat.clone(), job.text.clone(), OutboundKind::Direct);
            RunWhat::Say(Box::new(Outbound { chat, kind, text, reply_to: None, replaces: None, buttons: Vec::new() }))
        } else {
            RunWhat::Ask(Box::new(job.inbound(id, slot, self.now.wall_ms, &self.rules.zone)))
        }
    }

    pub(super) fn begin_run(&mut self, start: RunStart, slot: Option<(i64, i64)>, asker: Option<Asker>) {
        let Some(known) = self.schedule.jobs.get(&start.job) else { return };
        let message = match &start.what {
            RunWhat::Ask(message) => Some(message.clone()),
            RunWhat::Say(_) | RunWhat::Skip(_) => None,
        };
        let begun = Begun { job: start.job, slot, chat: known.job.chat.clone(), message, last: start.last, asker };
        self.store(Op::StartRun(Box::new(start)), Pending::Job(Box::new(JobPending::Begun(begun))));
    }

    pub(super) fn begun_run(&mut self, begun: Begun, result: Result<Outcome, StoreFault>) {
        let Begun { job, slot, chat, message, last, asker } = begun;
        if slot.is_some() {
            self.time_decided(job, slot, last, result.as_ref().err().copied());
        }
        let answer = match result {
            Ok(Outcome::RunStarted { inbox: None, queued: None }) => Err(format!("job {job} is at work already")),
            Ok(Outcome::RunStarted { inbox, queued }) => {
                if let (Some(inbox), Some(inbound)) = (inbox, message) {
                    let session = inbound.chat.session();
                    // Neither interrupts nor steers what goes on in its chat.
                    self.wait_in_queue(&session, WaitingRow { inbox, inbound: *inbound }, true);
                }
                if let Some(outbox) = queued {
                    self.expect_delivery(outbox, chat, None, 0, 0);
                }
                Ok(format!("job {job} runs now."))
            }
            Ok(_) | Err(StoreFault::Fenced) => Err(format!("job {job} is over")),
            Err(StoreFault::Unavailable) => Err("that did not work: the store takes nothing at the moment. Please try again".to_owned()),
        };
        if let Some(asker) = asker {
            self.answer(asker, answer);
        }
    }

    fn time_decided(&mut self, id: JobId, slot: Option<(i64, i64)>, last: bool, fault: Option<StoreFault>) {
        let now = self.now;
        let (Some(known), Some((slot_ms, time_ms))) = (self.schedule.jobs.get_mut(&id), slot) else { return };
        known.deciding = false;
        match fault {
            // Not again with the same time: by then another one may have come.
            Some(StoreFault::Unavailable) => {
                known.retry_ms = now.mono_ms + limits::JOB_RETRY_MS;
                self.log(Level::Error, "schedule", format!("job {id} cannot begin: the store takes nothing; trying again"));
            }
            _ if last => {
                self.schedule.jobs.remove(&id);
            }
            _ => {
                known.last_slot_ms = slot_ms;
                let at = Now { wall_ms: now.wall_ms.max(time_ms), ..now };
                known.plan(at, &self.rules.zone);
            }
        }
    }
}
