//! Telegram: the Bot API by long polling.
//!
//! `protocol` knows what an update means, `ledger` what may be confirmed, `pace` how fast may be sent: all pure. `inlet`
//! and `outlet` are the two threads' code around them, `api` the calls.

mod api;
mod download;
mod entities;
#[cfg(fuzzing)]
pub mod fuzz;
mod inlet;
mod ledger;
mod outlet;
mod pace;
mod protocol;
#[cfg(test)]
mod tests;
mod wire;

use super::attachments::Audience;
use super::table::{KeyInfo, PlatformInfo};
use super::{Adapter, AdapterError, Inlet, Outlet, SendLink, Traits};
use crate::clock::Deadline;
use crate::config::keys::KeyKind;
use crate::config::{AdapterConfig, Secret};
use crate::net::{NetOptions, Url};
use crate::thread::CancelToken;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BASE_URL: &str = "https://api.telegram.org";

/// The platform's line in the table.
pub const PLATFORM: PlatformInfo = PlatformInfo {
    name: "telegram",
    keys: &[
        KeyInfo { name: "token", kind: KeyKind::Secret, required: true, default: None, help: "the bot's token, from @BotFather" },
        KeyInfo { name: "base_url", kind: KeyKind::Url, required: false, default: Some(BASE_URL), help: "address of the Bot API server" },
        KeyInfo {
            name: "rate_limit",
            kind: KeyKind::Any,
            required: false,
            default: Some("default"),
            help: "\"default\" keeps to Telegram's limits; \"off\" for a server of one's own",
        },
        KeyInfo {
            name: "poll_timeout",
            kind: KeyKind::Any,
            required: false,
            default: Some("30"),
            help: "how long Telegram holds a poll open, in seconds, 1 to 50",
        },
    ],
    users_help: "numbers, like 77001",
    login: false,
    build,
};

/// What the configuration says.
#[derive(Debug)]
struct Settings {
    token: Secret,
    /// Without a slash at the end.
    base_url: String,
    rate_limit: bool,
    poll_timeout: Duration,
    /// Whose files are downloaded. Whether a message is answered is decided elsewhere.
    audience: Audience,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            token: Secret::new(String::new()),
            base_url: BASE_URL.to_owned(),
            rate_limit: true,
            poll_timeout: Duration::from_secs(30),
            audience: Audience { group_mention: true, ..Audience::default() },
        }
    }
}

/// What outlives a connection and a generation of the threads.
#[derive(Debug, Default)]
struct Memory {
    conflicts: inlet::Conflicts,
    /// The lowest update that was handed over and whose receipt never came: the durable cursor may be beyond it.
    resume_at: Option<u64>,
    commands_set: bool,
}

struct Telegram {
    settings: Arc<Settings>,
    memory: Arc<Mutex<Memory>>,
}

fn build(config: &AdapterConfig) -> Result<Box<dyn Adapter>, String> {
    let settings = Settings::read(config)?;
    Ok(Box::new(Telegram { settings: Arc::new(settings), memory: Arc::default() }))
}

impl Settings {
    fn read(config: &AdapterConfig) -> Result<Self, String> {
        let key = |name: &str| config.keys.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let token = config.secrets.get("token").map(|token| token.expose().trim().to_owned()).unwrap_or_default();
        if token.is_empty() {
            return Err("no `token`: get one from @BotFather and put it into `token_env` or `token_file`".to_owned());
        }
        let fine = |character: char| character.is_ascii_alphanumeric() || matches!(character, ':' | '-' | '_');
        if !token.chars().all(fine) {
            return Err("the `token` is not one of Telegram's: those look like 123456:AAH…, without spaces or quotes".to_owned());
        }
        let base_url = key("base_url").unwrap_or(BASE_URL).trim_end_matches('/').to_owned();
        let scheme_is_fine = ["http://", "https://"].iter().any(|scheme| base_url.starts_with(scheme));
        Url::parse(&base_url).map_err(|error| format!("`base_url`: {error}"))?;
        if !scheme_is_fine || base_url.contains(['?', '#']) {
            return Err(format!("`base_url` must be like {BASE_URL}, without `?` and `#`"));
        }
        let rate_limit = match key("rate_limit").unwrap_or("default") {
            "default" => true,
            "off" => false,
            other => return Err(format!("`rate_limit` is \"{other}\"; it can be \"default\" or \"off\"")),
        };
        let poll = key("poll_timeout").unwrap_or("30");
        let seconds = poll.trim_end_matches('s').parse().ok().filter(|seconds| (1..=50).contains(seconds));
        let seconds = seconds.ok_or_else(|| format!("`poll_timeout` is \"{poll}\"; it can be a number of seconds from 1 to 50"))?;
        Ok(Self {
            token: Secret::new(token),
            base_url,
            rate_limit,
            poll_timeout: Duration::from_secs(seconds),
            audience: Audience::of(config),
        })
    }
}

impl Adapter for Telegram {
    fn traits(&self) -> Traits {
        Traits {
            edits: true,
            typing: true,
            // Bot API, sendChatAction: "5 seconds or less".
            typing_interval: Duration::from_secs(5),
            edit_interval: Duration::from_millis(1200),
            idempotent: false,
            // Two polls, and what may lie between them.
            liveness: 2 * (self.settings.poll_timeout + crate::limits::TELEGRAM_POLL_MARGIN) + crate::limits::TELEGRAM_DOWNLOAD,
            receives: true,
        }
    }

    fn inlet(&self) -> Box<dyn Inlet> {
        Box::new(inlet::TelegramInlet::new(&self.settings, &self.memory))
    }

    fn outlet(&self, link: &SendLink) -> Box<dyn Outlet> {
        Box::new(outlet::TelegramOutlet::new(&self.settings, &link.net, &link.token))
    }

    fn check(&self, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<Option<String>, AdapterError> {
        inlet::check(&self.settings, net, token, deadline).map(Some)
    }
}
