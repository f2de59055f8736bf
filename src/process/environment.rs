//! The environment of a tool's process: what is on the list, what the configuration adds, and the mark.
//!
//! An allow-list, because a deny-list forgets: the gateway's own environment may hold every credential it has.

use super::table::MARK_VARIABLE;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

/// Names passed on from the gateway's environment. None of them holds a secret.
const ALLOWED: &[&str] =
    &["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TZDIR", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Beginnings of names passed on.
const ALLOWED_PREFIXES: &[&str] = &["LC_", "XDG_"];
/// Where programs are found if the gateway itself was started without a path.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn allowed(name: &str, configured: &[String]) -> bool {
    ALLOWED.contains(&name)
        || ALLOWED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || configured.iter().any(|wanted| wanted == name)
}

/// Picks from `all` what a child may see, adds `extra`, and marks it with `mark`.
pub(super) fn build(
    all: impl Iterator<Item = (OsString, OsString)>,
    configured: &[String],
    extra: &[(String, String)],
    mark: &str,
) -> BTreeMap<OsString, OsString> {
    let mut environment: BTreeMap<OsString, OsString> =
        all.filter(|(name, _)| name.to_str().is_some_and(|name| allowed(name, configured))).collect();
    environment.entry(OsString::from("PATH")).or_insert_with(|| OsString::from(PATH_DEFAULT));
    // Programs that draw or page would wait for a person: there is none, and no terminal.
    for (name, value) in [("TERM", "dumb"), ("PAGER", "cat"), ("GIT_PAGER", "cat"), ("GIT_TERMINAL_PROMPT", "0")] {
        environment.insert(name.into(), value.into());
    }
    for (name, value) in extra {
        environment.insert(name.into(), value.into());
    }
    // Last, so that nothing overrides it.
    environment.insert(MARK_VARIABLE.into(), mark.into());
    environment
}

/// Finds a program as execvp(3) would, in the path that the child will have.
pub(super) fn find_program(name: &OsStr, environment: &BTreeMap<OsString, OsString>) -> Option<std::path::PathBuf> {
    let direct = std::path::Path::new(name);
    if name.to_string_lossy().contains('/') {
        return Some(direct.to_owned());
    }
    let path = environment.get(OsStr::new("PATH"))?;
    std::env::split_paths(path)
        .map(|folder| folder.join(name))
        .find(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_the_list_passes() {
        let given = [
            ("PATH", "/bin"),
            ("HOME", "/home/ana"),
            ("LC_ALL", "C"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("TERM", "xterm"),
            ("ANTHROPIC_API_KEY", "secret"),
            ("TELEGRAM_BOT_TOKEN", "secret"),
            ("LD_PRELOAD", "/tmp/x.so"),
            ("PATHOLOGICAL", "x"),
            ("NOTIFY_SOCKET", "/run/n"),
            ("CREDENTIALS_DIRECTORY", "/run/credentials"),
            ("EDITOR", "vi"),
            (MARK_VARIABLE, "of-somebody-else:1"),
        ];
        let given = given.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let extra = [("X".to_owned(), "1".to_owned()), (MARK_VARIABLE.to_owned(), "forged".to_owned())];
        let built = build(given, &["EDITOR".to_owned()], &extra, "ours:7");
        let names: Vec<&str> = built.keys().filter_map(|name| name.to_str()).collect();
        let expect = [
            "EDITOR",
            "GIT_PAGER",
            "GIT_TERMINAL_PROMPT",
            MARK_VARIABLE,
            "HOME",
            "LC_ALL",
            "PAGER",
            "PATH",
            "TERM",
            "X",
            "XDG_RUNTIME_DIR",
        ];
        assert_eq!(names, expect);
        assert_eq!(built[OsStr::new("TERM")], "dumb");
        assert_eq!(built[OsStr::new(MARK_VARIABLE)], "ours:7");
    }

    #[test]
    fn programs_are_found_along_the_path() {
        let environment = build(std::iter::empty(), &[], &[], "m:1");
        assert!(find_program(OsStr::new("sh"), &environment).is_some_and(|file| file.is_absolute()));
        assert_eq!(find_program(OsStr::new("no-such-program-here"), &environment), None);
        assert_eq!(find_program(OsStr::new("./x"), &environment), Some("./x".into()));
    }
}
