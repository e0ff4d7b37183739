//! Two nodes on one Postgres database: any of them serves any request, and each soon knows what the other changed.

use std::path::Path;
use std::time::{Duration, Instant};

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
