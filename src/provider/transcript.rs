//! The transcript as providers accept it.
//!
//! Pure but for reading images. A stored transcript may begin in the middle, hold a tool call that was cut by a crash,
//! or ids of another provider. Both protocols refuse such a request as a whole, so it is mended here, once for both:
//! roles alternate and the user begins, each tool call is answered in the next message, results come before text,
//! nothing is empty, ids are unique and spelt in the alphabet that both take.

use super::images::{Image, Images};
use crate::core::types::{Block, Message, Role};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashSet;

/// Characters of a tool call's id. Chat Completions refuses longer ones.
const ID_CHARS_MAX: usize = 40;
/// Characters of a tool's name; the smaller of the limits of both protocols.
const NAME_CHARS_MAX: usize = 64;
const BEGINNING: &str = "(The beginning of this conversation is left out.)";
const NO_RESULT: &str = "(no result: the call was interrupted; it may or may not have had an effect)";
const NO_OUTPUT: &str = "(no output)";

/// A message as it goes onto the wire.
#[derive(Debug, PartialEq)]
pub(super) struct Entry<'a> {
    pub(super) role: Role,
    pub(super) pieces: Vec<Piece<'a>>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    Text(Cow<'a, str>),
    Image(Image),
    ToolUse { id: String, name: Cow<'a, str>, input: Cow<'a, Value> },
    ToolResult { id: String, content: &'a str, is_error: bool },
    Thinking { thinking: &'a str, signature: &'a str },
    RedactedThinking { data: &'a str },
}

/// A tool call that waits for its result.
struct OpenCall<'a> {
    stored_id: &'a str,
    sent_id: String,
    answered: bool,
}

/// Mends `messages`. Images are read from disk here.
pub(super) fn prepare(messages: &[Message]) -> Vec<Entry<'_>> {
    let mut builder = Builder { entries: Vec::new(), open: Vec::new(), ids: HashSet::new(), images: load_images(messages).into_iter() };
    for message in messages {
        match message.role {
            Role::User => builder.user(message),
            Role::Assistant => builder.assistant(message),
        }
    }
    builder.close_calls();
    let mut entries = builder.entries;
    if entries.first().is_some_and(|entry| entry.role == Role::Assistant) {
        entries.insert(0, Entry { role: Role::User, pieces: vec![Piece::Text(BEGINNING.into())] });
    }
    entries
}

/// All images of user messages, in the order of the transcript, read from the newest to the oldest.
fn load_images(messages: &[Message]) -> Vec<Result<Image, String>> {
    let mut images = Images::new();
    let users = messages.iter().filter(|message| message.role == Role::User);
    let paths: Vec<&str> = users
        .flat_map(|message| &message.blocks)
        .filter_map(|block| if let Block::Image { path, .. } = block { Some(path.as_str()) } else { None })
        .collect();
    let mut loaded: Vec<_> = paths.iter().rev().map(|path| images.load(path)).collect();
    loaded.reverse();
    loaded
}

struct Builder<'a> {
    entries: Vec<Entry<'a>>,
    /// The calls of the last assistant entry.
    open: Vec<OpenCall<'a>>,
    /// All ids that were given out.
    ids: HashSet<String>,
    images: std::vec::IntoIter<Result<Image, String>>,
}

impl<'a> Builder<'a> {
    fn user(&mut self, message: &'a Message) {
        let mut pieces = Vec::new();
        for block in &message.blocks {
            match block {
                Block::Text { text } if !text.trim().is_empty() => pieces.push(Piece::Text(text.into())),
                Block::Image { .. } => pieces.push(match self.images.next() {
                    Some(Ok(image)) => Piece::Image(image),
                    Some(Err(note)) => Piece::Text(note.into()),
                    None => continue,
                }),
                Block::ToolResult { tool_use_id, content, is_error } => {
                    // A result without its call (the call was left out with older messages) says nothing to the model.
                    let call = self.open.iter_mut().find(|call| !call.answered && call.stored_id == tool_use_id);
                    let Some(call) = call else { continue };
                    call.answered = true;
                    let content = if content.trim().is_empty() { NO_OUTPUT } else { content };
                    pieces.push(Piece::ToolResult { id: call.sent_id.clone(), content, is_error: *is_error });
                }
                _ => {}
            }
        }
        self.append(Role::User, pieces);
    }

    fn assistant(&mut self, message: &'a Message) {
        let mut pieces = Vec::new();
        let mut calls = Vec::new();
        for block in &message.blocks {
            match block {
                Block::Text { text } if !text.trim().is_empty() => pieces.push(Piece::Text(text.into())),
                Block::ToolUse { id, name, input } => {
                    let sent_id = self.unique_id(id);
                    calls.push(OpenCall { stored_id: id, sent_id: sent_id.clone(), answered: false });
                    pieces.push(Piece::ToolUse { id: sent_id, name: spell(name, NAME_CHARS_MAX), input: object(input) });
                }
                // Without a signature it is refused; it then came from elsewhere, or is a part of one.
                Block::Thinking { thinking, signature } if !signature.is_empty() => pieces.push(Piece::Thinking { thinking, signature }),
                Block::RedactedThinking { data } if !data.is_empty() => pieces.push(Piece::RedactedThinking { data }),
                _ => {}
            }
        }
        let says = |piece: &Piece<'_>| !matches!(piece, Piece::Thinking { .. } | Piece::RedactedThinking { .. });
        if !pieces.iter().any(says) {
            // A message may not consist of thinking alone.
            return;
        }
        if self.entries.last().is_some_and(|entry| entry.role == Role::User) {
            self.close_calls();
        }
        self.open.extend(calls);
        self.append(Role::Assistant, pieces);
    }

    fn append(&mut self, role: Role, pieces: Vec<Piece<'a>>) {
        if pieces.is_empty() {
            return;
        }
        match self.entries.last_mut() {
            Some(last) if last.role == role => last.pieces.extend(pieces),
            _ => self.entries.push(Entry { role, pieces }),
        }
    }

    /// Ends the exchange with the last assistant entry: unanswered calls get a result that says so, and the results
    /// move in front of the text.
    fn close_calls(&mut self) {
        let open = std::mem::take(&mut self.open);
        if open.is_empty() {
            return;
        }
        let missing = open.iter().filter(|call| !call.answered);
        let missing = missing.map(|call| Piece::ToolResult { id: call.sent_id.clone(), content: NO_RESULT, is_error: true }).collect();
        self.append(Role::User, missing);
        if let Some(entry) = self.entries.last_mut() {
            let place = |id: &str| open.iter().position(|call| call.sent_id == id);
            // The sort is stable: results in the order of their calls, then everything else as it was.
            entry.pieces.sort_by_key(|piece| if let Piece::ToolResult { id, .. } = piece { place(id).unwrap_or(0) } else { usize::MAX });
        }
    }

    fn unique_id(&mut self, stored: &str) -> String {
        let base = if stored.is_empty() { Cow::Borrowed("call") } else { spell(stored, ID_CHARS_MAX) };
        let mut id = base.clone().into_owned();
        let mut number = 2;
        while !self.ids.insert(id.clone()) {
            let suffix = format!("_{number}");
            let keep = base.chars().take(ID_CHARS_MAX - suffix.len());
            id = keep.chain(suffix.chars()).collect();
            number += 1;
        }
        id
    }
}

/// `word` in the alphabet of names and ids (`[a-zA-Z0-9_-]`), not longer than `chars_max`.
fn spell(word: &str, chars_max: usize) -> Cow<'_, str> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !word.is_empty() && word.len() <= chars_max && word.chars().all(good) {
        return word.into();
    }
    if word.is_empty() {
        return "unnamed".into();
    }
    word.chars().take(chars_max).map(|c| if good(c) { c } else { '_' }).collect::<String>().into()
}

/// The input of a tool must be an object.
fn object(input: &Value) -> Cow<'_, Value> {
    match input {
        Value::Object(_) => Cow::Borrowed(input),
        Value::Null => Cow::Owned(serde_json::json!({})),
        other => Cow::Owned(serde_json::json!({ "value": other })),
    }
}

#[cfg(test)]
#[path = "transcript_tests.rs"]
mod tests;
