//! Input from a terminal or a pipe, and Ctrl-C, as descriptors that can be polled.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// A line longer than that is cut; the gateway would cut it too.
const LINE_BYTES_MAX: usize = crate::limits::INBOUND_TEXT_BYTES_MAX;

/// Lines from a descriptor. Reads only when there is something.
pub struct Input<R: Read + AsFd> {
    source: R,
    bytes: Vec<u8>,
    pub ended: bool,
}

impl<R: Read + AsFd> Input<R> {
    pub fn new(source: R) -> Self {
        Self { source, bytes: Vec::new(), ended: false }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }

    /// To be called when the descriptor is readable: then it does not block.
    pub fn fill(&mut self) {
        let mut chunk = [0; 4096];
        match self.source.read(&mut chunk) {
            Ok(0) => self.ended = true,
            Ok(count) => self.bytes.extend_from_slice(&chunk[..count]),
            Err(cause) if matches!(cause.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => self.ended = true,
        }
    }

    /// The next line; at the end also one without a line break.
    pub fn next_line(&mut self) -> Option<String> {
        let end = match self.bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.bytes.len() >= LINE_BYTES_MAX => self.bytes.len(),
            None if self.ended && !self.bytes.is_empty() => self.bytes.len(),
            None => return None,
        };
        let line: Vec<u8> = self.bytes.drain(..end).collect();
        Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    /// There is as much waiting as is worth holding.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= LINE_BYTES_MAX
    }
}

/// Standard input without the buffer of the standard library, which poll(2) cannot see into.
pub struct RawStdin(std::fs::File);

impl RawStdin {
    /// # Errors
    /// When standard input is closed or cannot be duplicated.
    pub fn open() -> std::io::Result<Self> {
        Ok(Self(std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?)))
    }
}

impl Read for RawStdin {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl AsFd for RawStdin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Ctrl-C as something readable, for as long as it lives.
pub struct Interrupts {
    stream: UnixStream,
    registered: Option<signal_hook::SigId>,
}

impl Interrupts {
    /// Takes SIGINT.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn take() -> std::io::Result<Self> {
        let (ours, handler) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let registered = signal_hook::low_level::pipe::register(signal_hook::consts::SIGINT, handler)?;
        Ok(Self { stream: ours, registered: Some(registered) })
    }

    /// For tests: what is written to the other end counts as Ctrl-C.
    #[cfg(test)]
    pub fn from_stream(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).expect("set");
        Self { stream, registered: None }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// How often it was pressed since the last call.
    pub fn count(&mut self) -> usize {
        let mut bytes = [0; 64];
        self.stream.read(&mut bytes).unwrap_or_default()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        if let Some(id) = self.registered.take() {
            signal_hook::low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_of_input() {
        let (mut theirs, ours) = UnixStream::pair().expect("pair");
        let mut input = Input::new(ours);
        let mut feed = |input: &mut Input<UnixStream>, text: &str| {
            theirs.write_all(text.as_bytes()).expect("sent");
            input.fill();
        };
        feed(&mut input, "one\r\ntwo\n\nth");
        let lines: Vec<String> = std::iter::from_fn(|| input.next_line()).collect();
        assert_eq!(lines, ["one", "two", ""]);
        feed(&mut input, "ree");
        assert_eq!(input.next_line(), None);
        drop(theirs);
        input.fill();
        assert!(input.ended);
        assert_eq!((input.next_line().as_deref(), input.next_line()), (Some("three"), None));
    }
}
