//! The life of the process: starting, running, draining, leaving. And what a start finds of the last process.

use super::event::{Effect, Level, Lifecycle};
use super::record::{ApprovalState, Op, Recovered, RunningRow, TurnFinish, TurnState};
use super::types::{Message, Outbound, OutboundKind, Role, Usage};
use super::{Core, Pending, Turn, schedule};

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Running,
    /// Turns that run may finish until then; nothing new starts.
    Draining {
        due_ms: u64,
        code: u8,
    },
    /// Decided; control walks down the rest of the ladder.
    Leaving {
        code: u8,
    },
}

/// The process wants to be started again: `RestartForceExitStatus=` of the unit.
pub const EXIT_RESTART: u8 = 75;

impl Phase {
    pub(super) fn due_ms(self) -> Option<u64> {
        match self {
            Self::Draining { due_ms, .. } => Some(due_ms),
            _ => None,
        }
    }

    /// Nothing new may start.
    #[must_use]
    pub fn stopping(self) -> bool {
        matches!(self, Self::Draining { .. } | Self::Leaving { .. })
    }
}

/// Attempts at one turn over the lives of the process: the first, and one after an interruption.
const ATTEMPTS_MAX: u32 = 2;

impl Core {
    pub(super) fn recovered(&mut self, recovered: Recovered) {
        let Recovered { running, waiting, pending, approvals, jobs, notes, last_turn } = recovered;
        self.next_turn = self.next_turn.max(last_turn + 1);
        if self.phase == Phase::Starting {
            self.phase = Phase::Running;
        }
        if !(running.is_empty() && waiting.is_empty() && pending.is_empty()) {
            let text = format!(
                "{} turns were interrupted, {} messages accepted earlier are unanswered, {} replies unsent; resuming",
                running.len(),
                waiting.len(),
                pending.len()
            );
            self.log(Level::Info, "store", text);
        }
        self.take_notes(notes);
        self.recover_jobs(jobs);
        for row in pending {
            self.expect_delivery(row.outbox, row.chat, None, row.not_before_ms, row.attempts);
        }
        // The turns that asked are interrupted: they ask again if they still want to.
        for (approval, _) in approvals {
            let op = Op::Settle { approval, state: ApprovalState::Cancelled, by: None, now_ms: self.now.wall_ms };
            self.store(op, Pending::Note);
        }
        for row in running {
            self.recover_turn(row);
        }
        for row in waiting {
            self.enqueue_waiting(row);
        }
        if !self.phase.stopping() {
            self.start_adapters();
        }
    }

    fn recover_turn(&mut self, row: RunningRow) {
        // A scheduled run has no message to answer.
        let reply_to = schedule::job_of(&row.message_id).is_none().then(|| row.message_id.clone());
        let turn = Turn { reply_to: reply_to.clone(), preview: row.preview.clone(), ..Turn::new(&row.session, row.chat.clone()) };
        self.claim(&row.session, &row.chat, row.turn);
        self.turns.insert(row.turn, turn);
        if row.attempt < ATTEMPTS_MAX {
            // Counted before the attempt, so that a turn that kills the process is not tried for ever.
            self.store(Op::ResumeTurn { turn: row.turn, attempt: row.attempt + 1 }, Pending::Resume { turn: row.turn });
        } else {
            let text = "I was interrupted twice while working on your message and stopped trying. /retry makes me try again.";
            let reply = self.notice(&row.chat, text, reply_to);
            self.finish(TurnFinish {
                turn: row.turn,
                state: TurnState::Interrupted,
                messages: vec![Message::text(Role::Assistant, "[This turn was interrupted twice by the end of the gateway and given up.]")],
                replies: vec![Outbound { replaces: row.preview, ..reply }],
                usage: Usage::default(),
                ended_ms: self.now.wall_ms,
            });
        }
    }

    pub(super) fn notice(&self, chat: &super::ChatRef, text: &str, reply_to: Option<String>) -> Outbound {
        Outbound { chat: chat.clone(), kind: OutboundKind::Notice, text: text.to_owned(), reply_to, replaces: None, buttons: Vec::new() }
    }

    pub(super) fn lifecycle(&mut self, request: Lifecycle, asked_by: Option<&str>) {
        let (code, drain_ms, what) = match request {
            Lifecycle::Stop => (0, self.rules.drain_ms, "stopping"),
            Lifecycle::StopNow => (0, 0, "stopping now"),
            Lifecycle::Restart => (EXIT_RESTART, self.rules.restart_drain_ms, "restarting"),
        };
        match self.phase {
            Phase::Leaving { .. } => {}
            // A stop on top of a restart is a stop; the shorter of the two drains stands.
            Phase::Draining { due_ms, .. } => {
                let due_ms = due_ms.min(self.now.mono_ms + drain_ms);
                if request != Lifecycle::Restart {
                    self.phase = Phase::Draining { due_ms, code };
                }
            }
            Phase::Starting | Phase::Running => {
                self.phase = Phase::Draining { due_ms: self.now.mono_ms + drain_ms, code };
                self.effects.push(Effect::HaltInlets);
                if request != Lifecycle::StopNow {
                    self.announce_drain(request);
                }
                let sessions: Vec<&str> = self.turns.values().map(|turn| turn.session.as_str()).collect();
                let by = asked_by.map(|who| format!(", asked by {who}")).unwrap_or_default();
                let text = if sessions.is_empty() {
                    format!("{what}{by}")
                } else {
                    format!("{what}{by}; draining {} turns ({}) for up to {} s", sessions.len(), sessions.join(", "), drain_ms / 1000)
                };
                self.log(Level::Info, "control", text);
            }
        }
    }

    /// The drain ends when nothing is left to do, or its time is up. Work ends when the platform has the reply.
    pub(super) fn check_drain(&mut self) {
        let Phase::Draining { due_ms, code } = self.phase else { return };
        let busy = !self.turns.is_empty()
            || !self.unfinished.is_empty()
            || !self.pending.is_empty()
            || !self.refused.is_empty()
            || self.delivering();
        if !busy || self.now.mono_ms >= due_ms {
            if busy {
                self.log(Level::Warn, "control", "the drain's time is up; what was not finished is kept for the next start".to_owned());
            }
            self.phase = Phase::Leaving { code };
            self.effects.push(Effect::Leave { code });
        }
    }
}
