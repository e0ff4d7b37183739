//! `add_scan`, `check_scans`, `record_review`, `deployment_readiness`, `detect_anomalies`, `compliance_report`: what a workspace knows of its
//! artifacts, gathered from its own rows and held against rules. The rules themselves are pure, in `countersign_trust`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
use super::verify::GIVEN;
use super::{Trust, tools};
use crate::capability::{Failure, clipped, moment};
use crate::time::rfc3339;

/// Rows that one question looks at in a page, and in all.
const PAGE: u32 = 1000;
const MAX_ROWS: usize = 200_000;
/// Signatures about one artifact, and reviews of it.
const MAX_ABOUT: usize = 10_000;
/// Signatures of one name among which earlier artifacts are looked for.
const MAX_NAMED: u32 = 500;
/// How long a report verifies the signatures of its period again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most scans of a period that a report weighs.
const MAX_SCANS: usize = 20_000;
/// The type of an artifact that nobody signed.
const UNSIGNED: &str = "unknown";
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
        // Read before it is recorded: nothing then fails after the fact.
        let mut known = self.known(principal, &artifact.to_string()).await?;
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
        let asked = Requirements { teams: vec![review.team.clone()], ..Requirements::default() };
        known.reviews.insert(0, kept.clone());
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
            limit: MAX_NAMED,
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
        let (mut walk, mut rows) = (Walk::between(principal, begin, to), Vec::<anomalies::Row>::new());
        loop {
            let page = self.step(&mut walk).await?;
            if page.is_empty() {
                break;
            }
            rows.extend(page.iter().filter_map(anomaly_row));
        }
        if walk.more {
            return Err(Failure::Input(format!("there are more than {MAX_ROWS} rows; ask for a shorter window")));
        }
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
        if to <= from {
            return Err(Failure::Input("the period ends before it begins".to_owned()));
        }
        let root = self.own_root().await?;
        let mut facts = compliance::Facts {
            workspace: principal.workspace.to_string(),
            from_ms: signed_ms(from),
            to_ms: signed_ms(to),
            generated_at_ms: signed_ms(now),
            ..compliance::Facts::default()
        };
        let (mut walk, mut tally) = (Walk::between(principal, from, to), Tally::default());
        let end = Instant::now() + PATIENCE;
        loop {
            let page = self.step(&mut walk).await?;
            if page.is_empty() {
                break;
            }
            for row in page {
                match row.kind {
                    TrustKind::Signature => self.count_signature(row, (&root, end), &mut tally, &mut facts).await?,
                    TrustKind::Verification if row.artifact_type == GIVEN => {}
                    TrustKind::Verification => count_verification(&row, &mut facts),
                    TrustKind::Review => count_review(&row, &mut tally, &mut facts),
                    TrustKind::Certificate | TrustKind::Forward => {}
                }
            }
        }
        if walk.more {
            facts.gaps.push(format!("there are more than {MAX_ROWS} rows in the period; the oldest are not counted"));
        }
        self.count_the_rest(principal, (&root, end), &mut tally, &mut facts).await?;
        self.conclude(tally, &mut facts);
        let report = compliance::report(&facts).map_err(|e| Failure::Undone(e.to_string()))?;
        let markdown = compliance::markdown(&report);
        Ok(json!({ "report": report, "markdown": markdown }))
    }

    async fn count_signature(
        &self,
        row: TrustRow,
        (root, end): (&Arc<TrustedRoot>, Instant),
        tally: &mut Tally,
        facts: &mut compliance::Facts,
    ) -> Result<(), Failure> {
        tally.signatures += 1;
        let scan = kept_scan(&row);
        // What a scanner wrote is about an artifact, and none that somebody would review.
        if scan.is_none() {
            tally.signed.entry(row.artifact_type.clone()).or_default().entry(row.artifact.clone()).or_default();
        }
        if Instant::now() < end {
            self.count_verified(&row, scan.is_some(), root, tally, facts).await?;
        } else {
            tally.unverified += 1;
        }
        if let (Some(scan), Some(about)) = (scan, row.chain.clone()) {
            facts.scans.documents += 1;
            if facts.scans.documents <= MAX_SCANS as u64 {
                // What was read of it is all that is needed.
                let row = TrustRow { body: String::new(), ..row };
                tally.scans.entry(about).or_default().push((row, scan));
            }
        }
        Ok(())
    }

    /// Verifies a signature again.
    async fn count_verified(
        &self,
        row: &TrustRow,
        is_scan: bool,
        root: &Arc<TrustedRoot>,
        tally: &mut Tally,
        facts: &mut compliance::Facts,
    ) -> Result<(), Failure> {
        let (report, whole) = self.verified_again(row, root).await?;
        let place = place_of(&whole);
        let valid = report.is_valid();
        let seen = tally.signed.get_mut(&row.artifact_type).and_then(|of_type| of_type.get_mut(&row.artifact));
        if let Some(seen) = seen.filter(|_| !is_scan) {
            seen.valid |= valid;
            seen.invalid |= !valid;
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
        Ok(())
    }

    /// What was scanned or reviewed in the period counts, though it was signed earlier, or never.
    async fn count_the_rest(
        &self,
        principal: &Principal,
        (root, end): (&Arc<TrustedRoot>, Instant),
        tally: &mut Tally,
        facts: &mut compliance::Facts,
    ) -> Result<(), Failure> {
        let known: BTreeSet<&String> = tally.signed.values().flat_map(BTreeMap::keys).collect();
        let scanned = tally.scans.iter().filter(|(_, scans)| is_assessed(scans)).map(|(about, _)| about);
        let rest: BTreeSet<String> =
            scanned.chain(&tally.reviewed).filter(|about| !known.contains(about)).cloned().collect();
        for artifact in rest {
            let query = TrustQuery {
                kind: Some(TrustKind::Signature),
                artifact: Some(artifact.clone()),
                until: u64::try_from(facts.to_ms).ok(),
                limit: 1,
                ..TrustQuery::of(principal.workspace.clone())
            };
            let found = self.read(move |r| r.trust_rows(&query)).await?.rows.into_iter().next();
            match found {
                Some(row) => self.count_signature(row, (root, end), tally, facts).await?,
                None => {
                    tally.signed.entry(UNSIGNED.to_owned()).or_default().insert(artifact, Seen::default());
                }
            }
        }
        Ok(())
    }

    fn conclude(&self, tally: Tally, facts: &mut compliance::Facts) {
        let Tally { signed, signatures, unverified, scans, reviewed } = tally;
        if unverified > 0 {
            facts.gaps.push(format!("{unverified} of {signatures} entries are counted and were not verified again"));
        }
        if signatures - unverified > MAX_EVIDENCE {
            facts.gaps.push(format!("of {signatures} entries {MAX_EVIDENCE} are listed as evidence; all others count"));
        }
        facts.reviews.artifacts = reviewed.len() as u64;
        for (artifact_type, artifacts) in signed {
            let count = |of: fn(&Seen) -> bool| artifacts.values().filter(|seen| of(seen)).count() as u64;
            let all = artifacts.len() as u64;
            let is_signed = artifact_type != UNSIGNED;
            let (verified, failed) = (count(|seen| seen.valid), count(|seen| seen.invalid && !seen.valid));
            let signed = if is_signed { all } else { 0 };
            facts.types.push(TypeFacts { artifact_type, artifacts: all, signed, verified, failed });
        }
        self.weigh(&scans, facts);
    }

    fn weigh(&self, scans: &BTreeMap<String, Vec<(TrustRow, Scan)>>, facts: &mut compliance::Facts) {
        let weighed = scans.values().map(Vec::len).sum::<usize>();
        if facts.scans.documents > weighed as u64 {
            facts.gaps.push(format!("of {} scans the newest {weighed} are weighed", facts.scans.documents));
        }
        for (about, scans) in scans {
            facts.scans.artifacts += u64::from(is_assessed(scans));
            let Ok(artifact) = about.parse() else { continue };
            let known = Known { artifact, signatures: Vec::new(), scans: scans.clone(), reviews: Vec::new() };
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
            limit: MAX_NAMED,
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
        let mut known = Known { artifact, signatures: Vec::new(), scans: Vec::new(), reviews: Vec::new() };
        for row in self.about_all(principal, &artifact, TrustKind::Signature).await? {
            match kept_scan(&row) {
                Some(scan) => known.scans.push((row, scan)),
                None if row.artifact == artifact.to_string() => known.signatures.push(row),
                None => {}
            }
        }
        for row in self.about_all(principal, &artifact, TrustKind::Review).await? {
            let review = serde_json::from_str(&row.body);
            known.reviews.push(review.map_err(|e| Failure::Undone(format!("review {}: {e}", row.id)))?);
        }
        Ok(known)
    }

    /// Every row of a kind about an artifact, newest first.
    async fn about_all(
        &self,
        principal: &Principal,
        artifact: &Digest,
        kind: TrustKind,
    ) -> Result<Vec<TrustRow>, Failure> {
        let about = Some(artifact.to_string());
        let (mut walk, mut all) = (Walk::of(principal), Vec::new());
        walk.query = TrustQuery { kind: Some(kind), about, ..walk.query };
        loop {
            let page = self.step(&mut walk).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
            if all.len() > MAX_ABOUT {
                return Err(Failure::Input(format!("more than {MAX_ABOUT} rows of one kind are about this artifact")));
            }
        }
    }

    /// The next page of rows; an empty one after the last, or after the most that one question looks at.
    async fn step(&self, walk: &mut Walk) -> Result<Vec<TrustRow>, Failure> {
        if !walk.more || walk.seen >= MAX_ROWS {
            return Ok(Vec::new());
        }
        let query = walk.query.clone();
        let page = self.read(move |r| r.trust_rows(&query)).await?;
        walk.query.before = page.rows.last().map(|row| row.id);
        walk.seen += page.rows.len();
        walk.more = page.more;
        Ok(page.rows)
    }
}

/// A walk through rows, newest first, a page at a time: what they say can be large.
struct Walk {
    query: TrustQuery,
    seen: usize,
    /// Whether there are rows beyond those that were seen.
    more: bool,
}

impl Walk {
    fn of(principal: &Principal) -> Self {
        let query = TrustQuery { limit: PAGE, ..TrustQuery::of(principal.workspace.clone()) };
        Self { query, seen: 0, more: true }
    }

    fn between(principal: &Principal, since: Millis, until: Millis) -> Self {
        let mut walk = Self::of(principal);
        (walk.query.since, walk.query.until) = (Some(since), Some(until));
        walk
    }
}

/// What a report counts of a period, besides what its facts hold already.
#[derive(Default)]
struct Tally {
    /// By type, by artifact.
    signed: BTreeMap<String, BTreeMap<String, Seen>>,
    signatures: usize,
    unverified: usize,
    /// By what they are about.
    scans: BTreeMap<String, Vec<(TrustRow, Scan)>>,
    reviewed: BTreeSet<String>,
}

/// What became of an artifact's signatures.
#[derive(Default)]
struct Seen {
    valid: bool,
    invalid: bool,
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
    // Whom a caller trusts says nothing of what is usual here.
    if row.artifact_type == GIVEN {
        return None;
    }
    Some(anomalies::Row {
        id: row.id.to_string(),
        at_ms: signed_ms(row.at),
        kind,
        signer: row.signer.clone(),
        artifact_type: row.artifact_type.clone(),
        valid: row.valid.unwrap_or(true),
    })
}

fn count_verification(row: &TrustRow, facts: &mut compliance::Facts) {
    facts.verifications.total += 1;
    if row.valid == Some(true) {
        facts.verifications.valid += 1;
    } else {
        facts.verifications.failed += 1;
        facts.exceptions.push(exception("failed_verification", &row.artifact, "a verification failed", row));
    }
}

fn count_review(row: &TrustRow, tally: &mut Tally, facts: &mut compliance::Facts) {
    tally.reviewed.insert(row.artifact.clone());
    let Ok(Kept { review, .. }) = serde_json::from_str(&row.body) else {
        facts.gaps.push(format!("review {} cannot be read", row.id));
        return;
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

/// Whether a scanner looked, and not only a bill was handed in.
fn is_assessed(scans: &[(TrustRow, Scan)]) -> bool {
    scans.iter().any(|(_, scan)| scan.assessed)
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
