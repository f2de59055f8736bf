//! A fake of the model providers: the Messages API and Chat Completions on one server, scripted by the tests.
//!
//! A rule answers requests by the user's text. Requests that the real servers would refuse are refused here too
//! (`model_check`), and a test in which that happened fails when the fake is dropped.

use super::http::{Connection, Next, Request, Server};
use super::model_check;
use super::model_stream::Writer;
use super::poll::SOON;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Anthropic,
    OpenAi,
}

/// A door in a reply that the test opens.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
    pub fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A piece of a reply.
#[derive(Debug, Clone)]
pub enum Step {
    Text(String),
    Tool {
        name: String,
        input: Value,
    },
    Pause(Duration),
    /// Keep-alives while waiting for the gate, so that the silence timer is not what ends it.
    Gate(Gate),
    /// Nothing more, and the connection stays open.
    Silent,
    /// FIN before the terminator.
    Cut,
    /// RST.
    Reset,
    /// A piece of text whose last character is cut in the middle of its UTF-8 bytes, then FIN.
    CutInCharacter(String),
    /// A tool call whose arguments break off, then FIN.
    CutInTool {
        name: String,
        partial: String,
    },
    /// An error event in the stream, then the end.
    Error {
        kind: String,
        message: String,
    },
    /// Bytes that are neither events nor chunks, then the end.
    Garbage,
}

/// The answer to one request.
#[derive(Debug, Clone)]
pub enum Reply {
    Stream(Vec<Step>),
    Status {
        code: u16,
        retry_after: Option<u64>,
        kind: String,
        message: String,
    },
    /// Takes the request and never answers.
    Silent,
    Reset,
    Garbage,
    /// A right stream, one byte every 50 ms: never silent, never done.
    SlowLoris(String),
}

pub fn text(text: &str) -> Reply {
    Reply::Stream(vec![Step::Text(text.to_owned())])
}
pub fn shell(command: &str) -> Step {
    Step::Tool { name: "shell".to_owned(), input: json!({"command": command}) }
}
pub fn status(code: u16, retry_after: Option<u64>) -> Reply {
    let kind = match code {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    Reply::Status { code, retry_after, kind: kind.to_owned(), message: format!("fake {code}") }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The reply was sent to its end, faulty or not.
    Sent,
    /// The client closed the connection before that.
    ClientGone,
}

/// One request, as it came.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub at: Instant,
    pub body: Value,
    /// Why the real server would have refused it.
    pub rejected: Option<String>,
    pub end: Option<(Instant, End)>,
}

impl Exchange {
    /// All that users said, oldest first, whatever the protocol's shape.
    pub fn user_texts(&self) -> Vec<String> {
        messages(&self.body).filter(|message| message["role"] == "user").flat_map(texts_of).collect()
    }
    /// Everything in the request as one text, to look for something in it.
    pub fn all(&self) -> String {
        self.body.to_string()
    }
}

fn messages(body: &Value) -> impl Iterator<Item = &Value> {
    body["messages"].as_array().into_iter().flatten()
}

fn texts_of(message: &Value) -> Vec<String> {
    match &message["content"] {
        Value::String(text) => vec![text.clone()],
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    }
}

fn calls_tools(message: &Value) -> bool {
    let anthropic = message["content"].as_array().is_some_and(|parts| parts.iter().any(|part| part["type"] == "tool_use"));
    anthropic || message["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty())
}

struct Rule {
    needle: String,
    /// By the number of tool rounds since the text; the last one stands for all further rounds.
    replies: Vec<Reply>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    /// Consumed before the rules, in order.
    once: VecDeque<(String, Reply)>,
    journal: Vec<Exchange>,
    open: usize,
    peak: usize,
    fragment: Option<usize>,
    may_reject: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    next_id: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Model {
    shared: Arc<Shared>,
    pub server: Server,
}

impl Model {
    pub fn start() -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), next_id: AtomicU64::new(1) });
        let copy = Arc::clone(&shared);
        let server = Server::start(move |request, connection| serve(&copy, request, connection));
        Self { shared, server }
    }

    /// The address as the protocol's clients want it.
    pub fn url(&self, protocol: Protocol) -> String {
        match protocol {
            Protocol::Anthropic => self.server.url(),
            Protocol::OpenAi => format!("{}/v1", self.server.url()),
        }
    }

    /// Requests in which the newest matching user text contains `needle` get these replies, one a tool round.
    pub fn rule(&self, needle: &str, replies: impl Into<Vec<Reply>>) {
        self.shared.lock().rules.insert(0, Rule { needle: needle.to_owned(), replies: replies.into() });
    }
    /// The next request with `needle` gets this reply, whatever the rules say.
    pub fn once(&self, needle: &str, reply: Reply) {
        self.shared.lock().once.push_back((needle.to_owned(), reply));
    }
    /// Streams are written in pieces of this many bytes.
    pub fn fragment(&self, bytes: usize) {
        self.shared.lock().fragment = Some(bytes);
    }
    /// Refused requests are part of this test.
    pub fn allow_rejections(&self) {
        self.shared.lock().may_reject = true;
    }
    pub fn journal(&self) -> Vec<Exchange> {
        self.shared.lock().journal.clone()
    }
    /// The most requests that were open at one time.
    pub fn peak(&self) -> usize {
        self.shared.lock().peak
    }
    /// Requests whose newest user text contains this.
    pub fn asked(&self, needle: &str) -> usize {
        self.journal().iter().filter(|exchange| exchange.user_texts().last().is_some_and(|text| text.contains(needle))).count()
    }

    /// Waits for the `count`th request (from 1) that contains `needle` anywhere.
    pub fn wait_request(&self, count: usize, needle: &str) -> Exchange {
        let matching = |state: &State| state.journal.iter().filter(|exchange| exchange.all().contains(needle)).nth(count - 1).cloned();
        self.wait(SOON, &format!("request {count} with {needle:?}"), matching)
    }
    /// Waits for the `count`th request (from 1) of all. → when it came
    #[allow(dead_code)] // For the figures.
    pub fn wait_count(&self, count: usize) -> Instant {
        self.wait(SOON, &format!("request {count}"), |state| state.journal.get(count - 1).map(|exchange| exchange.at))
    }
    /// Waits for the end of the `count`th request that contains `needle`.
    pub fn wait_end(&self, count: usize, needle: &str) -> (Instant, End) {
        let matching = |state: &State| state.journal.iter().filter(|exchange| exchange.all().contains(needle)).nth(count - 1)?.end;
        self.wait(SOON, &format!("the end of request {count} with {needle:?}"), matching)
    }
    fn wait<T>(&self, within: Duration, what: &str, ask: impl Fn(&State) -> Option<T>) -> T {
        let end = Instant::now() + within;
        let mut state = self.shared.lock();
        loop {
            if let Some(answer) = ask(&state) {
                return answer;
            }
            let now = Instant::now();
            if now >= end {
                let seen: Vec<Vec<String>> = state.journal.iter().map(Exchange::user_texts).collect();
                panic!("{what}: not seen within {within:?}; user texts of the requests so far: {seen:#?}");
            }
            state = self.shared.changed.wait_timeout(state, end - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let state = self.shared.lock();
        if std::thread::panicking() || state.may_reject {
            return;
        }
        let refused: Vec<(&String, &Value)> = state.journal.iter().filter_map(|one| Some((one.rejected.as_ref()?, &one.body))).collect();
        assert!(refused.is_empty(), "requests that the real server refuses: {refused:#?}");
    }
}

fn serve(shared: &Shared, request: &Request, connection: &mut Connection) -> Next {
    let protocol = match request.path() {
        "/v1/messages" => Protocol::Anthropic,
        "/v1/chat/completions" => Protocol::OpenAi,
        "/v1/models" => {
            let body = json!({"object": "list", "data": [{"type": "model", "id": "fake", "display_name": "Fake"}], "has_more": false});
            return next(connection.respond(200, &[("Content-Type", "application/json")], body.to_string().as_bytes()));
        }
        _ => {
            return next(connection.respond(
                404,
                &[("Content-Type", "application/json")],
                br#"{"type":"error","error":{"type":"not_found_error","message":"Not found"}}"#,
            ));
        }
    };
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let rejected = model_check::check(protocol, request, &body).err();
    let (entry, reply, fragment) = {
        let mut state = shared.lock();
        state.open += 1;
        state.peak = state.peak.max(state.open);
        let refusal = rejected.as_ref().map(|(code, message)| refuse(*code, message));
        let rejected = rejected.map(|(code, message)| format!("{code} {message}"));
        state.journal.push(Exchange { at: Instant::now(), body: body.clone(), rejected, end: None });
        let reply = refusal.unwrap_or_else(|| choose(&mut state, &body));
        (state.journal.len() - 1, reply, state.fragment)
    };
    shared.changed.notify_all();
    let id = shared.next_id.fetch_add(1, Ordering::SeqCst);
    let mut writer = Writer { connection, protocol, id, fragment, chunked: body["stream"] == true };
    let (next, end) = writer.answer(&reply);
    let mut state = shared.lock();
    state.open -= 1;
    state.journal[entry].end = Some((Instant::now(), end));
    drop(state);
    shared.changed.notify_all();
    next
}

fn refuse(code: u16, message: &str) -> Reply {
    let Reply::Status { kind, .. } = status(code, None) else { unreachable!("a status is a status") };
    Reply::Status { code, retry_after: None, kind, message: message.to_owned() }
}

fn next(sent: std::io::Result<()>) -> Next {
    if sent.is_ok() { Next::KeepAlive } else { Next::Close }
}

/// The reply by the newest user text for which there is one: notes that the gateway adds do not get in the way.
fn choose(state: &mut State, body: &Value) -> Reply {
    let all: Vec<&Value> = messages(body).collect();
    let texts = all.iter().enumerate().filter(|(_, message)| message["role"] == "user");
    let texts: Vec<(usize, String)> = texts.flat_map(|(at, message)| texts_of(message).into_iter().map(move |text| (at, text))).collect();
    for (at, text) in texts.iter().rev() {
        if let Some(found) = state.once.iter().position(|(needle, _)| text.contains(needle.as_str())) {
            return state.once.remove(found).expect("just found").1;
        }
        if let Some(rule) = state.rules.iter().find(|rule| text.contains(&rule.needle)) {
            let rounds = all[*at..].iter().filter(|message| calls_tools(message)).count();
            return rule.replies.get(rounds).or(rule.replies.last()).expect("a rule has a reply").clone();
        }
    }
    let last = texts.last().map_or("", |(_, text)| text.as_str());
    Reply::Stream(vec![Step::Text(format!("no rule for: {last:.80}"))])
}
