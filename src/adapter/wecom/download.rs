//! The files of a message: downloaded and decrypted. Runs on the inlet's thread.

use super::Settings;
use super::protocol::FileRef;
use crate::adapter::Link;
use crate::adapter::attachments::{self, Described, Missed, Opened};
use crate::adapter::cipher::Decrypted;
use crate::adapter::rest::Rest;
use crate::clock::Deadline;
use crate::core::types::Inbound;
use crate::limits;
use crate::net::Url;
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
    let describe = |file: &FileRef| Described {
        kind: file.kind,
        name: file.name.clone(),
        media_type: file.media_type.map(str::to_owned),
        bytes: None,
    };
    attachments::fetch(link, &settings.audience, inbound, refs, deadline, describe, |_, file, deadline| {
        open(&rest, settings, file, deadline)
    })
}

fn open(rest: &Rest, settings: &Settings, file: &FileRef, deadline: Deadline) -> Result<Opened, Missed> {
    if !is_trusted(&file.url, &settings.host) {
        return Err(Missed::note("its address is not one of WeCom's"));
    }
    let key = file.aeskey.as_deref().map(key).ok_or_else(|| Missed::note("it came without a key"))?;
    let key = key.ok_or_else(|| Missed::note("its key makes no sense"))?;
    let _busy = enter(format_args!("wecom: downloading a file"), deadline);
    let response = rest.download(file.url.clone(), Vec::new(), deadline)?;
    if response.status != 200 {
        return Err(Missed::Note(format!("{}: HTTP {}", response.peer, response.status)));
    }
    let name = response.header("content-disposition").and_then(file_name);
    Ok(Opened { name, ..Opened::new(Decrypted::cbc(response.body, &key)) })
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
