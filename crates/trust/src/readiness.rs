//! Whether an artifact is ready to be deployed: a checklist over facts that were gathered elsewhere.
//!
//! What could not be gathered is `unknown`, which is never a pass. An item that is not required is shown and decides
//! nothing.

use serde::{Deserialize, Serialize};

use crate::review::{Standing, TeamStatus};
use crate::scans::policy::Verdict as ScanVerdict;
use crate::time::to_rfc3339;

/// Most ids that an item names as evidence.
pub const MAX_EVIDENCE: usize = 50;
/// Longest detail of an item, in characters.
const MAX_DETAIL_CHARS: usize = 1_000;

/// A fact, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gathered<T> {
    /// It was looked up.
    Known(T),
    /// It could not be: a store was away, a look-up timed out, an input is missing.
    Unknown(String),
}

/// A signature of the artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureFact {
    /// Its entry.
    pub entry_id: String,
    /// Who signed.
    pub signer: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// What verifying it anew found.
    pub outcome: Outcome,
    /// Whether its inclusion in the log was proved just now, and where it stands.
    pub logged: Option<LogPlace>,
}

/// Where an entry stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPlace {
    /// The log's origin.
    pub origin: String,
    /// The leaf's index.
    pub index: u64,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything holds.
    Valid,
    /// Something does not.
    Invalid(String),
    /// It could not be verified.
    Unknown(String),
}

/// A signed statement of how the artifact came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenanceFact {
    /// Its entry.
    pub entry_id: String,
    /// The type of its predicate.
    pub predicate_type: String,
    /// What verifying it anew found.
    pub outcome: Outcome,
}

/// An earlier artifact of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousFact {
    /// Its entry.
    pub entry_id: String,
    /// What it is called, such as `api:v1.2.0`.
    pub subject: String,
    /// What verifying its signature anew found.
    pub outcome: Outcome,
}

/// The scans of the artifact, held against the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanFact {
    /// The verdict.
    pub verdict: ScanVerdict,
}

/// Everything that is known of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its signatures.
    pub signatures: Gathered<Vec<SignatureFact>>,
    /// What its reviews come to.
    pub reviews: Gathered<Standing>,
    /// Its scans.
    pub scans: Gathered<ScanFact>,
    /// Statements of its provenance.
    pub provenance: Gathered<Vec<ProvenanceFact>>,
    /// Earlier artifacts of the same name, the newest first.
    pub previous: Gathered<Vec<PreviousFact>>,
}

/// What is asked of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Required {
    /// A valid signature.
    pub signature: bool,
    /// By one of these, if any are named.
    pub signers: Vec<String>,
    /// A proof that a valid signature is in the log.
    pub transparency_log: bool,
    /// The approvals of the teams that are required, and no rejection.
    pub reviews: bool,
    /// Scans within the policy.
    pub scans: bool,
    /// A valid statement of provenance.
    pub provenance: bool,
    /// An earlier artifact to go back to.
    pub rollback: bool,
}

impl Default for Required {
    /// Everything but a rollback, which a first release cannot have.
    fn default() -> Self {
        Self {
            signature: true,
            signers: Vec::new(),
            transparency_log: true,
            reviews: true,
            scans: true,
            provenance: true,
            rollback: false,
        }
    }
}

/// The items, in the order in which they are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemName {
    /// It is validly signed, by whom it should be.
    Signature,
    /// The signature is in the log.
    TransparencyLog,
    /// It was reviewed.
    Reviews,
    /// Its scans are within the policy.
    Scans,
    /// It is stated how it came to be.
    Provenance,
    /// There is something to go back to.
    Rollback,
}

/// How an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemStatus {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// There is nothing to look at.
    Missing,
    /// It could not be looked up.
    Unknown,
}

/// One line of the checklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Which.
    pub name: ItemName,
    /// Whether it has to pass.
    pub required: bool,
    /// How it stands.
    pub status: ItemStatus,
    /// In words.
    pub detail: String,
    /// Entries that show it; at most [`MAX_EVIDENCE`].
    pub evidence: Vec<String>,
}

/// The checklist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether every required item passed.
    pub ready: bool,
    /// All items.
    pub items: Vec<Item>,
    /// Why it is not ready. Empty if it is.
    pub reasons: Vec<String>,
}

/// Goes through the list.
pub fn assess(facts: &Facts, required: &Required) -> Readiness {
    let items = vec![
        item(ItemName::Signature, required.signature, known(&facts.signatures, |s| signature(s, &required.signers))),
        item(
            ItemName::TransparencyLog,
            required.transparency_log,
            known(&facts.signatures, |s| transparency_log(s, &required.signers)),
        ),
        item(ItemName::Reviews, required.reviews, known(&facts.reviews, reviews)),
        item(ItemName::Scans, required.scans, known(&facts.scans, scans)),
        item(ItemName::Provenance, required.provenance, known(&facts.provenance, |p| provenance(p))),
        item(ItemName::Rollback, required.rollback, known(&facts.previous, |p| rollback(p))),
    ];
    let missing = items.iter().filter(|item| item.required && item.status != ItemStatus::Passed);
    let reasons: Vec<String> = missing.map(|item| item.detail.clone()).collect();
    // A list that asks for nothing shows nothing.
    let asks = items.iter().any(|item| item.required);
    let reasons =
        if asks { reasons } else { vec!["nothing is required, so that nothing shows it to be ready".to_owned()] };
    Readiness { ready: reasons.is_empty(), items, reasons }
}

/// What an item comes to, before it is named.
struct Finding {
    status: ItemStatus,
    detail: String,
    evidence: Vec<String>,
}

impl Finding {
    fn new(status: ItemStatus, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), evidence: Vec::new() }
    }

    fn shown_by<'a>(self, ids: impl IntoIterator<Item = &'a String>) -> Self {
        Self { evidence: ids.into_iter().take(MAX_EVIDENCE).cloned().collect(), ..self }
    }
}

fn known<T>(fact: &Gathered<T>, of: impl FnOnce(&T) -> Finding) -> Finding {
    match fact {
        Gathered::Known(fact) => of(fact),
        Gathered::Unknown(why) => Finding::new(ItemStatus::Unknown, format!("could not be looked up: {why}")),
    }
}

fn item(name: ItemName, required: bool, finding: Finding) -> Item {
    let title = match name {
        ItemName::Signature => "signature",
        ItemName::TransparencyLog => "transparency log",
        ItemName::Reviews => "reviews",
        ItemName::Scans => "scans",
        ItemName::Provenance => "provenance",
        ItemName::Rollback => "rollback",
    };
    let detail = crate::text::short_line(&format!("{title}: {}", finding.detail), MAX_DETAIL_CHARS);
    Item { name, required, status: finding.status, detail, evidence: finding.evidence }
}

fn signature(signatures: &[SignatureFact], signers: &[String]) -> Finding {
    let expected = |s: &&SignatureFact| signers.is_empty() || signers.contains(&s.signer);
    let valid: Vec<_> = signatures.iter().filter(|s| s.outcome == Outcome::Valid).collect();
    if let Some(newest) = valid.iter().copied().filter(expected).max_by_key(|s| s.at_ms) {
        let seconds = u64::try_from(newest.at_ms / 1000).unwrap_or_default();
        let mut detail = format!("signed by {} at {}", newest.signer, to_rfc3339(seconds));
        let others = signatures.len() - valid.len();
        if others > 0 {
            detail.push_str(&format!("; {others} other signatures are not valid or could not be verified"));
        }
        return Finding::new(ItemStatus::Passed, detail)
            .shown_by(valid.iter().copied().filter(expected).map(|s| &s.entry_id));
    }
    let finding = match first_problem(signatures.iter().map(|s| &s.outcome)) {
        None if signatures.is_empty() => Finding::new(ItemStatus::Missing, "it is not signed"),
        None => Finding::new(ItemStatus::Failed, "it is signed by others than were expected"),
        Some((status, problem)) => Finding::new(status, format!("none is valid by whom it should be: {problem}")),
    };
    finding.shown_by(signatures.iter().map(|s| &s.entry_id))
}

/// The worst that verifying found: one that could not be verified might be the one that is needed, so it is unknown
/// before it failed.
fn first_problem<'a>(outcomes: impl Iterator<Item = &'a Outcome> + Clone) -> Option<(ItemStatus, &'a str)> {
    let unknown = outcomes.clone().find_map(|outcome| match outcome {
        Outcome::Unknown(why) => Some((ItemStatus::Unknown, why.as_str())),
        Outcome::Valid | Outcome::Invalid(_) => None,
    });
    unknown.or_else(|| {
        outcomes.into_iter().find_map(|outcome| match outcome {
            Outcome::Invalid(why) => Some((ItemStatus::Failed, why.as_str())),
            Outcome::Valid | Outcome::Unknown(_) => None,
        })
    })
}

fn transparency_log(signatures: &[SignatureFact], signers: &[String]) -> Finding {
    let expected = signatures.iter().filter(|s| signers.is_empty() || signers.contains(&s.signer));
    let valid = expected.clone().filter(|s| s.outcome == Outcome::Valid);
    let logged = valid.clone().filter_map(|s| s.logged.as_ref().map(|place| (place, &s.entry_id)));
    if let Some((place, _)) = logged.clone().next() {
        let detail = format!("entry {} of {}", place.index, place.origin);
        return Finding::new(ItemStatus::Passed, detail).shown_by(logged.map(|(_, id)| id));
    }
    if valid.clone().next().is_some() {
        return Finding::new(ItemStatus::Failed, "no valid signature was proved to be in it")
            .shown_by(valid.map(|s| &s.entry_id));
    }
    let status = match first_problem(expected.map(|s| &s.outcome)) {
        Some((ItemStatus::Unknown, _)) => ItemStatus::Unknown,
        Some(_) | None => ItemStatus::Missing,
    };
    Finding::new(status, "there is no valid signature that could be in it")
}

fn reviews(standing: &Standing) -> Finding {
    let evidence = standing.teams.iter().flat_map(|team| &team.evidence);
    let said = |wanted: TeamStatus| {
        let teams = standing.teams.iter().filter(move |team| team.status == wanted);
        teams.map(|team| team.detail.as_str()).collect::<Vec<_>>().join("; ")
    };
    let has_required = standing.teams.iter().any(|team| team.required);
    let objections = standing.teams.iter().any(|team| {
        matches!(team.status, TeamStatus::Rejected | TeamStatus::NeedsChanges)
            && (team.required || team.status == TeamStatus::Rejected)
    });
    let finding = if objections {
        Finding::new(ItemStatus::Failed, standing.reasons.join("; "))
    } else if !standing.approved {
        Finding::new(ItemStatus::Missing, standing.reasons.join("; "))
    } else if !has_required && said(TeamStatus::Approved).is_empty() {
        Finding::new(ItemStatus::Missing, "nobody has reviewed it, and no team is required to")
    } else {
        Finding::new(ItemStatus::Passed, said(TeamStatus::Approved))
    };
    finding.shown_by(evidence)
}

fn scans(fact: &ScanFact) -> Finding {
    let verdict = &fact.verdict;
    let findings = &verdict.findings;
    let counts = format!("{} critical, {} high, {} medium", findings.critical, findings.high, findings.medium);
    let finding = if verdict.considered.is_empty() {
        Finding::new(ItemStatus::Missing, verdict.reasons.join("; "))
    } else if verdict.passed {
        let ignored = if verdict.ignored > 0 { format!(", {} ignored", verdict.ignored) } else { String::new() };
        Finding::new(ItemStatus::Passed, format!("{counts}{ignored}"))
    } else {
        Finding::new(ItemStatus::Failed, format!("{counts}: {}", verdict.reasons.join("; ")))
    };
    finding.shown_by(&verdict.considered)
}

fn provenance(statements: &[ProvenanceFact]) -> Finding {
    let valid = statements.iter().filter(|s| s.outcome == Outcome::Valid);
    if let Some(first) = valid.clone().next() {
        return Finding::new(ItemStatus::Passed, format!("stated as {}", first.predicate_type))
            .shown_by(valid.map(|s| &s.entry_id));
    }
    let finding = match first_problem(statements.iter().map(|s| &s.outcome)) {
        None => Finding::new(ItemStatus::Missing, "no statement says how it came to be"),
        Some((status, problem)) => Finding::new(status, format!("no statement is valid: {problem}")),
    };
    finding.shown_by(statements.iter().map(|s| &s.entry_id))
}

fn rollback(previous: &[PreviousFact]) -> Finding {
    if let Some(valid) = previous.iter().find(|p| p.outcome == Outcome::Valid) {
        return Finding::new(ItemStatus::Passed, format!("{} is validly signed", valid.subject))
            .shown_by([&valid.entry_id]);
    }
    let finding = match first_problem(previous.iter().map(|p| &p.outcome)) {
        None => Finding::new(ItemStatus::Missing, "there is no earlier artifact of this name"),
        Some((status, problem)) => Finding::new(status, format!("no earlier artifact is validly signed: {problem}")),
    };
    finding.shown_by(previous.iter().map(|p| &p.entry_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::review::{LiftedBy, Requirements, Review, standing};
    use crate::scans::Counts;
    use countersign_proof::digest::Digest;

    fn signed(entry_id: &str, signer: &str, outcome: Outcome, logged: bool) -> SignatureFact {
        let logged = logged.then(|| LogPlace { origin: "log.example.com".to_owned(), index: 7 });
        SignatureFact {
            entry_id: entry_id.to_owned(),
            signer: signer.to_owned(),
            at_ms: 1_772_366_400_000,
            outcome,
            logged,
        }
    }

    fn reviewed(decision: &str) -> Standing {
        let artifact = Digest::of(b"artifact");
        let review = serde_json::json!({"id": "r1", "artifact": artifact, "by": "sarah", "team": "security",
            "decision": decision, "comment": "looked", "at_ms": 1});
        let reviews: Vec<Review> = vec![serde_json::from_value(review).unwrap()];
        let required = Requirements { teams: vec!["security".to_owned()], lifted_by: LiftedBy::Team };
        standing(&artifact, &reviews, &required, &["marcus"])
    }

    fn scanned(passed: bool, considered: &[&str]) -> ScanFact {
        let verdict = ScanVerdict {
            passed,
            reasons: if passed {
                vec![]
            } else {
                vec!["2 findings of severity critical; at most 0 are accepted".to_owned()]
            },
            notes: vec![],
            findings: Counts { critical: if passed { 0 } else { 2 }, ..Counts::default() },
            ignored: 0,
            considered: considered.iter().map(|id| (*id).to_owned()).collect(),
            superseded: vec![],
        };
        ScanFact { verdict }
    }

    fn good() -> Facts {
        let provenance = ProvenanceFact {
            entry_id: "p1".into(),
            predicate_type: "https://slsa.dev/provenance/v1".into(),
            outcome: Outcome::Valid,
        };
        let previous = PreviousFact { entry_id: "e0".into(), subject: "api:v1.2.0".into(), outcome: Outcome::Valid };
        Facts {
            signatures: Gathered::Known(vec![signed("e1", "marcus", Outcome::Valid, true)]),
            reviews: Gathered::Known(reviewed("approved")),
            scans: Gathered::Known(scanned(true, &["s1"])),
            provenance: Gathered::Known(vec![provenance]),
            previous: Gathered::Known(vec![previous]),
        }
    }

    #[test]
    fn a_good_artifact_is_ready_and_says_why() {
        let readiness = assess(&good(), &Required { rollback: true, ..Required::default() });
        assert!(readiness.ready, "{:?}", readiness.reasons);
        let lines: Vec<_> = readiness.items.iter().map(|i| (i.detail.as_str(), i.evidence.join(","))).collect();
        let expected = [
            ("signature: signed by marcus at 2026-03-01T12:00:00Z", "e1"),
            ("transparency log: entry 7 of log.example.com", "e1"),
            ("reviews: security approved it (sarah)", "r1"),
            ("scans: 0 critical, 0 high, 0 medium", "s1"),
            ("provenance: stated as https://slsa.dev/provenance/v1", "p1"),
            ("rollback: api:v1.2.0 is validly signed", "e0"),
        ];
        assert_eq!(lines, expected.map(|(detail, evidence)| (detail, evidence.to_owned())));
    }

    /// Each case changes one fact of a good artifact: that item has the status, and the artifact is not ready.
    #[test]
    fn each_item_can_fail_be_missing_and_be_unknown() {
        use ItemName::{Provenance, Reviews, Rollback, Scans, Signature, TransparencyLog};
        use ItemStatus::{Failed, Missing, Unknown};
        let away = || "the store is away".to_owned();
        let invalid = || Outcome::Invalid("signature_wrong".to_owned());
        let unknown = || Outcome::Unknown("no trusted root".to_owned());
        type Change = Box<dyn Fn(&mut Facts)>;
        let cases: Vec<(ItemName, ItemStatus, Change)> = vec![
            (Signature, Unknown, Box::new(move |f| f.signatures = Gathered::Unknown(away()))),
            (Signature, Missing, Box::new(|f| f.signatures = Gathered::Known(vec![]))),
            (
                Signature,
                Failed,
                Box::new(move |f| f.signatures = Gathered::Known(vec![signed("e", "m", invalid(), true)])),
            ),
            (
                Signature,
                Unknown,
                Box::new(move |f| f.signatures = Gathered::Known(vec![signed("e", "m", unknown(), true)])),
            ),
            (
                TransparencyLog,
                Failed,
                Box::new(|f| f.signatures = Gathered::Known(vec![signed("e", "marcus", Outcome::Valid, false)])),
            ),
            (TransparencyLog, Missing, Box::new(|f| f.signatures = Gathered::Known(vec![]))),
            (Reviews, Unknown, Box::new(move |f| f.reviews = Gathered::Unknown(away()))),
            (Reviews, Failed, Box::new(|f| f.reviews = Gathered::Known(reviewed("rejected")))),
            (Reviews, Failed, Box::new(|f| f.reviews = Gathered::Known(reviewed("needs_changes")))),
            (Scans, Unknown, Box::new(move |f| f.scans = Gathered::Unknown(away()))),
            (Scans, Missing, Box::new(|f| f.scans = Gathered::Known(scanned(false, &[])))),
            (Scans, Failed, Box::new(|f| f.scans = Gathered::Known(scanned(false, &["s1"])))),
            (Provenance, Unknown, Box::new(move |f| f.provenance = Gathered::Unknown(away()))),
            (Provenance, Missing, Box::new(|f| f.provenance = Gathered::Known(vec![]))),
            (Rollback, Unknown, Box::new(move |f| f.previous = Gathered::Unknown(away()))),
            (Rollback, Missing, Box::new(|f| f.previous = Gathered::Known(vec![]))),
        ];
        let required = Required { rollback: true, ..Required::default() };
        for (name, status, change) in cases {
            let mut facts = good();
            change(&mut facts);
            let readiness = assess(&facts, &required);
            let item = readiness.items.iter().find(|item| item.name == name).unwrap();
            assert_eq!((item.status, readiness.ready), (status, false), "{item:?}");
            assert!(readiness.reasons.contains(&item.detail));
        }
    }

    #[test]
    fn what_is_not_required_decides_nothing_and_nothing_required_is_not_ready() {
        let facts = Facts { previous: Gathered::Known(vec![]), ..good() };
        assert!(assess(&facts, &Required::default()).ready);
        let nothing = Required {
            signature: false,
            transparency_log: false,
            reviews: false,
            scans: false,
            provenance: false,
            ..Required::default()
        };
        assert!(!assess(&good(), &nothing).ready);
        let by_others = Required { signers: vec!["release-ci".to_owned()], ..Required::default() };
        let expected = [
            "signature: it is signed by others than were expected",
            "transparency log: there is no valid signature that could be in it",
        ];
        assert_eq!(assess(&good(), &by_others).reasons, expected);
    }

    #[test]
    fn text_from_outside_is_made_visible() {
        let facts =
            Facts { signatures: Gathered::Known(vec![signed("e1", "mar\u{202e}cus", Outcome::Valid, true)]), ..good() };
        assert!(assess(&facts, &Required::default()).items[0].detail.contains("mar⟨U+202E⟩cus"));
    }
}
