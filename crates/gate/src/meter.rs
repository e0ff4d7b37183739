//! What is counted about calls: outcomes, refusals by kind, and how long each stage took.
//!
//! Label sets are bounded: upstreams of the configuration, effects, outcomes, kinds. Never principals, tools or free text. All
//! counters are atomic and made at the start; counting neither locks nor allocates. Where a trace is being recorded
//! ([`crate::trace`]), a timed stage is also a span of it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use countersign_domain::histogram::{Histogram, Reading};
use countersign_domain::{Effect, Refusal, RefusalKind, UpstreamName};

use crate::trace::{self, OpenSpan};

/// How a dispatched call ended, as events say it, and how else a call can be answered.
pub const OUTCOMES: &[&str] = &[
    "ok",
    "tool_error",
    "upstream_error",
    "not_sent",
    "busy",
    "undone",
    "timeout",
    "lost",
    "protocol_error",
    "cancelled",
    "pending",
    "replayed",
    "other",
];
/// What a refusal for too much can be about: the buckets of rates, and the bounds on calls under way.
pub const LIMITS: &[&str] =
    &["principal", "tool's caller", "principal with this tool", "tool", "workspace", "node", "other"];
/// The kinds of refusal that name their limit.
const LIMITING: [RefusalKind; 2] = [RefusalKind::RateLimited, RefusalKind::Overloaded];
const EFFECTS: [Effect; 3] = [Effect::Read, Effect::Write, Effect::Destructive];
/// The most different surfaces and causes of refusals before authentication that are told apart.
const MAX_CAUSES: usize = 64;

/// The timed parts of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Checking who calls.
    Identify,
    /// Resolving, validating and authorising.
    Decide,
    /// Waiting for an append to be durable.
    Commit,
    /// The upstream's part.
    Dispatch,
    /// A call from its request to its answer, redeeming included.
    Call,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Identify, Self::Decide, Self::Commit, Self::Dispatch, Self::Call];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identify => "identify",
            Self::Decide => "decide",
            Self::Commit => "commit",
            Self::Dispatch => "dispatch",
            Self::Call => "call",
        }
    }

    fn span(self) -> &'static str {
        match self {
            Self::Identify => "gate identify",
            Self::Decide => "gate decide",
            Self::Commit => "ledger append",
            Self::Dispatch => "dispatch",
            Self::Call => "gate call",
        }
    }
}

type Counters = [[AtomicU64; OUTCOMES.len()]; EFFECTS.len()];

/// The gate's counters.
#[derive(Debug)]
pub struct Meter {
    calls: BTreeMap<UpstreamName, Counters>,
    /// Of upstreams that came after the start.
    others: Counters,
    refusals: Box<[AtomicU64]>,
    limited: [[AtomicU64; LIMITS.len()]; LIMITING.len()],
    /// How often a breaker opened, of the upstream itself and of its tools.
    openings: BTreeMap<UpstreamName, [AtomicU64; 2]>,
    stages: [Histogram; Stage::ALL.len()],
    unauthenticated: Mutex<BTreeMap<(&'static str, String), u64>>,
}

impl Meter {
    /// Counters at zero for these upstreams.
    pub fn new(upstreams: impl IntoIterator<Item = UpstreamName>) -> Self {
        let upstreams: Vec<UpstreamName> = upstreams.into_iter().collect();
        Self {
            limited: Default::default(),
            openings: upstreams.iter().map(|name| (name.clone(), Default::default())).collect(),
            calls: upstreams.into_iter().map(|name| (name, Counters::default())).collect(),
            others: Counters::default(),
            refusals: RefusalKind::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            stages: std::array::from_fn(|_| Histogram::of_durations()),
            unauthenticated: Mutex::default(),
        }
    }

    /// Counts a call's end.
    pub(crate) fn ended(&self, upstream: &UpstreamName, effect: Effect, outcome: &str) {
        let counters = self.calls.get(upstream).unwrap_or(&self.others);
        let outcome = OUTCOMES.iter().position(|name| *name == outcome).unwrap_or(OUTCOMES.len() - 1);
        let effect = EFFECTS.iter().position(|known| *known == effect).unwrap_or(0);
        if let Some(counter) = counters.get(effect).and_then(|row| row.get(outcome)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts that a breaker opened.
    pub(crate) fn opened(&self, breaker: &str) {
        let (upstream, of_tool) = breaker.split_once(':').map_or((breaker, false), |(upstream, _)| (upstream, true));
        let counters = upstream.parse().ok().and_then(|upstream: UpstreamName| self.openings.get(&upstream));
        if let Some([own, tools]) = counters {
            if of_tool { tools } else { own }.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        let kind = refusal.kind;
        if let Some(counters) = LIMITING.iter().position(|k| *k == kind).and_then(|at| self.limited.get(at)) {
            let limit = refusal.extra.get("limit").and_then(serde_json::Value::as_str).unwrap_or_default();
            let limit = LIMITS.iter().position(|known| *known == limit).unwrap_or(LIMITS.len() - 1);
            if let Some(counter) = counters.get(limit) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
        if let Some(counter) = RefusalKind::ALL.iter().position(|k| *k == kind).and_then(|at| self.refusals.get(at)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        trace::fail(kind.slug());
    }

    /// Counts a refusal before authentication.
    pub(crate) fn unauthenticated(&self, surface: &'static str, cause: &str) {
        let Ok(mut counts) = self.unauthenticated.lock() else { return };
        let cause = if counts.len() < MAX_CAUSES { cause.chars().take(40).collect() } else { "other".to_owned() };
        *counts.entry((surface, cause)).or_insert(0) += 1;
    }

    /// Times a stage until the guard is dropped.
    pub(crate) fn time(&self, stage: Stage) -> Timed<'_> {
        Timed { meter: self, stage, started: Instant::now(), span: trace::open(stage.span(), stage == Stage::Dispatch) }
    }

    /// Calls by upstream (empty for those that came after the start), effect and outcome, where there were any.
    pub fn calls(&self) -> Vec<(&str, Effect, &'static str, u64)> {
        let named = self.calls.iter().map(|(name, counters)| (name.as_str(), counters));
        let mut found = Vec::new();
        for (name, counters) in named.chain([("", &self.others)]) {
            for (effect, row) in EFFECTS.iter().zip(counters) {
                for (outcome, counter) in OUTCOMES.iter().zip(row) {
                    let count = counter.load(Ordering::Relaxed);
                    if count > 0 {
                        found.push((name, *effect, *outcome, count));
                    }
                }
            }
        }
        found
    }

    /// Refusals by kind, all kinds.
    pub fn refusals(&self) -> impl Iterator<Item = (RefusalKind, u64)> {
        RefusalKind::ALL.iter().copied().zip(self.refusals.iter().map(|counter| counter.load(Ordering::Relaxed)))
    }

    /// Refusals for too much, by kind and by the limit that was reached.
    pub fn limited(&self) -> impl Iterator<Item = (RefusalKind, &'static str, u64)> {
        LIMITING.iter().zip(&self.limited).flat_map(|(kind, counters)| {
            let counts = LIMITS.iter().zip(counters);
            counts.map(|(limit, counter)| (*kind, *limit, counter.load(Ordering::Relaxed)))
        })
    }

    /// How often breakers opened, by upstream: its own, and those of its tools.
    pub fn openings(&self) -> impl Iterator<Item = (&str, [u64; 2])> {
        self.openings
            .iter()
            .map(|(name, [own, tools])| (name.as_str(), [own.load(Ordering::Relaxed), tools.load(Ordering::Relaxed)]))
    }

    /// Refusals before authentication, by surface and cause.
    pub fn unauthenticated_refusals(&self) -> Vec<(&'static str, String, u64)> {
        let counts = self.unauthenticated.lock().map(|counts| counts.clone()).unwrap_or_default();
        counts.into_iter().map(|((surface, cause), count)| (surface, cause, count)).collect()
    }

    /// How long a stage took.
    pub fn stage(&self, stage: Stage) -> Option<Reading> {
        let at = Stage::ALL.iter().position(|known| *known == stage)?;
        self.stages.get(at).map(Histogram::read)
    }
}

/// A stage that runs.
pub(crate) struct Timed<'a> {
    meter: &'a Meter,
    stage: Stage,
    started: Instant,
    span: Option<OpenSpan>,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        if let Some(at) = Stage::ALL.iter().position(|known| *known == self.stage)
            && let Some(histogram) = self.meter.stages.get(at)
        {
            histogram.observe_duration(took);
        }
        if let Some(span) = self.span.take() {
            span.close(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_what_is_bounded_and_nothing_else() {
        let ads: UpstreamName = "ads".parse().expect("a name");
        let meter = Meter::new([ads.clone()]);
        meter.ended(&ads, Effect::Write, "ok");
        meter.ended(&ads, Effect::Write, "ok");
        meter.ended(&"later".parse().expect("a name"), Effect::Read, "something new");
        assert_eq!(meter.calls(), [("ads", Effect::Write, "ok", 2), ("", Effect::Read, "other", 1)]);
        for number in 0..200 {
            meter.unauthenticated("http", &format!("cause {number}"));
        }
        assert!(meter.unauthenticated_refusals().len() <= MAX_CAUSES + 1);
    }

    #[test]
    fn limits_and_openings_are_told_apart_without_naming_anybody() {
        let meter = Meter::new(["ads".parse().expect("a name")]);
        let limited = |limit: &str| Refusal::new(RefusalKind::RateLimited, "").with("limit", limit);
        ["tool", "tool", "a free text"].iter().for_each(|limit| meter.refused(&limited(limit)));
        meter.refused(&Refusal::new(RefusalKind::PolicyDenied, "").with("limit", "tool"));
        let counted: Vec<_> = meter.limited().filter(|(.., count)| *count > 0).collect();
        assert_eq!(counted, [(RefusalKind::RateLimited, "tool", 2), (RefusalKind::RateLimited, "other", 1)]);
        ["ads", "ads:create", "ads:delete", "unknown:tool"].iter().for_each(|name| meter.opened(name));
        assert_eq!(meter.openings().collect::<Vec<_>>(), [("ads", [1, 2])]);
    }

    #[test]
    fn a_dropped_guard_has_timed_its_stage() {
        let meter = Meter::new([]);
        drop(meter.time(Stage::Decide));
        assert_eq!(meter.stage(Stage::Decide).map(|reading| reading.count), Some(1));
        assert_eq!(meter.stage(Stage::Commit).map(|reading| reading.count), Some(0));
    }
}
