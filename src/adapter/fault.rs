//! A platform that misbehaves as it is told. Debug builds only: it is what the black-box tests stop, cut and replace.
//!
//! It stands for the defect that review does not rule out: a thread that does not come back when its token is
//! cancelled, or that still speaks when it has been replaced. A release build does not have it, because nothing that
//! can be configured there may be able to harm a gateway; a test of the table holds that.

use super::table::{KeyInfo, PlatformInfo};
use super::{Adapter, AdapterError, Inlet, Link, Outlet, Part, SendError, SendLink, Traits};
use crate::clock::{self, Deadline};
use crate::config::keys::KeyKind;
use crate::config::{AdapterConfig, duration};
use crate::core::types::{ChatRef, Inbound, Receipt};
use crate::limits;
use crate::thread::{enter, wait_for_work};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub const NAME: &str = "fault";

const fn key(name: &'static str, default: &'static str, help: &'static str) -> KeyInfo {
    KeyInfo { name, kind: KeyKind::Any, required: false, default: Some(default), help }
}

/// The platform's line in the table.
pub const PLATFORM: PlatformInfo = PlatformInfo {
    name: NAME,
    keys: &[
        key("receive", "ok", "ok, ignore_token, ignore_then_emit or panic"),
        key("send", "ok", "ok, ignore_token or panic"),
        key("due", "1h", "after which a thread that ignores its token counts as stuck"),
        key("times", "1000000", "how many generations of the threads misbehave; later ones are well"),
    ],
    users_help: "anything",
    login: false,
    build,
};

/// How often a thread that ignores everything turns over in its sleep.
const SLEEP: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receive {
    Ok,
    IgnoreToken,
    /// Ignores the token, and goes on talking once it is cancelled.
    IgnoreThenEmit,
    Panic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Send {
    Ok,
    IgnoreToken,
    Panic,
}

struct Fault {
    receive: Receive,
    send: Send,
    due: Duration,
    times: u64,
    /// Generations of the sender so far.
    outlets: AtomicU64,
    /// Messages sent, by all generations.
    sent: Arc<AtomicU64>,
}

fn build(config: &AdapterConfig) -> Result<Box<dyn Adapter>, String> {
    let value = |name: &str| config.keys.get(name).map_or("", String::as_str);
    let receive = match value("receive") {
        "" | "ok" => Receive::Ok,
        "ignore_token" => Receive::IgnoreToken,
        "ignore_then_emit" => Receive::IgnoreThenEmit,
        "panic" => Receive::Panic,
        other => return Err(format!("`receive` cannot be \"{other}\"")),
    };
    let send = match value("send") {
        "" | "ok" => Send::Ok,
        "ignore_token" => Send::IgnoreToken,
        "panic" => Send::Panic,
        other => return Err(format!("`send` cannot be \"{other}\"")),
    };
    let due = duration::parse(value("due")).map_err(|error| format!("`due`: {error}"))?;
    let times = value("times").parse().map_err(|_| "`times` is not a number".to_owned())?;
    Ok(Box::new(Fault { receive, send, due, times, outlets: AtomicU64::new(0), sent: Arc::default() }))
}

/// What a thread with a defect does: nothing of what it is asked.
fn ignore_everything(due: Duration, mut each_turn: impl FnMut()) -> ! {
    let _busy = enter(format_args!("ignoring its token"), Deadline::after(due));
    loop {
        #[allow(clippy::disallowed_methods)] // Not to be woken is the point.
        std::thread::sleep(SLEEP);
        each_turn();
    }
}

struct FaultInlet {
    receive: Receive,
    due: Duration,
    times: u64,
}

impl Inlet for FaultInlet {
    fn run(&mut self, link: &Link) -> Result<Infallible, AdapterError> {
        link.events.connected(&format!("generation {}", link.generation));
        match self.receive {
            _ if link.generation > self.times => {}
            Receive::Ok => {}
            Receive::IgnoreToken => ignore_everything(self.due, || ()),
            Receive::IgnoreThenEmit => ignore_everything(self.due, || {
                if link.token.is_cancelled() {
                    speak(link);
                }
            }),
            Receive::Panic => panic!("configured to panic"),
        }
        let _waiting = wait_for_work(format_args!("waiting for nothing"));
        while link.token.sleep(limits::LONG_WAIT).is_ok() {
            link.events.heard();
        }
        Err(AdapterError::Cancelled)
    }
}

/// Everything that an inlet can say. Of a replaced generation none of it may have an effect.
fn speak(link: &Link) {
    let inbound = Inbound {
        chat: ChatRef { adapter: link.name.clone(), chat: "ghost".to_owned(), thread: None },
        message_id: clock::mono_ms().to_string(),
        sender: "ghost".to_owned(),
        sender_name: "Ghost".to_owned(),
        text: "echo: from a replaced generation".to_owned(),
        attachments: Vec::new(),
        quote: None,
        private: true,
        addressed: true,
        sent_ms: clock::wall_ms(),
    };
    let _ = link.events.message(inbound, Receipt { id: 1, cursor: Some("ghost".to_owned()), memos: Vec::new() });
    link.events.connected("ghost");
    link.events.retrying("said by a ghost", 99, Duration::from_secs(99));
    link.events.moved("ghost", "elsewhere");
}

struct FaultOutlet {
    send: Send,
    due: Duration,
    sent: Arc<AtomicU64>,
}

impl Outlet for FaultOutlet {
    fn split(&self, text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    fn send(&mut self, _part: &Part<'_>, _deadline: Deadline) -> Result<String, SendError> {
        match self.send {
            Send::Ok => Ok((self.sent.fetch_add(1, Ordering::SeqCst) + 1).to_string()),
            Send::IgnoreToken => ignore_everything(self.due, || ()),
            Send::Panic => panic!("configured to panic"),
        }
    }

    fn edit(&mut self, _platform_id: &str, part: &Part<'_>, deadline: Deadline) -> Result<(), SendError> {
        self.send(part, deadline).map(drop)
    }

    fn typing(&mut self, _chat: &ChatRef, _deadline: Deadline) -> Result<(), SendError> {
        Ok(())
    }

    fn delete(&mut self, _chat: &ChatRef, _platform_id: &str, _deadline: Deadline) -> Result<(), SendError> {
        Ok(())
    }
}

impl Adapter for Fault {
    fn traits(&self) -> Traits {
        Traits {
            edits: false,
            typing: false,
            typing_interval: limits::LONG_WAIT,
            edit_interval: limits::LONG_WAIT,
            idempotent: false,
            liveness: limits::LONG_WAIT,
            receives: true,
        }
    }

    fn inlet(&self) -> Box<dyn Inlet> {
        Box::new(FaultInlet { receive: self.receive, due: self.due, times: self.times })
    }

    fn outlet(&self, _link: &SendLink) -> Box<dyn Outlet> {
        let generation = self.outlets.fetch_add(1, Ordering::SeqCst) + 1;
        let send = if generation > self.times { Send::Ok } else { self.send };
        Box::new(FaultOutlet { send, due: self.due, sent: Arc::clone(&self.sent) })
    }
}
