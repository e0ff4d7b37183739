//! Secrets are planted wherever the broker can get one; then everything that was ever written is searched for them.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::stand_in::{Log, Reply, serve_each};
use super::{Home, expect, parsed};

/// Distinctive, so that a hit is one; those with odd characters are written in other ways when they are echoed.
const PLANTED: &[&str] = &[
    "planted-static-Kq7",
    "planted-variable-Vx2",
    "planted-query/Zr\"9",
    "planted-client-Wp4",
    "planted-access-Ht8",
    "planted-exchanged-Mb3",
    "planted-description-Lc5",
];
const POLICY: &str = r#"@id("all") permit (principal in Role::"clerk", action, resource);"#;

/// An API that echoes its credential in every way that it can, and a token endpoint. What is stale is so until `own` has asked for it once.
fn echoes(head: &str, body: &str, asked: &AtomicBool) -> Reply {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let is_stale = !if path.starts_with("/own/stale") {
        asked.swap(true, Ordering::Relaxed)
    } else {
        asked.load(Ordering::Relaxed)
    };
    let echo = json!({ "echo": head, "nested": [{ "again": head.to_uppercase() }] }).to_string();
    let (status, kind, answer) = match path.split('?').next().unwrap_or_default() {
        "/token" if body.contains("token-exchange") => (
            "200 OK",
            "application/json",
            json!({"access_token": "planted-exchanged-Mb3", "expires_in": 600}).to_string(),
        ),
        "/token" => {
            ("200 OK", "application/json", json!({"access_token": "planted-access-Ht8", "expires_in": 600}).to_string())
        }
        "/broken-token" => {
            let problem =
                json!({"error": "invalid_client", "error_description": "planted-description-Lc5 planted-client-Wp4"});
            ("401 Unauthorized", "application/json", problem.to_string())
        }
        path if path.ends_with("/stale") && is_stale => ("401 Unauthorized", "application/json", echo),
        path if path.ends_with("/refused") => ("403 Forbidden", "application/json", echo),
        path if path.ends_with("/failed") => ("500 Internal Server Error", "text/plain", head.to_owned()),
        path if path.ends_with("/page") => ("200 OK", "text/html", head.to_owned()),
        _ => ("200 OK", "application/json", echo),
    };
    (status, format!("content-type: {kind}\r\n"), answer)
}

fn api() -> (String, Log) {
    let asked = AtomicBool::new(false);
    serve_each(move |head, body, _| echoes(head, body, &asked))
}

/// Where a text is in any of the home's files, with what is around it.
pub fn found_in_files(home: &Home, planted: &str) -> Option<String> {
    let mut all = Vec::new();
    files(home.dir.path(), &mut all);
    assert!(
        all.iter().any(|f| f.ends_with("node.log")) && all.iter().any(|f| f.to_string_lossy().contains(".db")),
        "{all:?}"
    );
    let log = std::fs::read_to_string(home.path("node.log")).unwrap();
    assert!(log.contains("\"level\":\"TRACE\""), "the log is not at trace level:\n{log}");
    all.iter().find_map(|file| {
        let bytes = std::fs::read(file).unwrap();
        let at = bytes.windows(planted.len()).position(|w| w == planted.as_bytes())?;
        let around = String::from_utf8_lossy(&bytes[at.saturating_sub(200)..(at + 60).min(bytes.len())]);
        Some(format!("{}: {around}", file.display()))
    })
}

/// An upstream with a tool for each way to answer.
fn manifest(home: &Home, name: &str, base: &str, credential: &Value) {
    let tool = |method: &str, path: &str, effect: &str| json!({"effect": effect, "request": {"method": method, "path": format!("/{path}"), "response": {"headers": ["content-type"]}}});
    let manifest = json!({
        "version": 1, "upstream": name,
        "transport": {"type": "rest", "url": format!("{base}/{name}"), "headers": {"X-Other": "${VARIABLE}"}, "credential": credential},
        "tools": {
            "fine": tool("GET", "fine", "read"), "write": tool("POST", "write", "write"), "stale": tool("GET", "stale", "read"),
            "refused": tool("POST", "refused", "write"), "failed": tool("POST", "failed", "write"), "page": tool("GET", "page", "read"),
        },
    });
    std::fs::write(home.path(&format!("manifests/{name}.yaml")), manifest.to_string()).unwrap();
}

fn start(home: &mut Home) {
    let log = std::fs::File::create(home.path("node.log")).unwrap();
    let mut command = home.command(&["up", "--listen", &format!("127.0.0.1:{}", home.port)]);
    command
        .env("COUNTERSIGN_LOG", "trace")
        .env("VARIABLE", PLANTED[1])
        .env("QUERY", PLANTED[2])
        .env("CLIENT", PLANTED[3]);
    home.node = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    let since = Instant::now();
    let url = format!("http://127.0.0.1:{}", home.port);
    while home.run(&["log", "checkpoint", "--url", &url]).status.code() != Some(0) {
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "{}",
            std::fs::read_to_string(home.path("node.log")).unwrap()
        );
        std::thread::sleep(Duration::from_millis(30));
    }
    while home.json(&["tools", "list"]).as_array().unwrap().len() < 30 {
        assert!(since.elapsed() < Duration::from_secs(30), "{}", home.json(&["tools", "list"]));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Every file below a directory.
fn files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() { files(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

#[test]
fn brokered_secrets_reach_upstreams_and_nothing_else() {
    let (base, log) = api();
    let mut home = Home::new();
    std::fs::remove_file(home.path("manifests/ads.yaml")).unwrap();
    std::fs::remove_dir_all(home.path("policies")).unwrap();
    std::fs::create_dir_all(home.path("policies/access")).unwrap();
    std::fs::write(home.path("policies/access/a.cedar"), POLICY).unwrap();
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("secret");
    std::fs::write(&file, format!("{}\n", PLANTED[0])).unwrap();
    let oauth = |kind: &str, path: &str| json!({"type": kind, "token_url": format!("{base}/{path}"), "client_id": "node", "client_secret": {"env": "CLIENT"}});
    manifest(&home, "file", &base, &json!({"type": "static", "secret": {"file": file}, "name": "X-Key"}));
    manifest(
        &home,
        "query",
        &base,
        &json!({"type": "static", "secret": {"env": "QUERY"}, "in": "query", "name": "key"}),
    );
    manifest(&home, "own", &base, &oauth("oauth_client_credentials", "token"));
    manifest(&home, "caller", &base, &oauth("token_exchange", "token"));
    manifest(&home, "broken", &base, &oauth("oauth_client_credentials", "broken-token"));
    start(&mut home);

    let mut written = String::new();
    for upstream in ["file", "query", "own", "caller", "broken"] {
        for (tool, code) in [
            ("fine", 0),
            ("write", 0),
            ("stale", if upstream == "own" { 0 } else { 7 }),
            ("refused", 7),
            ("failed", 1),
            ("page", 1),
        ] {
            // The first request for something stale, of whichever upstream, is refused; only a read of `own` got another token.
            if tool == "stale" && upstream != "own" {
                continue;
            }
            let output = home.run(&["call", &format!("{upstream}:{tool}"), "--as", "cleo,clerk", "--json"]);
            expect(&output, if upstream == "broken" { 1 } else { code });
            written += &String::from_utf8_lossy(&output.stdout);
            written += &String::from_utf8_lossy(&output.stderr);
        }
    }
    // The secrets did reach the API, and what it echoed came back without them.
    let seen = log.lock().unwrap().clone();
    let sent = |part: &str| seen.iter().any(|(head, body)| head.contains(part) || body.contains(part));
    for part in [
        "planted-static-Kq7",
        "planted-variable-Vx2",
        "key=planted-query%2FZr%229",
        "Bearer planted-access-Ht8",
        "Bearer planted-exchanged-Mb3",
    ] {
        assert!(sent(part), "{part} was never sent");
    }
    assert!(written.contains("[redacted]") && written.contains("credential-unavailable"), "{written}");
    assert!(!seen.iter().any(|(head, _)| head.contains("/broken/")), "no call without a credential");
    assert_eq!(
        seen.iter().filter(|(head, _)| head.starts_with("POST /own/failed")).count(),
        1,
        "a write is never repeated"
    );
    let exchanges: Vec<&str> =
        seen.iter().filter(|(_, b)| b.contains("token-exchange")).map(|(_, b)| b.as_str()).collect();
    assert_eq!(exchanges.len(), 1, "one exchange for one caller: {exchanges:?}");
    assert_eq!(
        seen.iter().filter(|(head, _)| head.starts_with("GET /own/stale")).count(),
        2,
        "a read is tried once more"
    );

    // Everything that can be asked for.
    for arguments in [
        &["audit", "list", "--as", "o,operator,auditor", "--limit", "200"][..],
        &["audit", "list", "--as", "o,operator,auditor", "--workspace", "_node"][..],
        &["tools", "list"][..],
        &["doctor"][..],
        &["unknown", "list"][..],
        &["audit", "export", "export"][..],
    ] {
        let output = home.run(&[arguments, &["--json"]].concat());
        written += &String::from_utf8_lossy(&output.stdout);
        written += &String::from_utf8_lossy(&output.stderr);
    }
    let answer = parsed(&home.run(&["call", "own:fine", "--as", "cleo,clerk", "--json"]));
    home.receipt(answer["receipt"].as_str().unwrap(), "receipt.json");
    for planted in PLANTED.iter().copied().chain(["cGxhbnRlZC1j", "planted-query%2FZr%229"]) {
        assert!(!written.contains(planted), "{planted} was shown: {written}");
        assert_eq!(found_in_files(&home, planted), None, "{planted}");
    }
}
