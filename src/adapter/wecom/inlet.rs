//! Receiving, and the connection that everything is sent over. Owns the thread `adapter/NAME`.
//!
//! WeCom wants no confirmation of a message and repeats none: what arrives is handed over at once, and what is not committed
//! in time is handed over again from here.

use super::flights::{Flights, Heartbeat};
use super::protocol::{self, Ack, Incoming, new_id, understand};
use super::streams::Callback;
use super::unconfirmed::Unconfirmed;
use super::wire::Body;
use super::{Line, Settings, download};
use crate::adapter::relay::{Job, Session};
use crate::adapter::rest::adapter_error;
use crate::adapter::{AdapterError, Inlet, Link};
use crate::clock::{self, Deadline};
use crate::core::types::Receipt;
use crate::limits;
use crate::net::{NetOptions, WebSocket, WsError, WsEvent, WsLimits, WsMessage, close_code};
use crate::thread::CancelToken;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A frame that the outlet wants to be sent.
#[derive(Debug)]
pub(super) struct Request {
    pub req_id: String,
    pub text: String,
}

pub(super) struct WecomInlet {
    settings: Arc<Settings>,
    line: Arc<Line>,
    /// Refusals of the credential in a row. Outlives the generations.
    refusals: Arc<AtomicU32>,
    unconfirmed: Unconfirmed,
}

/// One connection, logged in.
struct Connection<'a> {
    socket: WebSocket,
    session: &'a Session<Request, Ack>,
    flights: Flights<Job<Request, Ack>>,
    heartbeat: Heartbeat,
}

impl Inlet for WecomInlet {
    fn run(&mut self, link: &Link) -> Result<Infallible, AdapterError> {
        let socket = self.connect(link).inspect_err(|error| self.line.closed_because(&words(error)))?;
        let session = self.line.open();
        link.events.connected(&format!("bot {}", self.settings.bot_id));
        let now = clock::now();
        let heartbeat = Heartbeat::new(self.settings.heartbeat, now);
        let mut connection = Connection { socket, session: &session, flights: Flights::default(), heartbeat };
        let result = self.receive(link, &mut connection);
        // What is in flight is told first, so that it does not count as unsent.
        drop(connection);
        if let Err(error) = &result {
            session.end(&words(error));
        }
        result
    }
}

/// Why there is no connection, in short.
fn words(error: &AdapterError) -> String {
    match error {
        AdapterError::Cancelled => "the adapter was stopped".to_owned(),
        AdapterError::Retry { cause, .. } | AdapterError::Fatal { cause, .. } => cause.clone(),
    }
}

impl WecomInlet {
    pub fn new(settings: &Arc<Settings>, line: &Arc<Line>, refusals: &Arc<AtomicU32>) -> Self {
        let (settings, line, refusals) = (Arc::clone(settings), Arc::clone(line), Arc::clone(refusals));
        Self { settings, line, refusals, unconfirmed: Unconfirmed::default() }
    }

    fn connect(&self, link: &Link) -> Result<WebSocket, AdapterError> {
        let mut socket = open(&self.settings, &link.net, &link.token, Deadline::after(limits::WECOM_CONNECT))?;
        // WeCom keeps one connection a bot; it is to know at once that this one is gone.
        socket.goodbye_on_cancel(close_code::NORMAL);
        socket.set_waker(self.line.waker());
        let req_id = new_id("aibot_subscribe");
        let deadline = Deadline::after(limits::WECOM_SUBSCRIBE);
        let frame = protocol::subscribe(&req_id, &self.settings.bot_id, self.settings.secret.expose());
        socket.send(WsMessage::Text(frame), deadline).map_err(|error| socket_failed(&error))?;
        loop {
            match socket.next(deadline).map_err(|error| socket_failed(&error))? {
                WsEvent::Text(text) => {
                    link.events.heard();
                    match protocol::read(&text) {
                        Some(Incoming::Ack { req_id: answered, ack }) if answered == req_id => {
                            return self.judge(&ack, link).map(|()| socket);
                        }
                        Some(other) => log::debug!(target: &link.name, "skipped before the login: {other:?}"),
                        None => return Err(not_json()),
                    }
                }
                WsEvent::Closed { code, reason } => return Err(closed(code, &reason)),
                WsEvent::Idle => {
                    let seconds = limits::WECOM_SUBSCRIBE.as_secs();
                    return Err(AdapterError::Retry { cause: format!("aibot_subscribe: no answer within {seconds} s"), after: None });
                }
                WsEvent::Binary(_) | WsEvent::Woken => {}
            }
        }
    }

    /// Whether WeCom took the credential.
    fn judge(&self, ack: &Ack, link: &Link) -> Result<(), AdapterError> {
        let cause = format!("WeCom does not accept the login: {ack}");
        match ack.code {
            0 => {
                self.refusals.store(0, Ordering::Relaxed);
                return Ok(());
            }
            protocol::code::TOO_OFTEN => return Err(AdapterError::Retry { cause, after: Some(limits::WECOM_TOO_OFTEN) }),
            protocol::code::BUSY => return Err(AdapterError::Retry { cause, after: None }),
            _ => {}
        }
        if self.refusals.fetch_add(1, Ordering::Relaxed) + 1 < limits::WECOM_REFUSALS_MAX {
            return Err(AdapterError::Retry { cause, after: None });
        }
        // After the operator has acted, it is tried as often again.
        self.refusals.store(0, Ordering::Relaxed);
        let section = format!("[adapters.{}]", link.name);
        let remedy = format!(
            "check `bot_id` and `secret` of {section} with those of the bot in WeCom's admin console, where long connections are on"
        );
        Err(AdapterError::Fatal { cause, remedy })
    }

    fn receive(&mut self, link: &Link, connection: &mut Connection<'_>) -> Result<Infallible, AdapterError> {
        loop {
            let until = Deadline::at(connection.heartbeat.due());
            let event = connection.socket.next(until).map_err(|error| socket_failed(&error))?;
            for receipt in link.receipts.try_iter() {
                self.unconfirmed.committed(receipt.id);
            }
            match event {
                WsEvent::Text(text) => {
                    link.events.heard();
                    let incoming = protocol::read(&text).ok_or_else(not_json)?;
                    self.take(link, connection, incoming)?;
                }
                WsEvent::Binary(bytes) => log::debug!(target: &link.name, "skipped a binary message of {} bytes", bytes.len()),
                WsEvent::Closed { code, reason } => return Err(closed(code, &reason)),
                WsEvent::Woken => connection.send_requests()?,
                WsEvent::Idle => {}
            }
            if Deadline::at(connection.heartbeat.due()).passed() {
                connection.beat()?;
                self.hand_over_again(link)?;
            }
        }
    }

    fn take(&mut self, link: &Link, connection: &mut Connection<'_>, incoming: Incoming) -> Result<(), AdapterError> {
        match incoming {
            Incoming::Ack { req_id, ack } => {
                if req_id.starts_with("ping_") {
                    connection.heartbeat.answered();
                } else if let Some(job) = connection.flights.landed(&req_id) {
                    job.answer(ack);
                } else if ack.code == 0 {
                    log::debug!(target: &link.name, "nobody waits for the answer to {req_id}");
                } else {
                    log::warn!(target: &link.name, "{req_id}: {ack}");
                }
            }
            Incoming::Message { req_id, body } => self.hand_over(link, connection, &req_id, &body)?,
            Incoming::Event { req_id, kind, body } => return self.event(link, connection, &req_id, &kind, &body),
            Incoming::Unknown(what) => log::debug!(target: &link.name, "skipped a frame: {what}"),
        }
        Ok(())
    }

    fn hand_over(&mut self, link: &Link, connection: &mut Connection<'_>, req_id: &str, body: &Body) -> Result<(), AdapterError> {
        let now_ms = clock::wall_ms();
        let taken = match understand(req_id, body, &link.name, now_ms) {
            Ok(taken) => taken,
            Err(reason) => {
                log::debug!(target: &link.name, "skipped a message: {reason}");
                return Ok(());
            }
        };
        let mut inbound = taken.inbound;
        if !taken.files.is_empty() {
            // The connection is not looked at meanwhile, so what waits to be sent goes out first.
            connection.send_requests()?;
            download::fetch(&self.settings, link, &mut inbound, taken.files)?;
        }
        let callback = Some(Callback { req: req_id.to_owned(), at_ms: now_ms }).filter(|_| !req_id.is_empty());
        let memos = callback.map(|callback| callback.memo(&inbound.chat.chat)).into_iter().collect();
        let receipt = Receipt { id: self.unconfirmed.next_id(), cursor: None, memos };
        if !self.unconfirmed.insert(&inbound, &receipt, clock::now()) {
            log::warn!(target: &link.name, "message {}: too many wait to be stored; it is not tried again", inbound.message_id);
        }
        Ok(link.events.message(inbound, receipt)?)
    }

    /// What was not committed, because the disk did not take it.
    fn hand_over_again(&mut self, link: &Link) -> Result<(), AdapterError> {
        let (due, lost) = self.unconfirmed.due(clock::now());
        for id in lost {
            log::error!(target: &link.name, "message {id} could not be stored and is lost: WeCom does not repeat it");
        }
        for (inbound, receipt) in due {
            log::info!(target: &link.name, "message {} is not stored yet; handed over again", inbound.message_id);
            link.events.message(inbound, receipt)?;
        }
        Ok(())
    }

    fn event(&self, link: &Link, connection: &mut Connection<'_>, req_id: &str, kind: &str, body: &Body) -> Result<(), AdapterError> {
        match kind {
            "disconnected_event" => Err(AdapterError::Fatal {
                cause: "taken over by another connection with the same `bot_id`".to_owned(),
                remedy: format!(
                    "WeCom keeps one connection a bot: stop the other program, or give [adapters.{}] a bot of its own; then restart the gateway",
                    link.name
                ),
            }),
            "enter_chat" => {
                let sender = body.from.as_ref().and_then(|from| from.userid.as_deref());
                let known = sender.is_some_and(|sender| self.settings.knows(sender));
                match self.settings.welcome.as_deref().filter(|_| known && !req_id.is_empty()) {
                    Some(text) => connection.send(protocol::welcome(req_id, text)),
                    None => Ok(()),
                }
            }
            other => {
                log::debug!(target: &link.name, "skipped an event: {}", crate::adapter::rest::readable(other, 60));
                Ok(())
            }
        }
    }
}

impl Connection<'_> {
    fn send(&mut self, text: String) -> Result<(), AdapterError> {
        self.socket.send(WsMessage::Text(text), Deadline::after(limits::WECOM_SEND)).map_err(|error| socket_failed(&error))
    }

    /// Sends what the outlet wants to be sent.
    fn send_requests(&mut self) -> Result<(), AdapterError> {
        while let Some(job) = self.session.next() {
            let req_id = job.request().req_id.clone();
            // An acknowledgement names only the message that is answered, not the frame.
            if self.flights.is_open(&req_id, clock::now()) {
                job.unsent("the frame before this one is not acknowledged yet");
                continue;
            }
            if !job.begin() {
                continue;
            }
            let frame = WsMessage::Text(job.request().text.clone());
            match self.socket.send(frame, Deadline::after(limits::WECOM_SEND)) {
                Ok(()) => self.flights.insert(req_id, job, clock::now()),
                Err(error) => {
                    let failed = socket_failed(&error);
                    if !error.maybe_sent() {
                        job.unsent(&words(&failed));
                    }
                    return Err(failed);
                }
            }
        }
        Ok(())
    }

    fn beat(&mut self) -> Result<(), AdapterError> {
        let now = clock::now();
        self.flights.forget_old(now);
        if !self.heartbeat.beat(now) {
            return Err(AdapterError::Retry { cause: "the connection is dead: two pings were not answered".to_owned(), after: None });
        }
        self.send(protocol::ping(&new_id("ping")))
    }
}

fn open(settings: &Settings, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<WebSocket, AdapterError> {
    let ws_limits = WsLimits { message_bytes_max: limits::WECOM_FRAME_BYTES_MAX, ..WsLimits::default() };
    WebSocket::connect(&settings.url, &[], net, token, deadline, ws_limits).map_err(|error| socket_failed(&error))
}

/// Whether the server can be reached. Nothing more: a login would take the connection away from a gateway that runs.
pub(super) fn check(settings: &Settings, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<(), AdapterError> {
    let mut socket = open(settings, net, token, deadline)?;
    // Whether it answers does not matter any more.
    let _ = socket.close(close_code::NORMAL, "", deadline);
    Ok(())
}

/// Classifies what ended the connection, once.
fn socket_failed(error: &WsError) -> AdapterError {
    match error {
        WsError::Net(error) => adapter_error(error, "WeCom"),
        other => AdapterError::Retry { cause: format!("WeCom: {other}"), after: other.retry_after() },
    }
}

fn closed(code: u16, reason: &str) -> AdapterError {
    let reason = crate::adapter::rest::readable(reason, 100);
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    AdapterError::Retry { cause: format!("WeCom closed the connection (code {code}){because}"), after: None }
}

fn not_json() -> AdapterError {
    AdapterError::Retry { cause: "WeCom sent a frame that is not JSON".to_owned(), after: None }
}
