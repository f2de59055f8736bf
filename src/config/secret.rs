//! Secrets: `x`, `x_env` or `x_file`, and the `env` file beside the configuration.
//!
//! No value of a secret is ever part of a message in here.

use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::reader::Section;
use super::{Secret, places};
use crate::limits;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where secrets come from.
pub(super) struct Sources<'a> {
    pub(super) environment: &'a Environment,
    /// The directory of the configuration file.
    pub(super) directory: PathBuf,
    env_file: BTreeMap<String, String>,
    /// Some secret stands in the configuration itself.
    pub(super) inline: Cell<bool>,
}

impl<'a> Sources<'a> {
    /// Reads the `env` file beside the configuration, if there is one. → the sources, and what is odd about that file.
    pub(super) fn new(environment: &'a Environment, places: &places::Places) -> (Self, Vec<String>) {
        let directory = places.config.parent().map(Path::to_owned).unwrap_or_default();
        let path = directory.join("env");
        let mut warnings = Vec::new();
        let mut env_file = BTreeMap::new();
        let shown = environment.shorten(&path);
        match read_bounded(&path) {
            Ok((text, mode)) => {
                if mode & 0o004 != 0 {
                    warnings.push(format!("{shown} holds secrets and can be read by everybody; chmod 600 {shown}"));
                }
                let wrong = parse_env_file(&text, &mut env_file);
                warnings.extend(wrong.iter().map(|line| format!("{shown}:{line}: not of the form NAME=VALUE; ignored")));
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            // The service manager has read it as root, and passed on what is in it.
            Err(cause) if cause.kind() == std::io::ErrorKind::PermissionDenied && environment.supervised() => {}
            Err(cause) => warnings.push(format!("{shown} cannot be read: {cause}")),
        }
        (Self { environment, directory, env_file, inline: Cell::new(false) }, warnings)
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).or_else(|| self.env_file.get(name).map(String::as_str).filter(|value| !value.is_empty()))
    }

    /// The file of that name: beside the configuration, else among systemd's credentials.
    fn locate(&self, written: &str) -> PathBuf {
        let path = self.environment.expand(written);
        if path.is_absolute() {
            return path;
        }
        let beside = self.directory.join(&path);
        match self.environment.directory("CREDENTIALS_DIRECTORY") {
            Some(credentials) if !beside.exists() => credentials.join(path),
            _ => beside,
        }
    }

    /// Reads the secret `key` of `section`.
    ///
    /// `lenient`: the section is switched off, so that a secret that cannot be had is no error.
    pub(super) fn secret(&self, section: &Section<'_>, key: &str, required: bool, lenient: bool) -> Option<Secret> {
        let (env_key, file_key) = (format!("{key}_env"), format!("{key}_file"));
        let (inline, env, file) = (section.text(key), section.text(&env_key), section.text(&file_key));
        let given: Vec<(&str, Range<usize>)> = [(key, &inline), (&env_key, &env), (&file_key, &file)]
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|(_, at)| (name, at.clone())))
            .collect();
        if let [(first, _), (second, at), ..] = given.as_slice() {
            section.error(format!("`{first}` and `{second}` are both given"), Some(at.clone()), "keep one of them");
            return None;
        }
        if let Some((text, at)) = inline {
            self.inline.set(true);
            return present(section, key, at, text);
        }
        let problem = if let Some((name, at)) = env {
            match self.variable(&name) {
                Some(value) => return present(section, &env_key, at, value.trim_end_matches(['\r', '\n']).to_owned()),
                None => self.missing_variable(&name, at),
            }
        } else if let Some((written, at)) = file {
            match self.read_file(section, &written, &at) {
                Ok(text) => return present(section, &file_key, at, text),
                Err(problem) => problem,
            }
        } else if required && !section.has_any(&[key, &env_key, &file_key]) {
            missing_secret(section, key)
        } else {
            return None;
        };
        if !lenient {
            section.add(problem);
        }
        None
    }

    fn missing_variable(&self, name: &str, at: Range<usize>) -> Diagnostic {
        let env_file = self.environment.shorten(&self.directory.join("env"));
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            // Somebody wrote the secret itself; it must not be repeated here.
            return Diagnostic::error(
                "this is not the name of an environment variable",
                Some(at),
                "expected a name like TELEGRAM_BOT_TOKEN",
            );
        }
        Diagnostic::error(format!("environment variable {name} is not set"), Some(at), "named here")
            .help(format!("set it, or put a line {name}=… into {env_file}"))
    }

    fn read_file(&self, section: &Section<'_>, written: &str, at: &Range<usize>) -> Result<String, Diagnostic> {
        let path = self.locate(written);
        let shown = self.environment.shorten(&path);
        let problem =
            |cause: String| Diagnostic::error(format!("secret file {shown} cannot be read: {cause}"), Some(at.clone()), "named here");
        let (text, mode) = read_bounded(&path).map_err(|cause| problem(cause.to_string()))?;
        if mode & 0o004 != 0 {
            let warning = Diagnostic::warning(format!("secret file {shown} can be read by everybody"), Some(at.clone()), "named here");
            section.add(warning.help(format!("chmod 600 {shown}")));
        }
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

fn present(section: &Section<'_>, key: &str, at: Range<usize>, text: String) -> Option<Secret> {
    if text.trim().is_empty() {
        section.error(format!("the secret of `{key}` is empty"), Some(at), "expected a value");
        return None;
    }
    if text.chars().any(char::is_control) {
        section.error(format!("the secret of `{key}` holds control characters"), Some(at), "expected one line of text");
        return None;
    }
    Some(Secret::new(text))
}

fn missing_secret(section: &Section<'_>, key: &str) -> Diagnostic {
    let label = format!("add `{key}_env`, `{key}_file` or `{key}`");
    let name = section.path.rsplit('.').next().unwrap_or_default().replace('-', "_");
    let example = match key {
        "token" if name == "telegram" => "TELEGRAM_BOT_TOKEN".to_owned(),
        _ => format!("{name}_{key}").to_ascii_uppercase(),
    };
    Diagnostic::error(format!("`{key}` is missing in [{}]", section.path), section.at.clone(), label)
        .help(format!("for example: {key}_env = \"{example}\""))
        .follows()
}

/// A small text file and its permission bits.
pub(super) fn read_bounded(path: &Path) -> std::io::Result<(String, u32)> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    let limit = limits::CONFIG_BYTES_MAX as u64;
    std::fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(std::io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok((text, metadata.mode()))
}

/// `NAME=VALUE` lines, as systemd's `EnvironmentFile` and shells have them. → the numbers of the lines that are not.
fn parse_env_file(text: &str, into: &mut BTreeMap<String, String>) -> Vec<usize> {
    let mut wrong = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=') else {
            wrong.push(index + 1);
            continue;
        };
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            wrong.push(index + 1);
            continue;
        }
        let quoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        into.insert(name.to_owned(), value.to_owned());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files() {
        let mut found = BTreeMap::new();
        let text = "# c\nA=1\nexport B = \"two words\"\n\nC='x=y'\nnonsense\n=x\nD=\nE=\"\nF-G=1\n";
        assert_eq!(parse_env_file(text, &mut found), [6, 7, 10]);
        let pairs: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("B", "two words"), ("C", "x=y"), ("D", ""), ("E", "\"")]);
    }
}
