//! The tools that the model may call: one file each, one line each in [`table`].
//!
//! A tool runs on the turn's thread, is bounded by its context's deadline and token, and never panics on what the
//! model gives it: a missing or wrong field is an answer that names the field. Approval is not asked here, see `policy`.

mod edit_file;
mod homeassistant;
mod homeassistant_service;
mod html;
mod http_fetch;
mod paths;
mod read_file;
mod search_files;
mod shell;
#[cfg(test)]
mod tests;
mod write_file;

pub use homeassistant::{Access as HomeAssistant, OwnCall, OwnCalls};

use crate::clock::Deadline;
use crate::config::ToolsConfig;
use crate::net::NetOptions;
use crate::process::Children;
use crate::provider::ToolSpec;
use crate::thread::CancelToken;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a tool works with.
pub struct ToolContext<'a> {
    /// The turn's.
    pub token: &'a CancelToken,
    /// The turn's; a tool may have a nearer one.
    pub deadline: Deadline,
    pub net: &'a NetOptions,
    /// Owns the background jobs.
    pub session: &'a str,
    /// Where relative paths start.
    pub workdir: &'a Path,
    pub config: &'a ToolsConfig,
    pub children: &'a Children,
    /// Not to be read or written: the state directory, the configuration, files with secrets.
    pub protected: &'a [PathBuf],
    /// Told, about twice a second at most, what a long call is at: the last line of output.
    pub on_progress: &'a dyn Fn(&str),
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutcome {
    /// For the model.
    pub content: String,
    pub is_error: bool,
    /// One line for the chat: "exit 0", "timed out after 180 s".
    pub end: String,
}

impl ToolOutcome {
    fn done(content: impl Into<String>, end: impl Into<String>) -> Self {
        Self { content: content.into(), is_error: false, end: end.into() }
    }

    fn error(content: impl Into<String>) -> Self {
        let content = content.into();
        let end = one_line(&content, 80);
        Self { content, is_error: true, end }
    }

    fn cancelled() -> Self {
        Self { content: "[cancelled]".to_owned(), is_error: true, end: "cancelled".to_owned() }
    }
}

/// A tool. Shared by all turns.
pub trait Tool: Send + Sync {
    /// As the model is told of it.
    fn spec(&self) -> ToolSpec;

    /// One line that tells a person what a call does, shortened. Works with any input.
    fn summary(&self, input: &Value) -> String;

    fn run(&self, input: &Value, context: &ToolContext<'_>) -> ToolOutcome;
}

/// The enabled tools, in the order of [`TOOLS`](crate::config::TOOLS); those of Home Assistant if there is one.
#[must_use]
pub fn table(enabled: &[String], home_assistant: Option<HomeAssistant>) -> Vec<Box<dyn Tool>> {
    let mut all: Vec<Box<dyn Tool>> = vec![
        Box::new(shell::Shell),
        Box::new(read_file::ReadFile),
        Box::new(write_file::WriteFile),
        Box::new(edit_file::EditFile),
        Box::new(search_files::SearchFiles),
        Box::new(http_fetch::HttpFetch),
    ];
    if let Some(access) = home_assistant.map(Arc::new) {
        all.push(Box::new(homeassistant::GetState(Arc::clone(&access))));
        all.push(Box::new(homeassistant::ListEntities(Arc::clone(&access))));
        all.push(Box::new(homeassistant_service::CallService(access)));
    }
    all.into_iter().filter(|tool| enabled.iter().any(|name| name == "*" || name == tool.spec().name)).collect()
}

/// The fields of a call.
struct Input<'a>(&'a Value);

impl<'a> Input<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn optional_text(&self, field: &str) -> Result<Option<&'a str>, ToolOutcome> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(field, "a string")),
        }
    }

    fn text(&self, field: &str) -> Result<&'a str, ToolOutcome> {
        self.optional_text(field)?
            .ok_or_else(|| ToolOutcome::error(format!("bad input: the field \"{field}\" is missing; it must be a string")))
    }

    /// A whole number of at least `least`. Digits in a string are taken too: models do that.
    fn optional_number(&self, field: &str, least: u64) -> Result<Option<u64>, ToolOutcome> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number =
            value.as_u64().or_else(|| value.as_f64().filter(|it| it.fract() == 0.0 && (0.0..9e15).contains(it)).map(|it| it as u64));
        let number = number.or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
        number.filter(|number| *number >= least).map(Some).ok_or_else(|| wrong(field, &format!("a whole number of at least {least}")))
    }

    fn flag(&self, field: &str) -> Result<bool, ToolOutcome> {
        match self.get(field) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(Value::String(text)) if text == "true" || text == "false" => Ok(text == "true"),
            Some(_) => Err(wrong(field, "true or false")),
        }
    }
}

fn wrong(field: &str, expected: &str) -> ToolOutcome {
    ToolOutcome::error(format!("bad input: the field \"{field}\" must be {expected}"))
}

/// The first line of a text, shortened to `characters`.
fn one_line(text: &str, characters: usize) -> String {
    let text = text.trim();
    let line = text.lines().next().unwrap_or_default().trim_end();
    let cut: String = line.chars().take(characters).collect();
    if cut.len() < text.len() { format!("{}…", cut.trim_end()) } else { cut }
}

/// A field for [`Tool::summary`], whatever the model gave.
fn shown(input: &Value, field: &str) -> String {
    input.get(field).and_then(Value::as_str).map_or_else(|| "?".to_owned(), |text| one_line(text, 80))
}

/// Cuts a text to so many bytes at a character.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// `Err` with what the caller is to return, once the token is cancelled or the time is up.
fn check(context: &ToolContext<'_>, deadline: Deadline) -> Result<(), ToolOutcome> {
    context.token.check().map_err(|_| ToolOutcome::cancelled())?;
    if deadline.passed() { Err(ToolOutcome::error("the time is up; ask for less at once")) } else { Ok(()) }
}

/// Lets `?` be used for outcomes that end a call early.
fn settle(result: Result<ToolOutcome, ToolOutcome>) -> ToolOutcome {
    result.unwrap_or_else(|early| early)
}
