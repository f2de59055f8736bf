//! `search_files`: a regular expression over the files below a directory, or the files whose names match.

use super::paths::{looks_binary, open_file, refusal, resolve};
use super::{Input, Tool, ToolContext, ToolOutcome, check, cut, settle};
use crate::clock::Deadline;
use crate::limits;
use crate::provider::ToolSpec;
use crate::thread;
use regex_lite::{Regex, RegexBuilder};
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

pub(super) struct SearchFiles;

/// Not searched: what version control keeps for itself.
const SKIPPED: &[&str] = &[".git", ".hg", ".svn", ".jj"];

impl Tool for SearchFiles {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "search_files",
            description: "Searches the files below a directory for a regular expression, line by line, and returns path:line: text. Without a pattern \
                          it lists the files that glob names. Binary files, large files and version control's own directories are left out; links \
                          are not followed."
                .to_owned(),
            schema: json!({
                "type": "object",
                "properties": {
                    "pattern": {"type": "string", "description": "Regular expression (Rust syntax, no look-around)."},
                    "path": {"type": "string", "description": "Directory or file; the working directory if left out."},
                    "glob": {"type": "string", "description": "Only files like this: *.rs, src/**/*.{js,ts}."},
                    "ignore_case": {"type": "boolean"},
                    "limit": {"type": "integer", "minimum": 1, "description": "How many matches to give at most."}
                }
            }),
        }
    }

    fn summary(&self, input: &Value) -> String {
        let field = |name: &str| input.get(name).and_then(Value::as_str).map(|text| super::one_line(text, 60));
        let mut text = field("pattern").map_or_else(|| "list files".to_owned(), |pattern| format!("search \"{pattern}\""));
        if let Some(glob) = field("glob") {
            text.push_str(&format!(" in {glob}"));
        }
        if let Some(path) = field("path") {
            text.push_str(&format!(" below {path}"));
        }
        text
    }

    fn run(&self, input: &Value, context: &ToolContext<'_>) -> ToolOutcome {
        settle(search(&Input(input), context))
    }
}

/// A search under way.
struct Search<'a> {
    context: &'a ToolContext<'a>,
    deadline: Deadline,
    root: PathBuf,
    pattern: Option<Regex>,
    glob: Option<(Regex, bool)>,
    limit: usize,
    matches: Vec<String>,
    result_bytes: usize,
    entries: usize,
    bytes: u64,
    files: usize,
    unreadable: usize,
    /// Why it ended before everything was searched.
    cut_short: Option<String>,
}

fn search(input: &Input<'_>, context: &ToolContext<'_>) -> Result<ToolOutcome, ToolOutcome> {
    let pattern = input.optional_text("pattern")?.filter(|text| !text.is_empty());
    let glob = input.optional_text("glob")?.filter(|text| !text.is_empty());
    let ignore_case = input.flag("ignore_case")?;
    let limit = input.optional_number("limit", 1)?.map_or(limits::SEARCH_MATCHES_MAX, |it| usize::try_from(it).unwrap_or(usize::MAX));
    if pattern.is_none() && glob.is_none() {
        return Err(ToolOutcome::error("bad input: give the field \"pattern\", \"glob\", or both"));
    }
    let compile = |pattern: &str| RegexBuilder::new(pattern).case_insensitive(ignore_case).build();
    let compiled = pattern.map(compile).transpose();
    let pattern =
        compiled.map_err(|error| ToolOutcome::error(format!("bad input: the field \"pattern\" is not a regular expression: {error}")))?;
    let glob = glob.map(|text| glob_regex(text).map(|regex| (regex, text.contains('/')))).transpose()?;
    let name = input.optional_text("path")?.unwrap_or(".");
    let root = resolve(name, context)?;
    let deadline = context.deadline.within(limits::SEARCH_TIME);
    let _busy = thread::enter(format_args!("searching {}", root.display()), deadline);
    let metadata = std::fs::metadata(&root).map_err(|cause| ToolOutcome::error(format!("cannot search {name}: {cause}")))?;
    let mut search = Search {
        context,
        deadline,
        root: root.clone(),
        pattern,
        glob,
        limit: limit.min(limits::SEARCH_MATCHES_MAX),
        matches: Vec::new(),
        result_bytes: 0,
        entries: 0,
        bytes: 0,
        files: 0,
        unreadable: 0,
        cut_short: None,
    };
    if metadata.is_dir() {
        search.walk()?
    } else {
        search.file(&root, name)?
    }
    Ok(search.outcome())
}

impl Search<'_> {
    /// Depth first, in the order of names, with a list instead of recursion: trees can be deep.
    fn walk(&mut self) -> Result<(), ToolOutcome> {
        let mut folders = vec![self.root.clone()];
        while let Some(folder) = folders.pop() {
            check(self.context, Deadline::after(limits::SEARCH_TIME))?;
            let Ok(entries) = std::fs::read_dir(&folder) else {
                self.unreadable += 1;
                continue;
            };
            let room = limits::SEARCH_ENTRIES_MAX - self.entries;
            let mut entries: Vec<_> = entries.take(room).filter_map(Result::ok).collect();
            self.entries += entries.len();
            entries.sort_by_key(std::fs::DirEntry::file_name);
            let mut below = Vec::new();
            for entry in entries {
                let Ok(kind) = entry.file_type() else { continue };
                let path = entry.path();
                if refusal(&path, self.context.protected).is_some() {
                    continue;
                }
                if kind.is_dir() {
                    if !SKIPPED.iter().any(|name| entry.file_name() == *name) {
                        below.push(path);
                    }
                } else if kind.is_file() {
                    let shown = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().into_owned();
                    self.file(&path, &shown)?;
                }
                if self.cut_short.is_some() {
                    return Ok(());
                }
            }
            if self.entries >= limits::SEARCH_ENTRIES_MAX {
                self.cut_short = Some(format!("{} files and directories were looked at", limits::SEARCH_ENTRIES_MAX));
                return Ok(());
            }
            folders.extend(below.into_iter().rev());
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, shown: &str) -> Result<(), ToolOutcome> {
        if let Some((glob, whole)) = &self.glob {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if !glob.is_match(if *whole { shown } else { &name }) {
                return Ok(());
            }
        }
        if self.pattern.is_none() {
            self.found(shown.to_owned());
            return Ok(());
        }
        self.context.token.check().map_err(|_| ToolOutcome::cancelled())?;
        if self.deadline.passed() {
            self.cut_short = Some("the time is up".to_owned());
            return Ok(());
        }
        let Ok((file, metadata)) = open_file(path, shown) else {
            self.unreadable += 1;
            return Ok(());
        };
        if metadata.len() > limits::SEARCH_FILE_BYTES_MAX {
            return Ok(());
        }
        let mut content = Vec::new();
        if file.take(limits::SEARCH_FILE_BYTES_MAX).read_to_end(&mut content).is_err() {
            self.unreadable += 1;
            return Ok(());
        }
        self.files += 1;
        self.bytes += content.len() as u64;
        if !looks_binary(&content) {
            self.lines(&String::from_utf8_lossy(&content), shown)?;
        }
        if self.bytes > limits::SEARCH_BYTES_MAX {
            self.cut_short = Some(format!("{} MiB were read", limits::SEARCH_BYTES_MAX / (1024 * 1024)));
        }
        Ok(())
    }

    fn lines(&mut self, content: &str, shown: &str) -> Result<(), ToolOutcome> {
        let Some(pattern) = self.pattern.clone() else { return Ok(()) };
        for (number, line) in content.lines().enumerate() {
            // A regular expression over a few MiB may take seconds on a small machine.
            if number % 256 == 0 {
                self.context.token.check().map_err(|_| ToolOutcome::cancelled())?;
                if self.deadline.passed() {
                    self.cut_short = Some("the time is up".to_owned());
                    return Ok(());
                }
            }
            if pattern.is_match(line) {
                let kept = cut(line, 500);
                let more = if kept.len() < line.len() { "…" } else { "" };
                self.found(format!("{shown}:{}: {kept}{more}", number + 1));
                if self.cut_short.is_some() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn found(&mut self, text: String) {
        if self.matches.len() >= self.limit || self.result_bytes + text.len() > limits::TOOL_OUTPUT_BYTES_MAX {
            self.cut_short = Some("there are more matches".to_owned());
        } else {
            self.result_bytes += text.len();
            self.matches.push(text);
        }
    }

    fn outcome(self) -> ToolOutcome {
        let count = self.matches.len();
        let end = match (count, self.pattern.is_some()) {
            (1, true) => "1 match".to_owned(),
            (_, true) => format!("{count} matches"),
            (1, false) => "1 file".to_owned(),
            (_, false) => format!("{count} files"),
        };
        let mut content = self.matches.join("\n");
        if !content.is_empty() {
            content.push('\n');
        }
        content.push_str(&format!("[{end}"));
        if self.pattern.is_some() {
            content.push_str(&format!(" in {} files searched", self.files));
        }
        if self.unreadable > 0 {
            content.push_str(&format!("; {} could not be read", self.unreadable));
        }
        if let Some(why) = &self.cut_short {
            content.push_str(&format!("; stopped because {why}: narrow it down with path, glob or pattern"));
        }
        content.push(']');
        ToolOutcome::done(content, end)
    }
}

/// A glob as a regular expression: `*` and `?` within a name, `**` across directories, `[abc]`, `{a,b}`.
fn glob_regex(glob: &str) -> Result<Regex, ToolOutcome> {
    let mut pattern = String::from("^");
    let mut chars = glob.trim_start_matches("./").chars().peekable();
    let mut braces = 0_u32;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                // `**/` also stands for no directory at all.
                pattern.push_str(if chars.next_if_eq(&'/').is_some() { "(?:.*/)?" } else { ".*" });
            }
            '*' => pattern.push_str("[^/]*"),
            '?' => pattern.push_str("[^/]"),
            '[' => {
                let inside: String = chars.by_ref().take_while(|c| *c != ']').collect();
                let (negated, inside) = inside.strip_prefix(['!', '^']).map_or(("", inside.as_str()), |rest| ("^", rest));
                pattern.push_str(&format!("[{negated}{}]", inside.replace('\\', "\\\\").replace('[', "\\[")));
            }
            '{' => {
                braces += 1;
                pattern.push_str("(?:");
            }
            '}' if braces > 0 => {
                braces -= 1;
                pattern.push(')');
            }
            ',' if braces > 0 => pattern.push('|'),
            _ => pattern.push_str(&regex_lite::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    pattern.push('$');
    Regex::new(&pattern).map_err(|_| ToolOutcome::error(format!("bad input: the field \"glob\" cannot be understood: {}", cut(glob, 100))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_people_expect() {
        let check = |glob: &str, path: &str, expect: bool| {
            assert_eq!(glob_regex(glob).expect("a glob").is_match(path), expect, "{glob} on {path}");
        };
        check("*.rs", "main.rs", true);
        check("*.rs", "main.rsx", false);
        check("*.rs", "src/main.rs", false);
        check("**/*.rs", "main.rs", true);
        check("**/*.rs", "a/b/main.rs", true);
        check("src/**", "src/a/b", true);
        check("*.{js,ts}", "x.ts", true);
        check("a?c[0-9]", "abc7", true);
        check("[!a]*", "abc", false);
        check("a.b", "axb", false);
        assert!(glob_regex("{a").is_err());
    }
}
