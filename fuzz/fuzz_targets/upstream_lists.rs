//! Lists of tools, prompts and resources as upstreams give them, one page a line.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        countersign_connect::fuzzing::lists(text);
    }
});
