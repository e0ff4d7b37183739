//! What is an alarm and what is not, with a harmless double for each.

use super::*;

/// Sunday, 2026-03-01T00:00:00Z; the baseline is the week before it.
const START: i64 = 1_772_323_200_000;
const DAY: Window = Window { from_ms: START, to_ms: START + DAY_MS };

/// `count` rows of a signer, from a day and hour on, a minute apart.
fn rows(kind: RowKind, signer: &str, day: i64, hour: i64, count: i64, valid: bool) -> Vec<Row> {
    let row = |i: i64| Row {
        id: format!("{signer}-{day}-{hour}-{i}-{valid}"),
        at_ms: START + day * DAY_MS + hour * HOUR_MS + i * MINUTE_MS,
        kind,
        signer: signer.to_owned(),
        artifact_type: "container_image".to_owned(),
        valid,
    };
    (0..count).map(row).collect()
}

fn signed(signer: &str, day: i64, hour: i64, count: i64) -> Vec<Row> {
    rows(RowKind::Signature, signer, day, hour, count, true)
}

/// Ten signatures on each of the seven days before, at nine and at fourteen o'clock.
fn week() -> Vec<Row> {
    (-7..0).flat_map(|day| [signed("ci", day, 9, 5), signed("ci", day, 14, 5)].concat()).collect()
}

fn found(rows: &[Row], settings: &Settings) -> Anomalies {
    detect(rows, DAY, settings).unwrap()
}

fn status(anomalies: &Anomalies, name: CheckName) -> CheckStatus {
    anomalies.checks.iter().find(|check| check.name == name).unwrap().status
}

fn kinds(anomalies: &Anomalies) -> Vec<(String, Option<&str>, Severity, u64)> {
    let kind = |finding: &Finding| serde_json::to_value(finding).unwrap()["kind"].as_str().unwrap().to_owned();
    anomalies.findings.iter().map(|f| (kind(f), f.signer.as_deref(), f.severity, f.rows_total)).collect()
}

#[test]
fn a_day_like_the_others_is_normal() {
    let all = [week(), signed("ci", 0, 9, 10)].concat();
    let anomalies = found(&all, &Settings::default());
    assert_eq!((anomalies.status, kinds(&anomalies)), (Status::Normal, vec![]));
    let baseline = anomalies.baseline;
    assert_eq!((baseline.signatures, baseline.active_days, baseline.sufficient), (70, 7, true));
    assert_eq!(anomalies.activity[0].signatures, 10);
}

#[test]
fn a_signer_whom_nobody_knows_is_an_alarm() {
    let all = [week(), signed("ci", 0, 9, 10), signed("stranger", 0, 3, 2)].concat();
    let anomalies = found(&all, &Settings::default());
    assert_eq!(kinds(&anomalies), [("unknown_signer".to_owned(), Some("stranger"), Severity::High, 2)]);
    assert_eq!(anomalies.findings[0].rows, ["stranger-0-3-0-true", "stranger-0-3-1-true"]);
    // Twins: one who signed before, and one who is given as known.
    let before = [all.clone(), signed("stranger", -1, 3, 1)].concat();
    assert_eq!(status(&found(&before, &Settings::default()), CheckName::UnknownSigners), CheckStatus::Normal);
    let known = Settings { known_signers: vec!["stranger".to_owned()], ..Settings::default() };
    assert_eq!(status(&found(&all, &known), CheckName::UnknownSigners), CheckStatus::Normal);
    // What was verified of a stranger's was not signed here.
    let verified = [week(), signed("ci", 0, 9, 10), rows(RowKind::Verification, "stranger", 0, 9, 2, true)].concat();
    assert_eq!(found(&verified, &Settings::default()).status, Status::Normal);
}

#[test]
fn a_thin_baseline_is_never_normal() {
    for (all, known, expected) in [
        (signed("ci", 0, 9, 3), vec![], CheckStatus::InsufficientBaseline),
        ([signed("ci", -1, 9, 19), signed("new", 0, 9, 1)].concat(), vec![], CheckStatus::InsufficientBaseline),
        // Those who are known are a baseline of their own.
        (signed("ci", 0, 9, 3), vec!["ci".to_owned()], CheckStatus::Normal),
        (signed("ci", 0, 9, 3), vec!["release".to_owned()], CheckStatus::Anomalous),
    ] {
        let anomalies = found(&all, &Settings { known_signers: known.clone(), ..Settings::default() });
        assert_eq!(status(&anomalies, CheckName::UnknownSigners), expected, "{known:?}");
        assert_ne!(anomalies.status, Status::Normal);
        assert_eq!(status(&anomalies, CheckName::Volume), CheckStatus::InsufficientBaseline);
        assert_eq!(status(&anomalies, CheckName::Hours), CheckStatus::InsufficientBaseline);
    }
    // Many signatures on a single day are no week; spread over three days they are one.
    let one_day = [signed("ci", -1, 9, 50), signed("ci", 0, 9, 5)].concat();
    assert_eq!(found(&one_day, &Settings::default()).status, Status::InsufficientBaseline);
    let three = [signed("ci", -1, 9, 10), signed("ci", -2, 9, 10), signed("ci", -3, 9, 10), signed("ci", 0, 9, 5)];
    assert_eq!(found(&three.concat(), &Settings::default()).status, Status::Normal);
}

#[test]
fn volume_is_held_against_mean_and_deviation() {
    for (count, expected) in [
        // Mean 10, deviation 0; counts scatter by √10, so that 3 deviations are 9.5.
        (19, None),
        (20, Some(("volume_high", Severity::Medium))),
        (29, Some(("volume_high", Severity::High))),
        (1, None),
        (0, Some(("volume_low", Severity::Low))),
    ] {
        let anomalies = found(&[week(), signed("ci", 0, 9, count)].concat(), &Settings::default());
        let kinds = kinds(&anomalies);
        assert_eq!(kinds.first().map(|(kind, _, severity, _)| (kind.as_str(), *severity)), expected, "{count}");
        // In all and by the one signer.
        assert_eq!(kinds.len(), if expected.is_some() { 2 } else { 0 });
    }
    let anomalies = found(&[week(), signed("ci", 0, 9, 29)].concat(), &Settings::default());
    let Kind::VolumeHigh(volume) = &anomalies.findings[0].kind else { panic!("{anomalies:?}") };
    let expected = Volume {
        count: 29,
        expected: 10.0,
        baseline_daily_mean: 10.0,
        baseline_daily_deviation: 0.0,
        threshold: 19.487,
    };
    assert_eq!(*volume, expected);
    // Few and then a few more: no alarm.
    let few: Vec<Row> = (-7..0).flat_map(|day| signed("ci", day, 9, 3)).chain(signed("ci", 0, 9, 9)).collect();
    assert_eq!(found(&few, &Settings::default()).status, Status::Normal);
    // A part of a day is held against a whole one, and is never too little.
    let hour = Window { from_ms: START, to_ms: START + 10 * HOUR_MS };
    let part = detect(&[week(), signed("ci", 0, 9, 10)].concat(), hour, &Settings::default()).unwrap();
    assert_eq!(part.status, Status::Normal);
    assert_eq!(detect(&week(), hour, &Settings::default()).unwrap().status, Status::Normal);
}

#[test]
fn a_week_with_days_off_deviates() {
    let uneven: Vec<Row> = (-7..0).flat_map(|day| signed("ci", day, 9, if day < -5 { 0 } else { 20 })).collect();
    let (busy, busier) = ([uneven.clone(), signed("ci", 0, 9, 30)].concat(), [uneven, signed("ci", 0, 9, 60)].concat());
    assert_eq!(found(&busy, &Settings::default()).status, Status::Normal);
    assert_eq!(found(&busier, &Settings::default()).status, Status::Anomalous);
}

#[test]
fn failures_need_numbers() {
    let verified = |failed: i64, good: i64, day: i64| {
        let bad = rows(RowKind::Verification, "dev", day, 9, failed, false);
        [bad, rows(RowKind::Verification, "dev", day, 10, good, true)].concat()
    };
    for (now, before, expected) in [
        ((5, 3), (0, 0), Some(Severity::High)),
        ((3, 7), (0, 0), Some(Severity::Medium)),
        ((3, 7), (4, 8), Some(Severity::Low)),
        ((5, 3), (5, 3), Some(Severity::Medium)),
        ((2, 1), (0, 0), None),  // too few
        ((2, 6), (0, 0), None),  // too few failures
        ((3, 20), (0, 0), None), // too small a share
        ((0, 50), (0, 0), None),
    ] {
        let all =
            [week(), signed("ci", 0, 9, 10), verified(now.0, now.1, 0), verified(before.0, before.1, -1)].concat();
        let anomalies = found(&all, &Settings::default());
        assert_eq!(anomalies.findings.first().map(|f| f.severity), expected, "{now:?} {before:?}");
        assert_eq!(anomalies.findings.len(), usize::from(expected.is_some()));
    }
    let anomalies = found(&verified(5, 3, 0), &Settings::default());
    let expected = Kind::FailureRate { failed: 5, total: 8, rate: 0.625, baseline_failed: 0, baseline_total: 0 };
    assert_eq!((&anomalies.findings[0].kind, anomalies.findings[0].rows_total), (&expected, 5));
    // A little of everybody's is found in all.
    let each = |i: i64| {
        let signer = format!("dev-{i}");
        let bad = rows(RowKind::Verification, &signer, 0, 9, 1, false);
        [bad, rows(RowKind::Verification, &signer, 0, 10, 1, true)].concat()
    };
    let many: Vec<Row> = (0..6).flat_map(each).collect();
    assert_eq!(kinds(&found(&many, &Settings::default())), [("failure_rate".to_owned(), None, Severity::High, 6)]);
    assert_eq!(status(&found(&week(), &Settings::default()), CheckName::Failures), CheckStatus::InsufficientData);
}

#[test]
fn hours_are_those_of_the_signer() {
    for (hour, odd) in [(9, false), (8, false), (15, false), (12, true), (3, true), (23, true)] {
        let all = [week(), signed("ci", 0, 9, 8), signed("ci", 0, hour, 1)].concat();
        let anomalies = found(&all, &Settings::default());
        assert_eq!(anomalies.status, if odd { Status::Anomalous } else { Status::Normal }, "{hour}");
        if odd {
            let expected = Kind::UnusualHour {
                signatures: 1,
                hours: vec![u8::try_from(hour).unwrap()],
                usual_hours: vec![9, 14],
                baseline_signatures: 70,
            };
            assert_eq!(anomalies.findings[0].kind, expected);
        }
    }
    // Of a signer who hardly ever signed nothing can be said.
    let all = [week(), signed("ci", 0, 9, 8), signed("rare", -2, 9, 1), signed("rare", 0, 3, 1)].concat();
    let anomalies = found(&all, &Settings::default());
    assert_eq!(status(&anomalies, CheckName::Hours), CheckStatus::InsufficientBaseline);
    assert_eq!(anomalies.status, Status::InsufficientBaseline);
    // Around midnight, hours are neighbours.
    let late: Vec<Row> = (-7..0).flat_map(|day| signed("ci", day, 23, 10)).chain(signed("ci", 0, 0, 9)).collect();
    assert_eq!(found(&late, &Settings::default()).status, Status::Normal);
}

#[test]
fn business_hours_are_local_and_leave_weekends_out() {
    let hours = |from_hour, to_hour, utc_offset_minutes, weekdays_only| Settings {
        business_hours: Some(BusinessHours { from_hour, to_hour, utc_offset_minutes, weekdays_only }),
        known_signers: vec!["ci".to_owned()],
        ..Settings::default()
    };
    for (settings, day, hour, outside) in [
        (hours(8, 18, 0, true), 1, 9, false), // Monday
        (hours(8, 18, 0, true), 1, 18, true),
        (hours(8, 18, 0, true), 0, 9, true), // Sunday
        (hours(8, 18, 0, false), 0, 9, false),
        (hours(8, 18, 120, true), 1, 6, false),
        (hours(8, 18, 120, true), 1, 17, true),
        (hours(8, 18, -480, true), 1, 16, false),
        (hours(8, 18, -480, true), 1, 9, true),
        (hours(8, 18, 840, true), 0, 19, false), // Monday morning there
        (hours(22, 6, 0, true), 1, 23, false),
        (hours(22, 6, 0, true), 1, 5, false),
        (hours(22, 6, 0, true), 1, 12, true),
    ] {
        let window = Window { from_ms: START, to_ms: START + 2 * DAY_MS };
        let anomalies = detect(&signed("ci", day, hour, 1), window, &settings).unwrap();
        let expected = if outside { CheckStatus::Anomalous } else { CheckStatus::Normal };
        assert_eq!(status(&anomalies, CheckName::BusinessHours), expected, "{settings:?} {day} {hour}");
    }
    let settings = hours(8, 18, 0, true);
    let nightly = [week(), signed("ci", -3, 2, 3), signed("ci", 0, 2, 8)].concat();
    let finding = found(&nightly, &settings).findings.remove(0);
    assert_eq!(finding.kind, Kind::OutsideBusinessHours { signatures: 8, total: 8, usual: true });
    assert_eq!(finding.severity, Severity::Low);
    assert_eq!(status(&found(&week(), &Settings::default()), CheckName::BusinessHours), CheckStatus::NotConfigured);
}

#[test]
fn questions_that_make_no_sense_are_refused() {
    let window = |from_ms, to_ms| detect(&[], Window { from_ms, to_ms }, &Settings::default()).err();
    assert_eq!(window(START, START), Some(InvalidQuestion::Window));
    assert_eq!(window(START, START - 1), Some(InvalidQuestion::Window));
    assert_eq!(window(START, START + MAX_WINDOW_MS + 1), Some(InvalidQuestion::Window));
    assert_eq!(window(i64::MIN, i64::MAX), Some(InvalidQuestion::Window));
    assert_eq!(window(i64::MAX - 10, i64::MAX), Some(InvalidQuestion::Window));
    assert_eq!(window(START, START + MAX_WINDOW_MS), None);
    let with = |settings: &Settings| detect(&[], DAY, settings).err();
    let hours = |from_hour, to_hour, utc_offset_minutes| Settings {
        business_hours: Some(BusinessHours { from_hour, to_hour, utc_offset_minutes, weekdays_only: true }),
        ..Settings::default()
    };
    for wrong in [hours(24, 8, 0), hours(8, 25, 0), hours(8, 0, 0), hours(8, 18, 1441), hours(8, 18, i32::MIN)] {
        assert_eq!(with(&wrong), Some(InvalidQuestion::BusinessHours));
    }
    for rate in [0.0, 1.1, f64::NAN] {
        assert_eq!(with(&Settings { failure_rate: rate, ..Settings::default() }), Some(InvalidQuestion::Threshold));
    }
    assert_eq!(with(&Settings { deviations: f64::INFINITY, ..Settings::default() }), Some(InvalidQuestion::Threshold));
}

#[test]
fn lists_are_bounded() {
    let strangers: Vec<Row> = (0..300).flat_map(|i| signed(&format!("s{i}"), 0, 9, 1)).collect();
    let anomalies = found(&[week(), strangers].concat(), &Settings::default());
    assert_eq!((anomalies.findings.len(), anomalies.activity.len()), (MAX_FINDINGS, MAX_FINDINGS));
    assert!(anomalies.findings_left_out >= 100);
    let busy = found(&[week(), signed("new", 0, 9, 40)].concat(), &Settings::default());
    let of_new = busy.findings.iter().find(|f| f.signer.as_deref() == Some("new")).unwrap();
    assert_eq!((of_new.rows.len(), of_new.rows_total), (MAX_NAMED_ROWS, 40));
}
