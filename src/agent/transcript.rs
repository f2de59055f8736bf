//! The transcript as the model gets it: alternating, every tool call answered, short enough.

use crate::core::types::{Block, Message, Role};

/// Merges neighbours of the same role, with tool results first, as the providers want it.
#[must_use]
pub fn for_model(transcript: &[Message]) -> Vec<Message> {
    let mut merged: Vec<Message> = Vec::with_capacity(transcript.len());
    for message in transcript {
        match merged.last_mut() {
            Some(last) if last.role == message.role => last.blocks.extend(message.blocks.iter().cloned()),
            _ => merged.push(message.clone()),
        }
    }
    for message in merged.iter_mut().filter(|message| message.role == Role::User) {
        message.blocks.sort_by_key(|block| !matches!(block, Block::ToolResult { .. }));
    }
    merged
}

/// Leaves out the older half, up to a message of the user that is not a tool's result, and says so.
#[must_use]
pub fn halve(transcript: &[Message]) -> Vec<Message> {
    let starts_exchange =
        |message: &Message| message.role == Role::User && !message.blocks.iter().any(|block| matches!(block, Block::ToolResult { .. }));
    let middle = transcript.len() / 2;
    let cut = (middle..transcript.len()).find(|index| starts_exchange(&transcript[*index]));
    // One exchange with very many tool rounds: keep its question and the newer half of its rounds.
    let Some(cut) = cut.filter(|cut| *cut > 0) else { return halve_rounds(transcript) };
    let mut kept = transcript[cut..].to_vec();
    kept[0].blocks.insert(0, Block::Text { text: "(The earlier part of this conversation was left out.)".to_owned() });
    kept
}

/// The newest question and the newer half of what followed it, beginning with a complete round.
fn halve_rounds(transcript: &[Message]) -> Vec<Message> {
    let starts_exchange =
        |message: &Message| message.role == Role::User && !message.blocks.iter().any(|block| matches!(block, Block::ToolResult { .. }));
    let Some(question) = transcript.iter().rposition(starts_exchange) else { return transcript.to_vec() };
    let rounds = &transcript[question + 1..];
    let middle = rounds.len() / 2;
    let cut = (middle..rounds.len()).find(|index| rounds[*index].role == Role::Assistant).unwrap_or(rounds.len());
    let mut kept = vec![transcript[question].clone()];
    kept[0].blocks.push(Block::Text { text: "(The first rounds of this turn were left out.)".to_owned() });
    kept.extend_from_slice(&rounds[cut..]);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Message {
        Message::text(Role::User, text)
    }
    fn call(id: &str) -> Message {
        Message {
            role: Role::Assistant,
            blocks: vec![Block::ToolUse { id: id.into(), name: "shell".into(), input: serde_json::json!({}) }],
        }
    }
    fn result(id: &str) -> Message {
        Message { role: Role::User, blocks: vec![Block::ToolResult { tool_use_id: id.into(), content: "x".into(), is_error: false }] }
    }

    #[test]
    fn neighbours_are_merged_with_results_first() {
        let merged = for_model(&[user("a"), call("1"), user("steer"), result("1")]);
        assert_eq!(merged.len(), 3);
        assert!(matches!(merged[2].blocks[0], Block::ToolResult { .. }));
    }

    #[test]
    fn halving_never_leaves_a_result_without_its_call() {
        let mut long = vec![user("q0")];
        for number in 0..20 {
            long.extend([call(&number.to_string()), result(&number.to_string())]);
        }
        for mut transcript in [long.clone(), [long.clone(), vec![user("q1"), call("z"), result("z")]].concat(), vec![user("only")]] {
            for _ in 0..6 {
                transcript = halve(&transcript);
                assert_eq!(transcript[0].role, Role::User);
                for pair in transcript.windows(2) {
                    if let Block::ToolResult { tool_use_id, .. } = &pair[1].blocks[0] {
                        assert!(pair[0].blocks.iter().any(|block| matches!(block, Block::ToolUse { id, .. } if id == tool_use_id)));
                    }
                }
            }
            assert!(transcript.len() <= 21);
        }
    }
}
