//! Other people's services that add to a node's signatures: here an outside timestamp authority, which is `openssl ts`.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_proof::digest::Digest;
use countersign_testkit::tsa::{Authority, Behaviour, Tsa};
use countersign_trust::root::TrustedRoot;
use countersign_trust::timestamp;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify};
use serde_json::{Value, json};

use crate::support::{Reply, World};

fn settings(tsa: &Tsa, more: &str) -> String {
    let (url, chain) = (tsa.url(), tsa.chain());
    format!(
        "[trust]\nenabled = true\n[trust.timestamping]\nurl = \"{url}\"\nchain = \"{}\"\noperator = \"Elsewhere\"\n{more}\n",
        chain.display()
    )
}

fn digest(artifact: &[u8]) -> String {
    Digest::of(artifact).to_string()
}

async fn sign(world: &World, artifact: &[u8]) -> Reply {
    let body = json!({ "artifact": digest(artifact), "artifact_type": "release" });
    world.post("/v1/sign", &world.agent("bot"), &body.to_string()).await
}

async fn check(world: &World, body: &Value) -> Value {
    let reply = world.post("/v1/verify", &world.agent("bot"), &body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

async fn root(world: &World) -> TrustedRoot {
    TrustedRoot::parse(&world.get("/trust/trusted_root.json", "").await.body).expect("a trusted root")
}

fn expected(signed: &Value) -> Policy {
    let exactly = |member: &str| Pattern::Exact(signed[member].as_str().expect("a text").to_owned());
    let expected = Expected::Certificate { identity: exactly("signer"), issuer: exactly("issuer") };
    Policy { expected, ..Policy::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_has_a_stamp_of_somebody_elses_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let tsa = Tsa::start(directory.path()).expect("openssl");
    let world = World::start_with(&settings(&tsa, "required = true")).await;
    let signed = sign(&world, b"hello").await;
    assert_eq!(signed.status, 200, "{}", signed.text());
    let signed = signed.json();
    let by: Vec<_> = signed["timestamps"].as_array().expect("stamps").iter().map(|stamp| stamp["by"].clone()).collect();
    assert_eq!(by, [signed["issuer"].clone(), json!("Elsewhere")], "{signed}");
    assert_eq!(signed["outside_timestamp"], Value::Null);

    // Whoever has the published trusted root verifies both, and knows what the operator could not make up.
    let root = root(&world).await;
    assert_eq!(root.timestamp_authorities.len(), 2);
    let bundle = signed["bundle"].to_string();
    let report = verify(bundle.as_bytes(), &Artifact::Bytes(b"hello"), &root, &expected(&signed));
    assert!(report.is_valid() && report.times.len() == 2, "{report:?}");
    assert!(!report.operator_could_forge.iter().any(|what| what.starts_with("the time")), "{report:?}");
    let verified = check(&world, &json!({ "artifact": digest(b"hello") })).await;
    assert_eq!((&verified["valid"], &verified["timestamps"][1]["operator"]), (&json!(true), &json!("Elsewhere")));
    assert!(!verified["operator_could_forge"].to_string().contains("the time"), "{verified}");

    // OpenSSL sends its certificates in the order of the chain, and strict verifiers read them in that of DER alone.
    let stamps = "/bundle/verificationMaterial/timestampVerificationData/rfc3161Timestamps/1";
    let stamp = signed.pointer(&format!("{stamps}/signedTimestamp")).and_then(Value::as_str).expect("a stamp");
    let stamp = STANDARD.decode(stamp).expect("base64");
    let elsewhere = root
        .timestamp_authorities
        .iter()
        .find(|authority| authority.chain.len() == 2 && authority.operator == "Elsewhere");
    let mut certificates: Vec<_> =
        elsewhere.expect("named").chain.iter().map(|certificate| certificate.der()).collect();
    let place = |der: &[u8]| stamp.windows(der.len()).position(|window| window == der).expect("sent along");
    certificates.sort_unstable();
    assert!(certificates.is_sorted_by_key(|der| place(der)), "{certificates:?}");

    // The same for scans, which are signed on the same way.
    let scan = json!({ "artifact": digest(b"hello"), "document": { "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1 } });
    let scanned = world.post("/v1/scans", &world.agent("bot"), &scan.to_string()).await;
    assert_eq!(scanned.status, 200, "{}", scanned.text());
    assert!(scanned.json().pointer(stamps).is_some());
    assert_eq!(tsa.asked(), 2);

    // Where it is not configured any more, old bundles still hold by the node's own stamp.
    let world = world.restart_with(|config| config.trust.as_mut().expect("on").timestamping = None).await;
    let verified = check(&world, &json!({ "artifact": digest(b"hello") })).await;
    assert_eq!((&verified["valid"], verified["timestamps"].as_array().map(Vec::len)), (&json!(true), Some(1)));
    assert!(verified["operator_could_forge"].to_string().contains("the time"), "{verified}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_good_stamp_is_never_used() {
    let directory = tempfile::tempdir().expect("a directory");
    let tsa = Tsa::start(directory.path()).expect("openssl");
    let world =
        World::start_with(&settings(&tsa, "required = true\ntimeout = \"1s\"\n[limits.breakers]\nenabled = false"))
            .await;
    // An earlier answer, whole and genuine.
    let genuine = Authority::create(&directory.path().join("second"), "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    let request = timestamp::Request::over(b"x").to_der();
    let others = genuine.expect("openssl").reply(&request, "granting").expect("openssl");
    let cases = [
        (Behaviour::OtherNonce, "nonce"),
        (Behaviour::OtherImprint, "over other bytes"),
        (Behaviour::Refusal, "refused"),
        (Behaviour::Bytes(others), "over other bytes"),
        (Behaviour::Bytes(vec![0x30; 70_000]), "longer than"),
        (Behaviour::Bytes(b"<html>sign in</html>".to_vec()), "malformed"),
        (Behaviour::Bytes(Vec::new()), "malformed"),
        (Behaviour::Status(500), "status 500"),
        (Behaviour::Silence(Duration::from_secs(3)), "before the deadline"),
        (Behaviour::Close, ""),
    ];
    for (behaviour, why) in cases {
        tsa.behave(behaviour.clone());
        let refused = sign(&world, b"hello").await;
        assert_eq!(refused.status, 502, "{behaviour:?}: {}", refused.text());
        assert!(refused.text().contains("nothing was signed") && refused.text().contains(why), "{}", refused.text());
    }
    // Nothing is half made: no row, no leaf.
    let stats = world.get("/v1/stats", &world.agent("bot")).await.json();
    assert_eq!(stats["total_signatures"], 0, "{stats}");
    let entries = world.get("/v1/transparency", &world.agent("bot")).await.json();
    assert_eq!(entries, json!([]));
    tsa.behave(Behaviour::Good);
    assert_eq!(sign(&world, b"hello").await.status, 200, "it is asked again at once");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_required_its_absence_is_told_and_nobody_waits_twice() {
    let directory = tempfile::tempdir().expect("a directory");
    let tsa = Tsa::start(directory.path()).expect("openssl");
    let world = World::start_with(&settings(&tsa, "timeout = \"500ms\"")).await;
    tsa.behave(Behaviour::Silence(Duration::from_secs(2)));
    let signed = sign(&world, b"one").await.json();
    assert_eq!(signed["outside_timestamp"]["held"], false, "{signed}");
    let began = Instant::now();
    let second = sign(&world, b"two").await.json();
    assert!(second["outside_timestamp"]["problem"].to_string().contains("not asked again"), "{second}");
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!((tsa.asked(), second["timestamps"].as_array().map(Vec::len)), (1, Some(1)));
    let report = verify(
        second["bundle"].to_string().as_bytes(),
        &Artifact::Bytes(b"two"),
        &root(&world).await,
        &expected(&second),
    );
    assert!(report.is_valid(), "{report:?}");
    assert!(report.operator_could_forge.iter().any(|what| what.starts_with("the time")), "{report:?}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_whose_stamps_could_not_be_verified_is_refused_at_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let tsa = Tsa::start(directory.path()).expect("openssl");
    let at = |name: &str| directory.path().join(name);
    let rsa = Authority::create(&at("rsa"), "-algorithm RSA -pkeyopt rsa_keygen_bits:2048").expect("openssl");
    let server =
        Authority::for_servers(&at("server"), "-algorithm EC -pkeyopt ec_paramgen_curve:P-256").expect("openssl");
    std::fs::write(
        at("other.pem"),
        [std::fs::read(tsa.chain()).expect("read"), std::fs::read(server.chain()).expect("read")].concat(),
    )
    .expect("written");
    std::fs::write(at("empty.pem"), "nothing").expect("written");
    for (chain, why) in [
        (rsa.chain(), "RSA"),
        (server.chain(), "not for this purpose"),
        (at("other.pem"), "not one chain"),
        (at("empty.pem"), "expected a certificate"),
        (at("missing.pem"), "missing.pem"),
    ] {
        let text = settings(&tsa, "").replace(&tsa.chain().display().to_string(), &chain.display().to_string());
        let refused = World::refused(&text).await;
        assert!(refused.contains(why), "{}: {refused}", chain.display());
    }
}
