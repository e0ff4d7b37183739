//! Verification of any file: never panics, and nothing is valid against a key that never signed.
#![no_main]

use countersign_proof::note::NoteSigner;
use countersign_proof::{TrustAnchors, verify_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let key = NoteSigner::from_seed("7f3a9c.log.example", [200; 32]).expect("a good name").verifier_key();
    let report = verify_file(data, &TrustAnchors::new().with(key));
    assert!(!report.is_valid());
    let _ = report.to_string();
});
