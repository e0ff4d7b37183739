//! `get`, `verify`, `list`, `provenance`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use countersign_domain::Principal;
use countersign_ledger::artifacts::{ArtifactQuery, ArtifactRow};
use countersign_ledger::objects::{Lock, ObjectError};
use countersign_proof::jwk::JwkSet;
use countersign_proof::jws::Jws;
use countersign_proof::merkle::leaf_hash;
use countersign_trust::artifact::Artifact;
use countersign_trust::artifact::report::{KeyState, Report};
use countersign_trust::artifact::sign::log_entry;
use countersign_trust::artifact::verify::{Given, Verified, verify};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Artifacts, artifact_id, tools};
use crate::capability::{Failure, Told, clipped, moment};
use crate::time::rfc3339;

const DEFAULT_PAGE: u32 = 50;
/// The most artifacts that a provenance follows.
const MAX_CHAIN: usize = 100;

/// What a verifier knows of a workspace's keys.
struct Standard {
    keys: JwkSet,
    states: BTreeMap<String, KeyState>,
    workspace: String,
}

/// What a stored artifact comes to.
pub(super) struct Held {
    pub report: Option<Report>,
    pub damage: Vec<String>,
    /// What keeps its object, if there is one.
    pub lock: Option<Lock>,
}

impl Artifacts {
    /// The artifact, once it holds: nobody is handed what was changed.
    pub(super) async fn get(&self, principal: &Principal, wanted: tools::Get) -> Result<Told, Failure> {
        let row = self.found(principal, &wanted.id, wanted.version).await?;
        let jws = self.objects.get(&row.object).await?;
        let standard = self.standard(principal).await?;
        let verified = self.against(jws.clone(), standard, Some(row.at / 1000)).await?;
        let artifact =
            verified.artifact.filter(|artifact| verified.report.is_valid() && artifact.digest() == row.digest);
        let Some(artifact) = artifact else {
            let codes: Vec<&str> = verified.report.failures().map(|code| code.name()).collect();
            let why = if codes.is_empty() { "not what its row says".to_owned() } else { codes.join(", ") };
            return Err(Failure::Undone(format!("the artifact {} does not hold: {why}", row.id)));
        };
        let mut value = self.listed(&row);
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|e| Failure::Undone(e.to_string()));
        value["artifact"] = parse(artifact.canonical())?;
        value["jws"] = parse(&jws)?;
        value["expired"] = json!(verified.report.expired);
        Ok(Told { value, remarks: self.remarks_on(&row, false) })
    }

    pub(super) async fn verify(&self, principal: &Principal, wanted: tools::Verify) -> Result<Told, Failure> {
        match (wanted.id, wanted.jws) {
            (Some(id), None) => {
                let row = self.found(principal, &id, wanted.version).await?;
                let Held { report, damage, .. } = self.held(principal, &row).await?;
                Ok(Told { value: shown(&row, report, damage, (self.clock)()), remarks: self.remarks_on(&row, false) })
            }
            (None, Some(jws)) => {
                let standard = match (wanted.jwks, wanted.workspace) {
                    (None, None) => self.standard(principal).await?,
                    (Some(jwks), Some(workspace)) => foreign(&jwks, workspace)?,
                    (_, _) => {
                        return Err(Failure::Input("jwks and workspace are given together, or neither".to_owned()));
                    }
                };
                let bytes = jws.as_str().map_or_else(|| jws.to_string(), str::to_owned).into_bytes();
                let verified = self.against(bytes, standard, None).await?;
                Ok(brought(&verified, (self.clock)()).into())
            }
            (_, _) => Err(Failure::Input("give the id of a stored artifact, or a jws".to_owned())),
        }
    }

    /// What a stored artifact comes to: its object, its signature, and its leaf in the log.
    pub(super) async fn held(&self, principal: &Principal, row: &ArtifactRow) -> Result<Held, Failure> {
        let (jws, lock) = match self.objects.fetch(&row.object).await {
            Ok(found) => (found.bytes, found.lock),
            Err(damage @ (ObjectError::Missing(_) | ObjectError::Changed { .. })) => {
                return Ok(Held { report: None, damage: vec![damage.to_string()], lock: None });
            }
            Err(error) => return Err(error.into()),
        };
        let standard = self.standard(principal).await?;
        let verified = self.against(jws.clone(), standard, Some(row.at / 1000)).await?;
        let mut damage = Vec::new();
        if verified.artifact.as_ref().is_none_or(|artifact| artifact.digest() != row.digest) {
            damage.push("the artifact is not the one that was stored".to_owned());
        }
        damage.extend(self.unlogged(row, &jws).await?);
        Ok(Held { report: Some(verified.report), damage, lock: Some(lock) })
    }

    /// Why the log does not have the signature, if it does not.
    async fn unlogged(&self, row: &ArtifactRow, jws: &[u8]) -> Result<Option<String>, Failure> {
        let entry = row.entry;
        let Some(stored) = self.read(move |r| r.public_entry(entry)).await? else {
            return Ok(Some("the log has no leaf of it".to_owned()));
        };
        let keys = self.keys.of(&row.workspace).await?;
        let key = keys.iter().find(|key| key.public.kid() == row.kid);
        let leaf =
            key.zip(Jws::parse(jws).ok()).and_then(|(key, jws)| log_entry(&jws, &key.public).ok()?.to_body().ok());
        if leaf.is_none_or(|leaf| leaf_hash(&leaf) != stored.leaf_hash()) {
            return Ok(Some("the log has another leaf in its place".to_owned()));
        }
        let included = self.ledger.inclusion(stored.shard, stored.index).await?;
        Ok(included.is_none().then(|| "its leaf is not yet under a checkpoint".to_owned()))
    }

    async fn against(&self, jws: Vec<u8>, standard: Standard, existed_at: Option<u64>) -> Result<Verified, Failure> {
        let (types, now) = (self.types.clone(), (self.clock)() / 1000);
        self.computing
            .run(move || {
                let given = Given {
                    keys: &standard.keys,
                    workspace: Some(&standard.workspace),
                    states: &standard.states,
                    now,
                    existed_at,
                    types: Some(&types),
                };
                verify(&jws, &given)
            })
            .await
    }

    async fn standard(&self, principal: &Principal) -> Result<Standard, Failure> {
        let mut standard =
            Standard { keys: JwkSet::default(), states: BTreeMap::new(), workspace: principal.workspace.to_string() };
        for key in self.keys.of(&principal.workspace).await? {
            standard.states.insert(key.public.kid().to_owned(), key.state());
            standard.keys.add(key.public).map_err(|e| Failure::Undone(e.to_string()))?;
        }
        Ok(standard)
    }

    pub(super) async fn list(&self, principal: &Principal, wanted: tools::List) -> Result<Told, Failure> {
        let cursor = |text: &String| {
            text.parse::<Uuid>().map_err(|_| Failure::Input(format!("{:?} is no cursor", clipped(text))))
        };
        if let Some(other) = wanted.workspace.filter(|wanted| wanted != principal.workspace.as_str()) {
            let (other, own) = (clipped(&other), &principal.workspace);
            return Err(Failure::Input(format!(
                "you act in the workspace {own}; to list those of {other:?}, act there"
            )));
        }
        let query = ArtifactQuery {
            id: wanted.id.as_deref().map(artifact_id).transpose()?,
            artifact_type: wanted.artifact_type,
            compliance: wanted.compliance.unwrap_or_default(),
            source: wanted.derived_from.as_deref().map(artifact_id).transpose()?,
            since: wanted.since.as_deref().map(|text| moment(text, "since", false)).transpose()?,
            until: wanted.until.as_deref().map(|text| moment(text, "until", true)).transpose()?,
            before: wanted.cursor.as_ref().map(cursor).transpose()?,
            limit: wanted.limit.unwrap_or(DEFAULT_PAGE).clamp(1, tools::MAX_PAGE),
            ..ArtifactQuery::of(principal.workspace.clone())
        };
        let page = self.read(move |r| r.artifacts(&query)).await?;
        let next = page.rows.last().filter(|_| page.more).map(|row| row.entry.to_string());
        let entries: Vec<Value> = page.rows.iter().map(|row| self.listed(row)).collect();
        Ok(json!({ "entries": entries, "next": next }).into())
    }

    pub(super) async fn provenance(&self, principal: &Principal, wanted: tools::Get) -> Result<Told, Failure> {
        let row = self.found(principal, &wanted.id, wanted.version).await?;
        let mut seen = BTreeSet::from([row.id]);
        let mut waiting: VecDeque<Uuid> = row.sources.iter().copied().collect();
        let (mut sources, mut missing, mut broken) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(id) = waiting.pop_front().filter(|_| sources.len() < MAX_CHAIN) {
            if !seen.insert(id) {
                continue;
            }
            let Some(source) = self.row(principal, id, None).await? else {
                missing.push(id.to_string());
                continue;
            };
            waiting.extend(&source.sources);
            sources.push(self.judged(principal, &source, &mut broken).await?);
        }
        let made = ArtifactQuery {
            source: Some(row.id),
            limit: MAX_CHAIN as u32,
            ..ArtifactQuery::of(principal.workspace.clone())
        };
        let made = self.read(move |r| r.artifacts(&made)).await?;
        let mut derived = Vec::new();
        for row in &made.rows {
            derived.push(self.judged(principal, row, &mut broken).await?);
        }
        let own = self.judged(principal, &row, &mut broken).await?;
        let truncated = made.more || !waiting.is_empty();
        let value = json!({
            "artifact": own,
            "sources": sources,
            "derived": derived,
            "evidence": self.evidence(&row).await,
            "missing": missing,
            "broken": broken,
            "complete": missing.is_empty() && broken.is_empty() && !truncated,
            "truncated": truncated,
        });
        Ok(Told { value, remarks: self.remarks_on(&row, false) })
    }

    /// An artifact of a chain, verified again.
    async fn judged(
        &self,
        principal: &Principal,
        row: &ArtifactRow,
        broken: &mut Vec<String>,
    ) -> Result<Value, Failure> {
        let Held { report, damage, .. } = self.held(principal, row).await?;
        let valid = damage.is_empty() && report.as_ref().is_some_and(Report::is_valid);
        let mut shown = self.listed(row);
        shown["valid"] = json!(valid);
        if !valid {
            broken.push(row.id.to_string());
            shown["reasons"] = json!(reasons(report.as_ref(), &damage));
        }
        Ok(shown)
    }

    /// What an artifact says that it rests on; nothing, if it cannot be read.
    async fn evidence(&self, row: &ArtifactRow) -> Value {
        let Ok(jws) = self.objects.get(&row.object).await else { return json!([]) };
        let artifact = Jws::parse(&jws).ok().and_then(|jws| Artifact::parse(jws.payload()).ok());
        artifact.map_or_else(|| json!([]), |artifact| json!(artifact.evidence()))
    }
}

fn foreign(jwks: &Value, workspace: String) -> Result<Standard, Failure> {
    let keys = JwkSet::parse(jwks.to_string().as_bytes()).map_err(|e| Failure::Input(format!("jwks: {e}")))?;
    Ok(Standard { keys, states: BTreeMap::new(), workspace })
}

fn reasons(report: Option<&Report>, damage: &[String]) -> Vec<String> {
    let failed = report.into_iter().flat_map(Report::failures).map(|code| code.name().to_owned());
    failed.chain(damage.iter().cloned()).collect()
}

fn shown(row: &ArtifactRow, report: Option<Report>, damage: Vec<String>, now: u64) -> Value {
    let valid = damage.is_empty() && report.as_ref().is_some_and(Report::is_valid);
    let mut value = json!({
        "valid": valid,
        "artifact_id": row.id.to_string(),
        "workspace_id": row.workspace,
        "created_at": report.as_ref().and_then(|report| report.artifact.as_ref()).map(|found| found.created_at.clone()),
        "type": row.artifact_type,
        "version": row.version,
        "verified_at": rfc3339(now),
        "entry_id": row.entry.to_string(),
        "kid": row.kid,
    });
    if !valid {
        value["reason"] = json!(reasons(report.as_ref(), &damage).join(", "));
    }
    with_report(value, report.as_ref())
}

fn brought(verified: &Verified, now: u64) -> Value {
    let report = &verified.report;
    let found = report.artifact.as_ref();
    let mut value = json!({
        "valid": report.is_valid(),
        "artifact_id": found.map(|found| found.id.to_string()),
        "workspace_id": found.map(|found| found.workspace_id.clone()),
        "created_at": found.map(|found| found.created_at.clone()),
        "type": found.map(|found| found.artifact_type.clone()),
        "version": found.map(|found| found.version),
        "verified_at": rfc3339(now),
        "kid": report.key_id,
    });
    if !report.is_valid() {
        value["reason"] = json!(reasons(Some(report), &[]).join(", "));
    }
    with_report(value, Some(report))
}

fn with_report(mut value: Value, report: Option<&Report>) -> Value {
    let of = |part: fn(&Report) -> Value| report.map_or_else(|| json!([]), part);
    value["checks"] = of(|report| json!(report.checks));
    value["statements"] = of(|report| json!(report.statements));
    value["not_checked"] = of(|report| json!(report.not_checked));
    if let Some(report) = report {
        value["expired"] = json!(report.expired);
        value["key_state"] = json!(report.key_state);
    }
    value
}
