//! The life of adapters: an explicit state, what changes it, and the timer of the next attempt.

use super::Core;
use super::event::{AdapterEvent, AdapterView, Effect, Level};
use super::types::{AdapterName, AdapterState};
use crate::limits;

/// Where an adapter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its threads run and have not come to a connection yet.
    Connecting,
    Connected,
    /// The connection is gone; its thread will try again by itself.
    Retrying,
    /// Its threads have ended or were cut; a new generation is due.
    Replacing,
    /// Only the operator can help: a changed configuration, or a restart.
    Failed,
}

/// What moves an adapter from one stage to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// A generation of its threads is started.
    Starts,
    Connects,
    Loses,
    /// The credential is not accepted, or the like.
    Fails,
    /// A thread ended without being asked to, or did not come back and was cut.
    Breaks,
}

/// The whole life of an adapter. `None`: that has no meaning at this stage, and is ignored.
const fn next(stage: Stage, turn: Turn) -> Option<Stage> {
    match (stage, turn) {
        // A failure stays until the configuration or the process changes: it is told once.
        (Stage::Failed, _) => None,
        // Until the next generation starts, nobody speaks for the adapter.
        (Stage::Replacing, Turn::Connects | Turn::Loses | Turn::Breaks) => None,
        (_, Turn::Fails) => Some(Stage::Failed),
        (_, Turn::Breaks) => Some(Stage::Replacing),
        (_, Turn::Connects) => Some(Stage::Connected),
        (_, Turn::Loses) => Some(Stage::Retrying),
        // One that only sends is connected from the beginning.
        (Stage::Connected, Turn::Starts) => Some(Stage::Connected),
        (_, Turn::Starts) => Some(Stage::Connecting),
    }
}

/// One adapter, as core sees it.
#[derive(Debug)]
pub struct Adapter {
    pub(super) generation: u64,
    stage: Stage,
    since_ms: u64,
    error: Option<String>,
    identity: Option<String>,
    attempt: u32,
    next_try_ms: Option<u64>,
    /// When a new generation of its threads is started; at the stage `Replacing` alone.
    restart_ms: Option<u64>,
    /// How often in a row its threads ended by themselves.
    ended: u32,
    pub(super) received: u64,
    pub(super) sent: u64,
}

impl Adapter {
    pub(super) fn new(receives: bool) -> Self {
        Self {
            generation: 0,
            stage: if receives { Stage::Connecting } else { Stage::Connected },
            since_ms: 0,
            error: None,
            identity: None,
            attempt: 0,
            next_try_ms: None,
            restart_ms: None,
            ended: 0,
            received: 0,
            sent: 0,
        }
    }

    pub(super) fn due_ms(&self) -> Option<u64> {
        self.restart_ms
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stage == Stage::Connected
    }

    /// As `status` shows it.
    fn state(&self) -> AdapterState {
        match self.stage {
            Stage::Connecting => AdapterState::Connecting,
            Stage::Connected => AdapterState::Connected,
            Stage::Retrying | Stage::Replacing => AdapterState::Retrying,
            Stage::Failed => AdapterState::Failed,
        }
    }

    /// Moves on if that has a meaning now. → whether it had
    fn turn(&mut self, turn: Turn, error: Option<String>, now_ms: u64) -> bool {
        let Some(stage) = next(self.stage, turn) else { return false };
        let before = self.state();
        self.stage = stage;
        if self.state() != before {
            self.since_ms = now_ms;
        }
        self.error = error;
        (self.next_try_ms, self.restart_ms) = (None, None);
        true
    }
}

/// 1 s, 2 s, 4 s … at most a minute.
fn backoff_ms(attempt: u32) -> u64 {
    1000 * (1 << attempt.saturating_sub(1).min(6)).min(60)
}

impl Core {
    /// Starts all adapters, at once: one that hangs does not keep the others.
    pub(super) fn start_adapters(&mut self) {
        for name in self.adapters.keys().cloned().collect::<Vec<_>>() {
            self.start_adapter(&name);
        }
    }

    /// Adapters that are new or different are started, those that are gone are stopped, the others are not touched.
    pub(super) fn reconfigured(&mut self, rules: super::Rules, started: &[AdapterName], removed: &[AdapterName]) {
        self.rules = rules;
        self.plan_by_calendar();
        self.apply_moves();
        for name in removed {
            if self.adapters.remove(name).is_some() {
                self.effects.push(Effect::StopAdapter { name: name.clone() });
            }
        }
        for name in started {
            let receives = self.rules.adapters.get(name).is_some_and(|rules| rules.receives);
            let former = self.adapters.remove(name).map_or(0, |adapter| adapter.generation);
            let mut adapter = Adapter::new(receives);
            (adapter.generation, adapter.since_ms) = (former, self.now.mono_ms);
            self.adapters.insert(name.clone(), adapter);
            if !self.phase.stopping() {
                self.start_adapter(name);
            }
        }
    }

    fn start_adapter(&mut self, name: &AdapterName) {
        let Some(adapter) = self.adapters.get_mut(name) else { return };
        if !adapter.turn(Turn::Starts, adapter.error.clone(), self.now.mono_ms) {
            return;
        }
        adapter.generation += 1;
        self.effects.push(Effect::StartAdapter { name: name.clone(), generation: adapter.generation });
    }

    pub(super) fn restart_adapters(&mut self) {
        if self.phase.stopping() {
            return;
        }
        let now_ms = self.now.mono_ms;
        let due = |adapter: &Adapter| adapter.restart_ms.is_some_and(|due_ms| due_ms <= now_ms);
        for name in self.adapters.iter().filter(|(_, adapter)| due(adapter)).map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.start_adapter(&name);
        }
    }

    pub(super) fn adapter_event(&mut self, name: &AdapterName, generation: u64, what: AdapterEvent) {
        let now_ms = self.now.mono_ms;
        let Some(adapter) = self.adapters.get_mut(name) else { return };
        if adapter.generation != generation {
            return; // A replaced generation has nothing to say any more.
        }
        match what {
            AdapterEvent::Message { inbound, receipt } => {
                adapter.received += 1;
                self.message(*inbound, generation, receipt);
            }
            AdapterEvent::Connected { identity } => {
                if !adapter.turn(Turn::Connects, None, now_ms) {
                    return;
                }
                (adapter.attempt, adapter.ended) = (0, 0);
                adapter.identity = Some(identity.clone());
                self.log(Level::Info, name, format!("connected as {identity}"));
                self.wake_deliveries(name);
            }
            AdapterEvent::Retrying { cause, attempt, next_ms } => {
                if !adapter.turn(Turn::Loses, Some(cause.clone()), now_ms) {
                    return;
                }
                (adapter.attempt, adapter.next_try_ms) = (attempt, Some(now_ms + next_ms));
                self.log(Level::Warn, name, format!("{cause}; next try in {} s (attempt {attempt})", next_ms.div_ceil(1000)));
            }
            AdapterEvent::Failed { cause, remedy } => self.adapter_failed(name, &cause, &remedy),
            AdapterEvent::Moved { old, new } => {
                self.chat_moved(name, &old, &new);
            }
            AdapterEvent::PreviewShown { turn, platform_id } => self.preview_shown(turn, platform_id),
            AdapterEvent::Ended { cause } => self.adapter_ended(name, &cause),
            AdapterEvent::Wedged { activity } => {
                self.log(Level::Warn, name, format!("does not come back from \"{activity}\"; cutting it and starting anew"));
                self.effects.push(Effect::CutAdapter { name: name.clone() });
                self.adapter_ended(name, &format!("stuck in \"{activity}\""));
            }
        }
    }

    /// A reply was refused in a way that only the operator can mend: nothing more is received either, it stays with the
    /// platform.
    pub(super) fn sender_failed(&mut self, name: &AdapterName, cause: &str, remedy: &str) {
        self.adapter_failed(name, cause, remedy);
        self.effects.push(Effect::CutAdapter { name: name.clone() });
    }

    /// Only the operator can help. Told once; the others run on.
    fn adapter_failed(&mut self, name: &AdapterName, cause: &str, remedy: &str) {
        let now_ms = self.now.mono_ms;
        let Some(adapter) = self.adapters.get_mut(name) else { return };
        if !adapter.turn(Turn::Fails, Some(cause.to_owned()), now_ms) {
            return;
        }
        self.log(Level::Error, name, format!("{cause}. {remedy}"));
    }

    fn adapter_ended(&mut self, name: &AdapterName, cause: &str) {
        if self.phase.stopping() {
            return;
        }
        let now_ms = self.now.mono_ms;
        let Some(adapter) = self.adapters.get_mut(name) else { return };
        if !adapter.turn(Turn::Breaks, Some(cause.to_owned()), now_ms) {
            return;
        }
        adapter.ended += 1;
        let wait_ms = backoff_ms(adapter.ended);
        (adapter.attempt, adapter.next_try_ms, adapter.restart_ms) = (adapter.ended, Some(now_ms + wait_ms), Some(now_ms + wait_ms));
        self.log(Level::Warn, name, format!("{cause}; starting it anew in {} s", wait_ms / 1000));
    }

    /// The adapters' lines in `status`, in the order of their names.
    #[must_use]
    pub fn adapter_views(&self) -> Vec<AdapterView> {
        let view = |(name, adapter): (&AdapterName, &Adapter)| AdapterView {
            name: name.clone(),
            state: adapter.state(),
            since_ms: adapter.since_ms,
            error: adapter.error.clone(),
            identity: adapter.identity.clone(),
            attempt: adapter.attempt,
            next_try_ms: adapter.next_try_ms,
            received: adapter.received,
            sent: adapter.sent,
        };
        self.adapters.iter().map(view).collect()
    }

    /// The log says a stranger's name once, not with each of their messages.
    pub(super) fn log_stranger(&mut self, adapter: &AdapterName, sender: &str, name: &str, chat: &str) {
        if self.strangers.len() >= limits::STRANGERS_MAX {
            self.strangers.clear();
        }
        if self.strangers.insert((adapter.clone(), sender.to_owned())) {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            let text =
                format!("ignoring {shown} (user {sender} in chat {chat}): not in allowed_users; further messages are ignored silently");
            self.log(Level::Warn, adapter, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: [Stage; 5] = [Stage::Connecting, Stage::Connected, Stage::Retrying, Stage::Replacing, Stage::Failed];

    /// The table as a whole. A dash is what is ignored.
    #[test]
    fn each_stage_knows_what_each_event_means() {
        let name = |stage: Option<Stage>| stage.map_or_else(|| "-".to_owned(), |stage| format!("{stage:?}").to_lowercase());
        let row = |turn: Turn| STAGES.map(|stage| name(next(stage, turn))).join(" ");
        //                                    connecting connected retrying replacing failed
        assert_eq!(row(Turn::Starts), "connecting connected connecting connecting -");
        assert_eq!(row(Turn::Connects), "connected connected connected - -");
        assert_eq!(row(Turn::Loses), "retrying retrying retrying - -");
        assert_eq!(row(Turn::Fails), "failed failed failed failed -");
        assert_eq!(row(Turn::Breaks), "replacing replacing replacing - -");
    }

    #[test]
    fn a_new_generation_is_due_at_one_stage_alone() {
        for turn in [Turn::Starts, Turn::Connects, Turn::Loses, Turn::Fails] {
            let mut adapter = Adapter::new(true);
            assert!(adapter.turn(Turn::Breaks, None, 1));
            adapter.restart_ms = Some(2);
            let moved = adapter.turn(turn, None, 3);
            assert_eq!(adapter.restart_ms.is_some(), adapter.stage == Stage::Replacing, "{turn:?}, moved: {moved}");
        }
    }
}
