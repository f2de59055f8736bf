//! The client against servers that behave well, oddly and badly. Here: what a connection does when all is well.

// Servers and clients are plain threads, joined after the bounds under test have passed.
#![allow(clippy::disallowed_methods)]

mod ends;
mod goodbyes;
mod hostile;
mod opening;
mod sending;

use super::*;
use crate::net::http::tests::server::{CA_FILE, Server, Wire, read_request, tls_accept, tls_config};
use crossbeam_channel::{Receiver, bounded};
use std::io::{self, Read, Write};
use std::time::Duration;
use tungstenite::handshake::derive_accept_key;

const LONG: Duration = Duration::from_secs(15);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn later() -> Deadline {
    Deadline::after(LONG)
}

fn options() -> NetOptions {
    NetOptions { tls_ca_file: Some(CA_FILE.into()), user_agent: "test/1".to_owned() }
}

fn open(url: &str, token: &CancelToken, limits: WsLimits) -> Result<WebSocket, WsError> {
    WebSocket::connect(url, &[], &options(), token, later(), limits)
}

/// The server's end of a connection, after the handshake.
trait Peer: Read + Write + Send {}
impl<T: Read + Write + Send> Peer for T {}

/// Answers the handshake by hand. → the request.
fn accept(stream: &mut (impl Read + Write + ?Sized)) -> Option<String> {
    let request = read_request(stream)?;
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))?;
    let accept = derive_accept_key(key.trim().as_bytes());
    let answer =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
    stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).ok()?;
    Some(request)
}

/// A server that hands its ends over to the test.
fn handing_over(tls: bool) -> (Server, Receiver<Box<dyn Peer>>) {
    let (sender, peers) = bounded::<Box<dyn Peer>>(1024);
    let config = tls_config();
    let server = Server::raw(move |_, mut stream| {
        if tls {
            let mut stream = tls_accept(&config, stream);
            if accept(&mut stream).is_some() {
                let _ = sender.try_send(Box::new(stream));
            }
        } else if accept(&mut stream).is_some() {
            let _ = sender.try_send(Box::new(stream));
        }
    });
    (server, peers)
}

fn scheme(tls: bool) -> &'static str {
    if tls { "wss" } else { "ws" }
}

fn pair_with(tls: bool, token: &CancelToken, limits: WsLimits) -> (WebSocket, Box<dyn Peer>) {
    let (server, peers) = handing_over(tls);
    let client = open(&server.url(scheme(tls)), token, limits).expect("opens");
    (client, peers.recv_timeout(LONG).expect("is there"))
}

fn pair(tls: bool) -> (WebSocket, Box<dyn Peer>) {
    pair_with(tls, &CancelToken::new(), WsLimits::default())
}

/// A frame as a server sends it.
fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    match payload.len() {
        length @ 0..126 => bytes.push(u8::try_from(length).expect("short")),
        length @ 126..0x1_0000 => {
            bytes.push(126);
            bytes.extend(u16::try_from(length).expect("short").to_be_bytes());
        }
        length => {
            bytes.push(127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

fn send(peer: &mut dyn Peer, bytes: &[u8]) {
    peer.write_all(bytes).and_then(|()| peer.flush()).expect("the client is there");
}

/// Reads a frame of the client. → its first byte and its payload.
fn receive(peer: &mut dyn Peer) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    peer.read_exact(&mut head).expect("a frame");
    assert!(head[1] & 0x80 != 0, "clients mask their frames");
    let mut long = [0; 8];
    let length = match head[1] & 0x7F {
        126 => {
            peer.read_exact(&mut long[6..]).expect("a length");
            u64::from_be_bytes(long)
        }
        127 => {
            peer.read_exact(&mut long).expect("a length");
            u64::from_be_bytes(long)
        }
        length => u64::from(length),
    };
    let mut mask = [0; 4];
    peer.read_exact(&mut mask).expect("a mask");
    let mut payload = vec![0; usize::try_from(length).expect("fits")];
    peer.read_exact(&mut payload).expect("a payload");
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
    (head[0], payload)
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

fn text(text: &str) -> WsEvent {
    WsEvent::Text(text.to_owned())
}

fn closed(code: u16, reason: &str) -> WsEvent {
    WsEvent::Closed { code, reason: reason.to_owned() }
}

/// Events that are there without waiting.
fn drain(client: &mut WebSocket) -> Vec<WsEvent> {
    let mut events = Vec::new();
    loop {
        match client.next(Deadline::after(Duration::ZERO)).expect("is open") {
            WsEvent::Idle => return events,
            event @ WsEvent::Closed { .. } => {
                events.push(event);
                return events;
            }
            event => events.push(event),
        }
    }
}

#[test]
fn messages_go_both_ways_and_the_end_is_agreed() {
    for tls in [false, true] {
        let (sender, seen) = bounded(1);
        let script = move |_: usize, stream: &mut dyn Wire| {
            let mut socket = tungstenite::accept(stream).expect("a WebSocket");
            loop {
                match socket.read() {
                    Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message).expect("echoes"),
                    Ok(Message::Close(frame)) => sender.try_send(frame).expect("once"),
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        };
        let server = if tls { Server::tls(script) } else { Server::plain(script) };
        let token = CancelToken::new();
        let mut client = open(&server.url(scheme(tls)), &token, WsLimits::default()).expect("opens");
        assert_eq!(client.peer(), server.address.to_string());
        for length in [0, 1, 125, 126, 65_535, 65_536, limits::WEBSOCKET_UNSENT_BYTES_MAX] {
            let message = "ä".repeat(length / 2) + if length % 2 == 1 { "x" } else { "" };
            client.send(WsMessage::Text(message.clone()), later()).expect("sent");
            assert_eq!(client.next(later()).expect("open"), WsEvent::Text(message.clone()));
            client.send(WsMessage::Binary(message.clone().into_bytes()), later()).expect("sent");
            assert_eq!(client.next(later()).expect("open"), WsEvent::Binary(message.into_bytes()));
        }
        client.close(4001, &"ü".repeat(100), later()).expect("answered");
        let frame = seen.recv_timeout(LONG).expect("told").expect("with a code");
        assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "ü".repeat(61).as_str()));
        assert!(matches!(client.next(later()), Err(WsError::Ended { .. })));
        assert!(matches!(client.send(WsMessage::Text(String::new()), later()), Err(WsError::Ended { .. })));
        client.close(1000, "", later()).expect("nothing to do");
    }
}

#[test]
fn frames_may_be_cut_anywhere() {
    let bytes = [
        frame(0x01, "gr\u{fc}".as_bytes()[..3].as_ref()),
        frame(PING, b"hello"),
        frame(0x00, "gr\u{fc}n".as_bytes()[3..].as_ref()),
        frame(PONG, b""),
        frame(0x80, b"!"),
        frame(BINARY, &[7; 130]),
        frame(TEXT, b""),
        frame(CLOSE, &[&4009_u16.to_be_bytes()[..], b"bye"].concat()),
    ]
    .concat();
    let expect = vec![text("grün!"), WsEvent::Binary(vec![7; 130]), text(""), closed(4009, "bye")];
    let check_answers = |peer: &mut dyn Peer| {
        assert_eq!(receive(peer), (PONG, b"hello".to_vec()));
        assert_eq!(receive(peer), (CLOSE, [&4009_u16.to_be_bytes()[..], b"bye"].concat()));
    };
    for tls in [false, true] {
        // TLS hands on the same bytes, and its handshakes take their time.
        for cut in (0..bytes.len()).step_by(if tls { 11 } else { 1 }) {
            let (mut client, mut peer) = pair(tls);
            send(&mut *peer, &bytes[..cut]);
            let mut events = drain(&mut client);
            send(&mut *peer, &bytes[cut..]);
            while events.len() < expect.len() {
                events.push(client.next(later()).expect("open"));
            }
            assert_eq!(events, expect, "{cut}");
            check_answers(&mut *peer);
        }
        // And everywhere at once.
        let (mut client, mut peer) = pair(tls);
        let mut events = Vec::new();
        for byte in &bytes {
            send(&mut *peer, &[*byte]);
            events.extend(drain(&mut client));
        }
        while events.len() < expect.len() {
            events.push(client.next(later()).expect("open"));
        }
        assert_eq!(events, expect);
        check_answers(&mut *peer);
    }
}

#[test]
fn frames_that_came_with_the_answer_or_in_one_record_are_not_overlooked() {
    for tls in [false, true] {
        // Poll says nothing about the second one: it is in TLS's or the codec's buffer already.
        let (mut client, mut peer) = pair(tls);
        send(&mut *peer, &[frame(TEXT, b"one"), frame(TEXT, b"two")].concat());
        assert_eq!(client.next(later()).expect("open"), text("one"));
        assert_eq!(client.next(later()).expect("open"), text("two"));
        assert_eq!(client.next(Deadline::after(Duration::ZERO)).expect("open"), WsEvent::Idle);
    }
    let server = Server::plain(|_, stream| {
        let mut both = std::io::Cursor::new(Vec::new());
        let request = read_request(stream).expect("a request");
        let mut answer = Answering { request: request.into_bytes().into(), answer: &mut both };
        accept(&mut answer);
        both.get_mut().extend(frame(TEXT, b"hello"));
        let _ = stream.write_all(both.get_ref()).and_then(|()| stream.flush());
        let _ = stream.read(&mut [0; 100]);
    });
    let mut client = open(&server.url("ws"), &CancelToken::new(), WsLimits::default()).expect("opens");
    assert_eq!(client.next(later()).expect("open"), text("hello"));
}

/// Lets `accept` write its answer into memory.
struct Answering<'a> {
    request: VecDeque<u8>,
    answer: &'a mut std::io::Cursor<Vec<u8>>,
}

impl Read for Answering<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.request.read(buffer)
    }
}

impl Write for Answering<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn pings_are_answered_while_nobody_sends() {
    for tls in [false, true] {
        let (mut client, mut peer) = pair(tls);
        let waiting = std::thread::spawn(move || {
            let before = client.heard();
            let event = client.next(later());
            (event, client.heard() > before)
        });
        for number in 0..20_u8 {
            let started = clock::now();
            send(&mut *peer, &frame(PING, &[number]));
            assert_eq!(receive(&mut *peer), (PONG, vec![number]));
            assert!(started.elapsed() < ms(100), "{:?}", started.elapsed());
        }
        send(&mut *peer, &frame(CLOSE, b""));
        let (event, heard) = waiting.join().expect("no panic");
        assert_eq!(event.expect("open"), closed(close_code::NONE, ""));
        assert!(heard);
        assert_eq!(receive(&mut *peer), (CLOSE, Vec::new()));
    }
}

#[test]
fn another_thread_wakes_the_one_that_waits() {
    let (mut client, mut peer) = pair(false);
    let waker = client.waker();
    let waiting = std::thread::spawn(move || {
        let started = clock::now();
        let event = client.next(later()).expect("open");
        (client, event, started.elapsed())
    });
    std::thread::sleep(ms(50));
    waker.wake();
    let (mut client, event, after) = waiting.join().expect("no panic");
    assert_eq!(event, WsEvent::Woken);
    assert!(after < ms(5000), "{after:?}");

    // Wakes from before count, as one.
    waker.wake();
    waker.clone().wake();
    assert_eq!(client.next(later()).expect("open"), WsEvent::Woken);
    assert_eq!(client.next(Deadline::after(Duration::ZERO)).expect("open"), WsEvent::Idle);

    // Neither a busy waker nor a busy server keeps the other from being heard.
    send(&mut *peer, &frame(TEXT, b"x").repeat(3));
    let mut seen = Vec::new();
    for _ in 0..4 {
        waker.wake();
        seen.push(client.next(later()).expect("open"));
    }
    assert_eq!(seen, [WsEvent::Woken, text("x"), WsEvent::Woken, text("x")]);

    // A waker that was there before the connection.
    let own = Waker::new().expect("a descriptor");
    own.wake();
    client.set_waker(&own);
    assert_eq!(client.next(later()).expect("open"), WsEvent::Woken);
    drop(client);
    own.wake();
    waker.wake();
}

/// How often this thread has gone to sleep.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("known");
    line.trim().parse().expect("a number")
}

/// The processor time of this thread, in ticks of 10 ms.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11].parse::<u64>().expect("user") + fields[12].parse::<u64>().expect("system")
}

#[test]
fn an_idle_connection_sleeps_until_its_deadline() {
    for tls in [false, true] {
        let (mut client, _peer) = pair(tls);
        assert!(drain(&mut client).is_empty());
        let (started, slept, used) = (clock::now(), sleeps(), ticks());
        assert_eq!(client.next(Deadline::after(ms(600))).expect("open"), WsEvent::Idle);
        assert!(started.elapsed() >= ms(600) && started.elapsed() < ms(2000), "{:?}", started.elapsed());
        assert!(sleeps() - slept <= 3 && ticks() - used <= 2, "{} {}", sleeps() - slept, ticks() - used);
    }
}

#[test]
fn a_large_message_does_not_leave_its_buffer_behind() {
    for first in [TEXT, BINARY] {
        let (mut client, mut peer) = pair(false);
        let large = vec![b'x'; 8 << 20];
        let server = std::thread::spawn(move || {
            send(&mut *peer, &[frame(first, &large), frame(TEXT, b"small").repeat(2000)].concat());
            peer
        });
        assert!(event_bytes(&client.next(later()).expect("open")) == 8 << 20);
        assert!(client.large.is_some());
        for _ in 0..2000 {
            assert_eq!(client.next(later()).expect("open"), text("small"));
        }
        // The codec has moved on to a small buffer, so nobody shares the large one.
        assert!(client.large.is_none());
        drop(server.join().expect("no panic"));
    }
}
