//! `add_scan`, `check_scans`, `record_review`, `deployment_readiness`, `detect_anomalies`, `compliance_report`: what a workspace knows of its
//! artifacts, gathered from its own rows and held against rules. The rules themselves are pure, in `countersign_trust`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use countersign_domain::{Millis, Principal};
use countersign_ledger::Append;
use countersign_ledger::state::StateOp;
use countersign_ledger::trust::{TrustKind, TrustQuery, TrustRow};
use countersign_proof::digest::Digest;
use countersign_trust::anomalies::{self, Settings, Window};
use countersign_trust::compliance::{self, Evidence, Exception, TypeFacts};
use countersign_trust::readiness::{
    Facts, Gathered, LogPlace, Outcome, PreviousFact, ProvenanceFact, ScanFact, SignatureFact, assess,
};
use countersign_trust::report::Report;
use countersign_trust::review::{Decision, Requirements, Review, Standing, standing};
use countersign_trust::root::TrustedRoot;
use countersign_trust::scans::Scan;
use countersign_trust::scans::policy::{ScanPolicy, Submitted, Verdict, evaluate};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::documents::{SIGNED_AS, key_of};
use super::sign::{Kept as Signed, Scanned, Whole, within_bounds};
use super::{Trust, tools};
use crate::capability::{Failure, clipped, moment};
use crate::time::rfc3339;

/// Rows that one question looks at in a page, and in all.
const PAGE: u32 = 1000;
const MAX_ROWS: usize = 200_000;
/// Rows about one artifact.
const MAX_ABOUT: u32 = 500;
/// Ids that are kept of a scan.
const KEPT_IDS: usize = 100;
/// The most evidence that an answer lists; the counts go on.
const MAX_EVIDENCE: usize = 1000;
const DAY: Millis = 24 * 3600 * 1000;

/// What is known of one artifact.
struct Known {
    artifact: Digest,
    signatures: Vec<TrustRow>,
    scans: Vec<(TrustRow, Scan)>,
    reviews: Vec<Kept>,
}

/// A review as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    review: Review,
    /// The reviewer's mark, which is compared with those of signers.
    person: String,
}

impl Known {
    /// Reviewers who signed the artifact themselves, or had it signed by an agent of theirs.
    fn authors(&self) -> Vec<&str> {
        let marks: BTreeSet<String> = self.signatures.iter().flat_map(marks_of).collect();
        self.reviews.iter().filter(|kept| marks.contains(&kept.person)).map(|kept| kept.review.by.as_str()).collect()
    }

    /// What reviews come to. Who signed it does not review it.
    fn stood(&self, required: &Requirements) -> Standing {
        let reviews: Vec<Review> = self.reviews.iter().map(|kept| kept.review.clone()).collect();
        standing(&self.artifact, &reviews, required, &self.authors())
    }
}

impl Trust {
    /// Signs a scanner's document like any artifact, with what it says beside it.
    pub(super) async fn add_scan(&self, principal: &Principal, wanted: tools::AddScan) -> Result<Value, Failure> {
        let about = tools::digest(&wanted.artifact)?;
        // Byte for byte as it came: whoever has the scanner's file can hold it against what is signed.
        let document = wanted.document.get().as_bytes().to_vec();
        let (scan, document) = self.computing.run(move || (Scan::parse(&document), document)).await?;
        let mut scan = scan.map_err(|e| Failure::Input(format!("document: {e}")))?;
        if !scan.subjects.is_empty() && !scan.subjects.contains(&about) {
            return Err(Failure::Input("the document says that it is about another artifact".to_owned()));
        }
        scan.ids_left_out += scan.ids.len().saturating_sub(KEPT_IDS) as u64;
        scan.ids.truncate(KEPT_IDS);
        let mut metadata = Map::new();
        metadata.insert("scan_id".into(), json!(about.to_string()));
        within_bounds(&metadata, Some(&scan))?;
        let digest = Digest::of(&document);
        // Before its row, so that what is listed is there.
        let object = self.objects.put(&key_of(&principal.workspace, &digest), &document, false).await?;
        let sign = tools::Sign {
            artifact: Some(digest.to_string()),
            image: None,
            artifact_type: SIGNED_AS[usize::from(!scan.assessed)].to_owned(),
            subject: wanted.subject,
            metadata: Some(metadata),
            statement: None,
        };
        let signed = self.signed(principal, sign, Some(Scanned { scan, object })).await?;
        Ok(json!({
            "entry_id": signed["entry_id"], "artifact": about.to_string(), "document": signed["artifact"],
            "signer": signed["signer"], "scan": signed["scan"], "bundle": signed["bundle"],
        }))
    }

    pub(super) async fn check_scans(&self, principal: &Principal, wanted: tools::CheckScans) -> Result<Value, Failure> {
        let policy = wanted.policy.unwrap_or_default();
        policy.check().map_err(|e| Failure::Input(format!("policy: {e}")))?;
        let known = self.known(principal, &wanted.artifact).await?;
        let verdict = self.scanned(&known, &policy);
        let scans: Vec<Value> = known
            .scans
            .iter()
            .map(|(row, scan)| {
                json!({ "entry_id": row.id.to_string(), "document": row.artifact, "received_at": rfc3339(row.at), "signer": row.signer, "scan": scan })
            })
            .collect();
        Ok(
            json!({ "artifact": known.artifact.to_string(), "passed": verdict.passed, "verdict": verdict, "scans": scans }),
        )
    }

    fn scanned(&self, known: &Known, policy: &ScanPolicy) -> Verdict {
        let ids: Vec<String> = known.scans.iter().map(|(row, _)| row.id.to_string()).collect();
        let submitted: Vec<Submitted<'_>> = known
            .scans
            .iter()
            .zip(&ids)
            .map(|((row, scan), id)| Submitted { id, scan, received_at_ms: signed_ms(row.at) })
            .collect();
        evaluate(&submitted, policy, signed_ms((self.clock)()))
    }

    /// A person's decision, for a team whose role the person has.
    pub(super) async fn record_review(
        &self,
        principal: &Principal,
        wanted: tools::RecordReview,
    ) -> Result<Value, Failure> {
        let artifact = self.named(principal, &wanted.artifact).await?;
        let Some(person) = principal.person_key() else {
            return Err(Failure::Input(
                "a review is a person's: use a person's token, or one that names the person behind the agent"
                    .to_owned(),
            ));
        };
        if !principal.roles.contains(wanted.team.as_str()) {
            return Err(Failure::Input(format!(
                "this needs the role {:?}, whose members review for that team",
                clipped(&wanted.team)
            )));
        }
        let (id, now) = (Uuid::now_v7(), (self.clock)());
        let name = principal.on_behalf_of.as_ref().unwrap_or(&principal.id);
        let by = format!("{name} ({})", principal.issuer);
        let review = Review {
            id: id.to_string(),
            artifact,
            by,
            team: wanted.team,
            decision: wanted.decision,
            comment: wanted.comment.unwrap_or_default(),
            at_ms: signed_ms(now),
        };
        review.check().map_err(|e| Failure::Input(e.to_string()))?;
        let kept = Kept { review, person: self.mark(principal, &person).await? };
        let review = &kept.review;
        let row = TrustRow {
            id,
            workspace: principal.workspace.clone(),
            kind: TrustKind::Review,
            at: now,
            artifact: artifact.to_string(),
            artifact_type: review.team.clone(),
            subject: None,
            chain: None,
            signer: review.by.clone(),
            valid: Some(review.decision == Decision::Approved),
            body: serde_json::to_string(&kept).map_err(|e| Failure::Undone(e.to_string()))?,
        };
        let ops = vec![StateOp::TrustRecord { row: Box::new(row) }];
        self.ledger.append(Append { ops, ..Append::default() }).await?;
        let known = self.known(principal, &artifact.to_string()).await.map_err(Failure::after_the_fact)?;
        let asked = Requirements { teams: vec![review.team.clone()], ..Requirements::default() };
        let standing = known.stood(&asked);
        Ok(json!({
            "review_id": id.to_string(), "artifact": artifact.to_string(), "team": review.team, "decision": review.decision,
            "by": review.by, "recorded_at": rfc3339(now), "standing": standing,
        }))
    }

    pub(super) async fn readiness(&self, principal: &Principal, wanted: tools::Readiness) -> Result<Value, Failure> {
        let (policy, required) = (wanted.policy.unwrap_or_default(), wanted.required.unwrap_or_default());
        policy.check().map_err(|e| Failure::Input(format!("policy: {e}")))?;
        let known = self.known(principal, &wanted.artifact).await?;
        let root = self.own_root().await?;
        let (mut signatures, mut provenance) = (Vec::new(), Vec::new());
        for row in &known.signatures {
            let (report, whole) = self.verified_again(row, &root).await?;
            let logged = place_of(&whole);
            let outcome = outcome_of(&report);
            if let Some(predicate_type) = report.predicate_type.clone() {
                provenance.push(ProvenanceFact { entry_id: row.id.to_string(), predicate_type, outcome });
            } else {
                let fact = SignatureFact {
                    entry_id: row.id.to_string(),
                    signer: row.signer.clone(),
                    at_ms: signed_ms(row.at),
                    outcome,
                    logged: Some(logged),
                };
                signatures.push(fact);
            }
        }
        let requirements = Requirements { teams: wanted.teams.unwrap_or_default(), ..Requirements::default() };
        let facts = Facts {
            signatures: Gathered::Known(signatures),
            reviews: Gathered::Known(known.stood(&requirements)),
            scans: Gathered::Known(ScanFact { verdict: self.scanned(&known, &policy) }),
            provenance: Gathered::Known(provenance),
            previous: Gathered::Known(self.previous(principal, &known, &root).await?),
        };
        let readiness = assess(&facts, &required);
        Ok(json!({
            "artifact": known.artifact.to_string(),
            "subject": known.signatures.iter().find_map(|row| row.subject.clone()),
            "ready": readiness.ready,
            "checklist": readiness.items,
            "reasons": readiness.reasons,
            "checked_at": rfc3339((self.clock)()),
        }))
    }

    /// Earlier artifacts of the same name: what is before the last colon.
    async fn previous(
        &self,
        principal: &Principal,
        known: &Known,
        root: &Arc<TrustedRoot>,
    ) -> Result<Vec<PreviousFact>, Failure> {
        let Some(own) = known.signatures.iter().find(|row| row.subject.is_some() && !is_statement(row)) else {
            return Ok(Vec::new());
        };
        let name = own.subject.as_deref().and_then(|subject| subject.rsplit_once(':')).map(|(name, _)| name.to_owned());
        let Some(name) = name else { return Ok(Vec::new()) };
        let query = TrustQuery {
            kind: Some(TrustKind::Signature),
            artifact_type: Some(own.artifact_type.clone()),
            before: Some(own.id),
            limit: MAX_ABOUT,
            ..TrustQuery::of(principal.workspace.clone())
        };
        let page = self.read(move |r| r.trust_rows(&query)).await?;
        let is_earlier = |row: &&TrustRow| {
            let subject = row.subject.as_deref().and_then(|subject| subject.rsplit_once(':'));
            row.artifact != own.artifact && subject.is_some_and(|(known, _)| known == name)
        };
        let mut found = Vec::new();
        for row in page.rows.iter().filter(is_earlier).take(5) {
            let (report, _) = self.verified_again(row, root).await?;
            let subject = row.subject.clone().unwrap_or_default();
            found.push(PreviousFact { entry_id: row.id.to_string(), subject, outcome: outcome_of(&report) });
        }
        Ok(found)
    }

    pub(super) async fn anomalies(&self, principal: &Principal, wanted: tools::Anomalies) -> Result<Value, Failure> {
        let now = (self.clock)();
        let to = wanted.until.as_deref().map_or(Ok(now), |text| moment(text, "until", true))?;
        let from = wanted.since.as_deref().map_or(Ok(to.saturating_sub(DAY)), |text| moment(text, "since", false))?;
        let window = Window { from_ms: signed_ms(from), to_ms: signed_ms(to) };
        let settings: Settings = wanted.settings.unwrap_or_default();
        let begin = u64::try_from(window.baseline().from_ms).unwrap_or(0);
        let (rows, more) = self.rows(principal, begin, to).await?;
        if more {
            return Err(Failure::Input(format!("there are more than {MAX_ROWS} rows; ask for a shorter window")));
        }
        let rows: Vec<anomalies::Row> = rows.iter().filter_map(anomaly_row).collect();
        let found = self.computing.run(move || anomalies::detect(&rows, window, &settings)).await?;
        let found = found.map_err(|e| Failure::Input(e.to_string()))?;
        serde_json::to_value(found).map_err(|e| Failure::Undone(e.to_string()))
    }

    pub(super) async fn compliance_report(
        &self,
        principal: &Principal,
        wanted: tools::Compliance,
    ) -> Result<Value, Failure> {
        let now = (self.clock)();
        let to = wanted.until.as_deref().map_or(Ok(now), |text| moment(text, "until", true))?;
        let from =
            wanted.since.as_deref().map_or(Ok(to.saturating_sub(90 * DAY)), |text| moment(text, "since", false))?;
        let (rows, more) = self.rows(principal, from, to).await?;
        let root = self.own_root().await?;
        let mut facts = compliance::Facts {
            workspace: principal.workspace.to_string(),
            from_ms: signed_ms(from),
            to_ms: signed_ms(to),
            generated_at_ms: signed_ms(now),
            ..compliance::Facts::default()
        };
        if more {
            facts.gaps.push(format!("there are more than {MAX_ROWS} rows in the period; the oldest are not counted"));
        }
        self.count_signatures(&rows, &root, &mut facts).await?;
        count_verifications(&rows, &mut facts);
        count_reviews(&rows, &mut facts);
        self.count_scans(&rows, &mut facts);
        let report = compliance::report(&facts).map_err(|e| Failure::Undone(e.to_string()))?;
        let markdown = compliance::markdown(&report);
        Ok(json!({ "report": report, "markdown": markdown }))
    }

    async fn count_signatures(
        &self,
        rows: &[TrustRow],
        root: &Arc<TrustedRoot>,
        facts: &mut compliance::Facts,
    ) -> Result<(), Failure> {
        let mut types: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.kind == TrustKind::Signature) {
            let (report, whole) = self.verified_again(row, root).await?;
            let place = place_of(&whole);
            let valid = report.is_valid();
            let is_scan = kept_scan(row).is_some();
            // What a scanner wrote is about an artifact, and none that somebody would review.
            if !is_scan {
                let of_type = types.entry(row.artifact_type.clone()).or_default();
                *of_type.entry(row.artifact.clone()).or_default() |= valid;
            }
            let subject = row.subject.clone().unwrap_or_else(|| row.artifact.clone());
            if !valid {
                let codes: Vec<&str> = report.failures().map(|code| code.name()).collect();
                facts.exceptions.push(exception("invalid_signature", &subject, &codes.join(", "), row));
            }
            if facts.evidence.len() < MAX_EVIDENCE {
                facts.evidence.push(Evidence {
                    id: row.id.to_string(),
                    kind: if is_scan { "scan" } else { "signature" }.to_owned(),
                    subject,
                    log: place.origin,
                    index: place.index,
                    at_ms: signed_ms(row.at),
                });
            }
        }
        let signatures = rows.iter().filter(|row| row.kind == TrustKind::Signature).count();
        if signatures > MAX_EVIDENCE {
            facts
                .gaps
                .push(format!("of {signatures} entries {MAX_EVIDENCE} are listed as evidence; all were verified"));
        }
        facts.types = types
            .into_iter()
            .map(|(artifact_type, artifacts)| {
                let (all, verified) =
                    (artifacts.len() as u64, artifacts.values().filter(|valid| **valid).count() as u64);
                TypeFacts { artifact_type, artifacts: all, signed: all, verified, failed: all - verified }
            })
            .collect();
        Ok(())
    }

    fn count_scans(&self, rows: &[TrustRow], facts: &mut compliance::Facts) {
        let mut of: BTreeMap<String, Vec<(&TrustRow, Scan)>> = BTreeMap::new();
        for row in rows {
            if let (Some(scan), Some(about)) = (kept_scan(row), &row.chain) {
                facts.scans.documents += 1;
                of.entry(about.clone()).or_default().push((row, scan));
            }
        }
        for (about, scans) in &of {
            facts.scans.artifacts += u64::from(scans.iter().any(|(_, scan)| scan.assessed));
            let Ok(artifact) = about.parse() else { continue };
            let scans = scans.iter().map(|(row, scan)| ((*row).clone(), scan.clone())).collect();
            let known = Known { artifact, signatures: Vec::new(), scans, reviews: Vec::new() };
            let verdict = self.scanned(&known, &ScanPolicy::default());
            facts.scans.findings.add_all(&verdict.findings);
            if verdict.passed {
                facts.scans.passed += 1;
            } else {
                facts.scans.failed += 1;
                if let Some((row, _)) = known.scans.first() {
                    facts.exceptions.push(exception("failed_scan", about, &verdict.reasons.join("; "), row));
                }
            }
        }
    }

    pub(super) async fn own_root(&self) -> Result<Arc<TrustedRoot>, Failure> {
        Ok(Arc::new(self.custody.published().await?.trusted_root))
    }

    /// An artifact by its digest or by what people call it: the newest that was signed under that name.
    async fn named(&self, principal: &Principal, name: &str) -> Result<Digest, Failure> {
        if let Ok(digest) = tools::digest(name) {
            return Ok(digest);
        }
        let query = TrustQuery {
            kind: Some(TrustKind::Signature),
            about: Some(name.to_owned()),
            limit: MAX_ABOUT,
            ..TrustQuery::of(principal.workspace.clone())
        };
        let page = self.read(move |r| r.trust_rows(&query)).await?;
        // A scan may carry the name of what it is about.
        let found = page.rows.iter().find(|row| row.subject.as_deref() == Some(name) && kept_scan(row).is_none());
        let missing =
            || Failure::NotFound(format!("nothing was signed under the name {:?} in this workspace", clipped(name)));
        tools::digest(&found.ok_or_else(missing)?.artifact)
    }

    async fn known(&self, principal: &Principal, name: &str) -> Result<Known, Failure> {
        let artifact = self.named(principal, name).await?;
        let query = TrustQuery {
            about: Some(artifact.to_string()),
            limit: MAX_ABOUT,
            ..TrustQuery::of(principal.workspace.clone())
        };
        let page = self.read(move |r| r.trust_rows(&query)).await?;
        if page.more {
            return Err(Failure::Undone(format!("more than {MAX_ABOUT} rows are about this artifact")));
        }
        let mut known = Known { artifact, signatures: Vec::new(), scans: Vec::new(), reviews: Vec::new() };
        for row in page.rows {
            match row.kind {
                TrustKind::Signature => match kept_scan(&row) {
                    Some(scan) => known.scans.push((row, scan)),
                    None if row.artifact == artifact.to_string() => known.signatures.push(row),
                    None => {}
                },
                TrustKind::Review => {
                    let review = serde_json::from_str(&row.body);
                    known.reviews.push(review.map_err(|e| Failure::Undone(format!("review {}: {e}", row.id)))?);
                }
                TrustKind::Verification | TrustKind::Certificate | TrustKind::Forward => {}
            }
        }
        Ok(known)
    }

    /// All rows of a period, newest first, and whether there are more than are looked at.
    async fn rows(
        &self,
        principal: &Principal,
        since: Millis,
        until: Millis,
    ) -> Result<(Vec<TrustRow>, bool), Failure> {
        let (mut rows, mut before) = (Vec::new(), None);
        loop {
            let query = TrustQuery {
                since: Some(since),
                until: Some(until),
                before,
                limit: PAGE,
                ..TrustQuery::of(principal.workspace.clone())
            };
            let page = self.read(move |r| r.trust_rows(&query)).await?;
            before = page.rows.last().map(|row| row.id);
            rows.extend(page.rows);
            if !page.more || rows.len() >= MAX_ROWS {
                return Ok((rows, page.more));
            }
        }
    }
}

/// What `sign` kept, if the row is of a signature.
fn signed(row: &TrustRow) -> Option<Signed> {
    (row.kind == TrustKind::Signature).then(|| serde_json::from_str(&row.body).ok()).flatten()
}

fn place_of(whole: &Whole) -> LogPlace {
    LogPlace { origin: whole.inclusion.origin.clone(), index: whole.inclusion.index }
}

/// What a scanner's document says, if the row is of one.
fn kept_scan(row: &TrustRow) -> Option<Scan> {
    signed(row)?.scan
}

/// The marks of whoever counts as the signer, as `sign` kept them.
fn marks_of(row: &TrustRow) -> Vec<String> {
    signed(row).map(|signed| signed.authors).unwrap_or_default()
}

/// Whether a signature is of a statement about the artifact.
fn is_statement(row: &TrustRow) -> bool {
    signed(row).is_some_and(|signed| signed.statement.is_some())
}

/// A review as it is shown; nothing, if the row is of none or cannot be read.
pub(super) fn review_of(row: &TrustRow) -> Option<Value> {
    let Kept { review, .. } = serde_json::from_str(&row.body).ok()?;
    Some(json!({
        "review_id": row.id.to_string(), "artifact": row.artifact, "team": review.team, "decision": review.decision,
        "by": review.by, "comment": review.shown_comment(), "recorded_at": rfc3339(row.at),
    }))
}

pub(super) fn outcome_of(report: &Report) -> Outcome {
    if report.is_valid() {
        return Outcome::Valid;
    }
    let codes: Vec<&str> = report.failures().map(|code| code.name()).collect();
    Outcome::Invalid(codes.join(", "))
}

fn anomaly_row(row: &TrustRow) -> Option<anomalies::Row> {
    let kind = match row.kind {
        TrustKind::Signature => anomalies::RowKind::Signature,
        TrustKind::Verification => anomalies::RowKind::Verification,
        TrustKind::Review | TrustKind::Certificate | TrustKind::Forward => return None,
    };
    Some(anomalies::Row {
        id: row.id.to_string(),
        at_ms: signed_ms(row.at),
        kind,
        signer: row.signer.clone(),
        artifact_type: row.artifact_type.clone(),
        valid: row.valid.unwrap_or(true),
    })
}

fn count_verifications(rows: &[TrustRow], facts: &mut compliance::Facts) {
    for row in rows.iter().filter(|row| row.kind == TrustKind::Verification) {
        facts.verifications.total += 1;
        if row.valid == Some(true) {
            facts.verifications.valid += 1;
        } else {
            facts.verifications.failed += 1;
            facts.exceptions.push(exception("failed_verification", &row.artifact, "a verification failed", row));
        }
    }
}

fn count_reviews(rows: &[TrustRow], facts: &mut compliance::Facts) {
    let mut artifacts = BTreeSet::new();
    for row in rows.iter().filter(|row| row.kind == TrustKind::Review) {
        artifacts.insert(row.artifact.as_str());
        let Ok(Kept { review, .. }) = serde_json::from_str(&row.body) else {
            facts.gaps.push(format!("review {} cannot be read", row.id));
            continue;
        };
        match review.decision {
            Decision::Approved => facts.reviews.approved += 1,
            Decision::NeedsChanges => facts.reviews.needs_changes += 1,
            Decision::Rejected => {
                facts.reviews.rejected += 1;
                facts.exceptions.push(exception("rejected_artifact", &row.artifact, &review.shown_comment(), row));
            }
        }
    }
    facts.reviews.artifacts = artifacts.len() as u64;
}

fn exception(kind: &str, subject: &str, detail: &str, row: &TrustRow) -> Exception {
    Exception {
        kind: kind.to_owned(),
        subject: subject.to_owned(),
        detail: detail.to_owned(),
        at_ms: signed_ms(row.at),
        evidence: Some(row.id.to_string()),
    }
}

fn signed_ms(time: Millis) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}
