//! MCP in both eras, and the stdio proxy in front of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::support::{Reply, World};

const LEGACY: &[(&str, &str)] =
    &[("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-11-25")];

fn message(method: &str, params: Value) -> String {
    json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params }).to_string()
}

fn call(name: &str, arguments: Value) -> String {
    message("tools/call", json!({ "name": name, "arguments": arguments }))
}

fn campaign(budget: u64) -> Value {
    json!({ "name": "LaunchX", "budget": budget, "startDate": "2025-10-10" })
}

async fn post(world: &World, path: &str, token: &str, body: &str) -> Reply {
    world.send("POST", path, token, LEGACY, Some(body)).await
}

async fn modern(world: &World, token: &str, method: &str, mut params: Value) -> Reply {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let name = params["name"].as_str().unwrap_or("").to_owned();
    let mut headers = vec![
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", method),
    ];
    if !name.is_empty() {
        headers.push(("mcp-name", &name));
    }
    world.send("POST", "/mcp", token, &headers, Some(&message(method, params))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_client_shakes_hands_lists_and_calls() {
    let world = World::start().await;
    let agent = world.agent("bot");
    let hello = post(&world, "/mcp", &agent, &message("initialize", json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } }))).await;
    assert_eq!(hello.json()["result"]["protocolVersion"], "2025-06-18");
    assert!(hello.header("mcp-session-id").is_some_and(|id| id.len() > 40), "{hello:?}");
    let initialized = post(&world, "/mcp", &agent, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    assert_eq!((initialized.status, initialized.body.len()), (202, 0));
    assert_eq!(post(&world, "/mcp", &agent, &message("ping", json!({}))).await.json()["result"], json!({}));
    for method in ["GET", "DELETE"] {
        assert_eq!(world.send(method, "/mcp", &agent, LEGACY, None).await.status, 405);
    }

    let tools = post(&world, "/mcp", &agent, &message("tools/list", json!({}))).await.json();
    let names = |value: &Value| -> Vec<String> {
        value["result"]["tools"]
            .as_array()
            .expect("tools")
            .iter()
            .map(|t| t["name"].as_str().expect("name").to_owned())
            .collect()
    };
    assert_eq!(
        names(&tools),
        ["ads_createCampaign", "ads_deleteCampaign", "ads_getCampaign", "ads_listCampaigns", "await_approval"]
    );
    assert_eq!(tools["result"]["tools"][0]["_meta"]["dev.countersign/effect"], "write");
    let own = post(&world, "/mcp/ads", &agent, &message("tools/list", json!({}))).await.json();
    assert_eq!(names(&own)[0], "createCampaign");
    assert_eq!(post(&world, "/mcp/other", &agent, &message("ping", json!({}))).await.status, 404);

    let done = post(&world, "/mcp", &agent, &call("ads_createCampaign", campaign(10))).await.json();
    assert_eq!(done["id"], 7);
    assert_ne!(done["result"]["isError"], true, "{done}");
    let receipt = done["result"]["_meta"]["dev.countersign/receipt"].as_str().expect("a receipt").to_owned();
    assert_eq!(world.get(&format!("/receipts/{receipt}"), &agent).await.status, 200);
    let same = post(&world, "/mcp/ads", &agent, &call("createCampaign", campaign(11))).await.json();
    assert_ne!(same["result"]["isError"], true, "{same}");

    let denied = post(&world, "/mcp", &agent, &call("ads_createCampaign", campaign(60_000))).await.json();
    assert_eq!(denied["result"]["isError"], true);
    assert!(
        denied["result"]["content"][0]["text"].as_str().expect("text").starts_with("Refused (policy-denied): "),
        "{denied}"
    );
    assert!(denied["result"]["_meta"]["dev.countersign/problem"]["event"].is_string());
    let unknown = post(&world, "/mcp", &agent, &call("nothing", json!({}))).await.json();
    assert_eq!(unknown["error"]["code"], -32602);
    let batch = world
        .send(
            "POST",
            "/mcp",
            &agent,
            &[],
            Some(&format!("[{},{}]", message("ping", json!({})), message("nope", json!({})))),
        )
        .await;
    assert_eq!((batch.status, batch.json()[1]["error"]["code"].as_i64()), (200, Some(-32601)), "{batch:?}");
    assert_eq!(post(&world, "/mcp", &agent, "[]").await.status, 400, "batches ended with 2025-03-26");
    assert_eq!(post(&world, "/mcp", &agent, "{").await.json()["error"]["code"], -32700);
    assert_eq!(post(&world, "/mcp", "", &message("ping", json!({}))).await.problem(), "unauthenticated");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_needs_no_handshake_and_its_headers_must_agree() {
    let world = World::start().await;
    let agent = world.agent("bot");
    let discovered = modern(&world, &agent, "server/discover", json!({})).await.json();
    let result = &discovered["result"];
    assert_eq!(
        (result["resultType"].as_str(), result["supportedVersions"][0].as_str()),
        (Some("complete"), Some("2026-07-28"))
    );
    let list = modern(&world, &agent, "tools/list", json!({})).await.json();
    assert_eq!(list["result"]["cacheScope"], "private");
    assert!(
        list["result"]["ttlMs"].is_u64() && list["result"]["tools"].as_array().is_some_and(|t| t.len() == 5),
        "{list}"
    );
    let done =
        modern(&world, &agent, "tools/call", json!({ "name": "ads_listCampaigns", "arguments": {} })).await.json();
    assert_eq!(done["result"]["resultType"], "complete", "{done}");
    assert_eq!(done["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "countersign");
    let ping = modern(&world, &agent, "ping", json!({})).await;
    assert_eq!((ping.status, ping.json()["error"]["code"].as_i64()), (404, Some(-32601)));
    let lying = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
    let params = json!({ "name": "ads_listCampaigns", "_meta": { "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} } });
    let lying = world.send("POST", "/mcp", &agent, &lying, Some(&message("tools/call", params))).await;
    assert_eq!((lying.status, lying.json()["error"]["code"].as_i64()), (400, Some(-32020)));
    let future = world
        .send("POST", "/mcp", &agent, &[("mcp-protocol-version", "2099-01-01")], Some(&message("ping", json!({}))))
        .await;
    assert_eq!((future.status, future.json()["error"]["code"].as_i64()), (400, Some(-32022)));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_comes_in_time_is_waited_for_and_a_late_one_is_fetched() {
    let world = World::start_with("[approval]\nwait_seconds = 8\n").await;
    let (agent, tess) = (world.agent("bot"), world.person("tess", &["treasurer"]));
    let approve = async |budget: u64, after: u64| {
        tokio::time::sleep(Duration::from_secs(after)).await;
        let open = world.get("/approvals?status=pending", &tess).await.json();
        let request = open
            .as_array()
            .expect("requests")
            .iter()
            .find(|r| r["arguments"]["budget"] == budget)
            .expect("asked")
            .clone();
        let path = format!("/approvals/{}", request["id"].as_str().expect("an id"));
        assert_eq!(world.post(&path, &tess, r#"{"decision":"approve"}"#).await.status, 200);
    };
    // In time, and late enough that the answer became a stream.
    let mut body: Value = serde_json::from_str(&call("ads_createCampaign", campaign(2000))).expect("JSON");
    body["params"]["_meta"]["progressToken"] = json!("p");
    let body = body.to_string();
    let (reply, ()) = tokio::join!(post(&world, "/mcp", &agent, &body), approve(2000, 6));
    assert_eq!(reply.header("content-type"), Some("text/event-stream"), "{reply:?}");
    let text = reply.text();
    assert!(text.contains("notifications/progress"), "{text}");
    let last = text.trim_end().rsplit("data: ").next().expect("an event");
    let done: Value = serde_json::from_str(last).expect("JSON");
    assert_ne!(done["result"]["isError"], true, "{done}");

    // Not in time: the answer says so, and await_approval executes it once.
    let last = post(&world, "/mcp", &agent, &call("ads_createCampaign", campaign(3000))).await.text();
    let pending: Value =
        serde_json::from_str(last.trim_end().rsplit("data: ").next().expect("an event")).expect("JSON");
    assert_eq!(pending["result"]["isError"], true);
    assert!(
        pending["result"]["content"][0]["text"]
            .as_str()
            .expect("text")
            .starts_with("NOT executed; awaiting approval until "),
        "{pending}"
    );
    let id = pending["result"]["_meta"]["dev.countersign/pending"]["request_id"].clone();
    approve(3000, 0).await;
    let first = post(&world, "/mcp", &agent, &call("await_approval", json!({ "request_id": id }))).await.json();
    let second = post(&world, "/mcp", &agent, &call("await_approval", json!({ "request_id": id }))).await.json();
    assert_ne!(first["result"]["isError"], true, "{first}");
    assert_eq!(
        first["result"]["_meta"]["dev.countersign/receipt"],
        second["result"]["_meta"]["dev.countersign/receipt"]
    );
    assert_eq!(second["result"]["_meta"]["dev.countersign/replayed"], true);
    let journal = std::fs::read_dir(world.path("ads")).expect("a journal").count();
    assert!(journal > 0);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stdio_speaks_both_eras_through_the_proxy() {
    let world = World::start().await;
    let agent = world.agent("bot");
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (read, write) = tokio::io::split(theirs);
    let url = format!("{}/mcp", world.node.url());
    let proxy = tokio::spawn(async move {
        countersign_server::serve_stdio(&url, Arc::new(move || Ok(agent.clone())), BufReader::new(read), write).await
    });
    let (read, mut write) = tokio::io::split(ours);
    let mut lines = BufReader::new(read).lines();
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let exchanges = [
        (
            message(
                "initialize",
                json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } }),
            ),
            "/result/protocolVersion",
            json!("2025-11-25"),
        ),
        (call("ads_listCampaigns", json!({})), "/id", json!(7)),
        (
            message("tools/call", json!({ "name": "ads_listCampaigns", "arguments": {}, "_meta": meta })),
            "/result/resultType",
            json!("complete"),
        ),
        (message("server/discover", json!({ "_meta": meta })), "/result/resultType", json!("complete")),
        ("{".to_owned(), "/error/code", json!(-32700)),
    ];
    for (line, pointer, expected) in exchanges {
        write.write_all(format!("{line}\n").as_bytes()).await.expect("sent");
        let answer = tokio::time::timeout(Duration::from_secs(20), lines.next_line())
            .await
            .expect("in time")
            .expect("readable")
            .expect("a line");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer.pointer(pointer), Some(&expected), "{line} → {answer}");
    }
    write.shutdown().await.expect("closed");
    proxy.await.expect("no panic").expect("ended in order");
    world.node.shutdown().await;
}
