//! MCP over streamable HTTP, written by hand: just enough JSON-RPC for tests that want to see the wire.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::http::Client;

/// The handshake era's newest revision.
pub const LEGACY: &str = "2025-11-25";
/// The revision without handshake.
pub const MODERN: &str = "2026-07-28";

/// Calls a tool in the handshake era and returns the `CallToolResult`.
///
/// # Errors
/// If there is a JSON-RPC error instead, or no answer.
pub fn call_tool(client: &mut Client, path: &str, name: &str, arguments: &Value) -> Result<Value> {
    let message = request(json!(1), "tools/call", json!({"name": name, "arguments": arguments}));
    let answer = send(client, path, LEGACY, &message)?;
    match answer.get("result") {
        Some(result) => Ok(result.clone()),
        None => bail!("instead of a result: {answer}"),
    }
}

/// A JSON-RPC request.
pub fn request(id: Value, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// Posts one message as a client of that revision does, and returns the JSON-RPC answer.
///
/// # Errors
/// If there is no JSON-RPC answer.
pub fn send(client: &mut Client, path: &str, revision: &str, message: &Value) -> Result<Value> {
    let method = message.get("method").and_then(Value::as_str).unwrap_or_default();
    let name = message.pointer("/params/name").and_then(Value::as_str).unwrap_or_default();
    let mut headers = vec![("accept", "application/json, text/event-stream"), ("mcp-protocol-version", revision)];
    if revision == MODERN {
        headers.push(("mcp-method", method));
        headers.push(("mcp-name", name));
    }
    headers.retain(|(_, value)| !value.is_empty());
    let response = client.send("POST", path, &headers, Some(message.to_string().as_bytes()))?;
    response.json().with_context(|| format!("HTTP {} to {method}", response.status))
}
