//! For the fuzz target: whatever a poll may bring.

use super::protocol::understand;
use super::wire::Updates;

/// Understands a list of messages.
pub fn take(bytes: &[u8]) {
    let Ok(updates) = serde_json::from_slice::<Updates>(bytes) else { return };
    for message in updates.msgs {
        if let Ok(taken) = understand(message, "weixin", Some("bot@im.bot"), 1_000) {
            assert!(!taken.inbound.message_id.is_empty() && !taken.inbound.chat.chat.is_empty(), "{taken:?}");
        }
    }
}
