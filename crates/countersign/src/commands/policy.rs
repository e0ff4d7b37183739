//! `countersign policy`: check, test and explain policies before they decide anything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use countersign_domain::{Operation, ToolRef, UpstreamName};
use countersign_policy::{Policies, PolicyEffect, PolicyProblem, SetKind, SourceFile, ToolDescription, cases};
use serde_json::{Map, Value, json};

use crate::cli::Global;
use crate::client::Node;
use crate::exit::{Exit, Failure};
use crate::local;
use crate::output::{self, Style};

/// What to do with policies.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  countersign policy check policies
  countersign policy test policies/cases.yaml
  countersign policy explain ads:createCampaign budget:=75000 --sub maya --act campaign-bot --role finance-write
  countersign policy explain --call 0199a1c2-77aa-7d31-9e0d-2f5ab1c90e12
  countersign policy replay --days 7 --set ./edited
  countersign policy schema > schema.cedarschema

The tools that policies are checked against are those that the node has accepted. Without a node or a data directory
(in CI), give them with --tools: the output of `countersign tools list --json`.")]
pub enum Command {
    /// Load a directory of policies as the node would: access/*.cedar and approval/*.cedar
    Check {
        /// The directory; by default the node's
        directory: Option<PathBuf>,
        /// Accepted tools, as `tools list --json` writes them
        #[arg(long, value_name = "FILE")]
        tools: Option<PathBuf>,
    },
    /// Run test cases (YAML) against policies
    Test {
        /// A list of cases
        cases: PathBuf,
        /// The directory of policies; by default the node's
        #[arg(long, value_name = "DIR")]
        policies: Option<PathBuf>,
        /// Accepted tools, as `tools list --json` writes them
        #[arg(long, value_name = "FILE")]
        tools: Option<PathBuf>,
    },
    /// Why the running node would decide as it would, or why it decided a past call as it did
    Explain(ExplainArgs),
    /// Decide the calls of the last days again by an edited set, and show what would have changed
    Replay(super::replay::Args),
    /// The Cedar schema that the accepted tools give
    Schema {
        /// Accepted tools, as `tools list --json` writes them
        #[arg(long, value_name = "FILE")]
        tools: Option<PathBuf>,
    },
    /// Make the running node read its policies again; a bad set leaves the old one in force
    Reload,
}

/// A call that nobody makes, or one that was made.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The tool, as `upstream:tool`
    #[arg(required_unless_present = "call")]
    tool: Option<String>,
    /// A past call: its id, the id of one of its events or receipts, or a receipt file
    #[arg(long, value_name = "ID|FILE", conflicts_with_all = ["tool", "arguments", "act", "roles", "scopes"])]
    call: Option<String>,
    /// Arguments
    #[arg(value_name = "KEY=VALUE|KEY:=JSON")]
    arguments: Vec<String>,
    /// The subject; with --act, the person behind the agent
    #[arg(long, default_value = "somebody")]
    sub: String,
    /// What the subject is
    #[arg(long, default_value = "person", value_parser = ["person", "agent", "service"])]
    kind: String,
    /// The agent that acts for the subject
    #[arg(long, value_name = "AGENT")]
    act: Option<String>,
    /// A role; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// A scope; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// The workspace
    #[arg(long, default_value = "default")]
    workspace: String,
}

/// Checks, tests or explains.
///
/// # Errors
/// If files cannot be read or the node does not answer.
pub async fn run(global: &Global, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Check { directory, tools } => {
            let directory = policies_dir(global, directory)?;
            let tools = accepted_tools(global, tools.as_deref()).await?;
            check(global, &directory, &tools)
        }
        Command::Test { cases, policies, tools } => {
            let directory = policies_dir(global, policies)?;
            let tools = accepted_tools(global, tools.as_deref()).await?;
            test(global, &cases, &directory, &tools)
        }
        Command::Explain(args) => explain(global, args).await,
        Command::Replay(args) => super::replay::replay(global, &args).await,
        Command::Schema { tools } => {
            let tools = accepted_tools(global, tools.as_deref()).await?;
            let schema = countersign_policy::CedarSchema::generate(&tools)?;
            output::line(schema.to_cedar_text().trim_end());
            Ok(Exit::Ok)
        }
        Command::Reload => {
            let reply = Node::find(global)?.post("/admin/policy/reload", &json!({})).await?;
            if global.json {
                output::json(&reply)
            } else {
                super::log::show_members(&reply)
            }
            Ok(if reply["status"] == "refused" { Exit::Invalid } else { Exit::Ok })
        }
    }
}

fn policies_dir(global: &Global, given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    given.map_or_else(|| Ok(local::config(global)?.policies), Ok)
}

/// The sources below `access/` and `approval/`, in the order of their names.
pub fn sources(directory: &Path) -> anyhow::Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for (folder, kind) in [("access", SetKind::Access), ("approval", SetKind::Approval)] {
        let path = directory.join(folder);
        // As for the node: no approval policies is a choice.
        if kind == SetKind::Approval && !path.exists() {
            continue;
        }
        let entries = std::fs::read_dir(&path).with_context(|| format!("reading {}", path.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "cedar") {
                let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                files.push(SourceFile { path: format!("{folder}/{name}"), text, kind });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// How many policies there are, and what is wrong with them, against the accepted tools.
///
/// # Errors
/// If files cannot be read, or nobody can say which tools are accepted.
pub async fn problems(global: &Global, directory: &Path) -> anyhow::Result<(Count, Vec<String>)> {
    let tools = accepted_tools(global, None).await?;
    Ok(match Policies::load(&sources(directory)?, &tools) {
        Ok(policies) => (Count::of(&policies), Vec::new()),
        Err(problems) => (Count::default(), problems.iter().map(PolicyProblem::to_string).collect()),
    })
}

/// How many policies there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    /// In both sets.
    pub all: usize,
    /// Those that can allow a call.
    pub permits: usize,
}

impl Count {
    fn of(policies: &Policies) -> Self {
        let permits = policies
            .policies()
            .filter(|(kind, policy)| *kind == SetKind::Access && policy.effect == PolicyEffect::Permit)
            .count();
        Self { all: policies.policies().count(), permits }
    }
}

async fn accepted_tools(global: &Global, file: Option<&Path>) -> anyhow::Result<Vec<ToolDescription>> {
    let reports = match file {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?
        }
        None => match Node::find_running(global)? {
            Some(node) => node.get("/admin/tools").await?,
            None => local::tools(global)?,
        },
    };
    let accepted = reports.as_array().into_iter().flatten().filter(|report| report["accepted"].is_string());
    let mut tools: Vec<ToolDescription> = accepted.map(description).collect::<anyhow::Result<_>>()?;
    // Resources are reviewed, but no actions by themselves.
    tools.retain(|tool| !matches!(Operation::of(&tool.tool.tool), Operation::Resource(_)));
    let upstreams = |wanted: fn(&Value) -> bool| -> BTreeSet<UpstreamName> {
        let reports = reports.as_array().into_iter().flatten().filter(|report| wanted(report));
        reports
            .filter_map(|report| report["name"].as_str()?.parse::<ToolRef>().ok())
            .map(|tool| tool.upstream)
            .collect()
    };
    tools.extend(upstreams(|report| report["protocol"] != "other").iter().flat_map(ToolDescription::fixed));
    tools.extend(upstreams(|report| report["accounts"] == true).iter().map(ToolDescription::connect));
    Ok(tools)
}

fn description(report: &Value) -> anyhow::Result<ToolDescription> {
    let name = report["name"].as_str().unwrap_or_default();
    let effect = serde_json::from_value(report["effect"].clone()).with_context(|| format!("the effect of {name}"))?;
    let input_schema = report.get("input_schema").filter(|schema| schema.is_object());
    let input_schema = input_schema
        .or_else(|| report.pointer("/definition/inputSchema"))
        .cloned()
        .unwrap_or_else(|| json!({"type": "object"}));
    Ok(ToolDescription { tool: name.parse()?, effect, input_schema })
}

fn check(global: &Global, directory: &Path, tools: &[ToolDescription]) -> anyhow::Result<Exit> {
    let loaded = Policies::load(&sources(directory)?, tools);
    let problems = match &loaded {
        Ok(policies) => policies.warnings(),
        Err(problems) => problems,
    };
    if global.json {
        let version = loaded.as_ref().ok().map(Policies::version);
        output::json(&json!({ "ok": loaded.is_ok(), "version": version, "tools": tools.len(), "problems": problems }));
    } else {
        problems.iter().for_each(show_problem);
        match &loaded {
            Ok(policies) => output::line(format!(
                "{} {} policies against {} accepted tools  {}",
                output::paint(Style::Good, "ok:"),
                policies.policies().count(),
                tools.len(),
                policies.version()
            )),
            Err(_) => output::line(output::paint(Style::Bad, "these policies would be refused")),
        }
    }
    Ok(if loaded.is_ok() { Exit::Ok } else { Exit::Invalid })
}

fn show_problem(problem: &PolicyProblem) {
    output::line(output::visible(&format!("{problem:#}")));
}

fn test(global: &Global, cases: &Path, directory: &Path, tools: &[ToolDescription]) -> anyhow::Result<Exit> {
    let text = std::fs::read_to_string(cases).with_context(|| format!("reading {}", cases.display()))?;
    let cases: Vec<cases::Case> = serde_saphyr::from_str(&text)
        .map_err(|error| Failure::new(Exit::Invalid, format!("{}: {error}", cases.display())))?;
    let policies = match Policies::load(&sources(directory)?, tools) {
        Ok(policies) => policies,
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("{}", output::visible(&format!("{problem:#}"))));
            return Err(Failure::new(Exit::Invalid, "these policies would be refused").into());
        }
    };
    let results = cases::run(&policies, &cases);
    let failed = results.iter().filter(|result| !result.passed).count();
    if global.json {
        output::json(&serde_json::to_value(&results)?);
    } else {
        for result in &results {
            let mark =
                if result.passed { output::paint(Style::Good, "ok  ") } else { output::paint(Style::Bad, "FAIL") };
            output::line(format!("{mark} {}", output::visible(&result.name)));
            let details = result.differences.iter().chain(&result.explanation);
            details
                .flat_map(|text| text.lines())
                .for_each(|line| output::line(format!("       {}", output::visible(line))));
        }
        output::line(format!("{} of {} cases as expected", results.len() - failed, results.len()));
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::Invalid })
}

async fn explain(global: &Global, args: ExplainArgs) -> anyhow::Result<Exit> {
    let tool = match (args.call, args.tool) {
        (Some(call), _) => return super::replay::explain_past(global, &call).await,
        (None, Some(tool)) => tool,
        (None, None) => return Err(Failure::new(Exit::Usage, "name a tool, or a past call with --call").into()),
    };
    let node = Node::find(global)?;
    let schema = super::call::input_schema(&node, &tool).await?;
    let arguments = args.arguments.iter().map(|pair| super::call::argument(pair, &schema));
    let arguments = Value::Object(arguments.collect::<Result<Map<_, _>, _>>()?);
    let (id, on_behalf_of, kind) = match args.act {
        Some(agent) => (agent, Some(args.sub), "agent".to_owned()),
        None => (args.sub, None, args.kind),
    };
    let body = json!({
        "principal": {
            "kind": kind, "id": id, "on_behalf_of": on_behalf_of, "workspace": args.workspace,
            "roles": args.roles, "scopes": args.scopes,
        },
        "tool": tool,
        "arguments": arguments,
    });
    let reply = node.post("/admin/policy/explain", &body).await?;
    match reply["text"].as_str() {
        Some(text) if !global.json => output::line(output::visible(text.trim_end())),
        _ => output::json(&reply),
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_accepted_tools_count() {
        let report = json!({
            "name": "ads:createCampaign", "effect": "write", "accepted": "sha256:00",
            "definition": {"name": "createCampaign", "inputSchema": {"type": "object", "properties": {}}}
        });
        let tool = description(&report).expect("a description");
        assert_eq!(tool.tool.to_string(), "ads:createCampaign");
        assert_eq!(tool.input_schema["type"], "object");
    }
}
