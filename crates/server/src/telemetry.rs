//! What operators see of a node at work: a line for each request, metrics, spans.
//!
//! - [`exchange`]: one HTTP request from its head to its answer's head: who, which route, how long; the log line and the span.
//! - [`metrics`]: everything that is counted, in the Prometheus text format.
//! - [`otlp`]: spans to a collector, off the request path.
//!
//! Tokens, arguments and results appear in none of them.

pub(crate) mod exchange;
pub(crate) mod metrics;
pub(crate) mod otlp;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use countersign_domain::histogram::Histogram;
use countersign_gate::trace::{Context, Sink, Trace};
use http::HeaderMap;
use http::header::HeaderName;

use crate::config::Config;
use otlp::Exporter;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What the surfaces report to.
pub(crate) struct Telemetry {
    pub exporter: Option<Arc<Exporter>>,
    pub http: HttpMeter,
    /// Of a million requests that come without a context, so many are recorded.
    sample: u64,
    seen: AtomicU64,
    /// Whether each request is a line in the log.
    log_requests: bool,
    strangers: Strangers,
}

/// Lines about refused requests of strangers: so many a minute, and then a count, so that a flood does not fill a disk by way
/// of the log.
#[derive(Debug, Default)]
struct Strangers(Mutex<Minute>);

#[derive(Debug, Default)]
struct Minute {
    number: u64,
    lines: u32,
    omitted: u64,
}

/// Lines about strangers in a minute.
const STRANGERS: u32 = 60;

impl Strangers {
    /// Whether this one is a line, and how many before it were none.
    fn line(&self, minute: u64) -> Option<u64> {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.number != minute {
            (now.number, now.lines) = (minute, 0);
        }
        if now.lines >= STRANGERS {
            now.omitted += 1;
            return None;
        }
        now.lines += 1;
        Some(std::mem::take(&mut now.omitted))
    }
}

/// Counters of the HTTP surface.
#[derive(Debug)]
pub(crate) struct HttpMeter {
    /// Answers by the first digit of their status.
    pub answers: [AtomicU64; 6],
    pub duration: Histogram,
    pub connections: AtomicU64,
}

impl Telemetry {
    pub fn new(config: &Config, exporter: Option<Arc<Exporter>>) -> Self {
        let http = HttpMeter {
            answers: Default::default(),
            duration: Histogram::of_durations(),
            connections: AtomicU64::new(0),
        };
        let sample = (config.telemetry.sample * 1e6) as u64;
        Self {
            exporter,
            http,
            sample,
            seen: AtomicU64::new(0),
            log_requests: config.log.requests,
            strangers: Strangers::default(),
        }
    }

    /// The trace of a request; `None` if nobody names one and nobody collects.
    fn trace(&self, headers: &HeaderMap) -> Option<Arc<Trace>> {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let context = text(&TRACEPARENT).and_then(|parent| Context::parse(parent, text(&TRACESTATE)));
        let sampled = match &context {
            Some(context) => context.is_sampled(),
            None => self.samples(),
        };
        let sink = self.exporter.as_ref().filter(|_| sampled).map(|exporter| Arc::clone(exporter) as Arc<dyn Sink>);
        if context.is_none() && sink.is_none() {
            return None;
        }
        Some(Trace::begin(context, sink, "request"))
    }

    /// Spread evenly rather than drawn: the same share of a steady load, without randomness.
    fn samples(&self) -> bool {
        if self.exporter.is_none() {
            return false;
        }
        let number = self.seen.fetch_add(1, Ordering::Relaxed);
        let share = |n: u64| u128::from(n) * u128::from(self.sample) / 1_000_000;
        share(number + 1) > share(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_strangers_are_bounded_and_the_rest_is_counted() {
        let strangers = Strangers::default();
        let first: Vec<_> = (0..100).map(|_| strangers.line(7)).collect();
        assert_eq!(first.iter().flatten().count(), STRANGERS as usize);
        assert_eq!((strangers.line(8), strangers.line(8)), (Some(40), Some(0)));
    }

    #[test]
    fn a_share_of_the_requests_is_recorded() {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = crate::Overrides { home: Some(dir.path().to_owned()), ..crate::Overrides::default() };
        let mut config = Config::load_with(&flags, &|_| None).expect("defaults");
        config.telemetry.sample = 0.25;
        let exporter = Exporter::for_tests();
        let telemetry = Telemetry::new(&config, Some(exporter));
        assert_eq!((0..1000).filter(|_| telemetry.samples()).count(), 250);
        assert!(!Telemetry::new(&config, None).samples(), "nobody collects");
    }
}
