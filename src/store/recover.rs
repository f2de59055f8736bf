//! What the last process left unfinished. Runs on the store thread.
//!
//! Reading alone: what is to be done about it is core's decision. A row that cannot be read is logged and left where
//! it is, so that one damaged row does not keep the gateway from starting.

use super::ops::{Done, Failure, decode};
use crate::core::record::{Outcome, PendingRow, Question, Recovered, RunningRow, WaitingRow};
use crate::core::types::{Inbound, Outbound};
use rusqlite::{Connection, Row};

pub(super) const RUNNING: &str = "SELECT t.id, s.name, t.inbox, t.attempt, t.started_ms, t.preview, i.body FROM turns t \
     JOIN sessions s ON s.id = t.session LEFT JOIN inbox i ON i.id = t.inbox WHERE t.state = 'running' ORDER BY t.id";
pub(super) const WAITING: &str = "SELECT id, body FROM inbox WHERE state <> 'done' AND turn IS NULL ORDER BY id";
pub(super) const PENDING: &str = "SELECT id, not_before_ms, attempts, body FROM outbox WHERE state IN ('pending', 'sending') ORDER BY id";
pub(super) const APPROVALS: &str = "SELECT id, body FROM approvals INDEXED BY approvals_open WHERE state = 'pending' ORDER BY id";

pub(super) fn recover(connection: &Connection) -> Done {
    let last_turn = connection.query_row("SELECT coalesce(max(id), 0) FROM turns", (), |row| row.get(0))?;
    Ok(Outcome::Recovered(Box::new(Recovered {
        running: readable(connection, RUNNING, running)?,
        waiting: readable(connection, WAITING, waiting)?,
        pending: readable(connection, PENDING, pending)?,
        approvals: readable(connection, APPROVALS, |row| {
            let id = row.get(0)?;
            Ok((id, decode::<Question>(&row.get::<_, String>(1)?, format_args!("question {id}"))?))
        })?,
        jobs: readable(connection, super::schedule::JOBS, super::schedule::job)?,
        notes: super::sessions::notes(connection)?,
        last_turn,
    })))
}

fn readable<T>(connection: &Connection, sql: &str, read: impl Fn(&Row<'_>) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(())?;
    let mut list = Vec::new();
    while let Some(row) = rows.next()? {
        match read(row) {
            Ok(item) => list.push(item),
            Err(Failure::Bug(text)) => log::error!(target: "store", "{text}; leaving it where it is"),
            Err(failure) => return Err(failure),
        }
    }
    Ok(list)
}

fn running(row: &Row<'_>) -> Result<RunningRow, Failure> {
    let turn = row.get(0)?;
    let body = row.get::<_, Option<String>>(6)?;
    let inbound: Inbound = match body {
        Some(body) => decode(&body, format_args!("the message that began turn {turn}"))?,
        None => return Err(Failure::Bug(format!("the message that began turn {turn} is gone"))),
    };
    Ok(RunningRow {
        turn,
        session: row.get(1)?,
        inbox: row.get(2)?,
        attempt: row.get(3)?,
        started_ms: row.get(4)?,
        preview: row.get(5)?,
        chat: inbound.chat,
        message_id: inbound.message_id,
        sender: inbound.sender,
    })
}

fn waiting(row: &Row<'_>) -> Result<WaitingRow, Failure> {
    let inbox = row.get(0)?;
    Ok(WaitingRow { inbox, inbound: decode(&row.get::<_, String>(1)?, format_args!("inbox row {inbox}"))? })
}

fn pending(row: &Row<'_>) -> Result<PendingRow, Failure> {
    let outbox = row.get(0)?;
    let message: Outbound = decode(&row.get::<_, String>(3)?, format_args!("outbox row {outbox}"))?;
    Ok(PendingRow { outbox, chat: message.chat, not_before_ms: row.get(1)?, attempts: row.get(2)? })
}
