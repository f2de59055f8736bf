//! Unix sockets by path, of any length.
//!
//! The kernel takes paths of up to 107 bytes. Longer ones are reached through a descriptor of their directory
//! (`/proc/self/fd/N/name`), so that the socket is always where people look for it.

use crate::clock::Deadline;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `sun_path` has 108 bytes, one of them for the zero at the end (unix(7)).
const PATH_BYTES_MAX: usize = 107;
/// Status requests, chats and what comes in while the process is stopped.
const BACKLOG: i32 = 64;

/// An address, and what must stay open while it is used.
fn resolve(path: &Path) -> Result<(UnixAddr, Option<File>)> {
    if path.as_os_str().len() <= PATH_BYTES_MAX {
        return Ok((UnixAddr::new(path)?, None));
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(ErrorKind::InvalidInput, "not the path of a socket"));
    };
    let flags = nix::libc::O_PATH | nix::libc::O_DIRECTORY;
    let directory = OpenOptions::new().read(true).custom_flags(flags).open(directory)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    Ok((UnixAddr::new(&short)?, Some(directory)))
}

fn new_socket() -> Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?)
}

/// Listens at `path`, which must not exist. Accepting does not block.
pub(super) fn listen_at(path: &Path) -> Result<UnixListener> {
    let (address, _directory) = resolve(path)?;
    let fd = new_socket()?;
    bind(fd.as_raw_fd(), &address)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(fd))
}

/// Connects to `path`; waits while the backlog of the listener is full. Reads and writes do not block.
pub(super) fn connect_to(path: &Path, deadline: Deadline) -> Result<UnixStream> {
    let (address, _directory) = resolve(path)?;
    let fd = new_socket()?;
    let token = crate::thread::CancelToken::new();
    loop {
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            Err(Errno::EAGAIN | Errno::EINTR) if !deadline.passed() => {
                // The kernel offers no way to wait for room in a Unix backlog.
                let _ = token.sleep(Duration::from_millis(20).min(deadline.remaining()));
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return Err(ErrorKind::TimedOut.into()),
            Err(cause) => return Err(cause.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_any_length() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let deadline = Deadline::after(Duration::from_secs(5));
        for directory in ["short".to_owned(), "long".repeat(60)] {
            let directory = scratch.path().join(directory);
            std::fs::create_dir(&directory).expect("directory");
            let path = directory.join("gateway.sock");
            let listener = listen_at(&path).expect("listens");
            assert!(path.exists());
            connect_to(&path, deadline).expect("connects");
            assert_eq!(listen_at(&path).expect_err("taken").kind(), ErrorKind::AddrInUse);
            drop(listener);
            assert_eq!(connect_to(&path, deadline).expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
        }
    }

    #[test]
    fn a_full_backlog_is_waited_for_within_the_bound() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let path = scratch.path().join("s");
        let _listener = listen_at(&path).expect("listens");
        let clients: Result<Vec<UnixStream>> =
            (0..=BACKLOG + 1).map(|_| connect_to(&path, Deadline::after(Duration::from_millis(100)))).collect();
        assert_eq!(clients.expect_err("full").kind(), ErrorKind::TimedOut);
    }
}
