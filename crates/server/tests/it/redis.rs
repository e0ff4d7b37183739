//! A node whose rate limits are in Redis, while that server goes and comes back.
//!
//! Where Redis is not installed the test says so and passes, unless `COUNTERSIGN_REQUIRE_REDIS` is set.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::World;

/// A server on a port of its own, which can be killed and started again.
struct Redis {
    child: Option<Child>,
    port: u16,
}

impl Redis {
    fn start() -> Option<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let child = spawn(port);
        if child.is_none() {
            assert!(std::env::var_os("COUNTERSIGN_REQUIRE_REDIS").is_none(), "redis-server is not installed");
            eprintln!("not tested: neither redis-server nor valkey-server is installed");
        }
        child.map(|child| Self { child: Some(child), port })
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16) -> Option<Child> {
    let start = |program: &str| {
        Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()
    };
    start("redis-server").or_else(|| start("valkey-server"))
}

/// What the operator is shown of the shared buckets.
async fn shown(world: &World) -> Value {
    world.get("/admin/status", &world.person("olga", &["operator"])).await.json()["shared_limits"].clone()
}

async fn until(world: &World, away: bool) {
    let start = Instant::now();
    loop {
        // Only calls ask, so only calls find out; and only those of callers who have some left.
        let agent = world.agent(&format!("asks-{}", start.elapsed().as_micros()));
        world.post("/tools/ads:listCampaigns/invoke", &agent, "{}").await;
        let shown = shown(world).await;
        if shown["away"] == away {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{shown}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Calls of an agent of its own until one is refused, and why; at most 20.
async fn calls(world: &World, agent: &str) -> (usize, Option<(String, bool)>) {
    let token = world.agent(agent);
    for n in 0..20 {
        let reply = world.post("/tools/ads:listCampaigns/invoke", &token, "{}").await;
        if reply.status != 200 {
            return (n, Some((reply.problem(), reply.header("retry-after").is_some())));
        }
    }
    (20, None)
}

async fn lives_through(when_away: &str, meanwhile: (usize, &str)) {
    let Some(mut redis) = Redis::start() else { return };
    let limits = "[limits]\nper_principal = { calls = 5, per = \"1h\" }\n[limits.redis]\ntimeout = \"2s\"\n";
    let world = World::start_with(&format!(
        "{limits}url = \"redis://127.0.0.1:{}\"\nwhen_away = \"{when_away}\"\n",
        redis.port
    ))
    .await;
    until(&world, false).await;
    let limited = |calls| (calls, Some(("rate-limited".to_owned(), true)));
    assert_eq!(calls(&world, "one").await, limited(5));
    redis.kill();
    until(&world, true).await;
    // What the node does by itself, at once and without an event for each refusal that has nothing to say.
    let (allowed, refused) = calls(&world, "two").await;
    assert_eq!((allowed, refused.map(|(kind, _)| kind)), (meanwhile.0, Some(meanwhile.1.to_owned())));
    assert!(shown(&world).await["unanswered"].as_u64().is_some_and(|n| n > 0));
    assert_eq!(world.get("/ready", "").await.status, 200, "reading receipts and approving go on");
    redis.child = spawn(redis.port);
    until(&world, false).await;
    assert_eq!(calls(&world, "three").await, limited(5));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_node_goes_on_by_its_own_buckets_if_it_is_told_to() {
    lives_through("local", (5, "rate-limited")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_a_node_refuses_calls_if_it_is_told_to() {
    lives_through("refuse", (0, "unavailable")).await;
}
