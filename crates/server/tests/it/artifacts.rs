//! Signed artifacts over HTTP and MCP, with a database and a directory beneath.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use countersign_proof::jwk::JwkSet;
use countersign_proof::jws::Jws;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use crate::support::World;

const SETTINGS: &str = "[trust]\nenabled = true\n";

/// An artifact with numbers that policies could not count in, and text beyond ASCII.
pub fn recommendation(id: Uuid, version: u64) -> Value {
    json!({
        "id": id, "type": "clinical_recommendation", "version": version, "workspaceId": "default",
        "createdAt": "2026-03-01T12:00:00Z", "compliance": ["HIPAA"],
        "evidence": [{ "source": "doi:10.1000/182", "title": "Standards of Care" }],
        "jsonBody": {
            "patient_id": "p-1042", "recommendation": format!("Metformin 500 mg – Überwachung № {version}"),
            "evidence_sources": [], "risk_score": 0.123_456_789,
        },
    })
}

async fn create(world: &World, token: &str, artifact: &Value) -> Value {
    let reply = world.post("/artifacts", token, &artifact.to_string()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/jose+json"));
    assert!(reply.header("countersign-receipt").is_some() && reply.header("location").is_some(), "{}", reply.head);
    reply.json()
}

async fn verified(world: &World, token: &str, id: Uuid) -> Value {
    let reply = world.post(&format!("/artifacts/{id}/verify"), token, "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

async fn keys(world: &World, query: &str) -> JwkSet {
    JwkSet::parse(&world.get(&format!("/jwks/default{query}"), "").await.body).expect("a key set")
}

/// What a JOSE library does: the signature, by the key set alone.
fn opened(jws: &Value, keys: &JwkSet) -> Result<Value, String> {
    let jws = Jws::parse(jws.to_string().as_bytes()).map_err(|e| e.to_string())?;
    jws.verify(keys).map_err(|e| e.to_string())?;
    serde_json::from_slice(jws.payload()).map_err(|e| e.to_string())
}

/// The one file of an artifact's version.
fn object(world: &World, id: Uuid, version: u64) -> PathBuf {
    let dir = world.path(&format!("data/objects/objects/artifacts/default/{id}"));
    let mut found = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    found
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{version}-"))))
        .expect("an object")
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
    fs::write(path, bytes).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_signed_kept_found_and_verified_by_the_key_set_alone() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    let id = Uuid::now_v7();
    let artifact = recommendation(id, 1);
    let jws = create(&world, &agent, &artifact).await;
    assert_eq!(opened(&jws, &keys(&world, "").await), Ok(artifact.clone()));
    // The same again is the same; what is said otherwise is another version.
    assert_eq!(create(&world, &agent, &artifact).await, jws);
    let mut other = artifact.clone();
    other["jsonBody"]["patient_id"] = json!("p-1");
    let refused = world.post("/artifacts", &agent, &other.to_string()).await;
    assert_eq!((refused.status, refused.problem().as_str()), (409, "already-exists"), "{}", refused.text());
    let second = create(&world, &agent, &recommendation(id, 2)).await;

    let world = world.restart().await;
    let path = format!("/artifacts/{id}");
    assert_eq!(world.get(&path, &agent).await.json(), second, "the newest");
    assert_eq!(world.get(&format!("{path}?version=1"), &agent).await.json(), jws);
    let compact = world.send("GET", &path, &agent, &[("accept", "application/jose")], None).await;
    assert_eq!(compact.text(), Jws::parse(second.to_string().as_bytes()).expect("a JWS").to_compact());
    let told = verified(&world, &agent, id).await;
    assert_eq!((&told["valid"], &told["version"], &told["workspace_id"]), (&json!(true), &json!(2), &json!("default")));
    assert_eq!(told["artifact_id"], json!(id));
    let listed = world.get("/artifacts?type=clinical_recommendation&compliance=HIPAA&limit=1", &agent).await;
    assert_eq!(listed.json()[0]["version"], 2, "{}", listed.text());
    let next = listed
        .header("link")
        .expect("another page")
        .trim_start_matches('<')
        .split('>')
        .next()
        .expect("a path")
        .to_owned();
    assert_eq!(world.get(&next, &agent).await.json()[0]["version"], 1);
    assert_eq!(world.get("/artifacts?compliance=HIPAA,FedRAMP", &agent).await.json(), json!([]));
    let missing = world.get(&format!("/artifacts/{}", Uuid::now_v7()), &agent).await;
    assert_eq!((missing.status, missing.problem().as_str()), (404, "not-found"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_artifact_is_refused_in_words_and_leaves_nothing() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    let good = recommendation(Uuid::now_v7(), 1);
    let with = |path: &str, value: Value| {
        let mut artifact = good.clone();
        *artifact.pointer_mut(path).expect("a member") = value;
        artifact
    };
    let mut unknown = good.clone();
    unknown["extra"] = json!(1);
    let mut orphan = good.clone();
    orphan["derivedFrom"] = json!([Uuid::now_v7()]);
    for (artifact, word) in [
        (with("/workspaceId", json!("other")), "acts in default"),
        (with("/type", json!("no_such_type")), "no_such_type"),
        (with("/version", json!(2)), "first version is version 1"),
        (with("/jsonBody/risk_score", json!("high")), "risk_score"),
        (with("/createdAt", json!("2126-03-01T12:00:00Z")), "ahead"),
        (with("/id", json!("not-a-uuid")), "id"),
        (unknown, "extra"),
        (orphan, "derivedFrom"),
    ] {
        let refused = world.post("/artifacts", &agent, &artifact.to_string()).await;
        assert_eq!((refused.status, refused.problem().as_str()), (422, "invalid-arguments"), "{}", refused.text());
        assert!(refused.text().contains(word), "{word}: {}", refused.text());
        assert!(!refused.text().contains("p-1042"), "no values of patients: {}", refused.text());
    }
    // One byte more than there may be, and exactly as many.
    let mut large = good.clone();
    large["jsonBody"]["recommendation"] = json!("x");
    let base = serde_json::to_string(&large).expect("JSON").len();
    large["jsonBody"]["notes"] = json!("x".repeat((1 << 20) - base - 11));
    let fits = create(&world, &agent, &large).await;
    assert!(fits["payload"].as_str().is_some_and(|payload| payload.len() > 1 << 20));
    large["id"] = json!(Uuid::now_v7());
    large["jsonBody"]["notes"] = json!("x".repeat((1 << 20) - base - 10));
    let refused = world.post("/artifacts", &agent, &large.to_string()).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.text().contains("1048577 bytes in canonical form"), "{}", refused.text());
    assert_eq!(world.get("/artifacts", &agent).await.json().as_array().map(Vec::len), Some(1));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_and_are_revoked_and_old_signatures_are_told_apart() {
    let world = World::start_with(SETTINGS).await;
    let (agent, operator) = (world.agent("bot"), world.person("olga", &["operator"]));
    assert_eq!(world.get("/jwks/default", "").await.json(), json!({ "keys": [] }), "none before the first use");
    let ids = [Uuid::now_v7(), Uuid::now_v7()];
    let first = create(&world, &agent, &recommendation(ids[0], 1)).await;
    let old = keys(&world, "").await.keys()[0].kid().to_owned();
    let denied = world.post("/admin/keys/rotate", &agent, "{}").await;
    assert_eq!((denied.status, denied.problem().as_str()), (403, "forbidden"));
    let rotated = world.post("/admin/keys/rotate", &operator, r#"{"reason":"yearly"}"#).await;
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    let second = create(&world, &agent, &recommendation(ids[1], 1)).await;
    let set = keys(&world, "").await;
    assert_eq!(set.keys().len(), 2, "the old key stays");
    assert!(opened(&first, &set).is_ok() && opened(&second, &set).is_ok());
    let marked = world.get("/jwks/default", "").await;
    assert_eq!(marked.json()["keys"][0]["countersign_state"], "retired", "{}", marked.text());
    assert_eq!(marked.header("cache-control"), Some("public, max-age=300"));

    let path = format!("/admin/keys/{old}/revoke");
    let revoked = world.post(&path, &operator, r#"{"reason":"a backup was stolen"}"#).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    assert_eq!(world.post(&path, &operator, r#"{"reason":"again"}"#).await.status, 409);
    let set = keys(&world, "").await;
    assert!(set.get(&old).is_none(), "who looks at the set alone must not accept it any more");
    assert!(opened(&first, &set).is_err() && opened(&second, &set).is_ok());
    assert!(keys(&world, "?revoked=true").await.get(&old).is_some());
    // The log saw it before: the node, which has the log, still vouches for it.
    assert_eq!(verified(&world, &agent, ids[0]).await["valid"], true);
    let brought = json!({ "jws": first });
    let reply = world.post("/tools/artifacts:verify/invoke", &agent, &brought.to_string()).await.json();
    let report = &reply["result"]["structuredContent"];
    assert_eq!((&report["valid"], &report["reason"]), (&json!(false), &json!("key_revoked")), "{report}");
    let events = world.get("/audit/events?type=key.", &world.person("au", &["auditor"])).await.json();
    let kinds: Vec<&str> = events.as_array().expect("events").iter().filter_map(|e| e["type"].as_str()).collect();
    assert_eq!(kinds, ["key.created", "key.retired", "key.created", "key.revoked"]);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_not_handed_out_and_the_scrub_finds_it() {
    let world = World::start_with(SETTINGS).await;
    let (agent, operator) = (world.agent("bot"), world.person("olga", &["operator"]));
    let ids: Vec<Uuid> = (0..4).map(|_| Uuid::now_v7()).collect();
    for id in &ids {
        create(&world, &agent, &recommendation(*id, 1)).await;
    }
    let scrub = async || world.post("/admin/artifacts/scrub", &operator, "{}").await.json();
    let clean = scrub().await;
    assert_eq!((&clean["checked"], &clean["intact"], &clean["damaged"]), (&json!(4), &json!(4), &json!([])));
    let path = object(&world, ids[0], 1);
    let whole = fs::read(&path).expect("an object");
    fs::remove_file(&path).expect("removed");
    let path = object(&world, ids[1], 1);
    let mut changed = fs::read(&path).expect("an object");
    let last = changed.len() - 10;
    changed[last] ^= 1;
    overwrite(&path, &changed);
    // A signature of somebody else's over something else, in the place of the right one.
    overwrite(&object(&world, ids[2], 1), &whole);
    for id in &ids[..3] {
        let refused = world.get(&format!("/artifacts/{id}"), &agent).await;
        assert!(refused.status >= 500, "{}", refused.text());
        assert_eq!(verified(&world, &agent, *id).await["valid"], false);
    }
    assert_eq!(verified(&world, &agent, ids[3]).await["valid"], true);
    let found = scrub().await;
    let damaged: Vec<&str> =
        found["damaged"].as_array().expect("a list").iter().filter_map(|d| d["id"].as_str()).collect();
    assert_eq!(damaged, ids[..3].iter().map(Uuid::to_string).collect::<Vec<_>>(), "{found}");
    assert_eq!(world.post("/admin/artifacts/scrub", &agent, "{}").await.status, 403);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_that_is_away_leaves_nothing_half_made() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    let objects = world.path("data/objects");
    let id = Uuid::now_v7();
    fs::rename(&objects, world.path("data/away")).expect("moved");
    fs::write(&objects, b"not a directory").expect("written");
    let refused = world.post("/artifacts", &agent, &recommendation(id, 1).to_string()).await;
    assert_eq!((refused.status, refused.problem().as_str()), (502, "upstream-unavailable"), "{}", refused.text());
    assert_eq!(world.get("/artifacts", &agent).await.json(), json!([]));
    fs::remove_file(&objects).expect("removed");
    fs::rename(world.path("data/away"), &objects).expect("moved back");
    create(&world, &agent, &recommendation(id, 1)).await;
    assert_eq!(verified(&world, &agent, id).await["valid"], true);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn provenance_follows_what_was_made_from_what() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    for (n, id) in ids.iter().enumerate() {
        let mut artifact = recommendation(*id, 1);
        if n > 0 {
            artifact["derivedFrom"] = json!([ids[n - 1]]);
        }
        create(&world, &agent, &artifact).await;
    }
    let chain = async |id: Uuid| world.get(&format!("/artifacts/{id}/provenance"), &agent).await.json();
    let of = |chain: &Value, list: &str| -> Vec<String> {
        chain[list].as_array().expect("a list").iter().map(|e| e["id"].as_str().expect("an id").to_owned()).collect()
    };
    let last = chain(ids[2]).await;
    assert_eq!(of(&last, "sources"), [ids[1].to_string(), ids[0].to_string()]);
    assert_eq!(
        (&last["complete"], &last["evidence"][0]["source"]),
        (&json!(true), &json!("doi:10.1000/182")),
        "{last}"
    );
    assert_eq!(of(&chain(ids[0]).await, "derived"), [ids[1].to_string()]);
    fs::remove_file(object(&world, ids[0], 1)).expect("removed");
    let broken = chain(ids[2]).await;
    assert_eq!((&broken["complete"], &broken["broken"]), (&json!(false), &json!([ids[0]])), "{broken}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_say_what_was_touched_and_are_found_by_the_artifact() {
    let world = World::start_with(SETTINGS).await;
    let (agent, auditor) = (world.agent("bot"), world.person("au", &["auditor"]));
    let id = Uuid::now_v7();
    create(&world, &agent, &recommendation(id, 1)).await;
    world.get(&format!("/artifacts/{id}"), &agent).await;
    let stranger = world.person("eve", &[]);
    assert_eq!(world.get(&format!("/artifacts/{id}"), &stranger).await.status, 403);
    let declared = json!({
        "action": "export", "artifactId": id, "actor": "service:llm-x", "compliance_flags": ["PHI_ACCESSED"],
        "details": { "to": "printer" },
    });
    let reply = world.post("/audit/events", &agent, &declared.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let events = world.get(&format!("/audit/events?artifact_id={id}&workspace_id=default"), &auditor).await.json();
    let seen: Vec<(&str, &str, Value)> = events
        .as_array()
        .expect("events")
        .iter()
        .map(|e| {
            (
                e["type"].as_str().expect("a type"),
                e["tool"]["name"].as_str().expect("a tool"),
                e["compliance_flags"].clone(),
            )
        })
        .collect();
    let made = json!(["PHI_ACCESSED", "CLINICAL_DECISION"]);
    assert_eq!(
        seen,
        [
            ("call.intent", "create", made.clone()),
            ("call.completed", "create", made),
            ("call.completed", "get", json!(["PHI_ACCESSED"])),
            ("call.denied", "get", json!(["PHI_ACCESSED"])),
            ("call.completed", "declare", json!(["PHI_ACCESSED"])),
        ],
        "{events}"
    );
    let last = &events[4];
    assert_eq!(
        last["declared"],
        json!({ "action": "export", "actor": "service:llm-x", "details": { "to": "printer" } })
    );
    assert!((0..4).all(|n| events[n]["declared"].is_null()), "what the gate saw is never mixed up with it");
    // Offline, the receipt says the same.
    let receipt = world.get(&format!("/receipts/{}", last["id"].as_str().expect("an id")), &auditor).await;
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_goes_on_behind_the_last_one_that_was_seen() {
    let world = World::start_with(SETTINGS).await;
    let (agent, auditor) = (world.agent("bot"), world.person("au", &["auditor"]));
    create(&world, &agent, &recommendation(Uuid::now_v7(), 1)).await;
    let open = async |last: Option<&str>| {
        let mut stream = world.connect().await;
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let head = format!(
            "GET /audit/events/stream?type=call.completed HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {auditor}\r\n{last}\r\n",
            world.address()
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream
    };
    let until = async |stream: &mut tokio::net::TcpStream, wanted: usize| {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        while text.matches("\ndata: ").count() < wanted || !text.ends_with("\n\n\r\n") {
            let read = tokio::time::timeout(std::time::Duration::from_secs(20), stream.read(&mut buffer));
            let read = read.await.expect("in time").expect("readable");
            assert!(read > 0, "ended early: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        text
    };
    let ids = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect()
    };
    // From now on: what was before is not told.
    let mut live = open(None).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    create(&world, &agent, &recommendation(Uuid::now_v7(), 1)).await;
    create(&world, &agent, &recommendation(Uuid::now_v7(), 1)).await;
    let told = until(&mut live, 2).await;
    assert!(told.contains("text/event-stream") && told.contains("event: call.completed\n"), "{told}");
    let seen = ids(&told);
    assert_eq!(seen.len(), 2);
    drop(live);
    let again = until(&mut open(Some(&seen[0])).await, 1).await;
    assert_eq!(ids(&again), seen[1..], "one was seen before");
    let wrong = world.send("GET", "/audit/events/stream", &auditor, &[("last-event-id", "x")], None).await;
    assert_eq!(wrong.status, 400);
    assert_eq!(world.get("/audit/events/stream", "").await.status, 401);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_mcp_artifacts_are_tools_and_another_workspace_sees_none() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    let id = Uuid::now_v7();
    let call = async |token: &str, name: &str, arguments: Value| {
        let message = json!({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": name, "arguments": arguments },
        });
        let headers = [("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-11-25")];
        world.send("POST", "/mcp/artifacts", token, &headers, Some(&message.to_string())).await.json()
    };
    let made = call(&agent, "create", recommendation(id, 1)).await;
    assert_eq!(made["result"]["structuredContent"]["version"], 1, "{made}");
    let got = call(&agent, "get", json!({ "id": id })).await;
    assert_eq!(got["result"]["structuredContent"]["artifact"], recommendation(id, 1), "{got}");
    let elsewhere = world.token(countersign_server::MintRequest {
        sub: "bot".into(),
        kind: Some("agent".into()),
        roles: vec!["finance-write".into()],
        workspace: Some("elsewhere".into()),
        ..Default::default()
    });
    let hidden = call(&elsewhere, "get", json!({ "id": id })).await;
    assert_eq!(hidden["result"]["isError"], true, "{hidden}");
    let own = call(&elsewhere, "create", {
        let mut a = recommendation(id, 1);
        a["workspaceId"] = json!("elsewhere");
        a
    })
    .await;
    assert_eq!(own["result"]["structuredContent"]["version"], 1, "names are a workspace's own: {own}");
    world.node.shutdown().await;
}
