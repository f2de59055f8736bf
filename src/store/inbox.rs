//! Accepted messages and the adapters' cursors. Runs on the store thread.

use super::ops::{Done, Failure, Statements, decode, encode, one};
use super::{memos, turns};
use crate::core::record::{Outcome, TurnStart};
use crate::core::types::{Inbound, InboxId, Receipt};
use rusqlite::{Connection, OptionalExtension, params};

pub(super) fn accept(
    connection: &Connection,
    inbound: &Inbound,
    receipt: Option<&Receipt>,
    received_ms: i64,
    begin: Option<&TurnStart>,
    done: bool,
) -> Done {
    if let Some(cursor) = receipt.and_then(|receipt| receipt.cursor.as_ref()) {
        set_cursor(connection, &inbound.chat.adapter, cursor)?;
    }
    if let Some(receipt) = receipt {
        memos::remember(connection, &inbound.chat.adapter, &receipt.memos)?;
    }
    let chat = chat_number(connection, &inbound.chat.adapter, &inbound.chat.chat)?;
    let seen = "SELECT inbox FROM seen WHERE chat = ?1 AND message_id = ?2";
    if let Some(inbox) = connection.read_row(seen, params![chat, inbound.message_id], |row| row.get(0)).optional()? {
        return Ok(Outcome::Duplicate { inbox });
    }
    let (state, turn) = match begin {
        Some(start) => ("running", Some(start.turn)),
        None if done => ("done", None),
        None => ("waiting", None),
    };
    connection.run(
        "INSERT INTO inbox(state, turn, received_ms, body) VALUES(?1, ?2, ?3, ?4)",
        params![state, turn, received_ms, encode(inbound)?],
    )?;
    let inbox = connection.last_insert_rowid();
    connection.run("INSERT INTO seen(chat, message_id, inbox) VALUES(?1, ?2, ?3)", params![chat, inbound.message_id, inbox])?;
    if let Some(start) = begin {
        turns::insert(connection, start, inbox)?;
    }
    Ok(Outcome::Accepted { inbox })
}

fn chat_number(connection: &Connection, adapter: &str, chat: &str) -> Result<i64, Failure> {
    let known = "SELECT id FROM chats WHERE adapter = ?1 AND chat = ?2";
    if let Some(number) = connection.read_row(known, [adapter, chat], |row| row.get(0)).optional()? {
        return Ok(number);
    }
    connection.run("INSERT INTO chats(adapter, chat) VALUES(?1, ?2)", [adapter, chat])?;
    Ok(connection.last_insert_rowid())
}

/// The cursor is the adapter's own word: it cannot be compared, so the last one handed in stands.
pub(super) fn set_cursor(connection: &Connection, adapter: &str, cursor: &str) -> Done {
    connection.run(
        "INSERT INTO cursors(adapter, cursor) VALUES(?1, ?2) ON CONFLICT(adapter) DO UPDATE SET cursor = excluded.cursor",
        [adapter, cursor],
    )?;
    Ok(Outcome::Done)
}

pub(super) fn load_cursor(connection: &Connection, adapter: &str) -> Done {
    let cursor = connection.read_row("SELECT cursor FROM cursors WHERE adapter = ?1", [adapter], |row| row.get(0)).optional()?;
    Ok(Outcome::Cursor(cursor))
}

/// `Fenced` unless the message is waiting.
pub(super) fn require_waiting(connection: &Connection, inbox: InboxId) -> Result<(), Failure> {
    let sql = "SELECT 1 FROM inbox WHERE id = ?1 AND state = 'waiting'";
    connection.read_row(sql, [inbox], |_| Ok(())).optional()?.ok_or(Failure::Fenced)
}

/// Gives a waiting message another text: a /retry becomes the message that it repeats.
pub(super) fn replace_text(connection: &Connection, inbox: InboxId, text: &str) -> Result<(), Failure> {
    let sql = "SELECT body FROM inbox WHERE id = ?1 AND state = 'waiting'";
    let body: Option<String> = connection.read_row(sql, [inbox], |row| row.get(0)).optional()?;
    let mut inbound: Inbound = decode(&body.ok_or(Failure::Fenced)?, format_args!("inbox row {inbox}"))?;
    text.clone_into(&mut inbound.text);
    // In a group the text begins with the name already.
    inbound.private = true;
    one(connection.run("UPDATE inbox SET body = ?2 WHERE id = ?1", params![inbox, encode(&inbound)?])?)
}

/// Closing what is closed already is no error: the wish is fulfilled. The message of a turn is closed by its turn.
pub(super) fn close(connection: &Connection, inbox: InboxId) -> Done {
    let state: Option<String> = connection.read_row("SELECT state FROM inbox WHERE id = ?1", [inbox], |row| row.get(0)).optional()?;
    if state.as_deref() != Some("done") {
        one(connection.run("UPDATE inbox SET state = 'done' WHERE id = ?1 AND state = 'waiting'", [inbox])?)?;
        super::schedule::close_of_message(connection, inbox)?;
    }
    Ok(Outcome::Done)
}
