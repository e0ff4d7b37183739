//! Signing and verifying over HTTP and MCP, as calls of a built-in upstream.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::digest::Digest;
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify};
use serde_json::{Value, json};

use crate::support::World;

const SETTINGS: &str = "[trust]\nenabled = true\n";

fn digest(artifact: &[u8]) -> String {
    Digest::of(artifact).to_string()
}

async fn sign(world: &World, token: &str, body: &Value) -> Value {
    let reply = world.post("/v1/sign", token, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.header("countersign-receipt").is_some(), "{}", reply.head);
    reply.json()
}

async fn check(world: &World, token: &str, body: &Value) -> Value {
    let reply = world.post("/v1/verify", token, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_is_verified_by_the_node_and_offline_and_after_a_restart() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    let artifact = digest(b"hello");
    let body = json!({ "artifact": artifact, "artifact_type": "release", "subject": "hello:1" });
    let signed = sign(&world, &agent, &body).await;

    let verified = check(&world, &agent, &json!({ "artifact": artifact, "signature": signed["signature"] })).await;
    assert_eq!((&verified["valid"], &verified["signer"]), (&json!(true), &signed["signer"]), "{verified}");
    assert_eq!(verified["transparency_index"], signed["transparency_entry"]["index"]);
    let exact = json!({ "artifact": artifact, "identity": signed["signer"], "bundle": signed["bundle"] });
    assert_eq!(check(&world, &agent, &exact).await["valid"], true);
    // Of another artifact, by somebody else, or with another signature: no.
    let other = json!({ "artifact": digest(b"other"), "bundle": signed["bundle"] });
    let refused = check(&world, &agent, &other).await;
    assert!(refused["valid"] == false && refused["reason"].to_string().contains("artifact_mismatch"), "{refused}");
    let somebody = json!({ "artifact": artifact, "identity": "https://elsewhere.example/x" });
    assert_eq!(check(&world, &agent, &somebody).await["reason"], "identity_mismatch");
    let unknown = check(&world, &agent, &json!({ "artifact": digest(b"never signed") })).await;
    assert_eq!((&unknown["valid"], &unknown["signer"]), (&json!(false), &Value::Null));

    let world = world.restart().await;
    let path = format!("/v1/signatures/{}", signed["entry_id"].as_str().expect("an id"));
    let again = world.get(&path, &agent).await.json();
    assert_eq!(again["signature"], signed["signature"]);
    // What anybody can do with what is public.
    let root = TrustedRoot::parse(&world.get("/trust/trusted_root.json", "").await.body).expect("a trusted root");
    let exactly = |member: &str| Pattern::Exact(signed[member].as_str().expect("a text").to_owned());
    let expected = Expected::Certificate { identity: exactly("signer"), issuer: exactly("issuer") };
    let policy = Policy { expected, ..Policy::default() };
    let report = verify(again["bundle"].to_string().as_bytes(), &Artifact::Bytes(b"hello"), &root, &policy);
    assert!(report.is_valid(), "{report:?}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_found_by_page_and_filter_and_by_nobody_else() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    for n in 0..5 {
        let body = json!({
            "artifact": digest(&[n]), "artifact_type": if n == 0 { "scan_manifest" } else { "scan_result" },
            "metadata": { "scan_id": "scan-1" },
        });
        sign(&world, &agent, &body).await;
    }
    let first = world.get("/v1/transparency?limit=3&artifact_type=scan_result", &agent).await;
    let next = first.header("link").expect("another page").to_owned();
    let path = next.trim_start_matches('<').split('>').next().expect("a path").to_owned();
    let second = world.get(&path, &agent).await;
    assert_eq!(second.header("link"), None);
    let of = |page: &Value| page.as_array().expect("a list").iter().map(|e| e["artifact"].clone()).collect::<Vec<_>>();
    let found = [of(&first.json()), of(&second.json())].concat();
    assert_eq!(found, [4, 3, 2, 1].map(|n| json!(digest(&[n]))));
    assert_eq!(world.get("/v1/transparency?start_date=2100-01-01", &agent).await.json(), json!([]));
    let wrong = world.get("/v1/transparency?end_date=yesterday", &agent).await;
    assert_eq!((wrong.status, wrong.problem().as_str()), (422, "invalid-arguments"));
    assert_eq!(world.get("/v1/transparency?limit=1&limit=2", &agent).await.status, 400);

    check(&world, &agent, &json!({ "artifact": digest(&[1]) })).await;
    let chain = world.get("/v1/provenance/scan-1", &agent).await.json();
    assert_eq!((&chain["chain_status"], &chain["trust_level"]), (&json!("complete"), &json!("high")), "{chain}");
    assert_eq!(chain["scans"].as_array().map(Vec::len), Some(4));
    assert_eq!(chain["verification_trail"].as_array().map(Vec::len), Some(1), "{chain}");
    let stats = world.get("/v1/stats", &agent).await.json();
    assert_eq!(stats["total_signatures"], 5);
    assert_eq!(stats["verification_stats"], json!({ "total": 1, "successful": 1, "failed": 0 }));
    let failed = world.get("/v1/transparency?verifications=failed", &agent).await;
    assert_eq!(failed.json(), json!([]));
    check(&world, &agent, &json!({ "artifact": digest(&[1]), "identity": "https://nobody.example/*" })).await;
    check(&world, &agent, &json!({ "artifact": digest(b"never signed") })).await;
    let failed = world.get("/v1/transparency?verifications=failed&limit=10000", &agent).await.json();
    let said = failed.as_array().expect("a list").iter().map(|e| (e["artifact"].clone(), e["reason"].clone()));
    let said: Vec<_> = said.collect();
    assert_eq!(said[0].0, json!(digest(b"never signed")));
    assert_eq!(said[1], (json!(digest(&[1])), json!("identity_mismatch")), "{failed}");
    assert_eq!((said.len(), &failed[0]["valid"]), (2, &json!(false)));
    let passed = world.get("/v1/transparency?verifications=passed", &agent).await.json();
    assert_eq!(
        (passed[0]["valid"].clone(), passed[0]["reason"].clone(), &passed[1]),
        (json!(true), json!(null), &json!(null))
    );
    // What is verified by somebody's own trust is that one's word, and no count of the workspace's.
    let key = countersign_trust::keys::Signer::from_seed(&[7; 32], "a key");
    let own = json!({
        "artifact": digest(b"anything"),
        "signature": STANDARD.encode(key.sign(b"anything")),
        "public_key": countersign_trust::pem::encode(&key.spki(), countersign_trust::pem::PUBLIC_KEY),
    });
    assert_eq!(check(&world, &agent, &own).await["valid"], true);
    let stats = world.get("/v1/stats", &agent).await.json();
    assert_eq!(stats["verification_stats"], json!({ "total": 3, "successful": 1, "failed": 2 }));
    assert_eq!(stats["verifications_under_given_trust"], 1);
    let passed = world.get("/v1/transparency?verifications=passed&limit=1", &agent).await.json();
    assert_eq!((&passed[0]["trust"], &passed[0]["signer"]), (&json!("given"), &json!(null)));

    let mixed = world.get("/v1/transparency?verifications=all&artifact_type=scan_result", &agent).await;
    assert_eq!((mixed.status, mixed.problem().as_str()), (422, "invalid-arguments"));
    assert_eq!(world.get("/v1/transparency?limit=10001", &agent).await.status, 422);
    assert_eq!(world.get("/v1/signatures/nonsense", &agent).await.status, 422);
    let nobody = world.get("/v1/provenance/scan-2", &agent).await.json();
    assert_eq!((&nobody["chain_status"], &nobody["scans"]), (&json!("unknown"), &json!([])));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_mcp_the_same_tools_have_their_own_names_and_policy_decides() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    let call = async |path: &str, token: &str, name: &str, arguments: Value| {
        let message = json!({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": name, "arguments": arguments },
        });
        let headers = [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-11-25")];
        world.send("POST", path, token, &headers, Some(&message.to_string())).await.json()
    };
    let arguments = json!({ "artifact": digest(b"x"), "artifact_type": "sbom" });
    let signed = call("/mcp/trust", &agent, "sign", arguments.clone()).await;
    let entry = signed["result"]["structuredContent"]["entry_id"].clone();
    assert!(entry.is_string(), "{signed}");
    let found = call("/mcp", &agent, "trust_query_transparency", json!({})).await;
    assert_eq!(found["result"]["structuredContent"]["entries"][0]["entry_id"], entry, "{found}");
    // The policies of this home permit those with a role, and nobody else.
    let stranger = world.person("eve", &[]);
    let refused = world.post("/v1/sign", &stranger, &arguments.to_string()).await;
    assert_eq!((refused.status, refused.problem().as_str()), (403, "policy-denied"));
    let malformed = world.post("/v1/sign", &agent, r#"{"artifact":"sha256:00","artifact_type":"x"}"#).await;
    assert_eq!((malformed.status, malformed.problem().as_str()), (422, "invalid-arguments"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_not_told_to_sign_does_not() {
    let world = World::start().await;
    let agent = world.agent("bot");
    assert_eq!(world.get("/trust/trusted_root.json", "").await.status, 404);
    let body = json!({ "artifact": digest(b"x"), "artifact_type": "sbom" });
    let refused = world.post("/v1/sign", &agent, &body.to_string()).await;
    assert_eq!((refused.status, refused.problem().as_str()), (404, "unknown-tool"));
    world.node.shutdown().await;
}
