//! `cargo xtask soak`: a share of the peak load, for a long time, through a real node; what it takes, as CSV and as a graph.
//!
//! The peak is measured first, in a closed loop. Then requests are sent by the clock, whether earlier ones were answered or not, and
//! a latency counts from the moment at which the request should have been sent. Samples come from the process (memory, processor,
//! descriptors), its own metrics (tasks, leaves) and its data directory.

mod graph;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::home::free_address;
use countersign_testkit::{Client, Node};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::bench::{self, load, machine};
use crate::paths;

const PEAK_CONNECTIONS: usize = 32;
const PEAK_TIME: Duration = Duration::from_secs(5);
/// Connections of the paced load.
const CONNECTIONS: usize = 16;
/// About so many samples make the graph.
const SAMPLES: u32 = 240;

/// What to do.
pub struct Plan {
    /// The product.
    pub binary: PathBuf,
    /// How long.
    pub minutes: f64,
    /// Which share of the peak.
    pub share: f64,
    /// Where the samples go.
    pub csv: PathBuf,
    /// Where the graph goes.
    pub svg: PathBuf,
}

/// One line of the CSV.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    seconds: f64,
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    resident_mb: f64,
    cpu_percent: f64,
    descriptors: f64,
    tasks: f64,
    data_mb: f64,
    leaves: f64,
}

/// A column's name and its value.
type Column = (&'static str, fn(&Sample) -> f64);

const COLUMNS: [Column; 10] = [
    ("seconds", |s| s.seconds),
    ("calls_per_second", |s| s.rate),
    ("p50_ms", |s| s.p50_ms),
    ("p99_ms", |s| s.p99_ms),
    ("resident_mb", |s| s.resident_mb),
    ("cpu_percent", |s| s.cpu_percent),
    ("descriptors", |s| s.descriptors),
    ("tasks", |s| s.tasks),
    ("data_mb", |s| s.data_mb),
    ("leaves", |s| s.leaves),
];

/// Runs the load and writes both files. Fails if a call fails.
///
/// # Errors
/// If something cannot be started or measured; samples taken until then are written.
pub fn run(plan: &Plan) -> Result<bool> {
    ensure!(plan.share > 0.0 && plan.share <= 1.0, "--share is between 0 and 1");
    ensure!(plan.minutes > 0.0, "--minutes must not be zero");
    let directory = paths::run_directory("soak")?;
    println!("machine: {}", machine::describe(&directory)?);
    let address = free_address()?;
    let upstream = bench::start_upstream(address)?;
    let node = bench::start_gateway(&plan.binary, &directory.join("node"), address, "")?;
    let token = node.home().agent("soak", &["tester"]);
    let request = load::echo_request(node.home().address(), "/mcp", "bench_echo", Some(&token));
    let at = node.home().address();
    let peak = load::run(&load::Load {
        address: at,
        request: request.clone(),
        connections: PEAK_CONNECTIONS,
        duration: PEAK_TIME,
    })?;
    let rate = (peak.rate() * plan.share).max(1.0);
    println!(
        "peak {:.0} calls/s at {PEAK_CONNECTIONS} connections; soaking at {rate:.0} calls/s for {} min",
        peak.rate(),
        plan.minutes
    );

    let samples = soak(plan, &node, request, rate)?;
    fs::write(&plan.svg, graph::draw(&samples, rate, plan.minutes))?;
    println!("written: {} and {}", plan.csv.display(), plan.svg.display());
    summarise(&samples);
    drop(upstream);
    node.stop()?;
    Ok(true)
}

/// Drives the load on threads of its own, and samples on this one.
fn soak(plan: &Plan, node: &Node, request: Vec<u8>, rate: f64) -> Result<Vec<Sample>> {
    let length = Duration::from_secs_f64(plan.minutes * 60.0);
    let every = (length / SAMPLES).max(Duration::from_secs(1));
    let latencies: Arc<Mutex<Vec<u32>>> = Arc::default();
    let address = node.home().address();
    let driver = {
        let latencies = Arc::clone(&latencies);
        std::thread::spawn(move || drive(address, &request, rate, length, &latencies))
    };
    let mut sampler = Sampler::new(node)?;
    let (start, mut samples) = (Instant::now(), Vec::new());
    let mut csv = COLUMNS.map(|(name, _)| name).join(",") + "\n";
    while start.elapsed() < length && !driver.is_finished() {
        std::thread::sleep(every.min(length.saturating_sub(start.elapsed()).max(Duration::from_millis(1))));
        let mut took = std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
        let sample = sampler.sample(start.elapsed(), &mut took)?;
        csv += &(COLUMNS.map(|(_, value)| format!("{:.3}", value(&sample))).join(",") + "\n");
        // Written as it grows: a long run that is cut short has something to show.
        fs::write(&plan.csv, &csv)?;
        samples.push(sample);
    }
    let sent = driver.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
    println!("{sent} calls, all answered");
    Ok(samples)
}

/// Sends by the clock until the time is up; an answer that is no result ends it.
fn drive(address: SocketAddr, request: &[u8], rate: f64, length: Duration, latencies: &Mutex<Vec<u32>>) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interval = Duration::from_secs_f64(CONNECTIONS as f64 / rate);
    runtime.block_on(async {
        let start = tokio::time::Instant::now();
        let lanes = (0..CONNECTIONS).map(|lane| async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (mut buffer, mut sent) = (Vec::with_capacity(16 * 1024), 0_u64);
            let mut due = start + interval.mul_f64(lane as f64 / CONNECTIONS as f64);
            while due < start + length {
                tokio::time::sleep_until(due).await;
                stream.write_all(request).await?;
                buffer.clear();
                let body = load::read_answer(&mut stream, &mut buffer).await?;
                ensure!(load::find(body, b"\"result\"").is_some(), "refused: {}", String::from_utf8_lossy(body));
                let took = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
                latencies.lock().unwrap_or_else(PoisonError::into_inner).push(took);
                (sent, due) = (sent + 1, due + interval);
            }
            Ok(sent)
        });
        let mut tasks = Vec::new();
        for lane in lanes {
            tasks.push(Box::pin(lane));
        }
        let mut total = 0;
        for sent in join_all(tasks).await {
            total += sent?;
        }
        Ok(total)
    })
}

/// Polls all futures to their ends, in place.
async fn join_all<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        let mut pending = false;
        for (future, slot) in futures.iter_mut().zip(&mut done) {
            if slot.is_none() {
                match std::pin::Pin::new(future).poll(context) {
                    std::task::Poll::Ready(output) => *slot = Some(output),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(done.iter_mut().filter_map(Option::take).collect())
    })
    .await
}

struct Sampler {
    operator: Client,
    pid: u32,
    data: PathBuf,
    cpu: Duration,
    at: Instant,
}

impl Sampler {
    fn new(node: &Node) -> Result<Self> {
        let data = node.home().directory().join("data");
        Ok(Self {
            operator: node.operator(),
            pid: node.pid(),
            data,
            cpu: machine::cpu(&[node.pid()])?,
            at: Instant::now(),
        })
    }

    fn sample(&mut self, since: Duration, latencies: &mut [u32]) -> Result<Sample> {
        latencies.sort_unstable();
        let percentile = |percent: usize| {
            let at = latencies.len().saturating_sub(1) * percent / 100;
            latencies.get(at).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
        };
        let (cpu, now) = (machine::cpu(&[self.pid])?, Instant::now());
        let wall = now.duration_since(self.at).as_secs_f64().max(1e-9);
        let cpu_percent = cpu.saturating_sub(self.cpu).as_secs_f64() / wall * 100.0;
        (self.cpu, self.at) = (cpu, now);
        let page = self.operator.get("/metrics")?;
        let page = String::from_utf8(page.body).context("the metrics are not text")?;
        let metric = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).with_context(|| format!("no metric {name}"))
        };
        Ok(Sample {
            seconds: since.as_secs_f64(),
            rate: latencies.len() as f64 / wall,
            p50_ms: percentile(50),
            p99_ms: percentile(99),
            resident_mb: machine::memory(self.pid)?.0 as f64 / 1e6,
            cpu_percent,
            descriptors: metric("process_open_fds")?,
            tasks: metric("countersign_tasks")?,
            data_mb: size(&self.data)? as f64 / 1e6,
            leaves: metric("countersign_ledger_leaves")?,
        })
    }
}

/// Bytes of the files in a directory and below.
fn size(directory: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // A journal may be gone between the listing and the look.
        let Ok(facts) = entry.metadata() else { continue };
        total += if facts.is_dir() { size(&entry.path())? } else { facts.len() };
    }
    Ok(total)
}

fn summarise(samples: &[Sample]) {
    // The first tenth warms up.
    let steady = &samples[samples.len() / 10..];
    let (Some(first), Some(last)) = (steady.first(), steady.last()) else { return };
    let most = |value: fn(&Sample) -> f64| steady.iter().map(value).fold(0.0, f64::max);
    println!(
        "memory {:.0} to {:.0} MB, p99 at most {:.1} ms, {:.0} to {:.0} descriptors, {:.0} to {:.0} tasks, {:.1} bytes on disk per leaf",
        first.resident_mb,
        last.resident_mb,
        most(|s| s.p99_ms),
        first.descriptors,
        last.descriptors,
        first.tasks,
        last.tasks,
        (last.data_mb - first.data_mb) * 1e6 / (last.leaves - first.leaves).max(1.0)
    );
}
