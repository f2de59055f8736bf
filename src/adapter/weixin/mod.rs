//! Weixin (personal WeChat): a bot of one's own account, by the iLink interface and long polling.
//!
//! `protocol` and `wire` know what a message means, `account` what a login has brought: all pure. `inlet` and `outlet` are
//! the two threads' code around them, `api` the calls, `download` the encrypted files, `login` the code that is scanned.

pub mod account;
mod api;
mod download;
#[cfg(fuzzing)]
pub mod fuzz;
mod inlet;
pub mod login;
mod outlet;
mod protocol;
#[cfg(test)]
mod tests;
mod wire;

use super::attachments::Audience;
use super::table::{KeyInfo, PlatformInfo};
use super::{Adapter, AdapterError, Inlet, Outlet, SendLink, Traits};
use crate::clock::{self, Deadline};
use crate::config::keys::KeyKind;
use crate::config::{AdapterConfig, Secret};
use crate::limits;
use crate::net::{NetOptions, Url};
use crate::thread::CancelToken;
use account::Account;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Of the interface, unless a login names another.
pub const BASE_URL: &str = "https://ilinkai.weixin.qq.com";
const CDN_URL: &str = "https://novac2c.cdn.weixin.qq.com/c2c";

const fn optional(name: &'static str, kind: KeyKind, default: Option<&'static str>, help: &'static str) -> KeyInfo {
    KeyInfo { name, kind, required: false, default, help }
}

/// The platform's line in the table.
pub const PLATFORM: PlatformInfo = PlatformInfo {
    name: "weixin",
    keys: &[
        KeyInfo {
            name: "token",
            kind: KeyKind::Secret,
            required: true,
            default: None,
            help: "what `hermes-gateway login weixin` has written, as `token_file`",
        },
        // Without a default, so that the address that came with the login is used.
        optional("base_url", KeyKind::Url, None, "address of the interface, if not the one that came with the login"),
        optional("cdn_url", KeyKind::Url, Some(CDN_URL), "where pictures and files are fetched"),
        optional("poll_timeout", KeyKind::Any, Some("35"), "how long a poll is held open until WeChat says so, in seconds, 1 to 60"),
    ],
    users_help: "like o9cq8…@im.wechat; the login tells yours",
    login: true,
    build,
};

/// What the configuration says.
#[derive(Debug)]
struct Settings {
    name: String,
    account: Account,
    /// Without a slash at the end.
    base_url: String,
    cdn_url: String,
    poll_timeout: Duration,
    /// Whose files are downloaded. Whether a message is answered is decided elsewhere.
    audience: Audience,
}

impl Settings {
    fn read(config: &AdapterConfig) -> Result<Self, String> {
        let key = |name: &str| config.keys.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let secret = config.secrets.get("token").map_or("", Secret::expose);
        let account = Account::read(secret).map_err(|cause| format!("`token`: {cause}; {}", login_command(&config.name)))?;
        let base_url = key("base_url").or(account.base_url.as_deref()).unwrap_or(BASE_URL);
        let poll = key("poll_timeout").unwrap_or("35");
        let seconds = poll.trim_end_matches('s').parse().ok().filter(|seconds| (1..=60).contains(seconds));
        let seconds = seconds.ok_or_else(|| format!("`poll_timeout` is \"{poll}\"; it can be a number of seconds from 1 to 60"))?;
        Ok(Self {
            name: config.name.clone(),
            base_url: address("base_url", base_url)?,
            cdn_url: address("cdn_url", key("cdn_url").unwrap_or(CDN_URL))?,
            poll_timeout: Duration::from_secs(seconds),
            audience: Audience::of(config),
            account,
        })
    }

    /// A user whom the bot may ask about: whoever logged in, or one that is allowed.
    fn someone(&self) -> &str {
        let listed = || self.audience.senders.iter().map(String::as_str).find(|sender| *sender != "*");
        self.account.user_id.as_deref().or_else(listed).unwrap_or_default()
    }

    fn identity(&self) -> &str {
        self.account.bot_id.as_deref().unwrap_or("a bot of WeChat")
    }
}

fn address(key: &str, text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let scheme_is_fine = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    Url::parse(text).map_err(|error| format!("`{key}`: {error}"))?;
    if !scheme_is_fine || text.contains(['?', '#']) {
        return Err(format!("`{key}` must be like {BASE_URL}, without `?` and `#`"));
    }
    Ok(text.to_owned())
}

/// What the operator is told to do when the login has ended.
fn login_command(name: &str) -> String {
    if name == PLATFORM.name {
        "run: hermes-gateway login weixin".to_owned()
    } else {
        format!("run: hermes-gateway login weixin --name {name}")
    }
}

/// What the two threads share, and what outlives a connection.
#[derive(Debug, Default)]
struct Memory {
    /// Polls that were refused, since the last pause for that.
    failures: u32,
    refused: bool,
    /// WeChat has ended the login: nothing is asked of it before that.
    gone_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Shared(Mutex<Memory>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Plain numbers: valid after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long nothing must be asked.
    fn pause(&self) -> Option<Duration> {
        let until = self.lock().gone_until?;
        Some(until.saturating_duration_since(clock::now())).filter(|left| !left.is_zero())
    }

    fn login_has_gone(&self) {
        self.lock().gone_until = Some(clock::now() + limits::WEIXIN_GONE);
    }

    fn login_is_good(&self) {
        self.lock().gone_until = None;
    }

    /// The last poll that was answered was refused.
    fn is_troubled(&self) -> bool {
        self.lock().refused
    }

    /// A poll was answered as it should be.
    fn works(&self) {
        *self.lock() = Memory::default();
    }

    /// One more refusal. → how long to wait: two seconds, and thirty after every third in a row.
    fn failed(&self) -> Duration {
        let mut memory = self.lock();
        memory.failures += 1;
        memory.refused = true;
        if memory.failures < limits::WEIXIN_FAILURES_MAX {
            return limits::WEIXIN_FAILURE;
        }
        memory.failures = 0;
        limits::WEIXIN_FAILURES
    }
}

struct Weixin {
    settings: Arc<Settings>,
    shared: Arc<Shared>,
}

fn build(config: &AdapterConfig) -> Result<Box<dyn Adapter>, String> {
    Ok(Box::new(Weixin { settings: Arc::new(Settings::read(config)?), shared: Arc::default() }))
}

impl Adapter for Weixin {
    fn traits(&self) -> Traits {
        Traits {
            edits: false,
            typing: true,
            // The clients renew the sign every five seconds.
            typing_interval: Duration::from_secs(5),
            edit_interval: limits::LONG_WAIT,
            // Whether a client_id that comes again is dropped is not documented.
            idempotent: false,
            // A poll that is not answered, the question after it, and the files of a message.
            liveness: limits::WEIXIN_POLL_MAX + limits::WEIXIN_POLL_MARGIN + 2 * limits::WEIXIN_CALL + limits::WEIXIN_DOWNLOAD,
            receives: true,
        }
    }

    fn inlet(&self) -> Box<dyn Inlet> {
        Box::new(inlet::WeixinInlet::new(&self.settings, &self.shared))
    }

    fn outlet(&self, link: &SendLink) -> Box<dyn Outlet> {
        Box::new(outlet::WeixinOutlet::new(&self.settings, &self.shared, link))
    }

    fn check(&self, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<Option<String>, AdapterError> {
        inlet::check(&self.settings, net, token, deadline)
    }
}
