//! Calls of the iLink interface: one JSON request, one answer, both bounded.
//!
//! The token is in a header. It leaves this file only onto the wire: errors name the method and the host, and what the
//! server says is cleaned of it.

use super::Settings;
use crate::adapter::lenient::to_integer;
use crate::adapter::rest::{Answer, Rest, readable};
use crate::clock::Deadline;
use crate::limits;
use crate::net::{NetError, NetOptions, Response, phase};
use crate::thread::CancelToken;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The version of Tencent's own client whose requests these are.
const CHANNEL_VERSION: &str = "2.4.9";
/// The same as a number: major, minor and patch, a byte each.
const CLIENT_VERSION: u32 = (2 << 16) | (4 << 8) | 9;

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
    /// `ret` or `errcode` is not 0.
    Refused { code: i64, message: String },
    /// A status that is no success, or an answer that is no JSON object.
    Status { status: u16, cause: String, retry_after: Option<Duration> },
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.failure {
            Failure::Net(error) => write!(f, "{}: {error}", self.method),
            Failure::Refused { code, message } => write!(f, "{}: {code} {message}", self.method),
            Failure::Status { status, cause, .. } => write!(f, "{}: HTTP {status}: {cause}", self.method),
        }
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    pub fn is_cancelled(&self) -> bool {
        matches!(self.failure, Failure::Net(NetError::Cancelled))
    }

    /// The server has the request and is silent: the way in which a poll without messages may end.
    pub fn is_silence(&self) -> bool {
        matches!(&self.failure, Failure::Net(NetError::Timeout { phase: phase::HEADERS, .. }))
    }

    /// A token is not valid any more: the login's, or the one of the conversation.
    pub fn is_stale(&self) -> bool {
        match &self.failure {
            Failure::Refused { code, message } => *code == -14 || (*code == -2 && message.trim().eq_ignore_ascii_case("unknown error")),
            _ => self.is_forbidden(),
        }
    }

    /// The login's token is not accepted at all.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.failure, Failure::Status { status: 401 | 403, .. })
    }

    /// Too many requests.
    pub fn is_frequency(&self) -> bool {
        match &self.failure {
            Failure::Refused { code, .. } => *code == -2 && !self.is_stale(),
            Failure::Status { status, .. } => *status == 429,
            Failure::Net(_) => false,
        }
    }

    pub fn retry_after(&self) -> Option<Duration> {
        match &self.failure {
            Failure::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The headers that each request has.
pub(super) fn app_headers() -> Vec<(String, String)> {
    vec![("iLink-App-Id".to_owned(), "bot".to_owned()), ("iLink-App-ClientVersion".to_owned(), CLIENT_VERSION.to_string())]
}

/// The headers of a POST; `token` once there is one.
pub(super) fn post_headers(token: Option<&str>) -> Vec<(String, String)> {
    let mut headers = app_headers();
    headers.push(("AuthorizationType".to_owned(), "ilink_bot_token".to_owned()));
    // A number of its own for each request, as text in base64.
    headers.push(("X-WECHAT-UIN".to_owned(), STANDARD.encode(fastrand::u32(..).to_string())));
    headers.extend(token.map(|token| ("Authorization".to_owned(), format!("Bearer {token}"))));
    headers
}

/// What each body of a POST carries.
pub(super) fn base_info() -> Value {
    json!({"channel_version": CHANNEL_VERSION, "bot_agent": concat!("hermes-gateway/", env!("CARGO_PKG_VERSION"))})
}

/// The interface for one bot, over connections that end with one token.
pub(super) struct Api {
    settings: Arc<Settings>,
    rest: Rest,
}

impl Api {
    pub fn new(settings: &Arc<Settings>, net: &NetOptions, token: &CancelToken) -> Self {
        Self { settings: Arc::clone(settings), rest: Rest::new(net, token) }
    }

    /// Calls a method. → the answer, which is an object and no refusal
    pub fn call(&self, method: &'static str, mut body: Value, deadline: Deadline) -> Result<Value, ApiError> {
        body["base_info"] = base_info();
        let token = self.settings.account.token.expose();
        let url = format!("{}/ilink/bot/{method}", self.settings.base_url);
        let fail = |failure| ApiError { method, failure };
        let answer =
            self.rest.call("POST", url, post_headers(Some(token)), Some(&body), deadline).map_err(|error| fail(Failure::Net(error)))?;
        read_answer(answer).map_err(|mut failure| {
            if let Failure::Refused { message: text, .. } | Failure::Status { cause: text, .. } = &mut failure {
                *text = text.replace(token, "***");
            }
            fail(failure)
        })
    }

    /// The ticket with which "typing" is shown to a user.
    pub fn typing_ticket(&self, user: &str, context: Option<&str>, deadline: Deadline) -> Result<Option<String>, ApiError> {
        let mut body = json!({"ilink_user_id": user});
        if let Some(context) = context {
            body["context_token"] = json!(context);
        }
        let answer = self.call("getconfig", body, deadline)?;
        let fine = |ticket: &&str| (1..=limits::WEIXIN_TOKEN_BYTES_MAX).contains(&ticket.len());
        Ok(answer.get("typing_ticket").and_then(Value::as_str).filter(fine).map(str::to_owned))
    }

    /// Begins to download a file. The address may be a secret of its own.
    pub fn download(&self, url: String, deadline: Deadline) -> Result<Response, NetError> {
        self.rest.download(url, Vec::new(), deadline)
    }
}

/// Takes an answer apart. Pure. Success is: neither `ret` nor `errcode`, or both 0, whatever else there is.
fn read_answer(answer: Answer) -> Result<Value, Failure> {
    let code = |key: &str| answer.json.get(key).and_then(to_integer).filter(|code| *code != 0);
    let said = answer.json.get("errmsg").and_then(Value::as_str).map(|text| readable(text, 200)).filter(|text| !text.is_empty());
    let refused = code("errcode").or_else(|| code("ret"));
    if !(200..300).contains(&answer.status) {
        let cause = match (said, refused) {
            (Some(said), _) => said,
            (None, Some(code)) => format!("code {code}"),
            (None, None) if answer.text.is_empty() => "no explanation".to_owned(),
            (None, None) => answer.text,
        };
        return Err(Failure::Status { status: answer.status, cause, retry_after: answer.retry_after });
    }
    match refused {
        Some(code) => Err(Failure::Refused { code, message: said.unwrap_or_else(|| "no explanation".to_owned()) }),
        None if answer.json.is_object() => Ok(answer.json),
        None => {
            let cause = "not an answer of this interface".to_owned();
            Err(Failure::Status { status: answer.status, cause, retry_after: answer.retry_after })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, json: Value) -> Result<Value, ApiError> {
        let answer = Answer { status, headers: Vec::new(), retry_after: None, json, text: String::new() };
        read_answer(answer).map_err(|failure| ApiError { method: "m", failure })
    }

    #[test]
    fn success_is_the_absence_of_codes() {
        for fine in [json!({}), json!({"ret": 0}), json!({"errcode": 0, "ret": 0, "msgs": []}), json!({"message_id": u64::MAX})] {
            assert_eq!(read(200, fine.clone()).expect("fine"), fine);
        }
        for not in [json!([]), json!("x"), Value::Null, json!({"ret": 1}), json!({"ret": 0, "errcode": -3}), json!({"errcode": "-14"})] {
            assert!(read(200, not.clone()).is_err(), "{not}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        // stale, forbidden, frequency
        let check = |status: u16, json: Value, expect: (bool, bool, bool)| {
            let error = read(status, json).expect_err("refused");
            assert_eq!((error.is_stale(), error.is_forbidden(), error.is_frequency()), expect, "{error}");
        };
        check(200, json!({"ret": -14, "errmsg": "session timeout"}), (true, false, false));
        check(200, json!({"errcode": -14}), (true, false, false));
        check(200, json!({"ret": -2, "errmsg": "unknown error"}), (true, false, false));
        check(200, json!({"ret": -2, "errmsg": "freq limit"}), (false, false, true));
        check(200, json!({"ret": -2}), (false, false, true));
        check(200, json!({"ret": -1}), (false, false, false));
        check(401, Value::Null, (true, true, false));
        check(403, json!({"errmsg": "forbidden"}), (true, true, false));
        check(429, Value::Null, (false, false, true));
        check(500, json!({"ret": -1, "errmsg": "busy"}), (false, false, false));
        assert_eq!(read(502, Value::Null).expect_err("refused").to_string(), "m: HTTP 502: no explanation");
        assert_eq!(read(200, json!({"ret": -3, "errmsg": "a\nb"})).expect_err("refused").to_string(), "m: -3 a b");
    }

    #[test]
    fn each_request_has_a_number_of_its_own() {
        let number = || {
            let headers = post_headers(Some("tok"));
            assert!(headers.contains(&("Authorization".to_owned(), "Bearer tok".to_owned())));
            assert!(headers.contains(&("iLink-App-ClientVersion".to_owned(), "132105".to_owned())));
            let (_, text) = headers.into_iter().find(|(name, _)| name == "X-WECHAT-UIN").expect("the header");
            String::from_utf8(STANDARD.decode(text).expect("base64")).expect("text").parse::<u32>().expect("a number")
        };
        assert!((0..8).any(|_| number() != number()));
    }
}
