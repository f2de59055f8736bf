//! SIGKILL at any instant: what was acknowledged is there, and nothing is there by half.
//!
//! The test starts this test binary again; the environment tells that one to be the victim.

use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

const VICTIM: &str = "HERMES_STORE_TEST_VICTIM";
const ROUNDS: u32 = 20;
const WORKERS: i64 = 4;

/// Takes messages through a turn as fast as the disk allows, and says so after each answer, until it is killed.
#[test]
fn victim() {
    let Ok(path) = std::env::var(VICTIM) else { return };
    let (handle, _thread) = open_store(Path::new(&path));
    let first = match handle.call(Op::Recover { now_ms: 0 }, soon()) {
        Ok(Outcome::Recovered(recovered)) => recovered.last_turn + 1,
        other => panic!("{other:?}"),
    };
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let handle = handle.clone();
            scope.spawn(move || {
                for number in 0.. {
                    let turn = first + worker + number * WORKERS;
                    let inbox = inbox_of(handle.call(accept(&turn.to_string(), Some(start(turn))), soon()).expect("accepted"));
                    say(&format!("accepted {turn} {inbox}\n"));
                    match handle.call(finish(turn, &["reply"]), soon()) {
                        Ok(Outcome::Finished { queued }) => say(&format!("finished {turn} {}\n", queued[0])),
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
    });
}

/// In one piece, so that no line is torn but by the kill itself.
fn say(line: &str) {
    std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent listens");
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let scratch = tempfile::tempdir().expect("scratch");
    let path = scratch.path().join("state.db");
    let mut acknowledged: Vec<(String, i64, i64)> = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", "store::tests::crash::victim", "--nocapture", "--test-threads=1"])
            .env(VICTIM, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        // The kill comes some lines into the work: a different number of them, and a different part of a commit, each time.
        let mut text = String::new();
        let enough = 1 + fastrand::usize(..60);
        while text.matches('\n').count() < 4 + enough {
            assert!(lines.read_line(&mut text).expect("reads") > 0, "round {round}: the victim ended by itself: {text}");
        }
        std::thread::sleep(Duration::from_micros(fastrand::u64(..3000)));
        child.kill().expect("killed");
        lines.read_to_string(&mut text).expect("reads");
        child.wait().expect("reaped");
        let whole = text.rsplit_once('\n').map_or("", |(whole, _torn)| whole);
        for line in whole.lines() {
            // The harness prints its own lines before the first of ours.
            let line = &line[line.find("accepted ").or(line.find("finished ")).unwrap_or(0)..];
            if let [what, turn, id] = line.split(' ').collect::<Vec<_>>()[..]
                && let (Ok(turn), Ok(id)) = (turn.parse(), id.parse())
            {
                acknowledged.push((what.to_owned(), turn, id));
            }
        }
        check_database(&path, &acknowledged, round);
    }
    assert!(acknowledged.len() > ROUNDS as usize, "{}", acknowledged.len());
}

fn check_database(path: &Path, acknowledged: &[(String, i64, i64)], round: u32) {
    let (handle, thread) = open_store(path);
    for (what, turn, id) in acknowledged {
        match what.as_str() {
            "accepted" => {
                let again = handle.call(accept(&turn.to_string(), None), soon());
                assert_eq!(again, Ok(Outcome::Duplicate { inbox: *id }), "round {round}: turn {turn}");
            }
            _ => {
                let row = handle.call(Op::LoadOutbox { outbox: *id }, soon());
                assert!(matches!(row, Ok(Outcome::Outbox(Some(_)))), "round {round}: reply of turn {turn}: {row:?}");
            }
        }
    }
    assert!(thread.close(soon()));
    let connection = rusqlite::Connection::open(path).expect("opens");
    let count = |sql: &str| connection.query_row(sql, (), |row| row.get::<_, i64>(0)).expect(sql);
    assert_eq!(connection.query_row("PRAGMA integrity_check", (), |row| row.get::<_, String>(0)), Ok("ok".to_owned()));
    // All of an operation or nothing of it.
    assert_eq!(count("SELECT count(*) FROM turns"), count("SELECT count(*) FROM inbox"));
    assert_eq!(count("SELECT count(*) FROM turns WHERE state = 'done'"), count("SELECT count(*) FROM outbox"));
    assert_eq!(count("SELECT count(*) FROM turns WHERE state = 'running'"), count("SELECT count(*) FROM inbox WHERE state = 'running'"));
    let messages = count("SELECT count(*) + (SELECT count(*) FROM outbox) FROM turns");
    assert_eq!(count("SELECT count(*) FROM messages"), messages);
}
