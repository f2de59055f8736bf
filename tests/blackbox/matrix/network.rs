//! Faults of a real network, made by the kernel: in a namespace of the test's own, packets are dropped and sockets killed.
//!
//! `scripts/netfaults` runs these alone. Where namespaces or `nft` are missing, each says so and passes.

use super::world::short_phases;
use super::{BUDGET, SLACK};
use crate::support::gateway::Gateway;
use crate::support::http::Server;
use crate::support::model::{self, Model, Protocol, Reply};
use crate::support::namespace::{administer, try_to_administer, within};
use crate::support::telegram::{ANA, Telegram};
use nix::sys::signal::Signal;
use std::time::Duration;

/// What a gateway with these faults has around it.
struct Net {
    gateway: Gateway,
    telegram: Telegram,
    model: Model,
}

fn port(server: &Server) -> u16 {
    server.address.port()
}

impl Net {
    fn start() -> Self {
        let (telegram, model) = (Telegram::start(), Model::start());
        administer("nft add table inet faults; nft add chain inet faults input '{ type filter hook input priority 0; }'");
        let setup = short_phases(Gateway::setup()).telegram(&telegram).model(&model, Protocol::Anthropic);
        let gateway = setup.set("session", "busy", "\"queue\"").set("adapters.telegram", "streaming", "false").start();
        gateway.wait_adapter("telegram", "connected");
        Self { gateway, telegram, model }
    }

    /// A rule for what goes to and comes from the platform.
    fn rule(&self, what: &str) {
        for direction in ["dport", "sport"] {
            administer(&format!("nft 'add rule inet faults input tcp {direction} {} {what}'", port(&self.telegram.server)));
        }
    }

    /// The same for the provider.
    fn rule_for_model(&self, what: &str) {
        for direction in ["dport", "sport"] {
            administer(&format!("nft 'add rule inet faults input tcp {direction} {} {what}'", port(&self.model.server)));
        }
    }

    fn heal(&self) {
        administer("nft flush chain inet faults input");
    }

    /// The connections to the platform are gone at its side, and it did not say so.
    fn forget_connections(&self) {
        self.rule("drop");
        self.telegram.server.cut_all();
        // It says "Invalid argument" about the sockets that cannot be killed, and kills the others.
        try_to_administer(&format!("ss -K sport = :{}", port(&self.telegram.server)));
        self.heal();
    }

    /// A turn hangs, a message waits behind it, the network breaks: the stop is on time, the next start answers.
    fn stop_and_start(mut self, spoil: impl FnOnce(&Self)) {
        self.model.rule("hang", [Reply::Silent]);
        self.model.rule("pending", [model::text("the pending answer")]);
        self.telegram.user_says(ANA, "hang");
        self.model.wait_request(1, "hang");
        self.telegram.user_says(ANA, "pending");
        self.telegram.wait_confirmed();
        spoil(&self);
        self.gateway.signal(Signal::SIGTERM);
        let exit = self.gateway.wait_exit(BUDGET + SLACK);
        assert_eq!(exit.code, Some(0), "{exit:?}\n{}", self.gateway.log_tail());
        self.gateway.assert_nothing_left();
        self.heal();
        self.model.rule("hang", [model::text("no longer hanging")]);
        self.gateway.start_again();
        self.telegram.wait_text_within(Duration::from_secs(40), ANA, "the pending answer");
        self.gateway.wait_idle();
        assert_eq!(self.telegram.lock().count(ANA, "the pending answer"), 1);
    }

    /// The network breaks and heals while the gateway runs: it finds its way back by itself.
    fn comes_back(self, broken: Duration, spoil: impl FnOnce(&Self)) {
        self.model.rule("after", [model::text("found again")]);
        spoil(&self);
        crate::support::poll::never(broken, "the gateway ends", || {
            !std::path::Path::new(&format!("/proc/{}", self.gateway.pid())).exists()
        });
        self.heal();
        self.telegram.user_says(ANA, "after");
        self.telegram.wait_text_within(Duration::from_secs(60), ANA, "found again");
        self.gateway.wait_idle();
        let answers = self.telegram.texts(ANA);
        assert!(answers.iter().filter(|text| text.contains("found again")).count() == 1, "{answers:?}");
    }
}

macro_rules! network {
    ($($name:ident: $body:expr;)*) => {
        $(#[test]
        fn $name() {
            within(concat!("matrix::network::", stringify!($name)), &["nft", "ss"], || $body(Net::start()));
        })*
    };
}

network! {
    a11_packets_to_the_platform_are_dropped: |net: Net| net.stop_and_start(|net| net.rule("drop"));
    a11_packets_to_the_provider_are_dropped: |net: Net| net.stop_and_start(|net| net.rule_for_model("drop"));
    a48_the_platform_lost_its_connections: |net: Net| net.stop_and_start(Net::forget_connections);
    a12_no_connection_is_answered: |net: Net| net.stop_and_start(|net| {
        net.rule("tcp flags syn drop");
        net.telegram.server.cut_all();
    });
    a48_a_gateway_finds_back_after_dropped_packets: |net: Net| net.comes_back(Duration::from_secs(4), |net| net.rule("drop"));
    a48_a_gateway_finds_back_to_a_platform_that_lost_its_connections:
        |net: Net| net.comes_back(Duration::from_millis(100), Net::forget_connections);
    a49_a_gateway_finds_back_after_resets:
        |net: Net| net.comes_back(Duration::from_secs(3), |net| net.rule("reject with tcp reset"));
    a49_a_gateway_works_while_packets_get_lost: |net: Net| {
        net.rule("numgen random mod 100 < 25 drop");
        for number in 0..5 {
            net.model.rule(&format!("lossy {number}"), [model::text(&format!("through {number}"))]);
            net.telegram.user_says(ANA, &format!("lossy {number}"));
            net.telegram.wait_text_within(Duration::from_secs(60), ANA, &format!("through {number}"));
        }
        net.heal();
        net.gateway.wait_idle();
    };
}
