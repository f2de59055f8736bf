//! Jobs through core's front door: what is said, what the store is asked for, what is answered.

use super::super::event::{AdapterEvent, Event};
use super::super::record::{Recovered, RunWhat};
use super::super::types::Receipt;
use super::super::{AdapterRules, BusyMode, Phase, Rules};
use super::*;

const START_MS: i64 = 1_784_104_200_000;
const MINUTE_MS: i64 = 60_000;

fn rules(users: &[&str]) -> Rules {
    let adapter = AdapterRules {
        allowed_users: users.iter().map(|user| (*user).to_owned()).collect(),
        allowed_chats: Vec::new(),
        admins: vec!["9".to_owned()],
        group_mention: false,
        typing_interval_ms: 0,
        receives: true,
    };
    Rules {
        adapters: [("t".to_owned(), adapter)].into(),
        turns_max: 4,
        busy: BusyMode::Interrupt,
        approval_ms: 60_000,
        drain_ms: 1000,
        restart_drain_ms: 1000,
        zone: TimeZone::UTC,
        keep_ms: 86_400_000,
        version: "0".to_owned(),
        model: "m".to_owned(),
    }
}

/// Core, and a store that answers at once.
struct World {
    core: Core,
    now: Now,
    messages: u64,
    inbox: i64,
    jobs: i64,
    replies: Vec<String>,
    runs: Vec<RunStart>,
    responses: Vec<Result<String, String>>,
    other: Vec<Op>,
    /// It takes nothing.
    failing: bool,
}

impl World {
    fn new() -> Self {
        Self::with(Recovered::default())
    }

    fn with(recovered: Recovered) -> Self {
        let mut world = Self {
            core: Core::new(rules(&["1", "2"])),
            now: Now { mono_ms: 1, wall_ms: START_MS },
            messages: 0,
            inbox: 0,
            jobs: 0,
            replies: Vec::new(),
            runs: Vec::new(),
            responses: Vec::new(),
            other: Vec::new(),
            failing: false,
        };
        world.feed(Event::Recovered(Box::new(recovered)));
        world
    }

    fn feed(&mut self, event: Event) {
        let mut effects: std::collections::VecDeque<Effect> = self.core.handle(event, self.now).into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Store { ticket, op } => {
                    let result = if self.failing { Err(StoreFault::Unavailable) } else { self.apply(op) };
                    effects.extend(self.core.handle(Event::Stored { ticket, result }, self.now));
                }
                Effect::Respond { result, .. } => self.responses.push(result),
                _ => {}
            }
        }
    }

    fn apply(&mut self, op: Op) -> Result<Outcome, StoreFault> {
        self.inbox += 1;
        Ok(match op {
            Op::Accept { .. } => Outcome::Accepted { inbox: self.inbox },
            Op::AddJob { .. } => {
                self.jobs += 1;
                Outcome::JobAdded { job: self.jobs }
            }
            Op::StartRun(start) => {
                let inbox = matches!(start.what, RunWhat::Ask(_)).then_some(self.inbox);
                let queued = matches!(start.what, RunWhat::Say(_)).then_some(self.inbox);
                self.runs.push(*start);
                Outcome::RunStarted { inbox, queued }
            }
            Op::LoadLastRuns => Outcome::LastRuns(Vec::new()),
            Op::Enqueue { messages, .. } => {
                self.replies.extend(messages.into_iter().map(|message| message.text));
                Outcome::Queued(vec![self.inbox])
            }
            op => {
                self.other.push(op);
                Outcome::Done
            }
        })
    }

    /// → the answer.
    fn says(&mut self, user: &str, chat: &str, text: &str) -> String {
        self.messages += 1;
        let inbound = Inbound {
            chat: ChatRef { adapter: "t".to_owned(), chat: chat.to_owned(), thread: None },
            message_id: self.messages.to_string(),
            sender: user.to_owned(),
            sender_name: format!("User {user}"),
            text: text.to_owned(),
            attachments: Vec::new(),
            quote: None,
            private: false,
            addressed: true,
            sent_ms: 0,
        };
        let what = AdapterEvent::Message { inbound: Box::new(inbound), receipt: Receipt { id: self.messages, ..Receipt::default() } };
        self.feed(Event::Adapter { name: "t".to_owned(), generation: 1, what });
        self.replies.pop().unwrap_or_default()
    }

    fn asks(&mut self, wish: Wish) -> Result<String, String> {
        self.feed(Event::Schedule { request: 1, wish: Box::new(wish) });
        self.responses.pop().expect("answered")
    }

    fn waits(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms.cast_signed();
        self.feed(Event::Tick);
    }

    /// What the runs since the last look began.
    fn began(&mut self) -> Vec<String> {
        let what = |start: RunStart| match start.what {
            RunWhat::Ask(inbound) => format!("{}: {}", start.job, inbound.text.lines().last().unwrap_or_default()),
            RunWhat::Say(message) => format!("{} says: {}", start.job, message.text),
            RunWhat::Skip(why) => format!("{} skipped: {why}", start.job),
        };
        std::mem::take(&mut self.runs).into_iter().map(what).collect()
    }
}

fn stored(when: Timing, catch_up: CatchUp, last_slot_ms: i64) -> JobRow {
    let chat = ChatRef { adapter: "t".to_owned(), chat: "c".to_owned(), thread: None };
    let written = schedule::Written { timing: when, text: "look".to_owned(), fixed: false, catch_up };
    let job = new_job(chat, Some("1".to_owned()), "Ana".to_owned(), true, last_slot_ms, written);
    JobRow { id: 7, job, paused: false, last_slot_ms }
}

fn recovered(row: JobRow) -> Recovered {
    Recovered { jobs: vec![row], ..Recovered::default() }
}

#[test]
fn a_job_from_its_making_to_its_end() {
    let mut world = World::new();
    assert_eq!(world.says("1", "c", "/cron add \"every 2h\" look"), "Job 1 runs `every 2h`, next 2026-07-15 10:30.");
    assert_eq!(world.says("1", "c", "/remind in 20m tea"), "Job 2 runs at 2026-07-15 08:50.");
    assert!(world.says("1", "c", "/cron").contains("1: `every 2h`, next 2026-07-15 10:30\n    look\n2: `at 2026-07-15 08:50`"));
    assert!(world.says("1", "c", "/status").ends_with("schedule: 2 jobs, next 2026-07-15 08:50 (job 2)"));
    assert!(world.says("1", "elsewhere", "/cron").contains("no jobs in this chat"));
    world.waits(20 * 60_000 - 1);
    assert!(world.began().is_empty());
    assert_eq!(world.core.schedule_view().next.map(|next| (next.0, next.2 - world.now.mono_ms)), Some((2, 1)));
    world.waits(1);
    assert_eq!(world.began(), ["2 says: tea"]);
    world.waits(100 * 60_000);
    assert_eq!(world.began(), ["1: look"]);
    assert_eq!(world.core.running().count(), 1, "its turn runs");
    assert_eq!(world.core.schedule_view().jobs, 1, "what ran once is over");
    assert_eq!(world.says("1", "c", "/cron pause 1"), "Job 1 is paused.");
    world.waits(10 * 3_600_000);
    assert!(world.began().is_empty());
    assert_eq!(world.says("1", "c", "/cron resume 1"), "Job 1 goes on, next 2026-07-15 22:30.");
    assert_eq!(world.says("1", "c", "/cron run 1"), "Job 1 runs now.");
    assert!(world.runs.first().is_some_and(|run| run.slot_ms.is_none() && run.request.is_some()));
    assert_eq!(world.says("1", "c", "/cron remove 1"), "Job 1 is removed.");
    assert!(world.says("1", "c", "/cron remove 1").contains("no job 1"));
    assert!(world.says("1", "c", "/cron frobnicate").contains("/cron add"));
}

#[test]
fn whose_jobs_they_are() {
    let mut world = World::new();
    assert!(world.says("1", "c", "/cron add every 2h look").starts_with("Job 1"));
    assert!(world.says("2", "c", "/cron remove 1").contains("User 1's"));
    assert!(world.says("1", "elsewhere", "/cron remove 1").contains("no job 1 in this chat"), "not told of other chats");
    assert_eq!(world.says("3", "c", "/cron remove 1"), "", "a stranger is not answered");
    assert_eq!(world.says("9", "c", "/cron pause 1"), "Job 1 is paused.", "an admin may");
    assert_eq!(world.asks(Wish::Resume { job: 1 }), Ok("\"job 1 goes on, next 2026-07-15 10:30.\"".to_owned()), "so may the owner");
    // Who is not allowed any more has no runs any more.
    world.feed(Event::Reconfigured { rules: Box::new(rules(&["2"])), started: Vec::new(), removed: Vec::new() });
    world.waits(2 * 3_600_000);
    assert_eq!(world.began(), ["1 skipped: User 1 is not allowed here any more"]);
}

#[test]
fn the_owner_through_the_control_socket() {
    let mut world = World::new();
    let chat = ChatRef { adapter: "t".to_owned(), chat: "77".to_owned(), thread: None };
    let add = |chat: &ChatRef, when: &str, text: &str| Wish::Add {
        chat: chat.clone(),
        when: when.to_owned(),
        text: text.to_owned(),
        fixed: true,
        catch_up: CatchUp::Skip,
    };
    assert!(world.asks(add(&chat, "every 2h", "hello")).is_ok());
    assert!(world.asks(add(&chat, "every 2h now", "hello")).is_err_and(|why| why.contains("not part of a time")));
    assert!(world.asks(add(&chat, "every 2h", " ")).is_err_and(|why| why.contains("what is to be done")));
    let nowhere = ChatRef { adapter: "x".to_owned(), ..chat.clone() };
    assert!(world.asks(add(&nowhere, "every 2h", "hello")).is_err_and(|why| why.contains("no adapter is called `x`")));
    assert!(world.asks(Wish::Run { job: 5 }).is_err_and(|why| why.contains("no job 5")));
    let views: Vec<JobView> = serde_json::from_str(&world.asks(Wish::List).expect("listed")).expect("JSON");
    assert_eq!((views.len(), views[0].session.as_str(), views[0].when.as_str(), views[0].fixed), (1, "t:77", "every 2h", true));
    world.waits(2 * 3_600_000);
    assert_eq!(world.began(), ["1 says: hello"], "whoever is allowed in that chat");
}

#[test]
fn there_is_a_limit_to_jobs() {
    let mut world = World::new();
    for _ in 0..limits::JOBS_PER_CHAT_MAX {
        assert!(world.says("1", "c", "/cron add every 2h look").starts_with("Job "));
    }
    assert!(world.says("1", "c", "/cron add every 2h look").contains("limit"));
    for number in limits::JOBS_PER_CHAT_MAX..limits::JOBS_MAX {
        let chat = format!("c{}", number / limits::JOBS_PER_CHAT_MAX);
        assert!(world.says("1", &chat, "/cron add every 2h look").starts_with("Job "), "{number}");
    }
    assert!(world.says("1", "another", "/cron add every 2h look").contains("500 jobs"));
}

#[test]
fn a73_what_was_missed_runs_once_or_is_skipped() {
    let hourly = || Timing::Cron(super::super::cron::Expression::parse("0 * * * *").expect("valid"));
    let three_days = START_MS - 3 * 24 * 60 * MINUTE_MS;
    let mut world = World::with(recovered(stored(hourly(), CatchUp::Run, three_days)));
    assert_eq!(world.runs.first().and_then(|run| run.slot_ms), Some(START_MS - 30 * MINUTE_MS), "the latest of them");
    assert_eq!(world.began(), ["7: look"]);
    world.waits(29 * 60_000);
    assert!(world.began().is_empty());
    let mut world = World::with(recovered(stored(hourly(), CatchUp::Skip, three_days)));
    assert_eq!(world.began(), ["7 skipped: its time was missed"]);
    world.waits(30 * 60_000);
    assert_eq!(world.began(), ["7: look"]);
    // What is late by a moment is not missed.
    let mut world = World::with(recovered(stored(Timing::At { ms: START_MS - 30_000 }, CatchUp::Skip, three_days)));
    assert_eq!(world.began(), ["7: look"]);
    let mut world = World::with(recovered(stored(Timing::At { ms: three_days + 1 }, CatchUp::Run, three_days)));
    assert_eq!(world.began(), ["7: look"]);
}

#[test]
fn a73_the_wall_clock_is_set() {
    let every = Timing::Every { interval_ms: 10 * MINUTE_MS };
    let daily = Timing::Cron(super::super::cron::Expression::parse("0 9 * * *").expect("valid"));
    // Set back by an hour: an interval goes by what passes, a time of the day is waited for.
    let mut world = World::with(recovered(stored(every, CatchUp::Run, START_MS)));
    world.now.wall_ms -= 60 * MINUTE_MS;
    for _ in 0..3 {
        world.waits(10 * 60_000 - 1);
        assert!(world.began().is_empty());
        world.waits(1);
        assert_eq!(world.began(), ["7: look"]);
    }
    let mut world = World::with(recovered(stored(daily.clone(), CatchUp::Run, START_MS)));
    world.now.wall_ms -= 60 * MINUTE_MS;
    world.waits(60 * 60_000);
    assert!(world.began().is_empty());
    world.waits(30 * 60_000);
    assert_eq!(world.began(), ["7: look"]);
    // … and back again over a time that has run: not twice.
    world.now.wall_ms -= 60 * MINUTE_MS;
    world.waits(60 * 60_000);
    assert!(world.began().is_empty());
    // Set forward: at once, as soon as anybody looks.
    let mut world = World::with(recovered(stored(daily, CatchUp::Run, START_MS)));
    world.now.wall_ms += 24 * 60 * MINUTE_MS;
    world.waits(10_000);
    assert_eq!(world.began(), ["7: look"]);
}

#[test]
fn a_store_that_takes_nothing_delays_a_run() {
    let mut world = World::with(recovered(stored(Timing::Every { interval_ms: 10 * MINUTE_MS }, CatchUp::Run, START_MS)));
    world.failing = true;
    world.waits(10 * 60_000);
    for _ in 0..5 {
        assert!(world.core.next_due_ms().is_some_and(|due_ms| due_ms > world.now.mono_ms), "nothing turns while it waits");
        world.waits(limits::JOB_RETRY_MS);
    }
    assert!(world.began().is_empty());
    world.failing = false;
    world.waits(25 * 60_000);
    assert_eq!(world.began(), ["7: look"], "once for all that came");
}

#[test]
fn nothing_begins_once_a_stop_has_begun() {
    let mut world = World::with(recovered(stored(Timing::Every { interval_ms: 10 * MINUTE_MS }, CatchUp::Run, START_MS)));
    world.feed(Event::Lifecycle(super::super::event::Lifecycle::Stop));
    assert!(matches!(world.core.phase(), Phase::Leaving { code: 0 }));
    world.waits(60 * 60_000);
    assert!(world.began().is_empty());
    assert!(world.asks(Wish::List).is_err());
}

#[test]
fn a55_memory_above_its_limit_restarts_once_an_hour() {
    let high = || Event::MemoryHigh { rss_bytes: 300 << 20, limit_bytes: 256 << 20 };
    let mut world = World::new();
    world.feed(high());
    assert!(matches!(world.core.phase(), Phase::Leaving { code: 75 }));
    let noted = world.other.iter().find_map(|op| match op {
        Op::Note { key, value: Some(value) } => Some((key.clone(), value.clone())),
        _ => None,
    });
    let notes = vec![noted.expect("noted before it restarts")];
    // Another clock in the next life does not let it restart sooner.
    for jump_ms in [0, -3_600_000, 7_200_000] {
        let mut world = World::new();
        world.now.wall_ms += jump_ms;
        world.feed(Event::Recovered(Box::new(Recovered { notes: notes.clone(), ..Recovered::default() })));
        world.waits(50 * 60_000);
        world.feed(high());
        assert_eq!(world.core.phase(), Phase::Running);
        world.waits(80 * 60_000);
        world.feed(high());
        assert!(matches!(world.core.phase(), Phase::Leaving { code: 75 }), "later it may");
    }
    let mut world = World::new();
    world.failing = true;
    world.feed(high());
    assert_eq!(world.core.phase(), Phase::Running, "what cannot be noted is not done");
}

#[test]
fn a74_old_rows_are_deleted_daily() {
    let mut world = World::new();
    let prunes = |world: &World| world.other.iter().filter(|op| matches!(op, Op::Prune { .. })).count();
    world.waits(limits::PRUNE_FIRST_MS - 2);
    assert_eq!(prunes(&world), 0);
    world.waits(1);
    assert!(world.other.contains(&Op::Prune { before_ms: world.now.wall_ms - 86_400_000 }));
    world.waits(limits::PRUNE_INTERVAL_MS);
    assert_eq!(prunes(&world), 2);
}
