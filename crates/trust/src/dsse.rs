//! DSSE envelopes (v1.0) around in-toto statements (v1).

use countersign_proof::canonical::{CanonicalError, Limits, canonical_of};
use countersign_proof::digest::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::keys::HashAlgorithm;
use crate::wire::{self, ShapeError};

/// The payload type of in-toto statements.
pub const IN_TOTO_PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The type of the statements that are made here.
pub const STATEMENT_V1: &str = "https://in-toto.io/Statement/v1";
/// An older type, still read.
const STATEMENT_V0_1: &str = "https://in-toto.io/Statement/v0.1";
/// The largest payload that is read, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 8 << 20;
/// The deepest nesting in a payload that is read.
pub const MAX_PAYLOAD_DEPTH: usize = 64;
/// Most subjects of a statement.
pub const MAX_SUBJECTS: usize = 4096;
/// Most JSON values in all subjects together, annotations included.
pub const MAX_SUBJECT_VALUES: usize = 1 << 17;

/// A payload with its type and signature. Sigstore's envelopes have exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// What is stated.
    pub payload: Vec<u8>,
    /// What the payload is.
    pub payload_type: String,
    /// Over [`Envelope::pae`]; DER for ECDSA.
    pub signature: Vec<u8>,
    /// A hint that nobody may rely on; usually empty.
    pub key_id: String,
}

impl Envelope {
    /// What is signed.
    pub fn pae(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }
}

/// Pre-authentication encoding (DSSE protocol, "Signature Definition").
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

/// An in-toto statement: what is said about which artifacts. Predicates are not looked at here: they are others' words, with
/// numbers that not every reader holds (nanoseconds), and may be large, so that they stay the text that was signed.
#[derive(Debug, Clone, Serialize)]
pub struct Statement {
    /// [`STATEMENT_V1`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// The artifacts.
    pub subject: Vec<Subject>,
    /// What kind of predicate.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What is said, in JSON; `null` where there is none.
    pub predicate: Box<RawValue>,
}

/// Its parts, which are looked at one by one.
#[derive(Deserialize)]
struct StatementWire<'a> {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(borrow)]
    subject: &'a RawValue,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    #[serde(borrow, default)]
    predicate: Option<&'a RawValue>,
}

/// An artifact that a statement is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name; nothing is checked against it.
    #[serde(default)]
    pub name: String,
    /// Algorithm names to lower-case hexadecimal digests.
    pub digest: Map<String, Value>,
    /// Members that are not looked at, such as annotations.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Why a payload is no statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Not JSON, or without the members of a statement.
    #[error("the payload is not an in-toto statement: {0}")]
    Shape(#[from] ShapeError),
    /// Of another type.
    #[error("the payload is of type {0:?}, not an in-toto statement")]
    Type(String),
    /// No subject, or too many.
    #[error("a statement has 1 to {MAX_SUBJECTS} subjects, of at most {MAX_SUBJECT_VALUES} values")]
    Subjects,
    /// It cannot be written.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
}

impl Statement {
    /// A statement about one artifact.
    pub fn about(name: &str, digest: &Digest, predicate_type: &str, predicate: Value) -> Self {
        let digest = Map::from_iter([("sha256".to_owned(), digest.hex().into())]);
        let subject = vec![Subject { name: name.to_owned(), digest, more: Map::new() }];
        // A JSON value can always be written as one.
        let predicate = to_raw_value(&predicate).unwrap_or_default();
        Self { kind: STATEMENT_V1.to_owned(), subject, predicate_type: predicate_type.to_owned(), predicate }
    }

    /// RFC 8785 bytes, the payload of an envelope.
    ///
    /// # Errors
    /// [`StatementError::Canonical`].
    pub fn to_payload(&self) -> Result<Vec<u8>, StatementError> {
        Ok(canonical_of(self)?)
    }

    /// Reads a payload. A name that an object has twice is refused, since two readers could understand it differently; numbers
    /// are not looked at.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn parse(payload_type: &str, payload: &[u8]) -> Result<Self, StatementError> {
        if payload_type != IN_TOTO_PAYLOAD_TYPE {
            return Err(StatementError::Type(payload_type.to_owned()));
        }
        let limits = Limits { max_bytes: MAX_PAYLOAD_BYTES, max_depth: MAX_PAYLOAD_DEPTH };
        let shape = |error: serde_json::Error| ShapeError::Shape(error.to_string());
        wire::count_values(payload, &limits).map_err(ShapeError::Json)?;
        let parts: StatementWire<'_> = serde_json::from_slice(payload).map_err(shape)?;
        if parts.kind != STATEMENT_V1 && parts.kind != STATEMENT_V0_1 {
            return Err(StatementError::Type(parts.kind));
        }
        // Before anything is made of them: in memory, a value takes a multiple of its text.
        if wire::count_values(parts.subject.get().as_bytes(), &limits).map_err(ShapeError::Json)? > MAX_SUBJECT_VALUES {
            return Err(StatementError::Subjects);
        }
        let subject: Vec<Subject> = serde_json::from_str(parts.subject.get()).map_err(shape)?;
        if subject.is_empty() || subject.len() > MAX_SUBJECTS {
            return Err(StatementError::Subjects);
        }
        let predicate = parts.predicate.map(RawValue::to_owned).unwrap_or_default();
        Ok(Self { kind: parts.kind, subject, predicate_type: parts.predicate_type, predicate })
    }

    /// Some members of the predicate; nothing where one that must be there is not, or is of another type.
    pub(crate) fn predicate_as<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.predicate.get()).ok()
    }

    /// Whether a subject has this digest.
    pub fn is_about(&self, hash: HashAlgorithm, digest: &[u8]) -> bool {
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        self.subject.iter().any(|s| s.digest.get(hash.in_toto_name()).is_some_and(|d| d == hex.as_str()))
    }

    /// Whether a subject has a digest of this kind at all.
    pub fn uses(&self, hash: HashAlgorithm) -> bool {
        self.subject.iter().any(|s| s.digest.contains_key(hash.in_toto_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_protocol() {
        // The test vector of DSSE's protocol.md.
        let expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(pae("http://example.com/HelloWorld", b"hello world"), expected);
    }

    #[test]
    fn a_statement_is_read_back_and_says_what_it_is_about() {
        let digest = Digest::of(b"abc");
        let statement = Statement::about("a", &digest, "https://example.com/p", serde_json::json!({"x": 1}));
        let payload = statement.to_payload().unwrap();
        let read = Statement::parse(IN_TOTO_PAYLOAD_TYPE, &payload).unwrap();
        assert_eq!((&read.kind, &read.predicate_type), (&statement.kind, &statement.predicate_type));
        assert_eq!((&read.subject, read.predicate.get()), (&statement.subject, r#"{"x":1}"#));
        assert_eq!(read.to_payload().unwrap(), payload);
        assert!(read.is_about(HashAlgorithm::Sha256, digest.as_bytes()) && !read.uses(HashAlgorithm::Sha512));
        assert!(!read.is_about(HashAlgorithm::Sha256, Digest::of(b"abd").as_bytes()));
    }

    #[test]
    fn predicates_of_others_are_taken_as_they_are() {
        let text = |subject: &str, predicate: &str| {
            format!(r#"{{"_type":"{STATEMENT_V1}","predicateType":"p","subject":{subject}{predicate}}}"#)
        };
        let read = |subject: &str, predicate: &str| {
            Statement::parse(IN_TOTO_PAYLOAD_TYPE, text(subject, predicate).as_bytes())
        };
        let nested = |depth: usize| format!(r#","predicate":{}{}"#, "[".repeat(depth), "]".repeat(depth));
        let subject = r#"[{"digest":{},"annotations":{"at":1772366400123456789}}]"#;
        let nanoseconds = r#"{"at": 1772366400123456789,"size":18446744073709551616,"tiny":1e-400}"#;
        let statement = read(subject, &format!(r#","predicate":{nanoseconds}"#)).unwrap();
        assert_eq!(statement.predicate.get(), nanoseconds);
        assert!(matches!(statement.to_payload(), Err(StatementError::Canonical(_))), "we write no such numbers");
        for none in ["", r#","predicate":null"#] {
            assert_eq!(read(subject, none).unwrap().predicate.get(), "null");
        }
        assert!(read(subject, &nested(MAX_PAYLOAD_DEPTH - 1)).is_ok());
        let json = |error: StatementError| matches!(error, StatementError::Shape(ShapeError::Json(_)));
        assert!(json(read(subject, &nested(MAX_PAYLOAD_DEPTH)).unwrap_err()));
        assert!(json(read(subject, r#","predicate":{"a":[{"b":1,"b":2}]}"#).unwrap_err()));
        assert!(json(read(r#"[{"digest":{"sha256":"00","sha256":"01"}}]"#, "").unwrap_err()));
        let zeros = vec!["0"; MAX_SUBJECT_VALUES].join(",");
        assert!(read(subject, &format!(r#","predicate":[{zeros}]"#)).is_ok());
        let annotated = read(&format!(r#"[{{"digest":{{}},"annotations":[{zeros}]}}]"#), "");
        assert_eq!(annotated.unwrap_err(), StatementError::Subjects);
    }

    #[test]
    fn what_is_no_statement_is_refused() {
        let parse = |payload: &str| Statement::parse(IN_TOTO_PAYLOAD_TYPE, payload.as_bytes()).unwrap_err();
        assert!(matches!(parse("{}"), StatementError::Shape(_)));
        assert!(matches!(parse(r#"{"_type":"a","_type":"b"}"#), StatementError::Shape(ShapeError::Json(_))));
        let other = r#"{"_type":"https://x/","subject":[],"predicateType":"p","predicate":{}}"#;
        assert_eq!(parse(other), StatementError::Type("https://x/".to_owned()));
        assert_eq!(parse(&other.replace("https://x/", STATEMENT_V1)), StatementError::Subjects);
        assert!(matches!(Statement::parse("text/plain", b"{}"), Err(StatementError::Type(_))));
    }
}
