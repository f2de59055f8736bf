//! WeCom: an AI bot over its long connection, a WebSocket.
//!
//! `protocol` knows what frames mean, `streams` what becomes of a reply, `flights` what is under way, `unconfirmed` what is not
//! stored yet, `pace` how fast may be sent: all pure. `inlet` and `outlet` are the two threads' code around them; the outlet
//! sends through the inlet's connection ([`Relay`]).

mod download;
mod flights;
#[cfg(fuzzing)]
pub mod fuzz;
mod inlet;
mod outlet;
mod pace;
mod protocol;
mod streams;
#[cfg(test)]
mod tests;
mod unconfirmed;
mod wire;

use super::attachments::Audience;
use super::relay::Relay;
use super::table::{KeyInfo, PlatformInfo};
use super::{Adapter, AdapterError, Inlet, Outlet, SendLink, Traits};
use crate::clock::Deadline;
use crate::config::keys::KeyKind;
use crate::config::{AdapterConfig, Secret, duration};
use crate::limits;
use crate::net::{NetOptions, Url};
use crate::thread::CancelToken;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

const URL: &str = "wss://openws.work.weixin.qq.com";

/// The platform's line in the table.
pub const PLATFORM: PlatformInfo = PlatformInfo {
    name: "wecom",
    keys: &[
        KeyInfo { name: "bot_id", kind: KeyKind::Text, required: true, default: None, help: "the AI bot's id, from WeCom's admin console" },
        KeyInfo { name: "secret", kind: KeyKind::Secret, required: true, default: None, help: "the bot's secret for long connections" },
        KeyInfo { name: "url", kind: KeyKind::Url, required: false, default: Some(URL), help: "address of the long connection" },
        KeyInfo {
            name: "heartbeat",
            kind: KeyKind::Duration,
            required: false,
            default: Some("30s"),
            help: "how often the connection is tested, 1s to 60s",
        },
        KeyInfo {
            name: "welcome",
            kind: KeyKind::Text,
            required: false,
            default: None,
            help: "said to an allowed user who opens the chat",
        },
    ],
    users_help: "the ids of members in WeCom's contacts, like zhangsan; the log names those who are not allowed",
    login: false,
    build,
};

/// From the outlet to the inlet and back.
type Line = Relay<inlet::Request, protocol::Ack>;

/// What the configuration says.
#[derive(Debug)]
struct Settings {
    bot_id: String,
    secret: Secret,
    url: String,
    /// The server's name: files may come from there, too.
    host: String,
    heartbeat: Duration,
    welcome: Option<String>,
    /// Whose files are downloaded. Whether a message is answered is decided elsewhere.
    audience: Audience,
}

struct Wecom {
    settings: Arc<Settings>,
    line: Arc<Line>,
    refusals: Arc<AtomicU32>,
}

fn build(config: &AdapterConfig) -> Result<Box<dyn Adapter>, String> {
    let settings = Settings::read(config)?;
    let line = Relay::new().map_err(|error| format!("the system has no descriptor left: {error}"))?;
    Ok(Box::new(Wecom { settings: Arc::new(settings), line, refusals: Arc::default() }))
}

impl Settings {
    fn read(config: &AdapterConfig) -> Result<Self, String> {
        let key = |name: &str| config.keys.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let bot_id = key("bot_id").ok_or("no `bot_id`: it stands beside the secret in WeCom's admin console")?.to_owned();
        let secret = config.secrets.get("secret").map(|secret| secret.expose().trim().to_owned()).unwrap_or_default();
        if secret.is_empty() {
            return Err("no `secret`: copy it from WeCom's admin console and put it into `secret_env` or `secret_file`".to_owned());
        }
        let url = key("url").unwrap_or(URL).to_owned();
        let parsed = Url::parse(&url).map_err(|error| format!("`url`: {error}"))?;
        let written = key("heartbeat").unwrap_or("30s");
        let heartbeat = duration::parse(written).map_err(|error| format!("`heartbeat`: {error}"))?;
        if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&heartbeat) {
            return Err(format!("`heartbeat` is \"{written}\"; it can be 1s to 60s"));
        }
        Ok(Self {
            bot_id,
            secret: Secret::new(secret),
            url,
            host: parsed.target.host,
            heartbeat,
            welcome: key("welcome").map(str::to_owned),
            audience: Audience::of(config),
        })
    }

    fn knows(&self, sender: &str) -> bool {
        self.audience.senders.iter().any(|entry| entry == "*" || entry == sender)
    }
}

impl Adapter for Wecom {
    fn traits(&self) -> Traits {
        Traits {
            edits: true,
            // A placeholder, which is looked after at this interval.
            typing: true,
            typing_interval: Duration::from_secs(5),
            edit_interval: Duration::from_secs(1),
            idempotent: false,
            // The heartbeat notices within three intervals; downloads and a slow send may come in between.
            liveness: 4 * self.settings.heartbeat + limits::WECOM_DOWNLOAD + limits::WECOM_SEND,
            receives: true,
        }
    }

    fn inlet(&self) -> Box<dyn Inlet> {
        Box::new(inlet::WecomInlet::new(&self.settings, &self.line, &self.refusals))
    }

    fn outlet(&self, link: &SendLink) -> Box<dyn Outlet> {
        Box::new(outlet::WecomOutlet::new(&self.line, link))
    }

    fn sends_through_inlet(&self) -> bool {
        true
    }

    fn check(&self, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<Option<String>, AdapterError> {
        inlet::check(&self.settings, net, token, deadline).map(|()| None)
    }
}
