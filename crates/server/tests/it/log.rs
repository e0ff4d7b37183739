//! The transparency log's endpoints, checked with the verifier's own tools.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_ledger::{Append, Ledger, LedgerOptions, PublicEntry};
use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::merkle::{Frontier, leaf_hash};
use countersign_proof::note::VerifierKey;
use countersign_proof::tile::{decode_bundle, decode_tile};
use countersign_store::SqliteStore;

use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_holds_the_bodies_of_public_entries() {
    let world = World::start().await;
    let body = br#"{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{}}"#;
    let written = body.to_vec();
    let world = world
        .restart_after(move |config| async move {
            // As the node itself does it: its database, its key, its head file.
            let line = std::fs::read_to_string(config.keys_dir.join("log.seed")).expect("a seed");
            let seed = STANDARD.decode(line.split_whitespace().last().expect("base64")).expect("base64");
            let options = LedgerOptions::new(&config.log_domain, seed.try_into().expect("32 bytes"), &config.head_file);
            let store = SqliteStore::open(config.data_dir.join("countersign.db")).expect("a database");
            let (ledger, opened) = Ledger::open(store, options).expect("a ledger");
            assert_eq!(opened.reason, None, "the same log");
            let entry = PublicEntry::new(uuid::Uuid::now_v7(), "default".parse().expect("a name"), written);
            let append = Append { entries: vec![entry.expect("an entry")], ..Append::default() };
            ledger.append(append).await.expect("appended");
            ledger.shutdown().await;
        })
        .await;
    let logs = world.get("/logs", "").await.json();
    let key: VerifierKey = logs[0]["vkey"].as_str().expect("vkey").parse().expect("a verifier key");
    let head = Checkpoint::open(&world.get("/checkpoint", "").await.text(), &key).expect("signed");
    let width = u16::try_from(head.size).expect("small");
    let bundle = world.get(&format!("/tile/entries/000.p/{width}"), "").await;
    let entries = decode_bundle(&bundle.body, width).expect("a bundle");
    assert!(entries.contains(&body.as_slice()));
    let mut frontier = Frontier::new();
    entries.iter().for_each(|entry| frontier.append(leaf_hash(entry)));
    assert_eq!(frontier.root(), head.root);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_published_entries_and_tiles_hash_to_the_signed_head() {
    let world = World::start().await;
    let agent = world.agent("bot");
    for _ in 0..5 {
        assert_eq!(world.create(&agent, 10, &[]).await.status, 200);
    }
    let logs = world.get("/logs", "").await.json();
    let (origin, vkey) = (logs[0]["origin"].as_str().expect("origin"), logs[0]["vkey"].as_str().expect("vkey"));
    let key: VerifierKey = vkey.parse().expect("a verifier key");
    let checkpoint = world.get("/checkpoint", "").await;
    assert_eq!(checkpoint.header("content-type"), Some("text/plain; charset=utf-8"));
    let head = Checkpoint::open(&checkpoint.text(), &key).expect("signed by the key of /logs");
    assert!(head.origin == origin && head.size > 5 && head.size < 256, "{head:?}");

    let width = u16::try_from(head.size).expect("small");
    let entries = world.get(&format!("/tile/entries/000.p/{width}"), "").await;
    assert_eq!(entries.header("content-type"), Some("application/octet-stream"));
    assert!(entries.header("cache-control").expect("cached").contains("immutable"));
    let entries = decode_bundle(&entries.body, width).expect("a bundle");
    let mut frontier = Frontier::new();
    entries.iter().for_each(|entry| frontier.append(leaf_hash(entry)));
    assert_eq!(frontier.root(), head.root);

    let tile = world.get(&format!("/logs/{origin}/tile/0/000.p/{width}"), "").await;
    let hashes = decode_tile(&tile.body, width).expect("a tile");
    assert_eq!(hashes, entries.iter().map(|entry| leaf_hash(entry)).collect::<Vec<_>>());

    for path in [
        "/tile/0/000",
        "/tile/0/000.p/255",
        "/tile/1/000.p/1",
        "/tile/0/0",
        "/tile/entries/001",
        "/logs/other.localhost/checkpoint",
    ] {
        assert_eq!(world.get(path, "").await.problem(), "not-found", "{path}");
    }
    world.node.shutdown().await;
}
