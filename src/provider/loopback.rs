//! A server for tests: plays a script a connection, faults included. Loopback only; every wait in it ends.

// The tests' server is a plain blocking thread; all its sockets have time-outs.
#![allow(clippy::disallowed_methods)]

use crate::clock::{self, Deadline};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// One step of a connection's script.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Reads a request and notes it.
    Request,
    Send(Vec<u8>),
    /// Sends one byte a segment.
    Trickle(Vec<u8>),
    /// Sends this again and again, with a pause, until the client is gone.
    Repeat(Vec<u8>, Duration),
    Pause(Duration),
    /// Says nothing more until the client is gone.
    Stall,
    /// Ends the connection with a reset.
    Reset,
}

pub(super) struct Server {
    pub(super) address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// One script a connection, in the order in which they come.
    pub(super) fn start(scripts: Vec<Vec<Act>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port of the system's choice");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&requests);
        std::thread::spawn(move || {
            for script in scripts {
                let Some(stream) = accept(&listener) else { return };
                // A client that leaves in the middle is part of the tests.
                let _ = play(stream, &script, &noted);
            }
        });
        Self { address, requests }
    }

    /// The requests so far: head, empty line, body.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }

    /// The bodies of the requests so far.
    pub(super) fn bodies(&self) -> Vec<serde_json::Value> {
        let body = |request: &String| serde_json::from_str(request.split_once("\r\n\r\n").expect("a head").1).expect("JSON");
        self.requests().iter().map(body).collect()
    }
}

fn accept(listener: &TcpListener) -> Option<TcpStream> {
    listener.set_nonblocking(true).ok()?;
    let until = Deadline::after(PATIENCE);
    loop {
        let timeout = u16::try_from(until.remaining().as_millis()).unwrap_or(u16::MAX);
        let mut waits = [nix::poll::PollFd::new(listener.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut waits, timeout).ok()?;
        match listener.accept() {
            Ok((stream, _)) => return Some(stream),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && !until.passed() => {}
            Err(_) => return None,
        }
    }
}

fn play(mut stream: TcpStream, script: &[Act], noted: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    for act in script {
        match act {
            Act::Request => {
                let request = read_request(&mut stream)?;
                noted.lock().expect("no panic").push(request);
            }
            Act::Send(bytes) => stream.write_all(bytes)?,
            Act::Trickle(bytes) => {
                for byte in bytes {
                    stream.write_all(&[*byte])?;
                }
            }
            Act::Repeat(bytes, pause) => {
                let until = Deadline::after(PATIENCE);
                while !until.passed() {
                    stream.write_all(bytes)?;
                    std::thread::sleep(*pause);
                }
            }
            Act::Pause(pause) => std::thread::sleep(*pause),
            Act::Stall => {
                let _ = stream.read(&mut [0; 64])?;
            }
            Act::Reset => {
                let now = libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &now)?;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn read_request(stream: &mut TcpStream) -> std::io::Result<String> {
    let started = clock::now();
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while started.elapsed() < PATIENCE {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok(text.into_owned());
            }
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..count]);
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}

/// An answer with headers and a body of known length.
pub(super) fn answer(status: &str, headers: &str, body: &str) -> Act {
    Act::Send(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// The head of a stream that ends with its connection.
pub(super) fn stream_head() -> Act {
    Act::Send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".to_vec())
}

/// A whole stream in chunks, after which the connection can be used again.
pub(super) fn chunked_stream(body: &str) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for piece in body.as_bytes().chunks(37) {
        bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}
