//! QQ: the official bot interface (v2), events over a WebSocket, messages over REST.
//!
//! A bot may only reply: each message can be answered five times within an hour (in groups: five minutes). `window` keeps
//! account of that, `waiting` keeps what could not be said until somebody writes again. `frame`, `event` and `failure` know the
//! protocol; all five are pure. `inlet` and `outlet` are the two threads' code around them, `api` the calls.

mod api;
mod download;
mod event;
mod failure;
mod frame;
#[cfg(fuzzing)]
pub mod fuzz;
mod inlet;
mod links;
mod outlet;
mod place;
#[cfg(test)]
mod tests;
mod waiting;
mod window;

use super::attachments::Audience;
use super::bearer::Bearer;
use super::table::{KeyInfo, PlatformInfo};
use super::{Adapter, AdapterError, Inlet, Outlet, SendLink, Traits};
use crate::clock::Deadline;
use crate::config::keys::KeyKind;
use crate::config::{AdapterConfig, Secret};
use crate::limits;
use crate::net::{NetOptions, Url};
use crate::thread::CancelToken;
use frame::Intents;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const BASE_URL: &str = "https://api.sgroup.qq.com";
const TOKEN_URL: &str = "https://bots.qq.com/app/getAppAccessToken";

const fn key(name: &'static str, kind: KeyKind, default: Option<&'static str>, help: &'static str) -> KeyInfo {
    KeyInfo { name, kind, required: false, default, help }
}

/// The platform's line in the table.
pub const PLATFORM: PlatformInfo = PlatformInfo {
    name: "qqbot",
    keys: &[
        KeyInfo { name: "app_id", kind: KeyKind::Text, required: true, default: None, help: "the bot's AppID, a number, from q.qq.com" },
        KeyInfo { name: "client_secret", kind: KeyKind::Secret, required: true, default: None, help: "the bot's AppSecret, from q.qq.com" },
        key("base_url", KeyKind::Url, Some(BASE_URL), "address of the API; the sandbox is https://sandbox.api.sgroup.qq.com"),
        key("token_url", KeyKind::Url, Some(TOKEN_URL), "where access tokens come from"),
        key(
            "intents",
            KeyKind::Any,
            None,
            "kinds of events to ask for: \"chats\", \"guilds\", \"all\" or a number; unset tries all, then less",
        ),
        key("markdown", KeyKind::Any, Some("auto"), "\"auto\" sends Markdown until QQ refuses it, \"off\" never does"),
    ],
    users_help: "openids, 32 letters and digits; the log names those who write and are not allowed",
    login: false,
    build,
};

/// What the configuration says.
#[derive(Debug)]
struct Settings {
    app_id: String,
    client_secret: Secret,
    /// Without a slash at the end.
    base_url: String,
    token_url: String,
    /// `None`: all that are of use, or fewer if the bot may not have them.
    intents: Option<u32>,
    markdown: bool,
    /// Whose files are downloaded. Whether a message is answered is decided elsewhere.
    audience: Audience,
}

/// What outlives a connection and a generation of the threads.
#[derive(Debug, Default)]
struct Memory {
    /// As far as events were processed. `None` until the stored one was looked for.
    session: Option<Option<frame::Session>>,
    /// The stored session is behind.
    unsaved: bool,
    /// The set of intents that is asked for, see [`Intents`].
    intents: Intents,
    /// Connections in a row that the server ended at once.
    short: u32,
    /// Numbers the messages that are handed over.
    receipts: u64,
    gateway: Option<String>,
}

struct QqBot {
    settings: Arc<Settings>,
    memory: Arc<Mutex<Memory>>,
    bearer: Arc<Bearer>,
    /// Markdown was not refused yet.
    markdown: Arc<AtomicBool>,
}

fn build(config: &AdapterConfig) -> Result<Box<dyn Adapter>, String> {
    let settings = Settings::read(config)?;
    let markdown = Arc::new(AtomicBool::new(settings.markdown));
    Ok(Box::new(QqBot { settings: Arc::new(settings), memory: Arc::default(), bearer: Arc::default(), markdown }))
}

impl Settings {
    fn read(config: &AdapterConfig) -> Result<Self, String> {
        let key = |name: &str| config.keys.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let app_id = key("app_id").unwrap_or_default().to_owned();
        if app_id.is_empty() || !app_id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("`app_id` must be the bot's AppID, a number like 102000001: see q.qq.com, 开发设置".to_owned());
        }
        let client_secret = config.secrets.get("client_secret").map(|secret| secret.expose().trim().to_owned()).unwrap_or_default();
        if client_secret.is_empty() || client_secret.contains(char::is_whitespace) {
            return Err("`client_secret` must be the bot's AppSecret, without spaces: see q.qq.com, 开发设置".to_owned());
        }
        let address = |name: &str, usual: &str| {
            let url = key(name).unwrap_or(usual).trim_end_matches('/').to_owned();
            let parsed = Url::parse(&url).map_err(|error| format!("`{name}`: {error}"))?;
            if !parsed.scheme().starts_with("http") || url.contains(['?', '#']) {
                return Err(format!("`{name}` must be like {usual}, without `?` and `#`"));
            }
            Ok(url)
        };
        let intents = match key("intents") {
            None => None,
            Some("chats") => Some(frame::CHATS),
            Some("guilds") => Some(frame::GUILDS),
            Some("all") => Some(frame::CHATS | frame::GUILDS),
            Some(number) => match number.parse() {
                Ok(intents) if intents != 0 => Some(intents),
                _ => return Err(format!("`intents` is \"{number}\"; it can be \"chats\", \"guilds\", \"all\" or a number like 33554432")),
            },
        };
        let markdown = match key("markdown").unwrap_or("auto") {
            "auto" => true,
            "off" => false,
            other => return Err(format!("`markdown` is \"{other}\"; it can be \"auto\" or \"off\"")),
        };
        Ok(Self {
            app_id,
            client_secret: Secret::new(client_secret),
            base_url: address("base_url", BASE_URL)?,
            token_url: address("token_url", TOKEN_URL)?,
            intents,
            markdown,
            audience: Audience::of(config),
        })
    }
}

impl Adapter for QqBot {
    fn traits(&self) -> Traits {
        Traits {
            edits: false,
            typing: true,
            // As long as `input_second` says; asked for once a message.
            typing_interval: Duration::from_secs(60),
            edit_interval: Duration::ZERO,
            // QQ refuses the second message with the same `msg_id` and `msg_seq`.
            idempotent: true,
            liveness: limits::QQBOT_LIVENESS,
            receives: true,
        }
    }

    fn inlet(&self) -> Box<dyn Inlet> {
        Box::new(inlet::QqInlet::new(&self.settings, &self.memory, &self.bearer))
    }

    fn outlet(&self, link: &SendLink) -> Box<dyn Outlet> {
        Box::new(outlet::QqOutlet::new(&self.settings, &self.bearer, &self.markdown, link))
    }

    fn check(&self, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<Option<String>, AdapterError> {
        inlet::check(&self.settings, net, token, deadline).map(Some)
    }
}
