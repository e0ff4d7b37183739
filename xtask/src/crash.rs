//! `cargo xtask crash`: many writers, a node that is killed again and again, and a count of what is true afterwards.
//!
//! Three journals are compared that know nothing of one another: the upstream's own (synced before it answers), the
//! clients' (what they were told), and the log (receipts, verified offline). The writers behave as good clients: a call
//! whose answer was lost is repeated with the same Idempotency-Key, and one whose outcome is unknown is left to a person.

pub mod artifacts;
pub mod nodes;
mod writers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::node::Launch;
use countersign_testkit::random::Random;
use countersign_testkit::{Home, Node, receipts};
use serde_json::{Value, json};

use writers::{Acknowledged, Ledger, WRITERS};

/// What to do.
pub struct Plan {
    /// How many different writes.
    pub writes: usize,
    /// How many times the node is killed.
    pub kills: usize,
    /// Repeats a run's moments of death, as far as the machine's own timing allows.
    pub seed: u64,
    /// For the run's directory.
    pub name: &'static str,
    /// Whether the machine loses power with the process: what the layer forgot is gone.
    pub power: Option<Power>,
}

/// How to run a node on a layer that forgets what was not synced, and how to make it forget.
pub struct Power {
    /// Variables for the node, given the directories that must forget.
    pub environment: Vec<(String, String)>,
    /// Called when the node is dead and before it starts again; says what it did.
    pub forget: Box<dyn Fn() -> Result<String>>,
}

/// What came out.
#[derive(Debug, Default)]
struct Findings {
    acknowledged: usize,
    found: usize,
    twice: usize,
    invalid: usize,
    fsck: bool,
    unexplained: Vec<String>,
    unknown: usize,
    unknown_bound: usize,
}

/// Limits that stand in nobody's way.
const LIMITS: &str =
    "[limits]\nper_principal = { calls = 1000000, per = \"1s\" }\nper_tool = { calls = 1000000, per = \"1s\" }\n";

/// Runs the plan; the last line printed says what was found, and the answer whether it is as it must be.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path, plan: &Plan) -> Result<bool> {
    let directory = crate::paths::run_directory(plan.name)?;
    let home = home(&directory, plan.power.is_some())?;
    let mut launch = Launch::new(binary);
    if let Some(power) = &plan.power {
        launch.environment.clone_from(&power.environment);
    }
    println!(
        "{} writes, {} kills, {WRITERS} writers, seed {}, in {}",
        plan.writes,
        plan.kills,
        plan.seed,
        directory.display()
    );
    let start = Instant::now();
    if plan.power.is_some() {
        std::fs::create_dir_all(directory.join("home/durable"))?;
    }
    let node = launch.start(&home)?;
    node.accept_all_tools(&["ads"])?;
    allow_writers(&home, &node)?;
    let ledger = Ledger::new(plan.writes);
    let (node, in_flight) = write_and_kill(&launch, node, plan, &ledger)?;
    println!("  written in {:.1} s; now everything is compared", start.elapsed().as_secs_f64());
    let mut findings = compare(&node, &ledger, &directory)?;
    findings.unknown_bound = in_flight;
    node.stop()?;
    findings.fsck = fsck(binary, &home)?;
    Ok(report(&findings))
}

fn home(directory: &Path, forgets: bool) -> Result<Home> {
    // What the node wants to be durable, in one directory for the layer that forgets.
    let places = "data_dir = \"durable/data\"\nhead_file = \"durable/state/head\"\n";
    let config = format!("{}{LIMITS}", if forgets { places } else { "" });
    let home = Home::create(&directory.join("home"), &config)?;
    home.manifest("ads", &ads_manifest(&upstream(directory))?)?;
    Ok(home)
}

/// A manifest of the sample upstream, whose journal is in `data`.
///
/// # Errors
/// If the path cannot be written as JSON.
pub fn ads_manifest(data: &Path) -> Result<String> {
    let arguments = serde_json::to_string(&["sample-upstream", "ads", "--data", &data.display().to_string()])?;
    Ok(format!(
        "version: 1\nupstream: ads\ntransport:\n  type: stdio\n  command: \"@self\"\n  args: {arguments}\n\
         tools:\n  listCampaigns: {{ effect: read }}\n  createCampaign: {{ effect: write }}\n"
    ))
}

/// Allows everything to the role `writer`.
///
/// # Errors
/// If the node refuses the policy.
pub fn allow_writers(home: &Home, node: &Node) -> Result<()> {
    home.access("writers", "@id(\"writers\")\npermit (principal in Role::\"writer\", action, resource);\n")?;
    node.operator().post("/admin/policy/reload", &json!({}))?.expect(200)?;
    Ok(())
}

fn upstream(directory: &Path) -> PathBuf {
    directory.join("upstream")
}

/// Writers at work while the node is killed at random points of their progress; ends when every write has its end.
/// The second value bounds the unknown: the calls that were in flight at the kills.
fn write_and_kill(launch: &Launch, node: Node, plan: &Plan, ledger: &Ledger) -> Result<(Node, usize)> {
    let mut random = Random::new(plan.seed);
    let mut points: Vec<usize> = (0..plan.kills).map(|_| random.below(plan.writes as u64) as usize).collect();
    points.sort_unstable();
    let home = node.home().clone();
    let (in_flight, bound) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let token = home.agent("writer", &["writer"]);
    let outcome = thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS)
            .map(|_| scope.spawn(|| writers::write(&[home.address()], &token, ledger, &in_flight)))
            .collect();
        let killed = kill_at(launch, node, plan, ledger, &points, &mut random, &in_flight, &bound);
        if killed.is_err() {
            ledger.abandon();
        }
        let results: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
        for result in results {
            result.map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        killed
    });
    Ok((outcome?, bound.load(Ordering::SeqCst)))
}

// The parts of one loop; a struct would only rename them.
#[allow(clippy::too_many_arguments)]
fn kill_at(
    launch: &Launch,
    mut node: Node,
    plan: &Plan,
    ledger: &Ledger,
    points: &[usize],
    random: &mut Random,
    in_flight: &AtomicUsize,
    bound: &AtomicUsize,
) -> Result<Node> {
    for (i, point) in points.iter().enumerate() {
        let patience = Instant::now() + Duration::from_secs(120);
        while ledger.ended() < *point {
            ensure!(
                Instant::now() < patience,
                "no progress beyond {} of {point}:\n{}",
                ledger.ended(),
                node.log_tail()
            );
            ensure!(node.is_running(), "the node ended by itself:\n{}", node.log_tail());
            thread::sleep(Duration::from_micros(200));
        }
        // Anywhere within a few commits.
        thread::sleep(Duration::from_micros(random.below(20_000)));
        let home = node.home().clone();
        // A call may start between the count and the kill, so the larger of two counts holds.
        let before = in_flight.load(Ordering::SeqCst);
        node.kill()?;
        let flying = before.max(in_flight.load(Ordering::SeqCst));
        bound.fetch_add(flying, Ordering::SeqCst);
        let forgotten = match &plan.power {
            Some(power) => format!(", {}", (power.forget)()?),
            None => String::new(),
        };
        println!("  kill {:>2} after {:>6} writes, {flying} in flight{forgotten}", i + 1, ledger.ended());
        node = launch.start(&home)?;
    }
    let patience = Instant::now() + Duration::from_secs(300);
    while ledger.ended() < plan.writes {
        ensure!(Instant::now() < patience, "only {} of {} ended:\n{}", ledger.ended(), plan.writes, node.log_tail());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(node)
}

/// Sets what the clients were told against what the upstream did and what the log proves.
fn compare(node: &Node, ledger: &Ledger, directory: &Path) -> Result<Findings> {
    judge_all(node, std::slice::from_ref(ledger), &executions(&upstream(directory))?)
}

fn judge_all(node: &Node, ledgers: &[Ledger], executions: &BTreeMap<String, usize>) -> Result<Findings> {
    let mut findings = Findings::default();
    let acknowledged: Vec<Acknowledged> = ledgers.iter().flat_map(Ledger::acknowledged).collect();
    let unknown_to_clients: BTreeSet<String> = ledgers.iter().flat_map(Ledger::unknown).collect();
    let shown = unknown_calls(node)?;
    findings.acknowledged = acknowledged.len();
    findings.unknown = shown.len();
    findings.twice = executions.values().filter(|count| **count > 1).count();
    let names: BTreeSet<&str> = acknowledged.iter().map(|a| a.name.as_str()).collect();
    for (name, _) in executions.iter().filter(|(name, _)| !names.contains(name.as_str())) {
        if !unknown_to_clients.contains(name) {
            findings.unexplained.push(format!("{name} was executed, but neither acknowledged nor unknown"));
        }
    }
    if unknown_to_clients.len() > shown.len() {
        let text = format!("{} are unknown to clients, {} to the node", unknown_to_clients.len(), shown.len());
        findings.unexplained.push(text);
    }
    let (invalid, proved) = verify_receipts(node, &acknowledged)?;
    findings.invalid = invalid;
    findings.found =
        acknowledged.iter().filter(|a| executions.contains_key(&a.name) && proved.contains(&a.receipt)).count();
    Ok(findings)
}

/// How often each campaign was created, by the upstream's own journal.
fn executions(directory: &Path) -> Result<BTreeMap<String, usize>> {
    let text = std::fs::read_to_string(directory.join("campaigns.jsonl")).context("the upstream's journal")?;
    let mut counts = BTreeMap::new();
    for line in text.lines().filter(|line| line.ends_with('}')) {
        let entry: Value = serde_json::from_str(line)?;
        let name = entry["campaign"]["name"].as_str().context("an entry without a name")?;
        *counts.entry(name.to_owned()).or_insert(0) += 1;
    }
    Ok(counts)
}

fn unknown_calls(node: &Node) -> Result<Vec<Value>> {
    let list = node.operator().get("/admin/unknown")?.expect(200)?;
    Ok(list.as_array().cloned().unwrap_or_default())
}

/// Fetches every receipt and verifies it with the log's key alone; some also with the command, as a person would.
fn verify_receipts(node: &Node, acknowledged: &[Acknowledged]) -> Result<(usize, BTreeSet<String>)> {
    let anchors = receipts::anchors(&mut node.anonymous())?;
    let token = node.home().agent("writer", &["writer"]);
    let chunk = acknowledged.len().div_ceil(4).max(1);
    let results: Vec<Result<(usize, Vec<String>)>> = thread::scope(|scope| {
        let parts = acknowledged.chunks(chunk).map(|part| {
            let (anchors, token) = (&anchors, &token);
            scope.spawn(move || {
                let mut http = node.client(token);
                let (mut invalid, mut proved) = (0, Vec::new());
                for each in part {
                    match check_receipt(&mut http, each, anchors) {
                        Ok(()) => proved.push(each.receipt.clone()),
                        Err(error) => {
                            invalid += 1;
                            println!("  {error:#}");
                        }
                    }
                }
                Ok((invalid, proved))
            })
        });
        let parts: Vec<_> = parts.collect();
        parts.into_iter().map(|t| t.join().unwrap_or_else(|_| anyhow::bail!("a checker panicked"))).collect()
    });
    let (mut invalid, mut proved) = (0, BTreeSet::new());
    for result in results {
        let (bad, good) = result?;
        invalid += bad;
        proved.extend(good);
    }
    Ok((invalid, proved))
}

fn check_receipt(
    http: &mut countersign_testkit::Client,
    each: &Acknowledged,
    anchors: &receipts::TrustAnchors,
) -> Result<()> {
    let receipt = receipts::fetch_valid(http, &each.receipt, anchors)?;
    let event = receipts::subject_event(&receipt)?;
    let kind = event["type"].as_str().unwrap_or_default();
    ensure!(kind == "call.completed", "the receipt {} of {} is about {kind}", each.receipt, each.name);
    Ok(())
}

fn fsck(binary: &Path, home: &Home) -> Result<bool> {
    let output = Command::new(binary).args(["log", "fsck", "--home"]).arg(home.directory()).output()?;
    if !output.status.success() {
        println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.status.success())
}

fn report(findings: &Findings) -> bool {
    for text in findings.unexplained.iter().take(20) {
        println!("  {text}");
    }
    println!("  unknown {} (at most {} calls were in flight at the kills)", findings.unknown, findings.unknown_bound);
    let fsck = if findings.fsck { "ok" } else { "FAILED" };
    println!(
        "acknowledged {}, found {}, executed twice {}, invalid receipts {}, fsck {fsck}",
        findings.acknowledged, findings.found, findings.twice, findings.invalid
    );
    findings.acknowledged == findings.found
        && findings.twice == 0
        && findings.invalid == 0
        && findings.fsck
        && findings.unexplained.is_empty()
        && findings.unknown <= findings.unknown_bound
        && findings.acknowledged + findings.unknown > 0
}
