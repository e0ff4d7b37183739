//! Signatures that others made, on other instances: see `tests/data/sigstore/SOURCE.md`.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use countersign_proof::digest::Digest;
use countersign_trust::bundle::Bundle;
use countersign_trust::entry::LogEntry;
use countersign_trust::report::{Code, Report, Verdict};
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify, verify_parsed};

fn data(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sigstore").join(name)).unwrap()
}

fn root(name: &str) -> TrustedRoot {
    let root = TrustedRoot::parse(&data(name)).unwrap();
    assert_eq!(TrustedRoot::parse(&root.to_json()).unwrap(), root, "what was read is written and read again");
    root
}

fn sha256(hex: &str) -> Artifact<'static> {
    Artifact::Sha256(format!("sha256:{hex}").parse().unwrap())
}

fn signer(identity: &str, issuer: &str) -> Policy {
    let expected = Expected::Certificate {
        identity: Pattern::Glob(identity.to_owned()),
        issuer: Pattern::Exact(issuer.to_owned()),
    };
    Policy { expected, ..Policy::default() }
}

/// The bundle is accepted, and refused for another artifact.
fn check(bundle: &str, root: &TrustedRoot, artifact: Artifact<'_>, policy: &Policy) -> Report {
    let bundle = data(bundle);
    let report = verify(&bundle, &artifact, root, policy);
    assert_eq!(report.verdict, Verdict::Valid, "{:#?}", report.checks);
    let other = verify(&bundle, &Artifact::Sha256(Digest::of(b"another")), root, policy);
    assert!(other.failures().any(|code| code == Code::ArtifactMismatch), "{:#?}", other.checks);
    report
}

#[test]
fn an_artifact_in_the_second_version_of_rekor() {
    let policy = signer("jku@*", "https://github.com/login/oauth");
    let report = check("rekor2.sigstore.json", &root("staging.json"), Artifact::Bytes(&data("rekor2.txt")), &policy);
    assert_eq!(report.times.len(), 1);
    assert_eq!((report.logs[0].log.as_str(), report.logs[0].index), ("log2025-alpha1.rekor.sigstage.dev", 645));
}

#[test]
fn a_statement_in_the_second_version_of_rekor() {
    let bundle = Bundle::parse(&data("rekor2-dsse.sigstore.json")).unwrap();
    let countersign_trust::bundle::Content::Dsse(envelope) = &bundle.content else { panic!("a statement") };
    let statement = countersign_trust::dsse::Statement::parse(&envelope.payload_type, &envelope.payload).unwrap();
    let digest = statement.subject[0].digest["sha256"].as_str().unwrap();
    let policy = signer(
        "https://github.com/sigstore-conformance/*/.github/workflows/*@refs/heads/main",
        "https://token.actions.githubusercontent.com",
    );
    check("rekor2-dsse.sigstore.json", &root("staging.json"), sha256(digest), &policy);
}

#[test]
fn an_artifact_signed_by_cosign() {
    let policy = signer("w.vollprecht@gmail.com", "https://github.com/login/oauth");
    let report =
        check("cosign.sigstore.json", &root("public-good.json"), Artifact::Bytes(&data("cosign.txt")), &policy);
    // Its timestamp is by an authority that this root does not name; the log's word for the time is enough.
    assert_eq!(report.times[0].source, "https://rekor.sigstore.dev");
}

#[test]
fn a_statement_in_the_first_version_of_rekor() {
    let digest = sha256("54303491a8418fbed24344b513546182c29b43bf282ceb433af65e2299f9271f");
    let policy = signer(
        "https://github.com/prefix-dev/sigstore-example/.github/workflows/action.yaml@refs/heads/main",
        "https://token.actions.githubusercontent.com",
    );
    check("rekor1-dsse.sigstore.json", &root("public-good.json"), digest, &policy);
}

#[test]
fn an_artifact_signed_with_a_key_of_its_own() {
    let pem = String::from_utf8(data("key.pem")).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let key = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
    let policy = Policy { expected: Expected::Key(key), ..Policy::default() };
    check("key.sigstore.json", &root("public-good.json"), Artifact::Bytes(&data("key.txt")), &policy);
}

#[test]
fn an_attestation_of_an_instance_without_logs() {
    let github = root("github.json");
    let digest = sha256("76f1fe8593bf227cca2c089e3c16dc95014a8d3e89c5dd220530469ca043c428");
    let bundle = data("github.sigstore.json");
    let policy = Policy { without_log: true, without_sct: true, ..Policy::default() };
    let report = verify(&bundle, &digest, &github, &policy);
    // Its certificates do not say who vouched for the identity, so that only somebody who expects nobody is content.
    assert_eq!(report.verdict, Verdict::Unanchored, "{:#?}", report.checks);
    assert_eq!(report.signer.as_deref(), Some("https://dotcom.releases.github.com"));
    let strict = verify(&bundle, &digest, &github, &signer("https://dotcom.releases.github.com", "https://github.com"));
    let expected = [Code::SctMissing, Code::IssuerMismatch, Code::LogEntryMissing];
    assert_eq!(strict.failures().collect::<Vec<_>>(), expected);
}

#[test]
fn a_statement_in_a_bundle_of_version_0_1() {
    let public_good = root("public-good.json");
    let bundle = data("../packages/npm-provenance.sigstore.json");
    let sha512 = statement_sha512(&bundle);
    let policy = signer(
        "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main",
        "https://token.actions.githubusercontent.com",
    );
    let report = verify(&bundle, &Artifact::Sha512(sha512), &public_good, &policy);
    assert_eq!(report.verdict, Verdict::Valid, "{:#?}", report.checks);
    assert_eq!(report.times[0].seconds, 1_692_374_735);
    let other = verify(&bundle, &Artifact::Sha512([7; 64]), &public_good, &policy);
    assert_eq!(other.failures().collect::<Vec<_>>(), [Code::ArtifactMismatch]);
    // A chain in a bundle of today's version is refused, and so is one with nothing in it.
    let text = String::from_utf8(bundle).unwrap();
    let today = text.replace("bundle+json;version=0.1", "bundle.v0.3+json");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut empty = value.clone();
    empty["verificationMaterial"]["x509CertificateChain"]["certificates"] = serde_json::json!([]);
    let mut both = value.clone();
    both["verificationMaterial"]["certificate"] =
        value["verificationMaterial"]["x509CertificateChain"]["certificates"][0].clone();
    for changed in [today, empty.to_string(), both.to_string()] {
        let report = verify(changed.as_bytes(), &Artifact::Sha512(sha512), &public_good, &policy);
        assert_eq!(report.failures().collect::<Vec<_>>(), [Code::BundleMalformed]);
    }
}

#[test]
fn a_promise_of_a_log_is_enough_only_where_the_policy_says_so() {
    let public_good = root("public-good.json");
    let bundle = data("../packages/npm-publish.sigstore.json");
    let artifact = Artifact::Sha512(statement_sha512(&bundle));
    let strict = Policy { expected: Expected::Key(npm_key()), ..Policy::default() };
    let report = verify(&bundle, &artifact, &public_good, &strict);
    assert_eq!(report.failures().collect::<Vec<_>>(), [Code::InclusionMissing]);
    let lenient = Policy { promise_suffices: true, ..strict };
    let report = verify(&bundle, &artifact, &public_good, &lenient);
    assert_eq!(report.verdict, Verdict::Valid, "{:#?}", report.checks);
    assert!(report.not_checked.iter().any(|text| text.contains("kept its promise")) && report.logs.is_empty());
    // Without the promise, or with one that was not kept by this log, it is not.
    let value: serde_json::Value = serde_json::from_slice(&bundle).unwrap();
    let entry = |value: &mut serde_json::Value| value["verificationMaterial"]["tlogEntries"][0].take();
    let with = |change: fn(&mut serde_json::Value)| {
        let mut value = value.clone();
        let mut changed = entry(&mut value);
        change(&mut changed);
        value["verificationMaterial"]["tlogEntries"][0] = changed;
        verify(value.to_string().as_bytes(), &artifact, &public_good, &lenient)
    };
    let none = with(|entry| entry["inclusionPromise"] = serde_json::Value::Null);
    assert_eq!(none.failures().collect::<Vec<_>>(), [Code::NoTrustedTime, Code::InclusionMissing]);
    let later = with(|entry| entry["integratedTime"] = "1681839917".into());
    assert!(later.failures().any(|code| code == Code::PromiseWrong), "{:#?}", later.checks);
    assert!(!later.is_valid());
}

#[test]
fn a_promise_is_enough_for_its_own_entry_alone() {
    let mut root = root("public-good.json");
    let json = data("../packages/npm-publish.sigstore.json");
    let artifact = Artifact::Sha512(statement_sha512(&json));
    let policy = Policy { expected: Expected::Key(npm_key()), promise_suffices: true, ..Policy::default() };
    let mut bundle = Bundle::parse(&json).unwrap();
    assert!(verify_parsed(&bundle, &artifact, &root, &policy).is_valid());
    // Beside it another, in the same log by its other name, with a promise that the log did not make.
    let other_name = vec![7; 32];
    root.logs[0].checkpoint_key_id = Some(other_name.clone());
    let forged = LogEntry { log_id: other_name, promise: Some(vec![0; 70]), ..bundle.entries[0].clone() };
    bundle.entries.push(forged);
    let report = verify_parsed(&bundle, &artifact, &root, &policy);
    assert_eq!(report.failures().collect::<Vec<_>>(), [Code::PromiseWrong, Code::InclusionMissing]);
    bundle.entries[1].promise = None;
    let report = verify_parsed(&bundle, &artifact, &root, &policy);
    assert_eq!(report.failures().collect::<Vec<_>>(), [Code::InclusionMissing]);
}

fn npm_key() -> Vec<u8> {
    let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE1Olb3zMAFFxXKHiIkQO5cJ3Yhl5i6UPp+IhuteBJbuHcA5UogKo0EWtlWwW6KSaKoTNEYL7JlCQiVnkhBktUgg==";
    base64::engine::general_purpose::STANDARD.decode(key).unwrap()
}

fn statement_sha512(bundle: &[u8]) -> [u8; 64] {
    let bundle = Bundle::parse(bundle).unwrap();
    let countersign_trust::bundle::Content::Dsse(envelope) = &bundle.content else { panic!("a statement") };
    let statement = countersign_trust::dsse::Statement::parse(&envelope.payload_type, &envelope.payload).unwrap();
    let hex = statement.subject[0].digest["sha512"].as_str().unwrap();
    let bytes = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
    std::array::from_fn(bytes)
}
