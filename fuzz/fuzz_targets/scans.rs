//! Reports of scanners: what is read can be kept and read again, its figures agree, and limits of nothing let no
//! finding pass.
#![no_main]

use countersign_trust::scans::policy::{ScanPolicy, Submitted, evaluate};
use countersign_trust::scans::{Counts, MAX_IDS, MAX_SUBJECTS, MAX_TOOLS, Scan, Severity};
use libfuzzer_sys::fuzz_target;

const NOW: i64 = 1_772_366_400_000;

fuzz_target!(|data: &[u8]| {
    let Ok(scan) = Scan::parse(data) else { return };
    let kept = serde_json::to_vec(&scan).expect("JSON");
    assert_eq!(serde_json::from_slice::<Scan>(&kept).expect("what was written"), scan);
    assert!(scan.ids.len() <= MAX_IDS && scan.subjects.len() <= MAX_SUBJECTS && scan.tools.len() <= MAX_TOOLS);
    if scan.ids_left_out == 0 {
        let mut counted = Counts::default();
        scan.ids.iter().for_each(|finding| counted.add(finding.severity, finding.count));
        assert_eq!(counted, scan.findings);
    }
    assert!(scan.ids.windows(2).all(|pair| pair[0].severity >= pair[1].severity), "the worst first");

    let strict = ScanPolicy {
        max_high: Some(0),
        max_medium: Some(0),
        max_low: Some(0),
        count_suppressed: true,
        ..ScanPolicy::default()
    };
    let submitted = Submitted { id: "fuzz", scan: &scan, received_at_ms: NOW };
    let verdict = evaluate(&[submitted], &strict, NOW);
    assert_eq!(verdict.passed, verdict.reasons.is_empty());
    if verdict.passed {
        assert!(scan.assessed && scan.incomplete.is_empty());
        let all = scan.findings.total() + scan.suppressed.total();
        assert_eq!(all, scan.findings.of(Severity::None) + scan.suppressed.of(Severity::None));
    }
});
