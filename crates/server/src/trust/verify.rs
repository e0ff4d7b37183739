//! `verify`: a bundle that the caller brings, or what this node recorded of an artifact.

use std::sync::Arc;

use countersign_domain::Principal;
use countersign_ledger::Append;
use countersign_ledger::state::StateOp;
use countersign_ledger::trust::{TrustKind, TrustQuery, TrustRow};
use countersign_proof::digest::Digest;
use countersign_trust::bundle::Bundle;
use countersign_trust::pem;
use countersign_trust::report::Report;
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, certificates, verify};
use serde_json::{Value, json};
use uuid::Uuid;

use super::sign::Whole;
use super::{Trust, tools};
use crate::capability::Failure;
use crate::time::rfc3339;

/// How many recorded signatures of one artifact are looked at, newest first.
const TRIED: u32 = 50;

/// What is held against: whom to trust, and who is expected.
pub(super) struct Standard {
    pub root: Arc<TrustedRoot>,
    pub policy: Policy,
}

/// What was verified.
struct Verified {
    report: Report,
    /// The recorded signature that it was about.
    recorded: Option<TrustRow>,
    /// DER, leaf first.
    chain: Vec<Vec<u8>>,
}

impl Trust {
    pub(super) async fn verify(&self, principal: &Principal, wanted: tools::Verify) -> Result<Value, Failure> {
        let digest = tools::digest(&wanted.artifact)?;
        if let Some(scenario) = self.played(wanted.scenario)? {
            // Nothing of it is a verification: no row, no count.
            return Ok(scenario.verification());
        }
        let policy = self.expected(principal, &wanted)?;
        let published = self.custody.published().await?.trusted_root;
        let root = match &wanted.trusted_root {
            Some(root) => {
                let text = root.to_string();
                let parsed = self.computing.run(move || TrustedRoot::parse(text.as_bytes())).await?;
                parsed.map_err(|e| Failure::Input(format!("trusted_root: {e}")))?
            }
            None => published,
        };
        let standard = Standard { root: Arc::new(root), policy };
        let verified = match &wanted.bundle {
            Some(bundle) => {
                let bundle = bundle.to_string().into_bytes();
                let report = self.report(bundle.clone(), digest, &standard).await?;
                let chain = Bundle::parse(&bundle).map(|bundle| certificates(&bundle, &standard.root, &report.times));
                Some(Verified { report, recorded: None, chain: chain.unwrap_or_default() })
            }
            None => self.recorded(principal, digest, &wanted, &standard).await?,
        };
        let now = (self.clock)();
        let recorded = verified.as_ref().and_then(|verified| verified.recorded.as_ref());
        let row = TrustRow {
            id: Uuid::now_v7(),
            workspace: principal.workspace.clone(),
            kind: TrustKind::Verification,
            at: now,
            artifact: digest.to_string(),
            artifact_type: String::new(),
            subject: recorded.and_then(|row| row.subject.clone()),
            chain: recorded.and_then(|row| row.chain.clone()),
            signer: verified.as_ref().and_then(|v| v.report.signer.clone()).unwrap_or_default(),
            valid: Some(verified.as_ref().is_some_and(|v| v.report.is_valid())),
            body: json!({ "by": self.pseudonym(principal).await?.identity.text() }).to_string(),
        };
        let ops = vec![StateOp::TrustRecord { row: Box::new(row) }];
        self.ledger.append(Append { ops, ..Append::default() }).await?;
        Ok(match verified {
            Some(verified) => self.told(&verified, now),
            None => json!({
                "valid": false,
                "verified_at": rfc3339(now),
                "signer": null,
                "transparency_index": null,
                "rekor_entry_url": null,
                "certificate_chain": null,
                "checks": [],
                "reason": "this node has recorded no such signature of the artifact; give its bundle to verify another's",
            }),
        })
    }

    /// Whom the caller expects. Who says nothing expects anybody of its own workspace at this node.
    fn expected(&self, principal: &Principal, wanted: &tools::Verify) -> Result<Policy, Failure> {
        let pattern = |text: &str| match text.contains('*') {
            true => Pattern::Glob(text.to_owned()),
            false => Pattern::Exact(text.to_owned()),
        };
        if wanted.identity.is_none() && (wanted.issuer.is_some() || wanted.trusted_root.is_some()) {
            return Err(Failure::Input("say with `identity` who is expected to have signed".to_owned()));
        }
        let issuer = wanted.issuer.as_deref().unwrap_or(self.custody.issuer());
        let expected = match &wanted.identity {
            Some(identity) => Expected::Certificate { identity: pattern(identity), issuer: pattern(issuer) },
            None => self.colleagues(principal),
        };
        Ok(Policy { expected, ..Policy::default() })
    }

    /// What a bundle comes to.
    pub(super) async fn report(
        &self,
        bundle: Vec<u8>,
        artifact: Digest,
        standard: &Standard,
    ) -> Result<Report, Failure> {
        let (root, policy) = (Arc::clone(&standard.root), standard.policy.clone());
        self.computing.run(move || verify(&bundle, &Artifact::Sha256(artifact), &root, &policy)).await
    }

    /// Anybody of the principal's workspace, at this node.
    pub(super) fn colleagues(&self, principal: &Principal) -> Expected {
        let identity = Pattern::Glob(format!("{}*", self.identities(principal)));
        Expected::Certificate { identity, issuer: Pattern::Exact(self.custody.issuer().to_owned()) }
    }

    /// A recorded signature, verified again.
    pub(super) async fn verified_again(
        &self,
        row: &TrustRow,
        root: &Arc<TrustedRoot>,
    ) -> Result<(Report, Whole), Failure> {
        let whole = self.whole(row).await?;
        let standard = self.as_recorded(root, row, &whole);
        let report = self.report(whole.bundle.to_json(), tools::digest(&row.artifact)?, &standard).await?;
        Ok((report, whole))
    }

    /// What a recorded signature is held against: it has to be by whom it was recorded as.
    pub(super) fn as_recorded(&self, root: &Arc<TrustedRoot>, row: &TrustRow, whole: &Whole) -> Standard {
        let exactly = |text: &str| Pattern::Exact(text.to_owned());
        let expected = match &whole.key {
            Some(spki) => Expected::Key(spki.clone()),
            None => Expected::Certificate {
                identity: exactly(&row.signer),
                issuer: exactly(whole.kept.issuer.as_deref().unwrap_or(self.custody.issuer())),
            },
        };
        Standard { root: Arc::clone(root), policy: Policy { expected, ..Policy::default() } }
    }

    /// The newest recorded signature that is valid, or else the newest. One that the caller names is the only one.
    async fn recorded(
        &self,
        principal: &Principal,
        artifact: Digest,
        wanted: &tools::Verify,
        standard: &Standard,
    ) -> Result<Option<Verified>, Failure> {
        let signature = wanted.signature.as_deref();
        let query = TrustQuery {
            kind: Some(TrustKind::Signature),
            artifact: Some(artifact.to_string()),
            limit: TRIED,
            ..TrustQuery::of(principal.workspace.clone())
        };
        let page = self.read(move |r| r.trust_rows(&query)).await?;
        let mut first = None;
        for row in page.rows {
            let (mut report, whole) = self.verified_again(&row, &standard.root).await?;
            if signature.is_some_and(|wanted| wanted != whole.kept.signature) {
                continue;
            }
            if wanted.identity.is_some() {
                report = self.report(whole.bundle.to_json(), artifact, standard).await?;
            }
            let valid = report.is_valid();
            let chain = certificates(&whole.bundle, &standard.root, &report.times);
            let verified = Verified { report, recorded: Some(row), chain };
            if valid || signature.is_some() {
                return Ok(Some(verified));
            }
            first = first.or(Some(verified));
        }
        Ok(first)
    }

    fn told(&self, verified: &Verified, now: u64) -> Value {
        let report = &verified.report;
        let chain: Vec<String> = verified.chain.iter().map(|der| pem::encode(der, pem::CERTIFICATE)).collect();
        let url = verified.recorded.as_ref().map(|row| self.url_of(row.id));
        let mut told = json!({
            "valid": report.is_valid(),
            "verified_at": rfc3339(now),
            "signer": report.signer,
            "issuer": report.issuer,
            "transparency_index": report.logs.first().map(|place| place.index),
            "rekor_entry_url": url,
            "certificate_chain": if chain.is_empty() { Value::Null } else { json!(chain) },
            "signed_at": report.times.iter().map(|time| rfc3339(time.seconds * 1000)).collect::<Vec<_>>(),
            "logs": report.logs,
            "checks": report.checks,
            "not_checked": report.not_checked,
        });
        let reasons: Vec<_> = report.failures().map(|code| code.name()).collect();
        if !reasons.is_empty() {
            told["reason"] = json!(reasons.join(", "));
        }
        if let Some(predicate) = &report.predicate_type {
            told["predicate_type"] = json!(predicate);
        }
        told
    }
}
