//! TLS: one configuration for the process, built when the first connection needs it.
//!
//! The cryptography provider is named here and nowhere else; nothing relies on a process-wide default.

use super::error::NetError;
use super::stream::Wire;
use crate::limits;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// What a configuration was built from: the extra authorities' file, and which state of it.
#[derive(Clone, PartialEq, Eq)]
struct Source {
    file: Option<PathBuf>,
    modified: Option<SystemTime>,
    bytes: u64,
}

static CONFIG: Mutex<Option<(Source, Arc<ClientConfig>)>> = Mutex::new(None);

/// A client for `host` that has not begun its handshake.
pub(super) fn client(host: &str, peer: &str, ca_file: Option<&Path>) -> Result<ClientConnection, NetError> {
    let failed = |cause: String| NetError::Tls { peer: peer.to_owned(), cause };
    let config = config(ca_file).map_err(failed)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| failed(format!("{host} is not a name that a certificate can have")))?;
    ClientConnection::new(config, name).map_err(|error| failed(explain(&error)))
}

/// The process's configuration. Built anew when the file of extra authorities has changed.
fn config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let metadata = match ca_file {
        Some(file) => Some(std::fs::metadata(file).map_err(|error| unusable(file, &error.to_string()))?),
        None => None,
    };
    let source = Source {
        file: ca_file.map(Path::to_owned),
        modified: metadata.as_ref().and_then(|metadata| metadata.modified().ok()),
        bytes: metadata.map_or(0, |metadata| metadata.len()),
    };
    let lock = || CONFIG.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((built_from, config)) = lock().as_ref()
        && *built_from == source
    {
        return Ok(Arc::clone(config));
    }
    // Built outside the lock, because it reads a file. At worst two threads build the same.
    let config = Arc::new(build(ca_file)?);
    *lock() = Some((source, Arc::clone(&config)));
    Ok(config)
}

fn build(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(file) = ca_file {
        let (added, ignored) = roots.add_parsable_certificates(read_certificates(file)?);
        if added == 0 {
            return Err(unusable(file, "it holds no certificate in PEM form"));
        }
        if ignored > 0 {
            log::warn!(target: "net", "{}: {ignored} of {} certificates cannot be used", file.display(), added + ignored);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("cannot set up TLS: {error}"))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A gateway talks to a handful of servers; the default keeps room for 256.
    config.resumption = Resumption::in_memory_sessions(32);
    Ok(config)
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|error| unusable(file, &error.to_string()))?;
    let limit = limits::CA_FILE_BYTES_MAX as u64;
    opened.take(limit + 1).read_to_end(&mut bytes).map_err(|error| unusable(file, &error.to_string()))?;
    if bytes.len() as u64 > limit {
        return Err(unusable(file, &format!("it is larger than {limit} bytes")));
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    certificates.map_err(|error| unusable(file, &format!("it is not a PEM file: {error}")))
}

fn unusable(file: &Path, cause: &str) -> String {
    format!("the file of extra authorities {} ([net] ca_file) cannot be used: {cause}", file.display())
}

/// Runs the handshake. Never reads while there is something to write, and never waits beyond the wire's deadline.
pub(super) fn handshake(client: &mut ClientConnection, wire: &mut Wire) -> io::Result<()> {
    let failed = |wire: &Wire, cause: String| io::Error::from(NetError::Tls { peer: wire.peer().to_owned(), cause });
    while client.is_handshaking() || client.wants_write() {
        while client.wants_write() {
            client.write_tls(wire)?;
        }
        if !client.is_handshaking() {
            break;
        }
        if client.read_tls(wire)? == 0 {
            return Err(failed(wire, "the server closed the connection during the handshake".to_owned()));
        }
        if let Err(error) = client.process_new_packets() {
            // The alert tells the server why; whether it arrives does not matter.
            let _ = client.write_tls(wire);
            return Err(failed(wire, explain(&error)));
        }
    }
    Ok(())
}

/// A TLS error with what to do about it, where something can be done.
pub(super) fn explain(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "the certificate was issued by an unknown authority (a network that inspects TLS? put its authority into [net] ca_file)"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        ) => format!("{error} (is the clock of this machine right?)"),
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS (is the address meant to begin with http://?)".to_owned(),
        other => other.to_string(),
    }
}
