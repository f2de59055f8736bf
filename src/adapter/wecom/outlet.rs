//! Sending: streams in answer to a message, messages of their own for everything else. Owns the thread `adapter/NAME/send`.
//!
//! Everything goes over the inlet's connection, one frame at a time: the next one is sent when this one is acknowledged. A
//! stream's content replaces what it showed, so its frames can be repeated; a message of its own cannot.

use super::Line;
use super::inlet::Request;
use super::pace::{Pace, Use};
use super::protocol::{self, Ack, code, new_id};
use super::streams::{Callback, Chats, Known, NOBODY, Stream};
use crate::adapter::memos::Memos;
use crate::adapter::relay::RelayError;
use crate::adapter::sender::MAY_BE_A_DUPLICATE;
use crate::adapter::{Outlet, Part, Preview, SendError, SendLink};
use crate::clock::{self, Deadline};
use crate::core::types::{ChatRef, OutboundKind};
use crate::limits;
use crate::store::StoreError;
use crate::text::plain::plain;
use crate::text::split::{Unit, split};
use crate::thread::enter;
use std::sync::Arc;
use std::time::Duration;

/// Room for the mark of a duplicate is left.
const PART_BYTES: usize = limits::WECOM_TEXT_BYTES_MAX - 480;
/// Shown until there is something to say. WeCom shows it as thinking.
const PLACEHOLDER: &str = "<think></think>";
const LATER: &str = "_(this takes longer: the answer follows as a new message)_";
/// WeCom: quick updates of a stream conflict (6000).
const CONFLICT_PAUSE: Duration = Duration::from_millis(150);
const CONFLICTS_MAX: u32 = 3;

pub(super) struct WecomOutlet {
    link: SendLink,
    line: Arc<Line>,
    memos: Memos,
    pace: Pace,
    chats: Chats,
    kind: OutboundKind,
}

/// What came of finishing a stream with a message.
enum Finished {
    Done,
    /// WeCom does not take it there any more. `maybe`: but it may have before.
    Gone {
        maybe: bool,
        cause: String,
    },
}

impl WecomOutlet {
    pub fn new(line: &Arc<Line>, link: &SendLink) -> Self {
        Self {
            link: link.clone(),
            line: Arc::clone(line),
            memos: Memos::new(&link.name, &link.store),
            pace: Pace::default(),
            chats: Chats::default(),
            kind: OutboundKind::Reply,
        }
    }

    /// Fetches what the store knows of a chat's stream.
    fn load(&mut self, chat: &str) -> Result<(), SendError> {
        if self.chats.get(chat).is_none() {
            let known = self.memos.recall(&Known::key(chat)).map_err(store_failed)?;
            self.chats.insert(chat, known.and_then(|known| serde_json::from_str(&known).ok()), clock::wall_ms());
        }
        Ok(())
    }

    /// Notes the state of a chat's stream; it is on disk then.
    fn note(&mut self, chat: &str, known: Known) -> Result<(), SendError> {
        self.memos.remember(vec![known.memo(chat)]).map_err(store_failed)?;
        self.chats.change(chat, |shown| {
            if !shown.shows(&known.stream) {
                shown.text.clear();
            }
            shown.known = Some(known);
        });
        Ok(())
    }

    /// The stream is not the place of a reply any more.
    fn give_up(&mut self, chat: &str, stream: &Stream) -> Result<(), SendError> {
        if self.chats.get(chat).is_some_and(|shown| shown.shows(stream)) {
            self.note(chat, Known { stream: stream.clone(), ending: Some(NOBODY.to_owned()) })?;
        }
        Ok(())
    }

    /// A new stream in answer to the last message of the chat, if that has none yet.
    fn fresh(&self, chat: &str) -> Result<Option<Stream>, SendError> {
        let now_ms = clock::wall_ms();
        let last = self.memos.recall(&Callback::key(chat)).map_err(store_failed)?;
        let last = last.and_then(|last| serde_json::from_str::<Callback>(&last).ok()).filter(|last| last.is_fresh(now_ms));
        let used = self.chats.get(chat).and_then(|shown| shown.known.as_ref()).map(|known| known.stream.req.as_str());
        let last = last.filter(|last| Some(last.req.as_str()) != used);
        Ok(last.map(|last| Stream { req: last.req, id: new_id("stream"), begun_ms: now_ms }))
    }

    /// Waits for this chat's turn, within reason.
    fn wait_turn(&self, chat: &str, usage: Option<Use>, deadline: Deadline) -> Result<(), SendError> {
        let now = clock::now();
        let wait = usage.map_or_else(|| self.pace.blocked(chat, now), |usage| self.pace.wait(chat, usage, now));
        if wait.is_zero() {
            return Ok(());
        }
        if wait > limits::WECOM_PACE_WAIT || wait > deadline.remaining() {
            return Err(SendError::Retry { cause: "WeCom's limit on messages is reached".to_owned(), after: Some(wait) });
        }
        let _busy = enter(format_args!("wecom: keeping to the rate limit"), deadline);
        self.link.token.sleep(wait).map_err(|_| SendError::Cancelled)
    }

    /// Sends a frame and waits for its acknowledgement.
    fn exchange(&mut self, chat: &str, usage: Use, what: &str, req_id: &str, text: &str, deadline: Deadline) -> Result<Ack, RelayError> {
        self.pace.take(chat, usage, clock::now());
        let mut conflicts = 0;
        loop {
            let request = Request { req_id: req_id.to_owned(), text: text.to_owned() };
            let ack = self.line.call(what, request, deadline, limits::WECOM_ACK, &self.link.token)?;
            if ack.code == code::TOO_OFTEN {
                self.pace.block(chat, limits::WECOM_TOO_OFTEN, clock::now());
            }
            if ack.code != code::CONFLICT || conflicts == CONFLICTS_MAX {
                return Ok(ack);
            }
            conflicts += 1;
            self.link.token.sleep(CONFLICT_PAUSE).map_err(|_| RelayError::Cancelled)?;
        }
    }

    /// A frame of a stream. `first`: the server does not know the stream yet.
    fn frame(&mut self, chat: &str, stream: &Stream, text: &str, finish: bool, first: bool, deadline: Deadline) -> Result<Ack, RelayError> {
        let usage = if first { Use::Message } else { Use::Update };
        let frame = protocol::stream(&stream.req, &stream.id, text, finish);
        self.exchange(chat, usage, "aibot_respond_msg", &stream.req, &frame, deadline)
    }

    /// Shows something in a stream that is not finished by it.
    fn show(&mut self, chat: &str, stream: &Stream, text: &str, first: bool, deadline: Deadline) -> Result<(), SendError> {
        let ack = self.frame(chat, stream, text, false, first, deadline).map_err(|error| error.send_error(true))?;
        if ack.code == 0 {
            let shown = if text == PLACEHOLDER { "" } else { text };
            self.chats.change(chat, |chat| (chat.text, chat.last_frame) = (shown.to_owned(), Some(clock::now())));
            return Ok(());
        }
        let error = classify("aibot_respond_msg", &ack);
        if matches!(error, SendError::Reject { .. }) {
            self.give_up(chat, stream)?;
        }
        Err(error)
    }

    /// Puts a message into a stream, for good.
    fn finish(&mut self, stream: &Stream, part: &Part<'_>, first: bool, deadline: Deadline) -> Result<Finished, SendError> {
        let chat = part.chat.chat.as_str();
        let latest = self.chats.get(chat).and_then(|shown| shown.known.clone());
        let ours = latest.as_ref().is_none_or(|known| first || known.stream == *stream);
        let again = latest.is_some_and(|known| known.stream == *stream && known.is_ended_by(part.key));
        if !stream.is_alive(clock::wall_ms()) {
            return Ok(Finished::Gone { maybe: again, cause: "the stream is too old".to_owned() });
        }
        // What is repeated here replaces itself.
        let text = if again { part.text.strip_prefix(MAY_BE_A_DUPLICATE).unwrap_or(part.text) } else { part.text };
        let text = content(text)?;
        self.wait_turn(chat, first.then_some(Use::Message), deadline)?;
        if ours && !again {
            // Before the frame: after a crash it must be known whose message may stand there.
            self.note(chat, Known { stream: stream.clone(), ending: Some(part.key.to_owned()) })?;
        }
        let error = match self.frame(chat, stream, &text, true, first, deadline) {
            Ok(Ack { code: 0, .. }) => return Ok(Finished::Done),
            // An ended stream takes nothing more, and nobody else has ended it: the lost acknowledgement was a good one.
            Ok(Ack { code: code::STREAM_EXPIRED, .. }) if again => return Ok(Finished::Done),
            Ok(ack) => match classify("aibot_respond_msg", &ack) {
                SendError::Reject { cause } => return Ok(Finished::Gone { maybe: again, cause }),
                error => error,
            },
            Err(RelayError::Lost { cause }) => return Err(SendError::Retry { cause, after: None }),
            Err(error) => error.send_error(true),
        };
        if ours && !again {
            // It certainly does not stand there yet.
            self.chats.change(chat, |shown| shown.known = Some(Known::new(stream.clone())));
        }
        Err(error)
    }

    /// Ends a stream that is about to expire while its turn still works.
    fn end_in_time(&mut self, chat: &str, stream: &Stream, deadline: Deadline) -> Result<(), SendError> {
        let shown = self.chats.get(chat).filter(|shown| shown.shows(stream)).map(|shown| shown.text.clone()).unwrap_or_default();
        self.give_up(chat, stream)?;
        let text = if shown.is_empty() { LATER.to_owned() } else { format!("{shown}\n\n{LATER}") };
        let result = self.frame(chat, stream, &text, true, false, deadline);
        if let Err(error) = result {
            // It is tried again at the next occasion.
            self.chats.change(chat, |shown| shown.known = Some(Known::new(stream.clone())));
            return Err(error.send_error(true));
        }
        Ok(())
    }

    /// A message of its own.
    fn push(&mut self, chat: &str, text: &str, deadline: Deadline) -> Result<String, SendError> {
        self.wait_turn(chat, Some(Use::Message), deadline)?;
        let req_id = new_id("aibot_send_msg");
        let frame = protocol::push(&req_id, chat, &content(text)?);
        let ack =
            self.exchange(chat, Use::Message, "aibot_send_msg", &req_id, &frame, deadline).map_err(|error| error.send_error(false))?;
        if ack.code == 0 { Ok(req_id) } else { Err(classify("aibot_send_msg", &ack)) }
    }

    /// Where a message belongs: into the stream that it began to finish, or the one that waits for it, or a new one.
    /// → whether it is new
    fn place(&self, part: &Part<'_>) -> Result<Option<(Stream, bool)>, SendError> {
        if self.kind == OutboundKind::Direct {
            return Ok(None);
        }
        let chat = part.chat.chat.as_str();
        if let Some(shown) = self.chats.get(chat) {
            if let Some(known) = shown.known.as_ref().filter(|known| known.is_ended_by(part.key)) {
                return Ok(Some((known.stream.clone(), false)));
            }
            // A notice in the middle of a turn must not take the place of what is shown of the reply; a placeholder it may.
            let taken = self.kind == OutboundKind::Reply || shown.text.is_empty();
            if let Some(stream) = shown.open(clock::wall_ms()).filter(|_| taken) {
                return Ok(Some((stream, false)));
            }
        }
        Ok(self.fresh(chat)?.map(|stream| (stream, true)))
    }

    /// The stream in which the reply in the making is shown. `None`: there is none, or none any more.
    fn stage(&self, chat: &str, previous: Option<&str>) -> Result<Option<(Stream, bool)>, SendError> {
        let open = self.chats.get(chat).and_then(|shown| shown.open(clock::wall_ms()));
        match previous {
            Some(id) => Ok(open.filter(|open| Stream::parse(id).as_ref() == Some(open)).map(|open| (open, false))),
            None => match open {
                Some(open) => Ok(Some((open, false))),
                None => Ok(self.fresh(chat)?.map(|stream| (stream, true))),
            },
        }
    }
}

/// A text as it can be sent. Pure.
fn content(text: &str) -> Result<String, SendError> {
    let content = plain(text);
    let blank = || SendError::Reject { cause: "there is nothing to be seen in the message".to_owned() };
    if content.trim().is_empty() { Err(blank()) } else { Ok(content) }
}

/// What a refusal means for the message. Pure.
fn classify(what: &str, ack: &Ack) -> SendError {
    let cause = format!("{what}: {ack}");
    match ack.code {
        code::TOO_OFTEN => SendError::Retry { cause, after: Some(limits::WECOM_TOO_OFTEN) },
        code::BUSY | code::CONFLICT => SendError::Retry { cause, after: None },
        _ => SendError::Reject { cause },
    }
}

fn store_failed(error: StoreError) -> SendError {
    match error {
        StoreError::Fenced | StoreError::Closed => SendError::Cancelled,
        other => SendError::Retry { cause: other.to_string(), after: None },
    }
}

impl Outlet for WecomOutlet {
    fn split(&self, text: &str) -> Vec<String> {
        split(text, Unit::Bytes, PART_BYTES)
    }

    fn announce(&mut self, kind: OutboundKind) {
        self.kind = kind;
    }

    fn send(&mut self, part: &Part<'_>, deadline: Deadline) -> Result<String, SendError> {
        let chat = part.chat.chat.as_str();
        self.load(chat)?;
        let Some((stream, first)) = self.place(part)? else { return self.push(chat, part.text, deadline) };
        match self.finish(&stream, part, first, deadline)? {
            Finished::Done => Ok(stream.platform_id()),
            Finished::Gone { maybe, cause } => {
                log::info!(target: &self.link.name, "the reply becomes a message of its own: {cause}");
                self.give_up(chat, &stream)?;
                if maybe && !part.text.starts_with(MAY_BE_A_DUPLICATE) {
                    return self.push(chat, &format!("{MAY_BE_A_DUPLICATE}{}", part.text), deadline);
                }
                self.push(chat, part.text, deadline)
            }
        }
    }

    /// Finishes the stream of a preview. What is finished cannot be changed.
    fn edit(&mut self, platform_id: &str, part: &Part<'_>, deadline: Deadline) -> Result<(), SendError> {
        let chat = part.chat.chat.as_str();
        let gone = |cause: String| SendError::Reject { cause };
        let Some(stream) = Stream::parse(platform_id) else { return Err(gone("not the id of a stream".to_owned())) };
        self.load(chat)?;
        let known = self.chats.get(chat).and_then(|shown| shown.known.as_ref()).filter(|known| known.stream == stream);
        if known.is_some_and(|known| known.ending.is_some() && !known.is_ended_by(part.key)) {
            return Err(gone("the stream has ended".to_owned()));
        }
        match self.finish(&stream, part, false, deadline)? {
            Finished::Done => Ok(()),
            Finished::Gone { maybe, cause } => {
                // If it may stand there, `send` must know.
                if !maybe {
                    self.give_up(chat, &stream)?;
                }
                Err(gone(cause))
            }
        }
    }

    fn preview(&mut self, chat: &ChatRef, previous: Option<&str>, preview: &Preview, deadline: Deadline) -> Result<String, SendError> {
        let id = chat.chat.as_str();
        self.load(id)?;
        let Some((stream, first)) = self.stage(id, previous)? else {
            let nowhere = || SendError::Reject { cause: "there is no message in whose answer it could be shown".to_owned() };
            return previous.map(str::to_owned).ok_or_else(nowhere);
        };
        let shown = stream.platform_id();
        if !first && stream.is_ending(clock::wall_ms()) {
            return self.end_in_time(id, &stream, deadline).map(|()| shown);
        }
        let text = self.split(&plain(&preview.render())).pop().unwrap_or_default();
        let before = self.chats.get(id).cloned().unwrap_or_default();
        if text.is_empty() || (!first && text == before.text) {
            return if first { Err(SendError::Reject { cause: "there is nothing to be seen yet".to_owned() }) } else { Ok(shown) };
        }
        let wait = self.pace.wait(id, if first { Use::Opening } else { Use::Update }, clock::now());
        if !wait.is_zero() {
            return Err(SendError::Retry { cause: "too soon for another preview".to_owned(), after: Some(wait) });
        }
        // Short, and there may be no further preview for long: it is not left out.
        let pause = before.last_frame.map_or(Duration::ZERO, |at| limits::WECOM_FRAME_PAUSE.saturating_sub(at.elapsed()));
        self.link.token.sleep(pause).map_err(|_| SendError::Cancelled)?;
        if first {
            self.note(id, Known::new(stream.clone()))?;
        }
        match self.show(id, &stream, &text, first, deadline) {
            // The reply itself will find another way.
            Err(SendError::Reject { .. }) if previous.is_some() => Ok(shown),
            result => result.map(|()| shown),
        }
    }

    /// There is no typing sign: a placeholder is shown in the place of the reply, and ended in time if that is long in coming.
    fn typing(&mut self, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError> {
        let id = chat.chat.as_str();
        self.load(id)?;
        if let Some(open) = self.chats.get(id).and_then(|shown| shown.open(clock::wall_ms())) {
            return if open.is_ending(clock::wall_ms()) { self.end_in_time(id, &open, deadline) } else { Ok(()) };
        }
        let Some(stream) = self.fresh(id)? else { return Ok(()) };
        let wait = self.pace.wait(id, Use::Opening, clock::now());
        if !wait.is_zero() {
            return Err(SendError::Retry { cause: "too soon for a placeholder".to_owned(), after: Some(wait) });
        }
        self.note(id, Known::new(stream.clone()))?;
        self.show(id, &stream, PLACEHOLDER, true, deadline)
    }

    fn delete(&mut self, _chat: &ChatRef, _platform_id: &str, _deadline: Deadline) -> Result<(), SendError> {
        Err(SendError::Reject { cause: "WeCom's bots cannot delete messages".to_owned() })
    }
}
