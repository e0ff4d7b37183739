//! Scans against limits: what is accepted, what is set aside until when, and why it is not enough.
//!
//! Of scans by the same tools in the same format the one that was received last counts: a new scan answers an old one.
//! Findings of all scans that count are added up, so that a report gains nothing by being handed over in parts; two
//! tools that find the same count it twice.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Counts, Finding, Format, Scan, Severity};
use crate::text::visible_line;
use crate::time::{parse_rfc3339, to_rfc3339};

/// Most ids that a policy may set aside.
pub const MAX_IGNORED: usize = 1_000;
/// Longest id or reason, in characters.
pub const MAX_TEXT_CHARS: usize = 500;

/// What is accepted. A limit that is null does not limit; one that is left out is the default's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScanPolicy {
    /// Most critical findings.
    pub max_critical: Option<u64>,
    /// Most high ones.
    pub max_high: Option<u64>,
    /// Most medium ones.
    pub max_medium: Option<u64>,
    /// Most low ones.
    pub max_low: Option<u64>,
    /// Most of which the severity is not stated.
    pub max_unknown: Option<u64>,
    /// Findings that are known and accepted for a while.
    pub ignore: Vec<Ignore>,
    /// How old a scan may be, by its own word or by when it was received, whichever is earlier.
    pub max_age_seconds: Option<u64>,
    /// Formats of which there has to be a scan.
    pub require: Vec<Format>,
    /// Whether what documents set aside themselves counts like the rest.
    pub count_suppressed: bool,
}

impl Default for ScanPolicy {
    /// Nothing critical, and nothing that may be.
    fn default() -> Self {
        Self {
            max_critical: Some(0),
            max_high: None,
            max_medium: None,
            max_low: None,
            max_unknown: Some(0),
            ignore: Vec::new(),
            max_age_seconds: None,
            require: Vec::new(),
            count_suppressed: false,
        }
    }
}

impl ScanPolicy {
    /// Whether its lists and texts are within bounds, and every exception has a reason.
    ///
    /// # Errors
    /// [`InvalidPolicy`].
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        if self.ignore.len() > MAX_IGNORED {
            return Err(InvalidPolicy::TooManyIgnored);
        }
        for ignore in &self.ignore {
            let fits = |text: &str| !text.trim().is_empty() && text.chars().count() <= MAX_TEXT_CHARS;
            if !fits(&ignore.id) || !fits(&ignore.reason) {
                return Err(InvalidPolicy::Ignore { id: ignore.id.chars().take(64).collect() });
            }
        }
        Ok(())
    }

    fn limit(&self, severity: Severity) -> Option<u64> {
        match severity {
            Severity::Critical => self.max_critical,
            Severity::High => self.max_high,
            Severity::Medium => self.max_medium,
            Severity::Unknown => self.max_unknown,
            Severity::Low => self.max_low,
            Severity::None => None,
        }
    }
}

/// Why a policy is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// More exceptions than are accepted.
    #[error("at most {MAX_IGNORED} findings may be ignored")]
    TooManyIgnored,
    /// An exception without an id or a reason, or with too long ones.
    #[error("ignoring {id:?}: an id and a reason of 1 to {MAX_TEXT_CHARS} characters each are needed")]
    Ignore {
        /// Which.
        id: String,
    },
}

/// A finding that is known and accepted for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ignore {
    /// Its id, to the letter.
    pub id: String,
    /// Why it is accepted.
    pub reason: String,
    /// Until when, in milliseconds since 1970; in JSON an RFC 3339 text, `expires`.
    #[serde(rename = "expires", serialize_with = "write_time", deserialize_with = "read_time")]
    pub expires_ms: i64,
}

fn write_time<S: Serializer>(time_ms: &i64, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&text_of(*time_ms))
}

fn read_time<'de, D: Deserializer<'de>>(input: D) -> Result<i64, D::Error> {
    let text = String::deserialize(input)?;
    parse_rfc3339(&text).ok_or_else(|| D::Error::custom("expected a time such as 2026-01-31T12:00:00Z"))
}

/// A scan as it was handed over.
#[derive(Debug, Clone, Copy)]
pub struct Submitted<'a> {
    /// What it is called, for the verdict: its entry's id.
    pub id: &'a str,
    /// What it says.
    pub scan: &'a Scan,
    /// When it was received, in milliseconds since 1970.
    pub received_at_ms: i64,
}

/// What scans are worth against a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether everything holds.
    pub passed: bool,
    /// What does not hold, with numbers. Empty if it passed.
    pub reasons: Vec<String>,
    /// What holds, and what a reader should know besides.
    pub notes: Vec<String>,
    /// The findings that were held against the limits.
    pub findings: Counts,
    /// How many were set aside by the policy.
    pub ignored: u64,
    /// The scans that counted.
    pub considered: Vec<String>,
    /// Those that were answered by later ones.
    pub superseded: Vec<String>,
}

/// Holds scans of one artifact against a policy.
pub fn evaluate(submitted: &[Submitted<'_>], policy: &ScanPolicy, now_ms: i64) -> Verdict {
    let (current, superseded) = newest(submitted);
    let mut verdict = Verdict {
        passed: false,
        reasons: Vec::new(),
        notes: Vec::new(),
        findings: Counts::default(),
        ignored: 0,
        considered: current.iter().map(|s| s.id.to_owned()).collect(),
        superseded,
    };
    for submitted in &current {
        verdict.findings.add_all(&submitted.scan.findings);
        if policy.count_suppressed {
            verdict.findings.add_all(&submitted.scan.suppressed);
        }
    }
    apply_ignores(&mut verdict, &current, policy, now_ms);
    check_presence(&mut verdict, &current, policy);
    current.iter().for_each(|submitted| check_one(&mut verdict, submitted, policy, now_ms));
    check_limits(&mut verdict, policy);
    verdict.passed = verdict.reasons.is_empty();
    verdict
}

/// The scans that count, and the ids of those that do not.
fn newest<'a>(submitted: &[Submitted<'a>]) -> (Vec<Submitted<'a>>, Vec<String>) {
    let mut newest: BTreeMap<(Format, Vec<&str>), Submitted<'a>> = BTreeMap::new();
    let mut superseded = Vec::new();
    for one in submitted {
        let mut tools: Vec<&str> = one.scan.tools.iter().map(|tool| tool.name.as_str()).collect();
        tools.sort_unstable();
        let key = (one.scan.format, tools);
        match newest.get(&key) {
            Some(held) if held.received_at_ms > one.received_at_ms => superseded.push(one.id.to_owned()),
            Some(_) | None => superseded.extend(newest.insert(key, *one).map(|older| older.id.to_owned())),
        }
    }
    (newest.into_values().collect(), superseded)
}

fn apply_ignores(verdict: &mut Verdict, current: &[Submitted<'_>], policy: &ScanPolicy, now_ms: i64) {
    let mut by_id: BTreeMap<&str, Vec<&Finding>> = BTreeMap::new();
    for finding in current.iter().flat_map(|s| &s.scan.ids) {
        by_id.entry(&finding.id).or_default().push(finding);
    }
    for ignore in &policy.ignore {
        let expired = ignore.expires_ms <= now_ms;
        // What was set aside once is not found again by the same id's second entry.
        let of_id = if expired { by_id.get(ignore.id.as_str()).cloned() } else { by_id.remove(ignore.id.as_str()) };
        let of_id = of_id.unwrap_or_default();
        let found: u64 = of_id.iter().map(|finding| finding.count).sum();
        let (id, until) = (visible_line(&ignore.id), text_of(ignore.expires_ms));
        if expired {
            verdict.notes.push(format!("{id} is no longer ignored, since {until}; found {found} times"));
            continue;
        }
        if found > 0 {
            of_id.iter().for_each(|finding| verdict.findings.take(finding.severity, finding.count));
            verdict.ignored += found;
            let reason = visible_line(&ignore.reason);
            verdict.notes.push(format!("{id} is ignored until {until} ({found} times): {reason}"));
        }
    }
    let left_out: u64 = current.iter().map(|s| s.scan.ids_left_out).sum();
    if left_out > 0 && !policy.ignore.is_empty() {
        verdict.notes.push(format!("{left_out} ids of the least bad findings were not kept and cannot be ignored"));
    }
}

fn check_presence(verdict: &mut Verdict, current: &[Submitted<'_>], policy: &ScanPolicy) {
    let limited = Counts::SEVERITIES.iter().any(|severity| policy.limit(*severity).is_some());
    if current.is_empty() {
        verdict.reasons.push("there is no scan".to_owned());
    } else if limited && !current.iter().any(|s| s.scan.assessed) {
        let message =
            "no scan reports findings: bills of materials without vulnerabilities do not say that there are none";
        verdict.reasons.push(message.to_owned());
    }
    for format in &policy.require {
        if !current.iter().any(|s| s.scan.format == *format) {
            verdict.reasons.push(format!("there is no {} document, which is required", format.title()));
        }
    }
}

fn check_one(verdict: &mut Verdict, submitted: &Submitted<'_>, policy: &ScanPolicy, now_ms: i64) {
    let scan = submitted.scan;
    let name = format!("{} ({}, {})", visible_line(submitted.id), scan.format.title(), scan.tool_names());
    verdict.reasons.extend(scan.incomplete.iter().map(|why| format!("{name} is incomplete: {why}")));
    let set_aside = scan.suppressed.total();
    if set_aside > 0 {
        let counted = if policy.count_suppressed { "they count" } else { "they do not count" };
        verdict.notes.push(format!("{name} sets {set_aside} findings aside by itself; {counted}"));
    }
    let Some(limit) = policy.max_age_seconds else { return };
    // A document that says that it was made after it was received is as old as we know.
    let made_at_ms = scan.made_at_ms.unwrap_or(submitted.received_at_ms).min(submitted.received_at_ms);
    let age = u64::try_from(now_ms.saturating_sub(made_at_ms) / 1000).unwrap_or_default();
    if age > limit {
        verdict.reasons.push(format!("{name} is {age} seconds old; at most {limit} are accepted"));
    } else {
        verdict.notes.push(format!("{name} is {age} seconds old (at most {limit})"));
    }
}

fn check_limits(verdict: &mut Verdict, policy: &ScanPolicy) {
    for severity in Counts::SEVERITIES {
        let (found, name) = (verdict.findings.of(severity), severity.name());
        match policy.limit(severity) {
            Some(limit) if found > limit => {
                verdict.reasons.push(format!("{found} findings of severity {name}; at most {limit} are accepted"));
            }
            Some(limit) => verdict.notes.push(format!("{found} findings of severity {name} (at most {limit})")),
            None if found > 0 => verdict.notes.push(format!("{found} findings of severity {name} (not limited)")),
            None => {}
        }
    }
}

fn text_of(time_ms: i64) -> String {
    to_rfc3339(u64::try_from(time_ms / 1000).unwrap_or_default())
}
