//! What a chat is told when no provider could answer, and how long a provider then rests.
//!
//! Pure but for the one line that it writes to the log for the operator.

use super::super::error::{Class, ProviderError, seconds};
use crate::limits;
use crate::net::NetError;
use std::fmt;
use std::time::Duration;

/// Why a turn has no reply. The text is for the one in the chat.
#[derive(Debug)]
pub enum ChainError {
    Cancelled,
    /// To be compacted and asked again; with the provider's words.
    ContextFull {
        message: String,
    },
    /// The turn's time was up before there was a reply.
    TurnTimeout,
    /// Every provider failed.
    Failed(Box<Failure>),
}

/// What every provider said, and the id under which it is in the log.
#[derive(Debug)]
pub struct Failure {
    pub id: String,
    /// `anthropic claude-sonnet-4-6` and what went wrong, in the order in which they were asked. Never empty.
    pub failures: Vec<(String, ProviderError)>,
}

impl ChainError {
    /// Logs the failures under a new id.
    pub(super) fn failed(failures: Vec<(String, ProviderError)>) -> Self {
        let id: String = std::iter::repeat_with(|| fastrand::char('a'..='z')).take(6).collect();
        let all: Vec<String> = failures.iter().map(|(name, error)| format!("{name}: {error}")).collect();
        log::error!(target: "provider", "{id}: no reply; {}", all.join("; "));
        Self::Failed(Box::new(Failure { id, failures }))
    }
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("Cancelled."),
            Self::ContextFull { .. } => f.write_str("This conversation has become too long for the model. /new starts a fresh one."),
            Self::TurnTimeout => {
                f.write_str("The time for this turn was up before the model had answered. Send it again, or ask for less at once.")
            }
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl std::error::Error for ChainError {}

impl fmt::Display for Failure {
    /// The first provider is the one that people mean; its failure is the one that is told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((name, error)) = self.failures.first() else { return f.write_str("The model provider did not answer.") };
        write!(f, "{} (logged as {})", advice(name, error), self.id)?;
        match self.failures.len() - 1 {
            0 => f.write_str("."),
            1 => f.write_str(". The fallback provider failed too."),
            others => write!(f, ". The {others} fallback providers failed too."),
        }
    }
}

/// What happened and who can do what, without the last full stop.
fn advice(name: &str, error: &ProviderError) -> String {
    const LATER: &str = "Try again in a few minutes";
    match error {
        ProviderError::Auth { status, .. } => {
            format!("The model provider rejected the key ({status}). The operator has to set a valid api key")
        }
        ProviderError::Billing { .. } => "The credit or quota at the model provider is used up. The operator has to top it up".to_owned(),
        ProviderError::RateLimited { after: Some(after), .. } => {
            format!("The model provider limits requests and asks to wait {}. Try again then", minutes(*after))
        }
        ProviderError::RateLimited { after: None, .. } => format!("The model provider limits requests. {LATER}"),
        ProviderError::Overloaded { .. } => format!("The model provider is overloaded. {LATER}"),
        ProviderError::Server { status, .. } => format!("The model provider has trouble of its own ({status}). {LATER}"),
        ProviderError::Silent { after } => format!("The model provider did not respond for {}. {LATER}", seconds(*after)),
        ProviderError::Truncated => format!("The model's answer broke off. {LATER}"),
        ProviderError::Net(NetError::BadUrl(_)) => {
            "The address of the model provider cannot be used. The operator has to correct base_url".to_owned()
        }
        ProviderError::Net(_) => {
            format!("The model provider cannot be reached. {LATER}; if it stays so, the operator has to look at the network")
        }
        ProviderError::Rejected { status: 404, .. } => {
            format!(
                "The model provider does not know the model or the address it was asked at (404; {name}). The operator has to correct model or base_url"
            )
        }
        ProviderError::Rejected { status, message } => {
            let colon = if message.is_empty() { "" } else { ": " };
            format!(
                "The model provider rejected the request ({status}){colon}{message}. If it does so again, /new starts a fresh conversation"
            )
        }
        ProviderError::Protocol { .. } => {
            format!("The model provider's answer made no sense. {LATER}; if it stays so, the operator has to check base_url")
        }
        // These never end a chain as its failure.
        ProviderError::Cancelled | ProviderError::Deadline | ProviderError::ContextFull { .. } => {
            format!("The model did not answer: {error}")
        }
    }
}

fn minutes(wait: Duration) -> String {
    if wait < Duration::from_secs(120) { seconds(wait) } else { format!("{} min", wait.as_secs().div_ceil(60)) }
}

/// How long a provider is passed over after this.
pub(super) fn rest_after(error: &ProviderError) -> Duration {
    match error.class() {
        // The next request may well be one that it takes.
        Class::Reject | Class::Compact | Class::Cancelled => Duration::ZERO,
        Class::Retry { after: Some(after) } => after.clamp(limits::PROVIDER_REST, limits::PROVIDER_REST_MAX),
        Class::Retry { after: None } | Class::Reauth => limits::PROVIDER_REST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_is_told_what_happened_and_who_can_do_what() {
        let check = |error: ProviderError, expect: &str| {
            let failure = Failure { id: "abcdef".into(), failures: vec![("openai gpt".into(), error)] };
            assert_eq!(failure.to_string(), expect);
        };
        let message = || "words".to_owned();
        let seconds = Duration::from_secs;
        check(
            ProviderError::Auth { status: 401, message: message() },
            "The model provider rejected the key (401). The operator has to set a valid api key (logged as abcdef).",
        );
        check(
            ProviderError::Billing { message: message() },
            "The credit or quota at the model provider is used up. The operator has to top it up (logged as abcdef).",
        );
        check(
            ProviderError::RateLimited { after: Some(seconds(290)), message: message() },
            "The model provider limits requests and asks to wait 5 min. Try again then (logged as abcdef).",
        );
        check(
            ProviderError::Silent { after: seconds(180) },
            "The model provider did not respond for 180 s. Try again in a few minutes (logged as abcdef).",
        );
        check(
            ProviderError::Rejected { status: 400, message: message() },
            "The model provider rejected the request (400): words. If it does so again, /new starts a fresh conversation (logged as abcdef).",
        );
        check(
            ProviderError::Rejected { status: 404, message: message() },
            "The model provider does not know the model or the address it was asked at (404; openai gpt). \
             The operator has to correct model or base_url (logged as abcdef).",
        );
        let three = [ProviderError::Truncated, ProviderError::Truncated, ProviderError::Truncated];
        let failures = three.into_iter().map(|error| ("x".to_owned(), error)).collect();
        let failure = Failure { id: "abcdef".into(), failures };
        assert!(failure.to_string().ends_with("(logged as abcdef). The 2 fallback providers failed too."));
    }

    #[test]
    fn rests_are_bounded() {
        let limited = |after| ProviderError::RateLimited { after: Some(Duration::from_secs(after)), message: String::new() };
        let check = |error: ProviderError, seconds: u64| assert_eq!(rest_after(&error).as_secs(), seconds, "{error}");
        check(ProviderError::Auth { status: 401, message: String::new() }, 60);
        check(ProviderError::Billing { message: String::new() }, 60);
        check(ProviderError::Silent { after: Duration::from_secs(180) }, 60);
        check(limited(5), 60);
        check(limited(300), 300);
        check(limited(86_400), 600);
        check(ProviderError::Rejected { status: 400, message: String::new() }, 0);
    }
}
