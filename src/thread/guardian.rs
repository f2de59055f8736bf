//! The guardian: watches the others, waits for nobody, and ends the process when nobody else can.
//!
//! It sleeps until the earliest deadline of any thread (ten seconds at most), so an idle process is not woken for it.
//! Three things make it act: control's own pulse is overdue or control does not answer its ping, the stop budget is
//! spent, or the user asked three times. Then it writes down who was stuck where, ends the children and leaves.

use super::{ThreadInfo, Threads};
use crate::clock;
use crate::limits;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What the guardian is to do, decided by whoever builds the process.
pub struct GuardianPlan {
    /// The name of the thread whose being stuck ends the process.
    pub control: String,
    /// Asks control for a sign of life: must not block. Control answers with [`Guardian::alive`].
    pub ping: Box<dyn Fn() + Send>,
    /// Called once for each thread found overdue: logs it, and acts on it (control cuts an adapter). Must not block.
    pub overdue: Box<dyn Fn(&ThreadInfo) + Send>,
    /// Called while control is alive, at every ping: the supervisor's watchdog. Must not block.
    pub healthy: Box<dyn Fn() + Send>,
    /// How often control is pinged.
    pub interval: Duration,
    /// Ends the process: kills the children and calls `_exit`. Does not return. The text says why, for the log.
    pub leave: Box<dyn Fn(&str) + Send>,
}

/// The handle by which others talk to the guardian. All methods are lock-free.
#[derive(Default)]
pub struct Guardian {
    answered_ms: AtomicU64,
    pinged_ms: AtomicU64,
    stop_due_ms: AtomicU64,
    leave_now: AtomicBool,
    finished: AtomicBool,
    stop_asked: AtomicBool,
    threads: Threads,
}

impl Guardian {
    #[must_use]
    pub fn new(threads: &Threads) -> Arc<Self> {
        Arc::new(Self { threads: threads.clone(), ..Self::default() })
    }

    /// Control is alive: it answered a ping.
    pub fn alive(&self) {
        self.answered_ms.store(clock::mono_ms(), Ordering::SeqCst);
    }

    /// From now on the process has `budget` left to live.
    pub fn stop_within(&self, budget: Duration) {
        let due = clock::mono_ms() + u64::try_from(budget.as_millis()).unwrap_or(u64::MAX / 2);
        // The first bound stands: a later request must not prolong it. A shorter one shortens it.
        let _ = self.stop_due_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |old| (old == 0 || due < old).then_some(due.max(1)));
        self.wake();
    }

    /// Leave at once: the third signal.
    pub fn leave_now(&self) {
        self.leave_now.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Control walks down the stop ladder and does not answer any more: from here on only the budget counts.
    pub fn finished(&self) {
        self.finished.store(true, Ordering::SeqCst);
    }

    /// Somebody wants the process to end, and not to begin anew.
    pub fn stop_is_asked(&self) {
        self.stop_asked.store(true, Ordering::SeqCst);
    }

    /// Whether [`Guardian::stop_is_asked`] was called.
    #[must_use]
    pub fn is_stop_asked(&self) -> bool {
        self.stop_asked.load(Ordering::SeqCst)
    }

    fn wake(&self) {
        if let Some(thread) = self.threads.shared.guardian.get() {
            thread.unpark();
        }
    }

    /// The guardian's thread body. Never returns.
    pub fn watch(&self, plan: &GuardianPlan) {
        let _ = self.threads.shared.guardian.set(std::thread::current());
        let interval_ms = u64::try_from(plan.interval.as_millis()).unwrap_or(u64::MAX).max(1);
        let _waiting = super::wait_for_work(format_args!("watching"));
        let mut told: Vec<(String, u64, u64)> = Vec::new();
        let mut next_ping_ms = clock::mono_ms() + interval_ms;
        self.answered_ms.store(clock::mono_ms(), Ordering::SeqCst);
        loop {
            let now_ms = clock::mono_ms();
            if self.leave_now.load(Ordering::SeqCst) {
                (plan.leave)("asked to leave at once");
            }
            let stop_due_ms = self.stop_due_ms.load(Ordering::SeqCst);
            if stop_due_ms != 0 && now_ms >= stop_due_ms {
                (plan.leave)("the stop budget is spent");
            }
            // Whoever enters an activity from here on wakes us: it may be too late for the list.
            self.threads.shared.next_look_ms.store(u64::MAX, Ordering::SeqCst);
            let list = self.threads.list();
            self.look(plan, &list, now_ms, &mut told);
            if now_ms >= next_ping_ms {
                if self.finished.load(Ordering::SeqCst) {
                    (plan.healthy)();
                } else {
                    self.ping(plan, now_ms);
                }
                next_ping_ms = now_ms + interval_ms;
            }
            let mut wake_ms = next_ping_ms;
            if stop_due_ms != 0 {
                wake_ms = wake_ms.min(stop_due_ms);
            }
            let dues = list.iter().filter_map(|thread| thread.activity.due_ms);
            let dues = dues.map(|due| due.saturating_add(limits::GUARDIAN_GRACE_MS));
            wake_ms = dues.filter(|due| *due > now_ms).fold(wake_ms, u64::min);
            self.threads.shared.next_look_ms.store(wake_ms, Ordering::SeqCst);
            std::thread::park_timeout(Duration::from_millis(wake_ms.saturating_sub(clock::mono_ms()).max(1)));
        }
    }

    fn look(&self, plan: &GuardianPlan, list: &[ThreadInfo], now_ms: u64, told: &mut Vec<(String, u64, u64)>) {
        told.retain(|known| list.iter().any(|thread| same(known, thread)));
        for thread in list {
            // Whoever waits until exactly its deadline needs a moment to say that it is back.
            let Some(late_ms) = thread.activity.overdue_ms(now_ms).filter(|late_ms| *late_ms >= limits::GUARDIAN_GRACE_MS) else {
                continue;
            };
            if thread.name == plan.control && !self.finished.load(Ordering::SeqCst) {
                let for_ms = now_ms.saturating_sub(thread.activity.since_ms);
                (plan.leave)(&format!("control stuck for {for_ms} ms in \"{}\", {late_ms} ms overdue", thread.activity.text));
            }
            if !told.iter().any(|known| same(known, thread)) {
                told.push((thread.name.clone(), thread.generation, thread.activity.since_ms));
                (plan.overdue)(thread);
            }
        }
    }

    fn ping(&self, plan: &GuardianPlan, now_ms: u64) {
        let limit_ms = u64::try_from(limits::CONTROL_EVENT.as_millis()).unwrap_or(u64::MAX);
        let (pinged, answered) = (self.pinged_ms.load(Ordering::SeqCst), self.answered_ms.load(Ordering::SeqCst));
        if pinged != 0 && answered < pinged {
            if now_ms.saturating_sub(pinged) >= limit_ms {
                (plan.leave)(&format!("control has not answered for {} ms", now_ms.saturating_sub(pinged)));
            }
            return; // Asked already; and the supervisor must not be told that all is well.
        }
        (plan.healthy)();
        self.pinged_ms.store(now_ms, Ordering::SeqCst);
        (plan.ping)();
    }
}

fn same(known: &(String, u64, u64), thread: &ThreadInfo) -> bool {
    known.0 == thread.name && known.1 == thread.generation && known.2 == thread.activity.since_ms
}
