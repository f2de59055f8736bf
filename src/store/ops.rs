//! From an operation to the code that does it, and from SQLite's errors to ours.
//!
//! Runs on the store thread. A function that writes is called inside a savepoint: when it fails, all it did is undone.

use super::{StoreError, approvals, inbox, memos, outbox, recover, schedule, sessions, turns, upkeep};
use crate::core::record::{Op, Outcome};
use rusqlite::{Connection, ErrorCode, Params, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why an operation failed, inside the store.
#[derive(Debug)]
pub(super) enum Failure {
    /// The row is not in the state that the operation needs.
    Fenced,
    Sql(rusqlite::Error),
    Bug(String),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Fenced => Self::Fenced,
            Failure::Sql(error) => classify(&error),
            Failure::Bug(text) => Self::Bug(text),
        }
    }
}

pub(super) type Done = Result<Outcome, Failure>;

/// Statements that are parsed once and kept: a message takes some thirty, and parsing costs more than running them.
pub(super) trait Statements {
    fn run(&self, sql: &str, parameters: impl Params) -> rusqlite::Result<usize>;
    fn read_row<T>(&self, sql: &str, parameters: impl Params, read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T>;
}

impl Statements for Connection {
    fn run(&self, sql: &str, parameters: impl Params) -> rusqlite::Result<usize> {
        self.prepare_cached(sql)?.execute(parameters)
    }

    fn read_row<T>(&self, sql: &str, parameters: impl Params, read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        self.prepare_cached(sql)?.query_row(parameters, read)
    }
}

/// Sorts SQLite's errors: the disk's fault, or ours.
pub(super) fn classify(error: &rusqlite::Error) -> StoreError {
    let Some(code) = error.sqlite_error_code() else { return StoreError::Bug(error.to_string()) };
    match code {
        ErrorCode::DiskFull => StoreError::Unavailable("the disk is full; free some space".to_owned()),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied => {
            StoreError::Unavailable(format!("the database cannot be written ({error}); check the file system and the owner of the files"))
        }
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            StoreError::Unavailable("the database is locked by another program; close that program".to_owned())
        }
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::FileLockingProtocolFailed => {
            StoreError::Unavailable(format!("the disk fails ({error}); look at the kernel's log"))
        }
        ErrorCode::OutOfMemory => StoreError::Unavailable("out of memory".to_owned()),
        ErrorCode::OperationInterrupted => StoreError::Unavailable("interrupted: the store is closing".to_owned()),
        _ if is_damage(error) => {
            StoreError::Bug(format!("the database is damaged ({error}); stop the gateway, then run `hermes-gateway doctor`"))
        }
        _ => StoreError::Bug(error.to_string()),
    }
}

/// Whether the file itself is at fault.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether nothing is written: no transaction is needed then, and no fsync.
pub(super) fn is_read(op: &Op) -> bool {
    matches!(
        op,
        Op::LoadCursor { .. }
            | Op::Recall { .. }
            | Op::LoadTranscript { .. }
            | Op::LoadUsage { .. }
            | Op::LoadOutbox { .. }
            | Op::LoadLastRuns
            | Op::Recover { .. }
            | Op::Figures
    )
}

/// For pulses and logs.
pub(super) fn name(op: &Op) -> &'static str {
    match op {
        Op::Accept { .. } => "accept",
        Op::Cursor { .. } => "cursor",
        Op::LoadCursor { .. } => "load cursor",
        Op::Remember { .. } => "remember",
        Op::Recall { .. } => "recall",
        Op::BeginTurn { .. } => "begin turn",
        Op::ResumeTurn { .. } => "resume turn",
        Op::CommitRound { .. } => "commit round",
        Op::Preview { .. } => "preview",
        Op::FinishTurn(_) => "finish turn",
        Op::LoadTranscript { .. } => "load transcript",
        Op::NewSession { .. } => "new session",
        Op::Undo { .. } => "undo",
        Op::MoveChat { .. } => "move chat",
        Op::Note { .. } => "note",
        Op::LoadUsage { .. } => "load usage",
        Op::CloseInbox { .. } => "close inbox",
        Op::Enqueue { .. } => "enqueue",
        Op::BeginSending { .. } => "begin sending",
        Op::MarkSending { .. } => "mark sending",
        Op::MarkPartSent { .. } => "mark part sent",
        Op::MarkRetry { .. } => "mark retry",
        Op::MarkFailed { .. } => "mark failed",
        Op::LoadOutbox { .. } => "load outbox",
        Op::Ask { .. } => "ask",
        Op::Settle { .. } => "settle",
        Op::AddJob { .. } => "add job",
        Op::PauseJob { .. } => "pause job",
        Op::RemoveJob { .. } => "remove job",
        Op::StartRun(_) => "start run",
        Op::LoadLastRuns => "load last runs",
        Op::Recover { .. } => "recover",
        Op::Figures => "figures",
        Op::Prune { .. } => "prune",
    }
}

pub(super) fn execute(connection: &Connection, op: &Op) -> Done {
    match op {
        Op::Accept { inbound, receipt, received_ms, begin, done } => {
            inbox::accept(connection, inbound, receipt.as_ref(), *received_ms, begin.as_ref(), *done)
        }
        Op::Cursor { adapter, cursor } => inbox::set_cursor(connection, adapter, cursor),
        Op::LoadCursor { adapter } => inbox::load_cursor(connection, adapter),
        Op::Remember { adapter, memos: entries } => memos::remember(connection, adapter, entries).map(|()| Outcome::Done),
        Op::Recall { adapter, key } => memos::recall(connection, adapter, key),
        Op::CloseInbox { inbox } => inbox::close(connection, *inbox),
        Op::BeginTurn { start, inbox } => turns::begin(connection, start, *inbox),
        Op::ResumeTurn { turn, attempt } => turns::resume(connection, *turn, *attempt),
        Op::CommitRound { turn, messages, adopted, usage } => turns::commit_round(connection, *turn, messages, adopted, *usage),
        Op::Preview { turn, platform_id } => turns::preview(connection, *turn, platform_id),
        Op::FinishTurn(finish) => turns::finish(connection, finish),
        Op::LoadTranscript { session, messages_max } => sessions::load_transcript(connection, session, *messages_max),
        Op::NewSession { session } => sessions::renew(connection, session),
        Op::Undo { session, inbox, retry } => sessions::undo(connection, session, *inbox, *retry),
        Op::Note { key, value } => sessions::note(connection, key, value.as_deref()),
        Op::MoveChat { adapter, old, new } => outbox::move_chat(connection, adapter, old, new),
        Op::LoadUsage { session } => sessions::load_usage(connection, session),
        Op::Enqueue { messages, dedupe, now_ms } => outbox::enqueue(connection, messages, dedupe.as_deref(), *now_ms),
        Op::BeginSending { outbox } => outbox::begin_sending(connection, *outbox),
        Op::MarkSending { outbox, part } => outbox::mark_sending(connection, *outbox, *part),
        Op::MarkPartSent { outbox, part, platform_id, last } => outbox::mark_part_sent(connection, *outbox, *part, platform_id, *last),
        Op::MarkRetry { outbox, not_before_ms, error } => outbox::mark_retry(connection, *outbox, *not_before_ms, error),
        Op::MarkFailed { outbox, error } => outbox::mark_failed(connection, *outbox, error),
        Op::LoadOutbox { outbox } => outbox::load(connection, *outbox),
        Op::Ask { question, now_ms, notice } => approvals::ask(connection, question, *now_ms, notice),
        Op::Settle { approval, state, by, now_ms } => approvals::settle(connection, *approval, *state, by.as_deref(), *now_ms),
        Op::AddJob { job, request } => schedule::add(connection, job, request.as_deref()),
        Op::PauseJob { job, paused, now_ms } => schedule::pause(connection, *job, *paused, *now_ms),
        Op::RemoveJob { job } => schedule::remove(connection, *job),
        Op::StartRun(start) => schedule::start(connection, start),
        Op::LoadLastRuns => schedule::last_runs(connection),
        Op::Recover { .. } => recover::recover(connection),
        Op::Figures => upkeep::figures(connection),
        Op::Prune { before_ms } => upkeep::prune(connection, *before_ms).map(|_| Outcome::Done),
    }
}

pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::Bug(format!("cannot be written as JSON: {error}")))
}

/// `what` names the row for the message.
pub(super) fn decode<T: DeserializeOwned>(text: &str, what: std::fmt::Arguments<'_>) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Bug(format!("{what} cannot be read: {error}")))
}

/// `Fenced` unless exactly one row was changed.
pub(super) fn one(changed: usize) -> Result<(), Failure> {
    if changed == 1 { Ok(()) } else { Err(Failure::Fenced) }
}
