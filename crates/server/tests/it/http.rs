//! The HTTP surface.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::support::{World, read_reply};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_its_approver_executes_once_and_has_a_receipt() {
    let world = World::start().await;
    let (agent, tess) = (world.agent("bot"), world.person("tess", &["treasurer"]));

    let pending = world.create(&agent, 1200, &[]).await;
    assert_eq!(pending.status, 202, "{pending:?}");
    let body = pending.json();
    assert_eq!(body["status"], "pending");
    assert_eq!(body["owed"]["approver_roles"], json!(["treasurer"]));
    let id = body["request_id"].as_str().expect("an id").to_owned();
    assert_eq!(pending.header("location"), Some(format!("/approvals/{id}").as_str()));

    let token = json!({ "action_token": body["action_token"] });
    let early = world.post("/tools/ads:createCampaign/confirm", &agent, &token.to_string()).await;
    assert_eq!(early.status, 202, "nobody has agreed yet: {early:?}");

    let own = world.post(&format!("/approvals/{id}"), &agent, r#"{"decision":"approve"}"#).await;
    assert_eq!(own.status, 403, "{own:?}");
    let seen = world.get("/approvals?status=pending", &tess).await.json();
    assert_eq!(seen[0]["id"], *id);
    assert_eq!(seen[0]["can_answer"], json!(["approval"]));
    let approved =
        world.post(&format!("/approvals/{id}"), &tess, r#"{"decision":"approve","reason":"in the plan"}"#).await;
    assert_eq!(approved.status, 200, "{approved:?}");

    let changed =
        json!({ "action_token": body["action_token"], "name": "LaunchX", "budget": 1300, "startDate": "2025-10-10" });
    let changed = world.post("/tools/ads:createCampaign/confirm", &agent, &changed.to_string()).await;
    assert_eq!((changed.status, changed.problem().as_str()), (409, "arguments-changed"));

    let done = world.post("/tools/ads:createCampaign/confirm", &agent, &token.to_string()).await;
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(done.json()["status"], "ok");
    let again = world.post("/tools/ads:createCampaign/confirm", &agent, &token.to_string()).await;
    assert_eq!((again.status, again.problem().as_str()), (409, "already-redeemed"));

    let receipt = done.json()["receipt"].as_str().expect("a receipt").to_owned();
    let file = world.get(&format!("/receipts/{receipt}"), &agent).await;
    assert_eq!(file.status, 200, "{file:?}");
    countersign_proof::receipt::Receipt::parse(&file.body).expect("a receipt file");
    let stranger = world.agent("stranger");
    assert_eq!(world.get(&format!("/receipts/{receipt}"), &stranger).await.problem(), "not-found");

    let events = world.get("/audit/events?type=call.&order=desc&limit=2", &agent).await;
    assert_eq!(events.json()[0]["type"], "call.denied");
    let next = events
        .header("link")
        .expect("a next page")
        .trim_start_matches('<')
        .split('>')
        .next()
        .expect("a link")
        .to_owned();
    assert_eq!(world.get(&next, &agent).await.status, 200);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_replays_the_answer_and_refuses_another_call() {
    let world = World::start().await;
    let agent = world.agent("bot");
    let key = [("idempotency-key", "k-1"), ("x-correlation-id", "job-7")];
    let first = world.create(&agent, 500, &key).await;
    assert_eq!((first.status, first.header("x-correlation-id")), (200, Some("job-7")), "{first:?}");
    assert_eq!(first.header("idempotent-replayed"), None);
    let second = world.create(&agent, 500, &key).await;
    assert_eq!((second.status, second.header("idempotent-replayed")), (200, Some("true")), "{second:?}");
    assert_eq!(first.json()["call"], second.json()["call"]);
    assert_eq!(first.json()["result"], second.json()["result"]);
    let other = world.create(&agent, 501, &key).await;
    assert_eq!((other.status, other.problem().as_str()), (422, "idempotency-mismatch"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_problems_that_say_what_to_do_and_nothing_internal() {
    let world = World::start().await;
    let agent = world.agent("bot");
    let good = r#"{"name":"x","budget":1,"startDate":"2025-10-10"}"#;
    let deep = format!(r#"{{"name":{}1{}}}"#, "[".repeat(100), "]".repeat(100));
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(70_000));
    let invoke = "/tools/ads:createCampaign/invoke";
    let cases: &[(&str, &str, &str, &str, u16, &str)] = &[
        ("POST", invoke, "", good, 401, "unauthenticated"),
        ("POST", invoke, "x.y.z", good, 401, "unauthenticated"),
        ("POST", "/tools/ads:nothing/invoke", &agent, good, 404, "unknown-tool"),
        ("POST", "/tools/nonsense/invoke", &agent, good, 404, "unknown-tool"),
        ("POST", "/tools/ads%3AcreateCampaign/invoke", &agent, "{", 400, "malformed-request"),
        (
            "POST",
            invoke,
            &agent,
            r#"{"name":"a","name":"b","budget":1,"startDate":"2025-10-10"}"#,
            400,
            "malformed-request",
        ),
        ("POST", invoke, &agent, &deep, 400, "malformed-request"),
        ("POST", invoke, &agent, &large, 413, "too-large"),
        ("POST", invoke, &agent, r#"{"name":"x"}"#, 422, "invalid-arguments"),
        ("POST", invoke, &agent, r#"{"name":"x","budget":60000,"startDate":"2025-10-10"}"#, 403, "policy-denied"),
        ("GET", "/nowhere", &agent, "", 404, "not-found"),
        ("GET", invoke, &agent, "", 405, "method-not-allowed"),
        ("GET", "/audit/events?limti=1", &agent, "", 400, "malformed-request"),
        ("GET", "/admin/status", &agent, "", 403, "forbidden"),
        ("POST", "/admin/freeze", &agent, r#"{"kind":"tool","name":"ads:x","reason":"x"}"#, 403, "forbidden"),
        ("GET", "/approvals/not-a-uuid", &agent, "", 400, "malformed-request"),
    ];
    for (method, path, token, body, status, slug) in cases {
        let reply = world.send(method, path, token, &[], Some(body)).await;
        assert_eq!((reply.status, reply.problem().as_str()), (*status, *slug), "{method} {path}: {}", reply.text());
        assert_eq!(reply.json()["instance"], *path.split('?').next().expect("a path"));
        assert_eq!(reply.header("www-authenticate").is_some(), *status == 401);
        assert_eq!(reply.header("allow").is_some(), *status == 405);
    }
    let rebound = world.send("GET", "/health", "", &[("host", "evil.example")], None).await;
    assert_eq!((rebound.status, rebound.problem().as_str()), (403, "forbidden"));
    let web = world.send("POST", "/mcp", &agent, &[("origin", "https://evil.example")], Some("{}")).await;
    assert_eq!(web.status, 403, "{web:?}");
    let operator = world.person("olga", &["operator"]);
    let status = world.get("/admin/status", &operator).await.json();
    let names: Vec<&str> =
        status["refusals"].as_array().expect("aggregates").iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(names.contains(&"http/no-credential") && names.contains(&"http/host"), "{names:?}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_lose_their_connection_and_nobody_else_does() {
    let world = World::start().await;
    let agent = world.agent("bot");
    let mut head = world.connect().await;
    head.write_all(b"GET /health HTTP/1.1\r\nhost: local").await.expect("sent");
    let mut body = world.connect().await;
    let host = world.node.url().replace("http://", "");
    let start = format!(
        "POST /tools/ads:listCampaigns/invoke HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {agent}\r\ncontent-length: 100\r\n\r\n{{"
    );
    body.write_all(start.as_bytes()).await.expect("sent");
    assert_eq!(world.get("/health", "").await.status, 200);
    let late = read_reply(&mut body).await;
    assert_eq!((late.status, late.problem().as_str()), (408, "request-timeout"));
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut head, &mut rest);
    let closed = tokio::time::timeout(Duration::from_secs(5), closed).await;
    assert!(closed.is_ok(), "a head that never ends must not keep its connection");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_holds_its_directory_says_where_it_is_and_lets_go() {
    let world = World::start().await;
    let said = countersign_server::NodeFile::read(&world.config.data_dir).expect("the node says where it is");
    assert_eq!((said.url, said.pid), (world.node.url(), std::process::id()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let second = countersign_server::Node::start_on(world.config.clone(), listener).await;
    assert!(second.is_err_and(|error| error.is_busy()));
    let config = world.config.clone();
    let called = world.create(&world.agent("bot"), 10, &[]).await;
    let event = called.json()["receipt"].as_str().expect("a receipt").to_owned();
    let operator = world.person("olga", &["operator", "auditor"]);
    let checked = world.post("/admin/fsck", &operator, "").await.json();
    assert_eq!(checked["ok"], true, "{checked}");
    let target = world.path("backup.db");
    let copied = world.post("/admin/backup", &operator, &json!({ "path": target }).to_string()).await;
    assert_eq!(copied.status, 200, "{copied:?}");
    world.node.shutdown().await;
    assert!(countersign_server::NodeFile::read(&config.data_dir).is_none());

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let again = countersign_server::Node::start_on(config, listener).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(again.notes().iter().all(|note| !note.contains("new log")), "{:?}", again.notes());
    let principal = countersign_domain::Principal {
        roles: ["auditor".to_owned()].into(),
        workspace: countersign_domain::WorkspaceName::default_workspace(),
        ..countersign_domain::Principal::node()
    };
    let kept = again.gate().receipt(&principal, event.parse().expect("a UUID"), vec![]).await;
    assert!(kept.is_ok(), "{kept:?}");
    again.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_policy_leaves_the_old_ones_in_force() {
    let world = World::start().await;
    let (agent, operator) = (world.agent("bot"), world.person("olga", &["operator"]));
    let file = world.path("policies/access/a.cedar");
    let good = std::fs::read_to_string(&file).expect("there");
    std::fs::write(&file, "permit (principal, action ==").expect("written");
    let reloaded = world.post("/admin/policy/reload", &operator, "").await.json();
    assert_eq!(reloaded["status"], "refused", "{reloaded}");
    assert_eq!(world.create(&agent, 10, &[]).await.status, 200);
    std::fs::write(&file, good.replace("finance-write", "nobody")).expect("written");
    // The directory is looked at each second.
    for _ in 0..50 {
        if world.create(&agent, 11, &[]).await.status == 403 {
            return world.node.shutdown().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the changed policy never came into force");
}
