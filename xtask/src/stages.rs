//! `cargo xtask test`: everything, stage after stage, with what each took. Installs what is missing.
//!
//! The stages share one build: the release profile, for the product, its tests and the acceptance programs. A stage that fails
//! does not stop the others; the last line counts, and the exit code is honest.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::random::Random;

use crate::{
    conformance, crash, evidence, fuzz, hostile, jose, kms, mail, observe, oidc, paths, peers, power, s3, setup,
    sigstore, softhsm, strace, tidy, twins, use_cases, walkthrough, witness,
};

/// The demo promises less than a minute after the build.
const DEMO_LIMIT: Duration = Duration::from_secs(60);

/// How many checks of a stage passed and failed.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    passed: usize,
    failed: usize,
}

/// A stage's name and what it does.
type Stage = (&'static str, fn(&Path) -> Result<Count>);

const STAGES: &[Stage] = &[
    ("set-up", |_| one(setup::everything().map(|()| true))),
    ("build", |_| one(build())),
    ("tests", |_| cargo_test("tests", &["--all-targets"])),
    ("documentation tests", |_| cargo_test("documentation-tests", &["--doc"])),
    // Tests are built with features that the product does not have, and leave their build in its place.
    ("product", |_| one(paths::build(&["build", "--release", "--package", "countersign"]).map(|()| true))),
    ("tidy", |_| one(tidy::run(&paths::root()).map(|findings| findings == 0))),
    ("fuzz targets", |_| one(fuzz::check())),
    ("twins", |_| one(twins::run(None))),
    ("advisories", |_| advisories()),
    ("observe", |binary| one(observe::run(binary))),
    ("walkthrough", |binary| one(walkthrough::run(binary))),
    ("use cases", |binary| one(use_cases::run(binary, None))),
    ("peers", |binary| one(peers::run(binary))),
    ("oidc", |binary| one(oidc::run(binary))),
    ("sigstore", |binary| one(sigstore::run(binary))),
    ("jose", |binary| one(jose::run(binary))),
    ("mail", |binary| one(mail::run(binary))),
    ("softhsm", |binary| one(softhsm::run(binary))),
    ("kms", |binary| one(kms::run(binary))),
    ("witness", |binary| one(witness::run(binary))),
    ("conformance", |binary| one(conformance::run(binary, &conformance::Plan { only: None, update: false }))),
    ("hostile", |binary| one(hostile::run(binary, &hostile::Plan::default()))),
    ("crash", |binary| one(crash::run(binary, &plan("crash", 2_000, 6)))),
    ("crash, artifacts", |binary| one(crash::artifacts::run(binary, &plan("crash-artifacts", 600, 5)))),
    ("s3", |binary| one(s3::run(binary))),
    ("crash, two nodes", |binary| {
        let (writes, kills, seed) = (1_000, 4, Random::seed_from_clock());
        one(crash::nodes::run(binary, &crash::nodes::Plan { writes, kills, nodes: 2, seed, name: "crash-postgres" }))
    }),
    ("power cut", |binary| one(power::run(binary, plan("power-cut", 500, 5)))),
    ("system calls", |binary| one(strace::run(binary))),
    ("evidence", |binary| one(evidence::run(binary))),
    ("demo", |binary| one(demo(binary))),
];

/// Runs every stage and prints the table; the answer is whether all passed.
///
/// # Errors
/// Never for a stage's failure, which counts.
pub fn run() -> Result<bool> {
    let binary = paths::target().join("release/countersign");
    let mut table = Vec::new();
    let mut total = Count::default();
    let mut reasons = Vec::new();
    for (name, stage) in STAGES {
        println!("\n== {name}");
        let start = Instant::now();
        let count = stage(&binary).unwrap_or_else(|error| {
            println!("{error:#}");
            reasons.push(format!("{name}: {error:#}"));
            Count { passed: 0, failed: 1 }
        });
        total.passed += count.passed;
        total.failed += count.failed;
        table.push((name, start.elapsed(), count));
    }
    println!("\n{:<22} {:>8} {:>8} {:>8}", "stage", "minutes", "passed", "failed");
    for (name, took, count) in &table {
        println!("{name:<22} {:>8.1} {:>8} {:>8}", took.as_secs_f64() / 60.0, count.passed, count.failed);
    }
    let minutes: f64 = table.iter().map(|(_, took, _)| took.as_secs_f64() / 60.0).sum();
    println!("{:<22} {minutes:>8.1}", "all");
    // Again, where they are found without looking through everything.
    reasons.iter().for_each(|reason| println!("{reason}"));
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0)
}

fn one(outcome: Result<bool>) -> Result<Count> {
    outcome.map(|passed| if passed { Count { passed: 1, failed: 0 } } else { Count { passed: 0, failed: 1 } })
}

fn plan(name: &'static str, writes: usize, kills: usize) -> crash::Plan {
    crash::Plan { writes, kills, seed: Random::seed_from_clock(), name, power: None }
}

/// The product, and every test and example that the later stages run, at once: that uses both cores best.
fn build() -> Result<bool> {
    paths::build(&["build", "--release", "--package", "countersign"])?;
    paths::build(&["test", "--release", "--workspace", "--no-run", "--quiet"])?;
    Ok(true)
}

/// Runs tests, keeps their output in a file, and counts what they say.
fn cargo_test(name: &str, arguments: &[&str]) -> Result<Count> {
    let log = paths::run_directory(name)?.join("output.txt");
    let mut file = File::create(&log)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut child = Command::new(cargo)
        .current_dir(paths::root())
        .args(["test", "--release", "--workspace", "--no-fail-fast"])
        .args(arguments)
        // Set-up has installed it: a test that finds none has not been run.
        .env("COUNTERSIGN_REQUIRE_REDIS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut count = Count::default();
    for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
        let line = line?;
        writeln!(file, "{line}")?;
        if let Some((passed, failed)) = test_result(&line) {
            count.passed += passed;
            count.failed += failed;
        } else if line.ends_with("... FAILED") || line.contains("panicked at") {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    println!("{} passed, {} failed; {}", count.passed, count.failed, log.display());
    // A test binary that does not build or dies says no result of its own.
    if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    ensure!(count.passed > 0 || count.failed > 0 || arguments.contains(&"--doc"), "no test ran");
    Ok(count)
}

/// `test result: ok. 12 passed; 0 failed; …`
fn test_result(line: &str) -> Option<(usize, usize)> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut numbers = rest.split("; ").filter_map(|part| part.split(' ').next()?.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Advisories need `cargo-deny` and a database from the network, neither of which is a reason to fail a test of the product.
/// Licences and sources have been checked by tidy, from the lock file.
fn advisories() -> Result<Count> {
    if setup::find("cargo-deny").is_none() && !home_has_cargo_deny() {
        println!("not checked: cargo-deny is not installed (`cargo install cargo-deny` brings it)");
        return Ok(Count::default());
    }
    let output =
        Command::new("cargo").current_dir(paths::root()).args(["deny", "--log-level", "error", "check"]).output()?;
    let text = String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned();
    if !output.status.success() && text.contains("failed to fetch advisory database") {
        println!("not checked: the advisory database cannot be fetched");
        return Ok(Count::default());
    }
    println!("{}", text.trim());
    one(Ok(output.status.success()))
}

fn home_has_cargo_deny() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(Into::into);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    home.is_some_and(|home| home.join("bin/cargo-deny").exists())
}

/// The demo as anyone starts it; its output is kept.
fn demo(binary: &Path) -> Result<bool> {
    let directory = paths::run_directory("demo")?;
    let log = directory.join("output.txt");
    let start = Instant::now();
    let file = File::create(&log)?;
    let mut child = Command::new(binary)
        .arg("demo")
        .env("HOME", &directory)
        .env_remove("XDG_DATA_HOME")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > 2 * DEMO_LIMIT {
            child.kill()?;
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let took = start.elapsed();
    let text = fs::read_to_string(&log)?;
    if !status.success() {
        println!("{text}");
    }
    println!("demo: {status} after {:.1} s, {} lines", took.as_secs_f64(), text.lines().count());
    Ok(status.success() && took < DEMO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::test_result;

    #[test]
    fn results_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(test_result(line), Some((12, 3)));
        assert_eq!(test_result("test a::b ... ok"), None);
    }
}
