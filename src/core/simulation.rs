//! Random histories driven through core: messages, duplicates, cancels, questions, failing disks, clock jumps, crashes
//! at every step and recoveries from the committed rows. The seed is printed on failure; the same seed is the same
//! history.

use super::event::{AdapterEvent, Delivered, Effect, Event, Lifecycle, Now, StoreFault, TurnEnd, TurnEvent};
use super::record::{
    ApprovalState, InboxState, JobRow, Op, OutboxState, Outcome, PendingRow, Recovered, RunStart, RunState, RunWhat, RunningRow, TurnState,
    WaitingRow,
};
use super::schedule::{Job, Timing};
use super::types::{ChatRef, Inbound, InboxId, JobId, Outbound, OutboxId, Receipt, TurnId, Usage};
use super::{AdapterRules, BusyMode, Core, Phase, Rules};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

const DRAIN_MS: u64 = 15_000;
const JOB_COMMANDS: [&str; 8] = [
    "/cron run 1",
    "/cron run 2",
    "/cron pause 1",
    "/cron pause 2",
    "/cron resume 1",
    "/cron resume 2",
    "/cron remove 1",
    "/cron remove 3",
];

#[derive(Debug, Clone)]
struct InboxRow {
    inbound: Inbound,
    state: InboxState,
    turn: Option<TurnId>,
}

#[derive(Debug, Clone)]
struct TurnRow {
    session: String,
    state: TurnState,
    attempt: u32,
}

#[derive(Debug, Clone)]
struct DiskJob {
    job: Job,
    paused: bool,
    ended: bool,
    last_slot_ms: i64,
    request: Option<String>,
}

#[derive(Debug, Clone)]
struct Run {
    job: JobId,
    slot_ms: Option<i64>,
    state: RunState,
    inbox: Option<InboxId>,
    request: Option<String>,
}

/// What is committed. Every operation is atomic.
#[derive(Debug, Clone, Default)]
struct Disk {
    inbox: BTreeMap<InboxId, InboxRow>,
    keys: BTreeMap<(String, String), InboxId>,
    turns: BTreeMap<TurnId, TurnRow>,
    outbox: BTreeMap<OutboxId, (Outbound, OutboxState)>,
    dedupe: BTreeSet<String>,
    approvals: BTreeMap<i64, ApprovalState>,
    jobs: BTreeMap<JobId, DiskJob>,
    last_job: JobId,
    runs: Vec<Run>,
}

impl Disk {
    fn enqueue(&mut self, messages: &[Outbound]) -> Vec<OutboxId> {
        let first = self.outbox.len() as i64 + 1;
        let ids: Vec<OutboxId> = (first..).take(messages.len()).collect();
        for (id, message) in ids.iter().zip(messages) {
            self.outbox.insert(*id, (message.clone(), OutboxState::Pending));
        }
        ids
    }

    fn waiting(&mut self, inbox: InboxId) -> Result<&mut InboxRow, StoreFault> {
        self.inbox.get_mut(&inbox).filter(|row| row.state == InboxState::Waiting).ok_or(StoreFault::Fenced)
    }

    fn apply(&mut self, op: Op) -> Result<Outcome, StoreFault> {
        match op {
            Op::Accept { inbound, begin, done, .. } => {
                let key = (inbound.chat.session(), inbound.message_id.clone());
                if let Some(inbox) = self.keys.get(&key) {
                    return Ok(Outcome::Duplicate { inbox: *inbox });
                }
                let inbox = self.inbox.len() as i64 + 1;
                let state = if done {
                    InboxState::Done
                } else if begin.is_some() {
                    InboxState::Running
                } else {
                    InboxState::Waiting
                };
                let turn = begin.as_ref().map(|start| start.turn);
                if let Some(start) = begin {
                    self.turns.insert(start.turn, TurnRow { session: start.session, state: TurnState::Running, attempt: 1 });
                }
                self.inbox.insert(inbox, InboxRow { inbound: *inbound, state, turn });
                self.keys.insert(key, inbox);
                Ok(Outcome::Accepted { inbox })
            }
            Op::BeginTurn { start, inbox } => {
                let row = self.waiting(inbox)?;
                (row.state, row.turn) = (InboxState::Running, Some(start.turn));
                self.turns.insert(start.turn, TurnRow { session: start.session, state: TurnState::Running, attempt: 1 });
                Ok(Outcome::Done)
            }
            Op::ResumeTurn { turn, attempt } => {
                let row = self.turns.get_mut(&turn).filter(|row| row.state == TurnState::Running).ok_or(StoreFault::Fenced)?;
                row.attempt = attempt;
                Ok(Outcome::Done)
            }
            Op::FinishTurn(finish) => {
                let row = self.turns.get_mut(&finish.turn).filter(|row| row.state == TurnState::Running).ok_or(StoreFault::Fenced)?;
                row.state = finish.state;
                for (inbox, row) in self.inbox.iter_mut().filter(|(_, row)| row.turn == Some(finish.turn)) {
                    row.state = InboxState::Done;
                    end_run(&mut self.runs, *inbox, RunState::Done);
                }
                Ok(Outcome::Finished { queued: self.enqueue(&finish.replies) })
            }
            Op::CommitRound { turn, adopted, .. } => {
                self.turns.get(&turn).filter(|row| row.state == TurnState::Running).ok_or(StoreFault::Fenced)?;
                for inbox in adopted {
                    if let Ok(row) = self.waiting(inbox) {
                        (row.state, row.turn) = (InboxState::Running, Some(turn));
                    }
                }
                Ok(Outcome::Done)
            }
            Op::CloseInbox { inbox } => {
                if let Some(row) = self.inbox.get_mut(&inbox) {
                    row.state = InboxState::Done;
                    end_run(&mut self.runs, inbox, RunState::Interrupted);
                }
                Ok(Outcome::Done)
            }
            Op::Undo { inbox, retry, .. } => {
                let row = self.waiting(inbox)?;
                if retry {
                    "again".clone_into(&mut row.inbound.text);
                } else {
                    row.state = InboxState::Done;
                }
                Ok(Outcome::Undone(Some("again".to_owned())))
            }
            Op::Enqueue { messages, dedupe, .. } => match dedupe {
                Some(key) if !self.dedupe.insert(key.clone()) => Ok(Outcome::Queued(Vec::new())),
                _ => Ok(Outcome::Queued(self.enqueue(&messages))),
            },
            Op::MarkFailed { outbox, .. } => self.mark(outbox, OutboxState::Failed),
            Op::MarkRetry { outbox, .. } => match self.outbox.get_mut(&outbox) {
                Some((_, state)) if *state == OutboxState::Sending => {
                    *state = OutboxState::Pending;
                    Ok(Outcome::Done)
                }
                _ => Err(StoreFault::Fenced),
            },
            Op::Ask { notice, .. } => {
                let approval = self.approvals.len() as i64 + 1;
                self.approvals.insert(approval, ApprovalState::Pending);
                Ok(Outcome::Asked { approval, queued: self.enqueue(&[*notice])[0] })
            }
            Op::Settle { approval, state, .. } => {
                let row = self.approvals.get_mut(&approval).ok_or(StoreFault::Fenced)?;
                let changed = *row == ApprovalState::Pending;
                if changed {
                    *row = state;
                }
                Ok(Outcome::Settled { changed, state: *row })
            }
            Op::LoadUsage { .. } => Ok(Outcome::Usage { usage: Usage::default(), turns: 0, messages: 0, started_ms: 0 }),
            Op::AddJob { job, request } => {
                if let Some((id, _)) = self.jobs.iter().find(|(_, known)| known.request == request) {
                    return Ok(Outcome::JobAdded { job: *id });
                }
                self.last_job += 1;
                let last_slot_ms = job.created_ms;
                self.jobs.insert(self.last_job, DiskJob { job: *job, paused: false, ended: false, last_slot_ms, request });
                Ok(Outcome::JobAdded { job: self.last_job })
            }
            Op::PauseJob { job, paused, now_ms } => {
                let known = self.jobs.get_mut(&job).filter(|known| !known.ended).ok_or(StoreFault::Fenced)?;
                if known.paused && !paused {
                    known.last_slot_ms = known.last_slot_ms.max(now_ms);
                }
                known.paused = paused;
                Ok(Outcome::Done)
            }
            Op::RemoveJob { job } => {
                self.runs.retain(|run| run.job != job);
                self.jobs.remove(&job).map(|_| Outcome::Done).ok_or(StoreFault::Fenced)
            }
            Op::StartRun(start) => self.start_run(*start),
            Op::LoadLastRuns => Ok(Outcome::LastRuns(Vec::new())),
            _ => Ok(Outcome::Done),
        }
    }

    fn start_run(&mut self, start: RunStart) -> Result<Outcome, StoreFault> {
        if start.request.is_some() && self.runs.iter().any(|run| run.request == start.request) {
            return Ok(Outcome::RunStarted { inbox: None, queued: None });
        }
        let known = self.jobs.get_mut(&start.job).filter(|known| !known.ended).ok_or(StoreFault::Fenced)?;
        if let Some(slot_ms) = start.slot_ms {
            if known.paused || slot_ms <= known.last_slot_ms {
                return Err(StoreFault::Fenced);
            }
            (known.last_slot_ms, known.ended) = (slot_ms, start.last);
        }
        let (mut inbox, mut queued, mut state) = (None, None, RunState::Done);
        let at_work = self.runs.iter().any(|run| run.job == start.job && run.state == RunState::Started);
        match start.what {
            RunWhat::Ask(_) if at_work => state = RunState::Skipped,
            RunWhat::Ask(inbound) => {
                let id = self.inbox.len() as i64 + 1;
                self.inbox.insert(id, InboxRow { inbound: *inbound, state: InboxState::Waiting, turn: None });
                (inbox, state) = (Some(id), RunState::Started);
            }
            RunWhat::Say(message) => queued = self.enqueue(&[*message]).pop(),
            RunWhat::Skip(_) => state = RunState::Skipped,
        }
        self.runs.push(Run { job: start.job, slot_ms: start.slot_ms, state, inbox, request: start.request });
        Ok(Outcome::RunStarted { inbox, queued })
    }

    fn mark(&mut self, outbox: OutboxId, state: OutboxState) -> Result<Outcome, StoreFault> {
        self.outbox.get_mut(&outbox).ok_or(StoreFault::Fenced)?.1 = state;
        Ok(Outcome::Done)
    }

    fn recover(&self) -> Recovered {
        let inbox_of = |turn: TurnId| self.inbox.iter().find(|(_, row)| row.turn == Some(turn));
        let running = self.turns.iter().filter(|(_, row)| row.state == TurnState::Running).filter_map(|(turn, row)| {
            let (inbox, message) = inbox_of(*turn)?;
            Some(RunningRow {
                turn: *turn,
                session: row.session.clone(),
                chat: message.inbound.chat.clone(),
                inbox: *inbox,
                message_id: message.inbound.message_id.clone(),
                sender: message.inbound.sender.clone(),
                attempt: row.attempt,
                started_ms: 0,
                preview: None,
            })
        });
        let waiting = self.inbox.iter().filter(|(_, row)| row.state == InboxState::Waiting);
        let pending = self.outbox.iter().filter(|(_, (_, state))| matches!(state, OutboxState::Pending | OutboxState::Sending));
        Recovered {
            running: running.collect(),
            waiting: waiting.map(|(inbox, row)| WaitingRow { inbox: *inbox, inbound: row.inbound.clone() }).collect(),
            pending: pending
                .map(|(outbox, (message, _))| PendingRow { outbox: *outbox, chat: message.chat.clone(), not_before_ms: 0, attempts: 0 })
                .collect(),
            approvals: Vec::new(),
            jobs: self
                .jobs
                .iter()
                .filter(|(_, known)| !known.ended)
                .map(|(id, known)| JobRow { id: *id, job: known.job.clone(), paused: known.paused, last_slot_ms: known.last_slot_ms })
                .collect(),
            notes: Vec::new(),
            last_turn: self.turns.keys().next_back().copied().unwrap_or(0),
        }
    }
}

fn end_run(runs: &mut [Run], inbox: InboxId, state: RunState) {
    for run in runs.iter_mut().filter(|run| run.inbox == Some(inbox) && run.state == RunState::Started) {
        run.state = state;
    }
}

/// A process of the gateway, its platform, and the disk that outlives it.
struct World {
    random: fastrand::Rng,
    disk: Disk,
    core: Core,
    now: Now,
    busy: BusyMode,
    /// Handed in, not committed: lost in a crash.
    store_queue: VecDeque<(u64, Op)>,
    /// On the platform, not acknowledged: delivered again and again.
    platform: BTreeMap<u64, Inbound>,
    next_message: u64,
    generation: u64,
    running: BTreeMap<TurnId, String>,
    cancelled: HashSet<TurnId>,
    steers: Vec<(TurnId, InboxId)>,
    sending: Vec<OutboxId>,
    /// Chats in which somebody seems to be typing.
    signs: HashSet<ChatRef>,
    stop_due_ms: Option<u64>,
    left: bool,
    crashes: u32,
}

fn rules(busy: BusyMode) -> Rules {
    let adapter = AdapterRules {
        allowed_users: vec!["1".into(), "2".into()],
        allowed_chats: Vec::new(),
        admins: vec!["1".into()],
        group_mention: true,
        typing_interval_ms: 4000,
        receives: true,
    };
    Rules {
        adapters: [("t".to_owned(), adapter)].into(),
        turns_max: 2,
        busy,
        approval_ms: 60_000,
        drain_ms: DRAIN_MS,
        restart_drain_ms: 60_000,
        zone: jiff::tz::TimeZone::UTC,
        keep_ms: 90 * 86_400_000,
        version: "0".into(),
        model: "m".into(),
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let busy = [BusyMode::Interrupt, BusyMode::Queue, BusyMode::Steer][random.usize(0..3)];
        let mut world = Self {
            random,
            disk: Disk::default(),
            core: Core::new(rules(busy)),
            now: Now { mono_ms: 1, wall_ms: 1_000_000_000_000 },
            busy,
            store_queue: VecDeque::new(),
            platform: BTreeMap::new(),
            next_message: 1,
            generation: 0,
            running: BTreeMap::new(),
            cancelled: HashSet::new(),
            steers: Vec::new(),
            sending: Vec::new(),
            signs: HashSet::new(),
            stop_due_ms: None,
            left: false,
            crashes: 0,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let recovered = Box::new(self.disk.recover());
        self.feed(Event::Recovered(recovered));
        self.connect();
    }

    fn connect(&mut self) {
        self.adapter(AdapterEvent::Connected { identity: "@x".into() });
    }

    fn adapter(&mut self, what: AdapterEvent) {
        self.feed(Event::Adapter { name: "t".into(), generation: self.generation, what });
    }

    fn crash(&mut self) {
        self.crashes += 1;
        // Some of what was handed in may have been committed without anybody hearing of it.
        for _ in 0..self.random.usize(0..=self.store_queue.len()) {
            if let Some((_, op)) = self.store_queue.pop_front() {
                let _ = self.disk.apply(op);
            }
        }
        self.store_queue.clear();
        self.running.clear();
        self.cancelled.clear();
        self.steers.clear();
        self.sending.clear();
        self.signs.clear();
        (self.stop_due_ms, self.left, self.generation) = (None, false, 0);
        self.now.mono_ms = 1;
        self.core = Core::new(rules(self.busy));
        self.start();
    }

    fn feed(&mut self, event: Event) {
        let effects = self.core.handle(event, self.now);
        for effect in effects {
            self.execute(effect);
        }
    }

    fn execute(&mut self, effect: Effect) {
        let stopping = self.stop_due_ms.is_some();
        match effect {
            Effect::Store { ticket, op } => self.store_queue.push_back((ticket, op)),
            Effect::Receipt { receipt, .. } => {
                if let Some(inbound) = self.platform.remove(&receipt.id)
                    && (inbound.sender == "1" || inbound.sender == "2")
                {
                    let key = (inbound.chat.session(), inbound.message_id);
                    assert!(self.disk.keys.contains_key(&key), "acknowledged before it was committed: {key:?}");
                }
            }
            Effect::StartAdapter { generation, .. } => {
                assert!(!stopping, "an adapter started after the stop began");
                self.generation = generation;
            }
            Effect::StartTurn(spec) => {
                assert!(!stopping, "a turn started after the stop began");
                assert!(!self.cancelled.contains(&spec.turn), "turn {} started after it was cancelled", spec.turn);
                assert!(!self.running.values().any(|session| *session == spec.session), "two turns in {}", spec.session);
                assert!(self.disk.turns.get(&spec.turn).is_some_and(|row| row.state == TurnState::Running), "started before its row");
                self.running.insert(spec.turn, spec.session);
                assert!(self.running.len() <= 2, "more turns than allowed");
            }
            Effect::CancelTurn { turn } => {
                self.running.remove(&turn);
                self.cancelled.insert(turn);
            }
            Effect::Steer { turn, inbox, .. } => {
                assert!(!self.cancelled.contains(&turn), "a cancelled turn is steered");
                self.steers.push((turn, inbox));
            }
            Effect::Deliver { outbox, .. } => {
                assert!(!self.sending.contains(&outbox), "delivered twice at the same time");
                assert!(self.disk.outbox.contains_key(&outbox), "delivered before it was committed");
                self.sending.push(outbox);
            }
            Effect::Typing { chat } => drop(self.signs.insert(chat)),
            Effect::Quiet { chat } => drop(self.signs.remove(&chat)),
            Effect::Leave { .. } => {
                assert!(stopping, "left without being asked");
                self.left = true;
            }
            _ => {}
        }
    }

    fn user_says(&mut self) {
        let id = self.next_message;
        self.next_message += 1;
        let sender = ["1", "2", "3"][self.random.usize(0..3)];
        let texts = [
            "hello",
            "/stop",
            "/new",
            "/retry",
            "/undo",
            "/status",
            "/queue later",
            "/approve",
            "/deny",
            "more",
            "/cron add every 1m look",
            "/cron add skip \"*/2 * * * *\" look",
            "/remind in 2m tea",
            "/cron add in 1m look",
            "/cron list",
            JOB_COMMANDS[self.random.usize(0..JOB_COMMANDS.len())],
        ];
        let text = texts[self.random.usize(0..texts.len())];
        let chat = ChatRef { adapter: "t".into(), chat: format!("c{}", self.random.u32(0..3)), thread: None };
        let inbound = Inbound {
            chat,
            message_id: id.to_string(),
            sender: sender.into(),
            sender_name: sender.into(),
            text: text.into(),
            attachments: Vec::new(),
            quote: None,
            private: true,
            addressed: true,
            sent_ms: 0,
        };
        self.platform.insert(id, inbound);
    }

    /// The platform delivers what is not acknowledged, again if need be.
    fn platform_delivers(&mut self) {
        let Some(index) = (!self.platform.is_empty()).then(|| self.random.usize(0..self.platform.len())) else { return };
        if let Some((id, inbound)) = self.platform.iter().nth(index).map(|(id, inbound)| (*id, inbound.clone())) {
            let receipt = Receipt { id, cursor: Some(id.to_string()), memos: Vec::new() };
            self.adapter(AdapterEvent::Message { inbound: Box::new(inbound), receipt });
        }
    }

    fn store_answers(&mut self, faulty: bool) {
        let Some((ticket, op)) = self.store_queue.pop_front() else { return };
        let result = if faulty && self.random.u32(0..20) == 0 { Err(StoreFault::Unavailable) } else { self.disk.apply(op) };
        self.feed(Event::Stored { ticket, result });
    }

    fn turn_works(&mut self, ends: bool) {
        let Some(index) = (!self.running.is_empty()).then(|| self.random.usize(0..self.running.len())) else { return };
        let Some(turn) = self.running.keys().nth(index).copied() else { return };
        let what = match if ends { 9 } else { self.random.u32(0..10) } {
            0 => TurnEvent::Ask { what: "rm -rf build".into(), why: "deletes".into() },
            1..=3 => {
                let (mine, others): (Vec<_>, Vec<_>) =
                    std::mem::take(&mut self.steers).into_iter().partition(|(steered, _)| *steered == turn);
                self.steers = others;
                let inbox: Vec<InboxId> = mine.into_iter().map(|(_, inbox)| inbox).collect();
                let op = Op::CommitRound { turn, messages: Vec::new(), adopted: inbox.clone(), usage: Usage::default() };
                if self.disk.apply(op).is_err() {
                    return;
                }
                TurnEvent::Adopted { inbox }
            }
            4..=5 => TurnEvent::Progress { text: "partial".into() },
            _ => {
                self.running.remove(&turn);
                let failed = self.random.bool();
                TurnEvent::Ended(Box::new(TurnEnd { messages: Vec::new(), reply: "done".into(), failed, usage: Usage::default() }))
            }
        };
        self.feed(Event::Turn { turn, what });
    }

    fn sender_works(&mut self, faulty: bool) {
        if self.sending.is_empty() {
            return;
        }
        let outbox = self.sending.swap_remove(self.random.usize(0..self.sending.len()));
        let _ = self.disk.mark(outbox, OutboxState::Sending);
        let cause = "x".to_owned();
        let result = match if faulty { self.random.u32(0..8) } else { 0 } {
            1 => Delivered::Retry { cause, after_ms: Some(3000) },
            2 => Delivered::Ambiguous { cause, repeated: self.random.bool() },
            3 => Delivered::Untried,
            4 => {
                // Nothing is shown any more in a chat that is not there.
                let moved = self.disk.outbox.get(&outbox).map(|(message, _)| message.chat.chat.clone());
                self.signs.retain(|chat| moved.as_ref() != Some(&chat.chat));
                Delivered::Moved { chat: "c0".into() }
            }
            _ => {
                let _ = self.disk.mark(outbox, OutboxState::Sent);
                Delivered::Sent
            }
        };
        self.feed(Event::Delivered { adapter: "t".into(), outbox, result });
    }

    fn time_passes(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms as i64;
        self.feed(Event::Tick);
        if let Some(due_ms) = self.stop_due_ms {
            assert!(self.left || self.now.mono_ms <= due_ms, "the stop did not end within its drain");
        }
    }

    fn step(&mut self) {
        match self.random.u32(0..1000) {
            0..150 => self.user_says(),
            150..350 => self.platform_delivers(),
            350..600 => self.store_answers(true),
            600..750 => self.turn_works(false),
            750..880 => self.sender_works(true),
            880..950 => {
                let ms = self.random.u64(1..3000);
                self.time_passes(ms);
            }
            950..960 => self.now.wall_ms += self.random.i64(-10_000_000_000..10_000_000_000),
            960..970 => self.adapter(AdapterEvent::Retrying { cause: "x".into(), attempt: 1, next_ms: 1000 }),
            970..975 => self.adapter(AdapterEvent::Ended { cause: "x".into() }),
            975..985 => self.connect(),
            985..990 => {
                let request = [Lifecycle::Stop, Lifecycle::StopNow, Lifecycle::Restart][self.random.usize(0..3)];
                let drain_ms = if request == Lifecycle::Restart { 60_000 } else { DRAIN_MS };
                let due_ms = self.now.mono_ms + drain_ms + 3000;
                self.stop_due_ms = Some(self.stop_due_ms.map_or(due_ms, |old| old.min(due_ms)));
                self.feed(Event::Lifecycle(request));
            }
            _ => self.crash(),
        }
        if self.left {
            assert!(matches!(self.core.phase(), Phase::Leaving { .. }));
            self.crash();
        }
    }

    /// Without faults everything comes to its end.
    fn quiesce(&mut self) {
        if self.stop_due_ms.is_some() {
            self.crash();
        }
        for _ in 0..20_000 {
            self.connect();
            self.platform_delivers();
            while !self.store_queue.is_empty() {
                self.store_answers(false);
            }
            self.turn_works(true);
            self.sender_works(false);
            self.time_passes(500);
            let open = self.disk.inbox.values().filter(|row| row.state != InboxState::Done).count();
            let unsent =
                self.disk.outbox.values().filter(|(_, state)| matches!(state, OutboxState::Pending | OutboxState::Sending)).count();
            let started = self.disk.runs.iter().any(|run| run.state == RunState::Started);
            if open == 0 && unsent == 0 && !started && self.platform.is_empty() && self.store_queue.is_empty() && self.running.is_empty() {
                self.check_all_answered();
                self.check_jobs();
                return self.check_intervals();
            }
        }
        let open: Vec<_> = self.disk.inbox.values().filter(|row| row.state != InboxState::Done).collect();
        let unsent: Vec<_> =
            self.disk.outbox.iter().filter(|(_, (_, state))| matches!(state, OutboxState::Pending | OutboxState::Sending)).collect();
        panic!("did not come to rest: open {open:?}, unsent {unsent:?}, running {:?}, {:?}", self.running, self.core);
    }

    /// With nothing left to do, and the clock as it is, all times have been decided upon and all runs have ended.
    fn check_jobs(&self) {
        let mut slots = HashSet::new();
        for run in &self.disk.runs {
            assert_ne!(run.state, RunState::Started, "a run without an end: {run:?}");
            assert!(run.slot_ms.is_none_or(|slot_ms| slots.insert((run.job, slot_ms))), "twice: {run:?}");
        }
        for (id, known) in self.disk.jobs.iter().filter(|(_, known)| !known.paused) {
            let runs = self.disk.runs.iter().filter(|run| run.job == *id && run.slot_ms.is_some()).count();
            if known.ended {
                assert_eq!(runs, 1, "a job for one time: {known:?}");
                continue;
            }
            let zone = jiff::tz::TimeZone::UTC;
            let next = known.job.timing.next(known.job.created_ms, known.last_slot_ms, self.now.wall_ms, &zone);
            // None comes for one whose only time passed in a pause.
            assert!(next.is_none_or(|next| next > self.now.wall_ms), "a time was lost: job {id} {known:?} at {}", self.now.wall_ms);
        }
    }

    /// Intervals go on whatever the wall clock says.
    fn check_intervals(&mut self) {
        let every = |disk: &Disk| -> Vec<(JobId, i64)> {
            let active = disk.jobs.iter().filter(|(_, known)| !known.paused && matches!(known.job.timing, Timing::Every { .. }));
            active.map(|(id, known)| (*id, known.last_slot_ms)).collect()
        };
        let before = every(&self.disk);
        for _ in 0..if before.is_empty() { 0 } else { 130 } {
            self.time_passes(500);
            while !self.store_queue.is_empty() {
                self.store_answers(false);
            }
            self.turn_works(true);
            self.sender_works(false);
        }
        for (before, after) in before.iter().zip(every(&self.disk)) {
            assert!(before.0 == after.0 && before.1 < after.1, "job {} stands still: {:?}", before.0, self.core);
        }
    }

    fn check_all_answered(&self) {
        let running = self.disk.turns.values().filter(|row| row.state == TurnState::Running).count();
        assert_eq!(running, 0, "turns left running on disk");
        assert!(self.signs.is_empty(), "typing without an end: {:?}", self.signs);
        for row in self.disk.inbox.values().filter(|row| row.turn.is_some()) {
            let turn = row.turn.and_then(|turn| self.disk.turns.get(&turn));
            assert!(turn.is_some_and(|turn| turn.state != TurnState::Running), "message without an end: {row:?}");
        }
    }
}

fn history(seed: u64, steps: u32) -> u32 {
    let result = std::panic::catch_unwind(|| {
        let mut world = World::new(seed);
        for _ in 0..steps {
            world.step();
        }
        world.quiesce();
        world.crashes
    });
    result.unwrap_or_else(|panic| {
        eprintln!("the history of seed {seed} ({steps} steps) fails");
        std::panic::resume_unwind(panic)
    })
}

/// `SIMULATION_EVENTS` makes it longer: millions for a soak.
#[test]
fn random_histories_lose_nothing_and_always_end() {
    let events: u32 = std::env::var("SIMULATION_EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(200_000);
    let steps = 500;
    let crashes: u32 = (0..events / steps).map(|seed| history(u64::from(seed), steps)).sum();
    assert!(crashes > 100, "the histories must contain crashes, not {crashes}");
}
