//! What is listened to: `[adapters.NAME.watch]`. Closed by default: nothing is heard that is not named. Pure.

use crate::config::duration;
use crate::limits;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::time::Duration;

const KEYS: [&str; 7] = ["chat", "events", "entities", "domains", "ignore", "all", "cooldown"];
const COOLDOWN: Duration = Duration::from_secs(30);
const COOLDOWN_MAX: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watch {
    /// `input_text` entities: what is typed into one is a message.
    pub chat: BTreeSet<String>,
    /// Event types whose `text` is a message.
    pub events: BTreeSet<String>,
    /// What is told of when it changes.
    pub entities: BTreeSet<String>,
    pub domains: BTreeSet<String>,
    /// Entities and domains that are not, although a domain or `all` covers them.
    pub ignore: BTreeSet<String>,
    pub all: bool,
    /// Between two messages about the same entity.
    pub cooldown: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            chat: BTreeSet::new(),
            events: BTreeSet::new(),
            entities: BTreeSet::new(),
            domains: BTreeSet::new(),
            ignore: BTreeSet::new(),
            all: false,
            cooldown: COOLDOWN,
        }
    }
}

impl Watch {
    /// From the table as the configuration keeps it.
    ///
    /// # Errors
    /// What is wrong and how to put it right.
    pub fn read(json: Option<&str>) -> Result<Self, String> {
        let Some(json) = json else { return Ok(Self::default()) };
        let Ok(Value::Object(table)) = serde_json::from_str(json) else {
            return Err("`watch` must be a table, e.g. watch = { chat = [\"input_text.gate\"] }".to_owned());
        };
        if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(format!("`watch` has no key `{unknown}`; there are {}", KEYS.join(", ")));
        }
        let watch = Self {
            chat: list(&table, "chat")?,
            events: list(&table, "events")?,
            entities: list(&table, "entities")?,
            domains: list(&table, "domains")?,
            ignore: list(&table, "ignore")?,
            all: match table.get("all") {
                None => false,
                Some(Value::Bool(all)) => *all,
                Some(_) => return Err("`watch.all` must be true or false".to_owned()),
            },
            cooldown: cooldown(table.get("cooldown"))?,
        };
        watch.check()?;
        Ok(watch)
    }

    fn check(&self) -> Result<(), String> {
        for entity in &self.chat {
            if !is_entity(entity) {
                return Err(format!(
                    "`watch.chat` holds \"{entity}\"; it takes entities such as \"input_text.gate\" (event types go into `watch.events`)"
                ));
            }
            if !entity.starts_with("input_text.") {
                return Err(format!(
                    "`watch.chat` holds \"{entity}\"; only `input_text` entities can be typed into. To be told of its changes, put it into `watch.entities`"
                ));
            }
        }
        for event in &self.events {
            if event == "state_changed" || event == "*" {
                return Err(format!(
                    "`watch.events` holds \"{event}\"; it takes event types of your own, such as \"gate_message\". Changes of states: `watch.entities`"
                ));
            }
            if !is_word(event) {
                return Err(format!("`watch.events` holds \"{event}\", which cannot be the type of an event"));
            }
        }
        if let Some(entity) = self.entities.iter().find(|entity| !is_entity(entity)) {
            return Err(format!(
                "`watch.entities` holds \"{entity}\"; it takes ids such as \"binary_sensor.kitchen\" (whole domains go into `watch.domains`)"
            ));
        }
        if let Some(domain) = self.domains.iter().find(|domain| !is_word(domain)) {
            return Err(format!(
                "`watch.domains` holds \"{domain}\"; it takes names such as \"binary_sensor\" (for everything: all = true)"
            ));
        }
        match self.ignore.iter().find(|entry| !is_entity(entry) && !is_word(entry)) {
            Some(entry) => Err(format!("`watch.ignore` holds \"{entry}\"; it takes entities and domains")),
            None => Ok(()),
        }
    }

    /// Whether a person can say something here.
    pub fn is_chat(&self, entity: &str) -> bool {
        self.chat.contains(entity)
    }

    /// Whether the changes of an entity are told of.
    pub fn tells_of(&self, entity: &str) -> bool {
        let domain = domain(entity);
        !self.is_chat(entity)
            && !self.ignore.contains(entity)
            && (self.entities.contains(entity) || (!self.ignore.contains(domain) && (self.all || self.domains.contains(domain))))
    }

    /// Whether nothing is heard at all.
    pub fn is_deaf(&self) -> bool {
        self.chat.is_empty() && self.events.is_empty() && !self.tells()
    }

    /// Whether anything is told of.
    pub fn tells(&self) -> bool {
        self.all || !self.domains.is_empty() || !self.entities.is_empty()
    }

    /// The entities that matter, if they can be counted: then the server sends nothing else.
    pub fn named(&self) -> Option<BTreeSet<&str>> {
        if self.all || !self.domains.is_empty() {
            return None;
        }
        let told_of = self.entities.iter().filter(|entity| self.tells_of(entity));
        Some(self.chat.iter().chain(told_of).map(String::as_str).collect())
    }

    /// Whether the state of an entity is of interest.
    pub fn minds(&self, entity: &str) -> bool {
        self.is_chat(entity) || self.tells_of(entity)
    }
}

/// `light` of `light.kitchen`.
pub(super) fn domain(entity: &str) -> &str {
    entity.split('.').next().unwrap_or_default()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Home Assistant, core: a domain and an object id, of small letters, digits and `_`.
fn is_entity(text: &str) -> bool {
    let small = |part: &str| is_word(part) && !part.chars().any(|c| c.is_ascii_uppercase());
    text.len() <= 255 && text.split_once('.').is_some_and(|(domain, object)| small(domain) && small(object))
}

/// A list of names, or a single one.
fn list(table: &Map<String, Value>, key: &str) -> Result<BTreeSet<String>, String> {
    let wrong = || format!("`watch.{key}` must be a list of names, e.g. {key} = [{}]", example(key));
    let values = match table.get(key) {
        None => return Ok(BTreeSet::new()),
        Some(Value::Array(values)) => values.as_slice(),
        Some(single @ Value::String(_)) => std::slice::from_ref(single),
        Some(_) => return Err(wrong()),
    };
    if values.len() > limits::HOMEASSISTANT_WATCH_MAX {
        let most = limits::HOMEASSISTANT_WATCH_MAX;
        return Err(format!("`watch.{key}` has {} entries; {most} are the most. Use `watch.domains`", values.len()));
    }
    values.iter().map(|value| value.as_str().map(|text| text.trim().to_owned()).ok_or_else(wrong)).collect()
}

fn example(key: &str) -> &'static str {
    match key {
        "chat" => "\"input_text.gate\"",
        "events" => "\"gate_message\"",
        "domains" => "\"alarm_control_panel\"",
        _ => "\"binary_sensor.kitchen\"",
    }
}

fn cooldown(value: Option<&Value>) -> Result<Duration, String> {
    let cooldown = match value {
        None => return Ok(COOLDOWN),
        Some(Value::String(text)) => duration::parse(text).ok(),
        Some(number) => number.as_u64().map(Duration::from_secs),
    };
    let wrong = || format!("`watch.cooldown` must be {}, up to 24h", duration::EXPECTED);
    cooldown.filter(|cooldown| *cooldown <= COOLDOWN_MAX).ok_or_else(wrong)
}
