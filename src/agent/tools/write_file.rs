//! `write_file`: a whole file, in one step.

use super::paths::{replace_file, resolve};
use super::{Input, Tool, ToolContext, ToolOutcome, check, settle, shown};
use crate::provider::ToolSpec;
use crate::thread;
use serde_json::{Value, json};

pub(super) struct WriteFile;

impl Tool for WriteFile {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "write_file",
            description: "Writes a text file, replacing what is there, and makes the directories above it. To change a part of a file, use edit_file."
                .to_owned(),
            schema: json!({
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": "The file; relative to the working directory, or with ~."},
                    "content": {"type": "string", "description": "All of its content."}
                },
                "required": ["path", "content"]
            }),
        }
    }

    fn summary(&self, input: &Value) -> String {
        let bytes = input.get("content").and_then(Value::as_str).map_or(0, str::len);
        format!("write {} ({bytes} bytes)", shown(input, "path"))
    }

    fn run(&self, input: &Value, context: &ToolContext<'_>) -> ToolOutcome {
        settle(write(&Input(input), context))
    }
}

fn write(input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
    let name = input.text("path")?;
    let content = input.text("content")?;
    let path = resolve(name, context)?;
    check(context, context.deadline)?;
    let _busy = thread::enter(format_args!("writing {}", path.display()), context.deadline);
    let error = |cause: std::io::Error| ToolOutcome::error(format!("cannot write {name}: {cause}"));
    if path.is_dir() {
        return Err(ToolOutcome::error(format!("{name} is a directory; give the name of a file")));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(error)?;
    }
    let existed = path.exists();
    replace_file(&path, content.as_bytes()).map_err(error)?;
    let verb = if existed { "replaced" } else { "written" };
    Ok(ToolOutcome::done(
        format!("[{name} {verb}: {} lines, {} bytes]", content.lines().count(), content.len()),
        format!("{} bytes", content.len()),
    ))
}
