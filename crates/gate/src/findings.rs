//! What the scan of definitions says of the catalog, and what follows from it.
//!
//! Every definition is scanned when it is first seen and whenever it changes, against the newest definitions of all
//! upstreams. A definition with a finding at or above the configured severity is accepted only by somebody who names the
//! rule; a manifest that asserts such a pin has to name it too.

use std::collections::{BTreeMap, BTreeSet};

use countersign_catalog::Kind;
use countersign_catalog::scan::{Finding, Rule, Severity, Surroundings, scan};
use countersign_domain::ToolRef;
use countersign_ledger::state::{PinRow, PinStatus};
use countersign_proof::digest::Digest;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Findings of the newest definition of each tool.
#[derive(Debug, Default)]
pub struct Scanned {
    newest: Vec<(ToolRef, Digest)>,
    findings: BTreeMap<ToolRef, Vec<Finding>>,
}

impl Scanned {
    /// Scans the newest definition of each tool: the one that waits for review, otherwise the accepted one. Where nothing
    /// changed since `before` (accepting changes no definition), that is what is still true, and `None` is the answer.
    pub(crate) fn of(pins: &[PinRow], before: &Self) -> Option<Self> {
        let rows = newest(pins);
        let newest: Vec<(ToolRef, Digest)> = rows.iter().map(|row| (row.tool.clone(), row.pin)).collect();
        if newest == before.newest {
            return None;
        }
        let definitions: Vec<(&ToolRef, Value)> = rows.iter().map(|row| (&row.tool, definition(row))).collect();
        let mut around = Surroundings::default();
        for (tool, definition) in definitions.iter().filter(|(tool, _)| Kind::of(&tool.tool) == Kind::Tool) {
            around.add(tool.upstream.as_str(), definition);
        }
        let findings = definitions.iter().map(|(tool, definition)| {
            let found = scan(Kind::of(&tool.tool), tool.upstream.as_str(), definition, &around);
            ((*tool).clone(), found)
        });
        Some(Self { findings: findings.filter(|(_, found)| !found.is_empty()).collect(), newest })
    }

    /// What was found in a tool's newest definition.
    pub fn of_tool(&self, tool: &ToolRef) -> &[Finding] {
        self.findings.get(tool).map_or(&[], Vec::as_slice)
    }
}

/// Tools as they stand, with those of a new listing of one upstream: what a definition in that listing is scanned against.
pub(crate) fn surroundings(pins: &[PinRow], upstream: &str, listing: &[Box<RawValue>]) -> Surroundings {
    let mut around = Surroundings::default();
    for row in newest(pins)
        .iter()
        .filter(|row| row.tool.upstream.as_str() != upstream && Kind::of(&row.tool.tool) == Kind::Tool)
    {
        around.add(row.tool.upstream.as_str(), &definition(row));
    }
    for raw in listing {
        around.add(upstream, &serde_json::from_str(raw.get()).unwrap_or(Value::Null));
    }
    around
}

/// Findings for an event: each rule once, with its gravest severity. Names of rules only: excerpts are a stranger's words.
pub(crate) fn summary(findings: &[Finding]) -> Option<Value> {
    let mut worst: BTreeMap<Rule, Severity> = BTreeMap::new();
    for finding in findings.iter().filter(|f| f.severity > Severity::Info) {
        let known = worst.entry(finding.rule).or_insert(finding.severity);
        *known = (*known).max(finding.severity);
    }
    let list: Vec<Value> = worst.iter().map(|(rule, severity)| json!({"rule": rule, "severity": severity})).collect();
    (!list.is_empty()).then(|| list.into())
}

/// The rules that stand in the way of accepting, given those that were named.
pub(crate) fn standing(findings: &[Finding], at: Option<Severity>, despite: &[Rule]) -> BTreeSet<Rule> {
    let Some(at) = at else { return BTreeSet::new() };
    findings.iter().filter(|f| f.severity >= at && !despite.contains(&f.rule)).map(|f| f.rule).collect()
}

/// Whether a person should look before the definition is accepted.
pub(crate) fn needs_a_look(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.severity >= Severity::Medium)
}

fn newest(pins: &[PinRow]) -> Vec<&PinRow> {
    let mut rows: BTreeMap<&ToolRef, &PinRow> = BTreeMap::new();
    for row in pins {
        let slot = rows.entry(&row.tool).or_insert(row);
        if row.status == PinStatus::Proposed {
            *slot = row;
        }
    }
    rows.into_values().collect()
}

fn definition(row: &PinRow) -> Value {
    serde_json::from_str(&row.definition).unwrap_or(Value::Null)
}
