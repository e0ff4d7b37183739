//! Offline proofs that an entry is in a log, per C2SP tlog-proof v1.
//!
//! The file names an index and carries an inclusion proof and a checkpoint with its cosignatures. It does not say which
//! entry it is about: the reader brings that, or finds it in the extra data, which the proof then authenticates. Our own
//! files carry the log entry itself as extra data.

use std::fmt;

use crate::b64;
use crate::checkpoint::{Checkpoint, CheckpointError, parse_decimal};
use crate::merkle::{Hash, MAX_PROOF_HASHES, ProofError, leaf_hash, verify_inclusion};
use crate::note::{MAX_NOTE_BYTES, NoteError, SignedNote, VerifierKey};

/// First line of the file.
pub const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Most bytes of extra data that are read.
pub const MAX_EXTRA_BYTES: usize = 64 * 1024;

/// A proof file taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Opaque data of the application; not authenticated by the format.
    pub extra: Option<Vec<u8>>,
    /// Zero-based index of the entry.
    pub index: u64,
    /// Inclusion proof, from the leaf's sibling upwards.
    pub hashes: Vec<Hash>,
    /// The checkpoint, a signed note, verbatim.
    pub checkpoint: SignedNote,
}

/// Why a proof file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// The file is not of the format.
    #[error("malformed tlog-proof: {0}")]
    Malformed(&'static str),
    /// The note in it is malformed.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The checkpoint in it is malformed or not signed by the key.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The entry is not at that index in that tree.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

impl TlogProof {
    /// Reads a proof file. This verifies nothing.
    ///
    /// # Errors
    /// [`TlogProofError::Malformed`] or [`TlogProofError::Note`].
    pub fn parse(bytes: &[u8]) -> Result<Self, TlogProofError> {
        let malformed = TlogProofError::Malformed;
        if bytes.len() > MAX_NOTE_BYTES + 2 * MAX_EXTRA_BYTES {
            return Err(malformed("too large"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))?;
        let (head, note) = text.split_once("\n\n").ok_or(malformed("no blank line before the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(malformed("not a tlog-proof, version 1"));
        }
        let extra = lines.next_if(|line| line.starts_with("extra "));
        let extra = extra.map(|line| b64::decode(&line["extra ".len()..]).ok_or(malformed("extra is not base64")));
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(parse_decimal);
        let index = index.ok_or(malformed("no index line"))?;
        let hashes: Option<Vec<Hash>> = lines.take(MAX_PROOF_HASHES + 1).map(b64::decode32).collect();
        let hashes = hashes.ok_or(malformed("a hash is not the base64 of 32 bytes"))?;
        if hashes.len() > MAX_PROOF_HASHES {
            return Err(malformed("too many hashes"));
        }
        Ok(Self { extra: extra.transpose()?, index, hashes, checkpoint: SignedNote::parse(note)? })
    }

    /// Verifies that `entry` is at the index in the log of `key`, and returns the checkpoint. Cosignatures are counted
    /// by [`crate::verify`], which knows a quorum.
    ///
    /// # Errors
    /// [`TlogProofError`], if the checkpoint or the proof does not hold.
    pub fn verify(&self, entry: &[u8], key: &VerifierKey) -> Result<Checkpoint, TlogProofError> {
        let checkpoint = Checkpoint::open(&self.checkpoint.to_string(), key)?;
        verify_inclusion(&leaf_hash(entry), self.index, checkpoint.size, &self.hashes, &checkpoint.root)?;
        Ok(checkpoint)
    }
}

impl fmt::Display for TlogProof {
    /// The file's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", b64::encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{}", b64::encode(hash)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}
