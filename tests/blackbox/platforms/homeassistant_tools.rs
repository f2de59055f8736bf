//! The tools for Home Assistant, as a model calls them.

use super::homeassistant::{SECTION, connected, setup, watching};
use crate::support::gateway::Gateway;
use crate::support::homeassistant::{ANA, CHAT, GATEWAY, HomeAssistant};
use crate::support::model::{self, Model, Protocol, Reply, Step};
use serde_json::{Value, json};

/// Asks the model, which calls a tool, and → the tool's answer as the model got it.
fn tool(home: &HomeAssistant, model: &Model, name: &str, input: Value) -> String {
    let mark: String = std::iter::repeat_with(fastrand::alphanumeric).take(8).collect();
    let call = Reply::Stream(vec![Step::Tool { name: name.to_owned(), input }]);
    model.rule(&mark, [call, model::text(&format!("finished {mark}"))]);
    home.types(&mark);
    home.wait_text(&format!("finished {mark}"));
    let request = model.wait_request(2, &mark);
    let messages = request.body["messages"].as_array().expect("messages").clone();
    messages.last().expect("a message")["content"][0].to_string()
}

#[test]
fn the_tools_ask_and_act_within_what_is_allowed() {
    let (home, model) = (HomeAssistant::start(), Model::start());
    let gateway = connected(watching(&home, r#"entities = ["light.kitchen"], cooldown = 0"#).model(&model, Protocol::Anthropic));
    let state = tool(&home, &model, "ha_get_state", json!({"entity_id": "sensor.cellar"}));
    assert!(state.contains("sensor.cellar = 19.5 °C  (Cellar)") && state.contains("device_class"), "{state}");
    let missing = tool(&home, &model, "ha_get_state", json!({"entity_id": "sensor.attic"}));
    assert!(missing.contains("Entity not found.") && missing.contains("\"is_error\":true"), "{missing}");
    let list = tool(&home, &model, "ha_list_entities", json!({"name": "KITCHEN"}));
    assert!(list.contains("binary_sensor.kitchen = off") && list.contains("light.kitchen") && !list.contains("cellar"), "{list}");
    let list = tool(&home, &model, "ha_list_entities", json!({"limit": 2}));
    assert!(list.contains("[6 more entities"), "{list}");
    let done = tool(
        &home,
        &model,
        "ha_call_service",
        json!({"service": "light.turn_on", "entity_id": "light.kitchen", "data": {"brightness_pct": 40}}),
    );
    assert!(done.contains("light.kitchen = on"), "{done}");
    assert_eq!(home.value("light.kitchen"), "on");
    let refused = tool(&home, &model, "ha_call_service", json!({"service": "lock.unlock", "entity_id": "lock.front"}));
    assert!(refused.contains("lock.unlock is not allowed") && refused.contains("light"), "{refused}");
    assert!(home.calls("lock.unlock").is_empty() && home.value("lock.front") == "locked");
    let unknown = tool(&home, &model, "ha_call_service", json!({"service": "light.dance", "entity_id": "light.kitchen"}));
    assert!(unknown.contains("status 400"), "{unknown}");
    settled_with(&home, &model, &gateway);
    assert!(!home.texts().concat().contains("[Home Assistant]"), "its own doing is no news");
    let everything = model.journal().iter().map(|exchange| exchange.all()).collect::<String>() + &gateway.log_lines().concat();
    assert!(!everything.contains(&home.token()), "the token is shown");
}

fn settled_with(home: &HomeAssistant, model: &Model, gateway: &Gateway) {
    model.rule("are you there", [model::text("yes, I am here")]);
    home.types("are you there");
    home.wait_text("yes, I am here");
    gateway.wait_idle();
}

#[test]
fn the_model_cannot_talk_to_itself() {
    let (home, model) = (HomeAssistant::start(), Model::start());
    home.lock().linked.insert("scene".to_owned(), (CHAT.to_owned(), "echo of a scene".to_owned()));
    model.rule("echo of a scene", [model::text("answered the scene")]);
    let setup =
        setup(&home).model(&model, Protocol::Anthropic).set("tools.homeassistant", "domains", "[\"input_text\", \"scene.turn_on\"]");
    let gateway = connected(setup.set(SECTION, "allowed_users", &format!("[\"{ANA}\", \"{GATEWAY}\"]")));
    let set = |entity: Value| json!({"service": "input_text.set_value", "entity_id": entity, "data": {"value": "hello me"}});
    for entity in [json!(CHAT), json!([CHAT]), json!(null)] {
        let refused = tool(&home, &model, "ha_call_service", set(entity));
        assert!(refused.contains("refused"), "{refused}");
    }
    assert!(home.calls("input_text.set_value").is_empty());
    let done = tool(&home, &model, "ha_call_service", json!({"service": "scene.turn_on", "entity_id": "scene.evening"}));
    assert!(done.contains("echo of a scene"), "{done}");
    settled_with(&home, &model, &gateway);
    assert!(!home.texts().iter().any(|text| text == "answered the scene"), "{:?}", home.texts());
}

#[test]
fn a_tool_does_not_go_on_asking_with_a_token_that_is_refused() {
    let (home, model) = (HomeAssistant::start(), Model::start());
    let look = || Reply::Stream(vec![Step::Tool { name: "ha_get_state".to_owned(), input: json!({"entity_id": "light.kitchen"}) }]);
    model.rule("look three times", [look(), look(), look(), model::text("I cannot see it")]);
    let gateway = connected(setup(&home).model(&model, Protocol::Anthropic));
    home.lock().refuse = true;
    gateway.chat("look three times").expect(0).says("I cannot see it");
    assert!(model.wait_request(4, "look three times").all().contains("does not accept the gateway's token"));
    assert_eq!(home.calls("/api/states/light.kitchen").len(), 1, "asked once: Home Assistant bans whoever goes on");
}

#[test]
fn without_a_home_assistant_there_are_no_such_tools() {
    let (home, model) = (HomeAssistant::start(), Model::start());
    model.rule("which tools", [model::text("these")]);
    let gateway = Gateway::setup().model(&model, Protocol::Anthropic).start();
    gateway.chat("which tools").expect(0);
    assert!(!model.wait_request(1, "which tools").all().contains("ha_get_state"));
    drop(gateway);
    let setup = setup(&home).model(&model, Protocol::Anthropic).set("tools", "enabled", "[\"shell\", \"ha_get_state\"]");
    let gateway = connected(setup);
    gateway.chat("which tools now").expect(0);
    let request = model.wait_request(1, "which tools now").all();
    assert!(request.contains("ha_get_state") && !request.contains("ha_call_service"), "{request}");
}
