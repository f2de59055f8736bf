//! The schema and its migrations. Runs on the store thread while it opens.
//!
//! Migration number N brings a database from version N-1 to N; the number is SQLite's `user_version`. A migration
//! that was released is never edited: the next change is another one at the end of the list.

use rusqlite::Connection;

/// SQLite's `application_id` of our databases: "HGwy".
pub(super) const APPLICATION_ID: i32 = 0x4847_7779;

pub(super) const MIGRATIONS: &[&str] = &[V1, V2, V3];

/// States are words so that a person can read them with `sqlite3`. Partial indexes hold the open rows alone, so that
/// what is unfinished is found without reading what is done, and a commit touches few pages.
const V1: &str = "
PRAGMA application_id = 0x48477779;

-- Scratch for probing whether the disk takes writes again.
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- Where each adapter continues to receive, in its platform's words.
CREATE TABLE cursors(adapter TEXT PRIMARY KEY, cursor TEXT NOT NULL) WITHOUT ROWID;

-- Chats as small numbers, for the table below.
CREATE TABLE chats(id INTEGER PRIMARY KEY, adapter TEXT NOT NULL, chat TEXT NOT NULL, UNIQUE(adapter, chat));

-- Every message ever accepted: the guard against duplicates. Never pruned.
CREATE TABLE seen(
  chat INTEGER NOT NULL, message_id TEXT NOT NULL, inbox INTEGER NOT NULL,
  PRIMARY KEY(chat, message_id)
) WITHOUT ROWID;

-- Accepted messages. state: waiting, running, done. turn: the one it began or steers.
CREATE TABLE inbox(
  id INTEGER PRIMARY KEY, state TEXT NOT NULL, turn INTEGER, received_ms INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE INDEX inbox_open ON inbox(turn) WHERE state <> 'done';

-- epoch: raised by /new. The figures are of the current epoch.
CREATE TABLE sessions(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch INTEGER NOT NULL DEFAULT 0,
  started_ms INTEGER NOT NULL DEFAULT 0, turns INTEGER NOT NULL DEFAULT 0,
  input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,
  cache_read_tokens INTEGER NOT NULL DEFAULT 0, cache_write_tokens INTEGER NOT NULL DEFAULT 0
);

-- state: running, done, cancelled, failed, interrupted. inbox: the message that began it.
CREATE TABLE turns(
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, epoch INTEGER NOT NULL, inbox INTEGER NOT NULL,
  state TEXT NOT NULL, attempt INTEGER NOT NULL, started_ms INTEGER NOT NULL, ended_ms INTEGER, preview TEXT
);
CREATE INDEX turns_running ON turns(id) WHERE state = 'running';

-- The transcripts. created_ms is the start of the turn, so that the messages of a turn grow old together.
CREATE TABLE messages(
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL REFERENCES sessions(id), epoch INTEGER NOT NULL,
  turn INTEGER NOT NULL, role TEXT NOT NULL, created_ms INTEGER NOT NULL, blocks TEXT NOT NULL
);
CREATE INDEX messages_session ON messages(session, epoch);

-- state: pending, sending, sent, failed. part: the one being attempted while sending. doubtful: an attempt at the
-- next part ended nobody knows how. attempts: at the next part.
CREATE TABLE outbox(
  id INTEGER PRIMARY KEY, state TEXT NOT NULL, part INTEGER, doubtful INTEGER NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0, not_before_ms INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL,
  key TEXT NOT NULL, sent_parts TEXT NOT NULL DEFAULT '[]', error TEXT, body TEXT NOT NULL
);
CREATE INDEX outbox_open ON outbox(id) WHERE state IN ('pending', 'sending');
CREATE INDEX outbox_dead ON outbox(id) WHERE state = 'failed';

-- Keys of what may be enqueued once only. Never pruned.
CREATE TABLE enqueued(key TEXT PRIMARY KEY, enqueued_ms INTEGER NOT NULL) WITHOUT ROWID;

-- Questions to people. state: pending, approved, denied, expired, cancelled.
CREATE TABLE approvals(
  id INTEGER PRIMARY KEY, turn INTEGER NOT NULL, state TEXT NOT NULL, asked_ms INTEGER NOT NULL,
  settled_ms INTEGER, settled_by TEXT, body TEXT NOT NULL
);
CREATE INDEX approvals_open ON approvals(turn) WHERE state = 'pending';
";

/// Scheduled jobs. Numbers of jobs are not used again: people remember them.
const V2: &str = "
-- state: active, paused, ended. last_slot_ms: the last time that was decided upon. request: the key that made it.
CREATE TABLE jobs(
  id INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT NOT NULL, created_ms INTEGER NOT NULL, last_slot_ms INTEGER NOT NULL,
  request TEXT UNIQUE, body TEXT NOT NULL
);

-- state: started, done, failed, interrupted, skipped. slot_ms: NULL beside the times. inbox: the message it began with.
CREATE TABLE runs(
  id INTEGER PRIMARY KEY, job INTEGER NOT NULL, slot_ms INTEGER, state TEXT NOT NULL, inbox INTEGER,
  started_ms INTEGER NOT NULL, ended_ms INTEGER, detail TEXT, request TEXT UNIQUE, UNIQUE(job, slot_ms)
);
CREATE INDEX runs_started ON runs(inbox) WHERE state = 'started';
";

/// What adapters remember. A memo that is written again gets a new id: the lowest ids are the oldest.
const V3: &str = "
CREATE TABLE memos(
  id INTEGER PRIMARY KEY, adapter TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, UNIQUE(adapter, key)
);
";

/// The version of the database; 0 for an empty one.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", (), |row| row.get(0))
}

/// Brings the database to the last version of `migrations`, each step in a transaction of its own.
pub(super) fn migrate(connection: &Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let from = version(connection)?;
    for (step, number) in migrations.iter().zip(1_i64..).filter(|(_, number)| *number > from) {
        let result = connection.execute_batch(&format!("BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT"));
        if result.is_err() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        result?;
        if from > 0 {
            log::info!(target: "store", "schema migrated from version {} to {number}", number - 1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(connection: &Connection) -> Vec<String> {
        let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").expect("sql");
        statement.query_map((), |row| row.get(0)).expect("sql").collect::<Result<_, _>>().expect("rows")
    }

    #[test]
    fn steps_run_once_each_in_order() {
        let connection = Connection::open_in_memory().expect("opens");
        let steps = ["CREATE TABLE one(x)", "CREATE TABLE two(x); INSERT INTO one VALUES(1)", "ALTER TABLE one ADD COLUMN y"];
        migrate(&connection, &steps[..1]).expect("first release");
        connection.execute("INSERT INTO one VALUES(7)", ()).expect("used");
        migrate(&connection, &steps).expect("third release");
        migrate(&connection, &steps).expect("nothing to do");
        assert_eq!(version(&connection), Ok(3));
        assert_eq!(names(&connection), ["one", "two"]);
        assert_eq!(connection.query_row("SELECT count(*), count(y) FROM one", (), |row| Ok((row.get(0)?, row.get(1)?))), Ok((2, 0)));
    }

    #[test]
    fn a_step_that_fails_leaves_the_version_before_it() {
        let connection = Connection::open_in_memory().expect("opens");
        let steps = ["CREATE TABLE one(x)", "CREATE TABLE two(x); CREATE TABLE one(again)", "CREATE TABLE three(x)"];
        migrate(&connection, &steps).expect_err("second step");
        assert!(connection.is_autocommit());
        assert_eq!(version(&connection), Ok(1));
        assert_eq!(names(&connection), ["one"]);
    }

    #[test]
    fn open_rows_are_found_through_the_partial_indexes() {
        let connection = Connection::open_in_memory().expect("opens");
        migrate(&connection, MIGRATIONS).expect("migrates");
        let check = |sql: &str, index: &str| {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect(sql);
            let plan: Vec<String> = statement.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>().expect("plan");
            assert!(plan.iter().any(|line| line.contains(index)), "{sql}: {plan:?}");
        };
        check(crate::store::recover::RUNNING, "turns_running");
        check(crate::store::recover::WAITING, "inbox_open");
        check(crate::store::recover::PENDING, "outbox_open");
        check(crate::store::recover::APPROVALS, "approvals_open");
        check(crate::store::upkeep::COUNT_WAITING, "inbox_open");
        check(crate::store::upkeep::COUNT_PENDING, "outbox_open");
        check(crate::store::upkeep::COUNT_DEAD, "outbox_dead");
        check(crate::store::turns::CLOSE_INBOX_OF_TURN, "inbox_open");
        check(crate::store::approvals::CANCEL_OF_TURN, "approvals_open");
        check(crate::store::schedule::CLOSE_OF_TURN, "runs_started");
        check(crate::store::sessions::TRANSCRIPT, "messages_session");
    }
}
