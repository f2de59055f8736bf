//! `ha_get_state` and `ha_list_entities`: what a Home Assistant knows. What all three of its tools share is here too.
//!
//! They are there if the configuration has an adapter of that platform, and use its address and token. Answers can be
//! as large as the home: what the model is shown is bounded.

use super::{Input, Tool, ToolContext, ToolOutcome, check, cut, settle, shown};
use crate::clock::Deadline;
use crate::config::Secret;
use crate::limits;
use crate::net::{Body, Bounds, Client, NetError, Request};
use crate::provider::ToolSpec;
use crate::thread;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Told of the gateway's own service calls, so that what they change is not taken for a person's doing.
pub trait OwnCalls: Send + Sync {
    /// A call begins; it ends when the value is dropped.
    fn begin(&self) -> Box<dyn OwnCall>;
}

/// A call that is under way.
pub trait OwnCall {
    /// The contexts that its answer names.
    fn changed(&self, contexts: &[String]);
}

/// Which Home Assistant, and as whom.
pub struct Access {
    url: String,
    token: Secret,
    /// Entities into which people type their messages. The model must not talk to itself.
    pub(super) chats: Vec<String>,
    pub(super) own_calls: Box<dyn OwnCalls>,
    /// The token was not accepted. Who asks again and again with such a token is banned.
    refused: AtomicBool,
}

impl Access {
    /// `url` is without a slash at the end.
    #[must_use]
    pub fn new(url: String, token: Secret, chats: Vec<String>, own_calls: Box<dyn OwnCalls>) -> Self {
        Self { url, token, chats, own_calls, refused: AtomicBool::new(false) }
    }

    /// Asks, and reads the answer. `what` is for messages.
    pub(super) fn call(
        &self,
        what: &str,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
        context: &ToolContext<'_>,
    ) -> Result<Vec<u8>, ToolOutcome> {
        if self.refused.load(Ordering::Relaxed) {
            return Err(ToolOutcome::error(NOT_ACCEPTED));
        }
        let deadline = context.deadline.within(limits::HOMEASSISTANT_TOOL);
        check(context, deadline)?;
        let _busy = thread::enter(format_args!("home assistant {what}"), deadline);
        let headers = vec![("Authorization".to_owned(), format!("Bearer {}", self.token.expose()))];
        let body = body.map_or(Body::Empty, |body| Body::Json(body.to_string().into_bytes()));
        let request = Request { method, url: format!("{}{path}", self.url), headers, body };
        let bounds = bounds(deadline);
        let answer = Client::new(context.net, context.token).send(&request, bounds);
        let mut response = answer.map_err(|error| failed(&error))?;
        let body = response.read_to_end(limits::BODY_BYTES_MAX).map_err(|error| failed(&error))?;
        match response.status {
            200..=299 => Ok(body),
            401 => {
                self.refused.store(true, Ordering::Relaxed);
                Err(ToolOutcome::error(NOT_ACCEPTED))
            }
            status => Err(ToolOutcome::error(format!("{what}: {}", refusal(status, &body)))),
        }
    }
}

const NOT_ACCEPTED: &str = "Home Assistant does not accept the gateway's token; only the operator can put that right";

fn bounds(deadline: Deadline) -> Bounds {
    Bounds { headers: deadline, silence: limits::REST_SILENCE, total: deadline, body_bytes_max: limits::BODY_BYTES_MAX }
}

fn refusal(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(1024)]).into_owned();
    let said = serde_json::from_str::<Value>(&text).ok().and_then(|json| Some(json["message"].as_str()?.to_owned())).unwrap_or(text);
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    let meaning = match status {
        400 => "it does not know this service or does not take the data",
        403 => "it refuses this address or user",
        404 => "it does not know this",
        500.. => "it failed to do so",
        _ => "it refused",
    };
    format!("{meaning} (status {status}: {})", said.trim())
}

fn failed(error: &NetError) -> ToolOutcome {
    match error {
        NetError::Cancelled => ToolOutcome::cancelled(),
        error => ToolOutcome::error(format!("Home Assistant cannot be asked: {error}")),
    }
}

/// A state, as far as it is listed. What is odd in one costs that one alone.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Listed {
    entity_id: String,
    state: Value,
    attributes: Named,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    friendly_name: Option<Value>,
    unit_of_measurement: Option<Value>,
}

fn word(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(255).collect()
}

impl Listed {
    fn line(&self) -> String {
        let unit = self.attributes.unit_of_measurement.as_ref().map(|unit| format!(" {}", word(unit))).unwrap_or_default();
        let name = self.attributes.friendly_name.as_ref().map(|name| format!("  ({})", word(name))).unwrap_or_default();
        format!("{} = {}{unit}{name}", self.entity_id, word(&self.state))
    }
}

/// The lines of the states in a list, one at a time: a home can have thousands.
pub(super) fn lines(body: &[u8], wanted: impl Fn(&str, &str) -> bool) -> Result<Vec<String>, ToolOutcome> {
    let list: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|_| ToolOutcome::error("the answer is not that of a Home Assistant"))?;
    let states = list.into_iter().filter_map(|state| serde_json::from_str::<Listed>(state.get()).ok());
    let wanted = |state: &Listed| wanted(&state.entity_id, &state.attributes.friendly_name.as_ref().map(word).unwrap_or_default());
    Ok(states.filter(wanted).map(|state| state.line()).collect())
}

/// Home Assistant, core: a domain and an object id, of small letters, digits and `_`.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

pub(super) fn is_entity(text: &str) -> bool {
    text.split_once('.').is_some_and(|(domain, object)| is_word(domain) && is_word(object))
}

pub(super) struct GetState(pub Arc<Access>);

impl Tool for GetState {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "ha_get_state",
            description: "The state and the attributes of one entity of the user's Home Assistant.".to_owned(),
            schema: json!({
                "type": "object",
                "properties": {"entity_id": {"type": "string", "description": "For example light.kitchen."}},
                "required": ["entity_id"]
            }),
        }
    }

    fn summary(&self, input: &Value) -> String {
        shown(input, "entity_id")
    }

    fn run(&self, input: &Value, context: &ToolContext<'_>) -> ToolOutcome {
        settle(self.ask(&Input(input), context))
    }
}

impl GetState {
    fn ask(&self, input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
        let entity = input.text("entity_id")?.trim();
        if !is_entity(entity) {
            return Err(ToolOutcome::error("bad input: the field \"entity_id\" must be like light.kitchen; ha_list_entities lists them"));
        }
        let body = self.0.call(entity, "GET", &format!("/api/states/{entity}"), None, context)?;
        let state: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !state.is_object() {
            return Err(ToolOutcome::error("the answer is not that of a Home Assistant"));
        }
        let listed: Listed = serde_json::from_value(state.clone()).unwrap_or_default();
        let attributes = state["attributes"].to_string();
        let kept = cut(&attributes, limits::HOMEASSISTANT_SHOWN_BYTES_MAX);
        let more = if kept.len() < attributes.len() { format!("\n[cut after {} bytes]", kept.len()) } else { String::new() };
        let content = format!("{}\nlast changed {}\nattributes {kept}{more}", listed.line(), word(&state["last_changed"]));
        Ok(ToolOutcome::done(content, word(&listed.state)))
    }
}

pub(super) struct ListEntities(pub Arc<Access>);

impl Tool for ListEntities {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "ha_list_entities",
            description: "Entities of the user's Home Assistant with their states, one a line. There can be thousands: filter.".to_owned(),
            schema: json!({
                "type": "object",
                "properties": {
                    "domain": {"type": "string", "description": "For example light or binary_sensor."},
                    "name": {"type": "string", "description": "A part of the id or of the name, in any case."},
                    "limit": {"type": "integer", "description": format!("The most lines; {} by default, {} at the most.", limits::HOMEASSISTANT_LISTED, limits::HOMEASSISTANT_LISTED_MAX)}
                }
            }),
        }
    }

    fn summary(&self, input: &Value) -> String {
        let part = |field: &str| input.get(field).and_then(Value::as_str).map(|_| shown(input, field));
        let parts: Vec<String> = [part("domain"), part("name")].into_iter().flatten().collect();
        if parts.is_empty() { "all".to_owned() } else { parts.join(" ") }
    }

    fn run(&self, input: &Value, context: &ToolContext<'_>) -> ToolOutcome {
        settle(self.list(&Input(input), context))
    }
}

impl ListEntities {
    fn list(&self, input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
        let domain = input.optional_text("domain")?.map(|domain| format!("{}.", domain.trim().trim_end_matches('.')));
        let name = input.optional_text("name")?.map(|name| name.trim().to_lowercase());
        let limit =
            input.optional_number("limit", 1)?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(limits::HOMEASSISTANT_LISTED);
        let limit = limit.min(limits::HOMEASSISTANT_LISTED_MAX);
        let body = self.0.call("the list of states", "GET", "/api/states", None, context)?;
        let mut found = lines(&body, |entity, friendly| {
            domain.as_ref().is_none_or(|domain| entity.starts_with(domain.as_str()))
                && name.as_ref().is_none_or(|name| entity.contains(name.as_str()) || friendly.to_lowercase().contains(name.as_str()))
        })?;
        found.sort();
        let end = format!("{} entities", found.len());
        Ok(ToolOutcome::done(bounded(&found, limit, "entities; filter by domain or name"), end))
    }
}

/// So many lines, and how many were left out.
pub(super) fn bounded(lines: &[String], limit: usize, what: &str) -> String {
    if lines.is_empty() {
        return "none".to_owned();
    }
    let mut content = String::new();
    let mut given = 0;
    for line in lines.iter().take(limit) {
        if content.len() + line.len() > limits::TOOL_OUTPUT_BYTES_MAX {
            break;
        }
        content.push_str(line);
        content.push('\n');
        given += 1;
    }
    if given < lines.len() {
        content.push_str(&format!("[{} more {what}]", lines.len() - given));
    }
    content.trim_end().to_owned()
}
