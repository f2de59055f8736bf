//! Calls of the REST interface, and what each answer means.

use super::Settings;
use super::wire::Context;
use crate::adapter::rest::{self, Answer, Rest};
use crate::adapter::{AdapterError, SendError};
use crate::clock::Deadline;
use crate::net::{NetError, NetOptions};
use crate::thread::CancelToken;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Where a token comes from and goes to.
pub(super) fn token_remedy(section: &str) -> String {
    format!(
        "make a new long-lived access token (Home Assistant: your profile, Security, at the bottom) and put it into `token` of {section}"
    )
}

/// Home Assistant, http: an address that failed too often is banned until somebody removes it.
pub(super) fn ban_remedy(section: &str) -> String {
    format!(
        "if this address is banned, remove it from ip_bans.yaml beside Home Assistant's configuration, restart Home Assistant, and check `token` and `url` of {section}"
    )
}

pub(super) struct Api {
    rest: Rest,
    settings: Arc<Settings>,
}

impl Api {
    pub fn new(settings: &Arc<Settings>, net: &NetOptions, token: &CancelToken) -> Self {
        Self { rest: Rest::new(net, token), settings: Arc::clone(settings) }
    }

    fn call(&self, method: &'static str, path: &str, body: Option<&Value>, deadline: Deadline) -> Result<Answer, NetError> {
        let headers = vec![("Authorization".to_owned(), format!("Bearer {}", self.settings.token.expose()))];
        self.rest.call(method, format!("{}{path}", self.settings.url), headers, body, deadline)
    }

    /// Carries out a service. → the contexts of the states that it changed. `idempotent`: doing it twice does no harm.
    pub fn service(&self, service: &str, data: &Value, idempotent: bool, deadline: Deadline) -> Result<Vec<String>, SendError> {
        let (domain, name) = service.split_once('.').unwrap_or((service, ""));
        let path = format!("/api/services/{}/{}", rest::escaped(domain), rest::escaped(name));
        let answer = self.call("POST", &path, Some(data), deadline).map_err(|error| rest::send_error(&error, service, idempotent))?;
        match (answer.status, &answer.json) {
            (200..=299, Value::Array(states)) => Ok(states.iter().filter_map(context).collect()),
            _ => Err(refused(&answer, service, idempotent, &self.settings.section)),
        }
    }

    /// Whether the token is good. → what the instance calls itself, as far as that can be had.
    pub fn check(&self, deadline: Deadline) -> Result<String, AdapterError> {
        let answer = self.call("GET", "/api/", None, deadline).map_err(|error| rest::adapter_error(&error, "GET /api/"))?;
        if answer.status != 200 || !answer.json.is_object() {
            return Err(not_accepted(answer.status, &answer.text, answer.retry_after, &self.settings.section));
        }
        let config = self.call("GET", "/api/config", None, deadline).ok().filter(|answer| answer.status == 200);
        let text = |key: &str| config.as_ref().and_then(|config| config.json[key].as_str()).map(|text| rest::readable(text, 60));
        let version = text("version").map_or_else(|| "Home Assistant".to_owned(), |version| format!("Home Assistant {version}"));
        Ok(text("location_name").filter(|name| !name.is_empty()).map_or_else(|| version.clone(), |name| format!("{name} ({version})")))
    }
}

fn context(state: &Value) -> Option<String> {
    serde_json::from_value::<Context>(state.get("context")?.clone()).ok()?.id
}

/// What a status means for the connection. Pure.
pub(super) fn not_accepted(status: u16, text: &str, after: Option<Duration>, section: &str) -> AdapterError {
    let said = if text.is_empty() { String::new() } else { format!(" ({})", rest::readable(text, 100)) };
    let cause = format!("Home Assistant answers with status {status}{said}");
    let fatal = |remedy| AdapterError::Fatal { cause: cause.clone(), remedy };
    match status {
        401 => fatal(token_remedy(section)),
        403 => fatal(ban_remedy(section)),
        // While it starts, and from what stands before it.
        _ => AdapterError::Retry { cause, after },
    }
}

/// What an answer other than "done" means for a message. Pure.
fn refused(answer: &Answer, service: &str, idempotent: bool, section: &str) -> SendError {
    let said = if answer.text.is_empty() { answer.json["message"].as_str().unwrap_or_default() } else { &answer.text };
    let cause = format!("{service}: status {} ({})", answer.status, rest::readable(said, 200));
    let fatal = |remedy| SendError::Fatal { cause: cause.clone(), remedy };
    match answer.status {
        401 => fatal(token_remedy(section)),
        403 => fatal(ban_remedy(section)),
        // A page of something in between, which may or may not have passed the request on.
        200..=299 if !idempotent => SendError::Ambiguous { cause },
        // The service is loaded a little later than the server begins to answer, and is gone while it is reloaded.
        400 if service.starts_with("persistent_notification.") => SendError::Retry { cause, after: None },
        400 | 413 | 422 => SendError::Reject { cause: format!("{cause}: it does not know this service or does not take the data") },
        _ => SendError::Retry { cause, after: answer.retry_after },
    }
}

/// The data of a message as a notification of the user interface. The same id replaces.
pub(super) fn notification(id: &str, title: &str, text: &str) -> Value {
    json!({"notification_id": id, "title": title, "message": text})
}
