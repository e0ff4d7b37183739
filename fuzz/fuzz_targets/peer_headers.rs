//! Host, Origin, the headers of proxies and of traces: only our names pass, and strangers' words about addresses count for nothing.
//! Five lines: Host, Origin, X-Forwarded-For, Forwarded, traceparent.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use countersign_gate::trace::Context;
use countersign_server::fuzzing::{ForwardedHeader, Guard, client, passes_guard};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use url::Url;

static GUARD: LazyLock<Guard> = LazyLock::new(|| Guard::new("public_url = \"https://gate.example\"").expect("valid"));
const OURS: [&str; 4] = ["127.0.0.1", "localhost", "[::1]", "gate.example"];

fuzz_target!(|data: &[u8]| {
    let names = ["host", "origin", "x-forwarded-for", "forwarded", "traceparent"];
    let mut headers = HeaderMap::new();
    for (name, line) in names.into_iter().zip(data.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if passes_guard(&GUARD, &headers) {
        // A browser reads these headers as URLs; so does this.
        let host = Url::parse(&format!("http://{}/", text("host").expect("it has one"))).expect("a host is one");
        assert!(host.host_str().is_some_and(|host| OURS.contains(&host)), "{host}");
        if let Some(origin) = text("origin") {
            let origin = Url::parse(origin).expect("an origin is one");
            assert!(origin.host_str().is_some_and(|host| OURS.contains(&host)), "{origin}");
        }
    }
    let (stranger, proxy): (IpAddr, IpAddr) = ([203, 0, 113, 9].into(), [10, 0, 0, 1].into());
    for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
        assert_eq!(client(header, stranger, &headers), stranger);
        let _ = client(header, proxy, &headers);
    }
    if let Some(context) = text("traceparent").and_then(|parent| Context::parse(parent, None)) {
        assert_eq!(Context::parse(&context.traceparent(), None), Some(context));
    }
});
