//! Figures, and deleting what is old. Runs on the store thread.
//!
//! Deleting goes in slices, so that a message never waits for it: the operation does the first slice, the thread does
//! the others while it has nothing else to do. The newest row of each table stays, so that no id is given out twice.

use super::ops::{Done, Failure};
use crate::core::record::{Figures, Outcome};
use crate::limits;
use rusqlite::Connection;

pub(super) const COUNT_WAITING: &str = "SELECT count(*) FROM inbox WHERE state <> 'done' AND turn IS NULL";
pub(super) const COUNT_PENDING: &str = "SELECT count(*) FROM outbox WHERE state IN ('pending', 'sending')";
pub(super) const COUNT_DEAD: &str = "SELECT count(*) FROM outbox WHERE state = 'failed'";

/// Size of the database file, and of the log beside it.
pub(super) fn bytes(connection: &Connection) -> Result<u64, Failure> {
    let pages = number(connection, "PRAGMA page_count")?;
    let page = number(connection, "PRAGMA page_size")?;
    let log = connection.path().map(|path| format!("{path}-wal")).and_then(|path| std::fs::metadata(path).ok());
    Ok(pages * page + log.map_or(0, |log| log.len()))
}

fn number(connection: &Connection, sql: &str) -> Result<u64, Failure> {
    let number: i64 = connection.query_row(sql, (), |row| row.get(0))?;
    Ok(u64::try_from(number).unwrap_or(0))
}

pub(super) fn figures(connection: &Connection) -> Done {
    Ok(Outcome::Figures(Figures {
        inbox_waiting: number(connection, COUNT_WAITING)?,
        outbox_pending: number(connection, COUNT_PENDING)?,
        dead_letters: number(connection, COUNT_DEAD)?,
        store_bytes: bytes(connection)?,
    }))
}

/// What of a table may go: rows before `before_ms` by `time` that fulfil `condition`.
struct Prunable {
    table: &'static str,
    time: &'static str,
    condition: &'static str,
}

const PRUNABLE: [Prunable; 5] = [
    Prunable { table: "inbox", time: "received_ms", condition: "state = 'done'" },
    Prunable { table: "messages", time: "created_ms", condition: "turn NOT IN (SELECT id FROM turns WHERE state = 'running')" },
    Prunable { table: "turns", time: "started_ms", condition: "state <> 'running'" },
    Prunable { table: "outbox", time: "created_ms", condition: "state IN ('sent', 'failed')" },
    Prunable { table: "approvals", time: "asked_ms", condition: "state <> 'pending'" },
];

/// Deletes one slice. → whether there is more to do.
pub(super) fn prune(connection: &Connection, before_ms: i64) -> Result<bool, Failure> {
    let mut more = false;
    for prunable in &PRUNABLE {
        more |= prune_table(connection, prunable, before_ms)?;
    }
    // A session without messages is nothing but its totals.
    connection.execute(
        "DELETE FROM sessions WHERE started_ms < ?1 AND NOT EXISTS(SELECT 1 FROM messages m WHERE m.session = sessions.id) \
         AND NOT EXISTS(SELECT 1 FROM turns t WHERE t.session = sessions.id AND t.state = 'running')",
        [before_ms],
    )?;
    Ok(more | shrink(connection)?)
}

/// Rows are looked at in the order of their ids, which is the order of time but for jumps of the clock: the first
/// young row ends the search, so that a slice costs no more than what it finds.
fn prune_table(connection: &Connection, prunable: &Prunable, before_ms: i64) -> Result<bool, Failure> {
    let Prunable { table, time, condition } = prunable;
    let newest: Option<i64> = connection.query_row(&format!("SELECT max(id) FROM {table}"), (), |row| row.get(0))?;
    let mut old = Vec::new();
    {
        let mut statement = connection.prepare(&format!("SELECT id, {time} < ?1, {condition} FROM {table} ORDER BY id"))?;
        let mut rows = statement.query([before_ms])?;
        while let Some(row) = rows.next()? {
            let (id, aged, closed): (i64, bool, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if !aged || Some(id) == newest || old.len() == limits::STORE_PRUNE_ROWS {
                break;
            }
            if closed {
                old.push(id);
            }
        }
    }
    let mut delete = connection.prepare(&format!("DELETE FROM {table} WHERE id = ?1"))?;
    for id in &old {
        delete.execute([id])?;
    }
    if *table == "inbox" {
        // The answer to a command that is gone cannot be given twice any more.
        let mut delete = connection.prepare("DELETE FROM enqueued WHERE key = 'inbox:' || ?1")?;
        for id in &old {
            delete.execute([id])?;
        }
    }
    Ok(old.len() == limits::STORE_PRUNE_ROWS)
}

/// Gives free pages back to the file system, once they are worth it. → whether there is more to do.
fn shrink(connection: &Connection) -> Result<bool, Failure> {
    let free = number(connection, "PRAGMA freelist_count")?;
    let pages = number(connection, "PRAGMA page_count")?;
    if free < limits::STORE_FREE_PAGES_MAX || free * 4 < pages {
        return Ok(false);
    }
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({})", limits::STORE_FREE_PAGES_MAX))?;
    let mut rows = statement.query(())?;
    while rows.next()?.is_some() {}
    Ok(free > 2 * limits::STORE_FREE_PAGES_MAX)
}
