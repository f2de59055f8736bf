//! The files of a message: `getFile`, then the download. Runs on the inlet's thread.

use super::Settings;
use super::api::{Api, ApiError};
use super::protocol::FileRef;
use super::wire::FileInfo;
use crate::adapter::Link;
use crate::adapter::attachments::{self, Described, Missed, Opened};
use crate::clock::Deadline;
use crate::core::types::Inbound;
use crate::limits;
use crate::thread::Cancelled;
use serde_json::json;

/// Puts the files of a message on disk and into its attachments.
///
/// # Errors
/// [`Cancelled`], and nothing else.
pub(super) fn fetch(api: &Api, settings: &Settings, link: &Link, inbound: &mut Inbound, refs: Vec<FileRef>) -> Result<(), Cancelled> {
    let deadline = Deadline::after(limits::TELEGRAM_DOWNLOAD);
    let describe =
        |file: &FileRef| Described { kind: file.kind, name: file.name.clone(), media_type: file.media_type.clone(), bytes: file.bytes };
    attachments::fetch(link, &settings.audience, inbound, refs, deadline, describe, |_, file, deadline| open(api, file, deadline))
}

impl From<ApiError> for Missed {
    fn from(error: ApiError) -> Self {
        if error.is_cancelled() { Self::Cancelled } else { Self::Note(error.to_string()) }
    }
}

fn open(api: &Api, file: &FileRef, deadline: Deadline) -> Result<Opened, Missed> {
    let answer = api.call("getFile", &json!({"file_id": file.id}), deadline.within(limits::TELEGRAM_CALL))?;
    let info: FileInfo = serde_json::from_value(answer).unwrap_or_default();
    let path = info.file_path.filter(|path| !path.is_empty()).ok_or_else(|| Missed::note("Telegram gave no path for it"))?;
    if path.starts_with('/') {
        return Err(Missed::note("the Bot API server keeps files to itself; start it without --local"));
    }
    Ok(Opened::new(api.download(&path, deadline)?.body))
}
