//! Frames of Feishu's long connection, with the slices and events in them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_gateway::adapter::feishu::fuzz::take(bytes));
