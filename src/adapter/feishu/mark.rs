//! The working mark: a reaction on the message that is being answered, because the platform has no typing sign.
//!
//! It does not go away by itself. So all marks are remembered over the end of the process, in one memo, and those that an
//! earlier process has left behind are removed with the next one that goes.

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
use std::collections::BTreeMap;

const MEMO: &str = "marks";

/// A message that is being answered, and the reaction on it, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    message: String,
    reaction: Option<String>,
}

/// The marks of one adapter, by chat or thread.
pub(super) struct Marks {
    name: String,
    memos: Memos,
    /// The reaction's name; `None`: no marks are set.
    emoji: Option<String>,
    shown: BTreeMap<String, Mark>,
    /// Those that are to go: of an earlier process, or such that could not be removed. `None`: not looked up yet.
    left: Option<Vec<(String, Mark)>>,
}

impl Marks {
    pub fn new(name: &str, memos: &Memos, emoji: Option<&str>) -> Self {
        Self { name: name.to_owned(), memos: memos.clone(), emoji: emoji.map(str::to_owned), shown: BTreeMap::new(), left: None }
    }

    /// The message that is being answered in a chat.
    pub fn message(&self, chat: &ChatRef) -> Option<&str> {
        self.shown.get(&place(chat)).map(|mark| mark.message.as_str())
    }

    /// Sets the mark on the last message of the chat, unless one is set.
    pub fn show(&mut self, api: &Api, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError> {
        let place = place(chat);
        if self.shown.contains_key(&place) || self.shown.len() >= limits::FEISHU_MARKS_MAX {
            return Ok(());
        }
        // What was not asked for by a message, a scheduled job, has nothing to stand on.
        let Some(last) = self.recall(&Last::key(chat)).as_deref().and_then(Last::read) else { return Ok(()) };
        let left = self.look_up();
        if let Some(index) = left.iter().position(|(known, mark)| *known == place && mark.message == last.message) {
            // The turn goes on after a restart, and the mark is where it was.
            let (place, mark) = left.swap_remove(index);
            self.shown.insert(place, mark);
            return Ok(());
        }
        let reaction = self.react(api, &last.message, deadline)?;
        let is_set = reaction.is_some();
        self.shown.insert(place, Mark { message: last.message, reaction });
        if is_set {
            self.remember();
        }
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
            Err(error) => self.without(&error),
        }
    }

    /// A mark that cannot be had is not worth more than one line.
    fn without(&mut self, error: &ApiError) -> Result<Option<String>, SendError> {
        match error.class() {
            Some(Class::Scope) => {
                log::warn!(target: &self.name, "no working mark is shown from now on: {error}");
                self.emoji = None;
                Ok(None)
            }
            _ if is_settled(error) => {
                log::debug!(target: &self.name, "{error}");
                Ok(None)
            }
            _ => Err(error.for_message()),
        }
    }

    /// Takes the mark of a chat away, and what earlier ones have left.
    pub fn clear(&mut self, api: &Api, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError> {
        let place = place(chat);
        self.look_up();
        if let Some(mark) = self.shown.remove(&place).filter(|mark| mark.reaction.is_some()) {
            self.left.get_or_insert_default().push((place, mark));
        }
        self.tidy(api, deadline)
    }

    /// Removes the marks that are to go.
    pub fn tidy(&mut self, api: &Api, deadline: Deadline) -> Result<(), SendError> {
        let before = self.look_up().len();
        let mut result = Ok(());
        while let Some((_, Mark { message, reaction })) = self.left.as_ref().and_then(|left| left.last()) {
            let path = format!("/open-apis/im/v1/messages/{message}/reactions/{}", reaction.as_deref().unwrap_or_default());
            match api.call("working mark", "DELETE", &path, None, deadline.within(limits::FEISHU_MARK)) {
                Err(error) if !is_settled(&error) => {
                    result = Err(error.for_message());
                    break;
                }
                answer => {
                    if let Err(error) = answer {
                        log::debug!(target: &self.name, "{error}");
                    }
                    self.left.iter_mut().for_each(|left| drop(left.pop()));
                }
            }
        }
        if self.left.as_ref().is_some_and(|left| left.len() != before) {
            self.remember();
        }
        result
    }

    /// What an earlier process, or generation of this thread, has left.
    fn look_up(&mut self) -> &mut Vec<(String, Mark)> {
        if self.left.is_none() {
            self.left = Some(self.recall(MEMO).as_deref().map(read).unwrap_or_default());
        }
        self.left.get_or_insert_default()
    }

    fn recall(&self, key: &str) -> Option<String> {
        self.memos.recall(key).unwrap_or_else(|error| {
            log::debug!(target: &self.name, "nothing is known about {key}: {error}");
            None
        })
    }

    fn remember(&self) {
        let left = self.left.iter().flatten().map(|(place, mark)| (place, mark));
        let text = write(left.chain(&self.shown));
        let memo = if text.is_empty() { Memo::forget(MEMO) } else { Memo::new(MEMO, text) };
        if let Err(error) = self.memos.remember(vec![memo]) {
            log::debug!(target: &self.name, "the working mark may outlive a restart: {error}");
        }
    }
}

/// Asking again would change nothing: the message has been recalled, the reaction is gone.
fn is_settled(error: &ApiError) -> bool {
    matches!(error.class(), Some(Class::Gone | Class::Permanent | Class::Target | Class::Scope))
}

/// One line a mark: message, reaction, place.
fn write<'a>(marks: impl Iterator<Item = (&'a String, &'a Mark)>) -> String {
    let lines = marks.filter_map(|(place, mark)| Some(format!("{} {} {place}", mark.message, mark.reaction.as_ref()?)));
    lines.take(limits::FEISHU_MARKS_MAX).collect::<Vec<_>>().join("\n")
}

fn read(text: &str) -> Vec<(String, Mark)> {
    let mark = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (message, reaction, place) = (words.next()?, words.next()?, words.next()?);
        let fine = is_message_id(message) && is_message_id(reaction);
        fine.then(|| (place.to_owned(), Mark { message: message.to_owned(), reaction: Some(reaction.to_owned()) }))
    };
    text.lines().filter_map(mark).take(limits::FEISHU_MARKS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_remembered_in_one_bounded_text() {
        let mark = |number: usize| {
            let long = "x".repeat(48);
            (format!("oc_{long}/omt_{number}"), Mark { message: format!("om_{long}"), reaction: Some(format!("Z{number}")) })
        };
        let marks: BTreeMap<String, Mark> = (0..10).map(mark).collect();
        assert_eq!(read(&write(marks.iter())), marks.clone().into_iter().collect::<Vec<_>>());
        let many: BTreeMap<String, Mark> = (0..1000).map(mark).collect();
        assert!(write(many.iter()).len() + MEMO.len() <= limits::MEMO_BYTES_MAX);
        let none = ("p".to_owned(), Mark { message: "om_1".to_owned(), reaction: None });
        assert_eq!(write([(&none.0, &none.1)].into_iter()), "");
        assert!(read("").is_empty() && read("om_1\nom_1 \nom_1 ../x oc_1\n  \n").is_empty());
    }
}
