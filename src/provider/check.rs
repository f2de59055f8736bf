//! Whether a provider accepts its key: asks for its list of models, which costs nothing. For `doctor` and `setup`.

use super::{Anthropic, OpenAi};
use crate::clock::Deadline;
use crate::config::{ProviderConfig, ProviderKind};
use crate::limits;
use crate::net::{Body, Bounds, Client, NetError, NetOptions, Request};
use crate::thread::CancelToken;

/// What the provider said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It answers without an account: the built-in one.
    NoKeyNeeded,
    Accepted,
    /// With its HTTP status.
    Rejected(u16),
    /// It answers, and has no such list: many servers of one's own.
    NoList(u16),
    /// It answers with something else.
    Trouble(u16),
}

/// Asks, until the deadline at the latest.
///
/// # Errors
/// [`NetError`]: it cannot be reached.
pub fn check_key(config: &ProviderConfig, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<Verdict, NetError> {
    let (url, headers) = match config.kind {
        ProviderKind::Offline => return Ok(Verdict::NoKeyNeeded),
        ProviderKind::Anthropic => Anthropic::new(&config.model, config.max_tokens, &config.base_url, config.api_key.clone()).models(),
        ProviderKind::OpenAi => OpenAi::new(&config.model, config.max_tokens, &config.base_url, config.api_key.clone()).models(),
    };
    let bounds = Bounds { headers: deadline, silence: limits::CONNECT, total: deadline, body_bytes_max: limits::BODY_BYTES_MAX };
    let request = Request { method: "GET", url, headers, body: Body::Empty };
    let response = Client::new(net, token).send(&request, bounds)?;
    Ok(match response.status {
        200..300 => Verdict::Accepted,
        status @ (401 | 403) => Verdict::Rejected(status),
        status @ (404 | 405 | 501) => Verdict::NoList(status),
        status => Verdict::Trouble(status),
    })
}

#[cfg(test)]
mod tests {
    // A server of one answer; its thread ends with it.
    #![allow(clippy::disallowed_methods)]

    use super::*;
    use crate::config::Secret;
    use std::io::{Read, Write};
    use std::time::Duration;

    fn ask(kind: ProviderKind, path: &str, status: &str) -> (Result<Verdict, NetError>, String) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let config = ProviderConfig {
            kind,
            model: "m".to_owned(),
            api_key: Some(Secret::new("sk-secret".to_owned())),
            base_url: format!("http://{}{path}", listener.local_addr().expect("bound")),
            silence: Duration::from_secs(5),
            turn: Duration::from_secs(5),
            max_turns: 1,
            max_tokens: 1,
            retries: 0,
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).expect("a request");
            stream.write_all(answer.as_bytes()).expect("taken");
            String::from_utf8_lossy(&bytes[..count]).to_ascii_lowercase()
        });
        let verdict = check_key(&config, &NetOptions::default(), &CancelToken::new(), Deadline::after(Duration::from_secs(10)));
        (verdict, server.join().expect("no panic"))
    }

    #[test]
    fn keys_that_are_accepted_and_rejected() {
        let (verdict, request) = ask(ProviderKind::Anthropic, "", "200 OK");
        assert_eq!(verdict.expect("reached"), Verdict::Accepted);
        assert!(request.starts_with("get /v1/models ") && request.contains("\r\nx-api-key: sk-secret\r\n"), "{request}");
        let (verdict, request) = ask(ProviderKind::OpenAi, "/v1", "401 Unauthorized");
        assert_eq!(verdict.expect("reached"), Verdict::Rejected(401));
        assert!(request.starts_with("get /v1/models ") && request.contains("\r\nauthorization: bearer sk-secret\r\n"), "{request}");
        assert_eq!(ask(ProviderKind::OpenAi, "", "404 Not Found").0.expect("reached"), Verdict::NoList(404));
        assert_eq!(ask(ProviderKind::Anthropic, "", "529 Overloaded").0.expect("reached"), Verdict::Trouble(529));
    }
}
