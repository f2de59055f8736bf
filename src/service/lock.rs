//! The instance lock: one gateway a state directory.
//!
//! The only truth is a `flock` on `gateway.lock`, which the kernel releases when the process is gone, however it went.
//! The JSON in the file is a comment for people, `status` and `stop`; nothing is decided by it. The file is never
//! deleted: that would let two processes lock two files of the same name.

use super::peer::Snapshot;
use crate::clock::{self, Deadline};
use crate::thread::{CancelToken, enter};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FILE: &str = "gateway.lock";
/// The comment is a few hundred bytes.
const COMMENT_BYTES_MAX: u64 = 16 * 1024;
/// A look by `status` holds the lock for microseconds; a start must not fail for that.
const PROBE_GRACE: Duration = Duration::from_millis(100);

/// Who holds the lock, as it wrote down itself. Every field may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HolderInfo {
    pub pid: Option<u32>,
    /// When it took the lock, Unix milliseconds.
    pub started_ms: i64,
    /// Of the process, see [`Snapshot`].
    pub start_ticks: u64,
    pub boot_id: String,
    pub version: String,
    /// The path of its control socket.
    pub socket: Option<PathBuf>,
    /// The longest that it takes to stop.
    pub stop_budget_ms: Option<u64>,
    pub profile: Option<String>,
    /// A supervisor starts it again when it ends.
    pub supervised: bool,
}

impl HolderInfo {
    /// The process as it is now; `None` if it cannot be seen, or its number belongs to another one.
    #[must_use]
    pub fn process(&self) -> Option<Snapshot> {
        Snapshot::read(self.pid?).filter(|now| now.start_ticks == self.start_ticks)
    }

    /// `pid 4242 (0.1.0, profile work)`, or that it did not say.
    #[must_use]
    pub fn describe(&self) -> String {
        let Some(pid) = self.pid else { return "a process that left no word about itself".to_owned() };
        let profile = self.profile.as_deref().filter(|profile| *profile != "default");
        let profile = profile.map(|profile| format!(", profile {profile}")).unwrap_or_default();
        format!("pid {pid} ({}{profile})", if self.version.is_empty() { "unknown version" } else { &self.version })
    }
}

/// Why the lock was not taken.
#[derive(Debug)]
pub enum LockError {
    Held(Box<HolderInfo>),
    Cancelled,
    Io {
        /// "create the directory", "open", "lock".
        doing: &'static str,
        path: PathBuf,
        cause: std::io::Error,
    },
}

impl std::fmt::Display for LockError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Held(holder) => write!(f, "another gateway is running: {}", holder.describe()),
            Self::Cancelled => f.write_str("cancelled while waiting for the lock"),
            Self::Io { doing, path, cause } => {
                write!(f, "cannot {doing} {}: {cause}", path.display())?;
                match cause.kind() {
                    ErrorKind::PermissionDenied => {
                        write!(f, "; give it to this user (uid {}) or choose another with --state-dir", nix::unistd::Uid::effective())
                    }
                    ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                        f.write_str("; choose another with --state-dir")
                    }
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded => f.write_str("; make room on that file system"),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for LockError {}

/// The lock, held for as long as the value lives. The descriptor is closed on exec, so no child inherits it.
#[derive(Debug)]
pub struct Lock {
    file: File,
    directory: PathBuf,
    path: PathBuf,
    info: Mutex<HolderInfo>,
}

impl Lock {
    /// Takes the lock of the state directory, which is created if it is not there; waits up to `wait` for the holder
    /// to go.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn acquire(directory: &Path, wait: Duration, token: &CancelToken) -> Result<Self, LockError> {
        let path = directory.join(FILE);
        create_directory(directory)?;
        let deadline = Deadline::after(wait.max(PROBE_GRACE));
        let _busy = enter(format_args!("waiting for the lock {}", path.display()), deadline);
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(file) = try_lock(&path)? {
                let lock = Self { file, directory: directory.to_owned(), path, info: Mutex::new(own_info()) };
                lock.announce(|_| ());
                return Ok(lock);
            }
            if deadline.passed() {
                return Err(LockError::Held(Box::new(read_comment(&path))));
            }
            token.sleep(pause.min(deadline.remaining())).map_err(|_| LockError::Cancelled)?;
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }

    /// Changes what the file says about this process. That is a comment only: a full disk does not matter.
    pub fn announce(&self, change: impl FnOnce(&mut HolderInfo)) {
        let mut info = self.info.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut info);
        let mut text = serde_json::to_vec(&*info).unwrap_or_default();
        text.push(b'\n');
        let written = self.file.write_all_at(&text, 0).and_then(|()| self.file.set_len(text.len() as u64));
        if let Err(cause) = written {
            log::warn!(target: "lock", "cannot note in {} who holds the lock: {cause}", self.path.display());
        }
    }

    #[must_use]
    pub fn info(&self) -> HolderInfo {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The state directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path still names the file that is locked. If not, somebody replaced or deleted it, and another gateway
    /// could start in this directory: reason to stop.
    #[must_use]
    pub fn still_ours(&self) -> bool {
        names(&self.path, &self.file).unwrap_or(false)
    }
}

/// Who holds the lock of a state directory. `None`: nobody does.
///
/// # Errors
/// [`LockError::Io`] when the file is there and cannot be looked at.
pub fn holder(directory: &Path) -> Result<Option<HolderInfo>, LockError> {
    let path = directory.join(FILE);
    let failed = |doing, cause| LockError::Io { doing, path: path.clone(), cause };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(cause) if matches!(cause.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(cause) => return Err(failed("open", cause)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read_comment(&path))),
        Err(TryLockError::Error(cause)) => Err(failed("lock", cause)),
    }
}

/// Writes the number of this process for init systems that want it. It is never read by this program.
///
/// # Errors
/// [`LockError::Io`].
pub fn write_pid_file(path: &Path) -> Result<(), LockError> {
    let failed = |cause| LockError::Io { doing: "write the pid file", path: path.to_owned(), cause };
    // A rename, so that nobody ever reads half a number.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let draft = path.with_file_name(name);
    std::fs::write(&draft, format!("{}\n", std::process::id())).map_err(failed)?;
    std::fs::rename(&draft, path).map_err(|cause| {
        let _ = std::fs::remove_file(&draft);
        failed(cause)
    })
}

fn create_directory(directory: &Path) -> Result<(), LockError> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let failed = |cause| LockError::Io { doing: "create the state directory", path: directory.to_owned(), cause };
    created.map_err(failed)
}

/// `None`: somebody else holds it, or the file was replaced between opening and locking it.
fn try_lock(path: &Path) -> Result<Option<File>, LockError> {
    let failed = |doing, cause| LockError::Io { doing, path: path.to_owned(), cause };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(|cause| failed("open", cause))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(cause)) => return Err(failed("lock", cause)),
    }
    let same = names(path, &file).map_err(|cause| failed("check", cause))?;
    Ok(same.then_some(file))
}

/// The path names this open file.
fn names(path: &Path, file: &File) -> std::io::Result<bool> {
    let own = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(cause),
    }
}

fn own_info() -> HolderInfo {
    let pid = std::process::id();
    HolderInfo {
        pid: Some(pid),
        started_ms: clock::wall_ms(),
        start_ticks: Snapshot::read(pid).map_or(0, |own| own.start_ticks),
        boot_id: boot_id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..HolderInfo::default()
    }
}

fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// What the file says. Its process must be the one that it names: right after a change of hands it may be the old one.
fn read_comment(path: &Path) -> HolderInfo {
    let read = || {
        let mut text = String::new();
        File::open(path).ok()?.take(COMMENT_BYTES_MAX).read_to_string(&mut text).ok()?;
        let info: HolderInfo = serde_json::from_str(text.lines().next()?).ok()?;
        let alive = info.boot_id == boot_id() && info.process().is_some();
        // Seen from another pid namespace nothing is alive; the address of the socket is good all the same.
        Some(if alive { info } else { HolderInfo { pid: None, ..info } })
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    // The tests start and kill copies of this very program, which `std::process` does best; waits are bounded by the test's own deadline.
    #![allow(clippy::disallowed_methods)]

    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command, Stdio};

    const ROLE: &str = "HERMES_TEST_LOCK_DIRECTORY";

    fn token() -> CancelToken {
        CancelToken::new()
    }

    /// Not a test of its own: the process that holds the lock in the tests below.
    #[test]
    fn holds_the_lock_until_killed() {
        let Some(directory) = std::env::var_os(ROLE) else { return };
        let lock = Lock::acquire(Path::new(&directory), Duration::ZERO, &token()).expect("free");
        lock.announce(|info| info.profile = Some("work".to_owned()));
        std::thread::sleep(Duration::from_secs(60));
    }

    fn start_holder(directory: &Path) -> Child {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "service::lock::tests::holds_the_lock_until_killed"]).env(ROLE, directory);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        until("the lock is held", || holder(directory).expect("readable").is_some_and(|holder| holder.profile.is_some()));
        child
    }

    fn until(what: &str, mut reached: impl FnMut() -> bool) {
        let deadline = Deadline::after(Duration::from_secs(20));
        while !reached() {
            assert!(!deadline.passed(), "not in time: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_holder_at_a_time_and_a_dead_one_never_blocks() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let directory = scratch.path().join("a/b");
        assert!(holder(&directory).expect("nothing there").is_none());
        let mut child = start_holder(&directory);

        let error = Lock::acquire(&directory, Duration::ZERO, &token()).expect_err("held");
        let LockError::Held(info) = &error else { panic!("{error}") };
        assert_eq!((info.pid, info.profile.as_deref()), (Some(child.id()), Some("work")));
        assert_eq!(error.to_string(), format!("another gateway is running: pid {} (0.1.0, profile work)", child.id()));

        // Stopped, it still holds the lock; killed, it does not, whatever the file says.
        super::super::peer::signal(child.id(), info.start_ticks, nix::sys::signal::Signal::SIGSTOP).expect("ours");
        until("it is stopped", || info.process().is_some_and(Snapshot::is_stopped));
        assert!(holder(&directory).expect("readable").is_some());
        child.kill().expect("ours");
        let lock = Lock::acquire(&directory, Duration::from_secs(20), &token()).expect("released by the kernel");
        child.wait().expect("ended");
        assert_eq!(holder(&directory).expect("readable").and_then(|holder| holder.pid), Some(std::process::id()));
        assert_eq!(directory.metadata().expect("there").permissions().mode() & 0o777, 0o700);
        drop(lock);
        assert!(holder(&directory).expect("readable").is_none());
        assert!(directory.join(FILE).exists(), "the file stays");
    }

    #[test]
    fn waits_for_the_holder_within_its_bound() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let first = Lock::acquire(scratch.path(), Duration::ZERO, &token()).expect("free");
        let started = clock::now();
        assert!(matches!(Lock::acquire(scratch.path(), Duration::from_millis(300), &token()), Err(LockError::Held(_))));
        assert!((300..5000).contains(&started.elapsed().as_millis()));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Lock::acquire(scratch.path(), Duration::from_secs(20), &token()));
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
            second.join().expect("no panic").expect("free now");
        });
        let cancelled = token();
        let _held = Lock::acquire(scratch.path(), Duration::ZERO, &token()).expect("free");
        cancelled.cancel();
        assert!(matches!(Lock::acquire(scratch.path(), Duration::from_secs(20), &cancelled), Err(LockError::Cancelled)));
    }

    #[test]
    fn a_replaced_file_is_noticed() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let lock = Lock::acquire(scratch.path(), Duration::ZERO, &token()).expect("free");
        assert!(lock.still_ours());
        std::fs::remove_file(scratch.path().join(FILE)).expect("removed");
        assert!(!lock.still_ours());
        let second = Lock::acquire(scratch.path(), Duration::ZERO, &token()).expect("another file");
        assert!(second.still_ours() && !lock.still_ours());
    }

    #[test]
    fn a_probe_does_not_make_a_start_fail() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        drop(Lock::acquire(scratch.path(), Duration::ZERO, &token()).expect("free"));
        let probe = File::open(scratch.path().join(FILE)).expect("there");
        probe.try_lock_shared().expect("free");
        std::thread::scope(|scope| {
            let start = scope.spawn(|| Lock::acquire(scratch.path(), Duration::ZERO, &token()));
            std::thread::sleep(Duration::from_millis(10));
            drop(probe);
            start.join().expect("no panic").expect("the probe is over");
        });
    }

    #[test]
    fn comments_that_say_nothing() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let lock = Lock::acquire(scratch.path(), Duration::ZERO, &token()).expect("free");
        for text in ["", "{", "[]", "{\"pid\": 1}", "{\"pid\": \"x\"}", "\0\0\0", "{\"boot_id\": \"another\", \"pid\": 1}"] {
            std::fs::write(scratch.path().join(FILE), text).expect("written");
            let info = holder(scratch.path()).expect("readable").expect("held");
            assert_eq!((info.pid, info.describe().as_str()), (None, "a process that left no word about itself"), "{text:?}");
        }
        drop(lock);
    }

    #[test]
    fn pid_files() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let path = scratch.path().join("run.pid");
        std::fs::write(&path, "1").expect("written");
        write_pid_file(&path).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), format!("{}\n", std::process::id()));
        assert_eq!(std::fs::read_dir(scratch.path()).expect("readable").count(), 1);
        let error = write_pid_file(Path::new("/nowhere/run.pid")).expect_err("no directory").to_string();
        assert!(error.starts_with("cannot write the pid file /nowhere/run.pid: "), "{error}");
    }

    #[test]
    fn directories_that_cannot_be_used() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let file = scratch.path().join("file");
        std::fs::write(&file, "").expect("written");
        let error = Lock::acquire(&file, Duration::ZERO, &token()).expect_err("a file").to_string();
        assert!(error.contains("cannot create the state directory") && error.ends_with("choose another with --state-dir"), "{error}");
        let error = Lock::acquire(Path::new("/proc/self/nothing"), Duration::ZERO, &token()).expect_err("not there").to_string();
        assert!(error.starts_with("cannot create the state directory /proc/self/nothing: "), "{error}");
        std::os::unix::fs::symlink(&file, scratch.path().join(FILE)).expect("linked");
        assert!(matches!(Lock::acquire(scratch.path(), Duration::ZERO, &token()), Err(LockError::Io { doing: "open", .. })));
    }
}
