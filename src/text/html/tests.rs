//! Tests of the HTML dialect: what Markdown becomes, and that nothing can make the output invalid.

use super::{readable, telegram};
use proptest::prelude::*;

/// Panics unless the text is what Telegram takes: known tags, closed in order, everything else escaped. → the visible text
fn visible(html: &str) -> String {
    let mut open: Vec<&str> = Vec::new();
    let mut text = String::new();
    let mut rest = html;
    while let Some(character) = rest.chars().next() {
        if character == '<' {
            let end = rest.find('>').unwrap_or_else(|| panic!("tag without end in {html:?}"));
            let tag = &rest[1..end];
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "wrong order in {html:?}"),
                None => open.push(opened(tag, &open, html)),
            }
            rest = &rest[end + 1..];
        } else if character == '&' {
            let known = [("&lt;", '<'), ("&gt;", '>'), ("&amp;", '&'), ("&quot;", '"')];
            let (escape, meant) =
                known.into_iter().find(|(escape, _)| rest.starts_with(escape)).unwrap_or_else(|| panic!("bare & in {html:?}"));
            text.push(meant);
            rest = &rest[escape.len()..];
        } else {
            assert_ne!(character, '>', "bare > in {html:?}");
            text.push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    assert!(open.is_empty(), "{open:?} not closed in {html:?}");
    text
}

fn opened<'a>(tag: &'a str, open: &[&str], html: &str) -> &'a str {
    let name = tag.split(' ').next().unwrap_or_default();
    let attributes = &tag[name.len()..];
    match name {
        "b" | "i" | "s" | "pre" | "blockquote" => assert_eq!(attributes, "", "{html:?}"),
        "code" => {
            assert!(attributes.is_empty() || (attributes.starts_with(" class=\"language-") && open.last() == Some(&"pre")), "{html:?}")
        }
        "a" => assert!(attributes.starts_with(" href=\"") && attributes.ends_with('"') && attributes.matches('"').count() == 2, "{html:?}"),
        _ => panic!("unknown tag {tag:?} in {html:?}"),
    }
    assert!(!open.contains(&name), "{name} within itself in {html:?}");
    name
}

fn check(markdown: &str, expect: &str) {
    let html = telegram(markdown);
    assert_eq!(html.text, expect, "from {markdown:?}");
    assert_eq!(html.visible_utf16, visible(&html.text).encode_utf16().count(), "from {markdown:?}");
}

#[test]
fn inline_styles() {
    check("plain", "plain");
    check("**bold** *italic* ~~gone~~ `code`", "<b>bold</b> <i>italic</i> <s>gone</s> <code>code</code>");
    check("***both***", "<i><b>both</b></i>");
    check("**a __b__ c**", "<b>a b c</b>");
    check("1 < 2 && 3 > 2 \"so\"", "1 &lt; 2 &amp;&amp; 3 &gt; 2 &quot;so&quot;");
    check("`a<b>&`", "<code>a&lt;b&gt;&amp;</code>");
    check("a  \nb\nc", "a\nb\nc");
    check("2 * 3 * 4 snake_case_name", "2 * 3 * 4 snake_case_name");
}

#[test]
fn links() {
    check("[a](http://x/?a=1&b=\"2\")", "<a href=\"http://x/?a=1&amp;b=&quot;2&quot;\">a</a>");
    check("<https://x.y>", "<a href=\"https://x.y\">https://x.y</a>");
    check("<a@b.c>", "<a href=\"mailto:a@b.c\">a@b.c</a>");
    check("[main](src/main.rs)", "main (src/main.rs)");
    check("[src/a.rs](src/a.rs)", "src/a.rs");
    check("[x](javascript:alert)", "x (javascript:alert)");
    check("[](http://x)", "<a href=\"http://x\">http://x</a>");
    check("[`f`](http://x)", "<a href=\"http://x\">f</a>");
    check("![cat](http://x/cat.png)", "<a href=\"http://x/cat.png\">cat</a>");
    check("[![cat](http://x/cat.png)](http://y)", "<a href=\"http://y\">cat (http://x/cat.png)</a>");
}

#[test]
fn blocks() {
    check("# Title\n\ntext\n## Next\nmore", "<b>Title</b>\n\ntext\n\n<b>Next</b>\n\nmore");
    check("# **Bold** title", "<b>Bold title</b>");
    check("> quoted\n> more\n\nafter", "<blockquote>quoted\nmore</blockquote>\n\nafter");
    check("> a\n>> b", "<blockquote>a\n\nb</blockquote>");
    check("a\n\n---\n\nb", "a\n\n──────────\n\nb");
    check("```rust\nlet a = &b;\n```", "<pre><code class=\"language-rust\">let a = &amp;b;</code></pre>");
    check("```\n  x\n\n  y\n```\nafter", "<pre>  x\n\n  y</pre>\n\nafter");
    check("```\"><b>\nx\n```", "<pre>x</pre>");
    check("```\n```\nafter", "after");
    check("<div>x</div>\n<b>y</b>", "&lt;div&gt;x&lt;/div&gt;\n&lt;b&gt;y&lt;/b&gt;");
    check("a<br>b <i>c</i>", "a\nb &lt;i&gt;c&lt;/i&gt;");
    check("a\u{0}b\u{1b}c", "abc");
}

#[test]
fn lists() {
    check("- a\n- b\n  - c\n    - d\n- e", "• a\n• b\n  • c\n    • d\n• e");
    check("text\n- a\n- b\n\nafter", "text\n\n• a\n• b\n\nafter");
    check("3. a\n4. b", "3. a\n4. b");
    check("1. a\n\n2. b\n\n   more", "1. a\n\n2. b\n\n  more");
    check("- [x] done\n- [ ] open", "• ☑ done\n• ☐ open");
    check("-\n- b", "• \n• b");
    check("1. run\n   ```sh\n   ls\n   ```\n2. look", "1. run\n<pre><code class=\"language-sh\">ls</code></pre>\n2. look");
}

#[test]
fn tables() {
    check(
        "| name | count |\n|:--|--:|\n| a `x` | 1 |\n| longer | 12 |\n\nafter",
        "<pre>name   │ count\n───────┼──────\na x    │     1\nlonger │    12</pre>\n\nafter",
    );
    check("| a |\n|:-:|\n| [b](http://c) 字 |", "<pre>       a\n───────────────\nb (http://c) 字</pre>");
}

#[test]
fn unfinished_markdown_is_shown_as_it_stands() {
    check("**bo", "**bo");
    check("a `co", "a `co");
    check("[te](http://", "[te](http://");
    check("```rust\nlet a", "<pre><code class=\"language-rust\">let a</code></pre>");
    check("```", "");
    assert!(telegram("> ").blank && telegram("[a]: http://b").blank && !telegram("- ").blank);
    check("> quo", "<blockquote>quo</blockquote>");
    check("- a\n-", "• a\n• ");
    let whole = "# T\n\n**a** *b* [c](http://d) `e`\n\n> q **r**\n\n1. x\n   - y\n\n```sh\nls\n```\n\n| a | b |\n|--|--|\n| c | d |\n";
    for end in 0..whole.len() {
        let html = telegram(&whole[..end]);
        assert_eq!(html.visible_utf16, visible(&html.text).encode_utf16().count());
    }
}

#[test]
fn a_megabyte_is_cheap() {
    for piece in ["word ", "**a** ", "> ", "- ", "[", "`", "| a ", "<b>", "*a ", "\\", "![", "_", "  "] {
        let started = crate::clock::now();
        let html = telegram(&piece.repeat((1 << 18) / piece.len()));
        visible(&html.text);
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{piece:?} took {:?}", started.elapsed());
    }
}

proptest! {
    #[test]
    fn any_text_gives_valid_output(text in "(.|\n|\\*\\*|_|~~|`|```|\n> |\n- |\n1\\. |\\[|\\]\\(|\\)|<|&|\n\\| |\\||\n\\|-|http://|!\\[|<br>|    ){0,200}") {
        let html = telegram(&text);
        let shown = visible(&html.text);
        prop_assert_eq!((html.visible_utf16, html.blank), (shown.encode_utf16().count(), shown.trim().is_empty()));
    }

    #[test]
    fn words_are_not_lost(words in proptest::collection::vec("[a-z]{1,8}", 1..20), marks in proptest::collection::vec("\\*\\*|\\*|`|~~|\n\n|\n- |\n> | ", 1..20)) {
        let text: String = words.iter().zip(marks.iter().cycle()).map(|(word, mark)| format!("{word}{mark}")).collect();
        let shown = visible(&telegram(&text).text);
        let letters = |text: &str| text.chars().filter(char::is_ascii_lowercase).collect::<String>();
        prop_assert_eq!(letters(&shown), letters(&text));
    }
}

#[test]
fn without_markup() {
    let check = |markdown: &str, expect: &str| assert_eq!(readable(markdown), expect, "from {markdown:?}");
    check("plain <b> & \"q\"", "plain <b> & \"q\"");
    check("# Title\n**bold** *italic* ~~gone~~ `a*b`", "Title\n\nbold italic gone a*b");
    check("- one\n- two\n  - inner\n\n1. first\n2. second", "• one\n• two\n  • inner\n\n1. first\n2. second");
    check("see [docs](https://x.y/z) and <https://x.y>", "see docs (https://x.y/z) and https://x.y");
    check("```rust\nlet a = 1;\n```\n\nafter", "let a = 1;\n\nafter");
    check("> said\n\nanswer", "> said\n\nanswer");
    check("| a | b |\n|---|---|\n| 1 | 22 |", "a │ b\n──┼───\n1 │ 22");
    check("- [x] done\n- [ ] open", "• ☑ done\n• ☐ open");
    check("", "");
    check("\u{7}", "");
}

proptest! {
    #[test]
    fn without_markup_the_same_shows_as_with_it(words in proptest::collection::vec("[a-z&<]{1,6}|\\*\\*|`|\n|\n- |# ", 0..30)) {
        let markdown = words.join(" ");
        let shows = |text: &str| text.chars().filter(|character| !character.is_whitespace()).collect::<String>();
        prop_assert_eq!(shows(&readable(&markdown)), shows(&visible(&telegram(&markdown).text)));
    }
}
