//! The database goes away while artifacts are created, before, in and behind each of the steps: what was acknowledged is there and holds, nothing is
//! visible by halves, and what was not acknowledged is made when it is sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use countersign_testkit::postgres::Postgres;
use countersign_testkit::proxy::Proxy;
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::artifacts::recommendation;
use crate::support::{Reply, World};

/// Neither limits nor breakers hide what the database's absence does.
const SETTINGS: &str = "[limits]\nper_principal = { calls = 1000000, per = \"1s\" }\nper_tool = { calls = 1000000, per = \"1s\" }\n\
     [limits.breakers]\nenabled = false\n[trust]\nenabled = true\n";
const MAKERS: usize = 8;
/// Long enough for everything to fail that was under way, short enough for a commit without an answer to be looked up when the database is back.
const MOMENT: Duration = Duration::from_millis(400);
/// Longer than an append waits for that.
const LONG: Duration = Duration::from_secs(13);
/// Longer than it takes the node to find calls that have no end.
const HOUSEKEEPING: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(30);

/// An artifact that was sent, and what came back.
type Sent = (Value, Reply);

/// A node, and its database behind a network that can be cut.
struct Scene {
    world: World,
    network: Proxy,
    server: Postgres,
    place: PathBuf,
    agent: String,
    operator: String,
    /// The JWS of each artifact that was acknowledged, by its id.
    made: BTreeMap<String, Value>,
}

impl Scene {
    async fn set(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("countersign-{name}-{}", std::process::id()));
        let directory = place.clone();
        let server = tokio::task::spawn_blocking(move || Postgres::create(&directory).expect("a database"));
        let server = server.await.expect("ran");
        let network = Proxy::start(server.port()).expect("a proxy");
        let url = format!("postgres://countersign@127.0.0.1:{}/postgres", network.port());
        let world = World::start_with(&format!("database_url = {url:?}\n{SETTINGS}")).await;
        let (agent, operator) = (world.agent("bot"), world.person("olga", &["operator"]));
        Self { world, network, server, place, agent, operator, made: BTreeMap::new() }
    }

    /// Artifacts are created by several at once while the network is cut for a while: this long after the first were sent, or before.
    async fn cut(&self, after: Option<Duration>, away: Duration) -> Vec<Sent> {
        let over = AtomicBool::new(false);
        let disturb = async {
            if let Some(after) = after {
                tokio::time::sleep(after).await;
                self.network.cut();
            }
            tokio::time::sleep(away).await;
            over.store(true, Ordering::SeqCst);
            self.network.open();
        };
        if after.is_none() {
            self.network.cut();
        }
        let makers = join_all((0..MAKERS).map(|_| self.make(&over)));
        let (sent, ()) = tokio::join!(makers, disturb);
        self.until_ready().await;
        sent.into_iter().flatten().collect()
    }

    /// One after the other, until one fails or it is over.
    async fn make(&self, over: &AtomicBool) -> Vec<Sent> {
        let mut sent = Vec::new();
        while !over.load(Ordering::SeqCst) {
            let artifact = recommendation(Uuid::now_v7(), 1);
            let reply = self.world.post("/artifacts", &self.agent, &artifact.to_string()).await;
            let made = reply.status == 201;
            sent.push((artifact, reply));
            if !made {
                break;
            }
        }
        sent
    }

    /// Holds what is there against what was answered, and sends again what was not acknowledged.
    async fn compared(&mut self, sent: Vec<Sent>) {
        let (mut open, mut undone) = (BTreeMap::new(), BTreeSet::new());
        for (artifact, reply) in sent {
            let id = artifact["id"].as_str().expect("an id").to_owned();
            if reply.status == 201 {
                self.made.insert(id, reply.json());
            } else {
                let clear = [(502, "upstream-unavailable"), (503, "ledger-unavailable")];
                assert!(clear.contains(&(reply.status, reply.problem().as_str())), "{reply:?}");
                if reply.status == 502 && !reply.text().contains("NOT known") {
                    undone.insert(id.clone());
                }
                open.insert(id, artifact);
            }
        }
        let there = self.there().await;
        for (id, jws) in &self.made {
            assert_eq!(there.get(id), Some(jws), "{id} was acknowledged");
        }
        for id in there.keys() {
            assert!(self.made.contains_key(id) || open.contains_key(id), "nobody sent {id}");
            assert!(!undone.contains(id), "{id} is there, and its maker was told that nothing was done");
        }
        for (id, artifact) in open {
            let jws = self.again(&artifact, there.contains_key(&id)).await;
            if let Some(before) = there.get(&id) {
                assert_eq!(&jws, before, "it was made already");
            }
            self.made.insert(id, jws);
        }
        let listed = self.there().await;
        assert!(listed == self.made, "{} are listed, {} were made", listed.len(), self.made.len());
    }

    /// Everything that is listed, as it is read; each of it holds.
    async fn there(&self) -> BTreeMap<String, Value> {
        let listed = self.world.get("/artifacts?limit=1000", &self.agent).await;
        assert_eq!((listed.status, listed.header("link")), (200, None), "{}", listed.text());
        let listed = listed.json();
        let ids = listed.as_array().expect("a list").iter().map(|one| one["id"].as_str().expect("an id").to_owned());
        let ids: Vec<String> = ids.collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "each of them once");
        let mut there = BTreeMap::new();
        for id in ids {
            let read = self.world.get(&format!("/artifacts/{id}"), &self.agent).await;
            assert_eq!(read.status, 200, "{}", read.text());
            let told = self.world.post(&format!("/artifacts/{id}/verify"), &self.agent, "").await;
            assert_eq!((told.status, &told.json()["valid"]), (200, &json!(true)), "{}", told.text());
            there.insert(id, read.json());
        }
        there
    }

    /// The same artifact once more: it is made, or a person has to look first, who finds what is the case.
    async fn again(&self, artifact: &Value, is_there: bool) -> Value {
        let start = Instant::now();
        loop {
            let reply = self.world.post("/artifacts", &self.agent, &artifact.to_string()).await;
            match reply.status {
                201 => return reply.json(),
                409 => {
                    assert_eq!(reply.problem(), "outcome-unknown", "{}", reply.text());
                    self.resolve(&reply.json()["call"], is_there).await;
                }
                _ => assert_eq!(reply.problem(), "ledger-unavailable", "{}", reply.text()),
            }
            assert!(start.elapsed() < PATIENCE, "it is never made: {}", reply.text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn resolve(&self, call: &Value, executed: bool) {
        let unknown = self.world.get("/admin/unknown", &self.operator).await.json();
        let is_named = unknown.as_array().expect("a list").iter().any(|one| one["call"] == *call);
        assert!(is_named, "{call} is not in {unknown}");
        let outcome = if executed { "executed" } else { "not-executed" };
        let path = format!("/admin/unknown/{}/resolve", call.as_str().expect("an id"));
        let body = json!({ "outcome": outcome, "note": "looked" }).to_string();
        let resolved = self.world.post(&path, &self.operator, &body).await;
        assert_eq!(resolved.status, 200, "{}", resolved.text());
    }

    async fn until_ready(&self) {
        let start = Instant::now();
        let ready = async || {
            let reads = self.world.get("/artifacts?limit=1", &self.agent).await.status == 200;
            reads && self.world.get("/ready", "").await.status == 200
        };
        while !ready().await {
            assert!(start.elapsed() < PATIENCE, "the node does not find its database again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The scrub finds every artifact and no damage.
    async fn end(self) {
        let scrubbed = self.world.post("/admin/artifacts/scrub", &self.operator, "{}").await.json();
        let all = json!(self.made.len());
        assert_eq!((&scrubbed["checked"], &scrubbed["intact"]), (&all, &all), "{scrubbed}");
        assert_eq!(scrubbed["damaged"], json!([]), "{scrubbed}");
        let Self { world, server, place, .. } = self;
        world.node.shutdown().await;
        drop(server);
        std::fs::remove_dir_all(place).expect("removed");
    }
}

/// How many have no acknowledgement, and how many were told that the ledger cannot record.
fn refused(sent: &[Sent]) -> (usize, usize) {
    let refused = sent.iter().filter(|(_, reply)| reply.status != 201);
    let away = sent.iter().filter(|(_, reply)| reply.status == 503);
    (refused.count(), away.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_for_a_moment_loses_no_artifact_and_leaves_none_by_halves() {
    let mut scene = Scene::set("away-moment").await;
    // The first of them while the workspace's key is made.
    for after in [4, 0, 10, 20, 40, 80] {
        let sent = scene.cut(Some(Duration::from_millis(after)), MOMENT).await;
        scene.compared(sent).await;
    }
    let sent = scene.cut(None, MOMENT).await;
    assert_eq!(refused(&sent), (MAKERS, sent.len()), "nothing is recorded, so nothing is made");
    scene.compared(sent).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_for_long_leaves_outcomes_to_be_looked_at_and_no_artifact_by_halves() {
    let mut scene = Scene::set("away-long").await;
    let warm = scene.cut(Some(Duration::from_millis(100)), MOMENT).await;
    scene.compared(warm).await;
    let sent = scene.cut(Some(Duration::from_millis(30)), LONG).await;
    assert_eq!(refused(&sent).0, MAKERS, "nobody waits for ever");
    // By then the calls without an end are marked, and what they asked for is refused until somebody has looked.
    tokio::time::sleep(HOUSEKEEPING).await;
    scene.compared(sent).await;
    scene.end().await;
}
