//! The working mark: a reaction on the message that is being answered, because the platform has no typing sign.
//!
//! It does not go away by itself, so where it stands is remembered over the end of the process.

use super::api::{Api, ApiError};
use super::classes::Class;
use super::protocol::{Last, is_message_id, place};
use super::wire::Made;
use crate::adapter::SendError;
use crate::adapter::memos::Memos;
use crate::clock::Deadline;
use crate::core::types::{ChatRef, Memo};
use crate::limits;
use serde_json::json;
use std::collections::HashMap;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    /// The message that is being answered.
    message: String,
    /// `None`: there is no reaction on it.
    reaction: Option<String>,
    /// It should have gone, and could not be removed.
    stale: bool,
}

impl Mark {
    fn memo(&self, chat: &ChatRef) -> Option<Memo> {
        let reaction = self.reaction.as_ref()?;
        Some(Memo::new(key(chat), format!("{} {reaction}", self.message)))
    }

    fn read(value: &str) -> Option<Self> {
        let (message, reaction) = value.split_once(' ')?;
        let fine = is_message_id(message) && is_message_id(reaction);
        fine.then(|| Self { message: message.to_owned(), reaction: Some(reaction.to_owned()), stale: false })
    }
}

fn key(chat: &ChatRef) -> String {
    format!("mark:{}", place(chat))
}

/// The marks of one adapter.
pub(super) struct Marks {
    name: String,
    memos: Memos,
    /// The reaction's name; `None`: no marks are set.
    emoji: Option<String>,
    shown: HashMap<String, Mark>,
}

impl Marks {
    pub fn new(name: &str, memos: &Memos, emoji: Option<&str>) -> Self {
        Self { name: name.to_owned(), memos: memos.clone(), emoji: emoji.map(str::to_owned), shown: HashMap::new() }
    }

    /// The message that is being answered in a chat.
    pub fn message(&self, chat: &ChatRef) -> Option<&str> {
        self.shown.get(&place(chat)).map(|mark| mark.message.as_str())
    }

    /// Sets the mark on the last message of the chat, unless one is set.
    pub fn show(&mut self, api: &Api, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError> {
        let place = place(chat);
        match self.shown.get(&place) {
            Some(mark) if mark.stale => self.clear(api, chat, deadline)?,
            Some(_) => return Ok(()),
            None => {
                // The turn goes on after a restart, and the mark is where it was.
                let known = if self.emoji.is_some() { self.recall(&key(chat)) } else { None };
                if let Some(mark) = known.as_deref().and_then(Mark::read) {
                    self.shown.insert(place, mark);
                    return Ok(());
                }
            }
        }
        // What was not asked for by a message, a scheduled job, has nothing to stand on.
        let Some(last) = self.recall(&Last::key(chat)).as_deref().and_then(Last::read) else { return Ok(()) };
        if self.shown.len() >= limits::FEISHU_CHATS_MAX {
            return Ok(());
        }
        let reaction = self.react(api, &last.message, deadline)?;
        let mark = Mark { message: last.message, reaction, stale: false };
        if let Some(memo) = mark.memo(chat) {
            self.remember(memo);
        }
        self.shown.insert(place, mark);
        Ok(())
    }

    /// → the reaction's id, or `None` if there is to be none
    fn react(&mut self, api: &Api, message: &str, deadline: Deadline) -> Result<Option<String>, SendError> {
        let Some(emoji) = &self.emoji else { return Ok(None) };
        let path = format!("/open-apis/im/v1/messages/{message}/reactions");
        let body = json!({"reaction_type": {"emoji_type": emoji}});
        match api.call("working mark", "POST", &path, Some(&body), deadline.within(limits::FEISHU_MARK)) {
            Ok(answer) => {
                let made: Made = serde_json::from_value(answer["data"].clone()).unwrap_or_default();
                Ok(made.reaction_id.filter(|id| is_message_id(id)))
            }
            Err(error) => self.without(error),
        }
    }

    /// A mark that cannot be had is not worth more than one line.
    fn without(&mut self, error: ApiError) -> Result<Option<String>, SendError> {
        match error.class() {
            Some(Class::Scope) => {
                log::warn!(target: &self.name, "no working mark is shown from now on: {error}");
                self.emoji = None;
                Ok(None)
            }
            // The message has been recalled, or cannot be reacted to.
            Some(Class::Gone | Class::Permanent | Class::Target) => {
                log::debug!(target: &self.name, "{error}");
                Ok(None)
            }
            _ => Err(error.for_message()),
        }
    }

    /// Takes the mark away, if there is one.
    pub fn clear(&mut self, api: &Api, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError> {
        let place = place(chat);
        let mark = match self.shown.remove(&place) {
            Some(mark) => mark,
            None if self.emoji.is_none() => return Ok(()),
            None => match self.recall(&key(chat)).as_deref().and_then(Mark::read) {
                Some(mark) => mark,
                None => return Ok(()),
            },
        };
        let Some(reaction) = &mark.reaction else { return Ok(()) };
        let path = format!("/open-apis/im/v1/messages/{}/reactions/{reaction}", mark.message);
        match api.call("working mark", "DELETE", &path, None, deadline.within(limits::FEISHU_MARK)) {
            Ok(_) => {}
            Err(error) if matches!(error.class(), Some(Class::Gone | Class::Permanent | Class::Target | Class::Scope)) => {
                log::debug!(target: &self.name, "{error}");
            }
            Err(error) => {
                // The next turn of this chat, in this process or another, removes it.
                self.shown.insert(place, Mark { stale: true, ..mark });
                return Err(error.for_message());
            }
        }
        self.remember(Memo::forget(key(chat)));
        Ok(())
    }

    fn recall(&self, key: &str) -> Option<String> {
        self.memos.recall(key).unwrap_or_else(|error| {
            log::debug!(target: &self.name, "nothing is known about {key}: {error}");
            None
        })
    }

    fn remember(&self, memo: Memo) {
        if let Err(error) = self.memos.remember(vec![memo]) {
            log::debug!(target: &self.name, "the working mark may outlive a restart: {error}");
        }
    }
}
