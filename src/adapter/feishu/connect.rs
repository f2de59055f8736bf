//! Where to connect, and what a refusal means: the discovery that comes before each connect, and the handshake.
//!
//! The address holds a ticket that is valid for a short while and once: it is never kept, and never part of a message.

use super::Settings;
use super::api::{Api, ApiError, Failure};
use super::classes::Class;
use super::wire::{ClientConfig, Endpoint};
use crate::adapter::{AdapterError, rest};
use crate::clock::Deadline;
use crate::limits;
use crate::net::{Refusal, WsError, find_header};
use serde_json::{Value, json};
use std::time::Duration;

const DISCOVERY: &str = "/callback/ws/endpoint";
/// An app may have 50 connections.
const CONNECTIONS_EXCEEDED: i64 = 1_000_040_350;

/// What the discovery gave.
pub(super) struct Address {
    pub url: String,
    /// Goes into each frame.
    pub service: i32,
    pub ping_interval: Option<Duration>,
}

/// Asks where to connect.
///
/// # Errors
/// [`AdapterError`].
pub(super) fn discover(api: &Api, settings: &Settings, deadline: Deadline) -> Result<Address, AdapterError> {
    let body = json!({"AppID": settings.app_id, "AppSecret": settings.app_secret.expose()});
    let headers = vec![("locale".to_owned(), "zh".to_owned())];
    let answer = api.ask("discovery", "POST", DISCOVERY, headers, Some(&body), deadline).map_err(|error| refused_address(&error))?;
    read_address(answer, settings.domain.starts_with("https:")).map_err(|cause| AdapterError::Retry { cause, after: None })
}

/// Classifies a discovery that failed, once.
fn refused_address(error: &ApiError) -> AdapterError {
    let cause = error.to_string();
    let Failure::Refused(refusal) = &error.failure else { return error.for_adapter() };
    match refusal.code {
        CONNECTIONS_EXCEEDED => connections_exceeded(cause),
        403 => AdapterError::Fatal { cause, remedy: forbidden() },
        514 | 1_000_040_344 => AdapterError::Fatal { cause, remedy: not_enabled() },
        _ => match (refusal.class, refusal.status) {
            (Class::Rate | Class::Server, _) => AdapterError::Retry { cause, after: refusal.after },
            (Class::Credential | Class::Scope | Class::Ability, _) => error.for_adapter(),
            // Any other code with 200 is the client's fault, say both official clients; with another status, the server's.
            (_, 200) => AdapterError::Fatal { cause, remedy: not_enabled() },
            _ => AdapterError::Retry { cause, after: refusal.after },
        },
    }
}

fn connections_exceeded(cause: String) -> AdapterError {
    // Dead connections of the past go away; too many gateways are the operator's to find, with this cause in the status.
    AdapterError::Retry { cause: format!("{cause} (the app has too many connections)"), after: Some(limits::FEISHU_CONNECTIONS_WAIT) }
}

fn forbidden() -> String {
    "open platform console: the app must be published and its long connection allowed for this tenant".to_owned()
}

fn not_enabled() -> String {
    "check `app_id`, `app_secret` and `domain` (an app of Lark needs domain = \"lark\"), and choose \"receive events through persistent \
     connection\" in the open platform console → Events & Callbacks"
        .to_owned()
}

/// Takes the discovery's answer apart. Pure. `tls`: the address must be one with TLS too.
fn read_address(answer: Value, tls: bool) -> Result<Address, String> {
    let wrong = |what: &str| Err(format!("discovery: {what}"));
    let data = answer.get("data").cloned().unwrap_or_default();
    let endpoint: Endpoint = serde_json::from_value(data).unwrap_or_default();
    let Some(url) = endpoint.url.filter(|url| !url.is_empty()) else { return wrong("no address in the answer") };
    if !(url.starts_with("wss://") || url.starts_with("ws://")) {
        return wrong("the address is not that of a WebSocket");
    }
    if tls && !url.starts_with("wss://") {
        return wrong("the address is one without TLS");
    }
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let service = query.split('&').find_map(|pair| pair.strip_prefix("service_id=")).and_then(|id| id.parse().ok());
    let Some(service) = service else { return wrong("an address without service_id") };
    Ok(Address { url, service, ping_interval: endpoint.config.and_then(|config| ping_interval(&config)) })
}

/// What the server wants, within reason.
pub(super) fn ping_interval(config: &ClientConfig) -> Option<Duration> {
    let seconds = u64::try_from(config.ping_interval?).ok().filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds).clamp(limits::FEISHU_PING_MIN, limits::FEISHU_PING_MAX))
}

/// Classifies a handshake that failed, once. The platform says why in headers of its refusal.
pub(super) fn refused_handshake(error: WsError) -> AdapterError {
    match error {
        WsError::Net(error) => rest::adapter_error(&error, "long connection"),
        WsError::Refused(refusal) => refused_upgrade(&refusal),
        other => AdapterError::Retry { cause: format!("long connection: {other}"), after: other.retry_after() },
    }
}

fn refused_upgrade(refusal: &Refusal) -> AdapterError {
    let number = |name: &str| find_header(&refusal.headers, name).and_then(|value| value.trim().parse::<i64>().ok());
    let msg = rest::readable(find_header(&refusal.headers, "handshake-msg").unwrap_or_default(), 200);
    let status = number("handshake-status");
    let shown = status.map_or_else(|| format!("HTTP {}", refusal.status), |status| format!("handshake status {status}"));
    let cause = format!("long connection: {}: {shown} {msg}", refusal.peer).trim_end().to_owned();
    match (status, number("handshake-autherrcode")) {
        (Some(514), Some(CONNECTIONS_EXCEEDED)) => connections_exceeded(cause),
        (Some(403), _) => AdapterError::Fatal { cause, remedy: forbidden() },
        // Also 514: the ticket may have been too old.
        _ => AdapterError::Retry { cause, after: refusal.retry_after },
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::read_answer;
    use super::*;
    use crate::adapter::rest::Answer;

    fn discovery(status: u16, json: Value) -> AdapterError {
        let answer = Answer { status, headers: Vec::new(), retry_after: None, json, text: String::new() };
        refused_address(&ApiError { what: "discovery", failure: read_answer(answer).expect_err("refused") })
    }

    #[test]
    fn refused_discoveries_are_classified() {
        for code in [403, 514, 1_000_040_344, 10014, 10003, 4711] {
            let error = discovery(200, json!({"code": code, "msg": "no"}));
            assert!(matches!(error, AdapterError::Fatal { .. }), "{code}: {error:?}");
        }
        for (status, code) in [(200, 1), (200, 1_000_040_343), (400, 99_991_400), (500, 4711), (400, 4711), (503, 1)] {
            let error = discovery(status, json!({"code": code, "msg": "later"}));
            assert!(matches!(error, AdapterError::Retry { after: None, .. }), "{status} {code}: {error:?}");
        }
        assert!(matches!(discovery(502, Value::Null), AdapterError::Retry { .. }));
        let full = discovery(200, json!({"code": CONNECTIONS_EXCEEDED, "msg": "exceed"}));
        assert!(matches!(full, AdapterError::Retry { after: Some(limits::FEISHU_CONNECTIONS_WAIT), .. }), "{full:?}");
    }

    #[test]
    fn the_documented_address_is_read() {
        let url = "wss://msg-frontier.feishu.cn/ws/v2?fpid=493&aid=552564&device_id=7412345678901234567&access_key=KEY&service_id=33554678&ticket=TICKET";
        let config = json!({"ReconnectCount": -1, "ReconnectInterval": 120, "ReconnectNonce": 30, "PingInterval": 90});
        let read = read_address(json!({"code": 0, "data": {"URL": url, "ClientConfig": config}}), true).expect("an address");
        assert_eq!((read.url.as_str(), read.service, read.ping_interval), (url, 33_554_678, Some(Duration::from_secs(90))));
        let without = |url: &str, tls| read_address(json!({"data": {"URL": url}}), tls).map(|read| read.ping_interval);
        assert_eq!(without("ws://127.0.0.1:1/ws?service_id=-5", false), Ok(None));
        for (url, tls) in [
            ("", false),
            ("http://x/?service_id=1", false),
            ("ws://x/?service_id=1", true),
            ("wss://x/", true),
            ("wss://x/?service_id=x", true),
        ] {
            let error = without(url, tls).expect_err("not to be used");
            assert!(url.is_empty() || !error.contains(url), "{error}");
        }
        assert!(read_address(json!({"data": [1]}), false).is_err());
    }

    #[test]
    fn what_the_server_wants_is_kept_within_bounds() {
        let read = |seconds: Value| ping_interval(&serde_json::from_value(json!({"PingInterval": seconds})).expect("tolerant"));
        assert_eq!(read(json!(1)), Some(Duration::from_secs(1)));
        assert_eq!(read(json!("60")), Some(Duration::from_secs(60)));
        assert_eq!(read(json!(1_000_000)), Some(limits::FEISHU_PING_MAX));
        for odd in [json!(0), json!(-5), json!(null), json!([])] {
            assert_eq!(read(odd), None);
        }
    }

    #[test]
    fn refused_handshakes_are_classified() {
        let refuse = |status: u16, headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let refusal = Refusal { peer: "p:1".to_owned(), status, retry_after: None, headers, body: String::new() };
            refused_handshake(WsError::Refused(Box::new(refusal)))
        };
        let full = refuse(400, &[("Handshake-Status", "514"), ("Handshake-Autherrcode", "1000040350"), ("Handshake-Msg", "exceed")]);
        assert!(matches!(full, AdapterError::Retry { after: Some(limits::FEISHU_CONNECTIONS_WAIT), .. }), "{full:?}");
        assert!(matches!(refuse(400, &[("handshake-status", "403"), ("handshake-msg", "forbidden")]), AdapterError::Fatal { .. }));
        for headers in [&[("handshake-status", "514"), ("handshake-autherrcode", "7")][..], &[("handshake-status", "1")], &[]] {
            assert!(matches!(refuse(400, headers), AdapterError::Retry { after: None, .. }));
        }
    }
}
