//! Rekor's first version as it answers over HTTP: its search index, and entries with proof and promise
//! (`openapi.yaml` of `sigstore/rekor`). Where entries stand in bundles, [`crate::bundle`] reads them.
//!
//! Nothing that it answers is believed: an entry is the one that was asked for if its leaf has the hash in its name, and it
//! counts as logged if the log's signatures over promise and checkpoint hold ([`evidence`]).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::canonical::{Limits, parse_strict};
use countersign_proof::digest::Digest;
use countersign_proof::merkle::{Hash, MAX_PROOF_HASHES, leaf_hash};
use countersign_proof::note::MAX_NOTE_BYTES;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::certificate::{Certificate, Identity};
use crate::entry::{InclusionProof, LogEntry};
use crate::keys::HashAlgorithm;
use crate::report::{Code, LogPlace, SignedTime};
use crate::root::TrustedRoot;
use crate::verify::{Said, check_evidence, said};
use crate::wire::ShapeError;

/// Where the index is asked, beneath a log's URL.
pub const INDEX_PATH: &str = "api/v1/index/retrieve";
/// Beneath which entries are, by their names.
pub const ENTRIES_PATH: &str = "api/v1/log/entries/";
/// The largest answer of the index that is read, in bytes.
pub const MAX_INDEX_BYTES: usize = 1 << 20;
/// The largest answer with an entry that is read, in bytes: entries may embed statements.
pub const MAX_ENTRY_BYTES: usize = 4 << 20;
/// The largest body of an entry, in bytes.
const MAX_BODY_BYTES: usize = 2 << 20;

/// An entry's name: the hash of its leaf, behind the number of its tree where there is one, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryName(String);

impl EntryName {
    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let good =
            matches!(text.len(), 64 | 80) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        good.then(|| Self(text.to_owned()))
    }

    /// As it is asked for.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn leaf(&self) -> &str {
        &self.0[self.0.len() - 64..]
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A search for entries about an artifact.
pub fn search_for(artifact: &Digest) -> Vec<u8> {
    json!({ "hash": artifact.to_string() }).to_string().into_bytes()
}

/// A search for entries by the holder of a mail address; nothing, if that is none.
pub fn search_by(mail: &str) -> Option<Vec<u8>> {
    let mail = Identity::mail(mail).ok()?;
    Some(json!({ "email": mail.text() }).to_string().into_bytes())
}

/// Reads what the index answers: names of entries.
///
/// # Errors
/// [`ShapeError`].
pub fn parse_index(json: &[u8]) -> Result<Vec<EntryName>, ShapeError> {
    if json.len() > MAX_INDEX_BYTES {
        return Err(ShapeError::Shape("the list of entries is too long".to_owned()));
    }
    let names: Vec<String> = serde_json::from_slice(json).map_err(|e| ShapeError::Shape(e.to_string()))?;
    let name =
        |text: &String| EntryName::parse(text).ok_or_else(|| ShapeError::Shape("not an entry's name".to_owned()));
    names.iter().map(name).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryWire {
    body: String,
    integrated_time: u64,
    #[serde(rename = "logID")]
    log_id: String,
    log_index: u64,
    #[serde(default)]
    verification: Option<VerificationWire>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct VerificationWire {
    #[serde(default)]
    inclusion_proof: Option<ProofWire>,
    #[serde(default)]
    signed_entry_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProofWire {
    checkpoint: String,
    hashes: Vec<String>,
    log_index: u64,
    root_hash: String,
    tree_size: u64,
}

/// Reads what a log answers when it is asked for an entry by its name. Its leaf is the one that the name means.
///
/// # Errors
/// [`ShapeError`].
pub fn parse_entry(json: &[u8], name: &EntryName) -> Result<LogEntry, ShapeError> {
    let shape = |text: &str| ShapeError::Shape(text.to_owned());
    if json.len() > MAX_ENTRY_BYTES {
        return Err(shape("the entry is too large"));
    }
    let mut wire: BTreeMap<String, EntryWire> =
        serde_json::from_slice(json).map_err(|e| ShapeError::Shape(e.to_string()))?;
    let (Some((_, wire)), true) = (wire.pop_first(), wire.is_empty()) else {
        return Err(shape("not exactly one entry"));
    };
    let body = bytes(&wire.body).filter(|body| body.len() <= MAX_BODY_BYTES);
    let body = body.ok_or_else(|| shape("the body is not base64, or too large"))?;
    if hexadecimal(&leaf_hash(&body)) != name.leaf() {
        return Err(shape("it is another entry than the one that was asked for"));
    }
    let limits = Limits { max_bytes: MAX_BODY_BYTES, max_depth: 32 };
    let value = parse_strict(&body, &limits).map_err(|e| ShapeError::Shape(e.to_string()))?;
    let text = |member: &str| value[member].as_str().unwrap_or_default().to_owned();
    let verification = wire.verification.unwrap_or_default();
    let promise = verification.signed_entry_timestamp;
    let promise = promise.map(|text| bytes(&text).ok_or_else(|| shape("the promise is not base64")));
    Ok(LogEntry {
        log_index: wire.log_index,
        log_id: from_hexadecimal(&wire.log_id).ok_or_else(|| shape("the log's ID is not hexadecimal"))?,
        kind: text("kind"),
        version: text("apiVersion"),
        integrated_time: Some(wire.integrated_time).filter(|time| *time != 0),
        promise: promise.transpose()?,
        proof: verification.inclusion_proof.map(proof).transpose()?,
        body,
    })
}

fn proof(wire: ProofWire) -> Result<InclusionProof, ShapeError> {
    let shape = |text: &str| ShapeError::Shape(text.to_owned());
    if wire.hashes.len() > MAX_PROOF_HASHES || wire.checkpoint.len() > MAX_NOTE_BYTES {
        return Err(shape("an inclusion proof is beyond its bounds"));
    }
    let hash = |text: &String| -> Result<Hash, ShapeError> {
        let bytes = from_hexadecimal(text).and_then(|bytes| Hash::try_from(bytes).ok());
        bytes.ok_or_else(|| shape("a tree hash is not 32 bytes in hexadecimal"))
    };
    Ok(InclusionProof {
        index: wire.log_index,
        root: hash(&wire.root_hash)?,
        size: wire.tree_size,
        hashes: wire.hashes.iter().map(hash).collect::<Result<_, _>>()?,
        checkpoint: wire.checkpoint,
    })
}

/// What shows that an entry is logged, checked one by one; nothing where the log gave no such thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The proof that it is in a tree whose head the log signed.
    pub inclusion: Option<Result<LogPlace, (Code, String)>>,
    /// The log's signed word for when it took it.
    pub promise: Option<Result<SignedTime, (Code, String)>>,
}

/// Checks what a log gave with an entry, by the keys of a trusted root.
pub fn evidence(entry: &LogEntry, root: &TrustedRoot) -> Evidence {
    let (inclusion, promise) = check_evidence(entry, root);
    Evidence { inclusion, promise }
}

/// What an entry says, for people. None of it is verified by being in a log: whoever has a key can log anything with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Described {
    /// The artifact's digest, such as `sha256:…`, where the entry is about one alone.
    pub artifact: Option<String>,
    /// The digest of the statement, where it is about one.
    pub payload: Option<String>,
    /// The signature.
    pub signature: Option<Vec<u8>>,
    /// DER of the signer's certificate or public key.
    pub verifier: Option<Vec<u8>>,
    /// Who signed, as the certificate says.
    pub signer: Option<String>,
    /// Who vouched for that, as the certificate says.
    pub issuer: Option<String>,
}

/// Reads an entry's body, as far as its kind is known here.
pub fn describe(entry: &LogEntry) -> Described {
    let limits = Limits { max_bytes: MAX_BODY_BYTES, max_depth: 32 };
    let body = parse_strict(&entry.body, &limits).unwrap_or(Value::Null);
    let Some(Said { signature, verifier, hash, digest }) = said(&entry.kind, &entry.version, &body) else {
        return Described::default();
    };
    let digest = hash.zip(digest).map(|(hash, digest): (HashAlgorithm, _)| format!("{}:{digest}", hash.in_toto_name()));
    let certificate = verifier.as_ref().and_then(|der| Certificate::from_der(der).ok());
    let is_artifact = entry.kind == crate::hashedrekord::KIND;
    Described {
        artifact: digest.clone().filter(|_| is_artifact),
        payload: digest.filter(|_| !is_artifact),
        signature,
        verifier,
        signer: certificate.as_ref().and_then(|c| c.identity().ok()).map(|identity| identity.text().to_owned()),
        issuer: certificate.as_ref().and_then(|c| c.identity_issuer().ok()),
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let nibble = |b: u8| char::from(b).to_digit(16).and_then(|n| u8::try_from(n).ok());
    if !text.len().is_multiple_of(2) || text.len() > 256 {
        return None;
    }
    text.as_bytes().chunks(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect()
}
