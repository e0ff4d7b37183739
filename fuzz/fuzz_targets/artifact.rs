//! Artifacts, their types and their signatures: one spelling, the schema agrees, and nothing is valid that nobody signed.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use countersign_proof::jwk::JwkSet;
use countersign_trust::artifact::report::KeyState;
use countersign_trust::artifact::sign::{Times, sign};
use countersign_trust::artifact::types::{ArtifactType, Types};
use countersign_trust::artifact::verify::{Given, verify};
use countersign_trust::artifact::{Artifact, schema};
use countersign_trust::keys::Signer;
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1_772_366_400;

static TYPES: LazyLock<Types> = LazyLock::new(|| Types::built_in().expect("good types"));
static ENVELOPE: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    jsonschema::options().should_validate_formats(true).build(&schema::envelope()).expect("a good schema")
});
/// Neither signed the seeds.
static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::from_seed(&[200; 32], "fuzz"));
static OTHER: LazyLock<Signer> = LazyLock::new(|| Signer::from_seed(&[201; 32], "fuzz"));

fn given<'a>(keys: &'a JwkSet, states: &'a BTreeMap<String, KeyState>) -> Given<'a> {
    Given { keys, workspace: None, states, now: NOW, existed_at: None, types: None }
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let states = BTreeMap::new();
    match kind % 3 {
        0 => {
            let Ok(artifact) = Artifact::parse(data) else { return };
            assert_eq!(Artifact::parse(artifact.canonical()).as_ref(), Ok(&artifact));
            let value = serde_json::from_slice(artifact.canonical()).expect("JSON");
            assert!(ENVELOPE.is_valid(&value), "the schema refuses it");
            let _ = TYPES.check(&artifact).map(ArtifactType::name);
            let signed = sign(&artifact, &SIGNER, Times::from(NOW)).expect("every artifact can be signed");
            let (mut ours, mut others) = (JwkSet::default(), JwkSet::default());
            ours.add(SIGNER.jwk()).expect("the first one");
            others.add(OTHER.jwk()).expect("the first one");
            for file in [signed.to_flattened(), signed.to_compact().into_bytes()] {
                assert_eq!(verify(&file, &given(&ours, &states)).artifact.as_ref(), Some(&artifact));
                assert!(!verify(&file, &given(&others, &states)).report.is_valid());
            }
        }
        1 => {
            let mut keys = JwkSet::default();
            keys.add(OTHER.jwk()).expect("the first one");
            assert!(!verify(data, &given(&keys, &states)).report.is_valid());
        }
        _ => {
            let Ok(text) = std::str::from_utf8(data) else { return };
            match ArtifactType::parse(text, "type.yaml") {
                Ok(parsed) => assert!(!parsed.name().is_empty() && parsed.name().len() <= 64),
                Err(error) => assert!(error.to_string().starts_with("type.yaml")),
            }
        }
    }
});
