//! Bodies of REST APIs as results. A line for the media type, then the body.
#![no_main]

use std::sync::LazyLock;

use countersign_connect::fuzzing::Rest;
use libfuzzer_sys::fuzz_target;

static API: LazyLock<[Rest; 2]> = LazyLock::new(|| {
    ["put", "get"].map(|tool| Rest::new(include_str!("../seeds/manifest/rest.yaml"), tool).expect("a REST tool"))
});

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (mime, body) = data.split_at(end);
    let Ok(mime) = std::str::from_utf8(mime) else { return };
    for api in API.iter() {
        if let Some(result) = api.response(mime, body.get(1..).unwrap_or_default()) {
            assert!(result.raw.get().starts_with("{\"content\":["));
        }
    }
});
