//! The network goes wrong while the adapter is connected: it is noticed, told, and made good.

use super::world::{LATER, World};
use crate::platforms::Platform;
use crate::support::faults::Way;
use crate::support::model::{Gate, Model, Reply, Step};
use std::time::Duration;

/// A fault that lasts until it is healed.
fn lasting<P: Platform>(begin: impl FnOnce(&World<P>), end: impl FnOnce(&World<P>)) {
    let world = World::<P>::behind_a_proxy(None);
    world.exchange("before");
    begin(&world);
    if P::KEEPS {
        world.platform.says("echo: said meanwhile");
    }
    world.wait_lost();
    world.gateway.chat("echo: others work").expect(0).says("others work");
    end(&world);
    world.wait_connected();
    if P::KEEPS {
        world.wait_text("said meanwhile");
    }
    world.exchange("after");
    world.gateway.wait_idle();
    world.assert_once("before");
    world.assert_not_doubled("said meanwhile");
    world.assert_once("after");
}

pub fn black_hole<P: Platform>() {
    lasting::<P>(
        |world| world.proxy().set(Way::BlackHole),
        |world| {
            world.proxy().set(Way::Open);
            // What was swallowed is not sent again, as TCP would: who waits for an answer to it waits in vain.
            world.proxy().cut();
        },
    );
}

pub fn reset<P: Platform>() {
    lasting::<P>(|world| world.proxy().set(Way::Reset), |world| world.proxy().set(Way::Open));
}

pub fn down_and_back<P: Platform>() {
    lasting::<P>(|world| world.platform.server().go_down(), |world| world.platform.server().come_back());
}

/// The platform has forgotten the connections, and nobody tells.
pub fn forgotten<P: Platform>() {
    let world = World::<P>::behind_a_proxy(None);
    world.exchange("before");
    let connects = world.platform.connects();
    world.proxy().forget();
    if P::KEEPS {
        world.platform.says("echo: said meanwhile");
    }
    let within = P::INTERVAL + Duration::from_secs(10);
    world.wait(within, "a new connection", || (world.platform.connects() > connects).then_some(()));
    world.wait_connected();
    if P::KEEPS {
        world.wait_text("said meanwhile");
    }
    world.exchange("after");
    world.assert_not_doubled("said meanwhile");
    world.assert_once("after");
}

/// Ends after some bytes of an event, again and again.
pub fn cut_in_a_frame<P: Platform>() {
    let world = World::<P>::behind_a_proxy(None);
    world.exchange("before");
    for bytes in [1, 3, 9, 40] {
        let connects = world.platform.connects();
        world.proxy().set(Way::CutAfter(bytes));
        let answer = format!("said before the cut after {bytes}");
        world.platform.says(&format!("echo: {answer}"));
        world.wait(P::INTERVAL + LATER, "a new connection", || (world.platform.connects() > connects).then_some(()));
        world.proxy().set(Way::Open);
        world.wait_connected();
        if P::KEEPS {
            world.wait_text(&answer);
        }
        world.exchange(&format!("said after the cut after {bytes}"));
        world.assert_not_doubled(&answer);
    }
}

/// The answer is ready when the platform is not.
pub fn reply_meets_a_fault<P: Platform>() {
    for way in [Way::Reset, Way::BlackHole] {
        let (model, gate) = (Model::start(), Gate::default());
        model.rule("question", [Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text("ready at a bad time".to_owned())])]);
        let world = World::<P>::behind_a_proxy(Some(&model));
        let id = world.platform.says("question");
        model.wait_request(1, "question");
        world.wait_confirmed(&id);
        world.proxy().set(way);
        gate.open();
        world.gateway.wait_status("the reply waits to be delivered", |status| (status["outbox"]["pending"].as_u64()? >= 1).then_some(()));
        world.wait_lost();
        world.proxy().set(Way::Open);
        world.proxy().cut();
        world.wait_text("ready at a bad time");
        world.gateway.wait_idle();
        world.assert_answered("ready at a bad time");
    }
}
