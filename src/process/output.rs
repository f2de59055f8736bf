//! What a process wrote, within bounds: head and tail of a tool call, the last bytes of a background job.

use std::collections::VecDeque;

/// Keeps the first and the last bytes of a stream, half of the bound each.
#[derive(Debug)]
pub(super) struct Capture {
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl Capture {
    pub fn new(bytes_max: usize) -> Self {
        Self { half: bytes_max / 2, head: Vec::new(), tail: VecDeque::new(), left_out: 0 }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        push_bounded(&mut self.tail, &bytes[room..], self.half, &mut self.left_out);
    }

    /// The bytes that were not kept.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The text, with a note in the middle if something was left out. Bytes that are not UTF-8 are replaced.
    pub fn text(mut self) -> String {
        let tail = self.tail.make_contiguous();
        if self.left_out == 0 {
            self.head.extend_from_slice(tail);
            return String::from_utf8_lossy(&self.head).into_owned();
        }
        // Both cuts may fall into a character: its halves are dropped instead of being shown as garbage.
        let head = trim_end(&self.head);
        let tail = trim_start(tail);
        format!("{}\n[{} bytes left out]\n{}", String::from_utf8_lossy(head), self.left_out, String::from_utf8_lossy(tail))
    }
}

/// Appends, dropping from the front what does not fit into `bytes_max`; counts what was dropped.
fn push_bounded(ring: &mut VecDeque<u8>, bytes: &[u8], bytes_max: usize, dropped: &mut u64) {
    let skip = bytes.len().saturating_sub(bytes_max);
    let kept = &bytes[skip..];
    let excess = (ring.len() + kept.len()).saturating_sub(bytes_max);
    ring.drain(..excess);
    ring.extend(kept);
    *dropped += (skip + excess) as u64;
}

/// Without the beginning of a character whose end is missing.
fn trim_end(bytes: &[u8]) -> &[u8] {
    let start = bytes.len().saturating_sub(3);
    for at in (start..bytes.len()).rev() {
        let needed = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            0x80..=0xbf => continue,
            _ => break,
        };
        return if bytes.len() - at < needed { &bytes[..at] } else { bytes };
    }
    bytes
}

/// Without the end of a character whose beginning is missing.
fn trim_start(bytes: &[u8]) -> &[u8] {
    let skip = bytes.iter().take(3).take_while(|byte| (0x80..=0xbf).contains(*byte)).count();
    &bytes[skip..]
}

/// Keeps the last bytes of a stream, and knows their position in it.
#[derive(Debug)]
pub(super) struct Ring {
    bytes_max: usize,
    bytes: VecDeque<u8>,
    /// Position of the first kept byte in the stream.
    start: u64,
}

/// A piece of a job's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPiece {
    pub text: String,
    /// Position of the first byte given, counted from the start of the job.
    pub from: u64,
    /// Where to read on.
    pub next: u64,
    /// Everything written so far.
    pub total: u64,
}

impl Ring {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: VecDeque::new(), start: 0 }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        push_bounded(&mut self.bytes, bytes, self.bytes_max, &mut self.start);
    }

    pub fn total(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// At most `bytes_max` bytes from `offset` on, or the last ones. What is no longer kept is skipped: see `from`.
    pub fn read(&mut self, offset: Option<u64>, bytes_max: usize) -> LogPiece {
        let total = self.total();
        let wanted = offset.unwrap_or_else(|| total.saturating_sub(bytes_max as u64));
        let from = wanted.clamp(self.start, total);
        let skip = usize::try_from(from - self.start).unwrap_or(usize::MAX);
        let rest = self.bytes.make_contiguous().get(skip..).unwrap_or_default();
        let mut piece = &rest[..rest.len().min(bytes_max)];
        if piece.len() < rest.len() {
            // Never empty: a piece shorter than one character is given as it is.
            piece = Some(trim_end(piece)).filter(|cut| !cut.is_empty()).unwrap_or(piece);
        }
        LogPiece { text: String::from_utf8_lossy(piece).into_owned(), from, next: from + piece.len() as u64, total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_stream_is_kept_whole_and_a_long_one_loses_its_middle() {
        let check = |chunks: &[&str], expect: &str| {
            let mut capture = Capture::new(8);
            chunks.iter().for_each(|chunk| capture.push(chunk.as_bytes()));
            assert_eq!(capture.text(), expect);
        };
        check(&[], "");
        check(&["abc", "defgh"], "abcdefgh");
        check(&["abcdefghi"], "abcd\n[1 bytes left out]\nfghi");
        check(&["ab", "cdefghijkl", "mn"], "abcd\n[6 bytes left out]\nklmn");
        check(&["aääöö", "üüß"], "aä\n[7 bytes left out]\nüß");
        check(&["abcé"], "abcé");
    }

    #[test]
    fn a_ring_gives_what_it_still_has() {
        let mut ring = Ring::new(4);
        ring.push(b"abcdef");
        let piece = |text: &str, from, next| LogPiece { text: text.to_owned(), from, next, total: 6 };
        assert_eq!(ring.read(Some(0), 100), piece("cdef", 2, 6));
        assert_eq!(ring.read(Some(3), 2), piece("de", 3, 5));
        assert_eq!(ring.read(None, 3), piece("def", 3, 6));
        assert_eq!(ring.read(Some(99), 3), piece("", 6, 6));
    }

    proptest! {
        #[test]
        fn capture_accounts_for_every_byte(chunks in proptest::collection::vec(proptest::collection::vec(0_u8..128, 0..50), 0..20), bound in 0_usize..64) {
            let (mut capture, mut ring) = (Capture::new(bound), Ring::new(bound));
            let all: Vec<u8> = chunks.concat();
            for chunk in &chunks {
                capture.push(chunk);
                ring.push(chunk);
            }
            prop_assert_eq!(capture.head.len() as u64 + capture.tail.len() as u64 + capture.left_out(), all.len() as u64);
            prop_assert!(all.starts_with(&capture.head));
            prop_assert!(all.ends_with(capture.tail.make_contiguous()));
            prop_assert_eq!(ring.total(), all.len() as u64);
            prop_assert!(all.ends_with(ring.bytes.make_contiguous()) && ring.bytes.len() <= bound);
        }
    }
}
