//! `[schedule]`, `[memory]` and `[store]`.

use super::load::{DAY, HOUR};
use super::reader::Section;
use super::{MemoryConfig, size};
use crate::clock::zone;
use jiff::tz::TimeZone;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Below this a gateway cannot run; above it nobody means it.
const SOFT_LIMITS: RangeInclusive<u64> = 1 << 20..=1 << 40;
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// `[schedule] time_zone`: a name like `Europe/Berlin`; without it, the system's.
pub(super) fn time_zone(root: &Section<'_>) -> TimeZone {
    let section = root.section("schedule");
    let named = section.text("time_zone");
    let system = || zone::local().clone();
    let zone = match named {
        None => system(),
        Some((name, _)) if name == "system" => system(),
        Some((name, at)) => zone::named(&name).unwrap_or_else(|| {
            let label = "expected a name like \"Europe/Berlin\" that is in /usr/share/zoneinfo, or \"system\"";
            section.error(format!("unknown time zone \"{name}\""), Some(at), label);
            TimeZone::UTC
        }),
    };
    section.finish();
    zone
}

/// `[memory]`. `log_interval`, default 1h, `0` for none; `soft_limit`, default none.
pub(super) fn memory(root: &Section<'_>) -> MemoryConfig {
    let section = root.section("memory");
    let log_interval = section.duration("log_interval", HOUR, Duration::ZERO..=YEAR);
    let soft_limit = section.text("soft_limit").and_then(|(text, at)| match size::parse(&text) {
        Ok(bytes) if SOFT_LIMITS.contains(&bytes) => Some(bytes),
        Ok(_) => {
            section.error("`soft_limit` is out of range", Some(at), "expected 1MB to 1024GB");
            None
        }
        Err(expected) => {
            section.error("`soft_limit` is not a size", Some(at), expected);
            None
        }
    });
    section.finish();
    MemoryConfig { log_interval, soft_limit }
}

/// `[store] keep`, default 90d, `0` for ever.
pub(super) fn keep(root: &Section<'_>) -> Duration {
    let section = root.section("store");
    let keep = section.duration("keep", 90 * DAY, Duration::ZERO..=100 * YEAR);
    if !keep.is_zero() && keep < DAY {
        let at = section.value("keep").map(|value| value.span());
        section.error("`keep` is out of range", at, "expected at least 1d, or 0 for ever");
    }
    section.finish();
    keep
}
