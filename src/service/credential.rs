//! Locks on credentials: one token is used by one gateway of this machine, whatever its state directory.
//!
//! Two that poll with the same token take each other's messages away. As with the instance lock, the only truth is a
//! `flock`, which the kernel releases with its process; what the file says is a comment for people. A process that holds
//! a lock already gets it again. Nobody is ever ended for it: the one who comes later waits.

use super::lock::HolderInfo;
use super::peer::Snapshot;
use crate::config::{Environment, Secret};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// The comment is a few hundred bytes.
const COMMENT_BYTES_MAX: u64 = 16 * 1024;
const DIRECTORY: &str = "hermes-gateway";

/// What the holder wrote about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Comment {
    pid: u32,
    start_ticks: u64,
    state_dir: PathBuf,
}

/// A credential's lock, held until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Held {
    /// Whether this is a lock at all; without a place for it there is none, and the credential is used all the same.
    _file: Option<Arc<File>>,
}

/// Somebody else uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// `pid 42 (state directory /x)`
    pub holder: String,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the same credential is in use by another gateway: {}", self.holder)
    }
}

impl std::error::Error for Conflict {}

/// Takes the lock of a credential, for as long as the result lives. Does not wait.
///
/// A machine that offers no place for such locks is no reason not to work: then there is only a line in the log.
///
/// # Errors
/// [`Conflict`], to be tried again later: the other one may end.
pub fn acquire(platform: &str, secret: &Secret, state_dir: &Path) -> Result<Held, Conflict> {
    acquire_in(&places(&Environment::of_process()), platform, secret, state_dir)
}

fn acquire_in(places: &[Place], platform: &str, secret: &Secret, state_dir: &Path) -> Result<Held, Conflict> {
    let name = file_name(platform, secret);
    for place in places {
        let path = place.directory.join(&name);
        let opened = place.prepare().and_then(|()| open(&path, place));
        match opened {
            Ok(file) => return lock(file, &path, state_dir),
            Err(cause) => log::debug!(target: "lock", "credentials cannot be locked in {}: {cause}", place.directory.display()),
        }
    }
    log::warn!(target: "lock", "there is no place for locks on credentials (XDG_RUNTIME_DIR, /run/lock, /tmp): another gateway with the same {platform} account would not be noticed");
    Ok(Held { _file: None })
}

/// A directory for locks.
struct Place {
    directory: PathBuf,
    /// For all users of the machine; else for this one.
    shared: bool,
}

/// In order of preference.
fn places(environment: &Environment) -> Vec<Place> {
    let own = environment.directory("XDG_RUNTIME_DIR").map(|directory| Place { directory: directory.join(DIRECTORY), shared: false });
    let shared = ["/run/lock", "/tmp"].map(|parent| Place { directory: Path::new(parent).join(DIRECTORY), shared: true });
    own.into_iter().chain(shared).collect()
}

impl Place {
    fn prepare(&self) -> std::io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            // The mode that was asked for is cut by the umask. Sticky, so that nobody removes the files of others.
            Ok(()) if self.shared => std::fs::set_permissions(&self.directory, Permissions::from_mode(0o1777))?,
            Ok(()) => {}
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(cause),
        }
        let there = std::fs::symlink_metadata(&self.directory)?;
        let trusted = there.is_dir() && (!self.shared || there.mode() & 0o1000 != 0 || there.mode() & 0o022 == 0);
        if trusted { Ok(()) } else { Err(std::io::Error::other("it is not a directory that can be trusted")) }
    }
}

fn open(path: &Path, place: &Place) -> std::io::Result<File> {
    let options = |write: bool, create: bool| {
        let mut options = OpenOptions::new();
        options.read(true).write(write).mode(if place.shared { 0o644 } else { 0o600 }).custom_flags(nix::libc::O_NOFOLLOW);
        if create {
            options.create_new(true);
        }
        options
    };
    // Not O_CREAT on a file that is there: in a sticky directory the kernel refuses that for files of others
    // (fs.protected_regular). One of another user can be locked all the same, just not be written.
    loop {
        match options(true, false).open(path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => {}
            Err(cause) if cause.kind() == ErrorKind::PermissionDenied => return options(false, false).open(path),
            other => return other,
        }
        match options(true, true).open(path) {
            Err(cause) if cause.kind() == ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
}

/// What this process holds: a further descriptor of the same file would be refused by its own lock.
fn own_locks() -> &'static Mutex<HashMap<PathBuf, Weak<File>>> {
    static LOCKS: OnceLock<Mutex<HashMap<PathBuf, Weak<File>>>> = OnceLock::new();
    LOCKS.get_or_init(Mutex::default)
}

fn lock(file: File, path: &Path, state_dir: &Path) -> Result<Held, Conflict> {
    // Held while a file is locked and written, which does not wait.
    let mut own = own_locks().lock().unwrap_or_else(PoisonError::into_inner);
    own.retain(|_, held| held.strong_count() > 0);
    if let Some(held) = own.get(path).and_then(Weak::upgrade) {
        return Ok(Held { _file: Some(held) });
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Conflict { holder: describe(path) }),
        Err(TryLockError::Error(cause)) => {
            log::warn!(target: "lock", "{} cannot be locked: {cause}", path.display());
            return Ok(Held { _file: None });
        }
    }
    let pid = std::process::id();
    let comment = Comment { pid, start_ticks: Snapshot::read(pid).map_or(0, |own| own.start_ticks), state_dir: state_dir.to_owned() };
    let text = serde_json::to_vec(&comment).unwrap_or_default();
    // A comment only: a full disk, or a file of another user, does not matter.
    let _ = file.write_all_at(&text, 0).and_then(|()| file.set_len(text.len() as u64));
    let file = Arc::new(file);
    own.insert(path.to_owned(), Arc::downgrade(&file));
    Ok(Held { _file: Some(file) })
}

/// Who holds it, as far as the file tells.
fn describe(path: &Path) -> String {
    let read = || {
        let mut text = String::new();
        File::open(path).ok()?.take(COMMENT_BYTES_MAX).read_to_string(&mut text).ok()?;
        serde_json::from_str::<Comment>(&text).ok()
    };
    let comment = read().unwrap_or_default();
    let info = HolderInfo { pid: Some(comment.pid), start_ticks: comment.start_ticks, ..HolderInfo::default() };
    match info.process() {
        Some(_) => format!("pid {} (state directory {})", comment.pid, comment.state_dir.display()),
        None => "a process that left no word about itself, perhaps of another user".to_owned(),
    }
}

/// Platform and SHA-256 of the secret: the name tells nobody what it is.
fn file_name(platform: &str, secret: &Secret) -> String {
    let hash = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13();
    let digest = hash.map(|suite| suite.common.hash_provider.hash(format!("{platform}\0{}", secret.expose()).as_bytes()));
    let mut name = String::new();
    for byte in digest.as_ref().map(AsRef::as_ref).unwrap_or_default().iter().take(16) {
        let _ = write!(name, "{byte:02x}");
    }
    format!("{platform}-{name}.lock")
}

#[cfg(test)]
mod tests {
    // The tests start and kill copies of this very program, which `std::process` does best; waits are bounded by the test's own deadline.
    #![allow(clippy::disallowed_methods)]

    use super::*;
    use crate::clock::Deadline;
    use crate::thread::CancelToken;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    const ROLE: &str = "HERMES_TEST_CREDENTIAL";

    fn own(directory: &Path) -> Vec<Place> {
        vec![Place { directory: directory.join("locks"), shared: false }]
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    /// Not a test of its own: another gateway with the same token.
    #[test]
    fn uses_a_credential_until_killed() {
        let Some(directory) = std::env::var_os(ROLE) else { return };
        let directory = PathBuf::from(directory);
        let _held = acquire_in(&own(&directory), "telegram", &secret("123:abc"), Path::new("/state/of/the/other")).expect("free");
        std::fs::write(directory.join("ready"), "").expect("written");
        std::thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn a36_one_credential_is_used_by_one_process_and_a_dead_one_never_blocks() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "service::credential::tests::uses_a_credential_until_killed"]).env(ROLE, scratch.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        let deadline = Deadline::after(Duration::from_secs(20));
        while !scratch.path().join("ready").exists() {
            assert!(!deadline.passed());
            let _ = CancelToken::new().sleep(Duration::from_millis(5));
        }
        let take = |platform: &str, text: &str| acquire_in(&own(scratch.path()), platform, &secret(text), Path::new("/ours"));
        let conflict = take("telegram", "123:abc").expect_err("in use");
        assert_eq!(conflict.holder, format!("pid {} (state directory /state/of/the/other)", child.id()));
        assert!(take("telegram", "123:abd").is_ok() && take("discord", "123:abc").is_ok());
        child.kill().expect("ours");
        child.wait().expect("ended");
        let held = take("telegram", "123:abc").expect("released by the kernel");
        let again = take("telegram", "123:abc").expect("a process gets its own again");
        drop((held, again));
        let name = file_name("telegram", &secret("123:abc"));
        let file = File::open(scratch.path().join("locks").join(name)).expect("the file stays");
        assert!(file.try_lock().is_ok(), "released with the last clone");
    }

    #[test]
    fn names_tell_nothing() {
        let name = file_name("telegram", &secret("123:abc"));
        assert!(name.starts_with("telegram-") && name.len() == "telegram-.lock".len() + 32 && !name.contains("abc"), "{name}");
        assert_ne!(name, file_name("telegram", &secret("123:abd")));
    }

    #[test]
    fn places_that_cannot_be_used_are_passed_over() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        std::fs::write(scratch.path().join("file"), "").expect("written");
        let target = scratch.path().join("open");
        std::fs::create_dir(&target).expect("directory");
        std::fs::set_permissions(&target, Permissions::from_mode(0o777)).expect("ours");
        std::os::unix::fs::symlink(&target, scratch.path().join("link")).expect("link");
        let place = |name: &str, shared: bool| Place { directory: scratch.path().join(name), shared };
        for (name, shared) in [("file", false), ("file/below", false), ("open", true), ("link", true)] {
            assert!(place(name, shared).prepare().is_err(), "{name}");
        }
        let good = place("good", true);
        acquire_in(&[place("file", false), place("open", true), good], "x", &secret("s"), Path::new("/")).expect("the last one");
        let made = std::fs::metadata(scratch.path().join("good")).expect("made");
        assert_eq!(made.mode() & 0o7777, 0o1777);
        assert!(acquire_in(&[], "x", &secret("s"), Path::new("/")).is_ok(), "without a place it works all the same");
    }

    #[test]
    fn the_order_of_places() {
        let directories = |environment: &Environment| places(environment).into_iter().map(|place| place.directory).collect::<Vec<_>>();
        assert_eq!(directories(&Environment::default()), [Path::new("/run/lock/hermes-gateway"), Path::new("/tmp/hermes-gateway")]);
        let user = Environment::default().with("XDG_RUNTIME_DIR", "/run/user/1");
        assert_eq!(directories(&user)[0], Path::new("/run/user/1/hermes-gateway"));
    }
}
