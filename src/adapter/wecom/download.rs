//! The files of a message: downloaded, decrypted, straight to disk. Runs on the inlet's thread.
//!
//! Whatever goes wrong with a file becomes its note; the message itself is always delivered.

use super::Settings;
use super::protocol::FileRef;
use crate::adapter::Link;
use crate::adapter::cipher::Decrypted;
use crate::adapter::files::{FileError, Files, Saved, safe_name};
use crate::adapter::rest::Rest;
use crate::clock::Deadline;
use crate::core::types::{Attachment, Inbound};
use crate::limits;
use crate::net::{NetError, Url};
use crate::thread::{Cancelled, enter};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Where WeCom keeps files: its own hosts, and Tencent's object storage.
const HOSTS: [&str; 4] = [".qq.com", ".myqcloud.com", ".qpic.cn", ".tencentcos.cn"];

/// Puts the files of a message on disk and into its attachments.
///
/// # Errors
/// [`Cancelled`], and nothing else.
pub(super) fn fetch(settings: &Settings, link: &Link, inbound: &mut Inbound, refs: Vec<FileRef>) -> Result<(), Cancelled> {
    let deadline = Deadline::after(limits::WECOM_DOWNLOAD);
    let rest = Rest::new(&link.net, &link.token);
    for file in refs {
        link.token.check()?;
        let mut attachment = Attachment {
            kind: file.kind.to_owned(),
            name: safe_name(&file.name),
            media_type: file.media_type.map(str::to_owned),
            bytes: 0,
            path: None,
            note: None,
        };
        match fetch_one(&rest, settings, link, inbound, &file, deadline) {
            Ok((name, saved)) => {
                attachment.name = safe_name(&name);
                (attachment.path, attachment.bytes) = (Some(saved.path.to_string_lossy().into_owned()), saved.bytes);
            }
            Err(Missed::Cancelled) => return Err(Cancelled),
            Err(Missed::Note(note)) => {
                log::info!(target: &link.name, "{} of message {} not downloaded: {note}", file.kind, inbound.message_id);
                attachment.note = Some(format!("not downloaded: {note}"));
            }
        }
        inbound.attachments.push(attachment);
        link.events.heard();
    }
    Ok(())
}

enum Missed {
    Cancelled,
    Note(String),
}

impl From<NetError> for Missed {
    fn from(error: NetError) -> Self {
        if matches!(error, NetError::Cancelled) { Self::Cancelled } else { Self::Note(error.to_string()) }
    }
}

fn fetch_one(
    rest: &Rest,
    settings: &Settings,
    link: &Link,
    inbound: &Inbound,
    file: &FileRef,
    deadline: Deadline,
) -> Result<(String, Saved), Missed> {
    let note = |text: &str| Missed::Note(text.to_owned());
    if !settings.listens_to(inbound) {
        return Err(note("the sender is not on the list of allowed users"));
    }
    if deadline.passed() {
        return Err(note("the files of this message took too long"));
    }
    if !is_trusted(&file.url, &settings.host) {
        return Err(note("its address is not one of WeCom's"));
    }
    let key =
        file.aeskey.as_deref().map(key).ok_or_else(|| note("it came without a key"))?.ok_or_else(|| note("its key makes no sense"))?;
    let _busy = enter(format_args!("wecom: downloading a file"), deadline);
    let response = rest.download(file.url.clone(), Vec::new(), deadline)?;
    if response.status != 200 {
        return Err(Missed::Note(format!("{}: HTTP {}", response.peer, response.status)));
    }
    let named = response.header("content-disposition").and_then(file_name);
    let name = named.unwrap_or_else(|| file.name.clone());
    let mut body = Decrypted::cbc(response.body, &key);
    match Files::new(&link.files).save(&inbound.chat, &name, &mut body, deadline) {
        Ok(saved) => Ok((name, saved)),
        Err(FileError::Read(error)) if matches!(NetError::from_io(&error), Some(NetError::Cancelled)) => Err(Missed::Cancelled),
        Err(error) => Err(Missed::Note(error.to_string())),
    }
}

impl Settings {
    /// Strangers must not be able to fill the disk. Who gets an answer is decided elsewhere.
    fn listens_to(&self, inbound: &Inbound) -> bool {
        self.knows(&inbound.sender) || self.chats.iter().any(|entry| entry == "*" || *entry == inbound.chat.chat)
    }
}

/// Whether an address in a message is one that WeCom hands out: over TLS from its own hosts, or from the configured server.
fn is_trusted(url: &str, server: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let own = HOSTS.iter().any(|ending| url.target.host.ends_with(ending));
    (own && url.target.tls) || url.target.host == server
}

/// 32 bytes in base64, with or without padding.
fn key(aeskey: &str) -> Option<[u8; 32]> {
    STANDARD_NO_PAD.decode(aeskey.trim().trim_end_matches('=')).ok()?.try_into().ok()
}

/// The name in a `Content-Disposition` (RFC 6266): `filename*=UTF-8''…` before `filename="…"`.
fn file_name(header: &str) -> Option<String> {
    let parameter = |name: &str| {
        let found = header.split(';').filter_map(|part| part.split_once('=')).find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    };
    let extended = parameter("filename*").and_then(|value| value.rsplit_once('\'')).map(|(_, value)| unescaped(value));
    let plain = || {
        // Many servers escape here, too.
        parameter("filename").map(|value| unescaped(value.trim_matches('"')))
    };
    extended.or_else(plain).filter(|name| !name.trim().is_empty())
}

/// `%E6%8A%A5` as the text it stands for; what is not an escape stays.
fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high * 16 + low);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_come_from_wecom_alone() {
        let check = |url: &str, expect: bool| assert_eq!(is_trusted(url, "wecom.corp.example"), expect, "{url}");
        check("https://ww-aibot-img-1258476243.cos.ap-guangzhou.myqcloud.com/a?sign=b", true);
        check("https://qyapi.weixin.qq.com/x", true);
        check("http://wecom.corp.example:8080/x", true);
        check("http://qyapi.weixin.qq.com/x", false);
        check("https://qq.com.evil.example/x", false);
        check("https://evilqq.com/x", false);
        check("http://169.254.169.254/latest/meta-data", false);
        check("file:///etc/passwd", false);
    }

    #[test]
    fn keys_come_with_and_without_padding() {
        let whole = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let expect: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).expect("small"));
        assert_eq!(key(whole), Some(expect));
        assert_eq!(key(whole.trim_end_matches('=')), Some(expect));
        assert_eq!((key("AAEC"), key(""), key("§")), (None, None, None));
    }

    #[test]
    fn names_of_files() {
        let check = |header: &str, expect: Option<&str>| assert_eq!(file_name(header).as_deref(), expect, "{header}");
        check("attachment; filename=\"report.pdf\"", Some("report.pdf"));
        check("attachment; filename=\"x\"; filename*=UTF-8''%E6%8A%A5%E5%91%8A.pdf", Some("报告.pdf"));
        check("attachment; filename=%E6%8A%A5.txt", Some("报.txt"));
        check("attachment; filename=\"100%.txt\"", Some("100%.txt"));
        check("attachment", None);
        check("attachment; filename=\"\"", None);
    }

    proptest! {
        #[test]
        fn any_header_is_looked_at(header in ".*") {
            let _ = file_name(&header);
        }
    }
}
