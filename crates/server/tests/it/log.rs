//! The transparency log's endpoints, checked with the verifier's own tools.

use countersign_proof::checkpoint::Checkpoint;
use countersign_proof::merkle::{Frontier, leaf_hash};
use countersign_proof::note::VerifierKey;
use countersign_proof::tile::{decode_bundle, decode_tile};

use crate::support::World;

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
