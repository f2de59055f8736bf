//! Server-sent events (HTML standard, "Interpreting an event stream").
//!
//! [`Splitter`] is sans I/O: bytes in, events out, cut wherever the network cuts. [`Events`] reads them from a body.

use super::NetError;
use super::http::Response;
use crate::limits;
use std::collections::VecDeque;
use std::io::Read;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `event` field; `message` if there was none.
    pub event: String,
    /// The `data` fields, joined by line breaks.
    pub data: String,
}

/// A line, or the data of one event, is longer than [`limits::SSE_LINE_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an event of more than {} bytes", limits::SSE_LINE_BYTES_MAX)
    }
}

impl std::error::Error for TooLong {}

/// Splits an event stream. Holds at most one line and one event.
#[derive(Debug, Default)]
pub struct Splitter {
    /// The line so far, without its end.
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    /// The first line is behind; a byte order mark is one no more.
    begun: bool,
    event: String,
    data: String,
    has_data: bool,
}

impl Splitter {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, however they are cut. → the events that are complete now.
    ///
    /// # Errors
    /// [`TooLong`]; the stream cannot be continued.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_return) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let piece = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + piece.len() > limits::SSE_LINE_BYTES_MAX {
                return Err(TooLong);
            }
            self.line.extend_from_slice(piece);
            let Some(end) = end else { break };
            self.after_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.take_line(&line)?);
            // Keeps the room of ordinary lines, not that of a giant.
            if line.capacity() <= limits::READ_BYTES {
                self.line = line;
                self.line.clear();
            }
        }
        Ok(events)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<Event>, TooLong> {
        let mark: &[u8] = "\u{feff}".as_bytes();
        let line = line.strip_prefix(mark).filter(|_| !self.begun).unwrap_or(line);
        self.begun = true;
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        // A line is decoded as a whole, so a character that was cut is whole again; what is no UTF-8 is replaced.
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.data.len() + value.len() >= limits::SSE_LINE_BYTES_MAX {
                    return Err(TooLong);
                }
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            // Comments (no field name), `id`, `retry`, and fields that nobody knows.
            _ => {}
        }
        Ok(None)
    }

    fn dispatch(&mut self) -> Option<Event> {
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        if !std::mem::take(&mut self.has_data) {
            return None;
        }
        Some(Event { event: if event.is_empty() { "message".to_owned() } else { event }, data })
    }
}

/// Reads events from the body of an answer. Its bounds are those of the request.
pub struct Events {
    response: Response,
    splitter: Splitter,
    ready: VecDeque<Event>,
}

impl Events {
    #[must_use]
    pub fn new(response: Response) -> Self {
        Self { response, splitter: Splitter::new(), ready: VecDeque::new() }
    }

    /// The next event; `None` at the end of the stream. An event without the empty line at its end is dropped, so a
    /// protocol that has an end mark must ask for it.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn next_event(&mut self) -> Result<Option<Event>, NetError> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let peer = &self.response.peer;
            let count = match self.response.body.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(NetError::take_from_io(error, peer)),
            };
            let events = self.splitter.push(&buffer[..count]);
            self.ready.extend(events.map_err(|error| NetError::Protocol { peer: peer.clone(), cause: error.to_string() })?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All events, in the form `event=data`, with the stream cut into pieces of the given lengths, over and over.
    fn split(stream: &[u8], cuts: &[usize]) -> Vec<String> {
        let (mut splitter, mut events, mut rest) = (Splitter::new(), Vec::new(), stream);
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            events.extend(splitter.push(piece).expect("short").into_iter().map(|event| format!("{}={}", event.event, event.data)));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        events
    }

    #[test]
    fn streams_are_split() {
        let check = |stream: &str, expect: &[&str]| {
            for cut in 1..=stream.len().max(1) {
                assert_eq!(split(stream.as_bytes(), &[cut]), expect, "{stream:?} by {cut}");
            }
        };
        check("data: a\n\n", &["message=a"]);
        check("data:a\r\n\r\ndata: b\r\rdata:  c\n\n", &["message=a", "message=b", "message= c"]);
        check("event: ping\ndata: {}\n\ndata: x\n\n", &["ping={}", "message=x"]);
        check("data: a\ndata\ndata: b\n\n", &["message=a\n\nb"]);
        check(": comment\n\n:\nid: 1\nretry: 5\nother: x\ndata: a:b\n\n", &["message=a:b"]);
        check("event: lost\n\ndata: a\n\n", &["message=a"]);
        check("data\n\n", &["message="]);
        check("data: cut off\n", &[]);
        check("\u{feff}data: ä€😀\n\n\u{feff}data: no\n\n", &["message=ä€😀"]);
        check("", &[]);
    }

    #[test]
    fn what_is_no_utf8_is_replaced() {
        assert_eq!(split(b"data: a\xff\xc3\n\n", &[1]), ["message=a\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn endless_lines_and_events_are_refused() {
        let piece = vec![b'x'; 1 << 20];
        let mut splitter = Splitter::new();
        let results: Vec<_> = (0..5).map(|_| splitter.push(&piece).is_ok()).collect();
        assert_eq!(results, [true, true, true, true, false]);
        let mut splitter = Splitter::new();
        let line = [b"data: ", piece.as_slice(), b"\n"].concat();
        assert!((0..5).any(|_| splitter.push(&line).is_err()));
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_events(
            lines in prop::collection::vec(prop::sample::select(vec!["data: ä", "data: €b", "event: x", "", "", ": c", "data", "\u{feff}", "id: 3"]), 0..30),
            ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r\n", "\r"]), 30),
            cuts in prop::collection::vec(1_usize..9, 1..20),
        ) {
            let stream: String = lines.iter().zip(&ends).flat_map(|(line, end)| [*line, *end]).collect();
            let whole = split(stream.as_bytes(), &[stream.len().max(1)]);
            prop_assert_eq!(split(stream.as_bytes(), &cuts), whole);
        }

        #[test]
        fn any_bytes_are_harmless(stream in prop::collection::vec(any::<u8>(), 0..200), cuts in prop::collection::vec(1_usize..9, 1..20)) {
            prop_assert_eq!(split(&stream, &cuts), split(&stream, &[stream.len().max(1)]));
        }
    }
}
