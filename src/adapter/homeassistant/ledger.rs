//! The last known states, and what a new one means: a message of a person, news, or nothing. Pure.
//!
//! Home Assistant replays nothing. So what was said last of each entity is remembered, over the end of the process too,
//! and compared with what a connection finds when it comes up. The memory is kept in a fixed number of memos.

use super::wire::{Context, State, time_us};
use crate::core::types::Memo;
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Where a state comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    /// It was there when the connection came up.
    Found,
    /// It has just changed; from what, unless the entity is new.
    Changed { from: Option<&'a str> },
}

/// One state of one entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observation {
    pub entity: String,
    pub value: String,
    pub name: Option<String>,
    pub unit: Option<String>,
    pub class: Option<String>,
    /// Microseconds since 1970.
    pub changed_us: i64,
    pub updated: String,
    pub context: Context,
}

impl Observation {
    /// `None` without an entity or a value.
    pub fn of(state: State) -> Option<Self> {
        let attributes = state.attributes.unwrap_or_default();
        let changed = state.last_changed.unwrap_or_default();
        Some(Self {
            entity: state.entity_id?,
            value: state.state?,
            name: attributes.friendly_name.filter(|name| !name.trim().is_empty()),
            unit: attributes.unit_of_measurement,
            class: attributes.device_class,
            changed_us: time_us(&changed).unwrap_or(0),
            updated: state.last_updated.unwrap_or(changed),
            context: state.context.unwrap_or_default(),
        })
    }

    /// The same change has the same id, whether it was seen as it happened or found later.
    pub fn message_id(&self) -> String {
        format!("{}/{}/{}", self.context.id.as_deref().unwrap_or("-"), self.entity, self.updated)
    }
}

/// Neither a value nor the absence of one: a device or an integration is away, or has not reported yet.
pub(super) fn is_real(value: &str) -> bool {
    value != UNAVAILABLE && value != UNKNOWN
}

const UNAVAILABLE: &str = "unavailable";
const UNKNOWN: &str = "unknown";

/// What was said last of an entity. Short names: there can be thousands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    #[serde(rename = "s")]
    value: String,
    #[serde(rename = "t")]
    changed_us: i64,
}

/// A change that is to be told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct News {
    pub now: Observation,
    pub was: String,
}

struct Waiting {
    news: News,
    due: Instant,
}

#[derive(Default)]
pub(super) struct Ledger {
    known: BTreeMap<String, Known>,
    /// Memos that have to be written.
    dirty: BTreeSet<usize>,
    /// When an entity was told of, while its cooldown lasts.
    told: BTreeMap<String, Instant>,
    /// What happened meanwhile, the last of each.
    waiting: BTreeMap<String, Waiting>,
}

impl Ledger {
    /// The keys of the memos that [`Ledger::load`] wants, in order.
    pub fn keys() -> impl Iterator<Item = String> {
        (0..limits::HOMEASSISTANT_STATE_MEMOS).map(memo_key)
    }

    /// From the memos, as far as it is still of interest. A memo that makes no sense counts as absent.
    pub fn load(memos: impl IntoIterator<Item = Option<String>>, minds: impl Fn(&str) -> bool) -> Self {
        let read = |memo: Option<String>| serde_json::from_str::<BTreeMap<String, Known>>(&memo?).ok();
        let known = memos.into_iter().filter_map(read).flatten().filter(|(entity, _)| minds(entity));
        Self { known: known.collect(), ..Self::default() }
    }

    /// What was typed into a chat entity. → whether it is a message. `own`: the gateway itself has written it.
    pub fn said(&mut self, now: &Observation, seen: Seen<'_>, own: bool) -> bool {
        if now.value == UNAVAILABLE {
            return false;
        }
        // Nothing was ever typed into an entity that is `unknown` (Home Assistant, input_text).
        let blank = now.value.trim().is_empty() || now.value == UNKNOWN;
        let says = match (self.known.get(&now.entity), seen) {
            // Never seen before: what stands there may be years old.
            (None, Seen::Found) => false,
            (Some(known), _) if known.value == now.value && known.changed_us == now.changed_us => return false,
            (_, Seen::Changed { from: Some(from) }) if from != UNAVAILABLE => true,
            (None, Seen::Changed { .. }) => false,
            // Home Assistant restores the text at its start with a new time, but without a user: that is not said again.
            (Some(known), _) => known.value != now.value || (now.context.user_id.is_some() && now.changed_us > known.changed_us),
        };
        self.remember(now, true);
        says && !own && !blank
    }

    /// A state of an entity that is told of. → what is to be said at once. `own`: the gateway's own doing.
    pub fn changed(&mut self, now: Observation, seen: Seen<'_>, own: bool, cooldown: Duration, at: Instant) -> Option<News> {
        if !is_real(&now.value) {
            return None;
        }
        let from = match seen {
            Seen::Changed { from } => from.filter(|from| is_real(from)),
            Seen::Found => None,
        };
        let waited = self.waiting.remove(&now.entity).map(|waiting| waiting.news.was);
        let was = waited.or_else(|| self.known.get(&now.entity).map(|known| known.value.clone())).or_else(|| from.map(str::to_owned));
        let Some(was) = was.filter(|was| *was != now.value && !own) else {
            if self.known.get(&now.entity).is_none_or(|known| known.value != now.value) {
                self.remember(&now, false);
            }
            return None;
        };
        self.told.retain(|_, told| at.saturating_duration_since(*told) < cooldown);
        let news = News { now, was };
        match self.told.get(&news.now.entity) {
            Some(told) if self.waiting.len() < limits::HOMEASSISTANT_STATES_MAX => {
                let due = *told + cooldown;
                self.waiting.insert(news.now.entity.clone(), Waiting { news, due });
                None
            }
            _ => Some(self.tell(news, at)),
        }
    }

    fn tell(&mut self, news: News, at: Instant) -> News {
        if self.told.len() < limits::HOMEASSISTANT_STATES_MAX {
            self.told.insert(news.now.entity.clone(), at);
        }
        self.remember(&news.now, false);
        news
    }

    /// When [`Ledger::waited`] has something.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.due).min()
    }

    /// What waited for the end of its cooldown.
    pub fn waited(&mut self, at: Instant) -> Option<News> {
        let entity = self.waiting.iter().find(|(_, waiting)| waiting.due <= at).map(|(entity, _)| entity.clone())?;
        let waiting = self.waiting.remove(&entity)?;
        Some(self.tell(waiting.news, at))
    }

    /// `always`: even if there is no room for more. For the entities of chats, which are few.
    fn remember(&mut self, now: &Observation, always: bool) {
        if always || self.known.len() < limits::HOMEASSISTANT_STATES_MAX || self.known.contains_key(&now.entity) {
            let known = Known { value: now.value.clone(), changed_us: now.changed_us };
            self.known.insert(now.entity.clone(), known);
            self.dirty.insert(place(&now.entity));
        }
    }

    /// The memos that have changed since the last call.
    pub fn memos(&mut self) -> Vec<Memo> {
        std::mem::take(&mut self.dirty).into_iter().map(|place| self.memo(place)).collect()
    }

    /// Those of the entities that changed last, if there is not room for all.
    fn memo(&self, at: usize) -> Memo {
        let mut entries: Vec<(&String, &Known)> = self.known.iter().filter(|(entity, _)| place(entity) == at).collect();
        loop {
            let value = serde_json::to_string(&entries.iter().copied().collect::<BTreeMap<_, _>>()).unwrap_or_default();
            let key = memo_key(at);
            if key.len() + value.len() <= limits::MEMO_BYTES_MAX || entries.is_empty() {
                return Memo::new(key, value);
            }
            entries.sort_by_key(|(_, known)| std::cmp::Reverse(known.changed_us));
            entries.truncate(entries.len() - entries.len().div_ceil(8));
        }
    }
}

fn memo_key(place: usize) -> String {
    format!("states/{place}")
}

/// The memo that holds an entity: the same for ever (FNV-1a).
fn place(entity: &str) -> usize {
    let hash = entity.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash as usize % limits::HOMEASSISTANT_STATE_MEMOS
}
