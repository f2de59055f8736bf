//! Sessions and turns: one queue a session, at most one turn in it.

use super::event::{Effect, Level, StoreFault, TurnEnd, TurnEvent, TurnSpec, Verdict};
use super::record::{ApprovalState, Op, Outcome, Question, TurnFinish, TurnState, WaitingRow};
use super::types::{ApprovalId, ChatRef, Inbound, InboxId, Message, Outbound, OutboundKind, Role, TurnId, Usage};
use super::{Approval, BusyMode, Core, Pending, prompt};
use crate::limits;
use std::collections::VecDeque;

/// A message that waits for its turn.
#[derive(Debug)]
pub struct Waiting {
    pub row: WaitingRow,
    /// Neither interrupts nor steers: it was put into the queue on purpose.
    pub patient: bool,
}

/// One chat's session, for as long as it has something to do.
#[derive(Debug)]
pub struct Session {
    /// The one turn that owns it.
    pub turn: Option<TurnId>,
    pub queue: VecDeque<Waiting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnStage {
    /// Its beginning is on its way to the disk.
    Claimed,
    Running,
    /// Its end is on its way to the disk.
    Ending,
}

/// One turn, from the claim of its session to the commit of its end.
#[derive(Debug)]
pub struct Turn {
    pub session: String,
    pub chat: ChatRef,
    pub(super) stage: TurnStage,
    pub(super) reply_to: Option<String>,
    /// The platform's id of the message that shows the reply in the making.
    pub(super) preview: Option<String>,
    /// The reply so far.
    pub(super) text: String,
    pub(super) typing_due_ms: Option<u64>,
    pub since_ms: u64,
}

impl Turn {
    pub(super) fn new(session: &str, chat: ChatRef) -> Self {
        Self {
            session: session.to_owned(),
            chat,
            stage: TurnStage::Claimed,
            reply_to: None,
            preview: None,
            text: String::new(),
            typing_due_ms: None,
            since_ms: 0,
        }
    }
}

impl Core {
    /// Whether a message that arrives now begins a turn at once.
    pub(super) fn may_begin(&self, session: &str) -> bool {
        !self.phase.stopping()
            && self.turns.len() < self.rules.turns_max
            && self.ready.is_empty()
            && !self.held.contains_key(session)
            && self.sessions.get(session).is_none_or(|known| known.turn.is_none() && known.queue.is_empty())
    }

    pub(super) fn claim(&mut self, session: &str, _chat: &ChatRef, turn: TurnId) {
        let entry = self.sessions.entry(session.to_owned()).or_insert(Session { turn: None, queue: VecDeque::new() });
        debug_assert!(entry.turn.is_none(), "a session has one turn");
        entry.turn = Some(turn);
    }

    pub(super) fn claim_new(&mut self, session: &str, inbound: &Inbound, turn: TurnId) {
        self.claim(session, &inbound.chat, turn);
        let reply_to = (!inbound.private).then(|| inbound.message_id.clone());
        let started = Turn { reply_to, since_ms: self.now.mono_ms, ..Turn::new(session, inbound.chat.clone()) };
        self.turns.insert(turn, started);
    }

    /// The turn does not begin after all.
    pub(super) fn unclaim(&mut self, turn: Option<TurnId>) {
        if let Some(turn) = turn
            && let Some(known) = self.turns.remove(&turn)
        {
            self.release(&known.session, turn);
        }
    }

    /// Frees the session of a turn; what waits in it is next.
    fn release(&mut self, session: &str, turn: TurnId) {
        let Some(known) = self.sessions.get_mut(session) else { return };
        if known.turn == Some(turn) {
            known.turn = None;
        }
        self.make_ready(session);
    }

    /// A command has changed the transcript, or failed to.
    pub(super) fn unhold(&mut self, session: &str) {
        if let Some(count) = self.held.get_mut(session) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(session);
                self.make_ready(session);
            }
        }
    }

    fn make_ready(&mut self, session: &str) {
        let Some(known) = self.sessions.get(session) else { return };
        if known.turn.is_some() || self.held.contains_key(session) {
            return;
        }
        if known.queue.is_empty() {
            self.sessions.remove(session);
        } else if !self.ready.iter().any(|waiting| waiting == session) {
            self.ready.push_back(session.to_owned());
        }
    }

    pub(super) fn wait_in_queue(&mut self, session: &str, row: WaitingRow, patient: bool) {
        let entry = self.sessions.entry(session.to_owned()).or_insert(Session { turn: None, queue: VecDeque::new() });
        let running = entry.turn;
        let steer = (self.rules.busy == BusyMode::Steer && !patient).then(|| (row.inbox, prompt::user_message(&row.inbound)));
        entry.queue.push_back(Waiting { row, patient });
        match running {
            None => self.make_ready(session),
            Some(turn) if self.turns.get(&turn).is_some_and(|known| known.stage == TurnStage::Running) => {
                if let Some((inbox, message)) = steer {
                    self.effects.push(Effect::Steer { turn, inbox, message });
                } else if !patient {
                    self.cancel_turn(turn, "interrupted", "[This turn was interrupted by the user's next message.]");
                }
            }
            Some(_) => {}
        }
    }

    /// Begins turns for sessions that wait, as far as there is room.
    pub(super) fn serve_ready(&mut self) {
        while !self.phase.stopping() && self.turns.len() < self.rules.turns_max {
            let Some(session) = self.ready.pop_front() else { break };
            if self.held.contains_key(&session) {
                continue; // Made ready again when the command is through.
            }
            let Some(known) = self.sessions.get_mut(&session).filter(|known| known.turn.is_none()) else { continue };
            let Some(Waiting { row, .. }) = known.queue.pop_front() else { continue };
            let start = self.new_turn(&session, &row.inbound);
            let turn = start.turn;
            self.claim_new(&session, &row.inbound, turn);
            self.store(Op::BeginTurn { start, inbox: row.inbox }, Pending::Begin { turn });
        }
    }

    pub(super) fn begun(&mut self, turn: TurnId, resumed: bool, result: &Result<Outcome, StoreFault>) {
        match result {
            Ok(_) => self.start_turn(turn, resumed),
            Err(_) => self.unclaim(Some(turn)),
        }
    }

    /// The turn's beginning is on disk: its thread may run.
    pub(super) fn start_turn(&mut self, turn: TurnId, resumed: bool) {
        let stopping = self.phase.stopping();
        let Some(known) = self.turns.get_mut(&turn) else { return };
        if stopping {
            // It stays on disk as it is, and is the next start's first work.
            self.turns.remove(&turn);
            return;
        }
        let interval_ms = self.rules.adapters.get(&known.chat.adapter).map_or(0, |rules| rules.typing_interval_ms);
        known.stage = TurnStage::Running;
        known.since_ms = self.now.mono_ms;
        known.typing_due_ms = (interval_ms > 0).then_some(self.now.mono_ms);
        let session = known.session.clone();
        let (chat, preview) = (known.chat.clone(), known.preview.clone());
        self.effects.push(Effect::StartTurn(TurnSpec { turn, session: session.clone(), chat, resumed, preview }));
        self.steer_waiting(&session, turn);
    }

    /// What has arrived meanwhile is told to the new turn at once, unless it was put into the queue on purpose.
    fn steer_waiting(&mut self, session: &str, turn: TurnId) {
        let Some(known) = self.sessions.get(session) else { return };
        let impatient = known.queue.iter().filter(|waiting| !waiting.patient);
        let steers: Vec<Effect> = impatient
            .map(|waiting| Effect::Steer { turn, inbox: waiting.row.inbox, message: prompt::user_message(&waiting.row.inbound) })
            .collect();
        self.effects.extend(steers);
    }

    pub(super) fn turn_event(&mut self, turn: TurnId, what: TurnEvent) {
        let Some(known) = self.turns.get_mut(&turn).filter(|known| known.stage == TurnStage::Running) else { return };
        match what {
            TurnEvent::Progress { text } => known.text = text,
            TurnEvent::Adopted { inbox } => {
                let session = known.session.clone();
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.queue.retain(|waiting| !inbox.contains(&waiting.row.inbox));
                }
            }
            TurnEvent::Ask { what, why } => self.ask(turn, what, why),
            TurnEvent::Ended(end) => self.turn_ended(turn, *end),
        }
    }

    fn turn_ended(&mut self, turn: TurnId, end: TurnEnd) {
        let Some(known) = self.turns.get(&turn) else { return };
        let kind = if end.failed { OutboundKind::Notice } else { OutboundKind::Reply };
        let reply = Outbound {
            chat: known.chat.clone(),
            kind,
            text: end.reply,
            reply_to: known.reply_to.clone(),
            replaces: known.preview.clone(),
            buttons: Vec::new(),
        };
        let replies = if reply.text.trim().is_empty() { Vec::new() } else { vec![reply] };
        let state = if end.failed { TurnState::Failed } else { TurnState::Done };
        self.close_approvals(turn);
        self.finish(TurnFinish { turn, state, messages: end.messages, replies, usage: end.usage, ended_ms: self.now.wall_ms });
    }

    /// Ends a turn from outside: its thread is cut off at once, its session is free once the end is on disk.
    pub(super) fn cancel_turn(&mut self, turn: TurnId, shown: &str, note: &str) {
        let Some(known) = self.turns.get(&turn) else { return };
        let mut replies = Vec::new();
        if let Some(preview) = known.preview.clone() {
            let text = if known.text.trim().is_empty() { format!("_({shown})_") } else { format!("{}\n\n_({shown})_", known.text) };
            let kind = OutboundKind::Reply;
            replies.push(Outbound { chat: known.chat.clone(), kind, text, reply_to: None, replaces: Some(preview), buttons: Vec::new() });
        }
        self.effects.push(Effect::CancelTurn { turn });
        self.close_approvals(turn);
        // In the model's own voice: the next message of the user is a new one.
        let messages = vec![Message::text(Role::Assistant, note)];
        self.finish(TurnFinish {
            turn,
            state: TurnState::Cancelled,
            messages,
            replies,
            usage: Usage::default(),
            ended_ms: self.now.wall_ms,
        });
    }

    pub(super) fn finish(&mut self, finish: TurnFinish) {
        if let Some(known) = self.turns.get_mut(&finish.turn) {
            known.stage = TurnStage::Ending;
            known.typing_due_ms = None;
        }
        let turn = finish.turn;
        self.unfinished.insert(turn, finish.clone());
        self.store(Op::FinishTurn(Box::new(finish)), Pending::Finish { turn });
    }

    pub(super) fn finished(&mut self, turn: TurnId, result: Result<Outcome, StoreFault>) {
        match result {
            Ok(Outcome::Finished { queued }) => {
                let finish = self.unfinished.remove(&turn);
                let chats = finish.into_iter().flat_map(|finish| finish.replies).map(|reply| reply.chat);
                for (outbox, chat) in queued.into_iter().zip(chats) {
                    self.expect_delivery(outbox, chat, Some(turn), 0, 0);
                }
            }
            Ok(_) | Err(_) => {
                self.unfinished.remove(&turn);
                self.log(Level::Error, "store", format!("turn {turn} had ended before"));
            }
        }
        if let Some(known) = self.turns.remove(&turn) {
            if self.rules.adapters.get(&known.chat.adapter).is_some_and(|rules| rules.typing_interval_ms > 0) {
                // Before the sign of whatever comes next in this chat.
                self.effects.push(Effect::Quiet { chat: known.chat.clone() });
            }
            self.release(&known.session, turn);
        }
    }

    pub(super) fn preview_shown(&mut self, turn: TurnId, platform_id: String) {
        let Some(known) = self.turns.get_mut(&turn).filter(|known| known.stage == TurnStage::Running) else { return };
        known.preview = Some(platform_id.clone());
        self.store(Op::Preview { turn, platform_id }, Pending::Attempt);
    }

    pub(super) fn keep_typing(&mut self) {
        let now_ms = self.now.mono_ms;
        for turn in self.turns.values_mut() {
            let Some(due_ms) = turn.typing_due_ms.filter(|due_ms| *due_ms <= now_ms) else { continue };
            let interval_ms = self.rules.adapters.get(&turn.chat.adapter).map_or(0, |rules| rules.typing_interval_ms);
            // From now, not from when it was due: after a suspended machine wakes up, one sign is enough.
            turn.typing_due_ms = (interval_ms > 0).then_some(due_ms.max(now_ms) + interval_ms);
            self.effects.push(Effect::Typing { chat: turn.chat.clone() });
        }
    }

    // --- questions ---

    fn ask(&mut self, turn: TurnId, what: String, why: String) {
        let Some(known) = self.turns.get(&turn) else { return };
        let (session, chat) = (known.session.clone(), known.chat.clone());
        if self.approved_sessions.contains(&session) {
            self.effects.push(Effect::Answer { turn, verdict: Verdict::Approved });
            return;
        }
        let minutes = (self.rules.approval_ms / 60_000).max(1);
        let fence = if what.contains("```") { "~~~" } else { "```" };
        let text = format!(
            "This wants to run ({why}):\n{fence}\n{what}\n{fence}\n/approve · /approve session · /deny (in {minutes} min I take silence as no)"
        );
        let mut notice = self.notice(&chat, &text, None);
        // The store knows the number.
        notice.buttons = vec![("Approve".to_owned(), "/approve {approval}".to_owned()), ("Deny".to_owned(), "/deny {approval}".to_owned())];
        let approval_ms = i64::try_from(self.rules.approval_ms).unwrap_or(i64::MAX);
        let question =
            Question { turn, session: session.clone(), chat, what, why, expires_ms: self.now.wall_ms.saturating_add(approval_ms) };
        let op = Op::Ask { question, now_ms: self.now.wall_ms, notice: Box::new(notice) };
        self.store(op, Pending::Ask { turn, session });
    }

    pub(super) fn asked(&mut self, turn: TurnId, session: String, result: Result<Outcome, StoreFault>) {
        let Ok(Outcome::Asked { approval, queued }) = result else {
            self.effects.push(Effect::Answer { turn, verdict: Verdict::Failed });
            return;
        };
        let Some(known) = self.turns.get(&turn).filter(|known| known.stage == TurnStage::Running) else {
            // Cancelled meanwhile: nobody has to be asked any more.
            self.store(Op::MarkFailed { outbox: queued, error: "its turn had ended".to_owned() }, Pending::Note);
            return self.settle_approval(approval, ApprovalState::Cancelled, None, None);
        };
        let chat = known.chat.clone();
        let due_ms = self.now.mono_ms + self.rules.approval_ms;
        self.approvals.insert(approval, Approval { turn, session, due_ms });
        self.expect_delivery(queued, chat, None, 0, 0);
    }

    pub(super) fn settle_approval(&mut self, approval: ApprovalId, state: ApprovalState, by: Option<String>, asked: Option<WaitingRow>) {
        let op = Op::Settle { approval, state, by, now_ms: self.now.wall_ms };
        self.store(op, Pending::Settle { approval, asked: asked.map(Box::new) });
    }

    pub(super) fn overdue_approvals(&mut self) {
        let now_ms = self.now.mono_ms;
        let due: Vec<ApprovalId> = self.approvals.iter().filter(|(_, approval)| approval.due_ms <= now_ms).map(|(id, _)| *id).collect();
        for approval in due {
            // Asked again only after the store's answer; a lost answer must not leave the turn waiting for ever.
            if let Some(known) = self.approvals.get_mut(&approval) {
                known.due_ms = now_ms + limits::STORE_RETRY_MS;
            }
            self.settle_approval(approval, ApprovalState::Expired, None, None);
        }
    }

    /// The questions of a turn that ended or was cancelled.
    fn close_approvals(&mut self, turn: TurnId) {
        let open: Vec<ApprovalId> = self.approvals.iter().filter(|(_, approval)| approval.turn == turn).map(|(id, _)| *id).collect();
        for approval in open {
            self.approvals.remove(&approval);
            self.settle_approval(approval, ApprovalState::Cancelled, None, None);
        }
    }

    pub(super) fn drop_waiting(&mut self, session: &str) -> usize {
        let Some(known) = self.sessions.get_mut(session) else { return 0 };
        let dropped: Vec<InboxId> = known.queue.drain(..).map(|waiting| waiting.row.inbox).collect();
        for inbox in &dropped {
            self.store(Op::CloseInbox { inbox: *inbox }, Pending::Note);
        }
        self.ready.retain(|waiting| waiting != session);
        self.make_ready(session);
        dropped.len()
    }
}
