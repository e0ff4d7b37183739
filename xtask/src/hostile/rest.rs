//! Arguments that want to be another request, a REST API that leads elsewhere or answers without end, and what comes from documents.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::{Client, Response};
use serde_json::{Value, json};

use super::net::holds_secret;
use super::{Case, World};

pub const CASES: &[Case] = &[
    ("a path argument that climbs", |w| kept_out(w, json!({"name": "../../admin"}))),
    ("a path argument that climbs, encoded", |w| kept_out(w, json!({"name": "%2e%2e%2f%2e%2e%2fadmin"}))),
    ("a path argument that climbs, encoded twice", |w| kept_out(w, json!({"name": "%252e%252e%252fadmin"}))),
    ("a path argument that climbs, for Windows", |w| kept_out(w, json!({"name": "..\\..\\admin"}))),
    ("a path argument that climbs behind a parameter", |w| kept_out(w, json!({"name": "..;x"}))),
    ("a path argument with an encoded slash", |w| kept_out(w, json!({"name": "a%2fadmin"}))),
    ("an empty path argument", |w| kept_out(w, json!({"name": ""}))),
    ("a path argument with a line break", |w| kept_out(w, json!({"name": "a\r\nx-admin: 1"}))),
    ("a header argument with a line break", |w| {
        kept_out(w, json!({"name": "a", "trace": "t\r\nx-admin: 1\r\n\r\nGET /trap"}))
    }),
    ("a header argument that is not ASCII", |w| kept_out(w, json!({"name": "a", "trace": "t\u{10d}\u{10a}x"}))),
    ("an argument that nobody described", |w| refused_arguments(w, json!({"name": "a", "x-admin": "1"}))),
    ("a path argument with a query and a fragment", another_query),
    ("a query argument with another query", another_parameter),
    ("an API that redirects to an inside address", |w| redirected(w, "inside")),
    ("an API that redirects to another place of its own", |w| redirected(w, "leave")),
    ("an API that redirects with a climb", |w| redirected(w, "climb")),
    ("an API whose answer unpacks to a thousandfold", |w| broken(w, "bomb", 502, "upstream-protocol")),
    ("an API whose answer never ends", |w| broken(w, "endless", 502, "upstream-protocol")),
    ("an API that answers a byte at a time", |w| broken(w, "slow", 504, "upstream-timeout")),
    ("an API that echoes its credential in an error", echoed),
    ("an upstream whose name leads inside", rebound),
    ("an OpenAPI document that refers to an inside address", |w| {
        document(w, "http://169.254.169.254/latest/meta-data/#/x")
    }),
    ("an OpenAPI document that refers to a file", |w| document(w, "file:///etc/passwd#/x")),
];

fn invoke(client: &mut Client, tool: &str, arguments: &Value) -> Result<Response> {
    client.post(&format!("/tools/api:{tool}/invoke"), arguments)
}

/// An honest call of the same tool, and the request that it became.
fn twin(world: &mut World) -> Result<()> {
    let name = world.unique("file");
    let answer = invoke(&mut world.agent(), "get", &json!({"name": name, "q": "a b", "trace": "t-1"}))?;
    world.harmless(&answer)?;
    let seen = world.foe.seen(&format!("/api/v1/files/{name}"));
    ensure!(seen.len() == 1 && seen[0].target().ends_with("?q=a%20b"), "{seen:?}");
    ensure!(seen[0].header("x-trace") == Some("t-1"), "{seen:?}");
    Ok(())
}

/// Nothing is sent, and the caller is told why.
fn kept_out(world: &mut World, arguments: Value) -> Result<()> {
    twin(world)?;
    let before = world.foe.seen("/").len();
    let answer = invoke(&mut world.agent(), "get", &arguments)?.expect(200)?;
    ensure!(world.foe.seen("/").len() == before, "it was sent: {:?}", world.foe.seen("/").last());
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
    ensure!(answer["status"] == "tool_error" && text.starts_with("Nothing was sent"), "{answer}");
    Ok(())
}

fn refused_arguments(world: &mut World, arguments: Value) -> Result<()> {
    twin(world)?;
    let before = world.foe.seen("/").len();
    let answer = invoke(&mut world.agent(), "get", &arguments)?;
    ensure!(world.foe.seen("/").len() == before, "it was sent");
    world.refused(&answer, 422, "invalid-arguments").map(|_| ())
}

/// What could be a query stays one part of the path.
fn another_query(world: &mut World) -> Result<()> {
    twin(world)?;
    invoke(&mut world.agent(), "get", &json!({"name": "a?admin=1&x#y"}))?.expect(200)?;
    let seen = world.foe.seen("/api/v1/files/a");
    let last = seen.last().context("it was not sent")?;
    ensure!(last.target() == "/api/v1/files/a%3Fadmin%3D1%26x%23y", "{}", last.line);
    Ok(())
}

fn another_parameter(world: &mut World) -> Result<()> {
    twin(world)?;
    invoke(&mut world.agent(), "get", &json!({"name": "second", "q": "a&admin=1;b=2#c HTTP/1.1"}))?.expect(200)?;
    let seen = world.foe.seen("/api/v1/files/second");
    let last = seen.last().context("it was not sent")?;
    ensure!(last.target() == "/api/v1/files/second?q=a%26admin%3D1%3Bb%3D2%23c%20HTTP%2F1.1", "{}", last.line);
    Ok(())
}

/// A read may be sent on below its own base, and nowhere else; the credential stays where it belongs.
fn redirected(world: &mut World, tool: &str) -> Result<()> {
    twin(world)?;
    let answer = invoke(&mut world.agent(), tool, &json!({}))?.expect(200)?;
    ensure!(answer["status"] == "tool_error", "{answer}");
    ensure!(world.foe.seen("/trap").is_empty(), "it went where it was sent");
    ensure!(world.foe.seen(&format!("/api/v1/{tool}")).len() == 1, "it was asked more than once");
    Ok(())
}

fn broken(world: &mut World, tool: &str, status: u16, problem: &str) -> Result<()> {
    twin(world)?;
    let answer = invoke(&mut world.agent(), tool, &json!({}))?;
    let body = world.refused_without_event(&answer, status, problem)?;
    world.recorded(&body, "call.completed")?;
    twin(world).context("afterwards")
}

fn echoed(world: &mut World) -> Result<()> {
    twin(world)?;
    let answer = invoke(&mut world.agent(), "secret", &json!({}))?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(!holds_secret(&text) && text.contains("[redacted]"), "the caller is shown: {text}");
    let written = world.written_with(b"foe-s3cret")?;
    ensure!(written.is_empty(), "the credential was written to {written:?}");
    Ok(())
}

/// The manifest names a host; what its name leads to is looked at when it is connected to, not before.
fn rebound(world: &mut World) -> Result<()> {
    twin(world)?;
    let before = world.foe.seen("/api/v1/rebound").len();
    let answer = world.agent().post("/tools/rebound:get/invoke", &json!({}))?;
    ensure!(world.foe.seen("/api/v1/rebound").len() == before, "it was connected to");
    let body = world.refused_without_event(&answer, 502, "upstream-unavailable")?;
    world.recorded(&body, "call.completed").map(|_| ())
}

/// The import reads its file and nothing else; a document that needs another is refused.
fn document(world: &mut World, reference: &str) -> Result<()> {
    let import = |world: &World, reference: &str| -> Result<(bool, String)> {
        let document = json!({
            "openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "servers": [{"url": "https://api.example"}],
            "components": {"schemas": {"Own": {"type": "string"}}},
            "paths": {"/a": {"get": {"operationId": "a", "parameters": [{"name": "q", "in": "query", "schema": {"$ref": reference}}],
                "responses": {"200": {"description": "d"}}}}},
        });
        let path = world.control.join("document.json");
        std::fs::write(&path, document.to_string())?;
        let output = Command::new(&world.binary).args(["tools", "import", "openapi"]).arg(&path).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
    };
    let (fine, said) = import(world, "#/components/schemas/Own")?;
    world.harmless_because(fine && said.contains("type: rest"), &said)?;
    let (fine, said) = import(world, reference)?;
    // Refused as a whole, or without the operation; never with what the reference leads to.
    ensure!(!fine || !said.contains("path: /a"), "it was imported: {said}");
    ensure!(!said.contains("root:"), "a file of this machine is shown");
    Ok(())
}
