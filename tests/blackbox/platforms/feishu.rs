//! Feishu and Lark: the long connection, and messages, cards and reactions over REST.

mod receiving;
mod sending;
mod trouble;

use super::{Platform, configured};
use crate::support::feishu::{ANA, ANA_CHAT, Feishu};
use crate::support::gateway::{Gateway, Setup};
use crate::support::http::Server;
use crate::support::model::{Model, Protocol};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

const GROUP: &str = "oc_group";

impl Platform for Feishu {
    const NAME: &'static str = "feishu";
    const INTERVAL: Duration = Duration::from_secs(5);
    const KEEPS: bool = true;
    const GOODBYE: bool = true;

    fn start() -> Self {
        Self::begin()
    }
    fn server(&self) -> &Server {
        &self.server
    }
    fn configure(&self, setup: Setup, address: SocketAddr) -> Setup {
        self.configured_at(setup, address)
    }
    fn says(&self, text: &str) -> String {
        self.says_in(ANA_CHAT, ANA, text, &json!({}))
    }
    fn repeat(&self, id: &str) {
        self.push_again(id);
    }
    fn is_confirmed(&self, id: &str) -> bool {
        self.lock().event(id).is_confirmed()
    }
    fn texts(&self) -> Vec<String> {
        self.texts_in(ANA_CHAT)
    }
    fn connected(&self) -> usize {
        self.lock().clients.iter().filter(|client| client.ready).count()
    }
    fn connects(&self) -> usize {
        self.lock().connects
    }
    fn refuse(&self, refuse: bool) {
        self.change(|state| {
            state.refuse = refuse;
            state.tokens.clear();
        });
    }
}

fn setup(feishu: &Feishu) -> Setup {
    configured(feishu, Gateway::setup())
}

/// With the built-in model, connected.
fn offline(feishu: &Feishu) -> Gateway {
    let gateway = setup(feishu).start();
    gateway.wait_adapter("feishu", "connected");
    gateway
}

/// With a scripted model, connected.
fn with_model(feishu: &Feishu, model: &Model) -> Gateway {
    let gateway = setup(feishu).model(model, Protocol::Anthropic).start();
    gateway.wait_adapter("feishu", "connected");
    gateway
}

/// Nothing that is secret may be told to anybody.
fn assert_no_secret(feishu: &Feishu, gateway: &Gateway) {
    let log = gateway.log_lines().concat() + &gateway.status().to_string();
    let secret = feishu.lock().app_secret.clone();
    for part in [secret.as_str(), "KEYsecret", "ticket=", "t-g1044gh"] {
        assert!(!log.contains(part), "{part:?} is in the log or the status");
    }
}
