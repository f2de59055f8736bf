//! Server-sent events: however the network cuts the stream, the events are the same.
#![no_main]

use hermes_gateway::net::sse::{Event, Splitter};

/// The events, and whether the stream broke off.
fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, bool) {
    let mut splitter = Splitter::new();
    let mut events = Vec::new();
    for piece in pieces {
        match splitter.push(piece) {
            Ok(more) => events.extend(more),
            Err(_) => return (events, true),
        }
    }
    (events, false)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((cut, stream)) = bytes.split_first() else { return };
    let whole = events(std::iter::once(stream));
    let pieces = events(stream.chunks(usize::from(*cut % 16) + 1));
    // Where it broke off, events that came with the same bytes are lost with them.
    if !whole.1 {
        assert_eq!(whole, pieces);
    }
});
