//! `cargo xtask peers`: other people's MCP servers behind a real node, other people's MCP clients in front of it, unmodified.
//!
//! Every client does the same with every server, in each revision that it speaks, at its own default time-outs: list, read,
//! a call that is approved while it waits, and a call that is approved after the gateway answered "not executed". What each
//! library does is in `xtask/peers/plan.md`. The matrix is printed from what the clients said; receipts are verified offline.

mod clients;
mod servers;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::{Home, Node, receipts};
use serde_json::Value;

use crate::{paths, setup};
use clients::{Client, Step};
use servers::Server;

const ACCESS: &str = r#"@id("agents")
permit (principal in Role::"tester", action, resource);
"#;

/// Runs everything and prints the matrix; the answer is whether all of it passed.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    setup::everything()?;
    let directory = paths::run_directory("peers")?;
    let servers = servers::prepare(&directory)?;
    let home = Home::create(&directory.join("home"), LIMITS)?;
    for server in &servers.list {
        home.manifest(server.name, &server.manifest)?;
    }
    let node = countersign_testkit::node::Launch::new(binary).start(&home)?;
    let names: Vec<&str> = servers.list.iter().map(|s| s.name).collect();
    let accepted = node.accept_all_tools(&names)?;
    println!("{} tools of {} servers accepted", accepted.len(), names.len());
    load_policies(&home, &node, &servers.list)?;

    let passed_servers = check_servers(&node, &servers.list)?;
    let passed_clients = check_clients(&node, &servers.list)?;
    node.stop()?;
    println!("servers {passed_servers}/{}, clients {passed_clients}/{}", servers::COUNT, clients::COUNT);
    Ok(passed_servers == servers::COUNT && passed_clients == clients::COUNT)
}

const LIMITS: &str = "[limits]\nopen_requests = 100\n";

/// Policies name tools, so they are loaded once the tools are known.
fn load_policies(home: &Home, node: &Node, servers: &[Server]) -> Result<()> {
    home.access("peers", ACCESS)?;
    let approvals = servers.iter().filter(|s| s.approved).map(|s| {
        format!(
            "@id(\"{0}-needs-a-reviewer\")\n@approvals(\"1\")\n@approver_role(\"reviewer\")\n@expires(\"10m\")\n\
             @reason(\"a test of waiting\")\npermit (principal, action == Action::\"{0}:{1}\", resource);\n",
            s.name, s.write.tool
        )
    });
    home.approval("peers", &approvals.collect::<String>())?;
    let answer = node.operator().post("/admin/policy/reload", &serde_json::json!({}))?;
    ensure!(answer.status < 300, "reloading the policies: HTTP {} {:?}", answer.status, answer.json());
    Ok(())
}

/// Reads through each server by HTTP and verifies result and receipt.
fn check_servers(node: &Node, servers: &[Server]) -> Result<usize> {
    let mut http = node.client(&node.home().agent("reader", &["tester"]));
    let anchors = receipts::anchors(&mut node.anonymous())?;
    let mut failed = Vec::new();
    for server in servers {
        let path = format!("/tools/{}:{}/invoke", server.name, server.read.tool);
        let outcome = http.post(&path, &(server.read.arguments)("")).and_then(|answer| {
            let answer = answer.expect(200)?;
            let text = content_text(&answer["result"]);
            ensure!(text.contains(&server.read.expected), "{:?} not in {text:?}", server.read.expected);
            receipts::fetch_valid(&mut http, answer["receipt"].as_str().unwrap_or_default(), &anchors)
        });
        let says = match &outcome {
            Ok(_) => "ok, receipt valid".to_owned(),
            Err(error) => format!("FAILED: {error:#}"),
        };
        println!("  server {:<16} {:<44} {says}", server.name, server.package);
        if outcome.is_err() {
            failed.push(server.package);
        }
    }
    failed.dedup();
    Ok(servers::COUNT.saturating_sub(failed.len()))
}

fn content_text(result: &Value) -> String {
    let blocks = result["content"].as_array().into_iter().flatten();
    blocks.filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// Runs all clients at once, with people who approve, and judges what they said.
fn check_clients(node: &Node, servers: &[Server]) -> Result<usize> {
    let runs = clients::all();
    let approved: Vec<&Server> = servers.iter().filter(|s| s.approved).collect();
    let approver = clients::Approver::start(node);
    let outcomes: Vec<Result<Vec<Step>>> = thread::scope(|scope| {
        let started: Vec<_> = runs
            .iter()
            .map(|client| {
                let (approver, approved) = (&approver, &approved);
                scope.spawn(move || client.run(node, approved, approver))
            })
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("the thread panicked")))
            .collect()
    });
    approver.stop();
    let anchors = receipts::anchors(&mut node.anonymous())?;
    let mut passed: BTreeMap<&str, bool> = BTreeMap::new();
    for (client, outcome) in runs.iter().zip(outcomes) {
        let ok = match outcome {
            Ok(steps) => print_rows(node, client, &steps, &approved, &anchors)?,
            Err(error) => {
                println!("  client {:<40} FAILED: {error:#}", client.title());
                false
            }
        };
        *passed.entry(client.counts_as()).or_insert(true) &= ok;
    }
    Ok(passed.values().filter(|ok| **ok).count())
}

/// One line for each server: the matrix.
fn print_rows(
    node: &Node,
    client: &Client,
    steps: &[Step],
    servers: &[&Server],
    anchors: &receipts::TrustAnchors,
) -> Result<bool> {
    let revision = steps.iter().find(|s| s.kind == "connected").map_or("?", |s| s.text.as_str());
    let list = steps.iter().find(|s| s.kind == "list").is_some_and(|s| s.ok);
    let right_era = if client.modern { revision == "2026-07-28" } else { revision < "2026" && revision > "2024" };
    let mut all = list && right_era;
    let mut reader = node.client(&node.home().agent(&client.id(), &["tester"]));
    for server in servers {
        let mut cells = Vec::new();
        for kind in ["read", "while", "gave-up", "late"] {
            let step = steps.iter().find(|s| s.kind == kind && s.server == server.name);
            let verdict =
                step.context("the client never got there").and_then(|s| judge(s, server, &mut reader, anchors));
            all &= verdict.is_ok();
            cells.push(match (step, &verdict) {
                (Some(step), Ok(())) => format!("{kind} ok {:.1}s", step.seconds),
                (_, Err(error)) => format!("{kind} FAILED ({error:#})"),
                (None, Ok(())) => unreachable!("judged without a step"),
            });
        }
        println!(
            "  {:<30} {revision:<12} list {:<6} {:<11} {}",
            client.title(),
            ok(list),
            server.name,
            cells.join("  ")
        );
    }
    Ok(all)
}

fn ok(yes: bool) -> &'static str {
    if yes { "ok" } else { "FAILED" }
}

/// Whether a step is what it must be: executed with the right result and a valid receipt, or honestly not executed.
fn judge(
    step: &Step,
    server: &Server,
    reader: &mut countersign_testkit::Client,
    anchors: &receipts::TrustAnchors,
) -> Result<()> {
    if step.kind == "gave-up" {
        ensure!(!step.ok, "executed without approval: {}", step.text);
        ensure!(step.text.contains("NOT executed"), "does not say that it was not executed: {}", step.text);
        ensure!(step.text.contains("await_approval"), "does not say how to go on: {}", step.text);
        ensure!(step.seconds < 60.0, "took {} s", step.seconds);
        return Ok(());
    }
    ensure!(step.ok, "{}", step.text);
    let expected = if step.kind == "read" { &server.read.expected } else { &server.write.expected };
    ensure!(step.text.contains(expected.as_str()), "{expected:?} is not in {:?}", step.text);
    let receipt = step.meta["dev.countersign/receipt"].as_str().context("no receipt in _meta")?;
    receipts::fetch_valid(reader, receipt, anchors)?;
    Ok(())
}

/// How long an approver looks at a request before agreeing.
pub const THINKING: Duration = Duration::from_secs(3);
