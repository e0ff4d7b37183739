//! `countersign tools`: what upstreams offer, and the review that lets a definition be called.

use countersign_catalog::scan::{Rule, Severity};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::client::{Node, escaped};
use crate::commands::{import, scan};
use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

/// What to do with tools.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign tools list
  countersign tools diff ads:createCampaign       what changed since the review
  countersign tools accept ads:createCampaign     shows the definition, then asks
  countersign tools accept --all --json
  countersign tools scan https://tools.example/mcp   what in a server's definitions speaks to the model
  countersign tools import openapi api.yaml       a manifest from an API's description")]
pub enum Command {
    /// Every tool with its state; without the role `operator`, those that you may use
    List,
    /// One tool's definition
    Show {
        /// The tool, as `upstream:tool`
        tool: String,
    },
    /// What waits for review, against what was accepted
    Diff {
        /// The tool, as `upstream:tool`
        tool: String,
    },
    /// Accept definitions after showing them; from then on they can be called and policies can name them
    Accept(Accept),
    /// Look for what in definitions speaks to the model behind its user's back; needs no node
    Scan(scan::Args),
    /// Write a manifest from the description of an API
    #[command(subcommand)]
    Import(import::Command),
}

/// What to accept.
#[derive(Debug, clap::Args)]
pub struct Accept {
    /// The tools, as `upstream:tool`
    #[arg(required_unless_present = "all")]
    tools: Vec<String>,
    /// Everything that waits for review
    #[arg(long, conflicts_with = "tools")]
    all: bool,
    /// Accept only if the definition still has this digest
    #[arg(long, value_name = "SHA256", conflicts_with = "all")]
    pin: Option<String>,
    /// Accept in spite of grave findings of this rule of the scan (repeatable)
    #[arg(long, value_name = "RULE", conflicts_with = "all")]
    despite: Vec<Rule>,
    /// Don't ask whether you are sure (in a pipe, nothing is asked)
    #[arg(long, short)]
    yes: bool,
}

/// Shows or accepts tools.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    let command = match command {
        Command::Import(what) => return import::run(global, what),
        Command::Scan(args) => return scan::run(global, args).await,
        other => other,
    };
    let node = Node::find(global)?;
    match command {
        Command::Import(what) => import::run(global, what),
        Command::Scan(args) => scan::run(global, args).await,
        Command::List => list(global, &node).await,
        Command::Show { tool } => show(global, &node, &tool).await,
        Command::Diff { tool } => {
            let diff = node.get(&format!("/admin/tools/{}/diff", escaped(&tool))).await?;
            if global.json {
                output::json(&diff)
            } else {
                show_diff(&diff)
            }
            Ok(Exit::Ok)
        }
        Command::Accept(accept) => accept_tools(global, &node, accept).await,
    }
}

async fn list(global: &Global, node: &Node) -> anyhow::Result<Exit> {
    let reply = node.send("GET", "/admin/tools", &[], None).await?;
    if reply.status == 403 {
        return list_visible(global, node).await;
    }
    let tools = reply.into_json()?;
    if global.json {
        output::json(&tools);
        return Ok(Exit::Ok);
    }
    let tools = tools.as_array().cloned().unwrap_or_default();
    let rows = tools.iter().map(|tool| {
        let pin = tool["proposed"].as_str().or(tool["accepted"].as_str()).unwrap_or("–");
        let others = tool["findings"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let findings: Vec<String> = scanned(tool).into_iter().chain(others.map(output::visible)).collect();
        let findings = findings.join("; ");
        vec![
            output::text(tool, "/name"),
            state(tool),
            output::text(tool, "/effect"),
            output::text(tool, "/mcp_name"),
            output::short(pin, 19),
            findings,
        ]
    });
    output::table(&["TOOL", "STATE", "EFFECT", "OVER MCP", "DEFINITION", "FINDINGS"], rows.collect());
    if tools.iter().any(waits) {
        output::line(format!(
            "\nNew and changed tools cannot be called: review them with {}.",
            output::paint(Style::Code, "countersign tools accept --all")
        ));
    }
    Ok(Exit::Ok)
}

async fn list_visible(global: &Global, node: &Node) -> anyhow::Result<Exit> {
    let tools = node.get("/tool-catalog").await?;
    if global.json {
        output::json(&tools);
        return Ok(Exit::Ok);
    }
    let rows = tools.as_array().into_iter().flatten().map(|tool| {
        let about = tool["description"].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned();
        vec![output::text(tool, "/name"), output::text(tool, "/effect"), output::short(&output::visible(&about), 70)]
    });
    output::table(&["TOOL", "EFFECT", "ABOUT"], rows.collect());
    Ok(Exit::Ok)
}

async fn show(global: &Global, node: &Node, tool: &str) -> anyhow::Result<Exit> {
    let reports = node.send("GET", "/admin/tools", &[], None).await?;
    let tools = if reports.status == 403 { node.get("/tool-catalog").await? } else { reports.into_json()? };
    let found = tools.as_array().into_iter().flatten().find(|entry| entry["name"] == tool);
    let found = found.ok_or_else(|| unknown(tool))?;
    if global.json {
        output::json(found);
    } else {
        output::line(output::visible(&serde_json::to_string_pretty(found)?));
    }
    Ok(Exit::Ok)
}

/// The rules that found something, the gravest first, for a line of a table: `high secrecy, low padding`.
fn scanned(tool: &Value) -> Option<String> {
    let found = tool["scan"].as_array().into_iter().flatten();
    let mut rules: Vec<(Severity, &str)> = found
        .filter_map(|finding| Some((finding["severity"].as_str()?.parse().ok()?, finding["rule"].as_str()?)))
        .filter(|(severity, _)| *severity > Severity::Info)
        .collect();
    rules.sort_by(|a, b| b.cmp(a));
    rules.dedup();
    let words: Vec<String> = rules.iter().map(|(severity, rule)| format!("{severity} {rule}")).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn unknown(tool: &str) -> Failure {
    Failure::new(Exit::Failed, format!("no tool {tool:?}")).advise("`countersign tools list` shows their names")
}

fn waits(tool: &Value) -> bool {
    matches!(tool["status"].as_str(), Some("new" | "changed"))
}

fn state(tool: &Value) -> String {
    let status = output::text(tool, "/status");
    let style = match status.as_str() {
        "accepted" => Style::Good,
        _ => Style::Warn,
    };
    output::paint(style, &status)
}

async fn accept_tools(global: &Global, node: &Node, accept: Accept) -> anyhow::Result<Exit> {
    let reports = node.get("/admin/tools").await?;
    let reports = reports.as_array().cloned().unwrap_or_default();
    let chosen: Vec<&Value> = if accept.all {
        reports.iter().filter(|report| waits(report)).collect()
    } else {
        let find = |tool: &String| reports.iter().find(|r| r["name"] == **tool).ok_or_else(|| unknown(tool));
        accept.tools.iter().map(find).collect::<Result<_, _>>()?
    };
    let mut done = Vec::new();
    let mut blocked = 0_usize;
    for report in &chosen {
        let Some(pin) = report["proposed"].as_str() else { continue };
        if accept.pin.as_deref().is_some_and(|wanted| wanted != pin) {
            let message =
                format!("{} now has the definition {pin}, not the one that you named", output::text(report, "/name"));
            return Err(Failure::new(Exit::Failed, message).advise("look at `countersign tools diff` again").into());
        }
        match accept_one(global, node, report, pin, &accept).await? {
            Asked::Accepted(event) => done.push(json!({"name": report["name"], "pin": pin, "receipt": event})),
            Asked::Declined => {}
            // One that can't be accepted is no reason to leave the others waiting.
            Asked::Blocked(failure) if chosen.len() > 1 => {
                blocked += 1;
                done.push(json!({"name": report["name"], "pin": pin, "blocked": failure.message}));
            }
            Asked::Blocked(failure) => return Err(failure.into()),
        }
    }
    if global.json {
        output::json(&done.into());
    } else {
        show_outcome(&done, blocked);
    }
    Ok(if blocked == 0 { Exit::Ok } else { Exit::Failed })
}

/// What became of a definition.
enum Asked {
    /// Accepted, with its event.
    Accepted(Value),
    /// The person said no.
    Declined,
    /// The node won't have it: grave findings that were not named, or policies that would no longer load.
    Blocked(Failure),
}

fn show_outcome(done: &[Value], blocked: usize) {
    if done.is_empty() {
        output::line("Nothing was accepted: no definition waits for review.");
    }
    if blocked == 0 {
        return;
    }
    output::line(format!("{} accepted, {blocked} blocked:", done.len() - blocked));
    for entry in done.iter().filter(|entry| entry["blocked"].is_string()) {
        let (name, why) = (output::text(entry, "/name"), output::text(entry, "/blocked"));
        output::line(format!("  {}  {why}", output::paint(Style::Bad, &name)));
    }
}

/// Problems that are about one definition: grave findings, policies that would not load with it, another proposal by now.
const BLOCKING: [&str; 3] = ["tool-quarantined", "policy-error", "not-found"];

/// Shows, asks where there is somebody to ask, and accepts exactly the definition that was shown.
async fn accept_one(global: &Global, node: &Node, report: &Value, pin: &str, accept: &Accept) -> anyhow::Result<Asked> {
    let name = report["name"].as_str().unwrap_or_default();
    let path = format!("/admin/tools/{}", escaped(name));
    if !global.json {
        output::line(format!("{}  {}  {pin}", output::paint(Style::Head, &output::visible(name)), state(report)));
        show_diff(&node.get(&format!("{path}/diff")).await?);
        for finding in report["findings"].as_array().into_iter().flatten() {
            output::line(format!("  {} {}", output::paint(Style::Warn, "finding:"), output::text(finding, "")));
        }
        for finding in report["scan"].as_array().into_iter().flatten() {
            let words = |key: &str| output::visible(finding[key].as_str().unwrap_or_default());
            let Some(severity) = finding["severity"].as_str().and_then(|s| s.parse().ok()) else { continue };
            let (rule, message, excerpt) = (words("rule"), words("message"), words("excerpt"));
            output::line(format!("  {} {rule}: {message}: {excerpt}", scan::severity(severity)));
        }
        if output::can_ask() && !accept.yes && !output::ask("Accept exactly this definition?") {
            return Ok(Asked::Declined);
        }
    }
    let body = json!({ "pin": pin, "despite": accept.despite });
    let reply = node.send("POST", &format!("{path}/accept"), &[], Some(&body)).await?;
    if BLOCKING.contains(&reply.problem().as_str()) {
        let failure = reply.failure();
        if !global.json {
            output::line(format!("{}  {}\n", output::paint(Style::Bad, "blocked"), output::visible(&failure.message)));
        }
        return Ok(Asked::Blocked(failure));
    }
    let event = reply.into_json()?["receipt"].clone();
    if !global.json {
        output::line(format!("{}  receipt {}\n", output::paint(Style::Good, "accepted"), output::text(&event, "")));
    }
    Ok(Asked::Accepted(event))
}

/// The node's readable diff, lines coloured by their first character.
fn show_diff(diff: &Value) {
    let text = diff["text"].as_str().unwrap_or("(nothing waits for review)");
    for line in output::visible(text).lines() {
        let style = match line.as_bytes().first() {
            Some(b'+') => Some(Style::Good),
            Some(b'-') => Some(Style::Bad),
            _ => None,
        };
        output::line(format!("  {}", style.map_or_else(|| line.to_owned(), |style| output::paint(style, line))));
    }
}
