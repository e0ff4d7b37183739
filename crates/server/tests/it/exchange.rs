//! Everything that goes both ways: prompts and resources, notices, questions, cancellation, subscriptions. Over real sockets, in
//! both eras, in front of an upstream that does what it is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use countersign_domain::{Principal, Refusal, RefusalKind, UpstreamName};
use countersign_gate::permit::Permit;
use countersign_gate::upstream::{
    Ask, AskKind, DiscoverError, Discovered, DispatchError, Exchange, Notice, Told, ToolResult, Upstream,
    UpstreamStatus,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, watch};

use crate::support::{Reply, World};
use crate::tasks;

pub struct Talker {
    name: UpstreamName,
    changes: watch::Sender<u64>,
    updates: broadcast::Sender<Told>,
    cancelled: AtomicUsize,
    /// Whether the account is missing that it is used with.
    unconnected: AtomicBool,
    unwatched: std::sync::Mutex<Vec<String>>,
}

impl Talker {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.parse().expect("a name"),
            changes: watch::channel(0).0,
            updates: broadcast::channel(16).0,
            cancelled: AtomicUsize::new(0),
            unconnected: AtomicBool::new(false),
            unwatched: std::sync::Mutex::default(),
        })
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("JSON")
}

#[async_trait]
impl Upstream for Talker {
    fn name(&self) -> &UpstreamName {
        &self.name
    }
    async fn ready(&self, _: &Principal, _: std::time::Instant) -> Result<(), Refusal> {
        let needed = Refusal::new(RefusalKind::ConnectionNeeded, "connect it first");
        let needed = needed.with("connect_url", "https://node.example/connections/talk/page");
        if self.unconnected.load(Ordering::SeqCst) { Err(needed) } else { Ok(()) }
    }
    async fn dispatch(&self, permit: Permit, exchange: &dyn Exchange) -> Result<ToolResult, DispatchError> {
        let text = |text: &str| json!({"content": [{"type": "text", "text": text}]});
        let result = match permit.tool().tool.as_str() {
            "ask" => {
                let schema = json!({"type": "object", "properties": {"colour": {"type": "string"}}});
                let params = json!({"message": "Which colour?", "requestedSchema": schema});
                let ask = Ask { kind: AskKind::ElicitForm, key: Some("colour".into()), params: raw(&params) };
                match exchange.ask(vec![ask]).await.pop() {
                    Some(Ok(answer)) => text(answer.get()),
                    other => text(&format!("{other:?}")),
                }
            }
            "page" => {
                let params =
                    json!({"mode": "url", "message": "Go", "url": "http://127.0.0.1/x", "elicitationId": "e-7"});
                let ask = Ask { kind: AskKind::ElicitUrl, key: Some("page".into()), params: raw(&params) };
                exchange.ask(vec![ask]).await;
                text("asked")
            }
            "chat" => {
                let progress = json!({"progressToken": "theirs", "progress": 1.5, "total": 3});
                exchange.notify(Notice::Progress(raw(&progress)));
                for level in ["debug", "info", "error"] {
                    exchange.notify(Notice::Log(raw(&json!({"level": level, "data": "said"}))));
                }
                text("done")
            }
            "work" if exchange.knows_tasks() => {
                json!({"resultType": "task", "taskId": "up-1", "status": "working", "ttlMs": null})
            }
            "work" => text("done at once"),
            "tasks/get" => {
                let asked = json!({"message": "Go on?", "requestedSchema": {"type": "object", "properties": {}}});
                let ask = Ask { kind: AskKind::ElicitForm, key: Some("go".into()), params: raw(&asked) };
                let shown =
                    exchange.show(vec![ask]).await.pop().expect("an answer").map(|params| params.get().to_owned());
                let result = text(&format!("{} {shown:?}", permit.arguments().get()));
                json!({"resultType": "complete", "taskId": "up-1", "status": "completed", "result": result})
            }
            "tasks/update" => json!({"resultType": "complete", "x-sent": permit.arguments().get()}),
            "hang" => {
                exchange.cancelled().await;
                self.cancelled.fetch_add(1, Ordering::SeqCst);
                return Err(DispatchError::Cancelled);
            }
            "prompts/greet" => {
                json!({"messages": [{"role": "user", "content": {"type": "text", "text": permit.arguments().get()}}]})
            }
            "resources/read" => {
                let uri: Value = serde_json::from_str(permit.arguments().get()).expect("JSON");
                json!({"contents": [{"uri": uri["uri"], "text": self.name.as_str()}], "x-kept": [1]})
            }
            "completion/complete" => json!({"completion": {"values": [permit.arguments().get()], "hasMore": false}}),
            _ => json!({}),
        };
        Ok(ToolResult { raw: raw(&result), is_error: false, remarks: serde_json::Map::new() })
    }
    async fn discover(&self) -> Result<Discovered, DiscoverError> {
        let tool = |name: &str| raw(&json!({"name": name, "inputSchema": {"type": "object"}}));
        let prompt = json!({"name": "greet", "arguments": [{"name": "who", "required": true}], "x-kept": 1});
        Ok(Discovered {
            tools: vec![tool("ask"), tool("chat"), tool("hang"), tool("work"), tool("page")],
            prompts: vec![raw(&prompt)],
            resources: vec![
                raw(&json!({"uri": "talk://now", "name": "now"})),
                raw(&json!({"uri": format!("talk://{}", self.name), "name": "own"})),
            ],
            resource_templates: vec![raw(&json!({"uriTemplate": "talk://day/{day}", "name": "day"}))],
            completions: true,
            subscriptions: true,
        })
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
    fn updates(&self) -> broadcast::Receiver<Told> {
        self.updates.subscribe()
    }
    fn unwatch(&self, uri: &str) {
        self.unwatched.lock().expect("not poisoned").push(uri.to_owned());
    }
    fn status(&self) -> UpstreamStatus {
        UpstreamStatus { state: "ready".into(), protocol: None, error: None }
    }
    async fn shutdown(&self) {}
}

const ASKS: &str = r#"@id("may-ask") permit (principal in Role::"finance-write", action in Action::"asks", resource);"#;

async fn world(names: &[&str]) -> (World, Vec<Arc<Talker>>) {
    let talkers: Vec<_> = names.iter().map(|name| Talker::new(name)).collect();
    let built_in =
        talkers.iter().map(|talker| (talker.name.to_string(), Arc::clone(talker) as Arc<dyn Upstream>)).collect();
    let world = World::start_among("[approval]\nwait_seconds = 1\n", ASKS, built_in).await;
    (world, talkers)
}

const LEGACY: &[(&str, &str)] =
    &[("accept", "application/json, text/event-stream"), ("mcp-protocol-version", "2025-11-25")];

pub fn message(id: u64, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

async fn legacy(world: &World, path: &str, token: &str, method: &str, params: Value) -> Value {
    let reply = world.send("POST", path, token, LEGACY, Some(&message(7, method, &params))).await;
    last(&reply)
}

/// The answer, whether it came alone or at the end of a stream.
fn last(reply: &Reply) -> Value {
    let text = reply.text();
    let json = text.trim_end().rsplit("data: ").next().unwrap_or_default();
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{e}: {reply:?}"))
}

fn modern_headers(method: &str, params: &Value) -> Vec<(&'static str, String)> {
    let name = params["name"].as_str().or(params["uri"].as_str()).unwrap_or_default();
    let mut headers = vec![
        ("accept", "application/json, text/event-stream".to_owned()),
        ("mcp-protocol-version", "2026-07-28".to_owned()),
        ("mcp-method", method.to_owned()),
    ];
    if ["tools/call", "prompts/get", "resources/read"].contains(&method) {
        headers.push(("mcp-name", name.to_owned()));
    }
    headers
}

async fn modern_with(world: &World, token: &str, method: &str, mut params: Value, capabilities: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
    let headers = modern_headers(method, &params);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    last(&world.send("POST", "/mcp", token, &headers, Some(&message(7, method, &params))).await)
}

async fn modern(world: &World, token: &str, method: &str, params: Value) -> Value {
    modern_with(world, token, method, params, json!({})).await
}

/// A request whose answer is read as it comes.
pub struct Open {
    stream: TcpStream,
    read: String,
    events: VecDeque<Value>,
}

impl Open {
    pub async fn send(world: &World, method: &str, token: &str, headers: &[(&str, &str)], body: &str) -> Self {
        let mut stream = world.connect().await;
        let mut head = format!("{method} /mcp HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", world.address());
        head += &format!("authorization: Bearer {token}\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.expect("sent");
        Self { stream, read: String::new(), events: VecDeque::new() }
    }

    /// The next message of the stream.
    pub async fn next(&mut self) -> Value {
        while self.events.is_empty() {
            let mut buffer = [0; 4096];
            let reading = tokio::time::timeout(Duration::from_secs(30), self.stream.read(&mut buffer));
            let count = reading.await.expect("in time").expect("readable");
            assert!(count > 0, "the stream ended: {}", self.read);
            self.read += &String::from_utf8_lossy(&buffer[..count]);
            while let Some(end) = self.read.find("\n\n") {
                let event: String = self.read.drain(..end + 2).collect();
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                self.events.extend(data.map(|data| serde_json::from_str::<Value>(data).expect("JSON")));
            }
        }
        self.events.pop_front().expect("an event")
    }
}

pub async fn greeted(world: &World, token: &str, capabilities: Value) -> String {
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}});
    let reply = world.send("POST", "/mcp", token, LEGACY, Some(&message(1, "initialize", &params))).await;
    reply.header("mcp-session-id").expect("a session").to_owned()
}

pub fn in_session(session: &str) -> Vec<(&str, &str)> {
    let mut headers = LEGACY.to_vec();
    headers.push(("mcp-session-id", session));
    headers
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_and_resources_are_listed_got_and_read_in_both_eras() {
    let (world, _) = world(&["talk"]).await;
    let agent = world.agent("bot");
    let hello =
        legacy(&world, "/mcp", &agent, "initialize", json!({"protocolVersion": "2025-11-25", "capabilities": {}}))
            .await;
    for capability in ["tools", "prompts", "resources", "completions", "logging"] {
        assert!(hello["result"]["capabilities"][capability].is_object(), "{capability}: {hello}");
    }
    let prompts = legacy(&world, "/mcp", &agent, "prompts/list", json!({})).await;
    let prompt = &prompts["result"]["prompts"][0];
    assert_eq!((&prompt["name"], &prompt["x-kept"]), (&json!("talk_greet"), &json!(1)), "{prompts}");
    assert!(prompt["_meta"]["dev.countersign/pin"].is_string());
    let got =
        legacy(&world, "/mcp", &agent, "prompts/get", json!({"name": "talk_greet", "arguments": {"who": "Ada"}})).await;
    assert_eq!(got["result"]["messages"][0]["content"]["text"], r#"{"who":"Ada"}"#, "{got}");
    let receipt = got["result"]["_meta"]["dev.countersign/receipt"].as_str().expect("a receipt").to_owned();
    assert_eq!(world.get(&format!("/receipts/{receipt}"), &agent).await.status, 200);
    let own =
        legacy(&world, "/mcp/talk", &agent, "prompts/get", json!({"name": "greet", "arguments": {"who": "Ada"}})).await;
    assert!(own["result"]["messages"].is_array(), "{own}");
    let bad = legacy(&world, "/mcp", &agent, "prompts/get", json!({"name": "talk_greet"})).await;
    assert_eq!(bad["error"]["code"], -32602, "a required argument is missing: {bad}");

    let list = modern(&world, &agent, "resources/list", json!({})).await;
    assert_eq!(
        (&list["result"]["resources"][0]["uri"], &list["result"]["cacheScope"]),
        (&json!("talk://now"), &json!("private"))
    );
    let read = modern(&world, &agent, "resources/read", json!({"uri": "talk://now"})).await;
    assert_eq!((&read["result"]["x-kept"], &read["result"]["ttlMs"]), (&json!([1]), &json!(0)), "{read}");
    assert_eq!((&read["result"]["resultType"], &read["result"]["cacheScope"]), (&json!("complete"), &json!("private")));
    let templates = modern(&world, &agent, "resources/templates/list", json!({})).await;
    assert_eq!(templates["result"]["resourceTemplates"][0]["uriTemplate"], "talk://day/{day}");
    assert!(modern(&world, &agent, "resources/read", json!({"uri": "talk://day/monday"})).await["result"].is_object());
    assert_eq!(modern(&world, &agent, "resources/read", json!({"uri": "talk://other"})).await["error"]["code"], -32602);
    let missing = legacy(&world, "/mcp", &agent, "resources/read", json!({"uri": "talk://other"})).await;
    assert_eq!(missing["error"]["code"], -32002);
    let unlisted = legacy(&world, "/mcp/talk", &agent, "resources/read", json!({"uri": "talk://other"})).await;
    assert!(unlisted["error"]["data"]["event"].is_string(), "a refusal of the gate's: {unlisted}");

    let reference =
        json!({"ref": {"type": "ref/prompt", "name": "talk_greet"}, "argument": {"name": "who", "value": "A"}});
    let completed = legacy(&world, "/mcp", &agent, "completion/complete", reference).await;
    let asked: Value =
        serde_json::from_str(completed["result"]["completion"]["values"][0].as_str().expect("a value")).expect("JSON");
    assert_eq!(asked["ref"], json!({"type": "ref/prompt", "name": "greet"}), "the upstream's own name");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uri_that_several_upstreams_have_says_where_it_lives() {
    let (world, _) = world(&["left", "right"]).await;
    let agent = world.agent("bot");
    let list = legacy(&world, "/mcp", &agent, "resources/list", json!({})).await;
    let uris: Vec<&str> =
        list["result"]["resources"].as_array().expect("a list").iter().filter_map(|r| r["uri"].as_str()).collect();
    assert_eq!(uris, ["talk://left", "left+talk://now", "right+talk://now", "talk://right"]);
    for (uri, home) in [("left+talk://now", "left"), ("right+talk://now", "right"), ("talk://right", "right")] {
        let read = legacy(&world, "/mcp", &agent, "resources/read", json!({"uri": uri})).await;
        assert_eq!(read["result"]["contents"][0]["text"], home, "{uri}: {read}");
    }
    let several = legacy(&world, "/mcp", &agent, "resources/read", json!({"uri": "talk://now"})).await;
    assert!(several["error"]["message"].as_str().is_some_and(|m| m.contains("left+talk://now")), "{several}");
    let templates = legacy(&world, "/mcp", &agent, "resources/templates/list", json!({})).await;
    assert_eq!(templates["result"]["resourceTemplates"][1]["uriTemplate"], "right+talk://day/{day}");
    let day = legacy(&world, "/mcp", &agent, "resources/read", json!({"uri": "right+talk://day/monday"})).await;
    assert_eq!(day["result"]["contents"][0]["text"], "right");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_reaches_a_legacy_client_on_its_stream() {
    let (world, _) = world(&["talk"]).await;
    let agent = world.agent("bot");
    let session = greeted(&world, &agent, json!({"elicitation": {}})).await;
    let headers = in_session(&session);
    let call = message(9, "tools/call", &json!({"name": "talk_ask", "arguments": {}}));
    let mut open = Open::send(&world, "POST", &agent, &headers, &call).await;
    let asked = open.next().await;
    assert_eq!(asked["method"], "elicitation/create", "{asked}");
    assert_eq!(asked["params"]["message"], "[asked by upstream \"talk\"] Which colour?");
    let answer = |id: &Value| {
        json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept", "content": {"colour": "red"}}}).to_string()
    };
    // Not everybody's to answer.
    let other = world.agent("other");
    let stolen = world.send("POST", "/mcp", &other, &headers, Some(&answer(&asked["id"]))).await;
    assert_eq!(stolen.status, 404, "another caller's session is no session");
    let taken = world.send("POST", "/mcp", &agent, &headers, Some(&answer(&asked["id"]))).await;
    assert_eq!(taken.status, 202);
    let done = open.next().await;
    assert_eq!(done["id"], 9);
    assert_eq!(done["result"]["content"][0]["text"], r#"{"action":"accept","content":{"colour":"red"}}"#, "{done}");

    // Without a session nobody can be asked, and the upstream learns so.
    let alone = legacy(&world, "/mcp", &agent, "tools/call", json!({"name": "talk_ask", "arguments": {}})).await;
    assert_eq!(alone["result"]["content"][0]["text"], "Some(Err(Unsupported))");
    let ended = world.send("DELETE", "/mcp", &agent, &headers, None).await;
    assert_eq!(ended.status, 204);
    assert_eq!(world.send("POST", "/mcp", &agent, &headers, Some(&call)).await.status, 404);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_reaches_a_modern_client_as_a_result_and_its_retry_goes_on() {
    let (world, _) = world(&["talk"]).await;
    let agent = world.agent("bot");
    let form = json!({"elicitation": {}});
    let ask = json!({"name": "talk_ask", "arguments": {"n": 1}});
    let start = async || {
        let asked = modern_with(&world, &agent, "tools/call", ask.clone(), form.clone()).await;
        assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
        asked["result"].clone()
    };
    let asked = start().await;
    assert_eq!(asked["inputRequests"]["colour"]["method"], "elicitation/create", "{asked}");
    let retry = |result: &Value, arguments: Value| {
        let mut params = json!({"name": "talk_ask", "arguments": arguments, "requestState": result["requestState"]});
        params["inputResponses"] = json!({"colour": {"action": "accept", "content": {"colour": "blue"}}});
        params
    };
    // Not for another caller, not for other arguments.
    let other = world.agent("other");
    let stolen = modern_with(&world, &other, "tools/call", retry(&asked, json!({"n": 1})), form.clone()).await;
    assert_eq!(stolen["error"]["code"], -32602, "{stolen}");
    let changed = modern_with(&world, &agent, "tools/call", retry(&asked, json!({"n": 2})), form.clone()).await;
    assert_eq!(changed["error"]["code"], -32602, "{changed}");
    // A retry without the answer is asked again.
    let mut empty = retry(&asked, json!({"n": 1}));
    empty["inputResponses"] = json!({"unrelated": {}});
    let again = modern_with(&world, &agent, "tools/call", empty, form.clone()).await;
    assert_eq!(again["result"]["resultType"], "input_required", "{again}");
    let done = modern_with(&world, &agent, "tools/call", retry(&again["result"], json!({"n": 1})), form.clone()).await;
    assert_eq!(done["result"]["content"][0]["text"], r#"{"action":"accept","content":{"colour":"blue"}}"#, "{done}");
    let twice = modern_with(&world, &agent, "tools/call", retry(&again["result"], json!({"n": 1})), form.clone()).await;
    assert!(twice["error"]["data"]["call"].is_string(), "{twice}");
    // Never what was not declared.
    let mute = modern(&world, &agent, "tools/call", ask.clone()).await;
    assert_eq!(mute["result"]["content"][0]["text"], "Some(Err(Unsupported))");
    // A retry that no longer declares it gets an end, too.
    let third = start().await;
    let mut silent = retry(&third, json!({"n": 1}));
    silent["inputResponses"] = json!({});
    let ended = modern(&world, &agent, "tools/call", silent).await;
    assert_eq!(ended["result"]["content"][0]["text"], "Some(Err(Unsupported))", "{ended}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_come_under_the_clients_own_terms() {
    let (world, _) = world(&["talk"]).await;
    let agent = world.agent("bot");
    let chat = json!({"name": "talk_chat", "arguments": {}, "_meta": {"progressToken": 42}});
    let call = message(9, "tools/call", &chat);
    let mut open = Open::send(&world, "POST", &agent, LEGACY, &call).await;
    let progress = open.next().await;
    assert_eq!((&progress["params"]["progressToken"], &progress["params"]["progress"]), (&json!(42), &json!(1.5)));
    let levels = [open.next().await, open.next().await].map(|log| log["params"]["level"].clone());
    assert_eq!(levels, [json!("info"), json!("error")]);
    assert_eq!(open.next().await["result"]["content"][0]["text"], "done");

    let session = greeted(&world, &agent, json!({})).await;
    let headers = in_session(&session);
    let set = world
        .send("POST", "/mcp", &agent, &headers, Some(&message(2, "logging/setLevel", &json!({"level": "error"}))))
        .await;
    assert_eq!(set.json()["result"], json!({}));
    let reply = world.send("POST", "/mcp", &agent, &headers, Some(&call)).await.text();
    assert_eq!(reply.matches("notifications/message").count(), 1, "{reply}");

    // 2026-07-28: nothing unless the request asks for it.
    let mut quiet = json!({"name": "talk_chat", "arguments": {}});
    quiet["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let headers = modern_headers("tools/call", &quiet);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = world.send("POST", "/mcp", &agent, &headers, Some(&message(7, "tools/call", &quiet))).await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let mut loud = quiet.clone();
    loud["_meta"]["io.modelcontextprotocol/logLevel"] = json!("debug");
    let reply = world.send("POST", "/mcp", &agent, &headers, Some(&message(7, "tools/call", &loud))).await.text();
    assert_eq!(reply.matches("notifications/message").count(), 3, "{reply}");
    // A client that reads no streams gets its answer alone.
    let plain = world.send("POST", "/mcp", &agent, &[("accept", "application/json")], Some(&call)).await;
    assert_eq!(plain.json()["result"]["content"][0]["text"], "done");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cancels_as_its_era_does() {
    let (world, talkers) = world(&["talk"]).await;
    let agent = world.agent("bot");
    let until = async |count: usize| {
        for _ in 0..1_000 {
            if talkers[0].cancelled.load(Ordering::SeqCst) == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the call was not cancelled");
    };
    let hang = json!({"name": "talk_hang", "arguments": {"n": 1}});
    let session = greeted(&world, &agent, json!({})).await;
    let headers = in_session(&session);
    let open = Open::send(&world, "POST", &agent, &headers, &message(9, "tools/call", &hang)).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}}).to_string();
    // The call may not have begun when the first one comes.
    for _ in 0..100 {
        assert_eq!(world.send("POST", "/mcp", &agent, &headers, Some(&cancel)).await.status, 202);
        if talkers[0].cancelled.load(Ordering::SeqCst) == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until(1).await;
    drop(open);

    let mut modern = json!({"name": "talk_hang", "arguments": {"n": 2}});
    modern["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    modern["_meta"]["progressToken"] = json!(1);
    let headers = modern_headers("tools/call", &modern);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut open = Open::send(&world, "POST", &agent, &headers, &message(7, "tools/call", &modern)).await;
    // Once it streams, it runs.
    assert_eq!(open.next().await["method"], "notifications/progress");
    drop(open);
    until(2).await;
    let operator = world.person("olga", &["operator"]);
    // The outcome is recorded a moment after the upstream heard of it.
    let mut unknown = json!([]);
    for _ in 0..500 {
        unknown = world.get("/admin/unknown", &operator).await.json();
        if unknown.as_array().map(Vec::len) == Some(2) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(unknown.as_array().map(Vec::len), Some(2), "writes that were cancelled wait for a person: {unknown}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_hear_of_what_they_subscribed_to() {
    let (world, talkers) = world(&["talk"]).await;
    let agent = world.agent("bot");
    let session = greeted(&world, &agent, json!({})).await;
    let headers = in_session(&session);
    assert_eq!(
        world.send("GET", "/mcp", &agent, LEGACY, None).await.status,
        405,
        "there is no stream without a session"
    );
    let alone = legacy(&world, "/mcp", &agent, "resources/subscribe", json!({"uri": "talk://now"})).await;
    assert_eq!(alone["error"]["code"], -32600);
    let subscribe = |uri: &str| message(3, "resources/subscribe", &json!({"uri": uri}));
    let subscribed = world.send("POST", "/mcp", &agent, &headers, Some(&subscribe("talk://now"))).await;
    assert_eq!(subscribed.json()["result"], json!({}), "{subscribed:?}");
    let refused = world.send("POST", "/mcp", &agent, &headers, Some(&subscribe("talk://elsewhere"))).await;
    assert_eq!(refused.json()["error"]["code"], -32002);
    let mut stream = Open::send(&world, "GET", &agent, &headers, "").await;

    let mut params = json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": ["talk://now", "talk://elsewhere"]}});
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let modern = modern_headers("subscriptions/listen", &params);
    let modern: Vec<(&str, &str)> = modern.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut listening = Open::send(&world, "POST", &agent, &modern, &message(5, "subscriptions/listen", &params)).await;
    let ack = listening.next().await;
    assert_eq!(ack["method"], "notifications/subscriptions/acknowledged");
    let expected = json!({"toolsListChanged": true, "resourceSubscriptions": ["talk://now"]});
    assert_eq!(ack["params"]["notifications"], expected, "what is refused is not promised");

    // The GET stream may open a moment later than it was asked for; a change is told until it is heard.
    let tell = async {
        loop {
            let _ = talkers[0].updates.send(Told::Resource("talk://unrelated".into()));
            let _ = talkers[0].updates.send(Told::Resource("talk://now".into()));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let heard = async {
        let legacy = stream.next().await;
        let modern = listening.next().await;
        (legacy, modern)
    };
    let (legacy, modern) = tokio::select! { heard = heard => heard, () = tell => unreachable!("it goes on") };
    assert_eq!(
        (&legacy["method"], &legacy["params"]),
        (&json!("notifications/resources/updated"), &json!({"uri": "talk://now"}))
    );
    assert_eq!(modern["params"]["uri"], "talk://now");
    assert_eq!(modern["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 5);

    // The upstream is told to stop when the last of both has gone, and not before.
    let gone = || talkers[0].unwatched.lock().expect("not poisoned").clone();
    // What was refused was heard of by nobody else.
    talkers[0].unwatched.lock().expect("not poisoned").clear();
    let stop = message(6, "resources/unsubscribe", &json!({"uri": "talk://now"}));
    assert_eq!(world.send("POST", "/mcp", &agent, &headers, Some(&stop)).await.json()["result"], json!({}));
    assert!(gone().is_empty(), "the other client still hears of it");
    drop(listening);
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while gone() != ["talk://now"] {
        assert!(std::time::Instant::now() < end, "{:?}", gone());
        // A stream that has gone is noticed when something is sent on it.
        let _ = talkers[0].updates.send(Told::Resource("talk://now".into()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstreams_task_is_followed_through_the_gate() {
    let talker = Talker::new("talk");
    let built_in = vec![("talk".to_owned(), Arc::clone(&talker) as Arc<dyn Upstream>)];
    let policy = format!(
        "{ASKS} @id(\"goes-on\") forbid (principal, action == Action::\"talk:tasks/cancel\", resource) when {{ context.input.tool == \"work\" }};"
    );
    let world = World::start_among("[approval]\nwait_seconds = 1\n", &policy, built_in).await;
    let (agent, other) = (world.agent("bot"), world.agent("rob"));
    let work = json!({"name": "talk_work", "arguments": {}});
    // Who does not know tasks has the gateway follow them.
    let plain = modern(&world, &agent, "tools/call", work.clone()).await;
    assert_eq!(plain["result"]["content"][0]["text"], "done at once", "{plain}");
    let mut able = tasks::knowing();
    able["elicitation"] = json!({});
    let created = tasks::modern(&world, &agent, "tools/call", work, able.clone()).await.json();
    assert_eq!(created["result"]["resultType"], "task", "{created}");
    let id = created["result"]["taskId"].as_str().expect("an id").to_owned();
    assert_ne!(id, "up-1", "sealed");
    assert!(created["result"]["_meta"]["dev.countersign/receipt"].is_string());
    let of = json!({"taskId": id});
    let got = tasks::modern(&world, &agent, "tasks/get", of.clone(), able.clone()).await.json();
    assert_eq!((&got["result"]["status"], &got["result"]["taskId"]), (&json!("completed"), &json!(id)), "{got}");
    let said = got["result"]["result"]["content"][0]["text"].as_str().expect("text");
    assert!(said.contains(r#"{"taskId":"up-1","tool":"work"}"#), "{said}");
    assert!(said.contains("[asked by upstream"), "labelled before it is shown: {said}");
    let answers = json!({"taskId": id, "inputResponses": {"go": {"action": "accept"}}});
    let updated = tasks::modern(&world, &agent, "tasks/update", answers, able.clone()).await.json();
    assert!(updated["result"]["x-sent"].as_str().is_some_and(|sent| sent.contains("accept")), "{updated}");
    // Each is a call of its own, with its own decision; and nobody else's.
    let kept = tasks::modern(&world, &agent, "tasks/cancel", of.clone(), able.clone()).await.json();
    assert_eq!(kept["error"]["code"], 4030, "{kept}");
    let stolen = tasks::modern(&world, &other, "tasks/get", of, able.clone()).await.json();
    assert_eq!(stolen["error"]["code"], -32602, "{stolen}");
    let forged = tasks::modern(&world, &agent, "tasks/get", json!({"taskId": "up-1"}), able).await.json();
    assert_eq!(forged["error"]["code"], -32602, "{forged}");
    let events = world.get("/audit/events?limit=100", &world.person("olga", &["auditor"])).await.json();
    let events = events.as_array().or(events["entries"].as_array()).expect("events").clone();
    let of = |name: &str, kind: &str| {
        events.iter().filter(|e| e["tool"]["name"] == name && e["type"] == kind).cloned().collect::<Vec<_>>()
    };
    let works = of("work", "call.completed");
    assert!(works.iter().any(|event| event["outcome"]["status"] == "task"), "{works:?}");
    assert_eq!(of("tasks/get", "call.completed").len(), 1);
    assert_eq!((of("tasks/update", "call.intent").len(), of("tasks/cancel", "call.denied").len()), (1, 1));
    assert_eq!(of("elicitation/create", "call.completed")[0]["outcome"]["status"], "shown");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_leads_its_person_to_where_an_account_is_connected_and_the_call_goes_on() {
    let talk = Talker::new("talk");
    let built_in = vec![("talk".to_owned(), Arc::clone(&talk) as Arc<dyn Upstream>)];
    let world = World::start_among("[approval]\nwait_seconds = 20\n", "", built_in).await;
    let agent = world.agent("bot");
    let call = json!({"name": "talk_chat", "arguments": {}});
    let able = json!({"elicitation": {"url": {}}});
    let is_asked = |question: &Value| {
        let params = &question["params"];
        assert_eq!((&question["method"], &params["mode"]), (&json!("elicitation/create"), &json!("url")), "{question}");
        assert_eq!(params["url"], "https://node.example/connections/talk/page");
        assert!(params["message"].as_str().is_some_and(|m| m.starts_with("[asked by Countersign]")), "{question}");
    };

    // Session era: asked in the middle of the call, which waits for the account and not for the client's word.
    talk.unconnected.store(true, Ordering::SeqCst);
    let session = greeted(&world, &agent, able.clone()).await;
    let headers = in_session(&session);
    let mut open = Open::send(&world, "POST", &agent, &headers, &message(9, "tools/call", &call)).await;
    let asked = open.next().await;
    is_asked(&asked);
    let yes = json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}}).to_string();
    assert_eq!(world.send("POST", "/mcp", &agent, &headers, Some(&yes)).await.status, 202);
    tokio::time::sleep(Duration::from_millis(300)).await;
    talk.unconnected.store(false, Ordering::SeqCst);
    let told = open.next().await;
    assert_eq!(told["method"], "notifications/elicitation/complete", "{told}");
    assert_eq!(told["params"]["elicitationId"], asked["params"]["elicitationId"]);
    let done = loop {
        let next = open.next().await;
        if next["id"] == 9 {
            break next;
        }
    };
    assert_eq!(done["result"]["content"][0]["text"], "done", "{done}");

    // 2026-07-28: asked as a result, and the call is made again.
    talk.unconnected.store(true, Ordering::SeqCst);
    let asked = tasks::modern(&world, &agent, "tools/call", call.clone(), able.clone()).await.json();
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    is_asked(&asked["result"]["inputRequests"]["connect"]);
    let mut again = call.clone();
    again["requestState"] = asked["result"]["requestState"].clone();
    again["inputResponses"] = json!({"connect": {"action": "accept"}});
    talk.unconnected.store(false, Ordering::SeqCst);
    let done = tasks::modern(&world, &agent, "tools/call", again, able.clone()).await.json();
    assert_eq!(done["result"]["content"][0]["text"], "done", "{done}");

    // Who does not want to gets the refusal, as does a client that can lead nobody there.
    talk.unconnected.store(true, Ordering::SeqCst);
    let asked = tasks::modern(&world, &agent, "tools/call", call.clone(), able.clone()).await.json();
    let mut declined = call.clone();
    declined["requestState"] = asked["result"]["requestState"].clone();
    declined["inputResponses"] = json!({"connect": {"action": "decline"}});
    for (params, able) in [(declined, able), (call.clone(), json!({"elicitation": {"form": {}}}))] {
        let refused = tasks::modern(&world, &agent, "tools/call", params, able).await.json();
        let text = refused["result"]["content"][0]["text"].as_str().unwrap_or_default();
        assert!(text.starts_with("Refused (connection-needed)"), "{refused}");
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_page_is_done_with_after_the_call_reaches_the_client_that_was_asked_and_no_other() {
    let (world, talkers) = world(&["talk", "other"]).await;
    let (bot, rob) = (world.agent("bot"), world.agent("rob"));
    let able = json!({"elicitation": {"url": {}}});
    let (asked, beside, stranger) = (
        greeted(&world, &bot, able.clone()).await,
        greeted(&world, &bot, able.clone()).await,
        greeted(&world, &rob, able.clone()).await,
    );
    let call = json!({"name": "talk_page", "arguments": {}});
    let mut open = Open::send(&world, "POST", &bot, &in_session(&asked), &message(9, "tools/call", &call)).await;
    let question = open.next().await;
    assert_eq!(question["params"]["elicitationId"], "e-7", "{question}");
    let yes = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}).to_string();
    assert_eq!(world.send("POST", "/mcp", &bot, &in_session(&asked), Some(&yes)).await.status, 202);
    while open.next().await["id"] != 9 {}

    // A client of 2026-07-28 that is asked the same comes back by itself, and hears of nothing.
    let modern = tasks::modern(&world, &rob, "tools/call", call.clone(), able).await.json();
    assert_eq!(modern["result"]["resultType"], "input_required", "{modern}");
    let mut listen = json!({"notifications": {"resourceSubscriptions": ["talk://talk"]}});
    listen["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let headers = modern_headers("subscriptions/listen", &listen);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut listening = Open::send(&world, "POST", &rob, &headers, &message(5, "subscriptions/listen", &listen)).await;
    listening.next().await;

    // Each hears of a resource as well, which tells that its stream is open, and that nothing else came before.
    let subscribe = message(3, "resources/subscribe", &json!({"uri": "talk://talk"}));
    let mut streams = Vec::new();
    for (token, session) in [(&bot, &asked), (&bot, &beside), (&rob, &stranger)] {
        let subscribed = world.send("POST", "/mcp", token, &in_session(session), Some(&subscribe)).await;
        assert_eq!(subscribed.json()["result"], json!({}), "{subscribed:?}");
        let mut stream = Open::send(&world, "GET", token, &in_session(session), "").await;
        let opened = async {
            loop {
                let _ = talkers[0].updates.send(Told::Resource("talk://talk".into()));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! { _ = stream.next() => {}, () = opened => unreachable!("it goes on") }
        streams.push(stream);
    }
    streams.push(listening);
    // Another upstream cannot end what this one began.
    let _ = talkers[1].updates.send(Told::Elicited("e-7".into()));
    let _ = talkers[0].updates.send(Told::Elicited("e-8".into()));
    let _ = talkers[0].updates.send(Told::Elicited("e-7".into()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let last = Told::Resource("talk://talk".into());
    let mut told = Vec::new();
    for stream in &mut streams {
        let mut heard = Vec::new();
        // Earlier changes may still be on their way; after some more of them nothing can be before them.
        for _ in 0..12 {
            let _ = talkers[0].updates.send(last.clone());
            heard.push(stream.next().await);
        }
        let over = heard.iter().filter(|m| m["method"] == "notifications/elicitation/complete").cloned();
        told.push(over.map(|message| message["params"]["elicitationId"].clone()).collect::<Vec<_>>());
    }
    assert_eq!(told, [vec![json!("e-7")], vec![], vec![], vec![]]);
    world.node.shutdown().await;
}
