//! The questions that go over the network: does the provider accept its key, does each platform accept its credential.

use super::{Finding, Tell};
use crate::adapter::{AdapterError, table};
use crate::clock::{self, Deadline};
use crate::config::{Config, ProviderConfig, ProviderKind};
use crate::net::NetOptions;
use crate::provider::{Verdict, check_key};
use crate::thread::CancelToken;
use std::time::Duration;

/// One answer of a server, connecting included.
const ANSWER: Duration = Duration::from_secs(15);

fn net(config: &Config) -> NetOptions {
    NetOptions { tls_ca_file: config.ca_file.clone(), user_agent: format!("hermes-gateway/{}", env!("CARGO_PKG_VERSION")) }
}

pub(super) fn providers(config: &Config, tell: &mut Tell<'_>) {
    for (index, provider) in config.providers.iter().enumerate() {
        let about = if index == 0 { "provider" } else { "fallback" };
        tell(provider_finding(about, provider, &net(config)));
    }
}

fn provider_finding(about: &str, provider: &ProviderConfig, net: &NetOptions) -> Finding {
    let kind = match provider.kind {
        ProviderKind::Anthropic => "anthropic",
        ProviderKind::OpenAi => "openai",
        ProviderKind::Offline => "offline",
    };
    let name = format!("{kind} {}", provider.model);
    let started = clock::now();
    let verdict = check_key(provider, net, &CancelToken::new(), Deadline::after(ANSWER));
    let took = started.elapsed().as_millis();
    let key = "put a valid key where `api_key` says (api_key_env, api_key_file)";
    match verdict {
        Ok(Verdict::NoKeyNeeded) => Finding::fine(about, "offline: the built-in model, no account needed"),
        Ok(Verdict::Accepted) if provider.api_key.is_none() => Finding::fine(about, format!("{name}: answers without a key ({took} ms)")),
        Ok(Verdict::Accepted) => Finding::fine(about, format!("{name}: key accepted ({took} ms)")),
        Ok(Verdict::Rejected(status)) => Finding::error(about, format!("{name}: key rejected (HTTP {status})"), key),
        Ok(Verdict::NoList(status)) => {
            Finding::fine(about, format!("{name}: answers ({took} ms), but has no list of models to try the key with (HTTP {status})"))
        }
        Ok(Verdict::Trouble(status)) => {
            Finding::warning(about, format!("{name}: answers with HTTP {status}"), "try again later; the gateway does so by itself")
        }
        Err(error) => Finding::error(
            about,
            format!("{name}: {error}"),
            format!("check the network, a proxy, and base_url = \"{}\"", provider.base_url),
        ),
    }
}

pub(super) fn adapters(config: &Config, tell: &mut Tell<'_>) {
    for entry in config.adapters.iter().filter(|entry| entry.enabled) {
        let about = entry.name.as_str();
        let adapter = match table::build(entry) {
            Ok(adapter) => adapter,
            Err(cause) => {
                tell(Finding::error(about, cause, "correct it in the configuration"));
                continue;
            }
        };
        let started = clock::now();
        let result = adapter.check(&net(config), &CancelToken::new(), Deadline::after(ANSWER));
        let took = started.elapsed().as_millis();
        tell(match result {
            Ok(Some(identity)) => Finding::fine(about, format!("{identity}: credential accepted ({took} ms)")),
            Ok(None) => Finding::fine(about, "configured; it shows when it connects: hermes-gateway status"),
            Err(AdapterError::Fatal { cause, remedy }) => Finding::error(about, cause, remedy),
            Err(AdapterError::Retry { cause, .. }) => {
                Finding::warning(about, cause, "check the network and a proxy; the gateway tries again by itself")
            }
            Err(AdapterError::Cancelled) => Finding::warning(about, "cancelled", "try again"),
        });
    }
    if config.adapters.iter().all(|entry| !entry.enabled) {
        tell(Finding::fine("adapters", "none: only chats of this terminal (hermes-gateway chat)"));
    }
}
