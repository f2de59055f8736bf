//! Tests of the store: every operation, groups, faults of the disk, death of the process, and a model of it all.
#![allow(clippy::disallowed_methods)] // Tests start processes and wait for them.

mod crash;
mod faults;
mod handle;
mod load;
mod model;
mod opening;
mod ops;
mod schedule;

use super::open;
use super::request::{Answer, Reply, Request};
use super::thread::Engine;
use super::{StoreError, StoreHandle, StoreThread, health::Health, schema};
use crate::clock::Deadline;
use crate::core::record::*;
use crate::core::types::*;
use crate::thread::{CancelToken, Threads};
use crossbeam_channel::bounded;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// An open store in a directory that goes away with it.
struct Fixture {
    directory: tempfile::TempDir,
    handle: StoreHandle,
    thread: StoreThread,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("scratch");
        let (handle, thread) = open_store(&directory.path().join("state.db"));
        Self { directory, handle, thread }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state.db")
    }

    fn call(&self, op: Op) -> Answer {
        self.handle.call(op, soon())
    }

    fn expect(&self, op: Op) -> Outcome {
        let name = super::ops::name(&op);
        self.call(op).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn reopen(self) -> Self {
        let Self { directory, handle, thread } = self;
        assert!(thread.close(soon()));
        drop(handle);
        let (handle, thread) = open_store(&directory.path().join("state.db"));
        Self { directory, handle, thread }
    }

    fn accept(&self, message_id: &str) -> InboxId {
        inbox_of(self.expect(accept(message_id, None)))
    }

    /// Accepts a message and begins turn `turn` with it.
    fn begin(&self, turn: TurnId) -> InboxId {
        inbox_of(self.expect(accept(&format!("of turn {turn}"), Some(start(turn)))))
    }

    fn recovered(&self) -> Recovered {
        match self.expect(Op::Recover { now_ms: 0 }) {
            Outcome::Recovered(recovered) => *recovered,
            other => panic!("{other:?}"),
        }
    }

    fn transcript(&self, messages_max: usize) -> Vec<Message> {
        match self.expect(Op::LoadTranscript { session: SESSION.to_owned(), messages_max }) {
            Outcome::Transcript(messages) => messages,
            other => panic!("{other:?}"),
        }
    }

    fn outbox(&self, outbox: OutboxId) -> OutboxRow {
        match self.expect(Op::LoadOutbox { outbox }) {
            Outcome::Outbox(Some(row)) => *row,
            other => panic!("{other:?}"),
        }
    }

    fn enqueue(&self, text: &str) -> OutboxId {
        match self.expect(Op::Enqueue { messages: vec![outbound(text)], dedupe: None, now_ms: 5 }) {
            Outcome::Queued(queued) => queued[0],
            other => panic!("{other:?}"),
        }
    }

    fn figures(&self) -> Figures {
        match self.expect(Op::Figures) {
            Outcome::Figures(figures) => figures,
            other => panic!("{other:?}"),
        }
    }
}

fn open_store(path: &Path) -> (StoreHandle, StoreThread) {
    super::open(path, &Threads::new(), CancelToken::new(), soon()).unwrap_or_else(|error| panic!("{error}"))
}

/// The engine without its thread, so that a test decides what is in a group.
fn engine(path: &Path) -> (Engine, Arc<Health>) {
    let (steps, _receiver) = bounded(8);
    let connection = open::database(path, schema::MIGRATIONS, &steps).unwrap_or_else(|error| panic!("{error}"));
    let health = Arc::new(Health::default());
    (Engine::new(connection, Arc::clone(&health)), health)
}

/// Runs the operations as one group. → their answers, in order.
fn group(engine: &mut Engine, operations: Vec<Op>) -> Vec<Answer> {
    let (requests, answers): (Vec<_>, Vec<_>) = operations
        .into_iter()
        .map(|op| {
            let (sender, answer) = bounded(1);
            (Request { op, fences: Vec::new(), reply: Reply::Waiting(sender) }, answer)
        })
        .unzip();
    engine.run(requests);
    answers.iter().map(|answer| answer.try_recv().expect("answered")).collect()
}

const SESSION: &str = "test:room";

fn chat() -> ChatRef {
    ChatRef { adapter: "test".to_owned(), chat: "room".to_owned(), thread: None }
}

fn inbound(message_id: &str) -> Inbound {
    Inbound {
        chat: chat(),
        message_id: message_id.to_owned(),
        sender: "ana".to_owned(),
        sender_name: "Ana".to_owned(),
        text: format!("text of {message_id}"),
        attachments: Vec::new(),
        quote: None,
        private: true,
        addressed: true,
        sent_ms: 1,
    }
}

fn accept(message_id: &str, begin: Option<TurnStart>) -> Op {
    Op::Accept { inbound: Box::new(inbound(message_id)), receipt: None, received_ms: 100, begin, done: false }
}

fn start(turn: TurnId) -> TurnStart {
    TurnStart { turn, session: SESSION.to_owned(), message: said(Role::User, &format!("question {turn}")), started_ms: 100 + turn }
}

fn said(role: Role, text: &str) -> Message {
    Message::text(role, text)
}

fn outbound(text: &str) -> Outbound {
    Outbound {
        chat: chat(),
        kind: OutboundKind::Reply,
        text: text.to_owned(),
        reply_to: Some("7".to_owned()),
        replaces: None,
        buttons: Vec::new(),
    }
}

fn finish(turn: TurnId, replies: &[&str]) -> Op {
    Op::FinishTurn(Box::new(TurnFinish {
        turn,
        state: TurnState::Done,
        messages: vec![said(Role::Assistant, &format!("answer {turn}"))],
        replies: replies.iter().map(|text| outbound(text)).collect(),
        usage: Usage { input_tokens: 10, output_tokens: 2, cache_read_tokens: 0, cache_write_tokens: 1 },
        ended_ms: 200 + turn,
    }))
}

fn question(turn: TurnId) -> Question {
    Question {
        turn,
        session: SESSION.to_owned(),
        chat: chat(),
        what: "rm -rf build".to_owned(),
        why: "deletes files".to_owned(),
        expires_ms: 900,
    }
}

fn inbox_of(outcome: Outcome) -> InboxId {
    match outcome {
        Outcome::Accepted { inbox } => inbox,
        other => panic!("{other:?}"),
    }
}

fn unavailable(answer: &Answer) -> bool {
    matches!(answer, Err(StoreError::Unavailable(_)))
}
