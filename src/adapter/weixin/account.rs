//! What a login brings, and where it may lead: the document in `token_file`, and the hosts that are WeChat's. Pure.

use crate::config::Secret;
use crate::limits;
use crate::net::Url;
use serde_json::{Value, json};

/// Hosts below these are WeChat's own.
const HOSTS: [&str; 1] = ["weixin.qq.com"];
/// The same, for pictures and files.
const FILE_HOSTS: [&str; 4] = ["weixin.qq.com", "wx.qq.com", "qpic.cn", "qlogo.cn"];

/// A bot, as a login has brought it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub token: Secret,
    /// `…@im.bot`
    pub bot_id: Option<String>,
    /// Where this bot is served.
    pub base_url: Option<String>,
    /// Whoever scanned the code: `…@im.wechat`.
    pub user_id: Option<String>,
}

impl Account {
    /// Reads a bare token, or the document that a login has written.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it.
    pub fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let account = if text.starts_with('{') {
            let value = serde_json::from_str(text).map_err(|_| "this is not the document of a login".to_owned())?;
            Self::from_json(&value).ok_or("the document holds no bot_token")?
        } else {
            Self { token: Secret::new(text.to_owned()), bot_id: None, base_url: None, user_id: None }
        };
        if account.token.expose().is_empty() {
            return Err("it is empty".to_owned());
        }
        if account.token.expose().len() > limits::WEIXIN_TOKEN_BYTES_MAX {
            return Err("it is too long for a token of WeChat's".to_owned());
        }
        // It goes into a header.
        if !account.token.expose().chars().all(|character| character.is_ascii_graphic()) {
            return Err("this is not a token of WeChat's: those have no spaces or line breaks".to_owned());
        }
        Ok(account)
    }

    /// From the document, or from the answer that ends a login: they have the same fields.
    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        Some(Self {
            token: Secret::new(text("bot_token")?),
            bot_id: text("ilink_bot_id"),
            base_url: text("baseurl").map(|url| url.trim_end_matches('/').to_owned()),
            user_id: text("ilink_user_id"),
        })
    }

    /// The document: one line, as a secret has to be. Holds the token.
    #[must_use]
    pub fn document(&self) -> String {
        let mut document = json!({"bot_token": self.token.expose()});
        for (key, value) in [("ilink_bot_id", &self.bot_id), ("baseurl", &self.base_url), ("ilink_user_id", &self.user_id)] {
            if let Some(value) = value {
                document[key] = json!(value);
            }
        }
        document.to_string()
    }
}

fn is_below(host: &str, hosts: &[&str]) -> bool {
    hosts.iter().any(|parent| host.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// This very machine, by a name that needs no look-up.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a login that began at `base` may go on at `url`: at WeChat's own, encrypted; on this machine, if it began there.
#[must_use]
pub(super) fn may_lead_to(base: &str, url: &str) -> bool {
    let (Ok(base), Ok(url)) = (Url::parse(base), Url::parse(url)) else { return false };
    let plain_web = |url: &Url| matches!(url.scheme(), "http" | "https");
    let own = url.scheme() == "https" && url.target.port == 443 && is_below(&url.target.host, &HOSTS);
    let local = is_loopback(&base.target.host) && is_loopback(&url.target.host);
    plain_web(&url) && (own || local || base.target == url.target)
}

/// The address that a login goes on at when it is sent to another host. `None`: not there.
#[must_use]
pub(super) fn redirected(base: &str, host: &str) -> Option<String> {
    let scheme = if may_lead_to(base, &format!("http://{host}")) { "http" } else { "https" };
    let bare = !host.is_empty() && !host.contains(['/', '?', '#', '@', '\\']);
    Some(format!("{scheme}://{host}")).filter(|url| bare && may_lead_to(base, url))
}

/// Whether a file may be fetched there: nobody's message makes this machine ask any other.
#[must_use]
pub(super) fn serves_files(cdn: &str, url: &str) -> bool {
    let (Ok(cdn), Ok(url)) = (Url::parse(cdn), Url::parse(url)) else { return false };
    let own = url.scheme() == "https" && url.target.port == 443 && is_below(&url.target.host, &FILE_HOSTS);
    own || (url.target == cdn.target && url.scheme() == cdn.scheme())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_bare_or_from_its_document() {
        let bare = Account::read(" tok-1:x=\n").expect("bare");
        assert_eq!((bare.token.expose(), &bare.bot_id, &bare.base_url), ("tok-1:x=", &None, &None));
        let document = r#"{"bot_token":"tok","ilink_bot_id":"abc123@im.bot","baseurl":"https://ilinkai.weixin.qq.com/","ilink_user_id":"o9@im.wechat","more":1}"#;
        let account = Account::read(document).expect("document");
        assert_eq!(account.token.expose(), "tok");
        assert_eq!(account.bot_id.as_deref(), Some("abc123@im.bot"));
        assert_eq!(account.base_url.as_deref(), Some("https://ilinkai.weixin.qq.com"));
        assert_eq!(Account::read(&account.document()), Ok(account));
        for wrong in ["", "  ", "{", "{}", "{\"bot_token\":7}", "{\"bot_token\":\"\"}", "to ken", "tök", "{\"bot_token\":\"a b\"}"] {
            let error = Account::read(wrong).expect_err(wrong);
            assert!(wrong.trim().len() < 3 || !error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_login_goes_on_at_wechat_or_where_it_began() {
        let base = "https://ilinkai.weixin.qq.com";
        let check = |base: &str, host: &str, expect: Option<&str>| assert_eq!(redirected(base, host).as_deref(), expect, "{host}");
        check(base, "sz.ilinkai.weixin.qq.com", Some("https://sz.ilinkai.weixin.qq.com"));
        check(base, "weixin.qq.com", Some("https://weixin.qq.com"));
        for other in [
            "evilweixin.qq.com",
            "weixin.qq.com.evil.example",
            "evil.example",
            "127.0.0.1:80",
            "x@weixin.qq.com",
            "evil.example/.weixin.qq.com",
            "evil.example#.weixin.qq.com",
            "a.weixin.qq.com:22",
            "",
        ] {
            check(base, other, None);
        }
        let local = "http://127.0.0.1:4000";
        check(local, "127.0.0.1:4001", Some("http://127.0.0.1:4001"));
        check(local, "10.0.0.1:4001", None);
        check(local, "a.weixin.qq.com", Some("https://a.weixin.qq.com"));
        assert!(may_lead_to("https://proxy.example:8443/x", "https://proxy.example:8443/x"));
        assert!(!may_lead_to(base, "http://ilinkai.weixin.qq.com") && !may_lead_to(base, "wss://ilinkai.weixin.qq.com"));
    }

    #[test]
    fn files_come_from_wechat_or_the_configured_server() {
        let check = |url: &str, expect: bool| assert_eq!(serves_files("http://127.0.0.1:9/c2c", url), expect, "{url}");
        check("https://novac2c.cdn.weixin.qq.com/c2c/download?x=1", true);
        check("https://mmbiz.qpic.cn/a", true);
        check("http://127.0.0.1:9/anything", true);
        check("http://novac2c.cdn.weixin.qq.com/c2c", false);
        check("https://novac2c.cdn.weixin.qq.com:8443/c2c", false);
        check("http://127.0.0.1:10/", false);
        check("http://169.254.169.254/latest", false);
        check("https://qpic.cn.evil.example/", false);
        check("https://evilqpic.cn/", false);
        check("file:///etc/passwd", false);
    }
}
