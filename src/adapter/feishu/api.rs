//! Calls of the REST interface, with the tenant's access token; what they answer and what that means.
//!
//! The token is fetched with the app's secret, kept for its two hours, and fetched anew in good time or when the platform
//! refuses it. Neither leaves this file but onto the wire.

use super::Settings;
use super::classes::{self, Class};
use super::wire::TenantToken;
use crate::adapter::bearer::Bearer;
use crate::adapter::rest::{self, Answer, Rest, readable};
use crate::adapter::{AdapterError, SendError};
use crate::clock::Deadline;
use crate::config::Secret;
use crate::limits;
use crate::net::{NetError, NetOptions, Response};
use crate::thread::{CancelToken, enter};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A token is not used in its last ten minutes.
const TOKEN_MARGIN: Duration = Duration::from_secs(600);
const TOKEN_PATH: &str = "/open-apis/auth/v3/tenant_access_token/internal";

/// A call that failed.
#[derive(Debug)]
pub(super) struct ApiError {
    /// Which call, for messages: "send", "bot info".
    pub what: &'static str,
    pub failure: Failure,
}

#[derive(Debug)]
pub(super) enum Failure {
    /// No answer.
    Net(NetError),
    /// A code other than 0.
    Refused(Refusal),
    /// An answer that is not the platform's.
    Garbage { status: u16, cause: String, after: Option<Duration> },
}

/// What the platform says when it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: u16,
    pub code: i64,
    pub msg: String,
    pub after: Option<Duration>,
    pub class: Class,
    /// With [`Class::Scope`]: any of these permissions will do.
    pub scopes: Vec<String>,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.failure {
            Failure::Net(error) => write!(f, "{}: {error}", self.what),
            Failure::Refused(refusal) if refusal.class == Class::Scope && !refusal.scopes.is_empty() => {
                write!(f, "{}: code {}, the app lacks a permission: {}", self.what, refusal.code, refusal.scopes.join(" or "))
            }
            Failure::Refused(refusal) => write!(f, "{}: code {} {}", self.what, refusal.code, refusal.msg),
            Failure::Garbage { status, cause, .. } => write!(f, "{}: HTTP {status}, not an answer of the platform: {cause}", self.what),
        }
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    pub fn is_cancelled(&self) -> bool {
        matches!(self.failure, Failure::Net(NetError::Cancelled))
    }

    /// It may have been done all the same: the answer was lost, or was not the platform's.
    pub fn is_doubtful(&self) -> bool {
        match &self.failure {
            Failure::Net(error) => error.request_sent(),
            Failure::Refused(_) => false,
            Failure::Garbage { .. } => true,
        }
    }

    pub fn class(&self) -> Option<Class> {
        match &self.failure {
            Failure::Refused(refusal) => Some(refusal.class),
            Failure::Net(_) | Failure::Garbage { .. } => None,
        }
    }

    fn after(&self) -> Option<Duration> {
        match &self.failure {
            Failure::Net(_) => None,
            Failure::Refused(refusal) => refusal.after,
            Failure::Garbage { after, .. } => *after,
        }
    }

    /// How long to be quiet, if it was refused for too many requests.
    pub fn quiet(&self) -> Option<Duration> {
        (self.class() == Some(Class::Rate)).then(|| self.after().unwrap_or(limits::FEISHU_QUIET))
    }

    /// What only the operator can do about it, if that is so.
    fn remedy(&self) -> Option<String> {
        let Failure::Refused(refusal) = &self.failure else { return None };
        match refusal.class {
            Class::Credential => Some("check `app_id` and `app_secret`: open platform console → Credentials & Basic Info".to_owned()),
            Class::Token => {
                Some("the platform refuses the tokens it gives out itself: check `app_id`, `app_secret` and `domain`".to_owned())
            }
            Class::Ability => Some("open platform console → Add Features: add the bot, then publish a version of the app".to_owned()),
            Class::Scope if refusal.scopes.is_empty() => {
                Some("grant the permissions of contrib/platforms/feishu.md to the app, then publish a version of it".to_owned())
            }
            Class::Scope => Some(format!(
                "open platform console → Permissions & Scopes: grant {}, then publish a version of the app",
                refusal.scopes.join(" or ")
            )),
            _ => None,
        }
    }

    /// What it means for the connection.
    pub fn for_adapter(&self) -> AdapterError {
        let cause = self.to_string();
        match (&self.failure, self.remedy()) {
            (Failure::Net(error), _) => rest::adapter_error(error, self.what),
            (_, Some(remedy)) => AdapterError::Fatal { cause, remedy },
            _ => AdapterError::Retry { cause, after: self.after() },
        }
    }

    /// What it means for a message. Every request may be repeated: messages carry a key (`uuid`), edits are what they are.
    pub fn for_message(&self) -> SendError {
        let cause = self.to_string();
        match (&self.failure, self.remedy()) {
            (Failure::Net(error), _) => rest::send_error(error, self.what, true),
            (_, Some(remedy)) => SendError::Fatal { cause, remedy },
            (Failure::Refused(refusal), _) => match refusal.class {
                Class::Rate => SendError::Retry { cause, after: self.quiet() },
                Class::Server => SendError::Retry { cause, after: refusal.after },
                _ => SendError::Reject { cause },
            },
            (Failure::Garbage { status: 413, .. }, _) => SendError::Reject { cause },
            (Failure::Garbage { after, .. }, _) => SendError::Retry { cause, after: *after },
        }
    }
}

/// The interface for one app, over connections that end with one token.
pub(super) struct Api {
    settings: Arc<Settings>,
    bearer: Arc<Bearer>,
    rest: Rest,
}

impl Api {
    pub fn new(settings: &Arc<Settings>, bearer: &Arc<Bearer>, net: &NetOptions, token: &CancelToken) -> Self {
        Self { settings: Arc::clone(settings), bearer: Arc::clone(bearer), rest: Rest::new(net, token) }
    }

    /// Calls with the access token. → the whole answer, whose code is 0
    pub fn call(
        &self,
        what: &'static str,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
        deadline: Deadline,
    ) -> Result<Value, ApiError> {
        let mut first = true;
        loop {
            let token = self.token(deadline)?;
            let mut headers = vec![("Authorization".to_owned(), format!("Bearer {}", token.expose()))];
            if body.is_some() {
                headers.push(("Content-Type".to_owned(), "application/json; charset=utf-8".to_owned()));
            }
            let error = match self.ask(what, method, path, headers, body, deadline) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.class() != Some(Class::Token) || !std::mem::take(&mut first) {
                return Err(hide(error, token.expose()));
            }
            self.bearer.refused(&token);
        }
    }

    /// Calls without the access token.
    pub fn ask(
        &self,
        what: &'static str,
        method: &'static str,
        path: &str,
        headers: Vec<(String, String)>,
        body: Option<&Value>,
        deadline: Deadline,
    ) -> Result<Value, ApiError> {
        let _busy = enter(format_args!("feishu {what}"), deadline);
        let url = format!("{}{path}", self.settings.domain);
        let answer = self.rest.call(method, url, headers, body, deadline);
        let answer = answer.map_err(|error| ApiError { what, failure: Failure::Net(error) })?;
        read_answer(answer).map_err(|failure| hide(ApiError { what, failure }, self.settings.app_secret.expose()))
    }

    fn token(&self, deadline: Deadline) -> Result<Secret, ApiError> {
        self.bearer.get(TOKEN_MARGIN, || {
            let what = "access token";
            let body = json!({"app_id": self.settings.app_id, "app_secret": self.settings.app_secret.expose()});
            let answer = self.ask(what, "POST", TOKEN_PATH, Vec::new(), Some(&body), deadline)?;
            let granted: TenantToken = serde_json::from_value(answer).unwrap_or_default();
            let token = granted.tenant_access_token.filter(|token| !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic()));
            let seconds = granted.expire.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
            match token {
                Some(token) => Ok((Secret::new(token), Duration::from_secs(seconds.clamp(1, 86_400)))),
                None => {
                    let failure = Failure::Garbage { status: 200, cause: "no token in it".to_owned(), after: None };
                    Err(ApiError { what, failure })
                }
            }
        })
    }

    /// Begins to download; the answer's status is 200.
    pub fn download(&self, path: &str, deadline: Deadline) -> Result<Response, ApiError> {
        let what = "download";
        let mut first = true;
        loop {
            let token = self.token(deadline)?;
            let headers = vec![("Authorization".to_owned(), format!("Bearer {}", token.expose()))];
            let _busy = enter(format_args!("feishu {what}"), deadline);
            let response = self.rest.download(format!("{}{path}", self.settings.domain), headers, deadline);
            let mut response = response.map_err(|error| ApiError { what, failure: Failure::Net(error) })?;
            if response.status == 200 {
                return Ok(response);
            }
            let json =
                response.read_to_end(limits::ERROR_BODY_BYTES_MAX).map_err(|error| ApiError { what, failure: Failure::Net(error) })?;
            let json = serde_json::from_slice(&json).unwrap_or_default();
            let retry_after = response.retry_after();
            let answer = Answer { status: response.status, headers: response.headers, retry_after, json, text: String::new() };
            let error = match read_answer(answer) {
                Ok(_) => ApiError { what, failure: Failure::Garbage { status: response.status, cause: "no file".to_owned(), after: None } },
                Err(failure) => hide(ApiError { what, failure }, token.expose()),
            };
            if error.class() != Some(Class::Token) || !std::mem::take(&mut first) {
                return Err(error);
            }
            self.bearer.refused(&token);
        }
    }
}

/// Takes an answer apart. Pure.
pub(super) fn read_answer(answer: Answer) -> Result<Value, Failure> {
    let seconds = answer.header("x-ogw-ratelimit-reset").and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
    let after = seconds.or(answer.retry_after).map(|wait| wait.min(limits::RETRY_AFTER_MAX));
    let status = answer.status;
    match classes::code(&answer.json) {
        Some(0) if (200..300).contains(&status) => Ok(answer.json),
        Some(0) | None => {
            let cause = if answer.text.is_empty() { "JSON without a code".to_owned() } else { answer.text };
            Err(Failure::Garbage { status, cause, after })
        }
        Some(code) => {
            let class = classes::class(status, code);
            let scopes = if class == Class::Scope { classes::scopes(&answer.json) } else { Vec::new() };
            let msg = readable(answer.json["msg"].as_str().unwrap_or("without a reason"), 300);
            Err(Failure::Refused(Refusal { status, code, msg, after, class, scopes }))
        }
    }
}

/// A server may repeat in its answer what it was asked with.
fn hide(mut error: ApiError, secret: &str) -> ApiError {
    let text = match &mut error.failure {
        Failure::Net(_) => return error,
        Failure::Refused(refusal) => &mut refusal.msg,
        Failure::Garbage { cause, .. } => cause,
    };
    if !secret.is_empty() && text.contains(secret) {
        *text = text.replace(secret, "***");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, json: Value) -> Answer {
        Answer { status, headers: Vec::new(), retry_after: None, json, text: String::new() }
    }

    fn refused(status: u16, json: Value) -> ApiError {
        ApiError { what: "send", failure: read_answer(answer(status, json)).expect_err("refused") }
    }

    #[test]
    fn answers_are_taken_apart() {
        assert!(read_answer(answer(200, json!({"code": 0, "data": {}}))).is_ok());
        assert!(matches!(read_answer(answer(200, json!({"data": {}}))), Err(Failure::Garbage { .. })));
        assert!(matches!(read_answer(answer(502, Value::Null)), Err(Failure::Garbage { status: 502, .. })));
        let limited =
            Answer { headers: vec![("X-Ogw-Ratelimit-Reset".to_owned(), "7".to_owned())], ..answer(400, json!({"code": 99_991_400})) };
        let error = ApiError { what: "send", failure: read_answer(limited).expect_err("refused") };
        assert_eq!(error.quiet(), Some(Duration::from_secs(7)));
        assert!(matches!(error.for_message(), SendError::Retry { after: Some(after), .. } if after == Duration::from_secs(7)));
    }

    #[test]
    fn each_class_has_its_consequence() {
        let message = |code: i64| refused(400, json!({"code": code, "msg": "m"})).for_message();
        for code in [10014, 99_991_663, 99_991_672, 230_006] {
            assert!(matches!(message(code), SendError::Fatal { .. }), "{code}");
            assert!(matches!(refused(200, json!({"code": code})).for_adapter(), AdapterError::Fatal { .. }), "{code}");
        }
        for code in [99_991_400, 230_020, 1, 1_000_040_343] {
            assert!(matches!(message(code), SendError::Retry { .. }), "{code}");
        }
        for code in [230_001, 230_002, 230_013, 230_053, 230_025, 230_072, 230_099, 555] {
            assert!(matches!(message(code), SendError::Reject { .. }), "{code}");
        }
        for code in [99_991_400, 1, 555, 230_002] {
            assert!(matches!(refused(200, json!({"code": code})).for_adapter(), AdapterError::Retry { .. }), "{code}");
        }
        let scope = refused(400, json!({"code": 99_991_672, "msg": "required: [im:message, im:message:send_as_bot]"}));
        let AdapterError::Fatal { cause, remedy } = scope.for_adapter() else { panic!("{scope}") };
        assert!(cause.contains("im:message or im:message:send_as_bot") && remedy.contains("grant im:message or"), "{cause}: {remedy}");
    }

    #[test]
    fn secrets_do_not_come_back_out() {
        let error = refused(200, json!({"code": 10014, "msg": "app secret s3cr3t invalid\n"}));
        assert_eq!(hide(error, "s3cr3t").to_string(), "send: code 10014 app secret *** invalid");
    }
}
