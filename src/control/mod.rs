//! Control: the thread that decides. It selects over its lanes and the next deadline, hands events to `core` and
//! executes the effects. It never waits for I/O, for a lock that is held across I/O, or for room in a channel.

mod adapters;
mod assemble;
mod board;
mod exclusive;
#[cfg(debug_assertions)]
mod fault;
mod ladder;
pub mod lanes;
mod links;
mod memory;
mod reload;
mod signals;
mod turns;

pub use assemble::{ConsoleFn, RunOptions, run};
pub use board::Board;

use crate::adapter::sender::Mailbox;
use crate::agent::turn::Agent;
use crate::clock::{self, Deadline};
use crate::core::Core;
use crate::core::event::{Effect, Event, Level, Now, StoreFault};
use crate::core::types::{AdapterName, TurnId};
use crate::limits;
use crate::net::NetOptions;
use crate::store::{StoreError, StoreHandle};
use crate::thread::{CancelToken, Guardian, Handle, Threads, enter, wait_for_work};
use lanes::{Inbox, Lanes, Message, Signal};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One configured adapter and its threads.
struct Attached {
    adapter: Arc<dyn crate::adapter::Adapter>,
    platform: String,
    streaming: bool,
    mailbox: Arc<Mailbox>,
    generation: u64,
    /// Of the current generation: the sender's, and the parent of the inlet's.
    token: CancelToken,
    inlet_token: CancelToken,
    receipts: crossbeam_channel::Sender<crate::core::types::Receipt>,
    heard: Arc<std::sync::atomic::AtomicU64>,
}

struct RunningTurn {
    handle: Handle,
    token: CancelToken,
    mail: crossbeam_channel::Sender<crate::agent::turn::TurnMail>,
}

/// Everything that control owns.
pub struct Control {
    core: Core,
    inbox: Inbox,
    lanes: Lanes,
    threads: Threads,
    guardian: Arc<Guardian>,
    /// For a person at the terminal who sees no log.
    console: bool,
    store: StoreHandle,
    agent: Arc<Agent>,
    net: NetOptions,
    files: PathBuf,
    board: Arc<Board>,
    adapters: BTreeMap<AdapterName, Attached>,
    turns: HashMap<TurnId, RunningTurn>,
    /// Threads of adapters: all generations that have not ended.
    adapter_threads: Vec<Handle>,
    /// Parent of all adapters' and turns' tokens.
    token: CancelToken,
    leaving: Option<u8>,
    hurry: bool,
    stop_budget: Duration,
    restart_budget: Duration,
    config: crate::config::Config,
    places: Option<crate::config::Places>,
    notifier: Arc<crate::service::notify::Notifier>,
}

impl Control {
    /// Decides until it is time to leave. → the exit code.
    fn decide(&mut self) -> u8 {
        loop {
            self.board.publish(&self.core);
            let due = self.core.next_due_ms();
            let message = {
                let _waiting = wait_for_work(format_args!("waiting for events"));
                let wait_ms = due.map(|due| due.saturating_sub(clock::mono_ms()));
                let wait = wait_ms.map_or(limits::LONG_WAIT, Duration::from_millis).min(limits::LONG_WAIT);
                self.inbox.next(Deadline::after(wait).instant())
            };
            let message = message.unwrap_or(Message::Core(Event::Tick));
            self.take(message);
            // What is there already is taken without publishing in between.
            for _ in 0..limits::NORMAL_LANE_MAX {
                if self.leaving.is_some() || self.inbox.is_empty() {
                    break;
                }
                if let Some(message) = self.inbox.next(clock::now()) {
                    self.take(message);
                }
            }
            if let Some(code) = self.leaving {
                return code;
            }
        }
    }

    fn take(&mut self, message: Message) {
        let name = name_of(&message);
        let _busy = enter(format_args!("handle {name}"), Deadline::after(limits::CONTROL_EVENT));
        let started = clock::now();
        match message {
            Message::Core(event) => self.feed(event),
            Message::Delivered { generation, event } => {
                let current = |name: &AdapterName| self.adapters.get(name).is_some_and(|known| known.generation == generation);
                if matches!(&event, Event::Delivered { adapter, .. } if current(adapter)) {
                    self.feed(event);
                }
            }
            Message::Ping => {
                self.guardian.alive();
                self.look_around();
                // The wall clock may have been set, or the machine suspended, since core last looked.
                self.feed(Event::Tick);
            }
            Message::Overdue(thread) => self.overdue(&thread),
            Message::TurnThreadEnded { turn } => {
                self.turns.remove(&turn);
                for known in self.adapters.values() {
                    known.mailbox.turn_ended(turn);
                }
            }
            Message::Signal(signal) => self.signal(signal),
            Message::Reloaded(result) => self.reloaded(*result),
            #[cfg(debug_assertions)]
            Message::Suffer(suffering) => fault::suffer(suffering),
        }
        let took = started.elapsed();
        if took > limits::CONTROL_SLOW {
            log::warn!(target: "control", "handling {name} took {} ms", took.as_millis());
        }
    }

    fn feed(&mut self, event: Event) {
        let now = Now { mono_ms: clock::mono_ms(), wall_ms: clock::wall_ms() };
        let mut quieted = Vec::new();
        for effect in self.core.handle(event, now) {
            if let Effect::Quiet { chat } = &effect {
                quieted.push(chat.adapter.clone());
            }
            self.execute(effect);
        }
        // Only now: the reply, which is handed over after it, goes out first.
        for known in quieted.iter().filter_map(|name| self.adapters.get(name)) {
            known.mailbox.wake();
        }
    }

    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Store { ticket, op } => {
                let lanes = self.lanes.clone();
                self.store.submit(op, move |result| lanes.event(Event::Stored { ticket, result: result.map_err(fault) }));
            }
            Effect::Receipt { adapter, generation, receipt } => {
                if let Some(known) = self.adapters.get(&adapter).filter(|known| known.generation == generation) {
                    let _ = known.receipts.try_send(receipt);
                }
            }
            Effect::StartAdapter { name, generation } => self.start_adapter(&name, generation),
            Effect::CutAdapter { name } => {
                if let Some(known) = self.adapters.get(&name) {
                    known.token.cancel();
                }
            }
            Effect::StopAdapter { name } => self.stop_adapter(&name),
            Effect::HaltInlets => {
                for known in self.adapters.values().filter(|known| !known.adapter.sends_through_inlet()) {
                    known.inlet_token.cancel();
                }
            }
            Effect::StartTurn(spec) => self.start_turn(spec),
            Effect::CancelTurn { turn } => self.cancel_turn(turn),
            Effect::Steer { turn, inbox, message } => self.mail(turn, crate::agent::turn::TurnMail::Steer { inbox, message }),
            Effect::Answer { turn, verdict } => self.mail(turn, crate::agent::turn::TurnMail::Answer(verdict)),
            Effect::Deliver { adapter, outbox, turn } => {
                if let Some(known) = self.adapters.get(&adapter) {
                    known.mailbox.deliver(outbox, turn);
                }
            }
            Effect::Typing { chat } => {
                if let Some(known) = self.adapters.get(&chat.adapter) {
                    known.mailbox.typing(chat);
                }
            }
            Effect::Quiet { chat } => {
                if let Some(known) = self.adapters.get(&chat.adapter) {
                    known.mailbox.quiet(chat);
                }
            }
            Effect::Respond { request, result } => self.board.respond(request, result),
            Effect::Log { level, target, text } => match level {
                Level::Info => log::info!(target: &target, "{text}"),
                Level::Warn => log::warn!(target: &target, "{text}"),
                Level::Error => log::error!(target: &target, "{text}"),
            },
            Effect::Leave { code } => self.leaving = Some(code),
        }
    }
}

/// The outcome as core sees it; what only the operator can act upon is logged here, once.
fn fault(error: StoreError) -> StoreFault {
    match error {
        StoreError::Fenced => StoreFault::Fenced,
        StoreError::Bug(cause) => {
            log::error!(target: "store", "{cause}");
            StoreFault::Fenced
        }
        StoreError::Unavailable(_) | StoreError::Busy | StoreError::Timeout | StoreError::Closed => StoreFault::Unavailable,
    }
}

/// For the pulse: which event is handled.
fn name_of(message: &Message) -> &'static str {
    match message {
        Message::Core(Event::Recovered(_)) => "Recovered",
        Message::Core(Event::Adapter { .. }) => "Adapter",
        Message::Core(Event::Stored { .. }) => "Stored",
        Message::Core(Event::Turn { .. }) => "Turn",
        Message::Core(Event::Delivered { .. }) | Message::Delivered { .. } => "Delivered",
        Message::Core(Event::Say { .. }) => "Say",
        Message::Core(Event::Send { .. }) => "Send",
        Message::Core(Event::Schedule { .. }) => "Schedule",
        Message::Core(Event::MemoryHigh { .. }) => "MemoryHigh",
        Message::Core(Event::Attached { .. }) => "Attached",
        Message::Core(Event::Lifecycle(_)) => "Lifecycle",
        Message::Core(Event::Tick) => "Tick",
        Message::Ping => "Ping",
        Message::Overdue(_) => "Overdue",
        Message::TurnThreadEnded { .. } => "TurnThreadEnded",
        Message::Signal(Signal::Stop | Signal::Hurry | Signal::Restart) => "Signal",
        Message::Signal(Signal::Reload) => "Reload",
        Message::Signal(Signal::Dump) => "Dump",
        Message::Reloaded(_) => "Reloaded",
        Message::Core(Event::Reconfigured { .. }) => "Reconfigured",
        #[cfg(debug_assertions)]
        Message::Suffer(_) => "Suffer",
    }
}
