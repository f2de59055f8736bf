//! Idle connections of one client. Bounded; what is too old or has been closed is dropped when it is looked for.

use crate::clock::{self, Deadline};
use crate::limits;
use crate::net::error::phase;
use crate::net::stream::Stream;
use crate::thread::CancelToken;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

struct Idle {
    key: String,
    stream: Stream,
    since: Instant,
    /// How long the server keeps it.
    keep: Duration,
}

#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if one is still open. It is attached to `token` from here on.
    pub(super) fn take(&self, key: &str, token: &CancelToken, deadline: Deadline) -> Option<Stream> {
        loop {
            let mut idle = self.lock();
            idle.retain(|idle| idle.since.elapsed() < idle.keep);
            let place = idle.iter().rposition(|idle| idle.key == key)?;
            let mut stream = idle.remove(place).stream;
            drop(idle);
            stream.attach(token);
            stream.set_deadline(phase::SEND, deadline);
            if stream.is_quiet() {
                return Some(stream);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(super) fn put(&self, key: String, mut stream: Stream, keep: Duration) {
        stream.detach();
        stream.set_read_waits(true);
        let mut idle = self.lock();
        let dropped = (idle.len() >= limits::IDLE_CONNECTIONS_MAX).then(|| idle.remove(0));
        idle.push(Idle { key, stream, since: clock::now(), keep: keep.min(limits::IDLE_CONNECTION) });
        drop(idle);
        // Closed outside the lock: it says goodbye to its server.
        drop(dropped);
    }
}
