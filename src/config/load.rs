//! From a file to a [`Config`], with everything that is wrong with the file.

use super::adapters;
use super::diagnostic::{Diagnostic, Level};
use super::environment::Environment;
use super::keys::PlatformKeys;
use super::nearest::nearest;
use super::places::Places;
use super::reader::{Findings, Section, alternatives};
use super::secret::{Sources, read_bounded};
use super::{Busy, Config, HOMEASSISTANT_DOMAINS, ProviderConfig, ProviderKind, ShutdownConfig, TOOLS, ToolsConfig, duration, upkeep};
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeTable;

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A configuration, and what is odd about it though it can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub config: Config,
    /// Ready to be printed, each with a line break at its end.
    pub warnings: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadError {
    /// There is no file.
    Missing,
    Unreadable {
        shown_path: String,
        cause: String,
    },
    /// Errors and warnings, ready to be printed.
    Invalid {
        rendered: String,
        errors: usize,
    },
}

/// Reads the file at `places.config`.
///
/// # Errors
/// [`LoadError`]; all errors of the file at once.
pub fn load(places: &Places, environment: &Environment, platforms: &dyn PlatformKeys) -> Result<Loaded, LoadError> {
    let shown_path = environment.shorten(&places.config);
    let (source, mode) = match read_bounded(&places.config) {
        Ok(read) => read,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Err(LoadError::Missing),
        Err(cause) => return Err(LoadError::Unreadable { shown_path, cause: cause.to_string() }),
    };
    let (sources, mut notes) = Sources::new(environment, places);
    let (config, findings) = parse(&source, places, &sources, platforms);
    if sources.inline.get() && mode & 0o004 != 0 {
        notes.push(format!("{shown_path} holds secrets and can be read by everybody; chmod 600 {shown_path}"));
    }
    let mut config = config;
    if let Some(text) = environment.get(DISCONNECT_TIMEOUT)
        && let Err(note) = override_ask(&mut config.shutdown, text)
    {
        notes.push(note);
    }
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    let rendered = findings.iter().map(|finding| finding.render(&shown_path, &source));
    if errors > 0 {
        return Err(LoadError::Invalid { rendered: rendered.collect::<Vec<_>>().join("\n"), errors });
    }
    let notes = notes.into_iter().map(|note| format!("warning: {note}\n"));
    Ok(Loaded { config, warnings: rendered.chain(notes).collect() })
}

const DISCONNECT_TIMEOUT: &str = "HERMES_GATEWAY_ADAPTER_DISCONNECT_TIMEOUT";

/// `HERMES_GATEWAY_ADAPTER_DISCONNECT_TIMEOUT`: seconds, or a duration. `0`: no bound of its own.
fn override_ask(shutdown: &mut ShutdownConfig, text: &str) -> Result<(), String> {
    let seconds = text.trim().parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match seconds.or_else(|| duration::parse(text).ok()) {
        Some(Duration::ZERO) => shutdown.ask_shares_budget = true,
        Some(ask) if ask <= HOUR => shutdown.ask = ask,
        _ => {
            let kept = duration::format(shutdown.ask);
            return Err(format!("{DISCONNECT_TIMEOUT}=\"{text}\" is not a number of seconds up to 3600; [shutdown] ask stays {kept}"));
        }
    }
    Ok(())
}

/// The file's text → the configuration as far as it can be understood, and the findings in the order of the file.
fn parse(source: &str, places: &Places, sources: &Sources<'_>, platforms: &dyn PlatformKeys) -> (Config, Vec<Diagnostic>) {
    let (document, syntax) = DeTable::parse_recoverable(source);
    let findings = Findings::default();
    let root = Section::new(document.get_ref(), String::new(), None, &findings);
    let config = read_config(root, places, sources, platforms);
    let mut list = findings.into_inner();
    if !syntax.is_empty() {
        let line_of = |at: usize| source.as_bytes()[..at.min(source.len())].iter().filter(|byte| **byte == b'\n').count();
        let broken: Vec<usize> = syntax.iter().filter_map(toml::de::Error::span).map(|at| line_of(at.start)).collect();
        // What follows from a line that could not be read is not worth a message of its own.
        list.retain(|finding| !finding.follows && !finding.at.as_ref().is_some_and(|at| broken.contains(&line_of(at.start))));
        list.extend(syntax.iter().map(syntax_error));
    }
    list.sort_by_key(|finding| finding.at.as_ref().map(|at| at.start));
    (config, list)
}

/// The parser's message, split into what happened and what was expected.
fn syntax_error(error: &toml::de::Error) -> Diagnostic {
    let (message, expected) = match error.message().split_once(", expected ") {
        Some((message, expected)) => (message, format!("expected {expected}")),
        None => (error.message(), String::new()),
    };
    let label = if message == "duplicate key" { "this stands above already".to_owned() } else { expected };
    Diagnostic::error(message, error.span(), label)
}

fn read_config(root: Section<'_>, places: &Places, sources: &Sources<'_>, platforms: &dyn PlatformKeys) -> Config {
    let environment = sources.environment;
    let config = Config {
        providers: providers(&root, sources),
        shutdown: shutdown(&root),
        tools: tools(&root, environment),
        adapters: adapters::read(&root.section("adapters"), sources, platforms),
        busy: {
            let session = root.section("session");
            let busy = session.choice("busy", &[("interrupt", Busy::Interrupt), ("queue", Busy::Queue), ("steer", Busy::Steer)]);
            session.finish();
            busy.unwrap_or(Busy::Interrupt)
        },
        approvals: true,
        approval_timeout: Duration::ZERO,
        log_level: log_level(&root),
        system_prompt: {
            let agent = root.section("agent");
            let prompt = agent.text("system_prompt").map(|(text, _)| text);
            agent.finish();
            prompt
        },
        ca_file: {
            let net = root.section("net");
            let file = net.text("ca_file").map(|(text, _)| sources.directory.join(environment.expand(&text)));
            net.finish();
            file
        },
        time_zone: upkeep::time_zone(&root),
        memory: upkeep::memory(&root),
        keep: upkeep::keep(&root),
        state_dir: places.state_dir.clone(),
    };
    let (approvals, approval_timeout) = approvals(&root);
    root.finish();
    Config { approvals, approval_timeout, ..config }
}

fn providers(root: &Section<'_>, sources: &Sources<'_>) -> Vec<ProviderConfig> {
    let first = root.section("provider");
    let fallbacks = root.repeated("fallback");
    if !first.exists() {
        if !root.has_any(&["provider"]) {
            let missing = Diagnostic::error("no model provider is configured", None, "").follows();
            root.add(
                missing
                    .help("add:  [provider]")
                    .help("      kind = \"anthropic\"                  # or \"openai\"; \"offline\" needs no account")
                    .help("      model = \"claude-sonnet-4-6\"")
                    .help("      api_key_env = \"ANTHROPIC_API_KEY\""),
            );
        }
        for fallback in fallbacks {
            let _ = provider(fallback, sources);
        }
        return Vec::new();
    }
    std::iter::once(first).chain(fallbacks).filter_map(|section| provider(section, sources)).collect()
}

const PROVIDER_KINDS: [(&str, ProviderKind); 3] =
    [("anthropic", ProviderKind::Anthropic), ("openai", ProviderKind::OpenAi), ("offline", ProviderKind::Offline)];

fn provider(section: Section<'_>, sources: &Sources<'_>) -> Option<ProviderConfig> {
    let kind = section.choice("kind", &PROVIDER_KINDS);
    if !section.has_any(&["kind"]) {
        let names = PROVIDER_KINDS.map(|(name, _)| name);
        let label = format!("add kind = {}", alternatives(&names));
        section.add(Diagnostic::error(format!("`kind` is missing in [{}]", section.path), section.at.clone(), label).follows());
    }
    let (default_url, example) = match kind {
        Some(ProviderKind::OpenAi) => (Some("https://api.openai.com/v1"), "gpt-5.2"),
        Some(ProviderKind::Anthropic) => (Some("https://api.anthropic.com"), "claude-sonnet-4-6"),
        Some(ProviderKind::Offline) | None => (None, ""),
    };
    let base_url = section.text("base_url").map(|(url, at)| adapters::checked_url(&section, "base_url", &url, at, &["http", "https"]));
    // A server of one's own may want no key; the public ones always do.
    let key_required = default_url.is_some() && base_url.is_none();
    let api_key = sources.secret(&section, "api_key", key_required, false);
    let model = section.text("model").map(|(text, _)| text);
    if model.is_none() && default_url.is_some() && !section.has_any(&["model"]) {
        let label = format!("add model = \"{example}\" or another");
        section.add(Diagnostic::error(format!("`model` is missing in [{}]", section.path), section.at.clone(), label).follows());
    }
    let config = ProviderConfig {
        kind: kind.unwrap_or(ProviderKind::Offline),
        model: model.unwrap_or_else(|| "offline".to_owned()),
        api_key,
        base_url: base_url.flatten().or(default_url.map(str::to_owned)).unwrap_or_default(),
        silence: section.duration("silence_timeout", Duration::from_secs(180), Duration::from_millis(100)..=HOUR),
        turn: section.duration("turn_timeout", Duration::from_secs(1800), SECOND..=DAY),
        max_turns: usize::try_from(section.integer("max_turns", 4, 1..=64)).unwrap_or(4),
        max_tokens: u32::try_from(section.integer("max_tokens", 8192, 1..=1_000_000)).unwrap_or(8192),
        retries: u32::try_from(section.integer("retries", 3, 0..=20)).unwrap_or(3),
    };
    section.finish();
    kind.map(|_| config)
}

fn shutdown(root: &Section<'_>) -> ShutdownConfig {
    let (shutdown, restart) = (root.section("shutdown"), root.section("restart"));
    let phase = |section: &Section<'_>, key: &str, default: Duration| section.duration(key, default, Duration::ZERO..=HOUR);
    let default = ShutdownConfig::default();
    let config = ShutdownConfig {
        drain: phase(&shutdown, "drain", default.drain),
        ask: phase(&shutdown, "ask", default.ask),
        cut: phase(&shutdown, "cut", default.cut),
        close: phase(&shutdown, "close", default.close),
        restart_drain: phase(&restart, "drain", default.restart_drain),
        ask_shares_budget: false,
    };
    shutdown.finish();
    restart.finish();
    config
}

fn tools(root: &Section<'_>, environment: &Environment) -> ToolsConfig {
    let tools = root.section("tools");
    let shell = tools.section("shell");
    let home = || environment.home().unwrap_or_else(|| PathBuf::from("/"));
    let workdir = tools.text("workdir").map(|(text, at)| (environment.expand(&text), at));
    if let Some((path, at)) = &workdir
        && !path.is_absolute()
    {
        tools.error("`workdir` must be an absolute path", Some(at.clone()), "expected e.g. \"/home/ana/work\" or \"~/work\"");
    }
    let config = ToolsConfig {
        enabled: enabled_tools(&tools),
        workdir: workdir.map_or_else(home, |(path, _)| path),
        shell_timeout: shell.duration("timeout", Duration::from_secs(180), SECOND..=DAY),
        shell_env: shell.list("env", false).unwrap_or_default(),
        homeassistant_domains: homeassistant_domains(&tools),
    };
    shell.finish();
    tools.finish();
    config
}

fn enabled_tools(tools: &Section<'_>) -> Vec<String> {
    let Some(enabled) = tools.list("enabled", false) else { return vec!["*".to_owned()] };
    if let Some(odd) = enabled.iter().find(|name| *name != "*" && !TOOLS.contains(&name.as_str())) {
        let at = tools.value("enabled").map(toml::Spanned::span);
        let label = match nearest(odd, TOOLS.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", TOOLS.join(", ")),
        };
        tools.error(format!("unknown tool: `{odd}`"), at, label);
    }
    enabled
}

/// `light`, or `scene.turn_on`.
fn homeassistant_domains(tools: &Section<'_>) -> Vec<String> {
    let section = tools.section("homeassistant");
    let domains = section.list("domains", false);
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let fine = |entry: &String| entry.split_once('.').map_or_else(|| word(entry), |(domain, service)| word(domain) && word(service));
    if let Some(odd) = domains.iter().flatten().find(|entry| !fine(entry)) {
        let at = section.value("domains").map(toml::Spanned::span);
        section.error(format!("`{odd}` is neither a domain nor a service"), at, "expected e.g. \"light\" or \"scene.turn_on\"");
    }
    section.finish();
    domains.unwrap_or_else(|| HOMEASSISTANT_DOMAINS.map(str::to_owned).to_vec())
}

fn approvals(root: &Section<'_>) -> (bool, Duration) {
    let section = root.section("approvals");
    let ask = section.choice("mode", &[("ask", true), ("off", false)]).unwrap_or(true);
    let timeout = section.duration("timeout", Duration::from_secs(300), SECOND..=DAY);
    section.finish();
    (ask, timeout)
}

/// In `env_logger`'s syntax, which ignores what it does not understand; so the levels are checked here.
fn log_level(root: &Section<'_>) -> String {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let section = root.section("log");
    let level = section.text("level");
    section.finish();
    let Some((text, at)) = level else { return "info".to_owned() };
    let valid = |part: &str| match part.split_once('=') {
        Some((target, level)) => !target.trim().is_empty() && LEVELS.contains(&level.trim()),
        None => LEVELS.contains(&part.trim()),
    };
    if !text.split(',').all(valid) {
        let label = format!("expected {}, or e.g. \"info,telegram=debug\"", alternatives(&LEVELS));
        root.error("unknown log level", Some(at), label);
    }
    text
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
