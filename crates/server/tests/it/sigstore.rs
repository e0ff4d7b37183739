//! What Sigstore's own clients do with a node: a certificate for a key of theirs, a timestamp, a log entry. And the authority behind it, followed by another.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_proof::digest::Digest;
use countersign_proof::jwk::Jwk;
use countersign_proof::jws::signature_from_der;
use countersign_server::MintRequest;
use countersign_trust::bundle::{Bundle, Content, Material};
use countersign_trust::entry::LogEntry;
use countersign_trust::hashedrekord::{HashedRekord, Verifier};
use countersign_trust::keys::{HashAlgorithm, Signer, p256_spki, signature_to_der};
use countersign_trust::pem;
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify};
use serde_json::{Value, json};

use crate::support::World;

const SETTINGS: &str = "[trust]\nenabled = true\n[trust.clients]\n";
/// Who logs is known by the certificate alone, which has no role.
const LOGGING: &str = "permit (principal, action == Action::\"trust:log_entry\", resource);\n";
const ARTIFACT: &[u8] = b"released";

async fn world(settings: &str) -> World {
    World::start_among(settings, LOGGING, Vec::new()).await
}

/// An identity token, as a client's: for certificates and nothing else.
fn identity_token(world: &World, name: &str, audience: &str) -> String {
    world.token(MintRequest {
        sub: name.into(),
        kind: Some("person".into()),
        roles: vec!["finance-write".into()],
        mail: Some(format!("{name}@example.com")),
        audience: audience.into(),
        ..MintRequest::default()
    })
}

fn key() -> Signer {
    Signer::from_seed(&[7; 32], "client")
}

fn wanted(token: &str, proof_of: &str) -> Value {
    let content = pem::encode(&key().spki(), pem::PUBLIC_KEY);
    let proof = STANDARD.encode(key().sign(proof_of.as_bytes()));
    json!({
        "credentials": { "oidcIdentityToken": token },
        "publicKeyRequest": { "publicKey": { "algorithm": "ECDSA", "content": content }, "proofOfPossession": proof },
    })
}

/// The certificate, DER.
async fn certificate(world: &World, token: &str, proof_of: &str) -> Vec<u8> {
    let reply = world.post("/api/v2/signingCert", "", &wanted(token, proof_of).to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.header("countersign-receipt").is_some(), "{}", reply.head);
    let chain = reply.json()["signedCertificateEmbeddedSct"]["chain"]["certificates"].clone();
    assert_eq!(chain.as_array().map(Vec::len), Some(2), "{chain}");
    pem::decode(chain[0].as_str().expect("PEM"), pem::CERTIFICATE).expect("a certificate")
}

fn record(certificate: &[u8], artifact: &[u8]) -> HashedRekord {
    let digest = HashAlgorithm::Sha256.digest(artifact);
    HashedRekord::new(digest, key().sign(artifact), Verifier::Certificate(certificate.to_vec())).expect("a record")
}

async fn stamp(world: &World, signature: &[u8]) -> Vec<u8> {
    let hash = STANDARD.encode(HashAlgorithm::Sha256.digest(signature));
    let body = json!({ "artifactHash": hash, "hashAlgorithm": "sha256", "certificates": true, "nonce": 77 });
    let reply = world.post("/api/v1/timestamp", "", &body.to_string()).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/timestamp-reply")));
    reply.body
}

async fn root(world: &World) -> TrustedRoot {
    TrustedRoot::parse(&world.get("/trust/trusted_root.json", "").await.body).expect("a trusted root")
}

/// How the authorities stand, oldest first.
async fn states(world: &World) -> Vec<String> {
    let all = world.get("/admin/authorities", &world.person("root", &["operator"])).await.json();
    let states = all.as_array().into_iter().flatten().filter_map(|one| one["state"].as_str());
    states.map(str::to_owned).collect()
}

/// What a client puts together, verified as anybody would.
async fn assert_holds(world: &World, record: &HashedRekord, entry: &Value, stamp: Vec<u8>, identity: &str) {
    let Verifier::Certificate(certificate) = &record.verifier else { panic!("a certificate") };
    let entry = LogEntry::parse(entry.to_string().as_bytes()).expect("an entry");
    let digest = Some((HashAlgorithm::Sha256, record.digest.clone()));
    let bundle = Bundle {
        material: Material::Certificate(certificate.clone()),
        entries: vec![entry],
        timestamps: vec![stamp],
        content: Content::MessageSignature { digest, signature: record.signature.clone() },
    };
    let expected = Expected::Certificate {
        identity: Pattern::Glob(identity.to_owned()),
        issuer: Pattern::Glob("http**".to_owned()),
    };
    let policy = Policy { expected, ..Policy::default() };
    let report = verify(&bundle.to_json(), &Artifact::Bytes(ARTIFACT), &root(world).await, &policy);
    assert!(report.is_valid(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_signs_with_a_key_of_its_own_and_anybody_verifies_it() {
    let world = world(SETTINGS).await;
    let token = identity_token(&world, "ada", "sigstore");
    let certificate = certificate(&world, &token, "ada").await;
    let record = record(&certificate, ARTIFACT);
    let stamp = stamp(&world, &record.signature).await;
    let request = String::from_utf8(record.to_request()).expect("text");
    let logged = world.post("/api/v2/log/entries", "", &request).await;
    assert_eq!(logged.status, 201, "{}", logged.text());
    assert!(logged.header("countersign-receipt").is_some());
    assert_holds(&world, &record, &logged.json(), stamp, "**/workspaces/default/signers/*").await;

    // Once more is the same entry.
    let again = world.post("/api/v2/log/entries", "", &request).await.json();
    assert_eq!(again["logIndex"], logged.json()["logIndex"]);
    // So is the other form of the same signature, which anybody makes from it; and neither is a call of the holder's.
    let twin = HashedRekord { signature: twin(&record.signature), ..record.clone() };
    let events =
        async || world.get("/audit/events?tool=trust:log_entry&limit=10", &world.person("root", &["auditor"])).await;
    let before = events().await.json();
    let twin = world.post("/api/v2/log/entries", "", &String::from_utf8(twin.to_request()).expect("text")).await;
    assert_eq!((twin.status, &twin.json()["logIndex"]), (201, &logged.json()["logIndex"]));
    assert_eq!(events().await.json(), before);
    // The workspace finds it as any signature, and knows who counts as its author.
    let ada = identity_token(&world, "ada", "");
    let found = world.get("/v1/transparency?artifact_type=hashedrekord", &ada).await.json();
    assert_eq!(
        (found.as_array().map(Vec::len), &found[0]["artifact"]),
        (Some(1), &json!(Digest::of(ARTIFACT).to_string()))
    );
    let verified = json!({ "artifact": Digest::of(ARTIFACT).to_string() }).to_string();
    assert_eq!(world.post("/v1/verify", &ada, &verified).await.json()["valid"], true);
    // The receipt of the call names the person, though the certificate names nobody.
    let events = events().await;
    assert!(events.text().contains("\"ada\""), "{}", events.text());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_a_certificate_without_a_token_for_it_and_the_key() {
    let world = world(SETTINGS).await;
    let ask = async |body: Value| {
        let reply = world.post("/api/v2/signingCert", "", &body.to_string()).await;
        (reply.status, if reply.status == 200 { String::new() } else { reply.problem() })
    };
    let token = identity_token(&world, "ada", "sigstore");
    let elsewhere = identity_token(&world, "ada", "https://elsewhere.example");
    for (body, expected) in [
        (wanted(&token, "ada@example.com"), (200, String::new())),
        (wanted(&token, "bob"), (422, "invalid-arguments".to_owned())),
        (wanted(&elsewhere, "ada"), (401, "unauthenticated".to_owned())),
        (wanted("", "ada"), (401, "unauthenticated".to_owned())),
        (json!({ "credentials": { "oidcIdentityToken": token } }), (422, "invalid-arguments".to_owned())),
        (json!([]), (400, "malformed-request".to_owned())),
    ] {
        assert_eq!(ask(body.clone()).await, expected, "{body}");
    }
    // An identity token is good for a certificate and for nothing else.
    assert_eq!(world.get("/v1/stats", &token).await.status, 401);
    // Who may not sign gets none: policy decides, as about any call.
    let eve = world.token(MintRequest { sub: "eve".into(), audience: "sigstore".into(), ..MintRequest::default() });
    assert_eq!(ask(wanted(&eve, "eve")).await, (403, "policy-denied".to_owned()));
    world.node.shutdown().await;
}

/// (r, n - s) for (r, s).
fn twin(signature: &[u8]) -> Vec<u8> {
    const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let mut raw = signature_from_der(signature).expect("a signature");
    let mut borrow = 0;
    for at in (0..32).rev() {
        let of_order = u16::from_str_radix(&ORDER[2 * at..2 * at + 2], 16).expect("hexadecimal");
        let difference = 0x100 + of_order - u16::from(raw[32 + at]) - borrow;
        raw[32 + at] = (difference & 0xff) as u8;
        borrow = u16::from(difference < 0x100);
    }
    signature_to_der(&raw).expect("a signature")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_workspaces_own_key_has_signed_is_not_logged_again_by_strangers() {
    let world = world(SETTINGS).await;
    let artifact = crate::artifacts::recommendation(uuid::Uuid::now_v7(), 1);
    let made = world.post("/artifacts", &world.agent("bot"), &artifact.to_string()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let (jws, keys) = (made.json(), world.get("/jwks/default", "").await);
    // All of it is in the log for anybody to copy.
    let text = |member: &str| jws[member].as_str().expect("a text").to_owned();
    let signature: [u8; 64] =
        URL_SAFE_NO_PAD.decode(text("signature")).expect("base64").try_into().expect("two numbers");
    let jwk = Jwk::parse(keys.json()["keys"][0].to_string().as_bytes()).expect("a key");
    let copied = HashedRekord::new(
        HashAlgorithm::Sha256.digest(format!("{}.{}", text("protected"), text("payload")).as_bytes()),
        signature_to_der(&signature).expect("a signature"),
        Verifier::PublicKey(p256_spki(&jwk)),
    );
    let copied = String::from_utf8(copied.expect("a record").to_request()).expect("text");
    let log = world.get("/checkpoint", "").await.text();
    let refused = world.post("/api/v2/log/entries", "", &copied).await;
    assert_eq!((refused.status, refused.problem().as_str()), (401, "unauthenticated"));
    assert_eq!(world.get("/checkpoint", "").await.text(), log);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_log_nothing() {
    let world = world(SETTINGS).await;
    let auditor = world.person("ann", &["auditor"]);
    let events = async || world.get("/audit/events?limit=200&workspace=_node", &auditor).await.json();
    // Once policies are in force, nothing but what is sent can make the log grow.
    while !events().await.to_string().contains("policy.loaded") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before = (world.get("/checkpoint", "").await.text(), events().await);
    let post = async |body: String| {
        let reply = world.post("/api/v2/log/entries", "", &body).await;
        (reply.status, reply.problem())
    };
    let bare = HashedRekord::new(
        HashAlgorithm::Sha256.digest(ARTIFACT),
        key().sign(ARTIFACT),
        Verifier::PublicKey(key().spki()),
    );
    let bare = String::from_utf8(bare.expect("a record").to_request()).expect("text");
    assert_eq!(post(bare).await, (401, "unauthenticated".to_owned()));
    // Somebody else's authority, in every other way alike.
    let other = countersign_trust::authority::Authority::generate("localhost", &[9; 32], 1_700_000_000).expect("one");
    let identity = countersign_trust::certificate::Identity::uri("https://localhost/x").expect("a URI");
    let now_ms = 1_800_000_000_000;
    let spki = key().spki();
    let order = countersign_trust::authority::Issuance {
        identity: &identity,
        issuer: "https://localhost",
        public_key: &spki,
        serial: [1; 16],
        now_ms,
    };
    let foreign = record(other.issue(&order).expect("issued").der(), ARTIFACT);
    let foreign = String::from_utf8(foreign.to_request()).expect("text");
    assert_eq!(post(foreign).await, (401, "unauthenticated".to_owned()));
    for body in ["", "{}", "[1]", r#"{"dsseRequestV002":{}}"#] {
        assert_eq!(post(body.to_owned()).await, (400, "malformed-request".to_owned()), "{body}");
    }
    assert_eq!((world.get("/checkpoint", "").await.text(), events().await), before, "strangers do not grow the log");

    // Somebody's own signature is logged by nobody else, even over MCP.
    let ours = certificate(&world, &identity_token(&world, "ada", "sigstore"), "ada").await;
    let request: Value = serde_json::from_slice(&record(&ours, ARTIFACT).to_request()).expect("JSON");
    let bob = world.person("bob", &["finance-write"]);
    let taken = world.post("/tools/trust:log_entry/invoke", &bob, &request.to_string()).await;
    assert!(taken.text().contains("by somebody else"), "{}", taken.text());
    // A frozen person's certificate is of no more use.
    let frozen = json!({ "kind": "principal", "name": "ada", "reason": "gone" }).to_string();
    let operator = world.person("root", &["operator"]);
    assert_eq!(world.post("/admin/freeze", &operator, &frozen).await.status, 200);
    assert_eq!(post(request.to_string()).await, (403, "frozen".to_owned()));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workspaces_choose_how_their_people_are_named() {
    let settings = format!(
        "{SETTINGS}[trust.identities]\ndefault = \"mail\"\nother = \"subject\"\n\
        [trust.expected]\n\"*\" = {{ identity = \"*@example.com\" }}\n"
    );
    let world = world(&settings).await;
    let body = json!({ "artifact": Digest::of(b"x").to_string(), "artifact_type": "release" }).to_string();
    let ada = identity_token(&world, "ada", "");
    let signed = world.post("/v1/sign", &ada, &body).await.json();
    assert_eq!(signed["signer"], "ada@example.com", "{signed}");
    let verified = world.post("/v1/verify", &ada, &json!({ "artifact": signed["artifact"] }).to_string()).await.json();
    assert_eq!((&verified["valid"], &verified["signer"]), (&json!(true), &json!("ada@example.com")));
    // Who says nothing expects whom the workspace expects.
    let brought = json!({ "artifact": signed["artifact"], "bundle": signed["bundle"] });
    assert_eq!(world.post("/v1/verify", &ada, &brought.to_string()).await.json()["valid"], true);
    let other = json!({ "artifact": signed["artifact"], "bundle": signed["bundle"], "identity": "*@example.org" });
    assert_eq!(world.post("/v1/verify", &ada, &other.to_string()).await.json()["valid"], false);
    // Nobody's word but the token's: without a verified address, a person does not sign here.
    let bob = world.person("bob", &["finance-write"]);
    let refused = world.post("/v1/sign", &bob, &body).await;
    assert!(refused.status == 422 && refused.text().contains("verified"), "{}", refused.text());
    // An agent signs as itself, also when it acts for somebody with an address.
    let agent = world.token(MintRequest {
        sub: "ada".into(),
        act: Some("bot".into()),
        roles: vec!["finance-write".into()],
        mail: Some("ada@example.com".into()),
        ..MintRequest::default()
    });
    let signed = world.post("/v1/sign", &agent, &body).await.json();
    assert!(
        signed["signer"].as_str().is_some_and(|signer| signer.contains("/workspaces/default/signers/")),
        "{signed}"
    );
    let issued = certificate(&world, &identity_token(&world, "ada", "sigstore"), "ada").await;
    let issued = countersign_trust::certificate::Certificate::from_der(&issued).expect("a certificate");
    assert_eq!(issued.identity().expect("a name").text(), "ada@example.com");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn timestamps_are_for_anybody_at_a_pace() {
    let world = world("[trust]\nenabled = true\n[trust.clients]\ntimestamps_per_minute = 6\n").await;
    stamp(&world, b"a signature").await;
    let body = json!({ "artifactHash": STANDARD.encode([1; 32]), "hashAlgorithm": "sha256" }).to_string();
    let late = world.post("/api/v1/timestamp", "", &body).await;
    assert_eq!((late.status, late.problem().as_str()), (429, "rate-limited"));
    assert!(late.header("retry-after").is_some(), "{}", late.head);
    let chain = world.get("/api/v1/timestamp/certchain", "").await;
    assert_eq!(chain.text().matches("BEGIN CERTIFICATE").count(), 2);
    let bundle = world.get("/api/v2/trustBundle", "").await.json();
    assert_eq!(bundle["chains"].as_array().map(Vec::len), Some(1), "{bundle}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_told_to_a_node_serves_no_clients() {
    let world = World::start_with("[trust]\nenabled = true\n").await;
    for path in ["/api/v2/signingCert", "/api/v2/log/entries", "/api/v1/timestamp"] {
        assert_eq!(world.post(path, "", "{}").await.status, 404, "{path}");
    }
    let agent = world.agent("bot");
    assert_eq!(world.post("/tools/trust:issue_certificate/invoke", &agent, "{}").await.status, 404);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_takes_over_and_what_the_old_one_signed_stays_good_unless_it_leaked() {
    let world = world(SETTINGS).await;
    let agent = world.agent("bot");
    let body = json!({ "artifact": Digest::of(ARTIFACT).to_string(), "artifact_type": "release" }).to_string();
    let signed = world.post("/v1/sign", &agent, &body).await.json();
    let client = certificate(&world, &identity_token(&world, "ada", "sigstore"), "ada").await;
    let operator = world.person("root", &["operator"]);
    let rotate = async |order: Value| world.post("/admin/authorities/rotate", &operator, &order.to_string()).await;
    assert_eq!(world.post("/admin/authorities/rotate", &agent, r#"{"reason":"x"}"#).await.status, 403);
    let made = rotate(json!({ "reason": "yearly" })).await;
    assert_eq!((made.status, &made.json()["state"]), (200, &json!("active")), "{}", made.text());

    let check = async || {
        let asked = json!({ "artifact": Digest::of(ARTIFACT).to_string(), "signature": signed["signature"] });
        world.post("/v1/verify", &agent, &asked.to_string()).await.json()["valid"].clone()
    };
    assert_eq!(check().await, true, "what was signed before");
    // A client in the middle of signing goes on, with the old certificate and the new timestamp authority.
    let record = record(&client, ARTIFACT);
    let stamp = stamp(&world, &record.signature).await;
    let request = String::from_utf8(record.to_request()).expect("text");
    let logged = world.post("/api/v2/log/entries", "", &request).await.json();
    assert_holds(&world, &record, &logged, stamp, "**").await;
    let roots = root(&world).await;
    assert_eq!((roots.certificate_authorities.len(), roots.timestamp_authorities.len()), (2, 2));

    // Somebody had the first before the second signed this, and may have had the second as well.
    let since = made.json()["created"].clone();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let other = json!({ "artifact": Digest::of(b"other").to_string(), "artifact_type": "release" }).to_string();
    let later = world.post("/v1/sign", &agent, &other).await.json();
    assert_eq!(rotate(json!({ "reason": "x", "leaked_since": "2999-01-01" })).await.status, 400);
    let leaked = rotate(json!({ "reason": "backup was stolen", "leaked_since": since })).await;
    assert_eq!(leaked.status, 200, "{}", leaked.text());
    let asked = json!({ "artifact": Digest::of(b"other").to_string(), "signature": later["signature"] }).to_string();
    assert_eq!(world.post("/v1/verify", &agent, &asked).await.json()["valid"], false);
    assert_eq!(check().await, true, "what was signed before the leak is as good as before");
    assert_eq!(states(&world).await, ["leaked", "leaked", "active"]);
    // Nobody knows since when: nothing is left to believe.
    let leaked = rotate(json!({ "reason": "it was older than we thought", "leaked_since": "2026-01-01" })).await;
    assert_eq!(leaked.status, 200, "{}", leaked.text());
    assert_eq!(check().await, false);
    let world = world.restart().await;
    assert_eq!(states(&world).await, ["leaked", "leaked", "leaked", "active"]);
    assert_eq!(root(&world).await.certificate_authorities.len(), 4);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_and_signing_keys_are_followed_by_others_when_their_time_has_come() {
    let world = world(SETTINGS).await;
    let agent = world.agent("bot");
    let sign = async |world: &World| {
        let artifact = crate::artifacts::recommendation(uuid::Uuid::now_v7(), 1);
        let made = world.post("/artifacts", &agent, &artifact.to_string()).await;
        assert_eq!(made.status, 201, "{}", made.text());
    };
    sign(&world).await;
    sign(&world).await;
    let keys = async |world: &World| -> Vec<Value> {
        let set = world.get("/jwks/default", "").await.json();
        set["keys"].as_array().into_iter().flatten().map(|key| key["countersign_state"].clone()).collect()
    };
    assert_eq!(keys(&world).await, ["active"]);
    tokio::time::sleep(Duration::from_millis(1600)).await;
    // The file takes no time as short as this.
    let short = Duration::from_millis(1500);
    let restarted = world.restart_with(|config| {
        let settings = config.trust.as_mut().expect("on");
        (settings.authority_rotation, settings.key_rotation) = (short, short);
    });
    let world = restarted.await;
    sign(&world).await;
    assert_eq!(keys(&world).await, ["retired", "active"]);
    let start = Instant::now();
    while states(&world).await != ["retired", "active"] {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", states(&world).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.node.shutdown().await;
}
