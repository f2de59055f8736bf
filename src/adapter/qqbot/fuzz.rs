//! For the fuzz target: whatever the WebSocket may bring.

use super::event::{self, Meaning};
use super::frame::{Frame, understand};

/// Understands a frame, and the event in it.
pub fn take(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(Frame::Event { name, data, .. }) = understand(&text)
        && let Meaning::Message(taken) = event::understand(&name, data, "qqbot", "bot", 1_000)
    {
        assert!(!taken.inbound.message_id.is_empty() && !taken.inbound.chat.chat.is_empty(), "{taken:?}");
    }
}
