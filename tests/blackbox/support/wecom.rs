//! WeCom's server for AI bots on loopback, built field by field from the description of its long connection.
//!
//! It keeps conversations as their members see them, so that tests assert what a person reads, and a journal of the frames. What
//! the real server refuses is refused here; what no server may ever be sent is a violation, and a test in which one happened
//! fails when the fake is dropped.

use super::http::{Connection, Next, Request, Server};
use super::poll::SOON;
use super::websocket::{self, Frame, Sender};
use super::wecom_frames;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The user that the tests allow.
pub const ZHANG: &str = "zhangsan";
pub const GROUP: &str = "wrkSFfCgAA0001";
/// Seconds since 1970 of the first message.
const TIME: i64 = 1_792_540_800;

/// A frame from the gateway.
#[derive(Debug, Clone)]
pub struct Sent {
    pub at: Instant,
    pub cmd: String,
    pub req_id: String,
    pub body: Value,
    /// What it was answered; `None` while it is not.
    pub code: Option<i64>,
}

/// A message of the bot, as people see it.
#[derive(Debug, Clone)]
pub struct Shown {
    pub chat: String,
    pub text: String,
    /// The callback that it answers and the stream's id; `None` for a message of its own.
    pub stream: Option<(String, String)>,
    pub finished: bool,
    /// All that it has ever shown.
    pub history: Vec<(Instant, String)>,
}

/// A message or event that can be answered.
#[derive(Debug, Clone)]
pub struct Callback {
    pub chat: String,
    pub frame: Value,
    /// Its stream can be written to no more.
    pub expired: bool,
    pub known: bool,
}

/// What goes wrong with frames of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Refused with this code, without being done.
    Code(i64),
    /// The connection ends before it is done.
    CutBefore,
    /// It is done, and the connection ends before the acknowledgement.
    CutAfter,
    /// It is done, and never acknowledged.
    Silent,
}

#[derive(Default)]
pub struct State {
    pub secret: String,
    pub refuse: bool,
    pub journal: Vec<Sent>,
    pub shown: Vec<Shown>,
    pub callbacks: HashMap<String, Callback>,
    /// By message id.
    messages: HashMap<String, Value>,
    pub files: HashMap<String, (String, Vec<u8>)>,
    pub troubles: Vec<(String, Trouble, usize)>,
    /// Pings are not answered.
    pub deaf: bool,
    /// Acknowledgements wait here.
    hold: bool,
    held: Vec<(Sender, String)>,
    /// Frames that are not acknowledged: number of the connection and id.
    pub in_flight: Vec<(usize, String)>,
    /// The connection that is logged in.
    live: Option<(usize, Sender)>,
    pub logins: usize,
    opened: usize,
    pub pings: usize,
    /// Codes of the CLOSE frames that came.
    pub goodbyes: Vec<u16>,
    violations: Vec<String>,
    next: i64,
}

impl State {
    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }
    fn number(&mut self) -> i64 {
        self.next += 1;
        self.next
    }
    pub fn trouble(&mut self, cmd: &str) -> Option<Trouble> {
        let (_, trouble, left) = self.troubles.iter_mut().find(|(name, _, left)| name == cmd && *left > 0)?;
        *left -= 1;
        Some(*trouble)
    }
    /// Messages, and streams by their first frame, that came to a conversation in the last minute.
    pub fn sent_in_a_minute(&self, chat: &str) -> usize {
        let begun = self.shown.iter().filter(|shown| shown.chat == chat).filter_map(|shown| shown.history.first());
        begun.filter(|(at, _)| at.elapsed() < Duration::from_secs(60)).count()
    }
    pub fn texts(&self, chat: &str) -> Vec<String> {
        let shown = self.shown.iter().filter(|shown| shown.chat == chat).map(|shown| visible(&shown.text));
        shown.filter(|text| !text.is_empty()).collect()
    }
}

/// A text without what is shown as "thinking".
pub fn visible(text: &str) -> String {
    match (text.find("<think>"), text.find("</think>")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &text[..from], &text[to + "</think>".len()..]).trim().to_owned(),
        _ => text.to_owned(),
    }
}

pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Wecom {
    pub bot_id: String,
    shared: Arc<Shared>,
    pub server: Server,
}

impl Wecom {
    pub fn start() -> Self {
        let random = || std::iter::repeat_with(fastrand::alphanumeric).take(16).collect::<String>();
        let state = State { secret: format!("SECRET{}", random()), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (copy, bot_id) = (Arc::clone(&shared), format!("BOT{}", random()));
        let ours = bot_id.clone();
        let server = Server::start(move |request, connection| serve(&copy, &ours, request, connection));
        Self { bot_id, shared, server }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
    pub fn secret(&self) -> String {
        self.lock().secret.clone()
    }
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.lock());
        self.shared.changed.notify_all();
        answer
    }

    // --- what people do ---

    /// A private message. → its id
    pub fn user_says(&self, user: &str, text: &str) -> String {
        self.user_sends(user, None, json!({"msgtype": "text", "text": {"content": text}}))
    }
    /// A message in a group, which mentions the bot.
    pub fn group_says(&self, user: &str, text: &str) -> String {
        self.user_sends(user, Some(GROUP), json!({"msgtype": "text", "text": {"content": format!("@Gate {text}")}}))
    }
    /// Any message. → its id. Whoever is not connected does not get it.
    pub fn user_sends(&self, user: &str, group: Option<&str>, content: Value) -> String {
        self.change(|state| {
            let number = state.number();
            let id = format!("CAIQz7/MjQYY{number}/NGagIOAgAMgl8jK/gI=");
            let mut body = json!({"msgid": id, "aibotid": self.bot_id, "from": {"userid": user}, "create_time": TIME + number});
            body["chattype"] = json!(if group.is_some() { "group" } else { "single" });
            if let Some(group) = group {
                body["chatid"] = json!(group);
            }
            body["response_url"] = json!("https://qyapi.weixin.qq.com/cgi-bin/aibot/response?response_code=x");
            body.as_object_mut().expect("an object").extend(content.as_object().expect("an object").clone());
            let req_id = format!("REQ_cb_{number}_{}", fastrand::u32(..));
            let frame = json!({"cmd": "aibot_msg_callback", "headers": {"req_id": req_id}, "body": body});
            call_back(state, &req_id, group.unwrap_or(user), &frame);
            state.messages.insert(id.clone(), frame);
            id
        })
    }
    /// The same callback once more.
    pub fn repeat(&self, id: &str) {
        let state = self.lock();
        let frame = state.messages.get(id).expect("a message that was sent").to_string();
        if let Some((_, sender)) = &state.live {
            sender.text(&frame);
        }
    }
    /// An event of a user. → its req_id
    pub fn event(&self, user: &str, event: Value) -> String {
        self.change(|state| {
            let number = state.number();
            let req_id = format!("REQ_ev_{number}");
            let body = json!({"msgid": format!("ev{number}"), "create_time": TIME + number, "aibotid": self.bot_id, "from": {"userid": user}, "chattype": "single", "msgtype": "event", "event": event});
            let frame = json!({"cmd": "aibot_event_callback", "headers": {"req_id": req_id}, "body": body});
            call_back(state, &req_id, user, &frame);
            req_id
        })
    }
    /// Anything, as it is.
    pub fn raw(&self, text: &str) {
        if let Some((_, sender)) = &self.lock().live {
            sender.text(text);
        }
    }
    /// A file that a message can name: encrypted as WeCom does it. → address and key
    pub fn add_file(&self, name: &str, bytes: &[u8], host: std::net::SocketAddr) -> (String, String) {
        let key: [u8; 32] = std::array::from_fn(|_| fastrand::u8(..));
        let id = format!("f{}", fastrand::u32(..));
        self.change(|state| state.files.insert(id.clone(), (name.to_owned(), wecom_frames::encrypt(bytes, &key))));
        (format!("http://{host}/media/{id}?sign=SIGNATURE"), wecom_frames::base64(&key).trim_end_matches('=').to_owned())
    }

    // --- faults ---

    /// The next `count` frames of a command meet this.
    pub fn fail(&self, cmd: &str, trouble: Trouble, count: usize) {
        self.change(|state| state.troubles.push((cmd.to_owned(), trouble, count)));
    }
    pub fn be_deaf(&self, deaf: bool) {
        self.change(|state| state.deaf = deaf);
    }
    /// Acknowledgements of frames with answers wait until they are released.
    pub fn hold_acks(&self, hold: bool) {
        let held = self.change(|state| {
            state.hold = hold;
            state.in_flight.clear();
            std::mem::take(&mut state.held)
        });
        for (sender, text) in held {
            sender.text(&text);
        }
    }
    /// All streams are too old from now on.
    pub fn expire_streams(&self) {
        self.change(|state| state.callbacks.values_mut().for_each(|callback| callback.expired = true));
    }
    /// Another program logs in with the same credential.
    pub fn take_over(&self) {
        self.change(|state| disconnect(state, &self.bot_id));
    }

    // --- what there is to see ---

    pub fn texts(&self, chat: &str) -> Vec<String> {
        self.lock().texts(chat)
    }
    pub fn shown(&self, chat: &str) -> Vec<Shown> {
        self.lock().shown.iter().filter(|shown| shown.chat == chat).cloned().collect()
    }
    pub fn sent(&self, cmd: &str) -> Vec<Sent> {
        self.lock().journal.iter().filter(|sent| sent.cmd == cmd).cloned().collect()
    }
    pub fn connected(&self) -> usize {
        usize::from(self.lock().live.is_some())
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
                let last: Vec<String> = state.journal.iter().rev().take(12).map(|sent| format!("{sent:.300?}")).collect();
                panic!("{what}: not seen within {within:?}\nshown: {:#?}\nlast frames, newest first: {last:#?}", state.shown);
            }
            state = self.shared.changed.wait_timeout(state, end - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
    pub fn wait_text(&self, chat: &str, part: &str) -> Shown {
        self.wait_text_within(SOON, chat, part)
    }
    pub fn wait_text_within(&self, within: Duration, chat: &str, part: &str) -> Shown {
        self.wait(within, &format!("a message with {part:?} in {chat}"), |state| {
            state.shown.iter().find(|shown| shown.chat == chat && shown.text.contains(part)).cloned()
        })
    }
    /// Waits for the message that contains this, in its last form.
    pub fn wait_finished(&self, chat: &str, part: &str) -> Shown {
        self.wait(SOON, &format!("a finished message with {part:?} in {chat}"), |state| {
            state.shown.iter().find(|shown| shown.chat == chat && shown.text.contains(part) && shown.finished).cloned()
        })
    }
    /// Waits for the `count`th frame (from 1) of a command.
    pub fn wait_sent(&self, cmd: &str, count: usize) -> Sent {
        self.wait(SOON, &format!("frame {count} of {cmd}"), |state| {
            state.journal.iter().filter(|sent| sent.cmd == cmd).nth(count - 1).cloned()
        })
    }
    pub fn wait_logins(&self, count: usize) {
        self.wait(Duration::from_secs(45), &format!("login {count}"), |state| {
            (state.logins >= count && state.live.is_some()).then_some(())
        });
    }
}

impl Drop for Wecom {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let violations = self.lock().violations.clone();
            assert!(violations.is_empty(), "what no server may be sent: {violations:#?}");
        }
    }
}

fn call_back(state: &mut State, req_id: &str, chat: &str, frame: &Value) {
    let callback = Callback { chat: chat.to_owned(), frame: frame.clone(), expired: false, known: true };
    state.callbacks.insert(req_id.to_owned(), callback);
    if let Some((_, sender)) = &state.live {
        sender.text(&frame.to_string());
    }
}

/// The live connection is told that another one has its place, and dropped.
fn disconnect(state: &mut State, bot_id: &str) {
    let Some((_, sender)) = state.live.take() else { return };
    let body =
        json!({"msgid": "x", "create_time": TIME, "aibotid": bot_id, "msgtype": "event", "event": {"eventtype": "disconnected_event"}});
    sender.text(&json!({"cmd": "aibot_event_callback", "headers": {"req_id": "REQ_ev_gone"}, "body": body}).to_string());
    sender.cut();
}

fn serve(shared: &Shared, bot_id: &str, request: &Request, connection: &mut Connection) -> Next {
    if let Some(id) = request.path().strip_prefix("/media/") {
        let found = shared.lock().files.get(id).cloned();
        let sent = match found {
            Some((name, bytes)) => {
                let disposition = format!("attachment; filename*=UTF-8''{}", wecom_frames::escaped(&name));
                connection.respond(200, &[("Content-Type", "application/octet-stream"), ("Content-Disposition", &disposition)], &bytes)
            }
            None => connection.respond(404, &[], b""),
        };
        return if sent.is_ok() { Next::KeepAlive } else { Next::Close };
    }
    if !websocket::is_upgrade(request) || request.target != "/" {
        let _ = connection.respond(404, &[], b"");
        return Next::Close;
    }
    let Ok(mut socket) = websocket::accept(request, connection) else { return Next::Close };
    let sender = socket.sender();
    let number = {
        let mut state = shared.lock();
        state.opened += 1;
        state.opened
    };
    while let Some(frame) = socket.read() {
        match frame {
            Frame::Text(text) => take(shared, bot_id, number, &sender, &text),
            Frame::Ping(payload) => drop(sender.pong(&payload)),
            Frame::Pong(_) => {}
            Frame::Binary(_) => shared.lock().violation("a binary message".to_owned()),
            Frame::Close(code, _) => {
                shared.lock().goodbyes.push(code);
                break;
            }
        }
        shared.changed.notify_all();
    }
    let mut state = shared.lock();
    if state.live.as_ref().is_some_and(|(live, _)| *live == number) {
        state.live = None;
    }
    state.in_flight.retain(|(connection, _)| *connection != number);
    drop(state);
    shared.changed.notify_all();
    Next::Close
}

fn take(shared: &Shared, bot_id: &str, connection: usize, sender: &Sender, text: &str) {
    let mut state = shared.lock();
    let Some((cmd, req_id, body)) = wecom_frames::read(&mut state, text) else { return };
    let sent = Sent { at: Instant::now(), cmd: cmd.clone(), req_id: req_id.clone(), body: body.clone(), code: None };
    state.journal.push(sent);
    let entry = state.journal.len() - 1;
    let live = state.live.as_ref().is_some_and(|(live, _)| *live == connection);
    let answers = !matches!(cmd.as_str(), "aibot_subscribe" | "ping");
    if !live && cmd != "aibot_subscribe" {
        state.violation(format!("{cmd} before the login"));
        return;
    }
    if answers {
        if state.in_flight.contains(&(connection, req_id.clone())) {
            state.violation(format!("a second frame for {req_id} before the first one was acknowledged: {body}"));
        }
        state.in_flight.push((connection, req_id.clone()));
    }
    let trouble = state.trouble(&cmd);
    if trouble == Some(Trouble::CutBefore) {
        sender.cut();
        return;
    }
    let (code, message) = match (cmd.as_str(), trouble) {
        (_, Some(Trouble::Code(code))) => (code, "fake trouble"),
        ("aibot_subscribe", _) => {
            let fine = body["bot_id"] == bot_id && body["secret"] == state.secret.as_str() && !state.refuse;
            if fine {
                disconnect(&mut state, bot_id);
                state.live = Some((connection, sender.clone()));
                state.logins += 1;
            }
            if fine { (0, "ok") } else { (40014, "invalid bot_id or secret") }
        }
        ("ping", _) => {
            state.pings += 1;
            if state.deaf {
                return;
            }
            (0, "ok")
        }
        (_, _) => wecom_frames::apply(&mut state, &cmd, &req_id, &body),
    };
    state.journal[entry].code = Some(code);
    match trouble {
        Some(Trouble::CutAfter) => return sender.cut(),
        Some(Trouble::Silent) => return state.in_flight.retain(|known| *known != (connection, req_id.clone())),
        _ => {}
    }
    let answer = json!({"headers": {"req_id": req_id}, "errcode": code, "errmsg": message}).to_string();
    if answers && state.hold {
        state.held.push((sender.clone(), answer));
        return;
    }
    state.in_flight.retain(|known| *known != (connection, req_id.clone()));
    // A new connection is told before anything is called back over it.
    sender.text(&answer);
}
