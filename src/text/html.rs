//! Markdown as Telegram's HTML (Bot API, "HTML style"), and, by the same rules, as text without any markup.
//!
//! The output is well-formed whatever comes in: tags are written by this file alone, in pairs, and everything else is
//! escaped. Telegram knows no headings, lists, tables or rules: they become bold lines, bullets, `<pre>` and a line.
//! Pure; linear in the length of the text.

mod table;

use super::plain::is_unwanted;
use pulldown_cmark::{CodeBlockKind, Event, LinkType, Options, Parser, Tag, TagEnd};
use table::Table;

/// Rendered text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Html {
    pub text: String,
    /// UTF-16 units that count against Telegram's limit: what is left when tags and escapes are resolved.
    pub visible_utf16: usize,
    /// There is nothing to be seen but white space, which Telegram refuses.
    pub blank: bool,
}

/// Renders Markdown, unfinished Markdown included: what is not closed is shown as it stands.
#[must_use]
pub fn telegram(markdown: &str) -> Html {
    let mut writer = Writer::default();
    for event in Parser::new_ext(markdown, OPTIONS) {
        writer.event(event);
    }
    writer.finish()
}

/// Renders Markdown for platforms that show text as it is: bullets, aligned tables, addresses behind their texts, and no
/// asterisks. Empty if there is nothing to be seen.
#[must_use]
pub fn readable(markdown: &str) -> String {
    let mut writer = Writer { bare: true, ..Writer::default() };
    for event in Parser::new_ext(markdown, OPTIONS) {
        writer.event(event);
    }
    let text = writer.finish();
    if text.blank { String::new() } else { text.text }
}

const OPTIONS: Options = Options::ENABLE_STRIKETHROUGH.union(Options::ENABLE_TABLES).union(Options::ENABLE_TASKLISTS);

/// What the end of an element must undo.
enum Open {
    /// Nothing was written.
    Silent,
    /// A tag of the text.
    Inline(&'static str),
    Quote {
        tagged: bool,
    },
    Link {
        /// Where its text began, in the output.
        from: usize,
        /// An `<a>` was written.
        tagged: bool,
        address: String,
    },
    Item {
        loose: bool,
    },
}

#[derive(Default)]
struct Writer {
    /// Without tags and escapes.
    bare: bool,
    out: String,
    visible: usize,
    /// Something that can be seen was written.
    seen: bool,
    open: Vec<Open>,
    /// Line breaks that are due before the next thing that shows.
    due: usize,
    /// Nothing shows yet in this block, so no line break is due before it.
    fresh: bool,
    lists: Vec<Option<u64>>,
    quotes: usize,
    links: usize,
    /// The tags that are open: a tag is not written twice.
    tags: Vec<&'static str>,
    code: Option<(String, String)>,
    table: Option<Table>,
}

impl Writer {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(end) => self.end(end),
            Event::Text(text) | Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => self.text(&text),
            Event::Html(html) | Event::InlineHtml(html) => self.raw_html(&html),
            Event::Code(code) => self.inline_code(&code),
            Event::SoftBreak | Event::HardBreak => self.line_break(),
            Event::Rule => {
                self.block(2);
                self.text("──────────");
                self.block(2);
            }
            Event::TaskListMarker(done) => self.text(if done { "☑ " } else { "☐ " }),
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        let open = match tag {
            Tag::Paragraph => {
                if let Some(Open::Item { loose }) = self.open.last_mut() {
                    *loose = true;
                }
                self.block(2);
                Open::Silent
            }
            Tag::Heading { .. } => {
                self.block(2);
                self.tag("b")
            }
            Tag::BlockQuote(_) => self.start_quote(),
            Tag::HtmlBlock => {
                self.block(1);
                Open::Silent
            }
            Tag::CodeBlock(kind) => {
                self.gap();
                let language = if let CodeBlockKind::Fenced(info) = kind { language(&info) } else { String::new() };
                self.code = Some((language, String::new()));
                Open::Silent
            }
            Tag::List(first) => {
                self.gap();
                self.lists.push(first);
                Open::Silent
            }
            Tag::Item => self.start_item(),
            Tag::Table(alignments) => {
                self.gap();
                self.table = Some(Table { alignments, rows: Vec::new() });
                Open::Silent
            }
            Tag::TableHead | Tag::TableRow => {
                self.table.iter_mut().for_each(|table| table.rows.push(Vec::new()));
                Open::Silent
            }
            Tag::TableCell => {
                self.table.iter_mut().filter_map(|table| table.rows.last_mut()).for_each(|row| row.push(String::new()));
                Open::Silent
            }
            Tag::Emphasis => self.tag("i"),
            Tag::Strong => self.tag("b"),
            Tag::Strikethrough => self.tag("s"),
            Tag::Link { link_type, dest_url, .. } => {
                let scheme = if link_type == LinkType::Email { "mailto:" } else { "" };
                self.start_link(format!("{scheme}{dest_url}"))
            }
            Tag::Image { dest_url, .. } => self.start_link(dest_url.into_string()),
            _ => Open::Silent,
        };
        self.open.push(open);
    }

    fn end(&mut self, end: TagEnd) {
        match self.open.pop().unwrap_or(Open::Silent) {
            Open::Silent => {}
            Open::Inline(name) => {
                self.tags.pop();
                self.close(name);
            }
            Open::Quote { tagged } => {
                self.quotes -= 1;
                if tagged {
                    self.close("blockquote");
                }
                (self.due, self.fresh) = (0, false);
            }
            Open::Link { from, tagged, address } => self.end_link(from, tagged, &address),
            Open::Item { loose } => {
                // Even an item without a text has shown its marker.
                self.fresh = false;
                self.block(if loose { 2 } else { 1 });
            }
        }
        match end {
            TagEnd::Paragraph | TagEnd::Heading(_) | TagEnd::BlockQuote(_) | TagEnd::HtmlBlock => self.gap(),
            TagEnd::CodeBlock => self.end_code(),
            TagEnd::List(_) => {
                self.lists.pop();
                self.gap();
            }
            TagEnd::Table => self.end_table(),
            _ => {}
        }
    }

    /// At least so many line breaks before whatever shows next.
    fn block(&mut self, breaks: usize) {
        if !self.fresh {
            self.due = self.due.max(breaks);
        }
    }

    /// The usual distance between blocks: an empty line, but none within a list.
    fn gap(&mut self) {
        self.block(if self.lists.is_empty() { 2 } else { 1 });
    }

    /// Writes the line breaks that are due, and the indentation of the list.
    fn flush(&mut self) {
        if self.flush_breaks() {
            self.indent();
        }
    }

    fn flush_breaks(&mut self) -> bool {
        let breaks = if self.out.is_empty() || self.fresh { 0 } else { self.due };
        self.out.extend(std::iter::repeat_n('\n', breaks));
        self.visible += breaks;
        (self.due, self.fresh) = (0, false);
        breaks > 0
    }

    fn indent(&mut self) {
        // Deeper levels than these say nothing on a phone.
        let levels = self.lists.len().min(8);
        if levels > 0 {
            self.out.extend(std::iter::repeat_n("  ", levels));
            self.visible += 2 * levels;
        }
    }

    fn line_break(&mut self) {
        if self.cell(" ").is_none() {
            self.flush();
            self.out.push('\n');
            self.visible += 1;
            self.indent();
        }
    }

    /// Writes a tag unless it is open already.
    fn tag(&mut self, name: &'static str) -> Open {
        if self.table.is_some() || self.tags.contains(&name) {
            return Open::Silent;
        }
        self.flush();
        self.tags.push(name);
        self.markup(&["<", name, ">"]);
        Open::Inline(name)
    }

    fn close(&mut self, name: &str) {
        self.markup(&["</", name, ">"]);
    }

    /// Writes what does not show.
    fn markup(&mut self, pieces: &[&str]) {
        if !self.bare {
            self.out.extend(pieces.iter().copied());
        }
    }

    /// Escapes and writes; counts what shows.
    fn push(&mut self, text: &str) {
        self.seen |= text.chars().any(|character| !character.is_whitespace() && !is_unwanted(character));
        if self.bare {
            self.out.extend(text.chars().filter(|character| !is_unwanted(*character)));
        } else {
            self.visible += escape(text, &mut self.out);
        }
    }

    /// Inside a table, text goes into its cell.
    fn cell(&mut self, text: &str) -> Option<()> {
        let table = self.table.as_mut()?;
        if let Some(cell) = table.rows.last_mut().and_then(|row| row.last_mut()) {
            cell.push_str(text);
        }
        Some(())
    }

    fn text(&mut self, text: &str) {
        if let Some((_, code)) = self.code.as_mut() {
            code.push_str(text);
        } else if self.cell(text).is_none() && !text.is_empty() {
            self.flush();
            self.push(text);
        }
    }

    fn raw_html(&mut self, html: &str) {
        let name: String = html.chars().filter(|character| !character.is_whitespace() && *character != '/').collect();
        if name.eq_ignore_ascii_case("<br>") {
            self.line_break();
            return;
        }
        match html.strip_suffix('\n') {
            Some(line) => {
                self.text(line);
                self.block(1);
            }
            None => self.text(html),
        }
    }

    fn inline_code(&mut self, code: &str) {
        if self.cell(code).is_none() {
            self.flush();
            // Telegram knows no code within a link.
            if self.links > 0 {
                self.push(code);
            } else {
                self.markup(&["<code>"]);
                self.push(code);
                self.markup(&["</code>"]);
            }
        }
    }

    fn start_quote(&mut self) -> Open {
        self.gap();
        self.flush();
        // Quotes cannot be nested: the inner one is part of the outer one.
        let tagged = self.quotes == 0;
        self.quotes += 1;
        if self.bare && tagged {
            self.out.push_str("> ");
        } else if tagged {
            self.markup(&["<blockquote>"]);
        }
        self.fresh = true;
        Open::Quote { tagged }
    }

    fn start_item(&mut self) -> Open {
        self.block(1);
        let marker = match self.lists.last_mut() {
            Some(Some(number)) => {
                let marker = format!("{number}. ");
                *number = number.saturating_add(1);
                marker
            }
            _ => "• ".to_owned(),
        };
        // The marker stands one level to the left of the item's text.
        let level = self.lists.pop();
        self.flush();
        self.push(&marker);
        self.lists.extend(level);
        self.fresh = true;
        Open::Item { loose: false }
    }

    fn start_link(&mut self, address: String) -> Open {
        let tagged = !self.bare && self.table.is_none() && self.links == 0 && can_be_linked(&address);
        if self.table.is_none() {
            self.flush();
        }
        if tagged {
            self.out.push_str("<a href=\"");
            escape(&address, &mut self.out);
            self.out.push_str("\">");
        }
        self.links += 1;
        let from = self.position();
        Open::Link { from, tagged, address }
    }

    /// How much has been written where text goes now.
    fn position(&self) -> usize {
        match &self.table {
            Some(table) => table.rows.last().and_then(|row| row.last()).map_or(0, String::len),
            None => self.out.len(),
        }
    }

    fn end_link(&mut self, from: usize, tagged: bool, address: &str) {
        self.links -= 1;
        let written = match &self.table {
            Some(table) => table.rows.last().and_then(|row| row.last()).map_or("", |cell| &cell[from.min(cell.len())..]),
            None => &self.out[from..],
        };
        let mut escaped = String::new();
        escape(address, &mut escaped);
        let shown = written == address || written == escaped || address.strip_prefix("mailto:") == Some(written);
        if written.is_empty() {
            self.text(address);
        } else if !tagged && !shown && !address.is_empty() {
            self.text(&format!(" ({address})"));
        }
        if tagged {
            self.close("a");
        }
    }

    fn end_code(&mut self) {
        let Some((language, code)) = self.code.take() else { return };
        let code = code.trim_end_matches('\n');
        if !code.trim().is_empty() {
            self.preformatted(&language, code);
        }
        self.gap();
    }

    fn preformatted(&mut self, language: &str, text: &str) {
        self.flush_breaks();
        self.markup(&["<pre>"]);
        if !language.is_empty() {
            let mut escaped = String::new();
            escape(language, &mut escaped);
            self.markup(&["<code class=\"language-", &escaped, "\">"]);
        }
        self.push(text);
        self.markup(if language.is_empty() { &["</pre>"] } else { &["</code></pre>"] });
    }

    fn end_table(&mut self) {
        if let Some(table) = self.table.take() {
            let text = table.render();
            if !text.trim().is_empty() {
                self.preformatted("", &text);
            }
            self.gap();
        }
    }

    fn finish(mut self) -> Html {
        // The parser closes what it opens; this is for the day when it does not.
        while let Some(open) = self.open.pop() {
            match open {
                Open::Inline(name) => self.close(name),
                Open::Quote { tagged: true } => self.close("blockquote"),
                Open::Link { tagged: true, .. } => self.close("a"),
                _ => {}
            }
        }
        Html { text: self.out, visible_utf16: self.visible, blank: !self.seen }
    }
}

/// The language of a fence, if it looks like one.
fn language(info: &str) -> String {
    let word = info.split([' ', ',', '{', '\t']).next().unwrap_or_default();
    let fine = |character: char| character.is_ascii_alphanumeric() || matches!(character, '+' | '#' | '-' | '_' | '.');
    if word.len() <= 32 && word.chars().all(fine) { word.to_owned() } else { String::new() }
}

/// What Telegram makes a link of; other addresses (paths in a repository) are shown in brackets.
fn can_be_linked(address: &str) -> bool {
    let known = ["http://", "https://", "tg://", "mailto:", "tel:"];
    known
        .iter()
        .any(|scheme| address.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)) && address.len() > scheme.len())
}

/// Appends escaped text. → UTF-16 units that show
fn escape(text: &str, out: &mut String) -> usize {
    let mut visible = 0;
    for character in text.chars().filter(|character| !is_unwanted(*character)) {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(character),
        }
        visible += character.len_utf16();
    }
    visible
}

#[cfg(test)]
mod tests;
