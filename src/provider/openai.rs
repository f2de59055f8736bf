//! Chat Completions of OpenAI, and of the many servers that speak it too.
//!
//! Runs on a turn thread. The protocol is in `request` and `decoder`; here are the address, the key, the call, and
//! what was learnt of the server's dialect.

mod decoder;
mod request;

use super::exchange::{Ask, Failed, encode, exchange};
use super::failure::Failure;
use super::{Call, Delta, ModelReply, ModelRequest, Provider, ProviderError};
use crate::config::Secret;
use crate::net::Client;
use crate::thread::CancelToken;
use decoder::ChatDecoder;
use request::Dialect;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where Chat Completions is unless configured otherwise.
pub(super) const BASE_URL: &str = "https://api.openai.com/v1";
/// Only this host is known to want `max_completion_tokens`.
const VENDOR_HOST: &str = "//api.openai.com";

/// A model behind Chat Completions.
pub struct OpenAi {
    model: String,
    max_tokens: u32,
    url: String,
    key: Option<Secret>,
    /// Made with the first call; keeps connections between the rounds of a turn.
    client: OnceLock<Client>,
    completion_tokens: AtomicBool,
    stream_options: AtomicBool,
    /// Each part of the dialect is changed once at most: a server that refuses both ways gets an error, not a loop.
    tokens_changed: AtomicBool,
}

impl OpenAi {
    /// `base_url` includes `/v1`; empty means the vendor's own. Local servers do without a key.
    #[must_use]
    pub fn new(model: &str, max_tokens: u32, base_url: &str, key: Option<Secret>) -> Self {
        let base = if base_url.trim().is_empty() { BASE_URL } else { base_url.trim() };
        // The vendor's address without its version is a common slip, and can mean nothing else.
        let base = Some(base.trim_end_matches('/')).filter(|base| !base.ends_with(VENDOR_HOST)).unwrap_or(BASE_URL);
        Self {
            model: model.to_owned(),
            max_tokens,
            url: format!("{base}/chat/completions"),
            key,
            client: OnceLock::new(),
            completion_tokens: AtomicBool::new(base.contains(VENDOR_HOST)),
            stream_options: AtomicBool::new(true),
            tokens_changed: AtomicBool::new(false),
        }
    }

    /// Address and headers for the list of models.
    pub(super) fn models(&self) -> (String, Vec<(String, String)>) {
        let base = self.url.strip_suffix("/chat/completions").unwrap_or(&self.url);
        let headers = self.headers().into_iter().filter(|(name, _)| name != "accept").collect();
        (format!("{base}/models"), headers)
    }

    fn headers(&self) -> Vec<(String, String)> {
        let mut headers = vec![("accept".to_owned(), "text/event-stream".to_owned())];
        if let Some(key) = self.key.as_ref().map(Secret::expose).filter(|key| !key.is_empty()) {
            headers.push(("authorization".to_owned(), format!("Bearer {key}")));
        }
        headers
    }

    fn dialect(&self) -> Dialect {
        Dialect {
            completion_tokens: self.completion_tokens.load(Ordering::Relaxed),
            stream_options: self.stream_options.load(Ordering::Relaxed),
        }
    }

    /// Changes the dialect if that is what the server refused. → whether to ask again.
    fn learn(&self, spoken: Dialect, refusal: &Failure) -> bool {
        if spoken.stream_options && is_about(refusal, "stream_options") {
            log::info!(target: "provider", "{} does not take stream_options; its usage figures will be missing", self.model);
            self.stream_options.store(false, Ordering::Relaxed);
            return true;
        }
        let sent = if spoken.completion_tokens { "max_completion_tokens" } else { "max_tokens" };
        if !is_about(refusal, sent) {
            return false;
        }
        if self.dialect().completion_tokens != spoken.completion_tokens {
            // Another turn has learnt it in the meantime.
            return true;
        }
        if self.tokens_changed.swap(true, Ordering::Relaxed) {
            return false;
        }
        log::info!(target: "provider", "{} does not take {sent}; using the other name for it from now on", self.model);
        self.completion_tokens.store(!spoken.completion_tokens, Ordering::Relaxed);
        true
    }
}

/// Whether a refusal is about a parameter being there at all. Not about its value: "max_tokens is too large".
fn is_about(refusal: &Failure, parameter: &str) -> bool {
    if !matches!(refusal.status, Some(400 | 422)) {
        return false;
    }
    let message = refusal.message.to_lowercase();
    // "max_tokens" is no part of "max_completion_tokens", so a plain search tells the two apart.
    let named = refusal.param == parameter || message.contains(parameter);
    let unsupported = ["unsupported_parameter", "unknown_parameter", "unrecognized_request_argument"].contains(&refusal.code.as_str());
    let words = [
        "unsupported",
        "not supported",
        "not permitted",
        "unrecognized",
        "unknown",
        "unexpected",
        "extra input",
        "extra_forbidden",
        "extra fields",
    ];
    named && (unsupported || words.iter().any(|word| message.contains(word)))
}

impl Provider for OpenAi {
    fn kind(&self) -> &'static str {
        "openai"
    }

    fn model(&self) -> &str {
        &self.model
    }

    fn ask(&self, request: &ModelRequest<'_>, call: &Call<'_>, on: &mut dyn FnMut(Delta<'_>)) -> Result<ModelReply, ProviderError> {
        // Each request is under its call's own token; the client's is never cancelled.
        let client = self.client.get_or_init(|| Client::new(call.net, &CancelToken::new()));
        loop {
            let dialect = self.dialect();
            let body = encode(&request::body(&self.model, self.max_tokens, dialect, request))?;
            let ask = Ask { url: self.url.clone(), headers: self.headers(), body, key: self.key.as_ref(), model: &self.model };
            match exchange(client, ask, call, ChatDecoder::new(), on) {
                Err(Failed { refusal: Some(refusal), .. }) if self.learn(dialect, &refusal) => {}
                Err(Failed { error, .. }) => return Err(error),
                Ok(reply) => return Ok(reply),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_and_the_key() {
        let check = |base: &str, key: Option<&str>, url: &str, headers: &[(&str, &str)], completion_tokens: bool| {
            let provider = OpenAi::new("m", 1, base, key.map(|key| Secret::new(key.to_owned())));
            assert_eq!((provider.url.as_str(), provider.dialect().completion_tokens), (url, completion_tokens));
            let found = provider.headers();
            let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).skip(1).collect();
            assert_eq!(found, headers);
        };
        check("", Some("sk-x"), "https://api.openai.com/v1/chat/completions", &[("authorization", "Bearer sk-x")], true);
        check("https://api.openai.com/", None, "https://api.openai.com/v1/chat/completions", &[], true);
        check("http://127.0.0.1:11434/v1/", None, "http://127.0.0.1:11434/v1/chat/completions", &[], false);
        check("http://127.0.0.1:1/v1", Some(""), "http://127.0.0.1:1/v1/chat/completions", &[], false);
    }

    #[test]
    fn the_dialect_is_learnt_once() {
        let refusal = |code: &str, param: &str, message: &str| Failure {
            status: Some(400),
            code: code.to_owned(),
            param: param.to_owned(),
            message: message.to_owned(),
            ..Failure::default()
        };
        let unsupported = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
        let provider = OpenAi::new("m", 1, "http://127.0.0.1:1/v1", None);
        let first = provider.dialect();
        assert_eq!(first, Dialect { completion_tokens: false, stream_options: true });
        // About its value, about something else, or not about the request at all: nothing to learn.
        assert!(!provider.learn(first, &refusal("invalid_value", "max_tokens", "max_tokens is too large: 99999")));
        assert!(!provider.learn(first, &refusal("unsupported_parameter", "temperature", "Unsupported parameter: 'temperature'")));
        assert!(!provider.learn(first, &Failure { status: Some(500), ..refusal("unsupported_parameter", "max_tokens", unsupported) }));
        assert_eq!(provider.dialect(), first);
        assert!(provider.learn(first, &refusal("unsupported_parameter", "max_tokens", unsupported)));
        assert_eq!(provider.dialect(), Dialect { completion_tokens: true, stream_options: true });
        // A second turn that was refused with the old dialect just asks again.
        assert!(provider.learn(first, &refusal("unsupported_parameter", "max_tokens", unsupported)));
        // Refused both ways: an error, not a loop.
        let second = provider.dialect();
        assert!(
            !provider
                .learn(second, &refusal("unsupported_parameter", "max_completion_tokens", "Unsupported parameter: max_completion_tokens"))
        );
        assert!(provider.learn(second, &refusal("", "", "stream_options: Extra inputs are not permitted")));
        assert_eq!(provider.dialect(), Dialect { completion_tokens: true, stream_options: false });
        assert!(!provider.learn(provider.dialect(), &refusal("", "", "stream_options: Extra inputs are not permitted")));
    }
}
