//! Faults below HTTP: a listener whose connects hang, and a proxy that delays, cuts, resets and swallows.

use super::http;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A listener that accepts nobody and whose queue is full: a connect to it hangs, as to a host behind a dropping firewall.
pub struct FullBacklog {
    pub address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl FullBacklog {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let address = listener.local_addr().expect("the port of a listener");
        // A second listen(2) on the same socket changes its queue.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).expect("a backlog of one")).expect("listen again");
        assert!(listener.as_raw_fd() >= 0);
        let mut queued = Vec::new();
        // With a backlog of n the kernel takes n + 1; the next connect gets no answer.
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            queued.push(stream);
            assert!(queued.len() < 64, "the queue never fills");
        }
        Self { address, _listener: listener, _queued: queued }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// What the proxy does with the bytes from the server to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Each piece comes this much later.
    Delay(Duration),
    /// Nothing gets through in either direction; connections stay open, new ones are accepted.
    BlackHole,
    /// After this many more bytes the connection ends with FIN.
    CutAfter(usize),
    /// New and running connections end with RST.
    Reset,
    /// Requests are answered, those for a WebSocket are not.
    SilentUpgrade,
    /// A WebSocket is agreed to, and then nothing comes through it.
    SilentAfterUpgrade,
}

/// A TCP proxy in front of a fake.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<ProxyShared>,
}

struct ProxyShared {
    way: Mutex<Way>,
    stopped: Mutex<bool>,
    open: Mutex<Vec<Pair>>,
    accepted: AtomicUsize,
    /// Reads that brought something, in both directions.
    pieces: AtomicUsize,
    /// What the clients of WebSockets said, as far as it is kept.
    upgraded: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
}

/// What is kept of a client's words.
const SAID_BYTES_MAX: usize = 1 << 20;

/// Both ends of one connection through the proxy.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// The client's end stays open and silent whatever happens at the other.
    forgotten: Arc<AtomicBool>,
}

impl Pair {
    fn shut(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

impl Proxy {
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let address = listener.local_addr().expect("the port of a listener");
        let shared = ProxyShared {
            way: Mutex::new(Way::Open),
            stopped: Mutex::new(false),
            open: Mutex::default(),
            accepted: AtomicUsize::new(0),
            pieces: AtomicUsize::new(0),
            upgraded: Mutex::default(),
        };
        let shared = Arc::new(shared);
        let copy = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if *copy.stopped.lock().unwrap_or_else(PoisonError::into_inner) {
                    return;
                }
                let Ok(client) = client else { continue };
                copy.accepted.fetch_add(1, Ordering::SeqCst);
                if copy.way() == Way::Reset {
                    http::reset(client);
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                copy.join(client, server);
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, way: Way) {
        *self.shared.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
        if way == Way::Reset {
            // With linger 0 a shutdown of the last copy is a reset; the pumps' copies end at the shutdown.
            self.cut();
        }
    }

    /// Ends all connections that there are.
    pub fn cut(&self) {
        self.shared.lock_open().drain(..).for_each(|pair| pair.shut());
    }

    /// Connections ever accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
    /// Pieces of data that went through, or would have, in both directions: each woke the gateway or came from it.
    #[allow(dead_code)] // For the figures.
    pub fn pieces(&self) -> usize {
        self.shared.pieces.load(Ordering::SeqCst)
    }
    /// WebSockets ever asked for.
    pub fn upgrades(&self) -> usize {
        self.shared.lock_upgraded().len()
    }
    /// What the clients of WebSockets said, handshake included, oldest connection first.
    pub fn upgraded(&self) -> Vec<Vec<u8>> {
        let said = self.shared.lock_upgraded();
        said.iter().map(|said| said.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// The servers of all connections are gone without a word, as after a power failure: the clients' ends stay open
    /// and silent. New connections are well.
    pub fn forget(&self) {
        for pair in self.shared.lock_open().iter() {
            pair.forgotten.store(true, Ordering::SeqCst);
            let _ = pair.server.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        *self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let _ = TcpStream::connect(self.address);
        self.cut();
    }
}

impl ProxyShared {
    fn way(&self) -> Way {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_open(&self) -> MutexGuard<'_, Vec<Pair>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_upgraded(&self) -> MutexGuard<'_, Vec<Arc<Mutex<Vec<u8>>>>> {
        self.upgraded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let forgotten = Arc::new(AtomicBool::new(false));
        let pairs = [(client.try_clone(), server.try_clone(), false), (server.try_clone(), client.try_clone(), true)];
        self.lock_open().push(Pair { client, server, forgotten: Arc::clone(&forgotten) });
        for (from, to, downstream) in pairs {
            let (Ok(from), Ok(to)) = (from, to) else { continue };
            let (shared, forgotten) = (Arc::clone(self), Arc::clone(&forgotten));
            std::thread::spawn(move || shared.pump(from, to, downstream, &forgotten));
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, downstream: bool, forgotten: &AtomicBool) {
        let mut chunk = [0; 4096];
        let mut said: Option<Arc<Mutex<Vec<u8>>>> = None;
        let mut silent = false;
        while let Ok(mut count @ 1..) = from.read(&mut chunk) {
            self.pieces.fetch_add(1, Ordering::SeqCst);
            if !downstream {
                self.listen(&mut said, &chunk[..count]);
            }
            let mut last = false;
            match self.way() {
                Way::BlackHole => continue,
                Way::Delay(time) if downstream => std::thread::park_timeout(time),
                Way::CutAfter(rest) if downstream => {
                    last = count >= rest;
                    count = count.min(rest);
                    self.set_rest(rest - count);
                }
                way @ (Way::SilentUpgrade | Way::SilentAfterUpgrade) if downstream => {
                    let agreed = chunk[..count].starts_with(b"HTTP/1.1 101 ");
                    let end = if way == Way::SilentUpgrade { 0 } else { end_of_head(&chunk[..count]) };
                    if silent {
                        continue;
                    }
                    if agreed {
                        (silent, count) = (true, end);
                    }
                }
                _ => {}
            }
            if to.write_all(&chunk[..count]).is_err() || last {
                break;
            }
        }
        if forgotten.load(Ordering::SeqCst) {
            return;
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Keeps what the client of a WebSocket says.
    fn listen(&self, said: &mut Option<Arc<Mutex<Vec<u8>>>>, bytes: &[u8]) {
        let asks = || String::from_utf8_lossy(bytes).to_ascii_lowercase().contains("upgrade: websocket");
        if said.is_none() && asks() {
            let mine = Arc::default();
            self.lock_upgraded().push(Arc::clone(&mine));
            *said = Some(mine);
        }
        if let Some(said) = said {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            let room = SAID_BYTES_MAX.saturating_sub(said.len());
            said.extend(&bytes[..bytes.len().min(room)]);
        }
    }

    fn set_rest(&self, rest: usize) {
        let way = if rest == 0 { Way::Open } else { Way::CutAfter(rest) };
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }
}

/// Behind the empty line that ends a head.
fn end_of_head(bytes: &[u8]) -> usize {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4)
}

/// Whether the last frame that a WebSocket's client said is CLOSE (RFC 6455, 5.2), and nothing came after it.
pub fn last_frame_is_a_goodbye(said: &[u8]) -> bool {
    let mut rest = &said[end_of_head(said)..];
    let mut last = 0;
    while let [head, length, ..] = *rest {
        last = head & 0x0f;
        let extended = |count: usize| rest.get(2..2 + count).map(|bytes| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)));
        let (bytes, payload) = match length & 0x7f {
            126 => (2, extended(2)),
            127 => (8, extended(8)),
            short => (0, Some(usize::from(short))),
        };
        // Two bytes, the long length, and the mask that each client's frame has.
        let Some(next) = payload.and_then(|payload| rest.get(2 + bytes + 4 + payload..)) else { return false };
        rest = next;
    }
    last == 0x8 && rest.is_empty()
}
