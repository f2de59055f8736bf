//! The ends of everything: all trees at the stop, everything at once for the guardian, and what a killed predecessor
//! has left behind. Also the question whether somebody is one of our tools' processes.

use super::ending::signal_checked;
use super::system::{self, ProcessId};
use super::table::{self, Process};
use super::{Children, EndReport};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::thread::{self, CancelToken};
use crossbeam_channel::bounded;
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// FNV-1a, 64 bits. Must give the same in every version of the program: a successor looks for its predecessor's mark.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The mark of this run: `STATE-RUN`. The first half names the state directory, the second is never the same twice.
#[must_use]
pub fn instance_mark(state_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let place = std::fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let run = format!("{} {} {}", boot.trim(), system::own_pid(), clock::wall_ms());
    format!("{:016x}-{:016x}", hash(place.as_os_str().as_bytes()), hash(run.as_bytes()))
}

/// Whether a mark belongs to a process of another run on the same state directory.
fn is_predecessors(mark: &str, own: &str) -> bool {
    let state = own.split_once('-').map_or(own, |(state, _)| state);
    let run = mark.split_once(':').map_or(mark, |(run, _)| run);
    !state.is_empty() && run != own && run.strip_prefix(state).is_some_and(|rest| rest.starts_with('-'))
}

impl Children {
    /// Ends all trees, background jobs included, and waits for that until `deadline`. Nothing starts afterwards.
    ///
    /// KILL comes after [`limits::TERM_GRACE`], or in time for the deadline if that is earlier.
    #[must_use]
    pub fn end_all(&self, deadline: Deadline) -> EndReport {
        let shared = self.shared();
        let _busy = thread::enter(format_args!("ending all children"), Deadline::at(deadline.instant() + Duration::from_millis(500)));
        // The last third of the time is for KILL and for the reaping.
        let grace = limits::TERM_GRACE.min(deadline.remaining() * 2 / 3);
        let kill_ms = clock::mono_ms() + u64::try_from(grace.as_millis()).unwrap_or(u64::MAX / 2);
        shared.kill_ms.fetch_min(kill_ms, Ordering::SeqCst);
        let before = (shared.term.load(Ordering::SeqCst), shared.kill.load(Ordering::SeqCst));
        let asked = shared.trees().iter().filter(|tree| tree.ordered().is_none()).count();
        shared.close();
        if !shared.trees().is_empty()
            && let Err(error) = shared.worker()
        {
            log::error!(target: "process", "cannot end the children in order: {error}");
        }
        let left = shared.wait_empty(deadline);
        if left > 0 {
            self.kill_everything_now();
        }
        let term = shared.term.load(Ordering::SeqCst) - before.0;
        // A process that ends by the TERM to its group is not there any more when it is counted.
        EndReport { term: term.max(asked), kill: shared.kill.load(Ordering::SeqCst) - before.1, left }
    }

    /// SIGKILL to all descendants of this process, for the guardian's last moment. Takes no lock, waits for nothing.
    pub fn kill_everything_now(&self) {
        for tree in self.shared().try_trees().unwrap_or_default() {
            tree.try_kill();
        }
        let (own_pid, own_session) = (system::own_pid(), system::own_session());
        // Three times, for those that are forked in between; whoever is younger dies with the cgroup or is swept at the next start.
        for _ in 0..3 {
            let table = table::snapshot();
            let mut members = HashSet::from([own_pid]);
            table::add_descendants(&table, &mut members);
            let ours = |process: &&Process| {
                members.contains(&process.pid) && process.pid != own_pid && process.session != own_session && process.alive()
            };
            if table.iter().filter(ours).filter(|process| signal_checked(process, Signal::SIGKILL)).count() == 0 {
                return;
            }
        }
    }

    /// Whether a process was started by one of our tools, at any depth, detached or not.
    ///
    /// For requests over the control socket: a restart asked for from inside must not wait for the one who asks.
    /// Reads the process table and a few environments; not for control's thread.
    #[must_use]
    pub fn is_inside(&self, pid: ProcessId) -> bool {
        let (own_pid, own_session) = (system::own_pid(), system::own_session());
        if pid == own_pid {
            return false;
        }
        let mut below = pid;
        for ancestor in table::ancestors(pid) {
            if ancestor == own_pid {
                return table::read_process(below).is_some_and(|process| process.session != own_session) || self.has_own_mark(pid);
            }
            below = ancestor;
        }
        self.has_own_mark(pid)
    }

    fn has_own_mark(&self, pid: ProcessId) -> bool {
        let own = &self.shared().mark;
        table::mark_of(pid).is_some_and(|mark| mark.strip_prefix(own.as_str()).is_some_and(|rest| rest.starts_with(':')))
    }

    /// Ends what a killed predecessor on the same state directory has left: processes of our user that carry its mark, and
    /// what descends from them. To be called once the instance lock is held, and before the first tool runs.
    ///
    /// Works on a thread of its own, because reading an environment may have to wait for a process that hangs in a disk.
    #[must_use]
    pub fn sweep_leftovers(&self, deadline: Deadline) -> EndReport {
        let own = self.shared().mark.clone();
        let (sender, receiver) = bounded(1);
        let body = move |token: &CancelToken| {
            let _ = sender.try_send(sweep(&own, deadline, token));
        };
        let started = self.shared().threads().spawn("children/sweep", 0, CancelToken::new(), |_| (), body);
        let handle = match started {
            Ok(handle) => handle,
            Err(error) => {
                log::warn!(target: "process", "processes that an earlier run may have left are not looked for: {error}");
                return EndReport::default();
            }
        };
        let _busy =
            thread::enter(format_args!("ending leftovers of an earlier run"), Deadline::at(deadline.instant() + Duration::from_secs(1)));
        let Ok(report) = receiver.recv_deadline(deadline.instant() + Duration::from_millis(200)) else {
            handle.token.cancel();
            handle.abandon();
            log::warn!(target: "process", "the search for processes of an earlier run did not end in time");
            return EndReport::default();
        };
        if report != EndReport::default() {
            log::warn!(target: "process", "an earlier run had left processes: {} ended, {} of them by KILL, {} left", report.term, report.kill, report.left);
        }
        report
    }
}

/// How many processes earlier gateways on that state directory have left. To be asked only while none runs there: the
/// tools of a running one look the same. Reads environments, which may have to wait for a process that hangs in a disk.
#[must_use]
pub fn count_leftovers(state_dir: &Path) -> usize {
    leftovers(&instance_mark(state_dir)).len()
}

/// The processes of earlier runs that live now.
fn leftovers(own: &str) -> Vec<Process> {
    use std::os::unix::fs::MetadataExt;
    let own_pid = system::own_pid();
    let uid = nix::unistd::getuid().as_raw();
    let table = table::snapshot();
    let mut spared: HashSet<ProcessId> = table::ancestors(own_pid).into_iter().collect();
    // Ours may carry an older mark if this gateway was itself started by a tool of its predecessor. They share our
    // session, while leftovers have their own, even those that are our descendants because we were restarted in place.
    let own_session = system::own_session();
    let mut descendants = HashSet::from([own_pid]);
    table::add_descendants(&table, &mut descendants);
    spared.extend(
        table.iter().filter(|process| descendants.contains(&process.pid) && process.session == own_session).map(|process| process.pid),
    );
    spared.insert(own_pid);
    let belongs_to_us = |process: &Process| std::fs::metadata(format!("/proc/{}", process.pid)).is_ok_and(|entry| entry.uid() == uid);
    let marked = |process: &&Process| {
        !spared.contains(&process.pid)
            && process.alive()
            && belongs_to_us(process)
            && table::mark_of(process.pid).is_some_and(|mark| is_predecessors(&mark, own))
    };
    let mut members: HashSet<ProcessId> = table.iter().filter(marked).map(|process| process.pid).collect();
    table::add_descendants(&table, &mut members);
    let theirs =
        |process: &&Process| members.contains(&process.pid) && !spared.contains(&process.pid) && process.alive() && process.pid > 1;
    table.iter().filter(theirs).copied().collect()
}

fn sweep(own: &str, deadline: Deadline, token: &CancelToken) -> EndReport {
    let _busy = thread::enter(format_args!("ending leftovers of an earlier run"), deadline);
    let kill_from = Deadline::after(limits::TERM_GRACE.min(deadline.remaining() / 2));
    let (mut asked, mut killed) = (HashSet::new(), HashSet::new());
    loop {
        let found = leftovers(own);
        let left = found.len();
        if found.is_empty() || deadline.passed() || token.is_cancelled() {
            return EndReport { term: asked.len(), kill: killed.len(), left };
        }
        for process in found {
            let identity = (process.pid, process.start_ticks);
            if kill_from.passed() {
                signal_checked(&process, Signal::SIGKILL);
                killed.insert(identity);
            }
            if asked.insert(identity) && !killed.contains(&identity) {
                signal_checked(&process, Signal::SIGTERM);
                signal_checked(&process, Signal::SIGCONT);
            }
        }
        let _ = token.sleep(Duration::from_millis(30));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predecessors_mark_is_told_from_ours_and_from_others() {
        let check = |mark: &str, expect: bool| assert_eq!(is_predecessors(mark, "aaaa-1111"), expect, "{mark}");
        check("aaaa-2222:1", true);
        check("aaaa-2222", true);
        check("aaaa-1111:1", false);
        check("aaaa-1111", false);
        check("bbbb-2222:1", false);
        check("aaaab-2222:1", false);
        check("aaaa", false);
        check("", false);
    }

    #[test]
    fn marks_name_the_place_and_the_run() {
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        let mark = instance_mark(Path::new("/tmp"));
        let (state, run) = mark.split_once('-').expect("two halves");
        assert_eq!((state.len(), run.len()), (16, 16));
        assert!(instance_mark(Path::new("/tmp/.")).starts_with(state));
        assert!(!instance_mark(Path::new("/usr")).starts_with(state));
    }
}
