//! For the fuzz target: whatever the WebSocket may bring.

use super::protocol::{Incoming, read, understand};

/// Understands a frame, and the message in it.
pub fn take(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(Incoming::Message { req_id, body }) = read(&text)
        && let Ok(taken) = understand(&req_id, &body, "wecom", 1_000)
    {
        assert!(!taken.inbound.message_id.is_empty() && !taken.inbound.chat.chat.is_empty(), "{taken:?}");
    }
}
