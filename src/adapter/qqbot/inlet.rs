//! Receiving: the gateway's WebSocket (QQ docs, "event-emit"). Owns the thread `adapter/NAME`.
//!
//! Events are processed one at a time: the next one is looked at when the message in the one before is committed, and
//! `seq`, which says on a resume what to send again, is committed with it. The session outlives the connection and the
//! process. A cut, a restart and a kill therefore lose nothing that the server still has.

use super::api::Api;
use super::event::{Meaning, Taken, understand};
use super::failure::Class;
use super::frame::{self, Closing, Frame, Session, closing, intents_remedy};
use super::{Memory, Settings, download, window};
use crate::adapter::bearer::Bearer;
use crate::adapter::lenient::to_integer;
use crate::adapter::memos::Memos;
use crate::adapter::rest::readable;
use crate::adapter::{AdapterError, Inlet, Link};
use crate::clock::{self, Deadline};
use crate::config::Secret;
use crate::core::types::{Memo, Receipt};
use crate::limits;
use crate::net::{NetError, NetOptions, WebSocket, WsError, WsEvent, WsLimits, WsMessage};
use crate::store::StoreError;
use crate::thread::{CancelToken, enter};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The memo of the session.
const SESSION: &str = "session";
/// A connection that the server ends within this time tells that something is wrong; after so many in a row we slow down.
const SHORT: Duration = Duration::from_secs(5);
const SHORT_MAX: u32 = 3;
/// After a routine end: at once.
const SOON: Duration = Duration::from_millis(200);
/// What the server asks for with 4008, by what other clients do.
const SLOWER: Duration = Duration::from_secs(60);

pub(super) struct QqInlet {
    settings: Arc<Settings>,
    memory: Arc<Mutex<Memory>>,
    bearer: Arc<Bearer>,
}

/// How a connection ended.
enum End {
    /// It broke, or could not be made.
    Broken(AdapterError),
    /// The server ended it in order.
    Closed { cause: String, then: Closing },
}

impl From<AdapterError> for End {
    fn from(error: AdapterError) -> Self {
        Self::Broken(error)
    }
}

fn retry(cause: impl Into<String>) -> AdapterError {
    AdapterError::Retry { cause: cause.into(), after: None }
}

/// One connection.
struct Line<'a> {
    inlet: &'a QqInlet,
    link: &'a Link,
    api: Api,
    memos: Memos,
    socket: WebSocket,
    access_token: Secret,
    /// When to be heard: "hello", then being logged in.
    login_by: Option<Deadline>,
    /// From "hello" on: how long between heartbeats, when the next one is due, and whether the last one was answered.
    pause: Option<Duration>,
    due: Instant,
    answered: bool,
}

impl Inlet for QqInlet {
    fn run(&mut self, link: &Link) -> Result<Infallible, AdapterError> {
        let mut opened = None;
        let end = match self.connection(link, &mut opened) {
            Ok(never) => match never {},
            Err(end) => end,
        };
        let error = self.classify(end, opened, link);
        self.save(link);
        Err(match error {
            AdapterError::Fatal { cause, remedy } => AdapterError::Fatal { cause, remedy: format!("{remedy} ([adapters.{}])", link.name) },
            error => error,
        })
    }
}

impl QqInlet {
    pub fn new(settings: &Arc<Settings>, memory: &Arc<Mutex<Memory>>, bearer: &Arc<Bearer>) -> Self {
        Self { settings: Arc::clone(settings), memory: Arc::clone(memory), bearer: Arc::clone(bearer) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Plain data: valid after any panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `opened` is set when the WebSocket is open.
    fn connection(&self, link: &Link, opened: &mut Option<Instant>) -> Result<Infallible, End> {
        let api = Api::new(&self.settings, &self.bearer, &link.net, &link.token);
        let memos = Memos::new(&link.name, &link.store);
        self.load(&memos, link)?;
        let deadline = Deadline::after(limits::QQBOT_CALL);
        let url = self.gateway(&api, deadline)?;
        link.events.heard();
        // Only now: that call has found out whether the one that was known is still accepted.
        let access_token = api.access_token(deadline).map_err(|error| error.for_inlet())?;
        // No goodbye is said when the token is cancelled: a session that was closed in order cannot be resumed.
        let ws_limits = WsLimits { message_bytes_max: limits::QQBOT_EVENT_BYTES_MAX, ..WsLimits::default() };
        let socket = {
            let deadline = Deadline::after(limits::QQBOT_CONNECT);
            let _busy = enter(format_args!("qqbot connecting to the gateway"), deadline);
            WebSocket::connect(&url, &[], &link.net, &link.token, deadline, ws_limits).map_err(|error| broken(&error))?
        };
        let now = clock::now();
        *opened = Some(now);
        let login_by = Some(Deadline::after(limits::QQBOT_LOGIN));
        let mut line = Line { inlet: self, link, api, memos, socket, access_token, login_by, pause: None, due: now, answered: true };
        line.receive()
    }

    /// The session of an earlier process, once.
    fn load(&self, memos: &Memos, link: &Link) -> Result<(), AdapterError> {
        if self.memory().session.is_some() {
            return Ok(());
        }
        let stored = memos.recall(SESSION).map_err(store_failed)?;
        let session = stored.and_then(|stored| serde_json::from_str::<Session>(&stored).ok());
        let session = session.filter(|session| session.app_id == self.settings.app_id && !session.id.is_empty());
        if let Some(session) = &session {
            log::debug!(target: &link.name, "a session is known, up to event {:?}", session.seq);
        }
        self.memory().session = Some(session);
        Ok(())
    }

    /// Commits how far events were processed that left nothing else behind.
    fn save(&self, link: &Link) {
        let session = match &mut *self.memory() {
            Memory { session: Some(session), unsaved, .. } if *unsaved => {
                *unsaved = false;
                session.clone()
            }
            _ => return,
        };
        if link.token.is_cancelled() {
            return;
        }
        let memo = session.map_or_else(|| Memo::forget(SESSION), |session| session_memo(&session));
        if let Err(error) = Memos::new(&link.name, &link.store).remember(vec![memo]) {
            self.memory().unsaved = true;
            log::debug!(target: &link.name, "the session is not saved: {error}");
        }
    }

    /// The address of the gateway; one that is known if it cannot be asked for now.
    fn gateway(&self, api: &Api, deadline: Deadline) -> Result<String, AdapterError> {
        let answer = match api.call("asking for the gateway", "GET", "/gateway/bot", None, deadline) {
            // The simpler question needs fewer privileges.
            Err(error) if matches!(error.class(), Some(Class::NoPrivilege | Class::Reject)) => {
                api.call("asking for the gateway", "GET", "/gateway", None, deadline)
            }
            other => other,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => match (error.for_inlet(), self.memory().gateway.clone()) {
                (AdapterError::Retry { cause, .. }, Some(known)) => {
                    log::info!("{cause}; taking the address from before");
                    return Ok(known);
                }
                (error, _) => return Err(error),
            },
        };
        let limit = &answer["session_start_limit"];
        // A session that goes on does not count.
        if limit["remaining"].as_i64() == Some(0) && limit["total"].as_i64() != Some(0) && self.memory().known().is_none() {
            let after = to_integer(&limit["reset_after"]).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
            return Err(AdapterError::Retry { cause: "QQ allows no more sessions for now".to_owned(), after });
        }
        let url = answer["url"].as_str().filter(|url| !url.is_empty()).ok_or_else(|| retry("QQ named no gateway"))?;
        self.memory().gateway = Some(url.to_owned());
        Ok(url.to_owned())
    }

    /// Decides what comes after the end of a connection, once.
    fn classify(&self, end: End, opened: Option<Instant>, link: &Link) -> AdapterError {
        let (cause, then) = match end {
            End::Broken(error) => {
                self.memory().short = 0;
                return error;
            }
            End::Closed { cause, then } => (cause, then),
        };
        let mut memory = self.memory();
        memory.short = if opened.is_some_and(|opened| opened.elapsed() < SHORT) { memory.short.saturating_add(1) } else { 0 };
        let mut after = None;
        match then {
            Closing::Resume { routine } => after = (routine && memory.short == 0).then_some(SOON),
            Closing::Identify => memory.forget_session(),
            Closing::Token => {
                // The access token was dropped when the code was seen.
                memory.forget_session();
            }
            Closing::Puzzled => {
                memory.forget_session();
                after = Some(SLOWER);
            }
            Closing::Slower => after = Some(SLOWER),
            Closing::Fatal(remedy) => {
                memory.forget_session();
                return AdapterError::Fatal { cause, remedy: remedy.to_owned() };
            }
            Closing::Intents => {
                memory.forget_session();
                let asked = memory.intents.bits(self.settings.intents);
                let Some(fewer) = memory.intents.fewer(self.settings.intents) else {
                    return AdapterError::Fatal {
                        cause,
                        remedy: intents_remedy(self.settings.intents.unwrap_or(frame::CHATS | frame::GUILDS)),
                    };
                };
                memory.intents = fewer;
                memory.short = 0;
                log::info!(target: &link.name, "{cause}: the bot may not have the intents {asked}, trying {}", fewer.bits(None));
                after = Some(SOON);
            }
        }
        if memory.short < SHORT_MAX {
            return AdapterError::Retry { cause, after };
        }
        let slow = [10, 30, 60][usize::try_from(memory.short - SHORT_MAX).unwrap_or(2).min(2)];
        let cause = format!(
            "{cause}; {} connections in a row were ended at once: check the bot's permissions on q.qq.com, and whether another program uses it",
            memory.short
        );
        AdapterError::Retry { cause, after: Some(Duration::from_secs(slow).max(after.unwrap_or_default())) }
    }
}

impl Memory {
    fn forget_session(&mut self) {
        self.session = Some(None);
        self.unsaved = true;
    }

    fn known(&self) -> Option<&Session> {
        self.session.as_ref().and_then(Option::as_ref)
    }
}

impl Line<'_> {
    fn receive(&mut self) -> Result<Infallible, End> {
        loop {
            let until = match (self.login_by, self.pause) {
                (Some(login_by), Some(_)) => login_by.min(Deadline::at(self.due)),
                (Some(login_by), None) => login_by,
                (None, _) => Deadline::at(self.due),
            };
            match self.socket.next(until).map_err(|error| broken(&error))? {
                WsEvent::Text(text) => self.frame(&text)?,
                WsEvent::Binary(bytes) => self.frame(&String::from_utf8_lossy(&bytes))?,
                WsEvent::Closed { code, reason } => return Err(self.closed(code, &reason)),
                WsEvent::Idle | WsEvent::Woken => {}
            }
            self.keep_time()?;
        }
    }

    fn closed(&self, code: u16, reason: &str) -> End {
        let then = closing(code);
        if then == Closing::Token {
            self.api.token_refused(&self.access_token);
        }
        let reason = readable(reason, 100);
        let reason = if reason.is_empty() { String::new() } else { format!(" \"{reason}\"") };
        End::Closed { cause: format!("the gateway closed the connection with {code}{reason}"), then }
    }

    /// The heartbeat, and the end of waiting.
    fn keep_time(&mut self) -> Result<(), End> {
        if self.login_by.is_some_and(Deadline::passed) {
            let seconds = limits::QQBOT_LOGIN.as_secs();
            let what = if self.pause.is_some() { "did not log us in" } else { "said no hello" };
            return Err(retry(format!("the gateway {what} within {seconds} s")).into());
        }
        if self.pause.is_some() && clock::now() >= self.due {
            if !self.answered {
                return Err(retry("the gateway did not answer a heartbeat").into());
            }
            self.heartbeat()?;
        }
        Ok(())
    }

    fn heartbeat(&mut self) -> Result<(), End> {
        let seq = self.inlet.memory().known().and_then(|session| session.seq);
        self.say(frame::heartbeat(seq))?;
        self.answered = false;
        self.due = clock::now() + self.pause.unwrap_or(limits::QQBOT_HEARTBEAT_MAX);
        Ok(())
    }

    fn say(&mut self, text: String) -> Result<(), End> {
        Ok(self.socket.send(WsMessage::Text(text), Deadline::after(limits::QQBOT_FRAME)).map_err(|error| broken(&error))?)
    }

    fn frame(&mut self, text: &str) -> Result<(), End> {
        self.link.events.heard();
        let frame = frame::understand(text).map_err(|cause| retry(format!("the gateway sent {cause}")))?;
        if self.pause.is_none() && matches!(frame, Frame::Ready { .. } | Frame::Resumed(_) | Frame::Event { .. }) {
            return Err(retry("the gateway sent events before it said hello").into());
        }
        match frame {
            Frame::Hello(_) if self.pause.is_some() => Ok(()),
            Frame::Hello(interval) => self.log_in(interval),
            Frame::Ready { session_id, bot_id, bot_name, seq } => {
                let session = Session { app_id: self.inlet.settings.app_id.clone(), id: session_id, seq, bot_id, bot_name };
                log::debug!(target: &self.link.name, "a new session");
                {
                    let mut memory = self.inlet.memory();
                    (memory.session, memory.unsaved) = (Some(Some(session)), true);
                }
                // Kept in memory if the store does not take it: beginning another one would be no better.
                self.inlet.save(self.link);
                self.logged_in();
                Ok(())
            }
            Frame::Resumed(seq) => {
                log::debug!(target: &self.link.name, "the session goes on");
                self.processed(seq);
                self.logged_in();
                Ok(())
            }
            Frame::Event { name, seq, data } => self.event(&name, seq, data),
            Frame::HeartbeatAck => {
                self.answered = true;
                Ok(())
            }
            Frame::HeartbeatWanted => self.heartbeat(),
            Frame::Reconnect => {
                Err(End::Closed { cause: "the gateway asks to connect anew".to_owned(), then: Closing::Resume { routine: true } })
            }
            Frame::Invalid(true) => Err(End::Closed {
                cause: "the gateway wants the session to be resumed".to_owned(),
                then: Closing::Resume { routine: false },
            }),
            Frame::Invalid(false) => {
                Err(End::Closed { cause: "the gateway does not know the session".to_owned(), then: Closing::Identify })
            }
            Frame::Other(op) => {
                log::debug!(target: &self.link.name, "skipped a frame with op {op}");
                Ok(())
            }
        }
    }

    /// Answers "hello": goes on with the session, or begins one.
    fn log_in(&mut self, interval: Duration) -> Result<(), End> {
        let pause = frame::heartbeat_pause(interval);
        (self.pause, self.due, self.answered) = (Some(pause), clock::now() + pause, true);
        self.login_by = Some(Deadline::after(limits::QQBOT_LOGIN));
        let text = {
            let memory = self.inlet.memory();
            match memory.known() {
                Some(session) => frame::resume(self.access_token.expose(), session),
                None => frame::identify(self.access_token.expose(), memory.intents.bits(self.inlet.settings.intents)),
            }
        };
        self.say(text)
    }

    fn logged_in(&mut self) {
        if self.login_by.take().is_some() {
            let identity = self.inlet.memory().known().map_or_else(String::new, Session::identity);
            self.link.events.connected(&identity);
        }
    }

    fn event(&mut self, name: &str, seq: Option<i64>, data: Value) -> Result<(), End> {
        // What was missed comes before RESUMED.
        self.logged_in();
        let bot_id = self.inlet.memory().known().map(|session| session.bot_id.clone()).unwrap_or_default();
        match understand(name, data, &self.link.name, &bot_id, clock::wall_ms()) {
            Meaning::Message(taken) => return self.hand_over(seq, *taken),
            Meaning::News(news) => log::info!(target: &self.link.name, "{news}"),
            Meaning::Ignored(reason) => log::debug!(target: &self.link.name, "skipped event {name}: {reason}"),
        }
        self.processed(seq);
        Ok(())
    }

    /// Hands a message over and waits until it is committed, together with what is needed to reply and to go on.
    fn hand_over(&mut self, seq: Option<i64>, taken: Taken) -> Result<(), End> {
        let Taken { mut inbound, files } = taken;
        if !files.is_empty() {
            if clock::now() + limits::QQBOT_DOWNLOAD >= self.due && self.answered {
                self.heartbeat()?;
            }
            download::fetch(&self.api, &self.inlet.settings, self.link, &mut inbound, files).map_err(AdapterError::from)?;
        }
        let chat = &inbound.chat.chat;
        let heard = self.memos.recall(&window::heard_key(chat)).map_err(store_failed)?;
        let mut memos = vec![window::heard(chat, heard.as_deref(), &inbound.message_id, clock::wall_ms())];
        let id = {
            let mut memory = self.inlet.memory();
            memory.receipts += 1;
            if let Some(session) = memory.known() {
                memos.push(session_memo(&Session { seq: seq.or(session.seq), ..session.clone() }));
            }
            memory.receipts
        };
        self.link.events.message(inbound, Receipt { id, cursor: None, memos }).map_err(AdapterError::from)?;
        self.wait_for_receipt(id)?;
        self.processed(seq);
        Ok(())
    }

    fn wait_for_receipt(&self, id: u64) -> Result<(), AdapterError> {
        let deadline = Deadline::after(limits::QQBOT_RECEIPT);
        let _busy = enter(format_args!("waiting for a message to be committed"), deadline);
        loop {
            crossbeam_channel::select! {
                recv(self.link.receipts) -> receipt => match receipt {
                    Ok(receipt) if receipt.id == id => return Ok(()),
                    // Of a connection before this one.
                    Ok(_) => {}
                    Err(_) => return Err(AdapterError::Cancelled),
                },
                recv(self.link.token.cancelled()) -> _ => return Err(AdapterError::Cancelled),
                default(deadline.remaining()) => {
                    let seconds = limits::QQBOT_RECEIPT.as_secs();
                    return Err(retry(format!("a message was not stored within {seconds} s; QQ is asked for it again")));
                }
            }
        }
    }

    /// The event was dealt with: a resume goes on behind it.
    fn processed(&self, seq: Option<i64>) {
        let mut memory = self.inlet.memory();
        if let (Some(seq), Some(Some(session))) = (seq, &mut memory.session) {
            session.seq = Some(session.seq.unwrap_or(seq).max(seq));
            // Of messages that are not for us nothing was stored.
            memory.unsaved = true;
        }
    }
}

fn session_memo(session: &Session) -> Memo {
    Memo::new(SESSION, serde_json::to_string(session).unwrap_or_default())
}

fn broken(error: &WsError) -> AdapterError {
    match error {
        WsError::Net(NetError::Cancelled) => AdapterError::Cancelled,
        WsError::Net(NetError::BadUrl(cause)) => retry(format!("the gateway's address cannot be used: {cause}")),
        error => AdapterError::Retry { cause: format!("gateway: {error}"), after: error.retry_after() },
    }
}

fn store_failed(error: StoreError) -> AdapterError {
    match error {
        StoreError::Fenced | StoreError::Closed => AdapterError::Cancelled,
        other => retry(other.to_string()),
    }
}

/// Asks who the bot is, and nothing else.
pub(super) fn check(settings: &Arc<Settings>, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<String, AdapterError> {
    let api = Api::new(settings, &Arc::default(), net, token);
    let me = api.call("asking who the bot is", "GET", "/users/@me", None, deadline).map_err(|error| error.for_inlet())?;
    let name = me["username"].as_str().filter(|name| !name.is_empty());
    Ok(name.map_or_else(|| format!("bot {}", settings.app_id), str::to_owned))
}
