//! For the fuzz target: whatever a poll may bring.

use super::protocol::{Me, Meaning, understand, update_id};
use serde_json::Value;

/// Understands an update.
pub fn take(bytes: &[u8]) {
    let Ok(update) = serde_json::from_slice::<Value>(bytes) else { return };
    let me = Me { id: 123_456, username: "gate_bot".to_owned() };
    let _ = update_id(&update);
    if let Meaning::Message(taken) = understand(update, "telegram", &me, 1_000).meaning {
        assert!(!taken.inbound.message_id.is_empty() && !taken.inbound.chat.chat.is_empty(), "{taken:?}");
    }
}
