//! Jobs and their runs on disk.

use super::*;
use crate::core::record::{JobRow, RunRow, RunStart, RunState, RunWhat};
use crate::core::schedule::{CatchUp, Job, Timing, message_id};
use crate::core::types::JobId;

fn job(text: &str) -> Job {
    Job {
        chat: chat(),
        maker: Some("ana".to_owned()),
        maker_name: "Ana".to_owned(),
        private: true,
        timing: Timing::Every { interval_ms: 60_000 },
        text: text.to_owned(),
        fixed: false,
        catch_up: CatchUp::Run,
        created_ms: 1000,
    }
}

impl Fixture {
    fn add_job(&self, request: Option<&str>) -> JobId {
        match self.expect(Op::AddJob { job: Box::new(job("look")), request: request.map(str::to_owned) }) {
            Outcome::JobAdded { job } => job,
            other => panic!("{other:?}"),
        }
    }

    fn last_runs(&self) -> Vec<RunRow> {
        match self.expect(Op::LoadLastRuns) {
            Outcome::LastRuns(runs) => runs,
            other => panic!("{other:?}"),
        }
    }

    /// The last run of the one job there is.
    fn state(&self) -> RunState {
        self.last_runs().first().expect("a run").state
    }
}

fn run(job: JobId, slot_ms: i64) -> RunStart {
    let what = RunWhat::Ask(Box::new(inbound(&message_id(job, &slot_ms.to_string()))));
    RunStart { job, slot_ms: Some(slot_ms), what, last: false, request: None, now_ms: slot_ms }
}

fn op(start: RunStart) -> Op {
    Op::StartRun(Box::new(start))
}

fn started(outcome: Outcome) -> InboxId {
    match outcome {
        Outcome::RunStarted { inbox: Some(inbox), queued: None } => inbox,
        other => panic!("{other:?}"),
    }
}

const NOTHING: Outcome = Outcome::RunStarted { inbox: None, queued: None };

#[test]
fn a_job_is_made_once_paused_and_removed() {
    let store = Fixture::new();
    let first = store.add_job(Some("inbox:5"));
    assert_eq!(store.add_job(Some("inbox:5")), first, "the same command again");
    let second = store.add_job(None);
    let row = |id: JobId, paused: bool, last_slot_ms: i64| JobRow { id, job: job("look"), paused, last_slot_ms };
    let pause = |job: JobId, paused: bool, now_ms: i64| store.call(Op::PauseJob { job, paused, now_ms });
    assert_eq!(store.recovered().jobs, [row(first, false, 1000), row(second, false, 1000)]);
    // Going on without a pause changes nothing; after one, what came meanwhile does not count.
    assert_eq!(pause(first, false, 5000), Ok(Outcome::Done));
    assert_eq!(pause(second, true, 5000), Ok(Outcome::Done));
    assert_eq!(store.recovered().jobs, [row(first, false, 1000), row(second, true, 1000)]);
    assert_eq!(store.call(op(run(second, 6000))), Err(StoreError::Fenced));
    assert_eq!(pause(second, false, 7000), Ok(Outcome::Done));
    assert_eq!(store.recovered().jobs[1], row(second, false, 7000));
    assert_eq!(store.call(Op::RemoveJob { job: second }), Ok(Outcome::Done));
    assert_eq!(store.call(Op::RemoveJob { job: second }), Err(StoreError::Fenced));
    assert_eq!(pause(second, true, 1), Err(StoreError::Fenced));
    assert_eq!(store.add_job(None), second + 1, "numbers are not used again");
}

#[test]
fn a73_a_run_is_on_disk_with_its_message_and_ends_with_it() {
    for (end, expect) in [
        (TurnState::Done, RunState::Done),
        (TurnState::Failed, RunState::Failed),
        (TurnState::Cancelled, RunState::Interrupted),
        (TurnState::Interrupted, RunState::Interrupted),
    ] {
        let store = Fixture::new();
        let id = store.add_job(None);
        let inbox = started(store.expect(op(run(id, 61_000))));
        // A crash here: the message waits, the time is decided upon, and the run is known.
        let found = store.recovered();
        assert_eq!(found.waiting.iter().map(|row| row.inbox).collect::<Vec<_>>(), [inbox]);
        assert_eq!(found.jobs[0].last_slot_ms, 61_000);
        assert_eq!(store.call(op(run(id, 61_000))), Err(StoreError::Fenced), "not twice");
        assert_eq!(store.call(op(run(id, 60_999))), Err(StoreError::Fenced), "nor an earlier one");
        assert_eq!(store.expect(Op::BeginTurn { start: start(1), inbox }), Outcome::Done);
        assert_eq!(store.state(), RunState::Started);
        // While it is at work, another time passes.
        assert_eq!(store.expect(op(run(id, 121_000))), NOTHING);
        let skipped = store.last_runs().remove(0);
        assert_eq!((skipped.state, skipped.detail.as_deref()), (RunState::Skipped, Some("the run before is still at work")));
        let mut ending = finish(1, &["done"]);
        if let Op::FinishTurn(finish) = &mut ending {
            finish.state = end;
        }
        store.expect(ending);
        assert_eq!(store.recovered().waiting, []);
        let inbox = started(store.expect(op(run(id, 181_000))));
        assert_eq!(store.call(Op::CloseInbox { inbox }), Ok(Outcome::Done));
        assert_eq!(store.state(), RunState::Interrupted, "dropped while it waited");
        let handle = rusqlite::Connection::open(store.path()).expect("opens");
        let states: Vec<String> = {
            let mut statement = handle.prepare("SELECT state FROM runs ORDER BY id").expect("sql");
            statement.query_map((), |row| row.get(0)).expect("rows").collect::<Result<_, _>>().expect("words")
        };
        let first = serde_json::to_value(expect).expect("a word");
        assert_eq!(states, [first.as_str().expect("a word"), "skipped", "interrupted"]);
    }
}

#[test]
fn a_fixed_text_is_in_the_outbox_with_its_run() {
    let store = Fixture::new();
    let id = store.add_job(None);
    let say = RunStart { what: RunWhat::Say(Box::new(outbound("good morning"))), last: true, ..run(id, 61_000) };
    let Outcome::RunStarted { inbox: None, queued: Some(outbox) } = store.expect(op(say.clone())) else { panic!("queued") };
    assert_eq!(store.outbox(outbox).message.text, "good morning");
    assert_eq!(store.state(), RunState::Done);
    assert_eq!(store.recovered().jobs, [], "its only time has come");
    assert_eq!(store.call(op(RunStart { slot_ms: Some(99_000), ..say })), Err(StoreError::Fenced));
}

#[test]
fn a_run_beside_the_times_is_begun_once() {
    let store = Fixture::new();
    let id = store.add_job(None);
    let now = RunStart { slot_ms: None, request: Some("inbox:9".to_owned()), ..run(id, 5000) };
    let inbox = started(store.expect(op(now.clone())));
    assert_eq!(store.expect(op(now.clone())), NOTHING, "the same command again");
    assert_eq!(store.recovered().jobs[0].last_slot_ms, 1000, "the times go on as they were");
    assert_eq!(store.call(Op::CloseInbox { inbox }), Ok(Outcome::Done));
    assert_eq!(store.expect(op(now)), NOTHING);
    started(store.expect(op(run(id, 61_000))));
}

#[test]
fn a74_the_history_of_a_job_has_an_end() {
    let store = Fixture::new();
    let id = store.add_job(None);
    for number in 1..=60 {
        let what = RunWhat::Skip("no".to_owned());
        assert_eq!(store.expect(op(RunStart { what, ..run(id, 1000 + number * 60_000) })), NOTHING);
    }
    for _ in 0..crate::limits::JOBS_ENDED_KEPT + 20 {
        let once = store.add_job(None);
        store.expect(op(RunStart { what: RunWhat::Skip("no".to_owned()), last: true, ..run(once, 61_000) }));
    }
    let handle = rusqlite::Connection::open(store.path()).expect("opens");
    let count = |sql: &str| handle.query_row(sql, (), |row| row.get::<_, u32>(0)).expect("counted") as usize;
    assert_eq!(count("SELECT count(*) FROM runs WHERE job = 1"), crate::limits::JOB_RUNS_KEPT);
    assert_eq!(count("SELECT count(*) FROM jobs"), crate::limits::JOBS_ENDED_KEPT + 1);
    assert_eq!(count("SELECT count(*) FROM runs"), crate::limits::JOB_RUNS_KEPT + crate::limits::JOBS_ENDED_KEPT);
}

#[test]
fn a_job_follows_its_chat() {
    let store = Fixture::new();
    store.add_job(None);
    let op = Op::MoveChat { adapter: "test".to_owned(), old: "room".to_owned(), new: "hall".to_owned() };
    assert_eq!(store.expect(op), Outcome::Done);
    assert_eq!(store.recovered().jobs[0].job.chat.chat, "hall");
}

#[test]
fn a_database_without_jobs_gets_them() {
    let scratch = tempfile::tempdir().expect("scratch");
    let path = scratch.path().join("state.db");
    {
        let (steps, _receiver) = bounded(8);
        let connection = open::database(&path, &schema::MIGRATIONS[..1], &steps).unwrap_or_else(|error| panic!("{error}"));
        connection.close().expect("closed");
    }
    let (handle, thread) = open_store(&path);
    let added = handle.call(Op::AddJob { job: Box::new(job("look")), request: None }, soon());
    assert_eq!(added, Ok(Outcome::JobAdded { job: 1 }));
    assert!(thread.close(soon()));
}
