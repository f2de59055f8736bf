//! TLS in front of a fake: what the gateway sees of a platform on the internet.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

fn data(name: &str) -> String {
    format!("{}/tests/data/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub struct TlsFront {
    port: u16,
}

impl TlsFront {
    /// Listens on loopback and passes everything on to `backend`. Ends with the process.
    pub fn start(backend: SocketAddr) -> Self {
        let certificates = CertificateDer::pem_file_iter(data("server.pem")).expect("the certificate").map(|one| one.expect("PEM"));
        let key = PrivateKeyDer::from_pem_file(data("server.key")).expect("the key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let config = Arc::new(builder.with_no_client_auth().with_single_cert(certificates.collect(), key).expect("a pair"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let port = listener.local_addr().expect("its address").port();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let config = Arc::clone(&config);
                std::thread::spawn(move || pass_on(client, backend, config));
            }
        });
        Self { port }
    }
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }
    pub fn ca_file(&self) -> String {
        data("ca.pem")
    }
}

/// Both directions on one thread, until either side ends.
fn pass_on(mut client: TcpStream, backend: SocketAddr, config: Arc<ServerConfig>) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let Ok(mut server) = TcpStream::connect(backend) else { return };
    let Ok(mut tls) = ServerConnection::new(config) else { return };
    let mut buffer = [0; 16 * 1024];
    loop {
        while tls.wants_write() {
            if tls.write_tls(&mut client).is_err() {
                return;
            }
        }
        let mut polled = [PollFd::new(client.as_fd(), PollFlags::POLLIN), PollFd::new(server.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::NONE).is_err() {
            return;
        }
        let ready = polled.map(|one| one.any().unwrap_or(true));
        if ready[0] {
            if !matches!(tls.read_tls(&mut client), Ok(1..)) || tls.process_new_packets().is_err() {
                return;
            }
            while let Ok(count @ 1..) = tls.reader().read(&mut buffer) {
                if server.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        }
        if ready[1] {
            match server.read(&mut buffer) {
                Ok(count @ 1..) if tls.writer().write_all(&buffer[..count]).is_ok() => {}
                _ => return,
            }
        }
    }
}
