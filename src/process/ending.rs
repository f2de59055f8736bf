//! Ending trees: who belongs to which, TERM, then KILL, until nobody is left.
//!
//! Runs on the children thread, in passes over a snapshot of the process table. A tree is gone when two passes in a
//! row find none of it; only then is its leader reaped, which frees the numbers by which its group is signalled.

use super::job::Job;
use super::reaper::{Shared, owned, reap_strangers};
use super::system::{self, ProcessId};
use super::table::{self, Process};
use super::tree::Tree;
use crate::clock;
use crate::limits;
use nix::sys::signal::Signal;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A process is its number and its start: a number alone may be somebody else's by now.
type Identity = (ProcessId, u64);

fn identity(process: &Process) -> Identity {
    (process.pid, process.start_ticks)
}

/// What is remembered from pass to pass.
#[derive(Default)]
pub(super) struct Ending {
    /// When each process was first signalled, and whether KILL was among the signals.
    signalled: HashMap<Identity, (u64, bool)>,
    marks: HashMap<Identity, Option<String>>,
    /// Trees of which the previous pass found nothing.
    clean: HashSet<u64>,
    /// Trees whose end a pass has begun.
    begun: HashSet<u64>,
    complained: HashSet<u64>,
    /// Orphans that belong to no tree that is left, and are being ended.
    strays: bool,
    next_ms: u64,
}

/// What a pass found.
pub(super) struct Pass {
    /// Trees that are gone.
    pub gone: Vec<u64>,
    /// When to look again; `None` if there is nothing to look after.
    pub next_ms: Option<u64>,
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Ending {
    /// Looks after the trees if that is due.
    pub fn pass(&mut self, shared: &Shared, trees: &[Arc<Tree>], jobs: &[Arc<Job>]) -> Pass {
        let now_ms = clock::mono_ms();
        let is_init = system::own_pid() == 1;
        if trees.is_empty() && !self.strays && !is_init {
            *self = Self::default();
            return Pass { gone: Vec::new(), next_ms: None };
        }
        let new_order = trees.iter().any(|tree| tree.ordered().is_some() && !self.begun.contains(&tree.number));
        if now_ms < self.next_ms && !new_order {
            return Pass { gone: Vec::new(), next_ms: Some(self.next_ms) };
        }
        for tree in trees.iter().filter(|tree| now_ms > tree.due_ms.saturating_add(millis(limits::CHILDREN_LOOK))) {
            // Whoever waits for it is stuck: it should have been ended by now.
            tree.order_end();
        }
        let table = table::snapshot();
        reap_strangers(&table);
        for job in jobs {
            job.note_cpu(cpu_ticks(&table, job.tree.leader), now_ms);
        }
        let orphans = self.orphans(shared, trees, &table);
        let mut gone = Vec::new();
        for tree in trees.iter().filter(|tree| tree.ordered().is_some()) {
            if self.attend(shared, tree, &table, &orphans, now_ms) {
                gone.push(tree.number);
            }
        }
        self.end_strays(shared, &table, &orphans, now_ms);
        self.forget(&table, trees, &gone);
        self.next_ms = now_ms + self.delay(trees, &gone, now_ms);
        Pass { gone, next_ms: Some(self.next_ms) }
    }

    /// How long to sleep: short while ending goes on, then longer.
    fn delay(&self, trees: &[Arc<Tree>], gone: &[u64], now_ms: u64) -> u64 {
        let ages = trees.iter().filter(|tree| !gone.contains(&tree.number)).filter_map(|tree| tree.ordered());
        let youngest = ages.map(|ordered| now_ms.saturating_sub(ordered)).min();
        if !self.clean.is_empty() {
            return 0;
        }
        match youngest {
            Some(age) if age < 60 => 4,
            Some(age) if age < millis(limits::TREE_STUBBORN) => 40,
            Some(_) => 1000,
            None if self.strays => 40,
            None => millis(limits::CHILDREN_LOOK),
        }
    }

    /// Orphans among our descendants and the tree that each belongs to; `None` for one that nobody will claim.
    ///
    /// A process that left its group, its session and its parent comes to us. Its mark tells whose it is. One that has
    /// shed its mark too is ended with the last tree that may have started it.
    fn orphans(&mut self, shared: &Shared, trees: &[Arc<Tree>], table: &[Process]) -> Vec<(ProcessId, Option<u64>)> {
        let (own_pid, own_session) = (system::own_pid(), system::own_session());
        let (leaders, marks) = {
            let owned = owned();
            (owned.leaders.clone(), owned.marks.clone())
        };
        let stranger = |process: &&Process| {
            process.parent == own_pid && process.session != own_session && process.alive() && !leaders.contains(&process.pid)
        };
        let mut found = Vec::new();
        for process in table.iter().filter(stranger) {
            if leaders.contains(&process.group) || leaders.contains(&process.session) {
                // Its group or session names its tree.
                continue;
            }
            let mark = self.mark(process);
            let is_of = |mark: &str, instance: &str| mark.strip_prefix(instance).is_some_and(|rest| rest.starts_with(':'));
            if let Some(mark) = &mark {
                if is_of(mark, &shared.mark) {
                    found.push((process.pid, trees.iter().find(|tree| tree.mark == *mark).map(|tree| tree.number)));
                    continue;
                }
                if marks.iter().any(|instance| is_of(mark, instance)) {
                    continue;
                }
            }
            // As init of a container we inherit the orphans of everybody.
            if own_pid == 1 {
                continue;
            }
            let before = |tree: &&Arc<Tree>| tree.start_ticks <= process.start_ticks;
            if !trees.iter().filter(before).any(|tree| tree.ordered().is_none()) {
                found.push((process.pid, trees.iter().rfind(before).map(|tree| tree.number)));
            }
        }
        found
    }

    /// The mark of a process, read once: its memory lock may be held by somebody who waits for a disk.
    fn mark(&mut self, process: &Process) -> Option<String> {
        if let Some(known) = self.marks.get(&identity(process)) {
            return known.clone();
        }
        if process.state == b'D' {
            return None;
        }
        let mark = table::mark_of(process.pid);
        self.marks.insert(identity(process), mark.clone());
        mark
    }

    /// One pass over one tree that is to end. True once it is gone.
    fn attend(&mut self, shared: &Shared, tree: &Tree, table: &[Process], orphans: &[(ProcessId, Option<u64>)], now_ms: u64) -> bool {
        let ordered_ms = tree.ordered().unwrap_or(now_ms);
        let kill_ms = (ordered_ms + millis(limits::TERM_GRACE)).min(shared.kill_ms.load(Ordering::SeqCst));
        let mut members = table::kin(table, tree.leader);
        members.extend(orphans.iter().filter(|(_, number)| *number == Some(tree.number)).map(|(pid, _)| *pid));
        table::add_descendants(table, &mut members);
        let alive: Vec<&Process> = table.iter().filter(|process| members.contains(&process.pid) && process.alive()).collect();

        if self.begun.insert(tree.number) && !alive.iter().any(|process| process.pid == tree.leader) && !alive.is_empty() {
            tree.leftover.store(true, Ordering::SeqCst);
        }
        if alive.is_empty() {
            // Somebody may have been forked behind the back of the snapshot by one who has ended since.
            if self.clean.insert(tree.number) {
                return false;
            }
            self.clean.remove(&tree.number);
            if !tree.reap() {
                return false;
            }
            owned().leaders.retain(|leader| *leader != tree.leader);
            return true;
        }
        self.clean.remove(&tree.number);
        if now_ms >= kill_ms {
            // In one stroke, before anybody in the group can fork again.
            tree.signal(Signal::SIGKILL);
        }
        for process in &alive {
            self.signal(shared, process, kill_ms, now_ms);
        }
        if now_ms.saturating_sub(ordered_ms) > millis(limits::TREE_STUBBORN) && self.complained.insert(tree.number) {
            let list: Vec<String> =
                alive.iter().take(8).map(|process| format!("{} (state {})", process.pid, char::from(process.state))).collect();
            log::warn!(target: "process", "processes of \"{}\" do not end, not even by KILL: {}", tree.what, list.join(", "));
        }
        false
    }

    /// TERM the first time, KILL once it is due, each time until it is gone.
    fn signal(&mut self, shared: &Shared, process: &Process, kill_ms: u64, now_ms: u64) {
        let own_session = system::own_session();
        if process.pid <= 1 || process.pid == system::own_pid() || (process.session == own_session && process.parent != system::own_pid()) {
            return;
        }
        let known = self.signalled.get(&identity(process)).copied();
        if now_ms >= kill_ms {
            if signal_checked(process, Signal::SIGKILL) && !known.is_some_and(|(_, killed)| killed) {
                shared.kill.fetch_add(1, Ordering::SeqCst);
                self.signalled.insert(identity(process), (known.map_or(now_ms, |(first, _)| first), true));
            }
        } else if known.is_none() && signal_checked(process, Signal::SIGTERM) {
            signal_checked(process, Signal::SIGCONT);
            shared.term.fetch_add(1, Ordering::SeqCst);
            self.signalled.insert(identity(process), (now_ms, false));
        }
    }

    /// Ends orphans of trees that are gone already.
    fn end_strays(&mut self, shared: &Shared, table: &[Process], orphans: &[(ProcessId, Option<u64>)], now_ms: u64) {
        let mut members: HashSet<ProcessId> = orphans.iter().filter(|(_, number)| number.is_none()).map(|(pid, _)| *pid).collect();
        self.strays = !members.is_empty();
        table::add_descendants(table, &mut members);
        for process in table.iter().filter(|process| members.contains(&process.pid) && process.alive()) {
            let first_ms = self.signalled.get(&identity(process)).map_or(now_ms, |(first, _)| *first);
            self.signal(shared, process, first_ms + millis(limits::TERM_GRACE), now_ms);
        }
    }

    /// Drops what is known of processes and trees that are no more.
    fn forget(&mut self, table: &[Process], trees: &[Arc<Tree>], gone: &[u64]) {
        let living: HashSet<Identity> = table.iter().map(identity).collect();
        self.signalled.retain(|known, _| living.contains(known));
        self.marks.retain(|known, _| living.contains(known));
        let there = |number: &u64| !gone.contains(number) && trees.iter().any(|tree| tree.number == *number);
        for set in [&mut self.clean, &mut self.begun, &mut self.complained] {
            set.retain(there);
        }
    }
}

/// CPU time of a tree, in clock ticks.
fn cpu_ticks(table: &[Process], leader: ProcessId) -> u64 {
    let members = table::kin(table, leader);
    table.iter().filter(|process| members.contains(&process.pid)).map(|process| process.cpu_ticks).sum()
}

/// Signals the very process that was seen, not one that has got its number since.
pub(super) fn signal_checked(process: &Process, signal: Signal) -> bool {
    let fd = system::pidfd_open(process.pid);
    let same = table::read_process(process.pid).is_some_and(|now| now.start_ticks == process.start_ticks);
    match fd {
        _ if !same => false,
        Some(fd) => system::pidfd_signal(&fd, signal),
        None => system::signal_process(process.pid, signal),
    }
}
