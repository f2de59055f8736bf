//! `read_file`: lines of a text file, numbered.

use super::paths::{looks_binary, open_file, resolve};
use super::{Input, Tool, ToolContext, ToolOutcome, check, cut, settle, shown};
use crate::limits;
use crate::provider::ToolSpec;
use crate::thread;
use serde_json::{Value, json};
use std::io::Read;

pub(super) struct ReadFile;

impl Tool for ReadFile {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "read_file",
            description: format!(
                "Reads a text file and returns its lines with their numbers. Gives {} lines unless told otherwise; read on with offset.",
                limits::READ_LINES_DEFAULT
            ),
            schema: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "The file; relative to the working directory, or with ~."},
                    "offset": {"type": "integer", "minimum": 1, "description": "The first line to give, counted from 1."},
                    "limit": {"type": "integer", "minimum": 1, "description": "How many lines to give."}
                },
                "required": ["path"]
            }),
        }
    }

    fn summary(&self, input: &Value) -> String {
        format!("read {}", shown(input, "path"))
    }

    fn run(&self, input: &Value, context: &ToolContext<'_>) -> ToolOutcome {
        settle(read(&Input(input), context))
    }
}

/// Lines that are being collected.
struct Lines {
    first: u64,
    limit: u64,
    /// The number of the line that is being read.
    number: u64,
    /// The beginning of that line.
    line: Vec<u8>,
    given: u64,
    text: String,
}

impl Lines {
    /// Takes bytes in. Gives how many it took, once nothing more is wanted.
    fn push(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut taken = 0;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            taken += part.len();
            let line = part.strip_suffix(b"\n");
            if self.number >= self.first {
                let room = (limits::TOOL_LINE_BYTES_MAX + 1).saturating_sub(self.line.len());
                let text = line.unwrap_or(part);
                self.line.extend_from_slice(&text[..text.len().min(room)]);
            }
            if line.is_some() && !self.end_line() {
                return Some(taken);
            }
        }
        None
    }

    fn end_line(&mut self) -> bool {
        if self.number >= self.first {
            let line = String::from_utf8_lossy(&self.line).into_owned();
            let kept = cut(line.trim_end_matches('\r'), limits::TOOL_LINE_BYTES_MAX);
            let more = if self.line.len() > limits::TOOL_LINE_BYTES_MAX { " [line cut]" } else { "" };
            self.text.push_str(&format!("{:>6}\t{kept}{more}\n", self.number));
            self.given += 1;
            self.line.clear();
        }
        self.number += 1;
        self.given < self.limit && self.text.len() < limits::TOOL_OUTPUT_BYTES_MAX
    }
}

fn read(input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
    let name = input.text("path")?;
    let first = input.optional_number("offset", 1)?.unwrap_or(1);
    let limit = input.optional_number("limit", 1)?.unwrap_or(limits::READ_LINES_DEFAULT as u64);
    let path = resolve(name, context)?;
    let _busy = thread::enter(format_args!("reading {}", path.display()), context.deadline);
    let (mut file, metadata) = open_file(&path, name)?;

    let mut lines = Lines { first, limit, number: 1, line: Vec::new(), given: 0, text: String::new() };
    let mut buffer = vec![0; 64 * 1024];
    let (mut total, mut more, mut pending) = (0_u64, false, false);
    loop {
        check(context, context.deadline)?;
        let length = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ToolOutcome::error(format!("cannot read {name}: {error}"))),
        };
        if total == 0 && looks_binary(&buffer[..length]) {
            return Err(ToolOutcome::error(format!(
                "{name} is a binary file of {} bytes; look at it with the shell tool (file, xxd)",
                metadata.len()
            )));
        }
        total += length as u64;
        pending = buffer[length - 1] != b'\n';
        if let Some(taken) = lines.push(&buffer[..length]) {
            pending = false;
            more = taken < length || file.read(&mut buffer).is_ok_and(|length| length > 0);
            break;
        }
        if total > limits::SEARCH_BYTES_MAX {
            return Err(ToolOutcome::error(format!("{name} is too large to be read from line {first}; use tail or sed in the shell tool")));
        }
    }
    if pending {
        // The last line has no end.
        lines.end_line();
    }
    let count = lines.number - 1;
    if lines.given == 0 {
        let why =
            if total == 0 { format!("[{name} is empty]") } else { format!("[{name} has {count} lines; line {first} is beyond its end]") };
        return Ok(ToolOutcome::done(why, "0 lines"));
    }
    let end = format!("{} lines", lines.given);
    let mut text = lines.text;
    if more {
        text.push_str(&format!("[more lines follow: go on with offset {}]\n", first + lines.given));
    }
    Ok(ToolOutcome::done(text, end))
}
