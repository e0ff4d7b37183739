//! Templates of resources (RFC 6570) and the addresses that they are matched with.
#![no_main]

use countersign_catalog::uri_template::UriTemplate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (template, uri) = text.split_once('\n').unwrap_or((text, ""));
    if let Some(template) = UriTemplate::parse(template) {
        let _ = template.matches(uri);
    }
});
