//! Sending: replies, and nothing else. Owns the thread `adapter/NAME/send`.
//!
//! Before a part is sent, the pair that makes it unique is remembered (see [`super::window`]), so that an attempt whose
//! answer is lost can be repeated, after a restart too: "sent before" then means that it arrived. What QQ does not take
//! any more is kept ([`super::waiting`]), and sent in front of what is said next.

use super::Settings;
use super::api::{Api, ApiError};
use super::failure::Class;
use super::links::Links;
use super::place::Place;
use super::waiting::{self, Waiting};
use super::window::{self, Pair, Window};
use crate::adapter::bearer::Bearer;
use crate::adapter::memos::Memos;
use crate::adapter::{Outlet, Part, SendError, SendLink, part_key};
use crate::clock::{self, Deadline};
use crate::core::types::{ChatRef, Memo, OutboundKind};
use crate::limits;
use crate::store::StoreError;
use crate::text::plain;
use crate::text::split::{Unit, split};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A part with the longest of the lines below is within the limit.
const PART_CHARS: usize = limits::QQBOT_TEXT_CHARS_MAX - 200;
/// Under the last reply that a message takes, when there is more to say.
const MORE: &str = "\n\n(There is more: QQ allows five messages in reply to one of yours. Write anything, and the rest follows.)";
/// Above what could not be said at all when it was ready.
const LATE: &str = "(This was ready earlier. QQ lets a bot speak only shortly after it was spoken to.)\n\n";
/// Where a platform does not tell duplicates.
const DOUBTFUL: &str = "(may be a duplicate)\n";
/// What is returned for a part that waits, in place of the platform's id.
const KEPT: &str = "waits";
/// Attempts at one part with other numbers or in simpler forms: each message that can be replied to, and each form.
const FORMS_MAX: usize = limits::QQBOT_REPLIABLE_MAX + 6;

pub(super) struct QqOutlet {
    name: String,
    api: Api,
    memos: Memos,
    /// Not refused yet.
    markdown: Arc<AtomicBool>,
    kind: OutboundKind,
    whole: Whole,
}

/// The message that is being sent.
#[derive(Default)]
struct Whole {
    key: String,
    parts: Vec<String>,
    number: usize,
}

/// A chat, as far as it was remembered.
struct Book {
    place: Place,
    window: Window,
    waiting: Waiting,
}

/// How an attempt at a part ended without its being sent.
enum Unsent {
    /// QQ takes no reply there now.
    NoRoom,
    Failed(SendError),
}

impl From<SendError> for Unsent {
    fn from(error: SendError) -> Self {
        Self::Failed(error)
    }
}

impl QqOutlet {
    pub fn new(settings: &Arc<Settings>, bearer: &Arc<Bearer>, markdown: &Arc<AtomicBool>, link: &SendLink) -> Self {
        Self {
            name: link.name.clone(),
            api: Api::new(settings, bearer, &link.net, &link.token),
            memos: Memos::new(&link.name, &link.store),
            markdown: Arc::clone(markdown),
            kind: OutboundKind::Reply,
            whole: Whole::default(),
        }
    }

    fn recall(&self, key: &str) -> Result<Option<String>, SendError> {
        self.memos.recall(key).map_err(store_failed)
    }

    fn remember(&self, memos: Vec<Memo>) -> Result<(), SendError> {
        self.memos.remember(memos).map_err(store_failed)
    }

    fn open(&self, chat: &ChatRef) -> Result<Book, SendError> {
        let chat = chat.chat.as_str();
        let place = Place::parse(chat).ok_or_else(|| SendError::Reject {
            cause: format!("{chat:?} is no chat of QQ: those are c2c:OPENID, group:OPENID, channel:ID and dm:GUILD"),
        })?;
        let (heard, used) = (self.recall(&window::heard_key(chat))?, self.recall(&window::used_key(chat))?);
        let window = Window::read(chat, place.window(), heard.as_deref(), used.as_deref());
        let waiting = Waiting::read(chat, self.recall(&waiting::list_key(chat))?.as_deref());
        Ok(Book { place, window, waiting })
    }

    /// The parts that follow this one, with their keys.
    fn rest(&self, part_of: &str) -> Vec<(String, &str)> {
        let Whole { key, parts, number } = &self.whole;
        if part_key(key, *number) != part_of {
            return Vec::new();
        }
        parts.iter().enumerate().skip(number + 1).map(|(number, text)| (part_key(key, number), text.as_str())).collect()
    }

    /// Sends what waits, as far as `leave` replies remain.
    fn catch_up(&self, book: &mut Book, leave: usize, deadline: Deadline) -> Result<(), SendError> {
        while let Some(item) = book.waiting.first().cloned() {
            if book.window.pair(&item.key).is_none() && book.window.room(clock::wall_ms()) <= leave {
                return Ok(());
            }
            let pieces = book.waiting.pieces(&item).map(|key| self.recall(&key)).collect::<Result<Option<Vec<String>>, _>>()?;
            let mut memos = Vec::new();
            match pieces.map(|pieces| self.deliver(book, &item.key, &pieces.concat(), None, &mut memos, deadline)) {
                Some(Ok(_)) => log::info!(target: &self.name, "a part that had to wait in {} is sent", book.place.chat()),
                Some(Err(Unsent::NoRoom)) => return self.remember(memos),
                Some(Err(Unsent::Failed(SendError::Reject { cause }))) => {
                    log::error!(target: &self.name, "a part that waited in {} cannot be sent: {cause}", book.place.chat());
                }
                Some(Err(Unsent::Failed(error))) => return Err(error),
                None => log::error!(target: &self.name, "a part that waited in {} is gone: too many memos", book.place.chat()),
            }
            memos.extend(book.waiting.remove(&item.key));
            memos.push(book.waiting.memo());
            self.remember(memos)?;
        }
        Ok(())
    }

    /// Keeps the parts until somebody writes again, in front of those of the same message that are kept already. `memos`
    /// are remembered with it.
    fn keep(&self, book: &mut Book, part: &Part<'_>, mut memos: Vec<Memo>) -> Result<String, SendError> {
        let cause = no_room(&book.place);
        let begun = self.whole.number > 0;
        if self.kind == OutboundKind::Direct && !begun {
            return Err(SendError::Reject { cause });
        }
        let rest = self.rest(part.key);
        let text = if begun { part.text.to_owned() } else { format!("{LATE}{}", part.text) };
        let before = rest.iter().map(|(key, _)| key.as_str()).find(|key| book.waiting.holds(key));
        let Some(pieces) = book.waiting.add(part.key, &text, before) else {
            let cause = format!("{cause}; and {} parts wait there already", limits::QQBOT_WAITING_MAX);
            return Err(SendError::Reject { cause });
        };
        memos.extend(pieces);
        memos.extend(keep_rest(book, &rest));
        memos.push(book.waiting.memo());
        self.remember(memos)?;
        log::warn!(target: &self.name, "{cause}: the message waits until somebody writes in {} again", book.place.chat());
        Ok(KEPT.to_owned())
    }

    /// Sends one part with the pair that it has, or gets now. `memos` are remembered together with a new one, and taken
    /// out; what is in there when there is no room is still to be remembered.
    fn deliver(
        &self,
        book: &mut Book,
        key: &str,
        text: &str,
        reply_to: Option<&str>,
        memos: &mut Vec<Memo>,
        deadline: Deadline,
    ) -> Result<String, Unsent> {
        let mut tried = book.window.pair(key).is_some();
        let doubtful = if tried && !book.place.counts() { DOUBTFUL } else { "" };
        let mut links = Links::AsTheyAre;
        for _ in 0..FORMS_MAX {
            let pair = match book.window.pair(key) {
                Some(pair) => pair,
                None => {
                    let Some(pair) = book.window.take(key, reply_to, clock::wall_ms()) else { return Err(Unsent::NoRoom) };
                    memos.push(book.window.memo());
                    self.remember(std::mem::take(memos))?;
                    pair
                }
            };
            let markdown = self.markdown.load(Ordering::Relaxed);
            let body = payload(&book.place, &pair, &format!("{doubtful}{}", links.apply(&plain::plain(text))), markdown)?;
            let error = match self.api.call("sending a message", "POST", &book.place.messages(), Some(&body), deadline) {
                Ok(answer) => return Ok(id_of(&answer, &pair)),
                Err(error) => error,
            };
            match error.class() {
                Some(Class::Duplicate) if tried => return Ok(id_of(&Value::Null, &pair)),
                // The number was used by somebody else: another gateway with this bot, or one that has lost its memory.
                Some(Class::Duplicate) => book.window.give_up(key),
                Some(Class::NoRoom) => {
                    log::info!(target: &self.name, "{error}; trying to reply to another message of {}", book.place.chat());
                    book.window.give_up(key);
                    book.window.close(&pair.id);
                    memos.push(book.window.memo());
                    tried = false;
                }
                Some(Class::Markdown) if markdown => {
                    log::info!(target: &self.name, "{error}; sending plain text from now on");
                    self.markdown.store(false, Ordering::Relaxed);
                }
                Some(Class::Link) if links.stricter().is_some() => {
                    log::info!(target: &self.name, "{error}; writing addresses differently");
                    links = links.stricter().unwrap_or(links);
                }
                _ => return Err(self.failed(&error, book, key).into()),
            }
        }
        Err(SendError::Reject { cause: "sending a message: refused in every form".to_owned() }.into())
    }

    fn failed(&self, error: &ApiError, book: &mut Book, key: &str) -> SendError {
        let counts = book.place.counts();
        if !counts && error.class().is_some() {
            // It was refused: the next attempt is no duplicate.
            book.window.give_back(key);
            if let Err(error) = self.remember(vec![book.window.memo()]) {
                return error;
            }
        }
        match error.for_outlet(counts) {
            SendError::Fatal { cause, remedy } => SendError::Fatal { cause, remedy: format!("{remedy} ([adapters.{}])", self.name) },
            error => error,
        }
    }
}

/// Keeps the parts that follow, as many as there is room for. The others are tried and refused in their turn.
fn keep_rest(book: &mut Book, rest: &[(String, &str)]) -> Vec<Memo> {
    let mut memos = Vec::new();
    for (key, text) in rest {
        if !book.waiting.holds(key) {
            memos.extend(book.waiting.add(key, text, None).unwrap_or_default());
        }
    }
    memos
}

/// The request for a part (QQ docs, "send").
fn payload(place: &Place, pair: &Pair, text: &str, markdown: bool) -> Result<Value, SendError> {
    if text.trim().is_empty() {
        return Err(SendError::Reject { cause: "there is nothing to be seen in the message".to_owned() });
    }
    let mut body = if markdown { json!({"markdown": {"content": text}}) } else { json!({"content": text}) };
    body["msg_id"] = json!(pair.id);
    if place.counts() {
        body["msg_type"] = json!(if markdown { 2 } else { 0 });
        body["msg_seq"] = json!(pair.seq);
    }
    Ok(body)
}

/// The id that recalls a message; its pair, if the answer has none.
fn id_of(answer: &Value, pair: &Pair) -> String {
    let id = answer.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
    id.map_or_else(|| format!("{}#{}", pair.id, pair.seq), str::to_owned)
}

fn store_failed(error: StoreError) -> SendError {
    match error {
        StoreError::Fenced | StoreError::Closed => SendError::Cancelled,
        other => SendError::Retry { cause: other.to_string(), after: None },
    }
}

fn no_room(place: &Place) -> String {
    let minutes = place.window().as_secs() / 60;
    format!(
        "QQ lets a bot only reply, five times to a message and within {minutes} minutes of it, and there is none in {} to reply to",
        place.chat()
    )
}

impl Outlet for QqOutlet {
    fn split(&self, text: &str) -> Vec<String> {
        split(text, Unit::Chars, PART_CHARS)
    }

    fn announce(&mut self, kind: OutboundKind) {
        self.kind = kind;
    }

    fn within(&mut self, key: &str, parts: &[String], number: usize) {
        if self.whole.key != key || self.whole.parts.len() != parts.len() {
            self.whole = Whole { key: key.to_owned(), parts: parts.to_vec(), number };
        }
        self.whole.number = number;
    }

    fn send(&mut self, part: &Part<'_>, deadline: Deadline) -> Result<String, SendError> {
        let mut book = self.open(part.chat)?;
        if book.waiting.holds(part.key) {
            return Ok(KEPT.to_owned());
        }
        let mut memos = Vec::new();
        if book.window.pair(part.key).is_none() {
            self.catch_up(&mut book, 1, deadline)?;
            let rest = self.rest(part.key);
            if book.window.room(clock::wall_ms()) == 1 && !rest.is_empty() {
                // In one commit with the pair: an attempt that is repeated finds the same.
                memos = keep_rest(&mut book, &rest);
                memos.push(book.waiting.memo());
            }
        }
        let text = if book.waiting.is_empty() { part.text.to_owned() } else { format!("{}{MORE}", part.text) };
        match self.deliver(&mut book, part.key, &text, part.reply_to, &mut memos, deadline) {
            Ok(id) => Ok(id),
            Err(Unsent::Failed(error)) => Err(error),
            Err(Unsent::NoRoom) => self.keep(&mut book, part, memos),
        }
    }

    fn edit(&mut self, _platform_id: &str, _part: &Part<'_>, _deadline: Deadline) -> Result<(), SendError> {
        Err(SendError::Reject { cause: "QQ cannot edit messages".to_owned() })
    }

    /// Once for each message, because it is one of its five replies. Says what had to wait instead, if there is something.
    fn typing(&mut self, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError> {
        let mut book = self.open(chat)?;
        if !book.waiting.is_empty() {
            return self.catch_up(&mut book, 1, deadline);
        }
        if !matches!(book.place, Place::Private(_)) {
            return Ok(());
        }
        let Some(pair) = book.window.take_typing(clock::wall_ms()) else { return Ok(()) };
        self.remember(vec![book.window.memo()])?;
        let notify = json!({"input_type": 1, "input_second": 60});
        let body = json!({"msg_type": 6, "input_notify": notify, "msg_id": pair.id, "msg_seq": pair.seq});
        let result = self.api.call("showing that an answer is coming", "POST", &book.place.messages(), Some(&body), deadline);
        result.map(drop).map_err(|error| error.for_outlet(true))
    }

    fn delete(&mut self, chat: &ChatRef, platform_id: &str, deadline: Deadline) -> Result<(), SendError> {
        let book = self.open(chat)?;
        let path = format!("{}/{}", book.place.messages(), crate::adapter::rest::escaped(platform_id));
        self.api.call("recalling a message", "DELETE", &path, None, deadline).map(drop).map_err(|error| error.for_outlet(true))
    }
}
