//! A provider's refusal, as both protocols spell it, and its classing.
//!
//! Pure. The bodies are those of the Messages API (`{"type":"error","error":{type,message}}`), of Chat Completions
//! (`{"error":{message,type,param,code}}`), and the variations that compatible servers were seen to send.

use super::error::{ProviderError, one_line};
use crate::net::{find_header, retry_after};
use serde_json::Value;
use std::time::Duration;

/// A refusal: the answer to a request, or an event in the middle of a stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Failure {
    /// The HTTP status, if it was an answer and not a success.
    pub(super) status: Option<u16>,
    /// `error.type`.
    pub(super) kind: String,
    /// `error.code`; numbers become text.
    pub(super) code: String,
    /// `error.param`.
    pub(super) param: String,
    pub(super) message: String,
    /// How long the provider asks to wait.
    pub(super) after: Option<Duration>,
    /// `x-should-retry`, which overrides what the status says.
    pub(super) should_retry: Option<bool>,
}

impl Failure {
    /// The refusal in an HTTP answer. `wall_ms` is the time at which it came, for a `retry-after` that is a date.
    /// `secret` must not travel further, however the provider quotes it.
    pub(super) fn from_answer(status: u16, headers: &[(String, String)], body: &[u8], secret: &str, wall_ms: i64) -> Self {
        let mut body = String::from_utf8_lossy(body);
        if !secret.is_empty() && body.contains(secret) {
            body = body.replace(secret, "***").into();
        }
        let mut failure = match serde_json::from_str::<Value>(&body) {
            Ok(value) => Self::from_value(&value).unwrap_or_default(),
            Err(_) => Self::default(),
        };
        if failure.message.is_empty() {
            failure.message = foreign_text(status, &body);
        }
        failure.message = one_line(&failure.message);
        failure.status = Some(status);
        // Zero is no wish; the usual pause applies.
        failure.after = retry_after(headers, wall_ms).filter(|after| !after.is_zero());
        failure.should_retry = find_header(headers, "x-should-retry").and_then(|value| value.trim().parse().ok());
        failure
    }

    /// The refusal in a JSON object, if it is one: a body, or the data of a stream event.
    pub(super) fn from_value(value: &Value) -> Option<Self> {
        let error = match value.get("error") {
            Some(Value::Null) | None => {
                // Older vLLM: {"object":"error","message":…,"type":…,"code":400}; FastAPI: {"detail":…}.
                let is_error = value.get("object").and_then(Value::as_str) == Some("error")
                    || value.get("type").and_then(Value::as_str) == Some("error")
                    || (value.get("choices").is_none()
                        && (value.get("message").is_some_and(Value::is_string) || value.get("detail").is_some()));
                if !is_error {
                    return None;
                }
                value
            }
            Some(error) => error,
        };
        // Ollama: {"error":"text"}.
        if let Value::String(message) = error {
            return Some(Self { message: one_line(message), ..Self::default() });
        }
        let field = |name: &str| match error.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(other @ (Value::Object(_) | Value::Array(_))) => other.to_string(),
            _ => String::new(),
        };
        let mut message = field("message");
        if message.is_empty() {
            message = field("detail");
        }
        Some(Self { kind: field("type"), code: field("code"), param: field("param"), message: one_line(&message), ..Self::default() })
    }

    pub(super) fn classify(self) -> ProviderError {
        let status = self.effective_status();
        if self.is_context_full(status) {
            return ProviderError::ContextFull { message: self.message };
        }
        if status == 402 || self.is_billing() {
            return ProviderError::Billing { message: self.message };
        }
        let (after, message) = (self.after, self.message);
        let retryable = matches!(status, 408 | 409 | 429 | 500..=599);
        match (self.should_retry, status) {
            (Some(false), _) if retryable => ProviderError::Rejected { status, message },
            (_, 429) => ProviderError::RateLimited { after, message },
            (_, 503 | 529) => ProviderError::Overloaded { after, message },
            (_, 500..=599) if self.kind == "overloaded_error" => ProviderError::Overloaded { after, message },
            (Some(true), _) => ProviderError::Server { status, after, message },
            _ if retryable => ProviderError::Server { status, after, message },
            (_, 401 | 403) => ProviderError::Auth { status, message },
            _ => ProviderError::Rejected { status, message },
        }
    }

    /// The HTTP status, or the one that the words of a mid-stream error stand for.
    fn effective_status(&self) -> u16 {
        if let Some(status) = self.status.filter(|status| *status >= 300) {
            return status;
        }
        if let Some(status) = self.code.parse().ok().filter(|status| (400..600).contains(status)) {
            return status;
        }
        let known = |word: &str| {
            Some(match word {
                "invalid_request_error" => 400,
                "authentication_error" | "invalid_api_key" => 401,
                "billing_error" => 402,
                "permission_error" => 403,
                "not_found_error" | "model_not_found" => 404,
                "request_too_large" => 413,
                "rate_limit_error" | "rate_limit_exceeded" | "throttling_error" => 429,
                "overloaded_error" | "overloaded" => 529,
                "timeout_error" => 504,
                _ => return None,
            })
        };
        known(&self.code).or_else(|| known(&self.kind)).unwrap_or(500)
    }

    fn is_context_full(&self, status: u16) -> bool {
        if self.code == "context_length_exceeded" || self.kind == "exceed_context_size_error" {
            return true;
        }
        // Neither protocol has a code for it everywhere; these are the texts of the vendors and of the common servers.
        let message = self.message.to_lowercase();
        matches!(status, 400 | 413 | 422)
            && [
                "prompt is too long",
                "exceed context limit",
                "maximum context length",
                "exceeds the available context size",
                "context_length_exceeded",
            ]
            .iter()
            .any(|text| message.contains(text))
    }

    fn is_billing(&self) -> bool {
        let words = ["insufficient_quota", "billing_error", "billing_hard_limit_reached", "billing_not_active"];
        words.contains(&self.code.as_str())
            || words.contains(&self.kind.as_str())
            || self.message.to_lowercase().contains("credit balance is too low")
    }
}

/// What to say about a body that is not an error object.
fn foreign_text(status: u16, body: &str) -> String {
    let text = body.trim();
    if (300..400).contains(&status) {
        "the server redirects elsewhere; base_url must be the final address".to_owned()
    } else if text.is_empty() {
        "no explanation given".to_owned()
    } else if text.starts_with('<') {
        "the answer is a web page, not the interface's; check base_url and proxies".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod tests;
