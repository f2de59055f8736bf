//! Many connections one after the other: what the gateway uses up does not grow with their number.

use super::world::World;
use crate::platforms::Platform;
use crate::support::gateway::Gateway;
use crate::support::growth::{flat, length};
use crate::support::poll;
use crate::support::process::Footprint;
use std::time::{Duration, Instant};

/// `scripts/soak` has more (`SOAK_RECONNECTS`).
const RECONNECTS: usize = 200;

pub fn reconnects<P: Platform>() {
    let reconnects = length("SOAK_RECONNECTS", RECONNECTS);
    let platform = P::start();
    let setup = platform.configure(Gateway::setup(), platform.server().address).set("log", "level", "\"error\"");
    let gateway = setup.env("HERMES_GATEWAY_FAULT_BACKOFF", "5ms").start();
    let world = World { gateway, proxy: None, platform };
    world.wait_connected();
    let begun = Instant::now();
    let mut seen = 0;
    let mut until = |target: usize| {
        while seen < target {
            seen = world.wait(super::world::LATER, "a new connection", || {
                let connects = world.platform.connects();
                (connects > seen && world.platform.connected() > 0).then_some(connects)
            });
            world.platform.server().cut_all();
        }
        world.wait(super::world::LATER, "a new connection", || (world.platform.connects() > seen).then_some(()));
        world.wait_connected();
        world.exchange(&format!("after {seen} connections"));
        settled(&world.gateway)
    };
    // A pool, a cache and a working set have their size after a while.
    let before = until((reconnects / 4).clamp(50, 400));
    until(reconnects);
    flat(&world.gateway, before, &format!("{}: {reconnects} reconnects", P::NAME), begun);
}

/// The least of each within a moment: the thread that answered a question of ours may still be there.
fn settled(gateway: &Gateway) -> Footprint {
    let mut least = gateway.footprint();
    poll::try_for(Duration::from_secs(1), Duration::from_millis(100), || {
        let now = gateway.footprint();
        least.descriptors = least.descriptors.min(now.descriptors);
        least.threads = least.threads.min(now.threads);
        least.rss_kib = least.rss_kib.min(now.rss_kib);
        None::<()>
    });
    least
}
