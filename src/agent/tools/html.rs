//! HTML to rough text: what a person would read, with the addresses of links.
//!
//! Pure, one pass, linear. It is no parser: it follows tags, drops what is not text, and never fails.

/// Elements whose content is not text for a reader.
const DROPPED: &[&str] = &["script", "style", "head", "noscript", "template", "svg", "iframe"];
/// Elements that begin a new line.
const BLOCKS: &[&str] = &[
    "p",
    "div",
    "br",
    "li",
    "tr",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "section",
    "article",
    "header",
    "footer",
    "ul",
    "ol",
    "table",
    "pre",
    "blockquote",
    "hr",
    "main",
    "nav",
    "aside",
    "dt",
    "dd",
    "figure",
    "form",
];

/// The text of a page. The title comes first, if there is one.
pub(super) fn to_text(html: &str) -> String {
    let mut output = Output::default();
    if let Some(title) = title(html) {
        output.text(&title);
        output.line();
        output.line();
    }
    let mut rest = html;
    let mut link: Option<String> = None;
    while let Some(open) = rest.find('<') {
        output.text(&unescape(&rest[..open]));
        rest = &rest[open..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end + 3..]);
            continue;
        }
        let after = rest[1..].chars().next().unwrap_or(' ');
        if !(after.is_ascii_alphabetic() || matches!(after, '/' | '!' | '?')) {
            output.text("<");
            rest = &rest[1..];
            continue;
        }
        let end = tag_end(rest);
        let tag = &rest[1..end];
        rest = rest.get(end + 1..).unwrap_or("");
        let closing = tag.starts_with('/');
        let name =
            tag.trim_start_matches('/').split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default().to_ascii_lowercase();
        if DROPPED.contains(&name.as_str()) && !closing && !tag.ends_with('/') {
            rest = skip_element(rest, &name);
        } else if BLOCKS.contains(&name.as_str()) {
            output.line();
            if name == "li" && !closing {
                output.text("- ");
            }
        } else if matches!(name.as_str(), "td" | "th") {
            output.text(" ");
        } else if name == "a" {
            if closing {
                if let Some(address) = link.take() {
                    output.text(&format!(" ({address})"));
                }
            } else {
                link = attribute(tag, "href").filter(|address| address.starts_with("http") || address.starts_with('/'));
            }
        }
    }
    output.text(&unescape(rest));
    output.text.trim().to_owned()
}

/// Text with white space collapsed and at most one empty line.
#[derive(Default)]
struct Output {
    text: String,
}

impl Output {
    fn text(&mut self, text: &str) {
        for c in text.chars() {
            if !c.is_whitespace() {
                self.text.push(c);
            } else if !self.text.is_empty() && !self.text.ends_with([' ', '\n']) {
                self.text.push(' ');
            }
        }
    }

    fn line(&mut self) {
        while self.text.ends_with(' ') {
            self.text.pop();
        }
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }
}

/// The position of the `>` that ends the tag at the start of `text`, quoted attributes skipped; the end if there is none.
fn tag_end(text: &str) -> usize {
    let mut quote = None;
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    text.find('>').unwrap_or(text.len())
}

/// What follows the closing tag of an element.
fn skip_element<'a>(text: &'a str, name: &str) -> &'a str {
    let mut rest = text;
    while let Some(at) = rest.find("</") {
        let tag = &rest[at + 2..];
        if tag.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)) {
            return tag.find('>').map_or("", |end| &tag[end + 1..]);
        }
        rest = tag;
    }
    ""
}

fn title(html: &str) -> Option<String> {
    // The head is at the start; a page without one is not searched to its end.
    let head = super::cut(html, 64 * 1024);
    let lower = head.to_ascii_lowercase();
    let start = lower.find("<title")?;
    let open = start + lower[start..].find('>')? + 1;
    let end = open + lower[open..].find("</title")?;
    Some(unescape(head[open..end].trim())).filter(|title| !title.is_empty())
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let lower = tag.to_ascii_lowercase();
    let at = lower.find(&format!("{name}="))? + name.len() + 1;
    let value = &tag[at..];
    let value = match value.chars().next()? {
        quote @ ('"' | '\'') => value[1..].split(quote).next()?,
        _ => value.split(|c: char| c.is_whitespace() || c == '>').next()?,
    };
    Some(unescape(value))
}

/// Replaces character references: the common names, and all numbers.
fn unescape(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        output.push_str(&rest[..at]);
        rest = &rest[at..];
        let reference = rest[1..].char_indices().take(10).find(|(_, c)| *c == ';').map(|(end, _)| &rest[1..=end]);
        match reference.and_then(decode) {
            Some((c, reference)) => {
                output.push(c);
                rest = &rest[reference.len() + 2..];
            }
            None => {
                output.push('&');
                rest = &rest[1..];
            }
        }
    }
    output.push_str(rest);
    output
}

fn decode(reference: &str) -> Option<(char, &str)> {
    const NAMES: &[(&str, char)] = &[
        ("amp", '&'),
        ("lt", '<'),
        ("gt", '>'),
        ("quot", '"'),
        ("apos", '\''),
        ("nbsp", ' '),
        ("ndash", '–'),
        ("mdash", '—'),
        ("hellip", '…'),
        ("lsquo", '‘'),
        ("rsquo", '’'),
        ("ldquo", '“'),
        ("rdquo", '”'),
        ("copy", '©'),
        ("middot", '·'),
        ("bull", '•'),
        ("auml", 'ä'),
        ("ouml", 'ö'),
        ("uuml", 'ü'),
        ("szlig", 'ß'),
        ("eacute", 'é'),
        ("euro", '€'),
    ];
    let c = match reference.strip_prefix('#') {
        Some(number) => {
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)?
        }
        None => NAMES.iter().find(|(name, _)| *name == reference)?.1,
    };
    Some((c, reference))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_become_readable() {
        let check = |html: &str, expect: &str| assert_eq!(to_text(html), expect, "{html}");
        check("plain", "plain");
        check(
            "<html><head><title>A &amp; B</title><style>x{}</style></head><body><p>One</p><p>Two<br>Three</p></body>",
            "A & B\n\nOne\n\nTwo\nThree",
        );
        check("<ul><li>a<li>b</ul>", "- a\n- b");
        check("a<script>if (a < b) { \"</p>\" }</script>b", "ab");
        check("<a href=\"https://x/?a=1&amp;b=2\">text</a>.", "text (https://x/?a=1&b=2).");
        check("<a href='#top'>up</a>", "up");
        check("1 < 2 &lt; 3 &#228;&#xE4; &unknown; &", "1 < 2 < 3 ää &unknown; &");
        check("<!-- <p>no</p> -->yes<!-- open", "yes");
        check("<p title=\"a > b\">x</p>", "x");
        check("a  \n\t b", "a b");
        check("<table><tr><td>1</td><td>2</td></tr></table>", "1 2");
        check("<SCRIPT>x</SCRIPT >y", "y");
        check("broken <a href=", "broken");
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(html in "(<|>|/|a|p|ä|script|title|href=|\"|'|&|;|#|x|!--|--| ){0,40}") {
            to_text(&html);
        }
    }
}
