//! Loss of power: a writer is killed above a layer that forgets what was not synced, and everything that it acknowledged is
//! there when it comes back. The same layer loses data for a writer that does not sync, or it would prove nothing.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use uuid::Uuid;

use crate::support::{Node, entry, one};

fn compile(dir: &Path) -> (PathBuf, PathBuf) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/forgetful/forgetful.c");
    let (library, tool) = (dir.join("forgetful.so"), dir.join("rollback"));
    let cc = |args: &[&str], out: &Path| {
        let status = Command::new("cc").args(args).arg("-o").arg(out).arg(&source).args(["-ldl", "-lpthread"]).status();
        assert!(status.unwrap().success(), "the layer does not compile");
    };
    cc(&["-O2", "-shared", "-fPIC"], &library);
    cc(&["-O2", "-DROLLBACK"], &tool);
    (library, tool)
}

/// Runs a writer above the layer, kills it after so many acknowledgements, takes back what was not synced, and returns
/// all that was acknowledged.
fn cut_the_power(dir: &Path, writer: &str, after: usize) -> Vec<String> {
    let (library, tool) = compile(dir);
    let (data, shadow) = (dir.join("data"), dir.join("shadow"));
    std::fs::create_dir_all(&data).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", writer])
        .envs([("FORGETFUL_DIR", &data), ("FORGETFUL_SHADOW", &shadow), ("LD_PRELOAD", &library)])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(id) = line.unwrap().strip_prefix("ack ") {
            acknowledged.push(id.to_owned());
        }
        if acknowledged.len() == after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= after, "the writer ended by itself");
    assert!(Command::new(&tool).arg(&data).arg(&shadow).status().unwrap().success());
    acknowledged
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ack {line}").and_then(|()| out.flush()).unwrap();
}

fn node_in(data: &Path) -> Node {
    Node::at(data.join("db/ledger.db"), data.join("outside/head"))
}

fn data() -> PathBuf {
    std::env::var_os("FORGETFUL_DIR").expect("run by cut_the_power").into()
}

#[test]
fn what_was_acknowledged_survives_the_loss_of_power() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for after in [1, 150, 400] {
        all.extend(cut_the_power(dir.path(), "power::ledger_writer", after));
        let node = node_in(&dir.path().join("data"));
        let running = node.open();
        assert_eq!(running.opened.reason, None, "the log goes on");
        let reader = running.ledger.reader();
        for id in &all {
            let id: Uuid = id.parse().unwrap();
            assert!(reader.event(id).unwrap().is_some(), "acknowledged and lost");
        }
        drop((reader, running));
        node.assert_sound();
    }
}

#[test]
fn the_layer_loses_what_was_not_synced() {
    for (writer, loses) in [("power::careless_writer", true), ("power::careful_writer", false)] {
        let dir = tempfile::tempdir().unwrap();
        let acknowledged = cut_the_power(dir.path(), writer, 100);
        let connection = rusqlite::Connection::open(dir.path().join("data/plain.db")).unwrap();
        let found = connection.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, usize>(0)).unwrap_or(0);
        assert_eq!(found < acknowledged.len(), loses, "{writer}: {found} of {}", acknowledged.len());
    }
}

#[test]
#[ignore = "run as a child by what_was_acknowledged_survives_the_loss_of_power"]
fn ledger_writer() {
    let running = node_in(&data()).open();
    running.runtime.block_on(async {
        for task in 0..6 {
            let ledger = running.ledger.clone();
            tokio::spawn(async move {
                loop {
                    let placed = ledger.append(one(entry(&format!("w{task}")))).await.unwrap();
                    say(&placed.events[0].id.to_string());
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

#[test]
#[ignore = "run as a child by the_layer_loses_what_was_not_synced"]
fn careless_writer() {
    plain_writer("OFF");
}

#[test]
#[ignore = "run as a child by the_layer_loses_what_was_not_synced"]
fn careful_writer() {
    plain_writer("FULL");
}

fn plain_writer(synchronous: &str) {
    let path = data().join("plain.db");
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).unwrap().sync_all().unwrap();
    std::fs::File::open(data()).unwrap().sync_all().unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    let pragmas = format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};");
    connection.execute_batch(&pragmas).unwrap();
    connection.execute_batch("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)").unwrap();
    for n in 1.. {
        connection.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
        say(&n.to_string());
    }
}
