//! What other people's services answer about signatures: a timestamp authority, logs of either version of Rekor, and the files in
//! which certificates, keys and signatures come. Never panics, and nothing counts that the service's key did not sign.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use countersign_trust::authority::Authority;
use countersign_trust::forward::{Answer, FromTiles, read_answer};
use countersign_trust::pem::{CERTIFICATE, blocks, encode};
use countersign_trust::rekor1::{EntryName, describe, evidence, parse_entry, parse_index};
use countersign_trust::root::{LogInstance, TrustedRoot, Window};
use countersign_trust::stamping::{Question, outside_authority};
use countersign_trust::verify::{Artifact, Holder, Policy, signature, verify_detached};
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1_772_366_400;

static PEM: LazyLock<String> = LazyLock::new(|| {
    let authority = Authority::generate("Example", &[1; 32], NOW).expect("a good name").public();
    authority.timestamp_chain.iter().map(|der| encode(der, CERTIFICATE)).collect()
});
static LOG: LazyLock<LogInstance> = LazyLock::new(|| {
    let key = [
        0x19, 0xbf, 0x44, 0x09, 0x69, 0x84, 0xcd, 0xfe, 0x85, 0x41, 0xba, 0xc1, 0x67, 0xdc, 0x3b, 0x96, 0xc8, 0x50,
        0x86, 0xaa, 0x30, 0xb6, 0xb6, 0xcb, 0x0c, 0x5c, 0x38, 0xad, 0x70, 0x31, 0x66, 0xe1,
    ];
    LogInstance::shard("log.example", &key, "Example", Window::since(0)).expect("a good origin")
});

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 6 {
        0 => {
            let authority = outside_authority(PEM.as_bytes(), "https://tsa.example", "Example").expect("a chain");
            // No key has signed anything here.
            let checked = Question::over(b"signature", [1; 16]).check(data, &authority, (NOW, NOW));
            assert!(checked.is_err());
        }
        1 => {
            if let Ok(found) = blocks(data) {
                for block in found.iter().filter(|block| !block.label.contains("-----")) {
                    let again = blocks(encode(&block.der, &block.label).as_bytes());
                    assert_eq!(again.as_deref(), Ok(std::slice::from_ref(block)));
                }
            }
            let _ = outside_authority(data, "https://tsa.example", "Example");
        }
        2 => {
            let Some((status, data)) = data.split_first() else { return };
            let status = [200, 201, 409, 400, 500][usize::from(*status) % 5];
            let answer = read_answer(status, std::str::from_utf8(data).ok(), data, b"{}", &LOG);
            assert!(!matches!(answer, Answer::Logged(..)));
        }
        3 => {
            if let Ok(proof) = FromTiles::new(u64::from(*kind), data) {
                let tiles: BTreeMap<_, _> =
                    proof.tiles().into_iter().map(|tile| (tile, vec![7; 32 * usize::from(tile.width)])).collect();
                assert!(tiles.len() <= 64 && proof.finish(&tiles, b"{}", &LOG).is_err());
            }
        }
        4 => {
            let _ = parse_index(data);
            if let Some((name, json)) = data.split_first_chunk::<64>()
                && let Some(name) = std::str::from_utf8(name).ok().and_then(EntryName::parse)
                && let Ok(entry) = parse_entry(json, &name)
            {
                let _ = describe(&entry);
                let root = TrustedRoot { logs: vec![LOG.clone()], ..TrustedRoot::default() };
                let found = evidence(&entry, &root);
                assert!(found.inclusion.is_none_or(|held| held.is_err()) && found.promise.is_none_or(|held| held.is_err()));
            }
        }
        _ => {
            let (Ok(signature), Ok(holder)) = (signature(data), Holder::key(data).or_else(|_| Holder::certificate(data)))
            else {
                return;
            };
            let (artifact, root) = (Artifact::Bytes(b"artifact"), TrustedRoot::default());
            let report = verify_detached(&signature, &holder, None, &artifact, &root, &Policy::default());
            assert!(!report.is_valid());
        }
    }
});
