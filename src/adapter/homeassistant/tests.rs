//! The pure parts: what Home Assistant 2024.3.3 sends, verbatim, and everything that it might.

use super::api::not_accepted;
use super::ledger::{Ledger, Observation, Seen};
use super::protocol::{AUTOMATION, Heard, NEWS_CHAT, NEWS_SENDER, Purpose, Session, Speaker, told};
use super::watch::Watch;
use super::wire::{Context, State, messages, states, time_us};
use super::*;
use crate::clock;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const ANA: &str = "6c3f5fc8aa894a37ad46fc52d5ff95da";
const TRIGGERED: &str = r#"{"id":2,"type":"event","event":{"variables":{"trigger":{"id":"0","idx":"0","alias":null,"platform":"state","entity_id":"input_text.chat","from_state":{"entity_id":"input_text.chat","state":"unknown","attributes":{"editable":false,"min":0,"max":100,"pattern":null,"mode":"text","friendly_name":"Chat"},"last_changed":"2026-11-21T09:43:59.438641+00:00","last_updated":"2026-11-21T09:43:59.438641+00:00","context":{"id":"01M7YQVG6E83QH6JP2ZK6E6FJN","parent_id":null,"user_id":null}},"to_state":{"entity_id":"input_text.chat","state":"hello","attributes":{"editable":false,"min":0,"max":100,"pattern":null,"mode":"text","friendly_name":"Chat"},"last_changed":"2026-11-21T09:46:55.420915+00:00","last_updated":"2026-11-21T09:46:55.420915+00:00","context":{"id":"01M7YR0W1WG0RXPZEPTMC7D4EC","parent_id":null,"user_id":"6c3f5fc8aa894a37ad46fc52d5ff95da"}},"for":null,"attribute":null,"description":"state of input_text.chat"}},"context":{"id":"01M7YR0W1WG0RXPZEPTMC7D4EC","parent_id":null,"user_id":"6c3f5fc8aa894a37ad46fc52d5ff95da"}}}"#;
const CHANGED: &str = r#"{"type":"event","id":1,"event":{"event_type":"state_changed","data":{"entity_id":"input_boolean.test_switch",
 "old_state":{"entity_id":"input_boolean.test_switch","state":"off","attributes":{"editable":false,"friendly_name":"Test Switch"},"last_changed":"2026-11-21T01:35:00.931436+00:00","last_updated":"2026-11-21T01:35:00.931436+00:00","context":{"id":"01M7XVW5A38XX0MNH24961G17F","parent_id":null,"user_id":null}},
 "new_state":{"entity_id":"input_boolean.test_switch","state":"on","attributes":{"editable":false,"friendly_name":"Test Switch"},"last_changed":"2026-11-21T01:35:48.567674+00:00","last_updated":"2026-11-21T01:35:48.567674+00:00","context":{"id":"01M7XVXKTQKMV02VEWD9NJD10D","parent_id":null,"user_id":"6c3f5fc8aa894a37ad46fc52d5ff95da"}}},
 "origin":"LOCAL","time_fired":"2026-11-21T01:35:48.567674+00:00","context":{"id":"01M7XVXKTQKMV02VEWD9NJD10D","parent_id":null,"user_id":"6c3f5fc8aa894a37ad46fc52d5ff95da"}}}"#;
const FIRED: &str = r#"{"type":"event","event":{"event_type":"gate_message","data":{"text":"from event"},"origin":"REMOTE","time_fired":"2026-11-21T09:46:57.428548+00:00","context":{"id":"01M7YR0Y0MS1A8F0SN2MC4D9RB","parent_id":null,"user_id":"6c3f5fc8aa894a37ad46fc52d5ff95da"}},"id":3}"#;

fn watch(table: &Value) -> Watch {
    Watch::read(Some(&table.to_string())).expect("a good table")
}

/// One that listens to everything, with the numbers of the samples: 1 for all changes, 2 for a trigger, 3 for events.
fn session() -> Session {
    let mut session = Session::default();
    let _ = session.all_changes();
    let commands = session.subscriptions(&watch(&json!({"chat": ["input_text.chat"], "events": ["gate_message"]})));
    assert_eq!(commands.len(), 3);
    session
}

fn speaker(names: &BTreeMap<String, String>) -> Speaker<'_> {
    Speaker { adapter: "home", names }
}

#[test]
fn samples_of_the_real_server_are_understood() {
    let mut session = session();
    let names = BTreeMap::from([(ANA.to_owned(), "Ana".to_owned())]);
    let mut take = |frame: &'static str| session.take(&messages(frame).expect("JSON").remove(0));
    let Heard::Changed { from, to } = take(TRIGGERED) else { panic!("a trigger is a change") };
    assert_eq!(from.as_deref(), Some("unknown"));
    let now = Observation::of(*to).expect("a state");
    let said = speaker(&names).typed(&now, 0);
    assert_eq!((said.text.as_str(), said.sender.as_str(), said.sender_name.as_str()), ("hello", ANA, "Ana"));
    assert_eq!(said.message_id, "01M7YR0W1WG0RXPZEPTMC7D4EC/input_text.chat/2026-11-21T09:46:55.420915+00:00");
    assert_eq!((said.chat.chat.as_str(), said.sent_ms), ("input_text.chat", 1_795_254_415_420));
    assert!(matches!(take(CHANGED), Heard::Changed { from: Some(_), to } if to.state.as_deref() == Some("on")));
    let Heard::Said(kind, event) = take(FIRED) else { panic!("an event is said") };
    let said = speaker(&names).fired(&kind, &event, 0).expect("a message");
    assert_eq!((said.text.as_str(), said.chat.chat.as_str(), said.sender.as_str()), ("from event", "gate_message", ANA));
    assert!(matches!(take(r#"{"type":"auth_required","ha_version":"2024.3.3"}"#), Heard::Authenticate));
    assert!(matches!(take(r#"{"type":"auth_ok","ha_version":"2024.3.3"}"#), Heard::Welcome(version) if version == "2024.3.3"));
    let invalid = r#"{"type":"auth_invalid","message":"Invalid access token or password"}"#;
    assert!(matches!(take(invalid), Heard::Unwelcome(message) if message.starts_with("Invalid")));
    let unknown = r#"{"id":4,"type":"result","success":false,"error":{"code":"unknown_command","message":"Unknown command."}}"#;
    assert!(matches!(take(unknown), Heard::Failed(Purpose::States, failure) if failure.code.as_deref() == Some("unknown_command")));
    assert!(matches!(take(r#"{"id":9,"type":"pong"}"#), Heard::Nothing(_)));
}

#[test]
fn numbers_grow_and_answers_find_their_command() {
    let mut session = Session::default();
    let id = |command: &str| serde_json::from_str::<Value>(command).expect("JSON")["id"].as_i64().expect("a number");
    let watch = watch(&json!({"domains": ["light"], "events": ["a", "b"]}));
    let mut commands = vec![session.who_am_i()];
    commands.extend(session.subscriptions(&watch));
    commands.push(session.ping());
    let ids: Vec<i64> = commands.iter().map(|command| id(command)).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
    assert!(commands[1].contains("state_changed") && commands[4].contains("get_states"));
    assert!(!session.settled());
    for id in 1..=5 {
        let answer = format!(r#"{{"id":{id},"type":"result","success":true,"result":null}}"#);
        assert!(matches!(session.take(&messages(&answer).expect("JSON")[0]), Heard::Done(..)));
    }
    assert!(session.settled(), "a ping is not waited for");
    assert!(matches!(session.take(&messages(r#"{"id":6,"type":"pong"}"#).expect("JSON")[0]), Heard::Pong));
    assert!(Session::default().subscriptions(&Watch::default()).is_empty(), "closed by default");
}

#[test]
fn frames_hold_one_message_or_several() {
    assert_eq!(messages(r#"[{"type":"pong","id":1},7,null,{"type":"event"}]"#).expect("JSON").len(), 2);
    assert_eq!(messages("[]").expect("JSON").len(), 0);
    assert_eq!(messages("\"text\"").expect("JSON").len(), 0);
    assert!(messages("").is_err() && messages("{").is_err() && messages("pong").is_err());
    let odd = messages(r#"{"type":7,"id":"8","success":"yes","error":"x","result":{"a":1},"event":null}"#).expect("JSON").remove(0);
    assert_eq!((odd.kind, odd.id, odd.success, odd.error), (None, Some(8), None, None));
    assert_eq!(odd.result.map(|result| result.get()), Some(r#"{"a":1}"#));
}

#[test]
fn times_are_read_in_both_forms() {
    assert_eq!(time_us("2026-11-21T01:35:48.567674+00:00"), Some(1_795_224_948_567_674));
    assert_eq!(time_us("2026-11-21T01:35:48+00:00"), Some(1_795_224_948_000_000));
    assert_eq!(time_us("yesterday"), None);
}

fn observation(entity: &str, value: &str, changed_us: i64, user: Option<&str>) -> Observation {
    Observation {
        entity: entity.to_owned(),
        value: value.to_owned(),
        name: Some("Kitchen".to_owned()),
        unit: None,
        class: None,
        changed_us,
        updated: changed_us.to_string(),
        context: Context { id: Some(format!("c{changed_us}")), parent_id: None, user_id: user.map(str::to_owned) },
    }
}

/// Writes what a ledger holds into memos, and reads them again as the next process does.
fn next_process(ledger: &mut Ledger, disk: &mut BTreeMap<String, String>) -> Ledger {
    for memo in ledger.memos() {
        assert!(memo.key.len() + memo.value.as_ref().map_or(0, String::len) <= limits::MEMO_BYTES_MAX);
        disk.insert(memo.key, memo.value.expect("a value"));
    }
    Ledger::load(Ledger::keys().map(|key| disk.get(&key).cloned()), |_| true)
}

#[test]
fn what_is_typed_is_said_once() {
    let chat = |value: &str, at: i64, user: Option<&str>| observation("input_text.chat", value, at, user);
    let live = |from: &'static str| Seen::Changed { from: Some(from) };
    let mut ledger = Ledger::default();
    assert!(!ledger.said(&chat("old", 1, Some(ANA)), Seen::Found, false), "it may be years old");
    assert!(ledger.said(&chat("new", 2, Some(ANA)), live("old"), false));
    assert!(!ledger.said(&chat("new", 2, Some(ANA)), live("old"), false), "delivered twice");
    assert!(!ledger.said(&chat("new", 2, Some(ANA)), Seen::Found, false));
    assert!(!ledger.said(&chat("", 3, Some(ANA)), live("new"), false), "nothing is typed");
    assert!(ledger.said(&chat("new", 4, Some(ANA)), live(""), false), "the same again is a message again");
    assert!(!ledger.said(&chat("unavailable", 5, None), live("new"), false));
    assert!(!ledger.said(&chat("new", 6, None), live("unavailable"), false), "restored");
    assert!(!ledger.said(&chat("new", 7, None), Seen::Changed { from: None }, false), "restored");
    assert!(!ledger.said(&chat("own", 8, Some(ANA)), live("new"), true), "the gateway's own");
    let mut disk = BTreeMap::new();
    let mut ledger = next_process(&mut ledger, &mut disk);
    assert!(!ledger.said(&chat("own", 8, Some(ANA)), Seen::Found, false), "known over the end of the process");
    assert!(!ledger.said(&chat("own", 9, None), Seen::Found, false), "restored by a restart");
    assert!(ledger.said(&chat("own", 10, Some(ANA)), Seen::Found, false), "typed again by a person");
    assert!(ledger.said(&chat("missed", 11, None), Seen::Found, false), "missed");
    assert!(!next_process(&mut ledger, &mut disk).said(&chat("missed", 11, None), Seen::Found, false));
    let mut fresh = Ledger::default();
    assert!(!fresh.said(&chat("unknown", 1, None), Seen::Found, false));
    assert!(fresh.said(&chat("first", 2, Some(ANA)), Seen::Found, false), "the first text ever, missed");
}

#[test]
fn changes_are_told_with_a_cooldown() {
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let kitchen = |value: &str, at: i64| observation("binary_sensor.kitchen", value, at, None);
    let begun = clock::now();
    let mut ledger = Ledger::default();
    let changed = |ledger: &mut Ledger, value: &str, seen: Seen<'_>, at: u64| {
        ledger.changed(kitchen(value, i64::try_from(at).expect("small")), seen, false, minute, begun + Duration::from_secs(at))
    };
    let live = Seen::Changed { from: Some("off") };
    assert_eq!(changed(&mut ledger, "off", Seen::Found, 0), None, "the beginning");
    let news = changed(&mut ledger, "on", live, 1).expect("news");
    assert_eq!(told(&news), "[Home Assistant] Kitchen: triggered (was cleared) · binary_sensor.kitchen");
    assert_eq!(changed(&mut ledger, "off", live, 2), None, "too soon");
    assert_eq!(ledger.due(), Some(begun + second + minute));
    assert_eq!(changed(&mut ledger, "on", live, 3), None);
    assert_eq!(ledger.due(), None, "back to what was said");
    assert_eq!(changed(&mut ledger, "unavailable", live, 4), None);
    assert_eq!(changed(&mut ledger, "off", live, 5), None);
    assert!(ledger.waited(begun + minute).is_none());
    let news = ledger.waited(begun + second + minute).expect("its time has come");
    assert_eq!((news.was.as_str(), news.now.value.as_str()), ("on", "off"));
    assert!(ledger.waited(begun + 10 * minute).is_none());
    let mut disk = BTreeMap::new();
    let mut ledger = next_process(&mut ledger, &mut disk);
    assert_eq!(changed(&mut ledger, "off", Seen::Found, 500), None);
    assert!(changed(&mut ledger, "on", Seen::Found, 501).is_some(), "missed");
    let own = ledger.changed(kitchen("off", 700), live, true, minute, begun + 10 * minute);
    assert!(own.is_none() && changed(&mut ledger, "off", Seen::Found, 701).is_none(), "its own doing is known and not told");
}

#[test]
fn a_home_of_thousands_is_remembered_within_bounds() {
    let mut ledger = Ledger::default();
    for number in 0..limits::HOMEASSISTANT_STATES_MAX + 500 {
        let long = "x".repeat(if number % 10 == 0 { 255 } else { 5 });
        let now = observation(&format!("sensor.some_device_of_the_house_{number}"), &long, 1, None);
        assert!(ledger.changed(now, Seen::Found, false, Duration::ZERO, clock::now()).is_none());
    }
    assert!(!ledger.said(&observation("input_text.chat", "old", 1, None), Seen::Found, false));
    let mut disk = BTreeMap::new();
    let mut ledger = next_process(&mut ledger, &mut disk);
    assert!(disk.len() <= limits::HOMEASSISTANT_STATE_MEMOS);
    assert!(ledger.said(&observation("input_text.chat", "new", 2, None), Seen::Found, false), "a chat always has room");
}

#[test]
fn what_is_told_names_units_and_kinds() {
    let state = |entity: &str, value: &str, more: Value| {
        Observation::of(serde_json::from_value(json!({"entity_id": entity, "state": value, "attributes": more})).expect("a state"))
            .expect("complete")
    };
    for (now, was, expected) in [
        (state("sensor.a", "20.5", json!({"unit_of_measurement": "°C"})), "19", "sensor.a: 20.5 °C (was 19 °C) · sensor.a"),
        (
            state("binary_sensor.a", "on", json!({"device_class": "door", "friendly_name": "Front"})),
            "off",
            "Front: open (was closed) · binary_sensor.a",
        ),
        (state("lock.a", "locked", json!({"friendly_name": " "})), "unlocked", "lock.a: locked (was unlocked) · lock.a"),
        (state("sensor.a", "two\nlines", json!({"friendly_name": "A\u{7}"})), "", "A: two lines (was ) · sensor.a"),
    ] {
        let news = super::ledger::News { now, was: was.to_owned() };
        assert_eq!(told(&news), format!("[Home Assistant] {expected}"));
        let said = speaker(&BTreeMap::new()).told(&news, 5);
        assert_eq!((said.chat.chat.as_str(), said.sender.as_str(), said.sent_ms), (NEWS_CHAT, NEWS_SENDER, 5));
    }
    let typed = speaker(&BTreeMap::new()).typed(&observation("input_text.a", "x", 1, None), 0);
    assert_eq!(typed.sender, AUTOMATION);
}

#[test]
fn the_watch_table_is_closed_by_default_and_checked() {
    assert!(!Watch::default().tells() && Watch::default().named().is_some_and(|named| named.is_empty()));
    let some = watch(
        &json!({"chat": "input_text.a", "entities": ["light.a"], "domains": ["sensor"], "ignore": ["sensor.b", "lock"], "cooldown": 5}),
    );
    for (entity, minded) in
        [("input_text.a", true), ("light.a", true), ("light.b", false), ("sensor.a", true), ("sensor.b", false), ("lock.a", false)]
    {
        assert_eq!(some.minds(entity), minded, "{entity}");
    }
    assert!(!some.tells_of("input_text.a") && some.named().is_none() && some.cooldown == Duration::from_secs(5));
    let all = watch(&json!({"all": true, "ignore": ["sensor"], "entities": ["sensor.a"], "cooldown": "1m"}));
    assert!(all.tells_of("light.a") && !all.tells_of("sensor.b") && all.tells_of("sensor.a"));
    for (bad, words) in [
        (json!([]), "must be a table"),
        (json!({"chats": []}), "no key `chats`"),
        (json!({"chat": ["light.a"]}), "only `input_text`"),
        (json!({"chat": ["gate_message"]}), "`watch.events`"),
        (json!({"chat": 7}), "must be a list"),
        (json!({"events": ["*"]}), "event types of your own"),
        (json!({"events": ["a b"]}), "cannot be the type"),
        (json!({"entities": ["light"]}), "`watch.domains`"),
        (json!({"entities": ["Light.a"]}), "takes ids"),
        (json!({"domains": ["light.a"]}), "takes names"),
        (json!({"domains": ["*"]}), "all = true"),
        (json!({"ignore": ["a-b"]}), "entities and domains"),
        (json!({"all": "yes"}), "true or false"),
        (json!({"cooldown": "soon"}), "`watch.cooldown`"),
        (json!({"cooldown": -1}), "`watch.cooldown`"),
        (json!({"entities": vec!["light.a"; limits::HOMEASSISTANT_WATCH_MAX + 1]}), "are the most"),
    ] {
        let error = Watch::read(Some(&bad.to_string())).expect_err("it is wrong");
        assert!(error.contains(words), "{bad}: {error}");
    }
}

fn config(keys: &[(&str, &str)]) -> AdapterConfig {
    AdapterConfig {
        name: "home".to_owned(),
        platform: NAME.to_owned(),
        enabled: true,
        allowed_users: vec![ANA.to_owned()],
        allowed_chats: Vec::new(),
        admins: Vec::new(),
        group_mention: true,
        streaming: true,
        keys: keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        secrets: BTreeMap::from([("token".to_owned(), Secret::new("eyJ.secret".to_owned()))]),
    }
}

#[test]
fn settings_are_read_and_checked() {
    let read = |keys: &[(&str, &str)]| Settings::read(&config(keys));
    let settings = read(&[]).expect("defaults");
    assert_eq!((settings.url.as_str(), settings.heartbeat), (URL, Duration::from_secs(30)));
    for (given, url) in [
        ("ws://h:1", "http://h:1"),
        ("wss://h/api/websocket", "https://h"),
        ("http://h/sub/", "http://h/sub"),
        ("http://h/api", "http://h"),
    ] {
        assert_eq!(read(&[("url", given)]).expect("good").url, url);
    }
    for (key, value, words) in [
        ("url", "http://h?x", "without `?`"),
        ("heartbeat", "56s", "1s to 55s"),
        ("heartbeat", "500ms", "1s to 55s"),
        ("notify", "mobile_app_x", "notify.mobile_app_x"),
        ("notify", "light.turn_on", "notify.mobile_app_x"),
        ("notify", "notify.a/../b", "notify.mobile_app_x"),
        ("watch", r#"{"all":true}"#, "`allowed_users`"),
    ] {
        assert!(read(&[(key, value)]).expect_err("it is wrong").contains(words), "{key} {value}");
    }
    assert!(!format!("{settings:?}").contains("secret"));
    let mut other = config(&[("watch", r#"{"all":true,"chat":["input_text.a"]}"#)]);
    other.allowed_users.push("homeassistant".to_owned());
    assert_eq!(access(&other).map(|(_, _, chats)| chats), Some(vec!["input_text.a".to_owned()]));
    let build = |keys: &[(&str, &str)]| build(&config(keys)).map(|adapter| adapter.traits()).expect("good");
    assert!(build(&[]).edits && build(&[]).idempotent);
    assert!(!build(&[("notify", "notify.family")]).edits && !build(&[("notify", "notify.family")]).idempotent);
    assert!(build(&[("notify", "notify.mobile_app_x")]).idempotent);
}

#[test]
fn statuses_are_classified() {
    for status in [401, 403] {
        assert!(
            matches!(not_accepted(status, "", None, "[adapters.home]"), AdapterError::Fatal { remedy, .. } if remedy.contains("[adapters.home]"))
        );
    }
    for status in [200, 301, 404, 429, 500, 502, 503] {
        assert!(matches!(not_accepted(status, "x", None, ""), AdapterError::Retry { .. }), "{status}");
    }
}

#[test]
fn the_gateways_own_calls_are_known_while_and_after_they_run() {
    static CALLS: std::sync::LazyLock<OwnCalls> = std::sync::LazyLock::new(OwnCalls::default);
    let context = |id: &str, parent: Option<&str>| Context { id: Some(id.to_owned()), parent_id: parent.map(str::to_owned), user_id: None };
    assert!(!CALLS.are_under_way());
    let call = CALLS.begin();
    assert!(CALLS.are_under_way() && !CALLS.caused(&context("a", None)));
    call.changed(["a", "a"]);
    drop(call);
    assert!(!CALLS.are_under_way());
    assert!(CALLS.caused(&context("a", None)) && CALLS.caused(&context("b", Some("a"))) && !CALLS.caused(&Context::default()));
    let call = CALLS.begin();
    let many: Vec<String> = (0..limits::HOMEASSISTANT_CONTEXTS_MAX).map(|number| number.to_string()).collect();
    call.changed(many.iter().map(String::as_str));
    assert!(!CALLS.caused(&context("a", None)), "the oldest are forgotten");
}

proptest! {
    /// Whatever comes, nothing panics, and what follows is understood.
    #[test]
    fn garbage_is_survived(frame in ".{0,300}", cut in 0..TRIGGERED.len(), place in 0..TRIGGERED.len(), byte in any::<u8>()) {
        let mut session = session();
        let mut broken = TRIGGERED.as_bytes().to_vec();
        broken[place] = byte;
        for text in [frame.as_str(), &TRIGGERED[..cut], &String::from_utf8_lossy(&broken)] {
            for message in messages(text).unwrap_or_default() {
                if let Heard::Changed { to, .. } = session.take(&message) {
                    let _ = Observation::of(*to);
                }
            }
        }
        let understood = matches!(session.take(&messages(CHANGED).expect("JSON")[0]), Heard::Changed { .. });
        prop_assert!(understood);
    }

    /// A list of states of whatever shape gives those that make sense.
    #[test]
    fn odd_states_cost_themselves_alone(odd in "[a-z0-9\"\\[\\]{}:,]{0,40}") {
        let odd = serde_json::from_str::<Value>(&odd).unwrap_or(json!(odd));
        let list = json!([odd, {"entity_id": "light.a", "state": odd}, {"entity_id": "light.b", "state": "on", "attributes": odd, "context": odd}]);
        let text = list.to_string();
        let list = serde_json::value::RawValue::from_string(text).expect("JSON");
        let found: Vec<State> = states(&list).collect();
        prop_assert!(found.iter().any(|state| state.entity_id.as_deref() == Some("light.b") && state.state.as_deref() == Some("on")));
    }

    /// However often things change and whatever is lost between, what was said last is what is.
    #[test]
    fn the_last_state_is_told_in_the_end(values in proptest::collection::vec((0_u8..3, any::<bool>()), 1..40)) {
        let (cooldown, begun) = (Duration::from_secs(30), clock::now());
        let mut ledger = Ledger::default();
        let mut said = "0".to_owned();
        ledger.changed(observation("sensor.a", "0", 0, None), Seen::Found, false, cooldown, begun);
        let mut last = "0".to_owned();
        let mut now = begun;
        for (number, (value, lost)) in values.iter().enumerate() {
            now += Duration::from_secs(7);
            let before = std::mem::replace(&mut last, value.to_string());
            if *lost {
                continue;
            }
            let seen = Seen::Changed { from: Some(&before) };
            let at = i64::try_from(number).expect("small") + 1;
            let told = ledger.changed(observation("sensor.a", &last, at, None), seen, false, cooldown, now);
            for news in told.into_iter().chain(std::iter::from_fn(|| ledger.waited(now))) {
                prop_assert_eq!(&news.was, &said);
                said = news.now.value;
            }
        }
        let found = ledger.changed(observation("sensor.a", &last, 999, None), Seen::Found, false, cooldown, now);
        let end = now + 2 * cooldown;
        for news in found.into_iter().chain(std::iter::from_fn(|| ledger.waited(end))) {
            prop_assert_eq!(&news.was, &said);
            said = news.now.value;
        }
        prop_assert_eq!(said, last);
    }
}
