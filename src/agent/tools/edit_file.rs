//! `edit_file`: replaces a piece of a text file that is given word for word.

use super::paths::{looks_binary, open_file, replace_file, resolve};
use super::{Input, Tool, ToolContext, ToolOutcome, check, settle, shown};
use crate::limits;
use crate::provider::ToolSpec;
use crate::thread;
use serde_json::{Value, json};
use std::io::Read;

pub(super) struct EditFile;

impl Tool for EditFile {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "edit_file",
            description: "Replaces a piece of a text file. old_string must be in the file exactly as given, white space included, and only once, unless \
                          replace_all is set; take in lines around it to make it unique."
                .to_owned(),
            schema: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "The file; relative to the working directory, or with ~."},
                    "old_string": {"type": "string", "description": "The text to be replaced."},
                    "new_string": {"type": "string", "description": "What takes its place; may be empty."},
                    "replace_all": {"type": "boolean", "description": "Replace every occurrence."}
                },
                "required": ["path", "old_string", "new_string"]
            }),
        }
    }

    fn summary(&self, input: &Value) -> String {
        format!("edit {}", shown(input, "path"))
    }

    fn run(&self, input: &Value, context: &ToolContext<'_>) -> ToolOutcome {
        settle(edit(&Input(input), context))
    }
}

fn edit(input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
    let name = input.text("path")?;
    let old = input.text("old_string")?;
    let new = input.text("new_string")?;
    let all = input.flag("replace_all")?;
    if old.is_empty() {
        return Err(ToolOutcome::error("bad input: the field \"old_string\" is empty; to make a new file, use write_file"));
    }
    if old == new {
        return Err(ToolOutcome::error("bad input: \"old_string\" and \"new_string\" are the same; nothing would change"));
    }
    let path = resolve(name, context)?;
    check(context, context.deadline)?;
    let _busy = thread::enter(format_args!("editing {}", path.display()), context.deadline);
    let (file, metadata) = open_file(&path, name)?;
    if metadata.len() > limits::TOOL_FILE_BYTES_MAX {
        return Err(ToolOutcome::error(format!("{name} has {} bytes, too many to be edited; use sed in the shell tool", metadata.len())));
    }
    let mut bytes = Vec::new();
    file.take(limits::TOOL_FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|cause| ToolOutcome::error(format!("cannot read {name}: {cause}")))?;
    let text = match String::from_utf8(bytes) {
        Ok(text) if !looks_binary(text.as_bytes()) => text,
        _ => return Err(ToolOutcome::error(format!("{name} is not a text file in UTF-8; edit it with the shell tool"))),
    };
    let places: Vec<usize> = text.match_indices(old).map(|(at, _)| at).collect();
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    match places.as_slice() {
        [] => return Err(ToolOutcome::error(format!("{name}: old_string was not found{}", hint(&text, old)))),
        [_, _, ..] if !all => {
            let lines: Vec<String> = places.iter().take(10).map(|at| line(*at).to_string()).collect();
            return Err(ToolOutcome::error(format!(
                "{name}: old_string is there {} times (lines {}); take in more lines to make it unique, or set replace_all",
                places.len(),
                lines.join(", ")
            )));
        }
        _ => {}
    }
    check(context, context.deadline)?;
    replace_file(&path, text.replace(old, new).as_bytes()).map_err(|cause| ToolOutcome::error(format!("cannot write {name}: {cause}")))?;
    let count = places.len();
    let what = if count == 1 { "1 replacement".to_owned() } else { format!("{count} replacements") };
    Ok(ToolOutcome::done(format!("[{name}: {what}, the first in line {}]", line(places[0])), what))
}

/// Where a text is that differs in white space alone, or that begins the same.
fn hint(text: &str, old: &str) -> String {
    let Some(wanted) = old.lines().map(str::trim).find(|line| !line.is_empty()) else { return String::new() };
    match text.lines().position(|line| line.trim() == wanted) {
        Some(at) => format!("; line {} is like its first line: compare the white space and the lines after it", at + 1),
        None => "; read the file again, it may have changed".to_owned(),
    }
}
