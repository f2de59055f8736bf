//! The two lanes into control: urgent is drained first; normal is bounded and makes adapters wait, never control.
//!
//! Urgent is not bounded by itself: what goes there is one message a signal, a thread's end, an answered operation of
//! the store or a delivery that control itself has ordered, and those are bounded where they are ordered.

use crate::core::event::Event;
use crate::limits;
use crate::thread::{CancelToken, Cancelled, ThreadInfo};
use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};

/// What control is told.
#[derive(Debug)]
pub enum Message {
    Core(Event),
    /// A report of an adapter's generation; dropped when that generation was replaced.
    Delivered {
        generation: u64,
        event: Event,
    },
    /// The guardian wants a sign of life.
    Ping,
    /// A thread has been in one activity for longer than it may.
    Overdue(ThreadInfo),
    /// The thread of a turn has ended.
    TurnThreadEnded {
        turn: i64,
    },
    Signal(Signal),
    /// The configuration was read again; the error is for the log.
    Reloaded(Box<Result<crate::config::Config, String>>),
    /// A test wants to see what becomes of a control that is stuck.
    #[cfg(debug_assertions)]
    Suffer(super::fault::Suffering),
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Stop,
    /// The second request to stop: cut now.
    Hurry,
    Restart,
    Reload,
    Dump,
}

/// The sending ends. Cheap to clone.
#[derive(Clone)]
pub struct Lanes {
    /// Boxed: the lanes' memory is touched when they are made, and a message is some hundred bytes.
    urgent: Sender<Box<Message>>,
    normal: Sender<Box<Message>>,
}

/// The receiving ends: control's own.
pub struct Inbox {
    urgent: Receiver<Box<Message>>,
    normal: Receiver<Box<Message>>,
}

#[must_use]
pub fn lanes() -> (Lanes, Inbox) {
    let (urgent, urgent_receiver) = unbounded();
    let (normal, normal_receiver) = bounded(limits::NORMAL_LANE_MAX);
    (Lanes { urgent, normal }, Inbox { urgent: urgent_receiver, normal: normal_receiver })
}

impl Lanes {
    /// Never blocks.
    pub fn urgent(&self, message: Message) {
        // Control is gone only when the process is leaving.
        let _ = self.urgent.try_send(Box::new(message));
    }

    pub fn event(&self, event: Event) {
        self.urgent(Message::Core(event));
    }

    /// Waits for room, until the token is cancelled.
    ///
    /// # Errors
    /// [`Cancelled`].
    pub fn normal(&self, message: Message, token: &CancelToken) -> Result<(), Cancelled> {
        token.check()?;
        select! {
            send(self.normal, Box::new(message)) -> result => result.map_err(|_| Cancelled),
            recv(token.cancelled()) -> _ => Err(Cancelled),
        }
    }

    /// Drops the message when there is no room.
    pub fn lossy(&self, message: Message) {
        let _ = self.normal.try_send(Box::new(message));
    }
}

impl Inbox {
    /// The next message, urgent ones first; `None` when `due` has come.
    #[must_use]
    pub fn next(&self, due: std::time::Instant) -> Option<Message> {
        if let Ok(message) = self.urgent.try_recv() {
            return Some(*message);
        }
        select! {
            recv(self.urgent) -> message => message.ok().map(|message| *message),
            recv(self.normal) -> message => message.ok().map(|message| *message),
            recv(crossbeam_channel::at(due)) -> _ => None,
        }
    }

    /// Whether something is there without waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.normal.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Deadline;
    use std::time::Duration;

    #[test]
    fn urgent_messages_overtake_and_a_full_lane_waits_only_for_its_token() {
        let (lanes, inbox) = lanes();
        for _ in 0..limits::NORMAL_LANE_MAX {
            lanes.lossy(Message::Core(Event::Tick));
        }
        lanes.urgent(Message::Ping);
        assert!(matches!(inbox.next(Deadline::after(Duration::from_secs(5)).instant()), Some(Message::Ping)));
        let token = CancelToken::new();
        token.cancel();
        assert_eq!(lanes.normal(Message::Ping, &token), Err(Cancelled));
    }
}
