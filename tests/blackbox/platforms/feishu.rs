//! Feishu and Lark: the long connection, and messages, cards and reactions over REST.

mod receiving;
mod sending;
mod trouble;

use crate::support::feishu::Feishu;
use crate::support::gateway::{Gateway, Setup};
use crate::support::model::{Model, Protocol};

const GROUP: &str = "oc_group";

fn setup(feishu: &Feishu) -> Setup {
    feishu.configured(Gateway::setup())
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
