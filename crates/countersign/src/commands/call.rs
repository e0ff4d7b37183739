//! `countersign call`: use a tool over HTTP, and wait for people if asked to.

use std::io::Read as _;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use crate::cli::Global;
use crate::client::{Node, Reply, escaped};
use crate::exit::{Exit, Failure};
use crate::output::{self, Style};

/// How often a waiting call looks whether people have answered.
const POLL: Duration = Duration::from_millis(700);

/// Options of `call`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  countersign call ads:listCampaigns
  countersign call ads:createCampaign name=LaunchX budget=1200 startDate=2025-10-10 --wait
  countersign call ads:createCampaign --json-args '{\"name\":\"LaunchX\",\"budget\":1200}' --idempotency-key order-17
  echo '{\"name\":\"LaunchX\"}' | countersign call ads:createCampaign --json-args -

`key=value` is read by the type that the tool's schema names; `key:=json` is always JSON.")]
pub struct Args {
    /// The tool, as `upstream:tool`
    tool: String,
    /// Arguments
    #[arg(value_name = "KEY=VALUE|KEY:=JSON")]
    arguments: Vec<String>,
    /// All arguments as one JSON object; `-` reads standard input
    #[arg(long, value_name = "JSON", conflicts_with = "arguments")]
    json_args: Option<String>,
    /// Makes a repeated call return the first one's answer
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// If people have to agree, wait for them and then execute
    #[arg(long)]
    wait: bool,
}

/// Calls the tool.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn run(global: &Global, args: Args) -> anyhow::Result<Exit> {
    let node = Node::find(global)?;
    let arguments = arguments(&node, &args).await?;
    let key = args.idempotency_key.as_deref();
    let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
    let path = format!("/tools/{}/invoke", escaped(&args.tool));
    let mut reply = node.send("POST", &path, &headers, Some(&arguments)).await?;
    if reply.status == 202 && args.wait {
        reply = redeem_when_met(&node, &args.tool, reply, global.json).await?;
    }
    show(global, reply)
}

fn show(global: &Global, reply: Reply) -> anyhow::Result<Exit> {
    let replayed = reply.header("idempotent-replayed") == Some("true");
    let pending = reply.status == 202;
    if !reply.is_success() && global.json {
        output::json(&reply.json());
        return Err(reply.failure().into());
    }
    let value = reply.into_json()?;
    let exit = match (pending, value["status"].as_str()) {
        (true, _) => Exit::Pending,
        (false, Some("tool_error")) => Exit::ToolError,
        (false, _) => Exit::Ok,
    };
    if global.json {
        output::json(&value);
    } else if pending {
        show_pending(&value);
        output::line("Type the same with --wait to be executed as soon as they do.");
    } else {
        show_result(&value);
        let note = if replayed { "  (the recorded answer of the first call)" } else { "" };
        output::line(format!("{} {}{note}", output::paint(Style::Dim, "receipt"), output::text(&value, "/receipt")));
    }
    Ok(exit)
}

/// The text of an MCP tool result; other content as JSON.
fn show_result(value: &Value) {
    let blocks = value["result"]["content"].as_array().cloned().unwrap_or_default();
    for block in &blocks {
        match block["text"].as_str() {
            Some(text) => output::line(output::visible(text)),
            None => output::json(block),
        }
    }
    if blocks.is_empty() {
        output::json(&value["result"]);
    }
}

/// A call that people have to agree to: what is owed, why, and until when.
pub fn show_pending(value: &Value) {
    output::line(output::paint(Style::Warn, "NOT executed: people have to agree first"));
    output::line(format!("  request  {}", output::text(value, "/request_id")));
    output::line(format!("  owed     {}", super::approvals::owed(&value["owed"])));
    for reason in value["owed"]["reasons"].as_array().into_iter().flatten() {
        output::line(format!("  because  {}", output::text(reason, "")));
    }
    if let Some(expires) = value["expires_at"].as_i64() {
        output::line(format!("  until    {} ({})", output::utc(expires), output::span(expires - output::now_ms())));
    }
    output::line(format!("  receipt  {}", output::text(value, "/receipt")));
}

/// Looks at the request until nothing is owed any more or it is closed, then redeems it.
async fn redeem_when_met(node: &Node, tool: &str, pending: Reply, quiet: bool) -> anyhow::Result<Reply> {
    let first = pending.into_json()?;
    let id = first["request_id"].as_str().context("the node named no request")?.to_owned();
    if !quiet {
        eprintln!("waiting for {} (request {id}) …", super::approvals::owed(&first["owed"]));
    }
    loop {
        let view = node.get(&format!("/approvals/{}", escaped(&id))).await?;
        if view["status"] != "pending" || is_met(&view) {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    let body = json!({ "action_token": first["action_token"] });
    node.send("POST", &format!("/tools/{}/confirm", escaped(tool)), &[], Some(&body)).await
}

/// Whether the answers given cover what is owed.
fn is_met(view: &Value) -> bool {
    let given = |kind: &str| {
        let answers = view["answers"].as_array().into_iter().flatten();
        answers.filter(|answer| answer["kind"] == kind && answer["granted"] == true).count() as u64
    };
    (view["owed"]["confirm"] != true || given("confirm") > 0)
        && given("approval") >= view["owed"]["approvals"].as_u64().unwrap_or(0)
}

async fn arguments(node: &Node, args: &Args) -> anyhow::Result<Value> {
    if let Some(text) = &args.json_args {
        let mut text = text.clone();
        if text == "-" {
            text.clear();
            std::io::stdin().take(16 << 20).read_to_string(&mut text).context("reading standard input")?;
        }
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| Failure::new(Exit::Usage, format!("--json-args is not JSON: {error}")))?;
        return Ok(value);
    }
    let mut schema = Value::Null;
    if args.arguments.iter().any(|pair| !pair.contains(":=")) {
        schema = input_schema(node, &args.tool).await?;
    }
    let pairs = args.arguments.iter().map(|pair| argument(pair, &schema));
    Ok(Value::Object(pairs.collect::<Result<Map<_, _>, _>>()?))
}

/// The input schema of a tool that the caller may see, or `null`.
///
/// # Errors
/// If the node refuses or does not answer.
pub async fn input_schema(node: &Node, tool: &str) -> anyhow::Result<Value> {
    let catalog = node.get("/tool-catalog").await?;
    let found = catalog.as_array().into_iter().flatten().find(|entry| entry["name"] == tool);
    Ok(found.map_or(Value::Null, |entry| entry["input_schema"].clone()))
}

/// One `key=value` by the schema's type, or one `key:=json`.
pub fn argument(pair: &str, schema: &Value) -> Result<(String, Value), Failure> {
    let wrong = |why: &str| Failure::new(Exit::Usage, format!("argument {pair:?}: {why}"));
    let (key, text) = pair.split_once('=').ok_or_else(|| wrong("expected key=value or key:=json"))?;
    if let Some(key) = key.strip_suffix(':') {
        let value = serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
        return Ok((key.to_owned(), value));
    }
    let wanted = &schema["properties"][key]["type"];
    let is_text = wanted.is_null() || wanted == "string";
    // What does not parse stays text: the gate's refusal names the expected type better than we could.
    let value = if is_text { None } else { serde_json::from_str(text).ok() };
    Ok((key.to_owned(), value.unwrap_or_else(|| text.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_follow_the_schema() {
        let schema = json!({"properties": {"budget": {"type": "number"}, "name": {"type": "string"}}});
        for (pair, value) in [
            ("budget=1200", json!(1200)),
            ("budget=lots", json!("lots")),
            ("name=1200", json!("1200")),
            ("name=a=b", json!("a=b")),
            ("other=1", json!("1")),
            ("other:=[1]", json!([1])),
        ] {
            assert_eq!(argument(pair, &schema).expect(pair).1, value, "{pair}");
        }
        assert!(argument("budget", &schema).is_err());
        assert!(argument("x:=nope", &schema).is_err());
    }

    #[test]
    fn a_request_is_met_when_all_that_is_owed_was_given() {
        let view = |answers: Value| json!({"owed": {"confirm": true, "approvals": 1}, "answers": answers});
        let yes = |kind: &str| json!({"kind": kind, "granted": true});
        assert!(!is_met(&view(json!([yes("approval")]))));
        assert!(!is_met(&view(json!([yes("confirm"), {"kind": "approval", "granted": false}]))));
        assert!(is_met(&view(json!([yes("confirm"), yes("approval")]))));
    }
}
