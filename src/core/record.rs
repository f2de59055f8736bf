//! What is committed: the operations on the store and their outcomes.
//!
//! Core decides which operation follows from which event; `store/` executes them, each atomically, in the order in
//! which they were handed in. A crash falls between two operations, never into one.

use super::schedule::Job;
use super::types::{ApprovalId, ChatRef, Inbound, InboxId, JobId, Memo, Message, Outbound, OutboxId, Receipt, TurnId, Usage};
use serde::{Deserialize, Serialize};

/// The state of an accepted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InboxState {
    /// Accepted, not yet part of a turn.
    Waiting,
    /// The message of a turn that has begun.
    Running,
    Done,
}

/// The state of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnState {
    Running,
    Done,
    /// By /stop, or by a message that interrupted it.
    Cancelled,
    /// With an error that its chat was told.
    Failed,
    /// Cut twice by the end of the process; its chat was asked what to do.
    Interrupted,
}

/// The state of an outbound message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboxState {
    Pending,
    /// An attempt was begun and its end is not known.
    Sending,
    Sent,
    /// Given up: a dead letter.
    Failed,
}

/// The state of a question put to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    Pending,
    Approved,
    Denied,
    /// Silence is no.
    Expired,
    /// Its turn was cancelled or ended.
    Cancelled,
}

/// The state of one run of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Its message waits or has its turn.
    Started,
    Done,
    Failed,
    /// By /stop, by a message that interrupted it, or by the end of the process twice.
    Interrupted,
    /// Not begun, for a reason.
    Skipped,
}

/// What is decided about one time of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct RunStart {
    pub job: JobId,
    /// The number of the time: later than all before. `None`: a run that a person asked for beside the times.
    pub slot_ms: Option<i64>,
    pub what: RunWhat,
    /// No other time comes: the job is over.
    pub last: bool,
    /// At most one run with this key.
    pub request: Option<String>,
    pub now_ms: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RunWhat {
    /// Said to the agent: a waiting message, which the run ends with.
    Ask(Box<Inbound>),
    /// Sent as it is.
    Say(Box<Outbound>),
    /// Why nothing is begun.
    Skip(String),
}

/// A turn that is to begin with an accepted message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnStart {
    pub turn: TurnId,
    pub session: String,
    /// The user's message as the model will see it, appended to the transcript.
    pub message: Message,
    pub started_ms: i64,
}

/// How a turn ends: everything in one transaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnFinish {
    pub turn: TurnId,
    pub state: TurnState,
    /// Appended to the transcript.
    pub messages: Vec<Message>,
    pub replies: Vec<Outbound>,
    /// What was used since the last committed round; it is added to what the rounds said.
    pub usage: Usage,
    pub ended_ms: i64,
}

/// An operation on the store. Atomic, each.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Accepts a message: the inbox row, the adapter's cursor, and, if the session is free, the beginning of its turn.
    /// `done`: it is handled with this (a command); means nothing together with `begin`. A duplicate moves the cursor
    /// and does nothing else.
    /// → [`Outcome::Accepted`] or [`Outcome::Duplicate`]
    Accept { inbound: Box<Inbound>, receipt: Option<Receipt>, received_ms: i64, begin: Option<TurnStart>, done: bool },
    /// Moves an adapter's cursor past something that is not for us. → [`Outcome::Done`]
    Cursor { adapter: String, cursor: String },
    /// Reads an adapter's cursor. → [`Outcome::Cursor`]
    LoadCursor { adapter: String },
    /// Writes an adapter's memos, all or none. → `Done`
    Remember { adapter: String, memos: Vec<Memo> },
    /// Reads one of an adapter's memos. → [`Outcome::Memo`]
    Recall { adapter: String, key: String },
    /// Begins a turn with a message that is waiting. Fails with `Fenced` if it is not waiting any more. → `Done`
    BeginTurn { start: TurnStart, inbox: InboxId },
    /// Counts one more attempt at a turn that a crash interrupted, before the attempt. → `Done`
    ResumeTurn { turn: TurnId, attempt: u32 },
    /// Appends to the transcript of a running turn; also takes `adopted` messages, which steer it, out of the queue (those
    /// that do not wait any more are left alone). `usage` is what this round used, not a total. → `Done`
    CommitRound { turn: TurnId, messages: Vec<Message>, adopted: Vec<InboxId>, usage: Usage },
    /// Notes the platform's id of the streamed preview of a turn's reply. → `Done`
    Preview { turn: TurnId, platform_id: String },
    /// Ends a turn; its inbox rows are done, its open questions cancelled. Fails with `Fenced` if the turn is not running any more. → [`Outcome::Finished`]
    FinishTurn(Box<TurnFinish>),
    /// The transcript of a session since its last /new: the last `messages_max` messages, cut and repaired so that it is
    /// one that a provider takes. → [`Outcome::Transcript`]
    LoadTranscript { session: String, messages_max: usize },
    /// /new: a fresh transcript. → `Done`
    NewSession { session: String },
    /// /undo and /retry: takes the last exchange out of the transcript. The command's row `inbox` is done with it; for a
    /// retry it gets the text of the user's message instead and goes on waiting. → [`Outcome::Undone`] with that text
    Undo { session: String, inbox: InboxId, retry: bool },
    /// A chat has another id now: what is to be delivered to it, and its session, go there. → `Done`
    MoveChat { adapter: String, old: String, new: String },
    /// Totals of a session since its last /new. → [`Outcome::Usage`]
    LoadUsage { session: String },
    /// Marks a waiting message as done without a turn: a command, or one that is given up. → `Done`
    CloseInbox { inbox: InboxId },
    /// Puts messages into the outbox. `dedupe`: at most one with this key ever. → [`Outcome::Queued`]
    Enqueue { messages: Vec<Outbound>, dedupe: Option<String>, now_ms: i64 },
    /// Takes up an outbound message: as [`Op::MarkSending`] for its next part. What is sent or given up is only read.
    /// → [`Outcome::Outbox`], the row as it was before; `ambiguous` tells whether the part was attempted before with an
    /// end that is not known
    BeginSending { outbox: OutboxId },
    /// Before part `part` of an outbound message is sent; tells whether the part was attempted before with an end that is
    /// not known. Counts the attempt. Fails with `Fenced` unless it is the next part of an open message. → [`Outcome::Sending`]
    MarkSending { outbox: OutboxId, part: u32 },
    /// Part `part` has reached the platform. `last`: it was the last one. → `Done`
    MarkPartSent { outbox: OutboxId, part: u32, platform_id: String, last: bool },
    /// An attempt failed for now: nothing of the current part was delivered. Only a row that is being sent. → `Done`
    MarkRetry { outbox: OutboxId, not_before_ms: i64, error: String },
    /// Given up. → `Done`
    MarkFailed { outbox: OutboxId, error: String },
    /// One outbound message. → [`Outcome::Outbox`]
    LoadOutbox { outbox: OutboxId },
    /// A question to a person, and the message that puts it. In the commands of the message's buttons `{approval}` becomes
    /// the question's id. Needs its turn to be running. → [`Outcome::Asked`]
    Ask { question: Question, now_ms: i64, notice: Box<Outbound> },
    /// Settles a question if it is still pending. Fails with `Fenced` if there is no such question. → [`Outcome::Settled`]
    Settle { approval: ApprovalId, state: ApprovalState, by: Option<String>, now_ms: i64 },
    /// Notes something for the next start under a key, or forgets it. → `Done`
    Note { key: String, value: Option<String> },
    /// Makes a job. `request`: at most one with this key. → [`Outcome::JobAdded`]
    AddJob { job: Box<Job>, request: Option<String> },
    /// Pauses a job or lets it go on; after a pause only times later than `now_ms` count. `Fenced` if it is over or not there. → `Done`
    PauseJob { job: JobId, paused: bool, now_ms: i64 },
    /// Deletes a job and its history. `Fenced` if there is none. → `Done`
    RemoveJob { job: JobId },
    /// Writes down that a time of a job has come and what follows, before any of it begins: the run, its message, the end
    /// of a job that has no other time. While a run of the job has not ended, another one is written down as skipped. Fails with `Fenced` if the job is over or the time was decided upon. → [`Outcome::RunStarted`]
    StartRun(Box<RunStart>),
    /// The last run of each job that has one. → [`Outcome::LastRuns`]
    LoadLastRuns,
    /// What was not finished when the last process ended. → [`Outcome::Recovered`]
    Recover { now_ms: i64 },
    /// Inbox, outbox and size figures. → [`Outcome::Figures`]
    Figures,
    /// Deletes what is old: done inbox rows keep their keys, transcripts and sent messages beyond their age go. Answered
    /// after the first few hundred rows; the rest follows while the store has nothing else to do. → `Done`
    Prune { before_ms: i64 },
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Done,
    Accepted {
        inbox: InboxId,
    },
    /// The message was accepted before. `inbox` is its row.
    Duplicate {
        inbox: InboxId,
    },
    Cursor(Option<String>),
    Memo(Option<String>),
    /// `queued`: the replies' rows, in order.
    Finished {
        queued: Vec<OutboxId>,
    },
    Transcript(Vec<Message>),
    Undone(Option<String>),
    Usage {
        usage: Usage,
        turns: u64,
        messages: u64,
        started_ms: i64,
    },
    /// Empty if the key was used before.
    Queued(Vec<OutboxId>),
    Sending {
        attempted_before: bool,
    },
    Outbox(Option<Box<OutboxRow>>),
    Asked {
        approval: ApprovalId,
        queued: OutboxId,
    },
    /// `false`: it had been settled before; the state is what it is now.
    Settled {
        changed: bool,
        state: ApprovalState,
    },
    JobAdded {
        job: JobId,
    },
    /// The rows that carry the run on. Neither for one that was skipped, or begun before, or whose job is still at work.
    RunStarted {
        inbox: Option<InboxId>,
        queued: Option<OutboxId>,
    },
    LastRuns(Vec<RunRow>),
    Recovered(Box<Recovered>),
    Figures(Figures),
}

/// An outbound message on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxRow {
    pub id: OutboxId,
    pub message: Outbound,
    pub state: OutboxState,
    /// Parts that have reached the platform, with its ids.
    pub sent_parts: Vec<String>,
    /// The part after those was attempted, and what came of it is not known.
    pub ambiguous: bool,
    /// The platform's idempotency key for this message, where there is one. The same in each attempt.
    pub key: String,
    /// At the next part, or at the last one once it is sent.
    pub attempts: u32,
    pub not_before_ms: i64,
    pub created_ms: i64,
    pub error: Option<String>,
}

/// A question that a person must answer before a tool runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub turn: TurnId,
    pub session: String,
    pub chat: ChatRef,
    /// The command or action, as it would be run.
    pub what: String,
    /// Why it needs asking, from the policy.
    pub why: String,
    pub expires_ms: i64,
}

/// A message that waits for its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRow {
    pub inbox: InboxId,
    pub inbound: Inbound,
}

/// A turn that was running when the process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningRow {
    pub turn: TurnId,
    pub session: String,
    pub chat: ChatRef,
    pub inbox: InboxId,
    /// The platform's id of the message that began it.
    pub message_id: String,
    pub sender: String,
    /// 1 until [`Op::ResumeTurn`] says otherwise.
    pub attempt: u32,
    pub started_ms: i64,
    /// The streamed preview of its reply, if one was shown.
    pub preview: Option<String>,
}

/// An undelivered message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRow {
    pub outbox: OutboxId,
    pub chat: ChatRef,
    pub not_before_ms: i64,
    pub attempts: u32,
}

/// A job that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    pub id: JobId,
    pub job: Job,
    pub paused: bool,
    /// The last time that was decided upon; when the job was made, if none was.
    pub last_slot_ms: i64,
}

/// One run of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRow {
    pub job: JobId,
    pub state: RunState,
    pub started_ms: i64,
    /// Why it was skipped.
    pub detail: Option<String>,
}

/// What the last process left unfinished, in the order in which it was begun.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    pub running: Vec<RunningRow>,
    pub waiting: Vec<WaitingRow>,
    pub pending: Vec<PendingRow>,
    pub approvals: Vec<(ApprovalId, Question)>,
    pub jobs: Vec<JobRow>,
    /// What was noted for this start, by key.
    pub notes: Vec<(String, String)>,
    /// The highest turn id ever given out.
    pub last_turn: TurnId,
}

/// Figures for `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    pub inbox_waiting: u64,
    pub outbox_pending: u64,
    pub dead_letters: u64,
    pub store_bytes: u64,
}
