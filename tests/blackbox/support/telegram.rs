//! A Bot API server on loopback, built field by field from the Bot API's documentation.
//!
//! It keeps chats as their members see them, so that tests assert what a person reads, and a journal of the calls.

use super::http::{Fault, Server};
use super::poll::SOON;
use super::telegram_methods;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const BOT_ID: i64 = 123_456;
pub const BOT_NAME: &str = "gate_bot";
/// The user that the tests allow.
pub const ANA: i64 = 77_001;
/// Seconds since 1970 of the first message.
const DATE: i64 = 1_792_540_800;

/// One call of a method.
#[derive(Debug, Clone)]
pub struct Call {
    pub at: Instant,
    /// As the documentation spells it.
    pub method: String,
    pub params: Map<String, Value>,
    /// What was answered; 0 while it is not, or if nothing was.
    pub status: u16,
    pub fault: Option<Fault>,
}

impl Call {
    pub fn text(&self) -> &str {
        self.params.get("text").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A message in a chat.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: i64,
    pub from_bot: bool,
    /// As a person reads it, without markup.
    pub text: String,
    /// As it was sent.
    pub source: String,
    pub entities: Vec<Value>,
    pub thread: Option<i64>,
    pub reply_to: Option<i64>,
    /// Label and data.
    pub buttons: Vec<(String, String)>,
    pub edits: Vec<(Instant, String)>,
    pub deleted: bool,
    pub document: Option<(String, Vec<u8>)>,
    pub reactions: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Chat {
    /// `private`, `group`, `supergroup`, `channel`.
    pub kind: String,
    pub title: String,
    /// Topics of a forum; without any the chat is not a forum.
    pub topics: BTreeSet<i64>,
    pub messages: Vec<Message>,
    pub next_message: i64,
    pub blocked: bool,
    pub migrated_to: Option<i64>,
}

pub struct State {
    pub token: String,
    pub chats: BTreeMap<i64, Chat>,
    pub updates: VecDeque<(i64, Value)>,
    pub next_update: i64,
    /// The highest offset ever asked for.
    pub confirmed: i64,
    pub pollers: u64,
    /// Polls that are waited in now.
    pub polling: usize,
    pub allowed_updates: Option<Vec<String>>,
    pub webhook: bool,
    pub journal: Vec<Call>,
    pub faults: Vec<(String, Fault, usize)>,
    pub files: HashMap<String, (String, Vec<u8>)>,
    pub callbacks: BTreeMap<String, Option<String>>,
    pub commands: Vec<Value>,
    pub clock: i64,
    pub reads_all: bool,
}

impl State {
    pub fn date(&mut self) -> i64 {
        self.clock += 1;
        DATE + self.clock
    }
    pub fn user(id: i64) -> Value {
        json!({"id": id, "is_bot": false, "first_name": "Ana", "last_name": "Li", "username": format!("user{id}"), "language_code": "en"})
    }
    pub fn bot() -> Value {
        json!({"id": BOT_ID, "is_bot": true, "first_name": "Gate", "username": BOT_NAME})
    }
    pub fn chat_json(&self, id: i64) -> Value {
        let chat = &self.chats[&id];
        if chat.kind == "private" {
            return json!({"id": id, "first_name": "Ana", "last_name": "Li", "username": format!("user{id}"), "type": "private"});
        }
        let mut value = json!({"id": id, "title": chat.title, "type": chat.kind});
        if !chat.topics.is_empty() {
            value["is_forum"] = json!(true);
        }
        value
    }
    pub fn private(&mut self, user: i64) {
        self.chats.entry(user).or_insert_with(|| Chat::new("private", ""));
    }
    fn push(&mut self, kind: &str, body: Value) -> i64 {
        let id = self.next_update;
        self.next_update += 1;
        self.updates.push_back((id, json!({"update_id": id, kind: body})));
        id
    }
}

impl Chat {
    pub fn new(kind: &str, title: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            title: title.to_owned(),
            topics: BTreeSet::new(),
            messages: Vec::new(),
            next_message: 41,
            blocked: false,
            migrated_to: None,
        }
    }
    pub fn add(&mut self, from_bot: bool, text: String, source: String) -> &mut Message {
        let id = self.next_message;
        self.next_message += 1;
        self.messages.push(Message {
            id,
            from_bot,
            text,
            source,
            entities: Vec::new(),
            thread: None,
            reply_to: None,
            buttons: Vec::new(),
            edits: Vec::new(),
            deleted: false,
            document: None,
            reactions: Vec::new(),
        });
        self.messages.last_mut().expect("just pushed")
    }
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
pub struct Telegram {
    pub shared: Arc<Shared>,
    pub server: Server,
}

impl Telegram {
    pub fn start() -> Self {
        // Each fake has a bot of its own: gateways of tests that run at the same time must not compete for a credential.
        let token = format!("{BOT_ID}:AAH{}", std::iter::repeat_with(fastrand::alphanumeric).take(32).collect::<String>());
        let state = State {
            token,
            chats: BTreeMap::new(),
            updates: VecDeque::new(),
            next_update: 872_001_345,
            confirmed: 0,
            pollers: 0,
            polling: 0,
            allowed_updates: None,
            webhook: false,
            journal: Vec::new(),
            faults: Vec::new(),
            files: HashMap::new(),
            callbacks: BTreeMap::new(),
            commands: Vec::new(),
            clock: 0,
            reads_all: true,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let copy = Arc::clone(&shared);
        let server = Server::start(move |request, connection| telegram_methods::serve(&copy, request, connection));
        Self { shared, server }
    }

    pub fn token(&self) -> String {
        self.lock().token.clone()
    }
    pub fn url(&self) -> String {
        self.server.url()
    }
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.lock());
        self.shared.changed.notify_all();
        answer
    }

    // --- what people do ---

    /// A message of a user in a private chat. → its id.
    pub fn user_says(&self, user: i64, text: &str) -> i64 {
        self.change(|state| state.private(user));
        self.says(user, user, text, json!({}))
    }

    /// The same text, `count` times from each of the users in turn, in their private chats, all at once.
    #[allow(dead_code)] // For the figures.
    pub fn users_say(&self, users: std::ops::Range<i64>, count: usize, text: &str) {
        self.change(|state| {
            for _ in 0..count {
                for user in users.clone() {
                    state.private(user);
                    let message = incoming(state, user, user, text, json!({}));
                    state.push("message", message);
                }
            }
        });
    }

    /// A message of `user` in `chat`, with further fields. → its id.
    pub fn says(&self, chat: i64, user: i64, text: &str, more: Value) -> i64 {
        self.change(|state| {
            let message = incoming(state, chat, user, text, more);
            let id = message["message_id"].as_i64().expect("a message has an id");
            state.push("message", message);
            id
        })
    }

    /// The same message as an update of its own again, as a server does that lost track.
    pub fn repeat(&self, chat: i64, message: i64) {
        self.change(|state| {
            let found = state.chats[&chat].messages.iter().find(|known| known.id == message).expect("the message").clone();
            let mut value =
                json!({"message_id": message, "from": State::user(chat), "chat": state.chat_json(chat), "date": DATE, "text": found.text});
            value["entities"] = json!(entities(&found.text));
            state.push("message", value);
        });
    }

    /// An edit of a message of `user`.
    pub fn user_edits(&self, chat: i64, user: i64, message: i64, text: &str) {
        self.change(|state| {
            let date = state.date();
            let known = state.chats.get_mut(&chat).and_then(|chat| chat.messages.iter_mut().find(|known| known.id == message));
            text.clone_into(&mut known.expect("the edited message").text);
            let body = json!({"message_id": message, "from": State::user(user), "chat": state.chat_json(chat), "date": date, "edit_date": date + 1, "text": text});
            state.push("edited_message", body);
        });
    }

    /// A press on a button of a message. → the query's id.
    pub fn user_presses(&self, chat: i64, user: i64, message: i64, data: &str) -> String {
        self.change(|state| {
            let id = format!("4382{}", state.next_update);
            let date = state.date();
            let known = state.chats[&chat].messages.iter().find(|known| known.id == message).expect("the message with the button");
            let message =
                json!({"message_id": message, "from": State::bot(), "chat": state.chat_json(chat), "date": date, "text": known.text});
            let query =
                json!({"id": id, "from": State::user(user), "message": message, "chat_instance": "-3141592653589793238", "data": data});
            state.callbacks.insert(id.clone(), None);
            state.push("callback_query", query);
            id
        })
    }

    /// Any update.
    pub fn push(&self, kind: &str, body: Value) {
        self.change(|state| state.push(kind, body));
    }

    pub fn add_chat(&self, id: i64, kind: &str, topics: &[i64]) {
        self.change(|state| {
            let chat = state.chats.entry(id).or_insert_with(|| Chat::new(kind, "Ops"));
            chat.topics.extend(topics);
        });
    }

    /// A file that a user's message can name by `file_id`.
    pub fn add_file(&self, file_id: &str, path: &str, bytes: &[u8]) {
        self.change(|state| state.files.insert(file_id.to_owned(), (path.to_owned(), bytes.to_vec())));
    }

    /// The group becomes a supergroup with another id.
    pub fn migrate(&self, old: i64, new: i64) {
        self.change(|state| {
            let mut chat = state.chats[&old].clone();
            chat.kind = "supergroup".to_owned();
            state.chats.insert(new, chat);
            state.chats.get_mut(&old).expect("the old chat").migrated_to = Some(new);
            let date = state.date();
            let from = State::user(ANA);
            let body = json!({"message_id": 7001, "from": from, "chat": state.chat_json(old), "date": date, "migrate_to_chat_id": new});
            state.push("message", body);
            let body = json!({"message_id": 7002, "from": from, "chat": state.chat_json(new), "date": date, "migrate_from_chat_id": old});
            state.push("message", body);
        });
    }

    // --- faults ---

    /// The next `count` calls of `method` (`*`: of any) go wrong like this.
    pub fn fail(&self, method: &str, fault: Fault, count: usize) {
        self.change(|state| state.faults.push((method.to_owned(), fault, count)));
    }

    // --- what there is to see ---

    /// The bot's messages in a chat as they stand now, oldest first.
    pub fn shown(&self, chat: i64) -> Vec<Message> {
        let state = self.lock();
        let messages = state.chats.get(&chat).map(|chat| chat.messages.clone()).unwrap_or_default();
        messages.into_iter().filter(|message| message.from_bot && !message.deleted).collect()
    }
    pub fn texts(&self, chat: i64) -> Vec<String> {
        self.shown(chat).into_iter().map(|message| message.text).collect()
    }
    /// How many messages the bot has sent.
    #[allow(dead_code)] // For the figures.
    pub fn sent(&self) -> usize {
        let state = self.lock();
        state.chats.values().map(|chat| chat.messages.iter().filter(|message| message.from_bot).count()).sum()
    }
    pub fn calls(&self, method: &str) -> Vec<Call> {
        self.lock().journal.iter().filter(|call| call.method == method).cloned().collect()
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
                let journal: Vec<String> =
                    state.journal.iter().rev().take(12).map(|call| format!("{} {} {:?}", call.method, call.status, call.fault)).collect();
                let texts: Vec<(i64, Vec<String>)> = state.chats.iter().map(|(id, chat)| (*id, chat.texts())).collect();
                panic!("{what}: not seen within {within:?}\nchats: {texts:#?}\nlast calls, newest first: {journal:#?}");
            }
            state = self.shared.changed.wait_timeout(state, end - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a message of the bot that contains this, as it stands then.
    pub fn wait_text(&self, chat: i64, part: &str) -> Message {
        self.wait_text_within(SOON, chat, part)
    }
    pub fn wait_text_within(&self, within: Duration, chat: i64, part: &str) -> Message {
        self.wait(within, &format!("a message with {part:?} in chat {chat}"), |state| state.find(chat, part).cloned())
    }

    /// Waits for the `count`th call (from 1) of a method that matches.
    pub fn wait_call(&self, method: &str, count: usize, matches: impl Fn(&Call) -> bool) -> Call {
        let what = format!("call {count} of {method}");
        self.wait(SOON, &what, |state| state.journal.iter().filter(|call| call.method == method && matches(call)).nth(count - 1).cloned())
    }

    /// Waits until everything that was pushed has been confirmed by an offset.
    pub fn wait_confirmed(&self) {
        self.wait(SOON, "all updates confirmed", |state| (state.confirmed >= state.next_update).then_some(()));
    }
}

impl State {
    pub fn find(&self, chat: i64, part: &str) -> Option<&Message> {
        let messages = &self.chats.get(&chat)?.messages;
        messages.iter().find(|message| message.from_bot && !message.deleted && message.text.contains(part))
    }
    /// How many of the bot's messages contain this.
    pub fn count(&self, chat: i64, part: &str) -> usize {
        let messages = self.chats.get(&chat).map_or(&[][..], |chat| &chat.messages);
        messages.iter().filter(|message| message.from_bot && !message.deleted && message.text.contains(part)).count()
    }
}

impl Chat {
    fn texts(&self) -> Vec<String> {
        let who = |message: &Message| if message.from_bot { "bot" } else { "user" };
        self.messages.iter().map(|message| format!("{} {}: {:.200}", message.id, who(message), message.text)).collect()
    }
}

fn incoming(state: &mut State, chat: i64, user: i64, text: &str, more: Value) -> Value {
    let date = state.date();
    let known = state.chats.get_mut(&chat).expect("the chat of the message");
    let id = known.add(false, text.to_owned(), text.to_owned()).id;
    let mut message = json!({"message_id": id, "from": State::user(user), "chat": state.chat_json(chat), "date": date});
    if !text.is_empty() {
        message["text"] = json!(text);
        let found = entities(text);
        if !found.is_empty() {
            message["entities"] = json!(found);
        }
    }
    for (key, value) in more.as_object().expect("further fields are an object") {
        message[key.as_str()] = value.clone();
    }
    message
}

/// Commands and mentions as the server marks them, in UTF-16 units.
pub fn entities(text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut offset = 0;
    for word in text.split_inclusive(char::is_whitespace) {
        let bare = word.trim_end();
        let length = super::html::utf16(bare);
        if bare.starts_with('/') && length > 1 {
            found.push(json!({"type": "bot_command", "offset": offset, "length": length}));
        } else if bare.starts_with('@') && length > 1 {
            let name = bare.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            found.push(json!({"type": "mention", "offset": offset, "length": super::html::utf16(name)}));
        }
        offset += super::html::utf16(word);
    }
    found
}
