//! SIGHUP: the configuration is read again, and what has changed is taken over without touching the rest.

use super::exclusive::exclusive;
use super::lanes::Message;
use super::{Control, assemble};
use crate::adapter::{Adapter, table};
use crate::config::{self, AdapterConfig, Config, Environment, LoadError};
use crate::core::event::{Delivered, Event};
use crate::core::types::AdapterName;
use crate::provider;
use crate::service::notify::Notice;
use crate::thread::CancelToken;
use std::sync::Arc;

/// What a reload changes, all of it built before any of it is applied.
struct Change {
    agent: crate::agent::turn::Agent,
    /// New or different adapters.
    adapters: Vec<(AdapterConfig, Arc<dyn Adapter>)>,
    removed: Vec<AdapterName>,
}

impl Control {
    /// Reads the file on a thread of its own: the disk may be slow.
    pub(super) fn reload(&mut self) {
        let Some(places) = self.places.clone() else { return };
        self.notifier.tell(&[Notice::Reloading]);
        let lanes = self.lanes.clone();
        let read = move |_: &CancelToken| {
            let result = match config::load(&places, &Environment::of_process(), &table::Keys) {
                Ok(loaded) => {
                    for warning in &loaded.warnings {
                        log::warn!(target: "config", "{warning}");
                    }
                    Ok(loaded.config)
                }
                Err(LoadError::Missing) => Err(format!("{} is not there", places.config.display())),
                Err(LoadError::Unreadable { shown_path, cause }) => Err(format!("{shown_path} cannot be read: {cause}")),
                Err(LoadError::Invalid { rendered, .. }) => Err(rendered),
            };
            lanes.urgent(Message::Reloaded(Box::new(result)));
        };
        if let Err(error) = self.threads.spawn("reload", 0, self.token.child(), |_| (), read) {
            log::error!(target: "control", "cannot reload: {error}");
            self.notifier.ready("running");
        }
    }

    pub(super) fn reloaded(&mut self, result: Result<Config, String>) {
        if self.core.phase().stopping() {
            return;
        }
        match result.and_then(|config| self.change(&config).map(|change| (config, change))) {
            Ok((config, change)) => self.apply(config, change),
            Err(cause) => log::error!(target: "config", "not reloaded, the old configuration stays in force: {cause}"),
        }
        self.notifier.ready("running");
    }

    fn change(&self, new: &Config) -> Result<Change, String> {
        let chain = provider::build(&new.providers)?;
        let agent = assemble::agent(new, chain, &self.net, self.agent.children.clone(), self.agent.protected.clone());
        let enabled = |config: &Config, name: &str| config.adapters.iter().find(|entry| entry.enabled && entry.name == name).cloned();
        let mut adapters = Vec::new();
        for entry in new.adapters.iter().filter(|entry| entry.enabled) {
            if enabled(&self.config, &entry.name).is_none_or(|old| connects_differently(&old, entry)) {
                adapters.push((entry.clone(), exclusive(Arc::from(table::build(entry)?), entry, &self.config.state_dir)));
            }
        }
        let old = self.config.adapters.iter().filter(|entry| entry.enabled);
        let removed = old.filter(|entry| enabled(new, &entry.name).is_none()).map(|entry| entry.name.clone()).collect();
        Ok(Change { agent, adapters, removed })
    }

    fn apply(&mut self, config: Config, change: Change) {
        let Change { agent, adapters, removed } = change;
        let later: Vec<&str> = [
            ("[shutdown] and [restart]", config.shutdown != self.config.shutdown),
            ("[log]", config.log_level != self.config.log_level),
            ("[memory]", config.memory != self.config.memory),
            ("[net]", config.ca_file != self.config.ca_file),
            ("the state directory", config.state_dir != self.config.state_dir),
        ]
        .into_iter()
        .filter_map(|(what, differs)| differs.then_some(what))
        .collect();
        self.agent = Arc::new(agent);
        let started: Vec<AdapterName> = adapters.iter().map(|(entry, _)| entry.name.clone()).collect();
        for (entry, adapter) in adapters {
            match self.adapters.get_mut(&entry.name) {
                Some(known) => {
                    (known.adapter, known.streaming) = (adapter, entry.streaming);
                    entry.platform.clone_into(&mut known.platform);
                }
                None => {
                    let attached = assemble::attach(&entry, adapter, &self.board, &self.token);
                    self.adapters.insert(entry.name.clone(), attached);
                }
            }
        }
        let list = |names: &[AdapterName]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        log::info!(target: "config", "reloaded; adapters started: {}, stopped: {}", list(&started), list(&removed));
        if !later.is_empty() {
            log::warn!(target: "config", "{} changed: that needs a restart (hermes-gateway restart)", later.join(", "));
        }
        // The bounds of the running process stay what they were announced to be.
        let shutdown = self.config.shutdown.clone();
        self.config = Config { shutdown, ..config };
        let rules = Box::new(assemble::rules(&self.config, &self.adapters));
        self.feed(Event::Reconfigured { rules, started, removed });
    }

    pub(super) fn stop_adapter(&mut self, name: &AdapterName) {
        let Some(known) = self.adapters.remove(name) else { return };
        known.token.cancel();
        for outbox in known.mailbox.untried() {
            self.lanes.event(Event::Delivered { adapter: name.clone(), outbox, result: Delivered::Untried });
        }
    }
}

/// Whether the connection has to be made anew. Who may speak is core's business and changes without that.
fn connects_differently(old: &AdapterConfig, new: &AdapterConfig) -> bool {
    (&old.platform, old.streaming, &old.keys, &old.secrets) != (&new.platform, new.streaming, &new.keys, &new.secrets)
}
