//! What is found when the database is opened: nothing, damage, another program's file, another release's.

use super::*;
use crate::store::OpenError;
use std::os::unix::fs::PermissionsExt;

fn try_open(path: &Path) -> Result<(StoreHandle, StoreThread), OpenError> {
    crate::store::open(path, &Threads::new(), CancelToken::new(), soon())
}

/// A closed store with a message in it.
fn used(directory: &Path) -> PathBuf {
    let path = directory.join("state.db");
    let (handle, thread) = open_store(&path);
    for number in 0..50 {
        handle.call(accept(&number.to_string(), None), soon()).expect("accepted");
    }
    assert!(thread.close(soon()));
    path
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn files_are_private() {
    let scratch = tempfile::tempdir().expect("scratch");
    let path = scratch.path().join("state").join("state.db");
    let (handle, thread) = open_store(&path);
    handle.call(accept("m1", None), soon()).expect("accepted");
    assert_eq!(mode(path.parent().expect("parent")), 0o700);
    for suffix in ["", "-wal", "-shm"] {
        assert_eq!(mode(&open::beside(&path, suffix)), 0o600, "{suffix}");
    }
    assert!(thread.close(soon()));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
    let (_handle, _thread) = open_store(&path);
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn settings_are_as_promised() {
    let scratch = tempfile::tempdir().expect("scratch");
    let (engine, _) = engine(&scratch.path().join("state.db"));
    let check = |pragma: &str, expect: &str| {
        let read = |row: &rusqlite::Row<'_>| row.get::<_, rusqlite::types::Value>(0);
        let value = engine.connection.query_row(&format!("PRAGMA {pragma}"), (), read).expect(pragma);
        let text = match value {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => panic!("{pragma}: {other:?}"),
        };
        assert_eq!(text, expect, "{pragma}");
    };
    check("journal_mode", "wal");
    check("synchronous", "2");
    check("foreign_keys", "1");
    check("auto_vacuum", "2");
    check("page_size", &crate::limits::STORE_PAGE_BYTES.to_string());
    check("cache_size", "-256");
    check("mmap_size", "0");
    check("temp_store", "2");
    check("user_version", &schema::MIGRATIONS.len().to_string());
    check("application_id", &schema::APPLICATION_ID.to_string());
    check("integrity_check", "ok");
}

#[test]
fn what_cannot_be_opened_is_refused_with_the_remedy() {
    let check = |name: &str, prepare: &dyn Fn(&Path) -> PathBuf, expect: &dyn Fn(&OpenError) -> bool, remedy: &str| {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = prepare(scratch.path());
        let before = std::fs::read(&path).ok();
        let Err(error) = try_open(&path) else { panic!("{name}: opened") };
        assert!(expect(&error), "{name}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(remedy), "{name}: {text}");
        assert_eq!(std::fs::read(&path).ok(), before, "{name}: the file was changed");
    };
    check(
        "no directory",
        &|scratch| scratch.join("a/b/state.db"),
        &|error| matches!(error, OpenError::DirectoryMissing { .. }),
        "--state-dir",
    );
    check(
        "a file for a directory",
        &|scratch| {
            std::fs::write(scratch.join("a"), "x").expect("written");
            scratch.join("a/state.db")
        },
        &|error| matches!(error, OpenError::DirectoryMissing { .. }),
        "--state-dir",
    );
    check(
        "a directory for a file",
        &|scratch| {
            std::fs::create_dir(scratch.join("state.db")).expect("made");
            scratch.join("state.db")
        },
        &|error| matches!(error, OpenError::Failed { .. }),
        "not a regular file",
    );
    check(
        "another program's database",
        &|scratch| {
            let path = scratch.join("state.db");
            rusqlite::Connection::open(&path).expect("opens").execute_batch("CREATE TABLE theirs(x)").expect("made");
            path
        },
        &|error| matches!(error, OpenError::Foreign { .. }),
        "another directory",
    );
    check(
        "a newer release's",
        &|scratch| {
            let path = used(scratch);
            rusqlite::Connection::open(&path).expect("opens").execute_batch("PRAGMA user_version = 99").expect("set");
            path
        },
        &|error| matches!(error, OpenError::Newer { found: 99, .. }),
        "newer release",
    );
    check("text", &|scratch| written(scratch, b"once upon a time"), &|error| matches!(error, OpenError::Corrupt { .. }), ".recover");
    check("zeroes", &|scratch| written(scratch, &[0; 4096]), &|error| matches!(error, OpenError::Corrupt { .. }), ".recover");
    check(
        "cut",
        &|scratch| {
            let path = used(scratch);
            let whole = std::fs::read(&path).expect("read");
            written(scratch, &whole[..whole.len() / 2])
        },
        &|error| matches!(error, OpenError::Corrupt { .. }),
        "left as it is",
    );
    check(
        "overwritten in the middle",
        &|scratch| {
            let path = used(scratch);
            let mut whole = std::fs::read(&path).expect("read");
            let page = crate::limits::STORE_PAGE_BYTES as usize;
            let pages = whole.len() / page;
            whole[(pages / 2) * page..(pages / 2 + 8) * page].fill(0x5a);
            written(scratch, &whole)
        },
        &|error| matches!(error, OpenError::Corrupt { .. }),
        ".recover",
    );
    check(
        "emptied beside its log",
        &|scratch| {
            std::fs::write(scratch.join("state.db-wal"), [1; 100]).expect("written");
            written(scratch, b"")
        },
        &|error| matches!(error, OpenError::Corrupt { .. }),
        "write-ahead log",
    );
}

fn written(scratch: &Path, bytes: &[u8]) -> PathBuf {
    let path = scratch.join("state.db");
    std::fs::write(&path, bytes).expect("written");
    path
}

#[test]
fn a_directory_that_cannot_be_written_is_said() {
    let scratch = tempfile::tempdir().expect("scratch");
    let inner = scratch.path().join("state");
    std::fs::create_dir(&inner).expect("made");
    std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o500)).expect("set");
    // Root may write there all the same; the kernel's own directories are closed to root as well.
    let path = if nix::unistd::geteuid().is_root() { PathBuf::from("/proc/state.db") } else { inner.join("state.db") };
    let Err(error) = try_open(&path) else { panic!("opened") };
    assert!(matches!(error, OpenError::NotWritable { .. } | OpenError::Failed { .. }), "{error:?}");
    std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o700)).expect("set");
}

#[test]
fn an_empty_file_and_a_half_made_database_are_new_ones() {
    let scratch = tempfile::tempdir().expect("scratch");
    let path = written(scratch.path(), b"");
    // A creation that was cut short after the settings, before the tables.
    let connection = rusqlite::Connection::open(&path).expect("opens");
    connection.execute_batch("PRAGMA page_size = 1024; PRAGMA auto_vacuum = INCREMENTAL").expect("set");
    connection.query_row("PRAGMA journal_mode = WAL", (), |row| row.get::<_, String>(0)).expect("set");
    drop(connection);
    let (handle, _thread) = open_store(&path);
    assert!(handle.call(accept("m1", None), soon()).is_ok());
}

#[test]
fn the_database_of_the_release_before_is_migrated() {
    let scratch = tempfile::tempdir().expect("scratch");
    let path = used(scratch.path());
    let next = [schema::MIGRATIONS, &["ALTER TABLE inbox ADD COLUMN mood TEXT; UPDATE inbox SET mood = 'fine'"]].concat();
    let (steps, _receiver) = bounded(8);
    let connection = open::database(&path, &next, &steps).expect("migrates");
    let fine = "SELECT count(*) FROM inbox WHERE mood = 'fine'";
    assert_eq!(connection.query_row(fine, (), |row| row.get(0)), Ok(50));
    drop(connection);
    // And the release before says so when it finds the new one.
    assert!(matches!(try_open(&path), Err(OpenError::Newer { found, known, .. }) if found == known + 1));
}

#[test]
fn a_shell_beside_the_store_may_read() {
    let store = Fixture::new();
    store.accept("m1");
    let shell = rusqlite::Connection::open(store.path()).expect("opens");
    assert_eq!(shell.query_row("SELECT count(*) FROM inbox", (), |row| row.get(0)), Ok(1));
    store.accept("m2");
    assert_eq!(shell.query_row("SELECT count(*) FROM inbox", (), |row| row.get(0)), Ok(2));
}
