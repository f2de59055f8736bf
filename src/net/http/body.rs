//! Reading a body: exactly as long as it is, within its bounds, and never mistaking a broken connection for its end.

use super::head::Framing;
use super::pool::Pool;
use crate::clock::Deadline;
use crate::limits;
use crate::net::Bounds;
use crate::net::connect::enter;
use crate::net::error::{NetError, phase};
use crate::net::stream::Stream;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// Where a connection goes when its body has been read.
pub(super) struct Reuse {
    pub(super) pool: Arc<Pool>,
    pub(super) key: String,
    pub(super) idle: Duration,
}

/// The body of an answer. Errors hold a [`NetError`].
pub(super) struct BodyReader {
    /// Given away or dropped at the end of the body and after an error.
    stream: Option<Stream>,
    /// Read from the stream and not yet used; `at` is where its unused part begins.
    buffer: Vec<u8>,
    at: usize,
    part: Part,
    bounds: Bounds,
    received: usize,
    what: String,
    reuse: Option<Reuse>,
    peer: String,
    failed: bool,
}

/// What is still to come.
enum Part {
    Length { left: u64, all: u64 },
    Chunked(Chunked),
    Close,
    Done,
}

impl BodyReader {
    /// `buffer`: what has been read beyond the head.
    pub(super) fn new(mut stream: Stream, buffer: Vec<u8>, framing: Framing, bounds: Bounds, what: String, reuse: Option<Reuse>) -> Self {
        stream.set_deadline(phase::TOTAL, bounds.total);
        stream.set_silence(Some(bounds.silence));
        let part = match framing {
            Framing::Length(length) => Part::Length { left: length, all: length },
            Framing::Chunked => Part::Chunked(Chunked::default()),
            Framing::Close => Part::Close,
        };
        let peer = stream.peer().to_owned();
        let mut reader = Self { stream: Some(stream), buffer, at: 0, part, bounds, received: 0, what, reuse, peer, failed: false };
        reader.finish_if_complete();
        reader
    }

    fn protocol(&self, cause: String) -> io::Error {
        NetError::Protocol { peer: self.peer.clone(), cause }.into()
    }

    fn broken(&self, cause: String) -> io::Error {
        NetError::Broken { peer: self.peer.clone(), cause, sent: true }.into()
    }

    /// Reads from the connection into `target`, after what is buffered.
    fn read_raw(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.at < self.buffer.len() {
            let count = (&self.buffer[self.at..]).read(target)?;
            self.at += count;
            return Ok(count);
        }
        let Some(stream) = &mut self.stream else { return Err(self.broken("read after the end".to_owned())) };
        stream.read(target)
    }

    /// Refills the empty buffer. `false`: the connection has ended.
    fn refill(&mut self) -> io::Result<bool> {
        let Some(stream) = &mut self.stream else { return Err(self.broken("read after the end".to_owned())) };
        self.buffer.resize(limits::READ_BYTES, 0);
        let read = stream.read(&mut self.buffer);
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        self.at = 0;
        Ok(read? > 0)
    }

    fn read_some(&mut self, target: &mut [u8]) -> io::Result<usize> {
        match &mut self.part {
            Part::Done => Ok(0),
            Part::Close => {
                let count = self.read_raw(target)?;
                if count == 0 {
                    self.part = Part::Done;
                }
                Ok(count)
            }
            Part::Length { left, all } => {
                let (left, all) = (*left, *all);
                let wanted = target.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let count = self.read_raw(&mut target[..wanted])?;
                if count == 0 {
                    return Err(self.broken(format!("the body ended after {} of {all} bytes", all - left)));
                }
                self.part = Part::Length { left: left - count as u64, all };
                Ok(count)
            }
            Part::Chunked(_) => self.read_chunked(target),
        }
    }

    fn read_chunked(&mut self, target: &mut [u8]) -> io::Result<usize> {
        loop {
            let Part::Chunked(chunked) = &mut self.part else { return Ok(0) };
            let (used, count) = match chunked.decode(&self.buffer[self.at..], target) {
                Ok(progress) => progress,
                Err(cause) => return Err(self.protocol(cause.to_owned())),
            };
            self.at += used;
            if count > 0 || chunked.is_done() {
                return Ok(count);
            }
            if !self.refill()? {
                return Err(self.broken("the body ended within its chunks".to_owned()));
            }
        }
    }

    fn check_size(&self, count: usize) -> io::Result<()> {
        if self.received + count > self.bounds.body_bytes_max {
            return Err(self.protocol(format!("a body of more than {} bytes", self.bounds.body_bytes_max)));
        }
        Ok(())
    }

    /// Gives the connection back as soon as the last byte is in, even if nobody asks for the end.
    fn finish_if_complete(&mut self) {
        let ended_with_connection = matches!(self.part, Part::Done);
        let complete = match &self.part {
            Part::Length { left, .. } => *left == 0,
            Part::Chunked(chunked) => chunked.is_done(),
            Part::Close | Part::Done => ended_with_connection,
        };
        if !complete {
            return;
        }
        self.part = Part::Done;
        // Bytes after the body: this server cannot count, so the connection is not used again.
        let clean = !ended_with_connection && self.at == self.buffer.len();
        if let (Some(stream), Some(reuse)) = (self.stream.take(), self.reuse.take())
            && clean
        {
            reuse.pool.put(reuse.key, stream, reuse.idle);
        }
        self.buffer = Vec::new();
        self.at = 0;
    }
}

impl Read for BodyReader {
    /// `Ok(0)` is the end of the complete body, and nothing else.
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(self.broken("read again after an error".to_owned()));
        }
        if target.is_empty() || matches!(self.part, Part::Done) {
            return Ok(0);
        }
        let until = self.bounds.total.earliest(Deadline::after(self.bounds.silence));
        let _busy = enter(format_args!("{}", self.what), until);
        let result = self.read_some(target).and_then(|count| self.check_size(count).map(|()| count));
        match &result {
            Ok(count) => {
                self.received += count;
                self.finish_if_complete();
            }
            Err(_) => {
                self.failed = true;
                self.stream = None;
            }
        }
        result
    }
}

impl Drop for BodyReader {
    /// A reader that stopped at the protocol's own end mark (server-sent events do) leaves a few bytes behind. If they
    /// are there already, the connection is saved; nobody waits for them.
    fn drop(&mut self) {
        let Some(stream) = self.stream.as_mut().filter(|_| self.reuse.is_some() && !matches!(self.part, Part::Close)) else { return };
        stream.set_read_waits(false);
        let mut scratch = [0; 1024];
        let mut left = limits::UNWANTED_BODY_BYTES_MAX;
        while self.stream.is_some() && left > 0 {
            let Ok(count) = self.read_some(&mut scratch) else { return };
            left = left.saturating_sub(count.max(1));
            self.finish_if_complete();
        }
    }
}

/// Takes the chunked coding off, RFC 9112 section 7.1. Sans I/O.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    /// Bytes of the chunk that are still to come, or of its size while that is read.
    left: u64,
    /// Digits of the size so far.
    digits: u32,
    /// Bytes of this line, or of all trailers.
    line: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// Extensions after the size, until the end of the line.
    Extension,
    Data,
    /// The line end after a chunk.
    DataEnd,
    /// At the beginning of a trailer line, or of the empty one that ends everything.
    Trailer,
    /// Within a trailer line.
    TrailerLine,
    Done,
}

impl Chunked {
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// → how many bytes of `input` were used, and how many of `output` were filled. Stops when either is spent.
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<(usize, usize), &'static str> {
        let (mut used, mut filled) = (0, 0);
        while used < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let left = usize::try_from(self.left).unwrap_or(usize::MAX);
                let count = left.min(input.len() - used).min(output.len() - filled);
                if count == 0 {
                    break;
                }
                output[filled..filled + count].copy_from_slice(&input[used..used + count]);
                (used, filled) = (used + count, filled + count);
                self.left -= count as u64;
                if self.left == 0 {
                    self.state = State::DataEnd;
                }
            } else {
                self.step(input[used])?;
                used += 1;
            }
        }
        Ok((used, filled))
    }

    /// One byte outside of the data.
    fn step(&mut self, byte: u8) -> Result<(), &'static str> {
        self.line += 1;
        if self.line > limits::CHUNK_LINE_BYTES_MAX {
            return Err("a chunk's size line or the trailers are too long");
        }
        self.state = match (self.state, byte) {
            (State::Size, digit) if digit.is_ascii_hexdigit() => {
                if self.digits == 15 {
                    return Err("a chunk is too large");
                }
                let value = char::from(digit).to_digit(16).unwrap_or(0);
                self.left = self.left << 4 | u64::from(value);
                self.digits += 1;
                State::Size
            }
            (State::Size, _) if self.digits == 0 => return Err("a chunk has no size"),
            (State::Size | State::Extension, b'\n') => {
                (self.line, self.digits) = (0, 0);
                if self.left == 0 { State::Trailer } else { State::Data }
            }
            (State::Size, b'\r' | b';' | b' ' | b'\t') | (State::Extension, _) => State::Extension,
            (State::Size, _) => return Err("a chunk's size is not a number"),
            (State::DataEnd, b'\r') if self.line == 1 => State::DataEnd,
            (State::DataEnd, b'\n') => {
                self.line = 0;
                State::Size
            }
            (State::DataEnd, _) => return Err("a chunk is longer than its size"),
            (State::Trailer, b'\n') => State::Done,
            (State::Trailer, b'\r') => State::Trailer,
            (State::TrailerLine, b'\n') => State::Trailer,
            (State::Trailer | State::TrailerLine, _) => State::TrailerLine,
            (state @ (State::Data | State::Done), _) => state,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes `input` in pieces of `step` bytes into buffers of `room` bytes. → the body, whether it is complete, the rest.
    fn decode(input: &[u8], step: usize, room: usize) -> Result<(Vec<u8>, bool, usize), &'static str> {
        let (mut chunked, mut body, mut at) = (Chunked::default(), Vec::new(), 0);
        let mut output = vec![0; room];
        while at < input.len() && !chunked.is_done() {
            let end = (at + step).min(input.len());
            let (used, filled) = chunked.decode(&input[at..end], &mut output)?;
            assert!(used > 0);
            body.extend_from_slice(&output[..filled]);
            at += used;
        }
        Ok((body, chunked.is_done(), input.len() - at))
    }

    #[test]
    fn chunks_are_joined() {
        let check = |input: &str, expect: Result<(&str, bool, usize), &str>| {
            for step in 1..=input.len() {
                let result = decode(input.as_bytes(), step, 3);
                let expect = expect.map(|(body, done, rest)| (body.as_bytes().to_vec(), done, rest));
                assert_eq!(result, expect, "{input:?} by {step}");
            }
        };
        check("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Ok(("abcde", true, 0)));
        check("0\r\n\r\nHTTP", Ok(("", true, 4)));
        check("3;a=\"b\"\r\nabc\r\n00\r\nX: y\r\nZ: w\r\n\r\n", Ok(("abc", true, 0)));
        check("A \r\n0123456789\r\n0\r\n\r\n", Ok(("0123456789", true, 0)));
        check("3\nabc\n0\n\n", Ok(("abc", true, 0)));
        check("3\r\nab", Ok(("ab", false, 0)));
        check("3\r\nabc\r\n0\r\n", Ok(("abc", false, 0)));
        check("\r\n", Err("a chunk has no size"));
        check("x\r\n", Err("a chunk has no size"));
        check("3x\r\nabc", Err("a chunk's size is not a number"));
        check("3\r\nabcd", Err("a chunk is longer than its size"));
        check("1234567890123456\r\n", Err("a chunk is too large"));
    }

    #[test]
    fn endless_lines_are_refused() {
        let long = "x".repeat(limits::CHUNK_LINE_BYTES_MAX);
        assert!(decode(format!("3;{long}").as_bytes(), 100, 10).is_err());
        assert!(decode(format!("0\r\nA: {long}").as_bytes(), 100, 10).is_err());
        let many = "A: b\r\n".repeat(limits::CHUNK_LINE_BYTES_MAX / 6 + 1);
        assert!(decode(format!("0\r\n{many}").as_bytes(), 100, 10).is_err());
    }

    proptest! {
        #[test]
        fn any_chunks_at_any_cut(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8), step in 1_usize..50, room in 1_usize..50) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(&input, step, room), Ok((chunks.concat(), true, 0)));
        }

        #[test]
        fn any_bytes_are_harmless(input in prop::collection::vec(any::<u8>(), 0..200), step in 1_usize..50) {
            let _ = decode(&input, step, 16);
        }
    }
}
