//! What others may cost: a caller brings a trusted root and a stranger a bundle, and neither decides how much work a report is.

use countersign_proof::digest::Digest;
use countersign_trust::authority::Authority;
use countersign_trust::bundle::{Bundle, Material};
use countersign_trust::certificate::{Certificate, Identity};
use countersign_trust::keys::Signer;
use countersign_trust::report::{CheckName, Code, Report, Status};
use countersign_trust::root::{AuthorityInstance, MAX_CHAIN, MAX_LISTED, TrustedRoot, Window};
use countersign_trust::sign::{Payload, Signatory, prepare};
use countersign_trust::timestamp::{Request, grant};
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify, verify_with_chain};

use crate::cases::{ARTIFACT, Good, IDENTITY, good};
use crate::signing::NOW_MS;
use crate::world::{ISSUER, ORGANISATION, World};

fn world() -> (World, Good) {
    let mut world = World::new(NOW_MS);
    let good = good(&mut world);
    (world, good)
}

fn policy() -> Policy {
    let exact = |text: &str| Pattern::Exact(text.to_owned());
    Policy { expected: Expected::Certificate { identity: exact(IDENTITY), issuer: exact(ISSUER) }, ..Policy::default() }
}

fn check(bundle: &Bundle, root: &TrustedRoot) -> Report {
    verify(&bundle.to_json(), &Artifact::Bytes(ARTIFACT), root, &policy())
}

fn failed(report: &Report, name: CheckName) -> Option<Code> {
    report.check(name).filter(|check| check.status == Status::Failed).and_then(|check| check.code)
}

/// An authority with the name of the world's and a key of its own.
fn namesake() -> AuthorityInstance {
    let authority = Authority::generate(ORGANISATION, &[88; 32], NOW_MS / 1000 - 3600).unwrap();
    AuthorityInstance::signing(&authority.public(), ISSUER, Window::since(0)).unwrap()
}

fn replaced(der: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = der.to_vec();
    for at in 0..=der.len() - from.len() {
        if out[at..].starts_with(from) {
            out[at..at + to.len()].copy_from_slice(to);
        }
    }
    assert_ne!(out, der, "it is there");
    out
}

/// As certificates of ours name a key.
fn key_id(certificate: &Certificate) -> Vec<u8> {
    let spki = certificate.spki();
    Digest::of(&spki[spki.len() - 65..]).0[..20].to_vec()
}

/// A namesake that says to have the key of another. Nothing signs a trusted root, so that it can say anything.
fn disguised(other: &Certificate) -> AuthorityInstance {
    let namesake = namesake();
    let der = replaced(namesake.chain[0].der(), &key_id(&namesake.chain[0]), &key_id(other));
    AuthorityInstance { chain: vec![Certificate::from_der(&der).unwrap()], ..namesake }
}

#[test]
fn authorities_that_cannot_be_the_issuer_cost_nothing() {
    let (mut world, good) = world();
    world.root.certificate_authorities.splice(0..0, vec![namesake(); MAX_LISTED - 2]);
    let report = check(&good.certificate, &world.root);
    assert!(report.is_valid(), "{:#?}", report.checks);
}

#[test]
fn authorities_that_could_be_the_issuer_are_tried_up_to_a_bound() {
    let (world, good) = world();
    let disguised = disguised(&world.root.certificate_authorities[1].chain[0]);
    let with = |count: usize| {
        let mut root = world.root.clone();
        root.certificate_authorities.splice(0..0, vec![disguised.clone(); count]);
        check(&good.certificate, &root)
    };
    let few = with(20);
    assert!(few.is_valid(), "{:#?}", few.checks);
    let many = with(MAX_LISTED - 2);
    assert_eq!(failed(&many, CheckName::Certificate), Some(Code::TooManySignatures), "{:#?}", many.checks);
    assert!(!many.is_valid());
}

#[test]
fn timestamp_authorities_are_tried_up_to_a_bound() {
    let (world, good) = world();
    let [retired, current, _] = world.root.timestamp_authorities.as_slice() else { panic!("three") };
    // The one that stamped, under a root of the same name that did not sign its certificate.
    let chain = vec![current.chain[0].clone(), retired.chain[1].clone()];
    let broken = AuthorityInstance { chain, ..current.clone() };
    let with = |count: usize| {
        let mut root = world.root.clone();
        root.timestamp_authorities.splice(0..0, vec![broken.clone(); count]);
        check(&good.certificate, &root)
    };
    let few = with(20);
    assert!(few.is_valid(), "{:#?}", few.checks);
    let many = with(MAX_LISTED - 3);
    assert_eq!(failed(&many, CheckName::Timestamp), Some(Code::TooManySignatures), "{:#?}", many.checks);
}

#[test]
fn signatures_of_a_checkpoint_are_verified_up_to_a_bound() {
    let (world, mut good) = world();
    let proof = good.certificate.entries[0].proof.as_mut().unwrap();
    let line = format!("{}\n", proof.checkpoint.lines().next_back().unwrap());
    proof.checkpoint.push_str(&line.repeat(10));
    assert!(check(&good.certificate, &world.root).is_valid(), "the same signature again does no harm");
    let proof = good.certificate.entries[0].proof.as_mut().unwrap();
    proof.checkpoint.push_str(&line.repeat(53));
    let report = check(&good.certificate, &world.root);
    assert_eq!(failed(&report, CheckName::Checkpoint), Some(Code::TooManySignatures), "{:#?}", report.checks);
}

/// The world's root, signed again so that authorities may stand below it.
fn tall(root: &Certificate) -> Certificate {
    // Of certificates of this size, each of the first two lengths takes two bytes (X.690 section 8.1.3.5).
    let der = root.der();
    assert_eq!((&der[..2], &der[4..6]), (&[0x30, 0x82][..], &[0x30, 0x82][..]));
    let end = 8 + usize::from(u16::from_be_bytes([der[6], der[7]]));
    let (tbs, rest) = der[4..].split_at(end - 4);
    let algorithm = &rest[..2 + usize::from(rest[1])];
    // Basic constraints: an authority, with none or up to seven below it.
    let flat = [0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00];
    let tbs = replaced(tbs, &flat, &[0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x07]);
    let signature = Signer::from_seed(&[1; 32], "root").sign(&tbs);
    let bits = [&[0x03, u8::try_from(signature.len() + 1).unwrap(), 0x00][..], &signature].concat();
    let body = [tbs.as_slice(), algorithm, &bits].concat();
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let signed = Certificate::from_der(&[&[0x30, 0x82][..], &length, &body].concat()).unwrap();
    assert_eq!(signed.is_signed_by(&signed), Ok(true));
    signed
}

#[test]
fn a_chain_is_verified_once_for_all_times() {
    let (mut world, mut good) = world();
    let chain = vec![tall(&world.root.certificate_authorities[1].chain[0]); MAX_CHAIN];
    world.root.certificate_authorities[1].chain = chain;
    let request = Request::over(good.certificate.content.signature());
    let stamp = |n: u8| grant(&world.authority, &request, [n; 16], NOW_MS + u64::from(n) * 1000).unwrap();
    good.certificate.timestamps = (1..=8).map(stamp).collect();
    let report = check(&good.certificate, &world.root);
    assert!(report.is_valid() && report.times.len() == 8, "{:#?}", report.checks);
}

#[test]
fn a_report_comes_with_the_chain_that_it_found() {
    let (mut world, good) = world();
    let of = |bundle: &[u8], root: &TrustedRoot| {
        let artifact = Artifact::Bytes(ARTIFACT);
        let (report, chain) = verify_with_chain(bundle, &artifact, root, &policy());
        assert_eq!(report, verify(bundle, &artifact, root, &policy()));
        chain
    };
    let Material::Certificate(leaf) = &good.certificate.material else { panic!("a certificate") };
    let found = of(&good.certificate.to_json(), &world.root);
    assert_eq!(found, [leaf.clone(), world.authority.public().root]);
    assert!(of(&good.key.to_json(), &world.root).is_empty());
    assert!(of(b"no bundle", &world.root).is_empty());
    world.root.certificate_authorities.clear();
    assert_eq!(of(&good.certificate.to_json(), &world.root), std::slice::from_ref(leaf));
}

#[test]
fn statements_with_large_numbers_and_deep_nesting_are_verified() {
    let mut world = World::new(NOW_MS);
    let identity = Identity::uri(IDENTITY).unwrap();
    let mut sign = |predicate: &str| {
        let subject = format!(r#"[{{"name":"release","digest":{{"sha256":"{}"}}}}]"#, Digest::of(ARTIFACT).hex());
        let head = r#"{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.com/p""#;
        let payload = format!(r#"{head},"subject":{subject},"predicate":{predicate}}}"#);
        let who = Signatory { identity: &identity, issuer: ISSUER };
        let seed = world.seed();
        let payload = Payload::Statement(payload.as_bytes());
        let unlogged = prepare(&world.authority, who, &payload, &seed, world.now_ms).ok()?;
        let bundle = world.log.finish(unlogged);
        Some(check(&bundle, &world.root))
    };
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    for predicate in [r#"{"startedOn":1772366400123456789,"size":18446744073709551616}"#, &nested(63)] {
        let report = sign(predicate).unwrap();
        assert!(report.is_valid(), "{predicate}: {:#?}", report.checks);
        assert_eq!(report.predicate_type.as_deref(), Some("https://example.com/p"));
    }
    assert!(sign(&nested(64)).is_none() && sign(r#"{"a":{"b":1,"b":2}}"#).is_none());
}
