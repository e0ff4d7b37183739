//! JSON-RPC from clients, with the headers of 2026-07-28: read or refused, and what is answered is JSON.
//! The first line names method, name and version in headers; the rest is the body.
#![no_main]

use countersign_server::fuzzing::client_message;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (line, body) = text.split_once('\n').unwrap_or(("", text));
    let names = ["mcp-protocol-version", "mcp-method", "mcp-name"];
    let mut headers = HeaderMap::new();
    for (name, value) in names.into_iter().zip(line.split('|')) {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(name, value);
        }
    }
    client_message(body, &headers);
});
