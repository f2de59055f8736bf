//! The supervisor's protocol, `sd_notify(3)`: datagrams to the socket that `NOTIFY_SOCKET` names.
//!
//! Nothing here ever blocks: a supervisor that does not read loses a message. Without `NOTIFY_SOCKET` nothing is done.
//! Children do not see the variable: their environment holds only what is allowed by name.

pub use super::unit_timeout::stop_timeout;

use crate::config::Environment;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What the supervisor can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice<'a> {
    /// `READY=1`
    Ready,
    /// `STATUS=`: one line for people.
    Status(&'a str),
    /// `STOPPING=1`
    Stopping,
    /// `RELOADING=1`, with the time that systemd requires; ends with the next `Ready`.
    Reloading,
    /// `WATCHDOG=1`
    Watchdog,
    /// `EXTEND_TIMEOUT_USEC=`: starting or stopping takes up to this much longer, counted from now.
    ExtendTimeout(Duration),
}

/// The supervisor, if there is one that wants to be told.
#[derive(Default)]
pub struct Notifier {
    target: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        let target = environment.get("NOTIFY_SOCKET").and_then(|text| match open(text) {
            Ok(target) => Some(target),
            Err(cause) => {
                log::warn!(target: "notify", "NOTIFY_SOCKET cannot be used: {cause}");
                None
            }
        });
        let for_us = environment.get("WATCHDOG_PID").is_none_or(|pid| pid == environment.pid.to_string());
        let watchdog = environment.get("WATCHDOG_USEC").filter(|_| for_us).and_then(|text| text.parse().ok());
        Self { target, watchdog: watchdog.filter(|micros| *micros > 0).map(Duration::from_micros) }
    }

    /// For this process.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::new(&Environment::of_process())
    }

    pub fn ready(&self, status: &str) {
        self.tell(&[Notice::Ready, Notice::Status(status)]);
    }

    pub fn stopping(&self) {
        self.tell(&[Notice::Stopping]);
    }

    pub fn watchdog(&self) {
        self.tell(&[Notice::Watchdog]);
    }

    /// Somebody listens.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.target.is_some()
    }

    /// The time within which the supervisor wants to hear [`Notice::Watchdog`]; half of it is a good interval.
    #[must_use]
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.is_active())
    }

    /// Sends notices in one datagram.
    pub fn tell(&self, notices: &[Notice<'_>]) {
        let Some((socket, address)) = &self.target else { return };
        let text: String = notices.iter().map(|notice| render(*notice)).collect();
        if let Err(cause) = socket.send_to_addr(text.as_bytes(), address) {
            log::debug!(target: "notify", "the supervisor does not take notices: {cause}");
        }
    }
}

fn open(text: &str) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match text.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if text.starts_with('/') => SocketAddr::from_pathname(text)?,
        None => return Err(std::io::Error::other("neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

fn render(notice: Notice<'_>) -> String {
    match notice {
        Notice::Ready => "READY=1\n".to_owned(),
        Notice::Status(text) => format!("STATUS={}\n", text.replace(['\n', '\r'], " ")),
        Notice::Stopping => "STOPPING=1\n".to_owned(),
        Notice::Reloading => format!("RELOADING=1\nMONOTONIC_USEC={}\n", monotonic_usec()),
        Notice::Watchdog => "WATCHDOG=1\n".to_owned(),
        Notice::ExtendTimeout(by) => format!("EXTEND_TIMEOUT_USEC={}\n", by.as_micros()),
    }
}

/// `CLOCK_MONOTONIC` in microseconds: the supervisor compares it with its own reading.
fn monotonic_usec() -> u128 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    // By way of `Duration`: the fields have 32 bits on some ARM boards.
    now.map_or(0, |now| std::time::Duration::from(now).as_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let count = socket.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[test]
    fn notices_reach_paths_and_abstract_names() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let path = scratch.path().join("notify");
        let name = format!("hermes-gateway-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).expect("binds");
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("name")).expect("binds");
        for (socket, text) in [(&by_path, path.to_str().expect("UTF-8").to_owned()), (&by_name, format!("@{name}"))] {
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
            let notifier = Notifier::new(&Environment::default().with("NOTIFY_SOCKET", &text));
            notifier.tell(&[Notice::Ready, Notice::Status("1 of 2\nconnected")]);
            assert_eq!(heard(socket), "READY=1\nSTATUS=1 of 2 connected\n");
            notifier.tell(&[Notice::Stopping, Notice::ExtendTimeout(Duration::from_secs(25))]);
            assert_eq!(heard(socket), "STOPPING=1\nEXTEND_TIMEOUT_USEC=25000000\n");
            notifier.tell(&[Notice::Watchdog]);
            assert_eq!(heard(socket), "WATCHDOG=1\n");
            notifier.tell(&[Notice::Reloading]);
            let reloading = heard(socket);
            let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(str::trim_end);
            assert!(micros.is_some_and(|text| text.parse::<u64>().is_ok_and(|micros| micros > 0)), "{reloading}");
        }
    }

    #[test]
    fn a_supervisor_that_does_not_read_blocks_nobody() {
        let scratch = tempfile::tempdir().expect("scratch directory");
        let path = scratch.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).expect("binds");
        let notifier = Notifier::new(&Environment::default().with("NOTIFY_SOCKET", path.to_str().expect("UTF-8")));
        let started = crate::clock::now();
        for _ in 0..5000 {
            notifier.tell(&[Notice::Watchdog]);
        }
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn no_supervisor_and_watchdogs_of_others() {
        let mut base = Environment::default();
        base.pid = 42;
        let check = |pairs: &[(&str, &str)], active: bool, watchdog_ms: Option<u64>| {
            let environment = pairs.iter().fold(base.clone(), |environment, (name, value)| environment.with(name, value));
            let notifier = Notifier::new(&environment);
            notifier.tell(&[Notice::Ready]);
            assert_eq!((notifier.is_active(), notifier.watchdog_interval()), (active, watchdog_ms.map(Duration::from_millis)), "{pairs:?}");
        };
        check(&[], false, None);
        check(&[("NOTIFY_SOCKET", "relative")], false, None);
        check(&[("NOTIFY_SOCKET", "@x"), ("WATCHDOG_USEC", "30000000")], true, Some(30_000));
        check(&[("NOTIFY_SOCKET", "@x"), ("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "42")], true, Some(30_000));
        check(&[("NOTIFY_SOCKET", "@x"), ("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "7")], true, None);
        check(&[("NOTIFY_SOCKET", "@x"), ("WATCHDOG_USEC", "soon")], true, None);
        check(&[("WATCHDOG_USEC", "30000000")], false, None);
    }
}
