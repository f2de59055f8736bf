//! The built-in model: no network, no account, the same answer every time.
//!
//! For `demo`, for trying out an adapter before there is a key, and for tests. It understands a few words at the
//! beginning of a line and shows what the gateway does around a model: streaming, tool calls, long replies, cancelling.

use super::{Call, Delta, ModelReply, ModelRequest, Provider, ProviderError, Stop, estimate_tokens};
use crate::core::types::{Block, Message, Role, Usage};
use crate::thread;
use serde_json::{Value, json};
use std::time::Duration;

/// Between two words, so that streaming can be seen.
const WORD_PAUSE: Duration = Duration::from_millis(4);
/// All these pauses of one reply together.
const PAUSES_MAX: Duration = Duration::from_secs(1);
/// Between two words of `slow:`.
const SLOW_PAUSE: Duration = Duration::from_millis(100);
/// The longest reply of `long:`, in characters.
const LONG_CHARS_MAX: usize = 1_000_000;
/// Characters of a message that are repeated to its sender.
const REPEATED_CHARS_MAX: usize = 400;

const ABILITIES: &str = "I am the built-in offline model, without a network or an account. I understand:\n\
- `run: COMMAND` calls the shell tool\n\
- `read: PATH` and `fetch: URL` call those tools\n\
- `echo: TEXT` says it again\n\
- `slow: SECONDS` takes that long\n\
- `long: CHARACTERS` writes that much";

/// The built-in model.
pub struct Offline {
    model: String,
}

/// What a line of a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish<'a> {
    Tool { word: &'a str, argument: &'a str },
    Echo(&'a str),
    Slow(u64),
    Long(usize),
}

impl Offline {
    #[must_use]
    pub fn new(model: &str) -> Self {
        Self { model: model.to_owned() }
    }
}

impl Provider for Offline {
    fn kind(&self) -> &'static str {
        "offline"
    }

    fn model(&self) -> &str {
        &self.model
    }

    fn ask(&self, request: &ModelRequest<'_>, call: &Call<'_>, on: &mut dyn FnMut(Delta<'_>)) -> Result<ModelReply, ProviderError> {
        let _busy = thread::enter(format_args!("ask {}", self.model), call.deadline);
        let mut speech = Speech { call, on, said: String::new() };
        speech.check()?;
        let mut blocks = Vec::new();
        let last = request.messages.iter().rfind(|message| message.role == Role::User);
        let (text, results) = last.map(parts).unwrap_or_default();
        if !results.is_empty() {
            speech.say(&tell_results(&results), WORD_PAUSE)?;
        }
        let wishes = wishes(&text);
        let mut notes = Vec::new();
        for wish in &wishes {
            if let Wish::Tool { word, argument } = wish {
                match tool_call(request, word, argument, blocks.len()) {
                    Some(call) => blocks.push(call),
                    None => notes.push(format!("There is no tool for `{word}:` here.")),
                }
            }
        }
        if !notes.is_empty() {
            speech.say(&notes.join("\n"), WORD_PAUSE)?;
        } else if let Some(wish) = wishes.iter().find(|wish| !matches!(wish, Wish::Tool { .. })) {
            speech.grant(*wish)?;
        } else if results.is_empty() && blocks.is_empty() {
            speech.say(&chat(&text), WORD_PAUSE)?;
        }
        for block in &blocks {
            if let Block::ToolUse { name, .. } = block {
                (speech.on)(Delta::Tool(name));
            }
        }
        speech.check()?;
        let stop = if blocks.is_empty() { Stop::End } else { Stop::ToolUse };
        let said = std::mem::take(&mut speech.said);
        let usage =
            Usage { input_tokens: estimate_tokens(request), output_tokens: (said.chars().count() as u64).div_ceil(4), ..Usage::default() };
        if !said.is_empty() {
            blocks.insert(0, Block::Text { text: said });
        }
        Ok(ModelReply { blocks, stop, usage })
    }
}

/// A reply being spoken.
struct Speech<'a, 'b> {
    call: &'a Call<'a>,
    on: &'b mut dyn FnMut(Delta<'_>),
    said: String,
}

impl Speech<'_, '_> {
    fn check(&self) -> Result<(), ProviderError> {
        self.call.token.check().map_err(|_| ProviderError::Cancelled)?;
        if self.call.deadline.passed() { Err(ProviderError::Deadline) } else { Ok(()) }
    }

    /// Says a paragraph word by word.
    fn say(&mut self, text: &str, pause: Duration) -> Result<(), ProviderError> {
        if !self.said.is_empty() {
            self.piece("\n\n");
        }
        let words = u32::try_from(text.split_inclusive(char::is_whitespace).count()).unwrap_or(u32::MAX).max(1);
        let pause = pause.min(PAUSES_MAX / words);
        for word in text.split_inclusive(char::is_whitespace) {
            self.piece(word);
            if pause > Duration::from_micros(100) {
                self.call.token.sleep(pause).map_err(|_| ProviderError::Cancelled)?;
            }
            self.check()?;
        }
        Ok(())
    }

    fn piece(&mut self, text: &str) {
        (self.on)(Delta::Text(text));
        self.said.push_str(text);
    }

    fn grant(&mut self, wish: Wish<'_>) -> Result<(), ProviderError> {
        match wish {
            Wish::Echo(text) => self.say(text, WORD_PAUSE),
            Wish::Long(chars) => self.say(&long_text(chars), WORD_PAUSE),
            Wish::Slow(seconds) => self.slow(seconds),
            Wish::Tool { .. } => Ok(()),
        }
    }

    /// A word each tenth of a second.
    fn slow(&mut self, seconds: u64) -> Result<(), ProviderError> {
        let ticks_a_second = 10;
        for tick in 0..seconds.saturating_mul(ticks_a_second) {
            self.call.token.sleep(SLOW_PAUSE).map_err(|_| ProviderError::Cancelled)?;
            self.check()?;
            if (tick + 1) % ticks_a_second == 0 {
                self.piece(&format!("{} ", (tick + 1) / ticks_a_second));
            } else {
                (self.on)(Delta::Alive);
            }
        }
        self.piece("done.");
        Ok(())
    }
}

/// The text of a message, and the results of tools in it.
fn parts(message: &Message) -> (String, Vec<(&str, bool)>) {
    let mut texts = Vec::new();
    let mut results = Vec::new();
    for block in &message.blocks {
        match block {
            Block::Text { text } => texts.push(text.as_str()),
            Block::Image { .. } => texts.push("[an image]"),
            Block::ToolResult { content, is_error, .. } => results.push((content.as_str(), *is_error)),
            _ => {}
        }
    }
    (texts.join("\n"), results)
}

/// All lines that ask for something. `echo:` takes the rest of the message.
fn wishes(text: &str) -> Vec<Wish<'_>> {
    let mut wishes = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        rest = without_name(rest);
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        if let Some((word, argument)) = line.trim_start().split_once(':') {
            let argument = argument.trim();
            match word.to_ascii_lowercase().as_str() {
                _ if argument.is_empty() && !word.eq_ignore_ascii_case("echo") => {}
                "run" => wishes.push(Wish::Tool { word: "run", argument }),
                "read" => wishes.push(Wish::Tool { word: "read", argument }),
                "fetch" => wishes.push(Wish::Tool { word: "fetch", argument }),
                "slow" => wishes.extend(argument.trim_end_matches(['s', ' ']).parse().ok().map(Wish::Slow)),
                "long" => wishes.extend(argument.parse().ok().map(Wish::Long)),
                "echo" => {
                    let said = rest.split_once(':').map_or("", |(_, said)| said.trim());
                    if !said.is_empty() {
                        wishes.push(Wish::Echo(said));
                    }
                    return wishes;
                }
                _ => {}
            }
        }
        rest = after;
    }
    wishes
}

const WISHES: [&str; 6] = ["run", "read", "fetch", "slow", "long", "echo"];

/// In a group the text begins with the name of the one who speaks: `Ana: echo: hello`.
fn without_name(text: &str) -> &str {
    let begins_wish =
        |text: &str| text.split_once(':').is_some_and(|(word, _)| WISHES.iter().any(|wish| word.trim().eq_ignore_ascii_case(wish)));
    match text.split_once(": ") {
        Some((name, rest)) if !begins_wish(text) && !name.contains('\n') && begins_wish(rest) => rest,
        _ => text,
    }
}

/// The call that grants a wish, if there is a tool for it. Its input takes the argument under the first required
/// name of the tool's schema.
fn tool_call(request: &ModelRequest<'_>, word: &str, argument: &str, number: usize) -> Option<Block> {
    let (names, usual): (&[&str], _) = match word {
        "run" => (&["shell", "bash", "terminal"], "command"),
        "read" => (&["read", "read_file"], "path"),
        _ => (&["fetch", "web_fetch", "fetch_url"], "url"),
    };
    let tool = names.iter().find_map(|name| request.tools.iter().find(|tool| tool.name == *name))?;
    let known = tool.schema["properties"].get(usual).is_some();
    let required = tool.schema["required"][0].as_str().filter(|_| !known).unwrap_or(usual);
    // The same transcript gives the same id, and no other transcript of the conversation does.
    let id = format!("offline_{}_{number}", request.messages.len());
    Some(Block::ToolUse { id, name: tool.name.to_owned(), input: json!({ required: Value::from(argument) }) })
}

fn tell_results(results: &[(&str, bool)]) -> String {
    let tell = |(content, is_error): &(&str, bool)| {
        let content = content.trim_end();
        let error = if *is_error { "The tool failed:\n" } else { "" };
        if content.is_empty() {
            return format!("{error}(no output)");
        }
        // A plain line needs no fence; anything else must reach the reader as it is.
        if !content.contains(['\n', '`', '*', '_', '[', ']', '<', '>', '#', '|', '~', '\\', '&']) {
            return format!("{error}{content}");
        }
        let fence = fence_for(content);
        format!("{error}{fence}\n{content}\n{fence}")
    };
    results.iter().map(tell).collect::<Vec<_>>().join("\n\n")
}

/// A fence that is longer than any run of backticks in the text.
fn fence_for(content: &str) -> String {
    let longest = content.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(longest.max(2) + 1)
}

fn chat(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        return format!("Hello! {ABILITIES}");
    }
    let mut said: String = text.chars().take(REPEATED_CHARS_MAX).collect();
    if said.len() < text.len() {
        said.push('…');
    }
    format!("You said: {said}\n\n{ABILITIES}")
}

/// A text of exactly `chars` characters: paragraphs, a list, and a code fence, which a splitter must not tear apart.
fn long_text(chars: usize) -> String {
    let chars = chars.min(LONG_CHARS_MAX);
    let mut text = String::new();
    let mut length = 0;
    let mut number = 0;
    while length < chars {
        number += 1;
        let piece = match number % 4 {
            0 => format!("```rust\nfn part_{number}() -> usize {{\n    {number}\n}}\n```\n\n"),
            1 => format!("Paragraph {number}: the quick brown fox jumps over the lazy dog – again and again, für alle. "),
            2 => "It goes on for a while, so that there is something to split, and then it ends.\n\n".to_owned(),
            _ => format!("- one of {number}\n- two of {number}\n\n"),
        };
        length += piece.chars().count();
        text.push_str(&piece);
    }
    text.chars().take(chars).collect()
}

#[cfg(test)]
#[path = "offline_tests.rs"]
mod tests;
