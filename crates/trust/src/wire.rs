//! Protobuf's JSON mapping, as far as Sigstore's files use it: bytes as base64, 64-bit integers as text, times.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::canonical::{JsonError, Limits, parse_strict};
use der::DateTime;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes, written as standard base64 with padding. Reading is strict, so that bytes have one spelling.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Base64(pub(crate) Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        STANDARD.decode(&text).map(Self).map_err(|_| D::Error::custom("expected base64"))
    }
}

/// A non-negative 64-bit integer: written as text, read as text or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Int64(pub(crate) u64);

impl Serialize for Int64 {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Int64 {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        let number = match Either::deserialize(input)? {
            Either::Number(number) => Some(number),
            Either::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            Either::Text(_) => None,
        };
        // The type is signed on the wire.
        number.filter(|n| i64::try_from(*n).is_ok()).map(Self).ok_or_else(|| D::Error::custom("expected an integer"))
    }
}

/// A time in seconds: written in RFC 3339 and UTC, read with fractions too, which are cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timestamp(pub(crate) u64);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let time = DateTime::from_unix_duration(std::time::Duration::from_secs(self.0));
        out.collect_str(&time.map_err(|_| serde::ser::Error::custom("a time beyond the year 9999"))?)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        parse_time(&text).map(Self).ok_or_else(|| D::Error::custom("expected a time such as 2026-01-31T12:00:00Z"))
    }
}

fn parse_time(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let time: DateTime = format!("{whole}Z").parse().ok()?;
    Some(time.unix_duration().as_secs())
}

/// A text that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Not JSON, ambiguous JSON, or beyond a bound.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A member is missing, unknown or of the wrong type.
    #[error("{0}")]
    Shape(String),
}

/// Parses within bounds and refuses what two readers could understand differently.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8], max_bytes: usize) -> Result<T, ShapeError> {
    let value = parse_strict(json, &Limits { max_bytes, max_depth: 32 })?;
    serde_json::from_value(value).map_err(|e| ShapeError::Shape(e.to_string()))
}

/// What is made of parts that were checked can be written; an empty text is refused by every reader.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_integers_and_bytes_are_read_strictly() {
        for (text, expected) in [
            ("1970-01-01T00:00:01Z", Some(1)),
            ("2022-10-31T23:59:59.999Z", Some(1_667_260_799)),
            ("2022-10-31T23:59:59.Z", None),
            ("2022-10-31T23:59:59+00:00", None),
            ("2022-13-31T23:59:59Z", None),
            ("", None),
        ] {
            assert_eq!(parse_time(text), expected, "{text}");
        }
        assert_eq!(serde_json::to_string(&Timestamp(1_667_260_799)).unwrap(), "\"2022-10-31T23:59:59Z\"");
        for (text, expected) in
            [("7", Some(7)), ("\"7\"", Some(7)), ("\"-7\"", None), ("\"9223372036854775808\"", None)]
        {
            assert_eq!(serde_json::from_str(text).ok().map(|n: Int64| n.0), expected, "{text}");
        }
        for (text, good) in [("\"AA==\"", true), ("\"AA\"", false), ("\"AB==\"", false), ("\"-_==\"", false)] {
            assert_eq!(serde_json::from_str::<Base64>(text).is_ok(), good, "{text}");
        }
    }
}
