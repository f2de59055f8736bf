//! Receiving: one WebSocket. Owns the thread `adapter/NAME`.
//!
//! Nothing is acknowledged and nothing replayed, so what was handed over is kept until it is committed, and a new
//! connection compares the states with those that were said last.

use super::api::{ban_remedy, not_accepted, token_remedy};
use super::ledger::{Ledger, Observation, Seen};
use super::own::OWN_CALLS;
use super::protocol::{Heard, Purpose, Session, Speaker};
use super::wire::{Context, Event, Failure, State, User, messages, states};
use super::{Memory, Settings};
use crate::adapter::memos::Memos;
use crate::adapter::rest::readable;
use crate::adapter::{AdapterError, Inlet, Link, rest};
use crate::clock::{self, Deadline};
use crate::core::types::{Inbound, Memo, Receipt};
use crate::limits;
use crate::net::{WebSocket, WsError, WsEvent, WsLimits, WsMessage};
use crate::store::StoreError;
use crate::thread::enter;
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Looks this often whether the gateway's own call has ended.
const OWN_LOOK: Duration = Duration::from_millis(50);

/// Messages that were handed over, and of which no receipt came. The oldest first.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    messages: VecDeque<(Receipt, Inbound)>,
    last_id: u64,
}

pub(super) struct HomeAssistantInlet {
    settings: Arc<Settings>,
    memory: Arc<Mutex<Memory>>,
    /// Read from the memos with the first connection.
    ledger: Option<Ledger>,
}

impl HomeAssistantInlet {
    pub fn new(settings: &Arc<Settings>, memory: &Arc<Mutex<Memory>>) -> Self {
        Self { settings: Arc::clone(settings), memory: Arc::clone(memory), ledger: None }
    }
}

impl Inlet for HomeAssistantInlet {
    fn run(&mut self, link: &Link) -> Result<Infallible, AdapterError> {
        if self.ledger.is_none() {
            self.ledger = Some(load(link, &self.settings)?);
        }
        let Some(ledger) = &mut self.ledger else { return Err(AdapterError::Cancelled) };
        let (socket, session, me) = open(link, &self.settings)?;
        let names = me.id.clone().into_iter().zip(me.name.clone()).collect();
        let mut connection = Connection {
            link,
            settings: &self.settings,
            memory: &self.memory,
            ledger,
            socket,
            session,
            me,
            names,
            connected: false,
            fallen_back: false,
            next_ping: clock::now() + self.settings.heartbeat,
            pong_due: None,
            own_wait: None,
        };
        connection.receive()
    }
}

fn load(link: &Link, settings: &Settings) -> Result<Ledger, AdapterError> {
    let memos = Memos::new(&link.name, &link.store);
    let mut found = Vec::new();
    for key in Ledger::keys() {
        found.push(memos.recall(&key).map_err(store_failed)?);
    }
    Ok(Ledger::load(found, |entity| settings.watch.minds(entity)))
}

/// Connects, logs in, and asks who we are.
fn open(link: &Link, settings: &Settings) -> Result<(WebSocket, Session, User), AdapterError> {
    let deadline = Deadline::after(limits::HOMEASSISTANT_OPEN);
    let url = format!("{}/api/websocket", settings.url);
    let mut socket = WebSocket::connect(&url, &[], &link.net, &link.token, deadline, WsLimits::default())
        .map_err(|error| refused(error, &settings.section))?;
    let mut session = Session::default();
    loop {
        let Some(frame) = next_text(&mut socket, deadline)? else {
            let seconds = limits::HOMEASSISTANT_OPEN.as_secs();
            return Err(retry(format!("the login was not answered within {seconds} s")));
        };
        link.events.heard();
        for message in messages(&frame).map_err(retry)? {
            match session.take(&message) {
                Heard::Authenticate => {
                    let auth = json!({"type": "auth", "access_token": settings.token.expose()}).to_string();
                    socket.send(WsMessage::Text(auth), deadline).map_err(failed)?;
                }
                Heard::Welcome(version) => {
                    log::debug!(target: &link.name, "logged in; Home Assistant {}", readable(&version, 30));
                    let command = session.who_am_i();
                    socket.send(WsMessage::Text(command), deadline).map_err(failed)?;
                }
                Heard::Unwelcome(message) => {
                    let cause = format!("Home Assistant does not accept the token ({})", readable(&message, 100));
                    return Err(AdapterError::Fatal { cause, remedy: token_remedy(&settings.section) });
                }
                Heard::Done(Purpose::Me, result) => {
                    let me = result.and_then(|result| serde_json::from_str(result.get()).ok()).unwrap_or_default();
                    return Ok((socket, session, me));
                }
                Heard::Failed(Purpose::Me, failure) => {
                    log::warn!(target: &link.name, "Home Assistant does not tell whose token this is: {}", told(&failure));
                    return Ok((socket, session, User::default()));
                }
                other => log::debug!(target: &link.name, "before the login: {other:?}"),
            }
        }
    }
}

/// The next text, or `None` at the deadline.
fn next_text(socket: &mut WebSocket, until: Deadline) -> Result<Option<String>, AdapterError> {
    loop {
        match socket.next(until).map_err(failed)? {
            WsEvent::Text(text) => return Ok(Some(text)),
            WsEvent::Binary(bytes) => return Err(retry(format!("a binary message of {} bytes", bytes.len()))),
            WsEvent::Closed { code, reason } => {
                let reason = readable(&reason, 100);
                return Err(retry(format!("Home Assistant closed the connection ({code} {reason})").replace(" )", ")")));
            }
            WsEvent::Woken => {}
            WsEvent::Idle => return Ok(None),
        }
    }
}

/// One connection that is logged in.
struct Connection<'a> {
    link: &'a Link,
    settings: &'a Settings,
    memory: &'a Mutex<Memory>,
    ledger: &'a mut Ledger,
    socket: WebSocket,
    session: Session,
    me: User,
    names: BTreeMap<String, String>,
    connected: bool,
    /// All changes are subscribed to instead of those of the entities that are named.
    fallen_back: bool,
    next_ping: Instant,
    /// When the pong must be there.
    pong_due: Option<Instant>,
    /// Until when the end of the gateway's own calls is waited for.
    own_wait: Option<Deadline>,
}

impl Connection<'_> {
    fn receive(&mut self) -> Result<Infallible, AdapterError> {
        self.hand_over_again()?;
        for command in self.session.subscriptions(&self.settings.watch) {
            self.send(command)?;
        }
        let settle = Deadline::after(limits::HOMEASSISTANT_SETTLE);
        loop {
            if self.session.settled() && !self.connected {
                self.connected = true;
                self.link.events.connected(&self.identity());
                if self.settings.watch.is_deaf() {
                    log::warn!(target: &self.link.name, "nothing is listened to: name chats, events or entities in `watch` of {}", self.settings.section);
                }
            }
            if !self.connected && settle.passed() {
                return Err(retry("Home Assistant answers no commands".to_owned()));
            }
            let until = self.pong_due.unwrap_or(self.next_ping);
            let until = self.ledger.due().map_or(until, |due| until.min(due));
            match next_text(&mut self.socket, Deadline::at(until))? {
                Some(frame) => {
                    self.link.events.heard();
                    self.take(&frame)?;
                }
                None if self.pong_due.is_some_and(|due| due <= clock::now()) => return Err(self.no_pong()),
                None => {}
            }
            // What comes may have waited while a message was being stored; but not for ever.
            if self.pong_due.is_some_and(|due| due + limits::HOMEASSISTANT_SETTLE <= clock::now()) {
                return Err(self.no_pong());
            }
            self.timers()?;
        }
    }

    fn identity(&self) -> String {
        self.me.name.as_deref().map(|name| readable(name, 60)).filter(|name| !name.is_empty()).unwrap_or_else(|| "logged in".to_owned())
    }

    fn pong_wait(&self) -> Duration {
        limits::HOMEASSISTANT_PONG.min(self.settings.heartbeat)
    }

    fn no_pong(&self) -> AdapterError {
        retry(format!("no answer to a ping within {} s", self.pong_wait().as_secs()))
    }

    fn send(&mut self, text: String) -> Result<(), AdapterError> {
        self.socket.send(WsMessage::Text(text), Deadline::after(limits::HOMEASSISTANT_PONG)).map_err(failed)
    }

    fn timers(&mut self) -> Result<(), AdapterError> {
        let now = clock::now();
        if self.pong_due.is_none() && self.next_ping <= now {
            let ping = self.session.ping();
            self.send(ping)?;
            self.pong_due = Some(clock::now() + self.pong_wait());
            self.next_ping = clock::now() + self.settings.heartbeat;
        }
        while let Some(news) = self.ledger.waited(now) {
            let inbound = self.speaker().told(&news, clock::wall_ms());
            self.hand_over(inbound)?;
        }
        Ok(())
    }

    fn speaker(&self) -> Speaker<'_> {
        Speaker { adapter: &self.link.name, names: &self.names }
    }

    fn take(&mut self, frame: &str) -> Result<(), AdapterError> {
        for message in messages(frame).map_err(retry)? {
            match self.session.take(&message) {
                Heard::Done(Purpose::States, result) => self.found(result)?,
                Heard::Done(purpose, _) => log::debug!(target: &self.link.name, "{purpose:?}: subscribed"),
                Heard::Failed(purpose, failure) => self.failed(&purpose, &failure)?,
                Heard::Changed { from, to } => self.observe(*to, Seen::Changed { from: from.as_deref() })?,
                Heard::Said(kind, event) => self.fired(&kind, &event)?,
                Heard::Pong => self.pong_due = None,
                Heard::Nothing(what) => log::debug!(target: &self.link.name, "skipped {what}"),
                other => log::debug!(target: &self.link.name, "skipped out of place: {other:?}"),
            }
        }
        Ok(())
    }

    /// Something could not be subscribed to. The rest goes on.
    fn failed(&mut self, purpose: &Purpose, failure: &Failure) -> Result<(), AdapterError> {
        let (name, told) = (&self.link.name, told(failure));
        match purpose {
            Purpose::Trigger if !self.fallen_back => {
                self.fallen_back = true;
                log::info!(target: name, "no trigger can be subscribed to ({told}); listening to the changes of all entities instead");
                let command = self.session.all_changes();
                self.send(command)?;
            }
            Purpose::Events(kind) => {
                let remedy = "the user of the token must be an administrator for that";
                log::error!(target: name, "events of type {kind} are not heard: {told}; {remedy}");
            }
            Purpose::Trigger | Purpose::Changes => log::error!(target: name, "changes of entities are not heard: {told}"),
            Purpose::States => log::warn!(target: name, "what changed while there was no connection is not known: {told}"),
            Purpose::Me | Purpose::Ping => log::debug!(target: name, "{purpose:?}: {told}"),
        }
        Ok(())
    }

    /// The states as they are when the connection comes up.
    fn found(&mut self, result: Option<&RawValue>) -> Result<(), AdapterError> {
        let Some(result) = result else { return Ok(()) };
        let mut minded = Vec::new();
        for state in states(result) {
            let entity = state.entity_id.clone().unwrap_or_default();
            if entity.starts_with("person.") {
                self.learn_name(&state);
            }
            if self.settings.watch.minds(&entity) {
                minded.push(state);
            }
        }
        for entity in self.settings.watch.named().into_iter().flatten() {
            if !minded.iter().any(|state| state.entity_id.as_deref() == Some(entity)) {
                log::warn!(target: &self.link.name, "{entity} is not there (yet); it is listened to all the same");
            }
        }
        for state in minded {
            self.observe(state, Seen::Found)?;
        }
        self.remember()
    }

    fn learn_name(&mut self, person: &State) {
        let attributes = person.attributes.clone().unwrap_or_default();
        if let (Some(user), Some(name)) = (attributes.user_id, attributes.friendly_name)
            && self.names.len() < limits::HOMEASSISTANT_PERSONS_MAX
        {
            self.names.insert(user, readable(&name, 60));
        }
    }

    fn observe(&mut self, state: State, seen: Seen<'_>) -> Result<(), AdapterError> {
        let Some(now) = Observation::of(state) else { return Ok(()) };
        let watch = &self.settings.watch;
        let inbound = if watch.is_chat(&now.entity) {
            let own = self.is_own_call(&now.context)?;
            let said = self.ledger.said(&now, seen, own);
            said.then(|| self.speaker().typed(&now, clock::wall_ms()))
        } else if watch.tells_of(&now.entity) {
            let own = self.is_own_account(&now.context) || OWN_CALLS.caused(&now.context);
            let news = self.ledger.changed(now, seen, own, watch.cooldown, clock::now());
            news.map(|news| self.speaker().told(&news, clock::wall_ms()))
        } else {
            None
        };
        match inbound {
            Some(inbound) => self.hand_over(inbound),
            None if self.connected => self.remember(),
            None => Ok(()),
        }
    }

    fn fired(&mut self, kind: &str, event: &Event) -> Result<(), AdapterError> {
        if !self.settings.watch.events.contains(kind) {
            return Ok(());
        }
        if self.is_own_call(&event.context.clone().unwrap_or_default())? {
            log::debug!(target: &self.link.name, "skipped an event {kind} of our own");
            return Ok(());
        }
        match self.speaker().fired(kind, event, clock::wall_ms()) {
            Some(inbound) => self.hand_over(inbound),
            None => {
                log::debug!(target: &self.link.name, "skipped an event {kind} without a text");
                Ok(())
            }
        }
    }

    fn is_own_account(&self, context: &Context) -> bool {
        context.user_id.is_some() && context.user_id == self.me.id
    }

    /// Whether the gateway itself has done it. A person may use the same account, so that the account alone says nothing:
    /// while calls are under way, their answers are waited for, which name what they have changed.
    fn is_own_call(&mut self, context: &Context) -> Result<bool, AdapterError> {
        let suspect = self.is_own_account(context) || context.parent_id.is_some();
        if !OWN_CALLS.are_under_way() {
            self.own_wait = None;
        } else if suspect {
            // All changes that come while a call is under way share one wait.
            let deadline = *self.own_wait.get_or_insert_with(|| Deadline::after(limits::HOMEASSISTANT_OWN_WAIT));
            let _busy = enter(format_args!("waiting for the end of a service call"), deadline);
            while OWN_CALLS.are_under_way() && !deadline.passed() && !OWN_CALLS.caused(context) {
                self.link.token.sleep(OWN_LOOK)?;
            }
        }
        Ok(OWN_CALLS.caused(context))
    }

    /// What changed without a message.
    fn remember(&mut self) -> Result<(), AdapterError> {
        let memos = self.ledger.memos();
        if memos.is_empty() { Ok(()) } else { Memos::new(&self.link.name, &self.link.store).remember(memos).map_err(store_failed) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A list of messages: valid after any panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an earlier connection, or an earlier generation of this thread, handed over and was not told the end of.
    fn hand_over_again(&mut self) -> Result<(), AdapterError> {
        let waiting: Vec<(Receipt, Inbound)> = self.memory().unconfirmed.messages.iter().cloned().collect();
        for (receipt, inbound) in waiting {
            self.link.events.message(inbound, receipt.clone())?;
            self.wait_for(receipt.id)?;
        }
        Ok(())
    }

    fn hand_over(&mut self, inbound: Inbound) -> Result<(), AdapterError> {
        let memos = self.ledger.memos();
        let receipt = self.note(&inbound, memos);
        let id = receipt.id;
        self.link.events.message(inbound, receipt)?;
        self.wait_for(id)
    }

    fn note(&self, inbound: &Inbound, memos: Vec<Memo>) -> Receipt {
        let mut memory = self.memory();
        let unconfirmed = &mut memory.unconfirmed;
        unconfirmed.last_id += 1;
        let receipt = Receipt { id: unconfirmed.last_id, cursor: None, memos };
        if unconfirmed.messages.len() >= limits::HOMEASSISTANT_UNCONFIRMED_MAX {
            log::warn!(target: &self.link.name, "a message that was never stored is given up: there are too many");
            unconfirmed.messages.pop_front();
        }
        unconfirmed.messages.push_back((receipt.clone(), inbound.clone()));
        receipt
    }

    /// Comes back when the message is committed.
    fn wait_for(&self, id: u64) -> Result<(), AdapterError> {
        let deadline = Deadline::after(limits::HOMEASSISTANT_RECEIPT);
        let _busy = enter(format_args!("waiting for a message to be committed"), deadline);
        loop {
            crossbeam_channel::select! {
                recv(self.link.receipts) -> receipt => {
                    let Ok(receipt) = receipt else { return Err(AdapterError::Cancelled) };
                    self.memory().unconfirmed.messages.retain(|(known, _)| known.id != receipt.id);
                    if receipt.id == id {
                        return Ok(());
                    }
                }
                recv(self.link.token.cancelled()) -> _ => return Err(AdapterError::Cancelled),
                default(deadline.remaining()) => {
                    let seconds = limits::HOMEASSISTANT_RECEIPT.as_secs();
                    return Err(retry(format!("a message was not stored within {seconds} s; it is handed over again")));
                }
            }
        }
    }
}

fn told(failure: &Failure) -> String {
    let code = failure.code.as_deref().unwrap_or("no reason given");
    readable(&format!("{code} {}", failure.message.as_deref().unwrap_or_default()), 200)
}

fn retry(cause: String) -> AdapterError {
    AdapterError::Retry { cause, after: None }
}

/// Why there is no connection.
fn refused(error: WsError, section: &str) -> AdapterError {
    let WsError::Refused(refusal) = error else { return failed(error) };
    match refusal.status {
        // Not by Home Assistant, which asks for the token later: by something before it.
        401 => AdapterError::Fatal {
            cause: "status 401 before the login".to_owned(),
            remedy: format!(
                "what stands before Home Assistant (a proxy) wants a login of its own: let /api/websocket through, or correct `url` of {section}"
            ),
        },
        403 => AdapterError::Fatal { cause: "Home Assistant refuses the connection (status 403)".to_owned(), remedy: ban_remedy(section) },
        status => not_accepted(status, "", refusal.retry_after, section),
    }
}

/// Classifies the end of a connection, once.
fn failed(error: WsError) -> AdapterError {
    match error {
        WsError::Net(error) => rest::adapter_error(&error, "WebSocket"),
        other => AdapterError::Retry { cause: other.to_string(), after: other.retry_after() },
    }
}

fn store_failed(error: StoreError) -> AdapterError {
    match error {
        StoreError::Fenced | StoreError::Closed => AdapterError::Cancelled,
        other => AdapterError::Retry { cause: other.to_string(), after: None },
    }
}
