//! Signed artifacts; bundles made here and by others, verified here; certificates, timestamps and log entries; hostile bytes.
#![allow(clippy::unwrap_used, missing_docs)] // in tests a panic is the failure report

mod artifact_cases;
mod artifacts;
mod bounds;
mod cases;
mod foreign;
mod packages;
mod rekor1;
mod robust;
mod services;
mod signing;
mod stamping;
mod world;
