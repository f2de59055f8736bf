//! The platforms there are: one line each. The configuration is checked against this table, and adapters are built by it.

#[cfg(debug_assertions)]
use super::fault;
use super::{Adapter, homeassistant, telegram, weixin};
use crate::config::AdapterConfig;
use crate::config::keys::{KeyKind, Platform, PlatformKey, PlatformKeys};

/// A key of `[adapters.NAME]` that a platform has besides those that all have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyInfo {
    pub name: &'static str,
    pub kind: KeyKind,
    pub required: bool,
    pub default: Option<&'static str>,
    /// One line, lower case, for `setup` and the documentation.
    pub help: &'static str,
}

/// A platform.
#[derive(Debug, Clone, Copy)]
pub struct PlatformInfo {
    pub name: &'static str,
    pub keys: &'static [KeyInfo],
    /// What the id of a user is on this platform, for `setup`: "numbers; the bot's log names those who are not allowed".
    pub users_help: &'static str,
    /// Its credential comes from `hermes-gateway login NAME`.
    pub login: bool,
    /// Checks the values of the keys and builds the adapter. No I/O. The error is for the operator.
    pub build: fn(&AdapterConfig) -> Result<Box<dyn Adapter>, String>,
}

static PLATFORMS: &[PlatformInfo] = &[
    telegram::PLATFORM,
    weixin::PLATFORM,
    homeassistant::PLATFORM,
    #[cfg(debug_assertions)]
    fault::PLATFORM,
];

#[must_use]
pub fn platforms() -> &'static [PlatformInfo] {
    PLATFORMS
}

/// Builds the adapter that a section of the configuration describes.
///
/// # Errors
/// What is wrong with the section and how to put it right.
pub fn build(config: &AdapterConfig) -> Result<Box<dyn Adapter>, String> {
    let Some(platform) = PLATFORMS.iter().find(|platform| platform.name == config.platform) else {
        let known = PLATFORMS.iter().map(|platform| platform.name).collect::<Vec<_>>().join(", ");
        return Err(format!("[adapters.{}]: unknown platform `{}`; known are: {known}", config.name, config.platform));
    };
    (platform.build)(config).map_err(|cause| format!("[adapters.{}]: {cause}", config.name))
}

/// The table, as the configuration sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keys;

impl PlatformKeys for Keys {
    fn platforms(&self) -> Vec<Platform> {
        let key = |key: &KeyInfo| PlatformKey { name: key.name, kind: key.kind, required: key.required, default: key.default };
        PLATFORMS.iter().map(|platform| Platform { name: platform.name, keys: platform.keys.iter().map(key).collect() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds in `cargo test` and in `cargo test --release` alike.
    #[test]
    fn the_platform_that_misbehaves_is_in_debug_builds_only() {
        assert_eq!(platforms().iter().any(|platform| platform.name == "fault"), cfg!(debug_assertions));
    }
}
