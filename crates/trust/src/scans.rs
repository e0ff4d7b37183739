//! Reports of scanners and bills of materials: what they found, in one shape.
//!
//! | format | from | source |
//! |---|---|---|
//! | [`Format::Sarif`] | scanners of code and images | OASIS SARIF 2.1.0 |
//! | [`Format::CycloneDx`] | bills of materials, perhaps with vulnerabilities | CycloneDX 1.4 to 1.7, JSON |
//! | [`Format::Spdx`] | bills of materials | SPDX 2.2 and 2.3, JSON |
//!
//! The format is told from the document. A report is the word of whoever wrote it: nothing here shows that the tool
//! ran, or on what. A bill of materials without a list of vulnerabilities has *not* found none; see [`Scan::assessed`].
//!
//! Severities are bands of a score as in CVSS v3.1, section 5 (0.0 none, 0.1 low, 4.0 medium, 7.0 high, 9.0 critical),
//! or the document's own words; each parser says which. [`policy`] holds scans against limits.

pub mod policy;

mod cyclonedx;
mod sarif;
mod spdx;
mod tally;

use countersign_proof::canonical::{JsonError, Limits, parse_strict};
use countersign_proof::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text::short_line;

/// Bounds on a document.
pub const LIMITS: Limits = Limits { max_bytes: 8 << 20, max_depth: 64 };
/// Most results, vulnerabilities or references of one document.
pub const MAX_RESULTS: usize = 50_000;
/// Most components or packages of one document.
pub const MAX_COMPONENTS: u64 = 200_000;
/// Most runs of one SARIF document.
pub const MAX_RUNS: usize = 20;
/// Most ids that are kept of one document, the worst ones.
pub const MAX_IDS: usize = 1_000;
/// Most tools that are kept.
pub const MAX_TOOLS: usize = 16;
/// Most digests of subjects that are kept.
pub const MAX_SUBJECTS: usize = 32;
/// Longest id, name or version that is kept, in characters.
pub const MAX_NAME_CHARS: usize = 200;

/// What kind of document it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Static Analysis Results Interchange Format.
    Sarif,
    /// CycloneDX.
    CycloneDx,
    /// SPDX.
    Spdx,
}

impl Format {
    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Sarif => "SARIF",
            Self::CycloneDx => "CycloneDX",
            Self::Spdx => "SPDX",
        }
    }

    /// Its media type, as IANA has it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Sarif => "application/sarif+json",
            Self::CycloneDx => "application/vnd.cyclonedx+json",
            Self::Spdx => "application/spdx+json",
        }
    }
}

/// How bad a finding is, the worst last. One of unknown severity stands above a low one: somebody has to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Of no consequence, or for information.
    None,
    /// CVSS 0.1 to 3.9.
    Low,
    /// The document does not say.
    Unknown,
    /// CVSS 4.0 to 6.9.
    Medium,
    /// CVSS 7.0 to 8.9.
    High,
    /// CVSS 9.0 to 10.0.
    Critical,
}

impl Severity {
    /// The band of a score from 0 to 10 (CVSS v3.1, section 5; v4.0 has the same). A score outside of it says nothing.
    pub fn of_score(score: f64) -> Self {
        match score {
            9.0..=10.0 => Self::Critical,
            7.0..9.0 => Self::High,
            4.0..7.0 => Self::Medium,
            // CVSS scores have one decimal; what is above 0 is not nothing.
            s if s > 0.0 && s < 4.0 => Self::Low,
            0.0 => Self::None,
            _ => Self::Unknown,
        }
    }

    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::Unknown => "unknown",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// How many, by severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Critical ones.
    pub critical: u64,
    /// High ones.
    pub high: u64,
    /// Medium ones.
    pub medium: u64,
    /// Low ones.
    pub low: u64,
    /// Those of no consequence.
    pub none: u64,
    /// Those of which the severity is not stated.
    pub unknown: u64,
}

impl Counts {
    /// Of one severity.
    pub fn of(&self, severity: Severity) -> u64 {
        match severity {
            Severity::None => self.none,
            Severity::Low => self.low,
            Severity::Unknown => self.unknown,
            Severity::Medium => self.medium,
            Severity::High => self.high,
            Severity::Critical => self.critical,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.critical + self.high + self.medium + self.low + self.none + self.unknown
    }

    /// Adds `count` of a severity.
    pub fn add(&mut self, severity: Severity, count: u64) {
        let held = self.of_mut(severity);
        *held = held.saturating_add(count);
    }

    /// Takes up to `count` of a severity away.
    pub fn take(&mut self, severity: Severity, count: u64) {
        let held = self.of_mut(severity);
        *held = held.saturating_sub(count);
    }

    /// Adds others.
    pub fn add_all(&mut self, other: &Self) {
        for severity in Self::SEVERITIES {
            self.add(severity, other.of(severity));
        }
    }

    /// The severities, the worst first.
    pub const SEVERITIES: [Severity; 6] =
        [Severity::Critical, Severity::High, Severity::Medium, Severity::Unknown, Severity::Low, Severity::None];

    fn of_mut(&mut self, severity: Severity) -> &mut u64 {
        match severity {
            Severity::None => &mut self.none,
            Severity::Low => &mut self.low,
            Severity::Unknown => &mut self.unknown,
            Severity::Medium => &mut self.medium,
            Severity::High => &mut self.high,
            Severity::Critical => &mut self.critical,
        }
    }
}

/// What made a document, as it says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Findings of one id and severity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A vulnerability's id, or a rule's.
    pub id: String,
    /// How bad.
    pub severity: Severity,
    /// How often.
    pub count: u64,
}

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// What kind of document it is.
    pub format: Format,
    /// Of which version of its format.
    pub version: String,
    /// What made it; at most [`MAX_TOOLS`].
    pub tools: Vec<Tool>,
    /// Digests of what it says it is about; at most [`MAX_SUBJECTS`].
    pub subjects: Vec<Digest>,
    /// Components or packages that it lists.
    pub components: u64,
    /// Whether it reports findings at all. Where not, no findings means nothing.
    pub assessed: bool,
    /// Why it says less than it seems to: a run that failed, results that are elsewhere. Limits are not met by such a
    /// scan.
    pub incomplete: Vec<String>,
    /// Findings that stand.
    pub findings: Counts,
    /// Findings that the document itself sets aside: suppressed, resolved, not affected.
    pub suppressed: Counts,
    /// Results of an earlier run that this one did not find any more (SARIF's baseline).
    pub absent: u64,
    /// Those that stand by id, the worst first; at most [`MAX_IDS`].
    pub ids: Vec<Finding>,
    /// Ids beyond those.
    pub ids_left_out: u64,
    /// When it was made, as it says, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_at_ms: Option<i64>,
}

impl Scan {
    /// Reads a document, whatever it is.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn parse(json: &[u8]) -> Result<Self, ScanError> {
        // RFC 8259, section 8.1, lets a reader pass over the mark that some compilers write.
        let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
        Self::from_value(&parse_strict(json, &LIMITS)?)
    }

    /// As [`Self::parse`], of what was read already.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn from_value(document: &Value) -> Result<Self, ScanError> {
        match detect(document)? {
            (Format::Sarif, version) => sarif::read(document, version),
            (Format::CycloneDx, version) => cyclonedx::read(document, version),
            (Format::Spdx, version) => spdx::read(document, version),
        }
    }

    /// The names of its tools, for people.
    pub fn tool_names(&self) -> String {
        let names: Vec<_> = self.tools.iter().map(|tool| tool.name.as_str()).collect();
        if names.is_empty() { "an unnamed tool".to_owned() } else { names.join(", ") }
    }
}

/// Why a document is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Not JSON, ambiguous JSON, or beyond the bounds on the text.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// None of the formats.
    #[error("not a report that is read here: SARIF 2.1.0, CycloneDX 1.4 to 1.7 and SPDX 2.2 or 2.3 are, as JSON")]
    Unrecognised,
    /// A format, but not in this version.
    #[error("{format} {version:?} is not supported: {supported} is")]
    Version {
        /// Which format.
        format: &'static str,
        /// The version that it states.
        version: String,
        /// What is read.
        supported: &'static str,
    },
    /// A part is missing, or of the wrong type.
    #[error("{path}: {problem}")]
    Malformed {
        /// Where, such as `runs[0].results[17]`.
        path: String,
        /// What is wrong there.
        problem: String,
    },
    /// More than is read.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are read.
        limit: u64,
    },
}

/// Which format a document is in, and in which version, where that version is read.
fn detect(document: &Value) -> Result<(Format, &str), ScanError> {
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    let version = |format, found: &str, supported| ScanError::Version {
        format,
        version: short_line(found, MAX_NAME_CHARS),
        supported,
    };
    if text("bomFormat") == Some("CycloneDX") {
        let found = text("specVersion").unwrap_or_default();
        // What is read here is the same in all of these.
        let known = matches!(found, "1.4" | "1.5" | "1.6" | "1.7");
        return known.then_some((Format::CycloneDx, found)).ok_or_else(|| version("CycloneDX", found, "1.4 to 1.7"));
    }
    if let Some(found) = text("spdxVersion") {
        let known = found.strip_prefix("SPDX-").filter(|v| matches!(*v, "2.2" | "2.3"));
        return known.map(|v| (Format::Spdx, v)).ok_or_else(|| version("SPDX", found, "SPDX-2.2 or SPDX-2.3"));
    }
    if is_spdx_3(document) {
        return Err(version("SPDX", "3", "SPDX-2.2 or SPDX-2.3"));
    }
    let sarif = document.get("runs").is_some_and(Value::is_array);
    match text("version").filter(|_| sarif) {
        Some("2.1.0") => Ok((Format::Sarif, "2.1.0")),
        Some(found) => Err(version("SARIF", found, "2.1.0")),
        None => Err(ScanError::Unrecognised),
    }
}

/// SPDX 3 is JSON-LD: its context is a text or a list that names SPDX's.
fn is_spdx_3(document: &Value) -> bool {
    let names_it = |context: &Value| context.as_str().is_some_and(|url| url.contains("spdx.org/rdf/3"));
    match document.get("@context") {
        Some(Value::Array(contexts)) => contexts.iter().any(names_it),
        Some(context) => names_it(context),
        None => false,
    }
}

#[cfg(test)]
mod tests;
