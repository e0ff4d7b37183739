//! OpenAPI documents: an import never panics, and the manifest that it writes is one.
#![no_main]

use countersign_catalog::Manifest;
use countersign_catalog::openapi::{Options, import};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(imported) = import(text, &Options::default()) {
        Manifest::parse(&imported.manifest, "imported.yaml").expect("an import writes manifests");
    }
});
