//! Calls of QQ's API: an access token that is fetched when it is needed, one JSON request, one answer, both bounded.
//!
//! The secret and the token leave this file only onto the wire: what the server says is cleaned of both.

use super::Settings;
use super::failure::{Class, classify};
use crate::adapter::bearer::Bearer;
use crate::adapter::lenient::to_integer;
use crate::adapter::rest::{Answer, Rest, adapter_error, readable, send_error};
use crate::adapter::{AdapterError, SendError};
use crate::clock::Deadline;
use crate::config::Secret;
use crate::limits;
use crate::net::{NetError, NetOptions};
use crate::thread::{CancelToken, enter};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A token is fetched anew this long before it ends. QQ gives a new one in the last 60 s only (QQ docs, "api-use").
const MARGIN: Duration = Duration::from_secs(45);
/// If an answer does not say how long the token is valid. Documented: 7200 s.
const VALID: Duration = Duration::from_secs(7200);

/// A call that failed.
#[derive(Debug)]
pub(super) enum ApiError {
    /// No answer.
    Net { what: &'static str, error: NetError },
    /// An error, or an answer that is none of the API's.
    Refused { what: &'static str, class: Class, said: String, retry_after: Option<Duration> },
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Net { what, error } => write!(f, "{what}: {error}"),
            Self::Refused { what, said, .. } => write!(f, "{what}: {said}"),
        }
    }
}

const CREDENTIAL: &str = "check `app_id` and `client_secret`: the AppSecret is shown on q.qq.com once, a new one replaces it";

impl ApiError {
    pub fn class(&self) -> Option<Class> {
        match self {
            Self::Net { .. } => None,
            Self::Refused { class, .. } => Some(*class),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Net { .. } => None,
            Self::Refused { retry_after, .. } => *retry_after,
        }
    }

    /// What it means for the connection.
    pub fn for_inlet(&self) -> AdapterError {
        let fatal = |remedy: &str| AdapterError::Fatal { cause: self.to_string(), remedy: remedy.to_owned() };
        match self {
            Self::Net { what, error } => adapter_error(error, what),
            Self::Refused { class, .. } => match class {
                Class::Fatal(remedy) => fatal(remedy),
                Class::NoPrivilege => {
                    fatal("the bot may not use this interface: see its permissions on q.qq.com (开发设置, IP whitelist too)")
                }
                _ => AdapterError::Retry { cause: self.to_string(), after: self.retry_after() },
            },
        }
    }

    /// What it means for a message. `idempotent`: sending it twice shows it once.
    pub fn for_outlet(&self, idempotent: bool) -> SendError {
        let cause = self.to_string();
        let fatal = |remedy: &str| SendError::Fatal { cause: self.to_string(), remedy: remedy.to_owned() };
        match self {
            Self::Net { what, error } => send_error(error, what, idempotent),
            Self::Refused { class, .. } => match class {
                Class::Fatal(remedy) => fatal(remedy),
                // One that was just given out. Whether the credential is good, the one who gives it out knows.
                Class::Token => SendError::Retry { cause, after: Some(Duration::from_secs(30)) },
                Class::Later => SendError::Retry { cause, after: self.retry_after() },
                Class::NotConnected => SendError::Retry { cause, after: Some(Duration::from_secs(5)) },
                _ => SendError::Reject { cause },
            },
        }
    }
}

/// The API for one bot, over connections that end with one token.
pub(super) struct Api {
    settings: Arc<Settings>,
    bearer: Arc<Bearer>,
    pub rest: Rest,
}

impl Api {
    pub fn new(settings: &Arc<Settings>, bearer: &Arc<Bearer>, net: &NetOptions, token: &CancelToken) -> Self {
        Self { settings: Arc::clone(settings), bearer: Arc::clone(bearer), rest: Rest::new(net, token) }
    }

    /// The access token, fetched if need be.
    pub fn access_token(&self, deadline: Deadline) -> Result<Secret, ApiError> {
        self.bearer.get(MARGIN, || self.fetch_token(deadline))
    }

    /// The gateway or the API does not accept this access token.
    pub fn token_refused(&self, token: &Secret) {
        self.bearer.refused(token);
    }

    fn fetch_token(&self, deadline: Deadline) -> Result<(Secret, Duration), ApiError> {
        let what = "asking for an access token";
        let deadline = deadline.within(limits::QQBOT_CALL);
        let _busy = enter(format_args!("qqbot {what}"), deadline);
        let body = json!({"appId": self.settings.app_id, "clientSecret": self.settings.client_secret.expose()});
        let answer = self.rest.call("POST", self.settings.token_url.clone(), Vec::new(), Some(&body), deadline);
        let answer = answer.map_err(|error| ApiError::Net { what, error })?;
        let token = answer.json.get("access_token").and_then(Value::as_str).filter(|token| !token.is_empty());
        if let Some(token) = token.filter(|_| (200..300).contains(&answer.status)) {
            // A text, by the documentation's example: "7200".
            let valid = answer.json.get("expires_in").and_then(to_integer).and_then(|seconds| u64::try_from(seconds).ok());
            return Ok((Secret::new(token.to_owned()), valid.map_or(VALID, Duration::from_secs)));
        }
        let class = match (answer.status, code(&answer.json)) {
            // "invalid appid or secret", "appid invalid".
            (_, 100_007 | 100_016) | (400 | 401 | 403, _) => Class::Fatal(CREDENTIAL),
            _ => Class::Later,
        };
        Err(self.refused(what, class, &answer, None))
    }

    /// One call. An access token that is not accepted is replaced, once. → the answer's JSON
    pub fn call(
        &self,
        what: &'static str,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
        deadline: Deadline,
    ) -> Result<Value, ApiError> {
        let deadline = deadline.within(limits::QQBOT_CALL);
        let mut second = false;
        loop {
            let token = self.access_token(deadline)?;
            let _busy = enter(format_args!("qqbot {what}"), deadline);
            let headers = vec![
                ("Authorization".to_owned(), format!("QQBot {}", token.expose())),
                ("X-Union-Appid".to_owned(), self.settings.app_id.clone()),
            ];
            let url = format!("{}{path}", self.settings.base_url);
            let answer = self.rest.call(method, url, headers, body, deadline).map_err(|error| ApiError::Net { what, error })?;
            let class = match classify(answer.status, code(&answer.json)) {
                // A page of something in between.
                Class::Accepted if answer.json.is_null() && answer.status == 200 => Class::Later,
                class => class,
            };
            match class {
                Class::Accepted => return Ok(answer.json),
                Class::Token => {
                    self.bearer.refused(&token);
                    if second {
                        return Err(self.refused(what, class, &answer, Some(&token)));
                    }
                    second = true;
                }
                class => return Err(self.refused(what, class, &answer, Some(&token))),
            }
        }
    }

    fn refused(&self, what: &'static str, class: Class, answer: &Answer, token: Option<&Secret>) -> ApiError {
        let message = answer.json.get("message").and_then(Value::as_str).unwrap_or(&answer.text);
        let mut said = format!("HTTP {}", answer.status);
        if code(&answer.json) != 0 {
            said.push_str(&format!(", code {}", code(&answer.json)));
        }
        let mut message = readable(message, 200);
        for secret in [Some(&self.settings.client_secret), token].into_iter().flatten().filter(|secret| !secret.expose().is_empty()) {
            message = message.replace(secret.expose(), "***");
        }
        if !message.is_empty() {
            said.push_str(&format!(", \"{message}\""));
        }
        if let Some(trace) = answer.header("x-tps-trace-id") {
            // Their support asks for it.
            said.push_str(&format!(", trace {}", readable(trace, 64)));
        }
        ApiError::Refused { what, class, said, retry_after: answer.retry_after }
    }
}

/// `code`, or `err_code`; 0 if there is none.
fn code(json: &Value) -> i64 {
    let read = |key: &str| json.get(key).and_then(to_integer).filter(|code| *code != 0);
    read("code").or_else(|| read("err_code")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found() {
        assert_eq!(code(&json!({"message": "x", "code": 11_243, "err_code": 1})), 11_243);
        assert_eq!(code(&json!({"code": 0, "err_code": "304003"})), 304_003);
        assert_eq!((code(&json!({"id": "x"})), code(&Value::Null)), (0, 0));
    }

    #[test]
    fn secrets_do_not_come_back_out() {
        let settings = Settings::read(&super::super::tests::config("http://127.0.0.1:1")).expect("settings");
        let secret = settings.client_secret.expose().to_owned();
        let api = Api::new(&Arc::new(settings), &Arc::default(), &NetOptions::default(), &CancelToken::new());
        let json = json!({"code": 7, "message": format!("no {secret} with ACCESS")});
        let answer = Answer { status: 400, headers: Vec::new(), retry_after: None, json, text: String::new() };
        let token = Secret::new("ACCESS".to_owned());
        assert_eq!(
            api.refused("sending", Class::Reject, &answer, Some(&token)).to_string(),
            "sending: HTTP 400, code 7, \"no *** with ***\""
        );
    }
}
