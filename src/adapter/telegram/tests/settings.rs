//! Tests of the configuration's keys.

use super::harness::config;
use crate::adapter::table;
use crate::adapter::telegram::Settings;
use crate::config::{AdapterConfig, Secret};
use std::time::Duration;

fn with(key: &str, value: &str) -> AdapterConfig {
    let mut config = config("http://127.0.0.1:1");
    config.keys.insert(key.to_owned(), value.to_owned());
    config
}

#[test]
fn keys_are_read_and_checked() {
    let check = |key: &str, value: &str, fine: bool| assert_eq!(Settings::read(&with(key, value)).is_ok(), fine, "{key} = {value:?}");
    check("base_url", "https://api.telegram.org/", true);
    check("base_url", "http://localhost:8081", true);
    check("base_url", "", true);
    check("base_url", "api.telegram.org", false);
    check("base_url", "wss://api.telegram.org", false);
    check("base_url", "https://x/?a=1", false);
    check("rate_limit", "off", true);
    check("rate_limit", "on", false);
    check("poll_timeout", "50", true);
    check("poll_timeout", "25s", true);
    check("poll_timeout", "0", false);
    check("poll_timeout", "51", false);
    check("poll_timeout", "soon", false);
    assert_eq!(Settings::read(&with("base_url", "https://x//")).expect("fine").base_url, "https://x");
    let mut bare = config("");
    bare.keys.clear();
    let settings = Settings::read(&bare).expect("fine");
    assert_eq!(
        (settings.base_url.as_str(), settings.rate_limit, settings.poll_timeout),
        (super::super::BASE_URL, true, Duration::from_secs(30))
    );
}

#[test]
fn a_token_that_is_none_is_refused_and_not_shown() {
    for token in ["", "  ", "12 34:AAH", "123:AAH/../x", "\"123:AAH\""] {
        let mut config = config("http://127.0.0.1:1");
        config.secrets.insert("token".to_owned(), Secret::new(token.to_owned()));
        let error = Settings::read(&config).expect_err("refused");
        assert!(token.trim().is_empty() || !error.contains(token), "{error}");
    }
}

#[test]
fn the_table_builds_what_it_lists() {
    assert!(table::build(&config("http://127.0.0.1:1")).is_ok());
    let mut odd = config("http://127.0.0.1:1");
    odd.platform = "telegraph".to_owned();
    let error = table::build(&odd).err().expect("refused");
    assert!(error.contains("telegraph") && error.contains("telegram"), "{error}");
    for platform in table::platforms() {
        assert_eq!(table::platforms().iter().filter(|other| other.name == platform.name).count(), 1);
        for key in platform.keys {
            assert!(!(key.help.is_empty() || key.required && key.default.is_some()), "{}", key.name);
        }
    }
}
