//! The upstream side as a client of its own, for the client scenarios of the MCP conformance suite: lists everything that the
//! server at the URL offers and uses each of it once. The suite names the revision in the environment, and for some scenarios the
//! calls to make.
//!
//! `conformance_client URL`

use std::time::{Duration, Instant};

use async_trait::async_trait;
use countersign_catalog::Manifest;
use countersign_connect::McpUpstream;
use countersign_domain::Principal;
use countersign_egress::{Egress, EgressConfig};
use countersign_gate::permit::test_permit;
use countersign_gate::upstream::{Answers, Ask, AskKind, Exchange, Upstream};
use countersign_proof::digest::Digest;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// A caller that answers everything: forms with their defaults or something that fits.
struct Willing;

#[async_trait]
impl Exchange for Willing {
    async fn ask(&self, asks: Vec<Ask>) -> Answers {
        let answer = |ask: Ask| {
            let params: Value = serde_json::from_str(ask.params.get()).unwrap_or_default();
            let given = match ask.kind {
                AskKind::ElicitForm => {
                    json!({ "action": "accept", "content": fitting(&params["requestedSchema"], false) })
                }
                AskKind::ElicitUrl => json!({ "action": "accept" }),
                AskKind::Sample => json!({
                    "role": "assistant", "content": { "type": "text", "text": "yes" }, "model": "none", "stopReason": "endTurn",
                }),
                AskKind::ListRoots => json!({ "roots": [] }),
            };
            RawValue::from_string(given.to_string()).map_err(|_| countersign_gate::upstream::AskError::Gone)
        };
        asks.into_iter().map(answer).collect()
    }
    fn answers(&self, _: AskKind) -> bool {
        true
    }
}

/// A value for each property that has to be there, or for each that there is: its default, or something of its type.
fn fitting(schema: &Value, only_required: bool) -> Value {
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let required = |name: &str| schema["required"].as_array().is_some_and(|r| r.iter().any(|n| n == name));
    let chosen = properties.iter().filter(|(name, _)| !only_required || required(name));
    let value = |property: &Value| match (property.get("default"), property["type"].as_str()) {
        (Some(default), _) => default.clone(),
        (None, Some("integer" | "number")) => json!(2),
        (None, Some("boolean")) => json!(true),
        (None, Some("array")) => json!([]),
        (None, Some("object")) => json!({}),
        (None, _) => property["enum"][0].as_str().map_or_else(|| json!("text"), |first| json!(first)),
    };
    Value::Object(chosen.map(|(name, property)| (name.clone(), value(property))).collect::<Map<_, _>>())
}

/// The calls that the suite asks for, or one of each tool.
fn calls(tools: &[Value]) -> Vec<(String, Value)> {
    let context = std::env::var("MCP_CONFORMANCE_CONTEXT").unwrap_or_default();
    let context: Value = serde_json::from_str(&context).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match context["toolCalls"].as_array() {
        Some(calls) => calls.iter().map(|call| (text(&call["name"]), call["arguments"].clone())).collect(),
        None => tools.iter().map(|tool| (text(&tool["name"]), fitting(&tool["inputSchema"], true))).collect(),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().next_back().ok_or("name a URL")?;
    let revision = std::env::var("MCP_CONFORMANCE_PROTOCOL_VERSION").unwrap_or_else(|_| "auto".to_owned());
    let yaml =
        format!("version: 1\nupstream: suite\ntransport: {{ type: http, url: {url:?}, protocol: {revision:?} }}\n");
    let manifest = Manifest::parse(&yaml, "suite")?;
    let upstream = McpUpstream::new(&manifest, &Egress::new(EgressConfig::default()))?;
    let found = upstream.discover().await?;
    let values = |list: &[Box<RawValue>]| -> Vec<Value> {
        list.iter().filter_map(|raw| serde_json::from_str(raw.get()).ok()).collect()
    };
    let mut uses: Vec<(String, Value)> = calls(&values(&found.tools));
    for prompt in values(&found.prompts) {
        let arguments = prompt["arguments"].as_array().cloned().unwrap_or_default();
        let arguments = arguments.iter().filter_map(|a| Some((a["name"].as_str()?.to_owned(), json!("text"))));
        let name = prompt["name"].as_str().unwrap_or_default();
        uses.push((format!("prompts/{name}"), Value::Object(arguments.collect())));
    }
    for resource in values(&found.resources) {
        uses.push(("resources/read".to_owned(), json!({ "uri": resource["uri"] })));
    }
    for (operation, arguments) in uses {
        let tool = format!("suite:{operation}").parse()?;
        let arguments = RawValue::from_string(arguments.to_string())?;
        let permit =
            test_permit(Principal::node(), tool, arguments, Digest::of(b""), Instant::now() + Duration::from_secs(15));
        // Some servers refuse on purpose; what the client did is what the suite looks at.
        match upstream.dispatch(permit, &Willing).await {
            Ok(result) => println!("{operation}: {}", result.raw.get()),
            Err(error) => println!("{operation}: {error}"),
        }
    }
    upstream.shutdown().await;
    Ok(())
}
