//! The thread that owns the connection: takes requests, commits them in groups, answers, tidies up, closes.
//!
//! Nothing else may use the connection, and nothing here may wait for anybody but the disk.

use super::health::Health;
use super::open::{self, Step};
use super::ops::{self, Failure, Statements as _};
use super::request::{Answer, Request};
use super::{StoreError, schema, upkeep};
use crate::clock::{self, Deadline};
use crate::core::record::Op;
use crate::limits;
use crate::thread::{CancelToken, enter, memory, wait_for_work};
use crossbeam_channel::{Receiver, Sender, after, never};
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// When nobody says until when to close: the close phase of a stop.
const CLOSE_DEFAULT: Duration = Duration::from_secs(3);
/// Failures in a row after which a group that fell apart is not tried any further.
const FAILURES_IN_A_ROW_MAX: usize = 2;

/// Everything the thread needs, handed over at its start.
pub(super) struct Body {
    pub path: PathBuf,
    /// For opening.
    pub deadline: Deadline,
    pub steps: Sender<Step>,
    pub requests: Receiver<Box<Request>>,
    /// A message or the end of the channel: finish what is queued and leave, by that deadline.
    pub closing: Receiver<Deadline>,
    pub closed: Arc<AtomicBool>,
    /// Set while the connection is being closed.
    pub leaving: Arc<AtomicBool>,
    pub health: Arc<Health>,
}

/// Why the wait for requests ended.
enum Woken {
    Request(Box<Request>),
    /// Nothing came for as long as was waited.
    Idle,
    Close(Deadline),
    Cancelled,
}

impl Body {
    pub fn run(self, token: &CancelToken) {
        let mut engine = {
            let _busy = enter(format_args!("open {}", self.path.display()), self.deadline);
            match open::database(&self.path, schema::MIGRATIONS, &self.steps) {
                Ok(connection) => Engine::new(connection, Arc::clone(&self.health)),
                Err(error) => {
                    let _ = self.steps.try_send(Step::Failed(Box::new(error)));
                    return;
                }
            }
        };
        engine.measure();
        // If nobody waits for it any more, the wait below ends at once, for the other end of `closing` is gone too.
        let _ = self.steps.try_send(Step::Open);
        let deadline = self.serve(token, &mut engine);
        self.closed.store(true, Ordering::SeqCst);
        self.leave(engine, deadline);
    }

    /// → until when to be gone.
    fn serve(&self, token: &CancelToken, engine: &mut Engine) -> Deadline {
        loop {
            match self.next(token, engine.patience()) {
                Woken::Request(first) => engine.run(self.group(*first)),
                Woken::Idle => engine.tidy(),
                Woken::Cancelled => return Deadline::after(CLOSE_DEFAULT),
                Woken::Close(deadline) => {
                    self.closed.store(true, Ordering::SeqCst);
                    while let Ok(first) = self.requests.try_recv() {
                        if deadline.passed() || token.is_cancelled() {
                            break;
                        }
                        engine.run(self.group(*first));
                    }
                    return deadline;
                }
            }
        }
    }

    fn next(&self, token: &CancelToken, patience: Option<Duration>) -> Woken {
        let _waiting = wait_for_work(format_args!("waiting for requests"));
        let timeout = patience.map_or_else(never, after);
        crossbeam_channel::select! {
            recv(self.requests) -> request => match request {
                Ok(request) => Woken::Request(request),
                // Every handle is gone.
                Err(_) => Woken::Close(Deadline::after(CLOSE_DEFAULT)),
            },
            recv(self.closing) -> deadline => Woken::Close(deadline.unwrap_or_else(|_| Deadline::after(CLOSE_DEFAULT))),
            recv(token.cancelled()) -> _ => Woken::Cancelled,
            recv(timeout) -> _ => Woken::Idle,
        }
    }

    /// The request, and those that wait behind it.
    fn group(&self, first: Request) -> Vec<Request> {
        let more = self.requests.try_iter().take(limits::STORE_GROUP_MAX - 1).map(|request| *request);
        std::iter::once(first).chain(more).collect()
    }

    /// The log goes into the database if there is time; it is as safe where it is.
    fn leave(&self, engine: Engine, deadline: Deadline) {
        let _busy = enter(format_args!("close {}", self.path.display()), deadline);
        if !deadline.passed()
            && let Err(error) = engine.checkpoint("TRUNCATE")
        {
            log::warn!(target: "store", "the write-ahead log stays beside the database: {error}");
        }
        self.leaving.store(true, Ordering::SeqCst);
        if let Err((_connection, error)) = engine.connection.close() {
            log::warn!(target: "store", "closing the database failed: {error}");
        }
    }
}

/// What came of trying to run a group in one transaction.
enum Attempt {
    Committed,
    /// The transaction is gone. These were in it, or behind what made it fail.
    Undone {
        requests: Vec<Request>,
        cause: StoreError,
    },
}

/// The connection and what is to be remembered about it.
pub(super) struct Engine {
    pub connection: Connection,
    health: Arc<Health>,
    /// Something was done since it was last tidied up.
    touched: bool,
    /// Deleting what is older than this goes on.
    pruning: Option<i64>,
}

impl Engine {
    pub fn new(connection: Connection, health: Arc<Health>) -> Self {
        connection.set_prepared_statement_cache_capacity(limits::STORE_STATEMENTS);
        Self { connection, health, touched: true, pruning: None }
    }

    /// How long to wait for a request before [`Engine::tidy`] is due; `None` for as long as it takes.
    fn patience(&self) -> Option<Duration> {
        if self.health.is_failing() {
            Some(limits::STORE_PROBE)
        } else if self.pruning.is_some() {
            Some(Duration::ZERO)
        } else {
            self.touched.then_some(limits::STORE_IDLE)
        }
    }

    /// Runs the requests and answers each of them.
    pub fn run(&mut self, requests: Vec<Request>) {
        self.touched = true;
        let first = requests.first().map_or("nothing", |request| ops::name(&request.op));
        let _busy = enter(format_args!("commit {}: {first} …", requests.len()), Deadline::after(limits::STORE_COMMIT));
        match self.attempt(requests) {
            Attempt::Committed => (),
            Attempt::Undone { mut requests, cause } if requests.len() == 1 => {
                if let Some(mut request) = requests.pop() {
                    self.refuse(&mut request, cause);
                }
            }
            Attempt::Undone { requests, .. } => self.run_singly(requests),
        }
    }

    /// A group fell apart: each request gets a transaction of its own, so that one that is too large for the disk, or
    /// meets a defect, does not take the others with it. When it is plain that nothing works, the rest is refused.
    fn run_singly(&mut self, requests: Vec<Request>) {
        let mut failures = 0;
        let mut last_cause = None;
        for mut request in requests {
            if let Some(cause) = last_cause.as_ref().filter(|_| failures >= FAILURES_IN_A_ROW_MAX && !ops::is_read(&request.op)) {
                request.reply.give(Err(StoreError::clone(cause)));
                continue;
            }
            match self.attempt(vec![request]) {
                Attempt::Committed => failures = 0,
                Attempt::Undone { requests, cause } => {
                    failures += 1;
                    for mut request in requests {
                        self.refuse(&mut request, cause.clone());
                    }
                    last_cause = Some(cause);
                }
            }
        }
    }

    fn refuse(&self, request: &mut Request, cause: StoreError) {
        let answer = Err(cause);
        self.note(&request.op, &answer);
        request.reply.give(answer);
    }

    /// Failures of the disk or of ours are logged and shown by `status`; a fence that holds is nobody's failure.
    fn note(&self, op: &Op, answer: &Answer) {
        match answer {
            Err(StoreError::Unavailable(cause)) => self.health.failed(cause),
            Err(StoreError::Bug(cause)) => log::error!(target: "store", "{} failed: {cause}", ops::name(op)),
            _ => (),
        }
    }

    /// Runs the requests in one transaction, begun with the first that writes. What reads before it is answered at
    /// once; everything after it is answered after the commit, because it may have seen what is not committed.
    fn attempt(&mut self, requests: Vec<Request>) -> Attempt {
        let mut waiting: Vec<(Request, Answer)> = Vec::new();
        let mut open = false;
        let mut requests = requests.into_iter();
        while let Some(mut request) = requests.next() {
            if request.fenced() {
                request.reply.give(Err(StoreError::Fenced));
                continue;
            }
            if ops::is_read(&request.op) {
                let answer = self.execute(&request.op);
                if open {
                    waiting.push((request, answer));
                } else {
                    self.note(&request.op, &answer);
                    request.reply.give(answer);
                }
                continue;
            }
            if !open && let Err(error) = self.connection.run("BEGIN IMMEDIATE", ()) {
                let rest = std::iter::once(request).chain(requests).collect();
                return self.undone(Vec::new(), rest, &error);
            }
            open = true;
            let answer = self.in_savepoint(&request.op);
            waiting.push((request, answer));
            if self.connection.is_autocommit() {
                // SQLite gave the whole transaction up (disk full, I/O error): nothing of it is there any more.
                return self.lost(waiting, requests.collect());
            }
        }
        if open { self.commit(waiting) } else { Attempt::Committed }
    }

    fn commit(&mut self, waiting: Vec<(Request, Answer)>) -> Attempt {
        let wrote = waiting.iter().any(|(request, answer)| answer.is_ok() && !ops::is_read(&request.op));
        let begun = clock::now();
        if let Err(error) = self.connection.run("COMMIT", ()) {
            return self.undone(waiting, Vec::new(), &error);
        }
        if wrote {
            self.health.committed(begun.elapsed());
        }
        for (mut request, answer) in waiting {
            self.note(&request.op, &answer);
            if let (Op::Prune { before_ms }, Ok(_)) = (&request.op, &answer) {
                self.pruning = Some(*before_ms);
            }
            request.reply.give(answer);
        }
        Attempt::Committed
    }

    /// After an error of the transaction itself.
    fn undone(&self, waiting: Vec<(Request, Answer)>, rest: Vec<Request>, error: &rusqlite::Error) -> Attempt {
        let cause = ops::classify(error);
        self.watch_for_damage(error);
        self.roll_back();
        let requests = waiting.into_iter().map(|(request, _)| request).chain(rest).collect();
        Attempt::Undone { requests, cause }
    }

    /// After SQLite rolled the transaction back by itself; the last answer says why.
    fn lost(&self, waiting: Vec<(Request, Answer)>, rest: Vec<Request>) -> Attempt {
        let cause = match waiting.last() {
            Some((_, Err(cause))) => cause.clone(),
            _ => StoreError::Bug("the transaction ended by itself".to_owned()),
        };
        let requests = waiting.into_iter().map(|(request, _)| request).chain(rest).collect();
        Attempt::Undone { requests, cause }
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            log::error!(target: "store", "cannot roll back: {error}");
        }
    }

    /// Undoes the operation alone if it fails.
    fn in_savepoint(&self, op: &Op) -> Answer {
        self.connection.run("SAVEPOINT op", ()).map_err(|error| ops::classify(&error))?;
        let mut answer = self.execute(op);
        if !self.connection.is_autocommit() {
            let ended = if answer.is_ok() {
                self.connection.run("RELEASE op", ()).map(drop)
            } else {
                self.connection.execute_batch("ROLLBACK TO op; RELEASE op")
            };
            if let Err(error) = ended {
                // What is in the transaction now is not known: it goes as a whole.
                self.roll_back();
                answer = answer.and(Err(ops::classify(&error)));
            }
        }
        answer
    }

    /// A defect in one operation must not end the store.
    fn execute(&self, op: &Op) -> Answer {
        catch_unwind(AssertUnwindSafe(|| ops::execute(&self.connection, op)))
            .unwrap_or_else(|_| Err(Failure::Bug(format!("{} panicked; the log says where", ops::name(op)))))
            .map_err(|failure| {
                if let Failure::Sql(error) = &failure {
                    self.watch_for_damage(error);
                }
                StoreError::from(failure)
            })
    }

    /// Damage does not heal with the next commit that works.
    fn watch_for_damage(&self, error: &rusqlite::Error) {
        if ops::is_damage(error) {
            self.health.damaged(&ops::classify(error).to_string());
        }
    }

    /// What is done when nobody waits for anything.
    pub fn tidy(&mut self) {
        let _busy = enter(format_args!("tidy up"), Deadline::after(limits::STORE_COMMIT));
        if self.health.is_failing() {
            self.probe();
            return;
        }
        if let Some(before_ms) = self.pruning {
            self.pruning = self.prune_slice(before_ms).then_some(before_ms);
            return;
        }
        self.touched = false;
        match self.log_pages() {
            Ok(pages) if pages >= i64::from(limits::STORE_LOG_PAGES_IDLE) => {
                if let Err(error) = self.checkpoint("PASSIVE") {
                    log::warn!(target: "store", "cannot move the write-ahead log into the database: {error}");
                }
            }
            _ => (),
        }
        self.measure();
        self.connection.flush_prepared_statement_cache();
        let _ = self.connection.release_memory();
        // When the store has been idle for a while, so has everything else: each message ends here.
        memory::release();
    }

    /// Whether the disk takes writes again.
    fn probe(&self) {
        let begun = clock::now();
        let sql = "INSERT INTO meta(key, value) VALUES('probe', ?1) ON CONFLICT(key) DO UPDATE SET value = excluded.value";
        match self.connection.execute(sql, [clock::wall_ms()]) {
            Ok(_) => self.health.committed(begun.elapsed()),
            Err(error) => self.note(&Op::Figures, &Err(ops::classify(&error))),
        }
    }

    /// → whether there is more to do. After an error there is not: the next request for it begins anew.
    fn prune_slice(&self, before_ms: i64) -> bool {
        let slice = || -> Result<bool, Failure> {
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            let more = upkeep::prune(&self.connection, before_ms)?;
            self.connection.execute_batch("COMMIT")?;
            Ok(more)
        };
        slice().unwrap_or_else(|failure| {
            self.roll_back();
            log::warn!(target: "store", "deleting what is old stopped: {}", StoreError::from(failure));
            false
        })
    }

    /// Pages in the log that are not in the database yet.
    fn log_pages(&self) -> rusqlite::Result<i64> {
        let read = |row: &rusqlite::Row<'_>| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?);
        self.connection.query_row("PRAGMA wal_checkpoint(NOOP)", (), read)
    }

    fn checkpoint(&self, mode: &str) -> Result<(), StoreError> {
        let busy = self.connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |row| row.get::<_, bool>(0));
        match busy {
            Ok(false) => Ok(()),
            Ok(true) => Err(StoreError::Unavailable("another program is reading the database".to_owned())),
            Err(error) => Err(ops::classify(&error)),
        }
    }

    fn measure(&self) {
        if let Ok(bytes) = upkeep::bytes(&self.connection) {
            self.health.set_bytes(bytes);
        }
    }
}
