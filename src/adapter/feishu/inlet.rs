//! Receiving: the long connection. Owns the thread `adapter/NAME`.
//!
//! Feishu sends an event again until it is acknowledged, so a message is acknowledged when it is committed and never
//! before; what is not for us, at once. A frame that cannot be ends the connection: the next one gets what was not acknowledged.

use super::api::Api;
use super::classes::Class;
use super::connect::{discover, ping_interval, refused_handshake};
use super::content::Me;
use super::frame::{self, Frame};
use super::protocol::{Meaning, Taken, understand};
use super::slices::Assembler;
use super::wire::{BotInfo, ClientConfig};
use super::{Memory, Settings, download};
use crate::adapter::bearer::Bearer;
use crate::adapter::{AdapterError, Inlet, Link};
use crate::clock::{self, Deadline};
use crate::core::types::Receipt;
use crate::limits;
use crate::net::{NetOptions, WebSocket, WsError, WsEvent, WsLimits, WsMessage, close_code};
use crate::thread::{CancelToken, enter};
use serde_json::json;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct FeishuInlet {
    settings: Arc<Settings>,
    bearer: Arc<Bearer>,
    memory: Arc<Mutex<Memory>>,
}

impl Inlet for FeishuInlet {
    fn run(&mut self, link: &Link) -> Result<Infallible, AdapterError> {
        let api = Api::new(&self.settings, &self.bearer, &link.net, &link.token);
        let me = self.introduce(&api)?;
        let address = discover(&api, &self.settings, Deadline::after(limits::FEISHU_CALL))?;
        let deadline = Deadline::after(limits::FEISHU_CONNECT);
        let bounds = WsLimits { message_bytes_max: limits::FEISHU_FRAME_BYTES_MAX, ..WsLimits::default() };
        let mut socket = WebSocket::connect(&address.url, &[], &link.net, &link.token, deadline, bounds).map_err(refused_handshake)?;
        // An event goes to one of the app's connections: one that only looks alive would take it.
        socket.goodbye_on_cancel(close_code::NORMAL);
        let mut connection = Connection {
            inlet: self,
            api: &api,
            link,
            me: &me,
            socket,
            service: address.service,
            ping_interval: address.ping_interval.unwrap_or(limits::FEISHU_PING_DEFAULT),
            slices: Assembler::default(),
            listening: clock::now(),
            is_up: false,
        };
        connection.ping()?;
        connection.receive()
    }
}

impl FeishuInlet {
    pub fn new(settings: &Arc<Settings>, bearer: &Arc<Bearer>, memory: &Arc<Mutex<Memory>>) -> Self {
        Self { settings: Arc::clone(settings), bearer: Arc::clone(bearer), memory: Arc::clone(memory) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A list of ids: valid after any panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who are we? Asked once in the life of the process: an app's bot keeps its id.
    fn introduce(&self, api: &Api) -> Result<Me, AdapterError> {
        let known = self.memory().me.clone();
        if let Some(me) = known {
            return Ok(me);
        }
        let me = bot_info(api, Deadline::after(limits::FEISHU_CALL))?;
        self.memory().me = Some(me.clone());
        Ok(me)
    }
}

/// Asks who the bot is, which needs a good credential and an app with a bot, but no permission.
fn bot_info(api: &Api, deadline: Deadline) -> Result<Me, AdapterError> {
    let answer = api.call("bot info", "GET", "/open-apis/bot/v3/info", None, deadline).map_err(|error| error.for_adapter())?;
    let info: BotInfo = serde_json::from_value(answer).unwrap_or_default();
    let bot = info.bot.unwrap_or_default();
    match bot.open_id.filter(|id| !id.is_empty()) {
        Some(open_id) => Ok(Me { open_id, name: bot.app_name.unwrap_or_default() }),
        None => Err(AdapterError::Retry { cause: "bot info: an answer without open_id".to_owned(), after: None }),
    }
}

/// For `doctor`: the credential, the bot, whether the long connection may be opened (it is not), and the permission to write.
pub(super) fn check(
    settings: &Arc<Settings>,
    bearer: &Arc<Bearer>,
    net: &NetOptions,
    token: &CancelToken,
    deadline: Deadline,
) -> Result<String, AdapterError> {
    let api = Api::new(settings, bearer, net, token);
    let me = bot_info(&api, deadline)?;
    discover(&api, settings, deadline)?;
    // An answer to a message that there is not: permissions are looked at first, and nothing can be sent.
    let body = json!({"msg_type": "text", "content": "{\"text\":\"\"}", "reply_in_thread": false, "uuid": "doctor"});
    let asked = api.call("permission to write", "POST", "/open-apis/im/v1/messages/om_0/reply", Some(&body), deadline);
    if let Err(error) = asked.as_ref()
        && matches!(error.class(), Some(Class::Scope | Class::Ability))
    {
        return Err(error.for_adapter());
    }
    Ok(if me.name.is_empty() { me.open_id } else { me.name })
}

/// One connection that is up.
struct Connection<'a> {
    inlet: &'a FeishuInlet,
    api: &'a Api,
    link: &'a Link,
    me: &'a Me,
    socket: WebSocket,
    service: i32,
    ping_interval: Duration,
    slices: Assembler,
    /// Since when this thread has listened without doing anything else. What it did not listen to, it cannot miss.
    listening: Instant,
    /// A frame has come in. Servers say nothing when a client is let in, but they answer its first ping.
    is_up: bool,
}

impl Connection<'_> {
    fn receive(&mut self) -> Result<Infallible, AdapterError> {
        let mut ping_due = clock::now() + self.ping_interval;
        loop {
            let silent_at = self.socket.heard().max(self.listening) + self.patience();
            let until = [Some(silent_at), Some(ping_due), self.slices.due()].into_iter().flatten().min().unwrap_or(silent_at);
            let event = self.socket.next(Deadline::at(until)).map_err(|error| lost(&error))?;
            if !matches!(event, WsEvent::Idle | WsEvent::Woken) {
                self.link.events.heard();
            }
            match event {
                WsEvent::Binary(bytes) => self.frame(&bytes)?,
                WsEvent::Text(text) => log::warn!(target: &self.link.name, "skipped a text of {} bytes: frames are binary", text.len()),
                WsEvent::Closed { code, reason } => {
                    let reason = crate::adapter::rest::readable(&reason, 200);
                    let cause = format!("the platform closed the connection (code {code}) {reason}").trim_end().to_owned();
                    return Err(AdapterError::Retry { cause, after: None });
                }
                WsEvent::Woken => {}
                WsEvent::Idle => self.look_for_silence()?,
            }
            let now = clock::now();
            if now >= ping_due {
                self.ping()?;
                ping_due = now + self.ping_interval;
            }
            // An answer to the last ping may have shortened the interval.
            ping_due = ping_due.min(now + self.ping_interval);
            match self.slices.expire(now) {
                0 => {}
                events => log::warn!(target: &self.link.name, "{events} events did not arrive completely; Feishu sends them again"),
            }
        }
    }

    /// How long nothing may be heard: each ping is answered.
    fn patience(&self) -> Duration {
        2 * self.ping_interval + (self.ping_interval / 2).min(limits::FEISHU_SILENCE_MARGIN)
    }

    fn look_for_silence(&self) -> Result<(), AdapterError> {
        let silence = clock::now().saturating_duration_since(self.socket.heard().max(self.listening));
        if silence < self.patience() {
            return Ok(());
        }
        let cause = format!("nothing was heard for {} s, not even an answer to a ping", silence.as_secs());
        Err(AdapterError::Retry { cause, after: None })
    }

    fn ping(&mut self) -> Result<(), AdapterError> {
        self.send(&Frame::ping(self.service))
    }

    fn send(&mut self, frame: &Frame) -> Result<(), AdapterError> {
        let message = WsMessage::Binary(frame.encode());
        self.socket.send(message, Deadline::after(limits::FEISHU_WRITE)).map_err(|error| lost(&error))
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<(), AdapterError> {
        let arrived = clock::now();
        let frame = Frame::decode(bytes).map_err(|error| self.broken(format_args!("a frame of {} bytes: {error}", bytes.len())))?;
        if !std::mem::replace(&mut self.is_up, true) {
            self.link.events.connected(if self.me.name.is_empty() { &self.me.open_id } else { &self.me.name });
        }
        match (frame.method, frame.header(frame::TYPE).unwrap_or_default()) {
            (frame::CONTROL, "pong") => self.pong(frame.payload.as_deref().unwrap_or_default()),
            (frame::DATA, "event") => self.slice(frame, arrived)?,
            // Also pings of the server and frames of the type "card", as the official clients do.
            (method, kind) => {
                let kind = crate::adapter::rest::readable(kind, 40);
                log::debug!(target: &self.link.name, "skipped a frame with method {method} and type \"{kind}\"");
            }
        }
        Ok(())
    }

    /// The peer breaks the protocol. It is said once, and everything that was not acknowledged comes again.
    fn broken(&self, what: std::fmt::Arguments<'_>) -> AdapterError {
        log::warn!(target: &self.link.name, "the platform sent what cannot be: {what}; connecting again");
        AdapterError::Retry { cause: format!("the platform sent what cannot be: {what}"), after: None }
    }

    fn pong(&mut self, payload: &[u8]) {
        if payload.is_empty() {
            return;
        }
        let config = serde_json::from_slice::<ClientConfig>(payload).unwrap_or_default();
        if let Some(interval) = ping_interval(&config).filter(|interval| *interval != self.ping_interval) {
            log::debug!(target: &self.link.name, "from now on a ping every {} s", interval.as_secs());
            self.ping_interval = interval;
        }
    }

    fn slice(&mut self, mut frame: Frame, arrived: Instant) -> Result<(), AdapterError> {
        let number = |key: &str, absent: u64| frame.header(key).map_or(Some(absent), |value| value.trim().parse().ok());
        let (Some(sum), Some(seq)) = (number(frame::SUM, 1), number(frame::SEQ, 0)) else {
            return Err(self.broken(format_args!("a slice whose number is none")));
        };
        let id = frame.header(frame::MESSAGE_ID).unwrap_or_default().to_owned();
        let payload = frame.payload.take().unwrap_or_default();
        match self.slices.add(&id, sum, seq, payload, arrived) {
            Ok(Some(event)) => self.event(frame, &event, arrived),
            Ok(None) => Ok(()),
            Err(error) => Err(self.broken(format_args!("{error}"))),
        }
    }

    /// A whole event. `frame`: its last slice, which is acknowledged for all of them.
    fn event(&mut self, frame: Frame, event: &[u8], arrived: Instant) -> Result<(), AdapterError> {
        let code = match understand(event, &self.link.name, self.me, clock::wall_ms()) {
            Meaning::Message(taken) => self.take(*taken)?,
            Meaning::News(news) => {
                log::info!(target: &self.link.name, "{news}");
                200
            }
            Meaning::Ignored(reason) => {
                log::debug!(target: &self.link.name, "skipped an event: {reason}");
                200
            }
            Meaning::Unreadable => {
                log::warn!(target: &self.link.name, "an event of {} bytes is not JSON; Feishu is asked to send it again", event.len());
                500
            }
        };
        self.listening = clock::now();
        let took_ms = self.listening.saturating_duration_since(arrived).as_millis();
        self.send(&frame.acknowledge(code, took_ms))
    }

    /// Hands a message over and waits until it is committed. → the code to acknowledge it with
    fn take(&mut self, taken: Taken) -> Result<u16, AdapterError> {
        let Taken { mut inbound, files, memos } = taken;
        let id = inbound.message_id.clone();
        if self.inlet.memory().is_recent(&id) {
            log::debug!(target: &self.link.name, "message {id} came again");
            return Ok(200);
        }
        download::fetch(self.api, &self.inlet.settings, self.link, &mut inbound, files)?;
        let number = self.inlet.memory().next_receipt();
        self.link.events.message(inbound, Receipt { id: number, cursor: None, memos })?;
        let is_committed = self.wait_for_receipt(number)?;
        if is_committed {
            self.inlet.memory().taken(id);
            return Ok(200);
        }
        // It may yet be committed: then the repetition is found to be one.
        log::warn!(target: &self.link.name, "message {id} was not stored within {} s; Feishu is asked to send it again", limits::FEISHU_RECEIPT.as_secs());
        Ok(500)
    }

    fn wait_for_receipt(&self, number: u64) -> Result<bool, AdapterError> {
        let deadline = Deadline::after(limits::FEISHU_RECEIPT);
        let _busy = enter(format_args!("waiting for a message to be committed"), deadline);
        loop {
            crossbeam_channel::select! {
                recv(self.link.receipts) -> receipt => match receipt {
                    // Those of earlier messages come late, or from an earlier connection.
                    Ok(receipt) if receipt.id == number => return Ok(true),
                    Ok(_) => {}
                    Err(_) => return Err(AdapterError::Cancelled),
                },
                recv(self.link.token.cancelled()) -> _ => return Err(AdapterError::Cancelled),
                default(deadline.remaining()) => return Ok(false),
            }
        }
    }
}

/// A connection that has ended.
fn lost(error: &WsError) -> AdapterError {
    if error.is_cancelled() {
        return AdapterError::Cancelled;
    }
    AdapterError::Retry { cause: format!("long connection: {error}"), after: None }
}
