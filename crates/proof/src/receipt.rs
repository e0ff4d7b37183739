//! The receipt: one small JSON file that proves, offline and years later, what a node recorded.
//!
//! The format is specified in `docs/receipt.md`; this module is its structs, a builder, and [`verify`]. A receipt holds
//! its own event (the subject) and the events that led to it, each with its salt and its inclusion proof, and the signed
//! checkpoints that the proofs lead to. Keys in a receipt are hints for people; verification never uses them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::b64;
use crate::canonical::{CanonicalError, JsonError, Limits, canonical_of, parse_strict, to_canonical};
use crate::commitment::{Salt, commit, salted_digest};
use crate::digest::Digest;
use crate::merkle::{Hash, MAX_PROOF_HASHES};
use crate::report::Code;

mod checks;

pub use checks::verify;

/// Value of the member `format`.
pub const FORMAT: &str = "countersign-receipt/v1";
/// Version of events that this crate understands.
pub const EVENT_VERSION: u64 = 1;
/// Bounds on the JSON of a receipt: 4 MiB, 80 levels, so that an event of 64 levels fits in.
pub const LIMITS: Limits = Limits { max_bytes: 4 << 20, max_depth: 80 };
/// Most events in a receipt.
pub const MAX_EVENTS: usize = 64;
/// Most checkpoints in a receipt.
pub const MAX_CHECKPOINTS: usize = 16;
/// Most disclosures in a receipt.
pub const MAX_DISCLOSURES: usize = 128;

/// A receipt file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Always [`FORMAT`].
    pub format: String,
    /// ID of the receipt's own event; also the receipt's ID.
    pub subject: String,
    /// The subject and the events that led to it.
    pub events: Vec<ReceiptEvent>,
    /// Signed notes; exactly one for each log and tree size that an event's proof names.
    pub checkpoints: Vec<String>,
    /// Values whose digests stand in events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disclosures: Vec<Disclosure>,
    /// IDs of parents that are not among the events because the node erased their bodies. The file's own claim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erased: Vec<String>,
    /// Verifier keys, as hints. They are never trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An event with what opens its commitment and proves its place in a log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReceiptEvent {
    /// The event, a JSON object.
    pub event: Value,
    /// The salt of its commitment, base64.
    #[serde(with = "b64::array32")]
    pub salt: Salt,
    /// The commitment, stated so that a changed event and a changed proof can be told apart.
    pub commitment: Digest,
    /// Origin of the log that holds the commitment.
    pub log: String,
    /// Zero-based index in that log.
    pub index: u64,
    /// The inclusion proof.
    pub proof: InclusionProof,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An inclusion proof (RFC 6962 section 2.1.1) in the tree of a checkpoint of the same log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "ProofMembers")]
pub struct InclusionProof {
    /// Size of that tree.
    pub size: u64,
    /// From the leaf's sibling upwards, base64.
    #[serde(with = "b64::array32_list")]
    pub hashes: Vec<Hash>,
}

/// A derived reader would also take an array for the object; one with flattened members takes objects only.
#[derive(Deserialize)]
struct ProofMembers {
    size: u64,
    #[serde(with = "b64::array32_list")]
    hashes: Vec<Hash>,
    #[serde(flatten)]
    _other: Map<String, Value>,
}

impl From<ProofMembers> for InclusionProof {
    fn from(members: ProofMembers) -> Self {
        Self { size: members.size, hashes: members.hashes }
    }
}

/// Which of an event's digests a disclosure opens. The name is also the label in the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// The arguments: `input_digest`.
    Input,
    /// The result: `outcome.output_digest`.
    Output,
}

impl Label {
    /// The label's text in [`salted_digest`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

/// A value whose salted digest stands in an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disclosure {
    /// ID of the event.
    pub event: String,
    /// Which digest.
    pub label: Label,
    /// The digest's salt, base64.
    #[serde(with = "b64::array32")]
    pub salt: Salt,
    /// The value itself.
    pub value: Value,
    /// Members that this version does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Why a file is not a receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not acceptable JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Another format or version.
    #[error("the format is not {FORMAT:?}")]
    Format,
    /// A member is missing, of the wrong type, or beyond its bound.
    #[error("{0}")]
    Shape(String),
}

impl ReceiptError {
    /// The stable name of this refusal.
    pub fn code(&self) -> Code {
        match self {
            Self::Json(JsonError::TooLarge { .. }) => Code::TooLarge,
            Self::Json(_) => Code::Json,
            Self::Format => Code::Format,
            Self::Shape(_) => Code::Shape,
        }
    }
}

impl Receipt {
    /// Reads a receipt and checks its shape and bounds. This proves nothing; [`verify`] does.
    ///
    /// # Errors
    /// [`ReceiptError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let value = parse_strict(bytes, &LIMITS)?;
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(ReceiptError::Format);
        }
        let receipt: Self = serde_json::from_value(value).map_err(|e| ReceiptError::Shape(e.to_string()))?;
        receipt.check_bounds()?;
        Ok(receipt)
    }

    /// The file: indented JSON with a final newline.
    ///
    /// # Errors
    /// [`CanonicalError`], if a value cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CanonicalError> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|e| CanonicalError::Serialize(e.to_string()))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    fn check_bounds(&self) -> Result<(), ReceiptError> {
        let bounds = [
            ("events", self.events.len(), MAX_EVENTS),
            ("checkpoints", self.checkpoints.len(), MAX_CHECKPOINTS),
            ("disclosures", self.disclosures.len(), MAX_DISCLOSURES),
            ("erased events", self.erased.len(), MAX_EVENTS),
            ("keys", self.keys.len(), MAX_EVENTS),
            ("hashes", self.events.iter().map(|e| e.proof.hashes.len()).max().unwrap_or(0), MAX_PROOF_HASHES),
        ];
        match bounds.iter().find(|(_, actual, limit)| actual > limit) {
            Some((what, actual, limit)) => {
                Err(ReceiptError::Shape(format!("{actual} {what}; at most {limit} are accepted")))
            }
            None if self.events.is_empty() => Err(ReceiptError::Shape("a receipt has at least one event".into())),
            None => Ok(()),
        }
    }
}

impl ReceiptEvent {
    /// An event with its proof. The commitment is computed here.
    ///
    /// # Errors
    /// [`CanonicalError`], if the event has no RFC 8785 form.
    pub fn new(
        event: Value,
        salt: Salt,
        log: impl Into<String>,
        index: u64,
        proof: InclusionProof,
    ) -> Result<Self, CanonicalError> {
        let commitment = commit(&salt, &to_canonical(&event)?);
        Ok(Self { event, salt, commitment, log: log.into(), index, proof, other: Map::new() })
    }
}

impl Disclosure {
    /// A disclosure of `value` for the event with that ID.
    pub fn new(event: impl Into<String>, label: Label, salt: Salt, value: Value) -> Self {
        Self { event: event.into(), label, salt, value, other: Map::new() }
    }

    /// The digest that the event must hold.
    ///
    /// # Errors
    /// [`CanonicalError`], if the value has no RFC 8785 form.
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        Ok(salted_digest(self.label.as_str(), &self.salt, &to_canonical(&self.value)?))
    }
}

/// The digest that an event holds for its arguments or its result: [`salted_digest`] over the RFC 8785 bytes.
///
/// # Errors
/// [`CanonicalError`], if the value has no RFC 8785 form.
pub fn value_digest<T: Serialize>(label: Label, salt: &Salt, value: &T) -> Result<Digest, CanonicalError> {
    Ok(salted_digest(label.as_str(), salt, &canonical_of(value)?))
}

/// Assembles a [`Receipt`].
#[derive(Debug, Clone)]
pub struct ReceiptBuilder {
    receipt: Receipt,
}

impl ReceiptBuilder {
    /// A receipt for the event with this ID, which must be among the events added.
    pub fn new(subject: impl Into<String>) -> Self {
        let receipt = Receipt {
            format: FORMAT.to_owned(),
            subject: subject.into(),
            events: Vec::new(),
            checkpoints: Vec::new(),
            disclosures: Vec::new(),
            erased: Vec::new(),
            keys: Vec::new(),
            other: Map::new(),
        };
        Self { receipt }
    }

    /// Adds an event: parents first, the subject last, by custom.
    #[must_use]
    pub fn event(mut self, event: ReceiptEvent) -> Self {
        self.receipt.events.push(event);
        self
    }

    /// Adds a checkpoint, a whole signed note. The same note is kept once.
    #[must_use]
    pub fn checkpoint(mut self, note: impl Into<String>) -> Self {
        let note = note.into();
        if !self.receipt.checkpoints.contains(&note) {
            self.receipt.checkpoints.push(note);
        }
        self
    }

    /// Adds a disclosed value.
    #[must_use]
    pub fn disclosure(mut self, disclosure: Disclosure) -> Self {
        self.receipt.disclosures.push(disclosure);
        self
    }

    /// Says that a parent's body was erased, so that its absence is no mistake.
    #[must_use]
    pub fn erased(mut self, event: impl Into<String>) -> Self {
        let event = event.into();
        if !self.receipt.erased.contains(&event) {
            self.receipt.erased.push(event);
        }
        self
    }

    /// Adds a verifier key as a hint. The same key is kept once.
    #[must_use]
    pub fn key(mut self, key: impl ToString) -> Self {
        let key = key.to_string();
        if !self.receipt.keys.contains(&key) {
            self.receipt.keys.push(key);
        }
        self
    }

    /// The receipt, within its bounds.
    ///
    /// # Errors
    /// [`ReceiptError::Shape`], if there are no events or too many of something, or the subject is not among them.
    pub fn build(self) -> Result<Receipt, ReceiptError> {
        self.receipt.check_bounds()?;
        let subject = Value::String(self.receipt.subject.clone());
        if !self.receipt.events.iter().any(|entry| entry.event.get("id") == Some(&subject)) {
            return Err(ReceiptError::Shape("the subject is not among the events".into()));
        }
        Ok(self.receipt)
    }
}
