//! The steps of the demo. Every fact is read before it is told, and every claim is checked.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::agent::{self, Agent};
use super::crash;
use super::stage::Stage;
use super::voice::{Voice, Who};
use crate::client::{Node, Reply};
use crate::output::{self, Style, paint};

/// A budget above the policy's ceiling, one that a treasurer must approve, and the campaign that it is all about.
const TOO_MUCH: u32 = 75_000;
const BUDGET: u32 = 1_200;
const CAMPAIGN: &str = "LaunchX";

/// The people of the story, each with a token of their own.
pub struct Cast {
    /// Runs the node.
    pub omar: Node,
    /// The agent, on behalf of Maya.
    pub bot: Node,
    maya: Node,
    tess: Node,
    omar_token: String,
}

impl Cast {
    /// The operator's token, for commands.
    pub fn omar_token(&self) -> &str {
        &self.omar_token
    }
}

/// What the later steps need of the earlier ones.
struct Approved {
    arguments: Value,
    key: &'static str,
    answer: Value,
}

/// Tells the story.
///
/// # Errors
/// If anything does not come out as told.
pub async fn tell(voice: &Voice, stage: &mut Stage) -> anyhow::Result<()> {
    let began = Instant::now();
    voice.title(
        "Countersign: agents use real tools under policy, people sign off, and anyone can check the proof.",
        &[
            "Everything below happens now: child processes, loopback, public interfaces, SQLite on this disk."
                .to_owned(),
            format!("Directory: {}", stage.home().display()),
        ],
    );
    let cast = node_starts(voice, stage).await?;
    operator_reviews(voice, stage, &cast).await?;
    let mut agent = agent_works(voice, &cast).await?;
    let no = policy_refuses(voice, &mut agent).await?;
    let approved = people_agree(voice, stage, &cast).await?;
    once(voice, stage, &cast, &approved).await?;
    let receipt = approved.answer["receipt"].as_str().context("the answer names no receipt")?;
    proof(voice, stage, &cast, receipt, &no).await?;
    crash::power_cut(voice, stage, &cast).await?;
    what_next(voice, began.elapsed());
    Ok(())
}

async fn node_starts(voice: &Voice, stage: &mut Stage) -> anyhow::Result<Cast> {
    voice.step("A node starts").await;
    stage.furnish().await?;
    voice.command(Who::Operator, &["up", "--listen", stage.url().trim_start_matches("http://")]);
    let took = stage.start_node().await?;
    let pid = stage.pid().context("the node has no process")?;
    let fresh = format!("up after {} ms, process {pid}: {} and {}/mcp", took.as_millis(), stage.url(), stage.url());
    voice.says(Who::Node, fresh).await;
    let omar_token = mint(stage, &["--sub", "omar", "--role", "operator", "--role", "auditor"]).await?;
    let maya = mint(stage, &["--sub", "maya", "--role", "finance-write", "--role", "treasurer"]).await?;
    let bot = mint(stage, &["--sub", "maya", "--act", "campaign-bot", "--role", "finance-write"]).await?;
    let tess = mint(stage, &["--sub", "tess", "--role", "treasurer"]).await?;
    let node = Node::new(&stage.url(), None)?;
    voice
        .says(
            Who::Operator,
            "one development token each: omar runs the node, maya works in marketing and has an agent,",
        )
        .await;
    voice
        .says(Who::Operator, "campaign-bot, and tess is a treasurer. Development identities are marked in every event.")
        .await;
    Ok(Cast {
        omar: node.with_token(&omar_token),
        bot: node.with_token(bot),
        maya: node.with_token(maya),
        tess: node.with_token(tess),
        omar_token,
    })
}

async fn mint(stage: &Stage, who: &[&str]) -> anyhow::Result<String> {
    let arguments: Vec<&str> = ["token", "mint", "--ttl", "15m"].iter().chain(who).copied().collect();
    Ok(stage.run(None, &arguments).await?.ok()?.trim().to_owned())
}

async fn operator_reviews(voice: &Voice, stage: &Stage, cast: &Cast) -> anyhow::Result<()> {
    voice.step("Nothing can be called before a person has looked at it").await;
    let token = Some(cast.omar_token());
    let tools = offered(stage, token).await?;
    let waiting = tools.iter().filter(|tool| tool["status"] == "new").count();
    ensure!(waiting > 0 && waiting == tools.len(), "not every tool of a fresh node is quarantined: {tools:?}");
    let (mut agent, _) = Agent::connect(cast.bot.clone()).await?;
    let visible = upstream_tools(&agent.tools().await?);
    ensure!(visible.is_empty(), "the agent sees tools that nobody accepted: {visible:?}");
    voice
        .says(Who::Node, format!("the upstream offers {waiting} tools; all are quarantined, and the agent sees none"))
        .await;
    voice.command(Who::Operator, &["tools", "accept", "--all"]);
    let accepted = stage.run(token, &["tools", "accept", "--all", "--json"]).await?.json()?;
    let accepted = accepted.as_array().context("tools accept wrote no list")?;
    ensure!(accepted.len() == waiting, "{} of {waiting} tools were accepted", accepted.len());
    for tool in accepted {
        let pin = output::short(tool["pin"].as_str().context("no pin")?, 23);
        let effect = tools.iter().find(|seen| seen["name"] == tool["name"]).map(|seen| output::text(seen, "/effect"));
        let line = format!("{:<20} {:<12} {pin}", output::text(tool, "/name"), effect.unwrap_or_default());
        voice.says(Who::Operator, line).await;
    }
    voice
        .says(
            Who::Operator,
            "A changed definition has another digest, and is quarantined again until somebody has seen the diff.",
        )
        .await;
    Ok(())
}

/// The operator's list, as soon as the node has asked its upstream.
async fn offered(stage: &Stage, token: Option<&str>) -> anyhow::Result<Vec<Value>> {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(15) {
        let tools = stage.run(token, &["tools", "list", "--json"]).await?.json()?;
        match tools.as_array() {
            Some(tools) if !tools.is_empty() => return Ok(tools.clone()),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    anyhow::bail!("the upstream offers no tools")
}

/// Without the gateway's own tools.
fn upstream_tools(names: &[String]) -> Vec<String> {
    names.iter().filter(|name| name.starts_with("ads_")).cloned().collect()
}

async fn agent_works(voice: &Voice, cast: &Cast) -> anyhow::Result<Agent> {
    voice.step("The agent connects over MCP").await;
    let (mut agent, server) = Agent::connect(cast.bot.clone()).await?;
    let tools = upstream_tools(&agent.tools().await?);
    ensure!(
        tools.iter().any(|tool| tool == "ads_createCampaign"),
        "the agent does not see ads_createCampaign: {tools:?}"
    );
    voice.says(Who::Agent, format!("connected to {server}; tools/list: {}", tools.join(", "))).await;
    let result = agent.call("ads_listCampaigns", json!({})).await?;
    ensure!(result["isError"] != true, "listCampaigns failed: {}", agent::text(&result));
    let campaigns = result.pointer("/structuredContent/campaigns").and_then(Value::as_array).map_or(0, Vec::len);
    let receipt = agent::receipt(&result)?;
    voice.says(Who::Agent, format!("ads_listCampaigns {} {campaigns} campaigns", paint(Style::Good, "→"))).await;
    voice.says(Who::Node, format!("recorded before it was answered: receipt {receipt}")).await;
    Ok(agent)
}

async fn policy_refuses(voice: &Voice, agent: &mut Agent) -> anyhow::Result<String> {
    voice.step("Policy says no, and the no is proof as well").await;
    let arguments = json!({ "name": "Everything Everywhere", "budget": TOO_MUCH, "startDate": "2026-12-01" });
    voice.says(Who::Agent, format!("ads_createCampaign {arguments}")).await;
    let result = agent.call("ads_createCampaign", arguments).await?;
    let text = agent::text(&result);
    ensure!(result["isError"] == true && text.contains("policy-denied"), "this should have been denied: {result}");
    ensure!(text.contains("budget-ceiling"), "the refusal does not name its policy: {text}");
    voice.says(Who::Node, paint(Style::Bad, &output::visible(&text))).await;
    let receipt = agent::receipt(&result)?;
    voice.says(Who::Node, format!("receipt {receipt}")).await;
    Ok(receipt)
}

async fn people_agree(voice: &Voice, stage: &Stage, cast: &Cast) -> anyhow::Result<Approved> {
    voice.step("Policy says: ask a treasurer").await;
    let key = "launch-x-1";
    let arguments = json!({ "name": CAMPAIGN, "budget": BUDGET, "startDate": "2026-12-01" });
    voice.says(Who::Agent, format!("POST /tools/ads:createCampaign/invoke {arguments}  Idempotency-Key: {key}")).await;
    let reply = invoke(&cast.bot, &arguments, key).await?;
    ensure!(reply.status == 202, "expected 202, got {}: {}", reply.status, String::from_utf8_lossy(&reply.body));
    let pending = reply.json();
    let request = pending["request_id"].as_str().context("no request_id")?.to_owned();
    let left = pending["expires_at"].as_i64().map_or(0, |at| at - output::now_ms());
    let owed = crate::commands::approvals::owed(&pending["owed"]);
    voice
        .says(
            Who::Node,
            format!("202 {}: owed {owed}, within {}", paint(Style::Warn, "not executed"), output::span(left + 999)),
        )
        .await;
    voice.says(Who::Node, format!("because: {}", output::text(&pending, "/owed/reasons/0"))).await;

    let early = confirm(&cast.bot, &pending, None).await?;
    ensure!(early.status == 202, "confirm before the approval answered {}", early.status);
    ensure!(executions(stage, CAMPAIGN)? == 0, "the upstream executed before anybody agreed");
    voice.says(Who::Agent, "tries to confirm at once: still 202, and the upstream's journal is still empty").await;

    requester_cannot(voice, cast, &request).await?;
    treasurer_agrees(voice, cast, &request).await?;
    let answer = redeem(voice, cast, &pending, &arguments).await?;
    Ok(Approved { arguments, key, answer })
}

async fn invoke(node: &Node, arguments: &Value, key: &str) -> anyhow::Result<Reply> {
    node.send("POST", "/tools/ads:createCampaign/invoke", &[("idempotency-key", key)], Some(arguments)).await
}

async fn confirm(node: &Node, pending: &Value, arguments: Option<&Value>) -> anyhow::Result<Reply> {
    let mut body = arguments.cloned().unwrap_or_else(|| json!({}));
    body["action_token"] = pending["action_token"].clone();
    node.send("POST", "/tools/ads:createCampaign/confirm", &[], Some(&body)).await
}

/// How often the upstream executed a campaign of this name, by its own journal.
fn executions(stage: &Stage, name: &str) -> anyhow::Result<usize> {
    Ok(stage.journal()?.iter().filter(|entry| entry.campaign.name == name).count())
}

/// Maya holds the role, but the agent asks on her behalf.
async fn requester_cannot(voice: &Voice, cast: &Cast, request: &str) -> anyhow::Result<()> {
    let answer = json!({ "decision": "approve" });
    let refused = cast.maya.send("POST", &format!("/approvals/{request}"), &[], Some(&answer)).await?;
    ensure!(
        refused.problem() == "self-approval",
        "the requester could approve: HTTP {}, {}",
        refused.status,
        refused.json()
    );
    let why = output::text(&refused.json(), "/detail");
    voice
        .says(
            Who::Maya,
            format!("is a treasurer too, and tries: {} {why}", paint(Style::Bad, &refused.status.to_string())),
        )
        .await;
    Ok(())
}

async fn treasurer_agrees(voice: &Voice, cast: &Cast, request: &str) -> anyhow::Result<()> {
    let view = cast.tess.get(&format!("/approvals/{request}")).await?;
    let asks =
        format!("{} for {}", output::text(&view, "/principal/id"), output::text(&view, "/principal/on_behalf_of"));
    voice.says(Who::Treasurer, format!("reads what {asks} asks, exactly as it would be sent:")).await;
    let preview = view["preview"].as_str().context("no preview")?;
    ensure!(
        preview.contains(CAMPAIGN) && preview.contains(&BUDGET.to_string()),
        "the preview hides arguments: {preview}"
    );
    voice.quote(preview);
    let answer = json!({ "decision": "approve", "reason": "in the plan for December" });
    let view = cast.tess.post(&format!("/approvals/{request}"), &answer).await?;
    let given =
        view["answers"].as_array().and_then(|answers| answers.last()).context("the answer is not in the view")?;
    ensure!(
        given["granted"] == true && given.pointer("/principal/id") == Some(&json!("tess")),
        "not tess's yes: {given}"
    );
    let said = format!("{}, \"{}\"", paint(Style::Good, "approves"), output::text(given, "/reason"));
    voice.says(Who::Treasurer, format!("{said}: receipt {}", output::text(given, "/receipt"))).await;
    Ok(())
}

async fn redeem(voice: &Voice, cast: &Cast, pending: &Value, arguments: &Value) -> anyhow::Result<Value> {
    let mut more = arguments.clone();
    more["budget"] = json!(BUDGET * 10);
    let changed = confirm(&cast.bot, pending, Some(&more)).await?;
    ensure!(changed.problem() == "arguments-changed", "changed arguments: HTTP {}, {}", changed.status, changed.json());
    let status = paint(Style::Bad, &changed.status.to_string());
    voice
        .says(Who::Agent, format!("confirms with a budget of {}: {status} {}", more["budget"], changed.problem()))
        .await;
    let reply = confirm(&cast.bot, pending, Some(arguments)).await?;
    ensure!(reply.status == 200, "confirm answered {}: {}", reply.status, reply.json());
    let answer = reply.json();
    ensure!(answer["status"] == "ok", "the tool reported an error: {answer}");
    let campaign = answer.pointer("/result/structuredContent/campaign").cloned().unwrap_or_default();
    voice
        .says(Who::Agent, format!("confirms what was agreed to: {} {campaign}", paint(Style::Good, "200 executed")))
        .await;
    Ok(answer)
}

async fn once(voice: &Voice, stage: &Stage, cast: &Cast, approved: &Approved) -> anyhow::Result<()> {
    voice.step("Once means once").await;
    let reply = invoke(&cast.bot, &approved.arguments, approved.key).await?;
    let replayed = reply.header("idempotent-replayed").unwrap_or("absent").to_owned();
    let again = reply.into_json()?;
    ensure!(replayed == "true", "the repeated request was not replayed");
    ensure!(
        again["result"] == approved.answer["result"] && again["call"] == approved.answer["call"],
        "another answer: {again}"
    );
    let line = format!(
        "the same request with the same key: the same call {}, Idempotent-Replayed: {replayed}",
        output::text(&again, "/call")
    );
    voice.says(Who::Agent, line).await;
    let journal = stage.journal()?;
    let ours: Vec<_> = journal.iter().filter(|entry| entry.campaign.name == CAMPAIGN).collect();
    ensure!(ours.len() == 1, "the upstream executed {} times", ours.len());
    let entry = ours[0];
    let line = format!(
        "my own journal, process {}: {CAMPAIGN} with budget {} executed {} time",
        entry.pid,
        entry.campaign.budget,
        ours.len()
    );
    voice.says(Who::Upstream, line).await;
    Ok(())
}

async fn proof(voice: &Voice, stage: &Stage, cast: &Cast, yes: &str, no: &str) -> anyhow::Result<()> {
    voice.step("The receipt verifies offline, and one flipped byte does not").await;
    let desk = stage.home().join("auditor");
    std::fs::create_dir(&desk)?;
    let token = Some(cast.omar_token());
    voice.command(Who::Operator, &["receipt", "get", yes, "-o", "receipt.json"]);
    for (id, name) in [(yes, "receipt.json"), (no, "refusal.json")] {
        let file = desk.join(name);
        let file = file.to_str().context("the directory's name is not UTF-8")?;
        stage.run(token, &["receipt", "get", id, "-o", file]).await?.ok()?;
    }
    voice.command(Who::Operator, &["log", "keys", ">", "log.vkey"]);
    std::fs::write(desk.join("log.vkey"), stage.run(token, &["log", "keys"]).await?.ok()?)?;

    let verify = ["verify", "receipt.json", "--key", "log.vkey"];
    voice.command(Who::Auditor, &verify);
    let report =
        stage.run_elsewhere(&desk, &["verify", "receipt.json", "--key", "log.vkey", "--json"]).await?.json()?;
    ensure!(report["verdict"] == "valid", "the receipt does not verify: {report}");
    let events = report["events"].as_array().cloned().unwrap_or_default();
    let kinds: Vec<String> = events.iter().map(|event| output::text(event, "/type")).collect();
    ensure!(kinds.iter().any(|kind| kind == "approval.granted"), "the approval is not in the receipt: {kinds:?}");
    voice
        .says(
            Who::Auditor,
            format!("{}, with no node, no network and no home: {}", paint(Style::Good, "VALID"), kinds.join(", ")),
        )
        .await;
    let statements = report["statements"].as_array().into_iter().flatten().map(|text| output::text(text, ""));
    voice.quote(&statements.collect::<Vec<_>>().join("\n"));
    let denied =
        stage.run_elsewhere(&desk, &["verify", "refusal.json", "--key", "log.vkey", "--json"]).await?.json()?;
    ensure!(denied["verdict"] == "valid", "the receipt of the refusal does not verify: {denied}");
    let kind = denied.pointer("/events/0/type").cloned().unwrap_or_default();
    voice
        .says(
            Who::Auditor,
            format!("the receipt of the \"no\" ({}): {}", output::text(&kind, ""), paint(Style::Good, "VALID")),
        )
        .await;
    without_key(voice, stage, &desk).await?;
    flipped(voice, stage, &desk).await
}

async fn without_key(voice: &Voice, stage: &Stage, desk: &std::path::Path) -> anyhow::Result<()> {
    let unanchored = stage.run_elsewhere(desk, &["verify", "receipt.json", "--json"]).await?;
    let verdict: Value = serde_json::from_str(&unanchored.stdout)?;
    ensure!(verdict["verdict"] == "unanchored" && unanchored.code == Some(4), "without a key: {unanchored:?}");
    let line = format!(
        "without the log's key: {}, exit code {}",
        output::text(&verdict, "/verdict"),
        unanchored.code.unwrap_or(-1)
    );
    voice.says(Who::Auditor, line).await;
    Ok(())
}

/// Changes one bit of the approver's name, which leaves the file well-formed.
async fn flipped(voice: &Voice, stage: &Stage, desk: &std::path::Path) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(desk.join("receipt.json"))?;
    let at =
        bytes.windows(6).position(|window| window == b"\"tess\"").context("the approver is not in the receipt")? + 1;
    let before = char::from(bytes[at]);
    bytes[at] ^= 1;
    let after = char::from(bytes[at]);
    std::fs::write(desk.join("flipped.json"), bytes)?;
    voice
        .says(Who::Auditor, format!("changes byte {at} of the file, '{before}' to '{after}': tess becomes {after}ess"))
        .await;
    let ran = stage.run_elsewhere(desk, &["verify", "flipped.json", "--key", "log.vkey", "--json"]).await?;
    let report: Value = serde_json::from_str(&ran.stdout)?;
    ensure!(report["verdict"] == "invalid" && ran.code == Some(3), "a changed receipt was not refused: {ran:?}");
    let failed = report["checks"].as_array().into_iter().flatten().find(|check| check["status"] == "failed");
    let failed = failed.context("no check failed")?;
    let line = format!(
        "{}, exit code {}: {} [{}] {}",
        paint(Style::Bad, "INVALID"),
        ran.code.unwrap_or(-1),
        output::text(failed, "/name"),
        output::text(failed, "/code"),
        output::text(failed, "/detail"),
    );
    voice.says(Who::Auditor, line).await;
    Ok(())
}

fn what_next(voice: &Voice, took: Duration) {
    let mut lines =
        vec![paint(Style::Head, &format!("All of it happened as told, in {:.1} s. Now for real:", took.as_secs_f64()))];
    for (command, why) in [
        ("up", "run a node; prints the configuration for your editor"),
        ("tools accept --all", "review what its upstreams offer"),
        ("call ads:listCampaigns", "use a tool from the command line"),
        ("approvals list", "answer as an approver"),
        ("doctor", "look for what is wrong with your set-up"),
    ] {
        let command = format!("countersign {command}");
        lines.push(format!("  {} {why}", paint(Style::Code, &format!("{command:<36}"))));
    }
    lines.push("\nREADME.md says what is behind it, docs/receipt.md how to write a verifier of your own.".to_owned());
    voice.end(&lines);
}
