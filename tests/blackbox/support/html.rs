//! Telegram's HTML as its server reads it: which tags there are, that they are balanced, and what the text is without them.

use serde_json::{Value, json};

/// The length in UTF-16 code units, in which the Bot API counts.
pub fn utf16(text: &str) -> usize {
    text.encode_utf16().count()
}

struct Open {
    tag: String,
    entity: Option<Value>,
    offset: usize,
}

/// The plain text and its entities, or the server's complaint.
pub fn parse(source: &str) -> Result<(String, Vec<Value>), String> {
    let mut text = String::new();
    let mut entities = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut at = 0;
    while let Some(character) = source[at..].chars().next() {
        match character {
            '<' => {
                let length = source[at..].find('>').ok_or_else(|| format!("Unclosed start tag at byte offset {at}"))?;
                tag(&source[at + 1..at + length], at, &text, &mut open, &mut entities)?;
                at += length + 1;
            }
            '&' => {
                let (decoded, length) = entity(&source[at..]);
                text.push(decoded);
                at += length;
            }
            _ => {
                text.push(character);
                at += character.len_utf8();
            }
        }
    }
    match open.last() {
        Some(open) => Err(format!("Can't find end tag corresponding to start tag \"{}\"", open.tag)),
        None => Ok((text, entities)),
    }
}

fn tag(inside: &str, at: usize, text: &str, open: &mut Vec<Open>, entities: &mut Vec<Value>) -> Result<(), String> {
    if let Some(name) = inside.strip_prefix('/') {
        let name = name.trim().to_ascii_lowercase();
        let last = open.pop().ok_or_else(|| format!("Unexpected end tag at byte offset {at}"))?;
        if last.tag != name {
            return Err(format!("Unmatched end tag at byte offset {at}, expected \"</{}>\", found \"</{name}>\"", last.tag));
        }
        let length = utf16(text) - last.offset;
        if let (Some(mut entity), true) = (last.entity, length > 0) {
            entity["offset"] = json!(last.offset);
            entity["length"] = json!(length);
            entities.push(entity);
        }
        return Ok(());
    }
    let (name, rest) = inside.split_at(inside.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(inside.len()));
    let name = name.to_ascii_lowercase();
    let attributes = attributes(rest, at)?;
    let value = |key: &str| attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let kind = match name.as_str() {
        "b" | "strong" => "bold",
        "i" | "em" => "italic",
        "u" | "ins" => "underline",
        "s" | "strike" | "del" => "strikethrough",
        "code" => "code",
        "pre" => "pre",
        "blockquote" => "blockquote",
        "tg-spoiler" => "spoiler",
        "span" if value("class").as_deref() == Some("tg-spoiler") => "spoiler",
        "span" => return Err(format!("Tag \"span\" must have class \"tg-spoiler\" at byte offset {at}")),
        "a" => "text_link",
        "tg-emoji" => "custom_emoji",
        _ => return Err(format!("Unsupported start tag \"{name}\" at byte offset {at}")),
    };
    let mut entity = Some(json!({"type": kind}));
    match kind {
        "text_link" => match value("href").filter(|address| !address.is_empty()) {
            Some(address) => entity = Some(json!({"type": kind, "url": address})),
            // The server drops a link without an address and keeps its text.
            None => entity = None,
        },
        "code" => {
            let inside_pre = open.last().is_some_and(|open| open.tag == "pre");
            if let (true, Some(language)) =
                (inside_pre, value("class").and_then(|class| class.strip_prefix("language-").map(str::to_owned)))
            {
                open.last_mut().and_then(|open| open.entity.as_mut()).expect("pre has an entity")["language"] = json!(language);
                entity = None;
            }
        }
        _ => {}
    }
    open.push(Open { tag: name, entity, offset: utf16(text) });
    Ok(())
}

fn attributes(mut rest: &str, at: usize) -> Result<Vec<(String, String)>, String> {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() || rest == "/" {
            return Ok(found);
        }
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let name = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        let Some(value) = rest.strip_prefix('=') else {
            found.push((name, String::new()));
            continue;
        };
        let value = value.trim_start();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''));
        let Some(quote) = quote else { return Err(format!("Unexpected end of attribute at byte offset {at}")) };
        let end = value[1..].find(quote).ok_or_else(|| format!("Unclosed attribute at byte offset {at}"))?;
        found.push((name, decode(&value[1..=end])));
        rest = &value[end + 2..];
    }
}

fn decode(text: &str) -> String {
    let mut decoded = String::new();
    let mut at = 0;
    while let Some(character) = text[at..].chars().next() {
        let (character, length) = if character == '&' { entity(&text[at..]) } else { (character, character.len_utf8()) };
        decoded.push(character);
        at += length;
    }
    decoded
}

/// The character that an entity stands for; an unknown one stands for itself.
fn entity(text: &str) -> (char, usize) {
    let Some(end) = text.find(';').filter(|end| *end <= 10) else { return ('&', 1) };
    let decoded = match &text[1..end] {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "quot" => Some('"'),
        name => name.strip_prefix('#').and_then(|number| {
            let number = number.strip_prefix('x').map_or_else(|| number.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
            number.and_then(char::from_u32)
        }),
    };
    decoded.map_or(('&', 1), |decoded| (decoded, end + 1))
}
