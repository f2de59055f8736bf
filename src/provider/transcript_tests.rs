//! Mending of transcripts: examples, and the rules for any transcript.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn user(blocks: Vec<Block>) -> Message {
    Message { role: Role::User, blocks }
}

fn assistant(blocks: Vec<Block>) -> Message {
    Message { role: Role::Assistant, blocks }
}

fn text(text: &str) -> Block {
    Block::Text { text: text.to_owned() }
}

fn call(id: &str) -> Block {
    Block::ToolUse { id: id.to_owned(), name: "shell".to_owned(), input: json!({}) }
}

fn result(id: &str, content: &str) -> Block {
    Block::ToolResult { tool_use_id: id.to_owned(), content: content.to_owned(), is_error: false }
}

/// One word a piece: `u[..]` and `a[..]` are the entries.
fn sketch(entries: &[Entry<'_>]) -> String {
    let piece = |piece: &Piece<'_>| match piece {
        Piece::Text(text) => format!("'{text}'"),
        Piece::Image(image) => image.media_type.to_owned(),
        Piece::ToolUse { id, name, input } => format!("call {id} {name} {input}"),
        Piece::ToolResult { id, content, is_error } => format!("result {id} {content}{}", if *is_error { " !" } else { "" }),
        Piece::Thinking { thinking, .. } => format!("thinking {thinking}"),
        Piece::RedactedThinking { data } => format!("redacted {data}"),
    };
    let entry = |entry: &Entry<'_>| {
        let pieces: Vec<_> = entry.pieces.iter().map(piece).collect();
        format!("{}[{}]", if entry.role == Role::User { "u" } else { "a" }, pieces.join("; "))
    };
    entries.iter().map(entry).collect::<Vec<_>>().join(" ")
}

fn check(messages: &[Message], expect: &str) {
    assert_eq!(sketch(&prepare(messages)), expect);
}

#[test]
fn a_sound_transcript_stays_as_it_is() {
    check(&[], "");
    check(
        &[
            user(vec![text("time?")]),
            assistant(vec![
                Block::Thinking { thinking: "hm".into(), signature: "s".into() },
                Block::RedactedThinking { data: "x".into() },
                text("look"),
                call("c1"),
            ]),
            user(vec![result("c1", "12:00")]),
            assistant(vec![text("noon")]),
        ],
        "u['time?'] a[thinking hm; redacted x; 'look'; call c1 shell {}] u[result c1 12:00] a['noon']",
    );
}

#[test]
fn every_call_is_answered_in_the_next_message() {
    let lost = "(no result: the call was interrupted; it may or may not have had an effect) !";
    check(
        &[user(vec![text("q")]), assistant(vec![call("a"), call("b")])],
        &format!("u['q'] a[call a shell {{}}; call b shell {{}}] u[result a {lost}; result b {lost}]"),
    );
    check(
        &[
            user(vec![text("q")]),
            assistant(vec![call("a"), call("b")]),
            user(vec![text("stop that"), result("b", "B")]),
            assistant(vec![text("ok")]),
        ],
        &format!("u['q'] a[call a shell {{}}; call b shell {{}}] u[result a {lost}; result b B; 'stop that'] a['ok']"),
    );
    // Results that come in two messages, the second with a steering text.
    check(
        &[
            user(vec![text("q")]),
            assistant(vec![call("a"), call("b")]),
            user(vec![result("b", "B")]),
            user(vec![text("and?"), result("a", "A")]),
        ],
        "u['q'] a[call a shell {}; call b shell {}] u[result a A; result b B; 'and?']",
    );
}

#[test]
fn what_lost_its_context_is_left_out() {
    check(
        &[user(vec![result("old", "x")]), assistant(vec![text("done")]), user(vec![text("next")])],
        "u['(The beginning of this conversation is left out.)'] a['done'] u['next']",
    );
    check(&[user(vec![text("q"), result("x", "y")])], "u['q']");
    check(
        &[user(vec![text("q")]), assistant(vec![call("a")]), user(vec![result("a", "1"), result("a", "2")])],
        "u['q'] a[call a shell {}] u[result a 1]",
    );
}

#[test]
fn nothing_empty_is_sent_and_roles_alternate() {
    check(
        &[
            user(vec![text("one"), text(" \n"), text("")]),
            assistant(vec![text("")]),
            assistant(vec![Block::Thinking { thinking: "t".into(), signature: "s".into() }]),
            user(vec![text("two")]),
            assistant(vec![Block::Thinking { thinking: "t".into(), signature: String::new() }, text("yes")]),
            assistant(vec![text("more")]),
            user(vec![]),
        ],
        "u['one'; 'two'] a['yes'; 'more']",
    );
    check(
        &[user(vec![text("q")]), assistant(vec![call("a")]), user(vec![result("a", " ")])],
        "u['q'] a[call a shell {}] u[result a (no output)]",
    );
}

#[test]
fn ids_are_unique_and_well_spelt() {
    let odd = Block::ToolUse { id: "a:b/ü".into(), name: "my.tool".into(), input: json!([1]) };
    check(
        &[
            user(vec![text("q")]),
            assistant(vec![call("call_0"), call("call_0")]),
            user(vec![result("call_0", "1"), result("call_0", "2")]),
            assistant(vec![call("call_0"), call(""), odd]),
            user(vec![result("", "4"), result("call_0", "3"), result("a:b/ü", "5")]),
        ],
        "u['q'] a[call call_0 shell {}; call call_0_2 shell {}] u[result call_0 1; result call_0_2 2] \
         a[call call_0_3 shell {}; call call shell {}; call a_b__ my_tool {\"value\":[1]}] u[result call_0_3 3; result call 4; result a_b__ 5]",
    );
    let long = "x".repeat(60);
    let messages = [user(vec![text("q")]), assistant(vec![call(&long), call(&long)]), user(vec![result(&long, "1"), result(&long, "2")])];
    let (one, two) = ("x".repeat(40), format!("{}_2", "x".repeat(38)));
    check(&messages, &format!("u['q'] a[call {one} shell {{}}; call {two} shell {{}}] u[result {one} 1; result {two} 2]"));
}

#[test]
fn images_that_cannot_be_read_become_notes() {
    let folder = tempfile::tempdir().expect("scratch directory");
    let good = folder.path().join("good.png");
    std::fs::write(&good, b"\x89PNG\r\n\x1a\n").expect("scratch file");
    let image = |path: &std::path::Path| Block::Image { path: path.to_str().expect("UTF-8").to_owned(), media_type: "image/jpeg".into() };
    check(
        &[user(vec![image(&folder.path().join("gone.png")), text("these?"), image(&good)])],
        "u['[image gone.png is not shown: the file is gone]'; 'these?'; image/png]",
    );
}

fn any_block() -> impl Strategy<Value = Block> {
    let id = prop::sample::select(vec!["", "a", "b", "ä", "call_0"]);
    prop_oneof![
        prop::sample::select(vec!["", " ", "hi", "there"]).prop_map(text),
        id.clone().prop_map(call),
        (id, prop::sample::select(vec!["", "out"])).prop_map(|(id, content)| result(id, content)),
        prop::sample::select(vec!["", "s"]).prop_map(|signature| Block::Thinking { thinking: "t".into(), signature: signature.into() }),
        Just(Block::Image { path: "/nonexistent/x.png".into(), media_type: "image/png".into() }),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    (any::<bool>(), prop::collection::vec(any_block(), 0..5))
        .prop_map(|(user, blocks)| Message { role: if user { Role::User } else { Role::Assistant }, blocks })
}

proptest! {
    #[test]
    fn any_transcript_becomes_one_that_providers_accept(messages in prop::collection::vec(any_message(), 0..12)) {
        let entries = prepare(&messages);
        let mut ids = HashSet::new();
        let mut waiting: Vec<String> = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            prop_assert_eq!(entry.role, if place % 2 == 0 { Role::User } else { Role::Assistant });
            prop_assert!(!entry.pieces.is_empty());
            let mut results = Vec::new();
            let mut calls = Vec::new();
            for (at, piece) in entry.pieces.iter().enumerate() {
                match piece {
                    Piece::Text(text) => prop_assert!(!text.trim().is_empty()),
                    Piece::ToolUse { id, .. } => {
                        prop_assert!(ids.insert(id.clone()) && id.is_ascii() && !id.is_empty());
                        calls.push(id.clone());
                    }
                    Piece::ToolResult { id, content, .. } => {
                        prop_assert!(at == results.len(), "results come first");
                        prop_assert!(!content.is_empty());
                        results.push(id.clone());
                    }
                    Piece::Thinking { signature, .. } => prop_assert!(!signature.is_empty()),
                    Piece::Image(_) | Piece::RedactedThinking { .. } => {}
                }
            }
            prop_assert_eq!(&results, &waiting);
            waiting = calls;
        }
        prop_assert!(waiting.is_empty(), "the last calls are answered too");
    }
}
