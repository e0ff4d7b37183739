//! The agent's side: MCP over streamable HTTP (revision 2025-11-25), as plain JSON-RPC requests, because a demo that used a
//! library of ours would show less.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::client::{Node, Reply};

const REVISION: &str = "2025-11-25";
const HEADERS: [(&str, &str); 2] =
    [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", REVISION)];

/// An MCP client with one conversation.
pub struct Agent {
    node: Node,
    next_id: u64,
}

impl Agent {
    /// Shakes hands. Returns the agent and the name and version by which the node introduced itself.
    ///
    /// # Errors
    /// If the node does not speak the revision.
    pub async fn connect(node: Node) -> anyhow::Result<(Self, String)> {
        let mut agent = Self { node, next_id: 1 };
        let hello = json!({
            "protocolVersion": REVISION,
            "capabilities": {},
            "clientInfo": { "name": "campaign-bot", "version": "1.0.0" },
        });
        let answer = agent.request("initialize", hello).await?;
        ensure!(answer["protocolVersion"] == REVISION, "the node answered with another revision: {answer}");
        let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let accepted = agent.node.send("POST", "/mcp", &HEADERS, Some(&ready)).await?;
        ensure!(accepted.is_success(), "the node refused a notification: HTTP {}", accepted.status);
        let info = &answer["serverInfo"];
        let name = format!("{} {}", info["name"].as_str().unwrap_or("?"), info["version"].as_str().unwrap_or("?"));
        Ok((agent, name))
    }

    /// The names of the tools that the agent sees.
    ///
    /// # Errors
    /// If the node answers with an error.
    pub async fn tools(&mut self) -> anyhow::Result<Vec<String>> {
        let answer = self.request("tools/list", json!({})).await?;
        let tools = answer["tools"].as_array().context("tools/list without tools")?;
        Ok(tools.iter().filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect())
    }

    /// Calls a tool; a refusal is a result with `isError`.
    ///
    /// # Errors
    /// If the node answers with a JSON-RPC error.
    pub async fn call(&mut self, name: &str, arguments: Value) -> anyhow::Result<Value> {
        self.request("tools/call", json!({ "name": name, "arguments": arguments })).await
    }

    async fn request(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let reply = self.node.send("POST", "/mcp", &HEADERS, Some(&request)).await?;
        ensure!(reply.is_success(), "{method}: HTTP {}: {}", reply.status, String::from_utf8_lossy(&reply.body));
        let answer = answer_to(id, &reply).with_context(|| format!("{method}: no answer in the node's reply"))?;
        ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        Ok(answer["result"].clone())
    }
}

/// The answer with this id: the body itself, or one of the events of a stream.
fn answer_to(id: u64, reply: &Reply) -> Option<Value> {
    let is_stream = reply.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
    if !is_stream {
        return Some(reply.json()).filter(|answer| answer["id"] == id);
    }
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str::<Value>(data.trim()).ok()).find(|answer| answer["id"] == id)
}

/// The text of a tool result.
pub fn text(result: &Value) -> String {
    let blocks = result["content"].as_array().into_iter().flatten();
    blocks.filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
}

/// The receipt that a result names.
///
/// # Errors
/// If it names none.
pub fn receipt(result: &Value) -> anyhow::Result<String> {
    let found = result["_meta"]["dev.countersign/receipt"].as_str().map(str::to_owned);
    found.with_context(|| format!("no receipt in {}", result["_meta"]))
}
