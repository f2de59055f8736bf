//! The effective configuration as TOML, with `***` in place of secrets.

use super::duration::format as duration;
use super::size;
use super::{Busy, Config, ProviderConfig, ProviderKind};
use std::fmt::Write as _;

/// Renders it. The output parses as TOML; it is meant for reading, not for loading: secrets are gone.
#[must_use]
pub fn show(config: &Config) -> String {
    let mut out = String::new();
    let state_dir = string(&config.state_dir.display().to_string());
    let _ = writeln!(out, "# state directory: {state_dir}\n");
    for (index, provider) in config.providers.iter().enumerate() {
        out.push_str(if index == 0 { "[provider]\n" } else { "[[fallback]]\n" });
        show_provider(&mut out, provider);
    }
    let shutdown = &config.shutdown;
    let ask_note = if shutdown.ask_shares_budget { "   # no bound of its own: whatever is left of the stop budget" } else { "" };
    let _ = writeln!(out, "[shutdown]                        # stop budget {}", duration(shutdown.stop_budget()));
    let _ = writeln!(out, "drain = \"{}\"", duration(shutdown.drain));
    let _ = writeln!(out, "ask = \"{}\"{ask_note}", duration(shutdown.ask));
    let _ = writeln!(out, "cut = \"{}\"\nclose = \"{}\"\n", duration(shutdown.cut), duration(shutdown.close));
    let _ = writeln!(out, "[restart]\ndrain = \"{}\"\n", duration(shutdown.restart_drain));
    let tools = &config.tools;
    let _ = writeln!(out, "[tools]\nenabled = {}\nworkdir = {}\n", list(&tools.enabled), string(&tools.workdir.display().to_string()));
    let _ = writeln!(out, "[tools.shell]\ntimeout = \"{}\"\nenv = {}\n", duration(tools.shell_timeout), list(&tools.shell_env));
    let _ = writeln!(out, "[tools.homeassistant]\ndomains = {}\n", list(&tools.homeassistant_domains));
    let busy = match config.busy {
        Busy::Interrupt => "interrupt",
        Busy::Queue => "queue",
        Busy::Steer => "steer",
    };
    let _ = writeln!(out, "[session]\nbusy = \"{busy}\"\n");
    let mode = if config.approvals { "ask" } else { "off" };
    let _ = writeln!(out, "[approvals]\nmode = \"{mode}\"\ntimeout = \"{}\"\n", duration(config.approval_timeout));
    let _ = writeln!(out, "[log]\nlevel = {}\n", string(&config.log_level));
    if let Some(prompt) = &config.system_prompt {
        let _ = writeln!(out, "[agent]\nsystem_prompt = {}\n", string(prompt));
    }
    if let Some(file) = &config.ca_file {
        let _ = writeln!(out, "[net]\nca_file = {}\n", string(&file.display().to_string()));
    }
    let zone = config.time_zone.iana_name().map_or_else(|| "system".to_owned(), str::to_owned);
    let _ = writeln!(out, "[schedule]\ntime_zone = {}\n", string(&zone));
    let limit = config
        .memory
        .soft_limit
        .map_or_else(|| "# soft_limit: none".to_owned(), |bytes| format!("soft_limit = \"{}\"", size::format(bytes)));
    let _ = writeln!(out, "[memory]\nlog_interval = \"{}\"\n{limit}\n", duration(config.memory.log_interval));
    let _ = writeln!(out, "[store]\nkeep = \"{}\"\n", duration(config.keep));
    show_adapters(&mut out, config);
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn show_provider(out: &mut String, provider: &ProviderConfig) {
    let kind = match provider.kind {
        ProviderKind::Anthropic => "anthropic",
        ProviderKind::OpenAi => "openai",
        ProviderKind::Offline => "offline",
    };
    let _ = writeln!(out, "kind = \"{kind}\"\nmodel = {}", string(&provider.model));
    if provider.api_key.is_some() {
        out.push_str("api_key = \"***\"\n");
    }
    if !provider.base_url.is_empty() {
        let _ = writeln!(out, "base_url = {}", string(&provider.base_url));
    }
    let _ = writeln!(out, "silence_timeout = \"{}\"\nturn_timeout = \"{}\"", duration(provider.silence), duration(provider.turn));
    let _ = writeln!(out, "max_turns = {}\nmax_tokens = {}\nretries = {}\n", provider.max_turns, provider.max_tokens, provider.retries);
}

fn show_adapters(out: &mut String, config: &Config) {
    for adapter in &config.adapters {
        let _ = writeln!(out, "[adapters.{}]\nplatform = \"{}\"\nenabled = {}", adapter.name, adapter.platform, adapter.enabled);
        for key in adapter.secrets.keys() {
            let _ = writeln!(out, "{key} = \"***\"");
        }
        for (key, value) in &adapter.keys {
            let _ = writeln!(out, "{key} = {}", string(value));
        }
        let _ = writeln!(out, "allowed_users = {}\nallowed_chats = {}", list(&adapter.allowed_users), list(&adapter.allowed_chats));
        let _ = writeln!(out, "admins = {}", list(&adapter.admins));
        let _ = writeln!(out, "group_mention = {}\nstreaming = {}\n", adapter.group_mention, adapter.streaming);
    }
}

/// A TOML basic string.
fn string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| string(item)).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strings_read_back(text in "\\PC*|[\\x00-\\x7f]{0,20}") {
            let table: toml::Table = format!("a = {}", string(&text)).parse().expect("valid TOML");
            prop_assert_eq!(table["a"].as_str(), Some(text.as_str()));
        }
    }
}
