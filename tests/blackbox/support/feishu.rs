//! A Feishu open platform on loopback, built field by field from the platform's documentation and its official clients.
//!
//! Events go out over the long connection and come again until they are acknowledged; chats are kept as people see them.
//! What the real server refuses is refused, and what it would not understand fails the test when the fake is dropped.

#![allow(dead_code)] // Tests use what they need.

use super::feishu_frame::Packet;
use super::feishu_rest;
use super::feishu_socket;
use super::gateway::{Setup, quoted};
use super::http::{Fault, Server};
use super::poll::SOON;
use super::websocket::{self, Sender};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const BOT: &str = "ou_botopenid";
pub const BOT_NAME: &str = "Gate";
/// The user that the tests allow, and the private chat with the bot.
pub const ANA: &str = "ou_ana";
pub const ANA_CHAT: &str = "oc_ana";
const TIME_MS: i64 = 1_792_540_800_000;
/// How a call goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Wrong {
    /// Below or beside the platform.
    Http(Fault),
    /// As the platform refuses: status, code, text.
    Refuse(u16, i64, String),
    /// As the gate in front of it refuses too many requests: the seconds are in a header.
    Limit(u64),
    /// Does what was asked, and the answer is lost.
    Lost,
}

pub fn refuse(status: u16, code: i64, msg: &str) -> Wrong {
    Wrong::Refuse(status, code, msg.to_owned())
}

/// One REST call.
#[derive(Debug, Clone)]
pub struct Call {
    pub at: Instant,
    /// `create`, `reply`, `put`, `patch`, `delete`, `react`, `unreact`, `resource`, `token`, `bot`, `discovery`.
    pub method: &'static str,
    pub path: String,
    pub body: Value,
    /// 0 while nothing was answered.
    pub status: u16,
    pub code: i64,
    pub wrong: Option<Wrong>,
}

/// A message in a chat.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: String,
    pub chat: String,
    pub from_bot: bool,
    pub kind: String,
    pub content: Value,
    pub reply_to: Option<String>,
    pub thread: Option<String>,
    pub edits: Vec<Instant>,
    pub deleted: bool,
    /// By their ids, as they are now.
    pub reactions: BTreeMap<String, String>,
    /// Every reaction that ever was.
    pub reacted: Vec<String>,
}

impl Message {
    /// As a person reads it.
    pub fn text(&self) -> String {
        let all = |pointer: &str| self.content.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        match self.kind.as_str() {
            "text" => all("/text"),
            "post" => all("/zh_cn/content/0/0/text"),
            "interactive" => all("/elements/0/content") + &all("/elements/0/text/content"),
            kind => format!("({kind})"),
        }
    }
}

/// An event, and what became of it.
#[derive(Debug, Clone)]
pub struct Event {
    /// Of the message it is about, or the event's own id.
    pub id: String,
    pub payload: Vec<u8>,
    pub pushes: Vec<Instant>,
    /// It is to be sent once more, acknowledged or not.
    pub again: bool,
    /// The codes it was acknowledged with.
    pub acks: Vec<(Instant, i64)>,
}

impl Event {
    pub fn is_confirmed(&self) -> bool {
        self.acks.iter().any(|(_, code)| *code == 200)
    }
}

/// A client of the long connection.
pub struct Client {
    pub number: usize,
    pub service: u64,
    pub sender: Sender,
    /// It has sent its first ping.
    pub ready: bool,
    pub pings: Vec<Instant>,
}

/// In how many slices events go out, and in which order.
#[derive(Debug, Clone)]
pub struct Slicing {
    pub bytes: usize,
    pub order: fn(Vec<Packet>) -> Vec<Packet>,
}

pub struct State {
    pub app_id: String,
    pub app_secret: String,
    pub refuse: bool,
    pub tokens: BTreeSet<String>,
    pub tokens_given: usize,
    pub tickets: BTreeSet<String>,
    pub ping_interval: u64,
    pub answers_pings: bool,
    /// Clients are let in and sent away at once.
    pub slams: bool,
    /// What is pushed waits until [`Feishu::release`].
    pub hold_pushes: bool,
    pub slicing: Option<Slicing>,
    pub messages: Vec<Message>,
    pub chats: BTreeMap<String, &'static str>,
    /// Keys of messages, and the messages they made.
    pub uuids: HashMap<String, String>,
    pub events: Vec<Event>,
    /// Ids of what was pushed, and the events they stand for.
    pub pushed: HashMap<String, usize>,
    pub clients: Vec<Client>,
    pub connects: usize,
    /// With which codes clients said goodbye.
    pub goodbyes: Vec<u16>,
    pub journal: Vec<Call>,
    pub faults: Vec<(&'static str, Wrong, usize)>,
    /// By message and key: type, media type, content.
    pub files: HashMap<(String, String), (&'static str, &'static str, Vec<u8>)>,
    pub missing_scope: Option<&'static str>,
    /// What the real server would not have understood.
    pub complaints: Vec<String>,
    pub number: usize,
    pub closed: bool,
}

impl State {
    pub fn next(&mut self) -> usize {
        self.number += 1;
        self.number
    }

    pub fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }

    pub fn message(&self, id: &str) -> Option<&Message> {
        self.messages.iter().find(|message| message.id == id)
    }

    pub fn message_mut(&mut self, id: &str) -> Option<&mut Message> {
        self.messages.iter_mut().find(|message| message.id == id)
    }

    /// The bot's messages in a chat as they stand.
    pub fn shown(&self, chat: &str) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(move |message| message.chat == chat && message.from_bot && !message.deleted)
    }

    /// How many of the bot's messages contain this.
    pub fn count(&self, chat: &str, part: &str) -> usize {
        self.shown(chat).filter(|message| message.text().contains(part)).count()
    }

    pub fn event(&self, id: &str) -> &Event {
        self.events.iter().find(|event| event.id == id).unwrap_or_else(|| panic!("no event {id}"))
    }

    /// Sends an event to one client, as the platform does: not to all of them.
    pub fn push(&mut self, index: usize) {
        if self.hold_pushes {
            return;
        }
        let number = self.next();
        let Some(client) = self.clients.iter().rev().find(|client| client.ready) else { return };
        let event = &mut self.events[index];
        event.pushes.push(Instant::now());
        event.again = false;
        let id = format!("t{number}");
        self.pushed.insert(id.clone(), index);
        for packet in feishu_socket::packets(&id, client.service, &event.payload, self.slicing.as_ref()) {
            client.sender.binary(&packet.bytes());
        }
    }

    pub fn push_all(&mut self) {
        for index in 0..self.events.len() {
            if !self.events[index].is_confirmed() || self.events[index].again {
                self.push(index);
            }
        }
    }
}

#[derive(Default)]
pub struct Shared {
    pub state: Mutex<Option<State>>,
    pub changed: Condvar,
}

impl Shared {
    /// Does something to the state and wakes who waits for it.
    pub fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(guard.as_mut().expect("the fake has started"));
        self.changed.notify_all();
        result
    }
}

/// The fake server.
pub struct Feishu {
    shared: Arc<Shared>,
    pub server: Server,
}

impl Feishu {
    /// A platform of its own, with an app that no other test uses.
    pub fn begin() -> Self {
        let shared = Arc::new(Shared::default());
        *shared.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(beginning());
        let (calls, late) = (Arc::clone(&shared), Arc::clone(&shared));
        let server = Server::start(move |request, connection| {
            if websocket::is_upgrade(request) {
                feishu_socket::serve(&calls, request, connection)
            } else {
                feishu_rest::answer(&calls, request, connection)
            }
        });
        std::thread::spawn(move || feishu_socket::repeat_late(&late));
        Self { shared, server }
    }

    pub fn lock(&self) -> Guard<'_> {
        Guard(self.shared.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        self.shared.change(act)
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    /// An adapter that talks to the fake and admits [`ANA`], who is an admin.
    pub fn configured_at(&self, setup: Setup, address: SocketAddr) -> Setup {
        let (app_id, app_secret) = self.change(|state| (state.app_id.clone(), state.app_secret.clone()));
        let (section, ana) = ("adapters.feishu", format!("[\"{ANA}\"]"));
        setup
            .set(section, "app_id", &quoted(&app_id))
            .set(section, "app_secret", &quoted(&app_secret))
            .set(section, "domain", &quoted(&format!("http://{address}")))
            .set(section, "allowed_users", &ana)
            .set(section, "admins", &ana)
    }

    // --- people ---

    pub fn add_group(&self, id: &str) {
        self.change(|state| state.chats.insert(id.to_owned(), "group"));
    }

    /// A message of `user`, of any type. `more`: further fields of `message`. → its id.
    pub fn sends(&self, chat: &str, user: &str, kind: &str, content: &Value, more: &Value) -> String {
        self.change(|state| {
            let number = state.next();
            let id = format!("om_{number:032x}");
            let thread = more["thread_id"].as_str().map(str::to_owned);
            state.messages.push(Message {
                id: id.clone(),
                chat: chat.to_owned(),
                from_bot: false,
                kind: kind.to_owned(),
                content: content.clone(),
                reply_to: None,
                thread,
                edits: Vec::new(),
                deleted: false,
                reactions: BTreeMap::new(),
                reacted: Vec::new(),
            });
            let time = (TIME_MS + i64::try_from(number).expect("small")).to_string();
            let mut message = json!({"message_id": id, "create_time": time, "update_time": time, "chat_id": chat,
                "chat_type": state.chats.get(chat).copied().expect("the chat of the message"), "message_type": kind,
                "content": content.to_string(), "user_agent": "Mozilla/5.0"});
            more.as_object().into_iter().flatten().for_each(|(key, value)| message[key.as_str()] = value.clone());
            let ids = json!({"union_id": format!("on_{user}"), "user_id": "e33ggbyz", "open_id": user});
            let body = json!({"sender": {"sender_id": ids, "sender_type": "user", "tenant_key": "736588c9260f175e"}, "message": message});
            emit(state, "im.message.receive_v1", &id, &body);
            id
        })
    }

    pub fn says_in(&self, chat: &str, user: &str, text: &str, more: &Value) -> String {
        self.sends(chat, user, "text", &json!({"text": text}), more)
    }

    /// Any event. → its id
    pub fn emit(&self, event_type: &str, body: &Value) -> String {
        self.change(|state| {
            let id = format!("ev{}", state.next());
            emit(state, event_type, &id, body);
            id
        })
    }

    /// Any payload. → its id
    pub fn emit_raw(&self, payload: &[u8]) -> String {
        self.change(|state| {
            let id = format!("raw{}", state.next());
            state.events.push(Event { id: id.clone(), payload: payload.to_vec(), pushes: Vec::new(), again: false, acks: Vec::new() });
            state.push(state.events.len() - 1);
            id
        })
    }

    /// Bytes as a binary message to the client that is connected.
    pub fn frame(&self, bytes: &[u8]) {
        self.wait(SOON, "a client", |state| state.clients.iter().rev().find(|client| client.ready).map(|client| client.sender.clone()))
            .binary(bytes);
    }

    pub fn add_file(&self, message: &str, key: &str, kind: &'static str, media_type: &'static str, bytes: &[u8]) {
        self.change(|state| state.files.insert((message.to_owned(), key.to_owned()), (kind, media_type, bytes.to_vec())));
    }

    /// Nothing is pushed until `release`: the platform's queue stands still.
    pub fn hold(&self) {
        self.change(|state| state.hold_pushes = true);
    }

    pub fn release(&self) {
        self.change(|state| {
            state.hold_pushes = false;
            state.push_all();
        });
    }

    /// Pushes an event once more: now, or to the next client.
    pub fn push_again(&self, id: &str) {
        self.change(|state| {
            let index = state.events.iter().position(|event| event.id == id).expect("the event");
            state.events[index].again = true;
            state.push(index);
        });
    }

    // --- faults ---

    /// The next `count` calls of `method` go wrong like this.
    pub fn fail(&self, method: &'static str, wrong: Wrong, count: usize) {
        self.change(|state| state.faults.push((method, wrong, count)));
    }

    // --- what there is to see ---

    pub fn calls(&self, method: &str) -> Vec<Call> {
        self.lock().journal.iter().filter(|call| call.method == method).cloned().collect()
    }

    pub fn texts_in(&self, chat: &str) -> Vec<String> {
        self.lock().shown(chat).map(Message::text).collect()
    }

    /// Waits until the state shows what is asked for.
    pub fn wait<T>(&self, within: Duration, what: &str, mut ask: impl FnMut(&State) -> Option<T>) -> T {
        let end = Instant::now() + within;
        let mut guard = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let state = guard.as_ref().expect("the fake has started");
            if let Some(answer) = ask(state) {
                return answer;
            }
            let now = Instant::now();
            if now >= end {
                let calls: Vec<String> = state
                    .journal
                    .iter()
                    .rev()
                    .take(12)
                    .map(|call| format!("{} {} {} {:?}", call.method, call.status, call.code, call.wrong))
                    .collect();
                let texts: Vec<String> =
                    state.messages.iter().map(|message| format!("{}: {:.100}", message.chat, message.text())).collect();
                panic!(
                    "{what}: not seen within {within:?}\nmessages: {texts:#?}\nlast calls: {calls:#?}\nevents: {:?}",
                    state.events.last()
                );
            }
            guard = self.shared.changed.wait_timeout(guard, end - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a message of the bot that contains this.
    pub fn wait_text(&self, chat: &str, part: &str) -> Message {
        self.wait(SOON, &format!("a message with {part:?} in {chat}"), |state| {
            state.shown(chat).find(|message| message.text().contains(part)).cloned()
        })
    }

    pub fn wait_confirmed(&self, id: &str) -> Event {
        self.wait(SOON, &format!("{id} is acknowledged"), |state| Some(state.event(id)).filter(|event| event.is_confirmed()).cloned())
    }

    pub fn wait_call(&self, method: &str, count: usize) -> Call {
        self.wait(SOON, &format!("call {count} of {method}"), |state| {
            state.journal.iter().filter(|call| call.method == method).nth(count - 1).cloned()
        })
    }
}

/// The state, locked.
pub struct Guard<'a>(MutexGuard<'a, Option<State>>);

impl std::ops::Deref for Guard<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        self.0.as_ref().expect("the fake has started")
    }
}

fn emit(state: &mut State, event_type: &str, id: &str, body: &Value) {
    let event_id = format!("{:032x}", state.next());
    let header = json!({"event_id": event_id, "token": "", "create_time": TIME_MS.to_string(), "event_type": event_type,
        "tenant_key": "736588c9260f175e", "app_id": state.app_id});
    let payload = json!({"schema": "2.0", "header": header, "event": body}).to_string().into_bytes();
    state.events.push(Event { id: id.to_owned(), payload, pushes: Vec::new(), again: false, acks: Vec::new() });
    state.push(state.events.len() - 1);
}

fn beginning() -> State {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    State {
        app_id: format!("cli_{}x{number}", std::process::id()),
        app_secret: format!("s3cr3t{}x{number}", std::process::id()),
        refuse: false,
        tokens: BTreeSet::new(),
        tokens_given: 0,
        tickets: BTreeSet::new(),
        ping_interval: 1,
        answers_pings: true,
        slams: false,
        hold_pushes: false,
        slicing: None,
        messages: Vec::new(),
        chats: [(ANA_CHAT.to_owned(), "p2p")].into_iter().collect(),
        uuids: HashMap::new(),
        events: Vec::new(),
        pushed: HashMap::new(),
        clients: Vec::new(),
        connects: 0,
        goodbyes: Vec::new(),
        journal: Vec::new(),
        faults: Vec::new(),
        files: HashMap::new(),
        missing_scope: None,
        complaints: Vec::new(),
        number: 0,
        closed: false,
    }
}

impl Drop for Feishu {
    fn drop(&mut self) {
        let complaints = self.change(|state| {
            state.closed = true;
            std::mem::take(&mut state.complaints)
        });
        assert!(complaints.is_empty() || std::thread::panicking(), "the platform does not understand: {complaints:#?}");
    }
}
