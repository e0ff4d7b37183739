//! Scans, reviews, readiness, anomalies, reports, notices and packages, as tools of a running node.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use countersign_proof::digest::Digest;
use countersign_server::MintRequest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::World;

const SETTINGS: &str = "[trust]\nenabled = true\n";

fn digest(artifact: &[u8]) -> String {
    Digest::of(artifact).to_string()
}

async fn ask(world: &World, token: &str, path: &str, body: &Value) -> Value {
    let reply = world.post(path, token, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

/// A person who may use tools, with a team's role.
fn person(world: &World, name: &str, team: &str) -> String {
    world.person(name, &["finance-write", team])
}

fn sarif(severity: &str, artifact: &str) -> Value {
    let rule = json!({ "id": "CVE-2026-1", "properties": { "security-severity": severity } });
    json!({
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "scanner", "version": "1.0", "rules": [rule] } },
            "results": if severity == "0" { json!([]) } else { json!([{
                "ruleId": "CVE-2026-1", "level": "error", "message": { "text": artifact },
            }]) },
        }],
    })
}

/// Answers every request with what it is told, and keeps what was asked.
async fn service(answers: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (kept, answers) = (Arc::clone(&asked), Arc::new(answers));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (kept, answers) = (Arc::clone(&kept), Arc::clone(&answers));
            tokio::spawn(async move {
                let mut request = Vec::new();
                let mut buffer = [0; 8192];
                loop {
                    let read = stream.read(&mut buffer).await.unwrap_or(0);
                    request.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let length = text
                        .lines()
                        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
                        .and_then(|length| length.trim().parse::<usize>().ok())
                        .unwrap_or(0);
                    let whole = text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.len() >= length);
                    if whole || read == 0 {
                        break;
                    }
                }
                let text = String::from_utf8_lossy(&request).into_owned();
                let (status, body) = answers(text.split(' ').nth(1).unwrap_or_default());
                kept.lock().expect("nobody panicked").push(text);
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deployed_was_signed_scanned_and_reviewed_by_somebody_else() {
    let world = World::start_with(SETTINGS).await;
    let marcus = person(&world, "marcus", "development");
    let sarah = person(&world, "sarah", "security");
    let (old, new) = (digest(b"api 1.2.0"), digest(b"api 1.2.1"));
    let sign = async |artifact: &str, subject: &str, statement: bool| {
        let mut body = json!({ "artifact": artifact, "artifact_type": "container_image", "subject": subject });
        if statement {
            body["statement"] = json!({ "predicate_type": "https://slsa.dev/provenance/v1", "predicate": {} });
        }
        ask(&world, &marcus, "/v1/sign", &body).await
    };
    sign(&old, "api:v1.2.0", false).await;
    let wanted = json!({ "artifact": "api:v1.2.1", "teams": ["security"], "required": { "rollback": true } });
    let missing = world.post("/v1/readiness", &sarah, &wanted.to_string()).await;
    assert_eq!((missing.status, missing.problem().as_str()), (404, "not-found"), "{}", missing.text());
    sign(&new, "api:v1.2.1", false).await;
    sign(&new, "api:v1.2.1", true).await;
    let not_yet = ask(&world, &sarah, "/v1/readiness", &wanted).await;
    assert_eq!(not_yet["ready"], false, "{not_yet}");

    // A grave finding, and then none by the same scanner: the newer answers the older.
    for (severity, passed) in [("9.8", false), ("0", true)] {
        let added =
            ask(&world, &marcus, "/v1/scans", &json!({ "artifact": new, "document": sarif(severity, "api") })).await;
        assert_eq!(added["artifact"], new);
        let checked = ask(&world, &sarah, "/v1/scans/check", &json!({ "artifact": "api:v1.2.1" })).await;
        assert_eq!(checked["passed"], passed, "{checked}");
    }
    let nonsense =
        world.post("/v1/scans", &marcus, &json!({ "artifact": new, "document": { "a": 1 } }).to_string()).await;
    assert_eq!((nonsense.status, nonsense.problem().as_str()), (422, "invalid-arguments"));

    // Who signed does not review it; who is of no team does not speak for it; an agent is nobody.
    let review = json!({ "artifact": "api:v1.2.1", "team": "security", "decision": "approved" });
    let other = world.post("/v1/reviews", &marcus, &review.to_string()).await;
    assert!(other.status == 422 && other.text().contains("role"), "{}", other.text());
    let agent = world.post("/v1/reviews", &world.agent("bot"), &review.to_string()).await;
    assert!(agent.status == 422 && agent.text().contains("person"), "{}", agent.text());
    let both = world.person("marcus", &["finance-write", "security"]);
    let own = ask(&world, &both, "/v1/reviews", &review).await;
    assert_eq!(own["standing"]["set_aside"].as_array().map(Vec::len), Some(1), "his own work: {own}");
    let still = ask(&world, &sarah, "/v1/readiness", &wanted).await;
    assert_eq!(still["ready"], false, "{still}");
    let silent = json!({ "artifact": new, "team": "security", "decision": "rejected" });
    assert_eq!(world.post("/v1/reviews", &sarah, &silent.to_string()).await.status, 422, "an objection says why");
    ask(&world, &sarah, "/v1/reviews", &review).await;
    let ready = ask(&world, &sarah, "/v1/readiness", &wanted).await;
    assert_eq!((&ready["ready"], &ready["reasons"]), (&json!(true), &json!([])), "{ready}");

    // An agent that acts for him is his hand: what it signs he does not review either.
    let hand = world.token(MintRequest {
        sub: "marcus".into(),
        act: Some("release-bot".into()),
        roles: vec!["finance-write".into(), "security".into()],
        ..MintRequest::default()
    });
    let by_hand = digest(b"api 1.2.2");
    ask(&world, &hand, "/v1/sign", &json!({ "artifact": by_hand, "artifact_type": "container_image" })).await;
    let own = json!({ "artifact": by_hand, "team": "security", "decision": "approved" });
    let own = ask(&world, &both, "/v1/reviews", &own).await;
    assert_eq!(own["standing"]["set_aside"].as_array().map(Vec::len), Some(1), "{own}");

    let report = ask(&world, &sarah, "/v1/compliance", &json!({})).await;
    assert_eq!(
        (&report["report"]["status"], &report["report"]["reviews"]["approved"]),
        (&json!("complete"), &json!(3)),
        "{report}"
    );
    let types = report["report"]["types"].as_array().expect("types");
    assert_eq!((types.len(), &types[0]["artifacts"]), (1, &json!(3)), "scans are no artifacts of their own: {report}");
    assert!(
        report["markdown"].as_str().is_some_and(|text| text.starts_with('#') && text.contains("container")),
        "{report}"
    );
    let elsewhere = world.token(MintRequest {
        sub: "eve".into(),
        kind: Some("person".into()),
        workspace: Some("elsewhere".into()),
        roles: vec!["finance-write".into()],
        ..MintRequest::default()
    });
    let hidden = world.post("/v1/readiness", &elsewhere, &json!({ "artifact": "api:v1.2.1" }).to_string()).await;
    assert_eq!(hidden.status, 404, "{}", hidden.text());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_sign_does_not_say_what_scanners_found() {
    let world = World::start_with(SETTINGS).await;
    let marcus = person(&world, "marcus", "development");
    let (released, harmless) = (digest(b"released"), digest(b"harmless"));
    let scan = async |artifact: &str, severity: &str| {
        let document = sarif(severity, "api");
        ask(&world, &marcus, "/v1/scans", &json!({ "artifact": artifact, "document": document })).await["scan"].clone()
    };
    let (grave, clean) = (scan(&released, "9.8").await, scan(&harmless, "0").await);
    assert_ne!(grave, clean);
    let check = async || ask(&world, &marcus, "/v1/scans/check", &json!({ "artifact": released })).await;
    assert_eq!(check().await["passed"], false);

    let metadata = json!({ "scan_id": released, "scan": clean });
    let forged = json!({ "artifact": digest(b"a document"), "artifact_type": "scan_result", "metadata": metadata });
    ask(&world, &marcus, "/v1/sign", &forged).await;
    let checked = check().await;
    assert_eq!((&checked["passed"], checked["scans"].as_array().map(Vec::len)), (&json!(false), Some(1)), "{checked}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unusual_is_told_by_numbers_and_a_thin_baseline_is_not_called_normal() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    for n in 0..4_u8 {
        ask(&world, &agent, "/v1/sign", &json!({ "artifact": digest(&[n]), "artifact_type": "sbom" })).await;
        let wrong = json!({ "artifact": digest(&[n]), "identity": "https://somebody.example/else" });
        assert_eq!(ask(&world, &agent, "/v1/verify", &wrong).await["valid"], false);
    }
    let found = ask(&world, &agent, "/v1/anomalies", &json!({})).await;
    assert_ne!(found["status"], "normal", "{found}");
    assert_eq!(
        (&found["baseline"]["sufficient"], &found["activity"][0]["signatures"]),
        (&json!(false), &json!(4)),
        "{found}"
    );
    let wrong = world.post("/v1/anomalies", &agent, r#"{"settings":{"failure_rate":7}}"#).await;
    assert_eq!(wrong.status, 422, "{}", wrong.text());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_is_told_by_a_signed_webhook() {
    let (url, asked) = service(|_| (200, "{}".into())).await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secret");
    std::fs::write(&file, secret).expect("written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let settings = format!(
        "{SETTINGS}[[trust.teams]]\nname = \"security\"\nwebhook = \"{url}/hook\"\nsecret_file = {:?}\n",
        file.display().to_string()
    );
    let world = World::start_with(&settings).await;
    let agent = world.agent("bot");
    let told = ask(
        &world,
        &agent,
        "/v1/notifications",
        &json!({ "team": "security", "artifact": "api:v1.2.1", "text": "ready for review" }),
    )
    .await;
    assert_eq!(told["notified"], true, "{told}");
    let sent = asked.lock().expect("nobody panicked").pop().expect("a request");
    assert!(
        sent.starts_with("POST /hook ") && sent.contains("webhook-signature: v1,") && sent.contains("ready for review"),
        "{sent}"
    );
    let unknown = world.post("/v1/notifications", &agent, r#"{"team":"ops","artifact":"x"}"#).await;
    assert_eq!((unknown.status, unknown.problem().as_str()), (404, "not-found"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_denied_by_the_list_alone_and_never_clean_by_silence() {
    let (osv, asked) = service(|_| (200, r#"{"vulns":[]}"#.into())).await;
    let dir = tempfile::tempdir().expect("a directory");
    let list = "deny:\n  - ecosystem: pypi\n    name: evil\n    version: \"*\"\n    reason: it steals\nallow: []\n";
    std::fs::write(dir.path().join("default.yaml"), list).expect("written");
    // Nobody listens there.
    let settings = format!(
        "{SETTINGS}[trust.packages]\nlists = {:?}\nsources = {{ pypi = \"http://127.0.0.1:1\", osv = \"{osv}\" }}\n",
        dir.path().display().to_string()
    );
    let world = World::start_with(&settings).await;
    let agent = world.agent("bot");
    let check = async |package: &str| ask(&world, &agent, "/v1/packages/verify", &json!({ "package": package })).await;
    let denied = check("pypi:evil==1.0").await;
    assert_eq!(denied["verdict"], "denied", "{denied}");
    assert!(asked.lock().expect("nobody panicked").is_empty(), "nobody was asked");
    let unknown = check("pypi:requests==2.31.0").await;
    assert_eq!(unknown["verdict"], "unknown", "the registry did not answer: {unknown}");
    assert_eq!(asked.lock().expect("nobody panicked").len(), 1);
    let malformed = world.post("/v1/packages/verify", &agent, r#"{"package":"requests"}"#).await;
    assert_eq!(malformed.status, 422, "{}", malformed.text());
    world.node.shutdown().await;
}
