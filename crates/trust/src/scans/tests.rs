//! Documents of each format, what is refused, and what limits make of scans.

use super::policy::{Ignore, InvalidPolicy, ScanPolicy, Submitted, Verdict, evaluate};
use super::*;
use serde_json::json;

const IMAGE: &[u8] = include_bytes!("../../tests/data/scans/image.sarif.json");
const CODE: &[u8] = include_bytes!("../../tests/data/scans/code.sarif.json");
const BILL: &[u8] = include_bytes!("../../tests/data/scans/api.cdx.json");
const PLAIN: &[u8] = include_bytes!("../../tests/data/scans/plain.cdx.json");
const SPDX: &[u8] = include_bytes!("../../tests/data/scans/api.spdx.json");
/// 2026-03-01T12:00:00Z.
const NOW: i64 = 1_772_366_400_000;

fn artifact() -> Digest {
    Digest::of(b"api v1.2.1")
}

fn ids(scan: &Scan) -> Vec<(&str, Severity, u64)> {
    scan.ids.iter().map(|finding| (finding.id.as_str(), finding.severity, finding.count)).collect()
}

#[test]
fn sarif_of_an_image() {
    let scan = Scan::parse(IMAGE).unwrap();
    assert_eq!(
        (scan.format, scan.version.as_str(), scan.tool_names().as_str()),
        (Format::Sarif, "2.1.0", "Image Scanner")
    );
    assert_eq!(scan.tools[0].version.as_deref(), Some("0.48.0"));
    assert_eq!(scan.findings, Counts { critical: 1, high: 2, low: 1, ..Counts::default() });
    assert_eq!(scan.suppressed, Counts { medium: 1, ..Counts::default() });
    let expected = [
        ("CVE-2024-1234", Severity::Critical, 1),
        ("CVE-2024-2000", Severity::High, 2),
        ("CVE-2024-4000", Severity::Low, 1),
    ];
    assert_eq!(ids(&scan), expected);
    assert_eq!((scan.subjects.as_slice(), scan.made_at_ms), (&[artifact()][..], Some(1_772_356_500_000)));
    assert_eq!((scan.assessed, scan.incomplete.len(), scan.components), (true, 0, 0));
}

#[test]
fn sarif_levels_come_from_result_override_and_rule() {
    let scan = Scan::parse(CODE).unwrap();
    assert_eq!(scan.findings, Counts { critical: 1, high: 3, medium: 2, low: 1, none: 1, unknown: 1 });
    assert_eq!((scan.absent, scan.suppressed.total()), (1, 0));
    let expected = [
        ("(no rule)", Severity::Critical, 1),
        ("rust.unsafe", Severity::High, 2),
        ("rust.unsafe/block", Severity::High, 1),
        ("rust.todo", Severity::Medium, 1),
        ("unlisted", Severity::Medium, 1),
        ("rust.unsafe", Severity::Unknown, 1),
        ("rust.todo", Severity::Low, 1),
        ("rust.unsafe", Severity::None, 1),
    ];
    assert_eq!(ids(&scan), expected);
    assert_eq!(scan.subjects, [artifact()]);
    assert_eq!((scan.tools[0].version.as_deref(), scan.made_at_ms), (Some("1.50.0"), Some(1_772_355_600_250)));
}

#[test]
fn cyclonedx_takes_the_worst_rating_and_sets_aside_what_is_settled() {
    let scan = Scan::parse(BILL).unwrap();
    assert_eq!((scan.format, scan.version.as_str(), scan.components), (Format::CycloneDx, "1.6", 3));
    assert_eq!(scan.findings, Counts { high: 2, none: 1, unknown: 2, ..Counts::default() });
    assert_eq!(scan.suppressed, Counts { critical: 1, ..Counts::default() });
    assert_eq!(scan.subjects.len(), 2);
    assert!(scan.subjects.contains(&artifact()));
    assert_eq!((scan.tool_names().as_str(), scan.made_at_ms), ("bom-maker", Some(1_772_352_600_000)));
    let plain = Scan::parse(PLAIN).unwrap();
    assert_eq!((plain.assessed, plain.components, plain.tool_names().as_str()), (false, 1, "old-bom-maker"));
}

#[test]
fn spdx_lists_packages_and_advisories() {
    let scan = Scan::parse(SPDX).unwrap();
    assert_eq!((scan.format, scan.version.as_str(), scan.components, scan.assessed), (Format::Spdx, "2.3", 2, false));
    assert_eq!(ids(&scan), [("CVE-2024-1234", Severity::Unknown, 1)]);
    assert_eq!(scan.tools, [Tool { name: "bom-maker".to_owned(), version: Some("1.4.2".to_owned()) }]);
    assert_eq!((scan.subjects.as_slice(), scan.made_at_ms), (&[artifact()][..], Some(1_772_356_320_000)));
}

#[test]
fn a_scan_is_kept_and_read_again() {
    for document in [IMAGE, CODE, BILL, PLAIN, SPDX] {
        let scan = Scan::parse(document).unwrap();
        let kept = serde_json::to_vec(&scan).unwrap();
        assert_eq!(serde_json::from_slice::<Scan>(&kept).unwrap(), scan);
        // The mark that some compilers write is passed over.
        assert_eq!(Scan::parse(&[b"\xef\xbb\xbf", document].concat()), Ok(scan));
    }
}

#[test]
fn bands_are_those_of_cvss() {
    for (score, expected) in [
        (0.0, Severity::None),
        (0.1, Severity::Low),
        (3.9, Severity::Low),
        (4.0, Severity::Medium),
        (6.9, Severity::Medium),
        (6.95, Severity::Medium),
        (7.0, Severity::High),
        (8.9, Severity::High),
        (9.0, Severity::Critical),
        (10.0, Severity::Critical),
        (10.1, Severity::Unknown),
        (-1.0, Severity::Unknown),
        (f64::NAN, Severity::Unknown),
    ] {
        assert_eq!(Severity::of_score(score), expected, "{score}");
    }
}

#[test]
fn what_is_not_read_is_named() {
    for (document, expected) in [
        (json!({}), "not a report that is read here"),
        (json!([]), "not a report that is read here"),
        (json!({"version": "2.1.0"}), "not a report that is read here"),
        (json!({"version": "2.0.0", "runs": []}), "SARIF \"2.0.0\" is not supported: 2.1.0 is"),
        (json!({"bomFormat": "CycloneDX", "specVersion": "1.3"}), "CycloneDX \"1.3\" is not supported"),
        (json!({"bomFormat": "CycloneDX"}), "CycloneDX \"\" is not supported"),
        (json!({"spdxVersion": "SPDX-2.1"}), "SPDX \"SPDX-2.1\" is not supported"),
        (
            json!({"@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld", "@graph": []}),
            "SPDX \"3\" is not supported",
        ),
        (json!({"@context": ["https://spdx.org/rdf/3.0.1/spdx-context.jsonld"]}), "SPDX \"3\" is not supported"),
        (json!({"version": "2.1.0", "runs": [{}]}), "runs[0].tool: "),
        (sarif(json!([{"level": "notice"}])), "runs[0].results[0]: unknown variant `notice`"),
        (sarif(json!([{}, {"ruleIndex": "1"}])), "runs[0].results[1]: "),
        (sarif(json!("none")), "runs[0].results: expected a list"),
        (json!({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [1]}), "components: expected an object"),
        (
            json!({"bomFormat": "CycloneDX", "specVersion": "1.6", "vulnerabilities": [{"ratings": [{"score": "9"}]}]}),
            "vulnerabilities[0]: ",
        ),
        (json!({"spdxVersion": "SPDX-2.3", "packages": [{"checksums": [{}]}]}), "packages[0]: "),
        (json!({"version": "2.1.0", "runs": vec![json!({}); 21]}), "more than 20 runs"),
        (sarif(json!(vec![json!({}); 50_001])), "more than 50000 results"),
    ] {
        let error = Scan::from_value(&document).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(matches!(Scan::parse(br#"{"a":1,"a":2}"#), Err(ScanError::Json(_))));
    assert!(matches!(Scan::parse(&vec![b' '; LIMITS.max_bytes + 1]), Err(ScanError::Json(_))));
}

fn sarif(results: Value) -> Value {
    json!({"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "T"}}, "results": results}]})
}

#[test]
fn a_run_that_did_not_look_is_incomplete() {
    let run = |members: Value| {
        let mut run = json!({"tool": {"driver": {"name": "T"}}});
        run.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        Scan::from_value(&json!({"version": "2.1.0", "runs": [run]})).unwrap()
    };
    for (members, complete) in [
        (json!({"results": []}), true),
        (json!({"results": [], "invocations": [{"executionSuccessful": true}]}), true),
        (json!({}), false),
        (json!({"results": null}), false),
        (json!({"results": [], "invocations": [{"executionSuccessful": false}]}), false),
        (json!({"results": [], "externalPropertyFileReferences": {"results": [{"itemCount": 3}]}}), false),
    ] {
        assert_eq!(run(members.clone()).incomplete.is_empty(), complete, "{members}");
    }
    assert_eq!(Scan::from_value(&json!({"version": "2.1.0", "runs": []})).unwrap().incomplete.len(), 1);
}

#[test]
fn suppressions_count_only_if_all_are_accepted() {
    for (suppressions, suppressed) in [
        (json!([]), false),
        (json!([{"kind": "inSource"}]), true),
        (json!([{"kind": "inSource", "status": "accepted"}]), true),
        (json!([{"kind": "inSource", "status": "rejected"}]), false),
        (json!([{"kind": "inSource"}, {"kind": "external", "status": "underReview"}]), false),
    ] {
        let scan = Scan::from_value(&sarif(json!([{"suppressions": suppressions}]))).unwrap();
        assert_eq!((scan.suppressed.medium, scan.findings.medium), if suppressed { (1, 0) } else { (0, 1) });
    }
}

#[test]
fn ids_are_bounded_and_the_worst_are_kept() {
    let results: Vec<Value> = (0..1_500)
        .map(|i| json!({"ruleId": format!("r{i}\u{202e}"), "level": if i < 100 { "error" } else { "note" }}))
        .collect();
    let scan = Scan::from_value(&sarif(json!(results))).unwrap();
    assert_eq!((scan.ids.len(), scan.ids_left_out, scan.findings.total()), (MAX_IDS, 500, 1_500));
    assert!(scan.ids[..100].iter().all(|finding| finding.severity == Severity::High));
    assert!(scan.ids[0].id.ends_with("⟨U+202E⟩"));
}

fn judged(documents: &[(&str, &Scan, i64)], policy: &ScanPolicy) -> Verdict {
    let submitted: Vec<_> =
        documents.iter().map(|(id, scan, at)| Submitted { id, scan, received_at_ms: *at }).collect();
    evaluate(&submitted, policy, NOW)
}

fn ignore(id: &str, expires_ms: i64) -> Ignore {
    Ignore { id: id.to_owned(), reason: "not reachable".to_owned(), expires_ms }
}

#[test]
fn limits_say_what_they_found() {
    let image = Scan::parse(IMAGE).unwrap();
    let scans = [("s1", &image, NOW)];
    let verdict = judged(&scans, &ScanPolicy::default());
    assert_eq!(
        (verdict.passed, verdict.reasons.as_slice()),
        (false, &["1 findings of severity critical; at most 0 are accepted".to_owned()][..])
    );
    let lenient = ScanPolicy { max_critical: Some(1), max_high: Some(2), ..ScanPolicy::default() };
    assert!(judged(&scans, &lenient).passed);
    let strict = ScanPolicy { max_high: Some(1), max_low: Some(0), ..ScanPolicy::default() };
    let expected = [
        "1 findings of severity critical; at most 0 are accepted",
        "2 findings of severity high; at most 1 are accepted",
        "1 findings of severity low; at most 0 are accepted",
    ];
    assert_eq!(judged(&scans, &strict).reasons, expected);
    // What the document sets aside itself counts where the policy says so.
    let all = ScanPolicy { max_medium: Some(0), max_critical: None, count_suppressed: true, ..ScanPolicy::default() };
    assert_eq!(judged(&scans, &all).reasons, ["1 findings of severity medium; at most 0 are accepted"]);
    assert!(judged(&scans, &ScanPolicy { count_suppressed: false, ..all }).passed);
}

#[test]
fn what_is_ignored_expires_and_is_named() {
    let image = Scan::parse(IMAGE).unwrap();
    let scans = [("s1", &image, NOW)];
    let with = |expires_ms| ScanPolicy { ignore: vec![ignore("CVE-2024-1234", expires_ms)], ..ScanPolicy::default() };
    let ignored = judged(&scans, &with(NOW + 1));
    assert_eq!((ignored.passed, ignored.ignored, ignored.findings.critical), (true, 1, 0));
    assert_eq!(ignored.notes[0], "CVE-2024-1234 is ignored until 2026-03-01T12:00:00Z (1 times): not reachable");
    let expired = judged(&scans, &with(NOW));
    assert_eq!((expired.passed, expired.ignored), (false, 0));
    assert_eq!(expired.notes[0], "CVE-2024-1234 is no longer ignored, since 2026-03-01T12:00:00Z; found 1 times");
    let other = ScanPolicy { ignore: vec![ignore("CVE-2024-1", NOW + 1)], ..ScanPolicy::default() };
    assert!(!judged(&scans, &other).passed);
}

#[test]
fn a_bill_without_vulnerabilities_shows_nothing() {
    let (plain, code, spdx) = (Scan::parse(PLAIN).unwrap(), Scan::parse(CODE).unwrap(), Scan::parse(SPDX).unwrap());
    let limits = ScanPolicy { max_critical: Some(9), max_unknown: Some(9), ..ScanPolicy::default() };
    assert!(judged(&[("b", &plain, NOW)], &limits).reasons[0].starts_with("no scan reports findings"));
    assert!(judged(&[("b", &plain, NOW), ("c", &code, NOW)], &limits).passed);
    assert_eq!(judged(&[], &limits).reasons, ["there is no scan"]);
    let unlimited = ScanPolicy { max_critical: None, max_unknown: None, ..ScanPolicy::default() };
    assert!(judged(&[("b", &plain, NOW)], &unlimited).passed);
    let required = ScanPolicy { require: vec![Format::Sarif, Format::Spdx], ..limits };
    let verdict = judged(&[("c", &code, NOW)], &required);
    assert_eq!(verdict.reasons, ["there is no SPDX document, which is required"]);
    assert!(judged(&[("c", &code, NOW), ("p", &spdx, NOW)], &required).passed);
}

#[test]
fn a_scan_ages_from_the_earlier_of_its_times() {
    let image = Scan::parse(IMAGE).unwrap();
    let made = image.made_at_ms.unwrap();
    let of = |scan: &Scan, received: i64, max: u64| {
        let policy = ScanPolicy { max_critical: None, max_age_seconds: Some(max), ..ScanPolicy::default() };
        judged(&[("s1", scan, received)], &policy).passed
    };
    let age = u64::try_from((NOW - made) / 1000).unwrap();
    assert!(of(&image, NOW, age));
    assert!(!of(&image, NOW, age - 1));
    // A time to come makes a document no younger than when it was received.
    let future = Scan { made_at_ms: Some(NOW + 1_000_000), ..image.clone() };
    assert!(of(&future, NOW - 10_000, 10));
    assert!(!of(&future, NOW - 10_000, 9));
    assert!(!of(&Scan { made_at_ms: None, ..image }, NOW - 10_000, 9));
}

#[test]
fn a_new_scan_answers_an_old_one_of_the_same_tool() {
    let (bad, bill) = (Scan::parse(IMAGE).unwrap(), Scan::parse(BILL).unwrap());
    let good = Scan { findings: Counts::default(), ids: vec![], ..bad.clone() };
    let policy = ScanPolicy { max_unknown: None, ..ScanPolicy::default() };
    let rescanned = judged(&[("new", &good, NOW), ("old", &bad, NOW - 1)], &policy);
    assert_eq!(
        (rescanned.passed, rescanned.considered, rescanned.superseded),
        (true, vec!["new".to_owned()], vec!["old".to_owned()])
    );
    let worse = judged(&[("old", &good, NOW - 1), ("new", &bad, NOW)], &policy);
    assert_eq!((worse.passed, worse.superseded), (false, vec!["old".to_owned()]));
    // Another tool's scan, or another format, answers nothing; findings are added up.
    let other = Scan { tools: vec![Tool { name: "Other".to_owned(), version: None }], ..good };
    let both = judged(&[("old", &bad, NOW - 1), ("other", &other, NOW), ("bill", &bill, NOW)], &policy);
    assert_eq!((both.passed, both.findings.high), (false, 4));
}

#[test]
fn an_incomplete_scan_does_not_pass() {
    let failed = Scan { incomplete: vec!["the tool says that it failed".to_owned()], ..Scan::parse(CODE).unwrap() };
    let lenient = ScanPolicy { max_critical: None, max_unknown: None, ..ScanPolicy::default() };
    let reasons = judged(&[("c", &failed, NOW)], &lenient).reasons;
    assert_eq!(reasons, ["c (SARIF, Code Scanner) is incomplete: the tool says that it failed"]);
}

#[test]
fn policies_are_read_strictly() {
    let read = |value: Value| serde_json::from_value::<ScanPolicy>(value).map_err(|e| e.to_string());
    let policy = read(json!({"max_high": 3, "max_critical": null, "require": ["sarif", "cyclonedx"],
        "ignore": [{"id": "CVE-1", "reason": "no", "expires": "2026-03-01T12:00:00Z"}]}))
    .unwrap();
    assert_eq!((policy.max_critical, policy.max_high, policy.max_unknown), (None, Some(3), Some(0)));
    assert_eq!((policy.ignore[0].expires_ms, policy.check()), (NOW, Ok(())));
    assert_eq!(read(serde_json::to_value(&policy).unwrap()), Ok(policy.clone()));
    for wrong in [
        json!({"max_hihg": 1}),
        json!({"ignore": [{"id": "CVE-1", "reason": "no"}]}),
        json!({"ignore": [{"id": "CVE-1", "reason": "no", "expires": "soon"}]}),
        json!({"require": ["pdf"]}),
    ] {
        assert!(read(wrong.clone()).is_err(), "{wrong}");
    }
    let unexplained =
        ScanPolicy { ignore: vec![Ignore { reason: " ".to_owned(), ..ignore("CVE-1", NOW) }], ..policy.clone() };
    assert_eq!(unexplained.check(), Err(InvalidPolicy::Ignore { id: "CVE-1".to_owned() }));
    let many = ScanPolicy { ignore: vec![ignore("CVE-1", NOW); 1_001], ..policy };
    assert_eq!(many.check(), Err(InvalidPolicy::TooManyIgnored));
}
