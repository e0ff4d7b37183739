//! What it costs that many agents wait for people at a time: it should cost nothing while nobody answers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use countersign_testkit::Node;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::{load, machine, start_gateway};

const WAITERS: u64 = 10_000;
/// File descriptors that a process needs for other things.
const SPARE: u64 = 500;
/// How many requests are on their way at a time while the waiters arrive.
const ARRIVING: usize = 64;
/// How long the waiting itself is watched; with the arrival it must fit into the time that a call waits.
const WATCHED: Duration = Duration::from_secs(10);
const WAIT: &str = "[approval]\nwait_seconds = 50\n";
const ACCESS: &str =
    "@id(\"waiters\")\npermit (principal in Role::\"waiter\", action == Action::\"bench:echo\", resource);\n";
const APPROVAL: &str = "@id(\"waiters-need-a-reviewer\")\n@approvals(\"1\")\n@approver_role(\"reviewer\")\n@expires(\"10m\")\n\
                        permit (principal in Role::\"waiter\", action == Action::\"bench:echo\", resource);\n";

/// Lets agents, each with a request of its own, wait over MCP, and takes the gateway's processor time meanwhile.
///
/// # Errors
/// If a call does not wait, or they do not all wait at the same time.
pub fn row(binary: &Path, directory: &Path, upstream: SocketAddr) -> Result<Value> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let waiters = WAITERS.min(most.saturating_sub(SPARE));
    let node = start_gateway(binary, &directory.join("waiters"), upstream, WAIT)?;
    node.home().access("waiters", ACCESS)?;
    node.home().approval("waiters", APPROVAL)?;
    node.operator().post("/admin/policy/reload", &json!({}))?.expect(200)?;
    let idle = busy(&node, WATCHED / 2)?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let arrived = Instant::now();
    let sockets = runtime.block_on(arrive(&node, waiters))?;
    while waiting_calls(&node)? < waiters {
        ensure!(arrived.elapsed() < Duration::from_secs(35), "{} of {waiters} calls wait", waiting_calls(&node)?);
        std::thread::sleep(Duration::from_millis(200));
    }
    let arrival = arrived.elapsed();
    let waiting = busy(&node, WATCHED)?;
    let (resident, _) = machine::memory(node.pid())?;
    sockets.iter().try_for_each(still_waits)?;
    drop(sockets);
    println!(
        "{waiters} agents wait for people: {:.2} ms of CPU a second (idle {:.2}), {} MB; they arrived within {:.1} s",
        waiting,
        idle,
        resident >> 20,
        arrival.as_secs_f64()
    );
    node.stop()?;
    Ok(json!({
        "waiters": waiters, "cpu_ms_per_second": waiting, "cpu_ms_per_second_idle": idle, "resident_bytes": resident,
        "arrived_in_seconds": arrival.as_secs_f64(),
    }))
}

/// The gateway's processor time in milliseconds a second.
fn busy(node: &Node, watched: Duration) -> Result<f64> {
    let before = machine::cpu(&[node.pid()])?;
    std::thread::sleep(watched);
    let used = machine::cpu(&[node.pid()])?.saturating_sub(before);
    Ok(used.as_secs_f64() * 1e3 / watched.as_secs_f64())
}

/// Opens a connection for each and sends its call.
async fn arrive(node: &Node, waiters: u64) -> Result<Vec<TcpStream>> {
    let address = node.home().address();
    let arriving = Arc::new(Semaphore::new(ARRIVING));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..waiters {
        let turn = Arc::clone(&arriving).acquire_owned().await?;
        let token = node.home().agent(&format!("waiter-{number}"), &["waiter"]);
        let request = load::echo_request(address, "/mcp", "bench_echo", Some(&token));
        tasks.spawn(async move {
            let _turn = turn;
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(&request).await?;
            Ok::<_, std::io::Error>(stream)
        });
    }
    let mut sockets = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        sockets.push(joined?.context("a waiter's connection")?);
    }
    Ok(sockets)
}

/// A stream that is kept open may have begun; what there must not be is an end, or an answer.
fn still_waits(socket: &TcpStream) -> Result<()> {
    let mut bytes = [0; 4096];
    match socket.try_read(&mut bytes) {
        Ok(0) => bail!("a call did not wait to the end: the connection was closed"),
        Ok(read) => {
            let text = String::from_utf8_lossy(&bytes[..read]);
            ensure!(
                !text.contains("\"result\"") && text.starts_with("HTTP/1.1 200"),
                "a call did not wait to the end: {text}"
            );
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error).context("a call did not wait to the end"),
    }
}

/// How many calls were told to wait.
fn waiting_calls(node: &Node) -> Result<u64> {
    let token = node.home().person("meter", &["metrics"]);
    let answer = node.client(&token).get("/metrics")?;
    ensure!(answer.status == 200, "/metrics: HTTP {}", answer.status);
    let text = String::from_utf8(answer.body)?;
    let waiting =
        text.lines().find(|line| line.starts_with("countersign_calls_total{") && line.contains("\"pending\""));
    // There is no such line before the first.
    Ok(waiting.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0) as u64)
}
