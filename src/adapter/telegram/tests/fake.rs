//! A Bot API server: updates with their offsets, one poll at a time, and failures on demand.

use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub const TOKEN: &str = "123456:AAHsecretsecret";

/// An answer that is not the usual one.
#[derive(Debug, Clone)]
pub enum Odd {
    Json(u16, Value),
    Raw(u16, &'static str),
    /// Reads the request and closes the connection.
    Close,
    /// Reads the request and says nothing.
    Silence,
}

impl Odd {
    /// A refusal as the Bot API words it.
    pub fn refuse(code: u16, description: &str) -> Self {
        Self::Json(code, json!({"ok": false, "error_code": code, "description": description}))
    }

    pub fn refuse_with(code: u16, description: &str, parameters: Value) -> Self {
        Self::Json(code, json!({"ok": false, "error_code": code, "description": description, "parameters": parameters}))
    }
}

#[derive(Default)]
pub struct State {
    /// Not yet confirmed.
    pub updates: BTreeMap<u64, Value>,
    /// The highest offset that was ever asked with.
    pub confirmed: u64,
    /// Every call: method and parameters.
    pub calls: Vec<(String, Value)>,
    pub odd: HashMap<&'static str, VecDeque<Odd>>,
    pub files: HashMap<String, Vec<u8>>,
    /// Answers polls at once, as some servers for tests do.
    pub impatient: bool,
    polls: u64,
    messages: i64,
    closed: bool,
}

pub struct Fake {
    pub url: String,
    shared: Arc<(Mutex<State>, Condvar)>,
    acceptor: Option<std::thread::JoinHandle<()>>,
}

impl Fake {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let shared = Arc::new((Mutex::new(State { messages: 900, ..State::default() }), Condvar::new()));
        let server = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.0.lock().expect("state").closed {
                    return;
                }
                let server = Arc::clone(&server);
                // Ends with its connection, at the latest when the test's process does.
                std::thread::spawn(move || serve(&server, &stream));
            }
        });
        Self { url, shared, acceptor: Some(acceptor) }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().expect("state")
    }

    pub fn push(&self, update: Value) {
        let id = update["update_id"].as_u64().unwrap_or_else(|| self.state().updates.len() as u64);
        self.state().updates.insert(id, update);
        self.shared.1.notify_all();
    }

    /// A private message of the usual person.
    pub fn push_text(&self, id: u64, text: &str) {
        self.push(json!({"update_id": id, "message": {"message_id": id, "date": 1_792_540_800, "text": text,
            "from": {"id": 77001, "is_bot": false, "first_name": "Ana"}, "chat": {"id": 77001, "type": "private"}}}));
    }

    pub fn odd(&self, method: &'static str, odd: Odd) {
        self.state().odd.entry(method).or_default().push_back(odd);
    }

    /// The parameters of all calls of a method.
    pub fn calls(&self, method: &str) -> Vec<Value> {
        self.state().calls.iter().filter(|(name, _)| name == method).map(|(_, parameters)| parameters.clone()).collect()
    }

    /// Waits until `condition` holds.
    pub fn until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut state = self.state();
        while !condition(&state) {
            assert!(Instant::now() < deadline, "waited in vain for: {what}; calls: {:?}", state.calls);
            state = self.shared.1.wait_timeout(state, Duration::from_millis(100)).expect("state").0;
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.state().closed = true;
        self.shared.1.notify_all();
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
        let _ = self.acceptor.take().map(std::thread::JoinHandle::join);
    }
}

fn serve(shared: &(Mutex<State>, Condvar), stream: &TcpStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut reader = BufReader::new(stream);
    while let Some((path, body)) = read_request(&mut reader) {
        let answer = answer(shared, &path, &body);
        let (status, bytes) = match answer {
            Answer::Bytes(status, bytes) => (status, bytes),
            Answer::Close => break,
            Answer::Silence => {
                // Until the client goes away.
                let _ = reader.read(&mut [0; 1]);
                break;
            }
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let mut writer = stream;
        // In one piece: two would wait for each other's acknowledgement.
        if writer.write_all(&[head.as_bytes(), &bytes].concat()).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|count| *count > 0)?;
        let Some((name, value)) = header.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, body))
}

enum Answer {
    Bytes(u16, Vec<u8>),
    Close,
    Silence,
}

fn json_answer(status: u16, value: &Value) -> Answer {
    Answer::Bytes(status, value.to_string().into_bytes())
}

fn answer(shared: &(Mutex<State>, Condvar), path: &str, body: &[u8]) -> Answer {
    if let Some(file) = path.strip_prefix(&format!("/file/bot{TOKEN}/")) {
        return match shared.0.lock().expect("state").files.get(file) {
            Some(bytes) => Answer::Bytes(200, bytes.clone()),
            None => Answer::Bytes(404, b"no such file".to_vec()),
        };
    }
    let Some(method) = path.strip_prefix(&format!("/bot{TOKEN}/")) else {
        return json_answer(404, &json!({"ok": false, "error_code": 404, "description": "Not Found"}));
    };
    let parameters: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut state = shared.0.lock().expect("state");
    state.calls.push((method.to_owned(), parameters.clone()));
    shared.1.notify_all();
    if let Some(odd) = state.odd.get_mut(method).and_then(VecDeque::pop_front) {
        return match odd {
            Odd::Json(status, value) => json_answer(status, &value),
            Odd::Raw(status, text) => Answer::Bytes(status, text.as_bytes().to_vec()),
            Odd::Close => Answer::Close,
            Odd::Silence => Answer::Silence,
        };
    }
    let result = match method {
        "getMe" => {
            json!({"id": 123_456, "is_bot": true, "first_name": "Gate", "username": "gate_bot", "can_read_all_group_messages": false})
        }
        "getUpdates" => return updates(shared, state, &parameters),
        "getFile" => {
            json!({"file_id": parameters["file_id"], "file_path": format!("photos/{}", parameters["file_id"].as_str().unwrap_or("?"))})
        }
        "sendMessage" => {
            state.messages += 1;
            json!({"message_id": state.messages, "date": 1, "chat": {"id": parameters["chat_id"]}, "text": parameters["text"]})
        }
        _ => json!(true),
    };
    json_answer(200, &json!({"ok": true, "result": result}))
}

fn updates<'a>(shared: &'a (Mutex<State>, Condvar), mut state: MutexGuard<'a, State>, parameters: &Value) -> Answer {
    let number = |name: &str| parameters[name].as_u64().or_else(|| parameters[name].as_str()?.parse().ok());
    if let Some(offset) = number("offset") {
        state.updates.retain(|id, _| *id >= offset);
        state.confirmed = state.confirmed.max(offset);
    }
    // Another poll ends the one before.
    state.polls += 1;
    let own = state.polls;
    shared.1.notify_all();
    let wait = Duration::from_secs(if state.impatient { 0 } else { number("timeout").unwrap_or(0) });
    let deadline = Instant::now() + wait;
    while state.updates.is_empty() && state.polls == own && !state.closed && Instant::now() < deadline {
        state = shared.1.wait_timeout(state, deadline.saturating_duration_since(Instant::now())).expect("state").0;
    }
    if state.polls != own {
        let description = "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running";
        return json_answer(409, &json!({"ok": false, "error_code": 409, "description": description}));
    }
    let limit = usize::try_from(number("limit").unwrap_or(100)).unwrap_or(100);
    let updates: Vec<&Value> = state.updates.values().take(limit).collect();
    json_answer(200, &json!({"ok": true, "result": updates}))
}
