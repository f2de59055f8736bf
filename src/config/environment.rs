//! What the process was given besides its arguments: environment variables and who it runs as. Taken once, so that
//! tests can say what it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A snapshot of the environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    pub root: bool,
    pub pid: u32,
}

impl std::fmt::Debug for Environment {
    /// Names only: the values hold tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.variables.keys()).finish()
    }
}

impl Environment {
    /// That of this process. Variables that are not UTF-8 are left out: nothing here could use them.
    #[must_use]
    pub fn of_process() -> Self {
        let utf8 = |(name, value): (std::ffi::OsString, std::ffi::OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        let variables = std::env::vars_os().filter_map(utf8).collect();
        Self { variables, root: nix::unistd::Uid::effective().is_root(), pid: std::process::id() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A variable; one that is empty counts as not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A variable that holds an absolute path. XDG: relative ones are to be ignored.
    #[must_use]
    pub fn directory(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// The first of the directories that systemd lists, separated by colons.
    #[must_use]
    pub fn first_directory(&self, name: &str) -> Option<PathBuf> {
        self.get(name)?.split(':').next().map(PathBuf::from).filter(|path| path.is_absolute())
    }

    #[must_use]
    pub fn home(&self) -> Option<PathBuf> {
        self.directory("HOME")
    }

    /// A path as people write it: the home directory is `~`.
    #[must_use]
    pub fn shorten(&self, path: &Path) -> String {
        super::diagnostic::shorten(path, self.home().as_deref())
    }

    /// The path that somebody wrote, with `~/` replaced.
    #[must_use]
    pub fn expand(&self, text: &str) -> PathBuf {
        match (text.strip_prefix("~/"), self.home()) {
            (Some(rest), Some(home)) => home.join(rest),
            _ if text == "~" => self.home().unwrap_or_else(|| PathBuf::from(text)),
            _ => PathBuf::from(text),
        }
    }

    /// Somebody else restarts this process: systemd, or whoever says so with `HERMES_GATEWAY_SUPERVISED` (s6, runit, OpenRC).
    ///
    /// `INVOCATION_ID` alone proves little, for terminals that are user services hand it on to their shells;
    /// `SYSTEMD_EXEC_PID` (systemd 248 and later) tells whether this process is meant.
    #[must_use]
    pub fn supervised(&self) -> bool {
        let by_systemd = match self.get("SYSTEMD_EXEC_PID") {
            Some(pid) => pid == self.pid.to_string(),
            None => self.get("INVOCATION_ID").is_some(),
        };
        by_systemd || self.get("NOTIFY_SOCKET").is_some() || self.get("HERMES_GATEWAY_SUPERVISED").is_some_and(|value| value != "0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_supervised() {
        let base = Environment { pid: 42, ..Environment::default() };
        let check = |pairs: &[(&str, &str)], expect: bool| {
            let environment = pairs.iter().fold(base.clone(), |environment, (name, value)| environment.with(name, value));
            assert_eq!(environment.supervised(), expect, "{pairs:?}");
        };
        check(&[], false);
        check(&[("INVOCATION_ID", "a")], true);
        check(&[("INVOCATION_ID", "a"), ("SYSTEMD_EXEC_PID", "42")], true);
        check(&[("INVOCATION_ID", "a"), ("SYSTEMD_EXEC_PID", "7")], false);
        check(&[("NOTIFY_SOCKET", "/run/x")], true);
        check(&[("HERMES_GATEWAY_SUPERVISED", "0")], false);
        check(&[("HERMES_GATEWAY_SUPERVISED", "1")], true);
    }

    #[test]
    fn values_are_not_shown() {
        assert_eq!(format!("{:?}", Environment::default().with("TOKEN", "abc")), r#"["TOKEN"]"#);
    }
}
