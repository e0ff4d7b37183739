//! Arguments that a definition mirrors into headers: what we send to an upstream is what we would accept from a client.
//! A line for the definition, one for the arguments.
#![no_main]

use countersign_connect::fuzzing::mirrored;
use countersign_server::fuzzing::agrees;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (definition, arguments) = text.split_once('\n').unwrap_or((text, "{}"));
    let Some(headers) = mirrored(definition, arguments) else { return };
    let agreed = agrees(definition, arguments, &headers);
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let (schema, given) = (read(definition)["inputSchema"].clone(), read(arguments));
    // What does not fit the schema never gets as far as headers, and what JavaScript cannot read back is not mirrored.
    if jsonschema::validator_for(&schema).is_ok_and(|schema| schema.is_valid(&given)) && is_exact(&given) {
        assert!(agreed, "{headers:?}");
    }
});

fn is_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_i64().is_some_and(|n| n.unsigned_abs() < 1 << 53),
        Value::Array(items) => items.iter().all(is_exact),
        Value::Object(members) => members.values().all(is_exact),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}
