//! Salted commitments: what the public log holds instead of the events themselves.
//!
//! A commitment says nothing about the event without the 32-byte random salt, so log entries may be public, and erasing
//! event and salt leaves the tree whole. The formulas are part of the receipt format, see `docs/receipt.md`.

use crate::digest::Digest;

/// 32 bytes drawn by the caller from a cryptographic source, fresh for every commitment.
pub type Salt = [u8; 32];

/// Opens the commitment's hash input and separates it from every other use of SHA-256 here.
pub const EVENT_TAG: &[u8] = b"countersign/event/v1\0";

/// Opens the hash input of [`salted_digest`].
pub const SALTED_TAG: &[u8] = b"countersign/salted/v1\0";

/// First byte of an event's log entry. Entries that are signed artifacts are JSON objects and start with `{`.
pub const EVENT_ENTRY_TYPE: u8 = 0x01;

/// SHA-256(`"countersign/event/v1\0"` ‖ salt ‖ RFC 8785 bytes of the event).
///
/// `canonical_event` must be what [`crate::canonical::to_canonical`] made of the event.
pub fn commit(salt: &Salt, canonical_event: &[u8]) -> Digest {
    Digest::of_parts(&[EVENT_TAG, salt, canonical_event])
}

/// The log entry (leaf data) of an event: 0x01 ‖ commitment.
pub fn event_entry(commitment: &Digest) -> [u8; 33] {
    let mut entry = [EVENT_ENTRY_TYPE; 33];
    entry[1..].copy_from_slice(&commitment.0);
    entry
}

/// SHA-256(`"countersign/salted/v1\0"` ‖ length of label as one byte ‖ label ‖ salt ‖ bytes).
///
/// Used for the digests of arguments (label `input`) and results (label `output`) inside events, over the RFC 8785
/// bytes of the value. Labels are program constants of at most 255 bytes; a longer one is cut there.
pub fn salted_digest(label: &str, salt: &Salt, bytes: &[u8]) -> Digest {
    let label = &label.as_bytes()[..label.len().min(255)];
    // The cast cannot lose anything: the line above bounds the length by 255.
    Digest::of_parts(&[SALTED_TAG, &[label.len() as u8], label, salt, bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formulas_are_those_of_the_document() {
        let salt = [7; 32];
        let by_hand = [b"countersign/event/v1\0".as_slice(), &salt, b"{}"].concat();
        assert_eq!(commit(&salt, b"{}"), Digest::of(&by_hand));
        let by_hand = [b"countersign/salted/v1\0\x05input".as_slice(), &salt, b"{}"].concat();
        assert_eq!(salted_digest("input", &salt, b"{}"), Digest::of(&by_hand));
        let entry = event_entry(&Digest([9; 32]));
        assert_eq!((entry[0], &entry[1..]), (1, [9; 32].as_slice()));
    }

    #[test]
    fn label_and_salt_change_the_digest() {
        let base = salted_digest("input", &[0; 32], b"1");
        assert_ne!(base, salted_digest("output", &[0; 32], b"1"));
        assert_ne!(base, salted_digest("input", &[1; 32], b"1"));
    }
}
