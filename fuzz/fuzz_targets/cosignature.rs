//! Cosignature lines: whatever parses is written back, and none verifies against a key that never signed.
#![no_main]

use countersign_proof::cosignature;
use countersign_proof::note::NoteSigner;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(line) = std::str::from_utf8(data) else { return };
    let Ok(signature) = cosignature::parse_line(line) else { return };
    assert_eq!(signature.to_string(), line.strip_suffix('\n').unwrap_or(line));
    let key = NoteSigner::from_seed("witness.example", [1; 32]).expect("a good name").cosignature_key();
    assert!(cosignature::verify("log.example\n0\n\n", &signature, &key).is_err());
});
