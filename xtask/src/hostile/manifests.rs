//! The manifests of the foe's upstreams: an MCP server over HTTP, a REST API, and an API whose name leads inside.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::foe::{Foe, TOOLS};

/// Names and texts.
///
/// # Errors
/// If this machine has no name.
pub fn of(foe: &Foe, secret: &Path) -> Result<[(&'static str, String); 3]> {
    let (url, secret) = (foe.url(), serde_json::to_string(secret)?);
    let credential = format!("credential: {{ type: static, name: X-Key, secret: {{ file: {secret} }} }}");
    let tools: String = TOOLS.iter().map(|name| format!("  {name}: {{ effect: read }}\n")).collect();
    let net = format!(
        "version: 1\nupstream: net\ntimeout: 2s\nrefresh: 1h\ntransport:\n  type: http\n  url: {url}/mcp\n  \
         protocol: \"2026-07-28\"\n  {credential}\nelicitation: {{ hosts: [pay.example] }}\ntools:\n{tools}"
    );
    let bad = ["inside", "leave", "climb", "bomb", "endless", "slow", "secret"];
    let bad: String = bad
        .iter()
        .map(|name| format!("  {name}: {{ effect: read, description: The tool {name}, request: {{ method: GET, path: /{name} }} }}\n"))
        .collect();
    let api = format!(
        "version: 1\nupstream: api\ntimeout: 2s\ntransport:\n  type: rest\n  url: {url}/api/v1\n  {credential}\ntools:\n{GET}{bad}"
    );
    let rebound = format!(
        "version: 1\nupstream: rebound\ntimeout: 2s\ntransport: {{ type: rest, url: \"http://{}:{}/api/v1/rebound\" }}\ntools:\n  \
         get: {{ effect: read, description: Gets it, request: {{ method: GET, path: /x }} }}\n",
        inside_name()?,
        foe.port()
    );
    Ok([("net", net), ("api", api), ("rebound", rebound)])
}

const GET: &str = "  get:
    effect: read
    description: Gets a file
    request:
      method: GET
      path: /files/{name}
      arguments:
        name: { in: path, schema: { type: string } }
        q: { in: query, schema: { type: string } }
        trace: { in: header, name: X-Trace, schema: { type: string } }
";

/// A name that leads to an address of this machine and is not `localhost`: its own.
fn inside_name() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("this machine's name")?;
    Ok(name.trim().to_owned())
}
