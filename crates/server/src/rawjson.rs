//! JSON objects taken apart and put together without touching their values: numbers, key order and unknown members stay
//! as they were sent.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of a JSON object in their order, values as they stand in the text. Duplicates are kept: whoever looks
/// decides.
///
/// # Errors
/// If the text is not one JSON object.
pub(crate) fn members(text: &str) -> Result<Vec<(Cow<'_, str>, &RawValue)>, serde_json::Error> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let members = parser.deserialize_map(Members)?;
    parser.end()?;
    Ok(members)
}

/// An object of these members.
pub(crate) fn object<'a>(members: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut writer = ObjectWriter::new(Vec::with_capacity(256));
    for (name, value) in members {
        writer.member(name, value.as_bytes());
    }
    writer.finish()
}

/// Writes one object member by member.
pub(crate) struct ObjectWriter {
    out: Vec<u8>,
    first: bool,
}

impl ObjectWriter {
    /// Opens the object at the end of `out`.
    pub fn new(mut out: Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    /// Adds a member whose value is JSON already.
    pub fn member(&mut self, name: &str, json: &[u8]) {
        self.name(name).extend_from_slice(json);
    }

    /// Adds a member whose value is text without anything to escape: ids, digests, our own words.
    pub fn plain(&mut self, name: &str, text: &str) {
        let out = self.name(name);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }

    /// Writes a member's name; the value is written to the result.
    pub fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        write_string(&mut self.out, name);
        self.out.push(b':');
        &mut self.out
    }

    /// Closes the object.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }
}

/// A JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else if let Ok(escaped) = serde_json::to_string(text) {
        out.extend_from_slice(escaped.as_bytes());
    }
}

/// Takes line breaks out of JSON text, for framings where a line is a message. Inside strings they are escaped, so those
/// that are left are white space.
pub(crate) fn on_one_line(json: &mut [u8]) {
    for byte in json.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some(Name(name)) = map.next_key()? {
            members.push((name, map.next_value()?));
        }
        Ok(members)
    }
}

/// A member's name, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_as_they_were_written() {
        let text = r#" {"a" : 1.10, "b\n":{"y":1,"x":[ 2 ]},"a":"twice"} "#;
        let found = members(text).expect("an object");
        let shown: Vec<_> = found.iter().map(|(n, v)| (n.as_ref(), v.get())).collect();
        assert_eq!(shown, [("a", "1.10"), ("b\n", r#"{"y":1,"x":[ 2 ]}"#), ("a", r#""twice""#)]);
        assert_eq!(object(shown.into_iter()), br#"{"a":1.10,"b\n":{"y":1,"x":[ 2 ]},"a":"twice"}"#);
        for text in ["", "[]", "1", "{} {}", "{\"a\"}"] {
            assert!(members(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_message_fits_on_one_line_and_means_the_same() {
        let mut text = "{\n \"a\": \"x\\ny\"\r\n}".as_bytes().to_vec();
        on_one_line(&mut text);
        assert!(!text.contains(&b'\n'));
        let value: serde_json::Value = serde_json::from_slice(&text).expect("still JSON");
        assert_eq!(value["a"], "x\ny");
    }
}
