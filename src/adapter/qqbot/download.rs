//! The files of a message, straight to disk. Runs on the inlet's thread.
//!
//! Whatever goes wrong with a file becomes its note; the message itself is always delivered.

use super::Settings;
use super::api::Api;
use super::event::FileRef;
use crate::adapter::Link;
use crate::adapter::files::{FileError, Files, safe_name};
use crate::clock::Deadline;
use crate::core::types::{Attachment, Inbound};
use crate::limits;
use crate::net::{NetError, Url};
use crate::thread::{Cancelled, enter};

/// Where QQ keeps the files of messages. Addresses come with events; nothing else is fetched for a stranger's word.
const HOSTS: [&str; 3] = ["qq.com", "qq.com.cn", "qpic.cn"];

/// Puts the files of a message on disk and into its attachments.
///
/// # Errors
/// [`Cancelled`], and nothing else.
pub(super) fn fetch(api: &Api, settings: &Settings, link: &Link, inbound: &mut Inbound, refs: Vec<FileRef>) -> Result<(), Cancelled> {
    let deadline = Deadline::after(limits::QQBOT_DOWNLOAD);
    for file in refs {
        link.token.check()?;
        let mut attachment = Attachment {
            kind: file.kind.to_owned(),
            name: safe_name(&file.name),
            media_type: file.media_type.clone(),
            bytes: file.bytes.unwrap_or(0),
            path: None,
            note: None,
        };
        match fetch_one(api, settings, link, inbound, &file, deadline) {
            Ok((path, bytes)) => (attachment.path, attachment.bytes) = (Some(path), bytes),
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
    api: &Api,
    settings: &Settings,
    link: &Link,
    inbound: &Inbound,
    file: &FileRef,
    deadline: Deadline,
) -> Result<(String, u64), Missed> {
    let note = |text: &str| Err(Missed::Note(text.to_owned()));
    if !settings.listens_to(inbound) {
        return note("the sender is not on the list of allowed users");
    }
    if file.bytes.is_some_and(|bytes| bytes > limits::ATTACHMENT_BYTES_MAX) {
        return Err(Missed::Note(FileError::TooLarge(limits::ATTACHMENT_BYTES_MAX).to_string()));
    }
    if deadline.passed() {
        return note("the files of this message took too long");
    }
    if !is_qqs(&file.url, &settings.base_url) {
        return note("its address is none of QQ's");
    }
    let _busy = enter(format_args!("qqbot downloading a file"), deadline);
    // Without our token: the address holds its own.
    let mut response = api.rest.download(file.url.clone(), Vec::new(), deadline)?;
    if response.status != 200 {
        return Err(Missed::Note(format!("HTTP {}", response.status)));
    }
    match Files::new(&link.files).save(&inbound.chat, &file.name, &mut response.body, deadline) {
        Ok(saved) => Ok((saved.path.to_string_lossy().into_owned(), saved.bytes)),
        Err(FileError::Read(error)) if matches!(NetError::from_io(&error), Some(NetError::Cancelled)) => Err(Missed::Cancelled),
        Err(error) => Err(Missed::Note(error.to_string())),
    }
}

/// Whether an address is one of QQ's file servers, or of the server that the configuration names.
fn is_qqs(url: &str, base_url: &str) -> bool {
    let (Ok(url), Ok(base)) = (Url::parse(url), Url::parse(base_url)) else { return false };
    let host = url.target.host.to_ascii_lowercase();
    let known = HOSTS.iter().any(|known| host.strip_suffix(known).is_some_and(|sub| sub.is_empty() || sub.ends_with('.')));
    url.scheme().starts_with("http") && (known || url.target.authority() == base.target.authority())
}

impl Settings {
    /// Strangers must not be able to fill the disk. Who gets an answer is decided elsewhere.
    fn listens_to(&self, inbound: &Inbound) -> bool {
        let listed = |list: &[String], id: &str| list.iter().any(|entry| entry == "*" || entry == id);
        inbound.addressed && (listed(&self.senders, &inbound.sender) || listed(&self.chats, &inbound.chat.chat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_from_qq_alone() {
        let check = |url: &str, expect: bool| assert_eq!(is_qqs(url, "http://127.0.0.1:8080"), expect, "{url}");
        check("https://multimedia.nt.qq.com.cn/download?appid=1407", true);
        check("http://gchat.qpic.cn/x", true);
        check("https://qq.com/x", true);
        check("http://127.0.0.1:8080/files/a", true);
        check("http://127.0.0.1:8081/files/a", false);
        check("https://notqq.com/x", false);
        check("https://qq.com.evil.example/x", false);
        check("wss://api.sgroup.qq.com/x", false);
        check("file:///etc/passwd", false);
        check("http://169.254.169.254/latest", false);
    }
}
