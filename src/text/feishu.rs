//! Markdown as Feishu takes it, in the element `md` of a post and in the `markdown` of a card.
//!
//! Most of it is Markdown already. Neither knows headings or tables in every client: they become bold lines and aligned
//! columns in a code block. An image by its address would make the whole message invalid: it becomes a link. And `<at …>`
//! calls people, which is nothing that a model's text may do. Pure; linear in the length of the text.

use super::html::table::Table;
use super::plain::plain;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use std::ops::Range;

/// Tags that do something to people, in Feishu's own markup.
const TAGS: [&str; 2] = ["at", "person"];

/// Renders Markdown, unfinished Markdown included.
#[must_use]
pub fn feishu(markdown: &str) -> String {
    let text = harmless(markdown);
    let edits = edits(&text);
    if edits.is_empty() {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 64);
    let mut at = 0;
    for (range, replacement) in edits {
        // What lies within something that is replaced as a whole has gone with it.
        if range.start >= at {
            out.push_str(&text[at..range.start]);
            out.push_str(&replacement);
            at = range.end;
        }
    }
    out.push_str(&text[at..]);
    out
}

/// Text without control characters in which no tag calls anybody: for texts, which know `<at>` too, and nothing else.
#[must_use]
pub fn harmless(text: &str) -> String {
    let text = plain(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..=open]);
        rest = &rest[open + 1..];
        if TAGS.iter().any(|tag| starts_tag(rest, tag)) {
            // Invisible, and enough for it not to be a tag.
            out.push('\u{200b}');
        }
    }
    out.push_str(rest);
    out
}

fn starts_tag(rest: &str, tag: &str) -> bool {
    let rest = rest.trim_start();
    let named = rest.get(..tag.len()).is_some_and(|name| name.eq_ignore_ascii_case(tag));
    named && !rest[tag.len()..].starts_with(|next: char| next.is_ascii_alphanumeric())
}

/// What is to be replaced, in order; a later one may lie within an earlier one.
fn edits(text: &str) -> Vec<(Range<usize>, String)> {
    let mut edits = Vec::new();
    let mut heading: Option<Heading> = None;
    let mut table: Option<Found> = None;
    let mut images: Vec<(Range<usize>, String, String)> = Vec::new();
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(Heading { whole: range, inner: None, bold: false }),
            Event::End(TagEnd::Heading(_)) => heading.take().into_iter().for_each(|heading| heading.end(text, &mut edits)),
            Event::Start(Tag::Table(alignments)) => table = Some(Found { whole: range, table: Table { alignments, rows: Vec::new() } }),
            Event::End(TagEnd::Table) => edits.extend(table.take().map(|table| (table.whole.clone(), table.render(text)))),
            event => {
                if let Some(heading) = &mut heading {
                    heading.bold |= matches!(event, Event::Start(Tag::Strong));
                    let inner = heading.inner.get_or_insert_with(|| range.clone());
                    *inner = inner.start.min(range.start)..inner.end.max(range.end);
                }
                if let Some(table) = &mut table {
                    table.event(&event);
                } else {
                    image(event, range, &mut images, &mut edits);
                }
            }
        }
    }
    edits.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
    edits
}

/// Follows one image: where it is, its address, its text.
fn image(event: Event<'_>, range: Range<usize>, open: &mut Vec<(Range<usize>, String, String)>, edits: &mut Vec<(Range<usize>, String)>) {
    match event {
        Event::Start(Tag::Image { dest_url, .. }) => open.push((range, dest_url.into_string(), String::new())),
        Event::End(TagEnd::Image) => {
            if let Some((range, address, text)) = open.pop() {
                let label = if text.trim().is_empty() { "image" } else { text.trim() };
                let is_link = address.starts_with("https://") || address.starts_with("http://");
                let fine = is_link && !address.contains(['(', ')', ' ']);
                edits.push((range, if fine { format!("[{label}]({address})") } else { label.to_owned() }));
            }
        }
        Event::Text(text) | Event::Code(text) => open.iter_mut().for_each(|(_, _, label)| label.push_str(&text)),
        _ => {}
    }
}

struct Heading {
    whole: Range<usize>,
    /// From its first to its last element, without the marks that make it a heading.
    inner: Option<Range<usize>>,
    bold: bool,
}

impl Heading {
    fn end(self, text: &str, edits: &mut Vec<(Range<usize>, String)>) {
        let Some(inner) = self.inner else { return };
        let mark = if self.bold { "" } else { "**" };
        let end = self.whole.start + text[self.whole.clone()].trim_end().len();
        edits.push((self.whole.start..inner.start, mark.to_owned()));
        edits.push((inner.end..end.max(inner.end), mark.to_owned()));
    }
}

/// A larger table stays as it was written: padded it would be no table that anybody reads, but very long.
const CELLS_MAX: usize = 2000;

/// A table, and where it stands.
struct Found {
    whole: Range<usize>,
    table: Table,
}

impl Found {
    fn event(&mut self, event: &Event<'_>) {
        let rows = &mut self.table.rows;
        match event {
            Event::Start(Tag::TableHead | Tag::TableRow) => rows.push(Vec::new()),
            Event::Start(Tag::TableCell) => rows.iter_mut().next_back().into_iter().for_each(|row| row.push(String::new())),
            Event::Text(text) | Event::Code(text) | Event::InlineHtml(text) => {
                let cell = rows.last_mut().and_then(|row| row.last_mut());
                cell.into_iter().for_each(|cell| cell.push_str(&text.replace('`', "'")));
            }
            _ => {}
        }
    }

    fn render(&self, text: &str) -> String {
        let written = &text[self.whole.clone()];
        let columns = self.table.rows.iter().map(Vec::len).max().unwrap_or(0);
        if columns * self.table.rows.len() > CELLS_MAX {
            return written.to_owned();
        }
        format!("```\n{}\n```{}", self.table.render(), if written.ends_with('\n') { "\n" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_feishu_does_not_know_becomes_what_it_knows() {
        let check = |input: &str, expect: &str| assert_eq!(feishu(input), expect, "{input:?}");
        check("plain **bold** `code`\n- item\n> quote\n```rust\nx\n```", "plain **bold** `code`\n- item\n> quote\n```rust\nx\n```");
        check("# Title\ntext", "**Title**\ntext");
        check("## A **bold** one ##\n\ntext", "A **bold** one\n\ntext");
        check("Title\n=====\ntext", "**Title**\ntext");
        check("see ![a plot](https://x.example/p.png).", "see [a plot](https://x.example/p.png).");
        check("![](data:image/png;base64,AAAA)", "image");
        check("# ![logo](https://x.example/l.png) Home", "**[logo](https://x.example/l.png) Home**");
        check("a\r\nb\u{7}", "a\nb");
        check("", "");
        check("#", "#");
    }

    #[test]
    fn tables_become_columns() {
        let table = "Before\n\n| name | n |\n|---|---:|\n| `a` | 1 |\n| 中文 | 22 |\n\nAfter";
        assert_eq!(feishu(table), "Before\n\n```\nname │  n\n─────┼───\na    │  1\n中文 │ 22\n```\n\nAfter");
    }

    #[test]
    fn nobody_is_called() {
        for call in
            ["<at user_id=\"all\"></at>", "<at id=all></at>", "< AT id=all>", "`<at id=all>`", "<person id = 'ou_x'></person>", "<at/>"]
        {
            for rendered in [feishu(call), harmless(call)] {
                assert!(rendered.contains("<\u{200b}"), "{rendered:?}");
                assert_eq!(rendered.replace('\u{200b}', ""), call);
            }
        }
        assert_eq!(harmless("<attic> a < at <b>"), "<attic> a <\u{200b} at <b>");
        assert_eq!(harmless("1 < 2 <br> <"), "1 < 2 <br> <");
    }

    proptest! {
        /// Whatever comes in: no panic, no call, and the words are still there.
        #[test]
        fn any_text_is_rendered(text in "([#|*_`<>!\\[\\]()~ \n-]|at|word|中|https://x\\.example){0,60}") {
            let rendered = feishu(&text);
            prop_assert!(["<at>", "<at ", "<at\n", "<at<"].iter().all(|call| !rendered.contains(call)), "{rendered:?}");
            let count = |text: &str| text.matches('中').count();
            prop_assert!(count(&rendered) <= count(&text));
        }
    }
}
