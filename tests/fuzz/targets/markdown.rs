//! Texts of a model on their way to a platform: split, and converted.
#![no_main]

use hermes_gateway::text::split::{Unit, split};
use hermes_gateway::text::{html, plain};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    for part in split(&text, Unit::Utf16, 4096) {
        assert!(part.encode_utf16().count() <= 4096, "{part:?}");
        let _ = html::telegram(&part);
    }
    let _ = html::readable(&text);
    let _ = plain::plain(&text);
});
