//! What is unusual about the signatures and verifications of a while, against the seven days before it.
//!
//! | check | what is unusual | needs a baseline |
//! |---|---|---|
//! | unknown signers | a signer who is neither known nor signed in the baseline | unless signers are given as known |
//! | volume | many more, or far fewer, signatures than a day's mean and deviation explain | yes |
//! | failures | many verifications that fail | no; with one, more than it had |
//! | hours | a signer at an hour of the day at which they were never seen | yes, of that signer |
//! | business hours | signatures outside of the hours that were given | no |
//!
//! A check that needs a baseline and has too thin a one says `insufficient_baseline`, never that all is normal. Small
//! counts are no alarm: one signature a day and then three is nothing. The numbers behind each finding are in it.

mod checks;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The length of the baseline.
pub const BASELINE_MS: i64 = 7 * DAY_MS;
/// Longest window.
pub const MAX_WINDOW_MS: i64 = 31 * DAY_MS;
/// Most rows that are looked at.
pub const MAX_ROWS: usize = 200_000;
/// Most findings.
pub const MAX_FINDINGS: usize = 200;
/// Most rows that a finding names.
pub const MAX_NAMED_ROWS: usize = 20;

const DAY_MS: i64 = 24 * HOUR_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const MINUTE_MS: i64 = 60_000;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// Something was signed.
    Signature,
    /// A signature was verified.
    Verification,
}

/// One signature or verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What it is called.
    pub id: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Which of the two.
    pub kind: RowKind,
    /// Who signed what was signed or verified.
    pub signer: String,
    /// Of which type.
    pub artifact_type: String,
    /// Whether it is valid.
    pub valid: bool,
}

/// From when (including) until when (excluding), in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The first millisecond.
    pub from_ms: i64,
    /// The first millisecond after it.
    pub to_ms: i64,
}

impl Window {
    /// Whether a time is in it.
    pub fn contains(&self, at_ms: i64) -> bool {
        (self.from_ms..self.to_ms).contains(&at_ms)
    }

    /// The seven days before it.
    pub fn baseline(&self) -> Self {
        Self { from_ms: self.from_ms - BASELINE_MS, to_ms: self.from_ms }
    }

    fn days(&self) -> f64 {
        (self.to_ms - self.from_ms) as f64 / DAY_MS as f64
    }
}

/// When people work. An offset that changes with the seasons is the caller's to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusinessHours {
    /// The first hour, 0 to 23.
    pub from_hour: u8,
    /// The first hour after them, 1 to 24; at night if it is not after `from_hour`.
    pub to_hour: u8,
    /// Local time less UTC, in minutes: from -1440 to 1440.
    #[serde(default)]
    pub utc_offset_minutes: i32,
    /// Whether Saturdays and Sundays count as outside.
    #[serde(default = "yes")]
    pub weekdays_only: bool,
}

fn yes() -> bool {
    true
}

/// What counts as unusual.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Signers who are known whether they signed lately or not.
    pub known_signers: Vec<String>,
    /// When people work, if that is to be looked at.
    pub business_hours: Option<BusinessHours>,
    /// Days of the baseline on which something was signed, for it to be one.
    pub min_baseline_days: u64,
    /// Signatures in the baseline, for it to be one.
    pub min_baseline_signatures: u64,
    /// Fewer signatures than this in the window are never too many.
    pub min_volume: u64,
    /// Deviations above or below the mean that are unusual.
    pub deviations: f64,
    /// Verifications in the window, for a rate of failures to mean something.
    pub min_verifications: u64,
    /// Fewer failures than this are never too many.
    pub min_failures: u64,
    /// The rate of failures, from 0 to 1, from which it is unusual.
    pub failure_rate: f64,
    /// Signatures of a signer in the baseline, for their hours to be known.
    pub min_signer_signatures: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            known_signers: Vec::new(),
            business_hours: None,
            min_baseline_days: 3,
            min_baseline_signatures: 20,
            min_volume: 10,
            deviations: 3.0,
            min_verifications: 5,
            min_failures: 3,
            failure_rate: 0.2,
            min_signer_signatures: 20,
        }
    }
}

/// Why nothing was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuestion {
    /// An empty or reversed window, or too long a one.
    #[error("the window ends after it begins, and at most 31 days later")]
    Window,
    /// More rows than are looked at.
    #[error("at most {MAX_ROWS} rows are looked at; ask for a shorter window")]
    TooManyRows,
    /// Hours or an offset that no clock shows.
    #[error("business hours are from 0 to 23 until 1 to 24, with an offset of at most 1440 minutes")]
    BusinessHours,
    /// Deviations or a rate that are no such numbers.
    #[error("deviations are above 0, and a failure rate is above 0 and at most 1")]
    Threshold,
}

/// How alarming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Worth a look.
    Medium,
    /// Worth a look now.
    High,
}

/// The checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckName {
    /// Who signed.
    UnknownSigners,
    /// How much was signed.
    Volume,
    /// How many verifications failed.
    Failures,
    /// At which hours of the day.
    Hours,
    /// Inside of business hours.
    BusinessHours,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    /// Nothing unusual.
    Normal,
    /// Something is.
    Anomalous,
    /// Nothing was found, but the baseline is too thin to say that nothing is.
    InsufficientBaseline,
    /// There is too little in the window to judge.
    InsufficientData,
    /// It was not asked for.
    NotConfigured,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which.
    pub name: CheckName,
    /// How it ended.
    pub status: CheckStatus,
    /// In words.
    pub detail: String,
}

/// What is unusual, with its numbers. Rates are from 0 to 1; means and deviations are of a day's count.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// A signer whom nobody knows.
    UnknownSigner {
        /// Signatures in the window.
        signatures: u64,
        /// The first of them.
        first_at_ms: i64,
    },
    /// More signatures than usual.
    VolumeHigh(Volume),
    /// Fewer signatures than usual.
    VolumeLow(Volume),
    /// Many verifications that failed.
    FailureRate {
        /// Those that failed, in the window.
        failed: u64,
        /// All of them, in the window.
        total: u64,
        /// Their share.
        rate: f64,
        /// Those that failed, in the baseline.
        baseline_failed: u64,
        /// All of them, in the baseline.
        baseline_total: u64,
    },
    /// A signer at an hour that is not theirs.
    UnusualHour {
        /// Signatures at such hours.
        signatures: u64,
        /// The hours of the day at which they were made (UTC).
        hours: Vec<u8>,
        /// The hours at which this signer was seen in the baseline (UTC).
        usual_hours: Vec<u8>,
        /// Signatures in the baseline.
        baseline_signatures: u64,
    },
    /// Signatures outside of business hours.
    OutsideBusinessHours {
        /// Signatures outside of them.
        signatures: u64,
        /// Signatures in the window.
        total: u64,
        /// Whether this signer did so in the baseline, too.
        usual: bool,
    },
}

/// How much was signed, and how much was to be expected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Volume {
    /// Signatures in the window.
    pub count: u64,
    /// What the baseline's mean makes of the window's length, of at least a day.
    pub expected: f64,
    /// Signatures a day in the baseline.
    pub baseline_daily_mean: f64,
    /// The standard deviation of that.
    pub baseline_daily_deviation: f64,
    /// The count beyond which it is unusual.
    pub threshold: f64,
}

/// One thing that is unusual.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What, with its numbers.
    #[serde(flatten)]
    pub kind: Kind,
    /// How alarming.
    pub severity: Severity,
    /// Whose, where it is about one signer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// In words.
    pub detail: String,
    /// The rows, in the order of time; at most [`MAX_NAMED_ROWS`].
    pub rows: Vec<String>,
    /// How many rows there are.
    pub rows_total: u64,
}

/// What a signer did in the window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// Who.
    pub signer: String,
    /// Signatures.
    pub signatures: u64,
    /// Verifications of what they signed.
    pub verifications: u64,
    /// Those that failed.
    pub failed: u64,
}

/// How the whole stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing is unusual, and the baseline was enough to say so.
    Normal,
    /// Something is unusual.
    Anomalous,
    /// Nothing was found, but not everything could be judged.
    InsufficientBaseline,
}

/// What the baseline is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Baseline {
    /// From when until when.
    #[serde(flatten)]
    pub window: Window,
    /// Signatures.
    pub signatures: u64,
    /// Verifications.
    pub verifications: u64,
    /// Days of the seven on which something was signed.
    pub active_days: u64,
    /// Whether it is enough to judge by.
    pub sufficient: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Anomalies {
    /// How the whole stands.
    pub status: Status,
    /// What was looked at.
    pub window: Window,
    /// What it was held against.
    pub baseline: Baseline,
    /// Each check.
    pub checks: Vec<Check>,
    /// What is unusual, the most alarming first; at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub findings_left_out: u64,
    /// Who did what in the window, the busiest first; at most [`MAX_FINDINGS`].
    pub activity: Vec<Activity>,
}

/// Looks at the rows of a window and of its baseline, in any order. Rows outside of both are passed over.
///
/// # Errors
/// [`InvalidQuestion`].
pub fn detect(rows: &[Row], window: Window, settings: &Settings) -> Result<Anomalies, InvalidQuestion> {
    check_question(rows, window, settings)?;
    let facts = Facts::new(rows, window, settings);
    let (checks, mut findings) = checks::all(&facts);
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.signer.cmp(&b.signer)));
    let unjudged = |check: &Check| match check.status {
        CheckStatus::InsufficientBaseline => true,
        CheckStatus::Normal | CheckStatus::Anomalous | CheckStatus::InsufficientData | CheckStatus::NotConfigured => {
            false
        }
    };
    let status = if !findings.is_empty() {
        Status::Anomalous
    } else if checks.iter().any(unjudged) {
        Status::InsufficientBaseline
    } else {
        Status::Normal
    };
    let findings_left_out = findings.len().saturating_sub(MAX_FINDINGS) as u64;
    findings.truncate(MAX_FINDINGS);
    let activity = facts.activity();
    Ok(Anomalies { status, window, baseline: facts.baseline, checks, findings, findings_left_out, activity })
}

fn check_question(rows: &[Row], window: Window, settings: &Settings) -> Result<(), InvalidQuestion> {
    let length = window.to_ms.checked_sub(window.from_ms);
    // Room for the baseline and for offsets, so that no later sum can overflow.
    let in_range = |at: i64| at.unsigned_abs() < (1 << 53);
    if !length.is_some_and(|l| (1..=MAX_WINDOW_MS).contains(&l)) || !in_range(window.from_ms) {
        return Err(InvalidQuestion::Window);
    }
    if rows.len() > MAX_ROWS {
        return Err(InvalidQuestion::TooManyRows);
    }
    let fits = |hours: &BusinessHours| {
        hours.from_hour <= 23 && (1..=24).contains(&hours.to_hour) && hours.utc_offset_minutes.unsigned_abs() <= 1440
    };
    if !settings.business_hours.as_ref().is_none_or(fits) {
        return Err(InvalidQuestion::BusinessHours);
    }
    let rate = settings.failure_rate;
    if !(settings.deviations > 0.0 && settings.deviations.is_finite() && rate > 0.0 && rate <= 1.0) {
        return Err(InvalidQuestion::Threshold);
    }
    Ok(())
}

/// The rows, sorted out.
struct Facts<'a> {
    settings: &'a Settings,
    window: Window,
    baseline: Baseline,
    /// Signatures in the window, by signer, in the order of time.
    signed: BTreeMap<&'a str, Vec<&'a Row>>,
    /// Verifications in the window, likewise.
    verified: BTreeMap<&'a str, Vec<&'a Row>>,
    /// Signatures in the baseline, likewise.
    signed_before: BTreeMap<&'a str, Vec<&'a Row>>,
    /// Verifications in the baseline, likewise.
    verified_before: BTreeMap<&'a str, Vec<&'a Row>>,
}

impl<'a> Facts<'a> {
    fn new(rows: &'a [Row], window: Window, settings: &'a Settings) -> Self {
        let before = window.baseline();
        let group = |kind: RowKind, within: Window| {
            let mut by_signer: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
            for row in rows.iter().filter(|row| row.kind == kind && within.contains(row.at_ms)) {
                by_signer.entry(&row.signer).or_default().push(row);
            }
            by_signer
                .values_mut()
                .for_each(|rows| rows.sort_by(|a, b| a.at_ms.cmp(&b.at_ms).then_with(|| a.id.cmp(&b.id))));
            by_signer
        };
        let (signed_before, verified_before) =
            (group(RowKind::Signature, before), group(RowKind::Verification, before));
        let count = |rows: &BTreeMap<&str, Vec<&Row>>| rows.values().map(Vec::len).sum::<usize>() as u64;
        let days: BTreeSet<i64> =
            signed_before.values().flatten().map(|row| (row.at_ms - before.from_ms) / DAY_MS).collect();
        let (signatures, active_days) = (count(&signed_before), days.len() as u64);
        let sufficient = signatures >= settings.min_baseline_signatures && active_days >= settings.min_baseline_days;
        let verifications = count(&verified_before);
        Self {
            settings,
            window,
            baseline: Baseline { window: before, signatures, verifications, active_days, sufficient },
            signed: group(RowKind::Signature, window),
            verified: group(RowKind::Verification, window),
            signed_before,
            verified_before,
        }
    }

    fn activity(&self) -> Vec<Activity> {
        let signers: BTreeSet<&str> = self.signed.keys().chain(self.verified.keys()).copied().collect();
        let of = |signer: &str| {
            let verified = self.verified.get(signer).map(Vec::as_slice).unwrap_or_default();
            Activity {
                signer: signer.to_owned(),
                signatures: self.signed.get(signer).map_or(0, |rows| rows.len() as u64),
                verifications: verified.len() as u64,
                failed: verified.iter().filter(|row| !row.valid).count() as u64,
            }
        };
        let mut activity: Vec<Activity> = signers.into_iter().map(of).collect();
        activity.sort_by(|a, b| b.signatures.cmp(&a.signatures).then(b.verifications.cmp(&a.verifications)));
        activity.truncate(MAX_FINDINGS);
        activity
    }
}

#[cfg(test)]
mod tests;
