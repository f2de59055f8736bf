//! QQ's own rules: the gateway's session, its close codes and heartbeats; in `sending`, that a bot may only reply.

mod fake;
mod sending;

use super::{Platform, configured};
use crate::support::gateway::{Gateway, Setup};
use crate::support::http::{Fault, Server};
use crate::support::model::{self, Model, Protocol};
use crate::support::qqbot::{ANA, CHATS, GUILDS, Login, QqBot, private};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

impl Platform for QqBot {
    const NAME: &'static str = "qqbot";
    const INTERVAL: Duration = Duration::from_secs(3);
    const KEEPS: bool = true;

    fn start() -> Self {
        Self::start()
    }

    fn server(&self) -> &Server {
        &self.server
    }

    fn configure(&self, setup: Setup, address: SocketAddr) -> Setup {
        self.section(setup, address)
    }

    fn says(&self, text: &str) -> String {
        self.user_says(ANA, text)
    }

    fn repeat(&self, id: &str) {
        self.change(|state| {
            let heard = state.heard[id].clone();
            state.dispatch(&heard.kind, &heard.data);
        });
    }

    fn is_confirmed(&self, id: &str) -> bool {
        self.see(|state| {
            let session = state.current.as_ref().and_then(|id| state.sessions.get(id));
            state.heard[id].s.is_some_and(|s| s <= session.map_or(0, |session| session.confirmed))
        })
    }

    fn texts(&self) -> Vec<String> {
        self.shown(&private(ANA)).into_iter().map(|shown| shown.text).collect()
    }

    fn connected(&self) -> usize {
        self.see(|state| state.connections.iter().filter(|connection| connection.session.is_some()).count())
    }

    fn connects(&self) -> usize {
        self.see(|state| state.connects)
    }

    fn refuse(&self, refuse: bool) {
        self.change(|state| {
            state.refused = refuse;
            if refuse {
                state.tokens.clear();
            }
        });
        if refuse {
            self.cut();
        }
    }
}

fn setup(qq: &QqBot) -> Setup {
    configured(qq, Gateway::setup())
}

/// A gateway that is logged in.
fn connected(qq: &QqBot) -> Gateway {
    let gateway = setup(qq).start();
    gateway.wait_adapter("qqbot", "connected");
    gateway
}

/// One message, answered.
fn talk(qq: &QqBot, text: &str) {
    qq.user_says(ANA, &format!("echo: {text}"));
    qq.wait_text(text);
}

/// `s` of the message that contains this.
fn event_of(qq: &QqBot, text: &str) -> i64 {
    let says = |content: Option<&str>| content.is_some_and(|content| content.contains(text));
    let found = qq.see(|state| state.heard.values().find(|heard| says(heard.data["content"].as_str())).map(|heard| heard.s));
    found.expect("it was said").expect("it was delivered")
}

#[test]
fn a_message_is_answered_with_its_id_and_a_number() {
    let qq = QqBot::start();
    let gateway = connected(&qq);
    let id = qq.user_says(ANA, "echo: hello there");
    let shown = qq.wait_text("hello there");
    assert_eq!((shown.text.as_str(), &shown.msg_id), ("hello there", &id));
    assert!((1..=2).contains(&shown.msg_seq), "the first, or the second after a typing sign: {shown:?}");
    gateway.wait_idle();
    assert_eq!(qq.texts(), ["hello there"]);
    assert_eq!(gateway.adapter("qqbot")["identity"], "testbot");
    let identify = &qq.frames(2)[0]["d"];
    assert_eq!((&identify["intents"], &identify["properties"]["$os"]), (&json!(CHATS | GUILDS), &json!("linux")));
    assert_eq!(qq.see(|state| state.token_requests), 1, "one access token for both threads");
    let everything = gateway.log_lines().concat();
    let secrets = qq.see(|state| [state.secret.clone(), state.tokens[0].clone()]);
    assert!(secrets.iter().all(|secret| !everything.contains(secret)), "a secret is in the log");
}

#[test]
fn a52_after_a_cut_the_session_goes_on_behind_the_last_message() {
    let qq = QqBot::start();
    let gateway = connected(&qq);
    talk(&qq, "before the cut");
    let last = event_of(&qq, "before the cut");
    qq.cut();
    qq.user_says(ANA, "echo: during the cut");
    qq.wait_text("during the cut");
    let resume = qq.wait_frame(6, 1);
    assert_eq!((&resume["d"]["seq"], &resume["d"]["session_id"]), (&json!(last), &json!(qq.see(|state| state.current.clone()))));
    gateway.wait_adapter("qqbot", "connected");
    gateway.wait_idle();
    assert_eq!((qq.texts(), qq.frames(2).len()), (vec!["before the cut".to_owned(), "during the cut".to_owned()], 1));
}

#[test]
fn a52_a_killed_gateway_goes_on_with_its_session() {
    let qq = QqBot::start();
    let mut gateway = connected(&qq);
    talk(&qq, "before the end");
    let last = event_of(&qq, "before the end");
    for number in 1..=2 {
        gateway.wait_idle();
        gateway.kill9();
        qq.wait("the connection is gone", |state| state.connections.is_empty().then_some(()));
        qq.user_says(ANA, &format!("echo: missed {number}"));
        gateway.start_again();
        qq.wait_text(&format!("missed {number}"));
    }
    let resumes = qq.frames(6);
    assert_eq!((resumes.len(), &resumes[0]["d"]["seq"], qq.frames(2).len()), (2, &json!(last), 1));
    // RESUMED has a number too, which is processed without a message and may be behind.
    assert!(resumes[1]["d"]["seq"].as_i64() >= Some(event_of(&qq, "missed 1")), "{resumes:?}");
    gateway.wait_idle();
    assert_eq!(qq.texts(), ["before the end", "missed 1", "missed 2"]);
    assert_eq!(gateway.adapter("qqbot")["identity"], "testbot", "known although the session does not tell it again");
}

#[test]
fn a52_a_stopped_gateway_goes_on_with_its_session() {
    let qq = QqBot::start();
    let mut gateway = connected(&qq);
    talk(&qq, "before the stop");
    gateway.stop();
    qq.user_says(ANA, "echo: while stopped");
    gateway.start_again();
    qq.wait_text("while stopped");
    gateway.wait_idle();
    assert_eq!((qq.texts().len(), qq.frames(2).len(), qq.frames(6).len()), (2, 1, 1));
}

#[test]
fn a52_a_session_that_is_gone_is_followed_by_a_new_one() {
    let qq = QqBot::start();
    let mut gateway = connected(&qq);
    talk(&qq, "first session");
    gateway.kill9();
    qq.change(|state| state.sessions.clear());
    gateway.start_again();
    qq.wait_connects(2);
    assert_eq!((qq.frames(6).len(), qq.frames(2).len()), (1, 2));
    talk(&qq, "second session");
    gateway.wait_idle();
    gateway.kill9();
    gateway.start_again();
    qq.wait_connects(3);
    assert_eq!((qq.frames(6).len(), qq.frames(2).len()), (2, 2), "the new session is the one that is known");
}

#[test]
fn a52_an_expired_connection_is_resumed_at_once() {
    let qq = QqBot::start();
    let gateway = connected(&qq);
    talk(&qq, "before 4009");
    // A connection that lived for a while, as real ones do.
    qq.wait_frame(1, 7);
    let closed = Instant::now();
    qq.close_all(4009);
    qq.user_says(ANA, "echo: after 4009");
    qq.wait_text("after 4009");
    assert!(closed.elapsed() < Duration::from_secs(4), "without backoff: {:?}", closed.elapsed());
    assert_eq!((qq.frames(6).len(), qq.frames(2).len()), (1, 1));
    gateway.wait_idle();
    assert_eq!(qq.texts().len(), 2);
}

/// What the gateway does after the server has closed a running connection with this code.
fn after_close(code: u16) -> (QqBot, Gateway) {
    let qq = QqBot::start();
    let gateway = connected(&qq);
    talk(&qq, "before");
    qq.close_all(code);
    (qq, gateway)
}

#[test]
fn a52_codes_that_end_the_session_lead_to_a_new_one() {
    for code in [4006, 4007, 4900, 4913] {
        let (qq, _gateway) = after_close(code);
        qq.wait_connects(2);
        assert_eq!((qq.frames(2).len(), qq.frames(6).len()), (2, 0), "{code}");
        talk(&qq, "in the new session");
    }
}

#[test]
fn a52_other_codes_and_ops_lead_to_a_resume() {
    for code in [1000, 1006, 4000] {
        let (qq, _gateway) = after_close(code);
        qq.wait_connects(2);
        assert_eq!((qq.frames(2).len(), qq.frames(6).len()), (1, 1), "{code}");
    }
    for frame in [json!({"op": 7}), json!({"op": 9, "d": true})] {
        let qq = QqBot::start();
        let _gateway = connected(&qq);
        qq.send_frame(&frame);
        qq.wait_connects(2);
        assert_eq!((qq.frames(2).len(), qq.frames(6).len()), (1, 1), "{frame}");
        talk(&qq, "goes on");
    }
}

#[test]
fn a52_an_invalid_session_is_not_resumed() {
    for frame in [json!({"op": 9, "d": false}), json!({"op": 9})] {
        let qq = QqBot::start();
        let _gateway = connected(&qq);
        qq.send_frame(&frame);
        qq.wait_connects(2);
        assert_eq!((qq.frames(2).len(), qq.frames(6).len()), (2, 0), "{frame}");
    }
}

#[test]
fn a_token_that_the_gateway_does_not_take_is_replaced() {
    let qq = QqBot::start();
    let gateway = connected(&qq);
    qq.change(|state| {
        state.tokens.clear();
        state.logins.clear();
    });
    // The API finds out first.
    qq.cut();
    qq.wait_connects(2);
    assert_eq!(qq.see(|state| state.token_requests), 2);
    // Now only the gateway does.
    qq.login(&[Login::Close(4004)]);
    qq.cut();
    qq.wait_connects(3);
    assert_eq!((qq.see(|state| state.token_requests), qq.frames(2).len()), (3, 2), "a fresh token and a fresh session");
    assert_eq!(gateway.wait_adapter("qqbot", "connected")["state"], "connected");
}

#[test]
fn a52_who_is_too_fast_waits_a_minute() {
    for code in [4008, 4001] {
        let (_qq, gateway) = after_close(code);
        let adapter = gateway.wait_adapter("qqbot", "retrying");
        assert!(adapter["error"].as_str().is_some_and(|error| error.contains(&code.to_string())), "{adapter}");
        assert!(adapter["next_try_ms"].as_u64().is_some_and(|wait| (50_000..=60_000).contains(&wait)), "{adapter}");
    }
}

#[test]
fn codes_that_only_the_operator_can_help_with_fail_the_adapter() {
    for (code, remedy) in [(4010, "shards"), (4914, "sandbox"), (4915, "banned")] {
        let (qq, mut gateway) = after_close(code);
        let adapter = gateway.wait_adapter("qqbot", "failed");
        assert!(adapter["error"].as_str().is_some_and(|error| error.contains(&code.to_string())), "{adapter}");
        assert!(gateway.log_lines().iter().any(|line| line.contains(remedy)), "{code}: {}", gateway.log_tail());
        assert!(gateway.is_running() && qq.connects() == 1);
        gateway.chat("echo: the rest works").expect(0).says("the rest works");
    }
}

#[test]
fn intents_that_are_refused_are_left_out() {
    for allowed in [CHATS, GUILDS] {
        let qq = QqBot::start();
        qq.change(|state| state.allowed_intents = allowed);
        let _gateway = connected(&qq);
        assert_eq!(qq.frames(2).last().expect("logged in")["d"]["intents"], json!(allowed));
    }
    let qq = QqBot::start();
    qq.change(|state| state.allowed_intents = 0);
    let gateway = setup(&qq).start();
    gateway.wait_adapter("qqbot", "failed");
    assert!(gateway.logged("GROUP_AND_C2C_EVENT") && qq.frames(2).len() == 3);
    let chosen = QqBot::start();
    chosen.change(|state| state.allowed_intents = GUILDS);
    let gateway = setup(&chosen).set("adapters.qqbot", "intents", "\"chats\"").start();
    gateway.wait_adapter("qqbot", "failed");
    assert_eq!(chosen.frames(2).len(), 1, "what was chosen is not replaced");
}

#[test]
fn connections_that_end_at_once_again_and_again_slow_down() {
    let qq = QqBot::start();
    let gateway = setup(&qq).launch();
    qq.login(&[Login::CloseAfter(4009), Login::CloseAfter(4009), Login::CloseAfter(4009), Login::CloseAfter(4009)]);
    let what = "the third short connection";
    let adapter = gateway.wait_status(what, |status| {
        let adapter = status["adapters"].as_array()?.iter().find(|adapter| adapter["name"] == "qqbot")?;
        adapter["error"].as_str()?.contains("permissions").then(|| adapter.clone())
    });
    assert!(adapter["next_try_ms"].as_u64() > Some(5000), "{adapter}");
    assert_eq!(qq.connects(), 3);
}

#[test]
fn a48_a_heartbeat_without_an_answer_ends_the_connection() {
    let qq = QqBot::start();
    let gateway = connected(&qq);
    talk(&qq, "while it listens");
    qq.change(|state| state.deaf = true);
    let begun = Instant::now();
    gateway.wait_adapter("qqbot", "retrying");
    assert!(begun.elapsed() < QqBot::INTERVAL, "{:?}", begun.elapsed());
    assert!(gateway.logged("did not answer a heartbeat"));
    qq.change(|state| state.deaf = false);
    qq.wait_connects(2);
    assert_eq!(qq.frames(6).len(), 1, "it is resumed");
    talk(&qq, "again");
}

#[test]
fn heartbeats_carry_the_last_event_and_are_sent_when_asked_for() {
    let qq = QqBot::start();
    qq.change(|state| state.heartbeat_ms = 60_000);
    let _gateway = connected(&qq);
    talk(&qq, "seven");
    qq.send_frame(&json!({"op": 1, "d": null}));
    let beat = qq.wait_frame(1, 1);
    assert_eq!(beat["d"], json!(event_of(&qq, "seven")));
}

#[test]
fn a52_a_gateway_that_cannot_be_asked_for_is_asked_for_again() {
    let qq = QqBot::start();
    let status = |code| Fault::Status { code, retry_after: None };
    qq.fail("/gateway", status(500), 3);
    qq.fail("/gateway", Fault::Reset, 1);
    qq.fail("/gateway", Fault::NotJson, 2);
    let gateway = setup(&qq).start();
    qq.wait_within(Duration::from_secs(60), "a login", |state| (state.connects == 1).then_some(()));
    talk(&qq, "found");
    // Once known, the address is good without being asked for.
    qq.fail("/gateway", status(500), 1000);
    qq.cut();
    qq.wait_connects(2);
    gateway.wait_adapter("qqbot", "connected");
}

#[test]
fn frames_that_are_none_cost_a_connection_and_odd_events_nothing() {
    let qq = QqBot::start();
    let _gateway = connected(&qq);
    for (kind, data) in [
        ("C2C_MESSAGE_CREATE", json!("odd")),
        ("C2C_MESSAGE_CREATE", json!({"author": 7, "id": []})),
        ("GROUP_AT_MESSAGE_CREATE", Value::Null),
        ("FRIEND_ADD", json!({"openid": 5})),
        ("A_KIND_OF_NEXT_YEAR", json!({"x": [1]})),
    ] {
        qq.change(|state| state.dispatch(kind, &data));
    }
    qq.send_frame(&json!({"op": 99, "d": {}}));
    talk(&qq, "after odd events");
    assert_eq!(qq.connects(), 1);
    qq.send_frame(&json!("not a frame"));
    qq.wait_connects(2);
    talk(&qq, "after garbage");
    assert_eq!(qq.frames(2).len(), 1, "resumed");
}

#[test]
fn a52_the_last_session_is_resumed_and_none_is_begun_beyond_the_limit() {
    let qq = QqBot::start();
    qq.change(|state| state.starts_left = 1);
    let gateway = connected(&qq);
    talk(&qq, "in the last session");
    qq.cut();
    qq.wait_connects(2);
    gateway.wait_adapter("qqbot", "connected");
    qq.send_frame(&json!({"op": 9, "d": false}));
    let adapter = gateway.wait_adapter("qqbot", "retrying");
    assert!(adapter["error"].is_string());
    gateway.wait_for_log("QQ allows no more sessions", Duration::from_secs(20));
    assert_eq!((qq.frames(2).len(), qq.frames(6).len()), (1, 1));
}

#[test]
fn a_server_without_manners_is_left_at_once() {
    let qq = QqBot::start();
    qq.change(|state| state.rude = 1);
    let gateway = connected(&qq);
    assert!(gateway.logged("before it said hello"));
    // A second "hello" changes nothing.
    qq.send_frame(&json!({"op": 10, "d": {"heartbeat_interval": 1000}}));
    talk(&qq, "after all");
    assert_eq!((qq.connects(), qq.frames(2).len()), (1, 1));
}

#[test]
fn files_are_saved_and_quotations_are_told() {
    let (qq, model) = (QqBot::start(), Model::start());
    model.rule("what is this", [model::text("a picture and a page")]);
    let setup = configured(&qq, Gateway::setup()).model(&model, Protocol::Anthropic);
    qq.change(|state| state.files.insert("/download/a".to_owned(), b"harmless content".to_vec()));
    let gateway = setup.start();
    gateway.wait_adapter("qqbot", "connected");
    let url = format!("{}/download/a", qq.server.url());
    let attachments = json!([
        {"content_type": "file", "filename": "../page.txt", "size": 16, "url": url},
        {"content_type": "image/png", "filename": "x.png", "size": 9, "url": "//files.example/x.png"},
        {"content_type": "file", "filename": "gone.txt", "url": format!("{}/nowhere", qq.server.url())},
    ]);
    let more = json!({"attachments": attachments, "message_type": 103, "msg_elements": [{"content": "the quoted words"}]});
    qq.user_sends(ANA, "what is this?", more);
    let request = model.wait_request(1, "what is this").all();
    assert!(request.contains("the quoted words") && request.contains("page.txt") && request.contains("none of QQ's"), "{request}");
    qq.wait_text("a picture and a page");
    let saved = crate::support::gateway::files_named(&gateway.setup.state_dir(), "page.txt");
    assert_eq!(saved.iter().map(|path| std::fs::read(path).expect("saved")).collect::<Vec<_>>(), [b"harmless content".to_vec()]);
}

#[test]
fn doctor_says_as_whom_and_what_is_wrong() {
    let qq = QqBot::start();
    let doctor = |setup: &Setup| {
        setup.write_config(&setup.config());
        setup.cli(&["doctor"]).all()
    };
    let good = doctor(&setup(&qq));
    assert!(good.contains("qqbot") && good.contains("testbot"), "{good}");
    let bad = doctor(&setup(&qq).set("adapters.qqbot", "client_secret", "\"WRONGSECRET\""));
    assert!(bad.contains("100016") && bad.contains("AppSecret") && !bad.contains("WRONGSECRET"), "{bad}");
}
