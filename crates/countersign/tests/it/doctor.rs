//! The commonest mistakes, each made on purpose: `doctor` finds it and says what to do.

use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::{Home, expect, parsed};

impl Home {
    /// The finding of a check whose words contain this; it is not `ok` and it says what to do.
    #[track_caller]
    fn mistake(&self, check: &str, word: &str) -> Value {
        self.mistake_with(&[], check, word)
    }

    #[track_caller]
    fn mistake_with(&self, arguments: &[&str], check: &str, word: &str) -> Value {
        let output = self.run(&[&["doctor", "--json"], arguments].concat());
        let findings = parsed(&output);
        let found = findings.as_array().unwrap().iter().find(|finding| {
            finding["check"] == check && finding["level"] != "ok" && finding["found"].as_str().unwrap().contains(word)
        });
        let finding = found.unwrap_or_else(|| panic!("no {check} with {word:?} in {findings:#}")).clone();
        assert!(finding["fix"].as_str().is_some_and(|fix| fix.len() > 10), "{finding}");
        expect(&output, if findings.as_array().unwrap().iter().any(|f| f["level"] == "fail") { 1 } else { 0 });
        finding
    }

    fn configure(&self, text: &str) {
        let config = self.path("countersign.toml");
        // Keys of the top level come before the tables.
        let before = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, format!("{text}\n{before}")).unwrap();
    }
}

#[test]
fn something_else_listens_on_the_address() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = std::fs::read_to_string(home.path("countersign.toml")).unwrap();
    std::fs::write(
        home.path("countersign.toml"),
        text.replace("127.0.0.1:8000", &taken.local_addr().unwrap().to_string()),
    )
    .unwrap();
    let finding = home.mistake("node", "cannot be used");
    assert_eq!(finding["level"], "fail");
}

#[test]
fn a_key_that_makes_no_sense_and_a_log_without_a_name() {
    let home = Home::new();
    home.configure("listen_on = \"x\"");
    home.mistake("configuration", "countersign.toml:1: unknown field");
    let home = Home::new();
    let text = std::fs::read_to_string(home.path("countersign.toml")).unwrap();
    let open = text.replace("127.0.0.1:8000", "0.0.0.0:8000").replace("issuer = true", "issuer = false");
    let issuer = "\n[[issuers]]\nissuer = \"https://idp.example\"\njwks_file = \"jwks.json\"\n";
    std::fs::write(home.path("countersign.toml"), open + issuer).unwrap();
    home.mistake("configuration", "log_domain is required");
}

#[test]
fn the_head_file_beside_the_database() {
    let home = Home::new();
    home.configure("head_file = \"data/head\"");
    let finding = home.mistake("head file", "data/head");
    assert!(finding["fix"].as_str().unwrap().contains("outside the data directory"), "{finding}");
}

#[test]
fn a_clock_that_went_back() {
    let mut home = Home::new();
    home.start();
    home.kill();
    let file = std::fs::File::options().write(true).open(home.path("state/head")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    home.mistake("clock", "in the future");
}

#[test]
fn a_variable_that_is_not_set() {
    let home = Home::new();
    let manifest = json!({
        "version": 1, "upstream": "crm",
        "transport": { "type": "http", "url": "https://crm.example/mcp", "headers": { "Authorization": "Bearer ${CRM_TOKEN}" } },
    });
    std::fs::write(home.path("manifests/crm.yaml"), manifest.to_string()).unwrap();
    home.mistake("environment", "CRM_TOKEN (for crm)");
}

#[test]
fn an_upstream_that_others_reach_around_the_gate() {
    let home = Home::new();
    let open = TcpListener::bind("0.0.0.0:0").unwrap();
    let url = format!("http://127.0.0.1:{}/mcp", open.local_addr().unwrap().port());
    let manifest = json!({ "version": 1, "upstream": "open", "transport": { "type": "http", "url": url } });
    std::fs::write(home.path("manifests/open.yaml"), manifest.to_string()).unwrap();
    home.mistake("way around", "without the gate");
}

#[test]
fn an_upstream_that_cannot_be_started_and_tools_that_nobody_has_looked_at() {
    let mut home = Home::new();
    let manifest =
        json!({ "version": 1, "upstream": "gone", "transport": { "type": "stdio", "command": "/no/such/program" } });
    std::fs::write(home.path("manifests/gone.yaml"), manifest.to_string()).unwrap();
    home.start();
    let since = Instant::now();
    while home.json(&["tools", "list"]).as_array().unwrap().len() < 4 {
        assert!(since.elapsed() < Duration::from_secs(20), "the upstream offers no tools");
        std::thread::sleep(Duration::from_millis(50));
    }
    let found = home.mistake("upstream", "gone is ");
    assert!(found["found"].as_str().unwrap().contains("/no/such/program"), "{found}");
    let waiting = home.mistake("tools", "4 wait for review");
    assert_eq!(waiting["fix"], "countersign tools accept --all");
}

#[test]
fn policies_that_permit_nothing() {
    let home = Home::with_tools();
    for file in std::fs::read_dir(home.path("policies/access")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    std::fs::write(home.path("policies/access/no.cedar"), "forbid (principal, action, resource);\n").unwrap();
    home.mistake("policies", "permit nothing");
}

#[test]
fn a_token_that_is_over_or_for_somebody_else() {
    let mut home = Home::new();
    // The first start makes the development issuer's key.
    home.start();
    home.kill();
    let mint = |arguments: &[&str]| {
        let output = home.run(&[&["token", "mint", "--sub", "maya"], arguments].concat());
        expect(&output, 0);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let token = mint(&["--ttl", "1s"]);
    std::thread::sleep(Duration::from_millis(2100));
    home.mistake_with(&["--token", &token], "token", "expired");
    let token = mint(&[]);
    home.configure("audience = \"https://another.example\"");
    let finding = home.mistake_with(&["--token", &token], "token", "is for countersign");
    assert!(finding["fix"].as_str().unwrap().contains("audience"), "{finding}");
}
