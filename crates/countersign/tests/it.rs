//! The real binary over real sockets and a real database: exit codes, `--json`, offline verification, backup and restore.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "it/artifact.rs"]
mod artifact;
#[path = "it/authorization.rs"]
mod authorization;
#[path = "it/connections.rs"]
mod connections;
#[path = "it/doctor.rs"]
mod doctor;
#[path = "it/failover.rs"]
mod failover;
#[path = "it/full_disk.rs"]
mod full_disk;
#[path = "it/operations.rs"]
mod operations;
#[path = "it/rest.rs"]
mod rest;
#[path = "it/secrets.rs"]
mod secrets;
#[path = "it/stand_in.rs"]
mod stand_in;
#[path = "it/stdio.rs"]
mod stdio;
#[path = "it/trust.rs"]
mod trust;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_countersign");

/// A home of its own, and the node that may run on it.
struct Home {
    dir: TempDir,
    port: u16,
    node: Option<Child>,
}

impl Home {
    /// A starter home whose sample upstream keeps its journal inside.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = countersign_testkit::home::free_address().unwrap().port();
        let home = Self { dir, port, node: None };
        expect(&home.run(&["up", "--init"]), 0);
        let manifest = home.path("manifests/ads.yaml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let data = json!(home.path("ads"));
        let pointed = text.replace("[sample-upstream, ads]", &format!("[sample-upstream, ads, --data, {data}]"));
        assert_ne!(text, pointed);
        std::fs::write(manifest, pointed).unwrap();
        home
    }

    /// A home with a running node whose tools are accepted.
    fn with_tools() -> Self {
        let mut home = Self::new();
        home.start();
        home.accept_tools();
        home
    }

    fn accept_tools(&self) {
        let since = Instant::now();
        while self.json(&["tools", "list"]).as_array().unwrap().len() < 4 {
            assert!(since.elapsed() < Duration::from_secs(20), "the upstream offers no tools");
            std::thread::sleep(Duration::from_millis(50));
        }
        let accepted = self.json(&["tools", "accept", "--all"]);
        assert_eq!(accepted.as_array().unwrap().len(), 4, "{accepted}");
    }

    /// In order: SIGTERM, and wait.
    fn stop(&mut self) {
        let mut node = self.node.take().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(node.id().cast_signed()), nix::sys::signal::Signal::SIGTERM)
            .unwrap();
        assert!(node.wait().unwrap().success());
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = clean();
        command.env("COUNTERSIGN_HOME", self.dir.path()).args(arguments).current_dir(self.dir.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The JSON that a command writes which must succeed.
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        expect(&output, 0);
        parsed(&output)
    }

    fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("node.log")).unwrap();
        let mut command = self.command(&["up", "--listen", &format!("127.0.0.1:{}", self.port)]);
        self.node = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let since = Instant::now();
        // By its URL: a command that finds no node would take the data directory's lock from the one that starts.
        let url = format!("http://127.0.0.1:{}", self.port);
        while self.run(&["log", "checkpoint", "--url", &url]).status.code() != Some(0) {
            let ended = self.node.as_mut().unwrap().try_wait().unwrap();
            let log = || std::fs::read_to_string(self.path("node.log")).unwrap();
            assert!(ended.is_none() && since.elapsed() < Duration::from_secs(30), "{ended:?}: {}", log());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// SIGKILL.
    fn kill(&mut self) {
        let mut node = self.node.take().unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
    }

    /// Uses a tool and returns its receipt's id.
    fn call(&self, arguments: &[&str]) -> String {
        let answer = self.json(&[&["call"], arguments].concat());
        answer["receipt"].as_str().unwrap().to_owned()
    }

    /// Fetches a receipt into a file.
    fn receipt(&self, id: &str, name: &str) -> PathBuf {
        let path = self.path(name);
        expect(&self.run(&["receipt", "get", id, "-o", path.to_str().unwrap()]), 0);
        path
    }

    fn keys(&self) -> PathBuf {
        let output = self.run(&["log", "keys"]);
        expect(&output, 0);
        let path = self.path("log.vkey");
        std::fs::write(&path, output.stdout).unwrap();
        path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// The binary without any setting of the machine that runs the tests.
fn clean() -> Command {
    let mut command = Command::new(BINARY);
    command.env_clear().stdin(Stdio::null());
    for name in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command
}

#[track_caller]
fn expect(output: &Output, code: i32) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "\n{out}\n{err}");
}

#[track_caller]
fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// Verifies with nothing but the files: no home, no environment.
fn verify(arguments: &[&Path]) -> Output {
    clean().arg("verify").args(arguments).arg("--json").output().unwrap()
}

#[test]
fn help_names_every_command_and_exit_code() {
    let output = clean().arg("--help").output().unwrap();
    expect(&output, 0);
    let text = String::from_utf8(output.stdout).unwrap();
    for word in [
        "demo",
        "up",
        "mcp",
        "call",
        "tools",
        "approvals",
        "audit",
        "receipt",
        "verify",
        "log",
        "policy",
        "token",
        "trust-root",
        "freeze",
        "unfreeze",
        "unknown",
        "erase",
        "backup",
        "restore",
        "doctor",
        "Exit codes:",
        "Examples:",
    ] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
    assert!(!text.contains("sample-upstream"), "the sample upstream is for the demo");
    expect(&clean().arg("fly").output().unwrap(), 2);
    expect(&clean().args(["call"]).output().unwrap(), 2);
}

#[test]
fn without_a_node_the_exit_code_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let output = clean().args(["tools", "list", "--home"]).arg(dir.path()).output().unwrap();
    expect(&output, 6);
    assert!(String::from_utf8_lossy(&output.stderr).contains("countersign up"), "no advice");
    expect(&clean().args(["tools", "list", "--token", "x", "--url", "http://127.0.0.1:1"]).output().unwrap(), 6);
    expect(&clean().args(["tools", "list", "--token", "x", "--url", "nonsense"]).output().unwrap(), 2);
}

#[test]
fn a_receipt_verifies_offline_and_a_changed_one_does_not() {
    let home = Home::with_tools();
    let receipt = home.receipt(&home.call(&["ads:listCampaigns"]), "receipt.json");
    let key = home.keys();
    let flag = Path::new("--key");

    let good = verify(&[&receipt, flag, &key]);
    expect(&good, 0);
    let report = parsed(&good);
    assert_eq!(report["verdict"], "valid");
    assert_eq!(report["events"][0]["type"], "call.completed");
    assert_eq!(report["events"][0]["development"], true);

    let unanchored = verify(&[&receipt]);
    expect(&unanchored, 4);
    assert_eq!(parsed(&unanchored)["verdict"], "unanchored");

    let text = std::fs::read_to_string(&receipt).unwrap();
    let changed = home.path("changed.json");
    std::fs::write(&changed, text.replace("listCampaigns", "lostCampaigns")).unwrap();
    let bad = verify(&[&changed, flag, &key]);
    expect(&bad, 3);
    let report = parsed(&bad);
    let failed: Vec<&Value> = report["checks"].as_array().unwrap().iter().filter(|c| c["status"] == "failed").collect();
    assert_eq!(failed[0]["code"], "commitment_mismatch", "{report}");

    // The worst of several decides, and a file of no kind is invalid, not an accident.
    expect(&verify(&[&receipt, &changed, flag, &key]), 3);
    expect(&verify(&[&key, flag, &key]), 3);
    expect(&verify(&[&receipt, flag, Path::new("no-such-key")]), 2);
}

#[test]
fn a_call_that_owes_approval_waits_and_is_executed_once() {
    let home = Home::with_tools();
    let create = ["call", "ads:createCampaign", "name=LaunchX", "budget=1200", "startDate=2026-12-01"];
    let as_maya = ["--as", "maya,finance-write,treasurer", "--idempotency-key", "k1", "--json"];
    let pending = home.run(&[&create[..], &as_maya].concat());
    expect(&pending, 5);
    let id = parsed(&pending)["request_id"].as_str().unwrap().to_owned();

    let own = home.run(&["approvals", "approve", &id, "--as", "maya,treasurer"]);
    expect(&own, 1);
    assert!(String::from_utf8_lossy(&own.stderr).contains("self-approval"));

    let waiting = home.command(&[&create[..], &as_maya, &["--wait"]].concat()).stdout(Stdio::piped()).spawn().unwrap();
    let view = home.json(&["approvals", "approve", &id, "--as", "tess,treasurer", "--reason", "fine"]);
    assert_eq!(view["answers"][0]["reason"], "fine");
    let done = waiting.wait_with_output().unwrap();
    expect(&done, 0);
    let again = home.run(&[&create[..], &as_maya].concat());
    expect(&again, 0);
    assert_eq!(parsed(&again)["result"], parsed(&done)["result"]);
    let journal = std::fs::read_to_string(home.path("ads/campaigns.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 1, "{journal}");
}

#[test]
fn a_refusal_has_exit_code_one_and_names_its_policy() {
    let home = Home::with_tools();
    let create = [
        "call",
        "ads:createCampaign",
        "name=Big",
        "budget=75000",
        "startDate=2026-12-01",
        "--as",
        "maya,finance-write",
    ];
    let output = home.run(&create);
    expect(&output, 1);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("policy-denied") && text.contains("budget-ceiling"), "{text}");
    let denied = home.json(&["audit", "list", "--type", "call.denied"]);
    assert_eq!(denied.as_array().unwrap().len(), 1, "{denied}");
}

#[test]
fn after_a_kill_the_data_directory_answers_alone() {
    let mut home = Home::with_tools();
    let id = home.call(&["ads:listCampaigns"]);
    home.kill();
    let report = home.json(&["log", "fsck"]);
    assert_eq!(report["ok"], true, "{report}");
    let receipt = home.receipt(&id, "receipt.json");
    let key = home.keys();
    expect(&verify(&[&receipt, Path::new("--key"), &key]), 0);

    home.json(&["audit", "export", "audit"]);
    expect(&home.run(&["audit", "verify", "audit"]), 0);
    let day = std::fs::read_dir(home.path("audit"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .unwrap();
    let text = std::fs::read_to_string(&day).unwrap();
    std::fs::write(&day, text.replacen("listCampaigns", "lostCampaigns", 1)).unwrap();
    expect(&home.run(&["audit", "verify", "audit"]), 3);

    home.start();
    assert_eq!(home.json(&["log", "fsck"])["ok"], true);
}

#[test]
fn a_restored_backup_opens_a_shard_and_every_receipt_stays_valid() {
    let mut home = Home::with_tools();
    let before = home.receipt(&home.call(&["ads:listCampaigns"]), "before.json");
    let manifest = home.json(&["backup", "backup"]);
    assert_eq!(manifest["format"], "countersign-backup/v1");
    let lost = home.receipt(&home.call(&["ads:listCampaigns"]), "lost.json");

    expect(&home.run(&["restore", "backup"]), 8);
    home.kill();
    expect(&home.run(&["restore", "backup"]), 0);
    home.start();
    let shards = home.json(&["log", "keys"]);
    assert_eq!(shards.as_array().unwrap().len(), 2, "{shards}");
    let opened = home.json(&["audit", "list", "--type", "log.opened", "--workspace", "_node"]);
    assert_eq!(opened[0]["reason"], "restored", "{opened}");
    assert_eq!(opened[0]["predecessor"]["origin"], shards[0]["origin"], "{opened}");

    let after = home.receipt(&home.call(&["ads:listCampaigns"]), "after.json");
    let key = home.keys();
    expect(&verify(&[&before, &lost, &after, Path::new("--key"), &key]), 0);
    assert_eq!(home.json(&["log", "fsck"])["ok"], true);
}

#[test]
fn two_nodes_cannot_share_a_data_directory() {
    let mut home = Home::new();
    home.start();
    let second = home.run(&["up", "--listen", "127.0.0.1:0"]);
    expect(&second, 8);
}

#[test]
fn a_bad_policy_is_named_by_file_and_line() {
    let home = Home::with_tools();
    expect(&home.run(&["policy", "check"]), 0);
    let policies = home.path("bad");
    std::fs::create_dir_all(policies.join("access")).unwrap();
    std::fs::create_dir_all(policies.join("approval")).unwrap();
    let text =
        "permit (principal, action == Action::\"ads:createCampaign\", resource)\nwhen { context.input.budgte > 1 };\n";
    std::fs::write(policies.join("access/typo.cedar"), text).unwrap();
    let output = home.run(&["policy", "check", "bad"]);
    expect(&output, 3);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("access/typo.cedar:2"), "{text}");
}

#[test]
fn the_doctor_finds_an_exposed_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::with_tools();
    let findings = home.json(&["doctor"]);
    assert!(findings.as_array().unwrap().iter().all(|finding| finding["level"] != "fail"), "{findings}");
    let exposed = home.path("data/keys/root.key");
    std::fs::set_permissions(&exposed, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = home.run(&["doctor", "--json"]);
    expect(&output, 1);
    let failed: Vec<Value> =
        parsed(&output).as_array().unwrap().iter().filter(|f| f["level"] == "fail").cloned().collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0]["fix"].as_str().unwrap().contains("root.key"), "{failed:?}");
}

#[test]
fn a_frozen_tool_stops_and_goes_on() {
    let home = Home::with_tools();
    home.json(&["freeze", "tool", "ads:listCampaigns", "--reason", "drill"]);
    let output = home.run(&["call", "ads:listCampaigns"]);
    expect(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("frozen"));
    let table = home.run(&["freezes"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("ads:listCampaigns") && table.contains("drill"), "{table}");
    home.json(&["unfreeze", "tool", "ads:listCampaigns"]);
    expect(&home.run(&["call", "ads:listCampaigns"]), 0);
}

#[test]
fn erasing_one_event_leaves_the_others_valid() {
    let home = Home::with_tools();
    let (gone, kept) = (home.call(&["ads:listCampaigns"]), home.call(&["ads:listCampaigns"]));
    home.json(&["erase", &gone, "--reason", "asked for"]);
    expect(&home.run(&["receipt", "get", &gone]), 1);
    let kept = home.receipt(&kept, "kept.json");
    expect(&verify(&[&kept, Path::new("--key"), &home.keys()]), 0);
    assert_eq!(home.json(&["log", "fsck"])["ok"], true);
}

#[test]
fn the_demo_comes_out_as_told_and_is_quiet_in_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let since = Instant::now();
    let output = clean().args(["demo", "--fast", "--dir"]).arg(dir.path().join("demo")).output().unwrap();
    expect(&output, 0);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'), "colours in a pipe");
    assert!(text.contains("All of it happened as told"), "{text}");
    assert!(since.elapsed() < Duration::from_secs(60), "the demo took {:?}", since.elapsed());
    assert!(!dir.path().join("demo").exists(), "the demo left its directory behind");
}
