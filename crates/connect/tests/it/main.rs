//! Upstreams as the gate sees them, against real processes and real sockets.

mod conversation;
mod http;
mod people;
mod rest;
mod stdio;
mod tasks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_catalog::Manifest;
use countersign_connect::McpUpstream;
use countersign_domain::Principal;
use countersign_egress::{Egress, EgressConfig};
use countersign_gate::permit::{Permit, test_permit};
use countersign_gate::upstream::{DispatchError, Mute, ToolResult, Upstream};
use countersign_proof::digest::Digest;
use serde_json::Value;
use serde_json::value::RawValue;

fn connect(transport: &str, rest: &str) -> Arc<McpUpstream> {
    let yaml = format!("version: 1\nupstream: ads\ntransport: {transport}\n{rest}");
    let manifest = Manifest::parse(&yaml, "test.yaml").unwrap_or_else(|e| panic!("{e}"));
    McpUpstream::new(&manifest, &Egress::new(EgressConfig::default())).expect("sets up")
}

/// A result of so many levels.
fn nested(levels: usize) -> String {
    format!(r#"{{"content":[],"resultType":"complete","x":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1))
}

/// What became of a call that was answered with more than 128 levels.
fn is_too_deep(outcome: &Result<ToolResult, DispatchError>) -> bool {
    matches!(outcome, Err(DispatchError::Protocol(why)) if why.contains("nested deeper than 128 levels"))
}

fn permit(tool: &str, arguments: &str, millis: u64) -> Permit {
    permit_for(Principal::node(), tool, arguments, millis)
}

fn permit_for(caller: Principal, tool: &str, arguments: &str, millis: u64) -> Permit {
    let tool = format!("ads:{tool}").parse().expect("a tool");
    let arguments = RawValue::from_string(arguments.to_owned()).expect("JSON");
    test_permit(caller, tool, arguments, Digest::of(b""), Instant::now() + Duration::from_millis(millis))
}

async fn call(upstream: &McpUpstream, tool: &str, arguments: &str, millis: u64) -> Result<ToolResult, DispatchError> {
    upstream.dispatch(permit(tool, arguments, millis), &Mute).await
}

fn json(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).expect("JSON")
}

/// Waits up to ten seconds for something to become true.
async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(10), "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
