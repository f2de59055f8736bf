//! Sessions: their transcripts, /new, /undo and totals. Runs on the store thread.

use super::ops::{Done, Failure, Statements, decode};
use super::repair::{asks_something, repair};
use crate::core::record::Outcome;
use crate::core::types::{Block, InboxId, Message, Role, Usage};
use crate::limits;
use rusqlite::{Connection, OptionalExtension, Row, params};

pub(super) const TRANSCRIPT: &str = "SELECT id, role, blocks FROM messages WHERE session = ?1 AND epoch = ?2 ORDER BY id DESC";

/// How far behind the cut the question is looked for that the first kept message belongs to: one turn of the longest kind.
const LOOK_BACK_MESSAGES: usize = 2 * limits::ROUNDS_PER_TURN_MAX as usize + 16;

pub(super) struct Session {
    pub id: i64,
    pub epoch: i64,
}

fn find(connection: &Connection, name: &str) -> Result<Option<Session>, Failure> {
    let read = |row: &Row<'_>| Ok(Session { id: row.get(0)?, epoch: row.get(1)? });
    Ok(connection.read_row("SELECT id, epoch FROM sessions WHERE name = ?1", [name], read).optional()?)
}

/// The session of that name, made if there is none. Its epoch starts with its first turn.
pub(super) fn touch(connection: &Connection, name: &str, now_ms: i64) -> Result<Session, Failure> {
    let Some(session) = find(connection, name)? else {
        connection.run("INSERT INTO sessions(name, started_ms) VALUES(?1, ?2)", params![name, now_ms])?;
        return Ok(Session { id: connection.last_insert_rowid(), epoch: 0 });
    };
    // Changes a row once an epoch only: a page that is not touched is not written.
    connection.run("UPDATE sessions SET started_ms = ?2 WHERE id = ?1 AND started_ms = 0", [session.id, now_ms])?;
    Ok(session)
}

/// A provider's figures are its own: absurd ones must not overflow a sum.
fn tokens(count: u64) -> i64 {
    const TOKENS_MAX: u64 = 1 << 40;
    i64::try_from(count.min(TOKENS_MAX)).unwrap_or(0)
}

/// Tokens used after /new by a turn that began before it are not counted.
pub(super) fn add_usage(connection: &Connection, session: i64, epoch: i64, usage: Usage, turn_ended: bool) -> Result<(), Failure> {
    if usage == Usage::default() && !turn_ended {
        return Ok(());
    }
    connection.run(
        "UPDATE sessions SET turns = turns + ?3, input_tokens = input_tokens + ?4, output_tokens = output_tokens + ?5, \
         cache_read_tokens = cache_read_tokens + ?6, cache_write_tokens = cache_write_tokens + ?7 WHERE id = ?1 AND epoch = ?2",
        params![
            session,
            epoch,
            turn_ended,
            tokens(usage.input_tokens),
            tokens(usage.output_tokens),
            tokens(usage.cache_read_tokens),
            tokens(usage.cache_write_tokens)
        ],
    )?;
    Ok(())
}

pub(super) fn renew(connection: &Connection, name: &str) -> Done {
    connection.run(
        "UPDATE sessions SET epoch = epoch + 1, started_ms = 0, turns = 0, input_tokens = 0, output_tokens = 0, \
         cache_read_tokens = 0, cache_write_tokens = 0 WHERE name = ?1",
        [name],
    )?;
    Ok(Outcome::Done)
}

/// A message that cannot be read is left out with a log line; the repair closes the gap.
fn read_message(row: &Row<'_>) -> Result<Option<Message>, Failure> {
    let (id, role, blocks): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let role = if role == "assistant" { Role::Assistant } else { Role::User };
    match decode(&blocks, format_args!("message {id} of a transcript")) {
        Ok(blocks) => Ok(Some(Message { role, blocks })),
        Err(failure) => {
            log::error!(target: "store", "{}; leaving it out", super::StoreError::from(failure));
            Ok(None)
        }
    }
}

pub(super) fn load_transcript(connection: &Connection, name: &str, messages_max: usize) -> Done {
    let mut taken: Vec<Message> = Vec::new();
    if let Some(session) = find(connection, name)?.filter(|_| messages_max > 0) {
        let mut statement = connection.prepare_cached(TRANSCRIPT)?;
        let mut rows = statement.query([session.id, session.epoch])?;
        let (mut bytes, mut asked, mut looked) = (0_usize, false, 0_usize);
        while let Some(row) = rows.next()? {
            bytes = bytes.saturating_add(row.get_ref(2)?.as_bytes().map_or(0, <[u8]>::len));
            let full = taken.len() >= messages_max || (bytes > limits::TRANSCRIPT_BYTES_MAX && !taken.is_empty());
            looked += usize::from(full);
            if full && (asked || looked > LOOK_BACK_MESSAGES) {
                break;
            }
            let Some(message) = read_message(row)? else { continue };
            let question = asks_something(&message);
            // Behind the cut only the question is wanted that the kept messages answer.
            if !full || question {
                taken.push(message);
            }
            if full && question {
                break;
            }
            asked |= question;
        }
    }
    taken.reverse();
    Ok(Outcome::Transcript(repair(taken)))
}

/// The exchange is deleted, and in the same step the command's row is closed, or carries the text on: after a crash
/// neither is done twice. While the exchange's turn runs there is nothing to take back yet: `Fenced`.
pub(super) fn undo(connection: &Connection, name: &str, inbox: InboxId, retry: bool) -> Done {
    super::inbox::require_waiting(connection, inbox)?;
    let outcome = take_back(connection, name, retry)?;
    match &outcome {
        Outcome::Undone(Some(text)) if retry => super::inbox::replace_text(connection, inbox, text)?,
        Outcome::Undone(Some(_)) => {
            super::inbox::close(connection, inbox)?;
        }
        // Nothing was taken back; the row is closed with the answer that says so.
        _ => {}
    }
    Ok(outcome)
}

fn take_back(connection: &Connection, name: &str, retry: bool) -> Done {
    let Some(session) = find(connection, name)? else { return Ok(Outcome::Undone(None)) };
    let last = "SELECT turn FROM messages WHERE session = ?1 AND epoch = ?2 ORDER BY id DESC LIMIT 1";
    // A retry is for the turn that was given up, whatever was talked about since; its chat was told so.
    let given_up = "SELECT m.turn FROM messages m JOIN turns t ON t.id = m.turn \
                    WHERE m.session = ?1 AND m.epoch = ?2 AND t.state = 'interrupted' ORDER BY m.id DESC LIMIT 1";
    let mut found: Option<i64> = None;
    for sql in [Some(given_up).filter(|_| retry), Some(last)].into_iter().flatten() {
        if found.is_none() {
            found = connection.read_row(sql, [session.id, session.epoch], |row| row.get(0)).optional()?;
        }
    }
    let Some(turn) = found else { return Ok(Outcome::Undone(None)) };
    let running = "SELECT 1 FROM turns WHERE id = ?1 AND state = 'running'";
    if connection.read_row(running, [turn], |_| Ok(())).optional()?.is_some() {
        return Err(Failure::Fenced);
    }
    let text = text_of_user(connection, &session, turn)?;
    connection.run("DELETE FROM messages WHERE session = ?1 AND epoch = ?2 AND turn = ?3", params![session.id, session.epoch, turn])?;
    Ok(Outcome::Undone(Some(text)))
}

fn text_of_user(connection: &Connection, session: &Session, turn: i64) -> Result<String, Failure> {
    let sql = "SELECT id, role, blocks FROM messages WHERE session = ?1 AND epoch = ?2 AND turn = ?3 AND role = 'user' ORDER BY id LIMIT 1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([session.id, session.epoch, turn])?;
    let Some(row) = rows.next()? else { return Ok(String::new()) };
    let blocks = read_message(row)?.map(|message| message.blocks).unwrap_or_default();
    let texts: Vec<&str> =
        blocks.iter().filter_map(|block| if let Block::Text { text } = block { Some(text.as_str()) } else { None }).collect();
    Ok(texts.join("\n"))
}

const NOTE: &str = "note:";

pub(super) fn note(connection: &Connection, key: &str, value: Option<&str>) -> Done {
    let key = format!("{NOTE}{key}");
    match value {
        Some(value) => connection.run("INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)", [key.as_str(), value])?,
        None => connection.run("DELETE FROM meta WHERE key = ?1", [key])?,
    };
    Ok(Outcome::Done)
}

pub(super) fn notes(connection: &Connection) -> Result<Vec<(String, String)>, Failure> {
    let mut statement =
        connection.prepare_cached("SELECT substr(key, ?1), value FROM meta WHERE substr(key, 1, ?1 - 1) = ?2 ORDER BY key")?;
    let rows =
        statement.query_map(params![i64::try_from(NOTE.len() + 1).unwrap_or(i64::MAX), NOTE], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The conversation of a chat goes on under its new id, unless one has begun there already.
pub(super) fn move_chat(connection: &Connection, adapter: &str, old: &str, new: &str) -> Done {
    let (old, new) = (format!("{adapter}:{old}"), format!("{adapter}:{new}"));
    connection.run(
        "UPDATE OR IGNORE sessions SET name = ?2 || substr(name, length(?1) + 1) WHERE name = ?1 OR substr(name, 1, length(?1) + 1) = ?1 || '/'",
        [&old, &new],
    )?;
    Ok(Outcome::Done)
}

pub(super) fn load_usage(connection: &Connection, name: &str) -> Done {
    let sql = "SELECT input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, turns, \
               (SELECT count(*) FROM messages m WHERE m.session = s.id AND m.epoch = s.epoch), started_ms FROM sessions s WHERE name = ?1";
    let count = |row: &Row<'_>, column: usize| Ok::<u64, rusqlite::Error>(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0));
    let read = |row: &Row<'_>| {
        let usage = Usage {
            input_tokens: count(row, 0)?,
            output_tokens: count(row, 1)?,
            cache_read_tokens: count(row, 2)?,
            cache_write_tokens: count(row, 3)?,
        };
        Ok(Outcome::Usage { usage, turns: count(row, 4)?, messages: count(row, 5)?, started_ms: row.get(6)? })
    };
    let none = Outcome::Usage { usage: Usage::default(), turns: 0, messages: 0, started_ms: 0 };
    Ok(connection.read_row(sql, [name], read).optional()?.unwrap_or(none))
}
