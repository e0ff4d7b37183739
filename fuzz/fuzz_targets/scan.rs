//! The scan of definitions: any listing is scanned, twice the same, and every range lies in the string that it names.
#![no_main]

use countersign_catalog::scan::{Surroundings, scan_listing};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let listing: Value = serde_json::from_str(text).unwrap_or_else(|_| {
        json!({"instructions": text, "tools": [{"name": text, "description": text, "inputSchema": {"properties": {text: {"default": text}}}}]})
    });
    let found = scan_listing("up", &listing, &Surroundings::default());
    assert_eq!(found, scan_listing("up", &listing, &Surroundings::default()));
    for finding in found {
        let held = listing.pointer(&finding.pointer).expect("the place exists");
        if let Some(text) = held.as_str() {
            assert!(text.get(finding.start..finding.end).is_some());
        }
    }
});
