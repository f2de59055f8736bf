//! Connections: look-up, TCP, the proxy's tunnel, TLS. Each phase has its bound, and a cancel ends each at once.
//!
//! Sockets never block and are attached to the cancel token before they begin to connect. Several addresses of a name
//! are tried beside each other, a quarter of a second apart (RFC 8305), so that a dead one costs little.

use super::error::{NetError, phase};
use super::proxy::{Proxies, Proxy};
use super::stream::{Socket, Stream, plain_words, poll};
use super::url::Target;
use super::{NetOptions, http, resolve, tls};
use crate::clock::{self, Deadline};
use crate::limits;
use crate::thread::{self, Attached, CancelToken, Cut};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::Duration;

/// Opens a connection to `target`, with TLS if it says so, through the proxy that the environment names. `what` says
/// what for, in the thread's pulse. The stream stays attached to `token` as long as it lives.
///
/// # Errors
/// [`NetError`]; nothing was sent to `target` then.
pub fn connect(what: &str, target: &Target, options: &NetOptions, token: &CancelToken, deadline: Deadline) -> Result<Stream, NetError> {
    let proxies = Proxies::from_environment();
    let proxy = proxies.route(target)?;
    Dial { what, target, proxy, tunnel: true, options, token, deadline }.open()
}

/// One connection to be made.
pub(super) struct Dial<'a> {
    pub(super) what: &'a str,
    pub(super) target: &'a Target,
    pub(super) proxy: Option<&'a Proxy>,
    /// Through the proxy with CONNECT; otherwise the stream ends at the proxy.
    pub(super) tunnel: bool,
    pub(super) options: &'a NetOptions,
    pub(super) token: &'a CancelToken,
    pub(super) deadline: Deadline,
}

impl Dial<'_> {
    pub(super) fn open(&self) -> Result<Stream, NetError> {
        self.token.check()?;
        let first = self.proxy.map_or(self.target, |proxy| &proxy.target);
        let addresses = {
            let _busy = self.enter("looking up the name", self.deadline.within(limits::RESOLVE));
            resolve::resolve(&first.host, self.deadline, self.token)?
        };
        let peer = match self.proxy {
            Some(proxy) => format!("{} (through the proxy {})", self.target, proxy.target),
            None => self.target.to_string(),
        };
        let (socket, attached) = {
            let until = self.deadline.within(limits::CONNECT);
            let _busy = self.enter("connecting", until);
            open_socket(&peer, &ordered(&addresses, first.port), until, self.token)?
        };
        let mut stream = Stream::new(socket, attached, self.token, peer, self.deadline);
        if let Some(proxy) = self.proxy.filter(|_| self.tunnel) {
            self.open_tunnel(&mut stream, proxy)?;
        }
        if self.target.tls {
            let until = self.deadline.within(limits::TLS_HANDSHAKE);
            let _busy = self.enter("TLS handshake", until);
            stream.set_deadline(phase::TLS, until);
            stream.start_tls(tls::client(&self.target.host, stream.peer(), self.options.tls_ca_file.as_deref())?)?;
        }
        Ok(stream)
    }

    /// Asks an HTTP proxy for a tunnel to the target, RFC 9110 section 9.3.6.
    fn open_tunnel(&self, stream: &mut Stream, proxy: &Proxy) -> Result<(), NetError> {
        let until = self.deadline.within(limits::CONNECT);
        let _busy = self.enter("asking the proxy", until);
        stream.set_deadline(phase::PROXY, until);
        let mut request = format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n", self.target);
        if let Some(authorization) = &proxy.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        let peer = self.target.to_string();
        let refused = |text: String| NetError::Connect { peer: peer.clone(), cause: io::Error::other(text) };
        stream.write_all(request.as_bytes()).map_err(|error| NetError::take_from_io(error, &peer))?;
        let mut buffer = Vec::new();
        let head = http::read_head(stream, &mut buffer).map_err(|error| match error {
            NetError::Broken { cause, .. } | NetError::Protocol { cause, .. } => refused(format!("the proxy {}: {cause}", proxy.target)),
            other => other,
        })?;
        match head.status {
            200..300 if buffer.is_empty() => Ok(()),
            200..300 => Err(refused(format!("the proxy {} sent more than an answer", proxy.target))),
            407 => Err(refused(format!(
                "the proxy {} wants other credentials (HTTP 407); put them into the proxy variable as http://user:password@host:port",
                proxy.target
            ))),
            status => Err(refused(format!("the proxy {} answered HTTP {status}", proxy.target))),
        }
    }

    fn enter(&self, doing: &str, until: Deadline) -> thread::Busy {
        enter(format_args!("{} {}: {doing}", self.what, self.target), until)
    }
}

/// Notes what this thread does in its pulse. A call that ends by itself at its deadline must not count as overdue.
pub(super) fn enter(what: std::fmt::Arguments<'_>, until: Deadline) -> thread::Busy {
    thread::enter(what, Deadline::after(until.remaining() + limits::NET_GRACE))
}

/// The addresses in the order in which to try them: as the system sorted them, but families take turns.
fn ordered(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (mut first, mut second): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().copied().partition(|address: &IpAddr| address.is_ipv6() == first_is_v6);
    first.reverse();
    second.reverse();
    let mut order = Vec::new();
    while order.len() < limits::ADDRESSES_MAX {
        let before = order.len();
        order.extend(first.pop().into_iter().chain(second.pop()).map(|address| SocketAddr::new(address, port)));
        if order.len() == before {
            break;
        }
    }
    order.truncate(limits::ADDRESSES_MAX);
    order
}

/// A connect that has begun.
struct Attempt {
    socket: Arc<Socket>,
    attached: Attached,
    address: SocketAddr,
}

fn open_socket(peer: &str, addresses: &[SocketAddr], until: Deadline, token: &CancelToken) -> Result<(Arc<Socket>, Attached), NetError> {
    let started = clock::now();
    let mut waiting = addresses.iter();
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut last_error = (None, io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    let mut next_start = Deadline::after(Duration::ZERO);
    loop {
        token.check()?;
        if until.passed() {
            return Err(NetError::Timeout { phase: phase::CONNECT, peer: peer.to_owned(), after: started.elapsed() });
        }
        if attempts.is_empty() || next_start.passed() {
            if let Some(address) = waiting.next() {
                match begin(*address, token) {
                    Ok(attempt) => attempts.push(attempt),
                    Err(error) => last_error = (Some(*address), error),
                }
                next_start = Deadline::after(limits::CONNECT_STAGGER);
            } else if attempts.is_empty() {
                return Err(NetError::Connect { peer: peer.to_owned(), cause: name_address(last_error) });
            }
        }
        token.check()?;
        let wake = if waiting.len() > 0 { until.earliest(next_start) } else { until };
        if let Some(winner) = wait_for_one(&mut attempts, wake, &mut last_error)? {
            token.check()?;
            return Ok((winner.socket, winner.attached));
        }
    }
}

/// Waits until an attempt has succeeded. Takes those out that have failed, and then comes back.
fn wait_for_one(
    attempts: &mut Vec<Attempt>,
    wake: Deadline,
    last_error: &mut (Option<SocketAddr>, io::Error),
) -> Result<Option<Attempt>, NetError> {
    if attempts.is_empty() {
        return Ok(None);
    }
    let ready: Vec<bool> = {
        let mut polled: Vec<_> = attempts.iter().map(|attempt| PollFd::new(attempt.socket.tcp.as_fd(), PollFlags::POLLOUT)).collect();
        poll(&mut polled, wake).map_err(|cause| NetError::Connect { peer: "poll".to_owned(), cause })?;
        polled.iter().map(|polled| polled.any().unwrap_or(true)).collect()
    };
    for at in (0..attempts.len()).rev().filter(|at| ready[*at]) {
        let attempt = attempts.swap_remove(at);
        let error = match attempt.socket.tcp.take_error() {
            Ok(None) => match attempt.socket.tcp.peer_addr() {
                Ok(_) => return Ok(Some(attempt)),
                Err(error) => error,
            },
            Ok(Some(error)) | Err(error) => error,
        };
        *last_error = (Some(attempt.address), error);
    }
    Ok(None)
}

fn name_address((address, error): (Option<SocketAddr>, io::Error)) -> io::Error {
    let Some(address) = address else { return error };
    io::Error::new(error.kind(), format!("{} ({})", plain_words(&error), address.ip()))
}

/// Creates a socket, attaches it, and begins to connect. The caller asks the token afterwards: a cancel that came
/// before the connect found nothing to shut down.
fn begin(address: SocketAddr, token: &CancelToken) -> io::Result<Attempt> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    set_options(&fd)?;
    let tcp = TcpStream::from(fd);
    tcp.set_nodelay(true)?;
    let socket = Arc::new(Socket { tcp });
    let attached = token.attach(Arc::clone(&socket) as Arc<dyn Cut>);
    match socket::connect(socket.tcp.as_raw_fd(), &SockaddrStorage::from(address)) {
        // EINTR: the connect goes on in the background, connect(2).
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => Ok(Attempt { socket, attached, address }),
        Err(errno) => Err(errno.into()),
    }
}

/// Lets the kernel notice a peer that vanished.
fn set_options(fd: &impl std::os::fd::AsFd) -> nix::Result<()> {
    let seconds = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
    socket::setsockopt(fd, sockopt::KeepAlive, &true)?;
    socket::setsockopt(fd, sockopt::TcpKeepIdle, &seconds(limits::KEEPALIVE_IDLE))?;
    socket::setsockopt(fd, sockopt::TcpKeepInterval, &seconds(limits::KEEPALIVE_INTERVAL))?;
    socket::setsockopt(fd, sockopt::TcpKeepCount, &limits::KEEPALIVE_PROBES)?;
    let unacknowledged_ms = u32::try_from(limits::UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    socket::setsockopt(fd, sockopt::TcpUserTimeout, &unacknowledged_ms)
}
