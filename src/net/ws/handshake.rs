//! The opening handshake of a WebSocket, RFC 6455 section 4.1.

use super::{Refusal, WsError, close_code};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::net::http::{Response, Upgrade, UpgradeRequest, find_header, tokens};
use crate::net::url::Url;
use crate::net::{NetOptions, Stream, connect};
use crate::thread::CancelToken;
use std::io::Read as _;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

/// Connects and asks for a WebSocket. → the stream, and what was read of it already.
pub(super) fn open(
    url: &Url,
    headers: &[(String, String)],
    options: &NetOptions,
    token: &CancelToken,
    deadline: Deadline,
) -> Result<(Stream, Vec<u8>), WsError> {
    let key = generate_key();
    let request = UpgradeRequest::new(url, "websocket", &asked(headers, &key), &options.user_agent)?;
    let stream = connect(url.scheme(), &url.target, options, token, deadline)?;
    let peer = stream.peer().to_owned();
    match request.send(stream, deadline, limits::WEBSOCKET_REFUSAL, limits::WEBSOCKET_REFUSAL_BYTES_MAX)? {
        Upgrade::Switched { stream, headers: answered, rest } => {
            check(headers, &answered, &key).map_err(|cause| WsError::Protocol { peer, cause, code: close_code::PROTOCOL })?;
            Ok((stream, rest))
        }
        Upgrade::Refused(response) => {
            let refusal = refusal(response);
            token.check()?;
            Err(WsError::Refused(Box::new(refusal)))
        }
    }
}

/// The caller's headers without those that belong to the handshake, and these.
fn asked(headers: &[(String, String)], key: &str) -> Vec<(String, String)> {
    const OURS: [&str; 4] = ["upgrade", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"];
    let is_ours = |name: &str| OURS.iter().any(|own| name.eq_ignore_ascii_case(own));
    let mut asked: Vec<_> = headers.iter().filter(|(name, _)| !is_ours(name)).cloned().collect();
    asked.push(("Sec-WebSocket-Version".to_owned(), "13".to_owned()));
    asked.push(("Sec-WebSocket-Key".to_owned(), key.to_owned()));
    asked
}

/// Whether the answer with status 101 is one to this request.
fn check(asked: &[(String, String)], answered: &[(String, String)], key: &str) -> Result<(), String> {
    let names = |header: &str, word: &str| tokens(answered, header).any(|token| token.eq_ignore_ascii_case(word));
    if !names("upgrade", "websocket") || !names("connection", "upgrade") {
        return Err("switched to something else than a WebSocket".to_owned());
    }
    if find_header(answered, "sec-websocket-accept") != Some(&derive_accept_key(key.as_bytes())) {
        return Err("the answer belongs to another request (a cache or proxy that does not know WebSockets?)".to_owned());
    }
    if tokens(answered, "sec-websocket-extensions").any(|extension| !extension.is_empty()) {
        return Err("the server uses an extension that was not asked for".to_owned());
    }
    match find_header(answered, "sec-websocket-protocol") {
        Some(chosen) if !tokens(asked, "sec-websocket-protocol").any(|protocol| protocol == chosen) => {
            Err("the server uses a subprotocol that was not asked for".to_owned())
        }
        _ => Ok(()),
    }
}

fn refusal(mut response: Response) -> Refusal {
    let mut body = Vec::new();
    // A body that does not end in time, or is too long, says enough with its beginning.
    let _ = (&mut response.body).take(limits::WEBSOCKET_REFUSAL_BYTES_MAX as u64).read_to_end(&mut body);
    Refusal {
        retry_after: crate::net::retry_after(&response.headers, clock::wall_ms()),
        peer: response.peer,
        status: response.status,
        headers: response.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &str) -> Vec<(String, String)> {
        lines.lines().filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn only_the_answer_to_this_request_is_taken() {
        // The example of RFC 6455 section 1.3.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good = "upgrade: WebSocket\nConnection: keep-alive, Upgrade\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        let check = |asked: &str, answered: &str, expect: Option<&str>| {
            let result = check(&headers(asked), &headers(answered), key);
            match expect {
                None => assert_eq!(result, Ok(()), "{answered}"),
                Some(words) => assert!(result.as_ref().is_err_and(|cause| cause.contains(words)), "{answered}: {result:?}"),
            }
        };
        check("", good, None);
        check("", &good.replace("s3p", "S3p"), Some("another request"));
        check("", &good.replace("upgrade: WebSocket\n", ""), Some("something else"));
        check("", &good.replace(", Upgrade", ""), Some("something else"));
        check("", &format!("{good}\nSec-WebSocket-Extensions: permessage-deflate"), Some("extension"));
        check("", &format!("{good}\nSec-WebSocket-Protocol: chat"), Some("subprotocol"));
        check("sec-websocket-protocol: mqtt, chat", &format!("{good}\nSec-WebSocket-Protocol: chat"), None);
        check("sec-websocket-protocol: mqtt", &format!("{good}\nSec-WebSocket-Protocol: chat"), Some("subprotocol"));
        check("sec-websocket-protocol: mqtt", good, None);
    }

    #[test]
    fn the_handshake_owns_its_headers() {
        let asked = asked(&headers("Authorization: t\nSEC-WEBSOCKET-KEY: mine\nupgrade: h2c\nSec-WebSocket-Protocol: a"), "k");
        let expect = headers("Authorization: t\nSec-WebSocket-Protocol: a\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: k");
        assert_eq!(asked, expect);
    }
}
