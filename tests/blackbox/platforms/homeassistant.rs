//! Home Assistant: what is special about it.

use super::{Platform, configured};
use crate::support::gateway::{Gateway, Setup, quoted};
use crate::support::homeassistant::{ANA, CHAT, EVENT, GATEWAY, HomeAssistant};
use crate::support::http::Server;
use crate::support::model::{Model, Protocol, Reply, Step};
use crate::support::poll::{self, SOON};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;

pub(super) const SECTION: &str = "adapters.homeassistant";
/// With backoff in between.
const LATER: Duration = Duration::from_secs(45);
/// For how long it is watched that nothing comes.
const QUIET: Duration = Duration::from_millis(700);

impl Platform for HomeAssistant {
    const NAME: &'static str = "homeassistant";
    /// A heartbeat, and as long for its answer.
    const INTERVAL: Duration = Duration::from_secs(3);
    /// The last text that was typed.
    const KEEPS: bool = true;

    fn start() -> Self {
        Self::start()
    }
    fn server(&self) -> &Server {
        &self.server
    }
    fn configure(&self, setup: Setup, address: SocketAddr) -> Setup {
        let users = format!("[\"{ANA}\"]");
        setup
            .set(SECTION, "token", &quoted(&self.token()))
            .set(SECTION, "url", &quoted(&format!("http://{address}")))
            .set(SECTION, "heartbeat", "\"1s\"")
            .set(SECTION, "allowed_users", &users)
            .set(SECTION, "admins", &users)
            .set(SECTION, "watch", &format!("{{ chat = [\"{CHAT}\"], events = [\"{EVENT}\"] }}"))
    }
    fn says(&self, text: &str) -> String {
        self.types(text)
    }
    fn repeat(&self, id: &str) {
        self.send_again(id);
    }
    fn is_confirmed(&self, _id: &str) -> bool {
        true
    }
    fn texts(&self) -> Vec<String> {
        self.texts()
    }
    fn connected(&self) -> usize {
        self.lock().clients.len()
    }
    fn connects(&self) -> usize {
        self.lock().connects
    }
    fn refuse(&self, refuse: bool) {
        if refuse {
            self.revoke();
        } else {
            self.lock().refuse = false;
        }
    }
}

pub(super) fn setup(home: &HomeAssistant) -> Setup {
    configured(home, Gateway::setup().set(SECTION, "streaming", "false").set("session", "busy", "\"queue\""))
}

/// Tells of some entities, besides the chats. `more` are further keys of `watch`.
pub(super) fn watching(home: &HomeAssistant, more: &str) -> Setup {
    let watch = format!("{{ chat = [\"{CHAT}\"], events = [\"{EVENT}\"], {more} }}");
    setup(home).set(SECTION, "watch", &watch).set(SECTION, "allowed_users", &format!("[\"{ANA}\", \"homeassistant\"]"))
}

pub(super) fn connected(setup: Setup) -> Gateway {
    let gateway = setup.start();
    gateway.wait_adapter("homeassistant", "connected");
    gateway
}

/// Nothing else is on its way: what is typed now is answered.
fn settled(home: &HomeAssistant, gateway: &Gateway) {
    let mark: String = std::iter::repeat_with(fastrand::alphanumeric).take(8).collect();
    home.types(&format!("echo: {mark}"));
    home.wait_text(&mark);
    gateway.wait_idle();
}

/// The connection is lost while something happens, and comes back.
fn away(home: &HomeAssistant, gateway: &Gateway, meanwhile: impl FnOnce()) {
    home.server.go_down();
    gateway.wait_adapter("homeassistant", "retrying");
    meanwhile();
    home.server.come_back();
    gateway.wait_adapter("homeassistant", "connected");
}

/// News that the model was told of, as notifications of the offline model repeat them.
fn news(home: &HomeAssistant) -> Vec<String> {
    let told = |text: String| text.lines().find_map(|line| line.strip_prefix("You said: [Home Assistant] ").map(str::to_owned));
    home.texts().into_iter().filter_map(told).collect()
}

fn wait_news(home: &HomeAssistant, expected: &[&str]) {
    let seen = poll::try_for(SOON, Duration::from_millis(20), || (news(home) == expected).then_some(()));
    assert!(seen.is_some(), "expected {expected:#?}, told {:#?}\n{:#?}", news(home), home.texts());
}

#[test]
fn what_is_typed_and_what_is_fired_is_answered() {
    let home = HomeAssistant::start();
    let gateway = connected(setup(&home));
    assert_eq!(gateway.adapter("homeassistant")["identity"], "Gateway");
    home.types("echo: typed");
    let typed = home.wait_text("typed");
    assert_eq!(typed.title.as_deref(), Some("Hermes"));
    home.fires_as(Some(ANA), &json!({"text": "echo: fired"}));
    home.wait_text("fired");
    gateway.wait_idle();
    assert_eq!(home.texts(), ["typed", "fired"]);
    let answers = gateway.cli(&["send", "--to", "homeassistant:hall", "from outside"]);
    answers.expect(0);
    home.wait_text("from outside");
}

#[test]
fn nothing_is_heard_that_is_not_named() {
    let home = HomeAssistant::start();
    let gateway = connected(setup(&home).unset(SECTION, "watch").set(SECTION, "allowed_users", "[\"*\"]"));
    home.types("echo: not heard");
    home.fires_as(Some(ANA), &json!({"text": "echo: not heard"}));
    home.set("binary_sensor.kitchen", "on");
    poll::never(QUIET, "an answer", || !home.texts().is_empty());
    let subscribed = home.commands(1).iter().any(|command| command["type"].as_str().is_some_and(|kind| kind.starts_with("subscribe")));
    assert!(!subscribed, "{:#?}", home.commands(1));
    gateway.cli(&["send", "--to", "homeassistant:x", "it still sends"]).expect(0);
    home.wait_text("it still sends");
}

#[test]
fn strangers_and_automations_are_not_answered_unless_they_are_allowed() {
    let home = HomeAssistant::start();
    let gateway = connected(setup(&home));
    home.set_as(Some("0123456789abcdef0123456789abcdef"), CHAT, "echo: from a stranger");
    home.set(CHAT, "echo: from an automation");
    home.fires_as(None, &json!({"text": "echo: from another automation"}));
    settled(&home, &gateway);
    assert_eq!(home.texts().len(), 1, "{:?}", home.texts());
    assert!(gateway.logged("user automation in chat"), "the log names the id to allow");
    drop(gateway);
    let home = HomeAssistant::start();
    let _gateway = connected(setup(&home).set(SECTION, "allowed_users", "[\"automation\"]"));
    home.fires_as(None, &json!({"text": "echo: allowed now"}));
    home.wait_text("allowed now");
}

#[test]
fn odd_events_cost_nothing() {
    let home = HomeAssistant::start();
    let gateway = connected(setup(&home));
    for data in [json!({}), json!({"text": ""}), json!({"text": {}}), json!([1]), json!({"text": null}), json!({"text": "  "})] {
        home.fires_as(Some(ANA), &data);
    }
    for odd in [
        "7",
        "[]",
        "{}",
        "null",
        r#"{"type":"event"}"#,
        r#"{"type":"event","id":2,"event":7}"#,
        r#"{"type":"result","id":77,"success":true}"#,
    ] {
        home.lock().clients[0].sender.text(odd);
    }
    settled(&home, &gateway);
    assert_eq!(home.lock().connects, 1, "one connection served all that");
    assert_eq!(home.texts().len(), 1, "{:?}", home.texts());
}

#[test]
fn frames_that_hold_several_messages_are_read() {
    let home = HomeAssistant::start();
    home.lock().in_arrays = true;
    let gateway = connected(setup(&home));
    home.types("echo: in an array");
    home.wait_text("in an array");
    // Pongs too: the connection lives on.
    let pings = |home: &HomeAssistant| home.commands(1).iter().filter(|command| command["type"] == "ping").count();
    poll::eventually(SOON, "three heartbeats", || (pings(&home) >= 3).then_some(()));
    assert_eq!(home.lock().connects, 1);
    drop(gateway);
}

#[test]
fn a_frame_that_is_no_json_ends_the_connection_alone() {
    let home = HomeAssistant::start();
    let gateway = connected(setup(&home));
    home.lock().clients[0].sender.text("this is not JSON");
    home.wait("a second connection", |state| (state.connects >= 2).then_some(()));
    gateway.wait_adapter("homeassistant", "connected");
    settled(&home, &gateway);
}

#[test]
fn numbers_of_commands_grow_and_a_missing_pong_ends_the_connection() {
    let home = HomeAssistant::start();
    let gateway = connected(setup(&home));
    let pings = |home: &HomeAssistant| home.commands(1).iter().filter(|command| command["type"] == "ping").count();
    poll::eventually(SOON, "two heartbeats", || (pings(&home) >= 2).then_some(()));
    let ids: Vec<i64> = home.commands(1).iter().map(|command| command["id"].as_i64().expect("a number")).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]) && ids[0] == 1, "{ids:?}");
    home.lock().without_pongs = true;
    home.wait("a new connection", |state| (state.connects >= 2).then_some(()));
    assert!(gateway.logged("no answer to a ping within 1 s"), "{}", gateway.log_tail());
    home.lock().without_pongs = false;
    poll::eventually(LATER, "a heartbeat of a later connection", || (home.lock().commands.last()?.1["id"].as_i64()? >= 6).then_some(()));
    settled(&home, &gateway);
    let first: Value = home.commands(2)[0].clone();
    assert_eq!(first, json!({"id": 1, "type": "auth/current_user"}), "each connection begins anew");
}

#[test]
fn watched_entities_are_told_of_and_their_cooldown_is_kept() {
    let home = HomeAssistant::start();
    let more =
        r#"entities = ["binary_sensor.kitchen", "binary_sensor.front", "sensor.cellar"], ignore = ["sensor.cellar"], cooldown = "2s""#;
    let gateway = connected(watching(&home, more));
    home.set("binary_sensor.kitchen", "on");
    wait_news(&home, &["Kitchen: triggered (was cleared) · binary_sensor.kitchen"]);
    // Within the cooldown only the last one counts, and only if it is another one in the end.
    home.set("binary_sensor.kitchen", "off");
    home.set("binary_sensor.kitchen", "on");
    home.set("binary_sensor.kitchen", "off");
    // Another entity has a cooldown of its own; what is ignored and what is not named is not told of.
    home.set("binary_sensor.front", "on");
    home.set("sensor.cellar", "3");
    home.set("light.kitchen", "on");
    wait_news(
        &home,
        &[
            "Kitchen: triggered (was cleared) · binary_sensor.kitchen",
            "Front door: open (was closed) · binary_sensor.front",
            "Kitchen: cleared (was triggered) · binary_sensor.kitchen",
        ],
    );
    settled(&home, &gateway);
    assert_eq!(news(&home).len(), 3);
    let commands = home.commands(1);
    let trigger = commands.iter().find(|command| command["type"] == "subscribe_trigger").expect("only what is named is subscribed to");
    assert_eq!(trigger["trigger"]["entity_id"], json!(["binary_sensor.front", "binary_sensor.kitchen", CHAT]));
}

#[test]
fn domains_are_told_of_without_attributes_and_absences() {
    let home = HomeAssistant::start();
    let gateway = connected(watching(&home, r#"domains = ["sensor", "lock"], cooldown = 0"#));
    assert!(home.commands(1).iter().any(|command| command["event_type"] == "state_changed"));
    home.set("sensor.cellar", "19.5");
    home.set("sensor.cellar", "unavailable");
    home.set("sensor.cellar", "unknown");
    home.set("sensor.cellar", "19.5");
    home.set("sensor.cellar", "20.5");
    // The gateway's own account.
    home.set_as(Some(GATEWAY), "lock.front", "unlocked");
    home.set("lock.front", "jammed");
    home.add("sensor.new", "New", "1", json!({}));
    wait_news(&home, &["Cellar: 20.5 °C (was 19.5 °C) · sensor.cellar", "Front lock: jammed (was unlocked) · lock.front"]);
    settled(&home, &gateway);
    assert_eq!(news(&home).len(), 2, "{:?}", news(&home));
}

#[test]
fn what_changed_while_there_was_no_connection_is_told() {
    let home = HomeAssistant::start();
    let gateway = connected(watching(&home, r#"entities = ["binary_sensor.kitchen", "binary_sensor.front"], cooldown = "0s""#));
    settled(&home, &gateway);
    away(&home, &gateway, || {
        home.set("binary_sensor.kitchen", "on");
        home.set("binary_sensor.front", "on");
        home.set("binary_sensor.front", "off");
        home.types("echo: typed meanwhile");
    });
    home.wait_text("typed meanwhile");
    wait_news(&home, &["Kitchen: triggered (was cleared) · binary_sensor.kitchen"]);
    // Everything is subscribed to again.
    home.set("binary_sensor.kitchen", "off");
    home.fires_as(Some(ANA), &json!({"text": "echo: still heard"}));
    home.wait_text("still heard");
    wait_news(
        &home,
        &["Kitchen: triggered (was cleared) · binary_sensor.kitchen", "Kitchen: cleared (was triggered) · binary_sensor.kitchen"],
    );
    settled(&home, &gateway);
}

#[test]
fn what_changed_while_the_gateway_was_not_there_is_told_once() {
    let home = HomeAssistant::start();
    let mut gateway = connected(watching(&home, r#"entities = ["binary_sensor.kitchen"], cooldown = "0s""#));
    home.types("echo: before");
    home.wait_text("before");
    gateway.wait_idle();
    for (round, kill) in [false, true].into_iter().enumerate() {
        if kill {
            gateway.kill9();
        } else {
            gateway.stop();
        }
        home.set("binary_sensor.kitchen", if round == 0 { "on" } else { "off" });
        home.types(&format!("echo: typed in round {round}"));
        gateway.start_again();
        home.wait_text(&format!("typed in round {round}"));
        gateway.wait_adapter("homeassistant", "connected");
    }
    let told = ["Kitchen: triggered (was cleared) · binary_sensor.kitchen", "Kitchen: cleared (was triggered) · binary_sensor.kitchen"];
    wait_news(&home, &told);
    // A further start finds nothing new.
    gateway.stop();
    gateway.start_again();
    gateway.wait_adapter("homeassistant", "connected");
    settled(&home, &gateway);
    assert_eq!(news(&home), told);
    assert_eq!(home.texts().iter().filter(|text| text.contains("typed in round")).count(), 2, "{:?}", home.texts());
}

#[test]
fn a_restart_of_home_assistant_repeats_nothing() {
    let home = HomeAssistant::start();
    let gateway = connected(watching(&home, r#"entities = ["binary_sensor.kitchen"], cooldown = "0s""#));
    home.types("echo: said once");
    home.wait_text("said once");
    away(&home, &gateway, || home.restores_everything());
    settled(&home, &gateway);
    assert_eq!(home.texts().iter().filter(|text| text.contains("said once")).count(), 1, "{:?}", home.texts());
    // The same words again, typed by a person, are a message again.
    home.types("");
    home.types("echo: said again");
    home.wait_text("said again");
    away(&home, &gateway, || {
        home.types("");
        home.types("echo: said again");
    });
    poll::eventually(LATER, "the second answer", || {
        (home.texts().iter().filter(|text| text.contains("said again")).count() == 2).then_some(())
    });
}

#[test]
fn a_streamed_reply_is_one_notification_that_is_edited() {
    let (home, model) = (HomeAssistant::start(), Model::start());
    let pause = || Step::Pause(Duration::from_millis(2000));
    let text = |text: &str| Step::Text(text.to_owned());
    model.rule("slowly", [Reply::Stream(vec![text("First part. "), pause(), text("Second part. "), pause(), text("The end.")])]);
    let gateway = connected(configured(&home, Gateway::setup()).model(&model, Protocol::Anthropic));
    home.types("slowly");
    home.wait_text("First part.");
    home.wait_text("The end.");
    gateway.wait_idle();
    let shown = home.notifications();
    assert_eq!(shown.len(), 1, "{shown:#?}");
    assert!(shown[0].made >= 2 && shown[0].message == "First part. Second part. The end.", "{shown:#?}");
}

#[test]
fn a_long_answer_comes_in_parts_and_a_failed_call_is_repeated() {
    let home = HomeAssistant::start();
    let gateway = connected(setup(&home));
    home.fail("persistent_notification.create", 500, 1);
    home.types("long: 9000");
    home.wait("three notifications", |state| (state.notifications.len() == 3).then_some(()));
    gateway.wait_idle();
    let shown = home.notifications();
    assert!(shown.iter().all(|part| part.message.chars().count() <= 4096 && part.made == 1), "{shown:#?}");
    assert!(!home.texts().concat().contains("duplicate"), "a second attempt replaces the first");
}

#[test]
fn a_notify_service_gets_the_messages_instead() {
    let home = HomeAssistant::start();
    let gateway = connected(setup(&home).set(SECTION, "notify", "\"notify.mobile_app_x\"").set(SECTION, "streaming", "true"));
    home.types("echo: to the **phone**");
    let call = poll::eventually(SOON, "the call", || home.calls("notify.mobile_app_x").pop());
    assert_eq!((&call.data["message"], &call.data["title"]), (&json!("to the **phone**"), &json!("Hermes")));
    assert!(call.data["data"]["tag"].as_str().is_some_and(|tag| tag.starts_with("hermes-")), "{call:?}");
    gateway.wait_idle();
    assert!(home.texts().is_empty());
    assert_eq!(home.calls("notify.mobile_app_x").len(), 1);
    // A service that does not know it is no reason to fail as a whole.
    home.fail("notify.mobile_app_x", 400, 1);
    home.types("echo: refused");
    poll::eventually(SOON, "the refused call", || home.calls("notify.mobile_app_x").into_iter().find(|call| call.status == 400));
    home.types("echo: taken again");
    poll::eventually(SOON, "the next call", || {
        home.calls("notify.mobile_app_x").into_iter().find(|call| call.data["message"] == "taken again")
    });
    assert_eq!(gateway.adapter("homeassistant")["state"], "connected");
}

#[test]
fn what_the_gateway_itself_writes_is_not_answered() {
    let home = HomeAssistant::start();
    // The notify service writes into the very entity that people type into.
    home.lock().linked.insert("notify.family".to_owned(), (CHAT.to_owned(), "echo: an echo".to_owned()));
    let setup = setup(&home).set(SECTION, "notify", "\"notify.family\"");
    let gateway = connected(setup.set(SECTION, "allowed_users", &format!("[\"{ANA}\", \"{GATEWAY}\"]")));
    home.types("echo: a question");
    poll::eventually(SOON, "the answer", || home.calls("notify.family").pop());
    gateway.wait_idle();
    assert_eq!(home.value(CHAT), "echo: an echo");
    poll::never(QUIET, "the gateway answers itself", || home.calls("notify.family").len() > 1);
    // A person who uses the same account is heard.
    home.set_as(Some(GATEWAY), CHAT, "echo: by the same account");
    poll::eventually(SOON, "the answer", || {
        home.calls("notify.family").into_iter().find(|call| call.data["message"] == "by the same account")
    });
    assert_eq!(home.calls("notify.family").len(), 2);
}

#[test]
fn without_the_right_to_triggers_all_changes_are_listened_to() {
    let home = HomeAssistant::start();
    home.lock().forbidden.extend(["subscribe_trigger".to_owned()]);
    let gateway = connected(setup(&home));
    home.types("echo: heard all the same");
    home.wait_text("heard all the same");
    assert!(home.commands(1).iter().any(|command| command["event_type"] == "state_changed"));
    assert!(gateway.logged("no trigger can be subscribed to"));
}

#[test]
fn a_token_that_is_revoked_is_told_once_and_not_tried_again() {
    let home = HomeAssistant::start();
    let gateway = connected(setup(&home));
    settled(&home, &gateway);
    home.revoke();
    let adapter = gateway.wait_adapter("homeassistant", "failed");
    assert!(adapter["error"].as_str().is_some_and(|error| error.contains("does not accept the token")), "{adapter}");
    let connections = home.server.connections();
    gateway.chat("echo: the rest works").expect(0).says("the rest works");
    poll::never(QUIET, "another attempt", || home.server.connections() > connections);
    let lines = gateway.log_lines();
    let told = lines.iter().filter(|line| line.contains("long-lived access token")).count();
    assert_eq!(told, 1, "{lines:#?}");
    assert!(!lines.concat().contains(&home.token()), "the token is in the log");
}

#[test]
fn an_address_that_is_banned_is_told_with_what_to_do() {
    let home = HomeAssistant::start();
    home.lock().banned = true;
    let gateway = setup(&home).start();
    gateway.wait_adapter("homeassistant", "failed");
    assert!(gateway.logged("ip_bans.yaml"), "{}", gateway.log_tail());
    let connections = home.server.connections();
    poll::never(QUIET, "another attempt", || home.server.connections() > connections);
}

#[test]
fn doctor_tells_whether_the_token_is_good() {
    let home = HomeAssistant::start();
    let setup = setup(&home);
    setup.write_config(&setup.config());
    setup.cli(&["doctor"]).says("Home (Home Assistant 2024.3.3): credential accepted");
    home.lock().refuse = true;
    let output = setup.cli(&["doctor"]);
    assert!(output.all().contains("status 401") && output.all().contains("long-lived access token"), "{output:?}");
    assert!(!output.all().contains(&home.token()));
}

#[test]
fn mistakes_in_the_table_are_named() {
    for (watch, words) in [
        (r#"{ chat = ["light.kitchen"] }"#, "only `input_text` entities"),
        (r#"{ events = ["state_changed"] }"#, "event types of your own"),
        (r#"{ entities = ["binary_sensor.kitchen"] }"#, "add \"homeassistant\" to `allowed_users`"),
        (r#"{ entity = ["binary_sensor.kitchen"] }"#, "no key `entity`"),
        (r#"{ cooldown = "soon" }"#, "`watch.cooldown`"),
    ] {
        let home = HomeAssistant::start();
        let mut gateway = setup(&home).set(SECTION, "watch", watch).launch();
        let exit = gateway.wait_exit(SOON);
        assert_eq!(exit.code, Some(78), "{watch}: {}", gateway.log_tail());
        assert!(gateway.logged(words), "{watch}: {}", gateway.log_tail());
    }
}

#[test]
fn without_anything_to_listen_to_it_says_so() {
    let home = HomeAssistant::start();
    let gateway = connected(setup(&home).unset(SECTION, "watch"));
    gateway.wait_for_log("nothing is listened to", SOON);
}
