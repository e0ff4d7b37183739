//! Where the bytes of artifacts are kept: immutable objects, each under a key that is used once.
//!
//! **Durability.** [`Objects::put`] returns `Ok` only when the object survives the loss of power. **Failure.** After an error the object may be
//! there or not; putting the same bytes again is right in both cases. **Isolation.** Other bytes under a key that is taken are refused:
//! nobody overwrites an object.
//!
//! **Locks.** A store that can keeps an object from being deleted: for a time that is stated when it is stored ([`Retention`]), and for as long as a
//! legal hold is on. What was asked for stands in the reference, and [`lock_trouble`] holds what is found against it.

use countersign_domain::Millis;
use countersign_proof::digest::Digest;
use serde::{Deserialize, Serialize};

/// A boxed answer: the contract is used through a pointer.
pub type Answered<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, ObjectError>> + Send + 'a>>;

/// Largest object in bytes: as large as documents of scanners may be.
pub const MAX_OBJECT: usize = 8 << 20;

/// Who may shorten a retention: with `Compliance` nobody, with `Governance` whom the store's administrator lets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetentionMode {
    /// Those with a right of their own may.
    Governance,
    /// Nobody may.
    Compliance,
}

impl RetentionMode {
    /// Its name in configuration and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }
}

/// Until when an object cannot be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How firmly.
    pub mode: RetentionMode,
    /// Milliseconds since 1970.
    pub until: Millis,
}

/// What keeps an object from being deleted, as the store says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lock {
    /// For a time.
    pub retention: Option<Retention>,
    /// For as long as this is so.
    pub held: bool,
}

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
    /// Until when it was asked to be kept, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Whether it is under legal hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

/// An object as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its bytes, held against the reference.
    pub bytes: Vec<u8>,
    /// What keeps it; nothing, in a store that knows no locks.
    pub lock: Lock,
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
    /// The store does not answer, or cannot do it now. What it was asked to do may have been done.
    #[error("the object store is away: {0}")]
    Unavailable(String),
    /// The same, and nothing was done: it was not even asked, or what is there shows it.
    #[error("the object store is away: {0}")]
    Undone(String),
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
    /// The store cannot do such a thing at all; in whole words, for callers too.
    #[error("{0}")]
    Unsupported(String),
}

/// A store of objects.
pub trait Objects: Send + Sync {
    /// What operators call it: `directory /…`, `s3://bucket/prefix`.
    fn name(&self) -> String;
    /// Stores an object, under legal hold if `held`. The same bytes may stand there already.
    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8], held: bool) -> Answered<'a, ObjectRef>;
    /// The object; [`ObjectError::Missing`], and [`ObjectError::Changed`] if its bytes are not those of the reference.
    fn fetch<'a>(&'a self, object: &'a ObjectRef) -> Answered<'a, Fetched>;
    /// Its bytes alone; fails as [`Objects::fetch`].
    fn get<'a>(&'a self, object: &'a ObjectRef) -> Answered<'a, Vec<u8>> {
        Box::pin(async move { Ok(self.fetch(object).await?.bytes) })
    }
    /// Keys behind one, in order, at most 1000.
    fn list<'a>(&'a self, behind: Option<&'a str>) -> Answered<'a, Vec<Listed>>;
    /// Puts an object under legal hold, or takes it off; done when it was so before. [`ObjectError::Unsupported`] where the store knows none.
    /// Only after [`ObjectError::Unavailable`] it may have been done all the same: a store whose answer was lost is asked what it shows.
    fn hold<'a>(&'a self, object: &'a ObjectRef, held: bool) -> Answered<'a, ()>;
    /// What stands in the way of the object for those who read its key without its version: another version, or the mark of a deletion.
    /// Nothing, in a store without versions.
    fn overlaid<'a>(&'a self, object: &'a ObjectRef) -> Answered<'a, Option<String>>;
}

/// What is wrong with the lock of an object, as against what was asked for. A longer retention, a firmer mode or a hold that nobody here
/// asked for are right, and so is whatever there is of a retention that has ended.
pub fn lock_trouble(object: &ObjectRef, found: &Lock, now: Millis) -> Option<String> {
    let mut wrong = Vec::new();
    match (object.retention.filter(|asked| asked.until > now), found.retention) {
        (Some(_), None) => wrong.push("its retention is gone, or the store does not show it".to_owned()),
        (Some(asked), Some(found)) if found.until < asked.until => {
            let days = (asked.until - found.until).div_ceil(86_400_000);
            wrong.push(format!("its retention ends {days} days earlier than was asked"));
        }
        (Some(asked), Some(found)) if found.mode < asked.mode => {
            wrong.push(format!("its retention is {} instead of {}", found.mode.as_str(), asked.mode.as_str()));
        }
        (_, _) => {}
    }
    if object.held && !found.held {
        wrong.push("its legal hold is gone, or the store does not show it".to_owned());
    }
    (!wrong.is_empty()).then(|| wrong.join("; "))
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
    fn references_of_before_are_read_and_say_no_more_than_they_did() {
        let digest = Digest::of(b"x");
        let old = format!("{{\"key\":\"a\",\"size\":1,\"digest\":{}}}", serde_json::to_string(&digest).expect("JSON"));
        let read: ObjectRef = serde_json::from_str(&old).expect("a reference");
        let plain = ObjectRef { key: "a".into(), version: None, size: 1, digest, retention: None, held: false };
        assert_eq!(read, plain);
        assert_eq!(serde_json::to_string(&read).expect("JSON"), old, "what has no lock is written as before");
        let retention = Some(Retention { mode: RetentionMode::Compliance, until: 5 });
        let locked = ObjectRef { version: Some("v".into()), retention, held: true, ..plain };
        let text = serde_json::to_string(&locked).expect("JSON");
        assert_eq!(serde_json::from_str::<ObjectRef>(&text).expect("a reference"), locked, "{text}");
    }

    #[test]
    fn locks_are_held_against_what_was_asked() {
        let day = 86_400_000;
        let kept = |mode, days: u64| Some(Retention { mode, until: days * day });
        let (firm, loose) = (RetentionMode::Compliance, RetentionMode::Governance);
        for (asked, hold, found, held, trouble) in [
            (None, false, None, false, None),
            (None, false, kept(firm, 1), true, None),
            (kept(firm, 5), false, kept(firm, 5), false, None),
            (kept(loose, 5), false, kept(firm, 6), false, None),
            (kept(firm, 5), false, None, false, Some("is gone")),
            (kept(firm, 5), false, kept(firm, 4), false, Some("ends 1 days earlier")),
            (kept(firm, 5), false, kept(loose, 9), false, Some("governance instead of compliance")),
            (None, true, None, true, None),
            (None, true, None, false, Some("legal hold is gone")),
        ] {
            let object = ObjectRef {
                key: "a".into(),
                version: None,
                size: 1,
                digest: Digest::of(b"x"),
                retention: asked,
                held: hold,
            };
            let lock = Lock { retention: found, held };
            let said = lock_trouble(&object, &lock, day);
            assert!(lock_trouble(&ObjectRef { held: false, ..object }, &lock, 5 * day).is_none(), "it has ended");
            match trouble {
                None => assert_eq!(said, None, "{asked:?} {found:?}"),
                Some(word) => {
                    assert!(said.as_ref().is_some_and(|said| said.contains(word)), "{asked:?} {found:?}: {said:?}")
                }
            }
        }
    }

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
