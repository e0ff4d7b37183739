//! `cargo xtask bench`: what the gate costs, beside the upstream alone and a proxy that decides nothing, in one run.
//!
//! An `echo` tool over MCP streamable HTTP, kept connections, closed loop: directly; through nginx; through the gateway with
//! everything on (token, policy, schema, limits, durable receipt); through a build without the ledger's commit. Then how fast
//! the ledger appends and how fast receipts verify. Every receipt of every measured call is fetched and verified: receipts
//! that are valid must equal calls.

pub mod load;
pub mod machine;
mod nodes;
mod trust;
pub mod upstream;
mod waiters;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::home::free_address;
use countersign_testkit::node::Launch;
use countersign_testkit::postgres::Postgres;
use countersign_testkit::{Home, Node, receipts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};

use crate::{paths, setup};
use load::{Load, Outcome};

/// The rows' connections, unless the caller wants others.
pub const CONNECTIONS: [usize; 4] = [1, 8, 32, 128];
const LIMITS: &str = "[limits]\nper_principal = { calls = 100000000, per = \"1s\" }\nper_tool = { calls = 100000000, per = \"1s\" }\nconnections = 12000\n";
const FEATURE: &str = "bench-no-commit";

/// What to measure.
pub struct Plan {
    /// Where the figures go.
    pub json: PathBuf,
    /// How long each row is measured.
    pub seconds: u64,
    /// A binary that is built already.
    pub binary: Option<String>,
    /// How many connections the rows have.
    pub connections: Vec<usize>,
    /// Only these ways, by name; all if not given.
    pub ways: Option<Vec<String>>,
    /// Over how many calls the gateway's memory is watched.
    pub growth: usize,
}

impl Plan {
    fn wants(&self, way: &str) -> bool {
        self.ways.as_ref().is_none_or(|named| named.iter().any(|name| name == way))
    }
}

/// A process that ends with the measurement.
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // A polite end first: nginx takes its workers along only then. Each may have ended by itself.
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// A way to the tool.
struct Way {
    name: &'static str,
    address: SocketAddr,
    request: Vec<u8>,
    /// Whose processor time is counted.
    pids: Vec<u32>,
}

/// Measures, prints a table and writes the file.
///
/// # Errors
/// If something cannot be measured; nothing is written then.
pub fn run(plan: &Plan) -> Result<bool> {
    setup::programs(&["nginx"])?;
    let without_commit = build_without_commit(plan)?;
    let binary = paths::product(plan.binary.as_deref())?;
    let directory = paths::run_directory("bench")?;
    let machine = machine::describe(&directory)?;
    println!("machine: {machine}");

    let upstream_address = free_address()?;
    let upstream = start_upstream(upstream_address)?;
    let nginx_address = free_address()?;
    let nginx = start_nginx(&directory, nginx_address, upstream_address)?;
    let gateway = start_gateway(&binary, &directory.join("gateway"), upstream_address, "")?;
    let bare =
        without_commit.map(|b| start_gateway(&b, &directory.join("no-commit"), upstream_address, "")).transpose()?;

    let mut ways = vec![direct(upstream_address, upstream.0.id()), through_nginx(nginx_address, nginx.0.id())?];
    ways.push(through_gateway("gateway", &gateway));
    ways.extend(bare.as_ref().map(|node| through_gateway("no-commit", node)));

    let mut rows = Vec::new();
    let mut ids = BTreeSet::new();
    let mut calls = 0;
    println!("{:<10} {:>5} {:>12} {:>9} {:>9} {:>12}", "way", "conn", "requests/s", "p50 µs", "p99 µs", "CPU µs/call");
    ways.retain(|way| plan.wants(way.name));
    for connections in plan.connections.iter().copied() {
        for way in &ways {
            let (row, outcome) = measure(way, connections, plan.seconds)?;
            rows.push(row);
            if way.name == "gateway" {
                calls += outcome.latencies.len();
                ids.extend(outcome.receipts);
            }
        }
    }
    let growth = growth(&through_gateway("gateway", &gateway), &gateway, plan.growth, &mut calls, &mut ids)?;
    let (resident, peak) = machine::memory(gateway.pid())?;
    println!("gateway's memory: {} MB resident, {} MB at most", resident >> 20, peak >> 20);
    drop(bare);
    let (valid, verified_per_second) = verify(&gateway, &ids)?;
    println!("calls {calls}, valid receipts {valid}; {verified_per_second:.0} receipts verified a second on one core");
    gateway.stop()?;
    let optional =
        |what: &str, measure: &dyn Fn() -> Result<Value>| if plan.wants(what) { measure() } else { Ok(Value::Null) };
    let waiting = optional("waiters", &|| waiters::row(&binary, &directory, upstream_address))?;
    let nodes = optional("postgres", &|| nodes::rows(&binary, &directory, upstream_address, plan.seconds))?;
    let appends = optional("appends", &|| appends(&directory))?;
    let trust = optional("trust", &|| trust::run(&binary, &directory, plan.seconds))?;
    let report = json!({
        "version": 1,
        "machine": machine,
        "seconds_per_row": plan.seconds,
        "rows": rows,
        "gateway_memory": {"resident_bytes": resident, "peak_bytes": peak},
        "memory_over_calls": growth,
        "calls": calls,
        "valid_receipts": valid,
        "receipts_verified_per_second": verified_per_second.round(),
        "waiting_for_people": waiting,
        "postgres_nodes": nodes,
        "ledger_appends": appends,
        "trust": trust,
    });
    fs::write(&plan.json, serde_json::to_string_pretty(&report)? + "\n")?;
    println!("written to {}", plan.json.display());
    Ok(valid == calls)
}

/// One row: a short warm-up, then the measurement.
fn measure(way: &Way, connections: usize, seconds: u64) -> Result<(Value, Outcome)> {
    let load = |duration| Load { address: way.address, request: way.request.clone(), connections, duration };
    let failed = || format!("{} at {connections} connections", way.name);
    let warm = load::run(&load(Duration::from_millis(700))).with_context(failed)?;
    let before = machine::cpu(&way.pids)?;
    let mut outcome = load::run(&load(Duration::from_secs(seconds))).with_context(failed)?;
    let cpu = machine::cpu(&way.pids)?.saturating_sub(before);
    let per_call = cpu.as_secs_f64() * 1e6 / outcome.latencies.len().max(1) as f64;
    println!(
        "{:<10} {connections:>5} {:>12.0} {:>9} {:>9} {per_call:>12.1}",
        way.name,
        outcome.rate(),
        outcome.percentile(50.0),
        outcome.percentile(99.0)
    );
    let mut row = Map::from_iter([
        ("way".to_owned(), json!(way.name)),
        ("connections".to_owned(), json!(connections)),
        ("cpu_us_per_call".to_owned(), json!((per_call * 10.0).round() / 10.0)),
    ]);
    row.extend(load::as_json(&outcome).as_object().cloned().unwrap_or_default());
    // Calls of the warm-up left receipts, too.
    outcome.latencies.extend(warm.latencies);
    outcome.receipts.extend(warm.receipts);
    Ok((Value::Object(row), outcome))
}

/// Resident memory while calls go on, after each fifth of them: what does not come to rest is a leak.
fn growth(way: &Way, node: &Node, over: usize, calls: &mut usize, ids: &mut BTreeSet<[u8; 36]>) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    let (mut made, mut next) = (0, over / 5);
    while made < over {
        let duration = Duration::from_secs(1);
        let outcome =
            load::run(&Load { address: way.address, request: way.request.clone(), connections: 32, duration })?;
        ensure!(!outcome.latencies.is_empty(), "no call was answered");
        made += outcome.latencies.len();
        *calls += outcome.latencies.len();
        ids.extend(outcome.receipts);
        if made >= next {
            let (resident, _) = machine::memory(node.pid())?;
            println!("memory after {made} more calls: {} MB", resident >> 20);
            rows.push(json!({"calls": made, "resident_bytes": resident}));
            next += over / 5;
        }
    }
    Ok(rows)
}

fn direct(address: SocketAddr, pid: u32) -> Way {
    Way { name: "direct", address, request: load::echo_request(address, "/mcp", "echo", None), pids: vec![pid] }
}

fn through_nginx(address: SocketAddr, pid: u32) -> Result<Way> {
    let mut pids = machine::children(pid)?;
    pids.push(pid);
    Ok(Way { name: "nginx", address, request: load::echo_request(address, "/mcp", "echo", None), pids })
}

fn through_gateway(name: &'static str, node: &Node) -> Way {
    let token = node.home().agent("bench", &["tester"]);
    let address = node.home().address();
    Way {
        name,
        address,
        request: load::echo_request(address, "/mcp", "bench_echo", Some(&token)),
        pids: vec![node.pid()],
    }
}

/// The minimal upstream, as a process.
///
/// # Errors
/// If it does not start.
pub fn start_upstream(address: SocketAddr) -> Result<Process> {
    let child = Command::new(std::env::current_exe()?).args(["bench-upstream", &address.to_string()]).spawn()?;
    wait_for(address)?;
    Ok(Process(child))
}

/// nginx as a plain proxy: kept connections on both sides, nothing logged, nothing buffered to disk.
fn start_nginx(directory: &Path, address: SocketAddr, upstream: SocketAddr) -> Result<Process> {
    let directory = directory.join("nginx");
    fs::create_dir_all(&directory)?;
    let user = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" };
    let config = format!(
        "{user}worker_processes 2;\npid nginx.pid;\nerror_log error.log warn;\nevents {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n\
         \x20 fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n\
         \x20 upstream tool {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}\n\
         \x20 server {{\n    listen {address};\n    location / {{\n      proxy_pass http://tool;\n      proxy_http_version 1.1;\n\
         \x20     proxy_set_header Connection \"\";\n    }}\n  }}\n}}\n"
    );
    fs::write(directory.join("nginx.conf"), config)?;
    let nginx = setup::find("nginx").context("nginx is not installed")?;
    let child = Command::new(nginx)
        .arg("-p")
        .arg(&directory)
        .args(["-c", "nginx.conf", "-g", "daemon off;"])
        .stdin(Stdio::null())
        .spawn()
        .context("starting nginx")?;
    wait_for(address)?;
    Ok(Process(child))
}

/// A node with everything on, in front of it. `more` is configuration for the top level.
///
/// # Errors
/// If it does not start.
pub fn start_gateway(binary: &Path, directory: &Path, upstream: SocketAddr, more: &str) -> Result<Node> {
    let home = Home::create(directory, &format!("{more}{LIMITS}"))?;
    let manifest = format!(
        "version: 1\nupstream: bench\ntransport:\n  type: http\n  url: http://{upstream}/mcp\n  protocol: 2025-11-25\n\
         max_concurrency: 256\ntools:\n  echo: {{ effect: read }}\n"
    );
    home.manifest("bench", &manifest)?;
    let node = Launch::new(binary).start(&home)?;
    node.accept_all_tools(&["bench"])?;
    let policy = "@id(\"testers\")\npermit (principal in Role::\"tester\", action == Action::\"bench:echo\", resource)\n\
                  when { context.input.text like \"the quick*\" };\n";
    home.access("bench", policy)?;
    node.operator().post("/admin/policy/reload", &json!({}))?.expect(200)?;
    Ok(node)
}

/// A build that differs in one thing: the ledger skips its commit. Kept out of the way of the product's own binary.
fn build_without_commit(plan: &Plan) -> Result<Option<PathBuf>> {
    let manifest = fs::read_to_string(paths::root().join("crates/countersign/Cargo.toml"))?;
    if plan.binary.is_some() || !manifest.contains(FEATURE) {
        println!(
            "without commit: not measured ({})",
            if plan.binary.is_some() { "--binary was given" } else { "no such build" }
        );
        return Ok(None);
    }
    paths::build(&["build", "--release", "--quiet", "--package", "countersign", "--features", FEATURE])?;
    let copy = paths::target().join("countersign-no-commit");
    fs::copy(paths::target().join("release/countersign"), &copy)?;
    Ok(Some(copy))
}

/// Fetches and verifies the receipt of every call; then measures verification alone.
fn verify(node: &Node, ids: &BTreeSet<[u8; 36]>) -> Result<(usize, f64)> {
    let anchors = receipts::anchors(&mut node.anonymous())?;
    let token = node.home().agent("bench", &["tester"]);
    let list: Vec<&str> = ids.iter().map(|id| std::str::from_utf8(id)).collect::<Result<_, _>>()?;
    let chunk = list.len().div_ceil(4).max(1);
    let count = |part: &[&str]| -> Result<usize> {
        let mut http = node.client(&token);
        for id in part {
            receipts::fetch_valid(&mut http, id, &anchors)?;
        }
        Ok(part.len())
    };
    let count = &count;
    let counts: Vec<Result<usize>> = thread::scope(|scope| {
        let parts: Vec<_> = list.chunks(chunk).map(|part| scope.spawn(move || count(part))).collect();
        parts.into_iter().map(|t| t.join().unwrap_or_else(|_| anyhow::bail!("a checker panicked"))).collect()
    });
    let valid = counts.into_iter().sum::<Result<usize>>()?;
    let mut http = node.client(&token);
    let sample: Vec<Vec<u8>> = list
        .iter()
        .step_by((list.len() / 200).max(1))
        .map(|id| Ok(http.get(&format!("/receipts/{id}"))?.body))
        .collect::<Result<_>>()?;
    let (start, mut verified) = (Instant::now(), 0_u32);
    while start.elapsed() < Duration::from_secs(2) {
        for bytes in &sample {
            ensure!(receipts::verify(bytes, &anchors).is_valid(), "a receipt that was valid is not");
            verified += 1;
        }
    }
    Ok((valid, f64::from(verified) / start.elapsed().as_secs_f64()))
}

/// Appends a second with few and many writers, by the store's own example.
fn appends(directory: &Path) -> Result<Value> {
    if !paths::root().join("crates/store/examples/append_bench.rs").exists() {
        return Ok(Value::Null);
    }
    // With the features of the whole workspace: the tests have built it so.
    paths::build(&["build", "--release", "--quiet", "--workspace", "--example", "append_bench"])?;
    setup::programs(&[setup::INITDB])?;
    let sqlite = append_bench(directory, "SQLite", &[])?;
    let mut rows = Map::from_iter([("sqlite".to_owned(), sqlite)]);
    // Where whoever runs the server can reach it; its file system is printed by its own fsync being what it is.
    let place = std::env::temp_dir().join(format!("countersign-bench-{}", std::process::id()));
    for (name, nodes) in [("postgres", "1"), ("postgres_two_nodes", "2")] {
        let server = Postgres::create(&place)?;
        rows.insert(name.to_owned(), append_bench(directory, name, &[&server.url(), nodes])?);
    }
    fs::remove_dir_all(&place)?;
    Ok(Value::Object(rows))
}

fn append_bench(directory: &Path, what: &str, more: &[&str]) -> Result<Value> {
    let program = paths::target().join("release/examples/append_bench");
    let output = Command::new(program).arg(directory).arg("3").args(more).output()?;
    ensure!(output.status.success(), "append_bench: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("appends to {what}:\n{}", text.trim());
    // Rows begin with the number of writers, then appends a second.
    let rows = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let writers: u32 = words.next()?.parse().ok()?;
        Some((writers.to_string(), json!(words.next()?.parse::<f64>().ok()?)))
    });
    Ok(Value::Object(rows.collect()))
}

fn wait_for(address: SocketAddr) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(address).is_err() {
        ensure!(Instant::now() < end, "nobody listens on {address}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
