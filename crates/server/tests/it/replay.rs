//! Past decisions over HTTP: a real node, real calls, an edited set.

use serde_json::{Value, json};

use crate::support::World;

const EDITED: &str = r#"
@id("finance") permit (principal in Role::"finance-write", action, resource);
@id("lower-ceiling") forbid (principal, action == Action::"ads:createCampaign", resource)
when { context.input.budget.greaterThan(decimal("800.0")) };
"#;

fn edited(cursor: &Value, limit: u32) -> String {
    let files = json!([{ "path": "access/a.cedar", "kind": "access", "text": EDITED }]);
    json!({ "files": files, "since": 0, "cursor": cursor, "limit": limit }).to_string()
}

#[tokio::test]
async fn an_edited_set_shows_what_it_would_have_changed() {
    let world = World::start().await;
    let (agent, auditor) = (world.agent("buyer"), world.person("audrey", &["auditor"]));
    let pending = world.create(&agent, 1200, &[]).await;
    assert_eq!(pending.status, 202);
    let allowed = world.create(&agent, 900, &[]).await;
    assert_eq!((allowed.status, world.create(&agent, 100, &[]).await.status), (200, 200));
    let denied = world.create(&agent, 60_000, &[]).await;
    assert_eq!(denied.problem(), "policy-denied");

    assert_eq!(world.post("/admin/policy/replay", &agent, &edited(&Value::Null, 500)).await.status, 403);
    let mut cursor = Value::Null;
    let (mut replayed, mut differences) = (0, Vec::new());
    loop {
        let reply = world.post("/admin/policy/replay", &auditor, &edited(&cursor, 2)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let page = reply.json();
        replayed += page["replayed"].as_u64().expect("a number");
        differences.extend(page["differences"].as_array().expect("differences").clone());
        assert_eq!(page["not_replayed"], json!({}));
        cursor = page["next"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(replayed, 4);
    let changes: Vec<&str> = differences.iter().filter_map(|d| d["change"].as_str()).collect();
    assert_eq!(changes, ["now-denied", "now-denied"], "{differences:?}");
    assert_eq!(differences[0]["before"]["owed"]["approvals"], 1);
    assert_eq!(differences[1]["after"]["determining"], json!(["access/a.cedar#lower-ceiling"]));
    let text = Value::from(differences.clone()).to_string();
    assert!(!text.contains("LaunchX") && !text.contains("1200"), "no arguments are shown: {text}");

    let event = denied.json()["receipt"].as_str().or(denied.json()["event"].as_str()).map(str::to_owned);
    let path = format!("/admin/policy/calls/{}", event.expect("the refusal's event"));
    let past = world.get(&path, &auditor).await.json();
    assert_eq!(past["past"]["decisions"][0]["determining"], json!(["access/a.cedar#ceiling"]), "{past}");
    assert_eq!(past["past"]["change"], "same");
    assert_eq!(world.get("/admin/policy/calls/nothing", &auditor).await.problem(), "malformed-request");
    world.node.shutdown().await;
}
