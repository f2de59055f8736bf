//! The thread `signal`: turns signals into messages to control, and tells the guardian too, which does not depend on
//! control.

use super::lanes::{Lanes, Message, Signal};
use super::{Control, Handle};
use crate::core::event::{Event, Lifecycle};
use crate::thread::{CancelToken, Guardian, SpawnError, Threads, wait_for_work};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::time::Duration;

/// How long the process may live after the first request to stop, and after the second.
#[derive(Debug, Clone, Copy)]
pub struct StopBounds {
    pub first: Duration,
    pub second: Duration,
}

/// Starts the thread. `interactive`: a terminal in this process has its own use for SIGINT.
///
/// # Errors
/// [`SpawnError`], also when the handlers cannot be installed.
pub fn start(
    threads: &Threads,
    lanes: Lanes,
    guardian: Arc<Guardian>,
    bounds: StopBounds,
    interactive: bool,
) -> Result<Handle, SpawnError> {
    let mut handled = vec![SIGTERM, SIGHUP, SIGUSR1, SIGUSR2];
    if !interactive {
        handled.push(SIGINT);
    }
    let installed = Signals::new(handled);
    let mut signals = installed.map_err(|cause| SpawnError { thread: "signal".to_owned(), cause })?;
    threads.spawn(
        "signal",
        0,
        CancelToken::new(),
        |_| (),
        move |_| {
            let _waiting = wait_for_work(format_args!("waiting for signals"));
            let mut stops = 0_u32;
            for signal in signals.forever() {
                let message = match signal {
                    SIGTERM | SIGINT => {
                        stops += 1;
                        guardian.stop_is_asked();
                        match stops {
                            1 => {
                                guardian.stop_within(bounds.first);
                                Signal::Stop
                            }
                            2 => {
                                guardian.stop_within(bounds.second);
                                Signal::Hurry
                            }
                            _ => {
                                guardian.leave_now();
                                Signal::Hurry
                            }
                        }
                    }
                    SIGUSR1 => Signal::Restart,
                    SIGHUP => Signal::Reload,
                    _ => Signal::Dump,
                };
                lanes.urgent(Message::Signal(message));
            }
        },
    )
}

impl Control {
    pub(super) fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Stop => self.feed(Event::Lifecycle(Lifecycle::Stop)),
            Signal::Hurry => {
                log::warn!(target: "control", "asked to stop a second time: cutting everything now");
                self.hurry = true;
                self.feed(Event::Lifecycle(Lifecycle::StopNow));
            }
            Signal::Restart => {
                self.guardian.stop_within(self.restart_budget);
                self.feed(Event::Lifecycle(Lifecycle::Restart));
            }
            Signal::Reload => self.reload(),
            Signal::Dump => self.dump(),
        }
    }

    /// Every thread's pulse, for the log.
    pub(super) fn dump(&self) {
        let now_ms = crate::clock::mono_ms();
        for thread in self.threads.list() {
            let for_ms = now_ms.saturating_sub(thread.activity.since_ms);
            let due = thread.activity.due_ms.map_or_else(String::new, |due| {
                if due >= now_ms { format!(", due in {} ms", due - now_ms) } else { format!(", OVERDUE by {} ms", now_ms - due) }
            });
            log::info!(target: "control", "thread {}: \"{}\" for {for_ms} ms{due}", thread.name, thread.activity.text);
        }
    }
}
