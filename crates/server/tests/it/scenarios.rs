//! Answers that are made up: only where the node was started for it, marked wherever they can be quoted, and remembered nowhere.

use countersign_proof::digest::Digest;
use countersign_server::{Config, Overrides};
use serde_json::{Value, json};

use crate::support::World;

const ON: &str = "[trust]\nenabled = true\nscenarios = true\n";

fn artifact() -> String {
    Digest::of(b"x").to_string()
}

async fn call(world: &World, token: &str, tool: &str, arguments: &Value) -> Value {
    let message = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": arguments },
    });
    let headers = [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-11-25")];
    world.send("POST", "/mcp/trust", token, &headers, Some(&message.to_string())).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_scenarios_are_off_nobody_can_ask_for_one() {
    let world = World::start_with("[trust]\nenabled = true\n").await;
    let agent = world.agent("bot");
    assert!(!world.node.notes().iter().any(|note| note.contains("SCENARIOS")));
    let verify = json!({ "artifact": artifact(), "scenario": "verified_premium_scan" });
    let refused = world.post("/v1/verify", &agent, &verify.to_string()).await;
    assert_eq!((refused.status, refused.problem().as_str()), (422, "invalid-arguments"), "{}", refused.text());
    assert!(refused.text().contains("scenario"), "{}", refused.text());
    let over_mcp =
        call(&world, &agent, "get_provenance", &json!({ "scan_id": "s", "scenario": "tampered_scan" })).await;
    assert!(!over_mcp.to_string().contains("SIMULATED"), "{over_mcp}");
    assert_eq!(over_mcp["result"]["structuredContent"], Value::Null, "{over_mcp}");
    assert_eq!(world.get("/v1/stats", &agent).await.json()["scenarios"], false);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_made_up_says_so_and_leaves_nothing_but_a_marked_event() {
    let world = World::start_with(ON).await;
    let (agent, auditor) = (world.agent("bot"), world.person("au", &["auditor"]));
    assert!(world.node.notes().iter().any(|note| note.starts_with("SCENARIOS ARE ON")), "{:?}", world.node.notes());
    let verify = |scenario: &str| json!({ "artifact": artifact(), "signature": "MEU=", "scenario": scenario });
    for (scenario, valid, status) in [("verified_premium_scan", true, "complete"), ("tampered_scan", false, "broken")] {
        let told = world.post("/v1/verify", &agent, &verify(scenario).to_string()).await.json();
        assert_eq!(
            (&told["valid"], &told["scenario"], &told["simulated"]),
            (&json!(valid), &json!(scenario), &json!(true))
        );
        assert!(told["signer"].as_str().is_some_and(|signer| signer.contains("SIMULATED")), "{told}");
        assert!(told["rekor_entry_url"].as_str().is_some_and(|url| url.contains("simulated.invalid")), "{told}");
        let chain = world.get(&format!("/v1/provenance/scan-1?scenario={scenario}"), &agent).await.json();
        assert_eq!((&chain["chain_status"], &chain["scenario"]), (&json!(status), &json!(scenario)), "{chain}");
        let chain = call(&world, &agent, "get_provenance", &json!({ "scan_id": "scan-1", "scenario": scenario })).await;
        assert!(chain["result"]["content"][0]["text"].to_string().contains("SIMULATED"), "{chain}");
    }
    let unknown = world.post("/v1/verify", &agent, &verify("untampered_scan").to_string()).await;
    assert_eq!((unknown.status, unknown.problem().as_str()), (422, "invalid-arguments"));

    // Nothing of it counts anywhere.
    let stats = world.get("/v1/stats", &agent).await.json();
    assert_eq!(stats["verification_stats"], json!({ "total": 0, "successful": 0, "failed": 0 }));
    assert_eq!((&stats["total_signatures"], &stats["scenarios"]), (&json!(0), &json!(true)));
    let real = world.get("/v1/provenance/scan-1", &agent).await.json();
    assert_eq!((&real["chain_status"], &real["scenario"]), (&json!("unknown"), &Value::Null));
    let of_artifact = world.get(&format!("/v1/provenance/{}", artifact()), &agent).await.json();
    assert_eq!(of_artifact["verification_trail"], json!([]));
    let anomalies = world.post("/v1/anomalies", &agent, "{}").await.json();
    assert_eq!(anomalies["activity"], json!([]), "{anomalies}");
    let report = world.post("/v1/compliance", &agent, "{}").await.json();
    assert_eq!(report["report"]["verifications"]["total"], 0, "{report}");

    // The calls were real, and their events say what they were.
    let events = world.get("/audit/events?type=call.completed&tool=trust:verify", &auditor).await.json();
    let marks: Vec<&Value> = events.as_array().expect("events").iter().map(|event| &event["simulated"]).collect();
    assert_eq!(marks, [&json!("verified_premium_scan"), &json!("tampered_scan")], "{events}");
    let plain = world.post("/v1/verify", &agent, &json!({ "artifact": artifact() }).to_string()).await;
    assert_eq!(plain.json()["scenario"], Value::Null);
    let events = world.get("/audit/events?type=call.completed&tool=trust:verify", &auditor).await.json();
    assert_eq!(events[2]["simulated"], Value::Null, "what was not asked for is not marked: {events}");
    world.node.shutdown().await;
}

#[test]
fn scenarios_need_the_development_issuer_and_so_loopback() {
    let config = |text: &str| {
        let home = tempfile::tempdir().expect("a directory");
        std::fs::write(home.path().join("countersign.toml"), text).expect("written");
        let flags = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
        Config::load_with(&flags, &|_| None).map(|config| config.trust.is_some_and(|trust| trust.scenarios))
    };
    assert!(matches!(config(ON), Ok(true)));
    assert!(matches!(config("[trust]\nenabled = true\n"), Ok(false)));
    assert!(matches!(config("[trust]\nenabled = true\nscenarios = false\n"), Ok(false)));
    let issuer = "[[issuers]]\nissuer = \"https://idp.example.org\"\ndiscovery = true\nworkspaces = [\"default\"]\n";
    for off in [
        format!("{issuer}[development]\nissuer = false\n{ON}"),
        format!("listen = \"0.0.0.0:8000\"\nlog_domain = \"log.example.org\"\n{issuer}{ON}"),
    ] {
        let refused = config(&off).expect_err("made-up answers for others");
        assert!(
            refused.to_string().contains("scenarios") && refused.to_string().contains("countersign.toml"),
            "{refused}"
        );
    }
}
