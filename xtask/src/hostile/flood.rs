//! The flood: strangers that come without end, each with another token, key, path, name or session, leave nothing on disk but counts
//! that are bounded, and nothing in memory that grows.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::http::read_response;
use countersign_testkit::{Claims, Issuer};
use serde_json::json;

use super::{Case, World};

pub const CASES: &[Case] = &[("a flood of strangers", flood)];

/// Connections, and requests that are sent on one before their answers are read.
const CONNECTIONS: usize = 4;
const AT_ONCE: usize = 40;
/// What the data directory may grow by: pages of the aggregates' table and of the database's own log, whatever the number of requests.
const DISK: u64 = 1 << 20;
/// What memory may grow by after the first tenth, by when every pool and cache has its size.
const MEMORY: u64 = 24 << 20;

fn flood(world: &mut World) -> Result<()> {
    twin(world)?;
    let requests = world.flood;
    let log = world.node.home().directory().join("node.log");
    let (checkpoint, causes) = (checkpoint(world)?, causes(world)?);
    send(world, 0, requests / 10)?;
    let before = (disk(world)?, size(&log)?, memory(world)?);
    let start = Instant::now();
    send(world, requests / 10, requests)?;
    let seconds = start.elapsed().as_secs_f64();
    // Aggregates are written within seconds.
    thread::sleep(Duration::from_secs(6));
    let after = (disk(world)?, size(&log)?, memory(world)?);
    let new_causes = self::causes(world)?.saturating_sub(causes);
    println!(
        "  {requests} strangers in {seconds:.0} s: data directory {} -> {} bytes, log {} -> {} bytes, memory {} -> {} KiB, {new_causes} new counts",
        before.0,
        after.0,
        before.1,
        after.1,
        before.2 >> 10,
        after.2 >> 10,
    );
    ensure!(self::checkpoint(world)? == checkpoint, "strangers made the log of events grow");
    ensure!(after.0 <= before.0 + DISK, "the data directory grew by {} bytes", after.0 - before.0);
    ensure!(after.1 <= before.1 + DISK, "the node's log grew by {} bytes", after.1 - before.1);
    ensure!(after.2 <= before.2 + MEMORY, "memory grew by {} bytes", after.2 - before.2);
    ensure!(new_causes <= 100, "{new_causes} new counts: they are not bounded");
    twin(world).context("afterwards")
}

fn twin(world: &mut World) -> Result<()> {
    let answer = world.invoke(&mut world.agent(), "echo", &json!({"text": "twin"}))?;
    world.harmless(&answer).map(|_| ())
}

/// Requests number `from` to `to`, spread over the connections; none may be answered with success.
fn send(world: &World, from: usize, to: usize) -> Result<()> {
    let address = world.node.home().address().to_string();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CONNECTIONS)
            .map(|worker| {
                let address = &address;
                scope.spawn(move || {
                    let numbers: Vec<usize> = (from..to).filter(|n| n % CONNECTIONS == worker).collect();
                    numbers.chunks(AT_ONCE).try_for_each(|some| round(address, some))
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })
}

/// A connection's worth of requests. A new one each time, as strangers do.
fn round(address: &str, numbers: &[usize]) -> Result<()> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let all: String = numbers.iter().map(|number| request(address, *number)).collect();
    (&stream).write_all(all.as_bytes())?;
    let mut stream = BufReader::new(stream);
    for number in numbers {
        let answer = read_response(&mut stream).with_context(|| format!("number {number}"))?;
        ensure!((400..500).contains(&answer.status), "number {number}: HTTP {}", answer.status);
    }
    Ok(())
}

/// The n-th stranger. No two are the same in what they claim to be.
fn request(address: &str, n: usize) -> String {
    let head = |line: &str, host: &str, more: &str| {
        format!("{line} HTTP/1.1\r\nhost: {host}\r\n{more}content-length: 0\r\n\r\n")
    };
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    match n % 8 {
        0 => head("POST /tools/evil:echo/invoke", address, &bearer(&format!("garbage-{n}"))),
        1 => head("POST /tools/evil:echo/invoke", address, &bearer(&token(&format!("kid-{n}"), "https://issuer.test"))),
        2 => head("POST /mcp", address, &bearer(&token("k", &format!("https://issuer-{n}.test")))),
        3 => head(&format!("GET /no/such/path/{n}"), address, ""),
        4 => head("POST /mcp", &format!("host-{n}.example"), ""),
        5 => head("POST /mcp", address, &format!("mcp-session-id: {n:032x}\r\nmcp-protocol-version: 2025-11-25\r\n")),
        6 => head(
            &format!("POST /tools/tool-{n}:x/invoke?n={n}"),
            address,
            &bearer(&format!("csk_{n:016x}_{:064x}", n * 7)),
        ),
        _ => head(
            &format!("GET /approvals/{n}"),
            address,
            &format!("x-correlation-id: c-{n}\r\norigin: https://o{n}.example\r\n"),
        ),
    }
}

/// A token that nobody signed.
fn token(kid: &str, issuer: &str) -> String {
    static FORGER: LazyLock<Issuer> = LazyLock::new(|| Issuer::new("forger", 9));
    let claims = Claims::agent("stranger", &["operator"]).with("iss", json!(issuer));
    let bare = FORGER.signing_input(&json!({"alg": "EdDSA", "kid": kid}), &claims);
    format!("{bare}.{}", "e".repeat(86))
}

fn checkpoint(world: &World) -> Result<String> {
    let checkpoint = world.node.anonymous().get("/checkpoint")?;
    let text = String::from_utf8_lossy(&checkpoint.body).into_owned();
    Ok(text.lines().nth(1).unwrap_or_default().to_owned())
}

/// How many different counts of refusals there are.
fn causes(world: &World) -> Result<usize> {
    let status = world.node.operator().get("/admin/status")?.expect(200)?;
    Ok(status["refusals"].as_array().context("no aggregates of refusals")?.len())
}

fn disk(world: &World) -> Result<u64> {
    total(&world.node.home().directory().join("data"))
}

fn total(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        sum += if path.is_dir() { total(&path)? } else { size(&path)? };
    }
    Ok(sum)
}

fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}

/// Resident memory of the node, bytes.
fn memory(world: &World) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.node.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
