//! Checkpoints: signed tree heads, per C2SP tlog-checkpoint v1.0.0.
//!
//! A log's key has the log's origin as its name; this crate demands what the specification recommends.

use crate::b64;
use crate::merkle::{Hash, empty_root};
use crate::note::{NoteError, NoteSigner, SignedNote, VerifierKey};

/// A tree head: which log, how many leaves, which root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's identity, also the name of its key.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root of the RFC 6962 tree of that size.
    pub root: Hash,
    /// Opaque further lines. Ours have none.
    pub extensions: Vec<String>,
}

/// Why a checkpoint was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The text is not the text of a checkpoint.
    #[error("malformed checkpoint: {0}")]
    Malformed(&'static str),
    /// The checkpoint is of another log than the key, or than the one expected.
    #[error("the checkpoint is of log {actual:?}, not {expected:?}")]
    Origin {
        /// Origin in the checkpoint.
        actual: String,
        /// Name of the key.
        expected: String,
    },
    /// The note around it is malformed or not signed.
    #[error(transparent)]
    Note(#[from] NoteError),
}

impl Checkpoint {
    /// A checkpoint without extension lines.
    pub fn new(origin: impl Into<String>, size: u64, root: Hash) -> Self {
        Self { origin: origin.into(), size, root, extensions: Vec::new() }
    }

    /// The note text: what the log signs and witnesses cosign.
    pub fn body(&self) -> String {
        let mut body = format!("{}\n{}\n{}\n", self.origin, self.size, b64::encode(&self.root));
        for line in &self.extensions {
            body.push_str(line);
            body.push('\n');
        }
        body
    }

    /// Reads a note text. This verifies no signature.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`].
    pub fn parse(body: &str) -> Result<Self, CheckpointError> {
        let malformed = CheckpointError::Malformed;
        let body = body.strip_suffix('\n').ok_or(malformed("no final newline"))?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(malformed("fewer than three lines"));
        };
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if origin.is_empty() || extensions.iter().any(String::is_empty) {
            return Err(malformed("an empty line"));
        }
        let size = parse_decimal(size).ok_or(malformed("the size is not a decimal number"))?;
        let root = b64::decode32(root).ok_or(malformed("the root is not the base64 of 32 bytes"))?;
        if size == 0 && root != empty_root() {
            return Err(malformed("an empty tree with the root of another"));
        }
        Ok(Self { origin: origin.to_owned(), size, root, extensions })
    }

    /// The whole note, signed by the log's key, whose name must be the origin.
    ///
    /// # Errors
    /// [`CheckpointError::Origin`] if the signer has another name; [`CheckpointError::Malformed`] if this checkpoint
    /// could not be read back.
    pub fn sign(&self, signer: &NoteSigner) -> Result<String, CheckpointError> {
        self.check_origin(signer.name())?;
        let body = self.body();
        if Self::parse(&body).as_ref() != Ok(self) {
            return Err(CheckpointError::Malformed("a field contains a line break or is empty"));
        }
        Ok(SignedNote::sign(&body, &[signer])?.to_string())
    }

    /// Reads a whole note and verifies the log's signature.
    ///
    /// # Errors
    /// [`CheckpointError`], if the note is malformed, of another log, or not signed by `key`.
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, CheckpointError> {
        let note = SignedNote::parse(note)?;
        note.verify(key)?;
        let checkpoint = Self::parse(note.text())?;
        checkpoint.check_origin(key.name())?;
        Ok(checkpoint)
    }

    fn check_origin(&self, expected: &str) -> Result<(), CheckpointError> {
        if self.origin == expected {
            return Ok(());
        }
        Err(CheckpointError::Origin { actual: self.origin.clone(), expected: expected.to_owned() })
    }
}

/// An ASCII decimal without sign and without leading zeroes.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}
