//! The gateway's own doing, so that it does not answer itself.
//!
//! A service call changes states before it is answered, and only the answer tells under which context. So calls are
//! counted while they are under way, and whoever sees a change of the gateway's own account waits for their end. The ids
//! of contexts are unique in the world: one set serves all adapters and the agent's tools.

use super::wire::Context;
use crate::limits;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Service calls of this process.
#[derive(Debug, Default)]
pub struct OwnCalls {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    under_way: usize,
    contexts: VecDeque<String>,
}

/// Those of the process.
pub static OWN_CALLS: OwnCalls = OwnCalls { inner: Mutex::new(Inner { under_way: 0, contexts: VecDeque::new() }) };

impl OwnCalls {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A number and a list are valid after any panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins. What comes back is handed in at its end.
    #[must_use]
    pub fn begin(&'static self) -> UnderWay {
        self.lock().under_way += 1;
        UnderWay(self)
    }

    pub(super) fn are_under_way(&self) -> bool {
        self.lock().under_way > 0
    }

    /// Whether one of them, or what one of them has set off, caused this.
    pub(super) fn caused(&self, context: &Context) -> bool {
        let inner = self.lock();
        let known = |id: &Option<String>| id.as_ref().is_some_and(|id| inner.contexts.contains(id));
        known(&context.id) || known(&context.parent_id)
    }
}

/// A call that is under way; it ends when this is dropped.
pub struct UnderWay(&'static OwnCalls);

impl UnderWay {
    /// The contexts of the states that the call has changed, from its answer.
    pub fn changed<'a>(&self, contexts: impl IntoIterator<Item = &'a str>) {
        let mut inner = self.0.lock();
        for context in contexts {
            if inner.contexts.iter().any(|known| known == context) {
                continue;
            }
            if inner.contexts.len() >= limits::HOMEASSISTANT_CONTEXTS_MAX {
                inner.contexts.pop_front();
            }
            inner.contexts.push_back(context.to_owned());
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.under_way = inner.under_way.saturating_sub(1);
    }
}
