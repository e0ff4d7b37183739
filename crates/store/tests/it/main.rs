//! The stores under the ledger: contract, faults, loss of power, restore, erasure, export, migrations.
#![allow(clippy::unwrap_used, missing_docs, reason = "test code")]

mod contract;
mod erasure;
mod exporting;
mod failover;
mod faults;
mod growth;
mod migration;
mod nodes;
mod objects;
mod power;
mod public;
mod redis;
mod restore;
mod s3;
mod support;
mod witness;

use countersign_store::{PostgresOptions, PostgresStore, SqliteStore};

#[test]
fn sqlite_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let mut n = 0;
    contract::run_all(|| {
        n += 1;
        SqliteStore::open(dir.path().join(format!("{n}.db"))).unwrap()
    });
}

#[test]
fn postgres_keeps_the_contract() {
    contract::run_all(|| {
        let url = countersign_testkit::postgres::fresh_schema().unwrap();
        PostgresStore::open(PostgresOptions::new(url)).unwrap()
    });
}

#[test]
fn files_keep_others_out_and_are_whole() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/ledger.db");
    let node = support::Node::at(path.clone(), dir.path().join("head"));
    let ledger = node.open();
    ledger.append_n("w", 3);
    let mode = |p: &std::path::Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let entry = entry.unwrap().path();
        assert_eq!(mode(&entry), 0o600, "{}", entry.display());
    }
    assert_eq!(mode(&dir.path().join("head")), 0o600);
    SqliteStore::open(&path).unwrap().integrity_check().unwrap();
}
