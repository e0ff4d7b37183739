//! Signed artifacts whose objects are in a bucket: a stand-in that checks signatures and errs when told to.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use countersign_proof::digest::Digest;
use countersign_server::{Config, Node, Overrides};
use countersign_testkit::s3::{ACCESS_KEY, BUCKET, Bucket, REGION, SECRET, Trouble};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::support::{Reply, World};

/// A node's settings for the bucket; the credentials are files in the directory.
fn settings(bucket: &Bucket, directory: &tempfile::TempDir, more: &str) -> String {
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        path.display().to_string()
    };
    let (id, secret) = (file("id", ACCESS_KEY), file("secret", SECRET));
    format!(
        "[trust]\nenabled = true\n[trust.s3]\nbucket = \"{BUCKET}\"\nregion = \"{REGION}\"\nendpoint = \"{}\"\nprefix = \"node-1/\"\n\
         access_key_id_file = \"{id}\"\nsecret_access_key_file = \"{secret}\"\ntimeout = \"2s\"\n{more}\n",
        bucket.endpoint()
    )
}

const LOCKED: &str = "retention = \"2190d\"\nencryption = \"AES256\"";

fn artifact(id: Uuid, version: u64) -> Value {
    json!({
        "id": id, "type": "baseline_module", "version": version, "workspaceId": "default", "createdAt": "2026-03-01T12:00:00Z",
        "jsonBody": { "name": format!("module {version}"), "module_version": "1", "controls": [{ "id": "AC-2", "statement": "Accounts are reviewed." }] },
    })
}

async fn create(world: &World, token: &str, id: Uuid, version: u64) -> Value {
    let reply = world.post("/artifacts", token, &artifact(id, version).to_string()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()
}

async fn hold(world: &World, token: &str, id: Uuid, body: Value) -> Reply {
    world.post(&format!("/artifacts/{id}/hold"), token, &body.to_string()).await
}

/// Which versions are under hold, oldest first: in the bucket, and by their rows.
async fn holds(world: &World, token: &str, bucket: &Bucket, id: Uuid) -> (Vec<bool>, Vec<bool>) {
    let keys = keys(bucket, id);
    let at_store = bucket.with(|state| keys.iter().map(|key| state.newest(key).expect("there").held).collect());
    let listed = world.get(&format!("/artifacts?id={id}"), token).await.json();
    let oldest_first = listed.as_array().expect("a list").iter().rev();
    (at_store, oldest_first.map(|artifact| artifact["hold"] == true).collect())
}

/// Keys of the artifact's objects in the bucket, oldest version first.
fn keys(bucket: &Bucket, id: Uuid) -> Vec<String> {
    let prefix = format!("node-1/artifacts/default/{id}/");
    bucket.with(|state| state.objects.keys().filter(|key| key.starts_with(&prefix)).cloned().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_kept_locked_in_the_bucket_and_read_by_their_versions() {
    let (bucket, directory) = (Bucket::start().expect("a bucket"), tempfile::tempdir().expect("a directory"));
    let world = World::start_with(&settings(&bucket, &directory, LOCKED)).await;
    let agent = world.agent("bot");
    let id = Uuid::now_v7();
    let jws = create(&world, &agent, id, 1).await;
    let [key] = keys(&bucket, id).try_into().expect("one object");
    let kept = bucket.with(|state| state.newest(&key).cloned()).expect("there");
    assert_eq!(serde_json::from_slice::<Value>(&kept.bytes).expect("JSON"), jws);
    assert_eq!(kept.encryption, Some(("AES256".into(), None)));
    assert!(kept.retention.is_some_and(|(mode, until)| mode == "COMPLIANCE" && until.as_str() > "2031"));
    // Sent again it is the same artifact, and no second object.
    assert_eq!(create(&world, &agent, id, 1).await, jws);
    bucket.with(|state| state.lay_over(&key, b"something else"));

    let world = world.restart().await;
    assert_eq!(world.get(&format!("/artifacts/{id}"), &agent).await.json(), jws, "the version that was pinned");
    let told = world.post(&format!("/artifacts/{id}/verify"), &agent, "").await.json();
    assert_eq!(told["valid"], true, "{told}");
    let listed = world.get("/artifacts", &agent).await.json();
    assert_eq!(
        (&listed[0]["hold"], &listed[0]["retention"]["mode"]),
        (&json!(false), &json!("compliance")),
        "{listed}"
    );
    assert!(listed[0]["retention"]["until"].as_str().is_some_and(|until| until > "2031"), "{listed}");
    assert!(!world.path("data/objects").exists(), "nothing lies in a directory");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_away_leaves_nothing_half_made() {
    let (bucket, directory) = (Bucket::start().expect("a bucket"), tempfile::tempdir().expect("a directory"));
    let world = World::start_with(&settings(&bucket, &directory, LOCKED)).await;
    let agent = world.agent("bot");
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    create(&world, &agent, first, 1).await;
    bucket.with(|state| state.is_away = true);
    let refused = world.post("/artifacts", &agent, &artifact(second, 1).to_string()).await;
    assert_eq!((refused.status, refused.problem().as_str()), (502, "upstream-unavailable"), "{}", refused.text());
    assert_eq!(world.get(&format!("/artifacts/{first}"), &agent).await.status, 502);
    assert_eq!(hold(&world, &agent, first, json!({ "hold": true, "reason": "case 1" })).await.status, 502);
    let listed = world.get("/artifacts", &agent).await.json();
    assert_eq!((listed.as_array().map(Vec::len), &listed[0]["hold"]), (Some(1), &json!(false)), "{listed}");
    bucket.with(|state| state.is_away = false);
    // Stored, and the answer lost for good: the client sends it again, and nothing is left of the first attempt but an object.
    bucket
        .trouble("PutObject", [Trouble::DoneAndCut, Trouble::Error(503, "SlowDown"), Trouble::Error(503, "SlowDown")]);
    assert_eq!(world.post("/artifacts", &agent, &artifact(second, 1).to_string()).await.status, 502);
    assert_eq!(keys(&bucket, second).len(), 1);
    create(&world, &agent, second, 1).await;
    // The same signature, if it is made in the same second, or another one under another name.
    assert!((1..=2).contains(&keys(&bucket, second).len()));
    let told = world.post(&format!("/artifacts/{second}/verify"), &agent, "").await.json();
    assert_eq!(told["valid"], true, "{told}");
    // Without the store the node starts, and says so.
    bucket.with(|state| state.is_away = true);
    let world = world.restart().await;
    assert!(world.node.notes().iter().any(|note| note.contains("cannot be reached")), "{:?}", world.node.notes());
    bucket.with(|state| state.is_away = false);
    create(&world, &agent, Uuid::now_v7(), 1).await;
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrub_names_what_is_missing_changed_unlocked_or_laid_over() {
    let (bucket, directory) = (Bucket::start().expect("a bucket"), tempfile::tempdir().expect("a directory"));
    let world = World::start_with(&settings(&bucket, &directory, LOCKED)).await;
    let (agent, operator) = (world.agent("bot"), world.person("olga", &["operator"]));
    let ids: Vec<Uuid> = (0..7).map(|_| Uuid::now_v7()).collect();
    for id in &ids {
        create(&world, &agent, *id, 1).await;
    }
    let held = hold(&world, &agent, ids[4], json!({ "hold": true, "reason": "case 1" })).await;
    assert_eq!(held.status, 200, "{}", held.text());
    let scrub = async || world.post("/admin/artifacts/scrub", &operator, "{}").await.json();
    let clean = scrub().await;
    assert_eq!((&clean["checked"], &clean["intact"], &clean["orphans"]), (&json!(7), &json!(7), &json!(0)), "{clean}");
    assert_eq!((&clean["damaged"], &clean["overlaid"]), (&json!([]), &json!([])));

    let key = |n: usize| keys(&bucket, ids[n]).remove(0);
    // Destroyed; changed in place; kept for too short; without its lock; without its hold; laid over.
    let destroyed = key(0);
    bucket.with(|state| state.objects.remove(&destroyed));
    let version = |n: usize, change: fn(&mut countersign_testkit::s3::Version)| {
        let key = key(n);
        bucket.with(|state| change(&mut state.objects.get_mut(&key).expect("there")[0]));
    };
    version(1, |version| version.bytes[40] ^= 1);
    version(2, |version| version.retention = Some(("COMPLIANCE".into(), "2027-01-01T00:00:00Z".into())));
    version(3, |version| version.retention = None);
    version(4, |version| version.held = false);
    let over = key(5);
    bucket.with(|state| state.delete(&over));
    // Old enough to belong to no call that is under way, and too young for that.
    bucket.with(|state| {
        for (name, at) in [("old", "2026-01-01T00:00:00Z"), ("young", "2999-01-01T00:00:00Z")] {
            let key = format!("node-1/artifacts/default/{}/1-{name}.jws", Uuid::now_v7());
            state.lay_over(&key, b"left over");
            at.clone_into(&mut state.objects.get_mut(&key).expect("there")[0].at);
        }
    });
    let found = scrub().await;
    let named = |list: &str| -> Vec<(String, String)> {
        let text = |one: &Value, name: &str| one[name].as_str().expect("text").to_owned();
        found[list].as_array().expect("a list").iter().map(|one| (text(one, "id"), text(one, "why"))).collect()
    };
    let damaged = named("damaged");
    assert_eq!(
        damaged.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(),
        ids[..5].iter().map(Uuid::to_string).collect::<Vec<_>>(),
        "{found}"
    );
    for ((_, why), word) in
        damaged.iter().zip(["is missing", "SHA-256", "days earlier", "retention is gone", "hold is gone"])
    {
        assert!(why.contains(word), "{word}: {why}");
    }
    let overlaid = named("overlaid");
    assert!(
        matches!(overlaid.as_slice(), [(id, why)] if *id == ids[5].to_string() && why.contains("deleted")),
        "{found}"
    );
    assert_eq!((&found["checked"], &found["intact"], &found["orphans"]), (&json!(7), &json!(2), &json!(1)), "{found}");
    assert_eq!(world.get(&format!("/artifacts/{}", ids[5]), &agent).await.status, 200, "it is still read");
    assert!(world.get(&format!("/artifacts/{}", ids[0]), &agent).await.status >= 500);
    // Set again, the hold is there again.
    assert_eq!(hold(&world, &agent, ids[4], json!({ "hold": true, "reason": "again" })).await.status, 200);
    assert_eq!(scrub().await["damaged"].as_array().map(Vec::len), Some(4));
    bucket.with(|state| state.is_away = true);
    assert_eq!(world.post("/admin/artifacts/scrub", &operator, "{}").await.status, 503, "not known is not damaged");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legal_hold_is_a_governed_call_on_every_version_and_those_that_follow() {
    let (bucket, directory) = (Bucket::start().expect("a bucket"), tempfile::tempdir().expect("a directory"));
    let world = World::start_with(&settings(&bucket, &directory, "")).await;
    let (agent, auditor, stranger) = (world.agent("bot"), world.person("au", &["auditor"]), world.person("eve", &[]));
    let id = Uuid::now_v7();
    create(&world, &agent, id, 1).await;
    create(&world, &agent, id, 2).await;
    let at_store = || -> Vec<bool> {
        let keys = keys(&bucket, id);
        bucket.with(|state| keys.iter().map(|key| state.newest(key).expect("there").held).collect())
    };
    let reply = hold(&world, &agent, id, json!({ "hold": true, "reason": "case 4711" })).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!((&reply.json()["versions"], reply.header("countersign-receipt").is_some()), (&json!([1, 2]), true));
    assert_eq!(at_store(), [true, true]);
    create(&world, &agent, id, 3).await;
    assert_eq!(at_store(), [true, true, true], "what is under hold grows under hold");
    let one = hold(&world, &agent, id, json!({ "hold": false, "version": 2, "reason": "not this one" })).await;
    assert_eq!(one.json()["versions"], json!([2]), "{}", one.text());
    assert_eq!(at_store(), [true, false, true]);
    let listed = world.get("/artifacts", &agent).await.json();
    let held: Vec<bool> = listed.as_array().expect("a list").iter().map(|a| a["hold"] == true).collect();
    assert_eq!(held, [true, false, true], "{listed}");

    // Who may not is refused, with an event that says which way and why.
    let denied = hold(&world, &stranger, id, json!({ "hold": false, "reason": "nothing to see" })).await;
    assert_eq!(denied.status, 403, "{}", denied.text());
    assert_eq!(at_store(), [true, false, true]);
    for (body, status) in [
        (json!({ "hold": true }), 422),
        (json!({ "reason": "x" }), 422),
        (json!({ "hold": "on", "reason": "x" }), 422),
        (json!({ "hold": true, "reason": " " }), 422),
        (json!({ "hold": true, "reason": "x".repeat(1001) }), 422),
        (json!({ "hold": true, "reason": "x", "version": 9 }), 404),
        (json!([]), 400),
    ] {
        let refused = hold(&world, &agent, id, body.clone()).await;
        assert_eq!(refused.status, status, "{body}: {}", refused.text());
    }
    let other = hold(&world, &agent, id, json!({ "hold": false, "reason": "x", "id": Uuid::now_v7() })).await;
    assert!(matches!(other.status, 400 | 422), "the id stands in the path: {}", other.text());
    assert_eq!(hold(&world, &agent, Uuid::now_v7(), json!({ "hold": true, "reason": "x" })).await.status, 404);
    let events = world.get(&format!("/audit/events?artifact_id={id}"), &auditor).await.json();
    let said = |kind: &str, hold: bool, reason: &str| {
        let mut events = events.as_array().expect("events").iter();
        events.any(|e| {
            e["type"] == kind && e["tool"]["name"] == "hold" && e["hold"] == hold && e["hold_reason"] == reason
        })
    };
    assert!(said("call.intent", true, "case 4711") && said("call.completed", true, "case 4711"), "{events}");
    assert!(said("call.denied", false, "nothing to see"), "{events}");

    let released = hold(&world, &agent, id, json!({ "hold": false, "reason": "closed" })).await;
    assert_eq!((released.status, at_store()), (200, vec![false, false, false]));
    bucket.with(|state| state.has_lock = false);
    let refused = hold(&world, &agent, id, json!({ "hold": true, "reason": "x" })).await;
    assert_eq!((refused.status, refused.text().contains("Object Lock")), (422, true), "{}", refused.text());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_made_while_a_hold_changes_follows_it() {
    let (bucket, directory) = (Bucket::start().expect("a bucket"), tempfile::tempdir().expect("a directory"));
    let world = World::start_with(&settings(&bucket, &directory, "")).await;
    let agent = world.agent("bot");
    let id = Uuid::now_v7();
    create(&world, &agent, id, 1).await;
    let late = || [Trouble::Late(Duration::from_millis(700))];
    let soon = || tokio::time::sleep(Duration::from_millis(200));
    let set = async |on: bool| hold(&world, &agent, id, json!({ "hold": on, "reason": "case 1" })).await;
    for (versions, on) in [(2, true), (3, false), (4, true)] {
        // After the version before was looked at, and before there is a row.
        bucket.trouble("PutObject", late());
        let meanwhile = async {
            soon().await;
            set(on).await
        };
        let (_, held) = tokio::join!(create(&world, &agent, id, versions), meanwhile);
        assert_eq!(held.status, 200, "{}", held.text());
        let all = vec![on; usize::try_from(versions).expect("few")];
        assert_eq!(holds(&world, &agent, &bucket, id).await, (all.clone(), all), "version {versions}");
    }
    // After the versions were counted, and before their rows say what was done.
    bucket.trouble("PutObjectLegalHold", late());
    let meanwhile = async {
        soon().await;
        create(&world, &agent, id, 5).await
    };
    let (released, _) = tokio::join!(set(false), meanwhile);
    assert_eq!(released.status, 200, "{}", released.text());
    assert_eq!(holds(&world, &agent, &bucket, id).await, (vec![false; 5], vec![false; 5]));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_hold_is_looked_up_and_only_what_cannot_be_is_unknown() {
    let (bucket, directory) = (Bucket::start().expect("a bucket"), tempfile::tempdir().expect("a directory"));
    let world = World::start_with(&settings(&bucket, &directory, "")).await;
    let (agent, operator) = (world.agent("bot"), world.person("olga", &["operator"]));
    let id = Uuid::now_v7();
    create(&world, &agent, id, 1).await;
    create(&world, &agent, id, 2).await;
    let set = async |on: bool| hold(&world, &agent, id, json!({ "hold": on, "reason": "case 1" })).await;
    let both = |on: bool| (vec![on; 2], vec![on; 2]);
    // Three attempts for each of the two.
    let trouble = |what: Trouble| bucket.trouble("PutObjectLegalHold", vec![what; 6]);
    let calm = || {
        bucket.trouble("PutObjectLegalHold", []);
        bucket.trouble("HeadObject", []);
    };
    trouble(Trouble::DoneAndCut);
    let reply = set(true).await;
    assert_eq!(reply.status, 200, "it is done, as the store shows: {}", reply.text());
    assert_eq!(holds(&world, &agent, &bucket, id).await, both(true));

    // Done for one of them: an outcome, after which the same call does the rest.
    bucket.trouble("PutObjectLegalHold", [Trouble::Error(403, "AccessDenied")]);
    let partly = set(false).await;
    assert_eq!((partly.status, partly.problem().as_str()), (502, "upstream-unavailable"), "{}", partly.text());
    assert!(partly.text().contains("done for 1 versions, and not for 1"), "{}", partly.text());
    let (at_store, in_rows) = holds(&world, &agent, &bucket, id).await;
    assert_eq!((&in_rows, at_store.iter().filter(|held| **held).count()), (&at_store, 1));
    assert_eq!(set(false).await.status, 200);
    assert_eq!(holds(&world, &agent, &bucket, id).await, both(false));

    // Certainly not done.
    trouble(Trouble::Error(503, "SlowDown"));
    let undone = set(true).await;
    assert_eq!((undone.status, undone.problem().as_str()), (502, "upstream-unavailable"), "{}", undone.text());
    assert!(undone.text().contains("nothing was changed"), "{}", undone.text());
    calm();
    assert_eq!(set(true).await.status, 200);

    // Done, and nobody can say so.
    trouble(Trouble::DoneAndCut);
    bucket.trouble("HeadObject", vec![Trouble::Cut; 4]);
    let unknown = set(false).await;
    assert_eq!((unknown.status, unknown.text().contains("NOT known")), (502, true), "{}", unknown.text());
    calm();
    assert_eq!(holds(&world, &agent, &bucket, id).await, (vec![false; 2], vec![true; 2]));
    let again = set(false).await;
    assert_eq!((again.status, again.problem().as_str()), (409, "outcome-unknown"), "{}", again.text());
    let open = world.get("/admin/unknown", &operator).await.json();
    let path = format!("/admin/unknown/{}/resolve", open[0]["call"].as_str().expect("a call"));
    assert_eq!(world.post(&path, &operator, r#"{"outcome":"not-executed"}"#).await.status, 200);
    assert_eq!(set(false).await.status, 200);
    assert_eq!(holds(&world, &agent, &bucket, id).await, both(false));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrub_holds_documents_of_scans_against_their_locks_too() {
    let (bucket, directory) = (Bucket::start().expect("a bucket"), tempfile::tempdir().expect("a directory"));
    let world = World::start_with(&settings(&bucket, &directory, LOCKED)).await;
    let (agent, operator) = (world.agent("bot"), world.person("olga", &["operator"]));
    let scanner = json!({ "driver": { "name": "scanner", "version": "1.0" } });
    let document = json!({ "version": "2.1.0", "runs": [{ "tool": scanner, "results": [] }] });
    let body = json!({ "artifact": Digest::of(b"api").to_string(), "document": document });
    let added = world.post("/v1/scans", &agent, &body.to_string()).await;
    assert_eq!(added.status, 200, "{}", added.text());
    let entry = added.json()["entry_id"].clone();
    let kept = |key: &&String| key.starts_with("node-1/scans/default/");
    let key = bucket.with(|state| state.objects.keys().find(kept).cloned()).expect("an object");
    let scrub = async || world.post("/admin/artifacts/scrub", &operator, "{}").await.json();
    let clean = scrub().await;
    assert_eq!((&clean["documents"], &clean["documents_intact"]), (&json!(1), &json!(1)), "{clean}");
    assert_eq!((&clean["damaged_documents"], &clean["overlaid_documents"]), (&json!([]), &json!([])), "{clean}");

    bucket.with(|state| state.delete(&key));
    let found = scrub().await;
    let [over] = found["overlaid_documents"].as_array().expect("a list").as_slice() else { panic!("{found}") };
    assert_eq!((&over["entry_id"], &found["documents_intact"]), (&entry, &json!(1)), "{found}");
    assert!(over["why"].as_str().is_some_and(|why| why.contains("deleted")), "{found}");

    let shorter = Some(("COMPLIANCE".to_owned(), "2027-01-01T00:00:00Z".to_owned()));
    for (retention, word) in [(shorter, "days earlier"), (None, "retention is gone")] {
        bucket.with(|state| state.objects.get_mut(&key).expect("there")[0].retention = retention);
        let found = scrub().await;
        let [damaged] = found["damaged_documents"].as_array().expect("a list").as_slice() else { panic!("{found}") };
        assert_eq!((&damaged["entry_id"], &found["documents_intact"]), (&entry, &json!(0)), "{found}");
        assert!(damaged["why"].as_str().is_some_and(|why| why.contains(word)), "{found}");
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_directory_nothing_is_put_under_hold() {
    let world = World::start_with("[trust]\nenabled = true\n").await;
    let agent = world.agent("bot");
    let id = Uuid::now_v7();
    create(&world, &agent, id, 1).await;
    let refused = hold(&world, &agent, id, json!({ "hold": true, "reason": "case 1" })).await;
    assert_eq!((refused.status, refused.problem().as_str()), (422, "invalid-arguments"), "{}", refused.text());
    assert!(refused.text().contains("[trust.s3]"), "{}", refused.text());
    assert_eq!(world.get("/artifacts", &agent).await.json()[0]["hold"], false);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_will_not_do_keeps_the_node_from_starting() {
    let (bucket, directory) = (Bucket::start().expect("a bucket"), tempfile::tempdir().expect("a directory"));
    let home = tempfile::tempdir().expect("a directory");
    let start = async |more: &str| {
        fs::write(home.path().join("countersign.toml"), settings(&bucket, &directory, more)).expect("written");
        let flags = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
        let mut tries = 0..100;
        loop {
            let config = Config::load_with(&flags, &|_| None).expect("a valid configuration");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            match Node::start_on(config, listener).await {
                // A node that did not start lets go of its files a moment later; it usually ends with its process.
                Err(error) if tries.next().is_some() && format!("{error:?}").contains("InUse") => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                ended => return ended,
            }
        }
    };
    bucket.with(|state| state.has_lock = false);
    let error = start(LOCKED).await.err().expect("refused").to_string();
    assert!(error.contains("[trust.s3]") && error.contains("no Object Lock"), "{error}");
    bucket.with(|state| (state.has_lock, state.has_versions) = (true, false));
    let node = start("").await.expect("starts");
    assert!(node.notes().iter().any(|note| note.contains("keeps no versions")), "{:?}", node.notes());
    node.shutdown().await;
    bucket.with(|state| state.has_versions = true);
    let gone = "secret_access_key_file = \"/nonexistent\"";
    fs::write(
        home.path().join("countersign.toml"),
        settings(&bucket, &directory, "").replace("secret_access_key_file", "#") + gone,
    )
    .expect("written");
    let flags = Overrides { home: Some(home.path().to_owned()), ..Overrides::default() };
    let config = Config::load_with(&flags, &|_| None).expect("a valid configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let error = Node::start_on(config, listener).await.err().expect("refused").to_string();
    assert!(error.contains("[trust.s3]") && error.contains("/nonexistent"), "{error}");
}
