//! The threads of turns.

use super::lanes::Message;
use super::links::TurnLink;
use super::{Control, RunningTurn};
use crate::agent::turn::{self, TurnMail};
use crate::core::event::{AdapterEvent, Event, TurnEnd, TurnEvent, TurnSpec};
use crate::core::types::{TurnId, Usage};
use crate::limits;
use crate::thread::{ThreadEnd, ThreadInfo};
use crossbeam_channel::bounded;
use std::sync::{Arc, Mutex};

/// A turn that did not end in an orderly way.
fn failed(reply: String) -> TurnEvent {
    TurnEvent::Ended(Box::new(TurnEnd { messages: Vec::new(), reply, failed: true, usage: Usage::default() }))
}

impl Control {
    pub(super) fn start_turn(&mut self, spec: TurnSpec) {
        let id = spec.turn;
        let token = self.token.child();
        let (mail_sender, mail) = bounded(limits::TURN_MAIL_MAX);
        let known = self.adapters.get(&spec.chat.adapter);
        let mailbox = known.filter(|known| known.streaming && known.adapter.traits().edits).map(|known| Arc::clone(&known.mailbox));
        let platform = known.map_or_else(|| "unknown".to_owned(), |known| known.platform.clone());
        if let (Some(mailbox), Some(preview)) = (&mailbox, &spec.preview) {
            mailbox.resume_preview(id, &spec.chat, preview.clone());
        }
        let events = TurnLink {
            lanes: self.lanes.clone(),
            turn: id,
            token: token.clone(),
            chat: spec.chat.clone(),
            mailbox,
            told: Mutex::new(None),
        };
        let (agent, store, lanes) = (Arc::clone(&self.agent), self.store.fenced(&token), self.lanes.clone());
        let events: Arc<dyn turn::TurnEvents> = Arc::new(events);
        let ended = {
            let lanes = self.lanes.clone();
            move |end: ThreadEnd| {
                if let ThreadEnd::Panicked(cause) = end {
                    log::error!(target: "agent", "turn {id} panicked: {cause}");
                    let what = failed(format!(
                        "Something went wrong inside me (error {id}); the operator finds the cause in the log under that number."
                    ));
                    lanes.event(Event::Turn { turn: id, what });
                }
                lanes.urgent(Message::TurnThreadEnded { turn: id });
            }
        };
        let body = move |token: &crate::thread::CancelToken| {
            let turn = turn::Turn { agent: &agent, spec: &spec, platform: &platform, token, store, mail, events };
            if let Some(end) = turn::run(&turn) {
                lanes.event(Event::Turn { turn: id, what: TurnEvent::Ended(Box::new(end)) });
            }
        };
        match self.threads.spawn(&format!("turn/{id}"), 0, token.clone(), ended, body) {
            Ok(handle) => {
                self.turns.insert(id, RunningTurn { handle, token, mail: mail_sender });
            }
            Err(error) => {
                log::error!(target: "control", "{error}");
                let what = failed("The machine has no room for another thread at the moment. Please try again later.".to_owned());
                self.lanes.event(Event::Turn { turn: id, what });
            }
        }
    }

    /// Its sockets are shut down and its children killed: the thread comes back by itself, and nobody waits for it.
    pub(super) fn cancel_turn(&mut self, turn: TurnId) {
        if let Some(known) = self.turns.get(&turn) {
            known.token.cancel();
        }
        for known in self.adapters.values() {
            known.mailbox.turn_ended(turn);
        }
    }

    pub(super) fn mail(&mut self, turn: TurnId, mail: TurnMail) {
        if let Some(known) = self.turns.get(&turn)
            && known.mail.try_send(mail).is_err()
        {
            log::warn!(target: "agent", "turn {turn} does not take its mail");
        }
    }

    /// A thread has been in one activity for longer than it may.
    pub(super) fn overdue(&mut self, thread: &ThreadInfo) {
        let activity = thread.activity.text.clone();
        log::warn!(target: "guardian", "thread {} is overdue in \"{activity}\"", thread.name);
        if let Some(rest) = thread.name.strip_prefix("adapter/") {
            let name = rest.strip_suffix("/send").unwrap_or(rest).to_owned();
            self.feed(Event::Adapter { name, generation: thread.generation, what: AdapterEvent::Wedged { activity } });
        } else if let Some(turn) = thread.name.strip_prefix("turn/").and_then(|turn| turn.parse::<TurnId>().ok()) {
            self.cancel_turn(turn);
            let what = failed(format!("I got stuck in \"{activity}\" and stopped."));
            self.feed(Event::Turn { turn, what });
        }
    }
}
