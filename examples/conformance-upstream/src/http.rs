//! The endpoint: what HTTP asks of both eras, then one of them.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Era;
use crate::world::{Out, World};
use crate::{legacy, modern};

pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new().route("/mcp", any(endpoint)).with_state(world)
}

async fn endpoint(State(world): State<Arc<World>>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    if !is_local(&headers) {
        return (StatusCode::FORBIDDEN, "not from here").into_response();
    }
    match (world.era, method) {
        (Era::Modern, Method::POST) => modern::post(world, &headers, &body).await,
        (Era::Legacy, Method::POST) => legacy::post(world, &headers, &body).await,
        (Era::Legacy, Method::GET) => legacy::get(&world, &headers),
        (Era::Legacy, Method::DELETE) => legacy::delete(&world, &headers),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

/// Names of other hosts mean that a browser was led here (DNS rebinding).
fn is_local(headers: &HeaderMap) -> bool {
    let local = |authority: &str| {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        };
        matches!(host, "localhost" | "127.0.0.1" | "[::1]")
    };
    let host = text(headers, "host");
    let origin = text(headers, "origin");
    local(host) && (origin.is_empty() || origin.split_once("://").is_some_and(|(_, authority)| local(authority)))
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// One JSON message.
pub(crate) fn json_response(status: u16, value: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

pub(crate) fn error(id: &Value, code: i64, message: &str, data: Value) -> Value {
    let mut error = json!({ "code": code, "message": message });
    if !data.is_null() {
        error["data"] = data;
    }
    json!({ "jsonrpc": "2.0", "id": id, "error": error })
}

pub(crate) fn result(id: &Value, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

/// A JSON message where the response comes first, a stream of events where anything comes before it.
pub(crate) async fn respond(mut outbox: mpsc::UnboundedReceiver<Out>) -> Response {
    match outbox.recv().await {
        Some(Out::Last(value, status)) => json_response(status, &value),
        Some(Out::Message(first)) => stream(Some(first), outbox),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A stream of events, for as long as there may be more.
pub(crate) fn stream(first: Option<Value>, mut outbox: mpsc::UnboundedReceiver<Out>) -> Response {
    let mut first = first;
    let events = futures_util::stream::poll_fn(move |context| {
        if let Some(first) = first.take() {
            return std::task::Poll::Ready(Some(event(&first)));
        }
        outbox.poll_recv(context).map(|out| {
            out.map(|out| match out {
                Out::Message(value) | Out::Last(value, _) => event(&value),
            })
        })
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(events)).into_response()
}

fn event(value: &Value) -> Result<Bytes, Infallible> {
    Ok(Bytes::from(format!("event: message\ndata: {value}\n\n")))
}
