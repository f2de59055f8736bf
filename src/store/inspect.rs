//! A look at the database from outside, for `doctor`: reads only, and only while no gateway has it open.

use crate::clock::Deadline;
use crate::thread::{CancelToken, Threads, enter};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the look has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is none yet.
    Absent,
    Intact,
    /// No damage was found in the time that there was.
    IntactSoFar,
    Damaged(String),
}

/// Checks the database for damage, until the deadline at the latest.
///
/// # Errors
/// Why it cannot be looked at.
pub fn inspect(path: &Path, threads: &Threads, deadline: Deadline) -> Result<Condition, String> {
    if !path.exists() {
        return Ok(Condition::Absent);
    }
    let (sender, result) = crossbeam_channel::bounded(1);
    let (handles, handle) = crossbeam_channel::bounded(1);
    let path = PathBuf::from(path);
    let body = move |_: &CancelToken| {
        let _busy = enter(format_args!("checking {}", path.display()), deadline);
        let _ = sender.try_send(look(&path, &|interrupt| {
            let _ = handles.try_send(interrupt);
        }));
    };
    threads.spawn("inspect", 0, CancelToken::new(), |_| (), body).map_err(|error| error.to_string())?;
    if let Ok(found) = result.recv_deadline(deadline.instant()) {
        return found;
    }
    if let Ok(interrupt) = handle.try_recv() {
        interrupt.interrupt();
    }
    result.recv_timeout(Duration::from_secs(1)).unwrap_or_else(|_| Err("the disk does not answer".to_owned()))
}

fn look(path: &Path, opened: &dyn Fn(rusqlite::InterruptHandle)) -> Result<Condition, String> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| error.to_string())?;
    opened(connection.get_interrupt_handle());
    connection.busy_timeout(Duration::from_millis(500)).map_err(|error| error.to_string())?;
    match connection.query_row("PRAGMA quick_check(1)", (), |row| row.get::<_, String>(0)) {
        Ok(answer) if answer == "ok" => Ok(Condition::Intact),
        Ok(detail) => Ok(Condition::Damaged(detail.replace('\n', " "))),
        Err(error) => match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => Ok(Condition::IntactSoFar),
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => Ok(Condition::Damaged(error.to_string())),
            _ => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_in_all_conditions() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let path = scratch.path().join("state.db");
        let threads = Threads::new();
        let check = || inspect(&path, &threads, Deadline::after(Duration::from_secs(20)));
        assert_eq!(check(), Ok(Condition::Absent));
        let connection = Connection::open(&path).expect("opens");
        connection.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").expect("written");
        drop(connection);
        assert_eq!(check(), Ok(Condition::Intact));
        std::fs::write(&path, "not a database, and long enough to be looked at: ".repeat(100)).expect("written");
        assert!(matches!(check(), Ok(Condition::Damaged(_))));
    }
}
