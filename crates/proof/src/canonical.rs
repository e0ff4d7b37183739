//! Strict JSON in, canonical JSON out.
//!
//! [`parse_strict`] accepts only I-JSON (RFC 7493) within bounds: no duplicate names, valid UTF-8, and numbers on which
//! every reader agrees. [`to_canonical`] writes the JSON Canonicalization Scheme (RFC 8785). Whatever the first accepts,
//! the second can write, and reading that again yields the same bytes.
//!
//! Numbers beyond ±(2^53 - 1) are refused even where a double could hold them: other readers would take `1e17`, or the
//! `100000000000000000` that RFC 8785 makes of it, for an integer, and some would round it.

use std::cmp::Ordering;
use std::fmt;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Largest integer that JSON readers agree on: 2^53 - 1 (RFC 7493 section 2.2).
pub const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;

/// Bounds for [`parse_strict`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest accepted text, in bytes.
    pub max_bytes: usize,
    /// Deepest nesting of arrays and objects; a bare scalar has depth 0. Values above 127 act like 127.
    pub max_depth: usize,
}

impl Default for Limits {
    /// 1 MiB and 64 levels.
    fn default() -> Self {
        Self { max_bytes: 1 << 20, max_depth: 64 }
    }
}

/// Why a text is not acceptable JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text is longer than [`Limits::max_bytes`].
    #[error("the text has {actual} bytes; at most {limit} are accepted")]
    TooLarge {
        /// Bytes given.
        actual: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The text is not UTF-8.
    #[error("invalid UTF-8 at byte {offset}")]
    InvalidUtf8 {
        /// Zero-based offset of the first wrong byte.
        offset: usize,
    },
    /// Arrays and objects are nested deeper than [`Limits::max_depth`].
    #[error("nested deeper than {limit} levels at {at}")]
    TooDeep {
        /// Levels allowed.
        limit: usize,
        /// Where.
        at: Position,
    },
    /// An object has the same name twice.
    #[error("duplicate name {name:?} at {at}")]
    DuplicateName {
        /// The name, cut after 64 characters.
        name: String,
        /// Where.
        at: Position,
    },
    /// A number that readers may disagree about: beyond ±(2^53 - 1), or so small that a double makes it 0.
    #[error("number out of range at {at}: numbers are limited to ±(2^53 - 1) and to what a double tells from 0")]
    Number {
        /// Where the number starts.
        at: Position,
    },
    /// Anything else that RFC 8259 forbids.
    #[error("not JSON at {at}: {message}")]
    Syntax {
        /// Where.
        at: Position,
        /// What the parser says, without its position.
        message: String,
    },
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Zero-based byte offset.
    pub offset: usize,
    /// One-based line.
    pub line: usize,
    /// One-based column, in bytes.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {} (byte {})", self.line, self.column, self.offset)
    }
}

/// Why a value has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// An integer beyond ±(2^53 - 1), or a number that is not finite.
    #[error("the number {0} has no canonical form: integers are limited to ±(2^53 - 1)")]
    Number(String),
    /// The value could not be turned into JSON at all.
    #[error("the value cannot be written as JSON: {0}")]
    Serialize(String),
}

/// Parses one JSON text, refusing everything that two readers could understand differently.
///
/// # Errors
/// [`JsonError`], with the position where one is known.
pub fn parse_strict(bytes: &[u8], limits: &Limits) -> Result<Value, JsonError> {
    if bytes.len() > limits.max_bytes {
        return Err(JsonError::TooLarge { actual: bytes.len(), limit: limits.max_bytes });
    }
    let text = std::str::from_utf8(bytes).map_err(|e| JsonError::InvalidUtf8 { offset: e.valid_up_to() })?;
    let mut refusal = None;
    let seed = StrictValue { depth_left: limits.max_depth, refusal: &mut refusal };
    let mut parser = serde_json::Deserializer::from_str(text);
    let parsed = seed.deserialize(&mut parser).and_then(|value| parser.end().map(|()| value));
    let value = parsed.map_err(|e| {
        let at = position_of_line(text, e.line(), e.column());
        match refusal {
            Some(Refusal::Depth) => JsonError::TooDeep { limit: limits.max_depth, at },
            Some(Refusal::Duplicate(name)) => JsonError::DuplicateName { name, at },
            None => syntax_error(text, at, &e),
        }
    })?;
    check_numbers(text)?;
    Ok(value)
}

/// The RFC 8785 bytes of `value`.
///
/// # Errors
/// [`CanonicalError::Number`] for integers beyond ±(2^53 - 1).
pub fn to_canonical(value: &Value) -> Result<Vec<u8>, CanonicalError> {
    let mut out = Vec::with_capacity(256);
    write_value(value, &mut out)?;
    Ok(out)
}

/// The RFC 8785 bytes of anything that serde can turn into JSON.
///
/// # Errors
/// As [`to_canonical`], and [`CanonicalError::Serialize`] where serde fails.
pub fn canonical_of<T: Serialize>(t: &T) -> Result<Vec<u8>, CanonicalError> {
    to_canonical(&serde_json::to_value(t).map_err(|e| CanonicalError::Serialize(e.to_string()))?)
}

/// RFC 8785 section 3.2.3: names are ordered by their UTF-16 code units, not by their bytes.
fn compare_names(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

fn write_value(value: &Value, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(number, out)?,
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_value(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => write_object(members, out)?,
    }
    Ok(())
}

fn write_object(members: &Map<String, Value>, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_by(|a, b| compare_names(a.0, b.0));
    out.push(b'{');
    for (i, (name, value)) in sorted.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write_string(name, out);
        out.push(b':');
        write_value(value, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// RFC 8785 section 3.2.2.3: numbers as ECMAScript writes them.
fn write_number(number: &Number, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    let refuse = || CanonicalError::Number(number.to_string());
    if number.is_i64() || number.is_u64() {
        let integer = number.as_i64().ok_or_else(refuse)?;
        if !(-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(&integer) {
            return Err(refuse());
        }
        out.extend_from_slice(integer.to_string().as_bytes());
        return Ok(());
    }
    let double = number.as_f64().filter(|d| d.is_finite()).ok_or_else(refuse)?;
    out.extend_from_slice(ryu_js::Buffer::new().format_finite(double).as_bytes());
    Ok(())
}

/// RFC 8785 section 3.2.2.2: the shortest escapes, lower-case hexadecimal, nothing else escaped.
fn write_string(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            0x00..=0x1f => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Why our visitor refused; serde_json's error carries only a message, so the reason travels beside it.
enum Refusal {
    Depth,
    Duplicate(String),
}

/// Builds a [`Value`] like serde_json does, but refuses duplicate names and too deep nesting.
struct StrictValue<'a> {
    depth_left: usize,
    refusal: &'a mut Option<Refusal>,
}

impl StrictValue<'_> {
    fn nested<E: serde::de::Error>(&mut self) -> Result<StrictValue<'_>, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(StrictValue { depth_left, refusal: self.refusal }),
            None => {
                *self.refusal = Some(Refusal::Depth);
                Err(E::custom("nested too deep"))
            }
        }
    }

    fn again(&mut self) -> StrictValue<'_> {
        StrictValue { depth_left: self.depth_left, refusal: self.refusal }
    }
}

impl<'de> DeserializeSeed<'de> for StrictValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StrictValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut inner = self.nested()?;
        let mut out = Vec::new();
        while let Some(item) = items.next_element_seed(inner.again())? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        let mut inner = self.nested()?;
        let mut out = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if out.contains_key(&name) {
                *inner.refusal = Some(Refusal::Duplicate(name.chars().take(64).collect()));
                return Err(A::Error::custom("duplicate name"));
            }
            let value = members.next_value_seed(inner.again())?;
            out.insert(name, value);
        }
        Ok(Value::Object(out))
    }
}

/// Checks how numbers are written. The text is known to be valid JSON here, so that a digit or a minus sign outside a
/// string starts a number.
fn check_numbers(text: &str) -> Result<(), JsonError> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b'-' | b'0'..=b'9' => {
                let length =
                    bytes[at..].iter().take_while(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
                let end = at + length.count();
                if !number_is_safe(&text[at..end]) {
                    return Err(JsonError::Number { at: position_of_offset(text, at) });
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

/// The offset just after the string that starts at `start`.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn number_is_safe(lexeme: &str) -> bool {
    if !lexeme.contains(['.', 'e', 'E']) {
        return lexeme.parse::<i64>().is_ok_and(|i| (-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(&i));
    }
    let Ok(double) = lexeme.parse::<f64>() else { return false };
    let mantissa = lexeme.split(['e', 'E']).next().unwrap_or(lexeme);
    let underflows = double == 0.0 && mantissa.bytes().any(|b| matches!(b, b'1'..=b'9'));
    // Every double from 2^53 on is an integer; its canonical form would be an integer that is refused above.
    double.abs() <= MAX_SAFE_INTEGER as f64 && !underflows
}

fn syntax_error(text: &str, at: Position, error: &serde_json::Error) -> JsonError {
    let message = error.to_string();
    if message.starts_with("number out of range") {
        return JsonError::Number { at: position_of_offset(text, at.offset) };
    }
    let message = message.split(" at line ").next().unwrap_or_default().to_owned();
    JsonError::Syntax { at, message }
}

/// serde_json counts lines from 1 and columns in bytes; column 0 stands for the line's start.
fn position_of_line(text: &str, line: usize, column: usize) -> Position {
    let line_start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let offset = (line_start + column.saturating_sub(1)).min(text.len());
    Position { offset, line: line.max(1), column: column.max(1) }
}

fn position_of_offset(text: &str, offset: usize) -> Position {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
    Position { offset, line, column: offset - line_start + 1 }
}
