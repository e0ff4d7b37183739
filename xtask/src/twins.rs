//! `cargo xtask twins`: how many poisoned definitions the scan catches, and how many harmless doubles it lets pass.
//!
//! What counts as caught and as passed stands in `crates/catalog/twins/README.md`. The floors keep a change of the rules from
//! losing what they had.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use countersign_catalog::scan::{Finding, Severity, Surroundings, scan_listing};
use serde_json::Value;

use crate::paths;

/// A set of pairs and how many of them must be caught and pass.
const SETS: &[(&str, usize, usize)] = &[("tuning", 54, 54), ("held-out", 14, 18)];

/// What came of one set.
#[derive(Default)]
struct Score {
    pairs: usize,
    caught: usize,
    passed: usize,
}

/// Scans both sets, prints each miss, and says whether the floors hold. `only` names one set.
///
/// # Errors
/// If a pair can't be read.
pub fn run(only: Option<&str>) -> Result<bool> {
    let mut holds = true;
    let mut lines = Vec::new();
    for (set, floor_caught, floor_passed) in SETS.iter().filter(|(set, ..)| only.is_none_or(|only| only == *set)) {
        let score = score(&paths::root().join("crates/catalog/twins").join(set), set)?;
        let (pairs, caught, passed) = (score.pairs, score.caught, score.passed);
        lines.push(format!("{set}: poisoned caught {caught}/{pairs}, harmless passed {passed}/{pairs}"));
        if caught < *floor_caught || passed < *floor_passed {
            lines.push(format!("{set}: below the floor of {floor_caught} caught and {floor_passed} passed"));
            holds = false;
        }
    }
    ensure!(!lines.is_empty(), "no such set");
    lines.iter().for_each(|line| println!("{line}"));
    Ok(holds)
}

fn score(directory: &Path, set: &str) -> Result<Score> {
    let mut files: Vec<_> = fs::read_dir(directory)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut score = Score::default();
    for file in files {
        let pair: Value =
            serde_json::from_str(&fs::read_to_string(&file)?).with_context(|| file.display().to_string())?;
        let name = format!("{set}/{}", file.file_stem().unwrap_or_default().to_string_lossy());
        let places: Vec<&str> = pair["where"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        ensure!(!places.is_empty(), "{name} says not where the poison is");
        score.pairs += 1;
        let poisoned = scan_side(&pair, "poisoned")?;
        let is_there =
            |f: &&Finding| f.severity >= Severity::High && places.iter().any(|place| f.pointer.starts_with(place));
        if poisoned.iter().any(|f| is_there(&f)) {
            score.caught += 1;
        } else {
            println!("{name}: the poisoned one was missed");
            poisoned.iter().for_each(|finding| println!("    {finding}"));
        }
        let harmless = scan_side(&pair, "harmless")?;
        if harmless.iter().all(|f| f.severity <= Severity::Low) {
            score.passed += 1;
        } else {
            println!("{name}: the harmless one did not pass");
            harmless.iter().filter(|f| f.severity > Severity::Low).for_each(|finding| println!("    {finding}"));
        }
    }
    ensure!(score.pairs > 0, "no pairs in {}", directory.display());
    Ok(score)
}

fn scan_side(pair: &Value, side: &str) -> Result<Vec<Finding>> {
    let mut around = Surroundings::default();
    for other in pair["others"].as_array().into_iter().flatten() {
        around.add_listing(other["upstream"].as_str().context("an upstream without a name")?, other);
    }
    let listing = &pair[side];
    Ok(scan_listing(listing["upstream"].as_str().context("an upstream without a name")?, listing, &around))
}
