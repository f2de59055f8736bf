//! Outbound messages, from queued to sent or given up. Runs on the store thread.
//!
//! A message is sent in parts. Before each part `mark_sending` is committed, after it `mark_part_sent`; a row found in
//! between has a part of which nobody knows whether it arrived. That doubt stays with the part until it is sent.

use super::ops::{Done, Failure, Statements, decode, encode, one};
use crate::core::record::{OutboxRow, OutboxState, Outcome};
use crate::core::types::{Outbound, OutboxId};
use rusqlite::{Connection, OptionalExtension, params};

pub(super) fn enqueue(connection: &Connection, messages: &[Outbound], dedupe: Option<&str>, now_ms: i64) -> Done {
    if let Some(key) = dedupe {
        let sql = "INSERT INTO enqueued(key, enqueued_ms) VALUES(?1, ?2) ON CONFLICT(key) DO NOTHING";
        if connection.run(sql, params![key, now_ms])? == 0 {
            return Ok(Outcome::Queued(Vec::new()));
        }
    }
    Ok(Outcome::Queued(insert_all(connection, messages, now_ms)?))
}

pub(super) fn insert_all(connection: &Connection, messages: &[Outbound], now_ms: i64) -> Result<Vec<OutboxId>, Failure> {
    messages.iter().map(|message| insert(connection, message, now_ms)).collect()
}

/// The idempotency key comes from SQLite's generator, which the operating system seeds.
pub(super) fn insert(connection: &Connection, message: &Outbound, now_ms: i64) -> Result<OutboxId, Failure> {
    connection.run(
        "INSERT INTO outbox(state, created_ms, key, body) VALUES('pending', ?1, lower(hex(randomblob(16))), ?2)",
        params![now_ms, encode(message)?],
    )?;
    Ok(connection.last_insert_rowid())
}

/// The part of a row that the transitions look at.
struct Progress {
    state: OutboxState,
    part: Option<u32>,
    doubtful: bool,
    sent_parts: Vec<String>,
}

impl Progress {
    fn load(connection: &Connection, outbox: OutboxId) -> Result<Self, Failure> {
        let sql = "SELECT state, part, doubtful, sent_parts FROM outbox WHERE id = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get::<_, String>(3)?));
        let (state, part, doubtful, sent_parts) = connection.read_row(sql, [outbox], read).optional()?.ok_or(Failure::Fenced)?;
        let sent_parts = decode(&sent_parts, format_args!("sent parts of outbox row {outbox}"))?;
        Ok(Self { state: state_of(&state, outbox)?, part, doubtful, sent_parts })
    }

    fn open(&self) -> bool {
        matches!(self.state, OutboxState::Pending | OutboxState::Sending)
    }

    fn next_part(&self) -> Option<u32> {
        u32::try_from(self.sent_parts.len()).ok()
    }
}

fn state_of(word: &str, outbox: OutboxId) -> Result<OutboxState, Failure> {
    match word {
        "pending" => Ok(OutboxState::Pending),
        "sending" => Ok(OutboxState::Sending),
        "sent" => Ok(OutboxState::Sent),
        "failed" => Ok(OutboxState::Failed),
        other => Err(Failure::Bug(format!("outbox row {outbox} has the unknown state {other:?}"))),
    }
}

/// The first part that was not sent, and the row with it: a message is on its way after one commit, not after a look at
/// the row and a commit.
pub(super) fn begin_sending(connection: &Connection, outbox: OutboxId) -> Done {
    let loaded = load(connection, outbox)?;
    if let Outcome::Outbox(Some(row)) = &loaded
        && matches!(row.state, OutboxState::Pending | OutboxState::Sending)
    {
        set_sending(connection, outbox, u32::try_from(row.sent_parts.len()).unwrap_or(u32::MAX), row.ambiguous)?;
    }
    Ok(loaded)
}

/// The attempt is counted before it is made, so that a crash cannot hide it.
fn set_sending(connection: &Connection, outbox: OutboxId, part: u32, attempted_before: bool) -> Result<(), Failure> {
    let sql = "UPDATE outbox SET state = 'sending', part = ?2, doubtful = ?3, attempts = attempts + 1 WHERE id = ?1";
    one(connection.run(sql, params![outbox, part, attempted_before])?)
}

pub(super) fn mark_sending(connection: &Connection, outbox: OutboxId, part: u32) -> Done {
    let progress = Progress::load(connection, outbox)?;
    if !progress.open() || progress.next_part() != Some(part) {
        return Err(Failure::Fenced);
    }
    let attempted_before = progress.doubtful || (progress.state == OutboxState::Sending && progress.part == Some(part));
    set_sending(connection, outbox, part, attempted_before)?;
    Ok(Outcome::Sending { attempted_before })
}

/// What has reached the platform is noted even if the row was given up meanwhile; noting it twice changes nothing.
pub(super) fn mark_part_sent(connection: &Connection, outbox: OutboxId, part: u32, platform_id: &str, last: bool) -> Done {
    let mut progress = Progress::load(connection, outbox)?;
    match progress.next_part() {
        Some(next) if part < next => return Ok(Outcome::Done),
        Some(next) if part == next => (),
        _ => return Err(Failure::Fenced),
    }
    progress.sent_parts.push(platform_id.to_owned());
    let state = match progress.state {
        OutboxState::Failed if !last => "failed",
        _ if last => "sent",
        _ => "pending",
    };
    connection.run(
        "UPDATE outbox SET state = ?2, part = NULL, doubtful = 0, attempts = CASE ?3 WHEN 1 THEN attempts ELSE 0 END, \
         not_before_ms = 0, error = CASE ?2 WHEN 'failed' THEN error END, sent_parts = ?4 WHERE id = ?1",
        params![outbox, state, last, encode(&progress.sent_parts)?],
    )?;
    Ok(Outcome::Done)
}

pub(super) fn mark_retry(connection: &Connection, outbox: OutboxId, not_before_ms: i64, error: &str) -> Done {
    let sql = "UPDATE outbox SET state = 'pending', part = NULL, not_before_ms = ?2, error = ?3 \
               WHERE id = ?1 AND state = 'sending'";
    one(connection.run(sql, params![outbox, not_before_ms, error])?)?;
    Ok(Outcome::Done)
}

pub(super) fn mark_failed(connection: &Connection, outbox: OutboxId, error: &str) -> Done {
    let sql = "UPDATE outbox SET state = 'failed', error = ?2 WHERE id = ?1 AND state <> 'sent'";
    one(connection.run(sql, params![outbox, error])?)?;
    Ok(Outcome::Done)
}

pub(super) fn load(connection: &Connection, outbox: OutboxId) -> Done {
    let sql = "SELECT state, doubtful, attempts, not_before_ms, created_ms, key, sent_parts, error, body FROM outbox WHERE id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([outbox])?;
    let Some(row) = rows.next()? else { return Ok(Outcome::Outbox(None)) };
    let state = state_of(&row.get::<_, String>(0)?, outbox)?;
    let loaded = OutboxRow {
        id: outbox,
        message: decode(&row.get::<_, String>(8)?, format_args!("outbox row {outbox}"))?,
        state,
        sent_parts: decode(&row.get::<_, String>(6)?, format_args!("sent parts of outbox row {outbox}"))?,
        ambiguous: state == OutboxState::Sending || (state == OutboxState::Pending && row.get(1)?),
        key: row.get(5)?,
        attempts: row.get(2)?,
        not_before_ms: row.get(3)?,
        created_ms: row.get(4)?,
        error: row.get(7)?,
    };
    Ok(Outcome::Outbox(Some(Box::new(loaded))))
}

/// What is not delivered yet goes to the chat's new id. The old id stays known to the guard against duplicates.
pub(super) fn move_chat(connection: &Connection, adapter: &str, old: &str, new: &str) -> Done {
    let mut statement = connection.prepare_cached("SELECT id, body FROM outbox WHERE state IN ('pending', 'sending')")?;
    let rows: Vec<(i64, String)> = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (id, body) in rows {
        let mut message: Outbound = decode(&body, format_args!("outbox row {id}"))?;
        if message.chat.adapter == adapter && message.chat.chat == old {
            new.clone_into(&mut message.chat.chat);
            connection.run("UPDATE outbox SET body = ?2 WHERE id = ?1", params![id, encode(&message)?])?;
        }
    }
    super::schedule::move_chat(connection, adapter, old, new)?;
    super::sessions::move_chat(connection, adapter, old, new)
}
