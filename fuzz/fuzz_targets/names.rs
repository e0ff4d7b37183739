//! Names from outside: what parses is written back as it was.
#![no_main]

use countersign_domain::{ToolRef, UpstreamName, WorkspaceName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(tool) = text.parse::<ToolRef>() {
        assert_eq!(tool.to_string(), text);
    }
    if let Ok(name) = text.parse::<UpstreamName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(name) = text.parse::<WorkspaceName>() {
        assert_eq!(name.as_str(), text);
    }
    let _ = countersign_catalog::confusable_key(text);
    let _ = countersign_catalog::visible(text);
});
