//! The Messages API of Anthropic.
//!
//! Runs on a turn thread. The protocol is in `request` and `decoder`; here are the address, the key and the call.

mod decoder;
mod request;

use super::exchange::{Ask, encode, exchange};
use super::{Call, Delta, ModelReply, ModelRequest, Provider, ProviderError};
use crate::config::Secret;
use crate::net::Client;
use crate::thread::CancelToken;
use decoder::MessagesDecoder;
use std::sync::OnceLock;

/// Where the Messages API is unless configured otherwise.
pub(super) const BASE_URL: &str = "https://api.anthropic.com";
/// The one version of the protocol there is; the header is mandatory.
const VERSION: &str = "2023-06-01";
/// Keys that begin so are OAuth tokens: they go into `Authorization`, and the interface asks for a beta flag with them.
const OAUTH_PREFIX: &str = "sk-ant-oat";
const OAUTH_BETA: &str = "oauth-2025-04-20";

/// A model behind the Messages API.
pub struct Anthropic {
    model: String,
    max_tokens: u32,
    url: String,
    key: Option<Secret>,
    /// Made with the first call; keeps connections between the rounds of a turn.
    client: OnceLock<Client>,
}

impl Anthropic {
    /// `base_url` without `/v1/messages`; empty means the vendor's own. A proxy may do without a key.
    #[must_use]
    pub fn new(model: &str, max_tokens: u32, base_url: &str, key: Option<Secret>) -> Self {
        let base = if base_url.trim().is_empty() { BASE_URL } else { base_url.trim() };
        let base = base.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        Self { model: model.to_owned(), max_tokens, url: format!("{base}/v1/messages"), key, client: OnceLock::new() }
    }

    /// Address and headers for the list of models.
    pub(super) fn models(&self) -> (String, Vec<(String, String)>) {
        let base = self.url.strip_suffix("/messages").unwrap_or(&self.url);
        let headers = self.headers().into_iter().filter(|(name, _)| name != "accept").collect();
        (format!("{base}/models"), headers)
    }

    fn headers(&self) -> Vec<(String, String)> {
        let mut headers = vec![("anthropic-version".to_owned(), VERSION.to_owned()), ("accept".to_owned(), "text/event-stream".to_owned())];
        match self.key.as_ref().map(Secret::expose) {
            Some(token) if token.starts_with(OAUTH_PREFIX) => {
                headers.push(("authorization".to_owned(), format!("Bearer {token}")));
                headers.push(("anthropic-beta".to_owned(), OAUTH_BETA.to_owned()));
            }
            Some(key) => headers.push(("x-api-key".to_owned(), key.to_owned())),
            None => {}
        }
        headers
    }
}

impl Provider for Anthropic {
    fn kind(&self) -> &'static str {
        "anthropic"
    }

    fn model(&self) -> &str {
        &self.model
    }

    fn ask(&self, request: &ModelRequest<'_>, call: &Call<'_>, on: &mut dyn FnMut(Delta<'_>)) -> Result<ModelReply, ProviderError> {
        // Each request is under its call's own token; the client's is never cancelled.
        let client = self.client.get_or_init(|| Client::new(call.net, &CancelToken::new()));
        let body = encode(&request::body(&self.model, self.max_tokens, request))?;
        let ask = Ask { url: self.url.clone(), headers: self.headers(), body, key: self.key.as_ref(), model: &self.model };
        exchange(client, ask, call, MessagesDecoder::new(), on).map_err(|failed| failed.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_and_the_key() {
        let check = |base: &str, key: Option<&str>, url: &str, headers: &[(&str, &str)]| {
            let provider = Anthropic::new("m", 1, base, key.map(|key| Secret::new(key.to_owned())));
            assert_eq!(provider.url, url);
            let found = provider.headers();
            let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).skip(2).collect();
            assert_eq!(found, headers);
        };
        check("", None, "https://api.anthropic.com/v1/messages", &[]);
        check("http://127.0.0.1:8080/", Some("sk-ant-api03-x"), "http://127.0.0.1:8080/v1/messages", &[("x-api-key", "sk-ant-api03-x")]);
        check(
            "https://proxy/anthropic/v1",
            Some("sk-ant-oat01-x"),
            "https://proxy/anthropic/v1/messages",
            &[("authorization", "Bearer sk-ant-oat01-x"), ("anthropic-beta", "oauth-2025-04-20")],
        );
    }
}
