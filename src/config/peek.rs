//! A look at one section of a configuration that is not complete yet: `login` is what completes it.
//!
//! Nothing is checked here; what cannot be understood counts as not being there.

use super::environment::Environment;
use super::places::Places;
use super::secret::read_bounded;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// What `[adapters.NAME]` says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peeked {
    /// The section is there.
    pub exists: bool,
    pub platform: Option<String>,
    pub base_url: Option<String>,
    /// Where the section wants its token to be.
    pub token_file: Option<PathBuf>,
    /// `[net] ca_file`, which is needed to get anywhere.
    pub ca_file: Option<PathBuf>,
}

/// Looks at the section of an adapter. A configuration that cannot be read has none.
#[must_use]
pub fn peek(places: &Places, environment: &Environment, adapter: &str) -> Peeked {
    let Ok((text, _)) = read_bounded(&places.config) else { return Peeked::default() };
    let directory = places.config.parent().unwrap_or(Path::new(""));
    peek_text(&text, adapter, &|written| directory.join(environment.expand(written)))
}

fn peek_text(text: &str, adapter: &str, locate: &dyn Fn(&str) -> PathBuf) -> Peeked {
    let Ok(document) = text.parse::<Table>() else { return Peeked::default() };
    let table = |of: Option<&Value>| of.and_then(Value::as_table).cloned();
    let (section, net) = (table(document.get("adapters")).and_then(|adapters| table(adapters.get(adapter))), table(document.get("net")));
    let text = |of: &Option<Table>, key: &str| of.as_ref()?.get(key)?.as_str().map(str::to_owned);
    Peeked {
        exists: section.is_some(),
        platform: text(&section, "platform"),
        base_url: text(&section, "base_url"),
        token_file: text(&section, "token_file").map(|written| locate(&written)),
        ca_file: text(&net, "ca_file").map(|written| locate(&written)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_looked_at_whatever_the_rest_is_like() {
        let look = |text: &str| peek_text(text, "weixin", &|written| Path::new("/etc/x").join(written));
        let text = "[provider]\nkind = 7\n[net]\nca_file = \"ca.pem\"\n[adapters.weixin]\ntoken_file = \"weixin.json\"\nbase_url = \"http://x\"\nodd = 1\n";
        let found = look(text);
        assert!(found.exists && found.platform.is_none());
        assert_eq!(found.token_file.as_deref(), Some(Path::new("/etc/x/weixin.json")));
        assert_eq!((found.base_url.as_deref(), found.ca_file.as_deref()), (Some("http://x"), Some(Path::new("/etc/x/ca.pem"))));
        assert_eq!(look("[adapters.weixin]\ntoken_file = \"/a/b\"\n").token_file.as_deref(), Some(Path::new("/a/b")));
        for nothing in ["", "[adapters", "adapters = 1", "[adapters]\nweixin = 1", "[adapters.telegram]\ntoken_file = \"x\""] {
            assert_eq!(look(nothing), Peeked::default(), "{nothing}");
        }
    }
}
