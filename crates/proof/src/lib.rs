//! Proof primitives of Countersign: what an auditor needs in order to check a receipt, and nothing else.
//!
//! The crate is pure. It does no I/O, reads no clock, draws no randomness and spawns nothing: bytes, times and entropy
//! are arguments. It knows nothing of policies, tools, databases or networks. Every parser is bounded.
//!
//! | module | what | source |
//! |---|---|---|
//! | [`canonical`] | strict JSON in, canonical JSON out | RFC 8259, RFC 7493, RFC 8785 |
//! | [`digest`] | SHA-256 digests, written `sha256:<hex>` | FIPS 180-4 |
//! | [`commitment`] | salted commitments to events and values | `docs/receipt.md` |
//! | [`merkle`] | tree hashes, inclusion and consistency proofs | RFC 6962, RFC 9162 |
//! | [`tile`] | tile paths, tiles, entry bundles | C2SP tlog-tiles |
//! | [`note`] | signed notes and their keys | C2SP signed-note |
//! | [`checkpoint`] | signed tree heads | C2SP tlog-checkpoint |
//! | [`cosignature`] | witness cosignatures, version 1 | C2SP tlog-cosignature |
//! | [`witness`] | asking witnesses, and deciding as one | C2SP tlog-witness |
//! | [`tlog_proof`] | offline proofs of inclusion | C2SP tlog-proof |
//! | [`jwk`] | public keys and sets of them | RFC 7517, RFC 7638 |
//! | [`jws`] | signed content: ES256, flattened JSON or compact | RFC 7515, RFC 7518 |
//! | [`artifact`] | signed artifacts, as far as their signature is about them | `docs/artifact.md` |
//! | [`receipt`] | the receipt file and its verification | `docs/receipt.md` |
//! | [`report`], [`verify`] | what was checked, and against whose keys | `docs/receipt.md` |
#![forbid(unsafe_code)]

pub mod artifact;
pub mod canonical;
pub mod checkpoint;
pub mod commitment;
pub mod cosignature;
pub mod digest;
pub mod jwk;
pub mod jws;
pub mod merkle;
pub mod note;
pub mod receipt;
pub mod report;
pub mod tile;
pub mod tlog_proof;
pub mod verify;
pub mod witness;

pub use report::{Report, Verdict};
pub use verify::{TrustAnchors, verify_file};

mod b64;
