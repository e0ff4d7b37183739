//! `cargo xtask crash --db postgres`: several nodes on one Postgres, writers that go from one to the other, nodes that are
//! killed, a network that is cut between a node and the database, and at last standbys that are promoted: a stale one, which
//! nobody may sign on, and a synchronous one, on which everything goes on.
//!
//! Judged like the run on SQLite: by the upstreams' own journals, by what clients were told, and by the log.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::node::Launch;
use countersign_testkit::postgres::{Postgres, query};
use countersign_testkit::proxy::Proxy;
use countersign_testkit::random::Random;
use countersign_testkit::{Home, Node};
use serde_json::json;

use super::writers::{self, Ledger, WRITERS};
use super::{Findings, LIMITS, ads_manifest, allow_writers, executions, fsck, judge_all, report};

/// How long the network is cut.
const PARTITION: Duration = Duration::from_secs(3);
/// Writes before and after each change of the database.
const AROUND: usize = 100;
/// How long nodes are tried on a stale standby.
const TRIES: Duration = Duration::from_secs(4);
const HEAD: &str = "SELECT shard, size, encode(root, 'hex') FROM head";

/// What to do.
pub struct Plan {
    /// How many different writes.
    pub writes: usize,
    /// How many times a node is killed.
    pub kills: usize,
    /// How many nodes.
    pub nodes: usize,
    /// Repeats a run's moments of death, as far as the machine's own timing allows.
    pub seed: u64,
    /// For the run's directory.
    pub name: &'static str,
}

/// Nodes, their homes, and the network between each and the database.
struct Stage {
    launch: Launch,
    homes: Vec<Home>,
    proxies: Vec<Proxy>,
    nodes: Vec<Node>,
}

/// Runs the plan; the last line printed says what was found, and the answer whether it is as it must be.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path, plan: &Plan) -> Result<bool> {
    ensure!((2..=8).contains(&plan.nodes), "--nodes must be 2 to 8");
    let directory = crate::paths::run_directory(plan.name)?;
    // Where whoever runs the server can reach it, which may not be so below the workspace.
    let place = std::env::temp_dir().join(format!("countersign-crash-{}", std::process::id()));
    let mut server = Postgres::create(&place)?;
    println!(
        "{} writes, {} kills, {} nodes, {WRITERS} writers, seed {}, in {} and {}",
        plan.writes,
        plan.kills,
        plan.nodes,
        plan.seed,
        directory.display(),
        place.display()
    );
    let start = Instant::now();
    let mut stage = Stage::set(binary, &directory, &server, plan.nodes)?;
    let mut bound = 0;
    let ledger = Ledger::new(plan.writes);
    stage.while_writing(&ledger, |stage, in_flight| stage.kill_and_cut(plan, &ledger, in_flight, &mut bound))?;
    println!("  written in {:.1} s; now a stale standby", start.elapsed().as_secs_f64());
    let mut ledgers = vec![ledger];
    let wrong = stale_standby(&mut stage, &mut server, plan.writes, &mut ledgers)?;
    let promoted = synchronous_standby(&mut stage, &mut server, plan.writes + 2 * AROUND, &mut ledgers)?;
    // Servers ended twice under calls that were in flight.
    bound += 4 * WRITERS;
    println!("  written in {:.1} s; now everything is compared", start.elapsed().as_secs_f64());
    let mut findings = compare(&stage, &ledgers, &directory)?;
    findings.unknown_bound = bound;
    findings.unexplained.extend(wrong);
    let homes = stage.homes.clone();
    stage.nodes.into_iter().try_for_each(|node| node.stop().map(drop))?;
    findings.fsck = homes.iter().map(|home| fsck(binary, home)).collect::<Result<Vec<_>>>()?.into_iter().all(|ok| ok);
    drop((server, promoted));
    std::fs::remove_dir_all(&place)?;
    Ok(report(&findings))
}

impl Stage {
    fn set(binary: &Path, directory: &Path, server: &Postgres, count: usize) -> Result<Self> {
        let mut stage = Self { launch: Launch::new(binary), homes: Vec::new(), proxies: Vec::new(), nodes: Vec::new() };
        for n in 0..count {
            let proxy = Proxy::start(server.port())?;
            let url = format!("postgres://countersign@127.0.0.1:{}/postgres", proxy.port());
            let keys = directory.join("keys").display().to_string();
            let config = format!("database_url = {url:?}\nkeys_dir = {keys:?}\njoin = {}\n{LIMITS}", n > 0);
            let home = Home::create(&directory.join(format!("home-{n}")), &config)?;
            home.manifest("ads", &ads_manifest(&journal(directory, n))?)?;
            let node = stage.launch.start(&home)?;
            if n == 0 {
                node.accept_all_tools(&["ads"])?;
            }
            allow_writers(&home, &node)?;
            stage.homes.push(home);
            stage.proxies.push(proxy);
            stage.nodes.push(node);
        }
        Ok(stage)
    }

    /// Lets the writers write everything while something happens to the nodes.
    fn while_writing(
        &mut self,
        ledger: &Ledger,
        happens: impl FnOnce(&mut Self, &AtomicUsize) -> Result<()>,
    ) -> Result<()> {
        let in_flight = AtomicUsize::new(0);
        let addresses: Vec<SocketAddr> = self.homes.iter().map(Home::address).collect();
        let token = self.homes[0].agent("writer", &["writer"]);
        thread::scope(|scope| {
            let write = |n: usize| {
                let mut addresses = addresses.clone();
                let turn = n % addresses.len();
                addresses.rotate_left(turn);
                let (token, in_flight) = (&token, &in_flight);
                scope.spawn(move || writers::write(&addresses, token, ledger, in_flight))
            };
            let threads: Vec<_> = (0..WRITERS).map(write).collect();
            let happened = happens(self, &in_flight).and_then(|()| self.wait_for(ledger, ledger.writes()));
            if happened.is_err() {
                ledger.abandon();
            }
            let results: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
            // What went wrong with a writer explains why the others waited in vain.
            for result in results {
                result.map_err(|_| anyhow::anyhow!("a writer panicked"))??;
            }
            happened
        })
    }

    fn wait_for(&mut self, ledger: &Ledger, point: usize) -> Result<()> {
        let patience = Instant::now() + Duration::from_secs(180);
        while ledger.ended() < point {
            ensure!(Instant::now() < patience, "no progress beyond {} of {point}:\n{}", ledger.ended(), self.logs());
            for node in &mut self.nodes {
                ensure!(node.is_running(), "a node ended by itself:\n{}", node.log_tail());
            }
            thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    fn kill_and_cut(&mut self, plan: &Plan, ledger: &Ledger, in_flight: &AtomicUsize, bound: &mut usize) -> Result<()> {
        let mut random = Random::new(plan.seed);
        let mut points: Vec<(usize, Option<bool>)> =
            (0..plan.kills).map(|_| (random.below(plan.writes as u64) as usize, None)).collect();
        // One network that says nothing, and one that says no.
        points.extend([(plan.writes / 3, Some(true)), (plan.writes * 2 / 3, Some(false))]);
        points.sort_unstable();
        ledger.allow(points.first().map_or(usize::MAX, |(first, _)| first + 2 * WRITERS));
        for (i, (point, cut)) in points.iter().copied().enumerate() {
            self.wait_for(ledger, point)?;
            ledger.allow(points.get(i + 1).map_or(usize::MAX, |(next, _)| next + 2 * WRITERS));
            thread::sleep(Duration::from_micros(random.below(20_000)));
            let n = random.below(self.nodes.len() as u64) as usize;
            let before = in_flight.load(Ordering::SeqCst);
            match cut {
                None => {
                    let node = self.nodes.remove(n);
                    node.kill()?;
                    let flying = before.max(in_flight.load(Ordering::SeqCst));
                    *bound += flying;
                    println!("  node {n} killed after {:>6} writes, {flying} in flight", ledger.ended());
                    self.nodes.insert(n, self.launch.start(&self.homes[n])?);
                }
                Some(silent) => {
                    if silent {
                        self.proxies[n].halt()
                    } else {
                        self.proxies[n].cut()
                    }
                    let how = if silent { "silently" } else { "loudly" };
                    println!("  node {n} cut off {how} after {:>6} writes, {before} in flight", ledger.ended());
                    thread::sleep(PARTITION);
                    self.proxies[n].open();
                    *bound += before.max(in_flight.load(Ordering::SeqCst));
                }
            }
        }
        Ok(())
    }

    /// The database's address moves.
    fn lead_to(&self, server: &Postgres) {
        self.proxies.iter().for_each(|proxy| proxy.lead_to(server.port()));
    }

    fn logs(&self) -> String {
        self.nodes.iter().map(Node::log_tail).collect::<Vec<_>>().join("\n--\n")
    }
}

/// A standby that lacks what was signed is promoted: nobody may sign on it, and everything goes on when the primary is back.
/// Returns what was not as it must be.
fn stale_standby(
    stage: &mut Stage,
    server: &mut Postgres,
    from: usize,
    ledgers: &mut Vec<Ledger>,
) -> Result<Vec<String>> {
    let mut standby = server.standby("stale")?;
    standby.stop_in_order()?;
    let unseen = Ledger::starting_at(from, AROUND);
    stage.while_writing(&unseen, |_, _| Ok(()))?;
    ledgers.push(unseen);
    server.stop_at_once()?;
    standby.start()?;
    standby.promote()?;
    stage.lead_to(&standby);
    let old_head = query(&standby.url(), HEAD)?;
    let mut wrong = try_all(stage, &writers_token(stage), TRIES)?;
    if query(&standby.url(), HEAD)? != old_head {
        wrong.push("the stale standby was signed on".to_owned());
    }
    for (n, node) in stage.nodes.iter().enumerate() {
        let log = std::fs::read_to_string(node.home().directory().join("node.log")).unwrap_or_default();
        if !log.contains("behind what was signed") {
            wrong.push(format!("node {n} does not say why it refuses"));
        }
    }
    let nodes = stage.nodes.len();
    println!("  a stale standby was promoted: {nodes} nodes refused to sign on it, as they must: {}", wrong.is_empty());
    standby.stop_at_once()?;
    server.start()?;
    stage.lead_to(server);
    let after = Ledger::starting_at(from + AROUND, AROUND);
    stage.while_writing(&after, |_, _| Ok(()))?;
    ledgers.push(after);
    Ok(wrong)
}

/// The primary is lost in the middle of writes, and a synchronous standby is promoted: everything goes on there.
fn synchronous_standby(
    stage: &mut Stage,
    server: &mut Postgres,
    from: usize,
    ledgers: &mut Vec<Ledger>,
) -> Result<Postgres> {
    let standby = server.standby("synchronous")?;
    server.wait_for_standby()?;
    let ledger = Ledger::starting_at(from, 2 * AROUND);
    ledger.allow(AROUND + 2 * WRITERS);
    stage.while_writing(&ledger, |stage, _| {
        stage.wait_for(&ledger, AROUND)?;
        server.stop_at_once()?;
        standby.promote()?;
        stage.lead_to(&standby);
        println!("  the primary was lost after {} writes, its synchronous standby was promoted", ledger.ended());
        ledger.allow(usize::MAX);
        Ok(())
    })?;
    ledgers.push(ledger);
    Ok(standby)
}

fn writers_token(stage: &Stage) -> String {
    stage.homes[0].agent("writer", &["writer"])
}

/// Calls every node for a while; each must refuse each call for want of a ledger.
fn try_all(stage: &Stage, token: &str, time: Duration) -> Result<Vec<String>> {
    let wrong = Mutex::new(Vec::new());
    let end = Instant::now() + time;
    thread::scope(|scope| {
        for (n, node) in stage.nodes.iter().enumerate() {
            let wrong = &wrong;
            scope.spawn(move || {
                let mut http = node.client(token).timeout(Duration::from_secs(20));
                let body = json!({"name": format!("never-{n}"), "budget": 1, "startDate": "2026-12-01"}).to_string();
                while Instant::now() < end {
                    let answer = http.send("POST", "/tools/ads:createCampaign/invoke", &[], Some(body.as_bytes()));
                    let refused = answer
                        .as_ref()
                        .is_ok_and(|a| a.status == 503 && a.problem().as_deref() == Some("ledger-unavailable"));
                    if !refused {
                        let text = format!("node {n} on an old database answered {answer:?}");
                        wrong.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                    }
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
    });
    Ok(wrong.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn journal(directory: &Path, n: usize) -> PathBuf {
    directory.join(format!("upstream-{n}"))
}

fn compare(stage: &Stage, ledgers: &[Ledger], directory: &Path) -> Result<Findings> {
    let mut all = BTreeMap::new();
    for n in 0..stage.nodes.len() {
        for (name, count) in executions(&journal(directory, n))? {
            *all.entry(name).or_insert(0) += count;
        }
    }
    let node = stage.nodes.first().context("no node")?;
    judge_all(node, ledgers, &all)
}
