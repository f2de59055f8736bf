//! The files of a message: fetched from WeChat's CDN and decrypted on their way to the disk. Runs on the inlet's thread.
//!
//! Whatever goes wrong with a file becomes its note; the message itself is always delivered.

use super::Settings;
use super::account::serves_files;
use super::api::Api;
use super::protocol::{FileRef, Key, Place};
use crate::adapter::Link;
use crate::adapter::cipher::Decrypted;
use crate::adapter::files::{FileError, Files, safe_name};
use crate::adapter::rest::escaped;
use crate::clock::Deadline;
use crate::core::types::{Attachment, Inbound};
use crate::limits;
use crate::net::NetError;
use crate::thread::{Cancelled, enter};
use std::io::Read;

/// Puts the files of a message on disk and into its attachments.
///
/// # Errors
/// [`Cancelled`], and nothing else.
pub(super) fn fetch(api: &Api, settings: &Settings, link: &Link, inbound: &mut Inbound, refs: Vec<FileRef>) -> Result<(), Cancelled> {
    let deadline = Deadline::after(limits::WEIXIN_DOWNLOAD);
    for file in refs {
        link.token.check()?;
        let mut attachment = Attachment {
            kind: file.kind.to_owned(),
            name: safe_name(&file.name),
            media_type: file.media_type.map(str::to_owned),
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
        match error {
            NetError::Cancelled => Self::Cancelled,
            error => Self::Note(error.to_string()),
        }
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
    // Strangers must not be able to fill the disk. Who gets an answer is decided elsewhere.
    if !settings.senders.iter().any(|listed| listed == "*" || *listed == inbound.sender) {
        return note("the sender is not on the list of allowed users");
    }
    if file.bytes.is_some_and(|bytes| bytes > limits::ATTACHMENT_BYTES_MAX) {
        return Err(Missed::Note(FileError::TooLarge(limits::ATTACHMENT_BYTES_MAX).to_string()));
    }
    if deadline.passed() {
        return note("the files of this message took too long");
    }
    let url = match &file.place {
        Some(Place::Parameter(parameter)) => format!("{}/download?encrypted_query_param={}", settings.cdn_url, escaped(parameter)),
        Some(Place::Address(url)) if serves_files(&settings.cdn_url, url) => url.clone(),
        Some(Place::Address(_)) => return note("it lies at an address that is not WeChat's"),
        None => return note("WeChat did not say where it is"),
    };
    let _busy = enter(format_args!("weixin download"), deadline);
    let mut response = api.download(url, deadline)?;
    if response.status != 200 {
        return Err(Missed::Note(format!("the server of files answers with HTTP {}", response.status)));
    }
    let save = |body: &mut dyn Read| Files::new(&link.files).save(&inbound.chat, &file.name, body, deadline);
    let saved = match &file.key {
        Key::None => save(&mut response.body),
        Key::Aes(key) => save(&mut Decrypted::ecb(&mut response.body, key)),
        Key::Unknown => return note("its key has a form that is not known here"),
    };
    match saved {
        Ok(saved) => Ok((saved.path.to_string_lossy().into_owned(), saved.bytes)),
        Err(FileError::Read(error)) if matches!(NetError::from_io(&error), Some(NetError::Cancelled)) => Err(Missed::Cancelled),
        Err(error) => Err(Missed::Note(error.to_string())),
    }
}
