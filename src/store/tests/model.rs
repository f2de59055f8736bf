//! Random sequences of operations, in random groups, with the store closed and opened between them, against a model
//! in plain memory that knows nothing of SQL, groups or savepoints.

use super::*;
use crate::store::repair::repair;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone)]
struct Turn {
    session: String,
    epoch: u32,
    inbox: InboxId,
    running: bool,
    attempt: u32,
    started_ms: i64,
    preview: Option<String>,
}

#[derive(Clone, Default)]
struct Session {
    epoch: u32,
    started_ms: i64,
    turns: u64,
    usage: Usage,
    /// Epoch, turn, message.
    messages: Vec<(u32, TurnId, Message)>,
}

/// What the next operation may touch: the state alone, no history.
#[derive(Clone, Default)]
struct Model {
    inbox: BTreeMap<InboxId, (Inbound, InboxState, Option<TurnId>)>,
    cursor: Option<String>,
    memos: BTreeMap<String, String>,
    turns: BTreeMap<TurnId, Turn>,
    sessions: BTreeMap<String, Session>,
    outbox: BTreeMap<OutboxId, (OutboxRow, bool)>,
    keys: BTreeSet<String>,
    approvals: BTreeMap<ApprovalId, (Question, ApprovalState)>,
}

/// As [`StoreError`], without the texts.
#[derive(Debug, PartialEq)]
enum Refusal {
    Fenced,
    Bug,
}

type Expected = Result<Outcome, Refusal>;

impl Model {
    /// All of the operation or nothing of it.
    fn apply(&mut self, op: &Op) -> Expected {
        let mut next = self.clone();
        let result = next.change(op);
        if result.is_ok() {
            *self = next;
        }
        result
    }

    fn running(&mut self, turn: TurnId) -> Result<&mut Turn, Refusal> {
        self.turns.get_mut(&turn).filter(|turn| turn.running).ok_or(Refusal::Fenced)
    }

    fn remember(&mut self, memos: &[Memo]) {
        for Memo { key, value } in memos {
            match value {
                Some(value) => drop(self.memos.insert(key.clone(), value.clone())),
                None => drop(self.memos.remove(key)),
            }
        }
    }

    fn begin(&mut self, start: &TurnStart, inbox: InboxId) -> Result<(), Refusal> {
        if self.turns.contains_key(&start.turn) {
            return Err(Refusal::Bug);
        }
        let session = self.sessions.entry(start.session.clone()).or_default();
        if session.started_ms == 0 {
            session.started_ms = start.started_ms;
        }
        let epoch = session.epoch;
        session.messages.push((epoch, start.turn, start.message.clone()));
        let (session, started_ms) = (start.session.clone(), start.started_ms);
        self.turns.insert(start.turn, Turn { session, epoch, inbox, running: true, attempt: 1, started_ms, preview: None });
        Ok(())
    }

    fn append(&mut self, turn: TurnId, messages: &[Message], usage: Usage, ended: bool) {
        let (name, epoch) = (self.turns[&turn].session.clone(), self.turns[&turn].epoch);
        let session = self.sessions.get_mut(&name).expect("begun");
        session.messages.extend(messages.iter().map(|message| (epoch, turn, message.clone())));
        if session.epoch == epoch {
            session.usage.add(usage);
            session.turns += u64::from(ended);
        }
    }

    fn enqueue(&mut self, message: &Outbound, now_ms: i64) -> OutboxId {
        let id = self.outbox.len() as i64 + 1;
        let row = OutboxRow {
            id,
            message: message.clone(),
            state: OutboxState::Pending,
            sent_parts: vec![],
            ambiguous: false,
            key: String::new(),
            attempts: 0,
            not_before_ms: 0,
            created_ms: now_ms,
            error: None,
        };
        self.outbox.insert(id, (row, false));
        id
    }

    fn change(&mut self, op: &Op) -> Expected {
        match op {
            Op::Accept { inbound, receipt, begin, done, .. } => {
                self.remember(receipt.as_ref().map_or(&[], |receipt| &receipt.memos));
                if let Some(cursor) = receipt.as_ref().and_then(|receipt| receipt.cursor.clone()) {
                    self.cursor = Some(cursor);
                }
                if let Some((inbox, _)) = self.inbox.iter().find(|(_, (known, ..))| known.message_id == inbound.message_id) {
                    return Ok(Outcome::Duplicate { inbox: *inbox });
                }
                let inbox = self.inbox.len() as i64 + 1;
                let state = match begin {
                    Some(_) => InboxState::Running,
                    None if *done => InboxState::Done,
                    None => InboxState::Waiting,
                };
                self.inbox.insert(inbox, (inbound.as_ref().clone(), state, begin.as_ref().map(|start| start.turn)));
                if let Some(start) = begin {
                    self.begin(start, inbox)?;
                }
                Ok(Outcome::Accepted { inbox })
            }
            Op::BeginTurn { start, inbox } => {
                let row = self.inbox.get_mut(inbox).filter(|(_, state, _)| *state == InboxState::Waiting).ok_or(Refusal::Fenced)?;
                (row.1, row.2) = (InboxState::Running, Some(start.turn));
                self.begin(start, *inbox).map(|()| Outcome::Done)
            }
            Op::ResumeTurn { turn, attempt } => {
                self.running(*turn)?.attempt = *attempt;
                Ok(Outcome::Done)
            }
            Op::Preview { turn, platform_id } => {
                self.running(*turn)?.preview = Some(platform_id.clone());
                Ok(Outcome::Done)
            }
            Op::CommitRound { turn, messages, adopted, usage } => {
                self.running(*turn)?;
                self.append(*turn, messages, *usage, false);
                for inbox in adopted {
                    if let Some(row) = self.inbox.get_mut(inbox).filter(|(_, state, _)| *state == InboxState::Waiting) {
                        (row.1, row.2) = (InboxState::Running, Some(*turn));
                    }
                }
                Ok(Outcome::Done)
            }
            Op::FinishTurn(end) => {
                self.running(end.turn)?.running = false;
                self.append(end.turn, &end.messages, end.usage, true);
                for row in self.inbox.values_mut().filter(|(_, _, turn)| *turn == Some(end.turn)) {
                    row.1 = InboxState::Done;
                }
                for (asked, state) in self.approvals.values_mut() {
                    if asked.turn == end.turn && *state == ApprovalState::Pending {
                        *state = ApprovalState::Cancelled;
                    }
                }
                Ok(Outcome::Finished { queued: end.replies.iter().map(|reply| self.enqueue(reply, end.ended_ms)).collect() })
            }
            Op::CloseInbox { inbox } => {
                let row = self.inbox.get_mut(inbox).filter(|(_, state, _)| *state != InboxState::Running).ok_or(Refusal::Fenced)?;
                row.1 = InboxState::Done;
                Ok(Outcome::Done)
            }
            _ => self.converse(op),
        }
    }

    fn take_back(&mut self, session: &str) -> Expected {
        let Some(session) = self.sessions.get_mut(session) else { return Ok(Outcome::Undone(None)) };
        let epoch = session.epoch;
        let Some(turn) = session.messages.iter().rev().find(|(of, ..)| *of == epoch).map(|(_, turn, _)| *turn) else {
            return Ok(Outcome::Undone(None));
        };
        if self.turns[&turn].running {
            return Err(Refusal::Fenced);
        }
        let ours = |message: &&(u32, TurnId, Message)| message.0 == epoch && message.1 == turn;
        let first = session.messages.iter().filter(ours).find(|(_, _, message)| message.role == Role::User);
        let text = first.and_then(|(_, _, message)| match message.blocks.first() {
            Some(Block::Text { text }) => Some(text.clone()),
            _ => None,
        });
        session.messages.retain(|message| !ours(&message));
        Ok(Outcome::Undone(Some(text.unwrap_or_default())))
    }

    fn converse(&mut self, op: &Op) -> Expected {
        match op {
            Op::NewSession { session } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    (session.epoch, session.started_ms, session.turns, session.usage) = (session.epoch + 1, 0, 0, Usage::default());
                }
                Ok(Outcome::Done)
            }
            Op::Undo { session, inbox, retry } => {
                if !self.inbox.get(inbox).is_some_and(|(_, state, _)| *state == InboxState::Waiting) {
                    return Err(Refusal::Fenced);
                }
                let outcome = self.take_back(session)?;
                if let Outcome::Undone(Some(text)) = &outcome
                    && let Some((inbound, state, _)) = self.inbox.get_mut(inbox)
                {
                    if *retry {
                        text.clone_into(&mut inbound.text);
                        inbound.private = true;
                    } else {
                        *state = InboxState::Done;
                    }
                }
                Ok(outcome)
            }
            Op::Enqueue { messages, dedupe, now_ms } => {
                let fresh = dedupe.as_ref().is_none_or(|key| self.keys.insert(key.clone()));
                let queued = messages.iter().filter(|_| fresh).map(|message| self.enqueue(message, *now_ms)).collect();
                Ok(Outcome::Queued(queued))
            }
            Op::Ask { question, now_ms, notice } => {
                self.running(question.turn)?;
                let approval = self.approvals.len() as i64 + 1;
                self.approvals.insert(approval, (question.clone(), ApprovalState::Pending));
                Ok(Outcome::Asked { approval, queued: self.enqueue(notice, *now_ms) })
            }
            Op::Settle { approval, state, .. } => {
                let (_, known) = self.approvals.get_mut(approval).ok_or(Refusal::Fenced)?;
                let changed = *known == ApprovalState::Pending;
                if changed {
                    *known = *state;
                }
                Ok(Outcome::Settled { changed, state: *known })
            }
            _ => self.deliver_or_read(op),
        }
    }

    fn deliver_or_read(&mut self, op: &Op) -> Expected {
        match op {
            Op::BeginSending { outbox } => {
                let before = self.deliver_or_read(&Op::LoadOutbox { outbox: *outbox });
                let part = self.outbox.get(outbox).map_or(0, |(row, _)| row.sent_parts.len());
                let _ = self.deliver_or_read(&Op::MarkSending { outbox: *outbox, part: u32::try_from(part).expect("few") });
                before
            }
            Op::MarkSending { outbox, part } => {
                let (row, doubt) = self.outbox.get_mut(outbox).ok_or(Refusal::Fenced)?;
                let open = matches!(row.state, OutboxState::Pending | OutboxState::Sending);
                if !open || row.sent_parts.len() != *part as usize {
                    return Err(Refusal::Fenced);
                }
                let attempted_before = *doubt || row.state == OutboxState::Sending;
                *doubt = attempted_before;
                (row.state, row.attempts) = (OutboxState::Sending, row.attempts + 1);
                Ok(Outcome::Sending { attempted_before })
            }
            Op::MarkPartSent { outbox, part, platform_id, last } => {
                let (row, doubt) = self.outbox.get_mut(outbox).ok_or(Refusal::Fenced)?;
                let sent = row.sent_parts.len();
                match (*part as usize).cmp(&sent) {
                    std::cmp::Ordering::Less => return Ok(Outcome::Done),
                    std::cmp::Ordering::Greater => return Err(Refusal::Fenced),
                    std::cmp::Ordering::Equal => (),
                }
                row.sent_parts.push(platform_id.clone());
                row.state = match row.state {
                    _ if *last => OutboxState::Sent,
                    OutboxState::Failed => OutboxState::Failed,
                    _ => OutboxState::Pending,
                };
                row.error = row.error.take().filter(|_| row.state == OutboxState::Failed);
                row.attempts = if *last { row.attempts } else { 0 };
                row.not_before_ms = 0;
                *doubt = false;
                Ok(Outcome::Done)
            }
            Op::MarkRetry { outbox, not_before_ms, error } => {
                let (row, _) = self.outbox.get_mut(outbox).ok_or(Refusal::Fenced)?;
                if row.state != OutboxState::Sending {
                    return Err(Refusal::Fenced);
                }
                (row.state, row.not_before_ms, row.error) = (OutboxState::Pending, *not_before_ms, Some(error.clone()));
                Ok(Outcome::Done)
            }
            Op::MarkFailed { outbox, error } => {
                let (row, _) = self.outbox.get_mut(outbox).filter(|(row, _)| row.state != OutboxState::Sent).ok_or(Refusal::Fenced)?;
                (row.state, row.error) = (OutboxState::Failed, Some(error.clone()));
                Ok(Outcome::Done)
            }
            Op::LoadOutbox { outbox } => Ok(Outcome::Outbox(self.outbox.get(outbox).map(|(row, doubt)| {
                let ambiguous = row.state == OutboxState::Sending || (row.state == OutboxState::Pending && *doubt);
                Box::new(OutboxRow { ambiguous, ..row.clone() })
            }))),
            Op::LoadCursor { .. } => Ok(Outcome::Cursor(self.cursor.clone())),
            Op::Remember { memos, .. } => {
                self.remember(memos);
                Ok(Outcome::Done)
            }
            Op::Recall { key, .. } => Ok(Outcome::Memo(self.memos.get(key).cloned())),
            Op::LoadTranscript { session, .. } => Ok(Outcome::Transcript(repair(self.current(session)))),
            Op::LoadUsage { session } => {
                let messages = self.current(session).len() as u64;
                let known = self.sessions.get(session).cloned().unwrap_or_default();
                Ok(Outcome::Usage { usage: known.usage, turns: known.turns, messages, started_ms: known.started_ms })
            }
            Op::Recover { .. } => Ok(Outcome::Recovered(Box::new(self.unfinished()))),
            other => panic!("not in the model: {other:?}"),
        }
    }

    fn current(&self, session: &str) -> Vec<Message> {
        let Some(session) = self.sessions.get(session) else { return vec![] };
        session.messages.iter().filter(|(epoch, ..)| *epoch == session.epoch).map(|(.., message)| message.clone()).collect()
    }

    fn unfinished(&self) -> Recovered {
        let running = |(turn, row): (&TurnId, &Turn)| {
            let inbound = &self.inbox[&row.inbox].0;
            RunningRow {
                turn: *turn,
                session: row.session.clone(),
                chat: inbound.chat.clone(),
                inbox: row.inbox,
                message_id: inbound.message_id.clone(),
                sender: inbound.sender.clone(),
                attempt: row.attempt,
                started_ms: row.started_ms,
                preview: row.preview.clone(),
            }
        };
        let waiting = |(inbox, (inbound, state, _)): (&InboxId, &(Inbound, InboxState, Option<TurnId>))| {
            (*state == InboxState::Waiting).then(|| WaitingRow { inbox: *inbox, inbound: inbound.clone() })
        };
        let pending = |(row, _): &(OutboxRow, bool)| {
            matches!(row.state, OutboxState::Pending | OutboxState::Sending).then(|| PendingRow {
                outbox: row.id,
                chat: row.message.chat.clone(),
                not_before_ms: row.not_before_ms,
                attempts: row.attempts,
            })
        };
        Recovered {
            running: self.turns.iter().filter(|(_, row)| row.running).map(running).collect(),
            waiting: self.inbox.iter().filter_map(waiting).collect(),
            pending: self.outbox.values().filter_map(pending).collect(),
            notes: Vec::new(),
            jobs: Vec::new(),
            approvals: self
                .approvals
                .iter()
                .filter(|(_, (_, state))| *state == ApprovalState::Pending)
                .map(|(id, (question, _))| (*id, question.clone()))
                .collect(),
            last_turn: self.turns.keys().max().copied().unwrap_or(0),
        }
    }
}

/// Few ids, so that operations meet.
fn operation() -> impl Strategy<Value = Op> {
    let session = || prop_oneof![Just("test:a"), Just("test:b")].prop_map(str::to_owned);
    let message = || {
        prop_oneof![
            Just(said(Role::User, "and")),
            Just(said(Role::Assistant, "so")),
            Just(Message {
                role: Role::Assistant,
                blocks: vec![Block::ToolUse { id: "t".to_owned(), name: "shell".to_owned(), input: serde_json::json!({"x": 1}) }]
            }),
            Just(Message {
                role: Role::User,
                blocks: vec![Block::ToolResult { tool_use_id: "t".to_owned(), content: "ok".to_owned(), is_error: false }]
            }),
        ]
    };
    let messages = move || proptest::collection::vec(message(), 0..3);
    let begin = move || (1..9_i64, session()).prop_map(|(turn, session)| TurnStart { session, ..start(turn) });
    let usage = || (0..100_u64).prop_map(|tokens| Usage { input_tokens: tokens, output_tokens: 1, ..Usage::default() });
    let receipt = proptest::option::of((1..9_u64).prop_map(|id| Receipt { id, cursor: Some(id.to_string()), memos: vec![memo(id)] }));
    let part = || prop_oneof![4 => Just(0_u32), 2 => Just(1), 1 => Just(2)];
    let accept = (1..12_u32, receipt, proptest::option::of(begin()), any::<bool>()).prop_map(|(id, receipt, begin, done)| Op::Accept {
        inbound: Box::new(inbound(&id.to_string())),
        receipt,
        received_ms: 100,
        begin,
        done,
    });
    let round = (1..9_i64, messages(), proptest::collection::vec(1..12_i64, 0..2), usage())
        .prop_map(|(turn, messages, adopted, usage)| Op::CommitRound { turn, messages, adopted, usage });
    let end = (1..9_i64, messages(), 0..3_usize, usage()).prop_map(|(turn, messages, replies, usage)| {
        let replies = vec![outbound("reply"); replies];
        Op::FinishTurn(Box::new(TurnFinish { turn, state: TurnState::Cancelled, messages, replies, usage, ended_ms: 300 }))
    });
    let key = proptest::option::of(prop_oneof![Just("k"), Just("l")].prop_map(str::to_owned));
    let state = prop_oneof![Just(ApprovalState::Approved), Just(ApprovalState::Denied), Just(ApprovalState::Expired)];
    prop_oneof![
        4 => accept,
        2 => (begin(), 1..12_i64).prop_map(|(start, inbox)| Op::BeginTurn { start, inbox }),
        1 => (1..9_i64, 2..4_u32).prop_map(|(turn, attempt)| Op::ResumeTurn { turn, attempt }),
        1 => (1..9_i64).prop_map(|turn| Op::Preview { turn, platform_id: "p".to_owned() }),
        3 => round,
        3 => end,
        1 => (1..12_i64).prop_map(|inbox| Op::CloseInbox { inbox }),
        1 => session().prop_map(|session| Op::NewSession { session }),
        1 => (session(), 1..12_i64, any::<bool>()).prop_map(|(session, inbox, retry)| Op::Undo { session, inbox, retry }),
        1 => (0..3_usize, key).prop_map(|(count, dedupe)| Op::Enqueue { messages: vec![outbound("note"); count], dedupe, now_ms: 9 }),
        1 => (1..9_i64).prop_map(|turn| Op::Ask { question: question(turn), now_ms: 1, notice: Box::new(outbound("?")) }),
        1 => (1..4_i64, state).prop_map(|(approval, state)| Op::Settle { approval, state, by: None, now_ms: 2 }),
        2 => (1..4_i64, part()).prop_map(|(outbox, part)| Op::MarkSending { outbox, part }),
        2 => (1..4_i64).prop_map(|outbox| Op::BeginSending { outbox }),
        3 => (1..4_i64, part(), any::<bool>())
            .prop_map(|(outbox, part, last)| Op::MarkPartSent { outbox, part, platform_id: "s".to_owned(), last }),
        2 => (1..4_i64).prop_map(|outbox| Op::MarkRetry { outbox, not_before_ms: 50, error: "later".to_owned() }),
        1 => (1..4_i64).prop_map(|outbox| Op::MarkFailed { outbox, error: "never".to_owned() }),
        1 => (1..4_i64).prop_map(|outbox| Op::LoadOutbox { outbox }),
        1 => session().prop_map(|session| Op::LoadTranscript { session, messages_max: 1000 }),
        1 => session().prop_map(|session| Op::LoadUsage { session }),
        1 => Just(Op::LoadCursor { adapter: "test".to_owned() }),
        1 => (1..9_u64, 1..9_u64).prop_map(|(one, two)| Op::Remember { adapter: "test".to_owned(), memos: vec![memo(one), memo(two)] }),
        1 => Just(Op::Recover { now_ms: 0 }),
    ]
}

/// Three keys; now and then one is forgotten.
fn memo(number: u64) -> Memo {
    Memo { key: (number % 3).to_string(), value: (!number.is_multiple_of(4)).then(|| number.to_string()) }
}

/// Answers without what the model cannot know: the random key, the text of a defect.
fn comparable(answer: Answer) -> Expected {
    match answer {
        Ok(Outcome::Outbox(Some(row))) => Ok(Outcome::Outbox(Some(Box::new(OutboxRow { key: String::new(), ..*row })))),
        Ok(outcome) => Ok(outcome),
        Err(StoreError::Fenced) => Err(Refusal::Fenced),
        Err(StoreError::Bug(_)) => Err(Refusal::Bug),
        Err(other) => panic!("{other}"),
    }
}

/// Everything that can be read.
fn readings() -> Vec<Op> {
    let sessions = ["test:a", "test:b"].map(str::to_owned);
    let transcripts = sessions.clone().map(|session| Op::LoadTranscript { session, messages_max: 1000 });
    let usages = sessions.map(|session| Op::LoadUsage { session });
    let rows = (1..30).map(|outbox| Op::LoadOutbox { outbox });
    let others = [Op::Recover { now_ms: 0 }, Op::LoadCursor { adapter: "test".to_owned() }];
    let memos = ["0", "1", "2"].map(|key| Op::Recall { adapter: "test".to_owned(), key: key.to_owned() });
    transcripts.into_iter().chain(usages).chain(rows).chain(others).chain(memos).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn the_store_does_what_the_model_does(
        groups in proptest::collection::vec(proptest::collection::vec(operation(), 1..9), 1..30),
        reopen in 0..30_usize,
    ) {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("state.db");
        let quick = |engine: Engine| {
            engine.connection.execute_batch("PRAGMA synchronous = OFF").expect("set");
            engine
        };
        let (mut engine, mut model) = (quick(engine(&path).0), Model::default());
        for (number, operations) in groups.into_iter().enumerate() {
            if number == reopen {
                drop(engine);
                engine = quick(super::engine(&path).0);
            }
            let answers = group(&mut engine, operations.clone());
            for (op, answer) in operations.into_iter().zip(answers) {
                let expect = model.apply(&op);
                prop_assert_eq!(comparable(answer), expect, "{:?}", op);
            }
        }
        for (op, answer) in readings().into_iter().zip(group(&mut engine, readings())) {
            let expect = model.apply(&op);
            prop_assert_eq!(comparable(answer), expect, "{:?}", op);
        }
    }
}
