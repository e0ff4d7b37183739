//! Tool definitions as upstreams send them: what can be pinned has one pin, and compares as equal to itself.
#![no_main]

use countersign_catalog::{Definition, diff};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(definition) = Definition::parse(text) {
        let again = Definition::parse(text).expect("it was read before");
        assert_eq!(definition.pin, again.pin);
        assert!(diff(text, text).expect("both are JSON").is_empty());
    }
});
