//! Proxies from the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY` and their lower-case forms.
//!
//! TLS and WebSocket connections go through a tunnel (CONNECT); plain HTTP is asked of the proxy in absolute form.
//! This machine itself is never reached through a proxy. SOCKS and `https://` proxies are refused with a clear error.

use super::NetError;
use super::url::{Target, split_authority};
use std::net::IpAddr;

/// A proxy: where it is, and the credentials for it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) target: Target,
    /// The value of `Proxy-Authorization`.
    pub(super) authorization: Option<String>,
}

/// What the environment says about proxies, read once.
#[derive(Clone, Default)]
pub(super) struct Proxies {
    plain: Option<Result<Proxy, String>>,
    tls: Option<Result<Proxy, String>>,
    exceptions: Vec<String>,
}

impl Proxies {
    pub(super) fn from_environment() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// `variable` gives the value of an environment variable.
    pub(super) fn from_lookup(variable: impl Fn(&str) -> Option<String>) -> Self {
        let named = |names: &[&'static str]| {
            let found = names.iter().find_map(|name| Some((*name, variable(name).filter(|value| !value.trim().is_empty())?)));
            found.map(|(name, value)| parse(&value).map_err(|cause| format!("{name} {cause}")))
        };
        let exceptions = variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default();
        Self {
            plain: named(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            tls: named(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            exceptions: exceptions.split([',', ' ']).map(|entry| entry.trim().to_ascii_lowercase()).filter(|e| !e.is_empty()).collect(),
        }
    }

    /// The proxy for `target`, or `None` for a direct connection.
    ///
    /// # Errors
    /// [`NetError::BadUrl`] if the variable that applies cannot be used. A direct connection in its place would go
    /// where the operator did not want it.
    pub(super) fn route(&self, target: &Target) -> Result<Option<&Proxy>, NetError> {
        if is_this_machine(&target.host) || self.exceptions.iter().any(|entry| excepts(entry, target)) {
            return Ok(None);
        }
        let proxy = if target.tls { &self.tls } else { &self.plain };
        proxy.as_ref().map(Result::as_ref).transpose().map_err(|cause| NetError::BadUrl(cause.clone()))
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Errors never repeat the value: it may hold a password.
fn parse(value: &str) -> Result<Proxy, String> {
    let value = value.trim();
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
    match scheme.to_ascii_lowercase().as_str() {
        "http" => {}
        "https" => return Err("names an https:// proxy; only http:// proxies are supported (targets may be https all the same)".to_owned()),
        scheme if scheme.starts_with("socks") => {
            return Err("names a SOCKS proxy; only http:// proxies are supported".to_owned());
        }
        _ => return Err("must have the form http://host:port".to_owned()),
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (credentials, authority) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let (host, port) = split_authority(authority).map_err(|_| "must have the form http://host:port".to_owned())?;
    let authorization = credentials.map(|credentials| {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let mut plain = percent_decode(user);
        plain.push(b':');
        plain.extend(percent_decode(password));
        format!("Basic {}", base64(&plain))
    });
    Ok(Proxy { target: Target { tls: false, host, port: port.unwrap_or(80) }, authorization })
}

/// Whether a `NO_PROXY` entry is about this target: `*`, a name (and all below it), an address, a network in CIDR
/// form, each with an optional port.
fn excepts(entry: &str, target: &Target) -> bool {
    if entry == "*" {
        return true;
    }
    if let (Ok(address), Some((network, bits))) = (target.host.parse::<IpAddr>(), entry.split_once('/')) {
        return network.parse().is_ok_and(|network| bits.parse().is_ok_and(|bits| is_within(address, network, bits)));
    }
    if entry.parse::<IpAddr>().is_ok_and(|address| target.host.parse() == Ok(address)) {
        return true;
    }
    let Ok((name, port)) = split_authority(entry.trim_start_matches('*')) else { return false };
    if port.is_some_and(|port| port != target.port) {
        return false;
    }
    let name = name.trim_start_matches('.');
    target.host == name || target.host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let same = |a: u128, b: u128, width: u32| bits <= width && (bits == 0 || (a ^ b) >> (width - bits) == 0);
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|pair| std::str::from_utf8(pair).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    plain
}

/// RFC 4648 section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().enumerate().fold(0_usize, |group, (at, byte)| group | usize::from(*byte) << (16 - 8 * at));
        for place in 0..4 {
            let digit = ALPHABET[group >> (18 - 6 * place) & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::url::Url;
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from_lookup(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn variables_choose_the_proxy() {
        let check = |variables: &[(&str, &str)], url: &str, expect: &str| {
            let proxies = proxies(variables);
            let url = Url::parse(url).expect("good");
            let route = match proxies.route(&url.target) {
                Ok(Some(proxy)) => format!("{} {}", proxy.target, proxy.authorization.as_deref().unwrap_or("-")),
                Ok(None) => "direct".to_owned(),
                Err(error) => error.to_string(),
            };
            assert_eq!(route, expect, "{variables:?}");
        };
        check(&[], "https://x.org/", "direct");
        check(&[("HTTPS_PROXY", "http://p:3128")], "https://x.org/", "p:3128 -");
        check(&[("HTTPS_PROXY", "http://p:3128")], "http://x.org/", "direct");
        check(&[("HTTPS_PROXY", "a:1"), ("https_proxy", "b:2")], "wss://x.org/", "b:2 -");
        check(&[("ALL_PROXY", "p")], "http://x.org/", "p:80 -");
        check(&[("http_proxy", "http://user:p%40ss@p:1/")], "http://x.org/", "p:1 Basic dXNlcjpwQHNz");
        check(&[("HTTPS_PROXY", " ")], "https://x.org/", "direct");
        check(&[("HTTPS_PROXY", "p")], "https://127.0.0.1:8443/", "direct");
        check(&[("HTTP_PROXY", "p")], "http://localhost/", "direct");
        check(&[("HTTP_PROXY", "p")], "http://[::1]/", "direct");
        check(
            &[("ALL_PROXY", "socks5://u:secret@p:1080")],
            "https://x.org/",
            "ALL_PROXY names a SOCKS proxy; only http:// proxies are supported",
        );
        check(&[("HTTPS_PROXY", "http://u:secret@:1")], "https://x.org/", "HTTPS_PROXY must have the form http://host:port");
    }

    #[test]
    fn exceptions_are_heeded() {
        let check = |list: &str, url: &str, direct: bool| {
            let proxies = proxies(&[("ALL_PROXY", "p:1"), ("NO_PROXY", list)]);
            let url = Url::parse(url).expect("good");
            assert_eq!(proxies.route(&url.target).expect("usable").is_none(), direct, "{list} {url:?}");
        };
        check("*", "https://x.org/", true);
        check("x.org", "https://x.org/", true);
        check("X.ORG", "https://a.x.org/", true);
        check(".x.org", "https://a.x.org/", true);
        check("*.x.org", "https://a.x.org/", true);
        check("x.org", "https://ax.org/", false);
        check("y.org, x.org", "https://x.org/", true);
        check("x.org:443", "https://x.org/", true);
        check("x.org:80", "https://x.org/", false);
        check("10.0.0.0/8", "http://10.1.2.3/", true);
        check("10.0.0.0/8", "http://11.1.2.3/", false);
        check("10.1.2.3", "http://10.1.2.3/", true);
        check("fd00::/8", "http://[fd00::1]/", true);
        check("fd00::1", "http://[fd00::1]/", true);
        check("0.0.0.0/0", "http://9.9.9.9/", true);
        check("10.0.0.0/99", "http://10.0.0.0/", false);
        check("", "https://x.org/", false);
    }

    #[test]
    fn base64_pads() {
        for (plain, expect) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")] {
            assert_eq!(base64(plain.as_bytes()), expect);
        }
    }
}
