//! What a frame means, and what frames the gateway sends. Pure.

use super::wire::{Body, Content, Frame, Media};
use crate::adapter::rest::readable;
use crate::clock;
use crate::core::types::{ChatRef, Inbound, Quote};
use crate::limits;
use serde_json::{Value, json};

/// What an acknowledgement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ack {
    /// 0: done.
    pub code: i64,
    /// Fit for a log line.
    pub message: String,
}

impl std::fmt::Display for Ack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (errcode {})", self.message, self.code)
    }
}

/// Codes of acknowledgements.
pub(super) mod code {
    pub const BUSY: i64 = -1;
    /// "data version conflict": two updates of a stream were too close.
    pub const CONFLICT: i64 = 6000;
    pub const TOO_OFTEN: i64 = 45_009;
    /// "stream message update expired": too old, or finished. (846605, "invalid req_id", is like any other refusal.)
    pub const STREAM_EXPIRED: i64 = 846_608;
}

/// A frame from WeCom, understood.
#[derive(Debug)]
pub(super) enum Incoming {
    /// To the frame with the same id.
    Ack {
        req_id: String,
        ack: Ack,
    },
    Message {
        req_id: String,
        body: Box<Body>,
    },
    Event {
        req_id: String,
        kind: String,
        body: Box<Body>,
    },
    /// Nothing that we know, and what it was.
    Unknown(String),
}

/// Reads a frame. `None`: it is not a JSON object, so that the peer does not speak this protocol.
pub(super) fn read(text: &str) -> Option<Incoming> {
    // Control characters are no JSON; the vendor's own client drops them too.
    let clean = |also: &[char]| text.chars().filter(|character| *character >= ' ' || also.contains(character)).collect::<String>();
    let value: Value = serde_json::from_str(text)
        .or_else(|_| serde_json::from_str(&clean(&['\t', '\n'])))
        .or_else(|_| serde_json::from_str(&clean(&[])))
        .ok()
        .filter(Value::is_object)?;
    let frame: Frame = serde_json::from_value(value).ok()?;
    let req_id = frame.headers.and_then(|headers| headers.req_id).unwrap_or_default();
    let body = || Box::new(serde_json::from_value::<Body>(frame.body).unwrap_or_default());
    Some(match (frame.cmd.as_deref(), frame.errcode) {
        (Some("aibot_msg_callback" | "aibot_callback"), _) => Incoming::Message { req_id, body: body() },
        (Some("aibot_event_callback"), _) => {
            let body = body();
            let kind = body.event.as_ref().and_then(|event| event.eventtype.clone()).unwrap_or_default();
            Incoming::Event { req_id, kind, body }
        }
        (None | Some(""), code) if code.is_some() || !req_id.is_empty() => {
            let message = readable(frame.errmsg.as_deref().unwrap_or("without a reason"), 200);
            Incoming::Ack { req_id, ack: Ack { code: code.unwrap_or(0), message } }
        }
        (command, _) => Incoming::Unknown(readable(command.unwrap_or("neither command nor answer"), 60)),
    })
}

/// A file that a message announces.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct FileRef {
    pub kind: &'static str,
    /// Holds a signature: not for logs.
    pub url: String,
    pub aeskey: Option<String>,
    /// If the server gives it none.
    pub name: String,
    pub media_type: Option<&'static str>,
}

impl std::fmt::Debug for FileRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileRef({} {})", self.kind, self.name)
    }
}

/// A message, all but its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub inbound: Inbound,
    pub files: Vec<FileRef>,
}

/// Understands a message. `now_ms` stands in where it has no time of its own.
///
/// # Errors
/// Why it is not for us.
pub(super) fn understand(req_id: &str, body: &Body, adapter: &str, now_ms: i64) -> Result<Taken, &'static str> {
    let sender = body.from.as_ref().and_then(|from| from.userid.clone()).filter(|id| !id.is_empty()).ok_or("without a sender")?;
    let chatid = body.chatid.clone().filter(|id| !id.is_empty());
    let private = match body.chattype.as_deref() {
        Some("single") => true,
        Some("group") => false,
        _ => chatid.is_none(),
    };
    let chat = if private { sender.clone() } else { chatid.ok_or("in a group without an id")? };
    let message_id = body.msgid.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| req_id.to_owned());
    if message_id.is_empty() {
        return Err("without an id");
    }
    let Said { mut lines, files } = said(&body.content);
    if !private && let Some(first) = lines.first_mut() {
        *first = without_mention(first).to_owned();
    }
    let text = bounded(lines.join("\n"));
    if text.trim().is_empty() && files.is_empty() {
        return Err("without anything in it");
    }
    let inbound = Inbound {
        chat: ChatRef { adapter: adapter.to_owned(), chat, thread: None },
        message_id,
        sender_name: sender.clone(),
        sender,
        text,
        attachments: Vec::new(),
        quote: body.quote.as_ref().and_then(quote),
        private,
        // In groups, only messages that mention the bot arrive.
        addressed: true,
        sent_ms: body.create_time.map_or(now_ms, |seconds| seconds.saturating_mul(1000)),
    };
    Ok(Taken { inbound, files })
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    files: Vec<FileRef>,
}

/// The texts and files of a message, in their order.
fn said(content: &Content) -> Said {
    let mut said = Said::default();
    take(content, &mut said);
    for part in content.mixed.iter().flat_map(|mixed| &mixed.msg_item) {
        take(part, &mut said);
    }
    let known = ["text", "voice", "image", "file", "video", "mixed"];
    if let Some(kind) = content.msgtype.as_deref().filter(|kind| !known.contains(kind)) {
        said.lines.push(format!("(a message of the kind \"{}\", which cannot be read here)", readable(kind, 40)));
    }
    said.files.truncate(limits::ATTACHMENTS_PER_MESSAGE_MAX);
    said
}

fn take(part: &Content, said: &mut Said) {
    let words = part.text.iter().chain(&part.voice).filter_map(|words| words.content.clone());
    said.lines.extend(words.filter(|text| !text.trim().is_empty()));
    let kinds = [
        (&part.image, "photo", "photo", "jpg", Some("image/jpeg")),
        (&part.file, "document", "file", "", None),
        (&part.video, "video", "video", "mp4", Some("video/mp4")),
    ];
    for (media, kind, stem, ending, media_type) in kinds {
        let Some((media, url)) = media.as_ref().and_then(|media: &Media| Some((media, media.url.clone()?))) else { continue };
        let number = said.files.len() + 1;
        let name = if ending.is_empty() { format!("{stem}-{number}") } else { format!("{stem}-{number}.{ending}") };
        said.files.push(FileRef { kind, url, aeskey: media.aeskey.clone(), name, media_type });
    }
}

/// The text of a group's message without the `@BotName ` in front, which is what made it arrive. The bot's name is not known,
/// so a mention of several words loses its first one only. A message that is nothing else stays.
fn without_mention(text: &str) -> &str {
    let trimmed = text.trim_start();
    let Some(rest) = trimmed.strip_prefix('@') else { return text };
    // Clients put U+2005 behind a mention, which counts as white space.
    match rest.split_once(char::is_whitespace) {
        Some((_, rest)) if !rest.trim().is_empty() => rest.trim_start(),
        _ => text,
    }
}

/// A quoted message has neither an id nor a sender.
fn quote(content: &Content) -> Option<Quote> {
    let Said { mut lines, files } = said(content);
    lines.extend(files.iter().map(|file| format!("({})", file.kind)));
    let text = bounded(lines.join("\n"));
    (!text.is_empty()).then(|| Quote { message_id: String::new(), sender: None, text })
}

fn bounded(mut text: String) -> String {
    if text.len() > limits::INBOUND_TEXT_BYTES_MAX {
        let end = (0..=limits::INBOUND_TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n[cut: too long]");
    }
    text
}

/// An id as the vendor's own client makes them: `ping_1792540830123_00aa11bb`.
pub(super) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}_{:08x}", clock::wall_ms(), fastrand::u32(..))
}

fn frame(command: &str, req_id: &str, body: Option<Value>) -> String {
    let mut frame = json!({"cmd": command, "headers": {"req_id": req_id}});
    if let Some(body) = body {
        frame["body"] = body;
    }
    frame.to_string()
}

/// Holds the secret: not for logs.
pub(super) fn subscribe(req_id: &str, bot_id: &str, secret: &str) -> String {
    frame("aibot_subscribe", req_id, Some(json!({"bot_id": bot_id, "secret": secret})))
}

pub(super) fn ping(req_id: &str) -> String {
    frame("ping", req_id, None)
}

/// The answer to `enter_chat`.
pub(super) fn welcome(req_id: &str, text: &str) -> String {
    frame("aibot_respond_welcome_msg", req_id, Some(json!({"msgtype": "text", "text": {"content": text}})))
}

/// The whole text of a stream so far, in answer to the message whose callback had `req_id`.
pub(super) fn stream(req_id: &str, stream: &str, text: &str, finish: bool) -> String {
    let stream = json!({"id": stream, "finish": finish, "content": text});
    frame("aibot_respond_msg", req_id, Some(json!({"msgtype": "stream", "stream": stream})))
}

/// A message of its own.
pub(super) fn push(req_id: &str, chat: &str, text: &str) -> String {
    frame("aibot_send_msg", req_id, Some(json!({"chatid": chat, "msgtype": "markdown", "markdown": {"content": text}})))
}
