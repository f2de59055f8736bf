//! Calls of the Bot API: one JSON request, one answer, both bounded.
//!
//! The token is part of every address (Bot API, "Making requests"). It leaves this file only onto the wire: errors and
//! log lines name the method and the host, and what the server says is cleaned of it.

use super::Settings;
use crate::adapter::rest::escaped;
use crate::clock::Deadline;
use crate::limits;
use crate::net::{Body, Bounds, Client, NetError, NetOptions, Request, Response};
use crate::thread::CancelToken;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// A call that failed.
#[derive(Debug)]
pub(super) struct ApiError {
    pub method: &'static str,
    pub failure: Failure,
}

#[derive(Debug)]
pub(super) enum Failure {
    /// No answer.
    Net(NetError),
    /// `"ok": false`
    Refused(Refusal),
    /// An answer that is not the Bot API's, with its HTTP status.
    Garbage { status: u16, cause: String, retry_after: Option<Duration> },
}

/// What the server says when it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub code: u16,
    pub description: String,
    pub retry_after: Option<Duration>,
    /// The group is a supergroup with this id now.
    pub migrate_to: Option<String>,
}

impl Refusal {
    /// Whether the description contains `words`, in any case. The texts are not a contract; the codes are too coarse.
    pub fn says(&self, words: &str) -> bool {
        self.description.to_ascii_lowercase().contains(words)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.failure {
            Failure::Net(error) => write!(f, "{}: {error}", self.method),
            Failure::Refused(refusal) => write!(f, "{}: {} {}", self.method, refusal.code, refusal.description),
            Failure::Garbage { status, cause, .. } => write!(f, "{}: HTTP {status}, not an answer of the Bot API: {cause}", self.method),
        }
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    pub fn is_cancelled(&self) -> bool {
        matches!(self.failure, Failure::Net(NetError::Cancelled))
    }

    /// The code of a refusal, or the status of an answer that is not the Bot API's.
    pub fn code(&self) -> Option<u16> {
        match &self.failure {
            Failure::Net(_) => None,
            Failure::Refused(refusal) => Some(refusal.code),
            Failure::Garbage { status, .. } => Some(*status),
        }
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match &self.failure {
            Failure::Net(_) => None,
            Failure::Refused(refusal) => refusal.retry_after,
            Failure::Garbage { retry_after, .. } => *retry_after,
        }
    }
}

/// The Bot API for one bot, over connections that end with one token.
pub(super) struct Api {
    settings: Arc<Settings>,
    client: Client,
}

impl Api {
    pub fn new(settings: &Arc<Settings>, net: &NetOptions, token: &CancelToken) -> Self {
        Self { settings: Arc::clone(settings), client: Client::new(net, token) }
    }

    /// Calls a method. → `result`
    pub fn call(&self, method: &'static str, parameters: &Value, deadline: Deadline) -> Result<Value, ApiError> {
        let fail = |failure| ApiError { method, failure };
        let url = format!("{}/bot{}/{method}", self.settings.base_url, self.settings.token.expose());
        let body = Body::Json(parameters.to_string().into_bytes());
        let request = Request { method: "POST", url, headers: Vec::new(), body };
        let bounds =
            Bounds { headers: deadline, silence: limits::TELEGRAM_SILENCE, total: deadline, body_bytes_max: limits::BODY_BYTES_MAX };
        let mut response = self.client.send(&request, bounds).map_err(|error| fail(Failure::Net(error)))?;
        let retry_after = response.retry_after();
        let body = response.read_to_end(limits::BODY_BYTES_MAX).map_err(|error| fail(Failure::Net(error)))?;
        read_answer(response.status, &body, retry_after).map_err(|mut failure| {
            self.hide_token(&mut failure);
            fail(failure)
        })
    }

    /// Begins to download a file that `getFile` has told the path of.
    pub fn download(&self, path: &str, deadline: Deadline) -> Result<Response, ApiError> {
        let method = "download";
        let url = format!("{}/file/bot{}/{}", self.settings.base_url, self.settings.token.expose(), encoded(path));
        let request = Request { method: "GET", url, headers: Vec::new(), body: Body::Empty };
        let body_bytes_max = usize::try_from(limits::ATTACHMENT_BYTES_MAX).unwrap_or(usize::MAX).saturating_add(1);
        let bounds = Bounds { headers: deadline, silence: limits::TELEGRAM_SILENCE, total: deadline, body_bytes_max };
        let response = self.client.send(&request, bounds).map_err(|error| ApiError { method, failure: Failure::Net(error) })?;
        match response.status {
            200 => Ok(response),
            status => Err(ApiError { method, failure: Failure::Garbage { status, cause: "no file".to_owned(), retry_after: None } }),
        }
    }

    fn hide_token(&self, failure: &mut Failure) {
        let text = match failure {
            Failure::Net(_) => return,
            Failure::Refused(refusal) => &mut refusal.description,
            Failure::Garbage { cause, .. } => cause,
        };
        let token = self.settings.token.expose();
        for secret in [token, token.split_once(':').map_or(token, |(_, secret)| secret)] {
            if !secret.is_empty() && text.contains(secret) {
                *text = text.replace(secret, "***");
            }
        }
    }
}

/// Takes an answer apart. Pure.
fn read_answer(status: u16, body: &[u8], retry_after: Option<Duration>) -> Result<Value, Failure> {
    let garbage = |cause: String| Failure::Garbage { status, cause, retry_after };
    let mut answer: Value = serde_json::from_slice(body).map_err(|error| garbage(format!("{} bytes, {error}", body.len())))?;
    match answer.get("ok").and_then(Value::as_bool) {
        Some(true) => Ok(answer.get_mut("result").map(Value::take).unwrap_or_default()),
        Some(false) => {
            let number = |value: Option<&Value>| value.and_then(crate::adapter::lenient::to_integer);
            let parameters = answer.get("parameters");
            let parameter = |name: &str| number(parameters.and_then(|parameters| parameters.get(name)));
            let description = answer.get("description").and_then(Value::as_str).unwrap_or("no description");
            let seconds = parameter("retry_after").and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
            Err(Failure::Refused(Refusal {
                code: number(answer.get("error_code")).and_then(|code| u16::try_from(code).ok()).unwrap_or(status),
                description: description.chars().filter(|character| !character.is_control()).take(300).collect(),
                retry_after: seconds.or(retry_after).map(|wait| wait.min(limits::RETRY_AFTER_MAX)),
                migrate_to: parameter("migrate_to_chat_id").map(|id| id.to_string()),
            }))
        }
        None => Err(garbage("JSON without \"ok\"".to_owned())),
    }
}

/// A path as part of an address: what has a meaning there is escaped, and nothing leads upwards.
fn encoded(path: &str) -> String {
    let segments = path.split('/').filter(|segment| !matches!(*segment, "" | "." | ".."));
    segments.map(escaped).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use serde_json::json;

    #[test]
    fn answers_are_taken_apart() {
        let read = |status, body: Value| read_answer(status, body.to_string().as_bytes(), None);
        assert_eq!(read(200, json!({"ok": true, "result": [1]})).expect("result"), json!([1]));
        assert_eq!(read(200, json!({"ok": true})).expect("result"), Value::Null);
        let refused = |status, body| match read(status, body) {
            Err(Failure::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
        let flood = json!({"ok":false,"error_code":429,"description":"Too Many Requests: retry after 14","parameters":{"retry_after":14}});
        assert_eq!(
            refused(429, flood),
            Refusal {
                code: 429,
                description: "Too Many Requests: retry after 14".to_owned(),
                retry_after: Some(Duration::from_secs(14)),
                migrate_to: None
            }
        );
        let moved = json!({"ok":false,"error_code":400,"description":"x","parameters":{"migrate_to_chat_id":-1_001_234_567_890_i64}});
        assert_eq!(refused(400, moved).migrate_to.as_deref(), Some("-1001234567890"));
        let odd = refused(403, json!({"ok": false, "error_code": "x", "description": 7, "parameters": [1]}));
        assert_eq!((odd.code, odd.description.as_str()), (403, "no description"));
        for body in ["", "<html>", "[]", "{}", "{\"ok\":1}", "null"] {
            assert!(matches!(read_answer(502, body.as_bytes(), None), Err(Failure::Garbage { status: 502, .. })), "{body}");
        }
    }

    #[test]
    fn the_token_does_not_come_back_out() {
        let settings = Settings { token: Secret::new("123:AAHsecret".to_owned()), ..Settings::default() };
        let api = Api::new(&Arc::new(settings), &NetOptions::default(), &CancelToken::new());
        let body = json!({"ok": false, "error_code": 404, "description": "no /bot123:AAHsecret/getMe, AAHsecret"}).to_string();
        let mut failure = read_answer(404, body.as_bytes(), None).expect_err("refused");
        api.hide_token(&mut failure);
        let error = ApiError { method: "getMe", failure };
        assert_eq!(error.to_string(), "getMe: 404 no /bot***/getMe, ***");
    }

    #[test]
    fn paths_stay_below_the_address() {
        assert_eq!(encoded("photos/file_3.jpg"), "photos/file_3.jpg");
        assert_eq!(encoded("../../etc/./a b?x=1#é"), "etc/a%20b%3Fx%3D1%23%C3%A9");
    }
}
