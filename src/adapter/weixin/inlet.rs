//! Receiving: long polls, one batch at a time. Owns the thread `adapter/NAME`.
//!
//! A poll tells WeChat with its cursor that everything before is safe here (iLink, getupdates), so the cursor moves when
//! the whole batch is committed, in the transaction of its last message, and never earlier.

use super::api::{Api, ApiError, Failure};
use super::protocol::{Taken, understand};
use super::wire::Updates;
use super::{Settings, Shared, download, login_command};
use crate::adapter::{AdapterError, Inlet, Link};
use crate::clock::{self, Deadline};
use crate::core::record::{Op, Outcome};
use crate::core::types::Receipt;
use crate::limits;
use crate::net::{NetError, NetOptions};
use crate::store::StoreError;
use crate::thread::{CancelToken, enter};
use serde_json::json;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between polls that are answered at once although there is nothing.
const EMPTY_PAUSE: Duration = Duration::from_secs(1);

pub(super) struct WeixinInlet {
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    /// Numbers of messages that were handed over, for their receipts.
    handed_over: u64,
    pending: BTreeSet<u64>,
}

/// How far we are, as WeChat counts.
#[derive(Default)]
struct Cursor {
    /// Empty: from now on.
    buf: String,
    /// Whether something is on disk, and since when.
    stored: Option<Instant>,
}

impl Inlet for WeixinInlet {
    fn run(&mut self, link: &Link) -> Result<Infallible, AdapterError> {
        let api = Api::new(&self.settings, &link.net, &link.token);
        self.pending.clear();
        let mut cursor = self.load_cursor(link)?;
        // A poll may be answered only after half a minute; this is answered at once. But if polls were refused, that counts.
        let mut connected = self.ask(&api, link)? && !self.shared.is_troubled();
        if connected {
            link.events.connected(self.settings.identity());
        }
        let mut wait = self.settings.poll_timeout;
        loop {
            let asked = clock::now();
            let Some(updates) = self.poll(&api, link, &cursor, wait)? else {
                // Nobody has answered, which is normal, or nobody is there any more.
                self.ask(&api, link)?;
                continue;
            };
            link.events.heard();
            self.shared.works();
            if !connected {
                connected = true;
                link.events.connected(self.settings.identity());
            }
            wait = held_for(updates.longpolling_timeout_ms).unwrap_or(self.settings.poll_timeout);
            let empty = updates.msgs.is_empty();
            let moved = self.take_batch(&api, link, &mut cursor, updates)?;
            if (empty || !moved) && asked.elapsed() < wait.min(EMPTY_PAUSE) {
                link.token.sleep(EMPTY_PAUSE)?;
            }
        }
    }
}

impl WeixinInlet {
    pub fn new(settings: &Arc<Settings>, shared: &Arc<Shared>) -> Self {
        Self { settings: Arc::clone(settings), shared: Arc::clone(shared), handed_over: 0, pending: BTreeSet::new() }
    }

    /// The cursor belongs to a bot: another one begins anew.
    fn mark(&self) -> &str {
        self.settings.account.bot_id.as_deref().unwrap_or_default()
    }

    fn load_cursor(&self, link: &Link) -> Result<Cursor, AdapterError> {
        let outcome = link.store.call(Op::LoadCursor { adapter: link.name.clone() }, Deadline::after(limits::STORE_CALL));
        let Outcome::Cursor(stored) = outcome.map_err(store_failed)? else {
            return Err(AdapterError::Retry { cause: "the store has no answer about the cursor".to_owned(), after: None });
        };
        let Some(stored) = stored else { return Ok(Cursor::default()) };
        let (mark, buf) = stored.split_once('\t').unwrap_or(("", &stored));
        if !mark.is_empty() && !self.mark().is_empty() && mark != self.mark() {
            log::info!(target: &link.name, "the login is another bot's than before: beginning with what is written from now on");
            return Ok(Cursor::default());
        }
        Ok(Cursor { buf: buf.to_owned(), stored: Some(clock::now()) })
    }

    /// A cursor as it is stored. One of a size that makes no sense is not: what it stands for would come again, and be known.
    fn marked(&self, buf: &str) -> Option<String> {
        (buf.len() <= limits::WEIXIN_CURSOR_BYTES_MAX).then(|| format!("{}\t{buf}", self.mark()))
    }

    /// Asks something that is answered at once. → whether the login is known to be good
    fn ask(&self, api: &Api, link: &Link) -> Result<bool, AdapterError> {
        let deadline = Deadline::after(limits::WEIXIN_CALL);
        let _busy = enter(format_args!("weixin getconfig"), deadline);
        match api.typing_ticket(self.settings.someone(), None, deadline) {
            Ok(_) => {
                link.events.heard();
                self.shared.login_is_good();
                Ok(true)
            }
            // It answers, if not about this user: the poll will tell.
            Err(error) if !matches!(error.failure, Failure::Net(_)) && !error.is_stale() => {
                link.events.heard();
                log::debug!(target: &link.name, "{error}");
                Ok(false)
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// `None`: it was not answered in time.
    fn poll(&self, api: &Api, link: &Link, cursor: &Cursor, wait: Duration) -> Result<Option<Updates>, AdapterError> {
        let deadline = Deadline::after(wait + limits::WEIXIN_POLL_MARGIN);
        let _busy = enter(format_args!("weixin getupdates"), deadline);
        match api.call("getupdates", json!({"get_updates_buf": cursor.buf}), deadline) {
            Ok(answer) => Ok(Some(serde_json::from_value(answer).unwrap_or_default())),
            Err(error) if error.is_silence() => {
                log::debug!(target: &link.name, "{error}; asking again");
                Ok(None)
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Hands a batch over and waits until it is committed. → whether the cursor has moved
    fn take_batch(&mut self, api: &Api, link: &Link, cursor: &mut Cursor, updates: Updates) -> Result<bool, AdapterError> {
        // An empty one means: as before.
        let next = updates.get_updates_buf.filter(|buf| !buf.is_empty() && *buf != cursor.buf);
        let mut batch = Vec::new();
        for message in updates.msgs {
            match understand(message, &link.name, self.settings.account.bot_id.as_deref(), clock::wall_ms()) {
                Ok(taken) => batch.push(taken),
                Err(reason) => log::debug!(target: &link.name, "skipped a message: {reason}"),
            }
        }
        let last = batch.len().checked_sub(1);
        for (number, taken) in batch.into_iter().enumerate() {
            link.token.check()?;
            let stored = next.as_ref().filter(|_| Some(number) == last).and_then(|buf| self.marked(buf));
            if stored.is_some() {
                // The cursor speaks for all of them.
                self.wait_for_receipts(link)?;
            }
            self.hand_over(api, link, taken, stored)?;
        }
        self.wait_for_receipts(link)?;
        let Some(buf) = next else { return Ok(false) };
        let aged = cursor.stored.is_none_or(|stored| stored.elapsed() > limits::WEIXIN_CURSOR_AGE);
        if last.is_none()
            && aged
            && let Some(cursor) = self.marked(&buf)
        {
            // Nothing is lost without it, but the first one says where messages begin, and WeChat may forget an old one.
            let op = Op::Cursor { adapter: link.name.clone(), cursor };
            link.store.call(op, Deadline::after(limits::STORE_CALL)).map_err(store_failed)?;
        }
        if last.is_some() || aged {
            cursor.stored = Some(clock::now());
        }
        cursor.buf = buf;
        Ok(true)
    }

    fn hand_over(&mut self, api: &Api, link: &Link, taken: Taken, cursor: Option<String>) -> Result<(), AdapterError> {
        let Taken { mut inbound, files, memos } = taken;
        download::fetch(api, &self.settings, link, &mut inbound, files)?;
        self.handed_over += 1;
        self.pending.insert(self.handed_over);
        link.events.message(inbound, Receipt { id: self.handed_over, cursor, memos })?;
        for receipt in link.receipts.try_iter() {
            self.pending.remove(&receipt.id);
        }
        Ok(())
    }

    /// Comes back when everything that was handed over is committed.
    fn wait_for_receipts(&mut self, link: &Link) -> Result<(), AdapterError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let deadline = Deadline::after(limits::WEIXIN_RECEIPTS);
        let _busy = enter(format_args!("waiting for {} messages to be committed", self.pending.len()), deadline);
        while !self.pending.is_empty() {
            crossbeam_channel::select! {
                recv(link.receipts) -> receipt => match receipt {
                    Ok(receipt) => drop(self.pending.remove(&receipt.id)),
                    Err(_) => return Err(AdapterError::Cancelled),
                },
                recv(link.token.cancelled()) -> _ => return Err(AdapterError::Cancelled),
                default(deadline.remaining()) => {
                    let (count, seconds) = (self.pending.len(), limits::WEIXIN_RECEIPTS.as_secs());
                    let cause = format!("{count} messages were not stored within {seconds} s; they stay with WeChat and are asked for again");
                    return Err(AdapterError::Retry { cause, after: None });
                }
            }
        }
        Ok(())
    }

    /// Classifies a failed call, once.
    fn failed(&self, error: &ApiError) -> AdapterError {
        let cause = error.to_string();
        match &error.failure {
            Failure::Net(NetError::Cancelled) => AdapterError::Cancelled,
            Failure::Net(NetError::BadUrl(_)) => {
                AdapterError::Fatal { cause, remedy: format!("correct `base_url` in [adapters.{}]", self.settings.name) }
            }
            // Mostly the code has to be scanned again. But a fault of the server's looks the same, so it is tried now and then.
            _ if error.is_stale() => {
                self.shared.login_has_gone();
                AdapterError::Retry { cause: needs_login(&cause, &self.settings.name), after: Some(limits::WEIXIN_GONE) }
            }
            // The network's trouble, not the server's: with the backoff and the jitter of all adapters.
            Failure::Net(_) => AdapterError::Retry { cause, after: None },
            _ if error.is_frequency() => {
                let wait = self.shared.failed().max(limits::WEIXIN_QUIET);
                AdapterError::Retry { cause, after: Some(error.retry_after().unwrap_or(wait)) }
            }
            _ => AdapterError::Retry { cause, after: Some(error.retry_after().unwrap_or_else(|| self.shared.failed())) },
        }
    }
}

/// What the operator reads when the login has ended.
pub(super) fn needs_login(cause: &str, name: &str) -> String {
    format!("needs a new login, WeChat has ended the last one ({cause}); {}", login_command(name))
}

/// How long the next poll is held open, if the server says so.
fn held_for(ms: Option<i64>) -> Option<Duration> {
    let ms = ms.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0)?;
    Some(Duration::from_millis(ms).clamp(limits::WEIXIN_POLL_MIN, limits::WEIXIN_POLL_MAX))
}

/// Asks whether the login is good. Takes no messages and does not disturb a poll.
pub(super) fn check(
    settings: &Arc<Settings>,
    net: &NetOptions,
    token: &CancelToken,
    deadline: Deadline,
) -> Result<Option<String>, AdapterError> {
    let error = match Api::new(settings, net, token).typing_ticket(settings.someone(), None, deadline) {
        Ok(_) => return Ok(Some(settings.identity().to_owned())),
        Err(error) => error,
    };
    let cause = error.to_string();
    Err(match &error.failure {
        Failure::Net(NetError::Cancelled) => AdapterError::Cancelled,
        Failure::Net(NetError::BadUrl(_)) => AdapterError::Fatal { cause, remedy: "correct `base_url`".to_owned() },
        _ if error.is_stale() => {
            AdapterError::Fatal { cause: format!("WeChat has ended the login ({cause})"), remedy: login_command(&settings.name) }
        }
        // It answers, but has nothing to say about this user.
        Failure::Refused { .. } if !error.is_frequency() => return Ok(None),
        _ => AdapterError::Retry { cause, after: error.retry_after() },
    })
}

fn store_failed(error: StoreError) -> AdapterError {
    match error {
        StoreError::Fenced | StoreError::Closed => AdapterError::Cancelled,
        other => AdapterError::Retry { cause: other.to_string(), after: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_word_on_polls_is_kept_within_bounds() {
        let check = |ms: Option<i64>, expect: Option<u64>| assert_eq!(held_for(ms), expect.map(Duration::from_millis), "{ms:?}");
        check(Some(35_000), Some(35_000));
        check(Some(1500), Some(1500));
        check(Some(1), Some(500));
        check(Some(i64::MAX), Some(60_000));
        check(Some(0), None);
        check(Some(-5), None);
        check(None, None);
    }
}
