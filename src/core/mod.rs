//! Pure decisions: `handle(event, now) -> effects`. No clock, file, socket or thread in here (a test enforces it), so
//! that a test can drive years of random events, crashes and clock jumps through it in seconds.
//!
//! Core owns the sessions, the queue of each, which turn runs, what is to be delivered when, the adapters' states and
//! the life of the process. It changes nothing outside: `control` executes the effects, in order.

mod adapters;
pub mod command;
mod commands;
mod delivery;
pub mod event;
mod inbound;
mod lifecycle;
pub mod prompt;
pub mod record;
mod sessions;
pub mod types;

use event::{Effect, Event, Level, Now, RequestId, StoreFault, Ticket};
use record::{Op, Outcome, TurnFinish, TurnStart, WaitingRow};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use types::{AdapterName, ApprovalId, ChatRef, Inbound, InboxId, OutboxId, Receipt, TurnId};

pub use adapters::Adapter;
pub use lifecycle::Phase;
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
        session: String,
        turn: TurnId,
        waiting: Box<WaitingRow>,
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
    /// Nothing follows from its outcome but a log line.
    Note(&'static str),
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
    pending: HashMap<Ticket, Pending>,
    next_ticket: Ticket,
    deliveries: BTreeMap<OutboxId, delivery::Delivery>,
    approvals: BTreeMap<ApprovalId, Approval>,
    /// Sessions in which everything is approved until /new.
    approved_sessions: HashSet<String>,
    /// Ends of turns that the store did not take yet, and when to try again.
    unfinished: BTreeMap<TurnId, (u64, TurnFinish)>,
    /// Answers that the store did not take yet.
    unqueued: VecDeque<(u64, Op, Pending)>,
    /// /stop commands whose row is not committed yet: they act at the latest when this is due.
    impatient: Vec<(u64, String)>,
    strangers: HashSet<(AdapterName, String)>,
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
            deliveries: BTreeMap::new(),
            approvals: BTreeMap::new(),
            approved_sessions: HashSet::new(),
            unfinished: BTreeMap::new(),
            unqueued: VecDeque::new(),
            impatient: Vec::new(),
            strangers: HashSet::new(),
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
            Event::Attached { chat } => self.attached(&chat),
            Event::Lifecycle(request) => self.lifecycle(request, None),
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
        self.serve_ready();
        self.keep_typing();
        self.deliver_due();
        self.check_drain();
    }

    /// When [`Event::Tick`] is wanted at the latest, in monotonic milliseconds.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        let approvals = self.approvals.values().map(|approval| approval.due_ms);
        let unfinished = self.unfinished.values().map(|(due_ms, _)| *due_ms);
        let unqueued = self.unqueued.iter().map(|(due_ms, ..)| *due_ms);
        let stops = self.impatient.iter().map(|(due_ms, _)| *due_ms);
        approvals
            .chain(unfinished)
            .chain(unqueued)
            .chain(stops)
            .chain(self.adapters.values().filter_map(Adapter::due_ms))
            .chain(self.turns.values().filter_map(|turn| turn.typing_due_ms))
            .chain(self.deliveries_due_ms())
            .chain(self.phase.due_ms())
            .min()
    }

    fn stored(&mut self, ticket: Ticket, result: Result<Outcome, StoreFault>) {
        let Some(pending) = self.pending.remove(&ticket) else { return };
        match pending {
            Pending::Accept(accept) => self.accepted(*accept, result),
            Pending::Cursor { adapter, generation, receipt } => {
                // Without the commit the adapter must not move on: it will read the message again.
                if result.is_ok() {
                    self.effects.push(Effect::Receipt { adapter, generation, receipt });
                }
            }
            Pending::Begin { session, turn, waiting } => self.begun(&session, turn, *waiting, result),
            Pending::Resume { turn } => self.resumed(turn, result),
            Pending::Finish { turn } => self.finished(turn, result),
            Pending::Undo { asked, retry } => self.undone(*asked, retry, result),
            Pending::Usage { asked } => self.usage_loaded(*asked, result),
            Pending::NewSession { asked } => self.new_session(*asked, result),
            Pending::Ask { turn, session } => self.asked(turn, session, result),
            Pending::Settle { approval, asked } => self.settled(approval, asked.map(|asked| *asked), result),
            Pending::Enqueue { request, chats, close } => self.enqueued(request, &chats, close, result),
            Pending::Note(what) => {
                if result == Err(StoreFault::Unavailable) {
                    self.log(Level::Warn, "store", format!("could not {what}"));
                }
            }
        }
    }

    fn store(&mut self, op: Op, pending: Pending) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.pending.insert(ticket, pending);
        self.effects.push(Effect::Store { ticket, op });
    }

    /// Operations that the store did not take before are handed in again.
    fn overdue_store(&mut self) {
        let now_ms = self.now.mono_ms;
        for turn in self.unfinished.iter().filter(|(_, (due_ms, _))| *due_ms <= now_ms).map(|(turn, _)| *turn).collect::<Vec<_>>() {
            if let Some((_, finish)) = self.unfinished.remove(&turn) {
                self.hand_in_finish(finish);
            }
        }
        for _ in 0..self.unqueued.len() {
            match self.unqueued.pop_front() {
                Some((due_ms, op, pending)) if due_ms <= now_ms => self.store(op, pending),
                Some(later) => self.unqueued.push_back(later),
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
