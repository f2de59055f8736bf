//! The conversation in a terminal, for `chat` (over the control socket) and `demo` (in this process).
//!
//! One thread polls input, events and Ctrl-C together; nothing is asked in between.

use super::output::Style;
use super::printer::Printer;
use super::terminal::{Input, Interrupts};
use crate::adapter::local::{self, Attachment, Hub, HubEvent};
use crate::clock::{self, Deadline};
use crate::core::types::{ChatRef, OutboundKind};
use crate::limits;
use crate::service::admin::{Admin, Request};
use crate::service::client::{Client, ClientError};
use crate::service::report::{GatewayState, StatusReport};
use crate::service::takeover::{ANSWER, Instance};
use crate::service::wake::{Wake, poll_ready};
use crate::thread::{CancelToken, Cut};
use nix::poll::PollFlags;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// While an answer is awaited and nothing comes, how often it is asked whether one is still being made.
const LOOK: Duration = Duration::from_secs(10);
/// After a notice that may have been the end of the turn.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// How long a gateway that went away has to come back: a restart with its drain.
const AWAY: Duration = Duration::from_secs(90);
const RECONNECT: Duration = Duration::from_millis(250);
/// Messages shown before that are recognised when they come again.
const SEEN_MAX: usize = 256;

/// A line to the gateway for one chat.
pub trait Transport {
    /// Hands over a message.
    ///
    /// # Errors
    /// Why it was not accepted.
    fn say(&mut self, text: &str, message_id: &str) -> Result<(), String>;
    /// What has happened in the chat, if anything. When there is nothing, `fd` becomes readable with the next.
    ///
    /// # Errors
    /// Why the line is broken.
    fn try_event(&mut self) -> Result<Option<HubEvent>, String>;
    fn fd(&self) -> BorrowedFd<'_>;
    /// # Errors
    /// Why the gateway does not tell.
    fn status(&mut self) -> Result<StatusReport, String>;
    /// Mends a broken line. Takes no longer than a moment.
    ///
    /// # Errors
    /// Why that cannot be, for now.
    fn reconnect(&mut self) -> Result<(), String>;
}

/// The chat of that name.
fn chat(session: &str) -> ChatRef {
    ChatRef { adapter: local::NAME.to_owned(), chat: session.to_owned(), thread: None }
}

/// Over the control socket.
pub struct SocketTransport {
    state_dir: PathBuf,
    session: String,
    sender_name: String,
    client: Client,
}

impl SocketTransport {
    /// # Errors
    /// A sentence for people.
    pub fn connect(instance: &Instance, session: &str, sender_name: &str) -> Result<Self, String> {
        let client = attach(instance, session).map_err(|error| error.to_string())?;
        Ok(Self { state_dir: instance.directory.clone(), session: session.to_owned(), sender_name: sender_name.to_owned(), client })
    }
}

fn attach(instance: &Instance, session: &str) -> Result<Client, ClientError> {
    let deadline = Deadline::after(ANSWER);
    let mut client = instance.connect(deadline)?;
    client.ask(&Request::Attach { chat: session.to_owned() }, deadline)?;
    Ok(client)
}

impl Transport for SocketTransport {
    fn say(&mut self, text: &str, message_id: &str) -> Result<(), String> {
        let request = Request::Say {
            chat: chat(&self.session),
            sender_name: self.sender_name.clone(),
            text: text.to_owned(),
            message_id: message_id.to_owned(),
        };
        self.client.ask(&request, Deadline::after(limits::ADMIN_REQUEST)).map(drop).map_err(|error| error.to_string())
    }

    fn try_event(&mut self) -> Result<Option<HubEvent>, String> {
        self.client.try_event().map_err(|error| error.to_string())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.client.fd()
    }

    fn status(&mut self) -> Result<StatusReport, String> {
        let value = self.client.ask(&Request::Status, Deadline::after(ANSWER)).map_err(|error| error.to_string())?;
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    fn reconnect(&mut self) -> Result<(), String> {
        let instance = Instance::find(&self.state_dir).map_err(|error| error.to_string())?;
        let instance = instance.ok_or("the gateway is not running")?;
        self.client = attach(&instance, &self.session).map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// Within the process of the gateway.
pub struct DirectTransport {
    admin: Arc<dyn Admin>,
    session: String,
    attachment: Attachment,
    wake: Arc<Wake>,
}

impl DirectTransport {
    /// # Errors
    /// A sentence for people.
    pub fn attach(admin: Arc<dyn Admin>, session: &str) -> Result<Self, String> {
        let wake = Arc::new(Wake::new().map_err(|cause| cause.to_string())?);
        let on_event = Arc::clone(&wake);
        let hub: Arc<Hub> = Arc::clone(admin.hub());
        let attachment = hub.attach(session, Some(Arc::new(move || on_event.wake())))?;
        Ok(Self { admin, session: session.to_owned(), attachment, wake })
    }
}

impl Transport for DirectTransport {
    fn say(&mut self, text: &str, message_id: &str) -> Result<(), String> {
        self.admin.say(chat(&self.session), "you".to_owned(), text.to_owned(), message_id.to_owned())
    }

    fn try_event(&mut self) -> Result<Option<HubEvent>, String> {
        // Cleared first: an event that comes in between wakes again.
        self.wake.clear();
        match self.attachment.events.try_recv() {
            Ok(event) => {
                self.wake.wake();
                Ok(Some(event))
            }
            Err(crossbeam_channel::TryRecvError::Empty) => Ok(None),
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err("this terminal was too slow".to_owned()),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.wake.fd()
    }

    fn status(&mut self) -> Result<StatusReport, String> {
        Ok(self.admin.status())
    }

    fn reconnect(&mut self) -> Result<(), String> {
        *self = Self::attach(Arc::clone(&self.admin), &self.session)?;
        Ok(())
    }
}

/// Something may still come of what was said.
fn busy(report: &StatusReport, session: &str) -> bool {
    let session = chat(session).session();
    report.state != GatewayState::Running || report.inbox.pending > 0 || report.turns.iter().any(|turn| turn.session == session)
}

/// Unique for each message of each terminal, so that it is accepted once.
pub fn new_message_id() -> String {
    format!("{:x}-{:08x}", clock::wall_ms(), fastrand::u32(..))
}

/// How a conversation ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    ByUser,
    /// The gateway is gone or the token was cancelled.
    Lost(String),
}

/// What the one at the terminal waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Nothing,
    /// An answer. `doubts`: looks that found nobody working on it.
    Answer {
        look: Deadline,
        doubts: u32,
    },
}

/// A conversation. `interactive`: a person types; else lines are sent one by one, each after the answer to the last.
pub struct Conversation<'a, R: Read + AsFd, W: Write> {
    pub transport: &'a mut dyn Transport,
    pub session: String,
    pub input: Input<R>,
    pub interrupts: Interrupts,
    pub interactive: bool,
    printer: Printer<W>,
    awaited: Awaited,
    interrupted: bool,
    seen: VecDeque<String>,
    away_since: Option<Deadline>,
}

impl<'a, R: Read + AsFd, W: Write> Conversation<'a, R, W> {
    pub fn new(
        transport: &'a mut dyn Transport,
        session: &str,
        input: Input<R>,
        interrupts: Interrupts,
        interactive: bool,
        out: W,
        style: Style,
    ) -> Self {
        let printer = Printer::new(out, style, interactive);
        let (awaited, seen) = (Awaited::Nothing, VecDeque::new());
        Self {
            transport,
            session: session.to_owned(),
            input,
            interrupts,
            interactive,
            printer,
            awaited,
            interrupted: false,
            seen,
            away_since: None,
        }
    }

    /// Goes on until the user leaves, the gateway is lost, or the token is cancelled.
    pub fn run(&mut self, token: &CancelToken) -> Left {
        let Ok(wake) = Wake::new().map(Arc::new) else { return Left::Lost("out of descriptors".to_owned()) };
        let _attached = token.attach(Arc::clone(&wake) as Arc<dyn Cut>);
        self.printer.prompt();
        let left = loop {
            if token.is_cancelled() {
                break Left::Lost("the gateway is stopping".to_owned());
            }
            if let Some(left) = self.turn(&wake) {
                break left;
            }
        };
        self.printer.finish();
        left
    }

    fn turn(&mut self, wake: &Wake) -> Option<Left> {
        self.show_events();
        if let Some(left) = self.take_input() {
            return Some(left);
        }
        let deadline = match (self.away_since, self.awaited) {
            (Some(_), _) => Some(Deadline::after(RECONNECT)),
            (None, Awaited::Answer { look, .. }) => Some(look),
            (None, Awaited::Nothing) => None,
        };
        // Whoever is not to be heard now is polled for nothing.
        let reads_input = !self.input.ended && !self.input.is_full();
        let input_flags = if reads_input { PollFlags::POLLIN } else { PollFlags::empty() };
        let input_fd = if reads_input { self.input.fd() } else { wake.fd() };
        let events_fd = if self.away_since.is_none() { self.transport.fd() } else { wake.fd() };
        let fds = [
            (events_fd, PollFlags::POLLIN),
            (input_fd, input_flags),
            (self.interrupts.fd(), PollFlags::POLLIN),
            (wake.fd(), PollFlags::POLLIN),
        ];
        let ready = match poll_ready(fds, deadline) {
            Ok(ready) => ready,
            Err(cause) => return Some(Left::Lost(cause.to_string())),
        };
        if ready[1] && reads_input {
            self.input.fill();
        }
        if ready[2] && self.interrupts.count() > 0 {
            return self.interrupt();
        }
        if self.away_since.is_some() {
            return self.come_back();
        }
        if ready.iter().all(|ready| !ready) {
            return self.look();
        }
        None
    }

    fn show_events(&mut self) {
        while self.away_since.is_none() {
            match self.transport.try_event() {
                Ok(Some(event)) => self.show(event),
                Ok(None) => break,
                Err(why) => {
                    self.printer.finish();
                    self.printer.say(&format!("({why}; waiting for the gateway to come back, Ctrl-C leaves)"));
                    self.away_since = Some(Deadline::after(AWAY));
                }
            }
        }
    }

    fn show(&mut self, event: HubEvent) {
        match event {
            HubEvent::Preview { id, preview } => {
                self.printer.preview(&id, &preview);
                self.expect_more();
            }
            HubEvent::Typing => self.expect_more(),
            HubEvent::Gone { id } => self.printer.gone(&id),
            HubEvent::Message { id, text, kind, replaces, buttons, .. } => {
                if self.seen.contains(&id) {
                    return;
                }
                self.seen.push_back(id);
                if self.seen.len() > SEEN_MAX {
                    self.seen.pop_front();
                }
                self.printer.message(&text, replaces.is_some());
                self.printer.buttons(&buttons);
                if kind == Some(OutboundKind::Notice) && buttons.is_empty() {
                    self.awaited = match (self.awaited, self.transport.status()) {
                        (Awaited::Answer { .. }, Ok(report)) if busy(&report, &self.session) => {
                            Awaited::Answer { look: Deadline::after(LOOK_SOON), doubts: 0 }
                        }
                        _ => Awaited::Nothing,
                    };
                } else if kind != Some(OutboundKind::Direct) {
                    self.awaited = Awaited::Nothing;
                }
                if self.awaited == Awaited::Nothing {
                    self.interrupted = false;
                    self.printer.prompt();
                }
            }
        }
    }

    fn expect_more(&mut self) {
        if let Awaited::Answer { .. } = self.awaited {
            self.awaited = Awaited::Answer { look: Deadline::after(LOOK), doubts: 0 };
        }
    }

    /// Sends what was typed. Lines from a pipe wait for the answer to the one before.
    fn take_input(&mut self) -> Option<Left> {
        while self.away_since.is_none() && (self.interactive || self.awaited == Awaited::Nothing) {
            let Some(line) = self.input.next_line() else { break };
            if self.interactive {
                self.printer.entered();
            }
            if line.trim().is_empty() {
                self.printer.prompt();
                continue;
            }
            self.say(&line);
        }
        let finished = self.input.ended && (self.interactive || self.awaited == Awaited::Nothing);
        finished.then_some(Left::ByUser)
    }

    fn say(&mut self, text: &str) {
        match self.transport.say(text, &new_message_id()) {
            Ok(()) => self.awaited = Awaited::Answer { look: Deadline::after(LOOK), doubts: 0 },
            Err(why) => {
                self.printer.say(&format!("(not accepted: {why})"));
                self.printer.prompt();
            }
        }
    }

    /// Ctrl-C: stops the turn; again, or without one, leaves.
    fn interrupt(&mut self) -> Option<Left> {
        if self.interrupted || self.awaited == Awaited::Nothing || self.away_since.is_some() {
            return Some(Left::ByUser);
        }
        self.printer.finish();
        self.printer.say("(stopping; Ctrl-C again leaves)");
        self.say("/stop");
        self.interrupted = true;
        None
    }

    fn come_back(&mut self) -> Option<Left> {
        let since = self.away_since?;
        match self.transport.reconnect() {
            Ok(()) => {
                self.away_since = None;
                self.printer.say("(the gateway is back)");
                if self.awaited == Awaited::Nothing {
                    self.printer.prompt();
                } else {
                    self.awaited = Awaited::Answer { look: Deadline::after(LOOK), doubts: 0 };
                }
                None
            }
            Err(why) if since.passed() => Some(Left::Lost(why)),
            Err(_) => None,
        }
    }

    /// Nothing has come for a while: is anybody still at work?
    fn look(&mut self) -> Option<Left> {
        let Awaited::Answer { doubts, .. } = self.awaited else { return None };
        self.awaited = match self.transport.status() {
            Ok(report) if busy(&report, &self.session) => Awaited::Answer { look: Deadline::after(LOOK), doubts: 0 },
            // What is on its way from the store to here is in neither of the places looked at.
            Ok(_) if doubts == 0 => Awaited::Answer { look: Deadline::after(LOOK_SOON), doubts: 1 },
            Ok(_) => Awaited::Nothing,
            Err(_) => Awaited::Answer { look: Deadline::after(LOOK_SOON), doubts },
        };
        if self.awaited == Awaited::Nothing {
            self.printer.prompt();
        }
        None
    }
}

/// Asks once and waits for the answer. → whether it is an answer (else it is the report of an error), and its text.
///
/// # Errors
/// Why there is none.
pub fn ask_once(
    transport: &mut dyn Transport,
    session: &str,
    text: &str,
    deadline: Deadline,
    aside: &mut dyn FnMut(&str),
) -> Result<(bool, String), String> {
    let is_command = text.trim_start().starts_with('/');
    transport.say(text, &new_message_id())?;
    let mut notice: Option<String> = None;
    let (mut look, mut doubts) = (Deadline::after(LOOK), 0);
    loop {
        while let Some(event) = next_or_mend(transport, deadline, aside)? {
            let HubEvent::Message { text, kind, replaces, buttons, .. } = event else {
                (look, doubts) = (Deadline::after(LOOK), 0);
                continue;
            };
            match kind {
                Some(OutboundKind::Direct) => aside(&text),
                Some(OutboundKind::Notice) if is_command => return Ok((true, text)),
                // What an answer would have replaced is replaced by the report of an error.
                Some(OutboundKind::Notice) if replaces.is_some() => return Ok((false, text)),
                Some(OutboundKind::Notice) if buttons.is_empty() => {
                    // The end of the turn, or news of something else: the gateway knows.
                    notice.iter().for_each(|earlier| aside(earlier));
                    (notice, look, doubts) = (Some(text), Deadline::after(Duration::ZERO), 0);
                }
                Some(OutboundKind::Notice) => aside(&text),
                Some(OutboundKind::Reply) | None => return Ok((true, text)),
            }
        }
        if deadline.passed() {
            return Err("no answer in time; it goes on working".to_owned());
        }
        let [readable] =
            poll_ready([(transport.fd(), PollFlags::POLLIN)], Some(look.earliest(deadline))).map_err(|cause| cause.to_string())?;
        if readable || deadline.passed() {
            continue;
        }
        match transport.status() {
            Ok(report) if busy(&report, session) => (look, doubts) = (Deadline::after(if notice.is_some() { LOOK_SOON } else { LOOK }), 0),
            Ok(_) if doubts == 0 => (look, doubts) = (Deadline::after(LOOK_SOON), 1),
            Ok(_) => return notice.map(|text| (false, text)).ok_or("the gateway has no answer to that".to_owned()),
            Err(_) => look = Deadline::after(LOOK_SOON),
        }
    }
}

/// The next event; a broken line is mended for as long as a restart may take.
fn next_or_mend(transport: &mut dyn Transport, deadline: Deadline, aside: &mut dyn FnMut(&str)) -> Result<Option<HubEvent>, String> {
    let why = match transport.try_event() {
        Ok(event) => return Ok(event),
        Err(why) => why,
    };
    aside(&format!("({why}; waiting for the gateway to come back)"));
    let (until, token) = (deadline.within(AWAY), CancelToken::new());
    while !until.passed() {
        if transport.reconnect().is_ok() {
            return Ok(None);
        }
        let _ = token.sleep(RECONNECT);
    }
    Err(why)
}

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;
