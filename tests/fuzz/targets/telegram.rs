//! Updates of Telegram's Bot API.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_gateway::adapter::telegram::fuzz::take(bytes));
