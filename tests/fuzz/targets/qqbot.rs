//! Text events of QQ's WebSocket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_gateway::adapter::qqbot::fuzz::take(bytes));
