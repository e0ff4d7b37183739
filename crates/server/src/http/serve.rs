//! Connections: accepted up to a bound, each with a time limit on the next request's head, drained at the end.
//!
//! Every request passes [`respond`]: names checked, panics caught, refusals rendered.

use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use countersign_domain::{Refusal, RefusalKind};
use futures_util::FutureExt as _;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower::Service as _;

use super::peer::Peer;
use super::problem::{self, Carried};
use super::request::{CORRELATION, Correlation};
use crate::app::App;
use crate::telemetry::exchange::Exchange;

/// Largest request head, bytes. A token may have 16 KiB.
const HEAD_BYTES: usize = 64 * 1024;
/// Most header fields of a request.
const HEAD_FIELDS: usize = 100;
/// After an `accept` that failed (no descriptors left): long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` says so and the delay is over, then lets the running requests end for the time that they have.
pub(crate) async fn serve(app: Arc<App>, listener: TcpListener, stop: watch::Receiver<bool>) {
    let crate::config::DrainSettings { delay, timeout: drain } = app.config.drain;
    let router = super::router(Arc::clone(&app));
    let free = Arc::new(Semaphore::new(app.config.limits.connections));
    let mut open = JoinSet::new();
    let mut over = std::pin::pin!(stopped(stop.clone(), delay));
    loop {
        let stream = tokio::select! {
            () = over.as_mut() => break,
            stream = accept(&listener, &free) => stream,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
        };
        if let Some((stream, address, place)) = stream {
            let stopped = stopped(stop.clone(), delay);
            let connection = connection(Arc::clone(&app), router.clone(), stream, address, stopped);
            let app = Arc::clone(&app);
            open.spawn(async move {
                app.telemetry.http.connections.fetch_add(1, Ordering::Relaxed);
                connection.await;
                app.telemetry.http.connections.fetch_sub(1, Ordering::Relaxed);
                drop(place);
            });
        }
    }
    drop(listener);
    let ended = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, ended).await.is_err() {
        tracing::warn!("some requests did not end in {} s; their connections are closed", drain.as_secs());
    }
}

/// Once the node stops and has been unready for a while.
async fn stopped(mut stop: watch::Receiver<bool>, delay: Duration) {
    // A sender that is gone says the same.
    drop(stop.wait_for(|stop| *stop).await);
    tokio::time::sleep(delay).await;
}

/// A connection, once there is a place for it: until then it waits in the kernel's queue.
async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(free).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, address)) => Some((stream, address.ip(), place)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// A connection, with TLS if the listener has it.
async fn connection(
    app: Arc<App>,
    router: Router,
    stream: TcpStream,
    address: IpAddr,
    stopped: impl Future<Output = ()>,
) {
    // Answers are small and complete: waiting for more to send would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let mut stopped = std::pin::pin!(stopped);
    let Some(tls) = app.tls.clone() else {
        return converse(app, router, stream, Peer { address, certificate: None }, stopped).await;
    };
    let handshake = tokio::time::timeout(app.config.limits.header_timeout, tls.acceptor().accept(stream));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = stopped.as_mut() => return,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let presented = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = presented.map(|certificate| tls.client(certificate));
            converse(app, router, stream, Peer { address, certificate }, stopped).await;
        }
        Ok(Err(error)) => {
            app.gate.note_refusal("http", "tls");
            tracing::debug!(%error, %address, "no TLS connection");
        }
        Err(_) => app.gate.note_refusal("http", "tls-timeout"),
    }
}

async fn converse<S>(app: Arc<App>, router: Router, stream: S, peer: Peer, stopped: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let header_timeout = app.config.limits.header_timeout;
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, router, peer) = (Arc::clone(&app), router.clone(), peer.clone());
        async move { Ok::<_, Infallible>(respond(&app, router, request, peer).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_headers(HEAD_FIELDS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// One request to one response.
async fn respond(app: &Arc<App>, mut router: Router, request: Request<Incoming>, peer: Peer) -> Response {
    let mut request = request.map(Body::new);
    let correlation = Correlation::of(request.headers());
    let instance = request.uri().path().to_owned();
    let exchange = Exchange::begin(&app.telemetry, &request);
    let outcome = match app.guard.check(request.headers()) {
        Err(refusal) => {
            app.gate.note_refusal("http", "host");
            Ok(refused(refusal))
        }
        Ok(()) => {
            request.extensions_mut().insert(correlation.clone());
            request.extensions_mut().insert(peer);
            // A panic must cost one request, not the connection's neighbours or the answer's form.
            let handler = async { router.call(request).await.unwrap_or_else(|never| match never {}) };
            AssertUnwindSafe(exchange.run(handler)).catch_unwind().await
        }
    };
    let mut response = outcome.unwrap_or_else(|_| {
        tracing::error!(path = %instance, correlation = %correlation.0, "a request panicked");
        refused(Refusal::new(RefusalKind::Internal, "something failed here; the node's log has the detail"))
    });
    if let Some(Carried(refusal)) = response.extensions_mut().remove::<Carried>() {
        if refusal.kind == RefusalKind::Internal {
            tracing::error!(path = %instance, correlation = %correlation.0, detail = %refusal.detail, "internal error");
        }
        let allow = response.headers_mut().remove(http::header::ALLOW);
        let challenge = app.resource.challenge(&refusal, &instance);
        response = problem::render(&refusal, &correlation.0, &instance, allow, challenge);
    }
    if let Ok(value) = HeaderValue::from_str(&correlation.0) {
        response.headers_mut().insert(CORRELATION, value);
    }
    response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    exchange.end(&app.telemetry, &correlation.0, &response);
    response
}

fn refused(refusal: Refusal) -> Response {
    use axum::response::IntoResponse as _;
    problem::Refused(refusal).into_response()
}
