//! Groups and the faults of a disk: full, full for one, locked, and well again.

use super::*;
use std::process::Command;

fn scratch_engine() -> (tempfile::TempDir, Engine, Arc<Health>) {
    let scratch = tempfile::tempdir().expect("scratch");
    let (engine, health) = engine(&scratch.path().join("state.db"));
    engine.connection.execute_batch("PRAGMA wal_autocheckpoint = 0").expect("set");
    (scratch, engine, health)
}

/// Lets the database grow by so many pages.
fn leave_room(engine: &Engine, pages: i64) {
    let now: i64 = engine.connection.query_row("PRAGMA page_count", (), |row| row.get(0)).expect("counted");
    let limit = format!("PRAGMA max_page_count = {}", now + pages);
    engine.connection.query_row(&limit, (), |row| row.get::<_, i64>(0)).expect("set");
}

fn large(id: &str) -> Op {
    let mut message = inbound(id);
    message.text = "x".repeat(300_000);
    Op::Accept { inbound: Box::new(message), receipt: None, received_ms: 1, begin: None, done: false }
}

#[test]
fn a_group_shares_one_commit() {
    let (_scratch, mut engine, health) = scratch_engine();
    let many: Vec<Op> = (0..200).map(|number| accept(&number.to_string(), None)).collect();
    assert!(group(&mut engine, many).iter().all(Result::is_ok));
    assert_eq!(health.read(0).commits, 1);
    let frames = "PRAGMA wal_checkpoint(NOOP)";
    let before: i64 = engine.connection.query_row(frames, (), |row| row.get(1)).expect("counted");
    let reads = vec![Op::Figures, Op::Recover { now_ms: 0 }, Op::LoadCursor { adapter: "test".to_owned() }];
    assert!(group(&mut engine, reads).iter().all(Result::is_ok));
    let after: i64 = engine.connection.query_row(frames, (), |row| row.get(1)).expect("counted");
    assert_eq!((health.read(0).commits, after), (1, before), "reading writes nothing");
}

#[test]
fn an_operation_that_fails_does_not_spoil_the_others() {
    let (_scratch, mut engine, _) = scratch_engine();
    let waiting = inbox_of(group(&mut engine, vec![accept("m0", None)]).remove(0).expect("accepted"));
    let answers = group(
        &mut engine,
        vec![
            accept("m1", Some(start(1))),
            finish(77, &["of nobody"]),
            // The number of a turn that exists: a defect of the caller, halfway through the operation.
            Op::BeginTurn { start: start(1), inbox: waiting },
            Op::LoadTranscript { session: SESSION.to_owned(), messages_max: 9 },
            finish(1, &["yes"]),
            Op::Figures,
        ],
    );
    assert!(matches!(answers[0], Ok(Outcome::Accepted { .. })));
    assert_eq!(answers[1], Err(StoreError::Fenced));
    assert!(matches!(answers[2], Err(StoreError::Bug(_))), "{:?}", answers[2]);
    assert_eq!(answers[3], Ok(Outcome::Transcript(vec![said(Role::User, "question 1")])));
    assert!(matches!(&answers[4], Ok(Outcome::Finished { queued }) if queued.len() == 1));
    assert!(matches!(answers[5], Ok(Outcome::Figures(Figures { inbox_waiting: 1, outbox_pending: 1, .. }))));
}

#[test]
fn what_is_too_large_for_the_disk_does_not_take_the_others_with_it() {
    let (_scratch, mut engine, health) = scratch_engine();
    leave_room(&engine, 60);
    for round in 0..3 {
        let name = |what: &str| format!("{what} {round}");
        let answers =
            group(&mut engine, vec![accept(&name("before"), None), large(&name("large")), accept(&name("after"), None), Op::Figures]);
        assert!(answers[0].is_ok() && unavailable(&answers[1]) && answers[2].is_ok(), "round {round}: {answers:?}");
        assert!(matches!(answers[3], Ok(Outcome::Figures(figures)) if figures.inbox_waiting == 2 * (round + 1)), "{:?}", answers[3]);
    }
    // Alone it is refused as well, and nothing of it stays.
    assert!(unavailable(&group(&mut engine, vec![large("alone")])[0]));
    leave_room(&engine, 100_000);
    assert!(matches!(group(&mut engine, vec![large("alone")])[0], Ok(Outcome::Accepted { .. })));
    assert_eq!(health.read(0).error, None);
}

#[test]
fn a_full_disk_is_said_and_survived() {
    let (_scratch, mut engine, health) = scratch_engine();
    leave_room(&engine, 30);
    let mut kept = Vec::new();
    for number in 0.. {
        let id = format!("m{number}");
        let answer = group(&mut engine, vec![accept(&id, None)]).remove(0);
        match answer {
            Ok(outcome) => kept.push((id, inbox_of(outcome))),
            Err(StoreError::Unavailable(cause)) => {
                assert!(cause.contains("full"), "{cause}");
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(kept.len() > 3 && health.read(0).error.is_some_and(|error| error.contains("full")));
    let commits = health.read(0).commits;
    let answers = group(&mut engine, (0..50).map(|number| large(&format!("more {number}"))).chain([Op::Figures]).collect());
    assert!(answers[..50].iter().all(unavailable));
    assert!(matches!(answers[50], Ok(Outcome::Figures(figures)) if figures.inbox_waiting == kept.len() as u64), "reading goes on");
    assert_eq!(health.read(0).commits, commits);
    leave_room(&engine, 1000);
    engine.tidy();
    assert_eq!(health.read(0).error, None, "it finds out by itself");
    for (id, inbox) in kept {
        assert_eq!(group(&mut engine, vec![accept(&id, None)]), [Ok(Outcome::Duplicate { inbox })]);
    }
    assert!(matches!(group(&mut engine, vec![accept("more 1", None)])[0], Ok(Outcome::Accepted { .. })));
}

#[test]
fn a_lock_of_another_program_is_said_and_survived() {
    let (scratch, mut engine, health) = scratch_engine();
    engine.connection.busy_timeout(Duration::ZERO).expect("set");
    let shell = rusqlite::Connection::open(scratch.path().join("state.db")).expect("opens");
    shell.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let answers = group(&mut engine, vec![Op::Figures, accept("m1", None), accept("m2", None), Op::Figures]);
    assert!(answers[0].is_ok() && unavailable(&answers[1]) && unavailable(&answers[2]) && answers[3].is_ok(), "{answers:?}");
    assert!(health.read(0).error.is_some_and(|error| error.contains("locked by another program")));
    shell.execute_batch("ROLLBACK").expect("unlocks");
    assert!(group(&mut engine, vec![accept("m1", None)])[0].is_ok());
    assert_eq!(health.read(0).error, None);
}

#[test]
fn damage_that_shows_up_later_is_a_clear_error() {
    let (scratch, mut engine, health) = scratch_engine();
    for number in 0..50 {
        group(&mut engine, vec![accept(&number.to_string(), None)]).remove(0).expect("accepted");
    }
    engine.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).expect("moved");
    engine.connection.release_memory().expect("released");
    let path = scratch.path().join("state.db");
    let length = std::fs::metadata(&path).expect("there").len();
    {
        use std::os::unix::fs::FileExt;
        let page = u64::from(crate::limits::STORE_PAGE_BYTES);
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
        for number in 2..length / page {
            file.write_all_at(&[0x5a; 64], number * page).expect("written");
        }
    }
    let answer = group(&mut engine, vec![Op::Recover { now_ms: 0 }]).remove(0);
    assert!(matches!(&answer, Err(StoreError::Bug(text)) if text.contains("damaged")), "{answer:?}");
    health.committed(Duration::ZERO);
    assert!(health.read(0).error.is_some_and(|error| error.contains("damaged")), "a commit that works does not hide it");
}

const SMALL_DISK: &str = "HERMES_STORE_TEST_SMALL_DISK";

/// Runs in a mount namespace of its own, on a file system of 400 KiB.
#[test]
fn on_a_small_disk() {
    let Ok(directory) = std::env::var(SMALL_DISK) else { return };
    let directory = Path::new(&directory);
    let ballast = directory.join("ballast");
    std::fs::write(&ballast, vec![1; 150_000]).expect("written");
    let (handle, thread) = open_store(&directory.join("state.db"));
    let mut kept = Vec::new();
    let refused = loop {
        let id = format!("m{}", kept.len());
        let mut message = inbound(&id);
        message.text = "x".repeat(500);
        let op = Op::Accept { inbound: Box::new(message), receipt: None, received_ms: 1, begin: None, done: false };
        match handle.call(op, soon()) {
            Ok(outcome) => kept.push((id, inbox_of(outcome))),
            Err(error) => break error,
        }
    };
    assert!(matches!(&refused, StoreError::Unavailable(cause) if cause.contains("full")), "{refused:?}");
    assert!(kept.len() > 20 && handle.health().error.is_some());
    let full = |answer: Answer| match answer {
        Ok(Outcome::Figures(figures)) => figures.inbox_waiting,
        other => panic!("{other:?}"),
    };
    assert_eq!(full(handle.call(Op::Figures, soon())), kept.len() as u64);
    std::fs::remove_file(&ballast).expect("removed");
    let inbox = inbox_of(handle.call(accept("after", None), soon()).expect("there is room again"));
    kept.push(("after".to_owned(), inbox));
    assert_eq!(handle.health().error, None);
    assert!(thread.close(soon()));
    let (handle, thread) = open_store(&directory.join("state.db"));
    for (id, inbox) in kept {
        assert_eq!(handle.call(accept(&id, None), soon()), Ok(Outcome::Duplicate { inbox }));
    }
    assert!(thread.close(soon()));
    // With no room at all a new database is refused with the reason.
    let mut bytes = 1 << 19;
    for number in 0.. {
        assert!(number < 1000, "the disk has no end");
        if std::fs::write(directory.join(format!("filler {number}")), vec![1; bytes]).is_err() {
            bytes /= 2;
        }
        if bytes == 0 {
            break;
        }
    }
    let error = super::super::open(&directory.join("new.db"), &Threads::new(), CancelToken::new(), soon()).err().expect("refused");
    assert!(matches!(error, super::super::OpenError::DiskFull { .. }), "{error:?}");
    println!("the small disk was survived");
}

#[test]
fn a_disk_that_is_really_full() {
    let scratch = tempfile::tempdir().expect("scratch");
    let script =
        "mount -t tmpfs -o size=400k tmpfs \"$1\" && exec timeout 60 \"$2\" --exact store::tests::faults::on_a_small_disk --nocapture";
    let mounts = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs"]).arg(scratch.path()).output();
    if !mounts.is_ok_and(|tried| tried.status.success()) {
        eprintln!("skipped: this system does not let a test mount a file system of its own");
        return;
    }
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", script, "sh"])
        .arg(scratch.path())
        .arg(std::env::current_exe().expect("own path"))
        .env(SMALL_DISK, scratch.path())
        .output()
        .expect("starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("the small disk was survived"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}
