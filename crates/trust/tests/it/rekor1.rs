//! Answers of Rekor's first version, and signatures beside their artifacts. What the entries say, and the log's signatures over it, is
//! real (`tests/data/sigstore/SOURCE.md`); the JSON around it is written here as Rekor's OpenAPI description has it.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::digest::Digest;
use countersign_proof::merkle::leaf_hash;
use countersign_trust::bundle::{Bundle, Material};
use countersign_trust::entry::LogEntry;
use countersign_trust::pem::{CERTIFICATE, encode};
use countersign_trust::rekor1::{EntryName, describe, evidence, parse_entry, parse_index, search_by, search_for};
use countersign_trust::report::{CheckName, Code, Status, Verdict};
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Holder, Pattern, Policy, signature, verify_detached};
use serde_json::{Value, json};

fn data(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sigstore").join(name)).unwrap()
}

fn public_good() -> TrustedRoot {
    TrustedRoot::parse(&data("public-good.json")).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The entry of a bundle, as the log would answer it.
fn answer(bundle: &str) -> (EntryName, Value, Bundle) {
    let bundle = Bundle::parse(&data(bundle)).unwrap();
    let entry = &bundle.entries[0];
    let name = format!("108e9186e8c5677a{}", hex(&leaf_hash(&entry.body)));
    let proof = entry.proof.as_ref().map(|proof| {
        json!({
            "checkpoint": proof.checkpoint, "hashes": proof.hashes.iter().map(|h| hex(h)).collect::<Vec<_>>(),
            "logIndex": proof.index, "rootHash": hex(&proof.root), "treeSize": proof.size,
        })
    });
    let json = json!({ name.as_str(): {
        "attestation": {},
        "body": STANDARD.encode(&entry.body), "integratedTime": entry.integrated_time, "logID": hex(&entry.log_id),
        "logIndex": entry.log_index,
        "verification": {
            "inclusionProof": proof,
            "signedEntryTimestamp": entry.promise.as_ref().map(|promise| STANDARD.encode(promise)),
        },
    } });
    (EntryName::parse(&name).unwrap(), json, bundle)
}

fn entry(answer: &(EntryName, Value, Bundle)) -> LogEntry {
    parse_entry(answer.1.to_string().as_bytes(), &answer.0).unwrap()
}

#[test]
fn an_entry_is_read_and_its_evidence_verified() {
    for (file, artifact, signer) in [
        ("cosign.sigstore.json", Some(Digest::of(&data("cosign.txt")).to_string()), Some("w.vollprecht@gmail.com")),
        ("key.sigstore.json", Some(Digest::of(&data("key.txt")).to_string()), None),
        (
            "rekor1-dsse.sigstore.json",
            None,
            Some("https://github.com/prefix-dev/sigstore-example/.github/workflows/action.yaml@refs/heads/main"),
        ),
    ] {
        let answer = answer(file);
        let entry = entry(&answer);
        assert_eq!(entry, answer.2.entries[0], "{file}: the same facts in another shape");
        let said = describe(&entry);
        assert_eq!((said.artifact, said.signer.as_deref()), (artifact, signer), "{file}");
        assert_eq!(said.signature.as_deref(), Some(answer.2.content.signature()), "{file}");
        let found = evidence(&entry, &public_good());
        assert!(found.inclusion.is_some_and(|held| held.is_ok()), "{file}");
        assert!(found.promise.is_none_or(|held| held.is_ok_and(|time| time.source == "https://rekor.sigstore.dev")));
        let stranger = evidence(&entry, &TrustedRoot::default());
        assert_eq!(stranger.inclusion.unwrap().unwrap_err().0, Code::LogUnknown);
    }
}

#[test]
fn what_was_changed_is_not_the_entry_or_not_proved() {
    let (name, good, _) = answer("cosign.sigstore.json");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut json = good.clone();
        change(&mut json[name.as_str()]);
        parse_entry(json.to_string().as_bytes(), &name)
    };
    let other = STANDARD.encode(b"{\"kind\":\"hashedrekord\",\"apiVersion\":\"0.0.1\",\"spec\":{}}");
    assert!(changed(&|entry| entry["body"] = json!(other)).is_err(), "another body");
    assert!(changed(&|entry| entry["logID"] = json!("xyz")).is_err());
    assert!(changed(&|entry| entry["verification"]["inclusionProof"]["hashes"] = json!(vec!["00"; 100])).is_err());
    assert!(changed(&|entry| entry["body"] = json!("?")).is_err());
    let twice = json!({ name.as_str(): good[name.as_str()], "x": good[name.as_str()] });
    assert!(parse_entry(twice.to_string().as_bytes(), &name).is_err(), "two entries");
    assert!(parse_entry(b"{}", &name).is_err() && parse_entry(b"[]", &name).is_err());

    let problems = |change: &dyn Fn(&mut Value)| {
        let found = evidence(&changed(change).unwrap(), &public_good());
        let code = |result: Option<Option<(Code, String)>>| result.flatten().map(|(code, _)| code);
        (code(found.inclusion.map(Result::err)), code(found.promise.map(Result::err)))
    };
    assert_eq!(problems(&|_| {}), (None, None));
    assert_eq!(problems(&|entry| entry["integratedTime"] = json!(1_700_000_000)).1, Some(Code::PromiseWrong));
    let proof = "/verification/inclusionProof";
    let root = |entry: &mut Value| entry.pointer_mut(proof).unwrap()["rootHash"] = json!("00".repeat(32));
    assert_eq!(problems(&root).0, Some(Code::CheckpointMismatch));
    let path = |entry: &mut Value| entry.pointer_mut(proof).unwrap()["hashes"][0] = json!("00".repeat(32));
    assert_eq!(problems(&path).0, Some(Code::InclusionMismatch));
}

#[test]
fn names_and_searches_are_as_rekor_has_them() {
    let long = "a".repeat(80);
    assert!(EntryName::parse(&long).is_some() && EntryName::parse(&long[16..]).is_some());
    for wrong in ["", "../../x", &long[1..], &long.to_ascii_uppercase(), &"/".repeat(64)] {
        assert_eq!(EntryName::parse(wrong), None, "{wrong}");
    }
    assert_eq!(parse_index(format!("[\"{long}\"]").as_bytes()).unwrap().len(), 1);
    for wrong in ["{}", "[1]", "[\"x\"]", "null"] {
        assert!(parse_index(wrong.as_bytes()).is_err(), "{wrong}");
    }
    let digest = Digest::of(b"x");
    assert_eq!(search_for(&digest), format!("{{\"hash\":\"{digest}\"}}").into_bytes());
    assert_eq!(search_by("ann@example.com").unwrap(), b"{\"email\":\"ann@example.com\"}");
    assert_eq!(search_by("https://example.com/x"), None);
}

fn cosign() -> (Vec<u8>, Holder, Policy, LogEntry) {
    let answer = answer("cosign.sigstore.json");
    let Material::Certificate(der) = &answer.2.material else { panic!("a certificate") };
    let pem = encode(der, CERTIFICATE);
    let holder = Holder::certificate(pem.as_bytes()).unwrap();
    assert_eq!(Holder::certificate(STANDARD.encode(&pem).as_bytes()).unwrap(), holder, "as cosign writes it");
    let expected = Expected::Certificate {
        identity: Pattern::Exact("w.vollprecht@gmail.com".to_owned()),
        issuer: Pattern::Exact("https://github.com/login/oauth".to_owned()),
    };
    let text = STANDARD.encode(answer.2.content.signature());
    let signature = signature(format!("{text}\n").as_bytes()).unwrap();
    (signature, holder, Policy { expected, ..Policy::default() }, entry(&answer))
}

#[test]
fn a_signature_with_a_certificate_is_proved_by_its_entry_alone() {
    let (signature, holder, policy, entry) = cosign();
    let (artifact, root) = (data("cosign.txt"), public_good());
    let check = |entries: Option<Vec<LogEntry>>, artifact: &[u8]| {
        verify_detached(&signature, &holder, entries, &Artifact::Sha256(Digest::of(artifact)), &root, &policy)
    };
    let logged = check(Some(vec![entry.clone()]), &artifact);
    assert!(logged.is_valid() && logged.logs.len() == 1 && logged.times.len() == 1, "{logged:#?}");
    let alone = check(None, &artifact);
    assert_eq!((alone.verdict, alone.failures().count()), (Verdict::Unanchored, 0), "{alone:#?}");
    let certificate = alone.check(CheckName::Certificate).unwrap();
    assert_eq!((certificate.status, certificate.code), (Status::Skipped, Some(Code::NoTrustedTime)));
    assert!(alone.not_checked.iter().any(|what| what.starts_with("when it was signed")));
    let other = check(None, b"another");
    assert_eq!(other.failures().collect::<Vec<_>>(), [Code::SignatureWrong]);
    // An entry of another signature proves nothing about this one.
    let other = check(Some(vec![entry_of("key.sigstore.json")]), &artifact);
    assert!(other.failures().any(|code| code == Code::LogEntryMismatch), "{other:#?}");
}

fn entry_of(file: &str) -> LogEntry {
    entry(&answer(file))
}

#[test]
fn a_log_that_was_asked_and_has_no_entry_makes_a_signature_invalid() {
    let (signature, certificate, policy, _) = cosign();
    let root = public_good();
    let key = (Bundle::parse(&data("key.sigstore.json")).unwrap(), Holder::key(&data("key.pem")).unwrap());
    for (signature, holder, artifact) in
        [(signature.as_slice(), &certificate, data("cosign.txt")), (key.0.content.signature(), &key.1, data("key.txt"))]
    {
        for policy in [policy.clone(), Policy { without_log: true, ..policy.clone() }] {
            let artifact = Artifact::Bytes(&artifact);
            let report = verify_detached(signature, holder, Some(Vec::new()), &artifact, &root, &policy);
            assert_eq!(report.verdict, Verdict::Invalid, "{report:#?}");
            assert_eq!(report.failures().collect::<Vec<_>>(), [Code::LogEntryMissing], "{report:#?}");
        }
    }
}

#[test]
fn a_signature_with_a_key_is_verified_without_a_time_and_says_so() {
    let bundle = Bundle::parse(&data("key.sigstore.json")).unwrap();
    let holder = Holder::key(&data("key.pem")).unwrap();
    let artifact = data("key.txt");
    let check = |artifact: &[u8], entries: Option<Vec<LogEntry>>, root: &TrustedRoot| {
        let signature = bundle.content.signature();
        verify_detached(signature, &holder, entries, &Artifact::Bytes(artifact), root, &Policy::default())
    };
    let alone = check(&artifact, None, &TrustedRoot::default());
    assert!(alone.is_valid() && alone.times.is_empty(), "{alone:#?}");
    assert!(
        ["when it was signed", "whether the signature was logged"]
            .iter()
            .all(|what| alone.not_checked.iter().any(|said| said.starts_with(what)))
    );
    let wrong = check(b"another", None, &TrustedRoot::default());
    assert_eq!(wrong.failures().collect::<Vec<_>>(), [Code::SignatureWrong]);
    let logged = check(&artifact, Some(vec![entry_of("key.sigstore.json")]), &public_good());
    assert_eq!(logged.logs.len(), 1, "{logged:#?}");
    assert!(Holder::key(b"no PEM").is_err() && signature(b"").is_err() && signature(&[1; 2000]).is_err());
}
