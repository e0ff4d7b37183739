//! Backups brought back, lost head files, new keys and domains: never a fork, always a new log that says why.

use std::fs;
use std::path::Path;

use countersign_ledger::OpenReason;
use countersign_store::SqliteStore;

use crate::support::{Node, Running, verifies};

fn node(dir: &Path) -> Node {
    Node::at(dir.join("data/ledger.db"), dir.join("outside/head"))
}

/// Puts another database file in place, as somebody who restores one would.
fn replace(node: &Node, with: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", node.database.display()));
    }
    fs::copy(with, &node.database).unwrap();
}

fn opened_as(running: &Running, reason: OpenReason, shard: u32, predecessor_size: u64) {
    assert_eq!((running.opened.reason, running.opened.shard), (Some(reason), shard));
    assert_eq!(running.opened.predecessor.as_ref().map(|p| p.size), Some(predecessor_size));
}

#[test]
fn a_restored_backup_opens_a_new_log_and_all_receipts_verify() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let backup = dir.path().join("backup.db");
    let running = node.open();
    assert_eq!(running.opened.reason, Some(OpenReason::FirstStart));
    let old_key = running.opened.vkey.clone();
    let kept = running.append_n("w", 5);
    SqliteStore::open(&node.database).unwrap().backup_to(&backup).unwrap();
    let lost = running.append_n("w", 5);
    let (before, of_lost) = (running.receipt(kept[0].id), running.receipt(lost[4].id));
    drop(running);

    replace(&node, &backup);
    let running = node.open();
    opened_as(&running, OpenReason::Restored, 1, 11);
    let new_key = running.opened.vkey.clone();
    assert_ne!(new_key, old_key, "another origin, so that old and new heads can never be taken for one another");
    let after = running.append_n("w", 300);
    assert_eq!((after[0].shard, after[0].index), (1, 1));
    assert_eq!(after[0].seq, lost[0].seq, "numbers of lost events are given again, and the log.opened event says so");
    for (receipt, key, what) in [
        (before, &old_key, "from before, taken before"),
        (of_lost, &old_key, "of an event that the database lost"),
        (running.receipt(kept[4].id), &old_key, "from before, taken after"),
        (running.receipt(after[0].id), &new_key, "from after"),
        (running.receipt(after[299].id), &new_key, "the newest"),
    ] {
        assert!(verifies(&receipt, key), "{what}");
    }
    assert!(running.runtime.block_on(running.ledger.receipt(lost[4].id, Vec::new())).unwrap().is_none());
    drop(running);
    node.assert_sound();
    let running = node.open();
    assert_eq!((running.opened.reason, running.opened.shard, running.opened.size), (None, 1, 301));
}

#[test]
fn a_whole_data_directory_brought_back_is_noticed_too() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    node.open().append_n("w", 3);
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(node.database.parent().unwrap()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    node.open().append_n("w", 2);
    let data = node.database.parent().unwrap();
    fs::remove_dir_all(data).unwrap();
    fs::rename(&copy, data).unwrap();
    let running = node.open();
    opened_as(&running, OpenReason::Restored, 1, 6);
    drop(running);
    node.assert_sound();
}

#[test]
fn a_lost_database_or_head_file_opens_a_new_log() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    node.open().append_n("w", 3);
    fs::write(&node.head, b"rubbish").unwrap();
    opened_as(&node.open(), OpenReason::HeadFileDamaged, 1, 4);
    fs::remove_file(&node.head).unwrap();
    opened_as(&node.open(), OpenReason::HeadFileMissing, 2, 1);
    node.assert_sound();
    fs::remove_dir_all(node.database.parent().unwrap()).unwrap();
    opened_as(&node.open(), OpenReason::Restored, 3, 1);
    node.assert_sound();
}

#[test]
fn two_continuations_of_one_log_are_a_fork_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    node.open().append_n("w", 3);
    let (backup, head) = (dir.path().join("backup.db"), dir.path().join("head-then"));
    SqliteStore::open(&node.database).unwrap().backup_to(&backup).unwrap();
    fs::copy(&node.head, &head).unwrap();
    node.open().append_n("w", 1);
    let other = dir.path().join("head-other");
    fs::rename(&node.head, &other).unwrap();
    replace(&node, &backup);
    fs::rename(&head, &node.head).unwrap();
    node.open().append_n("w", 1);
    fs::rename(&other, &node.head).unwrap();
    opened_as(&node.open(), OpenReason::Forked, 1, 5);
}

#[test]
fn a_new_key_or_domain_opens_a_new_log_without_repeating_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path());
    node.open().append_n("w", 3);
    node.seed = [1; 32];
    let running = node.open();
    opened_as(&running, OpenReason::KeyChanged, 1, 4);
    assert_eq!(running.append_n("w", 1)[0].seq, 4);
    drop(running);
    node.domain = "other.example".into();
    let running = node.open();
    opened_as(&running, OpenReason::DomainChanged, 2, 2);
    assert!(running.opened.origin.ends_with(".other.example"));
    drop(running);
    node.assert_sound();
}

#[test]
fn a_crash_before_the_head_goes_outside_is_no_reason_for_a_new_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = node(dir.path());
    let running = node.open();
    running.append_n("w", 2);
    drop(running);
    let then = fs::read(&node.head).unwrap();
    // One group ahead of the head outside.
    node.open().append_n("w", 1);
    fs::write(&node.head, &then).unwrap();
    assert_eq!(node.open().opened.reason, None);
    // A whole new log ahead of the head outside, for a new key and for a restored backup.
    let then = fs::read(&node.head).unwrap();
    node.seed = [1; 32];
    assert_eq!(node.open().opened.reason, Some(OpenReason::KeyChanged));
    fs::write(&node.head, &then).unwrap();
    assert_eq!(node.open().opened.reason, None);
    let backup = dir.path().join("backup.db");
    SqliteStore::open(&node.database).unwrap().backup_to(&backup).unwrap();
    node.open().append_n("w", 4);
    let then = fs::read(&node.head).unwrap();
    replace(&node, &backup);
    assert_eq!(node.open().opened.reason, Some(OpenReason::Restored));
    fs::write(&node.head, &then).unwrap();
    assert_eq!(node.open().opened.reason, None);
    node.assert_sound();
}

#[test]
fn only_one_process_holds_the_head_file() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let _running = node.open();
    let store = SqliteStore::open(&node.database).unwrap();
    let options = countersign_ledger::LedgerOptions::new(&node.domain, node.seed, &node.head);
    assert!(countersign_ledger::Ledger::open(store, options).is_err());
}
