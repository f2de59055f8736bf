//! Pure decisions: `handle(event, now) -> effects`. No clock, file, socket or thread in here (a test enforces it), so
//! that a test can drive years of random events, crashes and clock jumps through it in seconds.
//!
//! Core owns the sessions, the queue of each, which turn runs, what is to be delivered when, the adapters' states and
//! the life of the process. It changes nothing outside: `control` executes the effects, in order.

mod adapters;
pub mod command;
mod commands;
pub mod cron;
mod deliveries;
mod delivery;
pub mod event;
mod inbound;
mod jobs;
mod lifecycle;
mod notes;
pub mod prompt;
pub mod record;
pub mod schedule;
mod sessions;
#[cfg(test)]
mod simulation;
pub mod types;
mod upkeep;

use crate::limits;
use event::{Effect, Event, Level, Now, RequestId, StoreFault, Ticket};
use record::{Op, Outcome, TurnFinish, TurnStart, WaitingRow};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use types::{AdapterName, ApprovalId, ChatRef, Inbound, InboxId, Receipt, TurnId};

pub use adapters::Adapter;
pub use jobs::{JobView, ScheduleView};
pub use lifecycle::{EXIT_RESTART, Phase};
pub use sessions::{Session, Turn};

/// What a message that arrives while its session is busy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusyMode {
    Interrupt,
    Queue,
    Steer,
}

/// What core must know of the configuration of one adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterRules {
    pub allowed_users: Vec<String>,
    pub allowed_chats: Vec<String>,
    pub admins: Vec<String>,
    pub group_mention: bool,
    /// Zero: the platform shows no typing sign.
    pub typing_interval_ms: u64,
    /// Has an inlet that must be connected for the adapter to be well.
    pub receives: bool,
}

/// What core must know of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub adapters: BTreeMap<AdapterName, AdapterRules>,
    pub turns_max: usize,
    pub busy: BusyMode,
    pub approval_ms: u64,
    pub drain_ms: u64,
    pub restart_drain_ms: u64,
    /// Of calendars and times of the day in schedules.
    pub zone: jiff::tz::TimeZone,
    /// How long what is done is kept; 0: for ever.
    pub keep_ms: u64,
    /// For /status and /version.
    pub version: String,
    pub model: String,
}

/// What an outstanding operation of the store was for.
#[derive(Debug)]
enum Pending {
    Accept(Box<PendingAccept>),
    /// A cursor moved past something that is not for us.
    Cursor {
        adapter: AdapterName,
        generation: u64,
        receipt: Receipt,
    },
    Begin {
        turn: TurnId,
    },
    Resume {
        turn: TurnId,
    },
    Finish {
        turn: TurnId,
    },
    /// The row of a command, and the one who gets the answer.
    Undo {
        asked: Box<WaitingRow>,
        retry: bool,
    },
    Usage {
        asked: Box<WaitingRow>,
    },
    NewSession {
        asked: Box<WaitingRow>,
    },
    Ask {
        turn: TurnId,
        session: String,
    },
    Settle {
        approval: ApprovalId,
        asked: Option<Box<WaitingRow>>,
    },
    Enqueue {
        request: Option<RequestId>,
        chats: Vec<ChatRef>,
        close: Option<InboxId>,
    },
    /// Somebody waits for it, or it is decided anew.
    Job(Box<jobs::JobPending>),
    /// The restart begins once it is noted.
    MemoryRestart,
    /// Nothing follows from its outcome, but it has to be done.
    Note,
    /// Worth one attempt; later it might no longer be true.
    Attempt,
}

impl Pending {
    /// Whether the operation is handed in again until the disk takes it. The others have somebody who is told, and
    /// who may try again: the platform, the person, the turn.
    fn lasting(&self) -> bool {
        match self {
            Self::Begin { .. } | Self::Resume { .. } | Self::Finish { .. } | Self::Note => true,
            Self::Enqueue { request, .. } => request.is_none(),
            Self::Settle { asked, .. } => asked.is_none(),
            Self::Accept(_)
            | Self::Cursor { .. }
            | Self::Undo { .. }
            | Self::Usage { .. }
            | Self::NewSession { .. }
            | Self::Ask { .. }
            | Self::Job(_)
            | Self::MemoryRestart
            | Self::Attempt => false,
        }
    }
}

/// An operation that was handed in.
#[derive(Debug)]
struct Outstanding {
    pending: Pending,
    /// The operation itself, if it is handed in again when the disk does not take it.
    again: Option<Op>,
}

#[derive(Debug)]
struct PendingAccept {
    inbound: Inbound,
    generation: u64,
    receipt: Option<Receipt>,
    request: Option<RequestId>,
    /// The turn that begins with it, if its session was free.
    begins: Option<TurnId>,
}

/// A question that waits for a person.
#[derive(Debug)]
struct Approval {
    turn: TurnId,
    session: String,
    /// By the monotonic clock: a jump of the wall clock must not settle it.
    due_ms: u64,
}

/// All state that decisions depend on.
#[derive(Debug)]
pub struct Core {
    rules: Rules,
    phase: Phase,
    adapters: BTreeMap<AdapterName, Adapter>,
    sessions: HashMap<String, Session>,
    turns: BTreeMap<TurnId, Turn>,
    /// Sessions that have something waiting and no turn, in the order in which they are served.
    ready: VecDeque<String>,
    next_turn: TurnId,
    pending: HashMap<Ticket, Outstanding>,
    next_ticket: Ticket,
    deliveries: deliveries::Deliveries,
    approvals: BTreeMap<ApprovalId, Approval>,
    /// Sessions in which everything is approved until /new.
    approved_sessions: HashSet<String>,
    /// Ends of turns that are not on disk yet.
    unfinished: BTreeMap<TurnId, TurnFinish>,
    /// Operations that the store did not take, and when they are handed in again.
    refused: VecDeque<(u64, Op, Pending)>,
    /// /stop commands whose row is not committed yet: they act at the latest when this is due.
    impatient: Vec<(u64, String)>,
    /// Sessions whose transcript a command is about to change, and how many: what arrives meanwhile waits for it.
    held: BTreeMap<String, u32>,
    /// Chats whose platform gave them another id: adapter, old, new.
    moved: Vec<(AdapterName, String, String)>,
    /// When a session was last told of a stop or restart, by the wall clock.
    announced: BTreeMap<String, i64>,
    strangers: HashSet<(AdapterName, String)>,
    schedule: jobs::Schedule,
    upkeep: upkeep::Upkeep,
    now: Now,
    effects: Vec<Effect>,
}

impl Core {
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        let adapters = rules.adapters.iter().map(|(name, rules)| (name.clone(), Adapter::new(rules.receives))).collect();
        Self {
            rules,
            phase: Phase::Starting,
            adapters,
            sessions: HashMap::new(),
            turns: BTreeMap::new(),
            ready: VecDeque::new(),
            next_turn: 1,
            pending: HashMap::new(),
            next_ticket: 1,
            deliveries: deliveries::Deliveries::default(),
            approvals: BTreeMap::new(),
            approved_sessions: HashSet::new(),
            unfinished: BTreeMap::new(),
            refused: VecDeque::new(),
            impatient: Vec::new(),
            held: BTreeMap::new(),
            moved: Vec::new(),
            announced: BTreeMap::new(),
            strangers: HashSet::new(),
            schedule: jobs::Schedule::default(),
            upkeep: upkeep::Upkeep::new(),
            now: Now::default(),
            effects: Vec::new(),
        }
    }

    /// Takes one event and says what follows from it.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Effect> {
        self.now = now;
        match event {
            Event::Recovered(recovered) => self.recovered(*recovered),
            Event::Adapter { name, generation, what } => self.adapter_event(&name, generation, what),
            Event::Stored { ticket, result } => self.stored(ticket, result),
            Event::Turn { turn, what } => self.turn_event(turn, what),
            Event::Delivered { adapter, outbox, result } => self.delivered(&adapter, outbox, result),
            Event::Say { request, inbound } => self.said(request, *inbound),
            Event::Send { request, chat, text } => self.send_requested(request, chat, text),
            Event::Schedule { request, wish } => self.schedule_requested(request, *wish),
            Event::MemoryHigh { rss_bytes, limit_bytes } => self.memory_high(rss_bytes, limit_bytes),
            Event::Attached { chat } => self.attached(&chat),
            Event::Lifecycle(request) => self.lifecycle(request, None),
            Event::Reconfigured { rules, started, removed } => self.reconfigured(*rules, &started, &removed),
            Event::Tick => {}
        }
        self.settle();
        std::mem::take(&mut self.effects)
    }

    /// What is due by now, and what follows from freed sessions, senders and the drain.
    fn settle(&mut self) {
        self.overdue_stops();
        self.overdue_approvals();
        self.overdue_store();
        self.restart_adapters();
        self.begin_due_jobs();
        self.prune_when_due();
        self.serve_ready();
        self.keep_typing();
        self.deliver_due();
        self.check_drain();
    }

    /// When [`Event::Tick`] is wanted at the latest, in monotonic milliseconds.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        let approvals = self.approvals.values().map(|approval| approval.due_ms);
        let refused = self.refused.iter().map(|(due_ms, ..)| *due_ms);
        let stops = self.impatient.iter().map(|(due_ms, _)| *due_ms);
        approvals
            .chain(refused)
            .chain(stops)
            .chain(self.adapters.values().filter_map(Adapter::due_ms))
            .chain(self.turns.values().filter_map(|turn| turn.typing_due_ms))
            .chain(self.deliveries_due_ms())
            .chain(self.phase.due_ms())
            .chain(self.jobs_due_ms())
            .chain(self.prune_due_ms())
            .min()
    }

    fn stored(&mut self, ticket: Ticket, result: Result<Outcome, StoreFault>) {
        let Some(Outstanding { pending, again }) = self.pending.remove(&ticket) else { return };
        if let (Some(op), Err(StoreFault::Unavailable)) = (again, &result) {
            // What was decided is kept in memory until the disk takes it.
            self.refused.push_back((self.now.mono_ms + limits::STORE_RETRY_MS, op, pending));
            return;
        }
        match pending {
            Pending::Accept(accept) => self.accepted(*accept, result),
            Pending::Cursor { adapter, generation, receipt } => {
                // Without the commit the adapter must not move on: it will read the message again.
                if result.is_ok() {
                    self.effects.push(Effect::Receipt { adapter, generation, receipt });
                }
            }
            Pending::Begin { turn } => self.begun(turn, false, &result),
            Pending::Resume { turn } => self.begun(turn, true, &result),
            Pending::Finish { turn } => self.finished(turn, result),
            Pending::Undo { asked, retry } => self.undone(*asked, retry, result),
            Pending::Usage { asked } => self.usage_loaded(*asked, result),
            Pending::NewSession { asked } => self.new_session(*asked, result),
            Pending::Ask { turn, session } => self.asked(turn, session, result),
            Pending::Settle { approval, asked } => self.settled(approval, asked.map(|asked| *asked), result),
            Pending::Enqueue { request, chats, close } => self.enqueued(request, &chats, close, result),
            Pending::Job(pending) => self.job_stored(*pending, result),
            Pending::MemoryRestart => self.memory_restart_noted(result.map(drop)),
            Pending::Note | Pending::Attempt => {}
        }
    }

    fn store(&mut self, op: Op, pending: Pending) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let again = pending.lasting().then(|| op.clone());
        self.pending.insert(ticket, Outstanding { pending, again });
        self.effects.push(Effect::Store { ticket, op });
    }

    /// Operations that the store did not take before are handed in again.
    fn overdue_store(&mut self) {
        for _ in 0..self.refused.len() {
            match self.refused.pop_front() {
                Some((due_ms, op, pending)) if due_ms <= self.now.mono_ms => self.store(op, pending),
                Some(later) => self.refused.push_back(later),
                None => break,
            }
        }
    }

    fn log(&mut self, level: Level, target: &str, text: String) {
        self.effects.push(Effect::Log { level, target: target.to_owned(), text });
    }

    fn new_turn(&mut self, session: &str, inbound: &Inbound) -> TurnStart {
        let turn = self.next_turn;
        self.next_turn += 1;
        TurnStart { turn, session: session.to_owned(), message: prompt::user_message(inbound), started_ms: self.now.wall_ms }
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Messages that wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.sessions.values().map(|session| session.queue.len()).sum()
    }

    /// The sessions that have a turn.
    pub fn running(&self) -> impl Iterator<Item = (&TurnId, &Turn)> {
        self.turns.iter()
    }

    #[must_use]
    pub fn undelivered(&self) -> usize {
        self.deliveries.len()
    }
}

/// An interval as people say it: `3d 4h`, `41 s`.
#[must_use]
pub fn spoken_interval(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
