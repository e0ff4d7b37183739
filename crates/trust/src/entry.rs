//! A leaf with the proof that a log holds it: Rekor's `TransparencyLogEntry`, as its second version answers
//! `POST /api/v2/log/entries` with, and as bundles carry it.
//!
//! Entries of Rekor's first version are read too: they have a time and a promise (the "signed entry timestamp").

use countersign_proof::merkle::{Hash, MAX_PROOF_HASHES};
use countersign_proof::note::MAX_NOTE_BYTES;
use serde::{Deserialize, Serialize};

use crate::wire::{self, Base64, Int64, ShapeError};

/// The largest entry that is read, in bytes.
pub const MAX_ENTRY_BYTES: usize = 16 << 20;

/// A leaf, where it stands, and why one should believe that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Index in the log; in logs of Rekor's first version, over all shards.
    pub log_index: u64,
    /// ID of the log's key.
    pub log_id: Vec<u8>,
    /// Such as `hashedrekord`.
    pub kind: String,
    /// Such as `0.0.2`.
    pub version: String,
    /// When the log took it, in seconds; only Rekor's first version says so.
    pub integrated_time: Option<u64>,
    /// The log's signature over time, index and body; only of Rekor's first version.
    pub promise: Option<Vec<u8>>,
    /// The proof; bundles of version 0.3 always have one.
    pub proof: Option<InclusionProof>,
    /// The leaf.
    pub body: Vec<u8>,
}

/// That a leaf is in a tree whose head the log signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// Index in this tree.
    pub index: u64,
    /// Root of the tree.
    pub root: Hash,
    /// Leaves in the tree.
    pub size: u64,
    /// From the leaf's sibling upwards.
    pub hashes: Vec<Hash>,
    /// The signed head: a note.
    pub checkpoint: String,
}

impl LogEntry {
    /// Reads the JSON that a log answers.
    ///
    /// # Errors
    /// [`ShapeError`].
    pub fn parse(json: &[u8]) -> Result<Self, ShapeError> {
        Self::try_from(wire::parse::<EntryWire>(json, MAX_ENTRY_BYTES)?)
    }

    /// The JSON that a log answers.
    pub fn to_json(&self) -> Vec<u8> {
        wire::to_json(&EntryWire::from(self))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EntryWire {
    #[serde(default)]
    log_index: Int64,
    log_id: LogIdWire,
    kind_version: KindVersion,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    integrated_time: Option<Int64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inclusion_promise: Option<PromiseWire>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inclusion_proof: Option<ProofWire>,
    canonicalized_body: Base64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LogIdWire {
    pub(crate) key_id: Base64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KindVersion {
    kind: String,
    version: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PromiseWire {
    signed_entry_timestamp: Base64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProofWire {
    #[serde(default)]
    log_index: Int64,
    root_hash: Base64,
    tree_size: Int64,
    #[serde(default)]
    hashes: Vec<Base64>,
    checkpoint: CheckpointWire,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointWire {
    envelope: String,
}

impl From<&LogEntry> for EntryWire {
    fn from(entry: &LogEntry) -> Self {
        let signed = |promise: &Vec<u8>| PromiseWire { signed_entry_timestamp: Base64(promise.clone()) };
        Self {
            log_index: Int64(entry.log_index),
            log_id: LogIdWire { key_id: Base64(entry.log_id.clone()) },
            kind_version: KindVersion { kind: entry.kind.clone(), version: entry.version.clone() },
            integrated_time: entry.integrated_time.map(Int64),
            inclusion_promise: entry.promise.as_ref().map(signed),
            inclusion_proof: entry.proof.as_ref().map(ProofWire::from),
            canonicalized_body: Base64(entry.body.clone()),
        }
    }
}

impl From<&InclusionProof> for ProofWire {
    fn from(proof: &InclusionProof) -> Self {
        Self {
            log_index: Int64(proof.index),
            root_hash: Base64(proof.root.to_vec()),
            tree_size: Int64(proof.size),
            hashes: proof.hashes.iter().map(|hash| Base64(hash.to_vec())).collect(),
            checkpoint: CheckpointWire { envelope: proof.checkpoint.clone() },
        }
    }
}

impl TryFrom<EntryWire> for LogEntry {
    type Error = ShapeError;

    fn try_from(wire: EntryWire) -> Result<Self, ShapeError> {
        Ok(Self {
            log_index: wire.log_index.0,
            log_id: wire.log_id.key_id.0,
            kind: wire.kind_version.kind,
            version: wire.kind_version.version,
            // Protobuf writes a time that is not there as 0.
            integrated_time: wire.integrated_time.map(|t| t.0).filter(|t| *t != 0),
            promise: wire.inclusion_promise.map(|p| p.signed_entry_timestamp.0),
            proof: wire.inclusion_proof.map(InclusionProof::try_from).transpose()?,
            body: wire.canonicalized_body.0,
        })
    }
}

impl TryFrom<ProofWire> for InclusionProof {
    type Error = ShapeError;

    fn try_from(wire: ProofWire) -> Result<Self, ShapeError> {
        let shape = |text: &str| ShapeError::Shape(text.to_owned());
        if wire.hashes.len() > MAX_PROOF_HASHES || wire.checkpoint.envelope.len() > MAX_NOTE_BYTES {
            return Err(shape("an inclusion proof is beyond its bounds"));
        }
        let hash = |bytes: Base64| Hash::try_from(bytes.0).map_err(|_| shape("a tree hash is not 32 bytes long"));
        Ok(Self {
            index: wire.log_index.0,
            root: hash(wire.root_hash)?,
            size: wire.tree_size.0,
            hashes: wire.hashes.into_iter().map(hash).collect::<Result<_, _>>()?,
            checkpoint: wire.checkpoint.envelope,
        })
    }
}
