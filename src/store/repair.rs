//! Makes a transcript one that a provider accepts, wherever it was cut. Pure; any thread.
//!
//! The rules (Messages API): roles alternate, beginning with the user; each `tool_use` is answered by a
//! `tool_result` in the next message, before its other blocks, and there is no `tool_result` without its `tool_use`;
//! a text is never blank. A crash, a cancel, a cut at a number of messages or a lost row can break each of them.

use crate::core::types::{Block, Message, Role};

/// What stands in for the result of a call that was never committed.
pub const RESULT_UNKNOWN: &str = "interrupted: the result of this call is not known";

/// Whether a message can begin a transcript: it is the user's and not made of tool results alone.
#[must_use]
pub fn asks_something(message: &Message) -> bool {
    message.role == Role::User && message.blocks.iter().any(|block| !matches!(block, Block::ToolResult { .. }) && !is_blank(block))
}

fn is_blank(block: &Block) -> bool {
    matches!(block, Block::Text { text } if text.trim().is_empty())
}

/// Repairs a transcript. What is in order already comes back unchanged; so does a repaired one.
#[must_use]
pub fn repair(messages: Vec<Message>) -> Vec<Message> {
    let begun = messages.into_iter().skip_while(|message| !asks_something(message));
    let merged = begun.fold(Vec::new(), |mut merged, mut message| {
        message.blocks.retain(|block| !is_blank(block));
        push(&mut merged, message);
        merged
    });
    let mut repaired: Vec<Message> = Vec::with_capacity(merged.len() + 1);
    for message in merged {
        match message.role {
            Role::Assistant => {
                let calls_made = repaired.last().is_some_and(|last| last.role == Role::Assistant && calls(last).next().is_some());
                debug_assert!(!calls_made, "the results of an assistant's calls follow it at once");
                push(&mut repaired, message);
            }
            Role::User => {
                let message = with_results(repaired.last(), message);
                push(&mut repaired, message);
            }
        }
    }
    if let Some(last) = repaired.last().filter(|last| calls(last).next().is_some()) {
        let results = with_results(Some(last), Message { role: Role::User, blocks: Vec::new() });
        repaired.push(results);
    }
    repaired
}

/// Appends, joining messages of the same role and leaving out empty ones.
fn push(messages: &mut Vec<Message>, message: Message) {
    if message.blocks.is_empty() {
        return;
    }
    match messages.last_mut() {
        Some(last) if last.role == message.role => last.blocks.extend(message.blocks),
        _ => messages.push(message),
    }
}

/// The ids of the calls that the next message must answer.
fn calls(message: &Message) -> impl Iterator<Item = &String> {
    message.blocks.iter().filter_map(|block| match block {
        Block::ToolUse { id, .. } if message.role == Role::Assistant => Some(id),
        _ => None,
    })
}

/// The user's message with exactly one result for each call of the message before it, in the order of the calls.
/// Calls and results are paired one to one, because some providers give several calls the same id.
fn with_results(before: Option<&Message>, message: Message) -> Message {
    let (mut results, others): (Vec<Block>, Vec<Block>) =
        message.blocks.into_iter().partition(|block| matches!(block, Block::ToolResult { .. }));
    let mut blocks = Vec::with_capacity(results.len() + others.len());
    for id in before.into_iter().flat_map(calls) {
        let found = results.iter().position(|block| matches!(block, Block::ToolResult { tool_use_id, .. } if tool_use_id == id));
        blocks.push(match found {
            Some(index) => results.remove(index),
            None => Block::ToolResult { tool_use_id: id.clone(), content: RESULT_UNKNOWN.to_owned(), is_error: true },
        });
    }
    blocks.extend(others);
    Message { role: Role::User, blocks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Block {
        Block::Text { text: text.to_owned() }
    }
    fn call(id: &str) -> Block {
        Block::ToolUse { id: id.to_owned(), name: "shell".to_owned(), input: serde_json::json!({"command": "true"}) }
    }
    fn result(id: &str) -> Block {
        Block::ToolResult { tool_use_id: id.to_owned(), content: "done".to_owned(), is_error: false }
    }
    fn unknown(id: &str) -> Block {
        Block::ToolResult { tool_use_id: id.to_owned(), content: RESULT_UNKNOWN.to_owned(), is_error: true }
    }
    fn user(blocks: &[Block]) -> Message {
        Message { role: Role::User, blocks: blocks.to_vec() }
    }
    fn assistant(blocks: &[Block]) -> Message {
        Message { role: Role::Assistant, blocks: blocks.to_vec() }
    }

    fn check(input: &[Message], expect: &[Message]) {
        assert_eq!(repair(input.to_vec()), expect);
    }

    #[test]
    fn what_is_in_order_stays() {
        check(&[], &[]);
        let whole = [user(&[text("hi")]), assistant(&[call("a")]), user(&[result("a"), text("and?")]), assistant(&[text("done")])];
        check(&whole, &whole);
    }

    #[test]
    fn the_beginning_is_a_question() {
        check(&[assistant(&[text("old")]), user(&[result("x")]), user(&[text("hi")])], &[user(&[text("hi")])]);
        check(&[assistant(&[call("x")]), user(&[result("x"), text("stop")])], &[user(&[text("stop")])]);
        check(&[assistant(&[text("nobody asked")])], &[]);
    }

    #[test]
    fn missing_results_are_made_up() {
        check(
            &[user(&[text("hi")]), assistant(&[call("a"), call("b")]), user(&[text("wait"), result("b")])],
            &[user(&[text("hi")]), assistant(&[call("a"), call("b")]), user(&[unknown("a"), result("b"), text("wait")])],
        );
        check(&[user(&[text("hi")]), assistant(&[call("a")])], &[user(&[text("hi")]), assistant(&[call("a")]), user(&[unknown("a")])]);
    }

    #[test]
    fn results_without_a_call_go() {
        check(
            &[
                user(&[text("hi")]),
                assistant(&[text("yes")]),
                user(&[result("x")]),
                assistant(&[call("a")]),
                user(&[result("a"), result("a")]),
            ],
            &[user(&[text("hi")]), assistant(&[text("yes"), call("a")]), user(&[result("a")])],
        );
    }

    #[test]
    fn same_roles_are_joined_and_blank_texts_go() {
        check(
            &[user(&[text("one")]), user(&[text("two")]), assistant(&[text(" \n")]), user(&[text("three")]), assistant(&[])],
            &[user(&[text("one"), text("two"), text("three")])],
        );
        check(
            &[user(&[text("hi")]), assistant(&[call("a")]), assistant(&[text("hm")]), user(&[result("a")])],
            &[user(&[text("hi")]), assistant(&[call("a"), text("hm")]), user(&[result("a")])],
        );
    }

    #[test]
    fn calls_with_the_same_id_are_answered_one_by_one() {
        check(
            &[user(&[text("hi")]), assistant(&[call(""), call("")]), user(&[result("")])],
            &[user(&[text("hi")]), assistant(&[call(""), call("")]), user(&[result(""), unknown("")])],
        );
    }

    fn block() -> impl Strategy<Value = Block> {
        prop_oneof![
            prop_oneof![Just("a"), Just(""), Just(" ")].prop_map(text),
            prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(call),
            prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(result),
            Just(Block::Thinking { thinking: "hm".to_owned(), signature: "s".to_owned() }),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        let role = prop_oneof![Just(Role::User), Just(Role::Assistant)];
        (role, proptest::collection::vec(block(), 0..4)).prop_map(|(role, mut blocks)| {
            // What a role cannot say does not get into a transcript.
            blocks.retain(|block| match block {
                Block::ToolResult { .. } => role == Role::User,
                Block::ToolUse { .. } | Block::Thinking { .. } => role == Role::Assistant,
                _ => true,
            });
            Message { role, blocks }
        })
    }

    fn is_accepted(messages: &[Message]) -> Result<(), TestCaseError> {
        for (index, message) in messages.iter().enumerate() {
            let expect = if index % 2 == 0 { Role::User } else { Role::Assistant };
            prop_assert_eq!(message.role, expect);
            prop_assert!(!message.blocks.is_empty() && !message.blocks.iter().any(is_blank));
            let wanted: Vec<&String> = index.checked_sub(1).map(|before| calls(&messages[before]).collect()).unwrap_or_default();
            let leading = message.blocks.iter().map_while(|block| match block {
                Block::ToolResult { tool_use_id, .. } => Some(tool_use_id),
                _ => None,
            });
            prop_assert_eq!(leading.collect::<Vec<_>>(), wanted.clone());
            let count = message.blocks.iter().filter(|block| matches!(block, Block::ToolResult { .. })).count();
            prop_assert_eq!(count, wanted.len());
        }
        prop_assert!(messages.first().is_none_or(asks_something));
        prop_assert!(messages.last().is_none_or(|last| calls(last).next().is_none()));
        Ok(())
    }

    proptest! {
        #[test]
        fn every_transcript_is_accepted_after_repair(messages in proptest::collection::vec(message(), 0..12)) {
            let once = repair(messages.clone());
            is_accepted(&once)?;
            prop_assert_eq!(repair(once.clone()), once.clone());
            // Nothing that a person or the model said is lost after the first question.
            let is_said = |block: &&Block| matches!(block, Block::Text { .. }) && !is_blank(block);
            let said = |list: &[Message]| list.iter().flat_map(|message| &message.blocks).filter(is_said).count();
            let kept: Vec<Message> = messages.into_iter().skip_while(|message| !asks_something(message)).collect();
            prop_assert_eq!(said(&kept), said(&once));
        }
    }
}
