//! What the trust tools cost: a call over MCP against the same call over HTTP, signatures and verifications a second, and a page out of many entries.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::digest::Digest;
use countersign_testkit::node::Launch;
use countersign_testkit::{Client, Home, Node, mcp};
use serde_json::{Value, json};

use crate::paths;

/// Calls of each way, one after the other and in turns.
const CALLS: usize = 400;
/// At once, for what is counted by the second.
const WORKERS: usize = 8;
const LIMITS: &str =
    "[limits]\nper_principal = { calls = 1000000, per = \"1s\" }\nper_tool = { calls = 1000000, per = \"1s\" }\n";

/// A row of the report.
///
/// # Errors
/// If the node or a call fails.
pub fn run(binary: &Path, directory: &Path, seconds: u64) -> Result<Value> {
    let home = Home::create(&directory.join("trust-home"), &format!("{LIMITS}[trust]\nenabled = true\n"))?;
    home.access("all", "permit (principal, action, resource);\n")?;
    let node = Launch::new(binary).start(&home)?;
    let mut client = client_of(&node);
    let first = sign(&mut client, 0)?;
    let signed = rate(&node, seconds, &|client, n| sign(client, n + 1).map(drop))?;
    let verified = rate(&node, seconds, &|client, _| {
        let reply = client.post("/v1/verify", &json!({ "artifact": artifact(0), "signature": first["signature"] }))?;
        ensure!(reply.expect(200)?["valid"] == true, "not valid");
        Ok(())
    })?;
    let overhead = overhead(&mut client)?;
    node.stop()?;
    fill(&home)?;
    let node = Launch::new(binary).start(&home)?;
    let page = page(&mut client_of(&node))?;
    node.stop()?;
    let report = json!({
        "signatures_per_second": signed.round(), "verifications_per_second": verified.round(),
        "mcp_against_http": overhead, "page_of_100": page,
    });
    println!("trust: {report}");
    Ok(report)
}

fn client_of(node: &Node) -> Client {
    node.client(&node.home().agent("bench", &["tester"]))
}

fn artifact(n: usize) -> String {
    Digest::of(&n.to_be_bytes()).to_string()
}

fn sign(client: &mut Client, n: usize) -> Result<Value> {
    client.post("/v1/sign", &json!({ "artifact": artifact(n), "artifact_type": "release" }))?.expect(200)
}

/// How often something is done in a second, by several clients at once.
fn rate(node: &Node, seconds: u64, work: &(dyn Fn(&mut Client, usize) -> Result<()> + Sync)) -> Result<f64> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let start = Instant::now();
    let mut clients: Vec<Client> = (0..WORKERS).map(|_| client_of(node)).collect();
    let counts: Vec<Result<usize>> = thread::scope(|scope| {
        let workers: Vec<_> = clients
            .iter_mut()
            .enumerate()
            .map(|(worker, client)| {
                scope.spawn(move || {
                    let mut done = 0;
                    while Instant::now() < end {
                        work(client, worker + WORKERS * done)?;
                        done += 1;
                    }
                    Ok(done)
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().unwrap_or_else(|_| bail!("a client panicked"))).collect()
    });
    let total: usize = counts.into_iter().sum::<Result<usize>>()?;
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// The same tool both ways, in turns, so that neither has the quieter machine.
fn overhead(client: &mut Client) -> Result<Value> {
    let (mut http, mut tool) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let start = Instant::now();
        client.get("/v1/transparency?limit=10")?.expect(200)?;
        http.push(start.elapsed());
        let start = Instant::now();
        mcp::call_tool(client, "/mcp/trust", "query_transparency", &json!({ "limit": 10 }))?;
        tool.push(start.elapsed());
    }
    let (http, tool) = (p95(&mut http)?, p95(&mut tool)?);
    Ok(json!({ "http_p95_ms": http, "mcp_p95_ms": tool, "overhead_p95_ms": ((tool - http) * 1000.0).round() / 1000.0 }))
}

/// How many entries there are at least, to be paged through.
const ENTRIES: u64 = 100_000;
/// What a page of 100 may take, in milliseconds, as those who use it were promised.
const PROMISED: f64 = 500.0;

/// Writes entries into the database of a node that does not run, by the store's own example: signing as many would take minutes.
fn fill(home: &Home) -> Result<()> {
    paths::build(&["build", "--release", "--quiet", "--workspace", "--example", "fill_signatures"])?;
    let key = home.directory().join("data/keys/log.seed");
    let key = std::fs::read_to_string(&key).with_context(|| key.display().to_string())?;
    let seed = STANDARD.decode(key.split_whitespace().last().context("a key")?)?;
    let seed: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
    let program = paths::target().join("release/examples/fill_signatures");
    let output = Command::new(program).arg(home.directory()).arg(seed).arg(ENTRIES.to_string()).output()?;
    ensure!(output.status.success(), "fill_signatures: {}", String::from_utf8_lossy(&output.stderr));
    println!("entries: {}", String::from_utf8_lossy(&output.stdout).trim());
    Ok(())
}

/// A filtered page of 100 out of everything that is listed, and all of it, page after page.
fn page(client: &mut Client) -> Result<Value> {
    let stats = client.get("/v1/stats")?.expect(200)?;
    let entries = stats["total_signatures"].as_u64().context("a count")?;
    ensure!(entries >= ENTRIES, "{entries} entries");
    let mut took = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        client.get("/v1/transparency?limit=100&artifact_type=release&start_date=2020-01-01")?.expect(200)?;
        took.push(start.elapsed());
    }
    let (mut seen, mut path) = (BTreeSet::new(), "/v1/transparency?limit=1000".to_owned());
    loop {
        let reply = client.get(&path)?;
        let page = reply.expect(200)?;
        seen.extend(
            page.as_array().into_iter().flatten().filter_map(|entry| entry["entry_id"].as_str().map(str::to_owned)),
        );
        let next = reply.header("link").and_then(|link| link.split_once('<')?.1.split_once('>'));
        match next {
            Some((next, _)) => next.clone_into(&mut path),
            None => break,
        }
    }
    ensure!(seen.len() as u64 == entries, "{} of {entries} entries were found page by page", seen.len());
    let p95 = p95(&mut took)?;
    let share = (p95 / PROMISED * 1000.0).round() / 1000.0;
    Ok(
        json!({ "of_entries": entries, "p95_ms": p95, "of_the_promised_500_ms": share, "found_page_by_page": seen.len() }),
    )
}

/// In milliseconds, to the microsecond.
fn p95(times: &mut [Duration]) -> Result<f64> {
    times.sort_unstable();
    let at = times.get(times.len() * 95 / 100).context("no calls")?;
    Ok((at.as_secs_f64() * 1e6).round() / 1e3)
}
