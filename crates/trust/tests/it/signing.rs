//! Every case is accepted or refused for exactly the reasons that it names.

use countersign_trust::bundle::Bundle;
use countersign_trust::report::Verdict;
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify};

use crate::cases::{Case, all};

/// 2026-03-01T12:00:00Z and a bit.
pub const NOW_MS: u64 = 1_772_366_400_123;

fn policy(case: &Case) -> Policy {
    let expected = match &case.key {
        Some(key) => Expected::Key(key.clone()),
        None => Expected::Certificate {
            identity: Pattern::Exact(case.identity.clone()),
            issuer: Pattern::Exact(case.issuer.clone()),
        },
    };
    Policy { expected, ..Policy::default() }
}

#[test]
fn every_case_is_accepted_or_refused_for_its_reasons() {
    for case in all(NOW_MS) {
        let root = TrustedRoot::parse(&case.root.to_json()).unwrap();
        assert_eq!(root, case.root, "{}", case.name);
        let bundle = case.bundle.to_json();
        assert_eq!(Bundle::parse(&bundle).unwrap(), case.bundle, "{}", case.name);
        let report = verify(&bundle, &Artifact::Bytes(&case.artifact), &root, &policy(&case));
        let failures: Vec<_> = report.failures().collect();
        assert_eq!(failures, case.refused, "{}: {:#?}", case.name, report.checks);
        let expected = if case.refused.is_empty() { Verdict::Valid } else { Verdict::Invalid };
        assert_eq!(report.verdict, expected, "{}", case.name);
    }
}
