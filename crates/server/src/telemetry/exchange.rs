//! One HTTP request, from its head to its answer's head.

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::extract::MatchedPath;
use axum::response::Response;
use countersign_domain::Principal;
use countersign_gate::trace::{self, Trace, Value};
use http::{Method, Request};
use tower::{Layer, Service};

use super::Telemetry;

tokio::task_local! {
    static NOTE: Arc<Note>;
}

/// What minutes are counted from.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What the inner parts learn of a request and the outer one reports.
#[derive(Default)]
struct Note {
    principal: OnceLock<Arc<Principal>>,
    route: OnceLock<MatchedPath>,
}

/// Notes who calls. Set once; later words change nothing.
pub(crate) fn caller(principal: &Arc<Principal>) {
    // Outside of a request there is nobody to tell.
    let _ = NOTE.try_with(|note| note.principal.set(Arc::clone(principal)));
}

/// A request under way.
pub(crate) struct Exchange {
    method: Method,
    started: Instant,
    note: Arc<Note>,
    trace: Option<Arc<Trace>>,
}

impl Exchange {
    pub fn begin<B>(telemetry: &Telemetry, request: &Request<B>) -> Self {
        let trace = telemetry.trace(request.headers());
        Self { method: request.method().clone(), started: Instant::now(), note: Arc::default(), trace }
    }

    /// Runs the request's handler.
    pub async fn run<F: Future>(&self, handler: F) -> F::Output {
        NOTE.scope(Arc::clone(&self.note), trace::scope(self.trace.clone(), handler)).await
    }

    /// Counts and reports, once the answer's head is known.
    pub fn end(self, telemetry: &Telemetry, correlation: &str, response: &Response) {
        let took = self.started.elapsed();
        let status = response.status();
        telemetry.http.duration.observe_duration(took);
        if let Some(counter) = telemetry.http.answers.get(usize::from(status.as_u16() / 100)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let route = self.note.route.get().map_or("none", MatchedPath::as_str);
        let minute = self.started.duration_since(*EPOCH).as_secs() / 60;
        let stranger = self.note.principal.get().is_none() && status.is_client_error();
        let omitted = if stranger { telemetry.strangers.line(minute) } else { Some(0) };
        if let (true, Some(omitted)) = (telemetry.log_requests, omitted) {
            let principal = self.note.principal.get().map(|principal| principal.caller_key());
            tracing::info!(
                method = %self.method,
                route,
                status = status.as_u16(),
                duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                principal,
                correlation,
                trace = self.trace.as_ref().map(|trace| trace.id()),
                omitted = (omitted > 0).then_some(omitted),
                "request"
            );
        }
        if let Some(trace) = self.trace {
            let text = |text: &str| Value::Text(text.to_owned().into());
            trace.rename(format!("{} {route}", self.method));
            trace.note("http.request.method", text(self.method.as_str()));
            trace.note("http.route", text(route));
            trace.note("http.response.status_code", Value::Number(i64::from(status.as_u16())));
            trace.note("countersign.correlation_id", text(correlation));
            if status.is_server_error() {
                trace.fail(status.as_str().to_owned());
            }
        }
    }
}

/// Notes which route a request took: the template, never the path, which names what it is about.
#[derive(Clone, Copy)]
pub(crate) struct NoteRoute;

impl<S> Layer<S> for NoteRoute {
    type Service = NotedRoute<S>;

    fn layer(&self, inner: S) -> NotedRoute<S> {
        NotedRoute(inner)
    }
}

#[derive(Clone)]
pub(crate) struct NotedRoute<S>(S);

impl<S, B> Service<Request<B>> for NotedRoute<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        if let Some(path) = request.extensions().get::<MatchedPath>() {
            // As in `caller`.
            let _ = NOTE.try_with(|note| note.route.set(path.clone()));
        }
        self.0.call(request)
    }
}
