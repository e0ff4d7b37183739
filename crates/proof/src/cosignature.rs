//! Witness cosignatures, version 1, per C2SP tlog-cosignature (Ed25519, signature type 0x04).
//!
//! A cosignature says: at this time, by this witness's clock, this was the largest consistent tree that it had seen of
//! the log. The newer ML-DSA-44 form (0x06) is not supported; such lines are ignored like those of unknown keys.

use crate::note::{KeyKind, NoteError, NoteSignature, NoteSigner, VerifierKey};

/// First line of the signed message; separates cosignatures from notes.
pub(crate) const HEADER: &str = "cosignature/v1\n";

/// Largest timestamp that the specification allows: 2^63 - 1 seconds.
pub const MAX_TIMESTAMP: u64 = i64::MAX as u64;

/// Why a cosignature was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosignatureError {
    /// Not a line, not this key's name and ID, not 72 bytes, or a timestamp beyond [`MAX_TIMESTAMP`].
    #[error("malformed cosignature: {0}")]
    Malformed(&'static str),
    /// The signature does not hold.
    #[error("the cosignature by {0} is wrong")]
    BadSignature(String),
    /// The note body is not the text of a checkpoint.
    #[error("only checkpoints are cosigned")]
    NotACheckpoint,
    /// The line is not a note signature.
    #[error(transparent)]
    Note(#[from] NoteError),
}

/// Cosigns a checkpoint's note body (with its final newline, without signatures) and returns the signature line, with
/// its newline. `unix_seconds` is the witness's clock. Consistency must have been checked before.
///
/// # Errors
/// [`CosignatureError::NotACheckpoint`], or a timestamp beyond [`MAX_TIMESTAMP`].
pub fn cosign(note_body: &str, signer: &NoteSigner, unix_seconds: u64) -> Result<String, CosignatureError> {
    Ok(format!("{}\n", cosign_signature(note_body, signer, unix_seconds)?))
}

/// As [`cosign`], but returns the signature itself, ready for [`crate::note::SignedNote::add`].
///
/// # Errors
/// As [`cosign`].
pub fn cosign_signature(body: &str, signer: &NoteSigner, unix_seconds: u64) -> Result<NoteSignature, CosignatureError> {
    if unix_seconds > MAX_TIMESTAMP {
        return Err(CosignatureError::Malformed("the timestamp exceeds 2^63 - 1"));
    }
    crate::checkpoint::Checkpoint::parse(body).map_err(|_| CosignatureError::NotACheckpoint)?;
    let signature = signer.sign_raw(message(body, unix_seconds).as_bytes());
    let bytes = [unix_seconds.to_be_bytes().as_slice(), &signature].concat();
    let key = signer.cosignature_key();
    Ok(NoteSignature { name: key.name().to_owned(), key_id: key.id(), bytes })
}

/// Reads a signature line, with or without its newline.
///
/// # Errors
/// [`CosignatureError::Malformed`].
pub fn parse_line(line: &str) -> Result<NoteSignature, CosignatureError> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    NoteSignature::parse_line(line).ok_or(CosignatureError::Malformed("not a signature line"))
}

/// Verifies a cosignature over a checkpoint's note body and returns its timestamp in seconds since 1970.
///
/// # Errors
/// [`CosignatureError`], if the signature is not one by `key` or does not hold.
pub fn verify(note_body: &str, signature: &NoteSignature, key: &VerifierKey) -> Result<u64, CosignatureError> {
    if key.kind() != KeyKind::CosignatureV1 || signature.key_id != key.id() || signature.name != key.name() {
        return Err(CosignatureError::Malformed("the signature is by another key"));
    }
    let Some((timestamp, bytes)) = signature.bytes.split_first_chunk::<8>() else {
        return Err(CosignatureError::Malformed("shorter than a timestamp"));
    };
    let timestamp = u64::from_be_bytes(*timestamp);
    if timestamp > MAX_TIMESTAMP {
        return Err(CosignatureError::Malformed("the timestamp exceeds 2^63 - 1"));
    }
    if !key.verify_raw(message(note_body, timestamp).as_bytes(), bytes) {
        return Err(CosignatureError::BadSignature(key.name().to_owned()));
    }
    Ok(timestamp)
}

fn message(note_body: &str, unix_seconds: u64) -> String {
    format!("{HEADER}time {unix_seconds}\n{note_body}")
}
