//! The classification tables of both protocols, row by row.

use super::*;

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> ProviderError {
    let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Failure::from_answer(status, &headers, body.as_bytes(), "", 0).classify()
}

/// The variant's name and status, which is what the tables are about.
fn shape(error: &ProviderError) -> String {
    match error {
        ProviderError::RateLimited { after, .. } => format!("RateLimited {after:?}"),
        ProviderError::Overloaded { after, .. } => format!("Overloaded {after:?}"),
        ProviderError::Server { status, after, .. } => format!("Server {status} {after:?}"),
        ProviderError::Auth { status, .. } => format!("Auth {status}"),
        ProviderError::Billing { .. } => "Billing".to_owned(),
        ProviderError::ContextFull { .. } => "ContextFull".to_owned(),
        ProviderError::Rejected { status, .. } => format!("Rejected {status}"),
        other => format!("{other:?}"),
    }
}

fn messages_body(kind: &str, message: &str) -> String {
    serde_json::json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}).to_string()
}

fn chat_body(kind: &str, code: &Value, message: &str) -> String {
    serde_json::json!({"error": {"message": message, "type": kind, "param": null, "code": code}}).to_string()
}

#[test]
fn every_row_of_the_messages_api() {
    let check = |status: u16, kind: &str, message: &str, expect: &str| {
        let error = answer(status, &[], &messages_body(kind, message));
        assert_eq!(shape(&error), expect, "{status} {kind} {message}");
        assert!(error.to_string().contains(message), "{error}");
    };
    check(400, "invalid_request_error", "messages: at least one message is required", "Rejected 400");
    check(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum", "ContextFull");
    check(400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 1 + 2 > 2", "ContextFull");
    check(400, "invalid_request_error", "Your credit balance is too low to access the API", "Billing");
    check(401, "authentication_error", "invalid x-api-key", "Auth 401");
    check(402, "billing_error", "pay", "Billing");
    check(403, "permission_error", "no access", "Auth 403");
    check(404, "not_found_error", "model: nope", "Rejected 404");
    check(409, "conflict", "again", "Server 409 None");
    check(413, "request_too_large", "too large", "Rejected 413");
    check(429, "rate_limit_error", "slow down", "RateLimited None");
    check(500, "api_error", "oops", "Server 500 None");
    check(500, "overloaded_error", "Overloaded", "Overloaded None");
    check(504, "timeout_error", "late", "Server 504 None");
    check(529, "overloaded_error", "Overloaded", "Overloaded None");
}

#[test]
fn every_row_of_chat_completions() {
    let check = |status: u16, kind: &str, code: Value, message: &str, expect: &str| {
        assert_eq!(shape(&answer(status, &[], &chat_body(kind, &code, message))), expect, "{status} {kind} {code}");
    };
    check(400, "invalid_request_error", "context_length_exceeded".into(), "too long", "ContextFull");
    check(400, "BadRequestError", 400.into(), "This model's maximum context length is 4096 tokens.", "ContextFull");
    check(400, "exceed_context_size_error", 400.into(), "request exceeds the available context size", "ContextFull");
    check(400, "invalid_request_error", Value::Null, "bad", "Rejected 400");
    check(401, "invalid_request_error", "invalid_api_key".into(), "Incorrect API key", "Auth 401");
    check(402, "x", Value::Null, "pay", "Billing");
    check(403, "request_forbidden", "unsupported_country_region_territory".into(), "no", "Auth 403");
    check(404, "invalid_request_error", "model_not_found".into(), "no such model", "Rejected 404");
    check(408, "timeout", Value::Null, "late", "Server 408 None");
    check(409, "conflict", Value::Null, "again", "Server 409 None");
    check(413, "x", Value::Null, "large", "Rejected 413");
    check(422, "x", Value::Null, "odd", "Rejected 422");
    check(429, "requests", "rate_limit_exceeded".into(), "slow", "RateLimited None");
    check(429, "throttling_error", "429".into(), "litellm.RateLimitError", "RateLimited None");
    check(429, "insufficient_quota", "insufficient_quota".into(), "You exceeded your current quota", "Billing");
    check(500, "server_error", Value::Null, "oops", "Server 500 None");
    check(502, "server_error", Value::Null, "oops", "Server 502 None");
    check(503, "overloaded", Value::Null, "later", "Overloaded None");
    check(504, "server_error", Value::Null, "late", "Server 504 None");
}

#[test]
fn bodies_of_other_servers_are_understood() {
    let check = |status: u16, body: &str, expect: &str| assert_eq!(answer(status, &[], body).to_string(), expect);
    check(
        400,
        r#"{"object":"error","message":"bad field","type":"BadRequestError","param":null,"code":400}"#,
        "request rejected (400): bad field",
    );
    check(404, r#"{"error":"model 'x' not found"}"#, "request rejected (404): model 'x' not found");
    check(422, r#"{"detail":[{"msg":"no"}]}"#, r#"request rejected (422): [{"msg":"no"}]"#);
    check(
        502,
        "<html><body>Bad Gateway</body></html>",
        "server error 502: the answer is a web page, not the interface's; check base_url and proxies",
    );
    check(500, "", "server error 500: no explanation given");
    check(302, "", "request rejected (302): the server redirects elsewhere; base_url must be the final address");
    check(500, "plain\nwords", "server error 500: plain words");
    check(500, r#"{"error":{"message":{"a":1}}}"#, r#"server error 500: {"a":1}"#);
    check(500, "[1,2]", "server error 500: [1,2]");
    check(401, "\u{0}", "key not accepted (401)");
}

#[test]
fn the_wait_that_is_asked_for() {
    let check = |headers: &[(&str, &str)], expect: &str| assert_eq!(shape(&answer(429, headers, "{}")), expect, "{headers:?}");
    check(&[], "RateLimited None");
    check(&[("Retry-After", "1")], "RateLimited Some(1s)");
    check(&[("retry-after", "9"), ("retry-after-ms", "250")], "RateLimited Some(250ms)");
    check(&[("retry-after", "120")], "RateLimited Some(120s)");
    check(&[("retry-after", "0")], "RateLimited None");
    check(&[("retry-after", "soon")], "RateLimited None");
    check(&[("retry-after", "Thu, 01 Jan 1970 00:00:10 GMT")], "RateLimited Some(10s)");
}

#[test]
fn the_servers_own_word_on_retrying_counts_most() {
    let check = |status: u16, word: &str, expect: &str| {
        assert_eq!(shape(&answer(status, &[("X-Should-Retry", word)], "{}")), expect, "{status} {word}");
    };
    check(429, "false", "Rejected 429");
    check(500, "false", "Rejected 500");
    check(529, "false", "Rejected 529");
    check(401, "false", "Auth 401");
    check(400, "true", "Server 400 None");
    check(429, "true", "RateLimited None");
    check(500, "perhaps", "Server 500 None");
    // What no retry can mend stays what it is.
    let quota = chat_body("insufficient_quota", &"insufficient_quota".into(), "quota");
    assert_eq!(shape(&answer(429, &[("x-should-retry", "true")], &quota)), "Billing");
}

#[test]
fn errors_within_a_stream() {
    let check = |data: &str, expect: &str| {
        let value = serde_json::from_str(data).expect("test data");
        assert_eq!(shape(&Failure::from_value(&value).expect("an error").classify()), expect, "{data}");
    };
    check(r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#, "Overloaded None");
    check(r#"{"type":"error","error":{"type":"api_error","message":"m"}}"#, "Server 500 None");
    check(r#"{"type":"error","error":{"type":"rate_limit_error","message":"m"}}"#, "RateLimited None");
    check(r#"{"type":"error","error":{"type":"timeout_error","message":"m"}}"#, "Server 504 None");
    check(r#"{"type":"error","error":{"type":"invalid_request_error","message":"m"}}"#, "Rejected 400");
    check(r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long"}}"#, "ContextFull");
    check(r#"{"type":"error","error":{"type":"authentication_error","message":"m"}}"#, "Auth 401");
    check(r#"{"type":"error","error":{"type":"billing_error","message":"m"}}"#, "Billing");
    check(r#"{"type":"error","error":{"type":"new_error","message":"m"}}"#, "Server 500 None");
    check(r#"{"type":"error"}"#, "Server 500 None");
    check(r#"{"error":{"message":"m","type":"server_error","code":null}}"#, "Server 500 None");
    check(r#"{"error":{"message":"m","type":"x","code":502}}"#, "Server 502 None");
    check(r#"{"error":{"message":"m","type":"x","code":"429"}}"#, "RateLimited None");
    check(r#"{"error":{"message":"m","code":"insufficient_quota"}}"#, "Billing");
    check(r#"{"error":{"message":"m","code":"context_length_exceeded"}}"#, "ContextFull");
    assert_eq!(Failure::from_value(&serde_json::json!({"choices": [], "error": null})), None);
    assert_eq!(Failure::from_value(&serde_json::json!({"type": "message_stop"})), None);
}

#[test]
fn a_key_that_the_provider_quotes_does_not_travel_on() {
    let body = chat_body("x", &Value::Null, "key mykey-1 is wrong");
    let failure = Failure::from_answer(401, &[], body.as_bytes(), "mykey-1", 0);
    assert_eq!(failure.classify().to_string(), "key not accepted (401): key *** is wrong");
}
