//! All platforms in one gateway: they start, answer and come back side by side, and what is wrong with one is no other's
//! business.

use super::Platform;
use crate::support::feishu::Feishu;
use crate::support::gateway::{Gateway, STOP_BUDGET, Setup};
use crate::support::homeassistant::HomeAssistant;
use crate::support::poll::{self, SOON};
use crate::support::qqbot::QqBot;
use crate::support::telegram::Telegram;
use crate::support::wecom::Wecom;
use crate::support::weixin::Weixin;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LATER: Duration = Duration::from_secs(45);
/// Shorter than any answer that a test waits for, longer than what an adapter does before it is connected.
const LOOK: Duration = Duration::from_millis(20);

/// [`Platform`] without its type.
pub trait Any {
    fn name(&self) -> &'static str;
    fn add_to(&self, setup: Setup, address: SocketAddr) -> Setup;
    fn says(&self, text: &str) -> String;
    fn texts(&self) -> Vec<String>;
    fn connected(&self) -> usize;
    fn connects(&self) -> usize;
    fn refuse(&self, refuse: bool);
    fn is_confirmed(&self, id: &str) -> bool;
    fn server(&self) -> &crate::support::http::Server;
}

impl<P: Platform> Any for P {
    fn name(&self) -> &'static str {
        P::NAME
    }
    fn add_to(&self, setup: Setup, address: SocketAddr) -> Setup {
        self.configure(setup, address)
    }
    fn says(&self, text: &str) -> String {
        Platform::says(self, text)
    }
    fn texts(&self) -> Vec<String> {
        Platform::texts(self)
    }
    fn connected(&self) -> usize {
        Platform::connected(self)
    }
    fn connects(&self) -> usize {
        Platform::connects(self)
    }
    fn refuse(&self, refuse: bool) {
        Platform::refuse(self, refuse);
    }
    fn is_confirmed(&self, id: &str) -> bool {
        Platform::is_confirmed(self, id)
    }
    fn server(&self) -> &crate::support::http::Server {
        Platform::server(self)
    }
}

/// One of each.
pub fn all() -> Vec<Box<dyn Any>> {
    vec![
        Box::new(<Telegram as Platform>::start()),
        Box::new(<Feishu as Platform>::start()),
        Box::new(<QqBot as Platform>::start()),
        Box::new(<Weixin as Platform>::start()),
        Box::new(<Wecom as Platform>::start()),
        Box::new(<HomeAssistant as Platform>::start()),
    ]
}

fn setup(platforms: &[Box<dyn Any>]) -> Setup {
    platforms.iter().fold(Gateway::setup(), |setup, platform| platform.add_to(setup, platform.server().address))
}

/// `name` has this state, and the others are connected.
fn wait_states(gateway: &Gateway, platforms: &[Box<dyn Any>], except: &[&str]) {
    for platform in platforms.iter().filter(|platform| !except.contains(&platform.name())) {
        gateway.wait_adapter(platform.name(), "connected");
    }
}

/// Says something on each of them at once, and waits for the answers.
fn answered(gateway: &Gateway, platforms: &[Box<dyn Any>], except: &[&str], answer: &str) {
    let there = || platforms.iter().filter(|platform| !except.contains(&platform.name()));
    for platform in there() {
        platform.says(&format!("echo: {answer} on {}", platform.name()));
    }
    for platform in there() {
        let expected = format!("{answer} on {}", platform.name());
        let seen = poll::try_for(LATER, LOOK, || (platform.texts().iter().filter(|text| **text == expected).count() == 1).then_some(()));
        assert!(seen.is_some(), "{}: {expected:?} in {:#?}\n{}", platform.name(), platform.texts(), gateway.log_tail());
    }
}

#[test]
fn a56_all_platforms_in_one_gateway() {
    let platforms = all();
    let begun = Instant::now();
    let mut gateway = setup(&platforms).start();
    assert!(begun.elapsed() < Duration::from_secs(8), "ready before the platforms are: {:?}", begun.elapsed());
    wait_states(&gateway, &platforms, &[]);
    gateway.cli(&["status"]).expect(0);
    answered(&gateway, &platforms, &[], "first");
    answered(&gateway, &platforms, &[], "second");
    for platform in &platforms {
        assert_eq!(platform.texts().len(), 2, "{}: {:?}", platform.name(), platform.texts());
        assert_eq!(platform.connects(), 1, "{}", platform.name());
    }
    let exit = gateway.stop();
    assert!(exit.elapsed < Duration::from_secs(2), "the adapters end side by side: {exit:?}");
    for platform in &platforms {
        poll::eventually(SOON, platform.name(), || (platform.connected() == 0).then_some(()));
    }
}

#[test]
fn a46_a_restart_from_outside_connects_all_again_and_tells_nobody() {
    let platforms = all();
    let gateway = setup(&platforms).start();
    wait_states(&gateway, &platforms, &[]);
    answered(&gateway, &platforms, &[], "before");
    gateway.wait_idle();
    for round in 0..2 {
        gateway.cli(&["restart"]).expect(0);
        for platform in &platforms {
            poll::eventually(LATER, platform.name(), || (platform.connects() == round + 2).then_some(()));
        }
        wait_states(&gateway, &platforms, &[]);
        answered(&gateway, &platforms, &[], &format!("after {round}"));
    }
    for platform in &platforms {
        let name = platform.name();
        assert_eq!(platform.texts(), ["before", "after 0", "after 1"].map(|answer| format!("{answer} on {name}")), "and nothing else");
    }
}

/// The chat that asked is told that the gateway is back, once; the others are told nothing.
#[test]
fn a43_a46_a_restart_from_each_chat_is_told_to_that_chat_alone() {
    let platforms = all();
    let gateway = setup(&platforms).start();
    wait_states(&gateway, &platforms, &[]);
    answered(&gateway, &platforms, &[], "before");
    gateway.wait_idle();
    let online = |platform: &dyn Any| platform.texts().iter().filter(|text| text.contains("Gateway online")).count();
    for (number, asker) in platforms.iter().enumerate() {
        let before: Vec<usize> = platforms.iter().map(|platform| platform.connects()).collect();
        asker.says("/restart");
        for (platform, before) in platforms.iter().zip(before) {
            poll::eventually(LATER, platform.name(), || (platform.connects() > before).then_some(()));
        }
        poll::eventually(LATER, asker.name(), || (online(asker.as_ref()) == 1).then_some(()));
        wait_states(&gateway, &platforms, &[]);
        answered(&gateway, &platforms, &[], &format!("after {number}"));
        gateway.wait_idle();
        for (other, platform) in platforms.iter().enumerate() {
            let expected = usize::from(other <= number);
            assert_eq!(online(platform.as_ref()), expected, "asked on {}: {}: {:?}", asker.name(), platform.name(), platform.texts());
        }
    }
}

/// For each pair of neighbours: one is refused, one is down, and the others do not notice.
#[test]
fn a44_a45_a50_a56_one_bad_and_one_absent_platform_disturb_no_other() {
    let platforms = all();
    for (number, bad) in platforms.iter().enumerate() {
        let absent = &platforms[(number + 1) % platforms.len()];
        let mut except = vec![bad.name()];
        bad.refuse(true);
        if absent.name() != bad.name() {
            absent.server().go_down();
            except.push(absent.name());
        }
        let begun = Instant::now();
        let mut gateway = setup(&platforms).start();
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        wait_states(&gateway, &platforms, &except);
        answered(&gateway, &platforms, &except, &format!("while {} is bad", bad.name()));
        gateway.cli(&["status"]).expect(1).says(bad.name()).says(absent.name());
        gateway.chat("echo: the terminal works").expect(0).says("the terminal works");
        bad.refuse(false);
        if absent.name() != bad.name() {
            absent.server().come_back();
            // Whoever was only absent is found again without help.
            wait_states(&gateway, &platforms, &[bad.name()]);
            answered(&gateway, &platforms, &[bad.name()], &format!("{} is back", absent.name()));
        }
        let exit = gateway.stop();
        assert!(exit.elapsed < STOP_BUDGET, "{exit:?}");
    }
}
