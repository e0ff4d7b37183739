//! Logs of Rekor's first version that the configuration names. The entries, and the log's signatures over them, are real ones of the public
//! instance (`crates/trust/tests/data/sigstore/SOURCE.md`); who answers with them is a service of this test.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::digest::Digest;
use countersign_proof::merkle::leaf_hash;
use countersign_testkit::service::{Asked, Reply, Service};
use countersign_trust::bundle::{Bundle, Material};
use countersign_trust::pem::{CERTIFICATE, encode};
use serde_json::{Value, json};

use crate::support::World;

const SIGNER: &str = "w.vollprecht@gmail.com";
const ISSUER: &str = "https://github.com/login/oauth";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../trust/tests/data/sigstore").join(name)
}

fn data(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bundle(name: &str) -> Bundle {
    Bundle::parse(&data(name)).expect("a bundle")
}

/// An entry's name and the log's answer.
fn entry(bundle: &Bundle) -> (String, Value) {
    let entry = &bundle.entries[0];
    let proof = entry.proof.as_ref().expect("it has one");
    let name = format!("108e9186e8c5677a{}", hex(&leaf_hash(&entry.body)));
    let answer = json!({ name.as_str(): {
        "body": STANDARD.encode(&entry.body), "integratedTime": entry.integrated_time, "logID": hex(&entry.log_id),
        "logIndex": entry.log_index,
        "verification": {
            "inclusionProof": {
                "checkpoint": proof.checkpoint, "hashes": proof.hashes.iter().map(|h| hex(h)).collect::<Vec<_>>(),
                "logIndex": proof.index, "rootHash": hex(&proof.root), "treeSize": proof.size,
            },
            "signedEntryTimestamp": STANDARD.encode(entry.promise.as_deref().expect("it has one")),
        },
    } });
    (name, answer)
}

/// A log with these entries, that answers searches with all of them, and entries as a function says.
type Becomes = Box<dyn Fn(&Asked, Reply) -> Reply + Send + Sync>;
type Change = Arc<Mutex<Becomes>>;

fn log(copies: usize) -> (Service, Change) {
    let entries: Vec<_> = ["cosign.sigstore.json", "key.sigstore.json"].map(|name| entry(&bundle(name))).into();
    let change: Change = Arc::new(Mutex::new(Box::new(|_, reply| reply)));
    let changed = Arc::clone(&change);
    let service = Service::start(move |asked| {
        let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).cycle().take(copies).collect();
        let reply = match (asked.method.as_str(), asked.path.as_str()) {
            ("POST", "/v1log/api/v1/index/retrieve") => Reply::json(200, json!(names).to_string()),
            ("GET", path) => {
                let found = entries.iter().find(|(name, _)| path == format!("/v1log/api/v1/log/entries/{name}"));
                found.map_or_else(|| Reply::json(404, "{}"), |(_, answer)| Reply::json(200, answer.to_string()))
            }
            _ => Reply::json(405, "{}"),
        };
        let change = changed.lock().expect("nobody panicked");
        change(asked, reply)
    });
    (service.expect("a free port"), change)
}

async fn world(service: &Service) -> World {
    let settings = format!(
        "[trust]\nenabled = true\n[[trust.logs]]\nname = \"public\"\nurl = \"{}/v1log\"\ntrusted_root = \"{}\"\n[limits.breakers]\nenabled = false\n",
        service.url(),
        path("public-good.json").display()
    );
    World::start_with(&settings).await
}

async fn verify(world: &World, body: &Value) -> (u16, Value) {
    let reply = world.post("/v1/verify", &world.agent("bot"), &body.to_string()).await;
    (reply.status, reply.json())
}

/// cosign's signature of `cosign.txt`, as `cosign sign-blob` writes it.
fn cosign() -> Value {
    let bundle = bundle("cosign.sigstore.json");
    let Material::Certificate(der) = &bundle.material else { panic!("a certificate") };
    json!({
        "artifact": Digest::of(&data("cosign.txt")).to_string(),
        "signature": STANDARD.encode(bundle.content.signature()),
        "certificate": STANDARD.encode(encode(der, CERTIFICATE)),
        "identity": SIGNER, "issuer": ISSUER,
    })
}

fn with(mut body: Value, member: &str, value: Value) -> Value {
    body[member] = value;
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_without_a_bundle_is_proved_by_the_log_that_is_named() {
    let (service, _) = log(2);
    let world = world(&service).await;
    let (status, found) = verify(&world, &with(cosign(), "log", json!("public"))).await;
    assert_eq!((status, &found["valid"], &found["signer"]), (200, &json!(true), &json!(SIGNER)), "{found}");
    assert_eq!(found["timestamps"][0]["by"], "https://rekor.sigstore.dev", "{found}");
    assert!(found["certificate_chain"][0].as_str().is_some_and(|pem| pem.starts_with("-----BEGIN")));
    assert!(found["transparency_index"].is_u64(), "{found}");

    // By somebody else, or of something else.
    let bob = with(with(cosign(), "log", json!("public")), "identity", json!("bob@example.com"));
    assert_eq!(verify(&world, &bob).await.1["reason"], "identity_mismatch");
    let other = with(with(cosign(), "log", json!("public")), "artifact", json!(Digest::of(b"x").to_string()));
    assert_eq!(verify(&world, &other).await.1["valid"], false);

    // Without the log: nobody says when, so that the certificate proves nothing.
    let root: Value = serde_json::from_slice(&data("public-good.json")).expect("JSON");
    let (_, alone) = verify(&world, &with(cosign(), "trusted_root", root)).await;
    assert_eq!((&alone["valid"], &alone["reason"]), (&json!(false), &Value::Null), "{alone}");
    assert!(alone["not_checked"].to_string().contains("when it was signed"), "{alone}");

    // A key, offline and by the log.
    let key = bundle("key.sigstore.json");
    let body = json!({
        "artifact": Digest::of(&data("key.txt")).to_string(), "signature": STANDARD.encode(key.content.signature()),
        "public_key": String::from_utf8(data("key.pem")).expect("text"),
    });
    let (_, offline) = verify(&world, &body).await;
    assert!(offline["valid"] == true && offline["timestamps"] == json!([]), "{offline}");
    let (_, logged) = verify(&world, &with(body.clone(), "log", json!("public"))).await;
    assert!(
        logged["valid"] == true && logged["timestamps"].as_array().is_some_and(|times| times.len() == 1),
        "{logged}"
    );

    // What does not fit together, and logs that nobody configured.
    for (body, expected) in [
        (with(cosign(), "log", json!("http://169.254.169.254/")), 404),
        (with(cosign(), "public_key", json!("x")), 422),
        (with(cosign(), "bundle", json!({})), 422),
        (with(cosign(), "certificate", json!("no PEM")), 422),
        (with(json!({ "artifact": cosign()["artifact"], "identity": "x" }), "log", json!("public")), 422),
    ] {
        assert_eq!(verify(&world, &body).await.0, expected, "{body}");
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_log_is_searched_by_artifact_or_mail_a_page_at_a_time() {
    let (service, change) = log(13);
    let world = world(&service).await;
    let agent = world.agent("bot");
    let artifact = Digest::of(&data("cosign.txt"));
    let page = world.get(&format!("/v1/transparency?log=public&artifact={artifact}"), &agent).await;
    assert_eq!(page.status, 200, "{}", page.text());
    let entries = page.json();
    assert_eq!(entries.as_array().map(Vec::len), Some(10));
    let first = &entries[0];
    assert_eq!(
        (&first["signer"], &first["artifact"], &first["log"]),
        (&json!(SIGNER), &json!(artifact.to_string()), &json!("public"))
    );
    assert_eq!(
        [&first["verified"], &first["inclusion_verified"], &first["promise_verified"]],
        [&json!(true); 3],
        "{first}"
    );
    let next = page
        .header("link")
        .expect("another page")
        .trim_start_matches('<')
        .split('>')
        .next()
        .expect("a path")
        .to_owned();
    let rest = world.get(&next, &agent).await;
    assert_eq!((rest.json().as_array().map(Vec::len), rest.header("link")), (Some(3), None));

    let mine =
        world.get(&format!("/v1/transparency?log=public&artifact={artifact}&signer={SIGNER}&limit=4"), &agent).await;
    assert_eq!(mine.json().as_array().map(Vec::len), Some(2), "{}", mine.text());
    let mail = world.get(&format!("/v1/transparency?log=public&signer={SIGNER}&end_date=2025-12-05"), &agent).await;
    assert_eq!(mail.json().as_array().map(Vec::len), Some(5), "{}", mail.text());
    let asked = service.asked();
    let search = |member: &str| asked.iter().any(|asked| String::from_utf8_lossy(&asked.body).contains(member));
    assert!(search("\"hash\":\"sha256:") && search("\"email\":\""));
    for (query, expected) in [
        ("log=public", 422),
        ("log=public&signer=https://example.com/x", 422),
        ("log=public&artifact=sha256:00", 422),
        (&format!("log=public&artifact={artifact}&cursor=x"), 422),
        (&format!("log=public&artifact={artifact}&artifact_type=sbom"), 422),
        (&format!("log=elsewhere&artifact={artifact}"), 404),
    ] {
        let refused = world.get(&format!("/v1/transparency?{query}"), &agent).await;
        assert_eq!(refused.status, expected, "{query}: {}", refused.text());
    }

    // A changed entry is shown as what it is: another, or one that is not proved.
    let set = |with: Becomes| *change.lock().expect("nobody panicked") = with;
    let text = |reply: &Reply| match reply {
        Reply::Http { body, .. } => String::from_utf8_lossy(body).into_owned(),
        _ => String::new(),
    };
    set(Box::new(move |asked, reply| match asked.method.as_str() {
        "GET" => {
            Reply::json(200, text(&reply).replace("\"integratedTime\":1764787003", "\"integratedTime\":1764787004"))
        }
        _ => reply,
    }));
    let path = format!("/v1/transparency?log=public&artifact={artifact}&limit=1");
    let unproved = world.get(&path, &agent).await.json();
    assert_eq!(
        (&unproved[0]["verified"], &unproved[0]["problems"][0]["code"]),
        (&json!(false), &json!("promise_wrong"))
    );
    let answer = entry(&bundle("key.sigstore.json")).1.to_string();
    set(Box::new(move |asked, reply| if asked.method == "GET" { Reply::json(200, answer.clone()) } else { reply }));
    let other = world.get(&path, &agent).await.json();
    assert!(other[0]["verified"] == false && other[0]["problem"].to_string().contains("another entry"), "{other}");

    // One that does not answer, or with too much.
    for (with, why) in [
        (Reply::json(500, "{}"), "status 500"),
        (Reply::json(200, "[\"x\"]"), "entry's name"),
        (Reply::json(200, format!("[{}\"\"]", "\"\",".repeat(400_000))), "longer than"),
        (Reply::Close, ""),
        (Reply::Silence(Duration::from_secs(17)), "before the deadline"),
    ] {
        set(Box::new(move |_, _| with.clone()));
        let refused = world.get(&path, &agent).await;
        assert!(refused.status == 502 && refused.text().contains(why), "{why}: {}", refused.text());
    }
    world.node.shutdown().await;
}
