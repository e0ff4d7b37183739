//! Many leaves: tiles, receipts at every place, groups from many callers, and what fsck finds in a damaged database.

use std::path::Path;

use countersign_domain::EventType;
use countersign_ledger::fsck::FindingKind;
use countersign_ledger::tree::{TreeReader, tile};
use countersign_ledger::{Append, Disclose, Entry, LogEntry};
use countersign_proof::merkle::Frontier;
use countersign_proof::receipt::{Label, value_digest};
use uuid::Uuid;

use crate::support::{Node, Running, draft, entry, one, verifies};

/// Appends from many tasks at once, so that groups form.
fn crowd(running: &Running, tasks: usize, each: usize) -> Vec<Uuid> {
    running.runtime.block_on(async {
        let tasks: Vec<_> = (0..tasks)
            .map(|task| {
                let ledger = running.ledger.clone();
                tokio::spawn(async move {
                    let mut ids = Vec::new();
                    for _ in 0..each {
                        let placed = ledger.append(one(entry(&format!("w{}", task % 5)))).await.unwrap();
                        ids.push(placed.events[0].id);
                    }
                    ids
                })
            })
            .collect();
        let mut ids = Vec::new();
        for task in tasks {
            ids.extend(task.await.unwrap());
        }
        ids
    })
}

#[test]
fn receipts_verify_at_every_place_and_the_tree_is_the_naive_one() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let running = node.open();
    let ids = crowd(&running, 40, 20);
    let vkey = running.opened.vkey.clone();
    for id in ids.iter().step_by(37) {
        assert!(verifies(&running.receipt(*id), &vkey));
    }
    let (reader, head) = (running.ledger.reader(), running.ledger.head());
    assert_eq!(head.size, 801);
    assert!(running.ledger.stats().groups < 800, "callers that wait share a group");
    let leaves: Vec<_> = reader.entries(0, 0, 801).unwrap().iter().map(LogEntry::leaf_hash).collect();
    let mut naive = Frontier::new();
    leaves.iter().for_each(|leaf| naive.append(*leaf));
    assert_eq!(naive.root(), head.root);
    // Tiles from memory, and made again from what is stored.
    let snapshot = running.ledger.snapshot();
    let stored = TreeReader::new(&*reader, 0, 801);
    for (level, index, width) in [(0, 0, 256), (0, 3, 33), (0, 3, 7), (1, 0, 3), (1, 0, 2)] {
        let from_memory = snapshot.tile(&*reader, level, index, width).unwrap();
        assert_eq!(from_memory.as_ref().map(Vec::len), Some(width));
        assert_eq!(from_memory, tile(&stored, level, index, width).unwrap());
    }
    assert_eq!(snapshot.tile(&*reader, 0, 3, 7).unwrap().unwrap(), leaves[768..775]);
    for (level, index, width) in [(0, 3, 34), (0, 4, 1), (2, 0, 1), (1, 1, 1), (0, u64::MAX, 1), (9, 0, 1), (0, 0, 257)]
    {
        assert_eq!(snapshot.tile(&*reader, level, index, width).unwrap(), None, "{level}/{index}.p/{width}");
    }
    drop(running);
    assert_eq!(node.assert_sound().tiles, 3);
    // The same tree after a restart.
    let running = node.open();
    assert_eq!(*running.ledger.head(), *head);
    assert_eq!(running.ledger.snapshot().tree, snapshot.tree);
}

#[test]
fn a_receipt_holds_the_events_that_led_to_it_and_what_is_disclosed() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let running = node.open();
    let call = Uuid::now_v7();
    let (salt, arguments) = ([3; 32], serde_json::json!({"budget": 5000}));
    let digest = value_digest(Label::Input, &salt, &arguments).unwrap().to_string();
    let request = draft("w", EventType::CallPending).with("input_digest", digest);
    let approval = draft("w", EventType::ApprovalGranted).parent(Some(request.id));
    let outcome = draft("w", EventType::CallCompleted).parent(Some(approval.id));
    let (request_id, approval_id, outcome_id) = (request.id, approval.id, outcome.id);
    let later = draft("w", EventType::CallReplayed);
    let mut entries: Vec<_> = [request, outcome, later].into_iter().map(|d| Entry::new(d.prepare().unwrap())).collect();
    entries.iter_mut().for_each(|e| e.call = Some(call));
    entries[0].detail_salt = Some(salt);
    // The approval is found by the parent link alone.
    entries.insert(1, Entry::new(approval.prepare().unwrap()));
    running.append(Append { events: entries, ops: Vec::new(), ..Append::default() }).unwrap();
    let disclose = |value| vec![Disclose { event: request_id, label: Label::Input, value }];
    let receipt = |disclose| running.runtime.block_on(running.ledger.receipt(outcome_id, disclose));
    let made = receipt(disclose(arguments.clone())).unwrap().unwrap();
    let ids: Vec<_> = made.events.iter().map(|e| e.event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, [request_id, approval_id, outcome_id].map(|id| id.to_string()));
    assert_eq!(made.disclosures[0].value, arguments);
    assert!(verifies(&made.to_bytes().unwrap(), &running.opened.vkey));
    assert!(receipt(disclose(serde_json::json!({"budget": 5001}))).is_err());
    let plain = String::from_utf8(receipt(Vec::new()).unwrap().unwrap().to_bytes().unwrap()).unwrap();
    assert!(!plain.contains("budget") && made.disclosures.len() == 1);
}

/// Copies a sound database, damages the copy with SQL, and says what fsck finds.
pub(crate) fn damaged(node: &Node, dir: &Path, sql: &str) -> Vec<FindingKind> {
    let copy = Node::at(dir.join(format!("{}.db", Uuid::now_v7())), node.head.clone());
    countersign_store::sqlite::backup(&node.database, &copy.database).unwrap();
    let connection = rusqlite::Connection::open(&copy.database).unwrap();
    connection.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON;").unwrap();
    connection.execute_batch(sql).unwrap();
    assert!(connection.changes() > 0, "{sql} changed nothing");
    drop(connection);
    copy.fsck().findings.iter().map(|f| f.kind).collect()
}

#[test]
fn fsck_names_what_is_wrong() {
    use FindingKind::*;
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    crowd(&node.open(), 20, 15);
    node.domain = "second.example".into();
    node.open().append_n("w1", 10);
    node.assert_sound();
    let second = "position > (1 << 40)";
    for (sql, expected) in [
        (
            "UPDATE event SET body = CAST(replace(CAST(body AS TEXT), 'xxxx', 'yyyy') AS BLOB) WHERE position = 100",
            CommitmentMismatch,
        ),
        ("UPDATE event SET salt = zeroblob(32) WHERE position = 100", CommitmentMismatch),
        ("UPDATE event SET body = x'7b' WHERE position = 100", EventMalformed),
        ("UPDATE event SET body = CAST(' ' || CAST(body AS TEXT) AS BLOB) WHERE position = 100", EventMalformed),
        ("UPDATE event SET body = NULL, salt = NULL WHERE position = 100", ErasureUnlogged),
        ("DELETE FROM event WHERE position = 100", LeafMissing),
        ("DELETE FROM event WHERE position = 300", LeafMissing),
        ("UPDATE event SET commitment = zeroblob(32) WHERE position = 100", RootMismatch),
        ("UPDATE event SET commitment = zeroblob(32) WHERE position = 100", TileMismatch),
        ("UPDATE event SET commitment = zeroblob(32) WHERE position = 100", PrevMismatch),
        ("UPDATE event SET seq = 999 WHERE position = 100", SequenceGap),
        ("UPDATE event SET kind = 'call.denied' WHERE position = 100", EventMismatch),
        ("UPDATE event SET time = 1 WHERE position = 100", EventMismatch),
        ("UPDATE tile SET hashes = zeroblob(8192)", TileMismatch),
        ("DELETE FROM tile", TileMissing),
        ("UPDATE head SET frontier = zeroblob(length(frontier))", FrontierMismatch),
        ("UPDATE head SET root = zeroblob(32)", RootMismatch),
        ("UPDATE head SET size = size - 1", CheckpointMismatch),
        ("UPDATE head SET size = size - 1", HeadFileAhead),
        ("UPDATE head SET size = size + 1", LeafMissing),
        ("UPDATE head SET checkpoint = 'x'", CheckpointSignature),
        ("UPDATE shard SET checkpoint = NULL WHERE shard = 0", CheckpointSignature),
        ("UPDATE shard SET size = size - 1 WHERE shard = 0", CheckpointMismatch),
        ("UPDATE shard SET size = size - 1 WHERE shard = 0", PredecessorMismatch),
        ("UPDATE shard SET vkey = (SELECT vkey FROM shard WHERE shard = 1) WHERE shard = 0", CheckpointSignature),
        ("UPDATE shard SET vkey = (SELECT vkey FROM shard WHERE shard = 1) WHERE shard = 0", OpeningMissing),
        ("UPDATE shard SET origin = 'x.example' WHERE shard = 1", OpeningMissing),
        ("DELETE FROM head", HeadMissing),
        (&format!("UPDATE event SET commitment = zeroblob(32) WHERE {second}"), HeadFileContradicts),
    ] {
        let found = damaged(&node, dir.path(), sql);
        assert!(found.contains(&expected), "{sql}: {expected:?} not in {found:?}");
    }
    // A body that comes back after its erasure was logged.
    let running = node.open();
    let victim = running.append_n("w2", 1).remove(0);
    let note = draft("w2", EventType::EventErased).with("erased", victim.id.to_string()).prepare().unwrap();
    running.append(one(Entry::new(note))).unwrap();
    drop(running);
    let kinds: Vec<_> = node.fsck().findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [ErasedBodyPresent]);
    // Keys that nobody vouches for, and heads outside that are not there.
    let store = countersign_store::SqliteStore::open(&node.database).unwrap();
    let stranger = countersign_proof::note::NoteSigner::from_seed("x", [1; 32]).unwrap().verifier_key();
    let check = |head_file, anchors| {
        let options = countersign_ledger::FsckOptions { head_file, anchors };
        let report = countersign_ledger::fsck(&*countersign_ledger::Store::reader(&store), &options);
        report.findings.iter().map(|f| f.kind).filter(|k| *k != ErasedBodyPresent).collect::<Vec<_>>()
    };
    assert_eq!(check(None, vec![stranger]), [KeyUnknown, KeyUnknown]);
    let own = countersign_proof::note::NoteSigner::from_seed("x", node.seed).unwrap().verifier_key();
    assert_eq!(check(None, vec![own]), []);
    assert_eq!(check(Some(dir.path().join("nothing")), Vec::new()), [HeadFileMissing]);
    std::fs::write(dir.path().join("rubbish"), b"rubbish").unwrap();
    assert_eq!(check(Some(dir.path().join("rubbish")), Vec::new()), [HeadFileDamaged]);
}

#[test]
fn an_append_that_cannot_be_stored_refuses_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let running = node.open();
    let taken = entry("w").event;
    running.append(one(Entry::new(taken.clone()))).unwrap();
    let results = running.runtime.block_on(async {
        let tasks: Vec<_> = (0..40)
            .map(|n| {
                let (ledger, entry) =
                    (running.ledger.clone(), if n == 20 { Entry::new(taken.clone()) } else { entry("w") });
                tokio::spawn(async move { ledger.append(one(entry)).await })
            })
            .collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        results
    });
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_ok(), n != 20, "{n}: {result:?}");
    }
    drop(running);
    assert_eq!(node.assert_sound().events, 41);
}

#[test]
fn conflicts_refuse_one_append_and_leave_the_group() {
    use countersign_ledger::AppendError;
    use countersign_ledger::state::{Conflict, StateOp};
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let running = node.open();
    let bad = || Append {
        events: vec![entry("w")],
        ops: vec![StateOp::IntentClose { call: Uuid::nil() }],
        ..Append::default()
    };
    let results = running.runtime.block_on(async {
        let (a, b) = (running.ledger.append(bad()), running.ledger.append(one(entry("w"))));
        let (a, b, c) = tokio::join!(a, b, running.ledger.append(bad()));
        [a, b, c]
    });
    assert_eq!(results[0], Err(AppendError::Conflict(Conflict::NotFound)));
    assert_eq!(results[2], Err(AppendError::Conflict(Conflict::NotFound)));
    assert_eq!(results[1].as_ref().unwrap().events[0].seq, 1, "no number was used up by the refused ones");
    let head = running.ledger.head();
    let only_ops = StateOp::WorkspaceKey { workspace: "w".parse().unwrap(), wrapped: vec![1] };
    running.append(Append { events: Vec::new(), ops: vec![only_ops], ..Append::default() }).unwrap();
    assert_eq!(running.ledger.head(), head, "changes of state alone do not move the head");
    assert!(running.ledger.reader().workspace_key(&"w".parse().unwrap()).unwrap().is_some());
    running.runtime.block_on(running.ledger.shutdown());
    assert_eq!(running.append(one(entry("w"))), Err(AppendError::Closed));
}
