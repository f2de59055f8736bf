//! What core is told and what it answers: one closed enum each.

use super::record::{Op, Outcome, Recovered};
use super::types::{AdapterName, AdapterState, ApprovalId, ChatRef, Inbound, InboxId, Message, OutboxId, Receipt, TurnId, Usage};

/// The time of an event. Monotonic for intervals, wall for what is stored and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Milliseconds since the start of the process.
    pub mono_ms: u64,
    /// Unix milliseconds; may jump.
    pub wall_ms: i64,
}

/// Ties an outcome of the store to what it was asked for.
pub type Ticket = u64;
/// A client of the control socket that waits for an answer.
pub type RequestId = u64;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The store is open; this is what the last process left.
    Recovered(Box<Recovered>),
    Adapter {
        name: AdapterName,
        generation: u64,
        what: AdapterEvent,
    },
    Stored {
        ticket: Ticket,
        result: Result<Outcome, StoreFault>,
    },
    Turn {
        turn: TurnId,
        what: TurnEvent,
    },
    Delivered {
        adapter: AdapterName,
        outbox: OutboxId,
        result: Delivered,
    },
    /// A client of the control socket says something, or has something sent.
    Say {
        request: RequestId,
        inbound: Box<Inbound>,
    },
    Send {
        request: RequestId,
        chat: ChatRef,
        text: String,
    },
    /// A client of the control socket asks about jobs. Answered with JSON.
    Schedule {
        request: RequestId,
        wish: Box<super::schedule::Wish>,
    },
    /// The process holds more memory than `[memory] soft_limit`.
    MemoryHigh {
        rss_bytes: u64,
        limit_bytes: u64,
    },
    /// A terminal client attached to this chat: what waits for it can be delivered now.
    Attached {
        chat: ChatRef,
    },
    Lifecycle(Lifecycle),
    /// The configuration has changed: these adapters are new or different, those are gone.
    Reconfigured {
        rules: Box<super::Rules>,
        started: Vec<AdapterName>,
        removed: Vec<AdapterName>,
    },
    /// A deadline of [`super::Core::next_due_ms`] has come.
    Tick,
}

/// Why an operation of the store was not done, as far as core must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    /// The row is not in the state that the operation needs.
    Fenced,
    /// Worth trying again later.
    Unavailable,
}

/// What an adapter's threads say.
#[derive(Debug)]
pub enum AdapterEvent {
    Message {
        inbound: Box<Inbound>,
        receipt: Receipt,
    },
    Connected {
        identity: String,
    },
    Retrying {
        cause: String,
        attempt: u32,
        next_ms: u64,
    },
    Failed {
        cause: String,
        remedy: String,
    },
    Moved {
        old: String,
        new: String,
    },
    /// The streamed preview of this turn's reply is this message.
    PreviewShown {
        turn: TurnId,
        platform_id: String,
    },
    /// A thread of the adapter ended without being asked to; `cause` says how.
    Ended {
        cause: String,
    },
    /// A thread of the adapter is overdue in this activity.
    Wedged {
        activity: String,
    },
}

/// What a turn's thread says.
#[derive(Debug)]
pub enum TurnEvent {
    /// Something to show changed: the text so far, kept for the case that the turn is cancelled.
    Progress { text: String },
    /// It took these waiting messages into account.
    Adopted { inbox: Vec<InboxId> },
    /// A tool call needs a person's word.
    Ask { what: String, why: String },
    /// It has come to its end.
    Ended(Box<TurnEnd>),
}

/// How a turn ended, from its thread's point of view.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnEnd {
    pub messages: Vec<Message>,
    /// For the chat, in Markdown. Empty: nothing is sent.
    pub reply: String,
    pub failed: bool,
    pub usage: Usage,
}

/// How an attempt to deliver ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    Sent,
    /// Nothing of the current part was delivered.
    Retry {
        cause: String,
        after_ms: Option<u64>,
    },
    /// Not known whether it was delivered. `repeated`: nor was the attempt before.
    Ambiguous {
        cause: String,
        repeated: bool,
    },
    Reject {
        cause: String,
    },
    Fatal {
        cause: String,
        remedy: String,
    },
    Moved {
        chat: String,
    },
    /// The sender was stopped or the store took nothing: as if it had not been tried.
    Untried,
}

/// Requests about the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    Stop,
    /// The second request: no drain.
    StopNow,
    Restart,
}

/// A question's answer, as the waiting turn gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Approved,
    Denied,
    Expired,
    /// The question could not be put.
    Failed,
}

/// What a turn's thread is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnSpec {
    pub turn: TurnId,
    pub session: String,
    pub chat: ChatRef,
    /// It was interrupted by the end of a process and goes on from its last committed round.
    pub resumed: bool,
    /// The message that shows its reply in the making, if an earlier process has begun one.
    pub preview: Option<String>,
}

/// What is to be done. Executed in order, none of it blocks.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Store {
        ticket: Ticket,
        op: Op,
    },
    Receipt {
        adapter: AdapterName,
        generation: u64,
        receipt: Receipt,
    },
    /// Starts the threads of an adapter; a former generation is cut off for good.
    StartAdapter {
        name: AdapterName,
        generation: u64,
    },
    /// Cuts the sockets of an adapter's threads, so that they come back.
    CutAdapter {
        name: AdapterName,
    },
    /// Ends the threads of an adapter that is not configured any more.
    StopAdapter {
        name: AdapterName,
    },
    /// No adapter takes in anything any more; sending goes on.
    HaltInlets,
    StartTurn(TurnSpec),
    CancelTurn {
        turn: TurnId,
    },
    Steer {
        turn: TurnId,
        inbox: InboxId,
        message: Message,
    },
    Answer {
        turn: TurnId,
        verdict: Verdict,
    },
    Deliver {
        adapter: AdapterName,
        outbox: OutboxId,
        turn: Option<TurnId>,
    },
    Typing {
        chat: ChatRef,
    },
    /// The work in this chat is done; its typing sign goes once the reply is out.
    Quiet {
        chat: ChatRef,
    },
    Respond {
        request: RequestId,
        result: Result<String, String>,
    },
    Log {
        level: Level,
        target: String,
        text: String,
    },
    /// All is decided: end the process with this code, through the rest of the stop ladder.
    Leave {
        code: u8,
    },
}

/// Of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

/// An adapter's line in `status`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterView {
    pub name: AdapterName,
    pub state: AdapterState,
    pub since_ms: u64,
    pub error: Option<String>,
    pub identity: Option<String>,
    pub attempt: u32,
    pub next_try_ms: Option<u64>,
    pub received: u64,
    pub sent: u64,
}

#[must_use]
pub(super) fn question_id(text: &str) -> Option<ApprovalId> {
    text.trim().trim_start_matches('#').parse().ok()
}
