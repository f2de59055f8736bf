//! The table of processes, read from `/proc`, and the question who belongs to which tree.
//!
//! Called by any thread. Only `stat` files are read for the table: reading them never blocks. The environment of a
//! process is read for orphans alone, because the kernel may make the reader wait for that process's memory lock.

use super::system::ProcessId;
use crate::limits;
use std::collections::HashSet;
use std::io::Read;

/// The variable that marks every process started for a tool: `STATE-RUN:TREE`.
pub const MARK_VARIABLE: &str = "HERMES_GATEWAY_INSTANCE";

/// One process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: ProcessId,
    pub parent: ProcessId,
    pub group: ProcessId,
    pub session: ProcessId,
    /// `R`, `S`, `D`, `T`, `Z` …
    pub state: u8,
    pub threads: u32,
    /// Clock ticks since boot; with the pid it names a process for ever.
    pub start_ticks: u64,
    /// Clock ticks of CPU time, reaped children included.
    pub cpu_ticks: u64,
}

impl Process {
    pub fn alive(&self) -> bool {
        // A process whose main thread has left before the others shows as a zombie too.
        !matches!(self.state, b'Z' | b'X') || self.threads > 1
    }
}

/// Parses a line of `/proc/PID/stat` (proc(5)). The name in parentheses may hold any byte, also `)`.
fn parse_stat(line: &[u8]) -> Option<Process> {
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(line.get(..open)?).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field 3 of the manual (state) is the first after the name.
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    let id = |field: usize| ProcessId::try_from(number(field)?).ok();
    let ticks = |field: usize| number(field).and_then(|value| u64::try_from(value).ok());
    Some(Process {
        pid,
        state: *fields.first()?.as_bytes().first()?,
        parent: id(4)?,
        group: id(5)?,
        session: id(6)?,
        // Saturating: utime and stime, and those of waited-for children, which the manual gives as signed.
        cpu_ticks: [14, 15, 16, 17].into_iter().fold(0, |sum: u64, field| sum.saturating_add(ticks(field).unwrap_or(0))),
        threads: u32::try_from(number(20)?).ok()?,
        start_ticks: ticks(22)?,
    })
}

/// The process with this number; `None` if there is none.
pub(super) fn read_process(pid: ProcessId) -> Option<Process> {
    let mut file = std::fs::File::open(format!("/proc/{pid}/stat")).ok()?;
    // A stat line has about 300 bytes; the name is at most 64.
    let mut line = [0; 1024];
    let length = file.read(&mut line).ok()?;
    parse_stat(&line[..length])
}

/// How often the table is read, if a process that was listed is gone when it is looked at.
const READINGS_MAX: usize = 3;

/// All processes that this one may see. Not atomic: whoever forks while it is taken may be missed.
///
/// The kernel lists many numbers at once, and each is looked at later. A process that starts its successor and ends in
/// between would be missed together with it. So the youngest, which may be such ones, are looked at first, and if
/// anybody was gone the table is read again.
pub(super) fn snapshot() -> Vec<Process> {
    let mut table = Vec::new();
    for _ in 0..READINGS_MAX {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let mut numbers: Vec<ProcessId> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<ProcessId>().ok()).collect();
        numbers.sort_unstable_by_key(|number| std::cmp::Reverse(*number));
        table = numbers.iter().filter_map(|number| read_process(*number)).collect();
        if table.len() == numbers.len() {
            break;
        }
    }
    table.reverse();
    table
}

/// The mark in a process's environment as it was at its last exec. `None`: none, or not to be read.
pub(super) fn mark_of(pid: ProcessId) -> Option<String> {
    let file = std::fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    let mut block = Vec::new();
    file.take(limits::ENVIRON_BYTES_MAX as u64).read_to_end(&mut block).ok()?;
    let prefix = format!("{MARK_VARIABLE}=");
    let entry = block.split(|byte| *byte == 0).find(|entry| entry.starts_with(prefix.as_bytes()))?;
    String::from_utf8(entry[prefix.len()..].to_vec()).ok()
}

/// Adds to `members` everybody who descends from one of them, to any depth.
pub(super) fn add_descendants(table: &[Process], members: &mut HashSet<ProcessId>) {
    loop {
        let before = members.len();
        for process in table {
            if members.contains(&process.parent) {
                members.insert(process.pid);
            }
        }
        if members.len() == before {
            return;
        }
    }
}

/// The ancestors of a process, nearest first, itself not included.
pub(super) fn ancestors(pid: ProcessId) -> Vec<ProcessId> {
    let mut chain = Vec::new();
    let mut current = pid;
    // A chain cannot be longer than that; the bound is for a table that changes while it is walked.
    while chain.len() < 4096 {
        match read_process(current) {
            Some(process) if process.parent > 0 && !chain.contains(&process.parent) => {
                current = process.parent;
                chain.push(current);
            }
            _ => break,
        }
    }
    chain
}

/// The processes that belong to the tree of `leader`: its session, its group and their descendants, living or not.
pub(super) fn kin(table: &[Process], leader: ProcessId) -> HashSet<ProcessId> {
    let related = |process: &&Process| process.pid == leader || process.group == leader || process.session == leader;
    let mut members: HashSet<ProcessId> = table.iter().filter(related).map(|process| process.pid).collect();
    add_descendants(table, &mut members);
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: ProcessId, parent: ProcessId, group: ProcessId, session: ProcessId) -> Process {
        Process { pid, parent, group, session, state: b'S', threads: 1, start_ticks: 1, cpu_ticks: 0 }
    }

    #[test]
    fn a_stat_line_is_parsed_whatever_the_name() {
        let line = b"42 (a) b (c)) S 7 42 40 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 987 1000 5 18446744073709551615 1 1";
        let expect = Process { pid: 42, parent: 7, group: 42, session: 40, state: b'S', threads: 1, start_ticks: 987, cpu_ticks: 100 };
        assert_eq!(parse_stat(line), Some(expect));
        for bad in [&b""[..], b"42", b"42 (x", b"42 (x) S 1", b"x (x) S 1 1 1 0 0 0"] {
            assert_eq!(parse_stat(bad), None);
        }
    }

    #[test]
    fn kin_are_session_group_and_descendants_and_nobody_else() {
        let table = [
            process(1, 0, 1, 1),
            process(10, 1, 10, 10),
            process(20, 10, 20, 20),
            process(21, 20, 21, 20),
            process(22, 21, 22, 22),
            process(23, 22, 22, 22),
            process(30, 10, 30, 30),
            process(31, 30, 30, 30),
            process(24, 10, 20, 20),
        ];
        let mut members: Vec<ProcessId> = kin(&table, 20).into_iter().collect();
        members.sort_unstable();
        assert_eq!(members, [20, 21, 22, 23, 24]);
    }

    #[test]
    fn this_process_is_in_the_table_with_its_ancestors() {
        let own = super::super::system::own_pid();
        let found = read_process(own).expect("this process exists");
        assert!(found.alive() && snapshot().iter().any(|process| process.pid == own && process.start_ticks == found.start_ticks));
        assert_eq!(ancestors(own).first(), Some(&found.parent));
        assert_eq!(read_process(ProcessId::MAX), None);
    }
}
