//! Standard base64 with padding (RFC 4648 section 4) of 32-byte values, for text formats and for serde fields; base64url
//! without padding (section 5) for JOSE.
//!
//! Decoding is strict: wrong padding and non-zero trailing bits are refused, so that a value has one spelling.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Decodes exactly 32 bytes.
pub(crate) fn decode32(text: &str) -> Option<[u8; 32]> {
    // 32 bytes are always 44 characters; anything else need not be decoded at all.
    if text.len() != 44 {
        return None;
    }
    decode(text)?.try_into().ok()
}

pub(crate) fn url_encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn url_decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Decodes exactly 32 bytes of base64url.
pub(crate) fn url_decode32(text: &str) -> Option<[u8; 32]> {
    // 32 bytes are always 43 characters; anything else need not be decoded at all.
    if text.len() != 43 {
        return None;
    }
    url_decode(text)?.try_into().ok()
}

/// `#[serde(with = "b64::array32")]` for a `[u8; 32]`.
pub(crate) mod array32 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &[u8; 32], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&super::encode(value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(input)?;
        super::decode32(&text).ok_or_else(|| D::Error::custom("expected the base64 of 32 bytes"))
    }
}

/// `#[serde(with = "b64::array32_list")]` for a `Vec<[u8; 32]>`.
pub(crate) mod array32_list {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(list: &[[u8; 32]], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(list.iter().map(|hash| super::encode(hash)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<[u8; 32]>, D::Error> {
        let list = Vec::<String>::deserialize(input)?;
        let decoded = list.iter().map(|text| super::decode32(text)).collect::<Option<Vec<_>>>();
        decoded.ok_or_else(|| D::Error::custom("expected base64 strings of 32 bytes each"))
    }
}
