//! Fills a node's SQLite database with rows as signatures have them, while the node does not run, so that lists can be measured over more of
//! them than anybody would sign for that. Nothing was signed: whoever verifies one of them finds it broken.
//! Usage: `fill_signatures HOME SEED COUNT`, where SEED is the node's log key in hexadecimal.
#![allow(clippy::unwrap_used, reason = "a tool for benchmarks may stop where it stands")]

use std::path::Path;
use std::time::Instant;

use countersign_ledger::state::StateOp;
use countersign_ledger::trust::{TrustKind, TrustRow};
use countersign_ledger::{Append, Ledger, LedgerOptions};
use countersign_proof::digest::Digest;
use countersign_store::SqliteStore;
use uuid::Uuid;

/// Rows of one append.
const BATCH: u64 = 1000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [home, seed, count]: [String; 3] = arguments.try_into().unwrap();
    let (home, count): (&Path, u64) = (home.as_ref(), count.parse().unwrap());
    let byte = |n: usize| u8::from_str_radix(&seed[2 * n..2 * n + 2], 16).unwrap();
    let options = LedgerOptions::new("localhost", std::array::from_fn(byte), home.join("state/head"));
    let store = SqliteStore::open(home.join("data/countersign.db")).unwrap();
    let (ledger, opened) = Ledger::open(store, options).unwrap();
    assert!(opened.reason.is_none(), "another key than the node's would open another log");
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for start in (0..count).step_by(usize::try_from(BATCH).unwrap()) {
            let ops =
                (start..count.min(start + BATCH)).map(|n| StateOp::TrustRecord { row: Box::new(row(n)) }).collect();
            ledger.append(Append { ops, ..Append::default() }).await.unwrap();
        }
        ledger.shutdown().await;
    });
    println!("{count} rows in {:?}", started.elapsed());
}

fn row(n: u64) -> TrustRow {
    let kinds = ["release", "sbom", "scan_result", "container_image"];
    TrustRow {
        id: Uuid::now_v7(),
        workspace: "default".parse().unwrap(),
        kind: TrustKind::Signature,
        at: countersign_ledger::handle::system_clock(),
        artifact: Digest::of(&n.to_be_bytes()).to_string(),
        artifact_type: kinds[n as usize % kinds.len()].to_owned(),
        subject: Some(format!("app:{n}")),
        chain: None,
        signer: format!("https://bench.example/workspaces/default/signers/{:032x}", n % 7),
        valid: None,
        // As long as what is kept of a signature.
        body: format!(r#"{{"signature":"{}","timestamp":"{}"}}"#, "A".repeat(96), "A".repeat(1800)),
    }
}
