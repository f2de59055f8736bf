//! Attachments on disk: a directory a chat, safe names, and a bound on all of them together.
//!
//! Runs on the adapters' threads. A file appears under its name only once it is complete; what is cut off leaves nothing
//! behind. Several adapters may share one root: a file that another one has removed meanwhile is no error.

use crate::clock::{self, Deadline};
use crate::core::types::ChatRef;
use crate::limits;
use crate::thread::enter;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Why a file was not saved. Nothing of it is on disk then.
#[derive(Debug)]
pub enum FileError {
    /// It is larger than this many bytes.
    TooLarge(u64),
    /// It did not come in completely by the deadline.
    Timeout,
    /// The other end failed.
    Read(io::Error),
    /// The disk is full, read-only or failing.
    Disk(io::Error),
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLarge(bytes) => write!(f, "larger than {} MB", bytes / (1024 * 1024)),
            Self::Timeout => f.write_str("the download took too long"),
            Self::Read(cause) => write!(f, "the download failed: {cause}"),
            Self::Disk(cause) => write!(f, "cannot be saved: {cause}"),
        }
    }
}

impl std::error::Error for FileError {}

/// A saved attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    pub path: PathBuf,
    pub bytes: u64,
}

/// The attachments of one or more adapters.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
    file_bytes_max: u64,
    cache_bytes_max: u64,
}

/// How the name of an unfinished file ends.
const PARTIAL: &str = ".partial";
/// An unfinished file of this age belongs to a process that was killed.
const PARTIAL_AGE: Duration = Duration::from_secs(3600);

impl Files {
    /// Files under `root`, which is made when the first one is saved.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self::with_limits(root, limits::ATTACHMENT_BYTES_MAX, limits::ATTACHMENT_CACHE_BYTES_MAX)
    }

    /// With other limits, in bytes, for one file and for all of them.
    #[must_use]
    pub fn with_limits(root: &Path, file_bytes_max: u64, cache_bytes_max: u64) -> Self {
        Self { root: root.to_owned(), file_bytes_max, cache_bytes_max }
    }

    /// Streams `body` into a file of the chat, mode 0600, until it ends; then removes the oldest files of all chats until
    /// the cache is within its bound. `name` may be anything; see [`safe_name`].
    ///
    /// The reads of `body` must end by themselves: `deadline` is looked at between them.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn save(&self, chat: &ChatRef, name: &str, body: &mut dyn Read, deadline: Deadline) -> Result<Saved, FileError> {
        let _busy = enter(format_args!("saving an attachment"), deadline);
        let directory = self.root.join(directory_name(chat));
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(FileError::Disk)?;
        let (path, mut file) = create(&directory, &safe_name(name)).map_err(FileError::Disk)?;
        let partial = Partial(partial_path(&path));
        let bytes = self.copy(body, &mut file, deadline)?;
        file.sync_data().map_err(FileError::Disk)?;
        fs::rename(&partial.0, &path).map_err(FileError::Disk)?;
        self.evict(&path);
        Ok(Saved { path, bytes })
    }

    fn copy(&self, body: &mut dyn Read, file: &mut File, deadline: Deadline) -> Result<u64, FileError> {
        let mut buffer = vec![0; 64 * 1024];
        let mut bytes = 0_u64;
        loop {
            if deadline.passed() {
                return Err(FileError::Timeout);
            }
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(bytes),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(FileError::Read(error)),
            };
            bytes += count as u64;
            if bytes > self.file_bytes_max {
                return Err(FileError::TooLarge(self.file_bytes_max));
            }
            file.write_all(&buffer[..count]).map_err(FileError::Disk)?;
        }
    }

    /// Removes the oldest files until all of them are within the bound; never `newest`.
    fn evict(&self, newest: &Path) {
        let mut files = Vec::new();
        for directory in entries(&self.root) {
            // Links are not followed: only what this module has made is removed.
            for path in entries(&directory) {
                if let Ok(metadata) = fs::symlink_metadata(&path)
                    && metadata.is_file()
                {
                    files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), path));
                }
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (modified, bytes, path) in files {
            let partial = path.as_os_str().as_encoded_bytes().ends_with(PARTIAL.as_bytes());
            // A clock that was set back makes a file look new; the bound on bytes still holds then.
            let abandoned = partial && modified.elapsed().is_ok_and(|age| age > PARTIAL_AGE);
            if !abandoned && (total <= self.cache_bytes_max || path == newest || partial) {
                continue;
            }
            if fs::remove_file(&path).is_ok() {
                total -= bytes;
                log::debug!("removed the attachment {}", path.display());
            }
            // Succeeds for an empty directory only.
            let _ = path.parent().map(fs::remove_dir);
        }
    }
}

/// An unfinished file, removed when dropped. Once it has been renamed there is nothing to remove.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    PathBuf::from(name)
}

/// Makes the unfinished file of a name that is free. → the final path
fn create(directory: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    let millis = clock::wall_ms();
    for number in 0..100 {
        let path = directory.join(if number == 0 { format!("{millis}-{name}") } else { format!("{millis}-{number}-{name}") });
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(partial_path(&path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => return Ok((path, file)),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "no free name"))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    if !fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.is_dir()) {
        return Vec::new();
    }
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The directory of a chat: readable, and different for different chats.
fn directory_name(chat: &ChatRef) -> String {
    let whole = format!("{}-{}", chat.adapter, chat.chat);
    let fine = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    if whole.len() <= 80 && whole.chars().all(fine) {
        return whole;
    }
    // FNV-1a keeps apart what the replacement of characters would mix up.
    let hash = whole.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let readable: String = whole.chars().map(|character| if fine(character) { character } else { '_' }).take(60).collect();
    format!("{readable}-{hash:016x}")
}

/// Longest name in bytes. File systems take 255; the time in front and the ending of unfinished files need room.
const NAME_BYTES_MAX: usize = 120;
const EXTENSION_BYTES_MAX: usize = 16;

/// Makes a name of a stranger one that can be a file's, and that a shell or a terminal does not trip over.
#[must_use]
pub fn safe_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).find(|part| !part.trim_matches(['.', ' ']).is_empty()).unwrap_or_default();
    let mut safe = String::new();
    for character in last.chars() {
        let replaced = match character {
            // Invisible characters and those that turn the direction of writing can disguise an ending.
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => continue,
            character if character.is_control() => continue,
            character if character.is_alphanumeric() || matches!(character, '.' | '-' | '_' | '+' | '@' | ',') => character,
            _ => '_',
        };
        if !(replaced == '_' && safe.ends_with('_')) {
            safe.push(replaced);
        }
    }
    let safe = safe.trim_start_matches(['.', '-']).trim_end_matches('.');
    if safe.is_empty() { "file".to_owned() } else { shorten(safe) }
}

/// Cuts a name in front of its extension.
fn shorten(name: &str) -> String {
    if name.len() <= NAME_BYTES_MAX {
        return name.to_owned();
    }
    let extension = name.rfind('.').map(|dot| &name[dot..]).filter(|extension| extension.len() <= EXTENSION_BYTES_MAX).unwrap_or_default();
    let stem = &name[..name.len() - extension.len()];
    let end = (0..=NAME_BYTES_MAX - extension.len()).rev().find(|end| stem.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{extension}", &stem[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    fn chat(id: &str) -> ChatRef {
        ChatRef { adapter: "telegram".to_owned(), chat: id.to_owned(), thread: None }
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(10))
    }

    fn all(root: &Path) -> Vec<PathBuf> {
        entries(root).iter().flat_map(|directory| entries(directory)).collect()
    }

    /// Gives some bytes, then fails.
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.min(buffer.len());
            self.0 -= count;
            if count == 0 { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(count) }
        }
    }

    #[test]
    fn names_are_made_safe() {
        let check = |input: &str, expect: &str| assert_eq!(safe_name(input), expect);
        check("report.pdf", "report.pdf");
        check("../../etc/passwd", "passwd");
        check("C:\\Users\\ana\\x.txt", "x.txt");
        check("..", "file");
        check("", "file");
        check(".bashrc", "bashrc");
        check("-rf", "rf");
        check("a b;rm $(x) \"y\".sh", "a_b_rm_x_y_.sh");
        check("photo\u{202e}gpj.exe", "photogpj.exe");
        check("Übersicht 2026.pdf", "Übersicht_2026.pdf");
        check("a\u{0}b\n.txt", "ab.txt");
        check("dir/", "dir");
        assert_eq!(safe_name(&format!("{}.tar.gz", "ä".repeat(200))).len(), NAME_BYTES_MAX - 1);
    }

    #[test]
    fn chats_do_not_share_a_directory() {
        let names = ["a:b", "a_b", "a/b", "-100123", "..", ""].map(|id| directory_name(&chat(id)));
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        assert_eq!(directory_name(&chat("-100123")), "telegram--100123");
    }

    #[test]
    fn a_file_is_saved_for_its_owner_only() {
        let root = tempfile::tempdir().expect("scratch directory");
        let files = Files::new(root.path());
        let first = files.save(&chat("1"), "a.txt", &mut "hello".as_bytes(), soon()).expect("saved");
        let second = files.save(&chat("1"), "a.txt", &mut "other".as_bytes(), soon()).expect("saved");
        assert_ne!(first.path, second.path);
        assert_eq!((fs::read_to_string(&first.path).expect("there"), first.bytes), ("hello".to_owned(), 5));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&first.path), mode(first.path.parent().expect("directory"))), (0o600, 0o700));
    }

    #[test]
    fn what_is_cut_off_leaves_nothing_behind() {
        let root = tempfile::tempdir().expect("scratch directory");
        let files = Files::with_limits(root.path(), 1000, 10_000);
        let save = |body: &mut dyn Read, deadline| files.save(&chat("1"), "a", body, deadline).expect_err("not saved");
        assert!(matches!(save(&mut Broken(500), soon()), FileError::Read(_)));
        assert!(matches!(save(&mut io::repeat(7), soon()), FileError::TooLarge(1000)));
        assert!(matches!(save(&mut io::repeat(7), Deadline::after(Duration::ZERO)), FileError::Timeout));
        assert_eq!(all(root.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_root_that_cannot_be_made_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("scratch file");
        let error = Files::new(file.path()).save(&chat("1"), "a", &mut "x".as_bytes(), soon()).expect_err("not saved");
        assert!(matches!(error, FileError::Disk(_)));
    }

    #[test]
    fn the_oldest_go_first() {
        let root = tempfile::tempdir().expect("scratch directory");
        let files = Files::with_limits(root.path(), 1000, 2500);
        let mut saved = Vec::new();
        for number in 0..5_u64 {
            let one = files.save(&chat(&number.to_string()), "a", &mut io::repeat(7).take(1000), soon()).expect("saved");
            let age = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + number);
            File::open(&one.path).and_then(|file| file.set_modified(age)).expect("time set");
            saved.push(one.path);
        }
        let there: Vec<bool> = saved.iter().map(|path| path.exists()).collect();
        assert_eq!(there, [false, false, false, true, true]);
        assert_eq!(entries(root.path()).len(), 2, "empty directories go too");
    }

    #[test]
    fn old_unfinished_files_go_and_young_ones_stay() {
        let root = tempfile::tempdir().expect("scratch directory");
        let files = Files::new(root.path());
        let saved = files.save(&chat("1"), "a", &mut "x".as_bytes(), soon()).expect("saved").path;
        let (old, young) = (saved.with_file_name("1-b.partial"), saved.with_file_name("2-b.partial"));
        File::create(&young).expect("made");
        File::create(&old).and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH)).expect("made");
        files.evict(&saved);
        assert_eq!((saved.exists(), young.exists(), old.exists()), (true, true, false));
    }

    proptest! {
        #[test]
        fn any_name_is_safe(name in "(.|/|\\\\|\\.|\n){0,300}") {
            let safe = safe_name(&name);
            prop_assert!(!safe.is_empty() && safe.len() <= NAME_BYTES_MAX);
            prop_assert!(!safe.contains(['/', '\\', '\0', '\n']) && !safe.starts_with(['.', '-']), "{}", safe);
        }
    }
}
