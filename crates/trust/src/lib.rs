//! Signing and verifying in Sigstore's shapes: what a node needs to be certificate authority, timestamp authority and
//! log for its own signatures, and what anybody needs to verify such signatures or foreign ones.
//!
//! The crate is pure. It does no I/O, reads no clock and draws no randomness: times (Unix, in seconds or milliseconds as
//! the name says) and entropy are arguments. Keys leave it only as bytes that the caller seals. It speaks no HTTP; it
//! makes and reads the bodies that travel over it.
//!
//! Artifacts are the other half: JSON documents in an envelope, signed as JWS with a workspace's key.
//!
//! | module | what | source |
//! |---|---|---|
//! | [`artifact`] | artifacts, their types and their signatures | `docs/artifact.md`, RFC 7515, RFC 8785 |
//! | [`keys`] | P-256 keys from seeds; public keys and their signatures | RFC 5480, RFC 6979, RFC 8410 |
//! | [`certificate`] | certificates, taken apart and made | RFC 5280, RFC 6962, Fulcio's OIDs |
//! | [`authority`] | a node's own certificate, SCT and timestamp authority | RFC 5280, RFC 6962 |
//! | [`timestamp`] | timestamps: requests, answers, verification | RFC 3161, RFC 5652, RFC 5816 |
//! | [`stamping`] | timestamps by somebody else | RFC 3161 |
//! | [`hashedrekord`] | the log's leaf for a signed artifact | Rekor `hashedrekord` 0.0.2 |
//! | [`entry`] | a leaf with its proof, as a log answers it | Rekor `TransparencyLogEntry` |
//! | [`issuing`] | certificates that clients ask for | Fulcio's API, RFC 2986 |
//! | [`forward`] | entries in a log of somebody else | Rekor v2, C2SP tlog-tiles |
//! | [`rekor1`] | searches and entries of an older log | Rekor v1 |
//! | [`dsse`] | envelopes and in-toto statements | DSSE 1.0, in-toto Statement 1 |
//! | [`bundle`] | the bundle file | Sigstore bundle 0.3 |
//! | [`root`] | whom a verifier trusts, and for which time | Sigstore trusted root 0.1, client trust config 0.1 |
//! | [`sign`] | an artifact or statement in, a bundle out | |
//! | [`scans`] | reports of scanners and bills of materials, and limits on them | SARIF 2.1.0, CycloneDX, SPDX 2.3 |
//! | [`review`] | what people decided about an artifact | |
//! | [`readiness`] | whether an artifact may be deployed: a checklist | |
//! | [`provenance`] | what a chain of signatures comes to, with the places where it is kept | |
//! | [`anomalies`] | what is unusual about signatures and verifications | |
//! | [`compliance`] | a report for auditors, as data and as a document | |
//! | [`notify`] | what a team is told: webhooks and mails | Standard Webhooks 1.0.0, RFC 5322 |
//! | [`scenario`] | answers for demos, which say that they are none | |
//! | [`text`] | text from strangers, made visible | |
//! | [`time`] | times as text | RFC 3339 |
//! | [`pem`] | certificates and keys as text | RFC 7468 |
//! | [`package`] | what a registry's package is known for, and what the answer means | PEP 740, npm provenance, OSV |
//! | [`report`], [`verify`] | what was checked, and what that means | Sigstore client specification |
#![forbid(unsafe_code)]

pub mod anomalies;
pub mod artifact;
pub mod authority;
pub mod bundle;
pub mod certificate;
pub mod compliance;
pub mod dsse;
pub mod entry;
pub mod forward;
pub mod hashedrekord;
pub mod issuing;
pub mod keys;
pub mod notify;
pub mod package;
pub mod pem;
pub mod provenance;
pub mod readiness;
pub mod rekor1;
pub mod report;
pub mod review;
pub mod root;
pub mod scans;
pub mod scenario;
pub mod sign;
pub mod stamping;
pub mod text;
pub mod time;
pub mod timestamp;
pub mod verify;

mod asn1;
mod wire;
