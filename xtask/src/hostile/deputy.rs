//! One caller's things in another's hands: sessions, sealed state, action tokens, idempotency keys, credentials; above all where
//! both have the same name in different workspaces.

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::{Claims, Client, Response, mcp};
use serde_json::{Value, json};

use super::{Case, World};

pub const CASES: &[Case] = &[
    ("a session of another caller", |w| session(w, w.client("trent", &["tester"]))),
    ("a session of one's namesake in another workspace", |w| session(w, namesake(w))),
    ("the end of another caller's session", session_ended),
    ("an answer to another caller's question", |w| state(w, w.client("trent", &["tester"]))),
    ("an answer to the question of one's namesake in another workspace", |w| state(w, namesake(w))),
    ("sealed state with other arguments", state_for_another),
    ("an action token of one's namesake in another workspace", action_token),
    ("an Idempotency-Key of one's namesake in another workspace", idempotency_key),
    ("two credentials in one request", two_credentials),
    ("two Authorization headers in one request", two_headers),
];

/// The same subject of the same issuer, in another workspace.
fn namesake(world: &World) -> Client {
    world.bearer_of(&Claims::agent("mallory", &["tester"]).with("tenant", json!("elsewhere")))
}

fn twin(world: &mut World) -> Result<()> {
    let answer = world.invoke(&mut world.agent(), "echo", &json!({"text": "twin"}))?;
    world.harmless(&answer).map(|_| ())
}

fn in_session(client: &mut Client, method: &str, id: &str, message: &Value) -> Result<Response> {
    let headers = [
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", mcp::LEGACY),
        ("mcp-session-id", id),
    ];
    let body = message.to_string();
    client.send(method, "/mcp", &headers, (method == "POST").then_some(body.as_bytes()))
}

fn begin(client: &mut Client) -> Result<String> {
    let params = json!({"protocolVersion": mcp::LEGACY, "capabilities": {"elicitation": {}}, "clientInfo": {"name": "t", "version": "1"}});
    let message = mcp::request(json!(1), "initialize", params).to_string();
    let answer =
        client.send("POST", "/mcp", &[("accept", "application/json, text/event-stream")], Some(message.as_bytes()))?;
    answer.header("mcp-session-id").map(str::to_owned).context("no session")
}

fn session(world: &mut World, mut other: Client) -> Result<()> {
    twin(world)?;
    let mut agent = world.agent();
    let id = begin(&mut agent)?;
    let list = mcp::request(json!(2), "tools/list", json!({}));
    let own = in_session(&mut agent, "POST", &id, &list)?;
    world.harmless_because(own.status == 200, "the owner cannot use the session")?;
    let answer = in_session(&mut other, "POST", &id, &list)?;
    ensure!(answer.status == 404, "HTTP {}", answer.status);
    let listened = in_session(&mut other, "GET", &id, &Value::Null)?;
    ensure!(listened.status >= 400, "another caller's stream: HTTP {}", listened.status);
    Ok(())
}

fn session_ended(world: &mut World) -> Result<()> {
    twin(world)?;
    let mut agent = world.agent();
    let id = begin(&mut agent)?;
    let answer = in_session(&mut namesake(world), "DELETE", &id, &Value::Null)?;
    ensure!(answer.status == 404, "HTTP {}", answer.status);
    let own = in_session(&mut agent, "POST", &id, &mcp::request(json!(2), "tools/list", json!({})))?;
    world.harmless_because(own.status == 200, "somebody else ended the session")
}

/// A call that waits for an answer: the parameters to go on with.
fn waiting(client: &mut Client) -> Result<Value> {
    let schema = json!({"type": "object", "properties": {"region": {"type": "string"}}});
    let asks = json!({"method": "elicitation/create", "params": {"mode": "form", "message": "Which?", "requestedSchema": schema}});
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": mcp::MODERN, "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
    });
    let mut params = json!({"name": "net_ask", "arguments": {"question": asks.to_string()}, "_meta": meta});
    let shown = mcp::send(client, "/mcp", mcp::MODERN, &mcp::request(json!(1), "tools/call", params.clone()))?;
    ensure!(shown["result"]["resultType"] == "input_required", "nothing is asked: {shown}");
    params["requestState"] = shown["result"]["requestState"].clone();
    params["inputResponses"] = json!({"q": {"action": "accept", "content": {"region": "eu"}}});
    Ok(params)
}

fn go_on(client: &mut Client, params: &Value) -> Result<Value> {
    mcp::send(client, "/mcp", mcp::MODERN, &mcp::request(json!(2), "tools/call", params.clone()))
}

fn answered(shown: &Value) -> bool {
    shown["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains("accept"))
}

fn state(world: &mut World, mut other: Client) -> Result<()> {
    let mut agent = world.agent();
    let params = waiting(&mut agent)?;
    let stolen = go_on(&mut other, &params)?;
    ensure!(!answered(&stolen) && stolen["error"].is_object(), "somebody else answered: {stolen}");
    let own = go_on(&mut agent, &params)?;
    world.harmless_because(answered(&own), &own.to_string())
}

fn state_for_another(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let params = waiting(&mut agent)?;
    let mut changed = params.clone();
    changed["arguments"]["text"] = json!("something else");
    let shown = go_on(&mut agent, &changed)?;
    ensure!(!answered(&shown) && shown["error"].is_object(), "it went on as another call: {shown}");
    let own = go_on(&mut agent, &params)?;
    world.harmless_because(answered(&own), &own.to_string())
}

fn action_token(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let text = world.unique("deputy");
    let pending = world.invoke(&mut agent, "guarded", &json!({"text": text}))?.expect(202)?;
    let id = pending["request_id"].as_str().context("no request")?;
    world
        .person("rita", &["reviewer"])
        .post(&format!("/approvals/{id}"), &json!({"decision": "approve"}))?
        .expect(200)?;
    let token = json!({"action_token": pending["action_token"]});
    let stolen = namesake(world).post("/tools/evil:guarded/confirm", &token)?;
    ensure!(world.executions(&text)? == 0, "it was executed");
    ensure!([403, 404].contains(&stolen.status), "HTTP {} {:?}", stolen.status, stolen.problem());
    let own = agent.post("/tools/evil:guarded/confirm", &token)?;
    world.harmless(&own)?;
    ensure!(world.executions(&text)? == 1, "executed {} times", world.executions(&text)?);
    Ok(())
}

/// The namesake's call is a call of its own: it neither sees nor takes the place of the other's answer.
fn idempotency_key(world: &mut World) -> Result<()> {
    let (key, text) = (world.unique("key"), world.unique("keyed"));
    let body = json!({"text": text}).to_string();
    let send = |mut client: Client| {
        client.send("POST", "/tools/evil:write/invoke", &[("idempotency-key", key.as_str())], Some(body.as_bytes()))
    };
    let first = send(world.agent())?;
    world.harmless(&first)?;
    let other = send(namesake(world))?;
    ensure!(other.header("idempotent-replayed").is_none(), "another workspace's answer was replayed");
    ensure!(other.json()?["call"] != first.json()?["call"], "another workspace's call is named");
    let again = send(world.agent())?;
    ensure!(again.header("idempotent-replayed") == Some("true"), "the caller's own answer is gone");
    Ok(())
}

fn two_credentials(world: &mut World) -> Result<()> {
    twin(world)?;
    let key = format!("csk_{}_{}", "0".repeat(16), "0".repeat(64));
    let answer =
        world.agent().send("POST", "/tools/evil:echo/invoke", &[("x-api-key", &key)], Some(br#"{"text":"x"}"#))?;
    ensure!(answer.status == 400 || answer.status == 401, "HTTP {}", answer.status);
    Ok(())
}

fn two_headers(world: &mut World) -> Result<()> {
    twin(world)?;
    let bearer = |id: &str| format!("Bearer {}", world.node.home().agent(id, &["tester"]));
    let (one, two) = (bearer("mallory"), bearer("trent"));
    let headers = [("authorization", one.as_str()), ("authorization", two.as_str())];
    let answer = world.node.anonymous().send("POST", "/tools/evil:echo/invoke", &headers, Some(br#"{"text":"x"}"#))?;
    ensure!(answer.status == 400 || answer.status == 401, "HTTP {}", answer.status);
    Ok(())
}
