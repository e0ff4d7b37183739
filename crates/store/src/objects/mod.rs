//! Stores of objects. What they must promise stands in `countersign_ledger::objects`.

mod directory;
mod s3;

pub use directory::Directory;
#[cfg(fuzzing)]
pub use s3::fuzz;
pub use s3::{CredentialSource, Encryption, S3, S3Config};
