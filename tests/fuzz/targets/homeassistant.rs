//! Text events of Home Assistant's WebSocket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_gateway::adapter::homeassistant::fuzz::take(bytes));
