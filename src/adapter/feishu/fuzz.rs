//! For the fuzz target: whatever the long connection may bring.

use super::content::Me;
use super::frame::{Frame, MESSAGE_ID, SEQ, SUM};
use super::protocol::{Meaning, understand};
use super::slices::Assembler;
use crate::clock;

/// Frames behind each other, two bytes of length before each: taken apart, put together, and understood.
pub fn take(bytes: &[u8]) {
    let mut assembler = Assembler::default();
    let mut rest = bytes;
    while let [high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (frame, behind) = more.split_at(length);
        rest = behind;
        if let Ok(frame) = Frame::decode(frame) {
            assert_eq!(Frame::decode(&frame.encode()).as_ref(), Ok(&frame), "an echo is the same frame");
            take_frame(frame, &mut assembler);
        }
    }
}

fn take_frame(frame: Frame, assembler: &mut Assembler) {
    let number = |key: &str| frame.header(key).and_then(|value| value.parse::<u64>().ok());
    let (sum, seq) = (number(SUM).unwrap_or(1), number(SEQ).unwrap_or(0));
    let id = frame.header(MESSAGE_ID).unwrap_or_default().to_owned();
    let Some(slice) = frame.payload else { return };
    if let Ok(Some(event)) = assembler.add(&id, sum, seq, slice, clock::now()) {
        event_of(&event);
    }
}

/// An event alone, without its frame.
pub fn event_of(payload: &[u8]) {
    let me = Me { open_id: "ou_bot".to_owned(), name: "Gate".to_owned() };
    if let Meaning::Message(taken) = understand(payload, "feishu", &me, 1_000) {
        assert!(!taken.inbound.message_id.is_empty() && !taken.inbound.chat.chat.is_empty(), "{taken:?}");
    }
}
