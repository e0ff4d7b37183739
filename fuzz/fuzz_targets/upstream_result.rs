//! Results of upstreams on their way to clients: the receipt is ours, their own members survive.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        countersign_server::fuzzing::upstream_result(text);
    }
});
