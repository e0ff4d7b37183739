//! What operators see: metrics, spans at a collector, readiness; and trace context on its way through.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::support::World;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The value of a sample, by the beginning of its line.
fn sample(page: &str, start: &str) -> f64 {
    let line = page.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no {start} in:\n{page}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

#[tokio::test]
async fn metrics_tell_what_happened_and_name_nobody() {
    let world = World::start().await;
    let agent = world.agent("agent-of-secret-name");
    assert_eq!(world.create(&agent, 100, &[]).await.status, 200);
    assert_eq!(world.create(&agent, 1200, &[]).await.status, 202);
    assert_eq!(world.create(&agent, 60_000, &[]).await.status, 403);
    assert_eq!(world.get("/tool-catalog", "not-a-token").await.status, 401);

    assert_eq!(world.get("/metrics", "").await.status, 401);
    assert_eq!(world.get("/metrics", &agent).await.status, 403, "an agent is not a collector");
    let reply = world.get("/metrics", &world.person("prometheus", &["metrics"])).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    let page = reply.text();
    let calls = |outcome: &str| {
        sample(&page, &format!("countersign_calls_total{{upstream=\"ads\",effect=\"write\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!((calls("ok"), calls("pending")), (1.0, 1.0));
    assert_eq!(sample(&page, "countersign_refusals_total{kind=\"policy-denied\"}"), 1.0);
    assert!(sample(&page, "countersign_unauthenticated_total{surface=\"http\"") >= 1.0);
    assert_eq!(sample(&page, "countersign_open_approvals "), 1.0);
    let breakers = |of: &str, state: &str| {
        sample(&page, &format!("countersign_breakers{{upstream=\"ads\",of=\"{of}\",state=\"{state}\"}}"))
    };
    assert_eq!((breakers("upstream", "closed"), breakers("tool", "closed"), breakers("tool", "open")), (1.0, 1.0, 0.0));
    assert_eq!(sample(&page, "countersign_breaker_openings_total{upstream=\"ads\",of=\"tool\"}"), 0.0);
    assert_eq!(sample(&page, "countersign_limited_total{kind=\"rate-limited\",limit=\"tool\"}"), 0.0);
    assert_eq!(sample(&page, "countersign_unknown_calls "), 0.0);
    assert_eq!(sample(&page, "countersign_upstream_state{upstream=\"ads\",state=\"ready\"}"), 1.0);
    assert_eq!(sample(&page, "countersign_stage_duration_seconds_count{stage=\"dispatch\"}"), 1.0);
    assert!(sample(&page, "countersign_ledger_group_events_sum ") >= 4.0);
    assert!(sample(&page, "process_resident_memory_bytes ") > 1e6);
    assert!(!page.contains("secret-name") && !page.contains("createCampaign"), "{page}");
    world.node.shutdown().await;
}

#[tokio::test]
async fn metrics_without_a_token_are_for_this_machine_alone() {
    let address = TcpListener::bind("127.0.0.1:0").await.expect("free").local_addr().expect("an address");
    let world = World::start_with(&format!("[telemetry]\nmetrics_listen = \"{address}\"\n")).await;
    let get = async |host: &str, path: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    };
    let page = get(&address.to_string(), "/metrics").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("countersign_build_info"), "{page}");
    assert!(!get("evil.example", "/metrics").await.starts_with("HTTP/1.1 200"), "a name of somebody else's");
    assert!(get(&address.to_string(), "/tool-catalog").await.starts_with("HTTP/1.1 404"));
    world.node.shutdown().await;
}

/// Takes requests as a collector does, and keeps their bodies.
async fn collector() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("free");
    let address = listener.local_addr().expect("an address");
    let kept: Arc<Mutex<Vec<Value>>> = Arc::default();
    let keep = Arc::clone(&kept);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let keep = Arc::clone(&keep);
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                loop {
                    if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                        return;
                    }
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.to_ascii_lowercase();
                    let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                    if body.len() < length.unwrap_or(0) {
                        continue;
                    }
                    assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
                    keep.lock().expect("kept").push(serde_json::from_str(body).expect("JSON"));
                    bytes.clear();
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.expect("answered");
                }
            });
        }
    });
    (format!("http://{address}"), kept)
}

fn spans(kept: &Mutex<Vec<Value>>) -> Vec<Value> {
    let kept = kept.lock().expect("kept");
    let of = |body: &Value| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default();
    kept.iter().flat_map(of).collect()
}

fn attribute<'a>(span: &'a Value, name: &str) -> Option<&'a str> {
    let found = span["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == name)?;
    found["value"]["stringValue"].as_str().or(found["value"]["intValue"].as_str())
}

#[tokio::test]
async fn a_call_is_a_trace_at_the_collector_and_its_context_reaches_the_upstream() {
    let (url, kept) = collector().await;
    let world = World::start_with(&format!("[telemetry]\notlp = \"{url}\"\n")).await;
    let agent = world.agent("agent-of-secret-name");
    let body = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": { "name": "ads_listCampaigns", "arguments": {}, "_meta": { "traceparent": PARENT } },
    });
    let headers =
        [("content-type", "application/json"), ("accept", "application/json"), ("mcp-protocol-version", "2025-11-25")];
    let reply = world.send("POST", "/mcp", &agent, &headers, Some(&body.to_string())).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let correlation = reply.header("x-correlation-id").expect("an id").to_owned();

    let found = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let spans = spans(&kept);
            let of_http = spans.iter().any(|span| attribute(span, "countersign.correlation_id") == Some(&correlation));
            if of_http && spans.iter().any(|span| span["name"] == "tools/call ads_listCampaigns") {
                return spans;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let spans = found.await.expect("the spans arrive");
    let request = spans.iter().find(|s| attribute(s, "countersign.correlation_id") == Some(&correlation)).expect("it");
    assert_eq!((request["name"].as_str(), request["kind"].as_u64()), (Some("POST /mcp"), Some(2)));
    let call = spans.iter().find(|span| span["name"] == "tools/call ads_listCampaigns").expect("it");
    assert_eq!((&call["traceId"], &call["parentSpanId"]), (&json!(&PARENT[3..35]), &json!(&PARENT[36..52])));
    assert_eq!(call["links"][0]["spanId"], request["spanId"]);
    for (name, value) in [
        ("mcp.method.name", "tools/call"),
        ("gen_ai.operation.name", "execute_tool"),
        ("gen_ai.tool.name", "ads_listCampaigns"),
        ("jsonrpc.request.id", "7"),
    ] {
        assert_eq!(attribute(call, name), Some(value), "{call}");
    }
    let children: Vec<&str> =
        spans.iter().filter(|s| s["parentSpanId"] == call["spanId"]).filter_map(|s| s["name"].as_str()).collect();
    for stage in ["gate decide", "dispatch", "ledger append", "gate call"] {
        assert!(children.contains(&stage), "{stage} is not in {children:?}");
    }
    let whole = serde_json::to_string(&spans).expect("JSON");
    assert!(!whole.contains("secret-name") && !whole.contains(&agent), "spans name nobody");
    world.node.shutdown().await;
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let world = World::start_with("[telemetry]\notlp = \"http://127.0.0.1:1\"\n").await;
    let agent = world.agent("a");
    assert_eq!(world.create(&agent, 100, &[("traceparent", PARENT)]).await.status, 200);
    let operator = world.person("olga", &["operator"]);
    let lost = tokio::time::timeout(Duration::from_secs(20), async {
        while sample(&world.get("/metrics", &operator).await.text(), "countersign_spans_total{result=\"failed\"}")
            == 0.0
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    lost.await.expect("the loss is counted");
    world.node.shutdown().await;
}
