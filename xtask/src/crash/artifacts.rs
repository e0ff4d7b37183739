//! `cargo xtask crash --artifacts`: artifacts are signed and kept while the node is killed and the object store goes away, again and again.
//!
//! The writers repeat an artifact whose answer was lost, as good clients do: the same artifact again is the same. One whose outcome is unknown is
//! left until a person has looked, and repeated then. What was acknowledged must be there, byte for byte, and hold; what was not must be there
//! whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::node::Launch;
use countersign_testkit::random::Random;
use countersign_testkit::{Client, Home, Node};
use serde_json::{Value, json};

use super::{LIMITS, Plan, fsck, unknown_calls};

const WRITERS: usize = 8;
/// How long the object store is away.
const AWAY: Duration = Duration::from_millis(400);
/// How long one artifact is tried.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the writers were told.
#[derive(Default)]
struct Journal {
    next: AtomicUsize,
    ended: AtomicUsize,
    refused: AtomicUsize,
    stop: AtomicBool,
    /// By number: the JWS.
    acknowledged: Mutex<BTreeMap<usize, Value>>,
    unknown: Mutex<Vec<usize>>,
}

/// Runs the plan; the last line printed says what was found, and the answer whether it is as it must be.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path, plan: &Plan) -> Result<bool> {
    let directory = crate::paths::run_directory(plan.name)?;
    let home = Home::create(&directory.join("home"), &format!("{LIMITS}[trust]\nenabled = true\n"))?;
    home.access("all", "permit (principal, action, resource);\n")?;
    println!("{} artifacts, {} kills, {WRITERS} writers, seed {}", plan.writes, plan.kills, plan.seed);
    let launch = Launch::new(binary);
    let node = launch.start(&home)?;
    let journal = Journal::default();
    let writes = plan.writes;
    let node = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(|| write(&home, writes, &journal))).collect();
        let disturbed = disturb(&launch, node, plan, &journal);
        if disturbed.is_err() {
            journal.stop.store(true, Ordering::SeqCst);
        }
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        disturbed
    })?;
    let unknown = settle(&node, &home, &journal)?;
    let found = compare(&node, &journal)?;
    let acknowledged = journal.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len();
    let scrubbed = node.operator().post("/admin/artifacts/scrub", &json!({}))?.expect(200)?;
    let half = half_made(&node, acknowledged)?;
    let checked = scrubbed["checked"].as_u64().unwrap_or_default() as usize;
    let scrub = scrubbed["checked"] == scrubbed["intact"] && checked == acknowledged;
    node.stop()?;
    let fsck = fsck(binary, &home)?;
    let word = |good: bool| if good { "ok" } else { "FAILED" };
    println!(
        "  {unknown} were unknown and settled, {} refused while the object store was away, {} objects left over",
        journal.refused.load(Ordering::SeqCst),
        scrubbed["orphans"]
    );
    println!(
        "acknowledged {acknowledged}, found {found}, half made {half}, scrub {}, fsck {}",
        word(scrub),
        word(fsck)
    );
    Ok(acknowledged == plan.writes && found == acknowledged && half == 0 && scrub && fsck)
}

fn disturb(launch: &Launch, mut node: Node, plan: &Plan, journal: &Journal) -> Result<Node> {
    let mut random = Random::new(plan.seed);
    let mut points: Vec<usize> = (0..plan.kills).map(|_| random.below(plan.writes as u64) as usize).collect();
    points.sort_unstable();
    for (n, point) in points.iter().enumerate() {
        wait_for(journal, *point, &mut node)?;
        thread::sleep(Duration::from_micros(random.below(20_000)));
        let home = node.home().clone();
        if n % 2 == 0 {
            away(&home.directory().join("data/objects"))?;
        }
        node.kill()?;
        println!("  kill {:>2} after {:>5} artifacts", n + 1, journal.ended.load(Ordering::SeqCst));
        node = launch.start(&home)?;
    }
    wait_for(journal, plan.writes, &mut node)?;
    Ok(node)
}

fn wait_for(journal: &Journal, point: usize, node: &mut Node) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while journal.ended.load(Ordering::SeqCst) < point {
        ensure!(
            Instant::now() < until,
            "no progress beyond {}:\n{}",
            journal.ended.load(Ordering::SeqCst),
            node.log_tail()
        );
        ensure!(node.is_running(), "the node ended by itself:\n{}", node.log_tail());
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Something else stands in the place of the directory for a while.
fn away(objects: &Path) -> Result<()> {
    let aside: PathBuf = objects.with_extension("aside");
    fs::rename(objects, &aside)?;
    fs::write(objects, b"")?;
    thread::sleep(AWAY);
    fs::remove_file(objects)?;
    fs::rename(&aside, objects).context("putting the objects back")
}

fn artifact(number: usize) -> Value {
    json!({
        "id": id(number), "type": "baseline_module", "version": 1, "workspaceId": "default",
        "createdAt": "2026-03-01T12:00:00Z",
        "jsonBody": { "name": format!("module {number}"), "module_version": "1", "controls": [{ "id": "AC-2", "statement": "Accounts are reviewed." }], "filler": "x".repeat(2_000) },
    })
}

fn id(number: usize) -> String {
    format!("0197f3a2-5c1e-7d40-9a6b-{number:012x}")
}

fn write(home: &Home, writes: usize, journal: &Journal) -> Result<()> {
    let token = home.agent("maker", &["tester"]);
    loop {
        let number = journal.next.fetch_add(1, Ordering::SeqCst);
        if number >= writes || journal.stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        match attempt(home, &token, number, journal)? {
            Some(jws) => {
                journal.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(number, jws);
            }
            None => journal.unknown.lock().unwrap_or_else(PoisonError::into_inner).push(number),
        }
        journal.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// Until it is acknowledged; nothing, if a person has to look first.
fn attempt(home: &Home, token: &str, number: usize, journal: &Journal) -> Result<Option<Value>> {
    let until = Instant::now() + PATIENCE;
    let body = artifact(number).to_string();
    let mut client = Client::new(home.address()).bearer(token).timeout(Duration::from_secs(10));
    while Instant::now() < until && !journal.stop.load(Ordering::SeqCst) {
        let headers = [("content-type", "application/json")];
        match client.send("POST", "/artifacts", &headers, Some(body.as_bytes())) {
            Ok(reply) if reply.status == 201 => return reply.json().map(Some),
            Ok(reply) if reply.problem().as_deref() == Some("outcome-unknown") => return Ok(None),
            Ok(reply) => {
                let known = [
                    "upstream-unavailable",
                    "circuit-open",
                    "overloaded",
                    "ledger-unavailable",
                    "idempotency-in-flight",
                ];
                let problem = reply.problem().unwrap_or_default();
                ensure!(
                    known.contains(&problem.as_str()),
                    "artifact {number}: HTTP {} {}",
                    reply.status,
                    String::from_utf8_lossy(&reply.body)
                );
                journal.refused.fetch_add(1, Ordering::SeqCst);
            }
            // The node is dead: the answer is lost, and the artifact is sent again.
            Err(_) => {}
        }
        thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("artifact {number} had no end")
}

/// A person looks at what is unknown; what is sent again then is the same artifact, whether it was made or not.
fn settle(node: &Node, home: &Home, journal: &Journal) -> Result<usize> {
    for call in unknown_calls(node)? {
        let call = call["call"].as_str().context("a call")?.to_owned();
        let path = format!("/admin/unknown/{call}/resolve");
        let body = json!({ "outcome": "not-executed", "note": "sent again" });
        node.operator().post(&path, &body)?.expect(200)?;
    }
    let token = home.agent("maker", &["tester"]);
    let unknown = std::mem::take(&mut *journal.unknown.lock().unwrap_or_else(PoisonError::into_inner));
    for number in &unknown {
        let jws =
            attempt(home, &token, *number, journal)?.with_context(|| format!("artifact {number} is still unknown"))?;
        journal.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(*number, jws);
    }
    Ok(unknown.len())
}

/// How many of the acknowledged are there as they were acknowledged, and hold.
fn compare(node: &Node, journal: &Journal) -> Result<usize> {
    let mut client = node.client(&node.home().agent("maker", &["tester"]));
    let mut found = 0;
    for (number, jws) in journal.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let kept = client.get(&format!("/artifacts/{}", id(*number)))?.expect(200)?;
        let verified = client.post(&format!("/artifacts/{}/verify", id(*number)), &json!({}))?.expect(200)?;
        if kept == *jws && verified["valid"] == true {
            found += 1;
        } else {
            println!("  artifact {number} is not what was acknowledged: {verified}");
        }
    }
    Ok(found)
}

/// What is listed beside the acknowledged.
fn half_made(node: &Node, acknowledged: usize) -> Result<usize> {
    let mut client = node.client(&node.home().agent("maker", &["tester"]));
    let (mut listed, mut path) = (0, "/artifacts?limit=1000".to_owned());
    loop {
        let reply = client.get(&path)?;
        listed += reply.expect(200)?.as_array().map_or(0, Vec::len);
        let next = reply
            .header("link")
            .and_then(|link| link.split_once('<')?.1.split_once('>'))
            .map(|(next, _)| next.to_owned());
        match next {
            Some(next) => path = next,
            None => return Ok(listed.abs_diff(acknowledged)),
        }
    }
}
