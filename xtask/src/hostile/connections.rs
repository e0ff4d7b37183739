//! Tricks around accounts that people connect: states and codes of nobody or somebody else, and agents who would like one.

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::{Claims, Response};
use serde_json::{Value, json};

use super::{Case, World};

pub const CASES: &[Case] = &[
    ("a browser's return that nobody waits for", made_up_state),
    ("a browser's return, repeated", repeated_state),
    ("an agent that connects an account for its person", agent_connects),
    ("the code of somebody else's consent", foreign_code),
    ("a script in what a browser brings back", script_in_return),
];

/// An upstream with accounts; its provider is never reached.
pub const MANIFEST: &str = "version: 1\nupstream: crm\ntransport:\n  type: rest\n  url: http://127.0.0.1:9/\n  credential: { type: user, \
authorization_url: 'http://127.0.0.1:9/authorize', token_url: 'http://127.0.0.1:9/token', client_id: node, scopes: [read] }\ntools: {}\n";

fn start(world: &World, person: &str) -> Result<Response> {
    world.person(person, &["tester"]).post("/connections/crm", &json!({}))
}

/// The honest way begins with a state of the node's.
fn honest(world: &mut World, person: &str) -> Result<String> {
    let started = start(world, person)?.expect(200)?;
    let address = started["authorization_url"].as_str().context("no authorization_url")?;
    let state = address.split("state=").nth(1).and_then(|rest| rest.split('&').next()).context("no state")?.to_owned();
    world.harmless_because(state.len() == 43, "a state was given out")?;
    Ok(state)
}

fn come_back(world: &World, query: &str) -> Result<String> {
    let answer = world.node.anonymous().get(&format!("/oauth/callback?{query}"))?;
    let policy = answer.header("content-security-policy").unwrap_or_default();
    ensure!(policy.starts_with("default-src 'none'"), "the page may load things: {policy}");
    ensure!(answer.status == 400, "HTTP {}", answer.status);
    Ok(String::from_utf8_lossy(&answer.body).into_owned())
}

fn unconnected(world: &World, person: &str) -> Result<()> {
    let listed = world.person(person, &["tester"]).get("/connections")?.expect(200)?;
    let state = listed[0]["state"].as_str().unwrap_or_default();
    ensure!(matches!(state, "none" | "started"), "it is {state}");
    Ok(())
}

fn made_up_state(world: &mut World) -> Result<()> {
    honest(world, "olga")?;
    world.counted("connections/state", |world| {
        for query in ["", "code=x", "state=&code=x", "state=made-up&code=x", "state=a&state=b&code=x"] {
            ensure!(come_back(world, query)?.contains("Nothing was connected"), "{query}");
        }
        Ok(())
    })?;
    unconnected(world, "olga")
}

fn repeated_state(world: &mut World) -> Result<()> {
    let state = honest(world, "petra")?;
    let first = come_back(world, &format!("state={state}&error=access_denied"))?;
    ensure!(first.contains("access_denied"), "{first}");
    let second = come_back(world, &format!("state={state}&code=x"))?;
    ensure!(second.contains("used before"), "{second}");
    unconnected(world, "petra")
}

fn agent_connects(world: &mut World) -> Result<()> {
    honest(world, "rosa")?;
    let behind = Claims::agent("rosa", &["tester"]).with("act", json!({"sub": "her-agent"}));
    let mut agent = world.bearer_of(&behind);
    let answer = agent.post("/connections/crm", &json!({}))?;
    world.refused(&answer, 403, "forbidden")?;
    let answer = agent.post("/tools/crm:account%2Fconnect/invoke", &json!({"scopes": [], "host": "x"}))?;
    world.refused(&answer, 404, "unknown-tool").map(drop)
}

fn foreign_code(world: &mut World) -> Result<()> {
    honest(world, "sara")?;
    for code in ["AAAA-AAAA-AAAA", "", "%"] {
        let answer = world.person("sara", &["tester"]).post("/connections/crm/confirm", &json!({"code": code}))?;
        world.refused(&answer, 404, "not-found")?;
    }
    unconnected(world, "sara")
}

fn script_in_return(world: &mut World) -> Result<()> {
    let state = honest(world, "tina")?;
    let page = come_back(world, &format!("state={state}&error=%3Cscript%3Ealert(1)%3C%2Fscript%3E"))?;
    ensure!(!page.contains("<script") && !page.contains("alert"), "{page}");
    let listed: Value = world.person("tina", &["tester"]).get("/connections")?.expect(200)?;
    ensure!(listed[0]["state"] == "none", "{listed}");
    Ok(())
}
