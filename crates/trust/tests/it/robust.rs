//! Changed bytes are refused, whichever they are, and nothing panics.

use countersign_trust::bundle::{Bundle, Content, Material};
use countersign_trust::report::{Report, Verdict};
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify};

use crate::cases::{ARTIFACT, Good, IDENTITY, good};
use crate::signing::NOW_MS;
use crate::world::{ISSUER, World};

fn world() -> (World, Good) {
    let mut world = World::new(NOW_MS);
    let good = good(&mut world);
    (world, good)
}

fn check(bundle: &[u8], root: &TrustedRoot) -> Report {
    let expected = Expected::Certificate {
        identity: Pattern::Exact(IDENTITY.to_owned()),
        issuer: Pattern::Exact(ISSUER.to_owned()),
    };
    verify(bundle, &Artifact::Bytes(ARTIFACT), root, &Policy { expected, ..Policy::default() })
}

/// Changes each byte of a part in turn.
fn each_byte(part: &[u8], mut visit: impl FnMut(usize, Vec<u8>)) {
    for at in 0..part.len() {
        let mut changed = part.to_vec();
        changed[at] ^= 1 << (at % 8);
        visit(at, changed);
    }
}

#[test]
fn every_byte_of_certificate_signature_leaf_and_payload_counts() {
    let (world, good) = world();
    let Material::Certificate(der) = &good.certificate.material else { panic!("a certificate") };
    let refused = |at: usize, bundle: &Bundle| {
        let report = check(&bundle.to_json(), &world.root);
        assert_eq!(report.verdict, Verdict::Invalid, "byte {at}: {:#?}", report.checks);
    };
    each_byte(der, |at, der| {
        refused(at, &Bundle { material: Material::Certificate(der), ..good.certificate.clone() });
    });
    each_byte(good.certificate.content.signature(), |at, signature| {
        let content = Content::MessageSignature { digest: None, signature };
        refused(at, &Bundle { content, ..good.certificate.clone() });
    });
    each_byte(&good.certificate.entries[0].body, |at, body| {
        let mut bundle = good.certificate.clone();
        bundle.entries[0].body = body;
        refused(at, &bundle);
    });
    let Content::Dsse(envelope) = &good.statement.content else { panic!("a statement") };
    each_byte(&envelope.payload, |at, payload| {
        let content = Content::Dsse(countersign_trust::dsse::Envelope { payload, ..envelope.clone() });
        refused(at, &Bundle { content, ..good.statement.clone() });
    });
}

#[test]
fn no_changed_byte_of_a_timestamp_changes_the_time() {
    let (world, good) = world();
    let time = check(&good.certificate.to_json(), &world.root).times;
    each_byte(&good.certificate.timestamps[0], |at, stamp| {
        let report = check(&Bundle { timestamps: vec![stamp], ..good.certificate.clone() }.to_json(), &world.root);
        // A few bytes are not signed, such as the status "granted, with modifications".
        let same = report.is_valid() && report.times == time;
        assert!(same || report.verdict == Verdict::Invalid, "byte {at}: {:#?}", report.checks);
    });
}

#[test]
fn no_changed_byte_of_the_file_makes_another_truth() {
    let (world, good) = world();
    let json = good.statement.to_json();
    let before = check(&json, &world.root);
    assert!(before.is_valid());
    for at in (0..json.len()).step_by(5) {
        let mut changed = json.clone();
        changed[at] ^= 1 << (at % 6);
        let report = check(&changed, &world.root);
        let same = (&report.signer, &report.times, &report.logs) == (&before.signer, &before.times, &before.logs);
        assert!(!report.is_valid() || same, "byte {at}: {:#?}", report.checks);
    }
    let root = world.root.to_json();
    for at in (0..root.len()).step_by(5) {
        let mut changed = root.clone();
        changed[at] ^= 2;
        let _ = TrustedRoot::parse(&changed);
    }
}

#[test]
fn what_is_no_bundle_is_refused_by_name() {
    let (world, good) = world();
    let json = String::from_utf8(good.certificate.to_json()).unwrap();
    for (from, to) in [
        ("bundle.v0.3+json", "bundle.v0.4+json"),
        ("{\"mediaType\"", "{\"mediaType\":\"x\",\"mediaType\""),
        ("\"verificationMaterial\":{", "\"verificationMaterial\":{\"publicKey\":{\"hint\":\"\"},"),
        ("\"messageSignature\":{", "\"messageSignature\":{\"unknown\":1,"),
        ("\"messageSignature\":{", "\"another\":{"),
        ("\"signature\":\"", "\"signature\":\" "),
        ("SHA2_256", "SHA2_384"),
    ] {
        assert!(json.contains(from), "{from}");
        let report = check(json.replacen(from, to, 1).as_bytes(), &world.root);
        let codes: Vec<_> = report.failures().map(|code| code.name()).collect();
        assert_eq!(codes, ["bundle_malformed"], "{from}");
    }
}
