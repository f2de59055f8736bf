//! What can go wrong on the network, classified once.
//!
//! An error names the peer as `host:port` and the phase. It never holds a URL's path or query, nor a header: Telegram's
//! token is part of the path. Readers of bodies get it inside an [`std::io::Error`]; [`NetError::from_io`] takes it out.

use std::io;
use std::time::Duration;

/// The phases of a request, as [`NetError::Timeout`] names them.
pub mod phase {
    pub const RESOLVE: &str = "resolve";
    pub const CONNECT: &str = "connect";
    /// Asking an HTTP proxy for a tunnel.
    pub const PROXY: &str = "proxy";
    pub const TLS: &str = "TLS handshake";
    pub const SEND: &str = "send";
    pub const HEADERS: &str = "headers";
    /// Nothing of the body came for as long as the silence bound allows.
    pub const BODY: &str = "body";
    /// Bytes came, but the deadline of the whole request has passed.
    pub const TOTAL: &str = "total";
}

/// Where a request went wrong, classified once.
#[derive(Debug)]
pub enum NetError {
    Cancelled,
    /// Which phase ran out of time, one of [`phase`].
    Timeout {
        phase: &'static str,
        peer: String,
        after: Duration,
    },
    Resolve {
        host: String,
        cause: String,
    },
    Connect {
        peer: String,
        cause: io::Error,
    },
    Tls {
        peer: String,
        cause: String,
    },
    /// The connection broke in the middle; `sent`: the request had gone out completely, so it may have been acted upon.
    Broken {
        peer: String,
        cause: String,
        sent: bool,
    },
    /// What came back is not HTTP, or more than the limit.
    Protocol {
        peer: String,
        cause: String,
    },
    /// The address in the configuration cannot be used.
    BadUrl(String),
}

impl NetError {
    /// Whether the request may have reached the server completely, so that it was possibly acted upon. If `false`,
    /// sending it again cannot do anything twice. After a cancel it is not known, which counts as yes.
    #[must_use]
    pub fn request_sent(&self) -> bool {
        match self {
            Self::Cancelled | Self::Protocol { .. } => true,
            Self::Timeout { phase, .. } => is_sent(phase),
            Self::Broken { sent, .. } => *sent,
            Self::Resolve { .. } | Self::Connect { .. } | Self::Tls { .. } | Self::BadUrl(_) => false,
        }
    }

    /// The error that a reader or writer of this module put into an [`io::Error`].
    #[must_use]
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// Like [`NetError::from_io`], by value. An error from elsewhere becomes [`NetError::Broken`].
    #[must_use]
    pub fn take_from_io(error: io::Error, peer: &str) -> Self {
        match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(other) => Self::Broken { peer: peer.to_owned(), cause: other.to_string(), sent: true },
        }
    }
}

/// Whether a request is out completely in this phase.
pub(super) fn is_sent(of: &str) -> bool {
    [phase::HEADERS, phase::BODY, phase::TOTAL].contains(&of)
}

impl std::fmt::Display for NetError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cancelled => f.write_str("cancelled"),
            Self::Timeout { phase, peer, after } => {
                let what = match *phase {
                    phase::RESOLVE => "the name look-up did not end",
                    phase::CONNECT => "no connection",
                    phase::PROXY => "the proxy did not answer",
                    phase::TLS => "the TLS handshake did not end",
                    phase::SEND => "the request was not taken",
                    phase::HEADERS => "no answer",
                    phase::BODY => "nothing more of the answer came",
                    _ => "the answer did not end",
                };
                write!(f, "{peer}: {what} within {}", Span(*after))
            }
            Self::Resolve { host, cause } => write!(f, "cannot look up {host}: {cause}"),
            Self::Connect { peer, cause } => write!(f, "cannot connect to {peer}: {cause}"),
            Self::Tls { peer, cause } => write!(f, "{peer}: TLS: {cause}"),
            Self::Broken { peer, cause, sent: true } => write!(f, "{peer}: {cause}"),
            Self::Broken { peer, cause, sent: false } => write!(f, "{peer}: {cause} (before the request was sent)"),
            Self::Protocol { peer, cause } => write!(f, "{peer}: {cause}"),
            Self::BadUrl(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for NetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl From<NetError> for io::Error {
    fn from(error: NetError) -> Self {
        let kind = match &error {
            // Not `Interrupted`: the standard library would try again.
            NetError::Cancelled => io::ErrorKind::ConnectionAborted,
            NetError::Timeout { .. } => io::ErrorKind::TimedOut,
            NetError::Broken { .. } => io::ErrorKind::ConnectionReset,
            NetError::Protocol { .. } | NetError::Tls { .. } => io::ErrorKind::InvalidData,
            NetError::BadUrl(_) => io::ErrorKind::InvalidInput,
            NetError::Resolve { .. } => io::ErrorKind::NotFound,
            NetError::Connect { cause, .. } => cause.kind(),
        };
        Self::new(kind, error)
    }
}

impl From<crate::thread::Cancelled> for NetError {
    fn from(_: crate::thread::Cancelled) -> Self {
        Self::Cancelled
    }
}

/// A time span for people: `850 ms`, `10 s`.
struct Span(Duration);

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.0.as_millis();
        if ms < 1000 { write!(f, "{ms} ms") } else { write!(f, "{} s", (ms + 500) / 1000) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_where_and_what() {
        let peer = || "api.example.org:443".to_owned();
        let check = |error: NetError, text: &str, sent: bool| {
            assert_eq!(error.to_string(), text);
            assert_eq!(error.request_sent(), sent, "{text}");
            let wrapped = io::Error::from(error);
            assert_eq!(NetError::from_io(&wrapped).map(ToString::to_string).as_deref(), Some(text));
            assert_eq!(NetError::take_from_io(wrapped, "x").to_string(), text);
        };
        check(NetError::Cancelled, "cancelled", true);
        check(
            NetError::Timeout { phase: phase::TLS, peer: peer(), after: Duration::from_secs(10) },
            "api.example.org:443: the TLS handshake did not end within 10 s",
            false,
        );
        check(
            NetError::Timeout { phase: phase::HEADERS, peer: peer(), after: Duration::from_millis(300) },
            "api.example.org:443: no answer within 300 ms",
            true,
        );
        check(
            NetError::Broken { peer: peer(), cause: "connection reset".into(), sent: false },
            "api.example.org:443: connection reset (before the request was sent)",
            false,
        );
        check(
            NetError::Resolve { host: "x.invalid".into(), cause: "no such name".into() },
            "cannot look up x.invalid: no such name",
            false,
        );
    }
}
