//! The suite's own program: what it is given, and what it says of each scenario.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{paths, setup};

/// How long one run of the suite may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of one scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// Whether the revision requires it; others run for information.
    pub required: bool,
    /// Whether none of its checks failed.
    pub passed: bool,
    /// What failed, in the suite's words.
    pub reasons: Vec<String>,
}

/// The server scenarios of a revision.
///
/// # Errors
/// If the suite cannot be run.
pub fn server(url: &str, revision: &str, out: &Path) -> Result<Vec<Scenario>> {
    let arguments = ["server", "--url", url, "--requirements", revision, "--timeout", "20000"];
    run(&arguments, revision, "server", out)
}

/// The client scenarios of a revision.
///
/// # Errors
/// If the suite cannot be run.
pub fn client(driver: &str, revision: &str, out: &Path) -> Result<Vec<Scenario>> {
    let arguments = ["client", "--command", driver, "--requirements", revision, "--timeout", "60000"];
    run(&arguments, revision, "client", out)
}

fn run(arguments: &[&str], revision: &str, section: &str, out: &Path) -> Result<Vec<Scenario>> {
    let log = out.with_extension("txt");
    let file = fs::File::create(&log)?;
    let mut child = Command::new(setup::node_path())
        .arg(package().join("dist/index.js"))
        .args(arguments)
        .arg("-o")
        .arg(out)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .context("starting the suite")?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = fs::read_to_string(&log)?;
    let required = required(revision, section)?;
    let mut scenarios = Vec::new();
    for name in &required {
        let passed = summary(&text, name);
        let reasons = if passed == Some(true) { Vec::new() } else { reasons(out, name) };
        let reasons = if passed.is_none() { vec!["the suite did not report it".to_owned()] } else { reasons };
        scenarios.push(Scenario { name: name.clone(), required: true, passed: passed == Some(true), reasons });
    }
    let seen: BTreeSet<&String> = required.iter().collect();
    for (passed, name) in text.lines().filter_map(line) {
        if !seen.contains(&name.to_owned()) && !scenarios.iter().any(|s| s.name == name) {
            let reasons = if passed { Vec::new() } else { reasons(out, name) };
            scenarios.push(Scenario { name: name.to_owned(), required: false, passed, reasons });
        }
    }
    ensure!(scenarios.iter().any(|s| s.passed), "nothing passed; see {}", log.display());
    Ok(scenarios)
}

fn package() -> PathBuf {
    paths::peers().join("node_modules/@modelcontextprotocol/conformance")
}

/// The names in one list of the suite's own file of requirements.
fn required(revision: &str, section: &str) -> Result<Vec<String>> {
    let path = package().join(format!("requirements/{revision}.yaml"));
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let start = format!("{section}:");
    let lines = text.lines().skip_while(|line| *line != start).skip(1);
    let names =
        lines.take_while(|line| line.is_empty() || line.starts_with(' ')).filter_map(|l| l.strip_prefix("  - "));
    Ok(names.map(str::to_owned).collect())
}

/// `✓ tools-list: 4 passed, 0 failed`
fn line(line: &str) -> Option<(bool, &str)> {
    let line = line.trim();
    let (passed, rest) = match (line.strip_prefix("✓ "), line.strip_prefix("✗ ")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return None,
    };
    let (name, counts) = rest.split_once(": ")?;
    counts.contains(" passed, ").then_some((passed, name))
}

fn summary(text: &str, name: &str) -> Option<bool> {
    text.lines().filter_map(line).find(|(_, found)| *found == name).map(|(passed, _)| passed)
}

/// The messages of the checks that failed.
fn reasons(out: &Path, name: &str) -> Vec<String> {
    let flat = name.replace('/', "-");
    let mut found = Vec::new();
    let mut folders = vec![out.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let text = path.to_string_lossy().replace('/', "-");
            if path.is_dir() {
                folders.push(path);
            } else if path.ends_with("checks.json") && text.contains(&format!("{flat}-20")) {
                let checks: Value =
                    fs::read(&path).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
                let failed = checks.as_array().into_iter().flatten().filter(|check| check["status"] == "FAILURE");
                found.extend(failed.map(|check| {
                    let words = check["errorMessage"].as_str().or(check["description"].as_str()).unwrap_or_default();
                    let words: String = words.chars().take(240).collect();
                    format!("{}: {words}", check["id"].as_str().unwrap_or_default())
                }));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn the_summary_is_read() {
        assert_eq!(line("✓ tools-list: 4 passed, 0 failed"), Some((true, "tools-list")));
        assert_eq!(line("✗ auth/basic-cimd: 0 passed, 1 failed, 2 warnings"), Some((false, "auth/basic-cimd")));
        assert_eq!(line("  ✗ tasks-lifecycle (extension)"), None);
        assert_eq!(line("Total: 1 passed, 0 failed"), None);
    }
}
