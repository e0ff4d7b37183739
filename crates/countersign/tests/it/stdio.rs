//! `countersign mcp`: deadlines that the client states, and a node that goes away and comes back.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Home;

const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";
const LONG: Duration = Duration::from_secs(30);

/// An agent's editor: the proxy as its child.
struct Editor {
    proxy: Child,
    input: ChildStdin,
    lines: Receiver<Value>,
    /// What came while something else was waited for.
    aside: Vec<Value>,
}

impl Editor {
    fn open(home: &Home) -> Self {
        let mut proxy = home
            .command(&["mcp", "--as", "maya,finance-write"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (proxy.stdin.take().unwrap(), proxy.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { proxy, input, lines, aside: Vec::new() }
    }

    /// Shakes hands, as clients before 2026-07-28 do.
    fn initialized(home: &Home) -> Self {
        let mut editor = Self::open(home);
        let params =
            json!({ "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        editor.say(&json!({ "jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": params }));
        assert_eq!(editor.answer("hello")["result"]["protocolVersion"], LEGACY);
        editor.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        editor
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.input, "{message}").unwrap();
        self.input.flush().unwrap();
    }

    /// Calls a tool in an era, with more in `_meta`.
    fn call(&mut self, id: &str, era: &str, tool: &str, arguments: Value, mut meta: Value) {
        if era == MODERN {
            meta["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
            meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }));
    }

    /// The first message that fits.
    fn next(&mut self, within: Duration, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        if let Some(place) = self.aside.iter().position(&fits) {
            return Some(self.aside.remove(place));
        }
        let end = Instant::now() + within;
        while let Ok(message) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if fits(&message) {
                return Some(message);
            }
            self.aside.push(message);
        }
        None
    }

    #[track_caller]
    fn answer(&mut self, id: &str) -> Value {
        let found = self.next(LONG, |message| message["id"] == id);
        found.unwrap_or_else(|| panic!("no answer to {id}, but {:?}", self.aside))
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}

fn campaign(name: &str) -> Value {
    json!({ "name": name, "budget": 10, "startDate": "2026-12-01" })
}

fn journal(home: &Home) -> Vec<String> {
    let text = std::fs::read_to_string(home.path("ads/campaigns.jsonl")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn within(millis: Value) -> Value {
    json!({ "dev.countersign/timeout": millis })
}

#[test]
fn a_deadline_in_the_message_ends_a_call_of_an_upstream_that_hangs() {
    let mut home = Home::with_upstream("--hang-on, createCampaign", "");
    let mut editor = Editor::initialized(&home);
    let since = Instant::now();
    for (era, stated) in [(LEGACY, json!(0.5)), (MODERN, json!("500ms"))] {
        editor.call(era, era, "ads_createCampaign", campaign(era), within(stated));
        let answer = editor.answer(era);
        let problem = &answer["result"]["_meta"]["dev.countersign/problem"];
        assert!(problem["type"].as_str().is_some_and(|kind| kind.ends_with("upstream-timeout")), "{answer}");
    }
    // The manifest gives calls half a minute each.
    assert!(since.elapsed() < Duration::from_secs(25), "{:?}", since.elapsed());
    assert_eq!(home.json(&["unknown", "list"]).as_array().unwrap().len(), 2, "writes that were sent are unknown");

    for wrong in [json!(0), json!("soon"), json!(-1), json!({ "seconds": 1 })] {
        editor.call("wrong", MODERN, "ads_listCampaigns", json!({}), within(wrong));
        assert_eq!(editor.answer("wrong")["error"]["code"], -32602);
    }
    editor.call("fast", LEGACY, "ads_listCampaigns", json!({}), within(json!(20)));
    let fast = editor.answer("fast");
    assert_ne!(fast["result"]["isError"], true, "{fast}");
    assert!(fast["result"].is_object(), "{fast}");

    // The proxy's own node, where none runs.
    home.stop();
    let mut alone = Editor::open(&home);
    alone.call("alone", MODERN, "ads_createCampaign", campaign("alone"), within(json!("500ms")));
    let answer = alone.answer("alone");
    let problem = &answer["result"]["_meta"]["dev.countersign/problem"];
    assert!(problem["type"].as_str().is_some_and(|kind| kind.ends_with("upstream-timeout")), "{answer}");
}

#[test]
fn a_proxy_that_loses_its_node_says_what_may_have_happened_and_goes_on_when_it_is_back() {
    let mut home = Home::with_upstream("--delay-ms, 1500", "");
    let mut editor = Editor::initialized(&home);
    for (round, era) in [LEGACY, MODERN].into_iter().enumerate() {
        editor.call("before", era, "ads_listCampaigns", json!({}), json!({}));
        assert!(editor.answer("before")["result"].is_object());

        editor.call("lost", era, "ads_createCampaign", campaign(era), json!({}));
        let since = Instant::now();
        while home.json(&["audit", "list", "--type", "call.intent"]).as_array().unwrap().len() <= round {
            assert!(since.elapsed() < LONG, "no intent");
            std::thread::sleep(Duration::from_millis(20));
        }
        home.kill();
        let lost = editor.answer("lost");
        assert_eq!(lost["error"]["data"]["executed"], "unknown", "{lost}");
        let words = lost["error"]["message"].as_str().unwrap();
        assert!(words.contains("may have been executed") && words.contains("countersign unknown list"), "{words}");

        // Away: whoever does not wait long is told so, and nothing was sent.
        editor.call("hasty", era, "ads_createCampaign", campaign("hasty"), within(json!("300ms")));
        let hasty = editor.answer("hasty");
        assert_eq!(hasty["error"]["data"]["executed"], "no", "{hasty}");
        // The others wait for the node.
        let waiting: Vec<String> = (0..5).map(|n| format!("{era}-{n}")).collect();
        for id in &waiting {
            editor.call(id, era, "ads_createCampaign", campaign(id), json!({}));
        }
        home.start();
        for id in &waiting {
            let answer = editor.answer(id);
            assert_eq!(answer["result"]["structuredContent"]["campaign"]["name"], json!(id), "{answer}");
        }
        let lines = journal(&home);
        for id in &waiting {
            assert_eq!(lines.iter().filter(|line| line.contains(id.as_str())).count(), 1, "{lines:?}");
        }
        assert!(!lines.iter().any(|line| line.contains("hasty")), "{lines:?}");

        // The id in the error leads to what became of the call.
        let correlation = &lost["error"]["data"]["correlation_id"];
        let events = home.json(&["audit", "list", "--type", "call.", "--principal", "maya"]);
        let kinds: Vec<&Value> = events
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["correlation_id"] == *correlation)
            .map(|event| &event["type"])
            .collect();
        assert!(kinds.contains(&&json!("call.intent")), "{kinds:?} of {correlation}");
        assert_eq!(home.json(&["unknown", "list"]).as_array().unwrap().len(), round + 1);
    }
}

#[test]
fn a_session_that_the_node_forgot_is_begun_anew_and_hears_again() {
    let mut home = Home::new();
    let version = home.path("version");
    std::fs::write(&version, "1").unwrap();
    let manifest = home.path("manifests/ads.yaml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let option = format!("[sample-upstream, ads, --definition-file, {},", json!(version));
    std::fs::write(&manifest, text.replace("[sample-upstream, ads,", &option)).unwrap();
    home.start();
    home.accept_tools();
    let mut editor = Editor::initialized(&home);
    editor.call("before", LEGACY, "ads_listCampaigns", json!({}), json!({}));
    assert!(editor.answer("before")["result"].is_object());

    // Another database: the id of the session means nothing to it.
    home.kill();
    for name in ["countersign.db", "countersign.db-wal", "countersign.db-shm"] {
        let _ = std::fs::remove_file(home.path("data").join(name));
    }
    home.start();
    home.accept_tools();
    editor.call("after", LEGACY, "ads_listCampaigns", json!({}), json!({}));
    let after = editor.answer("after");
    assert!(after["result"].is_object(), "{after}");

    let is_changed = |message: &Value| message["method"] == "notifications/tools/list_changed";
    let told = (0..20).any(|round| {
        std::fs::write(&version, if round % 2 == 0 { "2" } else { "1" }).unwrap();
        editor.next(Duration::from_secs(2), is_changed).is_some()
    });
    assert!(told, "the session hears nothing: {:?}", editor.aside);
}
