//! The server's side of a WebSocket, RFC 6455, for the fakes. Frames are taken apart and put together here, so that the
//! codec under test is not tested with itself.

#![allow(dead_code)] // Fakes use what they need.

use super::http::{Connection, Request};
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use tungstenite::handshake::derive_accept_key;

/// A client's message, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// 1005 without a code.
    Close(u16, String),
}

/// What sends to one client, from any thread.
#[derive(Clone)]
pub struct Sender {
    stream: Arc<Mutex<TcpStream>>,
}

/// One client, on the thread that serves its connection.
pub struct Socket<'a> {
    connection: &'a mut Connection,
    sender: Sender,
}

pub fn is_upgrade(request: &Request) -> bool {
    request.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

/// Answers the handshake. The request must be one that a WebSocket client makes.
pub fn accept<'a>(request: &Request, connection: &'a mut Connection) -> io::Result<Socket<'a>> {
    let key = request.header("sec-websocket-key").ok_or_else(|| io::Error::other("a handshake without a key"))?;
    assert_eq!(request.header("sec-websocket-version"), Some("13"), "{request:?}");
    assert_eq!(request.method, "GET");
    let accept = derive_accept_key(key.as_bytes());
    let head =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
    connection.raw(head.as_bytes())?;
    let sender = Sender { stream: Arc::new(Mutex::new(connection.other_end()?)) };
    Ok(Socket { connection, sender })
}

/// A frame from the server, which are not masked. `head`: FIN, reserved bits and opcode.
pub fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![head];
    match payload.len() {
        length @ 0..=125 => bytes.push(u8::try_from(length).expect("short")),
        length @ 126..=65535 => {
            bytes.push(126);
            bytes.extend(u16::try_from(length).expect("two bytes").to_be_bytes());
        }
        length => {
            bytes.push(127);
            bytes.extend(u64::try_from(length).expect("eight bytes").to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

impl Sender {
    /// `false`: the connection has ended.
    pub fn raw(&self, bytes: &[u8]) -> bool {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(bytes).is_ok()
    }
    pub fn text(&self, text: &str) -> bool {
        self.raw(&frame(0x81, text.as_bytes()))
    }
    pub fn binary(&self, payload: &[u8]) -> bool {
        self.raw(&frame(0x82, payload))
    }
    pub fn ping(&self, payload: &[u8]) -> bool {
        self.raw(&frame(0x89, payload))
    }
    pub fn pong(&self, payload: &[u8]) -> bool {
        self.raw(&frame(0x8a, payload))
    }
    pub fn close(&self, code: u16, reason: &str) -> bool {
        self.raw(&frame(0x88, &[&code.to_be_bytes()[..], reason.as_bytes()].concat()))
    }
    /// Ends the connection without a word.
    pub fn cut(&self) {
        let _ = self.stream.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
    }
}

impl Socket<'_> {
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// The next message, put together from its fragments. Pings are not answered here. `None`: the connection has ended.
    pub fn read(&mut self) -> Option<Frame> {
        let mut message: Option<(u8, Vec<u8>)> = None;
        loop {
            let (fin, opcode, payload) = self.read_frame().ok()?;
            match opcode {
                0x8 => {
                    let code = payload.get(..2).map_or(1005, |code| u16::from_be_bytes([code[0], code[1]]));
                    return Some(Frame::Close(code, String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned()));
                }
                0x9 => return Some(Frame::Ping(payload)),
                0xa => return Some(Frame::Pong(payload)),
                0x0 => message.as_mut().expect("a continuation of something").1.extend(payload),
                _ => message = Some((opcode, payload)),
            }
            if fin && let Some((opcode, payload)) = message.take() {
                return Some(match opcode {
                    0x1 => Frame::Text(String::from_utf8(payload).expect("texts are UTF-8")),
                    _ => Frame::Binary(payload),
                });
            }
        }
    }

    fn read_frame(&mut self) -> io::Result<(bool, u8, Vec<u8>)> {
        let head = self.connection.exactly(2)?;
        assert_eq!(head[0] & 0x70, 0, "reserved bits without an extension");
        assert_eq!(head[1] & 0x80, 0x80, "clients mask their frames (RFC 6455, 5.1)");
        let length = match head[1] & 0x7f {
            126 => self.connection.exactly(2)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            127 => self.connection.exactly(8)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            short => usize::from(short),
        };
        let mask = self.connection.exactly(4)?;
        let mut payload = self.connection.exactly(length)?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Ok((head[0] & 0x80 != 0, head[0] & 0x0f, payload))
    }
}
