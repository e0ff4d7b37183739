//! Results that echo a secret: whatever form it has, no string of what is passed on holds it.
//! `SECRET` in the input stands for it, so that echoes are found by the fuzzer at all.
#![no_main]

use countersign_gate::broker::redact::Redactor;
use countersign_gate::upstream::ToolResult;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

const SECRET: &str = "s3/cr\"et+\\7";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let quoted = serde_json::to_string(SECRET).expect("JSON");
    let text = text.replace("SECRET", quoted.trim_matches('"'));
    let redactor = Redactor::new([SECRET]);
    assert!(!redactor.text(&text).contains(SECRET));
    let Ok(raw) = RawValue::from_string(text) else { return };
    let Ok(clean) = redactor.outcome(Ok(ToolResult { raw, is_error: false, remarks: serde_json::Map::new() })) else { return };
    let Ok(value) = serde_json::from_str::<Value>(clean.raw.get()) else { return };
    assert!(!holds(&value));
});

fn holds(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(SECRET) || text.contains("s3/cr\\\"et+\\\\7"),
        Value::Array(items) => items.iter().any(holds),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains(SECRET) || holds(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
