//! Canonical JSON against RFC 8785's own examples and another implementation; strict parsing against hostile texts.

use countersign_proof::canonical::{CanonicalError, JsonError, Limits, canonical_of, parse_strict, to_canonical};
use proptest::prelude::*;
use serde_json::{Number, Value, json};

use crate::support::{data, json_value};

fn parse(text: &str) -> Result<Value, JsonError> {
    parse_strict(text.as_bytes(), &Limits::default())
}

#[test]
fn the_rfcs_documents_come_out_as_printed() {
    for example in data("rfc8785.json")["documents"].as_array().unwrap() {
        // Read leniently: the first example holds 1E30, which strict parsing refuses.
        let value: Value = serde_json::from_str(example["input"].as_str().unwrap()).unwrap();
        assert_eq!(String::from_utf8(to_canonical(&value).unwrap()).unwrap(), example["output"].as_str().unwrap());
    }
}

#[test]
fn the_rfcs_numbers_come_out_as_printed() {
    for (bits, text) in data("rfc8785.json")["numbers"].as_object().unwrap() {
        let double = f64::from_bits(u64::from_str_radix(bits, 16).unwrap());
        let value = Value::Number(Number::from_f64(double).unwrap());
        assert_eq!(String::from_utf8(to_canonical(&value).unwrap()).unwrap(), text.as_str().unwrap(), "{bits}");
    }
}

#[test]
fn duplicate_names_are_refused_however_they_are_spelt() {
    for text in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#"[{"x":{"k":[],"k":[]}}]"#] {
        assert!(matches!(parse(text), Err(JsonError::DuplicateName { .. })), "{text}");
    }
    let Err(JsonError::DuplicateName { name, at }) = parse("{\"a\":1,\n \"a\":2}") else { panic!("accepted") };
    assert_eq!((name.as_str(), at.line), ("a", 2));
    assert!(parse(r#"{"a":1,"b":{"a":1}}"#).is_ok(), "the same name in another object is no duplicate");
}

#[test]
fn numbers_that_readers_disagree_about_are_refused() {
    for good in ["9007199254740991", "-9007199254740991", "0", "-0", "1.5", "1e15", "2.5e-300", "0.0", "0e999"] {
        assert!(parse(good).is_ok(), "{good}");
    }
    for bad in [
        "9007199254740992",
        "-9007199254740992",
        "18446744073709551616",
        "1e16",
        "1e400",
        "-1e400",
        "1e-400",
        "123456789012345678901234567890",
    ] {
        let Err(JsonError::Number { at }) = parse(&format!("[\"7e999\",\n{bad}]")) else { panic!("{bad} accepted") };
        assert_eq!(at.line, 2, "{bad}");
    }
    let Err(JsonError::Number { at }) = parse(r#"{"n": 9007199254740993}"#) else { panic!("accepted") };
    assert_eq!((at.offset, at.column), (6, 7));
}

#[test]
fn depth_size_and_utf8_are_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(&nested(64)).is_ok());
    assert!(matches!(parse(&nested(65)), Err(JsonError::TooDeep { limit: 64, .. })));
    assert!(parse(&nested(100_000)).is_err(), "and the stack survives it");
    assert!(parse(&r#"{"a":"#.repeat(100_000)).is_err());
    let small = Limits { max_bytes: 4, max_depth: 1 };
    assert!(parse_strict(b"[12]", &small).is_ok());
    assert_eq!(parse_strict(b"[123]", &small), Err(JsonError::TooLarge { actual: 5, limit: 4 }));
    assert_eq!(parse_strict(b"\"a\xff\"", &Limits::default()), Err(JsonError::InvalidUtf8 { offset: 2 }));
    for text in
        ["", "{", "[1,]", "{\"a\"}", "nul", "1 2", "'a'", "\"\\ud800\"", "\u{feff}{}", "[01]", "// c\n1", "\"\t\""]
    {
        assert!(parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn integers_beyond_the_safe_range_have_no_canonical_form() {
    assert!(matches!(to_canonical(&json!(u64::MAX)), Err(CanonicalError::Number(_))));
    assert!(matches!(to_canonical(&json!(i64::MIN)), Err(CanonicalError::Number(_))));
    assert_eq!(canonical_of(&(1, "b", None::<u8>)).unwrap(), b"[1,\"b\",null]");
}

proptest! {
    #[test]
    fn another_implementation_writes_the_same_bytes(value in json_value()) {
        prop_assert_eq!(to_canonical(&value).unwrap(), serde_json_canonicalizer::to_vec(&value).unwrap());
    }

    #[test]
    fn what_is_accepted_has_one_canonical_form(value in json_value()) {
        let canonical = to_canonical(&value).unwrap();
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        for text in [&canonical, &pretty] {
            let again = parse_strict(text, &Limits::default()).unwrap();
            prop_assert_eq!(&to_canonical(&again).unwrap(), &canonical);
        }
    }

    #[test]
    fn strict_accepts_nothing_that_serde_json_refuses(text in r#"[\[\]{}:,"0-9eE+\-. a\\u]{0,24}"#) {
        if let Ok(value) = parse(&text) {
            let lenient: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(to_canonical(&value).unwrap(), to_canonical(&lenient).unwrap());
        }
    }
}
