//! The HTTP surface: wire to domain value, one call of the gate or the ledger, and back. Decides nothing.
//!
//! - [`serve`]: connections, their bounds and their end.
//! - [`peer`], [`resource`]: where a request comes from; how clients learn to be let in.
//! - [`problem`]: the one place where a refusal becomes RFC 9457 problem details.
//! - [`request`]: what every handler needs of a request: caller, correlation id, bounded body.
//! - [`page`]: where a person decides about one request.
//! - `capability`: what the routes of built-in upstreams share.
//! - `tools`, `approvals`, `artifacts`, `audit`, `log`, `admin`, `members`, `replay`, `connections`, `trust`, `sigstore`, `witness`: the handlers; `openapi`: their description.

mod admin;
mod approvals;
mod artifacts;
mod audit;
mod capability;
mod connections;
pub(crate) mod guard;
mod log;
mod members;
mod openapi;
pub(crate) mod page;
pub(crate) mod peer;
pub(crate) mod problem;
mod replay;
pub(crate) mod request;
pub(crate) mod resource;
pub mod serve;
mod sigstore;
pub(crate) mod tools;
mod trust;
mod witness;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use countersign_domain::{Refusal, RefusalKind};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};

use crate::app::App;
use crate::mcp;
use crate::telemetry::exchange::NoteRoute;
use crate::telemetry::metrics;
use problem::Refused;

/// What a handler gives back: an answer, or a refusal that [`problem`] turns into problem details.
pub(crate) type Answered = Result<Response, Refused>;

/// Every route of the node. `openapi` describes each of them; a test compares the two.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics::for_callers))
        .route("/openapi.json", get(openapi::document))
        .route("/schemas/manifest.json", get(manifest_schema))
        .route("/.well-known/jwks.json", get(assertion_keys))
        .route("/tool-catalog", get(tools::catalog))
        .route("/tools/{name}/invoke", post(tools::invoke))
        .route("/tools/{name}/confirm", post(tools::confirm))
        .route("/approvals", get(approvals::list))
        .route("/approvals/{id}", get(approvals::show).post(approvals::answer))
        .route("/approvals/{id}/page", get(page::show).post(page::act))
        .route("/audit/events", get(audit::events).post(artifacts::declare))
        .route("/audit/events/stream", get(audit::stream))
        .route("/receipts/{id}", get(audit::receipt).post(audit::receipt_disclosing))
        .route("/checkpoint", get(log::checkpoint))
        .route("/tile/{*path}", get(log::tile))
        .route("/logs", get(log::shards))
        .route("/logs/{origin}/checkpoint", get(log::checkpoint_of))
        .route("/logs/{origin}/tile/{*path}", get(log::tile_of))
        .route("/.well-known/oauth-protected-resource", get(resource::node))
        .route("/.well-known/oauth-protected-resource/mcp", get(resource::mcp))
        .route("/.well-known/oauth-protected-resource/mcp/{upstream}", get(resource::upstream))
        .route("/mcp", post(mcp::http::all).get(mcp::http::all_stream).delete(mcp::http::end))
        .route("/mcp/{upstream}", post(mcp::http::one).get(mcp::http::one_stream).delete(mcp::http::end))
        .merge(admin::routes())
        .merge(members::routes())
        .merge(replay::routes())
        .merge(connections::routes())
        .merge(trust::routes())
        .merge(sigstore::routes())
        .merge(artifacts::routes())
        .merge(witness::routes())
        .route_layer(NoteRoute)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

async fn health(State(app): State<Arc<App>>) -> Response {
    json_bytes(app.health().to_string().into_bytes())
}

/// For balancers: whether to send requests here. Unlike `/health` it says no by its status.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let health = app.health();
    let mut response = json_bytes(health.to_string().into_bytes());
    if health["status"] != "ok" {
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

async fn manifest_schema() -> Response {
    let body = serde_json::to_vec(&countersign_catalog::Manifest::json_schema()).unwrap_or_default();
    ([(CONTENT_TYPE, "application/schema+json"), (CACHE_CONTROL, "public, max-age=3600")], body).into_response()
}

/// For authorization servers that take the node's word about callers (RFC 7523).
async fn assertion_keys(State(app): State<Arc<App>>) -> Response {
    let body = app.assertion.jwks().to_string();
    ([(CONTENT_TYPE, "application/jwk-set+json"), (CACHE_CONTROL, "public, max-age=3600")], body).into_response()
}

async fn not_found() -> Refused {
    Refused(Refusal::new(RefusalKind::NotFound, "nothing is served at this path; see /openapi.json"))
}

async fn method_not_allowed() -> Refused {
    Refused(Refusal::new(RefusalKind::MethodNotAllowed, "this path does not take that method; see /openapi.json"))
}

/// A JSON answer out of bytes that are JSON already.
pub(crate) fn json_bytes(body: impl Into<bytes::Bytes>) -> Response {
    let mut response = Response::new(axum::body::Body::from(body.into()));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

/// A JSON answer.
pub(crate) fn json(value: &impl serde::Serialize) -> Answered {
    let body = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer could not be written as JSON");
        Refused(Refusal::new(RefusalKind::Internal, "the answer could not be written"))
    })?;
    Ok(json_bytes(body))
}
