//! What this node cosigned of other logs, and what its own witnesses gave for its checkpoints (C2SP tlog-witness).
//!
//! Neither is an event: both are kept beside the log and change by operations ([`crate::state`]). The latest checkpoint that was
//! cosigned of a log moves on only from the one that the decision was made upon, so that of two requests at a time one
//! decides again. Of cosignatures, each witness's newest [`KEPT`] of a shard are kept, and besides the checkpoint of the shard
//! that most witnesses cosigned, the newest of those: no receipt loses a quorum because one witness was away for long.

use countersign_domain::Millis;
use countersign_proof::note::SignedNote;
use countersign_proof::witness::TreeHead;

use crate::contract::StoreError;

/// How many cosignatures of a witness are kept for each shard.
pub const KEPT: u32 = 256;
/// The most rows that a reader gives at a time.
pub const MAX_ROWS: u32 = 1000;

/// The latest checkpoint of another log that this node cosigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessedRow {
    /// The log.
    pub origin: String,
    /// Size and root.
    pub head: TreeHead,
    /// The signed note that said so; with a contradicting one it is evidence of a fork.
    pub checkpoint: String,
    /// When it was cosigned.
    pub at: Millis,
    /// The newest size for which another root was seen as well, and reported.
    pub forked: Option<u64>,
}

/// A witness's cosignature on a checkpoint of this log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignatureRow {
    /// The shard that the checkpoint is of.
    pub shard: u32,
    /// Leaves.
    pub size: u64,
    /// The witness's verifier key (C2SP vkey text).
    pub witness: String,
    /// The signature line, without its newline.
    pub line: String,
    /// The checkpoint as the log signed it.
    pub checkpoint: String,
    /// When it arrived, by the node's clock.
    pub at: Millis,
}

/// A checkpoint with the cosignatures of these rows, all of one checkpoint.
///
/// # Errors
/// [`StoreError::Corrupt`], if what is stored is no note or no signature line.
pub fn cosigned(checkpoint: &str, rows: &[CosignatureRow]) -> Result<String, StoreError> {
    let corrupt = |error: &dyn std::fmt::Display| StoreError::Corrupt(format!("a stored cosignature: {error}"));
    let mut note = SignedNote::parse(checkpoint).map_err(|e| corrupt(&e))?;
    for row in rows {
        let signature = countersign_proof::cosignature::parse_line(&row.line).map_err(|e| corrupt(&e))?;
        note.add(signature).map_err(|e| corrupt(&e))?;
    }
    Ok(note.to_string())
}
