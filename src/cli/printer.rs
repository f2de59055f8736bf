//! Shows a chat in a terminal: the reply grows where it stands, tool calls are lines of their own.
//!
//! Pure but for the writer. Everything that comes from the gateway is made harmless first.

use super::human::duration_ms;
use super::output::{Style, fit, harmless};
use crate::adapter::{Preview, ToolLine};
use std::io::Write;

/// Shows one chat.
pub struct Printer<W: Write> {
    out: W,
    style: Style,
    /// Ask for input with `> `.
    prompts: bool,
    /// Nothing stands in the current line.
    at_start: bool,
    /// What stands in the current line is to be wiped before anything else: the prompt, or a tool that runs.
    transient: bool,
    /// The preview that is being shown, and its text as far as it is shown.
    preview: Option<String>,
    shown: String,
    /// The last tool whose end was shown.
    tool: Option<u32>,
    notice: Option<String>,
}

impl<W: Write> Printer<W> {
    pub fn new(out: W, style: Style, prompts: bool) -> Self {
        Self { out, style, prompts, at_start: true, transient: false, preview: None, shown: String::new(), tool: None, notice: None }
    }

    fn write(&mut self, text: &str) {
        // A terminal that went away: reading from it tells.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
        if let Some(last) = text.chars().last() {
            self.at_start = last == '\n';
        }
    }

    /// Goes to the beginning of an empty line.
    fn fresh_line(&mut self) {
        if self.transient {
            self.write("\r\x1b[K");
            (self.transient, self.at_start) = (false, true);
        } else if !self.at_start {
            self.write("\n");
        }
    }

    /// Removes what is only there for the moment.
    fn settle(&mut self) {
        if self.transient {
            self.fresh_line();
        }
    }

    /// Asks for the next message.
    pub fn prompt(&mut self) {
        if self.prompts {
            self.fresh_line();
            self.write("> ");
            self.transient = self.style.terminal;
        }
    }

    /// The user has typed a line: the terminal itself went to the next one.
    pub fn entered(&mut self) {
        (self.transient, self.at_start) = (false, true);
    }

    /// A line of the program's own.
    pub fn say(&mut self, text: &str) {
        self.fresh_line();
        self.write(&format!("{text}\n"));
    }

    /// A reply in the making.
    pub fn preview(&mut self, id: &str, preview: &Preview) {
        if self.preview.as_deref() != Some(id) {
            self.finish();
            self.preview = Some(id.to_owned());
        }
        self.grow(&preview.text);
        if let Some(tool) = &preview.tool {
            self.show_tool(tool);
        }
        if let Some(notice) = preview.notice.as_ref().filter(|notice| self.notice.as_ref() != Some(*notice)) {
            let line = self.style.yellow(&format!("  {}", harmless(notice)));
            self.say(&line);
        }
        self.notice.clone_from(&preview.notice);
    }

    /// Makes the text that is shown into `text`: by what was added, or anew on a fresh line.
    fn grow(&mut self, text: &str) {
        // A break at the end may still become a paragraph, or the end.
        let text = harmless(text.trim_end());
        let text = if self.shown.is_empty() { text.trim_start() } else { &text };
        if text == self.shown {
            return;
        }
        match text.strip_prefix(self.shown.as_str()) {
            Some(added) if !self.shown.is_empty() => {
                self.settle();
                let added = if self.at_start { added.trim_start_matches('\n') } else { added };
                self.write(added);
            }
            _ if text.is_empty() => {}
            _ => {
                self.fresh_line();
                self.write(text);
            }
        }
        text.clone_into(&mut self.shown);
    }

    fn show_tool(&mut self, tool: &ToolLine) {
        if self.tool.is_some_and(|shown| shown >= tool.number) {
            return;
        }
        let mark = if self.style.symbols { "⚙" } else { "*" };
        let time = duration_ms(tool.for_ms);
        let end = tool.end.as_ref().map_or_else(|| time.clone(), |end| format!("{time}  {}", harmless(end)));
        let width = self.style.width.min(80);
        let summary = harmless(&tool.summary).replace(['\n', '\t'], " ");
        let left = format!("  {mark} {}  {summary}", harmless(&tool.name));
        let room = width.saturating_sub(end.chars().count() + 3).max(20);
        let line = format!("{:<room$}  {end}", fit(&left, room));
        if tool.end.is_some() {
            self.tool = Some(tool.number);
            let line = self.style.dim(&line);
            self.say(&line);
        } else if self.style.terminal {
            self.fresh_line();
            let line = self.style.dim(&line);
            self.write(&line);
            self.transient = true;
        }
    }

    /// The whole message. `completes`: it is what the preview has become.
    pub fn message(&mut self, text: &str, completes: bool) {
        let text = harmless(text.trim_end());
        if completes && self.preview.is_some() {
            // The reply may be the last paragraph of what was shown only.
            if self.shown.is_empty() || !self.shown.ends_with(text.as_str()) {
                self.grow(&text);
            }
        } else {
            self.finish();
            self.fresh_line();
            self.write(&text);
        }
        self.finish();
    }

    /// What can be answered to a question.
    pub fn buttons(&mut self, buttons: &[(String, String)]) {
        for (label, command) in buttons {
            let line = format!("  {}: {}", harmless(label), harmless(command));
            self.say(&line);
        }
    }

    /// The preview that is shown will not go on.
    pub fn gone(&mut self, id: &str) {
        if self.preview.as_deref() == Some(id) {
            self.finish();
        }
    }

    /// Ends what is being shown.
    pub fn finish(&mut self) {
        self.fresh_line();
        self.preview = None;
        self.shown.clear();
        self.tool = None;
        self.notice = None;
    }

    #[cfg(test)]
    pub fn into_output(self) -> W {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::fake::tool;

    fn preview(text: &str, tool: Option<ToolLine>) -> Preview {
        Preview { text: text.to_owned(), tool, notice: None }
    }

    fn check(style: Style, act: impl FnOnce(&mut Printer<Vec<u8>>), expect: &str) {
        let mut printer = Printer::new(Vec::new(), style, true);
        act(&mut printer);
        let shown = String::from_utf8(printer.into_output()).expect("UTF-8");
        assert_eq!(shown, expect, "\n--- shown ---\n{shown}");
    }

    const TERMINAL: Style = Style { terminal: true, colour: false, symbols: true, width: 60 };

    #[test]
    fn a_reply_grows_where_it_stands() {
        check(
            Style::PLAIN,
            |printer| {
                for text in ["The", "The sky", "The sky is"] {
                    printer.preview("p", &preview(text, None));
                }
                printer.message("The sky is blue.\n", true);
                printer.message("Another.", false);
            },
            "The sky is blue.\nAnother.\n",
        );
    }

    #[test]
    fn a_reset_reply_begins_on_a_fresh_line() {
        check(
            Style::PLAIN,
            |printer| {
                printer.preview("p", &preview("First attem", None));
                printer.preview("p", &preview("", None));
                printer.preview("p", &preview("Second", None));
                printer.message("Second attempt", true);
            },
            "First attem\nSecond attempt\n",
        );
    }

    #[test]
    fn tools_are_lines_of_their_own() {
        check(
            Style { symbols: true, width: 60, ..Style::PLAIN },
            |printer| {
                printer.preview("p", &preview("Let me look.", None));
                printer.preview("p", &preview("Let me look.", Some(tool(1, "uname -m", 0, None))));
                for _ in 0..2 {
                    printer.preview("p", &preview("Let me look.", Some(tool(1, "uname -m", 12, Some("exit 0")))));
                }
                printer.preview("p", &preview("Let me look.\n\naarch", Some(tool(1, "uname -m", 12, Some("exit 0")))));
                printer.message("aarch64", true);
            },
            "Let me look.\n  ⚙ shell  uname -m                           12 ms  exit 0\naarch\naarch64\n",
        );
        check(
            Style::PLAIN,
            |printer| {
                printer.preview("p", &preview("Look.\n\nIt is", Some(tool(1, "a\nb", 1500, Some("exit 0")))));
                printer.message("It is", true);
            },
            "Look.\n\nIt is\n  * shell  a b                                                      1 s  exit 0\n",
        );
    }

    #[test]
    fn a_running_tool_is_rewritten_on_a_terminal() {
        check(
            TERMINAL,
            |printer| {
                printer.prompt();
                printer.entered();
                printer.preview("p", &preview("", Some(tool(1, "sleep 5", 1000, None))));
                printer.preview("p", &preview("", Some(tool(1, "sleep 5", 2000, None))));
                printer.preview("p", &preview("", Some(tool(1, "sleep 5", 5000, Some("exit 0")))));
                printer.message("Done.", true);
                printer.prompt();
                printer.message("By the way", false);
            },
            "> \
             \u{20} ⚙ shell  sleep 5                                      1 s\r\x1b[K\
             \u{20} ⚙ shell  sleep 5                                      2 s\r\x1b[K\
             \u{20} ⚙ shell  sleep 5                              5 s  exit 0\n\
             Done.\n\
             > \r\x1b[KBy the way\n",
        );
    }

    #[test]
    fn notices_once_and_nothing_harmful() {
        check(
            Style::PLAIN,
            |printer| {
                for for_ms in [1, 2] {
                    let notice = Some("No answer for 180 s; trying again (2 of 3)".to_owned());
                    printer.preview("p", &Preview { text: "a\x1b[2J".to_owned(), tool: Some(tool(1, "x", for_ms, None)), notice });
                }
                printer.gone("p");
                printer.message("b\x07\r\nc", false);
            },
            "a[2J\n  No answer for 180 s; trying again (2 of 3)\nb\nc\n",
        );
    }
}
