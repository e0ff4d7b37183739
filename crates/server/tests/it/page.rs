//! The page on which a person decides, and clients that lead somebody to it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::exchange::{Open, greeted, in_session, message};
use crate::support::{Reply, World};
use crate::tasks;

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

fn form(token: &str, more: &str) -> String {
    let token: String = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
    format!("token={token}{more}")
}

async fn submit(world: &World, request: &str, body: &str) -> Reply {
    world.send("POST", &format!("/approvals/{request}/page"), "", &[FORM], Some(body)).await
}

async fn pending(world: &World, token: &str, name: &str) -> String {
    let body = json!({"name": name, "budget": 2_000, "startDate": "2025-10-10"}).to_string();
    let reply = world.post("/tools/ads:createCampaign/invoke", token, &body).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    reply.json()["request_id"].as_str().expect("a request").to_owned()
}

async fn status(world: &World, token: &str, request: &str) -> Value {
    world.get(&format!("/approvals/{request}"), token).await.json()["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_decides_on_the_page_and_nobody_else() {
    let world = World::start().await;
    let (agent, tess) = (world.agent("quentin"), world.person("tess", &["treasurer"]));
    let id = pending(&world, &agent, "<script>alert(1)</script>").await;
    let path = format!("/approvals/{id}/page");
    // Before anybody has signed in, the page says nothing of the request.
    let bare = world.get(&path, "").await;
    assert_eq!((bare.status, bare.header("cache-control")), (200, Some("no-store")), "{bare:?}");
    let policy = bare.header("content-security-policy").expect("a policy").to_owned();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(!bare.text().contains("createCampaign") && !bare.text().contains("quentin"), "{}", bare.text());
    for body in ["", "token=nonsense", "decision=approve"] {
        assert_eq!(submit(&world, &id, body).await.status, 401, "{body}");
    }
    let shown = submit(&world, &id, &form(&tess, "")).await;
    let text = shown.text();
    assert!(text.contains("ads:createCampaign") && text.contains("More than 1,000 needs a treasurer."), "{text}");
    assert!(text.contains("&lt;script&gt;") && !text.contains("<script"), "{text}");
    // Not from another site, not by the agent, not by a person without the role, not by a GET.
    let approve = form(&tess, "&decision=approve");
    for (name, value) in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let foreign = world.send("POST", &path, "", &[FORM, (name, value)], Some(&approve)).await;
        assert_eq!(foreign.status, 403, "{name}: {value}");
    }
    let by_agent = submit(&world, &id, &form(&agent, "&decision=approve")).await;
    assert_eq!(by_agent.status, 403, "{by_agent:?}");
    let stranger = submit(&world, &id, &form(&world.person("sam", &[]), "&decision=approve")).await;
    assert_eq!(stranger.status, 404, "{stranger:?}");
    assert_eq!(world.get(&format!("{path}?decision=approve"), &tess).await.status, 200);
    let both = submit(&world, &id, &form(&tess, "&decision=approve&decision=deny")).await;
    assert_eq!(both.status, 400);
    assert_eq!(status(&world, &agent, &id).await, "pending");
    let denied = submit(&world, &id, &form(&tess, "&decision=deny&reason=too+much")).await;
    assert!(denied.status == 200 && denied.text().contains("You denied this call."), "{denied:?}");
    assert_eq!(status(&world, &agent, &id).await, "denied");
    let late = submit(&world, &id, &approve).await;
    assert_eq!(late.status, 409, "{late:?}");
    world.node.shutdown().await;
}

fn call() -> Value {
    json!({"name": "ads_createCampaign", "arguments": {"name": "P", "budget": 2_000, "startDate": "2025-10-10"}})
}

/// The request behind the address of a page.
fn request_in(url: &Value) -> String {
    let url = url.as_str().expect("an address");
    let rest = url.strip_suffix("/page").unwrap_or_else(|| panic!("{url}"));
    rest.rsplit('/').next().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_session_leads_its_person_to_the_page() {
    let world = World::start_with("[approval]\nwait_seconds = 40\n").await;
    let (agent, tess) = (world.agent("bot"), world.person("tess", &["treasurer"]));
    let session = greeted(&world, &agent, json!({"elicitation": {"url": {}}})).await;
    let headers = in_session(&session);
    let mut open = Open::send(&world, "POST", &agent, &headers, &message(9, "tools/call", &call())).await;
    let asked = open.next().await;
    assert_eq!((&asked["method"], &asked["params"]["mode"]), (&json!("elicitation/create"), &json!("url")), "{asked}");
    let request = request_in(&asked["params"]["url"]);
    assert_eq!(asked["params"]["elicitationId"], json!(request));
    let yes = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}}).to_string();
    assert_eq!(world.send("POST", "/mcp", &agent, &headers, Some(&yes)).await.status, 202);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(status(&world, &agent, &request).await, "pending", "the client's word is no approval");
    assert_eq!(submit(&world, &request, &form(&tess, "&decision=approve")).await.status, 200);
    let over = open.next().await;
    assert_eq!(over["method"], "notifications/elicitation/complete", "{over}");
    assert_eq!(over["params"]["elicitationId"], json!(request));
    let done = open.next().await;
    assert_eq!(done["result"]["isError"], false, "{done}");
    // Forms are never used for this.
    let session = greeted(&world, &agent, json!({"elicitation": {"form": {}}})).await;
    let mut other = call();
    other["arguments"]["name"] = json!("Q");
    let (headers, body) = (in_session(&session), message(9, "tools/call", &other));
    let calling = world.send("POST", "/mcp", &agent, &headers, Some(&body));
    let approving = async {
        let request = loop {
            let open = world.get("/approvals?status=pending", &tess).await.json();
            if let Some(id) = open[0]["id"].as_str() {
                break id.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(submit(&world, &request, &form(&tess, "&decision=approve")).await.status, 200);
    };
    let (reply, ()) = tokio::join!(calling, approving);
    let text = reply.text();
    assert!(text.contains("\"isError\":false") && !text.contains("elicitation"), "{text}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_2026_leads_its_person_to_the_page() {
    let world = World::start().await;
    let (agent, tess) = (world.agent("bot"), world.person("tess", &["treasurer"]));
    let able = json!({"elicitation": {"url": {}}});
    let asked = tasks::modern(&world, &agent, "tools/call", call(), able.clone()).await.json();
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let page = &asked["result"]["inputRequests"]["approval"];
    assert_eq!((&page["method"], &page["params"]["mode"]), (&json!("elicitation/create"), &json!("url")), "{asked}");
    let request = request_in(&page["params"]["url"]);
    assert_eq!(submit(&world, &request, &form(&tess, "&decision=approve")).await.status, 200);
    let mut retry = call();
    retry["requestState"] = asked["result"]["requestState"].clone();
    retry["inputResponses"] = json!({"approval": {"action": "accept"}});
    // Another node, or this one started anew, goes on with it as well.
    let world = world.restart().await;
    let done = tasks::modern(&world, &agent, "tools/call", retry.clone(), able.clone()).await.json();
    assert_eq!(
        (&done["result"]["resultType"], &done["result"]["isError"]),
        (&json!("complete"), &json!(false)),
        "{done}"
    );
    // A person who does not want to ends the waiting, and nothing else.
    let mut other = call();
    other["arguments"]["name"] = json!("R");
    let asked = tasks::modern(&world, &agent, "tools/call", other.clone(), able.clone()).await.json();
    other["requestState"] = asked["result"]["requestState"].clone();
    other["inputResponses"] = json!({"approval": {"action": "decline"}});
    let left = tasks::modern(&world, &agent, "tools/call", other, able).await.json();
    let text = left["result"]["content"][0]["text"].as_str().unwrap_or_default();
    assert!(text.starts_with("NOT executed; awaiting approval"), "{left}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_leads_to_the_page_and_its_end_is_told() {
    let world = World::start().await;
    let (agent, tess) = (world.agent("bot"), world.person("tess", &["treasurer"]));
    let mut able = tasks::knowing();
    able["elicitation"] = json!({"url": {}});
    let created = tasks::modern(&world, &agent, "tools/call", call(), able.clone()).await.json()["result"].clone();
    let id = created["taskId"].as_str().unwrap_or_else(|| panic!("{created}")).to_owned();
    let got = tasks::modern(&world, &agent, "tasks/get", json!({"taskId": id}), able.clone()).await.json();
    assert_eq!(got["result"]["status"], "input_required", "{got}");
    let request = request_in(&got["result"]["inputRequests"]["approval"]["params"]["url"]);
    let went = json!({"taskId": id, "inputResponses": {"approval": {"action": "accept"}}});
    let updated = tasks::modern(&world, &agent, "tasks/update", went, able.clone()).await.json();
    assert_eq!(updated["result"]["resultType"], "complete", "{updated}");
    let got = tasks::modern(&world, &agent, "tasks/get", json!({"taskId": id}), able.clone()).await.json();
    assert_eq!(got["result"]["status"], "working", "{got}");
    assert_eq!(status(&world, &agent, &request).await, "pending", "the client's word is no approval");

    let mut params = json!({"notifications": {"taskIds": [id, "no-such-task"]}});
    let refused = tasks::modern(&world, &agent, "subscriptions/listen", params.clone(), json!({})).await;
    assert_eq!(refused.status, 406, "a client that reads no streams: {refused:?}");
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = able;
    let headers = [
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "subscriptions/listen"),
    ];
    let body = message(5, "subscriptions/listen", &params);
    let mut open = Open::send(&world, "POST", &agent, &headers, &body).await;
    let acknowledged = open.next().await;
    assert_eq!(acknowledged["params"]["notifications"]["taskIds"], json!([id]), "{acknowledged}");
    assert_eq!(submit(&world, &request, &form(&tess, "&decision=approve")).await.status, 200);
    let told = open.next().await;
    assert_eq!((&told["method"], &told["params"]["taskId"]), (&json!("notifications/tasks"), &json!(id)), "{told}");
    assert_eq!(told["params"]["status"], "completed", "executed although nobody asked again: {told}");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 5);
    world.node.shutdown().await;
}
