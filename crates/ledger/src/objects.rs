//! Where the bytes of artifacts are kept: immutable objects, each under a key that is used once.
//!
//! **Durability.** [`Objects::put`] returns `Ok` only when the object survives the loss of power. **Failure.** After an error the object may be
//! there or not; putting the same bytes again is right in both cases. **Isolation.** Other bytes under a key that is taken are refused:
//! nobody overwrites an object.

use countersign_domain::Millis;
use countersign_proof::digest::Digest;
use serde::{Deserialize, Serialize};

/// A boxed answer: the contract is used through a pointer.
pub type Answered<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, ObjectError>> + Send + 'a>>;

/// Largest object in bytes: as large as documents of scanners may be.
pub const MAX_OBJECT: usize = 8 << 20;

/// An object that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Its key.
    pub key: String,
    /// The store's own name of these bytes under the key, where it has one (S3 version id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes.
    pub digest: Digest,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// When it was stored, by the store's clock.
    pub at: Millis,
}

/// Why an object cannot be had or stored. The detail is for the log, not for callers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The store does not answer, or cannot do it now.
    #[error("the object store is away: {0}")]
    Unavailable(String),
    /// There is no room.
    #[error("the object store is full: {0}")]
    Full(String),
    /// The store will not have it.
    #[error("the object store refused: {0}")]
    Refused(String),
    /// It is not what was stored.
    #[error("the object {key} is not what was stored: {problem}")]
    Changed {
        /// Its key.
        key: String,
        /// How it differs.
        problem: String,
    },
    /// It is gone.
    #[error("the object {0} is missing")]
    Missing(String),
    /// Other bytes stand under the key.
    #[error("there are other bytes under the key {0}")]
    Taken(String),
}

/// A store of objects.
pub trait Objects: Send + Sync {
    /// What operators call it: `directory /…`, `s3://bucket/prefix`.
    fn name(&self) -> String;
    /// Stores an object. The same bytes may stand there already.
    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8]) -> Answered<'a, ObjectRef>;
    /// The bytes; [`ObjectError::Missing`], and [`ObjectError::Changed`] if they are not those of the reference.
    fn get<'a>(&'a self, object: &'a ObjectRef) -> Answered<'a, Vec<u8>>;
    /// Keys behind one, in order, at most 1000.
    fn list<'a>(&'a self, behind: Option<&'a str>) -> Answered<'a, Vec<Listed>>;
}

/// Holds bytes against a reference.
///
/// # Errors
/// [`ObjectError::Changed`].
pub fn check(object: &ObjectRef, bytes: &[u8]) -> Result<(), ObjectError> {
    let changed = |problem: String| ObjectError::Changed { key: object.key.clone(), problem };
    if bytes.len() as u64 != object.size {
        return Err(changed(format!("it has {} bytes instead of {}", bytes.len(), object.size)));
    }
    if Digest::of(bytes) != object.digest {
        return Err(changed("its SHA-256 is another".to_owned()));
    }
    Ok(())
}

/// A key that every store can take: parts of `a-z`, `A-Z`, `0-9`, `.`, `_`, `-`, `@` and `:` between slashes, none of them only dots, at most 512 bytes.
///
/// # Errors
/// [`ObjectError::Refused`].
pub fn check_key(key: &str) -> Result<(), ObjectError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-@:".contains(c);
    let part = |part: &str| !part.is_empty() && part.chars().all(good) && part.chars().any(|c| c != '.');
    if key.len() <= 512 && key.split('/').all(part) {
        Ok(())
    } else {
        Err(ObjectError::Refused(format!("{:?} is no key", key.chars().take(80).collect::<String>())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_below_their_root() {
        for good in ["a", "artifacts/north-clinic/0197/1-ab.jws", "a/..b", "w:x@y/z"] {
            assert_eq!(check_key(good), Ok(()), "{good}");
        }
        let long = "a".repeat(513);
        for wrong in ["", "/a", "a/", "a//b", "..", "a/../b", "a/./b", "a b", "a\\b", "a\0b", "\u{e9}", &long] {
            assert!(matches!(check_key(wrong), Err(ObjectError::Refused(_))), "{wrong:?}");
        }
    }
}
