//! Mentions and commands within a text, by their UTF-16 offsets: is the bot meant, and what is left without its name. Pure.

use super::protocol::Me;
use super::wire::Entity;
use crate::limits;
use std::ops::Range;

/// What the entities of a text say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// The bot is mentioned, or called with a command.
    pub addressed: bool,
    /// Without mentions of the bot; `/cmd@gate_bot` is `/cmd`.
    pub text: String,
}

/// Reads a text with its entities. Entities that lie outside the text, or cut a character, are skipped.
pub(super) fn read(text: &str, entities: &[Entity], me: &Me) -> Reading {
    let mut addressed = false;
    let mut cuts: Vec<Range<usize>> = Vec::new();
    for entity in entities.iter().take(limits::TELEGRAM_ENTITIES_MAX) {
        let Some(range) = bytes(text, entity) else { continue };
        let word = &text[range.clone()];
        match entity.kind.as_deref() {
            Some("mention") if word.strip_prefix('@').is_some_and(|name| me.is_called(name)) => {
                addressed = true;
                cuts.push(range);
            }
            Some("text_mention") if entity.user.as_ref().is_some_and(|user| user.id == Some(me.id)) => {
                addressed = true;
                cuts.push(range);
            }
            Some("bot_command") => match word.split_once('@') {
                Some((command, name)) if me.is_called(name) => {
                    addressed = true;
                    cuts.push(range.start + command.len()..range.end);
                }
                // For another bot.
                Some(_) => {}
                // Further on in a text it is a path more often than a command.
                None => {
                    addressed |=
                        text[..range.start].trim().is_empty() || cuts.iter().any(|cut| text[cut.end..range.start].trim().is_empty())
                }
            },
            _ => {}
        }
    }
    let text = if cuts.is_empty() { text.to_owned() } else { without(text, cuts) };
    Reading { addressed, text }
}

/// The bytes that an entity is about.
fn bytes(text: &str, entity: &Entity) -> Option<Range<usize>> {
    let from = usize::try_from(entity.offset?).ok()?;
    let to = from.checked_add(usize::try_from(entity.length?).ok().filter(|length| *length > 0)?)?;
    let (mut units, mut start) = (0, None);
    for (at, character) in text.char_indices() {
        if units == from {
            start = Some(at);
        }
        if units == to {
            return Some(start?..at);
        }
        units += character.len_utf16();
    }
    (units == to).then_some(start?..text.len())
}

/// The text without some pieces, and without the white space that would be left over.
fn without(text: &str, mut cuts: Vec<Range<usize>>) -> String {
    cuts.sort_by_key(|cut| cut.start);
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for cut in cuts {
        if cut.start < at {
            continue;
        }
        out.push_str(&text[at..cut.start]);
        at = cut.end;
        let rest = &text[at..];
        if out.trim().is_empty() {
            // "@gate_bot, do this" and "@gate_bot: do this"
            at += rest.len() - rest.trim_start_matches([',', ':', ' ']).len();
        } else if out.ends_with(char::is_whitespace) && rest.starts_with(' ') {
            at += 1;
        }
    }
    out.push_str(&text[at..]);
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::telegram::wire::User;

    fn me() -> Me {
        Me { id: 123_456, username: "gate_bot".to_owned() }
    }

    fn entity(kind: &str, offset: i64, length: i64) -> Entity {
        Entity { kind: Some(kind.to_owned()), offset: Some(offset), length: Some(length), user: None }
    }

    #[test]
    fn mentions_are_found_and_taken_out() {
        let check = |text: &str, entities: &[Entity], addressed: bool, expect: &str| {
            assert_eq!(read(text, entities, &me()), Reading { addressed, text: expect.to_owned() }, "{text:?}");
        };
        check("hello", &[], false, "hello");
        check(" keeps  its space ", &[], false, " keeps  its space ");
        check("@gate_bot hello", &[entity("mention", 0, 9)], true, "hello");
        check("@Gate_Bot: hello", &[entity("mention", 0, 9)], true, "hello");
        check("hey @gate_bot what", &[entity("mention", 4, 9)], true, "hey what");
        check("hey @gate_bot", &[entity("mention", 4, 9)], true, "hey");
        check("hey @gate_bot, what", &[entity("mention", 4, 9)], true, "hey , what");
        check("@other_bot hello", &[entity("mention", 0, 10)], false, "@other_bot hello");
        check("@gate_bott hello", &[entity("mention", 0, 10)], false, "@gate_bott hello");
        check("mail me@gate_bot", &[], false, "mail me@gate_bot");
        // An emoji is two UTF-16 units, a family of three is eight.
        check("😀 @gate_bot hi", &[entity("mention", 3, 9)], true, "😀 hi");
        check("👨\u{200d}👩\u{200d}👧@gate_bot é", &[entity("mention", 8, 9)], true, "👨\u{200d}👩\u{200d}👧 é");
        check("@gate_bot @gate_bot x", &[entity("mention", 0, 9), entity("mention", 10, 9)], true, "x");
        check("@gate_bot x", &[entity("mention", 0, 9), entity("mention", 0, 9)], true, "x");
    }

    #[test]
    fn commands_are_told_from_those_for_others() {
        let check = |text: &str, entities: &[Entity], addressed: bool, expect: &str| {
            assert_eq!(read(text, entities, &me()), Reading { addressed, text: expect.to_owned() }, "{text:?}");
        };
        check("/stop", &[entity("bot_command", 0, 5)], true, "/stop");
        check("/stop@gate_bot now", &[entity("bot_command", 0, 14)], true, "/stop now");
        check("/stop@GATE_BOT", &[entity("bot_command", 0, 14)], true, "/stop");
        check("/stop@other_bot", &[entity("bot_command", 0, 15)], false, "/stop@other_bot");
        check("look into /etc", &[entity("bot_command", 10, 4)], false, "look into /etc");
        check("/start hello @gate_bot", &[entity("bot_command", 0, 6), entity("mention", 13, 9)], true, "/start hello");
        check("@gate_bot /new", &[entity("mention", 0, 9), entity("bot_command", 10, 4)], true, "/new");
    }

    #[test]
    fn a_person_without_username_is_mentioned_by_id() {
        let mut mention = entity("text_mention", 0, 4);
        mention.user = Some(User { id: Some(123_456), ..User::default() });
        assert_eq!(read("Gate, hi", &[mention], &me()), Reading { addressed: true, text: "hi".to_owned() });
        let mut mention = entity("text_mention", 0, 4);
        mention.user = Some(User { id: Some(7), ..User::default() });
        assert!(!read("Gate, hi", &[mention], &me()).addressed);
    }

    #[test]
    fn offsets_that_make_no_sense_are_skipped() {
        let odd = [(-1, 5), (0, 0), (0, -3), (0, 100), (100, 1), (i64::MAX, i64::MAX), (1, 9)];
        for (offset, length) in odd {
            // The emoji's second half begins at 1.
            let reading = read("😀gate_bot", &[entity("mention", offset, length), entity("bot_command", offset, length)], &me());
            assert_eq!(reading, Reading { addressed: false, text: "😀gate_bot".to_owned() });
        }
    }
}
