//! Shared rate limits on a real Redis or Valkey server, which is stopped and started under them.
//!
//! Where neither is installed the tests say so and pass, unless `COUNTERSIGN_REQUIRE_REDIS` is set, as the acceptance programs
//! do after installing it.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_store::redis::{RedisAway, RedisRates, SharedBucket};

const PATIENCE: Duration = Duration::from_millis(500);

/// A server on a free port, in a directory of its own.
struct Server {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Option<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(port, &dir);
        if child.is_none() {
            assert!(std::env::var_os("COUNTERSIGN_REQUIRE_REDIS").is_none(), "redis-server is not installed");
            eprintln!("not tested: neither redis-server nor valkey-server is installed");
        }
        child.map(|child| Self { child, port, dir })
    }

    fn again(&mut self) {
        self.child = spawn(self.port, &self.dir).unwrap();
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn rates(&self) -> Arc<RedisRates> {
        RedisRates::new(&format!("redis://127.0.0.1:{}", self.port), PATIENCE).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, dir: &tempfile::TempDir) -> Option<Child> {
    let start = |program: &str| {
        Command::new(program)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()
    };
    start("redis-server").or_else(|| start("valkey-server"))
}

fn bucket(key: &str, calls: u64, per: Duration) -> SharedBucket<'_> {
    SharedBucket { key, interval: per / u32::try_from(calls).unwrap(), burst: per }
}

/// Asks until the server answers.
async fn answered(rates: &RedisRates, buckets: &[SharedBucket<'_>]) -> Option<(usize, Duration)> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match rates.take(buckets).await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < end, "no answer in 20 s: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_share_one_allowance() {
    let Some(server) = Server::start() else { return };
    let nodes = [server.rates(), server.rates(), server.rates()];
    let hour = Duration::from_secs(3600);
    for node in &nodes {
        assert_eq!(answered(node, &[bucket("warm", 1000, hour)]).await, None);
    }
    let take = |i: usize| {
        let node = Arc::clone(&nodes[i % 3]);
        tokio::spawn(async move { answered(&node, &[bucket("p robot", 50, hour)]).await })
    };
    let tasks: Vec<_> = (0..120).map(take).collect();
    let mut allowed = 0;
    for task in tasks {
        match task.await.unwrap() {
            None => allowed += 1,
            Some((0, wait)) => assert!(wait > Duration::from_secs(60) && wait <= Duration::from_secs(72), "{wait:?}"),
            Some(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(allowed, 50, "no more and no fewer over all nodes");
    // All or nothing: an empty second bucket leaves the first as it was.
    let pair = [bucket("t pay", 10, hour), bucket("p robot", 50, hour)];
    for _ in 0..20 {
        assert!(matches!(answered(&nodes[0], &pair).await, Some((1, _))));
    }
    for _ in 0..10 {
        assert_eq!(answered(&nodes[0], &pair[..1]).await, None);
    }
    // Allowances come back with time.
    let brief = [bucket("brief", 1, Duration::from_millis(200))];
    assert_eq!(answered(&nodes[0], &brief).await, None);
    assert!(answered(&nodes[1], &brief).await.is_some());
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(answered(&nodes[2], &brief).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_said_to_be_away_and_found_again() {
    let Some(mut server) = Server::start() else { return };
    let rates = server.rates();
    let one = [bucket("p robot", 1000, Duration::from_secs(3600))];
    assert_eq!(answered(&rates, &one).await, None);
    server.kill();
    let start = Instant::now();
    for _ in 0..50 {
        assert!(rates.take(&one).await.is_err());
    }
    assert!(start.elapsed() < Duration::from_secs(5), "calls do not wait for a server that is away");
    assert!(matches!(rates.take(&one).await, Err(RedisAway::NotConnected | RedisAway::Failed(_))));
    server.again();
    assert_eq!(answered(&rates, &one).await, None);
}

#[tokio::test]
async fn nobody_there_and_no_url() {
    let rates = RedisRates::new("redis://127.0.0.1:1", PATIENCE).unwrap();
    let one = [bucket("p robot", 1, Duration::from_secs(1))];
    assert!(matches!(rates.take(&one).await, Err(RedisAway::NotConnected)));
    assert_eq!(rates.take(&[]).await.unwrap(), None);
    assert!(matches!(RedisRates::new("http://nowhere", PATIENCE), Err(RedisAway::Url)));
}
