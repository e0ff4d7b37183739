//! Everything that is counted, in the Prometheus text format (0.0.4). `docs/operations.md` describes the names.
//!
//! On the node's own address it is for callers with the role `operator`, `auditor` or `metrics`; without a token it is served
//! only on an address of this machine that the configuration names. Label sets are bounded, see [`countersign_gate::meter`].

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use countersign_domain::histogram::{MICROS, Reading};
use countersign_gate::meter::Stage;
use countersign_gate::registry::ToolState;
use countersign_ledger::state::{IntentState, RequestStatus};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tokio::net::TcpListener;

use crate::app::{App, VERSION};
use crate::http::Answered;
use crate::http::problem::Refused;
use crate::http::request::Caller;

const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The most open requests that are counted; a node with more has other worries.
const MOST_REQUESTS: u32 = 1000;
const UPSTREAM_STATES: &[&str] = &["idle", "starting", "ready", "backing-off", "failed"];

/// `GET /metrics` on the node's own address.
pub(crate) async fn for_callers(State(app): State<Arc<App>>, caller: Caller) -> Answered {
    app.gate.require_observer(&caller.principal)?;
    Ok(text(&app).await)
}

async fn for_this_machine(State(app): State<Arc<App>>, headers: HeaderMap) -> Answered {
    // A web page must not reach it through a name of its own, either.
    app.guard.check(&headers).map_err(Refused)?;
    Ok(text(&app).await)
}

/// Serves the metrics alone, without a token, until aborted.
pub(crate) async fn serve(app: Arc<App>, listener: TcpListener) {
    let router = Router::new().route("/metrics", get(for_this_machine)).with_state(app);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "metrics are no longer served");
    }
}

async fn text(app: &App) -> Response {
    let mut page = Page::default();
    calls(app, &mut page);
    http(app, &mut page);
    ledger(app, &mut page);
    stored(app, &mut page).await;
    forwarding(app, &mut page).await;
    budgets(app, &mut page).await;
    parts(app, &mut page);
    process(&mut page);
    ([(CONTENT_TYPE, FORMAT)], page.0).into_response()
}

fn calls(app: &App, page: &mut Page) {
    let meter = app.gate.meter();
    page.begin("countersign_calls_total", "counter", "Calls that were answered, by upstream, effect and outcome.");
    for (upstream, effect, outcome, count) in meter.calls() {
        let labels = [("upstream", upstream), ("effect", effect.as_str()), ("outcome", outcome)];
        page.sample("countersign_calls_total", &labels, count);
    }
    page.begin("countersign_refusals_total", "counter", "Calls that were refused, by kind.");
    for (kind, count) in meter.refusals() {
        page.sample("countersign_refusals_total", &[("kind", kind.slug())], count);
    }
    page.begin("countersign_limited_total", "counter", "Calls refused for too much, by the limit that was reached.");
    for (kind, limit, count) in meter.limited() {
        page.sample("countersign_limited_total", &[("kind", kind.slug()), ("limit", limit)], count);
    }
    page.begin("countersign_unauthenticated_total", "counter", "Requests refused before authentication.");
    for (surface, cause, count) in meter.unauthenticated_refusals() {
        page.sample("countersign_unauthenticated_total", &[("surface", surface), ("cause", &cause)], count);
    }
    let name = "countersign_stage_duration_seconds";
    page.begin(name, "histogram", "How long the stages of calls took.");
    for stage in Stage::ALL {
        if let Some(reading) = meter.stage(stage) {
            page.histogram(name, &[("stage", stage.as_str())], &reading);
        }
    }
    breakers(app, page);
    page.one("countersign_calls_in_flight", "gauge", "Calls between intent and outcome.", app.gate.in_flight());
}

/// Tools are counted, not named.
fn breakers(app: &App, page: &mut Page) {
    let counts = app.gate.breaker_counts();
    page.begin("countersign_breakers", "gauge", "Breakers that have seen a call, by how they stand.");
    for (manifest, _) in app.gate.registry().upstreams() {
        for (of, of_tool) in [("upstream", false), ("tool", true)] {
            for state in ["closed", "open", "half-open"] {
                let count = counts.get(&(manifest.upstream.to_string(), of_tool, state)).copied().unwrap_or(0);
                let labels = [("upstream", manifest.upstream.as_str()), ("of", of), ("state", state)];
                page.sample("countersign_breakers", &labels, count);
            }
        }
    }
    page.begin("countersign_breaker_openings_total", "counter", "How often breakers opened.");
    for (upstream, [own, tools]) in app.gate.meter().openings() {
        for (of, count) in [("upstream", own), ("tool", tools)] {
            page.sample("countersign_breaker_openings_total", &[("upstream", upstream), ("of", of)], count);
        }
    }
}

fn http(app: &App, page: &mut Page) {
    let http = &app.telemetry.http;
    page.begin("countersign_http_answers_total", "counter", "HTTP answers, by class of status.");
    for (class, count) in http.answers.iter().enumerate().skip(1) {
        let label = format!("{class}xx");
        page.sample("countersign_http_answers_total", &[("status", &label)], count.load(Ordering::Relaxed));
    }
    let name = "countersign_http_request_duration_seconds";
    page.begin(name, "histogram", "From a request's head to its answer's head.");
    page.histogram(name, &[], &http.duration.read());
    let connections = http.connections.load(Ordering::Relaxed);
    page.one("countersign_http_connections", "gauge", "Open connections.", connections);
    let draining = u64::from(*app.stopping.borrow());
    page.one("countersign_draining", "gauge", "1 while the node ends.", draining);
    let spans = app.telemetry.exporter.as_ref().map(|exporter| exporter.counts()).unwrap_or_default();
    page.begin("countersign_spans_total", "counter", "Spans, by what became of them.");
    for (result, count) in spans {
        page.sample("countersign_spans_total", &[("result", result)], count);
    }
}

fn ledger(app: &App, page: &mut Page) {
    let (head, stats, meters) = (app.ledger.head(), app.ledger.stats(), app.ledger.meters());
    page.one("countersign_ledger_leaves", "gauge", "Leaves of the open shard.", head.size);
    page.one("countersign_ledger_shard", "gauge", "Number of the open shard.", u64::from(head.shard));
    page.one("countersign_ledger_events_total", "counter", "Events written.", stats.events);
    page.one("countersign_ledger_groups_total", "counter", "Groups committed.", stats.groups);
    page.one("countersign_ledger_conflicts_total", "counter", "Appends that met another state.", stats.conflicts);
    page.one("countersign_ledger_failures_total", "counter", "Commits or head files that failed.", stats.failures);
    page.one("countersign_ledger_queue", "gauge", "Appends that wait for the writer.", stats.queued);
    let undecided = u64::from(!stats.can_record());
    page.one("countersign_ledger_undecided", "gauge", "1 while nothing can be recorded.", undecided);
    for (name, help, reading) in [
        ("countersign_ledger_group_duration_seconds", "A group's transaction, head file included.", &meters.group_time),
        ("countersign_ledger_head_duration_seconds", "The durable write of the head file.", &meters.head_time),
        ("countersign_ledger_group_events", "Events in a group.", &meters.group_size),
    ] {
        page.begin(name, "histogram", help);
        page.histogram(name, &[], &reading.read());
    }
}

/// What only the database knows. Where it does not answer the samples are missing, which alerts can see.
async fn stored(app: &App, page: &mut Page) {
    let read = app.ledger.read(|reader| {
        let open = reader.requests(None, Some(RequestStatus::Pending), None, MOST_REQUESTS)?.len();
        let unknown = reader.intents()?.iter().filter(|intent| intent.state == IntentState::Unknown).count();
        Ok((open as u64, unknown as u64))
    });
    match read.await {
        Ok((open, unknown)) => {
            page.one("countersign_open_approvals", "gauge", "Requests that wait for people (at most 1000).", open);
            page.one("countersign_unknown_calls", "gauge", "Writes whose outcome nobody knows.", unknown);
        }
        Err(error) => tracing::warn!(%error, "metrics without what the database knows"),
    }
}

/// What is handed on to another log.
async fn forwarding(app: &App, page: &mut Page) {
    let Some(forwarding) = &app.forwarding else { return };
    let help = "Entries and checkpoints handed on to another log by this node, and attempts that failed.";
    page.begin("countersign_forwarded_total", "counter", help);
    for (result, count) in forwarding.counts() {
        page.sample("countersign_forwarded_total", &[("result", result)], count);
    }
    match forwarding.waiting().await {
        Ok(waiting) => {
            let help = "Entries that another log has yet to take (at most 1000).";
            page.one("countersign_forward_waiting", "gauge", help, waiting);
        }
        Err(error) => tracing::warn!(%error, "metrics without what waits to be forwarded"),
    }
}

/// By budget, not by principal.
async fn budgets(app: &App, page: &mut Page) {
    match app.gate.budget_shares().await {
        Ok(shares) if shares.is_empty() => {}
        Ok(shares) => {
            let help = "The share of a budget that its heaviest user has used in the current period.";
            page.begin("countersign_budget_used_ratio", "gauge", help);
            for (budget, share) in shares {
                page.line("countersign_budget_used_ratio", &[("budget", &budget)], &format!("{share:.4}"));
            }
        }
        Err(error) => tracing::warn!(%error, "metrics without budgets"),
    }
}

fn parts(app: &App, page: &mut Page) {
    page.begin("countersign_upstream_state", "gauge", "1 for the state that an upstream is in.");
    for (manifest, upstream) in app.gate.registry().upstreams() {
        let now = upstream.status().state;
        for state in UPSTREAM_STATES {
            let labels = [("upstream", manifest.upstream.as_str()), ("state", *state)];
            page.sample("countersign_upstream_state", &labels, u64::from(now == *state));
        }
    }
    let view = app.gate.registry().view();
    let (mut accepted, mut others) = (0, 0);
    view.tools().for_each(|tool| match &tool.state {
        ToolState::Accepted(_) => accepted += 1,
        _ => others += 1,
    });
    page.begin("countersign_tools", "gauge", "Tools, by whether they can be called.");
    page.sample("countersign_tools", &[("status", "accepted")], accepted);
    page.sample("countersign_tools", &[("status", "quarantined")], others);
    let policies = app.gate.policies();
    let in_force = u64::from(policies.current().is_some());
    page.one("countersign_policy_in_force", "gauge", "1 if policies are in force.", in_force);
    let problems = policies.problems().len() as u64;
    page.one("countersign_policy_problems", "gauge", "Problems of the newest policy files.", problems);
    page.begin("countersign_build_info", "gauge", "1, with the version.");
    page.sample("countersign_build_info", &[("version", VERSION)], 1);
}

/// The process, as Linux tells it; elsewhere these are missing.
fn process(page: &mut Page) {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64;
    page.one("countersign_tasks", "gauge", "Asynchronous tasks that are alive.", tasks);
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        };
        let kibibytes: Option<u64> = field("VmRSS:");
        if let Some(kibibytes) = kibibytes {
            page.one("process_resident_memory_bytes", "gauge", "Resident memory.", kibibytes * 1024);
        }
        if let Some(threads) = field("Threads:") {
            page.one("process_threads", "gauge", "Threads.", threads);
        }
    }
    if let Ok(schedule) = cpu_nanos() {
        page.begin("process_cpu_seconds_total", "counter", "Processor time, user and system.");
        page.line("process_cpu_seconds_total", &[], &format!("{:.6}", schedule as f64 / 1e9));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.one("process_open_fds", "gauge", "Open file descriptors.", files.count() as u64);
    }
}

fn cpu_nanos() -> std::io::Result<u64> {
    // utime and stime are the 14th and 15th fields, counted after the name, which may hold spaces; in ticks of 10 ms.
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    Ok(fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10_000_000)
}

/// The page as it is written.
#[derive(Default)]
struct Page(String);

impl Page {
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.begin(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.line(name, labels, &value.to_string());
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        self.0.push_str(name);
        for (number, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if number == 0 { '{' } else { ',' });
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], reading: &Reading) {
        // Prometheus wants seconds; what is not a duration is a plain number.
        let seconds = reading.bounds == MICROS;
        let shown = |value: u64| if seconds { format!("{}", value as f64 / 1e6) } else { value.to_string() };
        let bucket = format!("{name}_bucket");
        let ends = reading.bounds.iter().map(|bound| shown(*bound)).chain(["+Inf".to_owned()]);
        for (end, count) in ends.zip(reading.cumulative.iter().chain([&reading.count])) {
            let labels = [labels, &[("le", end.as_str())]].concat();
            self.sample(&bucket, &labels, *count);
        }
        self.line(&format!("{name}_sum"), labels, &shown(reading.sum));
        self.sample(&format!("{name}_count"), labels, reading.count);
    }
}

#[cfg(test)]
mod tests {
    use countersign_domain::histogram::Histogram;

    use super::*;

    #[test]
    fn samples_are_written_as_the_format_wants_them() {
        let mut page = Page::default();
        page.sample("x", &[("a", "b\"\\\n"), ("c", "d")], 1);
        let histogram = Histogram::of_durations();
        histogram.observe(1_500);
        page.histogram("y", &[("s", "t")], &histogram.read());
        assert!(
            page.0.starts_with("x{a=\"b\\\"\\\\\\n\",c=\"d\"} 1\ny_bucket{s=\"t\",le=\"0.00001\"} 0\n"),
            "{}",
            page.0
        );
        assert!(
            page.0.ends_with("y_bucket{s=\"t\",le=\"+Inf\"} 1\ny_sum{s=\"t\"} 0.0015\ny_count{s=\"t\"} 1\n"),
            "{}",
            page.0
        );
    }
}
