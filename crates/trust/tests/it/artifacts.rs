//! Signed artifacts: every case is decided as it says, and every changed byte is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use countersign_proof::jwk::JwkSet;
use countersign_proof::report as proof_report;
use countersign_proof::{TrustAnchors, verify_file};
use countersign_trust::artifact::Artifact;
use countersign_trust::artifact::report::{CheckName, Code, KeyState, Verdict};
use countersign_trust::artifact::sign::{LIFETIME, SignError, Times, prepare, sign};
use countersign_trust::artifact::types::Types;
use countersign_trust::artifact::verify::{Given, Verified, verify};
use countersign_trust::hashedrekord::HashedRekord;

use crate::artifact_cases::*;

fn check(
    file: &[u8],
    keys: &JwkSet,
    states: &BTreeMap<String, KeyState>,
    change: impl FnOnce(&mut Given<'_>),
) -> Verified {
    static TYPES: LazyLock<Types> = LazyLock::new(|| Types::built_in().unwrap());
    let mut given = Given { keys, workspace: Some(WORKSPACE), states, now: NOW, existed_at: None, types: None };
    change(&mut given);
    given.types = Some(&TYPES);
    verify(file, &given)
}

fn plain(file: &[u8]) -> Verified {
    let keys = Keys::new();
    check(file, &keys.set(), &keys.states(), |_| {})
}

#[test]
fn every_case_is_decided_as_it_says() {
    let mut names = BTreeSet::new();
    for case in all() {
        let Verified { report, artifact } = check(&case.file, &case.keys, &case.states, |_| {});
        let codes: Vec<_> = report.failures().map(Code::name).collect();
        let expected = match case.refused {
            [] => (Verdict::Valid, vec![]),
            ["key_unknown"] => (Verdict::Unanchored, vec![]),
            codes => (Verdict::Invalid, codes.to_vec()),
        };
        assert_eq!((report.verdict, codes), expected, "{}: {:#?}", case.name, report.checks);
        assert_eq!(artifact.is_some(), report.verdict != Verdict::Invalid);
        if let Some(payload) = &case.payload {
            assert_eq!(artifact.unwrap().canonical(), payload);
        }
        assert!(names.insert(case.name.clone()), "{} is there twice", case.name);
        // With the auditor's crate alone: everything but what takes the registry of types.
        let anchors = TrustAnchors::new().with_signers(case.published()).with_workspace(Some(WORKSPACE.into())).at(NOW);
        let alone = verify_file(&case.file, &anchors);
        let codes: Vec<_> = alone.failures().map(proof_report::Code::name).collect();
        let expected = match case.refused {
            [] | ["body_mismatch"] => (Verdict::Valid, vec![]),
            ["key_unknown"] => (Verdict::Unanchored, vec![]),
            codes => (Verdict::Invalid, codes.to_vec()),
        };
        assert_eq!(
            (alone.kind, alone.verdict, codes),
            (proof_report::FileKind::Jws, expected.0, expected.1),
            "{alone}"
        );
    }
    let listed = |name: &&(&str, &[&str])| !names.contains(name.0);
    assert_eq!(LENIENT.iter().find(listed).map(|(name, _)| *name), None);
}

#[test]
fn an_auditor_is_told_what_was_not_said() {
    let keys = Keys::new();
    let file = signed(&keys).to_compact();
    let nobody = verify_file(file.as_bytes(), &TrustAnchors::new());
    assert_eq!(nobody.verdict, Verdict::Unanchored);
    let report = verify_file(file.as_bytes(), &TrustAnchors::new().with_signers(keys.set()));
    assert_eq!(report.verdict, Verdict::Valid);
    let summary = report.artifact.as_ref().unwrap();
    assert_eq!((summary.artifact_type.as_str(), summary.workspace.as_str()), ("clinical_recommendation", WORKSPACE));
    for part in ["artifact's workspace", "retired or revoked", "expired", "one of its type", "is true"] {
        assert!(report.not_checked.iter().any(|line| line.contains(part)), "{part}: {report}");
    }
    let later = TrustAnchors::new().with_signers(keys.set()).at(NOW + 365 * 24 * 3600);
    let report = verify_file(file.as_bytes(), &later);
    assert!(report.is_valid() && report.to_string().contains("expired at 2026-05-30T11:59:00Z"), "{report}");
}

#[test]
fn every_byte_counts() {
    let keys = Keys::new();
    let parts = parts(&signed(&keys));
    for part in 0..3 {
        for at in 0..parts[part].len() {
            let mut changed = parts.clone();
            let mut bytes = changed[part].clone().into_bytes();
            // Another character of the alphabet.
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            changed[part] = String::from_utf8(bytes).unwrap();
            for file in [changed.join("."), flattened(&changed)] {
                assert!(!plain(file.as_bytes()).report.is_valid(), "character {at} of part {part}");
            }
        }
    }
}

#[test]
fn an_expired_signature_is_reported_and_the_artifact_is_read() {
    let file = signed(&Keys::new()).to_flattened();
    let at = |now| {
        let keys = Keys::new();
        check(&file, &keys.set(), &keys.states(), |given| given.now = now)
    };
    let fresh = at(NOW);
    assert!(fresh.report.is_current() && fresh.report.expires_at == Some(NOW - 60 + LIFETIME));
    let years_later = at(NOW + 20 * 365 * 24 * 3600);
    assert!(years_later.report.is_valid() && !years_later.report.is_current());
    assert_eq!((years_later.report.expired, years_later.artifact.is_some()), (Some(true), true));
    assert!(years_later.report.statements.iter().any(|s| s.contains("expired at 2026-05-30T11:59:00Z")));
    assert_eq!(at(NOW - 60 + LIFETIME - 1).report.expired, Some(false));
    assert_eq!(at(NOW - 60 + LIFETIME).report.expired, Some(true));
}

#[test]
fn the_keys_state_weighs_as_others_can_vouch_for_the_time() {
    let keys = Keys::new();
    let file = signed(&keys).to_flattened();
    let kid = keys.new.jwk().kid().to_owned();
    let with = |state: Option<KeyState>, existed_at| {
        let states = state.map(|state| (kid.clone(), state)).into_iter().collect();
        let report = check(&file, &keys.set(), &states, |given| given.existed_at = existed_at).report;
        assert_eq!(report.key_state, state);
        let check = report.check(CheckName::KeyState).unwrap();
        (report.verdict, check.code.map(Code::name))
    };
    let valid = (Verdict::Valid, None);
    assert_eq!(with(Some(KeyState::Active), None), valid);
    assert_eq!(with(None, None), (Verdict::Valid, Some("key_state_unknown")));
    assert_eq!(with(Some(KeyState::Retired { at: NOW }), None), valid);
    assert_eq!(with(Some(KeyState::Retired { at: NOW - 61 }), None), (Verdict::Invalid, Some("key_retired")));
    assert_eq!(with(Some(KeyState::Retired { at: NOW - 61 }), Some(NOW - 70)), valid);
    // Whoever stole the key can sign with any date.
    assert_eq!(with(Some(KeyState::Revoked { at: NOW }), None), (Verdict::Invalid, Some("key_revoked")));
    assert_eq!(with(Some(KeyState::Revoked { at: NOW }), Some(NOW + 1)), (Verdict::Invalid, Some("key_revoked")));
    assert_eq!(with(Some(KeyState::Revoked { at: NOW }), Some(NOW)), valid);
}

#[test]
fn what_could_not_be_checked_is_said() {
    let keys = Keys::new();
    let file = signed(&keys).to_compact();
    let given =
        Given { keys: &keys.set(), workspace: None, states: &BTreeMap::new(), now: NOW, existed_at: None, types: None };
    let report = verify(file.as_bytes(), &given).report;
    assert_eq!(report.verdict, Verdict::Valid);
    for part in ["the signer's claims", "artifact's workspace", "retired or revoked", "one of its type", "is true"] {
        assert!(report.not_checked.iter().any(|line| line.contains(part)), "{part}: {:?}", report.not_checked);
    }
    let none = verify(file.as_bytes(), &Given { keys: &JwkSet::default(), ..given }).report;
    assert_eq!(none.verdict, Verdict::Unanchored);
    let json = serde_json::to_value(&none).unwrap();
    assert_eq!(json["checks"][1]["code"], "key_unknown");
    assert_eq!((&json["artifact"]["type"], &json["expired"]), (&"clinical_recommendation".into(), &false.into()));
}

#[test]
fn a_signature_is_made_elsewhere_and_checked_before_it_leaves() {
    let keys = Keys::new();
    let artifact = Artifact::new(&draft("clinical_recommendation", recommendation())).unwrap();
    let prepare = || prepare(&artifact, &keys.new.jwk(), Times::from(NOW - 60)).unwrap();
    let der = keys.new.sign_digest(&prepare().digest());
    assert_eq!(prepare().finish_der(&der), Ok(signed(&keys)));
    let raw = keys.new.sign_raw(&prepare().signing_input());
    assert_eq!(prepare().finish(&raw), Ok(signed(&keys)));
    let wrong = keys.old.sign_raw(&prepare().signing_input());
    assert_eq!(prepare().finish(&wrong), Err(SignError::Wrong(keys.new.jwk().kid().to_owned())));
    assert_eq!(prepare().finish_der(&raw), Err(SignError::Malformed));
    for times in [Times::lasting(NOW, 0), Times::lasting(u64::MAX, 1), Times::lasting(1 << 53, 1)] {
        assert_eq!(sign(&artifact, &keys.new, times), Err(SignError::Times));
    }
}

#[test]
fn the_leaf_for_the_log_is_about_the_signing_input() {
    let signed = signed(&Keys::new());
    let entry = signed.log_entry().unwrap();
    assert_eq!(entry.digest, countersign_proof::digest::Digest::of(&signed.jws().signing_input()).0);
    assert_eq!(HashedRekord::parse_body(&entry.to_body().unwrap()).and_then(|entry| entry.check()), Ok(()));
}

#[test]
fn names_of_failures_are_unique_and_documented() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/artifact.md");
    let document = std::fs::read_to_string(document).unwrap();
    let mut names = BTreeSet::new();
    for code in Code::ALL {
        assert!(names.insert(code.name()), "{code} twice");
        assert!(document.contains(&format!("`{code}`")), "{code} is not in docs/artifact.md");
    }
    for name in Types::built_in().unwrap().iter().map(|t| t.name().to_owned()) {
        assert!(document.contains(&format!("`{name}`")), "{name} is not in docs/artifact.md");
    }
}

#[test]
fn the_document_quotes_what_is_made() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/artifact.md");
    let document = std::fs::read_to_string(document).unwrap();
    let signed = signed(&Keys::new());
    let header = serde_json::to_string_pretty(signed.jws().header()).unwrap();
    assert!(document.contains(&header), "docs/artifact.md does not quote:\n{header}");
    let payload = std::str::from_utf8(signed.jws().payload()).unwrap();
    assert!(document.contains(payload), "docs/artifact.md does not quote:\n{payload}");
}
