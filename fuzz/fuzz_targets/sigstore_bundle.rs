//! Verification of Sigstore bundles: never panics, and nothing is valid that the trusted signers did not sign.
#![no_main]

use std::sync::LazyLock;

use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify};
use libfuzzer_sys::fuzz_target;

/// Real authorities, whose signatures the seeds hold and nobody can make.
static ROOT: LazyLock<TrustedRoot> = LazyLock::new(|| {
    TrustedRoot::parse(include_bytes!("../../crates/trust/tests/data/sigstore/public-good.json"))
        .expect("a trusted root")
});

fuzz_target!(|data: &[u8]| {
    let expected = Expected::Certificate {
        identity: Pattern::Glob("*@example.com".to_owned()),
        issuer: Pattern::Glob("**".to_owned()),
    };
    let policy = Policy { expected, ..Policy::default() };
    assert!(!verify(data, &Artifact::Bytes(b"artifact"), &ROOT, &policy).is_valid());
});
