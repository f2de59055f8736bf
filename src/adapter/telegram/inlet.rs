//! Receiving: long polls, one batch at a time. Owns the thread `adapter/NAME`.
//!
//! A poll tells Telegram to forget everything below its offset (Bot API, getUpdates), so the next poll waits until the
//! whole batch is committed. It must not confirm anything earlier, whatever happens.

use super::api::{Api, ApiError, Failure};
use super::ledger::{Ledger, Verdict};
use super::protocol::{Me, Meaning, Taken, understand, update_id};
use super::wire::User;
use super::{Memory, Settings, download};
use crate::adapter::{AdapterError, Inlet, Link};
use crate::clock::{self, Deadline};
use crate::core::command::COMMANDS;
use crate::core::record::{Op, Outcome};
use crate::core::types::Receipt;
use crate::limits;
use crate::net::{NetError, NetOptions};
use crate::store::StoreError;
use crate::thread::{CancelToken, enter};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After so long without an update, their numbers may begin anew (Bot API: after a week).
const NUMBERS_AGE: Duration = Duration::from_secs(24 * 3600);
/// Between polls of a server that answers at once although there is nothing.
const EMPTY_PAUSE: Duration = Duration::from_secs(1);
/// When the store does not take the cursor.
const STORE_WAIT: Duration = Duration::from_secs(20);

/// Polls that another caller took away.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    count: u32,
    last: Option<Instant>,
}

impl Conflicts {
    /// One more. → how long to wait, or `None`: give up.
    fn next(&mut self, now: Instant) -> Option<Duration> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) > limits::TELEGRAM_CONFLICT_MEMORY) {
            self.count = 0;
        }
        self.last = Some(now);
        self.count += 1;
        // A killed process's poll lives on until its time is up, hence the patience.
        (self.count <= limits::TELEGRAM_CONFLICTS_MAX).then(|| Duration::from_secs(10 + 10 * u64::from(self.count)))
    }
}

pub(super) struct TelegramInlet {
    settings: Arc<Settings>,
    memory: Arc<Mutex<Memory>>,
}

impl Inlet for TelegramInlet {
    fn run(&mut self, link: &Link) -> Result<Infallible, AdapterError> {
        let api = Api::new(&self.settings, &link.net, &link.token);
        let me = self.introduce(&api, link)?;
        let mut ledger = Ledger::new(self.load_offset(link)?);
        let error = match self.receive(&api, link, &me, &mut ledger) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if let Some(lowest) = ledger.resume_at() {
            self.memory().resume_at = Some(lowest);
        }
        Err(error)
    }
}

impl TelegramInlet {
    pub fn new(settings: &Arc<Settings>, memory: &Arc<Mutex<Memory>>) -> Self {
        Self { settings: Arc::clone(settings), memory: Arc::clone(memory) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Plain numbers: valid after any panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, api: &Api, link: &Link, method: &'static str, parameters: &Value) -> Result<Value, ApiError> {
        let deadline = Deadline::after(limits::TELEGRAM_CALL);
        let _busy = enter(format_args!("telegram {method}"), deadline);
        let result = api.call(method, parameters, deadline);
        if result.as_ref().map_or_else(|error| error.code().is_some(), |_| true) {
            link.events.heard();
        }
        result
    }

    /// Who are we? And from now on by polling.
    fn introduce(&self, api: &Api, link: &Link) -> Result<Me, AdapterError> {
        let answer = self.call(api, link, "getMe", &json!({})).map_err(|error| self.failed(&error, link))?;
        let user: User = serde_json::from_value(answer).unwrap_or_default();
        let Some(id) = user.id else {
            return Err(AdapterError::Retry { cause: "getMe: an answer without an id".to_owned(), after: None });
        };
        let me = Me { id, username: user.username.unwrap_or_default() };
        // While a webhook is set, every poll is refused.
        if let Err(error) = self.call(api, link, "deleteWebhook", &json!({"drop_pending_updates": false})) {
            match error.failure {
                Failure::Refused(ref refusal) if refusal.code == 404 => log::info!(target: &link.name, "{error}"),
                _ => return Err(self.failed(&error, link)),
            }
        }
        if !self.memory().commands_set {
            let commands: Vec<Value> = COMMANDS.iter().map(|(command, help)| json!({"command": command, "description": help})).collect();
            match self.call(api, link, "setMyCommands", &json!({"commands": commands})) {
                Err(error) if error.is_cancelled() => return Err(AdapterError::Cancelled),
                Err(error) => log::warn!(target: &link.name, "the list of commands is not shown while typing: {error}"),
                Ok(_) => self.memory().commands_set = true,
            }
        }
        if user.can_read_all_group_messages == Some(false) {
            log::debug!(target: &link.name, "in groups only commands and replies arrive; BotFather: /setprivacy");
        }
        Ok(me)
    }

    fn load_offset(&self, link: &Link) -> Result<Option<u64>, AdapterError> {
        let outcome = link.store.call(Op::LoadCursor { adapter: link.name.clone() }, Deadline::after(STORE_WAIT));
        let Outcome::Cursor(cursor) = outcome.map_err(store_failed)? else {
            return Err(AdapterError::Retry { cause: "the store has no answer about the cursor".to_owned(), after: None });
        };
        let stored = cursor.and_then(|cursor| match cursor.parse::<u64>() {
            Ok(offset) => Some(offset),
            Err(_) => {
                log::warn!(target: &link.name, "the stored cursor {cursor:?} makes no sense; asking for everything that waits");
                None
            }
        });
        // Anything that was never confirmed by a receipt is asked for again; the inbox knows what it has.
        Ok(stored.map(|offset| self.memory().resume_at.map_or(offset, |resume| resume.min(offset))))
    }

    fn receive(&self, api: &Api, link: &Link, me: &Me, ledger: &mut Ledger) -> Result<Infallible, AdapterError> {
        let mut connected = false;
        let mut last_update = clock::now();
        loop {
            // The first poll only proves that we may; whether it worked must not take half a minute to find out.
            let wait = if connected { self.settings.poll_timeout } else { Duration::ZERO };
            let asked = clock::now();
            let updates = self.poll(api, link, ledger, wait)?;
            link.events.heard();
            if !connected {
                connected = true;
                link.events.connected(&identity(me));
            }
            if asked.saturating_duration_since(last_update) > NUMBERS_AGE {
                ledger.allow_restart();
            }
            if !updates.is_empty() {
                last_update = clock::now();
            }
            let offset = ledger.offset();
            self.take_batch(api, link, me, ledger, updates)?;
            let idle = ledger.offset() == offset && !wait.is_zero() && asked.elapsed() < wait.min(EMPTY_PAUSE);
            if idle {
                link.token.sleep(EMPTY_PAUSE)?;
            }
        }
    }

    fn poll(&self, api: &Api, link: &Link, ledger: &Ledger, wait: Duration) -> Result<Vec<Value>, AdapterError> {
        let mut parameters = json!({
            "limit": limits::TELEGRAM_UPDATES_MAX,
            "timeout": wait.as_secs(),
            "allowed_updates": ["message", "edited_message", "callback_query", "my_chat_member"],
        });
        if let Some(offset) = ledger.offset() {
            parameters["offset"] = json!(offset);
        }
        let deadline = Deadline::after(wait + limits::TELEGRAM_POLL_MARGIN);
        let _busy = enter(format_args!("telegram getUpdates"), deadline);
        match api.call("getUpdates", &parameters, deadline) {
            Ok(Value::Array(updates)) => Ok(updates),
            Ok(_) => Err(AdapterError::Retry { cause: "getUpdates: an answer without a list".to_owned(), after: None }),
            Err(error) => Err(self.failed(&error, link)),
        }
    }

    /// Hands a batch over and waits until it is committed.
    fn take_batch(&self, api: &Api, link: &Link, me: &Me, ledger: &mut Ledger, updates: Vec<Value>) -> Result<(), AdapterError> {
        let mut callbacks = Vec::new();
        for update in updates {
            link.token.check()?;
            let Some(id) = update_id(&update) else {
                log::warn!(target: &link.name, "skipped an update without a number");
                continue;
            };
            if ledger.arrived(id) == Verdict::Old {
                log::debug!(target: &link.name, "skipped update {id}: confirmed before");
                continue;
            }
            let understood = understand(update, &link.name, me, clock::wall_ms());
            callbacks.extend(understood.callback);
            match understood.meaning {
                Meaning::Message(taken) => self.hand_over(api, link, ledger, id, *taken)?,
                Meaning::Moved { old, new } => link.events.moved(&old, &new),
                Meaning::Member { chat, change } => log::info!(target: &link.name, "in chat {chat} the bot went {change}"),
                Meaning::Ignored(reason) => log::debug!(target: &link.name, "skipped update {id}: {reason}"),
            }
            for receipt in link.receipts.try_iter() {
                ledger.receipt(receipt.id);
            }
        }
        wait_for_receipts(link, ledger)?;
        if let Some(cursor) = ledger.settle() {
            let op = Op::Cursor { adapter: link.name.clone(), cursor: cursor.to_string() };
            link.store.call(op, Deadline::after(STORE_WAIT)).map_err(store_failed)?;
        }
        self.memory().resume_at = None;
        self.answer_callbacks(api, link, &callbacks)
    }

    fn hand_over(&self, api: &Api, link: &Link, ledger: &mut Ledger, id: u64, taken: Taken) -> Result<(), AdapterError> {
        let Taken { mut inbound, files } = taken;
        // Handed over or not, from here on it counts as not confirmed.
        ledger.handed_over(id);
        download::fetch(api, &self.settings, link, &mut inbound, files)?;
        let receipt = Receipt { id, cursor: Some(id.saturating_add(1).to_string()), memos: Vec::new() };
        Ok(link.events.message(inbound, receipt)?)
    }

    /// Without an answer, the button shows a clock. Not worth an error.
    fn answer_callbacks(&self, api: &Api, link: &Link, callbacks: &[String]) -> Result<(), AdapterError> {
        let deadline = Deadline::after(limits::TELEGRAM_CALLBACKS);
        for id in callbacks {
            if deadline.passed() {
                break;
            }
            let _busy = enter(format_args!("telegram answerCallbackQuery"), deadline);
            match api.call("answerCallbackQuery", &json!({"callback_query_id": id}), deadline) {
                Err(error) if error.is_cancelled() => return Err(AdapterError::Cancelled),
                Err(error) => log::debug!(target: &link.name, "{error}"),
                Ok(_) => link.events.heard(),
            }
        }
        Ok(())
    }

    /// Classifies a failed call, once.
    fn failed(&self, error: &ApiError, link: &Link) -> AdapterError {
        let cause = error.to_string();
        let remedy = |remedy: String| AdapterError::Fatal { cause: cause.clone(), remedy };
        let section = format!("[adapters.{}]", link.name);
        match (&error.failure, error.code()) {
            (Failure::Net(NetError::Cancelled), _) => AdapterError::Cancelled,
            (Failure::Net(NetError::BadUrl(_)), _) => remedy(format!("correct `base_url` in {section}")),
            (_, Some(401)) => {
                remedy(format!("Telegram does not know this token: get a new one from @BotFather and put it into `token` of {section}"))
            }
            (_, Some(404)) if error.method == "getMe" => {
                remedy(format!("check `token` and `base_url` of {section}: Telegram answers so when the token is not complete"))
            }
            (_, Some(409)) => match self.memory().conflicts.next(clock::now()) {
                Some(wait) => AdapterError::Retry { cause, after: Some(wait) },
                None => remedy(format!("another instance polls with the same token: stop it, or get a token of its own for {section}")),
            },
            _ => AdapterError::Retry { cause, after: error.retry_after() },
        }
    }
}

/// Asks who we are, and nothing else.
pub(super) fn check(settings: &Arc<Settings>, net: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<String, AdapterError> {
    let error = match Api::new(settings, net, token).call("getMe", &json!({}), deadline) {
        Ok(answer) => {
            let user: User = serde_json::from_value(answer).unwrap_or_default();
            return Ok(identity(&Me { id: user.id.unwrap_or(0), username: user.username.unwrap_or_default() }));
        }
        Err(error) => error,
    };
    let cause = error.to_string();
    Err(match (&error.failure, error.code()) {
        (Failure::Net(NetError::Cancelled), _) => AdapterError::Cancelled,
        (Failure::Net(NetError::BadUrl(_)), _) => AdapterError::Fatal { cause, remedy: "correct `base_url`".to_owned() },
        (_, Some(401 | 404)) => {
            AdapterError::Fatal { cause, remedy: "get a new token from @BotFather and put it where `token` says".to_owned() }
        }
        _ => AdapterError::Retry { cause, after: error.retry_after() },
    })
}

fn identity(me: &Me) -> String {
    if me.username.is_empty() { format!("bot {}", me.id) } else { format!("@{}", me.username) }
}

/// Comes back when every message of the batch is committed.
fn wait_for_receipts(link: &Link, ledger: &mut Ledger) -> Result<(), AdapterError> {
    if ledger.pending() == 0 {
        return Ok(());
    }
    let deadline = Deadline::after(limits::TELEGRAM_RECEIPTS);
    let _busy = enter(format_args!("waiting for {} messages to be committed", ledger.pending()), deadline);
    while ledger.pending() > 0 {
        crossbeam_channel::select! {
            recv(link.receipts) -> receipt => match receipt {
                Ok(receipt) => ledger.receipt(receipt.id),
                Err(_) => return Err(AdapterError::Cancelled),
            },
            recv(link.token.cancelled()) -> _ => return Err(AdapterError::Cancelled),
            default(deadline.remaining()) => {
                let seconds = limits::TELEGRAM_RECEIPTS.as_secs();
                let cause = format!("{} messages were not stored within {seconds} s; they stay with Telegram and are asked for again", ledger.pending());
                return Err(AdapterError::Retry { cause, after: None });
            }
        }
    }
    Ok(())
}

fn store_failed(error: StoreError) -> AdapterError {
    match error {
        StoreError::Fenced | StoreError::Closed => AdapterError::Cancelled,
        other => AdapterError::Retry { cause: other.to_string(), after: None },
    }
}
