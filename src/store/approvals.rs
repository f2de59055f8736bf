//! Questions put to people. Runs on the store thread.

use super::ops::{Done, Failure, Statements, encode};
use super::{outbox, turns};
use crate::core::record::{ApprovalState, Outcome, Question};
use crate::core::types::{ApprovalId, Outbound};
use rusqlite::{Connection, OptionalExtension, params};

/// The condition repeats the index's, so that the index is used.
pub(super) const CANCEL_OF_TURN: &str = "UPDATE approvals SET state = 'cancelled', settled_ms = ?2 WHERE turn = ?1 AND state = 'pending'";

/// In the buttons' commands of a question's notice, this stands for the question's id.
const ID_PLACEHOLDER: &str = "{approval}";

pub(super) fn ask(connection: &Connection, question: &Question, now_ms: i64, notice: &Outbound) -> Done {
    turns::require_running(connection, question.turn)?;
    let sql = "INSERT INTO approvals(turn, state, asked_ms, body) VALUES(?1, 'pending', ?2, ?3)";
    connection.run(sql, params![question.turn, now_ms, encode(question)?])?;
    let approval = connection.last_insert_rowid();
    let mut notice = notice.clone();
    for (_, command) in &mut notice.buttons {
        *command = command.replace(ID_PLACEHOLDER, &approval.to_string());
    }
    let queued = outbox::insert(connection, &notice, now_ms)?;
    Ok(Outcome::Asked { approval, queued })
}

pub(super) fn settle(connection: &Connection, approval: ApprovalId, state: ApprovalState, by: Option<&str>, now_ms: i64) -> Done {
    let word = match state {
        ApprovalState::Pending => return Err(Failure::Bug(format!("question {approval} cannot be settled as pending"))),
        ApprovalState::Approved => "approved",
        ApprovalState::Denied => "denied",
        ApprovalState::Expired => "expired",
        ApprovalState::Cancelled => "cancelled",
    };
    let sql = "UPDATE approvals SET state = ?2, settled_by = ?3, settled_ms = ?4 WHERE id = ?1 AND state = 'pending'";
    if connection.run(sql, params![approval, word, by, now_ms])? == 1 {
        return Ok(Outcome::Settled { changed: true, state });
    }
    let known = connection.read_row("SELECT state FROM approvals WHERE id = ?1", [approval], |row| row.get::<_, String>(0)).optional()?;
    let state = match known.as_deref() {
        None => return Err(Failure::Fenced),
        Some("approved") => ApprovalState::Approved,
        Some("denied") => ApprovalState::Denied,
        Some("expired") => ApprovalState::Expired,
        Some("cancelled") => ApprovalState::Cancelled,
        Some(other) => return Err(Failure::Bug(format!("question {approval} has the unknown state {other:?}"))),
    };
    Ok(Outcome::Settled { changed: false, state })
}
