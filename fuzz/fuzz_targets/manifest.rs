//! Manifests: reading never panics, and what is refused says where and what to do.
#![no_main]

use countersign_catalog::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Manifest::parse(text, "fuzz.yaml") {
        Ok(manifest) => drop(manifest.tool("anything")),
        Err(error) => assert!(!error.message.is_empty() && !error.help.is_empty()),
    }
});
