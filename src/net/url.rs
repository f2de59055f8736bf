//! Addresses: just as much of a URL as a client needs. Pure.
//!
//! A URL may hold a secret, so nothing here puts more than its host into an error or a `Debug` text.

use super::NetError;

/// Where to connect: a host and port, in the clear or with TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub tls: bool,
    /// Lower-case name, or an IP address without brackets.
    pub host: String,
    pub port: u16,
}

impl Target {
    /// The host as a `Host` header and a URL have it.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == default_port(self.tls) { host } else { format!("{host}:{}", self.port) }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// A parsed `http`, `https`, `ws` or `wss` address.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub target: Target,
    /// Path and query as they go onto the wire; starts with a slash. May hold a secret.
    pub path: String,
    websocket: bool,
}

impl std::fmt::Debug for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Url({}://{}/…)", self.scheme(), self.target.authority())
    }
}

impl Url {
    /// # Errors
    /// [`NetError::BadUrl`], which says what is wrong without repeating the path.
    pub fn parse(text: &str) -> Result<Self, NetError> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(bad("the address must begin with https:// (or http://, ws://, wss://)"));
        };
        let (tls, websocket) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (false, false),
            "https" => (true, false),
            "ws" => (false, true),
            "wss" => (true, true),
            _ => return Err(bad("the address must begin with https:// (or http://, ws://, wss://)")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if authority.contains('@') {
            return Err(bad(
                "an address must not hold a user name or password; put credentials where the configuration has a place for them",
            ));
        }
        let (host, port) = split_authority(authority)?;
        let target = Target { tls, port: port.unwrap_or(default_port(tls)), host };
        Ok(Self { target, path: clean_path(tail), websocket })
    }

    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match (self.websocket, self.target.tls) {
            (false, false) => "http",
            (false, true) => "https",
            (true, false) => "ws",
            (true, true) => "wss",
        }
    }

    /// The whole address. May hold a secret.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}://{}{}", self.scheme(), self.target.authority(), self.path)
    }

    /// Resolves a reference (the `Location` of a redirect) against this address, RFC 3986 section 5.
    ///
    /// # Errors
    /// [`NetError::BadUrl`] when it leads elsewhere than to `http` or `https`.
    pub fn join(&self, reference: &str) -> Result<Self, NetError> {
        let reference = reference.trim();
        let is_absolute = reference
            .split_once(':')
            .is_some_and(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)));
        if is_absolute {
            return Self::parse(reference);
        }
        if reference.starts_with("//") {
            return Self::parse(&format!("{}:{reference}", self.scheme()));
        }
        let (own_path, _query) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let reference = reference.split('#').next().unwrap_or_default();
        let path = if reference.is_empty() {
            self.path.clone()
        } else if reference.starts_with('?') {
            format!("{own_path}{reference}")
        } else {
            let (path, query) = reference.split_once('?').map_or((reference, None), |(path, query)| (path, Some(query)));
            let directory = if path.starts_with('/') { "" } else { &own_path[..=own_path.rfind('/').unwrap_or(0)] };
            let path = without_dots(&format!("{directory}{path}"));
            query.map_or(path.clone(), |query| format!("{path}?{query}"))
        };
        Ok(Self { target: self.target.clone(), path: clean_path(&path), websocket: self.websocket })
    }
}

fn bad(text: impl Into<String>) -> NetError {
    NetError::BadUrl(text.into())
}

/// Splits `host[:port]`, with IPv6 addresses in brackets.
pub(super) fn split_authority(authority: &str) -> Result<(String, Option<u16>), NetError> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| bad("the address has a [ without a ]"))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(bad("what stands in [ ] in the address is not an IPv6 address"));
        }
        let port = if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(|| bad("bad port in the address"))?) };
        (host, port)
    } else {
        authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)))
    };
    let port = match port {
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            let port = digits.parse().ok().filter(|port| *port != 0);
            Some(port.ok_or_else(|| bad(format!("the port {digits} of the address does not exist")))?)
        }
        Some(_) => return Err(bad("the port of the address is not a number")),
    };
    let host = host.to_ascii_lowercase();
    if host.is_empty() {
        return Err(bad("the address has no host"));
    }
    if !host.is_ascii() {
        return Err(bad(format!("write the host {host} of the address in its ASCII form (xn--…)")));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    if host.len() > 253 || !host.bytes().all(allowed) {
        return Err(bad("the host of the address has a character that host names cannot have, or is too long"));
    }
    Ok((host, port))
}

/// What follows the authority, as it goes onto the wire: no fragment, and nothing that could end the request line.
fn clean_path(tail: &str) -> String {
    let tail = tail.split('#').next().unwrap_or_default();
    let mut path = String::with_capacity(tail.len() + 1);
    if !tail.starts_with('/') {
        path.push('/');
    }
    for byte in tail.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// RFC 3986 section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_taken_apart() {
        let check = |text: &str, expect: &str| {
            let url = Url::parse(text).expect(text);
            assert_eq!(format!("{} {} {}", url.target, url.target.authority(), url.path), expect, "{text}");
        };
        check("https://API.Example.org", "api.example.org:443 api.example.org /");
        check("http://x:8080/a/b?c=d#e", "x:8080 x:8080 /a/b?c=d");
        check("https://x:443?q", "x:443 x /?q");
        check("wss://[::1]:9/w", "[::1]:9 [::1]:9 /w");
        check("http://[::1]/", "[::1]:80 [::1] /");
        check("http://x/ä b\r\nHost: y", "x:80 x /%C3%A4%20b%0D%0AHost:%20y");
        check("  http://x:/%20{}  ", "x:80 x /%20%7B%7D");
    }

    #[test]
    fn bad_addresses_are_refused_without_repeating_them() {
        for text in [
            "",
            "x",
            "ftp://x/",
            "http://",
            "http://:80/",
            "http://a b/",
            "http://x:99999/",
            "http://x:0/",
            "http://x:y/",
            "http://[::1/",
            "http://[x]/",
            "http://u:secret@x/",
            "http://ä.example/",
            "http://[::1]x/",
            &format!("http://{}/", "a".repeat(254)),
        ] {
            let error = Url::parse(&format!("{text}token")).and_then(|_| Url::parse(text)).expect_err(text);
            assert!(matches!(&error, NetError::BadUrl(said) if !said.contains("secret")), "{text}: {error}");
        }
        assert!(!format!("{:?}", Url::parse("https://x/bot123:SECRET/get").expect("good")).contains("SECRET"));
    }

    #[test]
    fn references_are_resolved() {
        let base = Url::parse("https://x.org/a/b/c?q=1").expect("good");
        let check = |reference: &str, expect: &str| assert_eq!(base.join(reference).expect(reference).address(), expect, "{reference}");
        check("http://y.org/z", "http://y.org/z");
        check("//y.org:81/z?1", "https://y.org:81/z?1");
        check("/z", "https://x.org/z");
        check("z?k=v", "https://x.org/a/b/z?k=v");
        check("../z", "https://x.org/a/z");
        check("../../../../z", "https://x.org/z");
        check("./", "https://x.org/a/b/");
        check("..", "https://x.org/a/");
        check("?k", "https://x.org/a/b/c?k");
        check("", "https://x.org/a/b/c?q=1");
        check("#f", "https://x.org/a/b/c?q=1");
        check("z?u=http://w/..", "https://x.org/a/b/z?u=http://w/..");
        assert!(base.join("javascript:alert(1)").is_err());
        assert!(base.join("file:///etc/passwd").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_harmless(base in "(https?://[a-z]{1,5}(:[0-9]{1,3})?)?[/.?#a:%\\PC]{0,20}", reference in "[/.?#a:%\\PC]{0,20}") {
            if let Ok(url) = Url::parse(&base) {
                let joined = url.join(&reference);
                for url in [Some(url), joined.ok()].into_iter().flatten() {
                    prop_assert!(url.path.starts_with('/') && url.path.bytes().all(|byte| byte.is_ascii_graphic()), "{}", url.path);
                    prop_assert_eq!(Url::parse(&url.address()).ok(), Some(url));
                }
            }
        }
    }
}
