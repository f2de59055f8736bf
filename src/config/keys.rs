//! Which platforms there are and which keys each has of its own. The table itself belongs to the adapters; what is
//! here is its shape, so that the configuration can be checked without knowing any of them.

/// What a platform's key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    Text,
    /// A string, a number or true and false, kept as text; the adapter checks it. A list or table is kept as JSON.
    Any,
    /// `x`, `x_env` or `x_file`.
    Secret,
    /// `http://`, `https://`, `ws://` or `wss://`; stored without a slash at the end.
    Url,
    /// Stored in the form of [`super::duration::format`].
    Duration,
    /// Not negative.
    Integer,
    Boolean,
    /// A list of strings or numbers; stored as a JSON array of strings.
    List,
    /// Any table or array; stored as JSON, checked by the adapter.
    Table,
}

/// One key of a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlatformKey {
    pub name: &'static str,
    pub kind: KeyKind,
    pub required: bool,
    pub default: Option<&'static str>,
}

impl PlatformKey {
    #[must_use]
    pub const fn required(name: &'static str, kind: KeyKind) -> Self {
        Self { name, kind, required: true, default: None }
    }

    #[must_use]
    pub const fn optional(name: &'static str, kind: KeyKind, default: Option<&'static str>) -> Self {
        Self { name, kind, required: false, default }
    }
}

/// The keys of one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    pub name: &'static str,
    pub keys: Vec<PlatformKey>,
}

/// Tells which platforms there are.
pub trait PlatformKeys {
    /// All platforms, in the order in which they are to be named to people.
    fn platforms(&self) -> Vec<Platform>;
}

/// One platform, for the tests of the configuration.
#[cfg(test)]
#[derive(Debug, Clone, Copy, Default)]
pub struct BuiltIn;

#[cfg(test)]
impl PlatformKeys for BuiltIn {
    fn platforms(&self) -> Vec<Platform> {
        let telegram = [
            PlatformKey::required("token", KeyKind::Secret),
            PlatformKey::optional("base_url", KeyKind::Url, Some("https://api.telegram.org")),
            PlatformKey::optional("rate_limit", KeyKind::Any, None),
            PlatformKey::optional("poll_timeout", KeyKind::Duration, None),
        ];
        vec![Platform { name: "telegram", keys: telegram.to_vec() }]
    }
}
