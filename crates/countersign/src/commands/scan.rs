//! `countersign tools scan`: what in definitions speaks to a model behind its user's back. Needs no node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use countersign_catalog::Manifest;
use countersign_catalog::scan::{Finding, Kind, Rule, Severity, Surroundings, scan_listing};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

/// The largest listing that is read, in bytes.
const MAX_LISTING_BYTES: u64 = 64 << 20;
/// The most files of one directory.
const MAX_FILES: usize = 10_000;

/// What to scan.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign tools scan listing.json                 what `tools/list` answered, from a file
  countersign tools scan listings/                    all of them, against one another
  countersign tools scan manifests/ads.yaml           starts or reaches that upstream, lists it, and stops it
  countersign tools scan https://tools.example/mcp
  countersign tools scan listings/ --fail-at medium --sarif > scan.sarif

A listing holds `tools`, `prompts`, `resources`, `resourceTemplates` or `instructions`, as MCP has them, and may name its
`upstream`; otherwise the file's name does. Exit code 3 says that something is as grave as --fail-at.")]
pub struct Args {
    /// Listings (.json), directories of them, manifests (.yaml), or the address of a server
    #[arg(required = true, value_name = "FILE|DIRECTORY|URL")]
    targets: Vec<String>,
    /// Show findings from this severity on: info, low, medium, high or critical
    #[arg(long, value_name = "SEVERITY", default_value = "low")]
    at_least: Severity,
    /// Exit with 3 from this severity on
    #[arg(long, value_name = "SEVERITY", default_value = "high")]
    fail_at: Severity,
    /// Write SARIF 2.1.0, for code scanning
    #[arg(long)]
    sarif: bool,
}

/// One listing and where it came from.
struct Target {
    name: String,
    upstream: String,
    listing: Value,
}

/// Scans.
///
/// # Errors
/// If a target can't be read or reached.
pub async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let mut targets = Vec::new();
    for target in &args.targets {
        targets.extend(read(target).await?);
    }
    let found = scan_all(&targets);
    let worst = found.iter().map(|(_, finding)| finding.severity).max();
    let shown: Vec<_> = found.into_iter().filter(|(_, finding)| finding.severity >= args.at_least).collect();
    if args.sarif {
        output::json(&sarif(&shown));
    } else if global.json {
        let findings = shown.iter().map(|(target, finding)| entry(target, finding));
        let definitions: usize = targets.iter().map(|target| count(&target.listing)).sum();
        output::json(&json!({"definitions": definitions, "worst": worst, "findings": findings.collect::<Vec<_>>()}));
    } else {
        show(&targets, &shown);
    }
    Ok(if worst >= Some(args.fail_at) { Exit::Invalid } else { Exit::Ok })
}

fn scan_all(targets: &[Target]) -> Vec<(&Target, Finding)> {
    let mut all = Vec::new();
    for target in targets {
        let mut around = Surroundings::default();
        for other in targets.iter().filter(|other| other.upstream != target.upstream) {
            around.add_listing(&other.upstream, &other.listing);
        }
        let found = scan_listing(&target.upstream, &target.listing, &around);
        all.extend(found.into_iter().map(|finding| (target, finding)));
    }
    all
}

async fn read(target: &str) -> anyhow::Result<Vec<Target>> {
    if target.starts_with("http://") || target.starts_with("https://") {
        let url = serde_json::to_string(target)?;
        let text = format!("version: 1\nupstream: target\ntransport: {{ type: http, url: {url} }}\n");
        let manifest = Manifest::parse(&text, target).map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
        return Ok(vec![live(target, &manifest).await?]);
    }
    let path = Path::new(target);
    if path.is_dir() {
        return directory(path);
    }
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => {
            let manifest = Manifest::load(path).map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
            Ok(vec![live(target, &manifest).await?])
        }
        _ => Ok(vec![file(path)?]),
    }
}

async fn live(name: &str, manifest: &Manifest) -> anyhow::Result<Target> {
    let listing = countersign_server::probe::listing(manifest).await.map_err(|why| {
        Failure::new(Exit::Failed, format!("{name}: {why}"))
            .advise("a listing in a file can be scanned without the server")
    })?;
    Ok(Target { name: name.to_owned(), upstream: manifest.upstream.to_string(), listing })
}

fn directory(path: &Path) -> anyhow::Result<Vec<Target>> {
    let entries = std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    let mut files: Vec<PathBuf> = entries.into_iter().filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    if files.is_empty() || files.len() > MAX_FILES {
        let message =
            format!("{} has {} listings (*.json); 1 to {MAX_FILES} can be scanned", path.display(), files.len());
        return Err(Failure::new(Exit::Failed, message).into());
    }
    files.iter().map(|file_path| file(file_path)).collect()
}

fn file(path: &Path) -> anyhow::Result<Target> {
    let failed = |why: String| Failure::new(Exit::Failed, format!("{}: {why}", path.display()));
    let length = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
    if length > MAX_LISTING_BYTES {
        return Err(failed(format!("it is larger than {MAX_LISTING_BYTES} bytes")).into());
    }
    let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
    let mut listing: Value = serde_json::from_str(&text).map_err(|e| failed(e.to_string()))?;
    // The whole answer of a server will do, and a bare list of tools.
    if let Some(result) = listing.get_mut("result").map(Value::take) {
        listing = result;
    } else if listing.is_array() {
        listing = json!({ "tools": listing });
    }
    if count(&listing) == 0 && listing.get("instructions").is_none() {
        let advice = "a listing has `tools`, `prompts`, `resources`, `resourceTemplates` or `instructions`";
        return Err(failed("there is nothing to scan in it".to_owned()).advise(advice).into());
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let upstream = listing.get("upstream").and_then(Value::as_str).map_or(stem, str::to_owned);
    Ok(Target { name: path.display().to_string(), upstream, listing })
}

fn count(listing: &Value) -> usize {
    Kind::ALL.iter().filter_map(|kind| listing.get(kind.member())?.as_array()).map(Vec::len).sum()
}

/// The name of the definition that a finding is in, for people.
fn definition(target: &Target, finding: &Finding) -> String {
    let mut parts = finding.pointer.split('/').skip(1);
    let (member, index) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let name = target.listing.pointer(&format!("/{member}/{index}/name")).and_then(Value::as_str);
    name.map_or_else(|| member.to_owned(), output::visible)
}

fn entry(target: &Target, finding: &Finding) -> Value {
    let mut entry = json!(finding);
    entry["target"] = json!(target.name);
    entry["upstream"] = json!(target.upstream);
    entry["definition"] = json!(definition(target, finding));
    entry
}

fn show(targets: &[Target], found: &[(&Target, Finding)]) {
    let mut last = String::new();
    for (target, finding) in found {
        let place = format!("{}  {}", target.name, definition(target, finding));
        if place != last {
            output::line(output::paint(Style::Head, &place));
            last = place;
        }
        output::line(format!("  {}  {}", severity(finding.severity), finding.rule));
        output::line(format!("      {} [{}..{}]", output::visible(&finding.pointer), finding.start, finding.end));
        output::line(format!("      {}: {}", finding.message, output::visible(&finding.excerpt)));
    }
    let mut counts: BTreeMap<Severity, usize> = BTreeMap::new();
    found.iter().for_each(|(_, finding)| *counts.entry(finding.severity).or_default() += 1);
    let counts: Vec<String> = counts.iter().rev().map(|(severity, n)| format!("{n} {severity}")).collect();
    let definitions: usize = targets.iter().map(|target| count(&target.listing)).sum();
    let counts = if counts.is_empty() { "no findings".to_owned() } else { counts.join(", ") };
    output::line(format!("{definitions} definitions: {counts}"));
}

/// A severity as people see it.
pub fn severity(severity: Severity) -> String {
    let style = match severity {
        Severity::High | Severity::Critical => Style::Bad,
        Severity::Medium | Severity::Low | Severity::Info => Style::Warn,
    };
    output::paint(style, severity.as_str())
}

fn sarif(found: &[(&Target, Finding)]) -> Value {
    let rules = Rule::ALL.iter().map(|rule| json!({"id": rule, "shortDescription": {"text": rule.summary()}}));
    let results = found.iter().map(|(target, finding)| {
        let level = match finding.severity {
            Severity::High | Severity::Critical => "error",
            Severity::Medium => "warning",
            Severity::Low | Severity::Info => "note",
        };
        json!({
            "ruleId": finding.rule,
            "level": level,
            "message": {"text": format!("{}: {}", finding.message, finding.excerpt)},
            "locations": [{
                "physicalLocation": {"artifactLocation": {"uri": target.name}},
                "logicalLocations": [{"fullyQualifiedName": finding.pointer, "name": definition(target, finding)}],
            }],
        })
    });
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "countersign tools scan", "version": env!("CARGO_PKG_VERSION"), "rules": rules.collect::<Vec<_>>()}},
            "results": results.collect::<Vec<_>>(),
        }],
    })
}
