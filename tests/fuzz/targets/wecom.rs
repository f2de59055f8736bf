//! Text events of WeCom's WebSocket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_gateway::adapter::wecom::fuzz::take(bytes));
