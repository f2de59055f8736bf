//! The files of a message, straight to disk. Runs on the inlet's thread.
//!
//! Whatever goes wrong with a file becomes its note; the message itself is always delivered.

use super::Settings;
use super::api::{Api, ApiError};
use super::content::FileRef;
use crate::adapter::Link;
use crate::adapter::files::{FileError, Files, safe_name};
use crate::adapter::rest::escaped;
use crate::clock::Deadline;
use crate::core::types::{Attachment, Inbound};
use crate::limits;
use crate::net::NetError;
use crate::thread::Cancelled;

/// Puts the files of a message on disk and into its attachments.
///
/// # Errors
/// [`Cancelled`], and nothing else.
pub(super) fn fetch(api: &Api, settings: &Settings, link: &Link, inbound: &mut Inbound, refs: Vec<FileRef>) -> Result<(), Cancelled> {
    let deadline = Deadline::after(limits::FEISHU_DOWNLOAD);
    for file in refs {
        link.token.check()?;
        let mut attachment = Attachment {
            kind: file.kind.to_owned(),
            name: safe_name(&file.name),
            media_type: file.media_type.clone(),
            bytes: 0,
            path: None,
            note: None,
        };
        match fetch_one(api, settings, link, inbound, &file, deadline) {
            Ok(got) => {
                (attachment.path, attachment.bytes) = (Some(got.path), got.bytes);
                (attachment.name, attachment.media_type) = (safe_name(&got.name), got.media_type);
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

struct Got {
    path: String,
    bytes: u64,
    name: String,
    media_type: Option<String>,
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

fn fetch_one(api: &Api, settings: &Settings, link: &Link, inbound: &Inbound, file: &FileRef, deadline: Deadline) -> Result<Got, Missed> {
    if !settings.listens_to(inbound) {
        return Err(Missed::Note("the sender is not on the list of allowed users".to_owned()));
    }
    if deadline.passed() {
        return Err(Missed::Note("the files of this message took too long".to_owned()));
    }
    let path =
        format!("/open-apis/im/v1/messages/{}/resources/{}?type={}", escaped(&inbound.message_id), escaped(&file.key), file.resource);
    let mut response = api.download(&path, deadline)?;
    let media_type = media_type(response.header("content-type")).or_else(|| file.media_type.clone());
    // Photos have no name of their own.
    let name = if file.name.contains('.') { file.name.clone() } else { format!("{}{}", file.name, ending(media_type.as_deref())) };
    let saved = Files::new(&link.files).save(&inbound.chat, &name, &mut response.body, deadline);
    match saved {
        Ok(saved) => Ok(Got { path: saved.path.to_string_lossy().into_owned(), bytes: saved.bytes, name, media_type }),
        Err(FileError::Read(error)) if matches!(NetError::from_io(&error), Some(NetError::Cancelled)) => Err(Missed::Cancelled),
        Err(error) => Err(Missed::Note(error.to_string())),
    }
}

/// What the server calls it, if that says anything.
fn media_type(header: Option<&str>) -> Option<String> {
    let word = header?.split(';').next()?.trim().to_ascii_lowercase();
    let fine = word.len() <= 100 && word.contains('/') && word.chars().all(|c| c.is_ascii_alphanumeric() || "/.+-".contains(c));
    let word = if word == "image/jpg" { "image/jpeg".to_owned() } else { word };
    (fine && word != "application/octet-stream").then_some(word)
}

fn ending(media_type: Option<&str>) -> &'static str {
    match media_type {
        Some("image/jpeg") => ".jpg",
        Some("image/png") => ".png",
        Some("image/gif") => ".gif",
        Some("image/webp") => ".webp",
        _ => "",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_calls_a_file() {
        assert_eq!(media_type(Some("image/PNG; charset=x")).as_deref(), Some("image/png"));
        for odd in [None, Some(""), Some("application/octet-stream"), Some("image"), Some("a/b\u{7}")] {
            assert_eq!(media_type(odd), None);
        }
        assert_eq!((ending(Some("image/webp")), ending(None)), (".webp", ""));
    }
}
