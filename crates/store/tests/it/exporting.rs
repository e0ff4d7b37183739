//! The exported files: continued, verified, and every change noticed.

use std::fs;
use std::path::{Path, PathBuf};

use countersign_domain::EventType;
use countersign_ledger::export::{IssueKind, VerifyOptions, VerifyReport, export, verify};
use countersign_ledger::state::StateOp;
use countersign_ledger::{Append, Entry};
use countersign_proof::canonical::to_canonical;
use countersign_store::SqliteStore;

use crate::support::{Node, Running, draft, entry, public, with_ops, with_public};

fn export_now(running: &Running, directory: &Path) -> u64 {
    export(&*running.ledger.reader(), &running.ledger.head(), directory).unwrap().lines
}

fn check(directory: &Path) -> VerifyReport {
    verify(directory, &VerifyOptions::default())
}

fn only_file(directory: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    // The test may run across midnight: the last file has the newest lines.
    files.pop().unwrap()
}

#[test]
fn an_export_goes_on_where_it_ended_and_reaches_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let out = dir.path().join("audit");
    let running = node.open();
    running.append_n("a", 4);
    assert_eq!(export_now(&running, &out), 5);
    assert_eq!(export_now(&running, &out), 0);
    running.append_n("b", 3);
    // A crash in the middle of a line.
    let file = only_file(&out);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, [&whole[..], br#"{"commitment":"sha2"#].concat()).unwrap();
    assert_eq!(export_now(&running, &out), 3);
    let options = VerifyOptions {
        checkpoints: vec![running.ledger.head().checkpoint.clone()],
        keys: vec![running.opened.vkey.parse().unwrap()],
    };
    let report = verify(&out, &options);
    assert!(report.is_ok(), "{:?}", report.issues);
    assert_eq!((report.lines, report.recomputed, report.checkpoints, report.from_the_beginning), (8, 8, 1, true));
    running.append_n("a", 1);
    let ahead = VerifyOptions { checkpoints: vec![running.ledger.head().checkpoint.clone()], ..options };
    assert_eq!(verify(&out, &ahead).issues[0].kind, IssueKind::CheckpointNotReached);
    let unsigned = VerifyOptions { keys: Vec::new(), ..ahead };
    assert_eq!(verify(&out, &unsigned).issues[0].kind, IssueKind::CheckpointSignature);
}

#[test]
fn days_are_chained_and_log_order_comes_before_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let out = dir.path().join("audit");
    let running = node.open();
    let day = 86_400_000;
    let today = countersign_ledger::handle::system_clock();
    for time in [today, today + day, today, today + 2 * day] {
        let mut draft = draft("w", EventType::CallDenied);
        draft.time = time;
        running.append(with_ops(Entry::new(draft.prepare().unwrap()), Vec::new())).unwrap();
    }
    export_now(&running, &out);
    let report = check(&out);
    assert!(report.is_ok(), "{:?}", report.issues);
    assert_eq!((report.files, report.lines), (3, 5));
    let mut files: Vec<_> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert_eq!(fs::read_to_string(&files[1]).unwrap().lines().count(), 2, "the late event follows the one before it");
    fs::remove_file(&files[1]).unwrap();
    let kinds: Vec<_> = check(&out).issues.iter().map(|i| i.kind).collect();
    assert!(kinds.contains(&IssueKind::ChainBroken) && kinds.contains(&IssueKind::IndexGap), "{kinds:?}");
    fs::remove_file(&files[0]).unwrap();
    let rest = check(&out);
    assert!(
        rest.is_ok() && !rest.from_the_beginning,
        "a rest of the files holds by itself, and says that it is a rest"
    );
}

#[test]
fn every_change_to_a_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let out = dir.path().join("audit");
    let running = node.open();
    running.append_n("w", 6);
    export_now(&running, &out);
    let file = only_file(&out);
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let expect = |lines: Vec<String>, expected: IssueKind| {
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        let kinds: Vec<_> = check(&out).issues.iter().map(|i| i.kind).collect();
        assert!(kinds.contains(&expected), "{expected:?} not in {kinds:?}");
    };
    let own = || lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    let edit = |n: usize, from: &str, to: &str| {
        let mut lines = own();
        // The last one, since the event inside has members of the same names.
        let at = lines[n].rfind(from).unwrap();
        lines[n].replace_range(at..at + from.len(), to);
        lines
    };
    expect(edit(3, "xxxx", "xyxx"), IssueKind::CommitmentMismatch);
    expect(edit(3, "\"prev\":\"sha256", "\"prev\":\"sha255"), IssueKind::PrevMismatch);
    expect(edit(3, "\"salt\":\"", "\"salt\":\"00"), IssueKind::Malformed);
    expect(edit(3, "\"v\":1,\"workspace\"", "\"v\":9,\"workspace\""), IssueKind::Malformed);
    expect(edit(3, "\"index\":3", "\"index\":4"), IssueKind::IndexGap);
    expect(edit(3, ",\"workspace\":\"w\"}", ",\"workspace\":\"v\"}"), IssueKind::EventMismatch);
    let mut without = own();
    without.remove(3);
    expect(without.clone(), IssueKind::ChainBroken);
    expect(without, IssueKind::SequenceGap);
    let mut twice = own();
    twice.insert(3, twice[3].clone());
    expect(twice, IssueKind::Duplicate);
    fs::write(&file, &text[..text.len() - 1]).unwrap();
    assert_eq!(check(&out).issues[0].kind, IssueKind::Malformed, "cut short");
    fs::write(&file, &text).unwrap();
    assert!(check(&out).is_ok());
    // A body may be erased from the file, as from the log, and the chain holds.
    let line: serde_json::Value = serde_json::from_str(lines[3]).unwrap();
    let mut line = line.as_object().unwrap().clone();
    line.remove("event");
    line.remove("salt");
    line.insert("erased".into(), true.into());
    let mut erased = own();
    erased[3] = serde_json::to_string(&line).unwrap();
    fs::write(&file, erased.join("\n") + "\n").unwrap();
    let report = check(&out);
    assert!(report.is_ok() && report.erased == 1, "{:?}", report.issues);
}

#[test]
fn an_export_outlives_a_restored_database() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let (out, backup) = (dir.path().join("audit"), dir.path().join("backup.db"));
    let running = node.open();
    let first = running.append_n("w", 3).remove(0);
    SqliteStore::open(&node.database).unwrap().backup_to(&backup).unwrap();
    running.append_n("w", 3);
    export_now(&running, &out);
    drop(running);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", node.database.display()));
    }
    fs::copy(&backup, &node.database).unwrap();
    let running = node.open();
    running.append_n("w", 2);
    let note = Entry::new(draft("w", EventType::EventErased).with("erased", first.id.to_string()).prepare().unwrap());
    running.append(with_ops(note, vec![StateOp::Erase { event: first.id }])).unwrap();
    assert_eq!(export_now(&running, &out), 4, "the new log's lines follow those that the database lost");
    let report = check(&out);
    assert!(report.is_ok(), "{:?}", report.issues);
    assert_eq!((report.lines, report.renumbered), (11, 1));
    // An export made from the restored database alone shows the erasure and both logs.
    let fresh = dir.path().join("fresh");
    assert_eq!(export_now(&running, &fresh), 8);
    let report = check(&fresh);
    assert!(report.is_ok() && report.erased == 1, "{:?}", report.issues);
    // A directory of another ledger is not written to.
    let other = Node::at(dir.path().join("other.db"), dir.path().join("other-head"));
    let stranger = other.open();
    assert!(export(&*stranger.ledger.reader(), &stranger.ledger.head(), &out).is_err());
}

#[test]
fn public_entries_have_lines_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::at(dir.path().join("ledger.db"), dir.path().join("head"));
    let out = dir.path().join("audit");
    let running = node.open();
    running.append(with_public(entry("w"), vec![public("w"), public("v")])).unwrap();
    assert_eq!(export_now(&running, &out), 4);
    // The last line is a public entry's: it is gone on from like any other.
    running.append(Append { entries: vec![public("w")], ..Append::default() }).unwrap();
    running.append_n("w", 1);
    assert_eq!(export_now(&running, &out), 2);
    assert_eq!(export_now(&running, &out), 0);
    let options = VerifyOptions {
        checkpoints: vec![running.ledger.head().checkpoint.clone()],
        keys: vec![running.opened.vkey.parse().unwrap()],
    };
    let report = verify(&out, &options);
    assert!(report.is_ok(), "{:?}", report.issues);
    assert_eq!((report.lines, report.entries, report.recomputed, report.checkpoints), (6, 3, 3, 1));
    let file = only_file(&out);
    let text = fs::read_to_string(&file).unwrap();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(to_canonical(&value).unwrap(), line.as_bytes());
        // A reader of events alone finds a version that it does not know, and not a line that it misreads.
        assert_eq!(value["v"], if value.get("entry").is_some() { 2 } else { 1 });
    }
    for (from, to, expected) in [
        ("\"SHA2_256\"", "\"SHA2_512\"", IssueKind::LeafMismatch),
        ("\"SHA2_256\"", "\"SHA2_512\"", IssueKind::ChainBroken),
        ("\"SHA2_256\"", "\"SHA2_512\"", IssueKind::RootMismatch),
        ("\"leaf\":\"sha256:", "\"leaf\":\"sha512:", IssueKind::Malformed),
        ("\"v\":2,", "\"v\":1,", IssueKind::Malformed),
        ("\"v\":2,", "\"v\":3,", IssueKind::Malformed),
        ("{\"entry\":{", "{\"entry\":[],\"other\":{", IssueKind::Malformed),
    ] {
        assert!(text.contains(from));
        fs::write(&file, text.replacen(from, to, 1)).unwrap();
        let kinds: Vec<_> = verify(&out, &options).issues.iter().map(|i| i.kind).collect();
        assert!(kinds.contains(&expected), "{from}: {expected:?} not in {kinds:?}");
    }
    fs::write(
        &file,
        text.lines().filter(|line| !line.contains("\"entry\"")).map(|l| format!("{l}\n")).collect::<String>(),
    )
    .unwrap();
    let kinds: Vec<_> = verify(&out, &options).issues.iter().map(|i| i.kind).collect();
    assert!(kinds.contains(&IssueKind::IndexGap), "{kinds:?}");
}
