//! A report for auditors: what was signed, verified, reviewed and scanned in a period, with the evidence for it.
//!
//! It states coverage and findings. It does not claim that a framework's demands are met: that is for people to say.
//! `complete` means that everything the report counts could be counted, not that all is well.

mod markdown;

use serde::Serialize;

use crate::scans::Counts;

pub use markdown::markdown;

/// Of the report's JSON.
pub const VERSION: u32 = 1;
/// Most rows of each list; what is beyond them is counted and makes the report incomplete.
pub const MAX_ROWS: usize = 10_000;

/// What was found out for a report. Times are in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Whose report it is.
    pub workspace: String,
    /// The period's first millisecond.
    pub from_ms: i64,
    /// The first millisecond after it.
    pub to_ms: i64,
    /// When the facts were gathered.
    pub generated_at_ms: i64,
    /// Artifacts of each type.
    pub types: Vec<TypeFacts>,
    /// Verifications that were asked for.
    pub verifications: Verifications,
    /// Reviews.
    pub reviews: Reviews,
    /// Scans.
    pub scans: Scans,
    /// What deviates from the rule, and who let it.
    pub exceptions: Vec<Exception>,
    /// Entries of logs.
    pub evidence: Vec<Evidence>,
    /// What could not be looked up, in words.
    pub gaps: Vec<String>,
}

/// Artifacts of one type that were seen in the period.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct TypeFacts {
    /// The type.
    pub artifact_type: String,
    /// How many there are.
    pub artifacts: u64,
    /// How many of them are signed.
    pub signed: u64,
    /// How many have a signature that was verified, for this report or in the period, and is valid.
    pub verified: u64,
    /// How many have a signature that is not.
    pub failed: u64,
}

/// Verifications that were asked for in the period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Verifications {
    /// All of them.
    pub total: u64,
    /// Those that found everything in order.
    pub valid: u64,
    /// Those that did not.
    pub failed: u64,
}

/// Reviews in the period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Reviews {
    /// Approvals.
    pub approved: u64,
    /// Rejections.
    pub rejected: u64,
    /// Demands for changes.
    pub needs_changes: u64,
    /// Artifacts with at least one review.
    pub artifacts: u64,
}

/// Scans in the period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Scans {
    /// Documents that were handed over.
    pub documents: u64,
    /// Artifacts with at least one scan that reports findings.
    pub artifacts: u64,
    /// Verdicts that passed.
    pub passed: u64,
    /// Verdicts that did not.
    pub failed: u64,
    /// Findings of the newest scans.
    pub findings: Counts,
}

/// Something that deviates from the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exception {
    /// What kind, such as `unsigned_artifact`, `failed_verification`, `ignored_finding`, `rejected_artifact`.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// In words.
    pub detail: String,
    /// When.
    pub at_ms: i64,
    /// The event or entry that shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// An entry of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The entry's id.
    pub id: String,
    /// What it shows, such as `signature`, `review`, `scan`, `verification`.
    pub kind: String,
    /// About what.
    pub subject: String,
    /// The log's origin.
    pub log: String,
    /// The leaf's index.
    pub index: u64,
    /// When.
    pub at_ms: i64,
}

/// Whether everything could be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Yes.
    Complete,
    /// No; the reasons say what is missing.
    Incomplete,
}

/// A part of a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// The part.
    pub part: u64,
    /// The whole.
    pub whole: u64,
    /// Hundredths of a per cent, rounded down, so that only all is 10000. Nothing where the whole is nothing.
    pub basis_points: Option<u64>,
}

impl Coverage {
    /// Of `part` in `whole`.
    pub fn of(part: u64, whole: u64) -> Self {
        let basis_points = (u128::from(part) * 10_000).checked_div(u128::from(whole));
        Self { part, whole, basis_points: basis_points.and_then(|b| u64::try_from(b).ok()) }
    }

    /// As a text, such as `97.50 %`.
    pub fn percent(&self) -> String {
        match self.basis_points {
            Some(points) => format!("{}.{:02} %", points / 100, points % 100),
            None => "none to cover".to_owned(),
        }
    }
}

/// A type with its coverage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TypeCoverage {
    /// The counts.
    #[serde(flatten)]
    pub counts: TypeFacts,
    /// Signed ones of all.
    pub signed_coverage: Coverage,
    /// Verified ones of all.
    pub verified_coverage: Coverage,
}

/// The report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Of its format.
    pub version: u32,
    /// Whose.
    pub workspace: String,
    /// The period's first millisecond.
    pub from_ms: i64,
    /// The first millisecond after it.
    pub to_ms: i64,
    /// When the facts were gathered.
    pub generated_at_ms: i64,
    /// Whether everything could be counted.
    pub status: Status,
    /// Why not. Empty if it could.
    pub incomplete_because: Vec<String>,
    /// Artifacts of all types.
    pub totals: TypeCoverage,
    /// By type, by name.
    pub types: Vec<TypeCoverage>,
    /// Verifications that were asked for.
    pub verifications: Verifications,
    /// Reviews.
    pub reviews: Reviews,
    /// Artifacts with a review, of all.
    pub review_coverage: Coverage,
    /// Scans.
    pub scans: Scans,
    /// Artifacts with a scan that reports findings, of all.
    pub scan_coverage: Coverage,
    /// What a reader should look at, with numbers.
    pub findings: Vec<String>,
    /// What deviates from the rule; at most [`MAX_ROWS`].
    pub exceptions: Vec<Exception>,
    /// Entries of logs; at most [`MAX_ROWS`].
    pub evidence: Vec<Evidence>,
    /// What the report does not show, whatever its numbers are.
    pub not_covered: Vec<String>,
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFacts {
    /// A period that ends before it begins.
    #[error("the period ends before it begins")]
    Period,
    /// A part that is more than its whole.
    #[error("{what}: {part} of {whole}")]
    Counts {
        /// Of what.
        what: String,
        /// The part.
        part: u64,
        /// The whole.
        whole: u64,
    },
}

/// Makes a report of facts.
///
/// # Errors
/// [`InvalidFacts`], which is a mistake of whoever gathered them: a report that cannot be is worse than none.
pub fn report(facts: &Facts) -> Result<Report, InvalidFacts> {
    check(facts)?;
    let mut types: Vec<TypeCoverage> = facts.types.iter().map(|t| coverage(t.clone())).collect();
    types.sort_by(|a, b| a.counts.artifact_type.cmp(&b.counts.artifact_type));
    let totals = coverage(total(&facts.types));
    let mut evidence = facts.evidence.clone();
    evidence.sort_by(|a, b| (&a.log, a.index, &a.id).cmp(&(&b.log, b.index, &b.id)));
    evidence.dedup_by(|a, b| (&a.log, a.index, &a.id) == (&b.log, b.index, &b.id));
    let mut exceptions = facts.exceptions.clone();
    exceptions.sort_by(|a, b| (a.at_ms, &a.kind, &a.subject).cmp(&(b.at_ms, &b.kind, &b.subject)));
    let incomplete_because = incomplete(facts, evidence.len(), exceptions.len());
    evidence.truncate(MAX_ROWS);
    exceptions.truncate(MAX_ROWS);
    Ok(Report {
        version: VERSION,
        workspace: facts.workspace.clone(),
        from_ms: facts.from_ms,
        to_ms: facts.to_ms,
        generated_at_ms: facts.generated_at_ms,
        status: if incomplete_because.is_empty() { Status::Complete } else { Status::Incomplete },
        incomplete_because,
        findings: findings(facts, &totals.counts),
        review_coverage: Coverage::of(facts.reviews.artifacts, totals.counts.artifacts),
        scan_coverage: Coverage::of(facts.scans.artifacts, totals.counts.artifacts),
        totals,
        types,
        verifications: facts.verifications,
        reviews: facts.reviews,
        scans: facts.scans,
        exceptions,
        evidence,
        not_covered: NOT_COVERED.iter().map(|text| (*text).to_owned()).collect(),
    })
}

const NOT_COVERED: &[&str] = &[
    "Whether the demands of any framework or law are met.",
    "Artifacts that nobody signed, scanned or reviewed through this node: it does not know of them.",
    "Whether scanners looked at what they should have, and found what there is: scans are the word of their tools.",
    "Who stands behind a reviewer's or signer's account.",
    "Times that only this node states. Timestamps and cosignatures by others are in the bundles of the entries.",
];

fn check(facts: &Facts) -> Result<(), InvalidFacts> {
    if facts.to_ms <= facts.from_ms {
        return Err(InvalidFacts::Period);
    }
    let within = |what: &str, part: u64, whole: u64| {
        if part <= whole { Ok(()) } else { Err(InvalidFacts::Counts { what: what.to_owned(), part, whole }) }
    };
    for t in &facts.types {
        within(&format!("signed {}", t.artifact_type), t.signed, t.artifacts)?;
        within(&format!("verified {}", t.artifact_type), t.verified, t.signed)?;
        within(&format!("failed {}", t.artifact_type), t.failed, t.signed)?;
    }
    let (artifacts, v) = (total(&facts.types).artifacts, &facts.verifications);
    within("verifications", v.valid.saturating_add(v.failed), v.total)?;
    within("reviewed artifacts", facts.reviews.artifacts, artifacts)?;
    within("scanned artifacts", facts.scans.artifacts, artifacts)
}

fn total(types: &[TypeFacts]) -> TypeFacts {
    let sum = |of: fn(&TypeFacts) -> u64| types.iter().map(of).fold(0, u64::saturating_add);
    TypeFacts {
        artifact_type: "all".to_owned(),
        artifacts: sum(|t| t.artifacts),
        signed: sum(|t| t.signed),
        verified: sum(|t| t.verified),
        failed: sum(|t| t.failed),
    }
}

fn coverage(counts: TypeFacts) -> TypeCoverage {
    TypeCoverage {
        signed_coverage: Coverage::of(counts.signed, counts.artifacts),
        verified_coverage: Coverage::of(counts.verified, counts.artifacts),
        counts,
    }
}

/// What could not be counted or shown.
fn incomplete(facts: &Facts, evidence: usize, exceptions: usize) -> Vec<String> {
    let mut reasons = facts.gaps.clone();
    if facts.generated_at_ms < facts.to_ms {
        reasons.push("the period was not over when the report was made".to_owned());
    }
    for (what, count) in [("evidence", evidence), ("exceptions", exceptions)] {
        if count > MAX_ROWS {
            reasons.push(format!("{} rows of {what} beyond {MAX_ROWS} are left out", count - MAX_ROWS));
        }
    }
    let undecided = facts.verifications.total - facts.verifications.valid - facts.verifications.failed;
    if undecided > 0 {
        reasons.push(format!("{undecided} of {} verifications came to no result", facts.verifications.total));
    }
    reasons
}

/// What a reader should look at.
fn findings(facts: &Facts, totals: &TypeFacts) -> Vec<String> {
    let (unsigned, unverified) = (totals.artifacts - totals.signed, totals.signed - totals.verified);
    let unreviewed = totals.artifacts - facts.reviews.artifacts;
    let unscanned = totals.artifacts - facts.scans.artifacts;
    let artifacts = totals.artifacts;
    let counted = [
        (unsigned, format!("{unsigned} of {artifacts} artifacts are not signed")),
        (
            unverified,
            format!("{unverified} of {} signed artifacts have no signature that was verified as valid", totals.signed),
        ),
        (totals.failed, format!("{} artifacts have a signature that is not valid", totals.failed)),
        (facts.verifications.failed, format!("{} verifications failed", facts.verifications.failed)),
        (facts.reviews.rejected, format!("{} reviews reject an artifact", facts.reviews.rejected)),
        (facts.reviews.needs_changes, format!("{} reviews ask for changes", facts.reviews.needs_changes)),
        (unreviewed, format!("{unreviewed} of {artifacts} artifacts have no review")),
        (unscanned, format!("{unscanned} of {artifacts} artifacts have no scan that reports findings")),
        (facts.scans.failed, format!("{} verdicts on scans did not pass", facts.scans.failed)),
        (facts.scans.findings.critical, format!("{} critical findings stand", facts.scans.findings.critical)),
        (facts.exceptions.len() as u64, format!("{} exceptions are listed", facts.exceptions.len())),
    ];
    let mut findings: Vec<String> = counted.into_iter().filter(|(n, _)| *n > 0).map(|(_, text)| text).collect();
    if artifacts == 0 {
        findings.insert(0, "no artifacts are known of the period; there is nothing that could be covered".to_owned());
    }
    findings
}

#[cfg(test)]
mod tests;
