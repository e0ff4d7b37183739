//! Tricks around approvals: tokens used twice, arguments changed, people who may not agree, definitions that change meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::{Claims, Client};
use serde_json::{Value, json};

use super::{Case, World, upstream};

pub const CASES: &[Case] = &[
    ("an action token used twice", replayed_token),
    ("an action token of another caller", stolen_token),
    ("an action token that was altered", altered_token),
    ("an action token presented for another tool", other_tool),
    ("changed arguments between invoke and confirm", changed_arguments),
    ("confirm before anyone agreed", too_early),
    ("approval by the requester", self_approval),
    ("approval by the person behind the agent", approval_behind),
    ("approval by an agent", agent_approves),
    ("approval without the role", wrong_role),
    ("approval from another workspace", approval_elsewhere),
    ("approval twice by the same person", approves_twice),
    ("approval by GET", approval_by_get),
    ("confirm with nobody behind the agent", unmeetable),
    ("confirmation by somebody else", wrong_person),
    ("a call that was denied, repeated", denied_sticky),
    ("an approval that expired", expired),
    ("a frozen tool, approved before", frozen),
    ("a definition changed between approval and execution", definition_changed),
    ("control characters in what the approver reads", invisible),
];

/// Asks for the guarded tool; the answer is the 202's body.
fn ask(world: &World, agent: &mut Client, tool: &str, text: &str) -> Result<Value> {
    world.invoke(agent, tool, &json!({"text": text}))?.expect(202)
}

fn approve(world: &World, person: &mut Client, pending: &Value) -> Result<countersign_testkit::Response> {
    let id = pending["request_id"].as_str().context("no request_id")?;
    let _ = world;
    person.post(&format!("/approvals/{id}"), &json!({"decision": "approve"}))
}

fn confirm(agent: &mut Client, tool: &str, body: &Value) -> Result<countersign_testkit::Response> {
    agent.post(&format!("/tools/evil:{tool}/confirm"), body)
}

fn token(pending: &Value) -> Value {
    json!({"action_token": pending["action_token"]})
}

/// The honest way: asked, approved by a reviewer, confirmed, executed once.
fn honest(world: &mut World, agent: &mut Client) -> Result<Value> {
    let text = world.unique("honest");
    let pending = ask(world, agent, "guarded", &text)?;
    approve(world, &mut world.person("rita", &["reviewer"]), &pending)?.expect(200)?;
    let answer = confirm(agent, "guarded", &token(&pending))?;
    world.harmless(&answer)?;
    ensure!(world.executions(&text)? == 1, "executed {} times", world.executions(&text)?);
    Ok(pending)
}

/// Asks, and returns what is pending and the text that tells its executions.
fn open(world: &mut World, agent: &mut Client) -> Result<(Value, String)> {
    let text = world.unique("guarded");
    Ok((ask(world, agent, "guarded", &text)?, text))
}

fn replayed_token(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let pending = honest(world, &mut agent)?;
    let answer = confirm(&mut agent, "guarded", &token(&pending))?;
    // The second use may show the recorded answer, marked as such, or be refused; it must not execute.
    if answer.status == 200 {
        ensure!(answer.header("idempotent-replayed") == Some("true"), "a second answer that is not marked as a replay");
        return ensure_executed_once(world, &pending);
    }
    world.refused(&answer, 409, "already-redeemed")?;
    ensure_executed_once(world, &pending)
}

fn ensure_executed_once(world: &World, pending: &Value) -> Result<()> {
    let id = pending["request_id"].as_str().unwrap_or_default();
    let view = world.node.operator().get(&format!("/approvals/{id}"))?.expect(200)?;
    let text = view["arguments"]["text"].as_str().map(str::to_owned);
    if let Some(text) = text {
        ensure!(world.executions(&text)? == 1, "executed {} times", world.executions(&text)?);
    }
    Ok(())
}

fn stolen_token(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    approve(world, &mut world.person("rita", &["reviewer"]), &pending)?.expect(200)?;
    let answer = confirm(&mut world.client("thief", &["tester"]), "guarded", &token(&pending))?;
    ensure!(world.executions(&text)? == 0, "it was executed");
    world.refused(&answer, 403, "invalid-action-token").map(|_| ())
}

fn altered_token(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    approve(world, &mut world.person("rita", &["reviewer"]), &pending)?.expect(200)?;
    let good = pending["action_token"].as_str().unwrap_or_default();
    let last = if good.ends_with('A') { 'B' } else { 'A' };
    let bad = format!("{}{last}", &good[..good.len().saturating_sub(1)]);
    let answer = confirm(&mut agent, "guarded", &json!({"action_token": bad}))?;
    ensure!(world.executions(&text)? == 0, "it was executed");
    world.refused(&answer, 403, "invalid-action-token").map(|_| ())
}

fn other_tool(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    approve(world, &mut world.person("rita", &["reviewer"]), &pending)?.expect(200)?;
    let answer = confirm(&mut agent, "write", &token(&pending))?;
    ensure!(world.executions(&text)? == 0, "it was executed");
    world.refused(&answer, 403, "invalid-action-token").map(|_| ())
}

fn changed_arguments(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    approve(world, &mut world.person("rita", &["reviewer"]), &pending)?.expect(200)?;
    let changed = format!("{text}-changed");
    let body = json!({"action_token": pending["action_token"], "text": changed});
    let answer = confirm(&mut agent, "guarded", &body)?;
    ensure!(world.executions(&text)? == 0 && world.executions(&changed)? == 0, "it was executed");
    world.refused(&answer, 409, "arguments-changed")?;
    let same = json!({"action_token": pending["action_token"], "text": text});
    let answer = confirm(&mut agent, "guarded", &same)?;
    world.harmless(&answer).map(|_| ())
}

fn too_early(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    let answer = confirm(&mut agent, "guarded", &token(&pending))?.expect(202)?;
    ensure!(answer["status"] == "pending" && answer["request_id"] == pending["request_id"], "{answer}");
    ensure!(world.executions(&text)? == 0, "it was executed");
    Ok(())
}

/// An answer that must not count: refused, and confirming afterwards still waits.
fn no_answer(world: &mut World, mut person: Client, status: u16, problem: &str) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    let answer = approve(world, &mut person, &pending)?;
    if problem == "not-found" {
        world.refused_without_event(&answer, status, problem)?;
    } else {
        world.refused(&answer, status, problem)?;
    }
    confirm(&mut agent, "guarded", &token(&pending))?.expect(202)?;
    ensure!(world.executions(&text)? == 0, "it was executed");
    Ok(())
}

fn self_approval(world: &mut World) -> Result<()> {
    // A person who may use tools and is a reviewer asks, and then approves.
    let mut person = world.person("paula", &["tester", "reviewer"]);
    honest(world, &mut person)?;
    let (pending, text) = open(world, &mut person)?;
    let answer = approve(world, &mut person, &pending)?;
    world.refused(&answer, 403, "self-approval")?;
    ensure!(world.executions(&text)? == 0, "it was executed");
    Ok(())
}

fn approval_behind(world: &mut World) -> Result<()> {
    let acting = Claims::agent("peter", &["tester"]).with("act", json!({"sub": "his-agent"}));
    let mut agent = world.bearer_of(&acting);
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    let answer = approve(world, &mut world.person("peter", &["reviewer"]), &pending)?;
    world.refused(&answer, 403, "self-approval")?;
    ensure!(world.executions(&text)? == 0, "it was executed");
    Ok(())
}

fn agent_approves(world: &mut World) -> Result<()> {
    // It may see the request, as an auditor of the workspace does, and yet not answer it.
    let agent = world.client("helper", &["reviewer", "auditor"]);
    no_answer(world, agent, 403, "forbidden")
}

fn wrong_role(world: &mut World) -> Result<()> {
    let person = world.person("walter", &["painter", "auditor"]);
    no_answer(world, person, 403, "forbidden")?;
    // Who is nothing to the request is not even told that it exists.
    let stranger = world.person("wanda", &["painter"]);
    no_answer(world, stranger, 404, "not-found")
}

fn approval_elsewhere(world: &mut World) -> Result<()> {
    let person = world.bearer_of(&Claims::person("rita", &["reviewer"]).with("tenant", json!("elsewhere")));
    no_answer(world, person, 404, "not-found")
}

fn approves_twice(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, _) = open(world, &mut agent)?;
    let mut rita = world.person("rita", &["reviewer"]);
    approve(world, &mut rita, &pending)?.expect(200)?;
    let answer = approve(world, &mut rita, &pending)?;
    world.refused(&answer, 409, "not-open").map(|_| ())
}

fn approval_by_get(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    let id = pending["request_id"].as_str().unwrap_or_default();
    world.person("rita", &["reviewer"]).get(&format!("/approvals/{id}?decision=approve"))?;
    confirm(&mut agent, "guarded", &token(&pending))?.expect(202)?;
    ensure!(world.executions(&text)? == 0, "it was executed");
    Ok(())
}

fn unmeetable(world: &mut World) -> Result<()> {
    personal(world)?;
    let answer = world.invoke(&mut world.agent(), "personal", &json!({"text": "x"}))?;
    world.refused(&answer, 403, "obligation-unmeetable").map(|_| ())
}

/// An agent acts for a person, and that person confirms.
fn personal(world: &mut World) -> Result<()> {
    let text = world.unique("personal");
    let mut agent = world.bearer_of(&Claims::agent("peter", &["tester"]).with("act", json!({"sub": "his-agent"})));
    let pending = ask(world, &mut agent, "personal", &text)?;
    approve(world, &mut world.person("peter", &[]), &pending)?.expect(200)?;
    let answer = confirm(&mut agent, "personal", &token(&pending))?;
    world.harmless(&answer).map(|_| ())
}

fn wrong_person(world: &mut World) -> Result<()> {
    personal(world)?;
    let text = world.unique("personal");
    let mut agent = world.bearer_of(&Claims::agent("peter", &["tester"]).with("act", json!({"sub": "his-agent"})));
    let pending = ask(world, &mut agent, "personal", &text)?;
    let answer = approve(world, &mut world.person("rita", &["reviewer", "auditor"]), &pending)?;
    world.refused(&answer, 403, "forbidden")?;
    ensure!(world.executions(&text)? == 0, "it was executed");
    Ok(())
}

fn denied_sticky(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    let id = pending["request_id"].as_str().unwrap_or_default();
    let mut rita = world.person("rita", &["reviewer"]);
    rita.post(&format!("/approvals/{id}"), &json!({"decision": "deny", "reason": "not this one"}))?.expect(200)?;
    let redeemed = confirm(&mut agent, "guarded", &token(&pending))?;
    world.refused(&redeemed, 403, "approval-denied")?;
    let again = world.invoke(&mut agent, "guarded", &json!({"text": text}))?;
    let problem = world.refused(&again, 403, "approval-denied")?;
    ensure!(problem.to_string().contains("not this one"), "the reason is not passed on: {problem}");
    ensure!(world.executions(&text)? == 0, "it was executed");
    Ok(())
}

fn expired(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    let quick = world.unique("quick");
    let pending = ask(world, &mut agent, "brief", &quick)?;
    approve(world, &mut world.person("rita", &["reviewer"]), &pending)?.expect(200)?;
    let answer = confirm(&mut agent, "brief", &token(&pending))?;
    world.harmless(&answer)?;
    let slow = world.unique("slow");
    let pending = ask(world, &mut agent, "brief", &slow)?;
    approve(world, &mut world.person("rita", &["reviewer"]), &pending)?.expect(200)?;
    std::thread::sleep(Duration::from_millis(2_300));
    let answer = confirm(&mut agent, "brief", &token(&pending))?;
    ensure!(world.executions(&slow)? == 0, "it was executed");
    world.refused(&answer, 410, "approval-expired").map(|_| ())
}

fn frozen(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    approve(world, &mut world.person("rita", &["reviewer"]), &pending)?.expect(200)?;
    let target = json!({"kind": "tool", "name": "evil:guarded", "reason": "looks wrong"});
    let answer = world.node.operator().post("/admin/freeze", &target)?;
    ensure!(answer.status < 300, "freezing: HTTP {} {:?}", answer.status, answer.json());
    let outcome = (|| {
        let redeemed = confirm(&mut agent, "guarded", &token(&pending))?;
        ensure!(redeemed.status == 403, "HTTP {}", redeemed.status);
        world.refused(&redeemed, 403, &redeemed.problem().unwrap_or_default())?;
        let again = world.invoke(&mut agent, "guarded", &json!({"text": "after"}))?;
        world.refused(&again, 403, "frozen")?;
        ensure!(world.executions(&text)? == 0, "it was executed");
        Ok(())
    })();
    let answer = world
        .node
        .operator()
        .post("/admin/unfreeze", &json!({"kind": "tool", "name": "evil:guarded", "reason": "fine"}))?;
    ensure!(answer.status < 300, "unfreezing: HTTP {} {:?}", answer.status, answer.json());
    outcome
}

fn definition_changed(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let (pending, text) = open(world, &mut agent)?;
    approve(world, &mut world.person("rita", &["reviewer"]), &pending)?.expect(200)?;
    upstream::redefine(&world.control, "Now does something else entirely")?;
    refresh(world)?;
    let redeemed = confirm(&mut agent, "guarded", &token(&pending))?;
    let fresh = world.invoke(&mut agent, "guarded", &json!({"text": "another"}));
    // A person looks at the new definition and accepts it; what was approved for the old one stays refused.
    world.node.accept_all_tools(&["evil"])?;
    let after = confirm(&mut agent, "guarded", &token(&pending))?;
    upstream::redefine(&world.control, upstream::DESCRIPTION)?;
    refresh(world)?;
    world.node.accept_all_tools(&["evil"])?;
    ensure!(world.executions(&text)? == 0, "it was executed");
    let problem = redeemed.problem().unwrap_or_default();
    ensure!(
        ["tool-quarantined", "definition-changed"].contains(&problem.as_str()),
        "HTTP {} {problem:?}",
        redeemed.status
    );
    world.refused(&redeemed, 409, &problem)?;
    world.refused(&fresh?, 409, "tool-quarantined")?;
    world.refused(&after, 409, "definition-changed").map(|_| ())
}

/// Asks the node to look at the upstream's tools now.
pub(super) fn refresh(world: &World) -> Result<()> {
    let answer = world.node.operator().post("/admin/upstreams/evil/refresh", &json!({}))?;
    ensure!(answer.status < 300, "refreshing: HTTP {} {:?}", answer.status, answer.json());
    Ok(())
}

fn invisible(world: &mut World) -> Result<()> {
    let mut agent = world.agent();
    honest(world, &mut agent)?;
    let text = "pay \u{1b}[2K\u{202e}10\u{200b} to \u{e0041}Bob";
    let pending = ask(world, &mut agent, "guarded", text)?;
    let id = pending["request_id"].as_str().unwrap_or_default();
    let view = world.person("rita", &["reviewer"]).get(&format!("/approvals/{id}"))?.expect(200)?;
    let preview = view["preview"].as_str().context("no preview")?;
    for hidden in ['\u{1b}', '\u{202e}', '\u{200b}', '\u{e0041}'] {
        ensure!(!preview.contains(hidden), "{hidden:?} is in the preview as it is: {preview:?}");
    }
    ensure!(preview.contains("10") && preview.contains("Bob"), "the preview lost text: {preview:?}");
    Ok(())
}
