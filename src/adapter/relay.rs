//! Requests of an outlet that go over the connection which the inlet owns.
//!
//! The outlet's thread puts a request into a bounded line, wakes the inlet ([`Waker`]) and waits for the answer, each with
//! an end. The inlet's thread opens a [`Session`] while it is connected, takes the requests as [`Job`]s and answers them.
//! A job that is dropped without an answer tells so: nobody waits for a connection that has ended. The lock covers the
//! line alone, never I/O.

use super::SendError;
use crate::clock::Deadline;
use crate::limits;
use crate::net::Waker;
use crate::thread::{CancelToken, enter};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayError {
    Cancelled,
    /// It was not sent and will not be: there is no connection, or it did not come to it.
    Unsent {
        cause: String,
    },
    /// It was sent, and no answer came: it may have been done or not.
    Lost {
        cause: String,
    },
}

impl RelayError {
    /// What it means for a message. `idempotent`: doing it twice does no harm.
    #[must_use]
    pub fn send_error(self, idempotent: bool) -> SendError {
        match self {
            Self::Cancelled => SendError::Cancelled,
            Self::Lost { cause } if !idempotent => SendError::Ambiguous { cause },
            Self::Unsent { cause } | Self::Lost { cause } => SendError::Retry { cause, after: None },
        }
    }
}

/// Nobody has taken the request on yet.
const WAITING: u8 = 0;
/// It is on its way: from here on it may have been done.
const SENT: u8 = 1;
/// The one who asked does not wait any more.
const GIVEN_UP: u8 = 2;

enum Note<A> {
    /// It is being sent: now the answer is waited for.
    Sent,
    Answer(A),
    Unsent(String),
    Lost(String),
}

/// A request, as the inlet has it. Dropping it without an answer tells the one who waits.
pub struct Job<Q, A> {
    request: Q,
    state: Arc<AtomicU8>,
    /// Has room for all that is ever said: [`Note::Sent`] and one more.
    notes: Option<Sender<Note<A>>>,
}

impl<Q, A> Job<Q, A> {
    #[must_use]
    pub fn request(&self) -> &Q {
        &self.request
    }

    /// To be called right before the request is sent. `false`: it is not wanted any more and must not be sent.
    #[must_use]
    pub fn begin(&self) -> bool {
        let begun = self.state.compare_exchange(WAITING, SENT, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if begun && let Some(notes) = &self.notes {
            let _ = notes.try_send(Note::Sent);
        }
        begun
    }

    pub fn answer(mut self, answer: A) {
        self.tell(Note::Answer(answer));
    }

    /// Nothing of it has left, or ever will.
    pub fn unsent(mut self, cause: &str) {
        self.tell(Note::Unsent(cause.to_owned()));
    }

    fn tell(&mut self, note: Note<A>) {
        if let Some(notes) = self.notes.take() {
            let _ = notes.try_send(note);
        }
    }
}

impl<Q, A> Drop for Job<Q, A> {
    fn drop(&mut self) {
        let cause = "the connection ended".to_owned();
        let sent = self.state.load(Ordering::Acquire) == SENT;
        self.tell(if sent { Note::Lost(format!("{cause} before the answer came")) } else { Note::Unsent(cause) });
    }
}

struct Line<Q, A> {
    /// The number of the session that is connected.
    open: Option<u64>,
    last_session: u64,
    why_closed: String,
    waiting: VecDeque<Job<Q, A>>,
}

/// Between the two threads of an adapter. Outlives connections and generations.
pub struct Relay<Q, A> {
    waker: Waker,
    line: Mutex<Line<Q, A>>,
}

impl<Q, A> Relay<Q, A> {
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> std::io::Result<Arc<Self>> {
        let line = Line { open: None, last_session: 0, why_closed: "not connected yet".to_owned(), waiting: VecDeque::new() };
        Ok(Arc::new(Self { waker: Waker::new()?, line: Mutex::new(line) }))
    }

    /// What the inlet's connection must heed.
    #[must_use]
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    fn lock(&self) -> MutexGuard<'_, Line<Q, A>> {
        // A list is valid after any panic.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the inlet send `request` by `deadline`, and waits for the answer for `answer_within` from then on. `what` is for
    /// messages. Without a connection it comes back at once.
    ///
    /// # Errors
    /// [`RelayError`].
    pub fn call(&self, what: &str, request: Q, deadline: Deadline, answer_within: Duration, token: &CancelToken) -> Result<A, RelayError> {
        token.check().map_err(|_| RelayError::Cancelled)?;
        let (sender, notes) = bounded(2);
        let state = Arc::new(AtomicU8::new(WAITING));
        self.put(Job { request, state: Arc::clone(&state), notes: Some(sender) }).map_err(|cause| RelayError::Unsent { cause })?;
        self.waker.wake();
        let _busy = enter(format_args!("{what}: over the connection"), Deadline::after(deadline.remaining() + answer_within));
        wait(&notes, &state, what, deadline, answer_within, token)
    }

    fn put(&self, job: Job<Q, A>) -> Result<(), String> {
        let mut line = self.lock();
        if line.open.is_none() {
            return Err(format!("no connection: {}", line.why_closed));
        }
        line.waiting.retain(|job| job.state.load(Ordering::Acquire) == WAITING);
        if line.waiting.len() >= limits::RELAY_WAITING_MAX {
            return Err("the connection does not keep up".to_owned());
        }
        line.waiting.push_back(job);
        Ok(())
    }

    /// The inlet is connected and takes requests. A session that was open before takes none any more.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> Session<Q, A> {
        let mut line = self.lock();
        line.last_session += 1;
        line.open = Some(line.last_session);
        Session { relay: Arc::clone(self), number: line.last_session }
    }

    /// Says why there is no connection, for those who want to send meanwhile.
    pub fn closed_because(&self, cause: &str) {
        let mut line = self.lock();
        if line.open.is_none() {
            cause.clone_into(&mut line.why_closed);
        }
    }
}

fn wait<A>(
    notes: &Receiver<Note<A>>,
    state: &AtomicU8,
    what: &str,
    deadline: Deadline,
    answer_within: Duration,
    token: &CancelToken,
) -> Result<A, RelayError> {
    let (mut until, mut sent) = (deadline, false);
    loop {
        select! {
            recv(notes) -> note => match note {
                Ok(Note::Sent) => (until, sent) = (Deadline::after(answer_within), true),
                Ok(Note::Answer(answer)) => return Ok(answer),
                Ok(Note::Unsent(cause)) => return Err(RelayError::Unsent { cause: format!("{what}: {cause}") }),
                Ok(Note::Lost(cause)) => return Err(RelayError::Lost { cause: format!("{what}: {cause}") }),
                Err(_) => return Err(RelayError::Lost { cause: format!("{what}: no answer") }),
            },
            recv(token.cancelled()) -> _ => {
                let _ = state.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
                return Err(RelayError::Cancelled);
            }
            default(until.remaining()) => {
                if state.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                    return Err(RelayError::Unsent { cause: format!("{what}: the connection did not come to it in time") });
                }
                if sent {
                    let seconds = answer_within.as_secs_f32();
                    return Err(RelayError::Lost { cause: format!("{what}: no answer within {seconds} s") });
                }
                // It was taken on at the last moment.
                (until, sent) = (Deadline::after(answer_within), true);
            }
        }
    }
}

/// One connection's right to take requests. Ends with the connection; what waits then is not sent.
pub struct Session<Q, A> {
    relay: Arc<Relay<Q, A>>,
    number: u64,
}

impl<Q, A> Session<Q, A> {
    /// The next request, if there is one and this is still the connection to send over.
    #[must_use]
    pub fn next(&self) -> Option<Job<Q, A>> {
        let mut line = self.relay.lock();
        if line.open != Some(self.number) {
            return None;
        }
        line.waiting.pop_front()
    }

    /// The connection has ended, and why.
    pub fn end(self, cause: &str) {
        self.close(cause);
    }

    fn close(&self, cause: &str) {
        let mut line = self.relay.lock();
        if line.open != Some(self.number) {
            return;
        }
        line.open = None;
        cause.clone_into(&mut line.why_closed);
        let waiting = std::mem::take(&mut line.waiting);
        drop(line);
        for job in waiting {
            job.unsent(cause);
        }
    }
}

impl<Q, A> Drop for Session<Q, A> {
    fn drop(&mut self) {
        self.close("the connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Words = Relay<String, String>;
    const LONG: Duration = Duration::from_secs(20);

    fn ask(relay: &Words, text: &str, deadline: Duration, answer_within: Duration) -> Result<String, RelayError> {
        relay.call("asking", text.to_owned(), Deadline::after(deadline), answer_within, &CancelToken::new())
    }

    /// Takes the next request on, as an inlet that waits for it.
    fn taken(session: &Session<String, String>) -> Job<String, String> {
        let end = Deadline::after(LONG);
        while !end.passed() {
            if let Some(job) = session.next() {
                return job;
            }
            std::thread::yield_now();
        }
        panic!("nothing was asked");
    }

    fn beside<T: Send>(relay: &Words, text: &str, inlet: impl FnOnce() -> T) -> (Result<String, RelayError>, T) {
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask(relay, text, LONG, LONG));
            let done = inlet();
            (asking.join().expect("no panic"), done)
        })
    }

    #[test]
    fn without_a_connection_it_says_so_at_once() {
        let relay = Words::new().expect("a relay");
        assert_eq!(ask(&relay, "x", LONG, LONG), Err(RelayError::Unsent { cause: "no connection: not connected yet".to_owned() }));
        relay.open().end("taken over");
        assert_eq!(ask(&relay, "x", LONG, LONG), Err(RelayError::Unsent { cause: "no connection: taken over".to_owned() }));
        relay.closed_because("refused");
        assert_eq!(ask(&relay, "x", LONG, LONG), Err(RelayError::Unsent { cause: "no connection: refused".to_owned() }));
    }

    #[test]
    fn a_request_is_answered() {
        let relay = Words::new().expect("a relay");
        let session = relay.open();
        let (answer, ()) = beside(&relay, "hello", || {
            let job = taken(&session);
            assert!(job.begin());
            let answer = format!("{} yourself", job.request());
            job.answer(answer);
        });
        assert_eq!(answer, Ok("hello yourself".to_owned()));
    }

    #[test]
    fn the_end_of_the_connection_tells_what_was_sent_and_what_was_not() {
        let relay = Words::new().expect("a relay");
        let session = relay.open();
        let (answer, ()) = beside(&relay, "sent", || drop(Some(taken(&session)).filter(Job::begin)));
        assert_eq!(answer, Err(RelayError::Lost { cause: "asking: the connection ended before the answer came".to_owned() }));
        let (answer, ()) = beside(&relay, "taken", || drop(taken(&session)));
        assert!(matches!(answer, Err(RelayError::Unsent { .. })), "{answer:?}");
        let (answer, ()) = beside(&relay, "waiting", || {
            while relay.lock().waiting.is_empty() {
                std::thread::yield_now();
            }
            session.end("gone");
        });
        assert_eq!(answer, Err(RelayError::Unsent { cause: "asking: gone".to_owned() }));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let relay = Words::new().expect("a relay");
        let session = relay.open();
        let short = Duration::from_millis(20);
        assert!(matches!(ask(&relay, "never taken", short, LONG), Err(RelayError::Unsent { .. })));
        assert!(!taken(&session).begin(), "nobody wants it any more");
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&relay, "never answered", LONG, short));
            let job = taken(&session);
            assert!(job.begin());
            assert!(matches!(asking.join().expect("no panic"), Err(RelayError::Lost { .. })));
        });
        let token = CancelToken::new();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| relay.call("asking", String::new(), Deadline::after(LONG), LONG, &token));
            let job = taken(&session);
            token.cancel();
            assert_eq!(asking.join().expect("no panic"), Err(RelayError::Cancelled));
            assert!(!job.begin());
        });
    }

    #[test]
    fn a_replaced_session_takes_nothing_and_closes_nothing() {
        let relay = Words::new().expect("a relay");
        let old = relay.open();
        let new = relay.open();
        let (answer, ()) = beside(&relay, "for the new one", || {
            let job = taken(&new);
            assert!(old.next().is_none() && job.begin());
            old.end("the old one ended");
            job.answer("done".to_owned());
        });
        assert_eq!(answer, Ok("done".to_owned()));
        assert!(relay.lock().open.is_some());
    }

    #[test]
    fn the_line_is_bounded() {
        let relay = Words::new().expect("a relay");
        let _session = relay.open();
        let put = || relay.put(Job { request: String::new(), state: Arc::new(AtomicU8::new(WAITING)), notes: None });
        for _ in 0..limits::RELAY_WAITING_MAX {
            put().expect("room");
        }
        assert_eq!(put(), Err("the connection does not keep up".to_owned()));
        relay.lock().waiting[0].state.store(GIVEN_UP, Ordering::Release);
        put().expect("what was given up makes room");
    }

    #[test]
    fn what_it_means_for_a_message() {
        let lost = || RelayError::Lost { cause: "x".to_owned() };
        assert!(matches!(lost().send_error(false), SendError::Ambiguous { .. }));
        assert!(matches!(lost().send_error(true), SendError::Retry { .. }));
        assert!(matches!(RelayError::Unsent { cause: "x".to_owned() }.send_error(false), SendError::Retry { .. }));
        assert_eq!(RelayError::Cancelled.send_error(true), SendError::Cancelled);
    }
}
