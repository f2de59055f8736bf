//! The sending thread of an adapter, `adapter/NAME/send`: messages from the outbox, previews, the typing sign.
//!
//! Control puts work into the [`Mailbox`] and never waits. The thread commits "sending" before each attempt and
//! "sent" after it, so that after a crash it is known which part may have been delivered.

use super::{Outlet, Part, Preview, SendError, Traits, part_key};
use crate::clock::{self, Deadline};
use crate::core::event::Delivered;
use crate::core::record::{Op, OutboxRow, OutboxState, Outcome};
use crate::core::types::{ChatRef, OutboxId, TurnId};
use crate::limits;
use crate::store::{StoreError, StoreHandle};
use crate::thread::{CancelToken, wait_for_work};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Stands in front of what may have been delivered before.
pub const MAY_BE_A_DUPLICATE: &str = "(may be a duplicate)\n";

/// A message to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Job {
    outbox: OutboxId,
    turn: Option<TurnId>,
}

/// The streamed preview of one turn.
struct Streamed {
    chat: ChatRef,
    /// Not shown yet; only the latest counts.
    next: Option<Preview>,
    due: Instant,
    /// Where it is shown.
    platform_id: Option<String>,
    ended: bool,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    /// The one that the thread works on.
    current: Option<OutboxId>,
    typing: BTreeSet<ChatRef>,
    /// Where the typing sign is to go.
    quiet: BTreeSet<ChatRef>,
    previews: BTreeMap<TurnId, Streamed>,
}

/// What waits for one adapter's sender. Outlives the generations of the thread. No call blocks.
pub struct Mailbox {
    work: Mutex<Work>,
    wake_sender: Sender<()>,
    wake: Receiver<()>,
}

/// What the sender tells control. Must not block.
pub trait Report: Send {
    fn delivered(&self, outbox: OutboxId, result: Delivered);
    fn preview_shown(&self, turn: TurnId, platform_id: &str);
}

impl Default for Mailbox {
    fn default() -> Self {
        let (wake_sender, wake) = bounded(1);
        Self { work: Mutex::default(), wake_sender, wake }
    }
}

enum Next {
    Job(Job),
    Typing(ChatRef),
    Quiet(ChatRef),
    Preview { turn: TurnId, chat: ChatRef, previous: Option<String>, preview: Preview },
    Wait(Option<Instant>),
}

impl Mailbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, Work> {
        // Queues are valid after any panic.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the thread look for work.
    pub fn wake(&self) {
        let _ = self.wake_sender.try_send(());
    }

    /// Control hands over at most [`limits::SENDER_QUEUE_MAX`] at a time.
    pub fn deliver(&self, outbox: OutboxId, turn: Option<TurnId>) {
        let mut work = self.lock();
        if let Some(streamed) = turn.and_then(|turn| work.previews.get_mut(&turn)) {
            // What is not shown yet never will be: the reply is here.
            streamed.next = None;
        }
        work.jobs.push_back(Job { outbox, turn });
        drop(work);
        self.wake();
    }

    pub fn typing(&self, chat: ChatRef) {
        self.lock().typing.insert(chat);
        self.wake();
    }

    /// The work in a chat is done. Does not wake the thread: the reply, which comes at the same time, goes first.
    pub fn quiet(&self, chat: ChatRef) {
        let mut work = self.lock();
        work.typing.remove(&chat);
        work.quiet.insert(chat);
    }

    /// The latest state of a turn's reply; replaces one that was not shown yet.
    pub fn preview(&self, turn: TurnId, chat: &ChatRef, preview: Preview) {
        let mut work = self.lock();
        let entry = work.previews.entry(turn).or_insert_with(|| Streamed {
            chat: chat.clone(),
            next: None,
            due: clock::now(),
            platform_id: None,
            ended: false,
        });
        if !entry.ended {
            entry.next = Some(preview);
        }
        drop(work);
        self.wake();
    }

    /// An earlier process has shown this turn's reply in the making: it goes on there.
    pub fn resume_preview(&self, turn: TurnId, chat: &ChatRef, platform_id: String) {
        let streamed = Streamed { chat: chat.clone(), next: None, due: clock::now(), platform_id: Some(platform_id), ended: false };
        self.lock().previews.insert(turn, streamed);
    }

    /// No more previews of this turn are shown. Where one is shown is remembered for the reply that replaces it.
    pub fn turn_ended(&self, turn: TurnId) {
        let mut work = self.lock();
        if let Some(streamed) = work.previews.get_mut(&turn) {
            (streamed.ended, streamed.next) = (true, None);
        }
        let keep_from = work.previews.len().saturating_sub(limits::SENDER_QUEUE_MAX);
        let old: Vec<TurnId> = work.previews.iter().take(keep_from).filter(|(_, known)| known.ended).map(|(turn, _)| *turn).collect();
        for turn in old {
            work.previews.remove(&turn);
        }
    }

    fn next(&self) -> Next {
        let mut work = self.lock();
        work.current = None;
        if let Some(job) = work.jobs.pop_front() {
            work.current = Some(job.outbox);
            return Next::Job(job);
        }
        if let Some(chat) = work.quiet.pop_first() {
            return Next::Quiet(chat);
        }
        if let Some(chat) = work.typing.pop_first() {
            return Next::Typing(chat);
        }
        let now = clock::now();
        let mut due: Option<Instant> = None;
        for (turn, streamed) in &mut work.previews {
            if streamed.next.is_none() {
                continue;
            }
            if streamed.due <= now
                && let Some(preview) = streamed.next.take()
            {
                return Next::Preview { turn: *turn, chat: streamed.chat.clone(), previous: streamed.platform_id.clone(), preview };
            }
            due = Some(due.map_or(streamed.due, |due| due.min(streamed.due)));
        }
        Next::Wait(due)
    }

    fn shown(&self, turn: TurnId, platform_id: Option<&str>, pause: Duration) {
        if let Some(streamed) = self.lock().previews.get_mut(&turn) {
            streamed.due = clock::now() + pause;
            if let Some(platform_id) = platform_id {
                streamed.platform_id = Some(platform_id.to_owned());
            }
        }
    }

    /// It could not be shown yet: it is tried again, unless there is something newer to show by then. There may be nothing
    /// newer for long, while a tool runs.
    fn put_back(&self, turn: TurnId, preview: &Preview) {
        let mut work = self.lock();
        if work.jobs.iter().any(|job| job.turn == Some(turn)) {
            return; // The reply is here.
        }
        if let Some(streamed) = work.previews.get_mut(&turn).filter(|streamed| !streamed.ended && streamed.next.is_none()) {
            streamed.next = Some(preview.clone());
        }
    }

    /// Where the preview of a turn is shown; the reply replaces it.
    fn preview_of(&self, turn: TurnId) -> Option<String> {
        self.lock().previews.get(&turn).and_then(|streamed| streamed.platform_id.clone())
    }

    /// What a replaced thread has not reported on, and will not any more.
    pub fn untried(&self) -> Vec<OutboxId> {
        let mut work = self.lock();
        let current = work.current.take();
        let waiting: Vec<OutboxId> = work.jobs.drain(..).map(|job| job.outbox).collect();
        current.into_iter().chain(waiting).collect()
    }
}

/// One generation of the sending thread.
pub struct SendingThread<'a> {
    pub mailbox: &'a Mailbox,
    pub outlet: Box<dyn Outlet>,
    pub traits: Traits,
    /// Fenced by `token`.
    pub store: StoreHandle,
    pub token: &'a CancelToken,
    /// Shared, because the store's thread reports the end of a delivery.
    pub report: std::sync::Arc<dyn Report + Sync>,
    pub log_target: String,
}

impl SendingThread<'_> {
    /// Works until the token is cancelled.
    pub fn run(mut self) {
        while !self.token.is_cancelled() {
            match self.mailbox.next() {
                Next::Job(job) => self.deliver(job),
                Next::Typing(chat) => {
                    let _ = self.outlet.typing(&chat, Deadline::after(limits::TYPING));
                }
                Next::Quiet(chat) => {
                    if let Err(error) = self.outlet.quiet(&chat, Deadline::after(limits::TYPING)) {
                        log::debug!(target: &self.log_target, "the typing sign stays for now: {error:?}");
                    }
                }
                Next::Preview { turn, chat, previous, preview } => self.preview(turn, &chat, previous.as_deref(), &preview),
                Next::Wait(due) => self.wait(due),
            }
        }
    }

    fn wait(&self, due: Option<Instant>) {
        let _waiting = wait_for_work(format_args!("waiting for messages to send"));
        let due = due.unwrap_or_else(|| Deadline::after(limits::LONG_WAIT).instant());
        select! {
            recv(self.mailbox.wake) -> _ => {}
            recv(self.token.cancelled()) -> _ => {}
            recv(crossbeam_channel::at(due)) -> _ => {}
        }
    }

    fn preview(&mut self, turn: TurnId, chat: &ChatRef, previous: Option<&str>, preview: &Preview) {
        let result = self.outlet.preview(chat, previous, preview, Deadline::after(limits::PREVIEW));
        match result {
            Ok(platform_id) => {
                if previous != Some(&platform_id) {
                    self.report.preview_shown(turn, &platform_id);
                }
                self.mailbox.shown(turn, Some(&platform_id), self.traits.edit_interval);
            }
            Err(error) => {
                // The next preview, or the reply itself, makes up for it.
                let pause = match &error {
                    SendError::Retry { after: Some(after), .. } => *after,
                    _ => self.traits.edit_interval * 4,
                };
                self.mailbox.shown(turn, None, pause);
                if matches!(error, SendError::Retry { .. }) {
                    self.mailbox.put_back(turn, preview);
                }
                log::debug!(target: &self.log_target, "preview not shown: {error:?}");
            }
        }
    }

    fn call(&self, op: Op) -> Result<Outcome, StoreError> {
        self.store.call(op, Deadline::after(limits::STORE_CALL))
    }

    fn deliver(&mut self, job: Job) {
        let outbox = job.outbox;
        let result = match self.call(Op::BeginSending { outbox }) {
            Ok(Outcome::Outbox(Some(row))) => match row.state {
                OutboxState::Sent => Some(Delivered::Sent),
                OutboxState::Failed => Some(Delivered::Reject { cause: "it was given up before".to_owned() }),
                OutboxState::Pending | OutboxState::Sending => self.deliver_row(&row, job.turn),
            },
            Ok(_) => Some(Delivered::Reject { cause: "its row is gone".to_owned() }),
            Err(_) => Some(Delivered::Untried),
        };
        if let Some(result) = result {
            self.report.delivered(outbox, result);
        }
    }

    /// The row is marked as being sent, its next part that is. `None`: the store's thread will report.
    fn deliver_row(&mut self, row: &OutboxRow, turn: Option<TurnId>) -> Option<Delivered> {
        let parts = self.outlet.split(&row.message.text);
        let next = row.sent_parts.len();
        let Some(last) = parts.len().checked_sub(1).filter(|last| next <= *last) else {
            let cause = if parts.is_empty() { "the text is empty" } else { "it was split into more parts when it was begun" };
            return Some(Delivered::Reject { cause: cause.to_owned() });
        };
        let shown = turn.and_then(|turn| self.mailbox.preview_of(turn));
        let mut replaces = row.message.replaces.clone().or(shown);
        let mut attempted_before = row.ambiguous;
        for (number, text) in parts.iter().enumerate().skip(next) {
            let part_number = u32::try_from(number).unwrap_or(u32::MAX);
            if number > next {
                attempted_before = match self.call(Op::MarkSending { outbox: row.id, part: part_number }) {
                    Ok(Outcome::Sending { attempted_before }) => attempted_before,
                    Ok(_) | Err(StoreError::Bug(_)) => return Some(Delivered::Reject { cause: "its row is gone".to_owned() }),
                    Err(_) => return Some(Delivered::Untried),
                };
            }
            let replaces = if number == 0 { replaces.take() } else { None };
            self.outlet.within(&row.key, &parts, number);
            let platform_id = match self.attempt(row, number, number == last, text, replaces, attempted_before) {
                Ok(platform_id) => platform_id,
                Err(result) => return Some(result),
            };
            let op = Op::MarkPartSent { outbox: row.id, part: part_number, platform_id, last: number == last };
            if number == last {
                // Nobody has to wait for this commit but the report. It goes along with the next message's beginning.
                let (report, outbox) = (std::sync::Arc::clone(&self.report), row.id);
                self.store.submit(op, move |result| {
                    report.delivered(outbox, if result.is_ok() { Delivered::Sent } else { Delivered::Untried });
                });
            } else if self.call(op).is_err() {
                return Some(Delivered::Untried);
            }
        }
        None
    }

    fn attempt(
        &mut self,
        row: &OutboxRow,
        number: usize,
        last: bool,
        text: &str,
        replaces: Option<String>,
        attempted_before: bool,
    ) -> Result<String, Delivered> {
        let deadline = Deadline::after(limits::SEND);
        self.outlet.announce(row.message.kind);
        let key = part_key(&row.key, number);
        let reply_to = row.message.reply_to.as_deref().filter(|_| number == 0);
        let buttons = if last { row.message.buttons.as_slice() } else { &[] };
        let part = Part { chat: &row.message.chat, text, reply_to, buttons, key: &key };
        if let Some(platform_id) = replaces {
            // An edit can be repeated: no mark is needed.
            match self.outlet.edit(&platform_id, &part, deadline) {
                Ok(()) => return Ok(platform_id),
                Err(SendError::Reject { .. }) => {} // The preview is gone: a new message then.
                Err(SendError::Ambiguous { cause }) => return Err(Delivered::Retry { cause, after_ms: None }),
                Err(error) => return Err(result_of(error, false)),
            }
        }
        let marked;
        let text = if attempted_before && !self.traits.idempotent {
            marked = format!("{MAY_BE_A_DUPLICATE}{text}");
            marked.as_str()
        } else {
            text
        };
        self.outlet.send(&Part { text, ..part }, deadline).map_err(|error| result_of(error, attempted_before))
    }
}

fn result_of(error: SendError, attempted_before: bool) -> Delivered {
    match error {
        SendError::Cancelled => Delivered::Untried,
        SendError::Retry { cause, after } => {
            Delivered::Retry { cause, after_ms: after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)) }
        }
        SendError::Ambiguous { cause } => Delivered::Ambiguous { cause, repeated: attempted_before },
        SendError::Reject { cause } => Delivered::Reject { cause },
        SendError::Fatal { cause, remedy } => Delivered::Fatal { cause, remedy },
        SendError::Moved { chat } => Delivered::Moved { chat },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> ChatRef {
        ChatRef { adapter: "a".to_owned(), chat: "c".to_owned(), thread: None }
    }

    fn preview(text: &str) -> Preview {
        Preview { text: text.to_owned(), ..Preview::default() }
    }

    /// What is to be shown now.
    fn next(mailbox: &Mailbox) -> Option<Preview> {
        match mailbox.next() {
            Next::Preview { preview, .. } => Some(preview),
            _ => None,
        }
    }

    #[test]
    fn a_preview_that_came_too_soon_is_shown_later_unless_there_is_something_newer() {
        let mailbox = Mailbox::default();
        mailbox.preview(1, &chat(), preview("one"));
        let one = next(&mailbox).expect("due");
        mailbox.put_back(1, &one);
        assert_eq!(next(&mailbox), Some(preview("one")));
        mailbox.preview(1, &chat(), preview("two"));
        mailbox.put_back(1, &one);
        assert_eq!(next(&mailbox), Some(preview("two")));
        mailbox.deliver(7, Some(1));
        mailbox.put_back(1, &one);
        assert!(matches!(mailbox.next(), Next::Job(_)));
        assert_eq!(next(&mailbox), None, "the reply is here");
        mailbox.turn_ended(1);
        mailbox.put_back(1, &one);
        assert_eq!(next(&mailbox), None);
    }

    #[test]
    fn ended_turns_are_forgotten() {
        let mailbox = Mailbox::default();
        for number in 0..1000 {
            let turn = TurnId::from(number);
            mailbox.preview(turn, &chat(), preview("x"));
            mailbox.turn_ended(turn);
        }
        assert!(mailbox.lock().previews.len() <= limits::SENDER_QUEUE_MAX);
    }
}
