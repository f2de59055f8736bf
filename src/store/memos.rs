//! What adapters remember over the end of the process. Runs on the store thread.

use super::ops::{Done, Failure, Statements};
use crate::core::record::Outcome;
use crate::core::types::Memo;
use crate::limits;
use rusqlite::{Connection, OptionalExtension, params};

/// Writes memos; the oldest ones of all adapters make room.
pub(super) fn remember(connection: &Connection, adapter: &str, memos: &[Memo]) -> Result<(), Failure> {
    for Memo { key, value } in memos {
        let value = value.as_ref().filter(|value| {
            let fits = key.len() + value.len() <= limits::MEMO_BYTES_MAX;
            if !fits {
                log::warn!(target: "store", "{adapter}: a memo of {} bytes is not kept", value.len());
            }
            fits
        });
        let Some(value) = value else {
            connection.run("DELETE FROM memos WHERE adapter = ?1 AND key = ?2", [adapter, key])?;
            continue;
        };
        // Replacing gives it a new id.
        connection.run("INSERT OR REPLACE INTO memos(adapter, key, value) VALUES(?1, ?2, ?3)", [adapter, key, value])?;
        connection.run("DELETE FROM memos WHERE id <= ?1", params![connection.last_insert_rowid() - limits::MEMOS_MAX])?;
    }
    Ok(())
}

pub(super) fn recall(connection: &Connection, adapter: &str, key: &str) -> Done {
    let sql = "SELECT value FROM memos WHERE adapter = ?1 AND key = ?2";
    Ok(Outcome::Memo(connection.read_row(sql, [adapter, key], |row| row.get(0)).optional()?))
}
