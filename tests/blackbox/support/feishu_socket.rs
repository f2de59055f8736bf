//! The long connection of the fake: what goes out in which frames, and what may come back.

use super::feishu::{Client, Shared, Slicing, State};
use super::feishu_frame::Packet;
use super::feishu_rest;
use super::http::{Connection, Next, Request};
use super::websocket::{self, Frame};
use serde_json::{Value, json};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The platform waits 3 s for an acknowledgement and sends the event again after 15 s; here a little earlier.
const AGAIN: Duration = Duration::from_secs(5);
/// Then it sends it four more times.
const PUSHES_MAX: usize = 5;

/// The frames of an event. The transport's message id is another one at each push.
pub fn packets(id: &str, service: u64, payload: &[u8], slicing: Option<&Slicing>) -> Vec<Packet> {
    let chunks: Vec<&[u8]> = slicing.map_or_else(|| vec![payload], |slicing| payload.chunks(slicing.bytes).collect());
    let packet = |(seq, chunk): (usize, &&[u8])| {
        let header = |key: &str, value: String| (key.to_owned(), value);
        let headers = vec![
            header("type", "event".to_owned()),
            header("message_id", id.to_owned()),
            header("sum", chunks.len().to_string()),
            header("seq", seq.to_string()),
            header("trace_id", format!("trace-{id}")),
        ];
        let log_id_new = Some(format!("2026{id}"));
        Packet { seq_id: 7, log_id: u64::MAX - seq as u64, service, method: 1, headers, payload: Some(chunk.to_vec()), log_id_new }
    };
    let packets: Vec<Packet> = chunks.iter().enumerate().map(packet).collect();
    slicing.map_or_else(|| packets.clone(), |slicing| (slicing.order)(packets.clone()))
}

/// Serves a long connection until it ends.
pub fn serve(shared: &Shared, request: &Request, connection: &mut Connection) -> Next {
    let ticket = feishu_rest::parameter(request.query(), "ticket").unwrap_or_default();
    let service: u64 = feishu_rest::parameter(request.query(), "service_id").and_then(|id| id.parse().ok()).unwrap_or(0);
    // A ticket is good for one connection.
    if !shared.change(|state| state.tickets.remove(&ticket)) {
        let headers = [("handshake-status", "514"), ("handshake-msg", "ticket invalid"), ("handshake-autherrcode", "1")];
        return if connection.respond(400, &headers, b"").is_ok() { Next::KeepAlive } else { Next::Close };
    }
    let Ok(mut socket) = websocket::accept(request, connection) else { return Next::Close };
    let sender = socket.sender();
    let number = shared.change(|state| {
        state.connects += 1;
        state.clients.push(Client { number: state.connects, service, sender: sender.clone(), ready: false, pings: Vec::new() });
        state.connects
    });
    if shared.change(|state| state.slams) {
        sender.close(1013, "come back later");
    }
    while let Some(frame) = socket.read() {
        match frame {
            Frame::Binary(bytes) => shared.change(|state| heard(state, number, &bytes)),
            Frame::Ping(payload) => drop(sender.pong(&payload)),
            Frame::Pong(_) => {}
            Frame::Close(code, _) => {
                shared.change(|state| state.goodbyes.push(code));
                sender.close(code, "");
                break;
            }
            Frame::Text(text) => shared.change(|state| state.complain(format!("a text frame: {text:?}"))),
        }
    }
    shared.change(|state| state.clients.retain(|client| client.number != number));
    Next::Close
}

fn heard(state: &mut State, number: usize, bytes: &[u8]) {
    let packet = match Packet::read(bytes) {
        Ok(packet) => packet,
        Err(error) => return state.complain(format!("a frame that cannot be read: {error}")),
    };
    let interval = state.ping_interval;
    let answers = state.answers_pings;
    let Some(client) = state.clients.iter_mut().find(|client| client.number == number) else { return };
    if packet.service != client.service {
        let what = format!("service {} instead of {}", packet.service, client.service);
        return state.complain(what);
    }
    match (packet.method, packet.header("type")) {
        (0, Some("ping")) => {
            if packet.payload.is_some() || packet.headers.len() != 1 || packet.seq_id != 0 || packet.log_id != 0 {
                state.complain(format!("an odd ping: {packet:?}"));
                return;
            }
            client.pings.push(Instant::now());
            let config = json!({"ReconnectCount": -1, "ReconnectInterval": 120, "ReconnectNonce": 30, "PingInterval": interval});
            let headers = vec![("type".to_owned(), "pong".to_owned())];
            let pong = Packet { service: client.service, headers, payload: Some(config.to_string().into_bytes()), ..Packet::default() };
            if answers {
                client.sender.binary(&pong.bytes());
            }
            if !std::mem::replace(&mut client.ready, true) {
                state.push_all();
            }
        }
        (1, Some("event")) => acknowledged(state, &packet),
        (method, kind) => state.complain(format!("a frame with method {method} and type {kind:?}")),
    }
}

/// The acknowledgement must be the frame that was sent, but for its payload and `biz_rt`.
fn acknowledged(state: &mut State, packet: &Packet) {
    let payload: Value = packet.payload.as_deref().and_then(|payload| serde_json::from_slice(payload).ok()).unwrap_or_default();
    let Some(code) = payload["code"].as_i64() else { return state.complain(format!("an acknowledgement without a code: {payload}")) };
    let id = packet.header("message_id").unwrap_or_default().to_owned();
    let keys: Vec<&str> = packet.headers.iter().map(|(key, _)| key.as_str()).collect();
    let echoes = packet.header("trace_id") == Some(&format!("trace-{id}"))
        && packet.seq_id == 7
        && packet.log_id > u64::MAX / 2
        && packet.log_id_new == Some(format!("2026{id}"))
        && keys == ["type", "message_id", "sum", "seq", "trace_id", "biz_rt"]
        && packet.header("biz_rt").is_some_and(|time| time.parse::<u64>().is_ok());
    if !echoes {
        return state.complain(format!("an acknowledgement that is no echo: {packet:?}"));
    }
    match state.pushed.get(&id).copied() {
        Some(event) => state.events[event].acks.push((Instant::now(), code)),
        None => state.complain(format!("an acknowledgement of {id}, which was not sent")),
    }
}

/// Sends again what was not acknowledged in time.
pub fn repeat_late(shared: &Shared) {
    let mut guard = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(state) = guard.as_mut().filter(|state| !state.closed) {
        for index in 0..state.events.len() {
            let event = &state.events[index];
            let late = event.pushes.last().is_some_and(|last| last.elapsed() > AGAIN) && event.pushes.len() < PUSHES_MAX;
            if late && !event.is_confirmed() {
                state.push(index);
            }
        }
        guard = shared.changed.wait_timeout(guard, Duration::from_millis(500)).unwrap_or_else(PoisonError::into_inner).0;
    }
}
