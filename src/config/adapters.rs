//! `[adapters.NAME]`: what all platforms have in common, and the platform's own keys by its table.

use super::diagnostic::Diagnostic;
use super::keys::{KeyKind, Platform, PlatformKey, PlatformKeys};
use super::load::HOUR;
use super::nearest::nearest;
use super::reader::{Section, alternatives};
use super::secret::Sources;
use super::{AdapterConfig, duration};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;
use toml::de::DeValue;

/// The name of the adapter for the terminal, which is always there.
const RESERVED: &str = "local";

pub(super) fn read(section: &Section<'_>, sources: &Sources<'_>, platforms: &dyn PlatformKeys) -> Vec<AdapterConfig> {
    let tables = section.sections();
    let platforms = platforms.platforms();
    tables.into_iter().filter_map(|(name, at, section)| adapter(&name, at, section, sources, &platforms)).collect()
}

fn adapter(name: &str, at: Range<usize>, section: Section<'_>, sources: &Sources<'_>, platforms: &[Platform]) -> Option<AdapterConfig> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name == RESERVED {
        section.error("`local` is the name of the terminal's own chats", Some(at), "choose another name");
        return None;
    }
    // The name is part of session keys, where `:` and `/` have a meaning.
    if name.is_empty() || name.len() > 32 || !name.chars().all(valid) {
        section.error("this cannot be the name of an adapter", Some(at), "use up to 32 letters, digits, `-` and `_`");
        return None;
    }
    let platform = match section.text("platform") {
        Some((text, at)) => find(&section, &text, at, platforms, "unknown platform"),
        None => find(&section, name, at, platforms, "the name says no platform"),
    }?;
    let enabled = section.boolean("enabled", true);
    let mut config = AdapterConfig {
        name: name.to_owned(),
        platform: platform.name.to_owned(),
        enabled,
        allowed_users: section.list("allowed_users", true).unwrap_or_default(),
        allowed_chats: section.list("allowed_chats", true).unwrap_or_default(),
        admins: section.list("admins", true).unwrap_or_default(),
        group_mention: section.boolean("group_mention", true),
        streaming: section.boolean("streaming", true),
        keys: BTreeMap::new(),
        secrets: BTreeMap::new(),
    };
    for key in &platform.keys {
        own_key(&section, key, sources, &mut config);
    }
    section.finish();
    Some(config)
}

fn find<'a>(section: &Section<'_>, name: &str, at: Range<usize>, platforms: &'a [Platform], message: &str) -> Option<&'a Platform> {
    if let Some(platform) = platforms.iter().find(|platform| platform.name == name) {
        return Some(platform);
    }
    let names: Vec<&str> = platforms.iter().map(|platform| platform.name).collect();
    let by_key = !section.has_any(&["platform"]);
    let label = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if by_key => format!("add platform = {}", alternatives(&names)),
        None => format!("expected {}", alternatives(&names)),
    };
    section.error(format!("{message}: `{name}`"), Some(at), label);
    None
}

fn own_key(section: &Section<'_>, key: &PlatformKey, sources: &Sources<'_>, config: &mut AdapterConfig) {
    if key.kind == KeyKind::Secret {
        if let Some(secret) = sources.secret(section, key.name, key.required && config.enabled, !config.enabled) {
            config.secrets.insert(key.name.to_owned(), secret);
        }
        return;
    }
    let value = if section.has_any(&[key.name]) { read_key(section, key) } else { key.default.map(str::to_owned) };
    section.know(key.name);
    if let Some(value) = value {
        config.keys.insert(key.name.to_owned(), value);
    } else if key.required && config.enabled && !section.has_any(&[key.name]) {
        let message = format!("`{}` is missing in [{}]", key.name, section.path);
        section.add(Diagnostic::error(message, section.at.clone(), format!("add `{}`", key.name)).follows());
    }
}

/// A key that is in the table → the form in which it is kept.
fn read_key(section: &Section<'_>, key: &PlatformKey) -> Option<String> {
    match key.kind {
        KeyKind::Text => section.text(key.name).map(|(text, _)| text),
        KeyKind::Url => {
            let (text, at) = section.text(key.name)?;
            checked_url(section, key.name, &text, at, &["http", "https", "ws", "wss"])
        }
        KeyKind::Duration => Some(duration::format(section.duration(key.name, Duration::ZERO, Duration::ZERO..=HOUR))),
        KeyKind::Integer => Some(section.integer(key.name, 0, 0..=u64::from(u32::MAX)).to_string()),
        KeyKind::Boolean => Some(section.boolean(key.name, false).to_string()),
        KeyKind::List => section.list(key.name, true).map(|list| serde_json::Value::from(list).to_string()),
        KeyKind::Any => section.value(key.name).map(|value| match to_json(value.get_ref()) {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        }),
        KeyKind::Table => section.value(key.name).map(|value| to_json(value.get_ref()).to_string()),
        // Handled by the caller: it never becomes a plain string.
        KeyKind::Secret => None,
    }
}

fn to_json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => serde_json::Value::from(text.as_ref()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX).into(),
        DeValue::Float(number) => number.as_str().parse::<f64>().unwrap_or_default().into(),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Datetime(date) => date.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(key, value)| (key.get_ref().clone().into_owned(), to_json(value.get_ref())));
            serde_json::Value::Object(pairs.collect())
        }
    }
}

/// An address with one of the schemes, without a slash at its end.
pub(super) fn checked_url(section: &Section<'_>, key: &str, text: &str, at: Range<usize>, schemes: &[&str]) -> Option<String> {
    let host = text.split_once("://").filter(|(scheme, _)| schemes.contains(scheme)).map(|(_, rest)| rest);
    let has_host =
        host.is_some_and(|rest| rest.split(['/', '?', '#']).next().is_some_and(|host| !host.is_empty() && !host.starts_with(':')));
    if !has_host || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let example = format!("expected an address like \"{}://host:port\"", schemes.last().copied().unwrap_or("https"));
        section.error(format!("`{key}` is not an address"), Some(at), example);
        return None;
    }
    if host.is_some_and(|rest| rest.split('/').next().is_some_and(|authority| authority.contains('@'))) {
        section.error(format!("`{key}` holds a user name or password"), Some(at), "put credentials into keys of their own");
        return None;
    }
    Some(text.trim_end_matches('/').to_owned())
}
