//! Governed calls through one node and through two, on one Postgres. All of it shares this machine: what a second node adds
//! shows only where there is a core for it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use countersign_testkit::Node;
use countersign_testkit::postgres::Postgres;
use serde_json::{Value, json};

use super::load::{self, Load, Outcome};
use super::{start_gateway, through_gateway, verify};

const CONNECTIONS: usize = 32;

/// A row for one node and one for two.
///
/// # Errors
/// If a node or the database does not start, or a receipt is missing.
pub fn rows(binary: &Path, directory: &Path, upstream: SocketAddr, seconds: u64) -> Result<Value> {
    crate::setup::programs(&[crate::setup::INITDB])?;
    // Where whoever runs the server can reach it.
    let place = std::env::temp_dir().join(format!("countersign-bench-{}", std::process::id()));
    let mut rows = Vec::new();
    for count in [1, 2] {
        let server = Postgres::create(&place)?;
        let keys = directory.join(format!("keys-{count}"));
        let config = |n: usize| {
            format!(
                "database_url = {:?}\nkeys_dir = {:?}\njoin = {}\n",
                server.url(),
                keys.display().to_string(),
                n > 0
            )
        };
        let start =
            |n: usize| start_gateway(binary, &directory.join(format!("node-{count}-{n}")), upstream, &config(n));
        let nodes = (0..count).map(start).collect::<Result<Vec<Node>>>()?;
        let warm = together(&nodes, Duration::from_millis(700))?;
        let measured = together(&nodes, Duration::from_secs(seconds))?;
        let ids: BTreeSet<[u8; 36]> = warm.receipts.iter().chain(&measured.receipts).copied().collect();
        let calls = warm.latencies.len() + measured.latencies.len();
        let (valid, _) = verify(&nodes[0], &ids)?;
        ensure!(valid == calls, "{calls} calls through {count} nodes, and {valid} valid receipts");
        println!(
            "postgres, {count} nodes, {CONNECTIONS} connections: {:.0} requests/s, p50 {} µs, p99 {} µs",
            measured.rate(),
            measured.percentile(50.0),
            measured.percentile(99.0)
        );
        let mut row = json!({"nodes": count, "connections": CONNECTIONS, "valid_receipts": valid});
        if let (Some(row), Some(more)) = (row.as_object_mut(), load::as_json(&measured).as_object()) {
            row.extend(more.clone());
        }
        rows.push(row);
        nodes.into_iter().try_for_each(|node| node.stop().map(drop))?;
    }
    std::fs::remove_dir_all(&place)?;
    Ok(Value::Array(rows))
}

/// The connections shared out evenly, all at once.
fn together(nodes: &[Node], duration: Duration) -> Result<Outcome> {
    let outcomes: Vec<Result<Outcome>> = thread::scope(|scope| {
        let run = |node: &Node| {
            let way = through_gateway("gateway", node);
            let load =
                Load { address: way.address, request: way.request, connections: CONNECTIONS / nodes.len(), duration };
            scope.spawn(move || load::run(&load))
        };
        let threads: Vec<_> = nodes.iter().map(run).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| anyhow::bail!("a load panicked"))).collect()
    });
    let mut all = Outcome::default();
    for outcome in outcomes {
        let outcome = outcome?;
        all.elapsed = all.elapsed.max(outcome.elapsed);
        all.latencies.extend(outcome.latencies);
        all.receipts.extend(outcome.receipts);
    }
    all.latencies.sort_unstable();
    Ok(all)
}
