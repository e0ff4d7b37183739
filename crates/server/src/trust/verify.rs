//! `verify`: a bundle that the caller brings, or what this node recorded of an artifact.

use std::sync::Arc;

use countersign_domain::Principal;
use countersign_ledger::Append;
use countersign_ledger::state::StateOp;
use countersign_ledger::trust::{TrustKind, TrustQuery, TrustRow};
use countersign_proof::digest::Digest;
use countersign_trust::pem;
use countersign_trust::report::{Report, SignedTime};
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{
    self as detached, Artifact, DetachedError, Expected, Holder, Pattern, Policy, verify_detached, verify_with_chain,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::sign::Whole;
use super::{Trust, tools};
use crate::capability::Failure;
use crate::time::rfc3339;

/// How many recorded signatures of one artifact are looked at, newest first.
const TRIED: u32 = 50;
/// The same by a trusted root of the caller's, which may make each of them costly.
const TRIED_BY_OTHERS: u32 = 8;

/// The type of a verification's row where the caller said whom to trust: it shows nothing to anybody else, and does not count.
pub(super) const GIVEN: &str = "given-trust";

/// What is said of an artifact of which this workspace has no signature.
const UNKNOWN: &str = "this node has recorded no such signature of the artifact; give its bundle to verify another's";

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
        fits_together(&wanted)?;
        let on_own_word = wanted.trusted_root.is_some() || wanted.public_key.is_some();
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
            None if is_detached(&wanted) => Some(self.detached(digest, &wanted, standard).await?),
            Some(bundle) => {
                let bundle = bundle.to_string().into_bytes();
                let (report, chain) = self.report_with_chain(bundle, digest, &standard).await?;
                Some(Verified { report, recorded: None, chain })
            }
            None => self.recorded(principal, digest, &wanted, &standard).await?,
        };
        let now = (self.clock)();
        let recorded = verified.as_ref().and_then(|verified| verified.recorded.as_ref());
        let reason = verified.as_ref().map_or_else(|| Some(UNKNOWN.to_owned()), |verified| why_not(&verified.report));
        let row = TrustRow {
            id: Uuid::now_v7(),
            workspace: principal.workspace.clone(),
            kind: TrustKind::Verification,
            at: now,
            artifact: digest.to_string(),
            artifact_type: if on_own_word { GIVEN } else { "" }.to_owned(),
            subject: recorded.and_then(|row| row.subject.clone()),
            chain: recorded.and_then(|row| row.chain.clone()),
            signer: verified.as_ref().and_then(|v| v.report.signer.clone()).unwrap_or_default(),
            valid: Some(verified.as_ref().is_some_and(|v| v.report.is_valid())),
            body: json!({ "by": self.pseudonym(principal).await?.identity.text(), "reason": reason }).to_string(),
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
                "reason": UNKNOWN,
            }),
        })
    }

    /// A signature beside its artifact, with a certificate or key: by itself, or by the entry that a log has of it.
    async fn detached(&self, digest: Digest, wanted: &tools::Verify, standard: Standard) -> Result<Verified, Failure> {
        let input = |e: DetachedError| Failure::Input(e.to_string());
        let signature = wanted.signature.as_deref().unwrap_or_default();
        let signature = detached::signature(signature.as_bytes()).map_err(input)?;
        let holder = match &wanted.certificate {
            Some(text) => Holder::certificate(text.as_bytes()).map_err(input)?,
            None => Holder::key(wanted.public_key.as_deref().unwrap_or_default().as_bytes()).map_err(input)?,
        };
        let (mut entries, mut root) = (None, Arc::clone(&standard.root));
        if let Some(name) = &wanted.log {
            let log = self.outside.logs.named(name)?;
            entries = Some(log.find(&digest, &signature, &holder).await?.into_iter().collect());
            root = match &wanted.trusted_root {
                None => Arc::clone(&log.root),
                // Whom to trust for certificates comes from the caller, for the log from the operator.
                Some(_) => Arc::new(TrustedRoot { logs: log.root.logs.clone(), ..(*root).clone() }),
            };
        }
        let (policy, certificate) = (standard.policy, holder.certificate_der().map(<[u8]>::to_vec));
        let work = move || verify_detached(&signature, &holder, entries, &Artifact::Sha256(digest), &root, &policy);
        let report = self.computing.run(work).await?;
        Ok(Verified { report, recorded: None, chain: certificate.into_iter().collect() })
    }

    /// Whom the caller expects, or else its workspace. Where neither says, that is anybody of the workspace at this node.
    fn expected(&self, principal: &Principal, wanted: &tools::Verify) -> Result<Policy, Failure> {
        let pattern = |text: &str| match text.contains('*') {
            true => Pattern::Glob(text.to_owned()),
            false => Pattern::Exact(text.to_owned()),
        };
        let elsewhere = wanted.issuer.is_some() || wanted.trusted_root.is_some() || wanted.log.is_some();
        let usual = self.expected.get(&Some(principal.workspace.clone())).or_else(|| self.expected.get(&None));
        let by = |identity: &str, issuer: Option<&str>| Expected::Certificate {
            identity: pattern(identity),
            issuer: pattern(issuer.unwrap_or(self.custody.issuer())),
        };
        let expected = match (&wanted.identity, usual) {
            (Some(identity), _) => by(identity, wanted.issuer.as_deref()),
            (None, Some(usual)) if wanted.issuer.is_none() => by(&usual.identity, usual.issuer.as_deref()),
            (None, _) if elsewhere && wanted.public_key.is_none() => {
                return Err(Failure::Input("say with `identity` who is expected to have signed".to_owned()));
            }
            (None, _) => self.colleagues(principal),
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
        self.report_with_chain(bundle, artifact, standard).await.map(|(report, _)| report)
    }

    /// The same, with the certificates: DER, leaf first.
    async fn report_with_chain(
        &self,
        bundle: Vec<u8>,
        artifact: Digest,
        standard: &Standard,
    ) -> Result<(Report, Vec<Vec<u8>>), Failure> {
        let (root, policy) = (Arc::clone(&standard.root), standard.policy.clone());
        self.computing.run(move || verify_with_chain(&bundle, &Artifact::Sha256(artifact), &root, &policy)).await
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
            limit: if wanted.trusted_root.is_some() { TRIED_BY_OTHERS } else { TRIED },
            ..TrustQuery::of(principal.workspace.clone())
        };
        let page = self.read(move |r| r.trust_rows(&query)).await?;
        let mut first = None;
        for row in page.rows {
            let whole = self.whole(&row).await?;
            if signature.is_some_and(|wanted| wanted != whole.kept.signature) {
                continue;
            }
            let recorded = self.as_recorded(&standard.root, &row, &whole);
            let standard = if wanted.identity.is_some() { standard } else { &recorded };
            let (report, chain) = self.report_with_chain(whole.bundle.to_json(), artifact, standard).await?;
            let valid = report.is_valid();
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
            "timestamps": report.times.iter().map(by_whom).collect::<Vec<_>>(),
            "logs": report.logs,
            "operator_could_forge": report.operator_could_forge,
            "checks": report.checks,
            "not_checked": report.not_checked,
        });
        if let Some(reason) = why_not(report) {
            told["reason"] = json!(reason);
        }
        if let Some(predicate) = &report.predicate_type {
            told["predicate_type"] = json!(predicate);
        }
        told
    }
}

/// The checks that failed, by their codes.
fn why_not(report: &Report) -> Option<String> {
    let reasons: Vec<_> = report.failures().map(|code| code.name()).collect();
    if reasons.is_empty() { None } else { Some(reasons.join(", ")) }
}

fn is_detached(wanted: &tools::Verify) -> bool {
    wanted.certificate.is_some() || wanted.public_key.is_some()
}

fn fits_together(wanted: &tools::Verify) -> Result<(), Failure> {
    let why = match (is_detached(wanted), wanted.log.is_some(), &wanted.bundle) {
        (true, _, Some(_)) | (_, true, Some(_)) => {
            "a bundle has its own certificate or key and its own log entry: leave the others out"
        }
        (false, true, None) => "log: a signature that is looked up needs its `certificate` or `public_key`",
        (true, _, None) if wanted.public_key.is_some() && wanted.certificate.is_some() => {
            "give a certificate or a public key, not both"
        }
        (true, _, None) if wanted.public_key.is_some() && wanted.identity.is_some() => {
            "a public key names nobody: leave `identity` out"
        }
        (true, _, None) if wanted.signature.is_none() => "give the `signature` to verify, in base64",
        (_, _, _) => return Ok(()),
    };
    Err(Failure::Input(why.to_owned()))
}

/// Whose word for the time held.
fn by_whom(time: &SignedTime) -> Value {
    json!({ "at": rfc3339(time.seconds * 1000), "by": time.source, "operator": time.operator })
}
