//! The command `fault` of the control socket: brings the gateway into a state that only a defect or a dying disk would.
//! Debug builds only, so that nobody can do this to a gateway in use.

use super::board::Board;
use super::lanes::Message;
use crate::core::record::Op;
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What control is to suffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suffering {
    /// It does not come back from an event.
    Sleep(Duration),
    /// It waits for [`LOCK`], which somebody else holds.
    Lock,
}

static LOCK: Mutex<()> = Mutex::new(());

#[allow(clippy::disallowed_methods)] // What must not be: a sleep that nothing can end.
fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// On control's thread.
pub(super) fn suffer(suffering: Suffering) {
    match suffering {
        Suffering::Sleep(time) => sleep(time),
        Suffering::Lock => drop(LOCK.lock().unwrap_or_else(PoisonError::into_inner)),
    }
}

impl Board {
    /// `{"what": …, "ms": …}`, on the thread of a connection.
    pub(super) fn fault(&self, args: &Value) -> Result<Value, String> {
        let time = Duration::from_millis(args["ms"].as_u64().unwrap_or(0));
        match args["what"].as_str() {
            // An event takes for ever.
            Some("stick_control") => self.lanes.urgent(Message::Suffer(Suffering::Sleep(time))),
            // The same in a lock. Answers when it is free again.
            Some("hold_lock") => {
                let held = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
                self.lanes.urgent(Message::Suffer(Suffering::Lock));
                sleep(time);
                drop(held);
            }
            // Control gets stuck between two events, where its pulse has no deadline: only the ping finds it. The
            // threads that answer `status` wait for the same lock.
            Some("hold_board") => self.hold(|| {
                self.lanes.urgent(Message::Ping);
                sleep(time);
            }),
            // The store's thread does not come back from a request.
            Some("slow_store") => {
                let store = self.store().ok_or("the store is not open yet")?;
                store.submit(Op::Figures, move |_| sleep(time));
            }
            other => return Err(format!("unknown fault {other:?}")),
        }
        Ok(json!({}))
    }
}
