//! The platform `local`: the chats of terminals on this machine.
//!
//! Terminals attach to a chat through the control socket, or within the process (`demo`). The [`Hub`] hands them what
//! the outlet sends. It never waits for a terminal: previews that find no room are dropped, and a terminal that leaves
//! no room for a message is disconnected.

use super::{Adapter, AdapterError, Inlet, Link, Outlet, Part, Preview, SendError, SendLink, Traits};
use crate::clock::{self, Deadline};
use crate::core::types::{ChatRef, OutboundKind};
use crate::limits;
use crate::thread::{CancelToken, wait_for_work};
use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The name of the platform and of its one adapter.
pub const NAME: &str = "local";
/// A reply for a chat to which nobody is attached is tried again after this, or at once when somebody attaches.
const NOBODY_RETRY: Duration = Duration::from_secs(3600);

/// What a terminal is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HubEvent {
    /// A reply in the making. Replaces the last preview with this id.
    Preview {
        id: String,
        preview: Preview,
    },
    Message {
        /// The same in every attempt to deliver this message: a terminal shows it once.
        id: String,
        text: String,
        /// What it is, where the sender says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<OutboundKind>,
        /// The message of the terminal that it answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reply_to: Option<String>,
        /// The preview that it completes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<String>,
        /// Label and command.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        buttons: Vec<(String, String)>,
    },
    Typing,
    /// The preview with this id will have no reply.
    Gone {
        id: String,
    },
}

type WakeFn = Arc<dyn Fn() + Send + Sync>;
type AttachFn = Box<dyn Fn(&str) + Send + Sync>;

struct Client {
    number: u64,
    events: Sender<HubEvent>,
    wake: Option<WakeFn>,
}

/// Who is attached to which chat.
#[derive(Default)]
pub struct Hub {
    chats: Mutex<HashMap<String, Vec<Client>>>,
    next_number: AtomicU64,
    on_attach: OnceLock<AttachFn>,
}

/// One terminal's place in a chat; leaves it when dropped.
pub struct Attachment {
    hub: Arc<Hub>,
    chat: String,
    number: u64,
    /// Disconnected when the terminal was too slow and is cut off.
    pub events: Receiver<HubEvent>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.hub.detach(&self.chat, self.number);
    }
}

impl Hub {
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Called with the chat whenever a terminal attaches, so that what waits for it can be sent at once. May be set
    /// once; must not block.
    pub fn on_attach(&self, call: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.on_attach.set(Box::new(call));
    }

    /// Attaches a terminal to a chat. `wake` is called after each event that is put into its queue.
    ///
    /// # Errors
    /// A sentence, when too many are attached.
    pub fn attach(self: &Arc<Self>, chat: &str, wake: Option<WakeFn>) -> Result<Attachment, String> {
        let (sender, events) = bounded(limits::HUB_QUEUE_MAX);
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        {
            let mut chats = self.lock();
            let count: usize = chats.values().map(Vec::len).sum();
            if count >= limits::HUB_CLIENTS_MAX {
                return Err(format!("{count} terminals are attached already; close one"));
            }
            chats.entry(chat.to_owned()).or_default().push(Client { number, events: sender, wake });
        }
        if let Some(call) = self.on_attach.get() {
            call(chat);
        }
        Ok(Attachment { hub: Arc::clone(self), chat: chat.to_owned(), number, events })
    }

    /// How many terminals are attached to a chat.
    #[must_use]
    pub fn attached(&self, chat: &str) -> usize {
        self.lock().get(chat).map_or(0, Vec::len)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Client>>> {
        // A list of queues is valid after any panic.
        self.chats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn detach(&self, chat: &str, number: u64) {
        let mut chats = self.lock();
        if let Some(clients) = chats.get_mut(chat) {
            clients.retain(|client| client.number != number);
            if clients.is_empty() {
                chats.remove(chat);
            }
        }
    }

    /// Hands an event to everybody attached to the chat. → how many have it in their queue.
    fn push(&self, chat: &str, event: &HubEvent) -> usize {
        let is_message = matches!(event, HubEvent::Message { .. });
        let mut chats = self.lock();
        let Some(clients) = chats.get_mut(chat) else { return 0 };
        let mut taken = 0;
        clients.retain(|client| {
            let room = is_message || client.events.len() < limits::HUB_PREVIEWS_MAX;
            let sent = room && client.events.try_send(event.clone()).is_ok();
            taken += usize::from(sent);
            let keep = sent || !is_message;
            if !keep {
                log::warn!(target: NAME, "a terminal attached to {chat} does not read; disconnecting it");
            }
            // Also when it is cut off: it finds its queue disconnected.
            if let Some(wake) = client.wake.as_ref().filter(|_| sent || !keep) {
                wake();
            }
            keep
        });
        if clients.is_empty() {
            chats.remove(chat);
        }
        taken
    }
}

/// The adapter.
pub struct Local {
    hub: Arc<Hub>,
}

impl Local {
    #[must_use]
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }
}

impl Adapter for Local {
    fn traits(&self) -> Traits {
        Traits {
            edits: true,
            typing: true,
            typing_interval: Duration::from_secs(10),
            edit_interval: Duration::from_millis(50),
            idempotent: true,
            // It receives nothing, so nothing can be missed.
            liveness: Duration::from_secs(365 * 24 * 3600),
            receives: false,
        }
    }

    fn inlet(&self) -> Box<dyn Inlet> {
        Box::new(NoInlet)
    }

    fn outlet(&self, link: &SendLink) -> Box<dyn Outlet> {
        self.sender(&link.token)
    }
}

impl Local {
    /// What [`Adapter::outlet`] gives: terminals need nothing of the rest of a link.
    pub fn sender(&self, token: &CancelToken) -> Box<dyn Outlet> {
        Box::new(LocalOutlet { hub: Arc::clone(&self.hub), token: token.clone(), kind: None })
    }
}

/// Messages come in through the control socket.
struct NoInlet;

impl Inlet for NoInlet {
    fn run(&mut self, link: &Link) -> Result<Infallible, AdapterError> {
        let _waiting = wait_for_work(format_args!("waiting for the end"));
        while link.token.sleep(Duration::from_secs(24 * 3600)).is_ok() {}
        Err(AdapterError::Cancelled)
    }
}

struct LocalOutlet {
    hub: Arc<Hub>,
    token: CancelToken,
    /// Of the next message.
    kind: Option<OutboundKind>,
}

impl LocalOutlet {
    fn message(&mut self, part: &Part<'_>, id: String, replaces: Option<String>) -> Result<(), SendError> {
        let kind = self.kind.take();
        self.token.check().map_err(|_| SendError::Cancelled)?;
        let event = HubEvent::Message {
            id,
            text: part.text.to_owned(),
            kind,
            reply_to: part.reply_to.map(str::to_owned),
            replaces,
            buttons: part.buttons.to_vec(),
        };
        if self.hub.push(&part.chat.chat, &event) == 0 {
            return Err(SendError::Retry { cause: "nobody is attached".to_owned(), after: Some(NOBODY_RETRY) });
        }
        Ok(())
    }
}

/// Unique over restarts, as far as the clock is.
fn new_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{:x}-{}", clock::wall_ms(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Outlet for LocalOutlet {
    fn split(&self, text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    fn announce(&mut self, kind: OutboundKind) {
        self.kind = Some(kind);
    }

    fn send(&mut self, part: &Part<'_>, _deadline: Deadline) -> Result<String, SendError> {
        let id = if part.key.is_empty() { new_id() } else { part.key.to_owned() };
        self.message(part, id.clone(), None)?;
        Ok(id)
    }

    fn edit(&mut self, platform_id: &str, part: &Part<'_>, _deadline: Deadline) -> Result<(), SendError> {
        let id = if part.key.is_empty() { platform_id.to_owned() } else { part.key.to_owned() };
        self.message(part, id, Some(platform_id.to_owned()))
    }

    fn preview(&mut self, chat: &ChatRef, previous: Option<&str>, preview: &Preview, _deadline: Deadline) -> Result<String, SendError> {
        self.token.check().map_err(|_| SendError::Cancelled)?;
        let id = previous.map_or_else(new_id, str::to_owned);
        // If nobody sees it, the reply itself will say so.
        let _ = self.hub.push(&chat.chat, &HubEvent::Preview { id: id.clone(), preview: preview.clone() });
        Ok(id)
    }

    fn typing(&mut self, chat: &ChatRef, _deadline: Deadline) -> Result<(), SendError> {
        let _ = self.hub.push(&chat.chat, &HubEvent::Typing);
        Ok(())
    }

    fn delete(&mut self, chat: &ChatRef, platform_id: &str, _deadline: Deadline) -> Result<(), SendError> {
        let _ = self.hub.push(&chat.chat, &HubEvent::Gone { id: platform_id.to_owned() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn chat(name: &str) -> ChatRef {
        ChatRef { adapter: NAME.to_owned(), chat: name.to_owned(), thread: None }
    }

    fn outlet(hub: &Arc<Hub>) -> LocalOutlet {
        LocalOutlet { hub: Arc::clone(hub), token: CancelToken::new(), kind: None }
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(5))
    }

    fn send(outlet: &mut LocalOutlet, chat: &ChatRef, text: &str, key: &str) -> Result<String, SendError> {
        outlet.send(&Part { chat, text, reply_to: Some("m1"), buttons: &[], key }, soon())
    }

    fn text(text: &str) -> Preview {
        Preview { text: text.to_owned(), ..Preview::default() }
    }

    #[test]
    fn everybody_in_a_chat_hears_and_nobody_else() {
        let hub = Hub::new();
        let attached = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&attached);
        hub.on_attach(move |chat| seen.lock().expect("sound").push(chat.to_owned()));
        let (one, two, other) =
            (hub.attach("a", None).expect("room"), hub.attach("a", None).expect("room"), hub.attach("b", None).expect("room"));
        assert_eq!(*attached.lock().expect("sound"), ["a", "a", "b"]);
        let mut outlet = outlet(&hub);
        assert_eq!(send(&mut outlet, &chat("a"), "hi", "k1"), Ok("k1".to_owned()));
        let expect = HubEvent::Message {
            id: "k1".to_owned(),
            text: "hi".to_owned(),
            kind: None,
            reply_to: Some("m1".to_owned()),
            replaces: None,
            buttons: vec![],
        };
        assert_eq!((one.events.try_recv(), two.events.try_recv()), (Ok(expect.clone()), Ok(expect)));
        assert!(other.events.is_empty());
        drop(one);
        assert_eq!(hub.attached("a"), 1);
        drop(two);
        let nobody = SendError::Retry { cause: "nobody is attached".to_owned(), after: Some(NOBODY_RETRY) };
        assert_eq!(send(&mut outlet, &chat("a"), "hi", "k2"), Err(nobody));
        assert!(!hub.lock().contains_key("a"), "nothing is kept for a chat without terminals");
    }

    #[test]
    fn previews_keep_their_id_and_become_the_reply() {
        let hub = Hub::new();
        let terminal = hub.attach("a", None).expect("room");
        let mut outlet = outlet(&hub);
        let id = outlet.preview(&chat("a"), None, &text("th"), soon()).expect("shown");
        assert_eq!(outlet.preview(&chat("a"), Some(&id), &text("the"), soon()), Ok(id.clone()));
        outlet.announce(OutboundKind::Reply);
        outlet.edit(&id, &Part { chat: &chat("a"), text: "then", reply_to: None, buttons: &[], key: "k" }, soon()).expect("sent");
        let mut events: Vec<HubEvent> = terminal.events.try_iter().collect();
        outlet.delete(&chat("a"), "other", soon()).expect("sent");
        outlet.typing(&chat("a"), soon()).expect("sent");
        events.extend(terminal.events.try_iter());
        assert_eq!(events[1], HubEvent::Preview { id: id.clone(), preview: text("the") });
        assert!(
            matches!(&events[2], HubEvent::Message { kind: Some(OutboundKind::Reply), replaces: Some(replaced), text, .. } if *replaced == id && text == "then")
        );
        assert_eq!(events[3..], [HubEvent::Gone { id: "other".to_owned() }, HubEvent::Typing]);
        let json = serde_json::to_string(&events[3]).expect("JSON");
        assert_eq!(json, r#"{"type":"gone","id":"other"}"#);
    }

    #[test]
    fn a_slow_terminal_loses_previews_and_never_messages() {
        let hub = Hub::new();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let wake = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let slow = hub.attach("a", Some(Arc::new(wake))).expect("room");
        let quick = hub.attach("a", None).expect("room");
        let mut outlet = outlet(&hub);
        for number in 0..1000 {
            outlet.preview(&chat("a"), Some("p"), &text(&number.to_string()), soon()).expect("never waits");
        }
        assert_eq!(slow.events.len(), limits::HUB_PREVIEWS_MAX);
        let room = limits::HUB_QUEUE_MAX - limits::HUB_PREVIEWS_MAX;
        for number in 0..room {
            quick.events.try_iter().for_each(drop);
            send(&mut outlet, &chat("a"), "m", &number.to_string()).expect("room for messages");
        }
        assert_eq!((hub.attached("a"), woken.load(Ordering::SeqCst)), (2, limits::HUB_QUEUE_MAX));
        quick.events.try_iter().for_each(drop);
        send(&mut outlet, &chat("a"), "one too many", "last").expect("the quick one has it");
        assert_eq!((hub.attached("a"), woken.load(Ordering::SeqCst)), (1, limits::HUB_QUEUE_MAX + 1));
        let messages = slow.events.iter().filter(|event| matches!(event, HubEvent::Message { .. })).count();
        assert_eq!(messages, room, "what was in the queue is still delivered, then it is disconnected");
    }

    #[test]
    fn terminals_are_counted() {
        let hub = Hub::new();
        let all: Vec<Attachment> = (0..limits::HUB_CLIENTS_MAX).map(|n| hub.attach(&n.to_string(), None).expect("room")).collect();
        assert!(hub.attach("one more", None).is_err());
        drop(all);
        assert!(hub.attach("one more", None).is_ok());
    }

    #[test]
    fn nothing_is_sent_once_cancelled() {
        let hub = Hub::new();
        let terminal = hub.attach("a", None).expect("room");
        let mut outlet = outlet(&hub);
        outlet.token.cancel();
        assert_eq!(send(&mut outlet, &chat("a"), "late", "k"), Err(SendError::Cancelled));
        assert!(outlet.preview(&chat("a"), None, &text("late"), soon()).is_err());
        assert!(terminal.events.is_empty());
    }
}
