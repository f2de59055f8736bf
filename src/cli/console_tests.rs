//! Conversations with a gateway that answers as it is told, in the process and over the control socket.

use super::*;
use crate::adapter::Outlet;
use crate::service::admin::serve;
use crate::service::fake::{FakeAdmin, Said, deliver, show, tool};
use crate::service::lock::Lock;
use crate::thread::{Handle, Join, Threads};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn idle(admin: &Arc<FakeAdmin>) -> Arc<dyn Admin> {
    let mut report = admin.report.lock().expect("sound");
    report.inbox.pending = 0;
    report.turns.clear();
    drop(report);
    Arc::clone(admin) as Arc<dyn Admin>
}

/// Answers as the gateway does.
fn answer(said: &Said, outlet: &mut dyn Outlet) {
    match said.text.as_str() {
        "run: uname -m" => {
            show(outlet, said, "", Some(tool(1, "uname -m", 0, None)));
            show(outlet, said, "", Some(tool(1, "uname -m", 12, Some("exit 0"))));
            deliver(outlet, said, OutboundKind::Reply, "aarch64", Some("p1"));
        }
        "fail" => {
            show(outlet, said, "I", None);
            deliver(outlet, said, OutboundKind::Notice, "The model is gone.", Some("p1"));
        }
        "fail early" => deliver(outlet, said, OutboundKind::Notice, "No model at all.", None),
        "/status" => deliver(outlet, said, OutboundKind::Notice, "All is well.", None),
        "nothing" => {}
        text => {
            let words: Vec<&str> = text.split(' ').collect();
            for count in 1..words.len() {
                show(outlet, said, &words[..count].join(" "), None);
            }
            deliver(outlet, said, OutboundKind::Reply, text, (words.len() > 1).then_some("p1"));
        }
    }
}

/// A conversation whose input is `typed`, then the end. → what was shown.
fn converse(admin: &Arc<FakeAdmin>, typed: &str, interactive: bool) -> (Left, String) {
    let (mut keyboard, input) = UnixStream::pair().expect("pair");
    keyboard.write_all(typed.as_bytes()).expect("typed");
    drop(keyboard);
    let (_pressed, interrupts) = UnixStream::pair().expect("pair");
    let mut transport = DirectTransport::attach(idle(admin), "s1").expect("attached");
    let mut shown = Vec::new();
    let style = Style { symbols: true, width: 60, ..Style::PLAIN };
    let interrupts = Interrupts::from_stream(interrupts);
    let mut conversation = Conversation::new(&mut transport, "s1", Input::new(input), interrupts, interactive, &mut shown, style);
    let left = conversation.run(&CancelToken::new());
    drop(conversation);
    (left, String::from_utf8(shown).expect("UTF-8"))
}

#[test]
fn lines_from_a_pipe_are_answered_one_by_one() {
    let admin = FakeAdmin::new(answer);
    let (left, shown) = converse(&admin, "hello my friend\n\nrun: uname -m\n/status\nfail\nfull\nlast", false);
    assert_eq!(left, Left::ByUser);
    assert_eq!(
        shown,
        "hello my friend\n  ⚙ shell  uname -m                           12 ms  exit 0\naarch64\nAll is well.\nI\nThe model is gone.\n\
         (not accepted: too many messages wait)\nlast\n"
    );
    let said = admin.said.lock().expect("sound");
    let texts: Vec<&str> = said.iter().map(|said| said.text.as_str()).collect();
    assert_eq!(texts, ["hello my friend", "run: uname -m", "/status", "fail", "last"]);
    assert!(said.iter().all(|message| message.chat.session() == "local:s1"));
    assert_ne!(said[0].message_id, said[1].message_id);
    assert_eq!(admin.hub.attached("s1"), 0);
}

#[test]
fn a_person_is_prompted_and_leaves_with_ctrl_d() {
    let (left, shown) = converse(&FakeAdmin::new(answer), "", true);
    assert_eq!((left, shown.as_str()), (Left::ByUser, "> \n"));
}

#[test]
fn ctrl_c_stops_the_turn_and_then_leaves() {
    let (pressed, interrupts) = UnixStream::pair().expect("pair");
    let pressed = Mutex::new(pressed);
    let admin = FakeAdmin::new(move |_, _| {
        let _ = pressed.lock().expect("sound").write(b"c");
    });
    let (mut keyboard, input) = UnixStream::pair().expect("pair");
    keyboard.write_all(b"a long job\n").expect("typed");
    let mut transport = DirectTransport::attach(Arc::clone(&admin) as Arc<dyn Admin>, "s1").expect("attached");
    let (mut shown, interrupts) = (Vec::new(), Interrupts::from_stream(interrupts));
    let mut conversation = Conversation::new(&mut transport, "s1", Input::new(input), interrupts, true, &mut shown, Style::PLAIN);
    assert_eq!(conversation.run(&CancelToken::new()), Left::ByUser);
    drop(conversation);
    let texts: Vec<String> = admin.said.lock().expect("sound").iter().map(|said| said.text.clone()).collect();
    assert_eq!(texts, ["a long job", "/stop"]);
    assert!(String::from_utf8(shown).expect("UTF-8").contains("(stopping; Ctrl-C again leaves)\n"));
}

#[test]
fn the_end_of_the_gateway_ends_the_conversation() {
    let admin = FakeAdmin::new(|_, _| ());
    let (_keyboard, input) = UnixStream::pair().expect("pair");
    let (_pressed, interrupts) = UnixStream::pair().expect("pair");
    let mut transport = DirectTransport::attach(admin, "s1").expect("attached");
    let (mut shown, token) = (Vec::new(), CancelToken::new());
    let interrupts = Interrupts::from_stream(interrupts);
    let mut conversation = Conversation::new(&mut transport, "s1", Input::new(input), interrupts, true, &mut shown, Style::PLAIN);
    let cancel = token.clone();
    let started = clock::now();
    std::thread::scope(|scope| {
        scope.spawn(move || cancel.cancel());
        assert_eq!(conversation.run(&token), Left::Lost("the gateway is stopping".to_owned()));
    });
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_message_that_comes_again_is_shown_once() {
    let admin = FakeAdmin::new(|said, outlet| {
        for _ in 0..2 {
            deliver(outlet, said, OutboundKind::Reply, "once", None);
        }
    });
    assert_eq!(converse(&admin, "x\n", false).1, "once\n");
}

struct Gateway {
    admin: Arc<FakeAdmin>,
    lock: Lock,
    threads: Threads,
    running: Option<(CancelToken, Handle)>,
    _scratch: tempfile::TempDir,
}

impl Gateway {
    fn start() -> Self {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let lock = Lock::acquire(scratch.path(), Duration::ZERO, &CancelToken::new()).expect("free");
        let admin = FakeAdmin::new(answer);
        idle(&admin);
        let mut gateway = Self { admin, lock, threads: Threads::new(), running: None, _scratch: scratch };
        gateway.start_again();
        gateway
    }

    fn start_again(&mut self) {
        let token = CancelToken::new();
        let admin = Arc::clone(&self.admin) as Arc<dyn Admin>;
        let handle = serve(admin, &self.lock, &self.threads, &token).expect("serves");
        self.running = Some((token, handle));
    }

    fn stop(&mut self) {
        let (token, handle) = self.running.take().expect("running");
        token.cancel();
        assert!(matches!(handle.join(soon()), Join::Ended(_)));
    }

    fn transport(&self) -> SocketTransport {
        let instance = Instance::find(self.lock.directory()).expect("readable").expect("running");
        SocketTransport::connect(&instance, "s2", "ana").expect("attached")
    }

    fn until(&self, what: &str, reached: impl Fn(&FakeAdmin) -> bool) {
        let deadline = soon();
        while !reached(&self.admin) {
            assert!(!deadline.passed(), "not in time: {what}");
            let _ = CancelToken::new().sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn one_question_over_the_socket() {
    let gateway = Gateway::start();
    let mut transport = gateway.transport();
    let mut check = |text: &str, expect: Result<(bool, &str), &str>| {
        let mut aside = Vec::new();
        let result = ask_once(&mut transport, "s2", text, soon(), &mut |text| aside.push(text.to_owned()));
        assert_eq!(result, expect.map(|(good, text)| (good, text.to_owned())).map_err(str::to_owned), "{text}");
        assert_eq!(aside, Vec::<String>::new(), "{text}");
    };
    check("hello my friend", Ok((true, "hello my friend")));
    check("run: uname -m", Ok((true, "aarch64")));
    check("/status", Ok((true, "All is well.")));
    check("fail", Ok((false, "The model is gone.")));
    check("fail early", Ok((false, "No model at all.")));
    check("full", Err("too many messages wait"));
    let long = "long ".repeat(40_000);
    check(long.trim_end(), Ok((true, long.trim_end())));
}

#[test]
fn an_answer_that_never_comes_is_given_up_in_time() {
    let gateway = Gateway::start();
    let mut transport = gateway.transport();
    let deadline = Deadline::after(Duration::from_millis(100));
    let result = ask_once(&mut transport, "s2", "nothing", deadline, &mut |_| ());
    assert_eq!(result, Err("no answer in time; it goes on working".to_owned()));
}

#[test]
fn a_restart_in_between_loses_nothing() {
    let mut gateway = Gateway::start();
    let mut transport = gateway.transport();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask_once(&mut transport, "s2", "nothing", soon(), &mut |_| ()));
        gateway.until("the message is accepted", |admin| !admin.said.lock().expect("sound").is_empty());
        gateway.stop();
        gateway.until("the terminal is cut off", |admin| admin.hub.attached("s2") == 0);
        gateway.start_again();
        gateway.until("the terminal is back", |admin| admin.hub.attached("s2") == 1);
        let said = gateway.admin.said.lock().expect("sound")[0].clone();
        let mut outlet = local::Local::new(Arc::clone(&gateway.admin.hub)).sender(&CancelToken::new());
        deliver(outlet.as_mut(), &said, OutboundKind::Reply, "after all", None);
        assert_eq!(asking.join().expect("no panic"), Ok((true, "after all".to_owned())));
    });
    gateway.stop();
}
