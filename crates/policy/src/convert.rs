//! Arguments become Cedar values by the type of the tool's schema, so that a converted context fits the schema by
//! construction and no validation is needed per request.
//!
//! Cedar's own JSON form is never used: its escapes (`__entity`, `__extn`) would let an argument pose as an entity or a
//! decimal. An object with such keys is an object here, or is dropped where the tool declares no such property.

use std::sync::LazyLock;

use cedar_policy_core::ast::{Name, PartialValue, UnreservedId, Value as CedarValue};
use cedar_policy_core::extensions::Extensions;
use serde_json::{Number, Value};

use crate::shape::{ArgType, RecordType};

/// How many values one call's arguments may hold.
const MAX_VALUES: usize = 20_000;
/// Cedar's decimal is a 64-bit count of ten-thousandths.
const DECIMAL_PLACES: usize = 4;

/// Why arguments can't be shown to the policies. Never holds a value: the text may end up in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// A value is not of the type that the tool's schema declares.
    #[error("argument {}: expected {expected}", name(.path))]
    WrongType {
        /// Where, as `targeting.age`.
        path: String,
        /// The declared type.
        expected: &'static str,
    },
    /// A required argument is absent.
    #[error("argument {}: missing", name(.path))]
    Missing {
        /// Where.
        path: String,
    },
    /// A number that Cedar can't hold exactly.
    #[error("argument {}: {problem}", name(.path))]
    Number {
        /// Where.
        path: String,
        /// What can't be held.
        problem: &'static str,
    },
    /// More values than are looked at.
    #[error("the arguments hold more than {MAX_VALUES} values")]
    TooMany,
}

fn name(path: &str) -> String {
    if path.is_empty() { "object".to_owned() } else { format!("{path:?}") }
}

/// The arguments as a Cedar record. Undeclared properties are dropped, as they are from the schema.
pub(crate) fn arguments(ty: &RecordType, input: &Value) -> Result<CedarValue, InputError> {
    let mut left = MAX_VALUES;
    record(ty, input, &mut left)
}

fn record(ty: &RecordType, value: &Value, left: &mut usize) -> Result<CedarValue, InputError> {
    let object = value.as_object().ok_or_else(|| wrong("an object"))?;
    let mut pairs = Vec::with_capacity(ty.fields.len());
    for (name, field) in &ty.fields {
        match object.get(name) {
            Some(Value::Null) if field.nullable => {}
            Some(value) => pairs.push((name.as_str(), convert(&field.ty, value, left).map_err(|e| e.within(name))?)),
            None if field.required => return Err(InputError::Missing { path: name.clone() }),
            None => {}
        }
    }
    Ok(CedarValue::record(pairs, None))
}

fn convert(ty: &ArgType, value: &Value, left: &mut usize) -> Result<CedarValue, InputError> {
    *left = left.checked_sub(1).ok_or(InputError::TooMany)?;
    match ty {
        ArgType::String => value.as_str().map(CedarValue::from).ok_or_else(|| wrong("a string")),
        ArgType::Bool => value.as_bool().map(CedarValue::from).ok_or_else(|| wrong("true or false")),
        ArgType::Long => long(value).map(CedarValue::from),
        ArgType::Decimal => decimal(value).and_then(|text| cedar_decimal(&text)),
        ArgType::Record(ty) => record(ty, value, left),
        ArgType::Set(ty) => {
            let items = value.as_array().ok_or_else(|| wrong("a list"))?;
            let item = |(i, v)| convert(ty, v, left).map_err(|e| e.within(&format!("[{i}]")));
            Ok(CedarValue::set(items.iter().enumerate().map(item).collect::<Result<Vec<_>, _>>()?, None))
        }
    }
}

fn long(value: &Value) -> Result<i64, InputError> {
    let number = value.as_number().ok_or_else(|| wrong("a whole number"))?;
    if let Some(n) = number.as_i64() {
        return Ok(n);
    }
    // JSON Schema counts 1.0 and 1e3 as integers.
    match number.as_f64() {
        Some(f) if f.fract() != 0.0 => Err(wrong("a whole number")),
        Some(f) if !number.is_u64() && (-(2f64.powi(63))..2f64.powi(63)).contains(&f) => Ok(f as i64),
        _ => Err(not_held("a whole number beyond 64 bits")),
    }
}

/// The text of a Cedar decimal for a JSON number (an IEEE 754 double, RFC 8785 and I-JSON).
fn decimal(value: &Value) -> Result<String, InputError> {
    let number = value.as_number().ok_or_else(|| wrong("a number"))?;
    let text = plain(number).ok_or_else(|| not_held("a number beyond decimal's range"))?;
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    if fraction.len() > DECIMAL_PLACES {
        return Err(not_held("a number with more than four decimal places"));
    }
    let digits = format!("{whole}{fraction:0<DECIMAL_PLACES$}");
    match digits.parse::<i64>() {
        Ok(_) => Ok(format!("{whole}.{fraction}")),
        Err(_) => Err(not_held("a number beyond decimal's range")),
    }
}

fn cedar_decimal(text: &str) -> Result<CedarValue, InputError> {
    // Looked up by a name parsed once: the public constructor parses the word "decimal" on each call.
    static DECIMAL: LazyLock<Option<Name>> =
        LazyLock::new(|| "decimal".parse::<UnreservedId>().ok().map(Name::unqualified_name));
    let decimal = DECIMAL.as_ref().and_then(|name| Extensions::all_available().func(name).ok());
    match decimal.and_then(|function| function.call(&[CedarValue::from(text)]).ok()) {
        Some(PartialValue::Value(value)) => Ok(value),
        Some(PartialValue::Residual(_)) | None => Err(not_held("a number that Cedar refuses")),
    }
}

/// A number without an exponent; `None` if it is too long to be a decimal anyway.
fn plain(number: &Number) -> Option<String> {
    match number.as_f64() {
        Some(f) if number.is_f64() => (f.abs() < 1e16).then(|| format!("{f}")),
        _ => Some(number.to_string()),
    }
}

fn wrong(expected: &'static str) -> InputError {
    InputError::WrongType { path: String::new(), expected }
}

fn not_held(problem: &'static str) -> InputError {
    InputError::Number { path: String::new(), problem }
}

impl InputError {
    fn within(mut self, parent: &str) -> Self {
        match &mut self {
            Self::WrongType { path, .. } | Self::Missing { path } | Self::Number { path, .. } => {
                let dot = if path.is_empty() || path.starts_with('[') { "" } else { "." };
                *path = format!("{parent}{dot}{path}");
            }
            Self::TooMany => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn decimals_are_exact_or_refused() {
        for (json, expected) in [
            ("0", Some("0.0")),
            ("-0.0", Some("-0.0")),
            ("50000", Some("50000.0")),
            ("50000.0001", Some("50000.0001")),
            ("0.1", Some("0.1")),
            ("1e3", Some("1000.0")),
            ("1.5e-4", None),
            ("1e-4", Some("0.0001")),
            ("1e-5", None),
            ("50000.00001", None),
            ("922337203685477", Some("922337203685477.0")),
            ("-922337203685477", Some("-922337203685477.0")),
            ("922337203685478", None),
            ("-922337203685478", None),
            ("922337203685477.5", Some("922337203685477.5")),
            ("18446744073709551615", None),
            ("-9223372036854775808", None),
            ("1e300", None),
            ("1e-300", None),
        ] {
            let value: Value = serde_json::from_str(json).expect("JSON");
            let got = decimal(&value).ok();
            assert_eq!(got.as_deref(), expected, "{json}");
            if let Some(text) = got {
                assert!(cedar_decimal(&text).is_ok(), "Cedar refuses {text}");
            }
        }
    }

    #[test]
    fn whole_numbers_are_whole() {
        for (json, expected) in [
            ("7", Some(7)),
            ("1.0", Some(1)),
            ("1e3", Some(1000)),
            ("1.5", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("1e19", None),
            ("\"7\"", None),
        ] {
            assert_eq!(long(&serde_json::from_str(json).expect("JSON")).ok(), expected, "{json}");
        }
    }

    #[test]
    fn errors_say_where_and_never_what() {
        let schema = json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "object", "required": ["b"],
            "properties": {"b": {"type": "array", "items": {"type": "number"}}}}}});
        let (ty, _) = crate::shape::input_type(&"u:t".parse().expect("tool"), &schema);
        for (input, expected) in [
            (json!([]), "argument object: expected an object"),
            (json!({}), "argument \"a\": missing"),
            (json!({"a": {}}), "argument \"a.b\": missing"),
            (json!({"a": {"b": [1, 0.123456]}}), "argument \"a.b[1]\": a number with more than four decimal places"),
            (json!({"a": {"b": "secret"}}), "argument \"a.b\": expected a list"),
        ] {
            assert_eq!(arguments(&ty, &input).expect_err("refused").to_string(), expected);
        }
        let many = json!({"a": {"b": vec![1; MAX_VALUES]}});
        assert_eq!(arguments(&ty, &many).expect_err("refused"), InputError::TooMany);
    }
}
