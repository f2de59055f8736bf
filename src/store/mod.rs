//! The store: SQLite on its own thread. Stub of the interface; see the doc comments of the items.

use crate::clock::Deadline;
use crate::core::record::{Op, Outcome};
use crate::thread::CancelToken;

/// Why an operation was not done. Nothing of it is on disk then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// The one who asked was replaced or cancelled, or the row is not in the state that the operation needs.
    Fenced,
    /// The disk is full, read-only or failing: worth trying again later. With the cause.
    Unavailable(String),
    /// The queue is full.
    Busy,
    /// No answer by the deadline; it may still be done.
    Timeout,
    /// The store is closed.
    Closed,
    /// A defect in this program or a damaged database.
    Bug(String),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fenced => f.write_str("no longer allowed to write: cancelled or replaced"),
            Self::Unavailable(cause) => write!(f, "store unavailable: {cause}"),
            Self::Busy => f.write_str("store busy: its queue is full"),
            Self::Timeout => f.write_str("store did not answer in time"),
            Self::Closed => f.write_str("store closed"),
            Self::Bug(cause) => write!(f, "store: {cause}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Talks to the store thread. Cheap to clone. A handle made by [`StoreHandle::fenced`] can do nothing once its token
/// is cancelled: the store thread itself checks, so there is no race.
#[derive(Clone)]
pub struct StoreHandle {}

impl StoreHandle {
    /// A handle whose operations are refused with [`StoreError::Fenced`] from the moment `fence` is cancelled.
    #[must_use]
    pub fn fenced(&self, _fence: &CancelToken) -> Self {
        unimplemented!()
    }

    /// Hands in an operation and waits for its commit. For turn, adapter and client threads; never for control.
    ///
    /// # Errors
    /// [`StoreError`]; `Fenced` also when the handle's own token is cancelled while waiting.
    pub fn call(&self, _op: Op, _deadline: Deadline) -> Result<Outcome, StoreError> {
        unimplemented!()
    }

    /// Hands in an operation and returns at once; `reply` runs on the store thread after the commit and must not block.
    /// If the queue is full, `reply` runs at once with [`StoreError::Busy`].
    pub fn submit(&self, _op: Op, _reply: impl FnOnce(Result<Outcome, StoreError>) + Send + 'static) {
        unimplemented!()
    }
}
