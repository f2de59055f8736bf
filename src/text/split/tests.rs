//! Tests of the splitter: where breaks fall, and what holds for every text.

use super::*;
use proptest::prelude::*;

/// The properties that hold for every text. → the parts
fn check(text: &str, unit: Unit, limit: usize) -> Vec<String> {
    let parts = split(text, unit, limit);
    for part in &parts {
        assert!(unit.measure(part) <= limit.max(LIMIT_MIN), "too long: {part:?}");
        assert!(!part.trim().is_empty(), "blank part of {text:?}");
    }
    parts
}

fn letters(text: &str) -> String {
    text.chars().filter(|character| !character.is_whitespace()).collect()
}

/// Everything but fence lines and white space.
fn prose<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let lines = parts.into_iter().flat_map(str::lines).filter(|line| !line.trim_start_matches(['>', ' ']).starts_with("```"));
    lines.map(|line| letters(&line.replace('>', ""))).collect()
}

fn fences_balanced(part: &str) -> bool {
    part.lines().filter(|line| line.trim_start_matches(['>', ' ']).starts_with("```")).count() % 2 == 0
}

#[test]
fn breaks_where_a_reader_would() {
    let check = |text: &str, limit: usize, expect: &[&str]| assert_eq!(check(text, Unit::Chars, limit), expect, "{text:?}");
    check("", 20, &[]);
    check(" \n ", 20, &[]);
    check("short", 20, &["short"]);
    check("one two three\n\nfour five six", 20, &["one two three", "four five six"]);
    check("one two three\nfour five six", 20, &["one two three", "four five six"]);
    check("This is it. And so it goes on", 20, &["This is it.", "And so it goes on"]);
    check("aaaa bbbb cccc dddd eeee ffff", 20, &["aaaa bbbb cccc dddd", "eeee ffff"]);
    check("aaaaaaaaaaaaaaaaaaaaaaaaa", 20, &["aaaaaaaaaaaaaaaaaaaa", "aaaaa"]);
    check("see [the page](http://x) or [that](http://yy)", 30, &["see [the page](http://x) or", "[that](http://yy)"]);
    check("we should run `cargo test --all` now", 20, &["we should run", "`cargo test --all`", "now"]);
    check("some text **and bold words** more", 24, &["some text", "**and bold words** more"]);
    check("text before this one\n\n# Title\n\nwords words words", 30, &["text before this one", "# Title\n\nwords words words"]);
    check("你好世界。今天天气很好。我们走吧。再见。一二三四五", 16, &["你好世界。今天天气很好。", "我们走吧。再见。一二三四五"]);
}

#[test]
fn units_are_told_apart() {
    let text = "😀".repeat(20);
    assert_eq!((Unit::Utf16.measure(&text), Unit::Bytes.measure(&text), Unit::Chars.measure(&text)), (40, 80, 20));
    assert_eq!(check(&text, Unit::Utf16, 21).iter().map(|part| part.chars().count()).collect::<Vec<_>>(), [10, 10]);
    assert_eq!(check(&text, Unit::Chars, 20).len(), 1);
    assert_eq!(check(&text, Unit::Bytes, 20).len(), 4);
}

#[test]
fn graphemes_stay_whole() {
    let family = "👨\u{200d}👩\u{200d}👧";
    for limit in 16..40 {
        for part in check(&family.repeat(30), Unit::Utf16, limit) {
            assert_eq!(letters(&part).chars().count() % 5, 0, "{part:?}");
        }
    }
    // A grapheme longer than a part is cut between characters.
    check(&format!("e{}", "\u{301}".repeat(100)), Unit::Utf16, 20);
}

#[test]
fn a_long_fence_is_closed_and_opened_again() {
    let text = format!("Look:\n```rust\n{}```\nDone, and that was it.", "let a = 1;\n".repeat(20));
    let parts = check(&text, Unit::Utf16, 100);
    assert!(parts[0].starts_with("Look:\n```rust\nlet a = 1;\n") && parts[0].ends_with("let a = 1;\n```"), "{parts:?}");
    assert!(parts[1].starts_with("```rust\nlet a = 1;\n") && parts[1].ends_with("\n```"), "{parts:?}");
    assert!(parts.last().expect("parts").ends_with("```\nDone, and that was it."), "{parts:?}");
    assert_eq!(parts.iter().map(|part| part.matches("let a").count()).sum::<usize>(), 20);
}

#[test]
fn a_fence_that_fits_is_not_cut() {
    let fence = format!("```\n{}```", "code\n".repeat(10));
    let parts = check(&format!("{}\n\n{fence}\n\nafter", "word ".repeat(15)), Unit::Utf16, 90);
    assert_eq!(parts[1], format!("{fence}\n\nafter"));
}

#[test]
fn fences_in_lists_and_quotes_are_opened_again_as_such() {
    let code = "    one line of code\n".repeat(10);
    let parts = check(&format!("1. a\n\n    ```sh\n{code}    ```\n\n    after\n2. b"), Unit::Utf16, 100);
    assert!(parts[1].starts_with("```sh\none line of code\n"), "{parts:?}");
    assert!(parts.last().expect("parts").contains("\n```\n\nafter\n2. b"), "{parts:?}");
    let code = "> one line of code\n".repeat(10);
    let parts = check(&format!("> ```sh\n{code}> ```\n\nafter"), Unit::Utf16, 100);
    assert!(parts[1].starts_with("> ```sh\n> one line") && parts[0].ends_with("\n> ```"), "{parts:?}");
}

#[test]
fn blank_code_makes_no_blank_parts() {
    let text = format!("```\na\n{}b\n```\nend", "\n".repeat(500));
    assert_eq!(prose(check(&text, Unit::Utf16, 64).iter().map(String::as_str)), "abend");
}

#[test]
fn a_megabyte_is_cheap() {
    let pieces = ["word word. ", "`code` ", "\n\n", "*a* **b** [c](d) ", "```rust\nlet x = 1;\n```\n", "x", "> quote\n", "😀"];
    for piece in pieces {
        let text = piece.repeat((1 << 20) / piece.len());
        let started = crate::clock::now();
        let parts = check(&text, Unit::Utf16, 4000);
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{piece:?} took {:?}", started.elapsed());
        assert_eq!(prose(parts.iter().map(String::as_str)), prose([text.as_str()]));
    }
}

fn markdown() -> impl Strategy<Value = String> {
    let block = prop_oneof![
        "[a-z]{1,9}( [a-zA-Zé😀,.]{1,9}){0,30}",
        "(- [a-z]{1,9}( [a-z]{1,9}){0,9}\n){1,5}",
        ("[a-z]{0,6}", "([ a-z(){};=]{0,40}\n){0,20}").prop_map(|(language, code)| format!("```{language}\n{code}```")),
        "([a-z]{1,9} (`[a-z]{1,9}`|\\[[a-z ]{1,9}\\]\\(http://[a-z]{1,9}\\)|\\*\\*[a-z]{1,9}\\*\\*) ){1,9}",
        "#{1,3} [a-z]{1,9}",
    ];
    proptest::collection::vec(block, 0..12).prop_map(|blocks| blocks.join("\n\n"))
}

proptest! {
    #[test]
    fn markdown_keeps_its_text_and_its_fences(text in markdown(), limit in 64_usize..300) {
        let parts = check(&text, Unit::Utf16, limit);
        prop_assert_eq!(prose(parts.iter().map(String::as_str)), prose([text.as_str()]));
        for part in &parts {
            prop_assert!(fences_balanced(part), "{:?}", part);
        }
    }

    #[test]
    fn links_and_code_that_fit_are_not_cut(words in proptest::collection::vec("[a-z]{1,9}|`[a-z]{1,9} [a-z]{1,9}`", 1..200), limit in 64_usize..300) {
        for part in check(&words.join(" "), Unit::Utf16, limit) {
            prop_assert_eq!(part.matches('`').count() % 2, 0, "{:?}", part);
        }
    }

    #[test]
    fn any_text_without_fences_is_preserved(text in "([^`~\\pC]|\n){0,600}", limit in 16_usize..100) {
        for unit in [Unit::Utf16, Unit::Bytes, Unit::Chars] {
            prop_assert_eq!(letters(&check(&text, unit, limit).concat()), letters(&text));
        }
    }

    #[test]
    fn any_text_at_all_is_taken(text in "(.|\n|```|~~~|> |- |    |`|\\[|\\]\\(){0,300}", limit in 0_usize..100) {
        check(&text, Unit::Utf16, limit);
        check(&text, Unit::Bytes, limit);
    }
}
