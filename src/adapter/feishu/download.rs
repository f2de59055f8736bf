//! The files of a message, from the message's own resources. Runs on the inlet's thread.

use super::Settings;
use super::api::{Api, ApiError};
use super::content::FileRef;
use crate::adapter::Link;
use crate::adapter::attachments::{self, Described, Missed, Opened};
use crate::adapter::rest::escaped;
use crate::clock::Deadline;
use crate::core::types::Inbound;
use crate::limits;
use crate::thread::Cancelled;

/// Puts the files of a message on disk and into its attachments.
///
/// # Errors
/// [`Cancelled`], and nothing else.
pub(super) fn fetch(api: &Api, settings: &Settings, link: &Link, inbound: &mut Inbound, refs: Vec<FileRef>) -> Result<(), Cancelled> {
    let deadline = Deadline::after(limits::FEISHU_DOWNLOAD);
    let describe =
        |file: &FileRef| Described { kind: file.kind, name: file.name.clone(), media_type: file.media_type.clone(), bytes: None };
    attachments::fetch(link, &settings.audience, inbound, refs, deadline, describe, |inbound, file, deadline| {
        open(api, &inbound.message_id, file, deadline)
    })
}

impl From<ApiError> for Missed {
    fn from(error: ApiError) -> Self {
        if error.is_cancelled() { Self::Cancelled } else { Self::Note(error.to_string()) }
    }
}

fn open(api: &Api, message_id: &str, file: &FileRef, deadline: Deadline) -> Result<Opened, Missed> {
    let path = format!("/open-apis/im/v1/messages/{}/resources/{}?type={}", escaped(message_id), escaped(&file.key), file.resource);
    let response = api.download(&path, deadline)?;
    let media_type = media_type(response.header("content-type")).or_else(|| file.media_type.clone());
    // Photos have no name of their own.
    let name = (!file.name.contains('.')).then(|| format!("{}{}", file.name, ending(media_type.as_deref())));
    Ok(Opened { name, media_type, ..Opened::new(response.body) })
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
