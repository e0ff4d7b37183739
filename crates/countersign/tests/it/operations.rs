//! What operators install beside the binary: client files, completions, manual pages, the service.

use std::io::{Read as _, Write as _};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use countersign_testkit::postgres::Postgres;
use countersign_testkit::proxy::Proxy;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Home, clean, expect, parsed};

impl Home {
    /// A node whose upstream takes these options, with these settings.
    pub(super) fn with_upstream(options: &str, settings: &str) -> Self {
        let mut home = Self::new();
        let manifest = home.path("manifests/ads.yaml");
        let text = std::fs::read_to_string(&manifest).unwrap();
        std::fs::write(
            &manifest,
            text.replace("[sample-upstream, ads,", &format!("[sample-upstream, ads, {options},")),
        )
        .unwrap();
        let config = home.path("countersign.toml");
        std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + settings).unwrap();
        home.start();
        let since = Instant::now();
        while home.json(&["tools", "list"]).as_array().unwrap().len() < 4 {
            assert!(since.elapsed() < Duration::from_secs(20), "the upstream offers no tools");
            std::thread::sleep(Duration::from_millis(50));
        }
        home.json(&["tools", "accept", "--all"]);
        home
    }

    fn signal(&self, signal: Signal) {
        let pid = self.node.as_ref().unwrap().id();
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }

    fn ended(&mut self, within: Duration) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.node.as_mut().unwrap().try_wait().unwrap() {
                self.node = None;
                return status;
            }
            assert!(since.elapsed() < within, "the node has not ended: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        // Lines gather for some milliseconds before they are written.
        std::thread::sleep(Duration::from_millis(250));
        std::fs::read_to_string(self.path("node.log")).unwrap()
    }

    /// Starts a write and returns once the node has recorded that it will be sent.
    fn write_under_way(&self) -> Child {
        let arguments = [
            "call",
            "ads:createCampaign",
            "name=Slow",
            "budget=10",
            "startDate=2026-12-01",
            "--as",
            "maya,finance-write",
        ];
        let call = self.command(&arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
        let since = Instant::now();
        while self.json(&["audit", "list", "--type", "call.intent"]).as_array().unwrap().is_empty() {
            assert!(since.elapsed() < Duration::from_secs(20), "no intent: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        call
    }

    fn status(&self, path: &str) -> u16 {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer[9..12].parse().unwrap()
    }
}

#[test]
fn supervisors_see_by_the_exit_code_whether_a_node_lives() {
    let mut home = Home::with_tools();
    assert_eq!(home.json(&["health"])["status"], "ok");
    expect(&home.run(&["health", "--ready"]), 0);
    home.stop();
    expect(&home.run(&["health"]), 6);
    expect(&home.run(&["health", "--ready"]), 6);
}

/// What a balancer and a supervisor see: the status of `/ready`, and how the command ends.
fn readiness(home: &Home) -> (u16, Option<i32>) {
    (home.status("/ready"), home.run(&["health", "--ready"]).status.code())
}

fn until_readiness(home: &Home, expected: (u16, Option<i32>)) {
    let since = Instant::now();
    loop {
        let seen = readiness(home);
        if seen == expected {
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{seen:?}, not {expected:?}: {}", home.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_node_is_not_ready_while_its_database_is_away_and_is_again_by_itself() {
    let place = std::env::temp_dir().join(format!("countersign-readiness-{}", std::process::id()));
    let server = Postgres::create(&place).unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let mut home = Home::new();
    let config = home.path("countersign.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let url = format!("postgres://countersign@127.0.0.1:{}/postgres", proxy.port());
    std::fs::write(&config, format!("database_url = {url:?}\n{text}")).unwrap();
    home.start();
    home.accept_tools();
    let arguments = ["call", "ads:createCampaign", "name=Away", "budget=10", "startDate=2026-12-01"];
    let write = || home.run(&[&arguments[..], &["--as", "maya,finance-write"]].concat());
    let executed = || std::fs::read_to_string(home.path("ads/campaigns.jsonl")).unwrap_or_default().lines().count();
    assert_eq!(readiness(&home), (200, Some(0)));
    // Connections that end at once, and a network that loses everything without a word.
    for (round, away) in [Proxy::cut, Proxy::halt].into_iter().enumerate() {
        away(&proxy);
        // Nobody calls meanwhile: the node notices by itself. It answers, so that the command does not end with 6.
        until_readiness(&home, (503, Some(1)));
        assert_eq!((home.status("/health"), &home.json(&["health"])["status"]), (200, &"degraded".into()));
        let refused = write();
        expect(&refused, 1);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("ledger-unavailable"), "{said}");
        assert_eq!(executed(), round, "nothing is sent that was not recorded");
        assert_eq!(readiness(&home), (503, Some(1)), "the call did not make it so");
        proxy.open();
        until_readiness(&home, (200, Some(0)));
        expect(&write(), 0);
        assert_eq!(executed(), round + 1);
    }
    assert_eq!(home.json(&["log", "fsck"])["ok"], true);
    home.stop();
    drop(server);
    std::fs::remove_dir_all(&place).unwrap();
}

#[test]
fn a_past_call_is_explained_by_its_receipt_and_differs_under_an_edited_set() {
    let home = Home::with_tools();
    let id = home.call(&["ads:listCampaigns"]);
    let receipt = home.receipt(&id, "receipt.json");
    for by in [&id, receipt.to_str().unwrap()] {
        assert!(
            home.json(&["policy", "explain", "--call", by])["text"].as_str().unwrap().contains("ads:listCampaigns")
        );
    }
    expect(&home.run(&["policy", "replay", "--set", "policies"]), 0);
    for (folder, text) in [("access", "forbid (principal, action, resource);"), ("approval", "")] {
        std::fs::create_dir_all(home.path("edited").join(folder)).unwrap();
        std::fs::write(home.path("edited").join(folder).join("edited.cedar"), text).unwrap();
    }
    let replay = home.run(&["policy", "replay", "--set", "edited", "--json"]);
    expect(&replay, 3);
    assert!(parsed(&replay)["replayed"].as_u64().unwrap() > 0);
}

#[test]
fn a_node_that_ends_says_so_and_finishes_what_is_under_way() {
    let mut home = Home::with_upstream("--delay-ms, 1500", "\n[drain]\ndelay = \"1s\"\ntimeout = \"20s\"\n");
    assert_eq!((home.status("/health"), home.status("/ready")), (200, 200));
    let mut call = home.write_under_way();
    home.signal(Signal::SIGTERM);
    let since = Instant::now();
    while home.status("/ready") != 503 {
        assert!(since.elapsed() < Duration::from_millis(900), "still ready");
    }
    assert_eq!(home.status("/health"), 200, "it lives, it only ends");
    assert_eq!(call.wait().unwrap().code(), Some(0), "the call under way is executed and answered");
    assert_eq!(home.ended(Duration::from_secs(20)).code(), Some(0));
    assert!(std::net::TcpStream::connect(("127.0.0.1", home.port)).is_err(), "nobody listens any more");
    home.start();
    assert_eq!(home.json(&["audit", "list", "--type", "call.completed"]).as_array().unwrap().len(), 1);
    assert!(home.json(&["unknown", "list"]).as_array().unwrap().is_empty());
}

#[test]
fn a_second_signal_ends_at_once_and_the_write_is_shown_to_a_person() {
    let mut home = Home::with_upstream("--hang-on, createCampaign", "\n[drain]\ntimeout = \"60s\"\n");
    let mut call = home.write_under_way();
    home.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(200));
    home.signal(Signal::SIGTERM);
    assert_eq!(home.ended(Duration::from_secs(10)).code(), Some(1));
    assert_ne!(call.wait().unwrap().code(), Some(0));
    home.start();
    assert_eq!(home.json(&["unknown", "list"]).as_array().unwrap().len(), 1);
}

#[test]
fn each_request_is_one_line_of_json_that_names_no_secret_and_the_level_can_be_changed() {
    let mut home = Home::with_tools();
    let call = home.json(&["call", "ads:listCampaigns", "--as", "maya,finance-read"]);
    let lines: Vec<Value> = home.log().lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let line = lines.iter().rfind(|line| line["route"] == "/tools/{name}/invoke").expect("the call's line");
    let event = home.json(&["audit", "list", "--type", "call.completed"])[0].clone();
    assert_eq!((line["method"].as_str(), line["status"].as_u64()), (Some("POST"), Some(200)));
    assert!(line["duration_us"].as_u64().unwrap() > 0);
    assert_eq!(line["correlation"], event["correlation_id"], "{line} {event} {call}");
    assert!(line["principal"].as_str().unwrap().ends_with("|maya"), "{line}");
    assert!(!home.log().contains("eyJ"), "a token is in the log");

    let config = home.path("countersign.toml");
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + "\n[log]\nlevel = \"warn\"\n").unwrap();
    home.signal(Signal::SIGHUP);
    std::thread::sleep(Duration::from_millis(500));
    let before = home.log();
    home.status("/health");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(home.log(), before, "requests are below the level now");
    home.kill();
}

#[test]
fn a_clients_file_keeps_what_is_in_it_and_never_holds_a_token() {
    let home = Home::new();
    let file = home.path("mcp.json");
    let before = "{\n  // my own servers\n  \"servers\": {\n    \"mine\": { \"url\": \"http://x\" }, // keep\n  }\n}\n";
    std::fs::write(&file, before).unwrap();
    let write = ["config", "client", "vscode", "--write", "--file", "mcp.json"];
    assert_eq!(home.json(&write)["changed"], true);
    let after = std::fs::read_to_string(&file).unwrap();
    for kept in ["// my own servers", "\"mine\": { \"url\": \"http://x\" }, // keep"] {
        assert!(after.contains(kept), "{after}");
    }
    assert!(after.contains("/mcp\"") && after.contains("Bearer ${input:countersign-token}"), "{after}");
    assert_eq!(std::fs::read_to_string(home.path("mcp.json.before-countersign")).unwrap(), before);
    assert_eq!(home.json(&write)["changed"], false);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), after);

    std::fs::write(&file, "{ \"servers\": [").unwrap();
    expect(&home.run(&write), 1);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "{ \"servers\": [", "a broken file is left alone");
}

#[test]
fn every_client_gets_the_form_that_it_reads() {
    let home = Home::new();
    for (client, place) in [
        ("vscode", "/servers/countersign/url"),
        ("cursor", "/mcpServers/countersign/headers/Authorization"),
        ("claude-code", "/mcpServers/countersign/type"),
        ("zed", "/context_servers/countersign/command"),
        ("claude-desktop", "/mcpServers/countersign/args/0"),
    ] {
        let output = home.run(&["config", "client", client, "--upstream", "ads"]);
        expect(&output, 0);
        let document = parsed(&output);
        assert!(document.pointer(place).is_some_and(|value| value.is_string()), "{client}: {document}");
        assert!(document.to_string().contains("ads"), "{client}: {document}");
        assert!(!document.to_string().contains("eyJ"), "{client} must not get a token in a file: {document}");
    }
}

#[test]
fn shells_and_manuals_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = clean().args(["completions", shell]).output().unwrap();
        expect(&output, 0);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("doctor") && script.contains("approvals"), "{shell}");
        if shell == "bash" {
            // A file, since the script is longer than one argument may be.
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &script).unwrap();
            let checked = std::process::Command::new("bash").arg("-n").arg(file.path()).status().unwrap();
            assert!(checked.success());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    expect(&clean().args(["man", "--out"]).arg(dir.path()).output().unwrap(), 0);
    for page in ["countersign.1", "countersign-up.1", "countersign-approvals-approve.1"] {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
}

/// Where systemd is there, it reads the unit; the directives that this version does not know would be said here.
#[test]
fn the_service_unit_is_one() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/systemd/countersign.service");
    let text = std::fs::read_to_string(unit).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // The verifier wants the program to be there.
    let text = text.replace("/usr/local/bin/countersign", super::BINARY);
    std::fs::write(dir.path().join("countersign.service"), text).unwrap();
    let verify = std::process::Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(dir.path().join("countersign.service"))
        .output();
    let Ok(output) = verify else { return };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("countersign.service"), "{said}");
}
