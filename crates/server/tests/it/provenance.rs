//! Where signed things are kept: documents of scans as objects, images in a registry, entries in the log, and what it means if one of
//! them is gone, changed or cannot be reached. Pages over many entries.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_egress::{Egress, EgressConfig};
use countersign_ledger::state::StateOp;
use countersign_ledger::trust::{TrustKind, TrustRow};
use countersign_ledger::{Append, Ledger, LedgerOptions};
use countersign_proof::digest::Digest;
use countersign_registry::{Named, Reference, Registries, Settings};
use countersign_server::keys::{SeedKind, read_seed};
use countersign_server::{Config, MintRequest};
use countersign_store::SqliteStore;
use countersign_testkit::registry::DockerRegistry;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::World;

const SETTINGS: &str = "[trust]\nenabled = true\n";
/// As a scanner may write it: with white space, numbers and an order that no program of ours would choose.
const REPORT: &str = "{ \"version\" : \"2.1.0\",\n  \"runs\": [ {\"results\":[], \"tool\": {\"driver\": {\"version\":\"1.50\", \"name\": \"Trivy\",\
    \"properties\": {\"ratio\": 1.50, \"note\": \"gr\\u00fcn\"}}}} ] }";

fn digest(artifact: &[u8]) -> String {
    Digest::of(artifact).to_string()
}

async fn add(world: &World, token: &str, artifact: &str, document: &str) -> Value {
    let body = format!("{{\"artifact\": \"{artifact}\", \"document\": {document}, \"subject\": \"trivy\"}}");
    let reply = world.post("/v1/scans", token, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

async fn sign(world: &World, token: &str, body: &Value) -> Value {
    let reply = world.post("/v1/sign", token, &body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

async fn manifest(world: &World, token: &str, scan_id: &str) {
    let metadata = json!({ "scan_id": scan_id });
    let body = json!({ "artifact": digest(b"manifest"), "artifact_type": "scan_manifest", "metadata": metadata });
    sign(world, token, &body).await;
}

async fn provenance(world: &World, token: &str, about: &str) -> Value {
    let reply = world.get(&format!("/v1/provenance/{about}"), token).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn outcome(chain: &Value) -> (&str, &str) {
    (chain["chain_status"].as_str().expect("a status"), chain["trust_level"].as_str().expect("a level"))
}

/// How the place of a kind was found, at the first signature that has one.
fn place<'a>(chain: &'a Value, kind: &str) -> &'a Value {
    let scans = chain["scans"].as_array().expect("scans").iter();
    let mut places = scans.flat_map(|scan| scan["storage_locations"].as_array().expect("places"));
    places.find(|place| place["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {chain}"))
}

fn object(world: &World, document: &str) -> PathBuf {
    let hex = document.strip_prefix("sha256:").expect("a digest");
    world.path(&format!("data/objects/objects/scans/default/{hex}.json"))
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_scans_are_kept_byte_for_byte_and_handed_out_to_their_workspace() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    let about = digest(b"api");
    let added = add(&world, &agent, &about, REPORT).await;
    assert_eq!(added["document"], digest(REPORT.as_bytes()), "the digest of what the scanner wrote: {added}");
    let twice = add(&world, &agent, &about, REPORT).await;
    assert_ne!(twice["entry_id"], added["entry_id"]);

    let world = world.restart().await;
    let path = format!("/v1/scans/{}", added["document"].as_str().expect("a digest"));
    let fetched = world.get(&path, &agent).await;
    assert_eq!((fetched.status, fetched.text().as_str()), (200, REPORT));
    assert_eq!(fetched.header("content-type"), Some("application/sarif+json"));
    let stated = format!("sha-256=:{}:", Digest::of(REPORT.as_bytes()).to_base64());
    assert_eq!(fetched.header("repr-digest"), Some(stated.as_str()));
    assert!(fetched.header("countersign-receipt").is_some(), "{}", fetched.head);
    let by_entry = json!({ "entry_id": added["entry_id"] });
    let told = world.post("/tools/trust:get_scan/invoke", &agent, &by_entry.to_string()).await.json();
    let told = &told["result"]["structuredContent"];
    assert_eq!(
        (&told["text"], &told["artifact"], &told["size"]),
        (&json!(REPORT), &json!(about), &json!(REPORT.len()))
    );
    assert_eq!(told["entry_id"], added["entry_id"]);

    let elsewhere = world.token(MintRequest {
        sub: "eve".into(),
        kind: Some("agent".into()),
        workspace: Some("elsewhere".into()),
        roles: vec!["finance-write".into()],
        ..MintRequest::default()
    });
    let hidden = world.get(&path, &elsewhere).await;
    assert_eq!((hidden.status, hidden.problem().as_str()), (404, "not-found"));
    let unknown = world.get(&format!("/v1/scans/{}", digest(b"x")), &agent).await;
    assert_eq!((unknown.status, unknown.problem().as_str()), (404, "not-found"));
    assert_eq!(world.get("/v1/scans/nonsense", &agent).await.status, 422);
    let neither = world.post("/tools/trust:get_scan/invoke", &agent, "{}").await;
    assert!(neither.text().contains("entry_id"), "{}", neither.text());
    let other = sign(&world, &agent, &json!({ "artifact": digest(b"y"), "artifact_type": "scan_result" })).await;
    let not_kept = world.get(&format!("/v1/scans/{}", other["artifact"].as_str().expect("a digest")), &agent).await;
    assert_eq!(not_kept.status, 404, "only its digest was ever here: {}", not_kept.text());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_gone_or_changed_is_not_handed_out_and_ends_the_chain() {
    let world = World::start_with(SETTINGS).await;
    let (agent, operator) = (world.agent("bot"), world.person("olga", &["operator"]));
    let about = digest(b"api");
    let added = add(&world, &agent, &about, REPORT).await;
    manifest(&world, &agent, &about).await;
    let document = added["document"].as_str().expect("a digest");
    let path = format!("/v1/scans/{document}");
    let whole = provenance(&world, &agent, &about).await;
    assert_eq!(outcome(&whole), ("complete", "high"), "{whole}");
    assert_eq!(
        (&place(&whole, "object")["status"], &place(&whole, "object")["digest"]),
        (&json!("intact"), &json!(document))
    );
    let log = place(&whole, "transparency_log");
    assert_eq!(
        (&log["status"], &log["index"]),
        (&json!("intact"), &whole["scans"][0]["transparency_index"]),
        "{whole}"
    );
    assert_eq!((&whole["scans"][0]["about"], &whole["scans"][0]["tools"][0]["name"]), (&json!(about), &json!("Trivy")));
    let locations = &whole["storage_locations"];
    assert_eq!(
        (&locations["objects"]["intact"], &locations["transparency_log"]["entries"]["intact"]),
        (&json!(1), &json!(2))
    );
    assert!(locations["transparency_log"]["origin"].is_string(), "{locations}");
    let scrub = async || world.post("/admin/artifacts/scrub", &operator, "{}").await.json();
    let clean = scrub().await;
    assert_eq!((&clean["documents"], &clean["documents_intact"], &clean["orphans"]), (&json!(1), &json!(1), &json!(0)));

    let file = object(&world, document);
    let kept = fs::read(&file).expect("an object");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
    let mut changed = kept.clone();
    changed[20] ^= 1;
    fs::write(&file, &changed).expect("written");
    let broken = provenance(&world, &agent, &about).await;
    assert_eq!(outcome(&broken), ("broken", "none"), "{broken}");
    assert_eq!((&place(&broken, "object")["status"], &broken["scans"][0]["valid"]), (&json!("changed"), &json!(true)));
    assert_eq!(world.get(&path, &agent).await.status, 502);
    fs::remove_file(&file).expect("removed");
    let gone = provenance(&world, &agent, &about).await;
    assert_eq!(outcome(&gone), ("partial", "low"), "{gone}");
    assert!(gone["reasons"].to_string().contains("1 of 1 kept documents are missing"), "{gone}");
    assert_eq!(world.get(&path, &agent).await.status, 502);
    let found = scrub().await;
    assert_eq!(
        (&found["documents_intact"], &found["damaged_documents"][0]["entry_id"]),
        (&json!(0), &added["entry_id"])
    );
    // The same document, handed in again, mends it: its name and bytes are the same.
    add(&world, &agent, &about, REPORT).await;
    assert_eq!(outcome(&provenance(&world, &agent, &about).await), ("complete", "high"));
    assert_eq!(world.get(&path, &agent).await.text(), REPORT);
    assert_eq!(scrub().await["documents_intact"], 2);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_object_store_a_node_takes_no_scan_and_calls_no_chain_complete() {
    let world = World::start_with(SETTINGS).await;
    let agent = world.agent("bot");
    let about = digest(b"api");
    add(&world, &agent, &about, REPORT).await;
    manifest(&world, &agent, &about).await;
    let objects = world.path("data/objects");
    fs::rename(&objects, world.path("data/away")).expect("moved");
    fs::write(&objects, b"not a directory").expect("written");
    let other = REPORT.replace("Trivy", "Grype");
    let body = format!("{{\"artifact\": \"{about}\", \"document\": {other}}}");
    let refused = world.post("/v1/scans", &agent, &body).await;
    assert_eq!((refused.status, refused.problem().as_str()), (502, "upstream-unavailable"), "{}", refused.text());
    let blind = provenance(&world, &agent, &about).await;
    assert_eq!(
        (outcome(&blind), &place(&blind, "object")["status"]),
        (("partial", "medium"), &json!("unavailable")),
        "{blind}"
    );
    assert!(!blind.to_string().contains("data/objects"), "no paths of the node: {blind}");

    fs::remove_file(&objects).expect("removed");
    fs::rename(world.path("data/away"), &objects).expect("moved back");
    let listed = world.get("/v1/transparency", &agent).await.json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "nothing of the refused one: {listed}");
    let checked = world.post("/v1/scans/check", &agent, &json!({ "artifact": about }).to_string()).await.json();
    assert_eq!(checked["scans"].as_array().map(Vec::len), Some(1), "{checked}");
    assert_eq!(world.get(&format!("/v1/scans/{}", digest(other.as_bytes())), &agent).await.status, 404);
    // What can never be signed is refused before it is stored.
    let nonsense = format!("{{\"artifact\": \"{about}\", \"document\": {{\"version\": \"9\"}}}}");
    assert_eq!(world.post("/v1/scans", &agent, &nonsense).await.status, 422);
    let kept = fs::read_dir(world.path("data/objects/objects/scans/default")).expect("a directory").count();
    assert_eq!(kept, 1);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_are_told_apart_from_verifications_and_the_trail_can_be_left_out() {
    let world = World::start_with(SETTINGS).await;
    let (agent, sarah) = (world.agent("bot"), world.person("sarah", &["finance-write", "security"]));
    let artifact = digest(b"api");
    let body = json!({ "artifact": artifact, "artifact_type": "scan_manifest", "subject": "api:1" });
    sign(&world, &agent, &body).await;
    let review = json!({ "artifact": "api:1", "team": "security", "decision": "rejected", "comment": "not yet" });
    assert_eq!(world.post("/v1/reviews", &sarah, &review.to_string()).await.status, 200);
    assert_eq!(
        world.post("/v1/verify", &agent, &json!({ "artifact": artifact }).to_string()).await.json()["valid"],
        true
    );
    let chain = provenance(&world, &agent, "api:1").await;
    assert_eq!(chain["verification_trail"].as_array().map(Vec::len), Some(1), "{chain}");
    let by_digest = provenance(&world, &agent, &artifact).await;
    assert_eq!(outcome(&by_digest), ("complete", "high"), "an objection is no failed verification: {by_digest}");
    assert_eq!(
        (&by_digest["reviews"][0]["decision"], &by_digest["reviews"][0]["team"]),
        (&json!("rejected"), &json!("security"))
    );
    let short = provenance(&world, &agent, &format!("{artifact}?include_verification_trail=false")).await;
    assert_eq!(short["verification_trail"], json!([]));
    let named = json!({ "artifact": "api:1", "include_verification_trail": true });
    let named = world.post("/tools/trust:get_provenance/invoke", &agent, &named.to_string()).await.json();
    assert_eq!(named["result"]["structuredContent"]["chain_status"], "complete", "{named}");
    for wrong in [json!({}), json!({ "scan_id": "a", "artifact": "b" })] {
        let refused = world.post("/tools/trust:get_provenance/invoke", &agent, &wrong.to_string()).await.text();
        assert!(refused.contains("give a scan_id, or an artifact"), "{refused}");
    }
    assert_eq!(world.get("/v1/provenance/x?scenario=tampered_scan", &agent).await.status, 422, "no scenarios here");
    assert_eq!(world.get("/v1/provenance/x?scan_id=y", &agent).await.status, 400);
    world.node.shutdown().await;
}

/// A tiny image under a tag.
async fn push_image(host: &str, tag: &str, content: &str) -> String {
    let named = vec![Named { host: host.parse().expect("a host"), plain_http: true }];
    let registries = Registries::new(Egress::new(EgressConfig::default()), Settings { named, any_public: false });
    let reference: Reference = format!("{host}/app").parse().expect("a reference");
    let repository = registries.open(&reference, None).expect("a repository");
    let soon = Instant::now() + Duration::from_secs(20);
    let config = Bytes::from(json!({ "architecture": "amd64", "os": "linux", "rootfs": {} }).to_string());
    let config = repository.push_blob(config, soon).await.expect("a configuration");
    let layer = repository.push_blob(Bytes::copy_from_slice(content.as_bytes()), soon).await.expect("a layer");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest, "size": config.size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size }],
    });
    let pushed = repository.push_manifest(Some(tag), media_type, manifest.to_string().into(), soon).await;
    pushed.expect("a manifest").digest.to_string()
}

/// What the registry keeps of a manifest or blob.
fn blob(data: &std::path::Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").expect("a digest");
    data.join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_looked_for_in_its_registry_and_one_that_is_away_is_not_fine() {
    let data = tempfile::tempdir().expect("a directory");
    let registry = DockerRegistry::start(data.path(), "").unwrap_or_else(|e| panic!("{e:#}"));
    let host = registry.address().to_string();
    let settings = format!("{SETTINGS}[[trust.registries]]\nhost = \"{host}\"\nplain_http = true\n");
    let world = World::start_with(&settings).await;
    let agent = world.agent("bot");
    let image = push_image(&host, "v1", "one").await;
    let name = format!("{host}/app:v1");
    let body = json!({ "image": name, "artifact_type": "container_image", "subject": "app:v1", "metadata": { "scan_id": "s" } });
    let signed = sign(&world, &agent, &body).await;
    assert_eq!((&signed["image"]["pushed"], &signed["artifact"]), (&json!(true), &json!(image)), "{signed}");
    manifest(&world, &agent, "s").await;
    let chain = async || provenance(&world, &agent, "s").await;
    let whole = chain().await;
    assert_eq!(outcome(&whole), ("complete", "high"), "{whole}");
    let seen = place(&whole, "registry");
    assert_eq!((&seen["status"], &seen["name"], &seen["digest"]), (&json!("intact"), &json!(name), &json!(image)));

    // The same name for another image; then the name is set right again.
    push_image(&host, "v1", "two").await;
    let moved = chain().await;
    assert_eq!(
        (outcome(&moved), &place(&moved, "registry")["status"]),
        (("partial", "medium"), &json!("moved")),
        "{moved}"
    );
    push_image(&host, "v1", "one").await;
    assert_eq!(outcome(&chain().await), ("complete", "high"));

    // The bundle beside it, with one byte changed where the registry keeps it.
    let referrer = signed["image"]["referrer"].as_str().expect("a digest").to_owned();
    let holder: Value =
        serde_json::from_slice(&fs::read(blob(data.path(), &referrer)).expect("a manifest")).expect("JSON");
    let bundle = blob(data.path(), holder["layers"][0]["digest"].as_str().expect("a digest"));
    let kept = fs::read(&bundle).expect("a bundle");
    let mut changed = kept.clone();
    changed[kept.len() / 2] ^= 1;
    fs::write(&bundle, &changed).expect("written");
    let unread = chain().await;
    assert_ne!(unread["chain_status"], "complete", "{unread}");
    assert_ne!(place(&unread, "registry")["status"], "intact", "{unread}");
    fs::write(&bundle, &kept).expect("written");

    // The list of bundles is gone, and with it the way to this one.
    let tag = image.replace(':', "-");
    let tags = data.path().join("data/docker/registry/v2/repositories/app/_manifests/tags");
    fs::rename(tags.join(&tag), data.path().join("list")).expect("moved");
    let without = chain().await;
    assert_eq!(
        (outcome(&without), &place(&without, "registry")["status"]),
        (("partial", "low"), &json!("missing")),
        "{without}"
    );
    fs::rename(data.path().join("list"), tags.join(&tag)).expect("moved back");
    assert_eq!(outcome(&chain().await), ("complete", "high"));

    drop(registry);
    let start = Instant::now();
    let away = chain().await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(
        (outcome(&away), &place(&away, "registry")["status"]),
        (("partial", "medium"), &json!("unavailable")),
        "{away}"
    );
    assert_eq!(away["scans"][0]["valid"], true, "the signature needs no registry: {away}");
    world.node.shutdown().await;
}

/// Rows as signatures have them, written while the node does not run: their signatures were never made.
async fn fill(config: Config, many: u64) {
    let seed = read_seed(&config.keys_dir.join("log.seed"), SeedKind::Log).expect("the node's");
    let store = SqliteStore::open(config.data_dir.join("countersign.db")).expect("the node's");
    let options = LedgerOptions::new(&config.log_domain, seed, &config.head_file);
    let (ledger, _) = Ledger::open(store, options).expect("a ledger");
    let now = countersign_ledger::handle::system_clock();
    let row = |n: u64| TrustRow {
        id: Uuid::now_v7(),
        workspace: "default".parse().expect("a name"),
        kind: TrustKind::Signature,
        at: now - now % 1000 + n % 1000,
        artifact: digest(&n.to_be_bytes()),
        artifact_type: if n.is_multiple_of(2) { "release" } else { "sbom" }.to_owned(),
        subject: Some(format!("app:{n}")),
        chain: None,
        signer: "https://somebody.example/x".to_owned(),
        valid: None,
        body: r#"{"signature":"AA=="}"#.to_owned(),
    };
    for start in (0..many).step_by(500) {
        let ops = (start..many.min(start + 500)).map(|n| StateOp::TrustRecord { row: Box::new(row(n)) }).collect();
        ledger.append(Append { ops, ..Append::default() }).await.expect("appended");
    }
    ledger.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_entries_are_found_page_by_page_each_once_by_any_filter() {
    const MANY: u64 = 10_000;
    let world = World::start_with(SETTINGS).await;
    let world = world.restart_after(|config| fill(config, MANY)).await;
    let agent = world.agent("bot");
    for (query, expected) in [("limit=1000", MANY), ("limit=777&artifact_type=sbom&start_date=2020-01-01", MANY / 2)] {
        let (mut ids, mut path) = (Vec::new(), format!("/v1/transparency?{query}"));
        loop {
            let reply = world.get(&path, &agent).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            let page = reply.json();
            ids.extend(page.as_array().expect("a list").iter().map(|entry| entry["entry_id"].to_string()));
            let next =
                reply.header("link").and_then(|link| Some(link.split_once('<')?.1.split_once('>')?.0.to_owned()));
            match next {
                Some(next) => path = next,
                None => break,
            }
        }
        assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "newest first, and none twice");
        assert_eq!(ids.len() as u64, expected, "{query}");
    }
    let stats = world.get("/v1/stats", &agent).await.json();
    assert_eq!(stats["total_signatures"], MANY);
    // Signatures that nobody made: a list shows what the database says, and nothing else believes it.
    let broken = provenance(&world, &agent, "app:1").await;
    assert_eq!(outcome(&broken), ("broken", "none"), "{broken}");
    assert_eq!(place(&broken, "transparency_log")["status"], "missing", "{broken}");
    world.node.shutdown().await;
}
