//! One operation on its way to the store thread, with whoever waits for its answer.

use super::StoreError;
use crate::core::record::{Op, Outcome};
use crate::thread::CancelToken;
use crossbeam_channel::Sender;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(super) type Answer = Result<Outcome, StoreError>;

pub(super) struct Request {
    pub op: Op,
    /// The operation is refused if one of them is cancelled when its turn comes.
    pub fences: Vec<CancelToken>,
    pub reply: Reply,
}

impl Request {
    pub fn fenced(&self) -> bool {
        self.fences.iter().any(CancelToken::is_cancelled)
    }
}

/// The way back. A request that is dropped unanswered is answered with [`StoreError::Closed`].
pub(super) enum Reply {
    /// Somebody blocks on the other end; dropping it is answer enough.
    Waiting(Sender<Answer>),
    Callback(Option<Box<dyn FnOnce(Answer) + Send>>),
}

impl Reply {
    /// Only the first call has an effect.
    pub fn give(&mut self, answer: Answer) {
        match self {
            Self::Waiting(sender) => {
                // Nobody may be there any more; room is for one answer, and there is one.
                let _ = sender.try_send(answer);
            }
            Self::Callback(callback) => {
                if let Some(callback) = callback.take() {
                    // The caller's defect must not end the store.
                    if catch_unwind(AssertUnwindSafe(|| callback(answer))).is_err() {
                        log::error!(target: "store", "the receiver of an answer panicked; the answer is lost, the operation is not");
                    }
                }
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if matches!(self, Self::Callback(Some(_))) {
            self.give(Err(StoreError::Closed));
        }
    }
}
