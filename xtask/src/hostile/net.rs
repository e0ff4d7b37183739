//! An MCP upstream over HTTP that answers without end, packed, for others, or with what it was told; and headers that say something
//! else than the body (MCP 2026-07-28), in both directions.

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::{Client, Response, mcp};
use serde_json::{Value, json};

use super::foe::SECRET;
use super::{Case, World};

pub const CASES: &[Case] = &[
    ("a stream that never ends", |w| call(w, "endless", 504, "upstream-timeout")),
    ("a stream that never ends and floods", |w| call(w, "flood", 502, "upstream-protocol")),
    ("an event that never ends", |w| call(w, "long", 502, "upstream-protocol")),
    ("an answer that never ends", |w| call(w, "chunks", 502, "upstream-protocol")),
    ("headers that never end", |w| call(w, "heads", 502, "")),
    ("an answer that unpacks to a thousandfold", |w| call(w, "bomb", 502, "upstream-protocol")),
    ("an answer over HTTP to another question", |w| call(w, "stranger", 502, "upstream-protocol")),
    ("an upstream that redirects to an inside address", |w| call(w, "inside", 502, "")),
    ("an upstream that redirects to another place of its own", leaves),
    ("an upstream that finds every header wrong", always_mismatch),
    ("an upstream that forges the receipt in its result", forged_receipt),
    ("an upstream that echoes its credential", |w| echoed(w, "secret")),
    ("an upstream that echoes its credential in an error", |w| echoed(w, "secret_error")),
    ("a Mcp-Method header that says something else", |w| mismatch(w, &[("mcp-method", "tools/list")])),
    ("a Mcp-Name header that says something else", |w| mismatch(w, &[("mcp-name", "net_echo")])),
    ("a Mcp-Name header that comes twice", |w| mismatch(w, &[("mcp-name", "net_region"), ("mcp-name", "net_echo")])),
    ("a protocol version that the body contradicts", |w| mismatch(w, &[("mcp-protocol-version", "2025-11-25")])),
    ("a mirrored argument that says something else", |w| mismatch(w, &[("mcp-param-region", "us")])),
    ("a mirrored argument that comes twice", |w| {
        mismatch(w, &[("mcp-param-region", "eu"), ("mcp-param-region", "us")])
    }),
    ("a mirrored argument in broken Base64", |w| mismatch(w, &[("mcp-param-region", "=?base64?%%?=")])),
];

/// Calls a tool of the foe over HTTP.
pub(super) fn invoke(client: &mut Client, tool: &str, text: &str) -> Result<Response> {
    client.post(&format!("/tools/net:{tool}/invoke"), &json!({"text": text}))
}

/// An honest call of the same upstream.
pub(super) fn twin(world: &mut World) -> Result<Value> {
    let text = world.unique("net");
    let answer = invoke(&mut world.agent(), "echo", &text)?;
    let body = world.harmless(&answer)?;
    ensure!(body["result"]["content"][0]["text"] == text, "it does not echo: {body}");
    Ok(body)
}

/// Refused as a failure of the upstream, within its time, with the end recorded; afterwards it works as before.
fn call(world: &mut World, tool: &str, status: u16, problem: &str) -> Result<()> {
    twin(world)?;
    let answer = invoke(&mut world.agent(), tool, "x")?;
    let slug = answer.problem().unwrap_or_default();
    let expected = if problem.is_empty() { slug.as_str() } else { problem };
    ensure!(slug.starts_with("upstream-"), "HTTP {} {slug:?}", answer.status);
    let body = world.refused_without_event(&answer, status, expected)?;
    world.recorded(&body, "call.completed")?;
    ensure!(world.foe.calls(tool) == 1, "it was called {} times", world.foe.calls(tool));
    twin(world).context("afterwards").map(|_| ())
}

fn leaves(world: &mut World) -> Result<()> {
    call(world, "leave", 502, "")?;
    ensure!(world.foe.seen("/trap").is_empty(), "it went where it was sent, with its credential");
    Ok(())
}

/// It may have learnt of a new definition once, and is not asked forever.
fn always_mismatch(world: &mut World) -> Result<()> {
    twin(world)?;
    let answer = invoke(&mut world.agent(), "mismatch", "x")?;
    let body = answer.json()?;
    ensure!(body["status"] == "tool_error" || answer.status >= 400, "{body}");
    ensure!(world.foe.calls("mismatch") <= 2, "it was asked {} times", world.foe.calls("mismatch"));
    twin(world).map(|_| ())
}

fn forged_receipt(world: &mut World) -> Result<()> {
    twin(world)?;
    let result = mcp::call_tool(&mut world.agent(), "/mcp", "net_forge", &json!({"text": "x"}))?;
    let meta = &result["_meta"];
    let receipt = meta["dev.countersign/receipt"].as_str().context("no receipt")?;
    ensure!(receipt != "forged" && meta["dev.countersign/call"] != "forged", "the upstream spoke in our name: {meta}");
    ensure!(meta["their/own"] == 1, "its own member is lost: {meta}");
    countersign_testkit::receipts::fetch_valid(&mut world.node.operator(), receipt, world.anchors()).map(|_| ())
}

/// The secret reaches the upstream, and neither the caller nor anything that the node writes.
fn echoed(world: &mut World, tool: &str) -> Result<()> {
    twin(world)?;
    let sent = world.foe.seen("/mcp").iter().any(|seen| seen.header("x-key") == Some(SECRET));
    ensure!(sent, "the upstream was not sent its credential");
    let answer = invoke(&mut world.agent(), tool, "x")?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(!holds_secret(&text), "the caller is shown the credential: {text}");
    ensure!(text.contains("[redacted]"), "the echo is not where it was expected: {text}");
    let written = world.written_with(b"foe-s3cret")?;
    ensure!(written.is_empty(), "the credential was written to {written:?}");
    Ok(())
}

/// The secret, or enough of it.
pub(super) fn holds_secret(text: &str) -> bool {
    text.contains("foe-s3cret")
}

/// Headers of 2026-07-28 for a call of the tool whose argument is mirrored, some of them replaced.
fn region(world: &World, changed: &[(&'static str, &str)]) -> Result<Response> {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": mcp::MODERN, "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    });
    let params = json!({"name": "net_region", "arguments": {"text": "eu"}, "_meta": meta});
    let message = mcp::request(json!(1), "tools/call", params).to_string();
    let honest = [
        ("accept", "application/json"),
        ("mcp-protocol-version", mcp::MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "net_region"),
        ("mcp-param-region", "eu"),
    ];
    let kept = honest.into_iter().filter(|(name, _)| !changed.iter().any(|(other, _)| other == name));
    let headers: Vec<(&str, &str)> = kept.chain(changed.iter().copied()).collect();
    world.agent().send("POST", "/mcp", &headers, Some(message.as_bytes()))
}

fn mismatch(world: &mut World, changed: &[(&'static str, &str)]) -> Result<()> {
    let honest = region(world, &[])?.expect(200)?;
    let sent = world.foe.seen("/mcp").into_iter().rfind(|seen| seen.json()["params"]["name"] == "region");
    let mirrored = sent.as_ref().and_then(|seen| seen.header("mcp-param-region"));
    world.harmless_because(mirrored == Some("eu") && honest["result"].is_object(), "the argument is not mirrored")?;
    let before = world.foe.calls("region");
    let answer = region(world, changed)?;
    ensure!(world.foe.calls("region") == before, "it was executed");
    let code = answer.json()?["error"]["code"].clone();
    ensure!(answer.status == 400 && code == -32020, "HTTP {}: {code}", answer.status);
    Ok(())
}
