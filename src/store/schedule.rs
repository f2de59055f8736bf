//! Scheduled jobs and their runs. Runs on the store thread.
//!
//! A run is written together with what it begins: the message that waits for its turn, or the message that is sent. It
//! ends with that message, in the same step; so after a crash it is neither lost nor done twice, and always ends.

use super::ops::{Done, Failure, decode, encode, one};
use super::outbox;
use crate::core::record::{JobRow, Outcome, RunRow, RunStart, RunState, RunWhat, TurnState};
use crate::core::schedule::Job;
use crate::core::types::{InboxId, JobId, TurnId};
use crate::limits;
use rusqlite::{Connection, OptionalExtension, Row, params};

pub(super) const JOBS: &str = "SELECT id, state, last_slot_ms, body FROM jobs WHERE state <> 'ended' ORDER BY id";
/// The conditions repeat the indexes', so that the indexes are used.
pub(super) const CLOSE_OF_TURN: &str = "UPDATE runs INDEXED BY runs_started SET state = ?2, ended_ms = ?3 \
     WHERE state = 'started' AND inbox IN (SELECT id FROM inbox WHERE turn = ?1 AND state <> 'done')";

const RUNS_KEPT: i64 = limits::JOB_RUNS_KEPT as i64;
const ENDED_KEPT: i64 = limits::JOBS_ENDED_KEPT as i64;

pub(super) fn add(connection: &Connection, job: &Job, request: Option<&str>) -> Done {
    if let Some(request) = request {
        let known = connection.query_row("SELECT id FROM jobs WHERE request = ?1", [request], |row| row.get(0)).optional()?;
        if let Some(job) = known {
            return Ok(Outcome::JobAdded { job });
        }
    }
    connection.execute(
        "INSERT INTO jobs(state, created_ms, last_slot_ms, request, body) VALUES('active', ?1, ?1, ?2, ?3)",
        params![job.created_ms, request, encode(job)?],
    )?;
    Ok(Outcome::JobAdded { job: connection.last_insert_rowid() })
}

/// What came due in a pause is not made up for.
pub(super) fn pause(connection: &Connection, job: JobId, paused: bool, now_ms: i64) -> Done {
    let sql = "UPDATE jobs SET last_slot_ms = CASE WHEN state = 'paused' AND ?2 = 'active' THEN max(last_slot_ms, ?3) ELSE last_slot_ms END, \
               state = ?2 WHERE id = ?1 AND state <> 'ended'";
    one(connection.execute(sql, params![job, if paused { "paused" } else { "active" }, now_ms])?)?;
    Ok(Outcome::Done)
}

pub(super) fn remove(connection: &Connection, job: JobId) -> Done {
    one(connection.execute("DELETE FROM jobs WHERE id = ?1", [job])?)?;
    connection.execute("DELETE FROM runs WHERE job = ?1", [job])?;
    Ok(Outcome::Done)
}

pub(super) fn start(connection: &Connection, start: &RunStart) -> Done {
    if let Some(request) = &start.request {
        let known: Option<i64> = connection.query_row("SELECT id FROM runs WHERE request = ?1", [request], |row| row.get(0)).optional()?;
        if known.is_some() {
            return Ok(Outcome::RunStarted { inbox: None, queued: None });
        }
    }
    match start.slot_ms {
        Some(slot_ms) => one(connection.execute(
            "UPDATE jobs SET last_slot_ms = ?2, state = CASE WHEN ?3 THEN 'ended' ELSE state END \
             WHERE id = ?1 AND state = 'active' AND last_slot_ms < ?2",
            params![start.job, slot_ms, start.last],
        )?)?,
        // Changes nothing: whether the job is there.
        None => one(connection.execute("UPDATE jobs SET state = state WHERE id = ?1 AND state <> 'ended'", [start.job])?)?,
    }
    let at_work = "SELECT EXISTS(SELECT 1 FROM runs WHERE job = ?1 AND state = 'started')";
    let at_work: bool = connection.query_row(at_work, [start.job], |row| row.get(0))?;
    let (mut state, mut detail, mut inbox, mut queued) = ("done", None, None, None);
    match &start.what {
        RunWhat::Ask(_) if at_work => (state, detail) = ("skipped", Some("the run before is still at work")),
        RunWhat::Ask(inbound) => {
            // Its key against duplicates is the run's own.
            let sql = "INSERT INTO inbox(state, received_ms, body) VALUES('waiting', ?1, ?2)";
            connection.execute(sql, params![start.now_ms, encode(inbound)?])?;
            (state, inbox) = ("started", Some(connection.last_insert_rowid()));
        }
        RunWhat::Say(message) => queued = Some(outbox::insert(connection, message, start.now_ms)?),
        RunWhat::Skip(why) => (state, detail) = ("skipped", Some(why.as_str())),
    }
    let ended_ms = inbox.is_none().then_some(start.now_ms);
    connection.execute(
        "INSERT INTO runs(job, slot_ms, state, inbox, started_ms, ended_ms, detail, request) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![start.job, start.slot_ms, state, inbox, start.now_ms, ended_ms, detail, start.request],
    )?;
    forget_old(connection, start)?;
    Ok(Outcome::RunStarted { inbox, queued })
}

/// The history has an end. A run that is not finished stays.
fn forget_old(connection: &Connection, start: &RunStart) -> Result<(), Failure> {
    connection.execute(
        "DELETE FROM runs WHERE job = ?1 AND state <> 'started' AND id NOT IN (SELECT id FROM runs WHERE job = ?1 ORDER BY id DESC LIMIT ?2)",
        params![start.job, RUNS_KEPT],
    )?;
    if start.last {
        let ended = "SELECT id FROM jobs WHERE state = 'ended' ORDER BY id DESC LIMIT -1 OFFSET ?1";
        connection.execute(&format!("DELETE FROM runs WHERE job IN ({ended})"), [ENDED_KEPT])?;
        connection.execute(&format!("DELETE FROM jobs WHERE id IN ({ended})"), [ENDED_KEPT])?;
    }
    Ok(())
}

/// The run ends as its turn does.
pub(super) fn close_of_turn(connection: &Connection, turn: TurnId, state: TurnState, ended_ms: i64) -> Result<(), Failure> {
    let state = match state {
        TurnState::Running => return Ok(()),
        TurnState::Done => "done",
        TurnState::Failed => "failed",
        TurnState::Cancelled | TurnState::Interrupted => "interrupted",
    };
    connection.execute(CLOSE_OF_TURN, params![turn, state, ended_ms])?;
    Ok(())
}

/// Its message was dropped before it had a turn.
pub(super) fn close_of_message(connection: &Connection, inbox: InboxId) -> Result<(), Failure> {
    let sql = "UPDATE runs SET state = 'interrupted', ended_ms = started_ms WHERE inbox = ?1 AND state = 'started'";
    connection.execute(sql, [inbox])?;
    Ok(())
}

pub(super) fn move_chat(connection: &Connection, adapter: &str, old: &str, new: &str) -> Result<(), Failure> {
    let mut statement = connection.prepare("SELECT id, body FROM jobs WHERE state <> 'ended'")?;
    let rows: Vec<(JobId, String)> = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (id, body) in rows {
        let mut job: Job = decode(&body, format_args!("job {id}"))?;
        if job.chat.adapter == adapter && job.chat.chat == old {
            new.clone_into(&mut job.chat.chat);
            connection.execute("UPDATE jobs SET body = ?2 WHERE id = ?1", params![id, encode(&job)?])?;
        }
    }
    Ok(())
}

pub(super) fn job(row: &Row<'_>) -> Result<JobRow, Failure> {
    let id = row.get(0)?;
    let paused = row.get::<_, String>(1)? == "paused";
    Ok(JobRow { id, job: decode(&row.get::<_, String>(3)?, format_args!("job {id}"))?, paused, last_slot_ms: row.get(2)? })
}

pub(super) fn last_runs(connection: &Connection) -> Done {
    let sql = "SELECT job, state, started_ms, detail FROM runs WHERE id IN (SELECT max(id) FROM runs GROUP BY job)";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(())?;
    let mut runs = Vec::new();
    while let Some(row) = rows.next()? {
        let state = match row.get::<_, String>(1)?.as_str() {
            "started" => RunState::Started,
            "done" => RunState::Done,
            "failed" => RunState::Failed,
            "skipped" => RunState::Skipped,
            _ => RunState::Interrupted,
        };
        runs.push(RunRow { job: row.get(0)?, state, started_ms: row.get(2)?, detail: row.get(3)? });
    }
    Ok(Outcome::LastRuns(runs))
}
