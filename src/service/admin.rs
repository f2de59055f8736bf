//! The control socket: `status`, `stop`, `send` and the chats of terminals come in here.
//!
//! The thread `admin` accepts; each connection has a thread `admin/N`. None of them needs control to answer `status`.
//! The socket belongs to this user alone: mode 0600, and the peer's uid is checked.

pub use super::protocol::{Admin, Request, Response};

use super::address::listen_at;
use super::lines::{Filled, LineBuffer, to_line, write_all};
use super::lock::Lock;
use super::wake::{Wake, poll_ready};
use crate::adapter::local::Attachment;
use crate::clock::{self, Deadline};
use crate::limits;
use crate::thread::{CancelToken, Cut, Handle, SpawnError, Threads, enter, wait_for_work};
use crossbeam_channel::TryRecvError;
use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::Value;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const FILE: &str = "gateway.sock";

/// Where the control socket of a state directory is: in systemd's runtime directory if there is one, else beside the lock.
#[must_use]
pub fn socket_path(state_dir: &Path, runtime_directory: Option<&Path>) -> PathBuf {
    runtime_directory.unwrap_or(state_dir).join(FILE)
}

/// Why there is no control socket.
#[derive(Debug)]
pub enum ServeError {
    Socket { path: PathBuf, cause: std::io::Error },
    Thread(SpawnError),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket { path, cause } => write!(f, "cannot listen at {}: {cause}", path.display()),
            Self::Thread(cause) => cause.fmt(f),
        }
    }
}

impl std::error::Error for ServeError {}

/// Starts the control socket, where the lock's comment says. The lock is held, so whatever is there is a leftover.
/// Ends, and takes the socket away, when `token` is cancelled.
///
/// # Errors
/// [`ServeError`].
pub fn serve(admin: Arc<dyn Admin>, lock: &Lock, threads: &Threads, token: &CancelToken) -> Result<Handle, ServeError> {
    let path = lock.info().socket.unwrap_or_else(|| socket_path(lock.directory(), None));
    serve_at(admin, &path, threads, token)
}

fn serve_at(admin: Arc<dyn Admin>, path: &Path, threads: &Threads, token: &CancelToken) -> Result<Handle, ServeError> {
    let failed = |cause| ServeError::Socket { path: path.to_owned(), cause };
    let listener = bind(path).map_err(failed)?;
    let wake = Arc::new(Wake::new().map_err(failed)?);
    let server = Server {
        admin,
        listener,
        path: path.to_owned(),
        wake,
        threads: threads.clone(),
        shared: Arc::new(Shared { slots: Mutex::new([false; limits::ADMIN_CONNECTIONS_MAX]), attached: AtomicUsize::new(0) }),
    };
    threads.spawn("admin", 0, token.clone(), |_| (), move |token| server.run(token)).map_err(ServeError::Thread)
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => return Err(cause),
        _ => {}
    }
    let listener = listen_at(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// What the connections share.
struct Shared {
    slots: Mutex<[bool; limits::ADMIN_CONNECTIONS_MAX]>,
    attached: AtomicUsize,
}

/// A connection's place; free again when dropped.
struct Slot {
    shared: Arc<Shared>,
    number: usize,
}

impl Shared {
    fn take_slot(self: &Arc<Self>) -> Option<Slot> {
        // Flags are valid after any panic.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let number = slots.iter().position(|taken| !taken)?;
        slots[number] = true;
        Some(Slot { shared: Arc::clone(self), number })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner)[self.number] = false;
    }
}

struct Server {
    admin: Arc<dyn Admin>,
    listener: UnixListener,
    path: PathBuf,
    wake: Arc<Wake>,
    threads: Threads,
    shared: Arc<Shared>,
}

impl Server {
    fn run(&self, token: &CancelToken) {
        let _attached = token.attach(Arc::clone(&self.wake) as Arc<dyn Cut>);
        let own = std::fs::symlink_metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
        let _waiting = wait_for_work(format_args!("accepting at the control socket"));
        while !token.is_cancelled() {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream, token),
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                    if poll_ready([(self.listener.as_fd(), PollFlags::POLLIN), (self.wake.fd(), PollFlags::POLLIN)], None).is_err() {
                        let _ = token.sleep(Duration::from_secs(1));
                    }
                }
                Err(cause) if matches!(cause.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(cause) => {
                    // Out of descriptors or memory: the connection stays in the backlog, so trying at once would spin.
                    log::warn!(target: "admin", "cannot accept a connection: {cause}");
                    let _ = token.sleep(Duration::from_secs(1));
                }
            }
        }
        let now = std::fs::symlink_metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
        if own.is_some() && own == now {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn admit(&self, stream: UnixStream, token: &CancelToken) {
        if let Err(cause) = stream.set_nonblocking(true) {
            log::warn!(target: "admin", "cannot prepare a connection: {cause}");
            return;
        }
        let refuse = |why: &str| {
            // One short line into the empty buffer of a new socket: it does not wait.
            let _ = write_all(&stream, &to_line(&Response::Error(why.to_owned())), Deadline::after(Duration::ZERO));
        };
        let own = nix::unistd::Uid::effective().as_raw();
        match getsockopt(&stream, PeerCredentials) {
            Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
            Ok(peer) => {
                log::warn!(target: "admin", "refused a connection of uid {} (pid {})", peer.uid(), peer.pid());
                return refuse("this gateway belongs to another user");
            }
            Err(cause) => {
                log::warn!(target: "admin", "refused a connection: its user cannot be told: {cause}");
                return;
            }
        }
        let Some(slot) = self.shared.take_slot() else {
            return refuse("too many connections to the control socket; close one");
        };
        let name = format!("admin/{}", slot.number + 1);
        let connection = match Connection::new(Arc::clone(&self.admin), stream, slot) {
            Ok(connection) => connection,
            Err(cause) => return log::warn!(target: "admin", "cannot prepare a connection: {cause}"),
        };
        if let Err(cause) = self.threads.spawn(&name, 0, token.child(), |_| (), move |token| connection.run(token)) {
            log::warn!(target: "admin", "{cause}");
        }
    }
}

/// Ends a connection from outside: whatever its thread waits for comes back.
struct Hangup {
    stream: UnixStream,
    wake: Arc<Wake>,
}

impl Cut for Hangup {
    fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.wake.wake();
    }
}

/// Why a connection is over.
struct Closed;

struct Connection {
    admin: Arc<dyn Admin>,
    stream: UnixStream,
    wake: Arc<Wake>,
    buffer: LineBuffer,
    attachment: Option<Attachment>,
    slot: Slot,
    /// By when the client must have said something, unless it is attached.
    patience: Deadline,
}

impl Connection {
    fn new(admin: Arc<dyn Admin>, stream: UnixStream, slot: Slot) -> std::io::Result<Self> {
        let (wake, patience) = (Arc::new(Wake::new()?), Deadline::after(limits::ADMIN_IDLE));
        Ok(Self { admin, stream, wake, buffer: LineBuffer::new(limits::ADMIN_LINE_BYTES_MAX), attachment: None, slot, patience })
    }

    fn run(mut self, token: &CancelToken) {
        let Ok(stream) = self.stream.try_clone() else { return };
        let _attached = token.attach(Arc::new(Hangup { stream, wake: Arc::clone(&self.wake) }));
        while !token.is_cancelled() && self.turn().is_ok() {}
        self.detach();
    }

    fn turn(&mut self) -> Result<(), Closed> {
        let idle = self.attachment.is_some() && !self.buffer.is_partial();
        let deadline = (!idle).then_some(self.patience);
        let _waiting = wait_for_work(format_args!("waiting for the client"));
        let fds = [(self.stream.as_fd(), PollFlags::POLLIN), (self.wake.fd(), PollFlags::POLLIN)];
        let [readable, woken] = poll_ready(fds, deadline).map_err(|_| Closed)?;
        if woken {
            self.wake.clear();
            self.forward_events()?;
        }
        if readable {
            self.read()?;
        }
        if !readable && !woken { Err(Closed) } else { Ok(()) }
    }

    fn read(&mut self) -> Result<(), Closed> {
        let was_partial = self.buffer.is_partial();
        match self.buffer.fill(&self.stream).map_err(|_| Closed)? {
            Filled::End => return Err(Closed),
            Filled::TooLong => {
                self.answer(&Response::Error(format!("a request has at most {} bytes", limits::ADMIN_LINE_BYTES_MAX)))?;
                return Err(Closed);
            }
            Filled::Bytes | Filled::Nothing => {}
        }
        while let Some(line) = self.buffer.next_line() {
            let response = match serde_json::from_slice::<Request>(&line) {
                Ok(request) => self.execute(request),
                Err(cause) => Err(format!("not a request: {cause}")),
            };
            self.answer(&response.map_or_else(Response::Error, Response::Ok))?;
            self.patience = Deadline::after(limits::ADMIN_IDLE);
        }
        if self.buffer.is_partial() && !was_partial {
            self.patience = Deadline::after(limits::ADMIN_LINE);
        }
        Ok(())
    }

    fn answer(&self, response: &Response) -> Result<(), Closed> {
        let deadline = Deadline::after(limits::ADMIN_LINE);
        let _busy = enter(format_args!("writing to the client"), deadline);
        write_all(&self.stream, &to_line(response), deadline).map_err(|_| Closed)
    }

    fn execute(&mut self, request: Request) -> Result<Value, String> {
        let name = match &request {
            Request::Status => "status",
            Request::Stop => "stop",
            Request::Restart => "restart",
            Request::Send { .. } => "send",
            Request::Say { .. } => "say",
            Request::Attach { .. } => "attach",
            Request::Command { name, .. } => name,
        };
        let _busy = enter(format_args!("request: {name:.40}"), Deadline::after(limits::ADMIN_REQUEST));
        match request {
            Request::Status => serde_json::to_value(self.admin.status()).map_err(|cause| cause.to_string()),
            Request::Stop => self.admin.stop().map(|()| Value::Null),
            Request::Restart => self.admin.restart().map(|()| Value::Null),
            Request::Send { chat, text } => self.admin.send(chat, text).map(Value::from),
            Request::Say { chat, sender_name, text, message_id } => {
                self.admin.say(chat, sender_name, text, message_id).map(|()| Value::Null)
            }
            Request::Attach { chat } => self.attach(&chat).map(|()| Value::Null),
            Request::Command { name, args } => self.admin.command(&name, args),
        }
    }

    fn attach(&mut self, chat: &str) -> Result<(), String> {
        self.detach();
        let attached = &self.slot.shared.attached;
        if attached.fetch_add(1, Ordering::SeqCst) >= limits::ADMIN_ATTACHED_MAX {
            attached.fetch_sub(1, Ordering::SeqCst);
            return Err(format!("{} terminals are attached already; close one", limits::ADMIN_ATTACHED_MAX));
        }
        let wake = Arc::clone(&self.wake);
        let attachment = self.admin.hub().attach(chat, Some(Arc::new(move || wake.wake())));
        match attachment {
            Ok(attachment) => self.attachment = Some(attachment),
            Err(why) => {
                attached.fetch_sub(1, Ordering::SeqCst);
                return Err(why);
            }
        }
        Ok(())
    }

    fn detach(&mut self) {
        if self.attachment.take().is_some() {
            self.slot.shared.attached.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn forward_events(&self) -> Result<(), Closed> {
        let Some(attachment) = &self.attachment else { return Ok(()) };
        // At most a queue full at once, so that a flood of events does not keep requests waiting.
        let started = clock::now();
        for _ in 0..limits::HUB_QUEUE_MAX {
            match attachment.events.try_recv() {
                Ok(event) => self.answer(&Response::Event(event))?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Closed),
            }
            if started.elapsed() > limits::ADMIN_LINE {
                break;
            }
        }
        self.wake.wake();
        Ok(())
    }
}

impl Drop for Connection {
    /// Also when a request panicked.
    fn drop(&mut self) {
        self.detach();
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
