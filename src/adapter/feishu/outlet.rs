//! Sending: Markdown as posts and cards, one call a part. Owns the thread `adapter/NAME/send`.
//!
//! Each message carries a key (`uuid`) that is the same in every attempt, and Feishu sends a message of one key once: so
//! whatever may have arrived is simply sent again. The key is kept for an hour there.

use super::api::{Api, ApiError};
use super::classes::Class;
use super::mark::Marks;
use super::pace::Pace;
use super::protocol::{Last, message_of, place};
use super::render::{Form, Place, parts, render};
use super::wire::Made;
use super::{Settings, Style};
use crate::adapter::bearer::Bearer;
use crate::adapter::memos::Memos;
use crate::adapter::{Outlet, Part, Preview, SendError, SendLink};
use crate::clock::{self, Deadline};
use crate::core::types::ChatRef;
use crate::limits;
use crate::thread::{CancelToken, enter};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// Feishu, create message: `uuid`.
const UUID_BYTES_MAX: usize = 50;

pub(super) struct FeishuOutlet {
    name: String,
    settings: Arc<Settings>,
    api: Api,
    memos: Memos,
    token: CancelToken,
    pace: Pace,
    marks: Marks,
    /// Keys of previews that may stand in the chat although no answer says so, by place. The next preview uses them again.
    begun: HashMap<String, String>,
    /// What failed last may have been done all the same.
    is_doubtful: bool,
    /// How often texts and posts were edited as previews.
    edits: HashMap<String, u32>,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Chat,
    Reply { message: String, in_thread: bool },
}

/// A message of ours: its form is part of the id, because it decides how the message is edited.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent<'a> {
    form: Form,
    id: &'a str,
}

impl<'a> Sent<'a> {
    fn write(form: Form, id: &str) -> String {
        let name = match form {
            Form::Card | Form::PlainCard => "card",
            Form::Post => "post",
            Form::Text => "text",
        };
        format!("{name}:{id}")
    }

    fn read(platform_id: &'a str) -> Result<Self, SendError> {
        let no_message = || SendError::Reject { cause: format!("{platform_id:?} is not the id of a message that was sent from here") };
        let (name, id) = platform_id.split_once(':').ok_or_else(no_message)?;
        let form = match name {
            "card" => Form::Card,
            "post" => Form::Post,
            "text" => Form::Text,
            _ => return Err(no_message()),
        };
        Ok(Self { form, id: message_of(id).ok_or_else(no_message)? })
    }
}

impl FeishuOutlet {
    pub fn new(settings: &Arc<Settings>, bearer: &Arc<Bearer>, link: &SendLink) -> Self {
        let memos = Memos::new(&link.name, &link.store);
        Self {
            name: link.name.clone(),
            settings: Arc::clone(settings),
            api: Api::new(settings, bearer, &link.net, &link.token),
            marks: Marks::new(&link.name, &memos, settings.working_mark.as_deref()),
            memos,
            token: link.token.clone(),
            pace: Pace::default(),
            begun: HashMap::new(),
            is_doubtful: false,
            edits: HashMap::new(),
        }
    }

    /// Waits for this chat's turn, within reason.
    fn wait_turn(&self, chat: &str, deadline: Deadline) -> Result<(), SendError> {
        let wait = self.pace.wait(chat, clock::now());
        if wait.is_zero() {
            return Ok(());
        }
        if wait > limits::FEISHU_GAP || wait > deadline.remaining() {
            return Err(SendError::Retry { cause: "Feishu asked for silence in this chat".to_owned(), after: Some(wait) });
        }
        let _busy = enter(format_args!("feishu: keeping to the rate limit"), deadline);
        self.token.sleep(wait).map_err(|_| SendError::Cancelled)
    }

    fn last(&self, chat: &ChatRef) -> Result<Option<Last>, SendError> {
        match self.memos.recall(&Last::key(chat)) {
            Ok(value) => Ok(value.as_deref().and_then(Last::read)),
            Err(error) => Err(SendError::Retry { cause: format!("the store does not say where to reply: {error}"), after: None }),
        }
    }

    /// Sends in the first form that is taken. → the platform id
    fn create(
        &mut self,
        part: &Part<'_>,
        forms: &[Form],
        mut target: Target,
        private: bool,
        deadline: Deadline,
    ) -> Result<String, SendError> {
        if part.text.trim().is_empty() {
            return Err(SendError::Reject { cause: "there is nothing to be seen in the message".to_owned() });
        }
        self.is_doubtful = false;
        let place = Place { chat: part.chat, private };
        let mut refused = None;
        for form in forms {
            let content = render(*form, part.text, part.buttons, place);
            let mut result = self.create_once(part, &content, &target, deadline);
            if target != Target::Chat && result.as_ref().is_err_and(|error| error.class() == Some(Class::Gone)) {
                log::info!(target: &self.name, "the message that is answered is gone; writing to the chat");
                target = Target::Chat;
                result = self.create_once(part, &content, &target, deadline);
            }
            match result {
                Ok(answer) => return made(&answer).map(|id| Sent::write(*form, &id)),
                Err(error) if is_about_content(&error) => {
                    log::info!(target: &self.name, "{error}; trying a simpler form");
                    refused = Some(error);
                }
                Err(error) => return Err(self.failed(&error, part.chat)),
            }
        }
        // Perhaps it is not the content, but the message that is answered.
        let simplest = forms.last().filter(|_| target != Target::Chat && refused.is_some());
        if let Some(form) = simplest
            && let Ok(answer) = self.create_once(part, &render(*form, part.text, part.buttons, place), &Target::Chat, deadline)
        {
            return made(&answer).map(|id| Sent::write(*form, &id));
        }
        Err(refused.map_or_else(|| SendError::Reject { cause: "no form to send it in".to_owned() }, |error| error.for_message()))
    }

    fn create_once(
        &mut self,
        part: &Part<'_>,
        (kind, content): &(&str, String),
        target: &Target,
        deadline: Deadline,
    ) -> Result<Value, ApiError> {
        self.pace.take(&part.chat.chat, clock::now());
        let mut body = json!({"msg_type": kind, "content": content, "uuid": uuid(part.key)});
        let path = match target {
            Target::Chat => {
                body["receive_id"] = json!(part.chat.chat);
                format!("/open-apis/im/v1/messages?receive_id_type={}", receiver(&part.chat.chat))
            }
            Target::Reply { message, in_thread } => {
                body["reply_in_thread"] = json!(in_thread);
                format!("/open-apis/im/v1/messages/{message}/reply")
            }
        };
        self.api.call("send", "POST", &path, Some(&body), deadline.within(limits::FEISHU_CALL))
    }

    /// Replaces what a message says. A card stays one; a post or text keeps its kind.
    fn replace(&mut self, sent: &Sent<'_>, part: &Part<'_>, deadline: Deadline) -> Result<(), ApiError> {
        let forms = match sent.form {
            Form::Card | Form::PlainCard => &[Form::Card, Form::PlainCard][..],
            Form::Post => &[Form::Post],
            Form::Text => &[Form::Text],
        };
        let private = !part.buttons.is_empty() && self.last(part.chat).ok().flatten().is_some_and(|last| last.private);
        let path = format!("/open-apis/im/v1/messages/{}", sent.id);
        let mut result = Ok(());
        for form in forms {
            self.pace.take(&part.chat.chat, clock::now());
            let (kind, content) = render(*form, part.text, part.buttons, Place { chat: part.chat, private });
            let deadline = deadline.within(limits::FEISHU_CALL);
            let answer = if kind == "interactive" {
                self.api.call("edit", "PATCH", &path, Some(&json!({"content": content})), deadline)
            } else {
                self.api.call("edit", "PUT", &path, Some(&json!({"msg_type": kind, "content": content})), deadline)
            };
            result = answer.map(drop);
            if !result.as_ref().is_err_and(is_about_content) {
                break;
            }
        }
        result
    }

    /// What a failed call means for the message; everything else for this chat waits too, if it was too much.
    fn failed(&mut self, error: &ApiError, chat: &ChatRef) -> SendError {
        self.is_doubtful = error.is_doubtful();
        if let Some(wait) = error.quiet() {
            self.pace.quiet(&chat.chat, wait, clock::now());
        }
        error.for_message()
    }

    fn forms(&self, part: &Part<'_>) -> &'static [Form] {
        match self.settings.style {
            Style::Text => &[Form::Text],
            Style::Rich if part.buttons.is_empty() => &[Form::Post, Form::Text],
            Style::Rich => &[Form::Card, Form::PlainCard, Form::Text],
        }
    }

    /// A new preview, where the reply will stand: in groups as an answer.
    fn begin_preview(&mut self, chat: &ChatRef, text: &str, deadline: Deadline) -> Result<String, SendError> {
        let last = self.last(chat)?;
        let private = last.as_ref().is_some_and(|last| last.private);
        let answered = self.marks.message(chat).map(str::to_owned).or_else(|| last.map(|last| last.message));
        let target = match answered {
            Some(message) if !private || chat.thread.is_some() => Target::Reply { message, in_thread: chat.thread.is_some() },
            _ => Target::Chat,
        };
        let place = place(chat);
        if self.begun.len() >= limits::FEISHU_CHATS_MAX {
            self.begun.clear();
        }
        let key = self.begun.entry(place.clone()).or_insert_with(|| format!("preview-{:032x}", fastrand::u128(..))).clone();
        let part = Part { chat, text, reply_to: None, buttons: &[], key: &key };
        let forms: &[Form] = if self.settings.style == Style::Text { &[Form::Text] } else { &[Form::Card, Form::PlainCard, Form::Text] };
        let result = self.create(&part, forms, target, private, deadline);
        if result.is_ok() || !self.is_doubtful {
            self.begun.remove(&place);
        }
        result
    }

    /// A preview of which nobody knows whether it is there must not stay beside the reply. With its key it is found, or made
    /// for a moment.
    fn withdraw_begun(&mut self, chat: &ChatRef, deadline: Deadline) {
        let Some(key) = self.begun.remove(&place(chat)) else { return };
        let part = Part { chat, text: "…", reply_to: None, buttons: &[], key: &key };
        let found = self.create(&part, &[Form::Text], Target::Chat, false, deadline);
        if let Err(error) = found.and_then(|id| self.delete(chat, &id, deadline)) {
            log::info!(target: &self.name, "an unfinished reply may stay in the chat: {error:?}");
        }
    }

    fn go_on_preview(&mut self, chat: &ChatRef, previous: &str, text: &str, deadline: Deadline) -> Result<(), SendError> {
        let sent = Sent::read(previous)?;
        if sent.form != Form::Card {
            if self.edits.len() >= limits::FEISHU_CHATS_MAX {
                self.edits.clear();
            }
            let count = self.edits.entry(sent.id.to_owned()).or_default();
            *count += 1;
            if *count > limits::FEISHU_EDITS_MAX {
                // The last edits belong to the reply.
                return Ok(());
            }
        }
        let part = Part { chat, text, reply_to: None, buttons: &[], key: "" };
        self.replace(&sent, &part, deadline).map_err(|error| self.failed(&error, chat))
    }
}

/// Whether another form of the same message may be taken.
fn is_about_content(error: &ApiError) -> bool {
    matches!(error.class(), Some(Class::Permanent | Class::Card | Class::TooLong))
}

fn made(answer: &Value) -> Result<String, SendError> {
    let made: Made = serde_json::from_value(answer["data"].clone()).unwrap_or_default();
    // With its key it can be asked for again.
    let no_id = || SendError::Retry { cause: "send: an answer without a message_id".to_owned(), after: None };
    made.message_id.filter(|id| message_of(id) == Some(id.as_str())).ok_or_else(no_id)
}

/// The kind of an id, as `receive_id_type` wants it. Chats are what answers go to; people are what `send` may name.
fn receiver(chat: &str) -> &'static str {
    match chat {
        chat if chat.starts_with("ou_") => "open_id",
        chat if chat.starts_with("on_") => "union_id",
        chat if chat.contains('@') => "email",
        _ => "chat_id",
    }
}

/// The key of a message, at most [`UUID_BYTES_MAX`] bytes long, and the same for the same key.
fn uuid(key: &str) -> String {
    if key.len() <= UUID_BYTES_MAX {
        return key.to_owned();
    }
    // FNV-1a, twice, from different beginnings: keys are long random texts, which only have to stay apart.
    let hash = |start: u64| key.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x9e37_79b9_7f4a_7c15))
}

impl Outlet for FeishuOutlet {
    fn split(&self, text: &str) -> Vec<String> {
        parts(text, self.settings.style == Style::Rich)
    }

    fn send(&mut self, part: &Part<'_>, deadline: Deadline) -> Result<String, SendError> {
        self.withdraw_begun(part.chat, deadline);
        self.wait_turn(&part.chat.chat, deadline)?;
        let in_thread = part.chat.thread.is_some();
        let answered = part.reply_to.and_then(message_of);
        // Into a thread leads only a reply to one of its messages.
        let last = if (in_thread && answered.is_none()) || !part.buttons.is_empty() { self.last(part.chat)? } else { None };
        let private = last.as_ref().is_some_and(|last| last.private);
        let message = answered.map(str::to_owned).or_else(|| last.map(|last| last.message).filter(|_| in_thread));
        let target = message.map_or(Target::Chat, |message| Target::Reply { message, in_thread });
        self.create(part, self.forms(part), target, private, deadline)
    }

    fn edit(&mut self, platform_id: &str, part: &Part<'_>, deadline: Deadline) -> Result<(), SendError> {
        let sent = Sent::read(platform_id)?;
        self.wait_turn(&part.chat.chat, deadline)?;
        let Err(error) = self.replace(&sent, part, deadline) else {
            self.edits.remove(sent.id);
            return Ok(());
        };
        let failed = self.failed(&error, part.chat);
        if matches!(failed, SendError::Reject { .. }) && error.class() != Some(Class::Gone) {
            // A new message takes its place; two of them would be one too many.
            log::info!(target: &self.name, "{error}; replacing the message by a new one");
            let _ = self.delete(part.chat, platform_id, deadline);
        }
        Err(failed)
    }

    /// Like the default, but in groups it answers, and one that would have to wait is left out: the next one says more.
    fn preview(&mut self, chat: &ChatRef, previous: Option<&str>, preview: &Preview, deadline: Deadline) -> Result<String, SendError> {
        let wait = self.pace.wait(&chat.chat, clock::now());
        if !wait.is_zero() {
            return Err(SendError::Retry { cause: "too soon for another preview".to_owned(), after: Some(wait) });
        }
        let text = self.split(&preview.render()).pop().unwrap_or_default();
        match previous {
            Some(id) => self.go_on_preview(chat, id, &text, deadline).map(|()| id.to_owned()),
            None => self.begin_preview(chat, &text, deadline),
        }
    }

    fn typing(&mut self, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError> {
        self.marks.show(&self.api, chat, deadline)
    }

    fn quiet(&mut self, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError> {
        self.marks.clear(&self.api, chat, deadline)
    }

    fn delete(&mut self, chat: &ChatRef, platform_id: &str, deadline: Deadline) -> Result<(), SendError> {
        let sent = Sent::read(platform_id)?;
        let path = format!("/open-apis/im/v1/messages/{}", sent.id);
        match self.api.call("delete", "DELETE", &path, None, deadline.within(limits::FEISHU_CALL)) {
            Err(error) if error.class() != Some(Class::Gone) => Err(self.failed(&error, chat)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_and_stable() {
        let key = "0123456789abcdef0123456789abcdef-12";
        assert_eq!(uuid(key), key);
        let long = "k".repeat(51);
        assert_eq!((uuid(&long), uuid(&long).len()), (uuid(&long), 32));
        assert_ne!(uuid(&long), uuid(&"k".repeat(52)));
    }

    #[test]
    fn ids_tell_how_to_edit_them() {
        for form in [Form::Card, Form::Post, Form::Text] {
            assert_eq!(Sent::read(&Sent::write(form, "om_1")), Ok(Sent { form, id: "om_1" }));
        }
        assert_eq!(Sent::read(&Sent::write(Form::PlainCard, "om_1")).map(|sent| sent.form), Ok(Form::Card));
        for odd in ["om_1", "card:", "card:../x", "new:om_1", ""] {
            assert!(matches!(Sent::read(odd), Err(SendError::Reject { .. })), "{odd}");
        }
    }

    #[test]
    fn receivers_are_told_by_their_ids() {
        let kinds = ["oc_1", "ou_1", "on_1", "a@b.example", "x"].map(receiver);
        assert_eq!(kinds, ["chat_id", "open_id", "union_id", "email", "chat_id"]);
    }
}
