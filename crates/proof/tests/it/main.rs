//! The crate as its users see it, against published vectors, independent implementations and hostile bytes.
#![allow(clippy::unwrap_used, missing_docs)] // in tests a panic is the failure report

mod canonical;
mod jws;
mod merkle;
mod notes;
mod oracle;
mod receipts;
mod support;
mod tiles;
mod witness;
