//! What an event means: a message for the gateway, news for the log, or nothing (QQ docs, "event"). Pure.
//!
//! Tolerant: what is missing or of the wrong type counts as absent, so that one odd field never costs a message.

use super::place::Place;
use crate::adapter::lenient::{integer, lenient, list, word};
use crate::core::types::{ChatRef, Inbound, Quote};
use crate::limits;
use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    #[serde(deserialize_with = "word")]
    id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    author: Option<Author>,
    #[serde(deserialize_with = "lenient")]
    content: Option<String>,
    #[serde(deserialize_with = "lenient")]
    timestamp: Option<String>,
    #[serde(deserialize_with = "word")]
    group_openid: Option<String>,
    #[serde(deserialize_with = "word")]
    channel_id: Option<String>,
    #[serde(deserialize_with = "word")]
    guild_id: Option<String>,
    #[serde(deserialize_with = "integer")]
    message_type: Option<i64>,
    #[serde(deserialize_with = "list")]
    attachments: Vec<Attached>,
    #[serde(deserialize_with = "list")]
    msg_elements: Vec<Element>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Author {
    #[serde(deserialize_with = "word")]
    id: Option<String>,
    #[serde(deserialize_with = "word")]
    user_openid: Option<String>,
    #[serde(deserialize_with = "word")]
    member_openid: Option<String>,
    #[serde(deserialize_with = "lenient")]
    username: Option<String>,
    #[serde(deserialize_with = "lenient")]
    bot: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Attached {
    #[serde(deserialize_with = "lenient")]
    content_type: Option<String>,
    #[serde(deserialize_with = "lenient")]
    filename: Option<String>,
    #[serde(deserialize_with = "integer")]
    size: Option<i64>,
    #[serde(deserialize_with = "lenient")]
    url: Option<String>,
}

/// The message that is quoted by one of type 103.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Element {
    #[serde(deserialize_with = "word")]
    id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    content: Option<String>,
    #[serde(deserialize_with = "list")]
    attachments: Vec<Attached>,
}

/// The message type of a quotation.
const QUOTATION: i64 = 103;

/// A file that a message announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileRef {
    /// With its scheme.
    pub url: String,
    pub kind: &'static str,
    pub name: String,
    pub media_type: Option<String>,
    pub bytes: Option<u64>,
}

/// A message, all but its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub inbound: Inbound,
    pub files: Vec<FileRef>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    Message(Box<Taken>),
    /// Somebody added or removed the bot, or does not want to hear from it: for the log.
    News(String),
    /// Not for us, and why.
    Ignored(&'static str),
}

/// Understands one event. `now_ms` stands in where it has no time of its own.
pub(super) fn understand(name: &str, data: Value, adapter: &str, bot_id: &str, now_ms: i64) -> Meaning {
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or("?").to_owned();
    match name {
        "C2C_MESSAGE_CREATE" | "GROUP_AT_MESSAGE_CREATE" | "AT_MESSAGE_CREATE" | "DIRECT_MESSAGE_CREATE" | "MESSAGE_CREATE" => {
            match serde_json::from_value::<Message>(data) {
                Ok(message) => read_message(name, message, adapter, bot_id, now_ms),
                Err(_) => Meaning::Ignored("not an object"),
            }
        }
        "FRIEND_ADD" => Meaning::News(format!("user {} has added the bot", text("openid"))),
        "FRIEND_DEL" => Meaning::News(format!("user {} has removed the bot", text("openid"))),
        "C2C_MSG_REJECT" => Meaning::News(format!("user {} wants no messages but replies", text("openid"))),
        "GROUP_ADD_ROBOT" => Meaning::News(format!("the bot was added to group {} by {}", text("group_openid"), text("op_member_openid"))),
        "GROUP_DEL_ROBOT" => {
            Meaning::News(format!("the bot was removed from group {} by {}", text("group_openid"), text("op_member_openid")))
        }
        _ => Meaning::Ignored("a kind that is not used"),
    }
}

fn read_message(name: &str, message: Message, adapter: &str, bot_id: &str, now_ms: i64) -> Meaning {
    let author = message.author.unwrap_or_default();
    if author.bot == Some(true) || (!bot_id.is_empty() && author.id.as_deref() == Some(bot_id)) {
        return Meaning::Ignored("from a bot");
    }
    let (place, sender) = match name {
        "C2C_MESSAGE_CREATE" => {
            let sender = author.user_openid.or(author.id);
            (sender.clone().map(Place::Private), sender)
        }
        "GROUP_AT_MESSAGE_CREATE" => (message.group_openid.map(Place::Group), author.member_openid.or(author.id)),
        "DIRECT_MESSAGE_CREATE" => (message.guild_id.map(Place::Direct), author.id),
        _ => (message.channel_id.map(Place::Channel), author.id),
    };
    let fine = |id: &String| !id.is_empty() && id.len() <= limits::QQBOT_ID_BYTES_MAX;
    let Some(id) = message.id.filter(fine) else { return Meaning::Ignored("without an id") };
    let Some(sender) = sender.filter(fine) else { return Meaning::Ignored("without a sender") };
    // An id that could not be sent to is none.
    let Some(place) = place.and_then(|place| Place::parse(&place.chat())) else { return Meaning::Ignored("without a chat") };
    let content = message.content.unwrap_or_default();
    let mentioned = !bot_id.is_empty() && mentions(bot_id).iter().any(|mention| content.contains(mention));
    let text = without_mentions(&content, bot_id, !place.counts());
    let files = files_of(&message.attachments, &id);
    if text.is_empty() && files.is_empty() {
        return Meaning::Ignored("nothing is said in it");
    }
    let quote = message.msg_elements.into_iter().next().filter(|_| message.message_type == Some(QUOTATION)).map(quote);
    Meaning::Message(Box::new(Taken {
        inbound: Inbound {
            chat: ChatRef { adapter: adapter.to_owned(), chat: place.chat(), thread: None },
            message_id: id,
            sender_name: author.username.filter(|name| !name.is_empty()).unwrap_or_else(|| sender.clone()),
            sender,
            text: bounded(text),
            attachments: Vec::new(),
            quote,
            private: place.is_private(),
            // All but MESSAGE_CREATE come only when the bot is meant.
            addressed: name != "MESSAGE_CREATE" || mentioned,
            sent_ms: message
                .timestamp
                .and_then(|time| time.parse::<jiff::Timestamp>().ok())
                .map_or(now_ms, jiff::Timestamp::as_millisecond),
        },
        files,
    }))
}

fn mentions(bot_id: &str) -> [String; 2] {
    [format!("<@!{bot_id}>"), format!("<@{bot_id}>")]
}

/// Guilds leave the bot's mention in the text; groups leave a space in front. `leading`: if the bot does not know itself,
/// the mention in front is its own.
fn without_mentions(content: &str, bot_id: &str, leading: bool) -> String {
    let mut text = content.to_owned();
    if !bot_id.is_empty() {
        for mention in mentions(bot_id) {
            text = text.replace(&mention, "");
        }
    } else if leading && let Some((mention, rest)) = content.trim_start().split_once('>') {
        let id = mention.strip_prefix("<@!").or_else(|| mention.strip_prefix("<@"));
        if id.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())) {
            text = rest.to_owned();
        }
    }
    text.trim().to_owned()
}

fn quote(element: Element) -> Quote {
    let mut lines: Vec<String> = element.content.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).into_iter().collect();
    lines.extend(files_of(&element.attachments, "quoted").iter().map(|file| format!("({}: {})", file.kind, file.name)));
    Quote { message_id: element.id.unwrap_or_default(), sender: None, text: bounded(lines.join("\n")) }
}

fn files_of(attachments: &[Attached], id: &str) -> Vec<FileRef> {
    let refs = attachments.iter().enumerate().filter_map(|(number, attached)| {
        let url = attached.url.as_deref().map(str::trim).filter(|url| !url.is_empty())?;
        let url = match url.strip_prefix("//") {
            Some(rest) => format!("https://{rest}"),
            None if url.contains("://") => url.to_owned(),
            None => format!("https://{url}"),
        };
        let media_type = attached.content_type.clone().unwrap_or_default();
        let (kind, ending) = match media_type.split('/').next().unwrap_or_default() {
            "image" => ("photo", media_type.rsplit('/').next().filter(|ending| *ending != "jpeg").unwrap_or("jpg")),
            "video" => ("video", "mp4"),
            "voice" | "audio" => ("voice", "silk"),
            _ => ("document", "bin"),
        };
        let last = id.get(id.len().saturating_sub(8)..).unwrap_or("file");
        let usual = || format!("{kind}-{last}-{}.{ending}", number + 1);
        Some(FileRef {
            url,
            kind,
            name: attached.filename.clone().filter(|name| !name.trim().is_empty()).unwrap_or_else(usual),
            media_type: Some(media_type).filter(|media_type| media_type.contains('/')),
            bytes: attached.size.and_then(|bytes| u64::try_from(bytes).ok()),
        })
    });
    refs.take(limits::ATTACHMENTS_PER_MESSAGE_MAX).collect()
}

fn bounded(mut text: String) -> String {
    if text.len() > limits::INBOUND_TEXT_BYTES_MAX {
        let end = (0..=limits::INBOUND_TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n[cut: too long]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: i64 = 1_792_540_800_000;
    const BOT: &str = "6158788878435714165";

    fn read(name: &str, data: Value) -> Meaning {
        understand(name, data, "qqbot", BOT, NOW)
    }

    fn taken(name: &str, data: Value) -> Taken {
        match read(name, data) {
            Meaning::Message(taken) => *taken,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_private_message_as_documented() {
        let data = json!({"author":{"id":"E4F4AEA33253A2797FB897C50B81D7ED","user_openid":"E4F4AEA33253A2797FB897C50B81D7ED","union_openid":""},
            "content":"hello","id":"ROBOT1.0_.b6nx.CVryAO0nR58RXuU6SC.m92gc19j02qKqdm8ek!","timestamp":"2026-10-20T13:37:18+08:00","message_type":0,
            "attachments":[{"content_type":"image/png","filename":"a.png","height":600,"width":800,"size":12345,"url":"//multimedia.nt.qq.com.cn/download?appid=1407&fileid=x"}]});
        let Taken { inbound, files } = taken("C2C_MESSAGE_CREATE", data);
        assert_eq!(inbound.chat.session(), "qqbot:c2c:E4F4AEA33253A2797FB897C50B81D7ED");
        assert_eq!((inbound.sender.as_str(), inbound.text.as_str()), ("E4F4AEA33253A2797FB897C50B81D7ED", "hello"));
        assert_eq!(inbound.message_id, "ROBOT1.0_.b6nx.CVryAO0nR58RXuU6SC.m92gc19j02qKqdm8ek!");
        assert_eq!((inbound.private, inbound.addressed, inbound.sent_ms), (true, true, 1_792_474_638_000));
        assert_eq!(
            files,
            [FileRef {
                url: "https://multimedia.nt.qq.com.cn/download?appid=1407&fileid=x".to_owned(),
                kind: "photo",
                name: "a.png".to_owned(),
                media_type: Some("image/png".to_owned()),
                bytes: Some(12345),
            }]
        );
    }

    #[test]
    fn a_group_message_as_documented() {
        let data = json!({"author":{"id":"X","member_openid":"E4F4AEA33253A2797FB897C50B81D7ED"},"content":" summarise this","group_id":"C9F7",
            "group_openid":"C9F778FE6ADF9D1D1DBE395BF744A33A","id":"ROBOT1.0_eBIy","timestamp":"2026-10-20T13:37:18+08:00"});
        let inbound = taken("GROUP_AT_MESSAGE_CREATE", data).inbound;
        assert_eq!((inbound.chat.chat.as_str(), inbound.text.as_str()), ("group:C9F778FE6ADF9D1D1DBE395BF744A33A", "summarise this"));
        assert_eq!((inbound.sender.as_str(), inbound.private, inbound.addressed), ("E4F4AEA33253A2797FB897C50B81D7ED", false, true));
    }

    #[test]
    fn guild_messages_are_cleaned_of_the_mention() {
        let data = |content: &str| {
            json!({"author":{"id":"1234","username":"abc","bot":false},"channel_id":"100010","guild_id":"18700000000001",
            "content":content,"id":"0812","timestamp":"2026-10-20T13:37:18+08:00","seq":101,"member":{"roles":["1"]}})
        };
        let inbound = taken("AT_MESSAGE_CREATE", data(&format!("<@!{BOT}> hi"))).inbound;
        assert_eq!((inbound.chat.chat.as_str(), inbound.text.as_str(), inbound.sender_name.as_str()), ("channel:100010", "hi", "abc"));
        let inbound = taken("DIRECT_MESSAGE_CREATE", data("hi <@!77>")).inbound;
        assert_eq!((inbound.chat.chat.as_str(), inbound.text.as_str(), inbound.private), ("dm:18700000000001", "hi <@!77>", true));
        assert!(!taken("MESSAGE_CREATE", data("hi")).inbound.addressed);
        assert!(taken("MESSAGE_CREATE", data(&format!("hi <@{BOT}>"))).inbound.addressed);
        let unknown = understand("AT_MESSAGE_CREATE", data("<@!615> hi <@!77>"), "qqbot", "", NOW);
        assert!(matches!(unknown, Meaning::Message(taken) if taken.inbound.text == "hi <@!77>"));
    }

    #[test]
    fn a_quotation_carries_what_it_quotes() {
        let data = json!({"author":{"user_openid":"A"},"content":"and this?","id":"m","message_type":103,
            "msg_elements":[{"content":"the original","attachments":[{"content_type":"file","filename":"a.pdf","url":"x/a"}]}]});
        let quote = taken("C2C_MESSAGE_CREATE", data).inbound.quote.expect("a quote");
        assert_eq!(quote.text, "the original\n(document: a.pdf)");
    }

    #[test]
    fn what_is_not_for_us() {
        let ignored = |name: &str, data: Value| assert!(matches!(read(name, data.clone()), Meaning::Ignored(_)), "{name} {data}");
        ignored("C2C_MESSAGE_CREATE", json!({"author":{"user_openid":"A","bot":true},"content":"x","id":"m"}));
        ignored("AT_MESSAGE_CREATE", json!({"author":{"id":BOT},"channel_id":"1","content":"x","id":"m"}));
        ignored("C2C_MESSAGE_CREATE", json!({"author":{"user_openid":"A"},"content":"x"}));
        ignored("C2C_MESSAGE_CREATE", json!({"content":"x","id":"m"}));
        ignored("C2C_MESSAGE_CREATE", json!({"author":{"user_openid":"A"},"content":" ","id":"m"}));
        ignored("GROUP_AT_MESSAGE_CREATE", json!({"author":{"member_openid":"A"},"content":"x","id":"m"}));
        ignored("C2C_MESSAGE_CREATE", json!("x"));
        ignored("GUILD_CREATE", json!({}));
        let Meaning::News(news) = read("FRIEND_ADD", json!({"timestamp": 1, "openid": "A"})) else { panic!("news") };
        assert_eq!(news, "user A has added the bot");
    }

    #[test]
    fn odd_fields_cost_themselves_alone() {
        let data = json!({"author":{"user_openid":"A","bot":"no","username":7},"content":"x","id":5,"timestamp":{},"message_type":"0",
            "attachments":[7,{"url":"multimedia.nt.qq.com.cn/x","content_type":3,"size":"12"}],"msg_elements":"none"});
        let Taken { inbound, files } = taken("C2C_MESSAGE_CREATE", data);
        assert_eq!((inbound.message_id.as_str(), inbound.sent_ms, inbound.quote), ("5", NOW, None));
        assert_eq!((files[0].url.as_str(), files[0].kind, files[0].bytes), ("https://multimedia.nt.qq.com.cn/x", "document", Some(12)));
    }

    proptest! {
        #[test]
        fn no_content_panics(content in "(.|<@!|>|6158788878435714165){0,60}", known in any::<bool>()) {
            let data = json!({"author":{"id":"1"},"channel_id":"2","content":content,"id":"m"});
            let _ = understand("AT_MESSAGE_CREATE", data, "qqbot", if known { BOT } else { "" }, NOW);
        }
    }
}
