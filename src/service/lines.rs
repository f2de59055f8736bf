//! Lines over a stream socket, both ways: bounded in length and in time.

use super::wake::poll_ready;
use crate::clock::Deadline;
use nix::poll::PollFlags;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// Takes bytes in, gives lines out.
pub(super) struct LineBuffer {
    line_bytes_max: usize,
    bytes: Vec<u8>,
    /// What came since the last line break.
    unfinished: usize,
    /// Where the search for a line break goes on.
    searched: usize,
}

/// What came of reading once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filled {
    Bytes,
    /// Nothing there at the moment.
    Nothing,
    /// The other side has closed.
    End,
    TooLong,
}

impl LineBuffer {
    pub(super) fn new(line_bytes_max: usize) -> Self {
        Self { line_bytes_max, bytes: Vec::new(), unfinished: 0, searched: 0 }
    }

    /// Reads once from a socket that does not block.
    pub(super) fn fill(&mut self, mut stream: &UnixStream) -> std::io::Result<Filled> {
        let mut chunk = [0; 16 * 1024];
        match stream.read(&mut chunk) {
            Ok(0) => Ok(Filled::End),
            Ok(count) => {
                self.bytes.extend_from_slice(&chunk[..count]);
                self.unfinished = match chunk[..count].iter().rposition(|byte| *byte == b'\n') {
                    Some(at) => count - at - 1,
                    None => self.unfinished + count,
                };
                Ok(if self.unfinished > self.line_bytes_max { Filled::TooLong } else { Filled::Bytes })
            }
            Err(cause) if matches!(cause.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(Filled::Nothing),
            Err(cause) => Err(cause),
        }
    }

    /// The next complete line, without its line break.
    pub(super) fn next_line(&mut self) -> Option<Vec<u8>> {
        let Some(found) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let mut line: Vec<u8> = self.bytes.drain(..=self.searched + found).collect();
        line.pop();
        self.searched = 0;
        Some(line)
    }

    /// Some of a line has come.
    pub(super) fn is_partial(&self) -> bool {
        !self.bytes.is_empty()
    }
}

/// Writes everything, or fails with `TimedOut` at the deadline.
pub(super) fn write_all(mut stream: &UnixStream, mut bytes: &[u8], deadline: Deadline) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                let [ready] = poll_ready([(stream.as_fd(), PollFlags::POLLOUT)], Some(deadline))?;
                if !ready {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

/// A value as one line of JSON.
pub(super) fn to_line(value: &impl serde::Serialize) -> Vec<u8> {
    // Serialising our own types into memory cannot fail: all keys are strings.
    let mut line = serde_json::to_vec(value).unwrap_or_else(|_| b"{\"error\":\"internal\"}".to_vec());
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_come_out_whole() {
        let (ours, mut theirs) = UnixStream::pair().expect("pair");
        ours.set_nonblocking(true).expect("set");
        let mut buffer = LineBuffer::new(1 << 20);
        assert_eq!(buffer.fill(&ours).expect("reads"), Filled::Nothing);
        for (sent, expect) in [("a", vec![]), ("b\nc\n\n", vec!["ab", "c", ""]), ("d\r\ne", vec!["d\r"])] {
            theirs.write_all(sent.as_bytes()).expect("sent");
            assert_eq!(buffer.fill(&ours).expect("reads"), Filled::Bytes);
            let lines: Vec<String> =
                std::iter::from_fn(|| buffer.next_line()).map(|line| String::from_utf8(line).expect("UTF-8")).collect();
            assert_eq!(lines, expect);
        }
        assert!(buffer.is_partial());
        drop(theirs);
        assert_eq!(buffer.fill(&ours).expect("reads"), Filled::End);
    }

    #[test]
    fn a_reader_that_does_not_read_is_waited_for_within_the_bound() {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        ours.set_nonblocking(true).expect("set");
        let error = write_all(&ours, &vec![0; 8 << 20], Deadline::after(Duration::from_millis(50))).expect_err("full");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(theirs);
        assert_eq!(write_all(&ours, b"x", Deadline::after(Duration::from_secs(5))).expect_err("closed").kind(), ErrorKind::BrokenPipe);
    }
}
