//! The files of a message: fetched from WeChat's CDN and decrypted on their way to the disk. Runs on the inlet's thread.

use super::Settings;
use super::account::serves_files;
use super::api::Api;
use super::protocol::{FileRef, Key, Place};
use crate::adapter::Link;
use crate::adapter::attachments::{self, Described, Missed, Opened};
use crate::adapter::cipher::Decrypted;
use crate::adapter::rest::escaped;
use crate::clock::Deadline;
use crate::core::types::Inbound;
use crate::limits;
use crate::thread::{Cancelled, enter};

/// Puts the files of a message on disk and into its attachments.
///
/// # Errors
/// [`Cancelled`], and nothing else.
pub(super) fn fetch(api: &Api, settings: &Settings, link: &Link, inbound: &mut Inbound, refs: Vec<FileRef>) -> Result<(), Cancelled> {
    let deadline = Deadline::after(limits::WEIXIN_DOWNLOAD);
    let describe = |file: &FileRef| Described {
        kind: file.kind,
        name: file.name.clone(),
        media_type: file.media_type.map(str::to_owned),
        bytes: file.bytes,
    };
    attachments::fetch(link, &settings.audience, inbound, refs, deadline, describe, |_, file, deadline| open(api, settings, file, deadline))
}

fn open(api: &Api, settings: &Settings, file: &FileRef, deadline: Deadline) -> Result<Opened, Missed> {
    let url = match &file.place {
        Some(Place::Parameter(parameter)) => format!("{}/download?encrypted_query_param={}", settings.cdn_url, escaped(parameter)),
        Some(Place::Address(url)) if serves_files(&settings.cdn_url, url) => url.clone(),
        Some(Place::Address(_)) => return Err(Missed::note("it lies at an address that is not WeChat's")),
        None => return Err(Missed::note("WeChat did not say where it is")),
    };
    let _busy = enter(format_args!("weixin download"), deadline);
    let response = api.download(url, deadline)?;
    if response.status != 200 {
        return Err(Missed::Note(format!("the server of files answers with HTTP {}", response.status)));
    }
    match &file.key {
        Key::None => Ok(Opened::new(response.body)),
        Key::Aes(key) => Ok(Opened::new(Decrypted::ecb(response.body, key))),
        Key::Unknown => Err(Missed::note("its key has a form that is not known here")),
    }
}
