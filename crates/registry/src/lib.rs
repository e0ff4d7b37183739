//! A small client of container registries (OCI Distribution 1.1): what an image reference stands for, and Sigstore bundles that
//! are kept beside the image as its referrers.
//!
//! - A digest is always computed from the bytes that came. Multi-platform indexes are taken as they are.
//! - Whatever a caller names is reached only if [`Settings`] allow it; names that lead to addresses that are not public are refused
//!   by `countersign-egress`. A registry's token endpoint and the place that its blobs are kept at are held to the same.
//! - Credentials go to the registry's own origin or to its token endpoint. Redirects are followed once, for blobs that are read, to
//!   `https`, and without credentials.
//! - Every body has a bound and every operation a deadline. Pushing is idempotent: after an error it can be repeated.
//!
//! Where a bundle comes from, who may push it and whose credentials are used is decided elsewhere.

mod auth;
mod error;
mod manifest;
mod reference;
mod referrers;
mod repository;
mod wire;

pub use auth::{Credentials, Secret};
pub use error::RegistryError;
pub use manifest::{BUNDLE_TYPE, Descriptor, bundle_annotations};
pub use reference::{Host, Reference, ReferenceError};
pub use referrers::Pushed;
pub use repository::{Repository, Resolved};
pub use wire::{Named, Registries, Settings};
