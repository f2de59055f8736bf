//! A fake of the model providers: the Messages API and Chat Completions on one server, scripted by the tests.
//!
//! A rule answers requests by the user's text. Requests that the real servers would refuse are refused here too
//! (`model_check`), and a test in which that happened fails when the fake is dropped.

use super::http::{Connection, Next, Request, Server, reason};
use super::model_check;
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
    pub fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A piece of a reply.
#[derive(Debug, Clone)]
pub enum Step {
    Text(String),
    Tool { name: String, input: Value },
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
    CutInTool { name: String, partial: String },
    /// An error event in the stream, then the end.
    Error { kind: String, message: String },
    /// Bytes that are neither events nor chunks, then the end.
    Garbage,
}

/// The answer to one request.
#[derive(Debug, Clone)]
pub enum Reply {
    Stream(Vec<Step>),
    Status { code: u16, retry_after: Option<u64>, kind: String, message: String },
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
    pub protocol: Protocol,
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
        _ => return next(connection.respond(404, &[("Content-Type", "application/json")], br#"{"type":"error","error":{"type":"not_found_error","message":"Not found"}}"#)),
    };
    let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let rejected = model_check::check(protocol, request, &body).err();
    let (entry, reply, fragment) = {
        let mut state = shared.lock();
        state.open += 1;
        state.peak = state.peak.max(state.open);
        let refusal = rejected.as_ref().map(|(code, message)| refuse(*code, message));
        let rejected = rejected.map(|(code, message)| format!("{code} {message}"));
        state.journal.push(Exchange { at: Instant::now(), protocol, body: body.clone(), rejected, end: None });
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

struct Writer<'a> {
    connection: &'a mut Connection,
    protocol: Protocol,
    id: u64,
    fragment: Option<usize>,
    /// As a stream of events; otherwise one JSON document.
    chunked: bool,
}

type Done = (Next, End);

fn done(sent: std::io::Result<()>) -> Done {
    match sent {
        Ok(()) => (Next::KeepAlive, End::Sent),
        Err(_) => (Next::Close, End::ClientGone),
    }
}

impl Writer<'_> {
    fn answer(&mut self, reply: &Reply) -> Done {
        match reply {
            Reply::Stream(steps) if self.chunked => self.stream(steps),
            Reply::Stream(steps) => self.document(steps),
            Reply::Status { code, retry_after, kind, message } => {
                let body = self.error_body(kind, message);
                let seconds = retry_after.map(|seconds| seconds.to_string());
                let mut headers = vec![("Content-Type", "application/json"), ("request-id", "req_011fake")];
                headers.extend(seconds.as_deref().map(|seconds| ("retry-after", seconds)));
                done(self.connection_respond(*code, &headers, &body))
            }
            Reply::Silent => {
                self.connection.hold();
                (Next::Close, End::ClientGone)
            }
            Reply::Reset => (Next::Reset, End::Sent),
            Reply::Garbage => {
                let _ = self.connection.raw(b"\0\x01\x02 not http at all \xff\r\n\r\n");
                (Next::Close, End::Sent)
            }
            Reply::SlowLoris(text) => {
                let mut bytes = self.head();
                for event in self.beginning().into_iter().chain(self.text_events(0, text)) {
                    bytes.extend(chunk(event.as_bytes()));
                }
                self.connection.trickle(&bytes);
                (Next::Close, End::ClientGone)
            }
        }
    }

    fn connection_respond(&mut self, code: u16, headers: &[(&str, &str)], body: &Value) -> std::io::Result<()> {
        self.connection.respond(code, headers, body.to_string().as_bytes())
    }

    fn error_body(&self, kind: &str, message: &str) -> Value {
        match self.protocol {
            Protocol::Anthropic => json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011fake"}),
            Protocol::OpenAi => json!({"error": {"message": message, "type": kind, "param": null, "code": null}}),
        }
    }

    fn head(&self) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 200 {}\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nrequest-id: req_011fake\r\nTransfer-Encoding: chunked\r\n\r\n",
            reason(200)
        );
        head.into_bytes()
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self.fragment {
            // One HTTP chunk a piece: neither lines nor characters end where the pieces end.
            Some(size) => bytes.chunks(size).try_for_each(|piece| self.connection.raw(&chunk(piece))),
            None => self.connection.raw(&chunk(bytes)),
        }
    }

    fn events(&mut self, events: Vec<String>) -> std::io::Result<()> {
        events.into_iter().try_for_each(|event| self.write(event.as_bytes()))
    }

    fn stream(&mut self, steps: &[Step]) -> Done {
        const GONE: Done = (Next::Close, End::ClientGone);
        let (head, beginning) = (self.head(), self.beginning());
        if self.connection.raw(&head).is_err() || self.events(beginning).is_err() {
            return GONE;
        }
        let (mut index, mut tools) = (0, 0);
        for step in steps {
            let sent = match step {
                Step::Text(text) => self.events(self.text_events(index, text)),
                Step::Tool { name, input } => {
                    tools += 1;
                    self.events(self.tool_events(index, tools - 1, name, &input.to_string()))
                }
                Step::Pause(time) if self.connection.wait(*time) => return GONE,
                Step::Pause(_) => Ok(()),
                Step::Gate(gate) => match self.pass(gate) {
                    true => Ok(()),
                    false => return GONE,
                },
                Step::Silent => {
                    self.connection.hold();
                    return GONE;
                }
                Step::Cut => return (Next::Close, End::Sent),
                Step::Reset => return (Next::Reset, End::Sent),
                broken => {
                    let _ = self.broken(index, tools, broken);
                    return (Next::Close, End::Sent);
                }
            };
            if sent.is_err() {
                return GONE;
            }
            index += usize::from(matches!(step, Step::Text(_) | Step::Tool { .. }));
        }
        let ending = self.ending(tools > 0);
        let sent = self.events(ending).and_then(|()| self.connection.raw(b"0\r\n\r\n"));
        done(sent)
    }

    /// Waits for the gate; keep-alives go out meanwhile. `false`: the client has gone.
    fn pass(&mut self, gate: &Gate) -> bool {
        let mut next_ping = Instant::now();
        while !gate.0.load(Ordering::SeqCst) {
            if Instant::now() >= next_ping {
                next_ping = Instant::now() + Duration::from_millis(500);
                let ping = match self.protocol {
                    Protocol::Anthropic => event(&json!({"type": "ping"})),
                    Protocol::OpenAi => ": ping\n\n".to_owned(),
                };
                if self.write(ping.as_bytes()).is_err() {
                    return false;
                }
            }
            if self.connection.wait(Duration::from_millis(5)) {
                return false;
            }
        }
        true
    }

    fn broken(&mut self, index: usize, tools: usize, step: &Step) -> std::io::Result<()> {
        match step {
            Step::CutInCharacter(text) => {
                let events = self.text_events(index, text).concat();
                let last = text.char_indices().next_back().map(|(at, _)| &text[at..]).expect("a text");
                assert!(last.len() > 1, "the last character must have several bytes");
                let at = events.rfind(last).expect("the text is in the event");
                self.write(&events.as_bytes()[..=at])
            }
            Step::CutInTool { name, partial } => {
                let mut events = self.tool_events(index, tools, name, partial);
                if self.protocol == Protocol::Anthropic {
                    // Without content_block_stop the block is not complete.
                    events.pop();
                }
                self.events(events)
            }
            Step::Error { kind, message } => {
                let body = self.error_body(kind, message);
                let bytes = match self.protocol {
                    Protocol::Anthropic => event(&body),
                    Protocol::OpenAi => format!("data: {body}\n\n"),
                };
                self.write(bytes.as_bytes()).and_then(|()| self.connection.raw(b"0\r\n\r\n"))
            }
            Step::Garbage => self.connection.raw(b"zz\r\n\xff\xfe{]\0 neither a chunk nor an event\r\n"),
            other => unreachable!("{other:?} is not a way to break"),
        }
    }

    fn beginning(&self) -> Vec<String> {
        match self.protocol {
            Protocol::Anthropic => vec![event(&json!({"type": "message_start", "message": {"id": format!("msg_{}", self.id), "type": "message",
                "role": "assistant", "model": "fake", "content": [], "stop_reason": null, "stop_sequence": null,
                "usage": {"input_tokens": 11, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1}}}))],
            Protocol::OpenAi => vec![self.delta(&json!({"role": "assistant", "content": ""}), &Value::Null)],
        }
    }

    fn delta(&self, delta: &Value, finish: &Value) -> String {
        let body = json!({"id": format!("chatcmpl-{}", self.id), "object": "chat.completion.chunk", "created": 1, "model": "fake",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]});
        format!("data: {body}\n\n")
    }

    fn text_events(&self, index: usize, text: &str) -> Vec<String> {
        let pieces = pieces(text, 48);
        match self.protocol {
            Protocol::Anthropic => {
                let mut events = vec![event(&json!({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}))];
                if index == 0 {
                    events.push(event(&json!({"type": "ping"})));
                }
                let delta = |piece| event(&json!({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": piece}}));
                events.extend(pieces.into_iter().map(delta));
                events.push(event(&json!({"type": "content_block_stop", "index": index})));
                events
            }
            Protocol::OpenAi => pieces.into_iter().map(|piece| self.delta(&json!({"content": piece}), &Value::Null)).collect(),
        }
    }

    fn tool_events(&self, index: usize, number: usize, name: &str, arguments: &str) -> Vec<String> {
        let pieces = pieces(arguments, 9);
        match self.protocol {
            Protocol::Anthropic => {
                let block = json!({"type": "tool_use", "id": format!("toolu_{}_{number}", self.id), "name": name, "input": {}});
                let mut events = vec![event(&json!({"type": "content_block_start", "index": index, "content_block": block}))];
                let delta = |piece| event(&json!({"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": piece}}));
                events.push(delta(""));
                events.extend(pieces.into_iter().map(delta));
                events.push(event(&json!({"type": "content_block_stop", "index": index})));
                events
            }
            Protocol::OpenAi => {
                let first = json!({"tool_calls": [{"index": number, "id": format!("call_{}_{number}", self.id), "type": "function",
                    "function": {"name": name, "arguments": ""}}]});
                let more = |piece: &str| json!({"tool_calls": [{"index": number, "function": {"arguments": piece}}]});
                let deltas = std::iter::once(first).chain(pieces.into_iter().map(more));
                deltas.map(|delta| self.delta(&delta, &Value::Null)).collect()
            }
        }
    }

    fn ending(&self, tools: bool) -> Vec<String> {
        match self.protocol {
            Protocol::Anthropic => {
                let stop = if tools { "tool_use" } else { "end_turn" };
                let delta = json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null}, "usage": {"output_tokens": 7}});
                vec![event(&delta), event(&json!({"type": "message_stop"}))]
            }
            Protocol::OpenAi => {
                let usage = json!({"id": format!("chatcmpl-{}", self.id), "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": [],
                    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}});
                let finish = json!(if tools { "tool_calls" } else { "stop" });
                vec![self.delta(&json!({}), &finish), format!("data: {usage}\n\n"), "data: [DONE]\n\n".to_owned()]
            }
        }
    }

    /// The reply to a request without `stream`.
    fn document(&mut self, steps: &[Step]) -> Done {
        let texts: String = steps.iter().filter_map(|step| if let Step::Text(text) = step { Some(text.as_str()) } else { None }).collect();
        let tools: Vec<(&String, &Value)> = steps.iter().filter_map(|step| if let Step::Tool { name, input } = step { Some((name, input)) } else { None }).collect();
        let body = match self.protocol {
            Protocol::Anthropic => {
                let mut content = vec![json!({"type": "text", "text": texts})];
                content.extend(tools.iter().enumerate().map(|(number, (name, input))| {
                    json!({"type": "tool_use", "id": format!("toolu_{}_{number}", self.id), "name": name, "input": input})
                }));
                json!({"id": format!("msg_{}", self.id), "type": "message", "role": "assistant", "model": "fake", "content": content,
                    "stop_reason": if tools.is_empty() { "end_turn" } else { "tool_use" }, "stop_sequence": null,
                    "usage": {"input_tokens": 11, "output_tokens": 7}})
            }
            Protocol::OpenAi => {
                let calls: Vec<Value> = tools.iter().enumerate().map(|(number, (name, input))| {
                    json!({"id": format!("call_{}_{number}", self.id), "type": "function", "function": {"name": name, "arguments": input.to_string()}})
                }).collect();
                let calls = if calls.is_empty() { Value::Null } else { json!(calls) };
                let finish = if tools.is_empty() { "stop" } else { "tool_calls" };
                let message = json!({"role": "assistant", "content": texts, "refusal": null, "tool_calls": calls});
                json!({"id": format!("chatcmpl-{}", self.id), "object": "chat.completion", "created": 1, "model": "fake",
                    "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish}],
                    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}})
            }
        };
        let sent = self.connection_respond(200, &[("Content-Type", "application/json")], &body);
        done(sent)
    }
}

fn event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("an event has a type"))
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Pieces of at most `size` characters.
fn pieces(text: &str, size: usize) -> Vec<&str> {
    let mut cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(size).collect();
    cuts.push(text.len());
    cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect()
}
