//! Durable appends a second through the whole ledger, with 1, 64 and 256 writers, beside the latency of `fdatasync` in the
//! same directory. Usage: `append_bench [DIRECTORY] [SECONDS] [URL NODES [WRITERS]]`. Refuses tmpfs, where nothing is durable.
//! With the URL of an empty Postgres database, which must be elsewhere durable, so many nodes in this process share it and the
//! writers; without one, `-` in the place of the URL. WRITERS is a list such as `64,256`.
#![allow(clippy::unwrap_used, reason = "a benchmark may stop where it stands")]

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use countersign_domain::{EventDraft, EventType};
use countersign_ledger::{Append, Entry, Ledger, LedgerOptions};
use countersign_store::{PostgresOptions, PostgresStore, SqliteStore};

fn main() {
    let mut args = std::env::args().skip(1);
    let base = args.next().unwrap_or_else(|| ".".into());
    let seconds: u64 = args.next().map_or(3, |s| s.parse().unwrap());
    let kind = file_system(Path::new(&base));
    if kind == "tmpfs" || kind == "ramfs" {
        eprintln!("{base} is on {kind}: nothing is durable there");
        std::process::exit(2);
    }
    println!("directory {base} on {kind}");
    let dir = Path::new(&base).join(format!("append-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    println!("fdatasync after 4 KiB: median {} us", fdatasync(&dir));
    let url = args.next().filter(|url| url != "-");
    let nodes = args.next().map_or(1, |n| n.parse().unwrap());
    let shared = url.map(|url| (url, nodes));
    let writers = args.next().unwrap_or_else(|| "1,64,256".into());
    println!("writers  appends/s  per group   p50 us   p99 us  writer us/event  process us/event");
    for writers in writers.split(',').map(|n| n.parse().unwrap()) {
        run(&dir, writers, Duration::from_secs(seconds), shared.as_ref());
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

fn open(dir: &Path, writers: usize, shared: Option<&(String, usize)>) -> Vec<Ledger> {
    let options = |n: usize| LedgerOptions::new("bench.example", [7; 32], dir.join(format!("{writers}-{n}.head")));
    let Some((url, nodes)) = shared else {
        let store = SqliteStore::open(dir.join(format!("{writers}.db"))).unwrap();
        return vec![Ledger::open(store, options(0)).unwrap().0];
    };
    let node = |n| {
        let replica = Some(format!("bench-{n}"));
        let store = PostgresStore::open(PostgresOptions { replica, ..PostgresOptions::new(url) }).unwrap();
        Ledger::open(store, LedgerOptions { join: true, ..options(n) }).unwrap().0
    };
    (0..*nodes).map(node).collect()
}

fn run(dir: &Path, writers: usize, time: Duration, shared: Option<&(String, usize)>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ledgers = open(dir, writers, shared);
    let stats = || ledgers.iter().map(Ledger::stats).fold((0, 0), |sum, s| (sum.0 + s.groups, sum.1 + s.events));
    let (before, process, writer) = (stats(), cpu_of("self"), writer_cpu());
    let started = Instant::now();
    let mut latencies = runtime.block_on(async {
        let tasks: Vec<_> = (0..writers)
            .map(|n| tokio::spawn(one_writer(ledgers[n % ledgers.len()].clone(), n, started, time)))
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        all
    });
    let elapsed = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize].as_micros();
    let after = stats();
    let (groups, events) = (after.0 - before.0, after.1 - before.1);
    println!(
        "{writers:>7} {:>10.0} {:>10.1} {:>8} {:>8} {:>16.1} {:>17.1}",
        events as f64 / elapsed,
        events as f64 / groups as f64,
        at(0.5),
        at(0.99),
        (writer_cpu() - writer) as f64 / events as f64,
        (cpu_of("self") - process) as f64 / events as f64,
    );
    ledgers.iter().for_each(|ledger| runtime.block_on(ledger.shutdown()));
}

async fn one_writer(ledger: Ledger, n: usize, started: Instant, time: Duration) -> Vec<Duration> {
    let mut latencies = Vec::new();
    while started.elapsed() < time {
        let events = vec![entry(n)];
        let sent = Instant::now();
        ledger.append(Append { events, ops: Vec::new(), ..Append::default() }).await.unwrap();
        latencies.push(sent.elapsed());
    }
    latencies
}

/// An event of the usual size: about 700 bytes.
fn entry(writer: usize) -> Entry {
    let workspace = format!("w{}", writer % 8).parse().unwrap();
    let time = countersign_ledger::handle::system_clock();
    let event = EventDraft::new(uuid::Uuid::now_v7(), workspace, EventType::CallCompleted, time)
        .with("policy_version", "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        .with("input_digest", "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        .with("filler", "x".repeat(300));
    let mut entry = Entry::new(event.prepare().unwrap());
    entry.call = Some(uuid::Uuid::now_v7());
    entry.principal = Some("agent".into());
    entry.tool = Some("ads:createCampaign".into());
    entry
}

fn fdatasync(dir: &Path) -> u128 {
    let mut file = std::fs::File::create(dir.join("sync")).unwrap();
    file.write_all(&[0; 1 << 20]).unwrap();
    file.sync_all().unwrap();
    let mut times: Vec<_> = (0..200)
        .map(|n: u64| {
            let started = Instant::now();
            std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], n * 4096).unwrap();
            file.sync_data().unwrap();
            started.elapsed().as_micros()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// The type of the file system that holds a path, by `/proc/self/mounts`: the longest mount point above it.
fn file_system(path: &Path) -> String {
    let path = path.canonicalize().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().filter_map(|line| line.split_once(' ')?.1.split_once(' '));
    let above = mounts.filter(|(at, _)| path.starts_with(at)).max_by_key(|(at, _)| at.len());
    above.and_then(|(_, rest)| rest.split(' ').next()).unwrap_or("an unknown file system").to_owned()
}

/// User and system time of a process or thread in microseconds, in steps of 10 ms (proc(5)).
fn cpu_of(task: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{task}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) * 10_000
}

/// That of the ledger's writer, by its thread's name.
fn writer_cpu() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let named = |path: &Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|c| c.trim() == "ledger-writer");
    tasks.filter(|t| named(&t.path())).map(|t| cpu_of(&format!("self/task/{}", t.file_name().to_string_lossy()))).sum()
}
