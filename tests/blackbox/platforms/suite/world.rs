//! A platform, a gateway, and the network between them.

use crate::platforms::Platform;
use crate::support::faults::Proxy;
use crate::support::gateway::{Gateway, Setup};
use crate::support::model::{Model, Protocol};
use crate::support::poll::{self, SOON};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// With backoff and a time-out in between.
pub const LATER: Duration = Duration::from_secs(45);
/// Between two looks: each copies all that the platform has.
const LOOK: Duration = Duration::from_millis(15);

pub struct World<P> {
    // First: it is stopped while the others are still there.
    pub gateway: Gateway,
    pub proxy: Option<Proxy>,
    pub platform: P,
}

/// One chat, one message after the other.
fn setup<P: Platform>(platform: &P, address: SocketAddr) -> Setup {
    platform.configure(Gateway::setup().set("session", "busy", "\"queue\""), address)
}

impl<P: Platform> World<P> {
    /// Without a proxy, with the offline model.
    pub fn start() -> Self {
        let platform = P::start();
        let address = platform.server().address;
        let gateway = setup(&platform, address).start();
        Self::connected(Self { gateway, proxy: None, platform })
    }
    pub fn with_model(model: &Model) -> Self {
        let platform = P::start();
        let address = platform.server().address;
        let gateway = setup(&platform, address).model(model, Protocol::Anthropic).start();
        Self::connected(Self { gateway, proxy: None, platform })
    }
    /// A proxy in between, and short waits before it connects again.
    pub fn behind_a_proxy(model: Option<&Model>) -> Self {
        let platform = P::start();
        let proxy = Proxy::start(platform.server().address);
        let mut setup = setup(&platform, proxy.address).env("HERMES_GATEWAY_FAULT_BACKOFF", "200ms");
        if let Some(model) = model {
            setup = setup.model(model, Protocol::Anthropic);
        }
        let gateway = setup.start();
        Self::connected(Self { gateway, proxy: Some(proxy), platform })
    }
    /// Whatever is at that address. Not waited for.
    pub fn unconnected(platform: P, address: SocketAddr) -> Self {
        let gateway = setup(&platform, address).start();
        Self { gateway, proxy: None, platform }
    }
    fn connected(world: Self) -> Self {
        world.wait_connected();
        world
    }
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("this world has a proxy")
    }

    pub fn adapter(&self) -> Option<Value> {
        let status = self.gateway.try_status()?;
        status["adapters"].as_array()?.iter().find(|adapter| adapter["name"] == P::NAME).cloned()
    }
    pub fn state(&self) -> String {
        self.adapter().and_then(|adapter| Some(adapter["state"].as_str()?.to_owned())).unwrap_or_default()
    }
    pub fn wait_connected(&self) -> Value {
        self.wait(LATER, "the adapter is connected", || self.adapter().filter(|adapter| adapter["state"] == "connected"))
    }
    /// It is found out in time that the platform is not there, and `status` says so and has a reason.
    pub fn wait_lost(&self) {
        let within = P::INTERVAL + Duration::from_secs(10);
        self.wait(within, "the lost connection is noticed", || (self.state() != "connected").then_some(()));
        self.gateway.cli(&["status"]).expect(1).says(P::NAME);
    }

    /// Waits, and shows everything if it does not come.
    pub fn wait<T>(&self, within: Duration, what: &str, ask: impl FnMut() -> Option<T>) -> T {
        poll::try_for(within, LOOK, ask).unwrap_or_else(|| {
            panic!(
                "{}: {what}: not seen within {within:?}\ntexts: {:#?}\nadapter: {:?}; connected {}, connects {}\n{}",
                P::NAME,
                self.platform.texts(),
                self.adapter(),
                self.platform.connected(),
                self.platform.connects(),
                self.gateway.log_tail()
            )
        })
    }

    pub fn copies(&self, answer: &str) -> Vec<String> {
        self.platform.texts().into_iter().filter(|text| text.contains(answer)).collect()
    }
    pub fn wait_text(&self, answer: &str) {
        self.wait(LATER, &format!("the answer {answer:?}"), || (!self.copies(answer).is_empty()).then_some(()));
    }
    /// One question, its answer, and nothing left to do. → the message's id
    pub fn exchange(&self, answer: &str) -> String {
        let id = self.platform.says(&format!("echo: {answer}"));
        self.wait_text(answer);
        self.wait_confirmed(&id);
        self.gateway.wait_idle();
        id
    }
    pub fn wait_confirmed(&self, id: &str) {
        self.wait(SOON, &format!("message {id} is confirmed"), || self.platform.is_confirmed(id).then_some(()));
    }
    /// Exactly one copy is there, without a mark.
    pub fn assert_once(&self, answer: &str) {
        let copies = self.copies(answer);
        assert!(copies.len() == 1 && !copies[0].contains("duplicate"), "{}: {answer:?}: {copies:?}\n{}", P::NAME, self.gateway.log_tail());
    }
    /// One copy without a mark at the most; what may be a second one says so.
    pub fn assert_not_doubled(&self, answer: &str) {
        let copies = self.copies(answer);
        let unmarked = copies.iter().filter(|copy| !copy.contains("duplicate")).count();
        assert!(unmarked <= 1 && copies.len() <= 2, "{}: {answer:?}: {copies:?}\n{}", P::NAME, self.gateway.log_tail());
    }
    pub fn assert_answered(&self, answer: &str) {
        assert!(!self.copies(answer).is_empty(), "{}: {answer:?} is missing: {:#?}", P::NAME, self.platform.texts());
        self.assert_not_doubled(answer);
    }
}
