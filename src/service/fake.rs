//! A gateway for tests: it remembers what it was asked, and answers as it is told.

use super::admin::Admin;
use super::report::{AdapterReport, GatewayState, QueueReport, StatusReport, StoreReport, ThreadReport, TurnReport};
use crate::adapter::local::{Hub, Local};
use crate::adapter::{Outlet, Part, Preview, ToolLine};
use crate::clock::Deadline;
use crate::core::types::{AdapterState, ChatRef, OutboundKind, OutboxId};
use crate::thread::CancelToken;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How it answers a message: called with what it was told and the outlet to the terminal.
pub type Script = dyn Fn(&Said, &mut dyn Outlet) + Send + Sync;

/// A message from a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub chat: ChatRef,
    pub text: String,
    pub message_id: String,
}

pub struct FakeAdmin {
    pub hub: Arc<Hub>,
    pub said: Mutex<Vec<Said>>,
    /// Names of other requests.
    pub asked: Mutex<Vec<String>>,
    pub report: Mutex<StatusReport>,
    pub script: Box<Script>,
}

impl FakeAdmin {
    pub fn new(script: impl Fn(&Said, &mut dyn Outlet) + Send + Sync + 'static) -> Arc<Self> {
        let (hub, script) = (Hub::new(), Box::new(script));
        Arc::new(Self { hub, said: Mutex::default(), asked: Mutex::default(), report: Mutex::new(sample_report()), script })
    }

    fn note(&self, what: &str) {
        self.asked.lock().expect("sound").push(what.to_owned());
    }
}

impl Admin for FakeAdmin {
    fn status(&self) -> StatusReport {
        self.report.lock().expect("sound").clone()
    }
    fn stop(&self) -> Result<(), String> {
        self.note("stop");
        Ok(())
    }
    fn restart(&self) -> Result<(), String> {
        self.note("restart");
        Err("restarts are switched off".to_owned())
    }
    fn send(&self, chat: ChatRef, text: String) -> Result<OutboxId, String> {
        self.note(&format!("send {} {text}", chat.session()));
        if chat.adapter == "telegram" { Ok(12) } else { Err(format!("there is no adapter {}", chat.adapter)) }
    }
    fn say(&self, chat: ChatRef, _sender_name: String, text: String, message_id: String) -> Result<(), String> {
        if text == "full" {
            return Err("too many messages wait".to_owned());
        }
        let said = Said { chat, text, message_id };
        self.said.lock().expect("sound").push(said.clone());
        let mut outlet = Local::new(Arc::clone(&self.hub)).sender(&CancelToken::new());
        (self.script)(&said, outlet.as_mut());
        Ok(())
    }
    fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
    fn command(&self, name: &str, args: Value) -> Result<Value, String> {
        match name {
            "echo" => Ok(args),
            "panic" => panic!("asked for"),
            _ => Err(format!("there is no command {name}")),
        }
    }
}

/// A message to the terminal, as control's sender would deliver it.
pub fn deliver(outlet: &mut dyn Outlet, said: &Said, kind: OutboundKind, text: &str, replaces: Option<&str>) {
    let key = format!("{}-{text}", said.message_id);
    let part = Part { chat: &said.chat, text, reply_to: Some(&said.message_id), buttons: &[], key: &key };
    let deadline = Deadline::after(Duration::from_secs(5));
    outlet.announce(kind);
    match replaces {
        Some(id) => outlet.edit(id, &part, deadline).expect("attached"),
        None => drop(outlet.send(&part, deadline).expect("attached")),
    }
}

pub fn show(outlet: &mut dyn Outlet, said: &Said, text: &str, tool: Option<ToolLine>) {
    let preview = Preview { text: text.to_owned(), tool, notice: None };
    outlet.preview(&said.chat, Some("p1"), &preview, Deadline::after(Duration::from_secs(5))).expect("shown");
}

pub fn tool(number: u32, summary: &str, for_ms: u64, end: Option<&str>) -> ToolLine {
    ToolLine { number, name: "shell".to_owned(), summary: summary.to_owned(), for_ms, end: end.map(str::to_owned) }
}

pub fn adapter_report(name: &str, state: AdapterState) -> AdapterReport {
    AdapterReport {
        name: name.to_owned(),
        platform: name.to_owned(),
        state,
        since_ms: 273_600_000,
        error: None,
        identity: None,
        attempt: 0,
        next_try_ms: None,
        heard_ms: Some(2000),
        received: 1204,
        sent: 1377,
    }
}

pub fn sample_report() -> StatusReport {
    let thread = |name: &str, activity: &str, for_ms, due_ms| ThreadReport {
        name: name.to_owned(),
        activity: activity.to_owned(),
        for_ms,
        due_ms,
        abandoned: false,
    };
    StatusReport {
        state: GatewayState::Running,
        pid: 4242,
        version: "0.1.0".to_owned(),
        uptime_ms: 273_600_000,
        stop_budget_ms: 25_000,
        rss_bytes: 4_000_000,
        adapters: vec![adapter_report("telegram", AdapterState::Connected)],
        threads: vec![thread("control", "waiting for events", 200, None), thread("store", "waiting for work", 900, None)],
        turns: vec![TurnReport {
            session: "telegram:77001".to_owned(),
            for_ms: 38_000,
            activity: "shell: cargo build (pid 5120, 36 s)".to_owned(),
        }],
        inbox: QueueReport { pending: 1 },
        outbox: QueueReport { pending: 0 },
        dead_letters: 0,
        children: 1,
        store: StoreReport { bytes: 12_400_000, error: None, last_commit_ms: Some(4) },
        schedule: None,
        unresponsive: None,
    }
}
