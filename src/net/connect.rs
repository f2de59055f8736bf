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
            resolve::resolve(&first.host, self.deadline, self.token).map_err(|error| match error {
                NetError::Timeout { phase, after, .. } => NetError::Timeout { phase, peer: first.to_string(), after },
                other => other,
            })?
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
        if let Some(winner) =
            wait_for_one(&mut attempts, wake, &mut last_error).map_err(|cause| NetError::Connect { peer: peer.to_owned(), cause })?
        {
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
) -> io::Result<Option<Attempt>> {
    if attempts.is_empty() {
        return Ok(None);
    }
    let ready: Vec<bool> = {
        let mut polled: Vec<_> = attempts.iter().map(|attempt| PollFd::new(attempt.socket.tcp.as_fd(), PollFlags::POLLOUT)).collect();
        poll(&mut polled, wake)?;
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

#[cfg(test)]
mod tests {
    // The servers are plain threads on blocking sockets.
    #![allow(clippy::disallowed_methods)]
    use super::super::http::tests::server::{CA_FILE, Server, full_listener};
    use super::*;
    use std::io::Read as _;

    fn later() -> Deadline {
        Deadline::after(Duration::from_secs(10))
    }

    #[test]
    fn families_take_turns() {
        let check = |addresses: &[&str], expect: &[&str]| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().expect("address")).collect();
            let order: Vec<String> = ordered(&addresses, 1).iter().map(|address| address.ip().to_string()).collect();
            assert_eq!(order, expect);
        };
        check(&[], &[]);
        check(&["::1", "::2", "::3", "1.1.1.1"], &["::1", "1.1.1.1", "::2", "::3"]);
        check(&["1.1.1.1", "::1", "::2", "2.2.2.2"], &["1.1.1.1", "::1", "2.2.2.2", "::2"]);
        assert_eq!(ordered(&[IpAddr::from([1, 1, 1, 1]); 20], 1).len(), limits::ADDRESSES_MAX);
    }

    #[test]
    fn a_dead_address_costs_a_moment_only() {
        let (dead, _waiting, _listener) = full_listener();
        let refusing = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("loopback");
        let good = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let good_address = good.local_addr().expect("bound");
        let token = CancelToken::new();
        let started = clock::now();
        let (socket, _attached) = open_socket("x", &[dead, refusing, good_address], later(), &token).expect("the last one works");
        assert_eq!(socket.tcp.peer_addr().expect("connected"), good_address);
        assert!(started.elapsed() < 4 * limits::CONNECT_STAGGER, "{:?}", started.elapsed());
        let error = open_socket("x", &[], later(), &token).err().expect("no address");
        assert_eq!(error.to_string(), "cannot connect to x: the name has no address");
        token.cancel();
        assert!(matches!(open_socket("x", &[good_address], later(), &token), Err(NetError::Cancelled)));
    }

    #[test]
    fn a_bare_stream_serves_other_protocols() {
        let server = Server::tls(|_, stream| {
            let mut bytes = [0; 5];
            while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).and_then(|()| stream.flush()).is_ok() {}
        });
        let options = NetOptions { tls_ca_file: Some(CA_FILE.into()), user_agent: String::new() };
        let target = Target { tls: true, host: "127.0.0.1".to_owned(), port: server.address.port() };
        let token = CancelToken::new();
        let mut stream = connect("echo", &target, &options, &token, later()).expect("connects");
        stream.set_deadline(phase::BODY, later());
        stream.set_read_waits(false);
        assert_eq!(stream.read(&mut [0; 9]).expect_err("nothing yet").kind(), io::ErrorKind::WouldBlock);
        stream.write_all(b"hello").expect("sends");
        assert!(poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], later()).expect("polls"));
        stream.set_read_waits(true);
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).expect("echoes");
        assert_eq!(&answer, b"hello");
        stream.set_silence(Some(Duration::from_millis(30)));
        let error = stream.read(&mut answer).expect_err("silent");
        assert!(matches!(NetError::from_io(&error), Some(NetError::Timeout { phase: phase::BODY, .. })), "{error}");
        token.cancel();
        let error = stream.read(&mut answer).expect_err("cut");
        assert!(matches!(NetError::from_io(&error), Some(NetError::Cancelled)), "{error}");
    }
}
