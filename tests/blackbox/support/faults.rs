//! Faults below HTTP: a listener whose connects hang, and a proxy that delays, cuts, resets and swallows.

use super::http;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
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
}

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
        let shared = Arc::new(ProxyShared { way: Mutex::new(Way::Open), stopped: Mutex::new(false), open: Mutex::default() });
        let copy = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if *copy.stopped.lock().unwrap_or_else(PoisonError::into_inner) {
                    return;
                }
                let Ok(client) = client else { continue };
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
        while let Ok(mut count @ 1..) = from.read(&mut chunk) {
            let mut last = false;
            match self.way() {
                Way::BlackHole => continue,
                Way::Delay(time) if downstream => std::thread::park_timeout(time),
                Way::CutAfter(rest) if downstream => {
                    last = count >= rest;
                    count = count.min(rest);
                    self.set_rest(rest - count);
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

    fn set_rest(&self, rest: usize) {
        let way = if rest == 0 { Way::Open } else { Way::CutAfter(rest) };
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = way;
    }
}
