//! Which platforms there are and which keys each has of its own. The table itself belongs to the adapters; what is
//! here is its shape, so that the configuration can be checked without knowing any of them.

/// What a platform's key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    Text,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    pub name: &'static str,
    pub keys: &'static [PlatformKey],
}

/// Tells which platforms there are.
pub trait PlatformKeys {
    /// All platforms, in the order in which they are to be named to people.
    fn platforms(&self) -> &[Platform];

    fn platform(&self, name: &str) -> Option<&Platform> {
        self.platforms().iter().find(|platform| platform.name == name)
    }
}

impl PlatformKeys for &[Platform] {
    fn platforms(&self) -> &[Platform] {
        self
    }
}

/// The platforms of this build.
pub const PLATFORMS: &[Platform] = &[Platform {
    name: "telegram",
    keys: &[
        PlatformKey::required("token", KeyKind::Secret),
        PlatformKey::optional("base_url", KeyKind::Url, Some("https://api.telegram.org")),
        PlatformKey::optional("rate_limit", KeyKind::Integer, None),
        PlatformKey::optional("poll_timeout", KeyKind::Duration, None),
    ],
}];
