//! Receipts with cosignatures: which checkpoint an event is proved under, and for whom that is enough.

use countersign_ledger::state::StateOp;
use countersign_ledger::witness::CosignatureRow;
use countersign_ledger::{Append, Head};
use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::cosignature::cosign;
use countersign_proof::merkle::verify_consistency;
use countersign_proof::note::{NoteSigner, SignedNote, VerifierKey};
use countersign_proof::report::Code;
use countersign_proof::{TrustAnchors, verify_file};
use uuid::Uuid;

use crate::support::{Node, Running};

fn witness(name: &str) -> NoteSigner {
    NoteSigner::from_seed(name, [name.len() as u8; 32]).unwrap()
}

/// As a witness and this node would do it together.
fn cosigned_by(running: &Running, head: &Head, name: &str) {
    let signer = witness(name);
    let body = SignedNote::parse(&head.checkpoint).unwrap().text().to_owned();
    let row = CosignatureRow {
        shard: head.shard,
        size: head.size,
        witness: signer.cosignature_key().to_string(),
        line: cosign(&body, &signer, 1_700_000_000).unwrap().trim_end().to_owned(),
        checkpoint: head.checkpoint.clone(),
        at: 1,
    };
    let before = running.ledger.head().size;
    running.append(Append { ops: vec![StateOp::Cosignature { row: Box::new(row) }], ..Append::default() }).unwrap();
    assert_eq!(running.ledger.head().size, before, "no leaf is spent on it");
}

/// How many of the two witnesses stand behind a receipt, by demanding ever more.
fn quorum(running: &Running, event: Uuid) -> usize {
    let receipt = running.receipt(event);
    let shards = running.ledger.reader().shards().unwrap();
    let logs: Vec<VerifierKey> = shards.iter().map(|shard| shard.vkey.parse().unwrap()).collect();
    let verify = |quorum: usize| {
        let anchors = TrustAnchors::new().with_quorum(quorum);
        let anchors = logs.iter().cloned().fold(anchors, TrustAnchors::with);
        let keys = ["one", "three"].map(|name| witness(name).cosignature_key());
        verify_file(&receipt, &keys.into_iter().fold(anchors, TrustAnchors::with))
    };
    let found = (0..3).take_while(|quorum| verify(*quorum).is_valid()).count() - 1;
    let more = verify(found + 1);
    assert_eq!(more.failures().collect::<Vec<_>>(), [Code::QuorumMissed], "and nothing else is wrong");
    found
}

#[test]
fn a_receipt_has_as_many_cosignatures_as_any_checkpoint_that_covers_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let running = node.open();
    let first = running.append_n("w", 300);
    let head = running.ledger.head();
    assert_eq!(quorum(&running, first[0].id), 0, "nobody cosigned yet");
    cosigned_by(&running, &head, "one");
    cosigned_by(&running, &head, "three");
    let second = running.append_n("w", 5);
    assert_eq!(quorum(&running, second[0].id), 0, "the cosigned checkpoint does not cover it");
    // One of the two is away for a while.
    cosigned_by(&running, &running.ledger.head(), "one");
    let third = running.append_n("w", 2);
    let check = |running: &Running| {
        assert_eq!(quorum(running, first[0].id), 2);
        assert_eq!(quorum(running, first[299].id), 2, "the last one that it covers");
        assert_eq!(quorum(running, second[0].id), 1);
        assert_eq!(quorum(running, second[4].id), 1);
        assert_eq!(quorum(running, third[0].id), 0, "no cosigned checkpoint covers it");
    };
    check(&running);
    drop(running);
    check(&node.open());
    // The same when the shard is closed.
    node.domain = "second.example".into();
    let running = node.open();
    let fourth = running.append_n("w", 1);
    check(&running);
    cosigned_by(&running, &running.ledger.head(), "three");
    assert_eq!(quorum(&running, fourth[0].id), 1);
    drop(running);
    node.assert_sound();
}

#[test]
fn the_checkpoint_carries_what_was_given_for_exactly_it() {
    let dir = tempfile::tempdir().unwrap();
    let running = Node::at(dir.path().join("ledger.db"), dir.path().join("head")).open();
    let lines = || {
        let note = running.runtime.block_on(running.ledger.cosigned_checkpoint()).unwrap();
        let note = SignedNote::parse(note).unwrap();
        let by = |name| note.signatures_by(&witness(name).cosignature_key()).count();
        (note.signatures().len(), by("one"), by("three"))
    };
    assert_eq!(lines(), (1, 0, 0));
    cosigned_by(&running, &running.ledger.head(), "one");
    cosigned_by(&running, &running.ledger.head(), "three");
    assert_eq!(lines(), (3, 1, 1));
    running.append_n("w", 1);
    assert_eq!(lines(), (1, 0, 0), "a new one");
}

#[test]
fn proofs_between_any_two_sizes_hold() {
    let dir = tempfile::tempdir().unwrap();
    let running = Node::at(dir.path().join("ledger.db"), dir.path().join("head")).open();
    let mut heads = Vec::new();
    for n in [1, 2, 250, 3, 60] {
        running.append_n("w", n);
        heads.push(running.ledger.head());
    }
    let proof = |old, new| running.runtime.block_on(running.ledger.consistency(0, old, new)).unwrap();
    for old in &heads {
        for new in heads.iter().filter(|new| new.size >= old.size) {
            let proof = proof(old.size, new.size).unwrap();
            verify_consistency(old.size, new.size, &old.root, &new.root, &proof).unwrap();
            let parsed = Checkpoint::parse(SignedNote::parse(&new.checkpoint).unwrap().text()).unwrap();
            assert_eq!((parsed.size, parsed.root), (new.size, new.root));
        }
    }
    let newest = heads[4].size;
    assert_eq!(proof(0, newest), Some(vec![]));
    assert_eq!((proof(1, newest + 1), proof(newest, 5)), (None, None));
    assert_eq!(running.runtime.block_on(running.ledger.consistency(1, 0, 1)).unwrap(), None, "no such shard");
}
