//! JWS and key sets: what is read is written as it was read, and nothing is valid against a key that never signed.
#![no_main]

use countersign_proof::jwk::{Jwk, JwkSet};
use countersign_proof::jws::{self, Jws};
use countersign_proof::{TrustAnchors, artifact};
use libfuzzer_sys::fuzz_target;

/// A key whose secret nobody has: the seeds are signed by another.
const KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"KSexBRK64-3c_kZ4KBKLrSkDJpkZ9whgacjE32xzKDg",
    "y":"x3h5ZOqsAOWSH7FJimD0YGdms9loUAFVjRqXTnNBUT4"}"#;

fuzz_target!(|data: &[u8]| {
    let mut keys = JwkSet::default();
    keys.add(Jwk::parse(KEY.as_bytes()).expect("a key")).expect("the first one");
    let report = jws::verify(data, &keys);
    assert!(!report.is_valid());
    let _ = report.to_string();
    for workspace in [None, Some("north-clinic".to_owned())] {
        let anchors = TrustAnchors::new().with_signers(keys.clone()).with_workspace(workspace).at(1_772_366_400);
        let report = artifact::verify(data, &anchors);
        assert!(!report.is_valid());
        let _ = report.to_string();
    }
    if let Ok(jws) = Jws::parse(data) {
        assert_eq!(Jws::parse(&jws.to_flattened()).as_ref(), Ok(&jws));
        assert_eq!(Jws::parse(jws.to_compact().as_bytes()).as_ref(), Ok(&jws));
        if !data.trim_ascii_start().starts_with(b"{") {
            assert_eq!(jws.to_compact().as_bytes(), data.strip_suffix(b"\n").unwrap_or(data));
        }
        assert_eq!(jws.header()["alg"], "ES256");
    }
    if let Ok(set) = JwkSet::parse(data) {
        let again = JwkSet::parse(set.to_value().to_string().as_bytes()).expect("as it was read");
        assert_eq!(again.keys(), set.keys());
        assert!(set.keys().len() + set.ignored().len() <= 100);
    }
});
