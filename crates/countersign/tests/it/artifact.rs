//! Signed artifacts before the auditor's command: files and a key set, and nothing else of ours.

#[path = "../../../trust/tests/it/artifact_cases.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod artifact_cases;

use std::path::{Path, PathBuf};
use std::process::Output;

use artifact_cases::{WORKSPACE, all};
use serde_json::Value;
use tempfile::TempDir;

use super::{clean, expect, parsed};

/// A case's files.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The files of a case: the JWS, and the key set with what became of each key.
    fn of(&self, name: &str) -> (PathBuf, PathBuf) {
        let case = all().into_iter().find(|case| case.name == name).unwrap();
        (self.write("a.jws", &case.file), self.write("jwks.json", case.published().to_value().to_string()))
    }
}

fn verify(jws: &Path, more: &[&str]) -> Output {
    clean().arg("verify").arg(jws).args(more).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn every_case_ends_with_its_exit_code_and_names_what_is_wrong() {
    let files = Files::new();
    for case in all() {
        // The command reads the clock, for which that time has passed.
        if case.name.starts_with("iat-in-future") {
            continue;
        }
        let jws = files.write("a.jws", &case.file);
        let keys = files.write("jwks.json", case.published().to_value().to_string());
        let output = verify(&jws, &["--jwks", keys.to_str().unwrap(), "--workspace", WORKSPACE, "--json"]);
        let report = parsed(&output);
        let failed: Vec<&str> =
            report["checks"].as_array().unwrap().iter().filter(|c| c["status"] == "failed").map(code).collect();
        // What takes the registry of types is the node's to say.
        let (exit, expected) = match case.refused {
            [] | ["body_mismatch"] => (0, &[][..]),
            ["key_unknown"] => (4, &[][..]),
            codes => (3, codes),
        };
        assert_eq!((output.status.code(), failed.as_slice()), (Some(exit), expected), "{}: {report:#}", case.name);
        assert_eq!(report["kind"], "jws");
    }
}

fn code(check: &Value) -> &str {
    check["code"].as_str().unwrap_or_default()
}

#[test]
fn nothing_is_valid_without_keys_and_what_was_not_said_is_told() {
    let files = Files::new();
    let (jws, keys) = files.of("good-clinical_recommendation-compact");
    let keys = keys.to_str().unwrap();
    let bare = verify(&jws, &[]);
    expect(&bare, 4);
    assert!(text(&bare).contains("UNANCHORED") && text(&bare).contains("anyone could have made this file"));
    let output = verify(&jws, &["--jwks", keys]);
    expect(&output, 0);
    for part in [
        "VALID",
        "019ca945-0a00-7303-8303-030303030303 version 1, a \"clinical_recommendation\" of \"north-clinic\"",
        "the key set says that the key is active",
        "nobody said whose the keys are",
        "expired at 2026-05-30T11:59:00Z",
        "countersign artifacts verify",
        "since the key set was fetched",
    ] {
        assert!(text(&output).contains(part), "{part}:\n{}", text(&output));
    }
    expect(&verify(&jws, &["--jwks", keys, "--workspace", "south-clinic"]), 3);
    expect(&verify(&jws, &["--workspace", WORKSPACE]), 2);
    expect(&verify(&jws, &["--jwks", jws.to_str().unwrap()]), 2);
    // Of two sets, either may have the key; a receipt's keys are of no use to it.
    let empty = files.write("empty.json", r#"{"keys":[]}"#);
    let empty = empty.to_str().unwrap();
    expect(&verify(&jws, &["--jwks", empty, "--jwks", keys, "--workspace", WORKSPACE]), 0);
    expect(&verify(&jws, &["--jwks", empty]), 4);
}

#[test]
fn marks_of_keys_weigh_and_unreadable_ones_are_no_keys() {
    let files = Files::new();
    let (jws, keys) = files.of("good-before-rotation-flattened");
    let set: Value = serde_json::from_slice(&std::fs::read(&keys).unwrap()).unwrap();
    let at = |state: &str, time: &str, value: Value| {
        let mut set = set.clone();
        for key in set["keys"].as_array_mut().unwrap() {
            key.as_object_mut().unwrap().retain(|name, _| !name.starts_with("countersign_"));
            key["countersign_state"] = state.into();
            key[time] = value.clone();
        }
        let path = files.write("changed.json", set.to_string());
        verify(&jws, &["--jwks", path.to_str().unwrap()])
    };
    let retired_before = at("retired", "countersign_retired_at", 1.into());
    expect(&retired_before, 3);
    assert!(text(&retired_before).contains("signed after the key was retired at 1970-01-01T00:00:01Z"));
    let revoked = at("revoked", "countersign_revoked_at", 1_900_000_000.into());
    expect(&revoked, 3);
    assert!(text(&revoked).contains("key_revoked") && text(&revoked).contains("only the signer says"));
    expect(&at("retired", "countersign_retired_at", 1_900_000_000.into()), 0);
    expect(&at("lost", "countersign_lost_at", 1.into()), 4);
    expect(&at("revoked", "countersign_revoked_at", Value::Null), 4);
}

#[test]
fn a_changed_character_is_never_valid() {
    let files = Files::new();
    let (jws, keys) = files.of("good-baseline_module-compact");
    let good = std::fs::read(&jws).unwrap();
    for at in (0..good.len()).step_by(good.len() / 40) {
        let mut changed = good.clone();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let path = files.write("changed.jws", changed);
        let output = verify(&path, &["--jwks", keys.to_str().unwrap()]);
        assert_ne!(output.status.code(), Some(0), "character {at}: {}", text(&output));
    }
}
