//! What each operation does, and what it refuses.

use super::*;

#[test]
fn a_message_is_accepted_once() {
    let store = Fixture::new();
    let cursor = |id: &str| Op::Accept {
        inbound: Box::new(inbound("m1")),
        receipt: Some(Receipt { id: 1, cursor: Some(id.to_owned()), memos: Vec::new() }),
        received_ms: 100,
        begin: None,
        done: false,
    };
    let inbox = inbox_of(store.expect(cursor("11")));
    assert_eq!(store.call(cursor("12")), Ok(Outcome::Duplicate { inbox }));
    // The duplicate has advanced the cursor all the same.
    assert_eq!(store.call(Op::LoadCursor { adapter: "test".to_owned() }), Ok(Outcome::Cursor(Some("12".to_owned()))));
    // The same id in another chat, or of another adapter, is another message.
    for (adapter, room) in [("test", "other"), ("other", "room")] {
        let mut other = inbound("m1");
        other.chat = ChatRef { adapter: adapter.to_owned(), chat: room.to_owned(), thread: None };
        let op = Op::Accept { inbound: Box::new(other), receipt: None, received_ms: 100, begin: None, done: false };
        assert_ne!(inbox_of(store.expect(op)), inbox);
    }
    // In another thread of the same chat it is the same one: platforms number messages by chat.
    let mut topic = inbound("m1");
    topic.chat.thread = Some("12".to_owned());
    let op = Op::Accept { inbound: Box::new(topic), receipt: None, received_ms: 100, begin: None, done: false };
    assert_eq!(store.call(op), Ok(Outcome::Duplicate { inbox }));
}

#[test]
fn a_command_is_accepted_as_done() {
    let store = Fixture::new();
    let op = |id: &str| Op::Accept { inbound: Box::new(inbound(id)), receipt: None, received_ms: 100, begin: None, done: true };
    let inbox = inbox_of(store.expect(op("m1")));
    assert_eq!(store.recovered(), Recovered::default());
    assert_eq!(store.call(op("m1")), Ok(Outcome::Duplicate { inbox }));
    assert_eq!(store.call(Op::BeginTurn { start: start(1), inbox }), Err(StoreError::Fenced));
}

#[test]
fn cursors_are_kept_by_adapter() {
    let store = Fixture::new();
    let load = |adapter: &str| store.expect(Op::LoadCursor { adapter: adapter.to_owned() });
    assert_eq!(load("a"), Outcome::Cursor(None));
    for (adapter, cursor) in [("a", "1"), ("b", "x"), ("a", "2")] {
        assert_eq!(store.call(Op::Cursor { adapter: adapter.to_owned(), cursor: cursor.to_owned() }), Ok(Outcome::Done));
    }
    assert_eq!((load("a"), load("b")), (Outcome::Cursor(Some("2".to_owned())), Outcome::Cursor(Some("x".to_owned()))));
}

#[test]
fn memos_come_with_the_message_and_the_oldest_make_room() {
    let store = Fixture::new();
    let recall = |adapter: &str, key: &str| match store.expect(Op::Recall { adapter: adapter.to_owned(), key: key.to_owned() }) {
        Outcome::Memo(value) => value,
        other => panic!("{other:?}"),
    };
    let remember = |memos: Vec<Memo>| store.expect(Op::Remember { adapter: "test".to_owned(), memos });
    let accept = |value: &str| {
        let receipt = Some(Receipt { id: 1, cursor: None, memos: vec![Memo::new("token", value)] });
        let inbound = Box::new(inbound("same"));
        store.expect(Op::Accept { inbound, receipt, received_ms: 1, begin: None, done: false })
    };
    assert!(matches!(accept("old"), Outcome::Accepted { .. }));
    assert!(matches!(accept("new"), Outcome::Duplicate { .. }), "a duplicate brings the newer token");
    assert_eq!((recall("test", "token").as_deref(), recall("other", "token")), (Some("new"), None));
    remember(vec![Memo::new("large", "x".repeat(crate::limits::MEMO_BYTES_MAX)), Memo::new("gone", "1"), Memo::forget("gone")]);
    assert_eq!((recall("test", "large"), recall("test", "gone")), (None, None));
    remember(vec![Memo::new("early", "1"), Memo::new("often", "1")]);
    let many = usize::try_from(crate::limits::MEMOS_MAX).expect("a small number");
    for batch in 0..2 {
        remember((0..many / 2).map(|number| Memo::new(format!("{batch}/{number}"), "x")).collect());
        remember(vec![Memo::new("often", "2")]);
    }
    assert_eq!((recall("test", "early"), recall("test", "often").as_deref()), (None, Some("2")), "the oldest goes, the used stays");
}

#[test]
fn a_turn_from_its_message_to_its_replies() {
    let store = Fixture::new();
    let inbox = store.begin(1);
    let expect = RunningRow {
        turn: 1,
        session: SESSION.to_owned(),
        chat: chat(),
        inbox,
        message_id: "of turn 1".to_owned(),
        sender: "ana".to_owned(),
        attempt: 1,
        started_ms: 101,
        preview: None,
    };
    assert_eq!(store.recovered(), Recovered { running: vec![expect.clone()], last_turn: 1, ..Recovered::default() });
    let adopted = store.accept("steer");
    let round = vec![said(Role::Assistant, "thinking"), said(Role::User, "faster")];
    let usage = Usage { input_tokens: 5, ..Usage::default() };
    assert_eq!(store.call(Op::CommitRound { turn: 1, messages: round, adopted: vec![adopted], usage }), Ok(Outcome::Done));
    assert_eq!(store.call(Op::Preview { turn: 1, platform_id: "p9".to_owned() }), Ok(Outcome::Done));
    assert_eq!(store.call(Op::ResumeTurn { turn: 1, attempt: 2 }), Ok(Outcome::Done));
    let expect = RunningRow { attempt: 2, preview: Some("p9".to_owned()), ..expect };
    assert_eq!(store.recovered(), Recovered { running: vec![expect], last_turn: 1, ..Recovered::default() });

    let Outcome::Finished { queued } = store.expect(finish(1, &["one", "two"])) else { panic!("not finished") };
    assert_eq!(queued.iter().map(|id| store.outbox(*id).message.text).collect::<Vec<_>>(), ["one", "two"]);
    let recovered = store.recovered();
    assert_eq!((recovered.running.len(), recovered.waiting.len(), recovered.pending.len(), recovered.last_turn), (0, 0, 2, 1));
    assert_eq!(recovered.pending[0], PendingRow { outbox: queued[0], chat: chat(), not_before_ms: 0, attempts: 0 });
    let expect =
        [said(Role::User, "question 1"), said(Role::Assistant, "thinking"), said(Role::User, "faster"), said(Role::Assistant, "answer 1")];
    assert_eq!(store.transcript(100), expect);
    let usage = Usage { input_tokens: 15, output_tokens: 2, cache_read_tokens: 0, cache_write_tokens: 1 };
    let totals = Outcome::Usage { usage, turns: 1, messages: 4, started_ms: 101 };
    assert_eq!(store.expect(Op::LoadUsage { session: SESSION.to_owned() }), totals);
}

#[test]
fn a_waiting_message_begins_one_turn() {
    let store = Fixture::new();
    let inbox = store.accept("m1");
    let waiting = store.recovered().waiting;
    assert_eq!(waiting, [WaitingRow { inbox, inbound: inbound("m1") }]);
    assert_eq!(store.call(Op::BeginTurn { start: start(4), inbox }), Ok(Outcome::Done));
    assert_eq!(store.call(Op::BeginTurn { start: start(5), inbox }), Err(StoreError::Fenced));
    assert_eq!(store.recovered().last_turn, 4);
    assert_eq!(store.transcript(9), [said(Role::User, "question 4")]);
}

#[test]
fn a_turn_that_ended_can_do_nothing_more() {
    let store = Fixture::new();
    store.begin(1);
    store.expect(finish(1, &[]));
    let refused = [
        Op::CommitRound { turn: 1, messages: vec![said(Role::Assistant, "late")], adopted: vec![], usage: Usage::default() },
        Op::Preview { turn: 1, platform_id: "p".to_owned() },
        Op::ResumeTurn { turn: 1, attempt: 2 },
        finish(1, &["late"]),
        Op::Ask { question: question(1), now_ms: 1, notice: Box::new(outbound("?")) },
        finish(77, &["of nobody"]),
    ];
    for op in refused {
        assert_eq!(store.call(op.clone()), Err(StoreError::Fenced), "{op:?}");
    }
    assert_eq!((store.transcript(9).len(), store.figures().outbox_pending), (2, 0));
}

#[test]
fn a_turn_cannot_end_as_running() {
    let store = Fixture::new();
    store.begin(1);
    let Op::FinishTurn(mut end) = finish(1, &[]) else { unreachable!() };
    end.state = TurnState::Running;
    assert!(matches!(store.call(Op::FinishTurn(end)), Err(StoreError::Bug(_))));
    assert_eq!(store.recovered().running.len(), 1);
}

#[test]
fn what_was_adopted_waits_no_more() {
    let store = Fixture::new();
    store.begin(1);
    let (one, two) = (store.accept("one"), store.accept("two"));
    store.expect(Op::CloseInbox { inbox: two });
    store.expect(Op::CommitRound { turn: 1, messages: vec![], adopted: vec![one, two, 999], usage: Usage::default() });
    assert_eq!(store.recovered().waiting, []);
    store.expect(finish(1, &[]));
    assert_eq!(store.call(Op::CloseInbox { inbox: one }), Ok(Outcome::Done));
}

#[test]
fn closing_a_message() {
    let store = Fixture::new();
    let (waiting, running) = (store.accept("m1"), store.begin(1));
    for (inbox, expect) in
        [(waiting, Ok(Outcome::Done)), (waiting, Ok(Outcome::Done)), (running, Err(StoreError::Fenced)), (999, Err(StoreError::Fenced))]
    {
        assert_eq!(store.call(Op::CloseInbox { inbox }), expect, "{inbox}");
    }
}

#[test]
fn a_new_session_forgets() {
    let store = Fixture::new();
    let renew = Op::NewSession { session: SESSION.to_owned() };
    assert_eq!(store.call(renew.clone()), Ok(Outcome::Done));
    store.begin(1);
    store.expect(finish(1, &[]));
    store.begin(2);
    store.expect(renew);
    // A turn that began before /new goes on in the transcript it began in.
    store.expect(Op::CommitRound { turn: 2, messages: vec![said(Role::Assistant, "old")], adopted: vec![], usage: Usage::default() });
    store.expect(finish(2, &[]));
    assert_eq!(store.transcript(9), []);
    let none = Outcome::Usage { usage: Usage::default(), turns: 0, messages: 0, started_ms: 0 };
    assert_eq!(store.expect(Op::LoadUsage { session: SESSION.to_owned() }), none);
    store.begin(3);
    assert_eq!(store.transcript(9), [said(Role::User, "question 3")]);
    assert!(matches!(store.expect(Op::LoadUsage { session: SESSION.to_owned() }), Outcome::Usage { messages: 1, started_ms: 103, .. }));
}

#[test]
fn undo_takes_back_one_exchange_after_the_other() {
    let store = Fixture::new();
    let command = |id: &str| store.accept(id);
    let undo = |inbox| Op::Undo { session: SESSION.to_owned(), inbox, retry: false };
    assert_eq!(store.call(undo(command("c0"))), Ok(Outcome::Undone(None)));
    for turn in 1..=2 {
        store.begin(turn);
        store.expect(finish(turn, &[]));
    }
    store.begin(3);
    let inbox = command("c1");
    assert_eq!(store.call(undo(inbox)), Err(StoreError::Fenced));
    store.expect(finish(3, &[]));
    assert_eq!(store.call(undo(inbox)), Ok(Outcome::Undone(Some("question 3".to_owned()))));
    assert_eq!(store.call(undo(inbox)), Err(StoreError::Fenced), "its row is closed: it is not done twice");
    assert_eq!(store.call(undo(command("c2"))), Ok(Outcome::Undone(Some("question 2".to_owned()))));
    assert_eq!(store.transcript(9), [said(Role::User, "question 1"), said(Role::Assistant, "answer 1")]);
    let inbox = command("c3");
    let retry = Op::Undo { session: SESSION.to_owned(), inbox, retry: true };
    assert_eq!(store.call(retry), Ok(Outcome::Undone(Some("question 1".to_owned()))));
    let waiting = store.recovered().waiting;
    assert!(waiting.iter().any(|row| row.inbox == inbox && row.inbound.text == "question 1"), "{waiting:?}");
    assert_eq!(store.call(undo(command("c4"))), Ok(Outcome::Undone(None)));
}

/// Regression: /retry answered the last message again, and the turn that had been given up never was.
#[test]
fn a_retry_is_for_the_turn_that_was_given_up() {
    let store = Fixture::new();
    store.begin(1);
    let Op::FinishTurn(mut given_up) = finish(1, &[]) else { panic!("a finish") };
    given_up.state = TurnState::Interrupted;
    store.expect(Op::FinishTurn(given_up));
    store.begin(2);
    store.expect(finish(2, &[]));
    let retry = |id: &str| Op::Undo { session: SESSION.to_owned(), inbox: store.accept(id), retry: true };
    assert_eq!(store.call(retry("r1")), Ok(Outcome::Undone(Some("question 1".to_owned()))));
    assert_eq!(store.call(retry("r2")), Ok(Outcome::Undone(Some("question 2".to_owned()))));
}

#[test]
fn a_long_transcript_is_cut_at_a_question() {
    let store = Fixture::new();
    for turn in 1..=3 {
        store.begin(turn);
        store.expect(finish(turn, &[]));
    }
    let texts = |max| {
        let text = |message: &Message| match &message.blocks[0] {
            Block::Text { text } => text.clone(),
            other => panic!("{other:?}"),
        };
        store.transcript(max).iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(texts(0), [""; 0]);
    assert_eq!(texts(1), ["question 3", "answer 3"], "the question of the kept answer is kept with it");
    assert_eq!(texts(2), ["question 3", "answer 3"]);
    assert_eq!(texts(3), ["question 3", "answer 3"]);
    assert_eq!(texts(4), ["question 2", "answer 2", "question 3", "answer 3"]);
    assert_eq!(texts(99).len(), 6);
}

#[test]
fn a_cut_within_a_turn_keeps_its_question() {
    let store = Fixture::new();
    store.begin(1);
    for round in 0..20 {
        let id = format!("call {round}");
        let input = serde_json::json!({"command": "make"});
        let call = Block::ToolUse { id: id.clone(), name: "shell".to_owned(), input };
        let result = Block::ToolResult { tool_use_id: id, content: "ok".to_owned(), is_error: false };
        let messages = vec![Message { role: Role::Assistant, blocks: vec![call] }, Message { role: Role::User, blocks: vec![result] }];
        store.expect(Op::CommitRound { turn: 1, messages, adopted: vec![], usage: Usage::default() });
    }
    let kept = store.transcript(6);
    assert_eq!((kept.len(), &kept[0]), (7, &said(Role::User, "question 1")));
    // Cut between a call and its result: the result goes.
    let kept = store.transcript(5);
    assert_eq!((kept.len(), &kept[0], kept[1].role), (5, &said(Role::User, "question 1"), Role::Assistant));
}

#[test]
fn a_huge_transcript_is_cut_by_its_bytes() {
    let store = Fixture::new();
    let huge = "x".repeat(crate::limits::TRANSCRIPT_BYTES_MAX / 3);
    for turn in 1..=5 {
        store.begin(turn);
        let messages = vec![said(Role::Assistant, &huge)];
        store.expect(Op::CommitRound { turn, messages, adopted: vec![], usage: Usage::default() });
        store.expect(finish(turn, &[]));
    }
    let kept = store.transcript(100);
    assert_eq!(kept[0], said(Role::User, "question 4"));
    assert_eq!(kept.len(), 4);
}

#[test]
fn an_interrupted_call_is_answered_when_loaded() {
    let store = Fixture::new();
    store.begin(1);
    let call = Block::ToolUse { id: "a".to_owned(), name: "shell".to_owned(), input: serde_json::json!({}) };
    let messages = vec![Message { role: Role::Assistant, blocks: vec![call] }];
    store.expect(Op::CommitRound { turn: 1, messages, adopted: vec![], usage: Usage::default() });
    let loaded = store.transcript(9);
    let content = crate::store::repair::RESULT_UNKNOWN.to_owned();
    let expect = Block::ToolResult { tool_use_id: "a".to_owned(), content, is_error: true };
    assert_eq!(loaded[2], Message { role: Role::User, blocks: vec![expect] });
}

#[test]
fn a_key_enqueues_once() {
    let store = Fixture::new();
    let enqueue = |key: Option<&str>| {
        let messages = vec![outbound("a"), outbound("b")];
        match store.expect(Op::Enqueue { messages, dedupe: key.map(str::to_owned), now_ms: 5 }) {
            Outcome::Queued(queued) => queued,
            other => panic!("{other:?}"),
        }
    };
    let first = enqueue(Some("boot 1"));
    assert_eq!((first.len(), enqueue(Some("boot 1")).len(), enqueue(Some("boot 2")).len(), enqueue(None).len()), (2, 0, 2, 2));
    let rows: Vec<OutboxRow> = first.iter().map(|id| store.outbox(*id)).collect();
    assert!(rows.iter().all(|row| row.key.len() == 32 && row.key.bytes().all(|byte| byte.is_ascii_hexdigit())));
    assert_ne!(rows[0].key, rows[1].key);
    let expect = OutboxRow {
        id: first[0],
        message: outbound("a"),
        state: OutboxState::Pending,
        sent_parts: vec![],
        ambiguous: false,
        key: rows[0].key.clone(),
        attempts: 0,
        not_before_ms: 0,
        created_ms: 5,
        error: None,
    };
    assert_eq!(rows[0], expect);
}

#[test]
fn a_message_is_sent_part_by_part() {
    let store = Fixture::new();
    let outbox = store.enqueue("long");
    let key = store.outbox(outbox).key;
    let sending = |part| store.call(Op::MarkSending { outbox, part });
    let sent = |part, last| store.call(Op::MarkPartSent { outbox, part, platform_id: format!("p{part}"), last });
    assert_eq!(sending(1), Err(StoreError::Fenced), "not before part 0");
    assert_eq!(sending(0), Ok(Outcome::Sending { attempted_before: false }));
    assert!(store.outbox(outbox).ambiguous);
    assert_eq!(store.recovered().pending[0].attempts, 1);
    assert_eq!(sent(0, false), Ok(Outcome::Done));
    let row = store.outbox(outbox);
    assert_eq!((row.state, row.ambiguous, row.attempts, row.sent_parts), (OutboxState::Pending, false, 0, vec!["p0".to_owned()]));
    assert_eq!(sending(0), Err(StoreError::Fenced), "it is there already");
    assert_eq!(sending(1), Ok(Outcome::Sending { attempted_before: false }));
    assert_eq!(sent(1, true), Ok(Outcome::Done));
    assert_eq!(sent(1, true), Ok(Outcome::Done), "said twice");
    assert_eq!(sent(7, true), Err(StoreError::Fenced));
    let row = store.outbox(outbox);
    assert_eq!((row.state, row.sent_parts.len(), row.key), (OutboxState::Sent, 2, key));
    for op in [
        Op::MarkSending { outbox, part: 2 },
        Op::MarkRetry { outbox, not_before_ms: 1, error: "late".to_owned() },
        Op::MarkFailed { outbox, error: "late".to_owned() },
        Op::MarkSending { outbox: 999, part: 0 },
    ] {
        assert_eq!(store.call(op.clone()), Err(StoreError::Fenced), "{op:?}");
    }
    assert_eq!(store.recovered().pending, []);
    assert_eq!(store.call(Op::LoadOutbox { outbox: 999 }), Ok(Outcome::Outbox(None)));
}

#[test]
fn a_message_is_taken_up_where_it_stands() {
    let store = Fixture::new();
    let outbox = store.enqueue("long");
    let begin = |store: &Fixture| match store.expect(Op::BeginSending { outbox }) {
        Outcome::Outbox(row) => row.map(|row| (row.state, row.sent_parts.len(), row.ambiguous)),
        other => panic!("{other:?}"),
    };
    assert_eq!(begin(&store), Some((OutboxState::Pending, 0, false)));
    assert!(store.outbox(outbox).ambiguous);
    assert_eq!(begin(&store), Some((OutboxState::Sending, 0, true)));
    assert_eq!(store.outbox(outbox).attempts, 2);
    store.expect(Op::MarkPartSent { outbox, part: 0, platform_id: "p".to_owned(), last: false });
    assert_eq!(begin(&store), Some((OutboxState::Pending, 1, false)));
    store.expect(Op::MarkPartSent { outbox, part: 1, platform_id: "q".to_owned(), last: true });
    let row = store.outbox(outbox);
    assert_eq!(begin(&store), Some((OutboxState::Sent, 2, false)));
    assert_eq!(store.outbox(outbox), row, "only read");
    assert_eq!(store.expect(Op::BeginSending { outbox: 999 }), Outcome::Outbox(None));
}

#[test]
fn doubt_about_a_part_stays_until_it_is_sent() {
    let store = Fixture::new();
    let outbox = store.enqueue("hi");
    let sending = |store: &Fixture| store.expect(Op::MarkSending { outbox, part: 0 });
    let retry = |store: &Fixture| store.expect(Op::MarkRetry { outbox, not_before_ms: 77, error: "HTTP 503".to_owned() });
    sending(&store);
    retry(&store);
    let row = store.outbox(outbox);
    assert_eq!((row.ambiguous, row.attempts, row.not_before_ms, row.error.as_deref()), (false, 1, 77, Some("HTTP 503")));
    assert_eq!(sending(&store), Outcome::Sending { attempted_before: false }, "the first attempt's end is known");
    let store = store.reopen();
    assert!(store.outbox(outbox).ambiguous);
    assert_eq!(sending(&store), Outcome::Sending { attempted_before: true });
    retry(&store);
    assert!(store.outbox(outbox).ambiguous, "this attempt delivered nothing, but the one before may have");
    assert_eq!(sending(&store), Outcome::Sending { attempted_before: true });
    store.expect(Op::MarkPartSent { outbox, part: 0, platform_id: "p".to_owned(), last: false });
    assert_eq!(store.expect(Op::MarkSending { outbox, part: 1 }), Outcome::Sending { attempted_before: false });
}

#[test]
fn a_dead_letter_is_counted() {
    let store = Fixture::new();
    let outbox = store.enqueue("hi");
    store.enqueue("there");
    store.expect(Op::MarkSending { outbox, part: 0 });
    store.expect(Op::MarkFailed { outbox, error: "chat not found".to_owned() });
    let row = store.outbox(outbox);
    assert_eq!((row.state, row.ambiguous, row.error.as_deref()), (OutboxState::Failed, false, Some("chat not found")));
    let figures = store.figures();
    assert_eq!((figures.outbox_pending, figures.dead_letters), (1, 1));
    // The platform has answered after all.
    store.expect(Op::MarkPartSent { outbox, part: 0, platform_id: "p".to_owned(), last: true });
    assert_eq!((store.outbox(outbox).state, store.figures().dead_letters), (OutboxState::Sent, 0));
}

#[test]
fn a_question_is_settled_once() {
    let store = Fixture::new();
    store.begin(1);
    let mut notice = outbound("May I? {approval}");
    notice.buttons = vec![("Yes".to_owned(), "/approve {approval}".to_owned())];
    let ask = Op::Ask { question: question(1), now_ms: 300, notice: Box::new(notice) };
    let Outcome::Asked { approval, queued } = store.expect(ask.clone()) else { panic!("not asked") };
    let message = store.outbox(queued).message;
    assert_eq!((message.text.as_str(), message.buttons[0].1.clone()), ("May I? {approval}", format!("/approve {approval}")));
    assert_eq!(store.recovered().approvals, [(approval, question(1))]);
    let settle = |approval, state| store.call(Op::Settle { approval, state, by: Some("ana".to_owned()), now_ms: 400 });
    assert!(matches!(settle(approval, ApprovalState::Pending), Err(StoreError::Bug(_))));
    assert_eq!(settle(approval, ApprovalState::Denied), Ok(Outcome::Settled { changed: true, state: ApprovalState::Denied }));
    assert_eq!(settle(approval, ApprovalState::Approved), Ok(Outcome::Settled { changed: false, state: ApprovalState::Denied }));
    assert_eq!(settle(999, ApprovalState::Approved), Err(StoreError::Fenced));
    // What is still open when the turn ends is cancelled with it.
    let Outcome::Asked { approval, .. } = store.expect(ask) else { panic!("not asked") };
    store.expect(finish(1, &[]));
    assert_eq!(settle(approval, ApprovalState::Approved), Ok(Outcome::Settled { changed: false, state: ApprovalState::Cancelled }));
    assert_eq!(store.recovered().approvals, []);
}

#[test]
fn pruning_keeps_what_is_open_and_the_keys() {
    let store = Fixture::new();
    let done = store.begin(1);
    store.expect(finish(1, &["sent", "dead", "open"]));
    let ids: Vec<OutboxId> = store.recovered().pending.iter().map(|row| row.outbox).collect();
    store.expect(Op::MarkSending { outbox: ids[0], part: 0 });
    store.expect(Op::MarkPartSent { outbox: ids[0], part: 0, platform_id: "p".to_owned(), last: true });
    store.expect(Op::MarkFailed { outbox: ids[1], error: "no".to_owned() });
    store.begin(2);
    store.accept("waits");
    store.expect(Op::Enqueue { messages: vec![], dedupe: Some("once".to_owned()), now_ms: 5 });
    store.expect(Op::Enqueue { messages: vec![], dedupe: Some(format!("inbox:{done}")), now_ms: 5 });
    let before = store.recovered();
    assert_eq!(store.call(Op::Prune { before_ms: 150 }), Ok(Outcome::Done));
    assert_eq!(store.recovered(), before, "nothing open is touched");
    assert_eq!(store.transcript(9), [said(Role::User, "question 2")], "the transcript of turn 1 is old");
    assert!(matches!(store.expect(Op::LoadOutbox { outbox: ids[0] }), Outcome::Outbox(Some(_))), "enqueued at 201");
    store.expect(Op::Prune { before_ms: 10_000 });
    for (id, there) in [(ids[0], false), (ids[1], false), (ids[2], true)] {
        assert_eq!(matches!(store.expect(Op::LoadOutbox { outbox: id }), Outcome::Outbox(Some(_))), there, "{id}");
    }
    assert_eq!(store.expect(accept("of turn 1", None)), Outcome::Duplicate { inbox: done });
    let again = Op::Enqueue { messages: vec![outbound("x")], dedupe: Some("once".to_owned()), now_ms: 6 };
    assert_eq!(store.expect(again), Outcome::Queued(vec![]));
    let connection = rusqlite::Connection::open(store.path()).expect("opens beside the store");
    let keys = |key: &str| connection.query_row("SELECT count(*) FROM enqueued WHERE key = ?1", [key], |row| row.get::<_, i64>(0));
    assert_eq!((keys("once"), keys(&format!("inbox:{done}"))), (Ok(1), Ok(0)), "the key of a command goes with its row");
}

#[test]
fn ids_are_not_given_out_again_after_pruning() {
    let store = Fixture::new();
    let inbox = store.begin(41);
    store.expect(finish(41, &["a"]));
    let outbox = store.recovered().pending[0].outbox;
    store.expect(Op::MarkFailed { outbox, error: "no".to_owned() });
    store.expect(Op::Prune { before_ms: i64::MAX });
    let store = store.reopen();
    assert_eq!(store.recovered().last_turn, 41);
    assert!(store.accept("next") > inbox && store.enqueue("next") > outbox);
}

#[test]
fn pruning_goes_on_while_there_is_nothing_else_to_do() {
    let store = Fixture::new();
    let rows = 3 * crate::limits::STORE_PRUNE_ROWS + 10;
    let (sender, answers) = bounded(rows);
    for number in 0..rows {
        let sender = sender.clone();
        let mut message = inbound(&number.to_string());
        message.text = "x".repeat(300);
        let op = Op::Accept { inbound: Box::new(message), receipt: None, received_ms: 1, begin: None, done: true };
        store.handle.submit(op, move |answer| sender.try_send(answer).expect("room"));
    }
    for _ in 0..rows {
        answers.recv_timeout(Duration::from_secs(20)).expect("answered").expect("accepted");
    }
    let full = store.figures().store_bytes;
    store.expect(Op::Prune { before_ms: 1000 });
    let count = || {
        let connection = rusqlite::Connection::open(store.path()).expect("opens beside the store");
        connection.busy_timeout(Duration::from_secs(5)).expect("set");
        connection.query_row("SELECT count(*) FROM inbox", (), |row| row.get::<_, i64>(0)).expect("counts")
    };
    let deadline = soon();
    while count() > 1 {
        assert!(!deadline.passed(), "{} rows are left", count());
        std::thread::yield_now();
    }
    // The space is given back with the last slices and the end of the log.
    let store = store.reopen();
    assert!(store.figures().store_bytes < full * 2 / 3, "{} of {full}", store.figures().store_bytes);
}

#[test]
fn a_row_that_cannot_be_read_is_left_out() {
    let store = Fixture::new();
    store.begin(1);
    store.accept("m1");
    store.accept("m2");
    store.enqueue("hi");
    {
        let connection = rusqlite::Connection::open(store.path()).expect("opens beside the store");
        connection.busy_timeout(Duration::from_secs(5)).expect("set");
        let spoil = "UPDATE inbox SET body = '{' WHERE state = 'waiting' AND id = (SELECT min(id) FROM inbox WHERE state = 'waiting'); \
                     UPDATE messages SET blocks = 'nonsense'; UPDATE outbox SET body = ''";
        connection.execute_batch(spoil).expect("spoilt");
    }
    let recovered = store.recovered();
    assert_eq!((recovered.running.len(), recovered.waiting.len(), recovered.pending.len()), (1, 1, 0));
    assert_eq!(store.transcript(9), []);
    assert_eq!(store.figures().inbox_waiting, 2);
}
