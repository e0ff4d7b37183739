//! Strict JSON: whatever is accepted has one canonical form, which is accepted and stays the same.
#![no_main]

use countersign_proof::canonical::{Limits, parse_strict, to_canonical};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    let Ok(value) = parse_strict(data, &limits) else { return };
    let canonical = to_canonical(&value).expect("what is accepted can be written");
    // Escapes can make the canonical form longer than the text, but never deeper.
    let limits = Limits { max_bytes: usize::MAX, ..limits };
    let again = parse_strict(&canonical, &limits).expect("the canonical form is accepted");
    assert_eq!(to_canonical(&again).expect("still"), canonical);
});
