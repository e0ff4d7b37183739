//! `sign`, and what a signature looks like from then on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_domain::Principal;
use countersign_ledger::objects::ObjectRef;
use countersign_ledger::state::StateOp;
use countersign_ledger::trust::{TrustKind, TrustRow};
use countersign_ledger::{Append, Inclusion, PublicEntry};
use countersign_proof::digest::Digest;
use countersign_proof::note::VerifierKey;
use countersign_trust::bundle::{Bundle, Content, Material};
use countersign_trust::dsse::{Envelope, IN_TOTO_PAYLOAD_TYPE, Statement};
use countersign_trust::hashedrekord::{HashedRekord, Verifier};
use countersign_trust::keys::HashAlgorithm;
use countersign_trust::pem;
use countersign_trust::scans::Scan;
use countersign_trust::sign::{Logged, Payload, Signatory, log_entry, prepare};
use countersign_trust::timestamp::Token;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::custody::{CustodyError, entropy};
use super::images::{Image, SIGNED_IMAGE};
use super::stamping::Stamped;
use super::{Trust, tools};
use crate::capability::Failure;
use crate::time::rfc3339;

/// The most bytes of a statement.
const MAX_STATEMENT: usize = 64 << 10;

/// What is kept of a signature beside its public entry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The signature, base64: what lists show without a look into the log.
    pub signature: String,
    /// DER of the timestamp's answer, base64.
    pub timestamp: String,
    /// Stamps of others over the signature.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<OutsideStamp>,
    /// The statement's bytes, base64, if it is one about the artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statement: Option<String>,
    /// The marks of whoever counts as the signer: the caller, and the person behind it.
    #[serde(default)]
    pub authors: Vec<String>,
    /// What the signer said of it.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// Who vouches for the signer, if it is not this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// What a scanner's document says, as this node read it. Beside the metadata, so that nobody can say it in the document's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan: Option<Scan>,
    /// Where that document is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// Where the image is that was signed by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<KeptImage>,
}

/// An image's name, by which it was signed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptImage {
    pub reference: String,
}

/// A scanner's document that is signed: what it says, and where it is kept.
pub(super) struct Scanned {
    pub scan: Scan,
    pub object: ObjectRef,
}

/// Why a recorded signature cannot be put together again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unpieced {
    #[error("it has no entry in the log")]
    NoEntry,
    #[error("its entry is not yet under a checkpoint")]
    NotYet,
    #[error("{0}")]
    Unreadable(String),
}

/// What an outside timestamp authority gave.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OutsideStamp {
    /// Who runs it.
    by: String,
    /// DER of its answer, base64.
    timestamp: String,
}

impl From<CustodyError> for Failure {
    fn from(error: CustodyError) -> Self {
        match error {
            CustodyError::Append(error) => error.into(),
            CustodyError::Store(error) => error.into(),
            CustodyError::TooMany => Self::Exists(error.to_string()),
            CustodyError::Unusable(why) => Self::Undone(why),
        }
    }
}

impl Trust {
    pub(super) async fn sign(&self, principal: &Principal, wanted: tools::Sign) -> Result<Value, Failure> {
        self.signed(principal, wanted, None).await
    }

    /// Signs; the scan is what the artifact, a scanner's document, says.
    pub(super) async fn signed(
        &self,
        principal: &Principal,
        wanted: tools::Sign,
        scanned: Option<Scanned>,
    ) -> Result<Value, Failure> {
        let image = match &wanted.image {
            Some(reference) => Some(self.images.resolve(reference).await?),
            None => None,
        };
        let digest = artifact_of(image.as_ref(), wanted.artifact.as_deref())?;
        let metadata = wanted.metadata.unwrap_or_default();
        let (scan, object) = scanned.map(|scanned| (scanned.scan, scanned.object)).unzip();
        within_bounds(&metadata, scan.as_ref())?;
        // What cosign looks for beside an image is a statement about it.
        let of_image = || tools::Claim { predicate_type: SIGNED_IMAGE.to_owned(), predicate: json!({}) };
        let claim = wanted.statement.or_else(|| image.as_ref().map(|_| of_image()));
        let statement = claim.map(|claim| stated(claim, wanted.subject.as_deref(), &digest)).transpose()?;
        let authority = self.custody.authorities().await?;
        let named = self.identity(principal).await?;
        let (signer, vouched) = (named.identity.text().to_owned(), named.issuer.clone());
        let (now, seed) = ((self.clock)(), entropy()?);
        let (unlogged, statement) = self
            .computing
            .run(move || {
                let who = Signatory { identity: &named.identity, issuer: &named.issuer };
                let payload = statement.as_deref().map_or(Payload::Artifact(digest), Payload::Statement);
                (prepare(&authority.current, who, &payload, &seed, now), statement)
            })
            .await?;
        let unlogged = unlogged.map_err(|e| Failure::Undone(format!("nothing was signed: {e}")))?;
        let (outside, without) = self.stamped(unlogged.signature()).await?;
        let id = Uuid::now_v7();
        let chain = metadata.get("scan_id").and_then(Value::as_str).map(str::to_owned);
        let kept = Kept {
            authors: self.authors(principal).await?,
            issuer: Some(vouched).filter(|issuer| issuer != self.custody.issuer()),
            signature: STANDARD.encode(unlogged.signature()),
            timestamp: STANDARD.encode(&unlogged.timestamps()[0]),
            outside,
            statement: statement.map(|bytes| STANDARD.encode(bytes)),
            metadata,
            scan,
            object,
            image: image.as_ref().map(|image| KeptImage { reference: image.name.clone() }),
        };
        let row = TrustRow {
            id,
            workspace: principal.workspace.clone(),
            kind: TrustKind::Signature,
            at: now,
            artifact: digest.to_string(),
            artifact_type: wanted.artifact_type,
            subject: wanted.subject,
            chain,
            signer,
            valid: None,
            body: serde_json::to_string(&kept).map_err(|e| Failure::Undone(e.to_string()))?,
        };
        self.record(&row, unlogged.leaf()).await?;
        // It is signed and logged.
        let mut shown = self.shown(&row).await.map_err(Failure::after_the_fact)?;
        if let Some(why) = without {
            shown["outside_timestamp"] = json!({ "held": false, "problem": why });
        }
        if let Some(image) = image {
            shown["image"] = image.push(shown["bundle"].to_string().as_bytes(), &rfc3339(now)).await;
        }
        Ok(shown)
    }

    /// A signature into the log, with the row by which it is found: one append.
    pub(super) async fn record(&self, row: &TrustRow, leaf: &[u8]) -> Result<(), Failure> {
        let entry = PublicEntry::new(row.id, row.workspace.clone(), leaf.to_vec());
        let entries = vec![entry.map_err(|e| Failure::Undone(format!("nothing was logged: {e}")))?];
        let ops = vec![StateOp::TrustRecord { row: Box::new(row.clone()) }];
        self.ledger.append(Append { entries, ops, ..Append::default() }).await?;
        Ok(())
    }

    /// What an outside authority says about the time, or why it says nothing.
    async fn stamped(&self, signature: &[u8]) -> Result<(Vec<OutsideStamp>, Option<String>), Failure> {
        let Some(stamping) = &self.outside.stamping else { return Ok((Vec::new(), None)) };
        Ok(match stamping.stamp(signature, &self.computing).await? {
            Stamped::No(why) => (Vec::new(), Some(why)),
            Stamped::Yes(answer) => {
                let by = stamping.operator().to_owned();
                (vec![OutsideStamp { by, timestamp: STANDARD.encode(answer) }], None)
            }
        })
    }

    /// A signature as callers see it.
    pub(super) async fn shown(&self, row: &TrustRow) -> Result<Value, Failure> {
        let whole = self.whole(row).await?;
        let mut shown = json!({
            "entry_id": row.id.to_string(),
            "artifact": row.artifact,
            "artifact_type": row.artifact_type,
            "subject": row.subject,
            "timestamp": rfc3339(row.at),
            "signature": whole.kept.signature,
            "certificate": whole.certificate.as_deref().map(|der| pem::encode(der, pem::CERTIFICATE)),
            "signer": row.signer,
            "issuer": whole.kept.issuer.as_deref().unwrap_or(self.custody.issuer()),
            "transparency_entry": {
                "uuid": row.id.to_string(), "index": whole.inclusion.index, "log": whole.inclusion.origin,
                "timestamp": rfc3339(row.at),
            },
            "rekor_url": self.url_of(row.id),
            "timestamps": self.timestamps(&whole),
            "metadata": whole.kept.metadata,
            "bundle": serde_json::from_slice::<Value>(&whole.bundle.to_json()).unwrap_or_default(),
        });
        if let Some(scan) = &whole.kept.scan {
            shown["scan"] = json!(scan);
        }
        Ok(shown)
    }

    /// By whom a signature was stamped, and when.
    fn timestamps(&self, whole: &Whole) -> Vec<Value> {
        let others = whole.kept.outside.iter().map(|stamp| stamp.by.as_str());
        let by = std::iter::once(self.custody.issuer()).chain(others);
        let at =
            whole.bundle.timestamps.iter().map(|der| Token::from_response(der).map(|t| rfc3339(t.seconds() * 1000)));
        at.zip(by).map(|(at, by)| json!({ "at": at.ok(), "by": by })).collect()
    }

    /// Where a signature is found.
    pub(super) fn url_of(&self, id: Uuid) -> String {
        format!("{}/v1/signatures/{id}", self.base_url)
    }

    /// A recorded signature put together again, proved against the log's newest checkpoint.
    pub(super) async fn whole(&self, row: &TrustRow) -> Result<Whole, Failure> {
        self.pieced(row).await?.map_err(|why| Failure::Undone(format!("signature {}: {why}", row.id)))
    }

    /// The same, where it is a finding that this cannot be done.
    pub(super) async fn pieced(&self, row: &TrustRow) -> Result<Result<Whole, Unpieced>, Failure> {
        let id = row.id;
        let Some(entry) = self.read(move |r| r.public_entry(id)).await? else { return Ok(Err(Unpieced::NoEntry)) };
        let Some(inclusion) = self.ledger.inclusion(entry.shard, entry.index).await? else {
            return Ok(Err(Unpieced::NotYet));
        };
        let kept = serde_json::from_str::<Kept>(&row.body).map_err(|e| e.to_string());
        Ok(kept.and_then(|kept| assemble(&entry.body, kept, inclusion)).map_err(Unpieced::Unreadable))
    }
}

/// What is to be signed: the image as the registry has it, or what the caller names.
fn artifact_of(image: Option<&Image>, artifact: Option<&str>) -> Result<Digest, Failure> {
    let named = artifact.map(tools::digest).transpose()?;
    match (image, named) {
        (None, None) => Err(Failure::Input("give an artifact by its digest, or an image".to_owned())),
        (None, Some(digest)) => Ok(digest),
        (Some(image), named) => {
            let actual = image.resolved.digest;
            let other = || Failure::Input(format!("the registry has {actual} under {}, another artifact", image.name));
            if named.is_none_or(|digest| digest == actual) { Ok(actual) } else { Err(other()) }
        }
    }
}

/// The bytes of a statement about the artifact.
fn stated(claim: tools::Claim, name: Option<&str>, digest: &Digest) -> Result<Vec<u8>, Failure> {
    let statement = Statement::about(name.unwrap_or_default(), digest, &claim.predicate_type, claim.predicate);
    let bytes = statement.to_payload().map_err(|e| Failure::Input(format!("statement: {e}")))?;
    if bytes.len() > MAX_STATEMENT {
        return Err(Failure::Input(format!("a statement has at most {MAX_STATEMENT} bytes")));
    }
    Ok(bytes)
}

/// What is kept beside a signature has a bound, whoever says it.
pub(super) fn within_bounds(metadata: &Map<String, Value>, scan: Option<&Scan>) -> Result<(), Failure> {
    let bytes = |json: serde_json::Result<Vec<u8>>| json.map_or(usize::MAX, |text| text.len());
    let of_scan = scan.map_or(0, |scan| bytes(serde_json::to_vec(scan)));
    if bytes(serde_json::to_vec(metadata)).saturating_add(of_scan) > tools::MAX_METADATA {
        return Err(Failure::Input(format!("metadata is more than {} bytes long", tools::MAX_METADATA)));
    }
    Ok(())
}

/// A signature with everything that a verifier wants.
pub(super) struct Whole {
    pub bundle: Bundle,
    /// DER.
    pub certificate: Option<Vec<u8>>,
    /// The key, where there is no certificate: DER.
    pub key: Option<Vec<u8>>,
    pub inclusion: Inclusion,
    pub kept: Kept,
}

fn assemble(leaf: &[u8], kept: Kept, inclusion: Inclusion) -> Result<Whole, String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let record = HashedRekord::parse_body(leaf).map_err(|e| words(&e))?;
    let log: VerifierKey = inclusion.vkey.parse().map_err(|e| words(&e))?;
    let proof = inclusion.hashes.clone();
    let logged = Logged { index: inclusion.index, proof, checkpoint: &inclusion.checkpoint, log: &log };
    let entries = vec![log_entry(leaf, &logged).map_err(|e| words(&e))?];
    let (material, certificate, key) = match record.verifier {
        Verifier::Certificate(der) => (Material::Certificate(der.clone()), Some(der), None),
        // Registered keys of workspaces; verifiers are given them otherwise.
        Verifier::PublicKey(spki) => (Material::PublicKeyHint(Digest::of(&spki).to_base64()), None, Some(spki)),
    };
    let content = match &kept.statement {
        None => Content::MessageSignature {
            digest: Some((HashAlgorithm::Sha256, record.digest)),
            signature: record.signature,
        },
        Some(statement) => Content::Dsse(Envelope {
            payload: STANDARD.decode(statement).map_err(|e| words(&e))?,
            payload_type: IN_TOTO_PAYLOAD_TYPE.to_owned(),
            signature: record.signature,
            key_id: String::new(),
        }),
    };
    let stamps = std::iter::once(&kept.timestamp).chain(kept.outside.iter().map(|stamp| &stamp.timestamp));
    let timestamps = stamps.map(|text| STANDARD.decode(text)).collect::<Result<_, _>>().map_err(|e| words(&e))?;
    Ok(Whole { bundle: Bundle { material, entries, timestamps, content }, certificate, key, inclusion, kept })
}
