//! Signatures of webhooks (Standard Webhooks 1.0.0, symmetric): HMAC-SHA256 over `id.timestamp.body`.
//!
//! The id stays the same however often a delivery is tried; the timestamp is that of the attempt, and receivers refuse
//! one that is far off theirs. While a secret is being replaced, both sign.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use sha2::Sha256;
use zeroize::Zeroizing;

/// What stands before a secret.
pub const PREFIX: &str = "whsec_";
/// Shortest secret, in bytes.
pub const MIN_SECRET_BYTES: usize = 24;
/// Longest secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 64;
/// Most secrets that sign one delivery.
pub const MAX_SECRETS: usize = 4;

/// What two parties share. It shows itself to nobody.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why something cannot be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not a secret.
    #[error("a webhook's secret is {PREFIX:?} and base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random bytes")]
    Secret,
    /// An id that could be taken for more than an id.
    #[error("a webhook's id is 1 to 128 of letters, digits, - and _")]
    Id,
    /// None, or too many.
    #[error("1 to {MAX_SECRETS} secrets sign a webhook")]
    Secrets,
}

impl Secret {
    /// Reads a secret as it is shown to people.
    ///
    /// # Errors
    /// [`SignatureError::Secret`].
    pub fn parse(text: &str) -> Result<Self, SignatureError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SignatureError::Secret)?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| SignatureError::Secret)?);
        Self::from_bytes(bytes)
    }

    /// Makes a secret of random bytes.
    ///
    /// # Errors
    /// [`SignatureError::Secret`] for too few or too many.
    pub fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Result<Self, SignatureError> {
        if (MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(SignatureError::Secret)
        }
    }

    /// As it is shown to whoever receives the webhooks, and nobody else.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", STANDARD.encode(&*self.0)))
    }
}

/// The headers of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Headers {
    /// `webhook-id`.
    pub id: String,
    /// `webhook-timestamp`.
    pub timestamp: String,
    /// `webhook-signature`: one for each secret, with blanks between.
    pub signature: String,
}

impl Headers {
    /// Names and values.
    pub fn pairs(&self) -> [(&'static str, &str); 3] {
        [("webhook-id", &self.id), ("webhook-timestamp", &self.timestamp), ("webhook-signature", &self.signature)]
    }
}

/// Signs a body as it will be sent, to the byte. `seconds` is when it is sent, since 1970.
///
/// # Errors
/// [`SignatureError`].
pub fn sign(secrets: &[Secret], id: &str, seconds: u64, body: &[u8]) -> Result<Headers, SignatureError> {
    if !is_id(id) {
        return Err(SignatureError::Id);
    }
    if !(1..=MAX_SECRETS).contains(&secrets.len()) {
        return Err(SignatureError::Secrets);
    }
    let timestamp = seconds.to_string();
    let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    let signatures = secrets.iter().map(|secret| one(secret, &parts)).collect::<Result<Vec<_>, _>>()?;
    Ok(Headers { id: id.to_owned(), signature: signatures.join(" "), timestamp })
}

fn one(secret: &Secret, parts: &[&[u8]]) -> Result<String, SignatureError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).map_err(|_| SignatureError::Secret)?;
    parts.iter().for_each(|part| mac.update(part));
    Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

/// Without full stops, so that an id cannot reach into the timestamp.
pub(super) fn is_id(id: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=128).contains(&id.len()) && id.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of the reference implementations (standard-webhooks/standard-webhooks, `libraries`, MIT).
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: u64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn the_published_vector_is_reproduced() {
        let secret = Secret::parse(SECRET).unwrap();
        let headers = sign(std::slice::from_ref(&secret), ID, TIME, BODY).unwrap();
        let expected = [("webhook-id", ID), ("webhook-timestamp", "1614265330"), ("webhook-signature", SIGNATURE)];
        assert_eq!(headers.pairs(), expected);
        assert_eq!(secret.reveal().as_str(), SECRET);
        assert!(!format!("{secret:?}").contains("MfKQ"));
    }

    #[test]
    fn every_part_is_signed_and_every_secret_signs() {
        let secret = Secret::parse(SECRET).unwrap();
        let other = Secret::from_bytes(Zeroizing::new(vec![7; 32])).unwrap();
        let of =
            |secret: &Secret, id: &str, time, body: &[u8]| sign(std::slice::from_ref(secret), id, time, body).unwrap();
        for changed in [
            of(&other, ID, TIME, BODY),
            of(&secret, "msg_x", TIME, BODY),
            of(&secret, ID, TIME + 1, BODY),
            of(&secret, ID, TIME, b"{}"),
        ] {
            assert_ne!(changed.signature, SIGNATURE);
        }
        let both = sign(&[secret, other.clone()], ID, TIME, BODY).unwrap();
        assert_eq!(both.signature, format!("{SIGNATURE} {}", of(&other, ID, TIME, BODY).signature));
    }

    #[test]
    fn what_is_no_secret_or_id_is_refused() {
        let short = format!("{PREFIX}{}", STANDARD.encode([1; 23]));
        let long = format!("{PREFIX}{}", STANDARD.encode([1; 65]));
        for wrong in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_***", &short, &long] {
            assert_eq!(Secret::parse(wrong).err(), Some(SignatureError::Secret), "{wrong}");
        }
        let secret = Secret::parse(SECRET).unwrap();
        for wrong in ["", "a.b", "a\r\nx: y", &"a".repeat(129)] {
            assert_eq!(sign(std::slice::from_ref(&secret), wrong, TIME, BODY), Err(SignatureError::Id));
        }
        assert_eq!(sign(&[], ID, TIME, BODY), Err(SignatureError::Secrets));
        assert_eq!(sign(&vec![secret; 5], ID, TIME, BODY), Err(SignatureError::Secrets));
    }
}
