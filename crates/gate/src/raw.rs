//! JSON objects taken apart and put together without touching the values that stay.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of a JSON object in their order, values as they stand in the text.
pub(crate) fn members(text: &str) -> Result<Vec<(String, Box<RawValue>)>, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let members = parser.deserialize_map(Members)?;
    parser.end()?;
    Ok(members)
}

/// An object of these members.
pub(crate) fn object(members: &[(String, Box<RawValue>)]) -> Result<Box<RawValue>, serde_json::Error> {
    let mut out = String::from("{");
    for (number, (name, value)) in members.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        out.push_str(&serde_json::to_string(name)?);
        out.push(':');
        out.push_str(value.get());
    }
    out.push('}');
    RawValue::from_string(out)
}

/// Gives a member this value, at its place or at the end.
pub(crate) fn set(
    members: &mut Vec<(String, Box<RawValue>)>,
    name: &str,
    value: &serde_json::Value,
) -> Result<(), serde_json::Error> {
    let value = serde_json::value::to_raw_value(value)?;
    match members.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => *old = value,
        None => members.push((name.to_owned(), value)),
    }
    Ok(())
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, Box<RawValue>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}
