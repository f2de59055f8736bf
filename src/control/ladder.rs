//! The rest of the stop ladder, after the drain: ask → cut → close → leave.
//!
//! All threads are asked at once and joined against one deadline: the time does not grow with their number. What
//! does not come back is named and left; the guardian stands behind with the whole budget.

use super::Control;
use super::lanes::{Message, Signal};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::store::StoreThread;
use crate::thread::{Handle, Join, ThreadEnd};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// How a thread came to its end.
struct Fate {
    name: String,
    how: &'static str,
    after: Duration,
    last_activity: Option<String>,
}

/// How long to look at one thread before looking whether a signal asks to hurry.
const SLICE: Duration = Duration::from_millis(50);

impl Control {
    /// Walks down the ladder. Nothing is started any more.
    /// `admin` answers `status` until the last phase. → one line that says how it went.
    pub(super) fn leave(mut self, store_thread: StoreThread, others: Vec<Handle>, admin: Handle) -> String {
        let started = clock::now();
        let shutdown = self.config.shutdown.clone();
        // Whatever began this, a signal or a word in a chat: the budget is enforced. A bound that is set already stands.
        self.guardian.stop_within(shutdown.ask + shutdown.cut + shutdown.close + limits::GUARDIAN_SLACK);
        self.guardian.finished();
        self.board.publish(&self.core);
        let _busy = crate::thread::wait_for_work(format_args!("stopping"));
        let mut waiting: Vec<Handle> = std::mem::take(&mut self.adapter_threads);
        waiting.extend(std::mem::take(&mut self.turns).into_values().map(|turn| turn.handle));
        waiting.extend(others);
        waiting.retain(|handle| !handle.has_ended());
        let mut fates = Vec::new();
        // Ask: cancel tokens, all at once. A cancelled token also shuts the attached sockets down and orders the end of
        // the attached process trees.
        self.token.cancel();
        let ask = if self.hurry { Duration::ZERO } else { shutdown.ask };
        let busy: Vec<(String, String)> = waiting.iter().map(|handle| (handle.name.clone(), handle.activity().text)).collect();
        self.join_all(&mut waiting, Deadline::after(ask), started, "by itself", &mut fates);
        // Cut: connections that were only asked, what is left of the children, then a last look at the threads.
        let cut = Deadline::after(shutdown.cut);
        waiting.iter().for_each(|handle| handle.token.sever());
        let children = self.agent.children.end_all(cut);
        self.join_all(&mut waiting, cut, started, "cut", &mut fates);
        for handle in &waiting {
            handle.abandon();
            fates.push(Fate {
                name: handle.name.clone(),
                how: "abandoned",
                after: started.elapsed(),
                last_activity: Some(handle.activity().text),
            });
        }
        // Close: the store takes what is queued and goes.
        let undelivered = self.core.undelivered();
        let unanswered = self.core.waiting() + self.core.running().count();
        let close = Deadline::after(shutdown.close);
        admin.token.cancel();
        let closed = store_thread.close(close);
        waiting = vec![admin];
        self.join_all(&mut waiting, close, started, "by itself", &mut fates);
        if !closed {
            fates.push(Fate {
                name: "store".to_owned(),
                how: "abandoned",
                after: started.elapsed(),
                last_activity: Some("closing".to_owned()),
            });
        }
        for fate in fates.iter_mut().filter(|fate| fate.last_activity.is_none() && fate.how != "by itself") {
            fate.last_activity = busy.iter().find(|(name, _)| *name == fate.name).map(|(_, text)| text.clone());
        }
        report(&fates, &children, unanswered, undelivered, started)
    }

    /// Joins until the deadline; a request to hurry makes the deadline now.
    fn join_all(&mut self, waiting: &mut Vec<Handle>, deadline: Deadline, started: Instant, how: &'static str, fates: &mut Vec<Fate>) {
        let mut deadline = deadline;
        loop {
            self.look_for_hurry(&mut deadline);
            waiting.retain(|handle| {
                let Join::Ended(end) = handle.join(Deadline::after(Duration::ZERO)) else { return true };
                let how = if matches!(end, ThreadEnd::Panicked(_)) { "panicked" } else { how };
                fates.push(Fate { name: handle.name.clone(), how, after: started.elapsed(), last_activity: None });
                false
            });
            let Some(first) = waiting.first().filter(|_| !deadline.passed()) else { break };
            let _ = first.join(deadline.within(SLICE));
        }
    }

    /// The lanes are read on while threads are joined: only a second signal matters now.
    fn look_for_hurry(&mut self, deadline: &mut Deadline) {
        while !self.inbox.is_empty() {
            match self.inbox.next(clock::now()) {
                Some(Message::Signal(Signal::Hurry)) => {
                    self.hurry = true;
                    *deadline = Deadline::after(Duration::ZERO);
                }
                Some(_) => {}
                None => break,
            }
        }
    }
}

fn report(fates: &[Fate], children: &crate::process::EndReport, unanswered: usize, undelivered: usize, started: Instant) -> String {
    let ended = fates.iter().filter(|fate| fate.how != "abandoned").count();
    let took_ms = started.elapsed().as_millis();
    let took = if took_ms < 1000 { format!("{took_ms} ms") } else { format!("{:.1} s", started.elapsed().as_secs_f64()) };
    let summary = format!(
        "stopped in {took}: {ended} threads ended, {} children ended by TERM, {} by KILL, {unanswered} messages unanswered, {undelivered} unsent",
        children.term, children.kill
    );
    let mut text = summary.clone();
    for fate in fates {
        let _ = write!(text, "\n{:<28} {:<10} {:>6.2} s", fate.name, fate.how, fate.after.as_secs_f64());
        if let Some(activity) = &fate.last_activity {
            let _ = write!(text, "  {activity}");
        }
    }
    if children.left > 0 {
        let _ = write!(text, "\n{} child processes could not be ended", children.left);
    }
    log::info!(target: "control", "{text}");
    summary
}
