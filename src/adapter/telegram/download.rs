//! The files of a message: `getFile`, then the download, straight to disk. Runs on the inlet's thread.
//!
//! Whatever goes wrong with a file becomes its note; the message itself is always delivered.

use super::Settings;
use super::api::{Api, ApiError};
use super::protocol::FileRef;
use super::wire::FileInfo;
use crate::adapter::Link;
use crate::adapter::files::{FileError, Files, safe_name};
use crate::clock::Deadline;
use crate::core::types::{Attachment, Inbound};
use crate::limits;
use crate::net::NetError;
use crate::thread::Cancelled;
use serde_json::json;

/// Puts the files of a message on disk and into its attachments.
///
/// # Errors
/// [`Cancelled`], and nothing else.
pub(super) fn fetch(api: &Api, settings: &Settings, link: &Link, inbound: &mut Inbound, refs: Vec<FileRef>) -> Result<(), Cancelled> {
    let deadline = Deadline::after(limits::TELEGRAM_DOWNLOAD);
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

impl From<ApiError> for Missed {
    fn from(error: ApiError) -> Self {
        if error.is_cancelled() { Self::Cancelled } else { Self::Note(error.to_string()) }
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
        return Err(Missed::Note(format!("{}; bots can download no more", FileError::TooLarge(limits::ATTACHMENT_BYTES_MAX))));
    }
    if deadline.passed() {
        return note("the files of this message took too long");
    }
    let answer = api.call("getFile", &json!({"file_id": file.id}), deadline.within(limits::TELEGRAM_CALL))?;
    let info: FileInfo = serde_json::from_value(answer).unwrap_or_default();
    let Some(path) = info.file_path.filter(|path| !path.is_empty()) else { return note("Telegram gave no path for it") };
    if path.starts_with('/') {
        return note("the Bot API server keeps files to itself; start it without --local");
    }
    let mut response = api.download(&path, deadline)?;
    let saved = Files::new(&link.files).save(&inbound.chat, &file.name, &mut response.body, deadline);
    match saved {
        Ok(saved) => Ok((saved.path.to_string_lossy().into_owned(), saved.bytes)),
        Err(FileError::Read(error)) if matches!(NetError::from_io(&error), Some(NetError::Cancelled)) => Err(Missed::Cancelled),
        Err(error) => Err(Missed::Note(error.to_string())),
    }
}

impl Settings {
    /// Strangers must not be able to fill the disk. Who gets an answer is decided elsewhere.
    fn listens_to(&self, inbound: &Inbound) -> bool {
        let listed = |list: &[String], id: &str| list.iter().any(|entry| entry == "*" || entry == id);
        let wanted = inbound.addressed || !self.group_mention;
        wanted && (listed(&self.senders, &inbound.sender) || listed(&self.chats, &inbound.chat.chat))
    }
}
