//! Reads a parsed TOML table key by key, and notes everything that is wrong with it instead of stopping at the first.
//!
//! A [`Section`] learns which keys exist from being asked for them, so that there is no second list of names to keep
//! in step; [`Section::finish`] reports what was never asked for.

use super::diagnostic::Diagnostic;
use super::duration;
use super::nearest::nearest;
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

type Value<'a> = toml::Spanned<DeValue<'a>>;

/// All findings of one file.
#[derive(Default)]
pub(super) struct Findings(RefCell<Vec<Diagnostic>>);

impl Findings {
    pub(super) fn add(&self, diagnostic: Diagnostic) {
        self.0.borrow_mut().push(diagnostic);
    }

    pub(super) fn into_inner(self) -> Vec<Diagnostic> {
        self.0.into_inner()
    }
}

/// A table that is being read.
pub(super) struct Section<'a> {
    table: Option<&'a DeTable<'a>>,
    /// `adapters.telegram`; empty for the file itself.
    pub(super) path: String,
    /// Of the header, or of the key.
    pub(super) at: Option<Range<usize>>,
    findings: &'a Findings,
    known: RefCell<Vec<String>>,
}

impl<'a> Section<'a> {
    pub(super) fn new(table: &'a DeTable<'a>, path: String, at: Option<Range<usize>>, findings: &'a Findings) -> Self {
        Self { table: Some(table), path, at, findings, known: RefCell::default() }
    }

    /// For a table that is not in the file: everything has its default.
    fn absent(path: String, findings: &'a Findings) -> Self {
        Self { table: None, path, at: None, findings, known: RefCell::default() }
    }

    pub(super) fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// The value of a key, which is a known one from here on.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value<'a>> {
        self.known.borrow_mut().push(key.to_owned());
        self.table?.get(key)
    }

    /// One of these keys is in the table, whatever its value.
    pub(super) fn has_any(&self, keys: &[&str]) -> bool {
        self.table.is_some_and(|table| keys.iter().any(|key| table.contains_key(*key)))
    }

    /// Names a key that is valid but needs no reading.
    pub(super) fn know(&self, key: &str) {
        self.known.borrow_mut().push(key.to_owned());
    }

    pub(super) fn error(&self, message: impl Into<String>, at: Option<Range<usize>>, label: impl Into<String>) {
        self.findings.add(Diagnostic::error(message, at, label));
    }

    pub(super) fn add(&self, diagnostic: Diagnostic) {
        self.findings.add(diagnostic);
    }

    fn wrong_type(&self, key: &str, value: &Value<'_>, expected: &str) {
        let is = describe_type(value.get_ref());
        self.error(format!("`{key}` must be {}, not {is}", article(expected)), Some(value.span()), format!("expected {expected}"));
    }

    pub(super) fn text(&self, key: &str) -> Option<(String, Range<usize>)> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some((text.clone().into_owned(), value.span())),
            _ => {
                self.wrong_type(key, value, "a string");
                None
            }
        }
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> bool {
        let Some(value) = self.value(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_type(key, value, "true or false");
            default
        })
    }

    pub(super) fn integer(&self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.value(key) else { return default };
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, "a whole number");
            return default;
        };
        match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let label = format!("expected a number from {} to {}", range.start(), range.end());
                self.error(format!("`{key}` is out of range"), Some(value.span()), label);
                default
            }
        }
    }

    pub(super) fn duration(&self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let Some(value) = self.value(key) else { return default };
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(key, value, duration::EXPECTED);
            return default;
        };
        match duration::parse(text) {
            Ok(parsed) if range.contains(&parsed) => parsed,
            Ok(_) => {
                let (low, high) = (duration::format(*range.start()), duration::format(*range.end()));
                self.error(format!("`{key}` is out of range"), Some(value.span()), format!("expected {low} to {high}"));
                default
            }
            Err(expected) => {
                self.error(format!("`{key}` is not a duration"), Some(value.span()), expected);
                default
            }
        }
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let (text, at) = self.text(key)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*choice);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let label = match nearest(&text, names.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("expected {}", alternatives(&names)),
        };
        self.error(format!("unknown value for `{key}`"), Some(at), label);
        None
    }

    /// A list of strings; with `numbers`, of whole numbers too, as people write user ids.
    pub(super) fn list(&self, key: &str, numbers: bool) -> Option<Vec<String>> {
        let value = self.value(key)?;
        let expected = if numbers { "a list of ids, e.g. [\"123456\"]" } else { "a list of strings, e.g. [\"a\", \"b\"]" };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, expected);
            return None;
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => list.push(text.clone().into_owned()),
                DeValue::Integer(number) if numbers && number.radix() == 10 => list.push(number.as_str().replace('_', "")),
                _ => self.wrong_type(key, item, if numbers { "a string or a whole number" } else { "a string" }),
            }
        }
        Some(list)
    }

    /// A table within this one; one with nothing in it if it is not there.
    pub(super) fn section(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let Some(value) = self.value(key) else { return Self::absent(path, self.findings) };
        match value.get_ref() {
            DeValue::Table(table) => Self::new(table, path, Some(value.span()), self.findings),
            _ => {
                self.wrong_type(key, value, &format!("a table: [{path}]"));
                Self::absent(path, self.findings)
            }
        }
    }

    /// The tables in this one, in the order of the file. Whatever is not a table is an error.
    pub(super) fn sections(&self) -> Vec<(String, Range<usize>, Self)> {
        let mut sections = Vec::new();
        for (key, value) in self.table.into_iter().flatten() {
            let name = key.get_ref().clone().into_owned();
            self.know(&name);
            let path = format!("{}.{name}", self.path);
            match value.get_ref() {
                DeValue::Table(table) => {
                    sections.push((name, key.span(), Self::new(table, path, Some(value.span()), self.findings)));
                }
                _ => self.wrong_type(&name, value, &format!("a table: [{path}]")),
            }
        }
        sections.sort_by_key(|(_, at, _)| at.start);
        sections
    }

    /// The tables of `[[key]]`, in order.
    pub(super) fn repeated(&self, key: &str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let expected = format!("tables: [[{key}]]");
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(key, value, &expected);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Self::new(table, key.to_owned(), Some(item.span()), self.findings)),
                _ => self.wrong_type(key, item, &expected),
            }
        }
        sections
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, _) in self.table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if known.iter().any(|known| known == name) {
                continue;
            }
            let label = match nearest(name, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None if self.path.is_empty() => format!("known here: {}", known.join(", ")),
                None => format!("known in [{}]: {}", self.path, known.join(", ")),
            };
            self.error(format!("unknown key `{name}`"), Some(key.span()), label);
        }
    }
}

fn article(expected: &str) -> &str {
    expected.split(", e.g.").next().unwrap_or(expected)
}

fn describe_type(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// `"a", "b" or "c"`.
pub(super) fn alternatives(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}
