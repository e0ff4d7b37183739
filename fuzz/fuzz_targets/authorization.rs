//! Challenges, protected resource metadata, authorization server metadata and registrations. The first byte chooses which.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, text)) = data.split_first() else { return };
    countersign_gate::fuzzing::authorization(*kind, text);
});
