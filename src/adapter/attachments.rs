//! The files of a message: fetched one after the other, straight to disk. Runs on the inlet's thread.
//!
//! Where a file is and how it is read is the platform's business; whose files are taken, how large they may be, how long
//! they may take and what the message says of those that could not be had is the same for all. Whatever goes wrong with a
//! file becomes its note; the message itself is always delivered.

use super::Link;
use super::files::{FileError, Files, safe_name};
use crate::clock::Deadline;
use crate::config::AdapterConfig;
use crate::core::types::{Attachment, Inbound};
use crate::limits;
use crate::net::NetError;
use crate::thread::Cancelled;
use std::io::Read;

/// What a message says about one of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// `photo`, `document`, `voice` …
    pub kind: &'static str,
    pub name: String,
    pub media_type: Option<String>,
    pub bytes: Option<u64>,
}

/// A file that can be read now. The reads end by the deadline that it was opened with.
pub struct Opened {
    pub body: Box<dyn Read>,
    /// Better ones than the message had.
    pub name: Option<String>,
    pub media_type: Option<String>,
}

impl Opened {
    #[must_use]
    pub fn new(body: impl Read + 'static) -> Self {
        Self { body: Box::new(body), name: None, media_type: None }
    }
}

/// Why a file is not there.
#[derive(Debug, PartialEq, Eq)]
pub enum Missed {
    Cancelled,
    /// For the model and the log.
    Note(String),
}

impl Missed {
    #[must_use]
    pub fn note(text: &str) -> Self {
        Self::Note(text.to_owned())
    }
}

impl From<NetError> for Missed {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Cancelled => Self::Cancelled,
            error => Self::Note(error.to_string()),
        }
    }
}

/// Whose files are taken. Strangers must not be able to fill the disk; who gets an answer is decided elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audience {
    pub senders: Vec<String>,
    pub chats: Vec<String>,
    pub group_mention: bool,
}

impl Audience {
    #[must_use]
    pub fn of(config: &AdapterConfig) -> Self {
        Self {
            senders: config.allowed_users.iter().chain(&config.admins).cloned().collect(),
            chats: config.allowed_chats.clone(),
            group_mention: config.group_mention,
        }
    }

    #[must_use]
    pub fn knows(&self, sender: &str) -> bool {
        listed(&self.senders, sender)
    }

    #[must_use]
    pub fn includes(&self, inbound: &Inbound) -> bool {
        let wanted = inbound.private || inbound.addressed || !self.group_mention;
        wanted && (self.knows(&inbound.sender) || listed(&self.chats, &inbound.chat.chat))
    }
}

fn listed(list: &[String], id: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == id)
}

/// Puts the files of a message on disk and into its attachments. `open` begins to read one of them.
///
/// # Errors
/// [`Cancelled`], and nothing else.
pub fn fetch<F>(
    link: &Link,
    audience: &Audience,
    inbound: &mut Inbound,
    files: Vec<F>,
    deadline: Deadline,
    describe: impl Fn(&F) -> Described,
    mut open: impl FnMut(&Inbound, &F, Deadline) -> Result<Opened, Missed>,
) -> Result<(), Cancelled> {
    for file in files {
        link.token.check()?;
        let described = describe(&file);
        let kind = described.kind;
        let mut attachment = Attachment {
            kind: kind.to_owned(),
            name: safe_name(&described.name),
            media_type: described.media_type.clone(),
            bytes: described.bytes.unwrap_or(0),
            path: None,
            note: None,
        };
        let allowed = may_be_fetched(audience, inbound, &described, deadline);
        let opened = allowed.and_then(|()| open(inbound, &file, deadline));
        match opened.and_then(|opened| save(link, inbound, &mut attachment, opened, deadline)) {
            Ok(()) => {}
            Err(Missed::Cancelled) => return Err(Cancelled),
            Err(Missed::Note(note)) => {
                log::info!(target: &link.name, "{kind} of message {} not downloaded: {note}", inbound.message_id);
                attachment.note = Some(format!("not downloaded: {note}"));
            }
        }
        inbound.attachments.push(attachment);
        link.events.heard();
    }
    Ok(())
}

fn may_be_fetched(audience: &Audience, inbound: &Inbound, file: &Described, deadline: Deadline) -> Result<(), Missed> {
    if !audience.includes(inbound) {
        return Err(Missed::note("the sender is not on the list of allowed users"));
    }
    if file.bytes.is_some_and(|bytes| bytes > limits::ATTACHMENT_BYTES_MAX) {
        return Err(Missed::Note(FileError::TooLarge(limits::ATTACHMENT_BYTES_MAX).to_string()));
    }
    if deadline.passed() {
        return Err(Missed::note("the files of this message took too long"));
    }
    Ok(())
}

fn save(link: &Link, inbound: &Inbound, attachment: &mut Attachment, opened: Opened, deadline: Deadline) -> Result<(), Missed> {
    let Opened { mut body, name, media_type } = opened;
    if let Some(name) = name {
        attachment.name = safe_name(&name);
    }
    attachment.media_type = media_type.or_else(|| attachment.media_type.take());
    match Files::new(&link.files).save(&inbound.chat, &attachment.name, &mut body, deadline) {
        Ok(saved) => {
            (attachment.path, attachment.bytes) = (Some(saved.path.to_string_lossy().into_owned()), saved.bytes);
            Ok(())
        }
        Err(FileError::Read(error)) if matches!(NetError::from_io(&error), Some(NetError::Cancelled)) => Err(Missed::Cancelled),
        Err(error) => Err(Missed::Note(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::ChatRef;
    use std::time::Duration;

    fn inbound(sender: &str, chat: &str, private: bool, addressed: bool) -> Inbound {
        Inbound {
            chat: ChatRef { adapter: "t".to_owned(), chat: chat.to_owned(), thread: None },
            message_id: "1".to_owned(),
            sender: sender.to_owned(),
            sender_name: String::new(),
            text: String::new(),
            attachments: Vec::new(),
            quote: None,
            private,
            addressed,
            sent_ms: 0,
        }
    }

    #[test]
    fn whose_files_are_taken() {
        let audience = |group_mention| Audience { senders: vec!["1".to_owned()], chats: vec!["-5".to_owned()], group_mention };
        let check = |sender: &str, chat: &str, private: bool, addressed: bool, mention: bool, expect: bool| {
            let message = inbound(sender, chat, private, addressed);
            assert_eq!(audience(mention).includes(&message), expect, "{sender} in {chat}, private: {private}, addressed: {addressed}");
        };
        check("1", "1", true, true, true, true);
        check("1", "1", true, false, true, true);
        check("2", "2", true, true, true, false);
        check("1", "-9", false, true, true, true);
        check("1", "-9", false, false, true, false);
        check("1", "-9", false, false, false, true);
        check("2", "-5", false, true, true, true);
        check("2", "-9", false, true, true, false);
        assert!(Audience { senders: vec!["*".to_owned()], ..Audience::default() }.knows("anybody"));
    }

    #[test]
    fn what_is_refused_before_it_is_asked_for() {
        let audience = Audience { senders: vec!["1".to_owned()], ..Audience::default() };
        let file = |bytes| Described { kind: "document", name: "a".to_owned(), media_type: None, bytes };
        let later = Deadline::after(Duration::from_secs(60));
        let check = |sender: &str, bytes: Option<u64>, deadline: Deadline| {
            may_be_fetched(&audience, &inbound(sender, "1", true, true), &file(bytes), deadline).is_ok()
        };
        assert!(check("1", None, later) && check("1", Some(limits::ATTACHMENT_BYTES_MAX), later));
        assert!(!check("1", Some(limits::ATTACHMENT_BYTES_MAX + 1), later));
        assert!(!check("2", None, later));
        assert!(!check("1", None, Deadline::after(Duration::ZERO)));
    }
}
