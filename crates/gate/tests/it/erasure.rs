//! What can be erased, what stays provable, and what nobody can guess from what is public.

use countersign_domain::WorkspaceName;
use countersign_ledger::LogEntry;
use countersign_proof::canonical::to_canonical;
use countersign_proof::commitment::salted_digest;
use countersign_proof::digest::Digest;
use countersign_proof::note::VerifierKey;
use countersign_proof::receipt::{Label, Receipt};
use countersign_proof::verify::TrustAnchors;
use countersign_proof::{Verdict, receipt};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{World, done, person, robot, world};

async fn anchors(world: &World) -> TrustAnchors {
    let shards = world.ledger.read(|r| r.shards()).await.expect("shards");
    let keys = shards.iter().map(|s| s.vkey.parse::<VerifierKey>().expect("a key"));
    keys.fold(TrustAnchors::new(), |anchors, key| anchors.with(key))
}

async fn fetched(world: &World, event: Uuid) -> Receipt {
    world.gate.receipt(&person("olivia", &["operator"]), event, vec![]).await.expect("a receipt")
}

async fn verdict(world: &World, event: Uuid) -> Verdict {
    let bytes = fetched(world, event).await.to_bytes().expect("bytes");
    receipt::verify(&bytes, &anchors(world).await).verdict
}

#[tokio::test]
async fn erasing_one_event_leaves_every_other_receipt_valid() {
    let world = world().await;
    for amount in [1, 2, 3] {
        done(world.call(&robot(), "bank:pay", json!({"to": "bob", "amount": amount})).await);
    }
    let operator = person("olivia", &["operator"]);
    let events = world.events().await;
    let calls: Vec<Uuid> = events.iter().filter(|e| e.kind.starts_with("call.")).map(|e| e.id).collect();
    // An intent: the parent of an outcome whose receipt must survive it.
    let victim = calls[2];
    assert!(world.gate.erase(&robot(), victim, "mine").await.is_err(), "operators only");
    world.gate.erase(&operator, victim, "the person asked for it").await.expect("erased");
    assert!(world.gate.erase(&operator, victim, "again").await.is_err(), "erased once");
    assert!(world.gate.receipt(&operator, victim, vec![]).await.is_err(), "its own receipt is gone");
    for event in world.events().await.into_iter().filter(|e| e.id != victim) {
        assert_eq!(verdict(&world, event.id).await, Verdict::Valid, "{} {}", event.kind, event.id);
    }
    let erasure = world.events().await.pop().expect("the newest event");
    assert_eq!((erasure.kind.as_str(), erasure.workspace), ("event.erased", WorkspaceName::default_workspace()));
}

#[tokio::test]
async fn a_guess_at_an_argument_cannot_be_confirmed_without_the_detail_salt() {
    let world = world().await;
    let secret = json!({"to": "bob", "amount": 7});
    let first = done(world.call(&robot(), "bank:pay", secret.clone()).await);
    let second = done(world.call(&robot(), "bank:pay", secret.clone()).await);
    let shown = fetched(&world, first.event).await;
    let text = String::from_utf8(shown.to_bytes().expect("bytes")).expect("UTF-8");
    let guess = to_canonical(&secret).expect("canonical");
    // Everything that somebody who holds the receipt, all salts in it and the right guess could try.
    let mut tried = vec![Digest::of(&guess), Digest::of(secret.to_string().as_bytes())];
    for event in &shown.events {
        tried.extend(["input", "output", ""].map(|label| salted_digest(label, &event.salt, &guess)));
        tried.push(Digest::of_parts(&[&event.salt, &guess]));
        tried.push(countersign_proof::commitment::commit(&event.salt, &guess));
    }
    for digest in tried {
        assert!(!text.contains(&digest.hex()) && !text.contains(&digest.to_base64()), "{digest} confirms the guess");
    }
    let digest = |receipt: &Receipt| receipt.events.last().map(|e| e.event["input_digest"].clone());
    assert_ne!(digest(&shown), digest(&fetched(&world, second.event).await), "equal arguments, unlike digests");
    // The log itself publishes commitments alone.
    let log = world.ledger.read(|r| r.entries(0, 0, 5)).await.expect("commitments");
    assert!(log.iter().all(|leaf| *leaf != LogEntry::Event(Digest::of(&guess))));
}

#[tokio::test]
async fn whoever_has_the_arguments_can_show_them_inside_the_receipt() {
    let world = world().await;
    let arguments = json!({"to": "bob", "amount": 7});
    let answer = done(world.call(&robot(), "bank:pay", arguments.clone()).await);
    let output: Value = serde_json::from_str(answer.result.get()).expect("JSON");
    let disclose = vec![(Label::Input, arguments), (Label::Output, output)];
    let receipt = world.gate.receipt(&robot(), answer.event, disclose).await.expect("confirmed");
    let bytes = receipt.to_bytes().expect("bytes");
    assert_eq!(receipt::verify(&bytes, &anchors(&world).await).verdict, Verdict::Valid);
    let wrong = vec![(Label::Input, json!({"to": "bob", "amount": 8}))];
    let refusal = world.gate.receipt(&robot(), answer.event, wrong).await.expect_err("not what was called");
    assert_eq!(refusal.kind.slug(), "arguments-changed");
}
