//! The chain: one provider after the other, each with retries.
//!
//! Shared by all turn threads. A [`ChainTurn`] is one turn's view of it. All waiting is [`CancelToken::sleep`] and the
//! calls themselves, so that a cancelled turn comes back at once. This is the one place where a provider's failure is
//! logged, and where it is put into words for a chat.

mod report;

pub use report::ChainError;

use super::error::{Class, ProviderError, seconds};
use super::{Call, Delta, ModelReply, ModelRequest, Provider, estimate_tokens};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::net::NetOptions;
use crate::thread::CancelToken;
use report::rest_after;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How one provider of the chain is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderSettings {
    /// No byte for that long: the call is given up, and counts as failed.
    pub silence: Duration,
    /// Attempts after the first one, before the next provider is asked.
    pub retries: u32,
}

/// What is heard while the chain asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEvent<'a> {
    Delta(Delta<'a>),
    /// News for the one who waits. At most once a turn.
    Notice {
        text: String,
    },
    /// The notice of this turn with newer numbers: to be edited in, not to be sent anew.
    NoticeChanged {
        text: String,
    },
    /// What was heard of the reply so far is void: it begins anew.
    Restarted,
}

struct Link {
    provider: Box<dyn Provider>,
    settings: ProviderSettings,
    /// [`clock::mono_ms`] until which it is passed over, as long as there is another one to ask.
    resting_until_ms: AtomicU64,
    /// Its last call failed for good. Until it answers again it gets one attempt, not all its retries.
    on_probation: AtomicBool,
}

/// The first pause between two attempts, where the provider names none; doubled each time. The vendors' own clients
/// use the same.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// A wait that the one in the chat is told of.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// The configured providers, in order. Shared by all turns.
pub struct Chain {
    links: Vec<Link>,
    backoff: Duration,
}

/// One turn's view of the chain: it remembers what was announced and who answered last.
pub struct ChainTurn<'a> {
    chain: &'a Chain,
    announced: bool,
    /// The provider that answered this turn's last call. It keeps the turn, so that a slow failure is not paid for
    /// in each round.
    preferred: Option<usize>,
}

/// What one call of [`ChainTurn::ask`] carries along.
struct Asking<'a> {
    chain: &'a Chain,
    request: &'a ModelRequest<'a>,
    token: &'a CancelToken,
    net: &'a NetOptions,
    turn_deadline: Deadline,
}

/// How the attempts at one provider ended without a reply.
enum GaveUp {
    /// Ask the next one.
    Next(ProviderError),
    /// No other provider can help.
    Final(ChainError),
}

/// Wraps the caller's ears: remembers what must be taken back, and that a notice was given.
struct Ears<'a, 'b> {
    on: &'a mut dyn FnMut(ChainEvent<'_>),
    /// Something of a reply that did not become one was heard.
    shown: bool,
    announced: &'b mut bool,
}

impl Ears<'_, '_> {
    fn delta(&mut self, delta: Delta<'_>) {
        self.shown |= !matches!(delta, Delta::Alive);
        (self.on)(ChainEvent::Delta(delta));
    }

    fn restart(&mut self) {
        if std::mem::take(&mut self.shown) {
            (self.on)(ChainEvent::Restarted);
        }
    }

    fn notice(&mut self, text: String) {
        let first = !std::mem::replace(self.announced, true);
        (self.on)(if first { ChainEvent::Notice { text } } else { ChainEvent::NoticeChanged { text } });
    }
}

impl Chain {
    /// # Panics
    /// If there is no provider at all; the configuration sees to that.
    #[must_use]
    pub fn new(providers: Vec<(Box<dyn Provider>, ProviderSettings)>) -> Self {
        assert!(!providers.is_empty(), "a chain has at least one provider");
        let link =
            |(provider, settings)| Link { provider, settings, resting_until_ms: AtomicU64::new(0), on_probation: AtomicBool::new(false) };
        Self { links: providers.into_iter().map(link).collect(), backoff: FIRST_BACKOFF }
    }

    /// `anthropic claude-sonnet-4-6`: the first provider, for `status`.
    #[must_use]
    pub fn name(&self) -> String {
        self.links[0].name()
    }

    /// A turn's view, for all calls of one turn.
    #[must_use]
    pub fn turn(&self) -> ChainTurn<'_> {
        ChainTurn { chain: self, announced: false, preferred: None }
    }

    /// One call on its own; turns of several calls use [`Chain::turn`].
    ///
    /// # Errors
    /// [`ChainError`].
    pub fn ask(
        &self,
        request: &ModelRequest<'_>,
        token: &CancelToken,
        net: &NetOptions,
        turn_deadline: Deadline,
        on: &mut dyn FnMut(ChainEvent<'_>),
    ) -> Result<ModelReply, ChainError> {
        self.turn().ask(request, token, net, turn_deadline, on)
    }

    /// Whom to ask, in this order: the preferred one, those that do not rest, and, if all rest, all.
    fn order(&self, preferred: Option<usize>, now_ms: u64) -> Vec<usize> {
        let awake = |place: &usize| self.links[*place].resting_until_ms.load(Ordering::Relaxed) <= now_ms;
        let mut order: Vec<usize> = (0..self.links.len()).filter(awake).collect();
        if order.is_empty() {
            order = (0..self.links.len()).collect();
        }
        if let Some(at) = order.iter().position(|place| Some(*place) == preferred) {
            order[..=at].rotate_right(1);
        }
        order
    }

    /// The pause before the attempt after `failed` attempts: doubled each time, and up to a quarter shorter, so that
    /// turns that failed together do not come back together.
    fn pause(&self, failed: u32) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(limits::PROVIDER_BACKOFF_MAX);
        doubled.mul_f64(1.0 - 0.25 * fastrand::f64())
    }
}

impl Link {
    fn new_failure(&self, error: &ProviderError) {
        let rest_ms = u64::try_from(rest_after(error).as_millis()).unwrap_or(u64::MAX / 2);
        if rest_ms > 0 {
            self.resting_until_ms.store(clock::mono_ms() + rest_ms, Ordering::Relaxed);
        }
        if matches!(error.class(), Class::Retry { .. }) {
            self.on_probation.store(true, Ordering::Relaxed);
        }
    }

    fn answered(&self) {
        self.resting_until_ms.store(0, Ordering::Relaxed);
        self.on_probation.store(false, Ordering::Relaxed);
    }

    fn name(&self) -> String {
        format!("{} {}", self.provider.kind(), self.provider.model())
    }
}

impl ChainTurn<'_> {
    /// Asks the model until there is a reply: with retries, then the next provider.
    ///
    /// # Errors
    /// [`ChainError`]; its text is for the chat, and what the operator needs is in the log.
    pub fn ask(
        &mut self,
        request: &ModelRequest<'_>,
        token: &CancelToken,
        net: &NetOptions,
        turn_deadline: Deadline,
        on: &mut dyn FnMut(ChainEvent<'_>),
    ) -> Result<ModelReply, ChainError> {
        let asking = Asking { chain: self.chain, request, token, net, turn_deadline };
        let order = self.chain.order(self.preferred, clock::mono_ms());
        let mut ears = Ears { on, shown: false, announced: &mut self.announced };
        let mut failures: Vec<(String, ProviderError)> = Vec::new();
        for (turn, place) in order.iter().copied().enumerate() {
            let link = &self.chain.links[place];
            let next = order.get(turn + 1).map(|next| &self.chain.links[*next]);
            match asking.attempts(link, next, &mut ears) {
                Ok(reply) => {
                    link.answered();
                    self.preferred = Some(place);
                    return Ok(reply);
                }
                Err(GaveUp::Final(error)) => return Err(error),
                Err(GaveUp::Next(error)) => {
                    link.new_failure(&error);
                    if let Some(next) = next {
                        ears.restart();
                        log::warn!(target: "provider", "{}: {error}; asking {} instead", link.name(), next.name());
                    }
                    failures.push((link.name(), error));
                }
            }
        }
        Err(ChainError::failed(failures))
    }
}

impl Asking<'_> {
    /// All attempts at one provider. `next`: whom to ask afterwards.
    fn attempts(&self, link: &Link, next: Option<&Link>, ears: &mut Ears<'_, '_>) -> Result<ModelReply, GaveUp> {
        // Where another one can be asked, a provider that failed for good lately is not waited for at length again.
        let short = next.is_some() && link.on_probation.load(Ordering::Relaxed);
        let attempts_max = if short { 1 } else { link.settings.retries.saturating_add(1) };
        let mut attempt = 1;
        loop {
            self.token.check().map_err(|_| GaveUp::Final(ChainError::Cancelled))?;
            let call = Call { token: self.token, net: self.net, silence: link.settings.silence, deadline: self.turn_deadline };
            let error = match link.provider.ask(self.request, &call, &mut |delta| ears.delta(delta)) {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let wait = self.judge(link, &error, attempt)?;
            let last = attempt == attempts_max;
            let Some(wait) = wait.filter(|wait| !last && *wait < self.turn_deadline.remaining()) else {
                if let (ProviderError::Silent { after }, Some(next)) = (&error, next) {
                    let model = next.provider.model();
                    ears.notice(format!("{} Asking {model} instead.", self.no_response(link, *after)));
                }
                return Err(GaveUp::Next(error));
            };
            attempt += 1;
            ears.restart();
            let mut what = error.to_string();
            if let ProviderError::Silent { after } = error {
                what = format!("{} Reconnecting…", self.no_response(link, after));
                ears.notice(format!("{what} trying again ({attempt} of {attempts_max})."));
            } else if wait >= LONG_WAIT {
                let wait = seconds(wait);
                ears.notice(format!("The model provider asks to wait {wait}; then trying again ({attempt} of {attempts_max})."));
            }
            log::warn!(target: "provider", "{}: {what}; attempt {attempt} of {attempts_max} in {}", link.name(), seconds(wait));
            self.token.sleep(wait).map_err(|_| GaveUp::Final(ChainError::Cancelled))?;
        }
    }

    /// How long to wait before the next attempt; `None` if this provider is not worth another one.
    fn judge(&self, link: &Link, error: &ProviderError, failed: u32) -> Result<Option<Duration>, GaveUp> {
        match error.class() {
            _ if self.token.is_cancelled() => Err(GaveUp::Final(ChainError::Cancelled)),
            Class::Cancelled => Err(GaveUp::Final(ChainError::Cancelled)),
            Class::Compact => Err(GaveUp::Final(ChainError::ContextFull { message: error.to_string() })),
            _ if self.turn_deadline.passed() => {
                log::warn!(target: "provider", "{}: {error}; the turn's time is up", link.name());
                Err(GaveUp::Final(ChainError::TurnTimeout))
            }
            Class::Retry { after: Some(after) } if after > limits::PROVIDER_RETRY_AFTER_MAX => Ok(None),
            Class::Retry { after } => Ok(Some(after.unwrap_or_else(|| self.chain.pause(failed)))),
            Class::Reauth | Class::Reject => Ok(None),
        }
    }

    fn no_response(&self, link: &Link, after: Duration) -> String {
        let model = link.provider.model();
        let tokens = estimate_tokens(self.request);
        // Written without a space, as people know it from their logs: "180s".
        let after = seconds(after).replace(' ', "");
        format!("No response from provider for {after} (model: {model}, context: ~{tokens} tokens).")
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
