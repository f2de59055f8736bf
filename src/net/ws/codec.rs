//! The frame codec on our stream: how it is set up, and what its errors are about. Belongs to the connection's thread.

use super::WsLimits;
use crate::limits;
use crate::net::{NetError, Stream};
use std::io::{self, ErrorKind, Read, Write};
use tungstenite::error::Error as FrameError;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// Payload of a control frame, RFC 6455 section 5.5.
pub(super) const CONTROL_BYTES_MAX: usize = 125;
/// Before the payload of a frame, RFC 6455 section 5.2.
const FRAME_HEAD_BYTES_MAX: usize = 14;

pub(super) type Frames = tungstenite::WebSocket<Counted>;

/// A codec on a stream that does not wait. `rest` has been read of it already.
pub(super) fn start(stream: Stream, rest: Vec<u8>, bounds: WsLimits) -> Frames {
    // A ping always fits.
    let unsent_bytes_max = bounds.unsent_bytes_max.max(CONTROL_BYTES_MAX).saturating_add(FRAME_HEAD_BYTES_MAX);
    // It sends at once, and holds back only what the socket does not take.
    let config = WebSocketConfig::default()
        .read_buffer_size(limits::READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(unsent_bytes_max)
        .max_message_size(Some(bounds.message_bytes_max))
        .max_frame_size(Some(bounds.message_bytes_max));
    tungstenite::WebSocket::from_partially_read(Counted { stream, received: 0 }, rest, Role::Client, Some(config))
}

/// Codes that must not be on the wire become "normal". The reason shares the payload with the code.
pub(super) fn close_frame(code: u16, reason: &str) -> Option<CloseFrame> {
    let code = Some(CloseCode::from(code)).filter(|code| code.is_allowed()).unwrap_or(CloseCode::Normal);
    let mut cut = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(cut) {
        cut -= 1;
    }
    Some(CloseFrame { code, reason: reason[..cut].into() })
}

/// Whether the codec only has to be asked again later. Nothing is lost then: it keeps what it has read and not sent.
pub(super) fn is_about_waiting(error: &FrameError) -> bool {
    let FrameError::Io(error) = error else { return false };
    error.kind() == ErrorKind::WouldBlock || matches!(NetError::from_io(error), Some(NetError::Timeout { .. }))
}

/// The stream, and how much was received on it.
pub(super) struct Counted {
    pub(super) stream: Stream,
    pub(super) received: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.received += count as u64;
        Ok(count)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
