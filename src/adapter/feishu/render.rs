//! Messages as the platform takes them: `msg_type` and `content`, which is JSON in a text. Pure.

use crate::core::types::ChatRef;
use crate::limits;
use crate::text::feishu::{feishu, harmless};
use crate::text::html::readable;
use crate::text::split::{Unit, split};
use serde_json::{Value, json};

/// In which form a message is sent; each later one asks less of the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A card with Markdown and buttons. It can be edited at any time.
    Card,
    /// A card with the text as it is.
    PlainCard,
    /// A post with Markdown.
    Post,
    /// Nothing but text.
    Text,
}

/// What a button carries, besides its label and command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub chat: &'a ChatRef,
    pub private: bool,
}

/// → `msg_type` and `content`. Buttons are shown by cards alone; the text says the commands too.
pub(super) fn render(form: Form, text: &str, buttons: &[(String, String)], place: Place<'_>) -> (&'static str, String) {
    match form {
        Form::Text => ("text", json!({"text": bare(text)}).to_string()),
        Form::Post => {
            let post = json!({"zh_cn": {"content": [[{"tag": "md", "text": feishu(text)}]]}});
            ("post", post.to_string())
        }
        Form::Card => ("interactive", card(json!({"tag": "markdown", "content": feishu(text)}), buttons, place)),
        Form::PlainCard => {
            let element = json!({"tag": "div", "text": {"tag": "plain_text", "content": bare(text)}});
            ("interactive", card(element, buttons, place))
        }
    }
}

/// Without markup, which would be shown as it is. Padded tables can make that much longer.
fn bare(text: &str) -> String {
    let readable = readable(text);
    let fits = !readable.trim().is_empty() && readable.len() <= limits::FEISHU_CONTENT_BYTES_MAX.max(2 * text.len());
    harmless(if fits { &readable } else { text })
}

fn card(element: Value, buttons: &[(String, String)], place: Place<'_>) -> String {
    let mut elements = vec![element];
    let buttons: Vec<Value> = buttons.iter().filter(|(label, _)| !label.trim().is_empty()).map(|button| press(button, place)).collect();
    if !buttons.is_empty() {
        elements.push(json!({"tag": "action", "actions": buttons}));
    }
    // Only with `update_multi` can it be edited for all who see it.
    json!({"config": {"wide_screen_mode": true, "update_multi": true}, "elements": elements}).to_string()
}

fn press((label, command): &(String, String), place: Place<'_>) -> Value {
    let value = json!({"command": command, "thread": place.chat.thread, "private": place.private});
    json!({"tag": "button", "text": {"tag": "plain_text", "content": label}, "type": "default", "value": value})
}

/// Parts whose content fits, whichever form they are sent in.
pub(super) fn parts(text: &str, rich: bool) -> Vec<String> {
    split_rendered(text, limits::FEISHU_PART_CHARS, rich)
}

fn split_rendered(text: &str, limit: usize, rich: bool) -> Vec<String> {
    let mut parts = Vec::new();
    for part in split(text, Unit::Chars, limit) {
        if !rich || limit < 64 || fits(&part) {
            parts.push(part);
        } else {
            parts.extend(split_rendered(&part, limit / 2, rich));
        }
    }
    parts
}

/// A card is the longest form: its frame takes some hundred bytes, and buttons some more.
fn fits(text: &str) -> bool {
    let chat = ChatRef { adapter: String::new(), chat: String::new(), thread: None };
    render(Form::Card, text, &[], Place { chat: &chat, private: true }).1.len() <= limits::FEISHU_CONTENT_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendered(form: Form, text: &str, buttons: &[(String, String)]) -> (&'static str, Value) {
        let chat = ChatRef { adapter: "feishu".to_owned(), chat: "oc_1".to_owned(), thread: Some("omt_1".to_owned()) };
        let (kind, content) = render(form, text, buttons, Place { chat: &chat, private: false });
        (kind, serde_json::from_str(&content).expect("JSON"))
    }

    #[test]
    fn each_form_is_the_documented_one() {
        assert_eq!(rendered(Form::Text, "**a** <at>", &[]), ("text", json!({"text": "a <\u{200b}at>"})));
        let post = json!({"zh_cn": {"content": [[{"tag": "md", "text": "**a**"}]]}});
        assert_eq!(rendered(Form::Post, "# a", &[]), ("post", post));
        let config = json!({"wide_screen_mode": true, "update_multi": true});
        let card = json!({"config": config, "elements": [{"tag": "markdown", "content": "**hi**"}]});
        assert_eq!(rendered(Form::Card, "**hi**", &[]), ("interactive", card));
        let buttons = [("Yes".to_owned(), "/approve 1".to_owned()), (" ".to_owned(), "/x".to_owned())];
        let (_, card) = rendered(Form::PlainCard, "hi", &buttons);
        assert_eq!(card["elements"][0], json!({"tag": "div", "text": {"tag": "plain_text", "content": "hi"}}));
        let value = json!({"command": "/approve 1", "thread": "omt_1", "private": false});
        let button = json!({"tag": "button", "text": {"tag": "plain_text", "content": "Yes"}, "type": "default", "value": value});
        assert_eq!(card["elements"][1], json!({"tag": "action", "actions": [button]}));
    }

    #[test]
    fn long_texts_come_in_parts_that_fit() {
        let texts = ["中".repeat(50_000), "\"\n".repeat(20_000), "word ".repeat(10_000), format!("```\n{}\n```", "\\\"x\n".repeat(9000))];
        for text in texts {
            let parts = parts(&text, true);
            assert!(parts.len() > 1 && parts.len() < 40, "{}", parts.len());
            assert!(parts.iter().all(|part| fits(part)));
        }
        assert_eq!(parts("short", true), ["short"]);
        assert!(parts(" \n", true).is_empty());
    }

    proptest! {
        #[test]
        fn any_part_fits(text in "([a-z<|#\"\\\\\n`]|中){0,3000}", times in 1_usize..30) {
            for part in parts(&text.repeat(times), true) {
                prop_assert!(fits(&part), "{} characters", part.chars().count());
            }
        }
    }
}
