//! `ha_call_service`: makes a Home Assistant do something, within what `[tools.homeassistant] domains` allows.
//!
//! The list is the approval: what it allows is done without a question, what it does not is refused.

use super::homeassistant::{Access, bounded, is_entity, is_word, lines};
use super::{Input, Tool, ToolContext, ToolOutcome, cut, settle, shown};
use crate::limits;
use crate::provider::ToolSpec;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Fields by which a call can name what it is for without naming entities.
const TARGETS: [&str; 4] = ["area_id", "device_id", "floor_id", "label_id"];

pub(super) struct CallService(pub Arc<Access>);

impl Tool for CallService {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "ha_call_service",
            description: "Calls a service of the user's Home Assistant, for example light.turn_on for light.kitchen. The operator allows certain services; others are refused.".to_owned(),
            schema: json!({
                "type": "object",
                "properties": {
                    "service": {"type": "string", "description": "Domain and service, for example light.turn_on."},
                    "entity_id": {
                        "description": "The entity, or a list of them.",
                        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
                    },
                    "data": {"type": "object", "description": "Further fields of the service, for example {\"brightness_pct\": 40}."},
                    "return_response": {"type": "boolean", "description": "For services that answer with data."}
                },
                "required": ["service"]
            }),
        }
    }

    fn summary(&self, input: &Value) -> String {
        let entity = match input.get("entity_id") {
            Some(Value::String(_)) => format!(" {}", shown(input, "entity_id")),
            Some(Value::Array(entities)) => format!(" for {} entities", entities.len()),
            _ => String::new(),
        };
        format!("{}{entity}", shown(input, "service"))
    }

    fn run(&self, input: &Value, context: &ToolContext<'_>) -> ToolOutcome {
        settle(self.call(&Input(input), context))
    }
}

impl CallService {
    fn call(&self, input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
        let service = input.text("service")?.trim();
        let wrong = || ToolOutcome::error("bad input: the field \"service\" must be like light.turn_on");
        let (domain, name) = service.split_once('.').filter(|(domain, name)| is_word(domain) && is_word(name)).ok_or_else(wrong)?;
        let entities = entities(input)?;
        let mut data = data(input)?;
        let wants_response = input.flag("return_response")?;
        if !allows(&context.config.homeassistant_domains, domain, name) {
            return Err(not_allowed(service, &context.config.homeassistant_domains));
        }
        self.keep_out_of_chats(domain, &entities, &data)?;
        if !entities.is_empty() {
            data.insert("entity_id".to_owned(), json!(entities));
        }
        let path = format!("/api/services/{domain}/{name}{}", if wants_response { "?return_response" } else { "" });
        let own = self.0.own_calls.begin();
        let body = self.0.call(service, "POST", &path, Some(&Value::Object(data)), context)?;
        let answer = Answer::read(&body)?;
        own.changed(&answer.contexts());
        answer.told(wants_response)
    }

    /// What the model types where people type would be answered as a message of theirs.
    fn keep_out_of_chats(&self, domain: &str, entities: &[String], data: &Map<String, Value>) -> Result<(), ToolOutcome> {
        let chats = &self.0.chats;
        if let Some(chat) = entities.iter().find(|entity| chats.contains(entity)) {
            return Err(ToolOutcome::error(format!(
                "refused: {chat} is where people type their messages to you. Your reply reaches them by itself"
            )));
        }
        let of_chats = chats.iter().any(|chat| chat.split('.').next() == Some(domain));
        let broad = entities.is_empty() || TARGETS.iter().any(|target| data.contains_key(*target));
        if of_chats && broad {
            return Err(ToolOutcome::error(format!(
                "refused: services of {domain} need \"entity_id\" and no other target here, because people type their messages into such entities"
            )));
        }
        Ok(())
    }
}

/// The entities of a call, be they in their own field or among the data.
fn entities(input: &Input<'_>) -> Result<Vec<String>, ToolOutcome> {
    let wrong = || ToolOutcome::error("bad input: the field \"entity_id\" must be like light.kitchen, or a list of such");
    let own = input.get("entity_id");
    let among_data = input.get("data").and_then(|data| data.get("entity_id"));
    let mut entities = Vec::new();
    for field in own.into_iter().chain(among_data) {
        let given = match field {
            Value::String(text) => text.split(',').map(|entity| Some(entity.trim())).collect::<Vec<_>>(),
            Value::Array(list) => list.iter().map(|entity| entity.as_str().map(str::trim)).collect(),
            _ => return Err(wrong()),
        };
        for entity in given {
            // `all` and `none` are words of Home Assistant; whoever means everything is to say what that is.
            let entity = entity.filter(|entity| is_entity(entity)).ok_or_else(wrong)?;
            entities.push(entity.to_owned());
        }
    }
    Ok(entities)
}

fn data(input: &Input<'_>) -> Result<Map<String, Value>, ToolOutcome> {
    let mut data = match input.get("data") {
        None => Map::new(),
        Some(Value::Object(data)) => data.clone(),
        Some(_) => return Err(ToolOutcome::error("bad input: the field \"data\" must be an object")),
    };
    data.remove("entity_id");
    // The target of a call on the WebSocket; the REST interface takes its fields among the data.
    if data.contains_key("target") {
        return Err(ToolOutcome::error("bad input: \"data\" must not have a field \"target\"; put its fields into \"data\" itself"));
    }
    Ok(data)
}

/// The list holds domains (`light`) and single services (`scene.turn_on`).
fn allows(list: &[String], domain: &str, service: &str) -> bool {
    list.iter().any(|entry| match entry.split_once('.') {
        Some((listed, only)) => listed == domain && only == service,
        None => entry == domain,
    })
}

fn not_allowed(service: &str, list: &[String]) -> ToolOutcome {
    let allowed = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    ToolOutcome::error(format!(
        "refused: {service} is not allowed. Allowed are: {allowed}. Only the operator can change that ([tools.homeassistant] domains)"
    ))
}

/// The changed states, which newer versions wrap when a response was asked for.
struct Answer<'a> {
    states: &'a RawValue,
    response: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    changed_states: &'a RawValue,
    #[serde(borrow, default)]
    service_response: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Caused {
    context: Value,
}

impl<'a> Answer<'a> {
    fn read(body: &'a [u8]) -> Result<Self, ToolOutcome> {
        // A list would be taken for the fields in their order.
        if body.trim_ascii_start().first() == Some(&b'{')
            && let Ok(wrapped) = serde_json::from_slice::<Wrapped<'a>>(body)
        {
            return Ok(Self { states: wrapped.changed_states, response: wrapped.service_response });
        }
        match serde_json::from_slice(body) {
            Ok(states) => Ok(Self { states, response: None }),
            Err(_) => Err(ToolOutcome::error("the answer is not that of a Home Assistant; whether the service was called is not known")),
        }
    }

    fn contexts(&self) -> Vec<String> {
        let list: Vec<&RawValue> = serde_json::from_str(self.states.get()).unwrap_or_default();
        let states = list.into_iter().filter_map(|state| serde_json::from_str::<Caused>(state.get()).ok());
        states.filter_map(|state| Some(state.context.get("id")?.as_str()?.to_owned())).collect()
    }

    fn told(&self, wants_response: bool) -> Result<ToolOutcome, ToolOutcome> {
        let changed = lines(self.states.get().as_bytes(), |_, _| true)?;
        let mut content = match changed.len() {
            0 => "done; no state has changed so far".to_owned(),
            _ => format!("done; changed:\n{}", bounded(&changed, limits::HOMEASSISTANT_LISTED, "states")),
        };
        match self.response {
            Some(response) => {
                let kept = cut(response.get(), limits::HOMEASSISTANT_SHOWN_BYTES_MAX);
                content.push_str(&format!("\nresponse {kept}"));
                if kept.len() < response.get().len() {
                    content.push_str(&format!("\n[cut after {} bytes]", kept.len()));
                }
            }
            None if wants_response => content.push_str("\nthere is no response: this service or this version of Home Assistant gives none"),
            None => {}
        }
        Ok(ToolOutcome::done(content, if changed.is_empty() { "done".to_owned() } else { format!("{} changed", changed.len()) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_domains_and_single_services() {
        let list = ["light".to_owned(), "scene.turn_on".to_owned()];
        for (domain, service, allowed) in [
            ("light", "turn_on", true),
            ("light", "toggle", true),
            ("scene", "turn_on", true),
            ("scene", "apply", false),
            ("lock", "unlock", false),
            ("lights", "turn_on", false),
        ] {
            assert_eq!(allows(&list, domain, service), allowed, "{domain}.{service}");
        }
        assert!(!allows(&[], "light", "turn_on"));
        assert!(not_allowed("lock.unlock", &list).content.contains("light, scene.turn_on"));
    }

    #[test]
    fn answers_of_both_shapes_are_understood() {
        let state = r#"{"entity_id":"light.kitchen","state":"on","attributes":{"friendly_name":"Kitchen"},"context":{"id":"01M7"}}"#;
        let plain = format!("[{state},7]");
        let answer = Answer::read(plain.as_bytes()).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(answer.contexts(), ["01M7"]);
        let told = answer.told(true).unwrap_or_else(|error| panic!("{error:?}"));
        assert!(told.content.contains("light.kitchen = on  (Kitchen)") && told.content.contains("no response"), "{told:?}");
        let wrapped = format!(r#"{{"changed_states":[{state}],"service_response":{{"items":[1]}}}}"#);
        let answer = Answer::read(wrapped.as_bytes()).unwrap_or_else(|error| panic!("{error:?}"));
        assert!(answer.told(true).is_ok_and(|told| told.content.ends_with("response {\"items\":[1]}")));
        assert!(Answer::read(b"<html>").is_err());
    }
}
