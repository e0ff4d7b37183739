//! The providers, as whoever keeps references and wrapped roots sees them.
#![allow(clippy::unwrap_used)] // in tests a panic is the failure report

mod kms;
mod softhsm;
