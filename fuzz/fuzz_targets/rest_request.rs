//! Arguments of callers as requests to a REST API: always to the manifest's host and path, never a header more.
#![no_main]

use std::sync::LazyLock;

use countersign_connect::fuzzing::Rest;
use libfuzzer_sys::fuzz_target;

static API: LazyLock<Rest> = LazyLock::new(|| Rest::new(include_str!("../seeds/manifest/rest.yaml"), "put").expect("a REST tool"));

fuzz_target!(|data: &[u8]| {
    let Ok(arguments) = std::str::from_utf8(data) else { return };
    let Some((url, headers, _)) = API.request(arguments) else { return };
    let segments: Vec<&str> = url.path().split('/').collect();
    assert_eq!(segments.len(), 6, "/v1/shops/{{shop}}/files/{{file}}: {url}");
    assert_eq!((segments[1], segments[2], segments[4]), ("v1", "shops", "files"));
    for segment in [segments[3], segments[5]] {
        assert!(!segment.is_empty() && !segment.contains(['?', '#', ';', '\\']));
    }
    assert!(headers.keys().all(|name| ["x-trace", "content-type", "accept"].contains(&name.as_str())));
    // A query has the names of the manifest and no others.
    for pair in url.query().into_iter().flat_map(|query| query.split('&')) {
        assert!(["q=", "tag=", "fixed=yes"].iter().any(|name| pair.starts_with(name)), "{pair}");
    }
});
