//! The handle: waiting, fences, deadlines, a full queue, closing.

use super::*;
use crate::store::thread::Body;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Keeps the store thread in a callback until the sender is dropped.
fn hold(store: &Fixture) -> crossbeam_channel::Sender<()> {
    let (release, held) = bounded::<()>(0);
    let (entered_sender, entered) = bounded::<()>(1);
    store.handle.submit(Op::Figures, move |_| {
        let _ = entered_sender.try_send(());
        let _ = held.recv_timeout(Duration::from_secs(20));
    });
    entered.recv_timeout(Duration::from_secs(20)).expect("the store thread is in the callback");
    release
}

fn in_ms(wait: u64) -> Deadline {
    Deadline::after(Duration::from_millis(wait))
}

#[test]
fn a_fenced_handle_is_refused_at_the_time_of_execution() {
    let store = Fixture::new();
    let token = CancelToken::new();
    let fenced = store.handle.fenced(&token);
    let held = hold(&store);
    // Handed in while the token holds; its turn comes when it does not any more.
    let (sender, answer) = bounded(1);
    fenced.submit(accept("m1", None), move |result| sender.try_send(result).expect("room"));
    token.cancel();
    drop(held);
    assert_eq!(answer.recv_timeout(Duration::from_secs(20)), Ok(Err(StoreError::Fenced)));
    assert_eq!(fenced.call(Op::Figures, soon()), Err(StoreError::Fenced));
    assert_eq!(store.figures().inbox_waiting, 0);
}

#[test]
fn nothing_of_a_fenced_handle_is_done_after_the_cancel() {
    let store = Fixture::new();
    for round in 0..20 {
        let token = CancelToken::new();
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (fenced, store) = (store.handle.fenced(&token), &store);
                scope.spawn(move || {
                    // Both ways of handing in; the last ones overlap with the cancel.
                    for number in 0.. {
                        let id = format!("{round} {worker} {number}");
                        fenced.submit(accept(&id, None), |_| ());
                        if fenced.call(accept(&format!("{id} too"), None), soon()) == Err(StoreError::Fenced) {
                            return;
                        }
                        assert!(store.thread.running());
                    }
                });
            }
            let deadline = soon();
            while store.figures().inbox_waiting < 10 * (round + 1) {
                assert!(!deadline.passed());
            }
            token.cancel();
            // What was executed before the cancel is committed when this answer comes; from here on nothing changes.
            let after = store.figures().inbox_waiting;
            for _ in 0..5 {
                assert_eq!(store.figures().inbox_waiting, after);
            }
        });
    }
}

#[test]
fn fences_add_up() {
    let store = Fixture::new();
    for cancelled in 0..2 {
        let tokens = [CancelToken::new(), CancelToken::new()];
        let fenced = store.handle.fenced(&tokens[0]).fenced(&tokens[1]);
        assert!(fenced.call(Op::Figures, soon()).is_ok());
        tokens[cancelled].cancel();
        assert_eq!(fenced.call(Op::Figures, soon()), Err(StoreError::Fenced), "{cancelled}");
    }
}

#[test]
fn a_caller_comes_back_when_its_token_is_cancelled() {
    let store = Fixture::new();
    let held = hold(&store);
    let token = CancelToken::new();
    let fenced = store.handle.fenced(&token);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| fenced.call(Op::Figures, soon()));
        while store.handle.health().queued == 0 {
            std::thread::yield_now();
        }
        token.cancel();
        assert_eq!(caller.join().expect("no panic"), Err(StoreError::Fenced));
    });
    drop(held);
}

#[test]
fn a_caller_comes_back_at_its_deadline() {
    let store = Fixture::new();
    let held = hold(&store);
    assert_eq!(store.handle.call(accept("m1", None), in_ms(20)), Err(StoreError::Timeout));
    drop(held);
    // It was done nevertheless, as the error's text says.
    assert_eq!(store.figures().inbox_waiting, 1);
}

#[test]
fn a_full_queue_is_said_at_once() {
    let store = Fixture::new();
    let held = hold(&store);
    let answered = Arc::new(AtomicUsize::new(0));
    let busy = Arc::new(AtomicUsize::new(0));
    for _ in 0..crate::limits::STORE_QUEUE_MAX + 3 {
        let (answered, busy) = (Arc::clone(&answered), Arc::clone(&busy));
        store.handle.submit(Op::Figures, move |answer| {
            answered.fetch_add(1, Ordering::SeqCst);
            busy.fetch_add(usize::from(answer == Err(StoreError::Busy)), Ordering::SeqCst);
        });
    }
    assert_eq!((answered.load(Ordering::SeqCst), busy.load(Ordering::SeqCst)), (3, 3));
    assert_eq!(store.handle.call(Op::Figures, in_ms(20)), Err(StoreError::Busy));
    let token = CancelToken::new();
    let fenced = store.handle.fenced(&token);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| fenced.call(Op::Figures, soon()));
        token.cancel();
        assert_eq!(caller.join().expect("no panic"), Err(StoreError::Fenced));
        // With room again, who waits for it gets in.
        let caller = scope.spawn(|| store.handle.call(Op::Figures, soon()));
        drop(held);
        assert!(caller.join().expect("no panic").is_ok());
    });
    store.figures();
    assert_eq!(answered.load(Ordering::SeqCst), crate::limits::STORE_QUEUE_MAX + 3);
}

#[test]
fn closing_finishes_what_is_queued_and_takes_nothing_more() {
    let store = Fixture::new();
    let held = hold(&store);
    let committed = Arc::new(AtomicUsize::new(0));
    for number in 0..500 {
        let committed = Arc::clone(&committed);
        store.handle.submit(accept(&number.to_string(), None), move |answer| {
            committed.fetch_add(usize::from(answer.is_ok()), Ordering::SeqCst);
        });
    }
    let Fixture { directory, handle, thread } = store;
    drop(held);
    assert!(thread.close(soon()));
    assert_eq!(committed.load(Ordering::SeqCst), 500);
    assert_eq!(handle.call(Op::Figures, soon()), Err(StoreError::Closed));
    let (sender, answer) = bounded(1);
    handle.submit(Op::Figures, move |result| sender.try_send(result).expect("room"));
    assert_eq!(answer.try_recv(), Ok(Err(StoreError::Closed)));
    assert_eq!(std::fs::metadata(directory.path().join("state.db-wal")).map_or(0, |log| log.len()), 0, "the log is in the database");
    let (handle, _thread) = open_store(&directory.path().join("state.db"));
    assert!(matches!(handle.call(Op::Figures, soon()), Ok(Outcome::Figures(Figures { inbox_waiting: 500, .. }))));
}

#[test]
fn closing_does_not_wait_for_a_thread_that_does_not_come_back() {
    let store = Fixture::new();
    let held = hold(&store);
    let answered = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&answered);
    store.handle.submit(accept("m1", None), move |answer| {
        assert_eq!(answer, Err(StoreError::Closed));
        flag.store(true, Ordering::SeqCst);
    });
    let begun = crate::clock::now();
    assert!(!store.thread.close(in_ms(100)));
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(held);
    // Nobody is left without an answer.
    let deadline = soon();
    while !answered.load(Ordering::SeqCst) {
        assert!(!deadline.passed());
        std::thread::yield_now();
    }
}

#[test]
fn the_thread_ends_with_its_token_and_with_its_handles() {
    for cancel in [true, false] {
        let directory = tempfile::tempdir().expect("scratch");
        let token = CancelToken::new();
        let path = directory.path().join("state.db");
        let (handle, thread) = crate::store::open(&path, &Threads::new(), token.clone(), soon()).expect("opens");
        assert!(thread.running());
        if cancel {
            token.cancel();
        } else {
            drop(handle);
        }
        let deadline = soon();
        while thread.running() {
            assert!(!deadline.passed(), "cancel: {cancel}");
            std::thread::yield_now();
        }
        assert!(thread.close(soon()));
    }
}

#[test]
fn a_callback_that_panics_does_not_end_the_store() {
    let store = Fixture::new();
    store.handle.submit(Op::Figures, |_| panic!("defect of the caller"));
    store.accept("m1");
    assert!(store.thread.running());
}

#[test]
fn health_tells_of_commits() {
    let store = Fixture::new();
    assert_eq!(store.handle.health().commits, 0);
    store.figures();
    assert_eq!(store.handle.health().commits, 0, "reading commits nothing");
    store.accept("m1");
    let health = store.handle.health();
    assert!(health.commits == 1 && health.last_commit_ms.is_some() && health.error.is_none() && health.bytes > 0, "{health:?}");
}

#[test]
fn opening_ends_at_its_deadline_and_with_its_token() {
    let directory = tempfile::tempdir().expect("scratch");
    let path = directory.path().join("state.db");
    let token = CancelToken::new();
    token.cancel();
    // Which of the two is seen first is open: that it is cancelled, or that it was open already.
    let result = crate::store::open(&path, &Threads::new(), token, soon());
    assert!(matches!(result, Ok(_) | Err(crate::store::OpenError::Cancelled)));
    // A lock that another program holds is waited for, but not longer than the deadline.
    drop(result);
    let other = rusqlite::Connection::open(directory.path().join("locked.db")).expect("opens");
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").expect("locks");
    let begun = crate::clock::now();
    let result = crate::store::open(&directory.path().join("locked.db"), &Threads::new(), CancelToken::new(), in_ms(50));
    assert!(matches!(result, Err(crate::store::OpenError::Timeout { .. })));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_the_thread_takes_can_be_sent_to_it() {
    fn sendable<T: Send>() {}
    sendable::<Body>();
    fn shareable<T: Send + Sync + Clone>() {}
    shareable::<StoreHandle>();
}
