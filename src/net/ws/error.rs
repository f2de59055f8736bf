//! What can go wrong on a WebSocket, classified once.

use crate::net::NetError;
use crate::thread::Cancelled;
use std::time::Duration;
use tungstenite::error::{CapacityError, Error as FrameError, ProtocolError};

/// Codes of CLOSE frames, RFC 6455 section 7.4. Platforms define their own from 4000 on.
pub mod close_code {
    pub const NORMAL: u16 = 1000;
    pub const GOING_AWAY: u16 = 1001;
    pub const PROTOCOL: u16 = 1002;
    /// Stands for a CLOSE frame that had no code. Never sent.
    pub const NONE: u16 = 1005;
    /// A text that is not UTF-8.
    pub const INVALID: u16 = 1007;
    pub const POLICY: u16 = 1008;
    pub const TOO_LARGE: u16 = 1009;
    pub const SERVER_ERROR: u16 = 1011;
    pub const RESTART: u16 = 1012;
    pub const TRY_AGAIN_LATER: u16 = 1013;
}

/// The server's answer to the request for a WebSocket, when it was not "yes".
#[derive(Debug, Clone)]
pub struct Refusal {
    /// `host:port`.
    pub peer: String,
    pub status: u16,
    /// What the server asked for, see [`retry_after`](crate::net::retry_after).
    pub retry_after: Option<Duration>,
    pub headers: Vec<(String, String)>,
    /// As much of it as came in time, cut at [`limits::WEBSOCKET_REFUSAL_BYTES_MAX`](crate::limits). Not for logs as it is.
    pub body: String,
}

/// Why a call did not do what it should. After each of these but [`WsError::TooLarge`] and a time-out, the connection
/// is over.
#[derive(Debug)]
pub enum WsError {
    /// Cancelled, out of time, or the connection did not come about or broke. A connection that ended without a CLOSE
    /// frame is [`NetError::Broken`].
    Net(NetError),
    /// The server answered with something else than a WebSocket.
    Refused(Box<Refusal>),
    /// The server sent what RFC 6455 does not allow, or more than the limit. It was told so with a CLOSE frame of
    /// `code` (one of [`close_code`]).
    Protocol { peer: String, cause: String, code: u16 },
    /// The message to be sent is longer than can be; nothing was sent. The connection is as it was.
    TooLarge { bytes: usize, bytes_max: usize },
    /// The connection had ended before: an earlier call said why.
    Ended { peer: String },
}

impl WsError {
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Net(NetError::Cancelled))
    }

    /// Whether a later attempt with the same address and credentials can work. If not, the operator has to act.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Net(error) => !matches!(error, NetError::BadUrl(_) | NetError::Cancelled),
            Self::Refused(refusal) => matches!(refusal.status, 408 | 425 | 429 | 500..),
            Self::Protocol { .. } | Self::Ended { .. } => true,
            Self::TooLarge { .. } => false,
        }
    }

    /// How long the server asked to wait before the next attempt to connect.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Whether a message may have arrived although sending it failed with this error.
    #[must_use]
    pub fn maybe_sent(&self) -> bool {
        match self {
            Self::Net(error) => error.request_sent(),
            Self::Refused(_) | Self::Protocol { .. } | Self::TooLarge { .. } | Self::Ended { .. } => false,
        }
    }
}

impl std::fmt::Display for WsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Net(error) => error.fmt(f),
            Self::Refused(refusal) => match refusal.status {
                status @ 300..400 => write!(f, "{}: points elsewhere instead of opening a WebSocket (HTTP {status})", refusal.peer),
                status => write!(f, "{}: refuses the WebSocket (HTTP {status})", refusal.peer),
            },
            Self::Protocol { peer, cause, code } => write!(f, "{peer}: {cause} (close code {code})"),
            Self::TooLarge { bytes, bytes_max } => write!(f, "the message has {bytes} bytes, of which {bytes_max} can be sent at once"),
            Self::Ended { peer } => write!(f, "{peer}: the connection has ended"),
        }
    }
}

impl std::error::Error for WsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Net(error) => Some(error),
            _ => None,
        }
    }
}

impl From<NetError> for WsError {
    fn from(error: NetError) -> Self {
        Self::Net(error)
    }
}

impl From<Cancelled> for WsError {
    fn from(_: Cancelled) -> Self {
        Self::Net(NetError::Cancelled)
    }
}

/// What an error of the codec means. Those that are only about waiting have been dealt with before.
pub(super) fn classify(error: FrameError, peer: &str) -> WsError {
    let peer = peer.to_owned();
    let broke = |cause: &str| WsError::Protocol { peer: peer.clone(), cause: cause.to_owned(), code: close_code::PROTOCOL };
    match error {
        FrameError::Io(error) => WsError::Net(NetError::take_from_io(error, &peer)),
        FrameError::ConnectionClosed | FrameError::AlreadyClosed | FrameError::Protocol(ProtocolError::SendAfterClosing) => {
            WsError::Ended { peer }
        }
        FrameError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            let cause = "the server ended the connection without saying why".to_owned();
            WsError::Net(NetError::Broken { peer, cause, sent: true })
        }
        FrameError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            let cause = format!("a message of {size} bytes or more, with a limit of {max_size}");
            WsError::Protocol { peer, cause, code: close_code::TOO_LARGE }
        }
        FrameError::Utf8(_) => WsError::Protocol { peer, cause: "a text that is not UTF-8".to_owned(), code: close_code::INVALID },
        FrameError::Protocol(ProtocolError::ReceivedAfterClosing) => broke("sent frames after its CLOSE"),
        FrameError::Protocol(ProtocolError::NonZeroReservedBits) => broke("a frame with reserved bits set"),
        FrameError::Protocol(ProtocolError::MaskedFrameFromServer) => broke("a masked frame"),
        FrameError::Protocol(ProtocolError::FragmentedControlFrame) => broke("a fragmented control frame"),
        FrameError::Protocol(ProtocolError::ControlFrameTooBig) => broke("a control frame of more than 125 bytes"),
        FrameError::Protocol(ProtocolError::UnexpectedContinueFrame) => broke("a continuation of nothing"),
        FrameError::Protocol(ProtocolError::ExpectedFragment(_)) => broke("a new message within another"),
        FrameError::Protocol(ProtocolError::InvalidCloseSequence) => broke("a CLOSE frame that is not valid"),
        FrameError::Protocol(ProtocolError::InvalidOpcode(opcode)) => broke(&format!("a frame of the unknown kind {opcode}")),
        other => broke(&format!("not a WebSocket: {other}")),
    }
}
