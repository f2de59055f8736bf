//! Answers: each message gets one, whatever the platform delivers twice and whenever the gateway is killed.

use super::world::World;
use crate::platforms::Platform;
use crate::support::model::{self, Gate, Model, Reply, Step};
use crate::support::poll;
use std::time::Duration;

pub fn once_and_confirmed<P: Platform>() {
    let world = World::<P>::start();
    let adapter = world.wait_connected();
    assert!(adapter["identity"].as_str().is_some_and(|identity| !identity.is_empty()), "status says as whom: {adapter}");
    assert_eq!(adapter["platform"], P::NAME);
    world.gateway.cli(&["status"]).expect(0).says(P::NAME);
    world.exchange("the first answer");
    world.exchange("the second answer");
    assert_eq!(world.platform.texts(), ["the first answer", "the second answer"]);
    assert_eq!(world.platform.connects(), 1, "one connection served all that");
    let adapter = world.wait_connected();
    assert!(adapter["received"] == 2 && adapter["sent"] == 2, "{adapter}");
}

pub fn delivered_again<P: Platform>() {
    let mut world = World::<P>::start();
    let id = world.exchange("said once");
    let again = |world: &World<P>, end: &str| {
        for _ in 0..3 {
            world.platform.repeat(&id);
        }
        // Marks the end of what was delivered again.
        world.exchange(end);
    };
    again(&world, "the end of the first life");
    world.gateway.stop();
    world.gateway.start_again();
    world.wait_connected();
    again(&world, "the end of the second life");
    world.gateway.kill9();
    world.gateway.start_again();
    world.wait_connected();
    again(&world, "the end of the third life");
    let expected = ["said once", "the end of the first life", "the end of the second life", "the end of the third life"];
    assert_eq!(world.platform.texts(), expected, "{}", world.gateway.log_tail());
}

pub fn delivered_again_meanwhile<P: Platform>() {
    let (model, gate) = (Model::start(), Gate::default());
    model.rule("question", [Reply::Stream(vec![Step::Gate(gate.clone()), Step::Text("it was worked on".to_owned())])]);
    model.rule("the end", [model::text("that was the end")]);
    let world = World::<P>::with_model(&model);
    let id = world.platform.says("question");
    model.wait_request(1, "question");
    world.platform.repeat(&id);
    world.platform.repeat(&id);
    world.platform.says("the end");
    gate.open();
    world.wait_text("that was the end");
    world.gateway.wait_idle();
    assert_eq!(model.asked("question"), 1, "the model was asked once");
    world.assert_once("it was worked on");
}

/// The message is accepted, the model is silent, another message waits: both are answered after the restart, once each.
pub fn killed_before_the_reply<P: Platform>() {
    let model = Model::start();
    model.once("question", Reply::Silent);
    model.rule("question", [model::text("answered at last")]);
    model.rule("behind", [model::text("answered behind it")]);
    let mut world = World::<P>::with_model(&model);
    let question = world.platform.says("question");
    model.wait_request(1, "question");
    let behind = world.platform.says("behind");
    world.wait_confirmed(&question);
    world.wait_confirmed(&behind);
    // A platform that never asks for a confirmation does not tell when it has arrived.
    world.gateway.wait_status("both are accepted", |status| (status["inbox"]["pending"].as_u64()? >= 1).then_some(()));
    world.gateway.kill9();
    world.gateway.start_again();
    world.wait_text("answered at last");
    world.wait_text("answered behind it");
    world.gateway.wait_idle();
    world.assert_once("answered at last");
    world.assert_once("answered behind it");
}

/// Killed at the moment of the delivery and a little later.
pub fn killed_at_the_delivery<P: Platform>() {
    let mut world = World::<P>::start();
    world.exchange("warm");
    for (round, pause) in [0, 1, 2, 4, 8, 16].into_iter().enumerate() {
        let answer = format!("answer of round {round}");
        world.platform.says(&format!("echo: {answer}"));
        // The moment of the kill is what is varied here.
        poll::try_for(Duration::from_millis(pause), Duration::from_millis(1), || None::<()>);
        world.gateway.kill9();
        world.gateway.start_again();
        world.wait_connected();
        if P::KEEPS {
            world.wait_text(&answer);
        }
        world.exchange(&format!("end of round {round}"));
        world.assert_not_doubled(&answer);
        world.assert_once(&format!("end of round {round}"));
    }
}

const BURST: usize = 8;

/// Says them all at once. → the answers that are expected
fn burst<P: Platform>(world: &World<P>) -> Vec<String> {
    let answers: Vec<String> = (0..BURST).map(|number| format!("answer number {number}")).collect();
    for answer in &answers {
        world.platform.says(&format!("echo: {answer}"));
    }
    answers
}

pub fn burst_in_order<P: Platform>() {
    let world = World::<P>::start();
    let answers = burst(&world);
    world.wait_text(&answers[BURST - 1]);
    world.gateway.wait_idle();
    assert_eq!(world.platform.texts(), answers, "each once, in order");
}

/// Killed while some are answered, some accepted, and some on their way.
pub fn killed_in_a_burst<P: Platform>() {
    let mut world = World::<P>::start();
    let answers = burst(&world);
    world.wait_text(&answers[1]);
    world.gateway.kill9();
    world.gateway.start_again();
    world.wait_connected();
    if P::KEEPS {
        answers.iter().for_each(|answer| world.wait_text(answer));
    }
    world.exchange("the end");
    for answer in &answers {
        world.assert_not_doubled(answer);
    }
    let at = |answer: &String| world.platform.texts().iter().position(|text| text.contains(answer));
    let places: Vec<usize> = answers.iter().filter_map(at).collect();
    assert!(places.is_sorted(), "in order: {:#?}", world.platform.texts());
}

/// For how long a platform that refuses is watched.
const WATCH: Duration = Duration::from_secs(3);
/// Requests and connections that one may make in that time to be told "no".
const CONNECTIONS_MAX: u64 = 12;

/// The adapter says what is wrong, and tries seldom or not at all; the rest works.
fn refused<P: Platform>(world: &World<P>) {
    let adapter = world.wait(super::world::LATER, "the adapter says that it is refused", || {
        let adapter = world.adapter()?;
        (adapter["state"] == "failed" || adapter["state"] == "retrying").then_some(adapter)
    });
    let error = adapter["error"].as_str().unwrap_or_default();
    assert!(!error.is_empty(), "status says why: {adapter}");
    if adapter["state"] == "failed" {
        assert!(error.contains(". "), "status says what to do, too: {adapter}");
        let told = world.gateway.log_lines().iter().filter(|line| line.contains(error)).count();
        assert_eq!(told, 1, "told once, in the same words: {adapter}\n{}", world.gateway.log_tail());
    }
    let before = world.platform.server().connections();
    world.gateway.chat("echo: the terminal works").expect(0).says("the terminal works");
    world.gateway.cli(&["status"]).expect(1).says(P::NAME).says(error.split([':', ';', ',']).next().unwrap_or_default());
    poll::never(WATCH, "it is connected", || world.state() == "connected");
    let tried = world.platform.server().connections() - before;
    assert!(
        tried <= CONNECTIONS_MAX,
        "{}: {tried} connections in {WATCH:?} to a platform that refuses\n{}",
        P::NAME,
        world.gateway.log_tail()
    );
}

pub fn bad_credential<P: Platform>() {
    let platform = P::start();
    platform.refuse(true);
    let address = platform.server().address;
    let mut world = World::unconnected(platform, address);
    refused(&world);
    assert_eq!(world.platform.connects(), 0);
    world.gateway.stop();
    world.platform.refuse(false);
    world.gateway.start_again();
    world.wait_connected();
    world.exchange("accepted now");
}

pub fn revoked_credential<P: Platform>() {
    let world = World::<P>::start();
    world.exchange("before");
    world.platform.refuse(true);
    world.platform.server().cut_all();
    refused(&world);
}
