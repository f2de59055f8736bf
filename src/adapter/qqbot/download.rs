//! The files of a message, from QQ's servers. Runs on the inlet's thread.

use super::Settings;
use super::api::Api;
use super::event::FileRef;
use crate::adapter::Link;
use crate::adapter::attachments::{self, Described, Missed, Opened};
use crate::clock::Deadline;
use crate::core::types::Inbound;
use crate::limits;
use crate::net::Url;
use crate::thread::{Cancelled, enter};

/// Where QQ keeps the files of messages. Addresses come with events; nothing else is fetched for a stranger's word.
const HOSTS: [&str; 3] = ["qq.com", "qq.com.cn", "qpic.cn"];

/// Puts the files of a message on disk and into its attachments.
///
/// # Errors
/// [`Cancelled`], and nothing else.
pub(super) fn fetch(api: &Api, settings: &Settings, link: &Link, inbound: &mut Inbound, refs: Vec<FileRef>) -> Result<(), Cancelled> {
    let deadline = Deadline::after(limits::QQBOT_DOWNLOAD);
    let describe =
        |file: &FileRef| Described { kind: file.kind, name: file.name.clone(), media_type: file.media_type.clone(), bytes: file.bytes };
    attachments::fetch(link, &settings.audience, inbound, refs, deadline, describe, |_, file, deadline| open(api, settings, file, deadline))
}

fn open(api: &Api, settings: &Settings, file: &FileRef, deadline: Deadline) -> Result<Opened, Missed> {
    if !is_qqs(&file.url, &settings.base_url) {
        return Err(Missed::note("its address is none of QQ's"));
    }
    let _busy = enter(format_args!("qqbot downloading a file"), deadline);
    // Without our token: the address holds its own.
    let response = api.rest.download(file.url.clone(), Vec::new(), deadline)?;
    match response.status {
        200 => Ok(Opened::new(response.body)),
        status => Err(Missed::Note(format!("HTTP {status}"))),
    }
}

/// Whether an address is one of QQ's file servers, or of the server that the configuration names.
fn is_qqs(url: &str, base_url: &str) -> bool {
    let (Ok(url), Ok(base)) = (Url::parse(url), Url::parse(base_url)) else { return false };
    let host = url.target.host.to_ascii_lowercase();
    let known = HOSTS.iter().any(|known| host.strip_suffix(known).is_some_and(|sub| sub.is_empty() || sub.ends_with('.')));
    url.scheme().starts_with("http") && (known || url.target.authority() == base.target.authority())
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
