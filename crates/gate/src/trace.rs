//! Trace context (W3C Trace Context) and, where somebody collects them, the spans of a request.
//!
//! The context of the request at hand lives in a task-local: a surface enters [`scope`], the stages open spans, and whoever
//! speaks to an upstream asks [`outgoing`] what to pass on. Without a context nothing is allocated and nothing is recorded.
//!
//! What callers send is a name for their trace and nothing more: it decides nothing, is never authenticated, and what does not
//! parse is ignored. Baggage is neither read nor passed on, since it may hold anything. Spans carry no arguments, results,
//! tokens or principals.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::entropy;

/// The most spans of one request that are kept.
const MAX_SPANS: usize = 64;
/// The most attributes of a request's own span.
const MAX_ATTRIBUTES: usize = 24;
/// The longest `tracestate` that is passed on (the specification asks for at least this much).
const MAX_STATE: usize = 512;

tokio::task_local! {
    static CURRENT: Arc<Trace>;
}

/// A context as it came: `traceparent`, with `tracestate` beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
    state: Option<Box<str>>,
}

impl Context {
    /// Reads the two headers; `None` for what is not a context.
    pub fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let text = parent.trim();
        let (version, rest) = text.split_at_checked(2)?;
        let lower = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = rest.strip_prefix('-')?.split('-');
        let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
        // Version 00 ends here; later ones may go on. ff is never one.
        let ends = parts.next().is_none() || version != "00";
        let fits = trace.len() == 32 && span.len() == 16 && flags.len() == 2 && lower(version) && version != "ff";
        if !ends || !fits || !lower(trace) || !lower(span) || !lower(flags) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        let plain = |text: &&str| text.len() <= MAX_STATE && text.bytes().all(|b| (0x20..0x7f).contains(&b));
        Some(Self { trace_id, span_id, sampled, state: state.filter(plain).map(Into::into) })
    }

    /// The `traceparent` header.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }

    /// The `tracestate` header, if there is one.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// Whether whoever began the trace records it.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }
}

/// Takes finished spans; must neither block nor fail.
pub trait Sink: Send + Sync {
    /// The spans of one request; the first is the request itself.
    fn finished(&self, spans: Vec<Span>);
}

/// What a span tells about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A step within this node.
    Internal,
    /// A request that came in.
    Server,
    /// A request that went out.
    Client,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text from a bounded set, or shortened.
    Text(Cow<'static, str>),
    /// A number.
    Number(i64),
}

/// A finished span.
#[derive(Debug, Clone)]
pub struct Span {
    /// The trace.
    pub trace_id: u128,
    /// The span.
    pub span_id: u64,
    /// What it is part of.
    pub parent: Option<u64>,
    /// A context that it also belongs to.
    pub link: Option<(u128, u64)>,
    /// What it is.
    pub name: Cow<'static, str>,
    /// Its kind.
    pub kind: Kind,
    /// Nanoseconds since the epoch.
    pub start: u64,
    /// Nanoseconds since the epoch.
    pub end: u64,
    /// Facts about it.
    pub attributes: Vec<(&'static str, Value)>,
    /// `error.type`, if it failed.
    pub error: Option<Cow<'static, str>>,
}

/// The trace of one request in this node.
pub struct Trace {
    trace_id: u128,
    root: u64,
    parent: Option<u64>,
    link: Option<(u128, u64)>,
    sampled: bool,
    state: Option<Box<str>>,
    /// The span of the dispatch under way, or 0: what an upstream's spans belong under.
    dispatch: AtomicU64,
    recorded: Option<Recorded>,
}

struct Recorded {
    sink: Arc<dyn Sink>,
    kind: Kind,
    start: u64,
    clock: Instant,
    own: Mutex<Own>,
    spans: Mutex<Vec<Span>>,
}

#[derive(Default)]
struct Own {
    name: Cow<'static, str>,
    attributes: Vec<(&'static str, Value)>,
    error: Option<Cow<'static, str>>,
}

impl Trace {
    /// The trace of a request. With a sink, its spans are recorded and handed over when the last part of it has ended.
    pub fn begin(
        context: Option<Context>,
        sink: Option<Arc<dyn Sink>>,
        name: impl Into<Cow<'static, str>>,
    ) -> Arc<Self> {
        let (trace_id, parent, sampled, state) = match context {
            Some(context) => (context.trace_id, Some(context.span_id), context.sampled, context.state),
            None => (u128::from_be_bytes(entropy::<16>()) | 1, None, sink.is_some(), None),
        };
        let recorded = sink.map(|sink| Recorded::new(sink, Kind::Server, name.into()));
        let sampled = sampled || recorded.is_some();
        Arc::new(Self {
            trace_id,
            root: new_id(),
            parent,
            link: None,
            sampled,
            state,
            dispatch: AtomicU64::new(0),
            recorded,
        })
    }

    /// The trace of a message inside the request at hand. Its own context, where it has one, is its parent, and the request's is
    /// linked (OpenTelemetry's conventions for MCP); otherwise the request's is its parent. `None` where there is nothing to do.
    pub fn message(context: Option<Context>, name: impl Into<Cow<'static, str>>) -> Option<Arc<Self>> {
        let around = current();
        let sink = around.as_ref().and_then(|trace| trace.recorded.as_ref()).map(|recorded| Arc::clone(&recorded.sink));
        let recorded = sink.map(|sink| Recorded::new(sink, Kind::Server, name.into()));
        let outer = around.as_ref().map(|trace| (trace.trace_id, trace.root));
        let (trace_id, parent, link, sampled, state) = match (context, around) {
            (Some(own), _) => (own.trace_id, Some(own.span_id), outer, own.sampled, own.state),
            (None, Some(around)) => (around.trace_id, Some(around.root), None, around.sampled, around.state.clone()),
            (None, None) => return None,
        };
        let sampled = sampled || recorded.is_some();
        let dispatch = AtomicU64::new(0);
        Some(Arc::new(Self { trace_id, root: new_id(), parent, link, sampled, state, dispatch, recorded }))
    }

    /// The trace's id, for logs: 32 hexadecimal digits.
    pub fn id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// Renames the request's span.
    pub fn rename(&self, name: impl Into<Cow<'static, str>>) {
        if let Some(recorded) = &self.recorded {
            recorded.own().name = name.into();
        }
    }

    /// Notes a fact about the request.
    pub fn note(&self, name: &'static str, value: Value) {
        let Some(recorded) = &self.recorded else { return };
        let mut own = recorded.own();
        if own.attributes.len() < MAX_ATTRIBUTES {
            own.attributes.push((name, value));
        }
    }

    /// Marks the request as failed.
    pub fn fail(&self, error: impl Into<Cow<'static, str>>) {
        if let Some(recorded) = &self.recorded {
            recorded.own().error = Some(error.into());
        }
    }
}

impl Recorded {
    fn new(sink: Arc<dyn Sink>, kind: Kind, name: Cow<'static, str>) -> Self {
        let own = Mutex::new(Own { name, ..Own::default() });
        Self { sink, kind, start: unix_nanos(), clock: Instant::now(), own, spans: Mutex::default() }
    }

    fn own(&self) -> std::sync::MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let Some(recorded) = self.recorded.take() else { return };
        let own = recorded.own.into_inner().unwrap_or_else(PoisonError::into_inner);
        let root = Span {
            trace_id: self.trace_id,
            span_id: self.root,
            parent: self.parent,
            link: self.link,
            name: own.name,
            kind: recorded.kind,
            start: recorded.start,
            end: recorded.start + nanos(recorded.clock.elapsed()),
            attributes: own.attributes,
            error: own.error,
        };
        let spans = recorded.spans.into_inner().unwrap_or_else(PoisonError::into_inner);
        recorded.sink.finished([vec![root], spans].concat());
    }
}

/// Runs a future in a trace; without one, as it is.
pub async fn scope<F: Future>(trace: Option<Arc<Trace>>, future: F) -> F::Output {
    match trace {
        Some(trace) => CURRENT.scope(trace, future).await,
        None => future.await,
    }
}

/// The trace of the request at hand.
pub fn current() -> Option<Arc<Trace>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// What to pass on to an upstream: the context whose parent is the dispatch under way.
pub fn outgoing() -> Option<Context> {
    CURRENT
        .try_with(|trace| {
            let dispatch = trace.dispatch.load(Ordering::Relaxed);
            let span_id = if dispatch == 0 { trace.root } else { dispatch };
            Context { trace_id: trace.trace_id, span_id, sampled: trace.sampled, state: trace.state.clone() }
        })
        .ok()
}

/// Marks the request at hand as failed.
pub fn fail(error: &'static str) {
    // Without a trace there is nothing to mark.
    let _ = CURRENT.try_with(|trace| trace.fail(error));
}

/// Notes a fact about the request at hand.
pub fn note(name: &'static str, value: Value) {
    // As above.
    let _ = CURRENT.try_with(|trace| trace.note(name, value));
}

/// A span that is open.
pub(crate) struct OpenSpan {
    trace: Arc<Trace>,
    span_id: u64,
    name: &'static str,
    is_dispatch: bool,
    start: u64,
}

/// Opens a span under the request at hand, if it is recorded.
pub(crate) fn open(name: &'static str, is_dispatch: bool) -> Option<OpenSpan> {
    CURRENT
        .try_with(|trace| {
            trace.recorded.as_ref()?;
            let span_id = new_id();
            if is_dispatch {
                trace.dispatch.store(span_id, Ordering::Relaxed);
            }
            Some(OpenSpan { trace: Arc::clone(trace), span_id, name, is_dispatch, start: unix_nanos() })
        })
        .ok()
        .flatten()
}

impl OpenSpan {
    /// Closes it after it took this long.
    pub(crate) fn close(self, took: Duration) {
        let Some(recorded) = &self.trace.recorded else { return };
        if self.is_dispatch {
            self.trace.dispatch.store(0, Ordering::Relaxed);
        }
        let mut spans = recorded.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() < MAX_SPANS {
            spans.push(Span {
                trace_id: self.trace.trace_id,
                span_id: self.span_id,
                parent: Some(self.trace.root),
                link: None,
                name: self.name.into(),
                kind: if self.is_dispatch { Kind::Client } else { Kind::Internal },
                start: self.start,
                end: self.start + nanos(took),
                attributes: Vec::new(),
                error: None,
            });
        }
    }
}

fn new_id() -> u64 {
    // Zero means "none" on the wire.
    u64::from_be_bytes(entropy::<8>()) | 1
}

fn unix_nanos() -> u64 {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[derive(Default)]
    struct Kept(Mutex<Vec<Vec<Span>>>);

    impl Sink for Kept {
        fn finished(&self, spans: Vec<Span>) {
            self.0.lock().expect("kept").push(spans);
        }
    }

    #[test]
    fn only_a_context_is_read_as_one() {
        let context = Context::parse(PARENT, Some("vendor=1")).expect("a context");
        assert_eq!((context.traceparent().as_str(), context.tracestate()), (PARENT, Some("vendor=1")));
        assert!(Context::parse(&PARENT.replace("00-4", "cc-4"), None).is_some(), "a later version");
        for wrong in [
            "",
            "00",
            &PARENT.replace("00-4", "ff-4"),
            &PARENT.to_uppercase(),
            &format!("{PARENT}-00"),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "é0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Context::parse(wrong, None), None, "{wrong}");
        }
        assert_eq!(Context::parse(PARENT, Some("a\nb")).expect("a context").tracestate(), None);
    }

    #[tokio::test]
    async fn a_request_hands_over_its_spans_when_its_last_part_ends() {
        let kept = Arc::new(Kept::default());
        let trace = Trace::begin(Context::parse(PARENT, None), Some(Arc::clone(&kept) as Arc<dyn Sink>), "POST /x");
        scope(Some(trace), async {
            let span = open("dispatch", true).expect("recorded");
            let sent = outgoing().expect("a context");
            assert_eq!(sent.traceparent()[3..35], PARENT[3..35]);
            assert_eq!(sent.span_id, span.span_id);
            span.close(Duration::from_millis(2));
            fail("policy-denied");
        })
        .await;
        let kept = kept.0.lock().expect("kept");
        let [spans] = kept.as_slice() else { panic!("{kept:?}") };
        assert_eq!(spans[0].parent, Some(0x00f0_67aa_0ba9_02b7));
        assert_eq!((spans[0].name.as_ref(), spans[0].error.as_deref()), ("POST /x", Some("policy-denied")));
        assert_eq!((spans[1].parent, spans[1].kind), (Some(spans[0].span_id), Kind::Client));
        assert_eq!(spans[1].end - spans[1].start, 2_000_000);
    }

    #[tokio::test]
    async fn without_a_collector_the_context_is_passed_on_and_nothing_is_recorded() {
        assert!(outgoing().is_none() && open("x", false).is_none());
        let trace = Trace::begin(Context::parse(PARENT, None), None, "x");
        scope(Some(trace), async {
            assert!(open("x", false).is_none());
            assert_eq!(outgoing().expect("a context").traceparent()[3..35], PARENT[3..35]);
        })
        .await;
    }

    #[tokio::test]
    async fn a_message_belongs_to_its_own_context_and_links_the_request() {
        let kept = Arc::new(Kept::default());
        let outer = Trace::begin(None, Some(Arc::clone(&kept) as Arc<dyn Sink>), "POST /mcp");
        let around = (outer.trace_id, outer.root);
        scope(Some(outer), async {
            drop(Trace::message(Context::parse(PARENT, None), "tools/call x"));
            drop(Trace::message(None, "tools/call y"));
        })
        .await;
        let kept = kept.0.lock().expect("kept");
        assert_eq!(kept[0][0].link, Some(around));
        assert_eq!((kept[1][0].trace_id, kept[1][0].parent, kept[1][0].link), (around.0, Some(around.1), None));
    }
}
