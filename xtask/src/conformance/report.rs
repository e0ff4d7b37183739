//! The table of what passes: printed, and published in `docs/conformance.md`, where a run is held against it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use countersign_example_conformance::Era;

use super::suite::Scenario;
use crate::paths;

const DOCUMENT: &str = "docs/conformance.md";
const BEGIN: &str = "<!-- written by cargo xtask conformance --update -->\n";
const END: &str = "<!-- end -->";

/// One run of the suite.
pub struct Column {
    /// For people.
    pub title: String,
    /// The era of the scenarios.
    pub era: Era,
    /// What came of them.
    pub scenarios: Vec<Scenario>,
    /// Whether the gateway's events equal the upstream's journal.
    pub counted: bool,
    /// Whether it is the pairing that stands for its era.
    pub is_gateway: bool,
}

impl Column {
    fn passed(&self) -> usize {
        self.scenarios.iter().filter(|s| s.required && s.passed).count()
    }

    fn required(&self) -> usize {
        self.scenarios.iter().filter(|s| s.required).count()
    }

    fn line(&self) -> String {
        format!("{}: {}/{} required", self.title, self.passed(), self.required())
    }
}

/// All runs.
#[derive(Default)]
pub struct Report {
    /// In the order of the table.
    pub columns: Vec<Column>,
}

impl Report {
    /// Prints every run with what failed and why, and the closing line.
    pub fn print(&self) {
        for column in &self.columns {
            println!("{}", column.line());
            for scenario in column.scenarios.iter().filter(|s| !s.passed) {
                let kind = if scenario.required { "FAILED" } else { "not scored" };
                println!("  {kind} {}", scenario.name);
                scenario.reasons.iter().for_each(|reason| println!("      {reason}"));
            }
        }
        if let Some(line) = self.closing() {
            println!("{line}");
        }
    }

    fn closing(&self) -> Option<String> {
        let of = |era: Era| self.columns.iter().find(|c| c.is_gateway && c.era == era);
        let (modern, legacy) = (of(Era::Modern)?, of(Era::Legacy)?);
        Some(format!(
            "conformance 2026-07-28: {}/{} required, 2025-11-25: {}/{} required",
            modern.passed(),
            modern.required(),
            legacy.passed(),
            legacy.required()
        ))
    }

    /// Writes the published table, or holds this run against it.
    ///
    /// # Errors
    /// If the document cannot be read or written, or says something else.
    pub fn settle(&self, update: bool) -> Result<()> {
        let path = paths::root().join(DOCUMENT);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {DOCUMENT}"))?;
        let (before, rest) = text.split_once(BEGIN).context("the document has no place for the table")?;
        let (old, after) = rest.split_once(END).context("the table has no end")?;
        let new = self.table();
        if update {
            fs::write(&path, format!("{before}{BEGIN}{new}{END}{after}"))?;
            println!("{DOCUMENT} is written");
            return Ok(());
        }
        let only = |a: &str, b: &str, sign: &str| -> String {
            let lines = a.lines().filter(|line| !b.lines().any(|other| other == *line));
            lines.map(|line| format!("\n  {sign} {line}")).collect()
        };
        let (gone, come) = (only(old, &new, "-"), only(&new, old, "+"));
        ensure!(
            old == new,
            "{DOCUMENT} says otherwise (`cargo xtask conformance --update` writes what is true now):{gone}{come}"
        );
        Ok(())
    }

    fn table(&self) -> String {
        let mut out = String::new();
        for era in [Era::Modern, Era::Legacy] {
            let columns: Vec<&Column> =
                self.columns.iter().filter(|c| c.era == era && !c.title.starts_with("client side")).collect();
            let _ = writeln!(out, "\n### Server scenarios of {}\n", era.revision());
            write_table(&mut out, &columns);
        }
        for column in self.columns.iter().filter(|c| c.title.starts_with("client side")) {
            let _ = writeln!(out, "\n### Client scenarios of {}\n", column.era.revision());
            write_table(&mut out, &[column]);
        }
        out
    }
}

fn write_table(out: &mut String, columns: &[&Column]) {
    let titles: Vec<&str> = columns.iter().map(|c| c.title.as_str()).collect();
    let _ = writeln!(out, "| scenario | {} |\n|---|{}", titles.join(" | "), "---|".repeat(columns.len()));
    let mut rows: BTreeMap<(bool, &str), Vec<&str>> = BTreeMap::new();
    let names = columns.iter().flat_map(|c| &c.scenarios).filter(|s| s.required);
    for scenario in names {
        rows.entry((false, scenario.name.as_str())).or_default();
    }
    for ((_, name), cells) in &mut rows {
        for column in columns {
            let found = column.scenarios.iter().find(|s| s.name == *name);
            cells.push(match found.map(|s| s.passed) {
                Some(true) => "passes",
                Some(false) => "**fails**",
                None => "–",
            });
        }
    }
    for ((_, name), cells) in &rows {
        let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
    }
    let totals: Vec<String> = columns.iter().map(|c| format!("{}/{}", c.passed(), c.required())).collect();
    let _ = writeln!(out, "| **required** | {} |", totals.join(" | "));
}
