//! What is wrong in a file, and how it is shown: the message, the place, the line with carets under it. Pure.
//!
//! The line that is shown may hold a secret. Whatever looks like one is masked before anything is printed: these
//! texts end up in journals and bug reports.

use std::ops::Range;
use std::path::Path;

/// Longest part of a source line that is shown.
const SHOWN_CHARS_MAX: usize = 120;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub level: Level,
    pub message: String,
    /// The bytes of the file that it is about; `None`: the file as a whole.
    pub at: Option<Range<usize>>,
    /// Stands right after the carets: what was expected.
    pub label: String,
    /// What to do, a line each, under the source line.
    pub help: Vec<String>,
    /// May be nothing but the consequence of a syntax error elsewhere ("missing …").
    pub follows: bool,
}

impl Diagnostic {
    #[must_use]
    pub fn error(message: impl Into<String>, at: Option<Range<usize>>, label: impl Into<String>) -> Self {
        Self { level: Level::Error, message: message.into(), at, label: label.into(), help: Vec::new(), follows: false }
    }

    #[must_use]
    pub fn warning(message: impl Into<String>, at: Option<Range<usize>>, label: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::error(message, at, label) }
    }

    #[must_use]
    pub fn help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }

    /// Marks it as something that a syntax error elsewhere may have caused.
    #[must_use]
    pub fn follows(mut self) -> Self {
        self.follows = true;
        self
    }

    /// As it is printed, with a line break at the end. `shown_path` is how the file is named.
    #[must_use]
    pub fn render(&self, shown_path: &str, source: &str) -> String {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        let mut out = format!("{level}: {}\n", self.message);
        let Some(at) = &self.at else {
            out.push_str(&format!("  --> {shown_path}\n"));
            for line in &self.help {
                out.push_str(&format!("   = {line}\n"));
            }
            return out;
        };
        let place = Place::find(source, at);
        let number = place.line_number.to_string();
        let gutter = " ".repeat(number.len());
        let (shown, indent, carets) = place.shown();
        let label = if self.label.is_empty() { String::new() } else { format!(" {}", self.label) };
        out.push_str(&format!("{gutter}--> {shown_path}:{number}:{}\n", place.column));
        out.push_str(&format!("{gutter} |\n{number} | {shown}\n"));
        out.push_str(&format!("{gutter} | {}{}{label}\n", " ".repeat(indent), "^".repeat(carets)));
        for line in &self.help {
            out.push_str(&format!("{gutter} = {line}\n"));
        }
        out
    }
}

/// Where a span lies: its line, masked, and the columns in characters.
struct Place {
    line_number: usize,
    /// From 1.
    column: usize,
    line: Vec<char>,
    length: usize,
}

impl Place {
    fn find(source: &str, at: &Range<usize>) -> Self {
        let mut start = at.start.min(source.len());
        while !source.is_char_boundary(start) {
            start -= 1;
        }
        let before = &source[..start];
        let line_start = before.rfind('\n').map_or(0, |found| found + 1);
        let line = source[line_start..].split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let mut end = at.end.clamp(start, line_start + line.len().max(start - line_start));
        while !source.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            line_number: before.matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            line: mask_secrets(line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
            length: source[start..end].chars().count(),
        }
    }

    /// The part of the line that fits, how far in the carets begin, and how many there are.
    fn shown(&self) -> (String, usize, usize) {
        let first = self.column - 1;
        let from = if first < SHOWN_CHARS_MAX * 2 / 3 { 0 } else { first - SHOWN_CHARS_MAX / 3 };
        let from = from.min(self.line.len());
        let to = (from + SHOWN_CHARS_MAX).min(self.line.len());
        let text: String = self.line[from..to].iter().collect();
        let indent = first - from;
        let carets = self.length.max(1).min(SHOWN_CHARS_MAX.saturating_sub(indent).max(1));
        (text.trim_end().to_owned(), indent, carets)
    }
}

/// Replaces what may be a secret by as many `*`, so that columns stay what they were.
fn mask_secrets(line: &str) -> String {
    let (key, value) = match line.split_once('=') {
        Some((key, _)) if !key.trim_start().starts_with('#') => line.split_at(key.len() + 1),
        _ => ("", line),
    };
    let name = key.trim().trim_end_matches('=').trim().trim_matches(['"', '\'']).to_ascii_lowercase();
    let harmless = name.ends_with("_env") || name.ends_with("_file");
    let secret = !harmless && ["token", "secret", "key", "passw", "credential"].iter().any(|word| name.contains(word));
    let mut out = key.to_owned();
    let mut word = String::new();
    for c in value.chars().chain(['\n']) {
        let breaks = c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '[' | ']' | '{' | '}' | '\n');
        if !breaks {
            word.push(c);
            continue;
        }
        if secret || looks_like_a_credential(&word) {
            out.extend(word.chars().map(|_| '*'));
        } else {
            out.push_str(&word);
        }
        word.clear();
        if c != '\n' {
            out.push(c);
        }
    }
    out
}

/// Long, without spaces, letters and digits mixed, and neither an address nor a path nor a name in capitals.
fn looks_like_a_credential(word: &str) -> bool {
    let letters = word.chars().any(|c| c.is_ascii_alphabetic());
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let name = word.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit()) && word.contains('_');
    let has_key_prefix = ["sk-", "xoxb-", "xapp-", "ghp_"].iter().any(|prefix| word.starts_with(prefix));
    let has_user = word.split_once("://").is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|host| host.contains('@')));
    has_key_prefix
        || has_user
        || (word.len() >= 20 && letters && digits >= 4 && !name && !word.contains("://") && !word.starts_with(['/', '~']))
}

/// A path as people write it: the home directory is `~`.
#[must_use]
pub fn shorten(path: &Path, home: Option<&Path>) -> String {
    match home.filter(|home| home.components().count() > 1).and_then(|home| path.strip_prefix(home).ok()) {
        Some(rest) if rest.as_os_str().is_empty() => "~".to_owned(),
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_as_agreed() {
        let source = "\n".repeat(13) + "alowed_users = [\"77001\"]\n";
        let diagnostic = Diagnostic::error("unknown key `alowed_users`", Some(13..25), "did you mean `allowed_users`?");
        let expect = "\
error: unknown key `alowed_users`
  --> ~/.config/hermes-gateway/config.toml:14:1
   |
14 | alowed_users = [\"77001\"]
   | ^^^^^^^^^^^^ did you mean `allowed_users`?
";
        assert_eq!(diagnostic.render("~/.config/hermes-gateway/config.toml", &source), expect);
    }

    #[test]
    fn columns_are_characters_and_ends_of_files_are_places() {
        let check = |source: &str, at: Range<usize>, expect: &str| {
            assert_eq!(Diagnostic::error("m", Some(at), "l").help("h").render("f", source), format!("error: m\n{expect}"));
        };
        check("ä = 1\n", 5..6, " --> f:1:5\n  |\n1 | ä = 1\n  |     ^ l\n  = h\n");
        check("a = \"", 5..5, " --> f:1:6\n  |\n1 | a = \"\n  |      ^ l\n  = h\n");
        check("", 0..0, " --> f:1:1\n  |\n1 | \n  | ^ l\n  = h\n");
        check("a = [\n1,\n2]\n", 4..12, " --> f:1:5\n  |\n1 | a = [\n  |     ^ l\n  = h\n");
        check("\ta = 1\r\n", 1..2, " --> f:1:2\n  |\n1 |  a = 1\n  |  ^ l\n  = h\n");
        check("x", 90..99, " --> f:1:2\n  |\n1 | x\n  |  ^ l\n  = h\n");
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let source = format!("a = \"{}\" b", "x ".repeat(5000));
        let shown = Diagnostic::error("m", Some(10_007..10_008), "l").render("f", &source);
        assert!(shown.lines().all(|line| line.chars().count() < 140), "{shown}");
        assert!(shown.contains("\" b\n"), "{shown}");
    }

    #[test]
    fn secrets_are_masked_in_the_source_line() {
        let check = |line: &str, expect: &str| assert_eq!(mask_secrets(line), expect);
        check("token = \"123:abc\"", "token = \"*******\"");
        check("  api_keyy = \"sk 1\"", "  api_keyy = \"** *\"");
        check("api_key = unquoted", "api_key = ********");
        check("token_env = \"TELEGRAM_BOT_TOKEN\"", "token_env = \"TELEGRAM_BOT_TOKEN\"");
        check("key_file = \"/run/credentials/x12345678901234\"", "key_file = \"/run/credentials/x12345678901234\"");
        check("tkn = \"8123456789:AAHdqTcvCH1vGWJxfSeo\"", "tkn = \"*******************************\"");
        check("model = \"claude-sonnet-4-6\"", "model = \"claude-sonnet-4-6\"");
        check("base_url = \"http://127.0.0.1:43210/v1\"", "base_url = \"http://127.0.0.1:43210/v1\"");
        check("sk-ant-api03-x", "**************");
        check("alowed_users = [\"77001\", 1234567890123456789012]", "alowed_users = [\"77001\", 1234567890123456789012]");
    }

    #[test]
    fn the_home_directory_is_a_tilde() {
        let check = |path: &str, home: Option<&str>, expect: &str| {
            assert_eq!(shorten(Path::new(path), home.map(Path::new)), expect);
        };
        check("/home/ana/.config/x", Some("/home/ana"), "~/.config/x");
        check("/home/anabel/x", Some("/home/ana"), "/home/anabel/x");
        check("/etc/x", Some("/"), "/etc/x");
        check("/etc/x", None, "/etc/x");
    }
}
