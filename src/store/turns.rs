//! Turns: begun, committed round by round, finished. Runs on the store thread.
//!
//! Everything but the beginning needs the turn to be running; a turn that was ended in the meantime answers `Fenced`.

use super::ops::{Done, Failure, Statements, encode, one};
use super::{approvals, outbox, schedule, sessions};
use crate::core::record::{Outcome, TurnFinish, TurnStart, TurnState};
use crate::core::types::{InboxId, Message, Role, TurnId, Usage};
use rusqlite::{Connection, OptionalExtension, params};

/// The condition repeats the index's, so that the index is used.
pub(super) const CLOSE_INBOX_OF_TURN: &str = "UPDATE inbox SET state = 'done' WHERE turn = ?1 AND state <> 'done'";

/// What the later operations of a turn need to know of it.
struct Running {
    session: i64,
    epoch: i64,
    started_ms: i64,
}

fn running(connection: &Connection, turn: TurnId) -> Result<Running, Failure> {
    let sql = "SELECT session, epoch, started_ms FROM turns WHERE id = ?1 AND state = 'running'";
    let read = |row: &rusqlite::Row<'_>| Ok(Running { session: row.get(0)?, epoch: row.get(1)?, started_ms: row.get(2)? });
    connection.read_row(sql, [turn], read).optional()?.ok_or(Failure::Fenced)
}

/// `Fenced` unless the turn is running.
pub(super) fn require_running(connection: &Connection, turn: TurnId) -> Result<(), Failure> {
    running(connection, turn).map(|_| ())
}

/// The turn's row and the user's message, for an inbox row that is marked as running already.
pub(super) fn insert(connection: &Connection, start: &TurnStart, inbox: InboxId) -> Result<(), Failure> {
    let session = sessions::touch(connection, &start.session, start.started_ms)?;
    connection.run(
        "INSERT INTO turns(id, session, epoch, inbox, state, attempt, started_ms) VALUES(?1, ?2, ?3, ?4, 'running', 1, ?5)",
        params![start.turn, session.id, session.epoch, inbox, start.started_ms],
    )?;
    let turn = Running { session: session.id, epoch: session.epoch, started_ms: start.started_ms };
    append(connection, start.turn, &turn, std::slice::from_ref(&start.message))
}

pub(super) fn begin(connection: &Connection, start: &TurnStart, inbox: InboxId) -> Done {
    let sql = "UPDATE inbox SET state = 'running', turn = ?2 WHERE id = ?1 AND state = 'waiting'";
    one(connection.run(sql, [inbox, start.turn])?)?;
    insert(connection, start, inbox)?;
    Ok(Outcome::Done)
}

pub(super) fn resume(connection: &Connection, turn: TurnId, attempt: u32) -> Done {
    one(connection.run("UPDATE turns SET attempt = ?2 WHERE id = ?1 AND state = 'running'", params![turn, attempt])?)?;
    Ok(Outcome::Done)
}

pub(super) fn preview(connection: &Connection, turn: TurnId, platform_id: &str) -> Done {
    one(connection.run("UPDATE turns SET preview = ?2 WHERE id = ?1 AND state = 'running'", params![turn, platform_id])?)?;
    Ok(Outcome::Done)
}

/// Messages that are not waiting any more are left as they are: their words are in `messages` all the same.
pub(super) fn commit_round(connection: &Connection, turn: TurnId, messages: &[Message], adopted: &[InboxId], usage: Usage) -> Done {
    let row = running(connection, turn)?;
    append(connection, turn, &row, messages)?;
    for inbox in adopted {
        connection.run("UPDATE inbox SET state = 'running', turn = ?2 WHERE id = ?1 AND state = 'waiting'", [*inbox, turn])?;
    }
    sessions::add_usage(connection, row.session, row.epoch, usage, false)?;
    Ok(Outcome::Done)
}

pub(super) fn finish(connection: &Connection, finish: &TurnFinish) -> Done {
    let state = match finish.state {
        TurnState::Running => return Err(Failure::Bug(format!("turn {} cannot end as running", finish.turn))),
        TurnState::Done => "done",
        TurnState::Cancelled => "cancelled",
        TurnState::Failed => "failed",
        TurnState::Interrupted => "interrupted",
    };
    let row = running(connection, finish.turn)?;
    connection.run("UPDATE turns SET state = ?2, ended_ms = ?3 WHERE id = ?1", params![finish.turn, state, finish.ended_ms])?;
    append(connection, finish.turn, &row, &finish.messages)?;
    sessions::add_usage(connection, row.session, row.epoch, finish.usage, true)?;
    schedule::close_of_turn(connection, finish.turn, finish.state, finish.ended_ms)?;
    connection.run(CLOSE_INBOX_OF_TURN, [finish.turn])?;
    connection.run(approvals::CANCEL_OF_TURN, params![finish.turn, finish.ended_ms])?;
    let queued = outbox::insert_all(connection, &finish.replies, finish.ended_ms)?;
    Ok(Outcome::Finished { queued })
}

fn append(connection: &Connection, turn: TurnId, row: &Running, messages: &[Message]) -> Result<(), Failure> {
    for message in messages {
        let role = match message.role {
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        connection.run(
            "INSERT INTO messages(session, epoch, turn, role, blocks, created_ms) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
            params![row.session, row.epoch, turn, role, encode(&message.blocks)?, row.started_ms],
        )?;
    }
    Ok(())
}
