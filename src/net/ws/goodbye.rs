//! Ending a connection in order although its token is cancelled: the thread is woken, the socket stays open until it has
//! been told. Nobody waits for the answer.

use super::codec::close_frame;
use super::{WebSocket, phase};
use crate::clock::Deadline;
use crate::limits;
use crate::net::stream::Socket;
use crate::thread::Cut;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// What a cancel does to a connection that says goodbye.
struct Farewell {
    socket: Arc<Socket>,
    /// Readable from the cancel on.
    asked: EventFd,
}

impl Cut for Farewell {
    fn cut(&self) {
        self.socket.cut();
        self.ask();
    }

    fn ask(&self) {
        // The only possible error is a full counter: then it is readable already.
        let _ = self.asked.write(1);
    }
}

pub(super) struct Goodbye {
    farewell: Arc<Farewell>,
    code: u16,
}

impl Goodbye {
    /// Readable once the token is cancelled.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.farewell.asked.as_fd()
    }
}

impl WebSocket {
    /// From now on a cancel does not cut the connection: calls end as before, and when this value is dropped the server
    /// gets a CLOSE frame with `code`, if the socket takes it at once. For platforms that would take the connection for
    /// alive otherwise, and refuse or share with the next one. Without a free descriptor nothing changes.
    pub fn goodbye_on_cancel(&mut self, code: u16) {
        let Ok(asked) = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK) else { return };
        let mut made = None;
        self.frames.get_mut().stream.attach_through(|socket| {
            let farewell = Arc::new(Farewell { socket, asked });
            made = Some(Arc::clone(&farewell));
            farewell
        });
        self.goodbye = made.map(|farewell| Goodbye { farewell, code });
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        let Some(goodbye) = self.goodbye.take().filter(|_| !self.ended && self.token.is_cancelled()) else { return };
        self.set_deadline(phase::CLOSE, Deadline::after(limits::WEBSOCKET_LOOK));
        // Behind half a message a CLOSE would be a part of it.
        if self.flush().is_ok() && !self.unsent {
            let _ = self.frames.close(close_frame(goodbye.code, ""));
            let _ = self.frames.flush();
        }
    }
}
