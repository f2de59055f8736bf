//! What can go wrong when the model is asked, and what to do about each.
//!
//! Pure. The texts end up in the log; they hold no secret and never more than a line of the provider's own words.

use crate::limits;
use crate::net::NetError;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Why there is no reply. [`ProviderError::class`] says what to do.
#[derive(Debug)]
pub enum ProviderError {
    Cancelled,
    /// Nothing was heard for that long.
    Silent {
        after: Duration,
    },
    /// The call's deadline passed although bytes came.
    Deadline,
    Net(NetError),
    /// The stream ended before its terminator.
    Truncated,
    /// 429, with the time the provider asked for.
    RateLimited {
        after: Option<Duration>,
        message: String,
    },
    /// 529, 503, `overloaded_error`.
    Overloaded {
        after: Option<Duration>,
        message: String,
    },
    /// Other 5xx, 408, 409, or an error event in the stream.
    Server {
        status: u16,
        after: Option<Duration>,
        message: String,
    },
    /// 401, 403: the key.
    Auth {
        status: u16,
        message: String,
    },
    /// Billing: credit or quota is used up.
    Billing {
        message: String,
    },
    /// The transcript is longer than the model takes.
    ContextFull {
        message: String,
    },
    /// 400, 404, 413, 422: the same request would fail again.
    Rejected {
        status: u16,
        message: String,
    },
    /// What came is not what the protocol says.
    Protocol {
        message: String,
    },
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Cancelled,
    /// Try again, after this long if the provider said so.
    Retry {
        after: Option<Duration>,
    },
    /// The key or the account must be mended; another provider may do.
    Reauth,
    /// Compact the transcript and try again.
    Compact,
    /// The same request fails again; another provider may do.
    Reject,
}

impl ProviderError {
    /// What to do about it. The only place where errors are classed.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Cancelled | Self::Net(NetError::Cancelled) => Class::Cancelled,
            // A broken stream, a wrong byte or a slow answer is of that one call.
            Self::Silent { .. } | Self::Deadline | Self::Truncated | Self::Protocol { .. } => Class::Retry { after: None },
            Self::Net(NetError::BadUrl(_)) | Self::Rejected { .. } => Class::Reject,
            Self::Net(_) => Class::Retry { after: None },
            Self::RateLimited { after, .. } | Self::Overloaded { after, .. } | Self::Server { after, .. } => Class::Retry { after: *after },
            Self::Auth { .. } | Self::Billing { .. } => Class::Reauth,
            Self::ContextFull { .. } => Class::Compact,
        }
    }
}

impl ProviderError {
    /// The same with `secret` masked in the provider's words.
    pub(super) fn without(mut self, secret: &str) -> Self {
        if let Self::RateLimited { message, .. }
        | Self::Overloaded { message, .. }
        | Self::Server { message, .. }
        | Self::Auth { message, .. }
        | Self::Billing { message }
        | Self::ContextFull { message }
        | Self::Rejected { message, .. }
        | Self::Protocol { message } = &mut self
            && !secret.is_empty()
            && message.contains(secret)
        {
            *message = message.replace(secret, "***");
        }
        self
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::Silent { after } => write!(f, "no response for {}", seconds(*after)),
            Self::Deadline => f.write_str("the answer was not complete by the end of the turn's time"),
            Self::Net(error) => f.write_str(&one_line(&error.to_string())),
            Self::Truncated => f.write_str("the answer broke off before its end"),
            Self::RateLimited { after, message } => write_refusal(f, "rate limited", *after, message),
            Self::Overloaded { after, message } => write_refusal(f, "overloaded", *after, message),
            Self::Server { status, after, message } => write_refusal(f, &format!("server error {status}"), *after, message),
            Self::Auth { status, message } => write_refusal(f, &format!("key not accepted ({status})"), None, message),
            Self::Billing { message } => write_refusal(f, "credit or quota used up", None, message),
            Self::ContextFull { message } => write_refusal(f, "transcript too long for the model", None, message),
            Self::Rejected { status, message } => write_refusal(f, &format!("request rejected ({status})"), None, message),
            Self::Protocol { message } => write_refusal(f, "unintelligible answer", None, message),
        }
    }
}

impl std::error::Error for ProviderError {}

fn write_refusal(f: &mut fmt::Formatter<'_>, what: &str, after: Option<Duration>, message: &str) -> fmt::Result {
    f.write_str(what)?;
    if let Some(after) = after {
        write!(f, ", retry after {}", seconds(after))?;
    }
    if !message.is_empty() {
        write!(f, ": {}", one_line(message))?;
    }
    Ok(())
}

/// `90 s`, `1.5 s`: for messages.
pub(super) fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 || duration.as_secs() >= 10 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// A provider's own words, fit for a log line: white space and control characters become single spaces, what looks
/// like a key is masked, and the rest is cut after [`limits::ERROR_TEXT_CHARS_MAX`] characters.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut length = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        let word = mask(word);
        for c in (length > 0).then_some(' ').into_iter().chain(word.chars()) {
            if length == limits::ERROR_TEXT_CHARS_MAX {
                line.push('…');
                return line;
            }
            line.push(c);
            length += 1;
        }
    }
    line
}

/// Masks a word that has a provider's key in it. Providers quote the key that they refuse, some of them whole.
fn mask(word: &str) -> Cow<'_, str> {
    let begins = |at: usize| !word[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
    match word.match_indices("sk-").map(|(at, _)| at).find(|at| begins(*at)) {
        Some(at) if word.len() - at > 12 => format!("{}sk-***", &word[..at]).into(),
        _ => word.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_provider_become_one_short_line() {
        let check = |input: &str, expect: &str| assert_eq!(one_line(input), expect);
        check("", "");
        check("  a\n\tb\u{0}c\r\n", "a b c");
        check("Incorrect API key provided: sk-proj-0123456789abcdef.", "Incorrect API key provided: sk-***");
        check("\"sk-ant-api03-0123456789\"", "\"sk-***");
        check("a risk-assessment-of-0123456789", "a risk-assessment-of-0123456789");
        check("task-0123456789abc(sk-0123456789abc)", "task-0123456789abc(sk-***");
        check(&"ä".repeat(299), &"ä".repeat(299));
        check(&"ä".repeat(300), &"ä".repeat(300));
        check(&"ä".repeat(301), &format!("{}…", "ä".repeat(300)));
    }

    #[test]
    fn each_error_has_its_class_and_a_line() {
        let after = Some(Duration::from_secs(7));
        let message = || "m".to_owned();
        let table = [
            (ProviderError::Cancelled, Class::Cancelled, "cancelled"),
            (ProviderError::Silent { after: Duration::from_secs(180) }, Class::Retry { after: None }, "no response for 180 s"),
            (ProviderError::Deadline, Class::Retry { after: None }, "the answer was not complete by the end of the turn's time"),
            (ProviderError::Truncated, Class::Retry { after: None }, "the answer broke off before its end"),
            (ProviderError::RateLimited { after, message: message() }, Class::Retry { after }, "rate limited, retry after 7 s: m"),
            (ProviderError::Overloaded { after: None, message: message() }, Class::Retry { after: None }, "overloaded: m"),
            (
                ProviderError::Server { status: 500, after, message: String::new() },
                Class::Retry { after },
                "server error 500, retry after 7 s",
            ),
            (ProviderError::Auth { status: 401, message: message() }, Class::Reauth, "key not accepted (401): m"),
            (ProviderError::Billing { message: message() }, Class::Reauth, "credit or quota used up: m"),
            (ProviderError::ContextFull { message: message() }, Class::Compact, "transcript too long for the model: m"),
            (ProviderError::Rejected { status: 404, message: message() }, Class::Reject, "request rejected (404): m"),
            (ProviderError::Protocol { message: message() }, Class::Retry { after: None }, "unintelligible answer: m"),
            (ProviderError::Net(NetError::Cancelled), Class::Cancelled, "cancelled"),
            (
                ProviderError::Net(NetError::Broken { peer: "host:443".to_owned(), cause: "reset\nby peer".to_owned(), sent: true }),
                Class::Retry { after: None },
                "host:443: reset by peer",
            ),
            (ProviderError::Net(NetError::BadUrl("no host".to_owned())), Class::Reject, "no host"),
        ];
        for (error, class, text) in table {
            assert_eq!((error.class(), error.to_string().as_str()), (class, text), "{error:?}");
        }
    }
}
