//! The threads of adapters: two a generation, `adapter/NAME` and `adapter/NAME/send`.

use super::links::{AdapterLink, SenderReport, SharedLink};
use super::{Attached, Control};
use crate::adapter::sender::SendingThread;
use crate::adapter::{Link, SendLink, runner};
use crate::clock;
use crate::core::event::{AdapterEvent, Delivered, Event, Lifecycle};
use crate::core::types::{AdapterName, AdapterState};
use crate::limits;
use crate::thread::ThreadEnd;
use crossbeam_channel::bounded;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

impl Control {
    pub(super) fn start_adapter(&mut self, name: &AdapterName, generation: u64) {
        self.adapter_threads.retain(|handle| !handle.has_ended());
        let Some(known) = self.adapters.get_mut(name) else { return };
        // The former generation can neither emit nor write any more, whether its threads have ended or not.
        known.token.cancel();
        for handle in self.adapter_threads.iter().filter(|handle| belongs(&handle.name, name)) {
            handle.abandon();
        }
        known.generation = generation;
        known.token = self.token.child();
        known.inlet_token = known.token.child();
        let (receipts, receipts_receiver) = bounded(limits::RECEIPTS_MAX);
        known.receipts = receipts;
        let link = Arc::new(AdapterLink {
            lanes: self.lanes.clone(),
            name: name.clone(),
            generation,
            token: known.inlet_token.clone(),
            heard: Arc::clone(&known.heard),
            connected: AtomicBool::new(false),
        });
        for outbox in known.mailbox.untried() {
            self.lanes.event(Event::Delivered { adapter: name.clone(), outbox, result: Delivered::Untried });
        }
        let started = self.start_sender(name, &link).and_then(|()| self.start_inlet(name, &link, receipts_receiver));
        if let Err(error) = started {
            link.tell(AdapterEvent::Ended { cause: error.to_string() });
        }
    }

    fn start_sender(&mut self, name: &AdapterName, link: &Arc<AdapterLink>) -> Result<(), crate::thread::SpawnError> {
        let Some(known) = self.adapters.get(name) else { return Ok(()) };
        let Attached { adapter, mailbox, token, .. } = known;
        let (adapter, mailbox, token) = (Arc::clone(adapter), Arc::clone(mailbox), token.clone());
        let (store, net, report) = (self.store.fenced(&token), self.net.clone(), SenderReport(Arc::clone(link)));
        let (log_target, panicked) = (name.clone(), Arc::clone(link));
        let handle = self.threads.spawn(
            &format!("adapter/{name}/send"),
            link.generation,
            token.clone(),
            move |end| {
                if let ThreadEnd::Panicked(cause) = end {
                    panicked.tell(AdapterEvent::Ended { cause: format!("its sender panicked: {cause}") });
                }
            },
            move |token| {
                let outlet = adapter.outlet(&SendLink { name: log_target.clone(), token: token.clone(), store: store.clone(), net });
                let report: Arc<dyn crate::adapter::sender::Report + Sync> = Arc::new(report);
                SendingThread { mailbox: &mailbox, outlet, traits: adapter.traits(), store, token, report, log_target }.run();
            },
        )?;
        self.adapter_threads.push(handle);
        Ok(())
    }

    fn start_inlet(
        &mut self,
        name: &AdapterName,
        link: &Arc<AdapterLink>,
        receipts: crossbeam_channel::Receiver<crate::core::types::Receipt>,
    ) -> Result<(), crate::thread::SpawnError> {
        let Some(known) = self.adapters.get(name).filter(|known| known.adapter.traits().receives) else { return Ok(()) };
        let (adapter, token) = (Arc::clone(&known.adapter), known.inlet_token.clone());
        let full_link = Link {
            name: name.clone(),
            generation: link.generation,
            token: token.clone(),
            store: self.store.fenced(&token),
            net: self.net.clone(),
            files: self.files.clone(),
            receipts,
            events: Box::new(SharedLink(Arc::clone(link))),
        };
        let (panicked, own) = (Arc::clone(link), Arc::clone(link));
        let handle = self.threads.spawn(
            &format!("adapter/{name}"),
            link.generation,
            token,
            move |end| {
                if let ThreadEnd::Panicked(cause) = end {
                    panicked.tell(AdapterEvent::Ended { cause: format!("panicked: {cause}") });
                }
            },
            move |_| {
                if let Some(fatal) = runner::receive(adapter.as_ref(), &full_link, &|| own.was_connected()) {
                    own.tell(AdapterEvent::Failed { cause: fatal.cause, remedy: fatal.remedy });
                }
            },
        )?;
        self.adapter_threads.push(handle);
        Ok(())
    }
}

impl Control {
    /// With each ping of the guardian: what is wrong without a thread being stuck in a call.
    pub(super) fn look_around(&mut self) {
        self.cut_deaf_adapters();
        let abandoned = self.threads.abandoned();
        if abandoned >= limits::ABANDONED_THREADS_MAX && !self.core.phase().stopping() {
            log::error!(target: "control", "{abandoned} threads do not come back and keep what they hold; restarting to be rid of them");
            self.feed(Event::Lifecycle(Lifecycle::Restart));
        }
    }

    /// A connection that looks open but over which nothing is heard any more is dead, whatever its thread does.
    fn cut_deaf_adapters(&mut self) {
        let now_ms = clock::mono_ms();
        let connected: Vec<AdapterName> =
            self.core.adapter_views().into_iter().filter_map(|view| (view.state == AdapterState::Connected).then_some(view.name)).collect();
        let deaf = |name: &AdapterName| {
            let known = self.adapters.get(name).filter(|known| known.adapter.traits().receives)?;
            let silent_ms = now_ms.saturating_sub(known.heard.load(Ordering::Relaxed));
            let limit_ms = u64::try_from(known.adapter.traits().liveness.as_millis()).unwrap_or(u64::MAX);
            (silent_ms > limit_ms).then(|| (name.clone(), known.generation, silent_ms / 1000))
        };
        for (name, generation, silent_s) in connected.iter().filter_map(deaf).collect::<Vec<_>>() {
            let activity = format!("connected, but nothing heard for {silent_s} s");
            self.feed(Event::Adapter { name, generation, what: AdapterEvent::Wedged { activity } });
        }
    }
}

fn belongs(thread: &str, adapter: &str) -> bool {
    thread.strip_prefix("adapter/").is_some_and(|rest| rest == adapter || rest.strip_suffix("/send") == Some(adapter))
}
