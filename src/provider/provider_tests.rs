//! Building the chain from the configuration.

use super::*;

fn config(kind: ProviderKind, model: &str, key: Option<&str>, base_url: &str) -> ProviderConfig {
    ProviderConfig {
        kind,
        model: model.to_owned(),
        api_key: key.map(|key| Secret::new(key.to_owned())),
        base_url: base_url.to_owned(),
        silence: Duration::from_secs(180),
        turn: Duration::from_secs(1800),
        max_turns: 4,
        max_tokens: 8192,
        retries: 3,
    }
}

#[test]
fn chains_are_built_or_the_remedy_is_told() {
    use ProviderKind::{Anthropic, Offline, OpenAi};
    let check = |configs: &[ProviderConfig], expect: Result<&str, &str>| {
        let name = build(configs).map(|chain| chain.name());
        assert_eq!(name.as_deref().map_err(String::as_str), expect);
    };
    let no_key = "[provider]: no api key; set `api_key_env`, `api_key_file` or `api_key`";
    check(&[config(Anthropic, "claude-x", Some("k\n"), "")], Ok("anthropic claude-x"));
    check(&[config(OpenAi, "gpt-x", Some("k"), "")], Ok("openai gpt-x"));
    check(&[config(Offline, "", None, "")], Ok("offline offline"));
    check(&[config(OpenAi, "llama", None, "http://127.0.0.1:11434/v1")], Ok("openai llama"));
    check(&[config(Anthropic, "claude-x", None, "http://127.0.0.1:1")], Ok("anthropic claude-x"));
    check(&[config(Anthropic, "claude-x", Some(" \n"), "")], Err(no_key));
    check(&[config(OpenAi, "gpt-x", None, "https://api.openai.com/v1/")], Err(no_key));
    check(&[config(OpenAi, " ", None, "http://127.0.0.1:1")], Err("[provider]: `model` is missing"));
    check(&[config(Offline, "", None, ""), config(OpenAi, "", None, "")], Err("[[fallback]] number 1: `model` is missing"));
    check(
        &[config(OpenAi, "m", Some("two words"), "")],
        Err("[provider]: the api key contains a space, a line break or a letter outside ASCII; copy it again"),
    );
    check(&[], Err("no model provider is configured; add a [provider] table (hermes-gateway setup does it)"));
}

#[test]
fn a_chain_is_shared_by_turn_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Chain>();
}
