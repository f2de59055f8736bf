//! Opening the database: files, integrity, settings, migrations. Runs on the store thread, at its start.
//!
//! Nothing is ever discarded here: a damaged or foreign file is refused with the remedy, and left as it is.

use super::schema;
use crate::clock::Deadline;
use crate::limits;
use crate::thread::SpawnError;
use crossbeam_channel::Sender;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why the database could not be opened, with the remedy in its text.
#[derive(Debug)]
pub enum OpenError {
    DirectoryMissing {
        directory: PathBuf,
        cause: String,
    },
    NotWritable {
        path: PathBuf,
        cause: String,
    },
    DiskFull {
        path: PathBuf,
    },
    /// Kept as it is.
    Corrupt {
        path: PathBuf,
        detail: String,
    },
    /// A file of another program.
    Foreign {
        path: PathBuf,
        detail: String,
    },
    /// Written by a newer release.
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    Locked {
        path: PathBuf,
    },
    Failed {
        path: PathBuf,
        cause: String,
    },
    Timeout {
        path: PathBuf,
    },
    /// The token was cancelled meanwhile.
    Cancelled,
    /// The thread ended by a defect; the log has the panic.
    Ended,
    Thread(SpawnError),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DirectoryMissing { directory, cause } => {
                let directory = directory.display();
                write!(f, "no directory {directory} for the database ({cause}); create it, or name another one with --state-dir")
            }
            Self::NotWritable { path, cause } => write!(
                f,
                "{} cannot be written ({cause}); check the owner and mode of the file and its directory, and that the file \
                 system is not mounted read-only",
                path.display()
            ),
            Self::DiskFull { path } => write!(f, "no space left for {}; free some, then start again", path.display()),
            Self::Corrupt { path, detail } => {
                let path = path.display();
                write!(
                    f,
                    "{path} is damaged ({detail}); it was left as it is. Recover it: sqlite3 {path} .recover | sqlite3 {path}.new, then put \
                     {path}.new in its place and remove {path}-wal and {path}-shm. \
                     Or start empty, without the messages and transcripts in it: move {path}, {path}-wal and {path}-shm away"
                )
            }
            Self::Foreign { path, detail } => {
                write!(f, "{} is not a database of hermes-gateway ({detail}); name another directory with --state-dir", path.display())
            }
            Self::Newer { path, found, known } => write!(
                f,
                "{} was written by a newer release (schema {found}, this one knows {known}); install that release again",
                path.display()
            ),
            Self::Locked { path } => {
                write!(f, "{} is locked by another program (an open sqlite3 shell?); close that program", path.display())
            }
            Self::Failed { path, cause } => write!(f, "cannot open {}: {cause}", path.display()),
            Self::Timeout { path } => {
                write!(f, "{} did not open in time: its disk does not answer; look at the kernel's log", path.display())
            }
            Self::Cancelled => f.write_str("cancelled while the database was being opened"),
            Self::Ended => f.write_str("the store thread ended while it opened the database; the log says why"),
            Self::Thread(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

/// How far the opening is, for the thread that waits for it and holds the clock.
pub(super) enum Step {
    /// There is something to interrupt.
    Connected(InterruptHandle),
    /// To be interrupted at this time.
    Checking(Deadline),
    Checked,
    Open,
    Failed(Box<OpenError>),
}

/// SQLite keeps its log and its index beside the database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn database(path: &Path, migrations: &[&str], steps: &Sender<Step>) -> Result<Connection, OpenError> {
    let unclean = prepare_files(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| sort(path, &error))?;
    // Room for all steps; a full queue would mean that nobody waits any more.
    let _ = steps.try_send(Step::Connected(connection.get_interrupt_handle()));
    let sort = |error: rusqlite::Error| sort(path, &error);
    connection.busy_timeout(limits::STORE_LOCK_WAIT).map_err(sort)?;
    let version = refuse_foreign(path, &connection, migrations.len())?;
    configure(&connection, version == 0).map_err(sort)?;
    match connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get::<_, String>(0)).map_err(sort)?.as_str() {
        "wal" => (),
        mode => {
            let cause = format!("its file system cannot keep a write-ahead log (journal mode {mode}); a local disk can");
            return Err(OpenError::Failed { path: path.to_owned(), cause });
        }
    }
    if version > 0 {
        let time = if unclean { limits::STORE_CHECK } else { limits::STORE_CHECK_CLEAN };
        let _ = steps.try_send(Step::Checking(Deadline::after(time)));
        let intact = check(path, &connection);
        let _ = steps.try_send(Step::Checked);
        intact?;
    }
    // The interrupt that ends the check may come an instant too late for it, and hit this instead: once, then.
    let migrated = schema::migrate(&connection, migrations);
    let interrupted = |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted);
    match migrated {
        Err(error) if interrupted(&error) => schema::migrate(&connection, migrations),
        other => other,
    }
    .map_err(sort)?;
    Ok(connection)
}

/// Creates what is missing with the right modes. → whether the last process left its log behind.
fn prepare_files(path: &Path) -> Result<bool, OpenError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let missing = |cause: String| OpenError::DirectoryMissing { directory: directory.to_owned(), cause };
    match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => (),
        Ok(_) => return Err(missing("there is something else of that name".to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let created = std::fs::DirBuilder::new().mode(0o700).create(directory);
            created.map_err(|error| missing(error.to_string()))?;
        }
        Err(error) => return Err(missing(error.to_string())),
    }
    let known = match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            return Err(OpenError::Failed { path: path.to_owned(), cause: "it is not a regular file".to_owned() });
        }
        Ok(_) => true,
        Err(_) => false,
    };
    let options = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
    let mut file = options.open(path).map_err(|error| sort_io(path, &error))?;
    let log = std::fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len());
    check_header(path, &mut file, log)?;
    if !known {
        // Its name must be as durable as what will be in it.
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| sort_io(path, &error))?;
    }
    for suffix in ["", "-wal", "-shm"] {
        make_private(&beside(path, suffix));
    }
    Ok(log > 0)
}

/// A file that others could read so far is closed to them. Not being allowed to is worth a line, not a refusal.
fn make_private(path: &Path) {
    let Ok(found) = std::fs::metadata(path) else { return };
    if found.permissions().mode() & 0o077 != 0 {
        match std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
            Ok(()) => log::info!(target: "store", "{} was readable by others; mode is 0600 now", path.display()),
            Err(error) => log::warn!(target: "store", "{} is readable by others and cannot be changed: {error}", path.display()),
        }
    }
}

/// What SQLite would take for a new database although there was one: it would silently start empty.
fn check_header(path: &Path, file: &mut std::fs::File, log_bytes: u64) -> Result<(), OpenError> {
    /// The first bytes of every SQLite database (file format, "The Database Header").
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let corrupt = |detail: &str| Err(OpenError::Corrupt { path: path.to_owned(), detail: detail.to_owned() });
    let mut header = Vec::with_capacity(MAGIC.len());
    file.take(MAGIC.len() as u64).read_to_end(&mut header).map_err(|error| sort_io(path, &error))?;
    match header.as_slice() {
        [] if log_bytes > 0 => corrupt("it is empty, but its write-ahead log is not"),
        [] => Ok(()),
        found if found == MAGIC => Ok(()),
        found if found.iter().all(|byte| *byte == 0) => corrupt("it begins with zeroes"),
        _ => corrupt("it does not begin like an SQLite database"),
    }
}

/// → the version of the schema, 0 for a new database.
fn refuse_foreign(path: &Path, connection: &Connection, known: usize) -> Result<i64, OpenError> {
    let sort = |error: rusqlite::Error| sort(path, &error);
    let version = schema::version(connection).map_err(sort)?;
    let application: i32 = connection.query_row("PRAGMA application_id", (), |row| row.get(0)).map_err(sort)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0)).map_err(sort)?;
    if application != schema::APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
        let detail = format!("application id {application:#x}, {tables} tables and indexes");
        return Err(OpenError::Foreign { path: path.to_owned(), detail });
    }
    let known = i64::try_from(known).unwrap_or(i64::MAX);
    if version > known {
        return Err(OpenError::Newer { path: path.to_owned(), found: version, known });
    }
    if connection.is_readonly("main").map_err(sort)? {
        return Err(OpenError::NotWritable { path: path.to_owned(), cause: "it opens for reading only".to_owned() });
    }
    Ok(version)
}

fn configure(connection: &Connection, new: bool) -> rusqlite::Result<()> {
    if new {
        // Both have an effect before the first page is written only.
        connection.execute_batch(&format!("PRAGMA page_size = {}; PRAGMA auto_vacuum = INCREMENTAL", limits::STORE_PAGE_BYTES))?;
    }
    connection.execute_batch(&format!(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -{cache}; \
         PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA wal_autocheckpoint = {pages}; PRAGMA journal_size_limit = {log}",
        cache = limits::STORE_CACHE_BYTES / 1024,
        pages = limits::STORE_LOG_PAGES_MAX,
        log = limits::STORE_LOG_BYTES,
    ))?;
    // Closing must not begin a checkpoint of its own: that one could not be interrupted.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(())
}

/// Looks through the file until it is done or interrupted.
fn check(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let result = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get::<_, String>(0));
    match result {
        Ok(answer) if answer == "ok" => Ok(()),
        Ok(detail) => Err(OpenError::Corrupt { path: path.to_owned(), detail: detail.replace('\n', " ") }),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            log::info!(target: "store", "integrity check of {} stopped after its time; no damage found so far", path.display());
            Ok(())
        }
        Err(error) => Err(sort(path, &error)),
    }
}

fn sort_io(path: &Path, error: &std::io::Error) -> OpenError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => OpenError::NotWritable { path, cause: error.to_string() },
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => OpenError::DiskFull { path },
        _ => OpenError::Failed { path, cause: error.to_string() },
    }
}

fn sort(path: &Path, error: &rusqlite::Error) -> OpenError {
    let cause = error.to_string();
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => OpenError::Corrupt { path, detail: cause },
        Some(ErrorCode::DiskFull) => OpenError::DiskFull { path },
        // SQLite does not say why it could not make the log's index.
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) if no_space(&path) => OpenError::DiskFull { path },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => OpenError::NotWritable { path, cause },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Locked { path },
        _ => OpenError::Failed { path, cause },
    }
}

fn no_space(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path)
        .is_ok_and(|system| system.blocks_available() == 0 || (system.files() > 0 && system.files_available() == 0))
}
