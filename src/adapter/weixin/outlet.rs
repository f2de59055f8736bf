//! Sending: plain text, one call a part, with the token that the last message of that user brought. Owns the thread
//! `adapter/NAME/send`.
//!
//! Whether WeChat drops a `client_id` that comes again is not documented, so what may have arrived is `Ambiguous` and never
//! sent again from here.

use super::api::{Api, ApiError, Failure};
use super::inlet::needs_login;
use super::protocol::{context_key, outgoing};
use super::{Settings, Shared};
use crate::adapter::memos::Memos;
use crate::adapter::rest::send_error;
use crate::adapter::{Outlet, Part, SendError, SendLink};
use crate::clock::{self, Deadline};
use crate::core::types::{ChatRef, Memo, OutboundKind};
use crate::limits;
use crate::store::StoreError;
use crate::text::html::readable;
use crate::text::plain::plain;
use crate::text::split::{Unit, split};
use crate::thread::enter;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Parts are split a little below the limit: bullets and padded tables can be longer than their Markdown, and a part that
/// may be a duplicate gets a mark.
pub(super) const PART_UTF16: usize = limits::WEIXIN_TEXT_UTF16_MAX - 200;
const PART_UTF16_SHOWN: usize = limits::WEIXIN_TEXT_UTF16_MAX - 50;
/// A part that grows even so is split again, down to this; the last resort is its Markdown, which fits.
const PART_UTF16_MIN: usize = 256;
const TYPING_ON: u8 = 1;
const TYPING_OFF: u8 = 2;

pub(super) struct WeixinOutlet {
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    api: Api,
    memos: Memos,
    name: String,
    /// What the next part belongs to.
    kind: OutboundKind,
    /// Refusals in a row because of too many messages, and until when none is sent therefore.
    frequency: u32,
    quiet_until: Option<Instant>,
    tickets: BTreeMap<String, Ticket>,
    /// To whom "typing" is shown.
    typing: BTreeSet<String>,
    /// "Typing" does not work at the moment, and must not hold up messages.
    no_typing_until: Option<Instant>,
}

/// What "typing" needs, for one user.
struct Ticket {
    text: String,
    since: Instant,
}

impl WeixinOutlet {
    pub fn new(settings: &Arc<Settings>, shared: &Arc<Shared>, link: &SendLink) -> Self {
        Self {
            settings: Arc::clone(settings),
            shared: Arc::clone(shared),
            api: Api::new(settings, &link.net, &link.token),
            memos: Memos::new(&link.name, &link.store),
            name: link.name.clone(),
            kind: OutboundKind::Reply,
            frequency: 0,
            quiet_until: None,
            tickets: BTreeMap::new(),
            typing: BTreeSet::new(),
            no_typing_until: None,
        }
    }

    /// Nothing is sent while WeChat wants none of it.
    fn may_send(&self) -> Result<(), SendError> {
        if let Some(pause) = self.shared.pause() {
            let cause = needs_login("its token is not accepted", &self.settings.name);
            return Err(SendError::Retry { cause, after: Some(pause) });
        }
        match left(self.quiet_until) {
            Some(pause) => Err(SendError::Retry { cause: "WeChat's limit on messages is reached".to_owned(), after: Some(pause) }),
            None => Ok(()),
        }
    }

    fn context(&self, user: &str) -> Result<Option<String>, SendError> {
        self.memos.recall(&context_key(user)).map_err(store_failed)
    }

    fn post(&self, part: &Part<'_>, text: &str, context: Option<&str>, deadline: Deadline) -> Result<Value, ApiError> {
        let body = outgoing(&part.chat.chat, text, &client_id(part.key), context);
        let _busy = enter(format_args!("weixin sendmessage"), deadline);
        self.api.call("sendmessage", body, deadline)
    }

    /// Sends, and once more without the token of the conversation if that is not valid any more.
    fn deliver(&mut self, part: &Part<'_>, text: &str, deadline: Deadline) -> Result<Value, SendError> {
        let user = &part.chat.chat;
        let context = self.context(user)?;
        let error = match self.post(part, text, context.as_deref(), deadline) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let Some(old) = context.filter(|_| error.is_stale() && !error.is_forbidden()) else { return Err(self.failed(&error)) };
        // The user may have written meanwhile: then there is a newer one.
        let mut newer = self.context(user)?.filter(|context| *context != old);
        log::info!(target: &self.name, "the token of the conversation with {user} has expired ({error}); trying {}", if newer.is_some() { "the next one" } else { "without" });
        if newer.is_none() {
            let forget = vec![Memo::forget(context_key(user))];
            self.memos.remember(forget).map_err(store_failed)?;
            newer = self.context(user)?;
        }
        self.post(part, text, newer.as_deref(), deadline).map_err(|error| self.failed(&error))
    }

    /// Classifies a failed call, once.
    fn failed(&mut self, error: &ApiError) -> SendError {
        let cause = error.to_string();
        if error.is_frequency() {
            let pause = error.retry_after().unwrap_or(limits::WEIXIN_QUIET * 3_u32.pow(self.frequency.min(2)));
            let pause = pause.min(limits::WEIXIN_QUIET_MAX.max(error.retry_after().unwrap_or_default()));
            self.frequency = self.frequency.saturating_add(1);
            self.quiet_until = Some(clock::now() + pause);
            return SendError::Retry { cause, after: Some(pause) };
        }
        match &error.failure {
            Failure::Net(error) => send_error(error, "sendmessage", false),
            _ if error.is_forbidden() => {
                self.shared.login_has_gone();
                SendError::Retry { cause: needs_login(&cause, &self.settings.name), after: Some(limits::WEIXIN_GONE) }
            }
            // If it is the login that has ended, the next poll says so. Else the user has to write first.
            _ if error.is_stale() => {
                SendError::Retry { cause: format!("{cause} (the user has to write to the bot first, or the login has ended)"), after: None }
            }
            Failure::Status { status: 413, .. } => SendError::Reject { cause },
            // Something in between, which did not pass the request on, or a server in trouble.
            Failure::Status { status: 300.., .. } => SendError::Retry { cause, after: error.retry_after() },
            Failure::Status { .. } => SendError::Ambiguous { cause },
            Failure::Refused { .. } => SendError::Retry { cause, after: None },
        }
    }

    fn ticket(&mut self, user: &str, deadline: Deadline) -> Result<String, SendError> {
        if let Some(ticket) = self.tickets.get(user).filter(|ticket| ticket.since.elapsed() < limits::WEIXIN_TICKET) {
            return Ok(ticket.text.clone());
        }
        let context = self.context(user)?;
        let _busy = enter(format_args!("weixin getconfig"), deadline);
        let found = self.api.typing_ticket(user, context.as_deref(), deadline).map_err(|error| not_shown(&error))?;
        let text = found.ok_or_else(|| SendError::Reject { cause: "getconfig: no typing_ticket".to_owned() })?;
        if self.tickets.len() >= limits::WEIXIN_TICKETS_MAX {
            self.tickets.clear();
        }
        self.tickets.insert(user.to_owned(), Ticket { text: text.clone(), since: clock::now() });
        Ok(text)
    }

    fn show_typing(&mut self, user: &str, status: u8, deadline: Deadline) -> Result<(), SendError> {
        let ticket = self.ticket(user, deadline)?;
        let _busy = enter(format_args!("weixin sendtyping"), deadline);
        let body = json!({"ilink_user_id": user, "typing_ticket": ticket, "status": status});
        self.api.call("sendtyping", body, deadline).map(drop).map_err(|error| {
            if matches!(error.failure, Failure::Refused { .. }) {
                self.tickets.remove(user);
            }
            not_shown(&error)
        })
    }

    /// The reply is there: the sign goes. It would go by itself, a little later.
    fn end_typing(&mut self, user: &str, deadline: Deadline) {
        if self.kind == OutboundKind::Reply
            && self.typing.remove(user)
            && let Err(error) = self.show_typing(user, TYPING_OFF, deadline.within(limits::WEIXIN_TYPING_OFF))
        {
            log::debug!(target: &self.name, "\"typing\" stays on for a while: {error:?}");
        }
    }
}

/// As it is shown; in Markdown if nothing of it would be seen, or if it grew too long.
pub(super) fn rendered(text: &str) -> String {
    let shown = readable(text);
    let fits = !shown.trim().is_empty() && Unit::Utf16.measure(&shown) <= limits::WEIXIN_TEXT_UTF16_MAX;
    if fits { shown } else { plain(text) }
}

/// Parts that fit also as they are shown, as far as that can be had.
pub(super) fn split_rendered(text: &str, limit: usize) -> Vec<String> {
    let mut parts = Vec::new();
    for part in split(text, Unit::Utf16, limit) {
        if Unit::Utf16.measure(&readable(&part)) <= PART_UTF16_SHOWN || limit / 2 < PART_UTF16_MIN {
            parts.push(part);
        } else {
            parts.extend(split_rendered(&part, limit / 2));
        }
    }
    parts
}

/// The same in each attempt at a part.
fn client_id(key: &str) -> String {
    format!("hermes-gateway-{key}")
}

fn left(until: Option<Instant>) -> Option<Duration> {
    until.map(|until| until.saturating_duration_since(clock::now())).filter(|left| !left.is_zero())
}

/// A sign that was not shown is not worth an error of its own kind.
fn not_shown(error: &ApiError) -> SendError {
    if error.is_cancelled() { SendError::Cancelled } else { SendError::Retry { cause: error.to_string(), after: None } }
}

fn store_failed(error: StoreError) -> SendError {
    match error {
        StoreError::Fenced | StoreError::Closed => SendError::Cancelled,
        other => SendError::Retry { cause: other.to_string(), after: None },
    }
}

impl Outlet for WeixinOutlet {
    fn split(&self, text: &str) -> Vec<String> {
        split_rendered(text, PART_UTF16)
    }

    fn announce(&mut self, kind: OutboundKind) {
        self.kind = kind;
    }

    fn send(&mut self, part: &Part<'_>, deadline: Deadline) -> Result<String, SendError> {
        self.may_send()?;
        let text = rendered(part.text);
        if text.trim().is_empty() {
            return Err(SendError::Reject { cause: "there is nothing to be seen in the message".to_owned() });
        }
        let answer = self.deliver(part, &text, deadline.within(limits::WEIXIN_SEND))?;
        (self.frequency, self.quiet_until) = (0, None);
        self.end_typing(&part.chat.chat, deadline);
        let id = answer.get("message_id").filter(|id| id.is_u64()).map(ToString::to_string);
        Ok(id.unwrap_or_else(|| client_id(part.key)))
    }

    fn edit(&mut self, _platform_id: &str, _part: &Part<'_>, _deadline: Deadline) -> Result<(), SendError> {
        Err(SendError::Reject { cause: "WeChat cannot change a message that was sent".to_owned() })
    }

    fn typing(&mut self, chat: &ChatRef, deadline: Deadline) -> Result<(), SendError> {
        if let Some(pause) = self.shared.pause().or_else(|| left(self.quiet_until)).or_else(|| left(self.no_typing_until)) {
            return Err(SendError::Retry { cause: "not now".to_owned(), after: Some(pause) });
        }
        let shown = self.show_typing(&chat.chat, TYPING_ON, deadline.within(limits::WEIXIN_TYPING));
        match &shown {
            Ok(()) => {
                if self.typing.len() >= limits::WEIXIN_TICKETS_MAX {
                    self.typing.clear();
                }
                self.typing.insert(chat.chat.clone());
            }
            Err(error) => {
                log::debug!(target: &self.name, "\"typing\" is not shown: {error:?}");
                self.no_typing_until = Some(clock::now() + limits::WEIXIN_TYPING_PAUSE);
            }
        }
        shown
    }

    fn delete(&mut self, _chat: &ChatRef, _platform_id: &str, _deadline: Deadline) -> Result<(), SendError> {
        Err(SendError::Reject { cause: "WeChat cannot take a message back".to_owned() })
    }
}
