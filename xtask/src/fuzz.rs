//! `cargo xtask fuzz`: every target under `fuzz/`, for as long as asked, and what came of it.
//!
//! Installs what is missing: a nightly compiler by rustup, cargo-fuzz by cargo. Inputs found before (`fuzz/corpus`, not kept in
//! the repository) and the seeds (`fuzz/seeds`) are where each target starts; what breaks one is left in `fuzz/artifacts`. A table of
//! what came of it is kept in `target/acceptance/fuzz`, a row as soon as its target has ended.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::paths;

/// A single input may take this long, in seconds, and this much memory, in MiB. What is slower than usual is no finding: the machine
/// may be busy.
const BOUNDS: [&str; 3] = ["-timeout=20", "-report_slow_units=20", "-rss_limit_mb=2560"];
/// Longer inputs find the same at more cost.
const MAX_LEN: &str = "-max_len=8192";

/// What to run.
#[derive(Debug)]
pub struct Plan {
    /// For how long each target runs.
    pub minutes: f64,
    /// Only these, with commas between.
    pub only: Option<String>,
    /// How many run at a time.
    pub jobs: usize,
}

/// What came of one target.
struct Outcome {
    target: String,
    executions: u64,
    findings: usize,
    /// The end of its output, where it did not end well.
    output: Option<String>,
}

/// Whether the targets still fit the code that they drive: checked with the usual compiler, since a nightly one is not always there.
///
/// # Errors
/// If the compiler cannot be started.
pub fn check() -> Result<bool> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["check", "--quiet", "--locked", "--manifest-path"]).arg(directory().join("Cargo.toml"));
    command.arg("--target-dir").arg(paths::target().join("fuzz-check"));
    // One target compares with an unstable function of the standard library.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "--cfg fuzzing");
    Ok(command.current_dir(paths::root()).status().with_context(|| format!("running {command:?}"))?.success())
}

/// Builds and runs the targets; whether there is no finding.
///
/// # Errors
/// If something cannot be installed, built or started.
pub fn run(plan: &Plan) -> Result<bool> {
    install()?;
    let targets = targets(plan.only.as_deref())?;
    // One is built alone; of several the others are cheap beside what all of them share.
    build(targets.first().filter(|_| targets.len() == 1).map(String::as_str))?;
    let start = Instant::now();
    let table = paths::run_directory("fuzz")?.join("table.md");
    fs::write(&table, "| target | minutes | executions | findings |\n|---|---|---|---|\n")?;
    println!("{} targets, {} min each, {} at a time", targets.len(), plan.minutes, plan.jobs);
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = fuzz(target, plan.minutes)?;
            report(&outcome);
            let Outcome { executions, findings, .. } = &outcome;
            let row = format!("| `{target}` | {} | {executions} | {findings} |\n", plan.minutes);
            fs::OpenOptions::new().append(true).open(&table)?.write_all(row.as_bytes())?;
            outcomes.lock().map_err(|_| anyhow::anyhow!("another target failed"))?.push(outcome);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })?;
    let outcomes = outcomes.into_inner().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
    let executions: u64 = outcomes.iter().map(|o| o.executions).sum();
    let findings: usize = outcomes.iter().map(|o| o.findings).sum();
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    println!("fuzz: {} targets, {executions} executions, {findings} findings, {minutes:.1} min", outcomes.len());
    Ok(findings == 0)
}

fn directory() -> PathBuf {
    paths::root().join("fuzz")
}

/// The targets' names, sorted.
fn targets(only: Option<&str>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory().join("fuzz_targets"))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        let wanted = only.is_none_or(|only| only.split(',').any(|one| one == name));
        if path.extension().is_some_and(|extension| extension == "rs") && wanted {
            names.push(name);
        }
    }
    ensure!(!names.is_empty(), "no such target; they are the files of fuzz/fuzz_targets");
    names.sort();
    Ok(names)
}

fn install() -> Result<()> {
    let toolchains = output(Command::new("rustup").args(["toolchain", "list"]))?;
    if !toolchains.lines().any(|line| line.starts_with("nightly")) {
        println!("installing a nightly compiler");
        output(Command::new("rustup").args(["toolchain", "install", "nightly", "--profile", "minimal"]))?;
    }
    let known = Command::new("cargo").args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !known.is_ok_and(|status| status.success()) {
        println!("installing cargo-fuzz");
        output(Command::new("cargo").args(["install", "--locked", "cargo-fuzz"]).current_dir(std::env::temp_dir()))?;
    }
    Ok(())
}

fn build(only: Option<&str>) -> Result<()> {
    println!("building");
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", "build", "--target-dir"]).arg(target_directory()).args(only);
    output(command.current_dir(paths::root())).map(drop)
}

fn target_directory() -> PathBuf {
    directory().join("target")
}

fn binary(target: &str) -> Result<PathBuf> {
    let built = target_directory();
    let triples = fs::read_dir(&built)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let found = triples.map(|triple| triple.join("release").join(target)).find(|path| path.is_file());
    found.with_context(|| format!("{target} was not built in {}", built.display()))
}

fn fuzz(target: &str, minutes: f64) -> Result<Outcome> {
    let place = |kind: &str| directory().join(kind).join(target);
    let (corpus, seeds, artifacts) = (place("corpus"), place("seeds"), place("artifacts"));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let before = files(&artifacts)?;
    let seconds = (minutes * 60.0).ceil().max(1.0);
    let mut command = Command::new(binary(target)?);
    command.arg(&corpus);
    if seeds.is_dir() {
        command.arg(&seeds);
    }
    command.args([&format!("-max_total_time={seconds}"), "-print_final_stats=1", MAX_LEN]).args(BOUNDS);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    // Before anything runs, the sanitizer takes a global of SQLite's C code for one that is defined twice.
    command.env("ASAN_OPTIONS", "detect_odr_violation=0");
    let ended = command.stdin(Stdio::null()).output().with_context(|| format!("running {target}"))?;
    let text = String::from_utf8_lossy(&ended.stderr);
    let executions = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let executions = executions.and_then(|number| number.trim().parse().ok()).unwrap_or(0);
    // A target that ended badly without leaving an input (it ran out of memory, say) is a finding too.
    let findings = files(&artifacts)?.saturating_sub(before).max(usize::from(!ended.status.success()));
    let tail = || {
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("stat::")).collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    };
    let output = (findings > 0).then(tail);
    Ok(Outcome { target: target.to_owned(), executions, findings, output })
}

fn report(outcome: &Outcome) {
    let Outcome { target, executions, findings, output } = outcome;
    println!("  {target:<20} {executions:>12} executions  {findings} findings");
    if let Some(output) = output {
        println!("{output}\n  the inputs are in fuzz/artifacts/{target}");
    }
}

fn files(directory: &Path) -> Result<usize> {
    Ok(fs::read_dir(directory)?.count())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
