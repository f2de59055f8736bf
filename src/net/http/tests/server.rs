//! Loopback servers for the tests of the client: scripts that run on a plain or TLS connection.

// Test servers are plain threads on blocking sockets; the tests themselves bound everything.
#![allow(clippy::disallowed_methods)]

use crate::clock::Deadline;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub(in crate::net) const CA_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/ca.pem");
const CERTIFICATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/server.pem");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls/server.key");

pub(in crate::net) trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

pub(in crate::net) struct Server {
    pub(in crate::net) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Server {
    /// Runs `script` for each connection, in a thread of its own, with the number of the connection.
    pub(in crate::net) fn raw(script: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicUsize::new(0));
        let ended = Arc::new(AtomicUsize::new(0));
        let (script, counter, end_counter) = (Arc::new(script), Arc::clone(&connections), Arc::clone(&ended));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                // A test that fails must not leave a server behind that waits for ever.
                stream.set_read_timeout(Some(Duration::from_secs(20))).expect("open");
                stream.set_write_timeout(Some(Duration::from_secs(20))).expect("open");
                let (script, end_counter) = (Arc::clone(&script), Arc::clone(&end_counter));
                std::thread::spawn(move || {
                    script(number, stream);
                    end_counter.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, connections, ended }
    }

    pub(in crate::net) fn plain(script: impl Fn(usize, &mut dyn Wire) + Send + Sync + 'static) -> Self {
        Self::raw(move |number, mut stream| script(number, &mut stream))
    }

    pub(in crate::net) fn tls(script: impl Fn(usize, &mut dyn Wire) + Send + Sync + 'static) -> Self {
        let config = tls_config();
        Self::raw(move |number, stream| script(number, &mut tls_accept(&config, stream)))
    }

    /// How many connections there have been.
    pub(in crate::net) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until that many connections have been closed on the server's side.
    pub(in crate::net) fn wait_for_ends(&self, count: usize) {
        let patience = Deadline::after(Duration::from_secs(10));
        while self.ended.load(Ordering::SeqCst) < count {
            assert!(!patience.passed(), "connections stay open");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(in crate::net) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/bot123:SECRET/x", self.address.port())
    }
}

pub(in crate::net) fn tls_config() -> Arc<rustls::ServerConfig> {
    let certificate = CertificateDer::from_pem_file(CERTIFICATE).expect("in the tree");
    let key = PrivateKeyDer::from_pem_file(KEY).expect("in the tree");
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("known versions");
    Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate], key).expect("they belong together"))
}

pub(in crate::net) fn tls_accept(
    config: &Arc<rustls::ServerConfig>,
    stream: TcpStream,
) -> rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::clone(config)).expect("valid"), stream)
}

/// Reads one request: head and body. `None` at the end of the connection.
pub(in crate::net) fn read_request(stream: &mut (impl Read + ?Sized)) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok()).unwrap_or(0_usize);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    bytes.extend(body);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Keeps a connection open without a word until the client closes it.
pub(in crate::net) fn stay_silent(stream: &mut (impl Read + ?Sized)) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

/// Writes without caring whether anybody listens. → whether that went well.
pub(in crate::net) fn write(stream: &mut (impl Write + ?Sized), text: &str) -> bool {
    stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).is_ok()
}

/// A listener whose queue is full: connecting to it takes for ever.
pub(in crate::net) fn full_listener() -> (SocketAddr, Vec<TcpStream>, std::os::fd::OwnedFd) {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket};
    use std::os::fd::AsRawFd as _;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("loopback");
    listen(&fd, Backlog::new(0).expect("allowed")).expect("bound");
    let name: SockaddrIn = getsockname(fd.as_raw_fd()).expect("bound");
    let address = SocketAddr::from(([127, 0, 0, 1], name.port()));
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue must fill up");
    }
    (address, waiting, fd)
}
