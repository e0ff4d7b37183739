//! Keys in AWS Key Management Service.
//!
//! - A signing key is a KMS key (`ECC_NIST_P256`, `SIGN_VERIFY`) under the alias `alias/countersign/LABEL`; its reference is its ARN.
//!   Digests are signed (`MessageType` `DIGEST`), so KMS never sees what is signed.
//! - The root is encrypted under a symmetric key that the operator made, with an encryption context.
//! - The protocol is JSON 1.1 over the node's one network client; AWS's SDK is not used.
//! - Making a key takes two calls, and KMS cannot make a key and its alias at once. What is known to have failed half-way is
//!   scheduled for deletion; a process that dies in between leaves a key with the tag `countersign-label` and no alias.

mod answer;
mod client;
mod credentials;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_egress::Egress;
use countersign_proof::digest::Digest;
use countersign_proof::jwk::Jwk;
use countersign_proof::jws::signature_from_der;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

use crate::signature::{PublicKeys, verified};
use crate::{KeyError, MadeKey, RootKey, SigningKeys, check_label};
use answer::{Decrypted, Described, Encrypted, Fault, Metadata, Nothing, PublicKey, Signed};
use client::{Again, Call, Client};

pub use credentials::AwsCredentialSources;

/// What every label has before it in an alias.
const ALIAS_PREFIX: &str = "alias/countersign/";
const SPEC: &str = "ECC_NIST_P256";
const USAGE: &str = "SIGN_VERIFY";
/// The least that KMS waits before it deletes a key.
const DELETION_DAYS: u32 = 7;
/// The beginning of every SubjectPublicKeyInfo (RFC 5480) of an uncompressed point on P-256.
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Before what KMS gives for a root.
const WRAPPED_VERSION: u8 = 1;
/// KMS's limit for a ciphertext, in bytes, and the version.
const MAX_WRAPPED: usize = 6144 + 1;
const MAX_REFERENCE: usize = 256;

/// An account of AWS KMS and how to use it.
#[derive(Debug, Clone)]
pub struct AwsKmsConfig {
    /// The region, such as `eu-central-1`.
    pub region: String,
    /// Another endpoint than the region's public one: of a VPC, of FIPS, of a test.
    pub endpoint: Option<Url>,
    /// Where the credentials are.
    pub credentials: AwsCredentialSources,
    /// The symmetric key that wraps the root: its identifier, its ARN or an alias (`alias/…`).
    pub root_key: Option<String>,
    /// Further tags of keys that are made.
    pub tags: Vec<(String, String)>,
    /// How long an operation may take, all its calls and repetitions together.
    pub timeout: Duration,
}

impl AwsKmsConfig {
    /// The region's public endpoint, credentials from the environment, no root key, 10 s.
    pub fn new(region: String) -> Self {
        let (credentials, timeout) = (AwsCredentialSources::default(), Duration::from_secs(10));
        Self { region, endpoint: None, credentials, root_key: None, tags: Vec::new(), timeout }
    }
}

/// The keys in an account of AWS KMS.
pub struct AwsKms {
    client: Client,
    root_key: Option<String>,
    tags: Vec<(String, String)>,
    timeout: Duration,
    public: PublicKeys,
    /// Looking for an alias and making a key are one step within this process.
    making: tokio::sync::Mutex<()>,
}

impl AwsKms {
    /// Nothing is asked of KMS yet.
    ///
    /// # Errors
    /// [`KeyError::Config`], for credentials that are not there too.
    pub fn new(config: AwsKmsConfig, egress: &Egress) -> Result<Self, KeyError> {
        let AwsKmsConfig { region, endpoint, credentials, root_key, tags, timeout } = config;
        if root_key.as_ref().is_some_and(|key| !is_name(key)) {
            return Err(KeyError::Config("the root key must be a key's identifier, ARN or alias".to_owned()));
        }
        let client = Client::new(egress, &region, endpoint, credentials)?;
        let (public, making) = (PublicKeys::default(), tokio::sync::Mutex::default());
        Ok(Self { client, root_key, tags, timeout, public, making })
    }

    /// The key behind the alias, checked, or a new one.
    async fn find_or_make(&self, label: &str, deadline: Instant) -> Result<(String, Again), KeyError> {
        let alias = format!("{ALIAS_PREFIX}{label}");
        match self.describe(&alias, Again::Harmless, deadline).await {
            Ok(metadata) => Ok((usable(&alias, metadata)?, Again::Harmless)),
            Err(Fault::NotFound(_)) => Ok((self.make(label, &alias, deadline).await?, Again::NewKey)),
            Err(other) => Err(other.into()),
        }
    }

    async fn describe(&self, key: &str, again: Again, deadline: Instant) -> Result<Metadata, Fault> {
        let call = Call { action: "DescribeKey", body: json!({ "KeyId": key }), again };
        self.client.call::<Described>(call, deadline).await.map(|described| described.key_metadata)
    }

    async fn make(&self, label: &str, alias: &str, deadline: Instant) -> Result<String, KeyError> {
        let tag = |name: &str, value: &str| json!({ "TagKey": name, "TagValue": value });
        let mut tags = vec![tag("countersign-label", label)];
        tags.extend(self.tags.iter().map(|(name, value)| tag(name, value)));
        let description = format!("Countersign signing key {label}");
        let body = json!({ "KeySpec": SPEC, "KeyUsage": USAGE, "Description": description, "Tags": tags });
        // Made twice there would be two keys.
        let call = Call { action: "CreateKey", body, again: Again::IfNotDone };
        let made = self.client.call::<Described>(call, deadline).await?.key_metadata.arn;
        if !is_reference(&made) {
            return Err(KeyError::Malformed("AWS KMS made a key whose ARN is none".to_owned()));
        }
        let body = json!({ "AliasName": alias, "TargetKeyId": made });
        let call = Call { action: "CreateAlias", body, again: Again::NewKey };
        match self.client.call::<Nothing>(call, deadline).await {
            Ok(Nothing) => Ok(made),
            // Another node was first, or an attempt of ours whose answer was lost.
            Err(Fault::AlreadyExists) => {
                let named = usable(alias, self.describe(alias, Again::NewKey, deadline).await?)?;
                if named != made {
                    self.discard(&made, deadline).await;
                }
                Ok(named)
            }
            // The alias may be there: the next call finds out.
            Err(Fault::Unclear(words)) => {
                Err(KeyError::Unavailable(format!("{words}; whether the key {made} got its alias is not known")))
            }
            Err(other) => {
                let gone = self.discard(&made, deadline).await;
                Err(half_made(other.into(), &made, gone))
            }
        }
    }

    /// A key that nobody will use; whether KMS deletes it.
    async fn discard(&self, key: &str, deadline: Instant) -> bool {
        let body = json!({ "KeyId": key, "PendingWindowInDays": DELETION_DAYS });
        let call = Call { action: "ScheduleKeyDeletion", body, again: Again::NewKey };
        let discarded = self.client.call::<Nothing>(call, deadline).await;
        if let Err(fault) = &discarded {
            tracing::warn!(key, ?fault, "a key without alias stays behind in AWS KMS");
        }
        discarded.is_ok()
    }

    async fn public_key(&self, key: &str, again: Again, deadline: Instant) -> Result<Jwk, KeyError> {
        if let Some(public) = self.public.get(key) {
            return Ok(public);
        }
        let call = Call { action: "GetPublicKey", body: json!({ "KeyId": key }), again };
        let answer = self.client.call::<PublicKey>(call, deadline).await?;
        check_kind(key, &answer.key_spec, &answer.key_usage)?;
        let public = STANDARD.decode(answer.public_key).ok().and_then(|der| read_spki(&der));
        let malformed = || KeyError::Malformed(format!("AWS KMS's public key of {key} is no point on P-256"));
        let public = public.ok_or_else(malformed)?;
        self.public.put(key, &public);
        Ok(public)
    }

    fn root(&self) -> Result<&str, KeyError> {
        let unset = || KeyError::Config("no KMS key is configured for the root".to_owned());
        self.root_key.as_deref().ok_or_else(unset)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    async fn decrypt(&self, wrapped: &[u8], deadline: Instant) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let (Some((&WRAPPED_VERSION, blob)), true) = (wrapped.split_first(), wrapped.len() <= MAX_WRAPPED) else {
            return Err(KeyError::Malformed("the wrapped root was not wrapped by AWS KMS".to_owned()));
        };
        let blob = STANDARD.encode(blob);
        let body = json!({ "KeyId": self.root()?, "CiphertextBlob": blob, "EncryptionContext": context() });
        let call = Call { action: "Decrypt", body, again: Again::Harmless };
        let plaintext = Zeroizing::new(self.client.call::<Decrypted>(call, deadline).await?.plaintext);
        let secret = STANDARD.decode(plaintext.as_bytes()).ok().map(Zeroizing::new);
        let secret = secret.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new));
        secret.ok_or_else(|| KeyError::Malformed("AWS KMS unwrapped something else than 32 bytes".to_owned()))
    }
}

#[async_trait]
impl SigningKeys for AwsKms {
    fn provider(&self) -> &'static str {
        "aws-kms"
    }

    async fn create(&self, label: &str) -> Result<MadeKey, KeyError> {
        check_label(label)?;
        let deadline = self.deadline();
        let late = |_| KeyError::Unavailable("AWS KMS is still making another key".to_owned());
        let _making = tokio::time::timeout_at(deadline.into(), self.making.lock()).await.map_err(late)?;
        let (reference, again) = self.find_or_make(label, deadline).await?;
        let public = self.public_key(&reference, again, deadline).await?;
        Ok(MadeKey { reference, public })
    }

    async fn sign(&self, reference: &str, digest: &Digest) -> Result<[u8; 64], KeyError> {
        if !is_reference(reference) {
            return Err(KeyError::Malformed(format!("{reference:.140?} is no reference to a key of AWS KMS")));
        }
        let deadline = self.deadline();
        let public = self.public_key(reference, Again::Harmless, deadline).await?;
        let body = json!({
            "KeyId": reference,
            "Message": STANDARD.encode(digest.as_bytes()),
            "MessageType": "DIGEST",
            "SigningAlgorithm": "ECDSA_SHA_256",
        });
        let call = Call { action: "Sign", body, again: Again::Harmless };
        let answer = self.client.call::<Signed>(call, deadline).await?;
        let signature = STANDARD.decode(answer.signature).ok().and_then(|der| signature_from_der(&der));
        let malformed = || KeyError::Malformed("AWS KMS's signature is no ECDSA signature on P-256 in DER".to_owned());
        verified(&public, digest, &signature.ok_or_else(malformed)?)
    }
}

#[async_trait]
impl RootKey for AwsKms {
    async fn wrap(&self, secret: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
        let deadline = self.deadline();
        let plaintext = Zeroizing::new(STANDARD.encode(secret));
        let body = json!({ "KeyId": self.root()?, "Plaintext": plaintext.as_str(), "EncryptionContext": context() });
        let call = Call { action: "Encrypt", body, again: Again::Harmless };
        let blob = self.client.call::<Encrypted>(call, deadline).await?.ciphertext_blob;
        let blob = STANDARD.decode(blob).ok().filter(|blob| (1..MAX_WRAPPED).contains(&blob.len()));
        let blob = blob.ok_or_else(|| KeyError::Malformed("AWS KMS's ciphertext is none".to_owned()))?;
        let wrapped = [&[WRAPPED_VERSION][..], &blob].concat();
        // What cannot be unwrapped must not be kept.
        if *self.decrypt(&wrapped, deadline).await? != *secret {
            return Err(KeyError::Refused("AWS KMS unwraps something else than it wrapped".to_owned()));
        }
        Ok(wrapped)
    }

    async fn unwrap(&self, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        self.decrypt(wrapped, self.deadline()).await
    }
}

/// Authenticated with the root, and shown in CloudTrail: no other ciphertext of the same key is taken for a root.
fn context() -> Value {
    json!({ "countersign": "root" })
}

/// The ARN of a key that may be used.
fn usable(name: &str, metadata: Metadata) -> Result<String, KeyError> {
    check_kind(name, &metadata.key_spec, &metadata.key_usage)?;
    let state = &metadata.key_state;
    match state.as_str() {
        "Enabled" if metadata.origin == "AWS_KMS" && is_reference(&metadata.arn) => Ok(metadata.arn),
        "Enabled" if metadata.origin == "AWS_KMS" => Err(KeyError::Malformed(format!("the ARN of {name} is none"))),
        "Enabled" => {
            Err(KeyError::Refused(format!("the key {name} was not made in AWS KMS: it may be known elsewhere")))
        }
        "Creating" | "Updating" => Err(KeyError::Unavailable(format!("AWS KMS is still making the key {name}"))),
        "Disabled" => Err(KeyError::Refused(format!("the key {name} is disabled in AWS KMS; enable it"))),
        "PendingDeletion" => {
            let words = format!(
                "the key {name} is about to be deleted from AWS KMS; cancel that, or remove the alias for a new key"
            );
            Err(KeyError::Refused(words))
        }
        _ => Err(KeyError::Refused(format!("AWS KMS says that the key {name} is in the state {state:.40}"))),
    }
}

fn check_kind(name: &str, spec: &str, usage: &str) -> Result<(), KeyError> {
    if (spec, usage) == (SPEC, USAGE) {
        return Ok(());
    }
    let words = format!("the key {name} is {spec:.40} for {usage:.40} in AWS KMS; it must be {SPEC} for {USAGE}");
    Err(KeyError::Refused(words))
}

fn half_made(error: KeyError, key: &str, discarded: bool) -> KeyError {
    let what = if discarded { "is scheduled for deletion" } else { "stays behind: remove it by hand" };
    let say = |words: String| format!("{words}; the key {key}, made just before, {what}");
    match error {
        KeyError::Unavailable(words) => KeyError::Unavailable(say(words)),
        KeyError::Refused(words) => KeyError::Refused(say(words)),
        KeyError::NotFound(words) => KeyError::NotFound(say(words)),
        KeyError::Malformed(words) => KeyError::Malformed(say(words)),
        KeyError::Config(words) => KeyError::Config(say(words)),
    }
}

fn read_spki(der: &[u8]) -> Option<Jwk> {
    Jwk::from_point(der.strip_prefix(&SPKI_HEAD)?.try_into().ok()?).ok()
}

/// What KMS takes for a `KeyId`.
fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b":/_-".contains(&b);
    (1..=MAX_REFERENCE).contains(&text.len()) && text.bytes().all(fits)
}

/// A key itself, and no alias, which may name another key tomorrow.
fn is_reference(text: &str) -> bool {
    is_name(text) && text.starts_with("arn:") && text.contains(":key/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_arns_of_keys() {
        let good = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        assert!(is_reference(good) && is_reference(&good.replace("aws:", "aws-cn:")));
        for bad in
            ["", "1234abcd", "alias/countersign/a", "arn:aws:kms:x:1:alias/a", &format!("{good} "), &good.repeat(4)]
        {
            assert!(!is_reference(bad), "{bad}");
        }
    }

    #[test]
    fn only_keys_on_p256_are_read() {
        let secret = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let point = secret.verifying_key().to_sec1_point(false).as_bytes().to_vec();
        let der = [&SPKI_HEAD[..], &point].concat();
        assert_eq!(read_spki(&der).unwrap().point().to_vec(), point);
        for (at, what) in [(22, "another curve"), (10, "another algorithm"), (90, "a point off the curve")] {
            let mut changed = der.clone();
            changed[at] ^= 1;
            assert_eq!(read_spki(&changed), None, "{what}");
        }
        assert_eq!(read_spki(&[&der[..], &[0]].concat()), None);
        assert_eq!(read_spki(&der[1..]), None);
    }
}
