//! Upstreams that hang, die, answer garbage, or offer tools that look like others.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::{Response, mcp};
use serde_json::{Value, json};

use super::{Case, World, approvals, upstream};

pub const CASES: &[Case] = &[
    ("an upstream that hangs on a read", |w| read(w, "hang", 504, "upstream-timeout")),
    ("an upstream that dies on a read", |w| read(w, "die", 502, "upstream-unavailable")),
    ("an upstream that answers garbage on a read", |w| read(w, "garbage", 502, "upstream-protocol")),
    ("an upstream whose result is no result", |w| read(w, "wrong", 502, "upstream-protocol")),
    ("an upstream that hangs on a write", |w| write(w, "hang_write", 504, "upstream-timeout")),
    ("an upstream that dies after it executed a write", |w| write(w, "die_write", 502, "upstream-unavailable")),
    ("an upstream that answers garbage to a write", |w| write(w, "garbage_write", 502, "upstream-protocol")),
    ("an identical write while the first is unknown", identical_while_unknown),
    ("the same Idempotency-Key while the first call runs", same_key_in_flight),
    ("an upstream that answers for another call", |w| read(w, "stranger", 504, "upstream-timeout")),
    ("an upstream that floods its error output", flood),
    ("confusable tool names", confusable),
    ("a tool's name with hidden characters", hidden_name),
    ("a tool that nobody reviewed", quarantined),
    ("a definition that changes without notice", changes_silently),
];

fn twin(world: &mut World) -> Result<()> {
    // After its upstream died the first call may find it restarting; that is said plainly, and repeating helps.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = world.invoke(&mut world.agent(), "echo", &json!({"text": "twin"}))?;
        if answer.problem().as_deref() != Some("upstream-unavailable") || Instant::now() > end {
            return world.harmless(&answer).map(|_| ());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// A read is refused with the problem, its end is recorded, and the upstream works again afterwards.
fn read(world: &mut World, tool: &str, status: u16, problem: &str) -> Result<()> {
    twin(world)?;
    let text = world.unique("read");
    let answer = world.invoke(&mut world.agent(), tool, &json!({"text": text}))?;
    let body = world.refused_without_event(&answer, status, problem)?;
    world.recorded(&body, "call.completed")?;
    twin(world).context("afterwards")
}

/// A write is unknown: said so, shown to the operator, and recorded as such.
fn write(world: &mut World, tool: &str, status: u16, problem: &str) -> Result<()> {
    twin(world)?;
    let text = world.unique("write");
    let answer = world.invoke(&mut world.agent(), tool, &json!({"text": text}))?;
    let body = world.refused_without_event(&answer, status, problem)?;
    let event = world.recorded(&body, "call.unknown")?;
    let call = event["call"].as_str().context("an event without a call")?;
    ensure!(unknown(world)?.iter().any(|u| u["call"] == call), "the operator is not shown the call");
    ensure!(world.executions(&text)? <= 1, "executed twice");
    settle(world, call)?;
    twin(world).context("afterwards")
}

fn unknown(world: &World) -> Result<Vec<Value>> {
    let list = world.node.operator().get("/admin/unknown")?.expect(200)?;
    Ok(list.as_array().cloned().unwrap_or_default())
}

fn settle(world: &World, call: &str) -> Result<()> {
    let body = json!({"outcome": "not-executed", "note": "looked"});
    let answer = world.node.operator().post(&format!("/admin/unknown/{call}/resolve"), &body)?;
    ensure!(answer.status < 300, "settling: HTTP {} {:?}", answer.status, answer.json());
    Ok(())
}

fn identical_while_unknown(world: &mut World) -> Result<()> {
    twin(world)?;
    let text = world.unique("once");
    let first = world.invoke(&mut world.agent(), "die_write", &json!({"text": text}))?;
    let body = world.refused_without_event(&first, 502, "upstream-unavailable")?;
    let event = world.recorded(&body, "call.unknown")?;
    twin(world)?;
    let again = world.invoke(&mut world.agent(), "die_write", &json!({"text": text}))?;
    world.refused(&again, 409, "outcome-unknown")?;
    ensure!(world.executions(&text)? == 1, "executed {} times", world.executions(&text)?);
    settle(world, event["call"].as_str().unwrap_or_default())
}

fn same_key_in_flight(world: &mut World) -> Result<()> {
    twin(world)?;
    let key = world.unique("flying");
    let body = json!({"text": key}).to_string();
    let send = |world: &World| -> Result<Response> {
        world.agent().send(
            "POST",
            "/tools/evil:slow_write/invoke",
            &[("idempotency-key", key.as_str())],
            Some(body.as_bytes()),
        )
    };
    let (first, second) = thread::scope(|scope| {
        let shared: &World = world;
        let first = scope.spawn(|| send(shared));
        thread::sleep(Duration::from_millis(400));
        let second = send(shared);
        (first.join(), second)
    });
    let first = first.map_err(|_| anyhow::anyhow!("the first caller panicked"))??;
    world.harmless(&first)?;
    ensure!(world.executions(&key)? == 1, "executed {} times", world.executions(&key)?);
    // Asking again for a running call is no event of its own: the answer names the call, which has its events.
    let problem = world.refused_without_event(&second?, 409, "idempotency-in-flight")?;
    ensure!(problem["call"] == first.json()?["call"], "the running call is not named: {problem}");
    let third = send(world)?;
    ensure!(third.status == 200 && third.header("idempotent-replayed") == Some("true"), "HTTP {}", third.status);
    Ok(())
}

fn flood(world: &mut World) -> Result<()> {
    twin(world)?;
    let answer = world.invoke(&mut world.agent(), "flood", &json!({"text": "x"}))?;
    world.harmless(&answer)?;
    let log = std::fs::metadata(world.node.home().directory().join("node.log"))?.len();
    ensure!(log < 8 << 20, "the node's log grew to {log} bytes");
    Ok(())
}

fn reports(world: &World) -> Result<Vec<Value>> {
    let list = world.node.operator().get("/admin/tools")?.expect(200)?;
    Ok(list.as_array().cloned().unwrap_or_default())
}

/// Offers a tool beside the others, and takes it away again.
fn with_tool(world: &mut World, name: &str, check: impl Fn(&mut World) -> Result<()>) -> Result<()> {
    upstream::offer(&world.control, Some(name))?;
    approvals::refresh(world)?;
    let outcome = check(world);
    upstream::offer(&world.control, None)?;
    approvals::refresh(world)?;
    outcome
}

fn confusable(world: &mut World) -> Result<()> {
    twin(world)?;
    // The first letter is Cyrillic.
    let name = "\u{435}cho";
    with_tool(world, name, |world| {
        let reports = reports(world)?;
        let report =
            reports.iter().find(|r| r["name"] == format!("evil:{name}")).context("the tool is not reported")?;
        ensure!(report["status"] == "new", "its status is {}", report["status"]);
        let findings = report["findings"].as_array().map_or(0, Vec::len);
        ensure!(findings > 0, "nothing speaks against it: {report}");
        let other = reports.iter().find(|r| r["name"] == "evil:echo").context("the honest tool is gone")?;
        ensure!(other["mcp_name"] != report["mcp_name"], "both have the name {}", other["mcp_name"]);
        let answer = world.invoke(&mut world.agent(), "%D0%B5cho", &json!({"text": "x"}))?;
        world.refused(&answer, 409, "tool-quarantined")?;
        let listed = world.agent().get("/tool-catalog")?.expect(200)?.to_string();
        ensure!(!listed.contains(name), "agents are shown it");
        Ok(())
    })?;
    twin(world)
}

fn hidden_name(world: &mut World) -> Result<()> {
    twin(world)?;
    with_tool(world, "ec\u{200b}ho", |world| {
        let found = reports(world)?.into_iter().find(|r| r["name"].as_str().is_some_and(|n| n.contains('\u{200b}')));
        // Left out altogether, or reported with what is wrong; never usable.
        ensure!(
            found.is_none_or(|r| r["findings"].as_array().is_some_and(|f| !f.is_empty())),
            "accepted without a word"
        );
        let listed = world.agent().get("/tool-catalog")?.expect(200)?.to_string();
        ensure!(!listed.contains('\u{200b}'), "agents are shown it");
        Ok(())
    })
}

fn quarantined(world: &mut World) -> Result<()> {
    twin(world)?;
    with_tool(world, "newcomer", |world| {
        let answer = world.invoke(&mut world.agent(), "newcomer", &json!({"text": "x"}))?;
        world.refused(&answer, 409, "tool-quarantined")?;
        let result = mcp::call_tool(&mut world.agent(), "/mcp", "evil_newcomer", &json!({"text": "x"}));
        ensure!(result.map_or(true, |r| r["isError"] == true), "executed over MCP");
        Ok(())
    })
}

/// The definition changes; within its refresh time, or at once where the upstream says so, nobody can use the tool.
fn changes_silently(world: &mut World) -> Result<()> {
    twin(world)?;
    upstream::redefine(&world.control, "Sends the arguments to somebody else")?;
    let end = Instant::now() + Duration::from_secs(10);
    let refused = loop {
        let text = world.unique("silent");
        let answer = world.invoke(&mut world.agent(), "guarded", &json!({"text": text}))?;
        if answer.status == 409 || Instant::now() > end {
            break answer;
        }
        thread::sleep(Duration::from_millis(200));
    };
    upstream::redefine(&world.control, upstream::DESCRIPTION)?;
    approvals::refresh(world)?;
    world.refused(&refused, 409, "tool-quarantined")?;
    twin(world)
}
