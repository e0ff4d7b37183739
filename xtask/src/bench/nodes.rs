//! Governed calls through one node and through two, on one Postgres. All of it shares this machine: what a second node adds
//! shows only where there is a core for it. So the same is measured again with nodes that are held to a part of a core each,
//! as if each had a small machine of its own.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::Node;
use countersign_testkit::postgres::Postgres;
use serde_json::{Value, json};

use super::load::{self, Load, Outcome};
use super::{start_gateway, through_gateway, verify};

const CONNECTIONS: usize = 32;
/// Of each 10 ms a node that is held back may run so long, in μs.
const SHARE: u32 = 3_000;
const PERIOD: u32 = 10_000;

/// A row for one node and one for two, as they are and held back.
///
/// # Errors
/// If a node or the database does not start, or a receipt is missing.
pub fn rows(binary: &Path, directory: &Path, upstream: SocketAddr, seconds: u64) -> Result<Value> {
    crate::setup::programs(&[crate::setup::INITDB])?;
    let mut rows = Vec::new();
    for (count, held_back) in [(1, false), (2, false), (1, true), (2, true)] {
        let name = format!("{count}{}", if held_back { "-held" } else { "" });
        // Where whoever runs the server can reach it.
        let place = std::env::temp_dir().join(format!("countersign-bench-{}", std::process::id()));
        let server = Postgres::create(&place)?;
        let keys = directory.join(format!("keys-{name}"));
        let config = |n: usize| {
            format!(
                "database_url = {:?}\nkeys_dir = {:?}\njoin = {}\n",
                server.url(),
                keys.display().to_string(),
                n > 0
            )
        };
        let start = |n: usize| start_gateway(binary, &directory.join(format!("node-{name}-{n}")), upstream, &config(n));
        let nodes = (0..count).map(start).collect::<Result<Vec<Node>>>()?;
        let shares = nodes.iter().filter(|_| held_back).map(Share::hold).collect::<Result<Vec<_>>>();
        match shares {
            Ok(_shares) => rows.push(row(&nodes, held_back, seconds)?),
            Err(error) => println!("postgres, {count} nodes held to a part of a core: not measured ({error:#})"),
        }
        nodes.into_iter().try_for_each(|node| node.stop().map(drop))?;
        drop(server);
        fs::remove_dir_all(&place)?;
    }
    Ok(Value::Array(rows))
}

fn row(nodes: &[Node], held_back: bool, seconds: u64) -> Result<Value> {
    let warm = together(nodes, Duration::from_millis(700))?;
    let measured = together(nodes, Duration::from_secs(seconds))?;
    let ids: BTreeSet<[u8; 36]> = warm.receipts.iter().chain(&measured.receipts).copied().collect();
    let (calls, count) = (warm.latencies.len() + measured.latencies.len(), nodes.len());
    let (valid, _) = verify(&nodes[0], &ids)?;
    ensure!(valid == calls, "{calls} calls through {count} nodes, and {valid} valid receipts");
    let share = held_back.then(|| f64::from(SHARE) / f64::from(PERIOD));
    println!(
        "postgres, {count} nodes{}, {CONNECTIONS} connections: {:.0} requests/s, p50 {} µs, p99 {} µs",
        share.map(|share| format!(" held to {share} of a core")).unwrap_or_default(),
        measured.rate(),
        measured.percentile(50.0),
        measured.percentile(99.0)
    );
    let mut row = json!({"nodes": count, "cores_per_node": share, "connections": CONNECTIONS, "valid_receipts": valid});
    if let (Some(row), Some(more)) = (row.as_object_mut(), load::as_json(&measured).as_object()) {
        row.extend(more.clone());
    }
    Ok(row)
}

/// A control group that holds a process to its share of a core. The process leaves it when this is dropped.
struct Share {
    group: PathBuf,
    root: PathBuf,
    pid: u32,
}

impl Share {
    fn hold(node: &Node) -> Result<Self> {
        let pid = node.pid();
        let (first, second) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
        let is_first = first.join("cgroup.procs").exists();
        let root = if is_first { first } else { second }.to_owned();
        let share = Self { group: root.join(format!("countersign-bench-{pid}")), root, pid };
        fs::create_dir(&share.group).with_context(|| format!("making {}", share.group.display()))?;
        if is_first {
            fs::write(share.group.join("cpu.cfs_period_us"), PERIOD.to_string())?;
            fs::write(share.group.join("cpu.cfs_quota_us"), SHARE.to_string())?;
        } else {
            fs::write(share.group.join("cpu.max"), format!("{SHARE} {PERIOD}"))?;
        }
        fs::write(share.group.join("cgroup.procs"), pid.to_string())?;
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Whatever is left is a directory without processes, in a file system that lives in memory.
        let _ = fs::write(self.root.join("cgroup.procs"), self.pid.to_string());
        let _ = fs::remove_dir(&self.group);
    }
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
