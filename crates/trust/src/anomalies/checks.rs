//! The checks themselves.

use std::collections::BTreeSet;

use super::{
    BusinessHours, Check, CheckName, CheckStatus, DAY_MS, Facts, Finding, HOUR_MS, Kind, MAX_NAMED_ROWS, MINUTE_MS,
    Row, Severity, Volume,
};
use crate::text::short_line;

/// Longest name of a signer in words, in characters.
const MAX_SIGNER_CHARS: usize = 200;
/// Signatures outside of business hours in the baseline from which they are a habit.
const HABIT: usize = 3;

pub(super) fn all(facts: &Facts<'_>) -> (Vec<Check>, Vec<Finding>) {
    let mut findings = Vec::new();
    let checks = [unknown_signers, volume, failures, hours, business_hours];
    let checks = checks.into_iter().map(|check| check(facts, &mut findings)).collect();
    (checks, findings)
}

fn unknown_signers(facts: &Facts<'_>, findings: &mut Vec<Finding>) -> Check {
    let known: BTreeSet<&str> = facts.settings.known_signers.iter().map(String::as_str).collect();
    let is_new = |signer: &str| !known.contains(signer) && !facts.signed_before.contains_key(signer);
    let new: Vec<_> = facts.signed.iter().filter(|(signer, _)| is_new(signer)).collect();
    let (name, baseline) = (CheckName::UnknownSigners, &facts.baseline);
    if new.is_empty() {
        let detail = format!("all {} signers are known or signed in the baseline", facts.signed.len());
        return Check { name, status: CheckStatus::Normal, detail };
    }
    if known.is_empty() && !baseline.sufficient {
        let detail = format!("{} signers are new, but {} to tell who is unknown", new.len(), thin(facts));
        return Check { name, status: CheckStatus::InsufficientBaseline, detail };
    }
    for (signer, rows) in &new {
        let kind = Kind::UnknownSigner {
            signatures: rows.len() as u64,
            first_at_ms: rows.first().map_or(facts.window.from_ms, |row| row.at_ms),
        };
        let detail = format!("{} signed {} times and is not known", shown(signer), rows.len());
        findings.push(finding(kind, Severity::High, Some(signer), detail, rows.iter().copied()));
    }
    Check { name, status: CheckStatus::Anomalous, detail: format!("{} signers are not known", new.len()) }
}

fn volume(facts: &Facts<'_>, findings: &mut Vec<Finding>) -> Check {
    let name = CheckName::Volume;
    if !facts.baseline.sufficient {
        return Check { name, status: CheckStatus::InsufficientBaseline, detail: thin(facts) };
    }
    let before = findings.len();
    let all: Vec<&Row> = facts.signed.values().flatten().copied().collect();
    let all_before: Vec<&Row> = facts.signed_before.values().flatten().copied().collect();
    findings.extend(unusual_volume(facts, None, &all, &all_before));
    for (signer, rows_before) in &facts.signed_before {
        if has_baseline(facts, rows_before) {
            let rows = facts.signed.get(signer).map(Vec::as_slice).unwrap_or_default();
            findings.extend(unusual_volume(facts, Some(signer), rows, rows_before));
        }
    }
    let status = if findings.len() > before { CheckStatus::Anomalous } else { CheckStatus::Normal };
    let mean = all_before.len() as f64 / 7.0;
    Check { name, status, detail: format!("{} signatures; {mean:.1} a day in the baseline", all.len()) }
}

fn unusual_volume(facts: &Facts<'_>, signer: Option<&str>, rows: &[&Row], before: &[&Row]) -> Option<Finding> {
    let (mean, deviation) = daily(facts, before);
    // Work comes in bursts: what is usual in a day is no alarm in an hour.
    let days = facts.window.days().max(1.0);
    let expected = mean * days;
    // Counts scatter by at least the square root of their mean, however even a week happened to be.
    let spread = deviation.max(mean.sqrt()) * days.sqrt() * facts.settings.deviations;
    let (count, settings) = (rows.len() as u64, facts.settings);
    let numbers = |threshold: f64| Volume {
        count,
        expected: rounded(expected),
        baseline_daily_mean: rounded(mean),
        baseline_daily_deviation: rounded(deviation),
        threshold: rounded(threshold),
    };
    let whose = signer.map_or_else(|| "in all".to_owned(), |signer| format!("by {}", shown(signer)));
    let detail = format!("{count} signatures {whose}, where {expected:.1} were to be expected");
    let (high, low) = (expected + spread, expected - spread);
    if count >= settings.min_volume && count as f64 > high {
        let severity = if count as f64 > high + spread { Severity::High } else { Severity::Medium };
        return Some(finding(Kind::VolumeHigh(numbers(high)), severity, signer, detail, rows.iter().copied()));
    }
    let long_enough = facts.window.days() >= 1.0 && expected >= settings.min_volume as f64;
    (long_enough && (count as f64) < low)
        .then(|| finding(Kind::VolumeLow(numbers(low)), Severity::Low, signer, detail, rows.iter().copied()))
}

/// Mean and sample standard deviation of the signatures on each of the seven days, those without any included.
fn daily(facts: &Facts<'_>, rows: &[&Row]) -> (f64, f64) {
    let mut days = [0.0_f64; 7];
    for row in rows {
        let day = (row.at_ms - facts.baseline.window.from_ms) / DAY_MS;
        if let Some(count) = usize::try_from(day).ok().and_then(|day| days.get_mut(day)) {
            *count += 1.0;
        }
    }
    let mean = days.iter().sum::<f64>() / 7.0;
    let variance = days.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 6.0;
    (mean, variance.sqrt())
}

fn failures(facts: &Facts<'_>, findings: &mut Vec<Finding>) -> Check {
    let before = findings.len();
    for (signer, rows) in &facts.verified {
        let rows_before = facts.verified_before.get(signer).map(Vec::as_slice).unwrap_or_default();
        findings.extend(failing(facts, Some(signer), rows, rows_before));
    }
    let all: Vec<&Row> = facts.verified.values().flatten().copied().collect();
    if findings.len() == before {
        // Many signers may fail a little each.
        let all_before: Vec<&Row> = facts.verified_before.values().flatten().copied().collect();
        findings.extend(failing(facts, None, &all, &all_before));
    }
    let (failed, total) = (failed(&all), all.len() as u64);
    let status = if findings.len() > before {
        CheckStatus::Anomalous
    } else if total < facts.settings.min_verifications {
        CheckStatus::InsufficientData
    } else {
        CheckStatus::Normal
    };
    Check { name: CheckName::Failures, status, detail: format!("{failed} of {total} verifications failed") }
}

fn failing(facts: &Facts<'_>, signer: Option<&str>, rows: &[&Row], before: &[&Row]) -> Option<Finding> {
    let settings = facts.settings;
    let (failed_now, total) = (failed(rows), rows.len() as u64);
    let rate = share(failed_now, total);
    if total < settings.min_verifications || failed_now < settings.min_failures || rate < settings.failure_rate {
        return None;
    }
    let (baseline_failed, baseline_total) = (failed(before), before.len() as u64);
    let as_before =
        baseline_total >= settings.min_verifications && share(baseline_failed, baseline_total) * 2.0 >= rate;
    let severity = match (rate >= 0.5, as_before) {
        (true, false) => Severity::High,
        (false, false) | (true, true) => Severity::Medium,
        (false, true) => Severity::Low,
    };
    let whose = signer.map_or_else(|| "in all".to_owned(), |signer| format!("of what {} signed", shown(signer)));
    let before = format!("{baseline_failed} of {baseline_total} in the baseline");
    let detail = format!("{failed_now} of {total} verifications {whose} failed ({:.1} %); {before}", rate * 100.0);
    let kind = Kind::FailureRate { failed: failed_now, total, rate: rounded(rate), baseline_failed, baseline_total };
    Some(finding(kind, severity, signer, detail, rows.iter().copied().filter(|row| !row.valid)))
}

fn hours(facts: &Facts<'_>, findings: &mut Vec<Finding>) -> Check {
    let (before, mut unjudged) = (findings.len(), 0_usize);
    for (signer, rows) in &facts.signed {
        match facts.signed_before.get(signer).filter(|rows| has_baseline(facts, rows)) {
            Some(rows_before) => findings.extend(unusual_hours(signer, rows, rows_before)),
            None => unjudged += 1,
        }
    }
    let (found, signers) = (findings.len() - before, facts.signed.len());
    let status = match (found, unjudged) {
        (1.., _) => CheckStatus::Anomalous,
        (0, 1..) => CheckStatus::InsufficientBaseline,
        (0, 0) => CheckStatus::Normal,
    };
    let detail = format!(
        "{found} of {signers} signers at hours that are not theirs; {unjudged} signed too little in the baseline to tell"
    );
    Check { name: CheckName::Hours, status, detail }
}

fn unusual_hours(signer: &str, rows: &[&Row], before: &[&Row]) -> Option<Finding> {
    let usual: BTreeSet<u8> = before.iter().map(|row| hour_of(row.at_ms)).collect();
    // An hour next to one of theirs is theirs, too: nobody starts to the minute.
    let is_usual = |hour: u8| [(hour + 23) % 24, hour, (hour + 1) % 24].iter().any(|hour| usual.contains(hour));
    let odd: Vec<&Row> = rows.iter().copied().filter(|row| !is_usual(hour_of(row.at_ms))).collect();
    if odd.is_empty() {
        return None;
    }
    let hours: BTreeSet<u8> = odd.iter().map(|row| hour_of(row.at_ms)).collect();
    let detail =
        format!("{} signed {} times at hours at which they never did in the baseline", shown(signer), odd.len());
    let kind = Kind::UnusualHour {
        signatures: odd.len() as u64,
        hours: hours.into_iter().collect(),
        usual_hours: usual.into_iter().collect(),
        baseline_signatures: before.len() as u64,
    };
    Some(finding(kind, Severity::Medium, Some(signer), detail, odd.into_iter()))
}

fn business_hours(facts: &Facts<'_>, findings: &mut Vec<Finding>) -> Check {
    let name = CheckName::BusinessHours;
    let Some(hours) = &facts.settings.business_hours else {
        return Check { name, status: CheckStatus::NotConfigured, detail: "no business hours were given".to_owned() };
    };
    let before = findings.len();
    for (signer, rows) in &facts.signed {
        let outside: Vec<&Row> = rows.iter().copied().filter(|row| is_outside(hours, row.at_ms)).collect();
        if outside.is_empty() {
            continue;
        }
        let rows_before = facts.signed_before.get(signer).map(Vec::as_slice).unwrap_or_default();
        let usual = rows_before.iter().filter(|row| is_outside(hours, row.at_ms)).count() >= HABIT;
        let severity = if usual { Severity::Low } else { Severity::Medium };
        let (count, total) = (outside.len() as u64, rows.len() as u64);
        let detail = format!("{} signed {count} of {total} times outside of business hours", shown(signer));
        let kind = Kind::OutsideBusinessHours { signatures: count, total, usual };
        findings.push(finding(kind, severity, Some(signer), detail, outside.into_iter()));
    }
    let found = findings.len() - before;
    let status = if found > 0 { CheckStatus::Anomalous } else { CheckStatus::Normal };
    Check { name, status, detail: format!("{found} of {} signers outside of business hours", facts.signed.len()) }
}

fn is_outside(hours: &BusinessHours, at_ms: i64) -> bool {
    let local_ms = at_ms + i64::from(hours.utc_offset_minutes) * MINUTE_MS;
    let hour = hour_of(local_ms);
    let within = if hours.from_hour < hours.to_hour {
        (hours.from_hour..hours.to_hour).contains(&hour)
    } else {
        hour >= hours.from_hour || hour < hours.to_hour
    };
    // 1970-01-01 was a Thursday; Sunday is 0.
    let weekday = (local_ms.div_euclid(DAY_MS) + 4).rem_euclid(7);
    !within || (hours.weekdays_only && matches!(weekday, 0 | 6))
}

fn hour_of(at_ms: i64) -> u8 {
    u8::try_from(at_ms.rem_euclid(DAY_MS) / HOUR_MS).unwrap_or_default()
}

/// Whether one signer's baseline is enough to say what is usual for them.
fn has_baseline(facts: &Facts<'_>, rows: &[&Row]) -> bool {
    let days: BTreeSet<i64> = rows.iter().map(|row| (row.at_ms - facts.baseline.window.from_ms) / DAY_MS).collect();
    rows.len() as u64 >= facts.settings.min_signer_signatures && days.len() as u64 >= facts.settings.min_baseline_days
}

fn thin(facts: &Facts<'_>) -> String {
    let (baseline, settings) = (&facts.baseline, facts.settings);
    format!(
        "the baseline has {} signatures on {} days, and at least {} on {} are needed",
        baseline.signatures, baseline.active_days, settings.min_baseline_signatures, settings.min_baseline_days
    )
}

fn finding<'a>(
    kind: Kind,
    severity: Severity,
    signer: Option<&str>,
    detail: String,
    rows: impl Iterator<Item = &'a Row> + Clone,
) -> Finding {
    let rows_total = rows.clone().count() as u64;
    let rows = rows.take(MAX_NAMED_ROWS).map(|row| row.id.clone()).collect();
    Finding { kind, severity, signer: signer.map(str::to_owned), detail, rows, rows_total }
}

fn failed(rows: &[&Row]) -> u64 {
    rows.iter().filter(|row| !row.valid).count() as u64
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn shown(signer: &str) -> String {
    short_line(signer, MAX_SIGNER_CHARS)
}
