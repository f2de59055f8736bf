//! The configuration: what it holds. Parsing is beside it.

mod adapters;
pub mod diagnostic;
pub mod duration;
mod environment;
pub mod keys;
mod load;
mod nearest;
pub mod peek;
pub mod places;
mod reader;
mod secret;
mod show;
pub mod size;
mod upkeep;

pub use environment::Environment;
pub use load::{LoadError, Loaded, load};
pub use places::Places;
pub use show::show;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A text that never shows itself: `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }
    /// The only way to the text. To be called where it goes onto the wire.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
impl std::fmt::Display for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderKind {
    Anthropic,
    OpenAi,
    Offline,
}

/// `[provider]` and each `[[fallback]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderConfig {
    pub kind: ProviderKind,
    pub model: String,
    pub api_key: Option<Secret>,
    pub base_url: String,
    /// `silence_timeout`, default 180s.
    pub silence: Duration,
    /// `turn_timeout`, default 30m.
    pub turn: Duration,
    /// `max_turns`, default 4. Of the first provider.
    pub max_turns: usize,
    /// `max_tokens` of one reply, default 8192.
    pub max_tokens: u32,
    /// `retries` of one call before the next provider is tried, default 3.
    pub retries: u32,
}

/// What happens to a message that arrives while its session's turn runs. `[session] busy`, default interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    Interrupt,
    Queue,
    Steer,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ShutdownConfig {
    pub drain: Duration,
    pub ask: Duration,
    pub cut: Duration,
    pub close: Duration,
    /// `[restart] drain`.
    pub restart_drain: Duration,
    /// `HERMES_GATEWAY_ADAPTER_DISCONNECT_TIMEOUT=0`: `ask` has no bound of its own and may use what the earlier
    /// phases left of the stop budget, less `cut` and `close`.
    pub ask_shares_budget: bool,
}

impl ShutdownConfig {
    /// The longest that a stop may take: the one number from which all others are derived.
    #[must_use]
    pub fn stop_budget(&self) -> Duration {
        self.drain + self.ask + self.cut + self.close
    }
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(15),
            ask: Duration::from_secs(5),
            cut: Duration::from_secs(2),
            close: Duration::from_secs(3),
            restart_drain: Duration::from_secs(60),
            ask_shares_budget: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ToolsConfig {
    /// `[tools] enabled`, names; default all: `["*"]`.
    pub enabled: Vec<String>,
    /// `[tools] workdir`, default the home directory.
    pub workdir: PathBuf,
    /// `[tools.shell] timeout`, default 180s.
    pub shell_timeout: Duration,
    /// `[tools.shell] env`: names passed on to children besides the built-in allow-list.
    pub shell_env: Vec<String>,
    /// `[tools.homeassistant] domains`: domains (`light`) and services (`scene.turn_on`) that the agent may call;
    /// default [`HOMEASSISTANT_DOMAINS`].
    pub homeassistant_domains: Vec<String>,
}

/// The names that `[tools] enabled` may hold.
pub const TOOLS: &[&str] =
    &["shell", "read_file", "write_file", "edit_file", "search_files", "http_fetch", "ha_get_state", "ha_list_entities", "ha_call_service"];

/// What is comfort and can be undone. Nothing that opens a way into the house (locks, covers with their garage doors,
/// alarm panels), and nothing that runs code or changes the system (`shell_command`, `python_script`, `rest_command`,
/// `hassio`, `homeassistant`, scripts and automations). Of scenes only `turn_on`: `scene.apply` can set any entity.
pub const HOMEASSISTANT_DOMAINS: [&str; 11] = [
    "light",
    "switch",
    "fan",
    "climate",
    "humidifier",
    "media_player",
    "input_boolean",
    "input_number",
    "input_select",
    "scene.turn_on",
    "weather.get_forecasts",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// `[memory] log_interval`: how often resident memory is logged; default 1h, zero for never.
    pub log_interval: Duration,
    /// `[memory] soft_limit`, bytes of resident memory above which the gateway restarts itself; default none.
    pub soft_limit: Option<u64>,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { log_interval: Duration::from_secs(3600), soft_limit: None }
    }
}

/// `[adapters.NAME]`: what all platforms have in common, and the platform's own keys.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    pub name: String,
    pub platform: String,
    pub enabled: bool,
    /// `["*"]`: everybody.
    pub allowed_users: Vec<String>,
    pub allowed_chats: Vec<String>,
    pub admins: Vec<String>,
    /// In groups, answer only when mentioned. Default true.
    pub group_mention: bool,
    /// Stream replies by editing. Default true.
    pub streaming: bool,
    /// The platform's keys (checked against its table): strings and secrets.
    pub keys: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, Secret>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub providers: Vec<ProviderConfig>,
    pub shutdown: ShutdownConfig,
    pub tools: ToolsConfig,
    pub adapters: Vec<AdapterConfig>,
    pub busy: Busy,
    /// `[approvals] mode`: ask or off.
    pub approvals: bool,
    /// `[approvals] timeout`, default 5m.
    pub approval_timeout: Duration,
    /// `[log] level`, in env_logger's syntax, default info.
    pub log_level: String,
    /// `[agent] system_prompt`: added to the built-in one.
    pub system_prompt: Option<String>,
    /// `[net] ca_file`.
    pub ca_file: Option<PathBuf>,
    /// `[schedule] time_zone`, default the system's.
    pub time_zone: jiff::tz::TimeZone,
    pub memory: MemoryConfig,
    /// `[store] keep`: how long transcripts and what was delivered are kept; default 90d, zero for ever.
    pub keep: Duration,
    pub state_dir: PathBuf,
}
