//! Answers to Weixin's polls.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_gateway::adapter::weixin::fuzz::take(bytes));
