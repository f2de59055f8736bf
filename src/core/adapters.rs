//! The life of adapters: an explicit state, what changes it, and the timer of the next attempt.

use super::Core;
use super::event::{AdapterEvent, AdapterView, Effect, Level};
use super::types::{AdapterName, AdapterState};
use crate::limits;

/// One adapter, as core sees it.
#[derive(Debug)]
pub struct Adapter {
    pub(super) generation: u64,
    pub(super) state: AdapterState,
    since_ms: u64,
    error: Option<String>,
    identity: Option<String>,
    attempt: u32,
    next_try_ms: Option<u64>,
    /// When a new generation of its threads is started.
    restart_ms: Option<u64>,
    /// How often in a row its threads ended by themselves.
    ended: u32,
    pub(super) received: u64,
    pub(super) sent: u64,
}

impl Adapter {
    pub(super) fn new(receives: bool) -> Self {
        let state = if receives { AdapterState::Connecting } else { AdapterState::Connected };
        Self {
            generation: 0,
            state,
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

    fn enter(&mut self, state: AdapterState, error: Option<String>, now_ms: u64) {
        if self.state != state {
            self.since_ms = now_ms;
        }
        self.state = state;
        self.error = error;
        self.next_try_ms = None;
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
        adapter.generation += 1;
        adapter.restart_ms = None;
        if adapter.state != AdapterState::Connected {
            adapter.enter(AdapterState::Connecting, adapter.error.clone(), self.now.mono_ms);
        }
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
        if adapter.restart_ms.is_some() && matches!(what, AdapterEvent::Connected { .. } | AdapterEvent::Retrying { .. }) {
            return; // It was cut or has ended: until the next generation starts, nobody speaks for the adapter.
        }
        match what {
            AdapterEvent::Message { inbound, receipt } => {
                adapter.received += 1;
                self.message(*inbound, generation, receipt);
            }
            AdapterEvent::Connected { identity } => {
                adapter.enter(AdapterState::Connected, None, now_ms);
                (adapter.attempt, adapter.ended) = (0, 0);
                adapter.identity = Some(identity.clone());
                self.log(Level::Info, name, format!("connected as {identity}"));
                self.wake_deliveries(name);
            }
            AdapterEvent::Retrying { cause, attempt, next_ms } => {
                adapter.enter(AdapterState::Retrying, Some(cause.clone()), now_ms);
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

    /// Only the operator can help. Told once; the others run on.
    pub(super) fn adapter_failed(&mut self, name: &AdapterName, cause: &str, remedy: &str) {
        let now_ms = self.now.mono_ms;
        let Some(adapter) = self.adapters.get_mut(name) else { return };
        if adapter.state == AdapterState::Failed {
            return;
        }
        adapter.enter(AdapterState::Failed, Some(cause.to_owned()), now_ms);
        adapter.restart_ms = None;
        self.log(Level::Error, name, format!("{cause}. {remedy}"));
    }

    fn adapter_ended(&mut self, name: &AdapterName, cause: &str) {
        if self.phase.stopping() {
            return;
        }
        let now_ms = self.now.mono_ms;
        let Some(adapter) = self.adapters.get_mut(name) else { return };
        if adapter.state == AdapterState::Failed || adapter.restart_ms.is_some() {
            return;
        }
        adapter.ended += 1;
        let wait_ms = backoff_ms(adapter.ended);
        adapter.enter(AdapterState::Retrying, Some(cause.to_owned()), now_ms);
        (adapter.attempt, adapter.next_try_ms, adapter.restart_ms) = (adapter.ended, Some(now_ms + wait_ms), Some(now_ms + wait_ms));
        self.log(Level::Warn, name, format!("{cause}; starting it anew in {} s", wait_ms / 1000));
    }

    /// The adapters' lines in `status`, in the order of their names.
    #[must_use]
    pub fn adapter_views(&self) -> Vec<AdapterView> {
        let view = |(name, adapter): (&AdapterName, &Adapter)| AdapterView {
            name: name.clone(),
            state: adapter.state,
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
