//! WeCom: streams and their acknowledgements, pushes, the one connection that a bot may have.

use super::{Platform, configured};
use crate::support::gateway::{Gateway, Setup, files_named, quoted};
use crate::support::http::Server;
use crate::support::model::{self, Gate, Model, Protocol, Reply, Step};
use crate::support::poll;
use crate::support::wecom::{GROUP, Sent, State, Trouble, Wecom, ZHANG};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

const SECTION: &str = "adapters.wecom";
/// With backoff in between.
const LATER: Duration = Duration::from_secs(45);

impl Platform for Wecom {
    const NAME: &'static str = "wecom";
    const INTERVAL: Duration = Duration::from_secs(4);
    const KEEPS: bool = false;
    /// Only one connection a bot: the next one is not to meet the last.
    const GOODBYE: bool = true;

    fn start() -> Self {
        Self::start()
    }
    fn server(&self) -> &Server {
        &self.server
    }
    fn configure(&self, setup: Setup, address: SocketAddr) -> Setup {
        let zhang = format!("[\"{ZHANG}\"]");
        setup
            .set(SECTION, "bot_id", &quoted(&self.bot_id))
            .set(SECTION, "secret", &quoted(&self.secret()))
            .set(SECTION, "url", &quoted(&format!("ws://{address}")))
            .set(SECTION, "heartbeat", "\"1s\"")
            .set(SECTION, "allowed_users", &zhang)
            .set(SECTION, "admins", &zhang)
    }

    fn says(&self, text: &str) -> String {
        self.user_says(ZHANG, text)
    }
    fn repeat(&self, id: &str) {
        self.repeat(id);
    }
    fn is_confirmed(&self, _id: &str) -> bool {
        true
    }
    fn texts(&self) -> Vec<String> {
        self.texts(ZHANG)
    }

    fn connected(&self) -> usize {
        self.connected()
    }
    fn connects(&self) -> usize {
        self.lock().logins
    }
    fn refuse(&self, refuse: bool) {
        self.lock().refuse = refuse;
    }
}

fn setup(wecom: &Wecom) -> Setup {
    configured(wecom, Gateway::setup())
}

fn connected(setup: Setup) -> Gateway {
    let gateway = setup.start();
    gateway.wait_adapter("wecom", "connected");
    gateway
}

/// With a model that says what the test wants.
fn with_model(wecom: &Wecom, model: &Model) -> Gateway {
    connected(setup(wecom).model(model, Protocol::Anthropic))
}

/// A reply that begins, waits for the gate, and ends.
fn in_two_halves(model: &Model, needle: &str) -> Gate {
    let gate = Gate::default();
    let text = |text: &str| Step::Text(text.to_owned());
    model.rule(needle, [Reply::Stream(vec![text("The first half. "), Step::Gate(gate.clone()), text("The second half.")])]);
    gate
}

const BOTH: &str = "The first half. The second half.";

fn finish(sent: &Sent) -> bool {
    sent.body["stream"]["finish"] == true
}

#[test]
fn a_reply_is_one_stream_from_the_placeholder_to_the_end() {
    let (wecom, model) = (Wecom::start(), Model::start());
    let gate = in_two_halves(&model, "slowly");
    let gateway = with_model(&wecom, &model);
    wecom.user_says(ZHANG, "slowly");
    wecom.wait_text(ZHANG, "The first half.");
    gate.open();
    wecom.wait_finished(ZHANG, BOTH);
    gateway.wait_idle();
    let shown = wecom.shown(ZHANG);
    assert_eq!((shown.len(), shown[0].text.as_str()), (1, BOTH));
    assert_eq!(shown[0].history[0].1, "<think></think>", "something is seen at once");
    let frames = wecom.sent("aibot_respond_msg");
    assert_eq!(frames.iter().filter(|sent| finish(sent)).count(), 1, "{frames:#?}");
    let pauses = frames.windows(2).filter(|pair| !finish(&pair[1])).map(|pair| pair[1].at - pair[0].at).min();
    assert!(pauses.is_none_or(|pause| pause >= Duration::from_millis(500)), "updates are taken together: {pauses:?}");
    assert!(wecom.sent("aibot_send_msg").is_empty());
}

#[test]
fn one_frame_for_a_message_is_under_way_at_a_time() {
    let (wecom, model) = (Wecom::start(), Model::start());
    let gate = in_two_halves(&model, "slowly");
    let gateway = with_model(&wecom, &model);
    wecom.hold_acks(true);
    wecom.user_says(ZHANG, "slowly");
    wecom.wait_sent("aibot_respond_msg", 1);
    model.wait_request(1, "slowly");
    gate.open();
    // Longer than the pause between two updates, shorter than the patience for an acknowledgement.
    poll::never(Duration::from_secs(3), "a second frame", || wecom.sent("aibot_respond_msg").len() > 1);
    wecom.hold_acks(false);
    wecom.wait_finished(ZHANG, BOTH);
    gateway.wait_idle();
    assert_eq!(wecom.texts(ZHANG), [BOTH]);
}

#[test]
fn an_acknowledgement_that_never_comes_costs_time_and_nothing_else() {
    let wecom = Wecom::start();
    let gateway = connected(setup(&wecom).set(SECTION, "streaming", "false"));
    wecom.user_says(ZHANG, "echo: before");
    wecom.wait_finished(ZHANG, "before");
    wecom.fail("aibot_respond_msg", Trouble::Silent, 1);
    wecom.user_says(ZHANG, "echo: without an acknowledgement");
    wecom.wait(LATER, "the answer", |state| {
        state.shown.iter().find(|shown| shown.finished && shown.text == "without an acknowledgement").map(|_| ())
    });
    gateway.wait_idle();
    assert_eq!(wecom.texts(ZHANG), ["before", "without an acknowledgement"]);
}

#[test]
fn a_stream_that_has_expired_is_followed_by_a_message() {
    let (wecom, model) = (Wecom::start(), Model::start());
    let gate = in_two_halves(&model, "slowly");
    let gateway = with_model(&wecom, &model);
    wecom.user_says(ZHANG, "slowly");
    wecom.wait_text(ZHANG, "The first half.");
    wecom.expire_streams();
    gate.open();
    let reply = wecom.wait_finished(ZHANG, BOTH);
    gateway.wait_idle();
    assert!(reply.stream.is_none(), "a message of its own: {reply:?}");
    let whole = wecom.texts(ZHANG).iter().filter(|text| text.contains("The second half.")).count();
    assert_eq!(whole, 1, "{:#?}", wecom.texts(ZHANG));
}

#[test]
fn a_callback_that_is_not_known_any_more_is_answered_by_a_message() {
    let wecom = Wecom::start();
    let gateway = connected(setup(&wecom).set(SECTION, "streaming", "false"));
    // The placeholder, and the reply.
    wecom.fail("aibot_respond_msg", Trouble::Code(846_605), 2);
    wecom.user_says(ZHANG, "echo: by another way");
    assert!(wecom.wait_finished(ZHANG, "by another way").stream.is_none());
    gateway.wait_idle();
    assert_eq!(wecom.texts(ZHANG), ["by another way"]);
}

#[test]
fn updates_that_conflict_are_repeated() {
    let wecom = Wecom::start();
    let gateway = connected(setup(&wecom).set(SECTION, "streaming", "false"));
    wecom.fail("aibot_respond_msg", Trouble::Code(6000), 3);
    wecom.user_says(ZHANG, "echo: after the conflicts");
    wecom.wait_finished(ZHANG, "after the conflicts");
    gateway.wait_idle();
    assert_eq!(wecom.texts(ZHANG), ["after the conflicts"]);
    assert!(!gateway.logged("not sent"), "within one attempt");
}

#[test]
fn a44_another_connection_takes_over_and_is_left_alone() {
    let wecom = Wecom::start();
    let gateway = connected(setup(&wecom));
    wecom.take_over();
    let adapter = gateway.wait_adapter("wecom", "failed");
    assert!(adapter["error"].as_str().is_some_and(|error| error.contains("taken over")), "{adapter}");
    assert!(gateway.log_lines().iter().any(|line| line.contains("stop the other program")), "with a remedy");
    gateway.chat("echo: the rest works").expect(0).says("the rest works");
    // It would take the connection back, and the other one too, for ever.
    poll::never(Duration::from_secs(3), "it connects again", || wecom.lock().logins > 1);
}

#[test]
fn a44_a_wrong_secret_is_tried_five_times_and_then_told() {
    let wecom = Wecom::start();
    wecom.lock().refuse = true;
    let gateway = setup(&wecom).env("HERMES_GATEWAY_FAULT_BACKOFF", "50ms").start();
    let within = Duration::from_secs(45);
    let adapter = poll::eventually(within, "the adapter has failed", || {
        let adapter = gateway.adapter("wecom");
        (adapter["state"] == "failed").then_some(adapter)
    });
    assert!(adapter["error"].as_str().is_some_and(|error| error.contains("40014")), "{adapter}");
    assert_eq!(wecom.sent("aibot_subscribe").len(), 5);
    poll::never(Duration::from_secs(2), "a sixth attempt", || wecom.sent("aibot_subscribe").len() > 5);
    let everything = gateway.log_lines().concat();
    assert!(!everything.contains(&wecom.secret()), "the secret is in the log");
}

#[test]
fn a48_pings_that_are_not_answered_end_the_connection() {
    let wecom = Wecom::start();
    let gateway = connected(setup(&wecom));
    wecom.user_says(ZHANG, "echo: before");
    wecom.wait_finished(ZHANG, "before");
    wecom.be_deaf(true);
    wecom.wait_logins(2);
    wecom.be_deaf(false);
    assert!(gateway.logged("two pings were not answered"), "{}", gateway.log_tail());
    gateway.wait_adapter("wecom", "connected");
    wecom.user_says(ZHANG, "echo: after");
    wecom.wait_finished(ZHANG, "after");
}

/// The connection ends when the reply is under way. `trouble`: before or after it is shown.
fn reply_in_flight(trouble: Trouble) {
    let (wecom, model, gate) = (Wecom::start(), Model::start(), Gate::default());
    model.rule("question", [Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text("the one answer".to_owned())])]);
    let gateway = connected(setup(&wecom).model(&model, Protocol::Anthropic).set(SECTION, "streaming", "false"));
    wecom.user_says(ZHANG, "question");
    wecom.wait_sent("aibot_respond_msg", 1);
    wecom.fail("aibot_respond_msg", trouble, 1);
    gate.open();
    wecom.wait_logins(2);
    wecom.wait(LATER, "the answer is finished", |state| {
        state.shown.iter().find(|shown| shown.finished && shown.text == "the one answer").map(|_| ())
    });
    gateway.wait_adapter("wecom", "connected");
    gateway.wait_idle();
    assert_eq!(wecom.texts(ZHANG), ["the one answer"], "{trouble:?}");
    assert_eq!(wecom.shown(ZHANG).len(), 1);
}

#[test]
fn a61_a_reply_that_is_lost_with_its_connection_is_seen_once() {
    reply_in_flight(Trouble::CutBefore);
}

#[test]
fn a61_a_reply_whose_acknowledgement_is_lost_is_seen_once() {
    reply_in_flight(Trouble::CutAfter);
}

#[test]
fn a61_a_push_whose_acknowledgement_is_lost_says_that_it_may_be_a_duplicate() {
    let wecom = Wecom::start();
    let gateway = connected(setup(&wecom));
    wecom.user_says(ZHANG, "echo: hello");
    wecom.wait_finished(ZHANG, "hello");
    wecom.fail("aibot_send_msg", Trouble::CutAfter, 1);
    gateway.cli(&["send", "--to", &format!("wecom:{ZHANG}"), "by itself"]).expect(0);
    wecom.wait_logins(2);
    wecom.wait(LATER, "it comes again", |state| (state.texts(ZHANG).len() == 3).then_some(()));
    gateway.wait_idle();
    assert_eq!(wecom.texts(ZHANG), ["hello", "by itself", "(may be a duplicate)\nby itself"]);
}

#[test]
fn a58_killed_in_the_middle_of_a_stream() {
    let (wecom, model) = (Wecom::start(), Model::start());
    let gate = in_two_halves(&model, "slowly");
    let mut gateway = with_model(&wecom, &model);
    wecom.user_says(ZHANG, "slowly");
    wecom.wait_text(ZHANG, "The first half.");
    gateway.kill9();
    gate.open();
    gateway.start_again();
    wecom.wait_finished(ZHANG, BOTH);
    gateway.wait_idle();
    assert_eq!(wecom.texts(ZHANG), [BOTH], "the same stream went on");
    assert!(wecom.sent("aibot_send_msg").is_empty());
}

#[test]
fn a58_killed_behind_a_placeholder() {
    let (wecom, model) = (Wecom::start(), Model::start());
    model.once("question", Reply::Silent);
    model.rule("question", [model::text("answered at last")]);
    let mut gateway = with_model(&wecom, &model);
    wecom.user_says(ZHANG, "question");
    wecom.wait_sent("aibot_respond_msg", 1);
    model.wait_request(1, "question");
    gateway.kill9();
    gateway.start_again();
    wecom.wait_finished(ZHANG, "answered at last");
    gateway.wait_idle();
    assert_eq!(wecom.shown(ZHANG).len(), 1, "in the place of the placeholder");
}

#[test]
fn a_turn_that_is_stopped_leaves_no_placeholder() {
    let (wecom, model) = (Wecom::start(), Model::start());
    model.rule("hang", [Reply::Silent]);
    let gateway = with_model(&wecom, &model);
    wecom.user_says(ZHANG, "hang");
    wecom.wait_sent("aibot_respond_msg", 1);
    model.wait_request(1, "hang");
    wecom.user_says(ZHANG, "/stop");
    gateway.wait_idle();
    wecom.wait(LATER, "everything is finished", |state| state.shown.iter().all(|shown| shown.finished).then_some(()));
    assert!(!wecom.texts(ZHANG).is_empty(), "it is said that it was stopped");
}

#[test]
fn a_reply_that_is_made_during_a_stop_still_gets_out() {
    let (wecom, model) = (Wecom::start(), Model::start());
    let gate = in_two_halves(&model, "slowly");
    let mut gateway = with_model(&wecom, &model);
    wecom.user_says(ZHANG, "slowly");
    wecom.wait_text(ZHANG, "The first half.");
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    gateway.wait_for_log("draining", poll::SOON);
    gate.open();
    wecom.wait_text(ZHANG, BOTH);
    assert_eq!(gateway.wait_exit(poll::SOON).code, Some(0));
    assert!(wecom.shown(ZHANG).iter().any(|shown| shown.finished && shown.text == BOTH), "{:#?}", wecom.shown(ZHANG));
    wecom.wait(poll::SOON, "goodbye was said", |state| state.goodbyes.contains(&1000).then_some(()));
}

#[test]
fn what_is_said_during_a_stop_is_answered_after_the_next_start() {
    let (wecom, model) = (Wecom::start(), Model::start());
    let gate = in_two_halves(&model, "slowly");
    model.rule("one more thing", [model::text("that too")]);
    let mut gateway = with_model(&wecom, &model);
    wecom.user_says(ZHANG, "slowly");
    wecom.wait_text(ZHANG, "The first half.");
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    gateway.wait_for_log("draining", poll::SOON);
    // WeCom would not say it again.
    wecom.user_says(ZHANG, "one more thing");
    gateway.wait_status("it is accepted", |status| (status["inbox"]["pending"].as_u64()? >= 1).then_some(()));
    gate.open();
    assert_eq!(gateway.wait_exit(poll::SOON).code, Some(0));
    assert!(wecom.shown(ZHANG).iter().any(|shown| shown.finished && shown.text == BOTH), "{:#?}", wecom.shown(ZHANG));
    gateway.start_again();
    wecom.wait_finished(ZHANG, "that too");
}

#[test]
fn long_replies_end_in_messages() {
    let (wecom, model) = (Wecom::start(), Model::start());
    let lines: Vec<String> = (0..1200).map(|number| format!("line {number:04} with some more to read 你好")).collect();
    model.rule("long", [model::text(&lines.join("\n"))]);
    let gateway = with_model(&wecom, &model);
    wecom.user_says(ZHANG, "long");
    wecom.wait_finished(ZHANG, "line 1199");
    gateway.wait_idle();
    let shown = wecom.shown(ZHANG);
    assert!((3..=5).contains(&shown.len()) && shown[0].stream.is_some(), "{} messages", shown.len());
    assert!(shown[1..].iter().all(|shown| shown.stream.is_none()));
    let all: Vec<&str> = shown.iter().flat_map(|shown| shown.text.lines()).collect();
    assert_eq!(all, lines, "every line once and in order");
}

#[test]
fn messages_of_their_own_go_to_those_who_have_spoken() {
    let wecom = Wecom::start();
    let gateway = connected(setup(&wecom));
    wecom.user_says(ZHANG, "echo: hello");
    wecom.wait_finished(ZHANG, "hello");
    gateway.cli(&["send", "--to", &format!("wecom:{ZHANG}"), "**from** the shell"]).expect(0);
    let pushed = wecom.wait_finished(ZHANG, "from");
    assert_eq!((pushed.stream, pushed.text.as_str()), (None, "**from** the shell"));
    gateway.cli(&["send", "--to", "wecom:lisi", "unknown to the bot"]).expect(0);
    gateway.wait_for_log("93001", poll::SOON);
    gateway.wait_idle();
    assert_eq!(wecom.texts("lisi"), Vec::<String>::new());
}

#[test]
fn groups_mention_the_bot_and_are_answered_there() {
    let wecom = Wecom::start();
    let gateway = connected(setup(&wecom));
    wecom.group_says(ZHANG, "echo: in the group");
    assert_eq!(wecom.wait_finished(GROUP, "in the group").text, "in the group");
    wecom.group_says("stranger", "echo: not allowed");
    wecom.group_says(ZHANG, "/status");
    wecom.wait(poll::SOON, "the answer to the command", |state| (state.texts(GROUP).len() == 2).then_some(()));
    gateway.wait_idle();
    assert!(wecom.texts(ZHANG).is_empty());
    assert!(!wecom.texts(GROUP).concat().contains("not allowed"));
}

#[test]
fn files_are_decrypted_and_saved() {
    let (wecom, model) = (Wecom::start(), Model::start());
    model.rule("what is this", [model::text("a picture")]);
    model.rule("报告.pdf", [model::text("a report")]);
    let gateway = with_model(&wecom, &model);
    let picture: Vec<u8> = [b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 70_000]].concat();
    let (url, aeskey) = wecom.add_file("photo.png", &picture, wecom.server.address);
    let parts =
        json!([{"msgtype": "text", "text": {"content": "what is this?"}}, {"msgtype": "image", "image": {"url": url, "aeskey": aeskey}}]);
    wecom.user_sends(ZHANG, None, json!({"msgtype": "mixed", "mixed": {"msg_item": parts}}));
    wecom.wait_finished(ZHANG, "a picture");
    let request = model.wait_request(1, "what is this");
    assert!(request.body["messages"].to_string().contains("\"type\":\"image\""), "the model sees it: {}", request.body["messages"]);
    let (url, aeskey) = wecom.add_file("报告.pdf", b"%PDF report", wecom.server.address);
    wecom.user_sends(ZHANG, None, json!({"msgtype": "file", "file": {"url": url, "aeskey": aeskey}}));
    wecom.wait_finished(ZHANG, "a report");
    for (bytes, ending) in [(picture.as_slice(), "photo.png"), (b"%PDF report".as_slice(), ".pdf")] {
        let saved = files_named(&gateway.setup.state_dir(), ending);
        assert!(saved.iter().any(|file| std::fs::read(file).is_ok_and(|content| content == bytes)), "{saved:?}");
    }
    assert!(!gateway.log_lines().concat().contains("SIGNATURE"), "addresses of files are not for the log");
}

#[test]
fn files_that_cannot_be_had_do_not_lose_the_message() {
    let (wecom, model) = (Wecom::start(), Model::start());
    model.rule("could not be saved", [model::text("I cannot see it")]);
    let _gateway = with_model(&wecom, &model);
    let (url, _) = wecom.add_file("a.png", b"other key", wecom.server.address);
    let wrong = [url, "http://127.0.0.1:9/elsewhere".to_owned(), "http://169.254.169.254/latest".to_owned()];
    for (number, url) in wrong.into_iter().enumerate() {
        let aeskey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        wecom.user_sends(ZHANG, None, json!({"msgtype": "image", "image": {"url": url, "aeskey": aeskey}}));
        wecom.wait(poll::SOON, "an answer", |state: &State| (state.texts(ZHANG).len() > number).then_some(()));
    }
}

#[test]
fn voice_and_quotes_are_understood() {
    let (wecom, model) = (Wecom::start(), Model::start());
    model.rule("said aloud", [model::text("heard")]);
    let _gateway = with_model(&wecom, &model);
    let quote = json!({"msgtype": "text", "text": {"content": "what was said before"}});
    wecom.user_sends(ZHANG, None, json!({"msgtype": "voice", "voice": {"content": "said aloud"}, "quote": quote}));
    wecom.wait_finished(ZHANG, "heard");
    assert!(model.wait_request(1, "said aloud").all().contains("what was said before"));
}

#[test]
fn who_opens_the_chat_is_welcomed() {
    let wecom = Wecom::start();
    let _gateway = connected(setup(&wecom).set(SECTION, "welcome", "\"Ask me anything.\""));
    wecom.event("stranger", json!({"eventtype": "enter_chat"}));
    wecom.event(ZHANG, json!({"eventtype": "enter_chat"}));
    wecom.wait_finished(ZHANG, "Ask me anything.");
    assert!(wecom.texts("stranger").is_empty());
}

#[test]
fn strange_frames_are_passed_over() {
    let wecom = Wecom::start();
    let mut gateway = connected(setup(&wecom));
    wecom.event(ZHANG, json!({"eventtype": "feedback_event", "feedback_event": {"id": "x", "type": 1}}));
    wecom.event(ZHANG, json!({"eventtype": "template_card_event", "template_card_event": {"event_key": "k", "task_id": "t"}}));
    wecom.event(ZHANG, json!({"eventtype": 7}));
    wecom.user_sends(ZHANG, None, json!({"msgtype": "something_new", "something_new": {}, "from": {"userid": {}}}));
    wecom.raw(r#"{"cmd":"aibot_new_callback","headers":{"req_id":"x"},"body":[]}"#);
    wecom.raw(r#"{"headers":{"req_id":"REQ_nobody"},"errcode":0,"errmsg":"ok"}"#);
    wecom.raw("{}");
    wecom.raw(&format!(
        "{{\"cmd\":\"aibot_callback\",\"headers\":{{\"req_id\":\"REQ_old\"}},\"body\":{{\"msgid\":\"old\",\"chattype\":\"single\",\"from\":{{\"userid\":\"{ZHANG}\"}},\"msgtype\":\"text\",\"text\":{{\"content\":\"echo: under its \u{1}old name\"}}}}}}"
    ));
    wecom.wait(poll::SOON, "the old name's message", |state| state.journal.iter().find(|sent| sent.req_id == "REQ_old").map(|_| ()));
    wecom.user_says(ZHANG, "echo: still here");
    wecom.wait_finished(ZHANG, "still here");
    assert!(gateway.is_running());
    assert_eq!(wecom.lock().logins, 1, "over the same connection");
}

#[test]
fn doctor_does_not_take_the_connection_away() {
    let wecom = Wecom::start();
    let gateway = connected(setup(&wecom));
    gateway.cli(&["doctor"]).says("wecom");
    assert_eq!(wecom.lock().logins, 1);
    assert_eq!(gateway.adapter("wecom")["state"], "connected");
}
