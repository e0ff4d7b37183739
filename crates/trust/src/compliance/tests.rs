//! Figures, gaps and the document.

use super::*;

fn facts() -> Facts {
    let of_type = |name: &str, artifacts, signed, verified, failed| TypeFacts {
        artifact_type: name.to_owned(),
        artifacts,
        signed,
        verified,
        failed,
    };
    Facts {
        workspace: "north-clinic".to_owned(),
        from_ms: 1_772_323_200_000,
        to_ms: 1_780_272_000_000,
        generated_at_ms: 1_780_300_000_000,
        types: vec![of_type("sbom", 2, 2, 2, 0), of_type("container_image", 8, 7, 6, 1)],
        verifications: Verifications { total: 9, valid: 8, failed: 1 },
        reviews: Reviews { approved: 5, rejected: 1, needs_changes: 0, artifacts: 5 },
        scans: Scans {
            documents: 4,
            artifacts: 3,
            passed: 3,
            failed: 0,
            findings: Counts { high: 2, ..Counts::default() },
        },
        exceptions: vec![Exception {
            kind: "failed_verification".to_owned(),
            subject: "api:v1|<b>".to_owned(),
            detail: "signature_wrong".to_owned(),
            at_ms: 1_772_323_260_000,
            evidence: Some("event-9".to_owned()),
        }],
        evidence: vec![evidence("e2", 12), evidence("e1", 3), evidence("e1", 3)],
        gaps: Vec::new(),
    }
}

fn evidence(id: &str, index: u64) -> Evidence {
    Evidence {
        id: id.to_owned(),
        kind: "signature".to_owned(),
        subject: "api:v1".to_owned(),
        log: "log.example.com".to_owned(),
        index,
        at_ms: 1_772_323_200_000,
    }
}

#[test]
fn figures_are_counted_and_never_rounded_up() {
    let report = report(&facts()).unwrap();
    assert_eq!((report.status, &report.incomplete_because), (Status::Complete, &vec![]));
    assert_eq!(report.totals.signed_coverage, Coverage { part: 9, whole: 10, basis_points: Some(9000) });
    assert_eq!(report.totals.verified_coverage.percent(), "80.00 %");
    let names: Vec<_> = report.types.iter().map(|t| t.counts.artifact_type.as_str()).collect();
    assert_eq!(names, ["container_image", "sbom"]);
    let expected = [
        "1 of 10 artifacts are not signed",
        "1 of 9 signed artifacts have no signature that was verified as valid",
        "1 artifacts have a signature that is not valid",
        "1 verifications failed",
        "1 reviews reject an artifact",
        "5 of 10 artifacts have no review",
        "7 of 10 artifacts have no scan that reports findings",
        "1 exceptions are listed",
    ];
    assert_eq!(report.findings, expected);
    assert_eq!(report.evidence.iter().map(|e| e.index).collect::<Vec<_>>(), [3, 12]);
    for (part, whole, percent) in [
        (99_999, 100_000, "99.99 %"),
        (u64::MAX - 1, u64::MAX, "99.99 %"),
        (7, 7, "100.00 %"),
        (1, 30_000, "0.00 %"),
        (0, 0, "none to cover"),
    ] {
        assert_eq!(Coverage::of(part, whole).percent(), percent);
    }
}

#[test]
fn gaps_make_it_incomplete_and_findings_do_not() {
    let check = |change: &dyn Fn(&mut Facts), expected: &str| {
        let mut facts = facts();
        change(&mut facts);
        let report = report(&facts).unwrap();
        assert_eq!((report.status, report.incomplete_because), (Status::Incomplete, vec![expected.to_owned()]));
    };
    check(&|f| f.gaps.push("rows before March are archived".to_owned()), "rows before March are archived");
    check(&|f| f.generated_at_ms = f.to_ms - 1, "the period was not over when the report was made");
    check(&|f| f.verifications.total = 11, "2 of 11 verifications came to no result");
    let many = |f: &mut Facts| f.evidence = (0..10_001).map(|i| evidence("e", i)).collect();
    check(&many, "1 rows of evidence beyond 10000 are left out");
    let nothing = Facts { from_ms: 0, to_ms: 1, generated_at_ms: 2, ..Facts::default() };
    let report = report(&nothing).unwrap();
    assert_eq!(report.status, Status::Complete);
    assert_eq!(report.totals.signed_coverage.basis_points, None);
    assert_eq!(report.findings.len(), 1);
}

#[test]
fn figures_that_cannot_be_are_refused() {
    let check = |change: &dyn Fn(&mut Facts), expected: &str| {
        let mut facts = facts();
        change(&mut facts);
        assert_eq!(report(&facts).unwrap_err().to_string(), expected);
    };
    check(&|f| f.types[0].signed = 3, "signed sbom: 3 of 2");
    check(&|f| f.types[0].verified = 3, "verified sbom: 3 of 2");
    check(&|f| f.verifications.valid = 9, "verifications: 10 of 9");
    check(&|f| f.reviews.artifacts = 11, "reviewed artifacts: 11 of 10");
    check(&|f| f.scans.artifacts = 11, "scanned artifacts: 11 of 10");
    check(&|f| f.to_ms = f.from_ms, "the period ends before it begins");
}

#[test]
fn the_document_is_neat() {
    let mut facts = facts();
    facts.gaps.push("the log of 2025 is *closed*".to_owned());
    let document = markdown(&report(&facts).unwrap());
    for expected in [
        "# Artifact trust report: north-clinic\n",
        "Period: 2026-03-01T00:00:00Z to 2026-06-01T00:00:00Z (excluded)  \n",
        "Status: **incomplete**\n",
        "- the log of 2025 is \\*closed\\*\n",
        "| signed artifacts | 9 / 10 | 90.00 % |\n",
        "| container\\_image | 8 | 7 | 6 | 1 | 87.50 % | 75.00 % |\n",
        "| all | 10 | 9 | 8 | 1 | 90.00 % | 80.00 % |\n",
        "| scan findings: high | 2 |\n",
        "| 2026-03-01T00:01:00Z | failed\\_verification | api:v1&#124;&lt;b&gt; | signature\\_wrong | event-9 |\n",
        "| e1 | signature | api:v1 | log.example.com | 3 | 2026-03-01T00:00:00Z |\n",
        "## What this report does not cover\n",
        "- Whether the demands of any framework or law are met.\n",
    ] {
        assert!(document.contains(expected), "{expected}\n{document}");
    }
    // Every row of a table has as many cells as the table's head.
    let mut columns = None;
    for line in document.lines() {
        let cells = line.starts_with('|').then(|| line.matches('|').count());
        if let (Some(head), Some(row)) = (columns, cells) {
            assert_eq!(row, head, "{line}");
        }
        columns = cells.and(columns.or(cells));
    }
    // Headings are set off, and nothing is compliant.
    assert!(!document.to_lowercase().contains("compliant"));
    assert!(!document.contains("\n\n\n"), "{document}");
}
