//! Weixin: cursors, tokens of conversations, encrypted files, "typing", and what WeChat refuses.

use super::{Platform, configured};
use crate::support::gateway::{Gateway, Setup, files_named, quoted};
use crate::support::http::Server;
use crate::support::model::{self, Model, Protocol, Reply, Step as Said};
use crate::support::poll::{self, SOON};
use crate::support::weixin::{ANA, Call, FIRST_ID, Weixin, text_item};
use crate::support::weixin_calls::is_confirmed;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

impl Platform for Weixin {
    const NAME: &'static str = "weixin";
    /// A poll that is held for a second, its margin, and the question after it.
    const INTERVAL: Duration = Duration::from_secs(13);
    const KEEPS: bool = true;

    fn start() -> Self {
        Self::begin()
    }
    fn server(&self) -> &Server {
        &self.server
    }
    fn configure(&self, setup: Setup, address: SocketAddr) -> Setup {
        let section = "adapters.weixin";
        let ana = format!("[\"{ANA}\"]");
        setup
            .set(section, "token", &quoted(&self.document(address)))
            .set(section, "cdn_url", &quoted(&format!("http://{address}/c2c")))
            .set(section, "poll_timeout", "1")
            .set(section, "allowed_users", &ana)
            .set(section, "admins", &ana)
    }
    fn says(&self, text: &str) -> String {
        self.user_says(ANA, text).to_string()
    }
    fn repeat(&self, id: &str) {
        self.change(|state| {
            let found = state.said.iter().find(|message| message["message_id"].as_u64() == id.parse().ok()).expect("the message").clone();
            state.said.push(found);
        });
    }
    fn is_confirmed(&self, id: &str) -> bool {
        is_confirmed(&self.lock(), id.parse().expect("a number"))
    }
    fn texts(&self) -> Vec<String> {
        self.texts_to(ANA)
    }
    fn connected(&self) -> usize {
        self.lock().polling
    }
    fn connects(&self) -> usize {
        self.lock().peers.len()
    }
    fn refuse(&self, refuse: bool) {
        self.change(|state| state.refused = refuse);
    }
}

fn offline(weixin: &Weixin) -> Gateway {
    configured(weixin, Gateway::setup()).start()
}

fn cursor(call: &Call) -> String {
    call.body["get_updates_buf"].as_str().expect("each poll has a cursor").to_owned()
}

/// AES-128-ECB with PKCS#7, as the CDN has it.
fn encrypted(plain: &[u8], key: [u8; 16]) -> Vec<u8> {
    let padding = 16 - plain.len() % 16;
    let mut bytes = plain.to_vec();
    bytes.extend(std::iter::repeat_n(u8::try_from(padding).expect("short"), padding));
    let cipher = aes::Aes128::new(&key.into());
    for chunk in bytes.chunks_mut(16) {
        let mut block = aes::Block::try_from(&*chunk).expect("a block");
        cipher.encrypt_block(&mut block);
        chunk.copy_from_slice(&block);
    }
    bytes
}

fn hex(key: [u8; 16]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn weixin_answers_with_the_token_of_the_conversation() {
    let weixin = Weixin::start();
    let gateway = offline(&weixin);
    let id = weixin.user_says(ANA, "echo: hello **there**");
    let sent = weixin.wait_text("hello there");
    assert_eq!(sent.context, weixin.lock().contexts.get(ANA).cloned());
    weixin.wait_confirmed(id);
    gateway.wait_idle();
    assert_eq!(weixin.texts(), ["hello there"]);
    assert_eq!(gateway.adapter("weixin")["identity"], json!(weixin.lock().bot_id));
    let token = weixin.lock().token.clone();
    assert!(!gateway.log_lines().concat().contains(&token), "the token is in the log");
    gateway.cli(&["doctor"]).says("credential accepted");
}

#[test]
fn weixin_messages_of_one_batch_are_all_answered_and_confirmed_together() {
    let weixin = Weixin::start();
    weixin.says_all(&["echo: one", "/status", "echo: two"]);
    let last = weixin.lock().next_id - 1;
    let gateway = offline(&weixin);
    weixin.wait_text("two");
    weixin.wait_confirmed(last);
    gateway.wait_idle();
    assert!(weixin.lock().sent.len() >= 2);
}

#[test]
fn weixin_ids_above_two_to_the_63_are_told_apart() {
    let weixin = Weixin::start();
    let gateway = offline(&weixin);
    // As floating-point numbers these are all the same.
    for number in 0..3 {
        assert_eq!(weixin.user_says(ANA, &format!("echo: number {number}")), FIRST_ID + number);
        weixin.wait_text(&format!("number {number}"));
    }
    weixin.repeat(&FIRST_ID.to_string());
    weixin.user_says(ANA, "echo: barrier");
    weixin.wait_text("barrier");
    gateway.wait_idle();
    assert_eq!(weixin.texts(), ["number 0", "number 1", "number 2", "barrier"]);
}

#[test]
fn weixin_the_cursor_does_not_move_before_the_commit() {
    let weixin = Weixin::start();
    let mut gateway = offline(&weixin);
    let first = weixin.user_says(ANA, "echo: before");
    weixin.wait_text("before");
    weixin.wait_confirmed(first);
    let before = cursor(&weixin.calls("getupdates").pop().expect("polls"));
    // The message is here, and what belongs to it is still being fetched.
    weixin.fail("download", crate::support::http::Fault::BlackHole, 1);
    let file = json!({"type": 4, "file_item": {"media": {"encrypt_query_param": "p"}, "file_name": "a.txt", "len": "5"}});
    let id = weixin.user_sends(ANA, &json!([{"type": 1, "text_item": {"text": "echo: after"}}, file]));
    weixin.wait_call("download", 1, |_| true);
    gateway.kill9();
    let polls = weixin.calls("getupdates").len();
    assert!(!weixin.is_confirmed(&id.to_string()));
    weixin.change(|state| state.files.insert("p".to_owned(), b"hello".to_vec()));
    gateway.start_again();
    let again = weixin.wait_call("getupdates", polls + 1, |_| true);
    assert_eq!(cursor(&again), before, "the poll after the crash names the old cursor");
    weixin.wait_text("after");
    weixin.wait_confirmed(id);
    gateway.wait_idle();
    assert_eq!(weixin.lock().sent.iter().filter(|sent| sent.text.contains("after")).count(), 1);
}

#[test]
fn weixin_a_batch_that_is_cut_in_the_middle_comes_again_and_each_message_is_answered_once() {
    let weixin = Weixin::start();
    weixin.fail("download", crate::support::http::Fault::BlackHole, 1);
    weixin.change(|state| {
        state.files.insert("p".to_owned(), b"hello".to_vec());
        let file = json!({"type": 4, "file_item": {"media": {"encrypt_query_param": "p"}, "file_name": "a.txt"}});
        state.push(ANA, &text_item("echo: first"), &Value::Null);
        state.push(ANA, &json!([{"type": 1, "text_item": {"text": "echo: second"}}, file]), &Value::Null);
        state.push(ANA, &text_item("echo: third"), &Value::Null);
    });
    let last = weixin.lock().next_id - 1;
    let mut gateway = offline(&weixin);
    weixin.wait_call("download", 1, |_| true);
    weixin.wait_text("first");
    gateway.wait_idle();
    gateway.kill9();
    let polls = weixin.calls("getupdates").len();
    gateway.start_again();
    assert_eq!(cursor(&weixin.wait_call("getupdates", polls + 1, |_| true)), "", "nothing of it is confirmed");
    weixin.wait_text("third");
    weixin.wait_confirmed(last);
    gateway.wait_idle();
    for part in ["first", "second", "third"] {
        let count = weixin.texts().iter().filter(|text| text.contains(part)).count();
        assert!(count <= 1, "{part}: {:?}", weixin.texts());
    }
    assert_eq!(weixin.texts()[0], "first");
}

#[test]
fn weixin_the_first_cursor_is_kept_although_nothing_came_with_it() {
    let weixin = Weixin::start();
    weixin.change(|state| state.fresh = None);
    let mut gateway = offline(&weixin);
    weixin.wait_call("getupdates", 2, |_| true);
    gateway.stop();
    // Asked anew, WeChat would begin after this.
    weixin.change(|state| state.fresh = Some(1));
    weixin.user_says(ANA, "echo: while you were away");
    gateway.start_again();
    weixin.wait_text("while you were away");
}

#[test]
fn weixin_an_empty_cursor_keeps_the_old_one() {
    let weixin = Weixin::start();
    let gateway = offline(&weixin);
    let first = weixin.user_says(ANA, "echo: one");
    weixin.wait_text("one");
    weixin.wait_confirmed(first);
    let before = cursor(&weixin.calls("getupdates").pop().expect("polls"));
    weixin.change(|state| state.no_cursor = true);
    weixin.user_says(ANA, "echo: two");
    weixin.wait_text("two");
    let polls = weixin.calls("getupdates").len();
    let next = weixin.wait_call("getupdates", polls + 1, |_| true);
    assert_eq!(cursor(&next), before);
    gateway.wait_idle();
    assert_eq!(weixin.texts(), ["one", "two"], "what comes again is answered once");
    let polls = weixin.calls("getupdates").len() - polls;
    assert!(polls < 20, "{polls} polls: it must not spin");
}

#[test]
fn weixin_a_poll_that_is_not_answered_keeps_the_cursor_and_the_connection() {
    let weixin = Weixin::start();
    let gateway = offline(&weixin);
    let first = weixin.user_says(ANA, "echo: one");
    weixin.wait_text("one");
    weixin.wait_confirmed(first);
    weixin.change(|state| state.hold = Duration::from_secs(60));
    let polls = weixin.calls("getupdates").len();
    let held = weixin.wait_call("getupdates", polls + 1, |_| true);
    let again = weixin.wait_call("getupdates", polls + 2, |_| true);
    assert_eq!(cursor(&again), cursor(&held));
    // A second as announced, and the margin.
    let waited = again.at - held.at;
    assert!(waited >= Duration::from_secs(3) && waited < Duration::from_secs(10), "{waited:?}");
    assert_eq!(gateway.adapter("weixin")["state"], "connected");
    assert!(!gateway.logged("next try in"), "a silent poll is no failure\n{}", gateway.log_tail());
    weixin.user_says(ANA, "echo: two");
    weixin.wait_text("two");
}

#[test]
fn weixin_the_token_of_the_conversation_survives_a_restart() {
    let weixin = Weixin::start();
    let mut gateway = offline(&weixin);
    weixin.user_says(ANA, "echo: one");
    weixin.wait_text("one");
    gateway.wait_idle();
    gateway.stop();
    gateway.start_again();
    gateway.cli(&["send", "--to", &format!("weixin:{ANA}"), "from elsewhere"]).expect(0);
    let sent = weixin.wait_text("from elsewhere");
    assert_eq!(sent.context, weixin.lock().contexts.get(ANA).cloned());
}

#[test]
fn weixin_a_token_of_a_conversation_that_has_expired_is_left_out_once() {
    let weixin = Weixin::start();
    let gateway = offline(&weixin);
    weixin.user_says(ANA, "echo: one");
    weixin.wait_text("one");
    gateway.wait_idle();
    weixin.change(|state| state.stale.extend(state.contexts.values().cloned()));
    for text in ["from elsewhere", "once more"] {
        gateway.cli(&["send", "--to", &format!("weixin:{ANA}"), text]).expect(0);
        assert_eq!(weixin.wait_text(text).context, None, "{text}");
    }
    let tried = weixin.calls("sendmessage");
    assert_eq!(tried.len(), 4, "the token is tried once and forgotten: {tried:#?}");
    let id = |call: &Call| call.body["msg"]["client_id"].clone();
    assert_eq!(id(&tried[1]), id(&tried[2]), "the same message has the same id in each attempt");
    weixin.user_says(ANA, "echo: two");
    assert_eq!(weixin.wait_text("two").context, weixin.lock().contexts.get(ANA).cloned(), "the next message brings a new one");
    assert_eq!(gateway.adapter("weixin")["state"], "connected");
}

#[test]
fn weixin_an_unknown_error_means_an_expired_token() {
    let weixin = Weixin::start();
    let gateway = offline(&weixin);
    weixin.answer("sendmessage", json!({"ret": -2, "errmsg": "unknown error"}), 1);
    weixin.user_says(ANA, "echo: one");
    assert_eq!(weixin.wait_text("one").context, None);
    gateway.wait_idle();
    assert_eq!(weixin.texts(), ["one"]);
}

#[test]
fn weixin_too_many_messages_wait() {
    let weixin = Weixin::start();
    let gateway = offline(&weixin);
    weixin.answer("sendmessage", json!({"ret": -2, "errmsg": "freq limit"}), 1);
    weixin.user_says(ANA, "echo: one");
    weixin.wait_text("one");
    let calls = weixin.calls("sendmessage");
    let waited = calls[1].at - calls[0].at;
    assert!(waited >= Duration::from_millis(4900), "{waited:?}");
    gateway.wait_idle();
    assert_eq!(weixin.texts(), ["one"], "a refusal is no doubt: no mark");
}

#[test]
fn weixin_refused_polls_are_repeated_slowly() {
    let weixin = Weixin::start();
    let gateway = offline(&weixin);
    gateway.wait_adapter("weixin", "connected");
    weixin.answer("getupdates", json!({"ret": -1, "errmsg": "system error"}), 2);
    weixin.user_says(ANA, "echo: one");
    weixin.wait_text("one");
    let refused: Vec<Call> = weixin.calls("getupdates").into_iter().filter(|call| call.answer["ret"] == -1).collect();
    assert_eq!(refused.len(), 2);
    assert!(refused[1].at - refused[0].at >= Duration::from_secs(2));
    assert!(gateway.logged("system error"));
}

#[test]
fn weixin_typing_is_shown_and_taken_back() {
    let (weixin, model) = (Weixin::start(), Model::start());
    model.rule("think", [Reply::Stream(vec![Said::Pause(Duration::from_secs(7)), Said::Text("thought".to_owned())])]);
    let gateway = configured(&weixin, Gateway::setup()).model(&model, Protocol::OpenAi).start();
    weixin.user_says(ANA, "think");
    let on = |call: &Call| call.body["status"] == 1;
    let (first, second) = (weixin.wait_call("sendtyping", 1, on), weixin.wait_call("sendtyping", 2, on));
    let pause = second.at - first.at;
    assert!(pause > Duration::from_secs(4) && pause < Duration::from_secs(8), "{pause:?}");
    weixin.wait_text("thought");
    weixin.wait(SOON, "no sign any more", |state| state.typing.is_empty().then_some(()));
    gateway.wait_idle();
    let asked = weixin.calls("getconfig").into_iter().filter(|call| call.body.get("context_token").is_some()).count();
    assert_eq!(asked, 1, "the ticket is kept");
}

#[test]
fn weixin_files_are_fetched_and_decrypted() {
    let (weixin, model) = (Weixin::start(), Model::start());
    let (key, content) = (*b"0123456789abcdef", b"what the file holds".as_slice());
    let picture: Vec<u8> = [b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 5000]].concat();
    weixin.change(|state| {
        for (name, plain) in [("a/1==", content), ("a/2==", &picture), ("a/3==", b"voice"), ("a/4==", b"film")] {
            state.files.insert(name.to_owned(), encrypted(plain, key));
        }
    });
    model.rule("look at these", [model::text("seen")]);
    let gateway = configured(&weixin, Gateway::setup()).model(&model, Protocol::Anthropic).start();
    let media = |name: &str, key: String| json!({"encrypt_query_param": name, "aes_key": key, "encrypt_type": 1});
    weixin.user_sends(
        ANA,
        &json!([
            {"type": 1, "text_item": {"text": "look at these"}},
            {"type": 4, "file_item": {"media": media("a/1==", STANDARD.encode(key)), "file_name": "../../notes.txt", "len": "19"}},
            {"type": 2, "image_item": {"media": media("a/2==", "odd".to_owned()), "aeskey": hex(key), "mid_size": 5008}},
            {"type": 3, "voice_item": {"media": media("a/3==", STANDARD.encode(hex(key))), "encode_type": 6, "text": "as it was spoken"}},
            {"type": 5, "video_item": {"media": media("a/4==", STANDARD.encode(b"another key 1234")), "video_size": 4}},
        ]),
    );
    weixin.wait_text("seen");
    let saved = |bytes: &[u8]| {
        let files = files_named(&gateway.setup.state_dir(), "").into_iter();
        files.filter(|file| std::fs::read(file).is_ok_and(|content| content == bytes)).count()
    };
    assert_eq!([saved(content), saved(&picture), saved(b"voice"), saved(b"film")], [1, 1, 1, 0]);
    let asked = model.wait_request(1, "look at these").all();
    assert!(asked.contains("as it was spoken") && asked.contains("notes.txt") && asked.contains("cannot be decrypted"), "{asked}");
}

#[test]
fn weixin_files_are_fetched_from_wechat_alone_and_for_those_who_are_allowed() {
    let (weixin, model) = (Weixin::start(), Model::start());
    let inside = Server::start(|_, connection| {
        let _ = connection.respond(200, &[], b"the keys of the house");
        crate::support::http::Next::Close
    });
    model.rule("fetch this", [model::text("no")]);
    let gateway = configured(&weixin, Gateway::setup()).model(&model, Protocol::Anthropic).start();
    let file = |media: Value| json!({"type": 4, "file_item": {"media": media, "file_name": "a.txt"}});
    weixin.user_sends("stranger@im.wechat", &json!([file(json!({"encrypt_query_param": "p"}))]));
    weixin.user_sends(
        ANA,
        &json!([{"type": 1, "text_item": {"text": "fetch this"}}, file(json!({"full_url": format!("{}/latest", inside.url())}))]),
    );
    weixin.wait_text("no");
    assert_eq!(inside.connections(), 0);
    assert!(weixin.calls("download").is_empty(), "nothing is fetched for strangers");
    assert!(model.wait_request(1, "fetch this").all().contains("not WeChat's"));
    assert!(gateway.logged("stranger@im.wechat"));
}

#[test]
fn weixin_what_is_no_message_is_passed_over() {
    let weixin = Weixin::start();
    let mut gateway = offline(&weixin);
    let bot = weixin.lock().bot_id.clone();
    weixin.change(|state| {
        let text = text_item("echo: not for us");
        for more in [json!({"message_type": 2}), json!({"from_user_id": bot}), json!({"group_id": "g@chatroom"}), json!({"item_list": 7})] {
            state.push(ANA, &text, &more);
        }
        state.said.extend([json!(7), json!({}), json!({"message_id": {}, "from_user_id": [1], "item_list": [null]})]);
    });
    let id = weixin.user_says(ANA, "echo: still here");
    weixin.wait_text("still here");
    weixin.wait_confirmed(id);
    gateway.wait_idle();
    assert_eq!(weixin.texts(), ["still here"]);
    assert!(gateway.is_running());
}

#[test]
fn weixin_an_answer_that_was_quoted_is_known_to_the_model() {
    let (weixin, model) = (Weixin::start(), Model::start());
    model.rule("why so", [model::text("because")]);
    let _gateway = configured(&weixin, Gateway::setup()).model(&model, Protocol::Anthropic).start();
    let quoted = json!({"title": "Bot", "message_item": {"type": 1, "text_item": {"text": "the sky is blue"}}, "svr_id": u64::MAX});
    weixin.user_sends(ANA, &json!([{"type": 1, "text_item": {"text": "why so?"}, "ref_msg": quoted}]));
    weixin.wait_text("because");
    assert!(model.wait_request(1, "why so").all().contains("the sky is blue"));
}

#[test]
fn weixin_a_message_of_any_length_arrives_in_parts() {
    let weixin = Weixin::start();
    let gateway = offline(&weixin);
    weixin.user_says(ANA, "long: 10000");
    weixin.wait(SOON, "three parts", |state| (state.sent.len() >= 3).then_some(()));
    gateway.wait_idle();
    let sent = weixin.lock().sent.clone();
    let ids: std::collections::BTreeSet<&String> = sent.iter().map(|sent| &sent.client_id).collect();
    assert_eq!(ids.len(), sent.len(), "each part has an id of its own");
    let total: usize = sent.iter().map(|sent| sent.text.chars().count()).sum();
    assert!((9_000..=10_100).contains(&total), "{total}");
    poll::never(Duration::from_millis(200), "a further part", || weixin.lock().sent.len() > sent.len());
}
