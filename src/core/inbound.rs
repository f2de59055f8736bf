//! From a platform's message to an accepted one: who may speak, what is a command, what begins a turn.

use super::command::{Command, QueueCommand};
use super::event::{Effect, Level, StoreFault};
use super::record::{Op, Outcome, WaitingRow};
use super::types::{ChatRef, Inbound, Receipt};
use super::{AdapterRules, Core, Pending, PendingAccept, RequestId};
use crate::limits;

impl AdapterRules {
    fn listed(list: &[String], id: &str) -> bool {
        list.iter().any(|entry| entry == "*" || entry == id)
    }

    /// The allow-list: by user; in groups also by chat. Nobody is allowed by default.
    #[must_use]
    pub fn allows(&self, inbound: &Inbound) -> bool {
        let user = Self::listed(&self.allowed_users, &inbound.sender) || self.is_admin(&inbound.sender);
        let chat = Self::listed(&self.allowed_chats, &inbound.chat.chat);
        match (inbound.private, self.allowed_chats.is_empty(), self.allowed_users.is_empty()) {
            (true, ..) | (false, true, _) => user,
            // Only chats are listed: everybody in them may speak.
            (false, false, true) => chat,
            (false, false, false) => chat && user,
        }
    }

    #[must_use]
    pub fn is_admin(&self, sender: &str) -> bool {
        Self::listed(&self.admins, sender)
    }
}

impl Core {
    pub(super) fn message(&mut self, mut inbound: Inbound, generation: u64, receipt: Receipt) {
        // While turns are drained, some adapters still receive. What is accepted then waits for the next start.
        if matches!(self.phase, super::Phase::Leaving { .. }) {
            return; // Without a receipt, a platform that can keeps it for the next start.
        }
        let Some(rules) = self.rules.adapters.get(&inbound.chat.adapter) else { return };
        if !rules.allows(&inbound) {
            let (adapter, chat) = (inbound.chat.adapter.clone(), inbound.chat.chat.clone());
            self.log_stranger(&adapter, &inbound.sender, &inbound.sender_name, &chat);
            self.skip(inbound.chat, generation, receipt);
        } else if !inbound.private && rules.group_mention && !inbound.addressed {
            self.skip(inbound.chat, generation, receipt);
        } else {
            bound_text(&mut inbound.text);
            self.accept(inbound, generation, Some(receipt), None);
        }
    }

    /// Moves the adapter's cursor past a message that is not for us.
    fn skip(&mut self, chat: ChatRef, generation: u64, receipt: Receipt) {
        let adapter = chat.adapter;
        match &receipt.cursor {
            Some(cursor) => {
                let op = Op::Cursor { adapter: adapter.clone(), cursor: cursor.clone() };
                self.store(op, Pending::Cursor { adapter, generation, receipt });
            }
            None => self.effects.push(Effect::Receipt { adapter, generation, receipt }),
        }
    }

    /// A client of the control socket says something.
    pub(super) fn said(&mut self, request: RequestId, mut inbound: Inbound) {
        if self.phase.stopping() {
            let result = Err("the gateway is stopping; try again when it is back".to_owned());
            self.effects.push(Effect::Respond { request, result });
            return;
        }
        bound_text(&mut inbound.text);
        self.accept(inbound, 0, None, Some(request));
    }

    fn accept(&mut self, inbound: Inbound, generation: u64, receipt: Option<Receipt>, request: Option<RequestId>) {
        let command = Command::parse(&inbound.text);
        let session = inbound.chat.session();
        if command == Some(Command::Stop) {
            self.impatient.push((self.now.mono_ms + limits::STOP_PATIENCE_MS, session.clone()));
        }
        if command.as_ref().is_some_and(Command::holds) {
            *self.held.entry(session.clone()).or_default() += 1;
        }
        let begin = (command.is_none() && self.may_begin(&session)).then(|| self.new_turn(&session, &inbound));
        let begins = begin.as_ref().map(|start| start.turn);
        if let Some(turn) = begins {
            self.claim_new(&session, &inbound, turn);
        }
        let done = command.as_ref().is_some_and(Command::once_only);
        let op = Op::Accept { inbound: Box::new(inbound.clone()), receipt: receipt.clone(), received_ms: self.now.wall_ms, begin, done };
        self.store(op, Pending::Accept(Box::new(PendingAccept { inbound, generation, receipt, request, begins })));
    }

    pub(super) fn accepted(&mut self, accept: PendingAccept, result: Result<Outcome, StoreFault>) {
        let PendingAccept { inbound, generation, receipt, request, begins } = accept;
        let session = inbound.chat.session();
        let inbox = match result {
            Ok(Outcome::Accepted { inbox }) => Some(inbox),
            Ok(_) => None,
            Err(_) => {
                self.unclaim(begins);
                self.unhold_for(&inbound);
                self.log(
                    Level::Error,
                    "store",
                    format!("message {} in {session} not accepted: the store takes nothing", inbound.message_id),
                );
                if let Some(request) = request {
                    let result = Err("the store takes nothing at the moment (disk full or failing?); see the gateway's log".to_owned());
                    self.effects.push(Effect::Respond { request, result });
                }
                return;
            }
        };
        if let Some(receipt) = receipt {
            self.effects.push(Effect::Receipt { adapter: inbound.chat.adapter.clone(), generation, receipt });
        }
        if let Some(request) = request {
            self.effects.push(Effect::Respond { request, result: Ok("accepted".to_owned()) });
        }
        let Some(inbox) = inbox else {
            self.unclaim(begins);
            self.unhold_for(&inbound);
            self.impatient.retain(|(_, waiting)| *waiting != session || Command::parse(&inbound.text) != Some(Command::Stop));
            return;
        };
        match begins {
            Some(turn) => self.start_turn(turn, false),
            None => self.enqueue_waiting(WaitingRow { inbox, inbound }),
        }
    }

    /// The command that held its session is not executed.
    fn unhold_for(&mut self, inbound: &Inbound) {
        if Command::parse(&inbound.text).is_some_and(|command| command.holds()) {
            self.unhold(&inbound.chat.session());
        }
    }

    /// A row that waits: a command is executed, a message gets its place in the queue.
    pub(super) fn enqueue_waiting(&mut self, mut row: WaitingRow) {
        let mut patient = self.rules.busy == super::BusyMode::Queue || super::schedule::job_of(&row.inbound.message_id).is_some();
        // A drain is to end: nothing is added to its turns, and none is broken off for what cannot begin yet.
        patient |= self.phase.stopping();
        match Command::parse(&row.inbound.text) {
            Some(Command::Queue(QueueCommand::Add(text))) => {
                row.inbound.text = text;
                patient = true;
            }
            Some(command) => return self.command(row, command),
            None => {}
        }
        let session = row.inbound.chat.session();
        let full = self.sessions.get(&session).is_some_and(|known| known.queue.len() >= limits::SESSION_QUEUE_MAX)
            || self.waiting() >= limits::INBOX_WAITING_MAX;
        if full {
            let text = format!("Too many messages are waiting (the limit is {}); this one was not taken.", limits::SESSION_QUEUE_MAX);
            return self.reply(&row, &text);
        }
        self.wait_in_queue(&session, row, patient);
    }
}

/// Cuts what no model would read to the end, and says so in the text.
fn bound_text(text: &mut String) {
    if text.len() > limits::INBOUND_TEXT_BYTES_MAX {
        let mut cut = limits::INBOUND_TEXT_BYTES_MAX;
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        let left_out = text.len() - cut;
        text.truncate(cut);
        text.push_str(&format!("\n[{left_out} bytes left out]"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(users: &[&str], chats: &[&str]) -> AdapterRules {
        let own = |list: &[&str]| list.iter().map(|entry| (*entry).to_owned()).collect();
        AdapterRules {
            allowed_users: own(users),
            allowed_chats: own(chats),
            admins: own(&["9"]),
            group_mention: true,
            typing_interval_ms: 0,
            receives: true,
        }
    }

    #[test]
    fn who_is_allowed() {
        let check = |rules: &AdapterRules, sender: &str, chat: &str, private: bool, expect: bool| {
            let chat = ChatRef { adapter: "t".into(), chat: chat.into(), thread: None };
            let inbound = Inbound {
                chat,
                message_id: "1".into(),
                sender: sender.into(),
                sender_name: String::new(),
                text: String::new(),
                attachments: Vec::new(),
                quote: None,
                private,
                addressed: true,
                sent_ms: 0,
            };
            assert_eq!(rules.allows(&inbound), expect, "{sender} in {:?} private={private} with {rules:?}", inbound.chat);
        };
        check(&rules(&[], &[]), "1", "1", true, false);
        check(&rules(&[], &[]), "9", "9", true, true);
        check(&rules(&["1"], &[]), "1", "1", true, true);
        check(&rules(&["1"], &[]), "1", "-5", false, true);
        check(&rules(&["1"], &[]), "2", "-5", false, false);
        check(&rules(&["*"], &[]), "2", "2", true, true);
        check(&rules(&[], &["-5"]), "2", "-5", false, true);
        check(&rules(&[], &["-5"]), "2", "2", true, false);
        check(&rules(&["1"], &["-5"]), "1", "-6", false, false);
        check(&rules(&["1"], &["-5"]), "1", "-5", false, true);
        check(&rules(&["1"], &["-5"]), "2", "-5", false, false);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let mut text = "ü".repeat(limits::INBOUND_TEXT_BYTES_MAX);
        bound_text(&mut text);
        assert!(text.len() < limits::INBOUND_TEXT_BYTES_MAX + 100 && text.ends_with("bytes left out]"));
    }
}
