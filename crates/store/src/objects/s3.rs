//! Objects in a bucket of S3, or of a store that speaks its protocol, over the node's one network client.
//!
//! - **Once.** A put is conditional (`If-None-Match: *`), and its body is named by a SHA-256 that the store checks. What stands under the key
//!   already is read and compared: the same bytes are the same object, whoever put them there.
//! - **Versions.** In a bucket with versions the reference names the one that was made, and only that one is read: what is laid over it, a mark
//!   of deletion included, changes nothing. [`S3::overlaid`](Objects::overlaid) says that it is there.
//! - **Locks.** With a retention, every object is put under Object Lock in the same request; a bucket that knows none is refused before
//!   anything is put there. A retention is only ever extended, and made firmer. Whether a legal hold was set whose answer was lost is looked up.
//! - What is true if the process dies in [`put`](Objects::put): the object is there whole or not at all, and nobody knows its version; the same put
//!   finds it again.
//!
//! Credentials come from whoever opens the store. AWS's SDK and `object_store` are not used: they bring a second way out, and the latter cannot
//! lock objects.

mod answer;
mod client;
mod xml;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_domain::Millis;
use countersign_egress::Egress;
use countersign_egress::aws::{check_endpoint, is_region};
use countersign_ledger::objects::{
    Answered, Fetched, Listed, Lock, MAX_OBJECT, ObjectError, ObjectRef, Objects, Retention, RetentionMode, check,
    check_key,
};
use countersign_proof::digest::Digest;
use http::Method;
use md5::{Digest as _, Md5};
use tokio::sync::OnceCell;
use url::Url;

use answer::{Fault, document, header, hold_of, listing, lock_of, version_of, written_date};
use client::{Answer, Call, Client, MAX_ANSWER};

pub use client::CredentialSource;

/// Keys of one page of a listing.
const PAGE: &str = "1000";
/// Longest page that is read, in bytes: 1000 keys of 1 KiB, encoded, with what stands around them.
const MAX_PAGE: usize = 4 << 20;
/// Most attempts to write.
const WRITES: u32 = 3;
/// What GetBucketVersioning answers with: AWS, and moto.
const VERSIONING: [&str; 2] = ["VersioningConfiguration", "GetBucketVersioningResponse"];
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// How objects are encrypted where they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// With keys of the store (SSE-S3).
    Aes256,
    /// With a key of KMS (SSE-KMS): an identifier or ARN, or the account's own for S3.
    Kms(Option<String>),
}

impl Encryption {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Aes256 => "AES256",
            Self::Kms(_) => "aws:kms",
        }
    }
}

/// A bucket and how objects are kept in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    /// Its name.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// Another endpoint than the region's public one, of a store that speaks S3's protocol: the bucket then stands in the path.
    pub endpoint: Option<Url>,
    /// What every key starts with, a slash between; empty for nothing.
    pub prefix: String,
    /// For how long no object can be deleted, from when it is put, and how firmly.
    pub retention: Option<(RetentionMode, Duration)>,
    /// What is asked for beyond what the bucket does by itself.
    pub encryption: Option<Encryption>,
    /// How long one operation may take, all its requests together; as long again to look what came of a legal hold.
    pub timeout: Duration,
}

impl S3Config {
    /// The region's public endpoint, no prefix, no retention, the bucket's encryption, 10 s.
    pub fn new(bucket: String, region: String) -> Self {
        let (endpoint, prefix, retention, encryption) = (None, String::new(), None, None);
        Self { bucket, region, endpoint, prefix, retention, encryption, timeout: Duration::from_secs(10) }
    }

    /// # Errors
    /// In words: which member cannot be used, and why.
    pub fn check(&self) -> Result<(), String> {
        let bucket = self.bucket.as_bytes();
        let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let fits = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-' || *b == b'.';
        if !(3..=63).contains(&bucket.len())
            || !bucket.iter().all(fits)
            || !ends(bucket.first())
            || !ends(bucket.last())
        {
            return Err(format!("bucket {:.70?} is none: 3 to 63 of a-z, 0-9, '-' and '.'", self.bucket));
        }
        if !is_region(&self.region) {
            return Err(format!("region {:.40?} is no region; write for example eu-central-1", self.region));
        }
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint).map_err(|why| format!("endpoint {why}"))?;
        }
        // Below it, keys have up to 512 bytes; together they stay under S3's 1024.
        if !self.prefix.is_empty() && check_key(&self.prefix).is_err() {
            return Err(format!(
                "prefix {:.80?} is none: names of a-z, 0-9, '.', '_', '-' between slashes",
                self.prefix
            ));
        }
        if let Some(Encryption::Kms(Some(key))) = &self.encryption {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b":/_-".contains(&b);
            if !(1..=2048).contains(&key.len()) || !key.bytes().all(fits) {
                return Err("kms_key is a key's identifier, ARN or alias".to_owned());
            }
        }
        Ok(())
    }
}

/// A bucket.
pub struct S3 {
    config: S3Config,
    client: Client,
    /// Set once the bucket was seen to be as it must: nothing is put there before.
    checked: OnceCell<Option<String>>,
}

impl S3 {
    /// Opens the bucket and looks whether it can do what is asked of it. While it cannot be reached that is not known yet: it is looked at
    /// again before the first object is put. The text is what an operator should know, if there is something.
    ///
    /// # Errors
    /// [`ObjectError::Refused`] for a configuration or a bucket that will not do; the words say what to change.
    pub async fn open(
        config: S3Config,
        credentials: CredentialSource,
        egress: &Egress,
    ) -> Result<(Self, Option<String>), ObjectError> {
        config.check().map_err(ObjectError::Refused)?;
        let client = Client::new(&config, credentials, egress).map_err(ObjectError::Refused)?;
        let store = Self { config, client, checked: OnceCell::new() };
        let note = match store.ready(store.deadline()).await {
            Ok(note) => note,
            Err(ObjectError::Unavailable(why)) => {
                Some(format!("the bucket {} cannot be reached: {why}; no artifact is kept until it can", store.name()))
            }
            Err(error) => return Err(error),
        };
        Ok((store, note))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeout
    }

    /// A key as the bucket has it.
    fn full(&self, key: &str) -> String {
        match self.config.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    async fn ready(&self, deadline: Instant) -> Result<Option<String>, ObjectError> {
        self.checked.get_or_try_init(|| self.inspect(deadline)).await.cloned()
    }

    /// Whether the bucket keeps versions and locks, where that is relied on.
    async fn inspect(&self, deadline: Instant) -> Result<Option<String>, ObjectError> {
        let bucket = &self.config.bucket;
        // What is no S3 does not become one by waiting.
        let refused = |fault: Fault| match fault {
            Fault::Odd(words) => ObjectError::Refused(words),
            other => other.about(bucket),
        };
        let answer = self.about_bucket("versioning", deadline).await.map_err(refused)?;
        let versioning = document(&answer.body, &VERSIONING).map_err(refused)?;
        let has_versions = versioning.text_of("Status") == Some("Enabled");
        if self.config.retention.is_none() {
            let words = format!(
                "the bucket {bucket} keeps no versions: what is overwritten or deleted there is lost, and the scrub can only say so. Turn versioning \
                 on: aws s3api put-bucket-versioning --bucket {bucket} --versioning-configuration Status=Enabled"
            );
            return Ok((!has_versions).then_some(words));
        }
        let unlocked = || {
            ObjectError::Refused(format!(
                "the bucket {bucket} has no Object Lock, and `retention` needs it. Turn versioning and Object Lock on (aws s3api \
                 put-bucket-versioning --bucket {bucket} --versioning-configuration Status=Enabled; aws s3api put-object-lock-configuration \
                 --bucket {bucket} --object-lock-configuration ObjectLockEnabled=Enabled), or make a bucket with \
                 --object-lock-enabled-for-bucket, or leave `retention` out"
            ))
        };
        let lock = match self.about_bucket("object-lock", deadline).await {
            Ok(answer) => document(&answer.body, &["ObjectLockConfiguration"]).map_err(refused)?,
            Err(Fault::Refused { code, .. }) if code == "ObjectLockConfigurationNotFoundError" => {
                return Err(unlocked());
            }
            Err(fault) => return Err(refused(fault)),
        };
        match has_versions && lock.text_of("ObjectLockEnabled") == Some("Enabled") {
            true => Ok(None),
            false => Err(unlocked()),
        }
    }

    async fn about_bucket(&self, what: &str, deadline: Instant) -> Result<Answer, Fault> {
        self.client.call(Call::get(None, vec![(what, "")], MAX_ANSWER), deadline).await
    }

    async fn put_new(&self, key: &str, bytes: &[u8], held: bool) -> Result<ObjectRef, ObjectError> {
        check_key(key)?;
        if bytes.len() > MAX_OBJECT {
            return Err(ObjectError::Refused(format!("an object has at most {MAX_OBJECT} bytes")));
        }
        let deadline = self.deadline();
        self.ready(deadline).await?;
        let (size, digest) = (bytes.len() as u64, Digest::of(bytes));
        let retention = self.config.retention.map(|(mode, kept)| Retention { mode, until: until(kept) });
        let mut object = ObjectRef { key: key.to_owned(), version: None, size, digest, retention, held };
        let full = self.full(key);
        let mut call = self.writing(Method::PUT, &full, bytes)?;
        call.headers.push(("if-none-match", "*".to_owned()));
        call.headers.push(("content-type", "application/jose+json".to_owned()));
        call.headers.extend(lock_headers(&object)?);
        call.headers.extend(self.encryption_headers());
        match self.client.call(call, deadline).await {
            Ok(answer) => {
                self.check_encryption(&answer)?;
                object.version = self.pinned(&answer).map_err(|fault| fault.about(key))?;
                Ok(object)
            }
            Err(Fault::Exists) => self.found(object, deadline).await,
            Err(fault) => Err(fault.about(key)),
        }
    }

    /// Something stands under the key: the same bytes, perhaps from a put whose answer was lost, or others. The same ones are
    /// kept for as long as was asked now.
    async fn found(&self, mut object: ObjectRef, deadline: Instant) -> Result<ObjectRef, ObjectError> {
        let (answer, lock) = match self.read(&object, deadline).await {
            Ok(read) => read,
            Err(ObjectError::Changed { key, .. }) => return Err(ObjectError::Taken(key)),
            Err(ObjectError::Missing(key)) => {
                return Err(ObjectError::Unavailable(format!("the object {key} was deleted at that moment")));
            }
            Err(other) => return Err(other),
        };
        object.version = self.pinned(&answer).map_err(|fault| fault.about(&object.key))?;
        if let Some(asked) = object.retention {
            // What is firmer or longer already stays so: stores refuse to weaken it.
            let kept = lock.retention.map_or(asked, |found| Retention {
                mode: asked.mode.max(found.mode),
                until: asked.until.max(found.until),
            });
            if lock.retention != Some(kept) {
                self.extend(&object, kept, deadline).await?;
            }
        }
        if object.held && !lock.held {
            self.set_hold(&object, true, deadline).await.map_err(|fault| self.unheld(fault, &object.key))?;
        }
        Ok(object)
    }

    async fn extend(&self, object: &ObjectRef, to: Retention, deadline: Instant) -> Result<(), ObjectError> {
        let mode = to.mode.as_str().to_ascii_uppercase();
        let date = date_of(to.until.div_ceil(1000).saturating_mul(1000))?;
        let body = format!(
            "<Retention xmlns=\"{NAMESPACE}\"><Mode>{mode}</Mode><RetainUntilDate>{date}</RetainUntilDate></Retention>"
        );
        self.set("retention", object, body, deadline).await.map_err(|fault| fault.about(&object.key))
    }

    async fn set_hold(&self, object: &ObjectRef, held: bool, deadline: Instant) -> Result<(), Fault> {
        let status = if held { "ON" } else { "OFF" };
        let body = format!("<LegalHold xmlns=\"{NAMESPACE}\"><Status>{status}</Status></LegalHold>");
        self.set("legal-hold", object, body, deadline).await
    }

    /// Why no hold was set.
    fn unheld(&self, fault: Fault, key: &str) -> ObjectError {
        match fault {
            // "Bucket is missing Object Lock Configuration".
            Fault::Refused { code, words } if code == "InvalidRequest" || code == "NotImplemented" => {
                tracing::warn!(store = self.name(), words, "a legal hold was refused");
                ObjectError::Unsupported(
                    "artifacts are kept in a bucket without Object Lock here, where nothing can be put under legal hold".to_owned(),
                )
            }
            fault => fault.about(key),
        }
    }

    /// Sets a hold. If the store did not say what came of that, it is asked what it shows, for as long again.
    async fn settle_hold(&self, object: &ObjectRef, held: bool) -> Result<(), ObjectError> {
        check_key(&object.key)?;
        let Err(fault) = self.set_hold(object, held, self.deadline()).await else { return Ok(()) };
        let (words, may_come) = match fault {
            Fault::Unsent(words) => return Err(ObjectError::Undone(words)),
            Fault::Away(words) | Fault::Odd(words) => (words, false),
            // It may be under way still, and arrive after the look.
            Fault::Silent(words) => (words, true),
            fault @ (Fault::Missing | Fault::Exists | Fault::TooLarge | Fault::Refused { .. }) => {
                return Err(self.unheld(fault, &object.key));
            }
        };
        match self.shown_hold(object, self.deadline()).await {
            Ok(Some(shown)) if shown == held => Ok(()),
            Ok(Some(_)) if !may_come => Err(ObjectError::Undone(words)),
            // That none is shown is no proof that one was taken off.
            Ok(None) if held && !may_come => Err(ObjectError::Undone(words)),
            Ok(_) => Err(ObjectError::Unavailable(words)),
            Err(Fault::Missing) => Err(ObjectError::Missing(object.key.clone())),
            Err(fault) => {
                tracing::debug!(?fault, key = object.key, "what came of a legal hold cannot be looked up");
                Err(ObjectError::Unavailable(words))
            }
        }
    }

    async fn shown_hold(&self, object: &ObjectRef, deadline: Instant) -> Result<Option<bool>, Fault> {
        let full = self.full(&object.key);
        let query = object.version.as_deref().map(|version| ("versionId", version)).into_iter().collect();
        let call = Call { method: Method::HEAD, ..Call::get(Some(&full), query, MAX_ANSWER) };
        Ok(hold_of(&self.client.call(call, deadline).await?.headers))
    }

    /// Sets one of the things that an object has beside its bytes.
    async fn set(&self, what: &str, object: &ObjectRef, body: String, deadline: Instant) -> Result<(), Fault> {
        let full = self.full(&object.key);
        let refused = |error: ObjectError| Fault::Refused { code: String::new(), words: error.to_string() };
        let mut call = self.writing(Method::PUT, &full, body.as_bytes()).map_err(refused)?;
        call.query.push((what, ""));
        call.query.extend(object.version.as_deref().map(|version| ("versionId", version)));
        self.client.call(call, deadline).await.map(drop)
    }

    /// A request with a body, which the store holds against its digests.
    fn writing<'a>(&self, method: Method, key: &'a str, body: &[u8]) -> Result<Call<'a>, ObjectError> {
        let headers = vec![
            ("x-amz-checksum-sha256", STANDARD.encode(Digest::of(body).as_bytes())),
            // Stores that are older than the checksums want it where a lock is set.
            ("content-md5", STANDARD.encode(Md5::digest(body))),
        ];
        let body = Bytes::copy_from_slice(body);
        Ok(Call { method, key: Some(key), query: Vec::new(), headers, body, limit: MAX_ANSWER, attempts: WRITES })
    }

    fn encryption_headers(&self) -> Vec<(&'static str, String)> {
        let Some(encryption) = &self.config.encryption else { return Vec::new() };
        let mut headers = vec![("x-amz-server-side-encryption", encryption.as_str().to_owned())];
        if let Encryption::Kms(Some(key)) = encryption {
            headers.push(("x-amz-server-side-encryption-aws-kms-key-id", key.clone()));
        }
        headers
    }

    /// A store that knows no encryption passes its headers over.
    fn check_encryption(&self, answer: &Answer) -> Result<(), ObjectError> {
        let Some(encryption) = &self.config.encryption else { return Ok(()) };
        if header(&answer.headers, "x-amz-server-side-encryption") == Some(encryption.as_str()) {
            return Ok(());
        }
        let words = "the store did not encrypt the object as `encryption` asks; choose what it can, or leave it out";
        Err(ObjectError::Refused(words.to_owned()))
    }

    /// The version that an answer names, without which a lock would be on nobody knows what.
    fn pinned(&self, answer: &Answer) -> Result<Option<String>, Fault> {
        match version_of(&answer.headers)? {
            None if self.config.retention.is_some() => {
                Err(Fault::Odd("the store does not say which version it made".to_owned()))
            }
            version => Ok(version),
        }
    }

    /// The bytes of a reference, checked, and what the store says beside them. Without a version, those that are there now.
    async fn read(&self, object: &ObjectRef, deadline: Instant) -> Result<(Answer, Lock), ObjectError> {
        check_key(&object.key)?;
        let (full, fault) = (self.full(&object.key), |fault: Fault| fault.about(&object.key));
        let query = object.version.as_deref().map(|version| ("versionId", version)).into_iter().collect();
        // One byte more than there may be shows that it has grown.
        let limit = usize::try_from(object.size).unwrap_or(MAX_OBJECT).min(MAX_OBJECT);
        let answer = self.client.call(Call::get(Some(&full), query, limit), deadline).await.map_err(fault)?;
        let version = version_of(&answer.headers).map_err(fault)?;
        if object.version.is_some() && version.is_some() && version != object.version {
            let problem = "the store gave another version than the one that was asked for".to_owned();
            return Err(ObjectError::Changed { key: object.key.clone(), problem });
        }
        check(object, &answer.body)?;
        let lock = lock_of(&answer.headers).map_err(fault)?;
        Ok((answer, lock))
    }

    /// The version that is read by those who name none; nothing, where that is none.
    async fn current(&self, key: &str, deadline: Instant) -> Result<Option<String>, Fault> {
        let full = self.full(key);
        let call = Call { method: Method::HEAD, ..Call::get(Some(&full), Vec::new(), MAX_ANSWER) };
        match self.client.call(call, deadline).await {
            Ok(answer) => version_of(&answer.headers),
            Err(Fault::Missing) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn page(&self, behind: Option<&str>) -> Result<Vec<Listed>, ObjectError> {
        let deadline = self.deadline();
        let prefix = self.full("");
        let mut start = behind.map(|key| self.full(key)).unwrap_or_default();
        loop {
            let mut query = vec![("encoding-type", "url"), ("list-type", "2"), ("max-keys", PAGE)];
            query.extend((!prefix.is_empty()).then_some(("prefix", prefix.as_str())));
            query.extend((!start.is_empty()).then_some(("start-after", start.as_str())));
            let call = Call::get(None, query, MAX_PAGE);
            let fault = |fault: Fault| fault.about(&self.config.bucket);
            let answer = self.client.call(call, deadline).await.map_err(fault)?;
            let (mut found, more) = listing(&answer.body, &prefix).map_err(fault)?;
            let last = found.last().map(|listed| listed.key.clone());
            // The prefix itself, as some tools make it to show a folder, is no key.
            found.retain(|listed| !listed.key.is_empty());
            match last.filter(|_| more && found.is_empty()) {
                Some(last) => start = self.full(&last),
                None => return Ok(found),
            }
        }
    }
}

impl Objects for S3 {
    fn name(&self) -> String {
        let S3Config { bucket, prefix, .. } = &self.config;
        format!("s3://{bucket}/{prefix}")
    }

    fn put<'a>(&'a self, key: &'a str, bytes: &'a [u8], held: bool) -> Answered<'a, ObjectRef> {
        Box::pin(self.put_new(key, bytes, held))
    }

    fn fetch<'a>(&'a self, object: &'a ObjectRef) -> Answered<'a, Fetched> {
        Box::pin(async move {
            let (answer, lock) = self.read(object, self.deadline()).await?;
            Ok(Fetched { bytes: Vec::from(answer.body), lock })
        })
    }

    fn list<'a>(&'a self, behind: Option<&'a str>) -> Answered<'a, Vec<Listed>> {
        Box::pin(self.page(behind))
    }

    fn hold<'a>(&'a self, object: &'a ObjectRef, held: bool) -> Answered<'a, ()> {
        Box::pin(self.settle_hold(object, held))
    }

    fn overlaid<'a>(&'a self, object: &'a ObjectRef) -> Answered<'a, Option<String>> {
        Box::pin(async move {
            let Some(pinned) = &object.version else { return Ok(None) };
            check_key(&object.key)?;
            let current = self.current(&object.key, self.deadline()).await;
            Ok(match current.map_err(|fault| fault.about(&object.key))? {
                Some(current) if current == *pinned => None,
                Some(_) => Some("another version was laid over it".to_owned()),
                None => Some("it was deleted for those who do not name its version".to_owned()),
            })
        })
    }
}

/// In whole seconds, as S3 takes times, and not a moment too short.
fn until(kept: Duration) -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = Millis::try_from((now + kept).as_millis()).unwrap_or(Millis::MAX);
    millis.div_ceil(1000).saturating_mul(1000)
}

fn date_of(at: Millis) -> Result<String, ObjectError> {
    written_date(at).ok_or_else(|| ObjectError::Refused("the retention ends after the year 9999".to_owned()))
}

fn lock_headers(object: &ObjectRef) -> Result<Vec<(&'static str, String)>, ObjectError> {
    let mut headers = Vec::new();
    if let Some(retention) = object.retention {
        headers.push(("x-amz-object-lock-mode", retention.mode.as_str().to_ascii_uppercase()));
        headers.push(("x-amz-object-lock-retain-until-date", date_of(retention.until)?));
    }
    if object.held {
        headers.push(("x-amz-object-lock-legal-hold", "ON".to_owned()));
    }
    Ok(headers)
}

/// For the fuzz targets: whatever a store answers is read or refused.
#[cfg(fuzzing)]
pub fn fuzz(body: &[u8]) {
    if let Ok((page, _)) = listing(body, "p/") {
        assert!(page.len() <= body.len());
    }
    let _ = document(body, &VERSIONING);
    let fault = answer::fault(400, &http::HeaderMap::new(), Some(body), |_| false);
    assert!(fault.about("key").to_string().len() < 2000);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_no_store_takes_are_refused_in_words() {
        let good = S3Config::new("kept.here-1".into(), "eu-central-1".into());
        assert_eq!(good.check(), Ok(()));
        type Change = fn(&mut S3Config);
        let cases: [(Change, &str); 9] = [
            (|c| c.bucket = "ab".into(), "bucket"),
            (|c| c.bucket = "Kept".into(), "bucket"),
            (|c| c.bucket = "kept-".into(), "bucket"),
            (|c| c.bucket = "a/b".into(), "bucket"),
            (|c| c.region = "eu central".into(), "region"),
            (|c| c.endpoint = "http://minio.example".parse().ok(), "endpoint must be https"),
            (|c| c.prefix = "/a".into(), "prefix"),
            (|c| c.prefix = "a/../b".into(), "prefix"),
            (|c| c.encryption = Some(Encryption::Kms(Some("a key".into()))), "kms_key"),
        ];
        for (change, word) in cases {
            let mut config = good.clone();
            change(&mut config);
            let words = config.check().expect_err(word);
            assert!(words.contains(word), "{words}");
        }
    }
}
