//! Key sets of issuers, and the metadata that says where they are.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let used = countersign_gate::fuzzing::jwks(data);
    assert!(used <= 100);
    countersign_server::fuzzing::metadata(data);
});
