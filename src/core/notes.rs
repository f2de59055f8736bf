//! What one process notes for the next: who asked for a restart, which chats have moved, who was told of a stop.

use super::event::{Level, Lifecycle};
use super::record::Op;
use super::types::{AdapterName, ChatRef};
use super::{Core, Pending, spoken_interval};
use serde::{Deserialize, Serialize};

const RESTART: &str = "restart";
const MOVED: &str = "moved:";
const ANNOUNCED: &str = "announced:";
/// A chat is told of a stop or restart at most this often, however often the process is restarted.
const ANNOUNCE_PAUSE_MS: i64 = 10 * 60 * 1000;

/// Who is to be told when the restart is over.
#[derive(Serialize, Deserialize)]
struct RestartAsked {
    chat: ChatRef,
    asked_ms: i64,
}

impl Core {
    pub(super) fn take_notes(&mut self, notes: Vec<(String, String)>) {
        for (key, value) in notes {
            if self.take_memory_note(&key, &value) {
            } else if key == RESTART {
                self.restart_is_over(&value);
            } else if let Some((adapter, old)) = key.strip_prefix(MOVED).and_then(|rest| rest.split_once(':')) {
                self.admit_moved(adapter.to_owned(), old.to_owned(), value);
            } else if let Some(session) = key.strip_prefix(ANNOUNCED) {
                let told_ms: i64 = value.parse().unwrap_or(0);
                if (0..ANNOUNCE_PAUSE_MS).contains(&self.now.wall_ms.saturating_sub(told_ms)) {
                    self.announced.insert(session.to_owned(), told_ms);
                } else {
                    self.note(key, None);
                }
            }
        }
    }

    fn note(&mut self, key: String, value: Option<String>) {
        self.store(Op::Note { key, value }, Pending::Note);
    }

    /// The next process tells this chat that it is there.
    pub(super) fn note_restart(&mut self, chat: &ChatRef) {
        let asked = RestartAsked { chat: chat.clone(), asked_ms: self.now.wall_ms };
        if let Ok(value) = serde_json::to_string(&asked) {
            self.note(RESTART.to_owned(), Some(value));
        }
    }

    fn restart_is_over(&mut self, value: &str) {
        if let Ok(RestartAsked { chat, asked_ms }) = serde_json::from_str(value) {
            let took_ms = u64::try_from(self.now.wall_ms.saturating_sub(asked_ms)).unwrap_or(0);
            let text = format!("Gateway online ({}), back after {}.", self.rules.version, spoken_interval(took_ms));
            let message = self.notice(&chat, &text, None);
            // The key keeps a crash before the note is forgotten from telling it twice.
            let op = Op::Enqueue { messages: vec![message], dedupe: Some(format!("online:{asked_ms}")), now_ms: self.now.wall_ms };
            self.store(op, Pending::Enqueue { request: None, chats: vec![chat], close: None });
        }
        self.note(RESTART.to_owned(), None);
    }

    /// One notice for each chat that waits for something, and not again soon.
    pub(super) fn announce_drain(&mut self, request: Lifecycle) {
        let waiting: Vec<(String, ChatRef)> = self.turns.values().map(|turn| (turn.session.clone(), turn.chat.clone())).collect();
        for (session, chat) in waiting {
            let now_ms = self.now.wall_ms;
            let lately =
                self.announced.get(&session).is_some_and(|told_ms| (0..ANNOUNCE_PAUSE_MS).contains(&now_ms.saturating_sub(*told_ms)));
            if lately {
                continue;
            }
            self.announced.insert(session.clone(), now_ms);
            self.note(format!("{ANNOUNCED}{session}"), Some(now_ms.to_string()));
            let what = if request == Lifecycle::Restart { "Restarting" } else { "Stopping" };
            let text = format!("{what}. Your message is kept and will be answered, if not now then after the next start.");
            let message = self.notice(&chat, &text, None);
            let op = Op::Enqueue { messages: vec![message], dedupe: None, now_ms };
            self.store(op, Pending::Enqueue { request: None, chats: vec![chat], close: None });
        }
    }

    /// The platform gave a chat another id: who was admitted there stays admitted.
    pub(super) fn chat_moved(&mut self, name: &AdapterName, old: &str, new: &str) {
        let known = self.moved.iter().any(|(adapter, from, to)| adapter == name && from == old && to == new);
        if known {
            return;
        }
        for turn in self.turns.values_mut().filter(|turn| turn.chat.adapter == *name && turn.chat.chat == old) {
            new.clone_into(&mut turn.chat.chat);
        }
        self.deliveries.move_chat(name, old, new);
        self.move_jobs(name, old, new);
        let op = Op::MoveChat { adapter: name.clone(), old: old.to_owned(), new: new.to_owned() };
        self.store(op, Pending::Note);
        self.note(format!("{MOVED}{name}:{old}"), Some(new.to_owned()));
        self.log(Level::Info, name, format!("chat {old} has the id {new} now"));
        self.admit_moved(name.clone(), old.to_owned(), new.to_owned());
    }

    fn admit_moved(&mut self, adapter: AdapterName, old: String, new: String) {
        self.moved.push((adapter, old, new));
        self.apply_moves();
    }

    /// Puts the new ids beside the old ones in the allow-lists.
    pub(super) fn apply_moves(&mut self) {
        for (adapter, old, new) in &self.moved {
            if let Some(rules) = self.rules.adapters.get_mut(adapter)
                && rules.allowed_chats.contains(old)
                && !rules.allowed_chats.contains(new)
            {
                rules.allowed_chats.push(new.clone());
            }
        }
    }
}
