//! Two nodes on one Postgres database: any of them serves any request, and each soon knows what the other changed.

use std::path::Path;
use std::time::{Duration, Instant};

use countersign_server::{Config, Node, StartError};
use serde_json::json;

use crate::support::{Reply, World};
use crate::tasks;

async fn two() -> (World, World, tempfile::TempDir) {
    let url = tokio::task::spawn_blocking(|| countersign_testkit::postgres::fresh_schema().expect("a database"));
    let (url, keys) = (url.await.expect("ran"), tempfile::tempdir().expect("a directory"));
    let settings = |keys: &Path, join: bool| {
        format!(
            "database_url = {url:?}\nkeys_dir = {:?}\njoin = {join}\n[approval]\nwait_seconds = 40\n",
            keys.display().to_string()
        )
    };
    let first = World::start_with(&settings(keys.path(), false)).await;
    let second = World::start_with(&settings(keys.path(), true)).await;
    (first, second, keys)
}

/// Asks until it is so, and says how long that took.
async fn until(mut so: impl AsyncFnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !so().await {
        assert!(start.elapsed() < Duration::from_secs(20), "it never is");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

async fn stop(first: World, second: World) {
    first.node.shutdown().await;
    second.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_did_or_decided_holds_on_the_other() {
    let (first, second, _keys) = two().await;
    let (agent, olga, tess) =
        (first.agent("bot"), first.person("olga", &["operator"]), first.person("tess", &["treasurer"]));
    // One log, one set of accepted tools, one idempotency key.
    assert_eq!(first.get("/logs", "").await.json()[0]["vkey"], second.get("/logs", "").await.json()[0]["vkey"]);
    let key = [("idempotency-key", "k1")];
    let done = first.create(&agent, 500, &key).await;
    assert_eq!(done.status, 200, "{done:?}");
    let again = second.create(&agent, 500, &key).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{again:?}");
    assert_eq!(again.json()["receipt"], done.json()["receipt"]);
    // A request of one node is answered and redeemed on the other.
    let pending = first.create(&agent, 1200, &[]).await;
    let id = pending.json()["request_id"].as_str().expect("an id").to_owned();
    let approved = second.post(&format!("/approvals/{id}"), &tess, r#"{"decision":"approve"}"#).await;
    assert_eq!(approved.status, 200, "{approved:?}");
    let token = json!({ "action_token": pending.json()["action_token"] }).to_string();
    let redeemed = second.post("/tools/ads:createCampaign/confirm", &agent, &token).await;
    assert_eq!(redeemed.status, 200, "{redeemed:?}");
    let twice = first.post("/tools/ads:createCampaign/confirm", &agent, &token).await;
    assert_eq!(twice.problem(), "already-redeemed");
    // A freeze holds everywhere at once for what is recorded before it is dispatched, and soon for reads.
    let freeze = |path: &'static str| {
        let body = json!({ "kind": "upstream", "name": "ads", "reason": "drill" }).to_string();
        let (first, olga) = (&first, &olga);
        async move { assert_eq!(first.post(path, olga, &body).await.status, 200) }
    };
    let read = async || -> Reply { second.post("/tools/ads:listCampaigns/invoke", &agent, "{}").await };
    assert_eq!(read().await.status, 200);
    freeze("/admin/freeze").await;
    assert_eq!(second.create(&agent, 500, &[]).await.problem(), "frozen");
    let took = until(async || read().await.status != 200).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(read().await.problem(), "frozen");
    freeze("/admin/unfreeze").await;
    until(async || read().await.status == 200).await;
    stop(first, second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_one_node_is_followed_on_the_other() {
    let (first, second, _keys) = two().await;
    let (agent, tess) = (first.agent("bot"), first.person("tess", &["treasurer"]));
    let created = tasks::create(&first, &agent, 2_000).await;
    let id = created["taskId"].as_str().expect("a task").to_owned();
    assert_eq!(tasks::task(&second, &agent, "tasks/get", &id).await["result"]["status"], "working");
    let request = created["_meta"]["dev.countersign/pending"]["request_id"].as_str().expect("a request");
    assert_eq!(tasks::answer(&first, &tess, request, "approve").await.status, 200);
    assert_eq!(tasks::ended(&second, &agent, &id).await["status"], "completed");
    stop(first, second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_on_one_node_wakes_who_waits_on_the_other() {
    let (first, second, _keys) = two().await;
    let (agent, tess) = (first.agent("bot"), first.person("tess", &["treasurer"]));
    let params = json!({ "name": "ads_createCampaign", "arguments": { "name": "L", "budget": 2000, "startDate": "2025-10-10" } });
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params }).to_string();
    let headers = [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-11-25")];
    let waiting = second.send("POST", "/mcp", &agent, &headers, Some(&body));
    let approving = async {
        let mut open = json!([]);
        until(async || {
            open = first.get("/approvals?status=pending", &tess).await.json();
            open[0]["id"].is_string()
        })
        .await;
        let path = format!("/approvals/{}", open[0]["id"].as_str().expect("an id"));
        assert_eq!(first.post(&path, &tess, r#"{"decision":"approve"}"#).await.status, 200);
        Instant::now()
    };
    let (reply, approved) = tokio::join!(waiting, approving);
    assert!(approved.elapsed() < Duration::from_secs(20), "it waited for its own time to be over");
    assert!(reply.text().contains("dev.countersign/receipt"), "{reply:?}");
    assert!(!reply.text().contains("NOT executed"), "{reply:?}");
    stop(first, second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_one_node_began_goes_on_at_the_other() {
    let (first, second, _keys) = two().await;
    let agent = first.agent("bot");
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": { "elicitation": {} }, "clientInfo": { "name": "t", "version": "1" } } });
    let accept = ("accept", "application/json, text/event-stream");
    let begun = first.send("POST", "/mcp", &agent, &[accept], Some(&hello.to_string())).await;
    let id = begun.header("mcp-session-id").expect("a session").to_owned();
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {} }).to_string();
    let version = ("mcp-protocol-version", "2025-11-25");
    let ask = async |world: &World, token: &str, id: &str| {
        world.send("POST", "/mcp", token, &[accept, version, ("mcp-session-id", id)], Some(&list)).await.status
    };
    assert_eq!(ask(&second, &agent, &id).await, 200);
    assert_eq!(ask(&second, &second.agent("other"), &id).await, 404, "whoever else has the id");
    let forged = format!("{}A", &id[..id.len() - 1]);
    let forged = if forged == id { format!("{}B", &id[..id.len() - 1]) } else { forged };
    assert_eq!(ask(&second, &agent, &forged).await, 404, "the node did not make this one");
    stop(first, second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_write_is_under_way_on_one_node_is_not_executed_by_the_other() {
    let (first, second, _keys) = two().await;
    let agent = first.agent("bot");
    let key = [("idempotency-key", "same")];
    let (a, b) = tokio::join!(first.create(&agent, 500, &key), second.create(&agent, 500, &key));
    let done: Vec<_> = [&a, &b].into_iter().filter(|reply| reply.status == 200).collect();
    assert!(!done.is_empty(), "{a:?} {b:?}");
    for reply in [&a, &b] {
        assert!(reply.status == 200 || reply.status == 409, "{reply:?}");
    }
    // Whichever came second has the first one's answer, now or when it asks again.
    for world in [&first, &second] {
        let again = world.create(&agent, 500, &key).await;
        assert_eq!(again.header("idempotent-replayed"), Some("true"), "{again:?}");
        assert_eq!(again.json()["receipt"], done[0].json()["receipt"]);
    }
    let executed = |world: &World| std::fs::read_to_string(world.path("ads/campaigns.jsonl")).unwrap_or_default();
    assert_eq!(executed(&first).lines().count() + executed(&second).lines().count(), 1, "by one upstream, once");
    stop(first, second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_root_key_does_not_start() {
    let (first, second, keys) = two().await;
    let stranger = tempfile::tempdir().expect("a directory");
    for entry in std::fs::read_dir(keys.path()).expect("keys").flatten() {
        std::fs::copy(entry.path(), stranger.path().join(entry.file_name())).expect("copied");
    }
    let root = stranger.path().join("root.key");
    std::fs::remove_file(&root).expect("there");
    let mut config = second.config.clone();
    (config.keys_dir, config.data_dir) = (stranger.path().to_owned(), stranger.path().join("data"));
    config.head_file = stranger.path().join("head");
    let start = async |config: &Config| {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let refused = Node::start_on(config.clone(), listener).await.err().expect("refused");
        assert!(matches!(refused, StartError::Setup(_)), "{refused}");
        refused.to_string()
    };
    let missing = start(&config).await;
    assert!(missing.contains("root.key is missing"), "{missing}");
    // One of the right form, and not the one that wrapped what is stored.
    let other = tempfile::tempdir().expect("a directory");
    let lonely = World::start_with(&format!("keys_dir = {:?}\n", other.path().display().to_string())).await;
    lonely.node.shutdown().await;
    std::fs::copy(other.path().join("root.key"), &root).expect("copied");
    let wrong = start(&config).await;
    assert!(wrong.contains("the root key is not the one of this log"), "{wrong}");
    stop(first, second).await;
}
