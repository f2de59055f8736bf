//! SIGTERM in each state of a connection: the end comes in time, with code 0, and nothing is left.

use super::world::World;
use crate::platforms::Platform;
use crate::support::faults::{FullBacklog, Proxy, Way, last_frame_is_a_goodbye};
use crate::support::gateway::STOP_BUDGET;
use crate::support::model::{Gate, Model, Reply, Step};
use crate::support::poll::SOON;
use std::time::Duration;

/// Above what the gateway needs, for a machine with much to do.
const SLACK: Duration = Duration::from_secs(1);

fn stop<P: Platform>(world: &mut World<P>, within: Duration) {
    let exit = world.gateway.stop();
    assert!(exit.elapsed < within, "{}: {exit:?}\n{}", P::NAME, world.gateway.log_tail());
}

/// Idle: nothing is waited for. Where the platform profits from it, it is told that the connection ends.
pub fn connected<P: Platform>() {
    let mut world = World::<P>::behind_a_proxy(None);
    world.exchange("before");
    stop(&mut world, Duration::from_secs(2));
    world.wait(SOON, "the platform sees the end of the connection", || (world.platform.connected() == 0).then_some(()));
    if P::GOODBYE {
        let said = world.proxy().upgraded();
        assert!(!said.is_empty(), "a WebSocket");
        assert!(said.iter().all(|bytes| last_frame_is_a_goodbye(bytes)), "{}: the last frame is CLOSE", P::NAME);
    }
}

pub fn connect_hangs<P: Platform>() {
    let full = FullBacklog::start();
    let mut world = World::unconnected(P::start(), full.address);
    // Ready without the platform, and other things work.
    world.gateway.chat("echo: others work").expect(0).says("others work");
    assert_ne!(world.state(), "connected");
    stop(&mut world, STOP_BUDGET);
    assert_eq!(world.platform.connects(), 0);
}

/// Everything is answered as `way` has it, from the first connection on.
fn behind<P: Platform>(way: Way, reached: impl Fn(&World<P>) -> bool) {
    let platform = P::start();
    let proxy = Proxy::start(platform.server().address);
    proxy.set(way);
    let address = proxy.address;
    let mut world = World::unconnected(platform, address);
    world.proxy = Some(proxy);
    world.wait(SOON, "it gets that far", || reached(&world).then_some(()));
    if world.proxy().upgrades() > 0 {
        assert_ne!(world.state(), "connected", "{}: nothing came through the WebSocket", P::NAME);
    }
    stop(&mut world, STOP_BUDGET);
}

pub fn silent_from_the_start<P: Platform>() {
    behind::<P>(Way::BlackHole, |world| world.proxy().accepted() > 0);
}

/// Where there is no WebSocket, it just connects.
pub fn silent_upgrade<P: Platform>() {
    behind::<P>(Way::SilentUpgrade, |world| world.proxy().upgrades() > 0 || world.state() == "connected");
}

pub fn silent_login<P: Platform>() {
    behind::<P>(Way::SilentAfterUpgrade, |world| world.proxy().upgrades() > 0 || world.state() == "connected");
}

pub fn waiting_to_reconnect<P: Platform>() {
    let mut world = World::<P>::start();
    world.platform.server().go_down();
    world.wait(SOON, "it waits to connect again", || (world.state() == "retrying").then_some(()));
    stop(&mut world, Duration::from_secs(2));
}

pub fn in_a_turn<P: Platform>() {
    let model = Model::start();
    model.rule("hang", [Reply::Silent]);
    let mut world = World::<P>::with_model(&model);
    world.platform.says("hang");
    model.wait_request(1, "hang");
    stop(&mut world, STOP_BUDGET + SLACK);
}

/// The reply does not get through; after the next start it does.
pub fn reply_is_stuck<P: Platform>() {
    let (model, gate) = (Model::start(), Gate::default());
    model.rule("question", [Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text("stuck for a while".to_owned())])]);
    let mut world = World::<P>::behind_a_proxy(Some(&model));
    let id = world.platform.says("question");
    model.wait_request(1, "question");
    world.wait_confirmed(&id);
    world.proxy().set(Way::BlackHole);
    gate.open();
    world.gateway.wait_status("the reply waits to be delivered", |status| (status["outbox"]["pending"].as_u64()? >= 1).then_some(()));
    stop(&mut world, STOP_BUDGET + SLACK);
    world.proxy().set(Way::Open);
    world.gateway.start_again();
    world.wait_text("stuck for a while");
    world.gateway.wait_idle();
    world.assert_answered("stuck for a while");
}
