//! What a message says, by its type: text in Markdown, and the files that it names. Pure.

use super::wire::Mention;
use crate::limits;
use serde_json::Value;

/// The bot itself, from `bot/v3/info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Me {
    pub open_id: String,
    pub name: String,
}

impl Me {
    /// By its id; by its name only where the event has no ids.
    pub fn is(&self, mention: &Mention) -> bool {
        match mention.id.as_ref().and_then(|id| id.any().map(|any| (id, any))) {
            Some((id, _)) => id.open_id.as_deref() == Some(self.open_id.as_str()),
            None => !self.name.is_empty() && mention.name.as_deref() == Some(self.name.as_str()),
        }
    }
}

/// A file that a message announces; it is had with `messages/{id}/resources/{key}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileRef {
    pub key: String,
    /// The parameter `type` of the download: `image` or `file`.
    pub resource: &'static str,
    pub kind: &'static str,
    pub name: String,
    pub media_type: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub text: String,
    pub files: Vec<FileRef>,
}

/// Reads `content`, which is JSON of a shape that `kind` tells. What cannot be shown is described in brackets.
pub(super) fn read(kind: &str, content: &str, mentions: &[Mention], me: &Me) -> Content {
    let value: Value = serde_json::from_str(content).unwrap_or_default();
    let field = |name: &str| value[name].as_str().unwrap_or_default();
    let mut reader = Reader { mentions: &mentions[..mentions.len().min(limits::FEISHU_MENTIONS_MAX)], me, nodes: 0, files: Vec::new() };
    let text = match kind {
        "text" => reader.names(field("text")),
        "post" => reader.post(&value),
        "interactive" => match reader.post(&value) {
            text if text.is_empty() => "(a card)".to_owned(),
            text => format!("(a card)\n{text}"),
        },
        "image" => reader.file("image", "photo", field("image_key"), "", Some("image/jpeg")),
        "file" => reader.file("file", "document", field("file_key"), field("file_name"), None),
        "audio" => reader.file("file", "voice", field("file_key"), "voice.opus", Some("audio/ogg")),
        "media" => reader.file("file", "video", field("file_key"), or(field("file_name"), "video.mp4"), Some("video/mp4")),
        "sticker" => "(a sticker)".to_owned(),
        "location" => {
            let number = |name: &str| value[name].as_f64().or_else(|| field(name).parse().ok()).unwrap_or_default();
            format!("(location: {} {:.6}, {:.6})", field("name"), number("latitude"), number("longitude"))
        }
        "share_chat" => format!("(a shared chat: {})", field("chat_id")),
        "share_user" => format!("(a shared contact: {})", field("user_id")),
        "merge_forward" => "(forwarded messages, which cannot be read)".to_owned(),
        "system" => String::new(),
        other => format!("(a message of the kind {})", crate::adapter::rest::readable(other, 40)),
    };
    let mut files = reader.files;
    files.truncate(limits::ATTACHMENTS_PER_MESSAGE_MAX);
    Content { text: text.trim().to_owned(), files }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.trim().is_empty() { otherwise } else { text }
}

struct Reader<'a> {
    mentions: &'a [Mention],
    me: &'a Me,
    /// Elements read so far.
    nodes: usize,
    files: Vec<FileRef>,
}

impl Reader<'_> {
    /// Notes a file. → what the text says about it, which is nothing
    fn file(&mut self, resource: &'static str, kind: &'static str, key: &str, name: &str, media_type: Option<&str>) -> String {
        if key.is_empty() {
            return format!("({kind} without a key)");
        }
        let name = or(name, kind).to_owned();
        let media_type = media_type.map(str::to_owned);
        self.files.push(FileRef { key: key.to_owned(), resource, kind, name, media_type });
        String::new()
    }

    /// The bot's own mention goes; those of others become their names.
    fn names(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('@') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let Some((key, mention)) = self.mention_at(rest) else {
                let everybody = ends_key(rest, "@_all");
                out.push_str(if everybody { "@all" } else { "@" });
                rest = &rest[if everybody { "@_all".len() } else { 1 }..];
                continue;
            };
            rest = &rest[key.len()..];
            if self.me.is(mention) {
                // Not two spaces where the name has gone.
                if out.is_empty() || out.ends_with(char::is_whitespace) {
                    rest = rest.strip_prefix(' ').unwrap_or(rest);
                }
            } else {
                out.push_str(&called(mention));
            }
        }
        out.push_str(rest);
        out
    }

    /// The mention whose key `text` begins with; `@_user_1` is not the beginning of `@_user_12`.
    fn mention_at<'m>(&'m self, text: &str) -> Option<(&'m str, &'m Mention)> {
        let known = self.mentions.iter().filter_map(|mention| Some((mention.key.as_deref()?, mention)));
        known.filter(|(key, _)| key.len() > 1 && ends_key(text, key)).max_by_key(|(key, _)| key.len())
    }

    /// A post: `{"title", "content"}`, in some places once more under the name of its language.
    fn post(&mut self, value: &Value) -> String {
        let holds = |value: &Value| value["content"].is_array() || value["elements"].is_array();
        let body = if holds(value) { Some(value) } else { value.as_object().and_then(|map| map.values().find(|inner| holds(inner))) };
        let Some(body) = body else { return String::new() };
        let title = body["title"].as_str().unwrap_or_default().trim();
        let mut lines = Vec::new();
        if !title.is_empty() {
            lines.push(format!("**{}**", self.names(title)));
        }
        let content = if body["content"].is_array() { &body["content"] } else { &body["elements"] };
        for line in content.as_array().into_iter().flatten() {
            let nodes = line.as_array().map_or(std::slice::from_ref(line), Vec::as_slice);
            let text: String = nodes.iter().map(|node| self.node(node)).collect();
            lines.push(text);
        }
        lines.join("\n").trim().to_owned()
    }

    fn node(&mut self, node: &Value) -> String {
        self.nodes += 1;
        if self.nodes > limits::FEISHU_NODES_MAX {
            return String::new();
        }
        let field = |name: &str| node[name].as_str().unwrap_or_default();
        match field("tag") {
            "text" | "md" | "markdown" | "plain_text" | "lark_md" => {
                let text = self.names(if field("text").is_empty() { field("content") } else { field("text") });
                styled(&text, &node["style"])
            }
            "a" => match (field("text"), field("href")) {
                ("", href) => href.to_owned(),
                (text, "") => text.to_owned(),
                (text, href) => format!("[{text}]({href})"),
            },
            "at" => self.at(field("user_id"), field("user_name")),
            "img" => self.file("image", "photo", field("image_key"), "", Some("image/jpeg")),
            "media" => self.file("file", "video", field("file_key"), "video.mp4", Some("video/mp4")),
            "emotion" => format!(":{}:", field("emoji_type")),
            "hr" => "---".to_owned(),
            "code_block" => {
                let fence = if field("text").contains("```") { "~~~~" } else { "```" };
                let language: String = field("language").chars().filter(char::is_ascii_alphanumeric).take(20).collect();
                format!("{fence}{}\n{}\n{fence}", language.to_ascii_lowercase(), field("text").trim_end_matches('\n'))
            }
            "button" => node["text"]["content"].as_str().map_or_else(String::new, |label| format!("[{label}]")),
            "div" => node.get("text").filter(|text| text.is_object()).cloned().map_or_else(String::new, |text| self.node(&text)),
            _ => self.names(field("text")),
        }
    }

    /// In a post, `user_id` is the key of a mention.
    fn at(&self, user_id: &str, user_name: &str) -> String {
        if matches!(user_id, "all" | "@_all") {
            return "@all".to_owned();
        }
        match self.mentions.iter().find(|mention| mention.key.as_deref() == Some(user_id)) {
            Some(mention) if self.me.is(mention) => String::new(),
            Some(mention) => called(mention),
            None if user_id == self.me.open_id => String::new(),
            None => format!("@{}", or(user_name, user_id)),
        }
    }
}

fn ends_key(text: &str, key: &str) -> bool {
    let Some(rest) = text.strip_prefix(key) else { return false };
    !(key.ends_with(|last: char| last.is_ascii_digit()) && rest.starts_with(|next: char| next.is_ascii_digit()))
}

fn called(mention: &Mention) -> String {
    let id = mention.id.as_ref().and_then(super::wire::Ids::any);
    let name = mention.name.as_deref().filter(|name| !name.trim().is_empty());
    format!("@{}", name.or(id).or(mention.key.as_deref().map(|key| key.trim_start_matches('@'))).unwrap_or("somebody"))
}

/// The marks go inside the spaces, else they are none.
fn styled(text: &str, style: &Value) -> String {
    let has = |name: &str| style.as_array().is_some_and(|styles| styles.iter().any(|style| style == name));
    let inner = text.trim();
    if inner.is_empty() {
        return text.to_owned();
    }
    let mut marked = inner.to_owned();
    for (name, mark) in [("codeInline", "`"), ("italic", "_"), ("bold", "**"), ("lineThrough", "~~")] {
        if has(name) {
            marked = format!("{mark}{marked}{mark}");
        }
    }
    text.replacen(inner, &marked, 1)
}

#[cfg(test)]
mod tests {
    use super::super::wire::Ids;
    use super::*;
    use serde_json::json;

    fn me() -> Me {
        Me { open_id: "ou_bot".to_owned(), name: "Gate".to_owned() }
    }

    fn mention(key: &str, open_id: &str, name: &str) -> Mention {
        let id = Some(Ids { open_id: Some(open_id.to_owned()), ..Ids::default() }).filter(|_| !open_id.is_empty());
        Mention { key: Some(key.to_owned()), id, name: Some(name.to_owned()) }
    }

    fn people() -> Vec<Mention> {
        vec![mention("@_user_1", "ou_bot", "Gate"), mention("@_user_2", "ou_ben", "Ben"), mention("@_user_12", "", "Cy")]
    }

    fn text(kind: &str, content: &Value) -> String {
        read(kind, &content.to_string(), &people(), &me()).text
    }

    #[test]
    fn mentions_become_names_and_ours_goes() {
        let check = |input: &str, expect: &str| assert_eq!(text("text", &json!({"text": input})), expect, "{input:?}");
        check("@_user_1 summarise this", "summarise this");
        check("hey @_user_1 ask @_user_2", "hey ask @Ben");
        check("@_user_12@_user_1 @_user_13", "@Cy @_user_13");
        check("@_all look, a@b.example", "@all look, a@b.example");
        check("@_user_1", "");
        check("@", "@");
    }

    #[test]
    fn only_without_ids_the_name_counts() {
        assert!(me().is(&mention("@_user_1", "ou_bot", "Other")));
        assert!(!me().is(&mention("@_user_1", "ou_ben", "Gate")));
        assert!(me().is(&mention("@_user_1", "", "Gate")));
        assert!(!Me { name: String::new(), ..me() }.is(&mention("@_user_1", "", "")));
    }

    #[test]
    fn posts_become_markdown() {
        let post = json!({"title": "Plan", "content": [
            [{"tag": "at", "user_id": "@_user_1", "user_name": "Gate"}, {"tag": "text", "text": " do ", "style": ["bold", "italic"]}, {"tag": "a", "href": "https://x.example", "text": "this"}],
            [{"tag": "at", "user_id": "@_user_2"}, {"tag": "emotion", "emoji_type": "SMILE"}, {"tag": "text", "text": "  ", "style": ["bold"]}],
            [{"tag": "code_block", "language": "RUST", "text": "fn x() {}\n"}],
            [{"tag": "img", "image_key": "img_1"}, {"tag": "media", "file_key": "file_2"}],
            [{"tag": "hr"}], [7, {"tag": "new", "text": "thing"}], {"tag": "text", "text": "not in a line"}]});
        let expect = "**Plan**\n **_do_** [this](https://x.example)\n@Ben:SMILE:  \n```rust\nfn x() {}\n```\n\n---\nthing\nnot in a line";
        let read_post = |value: &Value| read("post", &value.to_string(), &people(), &me());
        assert_eq!(read_post(&post).text, expect);
        assert_eq!(read_post(&json!({"zh_cn": post})), read_post(&post));
        let keys: Vec<_> = read_post(&post).files.into_iter().map(|file| (file.key, file.resource, file.kind)).collect();
        assert_eq!(keys, [("img_1".to_owned(), "image", "photo"), ("file_2".to_owned(), "file", "video")]);
    }

    #[test]
    fn files_are_named_and_the_rest_is_described() {
        let file = |kind: &str, content: Value| read(kind, &content.to_string(), &[], &me()).files.remove(0);
        assert_eq!(file("image", json!({"image_key": "img_v3_1"})).resource, "image");
        let document = file("file", json!({"file_key": "file_v3_1", "file_name": "a.pdf"}));
        assert_eq!((document.key.as_str(), document.name.as_str(), document.kind), ("file_v3_1", "a.pdf", "document"));
        assert_eq!(file("audio", json!({"file_key": "f", "duration": 2000})).name, "voice.opus");
        assert_eq!(file("media", json!({"file_key": "f", "image_key": "i", "file_name": "m.mov"})).name, "m.mov");
        assert_eq!(
            text("location", &json!({"name": "Café", "longitude": "8.5", "latitude": 47.25})),
            "(location: Café 47.250000, 8.500000)"
        );
        assert_eq!(text("sticker", &json!({"file_key": "f"})), "(a sticker)");
        assert_eq!(text("brand_new", &json!({})), "(a message of the kind brand_new)");
        assert_eq!(text("image", &json!({})), "(photo without a key)");
        assert_eq!(text("interactive", &json!({"title": "T", "elements": [[{"tag": "text", "text": "x"}]]})), "(a card)\n**T**\nx");
        assert_eq!(read("merge_forward", "Merged and Forwarded Message", &[], &me()).text, "(forwarded messages, which cannot be read)");
        for kind in ["text", "post", "image", "file", "audio", "media", "interactive", "location", "share_chat", "system"] {
            for odd in ["", "7", "[]", "{\"text\":7,\"content\":7}", "{\"content\":[[[[]]],null,{}]}", "nonsense"] {
                assert!(read(kind, odd, &people(), &me()).files.is_empty(), "{kind} {odd}");
            }
        }
    }

    #[test]
    fn what_one_message_names_is_bounded() {
        let images: Vec<Value> = (0..20_000).map(|number| json!({"tag": "img", "image_key": format!("k{number}")})).collect();
        let content = read("post", &json!({"content": [images]}).to_string(), &[], &me());
        assert_eq!(content.files.len(), limits::ATTACHMENTS_PER_MESSAGE_MAX);
    }
}
