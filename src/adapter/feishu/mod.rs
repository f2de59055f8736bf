//! Feishu and Lark: events over the long connection (WebSocket, protobuf frames), answers over REST.
//!
//! `frame`, `slices`, `protocol`, `content`, `classes`, `render` and `pace` are pure; `connect` finds the way in, `inlet` and
//! `outlet` are the two threads' code, `mark` the reaction that stands for "typing", `api` the calls.

mod api;
mod classes;
mod connect;
mod content;
mod download;
pub mod frame;
#[cfg(fuzzing)]
pub mod fuzz;
mod inlet;
mod mark;
mod outlet;
mod pace;
mod protocol;
mod render;
pub mod slices;
mod wire;

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
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const FEISHU: &str = "https://open.feishu.cn";
const LARK: &str = "https://open.larksuite.com";
const MARK: &str = "Typing";

const fn key(name: &'static str, kind: KeyKind, default: Option<&'static str>, help: &'static str) -> KeyInfo {
    KeyInfo { name, kind, required: default.is_none(), default, help }
}

/// The platform's line in the table.
pub const PLATFORM: PlatformInfo = PlatformInfo {
    name: "feishu",
    keys: &[
        key("app_id", KeyKind::Text, None, "the app's id, cli_…, from the open platform console"),
        key("app_secret", KeyKind::Secret, None, "the app's secret, from the same page"),
        key("domain", KeyKind::Text, Some("feishu"), "\"feishu\" (China), \"lark\" (elsewhere), or the address of a server"),
        key("style", KeyKind::Text, Some("rich"), "\"rich\": posts and cards; \"text\": nothing but text"),
        key("working_mark", KeyKind::Text, Some(MARK), "reaction on the message that is being answered (Typing, OnIt, …), or \"off\""),
    ],
    users_help: "open ids, like ou_84aad35d…; the log names those of strangers who write",
    login: false,
    build,
};

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Rich,
    Text,
}

/// What the configuration says.
#[derive(Debug)]
struct Settings {
    app_id: String,
    app_secret: Secret,
    /// Without a slash at the end; in front of every path.
    domain: String,
    style: Style,
    working_mark: Option<String>,
    /// Whose files are downloaded. Whether a message is answered is decided elsewhere.
    audience: Audience,
}

/// What outlives a connection and a generation of the threads.
#[derive(Debug, Default)]
struct Memory {
    me: Option<content::Me>,
    /// Messages that are committed, the latest last.
    recent: VecDeque<String>,
    receipts: u64,
}

impl Memory {
    fn is_recent(&self, message_id: &str) -> bool {
        self.recent.iter().any(|known| known == message_id)
    }

    fn taken(&mut self, message_id: String) {
        if self.recent.len() >= limits::FEISHU_RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(message_id);
    }

    fn next_receipt(&mut self) -> u64 {
        self.receipts += 1;
        self.receipts
    }
}

struct Feishu {
    settings: Arc<Settings>,
    bearer: Arc<Bearer>,
    memory: Arc<Mutex<Memory>>,
}

fn build(config: &AdapterConfig) -> Result<Box<dyn Adapter>, String> {
    let settings = Settings::read(config)?;
    Ok(Box::new(Feishu { settings: Arc::new(settings), bearer: Arc::default(), memory: Arc::default() }))
}

impl Settings {
    fn read(config: &AdapterConfig) -> Result<Self, String> {
        let key = |name: &str| config.keys.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let plain = |text: &str| text.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | '-'));
        let console = "open platform console → Credentials & Basic Info";
        let Some(app_id) = key("app_id") else { return Err(format!("no `app_id`: it is cli_… in the {console}")) };
        if !plain(app_id) {
            return Err(format!("`app_id` is not one of Feishu's: those look like cli_a1b2c3, see the {console}"));
        }
        let app_secret = config.secrets.get("app_secret").map(|secret| secret.expose().trim().to_owned()).unwrap_or_default();
        if app_secret.is_empty() {
            return Err(format!("no `app_secret`: copy it from the {console} into `app_secret_env` or `app_secret_file`"));
        }
        let domain = match key("domain").unwrap_or("feishu") {
            "feishu" => FEISHU.to_owned(),
            "lark" => LARK.to_owned(),
            address => {
                let known = ["http://", "https://"].iter().any(|scheme| address.starts_with(scheme));
                if !known || address.contains(['?', '#']) {
                    return Err(format!("`domain` is \"{address}\"; it can be \"feishu\", \"lark\" or an address like {FEISHU}"));
                }
                Url::parse(address).map_err(|error| format!("`domain`: {error}"))?;
                address.trim_end_matches('/').to_owned()
            }
        };
        let style = match key("style").unwrap_or("rich") {
            "rich" => Style::Rich,
            "text" => Style::Text,
            other => return Err(format!("`style` is \"{other}\"; it can be \"rich\" or \"text\"")),
        };
        let mark = key("working_mark").unwrap_or(MARK);
        if !plain(mark) {
            return Err(format!("`working_mark` is \"{mark}\"; it can be the name of a reaction, like {MARK}, or \"off\""));
        }
        Ok(Self {
            app_id: app_id.to_owned(),
            app_secret: Secret::new(app_secret),
            domain,
            style,
            working_mark: Some(mark.to_owned()).filter(|mark| mark != "off"),
            audience: Audience::of(config),
        })
    }
}

impl Adapter for Feishu {
    fn traits(&self) -> Traits {
        Traits {
            edits: true,
            typing: true,
            // The mark stays until it is taken away; this only repeats what failed.
            typing_interval: Duration::from_secs(60),
            // Feishu takes five edits a second of one card; a reader is served well with one.
            edit_interval: Duration::from_secs(1),
            idempotent: true,
            // The longest heartbeat that a server may ask for, and what may lie between two looks at it.
            liveness: 3 * limits::FEISHU_PING_MAX + limits::FEISHU_DOWNLOAD,
            receives: true,
        }
    }

    fn inlet(&self) -> Box<dyn Inlet> {
        Box::new(inlet::FeishuInlet::new(&self.settings, &self.bearer, &self.memory))
    }

    fn outlet(&self, link: &SendLink) -> Box<dyn Outlet> {
        Box::new(outlet::FeishuOutlet::new(&self.settings, &self.bearer, link))
    }

    fn check(&self, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<Option<String>, AdapterError> {
        inlet::check(&self.settings, &self.bearer, net, token, deadline).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: &[(&str, &str)], secret: &str) -> AdapterConfig {
        AdapterConfig {
            name: "work".to_owned(),
            platform: "feishu".to_owned(),
            enabled: true,
            allowed_users: vec!["ou_ana".to_owned()],
            allowed_chats: vec![],
            admins: vec!["ou_ben".to_owned()],
            group_mention: true,
            streaming: true,
            keys: keys.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            secrets: [("app_secret".to_owned(), Secret::new(secret.to_owned()))].into_iter().collect(),
        }
    }

    #[test]
    fn settings_are_read_and_checked() {
        let read = |keys: &[(&str, &str)]| Settings::read(&config(&[&[("app_id", "cli_1")], keys].concat(), "s"));
        let usual = read(&[]).expect("settings");
        assert_eq!((usual.domain.as_str(), usual.style, usual.working_mark.as_deref()), (FEISHU, Style::Rich, Some(MARK)));
        assert_eq!(usual.audience.senders, ["ou_ana", "ou_ben"]);
        assert_eq!(read(&[("domain", "lark")]).expect("settings").domain, LARK);
        assert_eq!(read(&[("domain", "http://127.0.0.1:9/")]).expect("settings").domain, "http://127.0.0.1:9");
        assert_eq!(read(&[("working_mark", "off")]).expect("settings").working_mark, None);
        for keys in [("domain", "larksuite"), ("domain", "ftp://x"), ("domain", "https://x/?a"), ("style", "html"), ("working_mark", "a b")]
        {
            assert!(read(&[keys]).is_err(), "{keys:?}");
        }
        assert!(Settings::read(&config(&[("app_id", "cli 1")], "s")).is_err());
        assert!(Settings::read(&config(&[("app_id", "cli_1")], " ")).is_err());
        assert!(Settings::read(&config(&[], "s")).is_err());
        let shown = format!("{:?}", Settings::read(&config(&[("app_id", "cli_1")], "s3cr3t")).expect("settings"));
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }

    #[test]
    fn only_the_latest_messages_are_kept_in_mind() {
        let mut memory = Memory::default();
        for number in 0..3 * limits::FEISHU_RECENT_MAX {
            memory.taken(number.to_string());
        }
        assert_eq!(memory.recent.len(), limits::FEISHU_RECENT_MAX);
        assert!(memory.is_recent(&(3 * limits::FEISHU_RECENT_MAX - 1).to_string()) && !memory.is_recent("0"));
        assert_eq!((memory.next_receipt(), memory.next_receipt()), (1, 2));
    }
}
