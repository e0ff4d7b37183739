//! Bodies that are not what they claim to be.

use anyhow::{Result, ensure};
use countersign_testkit::mcp;
use serde_json::json;

use super::{Case, World};

pub const CASES: &[Case] = &[
    ("truncated JSON", |w| body(w, br#"{"text":"a"#, 400, "malformed-request")),
    ("a body that is not JSON", |w| body(w, b"text=a", 400, "malformed-request")),
    ("a body that is an array", |w| body(w, br#"[{"text":"a"}]"#, 400, "malformed-request")),
    ("two values in one body", |w| body(w, br#"{"text":"a"} {"text":"b"}"#, 400, "malformed-request")),
    ("duplicate keys", |w| body(w, br#"{"text":"a","text":"b"}"#, 400, "malformed-request")),
    ("duplicate keys, one of them escaped", |w| body(w, br#"{"text":"a","te\u0078t":"b"}"#, 400, "malformed-request")),
    ("bad UTF-8", |w| body(w, b"{\"text\":\"a\xff\"}", 400, "malformed-request")),
    ("a lone surrogate", |w| body(w, br#"{"text":"\ud800"}"#, 400, "malformed-request")),
    ("JSON 100,000 levels deep", |w| body(w, &deep(100_000), 400, "malformed-request")),
    ("JSON just deeper than the limit", |w| body(w, &deep(65), 400, "malformed-request")),
    ("a number that readers disagree about", |w| {
        body(w, br#"{"text":"a","n":12345678901234567890}"#, 400, "malformed-request")
    }),
    ("an oversized body", |w| body(w, &oversized(), 413, "too-large")),
    ("arguments that do not fit the schema", |w| body(w, br#"{"text":1}"#, 422, "invalid-arguments")),
    ("arguments that the schema does not know", |w| body(w, br#"{"text":"a","more":true}"#, 422, "invalid-arguments")),
    ("a tool that does not exist", unknown_tool),
    ("a tool's name with a path in it", path_in_name),
    ("what the policy forbids", forbidden),
    ("a caller without a role", no_role),
    ("an Idempotency-Key used again for another call", idempotency_mismatch),
    ("an Idempotency-Key with control characters", odd_key),
    ("MCP: arguments with duplicate keys", mcp_duplicate_keys),
    ("MCP: truncated JSON", mcp_truncated),
    ("MCP: a header that contradicts the body", mcp_header_mismatch),
    ("MCP: what the policy forbids", mcp_forbidden),
];

fn deep(levels: usize) -> Vec<u8> {
    [br#"{"text":"a","n":"#.as_slice(), "[".repeat(levels).as_bytes(), "]".repeat(levels).as_bytes(), b"}"].concat()
}

fn oversized() -> Vec<u8> {
    format!("{{\"text\":\"{}\"}}", "a".repeat(2 << 20)).into_bytes()
}

/// The same request with an honest body is executed; with this one nothing reaches the upstream.
fn body(world: &mut World, body: &[u8], status: u16, problem: &str) -> Result<()> {
    let mut agent = world.agent();
    let twin = world.invoke(&mut agent, "write", &json!({"text": "twin"}))?;
    world.harmless(&twin)?;
    let before = world.executions("")?;
    let answer = agent.send("POST", "/tools/evil:write/invoke", &[], Some(body))?;
    ensure!(world.executions("")? == before, "it was executed");
    world.refused(&answer, status, problem).map(|_| ())
}

fn unknown_tool(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let twin = world.invoke(&mut agent, "echo", &json!({"text": "twin"}))?;
    world.harmless(&twin)?;
    let answer = world.invoke(&mut agent, "nosuchtool", &json!({}))?;
    world.refused(&answer, 404, "unknown-tool").map(|_| ())
}

fn path_in_name(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let twin = world.invoke(&mut agent, "echo", &json!({"text": "twin"}))?;
    world.harmless(&twin)?;
    for name in ["evil:..%2f..%2fadmin%2fstatus", "evil%3Aecho%00", "evil:%0aecho"] {
        let answer = agent.post(&format!("/tools/{name}/invoke"), &json!({}))?;
        world.refused_without_event(&answer, 404, "unknown-tool")?;
    }
    Ok(())
}

fn forbidden(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let twin = world.invoke(&mut agent, "write", &json!({"text": "allowed"}))?;
    world.harmless(&twin)?;
    let answer = world.invoke(&mut agent, "write", &json!({"text": "forbidden thing"}))?;
    let problem = world.refused(&answer, 403, "policy-denied")?;
    ensure!(
        problem["detail"].as_str().is_some_and(|d| d.contains("nothing-forbidden")),
        "the policy is not named: {problem}"
    );
    ensure!(world.executions("forbidden thing")? == 0, "it was executed");
    Ok(())
}

fn no_role(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let twin = world.invoke(&mut agent, "echo", &json!({"text": "twin"}))?;
    world.harmless(&twin)?;
    let answer = world.invoke(&mut world.client("nobody", &[]), "echo", &json!({"text": "twin"}))?;
    world.refused(&answer, 403, "policy-denied").map(|_| ())
}

fn idempotency_mismatch(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let key = world.unique("key");
    let mut send = |text: &str| {
        let body = json!({"text": text}).to_string();
        agent.send("POST", "/tools/evil:write/invoke", &[("idempotency-key", key.as_str())], Some(body.as_bytes()))
    };
    let (first, second, other) = (send("first")?, send("first")?, send("other")?);
    world.harmless(&first)?;
    world.harmless(&second)?;
    ensure!(second.header("idempotent-replayed") == Some("true"), "the repetition was not a replay");
    ensure!(first.json()?["call"] == second.json()?["call"], "the repetition was another call");
    world.refused(&other, 422, "idempotency-mismatch").map(|_| ())
}

fn odd_key(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let body = json!({"text": "twin"}).to_string();
    let mut send =
        |key: &str| agent.send("POST", "/tools/evil:write/invoke", &[("idempotency-key", key)], Some(body.as_bytes()));
    let key = world.unique("plain");
    let (twin, long, odd) = (send(&key)?, send(&"k".repeat(300))?, send("a\u{1}b"));
    world.harmless(&twin)?;
    world.refused_without_event(&long, 400, "malformed-request")?;
    // A control character in a header may also end the connection at once; what must not happen is an execution.
    ensure!(odd.as_ref().map_or(true, |answer| answer.status == 400), "accepted: {odd:?}");
    Ok(())
}

fn mcp_twin(world: &mut World) -> Result<()> {
    let result = mcp::call_tool(&mut world.agent(), "/mcp", "evil_echo", &json!({"text": "twin"}))?;
    world.harmless_because(
        result["isError"] != true && result["_meta"]["dev.countersign/receipt"].is_string(),
        "not executed",
    )
}

fn mcp_duplicate_keys(world: &mut World) -> Result<()> {
    mcp_twin(world)?;
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"evil_write","arguments":{"text":"a","text":"b"}}}"#;
    let headers = [("accept", "application/json"), ("mcp-protocol-version", mcp::LEGACY)];
    let before = world.executions("")?;
    let answer = world.agent().send("POST", "/mcp", &headers, Some(body))?.json()?;
    ensure!(world.executions("")? == before, "it was executed");
    world.refused_on_mcp(&answer, "malformed-request")
}

fn mcp_truncated(world: &mut World) -> Result<()> {
    mcp_twin(world)?;
    let headers = [("accept", "application/json"), ("mcp-protocol-version", mcp::LEGACY)];
    let answer = world.agent().send("POST", "/mcp", &headers, Some(br#"{"jsonrpc":"2.0","id":1,"#))?;
    ensure!(
        answer.status == 400 && answer.json()?["error"]["code"] == -32700,
        "HTTP {}: {:?}",
        answer.status,
        answer.json()
    );
    Ok(())
}

fn mcp_header_mismatch(world: &mut World) -> Result<()> {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": mcp::MODERN, "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"}, "io.modelcontextprotocol/clientCapabilities": {}});
    let params = json!({"name": "evil_echo", "arguments": {"text": "twin"}, "_meta": meta});
    let message = mcp::request(json!(1), "tools/call", params);
    let twin = mcp::send(&mut world.agent(), "/mcp", mcp::MODERN, &message)?;
    world.harmless_because(twin["result"]["isError"] != true && twin["result"].is_object(), &twin.to_string())?;
    let headers = [
        ("accept", "application/json"),
        ("mcp-protocol-version", mcp::MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "evil_write"),
    ];
    let answer = world.agent().send("POST", "/mcp", &headers, Some(message.to_string().as_bytes()))?;
    ensure!(
        answer.status == 400 && answer.json()?["error"]["code"] == -32020,
        "HTTP {}: {:?}",
        answer.status,
        answer.json()
    );
    Ok(())
}

fn mcp_forbidden(world: &mut World) -> Result<()> {
    mcp_twin(world)?;
    let params = json!({"name": "evil_write", "arguments": {"text": "forbidden on mcp"}});
    let answer = mcp::send(&mut world.agent(), "/mcp", mcp::LEGACY, &mcp::request(json!(1), "tools/call", params))?;
    ensure!(world.executions("forbidden on mcp")? == 0, "it was executed");
    world.refused_on_mcp(&answer, "policy-denied")
}
