//! Spans to a collector: OTLP over HTTP in its JSON encoding, in batches, off the request path.
//!
//! Written here rather than taken from the OpenTelemetry crates: these add a protobuf stack to every build, for a JSON mapping that
//! fits on a page, and what leaves the node goes through `countersign-egress` either way. The queue is bounded: what does not fit is dropped and counted, and so is what the collector does not take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use countersign_egress::{Egress, EgressError, Purpose, PurposeClient};
use countersign_gate::trace::{Kind, Sink, Span, Value as Attribute};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use url::Url;
use uuid::Uuid;

use crate::app::VERSION;

/// Requests whose spans wait to be sent.
const QUEUE: usize = 4096;
/// The most requests in one message to the collector.
const BATCH: usize = 256;
/// How long a batch may gather.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest text of an attribute, characters.
const MAX_TEXT: usize = 256;

/// Where finished spans go.
pub(crate) struct Exporter {
    queue: mpsc::Sender<Vec<Span>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl Exporter {
    /// An exporter to the collector at `endpoint`. Its task ends when the exporter is gone and everything is sent.
    ///
    /// # Errors
    /// If the network client cannot be set up.
    pub fn start(egress: &Egress, endpoint: &Url, headers: &[(String, String)]) -> Result<Arc<Self>, EgressError> {
        let mut url = endpoint.clone();
        url.set_path(&format!("{}/v1/traces", endpoint.path().trim_end_matches('/')));
        let client = egress.client_for(Purpose::Telemetry, &url)?;
        let mut sent = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        for (name, value) in headers {
            // Checked when the configuration was read.
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                sent.insert(name, value);
            }
        }
        let (queue, waiting) = mpsc::channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let sender = Sender { client, url, headers: sent, resource: resource(), counts: Arc::clone(&counts) };
        tokio::spawn(sender.run(waiting));
        Ok(Arc::new(Self { queue, counts }))
    }

    /// Spans by what became of them.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        [("exported", get(&counts.exported)), ("dropped", get(&counts.dropped)), ("failed", get(&counts.failed))]
    }

    #[cfg(test)]
    pub fn for_tests() -> Arc<Self> {
        let (queue, _) = mpsc::channel(1);
        Arc::new(Self { queue, counts: Arc::default() })
    }
}

impl Sink for Exporter {
    fn finished(&self, spans: Vec<Span>) {
        if let Err(TrySendError::Full(spans) | TrySendError::Closed(spans)) = self.queue.try_send(spans) {
            self.counts.dropped.fetch_add(spans.len() as u64, Ordering::Relaxed);
        }
    }
}

struct Sender {
    client: PurposeClient,
    url: Url,
    headers: HeaderMap,
    resource: Value,
    counts: Arc<Counts>,
}

impl Sender {
    async fn run(self, mut waiting: mpsc::Receiver<Vec<Span>>) {
        let mut complained = None;
        while let Some(first) = waiting.recv().await {
            let mut spans = first;
            let until = tokio::time::Instant::now() + GATHER;
            for _ in 1..BATCH {
                match tokio::time::timeout_at(until, waiting.recv()).await {
                    Ok(Some(more)) => spans.extend(more),
                    Ok(None) | Err(_) => break,
                }
            }
            let count = spans.len() as u64;
            match self.send(&spans).await {
                Ok(()) => drop(self.counts.exported.fetch_add(count, Ordering::Relaxed)),
                Err(why) => {
                    self.counts.failed.fetch_add(count, Ordering::Relaxed);
                    // Once a minute is enough to know.
                    if complained.is_none_or(|at: Instant| at.elapsed() > Duration::from_secs(60)) {
                        complained = Some(Instant::now());
                        tracing::warn!(%why, "the collector did not take spans; they are lost");
                    }
                }
            }
        }
    }

    async fn send(&self, spans: &[Span]) -> Result<(), String> {
        let body = Bytes::from(encode(&self.resource, spans).to_string());
        let deadline = Instant::now() + PATIENCE;
        let sent = self.client.send(Method::POST, &self.url, self.headers.clone(), body, deadline).await;
        let response = sent.map_err(|error| error.to_string())?;
        let status = response.status();
        // Read to its end, so that the connection can be used again.
        let _ = response.bytes(64 * 1024, deadline).await;
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }
}

fn resource() -> Value {
    json!({ "attributes": [
        text("service.name", "countersign"),
        text("service.version", VERSION),
        text("service.instance.id", &Uuid::now_v7().to_string()),
    ] })
}

/// An `ExportTraceServiceRequest` in the JSON mapping of OTLP: ids in hexadecimal, 64-bit numbers as text, enums as numbers.
fn encode(resource: &Value, spans: &[Span]) -> Value {
    json!({ "resourceSpans": [{
        "resource": resource,
        "scopeSpans": [{
            "scope": { "name": "countersign", "version": VERSION },
            "spans": spans.iter().map(span).collect::<Vec<_>>(),
        }],
    }] })
}

fn span(span: &Span) -> Value {
    let kind = match span.kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
    };
    let mut attributes: Vec<Value> = span
        .attributes
        .iter()
        .map(|(name, value)| match value {
            Attribute::Text(value) => text(name, value),
            Attribute::Number(number) => json!({ "key": name, "value": { "intValue": number.to_string() } }),
        })
        .collect();
    attributes.extend(span.error.as_ref().map(|error| text("error.type", error)));
    let mut value = json!({
        "traceId": format!("{:032x}", span.trace_id),
        "spanId": format!("{:016x}", span.span_id),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": span.start.to_string(),
        "endTimeUnixNano": span.end.to_string(),
        "attributes": attributes,
    });
    if let Some(parent) = span.parent {
        value["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some((trace, linked)) = span.link {
        value["links"] = json!([{ "traceId": format!("{trace:032x}"), "spanId": format!("{linked:016x}") }]);
    }
    if span.error.is_some() {
        value["status"] = json!({ "code": 2 });
    }
    value
}

fn text(name: &str, value: &str) -> Value {
    let value: String = value.chars().take(MAX_TEXT).collect();
    json!({ "key": name, "value": { "stringValue": value } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Span {
        Span {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 0x00f0_67aa_0ba9_02b7,
            parent: Some(1),
            link: Some((2, 3)),
            name: "tools/call ads_listCampaigns".into(),
            kind: Kind::Server,
            start: 1_700_000_000_000_000_000,
            end: 1_700_000_000_001_000_000,
            attributes: vec![
                ("mcp.method.name", Attribute::Text("tools/call".into())),
                ("http.response.status_code", Attribute::Number(200)),
            ],
            error: Some("tool_error".into()),
        }
    }

    #[test]
    fn a_span_has_the_form_of_the_json_mapping() {
        let expected = json!({
            "traceId": "4bf92f3577b34da6a3ce929d0e0e4736",
            "spanId": "00f067aa0ba902b7",
            "parentSpanId": "0000000000000001",
            "links": [{ "traceId": "00000000000000000000000000000002", "spanId": "0000000000000003" }],
            "name": "tools/call ads_listCampaigns",
            "kind": 2,
            "startTimeUnixNano": "1700000000000000000",
            "endTimeUnixNano": "1700000000001000000",
            "attributes": [
                { "key": "mcp.method.name", "value": { "stringValue": "tools/call" } },
                { "key": "http.response.status_code", "value": { "intValue": "200" } },
                { "key": "error.type", "value": { "stringValue": "tool_error" } },
            ],
            "status": { "code": 2 },
        });
        assert_eq!(span(&example()), expected);
    }

    #[tokio::test]
    async fn what_does_not_fit_the_queue_is_dropped_and_counted() {
        let (queue, waiting) = mpsc::channel(1);
        let exporter = Exporter { queue, counts: Arc::default() };
        exporter.finished(vec![example()]);
        exporter.finished(vec![example(), example()]);
        assert_eq!(exporter.counts()[1], ("dropped", 2));
        drop(waiting);
        exporter.finished(vec![example()]);
        assert_eq!(exporter.counts()[1], ("dropped", 3));
    }
}
