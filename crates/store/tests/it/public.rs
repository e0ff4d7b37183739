//! Public entries among events: one tree, proofs for both kinds, and what fsck finds of them.

use countersign_ledger::export::export;
use countersign_ledger::fsck::FindingKind;
use countersign_ledger::state::{Conflict, StateOp};
use countersign_ledger::tree::{TreeReader, tile};
use countersign_ledger::{Append, AppendError, LogEntry};
use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::merkle::{Hash, verify_inclusion};
use countersign_store::{PostgresOptions, PostgresStore};
use countersign_testkit::postgres::fresh_schema;
use uuid::Uuid;

use crate::growth::damaged;
use crate::support::{Node, Running, entry, public, verifies, with_public};

/// RFC 6962, section 2.1, word by word: no frontier, no tiles.
fn naive_root(leaves: &[Vec<u8>]) -> Hash {
    use countersign_proof::digest::Digest;
    match leaves {
        [] => Digest::of(b"").0,
        [leaf] => Digest::of_parts(&[&[0], leaf]).0,
        _ => {
            let middle = leaves.len().next_power_of_two() / 2;
            let (left, right) = leaves.split_at(middle);
            Digest::of_parts(&[&[1], &naive_root(left), &naive_root(right)]).0
        }
    }
}

/// The leaf data as the format says it, from the rows alone.
fn leaf_data(running: &Running, size: u64) -> Vec<Vec<u8>> {
    let reader = running.ledger.reader();
    (0..size)
        .map(|index| match reader.public_entry_at(0, index).unwrap() {
            Some(row) => row.body,
            None => {
                let row = reader.leaves(0, index, 1).unwrap().remove(0);
                assert_eq!(row.index, index);
                [&[1][..], &row.commitment.0].concat()
            }
        })
        .collect()
}

/// Appends of a few leaves of either kind, in an order that the seed decides.
fn mixed(running: &Running, seed: u64, leaves: u64) {
    let mut state = seed;
    let mut next = |below: u64| {
        // Knuth's MMIX generator; the high bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    while running.ledger.head().size < leaves {
        let events = (0..next(3)).map(|_| entry("w")).collect::<Vec<_>>();
        let entries = (0..next(4)).map(|_| public("w")).collect::<Vec<_>>();
        let before = running.ledger.head().size;
        let appended = running.append(Append { events, entries, ..Append::default() }).unwrap();
        let events = appended.events.iter().map(|placed| placed.index);
        let places = events.chain(appended.entries.iter().map(|placed| placed.index));
        assert!(places.eq(before..running.ledger.head().size), "events first, then entries, without gaps");
    }
}

fn assert_one_tree(running: &Running) {
    let (reader, head) = (running.ledger.reader(), running.ledger.head());
    let data = leaf_data(running, head.size);
    assert_eq!(naive_root(&data), head.root);
    let mut leaves = Vec::new();
    while (leaves.len() as u64) < head.size {
        leaves.extend(reader.entries(0, leaves.len() as u64, head.size).unwrap());
    }
    assert!(leaves.iter().map(|leaf| leaf.data().as_ref().to_vec()).eq(data.iter().cloned()));
    // From memory, and made again from what is stored.
    let (snapshot, stored) = (running.ledger.snapshot(), TreeReader::new(&*reader, 0, head.size));
    for (level, index, width) in [(0, 0, 256), (0, 1, 7), (1, 0, 1)] {
        let from_memory = snapshot.tile(&*reader, level, index, width).unwrap();
        assert_eq!(from_memory.as_ref().map(Vec::len), Some(width));
        assert_eq!(from_memory, tile(&stored, level, index, width).unwrap());
    }
    for (index, leaf) in leaves.iter().enumerate().step_by(13) {
        assert_included(running, 0, index as u64, leaf);
    }
    assert_eq!(running.runtime.block_on(running.ledger.inclusion(0, head.size)).unwrap(), None);
    assert_eq!(running.runtime.block_on(running.ledger.inclusion(7, 0)).unwrap(), None);
    let event = reader.leaves(0, 200, 1).unwrap().remove(0);
    assert!(verifies(&running.receipt(event.id), &running.opened.vkey));
}

fn assert_included(running: &Running, shard: u32, index: u64, leaf: &LogEntry) {
    let proof = running.runtime.block_on(running.ledger.inclusion(shard, index)).unwrap().unwrap();
    let signed = Checkpoint::open(&proof.checkpoint, &proof.vkey.parse().unwrap()).unwrap();
    assert_eq!((signed.origin, signed.size, signed.root), (proof.origin, proof.size, proof.root));
    assert_eq!(proof.index, index);
    verify_inclusion(&leaf.leaf_hash(), index, proof.size, &proof.hashes, &proof.root).unwrap();
}

#[test]
fn a_log_of_both_kinds_has_the_root_of_the_naive_tree() {
    for seed in 1..=4 {
        let dir = tempfile::tempdir().unwrap();
        let mut node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
        let running = node.open();
        mixed(&running, seed, 263 + seed * 11);
        assert_one_tree(&running);
        let (head, tree) = (running.ledger.head(), running.ledger.snapshot());
        let last = running.ledger.reader().entries(0, head.size - 1, head.size).unwrap().remove(0);
        drop(running);
        let report = node.assert_sound();
        assert_eq!((report.events + report.entries, report.tiles), (head.size, 1));
        assert!(report.entries > 50);
        let running = node.open();
        assert_eq!((&*running.ledger.head(), &running.ledger.snapshot().tree), (&*head, &tree.tree));
        drop(running);
        // A closed shard's leaves are proven under the last checkpoint that it had.
        node.domain = "second.example".into();
        let running = node.open();
        running.append(with_public(entry("w"), vec![public("w")])).unwrap();
        assert_included(&running, 0, head.size - 1, &last);
        assert_included(&running, 1, 2, &running.ledger.reader().entries(1, 2, 3).unwrap()[0]);
    }
}

#[test]
fn a_log_of_both_kinds_has_the_root_of_the_naive_tree_on_postgres() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("none"), dir.path().join("head"));
    let url = fresh_schema().unwrap();
    let running = node.open_store(PostgresStore::open(PostgresOptions::new(&url)).unwrap());
    mixed(&running, 5, 290);
    assert_one_tree(&running);
    let head = running.ledger.head();
    let lines = export(&*running.ledger.reader(), &head, &dir.path().join("audit")).unwrap().lines;
    assert_eq!(lines, head.size);
}

#[test]
fn public_entries_are_placed_with_their_append_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let running = node.open();
    let head = running.ledger.head();
    let refused = public("w");
    let id = refused.id();
    let ops = vec![StateOp::IntentClose { call: Uuid::nil() }];
    let conflict = running.append(Append { ops, ..with_public(entry("w"), vec![refused.clone()]) });
    assert_eq!(conflict, Err(AppendError::Conflict(Conflict::NotFound)));
    assert_eq!(running.ledger.head(), head);
    assert_eq!(running.ledger.reader().public_entry(id).unwrap(), None);
    // Alone, with changes of state, and no second time.
    let key = StateOp::WorkspaceKey { workspace: "w".parse().unwrap(), wrapped: vec![1] };
    let alone = Append { entries: vec![refused.clone()], ops: vec![key], ..Append::default() };
    let placed = running.append(alone).unwrap().entries.remove(0);
    assert_eq!((placed.id, placed.shard, placed.index), (id, 0, 1));
    let row = running.ledger.reader().public_entry(id).unwrap().unwrap();
    assert_eq!((row.leaf_hash(), row.workspace.as_str()), (placed.leaf, "w"));
    assert!(running.ledger.reader().workspace_key(&"w".parse().unwrap()).unwrap().is_some());
    let again = running.append(Append { entries: vec![refused], ..Append::default() });
    assert!(matches!(again, Err(AppendError::Unavailable(_))), "{again:?}");
    assert_eq!(running.append_n("w", 1)[0].index, 2, "what could not be stored used up no place");
    assert_eq!((running.ledger.stats().events, running.ledger.stats().groups), (1, 2));
    drop(running);
    assert_eq!(node.assert_sound().entries, 1);
}

#[test]
fn fsck_names_what_is_wrong_with_public_entries() {
    use FindingKind::*;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let running = node.open();
    // Events at even places from 2 on, entries at odd ones.
    running.append_n("w", 1);
    for _ in 0..140 {
        running.append(with_public(entry("w"), vec![public("w")])).unwrap();
    }
    drop(running);
    assert_eq!(node.assert_sound().entries, 140);
    let flip = "body = CAST(replace(CAST(body AS TEXT), 'SHA2_256', 'SHA2_257') AS BLOB)";
    for (sql, expected) in [
        (format!("UPDATE public_entry SET {flip} WHERE position = 101"), vec![TileMismatch, RootMismatch]),
        (format!("UPDATE public_entry SET {flip} WHERE position = 271"), vec![RootMismatch]),
        ("UPDATE public_entry SET body = x'7b' WHERE position = 101".into(), vec![EntryMalformed, RootMismatch]),
        ("UPDATE public_entry SET body = x'7b207d' WHERE position = 101".into(), vec![EntryMalformed]),
        ("UPDATE public_entry SET body = x'5b5d' WHERE position = 101".into(), vec![EntryMalformed]),
        ("UPDATE public_entry SET body = x'7bff7d' WHERE position = 101".into(), vec![EntryMalformed]),
        ("DELETE FROM public_entry WHERE position = 101".into(), vec![LeafMissing]),
        ("DELETE FROM public_entry WHERE position = 271".into(), vec![LeafMissing]),
        ("DELETE FROM event WHERE position = 100".into(), vec![LeafMissing]),
        ("UPDATE public_entry SET position = 100 WHERE position = 101".into(), vec![LeafDoubled, LeafMissing]),
        (
            "UPDATE event SET position = 101 WHERE position = 100; DELETE FROM event WHERE position = 101; \
          UPDATE public_entry SET position = 100 WHERE position = 101"
                .into(),
            vec![LeafMissing],
        ),
    ] {
        let found = damaged(&node, dir.path(), &sql);
        assert!(expected.iter().all(|kind| found.contains(kind)), "{sql}: {expected:?} not in {found:?}");
    }
}
