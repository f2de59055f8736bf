//! Splits Markdown into parts that fit a platform's limit.
//!
//! A part ends where a reader would put the break: between paragraphs, else lines, sentences, words, and only then
//! between two graphemes. Links, inline code, emphasis, tables and code fences are kept whole if they fit into one part; a
//! fence that does not is closed at the end of the part and opened again, with its language, in the next.
//! Nothing but white space at a break is lost. Pure; linear in the length of the text.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag};
use std::ops::Range;
use unicode_segmentation::GraphemeCursor;

/// What a platform counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Telegram, Discord and other platforms with a JavaScript or Java heart.
    Utf16,
    Bytes,
    Chars,
}

/// Smallest limit that is honoured; a smaller one is taken as this. Room for any grapheme but a freak.
pub const LIMIT_MIN: usize = 16;

impl Unit {
    fn of(self, character: char) -> usize {
        match self {
            Self::Utf16 => character.len_utf16(),
            Self::Bytes => character.len_utf8(),
            Self::Chars => 1,
        }
    }

    /// The length of a text in this unit.
    #[must_use]
    pub fn measure(self, text: &str) -> usize {
        match self {
            Self::Bytes => text.len(),
            Self::Utf16 | Self::Chars => text.chars().map(|character| self.of(character)).sum(),
        }
    }

    /// Bytes of the longest beginning of `text` that has at most `budget` units.
    #[must_use]
    pub fn fit(self, text: &str, budget: usize) -> usize {
        let mut units = 0;
        for (at, character) in text.char_indices() {
            units += self.of(character);
            if units > budget {
                return at;
            }
        }
        text.len()
    }
}

/// Splits `text` into parts of at most `limit` units each. No part is blank; a blank text has no parts.
#[must_use]
pub fn split(text: &str, unit: Unit, limit: usize) -> Vec<String> {
    let limit = limit.max(LIMIT_MIN);
    if text.trim().is_empty() {
        return Vec::new();
    }
    if unit.fit(text, limit) == text.len() {
        return vec![text.to_owned()];
    }
    let outline = Outline::new(text, unit, limit);
    let mut parts = Vec::new();
    let mut at = 0;
    while at < text.len() {
        at = next_part(text, unit, limit, &outline, at, &mut parts);
    }
    parts
}

/// Takes the part that begins at `at`, and says where the next one begins.
fn next_part(text: &str, unit: Unit, limit: usize, outline: &Outline, at: usize, parts: &mut Vec<String>) -> usize {
    let open = outline.open_at(at);
    if let Some(fence) = open
        && text[at..fence.close].trim().is_empty()
    {
        return fence.end.max(at + 1);
    }
    let (start, mut part, dedent) = match open {
        Some(fence) if text[..at].ends_with('\n') => (at, fence.reopen(text, at), fence.indent),
        Some(fence) => (at, fence.reopen(text, at), 0),
        None => {
            let start = at + (text.len() - at - text[at..].trim_start().len());
            let line = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
            // Whatever stood to the left of the first character goes from the following lines too.
            (start, String::new(), if text[line..start].bytes().all(|byte| byte == b' ') { start - line } else { 0 })
        }
    };
    if start == text.len() {
        return start;
    }
    let cut = choose(text, unit, limit - unit.measure(&part), outline, start);
    let content = &text[start..cut.at];
    let ends_in = outline.open_at(cut.at).filter(|fence| fence.start < cut.at);
    if !content.trim().is_empty() {
        match ends_in {
            Some(fence) => {
                push_dedented(&mut part, content, dedent, open.is_none());
                part.push_str(&fence.footer);
            }
            None => push_dedented(&mut part, content.trim_end(), dedent, open.is_none()),
        }
        parts.push(part);
    }
    match ends_in {
        // The closing line has been written already.
        Some(fence) if cut.next >= fence.close => fence.end,
        _ => cut.next,
    }
}

/// Appends `content` with up to `dedent` spaces taken from each line, until a line has fewer. `trimmed`: the first line
/// has lost them already.
fn push_dedented(part: &mut String, content: &str, mut dedent: usize, trimmed: bool) {
    for (number, line) in content.split_inclusive('\n').enumerate() {
        if number == 0 && trimmed {
            part.push_str(line);
            continue;
        }
        let spaces = line.bytes().take_while(|byte| *byte == b' ').count();
        part.push_str(&line[spaces.min(dedent)..]);
        if spaces < dedent && !line.trim().is_empty() {
            dedent = 0;
        }
    }
}

/// Where a part ends and the next one begins: between them is only the white space that is dropped.
struct Cut {
    at: usize,
    next: usize,
}

impl Cut {
    fn at(at: usize) -> Self {
        Self { at, next: at }
    }
}

/// Finds the best end for a part that begins at `start` and may have `budget` units.
fn choose(text: &str, unit: Unit, budget: usize, outline: &Outline, start: usize) -> Cut {
    let mut hard = start + unit.fit(&text[start..], budget);
    if hard == text.len() {
        return Cut::at(hard);
    }
    if let Some(fence) = outline.fence_around(hard) {
        let room = start + unit.fit(&text[start..], budget.saturating_sub(unit.measure(&fence.footer)));
        if let Some(cut) = choose_in_fence(text, fence, start, room) {
            return cut;
        }
        hard = fence.start;
    }
    if let Some(whole) = outline.whole_around(hard)
        && whole.start > start
    {
        hard = whole.start;
    }
    let lowest = start + (hard - start) / 2;
    for rank in [Rank::Paragraph, Rank::Line, Rank::Sentence, Rank::Word] {
        if let Some(at) = last_break(text, outline, rank, lowest, hard) {
            return Cut::at(at);
        }
    }
    Cut::at(grapheme_break(text, start, hard))
}

/// The end of a part within a fence that must be cut: after a line if possible. `None`: better cut before the fence.
fn choose_in_fence(text: &str, fence: &Fence, start: usize, room: usize) -> Option<Cut> {
    let from = start.max(fence.body);
    let inside = start >= fence.body;
    if room <= from {
        // Not even one character of the code fits behind what precedes the fence.
        return if fence.start > start { None } else { Some(Cut::at(grapheme_break(text, start, room))) };
    }
    let room = room.min(fence.close);
    let lines = text.as_bytes()[from..room].iter().rposition(|byte| *byte == b'\n').map(|newline| from + newline);
    match lines {
        Some(newline) if newline > from && (!inside || newline - from >= (room - from) / 4) => Some(Cut { at: newline, next: newline + 1 }),
        _ if fence.start > start => None,
        _ => Some(Cut::at(grapheme_break(text, start, room))),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rank {
    Paragraph,
    Line,
    Sentence,
    Word,
}

/// The last place of this rank in `lowest..=hard` that cuts nothing.
fn last_break(text: &str, outline: &Outline, rank: Rank, lowest: usize, hard: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = hard;
    while at > lowest {
        let fits = match rank {
            Rank::Paragraph => bytes[at] == b'\n' && bytes.get(at + 1) == Some(&b'\n') && !heading_ends_at(text, at),
            Rank::Line => bytes[at] == b'\n' && !heading_ends_at(text, at),
            Rank::Sentence => sentence_ends_at(text, at),
            Rank::Word => text.is_char_boundary(at) && text[at..].chars().next().is_some_and(char::is_whitespace),
        };
        if fits && outline.may_cut(at) {
            return Some(at);
        }
        at -= 1;
    }
    None
}

/// A heading must not be parted from what it is about.
fn heading_ends_at(text: &str, at: usize) -> bool {
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    text[line..at].starts_with('#')
}

fn sentence_ends_at(text: &str, at: usize) -> bool {
    if !text.is_char_boundary(at) {
        return false;
    }
    match text[..at].chars().next_back() {
        Some('。' | '！' | '？') => true,
        Some('.' | '!' | '?' | '…' | ';' | ':') => text[at..].starts_with(char::is_whitespace),
        _ => false,
    }
}

/// The last boundary between graphemes in `start+1..=hard`; between characters if one grapheme fills all of it.
fn grapheme_break(text: &str, start: usize, hard: usize) -> usize {
    let rest = &text[start..];
    let mut cursor = GraphemeCursor::new(hard - start, rest.len(), true);
    // The whole text is given as one chunk, so the cursor never asks for more.
    if cursor.is_boundary(rest, 0) == Ok(true) && hard > start {
        return hard;
    }
    match cursor.prev_boundary(rest, 0) {
        Ok(Some(boundary)) if boundary > 0 => start + boundary,
        _ => (start + 1..=text.len()).find(|at| *at >= hard && text.is_char_boundary(*at)).unwrap_or(text.len()),
    }
}

/// A code fence. All positions are bytes of the text.
struct Fence {
    /// The beginning of its first line.
    start: usize,
    /// The beginning of the code.
    body: usize,
    /// The beginning of the closing line, or the end if it was never closed.
    close: usize,
    end: usize,
    /// Spaces to the left of the code that belong to a list, not to the code.
    indent: usize,
    /// The marks of the quotes around it.
    container: String,
    /// ```` ```rust ````
    header: String,
    /// Line break, container and marker.
    footer: String,
    /// It fits into one part.
    fits: bool,
}

impl Fence {
    fn new(text: &str, block: &Range<usize>, unit: Unit, limit: usize) -> Option<Self> {
        let start = text[..block.start].rfind('\n').map_or(0, |newline| newline + 1);
        let mark = text[block.start..].chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
        let marker: String = text[block.start..].chars().take_while(|character| *character == mark).collect();
        let body = text[block.start..block.end].find('\n').map_or(block.end, |newline| block.start + newline + 1);
        let end = block.start + text[block.start..block.end].trim_end().len();
        let last = text[..end].rfind('\n').map_or(0, |newline| newline + 1);
        let bare = text[last..end].trim_start_matches([' ', '>', '\t']);
        let closed = last >= body && bare.len() >= marker.len() && bare.chars().all(|character| character == mark);
        let (close, end) = if closed { (last, end) } else { (block.end, block.end) };

        let around: String = text[start..block.start].chars().map(|character| if character == '>' { '>' } else { ' ' }).collect();
        let container = around.trim_start().to_owned();
        let indent = around.len() - container.len();
        let info = text[block.start + marker.len()..body].trim();
        let header = format!("{container}{marker}{info}");
        let footer = format!("\n{container}{marker}");
        // Room for code must be left in each part, and the opening line itself is never cut.
        let opening = unit.measure(&text[start..body]).max(unit.measure(&header));
        let small = opening + unit.measure(&footer) + unit.measure(&container) < limit / 2;
        let fits = unit.fit(&text[start..end], limit) == end - start;
        (fits || small).then_some(Self { start, body, close, end, indent, container, header, footer, fits })
    }

    /// What the part begins with that continues this fence at `at`.
    fn reopen(&self, text: &str, at: usize) -> String {
        let mut opening = format!("{}\n", self.header);
        if !text[..at].ends_with('\n') {
            opening.push_str(&self.container);
        }
        opening
    }
}

/// What must be known of the text to cut it well. Both lists are sorted and without overlaps.
struct Outline {
    /// Not to be cut, and short enough not to be.
    whole: Vec<Range<usize>>,
    /// Those that are too long for one part.
    fences: Vec<Fence>,
}

impl Outline {
    fn new(text: &str, unit: Unit, limit: usize) -> Self {
        let (mut whole, mut fences) = (Vec::<Range<usize>>::new(), Vec::<Fence>::new());
        for (event, range) in Parser::new_ext(text, Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TABLES).into_offset_iter() {
            let keep = match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_))) => match Fence::new(text, &range, unit, limit) {
                    Some(fence) if fence.fits => Some(fence.start..fence.end),
                    fence => {
                        fences.extend(fence.filter(|fence| fences.last().is_none_or(|last| last.end <= fence.start)));
                        None
                    }
                },
                Event::Start(Tag::Table(_)) => Some(range).filter(|range| unit.fit(&text[range.clone()], limit) == range.len()),
                // Bytes are the largest unit: what has few enough of them fits in any.
                Event::Start(Tag::Emphasis | Tag::Strong | Tag::Strikethrough | Tag::Link { .. } | Tag::Image { .. }) | Event::Code(_) => {
                    Some(range).filter(|range| range.len() <= limit)
                }
                _ => None,
            };
            whole.extend(keep.filter(|range| whole.last().is_none_or(|last| last.end <= range.start)));
        }
        Self { whole, fences }
    }

    /// The fence whose code contains `at`.
    fn open_at(&self, at: usize) -> Option<&Fence> {
        let after = self.fences.partition_point(|fence| fence.start < at);
        after.checked_sub(1).map(|index| &self.fences[index]).filter(|fence| fence.body <= at && at < fence.close)
    }

    /// The fence to be cut that a break at `at` would cut.
    fn fence_around(&self, at: usize) -> Option<&Fence> {
        let after = self.fences.partition_point(|fence| fence.start < at);
        after.checked_sub(1).map(|index| &self.fences[index]).filter(|fence| at < fence.end)
    }

    fn whole_around(&self, at: usize) -> Option<&Range<usize>> {
        let after = self.whole.partition_point(|range| range.start < at);
        after.checked_sub(1).map(|index| &self.whole[index]).filter(|range| at < range.end)
    }

    fn may_cut(&self, at: usize) -> bool {
        self.whole_around(at).is_none() && self.fence_around(at).is_none()
    }
}

#[cfg(test)]
mod tests;
