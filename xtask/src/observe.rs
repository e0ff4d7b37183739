//! `cargo xtask observe`: what a real node reports, read by other people's programs: the metrics by the parser of Prometheus' Python
//! client, the spans by OpenTelemetry's own protobuf definitions. Every metric of the dashboard and of the alert rules must be in a
//! real scrape.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use countersign_testkit::node::Launch;
use countersign_testkit::{Home, Node, mcp};
use serde_json::json;

use crate::{crash, paths, setup};

const PATIENCE: Duration = Duration::from_secs(30);

/// Reads the text format strictly and prints the names of all samples.
const PARSE_METRICS: &str = "\
import sys
from prometheus_client.parser import text_string_to_metric_families as families
for family in families(sys.stdin.read()):
    assert family.type != 'unknown', family.name
    for sample in family.samples:
        print(sample.name)
";
/// Reads OTLP JSON into OpenTelemetry's messages, which refuses unknown fields and wrong types, and prints each span's name.
const PARSE_SPANS: &str = "\
import base64, json, sys
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
def ids(value):
    # OTLP writes ids in hexadecimal where the general mapping of protobuf has base64.
    if isinstance(value, dict):
        return {k: base64.b64encode(bytes.fromhex(v)).decode() if k in ('traceId', 'spanId', 'parentSpanId') else ids(v) for k, v in value.items()}
    return [ids(v) for v in value] if isinstance(value, list) else value
for line in sys.stdin:
    request = ParseDict(ids(json.loads(line)), ExportTraceServiceRequest())
    for resource in request.resource_spans:
        assert any(a.key == 'service.name' for a in resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                assert len(span.trace_id) == 16 and len(span.span_id) == 8 and span.end_time_unix_nano >= span.start_time_unix_nano > 0
                print(span.name)
";

/// Starts a node, uses it, and has both read.
///
/// # Errors
/// If the test itself cannot be run.
pub fn run(binary: &Path) -> Result<bool> {
    setup::python()?;
    let directory = paths::run_directory("observe")?;
    let (collector, received) = collector()?;
    let home = Home::create(&directory.join("home"), &settings(&collector))?;
    home.manifest("ads", &crash::ads_manifest(&directory.join("upstream"))?)?;
    home.access("all", "permit (principal, action, resource);\n")?;
    let node = Launch::new(binary).start(&home)?;
    node.accept_all_tools(&["ads"])?;
    node.operator().post("/admin/policy/reload", &json!({}))?.expect(200)?;
    use_it(&node)?;

    let page = node.operator().get("/metrics")?;
    ensure!(page.status == 200, "/metrics answers {}", page.status);
    fs::write(directory.join("metrics.txt"), &page.body)?;
    let found: BTreeSet<String> = python(PARSE_METRICS, &page.body)?.lines().map(str::to_owned).collect();
    let mut missing = BTreeSet::new();
    for file in ["deploy/grafana/dashboard.json", "deploy/grafana/alerts.yaml"] {
        let text = fs::read_to_string(paths::root().join(file))?;
        let named = named_metrics(&text);
        ensure!(!named.is_empty(), "{file} names no metrics");
        missing.extend(named.into_iter().filter(|name| !found.contains(name)).map(|name| format!("{name} of {file}")));
    }
    println!("metrics: {} names of samples, {} missing {missing:?}", found.len(), missing.len());

    let spans = wait_for_spans(&received)?;
    fs::write(directory.join("spans.jsonl"), &spans)?;
    let names = python(PARSE_SPANS, spans.as_bytes())?;
    let wanted = ["tools/call ads_listCampaigns", "POST /mcp", "dispatch", "ledger append"];
    let absent: Vec<_> = wanted.iter().filter(|name| !names.lines().any(|line| line == **name)).collect();
    println!("spans: {} read, absent {absent:?}", names.lines().count());
    node.stop()?;
    Ok(missing.is_empty() && absent.is_empty())
}

/// With a budget, so that its metric is there.
fn settings(collector: &str) -> String {
    let budget = "[[limits.budgets]]\nname = \"daily\"\nper = \"day\"\ncalls = 1000\n";
    format!("[telemetry]\notlp = \"{collector}\"\n{budget}")
}

fn use_it(node: &Node) -> Result<()> {
    let mut agent = node.client(&node.home().agent("observed", &["tester"]));
    mcp::call_tool(&mut agent, "/mcp", "ads_listCampaigns", &json!({}))?;
    let unauthenticated = node.anonymous().get("/tool-catalog")?;
    ensure!(unauthenticated.status == 401, "answered {}", unauthenticated.status);
    Ok(())
}

/// Runs a program of the peers' Python and returns what it prints.
fn python(program: &str, input: &[u8]) -> Result<String> {
    let mut child = Command::new(setup::python_path())
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("running Python")?;
    child.stdin.take().context("no pipe")?.write_all(input)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "Python refused what the node reports");
    Ok(String::from_utf8(output.stdout)?)
}

type Received = Arc<Mutex<Vec<String>>>;

/// Takes OTLP over HTTP and keeps the bodies.
fn collector() -> Result<(String, Received)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let received: Received = Arc::default();
    let keep = Arc::clone(&received);
    // Ends with this process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let keep = Arc::clone(&keep);
            std::thread::spawn(move || take(stream, &keep));
        }
    });
    Ok((url, received))
}

fn take(mut stream: std::net::TcpStream, keep: &Mutex<Vec<String>>) -> Option<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let length = crate::bench::load::content_length(&bytes[..end]).ok()?;
        if bytes.len() < end + 4 + length {
            continue;
        }
        let body = String::from_utf8_lossy(&bytes[end + 4..end + 4 + length]).into_owned();
        keep.lock().unwrap_or_else(PoisonError::into_inner).push(body);
        bytes.drain(..end + 4 + length);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").ok()?;
    }
}

/// The bodies, one a line, once the call is among them.
fn wait_for_spans(received: &Mutex<Vec<String>>) -> Result<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let bodies = received.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
        if bodies.contains("tools/call ads_listCampaigns") && bodies.contains("POST /mcp") {
            return Ok(bodies);
        }
        ensure!(Instant::now() < end, "the collector received no spans of the call");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Words that are names of metrics.
fn named_metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("countersign_") || word.starts_with("process_")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::named_metrics;

    #[test]
    fn metrics_are_found_in_expressions() {
        let found = named_metrics("rate(countersign_calls_total{a=\"b\"}[5m]) / process_open_fds # countersign alone");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["countersign_calls_total", "process_open_fds"]);
    }
}
