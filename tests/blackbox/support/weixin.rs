//! An iLink server on loopback: one bot, its users, the files they send, and the code that is scanned to log in.
//!
//! It keeps what each user sees and a journal of the calls. A request that the real clients would never make is a violation:
//! it is refused, and the test fails when the fake goes away.

#![allow(dead_code)] // Each test uses what it needs.

use super::http::{Fault, Server};
use super::poll::SOON;
use super::weixin_calls;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The user that the tests allow.
pub const ANA: &str = "o9cq8ana@im.wechat";
/// Message ids begin above 2^63.
pub const FIRST_ID: u64 = (1 << 63) + 1000;

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    pub at: Instant,
    /// The last part of the path.
    pub method: String,
    pub body: Value,
    pub query: String,
    pub host: String,
    /// What was answered; `Null` while it is not, or if nothing was.
    pub answer: Value,
    pub fault: Option<Fault>,
}

/// A message that the bot has sent.
#[derive(Debug, Clone)]
pub struct Sent {
    pub user: String,
    pub text: String,
    pub client_id: String,
    pub context: Option<String>,
}

/// What the server says about a code, one after the other; the last one stays.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Wait,
    Scanned,
    Expired,
    /// On to this host.
    Redirect(String),
    /// Asks for this number until it is given.
    Number(String),
    Blocked,
    Bound,
    Confirm,
    /// The connection is closed without an answer.
    Silence,
    /// Held open for longer than the client waits.
    Hold,
}

pub struct State {
    pub token: String,
    pub bot_id: String,
    /// The login has ended.
    pub refused: bool,
    /// Everything that users have said, in order. A cursor is a position in it.
    pub said: Vec<Value>,
    pub next_id: u64,
    /// The highest position that a poll has named.
    pub confirmed: usize,
    /// Where a poll without a cursor begins; `None`: with what is said from then on.
    pub fresh: Option<usize>,
    /// Answers carry no new cursor.
    pub no_cursor: bool,
    /// How long a poll is held open, and what is said about that.
    pub hold: Duration,
    pub announced: Option<Duration>,
    /// The token of each user's conversation, and those that are not valid any more.
    pub contexts: BTreeMap<String, String>,
    pub stale: BTreeSet<String>,
    pub next_context: u64,
    pub sent: Vec<Sent>,
    pub tickets: BTreeMap<String, String>,
    pub typing: BTreeSet<String>,
    /// By their parameter.
    pub files: HashMap<String, Vec<u8>>,
    pub polling: usize,
    pub pollers: u64,
    pub peers: BTreeSet<SocketAddr>,
    pub journal: Vec<Call>,
    pub faults: Vec<(String, Fault, usize)>,
    /// Answers out of turn: method, answer, how often.
    pub answers: Vec<(String, Value, usize)>,
    pub violations: Vec<String>,
    /// What happens to the next codes.
    pub scripts: VecDeque<Vec<Step>>,
    pub codes: BTreeMap<String, VecDeque<Step>>,
    /// The new way to ask for a code is not known.
    pub old_codes: bool,
    pub last_number: String,
}

pub struct Shared {
    pub state: Mutex<State>,
    pub changed: Condvar,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fake server.
pub struct Weixin {
    pub shared: Arc<Shared>,
    pub server: Server,
    /// A second host of the same service, to which a login can be sent.
    pub elsewhere: Server,
}

fn random(prefix: &str) -> String {
    format!("{prefix}{}", std::iter::repeat_with(fastrand::alphanumeric).take(24).collect::<String>())
}

impl State {
    fn new() -> Self {
        Self {
            // Gateways of tests that run at the same time must not compete for a credential.
            token: random("tok-secret-"),
            bot_id: format!("{}@im.bot", random("bot")),
            refused: false,
            said: Vec::new(),
            next_id: FIRST_ID,
            confirmed: 0,
            fresh: Some(0),
            no_cursor: false,
            hold: Duration::from_millis(1000),
            announced: Some(Duration::from_millis(1000)),
            contexts: BTreeMap::new(),
            stale: BTreeSet::new(),
            next_context: 1,
            sent: Vec::new(),
            tickets: BTreeMap::new(),
            typing: BTreeSet::new(),
            files: HashMap::new(),
            polling: 0,
            pollers: 0,
            peers: BTreeSet::new(),
            journal: Vec::new(),
            faults: Vec::new(),
            answers: Vec::new(),
            violations: Vec::new(),
            scripts: VecDeque::new(),
            codes: BTreeMap::new(),
            old_codes: false,
            last_number: String::new(),
        }
    }

    /// A message of a user, with a new token for the conversation. → its id
    pub fn push(&mut self, user: &str, items: &Value, more: &Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let context = format!("AARz{:06}==", self.next_context);
        self.next_context += 1;
        self.contexts.insert(user.to_owned(), context.clone());
        let at = 1_792_540_800_123_u64 + self.said.len() as u64;
        let mut message = json!({
            "seq": self.said.len() + 1, "message_id": id, "from_user_id": user, "to_user_id": self.bot_id, "client_id": "",
            "create_time_ms": at, "update_time_ms": at, "session_id": "s-1", "group_id": "", "message_type": 1, "message_state": 2,
            "item_list": items, "context_token": context,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            message[key.as_str()] = value.clone();
        }
        self.said.push(message);
        id
    }
}

pub fn text_item(text: &str) -> Value {
    json!([{"type": 1, "create_time_ms": 1_792_540_800_123_u64, "is_completed": true, "msg_id": "m", "text_item": {"text": text}}])
}

impl Weixin {
    pub fn begin() -> Self {
        let shared = Arc::new(Shared { state: Mutex::new(State::new()), changed: Condvar::new() });
        let server = || {
            let copy = Arc::clone(&shared);
            Server::start(move |request, connection| weixin_calls::serve(&copy, request, connection))
        };
        let (server, elsewhere) = (server(), server());
        Self { shared, server, elsewhere }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.lock());
        self.shared.changed.notify_all();
        answer
    }

    /// The document of a login that has been.
    pub fn document(&self, address: SocketAddr) -> String {
        let state = self.lock();
        json!({"bot_token": state.token, "ilink_bot_id": state.bot_id, "baseurl": format!("http://{address}"), "ilink_user_id": ANA})
            .to_string()
    }

    pub fn user_says(&self, user: &str, text: &str) -> u64 {
        self.change(|state| state.push(user, &text_item(text), &Value::Null))
    }
    pub fn user_sends(&self, user: &str, items: &Value) -> u64 {
        self.change(|state| state.push(user, items, &Value::Null))
    }
    /// Several messages that come with one answer.
    pub fn says_all(&self, texts: &[&str]) {
        self.change(|state| {
            for text in texts {
                state.push(ANA, &text_item(text), &Value::Null);
            }
        });
    }

    /// The next `count` calls of a method (`*`: of any) go wrong like this.
    pub fn fail(&self, method: &str, fault: Fault, count: usize) {
        self.change(|state| state.faults.push((method.to_owned(), fault, count)));
    }
    /// The next `count` calls of a method are answered so, and nothing else is done.
    pub fn answer(&self, method: &str, answer: Value, count: usize) {
        self.change(|state| state.answers.push((method.to_owned(), answer, count)));
    }
    /// The next codes fare so.
    pub fn script(&self, steps: &[Step]) {
        self.change(|state| state.scripts.push_back(steps.to_vec()));
    }

    pub fn calls(&self, method: &str) -> Vec<Call> {
        self.lock().journal.iter().filter(|call| call.method == method).cloned().collect()
    }
    pub fn texts_to(&self, user: &str) -> Vec<String> {
        self.lock().sent.iter().filter(|sent| sent.user == user).map(|sent| sent.text.clone()).collect()
    }

    /// Waits until the state shows what is asked for.
    pub fn wait<T>(&self, within: Duration, what: &str, mut ask: impl FnMut(&State) -> Option<T>) -> T {
        let end = Instant::now() + within;
        let mut state = self.lock();
        loop {
            if let Some(answer) = ask(&state) {
                return answer;
            }
            let now = Instant::now();
            if now >= end {
                let line = |call: &Call| format!("{} {} → {} {:?}", call.method, call.body, call.answer, call.fault);
                let journal: Vec<String> = state.journal.iter().rev().take(12).map(line).collect();
                panic!("{what}: not seen within {within:?}\nsent: {:#?}\nlast calls, newest first: {journal:#?}", state.sent);
            }
            state = self.shared.changed.wait_timeout(state, end - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
    pub fn wait_text(&self, part: &str) -> Sent {
        self.wait_text_within(SOON, part)
    }
    pub fn wait_text_within(&self, within: Duration, part: &str) -> Sent {
        self.wait(within, &format!("a message with {part:?}"), |state| state.sent.iter().find(|sent| sent.text.contains(part)).cloned())
    }
    /// Waits for the `count`th call (from 1) of a method that matches.
    pub fn wait_call(&self, method: &str, count: usize, matches: impl Fn(&Call) -> bool) -> Call {
        let what = format!("call {count} of {method}");
        self.wait(SOON, &what, |state| state.journal.iter().filter(|call| call.method == method && matches(call)).nth(count - 1).cloned())
    }
    pub fn wait_confirmed(&self, id: u64) {
        self.wait(SOON, "a cursor beyond the message", |state| weixin_calls::is_confirmed(state, id).then_some(()));
    }
}

impl Drop for Weixin {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let violations = std::mem::take(&mut self.lock().violations);
            assert!(violations.is_empty(), "requests that no client of WeChat's makes: {violations:#?}");
        }
    }
}
