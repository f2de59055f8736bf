//! What a message means, and what one is made of that is sent. Pure.

use super::wire::{Item, Media, Message, RefMsg};
use crate::core::types::{ChatRef, Inbound, Memo, Quote};
use crate::limits;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Value, json};

/// Padding is not always there.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// Where a file can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The CDN, by this parameter.
    Parameter(String),
    /// An address of the server's choice, which is not to be believed.
    Address(String),
}

/// The key of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// It is not encrypted.
    None,
    Aes([u8; 16]),
    /// There is one, in no form that is known.
    Unknown,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Aes(_) => "***",
            Self::Unknown => "Unknown",
        })
    }
}

/// A file that a message announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileRef {
    pub place: Option<Place>,
    pub key: Key,
    pub kind: &'static str,
    pub name: String,
    pub media_type: Option<&'static str>,
    pub bytes: Option<u64>,
}

/// A message, all but its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub inbound: Inbound,
    pub files: Vec<FileRef>,
    /// What a reply has to carry.
    pub memos: Vec<Memo>,
}

/// The memo that holds what every message to this user has to carry.
pub(super) fn context_key(user: &str) -> String {
    format!("context/{user}")
}

/// Understands one message. `bot`: our own id, if it is known. `now_ms` stands in where a message has no time of its own.
///
/// # Errors
/// Why it is not for us.
pub(super) fn understand(message: Message, adapter: &str, bot: Option<&str>, now_ms: i64) -> Result<Taken, &'static str> {
    let user = message.from_user_id.as_deref().filter(|user| !user.is_empty()).ok_or("without a sender")?;
    if message.message_type == Some(2) || Some(user) == bot {
        return Err("our own");
    }
    if message.group_id.as_deref().is_some_and(|group| !group.is_empty()) {
        return Err("from a group, where a bot cannot answer");
    }
    let id = message_id(&message, user);
    if user.len().max(id.len()) > limits::WEIXIN_ID_BYTES_MAX {
        return Err("an id that is too long");
    }
    let (mut lines, mut files, mut quote) = (Vec::new(), Vec::new(), None);
    for item in &message.item_list {
        let (line, file) = read_item(item, &id, files.len());
        lines.extend(line);
        files.extend(file);
        if let Some(reference) = &item.ref_msg {
            quote = quote.or_else(|| read_quote(reference));
            // A picture that is asked about is mostly one that is answered.
            files.extend(reference.message_item.as_ref().and_then(|quoted| read_item(quoted, &id, files.len()).1));
        }
    }
    files.truncate(limits::ATTACHMENTS_PER_MESSAGE_MAX);
    if lines.is_empty() && files.is_empty() && quote.is_none() {
        return Err("nothing in it");
    }
    let context = message.context_token.filter(|token| !token.is_empty());
    Ok(Taken {
        memos: context.map(|token| Memo::new(context_key(user), token)).into_iter().collect(),
        inbound: Inbound {
            chat: ChatRef { adapter: adapter.to_owned(), chat: user.to_owned(), thread: None },
            message_id: id,
            sender: user.to_owned(),
            // The interface tells no names.
            sender_name: user.split('@').next().unwrap_or(user).to_owned(),
            text: bounded(lines.join("\n")),
            attachments: Vec::new(),
            quote,
            private: true,
            addressed: true,
            sent_ms: message.create_time_ms.unwrap_or(now_ms),
        },
        files,
    })
}

/// What tells this message from all others of the chat, also when it comes again.
fn message_id(message: &Message, user: &str) -> String {
    let of_item = || message.item_list.iter().find_map(|item| item.msg_id.clone());
    message.message_id.clone().or_else(of_item).unwrap_or_else(|| {
        let part = |text: Option<String>| text.unwrap_or_default();
        format!("{user}/{}/{}", part(message.create_time_ms.map(|time| time.to_string())), part(message.seq.clone()))
    })
}

/// The words and the file of an item. `number`: how many files the message has so far.
fn read_item(item: &Item, id: &str, number: usize) -> (Option<String>, Option<FileRef>) {
    let known = [item.text_item.is_some(), item.image_item.is_some(), item.voice_item.is_some(), item.file_item.is_some()];
    let kind = item.kind.unwrap_or_else(|| match known.iter().position(|known| *known) {
        Some(position) => i64::try_from(position + 1).unwrap_or(0),
        None => 5 * i64::from(item.video_item.is_some()),
    });
    let size = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    let name = |kind: &str, ending: &str| match number {
        0 => format!("{kind}-{id}.{ending}"),
        _ => format!("{kind}-{id}-{number}.{ending}"),
    };
    match kind {
        1 => (said(item.text_item.as_ref().and_then(|text| text.text.as_deref())), None),
        2 => item.image_item.as_ref().map_or((None, None), |image| {
            let file = file(image.media.as_ref(), image.aeskey.as_deref(), "photo", name("photo", "jpg"), Some("image/jpeg"));
            (None, Some(FileRef { bytes: size(image.mid_size), ..file }))
        }),
        3 => item.voice_item.as_ref().map_or((None, None), |voice| {
            let silk = voice.encode_type.is_none_or(|encoding| encoding == 6);
            let (ending, media_type) = if silk { ("silk", Some("audio/silk")) } else { ("audio", None) };
            let file = file(voice.media.as_ref(), None, "voice", name("voice", ending), media_type);
            (said(voice.text.as_deref()), Some(file))
        }),
        4 => item.file_item.as_ref().map_or((None, None), |document| {
            let given = document.file_name.clone().filter(|name| !name.trim().is_empty());
            let file = file(document.media.as_ref(), None, "document", given.unwrap_or_else(|| name("document", "bin")), None);
            (None, Some(FileRef { bytes: size(document.len), ..file }))
        }),
        5 => item.video_item.as_ref().map_or((None, None), |video| {
            let file = file(video.media.as_ref(), None, "video", name("video", "mp4"), Some("video/mp4"));
            (None, Some(FileRef { bytes: size(video.video_size), ..file }))
        }),
        // Some have neither a kind nor anything else but what they answer.
        0 => (None, None),
        other => (Some(format!("(something that is not known here, of kind {other})")), None),
    }
}

fn said(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty()).map(str::to_owned)
}

fn file(media: Option<&Media>, hex: Option<&str>, kind: &'static str, name: String, media_type: Option<&'static str>) -> FileRef {
    let filled = |text: Option<&String>| text.map(|text| text.trim()).filter(|text| !text.is_empty()).map(str::to_owned);
    let parameter = filled(media.and_then(|media| media.encrypt_query_param.as_ref())).map(Place::Parameter);
    let place = parameter.or_else(|| filled(media.and_then(|media| media.full_url.as_ref())).map(Place::Address));
    let key = key(hex, media.and_then(|media| media.aes_key.as_deref()));
    FileRef { place, key, kind, name, media_type, bytes: None }
}

/// The key of a file: in hexadecimal, else in base64, of the bytes themselves or of their hexadecimal form.
pub(super) fn key(hex: Option<&str>, base64: Option<&str>) -> Key {
    let filled = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    if let Some(key) = filled(hex).and_then(|hex| from_hex(hex.as_bytes())) {
        return Key::Aes(key);
    }
    let Some(text) = filled(base64) else { return if filled(hex).is_some() { Key::Unknown } else { Key::None } };
    let decoded = BASE64.decode(&text).unwrap_or_default();
    let key = decoded.as_slice().try_into().ok().or_else(|| from_hex(&decoded));
    key.map_or(Key::Unknown, Key::Aes)
}

fn from_hex(text: &[u8]) -> Option<[u8; 16]> {
    let mut key = [0; 16];
    if text.len() != 2 * key.len() {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Some(key)
}

fn read_quote(reference: &RefMsg) -> Option<Quote> {
    let item = reference.message_item.as_deref();
    let of_item = || {
        let (line, file) = read_item(item?, "", 0);
        line.or_else(|| file.map(|file| format!("({})", file.kind)))
    };
    let text = said(reference.partial_text.as_deref()).or_else(of_item);
    let lines: Vec<String> = said(reference.title.as_deref()).into_iter().chain(text).collect();
    if lines.is_empty() {
        return None;
    }
    let id = reference.svr_id.clone().or_else(|| item.and_then(|item| item.msg_id.clone())).unwrap_or_default();
    Some(Quote { message_id: id, sender: None, text: bounded(lines.join("\n")) })
}

/// What is answered can be as long as the rest of the message.
fn bounded(mut text: String) -> String {
    if text.len() > limits::INBOUND_TEXT_BYTES_MAX {
        let end = (0..=limits::INBOUND_TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n[cut: too long]");
    }
    text
}

/// The body of `sendmessage`, but for what every body carries: one message with one text, complete.
pub(super) fn outgoing(user: &str, text: &str, client_id: &str, context: Option<&str>) -> Value {
    let mut message = json!({
        "from_user_id": "",
        "to_user_id": user,
        "client_id": client_id,
        "message_type": 2,
        "message_state": 2,
        "item_list": [{"type": 1, "text_item": {"text": text}}],
    });
    if let Some(context) = context {
        message["context_token"] = json!(context);
    }
    json!({"msg": message})
}
