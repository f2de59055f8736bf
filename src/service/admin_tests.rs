//! The control socket against good, bad and slow clients.

use super::super::client::{Client, ClientError};
use super::super::fake::{FakeAdmin, deliver, sample_report, show};
use super::super::report::StatusReport;
use super::*;
use crate::adapter::local::HubEvent;
use crate::core::types::{ChatRef, OutboundKind};
use crate::thread::Join;
use serde_json::json;
use std::io::{Read, Write};

struct Gateway {
    scratch: tempfile::TempDir,
    admin: Arc<FakeAdmin>,
    threads: Threads,
    token: CancelToken,
    handle: Handle,
}

impl Gateway {
    fn start() -> Self {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let admin = FakeAdmin::new(|said, outlet| {
            show(outlet, said, "an", None);
            let text = if said.text.len() > 1000 { &said.text } else { "answer" };
            deliver(outlet, said, OutboundKind::Reply, text, Some("p1"));
        });
        let (threads, token) = (Threads::new(), CancelToken::new());
        let path = socket_path(scratch.path(), None);
        // A leftover of a killed predecessor.
        drop(UnixListener::bind(&path).expect("binds"));
        let handle = serve_at(Arc::clone(&admin) as Arc<dyn Admin>, &path, &threads, &token).expect("serves");
        Self { scratch, admin, threads, token, handle }
    }

    fn path(&self) -> PathBuf {
        socket_path(self.scratch.path(), None)
    }

    fn client(&self) -> Client {
        Client::connect(&self.path(), soon()).expect("connects")
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("set");
        stream
    }

    fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let deadline = Deadline::after(Duration::from_secs(20));
        while !reached(self) {
            assert!(!deadline.passed(), "not in time: {what}");
            let _ = CancelToken::new().sleep(Duration::from_millis(5));
        }
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn next_event(client: &mut Client) -> Result<HubEvent, ClientError> {
    loop {
        if let Some(event) = client.try_event()? {
            return Ok(event);
        }
        let [readable] = poll_ready([(client.fd(), PollFlags::POLLIN)], Some(soon())).expect("polls");
        assert!(readable, "no event in time");
    }
}

fn chat(adapter: &str, chat: &str) -> ChatRef {
    ChatRef { adapter: adapter.to_owned(), chat: chat.to_owned(), thread: None }
}

fn say(text: &str) -> Request {
    Request::Say { chat: chat("local", "c1"), sender_name: "ana".to_owned(), text: text.to_owned(), message_id: "m1".to_owned() }
}

#[test]
fn requests_are_answered() {
    let gateway = Gateway::start();
    assert_eq!(gateway.path().metadata().expect("there").permissions().mode() & 0o777, 0o600);
    let mut client = gateway.client();
    let mut ask = |request: &Request| client.ask(request, soon()).map_err(|error| error.to_string());
    let report: StatusReport = serde_json::from_value(ask(&Request::Status).expect("answered")).expect("a report");
    assert_eq!(report, sample_report());
    assert_eq!(ask(&Request::Stop), Ok(Value::Null));
    assert_eq!(ask(&Request::Restart), Err("restarts are switched off".to_owned()));
    assert_eq!(ask(&Request::Send { chat: chat("telegram", "7"), text: "hi".to_owned() }), Ok(json!(12)));
    assert_eq!(ask(&Request::Send { chat: chat("icq", "7"), text: "hi".to_owned() }), Err("there is no adapter icq".to_owned()));
    assert_eq!(ask(&Request::Command { name: "echo".to_owned(), args: json!([1, "x"]) }), Ok(json!([1, "x"])));
    assert_eq!(ask(&Request::Command { name: "nothing".to_owned(), args: Value::Null }), Err("there is no command nothing".to_owned()));
    assert_eq!(ask(&say("full")), Err("too many messages wait".to_owned()));
    assert_eq!(*gateway.admin.asked.lock().expect("sound"), ["stop", "restart", "send telegram:7 hi", "send icq:7 hi"]);
}

#[test]
fn a_chat_hears_its_events_and_leaves_when_it_hangs_up() {
    let gateway = Gateway::start();
    let mut client = gateway.client();
    client.ask(&Request::Attach { chat: "other".to_owned() }, soon()).expect("attached");
    client.ask(&Request::Attach { chat: "c1".to_owned() }, soon()).expect("attached");
    assert_eq!((gateway.admin.hub.attached("other"), gateway.admin.hub.attached("c1")), (0, 1));
    client.ask(&say("hello"), soon()).expect("accepted");
    let HubEvent::Preview { preview, .. } = next_event(&mut client).expect("connected") else { panic!("preview") };
    assert_eq!(preview.text, "an");
    let event = next_event(&mut client).expect("connected");
    assert!(matches!(event, HubEvent::Message { text, kind: Some(OutboundKind::Reply), .. } if text == "answer"));
    assert_eq!(client.try_event().expect("connected"), None);
    drop(client);
    gateway.until("the terminal is detached", |gateway| gateway.admin.hub.attached("c1") == 0);
    gateway.until("its thread is gone", |gateway| gateway.threads.list().len() == 1);
}

#[test]
fn garbage_is_answered_and_harms_nobody() {
    let gateway = Gateway::start();
    let mut stream = gateway.raw();
    for line in ["", "nonsense", "{}", "{\"do\":\"fly\"}", "{\"do\":\"say\"}", "[[[[", "\u{1F600}", "{\"do\":\"status\",\"new\":1}"] {
        stream.write_all(format!("{line}\n").as_bytes()).expect("sent");
    }
    stream.write_all(b"\xff\xfe\n").expect("sent");
    stream.shutdown(Shutdown::Write).expect("shut down");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("closed in the end");
    let answers: Vec<Response> = answers.lines().map(|line| serde_json::from_str(line).expect("a response")).collect();
    assert_eq!(answers.len(), 9, "{answers:?}");
    assert!(matches!(answers[7], Response::Ok(_)), "unknown fields are for later versions");
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Response::Error(_))).count(), 8);

    let mut endless = gateway.raw();
    let _ = endless.write_all(&vec![b'x'; limits::ADMIN_LINE_BYTES_MAX + (64 << 10)]);
    let mut answer = String::new();
    // The rest may still be on its way when the connection is closed; that the answer comes first is best effort.
    let _ = endless.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.contains("at most"), "{answer}");

    let mut panicking = gateway.client();
    let error = panicking.ask(&Request::Command { name: "panic".to_owned(), args: Value::Null }, soon()).expect_err("it panics");
    assert!(matches!(error, ClientError::Closed), "{error}");
    gateway.client().ask(&Request::Status, soon()).expect("the others do not notice");
    gateway.until("no thread is left", |gateway| gateway.threads.list().len() == 1);
}

#[test]
fn a_client_that_does_not_read_is_cut_off_and_blocks_nobody() {
    let gateway = Gateway::start();
    let mut deaf = gateway.raw();
    deaf.write_all(b"{\"do\":\"attach\",\"chat\":\"c1\"}\n").expect("sent");
    gateway.until("it is attached", |gateway| gateway.admin.hub.attached("c1") == 1);
    let mut talker = gateway.client();
    let long = "x".repeat(200 << 10);
    let started = clock::now();
    // Once nobody is attached the fake cannot deliver, panics, and its connection is closed.
    for _ in 0..200 {
        if talker.ask(&say(&long), soon()).is_err() {
            break;
        }
    }
    assert_eq!(gateway.admin.hub.attached("c1"), 0);
    assert!(started.elapsed() < Duration::from_secs(20));
    gateway.client().ask(&Request::Status, soon()).expect("the others do not notice");
}

#[test]
fn too_many_connections_are_refused_and_chats_leave_room_for_status() {
    let gateway = Gateway::start();
    let mut chats: Vec<Client> = (0..limits::ADMIN_CONNECTIONS_MAX - 1).map(|_| gateway.client()).collect();
    let attach = |(number, client): (usize, &mut Client)| client.ask(&Request::Attach { chat: number.to_string() }, soon()).is_ok();
    let attached = chats.iter_mut().enumerate().map(attach).filter(|attached| *attached).count();
    assert_eq!(attached, limits::ADMIN_ATTACHED_MAX);
    let mut last = gateway.client();
    last.ask(&Request::Status, soon()).expect("one place is left");
    let mut refused = gateway.raw();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).expect("closed");
    assert_eq!(answer, "{\"error\":\"too many connections to the control socket; close one\"}\n");
    drop(chats);
    gateway.until("places are free again", |gateway| gateway.threads.list().len() == 2);
    gateway.client().ask(&Request::Attach { chat: "c".to_owned() }, soon()).expect("room again");
}

#[test]
fn cancelled_it_ends_at_once_and_takes_its_socket_away() {
    let gateway = Gateway::start();
    let mut attached = gateway.client();
    attached.ask(&Request::Attach { chat: "c1".to_owned() }, soon()).expect("attached");
    let mut half = gateway.raw();
    half.write_all(b"{\"do\":").expect("sent");
    gateway.until("both are there", |gateway| gateway.threads.list().len() == 3);
    let started = clock::now();
    gateway.token.cancel();
    assert!(matches!(gateway.handle.join(soon()), Join::Ended(_)));
    gateway.until("all threads are gone", |gateway| gateway.threads.list().is_empty());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(!gateway.path().exists());
    assert!(matches!(next_event(&mut attached), Err(ClientError::Closed)));
    assert!(matches!(Client::connect(&gateway.path(), soon()), Err(ClientError::Unreachable(_))));
}

#[test]
fn a_gateway_that_does_not_answer_is_given_up() {
    let scratch = tempfile::tempdir().expect("scratch directory");
    let path = scratch.path().join("s");
    let _mute = UnixListener::bind(&path).expect("binds");
    let mut client = Client::connect(&path, soon()).expect("the kernel connects");
    let error = client.ask(&Request::Status, Deadline::after(Duration::from_millis(50))).expect_err("mute");
    assert!(matches!(error, ClientError::NoAnswer), "{error}");
}
