//! What others may know of control without asking it: the last snapshot, and the pulses of all threads.
//!
//! `status` is answered from here, so it works while control is stuck. The locks are held for a copy, never for I/O.

use super::lanes::{Lanes, Message, Signal};
use crate::adapter::local;
use crate::clock::{self, Deadline};
use crate::core::event::{AdapterView, Event, RequestId};
use crate::core::record::{Op, Outcome};
use crate::core::schedule::Wish;
use crate::core::types::{AdapterName, AdapterState, ChatRef, Inbound, OutboxId, TurnId};
use crate::core::{Core, Phase, ScheduleView};
use crate::limits;
use crate::process::Children;
use crate::service::admin::Admin;
use crate::service::report::{
    AdapterReport, GatewayState, NextRunReport, QueueReport, ScheduleReport, StatusReport, StoreReport, ThreadReport, TurnReport,
};
use crate::store::StoreHandle;
use crate::thread::{Activity, Guardian, Threads};
use crossbeam_channel::{Sender, bounded};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Control's state as of its last event.
#[derive(Debug, Clone)]
struct Snapshot {
    phase: Phase,
    adapters: Vec<AdapterView>,
    /// Session and since when.
    turns: Vec<(TurnId, String, u64)>,
    waiting: usize,
    undelivered: usize,
    schedule: ScheduleView,
}

/// Shared by control, the control socket and the supervisor's notifications.
pub struct Board {
    snapshot: Mutex<Snapshot>,
    threads: Threads,
    children: Children,
    pub(super) lanes: Lanes,
    store: OnceLock<StoreHandle>,
    stop_budget: Duration,
    platforms: Mutex<BTreeMap<AdapterName, (String, Arc<AtomicU64>)>>,
    requests: Mutex<HashMap<RequestId, Sender<Result<String, String>>>>,
    next_request: AtomicU64,
    /// As of the store's last answer.
    dead_letters: AtomicU64,
    hub: Arc<local::Hub>,
    guardian: Arc<Guardian>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Copies of plain values: valid after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    #[must_use]
    pub fn new(threads: &Threads, children: &Children, lanes: &Lanes, stop_budget: Duration, guardian: &Arc<Guardian>) -> Self {
        let snapshot = Snapshot {
            phase: Phase::Starting,
            adapters: Vec::new(),
            turns: Vec::new(),
            waiting: 0,
            undelivered: 0,
            schedule: ScheduleView::default(),
        };
        Self {
            snapshot: Mutex::new(snapshot),
            threads: threads.clone(),
            children: children.clone(),
            lanes: lanes.clone(),
            store: OnceLock::new(),
            stop_budget,
            platforms: Mutex::default(),
            requests: Mutex::default(),
            next_request: AtomicU64::new(1),
            dead_letters: AtomicU64::new(0),
            hub: local::Hub::new(),
            guardian: Arc::clone(guardian),
        }
    }

    pub(super) fn store_is(&self, store: &StoreHandle) {
        let _ = self.store.set(store.clone());
    }

    #[cfg(debug_assertions)]
    pub(super) fn store(&self) -> Option<&StoreHandle> {
        self.store.get()
    }

    /// Nobody can publish or read meanwhile.
    #[cfg(debug_assertions)]
    pub(super) fn hold(&self, meanwhile: impl FnOnce()) {
        let _held = lock(&self.snapshot);
        meanwhile();
    }

    pub(super) fn adapter_is(&self, name: &AdapterName, platform: &str, heard: &Arc<AtomicU64>) {
        lock(&self.platforms).insert(name.clone(), (platform.to_owned(), Arc::clone(heard)));
    }

    pub(super) fn publish(&self, core: &Core) {
        let snapshot = Snapshot {
            phase: core.phase(),
            adapters: core.adapter_views(),
            turns: core.running().map(|(id, turn)| (*id, turn.session.clone(), turn.since_ms)).collect(),
            waiting: core.waiting(),
            undelivered: core.undelivered(),
            schedule: core.schedule_view(),
        };
        *lock(&self.snapshot) = snapshot;
    }

    pub(super) fn respond(&self, request: RequestId, result: Result<String, String>) {
        if let Some(waiting) = lock(&self.requests).remove(&request) {
            let _ = waiting.try_send(result);
        }
    }

    /// Asks control and waits for its answer.
    fn ask(&self, event: impl FnOnce(RequestId) -> Event) -> Result<String, String> {
        if matches!(lock(&self.snapshot).phase, Phase::Leaving { .. }) {
            return Err("the gateway is stopping; try again when it is back".to_owned());
        }
        let request = self.next_request.fetch_add(1, Ordering::SeqCst);
        let (sender, answer) = bounded(1);
        lock(&self.requests).insert(request, sender);
        self.lanes.event(event(request));
        let deadline = Deadline::after(limits::ADMIN_ANSWER);
        let result = answer.recv_deadline(deadline.instant());
        lock(&self.requests).remove(&request);
        result.unwrap_or_else(|_| Err("the gateway did not answer in time; see: hermes-gateway status".to_owned()))
    }

    fn report(&self) -> StatusReport {
        let now_ms = clock::mono_ms();
        let snapshot = lock(&self.snapshot).clone();
        let threads = self.threads.list();
        let activity = |name: &str| threads.iter().find(|thread| thread.name == name).map(|thread| thread.activity.clone());
        let turns = snapshot.turns.iter().map(|(id, session, since_ms)| TurnReport {
            session: session.clone(),
            for_ms: now_ms.saturating_sub(*since_ms),
            activity: activity(&format!("turn/{id}")).map_or_else(|| "ending".to_owned(), |activity| activity.text),
        });
        // Waiting for events has no deadline; handling one has.
        let unresponsive_ms = u64::try_from(limits::CONTROL_UNRESPONSIVE.as_millis()).unwrap_or(u64::MAX);
        let unresponsive = activity("control")
            .filter(|control| control.due_ms.is_some() && now_ms.saturating_sub(control.since_ms) >= unresponsive_ms)
            .map(|control| format!("stuck {} s in \"{}\"", now_ms.saturating_sub(control.since_ms) / 1000, control.text));
        let store = self.store.get().map(StoreHandle::health);
        StatusReport {
            state: match snapshot.phase {
                Phase::Starting => GatewayState::Starting,
                Phase::Running => GatewayState::Running,
                Phase::Draining { .. } => GatewayState::Draining,
                Phase::Leaving { .. } => GatewayState::Stopping,
            },
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: now_ms,
            stop_budget_ms: u64::try_from(self.stop_budget.as_millis()).unwrap_or(u64::MAX),
            rss_bytes: super::memory::resident().map_or(0, |resident| resident.bytes),
            adapters: self.adapter_reports(&snapshot, now_ms),
            turns: turns.collect(),
            inbox: QueueReport { pending: snapshot.waiting as u64 },
            outbox: QueueReport { pending: snapshot.undelivered as u64 },
            dead_letters: self.dead_letters(),
            children: self.children.count(),
            store: StoreReport {
                bytes: store.as_ref().map_or(0, |health| health.bytes),
                error: store.as_ref().and_then(|health| health.error.clone()),
                last_commit_ms: store.as_ref().and_then(|health| health.last_commit_ms),
            },
            schedule: Some(ScheduleReport {
                jobs: snapshot.schedule.jobs as u64,
                next: snapshot.schedule.next.map(|(job, session, due_ms)| NextRunReport {
                    job,
                    session,
                    in_ms: due_ms.saturating_sub(now_ms),
                }),
            }),
            threads: threads.iter().map(|thread| thread_report(&thread.name, &thread.activity, thread.abandoned, now_ms)).collect(),
            unresponsive,
        }
    }

    /// Asks the store, and goes without when it does not answer at once.
    fn dead_letters(&self) -> u64 {
        let Some(store) = self.store.get() else { return 0 };
        match store.call(Op::Figures, Deadline::after(limits::FIGURES)) {
            Ok(Outcome::Figures(figures)) => {
                self.dead_letters.store(figures.dead_letters, Ordering::Relaxed);
                figures.dead_letters
            }
            _ => self.dead_letters.load(Ordering::Relaxed),
        }
    }

    fn adapter_reports(&self, snapshot: &Snapshot, now_ms: u64) -> Vec<AdapterReport> {
        let platforms = lock(&self.platforms).clone();
        let report = |view: &AdapterView| {
            let (platform, heard) =
                platforms.get(&view.name).map_or((String::new(), 0), |(platform, heard)| (platform.clone(), heard.load(Ordering::Relaxed)));
            AdapterReport {
                name: view.name.clone(),
                platform,
                state: view.state,
                since_ms: now_ms.saturating_sub(view.since_ms),
                error: view.error.clone(),
                identity: view.identity.clone(),
                attempt: view.attempt,
                next_try_ms: view.next_try_ms.filter(|_| view.state == AdapterState::Retrying).map(|due| due.saturating_sub(now_ms)),
                heard_ms: (heard > 0).then(|| now_ms.saturating_sub(heard)),
                received: view.received,
                sent: view.sent,
            }
        };
        snapshot.adapters.iter().map(report).collect()
    }
}

impl Admin for Board {
    fn status(&self) -> StatusReport {
        self.report()
    }

    fn stop(&self) -> Result<(), String> {
        self.guardian.stop_is_asked();
        self.guardian.stop_within(self.stop_budget + limits::GUARDIAN_SLACK);
        self.lanes.urgent(Message::Signal(Signal::Stop));
        Ok(())
    }

    fn restart(&self) -> Result<(), String> {
        self.lanes.urgent(Message::Signal(Signal::Restart));
        Ok(())
    }

    fn send(&self, chat: ChatRef, text: String) -> Result<OutboxId, String> {
        let answer = self.ask(|request| Event::Send { request, chat, text })?;
        answer.parse().map_err(|_| format!("unexpected answer: {answer}"))
    }

    fn say(&self, chat: ChatRef, sender_name: String, text: String, message_id: String) -> Result<(), String> {
        let inbound = Inbound {
            chat,
            message_id,
            // Who can open the socket is the owner of this process.
            sender: local::NAME.to_owned(),
            sender_name,
            text,
            attachments: Vec::new(),
            quote: None,
            private: true,
            addressed: true,
            sent_ms: clock::wall_ms(),
        };
        self.ask(|request| Event::Say { request, inbound: Box::new(inbound) }).map(drop)
    }

    fn hub(&self) -> &Arc<local::Hub> {
        &self.hub
    }

    fn command(&self, name: &str, args: serde_json::Value) -> Result<serde_json::Value, String> {
        #[cfg(debug_assertions)]
        if name == "fault" {
            return self.fault(&args);
        }
        if name == "reload" {
            self.lanes.urgent(Message::Signal(Signal::Reload));
            return Ok(serde_json::Value::Null);
        }
        if name == "cron" {
            let wish: Wish = serde_json::from_value(args).map_err(|error| format!("that is no request about jobs: {error}"))?;
            let answer = self.ask(|request| Event::Schedule { request, wish: Box::new(wish) })?;
            return serde_json::from_str(&answer).map_err(|error| format!("unexpected answer: {error}"));
        }
        Err(format!("this gateway ({}) does not know the command `{name}`", env!("CARGO_PKG_VERSION")))
    }
}

fn thread_report(name: &str, activity: &Activity, abandoned: bool, now_ms: u64) -> ThreadReport {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    ThreadReport {
        name: name.to_owned(),
        activity: activity.text.clone(),
        for_ms: now_ms.saturating_sub(activity.since_ms),
        due_ms: activity.due_ms.map(|due| signed(due).saturating_sub(signed(now_ms))),
        abandoned,
    }
}
