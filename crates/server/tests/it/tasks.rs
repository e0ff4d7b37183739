//! Tasks of 2026-07-28: calls that wait for people, followed instead of waited for.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Reply, World};

/// A client that knows tasks.
pub fn knowing() -> Value {
    json!({"extensions": {"io.modelcontextprotocol/tasks": {}}})
}

pub async fn modern(world: &World, token: &str, method: &str, mut params: Value, capabilities: Value) -> Reply {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
    let name = params["name"].as_str().or(params["taskId"].as_str()).unwrap_or_default().to_owned();
    let headers = [
        ("accept", "application/json"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", method),
        ("mcp-name", &name),
    ];
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string();
    world.send("POST", "/mcp", token, &headers, Some(&body)).await
}

pub async fn create(world: &World, token: &str, budget: u64) -> Value {
    let arguments = json!({"name": "T", "budget": budget, "startDate": "2025-10-10"});
    let call = json!({"name": "ads_createCampaign", "arguments": arguments});
    modern(world, token, "tools/call", call, knowing()).await.json()["result"].clone()
}

pub async fn task(world: &World, token: &str, method: &str, id: &str) -> Value {
    modern(world, token, method, json!({"taskId": id}), knowing()).await.json()
}

/// Asks until the task has ended.
pub async fn ended(world: &World, token: &str, id: &str) -> Value {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let got = task(world, token, "tasks/get", id).await;
        let status = got["result"]["status"].as_str().unwrap_or_else(|| panic!("{got}")).to_owned();
        if !["working", "input_required"].contains(&status.as_str()) {
            return got["result"].clone();
        }
        assert!(Instant::now() < until, "{got}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn id_of(created: &Value) -> String {
    assert_eq!((&created["resultType"], &created["status"]), (&json!("task"), &json!("working")), "{created}");
    created["taskId"].as_str().expect("an id").to_owned()
}

fn request_of(created: &Value) -> &str {
    created["_meta"]["dev.countersign/pending"]["request_id"].as_str().expect("a request")
}

pub async fn answer(world: &World, token: &str, request: &str, decision: &str) -> Reply {
    world.post(&format!("/approvals/{request}"), token, &json!({ "decision": decision }).to_string()).await
}

async fn campaigns(world: &World, token: &str) -> usize {
    let list = world.post("/tools/ads:listCampaigns/invoke", token, "{}").await.json();
    let text = list["result"]["content"][0]["text"].as_str().unwrap_or("[]");
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {list}"));
    value.as_array().or(value["campaigns"].as_array()).unwrap_or_else(|| panic!("{list}")).len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_people_is_a_task() {
    let world = World::start_with("[approval]\nwait_seconds = 40\n").await;
    let (agent, other, tess) = (world.agent("bot"), world.agent("rob"), world.person("tess", &["treasurer"]));
    let discovered = modern(&world, &agent, "server/discover", json!({}), json!({})).await.json();
    assert_eq!(discovered["result"]["capabilities"]["extensions"], knowing()["extensions"]);
    let asked = Instant::now();
    let created = create(&world, &agent, 2_000).await;
    assert!(asked.elapsed() < Duration::from_secs(30), "it does not wait for people");
    let id = id_of(&created);
    assert!(created["ttlMs"].as_u64().is_some_and(|ttl| ttl > 15 * 60_000), "{created}");
    assert!(created["statusMessage"].as_str().is_some_and(|m| m.starts_with("NOT executed")), "{created}");
    let working = task(&world, &agent, "tasks/get", &id).await;
    let stands = (&working["result"]["resultType"], &working["result"]["status"], &working["result"]["taskId"]);
    assert_eq!(stands, (&json!("complete"), &json!("working"), &json!(id)), "{working}");
    // Nobody else's, and for nobody who did not declare it.
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        assert_eq!(task(&world, &other, method, &id).await["error"]["code"], -32602, "{method}");
        assert_eq!(task(&world, &agent, method, "no-such-task").await["error"]["code"], -32602, "{method}");
        let undeclared = modern(&world, &agent, method, json!({"taskId": id}), json!({})).await;
        assert_eq!((undeclared.status, &undeclared.json()["error"]["code"]), (400, &json!(-32021)), "{method}");
    }
    assert_eq!(campaigns(&world, &agent).await, 0);
    assert_eq!(answer(&world, &tess, request_of(&created), "approve").await.status, 200);
    let done = ended(&world, &agent, &id).await;
    assert_eq!(done["status"], "completed", "{done}");
    assert_eq!(
        (&done["result"]["resultType"], &done["result"]["isError"]),
        (&json!("complete"), &json!(false)),
        "{done}"
    );
    let receipt = done["result"]["_meta"]["dev.countersign/receipt"].as_str().expect("a receipt").to_owned();
    assert_eq!(world.get(&format!("/receipts/{receipt}"), &agent).await.status, 200);
    let again = ended(&world, &agent, &id).await;
    assert_eq!(again["result"]["_meta"]["dev.countersign/receipt"], receipt, "the recorded answer: {again}");
    assert_eq!(campaigns(&world, &agent).await, 1, "executed once");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_ends_as_people_or_its_caller_say() {
    let world = World::start().await;
    let (agent, tess) = (world.agent("bot"), world.person("tess", &["treasurer"]));
    let denied = create(&world, &agent, 3_000).await;
    assert_eq!(answer(&world, &tess, request_of(&denied), "deny").await.status, 200);
    let failed = ended(&world, &agent, &id_of(&denied)).await;
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!(4030)), "{failed}");
    assert!(failed["error"]["data"]["type"].as_str().is_some_and(|t| t.ends_with("/approval-denied")), "{failed}");

    let withdrawn = create(&world, &agent, 4_000).await;
    let id = id_of(&withdrawn);
    let acknowledged = task(&world, &agent, "tasks/cancel", &id).await;
    assert_eq!(acknowledged["result"]["resultType"], "complete", "{acknowledged}");
    assert_eq!(ended(&world, &agent, &id).await["status"], "cancelled");
    let open = world.get("/approvals?status=withdrawn", &tess).await.json();
    assert_eq!(open[0]["id"], request_of(&withdrawn), "{open}");
    let late = answer(&world, &tess, request_of(&withdrawn), "approve").await;
    assert_eq!(late.problem(), "not-open");
    let twice = task(&world, &agent, "tasks/cancel", &id).await;
    assert_eq!(twice["result"]["resultType"], "complete", "{twice}");
    // What was withdrawn can be asked anew.
    let anew = create(&world, &agent, 4_000).await;
    assert_ne!(request_of(&anew), request_of(&withdrawn));
    assert_eq!(campaigns(&world, &agent).await, 0);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_survives_its_node() {
    let world = World::start().await;
    let (agent, tess) = (world.agent("bot"), world.person("tess", &["treasurer"]));
    let created = create(&world, &agent, 2_000).await;
    let world = world.restart().await;
    assert_eq!(task(&world, &agent, "tasks/get", &id_of(&created)).await["result"]["status"], "working");
    assert_eq!(answer(&world, &tess, request_of(&created), "approve").await.status, 200);
    let world = world.restart().await;
    assert_eq!(ended(&world, &agent, &id_of(&created)).await["status"], "completed");
    world.node.shutdown().await;
}
