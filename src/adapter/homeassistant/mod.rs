//! Home Assistant: the WebSocket API for what happens, the REST interface for what is said.
//!
//! `wire` is what comes, `protocol` what it means, `ledger` what was said last, `watch` what is listened to: all pure.
//! `inlet` and `outlet` are the two threads' code around them, `api` the calls, `own` keeps the gateway from answering itself.

mod api;
#[cfg(fuzzing)]
pub mod fuzz;
mod inlet;
mod ledger;
mod outlet;
mod own;
mod protocol;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

pub use own::{OWN_CALLS, OwnCalls, UnderWay};

use super::table::{KeyInfo, PlatformInfo};
use super::{Adapter, AdapterError, Inlet, Outlet, SendLink, Traits};
use crate::clock::Deadline;
use crate::config::keys::KeyKind;
use crate::config::{AdapterConfig, Secret, duration};
use crate::limits;
use crate::net::{NetOptions, Url};
use crate::thread::CancelToken;
use protocol::NEWS_SENDER;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use watch::Watch;

pub const NAME: &str = "homeassistant";
const URL: &str = "http://homeassistant.local:8123";
/// The server pings every 55 s itself.
const HEARTBEAT_MAX: Duration = Duration::from_secs(55);

/// The platform's line in the table.
pub const PLATFORM: PlatformInfo = PlatformInfo {
    name: NAME,
    keys: &[
        KeyInfo {
            name: "token",
            kind: KeyKind::Secret,
            required: true,
            default: None,
            help: "a long-lived access token, from your profile in Home Assistant",
        },
        KeyInfo { name: "url", kind: KeyKind::Url, required: false, default: Some(URL), help: "address of Home Assistant" },
        KeyInfo {
            name: "watch",
            kind: KeyKind::Table,
            required: false,
            default: None,
            help: "what is listened to: chat, events, entities, domains, ignore, all, cooldown",
        },
        KeyInfo {
            name: "notify",
            kind: KeyKind::Text,
            required: false,
            default: None,
            help: "a notify service that messages go to, instead of the notifications in the user interface",
        },
        KeyInfo {
            name: "heartbeat",
            kind: KeyKind::Duration,
            required: false,
            default: Some("30s"),
            help: "how often the connection is tried, 1s to 55s",
        },
    ],
    users_help: "ids of users, 32 letters and digits; \"automation\" and \"homeassistant\" for what no user says",
    login: false,
    build,
};

/// What the configuration says.
#[derive(Debug)]
struct Settings {
    /// `[adapters.NAME]`, for remedies.
    section: String,
    token: Secret,
    /// `http` or `https`, without a slash at the end.
    url: String,
    watch: Watch,
    notify: Option<String>,
    heartbeat: Duration,
}

/// What outlives a connection and a generation of the threads.
#[derive(Debug, Default)]
struct Memory {
    unconfirmed: inlet::Unconfirmed,
}

struct HomeAssistant {
    settings: Arc<Settings>,
    memory: Arc<Mutex<Memory>>,
}

fn build(config: &AdapterConfig) -> Result<Box<dyn Adapter>, String> {
    let settings = Settings::read(config)?;
    Ok(Box::new(HomeAssistant { settings: Arc::new(settings), memory: Arc::default() }))
}

/// What others need to call services of the same instance: the address, the token, and the entities that only people may write.
#[must_use]
pub fn access(config: &AdapterConfig) -> Option<(String, Secret, Vec<String>)> {
    let settings = Settings::read(config).ok()?;
    Some((settings.url, settings.token, settings.watch.chat.into_iter().collect()))
}

impl Settings {
    fn read(config: &AdapterConfig) -> Result<Self, String> {
        let key = |name: &str| config.keys.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let token = config.secrets.get("token").map(|token| token.expose().trim().to_owned()).unwrap_or_default();
        if token.is_empty() {
            return Err("no `token`: make a long-lived access token in Home Assistant (your profile, Security) and put it into `token_env` or `token_file`".to_owned());
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("the `token` is not one of Home Assistant's: those are one line of letters, digits, dots and dashes".to_owned());
        }
        let watch = Watch::read(key("watch"))?;
        let admitted = |sender: &str| config.allowed_users.iter().chain(&config.admins).any(|user| user == sender || user == "*");
        if watch.tells() && !admitted(NEWS_SENDER) {
            return Err(format!(
                "`watch` names entities to be told of, but nobody may: add \"{NEWS_SENDER}\" to `allowed_users`, the sender of such messages"
            ));
        }
        Ok(Self {
            section: format!("[adapters.{}]", config.name),
            token: Secret::new(token),
            url: url(key("url").unwrap_or(URL))?,
            watch,
            notify: key("notify").map(notify).transpose()?,
            heartbeat: heartbeat(key("heartbeat").unwrap_or("30s"))?,
        })
    }
}

fn url(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let url = match url.split_once("://") {
        Some(("ws", rest)) => format!("http://{rest}"),
        Some(("wss", rest)) => format!("https://{rest}"),
        _ => url.to_owned(),
    };
    let url = url.strip_suffix("/api/websocket").or_else(|| url.strip_suffix("/api")).unwrap_or(&url).to_owned();
    Url::parse(&url).map_err(|error| format!("`url`: {error}"))?;
    let scheme_is_fine = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    if !scheme_is_fine || url.contains(['?', '#']) {
        return Err(format!("`url` must be like {URL}, without `?` and `#`"));
    }
    Ok(url)
}

fn notify(text: &str) -> Result<String, String> {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    match text.split_once('.') {
        Some(("notify", service)) if word(service) => Ok(text.to_owned()),
        _ => Err(format!("`notify` is \"{text}\"; it takes a service such as \"notify.mobile_app_x\"")),
    }
}

fn heartbeat(text: &str) -> Result<Duration, String> {
    let fine = |heartbeat: &Duration| (Duration::from_secs(1)..=HEARTBEAT_MAX).contains(heartbeat);
    duration::parse(text).ok().filter(fine).ok_or_else(|| format!("`heartbeat` is \"{text}\"; it can be 1s to 55s"))
}

impl Adapter for HomeAssistant {
    fn traits(&self) -> Traits {
        let edits = self.settings.notify.is_none();
        Traits {
            edits,
            typing: false,
            typing_interval: Duration::from_secs(10),
            // Each edit is shown on every open page of the user interface.
            edit_interval: Duration::from_millis(1500),
            idempotent: self.settings.notify.as_deref().is_none_or(outlet::takes_tags),
            // A ping and its pong, what the thread may be busy with between them, and some.
            liveness: 2 * (self.settings.heartbeat + limits::HOMEASSISTANT_PONG)
                + limits::HOMEASSISTANT_RECEIPT
                + limits::HOMEASSISTANT_OWN_WAIT,
            receives: true,
        }
    }

    fn inlet(&self) -> Box<dyn Inlet> {
        Box::new(inlet::HomeAssistantInlet::new(&self.settings, &self.memory))
    }

    fn outlet(&self, link: &SendLink) -> Box<dyn Outlet> {
        Box::new(outlet::HomeAssistantOutlet::new(&self.settings, &link.name, &link.net, &link.token))
    }

    fn check(&self, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<Option<String>, AdapterError> {
        api::Api::new(&self.settings, net, token).check(deadline).map(Some)
    }
}
