//! What the machine is: cores, file system, how long a sync takes; and what a process has used of it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

const SYNCS: usize = 300;

/// Describes the machine; a file system in memory is refused, since a sync on it means nothing.
///
/// # Errors
/// If the directory is on such a file system.
pub fn describe(directory: &Path) -> Result<Value> {
    let file_system = file_system(directory)?;
    ensure!(
        !["tmpfs", "ramfs", "overlay-tmpfs"].contains(&file_system.as_str()),
        "{} is on {file_system}: durability cannot be measured there",
        directory.display()
    );
    let (p50, p99) = fdatasync(directory)?;
    Ok(json!({
        "cores": std::thread::available_parallelism()?.get(),
        "processor": processor(),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "file_system": file_system,
        "fdatasync_p50_us": p50,
        "fdatasync_p99_us": p99,
    }))
}

/// The type of the file system that holds a directory: the longest mount point that is a beginning of its path.
fn file_system(directory: &Path) -> Result<String> {
    let directory = directory.canonicalize()?;
    let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
    let mut best = (0, String::from("unknown"));
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(point), Some(kind)) = (fields.next(), fields.next()) else { continue };
        if directory.starts_with(point) && point.len() >= best.0 {
            best = (point.len(), kind.to_owned());
        }
    }
    Ok(best.1)
}

/// Median and 99th percentile, in microseconds, of appending 4 KiB and syncing.
fn fdatasync(directory: &Path) -> Result<(u64, u64)> {
    let path = directory.join("sync-probe");
    let mut file = File::create(&path)?;
    let block = [7_u8; 4096];
    let mut took = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&block)?;
        let start = Instant::now();
        file.sync_data()?;
        took.push(start.elapsed());
    }
    fs::remove_file(path)?;
    took.sort_unstable();
    let at = |percent: usize| u64::try_from(took[(SYNCS - 1) * percent / 100].as_micros()).unwrap_or(u64::MAX);
    Ok((at(50), at(99)))
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("model name"));
    line.and_then(|l| l.split_once(": ")).map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned())
}

/// Processor time of processes so far, all threads, in user and kernel.
///
/// # Errors
/// If one of them is gone.
pub fn cpu(pids: &[u32]) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for pid in pids {
        // The scheduler's nanoseconds; /proc/PID/stat counts in ticks of 10 ms.
        for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            let nanos = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            total += Duration::from_nanos(nanos);
        }
    }
    Ok(total)
}

/// Resident memory of a process, in bytes: now, and the highest so far.
///
/// # Errors
/// If it is gone.
pub fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Ok((field("VmRSS:"), field("VmHWM:")))
}

/// Children of a process.
///
/// # Errors
/// If it is gone.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().filter_map(|n| n.parse().ok()).collect())
}
