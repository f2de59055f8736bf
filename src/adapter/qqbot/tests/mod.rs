//! Tests of the configuration's keys; what the adapter does is shown by the black-box tests.

use super::{BASE_URL, PLATFORM, Settings, TOKEN_URL, frame};
use crate::config::{AdapterConfig, Secret};

pub(super) fn config(url: &str) -> AdapterConfig {
    let keys = [("app_id", "102000001"), ("base_url", url), ("token_url", url)];
    AdapterConfig {
        name: "qqbot".to_owned(),
        platform: "qqbot".to_owned(),
        enabled: true,
        allowed_users: vec!["E4F4AEA33253A2797FB897C50B81D7ED".to_owned()],
        allowed_chats: vec![],
        admins: vec![],
        group_mention: true,
        streaming: true,
        keys: keys.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        secrets: [("client_secret".to_owned(), Secret::new("DG5g3B4j9X2KOErG".to_owned()))].into_iter().collect(),
    }
}

#[test]
fn keys_are_read_and_checked() {
    let check = |key: &str, value: &str, fine: bool| {
        let mut config = config("http://127.0.0.1:1");
        config.keys.insert(key.to_owned(), value.to_owned());
        assert_eq!(Settings::read(&config).is_ok(), fine, "{key} = {value:?}");
    };
    check("app_id", "", false);
    check("app_id", "12a", false);
    check("base_url", "https://sandbox.api.sgroup.qq.com/", true);
    check("base_url", "wss://api.sgroup.qq.com", false);
    check("base_url", "api.sgroup.qq.com", false);
    check("token_url", "https://x/?a=1", false);
    check("intents", "chats", true);
    check("intents", "33554432", true);
    check("intents", "0", false);
    check("intents", "some", false);
    check("markdown", "off", true);
    check("markdown", "on", false);
    let mut bare = config("");
    bare.keys.retain(|key, _| key == "app_id");
    let settings = Settings::read(&bare).expect("fine");
    assert_eq!((settings.base_url.as_str(), settings.token_url.as_str(), settings.intents), (BASE_URL, TOKEN_URL, None));
    bare.keys.insert("intents".to_owned(), "guilds".to_owned());
    assert_eq!(Settings::read(&bare).expect("fine").intents, Some(frame::GUILDS));
}

#[test]
fn a_secret_that_is_none_is_refused_and_not_shown() {
    for secret in ["", "  ", "a b"] {
        let mut config = config("http://127.0.0.1:1");
        config.secrets.insert("client_secret".to_owned(), Secret::new(secret.to_owned()));
        let error = Settings::read(&config).expect_err("refused");
        assert!(secret.trim().is_empty() || !error.contains(secret), "{error}");
    }
    assert!((PLATFORM.build)(&config("http://127.0.0.1:1")).is_ok());
    assert!(!format!("{:?}", Settings::read(&config("http://127.0.0.1:1"))).contains("DG5g3B4j9X2KOErG"));
}
