//! Writing to the terminal or into a pipe: what it can show, and text that cannot harm it.

use crate::config::Environment;
use std::io::{IsTerminal, Write};

/// Writes to standard output. A reader that went away (`| head`) is not an error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a line to standard error.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

/// What the place that is written to can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// A terminal: lines can be rewritten.
    pub terminal: bool,
    pub colour: bool,
    /// Symbols beyond ASCII.
    pub symbols: bool,
    pub width: usize,
}

impl Style {
    /// For pipes and files.
    pub const PLAIN: Self = Self { terminal: false, colour: false, symbols: false, width: usize::MAX };

    #[must_use]
    pub fn of_stdout(environment: &Environment) -> Self {
        if !std::io::stdout().is_terminal() || environment.get("TERM") == Some("dumb") {
            return Self::PLAIN;
        }
        // The first of these that is set decides (locale(7)).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| environment.get(name)).unwrap_or_default();
        let symbols = ["utf-8", "utf8"].iter().any(|name| locale.to_ascii_lowercase().contains(name));
        let width = environment.get("COLUMNS").and_then(|text| text.parse().ok()).unwrap_or(80);
        Self { terminal: true, colour: environment.get("NO_COLOR").is_none(), symbols, width: width.max(40) }
    }

    #[must_use]
    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    #[must_use]
    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    #[must_use]
    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Text from elsewhere, without what a terminal would take for a command.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.replace("\r\n", "\n").chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// Pads or cuts a line to `width` characters.
#[must_use]
pub fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_cannot_harm_a_terminal() {
        assert_eq!(harmless("a\x1b[2J\x07b\r\n\tc\u{9b}d\x7f"), "a[2Jb\n\tcd");
    }

    #[test]
    fn lines_that_fit() {
        assert_eq!(fit("abc", 3), "abc");
        assert_eq!(fit("abcd", 3), "ab…");
        assert_eq!(fit("ääää", 3), "ää…");
    }
}
