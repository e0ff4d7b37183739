//! A node whose data directory runs out of space, and gets it back.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use countersign_testkit::node::Launch;
use countersign_testkit::{Client, Home, Node, receipts};
use serde_json::json;

use super::BINARY;

/// Runs a command with a small file system of its own at a directory; nobody else sees it, and it ends with the command.
fn in_small_space(directory: &Path) -> Option<Vec<String>> {
    let mut words = vec!["unshare", "--mount", "--propagation", "private"];
    if !nix::unistd::geteuid().is_root() {
        words.extend(["--user", "--map-root-user"]);
    }
    let mount = "mount -t tmpfs -o size=8m,mode=700 tmpfs \"$0\" && exec \"$@\"";
    let directory = directory.to_str().unwrap();
    words.extend(["sh", "-c", mount, directory]);
    let works = Command::new(words[0]).args(&words[1..]).arg("true").output().is_ok_and(|o| o.status.success());
    if !works {
        eprintln!("not tested: this machine lets nobody mount a file system of their own");
    }
    works.then(|| words.into_iter().map(str::to_owned).collect())
}

/// Fills what is left, to the last block.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for block in [64 << 10, 4 << 10] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
}

struct Writer {
    http: Client,
    names: usize,
    receipts: Vec<String>,
}

impl Writer {
    /// One write: whether it is acknowledged; everything else must be the refusal that says that nothing can be recorded.
    fn write(&mut self) -> bool {
        self.names += 1;
        let body = json!({ "name": format!("n{}", self.names), "budget": 1, "startDate": "2026-12-01" });
        let answer = self.http.post("/tools/ads:createCampaign/invoke", &body).unwrap();
        if answer.status == 200 {
            self.receipts.push(answer.json().unwrap()["receipt"].as_str().unwrap().to_owned());
            return true;
        }
        let problem = answer.problem();
        assert_eq!((answer.status, problem.as_deref()), (503, Some("ledger-unavailable")), "{answer:?}");
        false
    }
}

fn status_of(node: &Node, path: &str) -> u16 {
    node.anonymous().get(path).unwrap().status
}

fn executed(journal: &Path) -> usize {
    std::fs::read_to_string(journal.join("campaigns.jsonl")).unwrap_or_default().lines().count()
}

fn home(directory: &Path) -> (Home, PathBuf) {
    let config = "data_dir = \"small/data\"\nhead_file = \"state/head\"\n";
    let home = Home::create(&directory.join("home"), config).unwrap();
    let journal = directory.join("upstream");
    let arguments = json!(["sample-upstream", "ads", "--data", journal]);
    let manifest = format!(
        "version: 1\nupstream: ads\ntransport: {{ type: stdio, command: \"@self\", args: {arguments} }}\n\
         tools: {{ listCampaigns: {{ effect: read }}, createCampaign: {{ effect: write }} }}\n"
    );
    home.manifest("ads", &manifest).unwrap();
    home.access("writers", "@id(\"writers\") permit (principal in Role::\"writer\", action, resource);\n").unwrap();
    std::fs::create_dir(home.directory().join("small")).unwrap();
    (home, journal)
}

#[test]
fn a_full_disk_is_said_clearly_loses_nothing_and_is_over_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let (home, journal) = home(dir.path());
    let small = home.directory().join("small");
    let Some(wrapper) = in_small_space(&small) else { return };
    let node = Launch { wrapper, ..Launch::new(Path::new(BINARY)) }.start(&home).unwrap();
    node.accept_all_tools(&["ads"]).unwrap();
    node.operator().post("/admin/policy/reload", &json!({})).unwrap().expect(200).unwrap();
    let http = node.client(&home.agent("writer", &["writer"])).timeout(Duration::from_secs(30));
    let mut writer = Writer { http, names: 0, receipts: Vec::new() };
    for _ in 0..20 {
        assert!(writer.write());
    }
    assert_eq!(status_of(&node, "/ready"), 200);

    // Another program takes the rest of the space, as the node sees it.
    let seen = PathBuf::from(format!("/proc/{}/root", node.pid())).join(small.strip_prefix("/").unwrap());
    let ballast = seen.join("ballast");
    fill(&ballast);
    let refused = (0..2000).position(|_| !writer.write());
    assert!(refused.is_some(), "2000 writes on a full disk");
    assert_eq!(status_of(&node, "/ready"), 503);
    assert_eq!(node.anonymous().get("/health").unwrap().json().unwrap()["status"], "degraded");
    let since = Instant::now();
    while !std::fs::read_to_string(home.directory().join("node.log")).unwrap().contains("no space left") {
        assert!(since.elapsed() < Duration::from_secs(10), "the log does not say why: {}", node.log_tail());
        std::thread::sleep(Duration::from_millis(20));
    }
    // What was acknowledged can still be shown.
    let anchors = receipts::anchors(&mut node.anonymous()).unwrap();
    for id in &writer.receipts {
        receipts::fetch_valid(&mut writer.http, id, &anchors).unwrap();
    }

    std::fs::remove_file(&ballast).unwrap();
    let since = Instant::now();
    while status_of(&node, "/ready") != 200 {
        assert!(since.elapsed() < Duration::from_secs(30), "{}", node.log_tail());
        std::thread::sleep(Duration::from_millis(50));
    }
    for _ in 0..5 {
        assert!(writer.write(), "{}", node.log_tail());
    }
    for id in &writer.receipts {
        receipts::fetch_valid(&mut writer.http, id, &anchors).unwrap();
    }
    // A write that was sent and whose outcome found no space is unknown, and a person is told; none was sent unrecorded.
    let unknown = || {
        let list = node.operator().get("/admin/unknown").unwrap().expect(200).unwrap();
        list.as_array().unwrap().len()
    };
    let since = Instant::now();
    while executed(&journal) != writer.receipts.len() + unknown() {
        let counts = (executed(&journal), writer.receipts.len(), unknown());
        assert!(since.elapsed() < Duration::from_secs(30), "executed, acknowledged, unknown: {counts:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let report = node.operator().post("/admin/fsck", &json!({})).unwrap().expect(200).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    node.stop().unwrap();
}
