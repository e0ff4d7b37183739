//! What the parsers share: typed parts with the path in errors, counting by id, digests and ids in texts.

use std::collections::{BTreeMap, BTreeSet};

use countersign_proof::digest::Digest;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Counts, Finding, Format, MAX_IDS, MAX_NAME_CHARS, MAX_SUBJECTS, MAX_TOOLS, Scan, ScanError, Severity, Tool,
};
use crate::text::short_line;
use crate::time::parse_rfc3339;

/// One part of a document, typed. Members that are not named in `T` are passed over, as all three formats demand.
pub(super) fn part<'a, T: Deserialize<'a>>(value: &'a Value, path: impl FnOnce() -> String) -> Result<T, ScanError> {
    T::deserialize(value).map_err(|e| ScanError::Malformed { path: path(), problem: short_line(&e.to_string(), 300) })
}

pub(super) fn at_most(count: usize, limit: usize, what: &'static str) -> Result<(), ScanError> {
    if count > limit { Err(ScanError::TooMany { what, limit: limit as u64 }) } else { Ok(()) }
}

/// A scan in the making.
#[derive(Debug, Default)]
pub(super) struct Tally {
    tools: Vec<Tool>,
    subjects: BTreeSet<Digest>,
    pub(super) components: u64,
    pub(super) assessed: bool,
    pub(super) incomplete: Vec<String>,
    findings: Counts,
    suppressed: Counts,
    pub(super) absent: u64,
    ids: BTreeMap<(String, Severity), u64>,
    made_at_ms: Option<i64>,
}

impl Tally {
    pub(super) fn tool(&mut self, name: &str, version: Option<&str>) {
        let short = |text: &str| short_line(text.trim(), MAX_NAME_CHARS);
        let tool = Tool { name: short(name), version: version.map(short).filter(|v| !v.is_empty()) };
        if !tool.name.is_empty() && self.tools.len() < MAX_TOOLS && !self.tools.contains(&tool) {
            self.tools.push(tool);
        }
    }

    pub(super) fn finding(&mut self, id: &str, severity: Severity) {
        self.findings.add(severity, 1);
        *self.ids.entry((short_line(id, MAX_NAME_CHARS), severity)).or_default() += 1;
    }

    pub(super) fn suppressed(&mut self, severity: Severity) {
        self.suppressed.add(severity, 1);
    }

    pub(super) fn subject(&mut self, digest: Digest) {
        if self.subjects.len() < MAX_SUBJECTS {
            self.subjects.insert(digest);
        }
    }

    /// Every SHA-256 digest that a reference, a version or a package URL names.
    pub(super) fn subjects_in(&mut self, text: &str) {
        for marker in ["sha256:", "sha256%3A", "sha256%3a"] {
            for (at, _) in text.match_indices(marker).take(MAX_SUBJECTS) {
                if let Some(digest) = text.get(at + marker.len()..at + marker.len() + 64).and_then(digest_of_hex) {
                    self.subject(digest);
                }
            }
        }
    }

    /// The latest of the times that a document states. What is no time is passed over: it proves nothing either way.
    pub(super) fn made_at(&mut self, text: &str) {
        self.made_at_ms = self.made_at_ms.max(parse_rfc3339(text));
    }

    pub(super) fn finish(self, format: Format, version: &str) -> Scan {
        let distinct = self.ids.len();
        let mut ids: Vec<Finding> =
            self.ids.into_iter().map(|((id, severity), count)| Finding { id, severity, count }).collect();
        ids.sort_by(|a, b| b.severity.cmp(&a.severity).then(b.count.cmp(&a.count)).then_with(|| a.id.cmp(&b.id)));
        ids.truncate(MAX_IDS);
        Scan {
            format,
            version: version.to_owned(),
            tools: self.tools,
            subjects: self.subjects.into_iter().collect(),
            components: self.components,
            assessed: self.assessed,
            incomplete: self.incomplete,
            findings: self.findings,
            suppressed: self.suppressed,
            absent: self.absent,
            ids_left_out: (distinct - ids.len()) as u64,
            ids,
            made_at_ms: self.made_at_ms,
        }
    }
}

/// A digest from its 64 hexadecimal digits, in either case.
pub(super) fn digest_of_hex(hex: &str) -> Option<Digest> {
    format!("sha256:{}", hex.to_ascii_lowercase()).parse().ok()
}

/// A list that may be left out or be null.
pub(super) fn list<'a>(value: &'a Value, name: &str, path: &str) -> Result<Option<&'a [Value]>, ScanError> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(ScanError::Malformed { path: format!("{path}{name}"), problem: "expected a list".to_owned() }),
    }
}
