//! What may not grow: descriptors, threads and memory, compared with what was used when it was warm.

use super::gateway::Gateway;
use super::process::{Footprint, descriptors};
use std::time::Instant;

/// How often a test does something: as the variable says, or the short length.
pub fn length(variable: &str, short: usize) -> usize {
    std::env::var(variable).ok().map_or(short, |value| value.parse().unwrap_or_else(|error| panic!("{variable}={value}: {error}")))
}

/// Compares with what was used when it was warm, and says how it went in a long run.
pub fn flat(gateway: &Gateway, before: Footprint, what: &str, begun: Instant) {
    let after = gateway.footprint();
    eprintln!("{what} in {:.0} s: {before:?} -> {after:?}", begun.elapsed().as_secs_f64());
    assert!(after.descriptors <= before.descriptors + 3, "{what}: {before:?} {after:?}: {:#?}", descriptors(gateway.pid()));
    assert!(after.threads <= before.threads + 2, "{what}: {before:?} {after:?}");
    assert!(after.rss_kib <= before.rss_kib + 6 * 1024, "{what}: {before:?} {after:?}");
}
