//! Protobuf's JSON mapping, as far as Sigstore's files use it: bytes as base64, 64-bit integers as text, times. And a look at
//! JSON that others signed, which is taken as it is.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::canonical::{JsonError, Limits, Position, parse_strict};
use der::DateTime;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
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

/// Refuses JSON that two readers could understand differently, for its names, and counts its values. Unlike [`parse`], it takes
/// any number, and builds nothing: in memory are the names of the objects that are open, wherever the text has them unescaped.
pub(crate) fn count_values(json: &[u8], limits: &Limits) -> Result<usize, JsonError> {
    if json.len() > limits.max_bytes {
        return Err(JsonError::TooLarge { actual: json.len(), limit: limits.max_bytes });
    }
    let text = std::str::from_utf8(json).map_err(|e| JsonError::InvalidUtf8 { offset: e.valid_up_to() })?;
    let mut refusal = None;
    let seed = Counted { depth_left: limits.max_depth, refusal: &mut refusal };
    let mut parser = serde_json::Deserializer::from_str(text);
    let counted = seed.deserialize(&mut parser).and_then(|count| parser.end().map(|()| count));
    counted.map_err(|error| {
        let at = position(text, &error);
        let message = error.to_string();
        match refusal {
            Some(Refusal::Depth) => JsonError::TooDeep { limit: limits.max_depth, at },
            Some(Refusal::Duplicate(name)) => JsonError::DuplicateName { name, at },
            None => JsonError::Syntax { at, message: message.split(" at line ").next().unwrap_or_default().to_owned() },
        }
    })
}

/// serde_json counts lines from 1 and columns in bytes.
fn position(text: &str, error: &serde_json::Error) -> Position {
    let line_start: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = (line_start + error.column().saturating_sub(1)).min(text.len());
    Position { offset, line: error.line().max(1), column: error.column().max(1) }
}

/// Why [`Counted`] refused, since an error of serde_json's carries only text.
enum Refusal {
    Depth,
    Duplicate(String),
}

/// Counts a value and those in it.
struct Counted<'a> {
    depth_left: usize,
    refusal: &'a mut Option<Refusal>,
}

/// A member's name, borrowed from the text where it has no escapes.
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

impl Counted<'_> {
    /// For what is in a list or an object.
    fn nested<E: serde::de::Error>(&mut self) -> Result<Counted<'_>, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Counted { depth_left, refusal: self.refusal }),
            None => {
                *self.refusal = Some(Refusal::Depth);
                Err(E::custom("nested too deep"))
            }
        }
    }

    fn again(&mut self) -> Counted<'_> {
        Counted { depth_left: self.depth_left, refusal: self.refusal }
    }
}

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<usize, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<usize, E> {
        Ok(1)
    }

    fn visit_bool<E>(self, _: bool) -> Result<usize, E> {
        Ok(1)
    }

    fn visit_i64<E>(self, _: i64) -> Result<usize, E> {
        Ok(1)
    }

    fn visit_u64<E>(self, _: u64) -> Result<usize, E> {
        Ok(1)
    }

    fn visit_f64<E>(self, _: f64) -> Result<usize, E> {
        Ok(1)
    }

    fn visit_str<E>(self, _: &str) -> Result<usize, E> {
        Ok(1)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<usize, A::Error> {
        let mut inner = self.nested()?;
        let mut count = 1;
        while let Some(values) = items.next_element_seed(inner.again())? {
            count += values;
        }
        Ok(count)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<usize, A::Error> {
        let mut inner = self.nested()?;
        let mut count = 1;
        let mut names = BTreeSet::new();
        while let Some(MemberName(name)) = members.next_key()? {
            if names.contains(&name) {
                *inner.refusal = Some(Refusal::Duplicate(name.chars().take(64).collect()));
                return Err(A::Error::custom("duplicate name"));
            }
            names.insert(name);
            count += members.next_value_seed(inner.again())?;
        }
        Ok(count)
    }
}

/// What is made of parts that were checked can be written; an empty text is refused by every reader.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_names_stand_once() {
        let limits = Limits { max_bytes: 60, max_depth: 3 };
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        for (text, expected) in [
            ("null", Some(1)),
            ("[]", Some(1)),
            (r#"{"a":[1,-2,3.5,"x",true,null],"b":{"a":{}}}"#, Some(10)),
            (r#"[18446744073709551615,100000000000000000000,1e300,9007199254740993]"#, None),
            ("[18446744073709551615,100000000000000000000,1e300]", Some(4)),
            (r#"{"a":1,"a":2}"#, None),
            (r#"{"a":1,"\u0061":2}"#, None),
            (r#"[{"b":{"":1,"c":2,"":3}}]"#, None),
            (r#"[{"a":1},{"a":1}]"#, Some(5)),
            (nested(3).as_str(), Some(3)),
            (nested(4).as_str(), None),
            ("1e999", None),
            ("[1] 2", None),
            ("{\"a\":", None),
            ("", None),
        ] {
            assert_eq!(count_values(text.as_bytes(), &limits).ok(), expected, "{text}");
        }
        assert_eq!(count_values(b"\xff", &limits), Err(JsonError::InvalidUtf8 { offset: 0 }));
        let twice = count_values(b"{\n\"a\":1,\n\"a\":2}", &limits).unwrap_err();
        assert!(matches!(&twice, JsonError::DuplicateName { name, at } if name == "a" && at.line == 3), "{twice}");
        assert!(matches!(count_values(nested(4).as_bytes(), &limits), Err(JsonError::TooDeep { limit: 3, .. })));
    }

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
