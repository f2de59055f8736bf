//! For the fuzz target: whatever the WebSocket may bring.

use super::ledger::{Ledger, Observation, Seen};
use super::protocol::{Heard, Purpose, Session, Speaker, told};
use super::watch::Watch;
use super::wire::{messages, states};
use crate::clock;
use std::collections::BTreeMap;
use std::time::Duration;

const WATCH: &str = r#"{"chat": ["input_text.gate"], "events": ["gate_says"], "domains": ["light"], "all": true}"#;

/// A connection that hears these frames, one a line.
pub fn take(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let watch = Watch::read(Some(WATCH)).unwrap_or_default();
    let mut session = Session::default();
    let mut ledger = Ledger::load(Vec::new(), |entity| watch.minds(entity));
    let _ = (session.who_am_i(), session.subscriptions(&watch), session.ping());
    let names = BTreeMap::new();
    let speaker = Speaker { adapter: "homeassistant", names: &names };
    for frame in text.lines() {
        for message in messages(frame).unwrap_or_default() {
            match session.take(&message) {
                Heard::Changed { from, to } => {
                    observe(Observation::of(*to), Seen::Changed { from: from.as_deref() }, &speaker, &mut ledger);
                }
                Heard::Said(kind, event) => drop(speaker.fired(&kind, &event, 1_000)),
                Heard::Done(Purpose::States, Some(result)) => {
                    states(result).for_each(|state| observe(Observation::of(state), Seen::Found, &speaker, &mut ledger));
                }
                _ => {}
            }
        }
    }
    let _ = (ledger.due(), ledger.waited(clock::now()), ledger.memos());
}

fn observe(now: Option<Observation>, seen: Seen<'_>, speaker: &Speaker<'_>, ledger: &mut Ledger) {
    let Some(now) = now else { return };
    if now.entity == "input_text.gate" {
        if ledger.said(&now, seen, false) {
            let inbound = speaker.typed(&now, 1_000);
            assert!(!inbound.message_id.is_empty(), "{inbound:?}");
        }
    } else if let Some(news) = ledger.changed(now, seen, false, Duration::ZERO, clock::now()) {
        assert!(!told(&news).is_empty(), "{news:?}");
    }
}
