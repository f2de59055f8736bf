//! A server of QQ's bot interface on loopback, built field by field from the official documentation.
//!
//! It keeps what people see in their chats, sessions with the events that can be sent again, and a journal. What the
//! real server refuses is refused, with its codes; what an adapter must never do is a panic.

#![allow(dead_code)] // Tests use what they need.

use super::gateway::{Setup, quoted};
use super::http::{Fault, Server};
use super::poll::SOON;
use super::qqbot_server;
use super::websocket;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The user that the tests allow, in private chats and, by another id, in groups and guilds.
pub const ANA: &str = "E4F4AEA33253A2797FB897C50B81D7ED";
pub const ANA_IN_GROUPS: &str = "A0B1C2D3E4F5061728394A5B6C7D8E9F";
pub const ANA_IN_GUILDS: &str = "1234";
pub const GROUP: &str = "C9F778FE6ADF9D1D1DBE395BF744A33A";
pub const CHANNEL: &str = "100010";
pub const GUILD: &str = "18700000000001";
pub const BOT_ID: &str = "6158788878435714165";
pub const CHATS: i64 = 1 << 25;
pub const GUILDS: i64 = (1 << 30) | (1 << 12);

/// Where a private chat's messages go.
pub fn private(user: &str) -> String {
    format!("/v2/users/{user}/messages")
}

/// One request to the API.
#[derive(Debug, Clone)]
pub struct Call {
    pub at: Instant,
    pub method: String,
    pub path: String,
    pub body: Value,
    /// 0 while nothing was answered.
    pub status: u16,
    pub fault: Option<Fault>,
}

/// A message of somebody.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The path that messages to its chat are posted to.
    pub chat: String,
    pub at: Instant,
    /// The event's type and data, to send it again.
    pub kind: String,
    pub data: Value,
    /// `s` of its first delivery.
    pub s: Option<i64>,
    /// The numbers of the replies to it. Guilds have none; there they only count.
    pub replies: Vec<i64>,
}

/// A message of the bot, as people see it.
#[derive(Debug, Clone)]
pub struct Shown {
    pub chat: String,
    pub text: String,
    pub markdown: bool,
    pub msg_id: String,
    pub msg_seq: i64,
}

/// The events of one session.
#[derive(Debug, Default)]
pub struct Session {
    pub next: i64,
    pub events: Vec<(i64, Value)>,
    /// What the client has shown to have processed.
    pub confirmed: i64,
}

/// What becomes of a connection that wants to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// Op 9.
    Invalid(bool),
    Close(u16),
    /// Logs in, then closes.
    CloseAfter(u16),
    /// Answers nothing.
    Silence,
}

pub struct Connection {
    pub number: u64,
    pub sender: websocket::Sender,
    pub session: Option<String>,
}

pub struct State {
    pub app_id: String,
    pub secret: String,
    pub refused: bool,
    pub tokens: Vec<String>,
    pub expires_in: Value,
    pub token_requests: usize,
    pub heartbeat_ms: u64,
    /// Heartbeats are not answered.
    pub deaf: bool,
    /// The next connections get an event before "hello".
    pub rude: usize,
    /// New sessions that may be begun.
    pub starts_left: i64,
    pub allowed_intents: i64,
    pub logins: VecDeque<Login>,
    pub sessions: BTreeMap<String, Session>,
    /// That of the last login; events go there.
    pub current: Option<String>,
    /// Said before there was any session.
    pub early: Vec<String>,
    pub connections: Vec<Connection>,
    pub connects: usize,
    pub opened: u64,
    /// Frames of clients: when, on which connection, what.
    pub frames: Vec<(Instant, u64, Value)>,
    pub calls: Vec<Call>,
    pub heard: BTreeMap<String, Heard>,
    pub shown: Vec<Shown>,
    pub typing: usize,
    /// How long messages can be replied to.
    pub window: Duration,
    pub markdown: bool,
    pub refuse_links: bool,
    /// Sends are accepted for an audit.
    pub audit: bool,
    pub faults: Vec<(String, Fault, usize)>,
    pub files: BTreeMap<String, Vec<u8>>,
    pub next_id: u64,
}

pub struct Shared {
    pub state: Mutex<State>,
    pub changed: Condvar,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.lock());
        self.changed.notify_all();
        answer
    }
}

impl State {
    pub fn id(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        format!("{prefix}{:0>32}!", self.next_id)
    }

    /// Puts an event into the current session and sends it if somebody is connected. → its `s`
    pub fn dispatch(&mut self, kind: &str, data: &Value) -> Option<i64> {
        let id = self.current.clone()?;
        let session = self.sessions.get_mut(&id)?;
        let s = session.next;
        session.next += 1;
        let payload = json!({"op": 0, "s": s, "t": kind, "id": format!("{kind}:{s}"), "d": data});
        session.events.push((s, payload.clone()));
        for connection in self.connections.iter().filter(|connection| connection.session.as_ref() == Some(&id)) {
            connection.sender.text(&payload.to_string());
        }
        Some(s)
    }

    fn deliver(&mut self, id: &str) {
        let Some((kind, data)) = self.heard.get(id).map(|heard| (heard.kind.clone(), heard.data.clone())) else { return };
        match self.dispatch(&kind, &data) {
            Some(s) => {
                let heard = self.heard.get_mut(id).expect("just found");
                heard.s = heard.s.or(Some(s));
            }
            None => self.early.push(id.to_owned()),
        }
    }

    pub fn deliver_early(&mut self) {
        for id in std::mem::take(&mut self.early) {
            self.deliver(&id);
        }
    }
}

/// The fake server.
pub struct QqBot {
    pub shared: Arc<Shared>,
    pub server: Server,
}

impl QqBot {
    /// A bot of its own: gateways of tests that run at the same time must not compete for a credential.
    pub fn start() -> Self {
        let random = |count: usize| std::iter::repeat_with(fastrand::alphanumeric).take(count).collect::<String>();
        let state = State {
            app_id: format!("{}", fastrand::u32(102_000_000..999_000_000)),
            secret: random(32),
            refused: false,
            tokens: Vec::new(),
            expires_in: json!("7200"),
            token_requests: 0,
            heartbeat_ms: 1000,
            deaf: false,
            rude: 0,
            starts_left: 1000,
            allowed_intents: CHATS | GUILDS,
            logins: VecDeque::new(),
            sessions: BTreeMap::new(),
            current: None,
            early: Vec::new(),
            connections: Vec::new(),
            connects: 0,
            opened: 0,
            frames: Vec::new(),
            calls: Vec::new(),
            heard: BTreeMap::new(),
            shown: Vec::new(),
            typing: 0,
            window: Duration::from_secs(3600),
            markdown: false,
            refuse_links: false,
            audit: false,
            faults: Vec::new(),
            files: BTreeMap::new(),
            next_id: 0,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let copy = Arc::clone(&shared);
        let server = Server::start(move |request, connection| qqbot_server::serve(&copy, request, connection));
        Self { shared, server }
    }

    /// The section of the configuration; everything is at `address`.
    pub fn section(&self, setup: Setup, address: SocketAddr) -> Setup {
        let section = "adapters.qqbot";
        let (app_id, secret) = self.see(|state| (state.app_id.clone(), state.secret.clone()));
        let users = json!([ANA, ANA_IN_GROUPS, ANA_IN_GUILDS]).to_string();
        setup
            .set(section, "app_id", &quoted(&app_id))
            .set(section, "client_secret", &quoted(&secret))
            .set(section, "base_url", &quoted(&format!("http://{address}")))
            .set(section, "token_url", &quoted(&format!("http://{address}/app/getAppAccessToken")))
            .set(section, "allowed_users", &users)
            .set(section, "admins", &json!([ANA]).to_string())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.shared.change(change)
    }
    /// What there is, for a moment.
    pub fn see<T>(&self, see: impl FnOnce(&State) -> T) -> T {
        see(&self.lock())
    }

    // --- what people do ---

    fn hear(&self, kind: &str, chat: String, content: &str, more: Value) -> String {
        self.change(|state| {
            let id = state.id("ROBOT1.0_");
            let mut data = json!({"id": id, "content": content, "timestamp": "2026-10-20T13:37:18+08:00"});
            for (key, value) in more.as_object().expect("fields") {
                data[key] = value.clone();
            }
            let heard = Heard { chat, at: Instant::now(), kind: kind.to_owned(), data, s: None, replies: Vec::new() };
            state.heard.insert(id.clone(), heard);
            state.deliver(&id);
            id
        })
    }

    pub fn user_says(&self, user: &str, text: &str) -> String {
        self.user_sends(user, text, json!({}))
    }
    /// With further fields.
    pub fn user_sends(&self, user: &str, text: &str, more: Value) -> String {
        let mut fields = json!({"author": {"id": user, "user_openid": user, "union_openid": ""}, "message_type": 0});
        for (key, value) in more.as_object().expect("fields") {
            fields[key] = value.clone();
        }
        self.hear("C2C_MESSAGE_CREATE", private(user), text, fields)
    }
    pub fn group_says(&self, text: &str) -> String {
        let author = json!({"id": ANA_IN_GROUPS, "member_openid": ANA_IN_GROUPS});
        let more = json!({"author": author, "group_id": GROUP, "group_openid": GROUP});
        self.hear("GROUP_AT_MESSAGE_CREATE", format!("/v2/groups/{GROUP}/messages"), &format!(" {text}"), more)
    }
    fn guild_fields(bot: bool) -> Value {
        json!({"author": {"id": ANA_IN_GUILDS, "username": "ana", "bot": bot}, "channel_id": CHANNEL, "guild_id": GUILD, "seq": 101,
            "member": {"roles": ["1"], "joined_at": "2026-10-20T13:37:18+08:00"}})
    }
    pub fn channel_says(&self, text: &str, by_a_bot: bool) -> String {
        let text = format!("<@!{BOT_ID}> {text}");
        self.hear("AT_MESSAGE_CREATE", format!("/channels/{CHANNEL}/messages"), &text, Self::guild_fields(by_a_bot))
    }
    pub fn direct_says(&self, text: &str) -> String {
        self.hear("DIRECT_MESSAGE_CREATE", format!("/dms/{GUILD}/messages"), text, Self::guild_fields(false))
    }

    // --- what the server does ---

    /// Any frame to everybody who is connected.
    pub fn send_frame(&self, frame: &Value) {
        for connection in &self.lock().connections {
            connection.sender.text(&frame.to_string());
        }
    }
    pub fn close_all(&self, code: u16) {
        for connection in &self.lock().connections {
            connection.sender.close(code, "");
        }
    }
    /// Ends all WebSockets without a word.
    pub fn cut(&self) {
        for connection in &self.lock().connections {
            connection.sender.cut();
        }
    }
    /// All access tokens are void from now on.
    pub fn expire_tokens(&self) {
        self.change(|state| state.tokens.clear());
    }
    /// The next logins end like this.
    pub fn login(&self, logins: &[Login]) {
        self.change(|state| state.logins.extend(logins));
    }
    /// The next `count` requests whose path contains `part` go wrong like this.
    pub fn fail(&self, part: &str, fault: Fault, count: usize) {
        self.change(|state| state.faults.push((part.to_owned(), fault, count)));
    }

    // --- what there is to see ---

    /// The bot's messages in the chat that is posted to at `path`.
    pub fn shown(&self, path: &str) -> Vec<Shown> {
        self.lock().shown.iter().filter(|shown| shown.chat == path).cloned().collect()
    }
    /// Frames of one op, oldest first.
    pub fn frames(&self, op: i64) -> Vec<Value> {
        self.lock().frames.iter().filter(|(_, _, frame)| frame["op"] == op).map(|(_, _, frame)| frame.clone()).collect()
    }

    pub fn wait<T>(&self, what: &str, ask: impl FnMut(&State) -> Option<T>) -> T {
        self.wait_within(SOON, what, ask)
    }
    pub fn wait_within<T>(&self, within: Duration, what: &str, mut ask: impl FnMut(&State) -> Option<T>) -> T {
        let end = Instant::now() + within;
        let mut state = self.lock();
        loop {
            if let Some(answer) = ask(&state) {
                return answer;
            }
            let now = Instant::now();
            if now >= end {
                let calls: Vec<String> = state
                    .calls
                    .iter()
                    .rev()
                    .take(12)
                    .map(|call| format!("{} {} {} {:?}", call.method, call.path, call.status, call.fault))
                    .collect();
                let frames: Vec<String> =
                    state.frames.iter().rev().take(12).map(|(_, number, frame)| format!("{number}: {frame}")).collect();
                panic!(
                    "{what}: not seen within {within:?}\nshown: {:#?}\nlast calls, newest first: {calls:#?}\nlast frames: {frames:#?}",
                    state.shown
                );
            }
            state = self.shared.changed.wait_timeout(state, end - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
    /// Waits for a message of the bot that contains this.
    pub fn wait_text(&self, part: &str) -> Shown {
        self.wait(&format!("a message with {part:?}"), |state| state.shown.iter().find(|shown| shown.text.contains(part)).cloned())
    }
    /// Waits for the `count`th frame of an op.
    pub fn wait_frame(&self, op: i64, count: usize) -> Value {
        let what = format!("frame {count} with op {op}");
        self.wait(&what, |state| {
            state.frames.iter().filter(|(_, _, frame)| frame["op"] == op).nth(count - 1).map(|(_, _, frame)| frame.clone())
        })
    }
    pub fn wait_connects(&self, count: usize) {
        self.wait(&format!("login {count}"), |state| (state.connects >= count).then_some(()));
    }
}
