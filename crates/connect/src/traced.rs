//! The trace context that goes along with a request to an upstream: in headers, and in `_meta` where the upstream speaks MCP.
//!
//! It is that of the call under way. What callers send of it is a name and nothing else, see [`countersign_gate::trace`].

use countersign_gate::trace;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::rpc::quote;

/// Adds `traceparent` and `tracestate`.
pub(crate) fn headers(headers: &mut HeaderMap) {
    let Some(context) = trace::outgoing() else { return };
    let mut set = |name: &'static str, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("traceparent", &context.traceparent());
    if let Some(state) = context.tracestate() {
        set("tracestate", state);
    }
}

/// The members for `_meta` (MCP, "Reserved keys": no prefix), without braces; empty if there is no trace.
pub(crate) fn meta() -> String {
    let Some(context) = trace::outgoing() else { return String::new() };
    let parent = format!("\"traceparent\":{}", quote(&context.traceparent()));
    match context.tracestate() {
        Some(state) => format!("{parent},\"tracestate\":{}", quote(state)),
        None => parent,
    }
}
