//! Witnessing between real nodes, and what a witness says to others.

use std::time::Duration;

use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::cosignature;
use countersign_proof::merkle::{Frontier, leaf_hash};
use countersign_proof::note::{NoteSigner, SignedNote, VerifierKey};
use countersign_proof::witness::request;
use countersign_proof::{TrustAnchors, verify_file};
use countersign_server::config::{WitnessForSettings, WitnessSettings};
use serde_json::Value;

use crate::support::{Reply, World};

const ORIGIN: &str = "log.example";

fn signer() -> NoteSigner {
    NoteSigner::from_seed(ORIGIN, [3; 32]).expect("a name")
}

/// A checkpoint of a log whose leaves all say the same.
fn note(word: &str, size: u64) -> String {
    let mut tree = Frontier::new();
    (0..size).for_each(|_| tree.append(leaf_hash(word.as_bytes())));
    Checkpoint::new(ORIGIN, size, tree.root()).sign(&signer()).expect("signed")
}

async fn add(world: &World, body: &str) -> Reply {
    world.send("POST", "/add-checkpoint", "", &[("content-type", "text/plain")], Some(body)).await
}

async fn witness_key(world: &World) -> VerifierKey {
    let status = world.get("/admin/witness", &world.person("olga", &["operator"])).await.json();
    status["witness"]["vkey"].as_str().unwrap_or_else(|| panic!("{status}")).parse().expect("a verifier key")
}

async fn log_key(world: &World) -> VerifierKey {
    world.get("/logs", "").await.json()[0]["vkey"].as_str().expect("vkey").parse().expect("a verifier key")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_is_refused_however_often_and_recorded_once() {
    let logs = format!("[witness_for]\nname = \"witness.example\"\nlogs = [\"{}\"]\n", signer().verifier_key());
    let world = World::start_with(&logs).await;
    let first = add(&world, &request(0, &[], &note("left", 4))).await;
    assert_eq!((first.status, first.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    let (key, body) =
        (witness_key(&world).await, SignedNote::parse(note("left", 4)).expect("a note").text().to_owned());
    let line = cosignature::parse_line(&first.text()).expect("a signature line");
    let time = cosignature::verify(&body, &line, &key).expect("by the witness's key");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    assert!(now.abs_diff(time) < 60, "seconds, not something else: {time}");

    for old in [4, 0, 4] {
        let fork = add(&world, &request(old, &[], &note("right", 4))).await;
        assert_eq!(
            (fork.status, fork.header("content-type"), fork.text()),
            (409, Some("text/x.tlog.size"), "4\n".into())
        );
    }
    let auditor = world.person("amy", &["auditor"]);
    let events = world.get("/audit/events?workspace=_node&type=witness.fork", &auditor).await.json();
    let events = events.as_array().expect("an array");
    assert_eq!(events.len(), 1, "{events:?}");
    for (member, word) in [("cosigned", "left"), ("refused", "right")] {
        assert_eq!(events[0][member], note(word, 4), "evidence that the log's key verifies");
        Checkpoint::open(events[0][member].as_str().expect("a note"), &signer().verifier_key()).expect("signed");
    }
    assert_eq!(add(&world, &request(4, &[], &note("left", 4))).await.status, 200, "the honest branch goes on");

    let world = world.restart().await;
    assert_eq!(add(&world, &request(0, &[], &note("left", 9))).await.text(), "4\n", "what was cosigned is remembered");
    assert_eq!(witness_key(&world).await, key, "and so is the key");
    let again = add(&world, &request(4, &[], &note("right", 4))).await;
    let events = world.get("/audit/events?workspace=_node&type=witness.fork", &auditor).await.json();
    assert_eq!((again.status, events.as_array().map(Vec::len)), (409, Some(1)), "and so is the fork");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_no_witness_says_so() {
    let world = World::start().await;
    let answer = add(&world, &request(0, &[], &note("left", 4))).await;
    assert_eq!((answer.status, answer.problem()), (404, "not-found".to_owned()));
    let status = world.get("/admin/witness", &world.person("olga", &["operator"])).await.json();
    assert!(status["witness"].is_null() && status["witnesses"] == serde_json::json!([]), "{status}");
    assert_eq!(world.get("/admin/witness", &world.agent("bot")).await.status, 403);
    assert!(!world.path("data/keys/witness.seed").exists(), "a key that nobody needs is not made");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_come_to_carry_what_witnesses_give() {
    let log = World::start().await;
    let key = log_key(&log).await;
    let witness = format!("[witness_for]\nname = \"witness.example\"\nlogs = [\"{key}\"]\n");
    let witness = World::start_with(&witness).await;
    let cosigner = witness_key(&witness).await;
    let url = format!("http://{}/", witness.address()).parse().expect("a URL");
    let asked = WitnessSettings { url, key: cosigner.clone() };
    let log = log.restart_with(|config| config.witnesses = vec![asked]).await;
    let agent = log.agent("bot");
    let anchors = TrustAnchors::new().with(key).with(cosigner.clone()).with_quorum(1);
    for _ in 0..2 {
        let done = log.create(&agent, 10, &[]).await.json();
        let path = format!("/receipts/{}", done["receipt"].as_str().unwrap_or_else(|| panic!("{done}")));
        let mut tries = 0;
        while !verify_file(&log.get(&path, &agent).await.body, &anchors).is_valid() {
            tries += 1;
            assert!(tries < 100, "{}", status(&log).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    // The log rests, so that its newest checkpoint is cosigned.
    let mut tries = 0;
    loop {
        let note = SignedNote::parse(log.get("/checkpoint", "").await.body).expect("a note");
        if note.signatures_by(&cosigner).next().is_some() {
            break;
        }
        tries += 1;
        assert!(tries < 100, "{}", status(&log).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let standing = status(&log).await["witnesses"][0].clone();
    assert!(standing["behind"] == 0 && standing["trouble"].is_null(), "{standing}");
    // A witness that does not know the log is no reason to fail, and is named.
    let settings = WitnessForSettings { name: "witness.example".into(), logs: vec![signer().verifier_key()] };
    let witness = witness.restart_with(|config| config.witness_for = Some(settings)).await;
    let url = format!("http://{}/", witness.address()).parse().expect("a URL");
    let asked = WitnessSettings { url, key: cosigner };
    let log = log.restart_with(|config| config.witnesses = vec![asked]).await;
    assert_eq!(log.create(&agent, 10, &[]).await.status, 200);
    let mut tries = 0;
    while !status(&log).await["witnesses"][0]["trouble"].as_str().is_some_and(|why| why.contains("does not know")) {
        tries += 1;
        assert!(tries < 100, "{}", status(&log).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    log.node.shutdown().await;
    witness.node.shutdown().await;
}

async fn status(world: &World) -> Value {
    world.get("/admin/witness", &world.person("olga", &["operator"])).await.json()
}
