//! Entries and checkpoints handed on to somebody else's log, whose answers are verified and kept.

use std::time::{Duration, Instant};

use countersign_proof::digest::Digest;
use countersign_trust::root::TrustedRoot;
use countersign_trust::verify::{Artifact, Expected, Pattern, Policy, verify};
use serde_json::{Value, json};

use crate::rekor::{Behaviour, ORIGIN, Rekor};
use crate::support::World;

const ENTRIES: &str = "what = [\"entries\"]";

async fn sign(world: &World, artifact: &[u8]) -> String {
    let body = json!({ "artifact": Digest::of(artifact).to_string(), "artifact_type": "release" });
    let reply = world.post("/v1/sign", &world.agent("bot"), &body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["entry_id"].as_str().expect("an id").to_owned()
}

async fn get(world: &World, path: &str) -> Value {
    let reply = world.get(path, &world.agent("bot")).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    reply.json()
}

/// Waits until forwarding stands as it should.
async fn until(world: &World, good: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(40);
    loop {
        let stats = get(world, "/v1/stats").await["forwarding"].clone();
        if good(&stats) {
            return stats;
        }
        assert!(Instant::now() < end, "{stats}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Verifies with the published trusted root, of whose logs only those with `log` count.
async fn verified(world: &World, signed: &Value, artifact: &[u8], log: &str) -> bool {
    let mut root = TrustedRoot::parse(&world.get("/trust/trusted_root.json", "").await.body).expect("a trusted root");
    root.logs.retain(|known| known.origin() == log);
    let exactly = |member: &str| Pattern::Exact(signed[member].as_str().expect("a text").to_owned());
    let expected = Expected::Certificate { identity: exactly("signer"), issuer: exactly("issuer") };
    let policy = Policy { expected, ..Policy::default() };
    let report = verify(signed["bundle"].to_string().as_bytes(), &Artifact::Bytes(artifact), &root, &policy);
    report.is_valid() && report.logs.iter().all(|place| place.log == log && place.operator == "Elsewhere")
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_and_checkpoints_get_into_the_other_log_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let rekor = Rekor::start();
    let world = World::start_with(&rekor.settings(directory.path(), "")).await;
    let mut ids = Vec::new();
    for n in 0..20_u8 {
        ids.push(sign(&world, &[n]).await);
    }
    let stats = until(&world, |stats| stats["forwarded"] == 20 && stats["checkpoints"] == 1).await;
    assert_eq!((&stats["waiting"], &stats["refused"], &stats["last_problem"]), (&json!(0), &json!(0), &Value::Null));
    assert_eq!(rekor.tree().taken(), 21);

    let path = format!("/v1/signatures/{}", ids[7]);
    let own = get(&world, &path).await;
    assert_eq!(
        (&own["outside_entries"][0]["log"], &own["outside_entries"][0]["logged"]),
        (&json!(ORIGIN), &json!(true))
    );
    assert!(!verified(&world, &own, &[7], ORIGIN).await, "it names the node's own log");
    let outside = get(&world, &format!("{path}?log=outside")).await;
    assert_eq!(outside["bundle"]["verificationMaterial"]["tlogEntries"].as_array().map(Vec::len), Some(1));
    assert!(verified(&world, &outside, &[7], ORIGIN).await, "{outside}");
    assert!(!verified(&world, &outside, &[8], ORIGIN).await);
    let wrong = world.get(&format!("{path}?log=other"), &world.agent("bot")).await;
    assert_eq!(wrong.status, 422, "{}", wrong.text());

    // The checkpoint is a signature of the node's own over the note.
    let checkpoint =
        get(&world, &format!("/v1/signatures/{}", stats["last_checkpoint"]["entry_id"].as_str().expect("an id"))).await;
    let note = checkpoint["checkpoint"].as_str().expect("a note");
    assert!(verified(&world, &checkpoint, note.as_bytes(), ORIGIN).await, "{checkpoint}");
    assert_eq!(checkpoint["signer"], format!("{}/log", own["issuer"].as_str().expect("an issuer")));

    // Nothing is handed on twice, and the metrics say what happened.
    let world = world.restart().await;
    let last = sign(&world, b"last").await;
    until(&world, |stats| stats["forwarded"] == 21).await;
    assert_eq!((rekor.tree().taken(), rekor.posts()), (22, 22));
    assert!(get(&world, &format!("/v1/signatures/{last}")).await["outside_entries"][0]["entry"].is_object());
    let metrics = world.get("/metrics", &world.person("olga", &["operator"])).await.text();
    assert!(metrics.contains("countersign_forwarded_total{result=\"logged\"} 1\n"), "{metrics}");
    assert!(metrics.contains("countersign_forward_waiting 0\n"), "{metrics}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_while_the_log_was_away_follows_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut rekor = Rekor::start();
    rekor.stop();
    let world = World::start_with(&rekor.settings(directory.path(), ENTRIES)).await;
    sign(&world, b"one").await;
    sign(&world, b"two").await;
    let stats = until(&world, |stats| stats["last_problem"].is_string()).await;
    assert_eq!((&stats["waiting"], &stats["forwarded"]), (&json!(2), &json!(0)), "{stats}");
    let world = world.restart().await;
    rekor.behave(Behaviour::Away);
    rekor.resume();
    let stats = until(&world, |stats| stats["last_problem"].is_string()).await;
    assert!(stats["last_problem"].to_string().contains("max pushback"), "{stats}");
    rekor.behave(Behaviour::Good);
    let stats = until(&world, |stats| stats["forwarded"] == 2).await;
    assert_eq!((&stats["waiting"], &stats["last_problem"], rekor.tree().taken()), (&json!(0), &Value::Null, 2));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_whose_answer_was_lost_is_proved_from_the_tiles() {
    let directory = tempfile::tempdir().expect("a directory");
    let rekor = Rekor::start();
    rekor.behave(Behaviour::Lost);
    let world = World::start_with(&rekor.settings(directory.path(), ENTRIES)).await;
    let id = sign(&world, b"one").await;
    until(&world, |stats| stats["last_problem"].is_string()).await;
    rekor.behave(Behaviour::Good);
    until(&world, |stats| stats["forwarded"] == 1).await;
    assert_eq!((rekor.tree().taken(), rekor.posts()), (1, 2), "it is there once");
    let outside = get(&world, &format!("/v1/signatures/{id}?log=outside")).await;
    assert!(verified(&world, &outside, b"one", ORIGIN).await, "{outside}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_want_is_recorded_and_left() {
    let directory = tempfile::tempdir().expect("a directory");
    let rekor = Rekor::start();
    rekor.behave(Behaviour::Refusing);
    let world = World::start_with(&rekor.settings(directory.path(), ENTRIES)).await;
    let id = sign(&world, b"one").await;
    until(&world, |stats| stats["refused"] == 1 && stats["waiting"] == 0).await;
    rekor.behave(Behaviour::Good);
    sign(&world, b"two").await;
    until(&world, |stats| stats["forwarded"] == 1).await;
    assert_eq!(rekor.posts(), 2);
    let signed = get(&world, &format!("/v1/signatures/{id}")).await;
    let entry = &signed["outside_entries"][0];
    assert_eq!(entry["logged"], false);
    assert!(entry["reason"].to_string().contains("400: invalid hashedrekord request"), "{entry}");
    let none = world.get(&format!("/v1/signatures/{id}?log=outside"), &world.agent("bot")).await;
    assert_eq!(none.status, 404, "{}", none.text());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lies_or_is_slow_is_not_believed() {
    let directory = tempfile::tempdir().expect("a directory");
    for (behaviour, why) in [
        (Behaviour::OtherEntry, "log_entry_mismatch"),
        (Behaviour::OtherProof, "inclusion_mismatch"),
        (Behaviour::OtherKey, "checkpoint_unsigned"),
        (Behaviour::OtherTree, "checkpoint_mismatch"),
        (Behaviour::Nonsense, "its answer is not used"),
        (Behaviour::Slow, "before the deadline"),
    ] {
        let rekor = Rekor::start();
        rekor.behave(behaviour);
        let world = World::start_with(&rekor.settings(directory.path(), ENTRIES)).await;
        let id = sign(&world, b"one").await;
        let stats = until(&world, |stats| stats["last_problem"].is_string()).await;
        assert!(stats["last_problem"].to_string().contains(why), "{behaviour:?}: {stats}");
        assert_eq!((&stats["waiting"], &stats["forwarded"], &stats["refused"]), (&json!(1), &json!(0), &json!(0)));
        assert_eq!(get(&world, &format!("/v1/signatures/{id}")).await["outside_entries"], json!([]), "{behaviour:?}");
        world.node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_before_follows_only_if_it_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let rekor = Rekor::start();
    let world = World::start_with(&rekor.settings(directory.path(), ENTRIES)).await;
    let mut forward = None;
    let world = world.restart_with(|config| forward = config.trust.as_mut().expect("on").forward.take()).await;
    assert_eq!(get(&world, "/v1/stats").await["forwarding"], Value::Null);
    sign(&world, b"between").await;
    let kept = forward.clone();
    // It was on before: what was signed while it was off follows.
    let world = world.restart_with(|config| config.trust.as_mut().expect("on").forward = kept).await;
    until(&world, |stats| stats["forwarded"] == 1).await;
    world.node.shutdown().await;

    let world = World::start_with("[trust]\nenabled = true\n").await;
    sign(&world, b"before").await;
    let kept = forward.clone();
    let world = world.restart_with(|config| config.trust.as_mut().expect("on").forward = kept).await;
    sign(&world, b"after").await;
    let stats = until(&world, |stats| stats["forwarded"] == 1).await;
    assert_eq!(stats["waiting"], 0);
    let backlog = forward.map(|mut settings| {
        settings.backlog = true;
        settings
    });
    let world = world.restart_with(|config| config.trust.as_mut().expect("on").forward = backlog).await;
    until(&world, |stats| stats["forwarded"] == 2).await;
    assert_eq!(rekor.tree().taken(), 3);
    world.node.shutdown().await;
}
