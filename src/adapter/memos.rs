//! What an adapter remembers over the end of the process: see [`Memo`]. Inlets hand theirs in with the message they
//! belong to ([`Receipt`](crate::core::types::Receipt)); this is for everything else.

use crate::clock::Deadline;
use crate::core::record::{Op, Outcome};
use crate::core::types::Memo;
use crate::limits;
use crate::store::{StoreError, StoreHandle};

/// The memos of one adapter.
#[derive(Clone)]
pub struct Memos {
    adapter: String,
    store: StoreHandle,
}

impl Memos {
    #[must_use]
    pub fn new(adapter: &str, store: &StoreHandle) -> Self {
        Self { adapter: adapter.to_owned(), store: store.clone() }
    }

    /// What was remembered under a key. Waits for the store, [`limits::STORE_CALL`] at the most.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known about it now.
    pub fn recall(&self, key: &str) -> Result<Option<String>, StoreError> {
        let op = Op::Recall { adapter: self.adapter.clone(), key: key.to_owned() };
        match self.store.call(op, Deadline::after(limits::STORE_CALL))? {
            Outcome::Memo(value) => Ok(value),
            other => Err(StoreError::Bug(format!("{other:?} is no answer about a memo"))),
        }
    }

    /// Remembers all of them or none; on `Ok` they are on disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remember(&self, memos: Vec<Memo>) -> Result<(), StoreError> {
        let op = Op::Remember { adapter: self.adapter.clone(), memos };
        self.store.call(op, Deadline::after(limits::STORE_CALL)).map(drop)
    }
}
